//! Rows laid out for the inner loops: column by column within groups.

use crate::simd::{LANES, QUERIES};

/// Rows in groups of sixteen, each group column by column, the last one padded with NaN.
///
/// NaN is within no limit, so padding never turns up as a neighbour.
#[derive(Debug)]
pub(crate) struct Packed {
    values: Vec<f32>,
    rows: usize,
    width: usize,
}

impl Packed {
    /// Packs rows of `width` values each.
    pub(crate) fn new<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>, width: usize) -> Self {
        let count = rows.len();
        let mut values = vec![f32::NAN; count.next_multiple_of(LANES) * width];
        let mut rows = rows;
        let mut lanes: Vec<&[f32]> = Vec::with_capacity(LANES);
        for group in values.chunks_exact_mut(LANES * width) {
            lanes.clear();
            lanes.extend(rows.by_ref().take(LANES));
            // Column by column: rows lie anywhere in memory, and so sixteen of them are fetched at once.
            for (column, out) in group.chunks_exact_mut(LANES).enumerate() {
                for (out, row) in out.iter_mut().zip(&lanes) {
                    *out = row[column];
                }
            }
        }
        Self { values, rows: count, width }
    }

    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Copies row `index` to `out`.
    pub(crate) fn copy_row(&self, index: usize, out: &mut [f32]) {
        let group = &self.values[index / LANES * LANES * self.width..][..LANES * self.width];
        for (column, value) in out.iter_mut().enumerate() {
            *value = group[column * LANES + index % LANES];
        }
    }
}

/// Up to eight rows, column by column: what the inner loops take as queries.
#[derive(Debug)]
pub(crate) struct Queries {
    values: Vec<f32>,
}

impl Queries {
    pub(crate) fn new(width: usize) -> Self {
        Self { values: vec![0.0; QUERIES * width] }
    }

    pub(crate) fn set(&mut self, query: usize, row: &[f32]) {
        for (column, &value) in row.iter().enumerate() {
            self.values[column * QUERIES + query] = value;
        }
    }

    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }
}
