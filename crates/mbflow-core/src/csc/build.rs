//! The counting sort of an edge list into columns, in two passes.

use super::deal::{BATCH, Bounds, DealtEdges, EdgeList, EdgeRules, NodeId, SelfLoops, Wanted, deal};
use super::merge::{Duplicates, merge};
use super::{MOST_NODES, NO_ROW};
use crate::{Error, Exec, on_huge_pages};

/// Columns: edge `e` of node `v` has `offsets[v] <= e < offsets[v + 1]` and comes from `sources[e]`.
///
/// The edges of a node are sorted by source, those of one source by their rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Csc {
    /// Where the edges of each node start, and where those of the last one end.
    pub offsets: Vec<u64>,
    /// The source of each edge.
    pub sources: Vec<u32>,
    /// The row of the edge list that each edge came from, where it was asked for; [`super::NO_ROW`] for added loops.
    pub rows: Option<Vec<u32>>,
    /// What [`Duplicates::Count`] counted.
    pub weights: Option<Vec<f32>>,
}

/// Builds columns from an edge list that is read twice, in any number of pieces, the same ones in the same order.
///
/// Memory: 12 bytes a node and 4 an edge (8 with rows) for the result, and some 100 MB for the edges at hand. O(edges x
/// log(largest degree)); results do not depend on the pieces nor on the number of threads.
///
/// ```
/// use mbflow_core::{CscBuilder, Duplicates, EdgeList, EdgeRules, Exec};
///
/// let exec = Exec::new()?;
/// let list = EdgeList::new(&[2, 1, 0], &[0, 0, 2], 0)?;
/// let mut builder = CscBuilder::new(None, None, 0, EdgeRules::default(), false)?;
/// builder.count(&exec, &list)?;
/// builder.fill(&exec, &list)?;
/// let csc = builder.finish(&exec, Duplicates::Keep)?;
/// assert_eq!((csc.offsets, csc.sources), (vec![0, 2, 2, 3], vec![1, 2, 0]));
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug)]
pub struct CscBuilder {
    rules: EdgeRules,
    with_rows: bool,
    first: u64,
    /// How many nodes there are, or that as many as the ids need.
    nodes: Option<u64>,
    source_nodes: Option<u64>,
    /// How many there may be at most, where `nodes` is not given.
    most: u64,
    /// How many nodes the sources so far need, where `source_nodes` is not given.
    seen_sources: u64,
    /// Before `fill`, node `v` has its degree at `v + 1`; while it runs, the place of its next edge; at last its end.
    offsets: Vec<u64>,
    ranges: Option<Ranges>,
    sources: Vec<u32>,
    rows: Vec<u32>,
    filled: u64,
}

/// Ranges of nodes, and the places of their edges.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    /// Range `r` starts at node `r << shift`.
    shift: u32,
    /// The place of the first edge of each range, and the number of edges.
    pub(super) starts: Vec<u64>,
}

/// What one range of nodes owns of the columns.
pub(super) struct Part<'a> {
    pub(super) index: usize,
    /// The place of the first edge.
    pub(super) start: u64,
    /// The entries after the first node's start.
    pub(super) ends: &'a mut [u64],
    pub(super) sources: &'a mut [u32],
    /// Empty without rows.
    pub(super) rows: &'a mut [u32],
}

/// How many nodes a range holds, as a power of two: few ranges, so that dealing has few places to write to, but many
/// enough that what one of them writes to fits into the cache.
fn range_shift(nodes: u64) -> u32 {
    let bits = u64::BITS - nodes.saturating_sub(1).leading_zeros();
    bits.saturating_sub(if bits <= 26 { 9 } else { 12 })
}

