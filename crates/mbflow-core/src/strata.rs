//! Stratified batches: rows dealt so that every batch has the mixture of the classes to within one row.
//!
//! The deal puts the rows of an epoch on a line, class after class in keyed order, each class in a keyed order of its own, and
//! gives item `i` of the line to batch `i mod batches`. Items of a class stand next to each other, so each batch gets
//! the floor or the ceiling of its share of them; and as the line is one, batches differ in size by at most one. Item,
//! class and row follow from the number of the batch by arithmetic, so a batch costs what it holds, wherever it stands.

use crate::permutation::KeyedPermutation;
use crate::seed::stream;
use crate::{Error, Exec, RaggedVec, Seed};

/// Rows are counted in blocks of this many between two looks at the caller's wish to stop.
const BLOCK: usize = 1 << 20;

/// The rows of each class, in rising order: row `c` of the result holds the rows whose code is `c`.
///
/// A counting sort: O(rows + classes), four bytes a row.
///
/// # Errors
///
/// [`Error::InvalidArgument`] for a code that is not below `classes`, or for 2^32 rows or more; [`Error::Interrupted`]
/// when the caller asks to stop.
///
/// ```
/// use mbflow_core::{Exec, rows_by_class};
///
/// let rows = rows_by_class(&Exec::serial(), &[1_u8, 0, 1], 3)?;
/// assert_eq!(rows.view().iter().collect::<Vec<_>>(), [&[1][..], &[0, 2], &[]]);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
pub fn rows_by_class<C: Copy + Into<u32> + Sync>(
    exec: &Exec,
    codes: &[C],
    classes: usize,
) -> Result<RaggedVec<u32>, Error> {
    if u32::try_from(codes.len()).is_err() {
        return Err(Error::argument("codes", format!("expected under 2^32 rows, got {}", codes.len())));
    }
    let blocks: Vec<&[C]> = codes.chunks(BLOCK.max(4 * classes)).collect();
    let counts = exec.map(blocks.clone(), |block| {
        let mut counts = vec![0_u32; classes];
        for &code in block {
            *counts.get_mut(code.into() as usize)? += 1;
        }
        Some(counts)
    })?;
    let mut offsets = vec![0_i64; classes + 1];
    for block in counts {
        let Some(block) = block else {
            let wrong = codes.iter().position(|&code| code.into() as usize >= classes).unwrap_or(0);
            let code: u32 = codes[wrong].into();
            let message = format!("row {wrong} has code {code}; expected codes below {classes}");
            return Err(Error::argument("codes", message));
        };
        for (offset, count) in offsets[1..].iter_mut().zip(block) {
            *offset += i64::from(count);
        }
    }
    for class in 0..classes {
        offsets[class + 1] += offsets[class];
    }
    let mut next: Vec<usize> = offsets.iter().map(|&offset| offset as usize).collect();
    let mut rows = vec![0_u32; codes.len()];
    let mut row = 0;
    for block in blocks {
        exec.check()?;
        for &code in block {
            let place = &mut next[code.into() as usize];
            rows[*place] = row;
            *place += 1;
            row = row.wrapping_add(1);
        }
    }
    RaggedVec::from_parts(offsets, rows)
}

/// How an epoch is cut into batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Batches of this size; the last one holds what is left.
    Size(u64),
    /// This many batches, whose sizes differ by at most one.
    Batches(u64),
}

/// One row that a deal gives to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dealt {
    /// Where the row stands in the rows by class, see [`rows_by_class`].
    pub place: u64,
    /// Whether the row has an earlier occurrence in the epoch.
    pub repeat: bool,
}

/// Items of one class that stand next to each other on a line.
#[derive(Debug, Clone, Copy)]
struct Segment {
    /// Where the segment starts on the line.
    start: u64,
    class: usize,
    /// Which of the class's items of the epoch comes first.
    first: u64,
}

/// Segments one after the other, in rising order of their starts.
#[derive(Debug, Clone, Default)]
struct Line {
    segments: Vec<Segment>,
    len: u64,
}

