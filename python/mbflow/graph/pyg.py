"""PyG's loaders over this package's samplers: a `torch_geometric.sampler.BaseSampler`.

Imports torch and torch_geometric; `mbflow.graph` does not import this module.

Example:
    >>> import torch
    >>> from mbflow.graph.pyg import PyGSampler
    >>> from torch_geometric.data import Data
    >>> from torch_geometric.loader import NodeLoader
    >>> data = Data(x=torch.randn(4, 8), edge_index=torch.tensor([[1, 2, 3], [0, 0, 1]]))
    >>> sampler = PyGSampler.from_data(data, [10, 10], seed=7)
    >>> loader = NodeLoader(data, sampler, input_nodes=torch.tensor([0, 1]), batch_size=2)
    >>> [(batch.n_id.tolist(), tuple(batch.x.shape)) for batch in loader]
    [([0, 1, 2, 3], (4, 8))]
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.errors import InvalidArgumentError, require
from mbflow.graph.graph import Graph
from mbflow.graph.hetero import HeteroGraph
from mbflow.graph.hops import hetero_hops, hops
from mbflow.graph.interop import tensor
from mbflow.graph.sample import Relation
from mbflow.graph.sampler import NeighbourSampler
from mbflow.training import without_warnings

with without_warnings():  # of its own import
    require("torch_geometric.sampler", extra="pyg", purpose="PyG's loaders")
    from torch_geometric.data import Data, HeteroData
    from torch_geometric.sampler import BaseSampler, HeteroSamplerOutput, SamplerOutput
    from torch_geometric.sampler.neighbor_sampler import edge_sample, node_sample

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch_geometric.sampler import EdgeSamplerInput, NegativeSampling, NodeSamplerInput

    from mbflow.graph.sample import HeteroSample

__all__ = ["PyGSampler"]


class PyGSampler(BaseSampler):  # type: ignore[misc]
    """A sampler that PyG's `NodeLoader` and `LinkLoader` run on, also with worker processes.

    What is drawn follows from the sampler's seed, the epoch that `set_epoch` said, and the seeds of
    the batch: not from which worker draws it, nor from how many there are. So a loader that
    shuffles draws afresh in each epoch; one that gives the same batches again draws the same again,
    unless `set_epoch` says the next. With `persistent_workers` the workers keep the epoch that they
    were started with.

    Of a temporal sampler the loader says the seeds' times, `input_time` or `edge_label_time`; as in
    PyG, edges at that very time are taken, too, which `NeighbourSampler.sample` leaves out.

    Negative edges are drawn by PyG itself, by torch's generator, as with its own `NeighborSampler`.

    Args:
        sampler: A `NeighbourSampler` of a `Graph` or `HeteroGraph`, with `expand="new"`: PyG draws
            the edges of a node once. Where the graph has `rows` (`keep_rows=True`), PyG finds an
            edge's features in that row, and `e_id` is the row; else its position in the graph.

    Attributes:
        sampler: As given.
        epoch: Which epoch draws are of.

    Raises:
        InvalidArgumentError: It is no sampler, goes on from all nodes so far, or its method is
            "budget", whose samples count edges by weights that PyG's loaders drop.

    Example:
        >>> import torch
        >>> from mbflow.graph import Graph, NeighbourSampler
        >>> from mbflow.graph.pyg import PyGSampler
        >>> from torch_geometric.sampler import NodeSamplerInput
        >>> graph = Graph.from_edges([1, 2, 3], [0, 0, 1])
        >>> sampler = PyGSampler(NeighbourSampler(graph, [5, 5], expand="new"))
        >>> found = sampler.sample_from_nodes(NodeSamplerInput(None, torch.tensor([0])))
        >>> found.node.tolist(), found.num_sampled_nodes, found.num_sampled_edges
        ([0, 1, 2, 3], [1, 2, 1], [2, 1])

    Source:
        Fey and Lenssen, arXiv 1903.02428; the contract is that of `torch_geometric.sampler`.
    """

    def __init__(self, sampler: NeighbourSampler) -> None:
        if not isinstance(sampler, NeighbourSampler):
            raise InvalidArgumentError(
                f"sampler is a {type(sampler).__name__}; expected "
                'NeighbourSampler(graph, fanouts, expand="new"), or for PyG\'s own data '
                "PyGSampler.from_data(data, fanouts)"
            )
        if sampler.fingerprint()["expand"] != "new":
            raise InvalidArgumentError(
                "sampler goes on from all nodes so far; PyG draws the edges of a node once: make "
                'it with NeighbourSampler(..., expand="new")'
            )
        if sampler.fingerprint()["method"] == "budget":
            raise InvalidArgumentError(
                'method "budget" gives edges weights that make means unbiased, for which PyG\'s '
                "loaders have no place: hand its samples on with mbflow.graph.interop.to_pyg, "
                "which sets edge_weight, or take another method"
            )
        self.sampler = sampler
        self.epoch = 0
        graph = sampler.graph
        self._nodes: int | dict[str, int]
        self._relations: tuple[Relation, ...]
        self._rows: torch.Tensor | dict[Relation, torch.Tensor | None] | None
        if isinstance(graph, HeteroGraph):
            self._nodes, self._relations = dict(graph.nodes), tuple(graph.relations)
            self._rows = {relation: _rows(one) for relation, one in graph.relations.items()}
        else:
            self._nodes, self._relations = graph.nodes, ()
            self._rows = _rows(graph)

    @classmethod
    def from_data(
        cls,
        data: Any,
        fanouts: Any,
        *,
        weight_attr: str | None = None,
        time_attr: str | None = None,
        **options: Any,
    ) -> PyGSampler:
        """A sampler of the edges of PyG's data.

        Args:
            data: A `Data` or a `HeteroData` with `edge_index`.
            fanouts: Neighbours to draw in each hop, as `NeighbourSampler` takes them.
            weight_attr: Name of the edges' weights, for `method="weighted"`.
            time_attr: Name of the edges' times, integers, for a temporal sampler; relations that
                have none are always there.
            **options: Further arguments of `NeighbourSampler`, such as `method` (all but "budget")
                and `seed`.

        Returns:
            The sampler; edges are known by their column in `edge_index`.

        Raises:
            InvalidArgumentError: `data` is something else, or has no `edge_index`, no edges have
                the attribute that is named; as for the class and for `NeighbourSampler`.
            DataError: An id, weight or time cannot be used.
        """
        graph = _graph(data, {"weights": weight_attr, "times": time_attr})
        return cls(NeighbourSampler(graph, fanouts, expand="new", **options))

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next draws are of.

        Args:
            epoch: From 0.
        """
        self.epoch = epoch

    def sample_from_nodes(
        self, index: NodeSamplerInput, **_: Any
    ) -> SamplerOutput | HeteroSamplerOutput:
        """Sample the neighbourhood of nodes.

        Args:
            index: The seeds, as PyG's `NodeLoader` gives them.

        Returns:
            The sample in PyG's terms; a seed that is given twice stands twice, as in PyG.
        """
        return node_sample(index, self._sample)

    def sample_from_edges(
        self, index: EdgeSamplerInput, neg_sampling: NegativeSampling | None = None
    ) -> SamplerOutput | HeteroSamplerOutput:
        """Sample the neighbourhood of both ends of edges, and of negative edges.

        Args:
            index: The edges, as PyG's `LinkLoader` gives them.
            neg_sampling: Which negative edges to draw.

        Returns:
            The sample in PyG's terms.
        """
        return edge_sample(index, self._sample, self._nodes, self.disjoint, None, neg_sampling)

    @property
    def edge_permutation(self) -> Any:
        """Rows of the edge list that the graph's edges came from; None where it has none."""
        return self._rows

    @property
    def disjoint(self) -> bool:
        """Whether each seed's tree is kept apart."""
        return self.sampler.is_disjoint

    def _sample(self, seed: Any, seed_time: Any = None) -> SamplerOutput | HeteroSamplerOutput:
        is_hetero = isinstance(seed, dict)
        seeds = {kind: one.numpy() for kind, one in (seed if is_hetero else {"": seed}).items()}
        times: Any = None
        if seed_time is not None:
            given = seed_time if is_hetero else {"": seed_time}
            times = {kind: _later(one) for kind, one in given.items()}
        sample = self.sampler.sample(
            seeds if is_hetero else seeds[""],
            epoch=self.epoch,
            batch=_batch(seeds),
            times=times if is_hetero or times is None else times[""],
        )
        if is_hetero:
            return self._hetero(sample)
        found = hops(sample)
        return SamplerOutput(
            node=tensor(found.nodes),
            row=tensor(found.edge_index[0]),
            col=tensor(found.edge_index[1]),
            edge=tensor(found.edges),
            batch=None if found.trees is None else tensor(found.trees),
            num_sampled_nodes=found.node_counts,
            num_sampled_edges=found.edge_counts,
        )

    def _hetero(self, sample: HeteroSample) -> HeteroSamplerOutput:
        found = hetero_hops(sample, relations=self._relations)
        trees = found.trees
        return HeteroSamplerOutput(
            node={kind: tensor(one) for kind, one in found.nodes.items()},
            row={name: tensor(one[0]) for name, one in found.edge_index.items()},
            col={name: tensor(one[1]) for name, one in found.edge_index.items()},
            edge={name: tensor(one) for name, one in found.edges.items()},
            batch=None if trees is None else {kind: tensor(one) for kind, one in trees.items()},
            num_sampled_nodes=found.node_counts,
            num_sampled_edges=found.edge_counts,
        )


