//! Forward: for each target the softmax over its edges and the weighted sum of their sources.

use std::ops::Range;

use super::graph::pieces;
use super::rows::LANES;
use super::scores::{Dropout, Scores};
use super::{Activation, AttentionGraph, HeadRows, Real};
use crate::simd::{Loops, prefetch};
use crate::{Error, Exec, Simd};

/// Edges between the one that is worked on and the one whose row is asked for.
pub(super) const AHEAD: usize = 12;
/// Work of a piece: edges, and eight for each target.
pub(super) const LEAST: u64 = 1 << 14;
/// Pieces of a whole graph, at most about.
pub(super) const PIECES: u64 = 1 << 10;

/// What the backward pass needs of the forward one, for each target.
///
/// ```
/// let mut saved = mbflow_core::Saved { sums: None, positive: &mut [0.0_f32; 4], numbers: &mut [0.0; 6] };
/// assert_eq!(saved.positive.len(), 4);
/// ```
#[derive(Debug)]
pub struct Saved<'a, F> {
    /// The weighted sums before bias and activation, `[targets, heads * width]`; needed where there is either.
    pub sums: Option<&'a mut [F]>,
    /// The part of each sum that comes from edges with a positive logit, of the same shape.
    pub positive: &'a mut [F],
    /// For each head the highest logit, then 1 / the sum of exponentials, then the share of positive logits in the
    /// coefficients without dropout: `[targets, 3 * heads]`.
    pub numbers: &'a mut [F],
}

struct Piece<'a, F> {
    graph: AttentionGraph<'a>,
    layout: HeadRows,
    rows: &'a [F],
    slope: F,
    dropout: Option<Dropout<'a>>,
    bias: Option<&'a [F]>,
    activation: Activation,
    targets: Range<usize>,
    out: &'a mut [F],
    saved: Option<Saved<'a, F>>,
}

impl<F: Real> Loops for Piece<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        if self.layout.padded().is_multiple_of(LANES) {
            self.attend::<LANES>();
        } else {
            self.attend::<{ LANES / 2 }>();
        }
    }
}

/// The logits that the sources of some edges add, and where their rows begin; asks for rows that come later.
#[inline(always)]
fn load<F: Real>(
    scores: &mut Scores<F>,
    graph: &AttentionGraph<'_>,
    layout: HeadRows,
    rows: &[F],
    edges: Range<usize>,
) {
    let (stride, logits, heads) = (layout.stride(), layout.logits(), layout.heads());
    let room = scores.edges;
    for (place, edge) in edges.enumerate() {
        if edge + AHEAD < graph.sources.len() {
            let start = graph.sources.at(edge + AHEAD) * stride;
            for line in (0..stride).step_by(64 / size_of::<F>()) {
                prefetch(rows, start + line);
            }
        }
        let start = graph.sources.at(edge) * stride;
        scores.starts[place] = start;
        let added = &rows[start + logits..][..heads];
        for (head, &added) in added.iter().enumerate() {
            scores.weights[head * room + place] = added;
        }
    }
}

impl<F: Real> Piece<'_, F> {
    #[inline(always)]
    fn attend<const N: usize>(mut self) {
        let layout = self.layout;
        let (heads, width, padded) = (layout.heads(), layout.width(), layout.padded());
        let (stride, logits) = (layout.stride(), layout.logits());
        let mut scores = Scores::new(heads, self.dropout.is_some(), false);
        let mut sums = vec![F::ZERO; heads * padded];
        let mut positive = vec![F::ZERO; heads * padded];
        let mut numbers = vec![F::ZERO; 3 * heads];
        for (place, target) in self.targets.clone().enumerate() {
            let edges = self.graph.offsets[target] as usize..self.graph.offsets[target + 1] as usize;
            let row = self.graph.target_rows.row(target);
            let added = &self.rows[row * stride + logits + heads..][..heads];
            sums.fill(F::ZERO);
            positive.fill(F::ZERO);
            numbers.fill(F::ZERO);
            let (highest, rest) = numbers.split_at_mut(heads);
            let (total, above) = rest.split_at_mut(heads);
            let whole = edges.len() <= scores.edges;
            if !edges.is_empty() {
                highest.fill(F::LOWEST);
            }
            if !whole {
                for first in edges.clone().step_by(scores.edges) {
                    let part = first..edges.end.min(first + scores.edges);
                    let count = part.len();
                    load(&mut scores, &self.graph, layout, self.rows, part);
                    scores.rectify(count, added, self.slope, highest);
                }
            }
            for first in edges.clone().step_by(scores.edges) {
                let part = first..edges.end.min(first + scores.edges);
                let count = part.len();
                load(&mut scores, &self.graph, layout, self.rows, part);
                scores.rectify(count, added, self.slope, highest);
                if let Some(dropout) = &self.dropout {
                    scores.drop(dropout, count, |edge| (first + edge) as u64);
                }
                scores.exponentiate(count, highest, total, above);
                for head in 0..heads {
                    for column in (head * padded..(head + 1) * padded).step_by(N) {
                        let (sums, positive) = (&mut sums[column..], &mut positive[column..]);
                        scores.accumulate::<N>(self.rows, column, head, count, sums, positive);
                    }
                }
            }
            for (total, above) in total.iter_mut().zip(above) {
                *total = if edges.is_empty() { F::ZERO } else { total.recip() };
                *above = *above * *total;
            }
            for head in 0..heads {
                let scale = numbers[heads + head];
                let part = place * heads * width + head * width;
                let sums = &sums[head * padded..][..width];
                let bias = self.bias.map(|bias| &bias[head * width..][..width]);
                let out = &mut self.out[part..part + width];
                finish(sums, scale, bias, self.activation, out);
                if let Some(saved) = &mut self.saved {
                    if let Some(all) = &mut saved.sums {
                        for (saved, &sum) in all[part..part + width].iter_mut().zip(sums) {
                            *saved = sum * scale;
                        }
                    }
                    let positive = &positive[head * padded..][..width];
                    for (saved, &sum) in saved.positive[part..part + width].iter_mut().zip(positive) {
                        *saved = sum * scale;
                    }
                }
            }
            if let Some(saved) = &mut self.saved {
                saved.numbers[place * 3 * heads..][..3 * heads].copy_from_slice(&numbers);
            }
        }
    }
}

