//! A budget of sources for a whole layer, whatever the number of its targets.

use super::draws::Draws;
use super::hops::{Hop, Id, Scratch, Step};
use super::pick::List;
use super::table::Nodes;
use crate::{Error, Exec};

/// A source that edges of the layer come from.
struct Candidate {
    id: u32,
    /// Sum of the squares of what it counts for in the means of the targets.
    importance: f64,
    priority: f64,
}

/// The edges from a layer's most important sources, drawn by priority.
///
/// A source's importance is that of LADIES (Zou et al., NeurIPS 2019): the sum over its edges of (1 / degree of the
/// target) squared. The sources with the `fanout` largest importance / uniform are taken (Duffield, Lund, Thorup:
/// "Priority sampling for estimation of arbitrary subset sums", JACM 2007); an edge then counts max(1, limit /
/// importance) times its share, where the limit is the first priority left out, and sums are unbiased.
pub(super) fn hop<L: Id, P: Id>(
    step: &Step<'_, '_>,
    exec: &Exec,
    nodes: &mut Nodes,
    scratch: &mut Scratch,
) -> Result<Hop<L, P>, Error> {
    let columns = step.relation.columns;
    let targets = scratch.targets().to_vec();
    let mut lists = Vec::with_capacity(targets.len());
    let mut shares = Vec::new();
    for &target in &targets {
        let (start, len) = columns.edges(target)?;
        lists.push(List { start, len, order: None });
        let sources = &columns.sources[start as usize..start as usize + len as usize];
        shares.extend(sources.iter().map(|&source| (source, (1.0 / f64::from(len)).powi(2))));
    }
    exec.check()?;
    // Equal shares are as good in any order, and those of one source are added up from the smallest.
    shares.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut candidates: Vec<Candidate> = Vec::new();
    for (id, share) in shares {
        match candidates.last_mut() {
            Some(candidate) if candidate.id == id => candidate.importance += share,
            _ => candidates.push(Candidate { id, importance: share, priority: 0.0 }),
        }
    }
    for candidate in &mut candidates {
        let unit = 1.0 - Draws::new(step.key, u64::from(candidate.id)).unit();
        candidate.priority = candidate.importance / unit;
    }
    let mut limit = 0.0;
    if candidates.len() > step.fanout {
        let (_, left_out, _) = candidates.select_nth_unstable_by(step.fanout, |a, b| {
            b.priority.total_cmp(&a.priority).then(a.id.cmp(&b.id))
        });
        limit = left_out.priority;
        candidates.truncate(step.fanout);
    }
    candidates.sort_unstable_by_key(|candidate| candidate.id);
    exec.check()?;
    let mut hop = Hop {
        first: step.first,
        offsets: vec![0],
        sources: Vec::new(),
        edges: Vec::new(),
        weights: Some(Vec::new()),
    };
    let (mut ids, mut weights) = (Vec::new(), Vec::new());
    for list in lists {
        for index in 0..list.len {
            let position = list.position(index);
            let source = columns.sources[position as usize];
            if let Ok(place) = candidates.binary_search_by_key(&source, |candidate| candidate.id) {
                let times = (limit / candidates[place].importance).max(1.0);
                ids.push(source);
                hop.edges.push(P::of(position));
                weights.push((times / f64::from(list.len)) as f32);
            }
        }
        hop.offsets.push(ids.len() as i64);
    }
    let refused = scratch.table(step.source).places(&ids, &[], nodes, &mut hop.sources);
    refused.map_err(|refused| refused.into_error(step.limit))?;
    hop.weights = Some(weights);
    Ok(hop)
}