def _rows(graph: Graph) -> torch.Tensor | None:
    return None if graph.rows is None else tensor(graph.rows)


def _later(times: torch.Tensor) -> NDArray[np.int64]:
    """The moment after: PyG takes edges at the seed's time, `NeighbourSampler` those before it."""
    found = times.numpy().astype(np.int64)
    return found + (found < np.iinfo(np.int64).max)


def _batch(seeds: dict[str, NDArray[np.int64]]) -> int:
    """A number for a batch: PyG's loaders do not say which one a sampler is asked for."""
    digest = hashlib.blake2b(digest_size=8)
    for kind, ids in sorted(seeds.items()):
        digest.update(f"{kind}:{len(ids)}:".encode())
        digest.update(ids.astype("<i8").tobytes())
    return int.from_bytes(digest.digest(), "little") >> 1


def _graph(data: Any, names: dict[str, str | None]) -> Graph | HeteroGraph:
    if isinstance(data, Data):
        _check_names([data], names)
        return Graph.from_edges(
            *_ends(data, "data"), **_columns(data, names), nodes=data.num_nodes, keep_rows=True
        )
    if not isinstance(data, HeteroData):
        raise InvalidArgumentError(
            f"data is a {type(data).__name__}; expected a Data or a HeteroData of torch_geometric"
        )
    _check_names([store for _, store in data.edge_items()], names)
    return HeteroGraph(
        {
            relation: Graph.from_edges(
                *_ends(store, f"relation {'/'.join(relation)} of data"),
                **_columns(store, names),
                nodes=data[relation[2]].num_nodes,
                source_nodes=data[relation[0]].num_nodes,
                keep_rows=True,
            )
            for relation, store in data.edge_items()
        }
    )


def _ends(store: Any, name: str) -> NDArray[np.int64]:
    if "edge_index" not in store or store.edge_index is None:
        raise InvalidArgumentError(f"{name} has no edge_index; expected one")
    ends: NDArray[np.int64] = store.edge_index.cpu().numpy()
    return ends


def _check_names(stores: list[Any], names: dict[str, str | None]) -> None:
    """Refuse the name of an attribute that no edges have."""
    for key, name in names.items():
        if name is not None and not any(name in store for store in stores):
            known = sorted({str(attribute) for store in stores for attribute in store.keys()})  # noqa: SIM118
            raise InvalidArgumentError(
                f"{key[:-1]}_attr: no edges have {name!r}; there are {', '.join(known)}"
            )


def _columns(store: Any, names: dict[str, str | None]) -> dict[str, Any]:
    return {key: store[name].cpu().numpy() for key, name in names.items() if name in store}
