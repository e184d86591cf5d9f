//! Graphs in compressed sparse columns: built from edge lists, and checked where they come from elsewhere.
#![expect(clippy::needless_pass_by_value, reason = "arrays that are only read come by value")]

use std::sync::{Mutex, PoisonError};

use mbflow_core::{CscBuilder, DealtEdges, Duplicates, EdgeList, EdgeRules, Error, Exec, NodeId, SelfLoops};
use numpy::{IntoPyArray, PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::enter::enter;
use crate::error::invalid_argument;

/// The module `mbflow._native.csc`.
#[pymodule(submodule)]
pub(crate) mod csc {
    #[pymodule_export]
    use super::{Builder, check_offsets, check_sources, deal_edges, degree_bins, take};
}

fn slice<'a, T: numpy::Element>(name: &str, array: &'a PyReadonlyArray1<'_, T>) -> PyResult<&'a [T]> {
    array.as_slice().map_err(|error| invalid_argument(format!("{name}: {error}")))
}

/// Work on an edge list, whatever the type of its ids.
trait Work<O> {
    fn on<T: NodeId>(self, exec: &Exec, list: &EdgeList<'_, T>) -> Result<O, Error>;
}

fn work_on<T: NodeId + numpy::Element, O: Send>(
    (sources, targets): (&Bound<'_, PyArray1<T>>, &Bound<'_, PyArray1<T>>),
    first_row: u64,
    work: impl Work<O> + Send,
) -> PyResult<O> {
    let py = sources.py();
    let (sources, targets) = (sources.readonly(), targets.readonly());
    let (sources, targets) = (slice("sources", &sources)?, slice("targets", &targets)?);
    Ok(enter(py, |exec| work.on(exec, &EdgeList::new(sources, targets, first_row)?))?)
}

fn with_edges<O: Send>(
    sources: &Bound<'_, PyAny>,
    targets: &Bound<'_, PyAny>,
    first_row: u64,
    work: impl Work<O> + Send,
) -> PyResult<O> {
    macro_rules! of_type {
        ($($kind:ty),*) => {$(
            if let (Ok(sources), Ok(targets)) =
                (sources.cast::<PyArray1<$kind>>(), targets.cast::<PyArray1<$kind>>())
            {
                return work_on((sources, targets), first_row, work);
            }
        )*};
    }
    of_type!(i64, u32, i32, u64);
    Err(invalid_argument("sources and targets: expected arrays of one type: int32, int64, uint32 or uint64"))
}

fn rules(undirected: bool, self_loops: &str, swapped: bool) -> PyResult<EdgeRules> {
    let self_loops = match self_loops {
        "keep" => SelfLoops::Keep,
        "drop" => SelfLoops::Drop,
        "add" => SelfLoops::Add,
        other => {
            let message = format!("self_loops: expected 'keep', 'drop' or 'add', got {other:?}");
            return Err(invalid_argument(message));
        }
    };
    Ok(EdgeRules { undirected, self_loops, reversed: swapped })
}

/// Builds columns from an edge list that is read twice.
#[pyclass(frozen, module = "mbflow._native.csc")]
pub(crate) struct Builder(Mutex<Option<CscBuilder>>);

struct Count<'a>(&'a Builder);
struct CountTargets<'a>(&'a Builder);
struct Fill<'a>(&'a Builder);

impl Work<()> for Count<'_> {
    fn on<T: NodeId>(self, exec: &Exec, list: &EdgeList<'_, T>) -> Result<(), Error> {
        self.0.with(|builder| builder.count(exec, list))
    }
}

impl Work<()> for CountTargets<'_> {
    fn on<T: NodeId>(self, exec: &Exec, list: &EdgeList<'_, T>) -> Result<(), Error> {
        self.0.with(|builder| builder.count_targets(exec, list.targets(), list.first_row()))
    }
}

impl Work<()> for Fill<'_> {
    fn on<T: NodeId>(self, exec: &Exec, list: &EdgeList<'_, T>) -> Result<(), Error> {
        self.0.with(|builder| builder.fill(exec, list))
    }
}

