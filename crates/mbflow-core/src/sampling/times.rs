//! The edges of each node in the order of their times.

use crate::{Error, Exec};

/// Nodes worked on at a time.
const NODES: usize = 1 << 12;

/// Times of edges, with the order of each node's edges by time.
#[derive(Debug, Clone, Copy)]
pub struct TimeOrder<'a> {
    times: &'a [i64],
    /// For every edge of a node the distance from its first one, by time; none where they lie so already.
    order: Option<&'a [u32]>,
}

impl<'a> TimeOrder<'a> {
    /// Times with the order that [`time_order`] made of them.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when their numbers differ.
    pub fn new(times: &'a [i64], order: Option<&'a [u32]>) -> Result<Self, Error> {
        if let Some(order) = order
            && order.len() != times.len()
        {
            let message = format!("expected {}, one an edge, got {}", times.len(), order.len());
            return Err(Error::argument("order", message));
        }
        Ok(Self { times, order })
    }

    pub(super) fn len(&self) -> usize {
        self.times.len()
    }

    /// The order of a node's edges, and how many of them lie before `time`.
    #[inline]
    pub(super) fn before(&self, start: usize, len: u32, time: i64) -> (Option<&'a [u32]>, u32) {
        let times = &self.times[start..start + len as usize];
        match self.order {
            None => (None, times.partition_point(|&edge| edge < time) as u32),
            Some(order) => {
                let order = &order[start..start + len as usize];
                let before = order.partition_point(|&index| times[index as usize] < time) as u32;
                (Some(order), before)
            }
        }
    }
}

/// The order of each node's edges by time, ties in the order of the graph; none where all lie so already.
///
/// O(edges log degree), by all threads; 4 bytes an edge.
///
/// # Errors
///
/// [`Error::InvalidArgument`] when there is not a time for each edge, [`Error::Interrupted`].
///
/// ```
/// use mbflow_core::{Exec, sampling::time_order};
///
/// let order = time_order(&Exec::serial(), &[0, 2, 3], &[9, 5, 7])?;
/// assert_eq!(order, Some(vec![1, 0, 0]));
/// assert_eq!(time_order(&Exec::serial(), &[0, 2, 3], &[5, 9, 7])?, None);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
pub fn time_order(exec: &Exec, offsets: &[u64], times: &[i64]) -> Result<Option<Vec<u32>>, Error> {
    if offsets.last().is_none_or(|&end| end != times.len() as u64) || !offsets.is_sorted() {
        let message = format!("expected one for each edge of the graph, got {}", times.len());
        return Err(Error::argument("times", message));
    }
    let nodes = offsets.len().saturating_sub(1);
    let ranges: Vec<_> = (0..nodes).step_by(NODES).map(|first| first..(first + NODES).min(nodes)).collect();
    let of = |node: usize| offsets[node] as usize..offsets[node + 1] as usize;
    let ordered =
        exec.map(ranges.clone(), |range| range.into_iter().all(|node| times[of(node)].is_sorted()))?;
    if ordered.into_iter().all(|sorted| sorted) {
        return Ok(None);
    }
    let mut order = vec![0; times.len()];
    let mut rest = &mut order[..];
    let mut pieces = Vec::new();
    for range in ranges {
        let edges = (offsets[range.end] - offsets[range.start]) as usize;
        let (piece, others) = rest.split_at_mut(edges);
        pieces.push((range, piece));
        rest = others;
    }
    exec.run(pieces, |(range, piece)| {
        let begun = offsets[range.start] as usize;
        for node in range {
            let times = &times[of(node)];
            let start = offsets[node] as usize - begun;
            let order = &mut piece[start..start + times.len()];
            for (index, place) in order.iter_mut().enumerate() {
                *place = index as u32;
            }
            order.sort_unstable_by_key(|&index| (times[index as usize], index));
        }
    })?;
    Ok(Some(order))
}
