"""What a sampler returns: the nodes of a neighbourhood, and its edges layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["HeteroSample", "Layer", "Relation", "Sample"]

Relation = tuple[str, str, str]
"""A kind of edges: the type of their sources, their own name, the type of their targets."""


@dataclass(frozen=True, eq=False, repr=False)
class Layer:
    """The edges of one hop, as a ragged array over its targets.

    Target `t` is node `first + t` of the sample. The edges that lead to it come from the nodes
    `sources[offsets[t]:offsets[t + 1]]` of the sample.

    Attributes:
        offsets: `int64 [targets + 1]`.
        sources: `[edges]`, local ids: positions in the sample's `nodes`.
        edges: `[edges]`, positions in the graph's edge arrays, for edge features.
        first: Local id of the first target: 0 where every layer goes on from all nodes so far.
        weights: `float32 [edges]`, what each edge counts for in an unbiased mean, of samples by
            method "budget"; else None, also for "weighted", whose plain mean is already weighted.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph import Layer
        >>> Layer(np.array([0, 2, 2]), np.array([2, 3]), np.array([7, 9])).targets
        2
    """

    offsets: NDArray[np.int64]
    sources: NDArray[Any]
    edges: NDArray[Any]
    first: int = 0
    weights: NDArray[np.float32] | None = None

    def __repr__(self) -> str:
        return f"Layer({self.targets} targets, {len(self.sources)} edges)"

    @property
    def targets(self) -> int:
        """The number of targets."""
        return len(self.offsets) - 1

    def target_of_edge(self) -> NDArray[np.int64]:
        """The local id of each edge's target, `int64 [edges]`.

        Returns:
            Positions in the sample's `nodes`.

        Example:
            >>> import numpy as np
            >>> from mbflow.graph import Layer
            >>> layer = Layer(np.array([0, 2, 3]), np.array([2, 3, 2]), np.array([7, 9, 11]))
            >>> layer.target_of_edge().tolist()
            [0, 0, 1]
        """
        targets = np.arange(self.first, self.first + self.targets, dtype=np.int64)
        return np.repeat(targets, np.diff(self.offsets))


@dataclass(frozen=True, eq=False, repr=False)
class Sample:
    """A sampled neighbourhood of some seeds.

    Attributes:
        nodes: `int64 [nodes]`, ids in the graph, each once, the seeds first and then in the order
            in which the layers found them. With `trees` a node stands once for each tree.
        layers: From the seeds outward. The targets of layer `i` are among the first `sizes[i]`
            nodes, its sources among the first `sizes[i + 1]`.
        sizes: Nodes known before the first layer (the seeds, each once) and after each layer.
        seeds: `int64 [seeds]`, local id of each seed as it was given, repeats included.
        trees: `int64 [nodes]`, which seed's tree each node belongs to, where the seeds' trees are
            kept apart (temporal sampling); else None.

    Example:
        >>> from mbflow.graph import Graph, NeighbourSampler
        >>> graph = Graph.from_edges([1, 2, 3], [0, 0, 1])
        >>> sample = NeighbourSampler(graph, fanouts=[-1, -1]).sample([0])
        >>> sample.nodes.tolist(), sample.sizes
        ([0, 1, 2, 3], (1, 3, 4))
        >>> [layer.sources.tolist() for layer in sample.layers]
        [[1, 2], [1, 2, 3]]
    """

    nodes: NDArray[Any]
    layers: tuple[Layer, ...]
    sizes: tuple[int, ...]
    seeds: NDArray[np.int64]
    trees: NDArray[np.int64] | None = None

    def __repr__(self) -> str:
        edges = [len(layer.sources) for layer in self.layers]
        return f"Sample({len(self.seeds)} seeds, {len(self.nodes)} nodes, edges by layer {edges})"

    @property
    def edges(self) -> int:
        """The number of edges of all layers."""
        return sum(len(layer.sources) for layer in self.layers)


@dataclass(frozen=True, eq=False, repr=False)
class HeteroSample:
    """A sampled neighbourhood in a graph of several types of nodes and edges.

    Attributes:
        nodes: For each type of nodes, `int64` ids in the graph, each once, seeds first.
        layers: From the seeds outward; for each relation that has targets, its edges: sources are
            local ids among the nodes of the relation's source type, targets among those of its
            target type.
        sizes: For each type of nodes, how many are known before the first layer and after each.
        seeds: For each type of nodes that seeds were given of, the local id of each.
        trees: As in `Sample`, for each type of nodes.

    Example:
        >>> from mbflow.graph import Graph, HeteroGraph, NeighbourSampler
        >>> writes = Graph.from_edges([0, 1, 1], [0, 0, 1], nodes=2, source_nodes=2)
        >>> graph = HeteroGraph({("author", "writes", "paper"): writes})
        >>> sample = NeighbourSampler(graph, fanouts=[-1]).sample({"paper": [0]})
        >>> {kind: nodes.tolist() for kind, nodes in sample.nodes.items()}
        {'author': [0, 1], 'paper': [0]}
    """

    nodes: dict[str, NDArray[Any]]
    layers: tuple[dict[Relation, Layer], ...]
    sizes: dict[str, tuple[int, ...]]
    seeds: dict[str, NDArray[np.int64]]
    trees: dict[str, NDArray[np.int64]] | None = None

    def __repr__(self) -> str:
        nodes = {kind: len(ids) for kind, ids in self.nodes.items()}
        return f"HeteroSample(nodes by type {nodes}, {self.edges} edges)"

    @property
    def edges(self) -> int:
        """The number of edges of all layers and relations."""
        return sum(len(layer.sources) for hop in self.layers for layer in hop.values())
