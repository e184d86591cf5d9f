//! Affinities, coverage and nearest rows against slow and obvious versions.

#![expect(clippy::needless_range_loop, reason = "matrices are written about by row and column")]

use mbflow_core::{
    Affinity, Coverage, Error, Exec, HashGraph, Matrix, Ragged, Seed, Simd, nearest_rows, squared_distance,
};
use proptest::prelude::*;

fn small_integers(rows: usize, width: usize, seed: u64) -> Vec<f32> {
    (0..(rows * width) as u64).map(|i| (Seed(seed).u64_at(100, i) % 6) as f32).collect()
}

fn classes(rows: usize, count: u64, seed: u64) -> Vec<i64> {
    (0..rows as u64).map(|row| (Seed(seed).u64_at(101, row) % count) as i64).collect()
}

/// The kernel as a full matrix, by its definition.
fn dense(graph: Ragged<'_, i32>, distances: &[f32], classes: &[i64]) -> Vec<Vec<f64>> {
    let rows = graph.len();
    let offsets = graph.offsets();
    let mut squares = vec![vec![f64::INFINITY; rows]; rows];
    let mut scale = vec![0.0; rows];
    for row in 0..rows {
        for edge in offsets[row] as usize..offsets[row + 1] as usize {
            let other = graph.values()[edge] as usize;
            let square = f64::from(distances[edge]).powi(2);
            scale[row] = square;
            squares[row][other] = squares[row][other].min(square);
            squares[other][row] = squares[other][row].min(square);
        }
    }
    let mut kernel = vec![vec![0.0; rows]; rows];
    for a in 0..rows {
        for b in 0..rows {
            let scale: f64 = scale[a] * scale[b];
            kernel[a][b] = match squares[a][b] {
                _ if a == b => 1.0,
                0.0 => 1.0,
                f64::INFINITY => 0.0,
                square => (-square / scale.sqrt()).exp(),
            };
        }
    }
    let sums: Vec<f64> = kernel.iter().map(|row| row.iter().sum()).collect();
    for a in 0..rows {
        for b in 0..rows {
            let same = f64::from(u8::from(classes[a] == classes[b]));
            kernel[a][b] *= same / (sums[a] * sums[b]).sqrt();
        }
    }
    kernel
}

/// Plain greedy choice on the kernel as it was made, so that the comparison is exact.
fn greedy(
    kernel: &[Vec<f32>],
    weights: &[f64],
    start: &[i64],
    may: impl Fn(usize, &[i64]) -> bool,
    count: usize,
) -> Vec<i64> {
    let rows = kernel.len();
    let mut covered = vec![0.0_f32; rows];
    let mut kept: Vec<i64> = Vec::new();
    let take = |row: usize, kept: &mut Vec<i64>, covered: &mut Vec<f32>| {
        kept.push(row as i64);
        for other in 0..rows {
            covered[other] = covered[other].max(kernel[row][other]);
        }
    };
    for &row in start {
        take(row as usize, &mut kept, &mut covered);
    }
    while kept.len() < start.len() + count {
        let mut best: Option<(f64, usize)> = None;
        for row in (0..rows).filter(|&row| !kept.contains(&(row as i64)) && may(row, &kept)) {
            // Weights are powers of two and entries are rounded to 2^-10 by the caller: sums are exact.
            let gain: f64 =
                (0..rows).map(|o| f64::from((kernel[row][o] - covered[o]).max(0.0)) * weights[o]).sum();
            if best.is_none_or(|(most, _)| gain > most) {
                best = Some((gain, row));
            }
        }
        let (_, row) = best.expect("the caller asks for no more than there are");
        take(row, &mut kept, &mut covered);
    }
    kept.split_off(start.len())
}

