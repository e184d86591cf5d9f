"""The step `graph.csc`: a table of edges becomes a stored graph, which later steps open.

Example:
    >>> from mbflow.steps import CATALOGUE
    >>> CATALOGUE["graph.csc"].takes
    ('rows', 'rows?', 'rows?')
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from mbflow.display import size as shown_size
from mbflow.flow.dataset import Dataset
from mbflow.flow.source import Source, foreign_errors
from mbflow.flow.spec import Parameters
from mbflow.flow.step import Context, Forecast
from mbflow.graph import Graph
from mbflow.graph.build import Recipe
from mbflow.graph.edge_files import EdgeFiles, TableFile
from mbflow.graph.tables import Columns, graph_from_parquet

__all__ = [
    "CscParameters",
    "ForeseenGraph",
    "SourceRows",
    "can_build",
    "csc",
    "forecast_csc",
    "open_graph",
]

_GRAPH = "graph"
# Rows that pass `where` are put together to pieces of so many.
_PIECE_ROWS = 1 << 20


class CscParameters(Parameters):
    """`with:` of `graph.csc`.

    Example:
        >>> from mbflow.steps.graph_csc import CscParameters
        >>> CscParameters(undirected=True).source
        'src'
    """

    source: str = Field("src", description="The column of sources.")
    target: str = Field("dst", description="The column of targets.")
    weight: str | None = Field(None, description="A column of weights.")
    type: str | None = Field(None, description="A column of edge types: 0 to 65,535.")
    time: str | None = Field(None, description="A column of times.")
    node: str | None = Field(
        None,
        description="The column of ids in tables of nodes; default: `id` where there is one, and "
        "else edges name nodes by their rows.",
    )
    ids: Literal["auto", "dense", "mapped"] = Field(
        "auto",
        description="Whether sources and targets are dense ids from 0 on, or names to be mapped; "
        "`auto`: text is mapped, and integers are where a table of nodes says so.",
    )
    nodes: int | None = Field(
        None, ge=0, lt=1 << 32, description="How many nodes there are, where no table says so."
    )
    duplicates: Literal["keep", "drop", "count"] = Field(
        "keep",
        description="Of edges with the same ends, all stay; or the first; or the first, and its "
        "weight is how many there were, or the sum of their weights.",
    )
    self_loops: Literal["keep", "drop", "add"] = Field(
        "keep", description="Self loops stay; go; or each node gets one in place of those there."
    )
    undirected: bool = Field(default=False, description="Each edge also goes the other way.")
    reverse: bool = Field(default=False, description="Sources and targets are exchanged.")
    keep_rows: bool = Field(
        default=False, description="The graph tells which row each edge came from."
    )
    memory: int | None = Field(
        None,
        ge=1,
        description="Build in parts that take at most so many MiB, for a graph larger than memory; "
        "it is the same graph.",
    )

    def columns(self) -> Columns:
        """Which columns mean what."""
        return Columns(self.source, self.target, self.weight, self.type, self.time, self.node)

    def recipe(self) -> Recipe:
        """Which graph the edges become."""
        return Recipe(
            duplicates=self.duplicates,
            self_loops=self.self_loops,
            undirected=self.undirected,
            reverse=self.reverse,
            keep_rows=self.keep_rows,
        )

    def edges(self, rows: int, nodes: int) -> int:
        """How many edges so many rows become at most."""
        return rows * (1 + self.undirected) + (nodes if self.self_loops == "add" else 0)

    def _attribute_bytes(self) -> int:
        """What the arrays beside the sources take by edge."""
        weights = 4 * (self.weight is not None or self.duplicates == "count")
        return weights + 2 * (self.type is not None) + 8 * (self.time is not None)

    def graph_bytes(self, *, nodes: int, edges: int) -> int:
        """What a graph of so many nodes and edges takes."""
        by_edge = 4 + self._attribute_bytes() + 4 * self.keep_rows
        return 8 * (nodes + 1) + by_edge * edges

    def building_bytes(self, *, nodes: int, edges: int) -> int:
        """What building it in memory from so many rows takes, the result with it."""
        listed = self._attribute_bytes()
        rows = 4 * bool(listed and not self.keep_rows)
        found = self.edges(edges, nodes)
        return self.graph_bytes(nodes=nodes, edges=found) + listed * edges + rows * found


def can_build(
    parameters: CscParameters, inputs: tuple[Any, ...]
) -> tuple[tuple[str, ...], str] | None:
    """Refuse what does not go together before anything is read.

    Args:
        parameters: `with:` of the step.
        inputs: One for each input.

    Returns:
        The path of the parameter and what is wrong with it, or None.

    Example:
        >>> from mbflow.steps.graph_csc import CscParameters, can_build
        >>> can_build(CscParameters(nodes=5), (None, None))
        (('nodes',), 'the table of nodes says how many there are; leave it out')
    """
    if len(inputs) > 1 and parameters.nodes is not None:
        return ("nodes",), "the table of nodes says how many there are; leave it out"
    if len(inputs) > 2:
        for name, wrong in (
            ("undirected", parameters.undirected),
            ("self_loops", parameters.self_loops != "keep"),
        ):
            if wrong:
                return (name,), "sources and targets are different nodes, as a third input says"
    return None


class SourceRows(EdgeFiles):
    """The rows of a source that pass its `where`, as an edge table.

    Args:
        source: The source.

    Example:
        >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
        >>> from mbflow.flow.source import Source
        >>> from mbflow.steps.graph_csc import SourceRows
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pq.write_table(pa.table({"src": [1, 2, 3]}), folder + "/a.parquet")
        ...     rows = SourceRows(Source.open("edges", folder, where="src > 1"))
        ...     rows.rows, [table["src"].to_pylist() for table in rows.tables(["src"])]
        (2, [[2, 3]])
    """

    def __init__(self, source: Source) -> None:
        files = [TableFile(file.path, file.rows, file.size, file.modified) for file in source.files]
        super().__init__(files, source.schema)
        self.source = source
        self.rows = source.rows()

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read some columns of the rows, about a million at a time."""
        if self.source.where is None:
            yield from super().tables(columns)
            return
        waiting: list[pa.RecordBatch] = []
        rows = 0
        for batch in self.source.batches(columns):
            waiting.append(batch)
            rows += batch.num_rows
            if rows >= _PIECE_ROWS:
                yield pa.Table.from_batches(waiting)
                waiting, rows = [], 0
        if rows:
            yield pa.Table.from_batches(waiting)

    def locate(self, row: int) -> tuple[Path, int]:
        """The file that a row stands in, and its number in it."""
        if self.source.where is not None:
            row = int(self.source.positions()[row])
        return self.source.locate(row)


