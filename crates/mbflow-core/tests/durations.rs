//! Duration buckets, turns, cells and packing against slow and obvious ones.

use std::collections::HashSet;

use mbflow_core::{
    BatchLimit, Budget, Cells, Exec, Fit, Interleave, Lengths, OptimalEdges, Ragged, Seed, Stretch, Turn,
    bucket_items, bucket_of, cells, pack, sorted_items,
};
use proptest::prelude::*;

/// The least cost of at most `buckets` edges, by trying every set of them.
fn cheapest(costs: &[f64], counts: &[u64], buckets: usize) -> f64 {
    let last = costs.len() - 1;
    (0..1_u32 << last)
        .filter(|chosen| chosen.count_ones() as usize == buckets.min(costs.len()) - 1)
        .map(|chosen| {
            let mut edge = last;
            let mut total = 0.0;
            for candidate in (0..=last).rev() {
                if candidate < last && chosen >> candidate & 1 == 1 {
                    edge = candidate;
                }
                total += costs[edge] * counts[candidate] as f64;
            }
            total
        })
        .fold(f64::INFINITY, f64::min)
}

proptest! {
    #[test]
    fn edges_are_the_cheapest(
        mut costs in prop::collection::vec(0_u32..50, 1..11),
        seed in any::<u64>(),
        buckets in 1_usize..8,
    ) {
        costs.sort_unstable();
        let costs: Vec<f64> = costs.into_iter().map(f64::from).collect();
        let counts: Vec<u64> = (0..costs.len() as u64).map(|at| Seed(seed).u64_at(9, at) % 6).collect();
        let found = OptimalEdges::new(&Exec::serial(), &costs, &counts, buckets).unwrap();
        prop_assert_eq!(found.most_buckets(), buckets.min(costs.len()));
        for buckets in 1..=found.most_buckets() {
            prop_assert_eq!(found.cost(buckets), cheapest(&costs, &counts, buckets));
            let edges = found.edges(buckets);
            prop_assert_eq!(edges.len(), buckets);
            prop_assert!(edges.is_sorted_by(|a, b| a < b));
            prop_assert_eq!(edges[buckets - 1], costs.len() - 1);
            let mut total = 0.0;
            for (candidate, &count) in counts.iter().enumerate() {
                total += costs[edges[edges.partition_point(|&edge| edge < candidate)]] * count as f64;
            }
            prop_assert_eq!(total, found.cost(buckets));
        }
    }

    #[test]
    fn every_track_has_its_turns_and_its_share_of_any_beginning(
        turns in prop::collection::vec(0_u64..15, 1..20),
        rounds in 1_u64..3,
        seed in any::<u64>(),
    ) {
        prop_assume!(turns.iter().sum::<u64>() > 0);
        let interleave = Interleave::new(Seed(seed), &turns).unwrap();
        let total = interleave.round();
        let all = interleave.turns(0, rounds * total);
        let mut next = vec![0; turns.len()];
        for (number, &turn) in all.iter().enumerate() {
            let number = number as u64;
            prop_assert_eq!(interleave.at(number), turn);
            prop_assert_eq!(interleave.before(number), next.clone());
            prop_assert_eq!(turn.index, next[turn.track as usize], "turns of a track come in order");
            next[turn.track as usize] += 1;
            for (track, &done) in next.iter().enumerate() {
                let (round, share) = ((number + 1) / total, (number + 1) % total);
                prop_assert!(done >= round * turns[track] && done <= (round + 1) * turns[track]);
                // Another track may be ahead or behind by one, each.
                let wanted = (turns[track] * share) as f64 / total as f64;
                let slack = 2.0 + (turns.len() as f64 + 1.0) * turns[track] as f64 / total as f64;
                prop_assert!(((done - round * turns[track]) as f64 - wanted).abs() <= slack);
            }
        }
        prop_assert_eq!(next, turns.iter().map(|turns| turns * rounds).collect::<Vec<_>>());
        let middle = rounds * total / 2;
        let joined = [interleave.turns(0, middle), interleave.turns(middle, rounds * total)].concat();
        prop_assert_eq!(joined, all);
    }

    #[test]
    fn stretches_of_buckets_hold_every_item_once(
        sizes in prop::collection::vec(0_usize..300, 1..6),
        step in 1_u64..90,
        seed in any::<u64>(),
    ) {
        let mut offsets = vec![0_i64];
        for &size in &sizes {
            offsets.push(offsets[offsets.len() - 1] + size as i64);
        }
        let items: Vec<u32> = (0..sizes.iter().sum::<usize>() as u32).rev().collect();
        let buckets = Ragged::new(&offsets, &items).unwrap();
        let mut stretches = Vec::new();
        for (&size, bucket) in sizes.iter().zip(0..) {
            let size = size as u64;
            stretches.extend((0..size).step_by(step as usize).map(|first| Stretch { bucket, first, last: size.min(first + step) }));
        }
        let together = bucket_items(&Exec::serial(), buckets, Seed(seed), &stretches).unwrap();
        let mut apart = Vec::new();
        for stretch in &stretches {
            let found = bucket_items(&Exec::serial(), buckets, Seed(seed), &[*stretch]).unwrap();
            let own: HashSet<i64> = buckets.row(stretch.bucket as usize).iter().map(|&item| i64::from(item)).collect();
            prop_assert!(found.iter().all(|item| own.contains(item)));
            apart.extend(found);
        }
        prop_assert_eq!(&apart, &together);
        apart.sort_unstable();
        prop_assert!(apart.into_iter().eq(0..items.len() as i64));
        let parallel = Exec::with_threads(3).unwrap();
        prop_assert_eq!(bucket_items(&parallel, buckets, Seed(seed), &stretches).unwrap(), together);
    }

    #[test]
    fn cells_hold_every_item_once_and_keep_the_budget(
        seconds in prop::collection::vec(1_u32..40, 1..200),
        with_tokens in any::<bool>(),
        batches in 1_u64..6,
        edges in prop::collection::btree_set(0_u32..45, 0..5),
        multiple in 1_u64..5,
        seed in any::<u64>(),
    ) {
        let edges: Vec<f64> = edges.into_iter().map(|edge| f64::from(edge) / 2.0).collect();
        let seconds: Vec<f32> = seconds.into_iter().map(|s| s as f32 / 2.0).collect();
        let tokens: Vec<u32> = if with_tokens {
            (0..seconds.len() as u64).map(|item| (Seed(seed).u64_at(9, item) % 60) as u32).collect()
        } else {
            Vec::new()
        };
        let limits = vec![
            BatchLimit { seconds: 1.0, seconds_squared: 0.1, most: 80.0, ..BatchLimit::default() },
            BatchLimit { fixed: 3.0, tokens: 1.0, most: 200.0, ..BatchLimit::default() },
        ];
        let budget = Budget::new(limits, multiple).unwrap();
        let items: Vec<u32> = (0..seconds.len() as u32).filter(|item| item % 7 != 3).collect();
        let lengths = Lengths::new(&seconds, &tokens).unwrap();
        let parallel = Exec::with_threads(3).unwrap();
        let sorted = sorted_items(&Exec::serial(), &items, lengths, &edges, Seed(seed)).unwrap();
        prop_assert_eq!(&sorted_items(&parallel, &items, lengths, &edges, Seed(seed)).unwrap(), &sorted);
        let mut seen = sorted.clone();
        seen.sort_unstable();
        prop_assert_eq!(&seen, &items);
        // Equal ones are in any order, so lengths are compared.
        let stripe = |item: u32| edges.iter().filter(|&&edge| edge < f64::from(seconds[item as usize])).count();
        let mut wanted = items.clone();
        wanted.sort_by(|&a, &b| seconds[b as usize].total_cmp(&seconds[a as usize]));
        if with_tokens {
            for (number, part) in wanted.chunk_by_mut(|&a, &b| stripe(a) == stripe(b)).enumerate() {
                part.sort_by_key(|&item| std::cmp::Reverse(tokens[item as usize]));
                if number % 2 == 1 {
                    part.reverse();
                }
            }
            let shapes = |items: &[u32]| items.iter().map(|&item| (stripe(item), tokens[item as usize])).collect::<Vec<_>>();
            prop_assert_eq!(shapes(&sorted), shapes(&wanted));
        } else {
            let lengths = |items: &[u32]| items.iter().map(|&item| seconds[item as usize]).collect::<Vec<_>>();
            prop_assert_eq!(lengths(&sorted), lengths(&wanted));
        }
        let first = 1 + seed % batches;
        let found = cells(&Exec::serial(), &sorted, lengths, &budget, batches, first).unwrap();
        prop_assert_eq!(found.offsets[0], 0);
        prop_assert_eq!(found.offsets[found.sizes.len()], items.len() as i64);
        for (number, (bounds, &size)) in found.offsets.windows(2).zip(&found.sizes).enumerate() {
            let cell = &sorted[bounds[0] as usize..bounds[1] as usize];
            let drawn = cell.len().div_ceil(size as usize) as u64;
            let most_drawn = if number == 0 { first } else { batches };
            prop_assert!((1..=most_drawn).contains(&drawn));
            let longest = cell.iter().map(|&item| f64::from(seconds[item as usize])).fold(0.0, f64::max);
            let most = cell.iter().map(|&item| tokens.get(item as usize).copied().unwrap_or(0)).max().unwrap();
            let items = size.min(cell.len() as u64) as f64;
            prop_assert!(items * (longest + 0.1 * longest * longest) <= 80.0);
            prop_assert!(3.0 + items * f64::from(most) <= 200.0);
            // Without tokens, a cell has all its batches, unless the items end.
            let last = number + 1 == found.sizes.len();
            prop_assert!(with_tokens || last || drawn == most_drawn);
        }
    }

    #[test]
    fn items_go_to_the_first_edge_that_is_not_below_them(
        lengths in prop::collection::vec(0_u32..60, 0..50),
        edges in prop::collection::btree_set(0_u32..60, 0..9),
    ) {
        let lengths: Vec<f32> = lengths.into_iter().map(|length| length as f32 / 4.0).collect();
        let edges: Vec<f64> = edges.into_iter().map(|edge| f64::from(edge) / 4.0).collect();
        let found = bucket_of(&Exec::with_threads(2).unwrap(), &lengths, &edges).unwrap();
        for (&length, bucket) in lengths.iter().zip(found) {
            let wanted = edges.iter().position(|&edge| edge >= f64::from(length)).unwrap_or(edges.len());
            prop_assert_eq!(bucket as usize, wanted);
        }
    }

    #[test]
    fn budgets_are_kept_and_used_up(
        numbers in prop::array::uniform7(0.0_f64..3.0),
        most in 0.0_f64..500.0,
        seconds in 0.0_f64..40.0,
        tokens in 0.0_f64..40.0,
    ) {
        let [fixed, item, a, b, c, d, e] = numbers;
        let limit = BatchLimit { fixed, item, seconds: a, seconds_squared: b, tokens: c, tokens_squared: d, product: e, most };
        let cost = |size: f64| fixed + size * (item + a * seconds + b * seconds * seconds + c * tokens + d * tokens * tokens + e * seconds * tokens);
        let size = Budget::new(vec![limit], 1).unwrap().items(seconds, tokens) as f64;
        let rounding = if size == 1.0 { 1e-6 } else { 1e-12 };
        prop_assert!(size == 0.0 || cost(size) <= most * (1.0 + rounding));
        prop_assert!(size > 1e15 || cost(size + 1.0) >= most * (1.0 - 1e-12));
    }

    #[test]
    fn rows_hold_every_item_once_within_their_capacity(
        lengths in prop::collection::vec(0_u64..30, 0..120),
        capacity in 29_u64..60,
    ) {
        for fit in [Fit::First, Fit::Best] {
            let rows = pack(&Exec::serial(), &lengths, capacity, fit).unwrap();
            for row in rows.view().iter() {
                prop_assert!(row.iter().map(|&item| lengths[item as usize]).sum::<u64>() <= capacity);
            }
            let slow = slow_pack(&lengths, capacity, fit);
            prop_assert_eq!(rows.view().iter().map(<[_]>::to_vec).collect::<Vec<_>>(), slow);
        }
    }

    #[test]
    fn rows_are_nearly_the_fewest(lengths in prop::collection::vec(1_u64..20, 1..9), capacity in 20_u64..40) {
        let fewest = fewest_rows(&lengths, capacity) as f64;
        for fit in [Fit::First, Fit::Best] {
            let rows = pack(&Exec::serial(), &lengths, capacity, fit).unwrap().len() as f64;
            prop_assert!(rows <= 11.0 / 9.0 * fewest + 6.0 / 9.0, "{rows} rows, {fewest} would do");
        }
    }
}

