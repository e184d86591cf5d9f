# ruff: noqa: D417, PYI021  -- the stub is the reference manual: users and editors read its docstrings
"""The kernels of mbflow, in Rust: slices in, NumPy arrays out.

Every function releases the interpreter lock while it works, stops within a second of Ctrl-C, and
gives the same bits for the same seed on every machine and for any number of threads.

`features` is a matrix of numbers: a 2-D NumPy array, or any object with `__arrow_c_array__` or
`__arrow_c_stream__` (polars, pandas, pyarrow, ...) that holds a table of numeric columns, one
column of fixed-size lists, or one numeric column. C-contiguous float32 NumPy arrays and single
chunks of float32 lists are read where they are; everything else is converted once to float32.
Arrays must not change while a function reads them.

An argument out of its range, or of a wrong type, shape or length, is an `InvalidArgumentError`;
features that are empty, null, NaN, infinite or too large are a `DataError` that names the column
and the first bad row.

Seeds are 0 to 2^64 - 1, and all randomness of a function follows from its `seed`. Streams are 0 to
2^32 - 1; those below 65536 are taken by mbflow itself. Row and class numbers are int64. A negative
or too large stream, index or count is an `OverflowError`.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Literal, Protocol, Self, TypeAlias, TypedDict, final, type_check_only

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from mbflow._native import attention, csc, durations, gather, sampling

__version__: str
__all__ = [
    "Deal",
    "__version__",
    "_panic",
    "affinity",
    "attention",
    "build_info",
    "cover",
    "csc",
    "durations",
    "forest_classes",
    "gather",
    "nearest_rows",
    "neighbour_graph",
    "num_threads",
    "p_stable_codes",
    "permutation",
    "project",
    "random_integers",
    "random_normal",
    "random_u64",
    "representatives",
    "rows_by_class",
    "sampling",
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

    Example:
        >>> from mbflow import _native
        >>> _native.set_num_threads(_native.num_threads())
    """

def num_threads() -> int:
    """Get the number of threads that kernels use.

    Example:
        >>> from mbflow import _native
        >>> _native.num_threads() >= 1
        True
    """

def random_u64(seed: int, stream: int, start: int, count: int) -> NDArray[np.uint64]:
    """Draw 64 uniform bits at the indices `start` to `start + count - 1` of a stream: uint64.

    A draw is a function of (seed, stream, index): the first two words, low word first, of the
    Philox4x32-10 block with the seed as key (low word, high word) and the counter (index low, index
    high, stream, 0).

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
    """Draw integers uniform on `0` to `bound - 1`, without bias, at `count` indices: uint64.

    Raises:
        InvalidArgumentError: `bound` is 0.

    Example:
        >>> from mbflow import _native
        >>> bool((_native.random_integers(1, 65536, 6, 0, 100) < 6).all())
        True

    Source: Lemire, "Fast random integer generation in an interval", TOMACS 2019.
    """

def random_normal(seed: int, stream: int, start: int, count: int) -> NDArray[np.float32]:
    """Draw standard normal numbers at each of `count` indices, by inversion of 52 uniform bits.

    They are float32, the same bits on every machine.

    Example:
        >>> from mbflow import _native
        >>> abs(float(_native.random_normal(1, 65536, 0, 10_000).mean())) < 0.05
        True

    Source: Wichura, "Algorithm AS 241: the percentage points of the normal distribution", 1988.
    """

def permutation(seed: int, stream: int, n: int) -> NDArray[np.int64]:
    """Permute `0` to `n - 1`, every order equally likely: int64. O(n), on one thread.

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
    """Project rows on random directions: float32 of shape (rows, projections).

    Args:
        projections: How many directions, 1 to 65536. A direction does not depend on how many there
            are.
        kind: `"gaussian"`: standard normal entries; `"sparse"`: +sqrt(3), 0 and -sqrt(3) with
            probability 1/6, 2/3 and 1/6. Both have variance 1: divide by `sqrt(projections)` to
            keep distances.

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
        bits: How many hyperplanes, 1 to 65536.
        kind: What the normal vectors are drawn from; see `project`.

    Returns:
        uint64 of shape (rows, ceil(bits / 64)); bit `j` of a code stands in bit `j % 64` of word `j
        // 64`.

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
        hashes: How many directions, 1 to 65536.
        width: The width of a cell, in the units of the projections; offsets are uniform on `[0,
            width)`.
        kind: What the directions are drawn from; see `project`.

    Returns:
        int32 of shape (rows, hashes); cells beyond 32 bits saturate.

    Example:
        >>> import numpy as np
        >>> from mbflow import _native
        >>> _native.p_stable_codes(np.zeros((2, 3)), hashes=4, width=0.5).tolist()
        [[0, 0, 0, 0], [0, 0, 0, 0]]

    Source: Datar, Immorlica, Indyk, Mirrokni, "Locality-sensitive hashing scheme based on p-stable
    distributions", SCG 2004.
    """

