"""Mixed sources: weights kept over every stretch, all items used alike, resumes with other ranks."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbflow.errors import InvalidArgumentError
from mbflow.speech import Budget, DurationBatches, Lengths, MixedBatches, bucket_edges


@st.composite
def mixes(draw, *, sources=4):
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    counts = draw(st.lists(st.integers(1, 90), min_size=1, max_size=sources))
    tokens = draw(st.booleans())
    given_ = {}
    for number, count in enumerate(counts):
        seconds = random.integers(1, draw(st.integers(2, 40)), count) / 2
        given_[f"s{number}"] = (seconds, random.integers(0, 50, count)) if tokens else seconds
    weights = None
    if draw(st.booleans()):
        weights = {name: draw(st.floats(0.01, 100)) for name in given_}
    return MixedBatches(
        given_,
        weights=weights,
        by=draw(st.sampled_from(["items", "seconds"])),
        budget=Budget.padded_seconds(draw(st.integers(20, 90))),
        buckets=(draw(st.integers(1, 4)), 2) if tokens else draw(st.integers(1, 8)),
        edges=draw(st.sampled_from(["optimal", "equal_count", "equal_duration"])),
        seed=draw(st.integers(0, 2**64 - 1)),
    )


def buckets_of(plan, items):
    tokens = plan.lengths.tokens
    own = None if tokens is None else tokens[items]
    return plan.edges.assign(plan.lengths.seconds[items], own)


@settings(max_examples=80)
@given(mixes(), st.integers(1, 9), st.integers(0, 10**9))
def test_all_ranks_take_one_bucket_within_the_budget(plan, world_size, first):
    for step in range(first, first + 4):
        ranks = [plan.batch(step, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert len({len(items) for items in ranks}) == 1
        assert len(set(buckets_of(plan, np.concatenate(ranks)).tolist())) == 1
        for items in ranks:
            tokens = 0 if plan.lengths.tokens is None else plan.lengths.tokens[items].max()
            longest = plan.lengths.seconds[items].max()
            assert 1 <= len(items) <= plan.budget.sizes([longest], [tokens])[0]


@settings(max_examples=60)
@given(mixes(), st.integers(1, 4), st.data())
def test_a_stream_gives_what_is_asked_for(plan, world_size, data):
    rank = data.draw(st.integers(0, world_size - 1))
    first = data.draw(st.integers(0, 10**9))
    start = ((3, data.draw(st.integers(1, 50))), (2, data.draw(st.integers(1, 50))))
    again = pickle.loads(pickle.dumps(plan))
    options = {"rank": rank, "world_size": world_size, "start": start}
    for step, items in enumerate(islice(plan.stream(start_step=first, **options), 8), first):
        np.testing.assert_array_equal(items, again.batch(step, **options))


def cells_of(plan, items):
    """Each item's bucket and source, as one number."""
    return buckets_of(plan, items).astype(np.int64) * len(plan.names) + plan.sources_of(items)


@settings(max_examples=60)
@given(mixes(), st.integers(1, 5), st.integers(1, 150))
def test_items_of_a_source_in_a_bucket_are_used_round_after_round(plan, world_size, steps):
    """No item is used for the n-th time before all of its source in its bucket were n - 1 times."""
    taken = [
        plan.batch(step, rank=rank, world_size=world_size)
        for step in range(steps)
        for rank in range(world_size)
    ]
    everything = np.arange(len(plan.lengths))
    cells = cells_of(plan, everything)
    uses = np.bincount(np.concatenate(taken), minlength=len(everything))
    for cell in np.unique(cells):
        own = uses[cells == cell]
        assert own.max() - own.min() <= 1


@settings(max_examples=60)
@given(mixes(), st.integers(1, 5), st.integers(0, 10**6), st.integers(1, 300))
def test_weights_hold_over_any_stretch(plan, world_size, first, steps):
    """A source is off its share by a number of items that does not grow with the stretch.

    Each bucket is off its turns by two at most, at one step's items each, and inside a bucket each
    source by two of its own; so it is for every item, which is a part of its source.
    """
    share = plan.share(world_size=world_size)
    buckets = np.concatenate(
        [share.turns(step, step + 1, 0)[0] for step in range(first, first + steps)]
    )
    taken = np.concatenate(
        [
            plan.batch(step, rank=rank, world_size=world_size)
            for step in range(first, first + steps)
            for rank in range(world_size)
        ]
    )
    assert len(taken) == plan.sizes[buckets].sum() * world_size
    found = np.bincount(plan.sources_of(taken), minlength=len(plan.names))
    bound = 2 * world_size * plan.sizes.sum() + 2 * len(plan.sizes) + 1
    wanted = np.array(list(plan.shares.values())) * len(taken)
    assert (abs(found - wanted) <= 2 * bound).all()


