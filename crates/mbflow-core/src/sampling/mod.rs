//! Sampled neighbourhoods: for each target of a layer some of its incoming edges, and every node once.
//!
//! Every draw is keyed by (seed, epoch, batch, layer, relation, node), so a sample does not depend on threads or on
//! what was sampled before. A graph of several types of nodes is a set of relations; one with one type and one relation
//! is the ordinary case.

mod budget;
mod draws;
mod hops;
mod pages;
mod pick;
mod spares;
mod table;
mod times;
mod walk;
mod weights;

pub use hops::{Hop, Id, Neighbourhood, Sampler, Scratch};
pub use spares::Spares;
pub use times::{TimeOrder, time_order};
pub use walk::{NegativeEdges, walks};
pub use weights::{WeightSums, weight_sums};

use crate::Error;

/// A graph in compressed sparse columns: the incoming edges of each node.
///
/// Offsets and sources may come from a file that somebody changed: what they say is checked where it is used.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    offsets: &'a [u64],
    sources: &'a [u32],
}

impl<'a> Columns<'a> {
    /// Node `v` has the incoming edges `offsets[v]..offsets[v + 1]`, which come from `sources[..]`. O(1).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when there is no offset, or the last one is not the number of sources.
    ///
    /// ```
    /// use mbflow_core::sampling::Columns;
    ///
    /// assert!(Columns::new(&[0, 2], &[1, 2]).is_ok());
    /// assert!(Columns::new(&[0, 2], &[1]).is_err());
    /// ```
    pub fn new(offsets: &'a [u64], sources: &'a [u32]) -> Result<Self, Error> {
        match offsets.last() {
            None => Err(Error::argument("offsets", "expected at least one offset, got none")),
            Some(&end) if end != sources.len() as u64 => {
                let message = format!("expected to end at the number of edges, {}, got {end}", sources.len());
                Err(Error::argument("offsets", message))
            }
            Some(_) => Ok(Self { offsets, sources }),
        }
    }

    /// The number of nodes that edges lead to.
    pub fn nodes(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The number of edges.
    pub fn edges_count(&self) -> usize {
        self.sources.len()
    }

    /// Where the edges of a node start, and how many they are.
    #[inline]
    fn edges(&self, node: u32) -> Result<(u64, u32), Error> {
        let node = node as usize;
        if node + 1 < self.offsets.len() {
            let (start, end) = (self.offsets[node], self.offsets[node + 1]);
            if start <= end
                && end <= self.sources.len() as u64
                && let Ok(len) = u32::try_from(end - start)
            {
                return Ok((start, len));
            }
        }
        Err(self.damaged(node))
    }

    #[cold]
    fn damaged(&self, node: usize) -> Error {
        let message = match (self.offsets.get(node), self.offsets.get(node + 1)) {
            (Some(start), Some(end)) => format!(
                "node {node} has edges {start} to {end} of {}; offsets must not fall and a node has less than 2^32 \
                 edges",
                self.sources.len()
            ),
            _ => format!("there is no node {node}; there are {}", self.nodes()),
        };
        Error::argument("graph", message)
    }
}

/// How the edges of a target are chosen.
#[derive(Debug, Clone, Copy)]
pub enum Method<'a> {
    /// Each set of edges equally likely.
    Uniform {
        /// Whether an edge may be drawn again.
        replace: bool,
    },
    /// One after the other, in proportion to weight.
    Weighted {
        /// The weights and their sums.
        sums: WeightSums<'a>,
        /// Whether an edge may be drawn again.
        replace: bool,
    },
    /// Those whose sources draw least, with draws that all targets of a layer share.
    Labor {
        /// Whether all layers share them, too.
        across_layers: bool,
    },
    /// The latest in time.
    Latest,
    /// Fan-outs are budgets of new nodes for a whole layer, drawn by their share in the targets' means.
    Budget,
}

/// The edges of one kind: from nodes of a type to nodes of a type.
#[derive(Debug, Clone, Copy)]
pub struct Relation<'a> {
    /// The edges.
    pub columns: Columns<'a>,
    /// The type of the nodes that edges come from.
    pub source_type: usize,
    /// The type of the nodes that edges lead to.
    pub target_type: usize,
    /// How many edges of each target a layer takes; [`ALL`] takes all.
    pub fanouts: &'a [usize],
    /// How they are chosen.
    pub method: Method<'a>,
    /// When each edge was made: only edges before a tree's time are taken.
    pub times: Option<TimeOrder<'a>>,
}

/// The fan-out that takes all edges.
pub const ALL: usize = usize::MAX;
