//! The inner loops, compiled for several instruction sets and chosen when the program runs.
//!
//! Each loop is written once, in safe code over small arrays, and compiled for AVX-512, for AVX2 with FMA and for the
//! target's baseline. Every result is one chain of fused multiply-adds in the order of the columns (or, for
//! [`Simd::dots`], eight such chains added pairwise), so all three give the same bits; a test compares them.
//! The only unsafe code of the crate is here: the calls into functions compiled for more than the baseline, and prefetch.

use crate::Matrix;

/// Rows that lie side by side in a packed group: the lanes of one inner loop.
pub(crate) const LANES: usize = 16;
/// Queries worked on together.
pub(crate) const QUERIES: usize = 8;
/// Queries whose sums are kept in registers at once: 4 x 16 sums are 8 AVX2 registers of 16.
const HALF: usize = 4;

/// What a tile sums over the columns: products.
const PRODUCT: u8 = 0;
/// Squared differences.
const SQUARE: u8 = 1;
/// Absolute differences.
const ABSOLUTE: u8 = 2;

/// What the inner loops take as the distance of two rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gap {
    /// The sum of squared differences.
    Square,
    /// The sum of absolute differences.
    Absolute,
}

/// Work whose loops are compiled for each instruction set, by [`Simd::run`]. `run`, and all that it calls in its loops,
/// must be `#[inline(always)]`, so that they are compiled inside the function that has the set enabled.
pub(crate) trait Loops {
    /// What the work gives.
    type Output;

    /// Does the work.
    fn run(self) -> Self::Output;
}

/// Asks for the cache line that holds `values[at]`; where there is no such value nothing happens, or some line is loaded.
#[inline(always)]
pub(crate) fn prefetch<T>(values: &[T], at: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address, mapped or not, neither faults nor reads what the program could see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, at);
}

/// An instruction set that this machine has, for the inner loops.
///
/// ```
/// let best = mbflow_core::Simd::detect();
/// assert!(["avx512", "avx2", "baseline"].contains(&best.name()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Simd(Level);

/// Private, so that a level that the machine lacks cannot be named from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Baseline,
}

impl Simd {
    /// The best instruction set of this machine.
    pub fn detect() -> Self {
        Self::available()[0]
    }

