//! Dividing rows into buckets: by codes first, then at medians.

use std::num::NonZeroU64;

use crate::{Error, Exec, Matrix, Seed, Simd, stream};

/// Rows sampled to find the direction of a split, and power iterations on them.
const SAMPLE: usize = 48;
const ITERATIONS: usize = 2;
/// Nodes above this size are divided by several threads at once.
const PARALLEL: usize = 1 << 14;

/// The codes of all rows, column after column within a row.
pub(super) enum Codes {
    /// One bucket takes all rows.
    None,
    /// A word a row, and how many of its bits count.
    Sign(Vec<u64>, usize),
    /// That many cells a row.
    PStable(Vec<i32>, usize),
}

impl Codes {
    fn columns(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Sign(_, columns) | Self::PStable(_, columns) => *columns,
        }
    }
}

/// Disjoint sets of rows, each in the order of the row numbers.
pub(crate) struct Buckets {
    starts: Vec<usize>,
    rows: Vec<u32>,
}

impl Buckets {
    /// From the sizes of consecutive pieces of `rows`.
    pub(crate) fn new(sizes: impl IntoIterator<Item = usize>, rows: Vec<u32>) -> Self {
        let mut starts = vec![0];
        let mut end = 0;
        for size in sizes {
            end += size;
            starts.push(end);
        }
        Self { starts, rows }
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub(super) fn get(&self, bucket: usize) -> &[u32] {
        &self.rows[self.starts[bucket]..self.starts[bucket + 1]]
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        self.starts.windows(2).map(|pair| &self.rows[pair[0]..pair[1]])
    }

    /// All rows, bucket after bucket.
    pub(crate) fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// The rows, for rearranging, and where buckets start.
    pub(super) fn into_parts(self) -> (Vec<usize>, Vec<u32>) {
        (self.starts, self.rows)
    }
}

/// How rows are divided.
pub(super) struct Dividing<'a> {
    pub(super) exec: &'a Exec,
    pub(super) rows: &'a Matrix<'a>,
    pub(super) cap: usize,
    /// A division by codes leaves no fewer on either side.
    pub(super) minimum: usize,
    pub(super) codes: &'a Codes,
    pub(super) simd: Simd,
}

/// The sizes of the buckets that a set of rows was divided into, in order, and how many codes alone would make.
struct Divided {
    sizes: Vec<usize>,
    by_code: usize,
}

