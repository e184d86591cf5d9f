"""Random walks, and negative edges for link prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mbflow import _native
from mbflow.batches import check_whole
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.graph.graph import Graph
from mbflow.graph.hetero import HeteroGraph
from mbflow.graph.sampler import _integers

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["negative_edges", "random_walks"]

_MOST = 2**63 - 1


def random_walks(
    graph: Graph,
    seeds: Any,
    *,
    length: int,
    weighted: bool = False,
    restart: float = 0.0,
    seed: int = 0,
    epoch: int = 0,
    batch: int = 0,
) -> NDArray[np.int64]:
    """Random walks along incoming edges: from a node to one of its neighbours in the graph.

    To walk along the edges, give `graph.reversed()`. Draws are keyed by (seed, epoch, batch, place
    of the seed), so the walks are the same for any number of threads.

    Args:
        graph: The graph.
        seeds: Where walks start, integers of shape (seeds,), repeats allowed.
        length: Steps of each walk.
        weighted: Whether edges are drawn in proportion to their weight; otherwise each is equally
            likely.
        restart: Chance that a step goes back to the start instead, 0 to below 1.
        seed: Seed of the draws.
        epoch: Keys the draws, from 0.
        batch: Keys the draws, from 0.

    Returns:
        int64 of shape (seeds, length + 1): the nodes of each walk, its start first; -1 from where a
        node has no edges to go on by.

    Raises:
        InvalidArgumentError: A seed is no node, a number is out of range, or weights are missing.

    Example:
        >>> from mbflow.graph import Graph, random_walks
        >>> ring = Graph.from_edges([0, 1, 2], [1, 2, 0])
        >>> random_walks(ring, [0, 1], length=3).tolist()
        [[0, 2, 1, 0], [1, 0, 2, 1]]

    Source: random walk with restart (Tong, Faloutsos, Pan, ICDM 2006); DeepWalk (Perozzi, Al-Rfou,
    Skiena, KDD 2014).
    """
    _one_relation(graph)
    _square(graph, "random walks")
    _truth("weighted", weighted)
    check_whole("length", length, least=0, most=2**31 - 1)
    for name, value, most in (
        ("seed", seed, 2**64 - 1),
        ("epoch", epoch, _MOST),
        ("batch", batch, _MOST),
    ):
        check_whole(name, value, least=0, most=most)
    if isinstance(restart, bool) or not isinstance(restart, int | float) or not 0 <= restart < 1:
        raise InvalidArgumentError(f"restart is {restart!r}; expected a chance from 0 to below 1")
    sums = None
    if weighted:
        if graph.weights is None:
            raise InvalidArgumentError(
                "weighted: the graph has no weights; build it with `weights=`"
            )
        sums = graph.weights, _native.sampling.weight_sums(graph.offsets, graph.weights)
    starts = _integers("seeds", seeds)
    found = _native.sampling.walks(
        graph.offsets,
        graph.sources,
        starts,
        int(length),
        weights=sums,
        restart=float(restart),
        seed=int(seed),
        epoch=int(epoch),
        batch=int(batch),
    )
    return found.reshape(len(starts), int(length) + 1)


def negative_edges(
    graph: Graph,
    targets: Any,
    *,
    count: int = 1,
    method: Literal["uniform", "degree"] = "uniform",
    self_loops: bool = False,
    seed: int = 0,
    epoch: int = 0,
    batch: int = 0,
    attempts: int = 64,
) -> NDArray[np.int64]:
    """For each target some sources that no edge leads from to it: negatives for link prediction.

    Draws that are edges are drawn again, so the rest is equally likely (or in proportion to what
    `method` says). Draws are keyed by (seed, epoch, batch, place of the target). A source may come
    more than once among the `count` of a target.

    Args:
        graph: The edges that negatives must not be, sources of each node sorted.
        targets: Ids of nodes, integers of shape (targets,): the targets of the positive edges.
        count: Negatives for each target.
        method: `"uniform"`: each source equally likely; `"degree"`: in proportion to the number of
            its edges, plus one, to the power of 3/4, as in word2vec.
        self_loops: Whether a node may be its own negative source.
        seed: Seed of the draws.
        epoch: Keys the draws, from 0.
        batch: Keys the draws, from 0.
        attempts: Draws of one negative before it is given up.

    Returns:
        int64 of shape (targets, count): sources, -1 where `attempts` draws in a row were edges, as
        for a target that has edges from nearly all nodes.

    Raises:
        InvalidArgumentError: A target is no node, or a number is out of range.
        DataError: The graph has no nodes to draw sources from.

    Example:
        >>> from mbflow.graph import Graph, negative_edges
        >>> graph = Graph.from_edges([1, 2], [0, 0], nodes=4)
        >>> negative_edges(graph, [0, 0], count=2).tolist()
        [[3, 3], [3, 3]]

    Source: unigram draws to the power of 3/4 (Mikolov et al., NeurIPS 2013).
    """
    _one_relation(graph)
    check_whole("count", count, least=0, most=2**31 - 1)
    check_whole("attempts", attempts, least=1, most=2**31 - 1)
    for name, value, most in (
        ("seed", seed, 2**64 - 1),
        ("epoch", epoch, _MOST),
        ("batch", batch, _MOST),
    ):
        check_whole(name, value, least=0, most=most)
    if method not in ("uniform", "degree"):
        raise InvalidArgumentError(f"method is {method!r}; expected 'uniform' or 'degree'")
    ids = _integers("targets", targets)
    if graph.source_nodes == 0:
        raise DataError("the graph has no nodes to draw sources from")
    sums = None
    _truth("self_loops", self_loops)
    if method == "degree":
        _native.csc.check_sources(graph.sources, graph.source_nodes)
        degrees = np.bincount(graph.sources, minlength=graph.source_nodes)
        sums = np.cumsum((degrees + 1.0) ** 0.75)
    found = _native.sampling.negative_sources(
        graph.offsets,
        graph.sources,
        graph.source_nodes,
        ids,
        int(count),
        source_sums=sums,
        # Between two kinds of nodes equal ids are different nodes.
        self_loops=bool(self_loops) or graph.source_nodes != graph.nodes,
        attempts=int(attempts),
        seed=int(seed),
        epoch=int(epoch),
        batch=int(batch),
    )
    return found.reshape(len(ids), int(count))


def _truth(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"{name} is {value!r}; expected True or False")


def _one_relation(graph: Any) -> None:
    if not isinstance(graph, Graph):
        hint = "; give one of its relations, graph.relations[...]"
        raise InvalidArgumentError(
            f"graph: expected a mbflow.graph.Graph, got {type(graph).__name__}"
            + (hint if isinstance(graph, HeteroGraph) else "")
        )


def _square(graph: Graph, purpose: str) -> None:
    if graph.source_nodes != graph.nodes:
        raise InvalidArgumentError(
            f"graph: its edges lead from {graph.source_nodes} nodes to {graph.nodes} others; "
            f"{purpose} need edges among the same nodes"
        )
