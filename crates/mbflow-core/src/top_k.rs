//! The k smallest (distance, number) pairs seen, for several queries.

/// A pair as one integer that orders by distance, then by number. Distances are not negative, so their bits order as
/// they do.
#[inline]
pub(crate) fn pair(distance: f32, number: u32) -> u64 {
    u64::from(distance.to_bits()) << 32 | u64::from(number)
}

/// The distance of a pair.
#[inline]
pub(crate) fn distance(pair: u64) -> f32 {
    f32::from_bits((pair >> 32) as u32)
}

/// The number of a pair.
#[inline]
pub(crate) fn number(pair: u64) -> u32 {
    pair as u32
}

/// What stands in a place that holds no pair yet: above every pair, at no finite distance.
pub(crate) const NONE: u64 = (f32::INFINITY.to_bits() as u64) << 32 | u32::MAX as u64;

/// For each of several queries, the `k` smallest pairs offered so far, smallest first.
#[derive(Debug)]
pub(crate) struct TopK {
    k: usize,
    pairs: Vec<u64>,
}

impl TopK {
    pub(crate) fn new(queries: usize, k: usize) -> Self {
        Self { k, pairs: vec![NONE; queries * k] }
    }

    /// Goes on from lists of `k` pairs each, in order, with [`NONE`] in unused places.
    pub(crate) fn from_lists(pairs: Vec<u64>, k: usize) -> Self {
        Self { k, pairs }
    }

    /// Above this distance nothing is taken any more: infinite while there is room.
    #[inline]
    pub(crate) fn limit(&self, query: usize) -> f32 {
        distance(self.pairs[(query + 1) * self.k - 1])
    }

    /// Takes the pair if it is among the `k` smallest so far; returns the new limit.
    #[inline]
    pub(crate) fn offer(&mut self, query: usize, offered: u64) -> f32 {
        let pairs = &mut self.pairs[query * self.k..][..self.k];
        let last = pairs.len() - 1;
        if offered < pairs[last] {
            if last < 16 {
                // Each place takes the middle one of its pair, the one before and the new one: no branch to guess.
                for place in (1..=last).rev() {
                    pairs[place] = pairs[place].min(pairs[place - 1].max(offered));
                }
                pairs[0] = pairs[0].min(offered);
            } else {
                let place = pairs.partition_point(|&kept| kept < offered);
                pairs.copy_within(place..last, place + 1);
                pairs[place] = offered;
            }
        }
        distance(pairs[last])
    }

    /// As [`TopK::offer`] for a pair that may have been taken before, which then changes nothing.
    #[inline]
    pub(crate) fn offer_again(&mut self, query: usize, offered: u64) -> f32 {
        let pairs = &self.pairs[query * self.k..][..self.k];
        if offered < pairs[pairs.len() - 1] && !pairs.contains(&offered) {
            return self.offer(query, offered);
        }
        self.limit(query)
    }

    /// The pairs of one query, smallest first.
    pub(crate) fn row(&self, query: usize) -> &[u64] {
        let pairs = self.list(query);
        &pairs[..pairs.partition_point(|&kept| kept < NONE)]
    }

    /// All places of one query, with [`NONE`] in unused ones.
    pub(crate) fn list(&self, query: usize) -> &[u64] {
        &self.pairs[query * self.k..][..self.k]
    }

    /// All places of all queries.
    pub(crate) fn lists(&self) -> &[u64] {
        &self.pairs
    }
}

#[cfg(test)]
mod tests {
    use super::{TopK, distance, number, pair};

    #[test]
    fn keeps_the_smallest_with_ties_by_number() {
        let mut top = TopK::new(2, 3);
        assert_eq!(top.limit(1), f32::INFINITY);
        for (value, row) in [(4.0, 9), (1.0, 7), (1.0, 3), (9.0, 1), (0.0, 8), (1.0, 5)] {
            top.offer(1, pair(value, row));
        }
        let kept: Vec<_> = top.row(1).iter().map(|&kept| (distance(kept), number(kept))).collect();
        assert_eq!(kept, [(0.0, 8), (1.0, 3), (1.0, 5)]);
        assert_eq!(top.limit(1), 1.0);
        assert!(top.row(0).is_empty());
    }
}
