//! The generator against published answers, and the shape of what it draws.

use std::num::NonZeroU64;

use mbflow_core::{Exec, Seed, philox4x32};
use proptest::prelude::*;

#[test]
fn philox_gives_the_known_answers() {
    // Random123's kat_vectors, lines "philox4x32 10".
    assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    assert_eq!(
        philox4x32([u32::MAX; 4], [u32::MAX; 2]),
        [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
    );
    assert_eq!(
        philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
    );
}

#[test]
fn the_function_is_as_documented() {
    let (seed, stream, index) = (0x0123_4567_89ab_cdef, 77, 0xfeed_0000_beef);
    let block = philox4x32([0x0000_beef, 0xfeed, 77, 0], [0x89ab_cdef, 0x0123_4567]);
    assert_eq!(Seed(seed).u64_at(stream, index), u64::from(block[1]) << 32 | u64::from(block[0]));
}

#[test]
fn bounded_draws_are_uniform() {
    // Chi-squared with 6 degrees of freedom: 22.5 is passed once in a thousand; the seed is fixed.
    let bound = NonZeroU64::new(7).unwrap();
    let mut counts = [0.0; 7];
    for index in 0..70_000 {
        counts[Seed(1).below(9, index, bound) as usize] += 1.0;
    }
    let statistic: f64 = counts.iter().map(|count: &f64| (count - 10_000.0).powi(2) / 10_000.0).sum();
    assert!(statistic < 22.5, "{statistic}");
}

#[test]
fn a_bound_that_rejects_half_of_the_attempts_is_uniform() {
    let bound = NonZeroU64::new((1 << 63) + 1).unwrap();
    let low = (0..20_000).filter(|&index| Seed(1).below(9, index, bound) < 1 << 62).count();
    assert!((9_500..10_500).contains(&low), "{low}");
}

#[test]
fn normal_draws_have_normal_moments() {
    let draws: Vec<f64> = (0..200_000).map(|index| f64::from(Seed(2).normal(9, index))).collect();
    let moment = |power| draws.iter().map(|x| x.powi(power)).sum::<f64>() / draws.len() as f64;
    assert!(moment(1).abs() < 0.01 && (moment(2) - 1.0).abs() < 0.01);
    assert!(moment(3).abs() < 0.03 && (moment(4) - 3.0).abs() < 0.1);
    assert!(draws.iter().all(|x| x.is_finite()));
}

#[test]
fn permutations_of_four_are_equally_likely() {
    let mut counts = std::collections::BTreeMap::new();
    for seed in 0..24_000 {
        *counts.entry(Seed(seed).permutation(&Exec::serial(), 9, 4).unwrap()).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 24);
    assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
}

proptest! {
    #[test]
    fn filling_is_drawing_one_by_one(
        seed in any::<u64>(),
        stream in any::<u32>(),
        start in prop_oneof![any::<u64>(), Just(u64::MAX - 3)],
        count in 0_usize..40_000,
        threads in 1_usize..4,
    ) {
        let exec = Exec::with_threads(threads).unwrap();
        let mut draws = vec![0; count];
        Seed(seed).fill_u64(&exec, stream, start, &mut draws).unwrap();
        for (offset, draw) in draws.iter().enumerate().step_by(997) {
            prop_assert_eq!(*draw, Seed(seed).u64_at(stream, start.wrapping_add(offset as u64)));
        }
    }

    #[test]
    fn bounded_draws_are_below_the_bound(seed in any::<u64>(), index in any::<u64>(), bound in 1_u64..) {
        prop_assert!(Seed(seed).below(1, index, NonZeroU64::new(bound).unwrap()) < bound);
    }

    #[test]
    fn a_permutation_holds_every_number_once(seed in any::<u64>(), len in 0_usize..2_000) {
        let mut order = Seed(seed).permutation(&Exec::serial(), 3, len).unwrap();
        order.sort_unstable();
        prop_assert!(order.into_iter().eq(0..i64::try_from(len).unwrap()));
    }
}
