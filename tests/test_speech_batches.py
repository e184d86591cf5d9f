"""Duration batches: every item once, equal steps, one bucket a step, resumes with other ranks."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbflow import _native
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.speech import Budget, DurationBatches

ORDERS = ("buckets", "window")


@st.composite
def plans(draw, *, last=("short", "drop", "fill"), order=ORDERS):
    count = draw(st.integers(1, 120))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    seconds = random.integers(1, draw(st.integers(2, 40)), count) / 2
    tokens = random.integers(0, 50, count) if draw(st.booleans()) else None
    budget = Budget.padded_seconds(draw(st.integers(20, 90)))
    if draw(st.booleans()):
        budget = budget.multiple_of(draw(st.integers(1, 4)))
    rule = draw(st.sampled_from(last))
    two = tokens is not None and draw(st.booleans())
    return DurationBatches(
        seconds,
        tokens,
        budget=budget,
        buckets=(draw(st.integers(1, 4)), draw(st.integers(1, 3)))
        if two
        else draw(st.integers(1, 8)),
        edges=draw(st.sampled_from(["optimal", "equal_count", "equal_duration"])),
        order=draw(st.sampled_from(order)),
        window=draw(st.integers(1, 60)),
        seed=draw(st.integers(0, 2**64 - 1)),
        drop_last=rule == "drop",
        fill_last=rule == "fill",
    )


def taken(plan, epoch, world_size, start=0, steps=None):
    """For each step, what each rank takes, and which of it is a repeat."""
    share = plan.share(epoch, world_size=world_size, start=start)
    return [
        [
            (
                plan.batch(epoch, step, rank=rank, world_size=world_size, start=start),
                plan.repeats(epoch, step, rank=rank, world_size=world_size, start=start),
            )
            for rank in range(world_size)
        ]
        for step in range(share.steps if steps is None else steps)
    ]


def unmarked(steps):
    found = [items[~repeats] for ranks in steps for items, repeats in ranks]
    return np.sort(np.concatenate([*found, np.empty(0, np.int64)]))


@settings(max_examples=150)
@given(plans(), st.integers(1, 9), st.integers(0, 3))
def test_every_item_is_taken_once(plan, world_size, epoch):
    steps = taken(plan, epoch, world_size)
    found = unmarked(steps)
    if plan.last == "drop":
        assert len(set(found.tolist())) == len(found)
        assert set(found.tolist()) <= set(range(len(plan.lengths)))
    else:
        assert found.tolist() == list(range(len(plan.lengths)))
    seconds, tokens = plan.lengths.seconds, plan.lengths.tokens
    for ranks in steps:
        for items, _ in ranks:
            assert len(items) > 0
            longest = seconds[items].max()
            most = 0 if tokens is None else tokens[items].max()
            assert len(items) <= plan.budget.sizes([longest], [most])[0]
        if plan.order == "buckets":
            everything = np.concatenate([items for items, _ in ranks])
            own = None if tokens is None else tokens[everything]
            assert len(set(plan.edges.assign(seconds[everything], own).tolist())) == 1


@settings(max_examples=60)
@given(plans(), st.integers(1, 5), st.integers(0, 2), st.data())
def test_an_iteration_gives_what_is_asked_for(plan, world_size, epoch, data):
    steps = plan.steps(epoch, world_size=world_size)
    rank = data.draw(st.integers(0, world_size - 1))
    first = data.draw(st.integers(0, steps))
    found = list(plan.epoch(epoch, rank=rank, world_size=world_size, start_step=first))
    assert len(found) == steps - first
    again = pickle.loads(pickle.dumps(plan))
    for step, items in enumerate(found, first):
        expected = again.batch(epoch, step, rank=rank, world_size=world_size)
        np.testing.assert_array_equal(items, expected)


@settings(max_examples=100)
@given(plans(last=("short",)), st.lists(st.integers(1, 7), min_size=1, max_size=4), st.data())
def test_a_run_goes_on_with_other_numbers_of_ranks(plan, sizes, data):
    """What is done by each number of ranks, and by the last one to the end, is every item once."""
    start = ()
    parts = []
    for size in sizes:
        share = plan.share(1, world_size=size, start=start)
        steps = data.draw(st.integers(0, share.steps))
        parts += taken(plan, 1, size, start, steps)
        start = share.done(steps)
    parts += taken(plan, 1, sizes[-1], start)
    assert unmarked(parts).tolist() == list(range(len(plan.lengths)))


@settings(max_examples=60)
@given(plans(), st.integers(1, 6), st.data())
def test_the_same_ranks_resume_identically(plan, world_size, data):
    whole = taken(plan, 0, world_size)
    done = data.draw(st.integers(0, len(whole)))
    share = plan.share(0, world_size=world_size)
    rest = taken(plan, 0, world_size, share.done(done))
    assert len(rest) == len(whole) - done
    for before, after in zip(whole[done:], rest, strict=True):
        for (items, _), (other, _) in zip(before, after, strict=True):
            np.testing.assert_array_equal(items, other)


def plan_of(count=500, **options):
    seconds = np.random.default_rng(0).uniform(1, 20, count)
    return DurationBatches(seconds, **{"budget": 100.0, "buckets": 6, **options})


@pytest.mark.parametrize("order", ORDERS)
def test_a_sampler_resumes_with_other_ranks(order):
    plan = plan_of(order=order, window=100)
    samplers = [plan.sampler(rank, 8) for rank in range(8)]
    seen = []
    for sampler in samplers:
        iterator = iter(sampler)
        seen += [item for _ in range(3) for item in next(iterator)]
    states = [sampler.state_dict() for sampler in samplers]
    assert all(state == states[0] for state in states)
    for rank in range(6):
        other = plan_of(order=order, window=100).sampler(rank, 6)
        other.load_state_dict(states[0])
        assert other.epoch == 0
        seen += [item for batch in other for item in batch]
        assert other.epoch == 1
    assert set(seen) == set(range(500))
    assert len(seen) - 500 < 6 * 6


@pytest.mark.parametrize("order", ORDERS)
def test_a_plan_goes_on_where_its_iteration_stopped(order):
    plan = plan_of(order=order, window=100)
    ranks = [plan.epoch(2, rank=rank, world_size=8) for rank in range(8)]
    seen = [item for _ in range(3) for rank in ranks for item in next(rank)]
    state = json.loads(json.dumps(plan.state_dict()))
    assert state["epoch"] == 2
    other = plan_of(order=order, window=100)
    other.load_state_dict(state)
    assert other.state_dict() == plan.state_dict()
    rest = [items for rank in range(6) for items in other.epoch(2, rank=rank, world_size=6)]
    assert len(rest) == 6 * other.steps(2, world_size=6, start=state["batches_done"])
    seen += [item for items in rest for item in items]
    assert set(seen) == set(range(500))
    assert len(seen) - 500 < 6 * 6
    # Other epochs are whole, and so is this one from a given start.
    assert sum(map(len, other.epoch(3))) == sum(map(len, other.epoch(2, start=0))) == 500
    with pytest.raises(InvalidArgumentError, match="seed was 0 and is 1"):
        plan_of(order=order, window=100, seed=1).load_state_dict(state)
    with pytest.raises(InvalidArgumentError, match="there were only"):
        other.load_state_dict(state | {"batches_done": [[8, 10**6]]})
    with pytest.raises(InvalidArgumentError, match="not one of a batch sampler"):
        other.load_state_dict({"epoch": 1})
    assert other.state_dict()["batches_done"] == plan.share(2).done(plan.steps(2))


@pytest.mark.parametrize("order", ORDERS)
def test_a_plan_is_the_same_for_any_number_of_threads(order):
    random = np.random.default_rng(3)
    seconds, tokens = random.gamma(4, 2, 60_000), random.integers(1, 90, 60_000)
    before = _native.num_threads()
    found = []
    try:
        for threads in (1, 3):
            _native.set_num_threads(threads)
            plan = DurationBatches(seconds, tokens, buckets=(6, 3), order=order, seed=5)
            found.append([items.tolist() for items in plan.epoch(1, world_size=2)])
    finally:
        _native.set_num_threads(before)
    assert found[0] == found[1]


@pytest.mark.parametrize("order", ORDERS)
def test_an_item_may_come_at_any_step_with_any_other(order):
    """Over epochs, an item is in each quarter of the steps equally often, and in new company."""
    plan = plan_of(count=400, order=order, window=50, seed=9)
    quarters = np.zeros(4)
    company = [set() for _ in range(400)]
    epochs = 200
    for epoch in range(epochs):
        batches = list(plan.epoch(epoch))
        for step, items in enumerate(batches):
            if 7 in items:
                quarters[4 * step // len(batches)] += 1
            for item in items:
                company[item].update(items.tolist())
    expected = epochs / 4
    # Mean and deviation of chi-square with three degrees of freedom: 3 and 2.4.
    assert ((quarters - expected) ** 2 / expected).sum() < 3 + 6 * 2.4
    most = max(len(items) for items in plan.epoch(0))
    assert min(map(len, company)) > 2 * most


def test_states_of_other_plans_are_refused():
    state = plan_of().sampler().state_dict()
    with pytest.raises(InvalidArgumentError, match="seed was 0 and is 3"):
        plan_of(seed=3).sampler().load_state_dict(state)
    with pytest.raises(InvalidArgumentError, match="order was 'buckets' and is 'window'"):
        plan_of(order="window").sampler().load_state_dict(state)
    with pytest.raises(InvalidArgumentError, match="lengths was"):
        plan_of(count=400).sampler().load_state_dict(state)
    with pytest.raises(InvalidArgumentError, match="there were only"):
        plan_of().sampler().load_state_dict(state | {"batches_done": [[2, 10**6]]})


@pytest.mark.parametrize(
    ("seconds", "options", "message"),
    [
        ([], {}, "there is no item"),
        ([1.0, -2.0], {}, "item 1 is -2.0, and 1 of 2 are no finite seconds above 0"),
        ([1.0, float("nan")], {}, "item 1 is nan"),
        ([0.0], {}, "item 0 is 0.0"),
        ([1.0, None], {}, "item 1 is null"),
        ([1.0, 700.0], {}, "item 1 of 700 seconds is above the budget alone, as 1 of 2"),
        ([1.0, 30.0], {"edges": [5.0, 20.0]}, "item 1 of 30 seconds is above the last edge, 20 s"),
        (
            [1.0],
            {"min_seconds": 2.0},
            "no item is left: 1 of 1 were dropped, the first as too short",
        ),
    ],
)
def test_items_that_cannot_be_used_are_named(seconds, options, message):
    with pytest.raises(DataError, match=message):
        DurationBatches(seconds, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "sorted"}, "order is 'sorted'"),
        ({"seed": -1}, "seed is -1"),
        ({"window": 0}, "window is 0"),
        ({"too_long": "keep"}, "too_long is 'keep'"),
        ({"drop_last": True, "fill_last": True}, "one of them at most"),
        ({"tokens": [1]}, "tokens: 1 for 2 items"),
        ({"buckets": (2, 2)}, "need tokens"),
        ({"buckets": 0}, "buckets is 0"),
        ({"edges": "best"}, "edges is 'best'"),
        ({"edges": [3.0, 3.0]}, "there twice"),
        ({"edges": [-3.0]}, "not above 0"),
        ({"budget": -1.0}, "most is -1.0"),
        ({"edge_step": 0.0}, "step is 0.0"),
        ({"budget": Budget.sizes_by_bucket({9.0: 2}), "order": "window"}, "no sizes for windows"),
    ],
)
def test_wrong_parameters_are_refused(options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        DurationBatches([1.0, 2.0], **options)


def test_items_that_are_too_long_can_be_dropped_and_are_listed():
    plan = DurationBatches([1.0, 700.0, 0.1, 3.0], too_long="drop", min_seconds=0.5)
    assert plan.dropped.rows() == [
        (1, 700.0, None, "above the budget alone"),
        (2, pytest.approx(0.1), None, "too short"),
    ]
    assert sorted(np.concatenate(list(plan.epoch(0))).tolist()) == [0, 3]


def test_sizes_by_bucket_say_the_buckets():
    plan = DurationBatches([1.0] * 5 + [8.0] * 4, budget=Budget.sizes_by_bucket({2.0: 3, 9.0: 1}))
    assert sorted(len(batch) for batch in plan.epoch(0)) == [1, 1, 1, 1, 2, 3]


def test_more_ranks_than_items():
    for order in ORDERS:
        steps = taken(plan_of(count=3, order=order), 0, 600)
        assert unmarked(steps).tolist() == [0, 1, 2]
        assert all(len(items) == 1 for ranks in steps for items, _ in ranks)


def test_a_report_says_what_an_epoch_comes_to():
    plan = DurationBatches([4.0, 3.0, 2.0, 1.0], [4, 2, 1, 1], budget=8.0, buckets=2)
    found = plan.report(1)
    assert (found.steps, found.items, found.repeated, found.left_out) == (2, 4, 0, 0)
    assert found.padding_in == pytest.approx(1 - 10 / (2 * 4 + 2 * 2))
    assert found.padding_out == pytest.approx(1 - 8 / (2 * 4 + 2 * 1))
    assert found.straggler_efficiency == 1.0
    assert plan.report(4).repeated == 4


def test_padding_is_that_of_the_published_figures():
    """200,000 log-normal utterances: 5.3 % by equal durations in 30 buckets, 4.6 % by optimal ones."""
    random = np.random.default_rng(0)
    seconds = np.clip(np.exp(random.normal(np.log(6.5), 0.75, 50_000)), 0.5, 40)
    report = DurationBatches(seconds, budget=600).report(8)
    assert report.padding_in < 0.046
    assert report.straggler_efficiency > 0.98
    assert abs(report.order_correlation) < 0.05
    assert DurationBatches(seconds, budget=600, edges="equal_duration").report(8).padding_in > 0.05
    assert DurationBatches(seconds, budget=600, order="window").report(8).padding_in < 0.015


def left_out_for_ever(plan, world_size, epochs=40):
    seen = np.zeros(len(plan.lengths), np.bool_)
    for epoch in range(epochs):
        for rank in range(world_size):
            for items in plan.epoch(epoch, rank=rank, world_size=world_size):
                seen[items] = True
    return int((~seen).sum())


def test_items_that_an_epoch_drops_are_others_in_the_next():
    """Buckets with too few batches for a step of all ranks would else be left out in every epoch."""
    random = np.random.default_rng(2)
    seconds = np.concatenate([random.uniform(1, 3, 2000), random.uniform(25, 30, 40)])
    plan = DurationBatches(seconds, budget=100.0, buckets=8, drop_last=True)
    assert plan.report(8).left_out > 0
    assert left_out_for_ever(plan, 8) == 0
    sizes = [
        {len(plan.batch(0, step, rank=rank, world_size=8)) for rank in range(8)}
        for step in range(plan.steps(0, world_size=8))
    ]
    assert all(len(each) == 1 for each in sizes), "all ranks have as many items"


def test_a_change_to_fewer_ranks_drops_no_more():
    random = np.random.default_rng(2)
    seconds = random.lognormal(2, 0.6, 3000).clip(0.5, 35)
    plan = DurationBatches(seconds, budget=100.0, drop_last=True)
    alone = sum(len(items) for items in plan.epoch(0))
    share = plan.share(0, world_size=8)
    first = sum(len(plan.batch(0, 0, rank=rank, world_size=8)) for rank in range(8))
    rest = sum(len(items) for items in plan.epoch(0, start=share.done(1)))
    # A bucket that is dealt in equal parts leaves out less than an item for each rank.
    assert alone - 8 < first + rest <= alone


def test_sizes_are_multiples_where_there_are_so_many_items():
    budget = Budget.items(8).multiple_of(8)
    plan = DurationBatches([5.0] * 9, budget=budget, drop_last=True)
    assert [len(items) for items in plan.epoch(0)] == [8]
    plan = DurationBatches([5.0] * 3, budget=budget, fill_last=True)
    assert [len(items) for items in plan.epoch(0)] == [3]
    found = DurationBatches([5.0] * 20, budget=budget)
    assert sorted(len(items) for items in found.epoch(0)) == [4, 8, 8]


def test_windows_mix_equal_lengths_and_ranks():
    plan = DurationBatches([30.0] * 2000, budget=600.0, order="window", window=500, seed=1)
    near = [np.ptp(np.sort(items)) for items in plan.epoch(0)]
    assert np.median(near) > 1000, "items of a batch come from anywhere"
    seconds = np.linspace(1, 20, 2000)
    plan = DurationBatches(seconds, budget=100.0, order="window", window=500)
    longest = np.zeros(4)
    for epoch in range(10):
        for step in range(plan.steps(epoch, world_size=4)):
            own = [seconds[plan.batch(epoch, step, rank=r, world_size=4)].max() for r in range(4)]
            longest[int(np.argmax(own))] += 1
    assert longest.min() > 0.8 * longest.mean(), "each rank has the longest batch as often"


def test_numpys_whole_numbers_are_whole_numbers():
    for order in ORDERS:
        plan = plan_of(order=order, window=100)
        for kind in (np.uint8, np.int64, np.uint64):
            two = kind(2)
            expected = plan.batch(2, 2, rank=1, world_size=2).tolist()
            fresh = plan_of(order=order, window=100)
            assert fresh.batch(two, two, rank=kind(1), world_size=two).tolist() == expected
            assert fresh.steps(0, start=kind(0)) == plan.steps(0)
        for wrong in (1.0, True, "1", None):
            with pytest.raises(InvalidArgumentError, match="world_size is"):
                plan.steps(0, world_size=wrong)
        for start in (((10**12, 1),), ((2**70, 1),), ((1, 2**70),), "ab", ((1,),)):
            with pytest.raises(InvalidArgumentError, match="start"):
                plan.steps(0, start=start)


def test_threads_share_a_plan():
    plan = plan_of()
    wanted = {
        (epoch, step): plan_of().batch(epoch, step).tolist()
        for epoch in range(30)
        for step in range(5)
    }
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            for _ in range(5):
                found = pool.map(lambda key: plan.batch(*key).tolist(), wanted)
                assert list(found) == list(wanted.values())
    finally:
        sys.setswitchinterval(before)


def test_a_plan_is_made_without_polars_and_after_a_fork():
    code = (
        "import os, sys\n"
        "from mbflow.speech import DurationBatches\n"
        "plan = DurationBatches([1.0] * 9, budget=3.0)\n"
        "assert 'polars' not in sys.modules\n"
        "assert len(plan.dropped) == 0\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(len(list(DurationBatches([1.0] * 9, budget=3.0).epoch(0))))\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)
