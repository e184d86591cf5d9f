//! The Python module `mbflow._native`: it translates, the core computes.
//!
//! Signatures and their documentation for users stand in `python/mbflow/_native/`, a stub for each module.

mod arrow;
mod attention;
mod checksum;
mod coverage;
mod csc;
mod durations;
mod enter;
mod error;
mod forest;
mod gather;
mod nearest;
mod neighbour_graph;
mod projection;
mod random;
mod sampling;
mod strata;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
mod _native {
    use pyo3::prelude::*;
    use pyo3::types::{PyCFunction, PyDict, PyString};

    #[pymodule_export]
    use crate::attention::attention;
    #[pymodule_export]
    use crate::checksum::{xxh3_128, xxh3_128_file};
    #[pymodule_export]
    use crate::coverage::{affinity, cover, representatives};
    #[pymodule_export]
    use crate::csc::csc;
    #[pymodule_export]
    use crate::durations::durations;
    #[pymodule_export]
    use crate::enter::_panic;
    #[pymodule_export]
    use crate::forest::forest_classes;
    #[pymodule_export]
    use crate::gather::gather;
    #[pymodule_export]
    use crate::nearest::nearest_rows;
    #[pymodule_export]
    use crate::neighbour_graph::neighbour_graph;
    #[pymodule_export]
    use crate::projection::{p_stable_codes, project, sign_codes};
    #[pymodule_export]
    use crate::random::{permutation, random_integers, random_normal, random_u64};
    #[pymodule_export]
    use crate::sampling::sampling;
    #[pymodule_export]
    use crate::strata::{Deal, rows_by_class};

    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "the name that Python gives to a module's version")]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    /// Gives inner modules and their functions the names they are imported by, and lets `import` find them.
    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let modules = module.py().import("sys")?.getattr("modules")?;
        for inner in ["attention", "csc", "durations", "gather", "sampling"] {
            let name = format!("{}.{inner}", module.name()?);
            let inner = module.getattr(inner)?.cast_into::<PyModule>()?;
            inner.setattr("__name__", &name)?;
            for public in inner.index()? {
                let value = inner.getattr(public.cast_into::<PyString>()?)?;
                if value.is_instance_of::<PyCFunction>() {
                    value.setattr("__module__", &name)?;
                }
            }
            modules.set_item(name, inner)?;
        }
        Ok(())
    }

    /// Describe this build and what it runs on.
    #[pyfunction]
    fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
        let info = PyDict::new(py);
        info.set_item("version", __version__)?;
        info.set_item("profile", if cfg!(debug_assertions) { "debug" } else { "release" })?;
        info.set_item("target", format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS))?;
        info.set_item("features", mbflow_core::Simd::detect().name())?;
        info.set_item("threads", mbflow_core::threads())?;
        Ok(info)
    }

    /// Set the number of threads that kernels use from now on.
    #[pyfunction]
    fn set_num_threads(n: usize) -> PyResult<()> {
        mbflow_core::set_threads(n).map_err(|error| super::error::to_python(error, None))
    }

    /// Get the number of threads that kernels use.
    #[pyfunction]
    fn num_threads() -> usize {
        mbflow_core::threads()
    }
}
