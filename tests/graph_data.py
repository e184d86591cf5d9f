"""Small graphs, dense oracles and a slow stand-in for sampled batches, for the tests of graphs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mbflow.graph import Graph, Layer, Sample


def compressed(sources: list[int], targets: list[int], nodes: int) -> Graph:
    """A graph of these edges, neighbours sorted by source."""
    s, t = np.asarray(sources, np.int64), np.asarray(targets, np.int64)
    order = np.lexsort((s, t))
    offsets = np.zeros(nodes + 1, np.uint64)
    offsets[1:] = np.cumsum(np.bincount(t, minlength=nodes))
    return Graph(offsets, s[order].astype(np.uint32), nodes)


def random_graph(nodes: int, edges: int, *, seed: int, isolated: int = 2) -> Graph:
    """Random edges both ways, some of them twice; the last nodes have none."""
    draws = np.random.default_rng(seed).integers(0, nodes - isolated, (2, edges))
    ends = draws[:, draws[0] != draws[1]]
    both = np.concatenate([ends, ends[::-1]], axis=1)
    return compressed(both[0].tolist(), both[1].tolist(), nodes)


def dense(graph: Graph) -> np.ndarray:
    """The adjacency matrix: how many edges lead from column to row."""
    matrix = np.zeros((graph.nodes, graph.nodes))
    for target in range(graph.nodes):
        for edge in range(int(graph.offsets[target]), int(graph.offsets[target + 1])):
            matrix[target, graph.sources[edge]] += 1
    return matrix


def slow_sample(graph: Graph, seeds: np.ndarray, fanouts: list[int], key: list[int]) -> Sample:
    """A sample drawn node by node; the draw of a node depends on the key, layer and node alone."""
    nodes: list[int] = []
    local: dict[int, int] = {}

    def number(node: int) -> int:
        if node not in local:
            local[node] = len(nodes)
            nodes.append(node)
        return local[node]

    given = np.array([number(int(seed)) for seed in seeds], dtype=np.int64)
    sizes, layers = [len(nodes)], []
    for depth, fanout in enumerate(fanouts):
        offsets, sources, edges = [0], [], []
        for node in nodes[: sizes[-1]]:
            found = np.arange(int(graph.offsets[node]), int(graph.offsets[node + 1]))
            if 0 <= fanout < len(found):
                draw = np.random.default_rng([*key, depth, node])
                found = np.sort(draw.choice(found, fanout, replace=False))
            edges += found.tolist()
            sources += [number(int(graph.sources[edge])) for edge in found]
            offsets.append(len(edges))
        layers.append(
            Layer(np.array(offsets), np.array(sources, np.int64), np.array(edges, np.int64))
        )
        sizes.append(len(nodes))
    return Sample(np.array(nodes, np.int64), tuple(layers), tuple(sizes), given)


class SlowBatches:
    """Shuffled seeds in batches, each with a slow sample; `whole` gives the graph for each."""

    def __init__(self, graph, seeds, batch_size, *, fanouts, seed=0, whole=False) -> None:
        self.graph, self.seeds, self.size = graph, np.asarray(seeds), batch_size
        self.fanouts, self.seed, self.whole = fanouts, seed, whole

    def steps(self, epoch: int = 0) -> int:
        return -(-len(self.seeds) // self.size)

    def batch(self, epoch: int, step: int) -> Sample:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.seeds))
        chosen = self.seeds[order[step * self.size : (step + 1) * self.size]]
        if self.whole:
            from mbflow.graph.layers import whole_sample

            return whole_sample(self.graph, chosen, layers=len(self.fanouts))
        return slow_sample(self.graph, chosen, self.fanouts, [self.seed, epoch, step])

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Sample]:
        for step in range(start, self.steps(epoch)):
            yield self.batch(epoch, step)
