"""Nodes that have names or sparse numbers: which dense id stands for which.

Example:
    >>> from mbflow.graph import NodeIds
    >>> ids = NodeIds.of(["paper", "author"])
    >>> ids.encode(["author", "author", "paper"])
    array([1, 1, 0], dtype=uint32)
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.errors import DataError, InvalidArgumentError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = ["NodeIds"]

_COLUMN = "id"


class NodeIds:
    """What the nodes of a graph are called: node `i` has the name or number `values[i]`.

    Made by `NodeIds.of` (an order that is given, such as that of a table of nodes, whose rows hold
    the features) or `NodeIds.sorted` (from the edges: ascending, so that it depends on neither the
    order of the edges nor on how files are cut).

    Example:
        >>> from mbflow.graph import NodeIds
        >>> ids = NodeIds.of([700, 20])
        >>> len(ids), ids.encode([20]).tolist(), ids.decode([0]).to_pylist()
        (2, [1], [700])
    """

    def __init__(
        self, values: pa.Array | None, *, path: Path | None = None, nodes: int = 0
    ) -> None:
        self._values = values
        self._path = path
        self._nodes = nodes if values is None else len(values)

    @classmethod
    def of(cls, values: Any, *, what: str = "ids") -> NodeIds:
        """Names in the order of the nodes.

        Args:
            values: Text or integers, each once: a list, a NumPy array, or a column of any kind.
            what: How messages call it.

        Raises:
            DataError: A value is null, stands twice, or is neither text nor an integer; `row` says
                where.

        Example:
            >>> from mbflow.graph import NodeIds
            >>> NodeIds.of(["a", "b", "a"])
            Traceback (most recent call last):
            ...
            mbflow.errors.DataError: ids: 'a' in row 2 stands twice; expected each id once
        """
        import pyarrow.compute as pc

        array = plain_ids(values, what)
        if len(array) >= 1 << 32:
            raise DataError(f"{what}: {len(array)} nodes; expected under 2^32 - 1")
        if pc.count_distinct(array).as_py() != len(array):
            seen: set[Any] = set()
            for row, value in enumerate(array.to_pylist()):
                if value in seen:
                    raise DataError(
                        f"{what}: {value!r} in row {row} stands twice; expected each id once",
                        row=row,
                    )
                seen.add(value)
        return cls(array)

    @classmethod
    def sorted(cls, columns: Iterable[Any]) -> NodeIds:
        """All names that stand in some columns, ascending: numbers by value, text by code point.

        Args:
            columns: Columns, or batches of them.

        Example:
            >>> from mbflow.graph import NodeIds
            >>> NodeIds.sorted([["b", "a"], ["c", "a"]]).values.to_pylist()
            ['a', 'b', 'c']
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        found: pa.Array | None = None
        for column in columns:
            fresh = pc.unique(plain_ids(column, "ids"))
            if found is None:
                found = fresh
            else:
                if not len(found):
                    found = pa.array([], fresh.type)  # what is empty sets no type
                fresh = _of_one_type(fresh, found.type, "ids")
                unknown = fresh.filter(pc.invert(pc.is_in(fresh, value_set=found)))
                if len(unknown):
                    found = pa.concat_arrays([found, unknown])
        if found is None:
            found = pa.array([], pa.int64())
        return cls(found.take(pc.sort_indices(found)))

    @classmethod
    def stored(cls, path: str | os.PathLike[str], nodes: int) -> NodeIds:
        """The names in a Parquet file of `nodes` rows, which is read when they are first used."""
        return cls(None, path=Path(path), nodes=nodes)

    def __len__(self) -> int:
        return self._nodes

    def __repr__(self) -> str:
        return f"NodeIds({self._nodes} nodes)"

    @property
    def values(self) -> pa.Array:
        """The names in the order of the nodes: int64, uint64 or large_string."""
        if self._values is None:
            self._values = self._read()
        return self._values

    def _read(self) -> pa.Array:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            column = pq.ParquetFile(self._path, page_checksum_verification=True).read()[_COLUMN]
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            line = str(error).partition("\n")[0]
            raise DataError(f"{self._path}: cannot be read as names of nodes: {line}") from None
        return plain_ids(column, str(self._path))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the names to a Parquet file, with one column `id`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({_COLUMN: self.values})
        pq.write_table(table, path, compression="zstd", write_page_checksum=True)

    def encode(self, column: Any, *, what: str = "ids") -> NDArray[np.uint32]:
        """The nodes that some names stand for, `uint32`: the seeds that samplers take.

        Args:
            column: Names, each of which may come any number of times.
            what: How messages call them.

        Raises:
            DataError: A name is null or of no node; `row` says where.

        Example:
            >>> from mbflow.graph import NodeIds
            >>> NodeIds.of(["a"]).encode(["a", "b"], what="column `src`")
            Traceback (most recent call last):
            ...
            mbflow.errors.DataError: column `src`: 'b' in row 1 is no node; expected one of 1 ids
        """
        import pyarrow.compute as pc

        array = _of_one_type(plain_ids(column, what), self.values.type, what)
        found = pc.index_in(array, value_set=self.values)
        if found.null_count:
            row = int(pc.index(pc.is_null(found), value=True).as_py())
            raise DataError(
                f"{what}: {array[row].as_py()!r} in row {row} is no node; expected one of "
                f"{len(self)} ids",
                row=row,
            )
        return np.asarray(found.to_numpy(zero_copy_only=False)).view(np.uint32)

    def decode(self, nodes: Any) -> pa.Array:
        """What some nodes are called.

        Args:
            nodes: Ids of nodes.

        Returns:
            Their names, as `values` holds them.

        Raises:
            InvalidArgumentError: There is no such node.

        Example:
            >>> from mbflow.graph import NodeIds
            >>> NodeIds.of(["a", "b"]).decode([1, 1]).to_pylist()
            ['b', 'b']
        """
        import pyarrow as pa

        try:
            wanted = np.asarray(nodes, dtype=np.int64)
        except (TypeError, ValueError):
            raise InvalidArgumentError("nodes: expected integers; `encode` takes names") from None
        if wanted.size and not 0 <= int(wanted.min()) <= int(wanted.max()) < len(self):
            raise InvalidArgumentError(f"nodes: expected 0 to {len(self) - 1}")
        return self.values.take(pa.array(wanted))


