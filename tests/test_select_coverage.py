"""Coverage on the Python side: against plain greedy loops, quotas, editing, representatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from mbflow import _native
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.select import class_quotas, coverage_rows, encode_labels, hash_graph, quotas
from mbflow.select.coverage import Kernel, coverage_graph, edited, neighbour_agreement, noisy_rows


def dense_kernel(features, labels, k):
    """The kernel as its definition says, in float64."""
    features = np.asarray(features, np.float64)
    rows = len(features)
    squares = np.array([[math.dist(a, b) ** 2 for b in features] for a in features])
    near = oracles.exact_neighbours(features, k)
    scale = [squares[i, near[i][-1]] if near[i] else 0.0 for i in range(rows)]
    weights = np.eye(rows)
    for i in range(rows):
        for j in near[i]:
            root = math.sqrt(scale[i] * scale[j])
            value = math.exp(-squares[i, j] / root) if root else float(squares[i, j] == 0)
            weights[i, j] = weights[j, i] = value
    sums = weights.sum(axis=1)
    same = np.equal.outer(np.asarray(labels), np.asarray(labels))
    return weights / np.sqrt(np.outer(sums, sums)) * same


def value(kernel, rows, weights):
    return float((kernel[:, rows].max(axis=1) * weights).sum())


@settings(max_examples=40, deadline=None)
@given(
    st.integers(3, 30), st.integers(1, 6), st.integers(1, 3), st.integers(0, 10**6), st.booleans()
)
def test_each_pick_adds_the_most(rows, k, classes, seed, weighted):
    draw = np.random.default_rng(seed)
    features = draw.standard_normal((rows, 2)).astype(np.float32)
    labels = np.concatenate([np.arange(classes), draw.integers(0, classes, rows - classes)])
    weights = draw.random(rows) if weighted else np.ones(rows)
    count = max(classes, rows // 3)
    found = coverage_rows(features, labels, count=count, neighbours=k, weights=weights)
    kernel = dense_kernel(features, labels, k)
    shares = quotas(np.bincount(labels), count)
    assert np.bincount(labels[found.indices]).tolist() == shares.tolist()
    assert sorted(found.order.tolist()) == found.indices.tolist()
    for code in range(classes):
        of_class = np.flatnonzero(labels == code)
        picked = [row for row in found.order.tolist() if labels[row] == code]
        for place, row in enumerate(picked):
            before = picked[:place]
            floor = value(kernel, before, weights) if before else 0.0
            gains = [
                value(kernel, [*before, other], weights) - floor
                for other in of_class
                if other not in before
            ]
            gain = value(kernel, [*before, row], weights) - floor
            assert gain >= max(gains) - 1e-5
            assert found.gains[found.order.tolist().index(row)] == pytest.approx(gain, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(1, 3), st.integers(0, 10**6))
def test_representatives_are_the_most_alike_of_the_class(rows, k, seed):
    draw = np.random.default_rng(seed)
    features = draw.standard_normal((rows, 2)).astype(np.float32)
    labels = np.concatenate([[0, 1], draw.integers(0, 2, rows - 2)])
    found = coverage_rows(features, labels, count=min(rows, 4), neighbours=k)
    kernel = dense_kernel(features, labels, k)
    for row in range(rows):
        stand_in = found.representatives[row]
        assert labels[stand_in] == labels[row]
        if row in found.indices:
            assert stand_in == row
        elif found.similarities[row] > 0:
            assert kernel[row, stand_in] >= kernel[row, found.indices].max() - 1e-6
        else:
            others = [j for j in found.indices if labels[j] == labels[row]]
            assert kernel[row, others].max() < 1e-6
            gaps = [math.dist(features[row], features[j]) for j in others]
            assert math.dist(features[row], features[stand_in]) == pytest.approx(min(gaps))


def test_every_quota_rule(blobs):
    features, labels = blobs  # 140, 70 and 30 rows

    def kept(count=24, **settings):
        found = coverage_rows(features, labels, count=count, **settings)
        return [int((labels[found.indices] == name).sum()) for name in "abc"]

    assert kept(quotas="equal") == [8, 8, 8]
    assert kept(quotas="proportional") == [14, 7, 3]
    assert kept() == quotas([140, 70, 30], 24, power=0.75).tolist()
    assert kept(quotas={"a": 4, "b": 15, "c": 5}) == [4, 15, 5]
    by_gain = kept(quotas="gain")
    assert sum(by_gain) == 24
    assert min(by_gain) >= 1
    assert kept(count=2) == [1, 1, 1]
    assert kept(count=1, quotas="gain") == [1, 1, 1]
    assert kept(count=240) == [140, 70, 30]
    assert kept(count=240, quotas="gain", edit_noise=True) == [140, 70, 30]


def test_quotas_by_gain_take_the_largest_gains(blobs):
    features, labels = blobs
    everything = coverage_rows(features, labels, count=240)
    by_gain = coverage_rows(features, labels, count=30, quotas="gain")
    assert set(by_gain.order.tolist()) == set(everything.order[:30].tolist())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": 3}, "gives no rows to the class 'b'; expected 1 to 3"),
        ({"a": 2, "b": 4}, "gives 4 rows to the class 'b'; expected 1 to 3"),
        ({"a": 0, "b": 3}, "gives 0 rows to the class 'a'; expected 1 to 5"),
        ({"a": 2, "b": 1, "z": 1}, "names the class 'z', which the labels lack"),
        ({"a": 2, "b": 3}, "adds up to 5 rows and 4 are to be kept"),
        ("gain", "'gain' applies to coverage only"),
        ("best", "quotas is 'best'; expected 'auto', 'power'"),
    ],
)
def test_class_quotas_refuse(given, message):
    with pytest.raises(InvalidArgumentError, match=message):
        class_quotas(list("aaaaabbb"), 4, quotas=given)


def test_class_quotas_of_numbers_go_by_their_names():
    assert class_quotas([10, 9, 10, 9], 3, quotas={9: 1, 10: 2}).tolist() == [1, 2]


def test_a_graph_that_is_given_is_used(blobs):
    features, labels = blobs
    graph = hash_graph(features, neighbours=7, bucket_cap=1000)
    given_graph = coverage_rows(features, labels, count=20, graph=graph)
    default = coverage_rows(features, labels, count=20, neighbours=7)
    other = coverage_rows(features, labels, count=20, neighbours=30)
    assert given_graph.order.tolist() == default.order.tolist()
    assert given_graph.order.tolist() != other.order.tolist()


def test_noise_is_not_kept_but_no_class_is_emptied():
    draw = np.random.default_rng(3)
    features = np.concatenate([draw.normal(0, 1, (60, 2)), draw.normal(8, 1, (60, 2))])
    features = features.astype(np.float32)
    labels = np.repeat(["a", "b"], 60)
    labels[[3, 70]] = ["b", "a"]
    labels[5] = "c"  # a class that is nothing but noise
    graph = coverage_graph(features)
    noisy = noisy_rows(labels, graph)
    assert np.flatnonzero(noisy).tolist() == [3, 5, 70]
    found = coverage_rows(features, labels, count=60, edit_noise=True)
    assert 3 not in found.indices
    assert 70 not in found.indices
    assert 5 in found.indices
    # Where a quota asks for more than the clean rows, those with the most agreement fill it.
    shares = np.array([60, 60, 1])
    marks = edited(encode_labels(labels), graph, shares, 121)
    assert marks.sum() == 120
    assert marks.tolist() == [True] * 120


def test_agreement_by_loops(blobs):
    features, labels = blobs
    graph = coverage_graph(features, neighbours=12)
    near = oracles.exact_neighbours(features, 5)
    expected = [np.mean([labels[j] == labels[i] for j in near[i]]) for i in range(len(labels))]
    found = neighbour_agreement(encode_labels(labels), graph, neighbours=5)
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_few_and_equal_rows(rows):
    features = np.zeros((rows, 3), np.float32)
    found = coverage_rows(features, ["x"] * rows, count=1)
    assert found.indices.tolist() == [0]
    assert found.representatives.tolist() == [0] * rows
    everything = coverage_rows(features, ["x"] * rows, count=rows)
    assert everything.indices.tolist() == list(range(rows))
    assert everything.representatives.tolist() == list(range(rows))


def test_one_row_a_class_and_more_classes_than_rows_to_keep():
    features = np.arange(6, dtype=np.float32).reshape(-1, 1)
    assert coverage_rows(features, list("abcdef"), count=2).indices.tolist() == list(range(6))


def test_results_do_not_depend_on_threads():
    draw = np.random.default_rng(0)
    features = draw.standard_normal((6000, 6)).astype(np.float32)
    labels = draw.integers(0, 3, 6000)
    before = _native.num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            _native.set_num_threads(threads)
            found = coverage_rows(features, labels, count=300, quotas="gain", edit_noise=True)
            results.append([part.tobytes() for part in vars(found).values()])
    finally:
        _native.set_num_threads(before)
    assert results[0] == results[1] == results[2]


def test_a_start_is_not_picked_again(blobs):
    features, labels = blobs
    kernel = Kernel.of(coverage_graph(features), labels)
    first, _ = kernel.cover(np.array([4, 4, 4]))
    more, _ = kernel.cover(np.array([2, 2, 2]), start=np.sort(first))
    together, _ = kernel.cover(np.array([6, 6, 6]))
    assert set(first.tolist()) | set(more.tolist()) == set(together.tolist())
    with pytest.raises(InvalidArgumentError, match="either quotas or count"):
        _native.cover(*_parts(kernel))


def _parts(kernel):
    return kernel.offsets, kernel.neighbours, kernel.weights, kernel.labels.codes


def test_refusals():
    features = np.arange(8, dtype=np.float32).reshape(4, 2)
    labels = list("aabb")
    with pytest.raises(InvalidArgumentError, match=r"features have shape \(4, 2\) and there are 3"):
        coverage_rows(features, labels[:3], count=1)
    with pytest.raises(InvalidArgumentError, match="count is 5"):
        coverage_rows(features, labels, count=5)
    with pytest.raises(InvalidArgumentError, match=r"features have shape \(2,\)"):
        coverage_rows(features[0], labels, count=1)
    with pytest.raises(DataError, match="the weight of row 2 is -1") as caught:
        coverage_rows(features, labels, count=2, weights=[1, 1, -1, 1])
    assert caught.value.row == 2
    with pytest.raises(InvalidArgumentError, match=r"weights have shape \(3,\)"):
        coverage_rows(features, labels, count=2, weights=[1, 1, 1])
    with pytest.raises(InvalidArgumentError, match="the graph has 3 rows"):
        coverage_rows(features, labels, count=2, graph=hash_graph(features[:3]))
    with pytest.raises(DataError):
        coverage_rows(np.full((4, 2), np.nan), labels, count=2)
