//! Sampled neighbourhoods, random walks and negative edges.
#![expect(clippy::needless_pass_by_value, reason = "arrays that are only read come by value")]

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use mbflow_core::sampling::{
    self as core, ALL, Columns, Hop, Id, Method, Neighbourhood, Relation, Scratch, Spares, TimeOrder,
    WeightSums,
};
use mbflow_core::{Cancel, Error, Exec, KeyedPermutation, Seed, stream};
use numpy::ndarray::ArrayView1;
use numpy::{Element, IntoPyArray, PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::enter::{catch, enter};
use crate::error::{defect, invalid_argument, to_python};

/// Above this many edges a sample may take so long that Ctrl-C should reach it.
const MANY: usize = 1 << 22;

/// The module `mbflow._native.sampling`.
#[pymodule(submodule)]
pub(crate) mod sampling {
    #[pymodule_export]
    use super::{Sampler, negative_sources, permuted, time_order, walks, weight_sums};
}

fn slice<'a, T: Element>(name: &str, array: &'a PyReadonlyArray1<'_, T>) -> PyResult<&'a [T]> {
    array.as_slice().map_err(|error| invalid_argument(format!("{name}: {error}")))
}

/// An array that outlives the call that brought it.
type Held<T> = Py<PyArray1<T>>;

/// The arrays and rules of one relation.
struct Edges {
    offsets: Held<u64>,
    sources: Held<u32>,
    types: (usize, usize),
    fanouts: Vec<usize>,
    weights: Option<(Held<f32>, Held<f64>)>,
    times: Option<(Held<i64>, Option<Held<u32>>)>,
}

/// The same arrays, while they are read.
struct Read<'py> {
    offsets: PyReadonlyArray1<'py, u64>,
    sources: PyReadonlyArray1<'py, u32>,
    weights: Option<(PyReadonlyArray1<'py, f32>, PyReadonlyArray1<'py, f64>)>,
    times: Option<(PyReadonlyArray1<'py, i64>, Option<PyReadonlyArray1<'py, u32>>)>,
}

impl Edges {
    fn read<'py>(&self, py: Python<'py>) -> Read<'py> {
        Read {
            offsets: self.offsets.bind(py).readonly(),
            sources: self.sources.bind(py).readonly(),
            weights: self
                .weights
                .as_ref()
                .map(|(weights, sums)| (weights.bind(py).readonly(), sums.bind(py).readonly())),
            times: self.times.as_ref().map(|(times, order)| {
                (times.bind(py).readonly(), order.as_ref().map(|order| order.bind(py).readonly()))
            }),
        }
    }

    fn relation<'a>(&'a self, read: &'a Read<'_>, rule: &Rule) -> PyResult<Relation<'a>> {
        let refuse = |error| to_python(error, None);
        let columns = Columns::new(slice("offsets", &read.offsets)?, slice("sources", &read.sources)?);
        let columns = columns.map_err(refuse)?;
        let method = match rule.method.as_str() {
            "weighted" => {
                let (weights, sums) = read
                    .weights
                    .as_ref()
                    .ok_or_else(|| invalid_argument("weights: expected weights for `weighted`, got none"))?;
                let (weights, sums) = (slice("weights", weights)?, slice("sums", sums)?);
                let sums = WeightSums::new(weights, sums, columns.nodes()).map_err(refuse)?;
                Method::Weighted { sums, replace: rule.replace }
            }
            "labor" => Method::Labor { across_layers: rule.across_layers },
            "latest" => Method::Latest,
            "budget" => Method::Budget,
            _ => Method::Uniform { replace: rule.replace },
        };
        let times = match &read.times {
            None => None,
            Some((times, order)) => {
                let order = order.as_ref().map(|order| slice("order", order)).transpose()?;
                Some(TimeOrder::new(slice("times", times)?, order).map_err(refuse)?)
            }
        };
        Ok(Relation {
            columns,
            source_type: self.types.0,
            target_type: self.types.1,
            fanouts: &self.fanouts,
            method,
            times,
        })
    }
}

/// What goes for all relations.
struct Rule {
    method: String,
    replace: bool,
    across_layers: bool,
}

/// One relation as Python gives it: offsets, sources, types, fan-outs, weights with sums, times with order.
type Given<'py> = (
    Bound<'py, PyArray1<u64>>,
    Bound<'py, PyArray1<u32>>,
    (usize, usize),
    Vec<i64>,
    Option<(Bound<'py, PyArray1<f32>>, Bound<'py, PyArray1<f64>>)>,
    Option<(Bound<'py, PyArray1<i64>>, Option<Bound<'py, PyArray1<u32>>>)>,
);

