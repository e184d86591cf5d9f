//! Features in: NumPy, and anything that speaks Arrow, as one matrix of float32.
//!
//! Nothing is copied when the values already lie row after row as float32: a C-contiguous NumPy matrix, one float32
//! column, or one chunk of fixed-size lists of float32. Everything else is converted once.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, PrimitiveArray};
use arrow_buffer::ScalarBuffer;
use arrow_schema::{ArrowError, DataType, FieldRef};
use mbflow_core::Matrix;
use num_traits::AsPrimitive;
use numpy::{Element, PyArrayDescrMethods, PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3_arrow::input::AnyArray;

use crate::enter::catch;
use crate::error::{data, invalid_argument, to_python};

const EXPECTED: &str = "expected a 2-D NumPy array, or an Arrow table, fixed-size-list column or column of numbers \
                        (polars, pandas, pyarrow, ...)";

/// A matrix taken from Python, kept alive while a kernel reads it.
pub(crate) struct Features<'py> {
    values: Values<'py>,
    rows: usize,
    width: usize,
    names: Option<Vec<String>>,
}

enum Values<'py> {
    Numpy(PyReadonlyArrayDyn<'py, f32>),
    Foreign(ScalarBuffer<f32>),
}

/// A matrix taken from Arrow data, which needs no interpreter.
struct Taken {
    values: ScalarBuffer<f32>,
    rows: usize,
    width: usize,
    names: Option<Vec<String>>,
}

impl Features<'_> {
    /// The rows, for kernels.
    pub(crate) fn matrix(&self) -> PyResult<Matrix<'_>> {
        let values = match &self.values {
            Values::Numpy(array) => {
                array.as_slice().map_err(|error| invalid_argument(format!("features: {error}")))?
            }
            Values::Foreign(buffer) => buffer,
        };
        Matrix::new(values, self.rows, self.width).map_err(|error| to_python(error, None))
    }

    /// The name of a column, as errors give it.
    pub(crate) fn column(&self, index: usize) -> String {
        named(self.names.as_deref(), index)
    }
}

fn named(names: Option<&[String]>, index: usize) -> String {
    match names.and_then(|names| names.get(index)) {
        Some(name) => format!("column `{name}`"),
        None => format!("column {index}"),
    }
}

impl<'py> Features<'py> {
    /// Takes a matrix from what a caller passed.
    pub(crate) fn take(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let py = object.py();
        if let Ok(array) = object.cast::<PyUntypedArray>() {
            return from_numpy(array);
        }
        let mut object = object.clone();
        let class = object.get_type();
        let is_pandas = class.module()?.to_str()?.split('.').next() == Some("pandas");
        if is_pandas && class.name()? == "DataFrame" {
            // pandas exports an index that is not 0, 1, 2, ... as one more column: it is no feature.
            let keywords = pyo3::types::PyDict::new(py);
            keywords.set_item("drop", true)?;
            object = object.call_method(intern!(py, "reset_index"), (), Some(&keywords))?;
        }
        let speaks_arrow = object.hasattr(intern!(py, "__arrow_c_array__"))?
            || object.hasattr(intern!(py, "__arrow_c_stream__"))?;
        if !speaks_arrow {
            return Err(invalid_argument(format!(
                "features: {EXPECTED}, got {}",
                class.fully_qualified_name()?
            )));
        }
        // The capsules come from foreign code: whatever they hold must end in an exception.
        let (field, chunks) = catch(|| {
            let reader = object.extract::<AnyArray>()?.into_reader()?;
            let field = reader.field();
            let chunks = reader.collect::<Result<Vec<_>, ArrowError>>();
            chunks.map(|chunks| (field, chunks)).map_err(|error| unreadable(&error.to_string()))
        })
        .map_err(|panic| unreadable(&panic))??;
        let taken =
            py.detach(|| catch(|| from_arrow(&field, &chunks))).map_err(|panic| unreadable(&panic))??;
        let Taken { values, rows, width, names } = taken;
        Ok(Self { values: Values::Foreign(values), rows, width, names })
    }
}

fn unreadable(reason: &str) -> PyErr {
    data(format!("features: the Arrow data cannot be read: {reason}"))
}

/// A number that a column may hold: as the nearest float32, infinite when it is out of range, and as float64.
trait Number: AsPrimitive<f32> + AsPrimitive<f64> + Send + Sync {}
impl<N: AsPrimitive<f32> + AsPrimitive<f64> + Send + Sync> Number for N {}

