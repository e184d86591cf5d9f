"""Columns of edge tables of other types than expected: times of any unit, text, sparse ids."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from types import NoneType

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graph_lists import same
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.graph import Graph, NodeIds


def time_files(folder: Path, *types: pa.DataType) -> Path:
    """A file of two edges for each type, with the times of 2024-01-01 or, for integers, 5."""
    folder.mkdir()
    for number, kind in enumerate(types):
        moment = 5 if pa.types.is_integer(kind) else date(2024, 1, 1)
        table = pa.table({"src": [1, 2], "dst": [0, 0], "at": pa.array([moment] * 2).cast(kind)})
        pq.write_table(table, folder / f"{number}.parquet")
    return folder


@pytest.mark.parametrize("memory", [None, 1 << 20])
def test_files_with_times_of_several_units(tmp_path, memory):
    kinds = [pa.timestamp(unit) for unit in ("ms", "us", "ns")]
    zone = pa.timestamp("ms", "Asia/Tokyo")
    folder = time_files(tmp_path / "edges", *kinds, zone, pa.date32())
    out = None if memory is None else tmp_path / "graph"
    graph = Graph.from_parquet(folder, time="at", out=out, memory=memory)
    assert set(graph.times.tolist()) == {1_704_067_200_000_000}
    dates = Graph.from_edges([1], [0], times=[date(2024, 1, 1)])
    assert set(graph.times.tolist()) == set(dates.times.tolist())


@pytest.mark.parametrize("memory", [None, 1 << 20])
@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ([pa.date32(), pa.int64()], r"1\.parquet: column `at`: of type int64, but date32"),
        ([pa.int32(), pa.int64(), pa.timestamp("us")], r"2\.parquet: column `at`: of type timest"),
    ],
)
def test_files_of_integers_and_of_times_do_not_mix(tmp_path, kinds, message, memory):
    folder = time_files(tmp_path / "edges", *kinds)
    out = None if memory is None else tmp_path / "graph"
    with pytest.raises(DataError, match=message):
        Graph.from_parquet(folder, time="at", out=out, memory=memory)
    assert Graph.from_parquet(sorted(folder.iterdir())[0], time="at").edges == 2


SPARSE = "134217727; for larger ones give `nodes=`, how many there are or a table of them"


@pytest.mark.parametrize("memory", [None, 1 << 20])
def test_sparse_ids_are_told_how_they_become_dense(tmp_path, memory):
    file = tmp_path / "edges.parquet"
    pq.write_table(pa.table({"src": [5, 10**12], "dst": [0, 1]}), file)
    options = {"out": None if memory is None else tmp_path / "graph", "memory": memory}
    with pytest.raises(DataError, match=f'{SPARSE}, or map them with ids="mapped"$') as caught:
        Graph.from_parquet(file, **options)
    assert caught.value.row == 1
    # The advice holds: so it works.
    assert Graph.from_parquet(file, ids="mapped", **options).nodes == 4
    with pytest.raises(DataError, match=r"expected ids from 0 to 4$"):
        Graph.from_parquet(file, nodes=5, **options)


@pytest.mark.parametrize(
    ("given_edges", "named"),
    [(pl.DataFrame({"src": [1]}), "DataFrame"), (5, "int"), (None, "NoneType"), ([1], "int")],
)
def test_a_table_in_memory_is_no_path(tmp_path, given_edges, named):
    with pytest.raises(
        InvalidArgumentError, match=rf"edges: of type .*{named}; .*Graph.from_edges"
    ):
        Graph.from_parquet(given_edges)
    for number in range(2):
        pq.write_table(pa.table({"src": [1], "dst": [number]}), tmp_path / f"{number}.parquet")
    if not isinstance(given_edges, int | NoneType):
        with pytest.raises(InvalidArgumentError, match=rf"nodes: .*{named}; .*NodeIds.of"):
            Graph.from_parquet(tmp_path, nodes=given_edges)
    expected = Graph.from_edges([1, 1], [0, 1], nodes=300)
    paths = iter(sorted(tmp_path.iterdir()))
    assert same(Graph.from_parquet(paths, nodes=np.int64(300)), expected)


def test_names_of_one_kind_of_nodes_only(tmp_path):
    pq.write_table(pa.table({"src": ["a", "b"], "dst": ["x", "x"]}), tmp_path / "edges.parquet")
    known = {"nodes": NodeIds.of(["x"]), "source_nodes": NodeIds.of(["a", "b"])}
    assert Graph.from_parquet(tmp_path, **known).nodes == 1
    for options, message in (
        ({"source_nodes": known["source_nodes"]}, "nodes: column `dst` holds text; give `nodes=`"),
        (
            {**known, "source_nodes": 2},
            "source_nodes: column `src` holds text; give `source_nodes=",
        ),
    ):
        with pytest.raises(InvalidArgumentError, match=f"^{message}"):
            Graph.from_parquet(tmp_path, **options)


def test_text_where_numbers_are_expected(tmp_path):
    numbers, text = tmp_path / "0.parquet", tmp_path / "1.parquet"
    pq.write_table(pa.table({"src": [1], "dst": [0], "w": [1.0]}), numbers)
    pq.write_table(pa.table({"src": ["1"], "dst": ["0"], "w": ["1"]}), text)
    for files, options, message in (
        ([numbers, text], {}, r"1\.parquet: column `src`: holds text; expected int.*0\.parquet"),
        ([numbers, text], {"ids": "mapped"}, r"1\.parquet: column `src`: holds text; expected int"),
        ([text, numbers], {}, r"0\.parquet: column `src`: holds integers; expected text"),
        (text, {"ids": "dense"}, 'holds text; expected integers, leave out ids="dense"'),
        (text, {"weight": "w"}, r"1\.parquet: column `w`: holds text; expected numbers"),
        (text, {"time": "w"}, r"1\.parquet: column `w`: holds text; expected integers, or dates"),
    ):
        with pytest.raises(DataError, match=message):
            Graph.from_parquet(files, **options)


def test_masked_entries_are_refused():
    masked = np.ma.array([1, 2], mask=[False, True])
    with pytest.raises(DataError, match="sources: row 1 is masked; expected a value in each row"):
        Graph.from_edges(masked, [0, 0])
    with pytest.raises(DataError, match="weights: row 1 is masked"):
        Graph.from_edges([1, 2], [0, 0], weights=masked.astype(np.float32))
    whole = np.ma.array([1, 2], mask=False)
    same(Graph.from_edges(whole, [0, 0]), Graph.from_edges([1, 2], [0, 0]))


@pytest.mark.parametrize("memory", [None, 1 << 20])
def test_sums_of_weights_that_float32_does_not_hold(tmp_path, memory):
    table = pa.table({"src": [1, 1], "dst": [0, 0], "w": pa.array([3e38, 3e38], pa.float32())})
    pq.write_table(table, tmp_path / "edges.parquet")
    out = None if memory is None else tmp_path / "graph"
    with pytest.raises(DataError, match=r"one such sum is above 3\.4e38"):
        Graph.from_parquet(
            tmp_path / "edges.parquet", weight="w", duplicates="count", out=out, memory=memory
        )
    assert not (tmp_path / "graph").exists()


def test_bytes_that_are_no_text_are_named(tmp_path):
    broken = pa.array([b"a", b"b\xff"], pa.binary()).view(pa.string())
    with pytest.raises(DataError, match=r"ids: row 1 holds b'b\\xff', which is no UTF-8"):
        NodeIds.of(broken)
    file = tmp_path / "edges.parquet"
    pq.write_table(pa.table({"src": broken, "dst": ["a", "b"]}), file)
    with pytest.raises(DataError, match=r"edges\.parquet.*row 1.*which is no UTF-8; expected text"):
        Graph.from_parquet(file)


def test_a_column_that_stands_twice(tmp_path):
    columns = [pa.array([1]), pa.array([1]), pa.array([0])]
    table = pa.Table.from_arrays(columns, names=["src", "src", "dst"])
    pq.write_table(table, tmp_path / "edges.parquet")
    with pytest.raises(
        DataError, match=r"edges\.parquet: 2 columns are called `src`; expected one"
    ):
        Graph.from_parquet(tmp_path / "edges.parquet")


@pytest.mark.parametrize("memory", ["1g", 0, -1, 1.5, True])
def test_memory_is_a_number_of_bytes(tmp_path, memory):
    pq.write_table(pa.table({"src": [1], "dst": [0]}), tmp_path / "edges.parquet")
    with pytest.raises(InvalidArgumentError, match=r"memory is .*; expected a whole number of at"):
        Graph.from_parquet(tmp_path / "edges.parquet", out=tmp_path / "graph", memory=memory)
    assert not (tmp_path / "graph").exists()
