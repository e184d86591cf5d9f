"""Samples as other libraries have them: torch tensors, DGL's blocks, PyG's data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from mbflow.dgl_compat import load_dgl
from mbflow.errors import InvalidArgumentError, require
from mbflow.graph.hops import hetero_hops, hops
from mbflow.graph.sample import HeteroSample, Layer, Relation, Sample
from mbflow.training import without_warnings

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["TorchHeteroSample", "TorchLayer", "TorchSample", "to_dgl", "to_pyg", "to_torch"]

Rows = Any
"""Rows of the edge list that a graph's edges came from: `graph.rows`, or a mapping by relation."""


@dataclass(frozen=True, eq=False)
class TorchLayer:
    """A `Layer` in tensors.

    Attributes:
        offsets: `int64 [targets + 1]`.
        sources: `int64` or `int32 [edges]`, positions in the sample's `nodes`.
        edges: `int64` or `int32 [edges]`, positions in the graph's edge arrays.
        first: Local id of the first target.
        weights: `float32 [edges]` or None, as in `Layer`.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph import Layer, Sample
        >>> from mbflow.graph.interop import to_torch
        >>> layer = Layer(np.array([0, 2]), np.array([1, 2]), np.array([5, 9]))
        >>> sample = Sample(np.array([7, 3, 4]), (layer,), (1, 3), np.array([0]))
        >>> to_torch(sample).layers[0].edge_index().tolist()
        [[1, 2], [0, 0]]
    """

    offsets: torch.Tensor
    sources: torch.Tensor
    edges: torch.Tensor
    first: int = 0
    weights: torch.Tensor | None = None

    @property
    def targets(self) -> int:
        """The number of targets."""
        return len(self.offsets) - 1

    def edge_index(self) -> torch.Tensor:
        """Sources, then targets, `int64 [2, edges]`, as PyG's layers take them.

        Returns:
            Positions in the sample's `nodes`.
        """
        import torch

        last = self.first + self.targets
        targets = torch.arange(self.first, last, device=self.offsets.device)
        targets = targets.repeat_interleave(self.offsets.diff(), output_size=len(self.sources))
        return torch.stack([self.sources.to(torch.int64), targets])

    def to(self, device: Any, *, non_blocking: bool = False) -> TorchLayer:
        """The layer on a device.

        Args:
            device: As in `torch.Tensor.to`.
            non_blocking: As in `torch.Tensor.to`.

        Returns:
            The layer, itself where it is there already.
        """
        offsets, sources, edges = (
            one.to(device, non_blocking=non_blocking)
            for one in (self.offsets, self.sources, self.edges)
        )
        weights = self.weights
        if weights is not None:
            weights = weights.to(device, non_blocking=non_blocking)
        return TorchLayer(offsets, sources, edges, self.first, weights)


@dataclass(frozen=True, eq=False)
class TorchSample:
    """A `Sample` in tensors.

    Attributes:
        nodes: `int64 [nodes]`.
        layers: From the seeds outward.
        sizes: Nodes known before the first layer and after each.
        seeds: `int64 [seeds]`.
        trees: `int64 [nodes]` or None.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph import Sample
        >>> from mbflow.graph.interop import to_torch
        >>> to_torch(Sample(np.array([7]), (), (1,), np.array([0, 0]))).seeds
        tensor([0, 0])
    """

    nodes: torch.Tensor
    layers: tuple[TorchLayer, ...]
    sizes: tuple[int, ...]
    seeds: torch.Tensor
    trees: torch.Tensor | None = None

    def to(self, device: Any, *, non_blocking: bool = False) -> TorchSample:
        """The sample on a device.

        Args:
            device: As in `torch.Tensor.to`.
            non_blocking: As in `torch.Tensor.to`.

        Returns:
            The sample there.
        """
        trees = self.trees
        return TorchSample(
            self.nodes.to(device, non_blocking=non_blocking),
            tuple(layer.to(device, non_blocking=non_blocking) for layer in self.layers),
            self.sizes,
            self.seeds.to(device, non_blocking=non_blocking),
            None if trees is None else trees.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True, eq=False)
