"""The network: two layers of multi-head graph attention over a table of neighbours, in torch.

While training on the CPU a layer is one pass of the kernels of `mbflow.edge_attention`, all heads
at once. Without gradients, blocks of rows are tasks, each on one thread. So the numbers come out
the same to the bit for any number of threads. On any other device a layer is written in plain
operations.

Imports torch; the rest of `mbflow.select` imports this module only when attention is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mbflow import _native
from mbflow.edge_attention import attend
from mbflow.training import keep_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mbflow.select.subgraph import Subgraph, Table

__all__ = ["Network", "head_coefficients"]

_STREAM_WEIGHTS = 0x5E1_00004
_STREAM_DROPOUT = 0x5E1_00010
_SLOPE = 0.2  # of the leaky ReLU on attention logits, as in the source
_PLACES = 4  # of dropout in a step: before and inside each layer
_DRAWN_STEPS = 64  # whose keys of dropout are drawn at once
_BLOCK = 4096  # rows whose gathered neighbours are held at once
_BLOCK_VALUES = 4_194_304  # features held at once where all rows are projected

HeadMap = Callable[..., list[Any]]
Head = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _attend_plain(
    values: torch.Tensor,
    source_logits: torch.Tensor,
    target_logits: torch.Tensor,
    table: Table,
    keep: torch.Tensor | None,
) -> torch.Tensor:
    """One head on any device: softmax over the slots of each target, then the weighted sum."""
    coefficients, _ = _coefficients(source_logits, target_logits, table.sources, table.unused)
    used = coefficients if keep is None else coefficients * keep
    gathered = values.index_select(0, table.sources.view(-1)).view(*used.shape, values.shape[1])
    return torch.einsum("ts,tsd->td", used, gathered)


def _coefficients(
    source_logits: torch.Tensor,
    target_logits: torch.Tensor,
    sources: torch.Tensor,
    unused: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax over each target's slots, and the logits before the leaky ReLU."""
    logits = source_logits.index_select(0, sources.reshape(-1)).view(sources.shape)
    logits = logits + target_logits.index_select(0, sources[:, 0]).unsqueeze(1)
    rectified = torch.nn.functional.leaky_relu(logits, _SLOPE)
    if unused is not None:
        rectified = rectified.masked_fill(unused, -torch.inf)
    return torch.softmax(rectified, dim=1), logits


