"""What the kernels compute, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mbflow import _native
from native_data import exact_graph, mixture

STREAM = 1 << 16


@pytest.fixture
def threads():
    before = _native.num_threads()
    yield _native.set_num_threads
    _native.set_num_threads(before)


@settings(max_examples=60, deadline=None)
@given(
    features=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24),
        # Quarters: distances are exact in float32, so that ties are ties in float64 too.
        elements=st.integers(-40, 40).map(lambda n: n / 4),
    ),
    neighbours=st.integers(1, 30),
    bucket_cap=st.integers(2, 30),
    seed=st.integers(0, 2**64 - 1),
    family=st.sampled_from(["sign", "p_stable"]),
)
def test_the_graph_is_exact_when_all_is_searched(features, neighbours, bucket_cap, seed, family):
    rows = len(features)
    k = min(neighbours, rows - 1)
    expected, distances = exact_graph(features, k)
    offsets, nearest, lengths, _, stats = _native.neighbour_graph(
        features,
        neighbours=neighbours,
        bucket_cap=bucket_cap,
        probes=rows,
        seed=seed,
        family=family,
    )
    assert (
        offsets.tolist() == list(range(0, rows * k + 1, k))
        if k
        else offsets.tolist() == [0] * (rows + 1)
    )
    assert nearest.tolist() == expected.ravel().tolist()
    np.testing.assert_allclose(lengths, distances.ravel(), rtol=1e-6)
    assert stats["largest_bucket"] <= bucket_cap


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(2, 300),
    width=st.integers(1, 8),
    neighbours=st.integers(1, 12),
    bucket_cap=st.integers(2, 50),
    probes=st.integers(0, 4),
    seed=st.integers(0, 1000),
)
def test_every_row_gets_its_neighbours_once(rows, width, neighbours, bucket_cap, probes, seed):
    features = mixture(rows, width, 3, seed)
    offsets, nearest, lengths, _, _ = _native.neighbour_graph(
        features, neighbours=neighbours, bucket_cap=bucket_cap, probes=probes, seed=seed
    )
    k = min(neighbours, rows - 1)
    assert offsets.tolist() == list(range(0, rows * k + 1, k))
    nearest, lengths = nearest.reshape(rows, k), lengths.reshape(rows, k)
    assert all(len(set(row)) == k and i not in row for i, row in enumerate(nearest.tolist()))
    assert nearest.min() >= 0
    assert nearest.max() < rows
    assert (np.diff(lengths, axis=1) >= 0).all()
    direct = np.linalg.norm(features[:, None].astype("f8") - features[nearest].astype("f8"), axis=2)
    np.testing.assert_allclose(lengths, direct, rtol=1e-5)


def test_most_true_neighbours_are_found():
    features = mixture(5000, 16, 25)
    _, _, lengths, _, stats = _native.neighbour_graph(features)
    sample = np.random.default_rng(0).choice(5000, 200, replace=False)
    pairs = np.linalg.norm(features[sample, None] - features[None], axis=2)
    limit = np.sort(pairs, axis=1)[:, 10]  # the row itself is the first
    assert (lengths.reshape(5000, 10)[sample] <= limit[:, None] * (1 + 1e-6)).mean() > 0.95
    assert stats["distances"] < 5000**2


@pytest.mark.parametrize("family", ["sign", "p_stable"])
def test_results_do_not_depend_on_the_number_of_threads(threads, family):
    features = mixture(20_000, 9, 12)

    def everything():
        graph = _native.neighbour_graph(features, bucket_cap=100, probes=2, family=family, seed=3)
        return (
            *(part.tobytes() for part in graph[:3]),
            graph[4],
            _native.project(features, projections=21, seed=3).tobytes(),
            _native.sign_codes(features, bits=70, seed=3).tobytes(),
            _native.p_stable_codes(features, hashes=5, width=0.7, seed=3).tobytes(),
            _native.random_normal(3, STREAM, 0, 100_000).tobytes(),
        )

    threads(1)
    one = everything()
    for count in (2, 7):
        threads(count)
        assert everything() == one, f"{count} threads"


def test_projections_and_codes_agree_with_numpy():
    features = mixture(300, 7, 4)
    entries = _native.random_normal(5, 1, 0, 7 * 70).reshape(70, 7)  # stream 1: projections
    expected = features.astype("f8") @ entries.T.astype("f8")
    np.testing.assert_allclose(
        _native.project(features, projections=70, seed=5), expected, rtol=1e-4, atol=1e-4
    )

    codes = _native.sign_codes(features, bits=70, seed=5)
    assert codes.shape == (300, 2)
    bits = np.unpackbits(codes.view(np.uint8), axis=1, bitorder="little")[:, :70].astype(bool)
    centred = expected - features.mean(axis=0, dtype="f8") @ entries.T.astype("f8")
    clear = np.abs(centred) > 1e-3
    assert clear.mean() > 0.99
    assert (bits == (centred > 0))[clear].all()

    uniform = (_native.random_u64(5, 2, 0, 70) >> np.uint64(40)).astype("f8") / 2**24
    cells = (expected + uniform * 0.5) / 0.5
    clear = np.abs(cells - np.round(cells)) > 1e-3
    assert (_native.p_stable_codes(features, hashes=70, width=0.5, seed=5) == np.floor(cells))[
        clear
    ].all()


def test_sparse_directions_have_their_three_values():
    entries = _native.project(np.eye(40, dtype=np.float32), projections=500, kind="sparse")
    values, counts = np.unique(entries, return_counts=True)
    np.testing.assert_allclose(values, [-np.sqrt(3), 0, np.sqrt(3)], rtol=1e-7)
    np.testing.assert_allclose(counts / entries.size, [1 / 6, 2 / 3, 1 / 6], atol=0.02)
