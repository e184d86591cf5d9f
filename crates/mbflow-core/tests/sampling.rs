//! What must hold of any sample; `tests/test_graph_sampling.py` compares the kernels with a slow sampler to the bit.

use mbflow_core::sampling::{
    ALL, Columns, Method, NegativeEdges, Neighbourhood, Relation, Sampler, Scratch, TimeOrder, WeightSums,
    time_order, walks, weight_sums,
};
use mbflow_core::{Exec, Seed};
use proptest::prelude::*;

/// A graph of some nodes with random edges, sources of each node sorted.
fn graph(nodes: usize, pairs: &[(usize, usize)]) -> (Vec<u64>, Vec<u32>) {
    let mut lists = vec![Vec::new(); nodes];
    for &(source, target) in pairs {
        lists[target % nodes].push((source % nodes) as u32);
    }
    let mut offsets = vec![0];
    for list in &mut lists {
        list.sort_unstable();
        offsets.push(offsets[offsets.len() - 1] + list.len() as u64);
    }
    (offsets, lists.concat())
}

proptest! {
    #[test]
    fn samples_are_parts_of_the_graph(
        nodes in 1_usize..50,
        pairs in prop::collection::vec((0_usize..50, 0_usize..50), 0..400),
        fanouts in prop::collection::vec(prop_oneof![0_usize..90, Just(ALL)], 1..4),
        seeds in prop::collection::vec(0_usize..50, 0..8),
        rule in 0..6,
        seed: u64,
        expand_new: bool,
        trees: bool,
    ) {
        let (offsets, sources) = graph(nodes, &pairs);
        let columns = Columns::new(&offsets, &sources).unwrap();
        let weights: Vec<f32> = (0..sources.len()).map(|edge| (edge % 4) as f32).collect();
        let exec = Exec::serial();
        let sums = weight_sums(&exec, &offsets, &weights).unwrap();
        let sums = WeightSums::new(&weights, &sums, nodes).unwrap();
        let replace = matches!(rule, 1 | 3);
        let method = match rule {
            0 | 1 => Method::Uniform { replace },
            2 | 3 => Method::Weighted { sums, replace },
            4 => Method::Labor { across_layers: false },
            _ => Method::Latest,
        };
        let relation = Relation { columns, source_type: 0, target_type: 0, fanouts: &fanouts, method, times: None };
        let sampler = Sampler::new(vec![nodes as u64], vec![relation], seed).unwrap();
        let sampler = sampler.expand_new(expand_new).trees(trees);
        let seeds: Vec<i64> = seeds.iter().map(|seed| (seed % nodes) as i64).collect();
        let mut scratch = Scratch::default();
        let found: Neighbourhood<i64, i64> = sampler.sample(&exec, &[&seeds], None, 1, 2, &mut scratch).unwrap();
        let again: Neighbourhood<u32, u32> = sampler.sample(&exec, &[&seeds], None, 1, 2, &mut scratch).unwrap();
        prop_assert_eq!(&found.nodes, &again.nodes);
        let ids = &found.nodes[0];
        for (place, seed) in found.seeds[0].iter().zip(&seeds) {
            prop_assert_eq!(i64::from(ids[*place as usize]), *seed);
        }
        for (hops, fanout) in found.hops.iter().zip(&fanouts) {
            let Some(hop) = &hops[0] else { continue };
            for (target, range) in hop.offsets.windows(2).enumerate() {
                let edges = &hop.edges[range[0] as usize..range[1] as usize];
                let node = ids[hop.first + target] as usize;
                let list = offsets[node] as i64..offsets[node + 1] as i64;
                prop_assert!(edges.iter().all(|edge| list.contains(edge)));
                let able = list.filter(|&edge| rule != 2 || weights[edge as usize] > 0.0).count();
                if !replace {
                    prop_assert_eq!(edges.len(), able.min(*fanout));
                    let mut sorted = edges.to_vec();
                    sorted.sort_unstable();
                    sorted.dedup();
                    prop_assert_eq!(sorted.len(), edges.len());
                }
            }
            for (&edge, &source) in hop.edges.iter().zip(&hop.sources) {
                prop_assert_eq!(sources[edge as usize], ids[source as usize]);
            }
        }
    }

    #[test]
    fn walks_and_negatives_keep_to_the_graph(
        nodes in 1_usize..40,
        pairs in prop::collection::vec((0_usize..40, 0_usize..40), 0..200),
        seed: u64,
        threads in 1_usize..4,
    ) {
        let (offsets, sources) = graph(nodes, &pairs);
        let columns = Columns::new(&offsets, &sources).unwrap();
        let starts: Vec<i64> = (0..nodes as i64).cycle().take(700).collect();
        let exec = Exec::with_threads(threads).unwrap();
        let found = walks(&exec, columns, None, &starts, 5, 0.2, Seed(seed)).unwrap();
        let serial = walks(&Exec::serial(), columns, None, &starts, 5, 0.2, Seed(seed)).unwrap();
        prop_assert_eq!(&found, &serial);
        for walk in found.chunks_exact(6) {
            for step in walk.windows(2) {
                if step[0] < 0 {
                    prop_assert_eq!(step[1], -1);
                    continue;
                }
                let list = &sources[offsets[step[0] as usize] as usize..offsets[step[0] as usize + 1] as usize];
                let goes = u32::try_from(step[1]).is_ok_and(|next| list.contains(&next));
                prop_assert!(goes || step[1] == walk[0] || (step[1] == -1 && list.is_empty()));
            }
        }
        let negatives = NegativeEdges {
            columns, source_nodes: nodes as u64, source_sums: None, self_loops: false, attempts: 20,
        };
        let found = negatives.sources(&exec, &starts, 2, Seed(seed)).unwrap();
        for (pair, &target) in found.chunks_exact(2).zip(&starts) {
            let list = &sources[offsets[target as usize] as usize..offsets[target as usize + 1] as usize];
            prop_assert!(pair.iter().all(|&source| source != target));
            prop_assert!(pair.iter().all(|&source| source < 0 || !list.contains(&(source as u32))));
        }
    }

    #[test]
    fn times_are_ordered_by_any_number_of_threads(
        lists in prop::collection::vec(prop::collection::vec(-5_i64..5, 0..9), 0..60),
        threads in 1_usize..4,
    ) {
        let mut offsets = vec![0];
        for list in &lists {
            offsets.push(offsets[offsets.len() - 1] + list.len() as u64);
        }
        let times = lists.concat();
        let order = time_order(&Exec::with_threads(threads).unwrap(), &offsets, &times).unwrap();
        prop_assert!(TimeOrder::new(&times, order.as_deref()).is_ok());
        let Some(order) = order else {
            prop_assert!(lists.iter().all(|list| list.is_sorted()));
            return Ok(());
        };
        let mut start = 0;
        for list in &lists {
            let order = &order[start..start + list.len()];
            prop_assert!(order.is_sorted_by_key(|&index| (list[index as usize], index)));
            start += list.len();
        }
    }
}
