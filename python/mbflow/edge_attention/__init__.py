"""Graph attention over ragged edges, as a torch module: our kernels, plain torch, DGL or PyG.

The kernels work on the CPU. They make one row for each node of all that an edge needs of its
source, and then go over targets (forward) and sources (backward) without storing anything for an
edge. Their results have the same bits for any number of threads. With the same weights all backends
give the same output and the same attention to about 1e-6, so that users of DGL or PyG can check and
move.

Imports torch. DGL and PyG are imported where a layer that uses them is made.

Source:
    Velickovic et al.: Graph Attention Networks (arXiv 1710.10903), section 2.1.
"""

from mbflow.edge_attention.kernels import Activation, attend, row_weights
from mbflow.edge_attention.layer import Backend, GraphAttention
from mbflow.edge_attention.ragged import EdgeGraph, Ragged

__all__ = [
    "Activation",
    "Backend",
    "EdgeGraph",
    "GraphAttention",
    "Ragged",
    "attend",
    "row_weights",
]