impl CscBuilder {
    /// A builder of the columns of `nodes` nodes, of which the first is called `first` in the list.
    ///
    /// Where neither number is given, sources and targets are the same nodes, and there are as many as the largest
    /// id asks for; with `source_nodes` alone there are as many targets as the largest one asks for.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for 2^32 - 1 nodes or more, for `nodes` without `source_nodes`, and for rules that need
    /// sources and targets to be the same nodes where they are not.
    pub fn new(
        nodes: Option<u64>,
        source_nodes: Option<u64>,
        first: u64,
        rules: EdgeRules,
        with_rows: bool,
    ) -> Result<Self, Error> {
        for (name, number) in [("nodes", nodes), ("source_nodes", source_nodes)] {
            if number.is_some_and(|number| number > MOST_NODES) {
                return Err(Error::argument(name, format!("expected at most {MOST_NODES}")));
            }
        }
        if nodes.is_some() && source_nodes.is_none() {
            return Err(Error::argument("source_nodes", "expected a number where `nodes` is one"));
        }
        if rules.undirected && (nodes != source_nodes || first != 0) {
            return Err(Error::argument("undirected", "expected sources and targets to be the same nodes"));
        }
        let degrees = allocate(1 + nodes.unwrap_or(0))?;
        Ok(Self {
            rules,
            with_rows,
            first,
            nodes,
            source_nodes,
            most: MOST_NODES,
            seen_sources: 0,
            offsets: degrees,
            ranges: None,
            sources: Vec::new(),
            rows: Vec::new(),
            filled: 0,
        })
    }

    /// The same builder that takes no more than `most` nodes where their number is not given: one stray id would make
    /// it ask for gigabytes.
    ///
    /// ```
    /// use mbflow_core::{CscBuilder, EdgeList, EdgeRules, Exec};
    ///
    /// let mut builder = CscBuilder::new(None, None, 0, EdgeRules::default(), false)?.with_most(100);
    /// assert!(builder.count(&Exec::serial(), &EdgeList::new(&[0, 100], &[1, 1], 0)?).is_err());
    /// # Ok::<(), mbflow_core::Error>(())
    /// ```
    #[must_use]
    pub fn with_most(self, most: u64) -> Self {
        Self { most: most.min(MOST_NODES), ..self }
    }

    /// The number of nodes, as far as is known.
    pub fn nodes(&self) -> u64 {
        self.offsets.len() as u64 - 1
    }

    /// The number of nodes that sources are drawn from, as far as is known.
    pub fn source_nodes(&self) -> u64 {
        self.source_nodes.unwrap_or(self.seen_sources)
    }

    fn bounds(&self) -> Bounds {
        Bounds { source_nodes: self.source_nodes(), first: self.first, nodes: self.nodes() }
    }

    /// The first pass: counts the edges of a piece.
    ///
    /// # Errors
    ///
    /// [`Error::BadEdge`] for the first edge with an id that is negative or too large; [`Error::InvalidArgument`] after
    /// `fill`, for 2^32 - 1 rows or more where rows are asked for, and where there is no memory for the nodes;
    /// [`Error::Interrupted`] when the caller asks to stop.
    pub fn count<T: NodeId>(&mut self, exec: &Exec, list: &EdgeList<'_, T>) -> Result<(), Error> {
        self.check_count(list.end_row())?;
        for batch in list.batches() {
            self.grow(exec, &batch)?;
            self.count_batch(exec, &batch, self.bounds())?;
        }
        Ok(())
    }

    /// The first pass where degrees depend on the targets alone: in place of [`count`](Self::count), for half of the
    /// reading.
    ///
    /// # Errors
    ///
    /// Those of `count`, and [`Error::InvalidArgument`] where the rules or the number of nodes need the sources.
    ///
    /// ```
    /// use mbflow_core::{CscBuilder, Duplicates, EdgeList, EdgeRules, Exec};
    ///
    /// let exec = Exec::serial();
    /// let mut builder = CscBuilder::new(Some(9), Some(3), 0, EdgeRules::default(), false)?;
    /// builder.count_targets(&exec, &[8, 0], 0)?;
    /// builder.fill(&exec, &EdgeList::new(&[2, 1], &[8, 0], 0)?)?;
    /// assert_eq!(builder.finish(&exec, Duplicates::Keep)?.sources, [1, 2]);
    /// # Ok::<(), mbflow_core::Error>(())
    /// ```
    pub fn count_targets<T: NodeId>(
        &mut self,
        exec: &Exec,
        targets: &[T],
        first_row: u64,
    ) -> Result<(), Error> {
        if self.nodes.is_none() || self.rules.undirected || self.rules.self_loops != SelfLoops::Keep {
            let message = "the rules or the number of nodes need the sources, too";
            return Err(Error::argument("count_targets", message));
        }
        let list = EdgeList::of_targets(targets, first_row);
        self.check_count(list.end_row())?;
        let bounds = Bounds { source_nodes: u64::MAX, ..self.bounds() };
        for batch in list.batches() {
            self.count_batch(exec, &batch, bounds)?;
        }
        Ok(())
    }

