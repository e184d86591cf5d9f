//! The ragged graph that attention runs over, and its transpose.

use std::ops::Range;

use crate::Error;

/// The source of each edge: a row number.
///
/// ```
/// let sources = mbflow_core::Sources::U32(&[2, 0]);
/// assert_eq!((sources.len(), sources.at(0)), (2, 2));
/// ```
#[derive(Debug, Clone, Copy)]
pub enum Sources<'a> {
    /// As a stored graph has them.
    U32(&'a [u32]),
    /// As a sample has them.
    U64(&'a [u64]),
}

impl Sources<'_> {
    /// The number of edges.
    pub fn len(&self) -> usize {
        match self {
            Self::U32(sources) => sources.len(),
            Self::U64(sources) => sources.len(),
        }
    }

    /// Whether there is no edge.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The source of one edge.
    ///
    /// # Panics
    ///
    /// There is no such edge.
    #[inline(always)]
    pub fn at(&self, edge: usize) -> usize {
        match self {
            Self::U32(sources) => sources[edge] as usize,
            Self::U64(sources) => sources[edge] as usize,
        }
    }
}

/// The row of each target.
///
/// ```
/// use mbflow_core::Targets;
///
/// assert_eq!((Targets::From(3).row(1), Targets::Rows(&[7, 5]).row(1)), (4, 5));
/// ```
#[derive(Debug, Clone, Copy)]
pub enum Targets<'a> {
    /// Target `t` is this row plus `t`.
    From(usize),
    /// Target `t` is row `rows[t]`.
    Rows(&'a [u32]),
}

impl Targets<'_> {
    /// The row of one target.
    ///
    /// # Panics
    ///
    /// There is no such target.
    #[inline(always)]
    pub fn row(&self, target: usize) -> usize {
        match self {
            Self::From(first) => first + target,
            Self::Rows(rows) => rows[target] as usize,
        }
    }
}

/// A ragged graph: the edges that lead to target `t` are `offsets[t]..offsets[t + 1]`, each with its source.
///
/// ```
/// use mbflow_core::{AttentionGraph, Sources, Targets};
///
/// let graph = AttentionGraph::new(&[0, 2, 2], Sources::U32(&[1, 2]), 3, Targets::From(0))?;
/// assert_eq!((graph.targets(), graph.edges(), graph.rows()), (2, 2, 3));
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct AttentionGraph<'a> {
    pub(super) offsets: &'a [u64],
    pub(super) sources: Sources<'a>,
    pub(super) rows: usize,
    pub(super) target_rows: Targets<'a>,
}

impl<'a> AttentionGraph<'a> {
    /// A graph whose sources and targets are among `rows` rows. O(targets + edges).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] where offsets do not start with 0, fall, or end elsewhere than at the number of
    /// edges, or where a source or a target is not a row.
    pub fn new(
        offsets: &'a [u64],
        sources: Sources<'a>,
        rows: usize,
        target_rows: Targets<'a>,
    ) -> Result<Self, Error> {
        let graph = Self::trusted(offsets, sources, rows, target_rows)?;
        if let Some(at) = offsets.windows(2).position(|pair| pair[0] > pair[1]) {
            let (before, after) = (offsets[at], offsets[at + 1]);
            let message = format!("offset {} is {after}, below {before} before it", at + 1);
            return Err(Error::argument("offsets", message));
        }
        let highest = match sources {
            Sources::U32(sources) => sources.iter().copied().max().map(u64::from),
            Sources::U64(sources) => sources.iter().copied().max(),
        };
        if highest.is_some_and(|highest| highest >= rows as u64) {
            let bad = (0..sources.len()).find(|&edge| sources.at(edge) >= rows).unwrap_or(0);
            let message = format!("edge {bad} comes from row {}; there are {rows} rows", sources.at(bad));
            return Err(Error::argument("sources", message));
        }
        if let Targets::Rows(target_rows) = target_rows
            && let Some(bad) = target_rows.iter().position(|&row| row as usize >= rows)
        {
            let message = format!("target {bad} is row {}; there are {rows} rows", target_rows[bad]);
            return Err(Error::argument("targets", message));
        }
        Ok(graph)
    }

