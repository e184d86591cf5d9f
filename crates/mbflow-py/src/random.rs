//! Draws of the counter-based generator.

use std::num::NonZeroU64;

use mbflow_core::Seed;
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::PyBool;

use crate::enter::enter;
use crate::error::invalid_argument;

/// A seed as Python gives it: a whole number of 64 bits, and no truth value.
pub(crate) fn seed(value: &Bound<'_, PyAny>) -> PyResult<u64> {
    let number = if value.is_instance_of::<PyBool>() { None } else { value.extract::<u64>().ok() };
    let Some(number) = number else {
        let message = format!("seed is {}; expected a whole number from 0 to 2^64 - 1", value.repr()?);
        return Err(invalid_argument(message));
    };
    Ok(number)
}

/// Draw 64 uniform bits at each of `count` indices.
#[pyfunction]
pub(crate) fn random_u64(
    py: Python<'_>,
    #[pyo3(from_py_with = crate::random::seed)] seed: u64,
    stream: u32,
    start: u64,
    count: usize,
) -> PyResult<Bound<'_, PyArray1<u64>>> {
    let draws = enter(py, |exec| {
        let mut draws = vec![0; count];
        Seed(seed).fill_u64(exec, stream, start, &mut draws).map(|()| draws)
    })?;
    Ok(draws.into_pyarray(py))
}

/// Draw unbiased integers below `bound` at each of `count` indices.
#[pyfunction]
pub(crate) fn random_integers(
    py: Python<'_>,
    #[pyo3(from_py_with = crate::random::seed)] seed: u64,
    stream: u32,
    bound: u64,
    start: u64,
    count: usize,
) -> PyResult<Bound<'_, PyArray1<u64>>> {
    let bound =
        NonZeroU64::new(bound).ok_or_else(|| invalid_argument("bound: expected at least 1, got 0"))?;
    let draws = enter(py, |exec| {
        let mut draws = vec![0; count];
        Seed(seed).fill_below(exec, stream, bound, start, &mut draws).map(|()| draws)
    })?;
    Ok(draws.into_pyarray(py))
}

/// Draw standard normal numbers at each of `count` indices.
#[pyfunction]
pub(crate) fn random_normal(
    py: Python<'_>,
    #[pyo3(from_py_with = crate::random::seed)] seed: u64,
    stream: u32,
    start: u64,
    count: usize,
) -> PyResult<Bound<'_, PyArray1<f32>>> {
    let draws = enter(py, |exec| {
        let mut draws = vec![0.0; count];
        Seed(seed).fill_normal(exec, stream, start, &mut draws).map(|()| draws)
    })?;
    Ok(draws.into_pyarray(py))
}

/// Permute `0..n`.
#[pyfunction]
pub(crate) fn permutation(
    py: Python<'_>,
    #[pyo3(from_py_with = crate::random::seed)] seed: u64,
    stream: u32,
    n: usize,
) -> PyResult<Bound<'_, PyArray1<i64>>> {
    Ok(enter(py, |exec| Seed(seed).permutation(exec, stream, n))?.into_pyarray(py))
}