impl Dividing<'_> {
    /// Divides all rows; also says how many buckets the codes alone make.
    pub(super) fn divide_all(&self, seed: Seed) -> Result<(Buckets, usize), Error> {
        let mut order: Vec<u32> = (0..self.rows.rows() as u32).collect();
        let divided = self.divide(&mut order, 0, seed)?;
        Ok((self.sorted(divided.sizes, order)?, divided.by_code))
    }

    /// Divides those of the given buckets that are above the cap, by codes from `first_column` on.
    pub(super) fn divide_buckets(
        &self,
        buckets: Buckets,
        first_column: usize,
        seed: Seed,
    ) -> Result<Buckets, Error> {
        let (starts, mut order) = buckets.into_parts();
        let mut sizes = Vec::with_capacity(starts.len());
        for (bucket, pair) in starts.windows(2).enumerate() {
            if pair[1] - pair[0] > self.cap {
                let rows = &mut order[pair[0]..pair[1]];
                sizes.extend(self.divide(rows, first_column, seed.derive(bucket as u64))?.sizes);
            } else {
                sizes.push(pair[1] - pair[0]);
            }
        }
        self.sorted(sizes, order)
    }

    /// Puts the rows of each bucket into the order of their numbers.
    fn sorted(&self, sizes: Vec<usize>, mut order: Vec<u32>) -> Result<Buckets, Error> {
        let mut rest = order.as_mut_slice();
        let mut pieces = Vec::with_capacity(sizes.len());
        for &size in &sizes {
            let (piece, after) = rest.split_at_mut(size);
            pieces.push(piece);
            rest = after;
        }
        self.exec.run(pieces, <[u32]>::sort_unstable)?;
        Ok(Buckets::new(sizes, order))
    }

    fn divide(&self, rows: &mut [u32], first_column: usize, seed: Seed) -> Result<Divided, Error> {
        if rows.len() <= self.cap {
            return Ok(Divided { sizes: vec![rows.len()], by_code: 1 });
        }
        self.exec.check()?;
        let columns = self.codes.columns();
        let cut = (first_column..columns).find_map(|column| Some((self.cut(rows, column)?, column)));
        let (middle, column) = match cut {
            Some((middle, column)) => (middle, column),
            None => (self.split(rows, seed)?, columns),
        };
        // The cells of one projection may be cut again, the two sides of a hyperplane not.
        let next = if matches!(self.codes, Codes::Sign(..)) { columns.min(column + 1) } else { column };
        let (low, high) = rows.split_at_mut(middle);
        let large = low.len() + high.len() > PARALLEL;
        let (low_seed, high_seed) = (seed.derive(0), seed.derive(1));
        let (low, high) = if large {
            self.exec.join(|| self.divide(low, next, low_seed), || self.divide(high, next, high_seed))
        } else {
            (self.divide(low, next, low_seed), self.divide(high, next, high_seed))
        };
        let (mut low, high) = (low?, high?);
        low.sizes.extend(high.sizes);
        low.by_code = if cut.is_some() { low.by_code + high.by_code } else { 1 };
        Ok(low)
    }

    /// Arranges rows by one column of their codes and says where to cut; `None` when a side would be too small.
    fn cut(&self, rows: &mut [u32], column: usize) -> Option<usize> {
        match self.codes {
            Codes::None => None,
            Codes::Sign(words, _) => {
                let is_set = |row: u32| words[row as usize] >> column & 1 == 1;
                let unset = rows.iter().filter(|&&row| !is_set(row)).count();
                if unset.min(rows.len() - unset) < self.minimum {
                    return None;
                }
                // Each misplaced row on the left changes places with one on the right.
                let (low, high) = rows.split_at_mut(unset);
                let mut misplaced = high.iter_mut().filter(|row| !is_set(**row));
                for row in low.iter_mut().filter(|row| is_set(**row)) {
                    let other = misplaced.next().expect("as many rows are misplaced on either side");
                    std::mem::swap(row, other);
                }
                Some(unset)
            }
            Codes::PStable(cells, columns) => {
                let cell = |row: u32| cells[row as usize * columns + column];
                rows.sort_unstable_by_key(|&row| (cell(row), row));
                let middle = rows.len() / 2;
                let value = cell(rows[middle]);
                // The two ends of the run of equal cells that holds the middle; the one nearer to the middle.
                let start = rows[..middle].partition_point(|&row| cell(row) < value);
                let end = middle + rows[middle..].partition_point(|&row| cell(row) <= value);
                let nearer = if middle - start <= end - middle { start } else { end };
                let other = if nearer == start { end } else { start };
                [nearer, other].into_iter().find(|&at| at.min(rows.len() - at) >= self.minimum.max(1))
            }
        }
    }

    /// Arranges rows so that the half with the smaller (projection, row number) comes first; returns where it ends.
    fn split(&self, rows: &mut [u32], seed: Seed) -> Result<usize, Error> {
        let direction = self.direction(rows, seed);
        let key = |rows: &[u32]| {
            let mut products = vec![0.0; rows.len()];
            self.simd.dots(self.rows, rows, &direction, &mut products);
            let keys = rows.iter().zip(products);
            keys.map(|(&row, product)| u64::from(ordered(product)) << 32 | u64::from(row)).collect::<Vec<_>>()
        };
        let mut keys = if rows.len() > PARALLEL {
            self.exec.map(rows.chunks(PARALLEL / 4).collect(), key)?.concat()
        } else {
            key(rows)
        };
        let middle = keys.len() / 2;
        keys.select_nth_unstable(middle);
        for (row, key) in rows.iter_mut().zip(keys) {
            *row = key as u32;
        }
        Ok(middle)
    }

    /// A direction along which the rows spread widely: power iterations on a sample, from a random start.
    fn direction(&self, rows: &[u32], seed: Seed) -> Vec<f32> {
        let width = self.rows.width();
        let count = NonZeroU64::new(rows.len() as u64).expect("only sets above the cap are split");
        let sample: Vec<&[f32]> = (0..SAMPLE as u64)
            .map(|draw| self.rows.row(rows[seed.below(stream::SPLIT, draw, count) as usize] as usize))
            .collect();
        let mut mean = vec![0.0_f64; width];
        for row in &sample {
            for (mean, &value) in mean.iter_mut().zip(*row) {
                *mean += f64::from(value) / SAMPLE as f64;
            }
        }
        let start =
            (0..width as u64).map(|column| f64::from(seed.normal(stream::SPLIT, SAMPLE as u64 + column)));
        let mut direction: Vec<f64> = start.collect();
        for _ in 0..ITERATIONS {
            let mut next = vec![0.0; width];
            for row in &sample {
                let centred = || row.iter().zip(&mean).map(|(&value, mean)| f64::from(value) - mean);
                let product: f64 =
                    centred().zip(&direction).map(|(value, direction)| value * direction).sum();
                for (next, value) in next.iter_mut().zip(centred()) {
                    *next += product * value;
                }
            }
            let largest = next.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
            if largest <= f64::MIN_POSITIVE {
                break; // the sampled rows are equal: any direction will do
            }
            direction = next.into_iter().map(|value| value / largest).collect();
        }
        direction.into_iter().map(|value| value as f32).collect()
    }
}

/// The bits of a number, so that integers order as numbers do.
fn ordered(value: f32) -> u32 {
    let bits = (value + 0.0).to_bits(); // -0.0 becomes 0.0
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

#[cfg(test)]
mod tests {
    use super::ordered;

    #[test]
    fn integers_order_as_the_numbers_do() {
        let numbers = [f32::MIN, -2.5, -1.0, -f32::MIN_POSITIVE, -1e-45, 0.0, 1e-45, 0.5, 1.0, f32::MAX];
        assert!(numbers.is_sorted_by(|&a, &b| ordered(a) < ordered(b)));
        assert_eq!(ordered(-0.0), ordered(0.0));
    }
}
