"""A sample as one list of edges, hop by hop: each node's edges come with the hop that found it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.errors import InvalidArgumentError
from mbflow.graph.sample import HeteroSample, Layer, Relation, Sample

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["HeteroHops", "Hops", "hetero_hops", "hops"]

_TYPE = ""
_RELATION: Relation = (_TYPE, _TYPE, _TYPE)


@dataclass(frozen=True, eq=False)
class Hops:
    """The edges of a sample in one list, those of the first hop first.

    Attributes:
        nodes: `int64 [nodes]`, ids in the graph: each seed as it was given, repeats included, then
            the nodes that the hops found.
        edge_index: `int64 [2, edges]`: sources, then targets, positions in `nodes`.
        edges: `int64 [edges]`, positions in the graph's edge arrays.
        node_counts: The seeds, and how many nodes each hop found.
        edge_counts: How many edges each hop has.
        weights: `float32 [edges]`, or None where the method draws without.
        trees: `int64 [nodes]`, or None where the seeds' trees are not kept apart.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph.hops import hops
        >>> from mbflow.graph.sample import Layer, Sample
        >>> layer = Layer(np.array([0, 2]), np.array([1, 2]), np.array([5, 9]))
        >>> found = hops(Sample(np.array([7, 3, 4]), (layer,), (1, 3), np.array([0])))
        >>> found.edge_index.tolist(), found.node_counts, found.edge_counts
        ([[1, 2], [0, 0]], [1, 2], [2])
    """

    nodes: NDArray[np.int64]
    edge_index: NDArray[np.int64]
    edges: NDArray[np.int64]
    node_counts: list[int]
    edge_counts: list[int]
    weights: NDArray[np.float32] | None
    trees: NDArray[np.int64] | None


@dataclass(frozen=True, eq=False)
class HeteroHops:
    """The edges of each relation of a sample in one list, those of the first hop first.

    Attributes:
        nodes: For each type of nodes, as in `Hops`.
        edge_index: For each relation.
        edges: For each relation.
        node_counts: For each type of nodes.
        edge_counts: For each relation.
        weights: For each relation that has any.
        trees: For each type of nodes, or None.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph.hops import hetero_hops
        >>> from mbflow.graph.sample import HeteroSample, Layer
        >>> writes = ("author", "writes", "paper")
        >>> layer = Layer(np.array([0, 1]), np.array([0]), np.array([5]))
        >>> nodes = {"author": np.array([3]), "paper": np.array([8])}
        >>> sizes = {"author": (0, 1), "paper": (1, 1)}
        >>> sample = HeteroSample(nodes, ({writes: layer},), sizes, {"paper": np.array([0])})
        >>> hetero_hops(sample).edge_index[writes].tolist()
        [[0], [0]]
    """

    nodes: dict[str, NDArray[np.int64]]
    edge_index: dict[Relation, NDArray[np.int64]]
    edges: dict[Relation, NDArray[np.int64]]
    node_counts: dict[str, list[int]]
    edge_counts: dict[Relation, list[int]]
    weights: dict[Relation, NDArray[np.float32]]
    trees: dict[str, NDArray[np.int64]] | None


def hops(sample: Sample) -> Hops:
    """Lay out a sample hop by hop.

    A seed that was given twice stands twice, with the same edges: what reads the first rows of a
    result as those of the seeds finds them in the order in which they were given.

    Args:
        sample: Taken with `expand="new"`.

    Returns:
        Its edges in one list.

    Raises:
        InvalidArgumentError: A layer goes on from all nodes so far.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph.hops import hops
        >>> from mbflow.graph.sample import Layer, Sample
        >>> layer = Layer(np.array([0, 1]), np.array([1]), np.array([5]))
        >>> twice = hops(Sample(np.array([7, 3]), (layer,), (1, 2), np.array([0, 0])))
        >>> twice.nodes.tolist(), twice.edge_index.tolist()
        ([7, 7, 3], [[2, 2], [0, 1]])
    """
    found = hetero_hops(
        HeteroSample(
            nodes={_TYPE: sample.nodes},
            layers=tuple({_RELATION: layer} for layer in sample.layers),
            sizes={_TYPE: sample.sizes},
            seeds={_TYPE: sample.seeds},
            trees=None if sample.trees is None else {_TYPE: sample.trees},
        ),
        relations=(_RELATION,),
    )
    return Hops(
        nodes=found.nodes[_TYPE],
        edge_index=found.edge_index[_RELATION],
        edges=found.edges[_RELATION],
        node_counts=found.node_counts[_TYPE],
        edge_counts=found.edge_counts[_RELATION],
        weights=found.weights.get(_RELATION),
        trees=None if found.trees is None else found.trees[_TYPE],
    )


def hetero_hops(sample: HeteroSample, *, relations: Iterable[Relation] = ()) -> HeteroHops:
    """Lay out a sample of several types of nodes and edges hop by hop.

    Args:
        sample: Taken with `expand="new"`.
        relations: Relations that the result holds even if the sample has no edge of them.

    Returns:
        Its edges in a list for each relation.

    Raises:
        InvalidArgumentError: A layer goes on from all nodes so far.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph.hops import hetero_hops
        >>> from mbflow.graph.sample import HeteroSample
        >>> nodes = {"paper": np.array([8])}
        >>> sample = HeteroSample(nodes, ({},), {"paper": (1, 1)}, {"paper": np.array([0])})
        >>> hetero_hops(sample, relations=[("paper", "cites", "paper")]).edge_counts
        {('paper', 'cites', 'paper'): [0]}
    """
    _check_expansion(sample)
    repeats = {kind: _repeats(sample, kind) for kind in sample.nodes}
    edge_index, edges, edge_counts, weights = {}, {}, {}, {}
    for relation in dict.fromkeys([*relations, *(one for hop in sample.layers for one in hop)]):
        layers = [hop.get(relation, _NOTHING) for hop in sample.layers]
        targets = repeats.get(relation[2])
        if layers and targets is not None:
            layers[0] = targets.layer(layers[0])
        edge_index[relation] = _edge_index(layers, repeats.get(relation[0]), targets)
        edges[relation] = _joined([layer.edges for layer in layers], np.int64)
        edge_counts[relation] = [len(layer.sources) for layer in layers]
        drawn = [layer.weights for layer in layers if layer is not _NOTHING]
        if drawn and all(one is not None for one in drawn):
            weights[relation] = _joined([one for one in drawn if one is not None], np.float32)
    return HeteroHops(
        nodes={kind: _nodes(nodes, repeats[kind]) for kind, nodes in sample.nodes.items()},
        edge_index=edge_index,
        edges=edges,
        node_counts={
            kind: [len(sample.seeds.get(kind, ())), *np.diff(sizes).tolist()]
            for kind, sizes in sample.sizes.items()
        },
        edge_counts=edge_counts,
        weights=weights,
        # Where trees are kept apart, each seed has its own, also one that was given twice.
        trees=sample.trees,
    )


_NOTHING = Layer(np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))


def _check_expansion(sample: HeteroSample) -> None:
    for number, hop in enumerate(sample.layers):
        for relation, layer in hop.items():
            first = sample.sizes[relation[2]][number - 1] if number else 0
            if layer.first != first:
                where = f" of relation {'/'.join(relation)}" if any(relation) else ""
                raise InvalidArgumentError(
                    f"layer {number}{where} begins at node {layer.first}, as where each layer goes "
                    f"on from all nodes so far; expected {first}, the nodes that the layer before "
                    'found: take the sample with NeighbourSampler(..., expand="new")'
                )


@dataclass(frozen=True, eq=False)
class _Repeats:
    """Seeds that were given more than once, put back to where they stood."""

    seeds: NDArray[np.int64]
    unique: int

    def layer(self, layer: Layer) -> Layer:
        """The first layer with the edges of each seed as often as it was given."""
        if layer is _NOTHING:
            return layer
        counts = np.diff(layer.offsets)[self.seeds]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        begins = np.asarray(layer.offsets)[:-1][self.seeds]
        taken = np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], counts)
        weights = None if layer.weights is None else layer.weights[taken]
        return Layer(offsets, layer.sources[taken], layer.edges[taken], layer.first, weights)

    def moved(self, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where nodes of the sample stand now; of a seed that was given twice the first place."""
        places = np.zeros(self.unique, np.int64)
        places[self.seeds[::-1]] = np.arange(len(self.seeds))[::-1]
        more = len(self.seeds) - self.unique
        return np.where(
            nodes < self.unique, places[np.minimum(nodes, self.unique - 1)], nodes + more
        )


