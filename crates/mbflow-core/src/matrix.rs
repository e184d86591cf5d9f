//! A view of numbers in rows of one width, and the checks that kernels rely on.

use crate::{Error, Exec};

/// Rows checked or summed by one thread at a time. Fixed, so that sums do not depend on the number of threads.
const BLOCK: usize = 4096;

/// A view of `rows` rows of `width` numbers each, row after row.
///
/// ```
/// let matrix = mbflow_core::Matrix::new(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3)?;
/// assert_eq!(matrix.row(1), [4.0, 5.0, 6.0]);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    width: usize,
}

impl<'a> Matrix<'a> {
    /// Checks that there is at least one row and one column, fewer than 2^31 rows, and `rows * width` values.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] naming what was expected.
    pub fn new(values: &'a [f32], rows: usize, width: usize) -> Result<Self, Error> {
        if rows == 0 || width == 0 {
            let message = format!("expected at least one row and one column, got {rows} x {width}");
            return Err(Error::argument("features", message));
        }
        if rows > i32::MAX as usize {
            return Err(Error::argument("features", format!("expected fewer than 2^31 rows, got {rows}")));
        }
        match rows.checked_mul(width) {
            Some(expected) if expected == values.len() => Ok(Self { values, rows, width }),
            Some(expected) => {
                let message = format!("expected {rows} x {width} = {expected} values, got {}", values.len());
                Err(Error::argument("features", message))
            }
            None => Err(Error::argument("features", format!("{rows} x {width} values cannot be addressed"))),
        }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Row `index`; panics when there is no such row.
    #[inline]
    pub fn row(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.width..][..self.width]
    }

    /// All values, row after row.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// The rows in blocks of at most `rows` rows each.
    pub(crate) fn blocks(&self, rows: usize) -> std::slice::Chunks<'a, f32> {
        self.values.chunks(rows * self.width)
    }

    /// Checks that every value is finite and that no squared distance between two rows can overflow.
    ///
    /// # Errors
    ///
    /// [`Error::BadValue`] with the first row, and its first column, that is wrong; [`Error::Interrupted`].
    ///
    /// ```
    /// use mbflow_core::{Error, Exec, Matrix};
    ///
    /// let values = [0.0, 1.0, f32::NAN, 2.0];
    /// let error = Matrix::new(&values, 2, 2)?.check_values(&Exec::serial()).unwrap_err();
    /// assert!(matches!(error, Error::BadValue { row: 1, column: 0, .. }));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn check_values(&self, exec: &Exec) -> Result<(), Error> {
        // (2 limit)^2 * width <= MAX / 2, which leaves room for rounding.
        let limit = ((f64::from(f32::MAX) / (8.0 * self.width as f64)).sqrt()) as f32;
        let blocks: Vec<_> = self.blocks(BLOCK).enumerate().collect();
        let found = exec.map(blocks, |(block, values)| {
            let is_usable = |value: &f32| value.abs() <= limit; // false for NaN
            // The whole block in one pass that vectorises; the position only when something was found.
            let all = values.iter().fold(true, |all, value| all & is_usable(value));
            let offset = if all { None } else { values.iter().position(|value| !is_usable(value)) };
            offset.map(|offset| block * BLOCK * self.width + offset)
        })?;
        let Some(position) = found.into_iter().flatten().next() else { return Ok(()) };
        let value = self.values[position];
        let reason = if value.is_finite() {
            "is so large that squared distances overflow float32; scale the columns first"
        } else {
            "is not a finite number; impute or drop such rows first"
        };
        Err(Error::BadValue { row: position / self.width, column: position % self.width, value, reason })
    }

    /// The mean of every column, summed in float64 over blocks in order: the same for any number of threads.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the caller asks to stop.
    ///
    /// ```
    /// use mbflow_core::{Exec, Matrix};
    ///
    /// let matrix = Matrix::new(&[0.0, 1.0, 4.0, 3.0], 2, 2)?;
    /// assert_eq!(matrix.column_means(&Exec::serial())?, [2.0, 2.0]);
    /// # Ok::<(), mbflow_core::Error>(())
    /// ```
    pub fn column_means(&self, exec: &Exec) -> Result<Vec<f32>, Error> {
        let sums = self.column_sums(exec, |sum, value, _| *sum += f64::from(value))?;
        Ok(sums.into_iter().map(|sum| (sum / self.rows as f64) as f32).collect())
    }

    /// The sum over columns of their variances: the mean squared distance of a row from the mean row.
    pub(crate) fn total_variance(&self, exec: &Exec, means: &[f32]) -> Result<f64, Error> {
        let squares = self.column_sums(exec, |sum, value, column| {
            let difference = f64::from(value) - f64::from(means[column]);
            *sum += difference * difference;
        })?;
        Ok(squares.into_iter().sum::<f64>() / self.rows as f64)
    }

    fn column_sums(&self, exec: &Exec, add: impl Fn(&mut f64, f32, usize) + Sync) -> Result<Vec<f64>, Error> {
        let partial = exec.map(self.blocks(BLOCK).collect(), |block| {
            let mut sums = vec![0.0_f64; self.width];
            for row in block.chunks_exact(self.width) {
                for (column, (sum, &value)) in sums.iter_mut().zip(row).enumerate() {
                    add(sum, value, column);
                }
            }
            sums
        })?;
        let mut total = vec![0.0; self.width];
        for sums in partial {
            for (sum, part) in total.iter_mut().zip(sums) {
                *sum += part;
            }
        }
        Ok(total)
    }
}
