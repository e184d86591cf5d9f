"""How features are held: float32, float16, bfloat16, or int8 with a scale for each row.

Example:
    >>> import numpy as np
    >>> from mbflow.graph.feature_values import encode
    >>> rows, scales = encode(np.array([[127.0, -254.0]]), "int8")
    >>> rows.tolist(), scales.tolist()
    ([[64, -127]], [2.0])
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.errors import DataError, InvalidArgumentError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = ["DTYPES", "aligned", "check_dtype", "encode", "matrix"]

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    # NumPy has no bfloat16: its bits.
    "bfloat16": np.dtype(np.uint16),
    "int8": np.dtype(np.int8),
}
"""The types that features can be held in, with those of the arrays that hold them."""

_ADVICE = {
    "float32": "scale the column",
    "float16": "hold it as float32 or bfloat16, or scale the column",
    "bfloat16": "hold it as float32, or scale the column",
}
_HUGE = 1 << 21
"""Bytes of a large page."""


def check_dtype(dtype: Any) -> str:
    """Refuse what is no type for features.

    Raises:
        InvalidArgumentError: Naming those that there are.

    Example:
        >>> from mbflow.graph.feature_values import check_dtype
        >>> check_dtype("float16")
        'float16'
    """
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InvalidArgumentError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    return dtype


def aligned(rows: int, columns: int, dtype: str) -> NDArray[Any]:
    """Memory for a table, cleared, that begins with a line of 128 bytes.

    Tables of some megabytes begin with a large page and ask the system for such pages: rows are
    read in no order, and each small page costs a look into the page table.

    Args:
        rows: Rows.
        columns: Columns.
        dtype: One of `DTYPES`.

    Returns:
        `[rows, columns]`, of the type in `DTYPES`.

    Example:
        >>> from mbflow.graph.feature_values import aligned
        >>> aligned(3, 5, "float32").ctypes.data % 128
        0
    """
    kind = DTYPES[dtype]
    size = rows * columns * kind.itemsize
    if size == 0:
        return np.zeros((rows, columns), kind)
    large = size >= 2 * _HUGE
    memory = mmap.mmap(-1, size + (_HUGE if large else 0))
    if large and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    buffer = np.frombuffer(memory, np.uint8)
    first = -buffer.ctypes.data % _HUGE if large else 0
    return buffer[first : first + size].view(kind).reshape(rows, columns)


def encode(
    values: NDArray[Any], dtype: str, names: Sequence[str] = ()
) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Values in the type that they are to be held in, rounded to the nearest, ties to even.

    Args:
        values: `[rows, columns]`, numbers.
        dtype: One of `DTYPES`.
        names: The columns' names for messages, or the one of a column of lists.

    Returns:
        The rows, of the type in `DTYPES`, and for int8 the scale of each row, float32: a value is
        its integer times the scale, which is the largest magnitude of the row over 127.

    Raises:
        DataError: A finite value is beyond what the type holds, or a value of int8 is not finite;
            the message names row and column.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph.feature_values import encode
        >>> encode(np.array([[1.0, 0.1]]), "float16")[0].dtype
        dtype('float16')
    """
    with np.errstate(over="ignore", invalid="ignore"):
        rows: NDArray[Any]
        single = values.astype(np.float32, copy=False)
        if dtype == "int8":
            return _int8(single, names)
        if dtype == "float16":
            # From the values themselves: rounding twice is not rounding once.
            rows = values.astype(np.float16, copy=False)
            lost = np.isinf(rows)
        elif dtype == "bfloat16":
            rows = _bfloat16(single)
            lost = (rows & 0x7FFF) == 0x7F80
        else:
            rows, lost = single, np.isinf(single)
    if lost.any() and (wrong := lost & np.isfinite(values)).any():
        row, column = (int(at[0]) for at in np.nonzero(wrong))
        raise DataError(
            f"row {row}: {_called(column, names)} is {values[row, column]}, more than {dtype} "
            f"holds; {_ADVICE[dtype]}",
            row=row,
        )
    return rows, None


def _called(column: int, names: Sequence[str]) -> str:
    if len(names) > 1:
        return f"column `{names[column]}`"
    return f"entry {column} of column `{names[0]}`" if names else f"column {column}"


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + (bits >> 16 & 1))) >> 16
    # Adding could carry a NaN over to another number.
    quiet = (bits >> 16) | 0x40
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)


def _int8(
    values: NDArray[np.float32], names: Sequence[str]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    finite = np.isfinite(values)
    if not finite.all():
        row, column = (int(at[0]) for at in np.nonzero(~finite))
        raise DataError(
            f"row {row}: {_called(column, names)} is {values[row, column]}; int8 holds finite "
            "numbers only: fill it, or hold the features as float32, float16 or bfloat16",
            row=row,
        )
    most = np.abs(values).max(axis=1, initial=0.0)
    scales = (most / np.float32(127)).astype(np.float32)
    steps = values / np.where(scales == 0, np.float32(1), scales)[:, None]
    return np.clip(np.rint(steps), -127, 127).astype(np.int8), scales


def matrix(table: pa.Table, names: Sequence[str], width: int | None) -> NDArray[Any]:
    """Columns of numbers, or one column of lists of numbers, as a matrix.

    Args:
        table: The table.
        names: The columns.
        width: Entries that lists must have; None where it is not known yet.

    Returns:
        `[rows, columns]`: float64 where a column is of float64 or of integers beyond 16 bits, else
        float32.

    Raises:
        DataError: A column is of another type, a value is null, or lists differ in length; with
            the row.

    Example:
        >>> import pyarrow as pa
        >>> from mbflow.graph.feature_values import matrix
        >>> matrix(pa.table({"x": [[1.0, 2.0], [3.0, 4.0]]}), ["x"], None).tolist()
        [[1.0, 2.0], [3.0, 4.0]]
    """
    import pyarrow as pa

    if len(names) == 1 and _is_list(table.schema.field(names[0]).type):
        return _lists(table[names[0]].combine_chunks(), names[0], width)
    columns = []
    for name in names:
        column = table[name].combine_chunks()
        array = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
        _refuse_null(array, f"column `{name}`")
        columns.append(_numbers(array, name))
    return np.stack(columns, axis=1)


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _refuse_null(array: pa.Array, what: str, per_row: int = 1) -> None:
    if array.null_count:
        import pyarrow.compute as pc

        row = int(pc.index(pc.is_null(array), value=True).as_py()) // per_row
        raise DataError(f"row {row}: {what} is null; expected numbers in each row", row=row)


def _numbers(array: pa.Array, name: str) -> NDArray[Any]:
    import pyarrow as pa

    kind = array.type
    if pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    elif pa.types.is_decimal(kind):
        array = array.cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(
            f"the column `{name}` is {kind}; expected numbers, or one column of lists of numbers"
        )
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values.astype(np.result_type(values.dtype, np.float32), copy=False)


def _lists(array: Any, name: str, width: int | None) -> NDArray[Any]:
    import pyarrow.compute as pc

    _refuse_null(array, f"column `{name}`")
    lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
    if width is None:
        width = int(lengths[0]) if len(lengths) else 0
    wrong = np.flatnonzero(lengths != width)
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"row {row}: column `{name}` has {int(lengths[row])} entries, and {width} in the rows "
            "before; expected as many in each row",
            row=row,
        )
    values = array.flatten()
    _refuse_null(values, f"an entry of column `{name}`", max(1, width))
    return _numbers(values, name).reshape(len(lengths), width)
