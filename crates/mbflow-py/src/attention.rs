//! Graph attention: a ragged graph and its passes, over the memory of the caller's arrays.
#![expect(clippy::needless_pass_by_value, reason = "arrays that are only read come by value")]

use std::sync::OnceLock;

use mbflow_core::{
    Activation, AttentionGraph, Backward, Cancel, Dropout, Error, Exec, Forward, Gradients, HeadRows, Real,
    Saved, Seed, Sources, Targets, Transpose,
};
use numpy::{
    Element, IntoPyArray, PyArray1, PyArrayDyn, PyArrayMethods, PyReadonlyArray1, PyReadonlyArrayDyn,
    PyReadwriteArrayDyn,
};
use pyo3::prelude::*;

use crate::enter::{catch, enter};
use crate::error::{defect, invalid_argument, to_python};

/// Up to this many multiplications a call is the work of less time than a thread of its own takes to start.
const FEW: usize = 1 << 16;

/// The module `mbflow._native.attention`.
#[pymodule(submodule)]
pub(crate) mod attention {
    #[pymodule_export]
    use super::{EdgeGraph, dropout_factors, project, row_layout};
}

fn read<'a, T: Element>(name: &str, array: &'a PyReadonlyArrayDyn<'_, T>) -> PyResult<&'a [T]> {
    array.as_slice().map_err(|error| invalid_argument(format!("{name}: {error}")))
}

fn write<'a, T: Element>(name: &str, array: &'a mut PyReadwriteArrayDyn<'_, T>) -> PyResult<&'a mut [T]> {
    array.as_slice_mut().map_err(|error| invalid_argument(format!("{name}: {error}")))
}

fn typed<'py, T: Element>(name: &str, array: &Bound<'py, PyAny>) -> PyResult<PyReadonlyArrayDyn<'py, T>> {
    let array = array
        .cast::<PyArrayDyn<T>>()
        .map_err(|_| invalid_argument(format!("{name}: expected an array of the same type as the rows")))?;
    array.try_readonly().map_err(|error| invalid_argument(format!("{name}: {error}")))
}

fn typed_mut<'py, T: Element>(
    name: &str,
    array: &Bound<'py, PyAny>,
) -> PyResult<PyReadwriteArrayDyn<'py, T>> {
    let array = array
        .cast::<PyArrayDyn<T>>()
        .map_err(|_| invalid_argument(format!("{name}: expected an array of the same type as the rows")))?;
    array.try_readwrite().map_err(|error| invalid_argument(format!("{name}: {error}")))
}

/// Runs short work on this thread and long work as a kernel.
fn run<T: Send>(
    py: Python<'_>,
    work: usize,
    kernel: impl FnOnce(&Exec) -> Result<T, Error> + Send,
) -> PyResult<T> {
    if work > FEW {
        return Ok(enter(py, kernel)?);
    }
    let result = py.detach(|| catch(|| kernel(&Exec::serial().with_cancel(&Cancel::default()))));
    result.map_err(defect)?.map_err(|error| to_python(error, None))
}

/// Whether an array is of float64; float32 else.
fn is_double(array: &Bound<'_, PyAny>) -> bool {
    array.cast::<PyArrayDyn<f64>>().is_ok()
}

fn activation(name: &str) -> PyResult<Activation> {
    match name {
        "none" => Ok(Activation::None),
        "elu" => Ok(Activation::Elu),
        other => Err(invalid_argument(format!("activation: expected 'none' or 'elu', got {other:?}"))),
    }
}

fn dropout(share: f64, key: u64) -> PyResult<Option<Dropout<'static>>> {
    let dropout = Dropout::new(share, Seed(key)).map_err(|error| to_python(error, None))?;
    Ok((share > 0.0).then_some(dropout))
}

fn layout(heads: usize, width: usize) -> PyResult<HeadRows> {
    HeadRows::new(heads, width).map_err(|error| to_python(error, None))
}