    /// Whether edges up to a row can be counted.
    fn check_count(&self, end_row: u64) -> Result<(), Error> {
        if self.ranges.is_some() {
            return Err(Error::argument("count", "the second pass has begun"));
        }
        if self.with_rows && end_row > u64::from(NO_ROW) {
            let message = format!(
                "expected at most {NO_ROW} where each keeps its row, as those with weights, \
                types or times do; store the graph with `out` instead"
            );
            return Err(Error::argument("edges", message));
        }
        Ok(())
    }

    fn count_batch<T: NodeId>(
        &mut self,
        exec: &Exec,
        batch: &EdgeList<'_, T>,
        bounds: Bounds,
    ) -> Result<(), Error> {
        let shift = range_shift(bounds.nodes);
        let ranges = bounds.nodes.div_ceil(1 << shift) as usize;
        let wanted = Wanted { sources: false, rows: false };
        let range = |target: u32| (target >> shift) as usize;
        let blocks = deal(exec, batch, self.rules, bounds, wanted, (ranges, &range))?;
        let parts: Vec<_> = self.offsets[1..].chunks_mut(1 << shift).enumerate().collect();
        exec.run(parts, |(part, degrees)| {
            let first = (part as u32) << shift;
            for block in &blocks {
                for &target in &block.targets[block.range(part)] {
                    degrees[(target - first) as usize] += 1;
                }
            }
        })
    }

    /// Makes room for the nodes of a batch, where their number is not given.
    fn grow<T: NodeId>(&mut self, exec: &Exec, batch: &EdgeList<'_, T>) -> Result<(), Error> {
        if self.nodes.is_some() || batch.is_empty() {
            return Ok(());
        }
        let (source, target) = batch.largest(exec)?;
        let needed = if self.source_nodes.is_none() { source.max(target) } else { target };
        if needed >= self.most {
            let source_nodes = self.source_nodes.unwrap_or(self.most);
            let bounds = Bounds { source_nodes, first: self.first, nodes: self.most };
            return batch.check(self.rules, bounds).map_err(|error| match error {
                Error::BadEdge { row, message } => {
                    let advice = "for larger ones say how many nodes there are, or map them to dense ids";
                    Error::BadEdge { row, message: format!("{message}; {advice}") }
                }
                other => other,
            });
        }
        let nodes = needed + 1;
        if self.source_nodes.is_none() {
            self.seen_sources = self.seen_sources.max(nodes);
        }
        if let Some(more) = (nodes + 1).checked_sub(self.offsets.len() as u64) {
            reserve(&mut self.offsets, more)?;
            self.offsets.resize(nodes as usize + 1, 0);
        }
        Ok(())
    }

    /// Turns degrees into places, and adds self loops where they are asked for.
    fn place(&mut self) -> Result<(), Error> {
        let nodes = self.nodes();
        let shift = range_shift(nodes);
        let added = u64::from(self.rules.self_loops == SelfLoops::Add);
        let mut starts = Vec::with_capacity((nodes >> shift) as usize + 2);
        let mut place = 0;
        for (node, next) in self.offsets[1..].iter_mut().enumerate() {
            if node as u64 & ((1 << shift) - 1) == 0 {
                starts.push(place);
            }
            let degree = *next + added;
            *next = place;
            place += degree;
        }
        starts.push(place);
        self.sources = allocate(place)?;
        self.rows = allocate(if self.with_rows { place } else { 0 })?;
        if added == 1 {
            for (node, next) in self.offsets[1..].iter_mut().enumerate() {
                self.sources[*next as usize] = (self.first + node as u64) as u32;
                if self.with_rows {
                    self.rows[*next as usize] = NO_ROW;
                }
                *next += 1;
            }
            self.filled = nodes;
        }
        self.ranges = Some(Ranges { shift, starts });
        Ok(())
    }

