//! The hashing graph: approximate nearest neighbours by buckets of rows with like codes.

mod descent;
mod kinds;
mod lists;
mod partition;
mod refine;
mod search;

use crate::{Directions, Error, Exec, Matrix, Metric, RaggedVec, Seed, Simd};
pub(crate) use lists::{Comparing, Lists};
pub(crate) use partition::Buckets;
use partition::Codes;

/// Derived seeds, one a purpose.
const SEED_CODES: u64 = 0;
const SEED_SPLITS: u64 = 1;

/// What the code of a row is made of.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Family {
    /// The sides of hyperplanes through the mean row: one bit a projection.
    #[default]
    Sign,
    /// Cells along each projection; see [`crate::Projection::p_stable_codes`].
    PStable {
        /// The width of a cell; by default the root mean square distance of a row from the mean row, which is the
        /// standard deviation expected of a projection.
        width: Option<f32>,
    },
}

/// A hashing graph to be built: each row linked to the nearest of the rows that hashing brings near it.
///
/// 1. *Codes.* Every row gets a code of up to `bits` random projections ([`Family`]). A bucket is a set of rows that
///    share the beginning of their codes; it is divided by the next part of the code while it has more than
///    `bucket_cap` rows. A part that would leave fewer than `neighbours + 1` rows on one side is passed over, so codes
///    make no bucket too small to be of use. (Prefixes of codes instead of whole ones: Bawa, Condie, Ganesan, "LSH
///    forest", WWW 2005.)
/// 2. *Splits.* A bucket still above the cap when its code is used up is split in two at the exact median along a
///    direction of large spread, and its halves again; ties go by row number, so equal rows split too. No row is ever
///    dropped.
/// 3. *Refinement.* `refinements` times, every row moves to the bucket with the nearest mean among its own and the 32
///    buckets nearest to that (the step of Lloyd's k-means); then buckets above the cap are split again.
/// 4. *Search.* Every row is compared with all rows of its own bucket and of the `probes` buckets whose means are
///    nearest to the row; with more buckets when those hold fewer than `neighbours` others. Exact distances decide.
///
/// The result is exact when there is one bucket (`bucket_cap >= rows`) or when every bucket is probed. It is the same
/// to the bit for the same seed, on every machine and for any number of threads.
///
/// O(rows * (probes + 1) * bucket size * width) time; the extra memory is a copy of the rows and 20 bytes for each
/// edge.
///
/// ```
/// use mbflow_core::{Exec, HashGraph, Matrix};
///
/// let rows: Vec<f32> = (0..200).map(|i| (i as f32).sqrt()).collect();
/// let graph = HashGraph { bucket_cap: 64, ..HashGraph::new(2) };
/// let graph = graph.build(&Exec::serial(), &Matrix::new(&rows, 200, 1)?)?;
/// assert_eq!(graph.neighbours.view().row(100), [101, 99]);
/// assert!(graph.stats.largest_bucket <= 64);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct HashGraph {
    /// How many neighbours each row gets; `rows - 1` when there are not that many others.
    pub neighbours: usize,
    /// The most projections a code is made of, at most 64; by default as many as halve the rows to the cap.
    pub bits: Option<usize>,
    /// What codes are made of.
    pub family: Family,
    /// What the entries of the projections are drawn from.
    pub directions: Directions,
    /// The most rows of a bucket, at least 2.
    pub bucket_cap: usize,
    /// How many buckets are searched besides a row's own.
    pub probes: usize,
    /// How often rows move to the nearest bucket.
    pub refinements: usize,
    /// What distances are measured by, and so what is near.
    pub metric: Metric,
    /// How often rows look for nearer rows among the neighbours of their neighbours, at most 100.
    pub descents: usize,
    /// All randomness follows from it.
    pub seed: Seed,
    /// The instruction set used; results do not depend on it.
    pub simd: Simd,
}

/// What building a hashing graph came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HashGraphStats {
    /// Projections in a code.
    pub bits: usize,
    /// Buckets searched.
    pub buckets: usize,
    /// Rows of the largest bucket.
    pub largest_bucket: usize,
    /// Rows of the smallest bucket.
    pub smallest_bucket: usize,
    /// Buckets before any bucket was split at a median: those that codes alone make.
    pub code_buckets: usize,
    /// Moves of rows to a nearer bucket, over all refinements.
    pub moves: usize,
    /// Distances between rows that were computed.
    pub distances: u64,
}

