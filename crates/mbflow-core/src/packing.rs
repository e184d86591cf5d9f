//! Packing: items into rows of one capacity, none of them split.

use std::collections::BTreeSet;

use crate::{Error, Exec, RaggedVec};

/// Between this many items the caller is asked whether to go on.
const BLOCK: usize = 1 << 16;

/// Which of the rows that still have room takes an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// The first.
    First,
    /// The one that it leaves the least room in; of several, the first.
    Best,
}

/// Packs items into as few rows of `capacity` as first-fit or best-fit decreasing find: row `i` of the result holds the
/// items of row `i`, longest first.
///
/// Items are taken from the longest to the shortest, equal ones by number. The rows are at most 11/9 of the fewest
/// possible, plus 6/9 (Dósa, "The tight bound of first fit decreasing bin-packing algorithm", ESCAPE 2007; the same
/// bound holds for best fit: Johnson et al., SIAM Journal on Computing 1974). O(items · log items).
///
/// # Errors
///
/// [`Error::InvalidArgument`] for an item longer than `capacity`, which it names, for 2^32 items or more, or for a
/// capacity of 0; [`Error::Interrupted`] when the caller asks to stop.
///
/// ```
/// use mbflow_core::{Exec, Fit, pack};
///
/// let rows = pack(&Exec::serial(), &[4, 7, 3, 6], 10, Fit::First)?;
/// assert_eq!(rows.view().iter().collect::<Vec<_>>(), [&[1, 2], &[3, 0]]);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
pub fn pack(exec: &Exec, lengths: &[u64], capacity: u64, fit: Fit) -> Result<RaggedVec<u32>, Error> {
    let Ok(count) = u32::try_from(lengths.len()) else {
        return Err(Error::argument("lengths", format!("expected under 2^32 items, got {}", lengths.len())));
    };
    if capacity == 0 {
        return Err(Error::argument("capacity", "expected at least 1, got 0"));
    }
    if let Some(item) = lengths.iter().position(|&length| length > capacity) {
        let message = format!("item {item} is {} long, above the capacity of {capacity}", lengths[item]);
        return Err(Error::argument("lengths", message));
    }
    let mut order: Vec<u32> = (0..count).collect();
    order.sort_by_key(|&item| std::cmp::Reverse(lengths[item as usize]));
    let mut rows = match fit {
        Fit::First => Rows::First(FirstFit::new(lengths.len())),
        Fit::Best => Rows::Best(BTreeSet::new(), 0),
    };
    let mut row_of = vec![0_u32; lengths.len()];
    let mut sizes: Vec<i64> = Vec::new();
    for block in order.chunks(BLOCK) {
        exec.check()?;
        for &item in block {
            let row = rows.place(lengths[item as usize], capacity);
            row_of[item as usize] = row;
            if row as usize == sizes.len() {
                sizes.push(0);
            }
            sizes[row as usize] += 1;
        }
    }
    let mut offsets = vec![0_i64];
    for size in sizes {
        offsets.push(offsets[offsets.len() - 1] + size);
    }
    let mut next: Vec<usize> = offsets.iter().map(|&offset| offset as usize).collect();
    let mut items = vec![0_u32; lengths.len()];
    for item in order {
        let place = &mut next[row_of[item as usize] as usize];
        items[*place] = item;
        *place += 1;
    }
    RaggedVec::from_parts(offsets, items)
}

enum Rows {
    First(FirstFit),
    /// Rooms and rows, and how many rows there are.
    Best(BTreeSet<(u64, u32)>, u32),
}

impl Rows {
    /// Puts an item of a length into a row: its number.
    fn place(&mut self, length: u64, capacity: u64) -> u32 {
        match self {
            Self::First(rows) => rows.place(length, capacity),
            Self::Best(rooms, rows) => {
                let (room, row) = if let Some(&found) = rooms.range((length, 0)..).next() {
                    rooms.remove(&found);
                    found
                } else {
                    *rows += 1;
                    (capacity, *rows - 1)
                };
                rooms.insert((room - length, row));
                row
            }
        }
    }
}

/// A tree over the rows, in which each node knows the most room below it.
struct FirstFit {
    most_room: Vec<u64>,
    leaves: usize,
    rows: usize,
}

impl FirstFit {
    fn new(items: usize) -> Self {
        let leaves = items.next_power_of_two();
        Self { most_room: vec![0; 2 * leaves], leaves, rows: 0 }
    }

    fn place(&mut self, length: u64, capacity: u64) -> u32 {
        // Items of length 0 go into the first row, too, rather than into a row that is not opened yet.
        let mut node = 1;
        if self.rows > 0 && self.most_room[1] >= length {
            while node < self.leaves {
                node *= 2;
                node += usize::from(self.most_room[node] < length);
            }
        } else {
            node = self.leaves + self.rows;
            self.rows += 1;
            self.most_room[node] = capacity;
        }
        self.most_room[node] -= length;
        let row = node - self.leaves;
        while node > 1 {
            node /= 2;
            self.most_room[node] = self.most_room[2 * node].max(self.most_room[2 * node + 1]);
        }
        row as u32
    }
}