impl Line {
    fn push(&mut self, class: usize, first: u64, count: u64) {
        if count > 0 {
            self.segments.push(Segment { start: self.len, class, first });
            self.len += count;
        }
    }

    /// The class of an item of the line, and its number among the class's items of the epoch.
    fn item(&self, index: u64) -> (usize, u64) {
        let after = self.segments.partition_point(|segment| segment.start <= index);
        let segment = self.segments[after - 1];
        (segment.class, segment.first + index - segment.start)
    }
}

/// The deal of one epoch: which rows each batch gets.
///
/// Class `c` gives `quotas[c]` rows. With a quota above its size its rows come round again: all of them once, then all
/// of them in a fresh order, and so on, so that occurrences differ by at most one. With a quota below its size, as many
/// epochs as its rows allow share one order, so that no row comes twice before they are over.
///
/// Every batch holds the floor or the ceiling of `quota x batch size / rows of the epoch` of each class, the last and
/// shorter one of [`Cut::Size`] too.
///
/// ```
/// use mbflow_core::{Cut, Deal, Seed};
///
/// // Six rows of one class, two of another, in two batches of four.
/// let deal = Deal::new(&[6, 2], &[6, 2], Cut::Size(4), Seed(1), 0)?;
/// assert_eq!(deal.batches(), 2);
/// let second = deal.batch(0).iter().filter(|dealt| dealt.place >= 6).count();
/// assert_eq!(second, 1);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Deal {
    /// Where each class starts in the rows by class, and its number of rows.
    classes: Vec<(u64, u64)>,
    quotas: Vec<u64>,
    line: Line,
    /// The last batch of [`Cut::Size`], where it is shorter.
    tail: Line,
    order: KeyedPermutation,
    seed: Seed,
    epoch: u64,
}

impl Deal {
    /// The deal of `epoch`, for classes of the given sizes. O(classes log classes).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when there are not as many quotas as sizes, a class without rows has a quota, all
    /// quotas are 0, a sum is above 2^62, or the cut asks for no batch, an empty one, or more batches than rows.
    pub fn new(sizes: &[u64], quotas: &[u64], cut: Cut, seed: Seed, epoch: u64) -> Result<Self, Error> {
        if sizes.len() != quotas.len() {
            let message = format!("expected one a class, {}, got {}", sizes.len(), quotas.len());
            return Err(Error::argument("quotas", message));
        }
        if let Some(class) = (0..sizes.len()).find(|&class| sizes[class] == 0 && quotas[class] > 0) {
            let message = format!("class {class} has no rows; expected 0, got {}", quotas[class]);
            return Err(Error::argument("quotas", message));
        }
        checked_sum("sizes", sizes)?;
        let total = checked_sum("quotas", quotas)?;
        if total == 0 {
            return Err(Error::argument("quotas", "expected at least one row, got none"));
        }
        let batches = match cut {
            Cut::Size(0) => return Err(Error::argument("batch_size", "expected at least 1, got 0")),
            Cut::Size(size) => total / size,
            Cut::Batches(batches) if batches == 0 || batches > total => {
                let message = format!("expected 1 to {total}, one for each row at most, got {batches}");
                return Err(Error::argument("batches", message));
            }
            Cut::Batches(batches) => batches,
        };
        let epoch_seed = seed.derive(epoch);
        let mut classes = Vec::with_capacity(sizes.len());
        let mut start = 0;
        for &size in sizes {
            classes.push((start, size));
            start += size;
        }
        let mut in_order: Vec<(u64, usize)> = (0..sizes.len())
            .map(|class| (epoch_seed.u64_at(stream::STRATA_CLASSES, class as u64), class))
            .collect();
        in_order.sort_unstable();
        let short = match cut {
            Cut::Size(size) => short_batch(quotas, total, size, &in_order),
            Cut::Batches(_) => vec![0; quotas.len()],
        };
        let (mut line, mut tail) = (Line::default(), Line::default());
        for &(_, class) in &in_order {
            let full = quotas[class] - short[class];
            line.push(class, 0, full);
            tail.push(class, full, short[class]);
        }
        let order = KeyedPermutation::new(epoch_seed, stream::STRATA_BATCHES, batches)?;
        Ok(Self { classes, quotas: quotas.to_vec(), line, tail, order, seed, epoch })
    }

