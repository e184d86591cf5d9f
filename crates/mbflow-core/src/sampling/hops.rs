//! The walk outward: layer by layer, relation by relation.

use std::sync::{Arc, Mutex};

use super::draws::Draws;
use super::pick::{self, List, Pad};
use super::spares::Spares;
use super::table::{Nodes, Refused, Table};
use super::{Columns, Method, Relation, budget, pages};
use crate::simd::prefetch;
use crate::{Error, Exec, Seed, stream};

/// Edges worked on at a time: what is loaded ahead for them fits the first level of cache.
const AHEAD: usize = 128;
/// Targets whose offsets are loaded ahead.
const FAR: usize = 64;
/// Edges of a turn between reading and numbering.
const PART: usize = 32;

/// A type that ids and positions are given in.
pub trait Id: Copy + Send + Default + 'static {
    /// The number as this type, which the caller knows to hold it.
    fn of(number: u64) -> Self;
    /// The number itself.
    fn number(self) -> u64;
    /// Arrays of this type that are kept.
    #[doc(hidden)]
    fn spares(spares: &Spares) -> &Mutex<Vec<Vec<Self>>>;
}

impl Id for i64 {
    #[inline]
    fn of(number: u64) -> Self {
        number as Self
    }
    #[inline]
    fn number(self) -> u64 {
        self as u64
    }
    fn spares(spares: &Spares) -> &Mutex<Vec<Vec<Self>>> {
        &spares.wide
    }
}

impl Id for u32 {
    #[inline]
    fn of(number: u64) -> Self {
        number as Self
    }
    #[inline]
    fn number(self) -> u64 {
        u64::from(self)
    }
    fn spares(spares: &Spares) -> &Mutex<Vec<Vec<Self>>> {
        &spares.narrow
    }
}

/// The edges of one relation in one layer, as a ragged array over its targets.
#[derive(Debug, Clone, PartialEq)]
pub struct Hop<L, P> {
    /// Place of the first target among the nodes of its type.
    pub first: usize,
    /// Where the edges of each target start, and where the last ones end.
    pub offsets: Vec<i64>,
    /// Places of the sources among the nodes of their type.
    pub sources: Vec<L>,
    /// Positions in the graph.
    pub edges: Vec<P>,
    /// What each edge counts for in an unbiased mean, for [`Method::Budget`].
    pub weights: Option<Vec<f32>>,
}

/// What was sampled around some seeds.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbourhood<L, P> {
    /// For each type the nodes, each once (for each tree), seeds first.
    pub nodes: Vec<Vec<u32>>,
    /// For each type the tree of each node, where trees are kept apart.
    pub trees: Option<Vec<Vec<u32>>>,
    /// For each layer and relation its edges; none where the relation has no targets or a fan-out of 0.
    pub hops: Vec<Vec<Option<Hop<L, P>>>>,
    /// For each type how many nodes are known before the first layer and after each.
    pub sizes: Vec<Vec<usize>>,
    /// For each type the place of each seed as it was given.
    pub seeds: Vec<Vec<u32>>,
}

/// What to sample: checked once, used for many seeds.
#[derive(Debug, Clone)]
pub struct Sampler<'a> {
    nodes: Vec<u64>,
    relations: Vec<Relation<'a>>,
    layers: usize,
    seed: Seed,
    expand_new: bool,
    trees: bool,
    page: Option<u32>,
}

/// What a sampler reuses from sample to sample: a table a type.
#[derive(Debug, Default)]
pub struct Scratch {
    tables: Vec<Table>,
    pad: Pad,
    targets: Vec<u32>,
    target_trees: Vec<u32>,
    positions: Vec<u64>,
    /// Sources of the edges that get their places next, and of those after them.
    last: Nodes,
    next: Nodes,
    /// How many nodes of each type the last sample had, and how many edges a target in each layer and relation: the next
    /// sample is much like it, and arrays of about the right size leave no memory to be given back and asked for again.
    usual_nodes: Vec<usize>,
    usual_edges: Vec<Option<f64>>,
    spares: Arc<Spares>,
}

