//! How the rows that attention gathers are laid out, and the products with the weights that make them.

use super::Real;
use crate::simd::{Loops, Simd};
use crate::{Error, Exec};

/// Numbers of a row that inner loops take together: one cache line of float32.
pub(super) const LANES: usize = 16;
/// Heads are padded to a multiple of this.
const STEP: usize = 8;
/// Rows whose sums are kept in registers at once.
pub(super) const TILE: usize = 4;
/// Rows that one task projects.
const PIECE: usize = 1024;

/// The layout of a row: all that one edge needs of its source lies side by side, in whole cache lines.
///
/// Head `h` has its `width` values from column `h * padded` on; from column `logits` on stand what the row adds to the
/// logits of each head as a source, and then what it adds as a target. A row is `stride` long. What pads a row is 0.
///
/// ```
/// use mbflow_core::HeadRows;
///
/// let rows = HeadRows::new(4, 16)?;
/// assert_eq!((rows.padded(), rows.logits(), rows.stride()), (16, 64, 80));
/// let rows = HeadRows::new(1, 10)?; // what pads the last head is used
/// assert_eq!((rows.padded(), rows.logits(), rows.stride()), (16, 10, 16));
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadRows {
    heads: usize,
    width: usize,
}

impl HeadRows {
    /// The layout of so many heads of so many values.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for no or more than 4096 heads, or no or more than 2^20 values.
    pub fn new(heads: usize, width: usize) -> Result<Self, Error> {
        if !(1..=4096).contains(&heads) {
            return Err(Error::argument("heads", format!("expected 1 to 4096, got {heads}")));
        }
        if !(1..=1 << 20).contains(&width) {
            return Err(Error::argument("width", format!("expected 1 to 2^20, got {width}")));
        }
        Ok(Self { heads, width })
    }

    /// Heads.
    pub fn heads(self) -> usize {
        self.heads
    }

    /// Values of a head.
    pub fn width(self) -> usize {
        self.width
    }

    /// Columns from one head to the next.
    pub fn padded(self) -> usize {
        self.width.next_multiple_of(STEP)
    }

    /// The column of the first logit.
    pub fn logits(self) -> usize {
        (self.heads - 1) * self.padded() + self.width
    }

    /// Heads that inner loops take, those beyond the last to no end: lanes are whole numbers of tiles, or tiles of lanes.
    pub(super) fn tile(self) -> usize {
        if self.heads <= LANES { self.heads.next_power_of_two() } else { self.heads.next_multiple_of(LANES) }
    }

    /// The values of a row in blocks of so many columns, of which heads have whole numbers.
    pub(super) fn blocks(self, size: usize) -> Vec<Block> {
        let each = self.padded() / size;
        let block = |place: usize| {
            let (head, first) = (place / each, place % each * size);
            Block { head, column: head * self.width + first, wide: size.min(self.width - first) }
        };
        (0..self.heads * each).map(block).collect()
    }

    /// Values `[heads, width]`, or none, with zeros after each head as in a row.
    pub(super) fn pad<F: Real>(self, values: &[F]) -> Vec<F> {
        let mut padded = vec![F::ZERO; self.heads * self.padded()];
        for (padded, values) in padded.chunks_exact_mut(self.padded()).zip(values.chunks_exact(self.width)) {
            padded[..self.width].copy_from_slice(values);
        }
        padded
    }

    /// Columns of a row.
    pub fn stride(self) -> usize {
        self.with_logits(2)
    }

    /// Columns of what the gradient of a row gathers of each target: three numbers of a head beside its values.
    pub fn gradient_stride(self) -> usize {
        self.with_logits(3)
    }

    fn with_logits(self, numbers: usize) -> usize {
        // The last numbers are read by whole tiles.
        let end = self.logits() + (numbers - 1) * self.heads + self.tile();
        (self.heads * self.padded()).max(end).next_multiple_of(LANES)
    }
}

/// Some columns of a row that belong to one head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub(super) head: usize,
    /// The first, where heads are not padded.
    pub(super) column: usize,
    /// How many are values; the rest pads.
    pub(super) wide: usize,
}

/// Weights by groups of sixteen columns, so that inner loops read them in order.
pub(super) struct Packed<F> {
    /// `[group][row][lane]`.
    values: Vec<F>,
    rows: usize,
    columns: usize,
}

