//! Graphs of rows that share a bucket: of several independent views, or of nested levels of one set of projections.

use super::lists::{Comparing, Lists};
use super::partition::{Buckets, Codes, Dividing};
use super::{Graph, HashGraph, HashGraphStats, SEED_SPLITS, descent};
use crate::{Error, Exec, Matrix, Seed};

/// Derived seeds, one a purpose, beside those of the module above.
const SEED_VIEWS: u64 = 3;
const SEED_LEVELS: u64 = 4;
/// Rows worked on by one thread at a time where a row takes little time.
const BLOCK: usize = 4096;
/// The most rows that one bucket may be allowed.
const LARGEST_CAP: usize = 1 << 16;

impl HashGraph {
    /// The exact graph by blocked brute force: the nearest of all other rows, equal distances by row number.
    ///
    /// Only `neighbours`, `metric` and `simd` of the settings count. O(rows^2 * width) time.
    ///
    /// # Errors
    ///
    /// As [`HashGraph::build`].
    ///
    /// ```
    /// use mbflow_core::{Exec, HashGraph, Matrix, Metric};
    ///
    /// let rows = Matrix::new(&[0.0, 1.0, 5.0, 7.0], 4, 1)?;
    /// let settings = HashGraph { metric: Metric::Manhattan, ..HashGraph::new(2) };
    /// let graph = settings.build_exact(&Exec::serial(), &rows)?;
    /// assert_eq!(graph.neighbours.view().row(1), [0, 2]);
    /// assert_eq!(graph.distances[2..4], [1.0, 4.0]);
    /// # Ok::<(), mbflow_core::Error>(())
    /// ```
    pub fn build_exact(&self, exec: &Exec, rows: &Matrix<'_>) -> Result<Graph, Error> {
        let exact = Self {
            // Blocks small enough for the caches, few enough that a table of all their means stays small.
            bucket_cap: (rows.rows() / 1024).max(256),
            probes: usize::MAX,
            refinements: 0,
            descents: 0,
            neighbours: self.neighbours,
            metric: self.metric,
            simd: self.simd,
            ..Self::new(1)
        };
        exact.build(exec, rows)
    }

    /// A graph over several views: each has projections of its own, of its own share of the columns, and divides the
    /// rows into buckets of at most `bucket_cap` as [`HashGraph::build`] does; rows that share a bucket in any view
    /// are compared by their distance over all columns. An edge weighs by the share of views in which its rows meet.
    ///
    /// `probes` and `refinements` do not count. `column_share` is above 0 and at most 1; at least one column is drawn.
    /// A row that meets fewer than `neighbours` others has fewer edges.
    ///
    /// O(views * rows * bucket size * width) time; the extra memory is 16 bytes for each edge and 4 for each row and
    /// view.
    ///
    /// # Errors
    ///
    /// As [`HashGraph::build`]; [`Error::InvalidArgument`] for fewer than 1 or more than 1024 views, or a wrong share.
    ///
    /// ```
    /// use mbflow_core::{Exec, HashGraph, Matrix};
    ///
    /// let rows: Vec<f32> = (0..200).map(|i| i as f32).collect();
    /// let settings = HashGraph { bucket_cap: 32, ..HashGraph::new(2) };
    /// let graph = settings.build_views(&Exec::serial(), &Matrix::new(&rows, 200, 1)?, 4, 1.0)?;
    /// assert_eq!(graph.weights.len(), graph.distances.len());
    /// assert!(graph.weights.iter().all(|weight| [0.25, 0.5, 0.75, 1.0].contains(weight)));
    /// # Ok::<(), mbflow_core::Error>(())
    /// ```
    pub fn build_views(
        &self,
        exec: &Exec,
        rows: &Matrix<'_>,
        views: usize,
        column_share: f64,
    ) -> Result<Graph, Error> {
        self.check()?;
        if !(1..=1024).contains(&views) {
            return Err(Error::argument("views", format!("expected 1 to 1024, got {views}")));
        }
        if !(column_share > 0.0 && column_share <= 1.0) {
            let message = format!("expected a share above 0 and at most 1, got {column_share}");
            return Err(Error::argument("view_columns", message));
        }
        let prepared = self.metric.prepare(exec, rows)?;
        let rows = &prepared.matrix()?;
        let comparing = Comparing { exec, rows, gap: self.metric.gap(), simd: self.simd };
        let mut lists = Lists::new(rows.rows(), self.neighbours.min(rows.rows() - 1));
        let mut stats = HashGraphStats::default();
        let mut shared = Vec::with_capacity(views);
        let columns = ((rows.width() as f64 * column_share).round() as usize).clamp(1, rows.width());
        for view in 0..views as u64 {
            let seed = self.seed.derive(SEED_VIEWS).derive(view);
            let (buckets, made) = if columns == rows.width() {
                self.divide(exec, rows, self.bucket_cap, seed)?
            } else {
                let values = some_columns(exec, rows, columns, seed)?;
                self.divide(exec, &Matrix::new(&values, rows.rows(), columns)?, self.bucket_cap, seed)?
            };
            stats.add(&made, &buckets);
            stats.distances += lists.compare(comparing, &buckets, buckets.len())?;
            shared.push(bucket_numbers(&buckets));
        }
        let mut graph = self.finish(comparing, lists, stats)?;
        let shared = by_row(exec, &shared)?;
        graph.weights = weights(exec, &graph, |row, other| {
            let pairs = shared[row * views..][..views].iter().zip(&shared[other * views..][..views]);
            let meetings = pairs.filter(|(first, second)| first == second).count();
            meetings as f32 / views as f32
        })?;
        Ok(graph)
    }

