//! Coverage: the rows that, taken together, are alike to all others; a greedy choice under class quotas.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::{Error, Exec, Ragged};

/// Rows whose first gains are worked out by one thread at a time.
const BLOCK: usize = 4096;
/// Picks between two looks at whether the caller wants to stop.
const PICKS: usize = 256;

/// The rows that were picked.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Picks {
    /// Row numbers, the largest gain first, equal gains by row number; within a class the order of picking.
    pub rows: Vec<i64>,
    /// What each added to the coverage when it was picked.
    pub gains: Vec<f64>,
}

/// For every row the kept row that stands for it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Representatives {
    /// The kept row most alike, the lowest of equals; -1 where none is alike at all.
    pub rows: Vec<i64>,
    /// How alike; 0 where none is.
    pub similarities: Vec<f32>,
}

/// The coverage of a data set by some of its rows: the sum over rows `i` of `weight_i * max over kept j of K_ji`.
///
/// `K` is a symmetric kernel without edges between classes, as [`crate::Affinity`] makes it. Greedy choice reaches at
/// least 63 % of the best coverage (Nemhauser, Wolsey, Fisher 1978; with quotas at least half: Fisher et al. 1978); it
/// is made lazily (Minoux, "Accelerated greedy algorithms", 1978), with the result of the plain greedy choice. Equal
/// gains go to the lower row. Nearly linear time in the edges; 16 bytes of extra memory for each row.
///
/// ```
/// use mbflow_core::{Coverage, Exec, Ragged};
///
/// // Rows 0, 1, 2 in a chain, and row 3 alone in the other class.
/// let (offsets, neighbours) = ([0, 2, 5, 7, 8], [0, 1, 1, 0, 2, 2, 1, 3]);
/// let kernel = Ragged::new(&offsets, &neighbours)?;
/// let weights = [0.5, 0.4, 0.5, 0.4, 0.4, 0.5, 0.4, 1.0];
/// let coverage = Coverage::new(kernel, &weights, &[0, 0, 0, 1])?;
/// let picks = coverage.by_quota(&Exec::serial(), &[1, 1])?;
/// assert_eq!(picks.rows, [1, 3]);
/// assert_eq!(coverage.representatives(&Exec::serial(), &picks.rows)?.rows, [1, 1, 1, 3]);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Coverage<'a> {
    kernel: Ragged<'a, i32>,
    entries: &'a [f32],
    classes: &'a [i64],
    class_count: usize,
    weights: Option<&'a [f64]>,
    candidates: Option<&'a [bool]>,
    start: &'a [i64],
}

impl<'a> Coverage<'a> {
    /// The coverage by a kernel with an entry for each edge, of rows with a class each, `0..classes`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for lengths that do not fit, a neighbour that is no row, an entry that is not
    /// finite or negative, a negative class, more classes than rows.
    pub fn new(kernel: Ragged<'a, i32>, entries: &'a [f32], classes: &'a [i64]) -> Result<Self, Error> {
        let rows = kernel.len();
        same_length("weights", entries.len(), kernel.values().len(), "edge")?;
        same_length("classes", classes.len(), rows, "row")?;
        if let Some(other) = kernel.values().iter().find(|&&other| other < 0 || other as usize >= rows) {
            return Err(Error::argument("neighbours", format!("{other} is no row; there are {rows}")));
        }
        // False for NaN.
        if let Some(entry) = entries.iter().find(|&&entry| !(entry >= 0.0 && entry.is_finite())) {
            return Err(Error::argument(
                "weights",
                format!("expected finite numbers of at least 0, got {entry}"),
            ));
        }
        let class_count = classes.iter().max().map_or(0, |&largest| largest.saturating_add(1));
        if classes.iter().any(|&class| class < 0) || class_count > rows as i64 {
            let message = format!("expected numbers from 0 to at most {}", rows.saturating_sub(1));
            return Err(Error::argument("classes", message));
        }
        let class_count = class_count as usize;
        Ok(Self { kernel, entries, classes, class_count, weights: None, candidates: None, start: &[] })
    }

    /// The same with a weight for each row: how much it matters that this row is covered.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when there is not one a row, or one is negative or not finite.
    pub fn with_weights(self, weights: &'a [f64]) -> Result<Self, Error> {
        same_length("row_weights", weights.len(), self.kernel.len(), "row")?;
        if let Some(row) = weights.iter().position(|&weight| !(weight >= 0.0 && weight.is_finite())) {
            let message = format!("expected finite numbers of at least 0, got {} in row {row}", weights[row]);
            return Err(Error::argument("row_weights", message));
        }
        Ok(Self { weights: Some(weights), ..self })
    }

