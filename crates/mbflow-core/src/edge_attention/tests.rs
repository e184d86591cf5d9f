//! Both passes against the definition, edge by edge in float64, and against differences.

use proptest::prelude::*;

use super::{
    Activation, AttentionGraph, Backward, Dropout, Forward, Gradients, HeadRows, Real, Saved, Sources,
    Targets, project,
};
use crate::{Exec, Seed, Simd};

/// A graph and a layer with numbers of their own.
#[derive(Debug, Clone)]
struct Case {
    offsets: Vec<u64>,
    sources: Vec<u32>,
    rows: usize,
    first: usize,
    layout: HeadRows,
    inputs: usize,
    features: Vec<f64>,
    weights: Vec<f64>,
    bias: Vec<f64>,
    activation: Activation,
    slope: f64,
    factors: Option<Vec<f32>>,
}

fn normal(seed: u64, count: usize, scale: f64) -> Vec<f64> {
    (0..count).map(|at| f64::from(Seed(seed).normal(9, at as u64)) * scale).collect()
}

impl Case {
    fn new(
        seed: u64,
        rows: usize,
        targets: usize,
        edges: usize,
        heads: usize,
        width: usize,
        inputs: usize,
    ) -> Self {
        let draw = |stream, at: usize, bound: usize| {
            (Seed(seed).u64_at(stream, at as u64) % bound.max(1) as u64) as usize
        };
        let edges = if targets == 0 { 0 } else { edges };
        let mut offsets = vec![0_u64; targets + 1];
        for edge in 0..edges {
            offsets[draw(70, edge, targets) + 1] += 1;
        }
        for target in 0..targets {
            offsets[target + 1] += offsets[target];
        }
        let layout = HeadRows::new(heads, width).expect("in range");
        // Columns that pad rows are 0, as the contract says.
        let mut weights = vec![0.0; inputs * layout.stride()];
        let drawn = normal(seed ^ 1, weights.len(), 0.5);
        for (at, weight) in weights.iter_mut().enumerate() {
            let column = at % layout.stride();
            let (head, lane) = (column / layout.padded(), column % layout.padded());
            let logit = (layout.logits()..layout.logits() + 2 * heads).contains(&column);
            if logit || (head < heads && lane < width) {
                *weight = drawn[at];
            }
        }
        Self {
            offsets,
            sources: (0..edges).map(|edge| draw(71, edge, rows) as u32).collect(),
            rows,
            first: rows - targets,
            layout,
            inputs,
            features: normal(seed ^ 2, rows * inputs, 1.0),
            weights,
            bias: normal(seed ^ 3, heads * width, 1.0),
            activation: if seed.is_multiple_of(2) { Activation::Elu } else { Activation::None },
            slope: [0.0, 0.2, 1.5][(seed % 3) as usize],
            factors: seed
                .is_multiple_of(5)
                .then(|| (0..edges * heads).map(|at| if draw(72, at, 3) == 0 { 0.0 } else { 1.5 }).collect()),
        }
    }

