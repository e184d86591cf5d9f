//! Tables, ids, and the loop over rows.

use std::fmt::Display;

use super::decode::Decode;
use crate::simd::{Loops, prefetch};
use crate::{Error, Exec, Simd};

/// Bytes of the rows that are asked for ahead of the one that is copied, and how many rows that is at least and at most.
/// At rows of 64 bytes 16 are better than 4; at 400 to 2408 bytes 2, 4 and 8 were the same within noise.
const AHEAD_BYTES: usize = 2048;
const LEAST_AHEAD: usize = 4;
const MOST_AHEAD: usize = 16;
/// How far ahead a row of many lines is touched, for its page to be looked up: at 1412 and 2408 bytes that is 10 to 20 %.
/// To shorter rows it does nothing, and to rows of one line harm.
const TOUCH_AHEAD: usize = 32;
const TOUCH_FROM: usize = 1024;
/// Bytes of output that are one piece of work.
const PIECE: usize = 1 << 18;
/// Ids that are checked as one piece of work.
const CHECKED: usize = 1 << 16;

/// Rows of one width in bytes, one after the other.
///
/// ```
/// let table = mbflow_core::RowTable::new(&[1, 2, 3, 4, 5, 6], 2, 3)?;
/// assert_eq!((table.rows(), table.row_bytes()), (2, 3));
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct RowTable<'a> {
    bytes: &'a [u8],
    rows: usize,
    row_bytes: usize,
}

impl<'a> RowTable<'a> {
    /// A table of so many rows of so many bytes, of which either may be 0.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] where there are more or fewer bytes.
    ///
    /// ```
    /// let error = mbflow_core::RowTable::new(&[0; 5], 2, 3).unwrap_err();
    /// assert_eq!(error.to_string(), "table: expected 2 rows of 3 bytes, got 5 bytes");
    /// ```
    pub fn new(bytes: &'a [u8], rows: usize, row_bytes: usize) -> Result<Self, Error> {
        if rows.checked_mul(row_bytes) != Some(bytes.len()) {
            let message = format!("expected {rows} rows of {row_bytes} bytes, got {} bytes", bytes.len());
            return Err(Error::argument("table", message));
        }
        Ok(Self { bytes, rows, row_bytes })
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Where a row starts; anywhere for what is no row.
    #[inline(always)]
    fn start(&self, row: usize) -> usize {
        row.wrapping_mul(self.row_bytes)
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.row_bytes..][..self.row_bytes]
    }
}

