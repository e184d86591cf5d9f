"""Graphs from edge lists: against a slow way, for any rules, types and number of threads."""

from __future__ import annotations

import pickle
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_lists import arrays, oracle, random_list, same
from mbflow import _native
from mbflow._native import csc
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.graph import Batches, Graph, HeteroGraph, NeighbourSampler, NodeIds
from mbflow.graph.columns import time_values

RULES = st.fixed_dictionaries(
    {
        "duplicates": st.sampled_from(["keep", "drop", "count"]),
        "self_loops": st.sampled_from(["keep", "drop", "add"]),
        "undirected": st.booleans(),
        "reverse": st.booleans(),
    }
)
IDS = st.integers(0, 12)
EDGES = st.lists(st.tuples(IDS, IDS, st.integers(-8, 8), st.integers(0, 3)), max_size=60)


@pytest.fixture
def threads():
    before = _native.num_threads()
    yield _native.set_num_threads
    _native.set_num_threads(before)


@settings(deadline=None, max_examples=150)
@given(
    edges=EDGES,
    rules=RULES,
    more=st.none() | st.integers(0, 3),
    carried=st.booleans(),
    dtype=st.sampled_from([np.int64, np.int32, np.uint32, np.uint64, np.int16, np.uint8]),
)
def test_a_graph_is_what_sorting_gives(edges, rules, more, carried, dtype):
    sources, targets = [edge[0] for edge in edges], [edge[1] for edge in edges]
    nodes = None if more is None else 13 + more
    extra = {}
    if carried:
        extra = {
            "weights": [edge[2] / 4 for edge in edges],
            "types": [edge[3] for edge in edges],
            "times": [edge[2] for edge in edges],
        }
    graph = Graph.from_edges(
        np.array(sources, dtype),
        np.array(targets, dtype),
        nodes=nodes,
        keep_rows=True,
        **rules,
        **extra,
    )
    assert arrays(graph) == oracle(sources, targets, nodes=nodes, **rules, **extra)
    assert graph.source_nodes == graph.nodes
    bare = Graph.from_edges(sources, targets, nodes=nodes, **rules)
    assert bare.rows is None
    assert bare.sources.tolist() == graph.sources.tolist()
    assert bare.offsets.tolist() == graph.offsets.tolist()


@given(edges=EDGES, reverse=st.booleans(), more=st.integers(0, 2), known=st.booleans())
def test_a_relation_between_two_kinds(edges, reverse, more, known):
    sources, targets = [edge[0] for edge in edges], [edge[1] + 20 for edge in edges]
    numbers = (13 + more, 33 + more) if reverse else (33 + more, 13 + more)
    nodes, source_nodes = numbers if known else (None, numbers[1])
    options = {"nodes": nodes, "source_nodes": source_nodes, "reverse": reverse}
    graph = Graph.from_edges(sources, targets, keep_rows=True, **options)
    assert arrays(graph) == oracle(sources, targets, **options)
    assert graph.source_nodes == source_nodes


@settings(deadline=None, max_examples=50)
@given(edges=EDGES, carried=st.booleans())
def test_reversing_twice_gives_the_same_graph(edges, carried):
    sources, targets = [edge[0] for edge in edges], [edge[1] for edge in edges]
    extra = {"weights": [edge[2] for edge in edges], "keep_rows": True} if carried else {}
    graph = Graph.from_edges(sources, targets, nodes=15, **extra)
    assert same(graph.reversed(), Graph.from_edges(targets, sources, nodes=15, **extra))
    assert same(graph.reversed().reversed(), graph)


