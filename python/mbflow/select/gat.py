"""The network: two layers of multi-head graph attention over a dense table of neighbours, in torch.

Each head of a layer is a task of its own, which runs on one thread; heads run beside each other and
are combined in head order. So the weights come out the same to the bit for any number of threads,
and the table layout (one row an instance, one slot a neighbour, slot 0 the instance itself) needs
no
scatter: gradients flow back along a transposed table that is built once.

Imports torch; the rest of `mbflow.select` imports this module only when attention is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mbflow import _native

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Network", "Subgraph", "Table", "build_table", "dense_table", "renumbered"]

_STREAM_WEIGHTS = 0x5E1_00004
_STREAM_DROPOUT = 0x5E1_00010  # and the next three
_SLOPE = 0.2  # of the leaky ReLU on attention logits, as in the source
_BLOCK = 4096  # rows whose gathered neighbours are held at once

HeadMap = Callable[..., list[Any]]


@dataclass(frozen=True)
class Table:
    """Neighbours as a table, and the same edges sorted by their source.

    Attributes:
        sources: int32 of shape (targets, slots): row numbers in the source matrix; slot 0 is the
            target itself, unused slots repeat it.
        unused: bool of the same shape, or None where all slots are used.
        order: int32 of shape (targets * slots,): slots sorted by source.
        targets: int32 of the same shape: the target of each slot in that order.
        starts: int32 of shape (source rows + 1,): where in `order` each source begins.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.gat import build_table
        >>> table = build_table(np.array([[0, 1], [1, 0]], np.int32), None, 2)
        >>> table.targets.tolist(), table.source_rows
        ([0, 1, 0, 1], 2)
    """

    sources: torch.Tensor
    unused: torch.Tensor | None
    order: torch.Tensor
    targets: torch.Tensor
    starts: torch.Tensor

    @property
    def source_rows(self) -> int:
        """Rows of the source matrix."""
        return len(self.starts) - 1


def dense_table(
    offsets: NDArray[np.int64], neighbours: NDArray[np.int32], rows: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int32], NDArray[np.bool_] | None]:
    """Neighbours of all or of some rows as a table with the row itself in slot 0.

    Returns:
        int32 of shape (rows, 1 + the largest degree) and which slots are unused, None if none is.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.gat import dense_table
        >>> dense_table(np.array([0, 1, 2]), np.array([1, 0], np.int32))
        (array([[0, 1],
               [1, 0]], dtype=int32), None)
    """
    chosen = np.arange(len(offsets) - 1) if rows is None else rows
    degrees = np.diff(offsets)[chosen]
    width = int(degrees.max(initial=0))
    table = np.repeat(chosen.astype(np.int32)[:, None], width + 1, axis=1)
    used = np.arange(width) < degrees[:, None]
    edges = offsets[chosen][:, None] + np.arange(width)
    table[:, 1:][used] = neighbours[edges[used]]
    if used.all():
        return table, None
    unused = np.zeros(table.shape, dtype=np.bool_)
    unused[:, 1:] = ~used
    return table, unused


def build_table(
    sources: NDArray[np.int32], unused: NDArray[np.bool_] | None, source_rows: int
) -> Table:
    """The table with its transposed order.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.gat import build_table
        >>> build_table(np.array([[0, 1], [1, 0]], np.int32), None, 2).order.tolist()
        [0, 3, 1, 2]
    """
    flat = torch.from_numpy(np.ascontiguousarray(sources)).view(-1)
    starts = np.zeros(source_rows + 1, dtype=np.int32)
    np.cumsum(np.bincount(flat.numpy(), minlength=source_rows), out=starts[1:])
    order = torch.argsort(flat, stable=True).to(torch.int32)
    return Table(
        sources=flat.view(sources.shape),
        unused=None if unused is None else torch.from_numpy(unused),
        order=order,
        targets=order.div(sources.shape[1], rounding_mode="floor"),
        starts=torch.from_numpy(starts),
    )


@dataclass(frozen=True)
class Subgraph:
    """What two layers need to classify some rows.

    Attributes:
        inputs: Rows of the feature matrix that the first layer reads, ascending.
        first: Table of the first layer, over `inputs`.
        second: Table of the second layer, over the rows that the first gives.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.gat import Subgraph
        >>> offsets, neighbours = np.array([0, 1, 2, 3]), np.array([1, 0, 0], np.int32)
        >>> Subgraph.around(offsets, neighbours, np.array([1])).inputs
        array([0, 1])
    """

    inputs: NDArray[np.int64]
    first: Table
    second: Table

    @classmethod
    def around(
        cls, offsets: NDArray[np.int64], neighbours: NDArray[np.int32], rows: NDArray[np.int64]
    ) -> Subgraph:
        """The part of the graph within two steps of `rows`."""
        count = len(offsets) - 1
        second, second_unused = dense_table(offsets, neighbours, rows)
        middle, second_local = renumbered(second, count)
        first, first_unused = dense_table(offsets, neighbours, middle)
        inputs, first_local = renumbered(first, count)
        return cls(
            inputs,
            build_table(first_local, first_unused, len(inputs)),
            build_table(second_local, second_unused, len(middle)),
        )


def renumbered(table: NDArray[np.int32], count: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The rows that a table names, ascending, and the table in terms of their positions.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.gat import renumbered
        >>> renumbered(np.array([[5, 2]], np.int32), 6)
        (array([2, 5]), array([[1, 0]], dtype=int32))
    """
    named = np.zeros(count, dtype=np.bool_)
    named[table] = True
    rows = np.flatnonzero(named)
    position = np.empty(count, dtype=np.int32)
    position[rows] = np.arange(len(rows), dtype=np.int32)
    return rows, position[table]


