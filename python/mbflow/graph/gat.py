"""Graph attention over ragged layers: the kernels of `mbflow.edge_attention`, or plain torch.

Imports torch; `mbflow.graph` imports this module only where it is asked for.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from mbflow.edge_attention import EdgeGraph, attend
from mbflow.errors import InvalidArgumentError
from mbflow.graph.layers import TensorLayer
from mbflow.graph.models import GraphNetwork, glorot, layer_widths
from mbflow.training import keep_mask

__all__ = ["GAT", "GATConv"]


class GATConv(nn.Module):
    """Graph attention: each head is a sum of neighbours and of the node itself, by attention.

    Head `h` gives target `t` the sum over its sources `s`, and `t` itself, of `alpha z_s` with
    `z = x W` and `alpha` the softmax over them of `leaky_relu(a_source z_s + a_target z_t)`. Edges
    that a sample leaves out are left out of the softmax; weights of a sample's edges do not enter.

    Args:
        in_features: Columns of the input.
        head_features: Columns of each head.
        heads: How many heads.
        concat: Whether heads stand side by side in the output; else it is their mean.
        negative_slope: Of the leaky ReLU.
        dropout: Share of the coefficients that is dropped while training.
        bias: Whether a bias is learnt.
        generator: Draws the first weights.
        backend: `"native"`: fused kernels wherever features are on the CPU; `"torch"`: plain
            operations everywhere, which draw other masks for dropout.

    Raises:
        InvalidArgumentError: There is no such backend.

    Example:
        >>> import torch
        >>> from mbflow.graph.gat import GATConv
        >>> from mbflow.graph.layers import TensorLayer
        >>> pair = TensorLayer(torch.tensor([0, 1, 2]), torch.tensor([1, 0]), torch.ones(2))
        >>> GATConv(3, 4, heads=2)(pair, torch.ones(2, 3)).shape
        torch.Size([2, 8])

    Source: Velickovic et al., "Graph attention networks", ICLR 2018, equations 1 to 6.
    """

    def __init__(
        self,
        in_features: int,
        head_features: int,
        *,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        bias: bool = True,
        generator: torch.Generator | None = None,
        backend: Literal["native", "torch"] = "native",
    ) -> None:
        super().__init__()
        if backend not in ("native", "torch"):
            raise InvalidArgumentError(
                f"backend is {backend!r}; expected 'native' or 'torch' (DGL and PyG are backends "
                "of mbflow.edge_attention.GraphAttention)"
            )
        self.in_features = in_features
        self.backend = backend
        self.heads = heads
        self.head_features = head_features
        self.concat = concat
        self.negative_slope = negative_slope
        self.dropout = dropout
        self.out_features = heads * head_features if concat else head_features
        generator = generator or torch.Generator().manual_seed(0)
        self.weight = glorot(torch.empty(in_features, heads * head_features), generator)
        self.attention_source = glorot(torch.empty(heads, head_features), generator)
        self.attention_target = glorot(torch.empty(heads, head_features), generator)
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if bias else None

    def given(self, x: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
        """`z` of each row, and what it adds to logits as source and as target, side by side."""
        del degrees
        z = x @ self.weight
        by_head = z.view(len(z), self.heads, self.head_features)
        source = (by_head * self.attention_source).sum(2)
        target = (by_head * self.attention_target).sum(2)
        return torch.cat([z, source, target], dim=1)

    def combined(
        self, layer: TensorLayer, given: torch.Tensor, x: torch.Tensor, *, key: int | None = None
    ) -> torch.Tensor:
        """Features of the targets, from what all rows give."""
        del x
        width, heads = self.heads * self.head_features, self.heads
        z, source, target = torch.split(given, [width, heads, heads], dim=1)
        counts = layer.offsets.diff()
        edge_target = torch.repeat_interleave(target[layer.rows], counts, dim=0)
        sources = layer.sources.long()
        edges = self._leaky(source.index_select(0, sources) + edge_target)
        own = self._leaky(source[layer.rows] + target[layer.rows])
        # Taken off before the exponential, so that it cannot overflow; it cancels.
        most = torch.maximum(_segments(edges.detach(), layer, "max"), own.detach())
        edges = (edges - torch.repeat_interleave(most, counts, dim=0)).exp()
        own = (own - most).exp()
        total = _segments(edges, layer, "sum") + own
        edges = edges / torch.repeat_interleave(total, counts, dim=0)
        own = own / total
        if self.training and self.dropout and key is not None:
            mask = keep_mask((len(edges) + len(own), heads), self.dropout, key).to(edges)
            edges, own = edges * mask[: len(edges)], own * mask[len(edges) :]
        by_head = z.reshape(len(z), heads, self.head_features)
        messages = by_head.index_select(0, sources) * edges[:, :, None]
        found = _segments(messages, layer, "sum") + by_head[layer.rows] * own[:, :, None]
        joined: torch.Tensor = found.flatten(1) if self.concat else found.mean(1)
        return joined if self.bias is None else joined + self.bias

    def _leaky(self, logits: torch.Tensor) -> torch.Tensor:
        return nn.functional.leaky_relu(logits, self.negative_slope)

    def forward(
        self, layer: TensorLayer, x: torch.Tensor, *, key: int | None = None
    ) -> torch.Tensor:
        """Features of the targets, float32 of shape (targets, out_features)."""
        if self.backend == "native" and x.device.type == "cpu":
            return self._fused(layer, x, key)
        given = self.given(x, layer.degrees[: len(x)])
        return self.combined(layer, given, x[layer.rows], key=key)

    def _fused(self, layer: TensorLayer, x: torch.Tensor, key: int | None) -> torch.Tensor:
        drops = self.training and self.dropout and key is not None
        heads = attend(
            x,
            layer.kept(f"with_own {len(x)}", lambda: _with_own(layer, len(x))),
            weight=self.weight.view(-1, self.heads, self.head_features),
            source=self.attention_source,
            target=self.attention_target,
            bias=self.bias if self.concat else None,
            negative_slope=self.negative_slope,
            dropout=self.dropout if drops else 0.0,
            key=key or 0,
        )
        if self.concat:
            return heads
        mean = heads.view(-1, self.heads, self.head_features).mean(1)
        return mean if self.bias is None else mean + self.bias


def _with_own(layer: TensorLayer, rows: int) -> EdgeGraph:
    """The edges with one more for each target, which comes from itself."""
    numbers = torch.arange(layer.targets + 1)
    offsets = layer.offsets.long() + numbers
    sources = torch.empty(len(layer.sources) + layer.targets, dtype=layer.sources.dtype)
    own = torch.zeros(len(sources), dtype=torch.bool)
    own[offsets[1:] - 1] = True
    sources[own] = (numbers[:-1] + layer.first).to(sources.dtype)
    sources[~own] = layer.sources
    return EdgeGraph(offsets.numpy(), sources.numpy(), rows=rows, first=layer.first)


def _segments(values: torch.Tensor, layer: TensorLayer, reduce: str) -> torch.Tensor:
    """The values of each target's edges reduced to one; without edges 0, or minus infinity."""
    if len(values) == 0:
        empty = 0.0 if reduce == "sum" else -torch.inf
        return values.new_full((layer.targets, *values.shape[1:]), empty)
    return torch.segment_reduce(values, reduce, offsets=layer.offsets.long(), axis=0, unsafe=True)


