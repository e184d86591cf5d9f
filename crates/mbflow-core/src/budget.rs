//! How many items of a shape a batch may hold.

use crate::Error;

/// A float above this is not always less when one is taken from it.
const WHOLE: f64 = (1_u64 << 53) as f64;

/// One limit on a batch of `B` items that are padded to `T` seconds and `U` tokens:
/// `fixed + B · (item + seconds · T + seconds_squared · T² + tokens · U + tokens_squared · U² + product · T · U) <= most`.
///
/// ```
/// use mbflow_core::{BatchLimit, Budget};
///
/// let padded_seconds = BatchLimit { seconds: 1.0, most: 600.0, ..BatchLimit::default() };
/// assert_eq!(Budget::new(vec![padded_seconds], 1)?.items(20.0, 0.0), 30);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct BatchLimit {
    /// What a batch costs before any item is in it.
    pub fixed: f64,
    /// What every item costs.
    pub item: f64,
    /// The same for each second.
    pub seconds: f64,
    /// The same for each square second.
    pub seconds_squared: f64,
    /// The same for each token.
    pub tokens: f64,
    /// The same for each pair of tokens.
    pub tokens_squared: f64,
    /// The same for each pair of a second and a token.
    pub product: f64,
    /// What a batch may cost.
    pub most: f64,
}

impl BatchLimit {
    /// What one item of a shape costs.
    #[inline]
    fn cost(&self, seconds: f64, tokens: f64) -> f64 {
        self.item
            + seconds * (self.seconds + self.seconds_squared * seconds + self.product * tokens)
            + tokens * (self.tokens + self.tokens_squared * tokens)
    }

    fn items(&self, seconds: f64, tokens: f64) -> u64 {
        let cost = self.cost(seconds, tokens);
        let room = self.most - self.fixed;
        if room < cost {
            return u64::from(cost <= room * (1.0 + self.rounding()));
        }
        let mut items = (room / cost).floor();
        // A quotient may be rounded up to a whole number.
        while items > 0.0 && items * cost > room {
            items = if items > WHOLE { items.next_down() } else { items - 1.0 };
        }
        items as u64
    }

    /// By how much of itself the cost of one item may be above the room: what rounding its seconds up to single
    /// precision can add, so that an item that is as long as the limit is not above it.
    fn rounding(&self) -> f64 {
        let once = f64::from(f32::EPSILON);
        if self.seconds_squared > 0.0 {
            2.0 * once
        } else if self.seconds > 0.0 || self.product > 0.0 {
            once
        } else {
            0.0
        }
    }
}

/// All limits on a batch; each holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    limits: Vec<BatchLimit>,
    multiple: u64,
}

impl Budget {
    /// Checks the limits. Sizes are rounded down to a multiple of `multiple` where there are so many items.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] without limits, for numbers that are negative or not finite, and for a multiple of 0.
    pub fn new(limits: Vec<BatchLimit>, multiple: u64) -> Result<Self, Error> {
        if limits.is_empty() {
            return Err(Error::argument("limits", "expected at least one, got none"));
        }
        if multiple == 0 {
            return Err(Error::argument("multiple", "expected at least 1, got 0"));
        }
        for limit in &limits {
            let BatchLimit { fixed, item, seconds, seconds_squared, tokens, tokens_squared, product, most } =
                *limit;
            for number in [fixed, item, seconds, seconds_squared, tokens, tokens_squared, product, most] {
                if !(number.is_finite() && number >= 0.0) {
                    let message = format!("expected finite numbers that are not negative, got {number}");
                    return Err(Error::argument("limits", message));
                }
            }
        }
        Ok(Self { limits, multiple })
    }

    /// How many items of a shape a batch may hold: 0 when one alone is too large.
    #[inline]
    pub fn items(&self, seconds: f64, tokens: f64) -> u64 {
        let items = self.limits.iter().map(|limit| limit.items(seconds, tokens)).min().unwrap_or(0);
        if items < self.multiple { items } else { items - items % self.multiple }
    }

    /// Sizes are multiples of this, where there are so many items.
    #[inline]
    pub fn multiple(&self) -> u64 {
        self.multiple
    }
}
