//! The inverse of the normal distribution function, the same to the bit on every machine.

/// The natural logarithm of a normal, positive number, by the series of the inverse hyperbolic tangent.
///
/// The system's `ln` differs in the last bit between platforms; this one uses only operations that IEEE 754 fixes.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    // ln m = 2 (s + s^3/3 + s^5/5 + ...), |s| <= 0.1716: the terms fall below 2^-53 before the twelfth.
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let series = (0..12).rev().fold(0.0, |sum, term| sum * square + 1.0 / f64::from(2 * term + 1));
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * s * series
}

fn horner(r: f64, coefficients: &[f64; 8]) -> f64 {
    coefficients.iter().fold(0.0, |sum, &coefficient| sum * r + coefficient)
}

/// The number below which a standard normal variable falls with probability `p`, for `0 < p < 1`.
///
/// Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Applied Statistics 1988 (PPND16):
/// relative error about 1e-16.
pub(crate) fn normal_quantile(p: f64) -> f64 {
    let centred = p - 0.5;
    if centred.abs() <= 0.425 {
        let r = 0.180_625 - centred * centred;
        return centred * horner(r, &CENTRE.0) / horner(r, &CENTRE.1);
    }
    let tail = if centred < 0.0 { p } else { 1.0 - p };
    let r = (-ln(tail)).sqrt();
    let magnitude = if r <= 5.0 {
        horner(r - 1.6, &MIDDLE.0) / horner(r - 1.6, &MIDDLE.1)
    } else {
        horner(r - 5.0, &FAR.0) / horner(r - 5.0, &FAR.1)
    };
    magnitude.copysign(centred)
}

/// Numerator and denominator, highest power first.
type Rational = ([f64; 8], [f64; 8]);

const CENTRE: Rational = (
    [
        2_509.080_928_730_122_7,
        33_430.575_583_588_13,
        67_265.770_927_008_7,
        45_921.953_931_549_87,
        13_731.693_765_509_46,
        1_971.590_950_306_551_3,
        133.141_667_891_784_38,
        3.387_132_872_796_366_5,
    ],
    [
        5_226.495_278_852_545,
        28_729.085_735_721_943,
        39_307.895_800_092_71,
        21_213.794_301_586_597,
        5_394.196_021_424_751,
        687.187_007_492_057_9,
        42.313_330_701_600_91,
        1.0,
    ],
);

const MIDDLE: Rational = (
    [
        7.745_450_142_783_414e-4,
        0.022_723_844_989_269_184,
        0.241_780_725_177_450_6,
        1.270_458_252_452_368_4,
        3.647_848_324_763_204_5,
        5.769_497_221_460_691,
        4.630_337_846_156_546,
        1.423_437_110_749_683_5,
    ],
    [
        1.050_750_071_644_416_9e-9,
        5.475_938_084_995_345e-4,
        0.015_198_666_563_616_457,
        0.148_103_976_427_480_08,
        0.689_767_334_985_1,
        1.676_384_830_183_803_8,
        2.053_191_626_637_759,
        1.0,
    ],
);

const FAR: Rational = (
    [
        2.010_334_399_292_288_1e-7,
        2.711_555_568_743_487_6e-5,
        0.001_242_660_947_388_078_4,
        0.026_532_189_526_576_124,
        0.296_560_571_828_504_87,
        1.784_826_539_917_291_3,
        5.463_784_911_164_114,
        6.657_904_643_501_103,
    ],
    [
        2.044_263_103_389_939_8e-15,
        1.421_511_758_316_446e-7,
        1.846_318_317_510_054_8e-5,
        7.868_691_311_456_133e-4,
        0.014_875_361_290_850_615,
        0.136_929_880_922_735_8,
        0.599_832_206_555_888,
        1.0,
    ],
);

#[cfg(test)]
mod tests {
    use super::{ln, normal_quantile};

    #[test]
    fn logarithm_agrees_with_the_system() {
        for power in -1000..1000 {
            let x = 1.37_f64.powi(power);
            assert!((ln(x) - x.ln()).abs() <= 4e-16 * x.ln().abs().max(0.5), "{x}");
        }
    }

    #[test]
    fn quantiles_agree_with_published_tables() {
        // Wichura 1988, section "Accuracy", and standard tables.
        for (p, expected) in [
            (0.25, -0.674_489_750_196_081_7),
            (0.001, -3.090_232_306_167_813_5),
            (1e-20, -9.262_340_089_798_408),
            (0.5, 0.0),
            (0.975, 1.959_963_984_540_054),
        ] {
            assert!((normal_quantile(p) - expected).abs() < 1e-14 * f64::max(1.0, expected.abs()), "{p}");
        }
    }

    #[test]
    fn quantiles_are_odd_and_increasing() {
        let points: Vec<f64> = (1..4096).map(|i| f64::from(i) / 4096.0).collect();
        for pair in points.windows(2) {
            assert!(normal_quantile(pair[0]) < normal_quantile(pair[1]));
        }
        for p in points {
            assert_eq!(normal_quantile(p).to_bits() << 1, normal_quantile(1.0 - p).to_bits() << 1);
        }
    }
}
