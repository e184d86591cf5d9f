//! The draws of one node: a short generator of its own, keyed by all that the sample depends on.

/// Odd constants with as many ones as zeros, as wyhash has them (Wang Yi, 2019; public domain).
const STEP: u64 = 0xa076_1d64_78bd_642f;
const FOLD: u64 = 0xe703_7ed1_a0b4_28db;

/// Both halves of a full product, folded.
#[inline]
pub(super) fn fold(first: u64, second: u64) -> u64 {
    let product = u128::from(first) * u128::from(second);
    (product >> 64) as u64 ^ product as u64
}

/// The draws of one node in one layer: wyrand from a state that is a hash of (key, node).
///
/// The key comes from Philox over (seed, epoch, batch, layer, relation); the hash gives every node a place of its own in
/// a sequence of 2^64, of which a sample reads a few words.
#[derive(Debug, Clone)]
pub(super) struct Draws {
    state: u64,
    /// The upper half of the last word, while nobody has drawn it.
    half: Option<u32>,
}

impl Draws {
    #[inline]
    pub(super) fn new(key: u64, node: u64) -> Self {
        Self { state: fold(node ^ STEP, key ^ FOLD) ^ key, half: None }
    }

    /// 64 uniform bits.
    #[inline]
    pub(super) fn word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        fold(self.state, self.state ^ FOLD)
    }

    #[inline]
    fn bits(&mut self) -> u32 {
        if let Some(half) = self.half.take() {
            return half;
        }
        let word = self.word();
        self.half = Some((word >> 32) as u32);
        word as u32
    }

    /// An integer uniform on `0..bound`, without bias; `bound` is above 0.
    ///
    /// Lemire, "Fast random integer generation in an interval", TOMACS 2019.
    #[inline]
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        let mut product = u64::from(self.bits()) * u64::from(bound);
        if (product as u32) < bound {
            let surplus = bound.wrapping_neg() % bound;
            while (product as u32) < surplus {
                product = u64::from(self.bits()) * u64::from(bound);
            }
        }
        (product >> 32) as u32
    }

    /// The first `count` of `ranks` become uniform on `0..=first`, `0..=first + 1` and so on: what as many calls of
    /// [`Draws::below`] give, of fresh draws; the last that is drawn.
    #[inline]
    pub(super) fn ranks(mut self, first: u32, count: usize, ranks: &mut [u32]) {
        debug_assert!(self.half.is_none());
        let begun = self.state;
        // Fan-outs are the same for all nodes of a layer: each length has loops of its own, without branches.
        let is_fair = match count.div_ceil(2) {
            1 => self.words::<1>(first, ranks),
            2 => self.words::<2>(first, ranks),
            3 => self.words::<3>(first, ranks),
            4 => self.words::<4>(first, ranks),
            5 => self.words::<5>(first, ranks),
            6..=8 => self.words::<8>(first, ranks),
            9..=16 => self.words::<16>(first, ranks),
            _ => false,
        };
        if !is_fair {
            // One has to be drawn again, which is rare, or there are very many.
            self.state = begun;
            for (rank, bound) in ranks[..count].iter_mut().zip(first + 1..) {
                *rank = self.below(bound);
            }
        }
    }

    /// Ranks from both halves of `WORDS` words; whether all of them stand.
    #[inline]
    fn words<const WORDS: usize>(&mut self, first: u32, ranks: &mut [u32]) -> bool {
        let Some((ranks, _)) = ranks.as_chunks_mut::<2>().0.split_first_chunk_mut::<WORDS>() else {
            return false;
        };
        let mut bound = u64::from(first);
        let mut surplus = 0;
        for pair in ranks {
            let word = self.word();
            bound += 1;
            let product = (word & 0xffff_ffff) * bound;
            surplus |= (product & 0xffff_ffff).wrapping_sub(bound);
            pair[0] = (product >> 32) as u32;
            bound += 1;
            let product = (word >> 32) * bound;
            surplus |= (product & 0xffff_ffff).wrapping_sub(bound);
            pair[1] = (product >> 32) as u32;
        }
        surplus >> 63 == 0
    }

    /// Uniform on [0, 1), a multiple of 2^-53.
    #[inline]
    pub(super) fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }
}

/// 32 uniform bits for a node that all targets of a layer share: two rounds of murmur3's finaliser, one for each half
/// of the key.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it is compiled for each instruction set where it is called")]
pub(super) fn shared_bits(key: u64, node: u32) -> u32 {
    mix(mix(node ^ key as u32).wrapping_add((key >> 32) as u32))
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "it is compiled for each instruction set where it is called")]
fn mix(mut bits: u32) -> u32 {
    bits ^= bits >> 16;
    bits = bits.wrapping_mul(0x85eb_ca6b);
    bits ^= bits >> 13;
    bits = bits.wrapping_mul(0xc2b2_ae35);
    bits ^ bits >> 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        // Bounds near 2^32 make nearly every second draw be drawn again.
        #[test]
        fn ranks_are_the_draws_below_each_bound(
            key: u64, node: u64, first in prop_oneof![0_u32..2000, (u32::MAX - 70_000)..(u32::MAX - 64)], count in 1_usize..=64
        ) {
            let mut draws = Draws::new(key, node);
            let wanted: Vec<u32> = (0..count as u32).map(|place| draws.below(first + place + 1)).collect();
            let mut ranks = [0; 64];
            Draws::new(key, node).ranks(first, count, &mut ranks);
            prop_assert_eq!(&ranks[..count], wanted);
        }
    }
}
