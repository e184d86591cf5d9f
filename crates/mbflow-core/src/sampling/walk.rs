//! Random walks, and pairs of nodes that no edge joins.

use super::draws::Draws;
use super::{Columns, WeightSums};
use crate::simd::prefetch;
use crate::{Error, Exec, Seed, stream};

/// Walks worked on side by side: while one waits for memory the others go on.
const WALKS: usize = 256;
/// Draws between two looks at whether to stop.
const CHECKED: u32 = 1 << 14;

/// Walks along incoming edges, from each of `starts`: row by row `length + 1` nodes, -1 after a node without edges.
///
/// At each step a walk goes back to its start with chance `restart`, else to a source of one of its node's edges: each
/// equally likely, or in proportion to weight. Draws are keyed by (seed, epoch, batch, place of the start, step).
///
/// # Errors
///
/// [`Error::InvalidArgument`] naming the first start that is no node, or what is wrong in the graph;
/// [`Error::Interrupted`].
///
/// ```
/// use mbflow_core::{Exec, Seed, sampling::{Columns, walks}};
///
/// let ring = Columns::new(&[0, 1, 2, 3], &[2, 0, 1])?;
/// let key = Seed(7);
/// assert_eq!(walks(&Exec::serial(), ring, None, &[0, 1], 3, 0.0, key)?, [0, 2, 1, 0, 1, 0, 2, 1]);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
pub fn walks(
    exec: &Exec,
    columns: Columns<'_>,
    sums: Option<WeightSums<'_>>,
    starts: &[i64],
    length: usize,
    restart: f64,
    key: Seed,
) -> Result<Vec<i64>, Error> {
    let nodes = columns.nodes();
    if let Some(at) = starts.iter().position(|&start| start < 0 || start as usize >= nodes) {
        let message = format!("seed {at} is node {}; expected 0 to {}", starts[at], nodes as i64 - 1);
        return Err(Error::argument("seeds", message));
    }
    if !(0.0..1.0).contains(&restart) {
        return Err(Error::argument("restart", format!("expected 0 to below 1, got {restart}")));
    }
    if let Some(sums) = sums
        && sums.len() != columns.sources.len()
    {
        return Err(Error::argument("weights", "expected one for each edge"));
    }
    let width = length + 1;
    let size = width.saturating_mul(starts.len());
    let key = key.u64_at(stream::WALKS, 0);
    let mut out = Error::room("length", size, -1)?;
    let pieces: Vec<_> = out.chunks_mut(WALKS * width).zip(starts.chunks(WALKS)).enumerate().collect();
    let done = exec.map(pieces, |(piece, (out, starts))| {
        let mut draws: Vec<Draws> =
            (0..starts.len()).map(|at| Draws::new(key, (piece * WALKS + at) as u64)).collect();
        for (row, &start) in out.chunks_exact_mut(width).zip(starts) {
            row[0] = start;
            prefetch(columns.offsets, start as usize);
        }
        for step in 0..length {
            if step % WALKS == 0 {
                exec.check()?;
            }
            for (row, draws) in out.chunks_exact_mut(width).zip(&mut draws) {
                let Ok(node) = u32::try_from(row[step]) else { continue };
                if restart > 0.0 && draws.unit() < restart {
                    row[step + 1] = row[0];
                    continue;
                }
                let (start, len) = columns.edges(node)?;
                let value = match sums {
                    _ if len == 0 => None,
                    None => Some(draws.below(len)),
                    Some(sums) => sums.of(node, start, len).draw(draws.unit()),
                };
                if let Some(index) = value {
                    let source = columns.sources[start as usize + index as usize];
                    if source as usize >= nodes {
                        let message = format!("an edge comes from node {source}; there are {nodes} nodes");
                        return Err(Error::argument("graph", message));
                    }
                    row[step + 1] = i64::from(source);
                    prefetch(columns.offsets, source as usize);
                }
            }
        }
        Ok(())
    })?;
    done.into_iter().collect::<Result<(), Error>>()?;
    Ok(out)
}

/// How pairs of nodes that no edge joins are drawn.
#[derive(Debug, Clone, Copy)]
pub struct NegativeEdges<'a> {
    /// The edges that pairs must not be; the sources of each node in rising order.
    pub columns: Columns<'a>,
    /// How many nodes sources are drawn from.
    pub source_nodes: u64,
    /// Running sums of the weights that sources are drawn by, or each equally likely.
    pub source_sums: Option<&'a [f64]>,
    /// Whether a pair of a node with itself will do.
    pub self_loops: bool,
    /// Draws of one pair before it is given up.
    pub attempts: u32,
}

impl NegativeEdges<'_> {
    /// For each target `count` sources that no edge leads from to it; -1 where `attempts` draws found none.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] naming the first target that is no node, or what is wrong in the graph;
    /// [`Error::Interrupted`].
    pub fn sources(&self, exec: &Exec, targets: &[i64], count: usize, key: Seed) -> Result<Vec<i64>, Error> {
        const TARGETS: usize = 1 << 10;
        let nodes = self.columns.nodes();
        if let Some(at) = targets.iter().position(|&target| target < 0 || target as usize >= nodes) {
            let message = format!("target {at} is node {}; expected 0 to {}", targets[at], nodes as i64 - 1);
            return Err(Error::argument("targets", message));
        }
        if self.source_nodes == 0 || self.source_nodes > u64::from(u32::MAX) {
            let message = format!("expected 1 to 2^32 - 1 nodes to draw from, got {}", self.source_nodes);
            return Err(Error::argument("graph", message));
        }
        if let Some(sums) = self.source_sums
            && (sums.len() as u64 != self.source_nodes || sums.last().is_none_or(|&total| total <= 0.0))
        {
            return Err(Error::argument("weights", "expected one for each node, not all of them 0"));
        }
        if count == 0 {
            return Ok(Vec::new());
        }
        let key = key.u64_at(stream::NEGATIVES, 0);
        let mut out = Error::room("count", targets.len().saturating_mul(count), -1)?;
        let pieces: Vec<_> =
            out.chunks_mut(TARGETS * count).zip(targets.chunks(TARGETS)).enumerate().collect();
        let done = exec.map(pieces, |(piece, (out, targets))| {
            for (at, (out, &target)) in out.chunks_exact_mut(count).zip(targets).enumerate() {
                let (start, len) = self.columns.edges(target as u32)?;
                let sources = &self.columns.sources[start as usize..start as usize + len as usize];
                let mut draws = Draws::new(key, (piece * TARGETS + at) as u64);
                for place in out {
                    for attempt in 0..self.attempts {
                        if attempt % CHECKED == CHECKED - 1 {
                            exec.check()?;
                        }
                        let source = self.draw(&mut draws);
                        let is_edge = sources.binary_search(&source).is_ok();
                        if !is_edge && (self.self_loops || i64::from(source) != target) {
                            *place = i64::from(source);
                            break;
                        }
                    }
                }
            }
            Ok(())
        })?;
        done.into_iter().collect::<Result<(), Error>>()?;
        Ok(out)
    }

    fn draw(&self, draws: &mut Draws) -> u32 {
        match self.source_sums {
            None => draws.below(self.source_nodes as u32),
            Some(sums) => {
                let value = draws.unit() * sums[sums.len() - 1];
                sums.partition_point(|&sum| sum <= value) as u32
            }
        }
    }
}
