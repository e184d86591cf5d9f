//! Moving rows to the bucket with the nearest mean, and finding the buckets near a bucket.

use super::HashGraph;
use super::lists::Comparing;
use super::partition::{Buckets, Codes, Dividing};
use crate::packed::{Packed, Queries};
use crate::simd::{Gap, LANES, QUERIES};
use crate::top_k::{number, pair};
use crate::{Error, Exec, Matrix, Simd};

/// Buckets that a row looks at when it moves, besides its own.
const NEAR: usize = 31;
/// The seed of splits after the last refinement.
const SEED_RESPLITS: u64 = 2;

/// The mean row of every bucket, summed in float64 in the order of the rows.
pub(super) fn means(exec: &Exec, rows: &Matrix<'_>, buckets: &Buckets) -> Result<Packed, Error> {
    let width = rows.width();
    let means = exec.map(buckets.iter().collect(), |bucket: &[u32]| {
        let mut sums = vec![0.0_f64; width];
        for &row in bucket {
            for (sum, &value) in sums.iter_mut().zip(rows.row(row as usize)) {
                *sum += f64::from(value);
            }
        }
        sums.into_iter().map(|sum| (sum / bucket.len() as f64) as f32).collect::<Vec<_>>()
    })?;
    Ok(Packed::new(means.iter().map(Vec::as_slice), width))
}

/// A table of distances of eight queries, to be filled and read row by row.
pub(super) struct Table {
    values: Vec<f32>,
    padded: usize,
}

impl Table {
    /// For up to `rows` rows.
    pub(super) fn new(rows: usize) -> Self {
        let padded = rows.next_multiple_of(LANES);
        Self { values: vec![0.0; QUERIES * padded], padded }
    }

    /// The distances of every query to `rows`, which are as many as the table is for.
    pub(super) fn fill(&mut self, simd: Simd, gap: Gap, queries: &Queries, rows: &Packed, width: usize) {
        simd.distances(gap, queries.values(), rows.values(), width, &mut self.values);
    }

    /// The distances of one query.
    pub(super) fn row(&self, query: usize, rows: usize) -> &[f32] {
        &self.values[query * self.padded..][..rows]
    }
}

/// For every bucket the `count` others with the nearest means, nearest first: `count` (distance, number) pairs a bucket.
pub(super) fn near_buckets(
    exec: &Exec,
    means: &Packed,
    width: usize,
    count: usize,
    gap: Gap,
    simd: Simd,
) -> Result<Vec<u64>, Error> {
    let mut near = vec![0; means.rows() * count];
    if count == 0 {
        return Ok(near);
    }
    let groups: Vec<_> = near.chunks_mut(QUERIES * count).enumerate().collect();
    exec.run(groups, |(group, near)| {
        let mut queries = Queries::new(width);
        let mut row = vec![0.0; width];
        let first = group * QUERIES;
        for query in 0..near.len() / count {
            means.copy_row(first + query, &mut row);
            queries.set(query, &row);
        }
        let mut table = Table::new(means.rows());
        table.fill(simd, gap, &queries, means, width);
        for (query, near) in near.chunks_exact_mut(count).enumerate() {
            let all = table.row(query, means.rows()).iter().zip(0..);
            let mut pairs: Vec<u64> = all.map(|(&distance, other)| pair(distance, other)).collect();
            pairs.swap_remove(first + query);
            if count < pairs.len() {
                pairs.select_nth_unstable(count - 1);
            }
            pairs[..count].sort_unstable();
            near.copy_from_slice(&pairs[..count]);
        }
    })?;
    Ok(near)
}

