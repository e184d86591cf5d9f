//! Where and on how many threads kernels run. The only file that knows rayon and reads the environment.
//!
//! The pool is tagged with the process that made it. After a fork the child has none of the pool's threads, so waiting
//! for them would hang: there the work is done inline, on the calling thread, with the same results.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rayon::prelude::*;

use crate::Error;

/// Threads asked for by [`set_threads`]; 0 when nobody asked.
static THREADS: AtomicUsize = AtomicUsize::new(0);
/// The process that first made a pool; 0 before. Written before the lock below is ever taken, so that a forked child
/// never touches a lock that some thread of its parent may have held.
static OWNER: AtomicU32 = AtomicU32::new(0);
static POOL: Mutex<Option<Arc<rayon::ThreadPool>>> = Mutex::new(None);

/// The name every worker thread begins with, for debuggers and panic hooks.
pub const WORKER_NAME: &str = "mbflow-worker";

/// Sets the number of threads that [`Exec::new`] uses from now on.
///
/// # Errors
///
/// [`Error::InvalidArgument`] for 0 or more than 1024 threads.
///
/// ```
/// mbflow_core::set_threads(2)?;
/// assert_eq!(mbflow_core::threads(), 2);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
pub fn set_threads(threads: usize) -> Result<(), Error> {
    if !(1..=1024).contains(&threads) {
        return Err(Error::argument("threads", format!("expected 1 to 1024, got {threads}")));
    }
    THREADS.store(threads, Ordering::Relaxed);
    Ok(())
}

/// The number of threads that [`Exec::new`] uses: what [`set_threads`] said, else `MBFLOW_NUM_THREADS`, else the
/// cores that this process may use; the last two are looked up once.
///
/// ```
/// assert!(mbflow_core::threads() >= 1);
/// ```
pub fn threads() -> usize {
    static DEFAULT: OnceLock<usize> = OnceLock::new();
    match THREADS.load(Ordering::Relaxed) {
        0 => *DEFAULT.get_or_init(|| {
            #[expect(clippy::disallowed_methods, reason = "exec is the one place that reads the environment")]
            let asked = std::env::var("MBFLOW_NUM_THREADS").ok().and_then(|text| text.trim().parse().ok());
            asked
                .filter(|threads| (1..=1024).contains(threads))
                .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
        }),
        threads => threads,
    }
}

/// A flag by which a caller stops a kernel between two blocks of its work.
///
/// ```
/// use mbflow_core::{Cancel, Error, Exec};
///
/// let cancel = Cancel::default();
/// let exec = Exec::serial().with_cancel(&cancel);
/// cancel.set();
/// assert_eq!(exec.run(vec![1], |_| ()), Err(Error::Interrupted));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the kernels that hold this flag to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A place to run a kernel: a pool of threads, or the calling thread alone.
///
/// Results never depend on the number of threads: work is cut into pieces by size, never by thread, and pieces write
/// to their own slices.
///
/// ```
/// let exec = mbflow_core::Exec::with_threads(2)?;
/// assert_eq!(exec.map(vec![1, 2, 3], |x| x * x)?, [1, 4, 9]);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Exec {
    pool: Option<Arc<rayon::ThreadPool>>,
    cancel: Cancel,
}

impl Exec {
    /// A place with [`threads`] threads; the calling thread alone when that is 1 or after a fork.
    ///
    /// # Errors
    ///
    /// [`Error::Threads`] when the operating system refuses to start them.
    pub fn new() -> Result<Self, Error> {
        Self::with_threads(threads())
    }

    /// A place with that many threads; the calling thread alone when that is 1 or after a fork.
    ///
    /// # Errors
    ///
    /// [`Error::Threads`] when the operating system refuses to start them.
    pub fn with_threads(threads: usize) -> Result<Self, Error> {
        let process = std::process::id();
        let owner = match OWNER.compare_exchange(0, process, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => process,
            Err(owner) => owner,
        };
        if threads <= 1 || owner != process {
            return Ok(Self::serial());
        }
        // A panic while the lock is held cannot leave the cache half-written: it is one assignment.
        let mut cached = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = match &*cached {
            Some(pool) if pool.current_num_threads() == threads => Arc::clone(pool),
            _ => {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .thread_name(|index| format!("{WORKER_NAME}-{index}"))
                    .build()
                    .map_err(|error| Error::Threads { threads, reason: error.to_string() })?;
                Arc::clone(cached.insert(Arc::new(pool)))
            }
        };
        Ok(Self { pool: Some(pool), cancel: Cancel::default() })
    }

    /// The calling thread alone.
    pub fn serial() -> Self {
        Self { pool: None, cancel: Cancel::default() }
    }

    /// The same place, stopping when `cancel` is set.
    #[must_use]
    pub fn with_cancel(self, cancel: &Cancel) -> Self {
        Self { cancel: cancel.clone(), ..self }
    }

    /// How many threads work here.
    pub fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, |pool| pool.current_num_threads())
    }

    /// Whether to go on.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the caller asked to stop.
    pub fn check(&self) -> Result<(), Error> {
        if self.cancel.is_set() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Runs `work` on every item, in any order, and stops between items when the caller asks.
    ///
    /// An item is the unit of scheduling: it should be worth some ten microseconds.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the caller asked to stop; some items may have been worked on.
    pub fn run<I: Send>(&self, items: Vec<I>, work: impl Fn(I) + Sync) -> Result<(), Error> {
        self.map(items, work).map(drop)
    }

    /// The results of `work` on every item, in the order of the items.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the caller asked to stop.
    pub fn map<I: Send, O: Send>(
        &self,
        items: Vec<I>,
        work: impl Fn(I) -> O + Sync,
    ) -> Result<Vec<O>, Error> {
        let step = |item| self.check().map(|()| work(item));
        match &self.pool {
            Some(pool) => pool.install(|| items.into_par_iter().with_max_len(1).map(step).collect()),
            None => items.into_iter().map(step).collect(),
        }
    }

    /// Both results; the two may be worked out at the same time.
    pub fn join<A: Send, B: Send>(
        &self,
        first: impl FnOnce() -> A + Send,
        second: impl FnOnce() -> B + Send,
    ) -> (A, B) {
        match &self.pool {
            Some(pool) => pool.join(first, second),
            None => (first(), second()),
        }
    }
}
