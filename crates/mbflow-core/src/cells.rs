//! Sorted batches: items by length, cut into cells of neighbours, from each of which several batches are drawn.
//!
//! A window of random items that is sorted and cut into batches gives each batch a stretch of the quantiles of length. A
//! cell is such a stretch of all items, and holds the batches that as many windows would draw from it: the padding is
//! that of sorted windows, but where the batches stand follows from the lengths alone, without sorting a window.

use crate::seed::stream;
use crate::{Budget, Error, Exec, Seed, rows_by_class};

/// Items are looked at in blocks of this many between two looks at the caller's wish to stop.
const BLOCK: usize = 1 << 16;

/// Items by number: their seconds, and their tokens or nothing.
#[derive(Debug, Clone, Copy)]
pub struct Lengths<'a> {
    seconds: &'a [f32],
    tokens: &'a [u32],
}

impl<'a> Lengths<'a> {
    /// Checks that there is a number of tokens for each item, or for none.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the lengths differ.
    pub fn new(seconds: &'a [f32], tokens: &'a [u32]) -> Result<Self, Error> {
        if !tokens.is_empty() && tokens.len() != seconds.len() {
            let message = format!("expected {}, one for each item, got {}", seconds.len(), tokens.len());
            return Err(Error::argument("tokens", message));
        }
        Ok(Self { seconds, tokens })
    }

    #[inline]
    fn of(&self, item: u32) -> (f32, u32) {
        (self.seconds[item as usize], self.tokens.get(item as usize).copied().unwrap_or(0))
    }

    fn check(&self, items: &[u32]) -> Result<(), Error> {
        match items.iter().find(|&&item| item as usize >= self.seconds.len()) {
            Some(item) => {
                let message = format!("item {item} has no length; there are {}", self.seconds.len());
                Err(Error::argument("items", message))
            }
            None => Ok(()),
        }
    }
}

/// `items` from the longest to the shortest, equal ones in an order that `seed` keys. With tokens, they are cut by seconds into stripes
/// after `edges`, which belong to the stripe below them, and those are sorted by tokens, falling and rising in turn, so
/// that neighbours are alike in both.
///
/// Seconds are not negative. O(items · log items), for any number of threads the same.
///
/// # Errors
///
/// [`Error::InvalidArgument`] for an item without a length, or edges that do not rise; [`Error::Interrupted`] when the
/// caller asks to stop.
///
/// ```
/// use mbflow_core::{Exec, Lengths, Seed, sorted_items};
///
/// let lengths = Lengths::new(&[3.0, 1.0, 2.0, 8.0], &[])?;
/// assert_eq!(sorted_items(&Exec::serial(), &[0, 1, 3], lengths, &[], Seed(0))?, [3, 0, 1]);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
pub fn sorted_items(
    exec: &Exec,
    items: &[u32],
    lengths: Lengths<'_>,
    edges: &[f64],
    seed: Seed,
) -> Result<Vec<u32>, Error> {
    if !edges.is_sorted_by(|below, above| below < above) {
        return Err(Error::argument("edges", "expected edges that rise"));
    }
    lengths.check(items)?;
    // The bits of numbers that are not negative rise with them.
    let key = |item: u32| !lengths.seconds[item as usize].to_bits();
    let mut high = vec![0_u16; items.len()];
    let blocks = high.chunks_mut(BLOCK).zip(items.chunks(BLOCK)).collect();
    exec.run(blocks, |(high, items): (&mut [u16], &[u32])| {
        for (high, &item) in high.iter_mut().zip(items) {
            *high = (key(item) >> 16) as u16;
        }
    })?;
    let (offsets, mut sorted) = rows_by_class(exec, &high, 1 << 16)?.into_parts();
    drop(high);
    let mut rest = sorted.as_mut_slice();
    let mut work = Vec::new();
    let mut group = Vec::new();
    let mut held = 0;
    for bounds in offsets.windows(2) {
        let (own, after) = rest.split_at_mut((bounds[1] - bounds[0]) as usize);
        rest = after;
        held += own.len();
        group.push(own);
        if held >= BLOCK {
            work.push(std::mem::take(&mut group));
            held = 0;
        }
    }
    work.push(group);
    exec.run(work, |group| {
        let mut keys = Vec::new();
        for places in group {
            keys.clear();
            keys.extend(places.iter().map(|&place| {
                let item = items[place as usize];
                let tie = seed.u64_at(stream::TIES, u64::from(item)) >> 32;
                (u64::from(key(item)) << 32 | tie, item)
            }));
            keys.sort_unstable();
            for (out, &(_, item)) in places.iter_mut().zip(&keys) {
                *out = item;
            }
        }
    })?;
    if !lengths.tokens.is_empty() {
        let mut rest = sorted.as_mut_slice();
        let mut stripes = Vec::new();
        for &edge in edges.iter().rev() {
            let above = |item: &u32| f64::from(lengths.seconds[*item as usize]) > edge;
            let (own, after) = rest.split_at_mut(rest.partition_point(above));
            stripes.push(own);
            rest = after;
        }
        stripes.push(rest);
        let stripes = stripes.into_iter().filter(|stripe| !stripe.is_empty()).enumerate().collect();
        exec.run(stripes, |(number, stripe): (usize, &mut [u32])| {
            stripe.sort_by_key(|&item| std::cmp::Reverse(lengths.tokens[item as usize]));
            if number % 2 == 1 {
                stripe.reverse();
            }
        })?;
    }
    Ok(sorted)
}