/// Scales the sums of a head, adds the bias and activates.
#[inline(always)]
fn finish<F: Real>(sums: &[F], scale: F, bias: Option<&[F]>, activation: Activation, out: &mut [F]) {
    if let Some(bias) = bias {
        for ((out, &sum), &bias) in out.iter_mut().zip(sums).zip(bias) {
            *out = sum * scale + bias;
        }
    } else {
        for (out, &sum) in out.iter_mut().zip(sums) {
            *out = sum * scale;
        }
    }
    if activation == Activation::Elu {
        for value in out {
            let below = value.exp() - F::ONE;
            *value = if *value > F::ZERO { *value } else { below };
        }
    }
}

struct Coefficients<'a, F> {
    graph: AttentionGraph<'a>,
    layout: HeadRows,
    rows: &'a [F],
    slope: F,
    targets: Range<usize>,
    out: &'a mut [F],
}

impl<F: Real> Loops for Coefficients<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let layout = self.layout;
        let heads = layout.heads();
        let mut scores = Scores::new(heads, false, false);
        let mut numbers = vec![F::ZERO; 3 * heads];
        let origin = self.graph.offsets[self.targets.start] as usize;
        for target in self.targets.clone() {
            let edges = self.graph.offsets[target] as usize..self.graph.offsets[target + 1] as usize;
            let row = self.graph.target_rows.row(target);
            let added = &self.rows[row * layout.stride() + layout.logits() + heads..][..heads];
            numbers.fill(F::ZERO);
            let (highest, rest) = numbers.split_at_mut(heads);
            let (total, above) = rest.split_at_mut(heads);
            highest.fill(F::LOWEST);
            for weigh in [false, true] {
                for first in edges.clone().step_by(scores.edges) {
                    let part = first..edges.end.min(first + scores.edges);
                    let count = part.len();
                    load(&mut scores, &self.graph, layout, self.rows, part.clone());
                    scores.rectify(count, added, self.slope, highest);
                    if !weigh {
                        continue;
                    }
                    scores.exponentiate(count, highest, total, above);
                    let out = &mut self.out[(part.start - origin) * heads..][..count * heads];
                    for (place, out) in out.chunks_exact_mut(heads).enumerate() {
                        for (head, out) in out.iter_mut().enumerate() {
                            *out = scores.weights[head * scores.edges + place];
                        }
                    }
                }
            }
            let out = &mut self.out[(edges.start - origin) * heads..(edges.end - origin) * heads];
            for out in out.chunks_exact_mut(heads) {
                for (out, &total) in out.iter_mut().zip(&*total) {
                    *out = *out * total.recip();
                }
            }
        }
    }
}

/// What is fixed for a pass over a graph.
///
/// ```
/// use mbflow_core::{Activation, AttentionGraph, Exec, HeadRows, Sources, Targets};
///
/// let graph = AttentionGraph::new(&[0, 2], Sources::U32(&[1, 2]), 3, Targets::From(0))?;
/// let layout = HeadRows::new(1, 1)?;
/// let mut rows = vec![0.0_f32; 3 * layout.stride()];
/// (rows[layout.stride()], rows[2 * layout.stride()]) = (4.0, 8.0);
/// let pass = mbflow_core::Forward { graph, layout, rows: &rows, slope: 0.2, dropout: None };
/// let mut out = [0.0];
/// pass.attend(&Exec::serial(), None, Activation::None, &mut out, None)?;
/// assert_eq!(out, [6.0]);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Forward<'a, F> {
    /// Who is whose source.
    pub graph: AttentionGraph<'a>,
    /// The layout of `rows`.
    pub layout: HeadRows,
    /// `[graph.rows(), layout.stride()]`.
    pub rows: &'a [F],
    /// Of the leaky rectifier on logits; at least 0.
    pub slope: F,
    /// Dropout of the coefficients.
    pub dropout: Option<Dropout<'a>>,
}

