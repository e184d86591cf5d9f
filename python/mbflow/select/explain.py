"""Why a row was kept or dropped: which kept row stands for it, and what lies on the other side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow import _native
from mbflow.errors import InvalidArgumentError
from mbflow.select.columns import feature_matrix
from mbflow.select.labels import encode_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Explanation", "explain_selection", "flat_points"]

_STREAM_POINTS = 0x5E1_00030
_SHOWN = 2000


@dataclass(frozen=True)
class Explanation:
    """What each row's place in a selection is.

    Attributes:
        kept: bool of shape (rows,).
        representatives: int64 of shape (rows,): the kept row of the same class that stands for each
            row; a kept row stands for itself. -1 where the class keeps none.
        distances: float32 of shape (rows,): from each row to its representative; NaN without one.
        stands_for: int64 of shape (rows,): how many dropped rows a kept row stands for; 0 for
            dropped rows.
        nearest_other: int64 of shape (rows,): for a kept row the nearest kept row of another class;
            -1 for dropped rows and where there is none.
        other_distances: float32 of shape (rows,): how far that is; NaN where there is none.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import explain_selection
        >>> features = np.array([[0.0], [0.1], [1.0]], np.float32)
        >>> why = explain_selection(features, ["a", "a", "b"], indices=np.array([0, 2]))
        >>> why.representatives, why.stands_for, why.nearest_other
        (array([0, 0, 2]), array([1, 0, 0]), array([ 2, -1,  0]))
    """

    kept: NDArray[np.bool_]
    representatives: NDArray[np.int64]
    distances: NDArray[np.float32]
    stands_for: NDArray[np.int64]
    nearest_other: NDArray[np.int64]
    other_distances: NDArray[np.float32]


def explain_selection(
    features: NDArray[np.float32],
    labels: Any,
    *,
    indices: NDArray[np.int64],
    representatives: NDArray[np.int64] | None = None,
) -> Explanation:
    """For every row the kept row that stands for it; for kept rows the nearest of another class.

    Args:
        features: float32 of shape (rows, columns), finite.
        labels: Class label of each row (see `encode_labels`).
        indices: The kept rows: their numbers, or a boolean mask of all rows.
        representatives: The kept row that stands for each row, where the selector knows it (as
            `coverage_rows` does); by default the nearest kept row of the same class.

    Returns:
        One entry a row.

    Raises:
        InvalidArgumentError: Lengths differ, or an index is no row.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import explain_selection
        >>> features = np.array([[0.0], [0.4], [1.0]], np.float32)
        >>> explain_selection(features, [0, 0, 0], indices=np.array([0, 2])).representatives
        array([0, 0, 2])
    """
    encoded = encode_labels(labels)
    features = feature_matrix(features, len(encoded.codes))
    rows = len(features)
    given = np.asarray(indices)
    if given.dtype.kind == "b" and given.shape == (rows,):
        given = np.flatnonzero(given)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise InvalidArgumentError(
            f"indices are of type {given.dtype} and shape {given.shape}; expected row numbers, "
            f"or a boolean mask of {rows} rows"
        )
    chosen = np.unique(given.astype(np.int64))
    if len(chosen) and not 0 <= chosen[0] <= chosen[-1] < rows:
        raise InvalidArgumentError(f"indices hold a number that is none of the {rows} rows")
    kept = np.zeros(rows, np.bool_)
    kept[chosen] = True
    stands = np.full(rows, -1, np.int64)
    distances = np.full(rows, np.nan, np.float32)
    other = np.full(rows, -1, np.int64)
    other_distances = np.full(rows, np.nan, np.float32)
    if representatives is not None:
        stands[:] = _representatives(representatives, kept)
        known = np.flatnonzero(stands >= 0)
        gaps = features[known] - features[stands[known]]
        distances[known] = np.sqrt(np.einsum("ij,ij->i", gaps, gaps))
    chosen_codes = encoded.codes[chosen]
    by_class = np.argsort(encoded.codes, kind="stable")
    members = np.split(by_class, np.cumsum(encoded.sizes)[:-1])
    for code, group in enumerate(members):
        own, others = chosen[chosen_codes == code], chosen[chosen_codes != code]
        if len(own) and representatives is None:
            nearest, distances[group] = _native.nearest_rows(features[own], features[group])
            stands[group] = own[nearest]
        if len(own) and len(others):
            nearest, other_distances[own] = _native.nearest_rows(features[others], features[own])
            other[own] = others[nearest]
    stands[chosen] = chosen
    distances[chosen] = 0.0
    dropped = stands[~kept]
    counts = np.bincount(dropped[dropped >= 0], minlength=rows).astype(np.int64)
    return Explanation(kept, stands, distances, counts, other, other_distances)


def _representatives(given: Any, kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    rows = len(kept)
    found = np.asarray(given)
    if found.shape != (rows,) or found.dtype.kind not in "iu":
        raise InvalidArgumentError(
            f"representatives are of type {found.dtype} and shape {found.shape}; expected the "
            f"number of a kept row, or -1, for each of the {rows} rows"
        )
    wrong = (found < -1) | (found >= rows)
    wrong |= ~wrong & (found >= 0) & ~kept[np.where(wrong, 0, found)]
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InvalidArgumentError(
            f"representatives: row {row} is represented by {found[row]}, which is no kept row"
        )
    return found.astype(np.int64)


def flat_points(
    features: NDArray[np.float32],
    codes: NDArray[np.int64],
    *,
    kept: NDArray[np.bool_],
    seed: int = 0,
) -> dict[str, Any]:
    """Up to 2,000 dropped and 2,000 kept rows on the two principal axes of both, for a picture.

    Args:
        features: float32 of shape (rows, columns).
        codes: Class of each row.
        kept: Whether each row was kept.
        seed: Key of the sample.

    Returns:
        `series` as `mbflow.chart.scatter` takes them, and `share`: the part of the variance that
        the two axes show.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.explain import flat_points
        >>> features = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 1.0]], np.float32)
        >>> points = flat_points(features, np.array([0, 0, 1]), kept=np.array([True, False, True]))
        >>> [series["name"] for series in points["series"]], len(points["series"][1]["x"])
        (['dropped', 'kept'], 2)
    """
    order = _native.permutation(seed, _STREAM_POINTS, len(features))
    shown = [order[~kept[order]][:_SHOWN], order[kept[order]][:_SHOWN]]
    drawn = np.concatenate(shown)
    values = features[drawn].astype(np.float64)
    values -= values.mean(axis=0)
    # Of the smaller of the two Gram matrices, so that wide data is no harder than long data.
    axes, share = _principal(values)
    flat = values @ axes
    series = []
    for name, rows, points in zip(
        ("dropped", "kept"), shown, np.split(flat, [len(shown[0])]), strict=True
    ):
        series.append(
            {
                "name": name,
                "x": [round(float(x), 4) for x in points[:, 0]],
                "y": [round(float(y), 4) for y in points[:, 1]],
                "group": codes[rows].tolist(),
            }
        )
    return {"series": series, "share": share}


def _principal(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """The two directions of largest variance, (columns, 2), and their share of it."""
    rows, columns = values.shape
    if columns <= rows:
        spread, vectors = np.linalg.eigh(values.T @ values)
        axes = vectors[:, ::-1][:, :2]
    else:
        spread, vectors = np.linalg.eigh(values @ values.T)
        axes = values.T @ vectors[:, ::-1][:, :2]
        lengths = np.linalg.norm(axes, axis=0)
        axes = axes / np.where(lengths > 0.0, lengths, 1.0)
    if axes.shape[1] < 2:
        axes = np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))
    # An axis may point either way: its largest entry is positive, so that pictures agree.
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    total = float(spread.sum())
    share = float(spread[::-1][:2].sum() / total) if total > 0.0 else 1.0
    return axes * np.where(signs == 0.0, 1.0, signs), min(1.0, share)
