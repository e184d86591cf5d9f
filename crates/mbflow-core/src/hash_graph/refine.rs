//! Moving rows to the bucket with the nearest mean, and finding the buckets near a bucket.

use super::HashGraph;
use super::partition::{Buckets, Codes, Dividing};
use crate::packed::{Packed, Queries};
use crate::simd::QUERIES;
use crate::top_k::{TopK, number, pair};
use crate::{Error, Exec, Matrix, Seed, Simd};

/// Buckets that a row looks at when it moves, besides its own.
const NEAR: usize = 32;
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

/// For every bucket the `count` others with the nearest means, nearest first: `count` numbers a bucket.
pub(super) fn near_buckets(
    exec: &Exec,
    means: &Packed,
    width: usize,
    count: usize,
    simd: Simd,
) -> Result<Vec<u32>, Error> {
    let mut near = vec![0; means.rows() * count];
    if count == 0 {
        return Ok(near);
    }
    let groups: Vec<_> = near.chunks_mut(QUERIES * count).enumerate().collect();
    exec.run(groups, |(group, near)| {
        let mut queries = Queries::new(width);
        let mut row = vec![0.0; width];
        let first = group * QUERIES;
        let present = near.len() / count;
        let mut limits = [-1.0; QUERIES];
        for (query, limit) in limits.iter_mut().take(present).enumerate() {
            means.copy_row(first + query, &mut row);
            queries.set(query, &row);
            *limit = f32::INFINITY;
        }
        let mut top = TopK::new(present, count);
        simd.scan(queries.values(), means.values(), width, &mut limits, |query, other, distance| {
            if other == first + query {
                return top.limit(query);
            }
            top.offer(query, pair(distance, other as u32))
        });
        for (query, near) in near.chunks_exact_mut(count).enumerate() {
            for (near, &kept) in near.iter_mut().zip(top.row(query)) {
                *near = number(kept);
            }
        }
    })?;
    Ok(near)
}

/// Refines buckets as `settings` say; returns them, none above the cap, and how many moves there were.
pub(super) fn refine(
    exec: &Exec,
    rows: &Matrix<'_>,
    mut buckets: Buckets,
    settings: &HashGraph,
) -> Result<(Buckets, usize), Error> {
    let mut moves = 0;
    for _ in 0..settings.refinements {
        if buckets.len() == 1 {
            break;
        }
        let count;
        (buckets, count) = move_rows(exec, rows, &buckets, settings.simd)?;
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
    let seed = Seed(settings.seed.0).derive(SEED_RESPLITS);
    Ok((dividing.divide_buckets(buckets, seed)?, moves))
}

/// Moves every row to the bucket with the nearest mean among its own and those near it; a tie leaves it where it is.
fn move_rows(
    exec: &Exec,
    rows: &Matrix<'_>,
    buckets: &Buckets,
    simd: Simd,
) -> Result<(Buckets, usize), Error> {
    let width = rows.width();
    let means = means(exec, rows, buckets)?;
    let count = NEAR.min(buckets.len() - 1);
    let near = near_buckets(exec, &means, width, count, simd)?;
    let chosen = exec.map((0..buckets.len()).collect(), |bucket| {
        let looked_at: Vec<u32> =
            std::iter::once(bucket as u32).chain(near[bucket * count..][..count].iter().copied()).collect();
        let looked_at_means = pick(&means, &looked_at, width);
        let mut chosen = Vec::with_capacity(buckets.get(bucket).len());
        nearest_means(rows, buckets.get(bucket), &looked_at_means, 1, simd, |_, nearest| {
            chosen.push(looked_at[number(nearest[0]) as usize]);
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

/// Hands `take` for each of `members`, in order, its index and its `count` nearest means as (distance, index) pairs.
pub(super) fn nearest_means(
    rows: &Matrix<'_>,
    members: &[u32],
    means: &Packed,
    count: usize,
    simd: Simd,
    mut take: impl FnMut(usize, &[u64]),
) {
    let mut queries = Queries::new(rows.width());
    for (group, members) in members.chunks(QUERIES).enumerate() {
        let mut limits = [-1.0; QUERIES];
        for (query, &row) in members.iter().enumerate() {
            queries.set(query, rows.row(row as usize));
            limits[query] = f32::INFINITY;
        }
        let mut top = TopK::new(members.len(), count);
        simd.scan(queries.values(), means.values(), rows.width(), &mut limits, |query, mean, distance| {
            top.offer(query, pair(distance, mean as u32))
        });
        for query in 0..members.len() {
            take(group * QUERIES + query, top.row(query));
        }
    }
}
