"""The layer: one set of weights, worked out by the backend of your choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from mbflow._native import attention as native
from mbflow.batches import check_whole
from mbflow.dgl_compat import load_dgl
from mbflow.edge_attention.kernels import Activation, attend, check_features, row_weights
from mbflow.edge_attention.memory import memory
from mbflow.edge_attention.ragged import EdgeGraph
from mbflow.errors import InvalidArgumentError, require
from mbflow.training import without_warnings

if TYPE_CHECKING:
    from mbflow.edge_attention.ragged import Ragged

__all__ = ["Backend", "GraphAttention"]

Backend = Literal["native", "torch", "dgl", "pyg"]
"""Who works out attention: the kernels of mbflow, plain torch operations, DGL, or PyG."""


class GraphAttention(torch.nn.Module):
    """A layer of multi-head graph attention (GAT), worked out by the backend of your choice.

    All backends use the same weights, so a layer can be moved from one to another by its state.

    Args:
        in_features: Columns of the features.
        out_features: Columns of the output of each head.
        heads: Heads.
        concat: Put heads side by side; else take their mean.
        negative_slope: Of the leaky rectifier on logits, at least 0.
        dropout: Share of the coefficients that is dropped while training. "native" and "torch" drop
            the same coefficients for the same key; "dgl" and "pyg" draw as their packages do.
        bias: Add a bias.
        activation: "elu" to apply it to the output; with "native" in the same pass.
        backend: "native" (CPU), "torch", "dgl" or "pyg".

    Raises:
        InvalidArgumentError: An argument is out of range.
        MissingExtraError: The backend's package is not installed.

    Source:
        Velickovic et al.: Graph Attention Networks (arXiv 1710.10903), section 2.1.

    Example:
        >>> import numpy as np, torch
        >>> from mbflow.edge_attention import EdgeGraph, GraphAttention
        >>> layer = GraphAttention(3, 4, heads=2)
        >>> graph = EdgeGraph(np.array([0, 2, 3]), np.array([0, 1, 1]), rows=2)
        >>> out, attention = layer(torch.ones(2, 3), graph, return_attention=True)
        >>> out.shape, attention[:, 0].tolist()
        (torch.Size([2, 8]), [0.5, 0.5, 1.0])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        bias: bool = True,
        activation: Activation = "none",
        backend: Backend = "native",
    ) -> None:
        super().__init__()
        for name, count in (
            ("in_features", in_features),
            ("out_features", out_features),
            ("heads", heads),
        ):
            check_whole(name, count, least=1)
        if not 0.0 <= dropout < 1.0:
            raise InvalidArgumentError(f"dropout is {dropout}; expected at least 0 and below 1")
        if not 0.0 <= negative_slope < float("inf"):
            raise InvalidArgumentError(f"negative_slope is {negative_slope}; expected at least 0")
        for name, value, choices in (
            ("backend", backend, get_args(Backend)),
            ("activation", activation, get_args(Activation)),
        ):
            if value not in choices:
                expected = ", ".join(map(repr, choices))
                raise InvalidArgumentError(f"{name} is {value!r}; expected one of {expected}")
        self.heads = heads
        self.concat = concat
        self.negative_slope = negative_slope
        self.dropout = dropout
        self.activation = activation
        self.backend = backend
        self.weight = torch.nn.Parameter(torch.empty(in_features, heads, out_features))
        self.source = torch.nn.Parameter(torch.empty(heads, out_features))
        self.target = torch.nn.Parameter(torch.empty(heads, out_features))
        width = heads * out_features if concat else out_features
        self.bias = torch.nn.Parameter(torch.empty(width)) if bias else None
        self.reset_parameters()
        self._peer: list[torch.nn.Module] = []  # in a list, since its weights are none of ours
        if backend == "dgl":
            self._peer.append(_dgl_layer(self))
        elif backend == "pyg":
            self._peer.append(_pyg_layer(self))

    def reset_parameters(self) -> None:
        """Draw the weights anew: Glorot's uniform distribution, from torch's generator; bias 0."""
        inputs, heads, width = self.weight.shape
        torch.nn.init.xavier_uniform_(self.weight.data.view(inputs, heads * width))
        for vector in (self.source, self.target):
            limit = (6.0 / (heads + width)) ** 0.5
            torch.nn.init.uniform_(vector, -limit, limit)
        if self.bias is not None:
            torch.nn.init.zeros_(self.bias)

    def forward(
        self,
        features: torch.Tensor,
        edges: EdgeGraph | Ragged,
        *,
        key: int | None = None,
        return_attention: bool = False,
    ) -> Any:
        """Attend.

        Args:
            features: `[rows, in_features]` of the sources; targets are among them.
            edges: A `Graph`, a sampled `Layer`, or an `EdgeGraph`.
            key: Key of dropout; drawn from torch's generator by default.
            return_attention: Return the coefficients, too.

        Returns:
            `[targets, heads * out_features]`, or `[targets, out_features]` for the mean; with
            `return_attention` a pair of it and the coefficients `[edges, heads]`, before dropout
            and without gradient, which add up to 1 over the edges of a target.

        Raises:
            InvalidArgumentError: A shape or type does not fit.
        """
        check_features(features, self.weight)
        graph = EdgeGraph.of(edges, len(features))
        share = self.dropout if self.training else 0.0
        if share > 0.0 and key is None:
            key = int(torch.randint(2**63 - 1, ()))
        work = {"native": self._native, "torch": self._torch, "dgl": self._dgl, "pyg": self._pyg}
        out, attention = work[self.backend](
            features, graph, share, key or 0, wanted=return_attention
        )
        return (out, attention) if return_attention else out

    def _finish(self, out: torch.Tensor) -> torch.Tensor:
        """Joins heads, `[targets, heads, width]`, adds the bias, activates."""
        out = out.flatten(1) if self.concat else out.mean(dim=1)
        if self.bias is not None:
            out = out + self.bias
        return torch.nn.functional.elu(out) if self.activation == "elu" else out

    def _native(
        self, features: torch.Tensor, graph: EdgeGraph, share: float, key: int, *, wanted: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        joined = self.concat or self.heads == 1
        out = attend(
            features,
            graph,
            weight=self.weight,
            source=self.source,
            target=self.target,
            bias=self.bias if joined else None,
            negative_slope=self.negative_slope,
            activation=self.activation if joined else "none",
            dropout=share,
            key=key,
        )
        if not joined:
            out = self._finish(out.view(-1, *self.source.shape))
        return out, self._coefficients(features, graph) if wanted else None

    def _coefficients(self, features: torch.Tensor, graph: EdgeGraph) -> torch.Tensor:
        with torch.no_grad():
            weights = row_weights(self.weight, self.source, self.target)
            rows = graph.spares.empty(features.dtype, len(features), weights.shape[1])
            inputs = features.detach().contiguous()
            native.project(memory(inputs), memory(weights), weights.shape[1], memory(rows))
            out = features.new_empty(graph.edges, self.heads)
            graph.native.coefficients(
                memory(rows),
                self.heads,
                self.weight.shape[2],
                slope=self.negative_slope,
                out=memory(out),
            )
        return out

    def _torch(
        self, features: torch.Tensor, graph: EdgeGraph, share: float, key: int, *, wanted: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        values = torch.einsum("ri,ihd->rhd", features, self.weight)
        sources = graph.source_index().to(features.device)
        targets = graph.target_index().to(features.device)
        rows = graph.target_rows().to(features.device)
        logits = (values * self.source).sum(-1)[sources]
        logits = logits + (values * self.target).sum(-1)[rows][targets]
        logits = torch.nn.functional.leaky_relu(logits, self.negative_slope)
        index = targets.unsqueeze(1).expand_as(logits)
        highest = logits.new_zeros(graph.targets, self.heads).scatter_reduce(
            0, index, logits.detach(), "amax", include_self=False
        )
        weights = torch.exp(logits - highest[targets])
        total = weights.new_zeros(graph.targets, self.heads).index_add(0, targets, weights)
        weights = weights / total[targets]
        used = weights
        if share > 0.0:
            factors = native.dropout_factors(share, key, graph.edges, self.heads)
            used = weights * torch.from_numpy(factors).view(weights.shape).to(weights)
        out = values.new_zeros(graph.targets, *values.shape[1:]).index_add(
            0, targets, values[sources] * used.unsqueeze(-1)
        )
        return self._finish(out), weights.detach() if wanted else None

    def _dgl(
        self, features: torch.Tensor, graph: EdgeGraph, share: float, key: int, *, wanted: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        del share, key
        # A block's targets are its first sources; others' features are handed over beside.
        given: Any = features
        if not graph.targets_come_first:
            given = features, features[graph.target_rows()]
        weights = ("fc.weight", "attn_l", "attn_r")
        out = self._ask(weights, (graph.dgl_block(), given), {})
        attention = None
        if wanted:
            options = {"get_attention": True}
            _, attention = self._ask(weights, (graph.dgl_block(), given), options, quiet=True)
            attention = attention.reshape(graph.edges, self.heads)
        return self._finish(out), attention

    def _pyg(
        self, features: torch.Tensor, graph: EdgeGraph, share: float, key: int, *, wanted: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        del share, key
        given: Any = features
        options: dict[str, Any] = {}
        if not (graph.targets_come_first and graph.targets == graph.rows):
            given = features, features[graph.target_rows()]
            options["size"] = graph.rows, graph.targets
        weights = ("lin.weight", "att_src", "att_dst")
        out = self._ask(weights, (given, graph.edge_index()), options)
        attention = None
        if wanted:
            options["return_attention_weights"] = True
            _, (_, attention) = self._ask(weights, (given, graph.edge_index()), options, quiet=True)
            attention = attention.reshape(graph.edges, self.heads)
        return self._finish(out.view(-1, *self.source.shape)), attention

    def _ask(
        self,
        names: tuple[str, str, str],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        *,
        quiet: bool = False,
    ) -> Any:
        """What the peer's layer gives with our weights; `quiet` without dropout and gradients."""
        (peer,) = self._peer
        peer.train(self.training and not quiet)
        ours = self.weight.flatten(1).t(), self.source.unsqueeze(0), self.target.unsqueeze(0)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not quiet):
            return torch.func.functional_call(
                peer, dict(zip(names, ours, strict=True)), arguments, options
            )


def _dgl_layer(layer: GraphAttention) -> torch.nn.Module:
    load_dgl(purpose='backend="dgl"')
    with without_warnings():
        from dgl.nn import GATConv
    inputs, heads, width = layer.weight.shape
    peer: torch.nn.Module = GATConv(
        inputs,
        width,
        heads,
        attn_drop=layer.dropout,
        negative_slope=layer.negative_slope,
        bias=False,
        allow_zero_in_degree=True,
    )
    return peer


def _pyg_layer(layer: GraphAttention) -> torch.nn.Module:
    with without_warnings():
        require("torch_geometric", extra="pyg", purpose='backend="pyg"')
        from torch_geometric.nn import GATConv
    inputs, heads, width = layer.weight.shape
    peer: torch.nn.Module = GATConv(
        inputs,
        width,
        heads=heads,
        negative_slope=layer.negative_slope,
        dropout=layer.dropout,
        add_self_loops=False,
        bias=False,
    )
    return peer