impl<'a> Sampler<'a> {
    /// A sampler over `nodes[t]` nodes of each type and some relations among them.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when a relation names no type, its nodes are not as many as its type's, arrays of edges
    /// differ in length, or relations have different numbers of layers.
    pub fn new(nodes: Vec<u64>, relations: Vec<Relation<'a>>, seed: u64) -> Result<Self, Error> {
        let layers = relations.first().map_or(0, |relation| relation.fanouts.len());
        for relation in &relations {
            let types = [relation.source_type, relation.target_type];
            if types.iter().any(|&kind| kind >= nodes.len()) {
                return Err(Error::argument("relations", format!("expected types below {}", nodes.len())));
            }
            if relation.columns.nodes() as u64 != nodes[relation.target_type] {
                let (given, wanted) = (relation.columns.nodes(), nodes[relation.target_type]);
                return Err(Error::argument("offsets", format!("expected {wanted} nodes, got {given}")));
            }
            if relation.fanouts.len() != layers {
                return Err(Error::argument("fanouts", "expected as many for each relation"));
            }
            let edges = relation.columns.sources.len();
            if relation.times.is_some_and(|times| times.len() != edges) {
                return Err(Error::argument("times", format!("expected one for each of {edges} edges")));
            }
            if let Method::Weighted { sums, .. } = relation.method
                && sums.len() != edges
            {
                return Err(Error::argument("weights", format!("expected one for each of {edges} edges")));
            }
        }
        if nodes.iter().any(|&nodes| nodes > 1 << 32) {
            return Err(Error::argument("nodes", "expected at most 2^32"));
        }
        Ok(Self { nodes, relations, layers, seed: Seed(seed), expand_new: false, trees: false, page: None })
    }

    /// Goes on from the nodes that the last layer found, not from all.
    #[must_use]
    pub fn expand_new(mut self, yes: bool) -> Self {
        self.expand_new = yes;
        self
    }

    /// Keeps the trees of the seeds apart.
    #[must_use]
    pub fn trees(mut self, yes: bool) -> Self {
        self.trees = yes;
        self
    }

    /// Groups the new nodes of each layer by pages of so many nodes.
    #[must_use]
    pub fn pages(mut self, nodes: Option<u32>) -> Self {
        self.page = nodes;
        self
    }

