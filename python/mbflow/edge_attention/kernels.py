"""Graph attention by the kernels, with its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from mbflow._native import attention as native
from mbflow.batches import check_whole
from mbflow.edge_attention.memory import memory
from mbflow.edge_attention.ragged import EdgeGraph
from mbflow.errors import InvalidArgumentError

if TYPE_CHECKING:
    from mbflow.edge_attention.ragged import Ragged

__all__ = ["Activation", "attend", "check_features", "row_weights"]

Activation = Literal["none", "elu"]
"""What comes after the bias: nothing, or the exponential linear unit."""
_TYPES = (torch.float32, torch.float64)


class _Attend(torch.autograd.Function):
    """Features times weights, attention, bias, activation; written out with its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        features: torch.Tensor,
        weights: torch.Tensor,
        bias: torch.Tensor | None,
        graph: EdgeGraph,
        options: dict[str, Any],
    ) -> torch.Tensor:
        heads, width = options["heads"], options["width"]
        kind, empty = features.dtype, graph.spares.empty
        rows = empty(kind, len(features), weights.shape[1])
        native.project(memory(features), memory(weights), weights.shape[1], memory(rows))
        shape = graph.targets, heads * width
        out = empty(kind, *shape)
        plain = bias is None and options["activation"] == "none"
        sums = positive = numbers = None
        if any(ctx.needs_input_grad[:3]):
            sums = None if plain else empty(kind, *shape)
            positive = empty(kind, *shape)
            numbers = empty(kind, graph.targets, 3 * heads)
        graph.native.attend(
            memory(rows),
            **options,
            bias=memory(bias),
            out=memory(out),
            sums=memory(sums),
            kept=None if positive is None else (memory(positive), memory(numbers)),
        )
        ctx.graph, ctx.options = graph, options
        ctx.save_for_backward(
            features, weights, bias, rows, out if plain else sums, positive, numbers
        )
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        if torch.is_grad_enabled():
            # Only where the gradient's own gradient is asked for (create_graph=True).
            raise InvalidArgumentError(
                "the kernels of attention are differentiable once; for gradients of gradients use "
                'backend="torch"'
            )
        features, weights, bias, rows, sums, positive, numbers = ctx.saved_tensors
        graph, options = ctx.graph, ctx.options
        empty = graph.spares.empty
        to_features = empty(rows.dtype, *features.shape) if ctx.needs_input_grad[0] else None
        to_weights = torch.empty_like(weights)
        to_bias = None if bias is None else torch.empty_like(bias)
        *_, stride = native.row_layout(options["heads"], options["width"])
        graph.native.backward(
            memory(rows),
            **options,
            bias=memory(bias),
            features=memory(features),
            weights=memory(weights),
            sums=memory(sums),
            kept=(memory(positive), memory(numbers)),
            gradient=memory(gradient.contiguous()),
            to_features=memory(to_features),
            to_weights=memory(to_weights),
            to_bias=memory(to_bias),
            passed=memory(empty(rows.dtype, graph.targets, stride)),
        )
        return to_features, to_weights, to_bias, None, None