def test_weights_are_exact_where_chance_would_not_be():
    random = np.random.default_rng(0)
    sources = {"a": random.uniform(1, 20, 3000), "b": random.uniform(5, 9, 500)}
    plan = MixedBatches(sources, weights={"a": 1, "b": 1}, budget=40.0, buckets=4)
    items = np.concatenate(list(islice(plan.stream(), 100_000)))
    off = abs((plan.sources_of(items) == 0).sum() - len(items) / 2)
    # Tossed coins would be off by 200 and more in every other run.
    assert len(items) > 300_000
    assert off < 20


def test_weights_may_be_shares_of_seconds():
    sources = {"short": [2.0] * 600, "long": [8.0] * 300}
    weights = {"short": 1, "long": 1}
    plan = MixedBatches(sources, weights=weights, by="seconds", budget=16.0, buckets=2)
    assert plan.shares == pytest.approx({"short": 0.8, "long": 0.2})
    items = np.concatenate(list(islice(plan.stream(), 5000)))
    seconds = plan.lengths.seconds[items]
    assert seconds[plan.sources_of(items) == 0].sum() / seconds.sum() == pytest.approx(
        0.5, abs=2e-3
    )
    assert plan.report(steps=10).seconds == pytest.approx({"short": 0.5, "long": 0.5})


def test_by_default_all_sources_end_together():
    random = np.random.default_rng(1)
    sources = {"a": random.uniform(1, 20, 900), "b": random.uniform(5, 9, 100)}
    plan = MixedBatches(sources, budget=60.0, buckets=5)
    items = np.concatenate(list(islice(plan.stream(), 3000)))
    uses = np.bincount(items, minlength=1000)
    rounds = len(items) / 1000
    assert rounds > 10
    assert uses.min() >= rounds - 2
    assert uses.max() <= rounds + 2


def test_each_use_of_all_items_is_in_a_new_order():
    plan = MixedBatches({"a": [1.0] * 200}, budget=100.0, buckets=1)
    rounds = [np.concatenate([plan.batch(2 * use), plan.batch(2 * use + 1)]) for use in range(4)]
    assert all(sorted(found.tolist()) == list(range(200)) for found in rounds)
    for one, other in pairwise(rounds):
        assert (one == other).mean() < 0.1


def test_sources_are_mixed_inside_batches():
    sources = {"a": [1.0] * 500, "b": [1.0] * 500}
    plan = MixedBatches(sources, weights={"a": 3, "b": 1}, budget=40.0)
    for step in range(50):
        count = int((plan.sources_of(plan.batch(step)) == 1).sum())
        assert 8 <= count <= 12


class Oracle:
    """The stream with all that is done written down: how many batches of each bucket, and which."""

    def __init__(self, plan):
        self.plan = plan
        self.done = Counter()
        self.step = 0

    def steps(self, world_size, steps):
        single = self.plan.share()
        found = []
        for _ in range(steps):
            bucket = int(single.turns(self.step, self.step + 1, 0)[0][0])
            first = self.done[bucket]
            found.append([(bucket, first + rank) for rank in range(world_size)])
            self.done[bucket] += world_size
            self.step += 1
        return found


@settings(max_examples=80)
@given(mixes(), st.lists(st.tuples(st.integers(1, 7), st.integers(0, 30)), min_size=1, max_size=5))
def test_a_run_goes_on_with_other_numbers_of_ranks(plan, runs):
    """Each bucket's batches are taken one after the other, without loss or repeat."""
    oracle = Oracle(plan)
    start = ()
    single = plan.share()
    uses = np.zeros(len(plan.lengths), np.int64)
    for world_size, steps in runs:
        share = plan.share(world_size=world_size, start=start)
        for step, ranks in enumerate(oracle.steps(world_size, steps)):
            found = [share.turns(step, step + 1, rank) for rank in range(world_size)]
            assert [(int(bucket[0]), int(batch[0])) for bucket, batch in found] == ranks
            for rank in range(world_size):
                items = plan.batch(step, rank=rank, world_size=world_size, start=start)
                uses += np.bincount(items, minlength=len(uses))
        start = share.done(steps)
    assert single.start == ()
    cells = cells_of(plan, np.arange(len(uses)))
    for cell in np.unique(cells):
        assert np.ptp(uses[cells == cell]) <= 1