    /// A graph over nested levels of one set of projections: the coarsest buckets hold at most `bucket_cap *
    /// 2^(levels - 1)` rows, and those of each next level divide them further, by the next parts of the codes and then
    /// at medians, down to `bucket_cap` rows. Rows that share a bucket of the coarsest level are compared. An edge
    /// weighs by the finest level that its rows share: 1 for the finest of all, `1 / levels` for the coarsest.
    ///
    /// `probes` and `refinements` do not count.
    ///
    /// # Errors
    ///
    /// As [`HashGraph::build`]; [`Error::InvalidArgument`] for fewer than 1 level, or so many that a bucket of the
    /// coarsest would be allowed more than 65,536 rows.
    ///
    /// ```
    /// use mbflow_core::{Exec, HashGraph, Matrix};
    ///
    /// let rows: Vec<f32> = (0..200).map(|i| i as f32).collect();
    /// let settings = HashGraph { bucket_cap: 16, ..HashGraph::new(2) };
    /// let graph = settings.build_levels(&Exec::serial(), &Matrix::new(&rows, 200, 1)?, 3)?;
    /// assert!(graph.stats.largest_bucket <= 64);
    /// assert!(graph.weights.iter().all(|&weight| weight >= 0.33));
    /// # Ok::<(), mbflow_core::Error>(())
    /// ```
    pub fn build_levels(&self, exec: &Exec, rows: &Matrix<'_>, levels: usize) -> Result<Graph, Error> {
        self.check()?;
        let coarsest = u32::try_from(levels)
            .ok()
            .and_then(|levels| levels.checked_sub(1))
            .and_then(|doublings| 1_usize.checked_shl(doublings))
            .and_then(|factor| self.bucket_cap.checked_mul(factor));
        let cap = match coarsest {
            Some(cap) if levels == 1 || cap <= LARGEST_CAP => cap,
            _ => {
                let message = format!(
                    "expected at least 1, and at most {LARGEST_CAP} rows in a bucket of the coarsest level, got \
                     {levels} with a cap of {} at the finest",
                    self.bucket_cap
                );
                return Err(Error::argument("levels", message));
            }
        };
        let prepared = self.metric.prepare(exec, rows)?;
        let rows = &prepared.matrix()?;
        let comparing = Comparing { exec, rows, gap: self.metric.gap(), simd: self.simd };
        let seed = self.seed.derive(SEED_LEVELS);
        // The codes must reach down to the finest level.
        let (codes, bits) = self.codes(exec, rows, self.bucket_cap, seed)?;
        let mut dividing = self.dividing(exec, rows, cap, &codes);
        let (mut buckets, code_buckets) = dividing.divide_all(seed.derive(SEED_SPLITS))?;
        let mut stats = HashGraphStats::default();
        stats.add(&HashGraphStats { bits, code_buckets, ..HashGraphStats::default() }, &buckets);
        let mut lists = Lists::new(rows.rows(), self.neighbours.min(rows.rows() - 1));
        stats.distances = lists.compare(comparing, &buckets, buckets.len())?;
        let mut shared = vec![bucket_numbers(&buckets)];
        for level in 1..levels {
            dividing.cap = cap >> level;
            dividing.minimum = dividing.minimum.min(dividing.cap / 2);
            buckets = dividing.divide_buckets(buckets, 0, seed.derive(SEED_SPLITS).derive(level as u64))?;
            shared.push(bucket_numbers(&buckets));
        }
        stats.smallest_bucket = buckets.iter().map(<[u32]>::len).min().unwrap_or(0);
        let mut graph = self.finish(comparing, lists, stats)?;
        let shared = by_row(exec, &shared)?;
        graph.weights = weights(exec, &graph, |row, other| {
            // Levels are nested: those that two rows share come first.
            let pairs = shared[row * levels..][..levels].iter().zip(&shared[other * levels..][..levels]);
            pairs.take_while(|(first, second)| first == second).count() as f32 / levels as f32
        })?;
        Ok(graph)
    }

