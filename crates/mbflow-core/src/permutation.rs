//! Permutations that are computed where they are needed, and never stored.

use std::num::NonZeroU64;

use crate::{Error, Seed};

/// Up to this length the permutation is written out: a network of so few bits would not reach all orders.
const WRITTEN_OUT: u64 = 64;
/// Rounds of the network: four fail the tests below, six pass them, and two more cost a few nanoseconds a place.
const ROUNDS: usize = 8;

/// A keyed permutation of `0..len` whose every place is computed on its own, in constant memory.
///
/// Long ones are a Feistel network over the two halves of the index, low bits and what is above them, walked until it
/// lands inside (Black, Rogaway: "Ciphers with arbitrary finite domains", CT-RSA 2002): hardly ever more than one network
/// pass, since the upper half is reckoned modulo what the length leaves of it. Short ones are a Fisher-Yates shuffle. All draws come from `stream` of the seed, so callers derive one seed a permutation.
///
/// ```
/// use mbflow_core::{KeyedPermutation, Seed};
///
/// let order = KeyedPermutation::new(Seed(1), 9, 1000)?;
/// let mut places: Vec<u64> = (0..1000).map(|index| order.at(index)).collect();
/// places.sort_unstable();
/// assert!(places.into_iter().eq(0..1000));
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct KeyedPermutation {
    len: u64,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Table([u8; WRITTEN_OUT as usize]),
    /// Indices are `high << low_bits | low` with `high` below `highs`.
    Network {
        keys: [u64; ROUNDS],
        low_bits: u32,
        highs: u64,
    },
}

impl KeyedPermutation {
    /// The permutation of `0..len` that `stream` of `seed` keys.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when `len` is above 2^62.
    pub fn new(seed: Seed, stream: u32, len: u64) -> Result<Self, Error> {
        if len > 1 << 62 {
            return Err(Error::argument("len", format!("expected at most 2^62, got {len}")));
        }
        Ok(Self::of_checked(seed, stream, len))
    }

    /// The same, for a length that is known to be within bounds.
    pub(crate) fn of_checked(seed: Seed, stream: u32, len: u64) -> Self {
        let kind = if len <= WRITTEN_OUT {
            let mut table = [0_u8; WRITTEN_OUT as usize];
            for (index, place) in table.iter_mut().enumerate() {
                *place = index as u8;
            }
            for last in (1..len as usize).rev() {
                let bound = NonZeroU64::MIN.saturating_add(last as u64);
                table.swap(last, seed.below(stream, last as u64, bound) as usize);
            }
            Kind::Table(table)
        } else {
            let bits = u64::BITS - (len - 1).leading_zeros();
            let mut keys = [0; ROUNDS];
            for (round, key) in keys.iter_mut().enumerate() {
                *key = seed.u64_at(stream, round as u64);
            }
            let low_bits = bits / 2;
            Kind::Network { keys, low_bits, highs: ((len - 1) >> low_bits) + 1 }
        };
        Self { len, kind }
    }

    /// How many places there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What stands at place `index`.
    ///
    /// # Panics
    ///
    /// When there is no such place.
    #[inline]
    pub fn at(&self, index: u64) -> u64 {
        assert!(index < self.len, "place {index} of a permutation of {}", self.len);
        match &self.kind {
            Kind::Table(table) => u64::from(table[index as usize]),
            Kind::Network { keys, low_bits, highs } => {
                let mut place = index;
                loop {
                    place = pass(place, keys, *low_bits, *highs);
                    if place < self.len {
                        return place;
                    }
                }
            }
        }
    }
}

/// One pass through the network: each half in turn is moved by a keyed hash of the other.
#[inline]
fn pass(place: u64, keys: &[u64; ROUNDS], low_bits: u32, highs: u64) -> u64 {
    let mut low = place & ((1 << low_bits) - 1);
    let mut high = place >> low_bits;
    for pair in keys.chunks_exact(2) {
        // The upper half of the product is uniform below `highs` to within `highs` in 2^64.
        high += ((u128::from(hash(low, pair[0])) * u128::from(highs)) >> 64) as u64;
        high -= if high >= highs { highs } else { 0 };
        low ^= hash(high, pair[1]) >> (u64::BITS - low_bits);
    }
    high << low_bits | low
}

/// A keyed hash: both halves of a full product, as wyhash has it (Wang Yi, 2019).
#[inline]
fn hash(word: u64, key: u64) -> u64 {
    let product = u128::from(word ^ key) * u128::from(key.rotate_left(32) | 1);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_taken_once() {
        for len in (0..140).chain([255, 256, 257, 1000, 65_537]) {
            let order = KeyedPermutation::new(Seed(3), 9, len).unwrap();
            let mut seen = vec![false; len as usize];
            for index in 0..len {
                let place = order.at(index) as usize;
                assert!(!std::mem::replace(&mut seen[place], true), "len {len}");
            }
        }
    }

    #[test]
    fn pairs_of_places_are_uniform() {
        // Where the first two places lead, over many seeds: chi-square over all ordered pairs.
        for len in [3, 5, 24, 65, 70, 100] {
            let seeds = 40 * len * len;
            let mut counts = vec![0_u32; (len * len) as usize];
            for seed in 0..seeds {
                let order = KeyedPermutation::new(Seed(seed), 9, len).unwrap();
                counts[(order.at(0) * len + order.at(1)) as usize] += 1;
            }
            let cells = (len * (len - 1)) as f64;
            let expected = seeds as f64 / cells;
            let pairs = (0..len * len).filter(|pair| pair / len != pair % len);
            let statistic: f64 =
                pairs.map(|pair| (f64::from(counts[pair as usize]) - expected).powi(2) / expected).sum();
            // Mean and deviation of the chi-square distribution; five deviations are far in its tail.
            assert!((statistic - cells).abs() < 5.0 * (2.0 * cells).sqrt(), "len {len}: {statistic}");
        }
    }
    #[test]
    fn steps_between_neighbours_are_uniform() {
        // How far apart neighbouring places lead, over whole permutations: chi-square over 64 ranges of distance.
        for len in [4096_u64, 5000, 65_537, 200_000] {
            for seed in 0..20 {
                let order = KeyedPermutation::new(Seed(seed), 9, len).unwrap();
                let mut counts = [0_u32; 64];
                let mut last = order.at(len - 1);
                for index in 0..len {
                    let next = order.at(index);
                    counts[((next + len - last) % len * 64 / len) as usize] += 1;
                    last = next;
                }
                let expected = len as f64 / 64.0;
                let statistic: f64 =
                    counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum();
                assert!((statistic - 63.0).abs() < 6.0 * 126.0_f64.sqrt(), "len {len}, {seed}: {statistic}");
            }
        }
    }
}
