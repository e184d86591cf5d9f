//! The softmax over some edges of one node, for all heads: where edges become coefficients.

use super::Real;
use super::rows::LANES;
use crate::Seed;
use crate::seed::stream;

/// Edges that are worked on together, where there are few heads.
const MOST_EDGES: usize = 256;
/// Coefficients that are held at once.
const MOST: usize = 4096;

/// Dropout of attention coefficients: each is dropped, or kept and scaled so that the mean stays.
///
/// Which are dropped is a function of the seed and of the edge's position and head: 16 bits of a draw each, so that
/// the share is met to the nearest 1/65536.
///
/// ```
/// use mbflow_core::{Dropout, Seed};
///
/// let dropout = Dropout::new(0.25, Seed(7))?;
/// let kept = (0..4000).filter(|&edge| dropout.factor::<f32>(edge, 0, 1) > 0.0).count();
/// assert!((2900..3100).contains(&kept));
/// assert_eq!(Dropout::new(0.5, Seed(7))?.factor::<f64>(3, 1, 2).max(2.0), 2.0);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Dropout<'a>(Kind<'a>);

#[derive(Debug, Clone, Copy)]
enum Kind<'a> {
    Keyed { seed: Seed, limit: u64, scale: f64 },
    Given(&'a [f32]),
}

impl<'a> Dropout<'a> {
    /// Dropout of a share from 0 up to below 1.
    ///
    /// # Errors
    ///
    /// [`crate::Error::InvalidArgument`] for any other share.
    pub fn new(share: f64, seed: Seed) -> Result<Self, crate::Error> {
        if !(0.0..1.0).contains(&share) {
            let message = format!("expected at least 0 and below 1, got {share}");
            return Err(crate::Error::argument("dropout", message));
        }
        let limit = ((share * 65536.0).round() as u64).min(65535);
        Ok(Self(Kind::Keyed { seed, limit, scale: 65536.0 / (65536 - limit) as f64 }))
    }

    /// Factors that the caller has drawn, `[edges, heads]`.
    ///
    /// ```
    /// assert_eq!(mbflow_core::Dropout::given(&[0.0, 2.0]).factor::<f32>(0, 1, 2), 2.0);
    /// ```
    pub fn given(factors: &'a [f32]) -> Self {
        Self(Kind::Given(factors))
    }

    /// The number of factors, where they are given.
    pub(super) fn len(&self) -> Option<usize> {
        match self.0 {
            Kind::Keyed { .. } => None,
            Kind::Given(factors) => Some(factors.len()),
        }
    }

    /// What the coefficient of an edge and head is multiplied with.
    ///
    /// # Panics
    ///
    /// Factors are given, and not for this edge.
    #[inline(always)]
    pub fn factor<F: Real>(&self, edge: u64, head: usize, heads: usize) -> F {
        self.of_draw(self.draw(edge, head, heads), edge, head, heads)
    }

    /// The draw for a head and those that share it: four heads have one.
    #[inline(always)]
    fn draw(&self, edge: u64, head: usize, heads: usize) -> u64 {
        let Kind::Keyed { seed, .. } = self.0 else { return 0 };
        let draws = heads.div_ceil(4) as u64;
        seed.u64_at(stream::ATTENTION, edge.wrapping_mul(draws).wrapping_add(head as u64 / 4))
    }

    #[inline(always)]
    fn of_draw<F: Real>(&self, draw: u64, edge: u64, head: usize, heads: usize) -> F {
        match self.0 {
            Kind::Keyed { limit, scale, .. } => {
                let bits = draw >> (16 * (head % 4)) & 0xFFFF;
                if bits < limit { F::ZERO } else { F::from_f64(scale) }
            }
            Kind::Given(factors) => F::from_f64(f64::from(factors[edge as usize * heads + head])),
        }
    }
}

