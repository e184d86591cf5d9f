# ruff: noqa: PYI021  -- the stub is the reference manual: users and editors read its docstrings
"""The kernel that gathers rows of a table in host memory, as they are or converted to float32.

What `mbflow._native` says of its functions goes for these, too. Arrays must be contiguous and of
the type that is stated, and are read and written where they are.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["rows"]

def rows(
    table: NDArray[np.uint8],
    ids: NDArray[np.int64] | NDArray[np.uint64] | NDArray[np.int32] | NDArray[np.uint32],
    out: NDArray[np.uint8] | NDArray[np.float32],
    *,
    kind: Literal["same", "float16", "bfloat16", "int8"] = "same",
    scales: NDArray[np.float32] | None = None,
) -> None:
    """Write `out[i] = table[ids[i]]` for each i; all ids are checked before anything is written.

    Args:
        table: `[rows, bytes of a row]`, the rows of an array of any type as bytes:
            `array.view(numpy.uint8)`. May be read-only, and of no rows or no bytes.
        ids: `[n]`, the number of a row each, from 0 on; they may repeat.
        out: Overwritten. For "same" the rows as they are, `uint8 [n, bytes of a row]`; else
            `float32 [n, values of a row]`. Must not overlap the others.
        kind: What the bytes are: anything, copied as it is ("same"), or numbers that are converted
            to float32. "float16" and "bfloat16" are converted exactly; "int8" is multiplied by the
            scale of its row.
        scales: `[rows]`, with "int8" only.

    Raises:
        InvalidArgumentError: An id is not the number of a row: the first such is named with its
            position, and `out` is as it was. Or a type, a shape or `kind` is not one of the above,
            an array is not contiguous, rows do not hold whole values, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import gather
        >>> table, out = np.arange(6, dtype=np.float32).reshape(3, 2), np.empty((2, 2), np.float32)
        >>> gather.rows(table.view(np.uint8), np.array([2, 0]), out.view(np.uint8))
        >>> out.tolist()
        [[4.0, 5.0], [0.0, 1.0]]
        >>> half = table.astype(np.float16).view(np.uint8)
        >>> gather.rows(half, np.array([1, 1], np.uint32), out, kind="float16")
        >>> out.tolist()
        [[2.0, 3.0], [2.0, 3.0]]
        >>> gather.rows(half, np.array([1, 3]), out, kind="float16")
        Traceback (most recent call last):
        ...
        mbflow.errors.InvalidArgumentError: ids: ids[1] is 3; expected 0 to 2 (the table has 3 rows)
    """
