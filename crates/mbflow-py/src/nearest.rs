//! The nearest of a set of rows.

use mbflow_core::Simd;
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;

use crate::arrow::Features;
use crate::enter::enter;

type Nearest<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f32>>);

/// Find for every query the nearest row.
#[pyfunction]
pub(crate) fn nearest_rows<'py>(
    py: Python<'py>,
    features: &Bound<'py, PyAny>,
    queries: &Bound<'py, PyAny>,
) -> PyResult<Nearest<'py>> {
    let (features, queries) = (Features::take(features)?, Features::take(queries)?);
    let (rows, asked) = (features.matrix()?, queries.matrix()?);
    let found = enter(py, |exec| mbflow_core::nearest_rows(exec, &rows, &asked, Simd::detect()));
    let (nearest, distances) =
        found.map_err(|failure| failure.with_columns(&|column| features.column(column)))?;
    Ok((nearest.into_pyarray(py), distances.into_pyarray(py)))
}
