//! Every kind of graph and every metric against brute force, and what must hold for any input.

use mbflow_core::{BatchGraph, Edges, Error, Exec, Family, Graph, HashGraph, Matrix, Metric, Seed, Simd};
use proptest::prelude::*;

const METRICS: [Metric; 3] = [Metric::Euclidean, Metric::Manhattan, Metric::Cosine];

/// Values with few different levels, so that ties and rows of zeros occur, or nearly continuous ones.
fn values(rows: usize, width: usize, levels: u64, seed: u64) -> Vec<f32> {
    let value = |i| (Seed(seed).u64_at(9, i) % (2 * levels + 1)) as f32 - levels as f32;
    (0..(rows * width) as u64).map(value).collect()
}

/// A distance in float64, the obvious way; rows of zeros as `Metric::Cosine` says.
fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let pairs = || a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    match metric {
        Metric::Euclidean => pairs().map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt(),
        Metric::Manhattan => pairs().map(|(a, b)| (a - b).abs()).sum(),
        Metric::Cosine => {
            let length = |row: &[f32]| row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
            match (length(a), length(b)) {
                (0.0, 0.0) => 0.0,
                (0.0, _) | (_, 0.0) => 1.0,
                (first, second) => 1.0 - pairs().map(|(a, b)| a * b).sum::<f64>() / first / second,
            }
        }
    }
}

fn edges(graph: &Graph, row: usize) -> Vec<(f32, i32)> {
    let offsets = graph.neighbours.view().offsets();
    let distances = &graph.distances[offsets[row] as usize..offsets[row + 1] as usize];
    distances.iter().copied().zip(graph.neighbours.view().row(row).iter().copied()).collect()
}

/// What holds for every graph: distances in the metric, order, no row twice, never the row itself.
fn check_invariants(metric: Metric, rows: &Matrix<'_>, graph: &Graph) {
    assert_eq!(graph.neighbours.len(), rows.rows());
    assert!(graph.weights.is_empty() || graph.weights.len() == graph.distances.len());
    assert!(graph.weights.iter().all(|weight| (-1.0..=1.0).contains(weight)));
    for row in 0..rows.rows() {
        let edges = edges(graph, row);
        assert!(edges.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)), "row {row}: {edges:?}");
        for (got, other) in edges {
            assert_ne!(other as usize, row);
            let expected = distance(metric, rows.row(row), rows.row(other as usize));
            assert!((f64::from(got) - expected).abs() <= 1e-5 * (1.0 + expected), "{got} {expected}");
        }
    }
}

/// The k nearest distances of one row among some others.
fn nearest(metric: Metric, rows: &Matrix<'_>, row: usize, others: &[usize], k: usize) -> Vec<f64> {
    let mut all: Vec<f64> = others
        .iter()
        .filter(|&&other| other != row)
        .map(|&other| distance(metric, rows.row(row), rows.row(other)))
        .collect();
    all.sort_by(f64::total_cmp);
    all.truncate(k);
    all
}

