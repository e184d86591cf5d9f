//! The hashing graph against brute force, and what must hold for any input.

use mbflow_core::{
    Cancel, Directions, Error, Exec, Family, Graph, HashGraph, Matrix, Seed, Simd, squared_distance,
};
use proptest::prelude::*;

/// Clustered rows: `clusters` normal clouds.
fn mixture(rows: usize, width: usize, clusters: u64, seed: u64) -> Vec<f32> {
    let mut values = Vec::with_capacity(rows * width);
    for row in 0..rows as u64 {
        let cluster = Seed(seed).u64_at(100, row) % clusters;
        for column in 0..width as u64 {
            let centre = Seed(seed).normal(101, cluster * width as u64 + column);
            values.push(3.0 * centre + Seed(seed).normal(102, row * width as u64 + column));
        }
    }
    values
}

/// The `k` nearest of `candidates` by (distance, row number), the obvious way.
fn nearest(rows: &Matrix<'_>, row: usize, k: usize) -> Vec<(f32, i32)> {
    let others = (0..rows.rows()).filter(|&other| other != row);
    let mut all: Vec<(f32, i32)> =
        others.map(|other| (squared_distance(rows.row(row), rows.row(other)).sqrt(), other as i32)).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    all.truncate(k);
    all
}

fn edges(graph: &Graph, row: usize) -> Vec<(f32, i32)> {
    let offsets = graph.neighbours.view().offsets();
    let distances = &graph.distances[offsets[row] as usize..offsets[row + 1] as usize];
    distances.iter().copied().zip(graph.neighbours.view().row(row).iter().copied()).collect()
}

/// What holds for every graph, exact or not.
fn check_invariants(settings: &HashGraph, rows: &Matrix<'_>, graph: &Graph) {
    let k = settings.neighbours.min(rows.rows() - 1);
    assert_eq!(graph.neighbours.len(), rows.rows());
    assert_eq!(graph.distances.len(), rows.rows() * k);
    for row in 0..rows.rows() {
        let edges = edges(graph, row);
        assert_eq!(edges.len(), k, "row {row}");
        for &(distance, other) in &edges {
            assert_ne!(other as usize, row, "self loop");
            let expected = squared_distance(rows.row(row), rows.row(other as usize)).sqrt();
            assert_eq!(distance.to_bits(), expected.to_bits(), "distance of {row} and {other}");
        }
        assert!(
            edges.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)),
            "order or duplicate in row {row}: {edges:?}"
        );
    }
    assert!(graph.stats.largest_bucket <= settings.bucket_cap);
    assert!(graph.stats.smallest_bucket >= 1);
}

