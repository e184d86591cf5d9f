"""Routing to strata: sizes, likeness, independence of how rows arrive; quotas that add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbflow.errors import InvalidArgumentError
from mbflow.select.routing import Router
from mbflow.select.strata import spread_quotas


def clusters(rows: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = random.normal(0, 5, (6, 4))
    return (centres[random.integers(0, 6, rows)] + random.normal(0, 1, (rows, 4))).astype(
        np.float32
    )


def test_strata_are_of_even_size_and_hold_similar_rows() -> None:
    features = clusters(8000)
    router = Router.fit(features[:2000], rows=8000, stratum_rows=1300)
    strata = router.route(features)
    sizes = np.bincount(strata, minlength=router.strata)
    assert router.strata == 7
    assert sizes.sum() == 8000
    assert sizes.max() <= 1300
    within = np.mean([features[strata == s].var(axis=0).sum() for s in range(7)])
    assert within < 0.6 * features.var(axis=0).sum()


@given(st.integers(1, 400), st.integers(1, 50), st.integers(0, 5))
def test_a_row_goes_its_way_alone(rows: int, piece: int, seed: int) -> None:
    features = clusters(rows, seed)
    router = Router.fit(features, rows=rows, stratum_rows=40, seed=seed)
    whole = router.route(features)
    parts = [router.route(features[start : start + piece]) for start in range(0, rows, piece)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert whole.min() >= 0
    assert whole.max() < router.strata


def test_few_rows_need_no_cut_and_equal_rows_stay_together() -> None:
    assert Router.fit(np.zeros((5, 2), np.float32), rows=5, stratum_rows=10).strata == 1
    equal = np.ones((100, 2), np.float32)
    assert len(set(Router.fit(equal, rows=100, stratum_rows=20).route(equal).tolist())) == 1
    assert len(Router.fit(equal, rows=100, stratum_rows=20).route(equal[:0])) == 0
    with pytest.raises(InvalidArgumentError, match="stratum_rows is 0"):
        Router.fit(equal, rows=100, stratum_rows=0)


@given(st.data())
def test_spread_quotas_add_up(data: st.DataObject) -> None:
    classes, parts = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    numbers = st.lists(st.integers(0, 50), min_size=classes, max_size=classes)
    members = np.array([data.draw(numbers) for _ in range(parts)])
    counts = np.array([data.draw(st.integers(0, int(total))) for total in members.sum(axis=0)])
    shares = spread_quotas(counts, members)
    assert (shares >= 0).all()
    assert (shares <= members).all()
    np.testing.assert_array_equal(shares.sum(axis=0), counts)
    exact = members * counts / np.maximum(1, members.sum(axis=0))
    assert (np.abs(shares - exact) < 1).all()


def test_spread_quotas_refuse_more_than_there_is() -> None:
    with pytest.raises(InvalidArgumentError, match="above the rows of its class"):
        spread_quotas([4], [[1], [2]])
