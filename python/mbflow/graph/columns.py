"""Columns of an edge list: node ids, weights, types and times, checked and of the types of a graph.

Example:
    >>> import numpy as np
    >>> from mbflow.graph.columns import id_columns
    >>> [column.dtype.name for column in id_columns([0, 1], np.array([1, 2], np.int16))]
    ['int64', 'int64']
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.errors import DataError, InvalidArgumentError

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

__all__ = [
    "edge_times",
    "edge_types",
    "edge_weights",
    "id_columns",
    "seed_times",
    "sparse_ids",
    "time_values",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FINER = ("ns", "ps", "fs", "as")
_TOO_LARGE = re.compile(r"((?:source|target) \d+; expected ids from 0 to \d+)(?:; for larger .*)?$")
_AS_THEY_ARE = (np.int64, np.uint32, np.int32, np.uint64)
_MOST_TYPES = 1 << 16


def _array(values: Any, what: str) -> NDArray[Any]:
    """One dimension of values of one type; nulls are refused."""
    if isinstance(values, np.ndarray):
        if isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any():
            row = int(np.ma.getmaskarray(values).ravel().argmax())
            raise DataError(f"{what}: row {row} is masked; expected a value in each row", row=row)
        array = np.asarray(values)
    elif isinstance(values, list | tuple | range):
        try:
            array = np.array(values) if len(values) else np.empty(0, np.int64)
        except ValueError:
            raise InvalidArgumentError(
                f"{what}: a list of lists of several lengths; expected one dimension"
            ) from None
    else:
        from mbflow.arrow import to_series

        series = to_series(values, name=what)
        if series.null_count():
            row = series.is_null().arg_max() or 0
            raise DataError(f"{what}: null in row {row}; expected a value in each row", row=row)
        array = _numpy(series)
    if array.dtype.kind == "O":
        missing = np.array([value is None for value in array.ravel()], bool)
        if missing.any():
            row = int(missing.argmax())
            raise DataError(f"{what}: null in row {row}; expected a value in each row", row=row)
    if array.ndim != 1:
        raise InvalidArgumentError(
            f"{what}: an array of shape {array.shape}; expected one dimension"
        )
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _numpy(series: pl.Series) -> NDArray[Any]:
    """A column without nulls; dates and times of any zone as datetime64 in UTC."""
    import polars as pl

    if isinstance(series.dtype, pl.Date | pl.Datetime):
        unit = "D" if isinstance(series.dtype, pl.Date) else series.dtype.time_unit
        return series.to_physical().to_numpy().astype(np.int64).view(f"datetime64[{unit}]")
    return series.to_numpy()


def _kind(values: NDArray[Any]) -> str:
    """What an array holds, in words for a message."""
    if values.dtype.kind in "UT":
        return "holds text"
    if values.dtype.kind == "O" and len(values):
        first = values[0]
        return "holds text" if isinstance(first, str) else f"of type {type(first).__name__}"
    return f"of type {values.dtype}"


def _refuse(values: NDArray[Any], wrong: NDArray[np.bool_], what: str, expected: str) -> None:
    """Say which row is the first wrong one, if any is."""
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(f"{what}: {values[row]} in row {row}; expected {expected}", row=row)


def _integers(values: Any, what: str) -> NDArray[Any]:
    array = _array(values, what)
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind == "f":
        _refuse(array, array != np.floor(array), what, "integers")
        raise DataError(
            f"{what}: of type {array.dtype}; expected integers, since not every id above 2^24 "
            "(float32) or 2^53 (float64) is one of these; convert the column where it is made"
        )
    held = _kind(array)
    advice = "; map names to ids with `mbflow.graph.NodeIds`" if held == "holds text" else ""
    raise DataError(f"{what}: {held}; expected integers{advice}")


def id_columns(
    sources: Any, targets: Any, *, names: tuple[str, str] = ("sources", "targets")
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both ends of the edges as integers of one type that the kernels take.

    Args:
        sources: Integers: a NumPy array, a list, or a column that `mbflow.arrow.to_series` takes.
        targets: As many.
        names: How messages call them.

    Returns:
        Two arrays of one type: int32, int64, uint32 or uint64; what has such a type is not copied.

    Raises:
        DataError: A null, a float, text; `row` says where.
        InvalidArgumentError: There are not as many targets as sources, or they are no columns.

    Example:
        >>> from mbflow.graph.columns import id_columns
        >>> id_columns([0.5], [1])
        Traceback (most recent call last):
        ...
        mbflow.errors.DataError: sources: 0.5 in row 0; expected integers
    """
    first, second = _integers(sources, names[0]), _integers(targets, names[1])
    if len(first) != len(second):
        raise InvalidArgumentError(
            f"{names[1]}: {len(second)} values; expected {len(first)}, one for each of {names[0]}"
        )
    if first.dtype == second.dtype and first.dtype.type in _AS_THEY_ARE:
        return first, second
    return _as_int64(first, names[0]), _as_int64(second, names[1])