@settings(max_examples=40)
@given(mixes(), st.integers(1, 6), st.integers(0, 60))
def test_the_same_ranks_resume_identically(plan, world_size, done):
    start = plan.share(world_size=world_size).done(done)
    for step in range(5):
        for rank in range(world_size):
            np.testing.assert_array_equal(
                plan.batch(step, rank=rank, world_size=world_size, start=start),
                plan.batch(done + step, rank=rank, world_size=world_size),
            )


def plan_of(**options):
    random = np.random.default_rng(0)
    sources = {"a": random.uniform(1, 20, 400), "b": random.uniform(5, 9, 100)}
    return MixedBatches(sources, **{"budget": 60.0, "buckets": 5, **options})


def test_a_sampler_resumes_with_other_ranks():
    samplers = [plan_of().sampler(rank, 8) for rank in range(8)]
    for sampler in samplers:
        assert len(list(islice(sampler, 7))) == 7
    states = [sampler.state_dict() for sampler in samplers]
    assert all(state == states[0] for state in states)
    state = json.loads(json.dumps(states[0]))
    for rank in range(6):
        other = plan_of().sampler(rank, 6)
        other.load_state_dict(state)
        start = ((8, 7),)
        for step, items in enumerate(islice(other, 5)):
            wanted = plan_of().batch(step, rank=rank, world_size=6, start=start)
            assert items == wanted.tolist()
        assert other.state_dict()["done"] == ((8, 7), (6, 5))
        assert other.state_dict(steps=2)["done"] == ((8, 7), (6, 2))


def test_a_new_pass_goes_on_after_the_last():
    sampler = plan_of().sampler()
    found = [*islice(sampler, 4), *islice(sampler, 4)]
    assert found == [items.tolist() for items in islice(plan_of().stream(), 8)]


def test_states_of_other_plans_are_refused():
    state = plan_of().sampler().state_dict()
    with pytest.raises(InvalidArgumentError, match="seed was 0 and is 3"):
        plan_of(seed=3).sampler().load_state_dict(state)
    with pytest.raises(InvalidArgumentError, match=r"shares was 'a: 0.8, b: 0.2' and is 'a: 0.5"):
        plan_of(weights={"a": 1, "b": 1}).sampler().load_state_dict(state)
    other = MixedBatches({"a": [1.0] * 400, "c": [1.0] * 100}).sampler()
    with pytest.raises(
        InvalidArgumentError, match="sources was 'a: 400, b: 100' and is 'a: 400, c"
    ):
        other.load_state_dict(state)
    with pytest.raises(InvalidArgumentError, match="not one of a sampler of mixed batches"):
        plan_of().sampler().load_state_dict({"epoch": 1})
    with pytest.raises(InvalidArgumentError, match="start is"):
        plan_of().sampler().load_state_dict({**state, "done": 7})


class Items:
    """A data set of torch whose items are their numbers."""

    def __len__(self):
        return 500

    def __getitem__(self, item):
        return item


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_loads_the_stream(workers):
    torch = pytest.importorskip("torch")
    loader = torch.utils.data.DataLoader(
        Items(), batch_sampler=plan_of().sampler(1, 2), num_workers=workers
    )
    for found, items in zip(
        islice(loader, 6), plan_of().stream(rank=1, world_size=2), strict=False
    ):
        np.testing.assert_array_equal(found.numpy(), items)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_resumes_the_stream(workers):
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def loader():
        return stateful.StatefulDataLoader(
            Items(), batch_sampler=plan_of().sampler(1, 2), num_workers=workers
        )

    first = loader()
    iterator = iter(first)
    for _ in range(5):
        next(iterator)
    state = first.state_dict()
    other = loader()
    other.load_state_dict(state)
    found = [batch.tolist() for batch in islice(other, 4)]
    wanted = islice(plan_of().stream(rank=1, world_size=2), 5, 9)
    assert found == [items.tolist() for items in wanted]


def test_one_seed_is_one_stream():
    def stream(seed):
        return [items.tolist() for items in islice(plan_of(seed=seed).stream(), 20)]

    assert stream(5) == stream(5)
    assert stream(5) != stream(6)