fn slow_pack(lengths: &[u64], capacity: u64, fit: Fit) -> Vec<Vec<u32>> {
    let mut order: Vec<u32> = (0..lengths.len() as u32).collect();
    order.sort_by_key(|&item| std::cmp::Reverse(lengths[item as usize]));
    let mut rows: Vec<(u64, Vec<u32>)> = Vec::new();
    for item in order {
        let length = lengths[item as usize];
        let fitting = rows.iter().enumerate().filter(|(_, (room, _))| *room >= length);
        let chosen = match fit {
            Fit::First => fitting.map(|(row, _)| row).next(),
            Fit::Best => fitting.min_by_key(|(row, (room, _))| (*room, *row)).map(|(row, _)| row),
        };
        let row = chosen.unwrap_or_else(|| {
            rows.push((capacity, Vec::new()));
            rows.len() - 1
        });
        rows[row].0 -= length;
        rows[row].1.push(item);
    }
    rows.into_iter().map(|(_, items)| items).collect()
}

/// The fewest rows that hold all items, by trying every way to put the first one, then the next.
fn fewest_rows(lengths: &[u64], capacity: u64) -> usize {
    fn best(lengths: &[u64], capacity: u64, rooms: &mut Vec<u64>) -> usize {
        let Some((&length, rest)) = lengths.split_first() else {
            return rooms.len();
        };
        let mut fewest = usize::MAX;
        for row in 0..rooms.len() {
            if rooms[row] >= length {
                rooms[row] -= length;
                fewest = fewest.min(best(rest, capacity, rooms));
                rooms[row] += length;
            }
        }
        rooms.push(capacity - length);
        fewest = fewest.min(best(rest, capacity, rooms));
        rooms.pop();
        fewest
    }
    best(lengths, capacity, &mut Vec::new())
}

