"""Sampled neighbourhoods: against a slow sampler over the same draws, and by what must hold of any sample."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mbflow
from mbflow.errors import InvalidArgumentError, MbflowError, ResourceError
from mbflow.graph import Graph, HeteroGraph, NeighbourSampler, negative_edges, random_walks
from sampling_oracle import sample as slow_sample


def random_graph(nodes=300, edges=4000, *, seed=0, hub=True, weights=False, times=False):
    draw = np.random.default_rng(seed)
    sources, targets = draw.integers(0, nodes, edges), draw.integers(0, nodes, edges)
    if hub:
        targets[: edges // 4] = 1
    made = draw.exponential(size=edges).astype(np.float32)
    made[draw.random(edges) < 0.3] = 0
    return Graph.from_edges(
        sources,
        targets,
        nodes=nodes,
        weights=made if weights else None,
        times=draw.integers(0, 50, edges) if times else None,
    )


def check_against_slow(graph, seeds, fanouts, **options):
    call = {name: options.pop(name) for name in ("epoch", "batch", "times") if name in options}
    found = NeighbourSampler(graph, fanouts, temporal="times" in call, **options).sample(
        seeds, **call
    )
    ids, trees, layers, places = slow_sample(graph, seeds, fanouts, **options, **call)
    assert found.nodes.tolist() == ids
    assert found.seeds.tolist() == places
    assert (None if found.trees is None else found.trees.tolist()) == trees
    assert len(found.layers) == len(layers)
    for layer, (first, offsets, sources, edges) in zip(found.layers, layers, strict=True):
        assert layer.first == first
        assert layer.offsets.tolist() == offsets
        assert layer.edges.tolist() == edges
        assert layer.sources.tolist() == sources
    return found


METHODS = [
    {"method": "uniform"},
    {"method": "uniform", "replace": True},
    {"method": "weighted"},
    {"method": "weighted", "replace": True},
    {"method": "labor"},
    {"method": "labor", "across_layers": True},
]


@pytest.mark.parametrize(
    "options", METHODS, ids=lambda options: "-".join(map(str, options.values()))
)
@pytest.mark.parametrize("expand", ["all", "new"])
@pytest.mark.parametrize("fanouts", [(5, 3), (-1, 2), (20, 0, 4), (100, 1), (3,)])
def test_a_sample_is_that_of_the_slow_sampler(options, expand, fanouts):
    graph = random_graph(weights=True)
    check_against_slow(
        graph, [1, 7, 9, 7, 250], fanouts, expand=expand, seed=3, epoch=2, batch=5, **options
    )


@pytest.mark.parametrize(
    "options",
    [*METHODS, {"method": "latest"}],
    ids=lambda options: "-".join(map(str, options.values())),
)
@pytest.mark.parametrize("expand", ["all", "new"])
def test_temporal_samples_are_those_of_the_slow_sampler_and_never_see_the_future(options, expand):
    graph = random_graph(weights=True, times=True)
    seeds, times = [1, 1, 9, 30], [0, 20, 33, 99]
    found = check_against_slow(graph, seeds, (6, 3), expand=expand, times=times, seed=11, **options)
    moments = np.array(times)[found.trees]
    for layer in found.layers:
        targets = layer.target_of_edge()
        assert (graph.times[layer.edges] < moments[targets]).all()
        assert (found.trees[layer.sources] == found.trees[targets]).all()


def test_latest_takes_the_latest():
    graph = random_graph(times=True)
    found = NeighbourSampler(graph, [7], method="latest").sample([1], times=[25])
    taken = graph.times[found.layers[0].edges]
    before = np.sort(graph.times[int(graph.offsets[1]) : int(graph.offsets[2])])
    assert taken.tolist() == before[before < 25][::-1][:7].tolist()


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=120),
    st.lists(st.integers(-1, 70), min_size=1, max_size=3),
    st.sampled_from(METHODS),
    st.booleans(),
    st.integers(0, 2**64 - 1),
    st.data(),
)
@settings(max_examples=150, deadline=None)
def test_any_small_graph(nodes, pairs, fanouts, options, disjoint, seed, data):
    pairs = [(source % nodes, target % nodes) for source, target in pairs]
    weights = data.draw(
        st.lists(
            st.sampled_from([0, 1e-30, 0.5, 1, 1e30]), min_size=len(pairs), max_size=len(pairs)
        )
    )
    graph = Graph.from_edges(
        [source for source, _ in pairs],
        [target for _, target in pairs],
        nodes=nodes,
        weights=np.array(weights, np.float32),
    )
    seeds = data.draw(st.lists(st.integers(0, nodes - 1), max_size=6))
    found = check_against_slow(graph, seeds, fanouts, disjoint=disjoint, seed=seed, **options)
    check_whole_sample(
        graph, found, seeds, fanouts, replace=options.get("replace", False), options=options
    )


def check_whole_sample(graph, found, seeds, fanouts, *, replace, options):
    assert found.nodes[found.seeds].tolist() == list(seeds)
    if found.trees is None:
        assert len(set(found.nodes.tolist())) == len(found.nodes)
    assert found.sizes[-1] == len(found.nodes)
    for at, (layer, fanout) in enumerate(zip(found.layers, fanouts, strict=True)):
        assert layer.targets == found.sizes[at]
        assert (layer.sources < found.sizes[at + 1]).all()
        targets = found.nodes[layer.target_of_edge()]
        # Every edge is one of its target's in the graph, and comes from where it says.
        assert (graph.offsets[targets] <= layer.edges).all()
        assert (layer.edges < graph.offsets[targets + 1]).all()
        assert (graph.sources[layer.edges] == found.nodes[layer.sources]).all()
        for target in range(layer.targets):
            edges = layer.edges[layer.offsets[target] : layer.offsets[target + 1]]
            node = found.nodes[target]
            whole = np.arange(int(graph.offsets[node]), int(graph.offsets[node + 1]))
            able = whole if options["method"] != "weighted" else whole[graph.weights[whole] > 0]
            if not replace:
                assert len(set(edges.tolist())) == len(edges)
                assert len(edges) == (len(able) if fanout < 0 else min(len(able), fanout))


def test_types_of_numbers_change_nothing_else():
    graph = random_graph()
    wide = NeighbourSampler(graph, [4, 4]).sample([1, 2])
    narrow = NeighbourSampler(graph, [4, 4], dtype="uint32").sample([1, 2])
    assert wide.nodes.dtype == np.int64
    assert all(layer.sources.dtype == layer.edges.dtype == np.int64 for layer in wide.layers)
    assert narrow.nodes.dtype == np.uint32
    assert all(layer.sources.dtype == layer.edges.dtype == np.uint32 for layer in narrow.layers)
    assert narrow.nodes.tolist() == wide.nodes.tolist()
    for one, other in zip(wide.layers, narrow.layers, strict=True):
        assert one.sources.tolist() == other.sources.tolist()
        assert one.edges.tolist() == other.edges.tolist()


def test_threads_and_processes_change_nothing():
    graph = random_graph(weights=True)
    sampler = NeighbourSampler(graph, [9, 9], method="weighted", seed=5)
    before = mbflow.num_threads()
    samples = []
    try:
        for threads in (1, 2, 3):
            mbflow.set_num_threads(threads)
            samples.append(sampler.sample([1, 2, 3], epoch=1, batch=2))
    finally:
        mbflow.set_num_threads(before)
    samples.append(pickle.loads(pickle.dumps(sampler)).sample([1, 2, 3], epoch=1, batch=2))
    # What was sampled before leaves no trace.
    sampler.sample(list(range(200)))
    samples.append(sampler.sample([1, 2, 3], epoch=1, batch=2))
    for other in samples[1:]:
        assert other.nodes.tolist() == samples[0].nodes.tolist()
        for one, two in zip(samples[0].layers, other.layers, strict=True):
            assert one.sources.tolist() == two.sources.tolist()
            assert one.edges.tolist() == two.edges.tolist()


@pytest.mark.parametrize("dtype", ["int64", "uint32"])
def test_memory_is_used_again_only_when_nothing_shows_it_any_more(dtype):
    graph = random_graph(20_000, 400_000)
    seeds = np.arange(2000)
    sampler = NeighbourSampler(graph, [15, 10], dtype=dtype)
    kept = sampler.sample(seeds, batch=0)
    # A view of an array keeps its memory, also when the sample is gone.
    view = sampler.sample(seeds, batch=1).layers[1].sources[5:]
    copies = kept.nodes.copy(), [layer.edges.copy() for layer in kept.layers], view.copy()
    for batch in range(2, 12):
        sampler.sample(seeds, batch=batch)
    assert np.array_equal(kept.nodes, copies[0])
    assert all(map(np.array_equal, [layer.edges for layer in kept.layers], copies[1]))
    assert np.array_equal(view, copies[2])
    del sampler
    again = NeighbourSampler(graph, [15, 10], dtype=dtype).sample(seeds, batch=1)
    assert np.array_equal(view, again.layers[1].sources[5:])


def test_seed_epoch_and_batch_each_give_other_samples():
    graph = random_graph()
    samples = {
        tuple(
            NeighbourSampler(graph, [10], seed=seed)
            .sample([1], epoch=epoch, batch=batch)
            .nodes.tolist()
        )
        for seed in (0, 1)
        for epoch in (0, 1)
        for batch in (0, 1)
    }
    assert len(samples) == 8


def test_pages_group_new_nodes_and_keep_the_edges():
    graph = random_graph(nodes=2000, edges=20_000)
    plain = NeighbourSampler(graph, [5, 5]).sample([1, 2, 3])
    paged = NeighbourSampler(graph, [5, 5], page_nodes=64).sample([1, 2, 3])
    assert paged.sizes == plain.sizes
    for first, last in zip(plain.sizes, plain.sizes[1:], strict=False):
        pages = paged.nodes[first:last] // 64
        assert (np.diff(pages) >= 0).all()
        assert sorted(paged.nodes[first:last].tolist()) == sorted(plain.nodes[first:last].tolist())
    # The draws are the same: of each target the same edges.
    for one, two in zip(plain.layers, paged.layers, strict=True):
        of = {}
        for layer, sample in ((one, plain), (two, paged)):
            pairs = zip(
                sample.nodes[layer.target_of_edge()].tolist(), layer.edges.tolist(), strict=True
            )
            of[id(layer)] = sorted(pairs)
            assert (graph.sources[layer.edges] == sample.nodes[layer.sources]).all()
        assert of[id(one)] == of[id(two)]


def test_a_layers_budget_bounds_its_sources_and_its_means_are_unbiased():
    graph = random_graph(nodes=60, edges=600)
    feature = np.random.default_rng(1).normal(size=60)
    seeds = np.arange(20)
    exact = np.array(
        [
            feature[graph.neighbours(node)].mean() if len(graph.neighbours(node)) else 0
            for node in seeds
        ]
    )
    means = []
    for batch in range(4000):
        sample = NeighbourSampler(graph, [25], method="budget").sample(seeds, batch=batch)
        layer = sample.layers[0]
        assert len(np.unique(layer.sources)) <= 25
        values = layer.weights * feature[sample.nodes[layer.sources]]
        means.append(np.bincount(layer.target_of_edge(), values, minlength=20))
    error = np.mean(means, axis=0) - exact
    deviation = np.std(means, axis=0) / np.sqrt(len(means))
    assert (np.abs(error) <= 5 * deviation + 1e-6).all()
    whole = NeighbourSampler(graph, [-1], method="budget").sample(seeds).layers[0]
    assert whole.sources.size == sum(len(graph.neighbours(node)) for node in seeds)


def test_labor_has_fewer_nodes_than_uniform():
    graph = random_graph(nodes=5000, edges=200_000, hub=False)
    seeds = np.arange(500)
    uniform = NeighbourSampler(graph, [10, 10]).sample(seeds)
    labor = NeighbourSampler(graph, [10, 10], method="labor").sample(seeds)
    shared = NeighbourSampler(graph, [10, 10], method="labor", across_layers=True).sample(seeds)
    assert len(labor.nodes) < 0.9 * len(uniform.nodes)
    assert len(shared.nodes) < len(labor.nodes)


def test_several_types_of_nodes():
    draw = np.random.default_rng(0)
    writes = Graph.from_edges(
        draw.integers(0, 40, 200), draw.integers(0, 90, 200), nodes=90, source_nodes=40
    )
    cites = Graph.from_edges(draw.integers(0, 90, 300), draw.integers(0, 90, 300), nodes=90)
    graph = HeteroGraph({("author", "writes", "paper"): writes, ("paper", "cites", "paper"): cites})
    found = NeighbourSampler(graph, [3, 2], seed=1).sample({"paper": [5, 7, 5]})
    assert found.nodes["paper"][found.seeds["paper"]].tolist() == [5, 7, 5]
    for at, hop in enumerate(found.layers):
        assert set(hop) == set(graph.relations)
        for (source, _, target), layer in hop.items():
            edges = graph.relations[source, _, target]
            assert layer.targets == found.sizes[target][at]
            nodes = found.nodes[target][layer.target_of_edge()]
            assert (edges.sources[layer.edges] == found.nodes[source][layer.sources]).all()
            assert (edges.offsets[nodes] <= layer.edges).all()
            assert (layer.edges < edges.offsets[nodes + 1]).all()
            degrees = np.diff(edges.offsets)[found.nodes[target][: layer.targets]]
            assert (np.diff(layer.offsets) == np.minimum(degrees, (3, 2)[at])).all()
            assert (layer.sources < found.sizes[source][at + 1]).all()
    # Relations that are left out are not followed, and a mapping may give each fan-outs of its own.
    some = NeighbourSampler(graph, {("paper", "cites", "paper"): [-1]}).sample({"paper": [5]})
    assert len(some.nodes["author"]) == 0
    assert some.edges == len(cites.neighbours(5))


@pytest.mark.parametrize("fanouts", [[0], [-1], [3, 3]])
def test_graphs_without_edges(fanouts):
    graph = Graph.from_edges([], [], nodes=5)
    found = NeighbourSampler(graph, fanouts).sample([4, 0])
    assert found.nodes.tolist() == [4, 0]
    assert found.edges == 0
    assert [layer.targets for layer in found.layers] == [2] * len(fanouts)


def test_no_seeds():
    found = NeighbourSampler(random_graph(), [3, 3]).sample([])
    assert found.nodes.tolist() == []
    assert [layer.offsets.tolist() for layer in found.layers] == [[0], [0]]


def test_a_node_with_a_million_neighbours():
    degree = 1_000_000
    graph = Graph.from_edges(
        np.arange(degree),
        np.zeros(degree, np.int64),
        nodes=degree,
        weights=np.ones(degree, np.float32),
    )
    for method in ("uniform", "weighted", "labor"):
        for fanout in (15, 5000):
            edges = NeighbourSampler(graph, [fanout], method=method).sample([0]).layers[0].edges
            assert len(set(edges.tolist())) == fanout
            assert abs(edges.mean() / degree - 0.5) < 0.3
    assert NeighbourSampler(graph, [-1]).sample([0]).edges == degree


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ([0, 300], "seed 1 is node 300; expected 0 to 299"),
        ([-1], "seed 0 is node -1; expected 0 to 299"),
        ([[1]], "expected one dimension"),
        ([0.5], "expected integers, got float64"),
        ([True, False], "mask"),
        (["a"], "expected integers"),
        (np.array([2**63], np.uint64), "above 2^63 - 1"),
    ],
)
def test_wrong_seeds(seeds, said):
    with pytest.raises(InvalidArgumentError) as error:
        NeighbourSampler(random_graph(), [2]).sample(seeds)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fanouts": []}, "expected at least one layer"),
        ({"fanouts": [-2]}, "fanouts[0] is -2"),
        ({"fanouts": [1.5]}, "fanouts[0] is 1.5"),
        ({"fanouts": "15"}, "expected a list"),
        ({"method": "best"}, "method is 'best'"),
        ({"method": "weighted"}, "have no weights"),
        ({"method": "latest"}, "has no times"),
        ({"temporal": True}, "has no times"),
        ({"method": "labor", "replace": True}, "does not go with"),
        ({"across_layers": True}, "'labor' only"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": True}, "seed is True"),
        ({"dtype": "int32"}, "dtype is 'int32'"),
        ({"dtype": "bogus"}, "dtype is 'bogus'"),
        ({"dtype": None}, "dtype is None"),
        ({"page_nodes": 0}, "page_nodes is 0"),
        ({"expand": "some"}, "expand is 'some'"),
    ],
)
def test_wrong_options(options, said):
    with pytest.raises(InvalidArgumentError) as error:
        NeighbourSampler(random_graph(), **options)
    assert said in str(error.value)


def test_times_must_fit_the_seeds():
    graph = random_graph(times=True)
    sampler = NeighbourSampler(graph, [2], temporal=True)
    with pytest.raises(InvalidArgumentError, match="needs the time of each seed"):
        sampler.sample([1])
    with pytest.raises(InvalidArgumentError, match="expected 2, one for each seed, got 1"):
        sampler.sample([1, 2], times=[3])
    with pytest.raises(InvalidArgumentError, match="not temporal"):
        NeighbourSampler(graph, [2]).sample([1], times=[3])


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_weights_that_cannot_be(weight):
    graph = random_graph(weights=True)
    weights = graph.weights.copy()
    weights[77] = weight
    damaged = Graph(graph.offsets, graph.sources, graph.source_nodes, weights=weights)
    with pytest.raises(MbflowError, match="edge 77 has weight"):
        NeighbourSampler(damaged, [2], method="weighted")


def test_damaged_graphs_are_found_out_where_they_are_read():
    graph = random_graph()
    sources = graph.sources.copy()
    sources[int(graph.offsets[1])] = 4_000_000_000
    with pytest.raises(MbflowError, match="node 4000000000; there are 300 nodes"):
        NeighbourSampler(Graph(graph.offsets, sources, 300), [-1]).sample([1])
    offsets = graph.offsets.copy()
    offsets[5] = offsets[4] - np.uint64(1)
    with pytest.raises(MbflowError, match="offsets must not fall"):
        NeighbourSampler(Graph(offsets, graph.sources, 300), [-1]).sample([4])


def test_what_memory_cannot_hold_is_refused():
    graph = random_graph(weights=True)
    most = 2**31 - 1
    with pytest.raises(ResourceError, match="no memory"):
        random_walks(graph, [0] * 100_000, length=most)
    with pytest.raises(ResourceError, match="no memory"):
        negative_edges(graph, [0] * 100_000, count=most)


def test_arrays_of_edges_of_another_length():
    graph = random_graph(weights=True, times=True)
    short = Graph(
        graph.offsets, graph.sources, 300, weights=graph.weights[:5], times=graph.times[:5]
    )
    with pytest.raises(InvalidArgumentError, match="weights: expected one for each edge"):
        NeighbourSampler(short, [2], method="weighted")
    with pytest.raises(InvalidArgumentError, match="times: expected one for each edge"):
        NeighbourSampler(short, [2], method="latest")


def test_walks_and_negatives_take_one_relation():
    graph = HeteroGraph({("a", "to", "a"): random_graph()})
    for function in (random_walks, negative_edges):
        options = {"length": 2} if function is random_walks else {}
        with pytest.raises(InvalidArgumentError, match=r"graph\.relations"):
            function(graph, [0], **options)


def test_a_hopeless_search_can_be_interrupted():
    code = """
import signal, threading, os, time
from mbflow.graph import Graph, negative_edges
graph = Graph.from_edges([0, 1, 0, 1], [0, 0, 1, 1])
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
negative_edges(graph, [0] * 1000, attempts=2**31 - 1)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "KeyboardInterrupt" in done.stderr
