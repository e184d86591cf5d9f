//! Random projections and codes.

use mbflow_core::{Directions, Projection, Seed};
use numpy::{IntoPyArray, PyArray2, PyArrayMethods};
use pyo3::prelude::*;

use crate::arrow::Features;
use crate::enter::enter;
use crate::error::invalid_argument;

/// What the caller calls the distribution of the entries.
pub(crate) fn directions(argument: &str, kind: &str) -> PyResult<Directions> {
    match kind {
        "gaussian" => Ok(Directions::Gaussian),
        "sparse" => Ok(Directions::Sparse),
        other => Err(invalid_argument(format!("{argument}: expected 'gaussian' or 'sparse', got {other:?}"))),
    }
}

/// Project rows on random directions.
#[pyfunction]
#[pyo3(signature = (features, *, projections, kind = "gaussian", seed = 0))]
pub(crate) fn project<'py>(
    py: Python<'py>,
    features: &Bound<'py, PyAny>,
    projections: usize,
    kind: &str,
    #[pyo3(from_py_with = crate::random::seed)] seed: u64,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let kind = directions("kind", kind)?;
    let features = Features::take(features)?;
    let rows = features.matrix()?;
    let out = enter(py, |exec| {
        let projection = Projection::new(kind, projections, rows.width(), Seed(seed))?;
        rows.check_values(exec)?;
        projection.project(exec, &rows)
    })
    .map_err(|failure| failure.with_columns(&|column| features.column(column)))?;
    out.into_pyarray(py).reshape([rows.rows(), projections])
}

/// Code rows by the sides of hyperplanes through the mean row.
#[pyfunction]
#[pyo3(signature = (features, *, bits, kind = "gaussian", seed = 0))]
pub(crate) fn sign_codes<'py>(
    py: Python<'py>,
    features: &Bound<'py, PyAny>,
    bits: usize,
    kind: &str,
    #[pyo3(from_py_with = crate::random::seed)] seed: u64,
) -> PyResult<Bound<'py, PyArray2<u64>>> {
    let kind = directions("kind", kind)?;
    let features = Features::take(features)?;
    let rows = features.matrix()?;
    let out = enter(py, |exec| {
        let projection = Projection::new(kind, bits, rows.width(), Seed(seed))?;
        rows.check_values(exec)?;
        let thresholds = projection.thresholds_at(&rows.column_means(exec)?)?;
        projection.sign_codes(exec, &rows, &thresholds)
    })
    .map_err(|failure| failure.with_columns(&|column| features.column(column)))?;
    out.into_pyarray(py).reshape([rows.rows(), bits.div_ceil(64)])
}

/// Code rows by cells of one width along random directions.
#[pyfunction]
#[pyo3(signature = (features, *, hashes, width, kind = "gaussian", seed = 0))]
pub(crate) fn p_stable_codes<'py>(
    py: Python<'py>,
    features: &Bound<'py, PyAny>,
    hashes: usize,
    width: f32,
    kind: &str,
    #[pyo3(from_py_with = crate::random::seed)] seed: u64,
) -> PyResult<Bound<'py, PyArray2<i32>>> {
    let kind = directions("kind", kind)?;
    let features = Features::take(features)?;
    let rows = features.matrix()?;
    let out = enter(py, |exec| {
        let projection = Projection::new(kind, hashes, rows.width(), Seed(seed))?;
        rows.check_values(exec)?;
        projection.p_stable_codes(exec, &rows, width, Seed(seed))
    })
    .map_err(|failure| failure.with_columns(&|column| features.column(column)))?;
    out.into_pyarray(py).reshape([rows.rows(), hashes])
}