def neighbour_graph(
    features: _Features,
    *,
    kind: Literal[
        "exact", "mini_batch", "single_level", "multi_level", "multi_view"
    ] = "single_level",
    neighbours: int = 10,
    metric: Literal["euclidean", "manhattan", "cosine"] = "euclidean",
    labels: NDArray[np.uint32] | None = None,
    batch_rows: int = 1024,
    overlap: float = 0.0,
    percentile: float | None = None,
    levels: int = 4,
    views: int = 8,
    view_columns: float = 1.0,
    bits: int | None = None,
    family: Literal["sign", "p_stable"] = "sign",
    width: float | None = None,
    projections: Literal["gaussian", "sparse"] = "gaussian",
    bucket_cap: int = 256,
    probes: int = 16,
    refinements: int = 4,
    descents: int = 0,
    seed: int = 0,
) -> tuple[
    NDArray[np.int64],
    NDArray[np.int32],
    NDArray[np.float32],
    NDArray[np.float32] | None,
    _HashGraphStats,
]:
    """Link every row to rows near it, by one of five kinds of graph.

    `mbflow.select.neighbour_graph` says what the kinds and their options are. Options that a kind
    does not have do not count here.

    Args: See `mbflow.select.neighbour_graph`; `labels` are codes, uint32 of shape (rows,).

    Returns:
        `(offsets, neighbours, distances, weights, stats)`: int64 of shape (rows + 1,); int32,
        float32 and float32 of one entry an edge, the weights None in `"exact"` and
        `"single_level"`. Row `i`'s neighbours are `neighbours[offsets[i]:offsets[i + 1]]`, nearest
        first, equal distances by row number; never the row itself, never one twice. `stats` holds
        `rows`, `width`, `bits` (0 when all rows fit one bucket), `buckets`, `largest_bucket`,
        `smallest_bucket` (of all views, of the batches, or of all levels), `code_buckets` (what
        codes alone make), `moves` and `distances` (how many were computed).

    Example:
        >>> import numpy as np
        >>> from mbflow import _native
        >>> points = np.array([[0.0], [1.0], [3.0]])
        >>> _, nearest, _, weights, _ = _native.neighbour_graph(points, kind="exact", neighbours=1)
        >>> nearest.tolist(), weights
        ([1, 0, 1], None)

    Source: arXiv 2502.20293, section 3; Dong et al., WWW 2011 (`descents`).
    """

