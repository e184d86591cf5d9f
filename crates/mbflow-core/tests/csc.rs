//! Columns from edge lists against a slow and obvious way to them.

use mbflow_core::{
    Csc, CscBuilder, Duplicates, EdgeList, EdgeRules, Error, Exec, NO_ROW, SelfLoops, check_offsets,
    check_sources, deal_edges, degree_bins, take,
};
use proptest::prelude::*;

/// What the rules leave of a list, by target, source and row, sorted.
fn directed(edges: &[(u32, u32)], nodes: u32, rules: EdgeRules) -> Vec<(u32, u32, u32)> {
    let mut found = Vec::new();
    for (row, &(source, target)) in edges.iter().enumerate() {
        if source == target && rules.self_loops != SelfLoops::Keep {
            continue;
        }
        found.push((target, source, row as u32));
        if rules.undirected && source != target {
            found.push((source, target, row as u32));
        }
    }
    if rules.self_loops == SelfLoops::Add {
        found.extend((0..nodes).map(|node| (node, node, NO_ROW)));
    }
    found.sort_unstable();
    found
}

fn oracle(edges: &[(u32, u32)], nodes: u32, rules: EdgeRules, rows: bool, duplicates: Duplicates<'_>) -> Csc {
    let mut sorted: Vec<_> =
        directed(edges, nodes, rules).into_iter().map(|edge| (edge, vec![edge.2])).collect();
    if duplicates != Duplicates::Keep {
        sorted.dedup_by(|later, kept| {
            let same = (later.0.0, later.0.1) == (kept.0.0, kept.0.1);
            if same {
                kept.1.append(&mut later.1);
            }
            same
        });
    }
    let weight = |rows: &Vec<u32>| match duplicates {
        Duplicates::Count(Some(weights)) => {
            let weight = |&row: &u32| if row == NO_ROW { 1.0 } else { f64::from(weights[row as usize]) };
            rows.iter().map(weight).sum::<f64>() as f32
        }
        _ => rows.len() as f32,
    };
    Csc {
        offsets: (0..=nodes)
            .map(|node| sorted.iter().filter(|((target, ..), _)| *target < node).count() as u64)
            .collect(),
        sources: sorted.iter().map(|((_, source, _), _)| *source).collect(),
        rows: rows.then(|| sorted.iter().map(|((_, _, row), _)| *row).collect()),
        weights: matches!(duplicates, Duplicates::Count(_))
            .then(|| sorted.iter().map(|(_, rows)| weight(rows)).collect()),
    }
}

