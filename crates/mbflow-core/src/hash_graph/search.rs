//! Comparing every row with the rows of its own bucket and of the buckets nearest to it.

use super::lists::{Comparing, Lists};
use super::partition::Buckets;
use super::refine::{distances_to, means, near_buckets, pick};
use crate::packed::{Packed, Queries};
use crate::simd::{Gap, QUERIES};
use crate::top_k::{TopK, number, pair};
use crate::{Error, Matrix, Simd};

/// A row ranks at least this many buckets, and this many times as many as it probes.
const RANKED: usize = 32;
const RANKED_PER_PROBE: usize = 4;

/// Everything a task needs that searches for the rows of one bucket.
struct Searching<'a> {
    rows: &'a Matrix<'a>,
    buckets: &'a Buckets,
    packed: &'a [Packed],
    means: &'a Packed,
    /// The buckets near each bucket, `ranked` of them.
    near: &'a [u64],
    ranked: usize,
    neighbours: usize,
    probes: usize,
    gap: Gap,
    simd: Simd,
}

/// The nearest rows of every row; adds the distances computed to `computed`.
pub(super) fn search(
    Comparing { exec, rows, gap, simd }: Comparing<'_>,
    buckets: &Buckets,
    neighbours: usize,
    probes: usize,
    computed: &mut u64,
) -> Result<Lists, Error> {
    let count = rows.rows();
    if neighbours == 0 {
        return Ok(Lists::new(count, 0));
    }
    let means = means(exec, rows, buckets)?;
    let packed = exec.map(buckets.iter().collect(), |bucket: &[u32]| {
        Packed::new(bucket.iter().map(|&row| rows.row(row as usize)), rows.width())
    })?;
    let probes = probes.min(buckets.len() - 1);
    let ranked = probes.saturating_mul(RANKED_PER_PROBE).max(RANKED).min(buckets.len() - 1);
    let near = near_buckets(exec, &means, rows.width(), ranked, gap, simd)?;
    let searching = Searching {
        rows,
        buckets,
        packed: &packed,
        means: &means,
        near: &near,
        ranked,
        neighbours,
        probes,
        gap,
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

    Ok(Lists::in_order(found, neighbours, buckets.rows()))
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
            out.copy_from_slice(top.list(index));
        }
        computed
    }

    /// Which buckets are probed, nearest to the home bucket first, and for which members (by index, ascending).
    fn probed(&self, bucket: usize) -> Vec<(u32, Vec<u32>)> {
        let members = self.buckets.get(bucket);
        let size = |target: u32| self.buckets.get(target as usize).len();
        let ranked = self.near[bucket * self.ranked..][..self.ranked].iter().map(|&near| number(near));
        let near: Vec<u32> = if members.len() + ranked.clone().map(size).sum::<usize>() > self.neighbours {
            ranked.collect()
        } else {
            // Only where neighbours are many and buckets tiny do the ranked buckets not suffice.
            (0..self.buckets.len() as u32).filter(|&target| target as usize != bucket).collect()
        };
        let mut asking = vec![Vec::new(); near.len()];
        if self.probes >= near.len() {
            asking.fill((0..members.len() as u32).collect());
        } else {
            let near_means = pick(self.means, &near, self.rows.width());
            // The probed buckets are enough, whichever they are; or else so many more are looked into that they are.
            let fewest = near.iter().map(|&target| size(target)).min().unwrap_or(0);
            let enough = members.len() + self.probes * fewest > self.neighbours;
            let mut pairs: Vec<u64> = Vec::with_capacity(near.len());
            distances_to(self.rows, members, &near_means, self.gap, self.simd, |member, distances| {
                pairs.clear();
                pairs.extend(distances.iter().zip(0..).map(|(&distance, target)| pair(distance, target)));
                if enough {
                    if self.probes > 0 {
                        pairs.select_nth_unstable(self.probes - 1);
                    }
                    pairs.truncate(self.probes);
                } else {
                    pairs.sort_unstable();
                }
                let mut reached = members.len();
                for (rank, &target) in pairs.iter().enumerate() {
                    if rank >= self.probes && reached > self.neighbours {
                        break;
                    }
                    let target = number(target) as usize;
                    reached += size(near[target]);
                    asking[target].push(member as u32);
                }
            });
        }
        near.into_iter().zip(asking).filter(|(_, asking)| !asking.is_empty()).collect()
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
                self.gap,
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
