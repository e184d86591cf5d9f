//! The random forest.

#![expect(clippy::needless_pass_by_value, reason = "arrays that are only read come by value")]

use mbflow_core::{Forest, Seed};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::arrow::Features;
use crate::enter::enter;
use crate::error::invalid_argument;

/// Train a random forest and classify queries.
#[pyfunction]
#[pyo3(signature = (features, classes, queries, *, trees = 30, seed = 0))]
pub(crate) fn forest_classes<'py>(
    py: Python<'py>,
    features: &Bound<'py, PyAny>,
    classes: PyReadonlyArray1<'py, i64>,
    queries: &Bound<'py, PyAny>,
    trees: usize,
    #[pyo3(from_py_with = crate::random::seed)] seed: u64,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let (features, queries) = (Features::take(features)?, Features::take(queries)?);
    let (rows, asked) = (features.matrix()?, queries.matrix()?);
    let classes = classes.as_slice().map_err(|_| invalid_argument("classes: expected a contiguous array"))?;
    let found = enter(py, |exec| Forest::fit(exec, &rows, classes, trees, Seed(seed))?.predict(exec, &asked))
        .map_err(|failure| failure.with_columns(&|column| features.column(column)))?;
    Ok(found.into_pyarray(py))
}