def _weighted_sum(
    sources: torch.Tensor, values: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    return torch.nn.functional.embedding_bag(
        sources, values, mode="sum", per_sample_weights=weights
    )


class _Layer:
    """The weights of one layer: for each head a projection and two vectors for the logits."""

    def __init__(
        self, width: int, heads: int, out: int, generator: torch.Generator, device: torch.device
    ) -> None:
        def glorot(*shape: int) -> torch.Tensor:
            limit = (6.0 / (shape[0] + shape[-1])) ** 0.5
            drawn: torch.Tensor = torch.rand(shape, generator=generator) * (2 * limit) - limit
            return drawn.to(device).requires_grad_()

        self.heads = [
            (
                glorot(width, out),
                glorot(out, 1),
                glorot(out, 1),
                torch.zeros(out, device=device, requires_grad=True),
            )
            for _ in range(heads)
        ]

    def joined(self) -> torch.Tensor:
        """The projections of all heads side by side: (width, heads * out)."""
        return torch.cat([head[0].detach() for head in self.heads], dim=1)

    def logit_vectors(self, place: int) -> torch.Tensor:
        """For each head the vector that a row's input is multiplied with: (width, heads)."""
        return torch.cat([(head[0] @ head[place]).detach() for head in self.heads], dim=1)


def _plain_head(
    inputs: torch.Tensor, head: Head, table: Table, keep: torch.Tensor | None
) -> torch.Tensor:
    weight, source_vector, target_vector, bias = head
    values = inputs @ weight
    source, target = (values @ vector for vector in (source_vector, target_vector))
    return _attend_plain(values, source.view(-1), target.view(-1), table, keep) + bias


def _drop(values: torch.Tensor, share: float, key: int) -> torch.Tensor:
    if share == 0.0:
        return values
    return values * keep_mask(tuple(values.shape), share, key).to(values.device)


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
        device: Where the weights and the work are.
        plain: Use the plain operations, as on every device but the CPU.

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
        device: str = "cpu",
        plain: bool = False,
    ) -> None:
        key = int(_native.random_u64(seed, _STREAM_WEIGHTS, 0, 1)[0])
        generator = torch.Generator().manual_seed(key >> 1)
        self.device = torch.device(device)
        self._plain = plain or self.device.type != "cpu"
        self._first = _Layer(width, heads, hidden, generator, self.device)
        self._second = _Layer(heads * hidden, heads, classes, generator, self.device)
        self._feature_dropout = feature_dropout
        self._attention_dropout = attention_dropout
        self._seed = seed
        self._run = run
        self._hidden = hidden
        self._drawn_from = -1
        self._drawn: NDArray[np.uint64] = np.empty((0, 0, 0), dtype=np.uint64)

    @property
    def weights(self) -> list[torch.Tensor]:
        """All weights, in a fixed order."""
        return [
            weight
            for layer in (self._first, self._second)
            for head in layer.heads
            for weight in head
        ]

    @property
    def middle_width(self) -> int:
        """Columns that the first layer gives."""
        return len(self._first.heads) * self._hidden

    def project(
        self, features: NDArray[np.float32], rows: NDArray[np.int64] | None = None
    ) -> torch.Tensor:
        """All or some rows of the features times the first layer's weights, block by block.

        Returns:
            float32 of shape (heads, rows, hidden).
        """
        weights = self._first.joined()
        count = len(features) if rows is None else len(rows)
        heads = len(self._first.heads)
        result = torch.empty(heads, count, self._hidden, device=self.device)
        step = max(1, _BLOCK_VALUES // max(1, features.shape[1]))

        def block(start: int) -> None:
            stop = min(start + step, count)
            part = features[start:stop] if rows is None else features[rows[start:stop]]
            # A copy of the block: memory-mapped features are read-only, which torch does not take.
            own = torch.from_numpy(np.array(part, dtype=np.float32)).to(self.device)
            with torch.no_grad():  # kept per thread, so each task sets it for its own
                parts = (own @ weights).view(len(own), heads, self._hidden)
                result[:, start:stop] = parts.transpose(0, 1)

        self._run(block, range(0, count, step))
        return result

    def first_logits(self, projected: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What rows add to attention logits as source and as target: two of (heads, rows)."""
        with torch.no_grad():
            source, target = (
                torch.einsum(
                    "hrd,hd->hr",
                    projected,
                    torch.stack([head[place].view(-1) for head in self._first.heads]),
                ).contiguous()
                for place in (1, 2)
            )
        return source, target

    def second_logits(self, middle: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `first_logits`, for the second layer."""
        with torch.no_grad():
            source, target = (
                torch.matmul(self._second.logit_vectors(place).t(), middle.t()).contiguous()
                for place in (1, 2)
            )
        return source, target

    def middle(
        self,
        projected: torch.Tensor,
        logits: tuple[torch.Tensor, torch.Tensor],
        sources: torch.Tensor,
        unused: torch.Tensor | None,
    ) -> torch.Tensor:
        """What the first layer gives, without dropout: (targets, heads * hidden)."""
        parts = []
        with torch.no_grad():
            for values, weights, head in zip(
                projected,
                head_coefficients(logits, sources, unused),
                self._first.heads,
                strict=True,
            ):
                parts.append(self._weighted_sum(sources, values, weights) + head[3])
            return torch.nn.functional.elu(torch.cat(parts, dim=1))

    def outputs(
        self, middle: torch.Tensor, sources: torch.Tensor, coefficients: torch.Tensor
    ) -> list[torch.Tensor]:
        """Class logits of each head of the second layer: (targets, classes) each.

        Sums before it projects: of all rows, only the first layer's output is ever held.
        """
        with torch.no_grad():
            return [
                self._weighted_sum(sources, middle, weights) @ weight + bias
                for weights, (weight, _, _, bias) in zip(
                    coefficients, self._second.heads, strict=True
                )
            ]

    def logits(self, features: NDArray[np.float32], graph: Subgraph) -> torch.Tensor:
        """Class logits of the rows of the second table, without dropout: (targets, classes)."""
        projected = self.project(features, graph.inputs)
        middle = self._blocks(
            partial(self.middle, projected, self.first_logits(projected)), graph.first
        )
        logits = self.second_logits(middle)

        def last(sources: torch.Tensor, unused: torch.Tensor | None) -> torch.Tensor:
            return _mean(self.outputs(middle, sources, head_coefficients(logits, sources, unused)))

        return self._blocks(last, graph.second)

    def _blocks(
        self,
        function: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor],
        table: Table,
    ) -> torch.Tensor:
        """The function over blocks of the table's targets, as tasks, joined in their order."""

        def block(start: int) -> torch.Tensor:
            part = slice(start, start + _BLOCK)
            return function(
                table.sources[part], None if table.unused is None else table.unused[part]
            )

        return torch.cat(self._run(block, range(0, len(table.sources), _BLOCK)))

    def _weighted_sum(
        self, sources: torch.Tensor, values: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        if not self._plain:
            return _weighted_sum(sources, values, weights)
        parts = [
            torch.einsum(
                "ts,tsd->td",
                weights[start : start + _BLOCK],
                values[sources[start : start + _BLOCK].long()],
            )
            for start in range(0, len(sources), _BLOCK)
        ]
        return torch.cat(parts)

    def step(
        self,
        inputs: torch.Tensor,
        graph: Subgraph,
        loss: Callable[[torch.Tensor], torch.Tensor],
        *,
        step: int,
    ) -> float:
        """The training loss, with dropout; leaves its gradients in the weights.

        Args:
            inputs: Features of `graph.inputs`, on the network's device.
            graph: The rows to classify and what they need, on the network's device.
            loss: From class logits of shape (targets, classes) to the loss.
            step: Number of the step, which keys dropout.
        """
        share = self._feature_dropout
        dropped = _drop(inputs, share, self._keys(step, 0)[0])
        masks = self._masks(graph.first, self._keys(step, 1))
        hidden = self._layer(dropped, self._first, graph.first, masks)
        middle = _drop(torch.nn.functional.elu(hidden), share, self._keys(step, 2)[0])
        masks = self._masks(graph.second, self._keys(step, 3))
        outputs = self._layer(middle, self._second, graph.second, masks)
        heads = len(self._second.heads)
        value = loss(_mean(outputs.view(len(outputs), heads, -1).unbind(dim=1)))
        grads = torch.autograd.grad(value, self.weights)
        for weight, grad in zip(self.weights, grads, strict=True):
            weight.grad = grad
        return float(value.detach())

    def _layer(
        self,
        inputs: torch.Tensor,
        layer: _Layer,
        table: Table,
        masks: Sequence[torch.Tensor] | None,
    ) -> torch.Tensor:
        """All heads of a layer side by side, with gradient: (targets, heads * width)."""
        if self._plain:
            keeps = [None] * len(layer.heads) if masks is None else masks
            parts = [
                _plain_head(inputs, head, table, keep)
                for head, keep in zip(layer.heads, keeps, strict=True)
            ]
            return torch.cat(parts, dim=1)
        factors = None
        if masks is not None:
            factors = torch.stack(list(masks), dim=2)
            factors = factors.flatten(0, 1) if table.unused is None else factors[~table.unused]
        weights, sources, targets, biases = zip(*layer.heads, strict=True)
        return attend(
            inputs,
            table.edges,
            weight=torch.stack(weights, dim=1),
            source=torch.cat(sources, dim=1).t(),
            target=torch.cat(targets, dim=1).t(),
            bias=torch.cat(biases),
            negative_slope=_SLOPE,
            factors=factors,
        )

    def _keys(self, step: int, place: int) -> list[int]:
        """One key a head for one use of dropout."""
        first, heads = step - step % _DRAWN_STEPS, len(self._first.heads)
        if first != self._drawn_from:
            width = _PLACES * heads
            drawn = _native.random_u64(
                self._seed, _STREAM_DROPOUT, first * width, _DRAWN_STEPS * width
            )
            self._drawn = drawn.reshape(_DRAWN_STEPS, _PLACES, heads)
            self._drawn_from = first
        return [int(key) for key in self._drawn[step - first, place]]

    def _masks(self, table: Table, keys: Sequence[int]) -> list[torch.Tensor] | None:
        if self._attention_dropout == 0.0:
            return None
        shape, share = tuple(table.sources.shape), self._attention_dropout
        return self._run(lambda key: keep_mask(shape, share, key).to(self.device), keys)


def head_coefficients(
    logits: tuple[torch.Tensor, torch.Tensor],
    sources: torch.Tensor,
    unused: torch.Tensor | None,
) -> torch.Tensor:
    """Attention coefficients of each head over a table, without gradients.

    Args:
        logits: What each row adds as source and as target, two of (heads, rows).
        sources: Row numbers, (targets, slots).
        unused: Which slots are unused, None if none is.

    Returns:
        float32 of shape (heads, targets, slots), which adds up to 1 over the slots.

    Example:
        >>> import torch
        >>> from mbflow.select.gat import head_coefficients
        >>> logits = torch.zeros(1, 2), torch.zeros(1, 2)
        >>> head_coefficients(logits, torch.tensor([[0, 1], [1, 0]]), None).tolist()
        [[[0.5, 0.5], [0.5, 0.5]]]
    """
    with torch.no_grad():
        return torch.stack(
            [
                _coefficients(source, target, sources, unused)[0]
                for source, target in zip(*logits, strict=True)
            ]
        )
