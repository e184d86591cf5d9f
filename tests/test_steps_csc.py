"""The step `graph.csc`: what it writes, what it says before it runs, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graph_lists import random_list, same
from mbflow.errors import DataError, PipelineError
from mbflow.flow.preview import preview
from mbflow.flow.validate import Pipeline, parse
from mbflow.graph import Graph
from mbflow.steps import CATALOGUE, run
from mbflow.steps.graph_csc import open_graph

TEXT = """\
mbflow: 1
name: graph
seed: 5
sources:
  edges: {{use: parquet, with: {{path: {folder}/edges{where}}}}}
  nodes: {{use: parquet, with: {{path: {folder}/nodes.parquet}}}}
  others: {{use: parquet, with: {{path: {folder}/others.parquet}}}}
steps:
  graph: {{use: graph.csc, from: {inputs}, with: {parameters}}}
run: {{out: {folder}/runs, threads: 2}}
"""
SOURCES, TARGETS = random_list(3000, 100, seed=9)
WEIGHTS = np.random.default_rng(9).random(3000, np.float32)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "edges").mkdir()
    for number in range(2):
        part = slice(number * 1500, (number + 1) * 1500)
        columns = {"src": SOURCES[part], "dst": TARGETS[part], "w": WEIGHTS[part]}
        pq.write_table(pa.table(columns), tmp_path / f"edges/{number}.parquet", row_group_size=400)
    pq.write_table(pa.table({"x": np.zeros(120)}), tmp_path / "nodes.parquet")
    pq.write_table(pa.table({"id": np.arange(110)}), tmp_path / "others.parquet")
    return tmp_path


def pipeline(
    folder: Path, parameters: str = "{}", *, inputs: str = "edges", where: str = ""
) -> Pipeline:
    where = f', where: "{where}"' if where else ""
    text = TEXT.format(folder=folder, parameters=parameters, inputs=inputs, where=where)
    # What no step reads would be refused.
    names = [name for name in ("nodes", "others") if name not in inputs]
    lines = [line for line in text.splitlines() if not line.strip().startswith(tuple(names or "#"))]
    return parse("\n".join(lines), "graph.yaml", catalogue=CATALOGUE)


def test_the_output_is_the_graph(folder):
    result = run(pipeline(folder, "{weight: w, undirected: true, duplicates: count}"))
    output = result.outputs["graph"]
    expected = Graph.from_edges(
        SOURCES, TARGETS, weights=WEIGHTS, undirected=True, duplicates="count"
    )
    graph = open_graph(output, verify=True)
    assert same(graph, expected)
    (row,) = output.table().to_pylist()
    assert row == {
        "nodes": 100,
        "source_nodes": 100,
        "edges": expected.edges,
        "most_incoming": int(expected.in_degrees().max()),
        "without_incoming": int((expected.in_degrees() == 0).sum()),
        "bytes": expected.nbytes,
    }
    assert output.meta["carries"] == ["weights"]


def test_rows_that_do_not_pass_where_are_no_edges(folder):
    result = run(pipeline(folder, "{weight: w, keep_rows: true}", where="w > 0.5"))
    kept = WEIGHTS > 0.5
    expected = Graph.from_edges(SOURCES[kept], TARGETS[kept], weights=WEIGHTS[kept], keep_rows=True)
    assert same(open_graph(result.outputs["graph"]), expected)


def test_a_bound_on_memory_does_not_change_the_graph(folder):
    result = run(pipeline(folder, "{weight: w, memory: 1}"))
    expected = Graph.from_edges(SOURCES, TARGETS, weights=WEIGHTS)
    assert same(open_graph(result.outputs["graph"]), expected)


def test_tables_of_nodes(folder):
    result = run(pipeline(folder, inputs="[edges, nodes]"))
    graph = open_graph(result.outputs["graph"])
    assert same(graph, Graph.from_edges(SOURCES, TARGETS, nodes=120))
    result = run(pipeline(folder, inputs="[edges, nodes, others]"))
    graph = open_graph(result.outputs["graph"])
    assert same(graph, Graph.from_edges(SOURCES, TARGETS, nodes=120, source_nodes=110))


def test_damage_is_noticed_and_mended(folder):
    first = run(pipeline(folder))
    file = first.outputs["graph"].folder / "_graph" / "sources.bin"
    data = file.read_bytes()
    file.write_bytes(b"\xff" + data[1:])
    again = run(pipeline(folder))
    assert again.outputs["graph"].folder == first.outputs["graph"].folder
    assert file.read_bytes() == data
    modified = file.stat().st_mtime_ns
    run(pipeline(folder))
    assert file.stat().st_mtime_ns == modified  # what is sound is not made again


@pytest.mark.parametrize(
    ("parameters", "inputs", "figures"),
    [
        ("{}", "edges", (100, 3000, 101 * 8 + 3000 * 4)),
        ("{undirected: true, weight: w}", "[edges, nodes]", (120, 6000, 121 * 8 + 6000 * 8)),
        ("{self_loops: add, keep_rows: true}", "edges", (100, 3100, 101 * 8 + 3100 * 8)),
        ("{ids: mapped}", "edges", (None, 3000, 8 + 3000 * 4)),
        ("{reverse: true}", "[edges, nodes, others]", (110, 3000, 111 * 8 + 3000 * 4)),
    ],
)
def test_the_forecast(folder, parameters, inputs, figures):
    foreseen = preview(pipeline(folder, parameters, inputs=inputs))
    found = foreseen["steps"][0]["forecast"]
    assert (found["nodes"], found["edges"], found["bytes"]) == figures
    assert found["building_bytes"] >= found["bytes"]
    graph = open_graph(run(pipeline(folder, parameters, inputs=inputs)).outputs["graph"])
    assert graph.edges <= found["edges"]
    if figures[0] is not None:
        assert graph.nodes == figures[0]
        assert graph.nbytes <= found["bytes"]


def test_an_edge_that_cannot_be_used_is_told_by_file_and_row(folder):
    parameters = "{nodes: 50}"
    row = int(((SOURCES >= 50) | (TARGETS >= 50)).argmax())
    with pytest.raises(DataError, match=rf"edges/0\.parquet, row {row}: (source|target) "):
        run(pipeline(folder, parameters))
    kept = np.flatnonzero(np.arange(3000) >= 1500)
    late = np.flatnonzero(WEIGHTS[kept] > 0.5)
    bad = next(at for at in late if SOURCES[1500 + at] >= 50 or TARGETS[1500 + at] >= 50)
    (folder / "edges/0.parquet").unlink()
    with pytest.raises(DataError, match=rf"edges/1\.parquet, row {bad}: (source|target) "):
        run(pipeline(folder, parameters, where="w > 0.5"))


def test_what_does_not_go_together_is_refused_before_anything_runs(folder):
    for parameters, inputs, message in (
        ("{nodes: 5}", "[edges, nodes]", "the table of nodes says how many there are"),
        ("{undirected: true}", "[edges, nodes, others]", "sources and targets are different nodes"),
        ("{self_loops: drop}", "[edges, nodes, others]", "sources and targets are different nodes"),
        ("{duplicates: merge}", "edges", "or `count`, found `merge`"),
    ):
        with pytest.raises(PipelineError, match=message):
            pipeline(folder, parameters, inputs=inputs)
    with pytest.raises(DataError, match="no column `from`; it has: src, dst, w"):
        run(pipeline(folder, "{source: from}"))