/// Where cells start and end, and the most items that a batch of each holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cells {
    /// Cell `c` holds the sorted items from place `offsets[c]` to before `offsets[c + 1]`.
    pub offsets: Vec<i64>,
    /// Cells are cut into batches of this many items; the last one of a cell may be smaller.
    pub sizes: Vec<u64>,
}

/// Cuts items into cells from which `batches` batches are drawn, and `first` from the first cell: each cell goes as far
/// as the budget allows batches of its longest item to go.
///
/// `sorted` is what [`sorted_items`] gives. O(cells), and O(items) with tokens.
///
/// # Errors
///
/// [`Error::InvalidArgument`] for an item without a length or above the budget alone, which it names, and for 0 batches;
/// [`Error::Interrupted`] when the caller asks to stop.
///
/// ```
/// use mbflow_core::{BatchLimit, Budget, Exec, Lengths, cells};
///
/// let budget = Budget::new(vec![BatchLimit { seconds: 1.0, most: 8.0, ..BatchLimit::default() }], 1)?;
/// let lengths = Lengths::new(&[8.0, 8.0, 4.0, 3.0, 2.0, 2.0], &[])?;
/// let found = cells(&Exec::serial(), &[0, 1, 2, 3, 4, 5], lengths, &budget, 2, 2)?;
/// assert_eq!((found.offsets, found.sizes), (vec![0, 2, 6], vec![1, 2]));
/// # Ok::<(), mbflow_core::Error>(())
/// ```
pub fn cells(
    exec: &Exec,
    sorted: &[u32],
    lengths: Lengths<'_>,
    budget: &Budget,
    batches: u64,
    first: u64,
) -> Result<Cells, Error> {
    if batches == 0 || first == 0 {
        return Err(Error::argument("batches", "expected at least 1 for each cell, got 0"));
    }
    let mut found = Cells { offsets: vec![0], sizes: Vec::new() };
    let mut start = 0;
    let mut drawn = first;
    while start < sorted.len() {
        exec.check()?;
        let (end, most) = cell(exec, &sorted[start..], lengths, budget, drawn)?;
        let items = end as u64;
        // As even as may be: the last batch of a cell is not to be a small one.
        let even = items.div_ceil(items.div_ceil(most));
        found.sizes.push(most.min(even.next_multiple_of(budget.multiple())));
        start += end;
        found.offsets.push(start as i64);
        drawn = batches;
    }
    Ok(found)
}

/// How many of the next items are in a cell of `batches` batches, and how many a batch may hold.
fn cell(
    exec: &Exec,
    items: &[u32],
    lengths: Lengths<'_>,
    budget: &Budget,
    batches: u64,
) -> Result<(usize, u64), Error> {
    lengths.check(&items[..1])?;
    let mut shape = lengths.of(items[0]);
    let mut most = budget.items(f64::from(shape.0), f64::from(shape.1));
    if most == 0 {
        let (item, (seconds, tokens)) = (items[0], shape);
        let message =
            format!("item {item} of {seconds} seconds and {tokens} tokens is above the budget alone");
        return Err(Error::argument("items", message));
    }
    if lengths.tokens.is_empty() {
        // The first item is the longest.
        return Ok((most.saturating_mul(batches).min(items.len() as u64) as usize, most));
    }
    let mut at = 1;
    while at < items.len() && (at as u64) < most.saturating_mul(batches) {
        if at % BLOCK == 0 {
            exec.check()?;
        }
        lengths.check(&items[at..=at])?;
        let (seconds, tokens) = lengths.of(items[at]);
        let grown = (shape.0.max(seconds), shape.1.max(tokens));
        if grown != shape {
            let fits = budget.items(f64::from(grown.0), f64::from(grown.1));
            // Batches that are full now must not become smaller than they are.
            if fits.saturating_mul(batches) <= at as u64 {
                break;
            }
            (shape, most) = (grown, fits);
        }
        at += 1;
    }
    Ok((at, most))
}
