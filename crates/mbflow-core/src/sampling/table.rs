//! Local ids: which place among the nodes of a sample a node has.

use super::hops::Id;
use crate::memory::zeros;
use crate::simd::prefetch;

/// Up to this many nodes a table has an entry for each: 4 bytes a node.
const DENSE: u64 = 1 << 25;

/// Places of the nodes of a sample, by node and tree.
///
/// Neither kind is cleared between samples: an entry counts only when its value is at least `base`, which grows by
/// the nodes of each sample.
#[derive(Debug)]
pub(super) struct Table {
    kind: Kind,
    base: u32,
    /// Nodes that the sample at hand has.
    count: u32,
    limit: u64,
}

#[derive(Debug)]
enum Kind {
    Dense(Vec<u32>),
    Hash { slots: Vec<Slot>, shift: u32 },
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    key: u64,
    value: u32,
}

/// Nodes of a sample: ids, with the tree of each where trees are kept apart.
#[derive(Debug, Default, Clone)]
pub(super) struct Nodes {
    pub(super) ids: Vec<u32>,
    pub(super) trees: Vec<u32>,
}

/// Why nodes got no places.
#[derive(Debug)]
pub(super) enum Refused {
    /// An id that the graph does not have.
    Outside(u32),
    /// More nodes than 32 bits can count.
    TooMany,
}

impl Table {
    /// For nodes below `limit`; trees are told apart only by a hash table.
    pub(super) fn new(limit: u64, with_trees: bool) -> Self {
        let kind = if limit <= DENSE && !with_trees {
            Kind::Dense(zeros(limit as usize))
        } else {
            Kind::hash(1 << 12)
        };
        Self { kind, base: 1, count: 0, limit }
    }