fn full(kernel: Ragged<'_, i32>, entries: &[f32]) -> Vec<Vec<f32>> {
    let mut matrix = vec![vec![0.0; kernel.len()]; kernel.len()];
    for row in 0..kernel.len() {
        for edge in kernel.offsets()[row] as usize..kernel.offsets()[row + 1] as usize {
            matrix[row][kernel.values()[edge] as usize] = entries[edge];
        }
    }
    matrix
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_affinity_agrees_with_its_definition(
        rows in 1_usize..40, width in 1_usize..4, k in 1_usize..8, class_count in 1_u64..4, seed in 0_u64..1000,
    ) {
        let values = small_integers(rows, width, seed);
        let matrix = Matrix::new(&values, rows, width).unwrap();
        let graph = HashGraph { bucket_cap: 64, ..HashGraph::new(k) }.build(&Exec::serial(), &matrix).unwrap();
        let classes = classes(rows, class_count, seed);
        let expected = dense(graph.neighbours.view(), &graph.distances, &classes);
        let affinity =
            Affinity::new(&Exec::serial(), graph.neighbours.view(), &graph.distances, &classes).unwrap();
        let view = affinity.neighbours.view();
        let found = full(view, &affinity.weights);
        for row in 0..rows {
            prop_assert_eq!(view.row(row)[0], row as i32);
            let mut named = view.row(row).to_vec();
            named.sort_unstable();
            prop_assert!(named.is_sorted_by(|a, b| a < b), "one twice: {:?}", named);
            for other in 0..rows {
                prop_assert_eq!(found[row][other].to_bits(), found[other][row].to_bits());
                prop_assert!((f64::from(found[row][other]) - expected[row][other]).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn the_lazy_choice_is_the_plain_greedy_one(
        rows in 4_usize..40, k in 1_usize..8, class_count in 1_u64..4, seed in 0_u64..1000, by_gain: bool,
    ) {
        let values = small_integers(rows, 2, seed);
        let matrix = Matrix::new(&values, rows, 2).unwrap();
        let graph = HashGraph { bucket_cap: 64, ..HashGraph::new(k) }.build(&Exec::serial(), &matrix).unwrap();
        let mut classes = classes(rows, class_count, seed);
        for class in 0..class_count as usize {
            classes[class] = class as i64;
        }
        let mut affinity =
            Affinity::new(&Exec::serial(), graph.neighbours.view(), &graph.distances, &classes).unwrap();
        // Rounded, so that sums are exact in any order and ties are ties.
        for weight in &mut affinity.weights {
            *weight = (*weight * 1024.0).round() / 1024.0;
        }
        let weights: Vec<f64> =
            (0..rows as u64).map(|row| [0.0, 0.5, 1.0, 2.0][(Seed(seed).u64_at(102, row) % 4) as usize]).collect();
        let marked: Vec<bool> = (0..rows).map(|row| row < 4 || !Seed(seed).u64_at(103, row as u64).is_multiple_of(3)).collect();
        let start = [3_i64];
        let kernel = full(affinity.neighbours.view(), &affinity.weights);
        let coverage = Coverage::new(affinity.neighbours.view(), &affinity.weights, &classes).unwrap()
            .with_weights(&weights).unwrap().with_candidates(&marked).unwrap().with_start(&start).unwrap();
        let open = |class: i64| (0..rows).filter(|&r| marked[r] && r != 3 && classes[r] == class).count();
        let mut expected = Vec::new();
        let picks = if by_gain {
            let total = (0..class_count as i64).map(open).sum::<usize>();
            let count = (class_count as usize).max(total / 2).min(total);
            // One of each class that has none, then any.
            let mut kept = start.to_vec();
            for class in (0..class_count as i64).filter(|&class| classes[3] != class) {
                let one = greedy(&kernel, &weights, &kept, |r, _| marked[r] && classes[r] == class, 1);
                kept.extend(&one);
            }
            let rest = (count + 1).saturating_sub(kept.len());
            let more = greedy(&kernel, &weights, &kept, |r, _| marked[r], rest);
            expected.extend(&kept[1..]);
            expected.extend(more);
            coverage.by_gain(&Exec::serial(), count).unwrap()
        } else {
            let quotas: Vec<i64> = (0..class_count as i64).map(|class| open(class).div_ceil(2) as i64).collect();
            for (class, &quota) in quotas.iter().enumerate() {
                expected.extend(greedy(
                    &kernel, &weights, &start, |r, _| marked[r] && classes[r] == class as i64, quota as usize,
                ));
            }
            coverage.by_quota(&Exec::serial(), &quotas).unwrap()
        };
        prop_assert!(picks.gains.is_sorted_by(|a, b| a >= b));
        let mut found = picks.rows.clone();
        found.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(found, expected);
        let kept = &picks.rows;
        let stand_ins = coverage.representatives(&Exec::serial(), kept).unwrap();
        for row in 0..rows {
            let best = kept.iter().copied().filter(|&j| kernel[row][j as usize] > 0.0)
                .max_by(|&a, &b| kernel[row][a as usize].total_cmp(&kernel[row][b as usize]).then(b.cmp(&a)));
            prop_assert_eq!(stand_ins.rows[row], best.unwrap_or(-1));
            prop_assert_eq!(stand_ins.similarities[row], best.map_or(0.0, |j| kernel[row][j as usize]));
        }
    }

    #[test]
    fn the_nearest_row_is_the_nearest(
        rows in 1_usize..60, queries in 1_usize..40, width in 1_usize..5, seed in 0_u64..1000,
    ) {
        let (values, asked) = (small_integers(rows, width, seed), small_integers(queries, width, seed + 1));
        let (rows, queries) =
            (Matrix::new(&values, rows, width).unwrap(), Matrix::new(&asked, queries, width).unwrap());
        for simd in Simd::available() {
            let (nearest, distances) = nearest_rows(&Exec::serial(), &rows, &queries, simd).unwrap();
            for query in 0..queries.rows() {
                let all = (0..rows.rows()).map(|row| squared_distance(rows.row(row), queries.row(query)));
                let (best, square) = all.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
                prop_assert_eq!(nearest[query], best as i64);
                prop_assert_eq!(distances[query], square.sqrt());
            }
        }
    }
}

#[test]
fn many_tiles_of_rows_are_compared_with() {
    let (width, rows) = (8, 20_000);
    let values: Vec<f32> = (0..(rows * width) as u64).map(|i| Seed(1).normal(104, i)).collect();
    let rows = Matrix::new(&values, rows, width).unwrap();
    let asked = Matrix::new(&values[width * 7000..][..width * 600], 600, width).unwrap();
    let (nearest, distances) = nearest_rows(&Exec::serial(), &rows, &asked, Simd::detect()).unwrap();
    assert_eq!(nearest, (7000..7600).collect::<Vec<i64>>());
    assert!(distances.iter().all(|&distance| distance == 0.0));
}

#[test]
fn the_result_does_not_depend_on_threads() {
    let values: Vec<f32> = (0..40_000).map(|i| Seed(1).normal(104, i)).collect();
    let rows = Matrix::new(&values, 10_000, 4).unwrap();
    let classes = classes(10_000, 3, 5);
    let results =
        [Exec::serial(), Exec::with_threads(2).unwrap(), Exec::with_threads(5).unwrap()].map(|exec| {
            let graph = HashGraph::new(10).build(&exec, &rows).unwrap();
            let affinity = Affinity::new(&exec, graph.neighbours.view(), &graph.distances, &classes).unwrap();
            let coverage = Coverage::new(affinity.neighbours.view(), &affinity.weights, &classes).unwrap();
            let (quota, gain) =
                (coverage.by_quota(&exec, &[100, 200, 50]).unwrap(), coverage.by_gain(&exec, 400).unwrap());
            let stand_ins = coverage.representatives(&exec, &gain.rows).unwrap();
            let nearest = nearest_rows(&exec, &rows, &rows, Simd::detect()).unwrap();
            let bits: Vec<u64> = gain.gains.iter().map(|gain| gain.to_bits()).collect();
            (affinity, quota, gain, bits, stand_ins, nearest)
        });
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
}

#[test]
fn equal_rows_and_rows_without_neighbours() {
    let (offsets, neighbours) = ([0, 1, 3, 4, 4], [1, 0, 2, 0]);
    let graph = Ragged::new(&offsets, &neighbours).unwrap();
    let affinity = Affinity::new(&Exec::serial(), graph, &[0.0; 4], &[0; 4]).unwrap();
    // Rows 0 to 2 are equal and all linked to each other, row 3 is alone.
    for (weight, expected) in affinity.weights.iter().zip([1.0 / 3.0; 9].into_iter().chain([1.0])) {
        assert!((weight - expected).abs() < 1e-7);
    }
    let coverage = Coverage::new(affinity.neighbours.view(), &affinity.weights, &[0; 4]).unwrap();
    let picks = coverage.by_quota(&Exec::serial(), &[4]).unwrap();
    assert_eq!(picks.rows, [0, 3, 1, 2]);
    assert_eq!(coverage.representatives(&Exec::serial(), &[0]).unwrap().rows, [0, 0, 0, -1]);
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    result.expect_err("what is wrong is refused").to_string()
}

#[test]
fn what_cannot_be_used_is_refused() {
    let exec = Exec::serial();
    let (offsets, neighbours) = ([0, 1, 2], [1, 0]);
    let graph = Ragged::new(&offsets, &neighbours).unwrap();
    let affinity = |neighbours: &[i32], distances: &[f32], classes: &[i64]| {
        refusal(Affinity::new(&exec, Ragged::new(&offsets, neighbours).unwrap(), distances, classes))
    };
    assert_eq!(
        affinity(&[1, 1], &[1.0; 2], &[0; 2]),
        "neighbours: row 1 names 1; expected another row, 0 to 1"
    );
    assert!(affinity(&[2, 0], &[1.0; 2], &[0; 2]).contains("row 0 names 2"));
    assert!(affinity(&[1, -1], &[1.0; 2], &[0; 2]).contains("row 1 names -1"));
    assert!(affinity(&[1, 0], &[1.0, f32::NAN], &[0; 2]).contains("edge 1 has NaN"));
    assert!(affinity(&[1, 0], &[1.0], &[0; 2]).contains("expected one an edge, 2 in all, got 1"));
    assert!(affinity(&[1, 0], &[1.0; 2], &[0]).contains("expected one a row, 2 in all, got 1"));

    let new = |entries, classes| Coverage::new(graph, entries, classes);
    assert!(refusal(new(&[1.0, -1.0], &[0; 2])).contains("got -1"));
    assert!(refusal(new(&[1.0; 2], &[0, 5])).contains("expected numbers from 0 to at most 1"));
    assert!(refusal(new(&[1.0; 2], &[0, -1])).contains("classes"));
    let coverage = new(&[1.0; 2], &[0; 2]).unwrap();
    assert!(refusal(coverage.by_quota(&exec, &[3])).contains("class 0 has 2 candidates, and its quota is 3"));
    assert!(refusal(coverage.by_quota(&exec, &[-1])).contains("quota is -1"));
    assert!(refusal(coverage.by_quota(&exec, &[1, 1])).contains("expected one a class, 1 in all, got 2"));
    assert!(refusal(coverage.by_gain(&exec, 3)).contains("expected at most 2"));
    assert!(refusal(coverage.representatives(&exec, &[0, 0])).contains("row 0 is there twice"));
    assert!(refusal(coverage.clone().with_start(&[2])).contains("2 is no row"));
    assert!(refusal(coverage.clone().with_weights(&[1.0, f64::NAN])).contains("NaN in row 1"));
    assert!(refusal(coverage.with_candidates(&[true])).contains("candidates"));
}
