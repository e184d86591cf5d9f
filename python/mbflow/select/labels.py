"""Class labels of any type as codes `0 .. classes - 1`."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.arrow import to_series
from mbflow.errors import DataError, InvalidArgumentError

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

__all__ = ["LabelIndex", "Labels", "QuantileIndex", "encode_labels", "quantile_labels"]


@dataclass(frozen=True)
class Labels:
    """Class labels as codes.

    Attributes:
        codes: int64 of shape (rows,), each in `0 .. len(classes) - 1`; every class occurs.
        classes: The name of each class: numbers ascending, text in code point order, False then
            True.

    Raises:
        InvalidArgumentError: A code is none of the classes.

    Example:
        >>> from mbflow.select import encode_labels
        >>> labels = encode_labels(["b", "a", "b"])
        >>> labels.classes, labels.codes, labels.sizes
        (('a', 'b'), array([1, 0, 1]), array([1, 2]))
    """

    codes: NDArray[np.int64]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        codes = self.codes
        if len(codes) and not 0 <= codes.min() <= codes.max() < len(self.classes):
            raise InvalidArgumentError(
                f"label codes go from {codes.min()} to {codes.max()}; expected 0 to "
                f"{len(self.classes) - 1}, for {len(self.classes)} classes"
            )

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of each class: int64 of shape (classes,)."""
        return np.bincount(self.codes, minlength=len(self.classes)).astype(np.int64)


def encode_labels(labels: Any, *, name: str = "label", quantiles: int | None = None) -> Labels:
    """Turn a column of class labels into codes.

    Args:
        labels: A column of strings, categories, integers, booleans or floats that are whole
            numbers: NumPy, polars, pandas, pyarrow or a list. `Labels` pass through.
        name: How error messages call the column.
        quantiles: Take them for a numeric target and cut it (see `quantile_labels`).

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
    if isinstance(labels, Labels):
        return labels
    if quantiles is not None:
        return quantile_labels(labels, quantiles, name=name)
    series = _class_values(labels, name)
    classes = series.unique().sort()
    codes = classes.search_sorted(series).to_numpy().astype(np.int64)
    return Labels(codes, tuple(str(value) for value in classes.to_list()))


class LabelIndex:
    """The classes of a label column that comes in pieces; the same as of the whole column.

    Args:
        name: How error messages call the column.

    Example:
        >>> from mbflow.select.labels import LabelIndex
        >>> index = LabelIndex()
        >>> index.add(["b", "c"])
        >>> index.add(["a", "b"])
        >>> index.classes, index.sizes, index.encode(["c", "a"]).codes
        (('a', 'b', 'c'), array([1, 2, 1]), array([2, 0]))
    """

    def __init__(self, *, name: str = "label") -> None:
        self._name = name
        self._counts: pl.DataFrame | None = None

    def add(self, labels: Any) -> None:
        """Count the labels of one piece; raises as `encode_labels` does."""
        import polars as pl

        values = _class_values(labels, self._name).rename("class")
        counts = values.value_counts(name="rows").with_columns(pl.col("rows").cast(pl.Int64))
        if self._counts is not None:
            counts = (
                pl.concat([self._counts, counts], how="vertical_relaxed")
                .group_by("class")
                .agg(pl.col("rows").sum())
            )
        self._counts = counts.sort("class")

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class, in order."""
        return tuple(str(value) for value in self._found["class"].to_list())

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of each class: int64 of shape (classes,)."""
        return self._found["rows"].to_numpy().astype(np.int64)

    @property
    def _found(self) -> pl.DataFrame:
        if self._counts is None:
            raise DataError(f"column {self._name!r} has no rows; expected at least one label")
        return self._counts

    def encode(self, labels: Any) -> Labels:
        """The labels of one piece as codes of the classes of all; a class may be absent from it."""
        known = self._found["class"]
        series = _class_values(labels, self._name).cast(known.dtype)
        return Labels(known.search_sorted(series).to_numpy().astype(np.int64), self.classes)


class QuantileIndex:
    """The strata of a numeric target that comes in pieces; the same as of the whole column.

    Args:
        strata: How many, at least 2; fewer come out where values are equal.
        name: How error messages call the column.

    Raises:
        InvalidArgumentError: `strata` is below 2.

    Example:
        >>> from mbflow.select.labels import QuantileIndex
        >>> index = QuantileIndex(2)
        >>> index.add([3.0, 1.0])
        >>> index.add([2.0, 9.0])
        >>> index.classes, index.sizes, index.encode([1.5, 4.0]).codes
        (('[1, 2.5)', '[2.5, 9]'), array([2, 2]), array([0, 1]))
    """

    def __init__(self, strata: Any, *, name: str = "target") -> None:
        if isinstance(strata, bool) or not isinstance(strata, numbers.Integral) or int(strata) < 2:
            raise InvalidArgumentError(
                f"strata is {strata!r}; expected a whole number of at least 2"
            )
        self._strata = int(strata)
        self._name = name
        self._parts: list[NDArray[np.float64]] = []

    def add(self, targets: Any) -> None:
        """Take in one piece; raises as `quantile_labels` does."""
        self._parts.append(self._values(targets))

    @property
    def classes(self) -> tuple[str, ...]:
        """The range of each stratum, in order."""
        return self._cut[1]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of each stratum: int64 of shape (classes,)."""
        return self._cut[2]

    def encode(self, targets: Any) -> Labels:
        """The targets of one piece as codes of the strata of all; a stratum may be absent."""
        cuts, classes, _ = self._cut
        return Labels(np.searchsorted(cuts, self._values(targets), side="right"), classes)

    @cached_property
    def _cut(self) -> tuple[NDArray[np.float64], tuple[str, ...], NDArray[np.int64]]:
        """The inner edges, the names and the sizes of the strata; the pieces are let go."""
        values = np.concatenate(self._parts)
        self._parts.clear()
        inner = np.unique(np.quantile(values, np.arange(1, self._strata) / self._strata))
        # Where values are equal, a stratum may hold none: those left are numbered without gaps.
        present, sizes = np.unique(np.searchsorted(inner, values, "right"), return_counts=True)
        cuts = inner[present[1:] - 1]
        edges = [values.min(), *cuts, values.max()]
        names = _ranges(edges, 6)
        if len(set(names)) < len(names):
            names = _ranges(edges, 17)
        return cuts, names, sizes.astype(np.int64)

    def _values(self, targets: Any) -> NDArray[np.float64]:
        name = self._name
        series = to_series(targets, name=name)
        if series.len() == 0:
            raise DataError(f"column {name!r} has no rows; expected at least one target")
        if not series.dtype.is_numeric():
            raise DataError(f"column {name!r} is of type {series.dtype}; expected numbers")
        _refuse_missing(series, name)
        values = series.to_numpy().astype(np.float64)
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise DataError(f"column {name!r} holds {values[row]} in row {row}", row=row)
        return values


