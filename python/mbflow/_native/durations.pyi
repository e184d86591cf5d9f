# ruff: noqa: PYI021  -- the stub is the reference manual: users and editors read its docstrings
"""The kernels of duration batches: edges, budgets, turns, stretches of buckets, windows, packing.

What `mbflow._native` says of its functions goes for these, too. Arrays must be contiguous and of
the type that is stated: these are inner parts of `mbflow.speech`, which checks what it is given.
"""

from collections.abc import Sequence
from typing import Literal, Self, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Interleave",
    "OptimalEdges",
    "batch_sizes",
    "bucket_items",
    "bucket_of",
    "cells",
    "pack",
    "sorted_items",
]

def batch_sizes(
    limits: NDArray[np.float64],
    seconds: NDArray[np.float64],
    tokens: NDArray[np.float64],
    *,
    multiple: int = 1,
) -> NDArray[np.int64]:
    """How many items of each shape a batch may hold, see `mbflow.speech.Budget`.

    `limits` are of shape (limits, 8), `seconds` and `tokens` of shape (shapes,), as the result.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import durations
        >>> limits = np.array([[0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 600.0]])
        >>> durations.batch_sizes(limits, np.array([20.0]), np.array([0.0]))
        array([30])
    """

@final
class OptimalEdges:
    """The cheapest ways to cut sorted candidates into one bucket, two, up to `buckets`.

    Candidate `i` stands for `counts[i]` items, which cost `costs[i]` each when padded to it; costs
    do not fall. An item goes to the first edge that is not below it. Exact, by dynamic
    programming over the lower hulls of lines: O(buckets * candidates).

    Example:
        >>> import numpy as np
        >>> from mbflow._native import durations
        >>> costs, counts = np.array([1.0, 2.0, 9.0]), np.array([5, 5, 5], np.uint64)
        >>> found = durations.OptimalEdges(costs, counts, 2)
        >>> found.costs, found.edges(2)
        (array([135.,  65.]), array([1, 2]))

    Source: Wu, "Optimal quantization by matrix searching", Journal of Algorithms, 1991 (the same
    problem).
    """

    def __new__(
        cls, costs: NDArray[np.float64], counts: NDArray[np.uint64], buckets: int
    ) -> Self: ...
    @property
    def costs(self) -> NDArray[np.float64]:
        """What all items cost with one bucket, two, and so on, as far as there are candidates."""

    def edges(self, buckets: int) -> NDArray[np.int64]:
        """The candidates that are edges, ascending; the last one always is."""

@final
class Interleave:
    """Rounds in which track `i` has `turns[i]` turns, spread so that all tracks end together.

    A track cuts a round into as many stretches as it has turns and has one at a random place of
    each. Whose turn it is is found in O(tracks), wherever the turn stands; rounds go on for ever.
    `key` is a seed and numbers that seeds are derived by.

    Example:
        >>> from mbflow._native import durations
        >>> turns = durations.Interleave([1, 3], (7,))
        >>> sorted(turns.at(turn) for turn in range(4))
        [(0, 0), (1, 0), (1, 1), (1, 2)]
    """

    def __new__(cls, turns: Sequence[int], key: Sequence[int]) -> Self: ...
    @property
    def round(self) -> int:
        """The turns of a round."""

    def at(self, turn: int) -> tuple[int, int]:
        """Whose turn it is, and how many turns that track had before."""

    def before(self, turn: int) -> NDArray[np.int64]:
        """How many of the first `turn` turns each track has: of shape (tracks,)."""

    def turns(self, first: int, last: int) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """What `at` says of the turns `first` to `last - 1`."""

def bucket_items(
    offsets: NDArray[np.int64],
    items: NDArray[np.uint32],
    key: Sequence[int],
    buckets: Sequence[int],
    firsts: Sequence[int],
    lasts: Sequence[int],
) -> NDArray[np.int64]:
    """The items at places `firsts[i]` to `lasts[i] - 1` of the keyed order of `buckets[i]`.

    They come one stretch after the other. Bucket `b` is `items[offsets[b]:offsets[b + 1]]`; what is
    asked for costs what it holds, wherever it stands.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import durations
        >>> offsets, items = np.array([0, 3]), np.array([7, 8, 9], np.uint32)
        >>> sorted(durations.bucket_items(offsets, items, (0,), [0, 0], [0, 1], [1, 3]).tolist())
        [7, 8, 9]
    """

def bucket_of(lengths: NDArray[np.float32], edges: NDArray[np.float64]) -> NDArray[np.uint32]:
    """The bucket of each length: how many of the `edges`, which rise, are below it.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import durations
        >>> durations.bucket_of(np.array([2, 2.5, 9], np.float32), np.array([2.0, 4.0]))
        array([0, 1, 2], dtype=uint32)
    """

def sorted_items(
    items: NDArray[np.uint32],
    seconds: NDArray[np.float32],
    tokens: NDArray[np.uint32],
    edges: NDArray[np.float64],
    key: Sequence[int],
) -> NDArray[np.uint32]:
    """Items from the longest to the shortest, equal ones in keyed order.

    `seconds` and `tokens` (empty for none) are those of all items. With tokens, the items are cut
    by seconds into stripes after `edges`, which rise, and those are sorted by tokens, falling and
    rising in turn.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import durations
        >>> items, none = np.array([0, 1, 3], np.uint32), np.empty(0, np.uint32)
        >>> seconds = np.array([3, 1, 2, 8], np.float32)
        >>> durations.sorted_items(items, seconds, none, np.empty(0), (0,))
        array([3, 0, 1], dtype=uint32)
    """

def cells(
    items: NDArray[np.uint32],
    seconds: NDArray[np.float32],
    tokens: NDArray[np.uint32],
    limits: NDArray[np.float64],
    *,
    multiple: int,
    batches: int,
    first: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut what `sorted_items` gave into cells of `batches` batches, and `first` the first cell.

    Where each cell starts, of shape (cells + 1,), and how many items each of its batches holds, of
    shape (cells,): a cell goes as far as the budget allows batches of its longest item to go.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import durations
        >>> limits = np.array([[0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 8.0]])
        >>> seconds, none = np.array([8, 8, 4, 3, 2, 2], np.float32), np.empty(0, np.uint32)
        >>> items = np.arange(6, dtype=np.uint32)
        >>> durations.cells(items, seconds, none, limits, multiple=1, batches=2, first=2)
        (array([0, 2, 6]), array([1, 2]))
    """

def pack(
    lengths: NDArray[np.uint64], capacity: int, *, fit: Literal["first", "best"] = "best"
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Pack items into rows of one capacity by first-fit or best-fit decreasing: offsets and items.

    At most 11/9 of the fewest rows, and 6/9 of one; O(items * log items).

    Example:
        >>> import numpy as np
        >>> from mbflow._native import durations
        >>> durations.pack(np.array([4, 7, 3, 6], np.uint64), 10)
        (array([0, 2, 4]), array([1, 2, 3, 0], dtype=uint32))

    Source: Dosa, "The tight bound of first fit decreasing bin-packing algorithm", ESCAPE 2007.
    """
