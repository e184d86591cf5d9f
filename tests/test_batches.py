"""Ranks, steps and epochs: the arithmetic that all kinds of batches stand on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbflow.batches import Share
from mbflow.errors import InvalidArgumentError
from mbflow.stratified import StratifiedBatches

counts = st.integers(0, 60)
ranks = st.integers(1, 9)
lasts = st.sampled_from(["short", "drop", "fill"])


@given(batches=counts, world_size=ranks, last=lasts, uneven=st.booleans(), data=st.data())
def test_every_batch_has_one_turn_and_ranks_take_equal_steps(
    batches, world_size, last, uneven, data
):
    start = data.draw(st.integers(0, batches))
    share = Share(batches, world_size, start, last, uneven)
    turns = [share.turn(step, rank) for step in range(share.steps) for rank in range(world_size)]
    whole = [turn.batch for turn in turns if turn.parts == 1 and not turn.repeat]
    assert whole == list(range(start, start + len(whole)))
    rest = (batches - start) % world_size
    if last == "drop":
        assert len(whole) == batches - start - rest
        assert all(turn.parts == 1 and not turn.repeat for turn in turns)
    elif last == "fill":
        assert len(whole) == batches - start
        assert sum(turn.repeat for turn in turns) == (world_size - rest if rest else 0)
    else:
        if uneven and world_size > 1 and rest == 0 and batches > start:
            rest = world_size
        assert len(whole) == batches - start - rest
        parts = turns[len(whole) :]
        assert [(turn.batch, turn.part) for turn in parts] == [
            (batches - rest, rank) for rank in range(world_size if rest else 0)
        ]


@given(batches=st.integers(1, 60), sizes=st.lists(ranks, min_size=1, max_size=5), data=st.data())
def test_other_numbers_of_ranks_go_on_without_loss_or_repeat(batches, sizes, data):
    start, seen = 0, []
    for world_size in sizes:
        share = Share(batches, world_size, start)
        whole = (batches - start) // world_size
        steps = data.draw(st.integers(0, whole))
        seen += [share.turn(step, r).batch for step in range(steps) for r in range(world_size)]
        start = share.done(steps)
    assert seen == list(range(start))


def test_wrong_shares_are_refused():
    for arguments in [(-1,), (3, 0), (3, 1, 4), (3, 1, 0, "other"), (3.0,), (True,)]:
        with pytest.raises(InvalidArgumentError):
            Share(*arguments)
    share = Share(5, 2, last="drop")
    with pytest.raises(
        InvalidArgumentError, match="step is 2; expected a whole number from 0 to 1"
    ):
        share.turn(2, 0)
    with pytest.raises(InvalidArgumentError, match="rank is 2"):
        share.turn(0, 2)
    with pytest.raises(InvalidArgumentError, match="steps is 3"):
        share.done(3)
    with pytest.raises(InvalidArgumentError, match="there is no step"):
        Share(1, 2, last="drop").turn(0, 0)


def plan(**options):
    return StratifiedBatches([row % 7 == 0 for row in range(103)], 4, **options)


def test_a_pass_goes_on_to_the_next_epoch():
    batches = plan()
    sampler = batches.sampler(rank=1, world_size=3)
    first, second = list(sampler), list(sampler)
    assert sampler.epoch == 2
    assert first != second
    assert first == [
        batches.batch(0, step, rank=1, world_size=3).tolist() for step in range(len(sampler))
    ]
    sampler.set_epoch(0)
    assert list(sampler) == first


@pytest.mark.parametrize("last", ["short", "drop", "fill"])
def test_a_state_is_where_another_run_goes_on(last):
    batches = plan(last=last)
    whole = list(batches.sampler(world_size=1, epoch=4))
    before = [batches.sampler(rank=rank, world_size=3, epoch=4) for rank in range(3)]
    seen = [next_batches(sampler, 5) for sampler in before]
    taken = [batch for step in zip(*seen, strict=True) for batch in step]
    assert taken == whole[:15]
    after = batches.sampler()
    after.load_state_dict(before[2].state_dict())
    assert len(after) == len(whole) - 15
    assert list(after) == whole[15:]
    assert after.epoch == 5
    # A finished epoch is not begun again.
    after.load_state_dict(batches.sampler(epoch=4).state_dict(steps=len(whole)))
    assert (after.epoch, len(after)) == (5, len(whole))


def next_batches(sampler, count):
    iterator = iter(sampler)
    return [next(iterator) for _ in range(count)]


def test_states_of_other_batches_are_refused():
    state = plan().sampler().state_dict()
    for other in [plan(seed=1), plan(last="drop"), StratifiedBatches([0] * 103, 4)]:
        with pytest.raises(InvalidArgumentError, match="other batches"):
            other.sampler().load_state_dict(state)
    with pytest.raises(InvalidArgumentError, match="seed was 0 and is 1"):
        plan(seed=1).sampler().load_state_dict(state)
    with pytest.raises(InvalidArgumentError, match="not one of a batch sampler"):
        plan().sampler().load_state_dict({"epoch": 1})
    sampler = plan().sampler()
    next_batches(sampler, 3)
    before = sampler.state_dict()
    with pytest.raises(InvalidArgumentError, match="start is 999"):
        sampler.load_state_dict(state | {"epoch": 5, "batches_done": 999})
    assert sampler.state_dict() == before


def test_samplers_without_a_step_are_refused():
    with pytest.raises(InvalidArgumentError, match="too few for 30 ranks"):
        plan(last="drop").sampler(world_size=30)
    with pytest.raises(InvalidArgumentError, match="rank is 3"):
        plan().sampler(rank=3, world_size=3)
    with pytest.raises(InvalidArgumentError, match="epoch is -1"):
        plan().sampler(epoch=-1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_of_torch_yields_the_batches(workers):
    torch = pytest.importorskip("torch")
    features = torch.arange(103)
    dataset = torch.utils.data.TensorDataset(features)
    batches = plan()
    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=batches.sampler(), num_workers=workers
    )
    for epoch in range(2):
        assert [rows.tolist() for (rows,) in loader] == [
            batches.batch(epoch, step).tolist() for step in range(batches.steps())
        ]
    assert len(loader) == batches.steps()
