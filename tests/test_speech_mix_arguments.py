"""Arguments of mixed sources: what is refused, bounds, kinds of numbers, and threads."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest

from mbflow.errors import DataError, InvalidArgumentError
from mbflow.speech import Budget, Lengths, MixedBatches


def plan_of(**options):
    random = np.random.default_rng(0)
    sources = {"a": random.uniform(1, 20, 400), "b": random.uniform(5, 9, 100)}
    return MixedBatches(sources, **{"budget": 60.0, "buckets": 5, **options})


@pytest.mark.parametrize(
    ("sources", "options", "error", "message"),
    [
        ({}, {}, InvalidArgumentError, "at least one source"),
        ([1.0], {}, InvalidArgumentError, "a mapping of names to lengths"),
        ({"a": []}, {}, DataError, "source 'a': seconds: there is no item"),
        ({"a": [1.0], "b": [1.0, -2.0]}, {}, DataError, "source 'b': seconds: item 1 is -2.0"),
        (
            {"a": [1.0], "b": [1.0, float("nan")]},
            {},
            DataError,
            "source 'b': seconds: item 1 is nan",
        ),
        (
            {"a": [1.0], "b": ([1.0], [1, 2])},
            {},
            InvalidArgumentError,
            "source 'b': tokens: 2 for 1",
        ),
        ({"a": [1.0], "b": ([1.0], [1])}, {}, InvalidArgumentError, "source 'a' has no tokens"),
        (
            {"a": [1.0], "b": [1.0, 700.0]},
            {},
            DataError,
            "item 1 of source 'b' of 700 seconds is above",
        ),
        (
            {"a": [1.0]},
            {"weights": {"a": 0}},
            InvalidArgumentError,
            "source 'a' is 0; expected a number above",
        ),
        ({"a": [1.0]}, {"weights": {"a": -1.5}}, InvalidArgumentError, "is -1.5"),
        ({"a": [1.0]}, {"weights": {"a": float("nan")}}, InvalidArgumentError, "is nan"),
        ({"a": [1.0]}, {"weights": {"a": 10**400}}, InvalidArgumentError, "source 'a' is 1000"),
        ({"a": [1.0], "b": [1.0]}, {"weights": "ab"}, InvalidArgumentError, "got str"),
        (
            {"a": [1.0], "b": [1.0]},
            {"weights": {"a": 1, "b": 1e308}},
            InvalidArgumentError,
            "source 'a' is 1.0 and that of 'b' is 1e.308; expected weights within",
        ),
        (
            {"a": ([[1.0], [1.0, 2.0]], [1, 2])},
            {},
            InvalidArgumentError,
            "source 'a': seconds: of type List",
        ),
        (
            {"a": (Lengths.of([1.0]), [1])},
            {},
            InvalidArgumentError,
            "source 'a': tokens are given twice",
        ),
        ({"a": ([1.0], 5)}, {}, InvalidArgumentError, "source 'a': tokens is of type int"),
        ({"a": ("a", "b")}, {}, InvalidArgumentError, "source 'a': seconds is of type str"),
        (
            {"a": [1.0]},
            {"budget": Budget.padded_tokens(100)},
            InvalidArgumentError,
            "the budget counts tokens and the sources have none",
        ),
        (
            {"a": [1.0]},
            {"weights": {"a": 1, "b": 1}},
            InvalidArgumentError,
            "there is no source 'b'",
        ),
        (
            {"a": [1.0], "b": [1.0]},
            {"weights": {"a": 1}},
            InvalidArgumentError,
            "source 'b' has no weight",
        ),
        ({"a": [1.0]}, {"by": "hours"}, InvalidArgumentError, "by is 'hours'"),
        ({"a": [1.0]}, {"seed": -1}, InvalidArgumentError, "seed is -1"),
        ({"a": [1.0]}, {"too_long": "keep"}, InvalidArgumentError, "too_long is 'keep'"),
        (
            {"a": [9.0], "b": [1.0, 1.5]},
            {"min_seconds": 2.0},
            DataError,
            "source 'b': no item is left: all 2 were dropped, the first as too short",
        ),
        ({"a": [1.0]}, {"min_seconds": 2.0}, DataError, "no item is left"),
    ],
)
def test_what_cannot_be_mixed_is_refused(sources, options, error, message):
    with pytest.raises(error, match=message):
        MixedBatches(sources, **options)


def test_wrong_steps_and_ranks_are_refused():
    plan = plan_of()
    for options, message in [
        ({"step": -1}, "step is -1"),
        ({"step": 2**64}, "step is 18446744073709551616"),
        ({"step": 10**400}, "step is 1000"),
        ({"step": 1.0}, "step is 1.0"),
        ({"step": 0, "world_size": 2**64}, "world_size is 18446744073709551616"),
        ({"step": 0, "start": ((1, 2**47),)}, "start says that 140737488355328 batches"),
        ({"step": 0, "start": ((2**47, 1),)}, "world_size of start is 140737488355328"),
        ({"step": 0, "start": ((1, 10**400),)}, "steps of start is 1000"),
        ({"step": 0, "start": 5}, "start is 5"),
        ({"step": 0, "rank": 2, "world_size": 2}, "rank is 2"),
        ({"step": 0, "world_size": 0}, "world_size is 0"),
        ({"step": 0, "start": ((0, 3),)}, "world_size of start is 0"),
    ]:
        with pytest.raises(InvalidArgumentError, match=message):
            plan.batch(**options)
    with pytest.raises(InvalidArgumentError, match="start_step is 18446744073709551616"):
        next(plan.stream(start_step=2**64))
    with pytest.raises(InvalidArgumentError, match="steps is 1000"):
        plan.share().done(10**400)
    with pytest.raises(InvalidArgumentError, match="rank is 3"):
        plan.sampler(3, 3)
    with pytest.raises(InvalidArgumentError, match="steps is 0"):
        plan.report(steps=0)


def test_sizes_are_multiples_where_a_bucket_holds_so_many():
    sources = {"a": [1.0] * 13, "b": [2.0] * 29}
    budget = Budget.items(64).multiple_of(8)
    assert MixedBatches(sources, budget=budget, buckets=2).sizes.tolist() == [8, 24]
    sources["a"] = [1.0] * 7
    assert MixedBatches(sources, budget=budget, buckets=2).sizes.tolist() == [7, 24]


def test_weights_may_be_of_any_magnitude():
    sources = {"a": [1.0] * 13, "b": [2.0] * 29}
    for weight in (1e308, 5e-324, 1.0, Fraction(1, 3), 10**300):
        for by, share in (("items", 0.5), ("seconds", 2 / 3)):
            plan = MixedBatches(sources, weights={"a": weight, "b": weight}, by=by)
            assert plan.shares["a"] == pytest.approx(share)
    assert len(MixedBatches({"a": (1.0, np.float32(2.0))})) == 2


def test_what_is_remembered_does_not_say_what_is_refused():
    plan = plan_of()
    plan.batch(0, world_size=1)
    for world_size in (1.0, True):
        with pytest.raises(InvalidArgumentError, match=f"world_size is {world_size}"):
            plan.batch(0, world_size=world_size)
    for start in (0.0, False):
        with pytest.raises(InvalidArgumentError, match=f"start is {start}"):
            plan.batch(0, start=start)


def test_narrow_integers_are_as_ints():
    plan = plan_of()
    wanted = plan.batch(7, rank=1, world_size=2, start=((2, 300),))
    for kind in (np.uint8, np.uint64):
        start = ((kind(2), kind(200)), (kind(2), kind(100)))
        ranks = {"rank": kind(1), "world_size": kind(2), "start": start}
        np.testing.assert_array_equal(plan.batch(kind(7), **ranks), wanted)
        np.testing.assert_array_equal(next(plan.stream(start_step=kind(7), **ranks)), wanted)
        np.testing.assert_array_equal(plan.batch(3, start=kind(0)), plan.batch(3))
        sampler = plan.sampler(kind(1), kind(2))
        assert sampler.state_dict(steps=kind(200))["done"] == ((2, 200),)


def test_the_last_steps_that_can_be_counted_are_there():
    plan = plan_of()
    for world_size in (1, 1000):
        share = plan.share(world_size=world_size)
        ranks = {"rank": world_size - 1, "world_size": world_size}
        assert len(plan.batch(share.steps - 1, **ranks)) in plan.sizes
        assert len(list(plan.stream(start_step=share.steps - 3, **ranks))) == 3
        with pytest.raises(InvalidArgumentError, match="step is"):
            plan.batch(share.steps, **ranks)


def test_a_state_of_too_many_steps_leaves_the_sampler_where_it_was():
    sampler = plan_of().sampler()
    state = sampler.state_dict(steps=5)
    sampler.load_state_dict(state)
    with pytest.raises(InvalidArgumentError, match="start says"):
        sampler.load_state_dict({**state, "done": ((1, 2**50),)})
    assert sampler.state_dict()["done"] == ((1, 5),)


def test_threads_share_a_plan():
    plan = plan_of()
    numbers = [1 + step * number % 23 for number in range(1, 9) for step in range(10_000)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda ranks: plan.share(world_size=ranks), numbers))
    finally:
        sys.setswitchinterval(interval)
    assert [share.world_size for share in found] == numbers
