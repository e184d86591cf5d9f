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
    ahead: Vec<Ahead>,
}

/// The first weighted draws of one node: where they end among the values of its chunk, and the generator after them.
#[derive(Debug)]
struct Ahead {
    end: usize,
    draws: Draws,
}

impl Pad {
    /// Forgets what was drawn ahead.
    pub(super) fn begin_chunk(&mut self) {
        self.values.clear();
        self.ahead.clear();
    }
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
            ahead: Vec::new(),
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
        few::<16>(draws, list, first, count, sources, out);
    } else if count <= FEW {
        few::<FEW>(draws, list, first, count, sources, out);
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

/// Bits that tell what is taken of a list.
const CELLS: u32 = 1024;

/// What is taken: of a list of up to [`CELLS`] edges each has a bit of its own, edges of longer ones share them.
#[derive(Default)]
struct Hints([u64; CELLS as usize / 64]);

impl Hints {
    /// Whether the edge may be taken, or is for sure where each has a bit of its own.
    #[inline]
    fn has(&self, index: u32) -> bool {
        self.0[(index % CELLS) as usize / 64] >> (index % 64) & 1 != 0
    }

    #[inline]
    fn add(&mut self, index: u32) {
        self.0[(index % CELLS) as usize / 64] |= 1 << (index % 64);
    }
}

/// Floyd's algorithm (Bentley, Floyd: "A sample of brilliance", CACM 1987) for at most `MOST` edges: rank `i`, below
/// `first + i + 1`, stands for `first + i` where it is taken already.
#[inline]
fn few<const MOST: usize>(
    draws: Draws,
    list: List<'_>,
    first: u32,
    count: usize,
    sources: &[u32],
    out: &mut Vec<u64>,
) {
    let mut ranks = [0; MOST];
    draws.ranks(first, count, &mut ranks);
    let from = out.len();
    out.resize(from + count, list.start);
    let picks = &mut out[from..];
    if list.len <= u64::BITS {
        let mut taken = 0_u64;
        for ((&rank, last), position) in ranks.iter().zip(first..).zip(&mut *picks) {
            let index = if taken >> rank & 1 == 0 { rank } else { last };
            taken |= 1 << index;
            *position += u64::from(index);
            prefetch(sources, *position as usize);
        }
    } else {
        let is_exact = list.len <= CELLS;
        let mut taken = Hints::default();
        for place in 0..picks.len().min(MOST) {
            let rank = ranks[place];
            let mut is_taken = taken.has(rank);
            if !is_exact && is_taken {
                is_taken = ranks[..place].contains(&rank);
            }
            let index = if is_taken { first + place as u32 } else { rank };
            ranks[place] = index;
            taken.add(index);
            picks[place] += u64::from(index);
            prefetch(sources, picks[place] as usize);
        }
    }
    if list.order.is_some() {
        for position in picks {
            *position = list.position((*position - list.start) as u32);
            prefetch(sources, *position as usize);
        }
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

/// Draws for [`weighted`] as many values as it needs at first, for all nodes of a chunk in turn: their weights are on
/// their way while those of others are drawn.
#[inline]
pub(super) fn draw_ahead(
    mut draws: Draws,
    node: u32,
    list: List<'_>,
    count: usize,
    sums: WeightSums<'_>,
    pad: &mut Pad,
) {
    if list.len as usize <= count {
        sums.load_weights(list.start, list.len);
    } else if list.order.is_none() {
        // Sums exist for whole stretches only.
        let sums = sums.of(node, list.start, list.len);
        if sums.total() > 0.0 {
            pad.values.extend((0..count).map(|_| sums.block(draws.unit())));
        }
    }
    pad.ahead.push(Ahead { end: pad.values.len(), draws });
}

/// `count` edges, one after the other, each drawn in proportion to its weight among those that are left.
///
/// As exponential races give it (Efraimidis, Spirakis: "Weighted random sampling with a reservoir", 2006), by draws
/// from sums of weights: one that is taken already is drawn again, and when that happens often the sums of the rest
/// are made. Edges of weight 0 are never taken. The first draws are those of [`draw_ahead`] for node `at` of the chunk.
#[expect(clippy::too_many_arguments, reason = "the list and the buffers are those of all rules")]
pub(super) fn weighted(
    at: usize,
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
    let begin = at.checked_sub(1).map_or(0, |before| pad.ahead[before].end);
    let Ahead { end, ref draws } = pad.ahead[at];
    let mut draws = draws.clone();
    if count == 0 || begin == end && list.order.is_none() {
        return;
    }
    if count > FEW {
        pad.taken.clear(count);
    }
    let mut hints = Hints::default();
    if list.order.is_none() {
        let sums = sums.of(node, list.start, list.len);
        let first = &pad.values[begin..end];
        if count <= FEW && list.len <= CELLS {
            // Branch-free, since any draw may be of an edge that is taken: it counts where it is not.
            out.resize(from + count, 0);
            let picks = &mut out[from..];
            let mut fresh = 0;
            for &(block, value) in first {
                let index = sums.within(block, value);
                let position = list.start + u64::from(index);
                prefetch(sources, position as usize);
                picks[fresh] = position;
                fresh += usize::from(!hints.has(index));
                hints.add(index);
            }
            out.truncate(from + fresh);
        } else {
            for &(block, value) in first {
                let index = sums.within(block, value);
                take(list, index, count, from, sources, &mut pad.taken, &mut hints, out);
            }
        }
        let mut misses = (4 + count / 2).saturating_sub(count - (out.len() - from));
        while misses > 0 && out.len() - from < count {
            let (block, value) = sums.block(draws.unit());
            let index = sums.within(block, value);
            let is_new = take(list, index, count, from, sources, &mut pad.taken, &mut hints, out);
            misses -= usize::from(!is_new);
        }
    }
    while out.len() - from < count {
        if !draw_rest(&mut draws, list, count, sums, sources, pad, &mut hints, out, from) {
            return;
        }
    }
}

/// Takes an edge of the list; whether it was not taken before.
#[inline]
#[expect(clippy::too_many_arguments, reason = "it is a part of `weighted`, which has them")]
fn take(
    list: List<'_>,
    index: u32,
    count: usize,
    from: usize,
    sources: &[u32],
    taken: &mut Taken,
    hints: &mut Hints,
    out: &mut Vec<u64>,
) -> bool {
    let position = list.position(index);
    let is_new = if count > FEW {
        taken.insert(index)
    } else {
        !hints.has(index) || list.len > CELLS && !out[from..].contains(&position)
    };
    if is_new {
        hints.add(index);
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
    hints: &mut Hints,
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
        let is_new = take(list, pad.rest[place].0, count, from, sources, &mut pad.taken, hints, out);
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
    let whole = sums.of(node, list.start, list.len);
    for piece in (0..count).step_by(PIECE) {
        exec.check()?;
        for _ in piece..count.min(piece + PIECE) {
            let unit = draws.unit();
            let index = if list.order.is_some() {
                let place = pad.rest.partition_point(|&(_, sum)| sum <= unit * total);
                pad.rest[place].0
            } else if let Some(index) = whole.draw(unit) {
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