    /// The second pass: puts the edges of a piece into place.
    ///
    /// # Errors
    ///
    /// [`Error::BadEdge`] for the first edge with an id that is too large; [`Error::InvalidArgument`] where the edges
    /// are not those that were counted; [`Error::Interrupted`] when the caller asks to stop.
    pub fn fill<T: NodeId>(&mut self, exec: &Exec, list: &EdgeList<'_, T>) -> Result<(), Error> {
        if self.ranges.is_none() {
            self.place()?;
        }
        let ranges = self.ranges.take().unwrap_or_default();
        let filled = self.fill_ranges(exec, list, &ranges);
        self.ranges = Some(ranges);
        self.filled += filled?;
        Ok(())
    }

    fn fill_ranges<T: NodeId>(
        &mut self,
        exec: &Exec,
        list: &EdgeList<'_, T>,
        ranges: &Ranges,
    ) -> Result<u64, Error> {
        let mut filled = 0;
        let bounds = self.bounds();
        let wanted = Wanted { sources: true, rows: self.with_rows };
        for batch in list.batches() {
            let range = |target: u32| (target >> ranges.shift) as usize;
            let count = ranges.starts.len() - 1;
            let blocks = deal(exec, &batch, self.rules, bounds, wanted, (count, &range))?;
            filled += blocks.iter().map(|block| block.targets.len() as u64).sum::<u64>();
            let whole = exec.map(self.parts(ranges), |part| put(part, ranges.shift, &blocks))?;
            if whole.contains(&false) {
                return Err(other_edges());
            }
        }
        Ok(filled)
    }

    /// The columns cut into what each range owns.
    fn parts(&mut self, ranges: &Ranges) -> Vec<Part<'_>> {
        let (mut sources, mut rows) = (&mut self.sources[..], &mut self.rows[..]);
        let with_rows = self.with_rows;
        let ends = self.offsets[1..].chunks_mut(1 << ranges.shift);
        let bounds = ranges.starts.windows(2);
        ends.zip(bounds)
            .enumerate()
            .map(|(index, (ends, bounds))| {
                let edges = (bounds[1] - bounds[0]) as usize;
                let own = sources.split_off_mut(..edges).unwrap_or_default();
                let own_rows = rows.split_off_mut(..if with_rows { edges } else { 0 }).unwrap_or_default();
                Part { index, start: bounds[0], ends, sources: own, rows: own_rows }
            })
            .collect()
    }

    /// Sorts the edges of each node, and hands out the columns.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] where the two passes did not see the same edges, and for weights to add up where there
    /// are no rows or not as many; [`Error::Interrupted`] when the caller asks to stop.
    pub fn finish(mut self, exec: &Exec, duplicates: Duplicates<'_>) -> Result<Csc, Error> {
        if self.ranges.is_none() {
            self.place()?;
        }
        let ranges = self.ranges.take().unwrap_or_default();
        if self.filled != self.sources.len() as u64 {
            return Err(other_edges());
        }
        if let Duplicates::Count(Some(weights)) = duplicates {
            let most =
                self.rows.iter().filter(|&&row| row != NO_ROW).max().map_or(0, |&row| row as usize + 1);
            if !self.with_rows || most > weights.len() {
                return Err(Error::argument("weights", "expected one for each row of the list"));
            }
        }
        exec.run(self.parts(&ranges), sort)?;
        let mut csc = Csc { weights: None, ..Csc::default() };
        if duplicates != Duplicates::Keep {
            csc.weights = merge(exec, self.parts(&ranges), duplicates)?;
            let columns = (&mut self.sources, &mut self.rows, csc.weights.as_mut());
            super::merge::close_gaps(&ranges, &mut self.offsets, columns);
        }
        csc.offsets = self.offsets;
        csc.sources = self.sources;
        csc.rows = self.with_rows.then_some(self.rows);
        Ok(csc)
    }
}

