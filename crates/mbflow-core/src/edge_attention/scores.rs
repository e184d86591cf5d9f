//! The softmax over some edges of one node, for all heads: where edges become coefficients.

use std::ops::Range;

use super::Real;
use super::rows::{Block, HeadRows, LANES};
use crate::Seed;
use crate::seed::stream;
use crate::simd::prefetch;

/// Edges between the last that is worked on and the one whose row is asked for.
const AHEAD: usize = 16;
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

/// A number of each head, again and again, so that it meets the heads of coefficients that are side by side.
pub(super) type Lanes<F> = [F; LANES];

/// The coefficients of some edges, edge by edge with its heads side by side, so that vectors are full also where nodes
/// have few edges. Each edge has room for `tile` heads, see [`super::HeadRows::tile`]; what is beyond the last means
/// nothing.
pub(super) struct Scores<F> {
    /// Logits, then what each edge weighs in the sum.
    weights: Vec<F>,
    /// Forward: the weights of edges with a positive logit, else 0. Backward: weights times the slope at the logit.
    others: Vec<F>,
    /// Backward: two numbers of the target of each edge.
    highest: Vec<F>,
    products: Vec<F>,
    /// Dropout's factors.
    factors: Vec<F>,
    /// Where the row of each edge begins, and those of the edges after the last.
    starts: Vec<usize>,
    /// Edges that there is room for.
    pub(super) edges: usize,
    heads: usize,
    tile: usize,
}

impl<F: Real> Scores<F> {
    pub(super) fn new(layout: HeadRows, dropout: bool, backward: bool) -> Self {
        let tile = layout.tile();
        let edges = (MOST / tile).clamp(LANES, MOST_EDGES).next_multiple_of(LANES);
        let numbers = |wanted: bool| vec![F::ZERO; if wanted { tile * edges } else { 0 }];
        Self {
            weights: numbers(true),
            others: numbers(true),
            highest: numbers(backward),
            products: numbers(backward),
            factors: numbers(dropout),
            starts: vec![0; edges + AHEAD],
            edges,
            heads: layout.heads(),
            tile,
        }
    }

    /// Lanes for a number of each head.
    pub(super) fn lanes(&self) -> Vec<Lanes<F>> {
        vec![[F::ZERO; LANES]; self.tile.div_ceil(LANES)]
    }

    /// Finds the rows of edges, each `stride` long, and those of edges that come later.
    #[inline(always)]
    pub(super) fn locate<I: Copy>(
        &mut self,
        stride: usize,
        ids: &[I],
        edges: Range<usize>,
        row: impl Fn(I) -> usize,
    ) {
        let known = edges.start..ids.len().min(edges.end + AHEAD);
        let (starts, rest) = self.starts[..edges.len() + AHEAD].split_at_mut(known.len());
        for (start, &id) in starts.iter_mut().zip(&ids[known]) {
            *start = row(id) * stride;
        }
        rest.fill(0);
    }

    /// Takes what the rows that were found add to logits.
    #[inline(always)]
    pub(super) fn take(&mut self, rows: &[F], column: usize, count: usize) {
        gather(&mut self.weights, self.tile, rows, &self.starts[..count + AHEAD], column);
    }

    /// Backward: takes that, the highest logits and the products, of which rows have so many each.
    #[inline(always)]
    pub(super) fn take_all(&mut self, rows: &[F], column: usize, count: usize) {
        let (tile, starts) = (self.tile, &self.starts[..count + AHEAD]);
        gather(&mut self.weights, tile, rows, starts, column);
        gather(&mut self.highest, tile, rows, starts, column + self.heads);
        gather(&mut self.products, tile, rows, starts, column + 2 * self.heads);
    }

    /// Takes dropout's factors of edges whose positions are told.
    #[inline(always)]
    pub(super) fn drop(&mut self, dropout: &Dropout<'_>, count: usize, position: impl Fn(usize) -> u64) {
        for (edge, factors) in self.factors.chunks_exact_mut(self.tile).take(count).enumerate() {
            let position = position(edge);
            for (group, factors) in factors[..self.heads].chunks_mut(4).enumerate() {
                let draw = dropout.draw(position, group * 4, self.heads);
                for (head, factor) in factors.iter_mut().enumerate() {
                    *factor = dropout.of_draw(draw, position, group * 4 + head, self.heads);
                }
            }
        }
    }

    /// Makes logits of what sources add, and gives the highest of each head, or `highest` where that is higher.
    #[inline(always)]
    pub(super) fn rectify(&mut self, count: usize, added: &[Lanes<F>], slope: F, highest: &mut [Lanes<F>]) {
        let used = count * self.tile;
        let (weights, _) = self.weights[..used.next_multiple_of(LANES)].as_chunks_mut::<LANES>();
        let groups = added.len();
        for (group, (added, highest)) in added.iter().zip(highest).enumerate() {
            let mut tops = *highest;
            for place in (group..weights.len()).step_by(groups) {
                let left = (used - place * LANES) as u32;
                let logits = &mut weights[place];
                for lane in 0..LANES {
                    let logit = leaky(logits[lane] + added[lane], slope);
                    let logit = if (lane as u32) < left { logit } else { F::LOWEST };
                    tops[lane] = if logit > tops[lane] { logit } else { tops[lane] };
                    logits[lane] = logit;
                }
            }
            *highest = fold(tops, self.tile, |one, other| if one > other { one } else { other });
        }
    }

