"""Which items batches use, in which bucket each is, and how many of a bucket fit into a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mbflow.errors import DataError, InvalidArgumentError
from mbflow.speech.dropped import Dropped
from mbflow.speech.edges import Edges, bucket_edges

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mbflow.speech.budget import Budget
    from mbflow.speech.lengths import Lengths

__all__ = ["Usable", "bucket_sizes", "fitting"]

TooLong = Literal["error", "drop"]


@dataclass(frozen=True, eq=False)
class Usable:
    """The items that are used, each in a bucket that is large enough.

    Attributes:
        items: Their numbers, uint32 of shape (used,), ascending.
        bucket: uint32 likewise.
        edges: The buckets.
        dropped: The items that are not.

    Example:
        >>> from mbflow.speech import Budget, Lengths
        >>> from mbflow.speech.dropped import outlying
        >>> from mbflow.speech.usable import Usable
        >>> lengths = Lengths.of([1.0, 9.0, 0.2])
        >>> dropped = outlying(lengths, min_seconds=0.5)
        >>> found = Usable.of(lengths, dropped, Budget.padded_seconds(10), buckets=2)
        >>> found.items.tolist(), found.bucket.tolist()
        ([0, 1], [0, 1])
    """

    items: NDArray[np.uint32]
    bucket: NDArray[np.uint32]
    edges: Edges
    dropped: Dropped

    @classmethod
    def of(
        cls,
        lengths: Lengths,
        dropped: Dropped,
        budget: Budget,
        *,
        buckets: int | tuple[int, int] = 30,
        edges: Any = "optimal",
        edge_step: float | None = None,
        too_long: TooLong = "error",
        weights: NDArray[np.float64] | None = None,
        name: Callable[[int], str] = "item {}".format,
    ) -> Usable:
        """Leave out what does not fit, cut the rest into buckets, and put each item into its own.

        Args:
            lengths: All items.
            dropped: Those that are left out already, see `outlying`.
            budget: What a batch may cost.
            buckets: How many at most, see `bucket_edges`.
            edges: Which edges, see `bucket_edges`; none beside a budget of sizes by bucket.
            edge_step: Edges by seconds are rounded up to multiples of this many seconds.
            too_long: What becomes of items that are above the budget alone, or above all edges.
            weights: How often each item comes, see `bucket_edges`.
            name: What a message calls an item.

        Returns:
            The items.

        Raises:
            DataError: No item is left, or one is too long.
            InvalidArgumentError: A parameter is out of range.
        """
        if budget.table:
            if not isinstance(edges, str):
                raise InvalidArgumentError(
                    "edges are given twice: the budget is a table of sizes by bucket, which names "
                    "them"
                )
            edges = [(row[0], row[1]) for row in budget.table]
        items, dropped = fitting(lengths, dropped, budget, too_long=too_long, name=name)
        seconds, tokens = _lengths_of(lengths, items)
        cut = bucket_edges(
            seconds,
            tokens,
            buckets=buckets,
            edges=edges,
            step=edge_step,
            weights=None if weights is None else weights[items],
        )
        if tokens is None and np.isfinite(cut.tokens).any():
            raise InvalidArgumentError("edges by tokens need tokens; pass them")
        bucket = cut.assign(seconds, tokens)
        fits = bucket < len(cut)
        if not fits.all():
            last, most = float(cut.seconds[-1]), float(cut.tokens.max())
            reason = f"above the last edge, {last:g} s" + (
                f" (and {most:g} tokens)" if np.isfinite(most) else ""
            )
            dropped = _without(lengths, items[~fits], reason, dropped, (too_long, name))
            items, bucket = _some(items[fits], dropped, lengths), bucket[fits]
        return cls(items, bucket, cut, dropped)


def fitting(
    lengths: Lengths,
    dropped: Dropped,
    budget: Budget,
    *,
    too_long: TooLong = "error",
    name: Callable[[int], str] = "item {}".format,
) -> tuple[NDArray[np.uint32], Dropped]:
    """The items that are not dropped, each of which is within a budget alone.

    Args:
        lengths: All items.
        dropped: Those that are left out already, see `outlying`.
        budget: What a batch may cost.
        too_long: What becomes of items that are above the budget alone.
        name: What a message calls an item.

    Returns:
        Their numbers, uint32 of shape (used,), ascending; and the others.

    Raises:
        DataError: No item is left, or one is above the budget alone.
        InvalidArgumentError: There is no such rule.

    Example:
        >>> from mbflow.speech import Budget, Lengths
        >>> from mbflow.speech.dropped import outlying
        >>> from mbflow.speech.usable import fitting
        >>> lengths = Lengths.of([1.0, 9.0, 0.2])
        >>> dropped = outlying(lengths, min_seconds=0.5)
        >>> fitting(lengths, dropped, Budget.padded_seconds(10))[0].tolist()
        [0, 1]
    """
    if too_long not in ("error", "drop"):
        raise InvalidArgumentError(f"too_long is {too_long!r}; expected 'error' or 'drop'")
    if budget.needs_tokens and lengths.tokens is None:
        raise InvalidArgumentError("the budget counts tokens; pass those of each item")
    items = np.arange(len(lengths), dtype=np.uint32)
    if len(dropped):
        items = _some(np.delete(items, dropped.items), dropped, lengths)
    seconds, tokens = _lengths_of(lengths, items)
    # A budget grows with both lengths, so where their largest values fit together, all do.
    if budget.table or budget.sizes([seconds.max()], None if tokens is None else [tokens.max()])[0]:
        return items, dropped
    alone = budget.sizes(seconds, tokens) > 0
    if alone.all():
        return items, dropped
    reason = "above the budget alone"
    dropped = _without(lengths, items[~alone], reason, dropped, (too_long, name))
    return _some(items[alone], dropped, lengths), dropped


def _some(items: NDArray[np.uint32], dropped: Dropped, lengths: Lengths) -> NDArray[np.uint32]:
    if not len(items):
        raise DataError(
            f"no item is left: {len(dropped)} of {len(lengths)} were dropped, the first as "
            f"{dropped.reason(0)}"
        )
    return items


def _lengths_of(
    lengths: Lengths, items: NDArray[np.uint32]
) -> tuple[NDArray[np.float32], NDArray[np.uint32] | None]:
    seconds, tokens = lengths.seconds, lengths.tokens
    if len(items) == len(lengths):
        # All of them, in order: no copy of what may be large.
        return seconds, tokens
    return seconds[items], None if tokens is None else tokens[items]


def _without(
    lengths: Lengths,
    out: NDArray[np.uint32],
    reason: str,
    dropped: Dropped,
    rule: tuple[TooLong, Callable[[int], str]],
) -> Dropped:
    """The items that are dropped and those that do not fit, or an error that names the first."""
    seconds, tokens = _lengths_of(lengths, out)
    too_long, name = rule
    if too_long == "error":
        size = f"{seconds[0]:g} seconds" + ("" if tokens is None else f" and {tokens[0]} tokens")
        raise DataError(
            f"{name(int(out[0]))} of {size} is {reason}, as {len(out)} of {len(lengths)}; raise "
            "the limit, set max_seconds, or drop such items by too_long='drop'",
            row=int(out[0]),
        )
    return dropped.more(out, reason)


def bucket_sizes(
    budget: Budget,
    edges: Edges,
    lengths: Lengths,
    offsets: NDArray[np.int64],
    items: NDArray[np.uint32],
) -> NDArray[np.int64]:
    """The most items that a batch of each bucket may hold.

    Args:
        budget: What a batch may cost.
        edges: The buckets, each with an item.
        lengths: All items.
        offsets: Where the items of each bucket start, of shape (buckets + 1,).
        items: The items of each bucket.

    Returns:
        int64 of shape (buckets,), at least 1: each item fits alone, though the corner of its bucket
        may not.

    Example:
        >>> import numpy as np
        >>> from mbflow.speech import Budget, Edges, Lengths
        >>> from mbflow.speech.usable import bucket_sizes
        >>> bucket_sizes(
        ...     Budget.padded_seconds(10), Edges.of([2.0]), Lengths.of([2.0]), np.array([0, 1]),
        ...     np.array([0], np.uint32),
        ... ).tolist()
        [5]
    """
    outputs = None
    if lengths.tokens is not None:
        most = np.maximum.reduceat(lengths.tokens[items], offsets[:-1]).astype(np.float64)
        outputs = np.minimum(edges.tokens, most)
    return np.maximum(budget.sizes(edges.seconds, outputs), 1)