    fn dividing<'a>(
        &self,
        exec: &'a Exec,
        rows: &'a Matrix<'a>,
        cap: usize,
        codes: &'a Codes,
    ) -> Dividing<'a> {
        Dividing {
            exec,
            rows,
            cap,
            // Both sides of a division of more than `cap` rows can have this many.
            minimum: self.neighbours.saturating_add(1).min(cap / 2),
            codes,
            simd: self.simd,
        }
    }

    /// Buckets of at most `cap` rows, by codes and then at medians.
    pub(super) fn divide(
        &self,
        exec: &Exec,
        rows: &Matrix<'_>,
        cap: usize,
        seed: Seed,
    ) -> Result<(Buckets, HashGraphStats), Error> {
        let (codes, bits) = self.codes(exec, rows, cap, seed)?;
        let dividing = self.dividing(exec, rows, cap, &codes);
        let (buckets, code_buckets) = dividing.divide_all(seed.derive(SEED_SPLITS))?;
        Ok((buckets, HashGraphStats { bits, code_buckets, ..HashGraphStats::default() }))
    }

    /// Looks at neighbours of neighbours as often as asked, and turns lists into a graph.
    pub(crate) fn finish(
        &self,
        comparing: Comparing<'_>,
        mut lists: Lists,
        mut stats: HashGraphStats,
    ) -> Result<Graph, Error> {
        stats.distances += descent::descend(comparing, &mut lists, self.descents)?;
        let (neighbours, distances) = lists.into_graph(comparing.exec, self.metric)?;
        Ok(Graph { neighbours, distances, weights: Vec::new(), stats })
    }
}

impl HashGraphStats {
    /// Takes in another set of buckets.
    pub(super) fn add(&mut self, made: &Self, buckets: &Buckets) {
        let sizes = || buckets.iter().map(<[u32]>::len);
        let smallest = sizes().min().unwrap_or(0);
        self.smallest_bucket = if self.buckets == 0 { smallest } else { self.smallest_bucket.min(smallest) };
        self.largest_bucket = self.largest_bucket.max(sizes().max().unwrap_or(0));
        self.buckets += buckets.len();
        self.bits = self.bits.max(made.bits);
        self.code_buckets += made.code_buckets;
    }
}

/// The bucket of each row.
fn bucket_numbers(buckets: &Buckets) -> Vec<u32> {
    let mut numbers = vec![0; buckets.rows().len()];
    for (number, bucket) in buckets.iter().enumerate() {
        for &row in bucket {
            numbers[row as usize] = number as u32;
        }
    }
    numbers
}

/// The buckets of each row in several sets of buckets, row after row: to compare two rows, two places are read.
fn by_row(exec: &Exec, shared: &[Vec<u32>]) -> Result<Vec<u32>, Error> {
    let rows = shared[0].len();
    let mut numbers = vec![0; rows * shared.len()];
    let blocks: Vec<_> = numbers.chunks_mut(BLOCK * shared.len()).enumerate().collect();
    exec.run(blocks, |(block, out)| {
        for (row, out) in (block * BLOCK..).zip(out.chunks_exact_mut(shared.len())) {
            for (set, out) in shared.iter().zip(out) {
                *out = set[row];
            }
        }
    })?;
    Ok(numbers)
}

/// The weight of every edge, from the two rows that it links.
fn weights(
    exec: &Exec,
    graph: &Graph,
    weight: impl Fn(usize, usize) -> f32 + Sync,
) -> Result<Vec<f32>, Error> {
    let view = graph.neighbours.view();
    let parts = exec.map((0..view.len().div_ceil(BLOCK)).collect(), |block| {
        let rows = block * BLOCK..view.len().min((block + 1) * BLOCK);
        let edges = rows.flat_map(|row| view.row(row).iter().map(move |&other| (row, other as usize)));
        edges.map(|(row, other)| weight(row, other)).collect::<Vec<_>>()
    })?;
    Ok(parts.concat())
}

/// That many columns, drawn without repeats and in rising order, of all rows.
fn some_columns(exec: &Exec, rows: &Matrix<'_>, count: usize, seed: Seed) -> Result<Vec<f32>, Error> {
    let mut drawn = seed.permutation(exec, crate::stream::VIEW_COLUMNS, rows.width())?;
    drawn.truncate(count);
    drawn.sort_unstable();
    let mut values = vec![0.0; rows.rows() * count];
    let blocks: Vec<_> = rows.blocks(BLOCK).zip(values.chunks_mut(BLOCK * count)).collect();
    exec.run(blocks, |(block, out)| {
        for (row, out) in block.chunks_exact(rows.width()).zip(out.chunks_exact_mut(count)) {
            for (&column, out) in drawn.iter().zip(out) {
                *out = row[column as usize];
            }
        }
    })?;
    Ok(values)
}