/// The coefficients of some edges, head after head; room for `edges` of each.
pub(super) struct Scores<F> {
    /// Logits, then what each edge weighs in the sum.
    pub(super) weights: Vec<F>,
    /// Forward: the weights of edges with a positive logit, else 0. Backward: weights times the slope at the logit.
    pub(super) others: Vec<F>,
    /// Backward: two numbers of the target of each edge.
    pub(super) highest: Vec<F>,
    pub(super) products: Vec<F>,
    /// Dropout's factors.
    factors: Vec<F>,
    /// Where the row of each edge begins.
    pub(super) starts: Vec<usize>,
    pub(super) edges: usize,
    heads: usize,
}

impl<F: Real> Scores<F> {
    pub(super) fn new(heads: usize, dropout: bool, backward: bool) -> Self {
        let edges = (MOST / heads).clamp(LANES, MOST_EDGES).next_multiple_of(LANES);
        let numbers = |wanted: bool| vec![F::ZERO; if wanted { heads * edges } else { 0 }];
        Self {
            weights: numbers(true),
            others: numbers(true),
            highest: numbers(backward),
            products: numbers(backward),
            factors: numbers(dropout),
            starts: vec![0; edges],
            edges,
            heads,
        }
    }

    /// Takes dropout's factors of edges whose positions are told.
    #[inline(always)]
    pub(super) fn drop(&mut self, dropout: &Dropout<'_>, count: usize, position: impl Fn(usize) -> u64) {
        for edge in 0..count {
            let position = position(edge);
            for first in (0..self.heads).step_by(4) {
                let draw = dropout.draw(position, first, self.heads);
                for head in first..self.heads.min(first + 4) {
                    self.factors[head * self.edges + edge] =
                        dropout.of_draw(draw, position, head, self.heads);
                }
            }
        }
    }

    /// Makes logits of what sources add, and gives the highest of each head, or `highest` where that is higher.
    #[inline(always)]
    pub(super) fn rectify(&mut self, count: usize, added: &[F], slope: F, highest: &mut [F]) {
        let padded = count.next_multiple_of(LANES);
        for (head, (&added, highest)) in added.iter().zip(highest).enumerate() {
            let logits = &mut self.weights[head * self.edges..][..padded];
            for logit in &mut *logits {
                *logit = leaky(*logit + added, slope);
            }
            logits[count..].fill(F::LOWEST);
            let mut tops = [F::LOWEST; LANES];
            for lanes in logits.as_chunks::<LANES>().0 {
                for lane in 0..LANES {
                    tops[lane] = if lanes[lane] > tops[lane] { lanes[lane] } else { tops[lane] };
                }
            }
            for top in tops {
                *highest = if top > *highest { top } else { *highest };
            }
        }
    }

    /// Makes weights of logits, not yet divided by their sum; adds to each head's sum and to that of positive logits.
    #[inline(always)]
    pub(super) fn exponentiate(&mut self, count: usize, highest: &[F], sums: &mut [F], positive: &mut [F]) {
        let padded = count.next_multiple_of(LANES);
        let dropped = !self.factors.is_empty();
        for (head, &highest) in highest.iter().enumerate() {
            let part = head * self.edges..head * self.edges + padded;
            let (weights, _) = self.weights[part.clone()].as_chunks_mut::<LANES>();
            let (others, _) = self.others[part.clone()].as_chunks_mut::<LANES>();
            let mut all = [F::ZERO; LANES];
            let mut above = [F::ZERO; LANES];
            for (weights, others) in weights.iter_mut().zip(others.iter_mut()) {
                for lane in 0..LANES {
                    let logit = weights[lane];
                    let weight = (logit - highest).exp();
                    let other = if logit > F::ZERO { weight } else { F::ZERO };
                    all[lane] = all[lane] + weight;
                    above[lane] = above[lane] + other;
                    weights[lane] = weight;
                    others[lane] = other;
                }
            }
            sums[head] = sums[head] + total(&all);
            positive[head] = positive[head] + total(&above);
            if dropped {
                let (factors, _) = self.factors[part].as_chunks::<LANES>();
                for ((weights, others), factors) in weights.iter_mut().zip(others).zip(factors) {
                    for lane in 0..LANES {
                        weights[lane] = weights[lane] * factors[lane];
                        others[lane] = others[lane] * factors[lane];
                    }
                }
            }
        }
    }