def _repeats(sample: HeteroSample, kind: str) -> _Repeats | None:
    seeds = sample.seeds.get(kind)
    unique = sample.sizes[kind][0]
    return None if seeds is None or len(seeds) == unique else _Repeats(seeds, unique)


def _nodes(nodes: NDArray[np.int64], repeats: _Repeats | None) -> NDArray[np.int64]:
    nodes = np.asarray(nodes, np.int64)
    if repeats is None:
        return nodes
    return np.concatenate([nodes[repeats.seeds], nodes[repeats.unique :]])


def _edge_index(
    layers: list[Layer], sources: _Repeats | None, targets: _Repeats | None
) -> NDArray[np.int64]:
    found = np.empty((2, sum(len(layer.sources) for layer in layers)), np.int64)
    begin = 0
    for number, layer in enumerate(layers):
        end = begin + len(layer.sources)
        found[0, begin:end] = layer.sources
        found[1, begin:end] = layer.target_of_edge()
        if sources is not None:
            found[0, begin:end] = sources.moved(found[0, begin:end])
        if targets is not None and number:
            found[1, begin:end] = targets.moved(found[1, begin:end])
        begin = end
    return found


def _joined(arrays: list[NDArray[Any]], dtype: type[Any]) -> NDArray[Any]:
    if len(arrays) == 1:
        return np.asarray(arrays[0], dtype)
    return np.concatenate(arrays, dtype=dtype) if arrays else np.zeros(0, dtype)
