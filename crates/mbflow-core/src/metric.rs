//! The metrics of neighbour graphs, and how the inner loops compute them.

use std::borrow::Cow;

use crate::simd::Gap;
use crate::{Error, Exec, Matrix};

/// Rows normalised by one thread at a time.
const BLOCK: usize = 4096;

/// How far two rows are from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Metric {
    /// The root of the sum of squared differences.
    #[default]
    Euclidean,
    /// The sum of absolute differences.
    Manhattan,
    /// One minus the cosine of the angle between two rows, computed as half the squared distance of the rows divided
    /// by their lengths; so equal directions are at a distance near 0, equal rows at exactly 0. A row of zeros is at
    /// distance 1 from every row that has a direction, and at 0 from other rows of zeros.
    Cosine,
}

/// Rows as the inner loops need them for one metric.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    values: Cow<'a, [f32]>,
    rows: usize,
    width: usize,
}

impl Prepared<'_> {
    pub(crate) fn matrix(&self) -> Result<Matrix<'_>, Error> {
        Matrix::new(&self.values, self.rows, self.width)
    }
}

impl Metric {
    /// What the inner loops sum.
    pub(crate) fn gap(self) -> Gap {
        match self {
            Self::Manhattan => Gap::Absolute,
            Self::Euclidean | Self::Cosine => Gap::Square,
        }
    }

    /// The distance that a sum of the inner loops stands for.
    pub(crate) fn distance(self, sum: f32) -> f32 {
        match self {
            Self::Euclidean => sum.sqrt(),
            Self::Manhattan => sum,
            // Rounded rows may be a little longer than 1; no angle is wider than the opposite direction.
            Self::Cosine => (sum / 2.0).min(2.0),
        }
    }

    /// One over one plus the distance, and for cosines one minus the distance: 1 for equal rows.
    pub(crate) fn similarity(self, distance: f32) -> f32 {
        match self {
            Self::Euclidean | Self::Manhattan => 1.0 / (1.0 + distance),
            Self::Cosine => 1.0 - distance,
        }
    }

    /// Checks the values and, for cosines, divides every row by its length; where rows of zeros occur, one more column
    /// is theirs alone.
    pub(crate) fn prepare<'a>(self, exec: &Exec, rows: &Matrix<'a>) -> Result<Prepared<'a>, Error> {
        rows.check_values(exec)?;
        let (count, width) = (rows.rows(), rows.width());
        if self != Self::Cosine {
            return Ok(Prepared { values: Cow::Borrowed(rows.values()), rows: count, width });
        }
        let zeros = exec
            .map(rows.blocks(BLOCK).collect(), |block| {
                block.chunks_exact(width).any(|row| row.iter().all(|&value| value == 0.0))
            })?
            .contains(&true);
        let wide = width + usize::from(zeros);
        let mut values = vec![0.0_f32; count * wide];
        let blocks: Vec<_> = rows.blocks(BLOCK).zip(values.chunks_mut(BLOCK * wide)).collect();
        exec.run(blocks, |(block, out)| {
            for (row, out) in block.chunks_exact(width).zip(out.chunks_exact_mut(wide)) {
                let squares: f64 = row.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
                if squares == 0.0 {
                    out[width] = 1.0;
                    continue;
                }
                let length = squares.sqrt();
                for (&value, out) in row.iter().zip(out) {
                    *out = (f64::from(value) / length) as f32;
                }
            }
        })?;
        Ok(Prepared { values: Cow::Owned(values), rows: count, width: wide })
    }
}

#[cfg(test)]
mod tests {
    use super::Metric;
    use crate::{Exec, Matrix, squared_distance};

    #[test]
    fn rows_of_zeros_are_at_a_right_angle_to_all_others() {
        let values = [3.0, 4.0, 0.0, 0.0, -6.0, -8.0, 0.0, 0.0, 1e-30, 0.0];
        let rows = Matrix::new(&values, 5, 2).unwrap();
        let prepared = Metric::Cosine.prepare(&Exec::serial(), &rows).unwrap();
        let rows = prepared.matrix().unwrap();
        let distance = |a, b| Metric::Cosine.distance(squared_distance(rows.row(a), rows.row(b)));
        assert_eq!(distance(0, 1), 1.0);
        assert_eq!(distance(1, 3), 0.0);
        assert_eq!(distance(0, 2), 2.0);
        assert!((distance(0, 4) - 0.4).abs() < 1e-6);
    }

    #[test]
    fn no_cosine_leaves_its_range() {
        for number in 1..2000_u16 {
            let (x, y) = (f32::from(number).sqrt(), f32::from(number % 37 + 1));
            let values = [x, y, -x, -y];
            let rows = Matrix::new(&values, 2, 2).unwrap();
            let prepared = Metric::Cosine.prepare(&Exec::serial(), &rows).unwrap();
            let rows = prepared.matrix().unwrap();
            let distance = Metric::Cosine.distance(squared_distance(rows.row(0), rows.row(1)));
            assert!((2.0 - 1e-6..=2.0).contains(&distance), "{x} {y}: {distance}");
            assert!(Metric::Cosine.similarity(distance) >= -1.0);
        }
    }
}