fn assert_exact(metric: Metric, rows: &Matrix<'_>, graph: &Graph, k: usize) {
    let all: Vec<usize> = (0..rows.rows()).collect();
    for row in 0..rows.rows() {
        let expected = nearest(metric, rows, row, &all, k);
        let got = edges(graph, row);
        assert_eq!(got.len(), expected.len(), "row {row}");
        for ((got, _), expected) in got.iter().zip(expected) {
            assert!((f64::from(*got) - expected).abs() <= 1e-5 * (1.0 + expected), "row {row}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_kind_holds_its_invariants(
        rows in 1_usize..150,
        width in 1_usize..20,
        neighbours in 1_usize..24,
        bucket_cap in 2_usize..60,
        levels in 1_usize..5,
        views in 1_usize..5,
        share in 0.05_f64..1.0,
        descents in 0_usize..3,
        p_stable in any::<bool>(),
        metric in prop::sample::select(METRICS.to_vec()),
        different in prop::sample::select(vec![0_u64, 1, 3, 1000]),
        seed in any::<u64>(),
    ) {
        let values = values(rows, width, different, seed);
        let matrix = Matrix::new(&values, rows, width).unwrap();
        let settings = HashGraph {
            family: if p_stable { Family::PStable { width: None } } else { Family::Sign },
            bucket_cap,
            metric,
            descents,
            seed: Seed(seed),
            probes: 2,
            refinements: 1,
            ..HashGraph::new(neighbours)
        };
        let exec = Exec::serial();
        let exact = settings.build_exact(&exec, &matrix).unwrap();
        check_invariants(metric, &matrix, &exact);
        assert_exact(metric, &matrix, &exact, neighbours);
        let single = settings.build(&exec, &matrix).unwrap();
        check_invariants(metric, &matrix, &single);
        let multi_view = settings.build_views(&exec, &matrix, views, share).unwrap();
        check_invariants(metric, &matrix, &multi_view);
        prop_assert!(multi_view.stats.largest_bucket <= bucket_cap);
        let multi_level = settings.build_levels(&exec, &matrix, levels).unwrap();
        check_invariants(metric, &matrix, &multi_level);
        prop_assert!(multi_level.stats.largest_bucket <= bucket_cap << (levels - 1));
        if descents == 0 {
            prop_assert!(multi_view.weights.iter().all(|&weight| weight >= 1.0 / views as f32 - 1e-6));
            prop_assert!(multi_level.weights.iter().all(|&weight| weight >= 1.0 / levels as f32 - 1e-6));
        }
        if bucket_cap >= rows {
            assert_exact(metric, &matrix, &multi_view, neighbours);
            assert_exact(metric, &matrix, &multi_level, neighbours);
            prop_assert!(multi_view.weights.iter().chain(&multi_level.weights).all(|&weight| weight == 1.0));
        }
    }

    #[test]
    fn batches_hold_their_edges(
        rows in 1_usize..150,
        width in 1_usize..6,
        neighbours in 1_usize..12,
        batch_rows in 2_usize..60,
        overlap in prop::sample::select(vec![0.0, 0.25, 0.5, 0.8]),
        classes in 1_u32..4,
        metric in prop::sample::select(METRICS.to_vec()),
        percentile in prop::option::of(0.0_f64..100.0),
        seed in any::<u64>(),
    ) {
        let values = values(rows, width, 3, seed);
        let matrix = Matrix::new(&values, rows, width).unwrap();
        let labels: Vec<u32> = (0..rows as u64).map(|row| (Seed(seed).u64_at(3, row) % u64::from(classes)) as u32).collect();
        let settings = BatchGraph {
            batch_rows,
            overlap,
            metric,
            seed: Seed(seed),
            ..BatchGraph::new(percentile.map_or(Edges::Nearest(neighbours), Edges::Above))
        };
        let graph = settings.build(&Exec::serial(), &matrix, &labels, classes as usize).unwrap();
        check_invariants(metric, &matrix, &graph);
        prop_assert!(graph.stats.largest_bucket <= batch_rows);
        if batch_rows >= rows && percentile.is_none() {
            assert_exact(metric, &matrix, &graph, neighbours);
        }
    }
}

#[test]
fn a_percentile_links_the_share_above_it() {
    let values: Vec<f32> = (0..64).map(|row| Seed(1).normal(9, row)).collect();
    let matrix = Matrix::new(&values, 64, 1).unwrap();
    let settings = BatchGraph { batch_rows: 64, ..BatchGraph::new(Edges::Above(90.0)) };
    let graph = settings.build(&Exec::serial(), &matrix, &[0; 64], 1).unwrap();
    // A tenth of 64 * 63 / 2 pairs, in both directions.
    assert_eq!(graph.distances.len(), 2 * 202);
    let weakest = graph.weights.iter().copied().fold(1.0, f32::min);
    let mut all = Vec::new();
    for row in 0..64 {
        for other in 0..row {
            all.push(1.0 / (1.0 + (values[row] - values[other]).abs()));
        }
    }
    all.sort_by(f32::total_cmp);
    assert!((weakest - all[all.len() - 202]).abs() < 1e-6);
}

#[test]
fn equal_rows_have_no_pair_above_a_percentile() {
    let matrix = Matrix::new(&[1.0; 20], 10, 2).unwrap();
    let graph = BatchGraph::new(Edges::Above(50.0)).build(&Exec::serial(), &matrix, &[0; 10], 1).unwrap();
    assert!(graph.distances.is_empty());
}

#[test]
fn batches_have_the_mixture_of_the_classes() {
    let rows = 1000;
    let values: Vec<f32> = (0..rows).map(|row| row as f32).collect();
    let labels: Vec<u32> = (0..rows).map(|row| u32::from(row % 10 == 0)).collect();
    let matrix = Matrix::new(&values, rows, 1).unwrap();
    // All pairs of a batch but the least alike: the rows of a batch are a row and its neighbours.
    for overlap in [0.0, 0.5] {
        let settings = BatchGraph { batch_rows: 50, overlap, ..BatchGraph::new(Edges::Nearest(49)) };
        let graph = settings.build(&Exec::serial(), &matrix, &labels, 2).unwrap();
        if overlap == 0.0 {
            for row in 0..rows {
                let batch = graph.neighbours.view().row(row).iter().map(|&other| other as usize).chain([row]);
                assert_eq!(batch.map(|row| labels[row]).sum::<u32>(), 5, "row {row}");
            }
        }
        assert_eq!(graph.stats.buckets, if overlap == 0.0 { 20 } else { 40 });
    }
}

#[test]
fn threads_and_instruction_sets_do_not_matter() {
    let rows = 6000;
    let values: Vec<f32> = (0..rows as u64 * 7).map(|i| Seed(3).normal(9, i)).collect();
    let matrix = Matrix::new(&values, rows, 7).unwrap();
    let labels: Vec<u32> = (0..rows as u32).map(|row| row % 3).collect();
    for metric in METRICS {
        let build = |exec: &Exec, simd| {
            let settings = HashGraph { bucket_cap: 64, metric, simd, descents: 1, ..HashGraph::new(6) };
            let batches =
                |edges| BatchGraph { batch_rows: 300, overlap: 0.25, metric, simd, ..BatchGraph::new(edges) };
            [
                settings.build(exec, &matrix),
                settings.build_views(exec, &matrix, 3, 0.7),
                settings.build_levels(exec, &matrix, 3),
                batches(Edges::Nearest(6)).build(exec, &matrix, &labels, 3),
                batches(Edges::Above(97.0)).build(exec, &matrix, &labels, 3),
            ]
            .map(Result::unwrap)
        };
        let levels = Simd::available();
        let one = build(&Exec::serial(), levels[0]);
        for threads in [2, 5] {
            assert!(one == build(&Exec::with_threads(threads).unwrap(), levels[0]), "{threads} threads");
        }
        for &simd in &levels[1..] {
            assert!(one == build(&Exec::with_threads(2).unwrap(), simd), "{}", simd.name());
        }
    }
}

#[test]
fn the_exact_graph_is_the_same_on_every_instruction_set_for_every_width() {
    for width in [1, 2, 3, 8, 17] {
        let values: Vec<f32> = (0..700 * width as u64).map(|i| Seed(4).normal(9, i)).collect();
        let matrix = Matrix::new(&values, 700, width).unwrap();
        for metric in METRICS {
            let build = |simd| {
                let settings = HashGraph { metric, simd, ..HashGraph::new(20) };
                settings.build_exact(&Exec::serial(), &matrix).unwrap()
            };
            let levels = Simd::available();
            let best = build(levels[0]);
            assert_exact(metric, &matrix, &best, 20);
            assert!(levels[1..].iter().all(|&simd| best == build(simd)));
        }
    }
}

#[test]
fn looking_at_neighbours_of_neighbours_finds_more() {
    let values: Vec<f32> = (0..4000 * 8).map(|i| Seed(5).normal(9, i)).collect();
    let matrix = Matrix::new(&values, 4000, 8).unwrap();
    let exec = Exec::new().unwrap();
    let total = |descents| {
        let settings = HashGraph { bucket_cap: 64, descents, ..HashGraph::new(8) };
        let graph = settings.build_views(&exec, &matrix, 2, 1.0).unwrap();
        graph.distances.iter().map(|&distance| f64::from(distance)).sum::<f64>()
    };
    let totals = [total(0), total(1), total(3)];
    assert!(totals[0] > totals[1] && totals[1] > totals[2], "{totals:?}");
}

#[test]
fn wrong_settings_are_refused() {
    let matrix = Matrix::new(&[0.0, 1.0, 2.0], 3, 1).unwrap();
    let exec = Exec::serial();
    let name = |result: Result<Graph, Error>| match result {
        Err(Error::InvalidArgument { name, .. }) => name,
        other => panic!("{other:?}"),
    };
    let settings = HashGraph::new(1);
    for levels in [0, 10, usize::MAX] {
        assert_eq!(name(settings.build_levels(&exec, &matrix, levels)), "levels");
    }
    for views in [0, 1025] {
        assert_eq!(name(settings.build_views(&exec, &matrix, views, 1.0)), "views");
    }
    for share in [0.0, -1.0, 1.01, f64::NAN] {
        assert_eq!(name(settings.build_views(&exec, &matrix, 1, share)), "view_columns");
    }
    assert_eq!(name(HashGraph { descents: 101, ..settings }.build(&exec, &matrix)), "descents");
    let batches = BatchGraph::new(Edges::Nearest(1));
    let build = |settings: BatchGraph| name(settings.build(&exec, &matrix, &[0, 1, 0], 2));
    for batch_rows in [0, 1, 20_000] {
        assert_eq!(build(BatchGraph { batch_rows, ..batches.clone() }), "batch_rows");
    }
    for overlap in [-0.1, 0.96, 1.0, f64::NAN] {
        assert_eq!(build(BatchGraph { overlap, ..batches.clone() }), "overlap");
    }
    assert_eq!(build(BatchGraph::new(Edges::Above(101.0))), "percentile");
    assert_eq!(build(BatchGraph { descents: 1, ..BatchGraph::new(Edges::Above(50.0)) }), "descents");
    assert_eq!(build(BatchGraph::new(Edges::Nearest(0))), "neighbours");
    assert_eq!(name(batches.build(&exec, &matrix, &[0, 1], 2)), "labels");
}