    /// As `new`, for arrays that it has seen before: only their lengths are looked at.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] where lengths do not fit.
    pub fn trusted(
        offsets: &'a [u64],
        sources: Sources<'a>,
        rows: usize,
        target_rows: Targets<'a>,
    ) -> Result<Self, Error> {
        let (Some(&first), Some(&last)) = (offsets.first(), offsets.last()) else {
            return Err(Error::argument("offsets", "expected at least one number, got none"));
        };
        if first != 0 || last != sources.len() as u64 {
            let message = format!("expected to go from 0 to {}, the number of sources", sources.len());
            return Err(Error::argument("offsets", format!("{message}, got {first} to {last}")));
        }
        if rows > u32::MAX as usize {
            return Err(Error::argument("rows", format!("expected at most 2^32 - 1, got {rows}")));
        }
        let targets = offsets.len() - 1;
        let fits = match target_rows {
            Targets::From(first) => first.checked_add(targets).is_some_and(|end| end <= rows),
            Targets::Rows(target_rows) => target_rows.len() == targets,
        };
        if !fits {
            let message = match target_rows {
                Targets::From(first) => format!("{targets} from row {first} on; there are {rows} rows"),
                Targets::Rows(target_rows) => format!("{} rows of {targets} targets", target_rows.len()),
            };
            return Err(Error::argument("targets", message));
        }
        Ok(Self { offsets, sources, rows, target_rows })
    }

    /// Nodes that edges lead to.
    pub fn targets(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Edges.
    pub fn edges(&self) -> usize {
        self.sources.len()
    }

    /// Rows that sources and targets are among.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The same edges by their source, by counting. O(rows + edges), by one thread.
    ///
    /// # Panics
    ///
    /// An offset or a source is out of range, which [`AttentionGraph::new`] would have said.
    ///
    /// ```
    /// use mbflow_core::{AttentionGraph, Sources, Targets};
    ///
    /// let graph = AttentionGraph::new(&[0, 2, 3], Sources::U64(&[1, 0, 1]), 2, Targets::From(0))?;
    /// let transpose = graph.transpose();
    /// assert_eq!((transpose.offsets(), transpose.targets()), (&[0, 1, 3][..], &[0, 0, 1][..]));
    /// # Ok::<(), mbflow_core::Error>(())
    /// ```
    pub fn transpose(&self) -> Transpose {
        // A list is filled from the place before its start, which thereby ends where the list starts.
        let mut offsets = vec![0_u64; self.rows + 2];
        for edge in 0..self.edges() {
            offsets[self.sources.at(edge) + 2] += 1;
        }
        for row in 2..offsets.len() {
            offsets[row] += offsets[row - 1];
        }
        let mut targets = vec![0_u32; self.edges()];
        for (target, ends) in self.offsets.windows(2).enumerate() {
            for edge in ends[0] as usize..ends[1] as usize {
                let place = &mut offsets[self.sources.at(edge) + 1];
                targets[*place as usize] = target as u32;
                *place += 1;
            }
        }
        offsets.pop();
        Transpose { offsets, targets }
    }

    /// The position of each edge of the transpose. O(rows + edges), by one thread.
    ///
    /// # Panics
    ///
    /// The transpose is of another graph.
    pub fn positions(&self, transpose: &Transpose) -> Vec<u64> {
        let mut next: Vec<u64> = transpose.offsets[..self.rows].to_vec();
        let mut positions = vec![0_u64; self.edges()];
        for edge in 0..self.edges() {
            let place = &mut next[self.sources.at(edge)];
            positions[*place as usize] = edge as u64;
            *place += 1;
        }
        positions
    }
}

/// The edges of a graph by their source: those from row `r` lead to `targets[offsets[r]..offsets[r + 1]]`.
///
/// ```
/// use mbflow_core::{AttentionGraph, Sources, Targets};
///
/// let graph = AttentionGraph::new(&[0, 1], Sources::U32(&[1]), 2, Targets::From(0))?;
/// assert_eq!(graph.transpose().offsets(), [0, 0, 1]);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Transpose {
    pub(super) offsets: Vec<u64>,
    pub(super) targets: Vec<u32>,
}

