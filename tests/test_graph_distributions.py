"""Chances: each edge, and each pair of edges, is drawn as often as the method says. Chi-square with fixed seeds."""

import numpy as np
import pytest
from scipy import stats

from mbflow.graph import Graph, NeighbourSampler, negative_edges, random_walks

SURE = 1e-4
"""A right sampler fails one test of ten thousand, and the seeds are fixed: it passes always or never."""


def star(degree, *, copies=1, weights=None):
    """`copies` nodes, each with incoming edges from `degree` others."""
    sources = np.tile(np.arange(copies, copies + degree), copies)
    targets = np.repeat(np.arange(copies), degree)
    return Graph.from_edges(
        sources,
        targets,
        nodes=copies + degree,
        weights=None if weights is None else np.tile(np.asarray(weights, np.float32), copies),
    )


def positions(sampler, degree, batches, *, copies):
    """Of each target of each batch which of its edges were drawn, (draws, fan-out)."""
    found = []
    for batch in range(batches):
        layer = sampler.sample(np.arange(copies), batch=batch).layers[0]
        edges = layer.edges.reshape(copies, -1)
        found.append(edges - np.arange(copies)[:, None] * degree)
    return np.concatenate(found)


def p_value(counts, expected):
    expected = np.asarray(expected, np.float64)
    expected = expected * (counts.sum() / expected.sum())
    return stats.chisquare(counts, expected).pvalue