impl<F: Real> Packed<F> {
    /// A matrix of which `at(row, column)` tells the values.
    pub(super) fn new(rows: usize, columns: usize, at: impl Fn(usize, usize) -> F) -> Self {
        let mut values = vec![F::ZERO; columns.div_ceil(LANES) * rows * LANES];
        for (group, part) in values.chunks_exact_mut((rows * LANES).max(1)).enumerate() {
            for (row, lanes) in part.chunks_exact_mut(LANES).enumerate() {
                for (lane, value) in lanes.iter_mut().enumerate() {
                    let column = group * LANES + lane;
                    if column < columns {
                        *value = at(row, column);
                    }
                }
            }
        }
        Self { values, rows, columns }
    }
}

/// Sixteen columns of the product of `TILE` rows, given column by column, with weights.
#[inline(always)]
fn tile<'a, F: Real>(pairs: impl Iterator<Item = (&'a [F; TILE], &'a [F; LANES])>) -> [[F; LANES]; TILE] {
    let mut sums = [[F::ZERO; LANES]; TILE];
    for (values, lanes) in pairs {
        for place in 0..TILE {
            let value = values[place];
            for lane in 0..LANES {
                sums[place][lane] = value.mul_add(lanes[lane], sums[place][lane]);
            }
        }
    }
    sums
}

/// `out = left @ right`: `left` has `right.rows` columns, the first of each `stride`.
#[inline(always)]
pub(super) fn product<F: Real>(left: &[F], stride: usize, right: &Packed<F>, out: &mut [F]) {
    let columns = right.columns;
    let (weights, _) = right.values.as_chunks::<LANES>();
    let mut turned = vec![[F::ZERO; TILE]; right.rows];
    for (left, out) in left.chunks(TILE * stride).zip(out.chunks_mut(TILE * columns)) {
        for (place, row) in left.chunks(stride).enumerate() {
            for (turned, &value) in turned.iter_mut().zip(row) {
                turned[place] = value;
            }
        }
        for (group, weights) in weights.chunks_exact(right.rows.max(1)).enumerate() {
            let sums = tile(turned.iter().zip(weights));
            let first = group * LANES;
            let wide = LANES.min(columns - first);
            for (row, sums) in out.chunks_exact_mut(columns).zip(&sums) {
                if let Some(row) = row[first..].first_chunk_mut::<LANES>() {
                    *row = *sums;
                } else {
                    row[first..].copy_from_slice(&sums[..wide]);
                }
            }
        }
    }
}

/// `sums += left^T @ right`: both have a row for each of some nodes; `right` has rows of whole groups of lanes.
///
/// `last` is for its own use.
#[inline(always)]
pub(super) fn add_products<F: Real>(
    left: &[F],
    columns: usize,
    right: &[F],
    stride: usize,
    last: &mut Vec<[F; TILE]>,
    sums: &mut [F],
) {
    let whole = columns - columns % TILE;
    last.clear();
    for row in left.chunks_exact(columns) {
        let mut values = [F::ZERO; TILE];
        for (to, &value) in values.iter_mut().zip(&row[whole..]) {
            *to = value;
        }
        last.push(values);
    }
    for first in (0..stride).step_by(LANES) {
        let lanes = || right[first..].chunks(stride).map_while(|row| row.first_chunk::<LANES>());
        for column in (0..whole).step_by(TILE) {
            let values = left[column..].chunks(columns).map_while(|row| row.first_chunk::<TILE>());
            let tile = tile(values.zip(lanes()));
            add_tile(&tile, &mut sums[column * stride + first..], stride);
        }
        if whole < columns {
            let tile = tile(last.iter().zip(lanes()));
            add_tile(&tile, &mut sums[whole * stride + first..], stride);
        }
    }
}

/// Adds sums to rows, as far as there are any.
#[inline(always)]
fn add_tile<F: Real>(tile: &[[F; LANES]; TILE], rows: &mut [F], stride: usize) {
    for (row, tile) in rows.chunks_mut(stride).zip(tile) {
        if let Some(row) = row.first_chunk_mut::<LANES>() {
            for lane in 0..LANES {
                row[lane] = row[lane] + tile[lane];
            }
        }
    }
}

struct Project<'a, F> {
    left: &'a [F],
    right: &'a Packed<F>,
    out: &'a mut [F],
}

impl<F: Real> Loops for Project<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        product(self.left, self.right.rows, self.right, self.out);
    }
}