def test_any_number_of_threads_gives_the_same_bytes(threads):
    # Several blocks, ranges of nodes of very different sizes, and a wide node.
    sources, targets = random_list(2_000_000, 70_000, skew=3)
    weights = np.random.default_rng(1).random(len(sources), np.float32)
    found = []
    for count in (1, 2, 3):
        threads(count)
        found.append(
            Graph.from_edges(
                sources,
                targets,
                weights=weights,
                duplicates="count",
                keep_rows=True,
                undirected=True,
            )
        )
    for other in found[1:]:
        for name in ("offsets", "sources", "weights", "rows"):
            assert getattr(other, name).tobytes() == getattr(found[0], name).tobytes()
    plain = Graph.from_edges(sources, targets, keep_rows=True)
    order = np.lexsort((sources, targets))
    assert (plain.rows == order).all()
    assert (plain.sources == sources[order]).all()
    assert (plain.in_degrees() == np.bincount(targets, minlength=plain.nodes)).all()


def test_no_edges_and_no_nodes():
    graph = Graph.from_edges([], [])
    assert (graph.nodes, graph.edges, graph.offsets.tolist()) == (0, 0, [0])
    graph = Graph.from_edges([], [], nodes=3, self_loops="add", weights=[], duplicates="count")
    assert (graph.sources.tolist(), graph.weights.tolist()) == ([0, 1, 2], [1.0, 1.0, 1.0])
    graph = Graph.from_edges(np.empty(0, np.uint32), [], nodes=3)
    assert (graph.nodes, graph.edges) == (3, 0)
    assert graph.neighbours(2).tolist() == []


def test_isolated_nodes_have_no_neighbours():
    graph = Graph.from_edges([4], [2], nodes=7)
    assert graph.in_degrees().tolist() == [0, 0, 1, 0, 0, 0, 0]
    with pytest.raises(InvalidArgumentError, match="node: expected 0 to 6, got 7"):
        graph.neighbours(7)


def test_a_node_with_a_million_neighbours():
    hub, most = 3, 1_000_000
    sources = np.random.default_rng(0).permutation(most).astype(np.uint32)
    graph = Graph.from_edges(sources, np.full(most, hub, np.uint32), keep_rows=True)
    assert graph.nodes == most
    assert (graph.neighbours(hub) == np.arange(most)).all()
    assert (sources[graph.rows] == graph.sources).all()
    graph = Graph.from_edges(sources % 5, np.full(most, hub, np.uint32), duplicates="count")
    assert graph.weights.tolist() == [most / 5] * 5


def test_undirected_adds_a_self_loop_once():
    graph = Graph.from_edges([0, 1], [0, 0], undirected=True, keep_rows=True)
    assert [graph.neighbours(node).tolist() for node in range(2)] == [[0, 1], [0]]
    assert graph.rows.tolist() == [0, 1, 1]


def test_equal_edges_keep_the_order_of_their_rows():
    graph = Graph.from_edges([1, 1, 1], [0, 0, 0], times=[30, 10, 20], keep_rows=True)
    assert (graph.times.tolist(), graph.rows.tolist()) == ([30, 10, 20], [0, 1, 2])


@pytest.mark.parametrize(
    "columns",
    [
        (pl.Series([1, 2]), pl.Series([0, 0])),
        (pa.array([1, 2]), pa.chunked_array([[0], [0]])),
        ((1, 2), range(1)),
        (np.array([1, 2], ">i8"), np.array([0, 0, 9])[:2]),
        (np.arange(6)[1:4:1][:2], np.zeros(4, np.int32)[::2]),
    ],
)
def test_columns_of_any_kind(columns):
    sources, targets = columns
    if len(targets) == 1:
        targets = [0, 0]
    assert Graph.from_edges(sources, targets).neighbours(0).tolist() == [1, 2]


MORNING = datetime(2024, 1, 1, 9, tzinfo=ZoneInfo("Asia/Tokyo"))
MIDNIGHT = datetime(2024, 1, 1)  # noqa: DTZ001  - what has no zone is UTC
DAY = 1_704_067_200_000_000


