//! The numbers that attention is worked out in: float32 to train, float64 to check it.

use std::ops::{Add, Mul, Sub};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// `f32` or `f64`, with an exponential that gives the same bits on every machine.
///
/// ```
/// use mbflow_core::Real;
///
/// assert_eq!(f64::ZERO.exp(), 1.0);
/// assert!((Real::exp(-1.0_f32) - 0.367_879_44).abs() < 1e-7);
/// assert_eq!(Real::exp(f32::LOWEST), 0.0);
/// ```
pub trait Real:
    sealed::Sealed
    + Copy
    + Default
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Minus infinity.
    const LOWEST: Self;

    /// The nearest number.
    fn from_f64(value: f64) -> Self;

    /// `self * factor + term`, rounded once.
    #[must_use]
    fn mul_add(self, factor: Self, term: Self) -> Self;

    /// 1 / self.
    #[must_use]
    fn recip(self) -> Self;

    /// e to the power of `self`, for numbers up to 0: those above give nothing of use. 0 where it would underflow.
    #[must_use]
    fn exp(self) -> Self;
}

macro_rules! real {
    ($real:ty, $bits:ty, $lowest:expr, $magic:expr, $mantissa:expr, $bias:expr, $high:expr, $low:expr, [$($terms:expr),+]) => {
        impl Real for $real {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOWEST: Self = <$real>::NEG_INFINITY;

            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as Self
            }

            #[inline(always)]
            fn mul_add(self, factor: Self, term: Self) -> Self {
                <$real>::mul_add(self, factor, term)
            }

            #[inline(always)]
            fn recip(self) -> Self {
                1.0 / self
            }

            // 2^n times a polynomial of what is left. Adding `magic` rounds to a whole n, which then stands in the
            // lowest bits: no conversion to an integer, so that the loop over lanes becomes vector instructions.
            #[inline(always)]
            fn exp(self) -> Self {
                const MAGIC: $real = $magic;
                const LOWEST: $real = $lowest;
                let shifted = <$real>::mul_add(self, std::f64::consts::LOG2_E as $real, MAGIC);
                let n = shifted - MAGIC;
                let rest = <$real>::mul_add(n, -$low, <$real>::mul_add(n, -$high, self));
                let mut sum: $real = 0.0;
                $(sum = <$real>::mul_add(sum, rest, $terms);)+
                let tail = <$real>::mul_add(sum * rest, rest, rest);
                let bits: $bits = (shifted.to_bits() << $mantissa).wrapping_add($bias << $mantissa);
                let power = (tail + 1.0) * <$real>::from_bits(bits);
                if self < LOWEST { 0.0 } else { power }
            }
        }
    };
}

real!(
    f32,
    u32,
    -87.0,
    12_582_912.0,
    23,
    127_u32,
    0.693_359_4_f32,
    -2.121_944_4e-4_f32,
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5]
);
real!(
    f64,
    u64,
    -708.0,
    6_755_399_441_055_744.0,
    52,
    1023_u64,
    0.693_145_751_953_125_f64,
    1.428_606_820_309_417_2e-6_f64,
    [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5
    ]
);

#[cfg(test)]
mod tests {
    use super::Real;

    #[test]
    fn exp_is_near_the_library_and_zero_far_below() {
        for step in 0..200_000 {
            let x = -f64::from(step) * 3.5e-3;
            let near = (Real::exp(x) / x.exp() - 1.0).abs();
            assert!(near < 4e-16 || x < -700.0, "{x}: {near}");
            let (single, exact) = (x as f32, f64::from(x as f32).exp());
            if single > -87.0 {
                let near = (f64::from(Real::exp(single)) / exact - 1.0).abs();
                assert!(near < 1.5e-7, "{single}: {near}");
            }
        }
        assert_eq!(Real::exp(-1e30_f32), 0.0);
        assert_eq!(Real::exp(f64::NEG_INFINITY), 0.0);
        assert!(Real::exp(f32::NAN).is_nan() && Real::exp(f64::NAN).is_nan());
        assert_eq!((Real::exp(0.0_f32), Real::exp(0.0_f64)), (1.0, 1.0));
    }
}
