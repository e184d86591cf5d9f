"""Medoids: the rows nearest to the centres of k-means, class by class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow import _native
from mbflow.batches import check_whole
from mbflow.select.columns import feature_matrix
from mbflow.select.labels import Labels, encode_labels
from mbflow.select.strata import Quotas, class_quotas, kept_count, quotas

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["medoid_rows", "medoids_by_class"]

_STREAM_MEDOIDS = 0x5E1_00020
# Rows times centres of one k-means; a class above it is cut into halves, and these again.
_PAIRS = 1 << 22

_class_quotas = class_quotas


def medoid_rows(
    features: Any,
    labels: Any,
    *,
    count: int,
    quotas: Quotas = "power",
    power: float = 0.75,
    iterations: int = 20,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Keep the rows nearest to the centres of k-means in each class.

    A class of n rows of which k are kept is clustered as a whole where n * k is at most 2^22; a
    larger one is first cut at the medians of its widest columns into parts of that size, so the
    time is linear in the rows. The same seed gives the same rows for any number of threads.

    Args:
        features: float32 of shape (rows, columns), finite, scaled.
        labels: Class label of each row (see `encode_labels`).
        count: Rows to keep; where it is below the number of classes, one of each is kept.
        quotas: See `class_quotas`.
        power: See `class_quotas`.
        iterations: The most steps of Lloyd's algorithm.
        seed: Key of the rows that it starts from.

    Returns:
        Row numbers, int64, ascending; exactly as many of each class as its quota.

    Raises:
        InvalidArgumentError: An argument is out of range, or lengths differ.
        DataError: A feature is NaN or infinite, or a label is missing.

    Source:
        Lloyd: Least squares quantization in PCM, 1982.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.medoids import medoid_rows
        >>> features = np.array([[0.0], [1.0], [2.0], [9.0]], np.float32)
        >>> medoid_rows(features, list("aaaa"), count=2)
        array([1, 3])
    """
    encoded = encode_labels(labels)
    matrix = feature_matrix(features, len(encoded.codes))
    check_whole("iterations", iterations, least=1)
    wanted = kept_count(len(matrix), count=count)
    shares = _class_quotas(encoded, wanted, quotas=quotas, power=power)
    return medoids_by_class(matrix, encoded, shares, iterations=iterations, seed=seed)


def medoids_by_class(
    matrix: NDArray[np.float32],
    encoded: Labels,
    shares: NDArray[np.int64],
    *,
    iterations: int = 20,
    seed: int = 0,
) -> NDArray[np.int64]:
    """`medoid_rows` with a given count of each class.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import encode_labels
        >>> from mbflow.select.medoids import medoids_by_class
        >>> features = np.array([[0.0], [1.0], [2.0], [9.0]], np.float32)
        >>> medoids_by_class(features, encode_labels(list("aaab")), np.array([1, 0]))
        array([1])
    """
    place = np.empty(len(matrix), dtype=np.int64)
    place[_native.permutation(seed, _STREAM_MEDOIDS, len(matrix))] = np.arange(len(matrix))
    kept = [
        _medoids(matrix, rows, size, place, iterations)
        for code, share in enumerate(shares)
        if share > 0
        for rows, size in _parts(matrix, np.flatnonzero(encoded.codes == code), int(share))
    ]
    return np.sort(np.concatenate(kept)) if kept else np.empty(0, np.int64)


def _parts(
    features: NDArray[np.float32], rows: NDArray[np.int64], size: int
) -> list[tuple[NDArray[np.int64], int]]:
    """Rows cut into parts that are small enough, each with its share of `size`, at least 1."""
    if len(rows) * size <= _PAIRS or size < 2:
        return [(rows, size)]
    values = features[rows]
    widest = int(values.var(axis=0, dtype=np.float64).argmax())
    order = np.argsort(values[:, widest], kind="stable")
    halves = [np.sort(rows[part]) for part in np.array_split(order, 2)]
    shares = quotas([len(half) for half in halves], size, power=1.0)
    return [
        part
        for half, share in zip(halves, shares, strict=True)
        for part in _parts(features, half, int(share))
    ]


def _medoids(
    features: NDArray[np.float32],
    rows: NDArray[np.int64],
    size: int,
    place: NDArray[np.int64],
    iterations: int,
) -> NDArray[np.int64]:
    if size >= len(rows):
        return rows
    values = features[rows]
    centres = values[np.sort(np.argsort(place[rows], kind="stable")[:size])]
    nearest, distances = _native.nearest_rows(centres, values)
    for _ in range(iterations):
        order = np.argsort(nearest, kind="stable")
        used, starts = np.unique(nearest[order], return_index=True)
        sums = np.add.reduceat(values[order].astype(np.float64), starts, axis=0)
        counts = np.diff([*starts, len(order)])
        # A centre without rows takes the place of the row that is worst off.
        empty = np.setdiff1d(np.arange(size), used)
        centres = centres.copy()
        centres[used] = sums / counts[:, None]
        centres[empty] = values[np.argsort(-distances, kind="stable")[: len(empty)]]
        before = nearest
        nearest, distances = _native.nearest_rows(centres, values)
        if np.array_equal(before, nearest):
            break
    order = np.lexsort((distances, nearest))
    first = np.unique(nearest[order], return_index=True)[1]
    kept = order[first]
    if len(kept) < size:
        # Centres fell together, as on equal rows: the rows farthest from theirs, then by number.
        rest = np.setdiff1d(np.arange(len(rows)), kept)
        worst = rest[np.argsort(-distances[rest], kind="stable")]
        kept = np.concatenate([kept, worst[: size - len(kept)]])
    return rows[kept]