/// Where the parts of a row stand.
#[pyfunction]
pub(crate) fn row_layout(heads: usize, width: usize) -> PyResult<(usize, usize, usize, usize)> {
    let layout = layout(heads, width)?;
    Ok((layout.padded(), layout.logits(), layout.stride(), layout.gradient_stride()))
}

/// Features times weights.
#[pyfunction]
pub(crate) fn project(
    py: Python<'_>,
    features: &Bound<'_, PyAny>,
    weights: &Bound<'_, PyAny>,
    columns: usize,
    out: &Bound<'_, PyAny>,
) -> PyResult<()> {
    fn with<F: Real + Element>(
        py: Python<'_>,
        features: &Bound<'_, PyAny>,
        weights: &Bound<'_, PyAny>,
        columns: usize,
        out: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (features, weights) = (typed::<F>("features", features)?, typed::<F>("weights", weights)?);
        let mut out = typed_mut::<F>("out", out)?;
        let (features, weights) = (read("features", &features)?, read("weights", &weights)?);
        let out = write("out", &mut out)?;
        let work = features.len() * columns;
        run(py, work, |exec| mbflow_core::project(exec, features, weights, columns, out))
    }
    if is_double(out) {
        with::<f64>(py, features, weights, columns, out)
    } else {
        with::<f32>(py, features, weights, columns, out)
    }
}

/// What dropout multiplies coefficients with.
#[pyfunction]
pub(crate) fn dropout_factors(
    py: Python<'_>,
    share: f64,
    key: u64,
    edges: usize,
    heads: usize,
) -> PyResult<Bound<'_, PyArray1<f64>>> {
    let factors = match dropout(share, key)? {
        None => vec![1.0; edges * heads],
        Some(dropout) => (0..edges)
            .flat_map(|edge| (0..heads).map(move |head| dropout.factor(edge as u64, head, heads)))
            .collect(),
    };
    Ok(factors.into_pyarray(py))
}

/// Sources as they came, without a copy.
enum HeldSources {
    U32(Py<PyArray1<u32>>),
    U64(Py<PyArray1<u64>>),
}

/// A ragged graph.
#[pyclass(frozen, module = "mbflow._native.attention")]
pub(crate) struct EdgeGraph {
    offsets: Py<PyArray1<u64>>,
    sources: HeldSources,
    rows: usize,
    first: usize,
    targets: Option<Py<PyArray1<u32>>>,
    transpose: OnceLock<Transpose>,
    positions: OnceLock<Vec<u64>>,
}

/// Borrows of a graph's arrays for a call.
struct Borrowed<'py> {
    offsets: PyReadonlyArray1<'py, u64>,
    narrow: Option<PyReadonlyArray1<'py, u32>>,
    wide: Option<PyReadonlyArray1<'py, u64>>,
    targets: Option<PyReadonlyArray1<'py, u32>>,
    rows: usize,
    first: usize,
}

fn slice<'a, T: Element>(name: &str, array: &'a PyReadonlyArray1<'_, T>) -> PyResult<&'a [T]> {
    array.as_slice().map_err(|error| invalid_argument(format!("{name}: {error}")))
}

fn borrow<'py, T: Element>(
    py: Python<'py>,
    name: &str,
    array: &Py<PyArray1<T>>,
) -> PyResult<PyReadonlyArray1<'py, T>> {
    array.bind(py).try_readonly().map_err(|error| invalid_argument(format!("{name}: {error}")))
}

impl Borrowed<'_> {
    /// The graph; `seen` where its arrays have been looked at before.
    fn graph(&self, seen: bool) -> PyResult<AttentionGraph<'_>> {
        let sources = match (&self.narrow, &self.wide) {
            (Some(narrow), _) => Sources::U32(slice("sources", narrow)?),
            (None, Some(wide)) => Sources::U64(slice("sources", wide)?),
            (None, None) => Sources::U32(&[]),
        };
        let targets = match &self.targets {
            None => Targets::From(self.first),
            Some(targets) => Targets::Rows(slice("targets", targets)?),
        };
        let new = if seen { AttentionGraph::trusted } else { AttentionGraph::new };
        new(slice("offsets", &self.offsets)?, sources, self.rows, targets)
            .map_err(|error| to_python(error, None))
    }
}