@pytest.mark.parametrize(
    "times",
    [
        [MORNING],
        [MIDNIGHT],
        [date(2024, 1, 1)],
        np.array([MIDNIGHT], object),
        *[np.array(["2024-01-01"], f"datetime64[{unit}]") for unit in ("D", "s", "ms", "us", "ns")],
        np.array(["2024"], "datetime64[Y]"),
        np.array(["2024-01-01"], ">M8[s]"),
        pl.Series([date(2024, 1, 1)]),
        *[pl.Series([MIDNIGHT]).cast(pl.Datetime(unit)) for unit in ("ms", "us", "ns")],
        pl.Series([MORNING]),
        pa.array([date(2024, 1, 1)], pa.date32()),
        pa.array([date(2024, 1, 1)], pa.date64()),
        pa.array([MORNING], pa.timestamp("ns", "Asia/Tokyo")),
        pa.chunked_array([[MIDNIGHT]], pa.timestamp("s")),
    ],
)
def test_dates_and_times_of_any_kind_become_microseconds(times):
    graph = Graph.from_edges([1], [0], times=times)
    assert graph.times.dtype == np.int64
    assert graph.times.tolist() == [DAY]
    # Seeds speak of time in the same types.
    sampler = NeighbourSampler(graph, [1], temporal=True)
    for before, found in ((0, [0]), (1, [0, 1])):
        after = graph.times + before
        assert sampler.sample([0], times=after).nodes.tolist() == found
    assert sampler.sample([0], times=times).nodes.tolist() == [0]
    batches = Batches(sampler, [0], 1, times=times)
    assert batches.batch(0, 0).nodes.tolist() == [0]
    later = Batches(sampler, [0], 1, times=[MIDNIGHT + timedelta(microseconds=1)])
    assert later.batch(0, 0).nodes.tolist() == [0, 1]


def test_what_is_finer_than_a_microsecond_is_rounded_down():
    times = np.array([-1, -1000, -1001, 1999], "datetime64[ns]")
    assert time_values(times).tolist() == [-1, -1, -2, 1]


def test_seeds_of_several_types_have_dates_too():
    edges = Graph.from_edges([0], [0], times=[MIDNIGHT])
    sampler = NeighbourSampler(HeteroGraph({("a", "to", "a"): edges}), [1], temporal=True)
    for moment, found in ((MIDNIGHT, 0), (MIDNIGHT + timedelta(days=1), 1)):
        sample = sampler.sample({"a": [0]}, times={"a": [moment]})
        assert sum(len(layer.edges) for layer in sample.layers[0].values()) == found
    with pytest.raises(InvalidArgumentError, match="times of 'a': holds text; expected integers"):
        sampler.sample({"a": [0]}, times={"a": ["2024-01-01"]})


@pytest.mark.parametrize(
    ("times", "row", "message"),
    [
        ([5, MIDNIGHT], 0, "times: 5 in row 0; expected a date or time, as others are"),
        ([np.datetime64("2024-01-01"), 5], 1, "times: 5 in row 1; expected a date or time"),
        ([MIDNIGHT, None], 1, "times: null in row 1; expected a value"),
        (pl.Series([MIDNIGHT, None]), 1, "times: null in row 1"),
        (np.array(["2020-01-01", "NaT"], "datetime64[s]"), 1, "times: NaT in row 1"),
        (np.array([0, 1 << 53], "datetime64[D]"), 1, "in row 1; expected a time within 292,000"),
        (np.array([1, 2], "timedelta64[s]"), None, r"of type timedelta64\[s\]; expected integers"),
        (["2024-01-01", "2024-01-02"], None, "times: holds text; expected integers, or dates"),
        ([1.5, 2], 0, "times: 1.5 in row 0; expected integers"),
    ],
)
def test_times_that_cannot_be_used(times, row, message):
    with pytest.raises(DataError, match=message) as caught:
        Graph.from_edges([1, 2], [0, 0], times=times)
    assert caught.value.row == row
    sampler = NeighbourSampler(Graph.from_edges([1], [0], times=[1]), [1], temporal=True)
    with pytest.raises(InvalidArgumentError, match=message):
        sampler.sample([0, 0], times=times)
    with pytest.raises(InvalidArgumentError, match=message):
        Batches(sampler, [0, 0], 1, times=times)


