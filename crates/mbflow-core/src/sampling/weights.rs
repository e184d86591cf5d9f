//! Sums of the weights of each node's edges, from which edges are drawn in proportion to weight.

use crate::simd::prefetch;
use crate::{Error, Exec};

/// Edges a sum stands for: half a cache line of weights.
const BLOCK: usize = 8;
/// Nodes worked on at a time.
const NODES: usize = 1 << 14;

/// Sums of weights: of a node's first 8 edges, of its first 16, and so on.
///
/// The sums of node `v` begin at `offsets[v] / 8 + v`, which leaves room for all of them. One draw is a binary search
/// over them and a scan of 8 weights. One byte an edge and eight bytes a node.
#[derive(Debug, Clone, Copy)]
pub struct WeightSums<'a> {
    weights: &'a [f32],
    sums: &'a [f64],
}

impl<'a> WeightSums<'a> {
    /// Sums that [`weight_sums`] made of these weights.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when their number is not that of `nodes` and the weights.
    pub fn new(weights: &'a [f32], sums: &'a [f64], nodes: usize) -> Result<Self, Error> {
        let wanted = weights.len() / BLOCK + nodes + 1;
        if sums.len() != wanted {
            return Err(Error::argument("sums", format!("expected {wanted}, got {}", sums.len())));
        }
        Ok(Self { weights, sums })
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.weights.len()
    }

    #[inline]
    pub(super) fn weight(&self, position: u64) -> f32 {
        self.weights[position as usize]
    }

    /// The weights of a node's edges, with their sums.
    #[inline]
    pub(super) fn of(&self, node: u32, start: u64, len: u32) -> NodeSums<'a> {
        let (start, len) = (start as usize, len as usize);
        let first = start / BLOCK + node as usize;
        let sums = &self.sums[first..first + len.div_ceil(BLOCK)];
        NodeSums { weights: &self.weights[start..], sums }
    }

    /// Starts loading the weights of a few edges.
    #[inline]
    pub(super) fn load_weights(&self, start: u64, len: u32) {
        for line in (0..len as usize).step_by(16) {
            prefetch(self.weights, start as usize + line);
        }
    }

    /// Starts loading what a search in a node's sums reads first.
    #[inline]
    pub(super) fn load(&self, node: u32, start: u64, len: u32) {
        let first = start as usize / BLOCK + node as usize;
        let blocks = (len as usize).div_ceil(BLOCK);
        prefetch(self.sums, first + blocks / 2);
        prefetch(self.sums, (first + blocks).saturating_sub(1));
    }
}

/// The weights of one node's edges, with their sums.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeSums<'a> {
    /// From the node's first to the last of the graph.
    weights: &'a [f32],
    sums: &'a [f64],
}

impl NodeSums<'_> {
    /// The whole weight.
    #[inline]
    pub(super) fn total(&self) -> f64 {
        self.sums.last().copied().unwrap_or_default()
    }

    /// The block of 8 edges in whose weights `unit` of the node's whole weight, which is above 0, falls, and that weight.
    /// Starts loading the weights of the block.
    #[inline]
    pub(super) fn block(&self, unit: f64) -> (u32, f64) {
        let drawn = unit * self.total();
        let block = self.sums.partition_point(|&sum| sum <= drawn);
        prefetch(self.weights, block * BLOCK);
        (block as u32, drawn)
    }

    /// The edge of a block in whose weight `drawn` falls.
    #[inline]
    pub(super) fn within(&self, block: u32, drawn: f64) -> u32 {
        let block = block as usize;
        let sum = block.checked_sub(1).map_or(0.0, |before| self.sums[before]);
        let weights = &self.weights[block * BLOCK..];
        // The block's sum is above `drawn` and was added up in the same order, so one of these is, too; those of the next
        // node, which may follow in the last block, do no harm then.
        let within = match weights.first_chunk::<BLOCK>() {
            Some(weights) => until(weights, sum, drawn),
            None => until(weights, sum, drawn),
        };
        (block * BLOCK) as u32 + within
    }

    /// The edge in whose weight `unit` of the node's whole weight falls; none where that is 0.
    #[inline]
    pub(super) fn draw(&self, unit: f64) -> Option<u32> {
        (self.total() > 0.0).then(|| {
            let (block, drawn) = self.block(unit);
            self.within(block, drawn)
        })
    }
}

/// How many sums of weights, from `sum` on, are not above `drawn`.
#[inline]
fn until(weights: &[f32], mut sum: f64, drawn: f64) -> u32 {
    let mut count = 0;
    for &weight in weights {
        sum += f64::from(weight);
        count += u32::from(sum <= drawn);
    }
    count
}

/// The sums for [`WeightSums`]. O(edges), by all threads.
///
/// # Errors
///
/// [`Error::InvalidArgument`] naming the first weight that is negative, NaN or infinite, or when there is not one for each
/// edge; [`Error::Interrupted`].
///
/// ```
/// use mbflow_core::{Exec, sampling::weight_sums};
///
/// let sums = weight_sums(&Exec::serial(), &[0, 2, 3], &[0.5, 1.0, 2.0])?;
/// assert_eq!(sums, [1.5, 2.0, 0.0]);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
pub fn weight_sums(exec: &Exec, offsets: &[u64], weights: &[f32]) -> Result<Vec<f64>, Error> {
    if offsets.last().is_none_or(|&end| end != weights.len() as u64) || !offsets.is_sorted() {
        let message = format!("expected one for each edge of the graph, got {}", weights.len());
        return Err(Error::argument("weights", message));
    }
    let nodes = offsets.len() - 1;
    let mut sums = vec![0.0; weights.len() / BLOCK + nodes + 1];
    let mut pieces = Vec::new();
    let mut rest = &mut sums[..];
    let mut begun = 0;
    for first in (0..nodes).step_by(NODES) {
        let last = (first + NODES).min(nodes);
        let end = offsets[last] as usize / BLOCK + last;
        let (piece, others) = rest.split_at_mut(end - begun);
        pieces.push((first..last, begun, piece));
        (rest, begun) = (others, end);
    }
    let wrong = exec.map(pieces, |(nodes, begun, piece)| {
        let mut wrong = None;
        for node in nodes {
            let (start, end) = (offsets[node] as usize, offsets[node + 1] as usize);
            let first = start / BLOCK + node - begun;
            let mut sum = 0.0;
            for (block, weights) in weights[start..end].chunks(BLOCK).enumerate() {
                for (index, &weight) in weights.iter().enumerate() {
                    if !(weight >= 0.0 && weight.is_finite()) && wrong.is_none() {
                        wrong = Some((start + block * BLOCK + index, weight));
                    }
                    sum += f64::from(weight);
                }
                piece[first + block] = sum;
            }
        }
        wrong
    })?;
    if let Some((position, weight)) = wrong.into_iter().flatten().next() {
        let message = format!("edge {position} has weight {weight}; expected a finite number of at least 0");
        return Err(Error::argument("weights", message));
    }
    Ok(sums)
}