fn assert_exact(rows: &Matrix<'_>, graph: &Graph, k: usize) {
    for row in 0..rows.rows() {
        let expected = nearest(rows, row, k);
        let got = edges(graph, row);
        // Squares that differ may have equal roots, between which only the squares decide at the k-th place.
        assert_eq!(
            got.iter().map(|edge| edge.0).collect::<Vec<_>>(),
            expected.iter().map(|edge| edge.0).collect::<Vec<_>>(),
            "row {row}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn invariants_hold(
        rows in 1_usize..120,
        width in 1_usize..20,
        neighbours in 1_usize..15,
        bucket_cap in 2_usize..60,
        probes in 0_usize..5,
        refinements in 0_usize..3,
        bits in prop::option::of(1_usize..20),
        p_stable in any::<bool>(),
        cell in prop::option::of(0.1_f32..10.0),
        sparse in any::<bool>(),
        // Few different values make many equal rows.
        levels in prop::sample::select(vec![1_u64, 2, 5, 1000]),
        seed in any::<u64>(),
    ) {
        let values: Vec<f32> =
            (0..(rows * width) as u64).map(|i| (Seed(seed).u64_at(9, i) % levels) as f32 - 1.5).collect();
        let matrix = Matrix::new(&values, rows, width).unwrap();
        let settings = HashGraph {
            bits,
            family: if p_stable { Family::PStable { width: cell } } else { Family::Sign },
            directions: if sparse { Directions::Sparse } else { Directions::Gaussian },
            bucket_cap,
            probes,
            refinements,
            seed: Seed(seed),
            ..HashGraph::new(neighbours)
        };
        let graph = settings.build(&Exec::serial(), &matrix).unwrap();
        check_invariants(&settings, &matrix, &graph);
        if bucket_cap >= rows {
            assert_exact(&matrix, &graph, neighbours);
            prop_assert_eq!(graph.stats.buckets, 1);
        }
    }

    #[test]
    fn probing_every_bucket_is_exact(
        rows in 2_usize..150,
        width in 1_usize..12,
        neighbours in 1_usize..20,
        bucket_cap in 2_usize..40,
        seed in any::<u64>(),
    ) {
        let values = mixture(rows, width, 4, seed);
        let matrix = Matrix::new(&values, rows, width).unwrap();
        let settings =
            HashGraph { bucket_cap, probes: usize::MAX, seed: Seed(seed), ..HashGraph::new(neighbours) };
        let graph = settings.build(&Exec::serial(), &matrix).unwrap();
        check_invariants(&settings, &matrix, &graph);
        assert_exact(&matrix, &graph, neighbours);
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let values = mixture(40_000, 7, 30, 5);
    let matrix = Matrix::new(&values, 40_000, 7).unwrap();
    for family in [Family::Sign, Family::PStable { width: None }] {
        let settings = HashGraph { bucket_cap: 100, probes: 3, family, ..HashGraph::new(4) };
        let one = settings.build(&Exec::with_threads(1).unwrap(), &matrix).unwrap();
        check_invariants(&settings, &matrix, &one);
        for threads in [2, 3, 7] {
            let other = settings.build(&Exec::with_threads(threads).unwrap(), &matrix).unwrap();
            assert!(one == other, "{threads} threads");
        }
    }
}

#[test]
fn any_instruction_set_gives_the_same_bits() {
    let clouds = mixture(3_000, 19, 10, 6);
    // Whole numbers: many equal distances, which must be decided alike.
    let lattice: Vec<f32> = (0..3_000 * 19).map(|i| (Seed(6).u64_at(9, i) % 2) as f32).collect();
    for values in [clouds, lattice] {
        let matrix = Matrix::new(&values, 3_000, 19).unwrap();
        let build = |simd| {
            let settings = HashGraph { bucket_cap: 64, probes: 3, simd, ..HashGraph::new(5) };
            settings.build(&Exec::serial(), &matrix).unwrap()
        };
        let levels = Simd::available();
        let best = build(levels[0]);
        for &simd in &levels[1..] {
            assert!(best == build(simd), "{}", simd.name());
        }
    }
}

#[test]
fn equal_distances_of_different_squares_are_ordered_by_row() {
    // The squares 9998246 and 9998245 have the same root in float32.
    let values = [0.0, 0.0, 0.0, 3162.0, 1.0, 1.0, 3162.0, 1.0, 0.0];
    let matrix = Matrix::new(&values, 3, 3).unwrap();
    assert!(squared_distance(matrix.row(0), matrix.row(1)) > squared_distance(matrix.row(0), matrix.row(2)));
    let graph = HashGraph::new(2).build(&Exec::serial(), &matrix).unwrap();
    assert_eq!(graph.neighbours.view().row(0), [1, 2]);
    assert_eq!(graph.distances[0], graph.distances[1]);
}

#[test]
fn clusters_are_found() {
    let values = mixture(20_000, 16, 40, 7);
    let matrix = Matrix::new(&values, 20_000, 16).unwrap();
    let settings = HashGraph::new(10);
    let graph = settings.build(&Exec::new().unwrap(), &matrix).unwrap();
    check_invariants(&settings, &matrix, &graph);
    let sample = (0..20_000).step_by(97);
    let (mut found, mut wanted) = (0, 0);
    for row in sample {
        let limit = nearest(&matrix, row, 10)[9].0;
        found += edges(&graph, row).iter().filter(|edge| edge.0 <= limit).count();
        wanted += 10;
    }
    let recall = f64::from(u32::try_from(found).unwrap()) / f64::from(wanted);
    assert!(recall > 0.95, "recall {recall}");
    assert!(graph.stats.distances < 20_000 * 20_000 / 4, "not much better than brute force");
}

#[test]
fn seeds_differ_and_repeat() {
    let values = mixture(5_000, 8, 1, 8);
    let matrix = Matrix::new(&values, 5_000, 8).unwrap();
    let build = |seed| {
        let settings = HashGraph { bucket_cap: 64, probes: 1, seed: Seed(seed), ..HashGraph::new(5) };
        settings.build(&Exec::serial(), &matrix).unwrap()
    };
    assert_eq!(build(1), build(1));
    assert_ne!(build(1).neighbours, build(2).neighbours);
}

#[test]
fn a_hundred_thousand_equal_rows_split() {
    let values = vec![0.25; 100_000 * 3];
    let matrix = Matrix::new(&values, 100_000, 3).unwrap();
    for family in [Family::Sign, Family::PStable { width: None }] {
        let settings = HashGraph { family, probes: 2, ..HashGraph::new(10) };
        let graph = settings.build(&Exec::new().unwrap(), &matrix).unwrap();
        check_invariants(&settings, &matrix, &graph);
        assert!(graph.distances.iter().all(|&distance| distance == 0.0));
        assert!(graph.stats.buckets >= 100_000 / 256);
    }
}

#[test]
fn few_distinct_rows_among_many() {
    // One value makes up 90 % of the rows; its buckets are all equally near.
    let values: Vec<f32> =
        (0..20_000_u64).map(|row| if row % 10 == 0 { Seed(1).normal(9, row) } else { 0.0 }).collect();
    let matrix = Matrix::new(&values, 20_000, 1).unwrap();
    let settings = HashGraph { bucket_cap: 50, ..HashGraph::new(5) };
    let graph = settings.build(&Exec::new().unwrap(), &matrix).unwrap();
    check_invariants(&settings, &matrix, &graph);
    assert!(edges(&graph, 1).iter().all(|edge| edge.0 == 0.0));
}

#[test]
fn small_inputs() {
    let one = Matrix::new(&[1.0, 2.0], 1, 2).unwrap();
    let graph = HashGraph::new(3).build(&Exec::serial(), &one).unwrap();
    assert_eq!(graph.neighbours.view().offsets(), [0, 0]);
    assert!(graph.distances.is_empty());

    let three = Matrix::new(&[0.0, 3.0, 1.0], 3, 1).unwrap();
    let graph = HashGraph::new(100).build(&Exec::serial(), &three).unwrap();
    assert_eq!(graph.neighbours.view().values(), [2, 1, 2, 0, 0, 1]);
    assert_eq!(graph.distances, [1.0, 3.0, 2.0, 3.0, 1.0, 2.0]);

    assert!(Matrix::new(&[], 0, 2).is_err());
    assert!(Matrix::new(&[], 2, 0).is_err());
}

#[test]
fn wrong_settings_are_refused() {
    let matrix = Matrix::new(&[0.0, 1.0, 2.0], 3, 1).unwrap();
    let refused = |settings: HashGraph| match settings.build(&Exec::serial(), &matrix) {
        Err(Error::InvalidArgument { name, .. }) => name,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(HashGraph::new(0)), "neighbours");
    assert_eq!(refused(HashGraph { bits: Some(0), ..HashGraph::new(1) }), "bits");
    assert_eq!(refused(HashGraph { bits: Some(65), ..HashGraph::new(1) }), "bits");
    assert_eq!(refused(HashGraph { bucket_cap: 1, ..HashGraph::new(1) }), "bucket_cap");
    assert_eq!(refused(HashGraph { refinements: 101, ..HashGraph::new(1) }), "refinements");
    for width in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let family = Family::PStable { width: Some(width) };
        assert_eq!(refused(HashGraph { family, ..HashGraph::new(1) }), "width");
    }
}

#[test]
fn the_first_bad_value_is_named() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e20] {
        let mut values = vec![0.0; 10_000 * 3];
        values[9_000 * 3 + 1] = bad;
        values[9_000 * 3 + 2] = bad;
        values[9_999 * 3] = bad;
        let matrix = Matrix::new(&values, 10_000, 3).unwrap();
        match HashGraph::new(1).build(&Exec::new().unwrap(), &matrix) {
            Err(Error::BadValue { row: 9_000, column: 1, value, .. }) => {
                assert_eq!(value.to_bits(), bad.to_bits());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn stops_when_asked() {
    let values = mixture(5_000, 8, 1, 8);
    let matrix = Matrix::new(&values, 5_000, 8).unwrap();
    let cancel = Cancel::default();
    cancel.set();
    for threads in [1, 2] {
        let exec = Exec::with_threads(threads).unwrap().with_cancel(&cancel);
        assert_eq!(HashGraph::new(3).build(&exec, &matrix), Err(Error::Interrupted));
    }
}
