"""Class labels of any type as codes `0 .. classes - 1`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.arrow import to_series
from mbflow.errors import DataError

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

__all__ = ["Labels", "encode_labels"]


@dataclass(frozen=True)
class Labels:
    """Class labels as codes.

    Attributes:
        codes: int64 of shape (rows,), each in `0 .. len(classes) - 1`; every class occurs.
        classes: The name of each class: numbers ascending, text in code point order, False then
            True.

    Example:
        >>> from mbflow.select import encode_labels
        >>> labels = encode_labels(["b", "a", "b"])
        >>> labels.classes, labels.codes, labels.sizes
        (('a', 'b'), array([1, 0, 1]), array([1, 2]))
    """

    codes: NDArray[np.int64]
    classes: tuple[str, ...]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of each class: int64 of shape (classes,)."""
        return np.bincount(self.codes, minlength=len(self.classes)).astype(np.int64)


def encode_labels(labels: Any, *, name: str = "label") -> Labels:
    """Turn a column of class labels into codes.

    Args:
        labels: A column of strings, categories, integers, booleans or floats that are whole
            numbers: NumPy, polars, pandas, pyarrow or a list. `Labels` pass through.
        name: How error messages call the column.

    Returns:
        Codes and class names.

    Raises:
        InvalidArgumentError: `labels` is not a column.
        DataError: A label is null, NaN or a fraction, there is no row, or the type is no class
            label.

    Example:
        >>> from mbflow.select import encode_labels
        >>> encode_labels([10, 9, 10]).classes
        ('9', '10')
    """
    import polars as pl

    if isinstance(labels, Labels):
        return labels
    series = to_series(labels, name=name)
    if series.len() == 0:
        raise DataError(f"column {name!r} has no rows; expected at least one label")
    if series.dtype == pl.Null:
        raise DataError(f"column {name!r} holds only nulls; expected a class label in each row")
    _refuse_missing(series, name)
    if series.dtype.is_float():
        series = _whole_numbers(series, name)
    elif isinstance(series.dtype, pl.Categorical | pl.Enum):
        series = series.cast(pl.String)
    elif not (series.dtype in {pl.String, pl.Boolean} or series.dtype.is_integer()):
        raise DataError(
            f"column {name!r} is of type {series.dtype}, which is no class label; expected "
            "strings, categories, integers or booleans"
        )
    classes = series.unique().sort()
    codes = classes.search_sorted(series).to_numpy().astype(np.int64)
    return Labels(codes, tuple(str(value) for value in classes.to_list()))


def _refuse_missing(series: pl.Series, name: str) -> None:
    missing = series.is_null()
    if series.dtype.is_float():
        missing |= series.is_nan().fill_null(value=True)
    count = int(missing.sum())
    if count:
        row = missing.to_list().index(True)
        raise DataError(
            f"column {name!r} has no label (null or NaN) in {count} of {series.len()} rows, first "
            f"in row {row}; drop these rows or give them a class",
            row=row,
        )


def _whole_numbers(series: pl.Series, name: str) -> pl.Series:
    import polars as pl

    # Whole numbers beyond 2^53 are not exact in floats, so two classes could be one.
    bad = (series != series.round(0)) | (series.abs() > 2.0**53)
    if bad.any():
        row = bad.to_list().index(True)
        raise DataError(
            f"column {name!r} holds the number {series[row]} in row {row}; class labels are whole "
            "numbers, strings or booleans, and regression targets are not supported here: cut the "
            "target into classes first",
            row=row,
        )
    return series.cast(pl.Int64)
