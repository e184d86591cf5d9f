"""The cut: the rows with the highest scores, by class, to an exact count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.errors import DataError, InvalidArgumentError
from mbflow.select.labels import Labels, encode_labels
from mbflow.select.strata import kept_count, quotas

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import ArrayLike, NDArray

__all__ = ["keep_rows", "keep_summary", "top_rows"]


def keep_rows(
    scores: ArrayLike,
    labels: Any,
    *,
    fraction: float = 0.04,
    count: int | None = None,
    power: float = 0.75,
) -> NDArray[np.int64]:
    """Keep the rows with the highest scores within each class.

    Args:
        scores: One number a row, higher is kept first; equal scores go by row number.
        labels: Class label of each row (see `encode_labels`).
        fraction: Share of the rows to keep, above 0 and at most 1 (all of them).
        count: Rows to keep; wins over `fraction`. Where it is below the number of classes, one row
            of each class is kept, which is more than asked.
        power: Class quotas are proportional to the class size to this power (see `quotas`).

    Returns:
        Row numbers, int64, ascending.

    Raises:
        InvalidArgumentError: An argument is out of range, or lengths differ.
        DataError: A score is NaN, or a label is missing.

    Example:
        >>> from mbflow.select import keep_rows
        >>> keep_rows([0.1, 0.9, 0.5, 0.5], ["a", "a", "b", "b"], count=2)
        array([1, 2])
    """
    values = np.asarray(scores, dtype=np.float64)
    encoded = encode_labels(labels)
    if values.shape != encoded.codes.shape:
        raise InvalidArgumentError(
            f"scores have shape {values.shape} and there are {len(encoded.codes)} labels; expected "
            "one score for each label"
        )
    if np.isnan(values).any():
        row = int(np.flatnonzero(np.isnan(values))[0])
        raise DataError(f"the score of row {row} is NaN; expected a number", row=row)
    wanted = kept_count(len(values), fraction=fraction, count=count)
    return top_rows(values, encoded, quotas(encoded.sizes, wanted, power=power))


def top_rows(
    values: NDArray[np.floating[Any]], encoded: Labels, shares: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The rows with the highest scores, a given count of each class.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import encode_labels
        >>> from mbflow.select.keep import top_rows
        >>> top_rows(np.array([0.1, 0.9, 0.5]), encode_labels(list("aab")), np.array([1, 0]))
        array([1])
    """
    # The last key sorts first: by class, then by score downwards; a stable sort keeps row order.
    order = np.lexsort((-values, encoded.codes))
    starts = np.concatenate([[0], np.cumsum(encoded.sizes)[:-1]])
    kept = [order[start : start + share] for start, share in zip(starts, shares, strict=True)]
    return np.sort(np.concatenate(kept)).astype(np.int64)


def keep_summary(scores: ArrayLike, labels: Any, indices: NDArray[np.int64]) -> pl.DataFrame:
    """What was kept, by class.

    Args:
        scores: The score of each row.
        labels: Class label of each row.
        indices: The rows kept.

    Returns:
        A row for each class: `class`, `rows`, `kept`, `share` (kept of rows), `mean_score` (of all
        rows of the class) and `mean_score_kept`.

    Example:
        >>> from mbflow.select import keep_rows, keep_summary
        >>> scores, labels = [0.0, 1.0, 0.5], ["a", "a", "b"]
        >>> keep_summary(scores, labels, keep_rows(scores, labels, count=2)).rows()
        [('a', 2, 1, 0.5, 0.5, 1.0), ('b', 1, 1, 1.0, 0.5, 0.5)]
    """
    import polars as pl

    encoded = encode_labels(labels)
    values = np.asarray(scores, dtype=np.float64)
    classes, sizes = len(encoded.classes), encoded.sizes
    chosen = encoded.codes[indices]
    kept = np.bincount(chosen, minlength=classes)
    means = np.bincount(encoded.codes, weights=values, minlength=classes) / sizes
    sums = np.bincount(chosen, weights=values[indices], minlength=classes)
    return pl.DataFrame(
        {
            "class": list(encoded.classes),
            "rows": sizes,
            "kept": kept,
            "share": kept / sizes,
            "mean_score": means,
            "mean_score_kept": sums / np.maximum(kept, 1),
        }
    )
