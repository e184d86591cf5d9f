//! Backward: what each target passes on, then for each source a pass over the transposed graph.
//!
//! With `a` the coefficient of an edge before dropout, `m` dropout's factor, `z` the values of its source and `d` the
//! gradient of its target's sum, the gradient of the logit is `a (m <d, z> - s)` where `s = sum a m <d, z>`, which is
//! `<d, sum>`. Times the slope at the logit, it is summed over a target's edges for what the target adds to logits:
//! `(1 - slope) (<d, positive> - s positive share)`, from sums that the forward pass has kept, since without the slopes
//! the gradients of a target's logits add up to 0. Over a source's edges it is summed for what the source adds:
//! `<v, z> - sum a slope s`, where `v = sum a m slope d` is summed beside the gradient of the values, `sum a m d`.

use std::ops::Range;

use super::forward::{LEAST, expect_len};
use super::graph::{Transpose, pieces};
use super::rows::{LANES, Packed, add_products, product};
use super::scores::{Scores, spread};
use super::{Activation, Forward, Real};
use crate::simd::{Loops, prefetch};
use crate::{Error, Exec, Simd};

/// Rows whose gradient is held before it is multiplied with features and weights.
const BLOCK: usize = 64;
/// Pieces, each with sums of its own for the gradient of the weights, at most about.
const PIECES: u64 = 64;

/// The backward pass: what the forward pass was given and what it kept.
#[derive(Debug, Clone, Copy)]
pub struct Backward<'a, F> {
    /// As it was then.
    pub forward: Forward<'a, F>,
    /// The features that `rows` were made of, `[rows, width]`, times `weights`, `[width, stride]`.
    pub features: &'a [F],
    /// As above.
    pub weights: &'a [F],
    /// The bias, where there was one.
    pub bias: Option<&'a [F]>,
    /// The activation.
    pub activation: Activation,
    /// The sums before bias and activation, see [`super::Saved`]; the output where there was neither.
    pub sums: &'a [F],
    /// See [`super::Saved`].
    pub positive: &'a [F],
    /// See [`super::Saved`].
    pub numbers: &'a [F],
    /// The graph's transpose.
    pub transpose: &'a Transpose,
    /// Positions of its edges; needed with dropout.
    pub positions: Option<&'a [u64]>,
}

/// Where gradients go.
#[derive(Debug)]
pub struct Gradients<'a, F> {
    /// Of the features, where they are wanted.
    pub features: Option<&'a mut [F]>,
    /// Of the weights.
    pub weights: &'a mut [F],
    /// Of the bias, where there was one.
    pub bias: Option<&'a mut [F]>,
    /// Room for what sources gather of targets, `[targets, gradient_stride]`. The caller's, since it is as large as the
    /// rows, and as scattered to read: memory in large pages makes both passes faster.
    pub passed: &'a mut [F],
}

struct Targets<'a, F> {
    pass: Backward<'a, F>,
    gradients: &'a [F],
    part: Range<usize>,
    /// What each source gathers of a target.
    passed: &'a mut [F],
    /// Gradient of what the target adds to logits, `[targets, heads]`.
    logits: &'a mut [F],
}

impl<F: Real> Loops for Targets<'_, F> {
    type Output = Vec<F>;

    #[inline(always)]
    fn run(self) -> Vec<F> {
        let layout = self.pass.forward.layout;
        match (layout.padded().is_multiple_of(LANES), layout.width().is_multiple_of(LANES / 2)) {
            (true, true) => self.pass_on::<LANES, true>(),
            (true, false) => self.pass_on::<LANES, false>(),
            (false, true) => self.pass_on::<{ LANES / 2 }, true>(),
            (false, false) => self.pass_on::<{ LANES / 2 }, false>(),
        }
    }
}

