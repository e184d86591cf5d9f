//! Comparing every row with the rows of its own bucket and of the buckets nearest to it.

use super::partition::Buckets;
use super::refine::{means, near_buckets, nearest_means, pick};
use crate::packed::{Packed, Queries};
use crate::simd::QUERIES;
use crate::top_k::{TopK, distance, number, pair};
use crate::{Error, Exec, Matrix, RaggedVec, Simd};

/// A row ranks at least this many buckets, and this many times as many as it probes.
const RANKED: usize = 32;
const RANKED_PER_PROBE: usize = 4;
/// Rows brought into their final order by one thread at a time.
const BLOCK: usize = 4096;

/// Everything a task needs that searches for the rows of one bucket.
struct Searching<'a> {
    rows: &'a Matrix<'a>,
    buckets: &'a Buckets,
    packed: &'a [Packed],
    means: &'a Packed,
    /// The buckets near each bucket, `ranked` of them.
    near: &'a [u32],
    ranked: usize,
    neighbours: usize,
    probes: usize,
    simd: Simd,
}

/// The neighbours of every row and their distances; adds the distances computed to `computed`.
pub(super) fn search(
    exec: &Exec,
    rows: &Matrix<'_>,
    buckets: &Buckets,
    neighbours: usize,
    probes: usize,
    simd: Simd,
    computed: &mut u64,
) -> Result<(RaggedVec<i32>, Vec<f32>), Error> {
    let count = rows.rows();
    if neighbours == 0 {
        return Ok((RaggedVec::uniform(count, 0, Vec::new())?, Vec::new()));
    }
    let means = means(exec, rows, buckets)?;
    let packed = exec.map(buckets.iter().collect(), |bucket: &[u32]| {
        Packed::new(bucket.iter().map(|&row| rows.row(row as usize)), rows.width())
    })?;
    let probes = probes.min(buckets.len() - 1);
    let ranked = probes.saturating_mul(RANKED_PER_PROBE).max(RANKED).min(buckets.len() - 1);
    let near = near_buckets(exec, &means, rows.width(), ranked, simd)?;
    let searching = Searching {
        rows,
        buckets,
        packed: &packed,
        means: &means,
        near: &near,
        ranked,
        neighbours,
        probes,
        simd,
    };
    // Each task owns the rows of one bucket, and is the only one that writes their results.
    let mut found = vec![0_u64; count * neighbours];
    let mut rest = found.as_mut_slice();
    let mut tasks = Vec::with_capacity(buckets.len());
    for (bucket, members) in buckets.iter().enumerate() {
        let (out, after) = rest.split_at_mut(members.len() * neighbours);
        tasks.push((bucket, out));
        rest = after;
    }
    *computed += exec.map(tasks, |(bucket, out)| searching.bucket(bucket, out))?.into_iter().sum::<u64>();
    drop(packed);

    let mut place = vec![0_u32; count];
    for (at, &row) in buckets.rows().iter().enumerate() {
        place[row as usize] = at as u32;
    }
    let mut numbers = vec![0_i32; found.len()];
    let mut distances = vec![0.0_f32; found.len()];
    let blocks: Vec<_> = place
        .chunks(BLOCK)
        .zip(numbers.chunks_mut(BLOCK * neighbours).zip(distances.chunks_mut(BLOCK * neighbours)))
        .collect();
    exec.run(blocks, |(places, (numbers, distances))| {
        let out = numbers.chunks_exact_mut(neighbours).zip(distances.chunks_exact_mut(neighbours));
        let mut edges = vec![0; neighbours];
        for (&place, (numbers, distances)) in places.iter().zip(out) {
            edges.copy_from_slice(&found[place as usize * neighbours..][..neighbours]);
            for edge in &mut edges {
                *edge = pair(distance(*edge).sqrt(), number(*edge));
            }
            // Different squares may have the same root: the order by row number is that of the roots.
            edges.sort_unstable();
            for (edge, (number_out, distance_out)) in edges.iter().zip(numbers.iter_mut().zip(distances)) {
                *number_out = number(*edge) as i32;
                *distance_out = distance(*edge);
            }
        }
    })?;
    Ok((RaggedVec::uniform(count, neighbours, numbers)?, distances))
}