/// Neighbourhoods of seeds.
#[pyclass(frozen, module = "mbflow._native.sampling")]
pub(crate) struct Sampler {
    nodes: Vec<u64>,
    edges: Vec<Edges>,
    rule: Rule,
    seed: u64,
    expand_new: bool,
    trees: bool,
    page: Option<u32>,
    narrow: bool,
    scratch: Mutex<Vec<Scratch>>,
    spares: Arc<Spares>,
}

#[pymethods]
impl Sampler {
    #[new]
    #[pyo3(signature = (
        nodes, relations, *, method, seed, replace = false, across_layers = false, expand_new = false, trees = false,
        page = None, narrow = false
    ))]
    #[expect(clippy::fn_params_excessive_bools, clippy::too_many_arguments, reason = "keywords of Python")]
    fn new(
        nodes: Vec<u64>,
        relations: Vec<Given<'_>>,
        method: String,
        seed: u64,
        replace: bool,
        across_layers: bool,
        expand_new: bool,
        trees: bool,
        page: Option<u32>,
        narrow: bool,
    ) -> PyResult<Self> {
        let edges = relations
            .into_iter()
            .map(|(offsets, sources, types, fanouts, weights, times)| Edges {
                offsets: offsets.unbind(),
                sources: sources.unbind(),
                types,
                fanouts: fanouts.into_iter().map(|fanout| usize::try_from(fanout).unwrap_or(ALL)).collect(),
                weights: weights.map(|(weights, sums)| (weights.unbind(), sums.unbind())),
                times: times.map(|(times, order)| (times.unbind(), order.map(Bound::unbind))),
            })
            .collect();
        if page == Some(0) {
            return Err(invalid_argument("page: expected at least one node a page, got 0"));
        }
        let rule = Rule { method, replace, across_layers };
        Ok(Self {
            nodes,
            edges,
            rule,
            seed,
            expand_new,
            trees,
            page,
            narrow,
            scratch: Mutex::default(),
            spares: Arc::default(),
        })
    }

    /// What is sampled around some seeds of each type.
    #[pyo3(signature = (seeds, times = None, *, epoch = 0, batch = 0))]
    fn sample<'py>(
        &self,
        py: Python<'py>,
        seeds: Vec<PyReadonlyArray1<'py, i64>>,
        times: Option<PyReadonlyArray1<'py, i64>>,
        epoch: u64,
        batch: u64,
    ) -> PyResult<Bound<'py, PyTuple>> {
        if seeds.len() != self.nodes.len() {
            let message =
                format!("seeds: expected {}, one for each type, got {}", self.nodes.len(), seeds.len());
            return Err(invalid_argument(message));
        }
        let read: Vec<Read<'_>> = self.edges.iter().map(|edges| edges.read(py)).collect();
        let relations = self
            .edges
            .iter()
            .zip(&read)
            .map(|(edges, read)| edges.relation(read, &self.rule))
            .collect::<PyResult<Vec<_>>>()?;
        let edges: usize = relations.iter().map(|relation| relation.columns.edges_count()).sum();
        let sampler = core::Sampler::new(self.nodes.clone(), relations, self.seed);
        let sampler = sampler.map_err(|error| to_python(error, None))?;
        let sampler = sampler.expand_new(self.expand_new).trees(self.trees).pages(self.page);
        let seeds = seeds.iter().map(|seeds| slice("seeds", seeds)).collect::<PyResult<Vec<_>>>()?;
        let times = times.as_ref().map(|times| slice("times", times)).transpose()?;
        let count: usize = seeds.iter().map(|seeds| seeds.len()).sum();
        let layers = self.edges.iter().map(|edges| edges.fanouts.as_slice());
        let most = layers
            .map(|fanouts| fanouts.iter().fold(count, |nodes, &fanout| nodes.saturating_mul(fanout.max(1))))
            .fold(0, usize::saturating_add);
        // Without replacement a layer takes each edge once at most (for each tree).
        let once = edges.saturating_mul(self.edges.first().map_or(0, |edges| edges.fanouts.len()));
        let most = if self.rule.replace || self.trees { most } else { most.min(once) };
        let scratch = self.scratches().pop();
        let mut scratch = scratch.unwrap_or_else(|| Scratch::with_spares(Arc::clone(&self.spares)));
        let result = if self.narrow && u32::try_from(edges).is_ok() {
            let found = run(py, most, |exec| {
                sampler.sample::<u32, u32>(exec, &seeds, times, epoch, batch, &mut scratch)
            });
            found.and_then(|found| to_tuple(py, found, self.narrow, &self.spares))
        } else if self.narrow {
            let found = run(py, most, |exec| {
                sampler.sample::<u32, i64>(exec, &seeds, times, epoch, batch, &mut scratch)
            });
            found.and_then(|found| to_tuple(py, found, self.narrow, &self.spares))
        } else {
            let found = run(py, most, |exec| {
                sampler.sample::<i64, i64>(exec, &seeds, times, epoch, batch, &mut scratch)
            });
            found.and_then(|found| to_tuple(py, found, self.narrow, &self.spares))
        };
        self.scratches().push(scratch);
        result
    }
}

