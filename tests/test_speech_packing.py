"""Packed rows: none above its capacity, every item once, few rows, equal steps, new partners."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbflow.errors import DataError, InvalidArgumentError
from mbflow.speech import Lengths, PackedBatches


@st.composite
def plans(draw, *, last=("short", "drop", "fill"), most=80):
    count = draw(st.integers(1, most))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rule = draw(st.sampled_from(last))
    if draw(st.booleans()):
        capacity = draw(st.integers(1, 60))
        lengths = random.integers(1, capacity + 1, count)
    else:
        capacity = draw(st.floats(0.01, 1000))
        lengths = random.uniform(0, draw(st.floats(0.05, 1)), count) * capacity
        lengths = np.maximum(lengths, 1e-6).clip(0, capacity)
    plan = PackedBatches(
        lengths,
        capacity=capacity,
        rows=draw(st.integers(1, 5)),
        fit=draw(st.sampled_from(["best", "first"])),
        shuffle=draw(st.booleans()),
        resolution=draw(st.sampled_from([None, capacity / 7, capacity / 31.7])),
        seed=draw(st.integers(0, 2**64 - 1)),
        drop_last=rule == "drop",
        fill_last=rule == "fill",
    )
    return plan, lengths


def taken(plan, epoch, world_size, start=0, steps=None):
    """For each step, what each rank takes."""
    share = plan.share(epoch, world_size=world_size, start=start)
    return [
        [
            plan.batch(epoch, step, rank=rank, world_size=world_size, start=start)
            for rank in range(world_size)
        ]
        for step in range(share.steps if steps is None else steps)
    ]


def unmarked(steps):
    return sorted(
        item
        for ranks in steps
        for batch in ranks
        for row, repeat in zip(batch.tolist(), batch.repeats.tolist(), strict=True)
        if not repeat
        for item in row
    )


@settings(max_examples=200)
@given(plans(), st.integers(1, 7), st.integers(0, 3))
def test_every_item_is_in_one_row_and_no_row_is_above_its_capacity(case, world_size, epoch):
    plan, lengths = case
    steps = taken(plan, epoch, world_size)
    found = unmarked(steps)
    if plan.last == "drop":
        assert len(set(found)) == len(found)
        assert set(found) <= set(range(len(lengths)))
    else:
        assert found == list(range(len(lengths)))
    for ranks in steps:
        for batch in ranks:
            assert 1 <= len(batch) <= plan.rows
            assert batch.offsets[0] == 0
            assert batch.offsets[-1] == len(batch.items)
            if plan.last != "short":
                assert len(batch) == plan.rows
            for row in batch.tolist():
                assert len(row) > 0
                # Sums of floats are rounded; whole numbers are not.
                assert lengths[row].sum() <= plan.capacity * (1 + 1e-12)
        if plan.last == "short":
            sizes = [len(batch) for batch in ranks]
            assert max(sizes) - min(sizes) <= 1


@settings(max_examples=60)
@given(plans(), st.integers(1, 4), st.data())
def test_an_iteration_gives_what_is_asked_for(case, world_size, data):
    plan, _ = case
    steps = plan.steps(world_size=world_size)
    rank = data.draw(st.integers(0, world_size - 1))
    first = data.draw(st.integers(0, steps))
    found = list(plan.epoch(2, rank=rank, world_size=world_size, start_step=first))
    assert len(found) == steps - first
    again = pickle.loads(pickle.dumps(plan))
    for step, batch in enumerate(found, first):
        wanted = again.batch(2, step, rank=rank, world_size=world_size)
        np.testing.assert_array_equal(batch.offsets, wanted.offsets)
        np.testing.assert_array_equal(batch.items, wanted.items)
        np.testing.assert_array_equal(batch.repeats, wanted.repeats)


@settings(max_examples=100)
@given(plans(last=("short",)), st.lists(st.integers(1, 6), min_size=1, max_size=4), st.data())
def test_a_run_goes_on_with_other_numbers_of_ranks(case, sizes, data):
    plan, lengths = case
    start, parts = 0, []
    for size in sizes:
        share = plan.share(1, world_size=size, start=start)
        steps = data.draw(st.integers(0, share.steps))
        parts += taken(plan, 1, size, start, steps)
        start = share.done(steps)
    parts += taken(plan, 1, sizes[-1], start)
    assert unmarked(parts) == list(range(len(lengths)))


def fewest_rows(lengths, capacity):
    """By trying every row for every item, longest first."""
    ordered = sorted(lengths, reverse=True)
    best = len(ordered)

    def place(at, rooms):
        nonlocal best
        if len(rooms) >= best:
            return
        if at == len(ordered):
            best = len(rooms)
            return
        for row in {room: row for row, room in enumerate(rooms) if room >= ordered[at]}.values():
            place(at + 1, [room - ordered[at] * (row == other) for other, room in enumerate(rooms)])
        place(at + 1, [*rooms, capacity - ordered[at]])

    place(0, [])
    return best


@settings(max_examples=150)
@given(
    st.integers(2, 30),
    st.lists(st.integers(1, 30), min_size=1, max_size=9),
    st.sampled_from(["best", "first"]),
)
def test_rows_are_within_the_bound_of_the_fewest(capacity, lengths, fit):
    lengths = [min(length, capacity) for length in lengths]
    fewest = fewest_rows(lengths, capacity)
    report = PackedBatches(lengths, capacity=capacity, fit=fit).report(1)
    assert report.bound <= fewest <= report.rows
    assert 9 * report.rows <= 11 * fewest + 6


def test_the_oracle_finds_what_packing_by_length_misses():
    lengths = [6, 5, 4, 3, 3, 3]
    assert fewest_rows(lengths, 12) == 2
    assert PackedBatches(lengths, capacity=12).report(1).rows == 3


def rows_of(plan, epoch=0):
    return [row for batch in plan.epoch(epoch) for row in batch.tolist()]


def test_first_fit_and_best_fit_differ():
    lengths = [8, 5, 4, 1]
    first, best = (PackedBatches(lengths, capacity=10, fit=fit) for fit in ("first", "best"))
    assert sorted(map(sorted, rows_of(first))) == [[0, 3], [1, 2]]
    assert sorted(map(sorted, rows_of(best))) == [[0], [1, 2, 3]]


def plan_of(count=600, **options):
    lengths = np.random.default_rng(0).integers(1, 40, count)
    return PackedBatches(lengths, **{"capacity": 100, "rows": 3, **options})


def partners(plan, epoch):
    return {
        (one, other) for row in rows_of(plan, epoch) for one in row for other in row if one < other
    }


def test_partners_are_new_in_each_epoch_and_rows_as_full():
    lengths = np.random.default_rng(0).integers(10, 40, 3000)
    plan, still = (
        PackedBatches(lengths, capacity=100, shuffle=shuffle) for shuffle in (True, False)
    )
    pairs = [partners(plan, epoch) for epoch in range(3)]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert len(pairs[one] & pairs[other]) < 0.06 * len(pairs[one])
    assert partners(still, 0) == partners(still, 1)
    rows = [
        sorted(tuple(lengths[row]) for row in rows_of(*found))
        for found in ((plan, 0), (plan, 5), (still, 0))
    ]
    assert rows[0] == rows[1] == rows[2]


def test_rows_come_in_a_new_order_in_each_epoch():
    plan = plan_of(shuffle=False, rows=1)
    orders = [[tuple(batch.items.tolist()) for batch in plan.epoch(epoch)] for epoch in range(3)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert orders[0] != orders[1] != orders[2]
    same = sum(one == other for one, other in zip(orders[0], orders[1], strict=True))
    assert same < 0.1 * len(orders[0])


def test_every_place_is_reached_by_every_item_of_its_length():
    plan = PackedBatches([7, 7, 7, 3, 2, 1], capacity=10)
    seen = {
        frozenset(row)
        for epoch in range(200)
        for batch in plan.epoch(epoch)
        for row in batch.tolist()
    }
    assert {frozenset(pair) for pair in ((0, 3), (1, 3), (2, 3))} <= seen


def test_all_ranks_take_equal_steps_and_rows():
    for world_size in (1, 2, 5, 8):
        for epoch in range(2):
            counts = [
                sum(1 for _ in plan_of().epoch(epoch, rank=rank, world_size=world_size))
                for rank in range(world_size)
            ]
            assert set(counts) == {plan_of().steps(epoch, world_size=world_size)}


def test_more_ranks_than_rows():
    plan = PackedBatches([6, 6, 6], capacity=10, rows=2)
    (step,) = taken(plan, 0, 7)
    assert unmarked([step]) == [0, 1, 2]
    assert [len(batch) for batch in step] == [1] * 7
    assert sum(int(batch.repeats.sum()) for batch in step) == 4
    full = PackedBatches([6, 6, 6], capacity=10, rows=2, fill_last=True)
    (step,) = taken(full, 0, 7)
    assert [len(batch) for batch in step] == [2] * 7
    assert unmarked([step]) == [0, 1, 2]
    with pytest.raises(InvalidArgumentError, match="too few for 7 ranks"):
        PackedBatches([6, 6, 6], capacity=10, rows=2, drop_last=True).sampler(0, 7)


def test_a_sampler_resumes_with_other_ranks():
    samplers = [plan_of().sampler(rank, 8) for rank in range(8)]
    seen = []
    for sampler in samplers:
        iterator = iter(sampler)
        seen += [item for _ in range(3) for row in next(iterator) for item in row]
    states = [sampler.state_dict() for sampler in samplers]
    assert all(state == states[0] for state in states)
    state = json.loads(json.dumps(states[0]))
    for rank in range(6):
        other = plan_of().sampler(rank, 6)
        other.load_state_dict(state)
        seen += [item for batch in other for row in batch for item in row]
        assert other.epoch == 1
    assert set(seen) == set(range(600))
    assert len(seen) < 600 + 6 * 40
    with pytest.raises(InvalidArgumentError, match="seed was 0 and is 3"):
        plan_of(seed=3).sampler().load_state_dict(state)
    with pytest.raises(InvalidArgumentError, match="capacity was '100' and is '90'"):
        plan_of(capacity=90).sampler().load_state_dict(state)
    with pytest.raises(InvalidArgumentError, match="items was 600 and is 500"):
        plan_of(count=500).sampler().load_state_dict(state)


class Rows:
    """A data set of torch that is asked for a packed row at a time."""

    def __getitem__(self, items):
        return items


def test_torch_asks_a_data_set_for_rows():
    torch = pytest.importorskip("torch")
    loader = torch.utils.data.DataLoader(
        Rows(), batch_sampler=plan_of().sampler(), collate_fn=list, num_workers=0
    )
    assert list(loader) == [batch.tolist() for batch in plan_of().epoch(0)]


def test_rows_of_speech_are_nearly_full():
    """As in LibriSpeech train-other-500, from its published quantiles, in rows of 40 seconds."""
    random = np.random.default_rng(0)
    shares = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1]
    quantiles = [1.0, 2.3, 3.5, 5.0, 9.8, 13.4, 15.1, 16.5, 17.2, 18.1, 18.9, 31.0]
    seconds = np.interp(random.random(50_000), shares, quantiles)
    found = PackedBatches(seconds, capacity=40.0).report(8)
    assert 0 < found.waste < 0.0012
    assert found.bound <= found.rows <= 1.002 * found.bound
    assert found.rows * 40.0 * (1 - found.waste) == pytest.approx(seconds.sum())


def test_a_finer_grid_wastes_less():
    seconds = np.random.default_rng(0).uniform(0.5, 12, 5000)
    waste = [
        PackedBatches(seconds, capacity=40.0, resolution=grid).report(1).waste
        for grid in (2.0, 0.1, None)
    ]
    assert waste == sorted(waste, reverse=True)
    assert waste[0] > 0.05
    assert waste[2] < 0.005


def test_many_items_have_a_finer_grid():
    seconds = np.random.default_rng(0).uniform(0.5, 12, 70_000)
    grids = [PackedBatches(seconds[:count], capacity=40.0).resolution for count in (1000, 70_000)]
    assert grids == [40 / 4096, 40 / 8192]


def test_whole_numbers_are_not_rounded():
    for lengths in ([3, 7, 6, 4], [3.0, 7.0, 6.0, 4.0], np.array([3, 7, 6, 4], np.uint8)):
        plan = PackedBatches(lengths, capacity=10)
        assert plan.resolution == 1.0
        assert plan.report(1).waste == 0
    assert PackedBatches([5, 5, 4], capacity=9.7).report(1).rows == 2
    big = 2**60
    assert PackedBatches([big, 1], capacity=big).report(1).rows == 2


def test_lengths_on_the_grid_are_not_rounded():
    # 12.34 / 0.01 is above 1234 in floats, and 0.57 / 0.01 is below 57.
    lengths = [12.34, 0.57, 0.07, 0.02]
    assert PackedBatches(lengths, capacity=13.0, resolution=0.01).report(1).rows == 1
    grid = np.arange(1, 2000) * 0.01
    found = PackedBatches(grid, capacity=20.0, resolution=0.01, shuffle=False)
    exact = PackedBatches(np.arange(1, 2000), capacity=2000, shuffle=False)
    assert rows_of(found) == rows_of(exact)


def test_an_item_as_long_as_the_capacity_fills_a_row():
    for capacity, grid in ((40.0, None), (39.7, None), (40.0, 0.3), (40.0, 17.0)):
        plan = PackedBatches([capacity, 0.1, capacity], capacity=capacity, resolution=grid)
        assert plan.report(1).rows == 3


def test_seconds_of_lengths_may_be_packed():
    plan = PackedBatches(Lengths.of([3.5, 0.25]), capacity=4.0)
    assert plan.batch(0, 0).tolist() == [[0, 1]]


def test_items_that_are_too_long_can_be_dropped_and_are_listed():
    plan = PackedBatches([3.5, 50.0, 0.5], capacity=40.0, too_long="drop")
    assert plan.dropped.rows() == [(1, 50.0, "above the capacity")]
    assert plan.batch(0, 0).tolist() == [[0, 2]]
    assert (plan.report(1).items, plan.report(1).dropped) == (2, 1)


@pytest.mark.parametrize(
    ("lengths", "options", "message"),
    [
        ([], {}, "there is no item"),
        ([1.0, -2.0], {}, "item 1 is -2.0, and 1 of 2 are no finite lengths above 0"),
        ([3, 0], {}, "item 1 is 0"),
        ([1.0, float("nan")], {}, "item 1 is nan"),
        ([1.0, float("inf")], {}, "item 1 is inf"),
        ([1.0, None], {}, "item 1 is null"),
        ([1.0, 41.0, 50.0], {}, r"item 1 is 41.0 long, above the capacity of 40, as 2 of 3"),
        ([41, 50], {"too_long": "drop"}, "item 0 is 41 long"),
    ],
)
def test_items_that_cannot_be_packed_are_named(lengths, options, message):
    with pytest.raises(DataError, match=message):
        PackedBatches(lengths, capacity=40, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 0}, "capacity is 0; expected a finite number above 0"),
        ({"capacity": float("nan")}, "capacity is nan"),
        ({"capacity": 1e300}, r"capacity is 1e\+300; expected a number from 1.18e-38 to 2"),
        ({"capacity": 2.0**63}, "capacity is 9.2"),
        ({"capacity": 5e-324}, "capacity is 5e-324"),
        ({"capacity": 10**400}, "capacity is 1000"),
        ({"resolution": 1e-30}, "resolution is 1e-30, too small beside the capacity of 40"),
        ({"resolution": 5e-324}, "resolution is 5e-324, too small"),
        ({"resolution": 10**400}, "resolution is 1000.*, above"),
        ({"rows": 10**400}, "rows is 1000"),
        ({"rows": 0}, "rows is 0"),
        ({"fit": "next"}, "fit is 'next'"),
        ({"resolution": 0.0}, "resolution is 0.0"),
        ({"resolution": 41.0}, "resolution is 41.0, above the capacity of 40"),
        ({"seed": -1}, "seed is -1"),
        ({"too_long": "keep"}, "too_long is 'keep'"),
        ({"drop_last": True, "fill_last": True}, "one of them at most"),
    ],
)
def test_wrong_parameters_are_refused(options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        PackedBatches([1.0, 2.0], **{"capacity": 40, **options})


def test_wrong_steps_and_ranks_are_refused():
    plan = plan_of()
    for options, message in [
        ({"epoch": -1, "step": 0}, "epoch is -1"),
        ({"epoch": 0, "step": 10**6}, "step is 1000000"),
        ({"epoch": 0, "step": 1.0}, "step is 1.0"),
        ({"epoch": 0, "step": None}, "step is None"),
        ({"epoch": 0, "step": "1"}, "step is '1'"),
        ({"epoch": 0, "step": True}, "step is True"),
        ({"epoch": 10**400, "step": 0}, "epoch is 1000"),
        ({"epoch": 0, "step": 0, "rank": 0.0}, "rank is 0.0"),
        ({"epoch": 0, "step": 0, "world_size": 10**400}, "world_size is 1000"),
        ({"epoch": 0, "step": 0, "world_size": 1.0}, "world_size is 1.0"),
        ({"epoch": 0, "step": 0, "rank": 2, "world_size": 2}, "rank is 2"),
        ({"epoch": 0, "step": 0, "world_size": 0}, "world_size is 0"),
        ({"epoch": 0, "step": 0, "start": 10**6}, "start is 1000000"),
    ]:
        with pytest.raises(InvalidArgumentError, match=message):
            plan.batch(**options)


def test_an_item_as_long_as_the_capacity_fits_in_single_precision():
    """Lengths are held in float32, rounded up: 0.7 becomes 0.70000005."""
    for capacity in (0.7, 16.1, 40.0, 1e-30):
        plan = PackedBatches(Lengths.of([capacity] * 2), capacity=capacity)
        found = plan.report(1)
        assert (found.rows, found.bound, found.waste) == (2, 2, 0.0)
        assert plan.capacity == capacity
    with pytest.raises(DataError, match=r"item 0 is 0.70000"):
        PackedBatches(Lengths.of([0.700001]), capacity=0.7)
    # Those on the grid stay on it, however they are held.
    for lengths in ([0.3, 0.4], Lengths.of([0.3, 0.4]), np.array([0.3, 0.4], np.float32)):
        assert PackedBatches(lengths, capacity=0.7, resolution=0.1).report(1).rows == 1


@given(
    st.lists(st.floats(1e-3, 0.7), min_size=1, max_size=60), st.sampled_from([None, 0.1, 0.01, 0.7])
)
def test_lengths_in_single_precision_exceed_a_capacity_by_rounding_only(lengths, resolution):
    plan = PackedBatches(Lengths.of(lengths), capacity=0.7, resolution=resolution)
    for row in rows_of(plan):
        assert sum(lengths[item] for item in row) <= 0.7 * (1 + 2**-22)


def test_a_capacity_has_one_fingerprint():
    plans = [PackedBatches([1, 2], capacity=5, resolution=1)]
    for number in (float, np.int64, np.uint8, np.float32, np.float64):
        plans.append(PackedBatches([1, 2], capacity=number(5), resolution=number(1)))
    assert all(plan.fingerprint() == plans[0].fingerprint() for plan in plans)
    assert PackedBatches([1, 2], capacity=6).fingerprint() != plans[0].fingerprint()


def test_narrow_integers_are_as_ints():
    plan = plan_of(3000, rows=1)
    small, wide = np.uint8, np.uint64
    want = plan.batch(1, 60, rank=1, world_size=7, start=2)
    for kind in (small, wide):
        found = plan.batch(kind(1), kind(60), rank=kind(1), world_size=kind(7), start=kind(2))
        assert found.tolist() == want.tolist()
        rest = plan.epoch(
            kind(1), rank=kind(1), world_size=kind(7), start=kind(2), start_step=kind(60)
        )
        assert next(rest).tolist() == want.tolist()


@given(plans(), st.integers(1, 60), st.data())
def test_few_batches_of_many_are_as_of_all(case, world_size, data):
    """An epoch looks items up one by one, or works out the order of all."""
    plan, _ = case
    rank = data.draw(st.integers(0, world_size - 1))
    for step, found in enumerate(plan.epoch(3, rank=rank, world_size=world_size)):
        wanted = plan.batch(3, step, rank=rank, world_size=world_size)
        assert found.tolist() == wanted.tolist()
        assert found.repeats.tolist() == wanted.repeats.tolist()
        assert (found.offsets.dtype, found.items.dtype) == (np.int64, np.int64)
