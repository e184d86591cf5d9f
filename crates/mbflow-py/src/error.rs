//! Errors of the core as the exceptions of `mbflow.errors`: one match.

use mbflow_core::Error;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

static INVALID_ARGUMENT: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static DATA: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static RESOURCE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static DEFECT: PyOnceLock<Py<PyType>> = PyOnceLock::new();

fn exception(cell: &PyOnceLock<Py<PyType>>, name: &str, message: String) -> PyErr {
    Python::attach(|py| match cell.import(py, "mbflow.errors", name) {
        Ok(class) => PyErr::from_type(class.clone(), message),
        Err(error) => error,
    })
}

/// An argument that cannot be used: `mbflow.errors.InvalidArgumentError`.
pub(crate) fn invalid_argument(message: impl Into<String>) -> PyErr {
    exception(&INVALID_ARGUMENT, "InvalidArgumentError", message.into())
}

/// Data that cannot be used: `mbflow.errors.DataError`.
pub(crate) fn data(message: impl Into<String>) -> PyErr {
    exception(&DATA, "DataError", message.into())
}

/// Data of which a row cannot be used: a `DataError` that names it.
fn data_at(message: String, row: u64) -> PyErr {
    let error = data(message);
    Python::attach(|py| match error.value(py).setattr("row", row) {
        Ok(()) => error,
        Err(failed) => failed,
    })
}

/// A fault of mbflow: `mbflow.errors.DefectError`.
pub(crate) fn defect(message: impl Into<String>) -> PyErr {
    exception(&DEFECT, "DefectError", message.into())
}

/// What a kernel refused, as an exception; `columns` names the columns of the features.
pub(crate) fn to_python(error: Error, columns: Option<&dyn Fn(usize) -> String>) -> PyErr {
    match error {
        Error::InvalidArgument { .. } => invalid_argument(error.to_string()),
        Error::BadValue { row, column, value, reason } => {
            let column = columns.map_or_else(|| format!("column {column}"), |name| name(column));
            data(format!("features: {column}, row {row}: {value} {reason}"))
        }
        Error::BadEdge { row, .. } => data_at(error.to_string(), row),
        Error::Interrupted => PyKeyboardInterrupt::new_err(()),
        Error::Threads { .. } | Error::Memory { .. } => {
            exception(&RESOURCE, "ResourceError", error.to_string())
        }
        other => defect(other.to_string()),
    }
}