def csc(context: Context, parameters: CscParameters) -> None:
    """Run `graph.csc`.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["graph.csc"].gives
        'csc'
    """
    tables = [SourceRows(source) for source in _sources(context.inputs)]
    edges, nodes, source_nodes = [*tables, None, None][:3]
    assert edges is not None
    done = 0

    def watch(rows: int) -> None:
        nonlocal done
        done += rows
        # All rows are read twice: to count the edges of each node, and to put them into place.
        context.progress(min(done, 2 * edges.rows), 2 * edges.rows, "rows", "building the graph")

    graph = graph_from_parquet(
        edges,
        parameters.columns(),
        parameters.recipe(),
        nodes=parameters.nodes if nodes is None else nodes,
        source_nodes=source_nodes,
        ids=parameters.ids,
        out=context.folder_beside(_GRAPH),
        memory=None if parameters.memory is None else parameters.memory << 20,
        watch=watch,
    )
    degrees = graph.in_degrees()
    figures = {
        "nodes": graph.nodes,
        "source_nodes": graph.source_nodes,
        "edges": graph.edges,
        "most_incoming": int(degrees.max(initial=0)),
        "without_incoming": int((degrees == 0).sum()),
        "bytes": graph.nbytes,
    }
    context.write(pa.table({name: [value] for name, value in figures.items()}))
    carried = ("weights", "types", "times", "rows", "ids", "source_ids")
    names = [name for name in carried if getattr(graph, name) is not None]
    context.meta.update(figures=figures, carries=names)
    context.table("The graph", ["of the graph", "value"], _rows(figures))
    if names:
        context.note(f"carries {', '.join(name.replace('_', ' ') for name in names)}")
    negative = 0 if graph.weights is None else int((graph.weights < 0).sum())
    if negative:
        context.note(
            f"{negative:,} edges have a weight below 0; `method: weighted` cannot draw by them"
        )
    _histogram(context, degrees)


def _sources(inputs: tuple[Any, ...]) -> list[Source]:
    assert all(isinstance(source, Source) for source in inputs)
    return list(inputs)


def _rows(figures: dict[str, Any]) -> list[list[str]]:
    shown = {
        "nodes": "nodes",
        "source_nodes": "nodes that edges come from",
        "edges": "edges",
        "most_incoming": "edges of the node with most",
        "without_incoming": "nodes without any",
    }
    rows = [[text, f"{figures[name]:,}"] for name, text in shown.items() if name in figures]
    return [*rows, ["size", shown_size(figures["bytes"])]]