/// Refines buckets as `settings` say; returns them, none above the cap, and how many moves there were.
pub(super) fn refine(
    Comparing { exec, rows, gap, .. }: Comparing<'_>,
    mut buckets: Buckets,
    settings: &HashGraph,
) -> Result<(Buckets, usize), Error> {
    let mut moves = 0;
    for _ in 0..settings.refinements {
        if buckets.len() == 1 {
            break;
        }
        let count;
        (buckets, count) = move_rows(exec, rows, &buckets, gap, settings.simd)?;
        moves += count;
        if count == 0 {
            break;
        }
    }
    let dividing = Dividing {
        exec,
        rows,
        cap: settings.bucket_cap,
        minimum: 1,
        codes: &Codes::None,
        simd: settings.simd,
    };
    let seed = settings.seed.derive(SEED_RESPLITS);
    Ok((dividing.divide_buckets(buckets, 0, seed)?, moves))
}

/// Moves every row to the bucket with the nearest mean among its own and those near it; a tie leaves it where it is.
fn move_rows(
    exec: &Exec,
    rows: &Matrix<'_>,
    buckets: &Buckets,
    gap: Gap,
    simd: Simd,
) -> Result<(Buckets, usize), Error> {
    let width = rows.width();
    let means = means(exec, rows, buckets)?;
    let count = NEAR.min(buckets.len() - 1);
    let near = near_buckets(exec, &means, width, count, gap, simd)?;
    let chosen = exec.map((0..buckets.len()).collect(), |bucket| {
        let others = near[bucket * count..][..count].iter().map(|&near| number(near));
        let looked_at: Vec<u32> = std::iter::once(bucket as u32).chain(others).collect();
        let looked_at_means = pick(&means, &looked_at, width);
        let mut chosen = Vec::with_capacity(buckets.get(bucket).len());
        distances_to(rows, buckets.get(bucket), &looked_at_means, gap, simd, |_, distances| {
            let mut nearest = 0;
            for (index, &distance) in distances.iter().enumerate() {
                nearest = if distance < distances[nearest] { index } else { nearest };
            }
            chosen.push(looked_at[nearest]);
        });
        chosen
    })?;
    let mut sizes = vec![0; buckets.len()];
    let mut bucket_of = vec![0; rows.rows()];
    let mut moved = 0;
    for (bucket, (members, chosen)) in buckets.iter().zip(chosen).enumerate() {
        for (&row, chosen) in members.iter().zip(chosen) {
            bucket_of[row as usize] = chosen;
            sizes[chosen as usize] += 1;
            moved += usize::from(chosen as usize != bucket);
        }
    }
    let mut ends = vec![0; sizes.len()];
    for bucket in 1..sizes.len() {
        ends[bucket] = ends[bucket - 1] + sizes[bucket - 1];
    }
    let mut order = vec![0; rows.rows()];
    for (row, &bucket) in bucket_of.iter().enumerate() {
        order[ends[bucket as usize]] = row as u32;
        ends[bucket as usize] += 1;
    }
    Ok((Buckets::new(sizes.into_iter().filter(|&size| size > 0), order), moved))
}

/// The means of the given buckets, in that order.
pub(super) fn pick(means: &Packed, buckets: &[u32], width: usize) -> Packed {
    let mut values = vec![0.0; buckets.len() * width];
    for (&bucket, out) in buckets.iter().zip(values.chunks_exact_mut(width)) {
        means.copy_row(bucket as usize, out);
    }
    Packed::new(values.chunks_exact(width), width)
}

/// Hands `take` for each of `members`, in order, its index and its distances to the means.
pub(super) fn distances_to(
    rows: &Matrix<'_>,
    members: &[u32],
    means: &Packed,
    gap: Gap,
    simd: Simd,
    mut take: impl FnMut(usize, &[f32]),
) {
    let mut queries = Queries::new(rows.width());
    let mut table = Table::new(means.rows());
    for (group, members) in members.chunks(QUERIES).enumerate() {
        for (query, &row) in members.iter().enumerate() {
            queries.set(query, rows.row(row as usize));
        }
        table.fill(simd, gap, &queries, means, rows.width());
        for query in 0..members.len() {
            take(group * QUERIES + query, table.row(query, means.rows()));
        }
    }
}
