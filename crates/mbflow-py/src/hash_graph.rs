//! The hashing graph.

use mbflow_core::{Family, Graph, HashGraph, Matrix, Seed};
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrow::Features;
use crate::enter::enter;
use crate::error::invalid_argument;
use crate::projection::directions;

type Parts<'py> =
    (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<f32>>, Bound<'py, PyDict>);

/// Link every row to the nearest of the rows that hashing brings near it.
#[pyfunction]
#[pyo3(signature = (
    features, *, neighbours = 10, bits = None, family = "sign", width = None, projections = "gaussian",
    bucket_cap = 256, probes = 16, refinements = 4, seed = 0
))]
#[expect(clippy::too_many_arguments, reason = "they are the keyword arguments that Python sees")]
pub(crate) fn hash_graph<'py>(
    py: Python<'py>,
    features: &Bound<'py, PyAny>,
    neighbours: usize,
    bits: Option<usize>,
    family: &str,
    width: Option<f32>,
    projections: &str,
    bucket_cap: usize,
    probes: usize,
    refinements: usize,
    seed: u64,
) -> PyResult<Parts<'py>> {
    let settings = HashGraph {
        bits,
        family: self::family(family, width)?,
        directions: directions("projections", projections)?,
        bucket_cap,
        probes,
        refinements,
        seed: Seed(seed),
        ..HashGraph::new(neighbours)
    };
    let features = Features::take(features)?;
    let rows = features.matrix()?;
    let graph = enter(py, |exec| settings.build(exec, &rows))
        .map_err(|failure| failure.with_columns(&|column| features.column(column)))?;
    let stats = stats(py, &rows, &graph)?;
    let (offsets, neighbours) = graph.neighbours.into_parts();
    Ok((offsets.into_pyarray(py), neighbours.into_pyarray(py), graph.distances.into_pyarray(py), stats))
}

/// What codes are made of, from what the caller says.
pub(crate) fn family(family: &str, width: Option<f32>) -> PyResult<Family> {
    match (family, width) {
        ("sign", None) => Ok(Family::Sign),
        ("sign", Some(_)) => Err(invalid_argument("width: applies to family='p_stable' only; leave it out")),
        ("p_stable", width) => Ok(Family::PStable { width }),
        (other, _) => Err(invalid_argument(format!("family: expected 'sign' or 'p_stable', got {other:?}"))),
    }
}

/// What building a graph came to, as Python sees it.
pub(crate) fn stats<'py>(py: Python<'py>, rows: &Matrix<'_>, graph: &Graph) -> PyResult<Bound<'py, PyDict>> {
    let stats = PyDict::new(py);
    stats.set_item("rows", rows.rows())?;
    stats.set_item("width", rows.width())?;
    stats.set_item("bits", graph.stats.bits)?;
    stats.set_item("buckets", graph.stats.buckets)?;
    stats.set_item("largest_bucket", graph.stats.largest_bucket)?;
    stats.set_item("smallest_bucket", graph.stats.smallest_bucket)?;
    stats.set_item("code_buckets", graph.stats.code_buckets)?;
    stats.set_item("moves", graph.stats.moves)?;
    stats.set_item("distances", graph.stats.distances)?;
    Ok(stats)
}
