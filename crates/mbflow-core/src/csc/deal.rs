//! Pieces of an edge list, checked and dealt into ranges of targets.

use std::fmt::Display;

use super::MOST_NODES;
use crate::{Error, Exec};

/// Edges are dealt in blocks of this many: large enough that a range gets a stretch of them, small enough for the cache.
const BLOCK: usize = 1 << 18;
/// So many edges are dealt before they are put into place: what is held beside the result.
pub(super) const BATCH: usize = 32 * BLOCK;

/// An integer that names a node.
///
/// ```
/// use mbflow_core::NodeId;
///
/// assert_eq!(7_i32.bits(), 7);
/// assert!((-1_i32).bits() >= 1 << 32);
/// ```
pub trait NodeId: Copy + Send + Sync + Display {
    /// The number as 64 bits; what is negative comes out larger than any id.
    fn bits(self) -> u64;
}

macro_rules! node_id {
    ($($kind:ty),*) => {$(
        impl NodeId for $kind {
            #[inline]
            #[expect(clippy::allow_attributes, reason = "only some of the types make it needed")]
            #[allow(clippy::cast_lossless, reason = "one cast for signed and unsigned types")]
            fn bits(self) -> u64 {
                self as u64
            }
        }
    )*};
}

node_id!(i32, i64, u32, u64);

/// What becomes of edges from a node to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SelfLoops {
    /// They are edges like others.
    #[default]
    Keep,
    /// They are left out.
    Drop,
    /// Those of the list are left out, and each node gets one.
    Add,
}

/// Which edges a list stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EdgeRules {
    /// Each edge that is no self loop also goes the other way.
    pub undirected: bool,
    /// What becomes of self loops.
    pub self_loops: SelfLoops,
    /// Sources and targets were exchanged by the caller; only messages need to know.
    pub reversed: bool,
}

/// A piece of an edge list: edge `i` leads from `sources[i]` to `targets[i]`.
#[derive(Debug, Clone, Copy)]
pub struct EdgeList<'a, T> {
    sources: &'a [T],
    targets: &'a [T],
    first_row: u64,
}

impl<'a, T: NodeId> EdgeList<'a, T> {
    /// A piece whose first edge is row `first_row` of the whole list.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when there are not as many targets as sources.
    ///
    /// ```
    /// assert!(mbflow_core::EdgeList::new(&[0, 1], &[1], 0).is_err());
    /// ```
    pub fn new(sources: &'a [T], targets: &'a [T], first_row: u64) -> Result<Self, Error> {
        if sources.len() != targets.len() {
            let message = format!("expected {}, one for each source, got {}", sources.len(), targets.len());
            return Err(Error::argument("targets", message));
        }
        Ok(Self { sources, targets, first_row })
    }

    /// The same piece of which only the targets are known; they stand for the sources, too.
    pub(super) fn of_targets(targets: &'a [T], first_row: u64) -> Self {
        Self { sources: targets, targets, first_row }
    }