    fn graph(&self) -> AttentionGraph<'_> {
        AttentionGraph::new(&self.offsets, Sources::U32(&self.sources), self.rows, Targets::From(self.first))
            .expect("valid")
    }

    /// Output and gradients of the sum of `upstream * output`, by the kernels.
    fn run<F: Real>(&self, simd: Simd, exec: &Exec, upstream: &[f64]) -> [Vec<F>; 4] {
        let of = |values: &[f64]| values.iter().map(|&value| F::from_f64(value)).collect::<Vec<F>>();
        let (features, weights, bias) = (of(&self.features), of(&self.weights), of(&self.bias));
        let zeros = |count: usize| vec![F::from_f64(f64::NAN); count];
        let (graph, layout) = (self.graph(), self.layout);
        let mut rows = zeros(self.rows * layout.stride());
        project(exec, &features, &weights, layout.stride(), &mut rows).expect("fits");
        let dropout = self.factors.as_deref().map(Dropout::given);
        let forward = Forward { graph, layout, rows: &rows, slope: F::from_f64(self.slope), dropout };
        let size = graph.targets() * bias.len();
        let (mut out, mut sums, mut positive) = (zeros(size), zeros(size), zeros(size));
        let mut numbers = zeros(graph.targets() * 3 * layout.heads());
        let saved = Saved { sums: Some(&mut sums), positive: &mut positive, numbers: &mut numbers };
        forward.attend_by(simd, exec, Some(&bias), self.activation, &mut out, Some(saved)).expect("fits");
        let transpose = graph.transpose();
        let positions = graph.positions(&transpose);
        let backward = Backward {
            forward,
            features: &features,
            weights: &weights,
            bias: Some(&bias),
            activation: self.activation,
            sums: &sums,
            positive: &positive,
            numbers: &numbers,
            transpose: &transpose,
            positions: Some(&positions),
        };
        let (mut to_features, mut to_weights, mut to_bias) =
            (zeros(features.len()), zeros(weights.len()), zeros(bias.len()));
        let mut passed = vec![F::ZERO; graph.targets() * layout.gradient_stride()];
        let into = Gradients {
            features: Some(&mut to_features),
            weights: &mut to_weights,
            bias: Some(&mut to_bias),
            passed: &mut passed,
        };
        backward.run_by(simd, exec, &of(upstream), into).expect("fits");
        [out, to_features, to_weights, to_bias]
    }

    /// The output, by its definition.
    fn slow(&self) -> Vec<f64> {
        let (layout, graph) = (self.layout, self.graph());
        let (heads, width, stride) = (layout.heads(), layout.width(), layout.stride());
        let at = |row: usize, column: usize| -> f64 {
            (0..self.inputs)
                .map(|input| self.features[row * self.inputs + input] * self.weights[input * stride + column])
                .sum()
        };
        let mut out = Vec::new();
        for target in 0..graph.targets() {
            let edges = self.offsets[target] as usize..self.offsets[target + 1] as usize;
            for head in 0..heads {
                let logits: Vec<f64> = edges
                    .clone()
                    .map(|edge| {
                        let logit = at(self.sources[edge] as usize, layout.logits() + head)
                            + at(self.first + target, layout.logits() + heads + head);
                        if logit > 0.0 { logit } else { self.slope * logit }
                    })
                    .collect();
                let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = logits.iter().map(|logit| (logit - highest).exp()).sum();
                for lane in 0..width {
                    let sum: f64 = edges
                        .clone()
                        .zip(&logits)
                        .map(|(edge, logit)| {
                            let factor =
                                self.factors.as_ref().map_or(1.0, |all| f64::from(all[edge * heads + head]));
                            let value = at(self.sources[edge] as usize, head * layout.padded() + lane);
                            factor * value * (logit - highest).exp() / total
                        })
                        .sum();
                    let value = sum + self.bias[head * width + lane];
                    let below = self.activation == Activation::Elu && value <= 0.0;
                    out.push(if below { value.exp_m1() } else { value });
                }
            }
        }
        out
    }
}

fn near(left: &[f64], right: &[f64], within: f64) {
    assert_eq!(left.len(), right.len());
    for (at, (left, right)) in left.iter().zip(right).enumerate() {
        assert!((left - right).abs() <= within * (1.0 + right.abs()), "{at}: {left} and {right}");
    }
}

fn loss(case: &Case, upstream: &[f64]) -> f64 {
    case.slow().iter().zip(upstream).map(|(out, upstream)| out * upstream).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn both_passes_are_those_of_the_definition(
        seed in any::<u64>(),
        rows in 1_usize..14,
        hidden in 0_usize..6,
        edges in 0_usize..60,
        heads in prop::sample::select(vec![1, 2, 3, 4, 5, 8, 9, 16, 17, 20]),
        width in prop::sample::select(vec![1, 3, 8, 10, 16, 17, 32]),
        inputs in 1_usize..6,
    ) {
        let targets = rows - hidden.min(rows);
        let mut case = Case::new(seed, rows, targets, edges, heads, width, inputs);
        let upstream = normal(seed ^ 9, targets * heads * width, 1.0);
        let exec = Exec::serial();
        let [out, to_features, to_weights, to_bias] = case.run::<f64>(Simd::detect(), &exec, &upstream);
        near(&out, &case.slow(), 1e-12);
        let single = case.run::<f32>(Simd::detect(), &exec, &upstream);
        near(&single[0].iter().map(|&value| f64::from(value)).collect::<Vec<_>>(), &out, 2e-4);

        // Differences of a few numbers of each kind; kinks of the rectifiers are met too seldom to matter.
        let step = 1e-6;
        for (kind, gradient) in [&to_features, &to_weights, &to_bias].into_iter().enumerate() {
            for pick in 0..4.min(gradient.len()) {
                let at = (Seed(seed).u64_at(80 + kind as u32, pick as u64) % gradient.len() as u64) as usize;
                let column = at % case.layout.stride();
                if kind == 1 && case.weights[at] == 0.0 && column != 0 {
                    continue; // what pads a row
                }
                let mut ends = [0.0; 2];
                for (end, by) in ends.iter_mut().zip([step, -2.0 * step]) {
                    let values = match kind {
                        0 => &mut case.features,
                        1 => &mut case.weights,
                        _ => &mut case.bias,
                    };
                    values[at] += by;
                    *end = loss(&case, &upstream);
                }
                let values = match kind {
                    0 => &mut case.features,
                    1 => &mut case.weights,
                    _ => &mut case.bias,
                };
                values[at] += step;
                let estimate = (ends[0] - ends[1]) / (2.0 * step);
                prop_assert!(
                    (estimate - gradient[at]).abs() <= 1e-5 * (1.0 + estimate.abs()),
                    "kind {} at {}: {} and {}", kind, at, estimate, gradient[at]
                );
            }
        }
    }
}

