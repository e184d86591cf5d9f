//! Random projections, and the codes made of them.

use crate::packed::{Packed, Queries};
use crate::simd::{LANES, QUERIES};
use crate::{Error, Exec, Matrix, Seed, Simd, stream};
use std::num::NonZeroU64;

/// Rows projected by one thread at a time.
const BLOCK: usize = 1024;
const SIX: NonZeroU64 = NonZeroU64::MIN.saturating_add(5);

/// What the entries of a random direction are drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Directions {
    /// Independent standard normal entries.
    #[default]
    Gaussian,
    /// Entries of +sqrt(3), 0 and -sqrt(3) with probability 1/6, 2/3 and 1/6: Achlioptas, "Database-friendly random
    /// projections", JCSS 2003; variance 1 as well. The product is computed densely, which on a SIMD machine is
    /// faster than following the non-zero entries.
    Sparse,
}

/// A set of random directions, to project rows on.
///
/// Entry `column` of direction `j` is draw `j * width + column` of stream [`stream::PROJECTION`], so a direction does
/// not depend on how many there are. Entries have variance 1; divide projections by `sqrt(count)` to keep distances.
///
/// ```
/// use mbflow_core::{Directions, Exec, Matrix, Projection, Seed};
///
/// let projection = Projection::new(Directions::Sparse, 4, 2, Seed(1))?;
/// let rows = Matrix::new(&[1.0, 0.0, 2.0, 0.0], 2, 2)?;
/// let projected = projection.project(&Exec::serial(), &rows)?;
/// assert_eq!(projected.len(), 8);
/// assert_eq!(projected[4], 2.0 * projected[0]);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Projection {
    directions: Packed,
    count: usize,
    width: usize,
    simd: Simd,
}

impl Projection {
    /// Draws `count` directions in `width` dimensions. O(count * width).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when there are no directions, or more than 65,536.
    pub fn new(kind: Directions, count: usize, width: usize, seed: Seed) -> Result<Self, Error> {
        if !(1..=1 << 16).contains(&count) {
            return Err(Error::argument("projections", format!("expected 1 to 65536, got {count}")));
        }
        let entry = |index: u64| match kind {
            Directions::Gaussian => seed.normal(stream::PROJECTION, index),
            Directions::Sparse => match seed.below(stream::PROJECTION, index, SIX) {
                0 => 3.0_f32.sqrt(),
                1 => -3.0_f32.sqrt(),
                _ => 0.0,
            },
        };
        let entries: Vec<f32> = (0..(count * width) as u64).map(entry).collect();
        let directions = Packed::new(entries.chunks_exact(width), width);
        Ok(Self { directions, count, width, simd: Simd::detect() })
    }

    /// The same directions, projected on with the given instruction set: for tests and benchmarks.
    #[must_use]
    pub fn with_simd(self, simd: Simd) -> Self {
        Self { simd, ..self }
    }

    /// The number of directions.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The dot product of every row with every direction, row after row. O(rows * width * count).
    ///
    /// Each product is one chain of fused multiply-adds over the columns: the same bits on every machine, for any
    /// number of threads.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the rows have another width than the directions, [`Error::Interrupted`].
    pub fn project(&self, exec: &Exec, rows: &Matrix<'_>) -> Result<Vec<f32>, Error> {
        self.map_rows(exec, rows, self.count, |products, out: &mut [f32]| out.copy_from_slice(products))
    }

    /// Sign codes: bit `j` of a row's code says whether its product with direction `j` is at least `thresholds[j]`.
    /// Bit `j` stands in bit `j % 64` of word `j / 64`; a row has `count / 64` words, rounded up.
    ///
    /// Charikar, "Similarity estimation techniques from rounding algorithms", STOC 2002, with a threshold for each
    /// direction: see [`Projection::thresholds_at`].
    ///
    /// # Errors
    ///
    /// As [`Projection::project`]; [`Error::InvalidArgument`] when there is not one threshold for each direction.
    ///
    /// ```
    /// use mbflow_core::{Directions, Exec, Matrix, Projection, Seed};
    ///
    /// let projection = Projection::new(Directions::Gaussian, 8, 2, Seed(1))?;
    /// let rows = Matrix::new(&[1.0, 2.0, -1.0, -2.0], 2, 2)?;
    /// let codes = projection.sign_codes(&Exec::serial(), &rows, &[0.0; 8])?;
    /// assert_eq!(codes[0] ^ codes[1], 0xff); // opposite rows differ in every bit
    /// # Ok::<(), mbflow_core::Error>(())
    /// ```
    pub fn sign_codes(&self, exec: &Exec, rows: &Matrix<'_>, thresholds: &[f32]) -> Result<Vec<u64>, Error> {
        if thresholds.len() != self.count {
            let message =
                format!("expected one for each of {} directions, got {}", self.count, thresholds.len());
            return Err(Error::argument("thresholds", message));
        }
        self.map_rows(exec, rows, self.count.div_ceil(64), |products, out: &mut [u64]| {
            let parts = products.chunks(64).zip(thresholds.chunks(64));
            for (word, (products, thresholds)) in out.iter_mut().zip(parts) {
                let bits = products.iter().zip(thresholds).map(|(product, threshold)| product >= threshold);
                *word = bits.enumerate().fold(0, |word, (bit, is_set)| word | u64::from(is_set) << bit);
            }
        })
    }