    /// The neighbourhood of some seeds of each type; `times` holds the time of each tree, where times matter.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] naming the first seed that is no node, or what is wrong in the graph;
    /// [`Error::Interrupted`].
    pub fn sample<L: Id, P: Id>(
        &self,
        exec: &Exec,
        seeds: &[&[i64]],
        times: Option<&[i64]>,
        epoch: u64,
        batch: u64,
        scratch: &mut Scratch,
    ) -> Result<Neighbourhood<L, P>, Error> {
        scratch.begin(&self.nodes, self.trees);
        scratch.usual_edges.resize(self.layers * self.relations.len(), None);
        // A little more than the last sample had, since samples differ.
        let room = |&count: &usize| scratch.spares.take(count + count / 16);
        let empty = |ids| Nodes { ids, trees: Vec::new() };
        let mut nodes: Vec<Nodes> = scratch.usual_nodes.iter().map(room).map(empty).collect();
        let mut places = Vec::with_capacity(seeds.len());
        let mut tree = 0_u32;
        for (kind, seeds) in seeds.iter().enumerate() {
            let ids = self.checked(seeds, kind)?;
            let mut given = Vec::new();
            let trees: Vec<u32> = if self.trees {
                let trees = (tree..tree + ids.len() as u32).collect();
                tree += ids.len() as u32;
                trees
            } else {
                Vec::new()
            };
            let refused = scratch.tables[kind].places(&ids, &trees, &mut nodes[kind], &mut given);
            refused.map_err(|refused| refused.into_error(self.nodes[kind]))?;
            places.push(given);
        }
        if times.is_some_and(|times| times.len() != tree as usize) {
            return Err(Error::argument("times", format!("expected one for each of {tree} seeds")));
        }
        let mut sizes: Vec<Vec<usize>> = nodes.iter().map(|nodes| vec![nodes.ids.len()]).collect();
        let mut begun = vec![0; nodes.len()];
        let key = self.seed.derive(epoch).derive(batch);
        let mut hops = Vec::with_capacity(self.layers);
        for layer in 0..self.layers {
            let mut found = Vec::with_capacity(self.relations.len());
            let known: Vec<usize> = nodes.iter().map(|nodes| nodes.ids.len()).collect();
            for (index, relation) in self.relations.iter().enumerate() {
                let kind = relation.target_type;
                let first = if self.expand_new { begun[kind] } else { 0 };
                let fanout = relation.fanouts[layer];
                if fanout == 0 || first == known[kind] {
                    found.push(None);
                    continue;
                }
                scratch.take_targets(&nodes[kind], first, known[kind]);
                let source = relation.source_type;
                let keyed = match relation.method {
                    Method::Labor { across_layers: true } => 0,
                    _ => layer as u64 + 1,
                };
                let step = Step {
                    relation,
                    fanout,
                    key: key.u64_at(stream::NEIGHBOURS, keyed << 32 | index as u64),
                    times,
                    first,
                    source,
                    limit: self.nodes[source],
                    slot: layer * self.relations.len() + index,
                };
                found.push(Some(if let Method::Budget = relation.method {
                    budget::hop(&step, exec, &mut nodes[source], scratch)?
                } else {
                    step.hop(exec, &mut nodes[source], scratch)?
                }));
            }
            if let Some(page) = self.page {
                for (kind, nodes) in nodes.iter_mut().enumerate() {
                    let order = pages::group(nodes, known[kind], page, self.nodes[kind]);
                    let Some(order) = order else { continue };
                    scratch.tables[kind].replace(nodes, known[kind]);
                    for (relation, hop) in self.relations.iter().zip(&mut found) {
                        if relation.source_type == kind
                            && let Some(hop) = hop
                        {
                            pages::rename(&mut hop.sources, known[kind], &order);
                        }
                    }
                }
            }
            for (sizes, nodes) in sizes.iter_mut().zip(&nodes) {
                sizes.push(nodes.ids.len());
            }
            begun = known;
            hops.push(found);
        }
        scratch.usual_nodes = nodes.iter().map(|nodes| nodes.ids.len()).collect();
        let (ids, trees): (Vec<_>, Vec<_>) = nodes.into_iter().map(|nodes| (nodes.ids, nodes.trees)).unzip();
        Ok(Neighbourhood { nodes: ids, trees: self.trees.then_some(trees), hops, sizes, seeds: places })
    }

    /// Seeds as node ids.
    fn checked(&self, seeds: &[i64], kind: usize) -> Result<Vec<u32>, Error> {
        let limit = self.nodes[kind];
        if let Some(at) = seeds.iter().position(|&seed| seed < 0 || seed as u64 >= limit) {
            let message =
                format!("seed {at} is node {}; expected 0 to {}", seeds[at], limit.saturating_sub(1));
            let message = if limit == 0 { format!("{message}: the graph has no nodes") } else { message };
            return Err(Error::argument("seeds", message));
        }
        Ok(seeds.iter().map(|&seed| seed as u32).collect())
    }
}

impl Scratch {
    /// Takes arrays for samples from `spares`, where there are any.
    pub fn with_spares(spares: Arc<Spares>) -> Self {
        Self { spares, ..Self::default() }
    }

    fn begin(&mut self, nodes: &[u64], trees: bool) {
        if self.tables.len() != nodes.len() {
            self.tables = nodes.iter().map(|&nodes| Table::new(nodes, trees)).collect();
            self.usual_nodes = vec![0; nodes.len()];
        }
        for table in &mut self.tables {
            table.begin();
        }
    }

    /// Copies targets: sources are appended to the nodes that they stand among.
    fn take_targets(&mut self, nodes: &Nodes, first: usize, end: usize) {
        self.targets.clear();
        self.targets.extend_from_slice(&nodes.ids[first..end]);
        self.target_trees.clear();
        if !nodes.trees.is_empty() {
            self.target_trees.extend_from_slice(&nodes.trees[first..end]);
        }
    }

