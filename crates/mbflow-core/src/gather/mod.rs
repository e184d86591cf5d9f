//! Rows of a table in the order of ids: `out[i] = table[ids[i]]`, as they are stored or converted to float32.
//!
//! What a gather waits for is memory: a row lies anywhere in a table that no cache holds. So the lines of the rows to
//! come are asked for while a row is copied, one line asked for with each line copied, and the rows after those are
//! touched once, for their pages to be looked up in time.

#![expect(
    clippy::inline_always,
    reason = "must be compiled inside each caller, for the caller's instruction set"
)]

mod decode;
mod rows;
#[cfg(test)]
mod tests;

use crate::{Error, Exec, Simd};
use decode::{BFloat16, Float16, Int8, Stored};
use rows::gather;
pub use rows::{RowIds, RowTable};

/// How the values of a table are stored that is gathered as float32.
///
/// ```
/// use mbflow_core::RowEncoding;
///
/// let scales = [0.5, 2.0];
/// assert_eq!((RowEncoding::Float16.bytes(), RowEncoding::Int8 { scales: &scales }.bytes()), (2, 1));
/// ```
#[derive(Debug, Clone, Copy)]
pub enum RowEncoding<'a> {
    /// IEEE 754 binary16.
    Float16,
    /// The upper half of a float32.
    BFloat16,
    /// A whole number from -128 to 127, times the scale of its row.
    Int8 {
        /// A scale for each row of the table.
        scales: &'a [f32],
    },
}

impl RowEncoding<'_> {
    /// Bytes of a stored value.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Float16 | Self::BFloat16 => 2,
            Self::Int8 { .. } => 1,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Float16 => "float16",
            Self::BFloat16 => "bfloat16",
            Self::Int8 { .. } => "int8",
        }
    }
}

/// Copies rows: `out[i] = table[ids[i]]`. O(bytes copied); all ids are looked at before anything is written.
///
/// # Errors
///
/// [`Error::InvalidArgument`] where an id is no row, named with its position, or `out` is not of as many rows as there
/// are ids; `out` is as it was. [`Error::Interrupted`] when the caller asked to stop; some rows may have been copied.
///
/// ```
/// use mbflow_core::{Exec, RowIds, RowTable, gather_rows};
///
/// let table = RowTable::new(b"redtanfox", 3, 3)?;
/// let mut out = [0; 6];
/// gather_rows(&Exec::serial(), table, RowIds::I64(&[2, 0]), &mut out)?;
/// assert_eq!(&out, b"foxred");
///
/// let error = gather_rows(&Exec::serial(), table, RowIds::I64(&[2, 3]), &mut out).unwrap_err();
/// assert_eq!(error.to_string(), "ids: ids[1] is 3; expected 0 to 2 (the table has 3 rows)");
/// # Ok::<(), mbflow_core::Error>(())
/// ```
pub fn gather_rows(exec: &Exec, table: RowTable<'_>, ids: RowIds<'_>, out: &mut [u8]) -> Result<(), Error> {
    gather_rows_by(Simd::detect(), exec, table, ids, out)
}

fn gather_rows_by(
    simd: Simd,
    exec: &Exec,
    table: RowTable<'_>,
    ids: RowIds<'_>,
    out: &mut [u8],
) -> Result<(), Error> {
    gather(simd, exec, table, Stored, ids, out)
}

/// Gathers rows as float32: `out[i] = float32(table[ids[i]])`, exactly; see [`gather_rows`].
///
/// Every value but an int8 times its scale, which is rounded once, is the stored one; a NaN keeps its payload.
///
/// # Errors
///
/// As [`gather_rows`]; and where rows do not hold whole values, or there is not one scale for each row.
///
/// ```
/// use mbflow_core::{Exec, RowEncoding, RowIds, RowTable, gather_f32};
///
/// let table = RowTable::new(&[1, 255, 2, 254], 2, 2)?;
/// let encoding = RowEncoding::Int8 { scales: &[0.5, 10.0] };
/// let mut out = [0.0; 4];
/// gather_f32(&Exec::serial(), table, encoding, RowIds::U32(&[1, 0]), &mut out)?;
/// assert_eq!(out, [20.0, -20.0, 0.5, -0.5]);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
pub fn gather_f32(
    exec: &Exec,
    table: RowTable<'_>,
    encoding: RowEncoding<'_>,
    ids: RowIds<'_>,
    out: &mut [f32],
) -> Result<(), Error> {
    gather_f32_by(Simd::detect(), exec, table, encoding, ids, out)
}

fn gather_f32_by(
    simd: Simd,
    exec: &Exec,
    table: RowTable<'_>,
    encoding: RowEncoding<'_>,
    ids: RowIds<'_>,
    out: &mut [f32],
) -> Result<(), Error> {
    let (width, bytes) = (table.row_bytes(), encoding.bytes());
    if !width.is_multiple_of(bytes) {
        let message = format!("expected rows of whole {} values of {bytes} bytes", encoding.name());
        return Err(Error::argument("table", format!("{message}, got rows of {width} bytes")));
    }
    match encoding {
        RowEncoding::Float16 => gather(simd, exec, table, Float16, ids, out),
        RowEncoding::BFloat16 => gather(simd, exec, table, BFloat16, ids, out),
        RowEncoding::Int8 { scales } => {
            if scales.len() != table.rows() {
                let message = format!("expected one for each of {} rows, got {}", table.rows(), scales.len());
                return Err(Error::argument("scales", message));
            }
            gather(simd, exec, table, Int8::new(scales), ids, out)
        }
    }
}