#[test]
fn targets_of_more_edges_than_are_held_at_once_are_those_of_the_definition() {
    for (seed, heads, width) in [(20, 1, 10), (21, 3, 16), (22, 17, 3), (25, 4, 8)] {
        let case = Case::new(seed, 9, 2, 1500, heads, width, 3);
        let upstream = normal(6, 2 * heads * width, 1.0);
        let [out, ..] = case.run::<f64>(Simd::detect(), &Exec::serial(), &upstream);
        near(&out, &case.slow(), 1e-12);
    }
}

#[test]
fn what_is_not_a_number_stays_with_its_neighbours() {
    for (seed, heads, width) in [(30, 3, 10), (31, 1, 10), (32, 4, 16), (35, 17, 5)] {
        let mut case = Case::new(seed, 60, 60, 90, heads, width, 4);
        let upstream = normal(7, 60 * heads * width, 1.0);
        let [out, to_features, ..] = case.run::<f32>(Simd::detect(), &Exec::serial(), &upstream);
        case.features[4 * 7..4 * 8].fill(f64::NAN);
        let [out_now, to_features_now, ..] = case.run::<f32>(Simd::detect(), &Exec::serial(), &upstream);
        let sources =
            |target: usize| &case.sources[case.offsets[target] as usize..case.offsets[target + 1] as usize];
        let hit = |target: usize| target == 7 && !sources(7).is_empty() || sources(target).contains(&7);
        for row in 0..60 {
            let part = row * heads * width..(row + 1) * heads * width;
            assert_eq!(out[part.clone()] != out_now[part], hit(row), "{row}");
            if row != 7 && !hit(row) && !(0..60).any(|to| hit(to) && sources(to).contains(&(row as u32))) {
                assert_eq!(to_features[row * 4..][..4], to_features_now[row * 4..][..4], "{row}");
            }
        }
    }
}

#[test]
fn any_number_of_threads_and_any_instruction_set_gives_the_same_bits() {
    for (seed, heads, width) in [(10, 4, 16), (11, 1, 10), (12, 3, 24)] {
        let case = Case::new(seed, 6000, 5000, 60_000, heads, width, 7);
        let upstream = normal(5, 5000 * heads * width, 1.0);
        let expected = case.run::<f32>(Simd::detect(), &Exec::serial(), &upstream);
        for threads in [2, 3] {
            let exec = Exec::with_threads(threads).expect("threads");
            assert!(case.run::<f32>(Simd::detect(), &exec, &upstream) == expected);
        }
        let exec = Exec::with_threads(2).expect("threads");
        for simd in Simd::available() {
            assert!(case.run::<f32>(simd, &exec, &upstream) == expected, "{}", simd.name());
        }
    }
}

#[test]
fn coefficients_add_up_to_one() {
    let case = Case::new(4, 50, 40, 3000, 3, 5, 4);
    let (graph, layout) = (case.graph(), case.layout);
    let mut rows = vec![0.0; case.rows * layout.stride()];
    project(&Exec::serial(), &case.features, &case.weights, layout.stride(), &mut rows).expect("fits");
    let forward = Forward { graph, layout, rows: &rows, slope: case.slope, dropout: None };
    let mut coefficients = vec![f64::NAN; graph.edges() * 3];
    forward.coefficients(&Exec::serial(), &mut coefficients).expect("fits");
    for ends in case.offsets.windows(2) {
        for head in 0..3 {
            let sum: f64 = (ends[0]..ends[1]).map(|edge| coefficients[edge as usize * 3 + head]).sum();
            assert!(ends[0] == ends[1] || (sum - 1.0).abs() < 1e-12);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let case = Case::new(4, 5, 5, 9, 2, 3, 2);
    let (graph, layout) = (case.graph(), case.layout);
    let rows = vec![0.0_f64; 5 * layout.stride()];
    let forward = Forward { graph, layout, rows: &rows, slope: 0.2, dropout: None };
    let exec = Exec::serial();
    let refused = |forward: Forward<'_, f64>, size: usize| {
        forward.attend(&exec, None, Activation::None, &mut vec![0.0; size], None).unwrap_err().to_string()
    };
    assert_eq!(refused(forward, 29), "out: expected 30 numbers, got 29");
    assert_eq!(refused(Forward { slope: -0.1, ..forward }, 30), "slope: expected at least 0");
    assert_eq!(refused(Forward { slope: f64::NAN, ..forward }, 30), "slope: expected at least 0");
    assert_eq!(refused(Forward { rows: &rows[1..], ..forward }, 30), "rows: expected 5 x 16 numbers, got 79");
    let few = Forward { dropout: Some(Dropout::given(&[1.0; 17])), ..forward };
    assert_eq!(refused(few, 30), "factors: expected 18 numbers, got 17");
    assert!(Dropout::new(1.0, Seed(1)).is_err() && Dropout::new(f64::NAN, Seed(1)).is_err());
}