impl EdgeGraph {
    fn borrowed<'py>(&self, py: Python<'py>) -> PyResult<Borrowed<'py>> {
        let (narrow, wide) = match &self.sources {
            HeldSources::U32(sources) => (Some(borrow(py, "sources", sources)?), None),
            HeldSources::U64(sources) => (None, Some(borrow(py, "sources", sources)?)),
        };
        let targets = self.targets.as_ref().map(|targets| borrow(py, "targets", targets)).transpose()?;
        let offsets = borrow(py, "offsets", &self.offsets)?;
        Ok(Borrowed { offsets, narrow, wide, targets, rows: self.rows, first: self.first })
    }

    fn attend_with<F: Real + Element>(
        &self,
        py: Python<'_>,
        call: &Call<'_, '_>,
        out: &Out<'_, '_>,
    ) -> PyResult<()> {
        let borrowed = self.borrowed(py)?;
        let graph = borrowed.graph(true)?;
        let rows = typed::<F>("rows", call.rows)?;
        let bias = call.bias.map(|bias| typed::<F>("bias", bias)).transpose()?;
        let bias = bias.as_ref().map(|bias| read("bias", bias)).transpose()?;
        let mut target = typed_mut::<F>("out", out.to)?;
        let mut sums = out.sums.map(|sums| typed_mut::<F>("sums", sums)).transpose()?;
        let sums = sums.as_mut().map(|sums| write("sums", sums)).transpose()?;
        let mut kept = match out.kept {
            None => None,
            Some((positive, numbers)) => {
                Some((typed_mut::<F>("positive", positive)?, typed_mut::<F>("numbers", numbers)?))
            }
        };
        let saved = match &mut kept {
            None => None,
            Some((positive, numbers)) => Some(Saved {
                sums,
                positive: write("positive", positive)?,
                numbers: write("numbers", numbers)?,
            }),
        };
        let target = write("out", &mut target)?;
        let pass = call.forward(graph, read("rows", &rows)?);
        let activation = activation(call.activation)?;
        run(py, call.work(graph), |exec| pass.attend(exec, bias, activation, target, saved))
    }

    fn backward_with<F: Real + Element>(
        &self,
        py: Python<'_>,
        call: &Call<'_, '_>,
        back: &Back<'_, '_>,
    ) -> PyResult<()> {
        let borrowed = self.borrowed(py)?;
        let graph = borrowed.graph(true)?;
        let rows = typed::<F>("rows", call.rows)?;
        let bias = call.bias.map(|bias| typed::<F>("bias", bias)).transpose()?;
        let bias = bias.as_ref().map(|bias| read("bias", bias)).transpose()?;
        let (features, weights) =
            (typed::<F>("features", back.features)?, typed::<F>("weights", back.weights)?);
        let (features, weights) = (read("features", &features)?, read("weights", &weights)?);
        let (sums, positive) = (typed::<F>("sums", back.sums)?, typed::<F>("positive", back.positive)?);
        let (sums, positive) = (read("sums", &sums)?, read("positive", &positive)?);
        let (numbers, gradient) =
            (typed::<F>("numbers", back.numbers)?, typed::<F>("gradient", back.gradient)?);
        let (numbers, gradient) = (read("numbers", &numbers)?, read("gradient", &gradient)?);
        let mut to_features = back.to_features.map(|into| typed_mut::<F>("to_features", into)).transpose()?;
        let to_features = to_features.as_mut().map(|into| write("to_features", into)).transpose()?;
        let mut to_weights = typed_mut::<F>("to_weights", back.to_weights)?;
        let to_weights = write("to_weights", &mut to_weights)?;
        let mut to_bias = back.to_bias.map(|into| typed_mut::<F>("to_bias", into)).transpose()?;
        let to_bias = to_bias.as_mut().map(|into| write("to_bias", into)).transpose()?;
        let mut passed = typed_mut::<F>("passed", back.passed)?;
        let passed = write("passed", &mut passed)?;
        let into = Gradients { features: to_features, weights: to_weights, bias: to_bias, passed };
        let forward = call.forward(graph, read("rows", &rows)?);
        let activation = activation(call.activation)?;
        run(py, call.work(graph) + features.len(), |exec| {
            let transpose = self.transpose.get_or_init(|| graph.transpose());
            let positions =
                forward.dropout.map(|_| &self.positions.get_or_init(|| graph.positions(transpose))[..]);
            let backward = Backward {
                forward,
                features,
                weights,
                bias,
                activation,
                sums,
                positive,
                numbers,
                transpose,
                positions,
            };
            backward.run(exec, gradient, into)
        })
    }
}