BAD = {
    "negative source": ({"sources": [0, -1, -2]}, 1, r"^row 1: source -1; expected ids from 0 to"),
    "target too large": ({"targets": [2, 0, 9]}, 2, "row 2: target 9; expected ids from 0 to 4"),
    "no nodes": ({"nodes": 0}, 0, "row 0: target 2; there are no nodes"),
    "far too large": ({"sources": [0, 1 << 40, 1], "nodes": None}, 1, "source 1099511627776; exp"),
    "reversed": ({"targets": [2, 0, 9], "reverse": True}, 2, "row 2: target 9"),
    "uint64": ({"sources": np.array([1, 1, 1 << 63], np.uint64)}, 2, "9223372036854775808 in row"),
    "null": ({"targets": pl.Series([1, None, 2])}, 1, "targets: null in row 1"),
    "null in a list": ({"targets": [0, None, 2]}, 1, "targets: null in row 1"),
    "sparse": (
        {"sources": [0, 1, 1 << 40], "nodes": None},
        2,
        r"to 134217727; for larger ones give `nodes=`, or map them: `ids = NodeIds.sorted\(",
    ),
    "fraction": ({"sources": [0.0, 1.5, 2.0]}, 1, r"sources: 1\.5 in row 1; expected integers"),
    "nan id": ({"sources": [0.0, 1.0, np.nan]}, 2, "sources: nan in row 2; expected integers"),
    "whole floats": ({"sources": [0.0, 1.0, 2.0]}, None, "of type float64; expected integers"),
    "text": ({"sources": ["a", "b", "c"]}, None, "map names to ids with `mbflow.graph.NodeIds`"),
    "nan weight": ({"weights": [0, 1, np.nan]}, 2, "weights: nan in row 2; expected a finite"),
    "infinite weight": ({"weights": [1e300, 1, 0]}, 0, "weights: 1e+.* in row 0; expected a fin"),
    "text weight": ({"weights": ["a", "b", "c"]}, None, "weights: holds text; expected numbers"),
    "type too large": (
        {"types": [0, 1 << 16, 1]},
        1,
        "types: 65536 in row 1; expected 0 to 65535",
    ),
    "negative type": ({"types": [0, -1, 1]}, 1, "types: -1 in row 1"),
    "late time": ({"times": np.array([1, 1 << 63, 1], np.uint64)}, 1, "times below 2\\^63"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_told_with_its_row(name):
    change, row, message = BAD[name]
    arguments = {"sources": [0, 1, 2], "targets": [2, 0, 1], "nodes": 5, **change}
    with pytest.raises(DataError, match=message) as caught:
        Graph.from_edges(arguments.pop("sources"), arguments.pop("targets"), **arguments)
    assert caught.value.row == row


def test_the_first_bad_row_is_told_for_any_number_of_threads(threads):
    sources = np.zeros(2_000_000, np.int64)
    sources[[1_200_000, 1_200_001, 1_900_000]] = 7
    for count in (1, 3):
        threads(count)
        with pytest.raises(DataError, match="row 1200000: source 7"):
            Graph.from_edges(sources, np.zeros_like(sources), nodes=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": [0]}, "targets: 1 values; expected 2, one for each of sources"),
        ({"weights": [1.0]}, "weights: 1 values; expected 2, one for each edge"),
        ({"types": [1]}, "types: 1 values"),
        ({"times": [1]}, "times: 1 values"),
        ({"sources": [[0, 1]]}, r"sources: an array of shape \(1, 2\)"),
        ({"sources": [[0], [0, 1]]}, "sources: a list of lists of several lengths"),
        ({"sources": {0: 1}}, "sources is of type dict"),
        ({"duplicates": "merge"}, "duplicates: expected one of keep, drop, count, got 'merge'"),
        ({"self_loops": "remove"}, "self_loops: expected one of keep, drop, add"),
        ({"nodes": -1}, r"nodes: expected 0 to 2\^32 - 1, got -1"),
        (
            {"nodes": 3, "source_nodes": 4, "undirected": True},
            "undirected: sources and targets are dif",
        ),
        (
            {"nodes": 3, "source_nodes": 4, "self_loops": "drop"},
            "self_loops: sources and targets are",
        ),
        ({"source_nodes": 4, "self_loops": "add"}, "self_loops: sources and targets are"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    given = {"sources": [0, 1], "targets": [1, 0], **arguments}
    with pytest.raises(InvalidArgumentError, match=message):
        Graph.from_edges(given.pop("sources"), given.pop("targets"), **given)


def test_two_passes_must_see_the_same_edges():
    builder = csc.Builder(3, 3)
    builder.count(np.array([0, 1]), np.array([0, 0]))
    with pytest.raises(InvalidArgumentError, match="other edges than the first"):
        builder.fill(np.array([0, 1, 1]), np.array([2, 2, 2]))
    builder = csc.Builder(3, 3)
    builder.count(np.array([0, 1]), np.array([0, 0]))
    builder.fill(np.array([0]), np.array([0]))
    with pytest.raises(InvalidArgumentError, match="other edges than the first"):
        builder.finish()
    with pytest.raises(InvalidArgumentError, match="builder: it has finished"):
        builder.count(np.array([0]), np.array([0]))
    builder = csc.Builder(3, 3)
    builder.fill(np.empty(0, np.int64), np.empty(0, np.int64))
    with pytest.raises(InvalidArgumentError, match="the second pass has begun"):
        builder.count(np.array([0]), np.array([0]))
    with pytest.raises(InvalidArgumentError, match="arrays of one type: int32, int64"):
        builder.fill(np.array([0.5]), np.array([0]))


def test_a_graph_in_memory_is_pickled_with_its_arrays():
    graph = Graph.from_edges([1, 2], [0, 0], weights=[1, 2], keep_rows=True)
    assert same(pickle.loads(pickle.dumps(graph)), graph)
    assert repr(graph) == "Graph(3 nodes, 2 edges, weights, rows)"
    assert graph.nbytes == 4 * 8 + 3 * 8


# Names


@given(st.lists(st.text(max_size=3) | st.just("ü"), max_size=30))
def test_names_found_in_the_edges_are_sorted(names):
    ids = NodeIds.sorted([names[::2], names[1::2]])
    assert ids.values.to_pylist() == sorted(set(names), key=lambda name: name.encode())
    assert ids.decode(ids.encode(names)).to_pylist() == names if names else len(ids) == 0


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30))
def test_sparse_numbers_become_dense(numbers):
    ids = NodeIds.sorted([numbers])
    assert ids.values.to_pylist() == sorted(set(numbers))
    assert ids.encode(numbers).tolist() == [sorted(set(numbers)).index(n) for n in numbers]


def test_names_that_cannot_be_used():
    ids = NodeIds.of(pa.array(["b", "a"]).dictionary_encode())
    assert ids.encode(pl.Series(["a"])).tolist() == [1]
    for values, row, message in (
        (["a", None], 1, "null in row 1"),
        ([3, 4, 3], 2, "3 in row 2 stands twice"),
        ([0.5], None, "of type double; expected integers or text"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            NodeIds.of(values)
        assert caught.value.row == row
    with pytest.raises(
        DataError, match="ids: holds integers; expected text, as the ids of the nodes are"
    ):
        ids.encode([1])
    with pytest.raises(DataError, match="expected int64"):
        NodeIds.of([1]).encode(np.array([1 << 63], np.uint64))
    with pytest.raises(DataError, match="ids: holds text; expected int64, as the ids"):
        NodeIds.of([1]).encode(["a"])
    with pytest.raises(InvalidArgumentError, match="nodes: expected 0 to 1"):
        ids.decode([2])
    with pytest.raises(InvalidArgumentError, match="nodes: expected integers; `encode` takes"):
        ids.decode(["a"])
    with pytest.raises(InvalidArgumentError, match=r"`graph\.ids\.encode\(\['a'\]\)` gives"):
        Graph.from_edges([1], [0]).neighbours("a")
    assert repr(ids) == "NodeIds(2 nodes)"
