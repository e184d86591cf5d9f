//! The inner loops, compiled for several instruction sets and chosen when the program runs.
//!
//! Each loop is written once, in safe code over small arrays, and compiled for AVX-512, for AVX2 with FMA and for the
//! target's baseline. Every result is one chain of fused multiply-adds in the order of the columns (or, for
//! [`Simd::dots`], eight such chains added pairwise), so all three give the same bits; a test compares them.
//! The only unsafe code of the crate is here: the calls into functions compiled for more than the baseline.

use crate::Matrix;

/// Rows that lie side by side in a packed group: the lanes of one inner loop.
pub(crate) const LANES: usize = 16;
/// Queries worked on together.
pub(crate) const QUERIES: usize = 8;
/// Queries whose sums are kept in registers at once: 4 x 16 sums are 8 AVX2 registers of 16.
const HALF: usize = 4;

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

    /// Calls `found(query, row, squared distance)` for every pair within the query's limit, and takes what it returns
    /// as the query's new limit.
    ///
    /// `queries` holds eight rows column by column, `rows` groups of sixteen rows column by column, padded with NaN,
    /// which is within no limit. A negative limit switches a query off.
    pub(crate) fn scan(
        self,
        queries: &[f32],
        rows: &[f32],
        width: usize,
        limits: &mut [f32; QUERIES],
        mut found: impl FnMut(usize, usize, f32) -> f32,
    ) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level is made only by `available`, which has seen the feature.
            Level::Avx512 => unsafe { scan_avx512(queries, rows, width, limits, &mut found) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level is made only by `available`, which has seen the features.
            Level::Avx2 => unsafe { scan_avx2(queries, rows, width, limits, &mut found) },
            Level::Baseline => scan(queries, rows, width, limits, &mut found, within_baseline),
        }
    }

    /// The dot products of eight queries with every direction: `out[query][direction]`, `directions` being packed as
    /// the rows of [`Simd::scan`] are and `out` holding whole groups.
    pub(crate) fn project(self, queries: &[f32], directions: &[f32], width: usize, out: &mut [f32]) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level is made only by `available`, which has seen the feature.
            Level::Avx512 => unsafe { project_avx512(queries, directions, width, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level is made only by `available`, which has seen the features.
            Level::Avx2 => unsafe { project_avx2(queries, directions, width, out) },
            Level::Baseline => project(queries, directions, width, out),
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

/// Four queries against one group of sixteen: squared distances, or dot products.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "must be compiled inside each caller, for the caller's instruction set"
)]
fn tile<const DISTANCE: bool>(queries: &[f32], group: &[f32], half: usize) -> [[f32; LANES]; HALF] {
    let mut sums = [[0.0_f32; LANES]; HALF];
    let (columns, _) = group.as_chunks::<LANES>();
    let (queries, _) = queries.as_chunks::<QUERIES>();
    for (lanes, query) in columns.iter().zip(queries) {
        for q in 0..HALF {
            let value = query[half * HALF + q];
            for lane in 0..LANES {
                sums[q][lane] = if DISTANCE {
                    let difference = value - lanes[lane];
                    difference.mul_add(difference, sums[q][lane])
                } else {
                    value.mul_add(lanes[lane], sums[q][lane])
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
fn scan(
    queries: &[f32],
    rows: &[f32],
    width: usize,
    limits: &mut [f32; QUERIES],
    found: &mut impl FnMut(usize, usize, f32) -> f32,
    within: impl Fn(&[f32; LANES], f32) -> u32,
) {
    for (group, columns) in rows.chunks_exact(width * LANES).enumerate() {
        for half in 0..QUERIES / HALF {
            let distances = tile::<true>(queries, columns, half);
            for (offset, distances) in distances.iter().enumerate() {
                let query = half * HALF + offset;
                let limit = limits[query];
                let mut hits = within(distances, limit);
                while hits != 0 {
                    let lane = hits.trailing_zeros() as usize % LANES;
                    hits &= hits - 1;
                    limits[query] = found(query, group * LANES + lane, distances[lane]);
                }
            }
        }
    }
}

#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "must be compiled inside each caller, for the caller's instruction set"
)]
fn project(queries: &[f32], directions: &[f32], width: usize, out: &mut [f32]) {
    let padded = out.len() / QUERIES;
    for (group, columns) in directions.chunks_exact(width * LANES).enumerate() {
        for half in 0..QUERIES / HALF {
            let products = tile::<false>(queries, columns, half);
            for (offset, products) in products.iter().enumerate() {
                let at = (half * HALF + offset) * padded + group * LANES;
                out[at..at + LANES].copy_from_slice(products);
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

macro_rules! compiled_for {
    ($features:literal, $within:ident, $scan:ident, $project:ident, $dots:ident) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        fn $scan(
            queries: &[f32],
            rows: &[f32],
            width: usize,
            limits: &mut [f32; QUERIES],
            found: &mut impl FnMut(usize, usize, f32) -> f32,
        ) {
            scan(queries, rows, width, limits, found, |distances, limit| $within(distances, limit));
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        fn $project(queries: &[f32], directions: &[f32], width: usize, out: &mut [f32]) {
            project(queries, directions, width, out);
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        fn $dots(matrix: &Matrix<'_>, rows: &[u32], direction: &[f32], out: &mut [f32]) {
            dots(matrix, rows, direction, out);
        }
    };
}

compiled_for!("avx512f", within_avx512, scan_avx512, project_avx512, dots_avx512);
compiled_for!("avx2,fma", within_avx2, scan_avx2, project_avx2, dots_avx2);

/// Which lanes are at most `limit`, as bits. The compiler makes sixteen comparisons of this loop; hence the two below.
#[inline]
fn within_baseline(distances: &[f32; LANES], limit: f32) -> u32 {
    distances.iter().zip(0..).fold(0, |bits, (&distance, lane)| bits | u32::from(distance <= limit) << lane)
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