class GAT(GraphNetwork):
    """Graph attention networks: ELU between the layers, heads side by side in all but the last.

    Args:
        in_features: Columns of the features.
        classes: How many classes.
        hidden: Width of each head of the layers between.
        layers: How many convolutions.
        heads: Heads of the layers between.
        last_heads: Heads of the last layer, of which the mean is taken.
        dropout: Share of the values that each layer's input loses while training.
        attention_dropout: Share of the coefficients that each layer loses while training.
        seed: Key of the first weights.
        backend: As for `GATConv`.

    Example:
        >>> from mbflow.graph.gat import GAT
        >>> GAT(1433, 7, hidden=8, heads=8).depth
        2

    Source: Velickovic et al., ICLR 2018.
    """

    def __init__(
        self,
        in_features: int,
        classes: int,
        *,
        hidden: int = 8,
        layers: int = 2,
        heads: int = 8,
        last_heads: int = 1,
        dropout: float = 0.6,
        attention_dropout: float = 0.6,
        seed: int = 0,
        backend: Literal["native", "torch"] = "native",
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        convolutions = []
        for number, (inner, outer) in enumerate(layer_widths(in_features, hidden, classes, layers)):
            last = number == layers - 1
            convolutions.append(
                GATConv(
                    inner * (heads if number else 1),
                    outer,
                    heads=last_heads if last else heads,
                    concat=not last,
                    dropout=attention_dropout,
                    generator=generator,
                    backend=backend,
                )
            )
        super().__init__(convolutions, nn.functional.elu, dropout=dropout)
