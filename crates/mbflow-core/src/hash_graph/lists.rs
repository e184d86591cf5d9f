//! The nearest rows found so far for every row, kept in the order in which they are worked on.

use super::partition::Buckets;
use crate::packed::{Packed, Queries};
use crate::simd::{Gap, QUERIES};
use crate::top_k::{NONE, TopK, distance, number, pair};
use crate::{Error, Exec, Matrix, Metric, RaggedVec, Simd};

/// Rows brought into their final order by one thread at a time.
const BLOCK: usize = 4096;

/// Lists of `k` (sum, row) pairs each, smallest first, in the order of `places`.
pub(crate) struct Lists {
    k: usize,
    pairs: Vec<u64>,
    /// Where each row's list stands.
    places: Vec<u32>,
}

/// What a comparison of rows needs besides their lists.
#[derive(Clone, Copy)]
pub(crate) struct Comparing<'a> {
    pub(crate) exec: &'a Exec,
    pub(crate) rows: &'a Matrix<'a>,
    pub(crate) gap: Gap,
    pub(crate) simd: Simd,
}

impl Lists {
    /// Empty lists.
    pub(crate) fn new(rows: usize, k: usize) -> Self {
        Self { k, pairs: vec![NONE; rows * k], places: (0..rows as u32).collect() }
    }

    /// Lists that stand in the order of `order`.
    pub(crate) fn in_order(pairs: Vec<u64>, k: usize, order: &[u32]) -> Self {
        Self { k, pairs, places: places(order) }
    }

    pub(crate) fn rows(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// Puts lists in the order of the rows in the place of these; says whether any differs.
    pub(crate) fn replace(&mut self, pairs: Vec<u64>) -> bool {
        let differs =
            self.k > 0 && pairs.chunks_exact(self.k).enumerate().any(|(row, list)| self.list(row) != list);
        self.pairs = pairs;
        self.places = (0..self.places.len() as u32).collect();
        differs
    }

    /// The list of one row, with [`NONE`] in unused places.
    pub(crate) fn list(&self, row: usize) -> &[u64] {
        &self.pairs[self.places[row] as usize * self.k..][..self.k]
    }

    /// Compares all rows of each of the first `compared` buckets with each other; the rest keep their lists. Returns
    /// how many distances were computed.
    pub(crate) fn compare(
        &mut self,
        comparing: Comparing<'_>,
        buckets: &Buckets,
        compared: usize,
    ) -> Result<u64, Error> {
        if self.k == 0 {
            return Ok(0);
        }
        let mut pairs = vec![0_u64; self.pairs.len()];
        let mut rest = pairs.as_mut_slice();
        let mut tasks = Vec::with_capacity(buckets.len());
        for (bucket, members) in buckets.iter().enumerate() {
            let (out, after) = rest.split_at_mut(members.len() * self.k);
            tasks.push((members, out, bucket < compared));
            rest = after;
        }
        let computed = comparing.exec.map(tasks, |(members, out, is_compared)| {
            for (&row, out) in members.iter().zip(out.chunks_exact_mut(self.k)) {
                out.copy_from_slice(self.list(row as usize));
            }
            if !is_compared {
                return 0;
            }
            comparing.among(members, self.k, out);
            members.len() as u64 * members.len() as u64
        })?;
        self.pairs = pairs;
        self.places = places(buckets.rows());
        Ok(computed.into_iter().sum())
    }

    /// The neighbours and distances of every row: by distance, equal distances by row number.
    pub(crate) fn into_graph(self, exec: &Exec, metric: Metric) -> Result<(RaggedVec<i32>, Vec<f32>), Error> {
        let (rows, k) = (self.rows(), self.k);
        let filled = exec.map((0..rows.div_ceil(BLOCK)).collect(), |block| {
            let block = block * BLOCK..rows.min((block + 1) * BLOCK);
            block.map(|row| filled(self.list(row)) as u32).collect::<Vec<_>>()
        })?;
        let filled = filled.concat();
        let edges = filled.iter().map(|&count| count as usize).sum();
        let mut numbers = vec![0_i32; edges];
        let mut distances = vec![0.0_f32; edges];
        let (mut rest, mut rest_distances) = (numbers.as_mut_slice(), distances.as_mut_slice());
        let mut tasks = Vec::new();
        for (block, filled) in filled.chunks(BLOCK).enumerate() {
            let edges = filled.iter().map(|&count| count as usize).sum();
            let (numbers, after) = rest.split_at_mut(edges);
            let (distances, after_distances) = rest_distances.split_at_mut(edges);
            tasks.push((block * BLOCK, filled, numbers, distances));
            (rest, rest_distances) = (after, after_distances);
        }
        exec.run(tasks, |(first, filled, numbers, distances)| {
            let mut edges = Vec::with_capacity(k);
            let mut at = 0;
            for (offset, &count) in filled.iter().enumerate() {
                let kept = &self.list(first + offset)[..count as usize];
                edges.clear();
                edges.extend(kept.iter().map(|&kept| pair(metric.distance(distance(kept)), number(kept))));
                // Different sums may stand for the same distance: the order by row number is that of the distances.
                edges.sort_unstable();
                for &edge in &edges {
                    numbers[at] = number(edge) as i32;
                    distances[at] = distance(edge);
                    at += 1;
                }
            }
        })?;
        let ends = filled.iter().scan(0, |end, &count| {
            *end += i64::from(count);
            Some(*end)
        });
        let offsets = std::iter::once(0).chain(ends).collect();
        Ok((RaggedVec::from_parts(offsets, numbers)?, distances))
    }
}

/// How many places of a list are used.
pub(crate) fn filled(list: &[u64]) -> usize {
    list.partition_point(|&kept| kept < NONE)
}

fn places(order: &[u32]) -> Vec<u32> {
    let mut places = vec![0; order.len()];
    for (place, &row) in order.iter().enumerate() {
        places[row as usize] = place as u32;
    }
    places
}

impl Comparing<'_> {
    /// Brings into `lists`, of `k` pairs for each member, the nearest of the other members.
    fn among(self, members: &[u32], k: usize, lists: &mut [u64]) {
        let width = self.rows.width();
        let packed = Packed::new(members.iter().map(|&row| self.rows.row(row as usize)), width);
        let mut queries = Queries::new(width);
        for (asking, lists) in members.chunks(QUERIES).zip(lists.chunks_mut(QUERIES * k)) {
            let mut top = TopK::from_lists(lists.to_vec(), k);
            let mut limits = [-1.0; QUERIES];
            for (query, &row) in asking.iter().enumerate() {
                queries.set(query, self.rows.row(row as usize));
                limits[query] = top.limit(query);
            }
            self.simd.scan(
                self.gap,
                queries.values(),
                packed.values(),
                width,
                &mut limits,
                |query, other, distance| {
                    if members[other] == asking[query] {
                        return top.limit(query);
                    }
                    top.offer_again(query, pair(distance, members[other]))
                },
            );
            lists.copy_from_slice(top.lists());
        }
    }
}