impl Transpose {
    /// Where the edges of each source start.
    pub fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// The targets, ascending for each source.
    pub fn targets(&self) -> &[u32] {
        &self.targets
    }
}

/// Cuts a ragged array into pieces of about the same work, by size alone: a row counts as much as eight edges.
pub(super) fn pieces(offsets: &[u64], least: u64, most: u64) -> Vec<Range<usize>> {
    let rows = offsets.len() - 1;
    let work = |row: usize| offsets[row] + 8 * row as u64;
    let size = least.max(work(rows).div_ceil(most));
    let mut cuts = Vec::new();
    let mut start = 0;
    while start < rows {
        let goal = work(start) + size;
        let mut end = start + 1;
        // Offsets ascend, so the first row at the goal is found by halving.
        let (mut low, mut high) = (end, rows);
        while low < high {
            let middle = low + (high - low) / 2;
            if work(middle) < goal { low = middle + 1 } else { high = middle }
        }
        end = end.max(low);
        cuts.push(start..end);
        start = end;
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::{AttentionGraph, Sources, Targets, pieces};

    #[test]
    fn pieces_cover_all_rows_once() {
        let offsets: Vec<u64> = (0..1000).map(|row| row * row / 10).collect();
        let cuts = pieces(&offsets, 64, 16);
        assert!(cuts.len() > 8 && cuts.len() <= 17, "{}", cuts.len());
        assert_eq!((cuts[0].start, cuts.last().map(|cut| cut.end)), (0, Some(999)));
        assert!(cuts.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert!(pieces(&[0], 64, 16).is_empty());
        assert_eq!(pieces(&[0, 1_000_000], 64, 16).len(), 1);
    }

    #[test]
    fn a_transpose_holds_each_edge_and_its_position() {
        let offsets = [0, 3, 3, 5];
        let sources = [2, 0, 2, 1, 2];
        let graph =
            AttentionGraph::new(&offsets, Sources::U32(&sources), 4, Targets::From(1)).expect("valid");
        let transpose = graph.transpose();
        assert_eq!(transpose.offsets(), [0, 1, 2, 5, 5]);
        assert_eq!(transpose.targets(), [0, 2, 0, 0, 2]);
        assert_eq!(graph.positions(&transpose), [1, 3, 0, 2, 4]);
    }

    #[test]
    fn bad_graphs_are_refused() {
        let refused = |offsets: &[u64], sources: &[u32], rows, targets| {
            AttentionGraph::new(offsets, Sources::U32(sources), rows, targets).unwrap_err().to_string()
        };
        assert!(refused(&[], &[], 1, Targets::From(0)).starts_with("offsets: expected at least one"));
        assert!(refused(&[1, 2], &[0], 1, Targets::From(0)).ends_with("got 1 to 2"));
        assert!(refused(&[0, 2], &[0], 1, Targets::From(0)).ends_with("got 0 to 2"));
        assert!(
            refused(&[0, 3, 2], &[0, 0], 2, Targets::From(0)).ends_with("offset 2 is 2, below 3 before it")
        );
        assert!(
            refused(&[0, 1], &[4], 3, Targets::From(0))
                .ends_with("edge 0 comes from row 4; there are 3 rows")
        );
        assert!(refused(&[0, 1], &[0], 3, Targets::From(3)).starts_with("targets: 1 from row 3 on"));
        assert!(refused(&[0, 1], &[0], 3, Targets::Rows(&[])).starts_with("targets: 0 rows of 1 targets"));
        assert!(refused(&[0, 1], &[0], 3, Targets::Rows(&[3])).starts_with("targets: target 0 is row 3"));
    }
}
