"""Columns of a frame as float64: what can be a number, and the numbers of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mbflow.errors import DataError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl
    from numpy.typing import NDArray

__all__ = [
    "ColumnTable",
    "Source",
    "column_kind",
    "column_type",
    "feature_matrix",
    "float_matrix",
    "sources_of",
]

# Beyond this, sums and ranges of float64 overflow.
_LARGEST = 1e300


@dataclass(frozen=True)
class Source:
    """A column of numbers before scaling: a whole column, or one element of a vector column.

    Example:
        >>> from mbflow.select.columns import Source
        >>> Source("embedding", 3, "vector").element
        3
    """

    column: str
    element: int | None
    kind: str


@dataclass(frozen=True)
class ColumnTable:
    """Columns by name: looking a column up in a frame takes time that grows with its width.

    Example:
        >>> import polars as pl
        >>> from mbflow.select.columns import ColumnTable
        >>> ColumnTable.of(pl.DataFrame({"a": [1, 2]})).rows
        2
    """

    columns: dict[str, pl.Series]
    rows: int

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Self:
        """The columns of a frame."""
        return cls({series.name: series for series in frame.get_columns()}, frame.height)


def column_kind(series: pl.Series) -> str:
    """What a column is to the encoder: "number", "boolean", "text", "time", "vector" or "empty".

    Raises:
        DataError: The type is no feature.

    Example:
        >>> import polars as pl
        >>> from mbflow.select.columns import column_kind
        >>> column_kind(pl.Series("a", ["x"]))
        'text'
    """
    import polars as pl

    dtype = series.dtype
    if dtype == pl.Null:
        return "empty"
    if dtype == pl.Boolean:
        return "boolean"
    if dtype.is_decimal() or dtype.is_numeric():
        return "number"
    if dtype.is_temporal():
        return "time"
    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        return "text"
    if isinstance(dtype, pl.Array) and len(dtype.shape) == 1 and _plain(dtype.inner):
        return "vector"
    raise DataError(
        f"column {series.name!r} is of type {dtype}, which is no feature; expected numbers, "
        "booleans, text, categories, dates or fixed-size lists of numbers: leave the column out "
        "with `columns`, or turn it into one of these"
    )


def column_type(series: pl.Series) -> str:
    """What the values of a column are, closer than its kind: values of two types do not compare.

    Raises:
        DataError: The type is no feature.

    Example:
        >>> import datetime
        >>> import polars as pl
        >>> from mbflow.select.columns import column_type
        >>> column_type(pl.Series("a", [datetime.date(2020, 1, 1)]))
        'dates'
    """
    import polars as pl

    kind = column_kind(series)
    if kind == "time":
        names = {pl.Date: "dates", pl.Datetime: "datetimes", pl.Duration: "durations"}
        return names.get(series.dtype.base_type(), "times of day")
    if kind == "vector":
        return f"lists of {series.dtype.shape[0]} numbers"  # type: ignore[attr-defined]
    return {"number": "numbers", "boolean": "booleans"}.get(kind, kind)


def feature_matrix(features: Any, rows: int) -> NDArray[np.float32]:
    """Encoded features as a matrix, with its values checked: an error names the row given here.

    Args:
        features: Numbers of shape (rows, columns).
        rows: The number of labels.

    Returns:
        float32 of shape (rows, columns), C order.

    Raises:
        InvalidArgumentError: It is no such matrix.
        DataError: A value is NaN or infinite.

    Example:
        >>> from mbflow.select.columns import feature_matrix
        >>> feature_matrix([[1, 2]], 1)
        array([[1., 2.]], dtype=float32)
    """
    try:
        with np.errstate(over="ignore"):
            matrix = np.ascontiguousarray(features, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"features are no matrix of numbers: {error}; encode tables with FeatureEncoder"
        ) from error
    if matrix.ndim != 2 or len(matrix) != rows:
        raise InvalidArgumentError(
            f"features have shape {matrix.shape} and there are {rows} labels; expected a row for "
            "each label"
        )
    finite = np.isfinite(matrix)
    if not finite.all():
        row, column = (int(place[0]) for place in np.nonzero(~finite))
        raise DataError(
            f"features: row {row}, column {column} is {matrix[row, column]} in float32; expected "
            "finite numbers (FeatureEncoder fills what is missing)",
            row=row,
        )
    return matrix


def _plain(dtype: Any) -> bool:
    import polars as pl

    return dtype == pl.Boolean or bool(dtype.is_numeric())


def sources_of(series: pl.Series, kind: str) -> list[Source]:
    """The columns of numbers in a column: itself, or one for each element of a vector column.

    Example:
        >>> import polars as pl
        >>> from mbflow.select.columns import sources_of
        >>> series = pl.Series("a", [[1, 2]], dtype=pl.Array(pl.Int64, 2))
        >>> [source.element for source in sources_of(series, "vector")]
        [0, 1]
    """
    if kind != "vector":
        return [Source(series.name, None, kind)]
    width: int = series.dtype.shape[0]  # type: ignore[attr-defined]
    return [Source(series.name, element, kind) for element in range(width)]


def float_matrix(
    table: ColumnTable, columns: Sequence[tuple[str, int | None]]
) -> NDArray[np.float64]:
    """Columns side by side as numbers; a missing value (null or NaN) is NaN.

    Args:
        table: The columns.
        columns: Name and, for a vector column, element of each.

    Returns:
        float64 of shape (rows, columns), Fortran order.

    Raises:
        DataError: A value is infinite or beyond 1e300, or a column is not of numbers.

    Example:
        >>> import polars as pl
        >>> from mbflow.select.columns import ColumnTable, float_matrix
        >>> float_matrix(ColumnTable.of(pl.DataFrame({"a": [1, None]})), [("a", None)])
        array([[ 1.],
               [nan]])
    """
    import polars as pl

    values = np.empty((table.rows, len(columns)), dtype=np.float64, order="F")
    vector: tuple[str, NDArray[np.float64]] | None = None
    for index, (name, element) in enumerate(columns):
        if element is None:
            values[:, index] = _floats(table.columns[name])
            continue
        if table.columns[name].dtype == pl.Null:
            values[:, index] = np.nan
            continue
        if vector is None or vector[0] != name:
            vector = (name, _vectors(table.columns[name]))
        if element >= vector[1].shape[1]:
            raise DataError(
                f"column {name!r} holds lists of {vector[1].shape[1]} numbers; the encoder was "
                "fitted on longer ones"
            )
        values[:, index] = vector[1][:, element]
    largest = np.fmax.reduce(np.abs(values), axis=0, initial=0.0)
    wrong = np.flatnonzero(largest > _LARGEST)
    if len(wrong):
        name, element = columns[int(wrong[0])]
        row = int(np.flatnonzero(np.abs(values[:, wrong[0]]) > _LARGEST)[0])
        value = values[row, wrong[0]]
        inside = "" if element is None else f", element {element}"
        raise DataError(
            f"column {name!r}{inside} holds {value} in row {row}; features must be finite and at "
            f"most {_LARGEST:g} in size: replace the value, or make it null to have the "
            "median filled in",
            row=row,
        )
    return values


def _floats(series: pl.Series) -> NDArray[np.float64]:
    import polars as pl

    dtype = series.dtype
    if isinstance(dtype, pl.Datetime):
        # Frames hold nanoseconds, microseconds or milliseconds; one unit makes them agree.
        series = series.dt.epoch("us")
    elif isinstance(dtype, pl.Duration):
        series = series.dt.total_microseconds()
    elif dtype.is_temporal():
        series = series.to_physical()
    elif not (_plain(dtype) or dtype.is_decimal() or dtype == pl.Null):
        raise DataError(
            f"column {series.name!r} is of type {dtype} here, but held numbers when the encoder "
            "was fitted"
        )
    return series.cast(pl.Float64).to_numpy()


def _vectors(series: pl.Series) -> NDArray[np.float64]:
    """float64 of shape (rows, width) from a column of fixed-size lists; a null list is all NaN."""
    import polars as pl

    if not isinstance(series.dtype, pl.Array):
        raise DataError(
            f"column {series.name!r} is of type {series.dtype} here, but held fixed-size lists "
            "when the encoder was fitted"
        )
    width = series.dtype.shape[0]
    values = np.full((series.len(), width), np.nan)
    present = series.is_not_null().to_numpy()
    inner = series.drop_nulls().explode().cast(pl.Float64).to_numpy()
    values[present] = inner.reshape(-1, width)
    return values
