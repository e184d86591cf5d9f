"""Paired tests against SciPy and by hand, ranks, and what must hold."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbflow.errors import InvalidArgumentError
from mbflow.select.statistics import average_ranks, holm, paired_over_sets, resampled_t_test

stats = pytest.importorskip("scipy.stats")


def test_resampled_t_test_by_hand() -> None:
    gaps = np.array([0.02, 0.01, 0.03, -0.01, 0.02])
    variance = gaps.var(ddof=1) * (1 / 5 + 0.2 / 0.8)
    expected = 2 * stats.t.sf(gaps.mean() / variance**0.5, 4)
    assert resampled_t_test(gaps, test_fraction=0.2) == pytest.approx(expected)
    # It is more careful than the plain paired test.
    assert expected > stats.ttest_1samp(gaps, 0.0).pvalue


def test_resampled_t_test_at_the_edges() -> None:
    assert resampled_t_test([0.0, 0.0], test_fraction=0.5) == 1.0
    # Accuracies are fractions, so that equal differences differ by rounding.
    assert np.isnan(resampled_t_test([0.1, 0.1], test_fraction=0.5))
    assert np.isnan(resampled_t_test([0.3 - 0.1, 0.2, 0.7 - 0.5], test_fraction=0.2))
    assert np.isnan(resampled_t_test([0.1], test_fraction=0.5))
    with pytest.raises(InvalidArgumentError, match=r"test_fraction is 1\.0"):
        resampled_t_test([0.1, 0.2], test_fraction=1.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_stepping_down_rejects(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert (adjusted >= np.array(p_values) - 1e-12).all()
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for step, index in enumerate(np.argsort(p_values, kind="stable")):
            if p_values[index] > level / (len(p_values) - step):
                break
            rejected.add(int(index))
        near = np.abs(adjusted - level) < 1e-9
        assert {i for i in range(len(p_values)) if adjusted[i] <= level and not near[i]} <= rejected
        assert rejected <= {i for i in range(len(p_values)) if adjusted[i] <= level or near[i]}


def test_holm_leaves_out_what_is_not_known() -> None:
    np.testing.assert_allclose(holm([0.02, np.nan, 0.03]), [0.04, np.nan, 0.04])


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 10**6))
def test_ranks_are_those_of_scipy(sets: int, methods: int, seed: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 4, (sets, methods)).astype(float)
    expected = np.mean([stats.rankdata(-row) for row in scores], axis=0)
    np.testing.assert_allclose(average_ranks(scores), expected)


def test_paired_over_sets_counts_and_tests() -> None:
    gaps = [0.03, 0.01, -0.02, 0.04, 0.05, 0.06]
    rows = [(f"s{i}", "base", 0.5) for i in range(6)]
    rows += [(f"s{i}", "new", 0.5 + gap) for i, gap in enumerate(gaps)]
    rows += [(f"s{i}", "same", 0.5) for i in range(5)]
    table = pl.DataFrame(rows, schema=["set", "method", "accuracy"], orient="row")
    found = paired_over_sets(table, baseline="base").to_dicts()
    assert [row["method"] for row in found] == ["new", "same"]
    assert (found[0]["better"], found[0]["worse"], found[0]["sets"]) == (5, 1, 6)
    assert found[0]["difference"] == pytest.approx(np.mean(gaps))
    assert found[0]["p"] == pytest.approx(stats.wilcoxon(gaps).pvalue)
    assert found[0]["p_holm"] == pytest.approx(2 * found[0]["p"])
    assert (found[1]["sets"], found[1]["p"]) == (5, 1.0)
    with pytest.raises(InvalidArgumentError, match="no method 'other'"):
        paired_over_sets(table, baseline="other")