class TorchHeteroSample:
    """A `HeteroSample` in tensors.

    Attributes:
        nodes: For each type of nodes, `int64 [nodes]`.
        layers: From the seeds outward, for each relation.
        sizes: For each type of nodes.
        seeds: For each type of nodes that seeds were given of.
        trees: For each type of nodes, or None.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph import HeteroSample
        >>> from mbflow.graph.interop import to_torch
        >>> sample = HeteroSample(
        ...     {"a": np.array([7])}, (), {"a": (1,)}, {"a": np.array([0])}
        ... )
        >>> to_torch(sample).nodes
        {'a': tensor([7])}
    """

    nodes: dict[str, torch.Tensor]
    layers: tuple[dict[Relation, TorchLayer], ...]
    sizes: dict[str, tuple[int, ...]]
    seeds: dict[str, torch.Tensor]
    trees: dict[str, torch.Tensor] | None = None

    def to(self, device: Any, *, non_blocking: bool = False) -> TorchHeteroSample:
        """The sample on a device.

        Args:
            device: As in `torch.Tensor.to`.
            non_blocking: As in `torch.Tensor.to`.

        Returns:
            The sample there.
        """

        def moved(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {
                kind: one.to(device, non_blocking=non_blocking) for kind, one in tensors.items()
            }

        return TorchHeteroSample(
            moved(self.nodes),
            tuple(
                {name: layer.to(device, non_blocking=non_blocking) for name, layer in hop.items()}
                for hop in self.layers
            ),
            self.sizes,
            moved(self.seeds),
            None if self.trees is None else moved(self.trees),
        )


@overload
def to_torch(sample: Sample) -> TorchSample: ...
@overload
def to_torch(sample: HeteroSample) -> TorchHeteroSample: ...
def to_torch(sample: Sample | HeteroSample) -> TorchSample | TorchHeteroSample:
    """A sample in plain tensors, which share its memory.

    Arrays of `uint32`, which torch does not index with, are copied to `int64`; so are arrays that
    cannot be written to. All others are views.

    Args:
        sample: A `Sample` or a `HeteroSample`.

    Returns:
        A `TorchSample`, or a `TorchHeteroSample`.

    Raises:
        MissingExtraError: torch is not installed.
        InvalidArgumentError: `sample` is something else.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph import Layer, Sample
        >>> from mbflow.graph.interop import to_torch
        >>> layer = Layer(np.array([0, 2]), np.array([1, 2]), np.array([5, 9]))
        >>> sample = Sample(np.array([7, 3, 4]), (layer,), (1, 3), np.array([0]))
        >>> to_torch(sample).nodes.data_ptr() == sample.nodes.ctypes.data
        True
    """
    require("torch", extra="train", purpose="samples in tensors")
    if isinstance(sample, Sample):
        return TorchSample(
            tensor(sample.nodes),
            tuple(_layer(layer) for layer in sample.layers),
            sample.sizes,
            tensor(sample.seeds),
            None if sample.trees is None else tensor(sample.trees),
        )
    if isinstance(sample, HeteroSample):
        return TorchHeteroSample(
            _tensors(sample.nodes),
            tuple({name: _layer(one) for name, one in hop.items()} for hop in sample.layers),
            sample.sizes,
            _tensors(sample.seeds),
            None if sample.trees is None else _tensors(sample.trees),
        )
    raise _no_sample(sample)


def to_dgl(sample: Sample | HeteroSample, *, rows: Rows = None) -> list[Any]:
    """DGL's blocks of a sample, the input's first, as DGL's models take them.

    Each block has `dgl.NID` on its sources and targets and `dgl.EID` on its edges; of samples by
    method "budget" also `edge_weights`, as DGL's LABOR sampler. Offsets and ids are shared with the
    sample, not copied, where they are `int64`.

    Args:
        sample: A `Sample` or `HeteroSample` of unique nodes, taken with `expand="all"`, which is
            the default: a block's targets are the first of its sources.
        rows: Rows of the edge list that the graph's edges came from, `graph.rows`, or a mapping by
            relation: `dgl.EID` then are these, as in a DGL graph of the same edge list. By default
            positions in the graph.

    Returns:
        A block for each layer. A node's features come from `blocks[0].srcdata[dgl.NID]`; the seeds
        are the first targets of the last block, each once.

    Raises:
        MissingExtraError: DGL or torch is not installed.
        InvalidArgumentError: A layer goes on only from the nodes found last.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph import Layer, Sample
        >>> from mbflow.graph.interop import to_dgl
        >>> layer = Layer(np.array([0, 2]), np.array([1, 2]), np.array([5, 9]))
        >>> sample = Sample(np.array([7, 3, 4]), (layer,), (1, 3), np.array([0]))
        >>> to_dgl(sample)  # doctest: +SKIP
        [Block(num_src_nodes=3, num_dst_nodes=1, num_edges=2)]
    """
    dgl = load_dgl(purpose="blocks")
    if isinstance(sample, Sample):
        return _blocks(dgl, sample, rows)
    if isinstance(sample, HeteroSample):
        return _hetero_blocks(dgl, sample, rows)
    raise _no_sample(sample)


def to_pyg(sample: Sample | HeteroSample, *, rows: Rows = None) -> Any:
    """PyG's data of a sample, as its `NeighborLoader` gives it, without features.

    `n_id` holds the nodes' ids in the graph, the seeds first and as they were given; `e_id` the
    edges'; `edge_index` the edges hop by hop; `num_sampled_nodes` and `num_sampled_edges` how many
    each hop has, for `torch_geometric.utils.trim_to_layer`; `batch_size` the number of seeds;
    `batch` the seed that each node belongs to where trees are kept apart; `edge_weight` of samples
    by method "budget": what each edge counts for in an unbiased mean.

    Args:
        sample: A `Sample` or `HeteroSample` taken with `expand="new"`: PyG draws the edges of a
            node once, in the hop after the one that found it.
        rows: Rows of the edge list that the graph's edges came from, `graph.rows`, or a mapping by
            relation: `e_id` then are these, columns of the `edge_index` that the graph was made
            of. By default positions in the graph.

    Returns:
        A `torch_geometric.data.Data`, or `HeteroData`.

    Raises:
        MissingExtraError: torch_geometric or torch is not installed.
        InvalidArgumentError: A layer goes on from all nodes so far.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph import Layer, Sample
        >>> from mbflow.graph.interop import to_pyg
        >>> layer = Layer(np.array([0, 2]), np.array([1, 2]), np.array([5, 9]))
        >>> sample = Sample(np.array([7, 3, 4]), (layer,), (1, 3), np.array([0]))
        >>> to_pyg(sample).num_sampled_nodes
        [1, 2]
    """
    with without_warnings():  # of its own import
        require("torch_geometric.data", extra="pyg", purpose="PyG's data")
    from torch_geometric.data import Data, HeteroData

    if isinstance(sample, Sample):
        found = hops(sample)
        optional = {"edge_weight": found.weights, "batch": found.trees}
        return Data(
            edge_index=tensor(found.edge_index),
            n_id=tensor(found.nodes),
            e_id=_edge_ids(found.edges, rows),
            num_nodes=len(found.nodes),
            batch_size=len(sample.seeds),
            num_sampled_nodes=found.node_counts,
            num_sampled_edges=found.edge_counts,
            **{name: tensor(one) for name, one in optional.items() if one is not None},
        )
    if not isinstance(sample, HeteroSample):
        raise _no_sample(sample)
    laid = hetero_hops(sample)
    data = HeteroData()
    for kind, nodes in laid.nodes.items():
        data[kind].n_id = tensor(nodes)
        data[kind].num_nodes = len(nodes)
        data[kind].num_sampled_nodes = laid.node_counts[kind]
        if kind in sample.seeds:
            data[kind].batch_size = len(sample.seeds[kind])
        if laid.trees is not None:
            data[kind].batch = tensor(laid.trees[kind])
    for relation, edge_index in laid.edge_index.items():
        data[relation].edge_index = tensor(edge_index)
        data[relation].e_id = _edge_ids(laid.edges[relation], _rows_of(rows, relation))
        data[relation].num_sampled_edges = laid.edge_counts[relation]
        if relation in laid.weights:
            data[relation].edge_weight = tensor(laid.weights[relation])
    return data


def tensor(array: NDArray[Any]) -> torch.Tensor:
    """The tensor of an array, without a copy where torch can index with it and write to it."""
    import torch

    if array.dtype in (np.uint32, np.uint64):
        array = array.astype(np.int64)
    elif not array.flags.writeable:
        array = array.copy()
    return torch.from_numpy(array)


def _tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    return {kind: tensor(one) for kind, one in arrays.items()}


def _layer(layer: Layer) -> TorchLayer:
    weights = None if layer.weights is None else tensor(layer.weights)
    offsets, sources, edges = map(tensor, (layer.offsets, layer.sources, layer.edges))
    return TorchLayer(offsets, sources, edges, layer.first, weights)


def _edge_ids(edges: NDArray[Any], rows: NDArray[Any] | None) -> torch.Tensor:
    if rows is None:
        return tensor(edges)
    if not isinstance(rows, np.ndarray) or rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise InvalidArgumentError(
            f"rows is a {type(rows).__name__}; expected `graph.rows` (made with keep_rows=True), "
            "or a mapping of relations to such"
        )
    if len(edges) and int(edges.max()) >= len(rows):
        raise InvalidArgumentError(
            f"rows has {len(rows)} entries, and the sample has edge {int(edges.max())}; expected "
            "the rows of the graph that was sampled"
        )
    return tensor(rows[edges])


def _rows_of(rows: Rows, relation: Relation) -> NDArray[Any] | None:
    return rows.get(relation) if isinstance(rows, Mapping) else rows


def _no_sample(given: object) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"sample is a {type(given).__name__}; expected a Sample or a HeteroSample"
    )