/// The rows that are asked for, in any order, as often as each is wanted.
///
/// ```
/// let ids = mbflow_core::RowIds::I32(&[3, 0, 3]);
/// assert_eq!((ids.len(), ids.is_empty()), (3, false));
/// ```
#[derive(Debug, Clone, Copy)]
pub enum RowIds<'a> {
    /// As a stored graph has them.
    U32(&'a [u32]),
    /// As a sample has them.
    U64(&'a [u64]),
    /// Signed; a negative one is no row.
    I32(&'a [i32]),
    /// As NumPy and torch have them; a negative one is no row.
    I64(&'a [i64]),
}

impl RowIds<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::U32(ids) => ids.len(),
            Self::U64(ids) => ids.len(),
            Self::I32(ids) => ids.len(),
            Self::I64(ids) => ids.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A number of a row.
trait Id: Copy + Send + Sync + Display {
    /// The row; for a negative number one that is in no table.
    fn row(self) -> u64;
}

macro_rules! ids {
    ($($kind:ty),*) => {$(
        impl Id for $kind {
            #[inline(always)]
            #[expect(clippy::allow_attributes, reason = "the lint holds for some of the types only")]
            #[allow(clippy::cast_lossless, reason = "one expression for all types; a sign is extended")]
            fn row(self) -> u64 {
                self as u64
            }
        }
    )*};
}
ids!(u32, u64, i32, i64);

/// Gathers rows of a table of which each holds whole values.
pub(super) fn gather<D: Decode>(
    simd: Simd,
    exec: &Exec,
    table: RowTable<'_>,
    decoder: D,
    ids: RowIds<'_>,
    out: &mut [D::Value],
) -> Result<(), Error> {
    let columns = table.row_bytes / D::BYTES;
    if ids.len().checked_mul(columns) != Some(out.len()) {
        let message = format!("expected {} rows of {columns} values, got {} values", ids.len(), out.len());
        return Err(Error::argument("out", message));
    }
    match ids {
        RowIds::U32(ids) => gather_ids(simd, exec, table, decoder, ids, out),
        RowIds::U64(ids) => gather_ids(simd, exec, table, decoder, ids, out),
        RowIds::I32(ids) => gather_ids(simd, exec, table, decoder, ids, out),
        RowIds::I64(ids) => gather_ids(simd, exec, table, decoder, ids, out),
    }
}

fn gather_ids<I: Id, D: Decode>(
    simd: Simd,
    exec: &Exec,
    table: RowTable<'_>,
    decoder: D,
    ids: &[I],
    out: &mut [D::Value],
) -> Result<(), Error> {
    check(exec, ids, table.rows)?;
    if out.is_empty() {
        return Ok(());
    }
    let columns = table.row_bytes / D::BYTES;
    let rows = (PIECE / (columns * size_of::<D::Value>())).max(1);
    let pieces = out.chunks_mut(rows * columns).enumerate();
    let pieces =
        pieces.map(|(piece, out)| Piece { table, decoder, ids: &ids[piece * rows..], out }).collect();
    exec.run(pieces, |piece: Piece<'_, I, D>| simd.run(piece))
}

/// Whether all are rows; else the error names the first that is not.
fn check<I: Id>(exec: &Exec, ids: &[I], rows: usize) -> Result<(), Error> {
    let is_row = |id: &I| id.row() < rows as u64;
    // Looks at every id, since a loop that may end at any of them does one at a time.
    let whole = exec.map(ids.chunks(CHECKED).collect(), |ids: &[I]| {
        ids.iter().fold(true, |whole, id| whole & is_row(id))
    })?;
    let Some(bad) = whole.iter().position(|whole| !whole) else { return Ok(()) };
    let place = ids[bad * CHECKED..].iter().position(|id| !is_row(id)).unwrap_or(0) + bad * CHECKED;
    let expected = match rows {
        0 => "the table has no rows".to_owned(),
        1 => "expected 0 (the table has 1 row)".to_owned(),
        _ => format!("expected 0 to {} (the table has {rows} rows)", rows - 1),
    };
    Err(Error::argument("ids", format!("ids[{place}] is {}; {expected}", ids[place])))
}

/// Some rows of the output, and the ids from the first of them to the last of all.
struct Piece<'a, I, D: Decode> {
    table: RowTable<'a>,
    decoder: D,
    ids: &'a [I],
    out: &'a mut [D::Value],
}

impl<I: Id, D: Decode> Loops for Piece<'_, I, D> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { table, decoder, ids, out } = self;
        let row_bytes = table.row_bytes;
        let ahead = (AHEAD_BYTES / row_bytes).clamp(LEAST_AHEAD, MOST_AHEAD);
        // The last id stands for those after it: asking for a line twice costs less than asking whether there is one.
        let last = ids.len() - 1;
        for (at, out) in out.chunks_exact_mut(row_bytes / D::BYTES).enumerate() {
            if row_bytes >= TOUCH_FROM {
                prefetch(table.bytes, table.start(ids[last.min(at + TOUCH_AHEAD)].row() as usize));
            }
            let next = ids[last.min(at + ahead)].row() as usize;
            decoder.ask(next);
            let next = table.start(next);
            let row = ids[at].row() as usize;
            decoder.of_row(row).decode(table.row(row), out, |place| prefetch(table.bytes, next + place));
        }
    }
}