    /// Every instruction set of this machine that the loops are compiled for, best first.
    ///
    /// ```
    /// assert_eq!(mbflow_core::Simd::available().last().map(|simd| simd.name()), Some("baseline"));
    /// ```
    pub fn available() -> Vec<Self> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                levels.push(Self(Level::Avx512));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                levels.push(Self(Level::Avx2));
            }
        }
        levels.push(Self(Level::Baseline));
        levels
    }

    /// Its name: `avx512`, `avx2` or `baseline`.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            Level::Baseline => "baseline",
        }
    }

    /// Does the work with loops compiled for this instruction set.
    pub(crate) fn run<W: Loops>(self, work: W) -> W::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level is made only by `available`, which has seen the feature.
            Level::Avx512 => unsafe { run_avx512(work) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level is made only by `available`, which has seen the features.
            Level::Avx2 => unsafe { run_avx2(work) },
            Level::Baseline => work.run(),
        }
    }

    /// Calls `found(query, row, distance)` for every pair within the query's limit, and takes what it returns
    /// as the query's new limit.
    ///
    /// `queries` holds eight rows column by column, `rows` groups of sixteen rows column by column, padded with NaN,
    /// which is within no limit. A negative limit switches a query off.
    pub(crate) fn scan(
        self,
        gap: Gap,
        queries: &[f32],
        rows: &[f32],
        width: usize,
        limits: &mut [f32; QUERIES],
        mut found: impl FnMut(usize, usize, f32) -> f32,
    ) {
        match (self.0, gap) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level is made only by `available`, which has seen the feature.
            (Level::Avx512, Gap::Square) => unsafe {
                scan_avx512::<SQUARE>(queries, rows, width, limits, &mut found);
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level is made only by `available`, which has seen the feature.
            (Level::Avx512, Gap::Absolute) => unsafe {
                scan_avx512::<ABSOLUTE>(queries, rows, width, limits, &mut found);
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level is made only by `available`, which has seen the features.
            (Level::Avx2, Gap::Square) => unsafe {
                scan_avx2::<SQUARE>(queries, rows, width, limits, &mut found);
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level is made only by `available`, which has seen the features.
            (Level::Avx2, Gap::Absolute) => unsafe {
                scan_avx2::<ABSOLUTE>(queries, rows, width, limits, &mut found);
            },
            (Level::Baseline, Gap::Square) => {
                scan::<SQUARE>(queries, rows, width, limits, &mut found, within_baseline);
            }
            (Level::Baseline, Gap::Absolute) => {
                scan::<ABSOLUTE>(queries, rows, width, limits, &mut found, within_baseline);
            }
        }
    }

    /// The distances of eight queries to every row: `out[query][row]`, laid out as in [`Simd::project`]; those to
    /// padding are NaN.
    pub(crate) fn distances(self, gap: Gap, queries: &[f32], rows: &[f32], width: usize, out: &mut [f32]) {
        match gap {
            Gap::Square => self.table::<SQUARE>(queries, rows, width, out),
            Gap::Absolute => self.table::<ABSOLUTE>(queries, rows, width, out),
        }
    }

    /// The dot products of eight queries with every direction: `out[query][direction]`, `directions` being packed as
    /// the rows of [`Simd::scan`] are and `out` holding whole groups.
    pub(crate) fn project(self, queries: &[f32], directions: &[f32], width: usize, out: &mut [f32]) {
        self.table::<PRODUCT>(queries, directions, width, out);
    }

    fn table<const KIND: u8>(self, queries: &[f32], rows: &[f32], width: usize, out: &mut [f32]) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level is made only by `available`, which has seen the feature.
            Level::Avx512 => unsafe { table_avx512::<KIND>(queries, rows, width, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level is made only by `available`, which has seen the features.
            Level::Avx2 => unsafe { table_avx2::<KIND>(queries, rows, width, out) },
            Level::Baseline => table::<KIND>(queries, rows, width, out),
        }
    }

    /// Replaces `out[i]` by the distance of row `row` to row `others[i]`, for at most sixteen others.
    pub(crate) fn gaps(
        self,
        gap: Gap,
        matrix: &Matrix<'_>,
        row: usize,
        others: &[u32],
        out: &mut [f32; LANES],
    ) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level is made only by `available`, which has seen the feature.
            Level::Avx512 => unsafe { gaps_avx512(gap, matrix, row, others, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level is made only by `available`, which has seen the features.
            Level::Avx2 => unsafe { gaps_avx2(gap, matrix, row, others, out) },
            Level::Baseline => gaps(gap, matrix, row, others, out),
        }
    }

    /// Replaces `out[i]` by the dot product of row `rows[i]` with `direction`.
    pub(crate) fn dots(self, matrix: &Matrix<'_>, rows: &[u32], direction: &[f32], out: &mut [f32]) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level is made only by `available`, which has seen the feature.
            Level::Avx512 => unsafe { dots_avx512(matrix, rows, direction, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level is made only by `available`, which has seen the features.
            Level::Avx2 => unsafe { dots_avx2(matrix, rows, direction, out) },
            Level::Baseline => dots(matrix, rows, direction, out),
        }
    }
}

/// Four queries against one group of sixteen: distances, or dot products.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "must be compiled inside each caller, for the caller's instruction set"
)]
fn tile<const KIND: u8>(queries: &[f32], group: &[f32], half: usize) -> [[f32; LANES]; HALF] {
    let mut sums = [[0.0_f32; LANES]; HALF];
    let (columns, _) = group.as_chunks::<LANES>();
    let (queries, _) = queries.as_chunks::<QUERIES>();
    for (lanes, query) in columns.iter().zip(queries) {
        for q in 0..HALF {
            let value = query[half * HALF + q];
            for lane in 0..LANES {
                let difference = value - lanes[lane];
                sums[q][lane] = match KIND {
                    SQUARE => difference.mul_add(difference, sums[q][lane]),
                    ABSOLUTE => sums[q][lane] + difference.abs(),
                    _ => value.mul_add(lanes[lane], sums[q][lane]),
                };
            }
        }
    }
    sums
}

#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "must be compiled inside each caller, for the caller's instruction set"
)]
fn scan<const KIND: u8>(
    queries: &[f32],
    rows: &[f32],
    width: usize,
    limits: &mut [f32; QUERIES],
    found: &mut impl FnMut(usize, usize, f32) -> f32,
    within: impl Fn(&[[f32; LANES]; HALF], &[f32]) -> u64,
) {
    for (group, columns) in rows.chunks_exact(width * LANES).enumerate() {
        for half in 0..QUERIES / HALF {
            let distances = tile::<KIND>(queries, columns, half);
            // One test for the whole tile: most tiles have no hit, and a wrong guess costs as much as a tile.
            let mut hits = within(&distances, &limits[half * HALF..][..HALF]);
            while hits != 0 {
                let hit = hits.trailing_zeros() as usize % (HALF * LANES);
                hits &= hits - 1;
                let (query, lane) = (hit / LANES, hit % LANES);
                let at = half * HALF + query;
                limits[at] = found(at, group * LANES + lane, distances[query][lane]);
            }
        }
    }
}

#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "must be compiled inside each caller, for the caller's instruction set"
)]
fn table<const KIND: u8>(queries: &[f32], rows: &[f32], width: usize, out: &mut [f32]) {
    let padded = out.len() / QUERIES;
    for (group, columns) in rows.chunks_exact(width * LANES).enumerate() {
        for half in 0..QUERIES / HALF {
            let sums = tile::<KIND>(queries, columns, half);
            for (offset, sums) in sums.iter().enumerate() {
                let at = (half * HALF + offset) * padded + group * LANES;
                out[at..at + LANES].copy_from_slice(sums);
            }
        }
    }
}

