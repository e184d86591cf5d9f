//! The random forest: what must hold for any of its trees, and that it learns.

use mbflow_core::{Error, Exec, Forest, Matrix, Seed};
use proptest::prelude::*;

fn normal(rows: usize, width: usize, seed: u64) -> Vec<f32> {
    (0..(rows * width) as u64).map(|i| Seed(seed).normal(104, i)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn many_trees_know_their_own_rows(
        rows in 1_usize..60, width in 1_usize..8, classes in 1_u64..5, seed in 0_u64..1000,
    ) {
        // Rows far apart along the first column, the class of each given by its place: trees grown in full on
        // bootstrap samples separate them, so that of very many trees most have a row in their sample.
        let mut values = normal(rows, width, seed);
        for row in 0..rows {
            values[row * width] = row as f32 * 100.0;
        }
        let matrix = Matrix::new(&values, rows, width).unwrap();
        let codes: Vec<i64> =
            (0..rows as u64).map(|row| (Seed(seed).u64_at(101, row) % classes) as i64).collect();
        let forest = Forest::fit(&Exec::serial(), &matrix, &codes, 301, Seed(seed)).unwrap();
        let found = forest.predict(&Exec::serial(), &matrix).unwrap();
        let right = found.iter().zip(&codes).filter(|(found, code)| found == code).count();
        prop_assert!(right * 10 >= rows * 9, "{right} of {rows}");
    }
}

#[test]
fn a_class_that_is_a_product_of_signs_is_learnt() {
    let (train, test) = (normal(600, 6, 1), normal(400, 6, 2));
    let classes = |values: &[f32]| -> Vec<i64> {
        values.chunks(6).map(|row| i64::from((row[1] > 0.0) != (row[4] > 0.0))).collect()
    };
    let (rows, queries) = (Matrix::new(&train, 600, 6).unwrap(), Matrix::new(&test, 400, 6).unwrap());
    let forest = Forest::fit(&Exec::serial(), &rows, &classes(&train), 60, Seed(3)).unwrap();
    let found = forest.predict(&Exec::serial(), &queries).unwrap();
    let right = found.iter().zip(classes(&test)).filter(|(found, code)| *found == code).count();
    // No linear rule and no single column is above chance here.
    assert!(right > 320, "{right} of 400");
}

#[test]
fn equal_rows_of_two_classes_go_to_the_more_frequent() {
    let values = [1.0; 20];
    let rows = Matrix::new(&values, 20, 1).unwrap();
    let codes: Vec<i64> = (0..20).map(|row| i64::from(row < 17)).collect();
    let forest = Forest::fit(&Exec::serial(), &rows, &codes, 31, Seed(0)).unwrap();
    assert_eq!(forest.predict(&Exec::serial(), &rows).unwrap(), [1; 20]);
}

#[test]
fn neighbouring_floats_are_told_apart() {
    let upper = f32::from_bits(1.0_f32.to_bits() + 1);
    let values = [1.0, upper, 1.0, upper, 1.0, upper, 1.0, upper];
    let rows = Matrix::new(&values, 8, 1).unwrap();
    let forest = Forest::fit(&Exec::serial(), &rows, &[0, 1, 0, 1, 0, 1, 0, 1], 31, Seed(0)).unwrap();
    assert_eq!(forest.predict(&Exec::serial(), &rows).unwrap(), [0, 1, 0, 1, 0, 1, 0, 1]);
}

#[test]
fn the_result_depends_on_the_seed_but_not_on_threads() {
    let values = normal(1000, 5, 7);
    let rows = Matrix::new(&values, 1000, 5).unwrap();
    let codes: Vec<i64> = (0..1000).map(|row| (Seed(1).u64_at(101, row) % 3) as i64).collect();
    let forest = |exec: &Exec, seed| {
        let forest = Forest::fit(exec, &rows, &codes, 20, Seed(seed)).unwrap();
        let found = forest.predict(exec, &rows).unwrap();
        (forest, found)
    };
    let one = forest(&Exec::serial(), 1);
    assert_eq!(one, forest(&Exec::with_threads(3).unwrap(), 1));
    assert_ne!(one.0, forest(&Exec::serial(), 2).0);
}

#[test]
fn what_cannot_be_used_is_refused() {
    let exec = Exec::serial();
    let rows = Matrix::new(&[1.0, 2.0], 2, 1).unwrap();
    let refusal = |classes: &[i64], trees| match Forest::fit(&exec, &rows, classes, trees, Seed(0)) {
        Err(Error::InvalidArgument { name, .. }) => name,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(&[0], 1), "classes");
    assert_eq!(refusal(&[0, -1], 1), "classes");
    assert_eq!(refusal(&[0, 1 << 16], 1), "classes");
    assert_eq!(refusal(&[0, 1], 0), "trees");
    let forest = Forest::fit(&exec, &rows, &[0, 1], 1, Seed(0)).unwrap();
    assert!(forest.predict(&exec, &Matrix::new(&[1.0, 2.0], 1, 2).unwrap()).is_err());
    let bad = [1.0, f32::NAN];
    assert!(Forest::fit(&exec, &Matrix::new(&bad, 2, 1).unwrap(), &[0, 1], 1, Seed(0)).is_err());
}