def _as_int64(values: NDArray[Any], what: str) -> NDArray[np.int64]:
    if values.dtype == np.uint64:
        _refuse(values, values >= np.uint64(1 << 63), what, "ids below 2^32 - 1")
    return values.astype(np.int64, copy=False)


@contextmanager
def sparse_ids(advice: str) -> Iterator[None]:
    """Within this, errors of ids that look sparse end with what to do about them.

    Args:
        advice: It.

    Example:
        >>> from mbflow.errors import DataError
        >>> from mbflow.graph.columns import sparse_ids
        >>> with sparse_ids("map them"):
        ...     raise DataError("row 0: source 9; expected ids from 0 to 4")
        Traceback (most recent call last):
        ...
        mbflow.errors.DataError: row 0: source 9; expected ids from 0 to 4; map them
    """
    try:
        yield
    except DataError as error:
        text = str(error)
        found = _TOO_LARGE.search(text)
        if found is None:
            raise
        raise DataError(f"{text[: found.start()]}{found[1]}; {advice}", row=error.row) from None


def _counted(values: NDArray[Any], edges: int, what: str) -> None:
    if len(values) != edges:
        raise InvalidArgumentError(
            f"{what}: {len(values)} values; expected {edges}, one for each edge"
        )


def edge_weights(values: Any, edges: int, *, name: str = "weights") -> NDArray[np.float32]:
    """Weights as float32.

    Args:
        values: Numbers; what is no float32 is rounded to one.
        edges: How many are expected.
        name: How messages call them.

    Returns:
        `float32 [edges]`, all finite.

    Raises:
        DataError: A weight is NaN or infinite; `row` says where.
        InvalidArgumentError: There are not as many weights as edges.

    Example:
        >>> from mbflow.graph.columns import edge_weights
        >>> edge_weights([1, float("nan")], 2)
        Traceback (most recent call last):
        ...
        mbflow.errors.DataError: weights: nan in row 1; expected a finite number (float32)
    """
    array = _array(values, name)
    if array.dtype.kind not in "iufb":
        raise DataError(f"{name}: {_kind(array)}; expected numbers")
    _counted(array, edges, name)
    with np.errstate(over="ignore"):
        weights = array.astype(np.float32, copy=False)
    # A sum is finite where all are, and looked at without another array of this size.
    if not np.isfinite(weights.sum(dtype=np.float64)):
        _refuse(array, ~np.isfinite(weights), name, "a finite number (float32)")
    return weights


def edge_types(values: Any, edges: int, *, name: str = "types") -> NDArray[np.uint16]:
    """Types as uint16.

    Args:
        values: Integers from 0 to 65,535.
        edges: How many are expected.
        name: How messages call them.

    Returns:
        `uint16 [edges]`.

    Raises:
        DataError: A type is out of range; `row` says where.
        InvalidArgumentError: There are not as many types as edges.

    Example:
        >>> from mbflow.graph.columns import edge_types
        >>> edge_types([0, 70_000], 2)
        Traceback (most recent call last):
        ...
        mbflow.errors.DataError: types: 70000 in row 1; expected 0 to 65535
    """
    array = _integers(values, name)
    _counted(array, edges, name)
    if array.dtype != np.uint16:
        _refuse(array, (array < 0) | (array >= _MOST_TYPES), name, "0 to 65535")
    return array.astype(np.uint16, copy=False)