#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "must be compiled inside each caller, for the caller's instruction set"
)]
fn dots(matrix: &Matrix<'_>, rows: &[u32], direction: &[f32], out: &mut [f32]) {
    let (direction_chunks, direction_rest) = direction.as_chunks::<8>();
    for (&row, out) in rows.iter().zip(out) {
        let (chunks, rest) = matrix.row(row as usize).as_chunks::<8>();
        let mut sums = [0.0_f32; 8];
        for (values, directions) in chunks.iter().zip(direction_chunks) {
            for lane in 0..8 {
                sums[lane] = values[lane].mul_add(directions[lane], sums[lane]);
            }
        }
        for (lane, (value, direction)) in rest.iter().zip(direction_rest).enumerate() {
            sums[lane] = value.mul_add(*direction, sums[lane]);
        }
        let pairs: [f32; 4] = std::array::from_fn(|lane| sums[lane] + sums[lane + 4]);
        *out = (pairs[0] + pairs[2]) + (pairs[1] + pairs[3]);
    }
}

#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "must be compiled inside each caller, for the caller's instruction set"
)]
fn gaps(gap: Gap, matrix: &Matrix<'_>, row: usize, others: &[u32], out: &mut [f32; LANES]) {
    let query = matrix.row(row);
    // Unused lanes measure the row itself. Sixteen chains side by side hide how long each addition takes.
    let rows: [&[f32]; LANES] =
        std::array::from_fn(|lane| others.get(lane).map_or(query, |&other| matrix.row(other as usize)));
    let mut sums = [0.0_f32; LANES];
    for (column, &value) in query.iter().enumerate() {
        let differences: [f32; LANES] = std::array::from_fn(|lane| value - rows[lane][column]);
        for lane in 0..LANES {
            sums[lane] = match gap {
                Gap::Square => differences[lane].mul_add(differences[lane], sums[lane]),
                Gap::Absolute => sums[lane] + differences[lane].abs(),
            };
        }
    }
    *out = sums;
}

macro_rules! compiled_for {
    ($features:literal, $run:ident, $within:ident, $scan:ident, $table:ident, $dots:ident, $gaps:ident) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        fn $run<W: Loops>(work: W) -> W::Output {
            work.run()
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        fn $gaps(gap: Gap, matrix: &Matrix<'_>, row: usize, others: &[u32], out: &mut [f32; LANES]) {
            gaps(gap, matrix, row, others, out);
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        fn $scan<const KIND: u8>(
            queries: &[f32],
            rows: &[f32],
            width: usize,
            limits: &mut [f32; QUERIES],
            found: &mut impl FnMut(usize, usize, f32) -> f32,
        ) {
            scan::<KIND>(queries, rows, width, limits, found, |tile, limits| {
                let masks: [u32; HALF] = std::array::from_fn(|query| $within(&tile[query], limits[query]));
                u64::from(masks[0] | masks[1] << LANES) | u64::from(masks[2] | masks[3] << LANES) << 32
            });
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        fn $table<const KIND: u8>(queries: &[f32], rows: &[f32], width: usize, out: &mut [f32]) {
            table::<KIND>(queries, rows, width, out);
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        fn $dots(matrix: &Matrix<'_>, rows: &[u32], direction: &[f32], out: &mut [f32]) {
            dots(matrix, rows, direction, out);
        }
    };
}

compiled_for!("avx512f", run_avx512, within_avx512, scan_avx512, table_avx512, dots_avx512, gaps_avx512);
compiled_for!("avx2,fma", run_avx2, within_avx2, scan_avx2, table_avx2, dots_avx2, gaps_avx2);

/// Which distances are at most their query's limit, as bits, query after query. The compiler makes sixteen comparisons
/// of this loop; hence the two below.
#[inline]
fn within_baseline(tile: &[[f32; LANES]; HALF], limits: &[f32]) -> u64 {
    let pairs = tile.iter().zip(limits).flat_map(|(row, &limit)| row.iter().map(move |&gap| gap <= limit));
    pairs.zip(0..).fold(0, |bits, (hit, at)| bits | u64::from(hit) << at)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
fn within_avx512(d: &[f32; LANES], limit: f32) -> u32 {
    use std::arch::x86_64::{_CMP_LE_OQ, _mm512_cmp_ps_mask, _mm512_set1_ps, _mm512_setr_ps};
    let lanes = _mm512_setr_ps(
        d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7], d[8], d[9], d[10], d[11], d[12], d[13], d[14], d[15],
    );
    u32::from(_mm512_cmp_ps_mask::<_CMP_LE_OQ>(lanes, _mm512_set1_ps(limit)))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn within_avx2(d: &[f32; LANES], limit: f32) -> u32 {
    use std::arch::x86_64::{_CMP_LE_OQ, _mm256_cmp_ps, _mm256_movemask_ps, _mm256_set1_ps, _mm256_setr_ps};
    let limit = _mm256_set1_ps(limit);
    let low =
        _mm256_cmp_ps::<_CMP_LE_OQ>(_mm256_setr_ps(d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]), limit);
    let high = _mm256_cmp_ps::<_CMP_LE_OQ>(
        _mm256_setr_ps(d[8], d[9], d[10], d[11], d[12], d[13], d[14], d[15]),
        limit,
    );
    (_mm256_movemask_ps(low) | _mm256_movemask_ps(high) << 8) as u32
}