    pub(super) fn targets(&self) -> &[u32] {
        &self.targets
    }

    pub(super) fn table(&mut self, kind: usize) -> &mut Table {
        &mut self.tables[kind]
    }
}

impl Refused {
    pub(super) fn into_error(self, limit: u64) -> Error {
        match self {
            Self::Outside(id) => {
                Error::argument("graph", format!("an edge comes from node {id}; there are {limit} nodes"))
            }
            Self::TooMany => Error::argument("seeds", "the sample has more than 2^32 nodes; use fewer seeds"),
        }
    }
}

/// One relation in one layer.
pub(super) struct Step<'s, 'a> {
    pub(super) relation: &'s Relation<'a>,
    pub(super) fanout: usize,
    pub(super) key: u64,
    pub(super) times: Option<&'s [i64]>,
    pub(super) first: usize,
    pub(super) source: usize,
    pub(super) limit: u64,
    /// The place of the layer and relation among all.
    pub(super) slot: usize,
}

impl Step<'_, '_> {
    /// The edges of a target that are to be sampled from.
    #[inline]
    fn list(&self, target: u32, tree: Option<&u32>) -> Result<List<'_>, Error> {
        let (start, len) = self.relation.columns.edges(target)?;
        if let (Some(times), Some(order), Some(&tree)) = (self.times, self.relation.times, tree) {
            let (order, len) = order.before(start as usize, len, times[tree as usize]);
            return Ok(List { start, len, order });
        }
        Ok(List { start, len, order: None })
    }

    #[inline]
    fn draws(&self, target: u32, tree: Option<&u32>) -> Draws {
        Draws::new(self.key, u64::from(target) | tree.map_or(0, |&tree| (u64::from(tree) + 1) << 32))
    }

    /// Makes the first draws of the targets of a chunk, where the method looks them up in memory.
    #[inline]
    fn draw_ahead(&self, targets: &[u32], trees: Option<&[u32]>, pad: &mut Pad) -> Result<(), Error> {
        let Method::Weighted { sums, replace: false } = self.relation.method else { return Ok(()) };
        pad.begin_chunk();
        for (at, &target) in targets.iter().enumerate() {
            let tree = trees.map(|trees| &trees[at]);
            pick::draw_ahead(
                self.draws(target, tree),
                target,
                self.list(target, tree)?,
                self.fanout,
                sums,
                pad,
            );
        }
        Ok(())
    }

    /// Starts loading what the method reads first of each target.
    #[inline]
    fn load(&self, targets: &[u32]) {
        let columns = &self.relation.columns;
        let found = targets.iter().filter_map(|&target| Some((target, columns.edges(target).ok()?)));
        match self.relation.method {
            Method::Weighted { sums, .. } => {
                found.for_each(|(target, (start, len))| sums.load(target, start, len));
            }
            Method::Labor { .. } => {
                // The first lines; the processor sees by itself that the others follow.
                for (_, (start, _)) in found {
                    prefetch(columns.sources, start as usize);
                    prefetch(columns.sources, start as usize + 16);
                }
            }
            _ => {}
        }
    }

    fn hop<L: Id, P: Id>(
        &self,
        exec: &Exec,
        nodes: &mut Nodes,
        scratch: &mut Scratch,
    ) -> Result<Hop<L, P>, Error> {
        let Columns { offsets, sources } = self.relation.columns;
        let Scratch {
            tables, pad, targets, target_trees, positions, last, next, usual_edges, spares, ..
        } = scratch;
        // What a hop that failed has left.
        last.clear();
        next.clear();
        let table = &mut tables[self.source];
        // A hint only. At first hubs are rare, and most graphs have fewer edges a node than large fan-outs ask for.
        let usual = usual_edges[self.slot].map_or(self.fanout.min(32) as f64, |usual| usual * 1.1);
        let bound = ((targets.len() as f64 * usual) as usize).min(1 << 24);
        let mut hop = Hop {
            first: self.first,
            offsets: spares.take(targets.len() + 1),
            sources: spares.take(bound),
            edges: spares.take(bound),
            weights: None,
        };
        hop.offsets.push(0);
        let fanout = self.fanout;
        let step = (AHEAD / fanout.clamp(1, AHEAD)).clamp(4, 64);
        for target in &targets[..targets.len().min(FAR)] {
            prefetch(offsets, *target as usize);
        }
        self.load(&targets[..targets.len().min(step)]);
        for chunk in (0..targets.len()).step_by(step) {
            exec.check()?;
            let end = (chunk + step).min(targets.len());
            self.load(&targets[end..targets.len().min(end + step)]);
            self.draw_ahead(&targets[chunk..end], target_trees.get(chunk..end), pad)?;
            positions.clear();
            let edges = hop.edges.len();
            for (at, &target) in targets.iter().enumerate().take(end).skip(chunk) {
                if let Some(&later) = targets.get(at + FAR) {
                    prefetch(offsets, later as usize);
                    prefetch(offsets, later as usize + 1);
                }
                let tree = target_trees.get(at);
                let list = self.list(target, tree)?;
                let draws = || self.draws(target, tree);
                match self.relation.method {
                    Method::Uniform { replace: false } => {
                        pick::uniform(draws, list, fanout, sources, pad, positions);
                    }
                    Method::Uniform { replace: true } => {
                        pick::uniform_with_replacement(exec, draws, list, fanout, sources, positions)?;
                    }
                    Method::Weighted { sums, replace: false } => {
                        pick::weighted(at - chunk, target, list, fanout, sums, sources, pad, positions);
                    }
                    Method::Weighted { sums, replace: true } => {
                        pick::weighted_with_replacement(
                            exec, draws, target, list, fanout, sums, sources, pad, positions,
                        )?;
                    }
                    Method::Labor { .. } => pick::labor(self.key, list, fanout, sources, pad, positions),
                    Method::Latest | Method::Budget => pick::latest(list, fanout, sources, positions),
                }
                hop.offsets.push((edges + positions.len()) as i64);
                if let Some(&tree) = tree {
                    next.trees.resize(positions.len(), tree);
                }
            }
            // Fan-outs of billions with replacement are allowed: memory may end.
            let more = positions.len();
            let full = |_| Error::Memory { what: "fanouts", count: more as u64 };
            hop.edges.try_reserve(more).map_err(full)?;
            hop.sources.try_reserve(last.ids.len() + more).map_err(full)?;
            next.ids.try_reserve(more).map_err(full)?;
            hop.edges.extend(positions.iter().map(|&position| P::of(position)));
            // The sources of these edges are read, and the entries of the table asked for, by turns with the numbering
            // of those before, so that there is always something to do until memory answers.
            for begin in (0..more.max(last.ids.len())).step_by(PART) {
                let read = begin.min(more)..(begin + PART).min(more);
                next.ids.extend(positions[read.clone()].iter().map(|&position| sources[position as usize]));
                table.prefetch(&next.ids[read.clone()], part(&next.trees, read));
                let known = begin.min(last.ids.len())..(begin + PART).min(last.ids.len());
                let trees = part(&last.trees, known.clone());
                let refused = table.places(&last.ids[known], trees, nodes, &mut hop.sources);
                refused.map_err(|refused| refused.into_error(self.limit))?;
            }
            std::mem::swap(last, next);
            next.clear();
        }
        let refused = table.places(&last.ids, &last.trees, nodes, &mut hop.sources);
        refused.map_err(|refused| refused.into_error(self.limit))?;
        last.clear();
        usual_edges[self.slot] = Some(hop.edges.len() as f64 / targets.len().max(1) as f64);
        Ok(hop)
    }
}

/// The trees of some edges, where trees are kept apart.
#[inline]
fn part(trees: &[u32], edges: std::ops::Range<usize>) -> &[u32] {
    trees.get(edges).unwrap_or_default()
}
