"""Foreign tables and columns at the door: NumPy, polars, pandas, pyarrow, or anything Arrow.

Inside, mbflow works on polars frames and NumPy arrays; this module is where other things become
them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np

from mbflow.errors import DataError, InvalidArgumentError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["ArrowArrayExportable", "ArrowStreamExportable", "to_frame", "to_series"]


@runtime_checkable
class ArrowArrayExportable(Protocol):
    """An object that hands out one Arrow array or record batch by the PyCapsule interface.

    Example:
        >>> import pyarrow
        >>> from mbflow.arrow import ArrowArrayExportable
        >>> isinstance(pyarrow.array([1]), ArrowArrayExportable)
        True
    """

    def __arrow_c_array__(
        self, requested_schema: object | None = None
    ) -> tuple[object, object]: ...


@runtime_checkable
class ArrowStreamExportable(Protocol):
    """An object that hands out a stream of Arrow data by the PyCapsule interface.

    Example:
        >>> import polars
        >>> from mbflow.arrow import ArrowStreamExportable
        >>> isinstance(polars.DataFrame({"a": [1]}), ArrowStreamExportable)
        True
    """

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


def _comes_from(value: object, package: str, name: str) -> bool:
    """Whether a class of `value` is `package`'s `name`, without importing the package."""
    return any(
        kind.__name__ == name and kind.__module__.partition(".")[0] == package
        for kind in type(value).__mro__
    )


def to_frame(table: Any, *, what: str = "the table") -> pl.DataFrame:
    """A polars frame of any table that mbflow takes.

    Args:
        table: A 2-D NumPy array (columns are named `column_0`, `column_1`, ...), a polars or pandas
            frame, a pyarrow table or record batch, or any object with `__arrow_c_stream__` or
            `__arrow_c_array__` that holds a table. The index of a pandas frame is left out.
        what: How error messages name the table.

    Returns:
        The frame; it shares memory with `table` where the layouts allow.

    Raises:
        InvalidArgumentError: `table` is none of these.
        DataError: A column mixes types, or the array is not 2-D.

    Example:
        >>> import numpy as np
        >>> from mbflow.arrow import to_frame
        >>> to_frame(np.zeros((2, 3))).columns
        ['column_0', 'column_1', 'column_2']
    """
    import polars as pl

    if isinstance(table, pl.DataFrame):
        return table
    if isinstance(table, pl.LazyFrame):
        raise InvalidArgumentError(f"{what} is a lazy frame; pass `.collect()` of it instead")
    if isinstance(table, pl.Series) or _comes_from(table, "pandas", "Series"):
        raise InvalidArgumentError(
            f"{what} is a single column ({type(table).__name__}); pass a table, such as "
            "`series.to_frame()`"
        )
    try:
        if _comes_from(table, "pandas", "DataFrame"):
            return pl.from_pandas(table)
        if isinstance(table, np.ndarray):
            return _array_frame(table, what)
        if isinstance(table, ArrowStreamExportable | ArrowArrayExportable):
            return _arrow_frame(table, what)
    # pyarrow's own errors derive from these; what it has no type for is a RuntimeError.
    except (pl.exceptions.PolarsError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, InvalidArgumentError | DataError):
            raise
        raise DataError(
            f"{what} cannot be read as columns of one type each: {_first_line(error)}"
        ) from error
    if not isinstance(table, list | tuple | dict | str | bytes) and hasattr(table, "__array__"):
        return to_frame(_as_array(table, what), what=what)
    raise InvalidArgumentError(
        f"{what} is of type {type(table).__name__}; expected a 2-D NumPy array, a polars or pandas "
        "frame, a pyarrow table or another Arrow table"
    )


def _as_array(values: Any, what: str) -> np.ndarray[Any, Any]:
    """What another library's array holds; a tensor that gradients flow through says how."""
    try:
        return np.asarray(values)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"{what} is no NumPy array and cannot be turned into one: {_first_line(error)}"
        ) from error


def _array_frame(array: np.ndarray[Any, Any], what: str) -> pl.DataFrame:
    import polars as pl

    if array.ndim != 2:
        raise InvalidArgumentError(
            f"{what} is an array of {array.ndim} dimension(s), shape {array.shape}; expected 2-D, "
            "one row per instance"
        )
    if array.dtype.kind == "c":
        raise DataError(
            f"{what} holds complex numbers; pass real and imaginary parts as columns of their own"
        )
    names = [f"column_{index}" for index in range(array.shape[1])]
    # A subclass such as np.matrix has columns of two dimensions.
    array = np.asarray(array)
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    if array.dtype.kind == "O":
        return pl.DataFrame([to_series(array[:, i], name=name) for i, name in enumerate(names)])
    return pl.DataFrame([pl.Series(name, array[:, i]) for i, name in enumerate(names)])


