//! Ragged arrays, matrices and the places that kernels run in.

use std::sync::atomic::{AtomicUsize, Ordering};

use mbflow_core::{Cancel, Error, Exec, Matrix, Ragged, RaggedVec, set_threads, squared_distance};
use proptest::prelude::*;

#[test]
fn wrong_offsets_are_refused() {
    let message = |offsets: &[i64], values: &[u8]| Ragged::new(offsets, values).unwrap_err().to_string();
    assert_eq!(message(&[], &[]), "offsets: expected at least one offset, got none");
    assert_eq!(message(&[1, 2], &[7]), "offsets: expected to start at 0, got 1");
    assert_eq!(message(&[0, 3, 2, 3], &[7, 7, 7]), "offsets: row 1 ends at 2 before its start 3");
    assert_eq!(message(&[0, 1], &[7, 7]), "offsets: expected to end at the number of values, 2, got 1");
    assert_eq!(message(&[0, -1], &[]), "offsets: row 0 ends at -1 before its start 0");
}

proptest! {
    #[test]
    fn ragged_rows_survive(rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), 0..20)) {
        let mut owned = RaggedVec::new();
        for row in &rows {
            owned.push(row.iter().copied());
        }
        prop_assert_eq!(owned.len(), rows.len());
        let (offsets, values) = owned.into_parts();
        let view = Ragged::new(&offsets, &values).unwrap();
        prop_assert_eq!(view.iter().map(<[u8]>::to_vec).collect::<Vec<_>>(), rows);
    }

    #[test]
    fn any_offsets_are_refused_or_readable(offsets in prop::collection::vec(-3_i64..9, 0..6)) {
        let values = [0_u8; 6];
        if let Ok(view) = Ragged::new(&offsets, &values) {
            prop_assert_eq!(view.iter().map(<[u8]>::len).sum::<usize>(), values.len());
        }
    }

    #[test]
    fn means_do_not_depend_on_threads(rows in 1_usize..20_000, seed in any::<u64>()) {
        let values: Vec<f32> = (0..rows as u64 * 2).map(|i| mbflow_core::Seed(seed).normal(9, i)).collect();
        let matrix = Matrix::new(&values, rows, 2).unwrap();
        let one = matrix.column_means(&Exec::serial()).unwrap();
        prop_assert_eq!(&one, &matrix.column_means(&Exec::with_threads(3).unwrap()).unwrap());
        let plain = (0..rows).map(|row| f64::from(matrix.row(row)[1])).sum::<f64>() / rows as f64;
        prop_assert!((f64::from(one[1]) - plain).abs() < 1e-6);
    }

    #[test]
    fn distances_are_near_those_in_float64(a in prop::collection::vec(-1e3_f32..1e3, 1..50), seed in any::<u64>()) {
        let b: Vec<f32> = (0..a.len() as u64).map(|i| mbflow_core::Seed(seed).normal(9, i)).collect();
        let exact: f64 = a.iter().zip(&b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
        let bound = exact * (a.len() + 2) as f64 * 2.0_f64.powi(-24);
        prop_assert!((f64::from(squared_distance(&a, &b)) - exact).abs() <= bound);
        prop_assert_eq!(squared_distance(&a, &a), 0.0);
    }
}

#[test]
fn every_item_is_worked_on_once_and_results_keep_their_order() {
    for threads in [1, 2, 3, 7] {
        let exec = Exec::with_threads(threads).unwrap();
        assert_eq!(exec.threads(), threads);
        let count = AtomicUsize::new(0);
        let squares = exec.map((0..1_000).collect(), |i: usize| {
            count.fetch_add(1, Ordering::Relaxed);
            i * i
        });
        assert!(squares.unwrap().into_iter().eq((0..1_000).map(|i| i * i)));
        assert_eq!(count.into_inner(), 1_000);
        assert_eq!(exec.join(|| 1, || 2), (1, 2));
    }
}

#[test]
fn nested_work_does_not_hang() {
    let exec = Exec::with_threads(2).unwrap();
    let sums = exec.map((0..50).collect(), |i: u64| {
        exec.map((0..50).collect(), |j: u64| i * j).unwrap().into_iter().sum::<u64>()
    });
    assert_eq!(sums.unwrap()[2], 2 * 1_225);
}

#[test]
fn work_stops_between_items() {
    for threads in [1, 2] {
        let cancel = Cancel::default();
        let exec = Exec::with_threads(threads).unwrap().with_cancel(&cancel);
        let count = AtomicUsize::new(0);
        let result = exec.run((0..10_000).collect(), |_: usize| {
            if count.fetch_add(1, Ordering::Relaxed) == 10 {
                cancel.set();
            }
        });
        assert_eq!(result, Err(Error::Interrupted));
        assert!(count.into_inner() < 10_000);
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_still_works() {
    let exec = Exec::with_threads(2).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        exec.run((0..10).collect(), |i: usize| assert!(i != 5, "five"))
    }));
    assert!(panicked.is_err());
    assert_eq!(exec.map(vec![1, 2], |i: usize| i + 1).unwrap(), [2, 3]);
}

#[test]
fn numbers_of_threads_are_checked() {
    assert!(set_threads(0).is_err());
    assert!(set_threads(1_025).is_err());
}
