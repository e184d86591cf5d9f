"""Inference over all neighbours of all nodes: layer by layer, in chunks of nodes.

A network of `L` layers over sampled neighbourhoods computes a node anew for every seed that it is
near. Layer by layer, each node is computed once. In memory are what one layer takes and gives of
all nodes, and a chunk of the edges.

Imports torch; `mbflow.graph` imports this module only where it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mbflow.errors import InvalidArgumentError
from mbflow.graph.layers import in_degrees, tensor_layer
from mbflow.graph.sample import Layer
from mbflow.graph.training_data import check_features, check_network, refuse_not_finite
from mbflow.training import ordered_tasks, single_threaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from mbflow.graph.graph import Graph
    from mbflow.graph.models import GraphNetwork

__all__ = ["Inference", "infer"]

_CHUNK_NODES = 16_384
_CHUNK_EDGES = 1 << 20


@dataclass(frozen=True, eq=False)
class Inference:
    """What a network says of every node.

    Attributes:
        logits: float32 of shape (nodes, classes).
        embeddings: float32 of shape (nodes, width of the last hidden layer), where asked for.

    Example:
        >>> import torch
        >>> from mbflow.graph.inference import Inference
        >>> Inference(torch.zeros(1, 2)).embeddings is None
        True
    """

    logits: torch.Tensor
    embeddings: torch.Tensor | None = None

    def probabilities(self) -> torch.Tensor:
        """Of each class: float32 of shape (nodes, classes)."""
        return torch.softmax(self.logits, dim=1)


def infer(
    model: GraphNetwork,
    graph: Graph,
    *,
    features: NDArray[Any],
    chunk_nodes: int = _CHUNK_NODES,
    chunk_edges: int = _CHUNK_EDGES,
    embeddings: bool = False,
    threads: int = 1,
    on_progress: Callable[[int, int], object] | None = None,
) -> Inference:
    """Class logits of all nodes from all their neighbours, as one pass over the whole graph gives.

    All edges count alike: weights and times of the graph's edges do not enter.

    Args:
        model: The network; it is used without dropout, on the device where it is.
        graph: The graph.
        features: Of shape (nodes, columns), also memory-mapped: read in chunks, in order.
        chunk_nodes: The most nodes of a chunk.
        chunk_edges: Edges of a chunk, above which it ends; a node's edges stay together.
        embeddings: Whether to give what the last convolution takes, too.
        threads: Chunks at a time, each on one thread; the numbers do not depend on it.
        on_progress: Called with (nodes done, nodes) over all layers.

    Returns:
        Logits, on the CPU.

    Raises:
        InvalidArgumentError: Numbers out of range, a graph between two kinds of nodes, no graph
            network, or features that are no matrix of numbers.
        DataError: The features do not have a row for each node, not the network's columns, or hold
            what is NaN or infinite.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph import Graph
        >>> from mbflow.graph.inference import infer
        >>> from mbflow.graph.models import GCN
        >>> graph = Graph(np.array([0, 1, 1], np.uint64), np.array([1], np.uint32), 2)
        >>> infer(GCN(3, 2), graph, features=np.eye(2, 3)).logits.shape
        torch.Size([2, 2])
    """
    check_network(model)
    for name, value in (("chunk_nodes", chunk_nodes), ("chunk_edges", chunk_edges)):
        if value < 1:
            raise InvalidArgumentError(f"{name} must be at least 1, found {value}")
    if graph.source_nodes != graph.nodes:
        raise InvalidArgumentError(
            f"the edges lead from {graph.source_nodes} nodes to {graph.nodes} others; a network "
            "needs a graph of one kind of nodes"
        )
    features = check_features(model, graph, features)
    was_training = model.training
    model.eval()
    try:
        with single_threaded(), ordered_tasks(threads) as run:
            pass_over = _Pass(model, graph, chunk_nodes, chunk_edges, run, on_progress)
            return pass_over.over(features, embeddings=embeddings)
    finally:
        model.train(was_training)


class _Pass:
    def __init__(
        self,
        model: GraphNetwork,
        graph: Graph,
        chunk_nodes: int,
        chunk_edges: int,
        run: Any,
        on_progress: Callable[[int, int], object] | None,
    ) -> None:
        self._model = model
        self._graph = graph
        self._chunks = list(_chunks(graph.offsets, chunk_nodes, chunk_edges))
        self._run = run
        self._report = on_progress
        self._device = next(model.parameters()).device
        self._degrees = in_degrees(graph).to(self._device)
        self._done = 0

    def over(self, features: NDArray[Any], *, embeddings: bool) -> Inference:
        def read(chunk: slice) -> torch.Tensor:
            part = np.ascontiguousarray(features[chunk], dtype=np.float32)
            # Memory-mapped features are read-only, which torch does not take.
            own = part if part.flags.writeable else part.copy()
            return torch.from_numpy(own).to(self._device)

        def looked_at(chunk: slice) -> torch.Tensor:
            part = read(chunk)
            refuse_not_finite(part.cpu().numpy(), np.arange(chunk.start, chunk.stop))
            return part

        rows: Callable[[slice], torch.Tensor] = read
        last = None
        for number, (convolution, then) in enumerate(self._model.stages()):
            if embeddings and number == self._model.depth - 1:
                last = self._filled(rows)
            # Features are read twice, and looked at once.
            x = self._convolved(convolution, then, rows, looked_at if number == 0 else rows)
            rows = x.__getitem__
        return Inference(x.cpu(), None if last is None else last.cpu())

    def _convolved(
        self,
        convolution: Any,
        then: Callable[[torch.Tensor], torch.Tensor],
        rows: Callable[[slice], torch.Tensor],
        first_rows: Callable[[slice], torch.Tensor],
    ) -> torch.Tensor:
        given = self._filled(
            lambda chunk: convolution.given(first_rows(chunk), self._degrees[chunk])
        )

        def combined(chunk: slice) -> torch.Tensor:
            low, high = int(self._graph.offsets[chunk.start]), int(self._graph.offsets[chunk.stop])
            offsets = self._graph.offsets[chunk.start : chunk.stop + 1].astype(np.int64) - low
            sources = self._graph.sources[low:high]
            layer = tensor_layer(
                Layer(offsets, sources, sources, chunk.start), self._degrees, device=self._device
            )
            found: torch.Tensor = then(convolution.combined(layer, given, rows(chunk)))
            return found

        return self._filled(combined, progress=True)

    def _filled(
        self, function: Callable[[slice], torch.Tensor], *, progress: bool = False
    ) -> torch.Tensor:
        """The function over all chunks, as tasks, each into its place of one tensor."""
        result: list[torch.Tensor] = []

        def place(chunk: slice) -> None:
            with torch.no_grad():  # kept per thread, so each task sets it for its own
                part = function(chunk)
            if not result:
                result.append(part.new_empty(self._graph.nodes, part.shape[1]))
            result[0][chunk] = part

        # The first alone: it says how wide the result is.
        first, rest = self._chunks[:1], self._chunks[1:]
        for wave in [first, *(rest[i : i + 64] for i in range(0, len(rest), 64))]:
            self._run(place, wave)
            self._done += progress * sum(chunk.stop - chunk.start for chunk in wave)
            if progress and self._report is not None:
                self._report(self._done, self._graph.nodes * self._model.depth)
        return result[0]


def _chunks(offsets: NDArray[Any], most_nodes: int, most_edges: int) -> Iterator[slice]:
    """Ranges of nodes with so many nodes and edges at most, but for a single node with more."""
    nodes = len(offsets) - 1
    start = 0
    while start < nodes:
        limit = int(offsets[start]) + most_edges
        stop = int(np.searchsorted(offsets, np.uint64(limit), side="right")) - 1
        stop = min(max(stop, start + 1), start + most_nodes, nodes)
        yield slice(start, stop)
        start = stop
    if nodes == 0:
        yield slice(0, 0)
