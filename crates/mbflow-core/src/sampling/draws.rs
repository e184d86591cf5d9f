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
