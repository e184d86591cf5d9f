//! A random forest: a small, quick judge of how well some rows teach the classes of others.

use std::num::NonZeroU64;

use crate::seed::stream;
use crate::{Error, Exec, Matrix, Seed};

/// Queries answered by one thread at a time.
const BLOCK: usize = 256;
/// The left child's place of a leaf.
const LEAF: u32 = u32::MAX;

/// A random forest of classification trees (Breiman, "Random forests", 2001).
///
/// Every tree is grown in full on a bootstrap sample; a node is split at the best threshold, by the Gini impurity, of
/// `sqrt(width)` columns drawn for it, or of as many more as it takes to find one that is not constant. Trees vote with
/// the most frequent class of a leaf; ties go to the lower class. The same bits for any number of threads.
///
/// ```
/// use mbflow_core::{Exec, Forest, Matrix, Seed};
///
/// let rows = [0.0, 1.0, 2.0, 10.0, 11.0, 12.0];
/// let rows = Matrix::new(&rows, 6, 1)?;
/// let forest = Forest::fit(&Exec::serial(), &rows, &[0, 0, 0, 1, 1, 1], 30, Seed(1))?;
/// let queries = [1.5, 10.5];
/// assert_eq!(forest.predict(&Exec::serial(), &Matrix::new(&queries, 2, 1)?)?, [0, 1]);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Forest {
    trees: Vec<Vec<Node>>,
    width: usize,
    classes: usize,
}

/// A node: rows with `value of column <= threshold` go to the child at `left`, others to the one after it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Node {
    threshold: f32,
    left: u32,
    /// The column, or the class of a leaf.
    name: u32,
}

impl Forest {
    /// Grows a forest on rows with a class each, `0..classes`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when there is not one class a row, a class is negative or not below the number of
    /// rows and 2^16, or there is no tree; [`Error::BadValue`] for NaN or infinite features; [`Error::Interrupted`].
    pub fn fit(
        exec: &Exec,
        rows: &Matrix<'_>,
        classes: &[i64],
        trees: usize,
        seed: Seed,
    ) -> Result<Self, Error> {
        if classes.len() != rows.rows() {
            let message = format!("expected one a row, {} in all, got {}", rows.rows(), classes.len());
            return Err(Error::argument("classes", message));
        }
        if let Some(class) = classes.iter().find(|class| !(0..1 << 16).contains(*class)) {
            return Err(Error::argument("classes", format!("expected numbers from 0 to 65535, got {class}")));
        }
        if trees == 0 {
            return Err(Error::argument("trees", "expected at least 1, got 0"));
        }
        rows.check_values(exec)?;
        let count = classes.iter().max().map_or(0, |&class| class as usize + 1);
        let codes: Vec<u32> = classes.iter().map(|&class| class as u32).collect();
        // Column after column, since a node reads one column of many rows.
        let mut columns = vec![0.0; rows.values().len()];
        for (row, values) in rows.values().chunks_exact(rows.width()).enumerate() {
            for (column, &value) in values.iter().enumerate() {
                columns[column * rows.rows() + row] = value;
            }
        }
        let trees = exec.map((0..trees as u64).collect(), |tree| {
            let mut growing = Growing {
                columns: &columns,
                codes: &codes,
                rows: rows.rows(),
                order: (0..rows.width() as u32).collect(),
                left: vec![0; count],
                right: vec![0; count],
                pairs: Vec::new(),
                seed: seed.derive(tree),
                draws: 0,
            };
            growing.tree()
        })?;
        Ok(Self { trees, width: rows.width(), classes: count })
    }

    /// The class of every query, by the votes of the trees.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the width is another; [`Error::BadValue`] for NaN or infinite features;
    /// [`Error::Interrupted`].
    pub fn predict(&self, exec: &Exec, queries: &Matrix<'_>) -> Result<Vec<i64>, Error> {
        if queries.width() != self.width {
            let message =
                format!("expected {} columns, as the rows have, got {}", self.width, queries.width());
            return Err(Error::argument("queries", message));
        }
        queries.check_values(exec)?;
        let blocks = (0..queries.rows()).step_by(BLOCK).collect();
        let found = exec.map(blocks, |first: usize| {
            let block = first..(first + BLOCK).min(queries.rows());
            let mut votes = vec![0_u32; block.len() * self.classes];
            for tree in &self.trees {
                for (votes, query) in votes.chunks_exact_mut(self.classes).zip(block.clone()) {
                    votes[class_of(tree, queries.row(query)) as usize] += 1;
                }
            }
            votes.chunks_exact(self.classes).map(most).map(|class| class as i64).collect::<Vec<_>>()
        })?;
        Ok(found.into_iter().flatten().collect())
    }
}

/// The place of the largest number, the lowest of equals.
fn most(counts: &[u32]) -> usize {
    (0..counts.len()).rev().max_by_key(|&class| counts[class]).unwrap_or(0)
}