    /// The thresholds that put the hyperplanes of sign codes through `point`; through the mean row, they split the
    /// data wherever it lies.
    ///
    /// # Errors
    ///
    /// As [`Projection::project`].
    pub fn thresholds_at(&self, point: &[f32]) -> Result<Vec<f32>, Error> {
        self.project(&Exec::serial(), &Matrix::new(point, 1, point.len())?)
    }

    /// p-stable codes: `floor((product + offset_j) / bucket_width)`, the offsets uniform on `[0, bucket_width)`, drawn
    /// from stream [`stream::OFFSET`]. Codes beyond 32 bits saturate.
    ///
    /// Datar, Immorlica, Indyk, Mirrokni, "Locality-sensitive hashing scheme based on p-stable distributions",
    /// SCG 2004.
    ///
    /// # Errors
    ///
    /// As [`Projection::project`]; [`Error::InvalidArgument`] when the width is not finite and positive.
    ///
    /// ```
    /// use mbflow_core::{Directions, Exec, Matrix, Projection, Seed};
    ///
    /// let projection = Projection::new(Directions::Gaussian, 3, 2, Seed(1))?;
    /// let rows = Matrix::new(&[1.0, 2.0, 1.0, 2.0], 2, 2)?;
    /// let codes = projection.p_stable_codes(&Exec::serial(), &rows, 0.5, Seed(1))?;
    /// assert_eq!(codes[..3], codes[3..]);
    /// # Ok::<(), mbflow_core::Error>(())
    /// ```
    pub fn p_stable_codes(
        &self,
        exec: &Exec,
        rows: &Matrix<'_>,
        bucket_width: f32,
        seed: Seed,
    ) -> Result<Vec<i32>, Error> {
        if !(bucket_width.is_finite() && bucket_width > 0.0) {
            let message = format!("expected a finite, positive number, got {bucket_width}");
            return Err(Error::argument("width", message));
        }
        let offset = |index| {
            let uniform = (seed.u64_at(stream::OFFSET, index) >> 40) as f32 / (1_u32 << 24) as f32;
            uniform * bucket_width
        };
        let offsets: Vec<f32> = (0..self.count as u64).map(offset).collect();
        self.map_rows(exec, rows, self.count, |products, out: &mut [i32]| {
            for (code, (product, offset)) in out.iter_mut().zip(products.iter().zip(&offsets)) {
                *code = ((product + offset) / bucket_width).floor() as i32;
            }
        })
    }

    /// Hands the products of each row to `finish`, which fills the row's `size` outputs.
    fn map_rows<T: Default + Clone + Send>(
        &self,
        exec: &Exec,
        rows: &Matrix<'_>,
        size: usize,
        finish: impl Fn(&[f32], &mut [T]) + Sync,
    ) -> Result<Vec<T>, Error> {
        if rows.width() != self.width {
            let message =
                format!("expected {} columns as the directions have, got {}", self.width, rows.width());
            return Err(Error::argument("features", message));
        }
        let mut out = vec![T::default(); rows.rows() * size];
        let blocks: Vec<_> = rows.blocks(BLOCK).zip(out.chunks_mut(BLOCK * size)).collect();
        exec.run(blocks, |(values, out)| {
            let padded = self.count.next_multiple_of(LANES);
            let mut queries = Queries::new(self.width);
            let mut products = vec![0.0; QUERIES * padded];
            for (rows, out) in values.chunks(QUERIES * self.width).zip(out.chunks_mut(QUERIES * size)) {
                for (query, row) in rows.chunks_exact(self.width).enumerate() {
                    queries.set(query, row);
                }
                self.simd.project(queries.values(), self.directions.values(), self.width, &mut products);
                for (out, products) in out.chunks_exact_mut(size).zip(products.chunks_exact(padded)) {
                    finish(&products[..self.count], out);
                }
            }
        })?;
        Ok(out)
    }
}