/// What both passes take.
struct Call<'a, 'py> {
    rows: &'a Bound<'py, PyAny>,
    layout: HeadRows,
    slope: f64,
    dropout: Option<Dropout<'a>>,
    bias: Option<&'a Bound<'py, PyAny>>,
    activation: &'a str,
}

impl Call<'_, '_> {
    fn forward<'b, F: Real>(&'b self, graph: AttentionGraph<'b>, rows: &'b [F]) -> Forward<'b, F> {
        let slope = F::from_f64(self.slope);
        Forward { graph, layout: self.layout, rows, slope, dropout: self.dropout }
    }

    fn work(&self, graph: AttentionGraph<'_>) -> usize {
        (graph.edges() + graph.targets()) * self.layout.stride()
    }
}

/// Where the forward pass writes.
struct Out<'a, 'py> {
    to: &'a Bound<'py, PyAny>,
    sums: Option<&'a Bound<'py, PyAny>>,
    kept: Option<(&'a Bound<'py, PyAny>, &'a Bound<'py, PyAny>)>,
}

/// What the backward pass takes beside, and where it writes.
struct Back<'a, 'py> {
    features: &'a Bound<'py, PyAny>,
    weights: &'a Bound<'py, PyAny>,
    sums: &'a Bound<'py, PyAny>,
    positive: &'a Bound<'py, PyAny>,
    numbers: &'a Bound<'py, PyAny>,
    gradient: &'a Bound<'py, PyAny>,
    to_features: Option<&'a Bound<'py, PyAny>>,
    to_weights: &'a Bound<'py, PyAny>,
    to_bias: Option<&'a Bound<'py, PyAny>>,
    passed: &'a Bound<'py, PyAny>,
}

#[pymethods]
impl EdgeGraph {
    #[new]
    #[pyo3(signature = (offsets, sources, rows, *, first = 0, targets = None))]
    fn new(
        py: Python<'_>,
        offsets: Py<PyArray1<u64>>,
        sources: &Bound<'_, PyAny>,
        rows: usize,
        first: usize,
        targets: Option<Py<PyArray1<u32>>>,
    ) -> PyResult<Self> {
        let sources = if let Ok(narrow) = sources.cast::<PyArray1<u32>>() {
            HeldSources::U32(narrow.clone().unbind())
        } else if let Ok(wide) = sources.cast::<PyArray1<u64>>() {
            HeldSources::U64(wide.clone().unbind())
        } else {
            return Err(invalid_argument("sources: expected an array of uint32 or uint64"));
        };
        let (transpose, positions) = (OnceLock::new(), OnceLock::new());
        let graph = Self { offsets, sources, rows, first, targets, transpose, positions };
        let borrowed = graph.borrowed(py)?;
        borrowed.graph(false)?;
        drop(borrowed);
        Ok(graph)
    }