/// Columns of a list that comes in pieces of `piece` edges.
fn build(
    exec: &Exec,
    edges: &[(u32, u32)],
    piece: usize,
    (mut builder, duplicates): (CscBuilder, Duplicates<'_>),
) -> Result<Csc, Error> {
    let (sources, targets): (Vec<u32>, Vec<u32>) = edges.iter().copied().unzip();
    for pass in 0..2 {
        for (index, (sources, targets)) in sources.chunks(piece).zip(targets.chunks(piece)).enumerate() {
            let list = EdgeList::new(sources, targets, (index * piece) as u64)?;
            if pass == 0 {
                builder.count(exec, &list)?;
            } else {
                builder.fill(exec, &list)?;
            }
        }
    }
    builder.finish(exec, duplicates)
}

fn rules() -> impl Strategy<Value = EdgeRules> {
    let loops = prop_oneof![Just(SelfLoops::Keep), Just(SelfLoops::Drop), Just(SelfLoops::Add)];
    (any::<bool>(), loops).prop_map(|(undirected, self_loops)| EdgeRules {
        undirected,
        self_loops,
        reversed: false,
    })
}

proptest! {
    #[test]
    fn columns_are_the_sorted_edges(
        edges in prop::collection::vec((0_u32..40, 0_u32..40), 0..200),
        rules in rules(),
        known in any::<bool>(),
        rows in any::<bool>(),
        kind in 0..4,
        piece in 1_usize..80,
        threads in 1_usize..4,
    ) {
        let weights: Vec<f32> = (0..edges.len()).map(|row| row as f32 * 0.25 - 3.0).collect();
        let duplicates = match kind {
            0 => Duplicates::Keep,
            1 => Duplicates::Drop,
            2 => Duplicates::Count(None),
            _ => Duplicates::Count(Some(&weights)),
        };
        let rows = rows || kind == 3;
        let named = edges.iter().map(|&(a, b)| a.max(b) + 1).max().unwrap_or(0);
        let nodes = if known { 45 } else { named };
        let given = known.then_some(45);
        let exec = Exec::with_threads(threads).unwrap();
        let builder = CscBuilder::new(given, given, 0, rules, rows).unwrap();
        let found = build(&exec, &edges, piece, (builder, duplicates)).unwrap();
        prop_assert_eq!(&found, &oracle(&edges, nodes, rules, rows, duplicates));
        prop_assert!(check_offsets(&exec, &found.offsets, found.sources.len() as u64).is_ok());
        prop_assert!(check_sources(&exec, &found.sources, u64::from(nodes)).is_ok());
    }

    #[test]
    fn ranges_put_together_are_the_whole(
        edges in prop::collection::vec((0_u32..40, 0_u32..40), 0..200),
        rules in rules(),
        cuts in prop::collection::vec(0_u64..=40, 0..5),
    ) {
        let exec = Exec::serial();
        let mut firsts = vec![0, 40];
        firsts.extend(cuts);
        firsts.sort_unstable();
        let (sources, targets): (Vec<u32>, Vec<u32>) = edges.iter().copied().unzip();
        let list = EdgeList::new(&sources, &targets, 0).unwrap();
        let dealt = deal_edges(&exec, &list, rules, 40, &firsts).unwrap();
        let mut whole = Csc { offsets: vec![0], ..Csc::default() };
        for (range, bounds) in firsts.windows(2).enumerate() {
            let alone = EdgeRules {
                undirected: false,
                self_loops: if rules.self_loops == SelfLoops::Add { SelfLoops::Add } else { SelfLoops::Keep },
                ..rules
            };
            let width = bounds[1] - bounds[0];
            let builder = CscBuilder::new(Some(width), Some(40), bounds[0], alone, false).unwrap();
            let own: Vec<(u32, u32)> = dealt.iter().flat_map(|block| {
                let places = block.starts[range] as usize..block.starts[range + 1] as usize;
                places.map(|place| {
                    let row = block.rows[place] as usize;
                    let (source, target) = (block.sources[place], block.targets[place]);
                    let listed = (sources[row], targets[row]);
                    assert!(listed == (source, target) || listed == (target, source));
                    (source, target)
                })
            }).collect();
            let part = build(&exec, &own, 64, (builder, Duplicates::Keep)).unwrap();
            let before = whole.sources.len() as u64;
            whole.offsets.extend(part.offsets[1..].iter().map(|offset| offset + before));
            whole.sources.extend(part.sources);
        }
        prop_assert_eq!(&whole, &oracle(&edges, 40, rules, false, Duplicates::Keep));
        let bins = degree_bins(&exec, &list, EdgeRules { self_loops: SelfLoops::Keep, ..rules }, 40, 40, 3).unwrap();
        let kept = directed(&edges, 40, EdgeRules { self_loops: SelfLoops::Keep, ..rules });
        for (bin, count) in bins.into_iter().enumerate() {
            prop_assert_eq!(count, kept.iter().filter(|edge| edge.0 as usize / 8 == bin).count() as u64);
        }
    }

    #[test]
    fn the_first_bad_edge_is_named(
        good in prop::collection::vec((0_i64..9, 0_i64..9), 1..50),
        bad in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![Just(-1_i64), Just(9), Just(i64::MAX)], any::<bool>()), 1..4),
    ) {
        let (mut sources, mut targets): (Vec<i64>, Vec<i64>) = good.into_iter().unzip();
        let mut first = usize::MAX;
        for (index, id, source) in bad {
            let row = index.index(sources.len());
            (if source { &mut sources } else { &mut targets })[row] = id;
            first = first.min(row);
        }
        let mut builder = CscBuilder::new(Some(9), Some(9), 0, EdgeRules::default(), false).unwrap();
        let list = EdgeList::new(&sources, &targets, 100).unwrap();
        let error = builder.count(&Exec::with_threads(2).unwrap(), &list).unwrap_err();
        prop_assert!(matches!(error, Error::BadEdge { row, .. } if row == first as u64 + 100), "{}", error);
    }

    #[test]
    fn offsets_that_fall_are_found(mut offsets in prop::collection::vec(0_u64..1000, 1..50)) {
        offsets.sort_unstable();
        offsets[0] = 0;
        let edges = *offsets.last().unwrap();
        let exec = Exec::with_threads(2).unwrap();
        prop_assert!(check_offsets(&exec, &offsets, edges).is_ok());
        prop_assert!(check_offsets(&exec, &offsets, edges + 1).is_err());
        if edges > 0 {
            for at in 0..offsets.len() - 1 {
                let mut wrong = offsets.clone();
                wrong[at] = edges + 1;
                let error = check_offsets(&exec, &wrong, edges).unwrap_err().to_string();
                let expected = if at == 0 { "expected to start at 0".to_owned() } else { format!("node {at} ends at") };
                prop_assert!(error.contains(&expected), "{}", error);
            }
        }
    }
}

