//! Duration batches: edges, budgets, turns, stretches of buckets, cells and packing.
#![expect(clippy::needless_pass_by_value, reason = "arrays that are only read come by value")]

use mbflow_core::{BatchLimit, Budget, Cancel, Cells, Error, Exec, Fit, Lengths, Ragged, Seed, Stretch};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::enter::{catch, enter};
use crate::error::{defect, invalid_argument, to_python};

/// Up to this many items a call is the work of less time than a thread of its own takes to start.
const FEW: u64 = 1 << 14;

type Offsets<'py> = Bound<'py, PyArray1<i64>>;
type Numbers<'py> = Bound<'py, PyArray1<u32>>;

/// The seed that a path of numbers leads to.
fn seed(key: &[u64]) -> PyResult<Seed> {
    let (&first, rest) =
        key.split_first().ok_or_else(|| invalid_argument("key: expected a seed, got no number"))?;
    Ok(rest.iter().fold(Seed(first), |seed, &index| seed.derive(index)))
}

fn slice<'a, T: numpy::Element>(name: &str, array: &'a PyReadonlyArray1<'_, T>) -> PyResult<&'a [T]> {
    array.as_slice().map_err(|error| invalid_argument(format!("{name}: {error}")))
}

/// Runs short work on this thread and long work as a kernel.
fn run<T: Send>(
    py: Python<'_>,
    items: u64,
    work: impl FnOnce(&Exec) -> Result<T, Error> + Send,
) -> PyResult<T> {
    if items > FEW {
        return Ok(enter(py, work)?);
    }
    let result = py.detach(|| catch(|| work(&Exec::serial().with_cancel(&Cancel::default()))));
    result.map_err(defect)?.map_err(|error| to_python(error, None))
}

fn budget(limits: &PyReadonlyArray2<'_, f64>, multiple: u64) -> PyResult<Budget> {
    if limits.shape()[1] != 8 {
        let message = format!("limits: expected 8 numbers each, got {}", limits.shape()[1]);
        return Err(invalid_argument(message));
    }
    let limits = limits.as_array();
    let limits = limits.rows().into_iter().map(|row| BatchLimit {
        fixed: row[0],
        item: row[1],
        seconds: row[2],
        seconds_squared: row[3],
        tokens: row[4],
        tokens_squared: row[5],
        product: row[6],
        most: row[7],
    });
    Budget::new(limits.collect(), multiple).map_err(|error| to_python(error, None))
}

/// The module `mbflow._native.durations`.
#[pymodule(submodule)]
pub(crate) mod durations {
    #[pymodule_export]
    use super::{Interleave, OptimalEdges, batch_sizes, bucket_items, bucket_of, cells, pack, sorted_items};
}

/// How many items of each shape a batch may hold.
#[pyfunction]
#[pyo3(signature = (limits, seconds, tokens, *, multiple = 1))]
pub(crate) fn batch_sizes<'py>(
    py: Python<'py>,
    limits: PyReadonlyArray2<'py, f64>,
    seconds: PyReadonlyArray1<'py, f64>,
    tokens: PyReadonlyArray1<'py, f64>,
    multiple: u64,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let budget = budget(&limits, multiple)?;
    let (seconds, tokens) = (slice("seconds", &seconds)?, slice("tokens", &tokens)?);
    if seconds.len() != tokens.len() {
        let message = format!("tokens: expected {}, one for each shape, got {}", seconds.len(), tokens.len());
        return Err(invalid_argument(message));
    }
    let sizes: Vec<i64> = seconds
        .iter()
        .zip(tokens)
        .map(|(&seconds, &tokens)| i64::try_from(budget.items(seconds, tokens)).unwrap_or(i64::MAX))
        .collect();
    Ok(sizes.into_pyarray(py))
}

/// The cheapest edges for every number of buckets.
#[pyclass(frozen, module = "mbflow._native.durations")]
pub(crate) struct OptimalEdges(mbflow_core::OptimalEdges);

