//! Backward: what each target passes on, then for each source a pass over the transposed graph.
//!
//! With `a` the coefficient of an edge before dropout, `m` dropout's factor, `z` the values of its source and `d` the
//! gradient of its target's sum, the gradient of the logit is `a (m <d, z> - s)` where `s = sum a m <d, z>`, which is
//! `<d, sum>`. Times the slope at the logit, it is summed over a target's edges for what the target adds to logits:
//! `(1 - slope) (<d, positive> - s positive share)`, from sums that the forward pass has kept, since without the slopes
//! the gradients of a target's logits add up to 0. Over a source's edges it is summed for what the source adds:
//! `<v, z> - sum a slope s`, where `v = sum a m slope d` is summed beside the gradient of the values, `sum a m d`.

use std::ops::Range;

use super::forward::{AHEAD, LEAST, expect_len};
use super::graph::{Transpose, pieces};
use super::rows::{LANES, Packed, add_products, product};
use super::scores::Scores;
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
        let Forward { layout, slope, .. } = self.pass.forward;
        let (heads, width, padded) = (layout.heads(), layout.width(), layout.padded());
        let (columns, stride, at) = (heads * width, layout.gradient_stride(), layout.logits());
        let row = layout.stride();
        let mut bias_gradient = vec![F::ZERO; if self.pass.bias.is_some() { columns } else { 0 }];
        let mut inner = vec![F::ZERO; width];
        for (place, target) in self.part.clone().enumerate() {
            let numbers = &self.pass.numbers[target * 3 * heads..][..3 * heads];
            let own = self.pass.forward.graph.target_rows.row(target);
            let added = &self.pass.forward.rows[own * row + at + heads..][..heads];
            let passed = &mut self.passed[place * stride..][..stride];
            for head in 0..heads {
                let part = target * columns + head * width..target * columns + (head + 1) * width;
                let (sums, positive) = (&self.pass.sums[part.clone()], &self.pass.positive[part.clone()]);
                inner.copy_from_slice(&self.gradients[part]);
                let bias = self.pass.bias.map(|bias| &bias[head * width..][..width]);
                if self.pass.activation == Activation::Elu {
                    for (at, inner) in inner.iter_mut().enumerate() {
                        let value = bias.map_or(sums[at], |bias| sums[at] + bias[at]);
                        let slope = value.exp();
                        *inner = if value > F::ZERO { *inner } else { *inner * slope };
                    }
                }
                if !bias_gradient.is_empty() {
                    let sums = &mut bias_gradient[head * width..][..width];
                    for (sum, &inner) in sums.iter_mut().zip(&inner) {
                        *sum = *sum + inner;
                    }
                }
                let (all, above) = (dot(&inner, sums), dot(&inner, positive));
                let scale = numbers[heads + head];
                for (passed, &inner) in passed[head * padded..].iter_mut().zip(&inner) {
                    *passed = inner * scale;
                }
                self.logits[place * heads + head] =
                    (F::ONE - slope) * (above - all * numbers[2 * heads + head]);
                passed[at + 2 * heads + head] = all * scale;
            }
            // After the heads: these may stand in what pads the last.
            passed[at..at + heads].copy_from_slice(added);
            passed[at + heads..at + 2 * heads].copy_from_slice(&numbers[..heads]);
        }
        bias_gradient
    }
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
        if self.pass.forward.layout.padded().is_multiple_of(LANES) {
            self.gather::<LANES>()
        } else {
            self.gather::<{ LANES / 2 }>()
        }
    }
}

impl<F: Real> Rows<'_, F> {
    #[inline(always)]
    fn gather<const N: usize>(mut self) -> Vec<F> {
        let pass = self.pass;
        let Forward { graph, layout, rows, slope, dropout } = pass.forward;
        let (heads, width, padded) = (layout.heads(), layout.width(), layout.padded());
        let (stride, from, at) = (layout.stride(), layout.gradient_stride(), layout.logits());
        let mut scores = Scores::new(heads, dropout.is_some(), true);
        let room = scores.edges;
        let mut block = vec![F::ZERO; BLOCK * stride];
        let mut sums = vec![F::ZERO; heads * padded];
        let mut sloped = vec![F::ZERO; heads * padded];
        let mut products = vec![F::ZERO; heads];
        let mut weights = vec![F::ZERO; pass.weights.len()];
        let (mut turned, mut grouped) = (Vec::new(), Vec::new());
        let columns = pass.weights.len() / stride;
        let targets = &pass.transpose.targets[..];
        let first_row = self.part.start;
        for start in self.part.clone().step_by(BLOCK) {
            let end = self.part.end.min(start + BLOCK);
            block.fill(F::ZERO);
            for (row, gradient) in (start..end).zip(block.chunks_exact_mut(stride)) {
                let edges = pass.transpose.offsets[row] as usize..pass.transpose.offsets[row + 1] as usize;
                let own = &rows[row * stride..][..stride];
                if !edges.is_empty() {
                    sums.fill(F::ZERO);
                    sloped.fill(F::ZERO);
                    products.fill(F::ZERO);
                    for first in edges.clone().step_by(room) {
                        let part = first..edges.end.min(first + room);
                        let count = part.len();
                        for (place, edge) in part.enumerate() {
                            if let Some(&target) = targets.get(edge + AHEAD) {
                                for line in (0..from).step_by(64 / size_of::<F>()) {
                                    prefetch(self.passed, target as usize * from + line);
                                }
                            }
                            let begin = targets[edge] as usize * from;
                            scores.starts[place] = begin;
                            let numbers = &self.passed[begin + at..][..3 * heads];
                            for head in 0..heads {
                                scores.weights[head * room + place] = numbers[head];
                                scores.highest[head * room + place] = numbers[heads + head];
                                scores.products[head * room + place] = numbers[2 * heads + head];
                            }
                        }
                        if let (Some(dropout), Some(positions)) = (&dropout, pass.positions) {
                            scores.drop(dropout, count, |edge| positions[first + edge]);
                        }
                        scores.recompute(count, &own[at..at + heads], slope, &mut products);
                        for head in 0..heads {
                            for column in (head * padded..(head + 1) * padded).step_by(N) {
                                let (sums, sloped) = (&mut sums[column..], &mut sloped[column..]);
                                scores.accumulate::<N>(self.passed, column, head, count, sums, sloped);
                            }
                        }
                    }
                    for head in 0..heads {
                        let part = head * padded..head * padded + width;
                        gradient[part.clone()].copy_from_slice(&sums[part.clone()]);
                        gradient[at + head] = dot(&sloped[part.clone()], &own[part]) - products[head];
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
                    gradient[at + heads..at + 2 * heads].copy_from_slice(added);
                }
            }
            let block = &block[..(end - start) * stride];
            let features = &pass.features[start * columns..end * columns];
            add_products(features, columns, block, stride, (&mut turned, &mut grouped), &mut weights);
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