impl<F: Real> Forward<'_, F> {
    pub(super) fn check(&self) -> Result<(), Error> {
        let (rows, stride) = (self.graph.rows(), self.layout.stride());
        if self.rows.len() != rows * stride {
            let message = format!("expected {rows} x {stride} numbers, got {}", self.rows.len());
            return Err(Error::argument("rows", message));
        }
        if self.slope.partial_cmp(&F::ZERO).is_none_or(std::cmp::Ordering::is_lt) {
            return Err(Error::argument("slope", "expected at least 0"));
        }
        if let Some(factors) = self.dropout.as_ref().and_then(Dropout::len) {
            expect_len("factors", factors, self.graph.edges() * self.layout.heads())?;
        }
        Ok(())
    }

    /// Writes the output of each target, `[targets, heads * width]`: the sums of the rows of its sources, weighted by
    /// the softmax of their logits, plus the bias, activated. A target without edges has the sum 0.
    ///
    /// Stores nothing for an edge. O(edges * heads * width). The bits do not depend on the number of threads.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] where lengths do not fit; [`Error::Interrupted`] when the caller asks to stop.
    pub fn attend(
        &self,
        exec: &Exec,
        bias: Option<&[F]>,
        activation: Activation,
        out: &mut [F],
        saved: Option<Saved<'_, F>>,
    ) -> Result<(), Error> {
        self.attend_by(Simd::detect(), exec, bias, activation, out, saved)
    }

    pub(super) fn attend_by(
        &self,
        simd: Simd,
        exec: &Exec,
        bias: Option<&[F]>,
        activation: Activation,
        out: &mut [F],
        saved: Option<Saved<'_, F>>,
    ) -> Result<(), Error> {
        self.check()?;
        let (targets, heads) = (self.graph.targets(), self.layout.heads());
        let columns = heads * self.layout.width();
        expect_len("bias", bias.map_or(columns, <[F]>::len), columns)?;
        expect_len("out", out.len(), targets * columns)?;
        if let Some(saved) = &saved {
            expect_len(
                "sums",
                saved.sums.as_ref().map_or(targets * columns, |all| all.len()),
                targets * columns,
            )?;
            expect_len("positive", saved.positive.len(), targets * columns)?;
            expect_len("numbers", saved.numbers.len(), targets * 3 * heads)?;
        }
        let (mut out, mut saved) = (out, saved);
        let mut parts = Vec::new();
        for targets in pieces(self.graph.offsets, LEAST, PIECES) {
            let count = targets.len();
            let (own, rest) = out.split_at_mut(count * columns);
            out = rest;
            let own_saved;
            (own_saved, saved) = match saved {
                None => (None, None),
                Some(Saved { sums, positive, numbers }) => {
                    let sums = sums.map(|sums| sums.split_at_mut(count * columns));
                    let (sums, sums_rest) = sums.map_or((None, None), |(own, rest)| (Some(own), Some(rest)));
                    let (positive, positive_rest) = positive.split_at_mut(count * columns);
                    let (numbers, numbers_rest) = numbers.split_at_mut(count * 3 * heads);
                    let rest = Saved { sums: sums_rest, positive: positive_rest, numbers: numbers_rest };
                    (Some(Saved { sums, positive, numbers }), Some(rest))
                }
            };
            parts.push((targets, own, own_saved));
        }
        exec.run(parts, |(targets, out, saved)| {
            simd.run(Piece {
                graph: self.graph,
                layout: self.layout,
                rows: self.rows,
                slope: self.slope,
                dropout: self.dropout,
                bias,
                activation,
                targets,
                out,
                saved,
            });
        })
    }

    /// Writes the coefficients themselves, without dropout: `[edges, heads]`; those of a target add up to 1.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] where lengths do not fit; [`Error::Interrupted`] when the caller asks to stop.
    pub fn coefficients(&self, exec: &Exec, out: &mut [F]) -> Result<(), Error> {
        self.check()?;
        let heads = self.layout.heads();
        expect_len("out", out.len(), self.graph.edges() * heads)?;
        let simd = Simd::detect();
        let mut out = out;
        let mut parts = Vec::new();
        for targets in pieces(self.graph.offsets, LEAST, PIECES) {
            let edges = self.graph.offsets[targets.end] - self.graph.offsets[targets.start];
            let (own, rest) = out.split_at_mut(edges as usize * heads);
            out = rest;
            parts.push((targets, own));
        }
        let &Self { graph, layout, rows, slope, .. } = self;
        exec.run(parts, |(targets, out)| simd.run(Coefficients { graph, layout, rows, slope, targets, out }))
    }
}

pub(super) fn expect_len(name: &'static str, got: usize, expected: usize) -> Result<(), Error> {
    if got == expected {
        return Ok(());
    }
    Err(Error::argument(name, format!("expected {expected} numbers, got {got}")))
}
