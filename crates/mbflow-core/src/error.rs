//! The one error type of the kernels.

/// What a kernel refuses, and why.
///
/// Every message says what was wrong and what was expected; positions are zero-based.
///
/// ```
/// use mbflow_core::{Error, Matrix};
///
/// let error = Matrix::new(&[0.0; 5], 2, 3).unwrap_err();
/// assert!(matches!(error, Error::InvalidArgument { name: "features", .. }));
/// assert_eq!(error.to_string(), "features: expected 2 x 3 = 6 values, got 5");
/// ```
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument is out of its range or does not fit the others.
    #[error("{name}: {message}")]
    InvalidArgument {
        /// The argument, as the caller knows it.
        name: &'static str,
        /// What was expected and what came.
        message: String,
    },
    /// A value cannot be used: NaN, infinite, or so large that squared distances overflow.
    #[error("row {row}, column {column}: {value} {reason}")]
    BadValue {
        /// The first row (lowest number) with such a value.
        row: usize,
        /// The first such column of that row.
        column: usize,
        /// The value itself.
        value: f32,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An edge of a list cannot be used.
    #[error("row {row}: {message}")]
    BadEdge {
        /// The first row (lowest number) with such an edge.
        row: u64,
        /// What was expected and what came.
        message: String,
    },
    /// The machine refuses: there is no memory for a result.
    #[error("{what}: there is no memory for {count} values; ask for fewer")]
    Memory {
        /// What was asked for.
        what: &'static str,
        /// How many values.
        count: u64,
    },
    /// The caller asked the kernel to stop.
    #[error("interrupted")]
    Interrupted,
    /// The machine refuses: worker threads could not be started.
    #[error(
        "cannot start {threads} worker threads: {reason}; use fewer (MBFLOW_NUM_THREADS or set_num_threads)"
    )]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the operating system said.
        reason: String,
    },
}

impl Error {
    /// So many values, or the error that says what there is no memory for.
    pub(crate) fn room<T: Clone>(what: &'static str, count: usize, value: T) -> Result<Vec<T>, Self> {
        let mut values = Vec::new();
        values.try_reserve_exact(count).map_err(|_| Self::Memory { what, count: count as u64 })?;
        values.resize(count, value);
        Ok(values)
    }

    pub(crate) fn argument(name: &'static str, message: impl Into<String>) -> Self {
        Self::InvalidArgument { name, message: message.into() }
    }
}