    /// Makes weights of logits, not yet divided by their sum; adds to each head's sum and to that of positive logits.
    #[inline(always)]
    pub(super) fn exponentiate(
        &mut self,
        count: usize,
        highest: &[Lanes<F>],
        sums: &mut [Lanes<F>],
        positive: &mut [Lanes<F>],
    ) {
        let padded = (count * self.tile).next_multiple_of(LANES);
        let (weights, _) = self.weights[..padded].as_chunks_mut::<LANES>();
        let (others, _) = self.others[..padded].as_chunks_mut::<LANES>();
        let groups = highest.len();
        for (group, highest) in highest.iter().enumerate() {
            let mut all = [F::ZERO; LANES];
            let mut above = [F::ZERO; LANES];
            for place in (group..weights.len()).step_by(groups) {
                let (weights, others) = (&mut weights[place], &mut others[place]);
                for lane in 0..LANES {
                    let logit = weights[lane];
                    let weight = (logit - highest[lane]).exp();
                    let other = if logit > F::ZERO { weight } else { F::ZERO };
                    all[lane] = all[lane] + weight;
                    above[lane] = above[lane] + other;
                    weights[lane] = weight;
                    others[lane] = other;
                }
            }
            add(&mut sums[group], &fold(all, self.tile, |one, other| one + other));
            add(&mut positive[group], &fold(above, self.tile, |one, other| one + other));
        }
        self.multiply(padded);
    }

    /// Backward: from what the targets of edges of one source add to weights and weights times slope; gives each
    /// head's sum of the latter times `products`, without dropout.
    #[inline(always)]
    pub(super) fn recompute(&mut self, count: usize, added: &[Lanes<F>], slope: F, sums: &mut [Lanes<F>]) {
        let used = count * self.tile;
        let padded = used.next_multiple_of(LANES);
        let (weights, _) = self.weights[..padded].as_chunks_mut::<LANES>();
        let (others, _) = self.others[..padded].as_chunks_mut::<LANES>();
        let (highest, _) = self.highest[..padded].as_chunks::<LANES>();
        let (products, _) = self.products[..padded].as_chunks::<LANES>();
        let groups = added.len();
        for (group, (added, sums)) in added.iter().zip(sums).enumerate() {
            let mut all = [F::ZERO; LANES];
            for place in (group..weights.len()).step_by(groups) {
                let left = (used - place * LANES) as u32;
                let (weights, others) = (&mut weights[place], &mut others[place]);
                let (highest, products) = (&highest[place], &products[place]);
                for lane in 0..LANES {
                    let logit = added[lane] + weights[lane];
                    let weight = (leaky(logit, slope) - highest[lane]).exp();
                    let sloped = if logit > F::ZERO { weight } else { weight * slope };
                    let sum = sloped.mul_add(products[lane], all[lane]);
                    all[lane] = if (lane as u32) < left { sum } else { all[lane] };
                    weights[lane] = weight;
                    others[lane] = sloped;
                }
            }
            add(sums, &fold(all, self.tile, |one, other| one + other));
        }
        self.multiply(padded);
    }

    /// Multiplies with dropout's factors, where there are any.
    #[inline(always)]
    fn multiply(&mut self, padded: usize) {
        for ((weight, other), &factor) in
            self.weights.iter_mut().zip(&mut self.others).zip(&self.factors).take(padded)
        {
            *weight = *weight * factor;
            *other = *other * factor;
        }
    }

    /// The weights of the heads of each edge.
    pub(super) fn edge_weights(&self) -> impl Iterator<Item = &[F]> {
        self.weights.chunks_exact(self.tile).map(|weights| &weights[..self.heads])
    }

    /// Adds the rows of the edges, weighted in two ways, to two sums of `B` blocks of `N` columns, from `column` of the
    /// rows on; block `b` belongs to `heads[b]`.
    #[inline(always)]
    pub(super) fn accumulate<const N: usize, const B: usize>(
        &self,
        rows: &[F],
        column: usize,
        heads: [usize; B],
        count: usize,
        sums: &mut [F],
        others: &mut [F],
    ) {
        let (sums, _) = sums[column..][..B * N].as_chunks_mut::<N>();
        let (others, _) = others[column..][..B * N].as_chunks_mut::<N>();
        let mut first: [[F; N]; B] = std::array::from_fn(|block| sums[block]);
        let mut second: [[F; N]; B] = std::array::from_fn(|block| others[block]);
        let weights = self.weights.chunks_exact(self.tile);
        let further = self.others.chunks_exact(self.tile);
        let starts = self.starts[..count].iter().zip(&self.starts[AHEAD..]);
        for (((&start, &later), weights), further) in starts.zip(weights).zip(further) {
            for line in (0..B * N).step_by(64 / size_of::<F>()) {
                prefetch(rows, later + column + line);
            }
            let (values, _) = rows[start + column..][..B * N].as_chunks::<N>();
            for block in 0..B {
                let (weight, other) = (weights[heads[block]], further[heads[block]]);
                for lane in 0..N {
                    first[block][lane] = values[block][lane].mul_add(weight, first[block][lane]);
                    second[block][lane] = values[block][lane].mul_add(other, second[block][lane]);
                }
            }
        }
        for block in 0..B {
            (sums[block], others[block]) = (first[block], second[block]);
        }
    }