    /// The number of edges.
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Where each edge leads to.
    pub fn targets(&self) -> &'a [T] {
        self.targets
    }

    /// The row of the first edge in the whole list.
    pub fn first_row(&self) -> u64 {
        self.first_row
    }

    /// The row after the last one.
    pub(super) fn end_row(&self) -> u64 {
        self.first_row + self.len() as u64
    }

    fn pieces(&self, size: usize) -> impl Iterator<Item = Self> + use<'a, T> {
        let first_row = self.first_row;
        let chunks = self.sources.chunks(size).zip(self.targets.chunks(size)).enumerate();
        chunks.map(move |(index, (sources, targets))| {
            let first_row = first_row + (index * size) as u64;
            EdgeList { sources, targets, first_row }
        })
    }

    pub(super) fn batches(&self) -> impl Iterator<Item = Self> + use<'a, T> {
        self.pieces(BATCH)
    }

    /// The largest source and the largest target.
    pub(super) fn largest(&self, exec: &Exec) -> Result<(u64, u64), Error> {
        let largest = |ids: &[T]| ids.iter().map(|id| id.bits()).max().unwrap_or(0);
        let found =
            exec.map(self.pieces(BLOCK).collect(), |block| (largest(block.sources), largest(block.targets)))?;
        Ok(found.into_iter().fold((0, 0), |most, block| (most.0.max(block.0), most.1.max(block.1))))
    }

    /// Calls `emit` with the source, the target counted from `bounds.first`, and the row of each edge, in order.
    #[inline]
    fn each(
        &self,
        rules: EdgeRules,
        bounds: Bounds,
        mut emit: impl FnMut(u32, u32, u32),
    ) -> Result<(), Error> {
        let loops = rules.self_loops == SelfLoops::Keep;
        let first_row = self.first_row as u32;
        for (row, (source, target)) in self.sources.iter().zip(self.targets).enumerate() {
            let (from, to) = (source.bits(), target.bits());
            let local = to.wrapping_sub(bounds.first);
            if from >= bounds.source_nodes || local >= bounds.nodes {
                return Err(self.refuse(row, rules, bounds));
            }
            if from == to && !loops {
                continue;
            }
            let row = first_row.wrapping_add(row as u32);
            emit(from as u32, local as u32, row);
            if rules.undirected && from != to {
                emit(to as u32, from as u32, row);
            }
        }
        Ok(())
    }

    /// Refuses the first edge with an id that is out of bounds.
    pub(super) fn check(&self, rules: EdgeRules, bounds: Bounds) -> Result<(), Error> {
        self.each(rules, bounds, |_, _, _| ())
    }

    #[cold]
    fn refuse(&self, row: usize, rules: EdgeRules, bounds: Bounds) -> Error {
        let (source, target) = (self.sources[row], self.targets[row]);
        let wrong_source = target.bits().wrapping_sub(bounds.first) < bounds.nodes;
        let (id, first, nodes) = if wrong_source {
            (source, 0, bounds.source_nodes)
        } else {
            (target, bounds.first, bounds.nodes)
        };
        let end = if wrong_source == rules.reversed { "target" } else { "source" };
        let expected = match nodes {
            0 => "there are no nodes".to_owned(),
            _ => format!("expected ids from {first} to {}", first + nodes - 1),
        };
        Error::BadEdge { row: self.first_row + row as u64, message: format!("{end} {id}; {expected}") }
    }
}

/// What ids are allowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) source_nodes: u64,
    /// The first target.
    pub(super) first: u64,
    /// How many targets there are.
    pub(super) nodes: u64,
}

/// Edges of a block in the order of their ranges, and within a range in the order of the list.
///
/// Edge `i` of range `r` is `starts[r] + i`; edges come from `sources`, lead to `targets`, and stand in `rows`.
#[derive(Debug, Clone, Default)]
pub struct DealtEdges {
    /// Where each range starts, and where the last one ends.
    pub starts: Vec<u32>,
    /// The source of each edge; none where they were not asked for.
    pub sources: Vec<u32>,
    /// The target of each edge, counted from the first one.
    pub targets: Vec<u32>,
    /// The row of each edge in the list, modulo 2^32; none where they were not asked for.
    pub rows: Vec<u32>,
}

impl DealtEdges {
    pub(super) fn range(&self, part: usize) -> std::ops::Range<usize> {
        self.starts[part] as usize..self.starts[part + 1] as usize
    }
}

/// What is wanted of dealt edges beside their targets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) sources: bool,
    pub(super) rows: bool,
}

/// Deals a batch: one result for each of its blocks, in order. `range` tells the range of a target.
pub(super) fn deal<T: NodeId>(
    exec: &Exec,
    batch: &EdgeList<'_, T>,
    rules: EdgeRules,
    bounds: Bounds,
    wanted: Wanted,
    (ranges, range): (usize, &(impl Fn(u32) -> usize + Sync)),
) -> Result<Vec<DealtEdges>, Error> {
    let blocks = exec.map(batch.pieces(BLOCK).collect(), |block| {
        let mut starts = vec![0_u32; ranges + 1];
        block.each(rules, bounds, |_, target, _| starts[range(target) + 1] += 1)?;
        for range in 0..ranges {
            starts[range + 1] += starts[range];
        }
        let edges = starts[ranges] as usize;
        let mut next = starts.clone();
        let mut targets = vec![0; edges];
        let mut sources = vec![0; if wanted.sources { edges } else { 0 }];
        let mut rows = vec![0; if wanted.rows { edges } else { 0 }];
        block.each(rules, bounds, |source, target, row| {
            let next = &mut next[range(target)];
            let place = *next as usize;
            *next += 1;
            targets[place] = target;
            if wanted.sources {
                sources[place] = source;
            }
            if wanted.rows {
                rows[place] = row;
            }
        })?;
        Ok(DealtEdges { starts, sources, targets, rows })
    })?;
    // Blocks come in order, so the first error is that of the lowest row.
    blocks.into_iter().collect()
}

