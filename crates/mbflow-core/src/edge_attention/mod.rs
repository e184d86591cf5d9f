//! Graph attention in one pass: softmax over the edges of each target, and the weighted sum of their sources.
//!
//! Features times weights give a row for each node, with all that an edge needs of its source side by side: the values
//! of each head and what the node adds to logits as source and as target ([`HeadRows`], [`project`]). The forward pass
//! goes over targets and their edges, the backward pass over sources and the transposed edges, where it works out
//! coefficients again. Neither stores anything for an edge, and each number has one writer, so that results have the
//! same bits for any number of threads.
//!
//! Velickovic et al.: Graph Attention Networks (arXiv 1710.10903), section 2.1.
#![expect(
    clippy::inline_always,
    reason = "inner loops must be compiled inside each caller, for the caller's instruction set"
)]

mod backward;
mod forward;
mod graph;
mod real;
mod rows;
mod scores;
#[cfg(test)]
mod tests;

pub use backward::{Backward, Gradients};
pub use forward::{Forward, Saved};
pub use graph::{AttentionGraph, Sources, Targets, Transpose};
pub use real::Real;
pub use rows::{HeadRows, project};
pub use scores::Dropout;

/// What comes after the bias.
///
/// ```
/// assert_ne!(mbflow_core::Activation::Elu, mbflow_core::Activation::None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// The exponential linear unit: `x` above 0, else `e^x - 1`.
    Elu,
}
