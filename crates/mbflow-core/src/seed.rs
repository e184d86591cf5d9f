//! Randomness without state: every draw is a function of (seed, stream, index).
//!
//! The function is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//! Its key is the seed (low word, high word); its counter is (index low, index high, stream, attempt). A draw reads
//! the first two words of the block, low word first; `attempt` is 0 except when a bounded draw is rejected and drawn
//! again. So draw `index` of a stream costs the same wherever it stands, needs no draw before it, and is the same on
//! every machine, for any number of threads.

use std::num::NonZeroU64;

use crate::normal::normal_quantile;
use crate::{Error, Exec};

/// The streams the kernels draw from. Each purpose has its own, so that no two purposes share numbers.
///
/// Streams below 2^16 belong to mbflow; callers' own streams start at [`stream::USER`].
///
/// ```
/// use mbflow_core::{Seed, stream};
///
/// let seed = Seed(7);
/// assert_ne!(seed.u64_at(stream::PERMUTATION, 0), seed.u64_at(stream::PROJECTION, 0));
/// ```
pub mod stream {
    /// Entries of projection directions.
    pub const PROJECTION: u32 = 1;
    /// Offsets of p-stable codes.
    pub const OFFSET: u32 = 2;
    /// Keyed permutations.
    pub const PERMUTATION: u32 = 3;
    /// Seeds derived from seeds.
    pub const DERIVE: u32 = 4;
    /// Samples and start vectors of the directions that split buckets.
    pub const SPLIT: u32 = 5;
    /// The columns that a view of a graph looks at.
    pub const VIEW_COLUMNS: u32 = 16;
    /// The order of the classes in a stratified deal.
    pub const STRATA_CLASSES: u32 = 32;
    /// The order of the batches of a stratified deal.
    pub const STRATA_BATCHES: u32 = 33;
    /// The order of the rows of a class, and of the rows within a batch, in a stratified deal.
    pub const STRATA_ROWS: u32 = 34;
    /// Bootstrap samples and columns of the trees of a forest.
    pub const FOREST: u32 = 40;
    /// The order of the items of a bucket of lengths.
    pub const BUCKETS: u32 = 48;
    /// The order of items of equal length.
    pub const TIES: u32 = 49;
    /// Places of turns in rounds of several tracks.
    pub const TURNS: u32 = 50;
    /// Which attention coefficients dropout keeps.
    pub const ATTENTION: u32 = 60;
    /// Keys of the draws of a sample's layers.
    pub const NEIGHBOURS: u32 = 64;
    /// Keys of random walks.
    pub const WALKS: u32 = 65;
    /// Keys of pairs that no edge joins.
    pub const NEGATIVES: u32 = 66;
    /// The order of the seeds of an epoch.
    pub const SEEDS: u32 = 67;
    /// The first stream that callers may use for themselves.
    pub const USER: u32 = 1 << 16;
}

/// One block of Philox4x32-10: four words from a counter and a key.
///
/// ```
/// // A known answer of the Random123 distribution.
/// let block = mbflow_core::philox4x32([0; 4], [0; 2]);
/// assert_eq!(block, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
/// ```
#[inline]
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let first = u64::from(counter[0]) * 0xD251_1F53;
        let second = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// A seed: 64 bits from which every draw of a call follows.
///
/// ```
/// use mbflow_core::{Seed, stream};
///
/// assert_eq!(Seed(0).u64_at(0, 0), 0xe169_c58d_6627_e8d5);
/// assert_eq!(Seed(0).u64_at(stream::USER, 0), Seed(0).u64_at(stream::USER, 0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seed(pub u64);

/// Draws are made in blocks of this many by one thread.
const BLOCK: usize = 1 << 14;

impl Seed {
    #[inline]
    fn word(self, stream: u32, index: u64, attempt: u32) -> u64 {
        let counter = [index as u32, (index >> 32) as u32, stream, attempt];
        let block = philox4x32(counter, [self.0 as u32, (self.0 >> 32) as u32]);
        u64::from(block[0]) | u64::from(block[1]) << 32
    }

    /// Draw `index` of `stream`: 64 uniform bits.
    #[inline]
    pub fn u64_at(self, stream: u32, index: u64) -> u64 {
        self.word(stream, index, 0)
    }

    /// Draw `index` of `stream`: an integer uniform on `0..bound`, without bias.
    ///
    /// Lemire, "Fast random integer generation in an interval", TOMACS 2019. A rejected attempt draws again with the
    /// attempt word of the counter raised by one, so the result stays a function of (seed, stream, index, bound).
    ///
    /// ```
    /// use std::num::NonZeroU64;
    ///
    /// let six = NonZeroU64::new(6).expect("six is not zero");
    /// assert!((0..100).all(|index| mbflow_core::Seed(1).below(9, index, six) < 6));
    /// ```
    #[inline]
    pub fn below(self, stream: u32, index: u64, bound: NonZeroU64) -> u64 {
        let mut attempt = 0;
        loop {
            let product = u128::from(self.word(stream, index, attempt)) * u128::from(bound.get());
            let low = product as u64;
            // The division is needed only when the low half could be one of the surplus values.
            if low >= bound.get() || low >= bound.get().wrapping_neg() % bound {
                return (product >> 64) as u64;
            }
            attempt = attempt.wrapping_add(1);
        }
    }

