"""Neighbours as dense tables: whole, around some rows, or drawn; only what is named is gathered.

One row an instance, one slot a neighbour, slot 0 the instance itself. Offsets, neighbours and
features may be memory-mapped: no function here reads more of them than the rows that it is asked
for.

Imports torch; the rest of `mbflow.select` imports this module only when attention is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from mbflow.edge_attention import EdgeGraph

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Subgraph", "Table", "build_table", "dense_table", "renumbered"]

# Below this share of the rows, a sort of what a table names is faster than marks for all rows.
_FEW = 1 / 8


@dataclass(frozen=True)
class Table:
    """Neighbours as a table, one row a target.

    Attributes:
        sources: int32 of shape (targets, slots): row numbers in the source matrix; slot 0 is the
            target itself, unused slots repeat it.
        unused: bool of the same shape, or None where all slots are used.
        source_rows: Rows of the source matrix.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.subgraph import build_table
        >>> table = build_table(np.array([[0, 1], [1, 1]], np.int32), np.eye(2, k=-1) < 0, 2)
        >>> table.edges.edges, table.source_rows
        (4, 2)
    """

    sources: torch.Tensor
    unused: torch.Tensor | None
    source_rows: int

    @cached_property
    def edges(self) -> EdgeGraph:
        """The used slots as a ragged graph for the kernels, made once."""
        sources = self.sources.numpy()
        if self.unused is None:
            offsets = np.arange(len(sources) + 1, dtype=np.int64) * sources.shape[1]
            flat = sources.reshape(-1)
        else:
            used = ~self.unused.numpy()
            offsets = np.zeros(len(sources) + 1, dtype=np.int64)
            np.cumsum(used.sum(axis=1), out=offsets[1:])
            flat = sources[used]
        return EdgeGraph(offsets, flat, rows=self.source_rows, targets=sources[:, 0])

    def to(self, device: torch.device) -> Table:
        """The same table on another device."""
        unused = None if self.unused is None else self.unused.to(device)
        return Table(self.sources.to(device), unused, self.source_rows)


def dense_table(
    offsets: NDArray[np.int64],
    neighbours: NDArray[np.int32],
    rows: NDArray[np.int64] | None = None,
    *,
    fanout: int | None = None,
    key: int = 0,
) -> tuple[NDArray[np.int32], NDArray[np.bool_] | None]:
    """Neighbours of all or of some rows as a table with the row itself in slot 0.

    Args:
        offsets: int64 of shape (all rows + 1,).
        neighbours: int32 of shape (edges,).
        rows: The rows asked for; all by default.
        fanout: The most neighbours of a row, drawn without replacement where it has more.
        key: Key of the draw.

    Returns:
        int32 of shape (rows, 1 + the largest degree) and which slots are unused, None if none is.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.subgraph import dense_table
        >>> dense_table(np.array([0, 1, 2]), np.array([1, 0], np.int32))
        (array([[0, 1],
               [1, 0]], dtype=int32), None)
    """
    chosen = np.arange(len(offsets) - 1) if rows is None else rows
    starts = offsets[chosen]
    degrees = offsets[chosen + 1] - starts
    width = int(degrees.max(initial=0))
    slots = np.broadcast_to(np.arange(width), (len(chosen), width))
    if fanout is not None and width > fanout:
        drawn = np.random.Generator(np.random.SFC64(key)).random(slots.shape, dtype=np.float32)
        drawn[slots >= degrees[:, None]] = 2.0  # after all that there are
        slots = np.sort(np.argpartition(drawn, fanout - 1, axis=1)[:, :fanout], axis=1)
        width = fanout
    table = np.repeat(chosen.astype(np.int32)[:, None], width + 1, axis=1)
    used = slots < degrees[:, None]
    table[:, 1:][used] = neighbours[(starts[:, None] + slots)[used]]
    if used.all():
        return table, None
    unused = np.zeros(table.shape, dtype=np.bool_)
    unused[:, 1:] = ~used
    return table, unused


def build_table(
    sources: NDArray[np.int32], unused: NDArray[np.bool_] | None, source_rows: int
) -> Table:
    """The table of these arrays, in torch.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.subgraph import build_table
        >>> build_table(np.array([[0, 1], [1, 0]], np.int32), None, 2).sources.shape
        torch.Size([2, 2])
    """
    return Table(
        sources=torch.from_numpy(np.ascontiguousarray(sources)),
        unused=None if unused is None else torch.from_numpy(unused),
        source_rows=source_rows,
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
        >>> from mbflow.select.subgraph import Subgraph
        >>> offsets, neighbours = np.array([0, 1, 2, 3]), np.array([1, 0, 0], np.int32)
        >>> Subgraph.around(offsets, neighbours, np.array([1])).inputs
        array([0, 1])
    """

    inputs: NDArray[np.int64]
    first: Table
    second: Table

    @classmethod
    def around(
        cls,
        offsets: NDArray[np.int64],
        neighbours: NDArray[np.int32],
        rows: NDArray[np.int64],
        *,
        fanout: int | None = None,
        keys: tuple[int, int] = (0, 0),
    ) -> Subgraph:
        """The part of the graph within two steps of `rows`, or of a draw of so many neighbours."""
        count = len(offsets) - 1
        second, second_unused = dense_table(offsets, neighbours, rows, fanout=fanout, key=keys[0])
        middle, second_local = renumbered(second, count)
        first, first_unused = dense_table(offsets, neighbours, middle, fanout=fanout, key=keys[1])
        inputs, first_local = renumbered(first, count)
        return cls(
            inputs,
            build_table(first_local, first_unused, len(inputs)),
            build_table(second_local, second_unused, len(middle)),
        )

    def to(self, device: torch.device) -> Subgraph:
        """The same part with its tables on another device."""
        if device.type == "cpu":
            return self
        return Subgraph(self.inputs, self.first.to(device), self.second.to(device))


def renumbered(table: NDArray[np.int32], count: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The rows that a table names, ascending, and the table in terms of their positions.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.subgraph import renumbered
        >>> renumbered(np.array([[5, 2]], np.int32), 6)
        (array([2, 5]), array([[1, 0]], dtype=int32))
    """
    if table.size < _FEW * count:
        few, inverse = np.unique(table, return_inverse=True)
        return few.astype(np.int64), inverse.astype(np.int32).reshape(table.shape)
    named = np.zeros(count, dtype=np.bool_)
    named[table] = True
    rows = np.flatnonzero(named)
    position = np.empty(count, dtype=np.int32)
    position[rows] = np.arange(len(rows), dtype=np.int32)
    return rows, position[table]
