"""Batches of seeds: a pure function of epoch, step and rank, with and without threads and loaders."""

import pickle
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbflow.errors import InvalidArgumentError
from mbflow.graph import Batches, Graph, HeteroGraph, NeighbourSampler


def a_graph(nodes=200, edges=2000):
    draw = np.random.default_rng(0)
    return Graph.from_edges(
        draw.integers(0, nodes, edges),
        draw.integers(0, nodes, edges),
        nodes=nodes,
        times=draw.integers(0, 100, edges),
    )


def same(one, other):
    assert one.nodes.tolist() == other.nodes.tolist()
    assert one.seeds.tolist() == other.seeds.tolist()
    for left, right in zip(one.layers, other.layers, strict=True):
        assert left.offsets.tolist() == right.offsets.tolist()
        assert left.sources.tolist() == right.sources.tolist()
        assert left.edges.tolist() == right.edges.tolist()


@given(
    st.integers(0, 60),
    st.integers(1, 9),
    st.integers(1, 5),
    st.sampled_from(["short", "drop", "fill"]),
    st.integers(0, 3),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_every_seed_has_its_place(count, size, world, last, epoch, shuffle):
    graph = a_graph()
    seeds = np.random.default_rng(count).permutation(200)[:count]
    batches = Batches(graph, seeds, size, fanouts=[1], last=last, shuffle=shuffle, seed=4)
    steps = batches.steps(epoch, world_size=world)
    dealt = [
        [batches.seeds(epoch, step, rank=rank, world_size=world).tolist() for rank in range(world)]
        for step in range(steps)
    ]
    flat = [node for ranks in dealt for part in ranks for node in part]
    if last == "short":
        assert set(flat) == set(seeds.tolist())
        for ranks in dealt:
            lengths = [len(part) for part in ranks]
            # All ranks of a step have as much to do, and none has nothing.
            assert max(lengths) - min(lengths) <= 1
            assert min(lengths) > 0
        # Only where fewer seeds are left than ranks does one stand for several.
        before = [node for ranks in dealt[:-1] for part in ranks for node in part]
        assert len(flat) == count or (
            count - len(before) < world and len(flat) - len(before) == world
        )
    elif last == "drop":
        assert len(set(flat)) == len(flat) == steps * world * size
        assert steps == count // size // world
    else:
        assert set(flat) == set(seeds.tolist())
        assert all(len(part) == size for ranks in dealt for part in ranks)
    if not shuffle and last == "short" and world == 1:
        assert flat == seeds.tolist()


def test_epochs_have_orders_of_their_own():
    batches = Batches(a_graph(), np.arange(200), 50, fanouts=[2])
    orders = [
        tuple(np.concatenate([batches.seeds(epoch, step) for step in range(4)]))
        for epoch in range(3)
    ]
    assert len(set(orders)) == 3
    assert all(sorted(order) == list(range(200)) for order in orders)


def test_a_run_goes_on_with_another_number_of_ranks():
    batches = Batches(a_graph(), np.arange(200), 16, fanouts=[3, 2], seed=1)
    whole = [batches.batch(2, step) for step in range(batches.steps())]
    done = batches.share(2, world_size=3).done(2)
    rest = [
        batches.batch(2, step, rank=rank, world_size=2, start=done)
        for step in range(2)
        for rank in range(2)
    ]
    for at, sample in enumerate(rest):
        same(sample, whole[done + at])


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
def test_threads_that_sample_ahead_change_nothing(threads):
    batches = Batches(a_graph(), np.arange(200), 16, fanouts=[3, 2], seed=1)
    found = list(batches.epoch(1, rank=1, world_size=2, threads=threads, ahead=3))
    assert len(found) == batches.steps(1, world_size=2)
    for step, sample in enumerate(found):
        same(sample, batches.batch(1, step, rank=1, world_size=2))


def test_leaving_a_loop_ends_its_threads():
    batches = Batches(a_graph(), np.arange(200), 2, fanouts=[3, 2])
    for sample in batches.epoch(0, threads=3):
        assert len(sample.seeds) == 2
        break
    del sample
    alive = [
        thread.name for thread in threading.enumerate() if thread.name.startswith("mbflow-sample")
    ]
    assert alive == []


def test_an_error_in_a_thread_reaches_the_loop():
    graph = a_graph()
    sources = graph.sources.copy()
    sources[:] = 4_000_000
    batches = Batches(
        Graph(graph.offsets, sources, graph.source_nodes), np.arange(200), 16, fanouts=[3]
    )
    with pytest.raises(InvalidArgumentError, match="node 4000000"):
        list(batches.epoch(0, threads=2))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_gives_the_same_batches(workers):
    loader_module = pytest.importorskip("torch.utils.data")
    batches = Batches(a_graph(), np.arange(200), 16, fanouts=[3, 2], seed=1)
    sampler = batches.sampler(rank=1, world_size=3)
    loader = loader_module.DataLoader(
        batches, sampler=sampler, batch_size=None, num_workers=workers
    )
    for epoch in range(2):
        found = list(loader)
        assert len(found) == batches.steps(epoch, world_size=3)
        for step, sample in enumerate(found):
            same(sample, batches.batch(epoch, step, rank=1, world_size=3))


def test_a_loader_that_would_collate_samples_is_told_how():
    loader_module = pytest.importorskip("torch.utils.data")
    batches = Batches(a_graph(), np.arange(20), 4, fanouts=[1])
    for options in ({"batch_size": 2}, {"batch_sampler": batches.sampler()}):
        with pytest.raises(InvalidArgumentError, match="batch_size=None"):
            next(iter(loader_module.DataLoader(batches, **options)))


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_a_stateful_loader_goes_on_where_it_stopped():
    loaders = pytest.importorskip("torchdata.stateful_dataloader")
    batches = Batches(a_graph(), np.arange(200), 16, fanouts=[3, 2], seed=1)

    def loader():
        return loaders.StatefulDataLoader(
            batches, sampler=batches.sampler(), batch_size=None, num_workers=0
        )

    first = loader()
    begun = iter(first)
    for _ in range(5):
        next(begun)
    other = loader()
    other.load_state_dict(first.state_dict())
    rest = list(other)
    assert len(rest) == batches.steps() - 5
    same(rest[0], batches.batch(0, 5))


def test_spawned_copies_and_pickles_sample_the_same():
    batches = Batches(a_graph(), np.arange(200), 16, fanouts=[3, 2], seed=1)
    same(pickle.loads(pickle.dumps(batches)).batch(3, 4), batches.batch(3, 4))


def test_a_sampler_of_its_own_with_times():
    sampler = NeighbourSampler(a_graph(), [3, 2], method="latest", seed=2)
    times = np.arange(200)[::-1].copy()
    batches = Batches(sampler, np.arange(200), 16, times=times, seed=5)
    for step in (0, 12):
        seeds = batches.seeds(0, step)
        same(batches.batch(0, step), sampler.sample(seeds, epoch=0, batch=step, times=times[seeds]))


def test_options_of_the_sampler_are_handed_on():
    graph = a_graph()
    batches = Batches(
        graph,
        np.arange(200),
        16,
        fanouts=[3, 2],
        seed=3,
        temporal=True,
        expand="new",
        times=np.full(200, 50),
    )
    own = NeighbourSampler(graph, [3, 2], seed=3, temporal=True, expand="new")
    seeds = batches.seeds(1, 2)
    same(batches.batch(1, 2), own.sample(seeds, epoch=1, batch=2, times=np.full(16, 50)))


def test_seeds_of_one_type():
    draw = np.random.default_rng(0)
    writes = Graph.from_edges(
        draw.integers(0, 40, 200), draw.integers(0, 90, 200), nodes=90, source_nodes=40
    )
    graph = HeteroGraph({("author", "writes", "paper"): writes})
    batches = Batches(graph, ("paper", np.arange(90)), 32, fanouts=[4])
    found = [sample.nodes["paper"][sample.seeds["paper"]] for sample in batches.epoch(0)]
    assert sorted(np.concatenate(found).tolist()) == list(range(90))
    again = Batches(graph, {"paper": np.arange(90)}, 32, fanouts=[4])
    assert again.seeds(0, 1).tolist() == batches.seeds(0, 1).tolist()
    with pytest.raises(InvalidArgumentError, match="pair of a node type"):
        Batches(graph, np.arange(90), 32)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seeds": [0, 200]}, "entry 1 is node 200; expected 0 to 199"),
        ({"seeds": [-1]}, "entry 0 is node -1"),
        ({"seeds": [True]}, "mask"),
        ({"last": "keep"}, "last is 'keep'"),
        ({"seed": -1}, "seed is -1"),
        ({"fanouts": [-5]}, "fanouts[0] is -5"),
        ({"times": [1, 2, 3]}, "not temporal"),
        ({"shuffle": "no"}, "shuffle is 'no'"),
        ({"replace": "no"}, "replace is 'no'"),
        ({"seeds": np.ma.array([0, 1], mask=[0, 1])}, "entry 1 is masked"),
        ({"seeds": [[0, 1], [2]]}, "expected one dimension"),
    ],
)
def test_wrong_arguments(options, said):
    options = {"seeds": [0, 1, 2], "batch_size": 2} | options
    with pytest.raises(InvalidArgumentError) as error:
        Batches(a_graph(), options.pop("seeds"), options.pop("batch_size"), **options)
    assert said in str(error.value)


def test_options_are_given_once():
    sampler = NeighbourSampler(a_graph(), [3])
    with pytest.raises(InvalidArgumentError, match="fanouts: the sampler has its own"):
        Batches(sampler, [1], 1, fanouts=[2])


def test_steps_and_ranks_out_of_range():
    batches = Batches(a_graph(), np.arange(20), 4, fanouts=[1])
    for step, rank in ((5, 0), (-1, 0), (0, 1)):
        with pytest.raises(InvalidArgumentError):
            batches.batch(0, step, rank=rank)
    for place in (
        0,
        -1,
        [0, 5, 1, 0],
        [0, 1],
        "a",
        None,
        1.5,
        [0, 1, 1, 5],
        [0, 1, 0, 0],
        slice(2),
    ):
        with pytest.raises(InvalidArgumentError):
            batches[place]
    with pytest.raises(InvalidArgumentError, match=r"batches\.epoch\(epoch\)"):
        next(iter(batches))
