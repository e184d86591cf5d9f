"""A slow sampler over the same keyed draws, written for obviousness: what the kernels must give to the bit."""

from __future__ import annotations

import bisect

import numpy as np

from mbflow._native import random_u64

MASK = (1 << 64) - 1
STEP, FOLD = 0xA0761D6478BD642F, 0xE7037ED1A0B428DB
DERIVE, NEIGHBOURS = 4, 64


def fold(first: int, second: int) -> int:
    product = first * second
    return (product >> 64) ^ (product & MASK)


def stream_word(seed: int, stream: int, index: int) -> int:
    return int(random_u64(seed, stream, index, 1)[0])


def layer_key(seed: int, epoch: int, batch: int, layer: int, relation: int = 0) -> int:
    for index in (epoch, batch):
        seed = stream_word(seed, DERIVE, index)
    return stream_word(seed, NEIGHBOURS, layer << 32 | relation)


class Draws:
    def __init__(self, key: int, node: int) -> None:
        self.state = fold(node ^ STEP, key ^ FOLD) ^ key
        self.half: int | None = None

    def word(self) -> int:
        self.state = (self.state + STEP) & MASK
        return fold(self.state, self.state ^ FOLD)

    def bits(self) -> int:
        if self.half is not None:
            half, self.half = self.half, None
            return half
        word = self.word()
        self.half = word >> 32
        return word & 0xFFFFFFFF

    def below(self, bound: int) -> int:
        surplus = (1 << 32) % bound
        while True:
            product = self.bits() * bound
            if product % (1 << 32) >= surplus:
                return product >> 32

    def unit(self) -> float:
        return (self.word() >> 11) / (1 << 53)


def shared_bits(key: int, node: int) -> int:
    def mix(bits: int) -> int:
        bits ^= bits >> 16
        bits = bits * 0x85EBCA6B & 0xFFFFFFFF
        bits ^= bits >> 13
        bits = bits * 0xC2B2AE35 & 0xFFFFFFFF
        return bits ^ bits >> 16

    return mix(mix(node ^ key & 0xFFFFFFFF) + (key >> 32) & 0xFFFFFFFF)


def weighted(draws: Draws, weights: list[float], count: int, *, whole: bool) -> list[int]:
    """Indices drawn one after the other in proportion to weight among those left."""
    positive = [index for index, weight in enumerate(weights) if weight > 0]
    if len(weights) <= count:
        return positive
    taken: list[int] = []
    rest = list(range(len(weights))) if whole else positive
    while rest and len(taken) < count:
        sums = np.cumsum([float(np.float32(weights[index])) for index in rest]).tolist()
        if sums[-1] <= 0:
            break
        misses = 4 + count // 2
        fresh: list[int] = []
        while misses and len(taken) < count and not (len(fresh) == len(rest) and not whole):
            # All that are needed are drawn at once from the sums of the whole list, then one by one.
            for unit in [draws.unit() for _ in range(count if whole and not taken else 1)]:
                index = rest[bisect.bisect_right(sums, unit * sums[-1])]
                if index in taken:
                    misses = max(misses - 1, 0)
                else:
                    taken.append(index)
                    fresh.append(index)
        whole = False
        rest = [index for index in positive if index not in taken]
    return taken


def pick(
    graph,
    start: int,
    eligible: list[int],
    count: int,
    *,
    method: str,
    replace: bool,
    key: int,
    keyed: int,
) -> list[int]:
    """Positions of the edges taken of those that are eligible, which come in the order they are drawn from."""
    everything = count < 0
    n = len(eligible)
    k = n if everything else count
    if method == "latest":
        return eligible[::-1][:k]
    if method == "labor":
        if n <= k:
            return eligible
        drawn = sorted(
            (shared_bits(key, int(graph.sources[position])), index)
            for index, position in enumerate(eligible)
        )
        return [eligible[index] for index in sorted(index for _, index in drawn[:k])]
    draws = Draws(key, keyed)
    if method == "weighted":
        weights = [float(graph.weights[position]) for position in eligible]
        positive = [
            position for position, weight in zip(eligible, weights, strict=True) if weight > 0
        ]
        if replace:
            if everything:
                return positive
            if not positive:
                return []
            sums = np.cumsum(weights).tolist()
            return [eligible[bisect.bisect_right(sums, draws.unit() * sums[-1])] for _ in range(k)]
        whole = eligible == sorted(eligible) and eligible == list(range(start, start + n))
        return [eligible[index] for index in weighted(draws, weights, k, whole=whole)]
    if replace and not everything:
        return [eligible[draws.below(n)] for _ in range(k)] if n else []
    if n <= k:
        return eligible
    taken: list[int] = []
    for last in range(n - k, n):
        index = draws.below(last + 1)
        taken.append(last if index in taken else index)
    return [eligible[index] for index in taken]


def sample(graph, seeds, fanouts, *, method="uniform", replace=False, seed=0, epoch=0, batch=0, expand="all",
           across_layers=False, times=None, disjoint=False):  # fmt: skip
    """Nodes, trees, layers (first, offsets, sources, edges) and places of the seeds, of a graph of one relation."""
    disjoint = disjoint or times is not None
    nodes: list[tuple[int, int]] = []
    place: dict[tuple[int, int], int] = {}

    def local(node: int, tree: int) -> int:
        at = (node, tree if disjoint else -1)
        if at not in place:
            place[at] = len(nodes)
            nodes.append(at)
        return place[at]

    given = [local(int(node), tree) for tree, node in enumerate(seeds)]
    layers, begun = [], 0
    for layer, fanout in enumerate(fanouts):
        key = layer_key(seed, epoch, batch, 0 if across_layers else layer + 1)
        known = len(nodes)
        first = begun if expand == "new" else 0
        offsets, sources, edges = [0], [], []
        for node, tree in nodes[first:known]:
            start, end = int(graph.offsets[node]), int(graph.offsets[node + 1])
            eligible = list(range(start, end))
            if times is not None:
                eligible = [edge for edge in eligible if graph.times[edge] < times[tree]]
                eligible.sort(key=lambda edge: (graph.times[edge], edge))
            keyed = node | (tree + 1) << 32
            taken = (
                pick(
                    graph,
                    start,
                    eligible,
                    fanout,
                    method=method,
                    replace=replace,
                    key=key,
                    keyed=keyed,
                )
                if fanout
                else []
            )
            edges += taken
            sources += [local(int(graph.sources[edge]), tree) for edge in taken]
            offsets.append(len(edges))
        layers.append((first, offsets, sources, edges))
        begun = known
    ids = [node for node, _ in nodes]
    return ids, [tree for _, tree in nodes] if disjoint else None, layers, given
