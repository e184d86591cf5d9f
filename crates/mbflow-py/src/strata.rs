//! Stratified deals: rows by class, and the batches of an epoch.

use mbflow_core::{Cut, Dealt, Seed};
use numpy::{IntoPyArray, PyArray1, PyArrayMethods, PyReadonlyArray1, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::enter::{catch, enter};
use crate::error::{defect, invalid_argument, to_python};

type Strata<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<u32>>);
type Rows<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<bool>>);

/// Sort rows by class.
#[pyfunction]
pub(crate) fn rows_by_class<'py>(
    py: Python<'py>,
    codes: &Bound<'py, PyAny>,
    classes: usize,
) -> PyResult<Strata<'py>> {
    macro_rules! first_that_fits {
        ($($type:ty),*) => {$(
            if let Ok(codes) = codes.extract::<PyReadonlyArray1<'py, $type>>() {
                let codes = codes.as_slice().map_err(|error| invalid_argument(format!("codes: {error}")))?;
                let strata = enter(py, |exec| mbflow_core::rows_by_class(exec, codes, classes))?;
                let (offsets, rows) = strata.into_parts();
                return Ok((offsets.into_pyarray(py), rows.into_pyarray(py)));
            }
        )*};
    }
    first_that_fits!(u8, u16, u32);
    Err(invalid_argument("codes: expected a 1-D NumPy array of uint8, uint16 or uint32"))
}

/// The deal of one epoch.
#[pyclass(frozen, module = "mbflow._native")]
pub(crate) struct Deal {
    deal: mbflow_core::Deal,
    places: u64,
}

#[pymethods]
impl Deal {
    #[new]
    #[pyo3(signature = (sizes, quotas, batch_size, *, seed = 0, epoch = 0))]
    #[expect(clippy::needless_pass_by_value, reason = "a sequence of Python becomes a vector")]
    fn new(
        sizes: Vec<u64>,
        quotas: Vec<u64>,
        batch_size: u64,
        #[pyo3(from_py_with = crate::random::seed)] seed: u64,
        epoch: u64,
    ) -> PyResult<Self> {
        let deal = mbflow_core::Deal::new(&sizes, &quotas, Cut::Size(batch_size), Seed(seed), epoch)
            .map_err(|error| to_python(error, None))?;
        Ok(Self { deal, places: sizes.iter().sum() })
    }

    /// How many batches the epoch has.
    #[getter]
    fn batches(&self) -> u64 {
        self.deal.batches()
    }

    /// The rows of a batch.
    fn batch<'py>(
        &self,
        py: Python<'py>,
        rows: &Bound<'py, PyArray1<u32>>,
        number: u64,
    ) -> PyResult<Rows<'py>> {
        let rows = self.checked(rows, number)?;
        dealt_rows(py, &rows, || self.deal.batch(number))
    }

    /// A part of the batches from one on, dealt again.
    fn split<'py>(
        &self,
        py: Python<'py>,
        rows: &Bound<'py, PyArray1<u32>>,
        first: u64,
        parts: usize,
        part: usize,
    ) -> PyResult<Rows<'py>> {
        let rows = self.checked(rows, first)?;
        if part >= parts {
            return Err(invalid_argument(format!("part: expected a number below {parts}, got {part}")));
        }
        dealt_rows(py, &rows, || self.deal.split(first, parts, part))
    }
}

impl Deal {
    fn checked<'py>(
        &self,
        rows: &Bound<'py, PyArray1<u32>>,
        number: u64,
    ) -> PyResult<PyReadonlyArray1<'py, u32>> {
        let batches = self.deal.batches();
        if number >= batches {
            return Err(invalid_argument(format!("number: expected a batch below {batches}, got {number}")));
        }
        let rows = rows.try_readonly().map_err(|error| invalid_argument(format!("rows: {error}")))?;
        if rows.len() as u64 != self.places {
            let message = format!("rows: expected {}, the sum of the sizes, got {}", self.places, rows.len());
            return Err(invalid_argument(message));
        }
        Ok(rows)
    }
}

/// A batch is the work of microseconds, less than a thread of its own would cost.
fn dealt_rows<'py>(
    py: Python<'py>,
    rows: &PyReadonlyArray1<'py, u32>,
    deal: impl FnOnce() -> Vec<Dealt> + Send,
) -> PyResult<Rows<'py>> {
    let rows = rows.as_slice().map_err(|error| invalid_argument(format!("rows: {error}")))?;
    let (rows, repeats): (Vec<i64>, Vec<bool>) = py
        .detach(|| {
            catch(|| deal().iter().map(|dealt| (i64::from(rows[dealt.place as usize]), dealt.repeat)).unzip())
        })
        .map_err(defect)?;
    Ok((rows.into_pyarray(py), repeats.into_pyarray(py)))
}
