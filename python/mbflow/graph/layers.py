"""Sampled layers and whole graphs as torch tensors, and the sum over the neighbours of each node.

The sum is one call of torch's embedding bag: it reads the rows of the sources where they lie and
makes no copy of the size of the edges. Its gradient is the same sum over the transposed layer, so
that both add up in a fixed order, whatever the number of threads.

Imports torch; `mbflow.graph` imports this module only where it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mbflow.errors import InvalidArgumentError
from mbflow.graph.sample import Layer, Sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mbflow.graph.graph import Graph

__all__ = ["TensorLayer", "in_degrees", "neighbour_sum", "tensor_layers", "whole_sample"]

_INT32 = 2**31 - 1


@dataclass(frozen=True, eq=False)
class TensorLayer:
    """The edges of one hop as tensors: a ragged array over its targets.

    Target `t` is row `first + t` of the features that the layer is used with. The edges that lead
    to it come from the rows `sources[offsets[t]:offsets[t + 1]]`.

    Attributes:
        offsets: int32 or int64 of shape (targets + 1,).
        sources: The same dtype, of shape (edges,).
        degrees: float32 of shape (rows,): how many edges lead to each node in the whole graph, of
            which a sample may hold fewer.
        weights: float32 of shape (edges,), what each edge counts for in a mean; None for 1.
        first: Row of the first target.

    Example:
        >>> import torch
        >>> from mbflow.graph.layers import TensorLayer
        >>> offsets, sources = torch.tensor([0, 2, 2]), torch.tensor([0, 2])
        >>> layer = TensorLayer(offsets, sources, torch.tensor([2.0, 0.0, 1.0]))
        >>> layer.targets, layer.counts.tolist()
        (2, [2.0, 0.0])
    """

    offsets: torch.Tensor
    sources: torch.Tensor
    degrees: torch.Tensor
    weights: torch.Tensor | None = None
    first: int = 0
    _made: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def targets(self) -> int:
        """The number of targets."""
        return len(self.offsets) - 1

    @property
    def rows(self) -> slice:
        """The rows of the targets."""
        return slice(self.first, self.first + self.targets)

    @property
    def counts(self) -> torch.Tensor:
        """The edges of each target, or their weights added up: float32 of shape (targets,)."""
        if "counts" not in self._made:
            if self.weights is None:
                counts = self.offsets.diff().to(torch.float32)
            else:
                ones = torch.ones(int(self.degrees.shape[0]), 1, device=self.offsets.device)
                counts = _bag(self.offsets, self.sources, self.weights, ones)[:, 0]
            self._made["counts"] = counts
        counts_made: torch.Tensor = self._made["counts"]
        return counts_made

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What is made of the edges once, and kept for as long as the layer lives."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def transposed(self, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Offsets over so many rows, the target of each edge, and the weights, by source."""
        if self._made.get("rows") != rows:
            kind = self.offsets.dtype
            order = torch.argsort(self.sources, stable=True)
            offsets = torch.zeros(rows + 1, dtype=kind, device=self.offsets.device)
            offsets[1:] = torch.bincount(self.sources, minlength=rows).cumsum(0)
            numbers = torch.arange(self.targets, dtype=kind, device=self.offsets.device)
            targets = torch.repeat_interleave(numbers, self.offsets.diff())[order]
            weights = None if self.weights is None else self.weights[order]
            self._made.update(rows=rows, transposed=(offsets, targets, weights))
        made: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] = self._made["transposed"]
        return made


def _bag(
    offsets: torch.Tensor,
    sources: torch.Tensor,
    weights: torch.Tensor | None,
    values: torch.Tensor,
) -> torch.Tensor:
    if len(sources) == 0 or len(values) == 0:
        return values.new_zeros(len(offsets) - 1, values.shape[1])
    return torch.nn.functional.embedding_bag(
        sources,
        values.contiguous(),
        offsets,
        mode="sum",
        per_sample_weights=None if weights is None else weights.to(values.dtype),
        include_last_offset=True,
    )


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, layer: TensorLayer) -> torch.Tensor:
        ctx.layer, ctx.rows = layer, len(values)
        return _bag(layer.offsets, layer.sources, layer.weights, values)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        offsets, targets, weights = ctx.layer.transposed(ctx.rows)
        return _bag(offsets, targets, weights, gradient), None


