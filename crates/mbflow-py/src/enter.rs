//! The one door from Python into kernels: off the interpreter lock, with Ctrl-C, with panics as exceptions.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use mbflow_core::{Cancel, Error, Exec, WORKER_NAME};
use pyo3::prelude::*;

use crate::error::{defect, to_python};

/// The name of the thread that a kernel is entered on.
const KERNEL_NAME: &str = "mbflow-kernel";
/// How often the interpreter is asked whether the user wants to stop.
const POLL: Duration = Duration::from_millis(50);

/// Where and why the last panic of a kernel happened; panics carry no place themselves.
static LAST_PANIC: Mutex<Option<String>> = Mutex::new(None);

thread_local! {
    /// Whether panics of this thread are turned into exceptions, and so need not be printed.
    static CAUGHT_HERE: Cell<bool> = const { Cell::new(false) };
}

/// Why a kernel gave no result.
pub(crate) enum Failure {
    /// The core refused.
    Core(Error),
    /// Python interrupted it, or it panicked.
    Python(PyErr),
}

impl Failure {
    /// As an exception, with the columns of the features named by `columns`.
    pub(crate) fn with_columns(self, columns: &dyn Fn(usize) -> String) -> PyErr {
        match self {
            Self::Core(error) => to_python(error, Some(columns)),
            Self::Python(error) => error,
        }
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Core(error) => to_python(error, None),
            Failure::Python(error) => error,
        }
    }
}

/// Runs a kernel detached from the interpreter, on a thread of its own, while this thread looks for Ctrl-C.
///
/// The thread of its own lets the calling one run Python's signal handlers, which only the main thread may.
pub(crate) fn enter<T: Send>(
    py: Python<'_>,
    kernel: impl FnOnce(&Exec) -> Result<T, Error> + Send,
) -> Result<T, Failure> {
    record_panics();
    let cancel = Cancel::default();
    let exec = Exec::new().map_err(Failure::Core)?.with_cancel(&cancel);
    py.detach(|| {
        std::thread::scope(|scope| {
            let (send, receive) = channel();
            let thread =
                std::thread::Builder::new().name(KERNEL_NAME.to_owned()).spawn_scoped(scope, move || {
                    let result = catch_unwind(AssertUnwindSafe(|| kernel(&exec)));
                    // The receiver waits until this arrives, so it is there.
                    let _ = send.send(result);
                });
            if let Err(error) = thread {
                return Err(Failure::Core(Error::Threads { threads: 1, reason: error.to_string() }));
            }
            let mut interrupt = None;
            let result = loop {
                match receive.recv_timeout(POLL) {
                    Ok(result) => break result,
                    Err(RecvTimeoutError::Timeout) if interrupt.is_some() => {}
                    Err(RecvTimeoutError::Timeout) => {
                        #[expect(
                            clippy::redundant_closure_for_method_calls,
                            reason = "the method alone is not general enough in its lifetime"
                        )]
                        let signals = Python::attach(|py| py.check_signals());
                        if let Err(error) = signals {
                            cancel.set();
                            interrupt = Some(error);
                        }
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(Failure::Python(defect("a kernel's thread ended without a result")));
                    }
                }
            };
            match (interrupt, result) {
                (Some(error), _) => Err(Failure::Python(error)),
                (None, Ok(result)) => result.map_err(Failure::Core),
                (None, Err(payload)) => {
                    Err(Failure::Python(defect(panic_text("a kernel", payload.as_ref()))))
                }
            }
        })
    })
}

/// Runs code that handles foreign objects on this thread; `Err` says how it panicked.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    record_panics();
    let before = CAUGHT_HERE.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    CAUGHT_HERE.set(before);
    result.map_err(|payload| payload_text(payload.as_ref()))
}

/// Keeps panics that become exceptions off the standard error; all others print as before.
fn record_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            let is_kernel =
                thread.name().is_some_and(|name| name == KERNEL_NAME || name.starts_with(WORKER_NAME));
            if is_kernel {
                let place = info.location().map(|place| format!("{}:{}", place.file(), place.line()));
                *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = place;
            } else if !CAUGHT_HERE.get() {
                previous(info);
            }
        }));
    });
}

fn payload_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}

fn panic_text(what: &str, payload: &(dyn Any + Send)) -> String {
    let place = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
    let place = place.map_or_else(String::new, |place| format!(" at {place}"));
    format!("{what} failed{place}: {}; this is a defect of mbflow, please report it", payload_text(payload))
}

/// Panic inside a kernel, on every worker: shows that a panic becomes `DefectError`.
#[pyfunction]
pub(crate) fn _panic(py: Python<'_>, message: &str) -> PyResult<()> {
    Ok(enter(py, |exec| exec.run(vec![(); 8], |()| panic!("{message}")))?)
}