/// Writes numbers to every `stride`-th place of `out`; `Err` is the first index whose value is beyond float32.
fn convert<N: Number>(
    numbers: impl Iterator<Item = N>,
    out: &mut [f32],
    stride: usize,
) -> Result<(), (usize, f64)> {
    let mut wrong = None;
    for (index, (number, out)) in numbers.zip(out.iter_mut().step_by(stride)).enumerate() {
        *out = number.as_();
        let exact: f64 = number.as_();
        if out.is_infinite() && exact.is_finite() && wrong.is_none() {
            wrong = Some((index, exact));
        }
    }
    wrong.map_or(Ok(()), Err)
}

fn too_large(column: &str, row: usize, value: f64) -> PyErr {
    data(format!(
        "features: {column}, row {row}: {value:e} is beyond the range of float32; scale the column first"
    ))
}

fn from_numpy<'py>(array: &Bound<'py, PyUntypedArray>) -> PyResult<Features<'py>> {
    let &[rows, width] = array.shape() else {
        let message = format!("features: expected 2 dimensions (rows, columns), got {}", array.ndim());
        return Err(invalid_argument(message));
    };
    if rows == 0 || width == 0 {
        return Err(empty(rows, width));
    }
    let dtype = array.dtype();
    if dtype.byteorder() == b'>' || !array.is_aligned() {
        let message = "features: expected native byte order and aligned values; use numpy.array(features, dtype='float32')";
        return Err(invalid_argument(message));
    }
    if let Ok(array) = array.cast::<numpy::PyArrayDyn<f32>>()
        && array.is_c_contiguous()
    {
        let values = Values::Numpy(readonly(array)?);
        return Ok(Features { values, rows, width, names: None });
    }
    macro_rules! first_that_fits {
        ($($type:ty),*) => {$(
            if let Ok(array) = array.cast::<numpy::PyArrayDyn<$type>>() {
                return converted(&readonly(array)?, rows, width);
            }
        )*};
    }
    first_that_fits!(f32, f64, i64, i32, u8, i8, i16, u16, u32, u64);
    Err(invalid_argument(format!("features: expected float32, float64 or integers, got dtype {dtype}")))
}

fn readonly<'py, T: Element>(
    array: &Bound<'py, numpy::PyArrayDyn<T>>,
) -> PyResult<PyReadonlyArrayDyn<'py, T>> {
    use numpy::PyArrayMethods;
    array.try_readonly().map_err(|error| invalid_argument(format!("features: {error}")))
}

fn converted<'py, T: Number + Element>(
    array: &PyReadonlyArrayDyn<'py, T>,
    rows: usize,
    width: usize,
) -> PyResult<Features<'py>> {
    let view = array.as_array();
    let mut values = vec![0.0; rows * width];
    let done = array.py().detach(|| convert(view.iter().copied(), &mut values, 1));
    done.map_err(|(index, value)| too_large(&named(None, index % width), index / width, value))?;
    Ok(Features { values: Values::Foreign(values.into()), rows, width, names: None })
}

fn empty(rows: usize, width: usize) -> PyErr {
    data(format!("features: expected at least one row and one column, got {rows} x {width}"))
}

fn from_arrow(field: &FieldRef, chunks: &[ArrayRef]) -> PyResult<Taken> {
    let rows: usize = chunks.iter().map(Array::len).sum();
    match field.data_type() {
        DataType::Struct(fields) => {
            if rows == 0 || fields.is_empty() {
                return Err(empty(rows, fields.len()));
            }
            refuse_nulls(chunks, |_| "the table".to_owned())?;
            let names: Vec<String> = fields.iter().map(|field| field.name().clone()).collect();
            let columns: Vec<Vec<ArrayRef>> = (0..fields.len())
                .map(|column| {
                    chunks.iter().map(|chunk| Arc::clone(chunk.as_struct().column(column))).collect()
                })
                .collect();
            if let ([field], [chunks]) = (&fields[..], &columns[..]) {
                return from_column(field, chunks, rows);
            }
            let width = fields.len();
            let mut values = vec![0.0; rows * width];
            for (column, chunks) in columns.iter().enumerate() {
                write_column(chunks, &named(Some(&names), column), &mut values[column..], width)?;
            }
            Ok(Taken { values: values.into(), rows, width, names: Some(names) })
        }
        _ => from_column(field, chunks, rows),
    }
}

