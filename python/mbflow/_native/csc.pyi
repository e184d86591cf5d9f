# ruff: noqa: PYI021  -- the stub is the reference manual: users and editors read its docstrings
"""The kernels of graphs in compressed sparse columns: counting sort of edge lists, and checks.

What `mbflow._native` says of its functions goes for these, too. Arrays must be contiguous and of
the type that is stated: these are inner parts of `mbflow.graph`, which checks what it is given.
Sources and targets are of one type: int32, int64, uint32 or uint64.
"""

from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Builder", "check_offsets", "check_sources", "deal_edges", "degree_bins", "take"]

@final
class Builder:
    """Columns from an edge list that is read twice, in any number of pieces.

    There are as many `nodes` as the ids ask for where that is None, and no more than `most`; with
    `source_nodes` None, too, sources and targets are the same nodes. `first` is what the first
    target is called. With `rows` each edge keeps its row of the list; `swapped` only says which end
    messages call which.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import csc
        >>> sources, targets = np.array([2, 1, 0]), np.array([0, 0, 2])
        >>> builder = csc.Builder(None, None, rows=True)
        >>> builder.count(sources, targets)
        >>> builder.fill(sources, targets)
        >>> offsets, sources, rows, weights, source_nodes = builder.finish()
        >>> offsets.tolist(), sources.tolist(), rows.tolist(), weights, source_nodes
        ([0, 2, 2, 3], [1, 2, 0], [1, 0, 2], None, 3)
    """

    def __new__(
        cls,
        nodes: int | None,
        source_nodes: int | None,
        *,
        first: int = 0,
        undirected: bool = False,
        self_loops: Literal["keep", "drop", "add"] = "keep",
        swapped: bool = False,
        rows: bool = False,
        most: int = ...,
    ) -> Builder: ...
    def count(
        self, sources: NDArray[Any] | None, targets: NDArray[Any], first_row: int = 0
    ) -> None:
        """The first pass: count the edges of a piece, whose first row is `first_row`.

        Where all numbers are given and the rules keep edges as they are, it needs no sources.
        """

    def fill(self, sources: NDArray[Any], targets: NDArray[Any], first_row: int = 0) -> None:
        """The second pass over the same pieces: put the edges into place."""

    def finish(
        self,
        *,
        duplicates: Literal["keep", "drop", "count"] = "keep",
        weights: NDArray[np.float32] | None = None,
    ) -> tuple[
        NDArray[np.uint64],
        NDArray[np.uint32],
        NDArray[np.uint32] | None,
        NDArray[np.float32] | None,
        int,
    ]:
        """Offsets, sources, rows, what was counted, and how many nodes the sources are of.

        With `duplicates="count"`, `weights` of the rows are added up, or else edges counted. The
        row of a self loop that was added is 2^32 - 1.
        """

def check_offsets(offsets: NDArray[np.uint64], edges: int) -> None:
    """Check that offsets start at 0, never fall, and end at the number of edges.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import csc
        >>> csc.check_offsets(np.array([0, 2, 1], np.uint64), 1)
        Traceback (most recent call last):
        ...
        mbflow.errors.InvalidArgumentError: offsets: node 1 ends at 1 before its start 2
    """

def check_sources(sources: NDArray[np.uint32], source_nodes: int) -> None:
    """Check that all sources are below `source_nodes`.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import csc
        >>> csc.check_sources(np.array([0, 1], np.uint32), 2)
    """

def deal_edges(
    sources: NDArray[Any],
    targets: NDArray[Any],
    *,
    source_nodes: int,
    firsts: list[int],
    undirected: bool,
    self_loops: Literal["keep", "drop", "add"],
    swapped: bool,
    first_row: int,
) -> list[tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]]:
    """Deal edges into ranges of targets, `firsts[r]` to `firsts[r + 1] - 1`, in the order of rows.

    For each block of edges: where each range starts, sources, targets, and rows modulo 2^32.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import csc
        >>> ((starts, sources, targets, rows),) = csc.deal_edges(
        ...     np.array([5, 6, 7]), np.array([9, 0, 8]), source_nodes=10, firsts=[0, 4, 10],
        ...     undirected=False, self_loops="keep", swapped=False, first_row=0)
        >>> starts.tolist(), sources.tolist(), targets.tolist(), rows.tolist()
        ([0, 1, 3], [6, 5, 7], [0, 9, 8], [1, 0, 2])
    """

def degree_bins(
    sources: NDArray[Any],
    targets: NDArray[Any],
    *,
    source_nodes: int,
    nodes: int,
    shift: int,
    undirected: bool,
    self_loops: Literal["keep", "drop", "add"],
    swapped: bool,
    first_row: int,
) -> NDArray[np.uint64]:
    """Count the edges that lead to each bin of `2**shift` nodes.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import csc
        >>> csc.degree_bins(
        ...     np.array([5, 6, 7]), np.array([9, 0, 8]), source_nodes=10, nodes=10, shift=2,
        ...     undirected=False, self_loops="keep", swapped=False, first_row=0).tolist()
        [1, 0, 2]
    """

def take(values: NDArray[Any], rows: NDArray[np.uint32], missing: float) -> NDArray[Any]:
    """The value of each edge from those of the rows; `missing` for the row 2^32 - 1.

    Values are float32, uint16, int64, uint32 or uint64.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import csc
        >>> csc.take(np.array([1.5, 2.5], np.float32), np.array([1, 0], np.uint32), 1.0)
        array([2.5, 1.5], dtype=float32)
    """