def row_weights(weight: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The matrix that makes a node's row of its features: values and logits of all heads.

    Args:
        weight: `[in_features, heads, width]`.
        source: `[heads, width]`, the vector of what a source adds to logits.
        target: The same for targets.

    Returns:
        `[in_features, stride]`, padded with zeros.

    Example:
        >>> import torch
        >>> from mbflow.edge_attention import row_weights
        >>> one = torch.ones(1, 2)
        >>> row_weights(torch.tensor([[[3.0, 4.0]]]), one, one)[0, :5]
        tensor([3., 4., 7., 7., 0.])
    """
    _, heads, width = weight.shape
    padded, logits, stride, _ = native.row_layout(heads, width)
    values = torch.nn.functional.pad(weight, (0, padded - width)).flatten(1)[:, :logits]
    added = [torch.einsum("ihd,hd->ih", weight, vector) for vector in (source, target)]
    joined = torch.cat([values, *added], dim=1)
    return torch.nn.functional.pad(joined, (0, stride - joined.shape[1]))


def attend(
    features: torch.Tensor,
    edges: EdgeGraph | Ragged,
    *,
    weight: torch.Tensor,
    source: torch.Tensor,
    target: torch.Tensor,
    bias: torch.Tensor | None = None,
    negative_slope: float = 0.2,
    activation: Activation = "none",
    dropout: float = 0.0,
    key: int = 0,
    factors: torch.Tensor | None = None,
) -> torch.Tensor:
    """Graph attention by the kernels: softmax over the edges of each target, weighted sums, bias.

    For head `h`, values are `z = features @ weight[:, h]`; the logit of an edge from row `j` to
    target `i` is `leaky_relu(source[h] . z[j] + target[h] . z[i])`. A target without edges gets the
    bias alone. Differentiable once, in features, weights and bias.

    Args:
        features: `[rows, in_features]`, float32 or float64, on the CPU.
        edges: A `Graph`, a sampled `Layer`, or an `EdgeGraph`.
        weight: `[in_features, heads, width]`.
        source: `[heads, width]`.
        target: `[heads, width]`.
        bias: `[heads * width]`.
        negative_slope: Of the leaky rectifier, at least 0.
        activation: "elu" to apply it in the same pass.
        dropout: Share of the coefficients that is dropped, to the nearest 1/65536.
        key: Key of dropout's draws: the same key drops the same coefficients.
        factors: float32 `[edges, heads]`, what coefficients are multiplied with after the softmax,
            where dropout was drawn elsewhere; without gradient.

    Returns:
        `[targets, heads * width]`, the heads side by side; the same bits for any number of threads
        (the gradients, too).

    Raises:
        InvalidArgumentError: A shape, type or value does not fit.

    Example:
        >>> import numpy as np, torch
        >>> from mbflow.edge_attention import EdgeGraph, attend
        >>> graph = EdgeGraph(np.array([0, 2, 2]), np.array([1, 2]), rows=3)
        >>> x, one = torch.tensor([[1.0], [2.0], [4.0]]), torch.ones(1, 1)
        >>> attend(x, graph, weight=torch.ones(1, 1, 1), source=0 * one, target=one).tolist()
        [[3.0], [0.0]]
    """
    _check_weights(weight, {"source": source, "target": target}, bias)
    check_features(features, weight)
    if activation not in get_args(Activation):
        raise InvalidArgumentError(f"activation is {activation!r}; expected 'none' or 'elu'")
    check_whole("key", key, least=0, most=2**64 - 1)
    if features.device.type != "cpu":
        raise InvalidArgumentError(
            f"the features are on {features.device}; the kernels work on the CPU: use "
            'backend="torch"'
        )
    _, heads, width = weight.shape
    graph = EdgeGraph.of(edges, len(features))
    if factors is not None and (
        tuple(factors.shape) != (graph.edges, heads) or factors.dtype != torch.float32
    ):
        raise InvalidArgumentError(
            f"factors are {factors.dtype} of shape {tuple(factors.shape)}; expected torch.float32 "
            f"of shape {(graph.edges, heads)}"
        )
    options = {
        "heads": heads,
        "width": width,
        "slope": negative_slope,
        "dropout": dropout,
        "key": key,
        "activation": activation,
        "factors": memory(None if factors is None else factors.contiguous()),
    }
    result: torch.Tensor = _Attend.apply(
        features.contiguous(),
        row_weights(weight, source, target),
        None if bias is None else bias.contiguous(),
        graph,
        options,
    )
    return result


def _check_weights(
    weight: torch.Tensor, vectors: dict[str, torch.Tensor], bias: torch.Tensor | None
) -> None:
    if not isinstance(weight, torch.Tensor) or weight.ndim != 3 or 0 in weight.shape:
        raise InvalidArgumentError(
            f"weight is {_described(weight)}; expected a tensor of shape (in_features, heads, "
            "width)"
        )
    _, heads, width = weight.shape
    shapes = dict.fromkeys(vectors, (heads, width)) | {"bias": (heads * width,)}
    given = vectors | ({} if bias is None else {"bias": bias})
    for name, vector in given.items():
        if not isinstance(vector, torch.Tensor) or tuple(vector.shape) != shapes[name]:
            raise InvalidArgumentError(
                f"{name} is {_described(vector)}; expected a tensor of shape {shapes[name]}"
            )
        if vector.dtype != weight.dtype or vector.device != weight.device:
            raise InvalidArgumentError(
                f"{name} is {vector.dtype} on {vector.device} and weight {weight.dtype} on "
                f"{weight.device}; expected both alike"
            )


def _described(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def check_features(features: torch.Tensor, weight: torch.Tensor) -> None:
    """Refuse features that weights, `[in_features, heads, width]`, cannot be multiplied with.

    Raises:
        InvalidArgumentError: The shape or type does not fit.

    Example:
        >>> import torch
        >>> from mbflow.edge_attention.kernels import check_features
        >>> check_features(torch.ones(5, 3), torch.ones(3, 1, 2))
    """
    if not isinstance(features, torch.Tensor) or features.layout != torch.strided:
        layout = getattr(features, "layout", None)
        held = f"of layout {layout}" if layout is not None else f"a {type(features).__name__}"
        raise InvalidArgumentError(f"features are {held}; expected a dense tensor")
    if features.ndim != 2 or features.shape[1] != weight.shape[0]:
        raise InvalidArgumentError(
            f"features have shape {tuple(features.shape)}; expected (rows, {weight.shape[0]})"
        )
    if features.dtype not in _TYPES or features.dtype != weight.dtype:
        raise InvalidArgumentError(
            f"features are {features.dtype} and weights {weight.dtype}; expected both "
            "torch.float32 or both torch.float64"
        )