#[test]
fn equal_items_are_in_keyed_order() {
    let seconds = vec![2.0; 500];
    let items: Vec<u32> = (0..500).collect();
    let lengths = Lengths::new(&seconds, &[]).unwrap();
    let of = |seed| sorted_items(&Exec::serial(), &items, lengths, &[], Seed(seed)).unwrap();
    assert_ne!(of(0), of(1));
    assert_ne!(of(0), items);
    // Neighbours in number are no neighbours in order.
    let near = of(0).windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 5).count();
    assert!(near < 30, "{near}");
}

#[test]
fn turns_are_the_same_for_very_many() {
    // One track has nearly all turns, so that stretches are short and rounding shows.
    let interleave = Interleave::new(Seed(5), &[1, (1 << 32) - 10, 3, 0]).unwrap();
    let total = interleave.round();
    let mut counts = [0_u64; 4];
    for turn in interleave.turns(total - 1000, total + 1000) {
        counts[turn.track as usize] += 1;
    }
    assert_eq!(counts[3], 0);
    assert_eq!(interleave.before(total), [1, (1 << 32) - 10, 3, 0]);
    assert_eq!(interleave.before(2 * total), [2, (2 << 32) - 20, 6, 0]);
    let last = interleave.at(total - 1);
    let mut before = interleave.before(total - 1);
    before[last.track as usize] += 1;
    assert_eq!(before, interleave.before(total));
    for turn in (0..2000).map(|step| step * (total / 2000)) {
        let found = interleave.at(turn);
        assert_eq!(found.index, interleave.before(turn)[found.track as usize], "{turn}");
    }
    assert_eq!(
        interleave.at(total + 5).index,
        interleave.before(total + 5)[interleave.at(total + 5).track as usize]
    );
}