    /// How many batches the epoch has.
    pub fn batches(&self) -> u64 {
        self.order.len() + u64::from(self.tail.len > 0)
    }

    /// The rows of batch `number`, in keyed order.
    ///
    /// # Panics
    ///
    /// When there is no such batch.
    pub fn batch(&self, number: u64) -> Vec<Dealt> {
        let mut rows = Walk::new(self).rows(&self.items(number));
        self.shuffle(&mut rows, number);
        rows
    }

    /// Part `part` of `parts` of the batches from `first` on, dealt again: class by class, so that parts have the
    /// mixture of those batches to within one row and differ in size by at most one.
    ///
    /// # Panics
    ///
    /// When there is no such batch or part.
    ///
    /// ```
    /// use mbflow_core::{Cut, Deal, Seed};
    ///
    /// let deal = Deal::new(&[10], &[10], Cut::Size(4), Seed(1), 0)?;
    /// let parts = [deal.split(1, 4, 0), deal.split(1, 4, 1), deal.split(1, 4, 2), deal.split(1, 4, 3)];
    /// assert_eq!(parts.map(|part| part.len()), [2, 2, 1, 1]);
    /// # Ok::<(), mbflow_core::Error>(())
    /// ```
    pub fn split(&self, first: u64, parts: usize, part: usize) -> Vec<Dealt> {
        assert!(part < parts, "part {part} of {parts}");
        let mut items: Vec<_> = (first..self.batches()).flat_map(|number| self.items(number)).collect();
        items.sort_unstable();
        let items: Vec<_> = items.into_iter().skip(part).step_by(parts).collect();
        let mut rows = Walk::new(self).rows(&items);
        self.shuffle(&mut rows, self.batches() + part as u64);
        rows
    }

    /// The items of a batch as class and number, those of a class next to each other and rising.
    fn items(&self, number: u64) -> Vec<(usize, u64)> {
        let full = self.order.len();
        assert!(number < self.batches(), "batch {number} of {}", self.batches());
        if number >= full {
            return (0..self.tail.len).map(|index| self.tail.item(index)).collect();
        }
        let every = usize::try_from(full).unwrap_or(usize::MAX);
        (self.order.at(number)..self.line.len).step_by(every).map(|index| self.line.item(index)).collect()
    }

    fn shuffle(&self, rows: &mut [Dealt], number: u64) {
        let seed = self.seed.derive(self.epoch);
        for last in (1..rows.len()).rev() {
            let bound = std::num::NonZeroU64::MIN.saturating_add(last as u64);
            // A stream holds 2^64 draws: 2^32 batches of 2^32 rows have draws of their own.
            let draw = number.wrapping_shl(32) | last as u64;
            rows.swap(last, seed.below(stream::STRATA_ROWS, draw, bound) as usize);
        }
    }
}

/// Turns items into rows, with the order of the class at hand, which serves neighbouring items.
struct Walk<'a> {
    deal: &'a Deal,
    order: Option<((usize, u64), KeyedPermutation)>,
}

impl<'a> Walk<'a> {
    fn new(deal: &'a Deal) -> Self {
        Self { deal, order: None }
    }

    fn rows(mut self, items: &[(usize, u64)]) -> Vec<Dealt> {
        items.iter().map(|&(class, number)| self.row(class, number)).collect()
    }

    fn row(&mut self, class: usize, number: u64) -> Dealt {
        let Deal { classes, quotas, seed, epoch, .. } = self.deal;
        let (start, size) = classes[class];
        let quota = quotas[class];
        // Epochs that share one order of the class: as many as it has rows for.
        let together = (size / quota).max(1);
        let number = number + epoch % together * quota;
        let round = number / size;
        let order = match &mut self.order {
            Some((key, order)) if *key == (class, round) => order,
            slot => {
                let seed = seed.derive(class as u64).derive(epoch / together).derive(round);
                // The size was checked to be within bounds when the deal was made.
                let order = KeyedPermutation::of_checked(seed, stream::STRATA_ROWS, size);
                &mut slot.insert(((class, round), order)).1
            }
        };
        Dealt { place: start + order.at(number % size), repeat: round > 0 }
    }
}