impl Searching<'_> {
    /// Finds the neighbours of the rows of one bucket; returns how many distances were computed.
    fn bucket(&self, bucket: usize, out: &mut [u64]) -> u64 {
        let members = self.buckets.get(bucket);
        let mut top = TopK::new(members.len(), self.neighbours);
        let everyone: Vec<u32> = (0..members.len() as u32).collect();
        let mut queries = Queries::new(self.rows.width());
        self.scan(&mut queries, members, &everyone, bucket, &mut top);
        let mut computed = members.len() as u64 * members.len() as u64;
        for (target, asking) in self.probed(bucket) {
            self.scan(&mut queries, members, &asking, target as usize, &mut top);
            computed += asking.len() as u64 * self.buckets.get(target as usize).len() as u64;
        }
        for (index, out) in out.chunks_exact_mut(self.neighbours).enumerate() {
            out.copy_from_slice(top.row(index));
        }
        computed
    }

    /// Which buckets are probed, nearest to the home bucket first, and for which members (by index, ascending).
    fn probed(&self, bucket: usize) -> Vec<(u32, Vec<u32>)> {
        let members = self.buckets.get(bucket);
        let size = |target: u32| self.buckets.get(target as usize).len();
        let near = &self.near[bucket * self.ranked..][..self.ranked];
        let enough = members.len() + near.iter().map(|&target| size(target)).sum::<usize>() > self.neighbours;
        // Only where neighbours are many and buckets tiny do the ranked buckets not suffice.
        let all: Vec<u32>;
        let near = if enough {
            near
        } else {
            all = (0..self.buckets.len() as u32).filter(|&target| target as usize != bucket).collect();
            &all
        };
        let mut asking = vec![Vec::new(); near.len()];
        if self.probes >= near.len() {
            asking.fill((0..members.len() as u32).collect());
        } else {
            let near_means = pick(self.means, near, self.rows.width());
            // The probed buckets are enough, whichever they are; or else so many are ranked that some are.
            let fewest = near.iter().map(|&target| size(target)).min().unwrap_or(0);
            let enough = members.len() + self.probes * fewest > self.neighbours;
            let count = if enough { self.probes } else { near.len() };
            if count > 0 {
                nearest_means(self.rows, members, &near_means, count, self.simd, |member, ranked| {
                    let mut reached = members.len();
                    for (rank, &target) in ranked.iter().enumerate() {
                        if rank >= self.probes && reached > self.neighbours {
                            break;
                        }
                        let target = number(target) as usize;
                        reached += size(near[target]);
                        asking[target].push(member as u32);
                    }
                });
            }
        }
        near.iter().copied().zip(asking).filter(|(_, asking)| !asking.is_empty()).collect()
    }

    /// Compares the asking members with every row of the target bucket.
    fn scan(&self, queries: &mut Queries, members: &[u32], asking: &[u32], target: usize, top: &mut TopK) {
        let others = self.buckets.get(target);
        for asking in asking.chunks(QUERIES) {
            let mut limits = [-1.0; QUERIES];
            for (query, &member) in asking.iter().enumerate() {
                queries.set(query, self.rows.row(members[member as usize] as usize));
                limits[query] = top.limit(member as usize);
            }
            let packed = self.packed[target].values();
            self.simd.scan(
                queries.values(),
                packed,
                self.rows.width(),
                &mut limits,
                |query, other, distance| {
                    let member = asking[query] as usize;
                    if others[other] == members[member] {
                        return top.limit(member);
                    }
                    top.offer(member, pair(distance, others[other]))
                },
            );
        }
    }
}
