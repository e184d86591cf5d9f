//! XXH3-128 of bytes and files, as 32 hexadecimal digits in the canonical order.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use mbflow_core::Exec;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use xxhash_rust::xxh3::{Xxh3, xxh3_128 as digest};

use crate::enter::enter;
use crate::error::invalid_argument;

/// Bytes read, or hashed between two looks for Ctrl-C, at a time.
const BLOCK: usize = 1 << 20;

fn hex(digest: u128) -> String {
    format!("{digest:032x}")
}

/// Hash bytes with XXH3-128.
#[pyfunction]
#[pyo3(signature = (data, /))]
pub(crate) fn xxh3_128(py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<String> {
    if let Ok(bytes) = data.extract::<&[u8]>() {
        if bytes.len() <= BLOCK {
            return Ok(hex(digest(bytes)));
        }
        // `bytes` cannot change and are kept alive by `data`.
        return Ok(enter(py, |exec| hash_blocks(exec, bytes))?);
    }
    let buffer = PyBuffer::<u8>::get(data)
        .map_err(|error| invalid_argument(format!("data: expected a bytes-like object: {error}")))?;
    // A writable buffer may change while it is read, so the lock is kept and a copy hashed.
    Ok(hex(digest(&buffer.to_vec(py)?)))
}

fn hash_blocks(exec: &Exec, bytes: &[u8]) -> Result<String, mbflow_core::Error> {
    let mut hasher = Xxh3::new();
    for block in bytes.chunks(BLOCK) {
        exec.check()?;
        hasher.update(block);
    }
    Ok(hex(hasher.digest128()))
}

/// Hash a file with XXH3-128.
#[pyfunction]
#[pyo3(signature = (path, /))]
pub(crate) fn xxh3_128_file(py: Python<'_>, path: PathBuf) -> PyResult<String> {
    let shown = path.clone();
    let hash = move |exec: &Exec| {
        let read = || -> io::Result<Result<String, mbflow_core::Error>> {
            let mut file = File::open(&path)?;
            let mut hasher = Xxh3::new();
            let mut block = vec![0; BLOCK];
            loop {
                if let Err(stop) = exec.check() {
                    return Ok(Err(stop));
                }
                match file.read(&mut block) {
                    Ok(0) => return Ok(Ok(hex(hasher.digest128()))),
                    Ok(length) => hasher.update(&block[..length]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        };
        match read() {
            Ok(Ok(digest)) => Ok(Ok(digest)),
            Ok(Err(stop)) => Err(stop),
            Err(error) => Ok(Err(error)),
        }
    };
    enter(py, hash)?.map_err(|error: io::Error| {
        // With the number, Python picks the subclass (FileNotFoundError, PermissionError, ...) and sets errno.
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or(&text).to_owned();
        PyOSError::new_err((error.raw_os_error(), text, shown.display().to_string()))
    })
}