/// Deals edges into ranges of targets: range `r` takes the targets from `firsts[r]` to `firsts[r + 1] - 1`.
///
/// One result for each block of the list. Targets stay as they are, counted from 0. O(edges log ranges).
///
/// # Errors
///
/// [`Error::BadEdge`] for the first edge with an id that is too large; [`Error::InvalidArgument`] when `firsts` does
/// not rise from 0 to the number of nodes; [`Error::Interrupted`] when the caller asks to stop.
///
/// ```
/// use mbflow_core::{EdgeList, EdgeRules, Exec, deal_edges};
///
/// let list = EdgeList::new(&[5, 6, 7], &[9, 0, 8], 0)?;
/// let dealt = deal_edges(&Exec::serial(), &list, EdgeRules::default(), 10, &[0, 4, 10])?;
/// assert_eq!((&dealt[0].starts[..], &dealt[0].sources[..]), (&[0, 1, 3][..], &[6, 5, 7][..]));
/// # Ok::<(), mbflow_core::Error>(())
/// ```
pub fn deal_edges<T: NodeId>(
    exec: &Exec,
    list: &EdgeList<'_, T>,
    rules: EdgeRules,
    source_nodes: u64,
    firsts: &[u64],
) -> Result<Vec<DealtEdges>, Error> {
    let (Some(&0), Some(&nodes)) = (firsts.first(), firsts.last()) else {
        return Err(Error::argument("firsts", "expected to start at 0"));
    };
    if nodes > MOST_NODES || firsts.windows(2).any(|pair| pair[0] > pair[1]) {
        return Err(Error::argument("firsts", format!("expected to rise to at most {MOST_NODES}")));
    }
    let bounds = Bounds { source_nodes, first: 0, nodes };
    let inner = &firsts[1..firsts.len() - 1];
    let range = |target: u32| inner.partition_point(|&first| first <= u64::from(target));
    let wanted = Wanted { sources: true, rows: true };
    deal(exec, list, rules, bounds, wanted, (inner.len() + 1, &range))
}

/// How many edges lead to the nodes of each bin: bin `b` takes the targets from `b << shift` on.
///
/// # Errors
///
/// [`Error::BadEdge`] for the first edge with an id that is too large; [`Error::Interrupted`] when the caller asks to
/// stop.
///
/// ```
/// use mbflow_core::{EdgeList, EdgeRules, Exec, degree_bins};
///
/// let list = EdgeList::new(&[5, 6, 7], &[9, 0, 8], 0)?;
/// assert_eq!(degree_bins(&Exec::serial(), &list, EdgeRules::default(), 10, 10, 2)?, [1, 0, 2]);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
pub fn degree_bins<T: NodeId>(
    exec: &Exec,
    list: &EdgeList<'_, T>,
    rules: EdgeRules,
    source_nodes: u64,
    nodes: u64,
    shift: u32,
) -> Result<Vec<u64>, Error> {
    let bounds = Bounds { source_nodes, first: 0, nodes };
    let bins = nodes.div_ceil(1 << shift) as usize;
    let mut sum = vec![0_u64; bins];
    for batch in list.batches() {
        let counts = exec.map(batch.pieces(BLOCK.max(4 * bins)).collect(), |block| {
            let mut counts = vec![0_u32; bins];
            block.each(rules, bounds, |_, target, _| counts[(target >> shift) as usize] += 1)?;
            Ok::<_, Error>(counts)
        })?;
        for block in counts {
            for (sum, count) in sum.iter_mut().zip(block?) {
                *sum += u64::from(count);
            }
        }
    }
    Ok(sum)
}
