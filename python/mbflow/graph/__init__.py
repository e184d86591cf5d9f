"""Graphs from Parquet, mini-batches of sampled neighbourhoods, and training on them.

Example:
    >>> from mbflow.graph import Batches, Graph
    >>> graph = Graph.from_edges([1, 2, 3, 3], [0, 0, 1, 2])
    >>> batches = Batches(graph, [0, 1, 2, 3], 2, fanouts=[2, 2], seed=7)
    >>> sorted(int(node) for sample in batches.epoch(0) for node in sample.nodes[sample.seeds])
    [0, 1, 2, 3]
"""

from __future__ import annotations

from mbflow.graph.batches import Batches
from mbflow.graph.features import FeatureStore
from mbflow.graph.graph import Graph
from mbflow.graph.hetero import HeteroGraph
from mbflow.graph.ids import NodeIds
from mbflow.graph.pcie import pcie_requests
from mbflow.graph.sample import HeteroSample, Layer, Relation, Sample
from mbflow.graph.sampler import NeighbourSampler
from mbflow.graph.walks import negative_edges, random_walks

__all__ = [
    "Batches",
    "FeatureStore",
    "Graph",
    "HeteroGraph",
    "HeteroSample",
    "Layer",
    "NeighbourSampler",
    "NodeIds",
    "Relation",
    "Sample",
    "negative_edges",
    "pcie_requests",
    "random_walks",
]
