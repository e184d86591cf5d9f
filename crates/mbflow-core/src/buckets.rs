//! Items in buckets: each bucket in a keyed order of its own, of which any stretch is found without the ones before.

use crate::permutation::KeyedPermutation;
use crate::seed::stream;
use crate::{Error, Exec, Ragged, Seed};

/// Stretches are looked up in groups of about this many items by one thread.
const BLOCK: u64 = 1 << 14;

/// A part of the keyed order of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The bucket.
    pub bucket: u32,
    /// The first place of the stretch.
    pub first: u64,
    /// The place after its last.
    pub last: u64,
}

/// The items of `stretches`, one after the other, where row `b` of `buckets` holds the items of bucket `b`.
///
/// The order of bucket `b` is the [`KeyedPermutation`] of the `b`-th seed that is derived from `seed`. O(items asked
/// for), for any number of threads the same.
///
/// # Errors
///
/// [`Error::InvalidArgument`] for a stretch outside its bucket; [`Error::Interrupted`] when the caller asks to stop.
///
/// ```
/// use mbflow_core::{Exec, Ragged, Seed, Stretch, bucket_items};
///
/// let buckets = Ragged::new(&[0, 1, 4], &[7, 4, 5, 6])?;
/// let whole = Stretch { bucket: 1, first: 0, last: 3 };
/// let mut items = bucket_items(&Exec::serial(), buckets, Seed(0), &[whole])?;
/// items.sort_unstable();
/// assert_eq!(items, [4, 5, 6]);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
pub fn bucket_items(
    exec: &Exec,
    buckets: Ragged<'_, u32>,
    seed: Seed,
    stretches: &[Stretch],
) -> Result<Vec<i64>, Error> {
    let mut total = 0_u64;
    for stretch in stretches {
        let Stretch { bucket, first, last } = *stretch;
        let size =
            if (bucket as usize) < buckets.len() { buckets.row(bucket as usize).len() as u64 } else { 0 };
        if first > last || last > size {
            let message = format!("{first} to {last} of bucket {bucket}, which has {size} items");
            return Err(Error::argument("stretches", message));
        }
        total += last - first;
    }
    let mut items = vec![0_i64; total as usize];
    let mut work = Vec::new();
    let mut rest = items.as_mut_slice();
    let mut group = Vec::new();
    let mut held = 0;
    for &stretch in stretches {
        let (own, after) = rest.split_at_mut((stretch.last - stretch.first) as usize);
        held += own.len() as u64;
        group.push((stretch, own));
        rest = after;
        if held >= BLOCK {
            work.push(std::mem::take(&mut group));
            held = 0;
        }
    }
    work.push(group);
    exec.run(work, |group| {
        for (stretch, out) in group {
            let bucket = buckets.row(stretch.bucket as usize);
            let seed = seed.derive(u64::from(stretch.bucket));
            let order = KeyedPermutation::of_checked(seed, stream::BUCKETS, bucket.len() as u64);
            for (place, out) in (stretch.first..stretch.last).zip(out) {
                *out = i64::from(bucket[order.at(place) as usize]);
            }
        }
    })?;
    Ok(items)
}

/// The bucket of each length: how many of the `edges` are below it, so that an edge belongs to its bucket.
///
/// O(lengths · log edges), for any number of threads the same.
///
/// # Errors
///
/// [`Error::InvalidArgument`] for edges that do not rise; [`Error::Interrupted`] when the caller asks to stop.
///
/// ```
/// use mbflow_core::{Exec, bucket_of};
///
/// assert_eq!(bucket_of(&Exec::serial(), &[1.0, 2.0, 2.5, 9.0], &[2.0, 4.0])?, [0, 0, 1, 2]);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
pub fn bucket_of(exec: &Exec, lengths: &[f32], edges: &[f64]) -> Result<Vec<u32>, Error> {
    if !edges.is_sorted_by(|below, above| below < above) {
        return Err(Error::argument("edges", "expected edges that rise"));
    }
    let mut buckets = vec![0_u32; lengths.len()];
    let block = BLOCK as usize;
    let work = buckets.chunks_mut(block).zip(lengths.chunks(block)).collect();
    exec.run(work, |(buckets, lengths): (&mut [u32], &[f32])| {
        for (bucket, &length) in buckets.iter_mut().zip(lengths) {
            *bucket = edges.partition_point(|&edge| edge < f64::from(length)) as u32;
        }
    })?;
    Ok(buckets)
}
