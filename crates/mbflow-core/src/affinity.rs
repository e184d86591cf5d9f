//! How much neighbours are alike: a symmetric, normalised kernel on the edges of a neighbour graph.

use crate::{Error, Exec, Ragged, RaggedVec};

/// Rows worked on by one thread at a time.
const BLOCK: usize = 2048;

/// The natural logarithm of 2 in two parts, the first with so few bits that its products with small integers are exact.
const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// 1 / n! for n from 0 to 13, each the nearest number.
const INVERSE_FACTORIALS: [f64; 14] = {
    let mut inverse = [1.0; 14];
    let (mut factorial, mut n) = (1.0, 1);
    while n < 14 {
        factorial *= n as f64;
        inverse[n] = 1.0 / factorial;
        n += 1;
    }
    inverse
};

/// `e^-x` for `x >= 0`, the same bits on every machine: only operations that IEEE 754 fixes.
///
/// Relative error below 4e-16 while the result is a normal number; 0 from `x = 708` on. NaN gives NaN.
pub(crate) fn exp_negative(x: f64) -> f64 {
    if x >= 708.0 {
        return 0.0;
    }
    // e^-x = 2^-n e^r, |r| <= ln 2 / 2.
    let n = (x * std::f64::consts::LOG2_E + 0.5).floor();
    let r = (n * LN_2_HIGH - x) + n * LN_2_LOW;
    // The series of e^r to r^13 / 13!, whose next term is below 2^-56.
    let series = INVERSE_FACTORIALS.iter().rev().fold(0.0, |sum, term| sum * r + term);
    // n is 0 to 1022 here (and NaN becomes 0, with a NaN series), so the power is a normal number.
    series * f64::from_bits((1023 - n as u64) << 52)
}

/// A sparse symmetric kernel between the rows of a data set, with nothing between rows of different classes.
///
/// Row `i` of `neighbours` begins with `i` itself, then come the others, ascending. `weights` holds the entry of every edge.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Affinity {
    /// For every row, itself and the rows of its class that it is alike to.
    pub neighbours: RaggedVec<i32>,
    /// How alike, above 0 and at most 1, in the order of the neighbours.
    pub weights: Vec<f32>,
}

impl Affinity {
    /// The kernel of a neighbour graph.
    ///
    /// With `s_i` the squared distance of row `i` to the last of its neighbours, an edge weighs
    /// `exp(-d^2 / sqrt(s_i s_j))` (Zelnik-Manor, Perona, "Self-tuning spectral clustering", NIPS 2004), both
    /// directions the larger of the two, and a row itself 1. The weights are divided by the square roots of the sums of
    /// both their rows; after that, and not before, edges between classes are dropped, so a row near to other classes
    /// is worth less. Rows at distance 0 weigh 1, whatever the scale; where the scale is 0, all others weigh nothing.
    ///
    /// `neighbours` holds for every row others, each once, nearest first; `distances` the distance of every edge;
    /// `classes` a class for every row.
    ///
    /// O(edges * log(neighbours)) time; the extra memory is 8 bytes for each edge and 8 for each edge of the result.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for lengths that do not fit, a neighbour that is no row or the row itself, a distance
    /// that is negative or NaN; [`Error::Interrupted`].
    ///
    /// ```
    /// use mbflow_core::{Affinity, Exec, Ragged};
    ///
    /// let (offsets, neighbours) = ([0, 1, 2, 3], [1, 0, 1]);
    /// let graph = Ragged::new(&offsets, &neighbours)?;
    /// let affinity = Affinity::new(&Exec::serial(), graph, &[1.0, 1.0, 2.0], &[0, 0, 1])?;
    /// assert_eq!(affinity.neighbours.view().row(0), [0, 1]);
    /// assert_eq!(affinity.neighbours.view().row(2), [2]);
    /// # Ok::<(), mbflow_core::Error>(())
    /// ```
    pub fn new(
        exec: &Exec,
        neighbours: Ragged<'_, i32>,
        distances: &[f32],
        classes: &[i64],
    ) -> Result<Self, Error> {
        check(neighbours, distances, classes)?;
        let pairs = Pairs::new(exec, neighbours, distances, classes)?;
        let roots = pairs.inverse_roots(exec)?;
        pairs.collect(exec, &roots)
    }
}