class _Attend(torch.autograd.Function):
    """One head: softmax over the slots of each target, then the weighted sum of source values.

    Written out, with its gradient, because the fused sum over a table (`embedding_bag`) and the
    transposed order are many times faster here than gather and scatter.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: torch.Tensor,
        source_logits: torch.Tensor,
        target_logits: torch.Tensor,
        table: Table,
        keep: torch.Tensor | None,
    ) -> torch.Tensor:
        coefficients, logits = _coefficients(source_logits, target_logits, table)
        used = coefficients if keep is None else coefficients * keep
        ctx.table = table
        ctx.save_for_backward(values, coefficients, logits, keep)
        return _weighted_sum(table.sources, values, used)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        values, coefficients, logits, keep = ctx.saved_tensors
        table: Table = ctx.table
        grad = grads[0].contiguous()
        used = coefficients if keep is None else coefficients * keep
        inner = _products(grad, values, table.sources)
        if keep is not None:
            inner *= keep
        inner -= (inner * coefficients).sum(dim=1, keepdim=True)
        inner *= coefficients
        inner = torch.ops.aten.leaky_relu_backward(inner, logits, _SLOPE, False)  # noqa: FBT003
        d_values = torch.nn.functional.embedding_bag(
            table.targets,
            grad,
            table.starts[:-1],
            mode="sum",
            per_sample_weights=used.view(-1).index_select(0, table.order),
        )
        d_source = torch.bincount(
            table.sources.view(-1), weights=inner.view(-1), minlength=table.source_rows
        ).to(torch.float32)
        d_target = torch.zeros(table.source_rows)
        d_target[table.sources[:, 0].long()] = inner.sum(dim=1)
        return d_values, d_source, d_target, None, None


def _coefficients(
    source_logits: torch.Tensor, target_logits: torch.Tensor, table: Table
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax over each target's slots, and the logits before the leaky ReLU."""
    logits = source_logits.index_select(0, table.sources.view(-1)).view(table.sources.shape)
    logits += target_logits.index_select(0, table.sources[:, 0]).unsqueeze(1)
    rectified = torch.nn.functional.leaky_relu(logits, _SLOPE)
    if table.unused is not None:
        rectified.masked_fill_(table.unused, -torch.inf)
    return torch.softmax(rectified, dim=1), logits


