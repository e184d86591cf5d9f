//! What must hold of columns that come from elsewhere, such as a stored file.

use crate::{Error, Exec};

/// Values looked at between two looks at the caller's wish to stop.
const BLOCK: usize = 1 << 20;

/// Checks that offsets start at 0, never fall, and end at the number of edges.
///
/// # Errors
///
/// [`Error::InvalidArgument`] naming the first node whose offset is wrong; [`Error::Interrupted`] when the caller asks
/// to stop.
///
/// ```
/// use mbflow_core::{Exec, check_offsets};
///
/// assert!(check_offsets(&Exec::serial(), &[0, 2, 3], 3).is_ok());
/// assert!(check_offsets(&Exec::serial(), &[0, 4, 3], 3).is_err());
/// ```
pub fn check_offsets(exec: &Exec, offsets: &[u64], edges: u64) -> Result<(), Error> {
    let (Some(&first), Some(&last)) = (offsets.first(), offsets.last()) else {
        return Err(Error::argument("offsets", "expected at least one offset, got none"));
    };
    if first != 0 {
        return Err(Error::argument("offsets", format!("expected to start at 0, got {first}")));
    }
    let blocks: Vec<(usize, &[u64])> = offsets.chunks(BLOCK).enumerate().collect();
    let falls = exec.map(blocks, |(index, block)| {
        // The pair of neighbours that lies across two blocks belongs to the first of them.
        let start = index * BLOCK;
        let pairs = &offsets[start..(start + block.len() + 1).min(offsets.len())];
        // Counted without a branch for each pair, so that it keeps up with memory.
        if pairs.windows(2).map(|pair| usize::from(pair[0] > pair[1])).sum::<usize>() == 0 {
            return None;
        }
        pairs.windows(2).position(|pair| pair[0] > pair[1]).map(|at| start + at)
    })?;
    if let Some(node) = falls.into_iter().flatten().next() {
        let message = format!("node {node} ends at {} before its start {}", offsets[node + 1], offsets[node]);
        return Err(Error::argument("offsets", message));
    }
    if last != edges {
        let message = format!("expected to end at the number of edges, {edges}, got {last}");
        return Err(Error::argument("offsets", message));
    }
    Ok(())
}

/// Checks that sources are below the number of nodes they are drawn from.
///
/// # Errors
///
/// [`Error::InvalidArgument`] naming the first edge whose source is not; [`Error::Interrupted`] when the caller asks to
/// stop.
///
/// ```
/// use mbflow_core::{Exec, check_sources};
///
/// assert!(check_sources(&Exec::serial(), &[0, 2], 2).is_err());
/// ```
pub fn check_sources(exec: &Exec, sources: &[u32], source_nodes: u64) -> Result<(), Error> {
    let most = exec
        .map(sources.chunks(BLOCK).collect(), |block| block.iter().copied().max().unwrap_or(0))?
        .into_iter()
        .max();
    if most.is_none_or(|most| u64::from(most) < source_nodes) {
        return Ok(());
    }
    let edge = sources.iter().position(|&source| u64::from(source) >= source_nodes).unwrap_or(0);
    let message =
        format!("edge {edge} comes from node {}, and there are {source_nodes} to come from", sources[edge]);
    Err(Error::argument("sources", message))
}
