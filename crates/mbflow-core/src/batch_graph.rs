//! The mini-batch graph: rows linked within stratified batches.

use crate::hash_graph::{Buckets, Comparing, Lists};
use crate::packed::{Packed, Queries};
use crate::simd::{LANES, QUERIES};
use crate::top_k::{distance, number, pair};
use crate::{
    Error, Exec, Graph, HashGraph, HashGraphStats, Matrix, Metric, RaggedVec, Seed, Simd, deal, rows_by_class,
};

/// Rows that keep their lists in a round are handed on in pieces of this many.
const PIECE: usize = 4096;
/// The most rows of one batch: the table of its distances must stay small.
const LARGEST: usize = 1 << 14;

/// Which rows of a batch are linked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Edges {
    /// Every row with that many nearest others of its batches.
    Nearest(usize),
    /// All pairs whose similarity is strictly above this percentile (0 to 100) of the similarities of all pairs of the
    /// batch, interpolated linearly.
    Above(f64),
}

/// A graph whose edges join rows of one batch, batches having the mixture of the classes.
///
/// The rows are dealt into blocks, each with the mixture of the classes to within one row ([`crate::deal`]), and inside
/// a block the classes alternate. A batch is a block and, with an `overlap`, as many rows of those that follow (the
/// last is followed by the first) that neighbouring batches have this share of their rows in common. An edge weighs by
/// the similarity of its rows: `1 / (1 + distance)`, or the cosine.
///
/// O(rows * batch size * width) time.
///
/// ```
/// use mbflow_core::{BatchGraph, Edges, Exec, Matrix};
///
/// let rows: Vec<f32> = (0..100).map(|i| i as f32).collect();
/// let labels: Vec<u32> = (0..100).map(|i| i % 2).collect();
/// let settings = BatchGraph { batch_rows: 20, ..BatchGraph::new(Edges::Nearest(3)) };
/// let graph = settings.build(&Exec::serial(), &Matrix::new(&rows, 100, 1)?, &labels, 2)?;
/// assert_eq!(graph.distances.len(), 300);
/// assert_eq!(graph.stats.buckets, 5);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct BatchGraph {
    /// Which rows of a batch are linked.
    pub edges: Edges,
    /// The most rows of a batch, 2 to 16,384.
    pub batch_rows: usize,
    /// The share of its rows that a batch has in common with the next, at least 0 and at most 0.95.
    pub overlap: f64,
    /// What distances are measured by.
    pub metric: Metric,
    /// How often rows look for nearer rows among the neighbours of their neighbours; for [`Edges::Nearest`] only.
    pub descents: usize,
    /// All randomness follows from it.
    pub seed: Seed,
    /// The instruction set used; results do not depend on it.
    pub simd: Simd,
}

