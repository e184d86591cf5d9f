//! Which of a node's edges a sample takes: one rule a method.
//!
//! All rules append positions in the graph to `out`, and load what will be read at them.

use super::draws::{Draws, shared_bits};
use super::weights::WeightSums;
use crate::simd::{Loops, Simd, prefetch};
use crate::{Error, Exec};

/// Picks up to this many are compared one with another; above it a table remembers them.
const FEW: usize = 64;
/// Draws between two looks at whether to stop.
const PIECE: usize = 1 << 16;

/// The edges that a node may be sampled from: a stretch of the graph, in its own order or in the order of time.
#[derive(Debug, Clone, Copy)]
pub(super) struct List<'a> {
    pub(super) start: u64,
    pub(super) len: u32,
    /// Edges of the stretch, as distances from `start`, in the order of time.
    pub(super) order: Option<&'a [u32]>,
}

impl List<'_> {
    #[inline]
    pub(super) fn position(&self, index: u32) -> u64 {
        self.start + u64::from(self.order.map_or(index, |order| order[index as usize]))
    }

    #[inline]
    pub(super) fn take_all(&self, sources: &[u32], out: &mut Vec<u64>) {
        match self.order {
            None => {
                let end = self.start + u64::from(self.len);
                for line in (self.start..end).step_by(16) {
                    prefetch(sources, line as usize);
                }
                prefetch(sources, end.saturating_sub(1) as usize);
                out.extend(self.start..end);
            }
            Some(order) => {
                out.extend(order[..self.len as usize].iter().map(|&index| self.start + u64::from(index)));
            }
        }
    }
}

/// What the rules reuse from node to node.
#[derive(Debug)]
pub(super) struct Pad {
    simd: Simd,
    taken: Taken,
    candidates: Vec<u64>,
    rest: Vec<(u32, f64)>,
    places: Vec<u32>,
    values: Vec<(u32, f64)>,
}

impl Default for Pad {
    fn default() -> Self {
        Self {
            simd: Simd::detect(),
            taken: Taken::default(),
            candidates: Vec::new(),
            rest: Vec::new(),
            places: Vec::new(),
            values: Vec::new(),
        }
    }
}

/// Which edges of a list are taken.
#[derive(Debug, Default)]
struct Taken {
    /// Open addressing: edges, plus one; 0 is free.
    slots: Vec<u32>,
}

impl Taken {
    /// Forgets all edges, and makes room for so many.
    fn clear(&mut self, count: usize) {
        self.slots.clear();
        self.slots.resize((count * 2).next_power_of_two().max(2), 0);
    }

    /// Whether `index` was not there before.
    #[inline]
    fn insert(&mut self, index: u32) -> bool {
        let mask = self.slots.len() - 1;
        let home = index.wrapping_mul(0x9e37_79b9) >> (u32::BITS - self.slots.len().trailing_zeros());
        let mut slot = home as usize;
        loop {
            match self.slots[slot] {
                0 => {
                    self.slots[slot] = index + 1;
                    return true;
                }
                other if other == index + 1 => return false,
                _ => slot = (slot + 1) & mask,
            }
        }
    }
}

/// `count` edges of the list, each set equally likely; all of them where there are no more.
#[inline]
pub(super) fn uniform(
    draws: impl FnOnce() -> Draws,
    list: List<'_>,
    count: usize,
    sources: &[u32],
    pad: &mut Pad,
    out: &mut Vec<u64>,
) {
    if list.len as usize <= count {
        return list.take_all(sources, out);
    }
    if count == 0 {
        return;
    }
    let mut draws = draws();
    let first = list.len - count as u32;
    if count <= 16 {
        floyd::<16>(&mut draws, first, count, |index| push(list, index, sources, out));
    } else if count <= FEW {
        floyd::<FEW>(&mut draws, first, count, |index| push(list, index, sources, out));
    } else {
        pad.taken.clear(count);
        for last in first..list.len {
            let value = draws.below(last + 1);
            let index = if pad.taken.insert(value) {
                value
            } else {
                pad.taken.insert(last);
                last
            };
            push(list, index, sources, out);
        }
    }
}

/// Floyd's algorithm (Bentley, Floyd: "A sample of brilliance", CACM 1987), with what is taken in `LANES` registers.
#[inline]
fn floyd<const LANES: usize>(draws: &mut Draws, first: u32, count: usize, mut take: impl FnMut(u32)) {
    let mut taken = [u32::MAX; LANES];
    for (last, place) in (first..).zip(0..count) {
        let value = draws.below(last + 1);
        // All lanes are compared, without branches: free ones hold what no draw is.
        let is_taken = taken.iter().fold(0, |found, &other| found | u32::from(other == value)) != 0;
        let index = if is_taken { last } else { value };
        taken[place] = index;
        take(index);
    }
}

#[inline]
fn push(list: List<'_>, index: u32, sources: &[u32], out: &mut Vec<u64>) {
    let position = list.position(index);
    prefetch(sources, position as usize);
    out.push(position);
}