fn check(graph: Ragged<'_, i32>, distances: &[f32], classes: &[i64]) -> Result<(), Error> {
    let rows = graph.len();
    if rows > i32::MAX as usize {
        return Err(Error::argument("neighbours", format!("expected fewer than 2^31 rows, got {rows}")));
    }
    if distances.len() != graph.values().len() {
        let message =
            format!("expected one an edge, {} in all, got {}", graph.values().len(), distances.len());
        return Err(Error::argument("distances", message));
    }
    if classes.len() != rows {
        let message = format!("expected one a row, {rows} in all, got {}", classes.len());
        return Err(Error::argument("classes", message));
    }
    for (row, neighbours) in graph.iter().enumerate() {
        if let Some(other) =
            neighbours.iter().find(|&&other| other < 0 || other as usize >= rows || other as usize == row)
        {
            let message = format!("row {row} names {other}; expected another row, 0 to {}", rows - 1);
            return Err(Error::argument("neighbours", message));
        }
    }
    if let Some(at) = distances.iter().position(|&distance| distance.is_nan() || distance < 0.0) {
        let message = format!("edge {at} has {}; expected a number of at least 0", distances[at]);
        return Err(Error::argument("distances", message));
    }
    Ok(())
}

/// A graph with, for every row, the rows that name it: what it takes to look at edges without a direction.
struct Pairs<'a> {
    graph: Ragged<'a, i32>,
    distances: &'a [f32],
    classes: &'a [i64],
    /// The distance of the last neighbour of each row: the square root of its scale.
    reach: Vec<f64>,
    /// The (row, distance) of every edge to a row, ascending by row.
    named_by: Vec<(u32, f32)>,
    starts: Vec<usize>,
}

impl<'a> Pairs<'a> {
    fn new(
        exec: &Exec,
        graph: Ragged<'a, i32>,
        distances: &'a [f32],
        classes: &'a [i64],
    ) -> Result<Self, Error> {
        let rows = graph.len();
        let offsets = graph.offsets();
        let reach = (0..rows)
            .map(|row| {
                let last = offsets[row + 1] as usize;
                if last == offsets[row] as usize { 0.0 } else { f64::from(distances[last - 1]) }
            })
            .collect();
        let mut starts = vec![0_usize; rows + 1];
        for &other in graph.values() {
            starts[other as usize + 1] += 1;
        }
        for row in 0..rows {
            starts[row + 1] += starts[row];
        }
        let mut next = starts.clone();
        let mut named_by = vec![(0, 0.0); distances.len()];
        for (row, neighbours) in graph.iter().enumerate() {
            if row % (1 << 14) == 0 {
                exec.check()?;
            }
            for (&other, &distance) in neighbours.iter().zip(&distances[offsets[row] as usize..]) {
                let place = &mut next[other as usize];
                named_by[*place] = (row as u32, distance);
                *place += 1;
            }
        }
        Ok(Self { graph, distances, classes, reach, named_by, starts })
    }

    /// Puts the rows linked with `row` in either direction into `linked`, ascending, each with the smaller distance.
    fn linked(&self, row: usize, linked: &mut Vec<(u32, f32)>) {
        linked.clear();
        let first = self.graph.offsets()[row] as usize;
        let named = self.graph.row(row).iter().zip(&self.distances[first..]);
        linked.extend(named.map(|(&other, &distance)| (other as u32, distance)));
        linked.extend_from_slice(&self.named_by[self.starts[row]..self.starts[row + 1]]);
        linked.sort_unstable_by_key(|&(other, distance)| (other, distance.to_bits()));
        linked.dedup_by_key(|&mut (other, _)| other);
    }

