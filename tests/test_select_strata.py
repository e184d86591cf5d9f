"""Quotas, counts, stratified draws and splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import oracles
from mbflow.errors import InvalidArgumentError
from mbflow.select import (
    encode_labels,
    keep_rows,
    keep_summary,
    kept_count,
    quotas,
    stratified_random,
    stratified_split,
)

SIZES = st.lists(st.integers(0, 400), min_size=1, max_size=12).filter(any)


@given(SIZES, st.floats(0, 1), st.sampled_from([0.0, 0.5, 0.75, 1.0, 2.0]))
@example([10, 10, 10], 0.1, 1.0)
@example([1, 1, 1], 0.0, 0.75)
@example([400, 1, 0], 0.99, 0.0)
def test_quotas_agree_with_bisection_in_exact_arithmetic(sizes, share, power):
    count = max(1, round(share * sum(sizes)))
    assert quotas(sizes, count, power=power).tolist() == oracles.quotas(sizes, count, power)


@given(SIZES, st.floats(0, 1), st.floats(0, 3))
def test_quotas_keep_their_promises(sizes, share, power):
    count = max(1, round(share * sum(sizes)))
    result = quotas(sizes, count, power=power)
    used = [size for size in sizes if size]
    assert result.sum() == max(count, len(used))
    assert all((quota >= 1) == (size >= 1) for quota, size in zip(result, sizes, strict=True))
    assert (result <= sizes).all()
    assert quotas(sizes, sum(sizes), power=power).tolist() == sizes
    # Of two classes the larger never gets less, but for the one row of a remainder tie.
    for i, left in enumerate(sizes):
        for j, right in enumerate(sizes):
            if left > right:
                assert result[i] >= result[j] - (i > j)


def test_quotas_by_hand():
    assert quotas([600, 300, 100], 100, power=1.0).tolist() == [60, 30, 10]
    assert quotas([5, 5, 5], 7, power=1.0).tolist() == [3, 2, 2]
    assert quotas([1000, 10, 1], 30, power=0.0).tolist() == [19, 10, 1]
    assert quotas([50, 50, 50], 2).tolist() == [1, 1, 1]


def test_a_high_power_gives_all_to_the_largest():
    assert quotas([10**9, 10, 5], 9, power=10).tolist() == [7, 1, 1]
    assert quotas([6, 10, 10**9], 60, power=10).tolist() == [1, 1, 58]


def test_quotas_of_very_many_classes():
    result = quotas(np.ones(200_000, np.int64), 1000)
    assert result.sum() == 200_000


@pytest.mark.parametrize(
    ("sizes", "count", "power", "message"),
    [
        ([3, 4], 8, 0.75, "count is 8; expected 1 to 7"),
        ([3, 4], 0, 0.75, "count is 0; expected 1 to 7"),
        ([3, -1], 1, 0.75, "none negative"),
        ([3, 4], 2, -1.0, "power is -1.0; expected a number from 0"),
        ([10**9, 1, 1], 9, 50, "power is 50; expected a number from 0"),
        ([3, 4], 2, float("nan"), "power is nan"),
    ],
)
def test_quotas_refuse(sizes, count, power, message):
    with pytest.raises(InvalidArgumentError, match=message):
        quotas(sizes, count, power=power)


@given(st.integers(1, 10**9), st.floats(1e-9, 1))
def test_kept_count_is_the_nearest_whole_number(rows, fraction):
    assert kept_count(rows, fraction=fraction) == oracles.kept_count(rows, fraction)


def test_kept_count_by_hand():
    assert [kept_count(n, fraction=0.5) for n in (1, 2, 3, 5)] == [1, 1, 2, 3]
    assert kept_count(10, fraction=1.0) == 10
    assert kept_count(10, fraction=0.5, count=3) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": 0.0}, "fraction is 0.0; expected a number above 0 and at most 1"),
        ({"fraction": 1.01}, "fraction is 1.01"),
        ({"fraction": float("nan")}, "fraction is nan"),
        ({"count": 0}, "count is 0; expected a whole number from 1 to 10"),
        ({"count": 11}, "count is 11; expected a whole number from 1 to 10"),
        ({"count": 2.5}, "count is 2.5"),
        ({}, "neither fraction nor count is given"),
    ],
)
def test_kept_count_refuses(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        kept_count(10, **arguments)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=80), st.integers(0, 2**63), st.data())
def test_stratified_random_has_the_class_mixture(labels, seed, data):
    count = data.draw(st.integers(1, len(labels)))
    rows = stratified_random(labels, count=count, seed=seed)
    encoded = encode_labels(labels)
    assert (np.diff(rows) > 0).all()
    assert rows.dtype == np.int64
    expected = oracles.quotas(encoded.sizes.tolist(), count, 1.0)
    assert np.bincount(encoded.codes[rows], minlength=len(expected)).tolist() == expected
    assert np.array_equal(rows, stratified_random(labels, count=count, seed=seed))


def test_stratified_random_depends_on_the_seed_and_spreads():
    labels = [0] * 500 + [1] * 500
    drawn = np.concatenate([stratified_random(labels, count=100, seed=s) for s in range(200)])
    times = np.bincount(drawn, minlength=1000)
    # Each row is drawn in one of ten samples: 20 of 200, standard deviation 4.2.
    assert times.min() > 5
    assert times.max() < 40


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=80),
    st.floats(0, 0.99),
    st.integers(0, 1000),
)
def test_stratified_split_is_a_partition(labels, test_fraction, seed):
    train, test = stratified_split(labels, test_fraction=test_fraction, seed=seed)
    assert sorted([*train, *test]) == list(range(len(labels)))
    for name in set(labels):
        size = labels.count(name)
        held = sum(labels[row] == name for row in test)
        assert held == min(int(size * test_fraction + 0.5), size - 1)


def test_split_and_sample_draw_from_different_streams():
    labels = [0] * 1000
    _, test = stratified_split(labels, test_fraction=0.5, seed=1)
    sample = stratified_random(labels, count=500, seed=1)
    assert 150 < len(np.intersect1d(test, sample)) < 350


@given(st.data())
def test_keep_rows_agrees_with_sorting(data):
    labels = data.draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=60))
    scores = data.draw(st.lists(st.integers(0, 5), min_size=len(labels), max_size=len(labels)))
    count = data.draw(st.integers(1, len(labels)))
    kept = keep_rows(scores, labels, count=count)
    names = sorted(set(labels))
    shares = oracles.quotas([labels.count(name) for name in names], count, 0.75)
    assert kept.tolist() == oracles.keep(scores, labels, dict(zip(names, shares, strict=True)))
    assert kept.dtype == np.int64
    assert len(kept) == max(count, len(names))


def test_keep_rows_all_and_ties_by_row_number():
    assert keep_rows([0, 0, 0], [1, 1, 2], fraction=1.0).tolist() == [0, 1, 2]
    assert keep_rows([5, 5, 5, 5], [1, 1, 1, 1], count=2).tolist() == [0, 1]
    assert keep_rows([-np.inf, np.inf], [1, 1], count=1).tolist() == [1]


def test_fewer_rows_than_classes_keeps_one_of_each():
    assert keep_rows([3, 1, 2, 9], list("abcc"), count=1).tolist() == [0, 1, 3]


def test_keep_rows_refuses_lengths_and_nan():
    with pytest.raises(InvalidArgumentError, match=r"scores have shape \(2,\) and there are 3"):
        keep_rows([1, 2], ["a", "b", "c"])
    with pytest.raises(ValueError, match="the score of row 1 is NaN") as caught:
        keep_rows([1, np.nan], ["a", "b"])
    assert caught.value.row == 1


def test_summary_by_hand():
    summary = keep_summary([1.0, 2.0, 3.0, 5.0], ["x", "x", "x", "y"], np.array([1, 2, 3]))
    assert summary.to_dicts() == [
        {
            "class": "x",
            "rows": 3,
            "kept": 2,
            "share": 2 / 3,
            "mean_score": 2.0,
            "mean_score_kept": 2.5,
        },
        {
            "class": "y",
            "rows": 1,
            "kept": 1,
            "share": 1.0,
            "mean_score": 5.0,
            "mean_score_kept": 5.0,
        },
    ]