impl<F: Real> Targets<'_, F> {
    /// `FULL` where blocks of `N` columns have none that only pad.
    #[inline(always)]
    fn pass_on<const N: usize, const FULL: bool>(self) -> Vec<F> {
        let Forward { layout, slope, .. } = self.pass.forward;
        let (heads, width) = (layout.heads(), layout.width());
        let (columns, stride, at) = (heads * width, layout.gradient_stride(), layout.logits());
        let row = layout.stride();
        let blocks = layout.blocks(N);
        let bias = self.pass.bias.map_or_else(|| layout.pad(&[]), |bias| layout.pad(bias));
        let mut bias_gradient = layout.pad(&[]);
        let mut dots = vec![[F::ZERO; 2]; heads];
        for (place, target) in self.part.clone().enumerate() {
            let numbers = &self.pass.numbers[target * 3 * heads..][..3 * heads];
            let own = self.pass.forward.graph.target_rows.row(target);
            let added = &self.pass.forward.rows[own * row + at + heads..][..heads];
            let passed = &mut self.passed[place * stride..][..stride];
            dots.fill([F::ZERO; 2]);
            let padded = passed.as_chunks_mut::<N>().0.iter_mut().zip(bias.as_chunks::<N>().0);
            let padded = padded.zip(bias_gradient.as_chunks_mut::<N>().0);
            for (block, ((passed, bias), bias_gradient)) in blocks.iter().zip(padded) {
                let part = target * columns + block.column..target * columns + block.column + block.wide;
                let gradient = take::<F, N, FULL>(self.gradients, part.clone());
                let sums = take::<F, N, FULL>(self.pass.sums, part.clone());
                let positive = take::<F, N, FULL>(self.pass.positive, part);
                let mut inner = gradient;
                if self.pass.activation == Activation::Elu {
                    for lane in 0..N {
                        let value = sums[lane] + bias[lane];
                        let sloped = gradient[lane] * value.exp();
                        inner[lane] = if value > F::ZERO { gradient[lane] } else { sloped };
                    }
                }
                let scale = numbers[heads + block.head];
                for lane in 0..N {
                    bias_gradient[lane] = bias_gradient[lane] + inner[lane];
                    passed[lane] = inner[lane] * scale;
                }
                let [all, above] = &mut dots[block.head];
                *all = *all + dot(&inner, &sums);
                *above = *above + dot(&inner, &positive);
            }
            for (head, &[all, above]) in dots.iter().enumerate() {
                self.logits[place * heads + head] =
                    (F::ONE - slope) * (above - all * numbers[2 * heads + head]);
                // After the values: these may stand in what pads the last head.
                passed[at + head] = added[head];
                passed[at + heads + head] = numbers[head];
                passed[at + 2 * heads + head] = all * numbers[heads + head];
            }
        }
        let mut compact = vec![F::ZERO; if self.pass.bias.is_some() { columns } else { 0 }];
        for (compact, padded) in
            compact.chunks_exact_mut(width).zip(bias_gradient.chunks_exact(layout.padded()))
        {
            compact.copy_from_slice(&padded[..width]);
        }
        compact
    }
}

/// The values of a block, and zeros.
#[inline(always)]
fn take<F: Real, const N: usize, const FULL: bool>(values: &[F], part: Range<usize>) -> [F; N] {
    let mut lanes = [F::ZERO; N];
    if let Some(values) = values[part.start..].first_chunk::<N>() {
        for lane in 0..N {
            lanes[lane] = if FULL || lane < part.len() { values[lane] } else { F::ZERO };
        }
    } else {
        lanes[..part.len()].copy_from_slice(&values[part]);
    }
    lanes
}

/// The dot product, in lanes.
#[inline(always)]
fn dot<F: Real>(left: &[F], right: &[F]) -> F {
    const LANES: usize = 8;
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    let mut sums = [F::ZERO; LANES];
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            sums[lane] = left[lane].mul_add(right[lane], sums[lane]);
        }
    }
    for (lane, (&left, &right)) in left_rest.iter().zip(right_rest).enumerate() {
        sums[lane] = left.mul_add(right, sums[lane]);
    }
    let four: [F; 4] = std::array::from_fn(|lane| sums[lane] + sums[lane + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

struct Rows<'a, F> {
    pass: Backward<'a, F>,
    passed: &'a [F],
    /// Gradient of what each target adds to logits, and which row's it is.
    logits: &'a [F],
    /// The same for each row, where targets are rows in no order.
    scattered: Option<&'a [F]>,
    transposed: Option<&'a Packed<F>>,
    part: Range<usize>,
    features: Option<&'a mut [F]>,
}

impl<F: Real> Loops for Rows<'_, F> {
    type Output = Vec<F>;

    #[inline(always)]
    fn run(self) -> Vec<F> {
        let layout = self.pass.forward.layout;
        match (layout.padded().is_multiple_of(LANES), layout.width().is_multiple_of(LANES / 2)) {
            (true, true) => self.gather::<LANES, true>(),
            (true, false) => self.gather::<LANES, false>(),
            (false, true) => self.gather::<{ LANES / 2 }, true>(),
            (false, false) => self.gather::<{ LANES / 2 }, false>(),
        }
    }
}

