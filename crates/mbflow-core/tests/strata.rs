//! Stratified deals: who is in which batch, how many of which class, and how often.

use mbflow_core::{Cut, Deal, Exec, Seed, deal, rows_by_class};
use proptest::prelude::*;

/// Sizes of classes and, for each, a quota; some classes are empty.
fn classes() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((0_u64..40, 0_u64..60), 1..12)
        .prop_map(|classes| {
            classes
                .into_iter()
                .map(|(size, quota)| (size, if size == 0 { 0 } else { quota }))
                .collect::<Vec<_>>()
        })
        .prop_filter("some row", |classes| classes.iter().any(|&(_, quota)| quota > 0))
}

/// Which class a place of the rows by class belongs to.
fn class_of(sizes: &[u64], place: u64) -> usize {
    let mut end = 0;
    sizes
        .iter()
        .position(|size| {
            end += size;
            place < end
        })
        .expect("places are below the number of rows")
}

fn counts(sizes: &[u64], places: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut counts = vec![0; sizes.len()];
    places.for_each(|place| counts[class_of(sizes, place)] += 1);
    counts
}

proptest! {
    #[test]
    fn batches_hold_the_mixture_and_rows_come_round(
        classes in classes(), size in 1_u64..50, seed in any::<u64>(), epoch in 0_u64..20,
    ) {
        let (sizes, quotas): (Vec<u64>, Vec<u64>) = classes.into_iter().unzip();
        let total: u64 = quotas.iter().sum();
        let deal = Deal::new(&sizes, &quotas, Cut::Size(size), Seed(seed), epoch).unwrap();
        prop_assert_eq!(deal.batches(), total.div_ceil(size));
        let mut occurrences = vec![0_u64; sizes.iter().sum::<u64>() as usize];
        let mut first = 0;
        for number in 0..deal.batches() {
            let batch = deal.batch(number);
            let expected_size = size.min(total - number * size);
            prop_assert_eq!(batch.len() as u64, expected_size);
            let counts = counts(&sizes, batch.iter().map(|dealt| dealt.place));
            for (count, quota) in counts.iter().zip(&quotas) {
                let share = quota * expected_size;
                prop_assert!(*count >= share / total && *count <= share.div_ceil(total), "{counts:?}");
            }
            for dealt in batch {
                occurrences[dealt.place as usize] += 1;
                first += u64::from(!dealt.repeat);
            }
        }
        // Every first occurrence is marked as such, and occurrences within a class differ by at most one.
        prop_assert_eq!(first, occurrences.iter().filter(|&&count| count > 0).count() as u64);
        let mut start = 0;
        for (&size, &quota) in sizes.iter().zip(&quotas) {
            let class = &occurrences[start..start + size as usize];
            prop_assert_eq!(class.iter().sum::<u64>(), quota);
            prop_assert!(class.iter().all(|&count| size > 0 && (quota / size..=quota.div_ceil(size)).contains(&count)));
            start += size as usize;
        }
    }

    #[test]
    fn parts_of_the_last_batches_are_those_batches(
        classes in classes(), size in 1_u64..10, parts in 1_usize..9, back in 1_u64..5,
    ) {
        let (sizes, quotas): (Vec<u64>, Vec<u64>) = classes.into_iter().unzip();
        let deal = Deal::new(&sizes, &quotas, Cut::Size(size), Seed(5), 3).unwrap();
        let first = deal.batches().saturating_sub(back);
        let mut whole: Vec<u64> =
            (first..deal.batches()).flat_map(|number| deal.batch(number)).map(|dealt| dealt.place).collect();
        let split: Vec<Vec<u64>> = (0..parts)
            .map(|part| deal.split(first, parts, part).iter().map(|dealt| dealt.place).collect())
            .collect();
        let pool = counts(&sizes, whole.iter().copied());
        for part in &split {
            prop_assert!((whole.len() / parts..=whole.len().div_ceil(parts)).contains(&part.len()));
            for (count, pool) in counts(&sizes, part.iter().copied()).into_iter().zip(&pool) {
                prop_assert!((pool / parts as u64..=pool.div_ceil(parts as u64)).contains(&count));
            }
        }
        let mut together = split.concat();
        together.sort_unstable();
        whole.sort_unstable();
        prop_assert_eq!(together, whole);
    }

    #[test]
    fn a_whole_deal_is_the_same_on_any_number_of_threads(
        codes in prop::collection::vec(0_u16..5, 1..300), batches in 1_usize..40, seed in any::<u64>(),
    ) {
        let batches = batches.min(codes.len());
        let serial = Exec::serial();
        let strata = rows_by_class(&serial, &codes, 6).unwrap();
        let dealt = deal(&serial, strata.view(), batches, Seed(seed)).unwrap();
        let exec = Exec::with_threads(3).unwrap();
        prop_assert_eq!(&deal(&exec, strata.view(), batches, Seed(seed)).unwrap(), &dealt);
        let mut rows = dealt.view().values().to_vec();
        rows.sort_unstable();
        prop_assert!(rows.into_iter().eq(0..codes.len() as u32));
        for batch in dealt.view().iter() {
            prop_assert!((codes.len() / batches..=codes.len().div_ceil(batches)).contains(&batch.len()));
            for class in 0..6 {
                let of_class = strata.view().row(class).len();
                let here = batch.iter().filter(|&&row| usize::from(codes[row as usize]) == class).count();
                prop_assert!((of_class / batches..=of_class.div_ceil(batches)).contains(&here));
            }
        }
    }
}