    fn weight(&self, row: usize, other: u32, distance: f32) -> f32 {
        weight(f64::from(distance), self.reach[row] * self.reach[other as usize])
    }

    fn blocks(&self) -> Vec<std::ops::Range<usize>> {
        let rows = self.graph.len();
        (0..rows).step_by(BLOCK).map(|first| first..(first + BLOCK).min(rows)).collect()
    }

    /// One over the square root of the sum of each row of the symmetric weights, the row itself included.
    fn inverse_roots(&self, exec: &Exec) -> Result<Vec<f64>, Error> {
        let blocks = exec.map(self.blocks(), |block| {
            let mut linked = Vec::new();
            let root = |row| {
                self.linked(row, &mut linked);
                let weights = linked.iter().map(|&(other, distance)| self.weight(row, other, distance));
                1.0 / weights.fold(1.0, |sum, weight| sum + f64::from(weight)).sqrt()
            };
            block.map(root).collect::<Vec<_>>()
        })?;
        Ok(blocks.concat())
    }

    fn collect(&self, exec: &Exec, roots: &[f64]) -> Result<Affinity, Error> {
        let blocks = exec.map(self.blocks(), |block| {
            let (mut linked, mut values, mut weights) = (Vec::new(), Vec::new(), Vec::new());
            let mut counts = Vec::with_capacity(block.len());
            for row in block {
                let before = values.len();
                values.push(row as i32);
                weights.push((roots[row] * roots[row]) as f32);
                self.linked(row, &mut linked);
                for &(other, distance) in &linked {
                    if self.classes[other as usize] != self.classes[row] {
                        continue;
                    }
                    let scaled =
                        f64::from(self.weight(row, other, distance)) * (roots[row] * roots[other as usize]);
                    if scaled as f32 > 0.0 {
                        values.push(other as i32);
                        weights.push(scaled as f32);
                    }
                }
                counts.push((values.len() - before) as i64);
            }
            (counts, values, weights)
        })?;
        let total = blocks.iter().map(|(_, values, _)| values.len()).sum();
        let mut offsets = Vec::with_capacity(self.graph.len() + 1);
        offsets.push(0);
        let (mut values, mut weights) = (Vec::with_capacity(total), Vec::with_capacity(total));
        let mut end = 0;
        // Each block is freed when it has been copied, so the copies are not held twice.
        for (counts, block_values, block_weights) in blocks {
            for count in counts {
                end += count;
                offsets.push(end);
            }
            values.extend_from_slice(&block_values);
            weights.extend_from_slice(&block_weights);
        }
        Ok(Affinity { neighbours: RaggedVec::from_parts(offsets, values)?, weights })
    }
}

/// `exp(-d^2 / scale)`, with its limits where the scale is 0 or infinite.
fn weight(distance: f64, scale: f64) -> f32 {
    if distance == 0.0 {
        return 1.0;
    }
    let exponent = distance * distance / scale; // infinite for a scale of 0
    if exponent.is_nan() { 0.0 } else { exp_negative(exponent) as f32 }
}

#[cfg(test)]
mod tests {
    use super::{exp_negative, weight};

    #[test]
    fn the_exponential_agrees_with_the_system() {
        for step in 0..70_000 {
            let x = f64::from(step) * 0.0101;
            let expected = (-x).exp();
            assert!((exp_negative(x) - expected).abs() <= 4e-16 * expected, "{x}");
        }
        assert_eq!(exp_negative(0.0), 1.0);
        assert_eq!(exp_negative(1e300), 0.0);
        assert_eq!(exp_negative(f64::INFINITY), 0.0);
        assert!(exp_negative(f64::NAN).is_nan());
    }

    #[test]
    fn weights_have_their_limits() {
        assert_eq!(weight(0.0, 0.0), 1.0);
        assert_eq!(weight(1.0, 0.0), 0.0);
        assert_eq!(weight(f64::INFINITY, f64::INFINITY), 0.0);
        assert_eq!(weight(1.0, f64::INFINITY), 1.0);
    }
}