#[test]
fn offsets_that_fall_between_blocks_are_found() {
    let mut offsets: Vec<u64> = (0..(3 << 20) + 5).collect();
    let edges = offsets.len() as u64 - 1;
    let exec = Exec::with_threads(3).unwrap();
    assert!(check_offsets(&exec, &offsets, edges).is_ok());
    for at in [1 << 20, (2 << 20) - 1, 3 << 20] {
        let kept = std::mem::replace(&mut offsets[at], 0);
        let error = check_offsets(&exec, &offsets, edges).unwrap_err();
        assert!(error.to_string().contains(&format!("node {} ends at 0", at - 1)), "{error}");
        offsets[at] = kept;
    }
}

#[test]
fn large_lists_are_the_same_for_any_number_of_threads() {
    // Several batches, and a node that most edges lead to.
    let edges: Vec<(u32, u32)> = (0..9_000_000_u32)
        .map(|row| {
            let mixed = row.wrapping_mul(0x9E37_79B1);
            (mixed >> 13, if row % 3 == 0 { 77 } else { (mixed >> 5) % 300_000 })
        })
        .collect();
    let mut found = Vec::new();
    for (threads, piece) in [(1, edges.len()), (2, 5_000_001), (3, 100_000)] {
        let exec = Exec::with_threads(threads).unwrap();
        let builder = CscBuilder::new(None, None, 0, EdgeRules::default(), true).unwrap();
        found.push(build(&exec, &edges, piece, (builder, Duplicates::Keep)).unwrap());
    }
    assert!(found[1] == found[0] && found[2] == found[0]);
    let (csc, rows) = (&found[0], found[0].rows.as_ref().unwrap());
    for node in [0, 77, 78, 299_999] {
        let range = csc.offsets[node] as usize..csc.offsets[node + 1] as usize;
        let mut expected: Vec<(u32, u32)> = (0..edges.len() as u32)
            .filter(|&row| edges[row as usize].1 as usize == node)
            .map(|row| (edges[row as usize].0, row))
            .collect();
        expected.sort_unstable();
        let own: Vec<(u32, u32)> =
            csc.sources[range.clone()].iter().copied().zip(rows[range].iter().copied()).collect();
        assert!(own == expected, "node {node}");
    }
}

#[test]
fn numbers_that_do_not_fit_are_refused() {
    let rules = EdgeRules::default();
    let undirected = EdgeRules { undirected: true, ..rules };
    for (builder, name) in [
        (CscBuilder::new(Some(1 << 32), Some(1), 0, rules, false), "nodes"),
        (CscBuilder::new(Some(1), Some(1 << 32), 0, rules, false), "source_nodes"),
        (CscBuilder::new(Some(1), None, 0, rules, false), "source_nodes"),
        (CscBuilder::new(Some(1), Some(2), 0, undirected, false), "undirected"),
    ] {
        assert!(matches!(builder, Err(Error::InvalidArgument { name: found, .. }) if found == name));
    }
    let exec = Exec::serial();
    let mut builder = CscBuilder::new(Some(1), Some(1), 0, rules, true).unwrap();
    let late = EdgeList::new(&[0_u32], &[0], u64::from(NO_ROW)).unwrap();
    assert!(builder.count(&exec, &late).unwrap_err().to_string().contains("expected at most 4294967295"));
    let list = EdgeList::new(&[0_u32], &[0], 0).unwrap();
    assert!(deal_edges(&exec, &list, rules, 1, &[]).is_err());
    assert!(deal_edges(&exec, &list, rules, 1, &[1, 2]).is_err());
    assert!(deal_edges(&exec, &list, rules, 1, &[0, 2, 1]).is_err());
    assert!(take(&exec, &[1_u16], &[1], 0).is_err());
    let mut builder = CscBuilder::new(Some(1), Some(1), 0, rules, true).unwrap();
    builder.count(&exec, &list).unwrap();
    builder.fill(&exec, &list).unwrap();
    assert!(builder.finish(&exec, Duplicates::Count(Some(&[]))).is_err());
}
