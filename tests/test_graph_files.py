"""Graphs from Parquet and in files: the same as from lists, and what is wrong is told by file."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graph_lists import arrays, random_list, same
from mbflow.errors import DataError, InvalidArgumentError, ResourceError
from mbflow.graph import Graph, NodeIds
from mbflow.graph.edge_files import EdgeFiles
from mbflow.graph.spill import plan_ranges
from mbflow.graph.storage import GraphWriter
from mbflow.graph.tables import Columns, EdgeTable

SOURCES, TARGETS = random_list(4000, 300, skew=2)
WEIGHTS = np.random.default_rng(2).random(4000, np.float32)
TYPES = np.random.default_rng(3).integers(0, 7, 4000, np.uint16)
TIMES = np.random.default_rng(4).integers(-9, 9, 4000)
CARRIED = {"weights": WEIGHTS, "types": TYPES, "times": TIMES}
NAMED = {"weight": "w", "type": "kind", "time": "at"}


def edge_files(folder: Path, table: pa.Table | None = None, *, files: int = 3) -> Path:
    """The edges above in a folder of files of several row groups each."""
    if table is None:
        columns = {"src": SOURCES, "dst": TARGETS, "w": WEIGHTS, "kind": TYPES, "at": TIMES}
        table = pa.table({"other": ["x"] * len(SOURCES), **columns})
    place = folder / "edges"
    place.mkdir()
    each = -(-table.num_rows // files)
    for number in range(files):
        part = table.slice(number * each, each)
        pq.write_table(part, place / f"{number}.parquet", row_group_size=300)
    return place


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    duplicates=st.sampled_from(["keep", "drop", "count"]),
    self_loops=st.sampled_from(["keep", "drop", "add"]),
    undirected=st.booleans(),
    reverse=st.booleans(),
    nodes=st.sampled_from([None, 300, 400]),
    carried=st.booleans(),
    memory=st.sampled_from([None, 30_000, 1 << 24]),
    keep_rows=st.booleans(),
)
def test_parquet_gives_the_graph_of_the_list(
    tmp_path, duplicates, self_loops, undirected, reverse, nodes, carried, memory, keep_rows
):
    folder = tmp_path / "edges" if (tmp_path / "edges").exists() else edge_files(tmp_path)
    rules = {
        "duplicates": duplicates,
        "self_loops": self_loops,
        "undirected": undirected,
        "reverse": reverse,
        "keep_rows": keep_rows,
    }
    expected = Graph.from_edges(
        SOURCES, TARGETS, nodes=nodes, **rules, **(CARRIED if carried else {})
    )
    out = None if memory is None else tmp_path / "graph"
    graph = Graph.from_parquet(
        folder, nodes=nodes, out=out, memory=memory, **rules, **(NAMED if carried else {})
    )
    if memory is not None and keep_rows and self_loops == "add":
        # Rows of any number of edges are wider, and so is the mark of an edge without one.
        assert graph.rows.dtype == np.uint64
        rows = np.where(graph.rows == (1 << 64) - 1, (1 << 32) - 1, graph.rows)
        assert {**arrays(graph), "rows": rows.tolist()} == arrays(expected)
    else:
        assert same(graph, expected)
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_relation_between_two_kinds(tmp_path):
    # Most targets are above all sources, which is no reason to refuse them.
    folder = edge_files(tmp_path, pa.table({"src": SOURCES, "dst": TARGETS + 200}))
    for reverse in (False, True):
        nodes, source_nodes = (300, 510) if reverse else (510, 300)
        expected = Graph.from_edges(
            SOURCES, TARGETS + 200, nodes=nodes, source_nodes=source_nodes, reverse=reverse
        )
        options = {"nodes": 510, "source_nodes": 300, "reverse": reverse}
        assert same(Graph.from_parquet(folder, **options), expected)
        stored = Graph.from_parquet(folder, out=tmp_path / "g", memory=1 << 15, **options)
        assert same(stored, expected)


def test_a_file_a_folder_a_pattern_or_several(tmp_path):
    folder = edge_files(tmp_path)
    (folder / "_hidden").mkdir()
    (folder / "_hidden" / "x.parquet").write_bytes(b"no table")
    expected = Graph.from_edges(SOURCES, TARGETS)
    files = sorted(folder.glob("*.parquet"))
    for given_edges in (folder, str(folder), f"{folder}/[0-9].parquet", files):
        assert same(Graph.from_parquet(given_edges), expected)
    half = -(-len(SOURCES) // 3)
    assert same(
        Graph.from_parquet(files[0], nodes=300),
        Graph.from_edges(SOURCES[:half], TARGETS[:half], nodes=300),
    )


def test_columns_of_other_types_and_names(tmp_path):
    table = pa.table(
        {
            "a": pa.array(SOURCES, pa.uint8() if SOURCES.max() < 256 else pa.int16()),
            "b": pa.array(TARGETS, pa.uint64()),
            "w": pa.array(TIMES, pa.int8()),
            "at": pa.array(TIMES.astype("datetime64[D]")),
        }
    )
    graph = Graph.from_parquet(
        edge_files(tmp_path, table), source="a", target="b", weight="w", time="at"
    )
    days = TIMES * 86_400_000_000
    assert same(graph, Graph.from_edges(SOURCES, TARGETS, weights=TIMES, times=days))


def test_no_edges(tmp_path):
    table = pa.table({"src": pa.array([], pa.int64()), "dst": pa.array([], pa.int64())})
    folder = edge_files(tmp_path, table, files=1)
    for memory in (None, 1 << 20):
        for nodes, expected in ((None, [0]), (2, [0, 0, 0])):
            graph = Graph.from_parquet(folder, nodes=nodes, out=tmp_path / "g", memory=memory)
            assert graph.offsets.tolist() == expected
            assert graph.edges == 0
    assert Graph.from_parquet(folder, ids="mapped").nodes == 0


# Names


def names_of(ids: np.ndarray) -> list[str]:
    return [f"node {number}" for number in ids]


def test_text_is_mapped_in_ascending_order(tmp_path):
    table = pa.table({"src": names_of(SOURCES), "dst": names_of(TARGETS)})
    folder = edge_files(tmp_path, table)
    graph = Graph.from_parquet(folder)
    known = sorted({*names_of(SOURCES), *names_of(TARGETS)})
    assert graph.ids.values.to_pylist() == known
    place = {name: number for number, name in enumerate(known)}
    expected = Graph.from_edges(
        [place[name] for name in names_of(SOURCES)], [place[name] for name in names_of(TARGETS)]
    )
    assert arrays(graph) == arrays(expected)
    stored = Graph.from_parquet(folder, out=tmp_path / "graph", memory=1 << 15)
    assert arrays(stored) == arrays(expected)
    opened = Graph.open(tmp_path / "graph", verify=True)
    assert opened.ids.values.to_pylist() == known
    assert opened.reversed().ids.values.to_pylist() == known
    assert pickle.loads(pickle.dumps(opened)).ids.decode([0]).to_pylist() == known[:1]


def test_sparse_numbers_are_mapped_as_a_table_of_nodes_says(tmp_path):
    spread = np.random.default_rng(5).permutation(300) * 10**12 + 7
    table = pa.table({"src": spread[SOURCES], "dst": spread[TARGETS]})
    folder = edge_files(tmp_path, table)
    pq.write_table(pa.table({"id": spread, "x": spread}), tmp_path / "nodes.parquet")
    expected = Graph.from_edges(SOURCES, TARGETS, nodes=300)
    graph = Graph.from_parquet(folder, nodes=tmp_path / "nodes.parquet")
    assert arrays(graph) == arrays(expected)
    assert (graph.ids.values.to_numpy() == spread).all()
    graph = Graph.from_parquet(folder, nodes=NodeIds.of(spread))
    assert arrays(graph) == arrays(expected)
    graph = Graph.from_parquet(folder, ids="mapped")
    assert graph.ids.values.to_pylist() == sorted(
        {*table["src"].to_pylist(), *table["dst"].to_pylist()}
    )
    with pytest.raises(
        DataError, match=r"0\.parquet, row 0: .*expected ids from 0 to 134217727; for"
    ):
        Graph.from_parquet(folder)


def test_a_table_of_nodes_without_other_ids_is_a_number(tmp_path):
    folder = edge_files(tmp_path)
    pq.write_table(pa.table({"x": np.zeros(310)}), tmp_path / "plain.parquet")
    pq.write_table(pa.table({"id": np.arange(310)}), tmp_path / "numbered.parquet")
    for nodes in ("plain", "numbered"):
        graph = Graph.from_parquet(folder, nodes=tmp_path / f"{nodes}.parquet")
        assert (graph.nodes, graph.ids) == (310, None)
        assert same(graph, Graph.from_edges(SOURCES, TARGETS, nodes=310))


def test_a_relation_with_names_of_both_kinds(tmp_path):
    table = pa.table({"src": ["b", "a"], "dst": [30, 20]})
    folder = edge_files(tmp_path, table, files=1)
    graph = Graph.from_parquet(
        folder, nodes=NodeIds.of([20, 30]), source_nodes=NodeIds.of(["a", "b", "c"])
    )
    assert (graph.offsets.tolist(), graph.sources.tolist()) == ([0, 1, 2], [0, 1])
    graph = graph.save(tmp_path / "graph")
    assert graph.source_nodes == 3
    assert graph.source_ids.values.to_pylist() == ["a", "b", "c"]
    back = Graph.from_parquet(
        folder, nodes=NodeIds.of([20, 30]), source_nodes=NodeIds.of(["a", "b", "c"]), reverse=True
    )
    assert back.ids.values.to_pylist() == ["a", "b", "c"]
    assert same(back, graph.reversed())


def test_an_id_of_no_node(tmp_path):
    sources = names_of(SOURCES)
    sources[2500] = "nobody"
    table = pa.table({"src": sources, "dst": names_of(TARGETS)})
    ids = NodeIds.of(names_of(np.arange(300)))
    with pytest.raises(
        DataError, match=r"1\.parquet, row 1166: column `src`: 'nobody' is no node"
    ) as caught:
        Graph.from_parquet(edge_files(tmp_path, table), nodes=ids)
    assert caught.value.row == 2500


# What cannot be used


def replaced(column: str, row: int, value: object) -> pa.Table:
    columns = {"src": SOURCES, "dst": TARGETS, "w": WEIGHTS, "kind": TYPES, "at": TIMES}
    lists = {name: values.tolist() for name, values in columns.items()}
    lists[column][row] = value
    return pa.table(lists)


@pytest.mark.parametrize("memory", [None, 1 << 20])
@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("src", 3900, None, r"2\.parquet, row 1232: column `src`: null; expected a value"),
        ("dst", 3900, None, r"2\.parquet, row 1232: column `dst`: null"),
        ("w", 1400, None, r"1\.parquet, row 66: column `w`: null"),
        ("w", 1400, float("nan"), r"1\.parquet, row 66: column `w`: nan; expected a finite"),
        ("kind", 2, 70_000, r"0\.parquet, row 2: column `kind`: 70000; expected 0 to 65535"),
        ("src", 1400, -4, r"1\.parquet, row 66: source -4; expected ids from 0 to 299"),
        ("dst", 1400, 300, r"1\.parquet, row 66: target 300; expected ids from 0 to 299"),
        ("src", 1400, 1.5, r"0\.parquet: column `src`: of type float64; expected integers"),
    ],
)
def test_what_cannot_be_used_is_told_with_file_and_row(
    tmp_path, column, row, value, message, memory
):
    folder = edge_files(tmp_path, replaced(column, row, value))
    out = None if memory is None else tmp_path / "graph"
    with pytest.raises(DataError, match=message) as caught:
        Graph.from_parquet(folder, nodes=300, out=out, memory=memory, **NAMED)
    assert caught.value.row == (None if value == 1.5 else row)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edges"]


def test_files_that_cannot_be_read(tmp_path):
    folder = edge_files(tmp_path)
    for given_edges, message in (
        (tmp_path / "none.parquet", "there is no such file or folder"),
        (f"{tmp_path}/*.csv", "there is no such file or folder|no file matches"),
        ([], "no file is named"),
    ):
        with pytest.raises(DataError, match=message):
            Graph.from_parquet(given_edges)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"the folder holds no file \*\.parquet"):
        Graph.from_parquet(tmp_path / "empty")
    with pytest.raises(DataError, match=r"0\.parquet: no column `from`; it has: other, src, dst"):
        Graph.from_parquet(folder, source="from")
    with pytest.raises(DataError, match=r"no column `weight`"):
        Graph.from_parquet(folder, weight="weight")
    pq.write_table(pa.table({"src": [1]}), folder / "3.parquet")
    with pytest.raises(DataError, match=r"3\.parquet: no column `dst`; it has: src"):
        Graph.from_parquet(folder)
    (folder / "3.parquet").write_bytes(b"PAR1 and so on")
    with pytest.raises(DataError, match=r"3\.parquet: cannot be read as Parquet"):
        Graph.from_parquet(folder)


def test_a_damaged_page_is_noticed(tmp_path):
    folder = tmp_path / "edges"
    folder.mkdir()
    table = pa.table({"src": SOURCES, "dst": TARGETS})
    pq.write_table(
        table,
        folder / "a.parquet",
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
    )
    data = bytearray((folder / "a.parquet").read_bytes())
    data[len(data) // 4] ^= 1
    (folder / "a.parquet").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as Parquet: .*CRC"):
        Graph.from_parquet(folder)


def test_a_file_that_changes_while_it_is_read(tmp_path):
    folder = edge_files(tmp_path)
    tables = EdgeFiles.find(folder, what="edges").tables(["src", "dst"])
    next(tables)
    os.utime(folder / "1.parquet", ns=(1, 1))
    with pytest.raises(DataError, match=r"1\.parquet: it changed while it was read"):
        list(tables)
    table = EdgeTable(EdgeFiles.find(folder, what="edges"), Columns())
    pq.write_table(pa.table({"src": [0, 1], "dst": [1, 0]}), folder / "2.parquet")
    with pytest.raises(DataError, match=r"2\.parquet: it changed while it was read"):
        list(table)


def test_arguments_that_do_not_fit(tmp_path):
    folder = edge_files(tmp_path)
    with pytest.raises(InvalidArgumentError, match="memory: bounds what is stored with `out`"):
        Graph.from_parquet(folder, memory=1 << 20)
    with pytest.raises(InvalidArgumentError, match="ids: expected auto, dense or mapped"):
        Graph.from_parquet(folder, ids="sparse")
    with pytest.raises(InvalidArgumentError, match=r"nodes: a number \(5\) and ids to be mapped"):
        Graph.from_parquet(folder, nodes=5, ids="mapped")
    with pytest.raises(ResourceError, match=r"the edges of nodes 0 to 0 take \d+ bytes, and 1000"):
        Graph.from_parquet(folder, out=tmp_path / "g", memory=1000)
    with pytest.raises(InvalidArgumentError, match="is no stored graph; give another path"):
        Graph.from_parquet(folder, out=folder)


@given(
    st.lists(st.integers(0, 20), max_size=30),
    st.integers(0, 4),
    st.integers(0, 3),
    st.integers(1, 9),
)
def test_ranges_fit_into_memory(edges, shift, missing, edge_bytes):
    nodes = max(0, (len(edges) << shift) - min(missing, (1 << shift) - 1))
    memory = 20 * edge_bytes + (24 << shift)
    counts = np.array(edges, np.uint64)
    firsts = plan_ranges(counts, nodes=nodes, shift=shift, edge_bytes=edge_bytes, memory=memory)
    assert (firsts[0], firsts[-1]) == (0, nodes)
    taken = []
    for first, last in pairwise(firsts):
        bins = range(first >> shift, -(-last >> shift))
        taken.append(sum(edges[at] * edge_bytes + (24 << shift) for at in bins))
        assert taken[-1] <= memory
        assert first % (1 << shift) == 0
    # No range could have taken the first bin of the next one.
    for now, first in zip(taken, firsts[1:-1], strict=False):
        assert now + edges[first >> shift] * edge_bytes + (24 << shift) > memory


# Stored graphs


@pytest.fixture
def stored(tmp_path) -> Graph:
    graph = Graph.from_edges(SOURCES, TARGETS, keep_rows=True, **CARRIED)
    return graph.save(tmp_path / "graph")


def test_a_stored_graph_is_the_same(stored):
    expected = Graph.from_edges(SOURCES, TARGETS, keep_rows=True, **CARRIED)
    assert same(stored, expected)
    assert same(Graph.open(stored.path, verify=True), expected)
    for name in ("offsets", "sources", "weights", "types", "times", "rows"):
        array = getattr(stored, name)
        assert array.dtype == getattr(expected, name).dtype
        assert array.ctypes.data % 128 == 0
        assert not array.flags.writeable
        assert not array.flags.owndata
        file = stored.path / f"{name}.bin"
        assert file.read_bytes() == getattr(expected, name).tobytes()
    manifest = json.loads((stored.path / "graph.json").read_text())
    assert (manifest["nodes"], manifest["edges"]) == (stored.nodes, 4000)
    assert sorted(manifest["arrays"]) == sorted(CARRIED.keys() | {"offsets", "sources", "rows"})


def test_saving_again_replaces_the_graph_and_nothing_else(stored):
    smaller = Graph.from_edges([1], [0])
    assert same(smaller.save(stored.path), smaller)
    assert sorted(path.name for path in stored.path.iterdir()) == [
        "graph.json",
        "offsets.bin",
        "sources.bin",
    ]
    assert stored.weights.sum() == pytest.approx(WEIGHTS.sum())  # what is mapped stays
    assert [path.name for path in stored.path.parent.iterdir()] == ["graph"]
    for name in ("other", "file"):
        place = stored.path.parent / name
        if name == "file":
            place.write_text("of value")
        else:
            place.mkdir()
            (place / "of value").write_text("")
        with pytest.raises(
            InvalidArgumentError, match=f"{name}: is there already and is no stored"
        ):
            smaller.save(place)
        assert place.exists()
    (stored.path.parent / "blank").mkdir()
    assert smaller.save(stored.path.parent / "blank").edges == 1


def test_a_graph_that_is_not_finished_leaves_nothing(tmp_path, stored):
    before = sorted(path.read_bytes() for path in stored.path.iterdir())

    def interrupted():
        with GraphWriter(stored.path) as writer:
            writer.append("offsets", np.zeros(1, np.uint64))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(path.read_bytes() for path in stored.path.iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["graph"]
    with (
        GraphWriter(tmp_path / "other") as writer,
        pytest.raises(InvalidArgumentError, match="sources: expected uint32, got int64"),
    ):
        writer.append("sources", np.zeros(1, np.int64))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="the graph cannot be written: "):
        Graph.from_edges([1], [0]).save(tmp_path / "file" / "graph")


def _sum_and_place(graph: Graph) -> tuple[float, str, int]:
    return float(graph.weights.sum(dtype=np.float64)), str(graph.path), len(pickle.dumps(graph))


def test_worker_processes_open_the_same_files(stored):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(_sum_and_place, [stored] * 2)
    assert found == [_sum_and_place(stored)] * 2
    assert found[0][2] < 1000


def test_another_graph_in_the_place_of_the_pickled_one(stored):
    data = pickle.dumps(stored)
    Graph.from_edges([1], [0]).save(stored.path)
    with pytest.raises(DataError, match="another graph than the one that was pickled"):
        pickle.loads(data)


@pytest.mark.parametrize("name", ["offsets", "sources", "weights", "types", "times", "rows"])
@pytest.mark.parametrize("change", ["truncated", "longer", "missing", "changed"])
def test_a_damaged_file_is_named(stored, name, change):
    file = stored.path / f"{name}.bin"
    data = bytearray(file.read_bytes())
    match change:
        case "truncated":
            file.write_bytes(data[:-1])
            message = rf"{name}\.bin: {len(data) - 1} bytes, expected {len(data)}; build"
        case "longer":
            file.write_bytes(data + b"x")
            message = rf"{name}\.bin: {len(data) + 1} bytes, expected {len(data)}; build"
        case "missing":
            file.unlink()
            message = rf"{name}\.bin: No such file or directory; build"
        case _:
            data[-8] ^= 1
            file.write_bytes(data)
            message = rf"{name}\.bin: does not match its checksum .*; build"
            if name != "offsets":
                Graph.open(stored.path)
    with pytest.raises(DataError, match=message):
        Graph.open(stored.path, verify=True)
    if change != "changed":
        with pytest.raises(DataError, match=message):
            Graph.open(stored.path)


@pytest.mark.parametrize(
    ("node", "value", "message"),
    [
        (0, 1, "expected to start at 0, got 1"),
        (-1, 3999, "expected to end at the number of edges, 4000, got 3999"),
        (7, 1 << 40, "node 7 ends at .* before its start 1099511627776"),
        (7, 0, "node 6 ends at 0 before its start"),
    ],
)
def test_offsets_that_cannot_be_are_refused_on_opening(stored, node, value, message):
    file = stored.path / "offsets.bin"
    offsets = np.fromfile(file, np.uint64)
    offsets[node] = value
    offsets.tofile(file)
    with pytest.raises(DataError, match=rf"offsets\.bin: damaged: offsets: {message}"):
        Graph.open(stored.path)


def test_sources_that_are_no_nodes_are_found_by_verifying(tmp_path):
    with GraphWriter(tmp_path / "graph") as writer:
        writer.append("offsets", np.array([0, 2], np.uint64))
        writer.append("sources", np.array([0, 1], np.uint32))
        writer.finish(source_nodes=1)
    with pytest.raises(
        DataError, match=r"sources\.bin: .*edge 1 comes from node 1, and there are 1"
    ):
        Graph.open(tmp_path / "graph", verify=True)


def test_a_damaged_manifest(stored):
    file = stored.path / "graph.json"
    data = file.read_bytes()
    for wrong in (data[:-20], b"", b"[]", data.replace(b"4000", b"4001"), b"[" * 100_000):
        file.write_bytes(wrong)
        with pytest.raises(DataError, match=r"graph\.json: damaged"):
            Graph.open(stored.path)
    for at in range(0, len(data), 7):
        file.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(DataError):
            Graph.open(stored.path)
    file.unlink()
    with pytest.raises(DataError, match=r"no stored graph \(no graph\.json in it\)"):
        Graph.open(stored.path)
    shutil.rmtree(stored.path)
    with pytest.raises(DataError, match="there is no such folder"):
        Graph.open(stored.path)


def test_names_beside_a_graph_are_checked(tmp_path):
    table = pa.table({"src": ["a", "b"], "dst": ["c", "c"]})
    graph = Graph.from_parquet(edge_files(tmp_path, table, files=1), out=tmp_path / "graph")
    file = graph.path / "ids.parquet"
    data = bytearray(file.read_bytes())
    data[10] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"ids\.parquet: does not match its checksum"):
        Graph.open(graph.path, verify=True)
    file.write_bytes(data[:-3])
    with pytest.raises(DataError, match=r"ids\.parquet: \d+ bytes, expected"):
        Graph.open(graph.path)


def test_an_empty_graph_is_stored(tmp_path):
    graph = Graph.from_edges([], [], weights=[]).save(tmp_path / "graph")
    assert (graph.nodes, graph.edges, graph.weights.tolist()) == (0, 0, [])
    assert Graph.open(tmp_path / "graph", verify=True).offsets.tolist() == [0]
