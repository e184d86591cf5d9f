//! Edges that stand in the list several times.

use super::NO_ROW;
use super::build::{Part, Ranges};
use crate::{Error, Exec};

/// What becomes of edges with the same source and target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Duplicates<'a> {
    /// All of them stay.
    Keep,
    /// The first of them stays.
    Drop,
    /// The first of them stays and weighs as many as there were, or as much as the weights of their rows together.
    Count(Option<&'a [f32]>),
}

/// A part with the weights to fill in.
struct Weighed<'a>(Part<'a>, Option<&'a mut [f32]>);

/// Moves what stays of each part to its front, and makes its ends count from its start.
pub(super) fn merge(
    exec: &Exec,
    parts: Vec<Part<'_>>,
    duplicates: Duplicates<'_>,
) -> Result<Option<Vec<f32>>, Error> {
    let Duplicates::Count(given) = duplicates else {
        exec.run(parts, |part| merge_part(Weighed(part, None), None))?;
        return Ok(None);
    };
    let edges = parts.iter().map(|part| part.sources.len()).sum();
    let mut weights = vec![0.0_f32; edges];
    let mut left = &mut weights[..];
    let parts = parts
        .into_iter()
        .map(|part| {
            let own = left.split_off_mut(..part.sources.len()).unwrap_or_default();
            Weighed(part, Some(own))
        })
        .collect();
    exec.run(parts, |part| merge_part(part, given))?;
    Ok(Some(weights))
}

fn merge_part(Weighed(part, mut weights): Weighed<'_>, given: Option<&[f32]>) {
    let Part { start, ends, sources, rows, .. } = part;
    let (mut begin, mut kept) = (0, 0);
    for node_end in ends {
        let end = (*node_end - start) as usize;
        let mut at = begin;
        while at < end {
            let source = sources[at];
            let same = sources[at..end].iter().take_while(|&&other| other == source).count();
            if let Some(weights) = &mut weights {
                weights[kept] = match given {
                    None => same as f32,
                    Some(given) => total(&rows[at..at + same], given),
                };
            }
            sources[kept] = source;
            if let Some(&row) = rows.get(at) {
                rows[kept] = row;
            }
            kept += 1;
            at += same;
        }
        *node_end = kept as u64;
        begin = end;
    }
}

fn total(rows: &[u32], given: &[f32]) -> f32 {
    let weight = |&row: &u32| if row == NO_ROW { 1.0 } else { f64::from(given[row as usize]) };
    rows.iter().map(weight).sum::<f64>() as f32
}

/// Moves the parts together, once each holds what stays at its front.
pub(super) fn close_gaps(
    ranges: &Ranges,
    offsets: &mut [u64],
    (sources, rows, mut weights): (&mut Vec<u32>, &mut Vec<u32>, Option<&mut Vec<f32>>),
) {
    let mut kept = 0;
    for (ends, &start) in offsets[1..].chunks_mut(ranges.width()).zip(&ranges.starts) {
        let length = ends.last().map_or(0, |&end| end as usize);
        let from = start as usize..start as usize + length;
        sources.copy_within(from.clone(), kept);
        if !rows.is_empty() {
            rows.copy_within(from.clone(), kept);
        }
        if let Some(weights) = &mut weights {
            weights.copy_within(from, kept);
        }
        for end in ends {
            *end += kept as u64;
        }
        kept += length;
    }
    sources.truncate(kept);
    sources.shrink_to_fit();
    rows.truncate(kept);
    rows.shrink_to_fit();
    if let Some(weights) = weights {
        weights.truncate(kept);
        weights.shrink_to_fit();
    }
}
