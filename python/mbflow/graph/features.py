"""Tables of features whose rows are gathered by node id.

Example:
    >>> import numpy as np
    >>> from mbflow.graph import FeatureStore
    >>> store = FeatureStore.from_array(np.arange(6, dtype=np.float32).reshape(3, 2))
    >>> store.gather([2, 0]).tolist()
    [[4.0, 5.0], [0.0, 1.0]]
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow._native import gather as native
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.graph.edge_files import EdgeFiles, ahead
from mbflow.graph.feature_files import FeatureWriter, StoredFeatures, open_features
from mbflow.graph.feature_values import DTYPES, aligned, check_dtype, encode, matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FeatureStore"]

_PIECE = 1 << 24
"""Bytes that are worked on at a time where a table is written or converted."""
_IDS = (np.int64, np.uint64, np.int32, np.uint32)


class FeatureStore:
    """A table of features, `[rows, columns]`, in memory or mapped from a file; not changed.

    Rows are float32, float16, bfloat16, or int8 with a float32 scale for each row, and are given as
    float32 or as they are held. Make one with `from_parquet`, `from_array` or `open`.

    Attributes:
        dtype: `"float32"`, `"float16"`, `"bfloat16"` or `"int8"`.
        scales: float32 `[rows]` for int8, else None.
        path: The folder that it was opened from or written to, or None.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph import FeatureStore
        >>> store = FeatureStore.from_array(np.ones((4, 3)), dtype="float16")
        >>> store.shape, store.dtype, store.row_bytes, store.base % 128
        ((4, 3), 'float16', 6, 0)

    Source:
        Min et al.: Large Graph Convolutional Network Training with GPU-Oriented Data Communication
        Architecture (arXiv 2103.03330).
    """

    def __init__(
        self,
        rows: NDArray[Any],
        dtype: str,
        scales: NDArray[np.float32] | None = None,
        *,
        stored: StoredFeatures | None = None,
    ) -> None:
        # The constructors have checked what they give.
        self._rows = rows
        self.dtype = dtype
        self.scales = scales
        self._stored = stored
        self.path: Path | None = None if stored is None else stored.path

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = False) -> FeatureStore:
        """Open stored features; nothing is read but the manifest.

        Args:
            path: The folder.
            verify: Read everything and compare it with the checksums.

        Raises:
            DataError: There are no features, or they are damaged; the message names the file.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from mbflow.graph import FeatureStore
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     _ = FeatureStore.from_array(np.eye(2, dtype=np.float32)).save(folder)
            ...     FeatureStore.open(folder, verify=True).gather([1]).tolist()
            [[0.0, 1.0]]
        """
        stored = open_features(path, verify=verify)
        return cls(stored.rows, stored.dtype, stored.scales, stored=stored)

    @classmethod
    def from_array(
        cls, values: Any, *, dtype: str | None = None, scales: Any = None
    ) -> FeatureStore:
        """A table of what is in memory: as it lies there, or as a copy of another type.

        Args:
            values: `[rows, columns]`: a NumPy array, a torch tensor on the CPU, or an Arrow array
                of fixed-size lists.
            dtype: What a copy holds, whose memory begins with a line of 128 bytes (a large page,
                where it is large). Without it nothing is copied, and `values` must be contiguous,
                of one of the four types, and must not change.
            scales: float32 `[rows]`, of int8 that is not copied.

        Returns:
            The table.

        Raises:
            InvalidArgumentError: The shape, type or layout does not fit.
            DataError: A value is beyond what `dtype` holds; the message names row and column.

        Example:
            >>> import numpy as np
            >>> from mbflow.graph import FeatureStore
            >>> table = np.ones((2, 2), np.float32)
            >>> FeatureStore.from_array(table).base == table.ctypes.data
            True
        """
        array, held = _array(values)
        if dtype is None:
            if held not in DTYPES:
                raise InvalidArgumentError(
                    f"values are {held}; expected {', '.join(DTYPES)}, or `dtype` for a copy of "
                    "one of these types"
                )
            if not array.flags.c_contiguous:
                raise InvalidArgumentError(
                    "values are not contiguous, so that rows do not lie one after another; give "
                    "`dtype` for a copy, or lay them out with `numpy.ascontiguousarray`"
                )
            return cls(array, held, _scales(scales, held, len(array)))
        if scales is not None:
            raise InvalidArgumentError(
                "scales are those of int8 that is not copied; leave them out"
            )
        if held != "bfloat16" and array.dtype.kind not in "fiub":
            raise InvalidArgumentError(f"values are {held}; expected numbers")
        rows = aligned(len(array), array.shape[1], check_dtype(dtype))
        copied = np.zeros(len(array), np.float32) if dtype == "int8" else None
        for part in _parts(array):
            try:
                rows[part], found = encode(_numbers(array[part], held), dtype)
            except DataError as error:
                raise _moved(error, part.start) from None
            if copied is not None and found is not None:
                copied[part] = found
        return cls(rows, dtype, copied)

    @classmethod
    def from_parquet(
        cls,
        paths: Any,
        columns: str | Sequence[str],
        *,
        dtype: str = "float32",
        path: str | os.PathLike[str] | None = None,
    ) -> FeatureStore:
        """A table of Parquet files, whose rows follow each other in the order of the files' names.

        Args:
            paths: A file, a folder, a pattern, or a list of these.
            columns: One column of lists of numbers, all as long, or columns of numbers.
            dtype: What the table holds.
            path: A folder to write it to, for tables of any size; without it, it is in memory.

        Returns:
            The table.

        Raises:
            DataError: A file cannot be read, a column is missing or of another type, or a value is
                null or beyond what `dtype` holds; the message names file and row.
            InvalidArgumentError: Something else stands at `path`.

        Example:
            >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
            >>> from mbflow.graph import FeatureStore
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     pq.write_table(pa.table({"x": [[1.0, 2.0], [3.0, 4.0]]}), folder + "/a.parquet")
            ...     FeatureStore.from_parquet(folder, "x", dtype="float16").gather([1]).tolist()
            [[3.0, 4.0]]
        """
        check_dtype(dtype)
        names = [columns] if isinstance(columns, str) else list(columns)
        if not names or len(set(names)) < len(names):
            raise InvalidArgumentError(f"columns are {names}; expected some, each named once")
        files = EdgeFiles.find(paths, what="features")
        files.need(names)
        pieces = ahead(lambda: _pieces(files, names))
        first = next(pieces, None)
        width = (0 if len(names) == 1 else len(names)) if first is None else first[1].shape[1]
        if path is not None:
            with FeatureWriter(path, width, dtype=dtype) as writer:
                for row, values in _chained(first, pieces):
                    with files.naming(row):
                        writer.append(values, names)
                stored = writer.finish()
            return cls(stored.rows, stored.dtype, stored.scales, stored=stored)
        rows = aligned(files.rows, width, dtype)
        scales = np.zeros(files.rows, np.float32) if dtype == "int8" else None
        for row, values in _chained(first, pieces):
            with files.naming(row):
                rows[row : row + len(values)], found = encode(values, dtype, names)
            if scales is not None and found is not None:
                scales[row : row + len(values)] = found
        return cls(rows, dtype, scales)

    def save(self, path: str | os.PathLike[str]) -> FeatureStore:
        """Write the table to a folder, whole or not at all, and open it there.

        Args:
            path: The folder; features that are there are replaced.

        Returns:
            The table, mapped from the folder.

        Raises:
            InvalidArgumentError: Something else stands at `path`.
            ResourceError: The folder cannot be written.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from mbflow.graph import FeatureStore
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     FeatureStore.from_array(np.eye(2), dtype="int8").save(folder).shape
            (2, 2)
        """
        with FeatureWriter(path, self.shape[1], dtype=self.dtype) as writer:
            for part in _parts(self._rows):
                self._refuse_changed()
                scales = None if self.scales is None else self.scales[part]
                writer.append_encoded(self._rows[part], scales)
            stored = writer.finish()
        return type(self)(stored.rows, stored.dtype, stored.scales, stored=stored)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self._rows.shape
        return rows, columns

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.shape[1] * self._rows.dtype.itemsize

    @property
    def base(self) -> int:
        """The address of the first row."""
        return int(self._rows.ctypes.data)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return int(self._rows.nbytes)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else str(self.path)
        rows, columns = self.shape
        return f"FeatureStore({rows:,} x {columns:,} {self.dtype}, {self.nbytes:,} bytes, {where})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._stored is None:
            return FeatureStore, (self._rows, self.dtype, self.scales)
        return _reopen, (str(self.path), self._stored.checksum)

    def gather(self, ids: Any, out: Any = None) -> Any:
        """The rows of some ids, in their order: `out[i] = table[ids[i]]`.

        Args:
            ids: `[n]` integers: a NumPy array, a torch tensor on the CPU, or a list; they may
                repeat.
            out: `[n, columns]` to write to: a contiguous NumPy array or torch tensor of float32, or
                of the type that the table holds where that is a float. Without it a new one of
                float32, of torch where `ids` is a tensor.

        Returns:
            The rows; `out` where it was given.

        Raises:
            InvalidArgumentError: An id is not a row of the table, the first of which is named;
                `ids` or `out` are of another type or shape. Nothing is written then.
            DataError: The file of the table changed since it was opened.

        Example:
            >>> import numpy as np
            >>> from mbflow.graph import FeatureStore
            >>> store = FeatureStore.from_array(np.eye(3), dtype="int8")
            >>> out = np.empty((2, 3), np.float32)
            >>> store.gather(np.array([2, 2]), out) is out
            True
        """
        wanted = _ids(ids)
        if out is None:
            made = np.empty((len(wanted), self.shape[1]), np.float32)
            self._gather(wanted, made, "float32")
            return _torch_like(made) if _is_tensor(ids) else made
        into, held = _array(out, "out")
        if held not in ("float32", self.dtype) or held == "int8":
            kinds = dict.fromkeys(("float32", "float32" if self.dtype == "int8" else self.dtype))
            raise InvalidArgumentError(f"out is {held}; expected {' or '.join(kinds)}")
        if into.shape != (len(wanted), self.shape[1]):
            raise InvalidArgumentError(
                f"out has shape {into.shape}; expected {(len(wanted), self.shape[1])}"
            )
        if not into.flags.c_contiguous or not into.flags.writeable:
            state = "read-only" if into.flags.c_contiguous else "not contiguous"
            raise InvalidArgumentError(f"out is {state}; expected an array that can be written to")
        if np.may_share_memory(into, self._rows):
            raise InvalidArgumentError("out is part of the table; expected memory of its own")
        self._gather(wanted, into, held)
        return out

    def _gather(self, ids: NDArray[Any], out: NDArray[Any], held: str) -> None:
        self._refuse_changed()
        if held == self.dtype:
            native.rows(_bytes(self._rows), ids, _bytes(out))
        else:
            kind: Any = self.dtype
            native.rows(_bytes(self._rows), ids, out, kind=kind, scales=self.scales)

    def _refuse_changed(self) -> None:
        if self._stored is not None:
            self._stored.refuse_changed()


def _bytes(rows: NDArray[Any]) -> NDArray[np.uint8]:
    # Flat first: an array without columns has no other view.
    return rows.reshape(-1).view(np.uint8).reshape(len(rows), rows.shape[1] * rows.dtype.itemsize)


def _reopen(path: str, checksum: str) -> FeatureStore:
    stored = open_features(path, verify=False)
    if stored.checksum != checksum:
        raise DataError(f"{path}: other features than those that were opened stand there now")
    return FeatureStore(stored.rows, stored.dtype, stored.scales, stored=stored)


def _is_tensor(values: Any) -> bool:
    return type(values).__module__.partition(".")[0] == "torch"


def _torch_like(values: NDArray[Any]) -> Any:
    import torch

    return torch.from_numpy(values)


def _array(values: Any, what: str = "values") -> tuple[NDArray[Any], str]:
    """Two dimensions, where they lie, and the name of their type."""
    held = None
    if _is_tensor(values):
        import torch

        if values.device.type != "cpu" or values.layout != torch.strided:
            place = values.device if values.layout == torch.strided else values.layout
            raise InvalidArgumentError(f"{what}: a tensor on {place}; expected one on the CPU")
        values = values.detach()
        if values.dtype == torch.bfloat16:
            held, values = "bfloat16", values.view(torch.int16)
        values = values.numpy()
        values = values.view(np.uint16) if held else values
    elif type(values).__module__.partition(".")[0] == "pyarrow":
        values = _from_arrow(values, what)
    if not isinstance(values, np.ndarray) or values.ndim != 2:
        shown = f"of shape {values.shape}" if hasattr(values, "shape") else type(values).__name__
        raise InvalidArgumentError(f"{what}: {shown}; expected an array of shape (rows, columns)")
    if isinstance(values, np.ma.MaskedArray):
        raise InvalidArgumentError(f"{what}: a masked array; fill it")
    return values, held or (values.dtype.name if values.dtype.isnative else str(values.dtype))


def _from_arrow(values: Any, what: str) -> NDArray[Any]:
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray) and values.num_chunks == 1:
        values = values.chunk(0)
    if not isinstance(values, pa.Array) or not pa.types.is_fixed_size_list(values.type):
        raise InvalidArgumentError(
            f"{what}: {type(values).__name__} of {getattr(values, 'type', 'no type')}; expected an "
            "Arrow array of fixed-size lists, in one chunk"
        )
    if values.null_count or values.flatten().null_count:
        raise InvalidArgumentError(f"{what}: holds nulls; fill them")
    flat: NDArray[Any] = values.flatten().to_numpy(zero_copy_only=True)
    return flat.reshape(len(values), values.type.list_size)


def _numbers(values: NDArray[Any], held: str) -> NDArray[Any]:
    return (values.astype(np.uint32) << 16).view(np.float32) if held == "bfloat16" else values


def _scales(given: Any, held: str, rows: int) -> NDArray[np.float32] | None:
    if held != "int8":
        if given is not None:
            raise InvalidArgumentError(f"scales are those of int8; the values are {held}")
        return None
    scales = given.detach().numpy() if _is_tensor(given) else given
    if not isinstance(scales, np.ndarray) or scales.shape != (rows,) or scales.dtype != np.float32:
        raise InvalidArgumentError(
            f"scales: expected float32 of shape {(rows,)}, one for each row of int8, got "
            f"{getattr(scales, 'dtype', type(scales).__name__)} of {getattr(scales, 'shape', '')}"
        )
    return np.ascontiguousarray(scales)


def _ids(given: Any) -> NDArray[Any]:
    if _is_tensor(given):
        if given.device.type != "cpu":
            raise InvalidArgumentError(f"ids: a tensor on {given.device}; expected one on the CPU")
        given = given.detach().numpy()
    if isinstance(given, np.ma.MaskedArray):
        raise InvalidArgumentError("ids: a masked array; fill it")
    ids = np.asarray(given)
    if ids.ndim == 1 and not len(ids) and not isinstance(given, np.ndarray):
        ids = ids.astype(np.int64)  # an empty list
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InvalidArgumentError(
            f"ids: {ids.dtype} of shape {ids.shape}; expected integers of one dimension"
        )
    kind = ids.dtype if ids.dtype.newbyteorder("=") in _IDS else np.dtype(np.int64)
    return np.ascontiguousarray(ids, kind.newbyteorder("="))


def _parts(array: NDArray[Any]) -> Iterator[slice]:
    step = max(1, _PIECE // max(1, array[:1].nbytes))
    for first in range(0, len(array), step):
        yield slice(first, min(len(array), first + step))


def _moved(error: DataError, first: int) -> DataError:
    """The same error with the row counted from the first of all."""
    row = error.row or 0
    return DataError(str(error).replace(f"row {row}:", f"row {first + row}:", 1), row=first + row)


def _pieces(files: EdgeFiles, names: list[str]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Rows as matrices, with the number of the first of each."""
    done, width = 0, None
    for table in files.tables(names):
        with files.naming(done):
            values = matrix(table, names, width)
        width = values.shape[1]
        yield done, values
        done += len(values)


def _chained(
    first: tuple[int, NDArray[Any]] | None, rest: Iterator[tuple[int, NDArray[Any]]]
) -> Iterator[tuple[int, NDArray[Any]]]:
    if first is not None:
        yield first
        yield from rest
