"""Stratified deals at the boundary: types of codes, shapes, and places that do not exist."""

from __future__ import annotations

import numpy as np
import pytest

from mbflow import _native
from mbflow.errors import InvalidArgumentError


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_rows_by_class_are_a_stable_sort(dtype):
    codes = np.random.default_rng(0).integers(0, 7, 1000).astype(dtype)
    offsets, rows = _native.rows_by_class(codes, 8)
    assert rows.dtype == np.uint32
    assert rows.tolist() == np.argsort(codes, kind="stable").tolist()
    assert offsets.tolist() == [0, *np.cumsum(np.bincount(codes, minlength=8))]


def test_wrong_codes_are_refused():
    with pytest.raises(InvalidArgumentError, match="row 1 has code 5; expected codes below 2"):
        _native.rows_by_class(np.array([0, 5], np.uint8), 2)
    for codes in [np.zeros(3, np.int64), np.zeros((2, 2), np.uint8), [0, 1]]:
        with pytest.raises(InvalidArgumentError, match="1-D NumPy array of uint8"):
            _native.rows_by_class(codes, 2)
    with pytest.raises(InvalidArgumentError, match="codes"):
        _native.rows_by_class(np.zeros(6, np.uint8)[::2], 1)


def test_places_that_do_not_exist_are_refused():
    _, rows = _native.rows_by_class(np.zeros(10, np.uint8), 1)
    deal = _native.Deal([10], [10], 4, seed=2, epoch=1)
    assert deal.batches == 3
    assert [len(deal.batch(rows, number)[0]) for number in range(3)] == [4, 4, 2]
    with pytest.raises(InvalidArgumentError, match="expected a batch below 3, got 3"):
        deal.batch(rows, 3)
    with pytest.raises(InvalidArgumentError, match="expected 10, the sum of the sizes, got 9"):
        deal.batch(rows[:9], 0)
    with pytest.raises(InvalidArgumentError, match="expected a number below 2, got 2"):
        deal.split(rows, 0, 2, 2)
    with pytest.raises(InvalidArgumentError, match="class 1 has no rows"):
        _native.Deal([1, 0], [1, 1], 1)
    with pytest.raises(OverflowError):
        _native.Deal([1], [-1], 1)