impl Sampler {
    /// What samples that are done left for others to reuse.
    fn scratches(&self) -> std::sync::MutexGuard<'_, Vec<Scratch>> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs what may be long as a kernel, and the rest on this thread.
fn run<T: Send>(
    py: Python<'_>,
    size: usize,
    work: impl FnOnce(&Exec) -> Result<T, Error> + Send,
) -> PyResult<T> {
    if size > MANY {
        return Ok(enter(py, work)?);
    }
    let result = py.detach(|| catch(|| work(&Exec::serial().with_cancel(&Cancel::default()))));
    result.map_err(defect)?.map_err(|error| to_python(error, None))
}

/// Nodes, trees, hops, sizes and seeds as arrays.
fn to_tuple<'py, L: Kept, P: Kept>(
    py: Python<'py>,
    found: Neighbourhood<L, P>,
    narrow: bool,
    spares: &Arc<Spares>,
) -> PyResult<Bound<'py, PyTuple>> {
    let widened = |ids| kept(py, wide(ids, spares), spares);
    let nodes = found.nodes.into_iter().map(|ids| if narrow { kept(py, ids, spares) } else { widened(ids) });
    let nodes = PyList::new(py, nodes.collect::<PyResult<Vec<_>>>()?)?;
    let trees = found.trees.map(|trees| trees.into_iter().map(widened).collect::<PyResult<Vec<_>>>());
    let trees = trees.transpose()?;
    let hops = found.hops.into_iter().map(|hops| {
        let hops = hops.into_iter().map(|hop| {
            let Some(Hop { first, offsets, sources, edges, weights }) = hop else { return Ok(None) };
            let weights = weights.map(|weights| weights.into_pyarray(py));
            let [offsets, sources, edges] =
                [kept(py, offsets, spares)?, kept(py, sources, spares)?, kept(py, edges, spares)?];
            Ok(Some((first, offsets, sources, edges, weights)))
        });
        hops.collect::<PyResult<Vec<_>>>()
    });
    let hops = hops.collect::<PyResult<Vec<_>>>()?;
    let seeds = found.seeds.into_iter().map(widened).collect::<PyResult<Vec<_>>>()?;
    (nodes, trees, hops, found.sizes, seeds).into_pyobject(py)
}

fn wide(ids: Vec<u32>, spares: &Spares) -> Vec<i64> {
    let mut found = spares.take(ids.len());
    found.extend(ids.iter().copied().map(i64::from));
    spares.give(ids);
    found
}

/// The memory of an array of a sample, which goes back to the sampler when the array is gone.
#[pyclass(frozen, module = "mbflow._native.sampling")]
struct Memory {
    wide: Vec<i64>,
    narrow: Vec<u32>,
    spares: Arc<Spares>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.spares.give(mem::take(&mut self.wide));
        self.spares.give(mem::take(&mut self.narrow));
    }
}

/// A type whose arrays are kept.
trait Kept: Id + Element {
    fn into_memory(values: Vec<Self>, spares: Arc<Spares>) -> Memory;
    fn in_memory(memory: &Memory) -> &[Self];
}

impl Kept for i64 {
    fn into_memory(values: Vec<Self>, spares: Arc<Spares>) -> Memory {
        Memory { wide: values, narrow: Vec::new(), spares }
    }
    fn in_memory(memory: &Memory) -> &[Self] {
        &memory.wide
    }
}

impl Kept for u32 {
    fn into_memory(values: Vec<Self>, spares: Arc<Spares>) -> Memory {
        Memory { wide: Vec::new(), narrow: values, spares }
    }
    fn in_memory(memory: &Memory) -> &[Self] {
        &memory.narrow
    }
}

/// An array whose memory goes back to the sampler.
fn kept<'py, T: Kept>(py: Python<'py>, values: Vec<T>, spares: &Arc<Spares>) -> PyResult<Bound<'py, PyAny>> {
    let memory = Bound::new(py, T::into_memory(values, Arc::clone(spares)))?;
    let view = ArrayView1::from(T::in_memory(memory.get()));
    // SAFETY: the array holds `memory`, which never changes its arrays until it is dropped.
    let array = unsafe { PyArray1::borrow_from_array(&view, memory.clone().into_any()) };
    Ok(array.into_any())
}

