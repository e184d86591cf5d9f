"""Graphs from edge and node tables in Parquet.

Example:
    >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
    >>> from mbflow.graph import Graph
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     edges = pa.table({"src": ["b", "c"], "dst": ["a", "a"]})
    ...     pq.write_table(edges, folder + "/edges.parquet")
    ...     graph = Graph.from_parquet(folder + "/edges.parquet")
    >>> graph, graph.ids.values.to_pylist()
    (Graph(3 nodes, 2 edges, ids), ['a', 'b', 'c'])
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mbflow.batches import check_whole
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.graph.build import Attributes, Counted, Piece, Recipe, build
from mbflow.graph.columns import edge_times, edge_types, edge_weights, id_columns, sparse_ids
from mbflow.graph.edge_files import EdgeFiles, ahead
from mbflow.graph.ids import NodeIds, plain_ids

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from mbflow.graph.graph import Graph

__all__ = ["Columns", "EdgeTable", "graph_from_parquet"]

_CONVERT: dict[str, Callable[..., NDArray[Any]]] = {
    "weight": edge_weights,
    "type": edge_types,
    "time": edge_times,
}
_DTYPES = {"weight": np.float32, "type": np.uint16, "time": np.int64}


@dataclass(frozen=True)
class Columns:
    """Which columns of an edge table mean what; `node` is that of the tables of nodes.

    Example:
        >>> from mbflow.graph.tables import Columns
        >>> Columns(weight="w").attributes
        {'weight': 'w'}
    """

    source: str = "src"
    target: str = "dst"
    weight: str | None = None
    type: str | None = None
    time: str | None = None
    node: str | None = None

    @property
    def attributes(self) -> dict[str, str]:
        """The columns beside the two ends, by what they mean."""
        given = {"weight": self.weight, "type": self.type, "time": self.time}
        return {name: column for name, column in given.items() if column is not None}


class EdgeTable:
    """An edge table whose ids are dense, or become so on the way.

    Args:
        files: Its files.
        columns: Which columns mean what.
        source_ids: What sources are called, or None where they are dense ids.
        target_ids: The same of the targets.
        watch: Called with the number of rows that were read since the last call.

    Example:
        >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
        >>> from mbflow.graph import NodeIds
        >>> from mbflow.graph.edge_files import EdgeFiles
        >>> from mbflow.graph.tables import Columns, EdgeTable
        >>> names = NodeIds.of([30, 40])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pq.write_table(pa.table({"src": [40], "dst": [30]}), folder + "/a.parquet")
        ...     files = EdgeFiles.find(folder, what="edges")
        ...     [(s.tolist(), t.tolist()) for s, t in EdgeTable(files, Columns(), names, names)]
        [([1], [0])]
    """

    def __init__(
        self,
        files: EdgeFiles,
        columns: Columns,
        source_ids: NodeIds | None = None,
        target_ids: NodeIds | None = None,
        *,
        watch: Callable[[int], None] = lambda _: None,
    ) -> None:
        files.need([columns.source, columns.target, *columns.attributes.values()])
        self.files = files
        self.columns = columns
        self._ids = (source_ids, target_ids)
        self._watch = watch

    def __iter__(self) -> Iterator[Piece]:
        """Sources and targets, piece by piece."""
        for piece, _ in self.read(attributes=False):
            yield piece

    def one_end(self, *, source: bool) -> Iterator[Counted]:
        """One end of the edges, with None for the other one: half as much to read."""
        name = self.columns.source if source else self.columns.target
        for table, row in _numbered(self.files, [name]):
            with self.files.naming(row):
                ids = self._dense(table, name, self._ids[0] if source else self._ids[1])
                end, _ = id_columns(ids, ids, names=(f"column `{name}`",) * 2)
                yield (end, None) if source else (None, end)
            self._watch(table.num_rows)

    def read(self, *, attributes: bool) -> Iterator[tuple[Piece, dict[str, NDArray[Any]]]]:
        """Sources and targets with the attributes by what they mean, piece by piece."""
        first, second = self.columns.source, self.columns.target
        extra = self.columns.attributes if attributes else {}
        time_type: pa.DataType | None = None
        names = (f"column `{first}`", f"column `{second}`")
        for table, row in _numbered(self.files, [first, second, *extra.values()]):
            with self.files.naming(row):
                piece = id_columns(
                    self._dense(table, first, self._ids[0]),
                    self._dense(table, second, self._ids[1]),
                    names=names,
                )
                values: dict[str, NDArray[Any]] = {}
                for meaning, column in extra.items():
                    convert, name = _CONVERT[meaning], f"column `{column}`"
                    given = _values(table, column)
                    if meaning == "time":
                        if time_type is None:
                            time_type = table.schema.field(column).type
                        _refuse_mixed_times(table, column, time_type)
                    values[meaning] = convert(given, table.num_rows, name=name)
                yield piece, values
            self._watch(table.num_rows)

    def _dense(self, table: pa.Table, column: str, ids: NodeIds | None) -> NDArray[Any]:
        if ids is not None:
            return ids.encode(table[column], what=f"column `{column}`")
        if _holds_text(table.schema, column):
            advice = (
                'leave out ids="dense" to map names'
                if _holds_text(self.files.schema, column)
                else f"as in {self.files.files[0].path}"
            )
            raise DataError(f"column `{column}`: holds text; expected integers, {advice}")
        return _values(table, column)


def _numbered(files: EdgeFiles, columns: list[str]) -> Iterator[tuple[pa.Table, int]]:
    """Tables with the number of their first row, the next one read while one is used."""
    row = 0
    for table in ahead(lambda: files.tables(list(dict.fromkeys(columns)))):
        yield table, row
        row += table.num_rows


def _values(table: pa.Table, column: str) -> NDArray[Any]:
    """A column without nulls, as NumPy."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = table[column]
    if values.null_count:
        row = int(pc.index(pc.is_null(values), value=True).as_py())
        message = f"column `{column}`: null in row {row}; expected a value in each row"
        raise DataError(message, row=row)
    if pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("s"))
    if values.num_chunks == 1:
        return np.asarray(values.chunk(0).to_numpy(zero_copy_only=False))
    return np.asarray(values.to_numpy())


