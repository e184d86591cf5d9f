"""Neighbour graphs of every kind: exact, hashed at one or more levels, in views, in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from mbflow import _native
from mbflow.errors import InvalidArgumentError
from mbflow.select.hashing import Graph
from mbflow.select.labels import encode_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["KIND_OPTIONS", "GraphKind", "GraphMetric", "neighbour_graph"]

GraphKind: TypeAlias = Literal["exact", "mini_batch", "single_level", "multi_level", "multi_view"]
GraphMetric: TypeAlias = Literal["euclidean", "manhattan", "cosine"]

_CODES = ("bits", "family", "width", "projections", "bucket_cap")
# The options of each kind, beside those that all have, with their defaults; None: the kernel's own.
KIND_OPTIONS: dict[str, tuple[str, ...]] = {
    "exact": (),
    "mini_batch": ("labels", "batch_rows", "overlap", "percentile", "descents"),
    "single_level": (*_CODES, "probes", "refinements", "descents"),
    "multi_level": (*_CODES, "levels", "descents"),
    "multi_view": (*_CODES, "views", "view_columns", "descents"),
}
_DEFAULTS: dict[str, Any] = {
    "labels": None,
    "batch_rows": 1024,
    "overlap": 0.0,
    "percentile": None,
    "levels": 4,
    "views": 8,
    "view_columns": 1.0,
    "bits": None,
    "family": "sign",
    "width": None,
    "projections": "gaussian",
    "bucket_cap": None,
    "probes": None,
    "refinements": None,
    "descents": 0,
}
# Rows of one bucket where nothing else is asked for; the default of the kernel is for one level.
_CAPS = {"multi_level": 128, "multi_view": 512}


def neighbour_graph(
    features: Any,
    *,
    kind: GraphKind = "single_level",
    neighbours: int = 10,
    metric: GraphMetric = "euclidean",
    labels: Any = None,
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
    bucket_cap: int | None = None,
    probes: int | None = None,
    refinements: int | None = None,
    descents: int = 0,
    seed: int = 0,
) -> Graph:
    """Link every row to rows near it, by one of five kinds of graph.

    * `exact`: the nearest of all other rows, by blocked brute force.
    * `single_level`: the nearest rows of the buckets that codes of random projections bring
      together, as `hash_graph`. The fastest on clustered data.
    * `multi_level`: one set of projections, buckets nested from coarse to fine; rows that share a
      bucket of the coarsest level are compared. An edge weighs by the finest level shared: 1 for
      the finest, `1 / levels` for the coarsest.
    * `multi_view`: several independent sets of projections; rows that share a bucket in any view
      are compared. An edge weighs by the share of views in which its rows meet. The best on data
      without clusters.
    * `mini_batch`: batches with the mixture of the classes; the rows of a batch are compared. An
      edge weighs by the similarity of its rows: `1 / (1 + distance)`, or the cosine.

    Distances are exact in every kind. The same seed gives the same graph for any number of threads
    and on every machine. Options that a kind does not have are refused.

    Args:
        features: float32 of shape (rows, columns), finite.
        kind: What is built.
        neighbours: Neighbours of each row; fewer where a row meets fewer others. With a
            `percentile` it does not count.
        metric: "euclidean", "manhattan" or "cosine" (1 - cosine; a row of zeros is at distance 1
            from every row that has a direction, and at 0 from other rows of zeros).
        labels: `mini_batch`: one class a row; without it all rows are of one class.
        batch_rows: `mini_batch`: the most rows of a batch, 2 to 16384.
        overlap: `mini_batch`: the share of its rows that a batch has in common with the next, 0 to
            0.95.
        percentile: `mini_batch`: link all pairs whose similarity is strictly above this percentile
            of those of their batch, 0 to 100, instead of nearest neighbours.
        levels: `multi_level`: how many; a bucket of the coarsest has at most
            `bucket_cap * 2 ** (levels - 1)` rows.
        views: `multi_view`: how many; more find more true neighbours and take longer.
        view_columns: `multi_view`: the share of the columns that each view looks at, above 0 and at
            most 1. Distances are over all columns.
        bits: Hashing kinds: the most projections a code is made of, 1 to 64.
        family: Hashing kinds: "sign" (sides of random hyperplanes) or "p_stable" (cells).
        width: Width of the cells of "p_stable", in the units of the features; for "cosine", of the
            rows divided by their lengths.
        projections: Hashing kinds: "gaussian" or "sparse" random directions.
        bucket_cap: Hashing kinds: the most rows of a bucket; by default 256, in `multi_view` 512,
            and in `multi_level`, where it is that of the finest level, 128.
        probes: `single_level`: buckets that each row looks into besides its own, 16 by default.
        refinements: `single_level`: rounds in which rows move to the nearest bucket, 4 by default.
        descents: All but `exact`: rounds that look at the neighbours of neighbours. No path leads
            out of a bucket of the coarsest level or a batch without overlap, so there it adds
            little or nothing.
        seed: Key of all draws.

    Returns:
        The graph, with `weights` in `multi_level`, `multi_view` and `mini_batch`. An edge that
        `descents` found may have the weight 0 in the first two. `stats` also holds `kind`.

    Raises:
        InvalidArgumentError: An argument is out of range or does not apply to the kind.
        DataError: A feature is NaN or infinite; a label is missing.

    Source:
        Rustamov, Zaitouny, Zaki: Scalable Graph Attention-based Instance Selection via Mini-Batch
        Sampling and Hierarchical Hashing (arXiv 2502.20293). Dong, Moses, Li: Efficient k-nearest
        neighbor graph construction for generic similarity measures (WWW 2011), for `descents`.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import neighbour_graph
        >>> features = np.array([[0, 1], [0, 2], [5, 0]], np.float32)
        >>> graph = neighbour_graph(features, kind="exact", neighbours=1, metric="cosine")
        >>> graph.neighbours, graph.distances
        (array([1, 0, 0], dtype=int32), array([0., 0., 1.], dtype=float32))
    """
    given = {name: value for name, value in locals().items() if name in _DEFAULTS}
    if not isinstance(kind, str) or kind not in KIND_OPTIONS:
        raise InvalidArgumentError(f"kind is {kind!r}; expected one of {', '.join(KIND_OPTIONS)}")
    for name, value in given.items():
        default = _DEFAULTS[name]
        is_default = value is None if default is None else value == default
        if name not in KIND_OPTIONS[kind] and not is_default:
            having = ", ".join(other for other, options in KIND_OPTIONS.items() if name in options)
            raise InvalidArgumentError(
                f"{name} does not apply to kind {kind!r}, only to {having}; leave it out"
            )
    if given["bucket_cap"] is None and kind in _CAPS:
        given["bucket_cap"] = _CAPS[kind]
    if labels is not None:
        given["labels"] = _codes(labels)
    try:
        offsets, targets, distances, weights, stats = _native.neighbour_graph(
            features,
            kind=kind,
            neighbours=neighbours,
            metric=metric,
            seed=seed,
            **{name: value for name, value in given.items() if value is not None},
        )
    except (TypeError, OverflowError) as error:
        raise InvalidArgumentError(f"neighbour_graph: {' '.join(str(error).split())}") from None
    counted: dict[str, Any] = {"kind": kind, **stats}
    return Graph(offsets, targets, distances, counted, weights, metric)


def _codes(labels: Any) -> NDArray[np.uint32]:
    return np.ascontiguousarray(encode_labels(labels).codes, dtype=np.uint32)
