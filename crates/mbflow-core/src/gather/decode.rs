//! How stored values become those of the output.

use crate::simd::prefetch;

/// Bytes that a cache is filled by.
const LINE: usize = 64;

/// Turns the bytes of a row into values.
///
/// All functions are inlined into the loops over rows, to be compiled for their instruction set.
pub(super) trait Decode: Copy + Send + Sync {
    /// What comes out.
    type Value: Send;
    /// Bytes of a stored value.
    const BYTES: usize;

    /// Asks for what else is needed of a row to come.
    #[inline(always)]
    fn ask(self, _row: usize) {}

    /// The same, for the values of one row.
    #[inline(always)]
    #[must_use]
    fn of_row(self, _row: usize) -> Self {
        self
    }

    /// Writes the values that the bytes of a row hold, and calls `ask` with places in a row that together lie on each of
    /// its lines, wherever these begin.
    #[inline(always)]
    fn decode(self, from: &[u8], out: &mut [Self::Value], ask: impl Fn(usize)) {
        for place in (0..from.len()).step_by(LINE) {
            ask(place);
        }
        ask(from.len() - 1);
        self.convert(from, out);
    }

    /// Writes the values that some bytes hold.
    fn convert(self, from: &[u8], out: &mut [Self::Value]);
}

/// Bytes as they are stored.
#[derive(Clone, Copy)]
pub(super) struct Stored;

impl Decode for Stored {
    type Value = u8;
    const BYTES: usize = 1;

    /// One line is asked for with each line that is copied.
    #[inline(always)]
    fn decode(self, from: &[u8], out: &mut [u8], ask: impl Fn(usize)) {
        let ((lines, rest), (lines_out, rest_out)) = (from.as_chunks::<LINE>(), out.as_chunks_mut::<LINE>());
        let end = from.len() - 1;
        ask(0);
        for (line, (from, out)) in lines.iter().zip(lines_out).enumerate() {
            ask(((line + 1) * LINE).min(end));
            *out = *from;
        }
        ask(end);
        self.convert(rest, rest_out);
    }

    #[inline(always)]
    fn convert(self, from: &[u8], out: &mut [u8]) {
        out.copy_from_slice(from);
    }
}

/// IEEE 754 binary16.
#[derive(Clone, Copy)]
pub(super) struct Float16;

impl Decode for Float16 {
    type Value = f32;
    const BYTES: usize = 2;

    #[inline(always)]
    fn convert(self, from: &[u8], out: &mut [f32]) {
        for (bytes, value) in from.as_chunks::<2>().0.iter().zip(out) {
            *value = float16(u16::from_ne_bytes(*bytes));
        }
    }
}

/// The float32 of the same value.
///
/// Three cases and no jump, so that a register of values is converted at once. Machines have an instruction for it; but
/// the baseline lacks it, and it changes NaNs. No step reads or makes a subnormal float32, so that a thread that flushes
/// those to zero gets the same values.
#[inline(always)]
fn float16(bits: u16) -> f32 {
    /// The place of the exponent, and what the exponents of the two types differ by.
    const EXPONENT: u32 = 23;
    const BIAS: u32 = (127 - 15) << EXPONENT;
    /// All ones in the exponent of a float16: infinite or NaN.
    const SPECIAL: u32 = 0x1f << EXPONENT;
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let exponent = magnitude & SPECIAL;
    let normal = magnitude + BIAS;
    // With one more in the exponent a subnormal reads as 2^-14 + its value; the difference is exact.
    let smallest = BIAS + (1 << EXPONENT);
    let subnormal = f32::from_bits(magnitude + smallest) - f32::from_bits(smallest);
    let magnitude = if exponent == SPECIAL {
        normal + BIAS
    } else if exponent == 0 {
        subnormal.to_bits()
    } else {
        normal
    };
    f32::from_bits(magnitude | u32::from(bits & 0x8000) << 16)
}

/// The upper half of a float32.
#[derive(Clone, Copy)]
pub(super) struct BFloat16;

impl Decode for BFloat16 {
    type Value = f32;
    const BYTES: usize = 2;

    #[inline(always)]
    fn convert(self, from: &[u8], out: &mut [f32]) {
        for (bytes, value) in from.as_chunks::<2>().0.iter().zip(out) {
            *value = f32::from_bits(u32::from(u16::from_ne_bytes(*bytes)) << 16);
        }
    }
}

/// Whole numbers times the scale of their row.
#[derive(Clone, Copy)]
pub(super) struct Int8<'a> {
    scales: &'a [f32],
    scale: f32,
}

impl<'a> Int8<'a> {
    /// Needs a scale for each row.
    pub(super) fn new(scales: &'a [f32]) -> Self {
        Self { scales, scale: 0.0 }
    }
}

impl Decode for Int8<'_> {
    type Value = f32;
    const BYTES: usize = 1;

    #[inline(always)]
    fn ask(self, row: usize) {
        prefetch(self.scales, row);
    }

    #[inline(always)]
    fn of_row(self, row: usize) -> Self {
        Self { scale: self.scales[row], ..self }
    }

    #[inline(always)]
    fn convert(self, from: &[u8], out: &mut [f32]) {
        for (&byte, value) in from.iter().zip(out) {
            *value = f32::from(byte.cast_signed()) * self.scale;
        }
    }
}