def _refuse_mixed_times(table: pa.Table, column: str, before: pa.DataType) -> None:
    """Integers have a unit of their own, so that they cannot be compared with dates and times."""
    import pyarrow as pa

    kind = table.schema.field(column).type
    if pa.types.is_integer(kind) != pa.types.is_integer(before):
        raise DataError(
            f"column `{column}`: of type {kind}, but {before} in the files before; expected "
            "integers in all files, or dates and times in all"
        )


def _holds_text(schema: pa.Schema, column: str) -> bool:
    import pyarrow as pa

    kind = schema.field(column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _nodes(given: Any, column: str | None, what: str) -> tuple[int | None, NodeIds | None]:
    """How many nodes there are, and what they are called, as far as is said."""
    if given is None:
        return None, None
    if isinstance(given, int | np.integer) and not isinstance(given, bool):
        return int(given), None
    if isinstance(given, NodeIds):
        return len(given), given
    files = EdgeFiles.find(given, what=what)
    if column is None and not files.has("id"):
        return files.rows, None
    name = column or "id"
    files.need([name])
    chunks = []
    row = 0
    for table in files.tables([name]):
        with files.naming(row):
            chunks.append(plain_ids(table[name], f"column `{name}`"))
        row += table.num_rows
    import pyarrow as pa

    with files.naming():
        kinds = {chunk.type for chunk in chunks}
        if len(kinds) > 1:
            raise DataError(
                f"{what}: column `{name}` is of several types: {sorted(map(str, kinds))}"
            )
        ids = NodeIds.of(
            pa.chunked_array(chunks or [pa.array([], pa.int64())]), what=f"column `{name}`"
        )
    if pa.types.is_integer(ids.values.type):
        numbers = ids.values.to_numpy()
        if (numbers == np.arange(len(numbers), dtype=numbers.dtype)).all():
            return len(ids), None  # row i is node i, so that there is nothing to map
    return len(ids), ids


def _edge_table(
    edges: Any,
    columns: Columns,
    *,
    nodes: Any,
    source_nodes: Any,
    ids: str,
    watch: Callable[[int], None],
) -> tuple[EdgeTable, int | None, int | None, NodeIds | None, NodeIds | None]:
    """The edge table with the numbers of its nodes and their names, targets first."""
    if ids not in ("auto", "dense", "mapped"):
        raise InvalidArgumentError(f"ids: expected auto, dense or mapped, got {ids!r}")
    files = EdgeFiles.find(edges, what="edges")
    ends = [columns.source, columns.target]
    EdgeTable(files, columns)
    count, names = _nodes(nodes, columns.node, "nodes")
    source_count, source_names = _nodes(source_nodes, columns.node, "source_nodes")
    if source_nodes is None:
        source_names = names
        text = any(_holds_text(files.schema, end) for end in ends)
        if names is None and (ids == "mapped" or (ids == "auto" and text)):
            if count is not None:
                raise InvalidArgumentError(
                    f"nodes: a number ({count}) and ids to be mapped; expected a table of nodes "
                    "with their ids, or none, for those that have edges"
                )
            names = source_names = _found(files, ends)
            count = len(names)
    else:
        _need_names(files, (columns.target, columns.source), (names, source_names), ids)
    table = EdgeTable(files, columns, source_names, names, watch=watch)
    own_names = None if source_nodes is None else source_names
    return table, count, source_count, names, own_names


def _need_names(
    files: EdgeFiles, ends: tuple[str, str], known: tuple[NodeIds | None, NodeIds | None], ids: str
) -> None:
    """Of two kinds of nodes, names are not looked for in the edges."""
    for what, column, names in zip(("nodes", "source_nodes"), ends, known, strict=True):
        if names is None and ids != "dense" and _holds_text(files.schema, column):
            raise InvalidArgumentError(
                f"{what}: column `{column}` holds text; give `{what}=`, a table of these nodes "
                "with their ids or a `NodeIds`"
            )


def _found(files: EdgeFiles, ends: list[str]) -> NodeIds:
    """The ids that stand in the edges."""

    def columns() -> Iterator[Any]:
        first: bool | None = None
        for table, row in _numbered(files, ends):
            for end in ends:
                with files.naming(row):
                    found = plain_ids(table[end], f"column `{end}`")
                    text = _holds_text(table.schema, end)
                    first = text if first is None else first
                    if text != first:
                        held, before = ("text", "integers") if text else ("integers", "text")
                        raise DataError(
                            f"column `{end}`: holds {held}; expected {before}, as the ids before"
                        )
                yield found

    return NodeIds.sorted(columns())


def graph_from_parquet(
    edges: Any,
    columns: Columns,
    recipe: Recipe,
    *,
    nodes: Any,
    source_nodes: Any,
    ids: Literal["auto", "dense", "mapped"],
    out: Any,
    memory: int | None,
    watch: Callable[[int], None] = lambda _: None,
) -> Graph:
    """What `Graph.from_parquet` does; there are its arguments.

    `watch` is called with the number of edges read since its last call; each is read twice.

    Example:
        >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
        >>> from mbflow.graph.build import Recipe
        >>> from mbflow.graph.tables import Columns, graph_from_parquet
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pq.write_table(pa.table({"src": [1], "dst": [0]}), folder + "/edges.parquet")
        ...     graph_from_parquet(
        ...         folder, Columns(), Recipe(), nodes=5, source_nodes=None, ids="auto", out=None,
        ...         memory=None)
        Graph(5 nodes, 1 edges)
    """
    if memory is not None and out is None:
        raise InvalidArgumentError("memory: bounds what is stored with `out`; expected both")
    if memory is not None:
        check_whole("memory", memory, least=1)
    table, count, source_count, names, source_names = _edge_table(
        edges, columns, nodes=nodes, source_nodes=source_nodes, ids=ids, watch=watch
    )
    if recipe.reverse:
        count, source_count = (count, None) if source_count is None else (source_count, count)
        names, source_names = (names, None) if source_names is None else (source_names, names)
    recipe = dataclasses.replace(recipe, nodes=count, source_nodes=source_count)
    advice = "for larger ones give `nodes=`, how many there are or a table of them"
    if source_count is None:
        advice += ', or map them with ids="mapped"'
    with sparse_ids(advice) if count is None else nullcontext():
        if out is not None and memory is not None:
            from mbflow.graph.spill import store_in_parts

            return store_in_parts(
                table,
                recipe,
                path=out,
                memory=memory,
                ids={"nodes": names, "source_nodes": source_names},
            )
        graph = _in_memory(table, recipe)
        graph = dataclasses.replace(graph, ids=names, source_ids=source_names)
        return graph if out is None else graph.save(out)


def _in_memory(table: EdgeTable, recipe: Recipe) -> Graph:
    """Build a graph from a table that is read twice."""
    rows = table.files.rows
    held = {name: np.empty(rows, _DTYPES[name]) for name in table.columns.attributes}

    def pieces() -> Iterator[Piece]:
        row = 0
        for piece, values in table.read(attributes=True):
            for name, part in values.items():
                held[name][row : row + len(part)] = part
            row += len(piece[0])
            yield piece

    def first_pass() -> Iterator[Counted]:
        return iter(table) if recipe.needs_both else table.one_end(source=recipe.reverse)

    def attributes() -> Attributes:
        return Attributes(held.get("weight"), held.get("type"), held.get("time"))

    with table.files.naming():
        return build(
            pieces,
            recipe,
            attributes=attributes,
            has_attributes=bool(held),
            first_pass=first_pass,
            edges=rows,
        )
