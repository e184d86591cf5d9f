"""Graphs to sample in tests of what samples become."""

from __future__ import annotations

from typing import Any

import numpy as np

from mbflow.graph import Graph, HeteroGraph


def graph_of(
    sources: Any, targets: Any, *, nodes: int, source_nodes: int | None = None, times: Any = None
) -> Graph:
    """The incoming neighbours of each node, sorted by source, with the rows of the edge list."""
    sources, targets = np.asarray(sources, np.int64), np.asarray(targets, np.int64)
    order = np.lexsort((sources, targets))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(targets, minlength=nodes))])
    return Graph(
        offsets.astype(np.uint64),
        sources[order].astype(np.uint32),
        nodes if source_nodes is None else source_nodes,
        times=None if times is None else np.asarray(times, np.int64)[order],
        rows=order.astype(np.uint32),
    )


def random_edges(
    nodes: int, edges: int, *, source_nodes: int | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Edges with repeats and self loops; the first nodes have more."""
    draw = np.random.default_rng(seed)
    ends = [
        (draw.random(edges) ** 2 * count).astype(np.int64)
        for count in (source_nodes or nodes, nodes)
    ]
    return ends[0], ends[1]


def hetero_graph(seed: int = 0) -> HeteroGraph:
    """Papers that cite papers, authors who write them, and what they are about."""
    counts = {"paper": 60, "author": 25, "topic": 7}
    relations = {}
    for number, (relation, edges) in enumerate(
        {
            ("paper", "cites", "paper"): 240,
            ("author", "writes", "paper"): 150,
            ("paper", "written_by", "author"): 150,
            ("topic", "of", "author"): 40,
        }.items()
    ):
        source, _, target = relation
        ends = random_edges(
            counts[target], edges, source_nodes=counts[source], seed=10 * seed + number
        )
        relations[relation] = graph_of(*ends, nodes=counts[target], source_nodes=counts[source])
    return HeteroGraph(relations)
