"""Explanations against the obvious search; the picture's points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbflow.errors import DataError, InvalidArgumentError
from mbflow.select import coverage_rows, explain_selection, medoid_rows, refine_rows
from mbflow.select.explain import flat_points


@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 10**6))
def test_equals_the_obvious_search(rows: int, classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    features = random.integers(0, 5, (rows, 2)).astype(np.float32)
    codes = np.concatenate([np.arange(min(rows, classes)), random.integers(0, classes, rows)])[
        :rows
    ]
    kept = np.unique(random.integers(0, rows, 5))
    why = explain_selection(features, codes, indices=kept)
    gaps = np.linalg.norm(features[:, None] - features[None], axis=2)
    for row in range(rows):
        own = [k for k in kept if codes[k] == codes[row]]
        other = [k for k in kept if codes[k] != codes[row]]
        if row in kept:
            assert why.representatives[row] == row
            expected = min(other, key=lambda k: (gaps[row, k], k), default=-1)
            assert why.nearest_other[row] == expected
            if other:
                assert why.other_distances[row] == pytest.approx(gaps[row, expected])
        else:
            expected = min(own, key=lambda k: (gaps[row, k], k), default=-1)
            assert why.representatives[row] == expected
            assert why.nearest_other[row] == -1
            assert np.isnan(why.distances[row]) == (not own)
        stands = (why.representatives == row).sum() - (row in kept)
        assert why.stands_for[row] == stands


def test_given_representatives_are_taken() -> None:
    features = np.array([[0.0], [1.0], [3.0]], np.float32)
    why = explain_selection(
        features, [0, 0, 0], indices=np.array([0, 2]), representatives=np.array([0, 2, 2])
    )
    assert why.representatives.tolist() == [0, 2, 2]
    assert why.distances.tolist() == [0.0, 2.0, 0.0]
    assert why.stands_for.tolist() == [0, 0, 1]


def test_wrong_arguments() -> None:
    features = np.zeros((2, 1), np.float32)
    with pytest.raises(InvalidArgumentError, match="there are 3 labels; expected a row for each"):
        explain_selection(features, [0, 0, 0], indices=np.array([0]))
    with pytest.raises(InvalidArgumentError, match="none of the 2 rows"):
        explain_selection(features, [0, 0], indices=np.array([2]))
    for wrong in (np.array([0.0, 1.5]), np.array([True]), np.array([[0]])):
        with pytest.raises(
            InvalidArgumentError, match="expected row numbers, or a boolean mask of 2"
        ):
            explain_selection(features, [0, 0], indices=wrong)


@pytest.mark.parametrize("given", [1, [0, 9], [0, 1], [0.0, 0.0], [0], [-2, 0]])
def test_representatives_are_kept_rows(given) -> None:
    features = np.zeros((2, 1), np.float32)
    with pytest.raises(InvalidArgumentError, match="represent"):
        explain_selection(features, [0, 0], indices=np.array([0]), representatives=np.array(given))


def test_a_bad_feature_is_named_by_its_row() -> None:
    features = np.zeros((60, 3), np.float32)
    features[43, 2] = np.nan
    labels = np.repeat([0, 1, 2], 20)
    for call in (
        lambda: explain_selection(features, labels, indices=np.array([0])),
        lambda: medoid_rows(features, labels, count=6),
        lambda: coverage_rows(features, labels, count=6),
        lambda: refine_rows(features, labels, count=6, rounds=1),
    ):
        with pytest.raises(DataError, match="row 43, column 2 is nan") as caught:
            call()
        assert caught.value.row == 43


def test_a_mask_says_which_rows_are_kept() -> None:
    features = np.arange(4, dtype=np.float32).reshape(-1, 1)
    mask = np.array([False, True, False, True])
    assert explain_selection(features, [0] * 4, indices=mask).representatives.tolist() == [
        1,
        1,
        1,
        3,
    ]


@pytest.mark.parametrize("shape", [(40, 3), (5, 30), (1, 1), (3, 1)])
def test_points_lie_on_the_principal_axes(shape: tuple[int, int]) -> None:
    features = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    kept = np.arange(shape[0]) % 4 == 0
    points = flat_points(features, np.zeros(shape[0], np.int64), kept=kept)
    dropped, chosen = points["series"]
    assert (len(dropped["x"]), len(chosen["x"])) == ((~kept).sum(), kept.sum())
    assert 0.0 <= points["share"] <= 1.0
    flat = np.array([dropped["x"] + chosen["x"], dropped["y"] + chosen["y"]])
    values = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)[:2]
    np.testing.assert_allclose(
        np.linalg.norm(flat, axis=1)[: len(values)], values, rtol=1e-3, atol=1e-3
    )