@pytest.mark.parametrize("method", ["uniform", "labor"])
@pytest.mark.parametrize("degree", [2, 3, 7, 16, 17, 65, 257, 1000, 5000, 49_152, 65_537, 100_000])
def test_every_edge_is_as_likely_for_every_degree(method, degree):
    copies = max(1, 2000 // degree)
    fanout = max(1, min(100, degree // 2))
    # With labor the targets of a layer share their draws, so each batch counts once.
    copies = 1 if method == "labor" else copies
    batches = max(300, 40_000 // (fanout * copies))
    drawn = positions(
        NeighbourSampler(star(degree, copies=copies), [fanout], method=method),
        degree,
        batches,
        copies=copies,
    )
    cells = min(degree, 64)
    counts = np.bincount(drawn.ravel() * cells // degree, minlength=cells)
    sizes = np.bincount(np.arange(degree) * cells // degree, minlength=cells)
    if fanout * 4 < degree:
        assert p_value(counts, sizes) > SURE
    else:
        # Draws without replacement are more even than independent ones: the statistic shrinks by the share left.
        expected = sizes * counts.sum() / degree
        statistic = ((counts - expected) ** 2 / expected).sum() / (1 - fanout / degree)
        assert stats.chi2(cells - 1).sf(statistic) > SURE


@pytest.mark.parametrize("method", ["uniform", "weighted", "labor"])
@pytest.mark.parametrize(("degree", "fanout"), [(4, 2), (9, 3), (40, 15), (90, 70)])
def test_every_pair_of_edges_is_as_likely(method, degree, fanout):
    graph = star(degree, weights=np.ones(degree) if method == "weighted" else None)
    draws = 6000
    drawn = positions(
        NeighbourSampler(graph, [fanout], method=method, seed=2), degree, draws, copies=1
    )
    taken = np.zeros((draws, degree))
    np.put_along_axis(taken, drawn, 1, axis=1)
    together = (taken.T @ taken)[np.triu_indices(degree, 1)]
    chance = fanout * (fanout - 1) / (degree * (degree - 1))
    # The largest deviation of all pairs, each nearly normal, against Bonferroni's bound.
    worst = np.abs(together - draws * chance).max() / np.sqrt(draws * chance * (1 - chance))
    assert stats.norm.sf(worst) * 2 * len(together) > SURE


def successive(weights, fanout):
    """Chances of each edge to be among `fanout` drawn one after the other in proportion to weight, exactly."""
    chances = np.zeros(len(weights))

    def go_on(left, taken, chance):
        if len(taken) == fanout:
            chances[list(taken)] += chance
            return
        total = sum(weights[index] for index in left)
        for index in left:
            go_on(left - {index}, (*taken, index), chance * weights[index] / total)

    go_on(frozenset(range(len(weights))), (), 1.0)
    return chances


@pytest.mark.parametrize(
    ("weights", "fanout"),
    [
        ([1, 2, 3, 4], 1),
        ([1, 2, 3, 4], 2),
        ([1, 2, 3, 4], 3),
        ([100, 1, 1, 1, 1, 1], 2),
        ([10_000, 1000, 100, 10, 1], 3),
        ([1e-3, 1, 1e3, 1e6, 1e9], 4),
    ],
)
def test_weighted_draws_are_successive_draws(weights, fanout):
    draws = 20_000
    graph = star(len(weights), weights=weights)
    drawn = positions(
        NeighbourSampler(graph, [fanout], method="weighted", seed=4), len(weights), draws, copies=1
    )
    counts = np.bincount(drawn.ravel(), minlength=len(weights))
    chances = successive(weights, fanout)
    deviations = np.sqrt(draws * chances * np.maximum(1 - chances, 0))
    # Where an edge is nearly sure a normal law does not hold, so a few counts are let go.
    assert (np.abs(counts - draws * chances) <= 4.5 * deviations + 3).all()


@pytest.mark.parametrize("degree", [5, 16, 100, 3000])
def test_weighted_draws_with_replacement_follow_the_weights(degree):
    weights = np.random.default_rng(degree).exponential(size=degree).astype(np.float32)
    weights[::7] = 0
    sampler = NeighbourSampler(
        star(degree, weights=weights), [500], method="weighted", replace=True
    )
    drawn = positions(sampler, degree, 200, copies=1).ravel()
    counts = np.bincount(drawn, minlength=degree)
    assert (counts[weights == 0] == 0).all()
    assert p_value(counts[weights > 0], weights[weights > 0]) > SURE


def test_temporal_draws_are_even_among_what_came_before():
    degree = 40
    times = np.random.default_rng(0).permutation(degree)
    graph = Graph.from_edges(
        np.arange(1, degree + 1), np.zeros(degree, int), nodes=degree + 1, times=times
    )
    sampler = NeighbourSampler(graph, [3], temporal=True)
    drawn = [sampler.sample([0], times=[25], batch=batch).layers[0].edges for batch in range(5000)]
    counts = np.bincount(graph.times[np.concatenate(drawn)], minlength=degree)
    assert counts[25:].sum() == 0
    assert p_value(counts[:25], np.ones(25)) > SURE


def test_neighbouring_nodes_and_layers_draw_independently():
    degree, copies = 12, 3000
    graph = star(degree, copies=copies)
    layer = NeighbourSampler(graph, [1], seed=9).sample(np.arange(copies)).layers[0]
    drawn = layer.edges - np.arange(copies) * degree
    table = np.zeros((degree, degree))
    np.add.at(table, (drawn[:-1], drawn[1:]), 1)
    assert stats.chi2_contingency(table).pvalue > SURE
    layers = NeighbourSampler(graph, [1, 1], seed=9).sample(np.arange(copies)).layers
    again = layers[1].edges[:copies] - np.arange(copies) * degree
    table = np.zeros((degree, degree))
    np.add.at(table, (drawn, again), 1)
    assert stats.chi2_contingency(table).pvalue > SURE


def test_walks_take_each_edge_as_often():
    draw = np.random.default_rng(0)
    graph = Graph.from_edges(
        draw.integers(0, 30, 300),
        draw.integers(0, 30, 300),
        nodes=30,
        weights=draw.random(300, np.float32),
    )
    for weighted in (False, True):
        walks = random_walks(
            graph, np.repeat(np.arange(30), 400), length=2, weighted=weighted, seed=3
        )
        for node in range(30):
            came = walks[walks[:, 1] == node, 2]
            first, last = int(graph.offsets[node]), int(graph.offsets[node + 1])
            weights = graph.weights[first:last] if weighted else np.ones(last - first)
            chances = np.bincount(graph.sources[first:last], weights, minlength=30)
            assert (np.isin(came, np.flatnonzero(chances))).all()
            counts = np.bincount(came, minlength=30)[chances > 0]
            assert p_value(counts, chances[chances > 0]) > SURE / 30


def test_walks_restart_as_often_as_asked_and_end_where_there_are_no_edges():
    chain = Graph.from_edges(np.arange(1, 100), np.arange(99))
    walks = random_walks(chain, np.zeros(4000, int), length=3, restart=0.25, seed=1)
    assert stats.binomtest(int((walks[:, 1] == 0).sum()), 4000, 0.25).pvalue > SURE
    ended = random_walks(chain, [98, 97], length=3)
    assert ended.tolist() == [[98, 99, -1, -1], [97, 98, 99, -1]]


@pytest.mark.parametrize("method", ["uniform", "degree"])
def test_negative_edges_are_no_edges_and_as_likely_as_they_should(method):
    draw = np.random.default_rng(0)
    graph = Graph.from_edges(draw.integers(0, 40, 500), draw.integers(0, 40, 500), nodes=40)
    found = negative_edges(graph, np.zeros(3000, int), count=4, method=method, seed=6)
    able = np.setdiff1d(np.arange(1, 40), graph.neighbours(0))
    assert set(np.unique(found)) == set(able)
    degrees = np.bincount(graph.sources, minlength=40)
    chances = (degrees + 1.0) ** 0.75 if method == "degree" else np.ones(40)
    assert p_value(np.bincount(found.ravel(), minlength=40)[able], chances[able]) > SURE


def test_negative_edges_of_a_node_with_edges_from_all():
    graph = Graph.from_edges(np.arange(1, 5), np.zeros(4, int), nodes=5)
    assert (negative_edges(graph, [0], count=3) == -1).all()
    assert (negative_edges(graph, [0], count=3, self_loops=True) == 0).all()