def nearest_rows(
    features: _Features, queries: _Features
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find for every query the nearest row, by comparing with all of them.

    What comes back is `(rows, distances)`: int64 and float32 of shape (queries,): the lowest of
    equally near rows, and the Euclidean distance to it.

    Example:
        >>> import numpy as np
        >>> from mbflow import _native
        >>> _native.nearest_rows(np.array([[0.0], [4.0]]), np.array([[3.0]]))[0]
        array([1])
    """

def affinity(
    offsets: NDArray[np.int64],
    neighbours: NDArray[np.int32],
    distances: NDArray[np.float32],
    classes: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Weigh the edges of a neighbour graph by how alike their rows are.

    With `s_i` the squared distance of row `i` to the last of its neighbours, an edge weighs
    `exp(-d^2 / sqrt(s_i s_j))`, both directions the larger of the two, and a row itself 1. Weights
    are divided by the square roots of the sums of both their rows; after that, edges between
    classes are dropped. Equal rows weigh 1; where `s_i` or `s_j` is 0, others weigh nothing.

    Args:
        offsets, neighbours, distances: A graph as `neighbour_graph` gives it: for each row others,
            each once, nearest first.
        classes: int64 of shape (rows,).

    Returns:
        `(offsets, neighbours, weights)` of a symmetric kernel: int64 of shape (rows + 1,), int32
        and float32 of one entry an edge, above 0 and at most 1. The first edge of a row is to
        itself.

    Example:
        >>> import numpy as np
        >>> from mbflow import _native
        >>> graph = _native.neighbour_graph(np.array([[0.0], [1.0], [3.0]]), neighbours=1)
        >>> offsets, neighbours, weights = _native.affinity(*graph[:3], np.array([0, 0, 1]))
        >>> neighbours.tolist()
        [0, 1, 1, 0, 2]

    Source: Zelnik-Manor, Perona, "Self-tuning spectral clustering", NIPS 2004 (the local scale).
    """

def cover(
    offsets: NDArray[np.int64],
    neighbours: NDArray[np.int32],
    weights: NDArray[np.float32],
    classes: NDArray[np.int64],
    *,
    quotas: NDArray[np.int64] | None = None,
    count: int | None = None,
    row_weights: NDArray[np.float64] | None = None,
    candidates: NDArray[np.bool_] | None = None,
    start: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pick rows that cover all rows: greedily, the largest gain first, ties to the lower row.

    The coverage is the sum over rows `i` of `row_weight_i * max over kept j of K_ji`.

    Args:
        offsets, neighbours, weights: The kernel `K`, as `affinity` gives it.
        classes: int64 of shape (rows,); no edge joins two classes.
        quotas: int64 of shape (classes,): how many rows to pick of each. Either this or `count`.
        count: How many rows to pick by gain, whatever their class; but first one of each class that
            has none, even where these are more.
        row_weights: float64 of shape (rows,), at least 0: how much each row matters. 1 by default.
        candidates: bool of shape (rows,): the rows that may be picked. All by default.
        start: Rows that are kept already; they are not picked, and no quota counts them.

    Returns:
        `(rows, gains)`: int64 and float64; the largest gain first, which within a class is the
        order of picking.

    Example:
        >>> import numpy as np
        >>> from mbflow import _native
        >>> classes = np.array([0, 0, 0])
        >>> graph = _native.neighbour_graph(np.array([[0.0], [1.0], [2.0]]), neighbours=2)
        >>> kernel = _native.affinity(*graph[:3], classes)
        >>> _native.cover(*kernel, classes, quotas=np.array([1]))[0]
        array([1])

    Source: Minoux, "Accelerated greedy algorithms for maximizing submodular set functions", 1978.
    """

def representatives(
    offsets: NDArray[np.int64],
    neighbours: NDArray[np.int32],
    weights: NDArray[np.float32],
    kept: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find for every row the kept row that is most alike, the lowest of equals.

    The kernel is as `affinity` gives it; `kept` holds row numbers, each once. What comes back is
    `(rows, similarities)`: int64 and float32 of shape (rows,); -1 and 0 where none is alike.

    Example:
        >>> import numpy as np
        >>> from mbflow import _native
        >>> graph = _native.neighbour_graph(np.array([[0.0], [1.0], [2.0]]), neighbours=1)
        >>> kernel = _native.affinity(*graph[:3], np.array([0, 0, 1]))
        >>> _native.representatives(*kernel, np.array([0]))[0]
        array([ 0,  0, -1])
    """

def forest_classes(
    features: _Features,
    classes: NDArray[np.int64],
    queries: _Features,
    *,
    trees: int = 30,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Train a random forest on rows with a class each, and classify queries: int64.

    Every tree is grown in full on a bootstrap sample, by the best Gini impurity of `sqrt(columns)`
    columns drawn at each node, and votes for one class; ties go to the lower class.

    Args:
        classes: int64 of shape (rows,), each 0 to 65535.
        queries: The queries, of as many columns.
        trees: How many trees, at least 1.

    Example:
        >>> import numpy as np
        >>> from mbflow import _native
        >>> points, classes = np.array([[0.0], [1.0], [8.0], [9.0]]), np.array([0, 0, 1, 1])
        >>> _native.forest_classes(points, classes, np.array([[0.4], [8.6]]))
        array([0, 1])

    Source: Breiman, "Random forests", Machine Learning 2001.
    """

def rows_by_class(
    codes: NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32], classes: int
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Sort rows by class, as a ragged array; a counting sort, four bytes a row.

    Gives offsets, int64 of shape (classes + 1,), and rows, uint32 of shape (rows,): the rows of
    class `c` are `rows[offsets[c]:offsets[c + 1]]`, ascending. `codes` are below `classes`.

    Example:
        >>> import numpy as np
        >>> from mbflow import _native
        >>> _native.rows_by_class(np.array([1, 0, 1], np.uint8), 2)
        (array([0, 1, 3]), array([1, 0, 2], dtype=uint32))
    """

@final
class Deal:
    """The deal of one epoch: batches with the mixture of the classes to within one row.

    Args:
        sizes: Rows of each class.
        quotas: Rows that each class gives to the epoch. Above its size its rows come round again,
            below it a keyed choice of them.
        batch_size: Rows of a batch; the last one may be shorter.
        seed: Key of all draws.
        epoch: Number of the epoch.

    Example:
        >>> import numpy as np
        >>> from mbflow import _native
        >>> offsets, rows = _native.rows_by_class(np.array([0, 0, 0, 1] * 2, np.uint8), 2)
        >>> deal = _native.Deal([6, 2], [6, 2], 4)
        >>> batch, repeats = deal.batch(rows, 0)
        >>> sorted(int(row) % 4 == 3 for row in batch), repeats.any()
        ([False, False, False, True], np.False_)
    """

    def __new__(
        cls,
        sizes: Sequence[int],
        quotas: Sequence[int],
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
    ) -> Self: ...
    @property
    def batches(self) -> int:
        """How many batches the epoch has."""

    def batch(
        self, rows: NDArray[np.uint32], number: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The rows of batch `number`, in keyed order; `rows` as `rows_by_class` gives them.

        Gives row numbers, int64, and whether each has an earlier occurrence in the epoch.
        """

    def split(
        self, rows: NDArray[np.uint32], first: int, parts: int, part: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The batches from `first` on, dealt again into `parts` of nearly equal size: one `part`.

        As for `batch`; empty where there are fewer rows than parts.
        """

def xxh3_128(data: Buffer, /) -> str:
    """Hash bytes with XXH3-128, seed 0.

    It comes as 32 hexadecimal digits, in the big-endian order that `xxhsum -H2` prints.

    Example:
        >>> from mbflow import _native
        >>> _native.xxh3_128(b"")
        '99aa06d3014798d86001c324468d497f'
    """

def xxh3_128_file(path: str | PathLike[str], /) -> str:
    """Hash a file with XXH3-128, seed 0, a mebibyte at a time.

    Raises:
        OSError: The file cannot be read; `errno` and `filename` are set.

    Example:
        >>> import os
        >>> from mbflow import _native
        >>> _native.xxh3_128_file(os.devnull)
        '99aa06d3014798d86001c324468d497f'
    """

def _panic(message: str) -> None:
    """Panic inside a kernel, to show that a panic becomes a `DefectError`.

    Example:
        >>> from mbflow import _native
        >>> _native._panic("on purpose")
        Traceback (most recent call last):
        mbflow.errors.DefectError: a kernel failed ...: on purpose; this is a defect of mbflow...
    """
