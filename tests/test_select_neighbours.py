"""Neighbour graphs of every kind against slow oracles, their weights, refusals and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbflow import _native
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.select import exact_recall, kth_distances, neighbour_graph
from mbflow.select.neighbours import KIND_OPTIONS

METRICS = ("euclidean", "manhattan", "cosine")


def distance(metric, a, b):
    """By the definition, in Python floats."""
    a, b = [float(value) for value in a], [float(value) for value in b]
    if metric == "euclidean":
        return math.dist(a, b)
    if metric == "manhattan":
        return sum(abs(x - y) for x, y in zip(a, b, strict=True))
    lengths = math.hypot(*a), math.hypot(*b)
    if 0 in lengths:
        return 0.0 if lengths == (0, 0) else 1.0
    return 1 - sum(x * y for x, y in zip(a, b, strict=True)) / lengths[0] / lengths[1]


def edges_of(graph):
    rows = np.repeat(np.arange(graph.rows), np.diff(graph.offsets))
    return list(zip(rows.tolist(), graph.neighbours.tolist(), strict=True))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 5),
    st.integers(1, 9),
    st.sampled_from(METRICS),
    st.sampled_from(list(KIND_OPTIONS)),
    st.integers(0, 10**6),
)
def test_distances_are_those_of_the_metric(rows, columns, neighbours, metric, kind, seed):
    features = np.random.default_rng(seed).integers(-2, 3, (rows, columns)).astype(np.float32)
    graph = neighbour_graph(features, kind=kind, neighbours=neighbours, metric=metric, seed=seed)
    assert graph.metric == metric
    assert graph.stats["kind"] == kind
    # So few rows are in one bucket, view or batch: all kinds are exact.
    assert graph.edges == rows * min(neighbours, rows - 1)
    assert exact_recall(graph, features) == 1.0
    for (row, other), got in zip(edges_of(graph), graph.distances, strict=True):
        assert row != other
        assert got == pytest.approx(distance(metric, features[row], features[other]), abs=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", list(KIND_OPTIONS))
def test_threads_do_not_matter_and_seeds_do(kind, metric):
    features = np.random.default_rng(3).standard_normal((3000, 6)).astype(np.float32)
    options = {"batch_rows": 200} if kind == "mini_batch" else {}
    if kind not in ("exact", "mini_batch"):
        options = {"bucket_cap": 40}
    if kind != "exact":
        options["descents"] = 1
    before = _native.num_threads()
    graphs = []
    try:
        for threads in (1, 2, 5):
            _native.set_num_threads(threads)
            graphs.append(neighbour_graph(features, kind=kind, metric=metric, **options))
    finally:
        _native.set_num_threads(before)
    for other in graphs[1:]:
        assert np.array_equal(graphs[0].neighbours, other.neighbours)
        assert np.array_equal(graphs[0].distances, other.distances)
        if other.weights is not None:
            assert np.array_equal(graphs[0].weights, other.weights)
    another = neighbour_graph(features, kind=kind, metric=metric, seed=8, **options)
    assert np.array_equal(another.neighbours, graphs[0].neighbours) == (kind == "exact")


@pytest.mark.parametrize("metric", METRICS)
def test_kth_distances_agree_with_loops_in_every_metric(metric):
    features = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    features[[3, 9]] = 0
    for k in (1, 7, 59):
        expected = [
            sorted(distance(metric, features[row], other) for other in np.delete(features, row, 0))[
                k - 1
            ]
            for row in (0, 3, 41)
        ]
        found = kth_distances(features, np.array([0, 3, 41]), neighbours=k, metric=metric)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(InvalidArgumentError, match="metric is 'l3'; expected one of euclidean"):
        kth_distances(features, np.array([0]), neighbours=1, metric="l3")


@pytest.mark.parametrize("metric", METRICS)
def test_the_exact_graph_has_full_recall_and_hashing_less(metric):
    features = np.random.default_rng(1).standard_normal((3000, 10)).astype(np.float32)
    exact = neighbour_graph(features, kind="exact", metric=metric)
    assert exact_recall(exact, features) == 1.0
    recalls = [
        exact_recall(
            neighbour_graph(features, kind="multi_view", views=views, metric=metric, bucket_cap=64),
            features,
        )
        for views in (1, 4, 16)
    ]
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.5 < recalls[2] < 1.0


@pytest.mark.parametrize("family", ["sign", "p_stable"])
def test_weights_say_how_often_and_how_finely_rows_meet(family):
    features = np.random.default_rng(2).standard_normal((2000, 8)).astype(np.float32)
    views = neighbour_graph(features, kind="multi_view", views=5, bucket_cap=50, family=family)
    assert set(np.round(views.weights * 5).astype(int)) <= {1, 2, 3, 4, 5}
    levels = neighbour_graph(features, kind="multi_level", levels=3, bucket_cap=50, family=family)
    assert set(np.round(levels.weights * 3).astype(int)) == {1, 2, 3}
    assert levels.stats["largest_bucket"] <= 200
    # Nearer rows meet more often, and at finer levels.
    for graph in (views, levels):
        by_rank = graph.weights.reshape(2000, 10).mean(axis=0)
        assert by_rank[0] > by_rank[9] + 0.05
    weights = dict(zip(edges_of(levels), levels.weights.tolist(), strict=True))
    both = [pair for pair in weights if pair[::-1] in weights]
    assert len(both) > 1000
    assert all(weights[pair] == weights[pair[::-1]] for pair in both)


def test_batches_by_percentile_agree_with_loops():
    features = np.random.default_rng(4).standard_normal((90, 3)).astype(np.float32)
    for metric in METRICS:
        graph = neighbour_graph(
            features, kind="mini_batch", batch_rows=100, percentile=95, metric=metric
        )
        pairs = [(i, j) for i in range(90) for j in range(i)]
        gaps = [distance(metric, features[i], features[j]) for i, j in pairs]
        alike = [1 - gap if metric == "cosine" else 1 / (1 + gap) for gap in gaps]
        limit = np.percentile(alike, 95)
        expected = {pair for pair, value in zip(pairs, alike, strict=True) if value > limit}
        found = edges_of(graph)
        assert {(max(pair), min(pair)) for pair in found} == expected
        assert len(found) == 2 * len(expected)
        values = dict(zip(pairs, alike, strict=True))
        expected_weights = [values[max(pair), min(pair)] for pair in found]
        np.testing.assert_allclose(graph.weights, expected_weights, atol=1e-5)


def test_batches_hold_the_mixture_of_any_labels_and_overlap():
    features = np.random.default_rng(5).standard_normal((400, 3)).astype(np.float32)
    labels = np.array(["rare" if row % 8 == 0 else "often" for row in range(400)])
    graph = neighbour_graph(
        features, kind="mini_batch", labels=labels, batch_rows=40, neighbours=39
    )
    for row in range(400):
        batch = [row, *graph.neighbours[graph.offsets[row] : graph.offsets[row + 1]]]
        assert len(batch) == 40
        assert (labels[batch] == "rare").sum() == 5
    for overlap, batches in ((0.5, 20), (0.75, 40)):
        more = neighbour_graph(
            features, kind="mini_batch", labels=labels, batch_rows=40, overlap=overlap
        )
        assert more.stats["buckets"] == batches
    apart = neighbour_graph(features, kind="mini_batch", labels=labels, batch_rows=40)
    assert exact_recall(more, features) > exact_recall(apart, features)


@pytest.mark.parametrize("kind", list(KIND_OPTIONS))
def test_small_and_degenerate_input(kind):
    one = neighbour_graph(np.ones((1, 2), np.float32), kind=kind)
    assert (one.rows, one.edges) == (1, 0)
    equal = neighbour_graph(np.ones((700, 2), np.float32), kind=kind, neighbours=3, metric="cosine")
    assert equal.edges == 2100
    assert not equal.distances.any()
    few = neighbour_graph(np.array([[0.0], [2.0], [5.0]], np.float32), kind=kind, neighbours=50)
    assert few.neighbours.tolist() == [1, 2, 0, 2, 1, 0]
    with pytest.raises((DataError, InvalidArgumentError), match="row"):
        neighbour_graph(np.zeros((0, 2), np.float32), kind=kind)
    with pytest.raises(DataError, match="row 1"):
        neighbour_graph(np.array([[1.0], [np.inf]], np.float32), kind=kind)


def test_options_of_other_kinds_are_refused():
    features = np.zeros((5, 2), np.float32)
    cases = {
        "exact": ({"descents": 1}, "descents does not apply to kind 'exact', only to mini_batch"),
        "mini_batch": ({"probes": 3}, "probes does not apply .* only to single_level; leave it"),
        "single_level": ({"views": 3}, "views does not apply"),
        "multi_level": ({"labels": np.zeros(5)}, "labels does not apply"),
        "multi_view": ({"levels": 2}, "levels does not apply"),
    }
    for kind, (options, message) in cases.items():
        with pytest.raises(InvalidArgumentError, match=message):
            neighbour_graph(features, kind=kind, **options)
    with pytest.raises(InvalidArgumentError, match="kind is 'knn'; expected one of exact, mini_ba"):
        neighbour_graph(features, kind="knn")
    with pytest.raises(InvalidArgumentError, match="metric: expected 'euclidean', 'manhattan' or"):
        neighbour_graph(features, metric="hamming")
    with pytest.raises(InvalidArgumentError, match=r"overlap: expected a share from 0 to 0\.95"):
        neighbour_graph(features, kind="mini_batch", overlap=1.0)
    with pytest.raises(InvalidArgumentError, match="labels: expected one for each of 5 rows"):
        neighbour_graph(features, kind="mini_batch", labels=[0, 1])
    with pytest.raises(DataError, match="label"):
        neighbour_graph(features, kind="mini_batch", labels=[0, 1, None, 0, 1])
    with pytest.raises(InvalidArgumentError, match="neighbour_graph: "):
        neighbour_graph(features, kind="multi_view", views=-1)