impl<F: Real> Rows<'_, F> {
    /// `FULL` where blocks of `N` columns have none that only pad.
    #[inline(always)]
    fn gather<const N: usize, const FULL: bool>(mut self) -> Vec<F> {
        let pass = self.pass;
        let Forward { graph, layout, rows, slope, dropout } = pass.forward;
        let heads = layout.heads();
        let (stride, from, at) = (layout.stride(), layout.gradient_stride(), layout.logits());
        let blocks = layout.blocks(N);
        let mut scores = Scores::new(layout, dropout.is_some(), true);
        let room = scores.edges;
        let [mut added, mut products] = std::array::from_fn(|_| scores.lanes());
        let mut block = vec![F::ZERO; BLOCK * stride];
        let mut sloped = layout.pad(&[]);
        let mut weights = vec![F::ZERO; pass.weights.len()];
        let mut last = Vec::new();
        let columns = pass.weights.len() / stride;
        let targets = &pass.transpose.targets[..];
        let first_row = self.part.start;
        for start in self.part.clone().step_by(BLOCK) {
            let end = self.part.end.min(start + BLOCK);
            block.fill(F::ZERO);
            for (row, gradient) in (start..end).zip(block.chunks_exact_mut(stride)) {
                let edges = pass.transpose.offsets[row] as usize..pass.transpose.offsets[row + 1] as usize;
                let own = &rows[row * stride..][..stride];
                // For the products after the block.
                for line in (row * columns..(row + 1) * columns).step_by(64 / size_of::<F>()) {
                    prefetch(pass.features, line);
                }
                if !edges.is_empty() {
                    sloped.fill(F::ZERO);
                    products.fill([F::ZERO; LANES]);
                    spread(&own[at..], layout.tile(), &mut added);
                    for first in edges.clone().step_by(room) {
                        let part = first..edges.end.min(first + room);
                        let count = part.len();
                        scores.locate(from, targets, part, |target| target as usize);
                        scores.take_all(self.passed, at, count);
                        if let (Some(dropout), Some(positions)) = (&dropout, pass.positions) {
                            scores.drop(dropout, count, |edge| positions[first + edge]);
                        }
                        scores.recompute(count, &added, slope, &mut products);
                        scores.accumulate_all::<N>(self.passed, &blocks, count, gradient, &mut sloped);
                    }
                    let values = sloped.as_chunks::<N>().0.iter().zip(own.as_chunks::<N>().0);
                    let more = &mut gradient[at..];
                    for (more, &product) in more.iter_mut().zip(products.as_flattened()).take(heads) {
                        *more = F::ZERO - product;
                    }
                    more[heads..].fill(F::ZERO);
                    for (block, (sloped, values)) in blocks.iter().zip(values) {
                        let sum = if FULL {
                            dot(sloped, values)
                        } else {
                            dot(&sloped[..block.wide], &values[..block.wide])
                        };
                        more[block.head] = more[block.head] + sum;
                    }
                }
                let added = match (graph.target_rows, self.scattered) {
                    (_, Some(scattered)) => Some(&scattered[row * heads..][..heads]),
                    (super::Targets::From(first), None) => {
                        let target = row.wrapping_sub(first);
                        (target < graph.targets()).then(|| &self.logits[target * heads..][..heads])
                    }
                    (super::Targets::Rows(_), None) => None,
                };
                if let Some(added) = added {
                    for (gradient, &added) in gradient[at + heads..].iter_mut().zip(added) {
                        *gradient = added;
                    }
                }
            }
            let block = &block[..(end - start) * stride];
            let features = &pass.features[start * columns..end * columns];
            add_products(features, columns, block, stride, &mut last, &mut weights);
            if let (Some(out), Some(transposed)) = (&mut self.features, self.transposed) {
                let part = (start - first_row) * columns..(end - first_row) * columns;
                product(block, stride, transposed, &mut out[part]);
            }
        }
        weights
    }
}