    /// [`Self::accumulate`] for all columns, two blocks at a time: what both sums of two blocks of sixteen take is half
    /// of AVX2's registers. The sums have a row's columns.
    #[inline(always)]
    pub(super) fn accumulate_all<const N: usize>(
        &self,
        rows: &[F],
        blocks: &[Block],
        count: usize,
        sums: &mut [F],
        others: &mut [F],
    ) {
        let (pairs, rest) = blocks.as_chunks::<2>();
        for (pair, blocks) in pairs.iter().enumerate() {
            let heads = blocks.map(|block| block.head);
            self.accumulate::<N, 2>(rows, pair * 2 * N, heads, count, sums, others);
        }
        if let Some(block) = rest.first() {
            self.accumulate::<N, 1>(rows, pairs.len() * 2 * N, [block.head], count, sums, others);
        }
    }
}

/// Copies `tile` numbers of each row but the last, from `column` on, and asks for those of the row `AHEAD` later.
#[inline(always)]
fn gather<F: Real>(into: &mut [F], tile: usize, rows: &[F], starts: &[usize], column: usize) {
    #[inline(always)]
    fn tiles<F: Real, const T: usize>(into: &mut [F], rows: &[F], starts: &[usize], column: usize) {
        let starts = starts.iter().zip(&starts[AHEAD..]);
        for (into, (&start, &later)) in into.as_chunks_mut::<T>().0.iter_mut().zip(starts) {
            prefetch(rows, later + column);
            into.copy_from_slice(&rows[start + column..][..T]);
        }
    }
    match tile {
        1 => tiles::<F, 1>(into, rows, starts, column),
        2 => tiles::<F, 2>(into, rows, starts, column),
        4 => tiles::<F, 4>(into, rows, starts, column),
        8 => tiles::<F, 8>(into, rows, starts, column),
        _ => {
            let starts = starts.iter().zip(&starts[AHEAD..]);
            for (into, (&start, &later)) in into.chunks_exact_mut(tile).zip(starts) {
                for line in (0..tile).step_by(64 / size_of::<F>()) {
                    prefetch(rows, later + column + line);
                }
                into.copy_from_slice(&rows[start + column..][..tile]);
            }
        }
    }
}

/// Repeats the `tile` numbers that `values` begins with.
#[inline(always)]
pub(super) fn spread<F: Real>(values: &[F], tile: usize, into: &mut [Lanes<F>]) {
    #[inline(always)]
    fn repeat<F: Real, const T: usize>(values: &[F], into: &mut [Lanes<F>]) {
        if let (Some(values), Some(into)) = (values.first_chunk::<T>(), into.first_mut()) {
            *into = std::array::from_fn(|lane| values[lane % T]);
        }
    }
    match tile {
        1 => repeat::<F, 1>(values, into),
        2 => repeat::<F, 2>(values, into),
        4 => repeat::<F, 4>(values, into),
        8 => repeat::<F, 8>(values, into),
        _ => into.as_flattened_mut().copy_from_slice(&values[..tile]),
    }
}

/// Joins the lanes of each head; each lane gets the result of its head.
#[inline(always)]
fn fold<F: Real>(mut lanes: Lanes<F>, tile: usize, join: impl Fn(F, F) -> F) -> Lanes<F> {
    if tile <= 8 {
        lanes = std::array::from_fn(|lane| join(lanes[lane], lanes[lane ^ 8]));
    }
    if tile <= 4 {
        lanes = std::array::from_fn(|lane| join(lanes[lane], lanes[lane ^ 4]));
    }
    if tile <= 2 {
        lanes = std::array::from_fn(|lane| join(lanes[lane], lanes[lane ^ 2]));
    }
    if tile <= 1 {
        lanes = std::array::from_fn(|lane| join(lanes[lane], lanes[lane ^ 1]));
    }
    lanes
}

#[inline(always)]
fn add<F: Real>(sums: &mut Lanes<F>, more: &Lanes<F>) {
    for lane in 0..LANES {
        sums[lane] = sums[lane] + more[lane];
    }
}

/// The leaky rectifier; `slope` is not below 0.
#[inline(always)]
fn leaky<F: Real>(logit: F, slope: F) -> F {
    if logit > F::ZERO { logit } else { logit * slope }
}