def _histogram(context: Context, degrees: np.ndarray[Any, np.dtype[np.int64]]) -> None:
    """A chart of how many nodes have how many incoming edges, by powers of two."""
    if not len(degrees):
        return
    # Degree 0 stands alone, then 1, 2 to 3, 4 to 7 and so on.
    place = np.frexp(degrees)[1]
    counts = np.bincount(place)
    groups = ["0", *(str(1 << power) for power in range(len(counts) - 1))]
    context.chart(
        "Nodes by incoming edges, from so many to the next mark",
        ylabel="nodes",
        groups=groups[: len(counts)],
        series=[{"name": "nodes", "mean": counts.tolist()}],
        decimals=0,
    )


@dataclass(frozen=True)
class ForeseenGraph:
    """What is known of the output of `graph.csc` before it runs.

    Attributes:
        nodes: How many there are, or None where only reading all edges would tell.
        edges: How many there are at most.
        size: Bytes of the graph; without its offsets where `nodes` is None.

    Example:
        >>> from mbflow.steps.graph_csc import ForeseenGraph
        >>> ForeseenGraph(None, 10, 40).edges
        10
    """

    nodes: int | None
    edges: int
    size: int


def forecast_csc(
    parameters: CscParameters, inputs: tuple[Any, ...], seed: int, source: Source | None
) -> Forecast | None:
    """Nodes, edges, the size of the graph and the memory that building it takes.

    Args:
        parameters: `with:` of the step.
        inputs: The sources.
        seed: Not used.
        source: Not used.

    Returns:
        A `ForeseenGraph` with its figures.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["graph.csc"].forecast.__name__
        'forecast_csc'
    """
    del seed, source
    sources = _sources(inputs)
    columns = parameters.columns()
    tables = [SourceRows(given) for given in sources]
    tables[0].need([columns.source, columns.target, *columns.attributes.values()])
    nodes = parameters.nodes
    if nodes is None and len(tables) > 1:
        nodes = tables[2 if parameters.reverse and len(tables) > 2 else 1].rows
    elif nodes is None and parameters.ids != "mapped":
        nodes = _largest(sources[0], (columns.source, columns.target))
    edges = parameters.edges(tables[0].rows, nodes or 0)
    size = parameters.graph_bytes(nodes=nodes or 0, edges=edges)
    if parameters.memory is None:
        building = parameters.building_bytes(nodes=nodes or 0, edges=tables[0].rows)
    else:
        building = parameters.memory << 20
    figures = {"nodes": nodes, "edges": edges, "bytes": size, "building_bytes": building}
    rows = [
        ["nodes", "not known before the edges are read" if nodes is None else f"{nodes:,}"],
        ["edges", f"{edges:,}" + (" at most" if parameters.duplicates != "keep" else "")],
        ["size", shown_size(size)],
        ["memory for building it", shown_size(building)],
    ]
    table = {"title": "The graph", "columns": ["of the graph", "value"], "rows": rows}
    return Forecast(ForeseenGraph(nodes, edges, size), figures, (table,), 1)


def _largest(source: Source, columns: tuple[str, str]) -> int | None:
    """How many nodes the largest id asks for, where the footers of the files tell."""
    largest = -1
    for file in source.files:
        with foreign_errors(file.path):
            metadata = pq.read_metadata(file.path)
            for index in range(metadata.num_row_groups):
                group = metadata.row_group(index)
                for at in range(group.num_columns):
                    column = group.column(at)
                    if column.path_in_schema not in columns:
                        continue
                    known = column.statistics
                    if known is None or not known.has_min_max or not isinstance(known.max, int):
                        return None
                    largest = max(largest, known.max)
    return largest + 1


def open_graph(dataset: Dataset, *, verify: bool = False) -> Graph:
    """The graph in the output of `graph.csc`, by memory map.

    Args:
        dataset: The output, as a later step has it in `context.inputs`.
        verify: Read everything and compare it with the checksums. A run has done so for outputs
            that it reuses.

    Returns:
        The graph; it is pickled as its path.

    Raises:
        DataError: The output holds no graph, or a file of it is missing or damaged.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mbflow.flow.dataset import Dataset
        >>> from mbflow.steps.graph_csc import open_graph
        >>> open_graph(Dataset(Path("steps/graph"), {}))
        Traceback (most recent call last):
        ...
        mbflow.errors.DataError: steps/graph: there is no folder `graph` beside this output
    """
    return Graph.open(dataset.folder_beside(_GRAPH), verify=verify)