impl Ranges {
    /// How many nodes each range holds, the last one maybe fewer.
    pub(super) fn width(&self) -> usize {
        1 << self.shift
    }
}

fn other_edges() -> Error {
    Error::argument("edges", "the second pass saw other edges than the first one")
}

/// Puts the edges of one range into place; false when there are more than were counted.
fn put(part: Part<'_>, shift: u32, blocks: &[DealtEdges]) -> bool {
    let Part { index, start, ends, sources, rows: placed_rows } = part;
    let first = (index as u32) << shift;
    let with_rows = !placed_rows.is_empty();
    for block in blocks {
        let range = block.range(index);
        let rows = if with_rows { &block.rows[range.clone()] } else { &[] };
        let edges = block.targets[range.clone()].iter().zip(&block.sources[range]);
        for (at, (&target, &source)) in edges.enumerate() {
            let next = &mut ends[(target - first) as usize];
            let place = (*next - start) as usize;
            *next += 1;
            let Some(slot) = sources.get_mut(place) else { return false };
            *slot = source;
            if with_rows {
                placed_rows[place] = rows[at];
            }
        }
    }
    true
}

/// Sorts the edges of each node of a range by source, and where there are rows, by row.
fn sort(part: Part<'_>) {
    let mut keys = Vec::new();
    let mut begin = 0;
    for &mut end in part.ends {
        let end = (end - part.start) as usize;
        let sources = &mut part.sources[begin..end];
        if part.rows.is_empty() {
            sources.sort_unstable();
        } else if sources.len() > 1 {
            let rows = &mut part.rows[begin..end];
            keys.clear();
            keys.extend(
                sources.iter().zip(&*rows).map(|(&source, &row)| u64::from(source) << 32 | u64::from(row)),
            );
            keys.sort_unstable();
            for ((source, row), key) in sources.iter_mut().zip(rows).zip(&keys) {
                (*source, *row) = ((key >> 32) as u32, *key as u32);
            }
        }
        begin = end;
    }
}

fn reserve<T>(values: &mut Vec<T>, more: u64) -> Result<(), Error> {
    let failed = || Error::argument("nodes", format!("there is no memory for {more} more values"));
    let more = usize::try_from(more).map_err(|_| failed())?;
    values.try_reserve_exact(more).map_err(|_| failed())
}

/// Zeros, whose memory is taken as they are written to.
fn allocate<T: Clone + Default>(length: u64) -> Result<Vec<T>, Error> {
    let mut probe: Vec<T> = Vec::new();
    reserve(&mut probe, length)?;
    drop(probe);
    let values = vec![T::default(); length as usize];
    on_huge_pages(&values);
    Ok(values)
}

/// The value of each edge, from the values of the rows of the list; `missing` for [`NO_ROW`].
///
/// # Errors
///
/// [`Error::InvalidArgument`] for a row that has no value; [`Error::Interrupted`] when the caller asks to stop.
///
/// ```
/// use mbflow_core::{Exec, take};
///
/// assert_eq!(take(&Exec::serial(), &[1.5, 2.5], &[1, u32::MAX, 0], 1.0)?, [2.5, 1.0, 1.5]);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
pub fn take<T: Copy + Default + Send + Sync>(
    exec: &Exec,
    values: &[T],
    rows: &[u32],
    missing: T,
) -> Result<Vec<T>, Error> {
    let mut taken = allocate(rows.len() as u64)?;
    let blocks = taken.chunks_mut(BATCH / 64).zip(rows.chunks(BATCH / 64)).collect();
    let whole = exec.map(blocks, |(taken, rows): (&mut [T], &[u32])| {
        taken.iter_mut().zip(rows).all(|(taken, &row)| {
            let value = if row == NO_ROW { Some(&missing) } else { values.get(row as usize) };
            value.map(|&value| *taken = value).is_some()
        })
    })?;
    if whole.contains(&false) {
        return Err(Error::argument("rows", format!("expected numbers below {}", values.len())));
    }
    Ok(taken)
}