/// How many rows of each class stand in the last, shorter batch.
///
/// Both that batch and the ones before it must hold the floor or the ceiling of their share. That bounds each class
/// from both sides; the shares themselves lie within the bounds and add up, so whole numbers do, too.
fn short_batch(quotas: &[u64], total: u64, size: u64, in_order: &[(u64, usize)]) -> Vec<u64> {
    let (full, rest) = (u128::from(total / size), u128::from(total % size));
    let mut left = total % size;
    let mut short = vec![0; quotas.len()];
    let mut more = Vec::new();
    for &(_, class) in in_order {
        let quota = u128::from(quotas[class]);
        let (share, of_full) = (quota * rest, quota * u128::from(size));
        let total = u128::from(total);
        let low = (share / total).max(quota.saturating_sub(full * of_full.div_ceil(total)));
        let high = share.div_ceil(total).min(quota - full * (of_full / total));
        short[class] = low as u64;
        left -= low as u64;
        if high > low {
            more.push((share % total, class));
        }
    }
    // Stable: classes with equal shares stay in keyed order, which differs from epoch to epoch.
    more.sort_by_key(|&(rest, _)| std::cmp::Reverse(rest));
    for (_, class) in more.into_iter().take(left as usize) {
        short[class] += 1;
    }
    short
}

fn checked_sum(name: &'static str, values: &[u64]) -> Result<u64, Error> {
    let sum: u128 = values.iter().copied().map(u128::from).sum();
    u64::try_from(sum)
        .ok()
        .filter(|&sum| sum <= 1 << 62)
        .ok_or_else(|| Error::argument(name, format!("expected a sum of at most 2^62, got {sum}")))
}

/// All rows dealt into `batches` batches, each with the mixture of the classes to within one row.
///
/// Sizes differ by at most one. `strata` are the rows of each class, see [`rows_by_class`].
///
/// # Errors
///
/// [`Error::InvalidArgument`] when there is no row, no batch, or more batches than rows; [`Error::Interrupted`] when
/// the caller asks to stop.
///
/// ```
/// use mbflow_core::{Exec, Seed, deal, rows_by_class};
///
/// let exec = Exec::serial();
/// let strata = rows_by_class(&exec, &[0_u8, 0, 0, 0, 1, 1], 2)?;
/// let batches = deal(&exec, strata.view(), 2, Seed(1))?;
/// assert!(batches.view().iter().all(|batch| batch.iter().filter(|&&row| row >= 4).count() == 1));
/// # Ok::<(), mbflow_core::Error>(())
/// ```
pub fn deal(
    exec: &Exec,
    strata: crate::Ragged<'_, u32>,
    batches: usize,
    seed: Seed,
) -> Result<RaggedVec<u32>, Error> {
    let sizes: Vec<u64> = strata.iter().map(|rows| rows.len() as u64).collect();
    let deal = Deal::new(&sizes, &sizes, Cut::Batches(batches as u64), seed, 0)?;
    let rows = strata.values();
    let numbers: Vec<u64> = (0..batches as u64).collect();
    let each = (BLOCK / 64 * batches / rows.len().max(1)).max(1);
    let parts = exec.map(numbers.chunks(each).collect(), |numbers| {
        let mut part = RaggedVec::new();
        for &number in numbers {
            part.push(deal.batch(number).into_iter().map(|dealt| rows[dealt.place as usize]));
        }
        part
    })?;
    let mut dealt = RaggedVec::with_capacity(batches, rows.len());
    for part in &parts {
        part.view().iter().for_each(|batch| dealt.push(batch.iter().copied()));
    }
    Ok(dealt)
}