fn class_of(tree: &[Node], row: &[f32]) -> u32 {
    let mut node = tree[0];
    while node.left != LEAF {
        let goes_right = row[node.name as usize] > node.threshold;
        node = tree[node.left as usize + usize::from(goes_right)];
    }
    node.name
}

/// What growing one tree needs.
struct Growing<'a> {
    columns: &'a [f32],
    codes: &'a [u32],
    rows: usize,
    /// The columns in the order they were last drawn.
    order: Vec<u32>,
    left: Vec<u32>,
    right: Vec<u32>,
    pairs: Vec<(f32, u32)>,
    seed: Seed,
    draws: u64,
}

struct Split {
    purity: f64,
    column: u32,
    threshold: f32,
}

impl Growing<'_> {
    fn below(&mut self, bound: usize) -> usize {
        self.draws += 1;
        let bound = NonZeroU64::MIN.saturating_add(bound as u64 - 1);
        self.seed.below(stream::FOREST, self.draws, bound) as usize
    }

    fn tree(&mut self) -> Vec<Node> {
        let mut sample: Vec<u32> = (0..self.rows).map(|_| self.below(self.rows) as u32).collect();
        let mut nodes = vec![Node { threshold: 0.0, left: LEAF, name: 0 }];
        let mut open = vec![(0_usize, 0..self.rows)];
        while let Some((place, range)) = open.pop() {
            let members = &mut sample[range.clone()];
            let Some(split) = self.split(members) else {
                nodes[place].name = most(&self.left) as u32;
                continue;
            };
            let column = &self.columns[split.column as usize * self.rows..][..self.rows];
            let mut middle = 0;
            for at in 0..members.len() {
                if column[members[at] as usize] <= split.threshold {
                    members.swap(at, middle);
                    middle += 1;
                }
            }
            let left = nodes.len();
            nodes[place] = Node { threshold: split.threshold, left: left as u32, name: split.column };
            nodes.extend([Node { threshold: 0.0, left: LEAF, name: 0 }; 2]);
            let middle = range.start + middle;
            open.push((left + 1, middle..range.end));
            open.push((left, range.start..middle));
        }
        nodes
    }

    /// The best split of a node; `None` for a leaf, whose rows by class then stand in `left`.
    fn split(&mut self, members: &[u32]) -> Option<Split> {
        self.left.fill(0);
        for &row in members {
            self.left[self.codes[row as usize] as usize] += 1;
        }
        if self.left.iter().any(|&count| count as usize == members.len()) {
            return None;
        }
        let whole = self.left.clone();
        let width = self.order.len();
        let mut wanted = (width as f64).sqrt() as usize;
        let mut best: Option<Split> = None;
        for drawn in 0..width {
            if wanted == 0 {
                break;
            }
            let other = drawn + self.below(width - drawn);
            self.order.swap(drawn, other);
            if let Some(split) = self.threshold(members, self.order[drawn], &whole) {
                wanted -= 1;
                if best.as_ref().is_none_or(|best| split.purity > best.purity) {
                    best = Some(split);
                }
            }
        }
        self.left.copy_from_slice(&whole);
        best
    }

    /// The best threshold of a column; `None` where it is constant.
    fn threshold(&mut self, members: &[u32], column: u32, whole: &[u32]) -> Option<Split> {
        let values = &self.columns[column as usize * self.rows..][..self.rows];
        self.pairs.clear();
        self.pairs.extend(members.iter().map(|&row| (values[row as usize], self.codes[row as usize])));
        let first = self.pairs[0].0;
        if self.pairs.iter().all(|pair| pair.0 == first) {
            return None;
        }
        self.pairs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        self.left.fill(0);
        self.right.copy_from_slice(whole);
        let square = |count: &u32| u64::from(*count) * u64::from(*count);
        let (mut left_sum, mut right_sum) = (0_u64, whole.iter().map(square).sum::<u64>());
        let mut best: Option<Split> = None;
        for (at, pair) in self.pairs.windows(2).enumerate() {
            let class = pair[0].1 as usize;
            left_sum += 2 * u64::from(self.left[class]) + 1;
            right_sum -= 2 * u64::from(self.right[class]) - 1;
            self.left[class] += 1;
            self.right[class] -= 1;
            if pair[0].0 == pair[1].0 {
                continue;
            }
            let (left, right) = ((at + 1) as f64, (self.pairs.len() - at - 1) as f64);
            // The Gini impurity of both sides falls as this rises.
            let purity = left_sum as f64 / left + right_sum as f64 / right;
            if best.as_ref().is_none_or(|best| purity > best.purity) {
                let middle = f32::midpoint(pair[0].0, pair[1].0);
                // Rounding must not put the upper value on the lower side.
                let threshold = if middle < pair[1].0 { middle } else { pair[0].0 };
                best = Some(Split { purity, column, threshold });
            }
        }
        best
    }
}
