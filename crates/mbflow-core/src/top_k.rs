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

/// For each of several queries, the `k` smallest pairs offered so far, smallest first.
#[derive(Debug)]
pub(crate) struct TopK {
    k: usize,
    pairs: Vec<u64>,
    filled: Vec<usize>,
}

impl TopK {
    pub(crate) fn new(queries: usize, k: usize) -> Self {
        Self { k, pairs: vec![u64::MAX; queries * k], filled: vec![0; queries] }
    }

    /// Above this distance nothing is taken any more.
    #[inline]
    pub(crate) fn limit(&self, query: usize) -> f32 {
        if self.filled[query] < self.k {
            f32::INFINITY
        } else {
            distance(self.pairs[(query + 1) * self.k - 1])
        }
    }

    /// Takes the pair if it is among the `k` smallest so far; returns the new limit.
    #[inline]
    pub(crate) fn offer(&mut self, query: usize, offered: u64) -> f32 {
        let pairs = &mut self.pairs[query * self.k..][..self.k];
        let filled = &mut self.filled[query];
        if offered < pairs[self.k - 1] {
            // Unused places hold the largest value, so the list is in order as a whole.
            let mut place = self.k - 1;
            while place > 0 && pairs[place - 1] > offered {
                pairs[place] = pairs[place - 1];
                place -= 1;
            }
            pairs[place] = offered;
            *filled = (*filled + 1).min(self.k);
        }
        self.limit(query)
    }

    /// The pairs of one query, smallest first.
    pub(crate) fn row(&self, query: usize) -> &[u64] {
        &self.pairs[query * self.k..][..self.filled[query]]
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