    /// The same, picking only rows that are marked.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when there is not one mark a row.
    pub fn with_candidates(self, candidates: &'a [bool]) -> Result<Self, Error> {
        same_length("candidates", candidates.len(), self.kernel.len(), "row")?;
        Ok(Self { candidates: Some(candidates), ..self })
    }

    /// The same, picking in addition to rows that are kept already.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when one is no row, or is there twice.
    pub fn with_start(self, start: &'a [i64]) -> Result<Self, Error> {
        marks("start", start, self.kernel.len())?;
        Ok(Self { start, ..self })
    }

    /// Picks as many rows of each class as its quota says, not counting those it starts from.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when there is not one quota a class or a class has fewer candidates;
    /// [`Error::Interrupted`].
    pub fn by_quota(&self, exec: &Exec, quotas: &[i64]) -> Result<Picks, Error> {
        same_length("quotas", quotas.len(), self.class_count, "class")?;
        let mut greedy = Greedy::new(exec, self)?;
        let mut picks = Vec::new();
        for (class, &quota) in quotas.iter().enumerate() {
            let there = greedy.heaps[class].len();
            if quota < 0 || quota > there as i64 {
                let message = format!("class {class} has {there} candidates, and its quota is {quota}");
                return Err(Error::argument("quotas", message));
            }
            for _ in 0..quota {
                pause(exec, picks.len())?;
                picks.extend(greedy.next(class));
            }
        }
        Ok(in_order(picks))
    }

    /// Picks `count` rows by their gain, whatever their class; but first one of each class that has none, even where
    /// these are more than `count`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when there are not so many candidates; [`Error::Interrupted`].
    pub fn by_gain(&self, exec: &Exec, count: usize) -> Result<Picks, Error> {
        let mut greedy = Greedy::new(exec, self)?;
        let there: usize = greedy.heaps.iter().map(BinaryHeap::len).sum();
        if count > there {
            return Err(Error::argument(
                "count",
                format!("expected at most {there}, the candidates, got {count}"),
            ));
        }
        let mut has_row = vec![false; self.class_count];
        for &row in self.start {
            has_row[self.classes[row as usize] as usize] = true;
        }
        let missing = (0..self.class_count).filter(|&class| !has_row[class]);
        let mut picks: Vec<Pick> = missing.filter_map(|class| greedy.next(class)).collect();
        // Gains within a class never rise, so the best of the classes' next picks is the best of all.
        let mut heads: BinaryHeap<(Pick, usize)> =
            (0..self.class_count).filter_map(|class| Some((greedy.peek(class)?, class))).collect();
        while picks.len() < count
            && let Some((_, class)) = heads.pop()
        {
            pause(exec, picks.len())?;
            picks.extend(greedy.next(class));
            heads.extend(greedy.peek(class).map(|pick| (pick, class)));
        }
        Ok(in_order(picks))
    }

    /// For every row the kept row that is most alike.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when a kept row is no row or is there twice; [`Error::Interrupted`].
    pub fn representatives(&self, exec: &Exec, kept: &[i64]) -> Result<Representatives, Error> {
        let is_kept = marks("kept", kept, self.kernel.len())?;
        let blocks = (0..self.kernel.len()).step_by(BLOCK).collect();
        let found = exec.map(blocks, |first: usize| {
            let rows = first..(first + BLOCK).min(self.kernel.len());
            let best = rows.map(|row| {
                let alike = self.row(row).filter(|&(other, entry)| is_kept[other] && entry > 0.0);
                alike.fold((-1, 0.0), |best: (i64, f32), (other, entry)| {
                    let other = other as i64;
                    let is_better = entry > best.1 || (entry == best.1 && other < best.0);
                    if is_better { (other, entry) } else { best }
                })
            });
            best.collect::<Vec<_>>()
        })?;
        let (rows, similarities) = found.into_iter().flatten().unzip();
        Ok(Representatives { rows, similarities })
    }

    fn row(&self, row: usize) -> impl Iterator<Item = (usize, f32)> + use<'a> {
        let edges = self.kernel.offsets()[row] as usize..self.kernel.offsets()[row + 1] as usize;
        self.kernel.values()[edges.clone()]
            .iter()
            .zip(&self.entries[edges])
            .map(|(&other, &entry)| (other as usize, entry))
    }

    /// What `row` would add. Falls in floating point as it does on paper when `covered` rises: every term does.
    fn gain(&self, row: usize, covered: &[f32]) -> f64 {
        let gains = self.row(row).map(|(other, entry)| {
            let gain = f64::from((entry - covered[other]).max(0.0));
            self.weights.map_or(gain, |weights| gain * weights[other])
        });
        gains.sum()
    }
}

