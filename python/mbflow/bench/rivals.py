"""Selectors from papers, to compare with: built on this package's kernels, with their settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mbflow import _native
from mbflow.select import Labels, class_quotas, neighbour_graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RIVALS", "published_coverage"]

_NEIGHBOURS = 10


def published_coverage(
    features: NDArray[np.float32], labels: Labels, count: int, seed: int = 0
) -> NDArray[np.int64]:
    """Graph coverage selection as published: ten neighbours by cosine, two hops, equal quotas.

    The kernel is A + A^2 of the symmetrically normalised graph with cosine weights; rows are picked
    greedily within each class.

    Args:
        features: float32 of shape (rows, columns).
        labels: Class of each row.
        count: Rows to keep.
        seed: Unused: nothing is drawn.

    Returns:
        Row numbers, int64, ascending.

    Source:
        Rustamov et al., arXiv 2606.22002.

    Example:
        >>> import numpy as np
        >>> from mbflow.bench.rivals import published_coverage
        >>> from mbflow.select import encode_labels
        >>> features = np.array([[1, 0], [2, 0.1], [0, 1], [0.1, 2]], np.float32)
        >>> published_coverage(features, encode_labels([0, 0, 1, 1]), 2).size
        2
    """
    from scipy import sparse

    del seed
    rows = len(features)
    graph = neighbour_graph(features, kind="exact", neighbours=_NEIGHBOURS, metric="cosine")
    weights = np.maximum(1.0 - graph.distances.astype(np.float64), 0.0)
    directed = sparse.csr_matrix((weights, graph.neighbours, graph.offsets), shape=(rows, rows))
    both = directed.maximum(directed.T).tocsr()
    degrees = np.asarray(both.sum(axis=1)).ravel()
    scale = sparse.diags(1.0 / np.sqrt(np.where(degrees > 0.0, degrees, 1.0)))
    normal = (scale @ both @ scale).tocsr()
    kernel = (normal + normal @ normal).tocoo()
    # Rows of other classes do not cover; a row covers itself at least as well as any other does.
    same = labels.codes[kernel.row] == labels.codes[kernel.col]
    own = sparse.identity(rows, format="coo")
    kernel = sparse.coo_matrix(
        (kernel.data[same], (kernel.row[same], kernel.col[same])), shape=(rows, rows)
    )
    kernel = kernel.maximum(own * 1e-9).tocsr()
    kernel.sort_indices()
    picked, _ = _native.cover(
        kernel.indptr.astype(np.int64),
        kernel.indices.astype(np.int32),
        kernel.data.astype(np.float32),
        labels.codes,
        quotas=class_quotas(labels, count, quotas="equal"),
    )
    return np.sort(picked)


RIVALS: dict[str, Callable[[NDArray[np.float32], Labels, int, int], NDArray[np.int64]]] = {
    "published coverage": published_coverage
}
"""By the name that tables give them."""