    /// Targets.
    #[getter]
    fn targets(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.borrowed(py)?.graph(true)?.targets())
    }

    /// Edges.
    #[getter]
    fn edges(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.borrowed(py)?.graph(true)?.edges())
    }

    /// Rows that sources and targets are among.
    #[getter]
    fn rows(&self) -> usize {
        self.rows
    }

    /// The forward pass.
    #[pyo3(signature = (rows, heads, width, *, slope, dropout, key, factors, bias, activation, out, sums, kept))]
    #[expect(clippy::too_many_arguments, reason = "they are the arguments that Python sees")]
    fn attend(
        &self,
        py: Python<'_>,
        rows: &Bound<'_, PyAny>,
        heads: usize,
        width: usize,
        slope: f64,
        dropout: f64,
        key: u64,
        factors: Option<PyReadonlyArrayDyn<'_, f32>>,
        bias: Option<&Bound<'_, PyAny>>,
        activation: &str,
        out: &Bound<'_, PyAny>,
        sums: Option<&Bound<'_, PyAny>>,
        kept: Option<(Bound<'_, PyAny>, Bound<'_, PyAny>)>,
    ) -> PyResult<()> {
        let dropout = match &factors {
            None => self::dropout(dropout, key)?,
            Some(factors) => Some(Dropout::given(read("factors", factors)?)),
        };
        let call = Call { rows, layout: layout(heads, width)?, slope, dropout, bias, activation };
        let out = Out { to: out, sums, kept: kept.as_ref().map(|(positive, numbers)| (positive, numbers)) };
        if is_double(rows) {
            self.attend_with::<f64>(py, &call, &out)
        } else {
            self.attend_with::<f32>(py, &call, &out)
        }
    }

    /// The backward pass.
    #[pyo3(signature = (rows, heads, width, *, slope, dropout, key, factors, bias, activation, features, weights, sums, kept,
        gradient, to_features, to_weights, to_bias, passed))]
    #[expect(clippy::too_many_arguments, reason = "they are the arguments that Python sees")]
    fn backward(
        &self,
        py: Python<'_>,
        rows: &Bound<'_, PyAny>,
        heads: usize,
        width: usize,
        slope: f64,
        dropout: f64,
        key: u64,
        factors: Option<PyReadonlyArrayDyn<'_, f32>>,
        bias: Option<&Bound<'_, PyAny>>,
        activation: &str,
        features: &Bound<'_, PyAny>,
        weights: &Bound<'_, PyAny>,
        sums: &Bound<'_, PyAny>,
        kept: (Bound<'_, PyAny>, Bound<'_, PyAny>),
        gradient: &Bound<'_, PyAny>,
        to_features: Option<&Bound<'_, PyAny>>,
        to_weights: &Bound<'_, PyAny>,
        to_bias: Option<&Bound<'_, PyAny>>,
        passed: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let dropout = match &factors {
            None => self::dropout(dropout, key)?,
            Some(factors) => Some(Dropout::given(read("factors", factors)?)),
        };
        let call = Call { rows, layout: layout(heads, width)?, slope, dropout, bias, activation };
        let (positive, numbers) = (&kept.0, &kept.1);
        let back = Back {
            features,
            weights,
            sums,
            positive,
            numbers,
            gradient,
            to_features,
            to_weights,
            to_bias,
            passed,
        };
        if is_double(rows) {
            self.backward_with::<f64>(py, &call, &back)
        } else {
            self.backward_with::<f32>(py, &call, &back)
        }
    }

    /// The coefficients themselves.
    #[pyo3(signature = (rows, heads, width, *, slope, out))]
    fn coefficients(
        &self,
        py: Python<'_>,
        rows: &Bound<'_, PyAny>,
        heads: usize,
        width: usize,
        slope: f64,
        out: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        fn with<F: Real + Element>(
            py: Python<'_>,
            borrowed: &Borrowed<'_>,
            call: &Call<'_, '_>,
            out: &Bound<'_, PyAny>,
        ) -> PyResult<()> {
            let graph = borrowed.graph(true)?;
            let rows = typed::<F>("rows", call.rows)?;
            let mut out = typed_mut::<F>("out", out)?;
            let out = write("out", &mut out)?;
            let pass = call.forward(graph, read("rows", &rows)?);
            run(py, call.work(graph), |exec| pass.coefficients(exec, out))
        }
        let layout = layout(heads, width)?;
        let call = Call { rows, layout, slope, dropout: None, bias: None, activation: "none" };
        let borrowed = self.borrowed(py)?;
        if is_double(rows) {
            with::<f64>(py, &borrowed, &call, out)
        } else {
            with::<f32>(py, &borrowed, &call, out)
        }
    }
}