#[pymethods]
impl OptimalEdges {
    #[new]
    fn new(
        py: Python<'_>,
        costs: PyReadonlyArray1<'_, f64>,
        counts: PyReadonlyArray1<'_, u64>,
        buckets: usize,
    ) -> PyResult<Self> {
        let (costs, counts) = (slice("costs", &costs)?, slice("counts", &counts)?);
        Ok(Self(enter(py, |exec| mbflow_core::OptimalEdges::new(exec, costs, counts, buckets))?))
    }

    /// What all items cost with one bucket, two, and so on.
    #[getter]
    fn costs<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        (1..=self.0.most_buckets()).map(|buckets| self.0.cost(buckets)).collect::<Vec<_>>().into_pyarray(py)
    }

    /// The candidates that are edges.
    fn edges<'py>(&self, py: Python<'py>, buckets: usize) -> PyResult<Bound<'py, PyArray1<i64>>> {
        if !(1..=self.0.most_buckets()).contains(&buckets) {
            let most = self.0.most_buckets();
            return Err(invalid_argument(format!("buckets: expected 1 to {most}, got {buckets}")));
        }
        let edges = self.0.edges(buckets);
        Ok(edges.into_iter().map(|edge| edge as i64).collect::<Vec<_>>().into_pyarray(py))
    }
}

/// Turns of several tracks.
#[pyclass(frozen, module = "mbflow._native.durations")]
pub(crate) struct Interleave(mbflow_core::Interleave);

/// Turns are counted up to this.
const MOST_TURNS: u64 = 1 << 47;

fn checked_turn(turn: u64) -> PyResult<u64> {
    if turn <= MOST_TURNS {
        return Ok(turn);
    }
    Err(invalid_argument(format!("turn: expected at most 2^47, got {turn}")))
}

#[pymethods]
impl Interleave {
    #[new]
    fn new(turns: Vec<u64>, key: Vec<u64>) -> PyResult<Self> {
        let interleave = mbflow_core::Interleave::new(seed(&key)?, &turns);
        interleave.map(Self).map_err(|error| to_python(error, None))
    }

    /// Turns of a round.
    #[getter]
    fn round(&self) -> u64 {
        self.0.round()
    }

    /// Whose turn it is, and which of its own.
    fn at(&self, turn: u64) -> PyResult<(u32, u64)> {
        let turn = self.0.at(checked_turn(turn)?);
        Ok((turn.track, turn.index))
    }

    /// How many of the first turns each track has.
    fn before<'py>(&self, py: Python<'py>, turn: u64) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let before = self.0.before(checked_turn(turn)?);
        Ok(before.into_iter().map(|turns| turns as i64).collect::<Vec<_>>().into_pyarray(py))
    }

    /// Some turns.
    fn turns<'py>(&self, py: Python<'py>, first: u64, last: u64) -> PyResult<(Numbers<'py>, Offsets<'py>)> {
        let (first, last) = (checked_turn(first)?, checked_turn(last)?);
        if first > last {
            return Err(invalid_argument(format!("last: expected at least {first}, got {last}")));
        }
        let turns = py.detach(|| catch(|| self.0.turns(first, last))).map_err(defect)?;
        let (tracks, indices): (Vec<u32>, Vec<i64>) =
            turns.into_iter().map(|turn| (turn.track, turn.index as i64)).unzip();
        Ok((tracks.into_pyarray(py), indices.into_pyarray(py)))
    }
}

/// The items of stretches of buckets in keyed order.
#[pyfunction]
pub(crate) fn bucket_items<'py>(
    py: Python<'py>,
    offsets: PyReadonlyArray1<'py, i64>,
    items: PyReadonlyArray1<'py, u32>,
    key: Vec<u64>,
    buckets: Vec<u32>,
    firsts: Vec<u64>,
    lasts: Vec<u64>,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    if buckets.len() != firsts.len() || buckets.len() != lasts.len() {
        let message =
            format!("buckets, firsts and lasts: {}, {} and {}", buckets.len(), firsts.len(), lasts.len());
        return Err(invalid_argument(format!("{message}; expected as many of each")));
    }
    let seed = seed(&key)?;
    let (offsets, items) = (slice("offsets", &offsets)?, slice("items", &items)?);
    let buckets_of = Ragged::new(offsets, items).map_err(|error| to_python(error, None))?;
    let stretches: Vec<Stretch> = buckets
        .iter()
        .zip(firsts.iter().zip(&lasts))
        .map(|(&bucket, (&first, &last))| Stretch { bucket, first, last })
        .collect();
    let total = stretches
        .iter()
        .map(|stretch| stretch.last.saturating_sub(stretch.first))
        .fold(0, u64::saturating_add);
    let found = run(py, total, |exec| mbflow_core::bucket_items(exec, buckets_of, seed, &stretches))?;
    Ok(found.into_pyarray(py))
}

