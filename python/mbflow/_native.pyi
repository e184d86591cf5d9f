# ruff: noqa: PYI021  -- the stub is the reference manual: users and editors read its docstrings
"""The kernels of mbflow, in Rust: slices in, NumPy arrays out.

Every function releases the interpreter lock while it works, stops within a second of Ctrl-C, and
gives the same bits for the same seed on every machine and for any number of threads.

`features` is a matrix of numbers: a 2-D NumPy array, or any object with `__arrow_c_array__` or
`__arrow_c_stream__` (polars, pandas, pyarrow, ...) that holds a table of numeric columns, one
column of fixed-size lists, or one numeric column. C-contiguous float32 NumPy arrays and single
chunks of float32 lists are read where they are; everything else is converted once to float32.
Arrays must not change while a function reads them.

Seeds are 0 to 2^64 - 1, streams 0 to 2^32 - 1; streams below 65536 are taken by mbflow itself.
"""

from os import PathLike
from typing import Literal, Protocol, TypeAlias, TypedDict, final, type_check_only

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

__version__: str
__all__ = [
    "__version__",
    "_panic",
    "build_info",
    "hash_graph",
    "num_threads",
    "p_stable_codes",
    "permutation",
    "project",
    "random_integers",
    "random_normal",
    "random_u64",
    "set_num_threads",
    "sign_codes",
    "xxh3_128",
    "xxh3_128_file",
]

@type_check_only
class _ArrowArray(Protocol):
    def __arrow_c_array__(
        self, requested_schema: object | None = None
    ) -> tuple[object, object]: ...

@type_check_only
class _ArrowStream(Protocol):
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...

_Features: TypeAlias = NDArray[np.floating] | NDArray[np.integer] | _ArrowArray | _ArrowStream

@final
@type_check_only
class _BuildInfo(TypedDict):
    version: str
    profile: Literal["release", "debug"]
    target: str
    features: Literal["avx512", "avx2", "baseline"]
    threads: int

@final
@type_check_only
class _HashGraphStats(TypedDict):
    rows: int
    width: int
    bits: int
    buckets: int
    largest_bucket: int
    smallest_bucket: int
    code_buckets: int
    moves: int
    distances: int

def build_info() -> _BuildInfo:
    """Describe this build and what it runs on.

    Returns:
        `version`; `profile` (`"release"`, or `"debug"` for a slow build that must not be measured);
        `target`, such as `"x86_64-linux"`; `features`, the best instruction set that the kernels
        use here; `threads`.

    Example:
        >>> from mbflow import _native
        >>> _native.build_info()["profile"] in ("release", "debug")
        True
    """

def set_num_threads(n: int) -> None:
    """Set the number of threads that kernels use from now on. Results do not depend on it.

    Args:
        n: 1 to 1024. Without a call it is `MBFLOW_NUM_THREADS`, or else the cores this process may
            use. After a fork the child works on one thread, whatever was set.

    Raises:
        InvalidArgumentError: `n` is out of range.

    Example:
        >>> from mbflow import _native
        >>> before = _native.num_threads()
        >>> _native.set_num_threads(2)
        >>> _native.num_threads()
        2
        >>> _native.set_num_threads(before)
    """

def num_threads() -> int:
    """Get the number of threads that kernels use.

    Example:
        >>> from mbflow import _native
        >>> _native.num_threads() >= 1
        True
    """

def random_u64(seed: int, stream: int, start: int, count: int) -> NDArray[np.uint64]:
    """Draw 64 uniform bits at each of the indices `start` to `start + count - 1` of a stream.

    A draw is a function of (seed, stream, index): the first two words, low word first, of the
    Philox4x32-10 block with the seed as key (low word, high word) and the counter (index low, index
    high, stream, 0).

    Returns:
        uint64 of shape (count,).

    Raises:
        OverflowError: An argument is negative or too large.

    Example:
        >>> from mbflow import _native
        >>> hex(_native.random_u64(0, 0, 0, 1)[0])
        '0xe169c58d6627e8d5'
        >>> bool(_native.random_u64(7, 65536, 3, 1)[0] == _native.random_u64(7, 65536, 0, 4)[3])
        True

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """

def random_integers(
    seed: int, stream: int, bound: int, start: int, count: int
) -> NDArray[np.uint64]:
    """Draw integers uniform on `0` to `bound - 1`, without bias, at each of `count` indices.

    Returns:
        uint64 of shape (count,).

    Raises:
        InvalidArgumentError: `bound` is 0.
        OverflowError: An argument is negative or too large.

    Example:
        >>> from mbflow import _native
        >>> bool((_native.random_integers(1, 65536, 6, 0, 100) < 6).all())
        True

    Source: Lemire, "Fast random integer generation in an interval", TOMACS 2019.
    """