/// `count` independent draws from the list.
#[inline]
pub(super) fn uniform_with_replacement(
    exec: &Exec,
    draws: impl FnOnce() -> Draws,
    list: List<'_>,
    count: usize,
    sources: &[u32],
    out: &mut Vec<u64>,
) -> Result<(), Error> {
    if count == usize::MAX {
        list.take_all(sources, out);
        return Ok(());
    }
    if list.len > 0 {
        reserve(count, out)?;
        let mut draws = draws();
        for piece in (0..count).step_by(PIECE) {
            exec.check()?;
            for _ in piece..count.min(piece + PIECE) {
                push(list, draws.below(list.len), sources, out);
            }
        }
    }
    Ok(())
}

/// Room for so many more edges of one target.
#[inline]
fn reserve(count: usize, out: &mut Vec<u64>) -> Result<(), Error> {
    out.try_reserve(count).map_err(|_| Error::Memory { what: "fanouts", count: count as u64 })
}

/// The `count` edges latest in time, the latest first.
#[inline]
pub(super) fn latest(list: List<'_>, count: usize, sources: &[u32], out: &mut Vec<u64>) {
    let count = count.min(list.len as usize) as u32;
    for index in (list.len - count..list.len).rev() {
        push(list, index, sources, out);
    }
}

/// The `count` edges whose sources drew least, where all targets of a layer see the same draws; in the graph's order.
///
/// LABOR-0 (Balin, Catalyurek: "Layer-neighbor sampling", NeurIPS 2023), with exactly `count` edges a target.
pub(super) fn labor(
    key: u64,
    list: List<'_>,
    count: usize,
    sources: &[u32],
    pad: &mut Pad,
    out: &mut Vec<u64>,
) {
    let len = list.len as usize;
    if len <= count {
        return list.take_all(sources, out);
    }
    if count == 0 {
        return;
    }
    // A level that hardly ever leaves fewer than `count` below it: three deviations above their mean.
    let mut share = (count as f64 + 3.0 * (count as f64).sqrt() + 2.0) / len as f64;
    loop {
        let level = if share >= 1.0 { u32::MAX } else { (share * 4_294_967_296.0) as u32 };
        below_level(key, list, level, sources, pad);
        if pad.candidates.len() >= count {
            break;
        }
        share *= 2.0;
    }
    if pad.candidates.len() > count {
        pad.candidates.select_nth_unstable(count);
        pad.candidates.truncate(count);
    }
    pad.places.clear();
    pad.places.extend(pad.candidates.iter().map(|&candidate| candidate as u32));
    pad.places.sort_unstable();
    out.extend(pad.places.iter().map(|&index| list.position(index)));
}

/// Edges whose sources drew at most `level`, as draw << 32 | index.
#[inline]
fn below_level(key: u64, list: List<'_>, level: u32, sources: &[u32], pad: &mut Pad) {
    pad.candidates.clear();
    let len = list.len as usize;
    if list.order.is_some() {
        for index in 0..list.len {
            let value = shared_bits(key, sources[list.position(index) as usize]);
            if value <= level {
                pad.candidates.push(u64::from(value) << 32 | u64::from(index));
            }
        }
        return;
    }
    let sources = &sources[list.start as usize..list.start as usize + len];
    pad.simd.run(Below { key, level, sources, found: &mut pad.candidates });
}

/// The loop over all sources of a target.
struct Below<'a> {
    key: u64,
    level: u32,
    sources: &'a [u32],
    found: &'a mut Vec<u64>,
}

impl Loops for Below<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        const BLOCK: usize = 64;
        let mut value = [0_u32; BLOCK];
        let mut below = [0_u64; BLOCK];
        for (block, sources) in self.sources.chunks(BLOCK).enumerate() {
            for (value, &source) in value.iter_mut().zip(sources) {
                *value = shared_bits(self.key, source);
            }
            // Branch-free: each is written to the next place, and counts where it is below.
            let mut count = 0;
            for (index, &value) in value[..sources.len()].iter().enumerate() {
                below[count] = u64::from(value) << 32 | (block * BLOCK + index) as u64;
                count += usize::from(value <= self.level);
            }
            self.found.extend_from_slice(&below[..count]);
        }
    }
}