/// The bucket of each length.
#[pyfunction]
pub(crate) fn bucket_of<'py>(
    py: Python<'py>,
    lengths: PyReadonlyArray1<'py, f32>,
    edges: PyReadonlyArray1<'py, f64>,
) -> PyResult<Numbers<'py>> {
    let (lengths, edges) = (slice("lengths", &lengths)?, slice("edges", &edges)?);
    let found = run(py, lengths.len() as u64, |exec| mbflow_core::bucket_of(exec, lengths, edges))?;
    Ok(found.into_pyarray(py))
}

/// Items from the longest to the shortest.
#[pyfunction]
pub(crate) fn sorted_items<'py>(
    py: Python<'py>,
    items: PyReadonlyArray1<'py, u32>,
    seconds: PyReadonlyArray1<'py, f32>,
    tokens: PyReadonlyArray1<'py, u32>,
    edges: PyReadonlyArray1<'py, f64>,
    key: Vec<u64>,
) -> PyResult<Numbers<'py>> {
    let seed = seed(&key)?;
    let lengths = lengths(&seconds, &tokens)?;
    let (items, edges) = (slice("items", &items)?, slice("edges", &edges)?);
    let sorted = enter(py, |exec| mbflow_core::sorted_items(exec, items, lengths, edges, seed))?;
    Ok(sorted.into_pyarray(py))
}

/// Where cells of sorted items start, and how many items a batch of each holds.
#[pyfunction]
#[pyo3(signature = (items, seconds, tokens, limits, *, multiple, batches, first))]
#[expect(clippy::too_many_arguments, reason = "they are the arguments that Python sees")]
pub(crate) fn cells<'py>(
    py: Python<'py>,
    items: PyReadonlyArray1<'py, u32>,
    seconds: PyReadonlyArray1<'py, f32>,
    tokens: PyReadonlyArray1<'py, u32>,
    limits: PyReadonlyArray2<'py, f64>,
    multiple: u64,
    batches: u64,
    first: u64,
) -> PyResult<(Offsets<'py>, Offsets<'py>)> {
    let budget = budget(&limits, multiple)?;
    let lengths = lengths(&seconds, &tokens)?;
    let items = slice("items", &items)?;
    let Cells { offsets, sizes } =
        enter(py, |exec| mbflow_core::cells(exec, items, lengths, &budget, batches, first))?;
    let sizes: Vec<i64> = sizes.into_iter().map(|size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
    Ok((offsets.into_pyarray(py), sizes.into_pyarray(py)))
}

fn lengths<'a>(
    seconds: &'a PyReadonlyArray1<'_, f32>,
    tokens: &'a PyReadonlyArray1<'_, u32>,
) -> PyResult<Lengths<'a>> {
    Lengths::new(slice("seconds", seconds)?, slice("tokens", tokens)?).map_err(|error| to_python(error, None))
}

/// Pack items into rows of one capacity.
#[pyfunction]
#[pyo3(signature = (lengths, capacity, *, fit = "best"))]
pub(crate) fn pack<'py>(
    py: Python<'py>,
    lengths: PyReadonlyArray1<'py, u64>,
    capacity: u64,
    fit: &str,
) -> PyResult<(Offsets<'py>, Numbers<'py>)> {
    let fit = match fit {
        "first" => Fit::First,
        "best" => Fit::Best,
        other => return Err(invalid_argument(format!("fit: expected 'first' or 'best', got {other:?}"))),
    };
    let lengths = slice("lengths", &lengths)?;
    let rows = run(py, lengths.len() as u64, |exec| mbflow_core::pack(exec, lengths, capacity, fit))?;
    let (offsets, items) = rows.into_parts();
    Ok((offsets.into_pyarray(py), items.into_pyarray(py)))
}