def random_normal(seed: int, stream: int, start: int, count: int) -> NDArray[np.float32]:
    """Draw standard normal numbers at each of `count` indices, by inversion of 52 uniform bits.

    Returns:
        float32 of shape (count,), the same bits on every machine.

    Raises:
        OverflowError: An argument is negative or too large.

    Example:
        >>> from mbflow import _native
        >>> abs(float(_native.random_normal(1, 65536, 0, 10_000).mean())) < 0.05
        True

    Source: Wichura, "Algorithm AS 241: the percentage points of the normal distribution", 1988.
    """

def permutation(seed: int, stream: int, n: int) -> NDArray[np.int64]:
    """Permute `0` to `n - 1`, every order equally likely. O(n), on one thread.

    Returns:
        int64 of shape (n,).

    Raises:
        OverflowError: An argument is negative or too large.

    Example:
        >>> from mbflow import _native
        >>> sorted(_native.permutation(1, 65536, 4).tolist())
        [0, 1, 2, 3]
    """

def project(
    features: _Features,
    *,
    projections: int,
    kind: Literal["gaussian", "sparse"] = "gaussian",
    seed: int = 0,
) -> NDArray[np.float32]:
    """Project rows on random directions.

    Args:
        features: The rows; see the module.
        projections: How many directions, 1 to 65536. A direction does not depend on how many there
            are.
        kind: `"gaussian"`: standard normal entries; `"sparse"`: +sqrt(3), 0 and -sqrt(3) with
            probability 1/6, 2/3 and 1/6. Both have variance 1: divide by `sqrt(projections)` to
            keep distances.
        seed: All randomness follows from it.

    Returns:
        float32 of shape (rows, projections).

    Raises:
        InvalidArgumentError: An argument is out of its range or has a wrong type or shape.
        DataError: Features are empty, null, NaN, infinite or too large; names the column and first
            bad row.

    Example:
        >>> import numpy as np
        >>> from mbflow import _native
        >>> _native.project(np.eye(3, dtype="float32"), projections=5).shape
        (3, 5)

    Source: Achlioptas, "Database-friendly random projections", JCSS 2003.
    """

def sign_codes(
    features: _Features,
    *,
    bits: int,
    kind: Literal["gaussian", "sparse"] = "gaussian",
    seed: int = 0,
) -> NDArray[np.uint64]:
    """Code rows by the sides of random hyperplanes through the mean row.

    Args:
        features: The rows; see the module.
        bits: How many hyperplanes, 1 to 65536.
        kind: What the normal vectors are drawn from; see `project`.
        seed: All randomness follows from it.

    Returns:
        uint64 of shape (rows, ceil(bits / 64)); bit `j` of a code stands in bit `j % 64` of word `j
        // 64`.

    Raises:
        InvalidArgumentError: An argument is out of its range or has a wrong type or shape.
        DataError: Features are empty, null, NaN, infinite or too large; names the column and first
            bad row.

    Example:
        >>> import numpy as np
        >>> from mbflow import _native
        >>> codes = _native.sign_codes(np.array([[1.0, 2.0], [-1.0, -2.0]]), bits=8)
        >>> int(codes[0, 0] ^ codes[1, 0])
        255

    Source: Charikar, "Similarity estimation techniques from rounding algorithms", STOC 2002.
    """

def p_stable_codes(
    features: _Features,
    *,
    hashes: int,
    width: float,
    kind: Literal["gaussian", "sparse"] = "gaussian",
    seed: int = 0,
) -> NDArray[np.int32]:
    """Code rows by their cells along random directions: `floor((projection + offset) / width)`.

    Args:
        features: The rows; see the module.
        hashes: How many directions, 1 to 65536.
        width: The width of a cell, in the units of the projections; offsets are uniform on `[0,
            width)`.
        kind: What the directions are drawn from; see `project`.
        seed: All randomness follows from it.

    Returns:
        int32 of shape (rows, hashes); cells beyond 32 bits saturate.

    Raises:
        InvalidArgumentError: An argument is out of its range or has a wrong type or shape.
        DataError: Features are empty, null, NaN, infinite or too large; names the column and first
            bad row.

    Example:
        >>> import numpy as np
        >>> from mbflow import _native
        >>> _native.p_stable_codes(np.zeros((2, 3)), hashes=4, width=0.5).tolist()
        [[0, 0, 0, 0], [0, 0, 0, 0]]

    Source: Datar, Immorlica, Indyk, Mirrokni, "Locality-sensitive hashing scheme based on p-stable
    distributions", SCG 2004.
    """