/// A row that may be picked: more gain first, then the lower row.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pick {
    gain: f64,
    row: u32,
    /// Picks of its class when the gain was worked out.
    age: u32,
}

impl Eq for Pick {}

impl Ord for Pick {
    fn cmp(&self, other: &Self) -> Ordering {
        self.gain.total_cmp(&other.gain).then(other.row.cmp(&self.row))
    }
}

impl PartialOrd for Pick {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The state of a greedy choice. Classes do not touch each other: no edge joins them.
struct Greedy<'a, 'b> {
    coverage: &'b Coverage<'a>,
    covered: Vec<f32>,
    /// For each class its candidates, by gains that may be out of date, which are then too large.
    heaps: Vec<BinaryHeap<Pick>>,
    picked: Vec<u32>,
}

impl<'a, 'b> Greedy<'a, 'b> {
    fn new(exec: &Exec, coverage: &'b Coverage<'a>) -> Result<Self, Error> {
        let rows = coverage.kernel.len();
        let mut covered = vec![0.0; rows];
        let mut is_candidate = coverage.candidates.map_or_else(|| vec![true; rows], <[bool]>::to_vec);
        for &row in coverage.start {
            is_candidate[row as usize] = false;
            cover(coverage, row as usize, &mut covered);
        }
        let blocks = (0..rows).step_by(BLOCK).collect();
        let gains = exec.map(blocks, |first: usize| {
            let rows = (first..(first + BLOCK).min(rows)).filter(|&row| is_candidate[row]);
            rows.map(|row| Pick { gain: coverage.gain(row, &covered), row: row as u32, age: 0 }).collect()
        })?;
        let mut of_class = vec![Vec::new(); coverage.class_count];
        for pick in gains.into_iter().flat_map(|block: Vec<Pick>| block) {
            of_class[coverage.classes[pick.row as usize] as usize].push(pick);
        }
        let heaps = of_class.into_iter().map(BinaryHeap::from).collect();
        Ok(Self { coverage, covered, heaps, picked: vec![0; coverage.class_count] })
    }

    /// The best row of a class, its gain up to date, left where it is.
    fn peek(&mut self, class: usize) -> Option<Pick> {
        loop {
            let mut top = self.heaps[class].peek_mut()?;
            if top.age == self.picked[class] {
                return Some(*top);
            }
            // The heap puts it in its place when `top` is dropped.
            top.gain = self.coverage.gain(top.row as usize, &self.covered);
            top.age = self.picked[class];
        }
    }

    /// Picks the best row of a class.
    fn next(&mut self, class: usize) -> Option<Pick> {
        let pick = self.peek(class)?;
        self.heaps[class].pop();
        self.picked[class] += 1;
        cover(self.coverage, pick.row as usize, &mut self.covered);
        Some(pick)
    }
}

fn pause(exec: &Exec, picks: usize) -> Result<(), Error> {
    if picks.is_multiple_of(PICKS) { exec.check() } else { Ok(()) }
}

fn cover(coverage: &Coverage<'_>, row: usize, covered: &mut [f32]) {
    for (other, entry) in coverage.row(row) {
        covered[other] = covered[other].max(entry);
    }
}

fn in_order(mut picks: Vec<Pick>) -> Picks {
    picks.sort_unstable_by(|a, b| b.cmp(a));
    let (rows, gains) = picks.into_iter().map(|pick| (i64::from(pick.row), pick.gain)).unzip();
    Picks { rows, gains }
}

/// Which of `rows` rows are named.
fn marks(name: &'static str, named: &[i64], rows: usize) -> Result<Vec<bool>, Error> {
    let mut is_named = vec![false; rows];
    for &row in named {
        let Some(mark) = usize::try_from(row).ok().and_then(|row| is_named.get_mut(row)) else {
            return Err(Error::argument(name, format!("{row} is no row; there are {rows}")));
        };
        if std::mem::replace(mark, true) {
            return Err(Error::argument(name, format!("row {row} is there twice")));
        }
    }
    Ok(is_named)
}

fn same_length(name: &'static str, got: usize, expected: usize, what: &str) -> Result<(), Error> {
    if got == expected {
        return Ok(());
    }
    Err(Error::argument(name, format!("expected one a {what}, {expected} in all, got {got}")))
}