/// The sums that weighted draws need.
#[pyfunction]
pub(crate) fn weight_sums<'py>(
    py: Python<'py>,
    offsets: PyReadonlyArray1<'py, u64>,
    weights: PyReadonlyArray1<'py, f32>,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let (offsets, weights) = (slice("offsets", &offsets)?, slice("weights", &weights)?);
    Ok(enter(py, |exec| core::weight_sums(exec, offsets, weights))?.into_pyarray(py))
}

/// The order of each node's edges by time; none where they lie so.
#[pyfunction]
pub(crate) fn time_order<'py>(
    py: Python<'py>,
    offsets: PyReadonlyArray1<'py, u64>,
    times: PyReadonlyArray1<'py, i64>,
) -> PyResult<Option<Bound<'py, PyArray1<u32>>>> {
    let (offsets, times) = (slice("offsets", &offsets)?, slice("times", &times)?);
    let order = enter(py, |exec| core::time_order(exec, offsets, times))?;
    Ok(order.map(|order| order.into_pyarray(py)))
}

/// The seed of a batch.
fn batch_seed(seed: u64, epoch: u64, batch: u64) -> Seed {
    Seed(seed).derive(epoch).derive(batch)
}

/// Random walks along incoming edges.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "keywords of Python")]
#[pyo3(signature = (offsets, sources, seeds, length, *, weights = None, restart = 0.0, seed, epoch = 0, batch = 0))]
pub(crate) fn walks<'py>(
    py: Python<'py>,
    offsets: PyReadonlyArray1<'py, u64>,
    sources: PyReadonlyArray1<'py, u32>,
    seeds: PyReadonlyArray1<'py, i64>,
    length: usize,
    weights: Option<(PyReadonlyArray1<'py, f32>, PyReadonlyArray1<'py, f64>)>,
    restart: f64,
    seed: u64,
    epoch: u64,
    batch: u64,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let refuse = |error| to_python(error, None);
    let columns = Columns::new(slice("offsets", &offsets)?, slice("sources", &sources)?).map_err(refuse)?;
    let sums = match &weights {
        None => None,
        Some((weights, sums)) => {
            let sums = WeightSums::new(slice("weights", weights)?, slice("sums", sums)?, columns.nodes());
            Some(sums.map_err(refuse)?)
        }
    };
    let seeds = slice("seeds", &seeds)?;
    let key = batch_seed(seed, epoch, batch);
    let found = enter(py, |exec| core::walks(exec, columns, sums, seeds, length, restart, key))?;
    Ok(found.into_pyarray(py))
}

/// For each target some sources that no edge leads from to it.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "keywords of Python")]
#[pyo3(signature = (
    offsets, sources, source_nodes, targets, count, *, source_sums = None, self_loops = false, attempts = 64, seed,
    epoch = 0, batch = 0
))]
pub(crate) fn negative_sources<'py>(
    py: Python<'py>,
    offsets: PyReadonlyArray1<'py, u64>,
    sources: PyReadonlyArray1<'py, u32>,
    source_nodes: u64,
    targets: PyReadonlyArray1<'py, i64>,
    count: usize,
    source_sums: Option<PyReadonlyArray1<'py, f64>>,
    self_loops: bool,
    attempts: u32,
    seed: u64,
    epoch: u64,
    batch: u64,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let columns = Columns::new(slice("offsets", &offsets)?, slice("sources", &sources)?);
    let columns = columns.map_err(|error| to_python(error, None))?;
    let source_sums = source_sums.as_ref().map(|sums| slice("weights", sums)).transpose()?;
    let targets = slice("targets", &targets)?;
    let negatives = core::NegativeEdges { columns, source_nodes, source_sums, self_loops, attempts };
    let key = batch_seed(seed, epoch, batch);
    Ok(enter(py, |exec| negatives.sources(exec, targets, count, key))?.into_pyarray(py))
}

/// What stands at some places of an epoch's order of the seeds.
#[pyfunction]
#[pyo3(signature = (length, places, *, seed, epoch))]
pub(crate) fn permuted<'py>(
    py: Python<'py>,
    length: u64,
    places: PyReadonlyArray1<'py, i64>,
    seed: u64,
    epoch: u64,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let order = KeyedPermutation::new(Seed(seed).derive(epoch), stream::SEEDS, length);
    let order = order.map_err(|error| to_python(error, None))?;
    let places = slice("places", &places)?;
    if let Some(place) = places.iter().find(|&&place| place < 0 || place as u64 >= length) {
        return Err(invalid_argument(format!("places: expected 0 to below {length}, got {place}")));
    }
    let found: Vec<i64> = places.iter().map(|&place| order.at(place as u64) as i64).collect();
    Ok(found.into_pyarray(py))
}