def edge_times(values: Any, edges: int, *, name: str = "times") -> NDArray[np.int64]:
    """Times as int64, of one unit for dates and times of any kind.

    Args:
        values: What `time_values` takes.
        edges: How many are expected.
        name: How messages call them.

    Returns:
        `int64 [edges]`.

    Raises:
        DataError: A time is missing or does not fit; `row` says where.
        InvalidArgumentError: There are not as many times as edges.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph.columns import edge_times
        >>> edge_times(np.array(["1970-01-02"], "datetime64[D]"), 1)
        array([86400000000])
    """
    times = time_values(values, name=name)
    _counted(times, edges, name)
    return times


def seed_times(values: Any, *, name: str = "times") -> NDArray[np.int64]:
    """The times of seeds, in the unit that those of edges have.

    Args:
        values: What `time_values` takes.
        name: How messages call them.

    Returns:
        `int64 [seeds]`.

    Raises:
        InvalidArgumentError: A value is no time, or missing.

    Example:
        >>> from datetime import date
        >>> from mbflow.graph.columns import seed_times
        >>> seed_times([date(1970, 1, 2)])
        array([86400000000])
    """
    try:
        return time_values(values, name=name)
    except DataError as error:
        raise InvalidArgumentError(str(error)) from None


def time_values(values: Any, *, name: str = "times") -> NDArray[np.int64]:
    """Times as int64: integers as they are, dates and times as microseconds since 1970-01-01 UTC.

    So times of different units and zones compare as they should. What is finer than a microsecond
    is rounded down; what has no zone is taken for UTC, and a date for its midnight.

    Args:
        values: Integers; or dates and times of any unit and zone: NumPy datetime64, polars, pandas
            or Arrow columns, or a list of `datetime.date` and `datetime.datetime`. Not both.
        name: How messages call them.

    Returns:
        `int64 [values]`.

    Raises:
        DataError: A time is missing or does not fit, or integers and datetimes are mixed; `row`
            says where.
        InvalidArgumentError: The values are no column.

    Example:
        >>> import numpy as np, polars as pl
        >>> from mbflow.graph.columns import time_values
        >>> time_values(np.array(["1970-01-01T00:00:01"], "datetime64[s]"))
        array([1000000])
        >>> time_values(pl.Series([3]).cast(pl.Datetime("ms", "Asia/Tokyo")))
        array([3000])
        >>> time_values([7])
        array([7])
    """
    array = _array(values, name)
    if array.dtype.kind == "O":
        array = _from_objects(array, name)
    elif array.dtype.kind == "M" and isinstance(values, list | tuple):
        # NumPy would take an integer among them for a number of their unit.
        whole = np.array([isinstance(value, int | np.integer) for value in values])
        _refuse(np.array(values, object), whole, name, "a date or time, as others are")
    if array.dtype.kind == "M":
        return _microseconds(array, name)
    if not len(array):
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iuf":
        raise DataError(
            f"{name}: {_kind(array)}; expected integers, or dates and times of such a type"
        )
    array = _integers(array, name)
    if array.dtype == np.uint64:
        _refuse(array, array >= np.uint64(1 << 63), name, "times below 2^63")
    return array.astype(np.int64, copy=False)


def _microseconds(times: NDArray[Any], what: str) -> NDArray[np.int64]:
    """Of datetime64 of any unit."""
    _refuse(times, np.isnat(times), what, "a time")
    unit, _ = np.datetime_data(times.dtype)
    if unit == "generic":
        raise DataError(f"{what}: of type datetime64 without a unit; expected one, such as [us]")
    with np.errstate(over="ignore"):
        found = times.astype("datetime64[us]")
    if unit not in _FINER:
        fits = "a time within 292,000 years of 1970"
        _refuse(times, found.astype(times.dtype) != times, what, fits)
    return found.view(np.int64)


def _from_objects(values: NDArray[Any], what: str) -> NDArray[Any]:
    """Dates and times of Python as datetime64; what holds none stays as it is."""
    missing = [type(value).__name__ in ("NaTType", "NAType") for value in values]
    _refuse(values, np.array(missing, bool), what, "a value in each row")
    is_time = np.array([isinstance(value, date | np.datetime64) for value in values], bool)
    if not is_time.any():
        return values
    _refuse(values, ~is_time, what, "a date or time, as others are")
    found = [_microsecond(value) for value in values]
    return np.array(found, np.int64).view("datetime64[us]")


def _microsecond(value: Any) -> int:
    if isinstance(value, np.datetime64):
        return int(value.astype("datetime64[us]").astype(np.int64))
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    elif value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return int((value - _EPOCH) // timedelta(microseconds=1))