/// One column: of fixed-size lists, which are rows, or of numbers, which are rows of one column.
fn from_column(field: &FieldRef, chunks: &[ArrayRef], rows: usize) -> PyResult<Taken> {
    let name =
        if field.name().is_empty() { "the column".to_owned() } else { format!("column `{}`", field.name()) };
    let (width, parts) = match field.data_type() {
        DataType::FixedSizeList(_, width) => {
            let width = usize::try_from(*width).unwrap_or(0);
            if rows == 0 || width == 0 {
                return Err(empty(rows, width));
            }
            refuse_nulls(chunks, |_| name.clone())?;
            (width, chunks.iter().map(|chunk| Arc::clone(chunk.as_fixed_size_list().values())).collect())
        }
        DataType::List(_) | DataType::LargeList(_) | DataType::ListView(_) | DataType::LargeListView(_) => {
            let message =
                format!("features: {name} holds lists of any length; cast it to a fixed-size list first");
            return Err(invalid_argument(message));
        }
        _ => (1, chunks.to_vec()),
    };
    if rows == 0 {
        return Err(empty(rows, width));
    }
    let names = (width == 1 && !field.name().is_empty()).then(|| vec![field.name().clone()]);
    let in_list =
        |index: usize| if width == 1 { name.clone() } else { format!("{name}, element {}", index % width) };
    if let [part] = &parts[..]
        && let Some(numbers) = part.as_primitive_opt::<Float32Type>()
        && numbers.null_count() == 0
    {
        return Ok(Taken { values: numbers.values().clone(), rows, width, names });
    }
    let mut values = vec![0.0; rows * width];
    write_numbers(&parts, &in_list, width, &mut values, 1)?;
    Ok(Taken { values: values.into(), rows, width, names })
}

fn write_column(chunks: &[ArrayRef], name: &str, out: &mut [f32], stride: usize) -> PyResult<()> {
    write_numbers(chunks, &|_| name.to_owned(), 1, out, stride)
}

/// Refuses the first null; `name` names the column of an index.
fn refuse_nulls(chunks: &[ArrayRef], name: impl Fn(usize) -> String) -> PyResult<()> {
    refuse_nulls_in_lists(chunks, &name, 1)
}

fn refuse_nulls_in_lists(chunks: &[ArrayRef], name: &dyn Fn(usize) -> String, width: usize) -> PyResult<()> {
    let mut first = 0;
    for chunk in chunks {
        if let Some(index) =
            (chunk.null_count() > 0).then(|| (0..chunk.len()).find(|&at| chunk.is_null(at))).flatten()
        {
            let index = first + index;
            let (name, row) = (name(index), index / width);
            let message = format!("features: {name}, row {row}: null; fill or drop nulls first");
            return Err(data(message));
        }
        first += chunk.len();
    }
    Ok(())
}

/// Writes the numbers of all chunks, one after the other, to every `stride`-th place of `out`.
fn write_numbers(
    chunks: &[ArrayRef],
    name: &dyn Fn(usize) -> String,
    width: usize,
    out: &mut [f32],
    stride: usize,
) -> PyResult<()> {
    refuse_nulls_in_lists(chunks, name, width)?;
    let mut first = 0;
    for chunk in chunks {
        let out = &mut out[first * stride..];
        macro_rules! by_type {
            ($($variant:ident => $type:ty),*) => {
                match chunk.data_type() {
                    $(DataType::$variant => write(chunk.as_primitive::<$type>(), out, stride),)*
                    other => {
                        let name = name(first);
                        let message = format!("features: {name} has type {other}; expected floats or integers");
                        return Err(invalid_argument(message));
                    }
                }
            };
        }
        let done = by_type!(
            Float16 => Float16Type, Float32 => Float32Type, Float64 => Float64Type,
            Int8 => Int8Type, Int16 => Int16Type, Int32 => Int32Type, Int64 => Int64Type,
            UInt8 => UInt8Type, UInt16 => UInt16Type, UInt32 => UInt32Type, UInt64 => UInt64Type
        );
        done.map_err(|(index, value)| too_large(&name(first + index), (first + index) / width, value))?;
        first += chunk.len();
    }
    Ok(())
}

fn write<T: ArrowPrimitiveType>(
    numbers: &PrimitiveArray<T>,
    out: &mut [f32],
    stride: usize,
) -> Result<(), (usize, f64)>
where
    T::Native: Number,
{
    convert(numbers.values().iter().copied(), out, stride)
}