/// `count` edges, one after the other, each drawn in proportion to its weight among those that are left.
///
/// As exponential races give it (Efraimidis, Spirakis: "Weighted random sampling with a reservoir", 2006), by draws
/// from sums of weights: one that is taken already is drawn again, and when that happens often the sums of the rest
/// are made. Edges of weight 0 are never taken.
#[expect(clippy::too_many_arguments, reason = "the list and the buffers are those of all rules")]
pub(super) fn weighted(
    draws: impl FnOnce() -> Draws,
    node: u32,
    list: List<'_>,
    count: usize,
    sums: WeightSums<'_>,
    sources: &[u32],
    pad: &mut Pad,
    out: &mut Vec<u64>,
) {
    let from = out.len();
    if list.len as usize <= count {
        list.take_all(sources, out);
        return retain(out, from, |position| sums.weight(position) > 0.0);
    }
    if count == 0 {
        return;
    }
    let mut draws = draws();
    if count > FEW {
        pad.taken.clear(count);
    }
    // Sums exist for whole stretches only.
    let mut misses = if list.order.is_none() { 4 + count / 2 } else { 0 };
    while misses > 0 && out.len() - from < count {
        // All that are needed are drawn, then looked up: their weights are on their way meanwhile.
        pad.values.clear();
        for _ in out.len() - from..count {
            let Some((block, value)) = sums.block(draws.unit(), node, list.start, list.len) else { return };
            pad.values.push((block, value));
        }
        for &(block, value) in &pad.values {
            let index = sums.within(block, value, node, list.start, list.len);
            let is_new = take(list, index, count, from, sources, &mut pad.taken, out);
            misses = misses.saturating_sub(usize::from(!is_new));
        }
    }
    while out.len() - from < count {
        if !draw_rest(&mut draws, list, count, sums, sources, pad, out, from) {
            return;
        }
    }
}

/// Takes an edge of the list; whether it was not taken before.
#[inline]
fn take(
    list: List<'_>,
    index: u32,
    count: usize,
    from: usize,
    sources: &[u32],
    taken: &mut Taken,
    out: &mut Vec<u64>,
) -> bool {
    let position = list.position(index);
    let is_new = if count > FEW { taken.insert(index) } else { !out[from..].contains(&position) };
    if is_new {
        prefetch(sources, position as usize);
        out.push(position);
    }
    is_new
}

/// Draws from the edges that are not taken yet; false when there are none of any weight.
#[expect(clippy::too_many_arguments, reason = "it is a part of `weighted`, which has them")]
fn draw_rest(
    draws: &mut Draws,
    list: List<'_>,
    count: usize,
    sums: WeightSums<'_>,
    sources: &[u32],
    pad: &mut Pad,
    out: &mut Vec<u64>,
    from: usize,
) -> bool {
    pad.rest.clear();
    pad.candidates.clear();
    pad.candidates.extend_from_slice(&out[from..]);
    pad.candidates.sort_unstable();
    let mut total = 0.0;
    for index in 0..list.len {
        let position = list.position(index);
        let weight = f64::from(sums.weight(position));
        if weight > 0.0 && pad.candidates.binary_search(&position).is_err() {
            total += weight;
            pad.rest.push((index, total));
        }
    }
    if pad.rest.is_empty() {
        return false;
    }
    let mut misses = 4 + count / 2;
    let fresh = out.len();
    while misses > 0 && out.len() - from < count {
        let value = draws.unit() * total;
        let place = pad.rest.partition_point(|&(_, sum)| sum <= value);
        let is_new = take(list, pad.rest[place].0, count, from, sources, &mut pad.taken, out);
        misses -= usize::from(!is_new);
        if out.len() - fresh == pad.rest.len() {
            // Nothing of any weight is left.
            return false;
        }
    }
    true
}

/// `count` independent draws, each in proportion to the weights.
#[expect(clippy::too_many_arguments, reason = "the list and the buffers are those of all rules")]
pub(super) fn weighted_with_replacement(
    exec: &Exec,
    draws: impl FnOnce() -> Draws,
    node: u32,
    list: List<'_>,
    count: usize,
    sums: WeightSums<'_>,
    sources: &[u32],
    pad: &mut Pad,
    out: &mut Vec<u64>,
) -> Result<(), Error> {
    if count == usize::MAX {
        let from = out.len();
        list.take_all(sources, out);
        retain(out, from, |position| sums.weight(position) > 0.0);
        return Ok(());
    }
    if list.len == 0 {
        return Ok(());
    }
    reserve(count, out)?;
    let mut draws = draws();
    let mut total = 0.0;
    if list.order.is_some() {
        // Sums exist for whole stretches only.
        pad.rest.clear();
        for index in 0..list.len {
            let weight = f64::from(sums.weight(list.position(index)));
            if weight > 0.0 {
                total += weight;
                pad.rest.push((index, total));
            }
        }
        if pad.rest.is_empty() {
            return Ok(());
        }
    }
    for piece in (0..count).step_by(PIECE) {
        exec.check()?;
        for _ in piece..count.min(piece + PIECE) {
            let unit = draws.unit();
            let index = if list.order.is_some() {
                let place = pad.rest.partition_point(|&(_, sum)| sum <= unit * total);
                pad.rest[place].0
            } else if let Some(index) = sums.draw(unit, node, list.start, list.len) {
                index
            } else {
                return Ok(());
            };
            push(list, index, sources, out);
        }
    }
    Ok(())
}

/// Keeps of what stands after `from` what `keep` says.
fn retain(out: &mut Vec<u64>, from: usize, keep: impl Fn(u64) -> bool) {
    let mut end = from;
    for at in from..out.len() {
        if keep(out[at]) {
            out[end] = out[at];
            end += 1;
        }
    }
    out.truncate(end);
}
