//! Nodes grouped by the page of memory that their features lie on.

use super::hops::Id;
use super::table::Nodes;

/// Groups the nodes from `first` by pages of `page` nodes, pages in order, nodes of a page in the order they had.
///
/// Returns for each of them how far from `first` it is now; none where nothing moved.
pub(super) fn group(nodes: &mut Nodes, first: usize, page: u32, limit: u64) -> Option<Vec<u32>> {
    let ids = &nodes.ids[first..];
    if ids.is_empty() {
        return None;
    }
    let pages = limit.div_ceil(u64::from(page)) as usize;
    let mut starts = vec![0_u32; pages + 1];
    for &id in ids {
        starts[(id / page) as usize + 1] += 1;
    }
    for at in 1..=pages {
        starts[at] += starts[at - 1];
    }
    let order: Vec<u32> = ids
        .iter()
        .map(|&id| {
            let place = &mut starts[(id / page) as usize];
            *place += 1;
            *place - 1
        })
        .collect();
    scatter(&mut nodes.ids[first..], &order);
    if !nodes.trees.is_empty() {
        scatter(&mut nodes.trees[first..], &order);
    }
    Some(order)
}

fn scatter(values: &mut [u32], order: &[u32]) {
    let before = values.to_vec();
    for (&value, &place) in before.iter().zip(order) {
        values[place as usize] = value;
    }
}

/// Renames places from `first` on as `group` moved them.
pub(super) fn rename<L: Id>(places: &mut [L], first: usize, order: &[u32]) {
    for place in places {
        if let Some(at) = (place.number() as usize).checked_sub(first) {
            *place = L::of((first + order[at] as usize) as u64);
        }
    }
}
