"""The graph's Python side: the result type, recall against brute force, determinism."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from mbflow import _native
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.select import Graph, exact_recall, hash_graph, hashing, kth_distances


def rows_of(graph):
    return [list(part) for part in np.split(graph.neighbours, graph.offsets[1:-1])]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(1, 4), st.integers(1, 8), st.integers(0, 10**6))
def test_in_one_bucket_the_graph_is_exact(rows, columns, neighbours, seed):
    features = np.random.default_rng(seed).integers(0, 5, (rows, columns)).astype(np.float32)
    graph = hash_graph(features, neighbours=neighbours, bucket_cap=1000)
    assert rows_of(graph) == oracles.exact_neighbours(features, neighbours)
    assert graph.rows == rows
    assert graph.edges == rows * min(neighbours, rows - 1)
    assert exact_recall(graph, features) == 1.0


@pytest.mark.parametrize("block", [7, 30, 65_536])
def test_kth_distances_agree_with_loops(block, monkeypatch):
    monkeypatch.setattr(hashing, "_BLOCK_ROWS", block)
    monkeypatch.setattr(hashing, "_QUERIES", 2)
    features = np.random.default_rng(0).standard_normal((80, 5)).astype(np.float32) + 100
    asked = np.array([3, 77, 0])
    for k in (1, 5, 79):
        expected = []
        for row in asked:
            gaps = np.sqrt(((features - features[row]).astype(np.float64) ** 2).sum(axis=1))
            expected.append(np.sort(np.delete(gaps, row))[k - 1])
        np.testing.assert_allclose(
            kth_distances(features, asked, neighbours=k), expected, rtol=1e-6
        )
    with pytest.raises(InvalidArgumentError, match="neighbours is 80; expected 1 to 79"):
        kth_distances(features, asked, neighbours=80)


def test_recall_counts_what_is_wrong():
    features = np.arange(10, dtype=np.float32).reshape(-1, 1) ** 2
    right = [j for i in range(10) for j in oracles.exact_neighbours(features, 2)[i]]
    wrong = right.copy()
    wrong[1], wrong[10] = 9, 0
    itself = right.copy()
    itself[0] = 0

    def recall(neighbours):
        offsets = np.arange(0, 21, 2)
        return exact_recall(
            Graph(offsets, np.array(neighbours, np.int32), np.zeros(20, np.float32), {}), features
        )

    assert recall(right) == 1.0
    assert recall(wrong) == pytest.approx(0.9)
    assert recall(itself) == pytest.approx(0.95)


def test_recall_counts_ties_for_whichever_row_was_taken():
    features = np.zeros((6, 2), np.float32)
    offsets, neighbours = oracles.ragged([[5], [3], [4], [0], [1], [2]])
    graph = Graph(offsets, neighbours, np.zeros(6, np.float32), {})
    assert exact_recall(graph, features) == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neighbours": np.array([0, 2], np.int32)}, "none of its 2 rows"),
        ({"neighbours": np.array([0, -1], np.int32)}, "none of its 2 rows"),
        ({"neighbours": np.array([0, 1])}, "neighbours are int64 of shape (2,); expected a NumPy"),
        ({"neighbours": [0, 1]}, "neighbours are list; expected"),
        ({"offsets": np.array([0, 1, 3])}, "offsets do not go from 0 to 2"),
        ({"distances": np.zeros(3, np.float32)}, "2 neighbours and 3 distances"),
        ({"weights": np.zeros(1, np.float32)}, "2 neighbours and 1 weights"),
    ],
)
def test_graphs_are_checked(change, message):
    given = {
        "offsets": np.array([0, 1, 2]),
        "neighbours": np.array([1, 0], np.int32),
        "distances": np.ones(2, np.float32),
        "stats": {},
    }
    assert Graph(**given).edges == 2
    with pytest.raises(InvalidArgumentError, match=re.escape(message)):
        Graph(**given | change)


def test_recall_of_ragged_and_empty_graphs():
    features = np.arange(4, dtype=np.float32).reshape(-1, 1)
    offsets, neighbours = oracles.ragged([[1, 2, 3], [], [1], [0]])
    graph = Graph(offsets, neighbours, np.zeros(5, np.float32), {})
    assert exact_recall(graph, features) == pytest.approx(4 / 5)
    empty = Graph(np.zeros(5, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), {})
    assert exact_recall(empty, features) == 1.0
    with pytest.raises(InvalidArgumentError, match="the graph has 4 rows and the features 3"):
        exact_recall(graph, features[:3])


def test_more_probes_find_more_and_results_do_not_depend_on_threads():
    features = np.random.default_rng(1).standard_normal((6000, 12)).astype(np.float32)
    few = hash_graph(features, probes=1, refinements=0, bucket_cap=64)
    many = hash_graph(features, probes=40, bucket_cap=64)
    assert exact_recall(few, features) < exact_recall(many, features)
    before = _native.num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            _native.set_num_threads(threads)
            results.append(hash_graph(features, seed=3))
    finally:
        _native.set_num_threads(before)
    for other in results[1:]:
        assert np.array_equal(results[0].neighbours, other.neighbours)
        assert np.array_equal(results[0].distances, other.distances)


@pytest.mark.parametrize("family", ["sign", "p_stable"])
@pytest.mark.parametrize("projections", ["gaussian", "sparse"])
def test_all_settings_reach_the_kernel(family, projections):
    features = np.random.default_rng(2).standard_normal((2000, 8)).astype(np.float32)
    width = {"width": 0.5} if family == "p_stable" else {}
    graph = hash_graph(
        features,
        neighbours=5,
        bits=6,
        family=family,
        projections=projections,
        bucket_cap=128,
        probes=8,
        refinements=2,
        seed=9,
        **width,
    )
    assert graph.edges == 10_000
    assert exact_recall(graph, features) > 0.7


def test_refusals_come_through():
    with pytest.raises(DataError):
        hash_graph(np.array([[1.0], [np.nan]], np.float32))
    with pytest.raises(InvalidArgumentError):
        hash_graph(np.zeros((3, 1), np.float32), neighbours=0)