#[test]
fn rows_by_class_are_a_stable_sort() {
    let codes: Vec<u32> = (0..3_000_000).map(|row| (row % 7919) % 3).collect();
    let one = rows_by_class(&Exec::serial(), &codes, 3).unwrap();
    assert_eq!(rows_by_class(&Exec::with_threads(2).unwrap(), &codes, 3).unwrap(), one);
    for (class, rows) in one.view().iter().enumerate() {
        assert!(rows.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(rows.iter().all(|&row| codes[row as usize] as usize == class));
    }
    assert_eq!(one.view().values().len(), codes.len());
}

#[test]
fn short_quotas_see_every_row_before_any_comes_again() {
    // Ten rows, three an epoch: three epochs share an order.
    let seen: Vec<Vec<u64>> = (0..6)
        .map(|epoch| {
            let deal = Deal::new(&[10], &[3], Cut::Size(3), Seed(1), epoch).unwrap();
            deal.batch(0).iter().map(|dealt| dealt.place).collect()
        })
        .collect();
    for group in seen.chunks(3) {
        let mut rows = group.concat();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), 9);
    }
    assert_ne!(seen[0], seen[3]);
}

#[test]
fn epochs_and_seeds_differ() {
    let order = |seed, epoch| {
        let deal = Deal::new(&[50, 50], &[50, 50], Cut::Size(10), Seed(seed), epoch).unwrap();
        (0..10).flat_map(|number| deal.batch(number)).map(|dealt| dealt.place).collect::<Vec<_>>()
    };
    assert_eq!(order(1, 0), order(1, 0));
    assert_ne!(order(1, 0), order(1, 1));
    assert_ne!(order(1, 0), order(2, 0));
}

#[test]
fn wrong_arguments_are_refused() {
    let message = |sizes: &[u64], quotas: &[u64], cut| {
        Deal::new(sizes, quotas, cut, Seed(0), 0).unwrap_err().to_string()
    };
    assert!(message(&[1], &[1, 2], Cut::Size(1)).starts_with("quotas: expected one a class"));
    assert!(message(&[0], &[1], Cut::Size(1)).contains("class 0 has no rows"));
    assert!(message(&[1], &[0], Cut::Size(1)).contains("at least one row"));
    assert!(message(&[1], &[1], Cut::Size(0)).starts_with("batch_size"));
    assert!(message(&[1], &[1], Cut::Batches(2)).contains("1 to 1"));
    assert!(message(&[1], &[1], Cut::Batches(0)).contains("got 0"));
    assert!(message(&[u64::MAX, 1], &[1, 1], Cut::Size(1)).contains("2^62"));
    let error = rows_by_class(&Exec::serial(), &[0_u8, 3], 2).unwrap_err();
    assert_eq!(error.to_string(), "codes: row 1 has code 3; expected codes below 2");
    assert!(rows_by_class(&Exec::serial(), &[] as &[u8], 0).unwrap().is_empty());
}
