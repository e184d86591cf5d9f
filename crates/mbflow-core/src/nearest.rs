//! The nearest of a set of rows, by comparing with all of them.

use crate::packed::{Packed, Queries};
use crate::simd::{Gap, QUERIES};
use crate::{Error, Exec, Matrix, Simd};

/// Queries answered by one thread at a time.
const BLOCK: usize = 256;
/// Rows that queries are compared with before the next queries are: few enough for a core's cache.
const TILE_VALUES: usize = 1 << 15;

/// For every query the nearest row of `rows`, the lowest of equals, and the Euclidean distance to it.
///
/// O(queries * rows * width) time. The same bits for any number of threads and any instruction set.
///
/// # Errors
///
/// [`Error::InvalidArgument`] when the widths differ, [`Error::BadValue`] for NaN, infinite or overflowing features (of
/// the rows, then of the queries), [`Error::Interrupted`].
///
/// ```
/// use mbflow_core::{Exec, Matrix, Simd, nearest_rows};
///
/// let (rows, queries) = ([0.0, 4.0, 9.0], [2.0, 8.0]);
/// let (rows, queries) = (Matrix::new(&rows, 3, 1)?, Matrix::new(&queries, 2, 1)?);
/// let (nearest, distances) = nearest_rows(&Exec::serial(), &rows, &queries, Simd::detect())?;
/// assert_eq!((nearest, distances), (vec![0, 2], vec![2.0, 1.0]));
/// # Ok::<(), mbflow_core::Error>(())
/// ```
pub fn nearest_rows(
    exec: &Exec,
    rows: &Matrix<'_>,
    queries: &Matrix<'_>,
    simd: Simd,
) -> Result<(Vec<i64>, Vec<f32>), Error> {
    let width = rows.width();
    if queries.width() != width {
        let message = format!("expected {width} columns, as the rows have, got {}", queries.width());
        return Err(Error::argument("queries", message));
    }
    rows.check_values(exec)?;
    queries.check_values(exec)?;
    let tile = (TILE_VALUES / width).max(1).next_multiple_of(16);
    let tiles = exec.map((0..rows.rows()).step_by(tile).collect(), |first: usize| {
        Packed::new((first..(first + tile).min(rows.rows())).map(|row| rows.row(row)), width)
    })?;
    let blocks = exec.map((0..queries.rows()).step_by(BLOCK).collect(), |first: usize| {
        let count = BLOCK.min(queries.rows() - first);
        let mut best = vec![(f32::INFINITY, 0_usize); count];
        let mut packed = Queries::new(width);
        for (number, part) in tiles.iter().enumerate() {
            for group in (0..count).step_by(QUERIES) {
                let in_group = QUERIES.min(count - group);
                let mut limits = [-1.0; QUERIES];
                for offset in 0..in_group {
                    packed.set(offset, queries.row(first + group + offset));
                    limits[offset] = best[group + offset].0;
                }
                simd.scan(
                    Gap::Square,
                    packed.values(),
                    part.values(),
                    width,
                    &mut limits,
                    |query, row, distance| {
                        let best = &mut best[group + query];
                        // Rows come in ascending order, so the first of equals stays.
                        if distance < best.0 {
                            *best = (distance, number * tile + row);
                        }
                        best.0
                    },
                );
            }
        }
        best
    })?;
    Ok(blocks.into_iter().flatten().map(|(distance, row)| (row as i64, distance.sqrt())).unzip())
}