def neighbour_sum(layer: TensorLayer, values: torch.Tensor) -> torch.Tensor:
    """The rows of the sources of each target, added up with the weights of the edges.

    Args:
        layer: The edges.
        values: float32 or float64 of shape (rows, columns).

    Returns:
        Of shape (targets, columns); zeros for a target without edges. Differentiable once.

    Example:
        >>> import torch
        >>> from mbflow.graph.layers import TensorLayer, neighbour_sum
        >>> offsets, sources = torch.tensor([0, 2, 2]), torch.tensor([0, 2])
        >>> layer = TensorLayer(offsets, sources, torch.tensor([2.0, 0.0, 1.0]))
        >>> neighbour_sum(layer, torch.tensor([[1.0], [2.0], [4.0]])).tolist()
        [[5.0], [0.0]]
    """
    found: torch.Tensor = _Sum.apply(values, layer)
    return found


def in_degrees(graph: Graph) -> torch.Tensor:
    """How many edges lead to each node.

    Args:
        graph: The graph.

    Returns:
        float32 of shape (nodes,).

    Example:
        >>> import numpy as np
        >>> from mbflow.graph import Graph
        >>> from mbflow.graph.layers import in_degrees
        >>> offsets, sources = np.array([0, 2, 2], np.uint64), np.array([0, 1], np.uint32)
        >>> in_degrees(Graph(offsets, sources, 2)).tolist()
        [2.0, 0.0]
    """
    return torch.from_numpy(np.diff(graph.offsets).astype(np.float32))


def tensor_layers(
    sample: Sample, degrees: torch.Tensor, *, device: torch.device | str = "cpu"
) -> tuple[TensorLayer, ...]:
    """The layers of a sample as tensors, from the seeds outward.

    Args:
        sample: A sample whose layers each go on from all nodes so far.
        degrees: float32 of shape (nodes of the graph,), as `in_degrees` gives it.
        device: Where the tensors are to be.

    Returns:
        A layer for each layer of the sample. One array that stands for several of them, as in
        `whole_sample`, becomes one layer.

    Raises:
        InvalidArgumentError: The targets of a layer are only the nodes found last.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph import Graph
        >>> from mbflow.graph.layers import in_degrees, tensor_layers, whole_sample
        >>> offsets, sources = np.array([0, 2, 2], np.uint64), np.array([0, 1], np.uint32)
        >>> graph = Graph(offsets, sources, 2)
        >>> sample = whole_sample(graph, [0], layers=2)
        >>> [layer.targets for layer in tensor_layers(sample, in_degrees(graph))]
        [2, 2]
    """
    made: dict[int, TensorLayer] = {}
    for number, layer in enumerate(sample.layers):
        if layer.first:
            raise InvalidArgumentError(
                f"layer {number} of the sample leads to the nodes found last alone; a network "
                'needs layers that lead to all nodes so far: sample with expand="all"'
            )
    own = degrees[torch.from_numpy(_int64(sample.nodes))].to(device)
    for layer in sample.layers:
        if id(layer) not in made:
            made[id(layer)] = tensor_layer(layer, own, device=device)
    return tuple(made[id(layer)] for layer in sample.layers)


def tensor_layer(
    layer: Layer, degrees: torch.Tensor, *, device: torch.device | str = "cpu"
) -> TensorLayer:
    """One layer as tensors; `degrees` are those of its rows."""
    # The narrow type halves what the sum has to read besides the values.
    small = max(len(layer.sources), len(degrees)) <= _INT32
    kind = np.int32 if small else np.int64
    weights = None
    if layer.weights is not None:
        weights = torch.from_numpy(np.array(layer.weights, dtype=np.float32)).to(device)
    return TensorLayer(
        torch.from_numpy(np.array(layer.offsets).astype(kind)).to(device),
        torch.from_numpy(np.array(layer.sources).astype(kind)).to(device),
        degrees,
        weights,
        layer.first,
    )


def _int64(values: NDArray[Any]) -> NDArray[np.int64]:
    # Memory-mapped arrays are read-only, which torch does not take.
    return np.array(values, dtype=np.int64)


def whole_sample(graph: Graph, seeds: Any, *, layers: int) -> Sample:
    """The whole graph in the form of a sample: every layer has all nodes and all edges.

    Args:
        graph: The graph.
        seeds: Node ids.
        layers: How many layers.

    Returns:
        The sample; `nodes` are all nodes in order, and `seeds` as given.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph import Graph
        >>> from mbflow.graph.layers import whole_sample
        >>> offsets, sources = np.array([0, 2, 2], np.uint64), np.array([0, 1], np.uint32)
        >>> whole_sample(Graph(offsets, sources, 2), [1], layers=2).sizes
        (2, 2, 2)
    """
    one = Layer(graph.offsets.astype(np.int64), graph.sources, np.arange(graph.edges))
    nodes = np.arange(graph.nodes, dtype=np.int64)
    sizes = (graph.nodes,) * (layers + 1)
    return Sample(nodes, (one,) * layers, sizes, np.asarray(seeds, dtype=np.int64))