    /// Backward: from what the targets of edges of one source add to weights and weights times slope; gives each
    /// head's sum of the latter times `products`, without dropout.
    #[inline(always)]
    pub(super) fn recompute(&mut self, count: usize, added: &[F], slope: F, sums: &mut [F]) {
        let padded = count.next_multiple_of(LANES);
        let dropped = !self.factors.is_empty();
        for (head, &added) in added.iter().enumerate() {
            let part = head * self.edges..head * self.edges + padded;
            for numbers in [&mut self.weights, &mut self.products] {
                numbers[part.clone()][count..].fill(F::ZERO);
            }
            // e to minus infinity: lanes without an edge weigh nothing.
            self.highest[part.clone()][count..].fill(F::ZERO - F::LOWEST);
            let (weights, _) = self.weights[part.clone()].as_chunks_mut::<LANES>();
            let (others, _) = self.others[part.clone()].as_chunks_mut::<LANES>();
            let (highest, _) = self.highest[part.clone()].as_chunks::<LANES>();
            let (products, _) = self.products[part.clone()].as_chunks::<LANES>();
            let mut all = [F::ZERO; LANES];
            let numbers = weights.iter_mut().zip(others.iter_mut()).zip(highest.iter().zip(products));
            for ((weights, others), (highest, products)) in numbers {
                for lane in 0..LANES {
                    let logit = added + weights[lane];
                    let weight = (leaky(logit, slope) - highest[lane]).exp();
                    let sloped = if logit > F::ZERO { weight } else { weight * slope };
                    all[lane] = sloped.mul_add(products[lane], all[lane]);
                    weights[lane] = weight;
                    others[lane] = sloped;
                }
            }
            sums[head] = sums[head] + total(&all);
            if dropped {
                let (factors, _) = self.factors[part].as_chunks::<LANES>();
                for ((weights, others), factors) in weights.iter_mut().zip(others).zip(factors) {
                    for lane in 0..LANES {
                        weights[lane] = weights[lane] * factors[lane];
                        others[lane] = others[lane] * factors[lane];
                    }
                }
            }
        }
    }

    /// Adds the rows of the edges, weighted in two ways, to two sums of `N` columns, from `column` of the rows on.
    #[inline(always)]
    pub(super) fn accumulate<const N: usize>(
        &self,
        rows: &[F],
        column: usize,
        head: usize,
        count: usize,
        sums: &mut [F],
        others: &mut [F],
    ) {
        let (Some(sums), Some(others)) = (sums.first_chunk_mut::<N>(), others.first_chunk_mut::<N>()) else {
            return;
        };
        let (mut first, mut second) = (*sums, *others);
        let weights = &self.weights[head * self.edges..][..count];
        let further = &self.others[head * self.edges..][..count];
        for ((&start, &weight), &other) in self.starts[..count].iter().zip(weights).zip(further) {
            let Some(values) = rows[start + column..].first_chunk::<N>() else { return };
            for lane in 0..N {
                first[lane] = values[lane].mul_add(weight, first[lane]);
                second[lane] = values[lane].mul_add(other, second[lane]);
            }
        }
        (*sums, *others) = (first, second);
    }
}

/// The leaky rectifier; `slope` is not below 0.
#[inline(always)]
pub(super) fn leaky<F: Real>(logit: F, slope: F) -> F {
    if logit > F::ZERO { logit } else { logit * slope }
}

/// The sum of some lanes, in pairs.
#[inline(always)]
pub(super) fn total<F: Real>(lanes: &[F; LANES]) -> F {
    let eight: [F; 8] = std::array::from_fn(|lane| lanes[lane] + lanes[lane + 8]);
    let four: [F; 4] = std::array::from_fn(|lane| eight[lane] + eight[lane + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}
