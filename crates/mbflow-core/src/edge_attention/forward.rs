//! Forward: for each target the softmax over its edges and the weighted sum of their sources.

use std::ops::Range;

use super::graph::pieces;
use super::rows::{Block, LANES};
use super::scores::{Dropout, Scores, spread};
use super::{Activation, AttentionGraph, HeadRows, Real, Sources};
use crate::simd::Loops;
use crate::{Error, Exec, Simd};

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

/// Finds the rows of the sources of some edges and takes what they add to logits.
#[inline(always)]
fn load<F: Real>(
    scores: &mut Scores<F>,
    sources: Sources<'_>,
    layout: HeadRows,
    rows: &[F],
    edges: Range<usize>,
) {
    let count = edges.len();
    match sources {
        Sources::U32(ids) => scores.locate(layout.stride(), ids, edges, |id| id as usize),
        Sources::U64(ids) => scores.locate(layout.stride(), ids, edges, |id| id as usize),
    }
    scores.take(rows, layout.logits(), count);
}

impl<F: Real> Piece<'_, F> {
    #[inline(always)]
    fn attend<const N: usize>(mut self) {
        let layout = self.layout;
        let (heads, tile) = (layout.heads(), layout.tile());
        let (stride, logits) = (layout.stride(), layout.logits());
        let blocks = layout.blocks(N);
        let bias = self.bias.map_or_else(|| layout.pad(&[]), |bias| layout.pad(bias));
        let mut scores = Scores::new(layout, self.dropout.is_some(), false);
        let mut sums = layout.pad(&[]);
        let mut positive = sums.clone();
        let [mut added, mut highest, mut total, mut above] = std::array::from_fn(|_| scores.lanes());
        for (place, target) in self.targets.clone().enumerate() {
            let edges = self.graph.offsets[target] as usize..self.graph.offsets[target + 1] as usize;
            let row = self.graph.target_rows.row(target);
            spread(&self.rows[row * stride + logits + heads..], tile, &mut added);
            sums.fill(F::ZERO);
            positive.fill(F::ZERO);
            highest.fill([if edges.is_empty() { F::ZERO } else { F::LOWEST }; LANES]);
            total.fill([F::ZERO; LANES]);
            above.fill([F::ZERO; LANES]);
            let whole = edges.len() <= scores.edges;
            if !whole {
                for first in edges.clone().step_by(scores.edges) {
                    let part = first..edges.end.min(first + scores.edges);
                    let count = part.len();
                    load(&mut scores, self.graph.sources, layout, self.rows, part);
                    scores.rectify(count, &added, self.slope, &mut highest);
                }
            }
            for first in edges.clone().step_by(scores.edges) {
                let part = first..edges.end.min(first + scores.edges);
                let count = part.len();
                load(&mut scores, self.graph.sources, layout, self.rows, part);
                scores.rectify(count, &added, self.slope, &mut highest);
                if let Some(dropout) = &self.dropout {
                    scores.drop(dropout, count, |edge| (first + edge) as u64);
                }
                scores.exponentiate(count, &highest, &mut total, &mut above);
                scores.accumulate_all::<N>(self.rows, &blocks, count, &mut sums, &mut positive);
            }
            for (total, above) in total.iter_mut().zip(&mut above) {
                for lane in 0..LANES {
                    total[lane] = if edges.is_empty() { F::ZERO } else { total[lane].recip() };
                    above[lane] = above[lane] * total[lane];
                }
            }
            self.finish::<N>(place, &blocks, total.as_flattened(), &bias, &sums, &positive);
            if let Some(saved) = &mut self.saved {
                let numbers = saved.numbers[place * 3 * heads..][..3 * heads].chunks_exact_mut(heads);
                for (numbers, lanes) in numbers.zip([&highest, &total, &above]) {
                    for (number, &lane) in numbers.iter_mut().zip(lanes.as_flattened()) {
                        *number = lane;
                    }
                }
            }
        }
    }
    /// Writes a target's sums times the scales of heads, with the bias added and activated.
    #[inline(always)]
    fn finish<const N: usize>(
        &mut self,
        place: usize,
        blocks: &[Block],
        scales: &[F],
        bias: &[F],
        sums: &[F],
        positive: &[F],
    ) {
        let columns = self.layout.heads() * self.layout.width();
        let padded =
            sums.as_chunks::<N>().0.iter().zip(positive.as_chunks::<N>().0).zip(bias.as_chunks::<N>().0);
        for (block, ((sums, positive), bias)) in blocks.iter().zip(padded) {
            let scale = scales[block.head];
            let first = place * columns + block.column;
            let part = first..first + block.wide;
            let mut means = [F::ZERO; N];
            let mut values = [F::ZERO; N];
            for lane in 0..N {
                means[lane] = sums[lane] * scale;
                values[lane] = means[lane] + bias[lane];
            }
            if self.activation == Activation::Elu {
                put(&elu(&values), self.out, part.clone());
            } else {
                put(&values, self.out, part.clone());
            }
            if let Some(saved) = &mut self.saved {
                if let Some(all) = &mut saved.sums {
                    put(&means, all, part.clone());
                }
                for lane in 0..N {
                    values[lane] = positive[lane] * scale;
                }
                put(&values, saved.positive, part);
            }
        }
    }
}

/// Writes the first of some lanes. The others, too, where there is room: parts ascend, so that these are written later.
#[inline(always)]
fn put<F: Real, const N: usize>(lanes: &[F; N], out: &mut [F], part: Range<usize>) {
    if let Some(out) = out[part.start..].first_chunk_mut::<N>() {
        *out = *lanes;
    } else {
        out[part.clone()].copy_from_slice(&lanes[..part.len()]);
    }
}

/// The exponential linear unit. Not in place: that became masked stores, which some processors are slow at.
#[inline(always)]
fn elu<F: Real, const N: usize>(values: &[F; N]) -> [F; N] {
    let mut out = [F::ZERO; N];
    for lane in 0..N {
        let below = values[lane].exp() - F::ONE;
        out[lane] = if values[lane] > F::ZERO { values[lane] } else { below };
    }
    out
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
        let mut scores = Scores::new(layout, false, false);
        let [mut added, mut highest, mut total, mut above] = std::array::from_fn(|_| scores.lanes());
        let origin = self.graph.offsets[self.targets.start] as usize;
        for target in self.targets.clone() {
            let edges = self.graph.offsets[target] as usize..self.graph.offsets[target + 1] as usize;
            let row = self.graph.target_rows.row(target);
            let own = &self.rows[row * layout.stride() + layout.logits() + heads..];
            spread(own, layout.tile(), &mut added);
            highest.fill([F::LOWEST; LANES]);
            total.fill([F::ZERO; LANES]);
            for weigh in [false, true] {
                for first in edges.clone().step_by(scores.edges) {
                    let part = first..edges.end.min(first + scores.edges);
                    let count = part.len();
                    load(&mut scores, self.graph.sources, layout, self.rows, part.clone());
                    scores.rectify(count, &added, self.slope, &mut highest);
                    if !weigh {
                        continue;
                    }
                    scores.exponentiate(count, &highest, &mut total, &mut above);
                    let out = &mut self.out[(part.start - origin) * heads..][..count * heads];
                    for (out, weights) in out.chunks_exact_mut(heads).zip(scores.edge_weights()) {
                        out.copy_from_slice(weights);
                    }
                }
            }
            let out = &mut self.out[(edges.start - origin) * heads..(edges.end - origin) * heads];
            for out in out.chunks_exact_mut(heads) {
                for (out, &total) in out.iter_mut().zip(total.as_flattened()) {
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
