"""Coverage: the rows that, taken together, are alike to all others. No training needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow import _native
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.select.columns import feature_matrix
from mbflow.select.hashing import Graph, hash_graph
from mbflow.select.labels import Labels, encode_labels
from mbflow.select.strata import Quotas, class_quotas, kept_count

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Coverage", "Kernel", "coverage_graph", "coverage_rows", "noisy_rows"]

# Up to this many rows all pairs are compared: a second or two.
_EXACT_ROWS = 20_000
_EDIT_NEIGHBOURS = 10


@dataclass(frozen=True, repr=False)
class Coverage:
    """Rows chosen by coverage, and what each stands for.

    Attributes:
        indices: Row numbers of the kept rows, int64, ascending.
        order: The same rows, the largest gain first; within a class the order of picking. Any
            beginning of it is the choice for a smaller count of the same class mixture.
        gains: float64, what each row of `order` added to the coverage.
        representatives: int64 of shape (rows,): the kept row that stands for each row, of the same
            class; kept rows stand for themselves.
        similarities: float32 of shape (rows,): how alike a row and its representative are in the
            graph, 0 where no kept row is within reach and the nearest stands in.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import coverage_rows
        >>> features = np.array([[0.0], [1.0], [2.0], [9.0]], np.float32)
        >>> coverage = coverage_rows(features, list("aaab"), count=2)
        >>> coverage.indices, coverage.representatives
        (array([1, 3]), array([1, 1, 1, 3]))
    """

    indices: NDArray[np.int64]
    order: NDArray[np.int64]
    gains: NDArray[np.float64]
    representatives: NDArray[np.int64]
    similarities: NDArray[np.float32]

    def __repr__(self) -> str:
        return f"Coverage({len(self.indices)} of {len(self.representatives)} rows)"


@dataclass(frozen=True, repr=False)
class Kernel:
    """How alike rows of the same class are: a sparse symmetric kernel on a neighbour graph.

    Attributes:
        offsets: int64 of shape (rows + 1,).
        neighbours: int32 of shape (edges,); the first of each row is the row itself.
        weights: float32 of shape (edges,), above 0 and at most 1.
        labels: The classes.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.coverage import Kernel, coverage_graph
        >>> graph = coverage_graph(np.arange(6.0, dtype=np.float32).reshape(-1, 1), neighbours=2)
        >>> kernel = Kernel.of(graph, list("aaabbb"))
        >>> kernel.cover(np.array([1, 1]))[0]
        array([1, 4])
    """

    offsets: NDArray[np.int64]
    neighbours: NDArray[np.int32]
    weights: NDArray[np.float32]
    labels: Labels

    @classmethod
    def of(cls, graph: Graph, labels: Any) -> Kernel:
        """The kernel of a neighbour graph (see `_native.affinity`)."""
        encoded = encode_labels(labels)
        parts = _native.affinity(graph.offsets, graph.neighbours, graph.distances, encoded.codes)
        return cls(*parts, encoded)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    def cover(
        self,
        quotas: NDArray[np.int64] | int,
        *,
        weights: NDArray[np.float64] | None = None,
        candidates: NDArray[np.bool_] | None = None,
        start: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Pick rows by class, or a count of rows by gain (see `_native.cover`)."""
        wanted: dict[str, Any] = {}
        if isinstance(quotas, int):
            wanted["count"] = quotas
        else:
            # The kernel counts classes by their rows; a part of the data may lack the last ones.
            present = int(self.labels.codes.max(initial=-1)) + 1
            wanted["quotas"] = quotas if quotas[present:].any() else quotas[:present]
        return _native.cover(
            self.offsets,
            self.neighbours,
            self.weights,
            self.labels.codes,
            row_weights=weights,
            candidates=candidates,
            start=start,
            **wanted,
        )

    def representatives(
        self, features: NDArray[np.float32], kept: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The kept row that stands for each row, and how alike the two are.

        A kept row stands for itself. Where the graph leads to no kept row, the nearest kept row of
        the same class stands in, with similarity 0; where there is none of the class, -1.
        """
        rows, similarities = _native.representatives(
            self.offsets, self.neighbours, self.weights, kept
        )
        own = self.weights[self.offsets[kept]]
        rows[kept], similarities[kept] = kept, own
        codes = self.labels.codes
        lost = np.flatnonzero(rows < 0)
        for code in np.unique(codes[lost]):
            choice = kept[codes[kept] == code]
            asking = lost[codes[lost] == code]
            if len(choice):
                nearest, _ = _native.nearest_rows(features[choice], features[asking])
                rows[asking] = choice[nearest]
        return rows, similarities


def coverage_graph(features: NDArray[np.float32], *, neighbours: int = 40, seed: int = 0) -> Graph:
    """The neighbour graph that coverage stands on: exact up to 20,000 rows, else by hashing.

    Args:
        features: float32 of shape (rows, columns), finite.
        neighbours: Neighbours of each row.
        seed: Key of the hashing.

    Returns:
        The graph.

    Raises:
        InvalidArgumentError: An argument is out of range.
        DataError: A feature is NaN or infinite.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.coverage import coverage_graph
        >>> coverage_graph(np.zeros((5, 2), np.float32), neighbours=2).edges
        10
    """
    # One bucket that holds all rows makes the hashing graph exact.
    cap = max(2, len(features)) if len(features) <= _EXACT_ROWS else None
    return hash_graph(features, neighbours=neighbours, bucket_cap=cap, seed=seed)


def noisy_rows(
    labels: Any, graph: Graph, *, neighbours: int = _EDIT_NEIGHBOURS
) -> NDArray[np.bool_]:
    """Which rows most of the nearest rows disagree with.

    Args:
        labels: Class label of each row.
        graph: A graph of nearest neighbours, nearest first.
        neighbours: How many of the nearest to ask; fewer where the graph has fewer.

    Returns:
        bool of shape (rows,): more than half of those asked are of another class.

    Raises:
        InvalidArgumentError: Lengths differ.

    Source:
        Wilson: Asymptotic properties of nearest neighbor rules using edited data, 1972.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.coverage import coverage_graph, noisy_rows
        >>> graph = coverage_graph(np.arange(5.0, dtype=np.float32)[:, None], neighbours=2)
        >>> noisy_rows(list("aabaa"), graph)
        array([False, False,  True, False, False])
    """
    encoded = encode_labels(labels)
    _same_rows(graph.rows, len(encoded.codes), "the graph")
    return neighbour_agreement(encoded, graph, neighbours=neighbours) < 0.5


def neighbour_agreement(labels: Labels, graph: Graph, *, neighbours: int) -> NDArray[np.float64]:
    """The share of each row's nearest neighbours that have its class; 1 for a row without any.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import encode_labels
        >>> from mbflow.select.coverage import coverage_graph, neighbour_agreement
        >>> graph = coverage_graph(np.arange(3.0, dtype=np.float32)[:, None], neighbours=2)
        >>> neighbour_agreement(encode_labels(list("aab")), graph, neighbours=2)
        array([0.5, 0.5, 0. ])
    """
    asked = np.minimum(np.diff(graph.offsets), neighbours)
    same = np.zeros(graph.rows, dtype=np.int64)
    for rank in range(int(asked.max(initial=0))):
        rows = np.flatnonzero(asked > rank)
        others = graph.neighbours[graph.offsets[rows] + rank]
        same[rows] += labels.codes[others] == labels.codes[rows]
    return np.where(asked > 0, same / np.maximum(asked, 1), 1.0)


def coverage_rows(
    features: Any,
    labels: Any,
    *,
    count: int,
    quotas: Quotas = "power",
    power: float = 0.75,
    graph: Graph | None = None,
    neighbours: int = 40,
    weights: ArrayLike | None = None,
    edit_noise: bool = False,
    seed: int = 0,
) -> Coverage:
    """Keep the rows that cover all others best, by class.

    How alike two rows are falls with their distance, in units of the distance to their own farther
    neighbours, and is divided by how alike they are to everything near them, of any class; rows of
    different classes do not cover each other. Rows are then picked greedily, each time the one that
    adds most to `sum over rows of weight * similarity to the most alike kept row`.

    Args:
        features: float32 of shape (rows, columns), finite, scaled (see `FeatureEncoder`).
        labels: Class label of each row (see `encode_labels`).
        count: Rows to keep; where it is below the number of classes, one of each is kept.
        quotas: How the count is shared among the classes (see `class_quotas`), or "gain": by what
            rows add, whatever their class, with at least one of each.
        power: See `class_quotas`.
        graph: A neighbour graph of these rows; by default the exact one of up to 20,000 rows and
            one by hashing of more.
        neighbours: Neighbours of each row in the default graph.
        weights: How much it matters that each row is covered, at least 0; 1 by default.
        edit_noise: Keep no row whose 10 nearest neighbours mostly are of another class. A class of
            which too few rows would be left gets its rows with the most agreement.
        seed: Key of the default graph.

    Returns:
        The rows, and which row each stands for.

    Raises:
        InvalidArgumentError: An argument is out of range, or lengths differ.
        DataError: A feature is NaN or infinite, or a label is missing.

    Source:
        Greedy facility location on a neighbour graph: Rustamov et al., graph coverage selection
        (arXiv 2606.22002). The kernel, its normalisation and the quotas are this package's own.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import coverage_rows
        >>> features = np.arange(20.0, dtype=np.float32).reshape(-1, 1)
        >>> coverage_rows(features, ["a"] * 10 + ["b"] * 10, count=4).indices.size
        4
    """
    encoded = encode_labels(labels)
    matrix = feature_matrix(features, len(encoded.codes))
    wanted = kept_count(len(matrix), count=count)
    importance = None if weights is None else _weights(weights, len(matrix))
    if graph is None:
        graph = coverage_graph(matrix, neighbours=neighbours, seed=seed)
    _same_rows(graph.rows, len(encoded.codes), "the graph")
    kernel = Kernel.of(graph, encoded)
    shares = None if quotas == "gain" else class_quotas(encoded, wanted, quotas=quotas, power=power)
    candidates = edited(encoded, graph, shares, wanted) if edit_noise else None
    order, gains = kernel.cover(
        wanted if shares is None else shares, weights=importance, candidates=candidates
    )
    stand_ins, similarities = kernel.representatives(matrix, order)
    return Coverage(np.sort(order), order, gains, stand_ins, similarities)


def edited(
    labels: Labels, graph: Graph, shares: NDArray[np.int64] | None, count: int
) -> NDArray[np.bool_]:
    """The rows that may be kept when noise is edited out; never fewer of a class than its share.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import encode_labels
        >>> from mbflow.select.coverage import coverage_graph, edited
        >>> graph = coverage_graph(np.arange(5.0, dtype=np.float32)[:, None], neighbours=2)
        >>> edited(encode_labels(list("aabaa")), graph, np.array([1, 1]), 2)
        array([ True,  True,  True,  True,  True])
        >>> edited(encode_labels(list("ababb")), graph, np.array([1, 1]), 2)
        array([ True, False, False,  True,  True])
    """
    agreement = neighbour_agreement(labels, graph, neighbours=_EDIT_NEIGHBOURS)
    clean = agreement >= 0.5
    classes = len(labels.classes)
    needed = np.ones(classes, dtype=np.int64) if shares is None else shares
    left = np.bincount(labels.codes[clean], minlength=classes)
    for code in np.flatnonzero(left < needed):
        rows = np.flatnonzero(labels.codes == code)
        best = rows[np.argsort(-agreement[rows], kind="stable")]
        clean[best[: needed[code]]] = True
    missing = count - int(clean.sum())
    if missing > 0:
        rest = np.flatnonzero(~clean)
        clean[rest[np.argsort(-agreement[rest], kind="stable")][:missing]] = True
    return clean


def _weights(weights: ArrayLike, rows: int) -> NDArray[np.float64]:
    values = np.ascontiguousarray(weights, dtype=np.float64)
    if values.shape != (rows,):
        raise InvalidArgumentError(
            f"weights have shape {values.shape} and there are {rows} rows; expected one a row"
        )
    bad = ~(np.isfinite(values) & (values >= 0.0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"the weight of row {row} is {values[row]}; expected a finite number of at least 0",
            row=row,
        )
    return values


def _same_rows(got: int, expected: int, what: str) -> None:
    if got != expected:
        verb = "has" if what.startswith("the ") else "have"
        raise InvalidArgumentError(
            f"{what} {verb} {got} rows and there are {expected} labels; expected one a row"
        )