/// Features times weights: `out [rows, columns] = features [rows, width] @ weights [width, columns]`.
///
/// Each number is one chain of fused multiply-adds in the order of the columns, whatever the number of threads.
/// O(rows * width * columns).
///
/// # Errors
///
/// [`Error::InvalidArgument`] where lengths do not fit; [`Error::Interrupted`] when the caller asks to stop.
///
/// ```
/// use mbflow_core::{Exec, project};
///
/// let mut out = [0.0; 2];
/// project(&Exec::serial(), &[1.0, 2.0, 3.0, 4.0], &[10.0, 1.0], 1, &mut out)?;
/// assert_eq!(out, [12.0, 34.0]);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
pub fn project<F: Real>(
    exec: &Exec,
    features: &[F],
    weights: &[F],
    columns: usize,
    out: &mut [F],
) -> Result<(), Error> {
    if columns == 0 || !weights.len().is_multiple_of(columns) || weights.is_empty() {
        let message = format!("expected whole rows of {columns}, got {} numbers", weights.len());
        return Err(Error::argument("weights", message));
    }
    let width = weights.len() / columns;
    let rows = out.len() / columns;
    if out.len() != rows * columns || features.len() != rows * width {
        let message = format!("expected {rows} rows of {width}, got {} numbers", features.len());
        return Err(Error::argument("features", message));
    }
    let packed = Packed::new(width, columns, |row, column| weights[row * columns + column]);
    let simd = Simd::detect();
    let parts = features.chunks(PIECE * width).zip(out.chunks_mut(PIECE * columns)).collect();
    exec.run(parts, |(left, out)| simd.run(Project { left, right: &packed, out }))
}

#[cfg(test)]
mod tests {
    use super::{HeadRows, LANES, Packed, add_products, product, project};
    use crate::{Exec, Seed, Simd};

    #[test]
    fn layouts_hold_all_that_they_must() {
        for heads in 1..20 {
            for width in 1..40 {
                let rows = HeadRows::new(heads, width).expect("in range");
                assert!(rows.padded() >= width && rows.padded().is_multiple_of(8));
                assert!(rows.logits() >= (heads - 1) * rows.padded() + width);
                assert!(rows.stride() >= (heads * rows.padded()).max(rows.logits() + 2 * heads));
                assert!(rows.gradient_stride() >= rows.logits() + 3 * heads);
                assert!(rows.stride().is_multiple_of(LANES) && rows.gradient_stride().is_multiple_of(LANES));
            }
        }
        assert!(HeadRows::new(0, 1).is_err() && HeadRows::new(1, 0).is_err());
    }

    #[test]
    fn products_are_those_of_plain_loops() {
        for (rows, width, columns) in [(1, 1, 1), (5, 3, 16), (9, 17, 35), (2100, 4, 48)] {
            let mut numbers = vec![0.0_f32; rows * width + width * columns];
            Seed(3).fill_normal(&Exec::serial(), 9, 0, &mut numbers).expect("not interrupted");
            let (left, right) = numbers.split_at(rows * width);
            let mut out = vec![f32::NAN; rows * columns];
            project(&Exec::with_threads(2).expect("threads"), left, right, columns, &mut out).expect("fits");
            let packed = Packed::new(width, columns, |row, column| right[row * columns + column]);
            let mut plain = vec![f32::NAN; rows * columns];
            product(left, width, &packed, &mut plain);
            assert_eq!(out, plain, "{}", Simd::detect().name());
            for row in 0..rows {
                for column in 0..columns {
                    let sum = (0..width).fold(0.0_f32, |sum, at| {
                        left[row * width + at].mul_add(right[at * columns + column], sum)
                    });
                    assert_eq!(sum, out[row * columns + column]);
                }
            }
            if columns.is_multiple_of(LANES) {
                let mut sums = vec![1.0_f32; width * columns];
                add_products(left, width, &out, columns, &mut Vec::new(), &mut sums);
                for at in 0..width {
                    for column in 0..columns {
                        let sum = (0..rows).fold(0.0_f32, |sum, row| {
                            left[row * width + at].mul_add(out[row * columns + column], sum)
                        });
                        assert_eq!(sums[at * columns + column], 1.0 + sum);
                    }
                }
            }
        }
        assert!(project(&Exec::serial(), &[1.0; 3], &[1.0; 2], 1, &mut [0.0; 2]).is_err());
        assert!(project::<f32>(&Exec::serial(), &[], &[], 1, &mut []).is_err());
    }
}
