//! Looking for nearer rows among the neighbours of neighbours.
//!
//! Dong, Moses, Li, "Efficient k-nearest neighbor graph construction for generic similarity measures", WWW 2011, in
//! rounds: new lists are made from the old lists alone, so the order of the work does not matter.

use super::lists::{Comparing, Lists, filled};
use crate::Error;
use crate::top_k::{TopK, distance, number, pair};

/// Rows whose lists one thread makes at a time.
const BLOCK: usize = 1024;
/// Rows measured together.
const TOGETHER: usize = 16;

/// Makes new lists as often as `rounds` says, or until none changes. Returns how many distances were computed.
pub(super) fn descend(comparing: Comparing<'_>, lists: &mut Lists, rounds: usize) -> Result<u64, Error> {
    let mut computed = 0;
    for _ in 0..rounds {
        let (pairs, count) = round(comparing, lists)?;
        computed += count;
        if !lists.replace(pairs) {
            break;
        }
    }
    Ok(computed)
}

/// New lists in the order of the rows.
fn round(comparing: Comparing<'_>, lists: &Lists) -> Result<(Vec<u64>, u64), Error> {
    let (rows, k) = (lists.rows(), lists.k());
    let mut pairs = vec![0; rows * k];
    if k == 0 {
        return Ok((pairs, 0));
    }
    let linked = linked(comparing, lists)?;
    let linked = |row: usize| {
        let list = &linked[row * 2 * k..][..2 * k];
        list.iter().map(|&other| other as usize).take_while(|&other| other < rows)
    };
    let blocks: Vec<_> = pairs.chunks_mut(BLOCK * k).enumerate().collect();
    let computed = comparing.exec.map(blocks, |(block, out)| {
        let mut computed = 0;
        let mut candidates: Vec<u32> = Vec::new();
        let mut sums = [0.0; TOGETHER];
        for (offset, out) in out.chunks_exact_mut(k).enumerate() {
            let row = block * BLOCK + offset;
            candidates.clear();
            for near in linked(row) {
                candidates.push(near as u32);
                candidates.extend(linked(near).map(|other| other as u32));
            }
            candidates.sort_unstable();
            candidates.dedup();
            let mut top = TopK::from_lists(lists.list(row).to_vec(), k);
            let mut known: Vec<u32> =
                top.row(0).iter().map(|&kept| number(kept)).chain([row as u32]).collect();
            known.sort_unstable();
            candidates.retain(|candidate| known.binary_search(candidate).is_err());
            computed += candidates.len() as u64;
            for some in candidates.chunks(TOGETHER) {
                comparing.simd.gaps(comparing.gap, comparing.rows, row, some, &mut sums);
                for (&other, &sum) in some.iter().zip(&sums) {
                    top.offer(0, pair(sum, other));
                }
            }
            out.copy_from_slice(top.list(0));
        }
        computed
    })?;
    Ok((pairs, computed.into_iter().sum()))
}

/// For each row its neighbours and the nearest of the rows it is a neighbour of, `k` at most of each, in 2 `k` places of
/// which unused ones hold the largest number.
fn linked(comparing: Comparing<'_>, lists: &Lists) -> Result<Vec<u32>, Error> {
    let (rows, k) = (lists.rows(), lists.k());
    let mut back = TopK::new(rows, k);
    for row in 0..rows {
        for &kept in &lists.list(row)[..filled(lists.list(row))] {
            back.offer(number(kept) as usize, pair(distance(kept), row as u32));
        }
    }
    let mut linked = vec![u32::MAX; rows * 2 * k];
    let blocks: Vec<_> = linked.chunks_mut(BLOCK * 2 * k).enumerate().collect();
    comparing.exec.run(blocks, |(block, out)| {
        for (offset, out) in out.chunks_exact_mut(2 * k).enumerate() {
            let row = block * BLOCK + offset;
            let forward = &lists.list(row)[..filled(lists.list(row))];
            for (out, &kept) in out.iter_mut().zip(forward.iter().chain(back.row(row))) {
                *out = number(kept);
            }
        }
    })?;
    Ok(linked)
}
