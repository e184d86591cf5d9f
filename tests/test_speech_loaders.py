"""Duration batches in the loaders of torch and torchdata: workers, pickling, states, epochs' ends."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mbflow.errors import DataError, InvalidArgumentError
from mbflow.speech import DurationBatches, Lengths

pytestmark = [
    pytest.mark.peer("torch"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
]
torch = pytest.importorskip("torch")

SECONDS = np.random.default_rng(0).uniform(1, 20, 300)


def plan_of(seconds=SECONDS, **options):
    return DurationBatches(seconds, **{"budget": 100.0, "buckets": 6, "window": 90, **options})


def batches_of(plan, epoch, rank=0, world_size=1):
    return [rows.tolist() for rows in plan.epoch(epoch, rank=rank, world_size=world_size)]


class Rows(torch.utils.data.Dataset):
    """A row is its number."""

    def __len__(self):
        return len(SECONDS)

    def __getitem__(self, row):
        return row


def passes(loader, count):
    return [[rows.tolist() for rows in loader] for _ in range(count)]


@pytest.mark.parametrize(
    ("workers", "context", "persistent"),
    [
        (0, None, False),
        (2, "fork", False),
        (2, "fork", True),
        pytest.param(2, "spawn", True, marks=pytest.mark.slow),
    ],
)
def test_torchs_loader_yields_epoch_after_epoch(workers, context, persistent):
    plan = plan_of()
    loader = torch.utils.data.DataLoader(
        Rows(),
        batch_sampler=plan.sampler(1, 3),
        num_workers=workers,
        multiprocessing_context=context,
        persistent_workers=persistent,
    )
    assert len(loader) == plan.steps(0, world_size=3)
    assert passes(loader, 3) == [batches_of(plan, epoch, 1, 3) for epoch in range(3)]
    loader.batch_sampler.set_epoch(1)
    assert passes(loader, 1) == [batches_of(plan, 1, 1, 3)]


def test_a_pass_that_is_given_up_is_begun_again():
    plan = plan_of()
    sampler = plan.sampler()
    loader = torch.utils.data.DataLoader(Rows(), batch_sampler=sampler, num_workers=2)
    batches = iter(loader)
    assert next(batches).tolist() == batches_of(plan, 0)[0]
    fresh = iter(sampler)
    assert sampler.state_dict()["batches_done"] == ()
    assert list(fresh) == batches_of(plan, 0)
    assert passes(loader, 1) == [batches_of(plan, 1)]


def test_steps_that_training_did_count_though_all_batches_are_drawn():
    plan = plan_of()
    sampler = plan.sampler()
    loader = torch.utils.data.DataLoader(
        Rows(), batch_sampler=sampler, num_workers=2, prefetch_factor=1000
    )
    batches = iter(loader)
    for _ in range(4):
        next(batches)
    assert sampler.epoch == 1
    other = plan.sampler()
    other.load_state_dict(sampler.state_dict(steps=4))
    assert list(other) == batches_of(plan, 0)[4:]
    assert list(other) == batches_of(plan, 1)


def stateful(plan, rank=0, world_size=1, **options):
    pytest.importorskip("torchdata")
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(Rows(), batch_sampler=plan.sampler(rank, world_size), **options)


LOADERS = [
    {"num_workers": 0},
    {"num_workers": 2},
    {"num_workers": 2, "persistent_workers": True},
    {"num_workers": 2, "snapshot_every_n_steps": 5, "prefetch_factor": 4},
]


@pytest.mark.parametrize("options", LOADERS, ids=str)
@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("done", ["none", "some", "last"])
def test_torchdatas_loader_resumes_with_exactly_the_rest(options, before, done):
    plan = plan_of()
    expected = [batches_of(plan, epoch) for epoch in range(4)]
    steps = {"none": 0, "some": 8, "last": len(expected[before])}[done]
    first = stateful(plan, **options)
    assert passes(first, before) == expected[:before]
    batches = iter(first)
    for step in range(steps):
        assert next(batches).tolist() == expected[before][step]
    state = pickle.loads(pickle.dumps(first.state_dict()))
    second = stateful(plan_of(), **options)
    second.load_state_dict(state)
    # The rest, which may be none, then the epochs after it.
    assert passes(second, 2) == [expected[before][steps:], expected[before + 1]]
    # A state of a loader that has resumed itself, in the middle of an epoch.
    batches = iter(second)
    for _ in range(3):
        next(batches)
    third = stateful(plan, **options)
    third.load_state_dict(second.state_dict())
    assert passes(third, 1) == [expected[before + 2][3:]]
    del batches, first, second, third


@pytest.mark.parametrize("options", LOADERS, ids=str)
def test_torchdatas_loader_goes_on_to_the_next_epoch_after_one_that_is_finished(options):
    plan = plan_of()
    first = stateful(plan, **options)
    assert passes(first, 1) == [batches_of(plan, 0)]
    second = stateful(plan, **options)
    second.load_state_dict(first.state_dict())
    assert passes(second, 2) == [batches_of(plan, 1), batches_of(plan, 2)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_before_anything_was_drawn_is_the_beginning(workers):
    plan = plan_of()
    first = stateful(plan, num_workers=workers)
    second = stateful(plan, num_workers=workers)
    second.load_state_dict(first.state_dict())
    assert passes(second, 1) == [batches_of(plan, 0)]
    assert passes(first, 1) == [batches_of(plan, 0)]


@pytest.mark.parametrize("order", ["buckets", "window"])
def test_torchdatas_loaders_of_8_ranks_go_on_as_those_of_6(order):
    plan = plan_of(order=order, budget=40.0)
    seen, states = [], []
    for rank in range(8):
        # Workers of one rank are as good a test as those of eight, and take less of a machine.
        loader = stateful(plan, rank, 8, num_workers=2 if rank == 0 else 0)
        batches = iter(loader)
        for step in range(4):
            rows = next(batches).numpy()
            seen += rows[~plan.repeats(0, step, rank=rank, world_size=8)].tolist()
        states.append(loader.state_dict())
        del batches
    samplers = [_sampler_state(state) for state in states]
    assert all(sampler == samplers[0] for sampler in samplers)
    done = samplers[0]["batches_done"]
    for rank in range(6):
        loader = stateful(plan, rank, 6, num_workers=2 if rank == 0 else 0)
        loader.load_state_dict(states[min(rank, 1)])
        for step, rows in enumerate(loader):
            repeats = plan.repeats(0, step, rank=rank, world_size=6, start=done)
            seen += rows.numpy()[~repeats].tolist()
        assert passes(loader, 1) == [batches_of(plan, 1, rank, 6)]
    assert sorted(seen) == list(range(len(SECONDS)))


def _sampler_state(state):
    """The state of the batch sampler in that of a loader, with workers or without."""
    return state.get("_snapshot", {}).get("_main_snapshot", state)["_index_sampler_state"]


def test_torchdatas_state_of_other_batches_is_refused():
    loader = stateful(plan_of())
    next(iter(loader))
    other = stateful(plan_of(seed=5))
    other.load_state_dict(loader.state_dict())
    with pytest.raises(InvalidArgumentError, match="seed was 0 and is 5"):
        iter(other)


@pytest.mark.parametrize("order", ["buckets", "window"])
def test_plans_and_samplers_are_pickled(order):
    plan = plan_of(order=order)
    sampler = plan.sampler(1, 2)
    batches = iter(sampler)
    for _ in range(3):
        next(batches)
    other = pickle.loads(pickle.dumps(sampler))
    assert other.state_dict() == sampler.state_dict()
    rest = pickle.loads(pickle.dumps(batches))
    assert list(rest) == list(batches) == batches_of(plan, 0, 1, 2)[3:]


class Planned(torch.utils.data.Dataset):
    """A data set that takes a plan to the workers and says how they have its lengths."""

    def __init__(self, plan):
        self.plan = plan

    def __getitem__(self, step):
        maps = Path("/proc/self/maps").read_text()
        seconds = self.plan.lengths.seconds
        return (
            os.getpid(),
            type(seconds).__name__,
            str(seconds.filename) in maps,
            self.plan.batch(0, step).tolist(),
        )


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_map_the_index_of_lengths_and_do_not_copy_it(tmp_path, context):
    Lengths.of(SECONDS, np.arange(len(SECONDS))).save(tmp_path)
    plan = plan_of(Lengths.open(tmp_path))
    loader = torch.utils.data.DataLoader(
        Planned(plan),
        batch_size=None,
        sampler=range(6),
        num_workers=2,
        multiprocessing_context=context,
    )
    found = list(loader)
    assert len({pid for pid, *_ in found} - {os.getpid()}) == 2
    assert {(kind, mapped) for _, kind, mapped, _ in found} == {("memmap", True)}
    assert [rows for *_, rows in found] == batches_of(plan, 0)[:6]


def test_pickled_lengths_of_an_index_are_its_name(tmp_path):
    count = 100_000
    Lengths.of(np.ones(count), np.ones(count)).save(tmp_path)
    mapped = Lengths.open(tmp_path)
    mapped.digest()
    packed = pickle.dumps(mapped)
    assert len(packed) < 2000
    other = pickle.loads(packed)
    assert other.digest() == mapped.digest()
    np.testing.assert_array_equal(other.seconds, mapped.seconds)
    np.testing.assert_array_equal(other.tokens, mapped.tokens)
    held = pickle.loads(pickle.dumps(Lengths.of([1.0, 2.0], [3, 4])))
    assert (held.seconds.tolist(), held.tokens.tolist()) == ([1.0, 2.0], [3, 4])
    Lengths.of(np.ones(count) * 2, np.ones(count)).save(tmp_path)
    with pytest.raises(DataError, match="written anew"):
        pickle.loads(packed)
    (tmp_path / "seconds.npy").unlink()
    with pytest.raises(DataError, match="no index"):
        pickle.loads(packed)


def test_what_the_readme_says_runs(root, tmp_path):
    """As a script, since its loader has worker processes."""
    text = (root / "README.md").read_text(encoding="utf-8")
    section = text.split("\n## Batches of utterances\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "straggler_efficiency" in done.stdout