def _blocks(dgl: Any, sample: Sample, rows: Rows) -> list[Any]:
    _unique(sample.trees)
    nodes = tensor(sample.nodes)
    blocks = []
    for number, layer in enumerate(sample.layers):
        targets, sources = sample.sizes[number : number + 2]
        _check_targets(layer, targets, f"layer {number}")
        block = dgl.create_block(_csc(layer), num_src_nodes=sources, num_dst_nodes=targets)
        block.srcdata[dgl.NID] = nodes[:sources]
        block.dstdata[dgl.NID] = nodes[:targets]
        block.edata[dgl.EID] = _edge_ids(layer.edges, rows)
        if layer.weights is not None:
            block.edata["edge_weights"] = tensor(layer.weights)
        blocks.append(block)
    return blocks[::-1]


def _hetero_blocks(dgl: Any, sample: HeteroSample, rows: Rows) -> list[Any]:
    import torch

    _unique(sample.trees)
    nodes = _tensors(sample.nodes)
    relations = dict.fromkeys(name for hop in sample.layers for name in hop)
    blocks = []
    for number, hop in enumerate(sample.layers):
        targets = {kind: sizes[number] for kind, sizes in sample.sizes.items()}
        sources = {kind: sizes[number + 1] for kind, sizes in sample.sizes.items()}
        edges: dict[Relation, Any] = {}
        for relation in relations:
            if relation in hop:
                where = f"layer {number} of relation {'/'.join(relation)}"
                _check_targets(hop[relation], targets[relation[2]], where)
                edges[relation] = _csc(hop[relation])
            else:
                nothing = torch.zeros(0, dtype=torch.int64)
                offsets = torch.zeros(targets[relation[2]] + 1, dtype=torch.int64)
                edges[relation] = ("csc", (offsets, nothing, nothing))
        block = dgl.create_block(edges, num_src_nodes=sources, num_dst_nodes=targets)
        for kind, ids in nodes.items():
            block.srcnodes[kind].data[dgl.NID] = ids[: sources[kind]]
            block.dstnodes[kind].data[dgl.NID] = ids[: targets[kind]]
        for relation, layer in hop.items():
            data = block.edges[relation].data
            data[dgl.EID] = _edge_ids(layer.edges, _rows_of(rows, relation))
            if layer.weights is not None:
                data["edge_weights"] = tensor(layer.weights)
        blocks.append(block)
    return blocks[::-1]


def _csc(layer: Layer) -> tuple[str, tuple[torch.Tensor, ...]]:
    import torch

    sources = tensor(layer.sources).to(torch.int64)
    return "csc", (tensor(layer.offsets), sources, torch.zeros(0, dtype=torch.int64))


def _unique(trees: object) -> None:
    if trees is not None:
        raise InvalidArgumentError(
            "the seeds' trees are kept apart, which DGL's blocks cannot say; use to_pyg or to_torch"
        )


def _check_targets(layer: Layer, targets: int, where: str) -> None:
    if layer.first != 0 or layer.targets != targets:
        raise InvalidArgumentError(
            f"{where} has {layer.targets} targets from node {layer.first} on; expected all "
            f'{targets} nodes so far: take the sample with NeighbourSampler(..., expand="all")'
        )