fn finished() -> Error {
    Error::InvalidArgument { name: "builder", message: "it has finished".to_owned() }
}

impl Builder {
    fn with<O>(&self, work: impl FnOnce(&mut CscBuilder) -> Result<O, Error>) -> Result<O, Error> {
        let mut builder = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work(builder.as_mut().ok_or_else(finished)?)
    }
}

#[pymethods]
impl Builder {
    #[new]
    #[pyo3(signature = (
        nodes, source_nodes, *, first = 0, undirected = false, self_loops = "keep", swapped = false, rows = false,
        most = 0xFFFF_FFFF
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are the arguments that Python sees")]
    fn new(
        nodes: Option<u64>,
        source_nodes: Option<u64>,
        first: u64,
        undirected: bool,
        self_loops: &str,
        swapped: bool,
        rows: bool,
        most: u64,
    ) -> PyResult<Self> {
        let rules = rules(undirected, self_loops, swapped)?;
        let builder = CscBuilder::new(nodes, source_nodes, first, rules, rows);
        let builder = builder.map_err(|error| crate::error::to_python(error, None))?;
        Ok(Self(Mutex::new(Some(builder.with_most(most)))))
    }

    /// The first pass: count edges.
    #[pyo3(signature = (sources, targets, first_row = 0))]
    fn count(
        &self,
        sources: Option<&Bound<'_, PyAny>>,
        targets: &Bound<'_, PyAny>,
        first_row: u64,
    ) -> PyResult<()> {
        match sources {
            Some(sources) => with_edges(sources, targets, first_row, Count(self)),
            None => with_edges(targets, targets, first_row, CountTargets(self)),
        }
    }

    /// The second pass: put edges into place.
    #[pyo3(signature = (sources, targets, first_row = 0))]
    fn fill(&self, sources: &Bound<'_, PyAny>, targets: &Bound<'_, PyAny>, first_row: u64) -> PyResult<()> {
        with_edges(sources, targets, first_row, Fill(self))
    }

    /// Sort the edges of each node, and hand out the columns.
    #[pyo3(signature = (*, duplicates = "keep", weights = None))]
    fn finish<'py>(
        &self,
        py: Python<'py>,
        duplicates: &str,
        weights: Option<PyReadonlyArray1<'py, f32>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let weights = weights.as_ref().map(|weights| slice("weights", weights)).transpose()?;
        let duplicates = match duplicates {
            "keep" => Duplicates::Keep,
            "drop" => Duplicates::Drop,
            "count" => Duplicates::Count(weights),
            other => {
                let message = format!("duplicates: expected 'keep', 'drop' or 'count', got {other:?}");
                return Err(invalid_argument(message));
            }
        };
        let (csc, source_nodes) = enter(py, |exec| {
            let builder =
                self.0.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(finished)?;
            let source_nodes = builder.source_nodes();
            builder.finish(exec, duplicates).map(|csc| (csc, source_nodes))
        })?;
        (
            csc.offsets.into_pyarray(py),
            csc.sources.into_pyarray(py),
            csc.rows.map(|rows| rows.into_pyarray(py)),
            csc.weights.map(|weights| weights.into_pyarray(py)),
            source_nodes,
        )
            .into_pyobject(py)
    }
}

struct Deal {
    rules: EdgeRules,
    source_nodes: u64,
    firsts: Vec<u64>,
}

impl Work<Vec<DealtEdges>> for Deal {
    fn on<T: NodeId>(self, exec: &Exec, list: &EdgeList<'_, T>) -> Result<Vec<DealtEdges>, Error> {
        mbflow_core::deal_edges(exec, list, self.rules, self.source_nodes, &self.firsts)
    }
}

