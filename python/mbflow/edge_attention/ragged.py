"""Edges as a ragged array, made ready for attention."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from mbflow._native import attention as native
from mbflow.dgl_compat import load_dgl
from mbflow.edge_attention.memory import Spares
from mbflow.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["EdgeGraph", "Ragged"]


class Ragged(Protocol):
    """What `Graph` and `Layer` of `mbflow.graph` have: edges as a ragged array over targets.

    Example:
        >>> from mbflow.edge_attention import Ragged
        >>> sorted(name for name in vars(Ragged) if not name.startswith("_"))
        ['offsets', 'sources']
    """

    @property
    def offsets(self) -> NDArray[Any]:
        """`[targets + 1]`."""

    @property
    def sources(self) -> NDArray[Any]:
        """`[edges]`."""


class EdgeGraph:
    """Edges as a ragged array over their targets, ready for attention.

    Arrays are held, not copied, and must not change: int64 or uint64 offsets; int32, uint32, int64
    or uint64 sources.
    What is worked out of them (the transposed edges for the backward pass) is kept for later calls.

    Args:
        offsets: `[targets + 1]`: the edges of target `t` are `offsets[t]..offsets[t + 1]`.
        sources: `[edges]`: the row that each edge comes from.
        rows: Rows of the features that sources and targets are among.
        first: The row of target 0; the others follow.
        targets: The row of each target, where they do not follow each other.

    Raises:
        InvalidArgumentError: An array is of another type or shape, offsets do not go from 0 up to
            the number of edges, or a source or target is not a row.

    Example:
        >>> import numpy as np
        >>> from mbflow.edge_attention import EdgeGraph
        >>> graph = EdgeGraph(np.array([0, 2, 2]), np.array([2, 0]), rows=3)
        >>> graph.targets, graph.edges, graph.rows
        (2, 2, 3)
    """

    def __init__(
        self,
        offsets: Any,
        sources: Any,
        *,
        rows: int,
        first: int = 0,
        targets: Any = None,
    ) -> None:
        self.offsets = _integers("offsets", offsets, (np.int64, np.uint64))
        self.sources = _integers("sources", sources, (np.int64, np.uint64, np.int32, np.uint32))
        self._rows_of_targets = (
            None if targets is None else _integers("targets", targets, (np.int32, np.uint32))
        )
        self.rows = rows
        self.first = first
        for name, array in (("offsets", self.offsets), ("sources", self.sources)):
            if array.dtype.kind == "i" and array.size and int(array.min()) < 0:
                at = int(np.argmax(array < 0))
                raise InvalidArgumentError(
                    f"{name}[{at}] is {array[at]}; expected numbers from 0 on"
                )
        self.native = native.EdgeGraph(
            _unsigned(self.offsets),
            _unsigned(self.sources),
            rows,
            first=first,
            targets=None if self._rows_of_targets is None else _unsigned(self._rows_of_targets),
        )
        self.spares = Spares()
        self._blocks: dict[str, Any] = {}

    @classmethod
    def of(cls, edges: EdgeGraph | Ragged, rows: int) -> EdgeGraph:
        """A `Graph` or a sampled `Layer`, made ready once and kept for as long as it lives.

        Args:
            edges: It, or what is ready already.
            rows: Rows of the features.

        Returns:
            The edges, ready.

        Raises:
            InvalidArgumentError: See above; or what is ready is for another number of rows.

        Example:
            >>> import numpy as np
            >>> from mbflow.edge_attention import EdgeGraph
            >>> from mbflow.graph import Layer
            >>> layer = Layer(np.array([0, 1]), np.array([1]), np.array([0]))
            >>> EdgeGraph.of(layer, 2) is EdgeGraph.of(layer, 2)
            True
        """
        if isinstance(edges, EdgeGraph):
            if edges.rows != rows:
                raise InvalidArgumentError(
                    f"the features have {rows} rows and the graph {edges.rows}; expected as many"
                )
            return edges
        if not hasattr(edges, "offsets") or not hasattr(edges, "sources"):
            advice = "; give one of its layers" if hasattr(edges, "layers") else ""
            raise InvalidArgumentError(
                f"edges is a {type(edges).__name__}; expected a Graph, a sampled Layer or an "
                f"EdgeGraph{advice}"
            )
        known = _ready.get(edges)
        if known is None or known.rows != rows:
            first = int(getattr(edges, "first", 0))
            known = cls(edges.offsets, edges.sources, rows=rows, first=first)
            _ready[edges] = known
        return known

    def __reduce__(self) -> tuple[Any, ...]:
        # What is worked out of the arrays is worked out again.
        make = partial(EdgeGraph, rows=self.rows, first=self.first, targets=self._rows_of_targets)
        return make, (self.offsets, self.sources)

    @property
    def targets(self) -> int:
        """The number of targets."""
        return len(self.offsets) - 1

    @property
    def edges(self) -> int:
        """The number of edges."""
        return len(self.sources)

    def source_index(self) -> torch.Tensor:
        """The row that each edge comes from, `int64 [edges]`, for plain torch operations."""
        return self._tensor("sources", lambda: _tensor(self.sources))

    def target_index(self) -> torch.Tensor:
        """The target that each edge leads to, `int64 [edges]`."""
        return self._tensor(
            "targets",
            lambda: torch.repeat_interleave(
                torch.arange(self.targets), torch.diff(_tensor(self.offsets))
            ),
        )

    def target_rows(self) -> torch.Tensor:
        """The row of each target, `int64 [targets]`."""
        if self._rows_of_targets is not None:
            return _tensor(self._rows_of_targets)
        return torch.arange(self.first, self.first + self.targets)

    @property
    def targets_come_first(self) -> bool:
        """Whether target `t` is row `t`."""
        return self._rows_of_targets is None and self.first == 0

    def edge_index(self) -> torch.Tensor:
        """Sources and targets, `int64 [2, edges]`, as PyG has them; made once."""
        return self._tensor(
            "index", lambda: torch.stack([self.source_index(), self.target_index()])
        )

    def dgl_block(self) -> Any:
        """The same edges as a DGL block, made once."""

        def block() -> Any:
            dgl = load_dgl(purpose='backend="dgl"')
            csc = (_tensor(self.offsets), self.source_index(), torch.arange(self.edges))
            return dgl.create_block(
                ("csc", csc), num_src_nodes=self.rows, num_dst_nodes=self.targets
            )

        return self._kept("dgl", block)

    def _tensor(self, name: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        tensor: torch.Tensor = self._kept(name, make)
        return tensor

    def _kept(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._blocks:
            self._blocks[name] = make()
        return self._blocks[name]


_ready: weakref.WeakKeyDictionary[Any, EdgeGraph] = weakref.WeakKeyDictionary()


def _integers(name: str, values: Any, types: tuple[type, ...]) -> NDArray[Any]:
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
    array = np.asarray(array)
    if array.ndim != 1 or array.dtype.type not in types:
        expected = ", ".join(kind.__name__ for kind in types)
        raise InvalidArgumentError(
            f"{name} is an array of {array.dtype} and shape {array.shape}; expected one dimension "
            f"and one of {expected}"
        )
    return np.ascontiguousarray(array)


def _unsigned(array: NDArray[Any]) -> NDArray[Any]:
    return array.view(f"u{array.dtype.itemsize}")


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(
        array.astype(np.int64, copy=array.dtype != np.int64 or not array.flags.writeable)
    )
