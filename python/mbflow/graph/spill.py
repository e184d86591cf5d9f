"""Graphs larger than memory: edges dealt to files by ranges of targets, and stored range by range.

Example:
    >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
    >>> from mbflow.graph import Graph
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pq.write_table(pa.table({"src": [2, 1], "dst": [0, 0]}), folder + "/edges.parquet")
    ...     graph = Graph.from_parquet(
    ...         folder + "/edges.parquet", out=folder + "/graph", memory=1 << 20)
    ...     graph.sources.tolist()
    [1, 2]
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow._native import csc
from mbflow.errors import ResourceError
from mbflow.graph.build import (
    ADDED_TIME,
    ADDED_TYPE,
    ADDED_WEIGHT,
    Recipe,
    most_nodes,
    refuse_infinite,
)
from mbflow.graph.graph import Graph, opened
from mbflow.graph.publish import refusals
from mbflow.graph.storage import GraphWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mbflow.graph.ids import NodeIds
    from mbflow.graph.tables import EdgeTable

__all__ = ["plan_ranges", "store_in_parts"]

# Nodes are counted in so many bins at most, and ranges are made of whole bins.
_BINS = 1 << 16
# What building takes: a node its place, offset and degree; an edge its two ends and its place.
_NODE_BYTES = 24
_EDGE_BYTES = 12
_ATTRIBUTES: dict[str, tuple[str, np.dtype[Any], float]] = {
    "weight": ("weights", np.dtype(np.float32), ADDED_WEIGHT),
    "type": ("types", np.dtype(np.uint16), ADDED_TYPE),
    "time": ("times", np.dtype(np.int64), ADDED_TIME),
    "row": ("rows", np.dtype(np.uint64), (1 << 64) - 1),
}


def plan_ranges(
    edges: NDArray[np.uint64], *, nodes: int, shift: int, edge_bytes: int, memory: int
) -> list[int]:
    """Cut nodes into ranges whose edges fit into memory.

    Args:
        edges: `uint64 [bins]`, how many edges lead to the nodes of each bin.
        nodes: How many nodes there are.
        shift: Bin `b` starts at node `b << shift`.
        edge_bytes: What an edge takes.
        memory: What there is, in bytes.

    Returns:
        Where each range starts, and the number of nodes.

    Raises:
        ResourceError: A bin does not fit alone; the message says how much would be enough.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph.spill import plan_ranges
        >>> edges = np.array([5, 5, 5], np.uint64)
        >>> plan_ranges(edges, nodes=3, shift=0, edge_bytes=8, memory=128)
        [0, 2, 3]
    """
    widths = np.full(len(edges), 1 << shift, np.int64)
    sizes = edges.astype(np.int64) * edge_bytes + widths * _NODE_BYTES
    if len(sizes) and int(sizes.max()) > memory:
        largest = int(sizes.argmax())
        last = min(nodes, (largest + 1) << shift) - 1
        raise ResourceError(
            f"memory: the edges of nodes {largest << shift} to {last} take {int(sizes.max())} "
            f"bytes, and {memory} are given; give more"
        )
    firsts, taken = [0], 0
    for at, size in enumerate(sizes.tolist()):
        if taken + size > memory:
            firsts.append(at << shift)
            taken = 0
        taken += size
    return [*firsts, nodes]


@dataclass(frozen=True)
class _Spill:
    """Files of the edges of each range, an array a file."""

    folder: Path
    names: tuple[str, ...]

    def append(self, part: int, name: str, values: NDArray[Any]) -> None:
        if len(values):
            with (self.folder / f"{part}-{name}").open("ab") as file:
                file.write(np.ascontiguousarray(values).data)

    def take(self, part: int, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Read an array, and remove its file."""
        path = self.folder / f"{part}-{name}"
        if not path.exists():
            return np.empty(0, dtype)
        values = np.fromfile(path, dtype)
        path.unlink()
        return values


