//! The kernels of mbflow: they take checked parameters and slices, and return vectors.
//!
//! This crate knows no Arrow, no Python and no files; it reads no clock, and no environment outside `exec`. Every kernel
//! gives the same bits for the same seed, on every machine and for any number of threads.
//!
//! ```
//! use mbflow_core::{Exec, HashGraph, Matrix};
//!
//! let rows = [0.0, 0.1, 5.0, 5.2];
//! let graph = HashGraph::new(1).build(&Exec::new()?, &Matrix::new(&rows, 4, 1)?)?;
//! assert_eq!(graph.neighbours.view().values(), [1, 0, 3, 2]);
//! # Ok::<(), mbflow_core::Error>(())
//! ```

#![warn(missing_docs)]
#![deny(unsafe_code)]

mod affinity;
mod batch_graph;
mod buckets;
mod budget;
mod cells;
mod coverage;
mod csc;
mod distance;
mod edge_attention;
mod edges;
mod error;
mod exec;
mod forest;
mod gather;
mod hash_graph;
mod interleave;
mod matrix;
#[expect(unsafe_code, reason = "gives advice to the operating system")]
mod memory;
mod metric;
mod nearest;
mod normal;
mod packed;
mod packing;
mod permutation;
mod projection;
mod ragged;
pub mod sampling;
mod seed;
#[expect(
    unsafe_code,
    reason = "calls into functions that are compiled for more than the baseline instruction set, and prefetch"
)]
mod simd;
mod strata;
mod top_k;

pub use affinity::Affinity;
pub use batch_graph::{BatchGraph, Edges};
pub use buckets::{Stretch, bucket_items, bucket_of};
pub use budget::{BatchLimit, Budget};
pub use cells::{Cells, Lengths, cells, sorted_items};
pub use coverage::{Coverage, Picks, Representatives};
pub use csc::{
    Csc, CscBuilder, DealtEdges, Duplicates, EdgeList, EdgeRules, MOST_NODES, NO_ROW, NodeId, SelfLoops,
    check_offsets, check_sources, deal_edges, degree_bins, take,
};
pub use distance::squared_distance;
pub use edge_attention::{
    Activation, AttentionGraph, Backward, Dropout, Forward, Gradients, HeadRows, Real, Saved, Sources,
    Targets, Transpose, project,
};
pub use edges::OptimalEdges;
pub use error::Error;
pub use exec::{Cancel, Exec, WORKER_NAME, set_threads, threads};
pub use forest::Forest;
pub use gather::{RowEncoding, RowIds, RowTable, gather_f32, gather_rows};
pub use hash_graph::{Family, Graph, HashGraph, HashGraphStats};
pub use interleave::{Interleave, Turn};
pub use matrix::Matrix;
pub use memory::on_huge_pages;
pub use metric::Metric;
pub use nearest::nearest_rows;
pub use packing::{Fit, pack};
pub use permutation::KeyedPermutation;
pub use projection::{Directions, Projection};
pub use ragged::{Ragged, RaggedVec};
pub use seed::{Seed, philox4x32, stream};
pub use simd::Simd;
pub use strata::{Cut, Deal, Dealt, deal, rows_by_class};
