//! The one shape: rows of different lengths, as offsets into values.

use crate::Error;

/// A view of rows of different lengths: row `i` is `values[offsets[i]..offsets[i + 1]]`.
///
/// A batch plan, a packing plan, buckets and a graph are all of this shape. Checked once, on entry; O(rows).
///
/// ```
/// use mbflow_core::Ragged;
///
/// let rows = Ragged::new(&[0, 2, 2, 5], &['a', 'b', 'c', 'd', 'e'])?;
/// assert_eq!(rows.len(), 3);
/// assert_eq!(rows.row(2), ['c', 'd', 'e']);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ragged<'a, T> {
    offsets: &'a [i64],
    values: &'a [T],
}

impl<'a, T> Ragged<'a, T> {
    /// Checks that `offsets` start at 0, never decrease and end at the number of values.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] naming the first offset that is wrong.
    ///
    /// ```
    /// assert!(mbflow_core::Ragged::new(&[0, 3, 1], &[1, 2, 3]).is_err());
    /// ```
    pub fn new(offsets: &'a [i64], values: &'a [T]) -> Result<Self, Error> {
        let (Some(&first), Some(&last)) = (offsets.first(), offsets.last()) else {
            return Err(Error::argument("offsets", "expected at least one offset, got none"));
        };
        if first != 0 {
            return Err(Error::argument("offsets", format!("expected to start at 0, got {first}")));
        }
        if let Some(row) = offsets.windows(2).position(|pair| pair[0] > pair[1]) {
            let message = format!("row {row} ends at {} before its start {}", offsets[row + 1], offsets[row]);
            return Err(Error::argument("offsets", message));
        }
        if last != values.len() as i64 {
            let message = format!("expected to end at the number of values, {}, got {last}", values.len());
            return Err(Error::argument("offsets", message));
        }
        Ok(Self { offsets, values })
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Row `index`; panics when there is no such row.
    #[inline]
    pub fn row(&self, index: usize) -> &'a [T] {
        &self.values[self.offsets[index] as usize..self.offsets[index + 1] as usize]
    }

    /// The rows in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [T]> + '_ {
        (0..self.len()).map(|index| self.row(index))
    }

    /// Where each row starts, and where the last one ends.
    pub fn offsets(&self) -> &'a [i64] {
        self.offsets
    }

    /// The values of all rows, one after the other.
    pub fn values(&self) -> &'a [T] {
        self.values
    }
}

/// Rows of different lengths that own their values; [`RaggedVec::view`] reads them.
///
/// ```
/// let mut rows = mbflow_core::RaggedVec::new();
/// rows.push([1, 2]);
/// rows.push([]);
/// assert_eq!(rows.view().iter().map(<[_]>::len).collect::<Vec<_>>(), [2, 0]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RaggedVec<T> {
    offsets: Vec<i64>,
    values: Vec<T>,
}

impl<T> Default for RaggedVec<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> RaggedVec<T> {
    /// No rows.
    pub fn new() -> Self {
        Self { offsets: vec![0], values: Vec::new() }
    }

    /// No rows yet, with room for that many rows and values.
    pub fn with_capacity(rows: usize, values: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Self { offsets, values: Vec::with_capacity(values) }
    }

    /// Rows of one length each: `values` cut into pieces of `length`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the number of values is not `rows * length`.
    pub fn uniform(rows: usize, length: usize, values: Vec<T>) -> Result<Self, Error> {
        if Some(values.len()) != rows.checked_mul(length) {
            let message = format!("expected {rows} x {length} values, got {}", values.len());
            return Err(Error::argument("values", message));
        }
        Ok(Self { offsets: (0..=rows).map(|row| (row * length) as i64).collect(), values })
    }

    /// Rows as offsets and values, checked as [`Ragged::new`] does.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] naming the first offset that is wrong.
    ///
    /// ```
    /// let rows = mbflow_core::RaggedVec::from_parts(vec![0, 2, 3], vec!['a', 'b', 'c'])?;
    /// assert_eq!(rows.view().row(0), ['a', 'b']);
    /// # Ok::<(), mbflow_core::Error>(())
    /// ```
    pub fn from_parts(offsets: Vec<i64>, values: Vec<T>) -> Result<Self, Error> {
        Ragged::new(&offsets, &values)?;
        Ok(Self { offsets, values })
    }

    /// Appends one row.
    pub fn push(&mut self, row: impl IntoIterator<Item = T>) {
        self.values.extend(row);
        self.offsets.push(self.values.len() as i64);
    }

    /// The rows, for reading.
    pub fn view(&self) -> Ragged<'_, T> {
        Ragged { offsets: &self.offsets, values: &self.values }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Offsets and values, to hand on without copying.
    pub fn into_parts(self) -> (Vec<i64>, Vec<T>) {
        (self.offsets, self.values)
    }
}
