//! Graphs in compressed sparse columns: edge lists into the incoming neighbours of each node.
//!
//! The columns are a ragged array with 64-bit offsets and 32-bit sources. They are built by a counting sort in two passes
//! over the edge list: [`CscBuilder::count`] learns the degrees, [`CscBuilder::fill`] puts each source into its place. So
//! the list may come in any number of pieces, and nothing but the result and one piece is ever held. Each piece is
//! first dealt into ranges of targets: the places that a range writes to stay in the cache, and ranges are filled side
//! by side in the order of the list, so that results do not depend on the number of threads.

mod build;
mod check;
mod deal;
mod merge;

pub use build::{Csc, CscBuilder, take};
pub use check::{check_offsets, check_sources};
pub use deal::{DealtEdges, EdgeList, EdgeRules, NodeId, SelfLoops, deal_edges, degree_bins};
pub use merge::Duplicates;

/// Graphs have fewer nodes than this.
pub const MOST_NODES: u64 = u32::MAX as u64;

/// What [`Csc::rows`] holds for an edge that was in no list: a self loop that was added.
pub const NO_ROW: u32 = u32::MAX;
