"""A graph in compressed sparse columns: the incoming neighbours of each node."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mbflow.errors import DataError, InvalidArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mbflow.graph.ids import NodeIds
    from mbflow.graph.storage import StoredGraph

__all__ = ["Graph"]

_ARRAYS = ("offsets", "sources", "weights", "types", "times", "rows")


@dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """A graph in compressed sparse columns: the incoming neighbours of each node.

    Node `v` has the incoming edges `offsets[v]` to `offsets[v + 1] - 1`; edge `e` comes from node
    `sources[e]`. The edges of a node are sorted by source, those of one source by their row in the
    edge list.

    Attributes:
        offsets: `uint64 [nodes + 1]`.
        sources: `uint32 [edges]`.
        source_nodes: How many nodes the sources are drawn from: `nodes`, but for a relation between
            two kinds of nodes.
        weights: `float32 [edges]` or None.
        types: `uint16 [edges]` or None.
        times: `int64 [edges]` or None: microseconds since 1970-01-01 UTC where they came as dates
            and times, of whatever kind; integers as they were given.
        rows: `uint32` or `uint64 [edges]`, the row of the edge list that each edge came from, or
            None where it was not asked for. A self loop that was added has the largest number.
        ids: What the nodes are called where their ids were mapped, see `NodeIds`; else None.
            `graph.ids.encode(names)` gives the seeds that samplers take.
        source_ids: The same of the nodes that edges come from, where those are of another kind.
        path: The folder that the graph was opened from, without links; else None. Such a graph is
            pickled as its path, so that worker processes share the memory it is mapped to.

    Example:
        >>> from mbflow.graph import Graph
        >>> graph = Graph.from_edges([1, 2, 0], [0, 0, 2])
        >>> graph.offsets.tolist(), graph.sources.tolist()
        ([0, 2, 2, 3], [1, 2, 0])
    """

    offsets: NDArray[np.uint64]
    sources: NDArray[np.uint32]
    source_nodes: int
    weights: NDArray[np.float32] | None = None
    types: NDArray[np.uint16] | None = None
    times: NDArray[np.int64] | None = None
    rows: NDArray[Any] | None = None
    ids: NodeIds | None = None
    source_ids: NodeIds | None = None
    path: Path | None = field(default=None, init=False)
    _checksum: str | None = field(default=None, init=False, repr=False)

    def __repr__(self) -> str:
        arrays = ("weights", "types", "times", "rows", "ids", "source_ids")
        carried = "".join(f", {name}" for name in arrays if getattr(self, name) is not None)
        return f"Graph({self.nodes} nodes, {self.edges} edges{carried})"

    @classmethod
    def from_edges(
        cls,
        sources: Any,
        targets: Any,
        *,
        nodes: int | None = None,
        source_nodes: int | None = None,
        weights: Any = None,
        types: Any = None,
        times: Any = None,
        duplicates: Literal["keep", "drop", "count"] = "keep",
        self_loops: Literal["keep", "drop", "add"] = "keep",
        undirected: bool = False,
        reverse: bool = False,
        keep_rows: bool = False,
    ) -> Graph:
        """Build a graph from an edge list: edge `i` leads from `sources[i]` to `targets[i]`.

        A parallel counting sort, O(edges * log(largest degree)); the graph is the same for any
        number of threads. There may be up to 2^32 - 1 nodes and 2^64 edges; 2^32 - 1 edges where
        they carry weights, types, times or rows.

        Args:
            sources: Integers from 0: a NumPy array, a list, a polars, pandas or Arrow column.
            targets: As many.
            nodes: How many nodes edges lead to, after `reverse`. By default as many as the largest
                id asks for, as long as that is at most 64 for each edge (or 2^27): ids beyond look
                sparse, and each node takes 8 bytes.
            source_nodes: How many nodes edges come from, where those are of another kind; by
                default sources and targets are the same nodes.
            weights: Finite numbers, one for each edge; the sampling method "weighted" takes none
                below 0.
            types: Integers from 0 to 65,535, one for each edge.
            times: Integers, or dates and times, one for each edge. Dates and times of any unit and
                zone become microseconds since 1970-01-01 UTC; integers stay as they are.
            duplicates: What becomes of edges with the same source and target, whatever their types
                and times: `"keep"` all; `"drop"` all but the first; `"count"`: the first stays, and
                its weight is how many there were, or the sum of their weights.
            self_loops: What becomes of edges from a node to itself: `"keep"` them; `"drop"` them;
                `"add"`: each node has one, in place of those of the list, of weight 1, type 0 and
                the earliest time there is.
            undirected: Each edge that is no self loop is also added the other way, with the same
                weight, type, time and row.
            reverse: Exchange sources and targets.
            keep_rows: Keep which row of the list each edge came from.

        Returns:
            The graph.

        Raises:
            DataError: An id is null, no integer, negative or too large, or a weight, type or time
                cannot be used; the message and `row` say which is the first.
            InvalidArgumentError: The lengths differ, or arguments do not go together.

        Example:
            >>> from mbflow.graph import Graph
            >>> graph = Graph.from_edges([0, 0, 1], [1, 1, 2], duplicates="count", undirected=True)
            >>> [graph.neighbours(node).tolist() for node in range(3)], graph.weights.tolist()
            ([[1], [0, 2], [1]], [2.0, 2.0, 1.0, 1.0])
        """
        from mbflow.graph.build import Attributes, Recipe, build
        from mbflow.graph.columns import (
            edge_times,
            edge_types,
            edge_weights,
            id_columns,
            sparse_ids,
        )

        recipe = Recipe(nodes, source_nodes, duplicates, self_loops, undirected, reverse, keep_rows)
        first, second = id_columns(sources, targets)
        edges = len(first)
        given = Attributes(
            None if weights is None else edge_weights(weights, edges),
            None if types is None else edge_types(types, edges),
            None if times is None else edge_times(times, edges),
        )
        advice = (
            "for larger ones give `nodes=`, or map them: `ids = NodeIds.sorted([sources, "
            "targets])`, then `ids.encode(sources)` and `ids.encode(targets)`"
        )
        with sparse_ids(advice) if nodes is None else nullcontext():
            return build(
                lambda: [(first, second)],
                recipe,
                attributes=lambda: given,
                has_attributes=bool(given),
                edges=edges,
            )

    @classmethod
    def from_parquet(
        cls,
        edges: Any,
        *,
        nodes: Any = None,
        source_nodes: Any = None,
        source: str = "src",
        target: str = "dst",
        weight: str | None = None,
        type: str | None = None,  # noqa: A002  - what the column is called in a graph
        time: str | None = None,
        node: str | None = None,
        ids: Literal["auto", "dense", "mapped"] = "auto",
        duplicates: Literal["keep", "drop", "count"] = "keep",
        self_loops: Literal["keep", "drop", "add"] = "keep",
        undirected: bool = False,
        reverse: bool = False,
        keep_rows: bool = False,
        out: str | os.PathLike[str] | None = None,
        memory: int | None = None,
    ) -> Graph:
        """Build a graph from an edge table in Parquet, which is read in pieces, twice.

        In memory, building takes the result, the columns `weight`, `type` and `time`, and some 300
        MB. With `out` and `memory` the edges are first dealt to files by ranges of targets, and the
        graph is stored range by range, so that it may be larger than memory.

        Args:
            edges: A Parquet file, a folder of them, a pattern as in the shell, or several of these.
            nodes: How many nodes there are; or a table of them, in the same forms as `edges`: row
                `i` is node `i`, and its column `node` holds what edges call it; or a `NodeIds`. By
                default there are the nodes that the edges name. As in the table, whatever
                `reverse` says.
            source_nodes: The same of the sources, where those are nodes of another kind.
            source: The column of sources.
            target: The column of targets.
            weight: A column of weights.
            type: A column of edge types.
            time: A column of times, as in `from_edges`; all files hold integers, or all hold dates
                and times (of whatever units).
            node: The column of ids in tables of nodes; by default `id` where there is one, and else
                edges name nodes by their rows.
            ids: Whether sources and targets are `"dense"` ids from 0 on or names to be `"mapped"`:
                as the table of nodes says or, without one, in ascending order of those that have
                edges. `"auto"`: text is mapped, and integers are where a table of nodes has ids
                that are not its rows. The result's `ids` tell which node is which.
            duplicates: As in `from_edges`.
            self_loops: As in `from_edges`.
            undirected: As in `from_edges`.
            reverse: As in `from_edges`.
            keep_rows: As in `from_edges`; rows are counted through all files.
            out: Store the graph in this folder, and open it there.
            memory: With `out`, how many bytes building may take, beside the libraries and the rows
                at hand, some 300 MB.

        Returns:
            The graph.

        Raises:
            DataError: A file cannot be read, lacks a column or changes while it is read; or a value
                cannot be used: the message names the file and its row, `row` counts through all.
            InvalidArgumentError: Arguments do not go together.
            ResourceError: `memory` is too little for the edges of a few neighbouring nodes, or
                `out` cannot be written.

        Example:
            >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
            >>> from mbflow.graph import Graph
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     edges = pa.table({"src": [10, 30], "dst": [20, 20], "w": [0.5, 1.5]})
            ...     pq.write_table(edges, folder + "/edges.parquet")
            ...     graph = Graph.from_parquet(folder, weight="w", ids="mapped")
            >>> graph.offsets.tolist(), graph.sources.tolist(), graph.weights.tolist()
            ([0, 0, 2, 2], [0, 2], [0.5, 1.5])
            >>> graph.ids.decode([0, 2]).to_pylist()
            [10, 30]
        """
        from mbflow.graph.build import Recipe
        from mbflow.graph.tables import Columns, graph_from_parquet

        return graph_from_parquet(
            edges,
            Columns(source, target, weight, type, time, node),
            Recipe(None, None, duplicates, self_loops, undirected, reverse, keep_rows),
            nodes=nodes,
            source_nodes=source_nodes,
            ids=ids,
            out=out,
            memory=memory,
        )

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = False) -> Graph:
        """Open a stored graph by memory map: nothing is read before it is used.

        Args:
            path: The folder that `save` wrote.
            verify: Read everything and compare it with the checksums, not the offsets alone.

        Returns:
            The graph; its arrays cannot be written to.

        Raises:
            DataError: There is no graph, or a file is missing, truncated or damaged; the message
                names it.

        Example:
            >>> import tempfile
            >>> from mbflow.graph import Graph
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     _ = Graph.from_edges([1, 2], [0, 0]).save(folder + "/graph")
            ...     Graph.open(folder + "/graph", verify=True)
            Graph(3 nodes, 2 edges)
        """
        from mbflow.graph.storage import open_graph

        return opened(open_graph(path, verify=verify))

    def save(self, path: str | os.PathLike[str]) -> Graph:
        """Store the graph in a folder, whole or not at all; a graph that is there is replaced.

        Others may read the one that is there meanwhile, or store theirs: the last one stays.

        Args:
            path: The folder, or a link to one; see `mbflow.graph.storage` for what is in it.

        Returns:
            The stored graph, opened.

        Raises:
            InvalidArgumentError: Something that is no graph stands at `path`, or in the folder.
            ResourceError: The folder cannot be written.

        Example:
            >>> import tempfile
            >>> from mbflow.graph import Graph
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Graph.from_edges([1, 2], [0, 0]).save(folder + "/graph").sources.tolist()
            [1, 2]
        """
        return opened(written(self, path))

    def in_memory(self) -> Graph:
        """The same graph with its arrays copied into memory, where they were mapped from files.

        Sampling a mapped graph is slower by a fifth or more, even when all of it is cached: large
        arrays in memory get large pages, mapped files do not. The copy is no longer shared by
        processes that are started afresh (those that are forked off share it).

        Returns:
            The copy.

        Example:
            >>> from mbflow.graph import Graph
            >>> Graph.from_edges([1, 2], [0, 0]).in_memory()
            Graph(3 nodes, 2 edges)
        """
        arrays: dict[str, Any] = {}
        for name in _ARRAYS:
            mapped = getattr(self, name)
            arrays[name] = None if mapped is None else np.array(mapped)
        return replace(self, **arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is not None:
            return _reopened, (str(self.path), self._checksum)
        arrays = tuple(getattr(self, name) for name in _ARRAYS[2:])
        values = (self.offsets, self.sources, self.source_nodes, *arrays)
        return Graph, (*values, self.ids, self.source_ids)

    @property
    def nodes(self) -> int:
        """The number of nodes that edges lead to."""
        return len(self.offsets) - 1

    @property
    def edges(self) -> int:
        """The number of edges."""
        return len(self.sources)

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays."""
        arrays = (getattr(self, name) for name in _ARRAYS)
        return sum(array.nbytes for array in arrays if array is not None)

    def in_degrees(self) -> NDArray[np.int64]:
        """How many edges lead to each node, `int64 [nodes]`.

        Example:
            >>> from mbflow.graph import Graph
            >>> Graph.from_edges([1, 2, 0], [0, 0, 2]).in_degrees()
            array([2, 0, 1])
        """
        return np.diff(self.offsets).astype(np.int64, copy=False)

    def neighbours(self, node: int) -> NDArray[np.uint32]:
        """The sources of the edges that lead to a node, ascending; a view.

        Raises:
            InvalidArgumentError: There is no such node.

        Example:
            >>> from mbflow.graph import Graph
            >>> Graph.from_edges([2, 1, 0], [0, 0, 2]).neighbours(0)
            array([1, 2], dtype=uint32)
        """
        given: Any = node
        if isinstance(given, str):
            raise InvalidArgumentError(
                f"node: expected a number, got {node!r}; `graph.ids.encode([{node!r}])` gives the "
                "number of a node by its name"
            )
        if not 0 <= node < self.nodes:
            raise InvalidArgumentError(f"node: expected 0 to {self.nodes - 1}, got {node}")
        return self.sources[int(self.offsets[node]) : int(self.offsets[node + 1])]

    def targets(self) -> NDArray[np.uint32]:
        """The target of each edge, `uint32 [edges]`: with `sources`, the edge list.

        Example:
            >>> from mbflow.graph import Graph
            >>> Graph.from_edges([2, 1, 0], [0, 0, 2]).targets()
            array([0, 0, 2], dtype=uint32)
        """
        nodes = np.arange(self.nodes, dtype=np.uint32)
        return np.repeat(nodes, self.in_degrees())

    def reversed(self) -> Graph:
        """The graph with every edge the other way, weights, types, times and rows with it.

        Example:
            >>> from mbflow.graph import Graph
            >>> graph = Graph.from_edges([2, 1, 0], [0, 0, 2]).reversed()
            >>> graph.offsets.tolist(), graph.sources.tolist()
            ([0, 1, 2, 3], [2, 0, 0])
        """
        from mbflow._native import csc
        from mbflow.graph.build import Attributes, Recipe, build

        targets = self.targets()
        given = Attributes(self.weights, self.types, self.times)
        carries = bool(given) or self.rows is not None
        graph = build(
            lambda: [(targets, np.ascontiguousarray(self.sources))],
            Recipe(self.source_nodes, self.nodes, keep_rows=carries),
            attributes=lambda: given,
            has_attributes=bool(given),
            edges=self.edges,
        )
        positions = graph.rows
        rows = None
        if self.rows is not None and positions is not None:
            rows = csc.take(self.rows, positions, 0)
        return Graph(
            graph.offsets,
            graph.sources,
            graph.source_nodes,
            weights=graph.weights,
            types=graph.types,
            times=graph.times,
            rows=rows,
            ids=self.ids if self.source_ids is None else self.source_ids,
            source_ids=None if self.source_ids is None else self.ids,
        )


def opened(stored: StoredGraph) -> Graph:
    """The graph of files that are mapped."""
    graph = Graph(
        **stored.arrays,
        source_nodes=stored.source_nodes,
        ids=stored.ids("nodes"),
        source_ids=stored.ids("source_nodes"),
    )
    object.__setattr__(graph, "path", stored.path)
    object.__setattr__(graph, "_checksum", stored.checksum)
    return graph


def written(graph: Graph, path: str | os.PathLike[str]) -> StoredGraph:
    """Store a graph in a folder; what is returned is that one, whoever replaces it."""
    from mbflow.graph.storage import write_graph

    arrays = {name: getattr(graph, name) for name in _ARRAYS}
    ids = {"nodes": graph.ids, "source_nodes": graph.source_ids}
    return write_graph(path, arrays, source_nodes=graph.source_nodes, ids=ids)


def _reopened(path: str, checksum: str) -> Graph:
    """Open the graph that was pickled as its path, and no other one that took its place."""
    graph = Graph.open(path)
    if graph._checksum != checksum:  # noqa: SLF001  - of the same class
        raise DataError(f"{path}: another graph than the one that was pickled stands here by now")
    return graph