#[test]
fn turns_differ_between_rounds_and_seeds() {
    let turns = |seed, round: u64| {
        Interleave::new(Seed(seed), &[20, 20])
            .unwrap()
            .turns(40 * round, 40 * round + 40)
            .into_iter()
            .map(|Turn { track, .. }| track)
            .collect::<Vec<_>>()
    };
    assert_ne!(turns(0, 0), turns(0, 1));
    assert_ne!(turns(0, 0), turns(1, 0));
}

#[test]
fn what_cannot_be_is_refused() {
    let exec = Exec::serial();
    let refused = [
        OptimalEdges::new(&exec, &[], &[], 1).map(drop),
        OptimalEdges::new(&exec, &[2.0, 1.0], &[1, 1], 1).map(drop),
        OptimalEdges::new(&exec, &[1.0, f64::NAN], &[1, 1], 1).map(drop),
        OptimalEdges::new(&exec, &[1.0], &[1, 2], 1).map(drop),
        OptimalEdges::new(&exec, &[1.0], &[1], 0).map(drop),
        Interleave::new(Seed(0), &[]).map(drop),
        Interleave::new(Seed(0), &[0, 0]).map(drop),
        Interleave::new(Seed(0), &[u64::MAX, 2]).map(drop),
        Interleave::new(Seed(0), &[1 << 32, 1]).map(drop),
        Budget::new(vec![], 1).map(drop),
        Budget::new(vec![BatchLimit { most: -1.0, ..BatchLimit::default() }], 1).map(drop),
        Budget::new(vec![BatchLimit::default()], 0).map(drop),
        pack(&exec, &[5], 4, Fit::First).map(drop),
        pack(&exec, &[], 0, Fit::Best).map(drop),
        Lengths::new(&[1.0], &[1, 2]).map(drop),
        bucket_items(
            &exec,
            Ragged::new(&[0, 1], &[0]).unwrap(),
            Seed(0),
            &[Stretch { bucket: 1, first: 0, last: 1 }],
        )
        .map(drop),
        bucket_items(
            &exec,
            Ragged::new(&[0, 1], &[0]).unwrap(),
            Seed(0),
            &[Stretch { bucket: 0, first: 0, last: 2 }],
        )
        .map(drop),
    ];
    for (number, result) in refused.into_iter().enumerate() {
        assert!(result.is_err(), "{number}");
    }
    let budget =
        Budget::new(vec![BatchLimit { seconds: 1.0, most: 5.0, ..BatchLimit::default() }], 1).unwrap();
    let lengths = Lengths::new(&[1.0, 6.0], &[]).unwrap();
    let cut = |items: &[u32]| cells(&exec, items, lengths, &budget, 4, 1);
    assert_eq!(cut(&[0]).unwrap(), Cells { offsets: vec![0, 1], sizes: vec![1] });
    let error = cut(&[1, 0]).unwrap_err().to_string();
    assert!(error.contains("item 1 of 6 seconds"), "{error}");
    assert!(cut(&[2]).is_err());
    assert!(cells(&exec, &[0], lengths, &budget, 0, 1).is_err());
    assert!(sorted_items(&exec, &[2], lengths, &[], Seed(0)).is_err());
    assert!(sorted_items(&exec, &[0], lengths, &[2.0, 1.0], Seed(0)).is_err());
    assert!(bucket_of(&exec, &[1.0], &[2.0, 2.0]).is_err());
}