def _arrow_frame(table: ArrowStreamExportable | ArrowArrayExportable, what: str) -> pl.DataFrame:
    import polars as pl

    if _comes_from(table, "pyarrow", "Array") or _comes_from(table, "pyarrow", "ChunkedArray"):
        raise InvalidArgumentError(f"{what} is a single Arrow column; pass a table")
    if _comes_from(table, "pyarrow", "Table") or _comes_from(table, "pyarrow", "RecordBatch"):
        _refuse_unreadable(table)
    return pl.DataFrame(table)


def _refuse_unreadable(table: Any) -> None:
    """Refuse the types on which polars panics instead of raising."""
    for field in table.schema:
        if _is_unreadable(field.type):
            raise DataError(
                f"column {field.name!r} is of type {field.type}, which cannot be read; leave the "
                "column out with `columns`, or turn it into numbers"
            )


def _is_unreadable(kind: Any) -> bool:
    import pyarrow as pa

    empty = pa.types.is_fixed_size_list(kind) and kind.list_size == 0
    if empty or pa.types.is_decimal256(kind):
        return True
    if pa.types.is_dictionary(kind):
        return _is_unreadable(kind.value_type)
    return any(_is_unreadable(kind.field(at).type) for at in range(kind.num_fields))


def to_series(values: Any, *, name: str = "values") -> pl.Series:
    """A polars series of any column that mbflow takes.

    Args:
        values: A 1-D NumPy array, a polars or pandas series, a pyarrow array or chunked array, a
            list or tuple, or any object that exports an Arrow array or stream.
        name: The name of the series, and how error messages call it.

    Returns:
        The series; NaN among objects (as pandas writes missing text) becomes null.

    Raises:
        InvalidArgumentError: `values` is not a column.
        DataError: The values are of mixed types.

    Example:
        >>> from mbflow.arrow import to_series
        >>> to_series(["a", None], name="kind").null_count()
        1
    """
    import polars as pl

    if isinstance(values, pl.Series):
        return values.alias(name)
    try:
        if _comes_from(values, "pandas", "Series") or _comes_from(values, "pandas", "Index"):
            return cast("pl.Series", pl.from_pandas(values)).alias(name)
        if isinstance(values, list | tuple):
            return pl.Series(name, _without_nan(list(values)), strict=True)
        if isinstance(values, np.ndarray):
            values = np.asarray(values)
            if values.ndim != 1:
                raise InvalidArgumentError(
                    f"{name} is an array of shape {values.shape}; expected one dimension, one "
                    "value per row"
                )
            plain = _without_nan(values.tolist()) if values.dtype.kind == "O" else values
            return pl.Series(name, plain, strict=True)
        if isinstance(values, ArrowStreamExportable | ArrowArrayExportable) and not _is_table(
            values
        ):
            pyarrow = _comes_from(values, "pyarrow", "Array")
            pyarrow = pyarrow or _comes_from(values, "pyarrow", "ChunkedArray")
            if pyarrow and _is_unreadable(cast("Any", values).type):
                kind = cast("Any", values).type
                raise DataError(f"{name}: of type {kind}, which cannot be read; convert the values")
            return pl.Series(values).alias(name)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InvalidArgumentError | DataError):
            raise
        raise DataError(
            f"{name} cannot be read as values of one type: {_first_line(error)}"
        ) from error
    if not isinstance(values, dict | str | bytes) and hasattr(values, "__array__"):
        return to_series(_as_array(values, name), name=name)
    raise InvalidArgumentError(
        f"{name} is of type {type(values).__name__}; expected a column: a 1-D NumPy array, a list, "
        "a polars or pandas series, or a pyarrow array"
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _is_table(values: object) -> bool:
    return any(
        kind.__name__ in {"DataFrame", "Table", "RecordBatch"} for kind in type(values).__mro__
    )


def _without_nan(values: list[Any]) -> list[Any]:
    """Among objects that are not all floats, NaN is how pandas and NumPy write a missing value."""
    if all(isinstance(value, float) or value is None for value in values):
        return values
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values]
