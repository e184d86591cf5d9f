//! Affinities and coverage.

#![expect(clippy::needless_pass_by_value, reason = "arrays that are only read come by value")]

use mbflow_core::{Affinity, Coverage, Ragged};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::enter::enter;
use crate::error::{invalid_argument, to_python};

type Kernel<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<f32>>);
type Found<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f64>>);
type StandIns<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f32>>);

/// The array's values where they are, when they lie side by side.
fn slice<'a, T: numpy::Element>(name: &str, array: &'a PyReadonlyArray1<'_, T>) -> PyResult<&'a [T]> {
    array.as_slice().map_err(|_| invalid_argument(format!("{name}: expected a contiguous array")))
}

/// Weigh the edges of a neighbour graph by how alike their rows are.
#[pyfunction]
#[pyo3(signature = (offsets, neighbours, distances, classes))]
pub(crate) fn affinity<'py>(
    py: Python<'py>,
    offsets: PyReadonlyArray1<'py, i64>,
    neighbours: PyReadonlyArray1<'py, i32>,
    distances: PyReadonlyArray1<'py, f32>,
    classes: PyReadonlyArray1<'py, i64>,
) -> PyResult<Kernel<'py>> {
    let graph = Ragged::new(slice("offsets", &offsets)?, slice("neighbours", &neighbours)?)
        .map_err(|error| to_python(error, None))?;
    let (distances, classes) = (slice("distances", &distances)?, slice("classes", &classes)?);
    let affinity = enter(py, |exec| Affinity::new(exec, graph, distances, classes))?;
    let (offsets, neighbours) = affinity.neighbours.into_parts();
    Ok((offsets.into_pyarray(py), neighbours.into_pyarray(py), affinity.weights.into_pyarray(py)))
}

/// Pick rows that cover all rows.
#[pyfunction]
#[pyo3(signature = (
    offsets, neighbours, weights, classes, *, quotas = None, count = None, row_weights = None, candidates = None,
    start = None
))]
#[expect(clippy::too_many_arguments, reason = "they are the keyword arguments that Python sees")]
pub(crate) fn cover<'py>(
    py: Python<'py>,
    offsets: PyReadonlyArray1<'py, i64>,
    neighbours: PyReadonlyArray1<'py, i32>,
    weights: PyReadonlyArray1<'py, f32>,
    classes: PyReadonlyArray1<'py, i64>,
    quotas: Option<PyReadonlyArray1<'py, i64>>,
    count: Option<usize>,
    row_weights: Option<PyReadonlyArray1<'py, f64>>,
    candidates: Option<PyReadonlyArray1<'py, bool>>,
    start: Option<PyReadonlyArray1<'py, i64>>,
) -> PyResult<Found<'py>> {
    let refuse = |error| to_python(error, None);
    let kernel =
        Ragged::new(slice("offsets", &offsets)?, slice("neighbours", &neighbours)?).map_err(refuse)?;
    let (weights, classes) = (slice("weights", &weights)?, slice("classes", &classes)?);
    let mut coverage = Coverage::new(kernel, weights, classes).map_err(refuse)?;
    if let Some(row_weights) = &row_weights {
        coverage = coverage.with_weights(slice("row_weights", row_weights)?).map_err(refuse)?;
    }
    if let Some(candidates) = &candidates {
        coverage = coverage.with_candidates(slice("candidates", candidates)?).map_err(refuse)?;
    }
    if let Some(start) = &start {
        coverage = coverage.with_start(slice("start", start)?).map_err(refuse)?;
    }
    let quotas = quotas.as_ref().map(|quotas| slice("quotas", quotas)).transpose()?;
    let picks = match (quotas, count) {
        (Some(quotas), None) => enter(py, |exec| coverage.by_quota(exec, quotas))?,
        (None, Some(count)) => enter(py, |exec| coverage.by_gain(exec, count))?,
        _ => return Err(invalid_argument("expected either quotas or count")),
    };
    Ok((picks.rows.into_pyarray(py), picks.gains.into_pyarray(py)))
}

/// Find for every row the kept row that is most alike.
#[pyfunction]
#[pyo3(signature = (offsets, neighbours, weights, kept))]
pub(crate) fn representatives<'py>(
    py: Python<'py>,
    offsets: PyReadonlyArray1<'py, i64>,
    neighbours: PyReadonlyArray1<'py, i32>,
    weights: PyReadonlyArray1<'py, f32>,
    kept: PyReadonlyArray1<'py, i64>,
) -> PyResult<StandIns<'py>> {
    let refuse = |error| to_python(error, None);
    let kernel =
        Ragged::new(slice("offsets", &offsets)?, slice("neighbours", &neighbours)?).map_err(refuse)?;
    let (weights, kept) = (slice("weights", &weights)?, slice("kept", &kept)?);
    let found = enter(py, |exec| {
        // Who stands for whom does not depend on classes: no edge joins two of them.
        let classes = vec![0; kernel.len()];
        Coverage::new(kernel, weights, &classes)?.representatives(exec, kept)
    })?;
    Ok((found.rows.into_pyarray(py), found.similarities.into_pyarray(py)))
}