    /// Forgets the nodes of the last sample.
    pub(super) fn begin(&mut self) {
        self.base = self.base.saturating_add(self.count);
        self.count = 0;
        // Room for as many nodes as the largest samples have, or all of them.
        if u64::from(u32::MAX - self.base) < self.limit.min(1 << 31) {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.base = 1;
        match &mut self.kind {
            Kind::Dense(values) => values.fill(0),
            Kind::Hash { slots, .. } => slots.fill(Slot::default()),
        }
    }

    /// Starts loading the entries of some nodes.
    #[inline]
    pub(super) fn prefetch(&self, ids: &[u32], trees: &[u32]) {
        match &self.kind {
            Kind::Dense(values) => {
                for &id in ids {
                    prefetch(values, id as usize);
                }
            }
            Kind::Hash { slots, shift } => {
                for (at, &id) in ids.iter().enumerate() {
                    prefetch(slots, home(key(id, trees, at), *shift));
                }
            }
        }
    }

    /// Appends the place of each node to `places`; new ones are appended to `nodes`.
    ///
    /// `trees` holds the tree of each id, or nothing.
    pub(super) fn places<L: Id>(
        &mut self,
        ids: &[u32],
        trees: &[u32],
        nodes: &mut Nodes,
        places: &mut Vec<L>,
    ) -> Result<(), Refused> {
        if u64::from(self.base) + u64::from(self.count) + ids.len() as u64 > u64::from(u32::MAX) {
            return Err(Refused::TooMany);
        }
        let known = nodes.ids.len();
        debug_assert_eq!(known, self.count as usize);
        let base = self.base;
        let begun = places.len();
        places.resize(begun + ids.len(), L::default());
        let places = &mut places[begun..];
        match &mut self.kind {
            Kind::Dense(values) => {
                // Branch-free: each id is written to the next place, and counts where it was new.
                nodes.ids.resize(known + ids.len(), 0);
                let fresh = &mut nodes.ids[known..];
                let mut count = 0;
                for (&id, place) in ids.iter().zip(places) {
                    let Some(entry) = values.get_mut(id as usize) else {
                        nodes.ids.truncate(known + count);
                        self.count = nodes.ids.len() as u32;
                        return Err(Refused::Outside(id));
                    };
                    // An entry of an earlier sample is below `base`, and wraps around.
                    let next = (known + count) as u32;
                    let found = entry.wrapping_sub(base);
                    let local = found.min(next);
                    *entry = base + local;
                    *place = L::of(u64::from(local));
                    fresh[count] = id;
                    count += usize::from(found >= next);
                }
                nodes.ids.truncate(known + count);
                self.count = nodes.ids.len() as u32;
            }
            Kind::Hash { slots, shift } => {
                grow(slots, shift, nodes, base, ids.len());
                let mask = slots.len() - 1;
                for (at, (&id, place)) in ids.iter().zip(places).enumerate() {
                    if u64::from(id) >= self.limit {
                        self.count = nodes.ids.len() as u32;
                        return Err(Refused::Outside(id));
                    }
                    let key = key(id, trees, at);
                    let mut slot = home(key, *shift);
                    while slots[slot].value >= base && slots[slot].key != key {
                        slot = (slot + 1) & mask;
                    }
                    if slots[slot].value < base {
                        slots[slot] = Slot { key, value: base + nodes.ids.len() as u32 };
                        nodes.ids.push(id);
                        if let Some(&tree) = trees.get(at) {
                            nodes.trees.push(tree);
                        }
                    }
                    *place = L::of(u64::from(slots[slot].value - base));
                }
                self.count = nodes.ids.len() as u32;
            }
        }
        Ok(())
    }

    /// Gives the nodes from `first` on the places that they now have in `nodes`.
    pub(super) fn replace(&mut self, nodes: &Nodes, first: usize) {
        let base = self.base;
        match &mut self.kind {
            Kind::Dense(values) => {
                for (place, &id) in nodes.ids.iter().enumerate().skip(first) {
                    values[id as usize] = base + place as u32;
                }
            }
            Kind::Hash { slots, shift } => {
                let mask = slots.len() - 1;
                for (place, &id) in nodes.ids.iter().enumerate().skip(first) {
                    let key = key(id, &nodes.trees, place);
                    let mut slot = home(key, *shift);
                    while slots[slot].key != key || slots[slot].value < base {
                        slot = (slot + 1) & mask;
                    }
                    slots[slot].value = base + place as u32;
                }
            }
        }
    }
}

impl Nodes {
    pub(super) fn clear(&mut self) {
        self.ids.clear();
        self.trees.clear();
    }
}

impl Kind {
    fn hash(capacity: usize) -> Self {
        Self::Hash { slots: zeros(capacity), shift: u64::BITS - capacity.trailing_zeros() }
    }
}

/// Node and tree as one key.
#[inline]
fn key(id: u32, trees: &[u32], at: usize) -> u64 {
    trees.get(at).map_or(0, |&tree| u64::from(tree) << 32) | u64::from(id)
}

/// The slot that a key is looked for first.
#[inline]
fn home(key: u64, shift: u32) -> usize {
    ((key ^ key >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift) as usize
}

/// Makes room for so many more nodes, with at least half of the slots free.
fn grow(slots: &mut Vec<Slot>, shift: &mut u32, nodes: &Nodes, base: u32, more: usize) {
    let needed = ((nodes.ids.len() + more) * 2).next_power_of_two();
    if needed <= slots.len() {
        return;
    }
    *slots = zeros(needed);
    *shift = u64::BITS - needed.trailing_zeros();
    let mask = needed - 1;
    for (place, &id) in nodes.ids.iter().enumerate() {
        let key = key(id, &nodes.trees, place);
        let mut slot = home(key, *shift);
        while slots[slot].value >= base {
            slot = (slot + 1) & mask;
        }
        slots[slot] = Slot { key, value: base + place as u32 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Places by the plainest means: a search through the nodes.
    fn slow(ids: &[u32], nodes: &mut Vec<u32>) -> Vec<u32> {
        ids.iter()
            .map(|&id| {
                let place = nodes.iter().position(|&node| node == id).unwrap_or_else(|| {
                    nodes.push(id);
                    nodes.len() - 1
                });
                place as u32
            })
            .collect()
    }

    proptest! {
        #[test]
        fn both_kinds_give_the_places_of_a_search(
            samples in prop::collection::vec(prop::collection::vec(prop::collection::vec(0_u32..500, 0..300), 0..4), 1..5)
        ) {
            let mut tables = [Table::new(500, false), Table::new(DENSE + 1, false), Table::new(500, true)];
            for sample in samples {
                let (mut found, mut wanted) = (vec![Nodes::default(); 3], Vec::new());
                for table in &mut tables {
                    table.begin();
                }
                for ids in sample {
                    let places = slow(&ids, &mut wanted);
                    for (table, nodes) in tables.iter_mut().zip(&mut found) {
                        table.prefetch(&ids, &[]);
                        let mut given: Vec<u32> = Vec::new();
                        table.places(&ids, &[], nodes, &mut given).unwrap();
                        prop_assert_eq!(&given, &places);
                        prop_assert_eq!(&nodes.ids, &wanted);
                    }
                }
            }
        }
    }

    #[test]
    fn trees_are_kept_apart() {
        let mut table = Table::new(10, true);
        let mut nodes = Nodes::default();
        let mut places: Vec<i64> = vec![7];
        table.begin();
        table.places(&[3, 3, 4, 3, 4], &[0, 1, 1, 0, 1], &mut nodes, &mut places).unwrap();
        assert_eq!(places, [7, 0, 1, 2, 0, 2]);
        assert_eq!((nodes.ids, nodes.trees), (vec![3, 3, 4], vec![0, 1, 1]));
    }

    #[test]
    fn entries_of_earlier_samples_count_no_more_when_numbers_run_out() {
        let mut table = Table::new(10, false);
        table.base = u32::MAX - 12;
        for _ in 0..3 {
            table.begin();
            let (mut nodes, mut places) = (Nodes::default(), Vec::<u32>::new());
            table.places(&[7, 2, 7], &[], &mut nodes, &mut places).unwrap();
            assert_eq!((places, nodes.ids), (vec![0, 1, 0], vec![7, 2]));
        }
    }

    #[test]
    fn ids_outside_are_refused() {
        for mut table in [Table::new(10, false), Table::new(10, true)] {
            table.begin();
            let (mut nodes, mut places) = (Nodes::default(), Vec::<u32>::new());
            let refused = table.places(&[1, 10], &[], &mut nodes, &mut places);
            assert!(matches!(refused, Err(Refused::Outside(10))));
            assert_eq!(nodes.ids, [1]);
        }
    }
}
