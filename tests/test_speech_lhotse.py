"""Duration batches in lhotse's set-ups: its cuts, loaders, data sets, and its own sampler beside."""

from __future__ import annotations

import json
import warnings
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lhotse_cuts import SECONDS, Ids, cuts_of, flat, ids, lhotse, original, sampler_of, torch
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.speech import DurationBatches, lhotse_sampler

pytestmark = [
    pytest.mark.peer("lhotse", "torch"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
]
data = pytest.importorskip("lhotse.dataset")
sampling = pytest.importorskip("lhotse.dataset.sampling.base")


def test_a_sampler_is_one_of_lhotse_and_gives_the_planned_batches():
    sampler = sampler_of()
    assert isinstance(sampler, sampling.CutSampler)
    assert not sampler.is_lazy
    plan = DurationBatches(SECONDS, budget=60.0, buckets=6)
    sampler.set_epoch(2)
    found = list(sampler)
    assert all(isinstance(batch, lhotse.CutSet) for batch in found)
    assert ids(found) == [[f"cut-{row}" for row in rows] for rows in plan.epoch(2)]
    assert len(sampler) == len(found)
    assert found[0][0].dataloading_info == {"rank": 0, "world_size": 1, "worker_id": None}


@settings(max_examples=40)
@given(
    count=st.integers(1, 90),
    world_size=st.integers(1, 7),
    epoch=st.integers(0, 3),
    max_cuts=st.none() | st.integers(1, 9),
    quadratic=st.none() | st.floats(5, 40),
    shuffle=st.booleans(),
    order=st.sampled_from(["buckets", "window"]),
)
def test_every_cut_is_taken_once_over_the_ranks(
    count, world_size, epoch, max_cuts, quadratic, shuffle, order
):
    durations = SECONDS[:count].clip(0.5, 8)
    samplers = [
        sampler_of(
            cuts_of(durations),
            max_cuts=max_cuts,
            quadratic_duration=quadratic,
            world_size=world_size,
            rank=rank,
            shuffle=shuffle,
            order=order,
            window=30,
        )
        for rank in range(world_size)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    found = [list(sampler) for sampler in samplers]
    assert len({len(batches) for batches in found}) == 1
    every = [cut for batches in found for batch in batches for cut in batch]
    first = [cut.id for cut in every if "_dup" not in cut.id]
    assert sorted(first) == sorted(f"cut-{row}" for row in range(count))
    # Another constraint than the planner's own: lhotse's.
    for batches in found:
        for batch in batches:
            limit = sampling.TimeConstraint(
                60.0 * (1 + 1e-6), max_cuts, quadratic_duration=quadratic
            )
            for cut in batch:
                limit.add(cut)
            assert not limit.exceeded()
    if order == "buckets":
        edges = samplers[0].batches.edges
        for step in zip(*found, strict=True):
            durations_ = [cut.duration for batch in step for cut in batch]
            assert len(set(edges.assign(np.array(durations_, np.float32), None).tolist())) == 1


def test_an_epoch_has_an_order_of_its_own_unless_it_is_not_shuffled():
    sampler = sampler_of()
    first = ids(sampler)
    assert ids(sampler) == first  # as in lhotse, until set_epoch says otherwise
    sampler.set_epoch(1)
    second = ids(sampler)
    assert second != first
    assert sorted(flat(second)) == sorted(flat(first))
    sampler.set_epoch(0)
    assert ids(sampler) == first
    with pytest.raises(InvalidArgumentError, match="epoch is -1"):
        sampler.set_epoch(-1)
    still = sampler_of(shuffle=False)
    still.set_epoch(5)
    assert ids(still) == first


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_with_a_map_style_data_set(workers):
    world_size = 3
    loaders = [
        torch.utils.data.DataLoader(
            Ids(),
            sampler=sampler_of(world_size=world_size, rank=rank),
            batch_size=None,
            num_workers=workers,
            worker_init_fn=data.make_worker_init_fn(rank=rank, world_size=world_size)
            if workers
            else None,
        )
        for rank in range(world_size)
    ]
    orders = []
    for epoch in range(2):
        found = []
        for rank, loader in enumerate(loaders):
            loader.sampler.set_epoch(epoch)
            batches = list(loader)
            assert len(loader) == len(batches)
            alone = sampler_of(world_size=world_size, rank=rank)
            alone.set_epoch(epoch)
            assert batches == ids(alone)
            found += [id_ for batch in batches for id_ in batch]
        once = [id_ for id_ in found if "_dup" not in id_]
        assert sorted(once) == sorted(f"cut-{row}" for row in range(len(SECONDS)))
        orders.append(found)
    assert orders[0] != orders[1]


@pytest.mark.parametrize(
    ("world_size", "workers", "context", "persistent"),
    [
        (1, 0, None, False),
        (2, 1, "fork", False),
        (1, 2, "fork", True),
        (2, 3, "fork", False),
        pytest.param(1, 2, "spawn", True, marks=pytest.mark.slow),
    ],
)
def test_lhotses_iterable_wrapper_takes_every_cut_once(world_size, workers, context, persistent):
    found = []
    for rank in range(world_size):
        sampler = sampler_of(world_size=world_size, rank=rank)
        with warnings.catch_warnings():
            # The wrapper expects that ranks take what they like; here they are to be as they are.
            warnings.filterwarnings("ignore", message="We detected you're trying to use")
            wrapped = data.IterableDatasetWrapper(Ids(), sampler, auto_increment_epoch=persistent)
        loader = torch.utils.data.DataLoader(
            wrapped,
            batch_size=None,
            num_workers=workers,
            multiprocessing_context=context,
            persistent_workers=persistent,
            worker_init_fn=data.make_worker_init_fn(rank=rank, world_size=world_size)
            if workers
            else None,
        )
        for epoch in range(2):
            if not persistent:
                wrapped.set_epoch(epoch)
            batches = list(loader)
            alone = sampler_of(world_size=world_size, rank=rank)
            alone.set_epoch(epoch)
            # In the order of the plan, whatever the number of workers.
            assert batches == ids(alone)
        found += [id_ for batch in batches for id_ in batch if "_dup" not in id_]
    assert sorted(found) == sorted(f"cut-{row}" for row in range(len(SECONDS)))


@settings(max_examples=30)
@given(
    st.integers(0, 2),
    st.data(),
    st.integers(1, 6),
    st.booleans(),
    st.sampled_from(["buckets", "window"]),
)
def test_a_resume_gives_exactly_the_rest(epoch, drawn, world_size, shuffle, order):
    options = {"world_size": world_size, "shuffle": shuffle, "order": order, "window": 90}
    rank = drawn.draw(st.integers(0, world_size - 1))
    sampler = sampler_of(rank=rank, **options)
    sampler.set_epoch(epoch)
    done = drawn.draw(st.integers(0, len(sampler)))
    whole = ids(sampler)
    sampler = sampler_of(rank=rank, **options)
    sampler.set_epoch(epoch)
    iterator = iter(sampler)
    assert ids(islice(iterator, done)) == whole[:done]
    # Through JSON, whose keys are text and whose tuples are lists.
    state = json.loads(json.dumps(sampler.state_dict()))
    before = json.dumps(state)
    other = sampler_of(rank=rank, **options)
    other.load_state_dict(state)
    assert json.dumps(state) == before
    other.set_epoch(epoch)  # the epoch it is in already: lhotse's loops say so after a resume
    assert len(other) == len(whole) - done
    assert ids(other) == whole[done:]
    assert other.diagnostics.kept_batches == len(whole)
    other.set_epoch(epoch + 1)
    sampler.set_epoch(epoch + 1)
    assert ids(other) == ids(sampler)


@pytest.mark.parametrize("order", ["buckets", "window"])
def test_a_run_of_8_ranks_goes_on_with_6(order):
    options = {"order": order, "window": 150, "max_duration": 30.0}
    seen, states = [], []
    for rank in range(8):
        sampler = sampler_of(world_size=8, rank=rank, **options)
        seen += flat(ids(islice(iter(sampler), 5)))
        states.append(sampler.state_dict())
    for rank in range(6):
        sampler = sampler_of(world_size=6, rank=rank, **options)
        sampler.load_state_dict(states[0])
        left = len(SECONDS) - len([id_ for id_ in seen if "_dup" not in id_])
        if rank == 0:
            assert sampler.remaining_cuts == left
            expected = SECONDS.sum() - sum(SECONDS[int(original(id_)[4:])] for id_ in seen)
            assert sampler.remaining_duration == pytest.approx(expected, rel=1e-5)
            rest = []
        rest += flat(ids(sampler))
    assert len({json.dumps(state["batches_done"]) for state in states}) == 1
    once = [id_ for id_ in seen + rest if "_dup" not in id_]
    assert sorted(once) == sorted(f"cut-{row}" for row in range(len(SECONDS)))


def test_a_state_of_other_cuts_or_another_seed_is_refused():
    sampler = sampler_of()
    next(iter(sampler))
    state = sampler.state_dict()
    for other, message in [
        (sampler_of(seed=4), "seed was 0 and is 4"),
        (sampler_of(cuts_of(SECONDS[:-1])), "cuts was .* lengths was"),
        (sampler_of(lhotse.CutSet([cut.with_id("x" + cut.id) for cut in cuts_of()])), "cuts was"),
        (sampler_of(shuffle=False), "shuffle was True and is False"),
        (sampler_of(max_duration=90.0), "sizes was"),
    ]:
        before = other.state_dict()
        with pytest.raises(InvalidArgumentError, match=message):
            other.load_state_dict(state)
        assert other.state_dict() == before
    own = lhotse_state()
    with pytest.raises(InvalidArgumentError, match="not one of a batch sampler"):
        sampler_of().load_state_dict(own)


def lhotse_state():
    return data.DynamicBucketingSampler(lazily(cuts_of()), max_duration=60.0).state_dict()


def lazily(cuts):
    """Cuts that lhotse takes for lazily opened ones, so that it does not warn."""
    return lhotse.CutSet(lhotse.lazy.LazyFilter(cuts, bool))


def test_states_of_a_loader_with_workers_count_what_training_did():
    sampler = sampler_of()
    loader = torch.utils.data.DataLoader(Ids(), sampler=sampler, batch_size=None, num_workers=2)
    whole = ids(sampler_of())
    batches = iter(loader)
    assert [next(batches) for _ in range(3)] == whole[:3]
    other = sampler_of()
    other.load_state_dict(sampler.state_dict(steps=3))
    assert ids(other) == whole[3:]
    # By default it is what was drawn, which workers are ahead with.
    other.load_state_dict(sampler.state_dict())
    assert len(other) < len(whole) - 3


def test_a_resume_inside_the_workers_gives_exactly_the_rest():
    def loader_of(sampler):
        wrapped = data.IterableDatasetWrapper(Ids(), sampler)
        return torch.utils.data.DataLoader(wrapped, batch_size=None, num_workers=2)

    first = sampler_of()
    first.set_epoch(1)
    loader = loader_of(first)
    batches = iter(loader)
    found = [next(batches) for _ in range(5)]
    second = sampler_of()
    second.load_state_dict(first.state_dict(steps=5))
    loader = loader_of(second)
    loader.dataset.set_epoch(1)
    whole = sampler_of()
    whole.set_epoch(1)
    assert found + list(loader) == ids(whole)
    loader.dataset.set_epoch(2)
    whole.set_epoch(2)
    assert list(loader) == ids(whole)


class States(Ids):
    """A data set that is told by a sampler where it stands, from within a worker."""

    def __init__(self, sampler):
        self.sampler = sampler

    def __getitem__(self, cuts):
        try:
            return self.sampler.state_dict()
        except InvalidArgumentError as error:
            return str(error)


def test_a_worker_does_not_say_where_training_stands():
    sampler = sampler_of()
    wrapped = data.IterableDatasetWrapper(States(sampler), sampler)
    loader = torch.utils.data.DataLoader(wrapped, batch_size=None, num_workers=2)
    assert "a worker process knows its own steps only" in next(iter(loader))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("snapshots", [1, 4])
@pytest.mark.parametrize("stop", ["some", "last", "finished"])
def test_torchdatas_loader_resumes_with_the_rest(workers, snapshots, stop):
    pytest.importorskip("torchdata")
    from torchdata.stateful_dataloader import StatefulDataLoader

    def loader():
        sampler = sampler_of()
        options = {"num_workers": workers, "snapshot_every_n_steps": snapshots}
        return sampler, StatefulDataLoader(Ids(), sampler=sampler, batch_size=None, **options)

    whole = sampler_of()
    expected = []
    for epoch in range(4):
        whole.set_epoch(epoch)
        expected.append(ids(whole))
    sampler, first = loader()
    sampler.set_epoch(1)
    batches = iter(first)
    steps = 7 if stop == "some" else len(expected[1])
    assert [next(batches) for _ in range(steps)] == expected[1][:steps]
    if stop == "finished":
        assert list(batches) == []
    sampler, second = loader()
    second.load_state_dict(first.state_dict())
    # As training loops do: from the epoch that was at hand, or after it the next one.
    rest = [] if stop == "finished" else [expected[1][steps:]]
    found = []
    for epoch in range(4 - 2 - len(rest), 4):
        sampler.set_epoch(epoch)
        found.append(list(second))
    assert found == [*rest, *expected[2:]]


def test_filters_transforms_and_reports_are_lhotses():
    sampler = sampler_of().filter(lambda cut: cut.duration < 10).filter(lambda c: c.duration > 1)
    kept = {f"cut-{row}" for row, value in enumerate(SECONDS) if 1 < value < 10}
    assert sampler.num_cuts == len(kept) == sampler.remaining_cuts
    sampler.map(lambda batch: batch.sort_by_duration(ascending=False))
    found = list(sampler)
    assert {cut.id for batch in found for cut in batch} == kept
    assert all(
        [cut.duration for cut in batch] == sorted((c.duration for c in batch), reverse=True)
        for batch in found
    )
    assert sampler.remaining_cuts == 0
    stats = sampler.diagnostics.current_epoch_stats
    assert (stats.kept_cuts, stats.discarded_cuts) == (len(kept), len(SECONDS) - len(kept))
    assert f"batches kept {len(found)}/" in sampler.get_report()
    with pytest.raises(DataError, match="no cut is left"):
        sampler.filter(lambda cut: False)


def padding(batches):
    real = sum(cut.duration for batch in batches for cut in batch)
    padded = sum(len(batch) * max(cut.duration for cut in batch) for batch in batches)
    return 1 - real / padded


def test_beside_lhotses_own_sampler():
    """The same cuts and limits: every cut in one batch of each, and less padding in ours."""
    durations = np.random.default_rng(0).lognormal(np.log(6.5), 0.75, 5000).clip(0.5, 40).round(2)
    cuts = cuts_of(durations)
    theirs = data.DynamicBucketingSampler(
        lazily(cuts), max_duration=300.0, num_buckets=30, shuffle=True, buffer_size=5000
    )
    found = {"lhotse": list(theirs)}
    for order in ("buckets", "window"):
        found[order] = list(
            lhotse_sampler(cuts, max_duration=300.0, num_buckets=30, order=order, window=2500)
        )
    for batches in found.values():
        assert sorted(flat(ids(batches))) == sorted(cut.id for cut in cuts)
        for batch in batches:
            assert len(batch) * max(cut.duration for cut in batch) <= 300.0 * (1 + 1e-6)
    assert padding(found["buckets"]) < padding(found["lhotse"])
    assert padding(found["window"]) < padding(found["buckets"])


def test_lhotses_speech_data_set_reads_the_audio_of_the_batches(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    rate = 8000
    lengths = np.random.default_rng(1).integers(rate // 4, 2 * rate, 24)
    cuts = []
    for row, count in enumerate(lengths):
        path = tmp_path / f"{row}.wav"
        tone = 0.3 * np.sin(2 * np.pi * (200 + 10 * row) * np.arange(count) / rate)
        soundfile.write(path, tone, rate)
        cut = lhotse.Recording.from_file(path).to_cut()
        words = lhotse.SupervisionSegment(
            f"s{row}", cut.recording_id, 0, cut.duration, text=f"tone {row}"
        )
        cut.supervisions = [words]
        cuts.append(cut)
    sampler = lhotse_sampler(lhotse.CutSet(cuts), max_duration=6.0, num_buckets=4)
    loader = torch.utils.data.DataLoader(
        data.K2SpeechRecognitionDataset(input_strategy=data.input_strategies.AudioSamples()),
        sampler=sampler,
        batch_size=None,
        num_workers=2,
    )
    seen = []
    for batch in loader:
        texts = batch["supervisions"]["text"]
        rows = [int(text.split()[1]) for text in texts]
        samples = batch["inputs"]
        assert samples.shape == (len(rows), lengths[rows].max())
        assert samples.numel() <= 6.0 * rate * (1 + 1e-6)
        for row, wave in zip(rows, samples.numpy(), strict=True):
            spectrum = np.abs(np.fft.rfft(wave[: lengths[row]]))
            heard = spectrum.argmax() * rate / lengths[row]
            assert heard == pytest.approx(200 + 10 * row, abs=rate / lengths[row])
        seen += rows
    assert sorted(seen) == list(range(24))