/// Deal edges into ranges of targets.
#[pyfunction]
#[pyo3(signature = (sources, targets, *, source_nodes, firsts, undirected, self_loops, swapped, first_row))]
#[expect(clippy::too_many_arguments, reason = "they are the arguments that Python sees")]
pub(crate) fn deal_edges<'py>(
    py: Python<'py>,
    sources: &Bound<'py, PyAny>,
    targets: &Bound<'py, PyAny>,
    source_nodes: u64,
    firsts: Vec<u64>,
    undirected: bool,
    self_loops: &str,
    swapped: bool,
    first_row: u64,
) -> PyResult<Vec<Bound<'py, PyTuple>>> {
    let rules = rules(undirected, self_loops, swapped)?;
    let dealt = with_edges(sources, targets, first_row, Deal { rules, source_nodes, firsts })?;
    let arrays = dealt.into_iter().map(|block| {
        let DealtEdges { starts, sources, targets, rows } = block;
        let arrays = [starts, sources, targets, rows].map(|values| values.into_pyarray(py));
        PyTuple::new(py, arrays)
    });
    arrays.collect()
}

struct Bins {
    rules: EdgeRules,
    source_nodes: u64,
    nodes: u64,
    shift: u32,
}

impl Work<Vec<u64>> for Bins {
    fn on<T: NodeId>(self, exec: &Exec, list: &EdgeList<'_, T>) -> Result<Vec<u64>, Error> {
        mbflow_core::degree_bins(exec, list, self.rules, self.source_nodes, self.nodes, self.shift)
    }
}

/// Count the edges that lead to the nodes of each bin.
#[pyfunction]
#[pyo3(signature = (
    sources, targets, *, source_nodes, nodes, shift, undirected, self_loops, swapped, first_row
))]
#[expect(clippy::too_many_arguments, reason = "they are the arguments that Python sees")]
pub(crate) fn degree_bins<'py>(
    sources: &Bound<'py, PyAny>,
    targets: &Bound<'py, PyAny>,
    source_nodes: u64,
    nodes: u64,
    shift: u32,
    undirected: bool,
    self_loops: &str,
    swapped: bool,
    first_row: u64,
) -> PyResult<Bound<'py, PyArray1<u64>>> {
    if shift > 32 {
        return Err(invalid_argument(format!("shift: expected at most 32, got {shift}")));
    }
    let rules = rules(undirected, self_loops, swapped)?;
    let bins = with_edges(sources, targets, first_row, Bins { rules, source_nodes, nodes, shift })?;
    Ok(bins.into_pyarray(sources.py()))
}

/// Check the offsets of columns.
#[pyfunction]
pub(crate) fn check_offsets(py: Python<'_>, offsets: PyReadonlyArray1<'_, u64>, edges: u64) -> PyResult<()> {
    let offsets = slice("offsets", &offsets)?;
    Ok(enter(py, |exec| mbflow_core::check_offsets(exec, offsets, edges))?)
}

/// Check the sources of columns.
#[pyfunction]
pub(crate) fn check_sources(
    py: Python<'_>,
    sources: PyReadonlyArray1<'_, u32>,
    source_nodes: u64,
) -> PyResult<()> {
    let sources = slice("sources", &sources)?;
    Ok(enter(py, |exec| mbflow_core::check_sources(exec, sources, source_nodes))?)
}

/// The value of each edge from those of the rows.
#[pyfunction]
#[pyo3(signature = (values, rows, missing))]
pub(crate) fn take<'py>(
    py: Python<'py>,
    values: &Bound<'py, PyAny>,
    rows: PyReadonlyArray1<'py, u32>,
    missing: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let rows = slice("rows", &rows)?;
    macro_rules! of_type {
        ($($kind:ty),*) => {$(
            if let Ok(values) = values.cast::<PyArray1<$kind>>() {
                let values = values.readonly();
                let (values, missing) = (slice("values", &values)?, missing.extract::<$kind>()?);
                let taken = enter(py, |exec| mbflow_core::take(exec, values, rows, missing))?;
                return Ok(taken.into_pyarray(py).into_any());
            }
        )*};
    }
    of_type!(f32, u16, i64, u32, u64);
    Err(invalid_argument("values: expected an array of float32, uint16, int64, uint32 or uint64"))
}
