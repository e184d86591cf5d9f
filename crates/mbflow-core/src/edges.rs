//! Bucket edges that make padding cheapest.

use crate::{Error, Exec};

/// Up to this many candidates: the table of the choices made has one entry for each, for each number of buckets.
const MOST_CANDIDATES: usize = 1 << 24;

/// The cheapest ways to cut sorted candidates into buckets, for every number of buckets up to a largest one.
///
/// Candidate `i` stands for `counts[i]` items, which cost `costs[i]` each when they are padded to it. An item goes to
/// the first edge that is not below it, and costs what that edge costs. The last candidate is always an edge.
///
/// Dynamic programming over the number of buckets. What a last edge costs is a straight line in the cost of its
/// candidate for each place of the edge before, and candidates come in order of cost, so each layer walks once along the
/// lower hull of those lines (Wu, "Optimal quantization by matrix searching", Journal of Algorithms 1991, treats the same
/// problem): O(buckets · candidates).
///
/// ```
/// use mbflow_core::{Exec, OptimalEdges};
///
/// let found = OptimalEdges::new(&Exec::serial(), &[1.0, 2.0, 9.0, 10.0], &[5, 5, 5, 5], 2)?;
/// assert_eq!(found.edges(2), [1, 3]);
/// assert_eq!(found.cost(2), 5.0 * (2.0 + 2.0 + 10.0 + 10.0));
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct OptimalEdges {
    /// For each number of buckets from one, the cost of all items.
    totals: Vec<f64>,
    /// For each number of buckets from two, and each candidate as the last edge, the edge before it.
    before: Vec<Vec<u32>>,
    candidates: usize,
}

impl OptimalEdges {
    /// The cheapest edges for one to `buckets` buckets, or to as many as there are candidates.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] without candidates, with costs that are not finite or do not rise, with counts of
    /// another length, or with 0 buckets; [`Error::Interrupted`] when the caller asks to stop.
    pub fn new(exec: &Exec, costs: &[f64], counts: &[u64], buckets: usize) -> Result<Self, Error> {
        let candidates = costs.len();
        if counts.len() != candidates {
            return Err(Error::argument("counts", format!("expected {candidates}, got {}", counts.len())));
        }
        if !(1..=MOST_CANDIDATES).contains(&candidates) {
            let message = format!("expected 1 to {MOST_CANDIDATES} candidates, got {candidates}");
            return Err(Error::argument("costs", message));
        }
        if let Some(at) = costs.iter().position(|cost| !cost.is_finite()) {
            return Err(Error::argument("costs", format!("candidate {at} costs {}", costs[at])));
        }
        if let Some(at) = costs.windows(2).position(|pair| pair[0] > pair[1]) {
            let message = format!("candidate {} costs {}, less than the one before", at + 1, costs[at + 1]);
            return Err(Error::argument("costs", message));
        }
        if buckets == 0 {
            return Err(Error::argument("buckets", "expected at least 1, got 0"));
        }
        // The items up to each candidate; whole numbers up to 2^53 are exact.
        let items: Vec<f64> = std::iter::once(0)
            .chain(counts.iter().scan(0_u64, |sum, &count| {
                *sum = sum.saturating_add(count);
                Some(*sum)
            }))
            .map(|items| items as f64)
            .collect();
        let mut best: Vec<f64> = costs.iter().zip(&items[1..]).map(|(cost, items)| cost * items).collect();
        let mut totals = vec![best[candidates - 1]];
        let mut before = Vec::new();
        for bucket in 1..buckets.min(candidates) {
            exec.check()?;
            let (found, edges) = layer(costs, &items, &best, bucket);
            best = found;
            before.push(edges);
            totals.push(best[candidates - 1]);
        }
        Ok(Self { totals, before, candidates })
    }

    /// The largest number of buckets that was looked at.
    pub fn most_buckets(&self) -> usize {
        self.totals.len()
    }

    /// What all items cost with exactly `buckets` buckets.
    ///
    /// # Panics
    ///
    /// For 0, or more than [`OptimalEdges::most_buckets`].
    pub fn cost(&self, buckets: usize) -> f64 {
        self.totals[buckets - 1]
    }

    /// The candidates that are edges, in rising order.
    ///
    /// # Panics
    ///
    /// For 0, or more than [`OptimalEdges::most_buckets`].
    pub fn edges(&self, buckets: usize) -> Vec<usize> {
        assert!((1..=self.totals.len()).contains(&buckets), "{buckets} buckets");
        let mut edges = vec![self.candidates - 1];
        for before in self.before[..buckets - 1].iter().rev() {
            let edge = before[edges[edges.len() - 1]];
            edges.push(edge as usize);
        }
        edges.reverse();
        edges
    }
}

/// One bucket more: for each candidate as the last edge, the least cost of the items up to it and the edge before.
///
/// `last` is the same with `bucket` buckets; candidates below `bucket` cannot be the last of more.
fn layer(costs: &[f64], items: &[f64], last: &[f64], bucket: usize) -> (Vec<f64>, Vec<u32>) {
    let mut best = vec![f64::INFINITY; costs.len()];
    let mut before = vec![0; costs.len()];
    // With `edge` before it, a last edge costs `last[edge]` and its own cost for each item after `edge`.
    let total = |edge: usize, state: usize| last[edge] + costs[state] * (items[state + 1] - items[edge + 1]);
    let mut hull: Vec<usize> = Vec::new();
    let mut head = 0;
    for state in bucket..costs.len() {
        let edge = state - 1;
        // A line that another two are below of everywhere is never the lowest.
        while hull.len() >= head + 2 {
            let (first, middle) = (hull[hull.len() - 2], hull[hull.len() - 1]);
            let to_middle = (last[middle] - last[first]) * (items[edge + 1] - items[first + 1]);
            let to_edge = (last[edge] - last[first]) * (items[middle + 1] - items[first + 1]);
            if to_edge > to_middle {
                break;
            }
            hull.pop();
        }
        hull.push(edge);
        while head + 1 < hull.len() && total(hull[head + 1], state) < total(hull[head], state) {
            head += 1;
        }
        best[state] = total(hull[head], state);
        before[state] = hull[head] as u32;
    }
    (best, before)
}