def _weighted_sum(
    sources: torch.Tensor, values: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    return torch.nn.functional.embedding_bag(
        sources, values, mode="sum", per_sample_weights=weights
    )


def _products(grad: torch.Tensor, values: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
    """The product of each target's gradient with each of its sources' values, (targets, slots)."""
    targets, slots = sources.shape
    result = torch.empty(targets, slots, 1)
    for start in range(0, targets, _BLOCK):
        part = sources[start : start + _BLOCK].reshape(-1)
        gathered = values.index_select(0, part).view(-1, slots, values.shape[1])
        torch.bmm(
            gathered, grad[start : start + _BLOCK].unsqueeze(2), out=result[start : start + _BLOCK]
        )
    return result.squeeze(2)


class _Layer:
    """The weights of one layer: for each head a projection and two vectors for the logits."""

    def __init__(self, width: int, heads: int, out: int, generator: torch.Generator) -> None:
        def glorot(*shape: int) -> torch.Tensor:
            limit = (6.0 / (shape[0] + shape[-1])) ** 0.5
            drawn: torch.Tensor = torch.rand(shape, generator=generator) * (2 * limit) - limit
            drawn.requires_grad_()
            return drawn

        self.heads = [
            (
                glorot(width, out),
                glorot(out, 1),
                glorot(out, 1),
                torch.zeros(out, requires_grad=True),
            )
            for _ in range(heads)
        ]


Head = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _head(
    inputs: torch.Tensor, head: Head, table: Table, keep: torch.Tensor | None = None
) -> torch.Tensor:
    weight, source_vector, target_vector, bias = head
    values = inputs @ weight
    summed: torch.Tensor = _Attend.apply(
        values, (values @ source_vector).view(-1), (values @ target_vector).view(-1), table, keep
    )
    return summed + bias


# torch keeps "no gradients" per thread, so each task sets it for its own.
def _infer(inputs: torch.Tensor, head: Head, table: Table) -> torch.Tensor:
    with torch.no_grad():
        return _head(inputs, head, table)


def _infer_coefficients(inputs: torch.Tensor, head: Head, table: Table) -> torch.Tensor:
    weight, source_vector, target_vector, _ = head
    with torch.no_grad():
        values = inputs @ weight
        source_logits = (values @ source_vector).view(-1)
        return _coefficients(source_logits, (values @ target_vector).view(-1), table)[0]


def _drop(values: torch.Tensor, share: float, key: int) -> torch.Tensor:
    return values if share == 0.0 else values * _keep_mask(tuple(values.shape), share, key)


def _keep_mask(shape: tuple[int, ...], share: float, key: int) -> torch.Tensor:
    """0 for the share that is dropped, to the nearest 1/256, and a factor that keeps the mean else.

    One random byte a value: drawing whole floats would take longer than the layer itself.
    """
    limit = min(255, round(share * 256))
    count = int(np.prod(shape))
    drawn = np.frombuffer(np.random.Generator(np.random.SFC64(key)).bytes(count), dtype=np.uint8)
    keep = (drawn >= limit).astype(np.float32)
    keep *= 256 / (256 - limit)
    return torch.from_numpy(keep).view(shape)


def _mean(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total / len(parts)


class Network:
    """Features -> heads x hidden, joined, ELU -> classes, heads averaged.

    Args:
        width: Feature columns.
        classes: Classes.
        heads: Heads of each layer.
        hidden: Width of each head of the first layer.
        feature_dropout: Share of the values set to zero before each layer while training.
        attention_dropout: Share of the coefficients set to zero while training.
        seed: Key of the first weights and of dropout.
        run: A `map` that returns results in order (see `mbflow.training.ordered_tasks`).

    Example:
        >>> from mbflow.select.gat import Network
        >>> from mbflow.training import ordered_tasks
        >>> with ordered_tasks(1) as run:
        ...     network = Network(
        ...         3,
        ...         2,
        ...         heads=2,
        ...         hidden=8,
        ...         feature_dropout=0.0,
        ...         attention_dropout=0.0,
        ...         seed=0,
        ...         run=run,
        ...     )
        >>> sum(weight.numel() for weight in network.weights)
        172
    """

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        heads: int,
        hidden: int,
        feature_dropout: float,
        attention_dropout: float,
        seed: int,
        run: HeadMap,
    ) -> None:
        key = int(_native.random_u64(seed, _STREAM_WEIGHTS, 0, 1)[0])
        generator = torch.Generator().manual_seed(key >> 1)
        self._first = _Layer(width, heads, hidden, generator)
        self._second = _Layer(heads * hidden, heads, classes, generator)
        self._feature_dropout = feature_dropout
        self._attention_dropout = attention_dropout
        self._seed = seed
        self._run = run
        self._hidden = hidden

    @property
    def weights(self) -> list[torch.Tensor]:
        """All weights, in a fixed order."""
        return [
            weight
            for layer in (self._first, self._second)
            for head in layer.heads
            for weight in head
        ]

    def middle(self, inputs: torch.Tensor, table: Table) -> torch.Tensor:
        """What the first layer gives, without dropout: (targets, heads * hidden)."""
        parts = self._run(_infer, *self._arguments(inputs, self._first, table))
        return torch.nn.functional.elu(torch.cat(parts, dim=1))

    def logits(self, features: torch.Tensor, graph: Subgraph) -> torch.Tensor:
        """Class logits of the rows of the second table, without dropout: (targets, classes)."""
        middle = self.middle(features.index_select(0, torch.from_numpy(graph.inputs)), graph.first)
        return _mean(self._run(_infer, *self._arguments(middle, self._second, graph.second)))

    def coefficients(self, middle: torch.Tensor, table: Table) -> torch.Tensor:
        """Attention coefficients of the second layer, heads averaged: (targets, slots)."""
        return _mean(self._run(_infer_coefficients, *self._arguments(middle, self._second, table)))

    def step(
        self,
        features: torch.Tensor,
        graph: Subgraph,
        loss: Callable[[torch.Tensor], torch.Tensor],
        *,
        epoch: int,
    ) -> float:
        """The training loss, with dropout; leaves its gradients in the weights."""
        share = self._feature_dropout
        inputs = features.index_select(0, torch.from_numpy(graph.inputs))
        dropped = _drop(inputs, share, self._keys(epoch, 0)[0])
        hidden = self._run(
            _head,
            *self._arguments(dropped, self._first, graph.first),
            self._masks(graph.first, self._keys(epoch, 1)),
        )
        # The chain is cut at the joints between layers, so that each head's part of the backward
        # pass, too, is a task on its own thread.
        joined = torch.cat([part.detach() for part in hidden], dim=1).requires_grad_()
        middle = _drop(torch.nn.functional.elu(joined), share, self._keys(epoch, 2)[0])
        cut = middle.detach().requires_grad_()
        outputs = self._run(
            _head,
            *self._arguments(cut, self._second, graph.second),
            self._masks(graph.second, self._keys(epoch, 3)),
        )
        mean = _mean([part.detach() for part in outputs]).requires_grad_()
        value = loss(mean)
        (d_mean,) = torch.autograd.grad(value, mean)
        heads = len(outputs)

        def backward_second(output: torch.Tensor, head: Head) -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad(output, (*head, cut), d_mean / heads)

        grads = self._run(backward_second, outputs, self._second.heads)
        d_cut = grads[0][-1]
        for parts in grads[1:]:
            d_cut = d_cut + parts[-1]
        (d_joined,) = torch.autograd.grad(middle, joined, d_cut)

        def backward_first(
            output: torch.Tensor, head: Head, grad: torch.Tensor
        ) -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad(output, head, grad)

        first = self._run(
            backward_first, hidden, self._first.heads, torch.split(d_joined, self._hidden, dim=1)
        )
        flat = [grad for parts in first for grad in parts]
        flat += [grad for parts in grads for grad in parts[:-1]]
        for weight, grad in zip(self.weights, flat, strict=True):
            weight.grad = grad
        return float(value.detach())

    def _arguments(self, inputs: torch.Tensor, layer: _Layer, table: Table) -> tuple[Any, ...]:
        count = len(layer.heads)
        return [inputs] * count, layer.heads, [table] * count

    def _keys(self, epoch: int, place: int) -> list[int]:
        """One key a head for one use of dropout."""
        heads = len(self._first.heads)
        drawn = _native.random_u64(self._seed, _STREAM_DROPOUT + place, epoch * heads, heads)
        return [int(key) for key in drawn]

    def _masks(self, table: Table, keys: Sequence[int]) -> list[torch.Tensor | None]:
        if self._attention_dropout == 0.0:
            return [None] * len(keys)
        shape = tuple(table.sources.shape)
        return self._run(lambda key: _keep_mask(shape, self._attention_dropout, key), keys)
