"""The bench harness, its data, and the records of `bench select` on a small set."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mbflow import _native
from mbflow.bench import harness, select
from mbflow.bench.data import manifold, mixture
from mbflow.errors import InvalidArgumentError, ResourceError


def test_cases_take_turns_and_absent_peers_are_named():
    order = []
    cases = [
        harness.Case("a", lambda: order.append("a") or 1),
        harness.Case("absent", lambda: order.append("absent"), needs="no_such_module"),
        harness.Case("b", lambda: order.append("b") or 2),
    ]
    told = []
    measured = harness.measure(cases, repeats=3, on_progress=lambda *step: told.append(step))
    assert order == ["a", "b"] * 3
    assert told[:2] == [("a", 1, 3), ("b", 1, 3)]
    assert [len(case.seconds) for case in measured] == [3, 0, 3]
    assert [case.result for case in measured] == [1, None, 2]
    assert measured[1].skipped == "no_such_module is not installed"
    assert measured[1].median is None
    with pytest.raises(InvalidArgumentError, match="repeats is 0"):
        harness.measure(cases, repeats=0)


def test_debug_builds_are_refused(monkeypatch):
    monkeypatch.setattr(_native, "build_info", lambda: {"profile": "debug"})
    with pytest.raises(ResourceError, match=r"is a debug build.*maturin develop --release"):
        select.run(sizes=[(100, 2)])


def test_environment_is_plain_data():
    found = harness.environment()
    assert json.loads(json.dumps(found)) == found
    assert found["cores"] >= 1
    assert found["packages"]["numpy"] == np.__version__
    assert harness.peak_memory() > 10_000_000


def test_mixture_is_the_same_in_parts_and_has_its_moments(monkeypatch):
    from mbflow.bench import data

    features, clusters = mixture(5000, 3, clusters=4, seed=1)
    monkeypatch.setattr(data, "_ROWS_AT_ONCE", 77)
    again, _ = mixture(5000, 3, clusters=4, seed=1)
    assert np.array_equal(features, again)
    assert not np.array_equal(features, mixture(5000, 3, clusters=4, seed=2)[0])
    assert np.bincount(clusters).min() > 1000
    for cluster in range(4):
        rows = features[clusters == cluster]
        np.testing.assert_allclose(rows.std(axis=0), 1.0, atol=0.1)
    with pytest.raises(InvalidArgumentError, match="at least 1"):
        mixture(0, 3)


def release_only():
    if _native.build_info()["profile"] != "release":
        pytest.skip("needs a release build")


@pytest.mark.peer("faiss", "sklearn")
# faiss brings extension types made by SWIG, which have no __module__.
@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning")
def test_bench_select_on_a_small_set():
    release_only()
    told = []
    records = select.run(sizes=[(3000, 6)], repeats=1, sample=200, on_progress=told.append)
    assert len(told) == len(records)
    assert {tuple(record) for record in records} == {select.COLUMNS}
    assert [name.split()[0] for name in dict.fromkeys(record["data"] for record in records)] == [
        "mixture",
        "separated",
        "isotropic",
        "manifold",
    ]
    by_method = {
        record["method"]: record for record in records if record["data"].startswith("mixture")
    }
    assert by_method["scikit-learn brute force"]["recall"] == 1.0
    assert by_method["FAISS HNSW M16 ef 64"]["recall"] > 0.9
    assert by_method["FAISS IVF-Flat nprobe 24"]["recall"] > 0.9
    assert by_method["FAISS IVF-Flat nprobe 8"]["times_faster_than_ivf"] == pytest.approx(1.0)
    for kind, cases in (("single_level", 4), ("multi_view", 3)):
        ours = [record["recall"] for name, record in by_method.items() if kind in name]
        assert len(ours) == cases
        assert ours == sorted(ours)
        assert ours[-1] > 0.9
    json.dumps(records)


def test_bench_select_without_faiss(monkeypatch):
    release_only()
    real = harness.util.find_spec
    monkeypatch.setattr(
        harness.util, "find_spec", lambda name: None if name == "faiss" else real(name)
    )
    records = select.run(sizes=[(500, 3)], repeats=1, sample=50)
    skipped = [record for record in records if record["note"]]
    assert [record["method"] for record in skipped] == [
        "FAISS IVF-Flat nprobe 8",
        "FAISS IVF-Flat nprobe 24",
        "FAISS HNSW M16 ef 16",
        "FAISS HNSW M16 ef 64",
    ] * 4
    assert all(record["seconds"] is None for record in skipped)
    for ratio in ("times_faster_than_ivf", "ivf_at_equal_recall", "hnsw_at_equal_recall"):
        assert all(record[ratio] is None for record in records)


def test_a_peers_time_at_a_recall_is_interpolated():
    curve = [(4.0, 0.99), (1.0, 0.9)]
    assert select._at_recall(curve, 0.9) == pytest.approx(1.0)
    assert select._at_recall(curve, 0.99) == pytest.approx(4.0)
    # Half way between a tenth and a hundredth missed, in logarithms.
    assert select._at_recall(curve, 1 - 10**-1.5) == pytest.approx(2.0)
    assert select._at_recall(curve, 0.5) == pytest.approx(1.0)
    assert select._reaches(curve, 0.99)
    assert not select._reaches(curve, 0.995)
    assert not select._reaches([], 0.5)


def test_manifold_is_the_same_in_parts_and_of_few_dimensions(monkeypatch):
    from mbflow.bench import data

    features = manifold(2000, 12, inner=2, seed=1)
    monkeypatch.setattr(data, "_ROWS_AT_ONCE", 77)
    assert np.array_equal(features, manifold(2000, 12, inner=2, seed=1))
    spread = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)
    assert spread[2] < spread[1] / 2
    assert spread[-1] > 0.005 * 2000**0.5
    with pytest.raises(InvalidArgumentError, match="at least 1"):
        manifold(10, 3, inner=0)
