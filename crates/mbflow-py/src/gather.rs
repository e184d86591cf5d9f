//! Rows of a table in the order of ids, over the memory of the caller's arrays.

use mbflow_core::{Cancel, Error, Exec, RowEncoding, RowIds, RowTable};
use numpy::{
    Element, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyReadwriteArray2,
    PyUntypedArrayMethods,
};
use pyo3::prelude::*;

use crate::enter::{catch, enter};
use crate::error::{defect, invalid_argument, to_python};

/// Up to this many bytes of output a call is the work of less time than a thread of its own takes to start.
const FEW: usize = 1 << 17;

/// The module `mbflow._native.gather`.
#[pymodule(submodule)]
pub(crate) mod gather {
    #[pymodule_export]
    use super::rows;
}

/// Ids as they came.
enum HeldIds<'py> {
    U32(PyReadonlyArray1<'py, u32>),
    U64(PyReadonlyArray1<'py, u64>),
    I32(PyReadonlyArray1<'py, i32>),
    I64(PyReadonlyArray1<'py, i64>),
}

fn slice<'a, T: Element>(name: &str, array: &'a PyReadonlyArray1<'_, T>) -> PyResult<&'a [T]> {
    array.as_slice().map_err(|error| invalid_argument(format!("{name}: {error}")))
}

impl<'py> HeldIds<'py> {
    fn new(ids: &Bound<'py, PyAny>) -> PyResult<Self> {
        let busy = |error| invalid_argument(format!("ids: {error}"));
        if let Ok(ids) = ids.cast::<PyArray1<i64>>() {
            Ok(Self::I64(ids.try_readonly().map_err(busy)?))
        } else if let Ok(ids) = ids.cast::<PyArray1<u64>>() {
            Ok(Self::U64(ids.try_readonly().map_err(busy)?))
        } else if let Ok(ids) = ids.cast::<PyArray1<u32>>() {
            Ok(Self::U32(ids.try_readonly().map_err(busy)?))
        } else if let Ok(ids) = ids.cast::<PyArray1<i32>>() {
            Ok(Self::I32(ids.try_readonly().map_err(busy)?))
        } else {
            Err(invalid_argument("ids: expected a 1-D array of int64, uint64, int32 or uint32"))
        }
    }

    fn view(&self) -> PyResult<RowIds<'_>> {
        Ok(match self {
            Self::U32(ids) => RowIds::U32(slice("ids", ids)?),
            Self::U64(ids) => RowIds::U64(slice("ids", ids)?),
            Self::I32(ids) => RowIds::I32(slice("ids", ids)?),
            Self::I64(ids) => RowIds::I64(slice("ids", ids)?),
        })
    }
}

/// Where rows are written to: of the shape that a gather from the table has.
fn output<'py, T: Element>(
    out: &Bound<'py, PyAny>,
    kind: &str,
    shape: [usize; 2],
) -> PyResult<PyReadwriteArray2<'py, T>> {
    let expected = || {
        let kind = if kind == "same" { "uint8" } else { "float32" };
        format!("out: expected a 2-D array of {kind}, {} x {}", shape[0], shape[1])
    };
    let out = out.cast::<PyArray2<T>>().map_err(|_| invalid_argument(expected()))?;
    if out.shape() != shape {
        let message = format!("{}, got {} x {}", expected(), out.shape()[0], out.shape()[1]);
        return Err(invalid_argument(message));
    }
    out.try_readwrite().map_err(|error| invalid_argument(format!("out: {error}")))
}

fn write<'a, T: Element>(out: &'a mut PyReadwriteArray2<'_, T>) -> PyResult<&'a mut [T]> {
    out.as_slice_mut().map_err(|error| invalid_argument(format!("out: {error}")))
}

/// Runs short work on this thread and long work as a kernel.
fn run(py: Python<'_>, bytes: usize, kernel: impl FnOnce(&Exec) -> Result<(), Error> + Send) -> PyResult<()> {
    if bytes > FEW {
        return Ok(enter(py, kernel)?);
    }
    let result = py.detach(|| catch(|| kernel(&Exec::serial().with_cancel(&Cancel::default()))));
    result.map_err(defect)?.map_err(|error| to_python(error, None))
}

/// Gather rows of a table.
#[pyfunction]
#[pyo3(signature = (table, ids, out, *, kind = "same", scales = None))]
pub(crate) fn rows<'py>(
    py: Python<'py>,
    table: &Bound<'py, PyAny>,
    ids: &Bound<'py, PyAny>,
    out: &Bound<'py, PyAny>,
    kind: &str,
    scales: Option<&Bound<'py, PyAny>>,
) -> PyResult<()> {
    let table = table
        .cast::<PyArray2<u8>>()
        .map_err(|_| invalid_argument("table: expected a 2-D array of uint8, the bytes of each row"))?;
    let (count, row_bytes) = (table.shape()[0], table.shape()[1]);
    let held: PyReadonlyArray2<'_, u8> =
        table.try_readonly().map_err(|error| invalid_argument(format!("table: {error}")))?;
    let bytes = held.as_slice().map_err(|error| invalid_argument(format!("table: {error}")))?;
    let table = RowTable::new(bytes, count, row_bytes).map_err(|error| to_python(error, None))?;
    let held_ids = HeldIds::new(ids)?;
    let ids = held_ids.view()?;
    let scales: Option<PyReadonlyArray1<'_, f32>> = scales
        .map(|scales| {
            let scales = scales
                .cast::<PyArray1<f32>>()
                .map_err(|_| invalid_argument("scales: expected a 1-D array of float32"))?;
            scales.try_readonly().map_err(|error| invalid_argument(format!("scales: {error}")))
        })
        .transpose()?;
    let scales = scales.as_ref().map(|scales| slice("scales", scales)).transpose()?;
    let encoding = match (kind, scales) {
        ("int8", Some(scales)) => Some(RowEncoding::Int8 { scales }),
        ("int8", None) => {
            return Err(invalid_argument("scales: expected one for each row of int8, got none"));
        }
        ("same" | "float16" | "bfloat16", Some(_)) => {
            return Err(invalid_argument(format!("scales: expected none for kind={kind:?}")));
        }
        ("same", None) => None,
        ("float16", None) => Some(RowEncoding::Float16),
        ("bfloat16", None) => Some(RowEncoding::BFloat16),
        (other, _) => {
            let expected = "expected 'same', 'float16', 'bfloat16' or 'int8'";
            return Err(invalid_argument(format!("kind: {expected}, got {other:?}")));
        }
    };
    let columns = row_bytes / encoding.map_or(1, |encoding| encoding.bytes());
    if let Some(encoding) = encoding {
        let mut out = output::<f32>(out, kind, [ids.len(), columns])?;
        let out = write(&mut out)?;
        run(py, size_of_val(out), |exec| mbflow_core::gather_f32(exec, table, encoding, ids, out))
    } else {
        let mut out = output::<u8>(out, kind, [ids.len(), columns])?;
        let out = write(&mut out)?;
        run(py, out.len(), |exec| mbflow_core::gather_rows(exec, table, ids, out))
    }
}