/// A graph with distances: row `i` of `neighbours` holds the neighbours of row `i`, nearest first, equal distances by
/// row number.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Graph {
    /// The neighbours of every row: never the row itself, never one twice.
    pub neighbours: RaggedVec<i32>,
    /// The distance of every edge, in the order of the neighbours.
    pub distances: Vec<f32>,
    /// The weight of every edge; empty for a kind of graph without weights.
    pub weights: Vec<f32>,
    /// What it came to.
    pub stats: HashGraphStats,
}

impl HashGraph {
    /// A graph of that many neighbours a row, by default settings and seed 0.
    pub fn new(neighbours: usize) -> Self {
        Self {
            neighbours,
            bits: None,
            family: Family::Sign,
            directions: Directions::Gaussian,
            bucket_cap: 256,
            probes: 16,
            refinements: 4,
            metric: Metric::Euclidean,
            descents: 0,
            seed: Seed(0),
            simd: Simd::detect(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.neighbours == 0 {
            return Err(Error::argument("neighbours", "expected at least 1, got 0"));
        }
        if let Some(bits) = self.bits
            && !(1..=64).contains(&bits)
        {
            return Err(Error::argument("bits", format!("expected 1 to 64, got {bits}")));
        }
        if self.bucket_cap < 2 {
            return Err(Error::argument(
                "bucket_cap",
                format!("expected at least 2, got {}", self.bucket_cap),
            ));
        }
        for (name, value) in [("refinements", self.refinements), ("descents", self.descents)] {
            if value > 100 {
                return Err(Error::argument(name, format!("expected at most 100, got {value}")));
            }
        }
        if let Family::PStable { width: Some(width) } = self.family
            && !(width.is_finite() && width > 0.0)
        {
            let message = format!("expected a finite, positive number, got {width}");
            return Err(Error::argument("width", message));
        }
        Ok(())
    }

    /// Builds the graph.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a setting out of its range, [`Error::BadValue`] for NaN, infinite or overflowing
    /// features, [`Error::Interrupted`] when the caller asks to stop.
    pub fn build(&self, exec: &Exec, rows: &Matrix<'_>) -> Result<Graph, Error> {
        self.check()?;
        let prepared = self.metric.prepare(exec, rows)?;
        let rows = &prepared.matrix()?;
        let comparing = Comparing { exec, rows, gap: self.metric.gap(), simd: self.simd };
        let (buckets, made) = self.divide(exec, rows, self.bucket_cap, self.seed)?;
        let (buckets, moves) = refine::refine(comparing, buckets, self)?;
        let mut stats = HashGraphStats { moves, ..HashGraphStats::default() };
        stats.add(&made, &buckets);
        let neighbours = self.neighbours.min(rows.rows() - 1);
        let lists = search::search(comparing, &buckets, neighbours, self.probes, &mut stats.distances)?;
        self.finish(comparing, lists, stats)
    }

    /// The codes of all rows, when there are more rows than fit one bucket.
    fn codes(&self, exec: &Exec, rows: &Matrix<'_>, cap: usize, seed: Seed) -> Result<(Codes, usize), Error> {
        if rows.rows() <= cap {
            return Ok((Codes::None, 0));
        }
        let halvings = rows.rows().div_ceil(cap).next_power_of_two().trailing_zeros() as usize;
        let bits = self.bits.unwrap_or(halvings).clamp(1, 64);
        let seed = seed.derive(SEED_CODES);
        let projection =
            crate::Projection::new(self.directions, bits, rows.width(), seed)?.with_simd(self.simd);
        let means = rows.column_means(exec)?;
        let codes = match self.family {
            Family::Sign => {
                let thresholds = projection.thresholds_at(&means)?;
                Codes::Sign(projection.sign_codes(exec, rows, &thresholds)?, bits)
            }
            Family::PStable { width } => {
                let width = match width {
                    Some(width) => width,
                    None => match rows.total_variance(exec, &means)?.sqrt() as f32 {
                        spread if spread > 0.0 => spread,
                        _ => 1.0,
                    },
                };
                Codes::PStable(projection.p_stable_codes(exec, rows, width, seed)?, bits)
            }
        };
        Ok((codes, bits))
    }
}
