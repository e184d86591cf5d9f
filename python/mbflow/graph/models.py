"""Graph neural networks in plain torch over ragged layers: GCN, GraphSAGE and GAT.

A network takes layers from the seeds outward, as a sample has them, and features of all its nodes;
or one layer, the whole graph, which all convolutions then use. Each convolution is cut in two, so
that inference projects every node once and then goes over the targets in chunks: `given`, what a
node gives as a source, row by row, and `combined`, over the edges. All edges count alike: weights,
types and times of a graph's edges steer which of them are sampled, and do not enter a network.

Imports torch; `mbflow.graph` imports this module only where it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import nn

from mbflow import _native
from mbflow.errors import InvalidArgumentError
from mbflow.graph.layers import TensorLayer, neighbour_sum
from mbflow.training import keep_mask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mbflow.graph.gat import GAT, GATConv

__all__ = [
    "GAT",
    "GCN",
    "Convolution",
    "GATConv",
    "GCNConv",
    "GraphNetwork",
    "GraphSAGE",
    "SAGEConv",
    "glorot",
    "layer_widths",
]

_STREAM_DROPOUT = 0x6A1_00001


def __getattr__(name: str) -> Any:
    # Attention builds on what is here, so that it can be imported only when it is asked for.
    if name in ("GAT", "GATConv"):
        from mbflow.graph import gat

        return getattr(gat, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Convolution(Protocol):
    """What a `GraphNetwork` needs of its convolutions, each of which is an `nn.Module`.

    Example:
        >>> from mbflow.graph.models import Convolution, GCNConv
        >>> convolution: Convolution = GCNConv(3, 2)
    """

    out_features: int

    def __call__(self, layer: TensorLayer, x: torch.Tensor, *, key: int | None = None) -> Any:
        """Features of the targets, from those of all rows."""

    def given(self, x: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
        """What rows give as sources."""

    def combined(
        self, layer: TensorLayer, given: torch.Tensor, x: torch.Tensor, *, key: int | None = None
    ) -> torch.Tensor:
        """Features of the targets, from what all rows give and the features of the targets."""


def glorot(weight: torch.Tensor, generator: torch.Generator) -> nn.Parameter:
    """A parameter of that shape, uniform with the variance of Glorot and Bengio.

    Example:
        >>> import torch
        >>> from mbflow.graph.models import glorot
        >>> glorot(torch.empty(3, 2), torch.Generator().manual_seed(0)).shape
        torch.Size([3, 2])
    """
    return nn.Parameter(nn.init.xavier_uniform_(weight, generator=generator))


class GCNConv(nn.Module):
    r"""The graph convolution of Kipf and Welling: `D^-1/2 (A + I) D^-1/2 X W + b`.

    `D` holds the degrees of `A + I`: for each node its incoming edges in the whole graph and its
    own. They come from the graph (`TensorLayer.degrees`), not from the sample. Where a sample holds
    only some edges of a node, their sum is scaled up to all of them, so that it is right in the
    mean; where it holds all, the layer is that of the whole graph. Edges that the graph has from a
    node to itself count besides `I`.

    Args:
        in_features: Columns of the input.
        out_features: Columns of the output.
        bias: Whether `b` is learnt.
        generator: Draws the first weights.

    Example:
        >>> import torch
        >>> from mbflow.graph.layers import TensorLayer
        >>> from mbflow.graph.models import GCNConv
        >>> pair = TensorLayer(torch.tensor([0, 1, 2]), torch.tensor([1, 0]), torch.ones(2))
        >>> convolution = GCNConv(1, 1)
        >>> _ = torch.nn.init.ones_(convolution.weight)
        >>> convolution(pair, torch.tensor([[2.0], [4.0]])).round(decimals=3).tolist()
        [[3.0], [3.0]]

    Source: Kipf and Welling, "Semi-supervised classification with graph convolutional networks",
    ICLR 2017, equation 2.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        generator = generator or torch.Generator().manual_seed(0)
        self.weight = glorot(torch.empty(in_features, out_features), generator)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def given(self, x: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
        """What rows give as sources: projected, and divided by the root of their degrees."""
        return (x @ self.weight) * _root(degrees, x)

    def combined(
        self, layer: TensorLayer, given: torch.Tensor, x: torch.Tensor, *, key: int | None = None
    ) -> torch.Tensor:
        """Features of the targets, from what all rows give."""
        del x, key
        degrees = layer.degrees[layer.rows]
        # 1 to the bit where all edges of the target are there.
        scale = (degrees / layer.counts.clamp(min=1e-30)).to(given.dtype)
        total = neighbour_sum(layer, given) * scale[:, None] + given[layer.rows]
        total = total * _root(degrees, total)
        return total if self.bias is None else total + self.bias

    def forward(
        self, layer: TensorLayer, x: torch.Tensor, *, key: int | None = None
    ) -> torch.Tensor:
        """Features of the targets, float32 of shape (targets, out_features)."""
        given = self.given(x, layer.degrees[: len(x)])
        return self.combined(layer, given, x[layer.rows], key=key)


def _root(degrees: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return (degrees + 1.0).rsqrt().to(like.dtype)[:, None]


class SAGEConv(nn.Module):
    """GraphSAGE with the mean of the neighbours: `X W_own + mean(X_neighbours) W_given + b`.

    A target without edges has a mean of zero. Whichever is narrower is what the mean is taken over:
    the features, or their projection.

    Args:
        in_features: Columns of the input.
        out_features: Columns of the output.
        bias: Whether `b` is learnt.
        generator: Draws the first weights.

    Example:
        >>> import torch
        >>> from mbflow.graph.layers import TensorLayer
        >>> from mbflow.graph.models import SAGEConv
        >>> layer = TensorLayer(torch.tensor([0, 2]), torch.tensor([1, 2]), torch.ones(3))
        >>> convolution = SAGEConv(1, 1)
        >>> _ = torch.nn.init.ones_(convolution.weight_own)
        >>> _ = torch.nn.init.ones_(convolution.weight_given)
        >>> convolution(layer, torch.tensor([[10.0], [2.0], [4.0]])).tolist()
        [[13.0]]

    Source: Hamilton, Ying and Leskovec, "Inductive representation learning on large graphs",
    NeurIPS 2017, algorithm 1.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self._first = in_features > out_features
        generator = generator or torch.Generator().manual_seed(0)
        self.weight_own = glorot(torch.empty(in_features, out_features), generator)
        self.weight_given = glorot(torch.empty(in_features, out_features), generator)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def given(self, x: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
        """What rows give as sources: their projection, or themselves where that is narrower."""
        del degrees
        return x @ self.weight_given if self._first else x

    def combined(
        self, layer: TensorLayer, given: torch.Tensor, x: torch.Tensor, *, key: int | None = None
    ) -> torch.Tensor:
        """Features of the targets, from what all rows give and the features of the targets."""
        del key
        scale = layer.counts.clamp(min=1e-30).reciprocal().to(given.dtype)
        mean = neighbour_sum(layer, given) * scale[:, None]
        total = x @ self.weight_own + (mean if self._first else mean @ self.weight_given)
        return total if self.bias is None else total + self.bias

    def forward(
        self, layer: TensorLayer, x: torch.Tensor, *, key: int | None = None
    ) -> torch.Tensor:
        """Features of the targets, float32 of shape (targets, out_features)."""
        given = self.given(x, layer.degrees[: len(x)])
        return self.combined(layer, given, x[layer.rows], key=key)


class GraphNetwork(nn.Module):
    """Convolutions with an activation between them, and dropout before each while training.

    Dropout is drawn by a key: the same key drops the same values, for any number of threads.

    Args:
        convolutions: From the features to the classes.
        activation: Between them.
        dropout: Share of the values that each convolution's input loses while training.

    Example:
        >>> import torch
        >>> from mbflow.graph.layers import TensorLayer
        >>> from mbflow.graph.models import GCNConv, GraphNetwork
        >>> network = GraphNetwork([GCNConv(3, 4), GCNConv(4, 2)], torch.relu, dropout=0.5).eval()
        >>> pair = TensorLayer(torch.tensor([0, 1, 2]), torch.tensor([1, 0]), torch.ones(2))
        >>> network(pair, torch.ones(2, 3)).shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        convolutions: Sequence[nn.Module],
        activation: Callable[[torch.Tensor], torch.Tensor],
        *,
        dropout: float,
    ) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise InvalidArgumentError(f"dropout must be at least 0 and below 1, found {dropout}")
        self.convolutions = nn.ModuleList(convolutions)
        self.activation = activation
        self.dropout = dropout

    @property
    def depth(self) -> int:
        """How many convolutions there are."""
        return len(self.convolutions)

    def stages(self) -> Iterator[tuple[Any, Callable[[torch.Tensor], torch.Tensor]]]:
        """Each convolution with what follows it."""
        for number, convolution in enumerate(self.convolutions):
            last = number == self.depth - 1
            yield convolution, (lambda x: x) if last else self.activation

    def forward(
        self,
        layers: TensorLayer | Sequence[TensorLayer],
        x: torch.Tensor,
        *,
        key: int | None = None,
    ) -> torch.Tensor:
        """Class logits of the targets of the first layer.

        Args:
            layers: From the seeds outward, or one layer for all convolutions.
            x: float32 of shape (rows, columns), of all nodes of the sample.
            key: Of dropout; default: drawn from torch's generator. Without effect in `eval` mode.

        Returns:
            float32 of shape (targets, classes).

        Raises:
            InvalidArgumentError: There are not as many layers as convolutions.
        """
        given = [layers] * self.depth if isinstance(layers, TensorLayer) else list(layers)
        if len(given) != self.depth:
            raise InvalidArgumentError(
                f"the network has {self.depth} convolutions and the sample {len(given)} layers; "
                f"sample with {self.depth} fan-outs"
            )
        keys: list[int] = []
        if self.training:
            seed = int(torch.randint(2**62, ())) if key is None else key
            drawn = _native.random_u64(seed, _STREAM_DROPOUT, 0, 2 * self.depth)
            keys = [int(one) for one in drawn]
        for number, (convolution, then) in enumerate(self.stages()):
            if keys and self.dropout:
                x = x * keep_mask(tuple(x.shape), self.dropout, keys[2 * number]).to(x)
            within = keys[2 * number + 1] if keys else None
            x = then(convolution(given[self.depth - 1 - number], x, key=within))
        return x


def layer_widths(in_features: int, hidden: int, classes: int, layers: int) -> list[tuple[int, int]]:
    """Columns in and out of each layer.

    Raises:
        InvalidArgumentError: `layers` is below 1.

    Example:
        >>> from mbflow.graph.models import layer_widths
        >>> layer_widths(100, 16, 7, 3)
        [(100, 16), (16, 16), (16, 7)]
    """
    if layers < 1:
        raise InvalidArgumentError(f"layers must be at least 1, found {layers}")
    widths = [in_features, *[hidden] * (layers - 1), classes]
    return list(pairwise(widths))


class _Stacked(GraphNetwork):
    """Convolutions of one kind with ReLU between them."""

    _convolution: ClassVar[type[GCNConv | SAGEConv]]

    def __init__(
        self,
        in_features: int,
        classes: int,
        *,
        hidden: int = 16,
        layers: int = 2,
        dropout: float = 0.5,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        widths = layer_widths(in_features, hidden, classes, layers)
        super().__init__(
            [self._convolution(inner, outer, generator=generator) for inner, outer in widths],
            torch.relu,
            dropout=dropout,
        )


class GCN(_Stacked):
    """Graph convolutions with ReLU between them.

    Args:
        in_features: Columns of the features.
        classes: How many classes.
        hidden: Width of the layers between.
        layers: How many convolutions.
        dropout: Share of the values that each layer's input loses while training.
        seed: Key of the first weights.

    Example:
        >>> from mbflow.graph.models import GCN
        >>> GCN(1433, 7, hidden=16).depth
        2

    Source: Kipf and Welling, ICLR 2017.
    """

    _convolution = GCNConv


class GraphSAGE(_Stacked):
    """GraphSAGE convolutions with the mean of the neighbours, and ReLU between them.

    Args:
        in_features: Columns of the features.
        classes: How many classes.
        hidden: Width of the layers between.
        layers: How many convolutions.
        dropout: Share of the values that each layer's input loses while training.
        seed: Key of the first weights.

    Example:
        >>> from mbflow.graph.models import GraphSAGE
        >>> GraphSAGE(100, 47, hidden=256, layers=3).depth
        3

    Source: Hamilton, Ying and Leskovec, NeurIPS 2017.
    """

    _convolution = SAGEConv
