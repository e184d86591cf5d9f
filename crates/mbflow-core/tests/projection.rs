//! Projections and codes against plain loops in float64.

use std::num::NonZeroU64;

use mbflow_core::{Directions, Error, Exec, Matrix, Projection, Seed, Simd, stream};
use proptest::prelude::*;

fn values(rows: usize, width: usize, seed: u64) -> Vec<f32> {
    (0..(rows * width) as u64).map(|i| Seed(seed).normal(200, i)).collect()
}

/// Entry by entry, as documented.
fn entry(kind: Directions, width: usize, direction: usize, column: usize, seed: u64) -> f32 {
    let index = (direction * width + column) as u64;
    match kind {
        Directions::Gaussian => Seed(seed).normal(stream::PROJECTION, index),
        Directions::Sparse => {
            match Seed(seed).below(stream::PROJECTION, index, NonZeroU64::MIN.saturating_add(5)) {
                0 => 3.0_f32.sqrt(),
                1 => -3.0_f32.sqrt(),
                _ => 0.0,
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn products_and_codes_agree_with_plain_loops(
        rows in 1_usize..40,
        width in 1_usize..40,
        count in 1_usize..80,
        sparse in any::<bool>(),
        cell in 0.1_f32..5.0,
        seed in any::<u64>(),
    ) {
        let kind = if sparse { Directions::Sparse } else { Directions::Gaussian };
        let values = values(rows, width, seed);
        let matrix = Matrix::new(&values, rows, width).unwrap();
        let projection = Projection::new(kind, count, width, Seed(seed)).unwrap();
        let exec = Exec::serial();
        let products = projection.project(&exec, &matrix).unwrap();
        let words = count.div_ceil(64);
        let signs = projection.sign_codes(&exec, &matrix, &vec![0.0; count]).unwrap();
        let cells = projection.p_stable_codes(&exec, &matrix, cell, Seed(seed)).unwrap();
        for row in 0..rows {
            for direction in 0..count {
                let (mut exact, mut size) = (0.0_f64, 0.0_f64);
                let mut fused = 0.0_f32;
                for column in 0..width {
                    let (value, entry) = (matrix.row(row)[column], entry(kind, width, direction, column, seed));
                    exact += f64::from(value) * f64::from(entry);
                    size += (f64::from(value) * f64::from(entry)).abs();
                    fused = value.mul_add(entry, fused);
                }
                let product = products[row * count + direction];
                prop_assert!((f64::from(product) - exact).abs() <= size * width as f64 * 6e-8 + 1e-30);
                prop_assert_eq!(product.to_bits(), fused.to_bits());
                let bit = signs[row * words + direction / 64] >> (direction % 64) & 1;
                prop_assert_eq!(bit == 1, product >= 0.0);
                let uniform = (Seed(seed).u64_at(stream::OFFSET, direction as u64) >> 40) as f32 / 16_777_216.0;
                let code = ((product + uniform * cell) / cell).floor() as i32;
                prop_assert_eq!(cells[row * count + direction], code);
            }
        }
    }
}

#[test]
fn threads_and_instruction_sets_give_the_same_bits() {
    let values = values(5_000, 21, 1);
    let matrix = Matrix::new(&values, 5_000, 21).unwrap();
    let run = |threads, simd| {
        let projection = Projection::new(Directions::Gaussian, 37, 21, Seed(2)).unwrap().with_simd(simd);
        let products = projection.project(&Exec::with_threads(threads).unwrap(), &matrix).unwrap();
        products.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let first = run(1, Simd::detect());
    for threads in [2, 3, 7] {
        assert!(first == run(threads, Simd::detect()), "{threads} threads");
    }
    for simd in Simd::available() {
        assert!(first == run(1, simd), "{}", simd.name());
    }
}

#[test]
fn a_direction_does_not_depend_on_how_many_there_are() {
    let values = values(3, 5, 1);
    let matrix = Matrix::new(&values, 3, 5).unwrap();
    let few = Projection::new(Directions::Sparse, 2, 5, Seed(2)).unwrap().project(&Exec::serial(), &matrix);
    let many = Projection::new(Directions::Sparse, 20, 5, Seed(2)).unwrap().project(&Exec::serial(), &matrix);
    assert_eq!(few.unwrap()[2..4], many.unwrap()[20..22]);
}

#[test]
fn entries_have_mean_zero_and_variance_one() {
    let identity: Vec<f32> = (0..64 * 64).map(|i| if i / 64 == i % 64 { 1.0 } else { 0.0 }).collect();
    let matrix = Matrix::new(&identity, 64, 64).unwrap();
    for kind in [Directions::Gaussian, Directions::Sparse] {
        let entries =
            Projection::new(kind, 1_000, 64, Seed(3)).unwrap().project(&Exec::serial(), &matrix).unwrap();
        let mean = entries.iter().map(|&x| f64::from(x)).sum::<f64>() / entries.len() as f64;
        let variance = entries.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / entries.len() as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{kind:?}: {mean} {variance}");
        if kind == Directions::Sparse {
            let zeros = entries.iter().filter(|&&x| x == 0.0).count() as f64 / entries.len() as f64;
            assert!((zeros - 2.0 / 3.0).abs() < 0.01, "{zeros}");
        }
    }
}

#[test]
fn thresholds_at_the_mean_split_data_far_from_the_origin() {
    let values: Vec<f32> = values(1_000, 4, 5).into_iter().map(|value| value + 1_000.0).collect();
    let matrix = Matrix::new(&values, 1_000, 4).unwrap();
    let exec = Exec::serial();
    let projection = Projection::new(Directions::Gaussian, 8, 4, Seed(1)).unwrap();
    let thresholds = projection.thresholds_at(&matrix.column_means(&exec).unwrap()).unwrap();
    let codes = projection.sign_codes(&exec, &matrix, &thresholds).unwrap();
    for bit in 0..8 {
        let ones = codes.iter().filter(|&&code| code >> bit & 1 == 1).count();
        assert!((350..650).contains(&ones), "bit {bit}: {ones} of 1000");
    }
}

#[test]
fn wrong_arguments_are_refused() {
    let matrix = Matrix::new(&[0.0, 1.0], 1, 2).unwrap();
    let refused = |result: Result<(), Error>| match result {
        Err(Error::InvalidArgument { name, .. }) => name,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(Projection::new(Directions::Gaussian, 0, 2, Seed(0)).map(drop)), "projections");
    let wide = Projection::new(Directions::Gaussian, 2, 3, Seed(0)).unwrap();
    assert_eq!(refused(wide.project(&Exec::serial(), &matrix).map(drop)), "features");
    let fitting = Projection::new(Directions::Gaussian, 2, 2, Seed(0)).unwrap();
    assert_eq!(refused(fitting.sign_codes(&Exec::serial(), &matrix, &[0.0]).map(drop)), "thresholds");
    for width in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let codes = fitting.p_stable_codes(&Exec::serial(), &matrix, width, Seed(0));
        assert_eq!(refused(codes.map(drop)), "width");
    }
}