def hash_graph(
    features: _Features,
    *,
    neighbours: int = 10,
    bits: int | None = None,
    family: Literal["sign", "p_stable"] = "sign",
    width: float | None = None,
    projections: Literal["gaussian", "sparse"] = "gaussian",
    bucket_cap: int = 256,
    probes: int = 16,
    refinements: int = 4,
    seed: int = 0,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32], _HashGraphStats]:
    """Link every row to the nearest of the rows that hashing brings near it.

    Rows get codes of random projections. A bucket holds rows whose codes begin alike; it is divided
    by the next part of the code, and at medians when the code is used up, while it is above
    `bucket_cap`. Then rows move to the bucket with the nearest mean, `refinements` times. Every row
    is compared with the rows of its own bucket and of the `probes` buckets nearest to it. Exact
    when `bucket_cap >= rows` or every bucket is probed. No row is dropped.

    Args:
        features: The rows; see the module.
        neighbours: How many each row gets; all others when there are fewer.
        bits: The most projections a code is made of, 1 to 64. By default as many as halve the rows
            to the cap.
        family: `"sign"`: sides of hyperplanes through the mean row; `"p_stable"`: cells along
            directions.
        width: Width of a cell, for `"p_stable"`. By default the root mean square distance from the
            mean row.
        projections: What directions are drawn from; see `project`.
        bucket_cap: The most rows of a bucket, at least 2.
        probes: How many buckets are searched besides a row's own; more find more of the true
            neighbours.
        refinements: How often rows move, at most 100.
        seed: All randomness follows from it.

    Returns:
        `(offsets, neighbours, distances, stats)`: int64 of shape (rows + 1,), int32 and float32 of
        one entry an edge. Row `i`'s neighbours are `neighbours[offsets[i]:offsets[i + 1]]`, nearest
        first, equal distances by row number; never the row itself, never one twice. Distances are
        Euclidean. `stats` holds `rows`, `width`, `bits` (0 when all rows fit one bucket),
        `buckets`, `largest_bucket`, `smallest_bucket`, `code_buckets` (what codes alone make),
        `moves` and `distances` (how many were computed).

    Raises:
        InvalidArgumentError: An argument is out of its range or has a wrong type or shape.
        DataError: Features are empty, null, NaN, infinite or too large; names the column and first
            bad row.

    Example:
        >>> import numpy as np
        >>> from mbflow import _native
        >>> points = np.array([[0.0], [1.0], [3.0]])
        >>> offsets, nearest, distances, stats = _native.hash_graph(points, neighbours=1)
        >>> nearest.tolist(), distances.tolist()
        ([1, 0, 1], [1.0, 1.0, 2.0])

    Source: arXiv 2502.20293, section 3 (hashing graphs); Bawa et al., "LSH forest", WWW 2005
    (prefixes of codes).
    """

def xxh3_128(data: Buffer, /) -> str:
    """Hash bytes with XXH3-128, seed 0.

    Args:
        data: `bytes`, `bytearray`, `memoryview` or another buffer of bytes.

    Returns:
        32 hexadecimal digits, in the canonical (big-endian) order that `xxhsum -H2` prints.

    Raises:
        InvalidArgumentError: `data` is no buffer of bytes.

    Example:
        >>> from mbflow import _native
        >>> _native.xxh3_128(b"")
        '99aa06d3014798d86001c324468d497f'
    """

def xxh3_128_file(path: str | PathLike[str], /) -> str:
    """Hash a file with XXH3-128, seed 0, a mebibyte at a time.

    Returns:
        The digest as `xxh3_128` gives it for the file's content.

    Raises:
        OSError: The file cannot be read; `errno` and `filename` are set.

    Example:
        >>> import tempfile
        >>> from mbflow import _native
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _native.xxh3_128_file(file.name)
        '99aa06d3014798d86001c324468d497f'
    """

def _panic(message: str) -> None:
    """Panic inside a kernel, to show that a panic becomes a `DefectError`.

    Raises:
        DefectError: Always.

    Example:
        >>> from mbflow import _native
        >>> _native._panic("on purpose")
        Traceback (most recent call last):
        mbflow.errors.DefectError: a kernel failed ...: on purpose; this is a defect of mbflow...
    """