impl BatchGraph {
    /// Disjoint batches of at most 1024 rows, Euclidean distances and seed 0.
    pub fn new(edges: Edges) -> Self {
        Self {
            edges,
            batch_rows: 1024,
            overlap: 0.0,
            metric: Metric::Euclidean,
            descents: 0,
            seed: Seed(0),
            simd: Simd::detect(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        if !(2..=LARGEST).contains(&self.batch_rows) {
            let message = format!("expected 2 to {LARGEST}, got {}", self.batch_rows);
            return Err(Error::argument("batch_rows", message));
        }
        if !(0.0..=0.95).contains(&self.overlap) {
            let message = format!("expected a share from 0 to 0.95, got {}", self.overlap);
            return Err(Error::argument("overlap", message));
        }
        match self.edges {
            Edges::Above(percentile) if !(0.0..=100.0).contains(&percentile) => {
                Err(Error::argument("percentile", format!("expected 0 to 100, got {percentile}")))
            }
            Edges::Above(_) if self.descents > 0 => Err(Error::argument(
                "descents",
                "applies to nearest neighbours only; leave out the percentile",
            )),
            _ => Ok(()),
        }
    }

    /// Builds the graph; `classes` holds the class of every row, below `count`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a setting or class out of its range, [`Error::BadValue`] for features as in
    /// [`HashGraph::build`], [`Error::Interrupted`] when the caller asks to stop.
    pub fn build(
        &self,
        exec: &Exec,
        rows: &Matrix<'_>,
        classes: &[u32],
        count: usize,
    ) -> Result<Graph, Error> {
        self.check()?;
        if classes.len() != rows.rows() {
            let message = format!("expected one for each of {} rows, got {}", rows.rows(), classes.len());
            return Err(Error::argument("labels", message));
        }
        let prepared = self.metric.prepare(exec, rows)?;
        let rows = &prepared.matrix()?;
        let comparing = Comparing { exec, rows, gap: self.metric.gap(), simd: self.simd };
        let batches = self.batches(exec, classes, count)?;
        let mut stats = HashGraphStats {
            buckets: batches.len(),
            largest_bucket: batches.iter().map(Vec::len).max().unwrap_or(0),
            smallest_bucket: batches.iter().map(Vec::len).min().unwrap_or(0),
            ..HashGraphStats::default()
        };
        let mut graph = match self.edges {
            Edges::Nearest(neighbours) => {
                let settings = HashGraph {
                    metric: self.metric,
                    descents: self.descents,
                    simd: self.simd,
                    ..HashGraph::new(neighbours)
                };
                settings.check()?;
                let mut lists = Lists::new(rows.rows(), neighbours.min(rows.rows() - 1));
                for (round, compared) in rounds(batches, rows.rows()) {
                    stats.distances += lists.compare(comparing, &round, compared)?;
                }
                settings.finish(comparing, lists, stats)?
            }
            Edges::Above(percentile) => self.above(comparing, &batches, percentile, stats)?,
        };
        let similarities = graph.distances.iter().map(|&distance| self.metric.similarity(distance));
        graph.weights = similarities.collect();
        Ok(graph)
    }

    /// The rows of every batch.
    fn batches(&self, exec: &Exec, classes: &[u32], count: usize) -> Result<Vec<Vec<u32>>, Error> {
        let rows = classes.len();
        let strata = rows_by_class(exec, classes, count)?;
        let step = (self.batch_rows as f64 * (1.0 - self.overlap)).round().max(1.0) as usize;
        let blocks = deal(exec, strata.view(), rows.div_ceil(step).min(rows), self.seed)?;
        let blocks: Vec<&[u32]> = blocks.view().iter().collect();
        let line = exec.map(blocks, |block| alternate(block, classes, count))?;
        let starts = line.iter().scan(0, |end, block| {
            *end += block.len();
            Some(*end - block.len())
        });
        let starts: Vec<usize> = starts.collect();
        if self.overlap == 0.0 {
            return Ok(line);
        }
        let length = self.batch_rows.min(rows);
        let line = line.concat();
        let windows =
            starts.into_iter().map(|start| (start..start + length).map(|at| line[at % rows]).collect());
        Ok(windows.collect())
    }

    /// All pairs of each batch with a similarity strictly above its percentile.
    fn above(
        &self,
        comparing: Comparing<'_>,
        batches: &[Vec<u32>],
        percentile: f64,
        mut stats: HashGraphStats,
    ) -> Result<Graph, Error> {
        let found = comparing.exec.map(batches.iter().collect(), |batch: &Vec<u32>| {
            let table = self.distances(comparing, batch);
            let members = batch.len();
            let similarity = |at: usize, other: usize| self.metric.similarity(table[at * members + other]);
            let mut similarities: Vec<f32> =
                (0..members).flat_map(|at| (0..at).map(move |other| similarity(at, other))).collect();
            if similarities.is_empty() {
                return Vec::new();
            }
            let threshold = interpolated(&mut similarities, percentile);
            let mut edges = Vec::new();
            for (at, &row) in batch.iter().enumerate() {
                for (other, &target) in batch.iter().enumerate() {
                    if at != other && f64::from(similarity(at, other)) > threshold {
                        edges.push((row, pair(table[at * members + other], target)));
                    }
                }
            }
            edges
        })?;
        stats.distances = batches.iter().map(|batch| batch.len() as u64 * batch.len() as u64).sum();
        let mut edges = found.concat();
        // Batches that overlap may have found an edge twice.
        edges.sort_unstable();
        edges.dedup();
        let mut offsets = vec![0_i64; comparing.rows.rows() + 1];
        for &(row, _) in &edges {
            offsets[row as usize + 1] += 1;
        }
        for row in 1..offsets.len() {
            offsets[row] += offsets[row - 1];
        }
        let neighbours = edges.iter().map(|&(_, edge)| number(edge) as i32).collect();
        let distances = edges.iter().map(|&(_, edge)| distance(edge)).collect();
        let neighbours = RaggedVec::from_parts(offsets, neighbours)?;
        Ok(Graph { neighbours, distances, weights: Vec::new(), stats })
    }

    /// The distances of all rows of a batch to each other, row after row.
    fn distances(&self, comparing: Comparing<'_>, batch: &[u32]) -> Vec<f32> {
        let width = comparing.rows.width();
        let packed = Packed::new(batch.iter().map(|&row| comparing.rows.row(row as usize)), width);
        let padded = batch.len().next_multiple_of(LANES);
        let mut sums = vec![0.0; QUERIES * padded];
        let mut queries = Queries::new(width);
        let mut table = Vec::with_capacity(batch.len() * batch.len());
        for asking in batch.chunks(QUERIES) {
            for (query, &row) in asking.iter().enumerate() {
                queries.set(query, comparing.rows.row(row as usize));
            }
            self.simd.distances(comparing.gap, queries.values(), packed.values(), width, &mut sums);
            for sums in sums.chunks_exact(padded).take(asking.len()) {
                table.extend(sums[..batch.len()].iter().map(|&sum| self.metric.distance(sum)));
            }
        }
        table
    }
}

/// A block with its classes in turns: each row stands where its share of its class's rows puts it, so that any part of
/// the block has nearly the mixture of the whole.
fn alternate(block: &[u32], classes: &[u32], count: usize) -> Vec<u32> {
    let mut totals = vec![0_u64; count];
    for &row in block {
        totals[classes[row as usize] as usize] += 1;
    }
    let mut seen = vec![0_u64; count];
    let mut placed: Vec<(u64, u32, u32)> = Vec::with_capacity(block.len());
    for (&row, turn) in block.iter().zip(0..) {
        let class = classes[row as usize] as usize;
        // The middle of the row's share, as a fraction of 2^32.
        placed.push((((2 * seen[class] + 1) << 31) / totals[class], turn, row));
        seen[class] += 1;
    }
    placed.sort_unstable();
    placed.into_iter().map(|(_, _, row)| row).collect()
}

/// Batches in rounds without a common row; in each, the batches come first and then all other rows. The number says how
/// many of the buckets are batches.
fn rounds(batches: Vec<Vec<u32>>, rows: usize) -> Vec<(Buckets, usize)> {
    let mut rounds: Vec<(Vec<bool>, Vec<Vec<u32>>)> = Vec::new();
    for batch in batches {
        let free = rounds.iter().position(|(taken, _)| batch.iter().all(|&row| !taken[row as usize]));
        let round = free.unwrap_or_else(|| {
            rounds.push((vec![false; rows], Vec::new()));
            rounds.len() - 1
        });
        for &row in &batch {
            rounds[round].0[row as usize] = true;
        }
        rounds[round].1.push(batch);
    }
    let finished = rounds.into_iter().map(|(taken, batches)| {
        let compared = batches.len();
        let mut sizes: Vec<usize> = batches.iter().map(Vec::len).collect();
        let mut order = batches.concat();
        let rest = rows - order.len();
        sizes.extend((0..rest.div_ceil(PIECE)).map(|piece| PIECE.min(rest - piece * PIECE)));
        order.extend((0..rows as u32).filter(|&row| !taken[row as usize]));
        (Buckets::new(sizes, order), compared)
    });
    finished.collect()
}

/// A percentile, interpolated linearly between the two values around it.
fn interpolated(values: &mut [f32], percentile: f64) -> f64 {
    let position = percentile / 100.0 * (values.len() - 1) as f64;
    let below = position.floor() as usize;
    let (_, &mut low, above) = values.select_nth_unstable_by(below, f32::total_cmp);
    let high = above.iter().copied().min_by(f32::total_cmp).unwrap_or(low);
    f64::from(low) + (position - below as f64) * (f64::from(high) - f64::from(low))
}

#[cfg(test)]
mod tests {
    use super::{alternate, interpolated, rounds};

    #[test]
    fn classes_alternate() {
        let classes = [0, 0, 0, 0, 1, 1];
        assert_eq!(alternate(&[0, 1, 4, 2, 3, 5], &classes, 2), [0, 4, 1, 2, 5, 3]);
    }

    #[test]
    fn percentiles_are_interpolated() {
        let values = [4.0, 1.0, 3.0, 2.0];
        for (percentile, expected) in [(0.0, 1.0), (50.0, 2.5), (100.0, 4.0), (90.0, 3.7)] {
            assert!((interpolated(&mut values.clone(), percentile) - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn rounds_hold_every_row_once() {
        let rounds = rounds(vec![vec![0, 1], vec![1, 2], vec![2, 3], vec![3, 0]], 5);
        assert_eq!(rounds.len(), 2);
        for (buckets, compared) in rounds {
            assert_eq!(compared, 2);
            let mut rows = buckets.rows().to_vec();
            rows.sort_unstable();
            assert_eq!(rows, [0, 1, 2, 3, 4]);
        }
    }
}