def plain_ids(values: Any, what: str) -> pa.Array:
    """A column of ids as one array of int64, uint64 or large_string; nulls are refused.

    Example:
        >>> from mbflow.graph.ids import plain_ids
        >>> str(plain_ids(["a"], "ids").type)
        'large_string'
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not isinstance(values, pa.Array | pa.ChunkedArray):
        from mbflow.arrow import to_series

        values = to_series(values, name=what).to_arrow()
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
        if isinstance(values, pa.ChunkedArray):  # older Arrow, where there is no chunk or several
            values = pa.concat_arrays(values.chunks) if values.chunks else pa.array([], values.type)
    kind = values.type
    if pa.types.is_dictionary(kind):
        return plain_ids(values.dictionary_decode(), what)
    if values.null_count:
        row = int(pc.index(pc.is_null(values), value=True).as_py())
        raise DataError(f"{what}: null in row {row}; expected an id in each row", row=row)
    if pa.types.is_uint64(kind):
        return values
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return values.cast(pa.int64())
    if kind in (pa.string(), pa.large_string(), pa.string_view()):
        text = values.cast(pa.large_string())
        _refuse_broken_text(text, what)
        return text
    raise DataError(f"{what}: of type {kind}; expected integers or text")


def _refuse_broken_text(text: pa.Array, what: str) -> None:
    """Files may hold any bytes as text, which readers hand on."""
    import pyarrow as pa

    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        for row, value in enumerate(text.view(pa.large_binary())):
            try:
                value.as_py().decode()
            except UnicodeDecodeError:
                raise DataError(
                    f"{what}: row {row} holds {value.as_py()!r}, which is no UTF-8; expected text",
                    row=row,
                ) from None
        raise


def _of_one_type(array: pa.Array, kind: pa.DataType, what: str) -> pa.Array:
    import pyarrow as pa

    if array.type == kind:
        return array
    if not len(array):
        return pa.array([], kind)
    try:
        if pa.types.is_integer(array.type) and pa.types.is_integer(kind):
            return array.cast(kind)
    except pa.ArrowInvalid as error:
        raise DataError(f"{what}: {error}; expected {kind}, as the ids of other rows") from None
    held, expected = ("integers", "text") if pa.types.is_integer(array.type) else ("text", kind)
    raise DataError(f"{what}: holds {held}; expected {expected}, as the ids of the nodes are")