impl<F: Real> Backward<'_, F> {
    /// Works out the gradients from that of the output, `[targets, heads * width]`.
    ///
    /// Stores nothing for an edge. O(edges * heads * width + rows * width * stride). The bits do not depend on the
    /// number of threads.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] where lengths do not fit; [`Error::Interrupted`] when the caller asks to stop.
    pub fn run(&self, exec: &Exec, gradients: &[F], into: Gradients<'_, F>) -> Result<(), Error> {
        self.run_by(Simd::detect(), exec, gradients, into)
    }

    pub(super) fn run_by(
        &self,
        simd: Simd,
        exec: &Exec,
        gradients: &[F],
        into: Gradients<'_, F>,
    ) -> Result<(), Error> {
        let Forward { graph, layout, dropout, .. } = self.forward;
        self.forward.check()?;
        let (heads, stride) = (layout.heads(), layout.gradient_stride());
        let columns = heads * layout.width();
        let width = self.weights.len() / layout.stride();
        expect_len("weights", self.weights.len(), width.max(1) * layout.stride())?;
        expect_len("features", self.features.len(), graph.rows() * width)?;
        expect_len("gradient", gradients.len(), graph.targets() * columns)?;
        expect_len("sums", self.sums.len(), graph.targets() * columns)?;
        expect_len("positive", self.positive.len(), graph.targets() * columns)?;
        expect_len("numbers", self.numbers.len(), graph.targets() * 3 * heads)?;
        expect_len("bias", self.bias.map_or(columns, <[F]>::len), columns)?;
        expect_len("transpose", self.transpose.targets.len(), graph.edges())?;
        expect_len("transpose", self.transpose.offsets.len(), graph.rows() + 1)?;
        expect_len("weights' gradient", into.weights.len(), self.weights.len())?;
        if dropout.is_some() {
            expect_len("positions", self.positions.map_or(0, <[u64]>::len), graph.edges())?;
        }
        if let Some(features) = &into.features {
            expect_len("features' gradient", features.len(), self.features.len())?;
        }

        let passed = into.passed;
        expect_len("passed", passed.len(), graph.targets() * stride)?;
        let mut logits = vec![F::ZERO; graph.targets() * heads];
        let mut parts = Vec::new();
        let (mut passed_rest, mut logits_rest) = (&mut *passed, &mut logits[..]);
        for start in (0..graph.targets()).step_by(LEAST as usize / 8) {
            let targets = start..graph.targets().min(start + LEAST as usize / 8);
            let (passed, rest) = passed_rest.split_at_mut(targets.len() * stride);
            passed_rest = rest;
            let (logits, rest) = logits_rest.split_at_mut(targets.len() * heads);
            logits_rest = rest;
            parts.push((targets, passed, logits));
        }
        let bias_parts = exec.map(parts, |(targets, passed, logits)| {
            simd.run(Targets { pass: *self, gradients, part: targets, passed, logits })
        })?;
        if let Some(bias) = into.bias {
            expect_len("bias' gradient", bias.len(), columns)?;
            add_up(&bias_parts, bias);
        }

        let passed = &*passed;
        let of_rows = match graph.target_rows {
            super::Targets::From(_) => None,
            super::Targets::Rows(target_rows) => {
                let mut of_rows = vec![F::ZERO; graph.rows() * heads];
                for (&row, added) in target_rows.iter().zip(logits.chunks_exact(heads)) {
                    for (sum, &added) in of_rows[row as usize * heads..].iter_mut().zip(added) {
                        *sum = *sum + added;
                    }
                }
                Some(of_rows)
            }
        };
        let transposed = into.features.is_some().then(|| {
            Packed::new(layout.stride(), width, |row, column| self.weights[column * layout.stride() + row])
        });
        let mut rest = into.features;
        let mut parts = Vec::new();
        for rows in pieces(&self.transpose.offsets, LEAST, PIECES) {
            let own;
            (own, rest) = match rest {
                None => (None, None),
                Some(rest) => {
                    let (own, rest) = rest.split_at_mut(rows.len() * width);
                    (Some(own), Some(rest))
                }
            };
            parts.push((rows, own));
        }
        let weight_parts = exec.map(parts, |(rows, features)| {
            simd.run(Rows {
                pass: *self,
                passed,
                logits: &logits,
                scattered: of_rows.as_deref(),
                transposed: transposed.as_ref(),
                part: rows,
                features,
            })
        })?;
        add_up(&weight_parts, into.weights);
        Ok(())
    }
}

/// The sums of the parts, in their order.
fn add_up<F: Real>(parts: &[Vec<F>], sums: &mut [F]) {
    sums.fill(F::ZERO);
    for part in parts {
        for (sum, &value) in sums.iter_mut().zip(part) {
            *sum = *sum + value;
        }
    }
}