def store_in_parts(
    table: EdgeTable,
    recipe: Recipe,
    *,
    path: str | os.PathLike[str],
    memory: int,
    ids: dict[str, NodeIds | None],
) -> Graph:
    """Build and store a graph that is never in memory as a whole.

    The edges are read twice (a third time where the number of nodes is not known) and written once
    to files beside the graph, which are removed.

    Args:
        table: The edges.
        recipe: Which graph they become.
        path: Where it is stored.
        memory: How many bytes a range of nodes may take.
        ids: What the `"nodes"` and `"source_nodes"` are called, or None.

    Returns:
        The stored graph, opened.

    Raises:
        DataError: An edge cannot be used.
        ResourceError: `memory` is too little, or the folder cannot be written.

    Example:
        >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
        >>> from mbflow.graph.build import Recipe
        >>> from mbflow.graph.edge_files import EdgeFiles
        >>> from mbflow.graph.spill import store_in_parts
        >>> from mbflow.graph.tables import Columns, EdgeTable
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pq.write_table(pa.table({"src": [2, 1], "dst": [0, 0]}), folder + "/a.parquet")
        ...     table = EdgeTable(EdgeFiles.find(folder, what="edges"), Columns())
        ...     store_in_parts(
        ...         table, Recipe(nodes=3), path=folder + "/graph", memory=1 << 20, ids={})
        Graph(3 nodes, 2 edges)
    """
    with table.files.naming():
        nodes, source_nodes = _numbers(table, recipe)
        shift = max(0, (max(1, nodes) - 1).bit_length() - _BINS.bit_length() + 1)
        rules: dict[str, Any] = {
            "source_nodes": source_nodes,
            "undirected": recipe.undirected,
            # Loops that are added come with the ranges.
            "self_loops": "keep" if recipe.self_loops == "keep" else "drop",
            "swapped": recipe.reverse,
        }
        edges = np.zeros(-(-nodes >> shift), np.uint64)
        row = 0
        for sources, targets in _directed(table, recipe):
            edges += csc.degree_bins(
                sources, targets, nodes=nodes, shift=shift, first_row=row, **rules
            )
            row += len(sources)
        names = (*table.columns.attributes, *(("row",) if recipe.keep_rows else ()))
        extra = sum(2 * _ATTRIBUTES[name][1].itemsize for name in names)
        edge_bytes = _EDGE_BYTES + (4 + extra if names else 0)
        firsts = plan_ranges(edges, nodes=nodes, shift=shift, edge_bytes=edge_bytes, memory=memory)
        with GraphWriter(path) as writer:
            with refusals(writer.path):
                spill = _Spill(writer.folder / "spill", names)
                spill.folder.mkdir()
                _deal(table, recipe, spill, {**rules, "firsts": firsts})
                _store(writer, spill, recipe, firsts, source_nodes)
                shutil.rmtree(spill.folder)
            for name, known in ids.items():
                if known is not None:
                    writer.write_ids(name, known)
            return opened(writer.finish(source_nodes=source_nodes))


def _numbers(table: EdgeTable, recipe: Recipe) -> tuple[int, int]:
    """How many nodes edges lead to and come from."""
    if recipe.nodes is not None and recipe.source_nodes is not None:
        return recipe.nodes, recipe.source_nodes
    largest = [-1, -1]
    for piece in _directed(table, recipe):
        for end, values in enumerate(piece):
            if len(values):
                largest[end] = max(largest[end], int(values.max()))
    most = most_nodes(table.files.rows)
    if recipe.source_nodes is not None:
        return min(largest[1] + 1, most), recipe.source_nodes
    return (min(max(largest) + 1, most),) * 2


def _directed(table: EdgeTable, recipe: Recipe) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    for sources, targets in table:
        yield (targets, sources) if recipe.reverse else (sources, targets)


def _deal(table: EdgeTable, recipe: Recipe, spill: _Spill, rules: dict[str, Any]) -> None:
    """Write the edges of each range to its files."""
    row = 0
    for (given_sources, given_targets), values in table.read(attributes=True):
        ends = (given_sources, given_targets)
        blocks = csc.deal_edges(*(ends[::-1] if recipe.reverse else ends), first_row=row, **rules)
        first = np.uint32(row & 0xFFFF_FFFF)
        if recipe.keep_rows:
            values["row"] = np.arange(row, row + len(given_sources), dtype=np.uint64)
        for starts, sources, targets, rows in blocks:
            # Rows are counted modulo 2^32, as is their difference to the first one.
            own = rows - first
            dealt = {"sources": sources, "targets": targets}
            dealt |= {name: values[name][own] for name in spill.names}
            for part in np.flatnonzero(np.diff(starts)).tolist():
                for name, array in dealt.items():
                    spill.append(part, name, array[starts[part] : starts[part + 1]])
        row += len(given_sources)


def _store(
    writer: GraphWriter, spill: _Spill, recipe: Recipe, firsts: list[int], source_nodes: int
) -> None:
    """Build the columns of each range from its files, and append them to the graph."""
    writer.append("offsets", np.zeros(1, np.uint64))
    edges = np.uint64(0)
    for part, (first, last) in enumerate(pairwise(firsts)):
        builder = csc.Builder(
            last - first,
            source_nodes,
            first=first,
            self_loops="add" if recipe.self_loops == "add" else "keep",
            rows=bool(spill.names),
        )
        uint32 = np.dtype(np.uint32)
        sources, targets = spill.take(part, "sources", uint32), spill.take(part, "targets", uint32)
        builder.count(sources, targets)
        builder.fill(sources, targets)
        del sources, targets
        weights = None
        if recipe.duplicates == "count" and "weight" in spill.names:
            weights = spill.take(part, "weight", np.dtype(np.float32))
        offsets, found, rows, counted, _ = builder.finish(
            duplicates=recipe.duplicates, weights=weights
        )
        refuse_infinite(counted)
        del builder
        writer.append("offsets", offsets[1:] + edges)
        writer.append("sources", found)
        edges += np.uint64(len(found))
        if counted is not None:
            writer.append("weights", counted)
        if rows is not None:
            for name in spill.names:
                array, dtype, missing = _ATTRIBUTES[name]
                if name == "weight" and counted is not None:
                    continue
                writer.append(array, csc.take(spill.take(part, name, dtype), rows, missing))
    for array, dtype in (("sources", np.uint32), *_expected(spill, recipe)):
        writer.append(array, np.empty(0, dtype))


def _expected(spill: _Spill, recipe: Recipe) -> list[tuple[str, Any]]:
    """The arrays beside the sources, which are there when there is no range, too."""
    found = [_ATTRIBUTES[name][:2] for name in spill.names]
    counted = recipe.duplicates == "count" and "weight" not in spill.names
    return [*found, *([("weights", np.float32)] if counted else [])]