    /// Draw `index` of `stream`: a standard normal number, by inversion of 52 uniform bits.
    ///
    /// Only additions, multiplications, divisions and square roots are used, so the bits are the same on every machine.
    ///
    /// ```
    /// let mean = (0..1000).map(|i| mbflow_core::Seed(5).normal(9, i)).sum::<f32>() / 1000.0;
    /// assert!(mean.abs() < 0.1);
    /// ```
    #[inline]
    pub fn normal(self, stream: u32, index: u64) -> f32 {
        let uniform = ((self.u64_at(stream, index) >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
        normal_quantile(uniform) as f32
    }

    /// A seed of its own for part `index` of whatever this seed is for.
    ///
    /// ```
    /// use mbflow_core::Seed;
    ///
    /// assert_ne!(Seed(1).derive(0), Seed(1).derive(1));
    /// ```
    #[inline]
    #[must_use]
    pub fn derive(self, index: u64) -> Self {
        Self(self.u64_at(stream::DERIVE, index))
    }

    /// A permutation of `0..len`, every one equally likely: Fisher-Yates over draws `1..len` of `stream`. O(len), by
    /// one thread.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the caller asks to stop.
    ///
    /// ```
    /// use mbflow_core::{Exec, Seed};
    ///
    /// let mut order = Seed(1).permutation(&Exec::serial(), 9, 5)?;
    /// order.sort_unstable();
    /// assert_eq!(order, [0, 1, 2, 3, 4]);
    /// # Ok::<(), mbflow_core::Error>(())
    /// ```
    pub fn permutation(self, exec: &Exec, stream: u32, len: usize) -> Result<Vec<i64>, Error> {
        let mut order: Vec<i64> = (0..len as i64).collect();
        for last in (1..len).rev() {
            if last % BLOCK == 0 {
                exec.check()?;
            }
            let bound = NonZeroU64::MIN.saturating_add(last as u64);
            order.swap(last, self.below(stream, last as u64, bound) as usize);
        }
        Ok(order)
    }

    /// Fills `out` with draws `start..start + out.len()` of `stream`.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the caller asks to stop.
    ///
    /// ```
    /// use mbflow_core::{Exec, Seed};
    ///
    /// let mut out = [0; 3];
    /// Seed(1).fill_u64(&Exec::serial(), 9, 5, &mut out)?;
    /// assert_eq!(out[2], Seed(1).u64_at(9, 7));
    /// # Ok::<(), mbflow_core::Error>(())
    /// ```
    pub fn fill_u64(self, exec: &Exec, stream: u32, start: u64, out: &mut [u64]) -> Result<(), Error> {
        fill(exec, start, out, |index| self.u64_at(stream, index))
    }

    /// Fills `out` with bounded draws `start..start + out.len()` of `stream`, see [`Seed::below`].
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the caller asks to stop.
    ///
    /// ```
    /// use mbflow_core::{Exec, Seed};
    ///
    /// let mut out = [9; 3];
    /// Seed(1).fill_below(&Exec::serial(), 9, 2.try_into().expect("not zero"), 0, &mut out)?;
    /// assert!(out.iter().all(|&draw| draw < 2));
    /// # Ok::<(), mbflow_core::Error>(())
    /// ```
    pub fn fill_below(
        self,
        exec: &Exec,
        stream: u32,
        bound: NonZeroU64,
        start: u64,
        out: &mut [u64],
    ) -> Result<(), Error> {
        fill(exec, start, out, |index| self.below(stream, index, bound))
    }

    /// Fills `out` with normal draws `start..start + out.len()` of `stream`, see [`Seed::normal`].
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the caller asks to stop.
    ///
    /// ```
    /// use mbflow_core::{Exec, Seed};
    ///
    /// let mut out = [0.0; 3];
    /// Seed(1).fill_normal(&Exec::serial(), 9, 0, &mut out)?;
    /// assert_eq!(out[1], Seed(1).normal(9, 1));
    /// # Ok::<(), mbflow_core::Error>(())
    /// ```
    pub fn fill_normal(self, exec: &Exec, stream: u32, start: u64, out: &mut [f32]) -> Result<(), Error> {
        fill(exec, start, out, |index| self.normal(stream, index))
    }
}

fn fill<T: Send>(
    exec: &Exec,
    start: u64,
    out: &mut [T],
    draw: impl Fn(u64) -> T + Sync,
) -> Result<(), Error> {
    let blocks: Vec<_> = out.chunks_mut(BLOCK).enumerate().collect();
    exec.run(blocks, |(block, values)| {
        let first = start.wrapping_add((block * BLOCK) as u64);
        for (offset, value) in values.iter_mut().enumerate() {
            *value = draw(first.wrapping_add(offset as u64));
        }
    })
}