def _ranges(edges: list[Any], digits: int) -> tuple[str, ...]:
    last = len(edges) - 2
    return tuple(
        f"[{low:.{digits}g}, {high:.{digits}g}{']' if index == last else ')'}"
        for index, (low, high) in enumerate(pairwise(edges))
    )


def quantile_labels(targets: Any, strata: int, *, name: str = "target") -> Labels:
    """Cut a regression target into classes of about equal size, in the order of its values.

    Args:
        targets: A column of finite numbers.
        strata: How many classes, at least 2; fewer come out where values are equal.
        name: How error messages call the column.

    Returns:
        Codes, and classes named by their range, such as `"[0.5, 2)"`.

    Raises:
        InvalidArgumentError: `strata` is below 2.
        DataError: A target is missing or infinite, or no number.

    Example:
        >>> from mbflow.select.labels import quantile_labels
        >>> labels = quantile_labels([3.0, 1.0, 2.0, 9.0], 2)
        >>> labels.codes, labels.classes
        (array([1, 0, 0, 1]), ('[1, 2.5)', '[2.5, 9]'))
    """
    index = QuantileIndex(strata, name=name)
    index.add(targets)
    return index.encode(targets)


def _class_values(labels: Any, name: str) -> pl.Series:
    """The labels as polars values that sort as classes do."""
    import polars as pl

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
    return series


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
            "numbers, strings or booleans: cut a regression target into classes first, which "
            "`quantiles` does",
            row=row,
        )
    return series.cast(pl.Int64)