@settings(max_examples=80)
@given(
    st.integers(0, 2**32),
    st.sampled_from(["optimal", "equal_count", "equal_duration"]),
    st.booleans(),
)
def test_edges_of_weighted_items_are_those_of_copies(seed, edges, two):
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 60))
    seconds = (random.integers(1, 30, count) / 2).astype(np.float32)
    tokens = random.integers(1, 20, count).astype(np.uint32)
    copies = random.integers(1, 5, count)
    options = {"buckets": (3, 2) if two else 3, "edges": edges}
    found = bucket_edges(seconds, tokens, weights=copies / 7.0, **options)
    wanted = bucket_edges(np.repeat(seconds, copies), np.repeat(tokens, copies), **options)

    def cost(cut):
        bucket = cut.assign(seconds, tokens)
        assert (bucket >= 0).all()
        padded = (copies * cut.seconds[bucket]).sum() / (copies * seconds).sum()
        if two:
            padded += (copies * cut.tokens[bucket]).sum() / (copies * tokens).sum()
        return padded

    # Equally cheap cuts may differ, and of two dimensions only the sum is made least.
    assert cost(found) == pytest.approx(
        cost(wanted), rel=0.02 if two and edges == "optimal" else 1e-9
    )


def test_edges_follow_what_comes_often():
    sources = {"much": np.linspace(1, 5, 2000), "often": np.linspace(10, 20, 50)}
    rare = MixedBatches(sources, budget=60.0, buckets=6)
    often = MixedBatches(sources, weights={"much": 1, "often": 9}, budget=60.0, buckets=6)
    assert (often.edges.seconds > 6).sum() > (rare.edges.seconds > 6).sum()
    assert often.report().padding_in < 0.12


def test_one_source_pads_as_duration_batches():
    seconds = np.random.default_rng(0).lognormal(1.8, 0.7, 20_000).clip(0.5, 40)
    found = MixedBatches({"all": seconds}).report(steps=600)
    assert found.padding_in == pytest.approx(
        DurationBatches(seconds).report(1).padding_in, abs=0.005
    )
    assert found.rounds == {"all": 1.0}


def test_a_source_of_one_item_comes_as_often_as_it_should():
    plan = MixedBatches({"a": [3.0] * 1000, "b": [3.0]}, weights={"a": 9, "b": 1}, budget=30.0)
    items = np.concatenate(list(islice(plan.stream(), 1000)))
    assert (items == 1000).sum() == pytest.approx(1000, abs=2)


def test_a_batch_is_no_larger_than_what_its_bucket_holds():
    plan = MixedBatches({"a": [1.0] * 3, "b": [1.0] * 2, "c": [9.0]}, budget=600.0, buckets=2)
    assert plan.sizes.tolist() == [5, 1]
    for items in islice(plan.stream(), 60):
        assert sorted(items.tolist()) in ([0, 1, 2, 3, 4], [5])


def test_sizes_by_bucket_say_the_buckets():
    budget = Budget.sizes_by_bucket({2.0: 3, 9.0: 1})
    plan = MixedBatches({"a": [1.0] * 5, "b": [8.0] * 4}, weights={"a": 1, "b": 1}, budget=budget)
    found = list(islice(plan.stream(), 400))
    assert {len(items) for items in found} == {1, 3}
    assert sum(len(items) == 3 for items in found) == pytest.approx(100, abs=2)


def test_rates_of_tokens_are_held_against_those_of_the_source():
    slow, fast = ([4.0] * 300, [10, 12] * 150), ([4.0] * 300, [100, 102] * 150)
    options = {"budget": 40.0, "rate_sigmas": 4.0}
    assert len(MixedBatches({"slow": slow, "fast": fast}, **options).dropped) == 0
    slow[1][7] = 101
    dropped = MixedBatches({"fast": fast, "slow": slow}, **options).dropped
    assert dropped.rows() == [(307, 4.0, 101, "too many tokens a second")]


def test_sources_may_be_lengths_and_items_may_be_dropped():
    lengths = Lengths.of([1.0, 700.0, 0.1, 3.0])
    plan = MixedBatches({"a": [1.0, 2.0], "b": lengths}, too_long="drop", min_seconds=0.5)
    assert plan.dropped.rows() == [
        (3, 700.0, None, "above the budget alone"),
        (4, pytest.approx(0.1), None, "too short"),
    ]
    assert set(np.concatenate(list(islice(plan.stream(), 20))).tolist()) == {0, 1, 2, 5}
    assert plan.shares == {"a": 0.5, "b": 0.5}
    assert plan.sources_of([0, 1, 2, 5]).tolist() == [0, 0, 1, 1]
