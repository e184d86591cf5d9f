"""The neighbour graph by hashing, and how near it comes to the exact one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mbflow import _native
from mbflow.batches import check_whole
from mbflow.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Graph", "exact_recall", "hash_graph", "kth_distances"]

_STREAM_RECALL = 0x5E1_00003
_QUERIES = 256  # rows asked for at once
_BLOCK_ROWS = 65_536  # rows they are compared with at once
_MANHATTAN_ROWS = 8_192  # the same where sums are made column by column
_SPARE = 16  # candidates beyond k that are measured again in float64
# Distances no further apart than this are equal: what float32 sums can tell, and zero.
_CLOSE, _CLOSE_TO_ZERO = 1e-6, 1e-12
_METRICS = ("euclidean", "manhattan", "cosine")


@dataclass(frozen=True)
class Graph:
    """A directed neighbour graph as a ragged array.

    Attributes:
        offsets: int64 of shape (rows + 1,); row i's neighbours are `neighbours[offsets[i] :
            offsets[i + 1]]`.
        neighbours: int32 of shape (edges,), nearest first, ties to the lower row number.
        distances: float32 of shape (edges,), by the metric.
        stats: How the graph came about, as the kernel counted it.
        weights: float32 of shape (edges,), 0 to 1 (a cosine may be below 0); None for kinds of
            graph without weights.
        metric: What distances are measured by: "euclidean", "manhattan" or "cosine".

    Raises:
        InvalidArgumentError: An array is of another type or length, or a neighbour is no row.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import Graph
        >>> offsets, neighbours = np.array([0, 1, 2]), np.array([1, 0], np.int32)
        >>> graph = Graph(offsets, neighbours, np.ones(2, np.float32), {})
        >>> graph.rows, graph.edges
        (2, 2)
    """

    offsets: NDArray[np.int64]
    neighbours: NDArray[np.int32]
    distances: NDArray[np.float32]
    stats: Mapping[str, Any]
    weights: NDArray[np.float32] | None = None
    metric: str = "euclidean"

    def __post_init__(self) -> None:
        _check_graph(self)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    @property
    def edges(self) -> int:
        """Number of edges."""
        return len(self.neighbours)


def _check_graph(graph: Graph) -> None:
    kinds: dict[str, Any] = {"offsets": np.int64, "neighbours": np.int32, "distances": np.float32}
    if graph.weights is not None:
        kinds["weights"] = np.float32
    for name, kind in kinds.items():
        array: Any = getattr(graph, name)
        if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype != kind:
            found = type(array).__name__
            if hasattr(array, "dtype"):
                found = f"{array.dtype} of shape {array.shape}"
            raise InvalidArgumentError(
                f"the graph's {name} are {found}; expected a NumPy array of {np.dtype(kind)} in "
                "one dimension"
            )
    edges = len(graph.neighbours)
    if len(graph.offsets) == 0 or graph.offsets[0] != 0 or graph.offsets[-1] != edges:
        raise InvalidArgumentError(
            f"the graph's offsets do not go from 0 to {edges}, the number of its neighbours"
        )
    for name in ("distances", "weights"):
        count = len(getattr(graph, name)) if name in kinds else edges
        if count != edges:
            raise InvalidArgumentError(
                f"the graph has {edges} neighbours and {count} {name}; expected one for each"
            )
    if edges and not 0 <= graph.neighbours.min() <= graph.neighbours.max() < graph.rows:
        raise InvalidArgumentError(
            f"the graph names a neighbour that is none of its {graph.rows} rows"
        )


def hash_graph(
    features: Any,
    *,
    neighbours: int = 10,
    bits: int | None = None,
    family: Literal["sign", "p_stable"] = "sign",
    width: float | None = None,
    projections: Literal["gaussian", "sparse"] = "gaussian",
    bucket_cap: int | None = None,
    probes: int | None = None,
    refinements: int | None = None,
    seed: int = 0,
) -> Graph:
    """Nearest neighbours among the rows that random projections bring together.

    Rows with like codes share a bucket; a bucket above the cap is split along new projections,
    never thinned out. Each row is compared, by exact distance, with the rows of its own bucket and
    of the buckets nearest to it, and the nearest are kept. The same seed gives the same graph for
    any number of threads.

    Args:
        features: float32 of shape (rows, columns), finite.
        neighbours: Neighbours of each row, fewer where there are not so many other rows.
        bits: Length of the sign code; by default chosen from the number of rows.
        family: "sign" (the side of random hyperplanes) or "p_stable" (quantised projections).
        width: Bucket width of "p_stable" codes, in units of the features.
        projections: "gaussian" or "sparse" random directions.
        bucket_cap: The most rows in one bucket.
        probes: Buckets that each row looks into; more find more true neighbours and take longer.
        refinements: Rounds in which each row moves to the bucket whose mean is nearest to it.
        seed: Key of the projections.

    Returns:
        The graph.

    Raises:
        InvalidArgumentError: An argument is out of range.
        DataError: A feature is NaN or infinite.

    Source:
        Rustamov, Zaitouny, Zaki: Scalable Graph Attention-based Instance Selection via Mini-Batch
        Sampling and Hierarchical Hashing (arXiv 2502.20293), single-level hashing graph.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import hash_graph
        >>> graph = hash_graph(np.array([[0.0], [1.0], [3.0]], np.float32), neighbours=1)
        >>> graph.neighbours
        array([1, 0, 1], dtype=int32)
    """
    given: dict[str, Any] = {
        "bits": bits,
        "width": width,
        "bucket_cap": bucket_cap,
        "probes": probes,
        "refinements": refinements,
    }
    try:
        offsets, targets, distances, _, stats = _native.neighbour_graph(
            features,
            kind="single_level",
            neighbours=neighbours,
            family=family,
            projections=projections,
            seed=seed,
            **{name: value for name, value in given.items() if value is not None},
        )
    except (TypeError, OverflowError) as error:
        raise InvalidArgumentError(f"hash_graph: {' '.join(str(error).split())}") from None
    return Graph(offsets, targets, distances, stats)


def kth_distances(
    features: NDArray[np.float32],
    rows: NDArray[np.int64],
    *,
    neighbours: int,
    metric: str = "euclidean",
) -> NDArray[np.float64]:
    """The exact distance from each of some rows to its k-th nearest other row.

    Brute force in blocks, O(rows asked * rows * columns).

    Args:
        features: float32 of shape (n, columns).
        rows: Row numbers to ask for.
        neighbours: k, from 1 to n - 1.
        metric: "euclidean", "manhattan" or "cosine", as `neighbour_graph` has them.

    Returns:
        float64 of the length of `rows`.

    Raises:
        InvalidArgumentError: `neighbours` or `metric` is out of range.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import kth_distances
        >>> kth_distances(np.array([[0.0], [1.0], [3.0]], np.float32), np.array([2]), neighbours=1)
        array([2.])
    """
    count = len(features)
    if not 1 <= neighbours < count:
        raise InvalidArgumentError(f"neighbours is {neighbours}; expected 1 to {count - 1}")
    features = _prepared(features, metric)
    if metric == "manhattan":
        return _kth_manhattan(features, rows, neighbours)
    # Distances do not change when the data is moved; about the mean, the short form below, which
    # subtracts squares, loses the least.
    centred = features - features.mean(axis=0, dtype=np.float64).astype(np.float32)
    squares = np.einsum("ij,ij->i", centred, centred)
    near = min(count - 1, neighbours + _SPARE)
    result = np.empty(len(rows), dtype=np.float64)
    for start in range(0, len(rows), _QUERIES):
        asked = rows[start : start + _QUERIES]
        candidates = _nearest(centred, squares, asked, near)
        exact = _distances(features, asked, candidates, metric)
        result[start : start + _QUERIES] = np.sort(exact, axis=1)[:, neighbours - 1]
    return result


def _prepared(features: NDArray[np.float32], metric: str) -> NDArray[np.float32]:
    """The features as the metric needs them: for cosines every row divided by its length."""
    if metric not in _METRICS:
        raise InvalidArgumentError(f"metric is {metric!r}; expected one of {', '.join(_METRICS)}")
    if metric != "cosine":
        return features
    lengths = np.sqrt(np.einsum("ij,ij->i", features, features, dtype=np.float64))
    zeros = lengths == 0
    # One more column belongs to the rows of zeros: they are equal, and at right angles to others.
    units = np.empty((len(features), features.shape[1] + 1), dtype=np.float32)
    units[:, :-1] = features / np.where(zeros, 1.0, lengths)[:, None]
    units[:, -1] = zeros
    return units


def _kth_manhattan(
    features: NDArray[np.float32], rows: NDArray[np.int64], neighbours: int
) -> NDArray[np.float64]:
    kept = np.full((len(rows), neighbours), np.inf)
    for start in range(0, len(features), _MANHATTAN_ROWS):
        block = features[start : start + _MANHATTAN_ROWS].astype(np.float64)
        for first in range(0, len(rows), _QUERIES):
            asked = rows[first : first + _QUERIES]
            gaps = np.zeros((len(asked), len(block)))
            for column, values in enumerate(block.T):
                gaps += np.abs(features[asked, column].astype(np.float64)[:, None] - values)
            own = (asked >= start) & (asked < start + len(block))
            gaps[own, asked[own] - start] = np.inf
            part = slice(first, first + _QUERIES)
            both = np.hstack([kept[part], gaps])
            kept[part] = np.partition(both, neighbours - 1, axis=1)[:, :neighbours]
    return kept.max(axis=1)  # type: ignore[no-any-return]


def _nearest(
    centred: NDArray[np.float32],
    squares: NDArray[np.float32],
    asked: NDArray[np.int64],
    near: int,
) -> NDArray[np.int64]:
    """The `near` nearest rows by the short form, without the rows themselves, block by block."""
    values = np.empty((len(asked), 0), dtype=np.float32)
    names = np.empty((len(asked), 0), dtype=np.int64)
    for start in range(0, len(centred), _BLOCK_ROWS):
        block = slice(start, min(start + _BLOCK_ROWS, len(centred)))
        short = squares[block] - 2.0 * (centred[asked] @ centred[block].T)
        own = (asked >= block.start) & (asked < block.stop)
        short[own, asked[own] - start] = np.inf
        if values.shape[1] == near:
            # Most blocks hold few rows that are nearer than what is there: only those are sorted.
            closer = short < values.max(axis=1)[:, None]
            width = max(1, int(closer.sum(axis=1).max()))
        else:
            width = near
        width = min(width, short.shape[1])
        best = np.argpartition(short, width - 1, axis=1)[:, :width]
        values = np.hstack([values, np.take_along_axis(short, best, axis=1)])
        names = np.hstack([names, best + start])
        if values.shape[1] > near:
            kept = np.argpartition(values, near - 1, axis=1)[:, :near]
            values = np.take_along_axis(values, kept, axis=1)
            names = np.take_along_axis(names, kept, axis=1)
    return names


def _distances(
    features: NDArray[np.float32],
    rows: NDArray[np.int64],
    others: NDArray[np.integer[Any]],
    metric: str,
) -> NDArray[np.float64]:
    gaps = features[others].astype(np.float64) - features[rows].astype(np.float64)[:, None, :]
    if metric == "manhattan":
        return np.abs(gaps).sum(axis=2)  # type: ignore[no-any-return]
    squares = np.einsum("ijk,ijk->ij", gaps, gaps)
    return squares / 2 if metric == "cosine" else np.sqrt(squares)  # type: ignore[no-any-return]


def exact_recall(
    graph: Graph, features: NDArray[np.float32], *, sample: int = 1000, seed: int = 0
) -> float:
    """The share of true nearest neighbours that a graph found, on a sample of rows.

    A neighbour is true where it is no further than the k-th nearest row, k being the number of
    neighbours the row has in the graph; so ties count for whichever row was taken.

    Args:
        graph: The graph.
        features: float32 of shape (rows, columns) that it was built from; distances are by the
            metric of the graph.
        sample: Rows to check; all where there are fewer.
        seed: Key of the sample.

    Returns:
        0 to 1; 1 for a graph without edges.

    Raises:
        InvalidArgumentError: Graph and features differ in rows.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import exact_recall, hash_graph
        >>> features = np.arange(20, dtype=np.float32).reshape(-1, 1)
        >>> exact_recall(hash_graph(features, neighbours=2), features)
        1.0
    """
    if graph.rows != len(features):
        raise InvalidArgumentError(
            f"the graph has {graph.rows} rows and the features {len(features)}; expected the "
            "features that the graph was built from"
        )
    check_whole("sample", sample, least=1)
    drawn = np.sort(_native.permutation(seed, _STREAM_RECALL, graph.rows)[:sample])
    degrees = np.diff(graph.offsets)[drawn]
    prepared = _prepared(features, graph.metric)
    found = total = 0
    for degree in np.unique(degrees[degrees > 0]):
        rows = drawn[degrees == degree]
        limits = kth_distances(features, rows, neighbours=int(degree), metric=graph.metric)
        edges = graph.offsets[rows][:, None] + np.arange(degree)
        named = graph.neighbours[edges]
        measured = _distances(prepared, rows, named, graph.metric)
        # How a peer says that it found fewer: the row itself, which is no neighbour.
        measured[named == rows[:, None]] = np.inf
        bounds = limits[:, None] * (1 + _CLOSE) + _CLOSE_TO_ZERO
        found += int((measured <= bounds).sum())
        total += edges.size
    return found / total if total else 1.0
