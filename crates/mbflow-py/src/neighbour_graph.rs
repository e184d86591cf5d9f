//! Neighbour graphs of every kind.

use mbflow_core::{BatchGraph, Edges, Family, Graph, HashGraph, Matrix, Metric, Seed};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrow::Features;
use crate::enter::enter;
use crate::error::invalid_argument;
use crate::projection::directions;

type Parts<'py> = (
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<i32>>,
    Bound<'py, PyArray1<f32>>,
    Option<Bound<'py, PyArray1<f32>>>,
    Bound<'py, PyDict>,
);

/// What is built, beside the settings that all kinds share.
enum Kind {
    Exact,
    SingleLevel,
    MultiLevel(usize),
    MultiView(usize, f64),
    MiniBatch(BatchGraph, Vec<u32>, usize),
}

/// Link every row to rows near it.
#[pyfunction]
#[pyo3(signature = (
    features, *, kind = "single_level", neighbours = 10, metric = "euclidean", labels = None, batch_rows = 1024,
    overlap = 0.0, percentile = None, levels = 4, views = 8, view_columns = 1.0, bits = None, family = "sign",
    width = None, projections = "gaussian", bucket_cap = 256, probes = 16, refinements = 4, descents = 0, seed = 0
))]
#[expect(clippy::too_many_arguments, reason = "they are the keyword arguments that Python sees")]
pub(crate) fn neighbour_graph<'py>(
    py: Python<'py>,
    features: &Bound<'py, PyAny>,
    kind: &str,
    neighbours: usize,
    metric: &str,
    labels: Option<PyReadonlyArray1<'py, u32>>,
    batch_rows: usize,
    overlap: f64,
    percentile: Option<f64>,
    levels: usize,
    views: usize,
    view_columns: f64,
    bits: Option<usize>,
    family: &str,
    width: Option<f32>,
    projections: &str,
    bucket_cap: usize,
    probes: usize,
    refinements: usize,
    descents: usize,
    #[pyo3(from_py_with = crate::random::seed)] seed: u64,
) -> PyResult<Parts<'py>> {
    let settings = HashGraph {
        bits,
        family: self::family(family, width)?,
        directions: directions("projections", projections)?,
        bucket_cap,
        probes,
        refinements,
        metric: self::metric(metric)?,
        descents,
        seed: Seed(seed),
        ..HashGraph::new(neighbours)
    };
    let features = Features::take(features)?;
    let rows = features.matrix()?;
    let kind = match kind {
        "exact" => Kind::Exact,
        "single_level" => Kind::SingleLevel,
        "multi_level" => Kind::MultiLevel(levels),
        "multi_view" => Kind::MultiView(views, view_columns),
        "mini_batch" => {
            let edges = percentile.map_or(Edges::Nearest(neighbours), Edges::Above);
            let batches = BatchGraph {
                batch_rows,
                overlap,
                metric: settings.metric,
                descents,
                seed: settings.seed,
                ..BatchGraph::new(edges)
            };
            let classes = match labels {
                Some(labels) => labels.as_array().to_vec(),
                None => vec![0; rows.rows()],
            };
            let count = classes.iter().max().map_or(0, |&largest| largest as usize + 1);
            Kind::MiniBatch(batches, classes, count)
        }
        other => {
            return Err(invalid_argument(format!(
                "kind: expected 'exact', 'mini_batch', 'single_level', 'multi_level' or 'multi_view', got {other:?}"
            )));
        }
    };
    let graph = enter(py, |exec| match &kind {
        Kind::Exact => settings.build_exact(exec, &rows),
        Kind::SingleLevel => settings.build(exec, &rows),
        Kind::MultiLevel(levels) => settings.build_levels(exec, &rows, *levels),
        Kind::MultiView(views, columns) => settings.build_views(exec, &rows, *views, *columns),
        Kind::MiniBatch(batches, classes, count) => batches.build(exec, &rows, classes, *count),
    })
    .map_err(|failure| failure.with_columns(&|column| features.column(column)))?;
    let stats = stats(py, &rows, &graph)?;
    let Graph { neighbours, distances, weights, .. } = graph;
    let weights = match kind {
        Kind::Exact | Kind::SingleLevel => None,
        _ => Some(weights.into_pyarray(py)),
    };
    let (offsets, neighbours) = neighbours.into_parts();
    Ok((offsets.into_pyarray(py), neighbours.into_pyarray(py), distances.into_pyarray(py), weights, stats))
}

fn metric(metric: &str) -> PyResult<Metric> {
    match metric {
        "euclidean" => Ok(Metric::Euclidean),
        "manhattan" => Ok(Metric::Manhattan),
        "cosine" => Ok(Metric::Cosine),
        other => Err(invalid_argument(format!(
            "metric: expected 'euclidean', 'manhattan' or 'cosine', got {other:?}"
        ))),
    }
}

/// What codes are made of, from what the caller says.
fn family(family: &str, width: Option<f32>) -> PyResult<Family> {
    match (family, width) {
        ("sign", None) => Ok(Family::Sign),
        ("sign", Some(_)) => Err(invalid_argument("width: applies to family='p_stable' only; leave it out")),
        ("p_stable", width) => Ok(Family::PStable { width }),
        (other, _) => Err(invalid_argument(format!("family: expected 'sign' or 'p_stable', got {other:?}"))),
    }
}

/// What building a graph came to, as Python sees it.
fn stats<'py>(py: Python<'py>, rows: &Matrix<'_>, graph: &Graph) -> PyResult<Bound<'py, PyDict>> {
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
