"""The two orders of duration batches: buckets that take turns, and sorted batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow import _native
from mbflow.speech.edges import Edges, bucket_edges
from mbflow.speech.shares import (
    BucketShare,
    Past,
    WindowShare,
    bucket_share,
    derived,
    turn_places,
    window_share,
)
from mbflow.speech.usable import bucket_sizes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mbflow.batches import Last, Turn
    from mbflow.speech.budget import Budget
    from mbflow.speech.lengths import Lengths
    from mbflow.speech.usable import Usable

__all__ = ["BucketOrder", "Cut", "WindowOrder"]

# Seeds derived from the seed of an epoch, one for each purpose.
_ITEMS, _TURNS, _CELLS, _STEPS, _TIES = range(5)
# The stream of the draw of how many batches the first cell has.
_FIRST = 53
# An iteration gets batches from the kernel in pieces of about this many items.
_PIECE = 1 << 16
# The least batches of a cell, so that there are several items to each place of a batch.
_LEAST = 4

Taken = tuple["NDArray[np.int64]", "NDArray[np.bool_]"]


@dataclass(frozen=True, eq=False)
class Cut:
    """Items in buckets or cells, each in a keyed order of its own and cut into batches.

    Attributes:
        offsets: Where the items of each bucket start, int64 of shape (buckets + 1,).
        items: The items, uint32.
        sizes: Items of a batch of each bucket; its last batch may hold fewer.
        counts: Items of each bucket.

    Example:
        >>> import numpy as np
        >>> from mbflow.speech.orders import Cut
        >>> items = np.array([4, 5, 6], np.uint32)
        >>> cut = Cut(np.array([0, 3]), items, np.array([2]), np.array([3]))
        >>> sorted(cut.look_up((0,), [0, 0], [0, 2], [2, 3]).tolist())
        [4, 5, 6]
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.uint32]
    sizes: NDArray[np.int64]
    counts: NDArray[np.int64]

    def look_up(
        self, key: tuple[int, ...], buckets: Any, firsts: Any, lasts: Any
    ) -> NDArray[np.int64]:
        """The items at places `firsts` to `lasts - 1` of buckets, one stretch after the other."""
        return _native.durations.bucket_items(self.offsets, self.items, key, buckets, firsts, lasts)

    def batches(
        self,
        key: tuple[int, ...],
        buckets: NDArray[Any],
        batches: NDArray[np.int64],
        others: dict[int, list[tuple[int, int, int]]],
    ) -> Iterator[NDArray[np.int64]]:
        """The items of one batch of each of some buckets; `others` are cut in another way.

        Args:
            key: The seed and what seeds are derived by.
            buckets: Of shape (batches,).
            batches: The number of each batch in its bucket.
            others: By place among the batches, the stretches (bucket, first, last) of it.

        Yields:
            The items of each.
        """
        firsts = batches * self.sizes[buckets]
        lasts = np.minimum(firsts + self.sizes[buckets], self.counts[buckets])
        ends = lasts - firsts
        stretches = (buckets.tolist(), firsts.tolist(), lasts.tolist())
        for at in sorted(others, reverse=True):
            ends[at] = sum(last - first for _, first, last in others[at])
            for column, values in zip(stretches, zip(*others[at], strict=True), strict=True):
                column[at : at + 1] = values
        items = self.look_up(key, *stretches)
        begin = 0
        for end in np.cumsum(ends).tolist():
            yield items[begin:end]
            begin = end


class BucketOrder:
    """Items in buckets; each bucket in a keyed order, cut into batches.

    Args:
        offsets: Where the items of each bucket start.
        items: The items of each bucket.
        edges: The buckets, each with an item.
        sizes: The most items of a batch of each bucket.
        multiple: Sizes are multiples of this, where there are so many items.
        last: What becomes of what does not fill a batch or a step, see `mbflow.batches.Last`.
        seed: Key of all draws.

    Example:
        >>> from mbflow.speech import DurationBatches
        >>> DurationBatches([1.0, 2.0, 2.0], budget=4.0, buckets=2)
        DurationBatches(3 of 3 items, 'buckets')
    """

    def __init__(
        self,
        offsets: NDArray[np.int64],
        items: NDArray[np.uint32],
        edges: Edges,
        sizes: NDArray[np.int64],
        *,
        multiple: int,
        last: Last,
        seed: int,
    ) -> None:
        self.edges = edges
        self._last: Last = last
        self._seed = seed
        self._multiple = multiple
        counts = np.diff(offsets)
        batches = -(-counts // sizes)
        if last == "drop":
            even = counts // batches
            rounded = np.where(
                counts >= multiple, np.maximum(even - even % multiple, multiple), even
            )
            sizes = np.minimum(sizes, rounded)
            self._batches = counts // sizes
        else:
            # As even as may be: the last batch of a bucket is not to be a small one.
            even = -(-counts // batches)
            sizes = np.minimum(np.minimum(sizes, -(-even // multiple) * multiple), counts)
            self._batches = -(-counts // sizes)
        self._cut = Cut(offsets, items, sizes, counts)
        self._uneven = (last == "short") & (counts % sizes > 0)

    @classmethod
    def of(
        cls,
        lengths: Lengths,
        used: Usable,
        budget: Budget,
        *,
        last: Last,
        seed: int,
    ) -> BucketOrder:
        """Sort items by bucket, leave out buckets without any, and work out batch sizes."""
        offsets, rows = _native.rows_by_class(used.bucket, len(used.edges))
        full = np.flatnonzero(np.diff(offsets))
        offsets = np.append(offsets[full], offsets[-1])
        items = rows if len(used.items) == len(lengths) else used.items[rows]
        edges = Edges(used.edges.seconds[full], used.edges.tokens[full])
        sizes = bucket_sizes(budget, edges, lengths, offsets, items)
        return cls(offsets, items, edges, sizes, multiple=budget.multiple, last=last, seed=seed)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Items of a batch of each bucket."""
        return self._cut.sizes

    @property
    def bytes(self) -> int:
        """Memory of the order in bytes."""
        return int(self._cut.items.nbytes)

    @property
    def residence(self) -> float:
        """Mean share of the items that is in the bucket of an item."""
        return _residence(self._cut.counts)

    def fingerprint(self) -> dict[str, int | str]:
        """What the order depends on, beside items and seed."""
        edges = self.edges.seconds.tobytes() + self.edges.tokens.tobytes()
        return {
            "edges": _native.xxh3_128(edges),
            "sizes": _native.xxh3_128(self.sizes.tobytes()),
        }

    def share(self, epoch: int, world_size: int, start: Past) -> BucketShare:
        """How an epoch is shared among ranks."""
        return bucket_share(
            self._batches,
            self._uneven,
            self._cut.counts,
            self.sizes,
            world_size=world_size,
            start=start,
            last=self._last,
            key=(self._seed, epoch, _TURNS),
        )

    def taken(self, epoch: int, share: Any, step: int, rank: int) -> Taken:
        """The items of a rank at a step, and which of them are repeats."""
        bucket, turn = share.turn(step, rank)
        places, repeats = self._places(bucket, turn)
        items = self._cut.look_up((self._seed, epoch, _ITEMS), *zip(*places, strict=True))
        marked = np.zeros(len(items), np.bool_)
        if repeats:
            marked[-repeats:] = True
        return items, marked

    def epoch(
        self, epoch: int, share: Any, start_step: int, rank: int
    ) -> Iterator[NDArray[np.int64]]:
        """The items of a rank at all steps."""
        piece = max(1, _PIECE // int(self.sizes.max()))
        for first in range(start_step, share.steps, piece):
            buckets, batches, turns = share.turns(first, min(first + piece, share.steps), rank)
            if self._last == "fill":
                # The last batch of a bucket may have to be filled up.
                last = np.flatnonzero(
                    (batches + 1) * self.sizes[buckets] > self._cut.counts[buckets]
                )
                turns |= {
                    at: share.turn(first + at, rank)[1] for at in last.tolist() if at not in turns
                }
            others = {at: self._places(int(buckets[at]), turn)[0] for at, turn in turns.items()}
            yield from self._cut.batches((self._seed, epoch, _ITEMS), buckets, batches, others)

    def _places(self, bucket: int, turn: Turn) -> tuple[list[tuple[int, int, int]], int]:
        """The stretches of a bucket's order that a turn takes, and how many items repeat."""
        size, items = int(self.sizes[bucket]), int(self._cut.counts[bucket])
        places, repeats = turn_places(turn, size, items, self._last, multiple=self._multiple)
        return [(bucket, first, last) for first, last in places], repeats


class WindowOrder:
    """Items sorted by length, in cells of neighbours that are cut into batches.

    A cell holds the batches that windows of `window` random items would cut from its lengths, if
    they were sorted; each epoch it is another one that the first cell starts with, so that cells
    end elsewhere.

    Args:
        lengths: The items.
        kept: Those that are used.
        budget: What a batch may cost.
        window: Items of a window.
        last: What becomes of what does not fill a step, see `mbflow.batches.Last`.
        seed: Key of all draws.

    Example:
        >>> from mbflow.speech import DurationBatches
        >>> DurationBatches([1.0, 2.0, 2.0], budget=4.0, order="window", window=2)
        DurationBatches(3 of 3 items, 'window')
    """

    def __init__(
        self,
        lengths: Lengths,
        kept: NDArray[np.uint32],
        budget: Budget,
        *,
        window: int,
        last: Last,
        seed: int,
    ) -> None:
        seconds, tokens = lengths.seconds, lengths.tokens
        self._lengths = lengths
        self._budget = budget
        self._window = window
        self._last: Last = last
        self._seed = seed
        self._windows = max(_LEAST, round(len(kept) / window))
        edges = np.empty(0)
        if tokens is not None:
            own, outputs = seconds[kept], tokens[kept]
            size = budget.sizes([own.mean(dtype=np.float64)], [outputs.mean(dtype=np.float64)])[0]
            # As many stripes by seconds as each has cells by tokens: both are then padded alike.
            stripes = round(math.sqrt(len(kept) / (self._windows * max(1, size))))
            edges = bucket_edges(own, buckets=max(1, stripes)).seconds
        self._sorted = _native.durations.sorted_items(kept, *self._columns(), edges, (seed, _TIES))
        self._cuts: dict[int, tuple[Cut, NDArray[np.int64]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cuts": {}}

    def _columns(self) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
        tokens = self._lengths.tokens
        outputs = np.empty(0, np.uint32) if tokens is None else np.ascontiguousarray(tokens)
        return np.ascontiguousarray(self._lengths.seconds), outputs

    def _cut(self, epoch: int) -> tuple[Cut, NDArray[np.int64]]:
        """The cells of an epoch, and the number of the first batch of each."""
        found = self._cuts.get(epoch)
        if found is None:
            seed = derived(self._seed, epoch, _CELLS)
            first = 1 + int(_native.random_integers(seed, _FIRST, self._windows, 0, 1)[0])
            offsets, sizes = _native.durations.cells(
                self._sorted,
                *self._columns(),
                np.array(self._budget.limits),
                multiple=self._budget.multiple,
                batches=self._windows,
                first=first,
            )
            counts = np.diff(offsets)
            batches = np.concatenate([[0], np.cumsum(-(-counts // sizes))])
            found = (Cut(offsets, self._sorted, sizes, counts), batches)
            # An epoch at a time is gone over; a report looks at the next one, too. Other threads
            # may look, so the cache is replaced and not changed.
            self._cuts = dict(list(self._cuts.items())[-1:]) | {epoch: found}
        return found

    @property
    def bytes(self) -> int:
        """Memory of the order in bytes."""
        return int(self._sorted.nbytes)

    @property
    def residence(self) -> float:
        """Mean share of the items that is in the cell of an item."""
        return _residence(self._cut(0)[0].counts)

    def fingerprint(self) -> dict[str, int | str]:
        """What the order depends on, beside items and seed."""
        limits = repr((self._budget.limits, self._budget.multiple))
        return {"window": self._window, "budget": _native.xxh3_128(limits.encode())}

    def share(self, epoch: int, world_size: int, start: Past) -> WindowShare:
        """How an epoch is shared among ranks."""
        return window_share(
            int(self._cut(epoch)[1][-1]),
            world_size=world_size,
            start=start,
            last=self._last,
            key=(self._seed, epoch, _STEPS),
        )

    def taken(self, epoch: int, share: Any, step: int, rank: int) -> Taken:
        """The items of a rank at a step, and which of them are repeats."""
        cut, numbers = self._cut(epoch)
        (bucket, first, last), repeat = self._place(cut, numbers, share, step, rank)
        items = cut.look_up((self._seed, epoch, _ITEMS), [bucket], [first], [last])
        return items, np.full(len(items), repeat)

    def epoch(
        self, epoch: int, share: Any, start_step: int, rank: int
    ) -> Iterator[NDArray[np.int64]]:
        """The items of a rank at all steps."""
        cut, numbers = self._cut(epoch)
        piece = max(1, _PIECE // int(cut.sizes.max()))
        for first in range(start_step, share.steps, piece):
            batches, short = share.turns(first, min(first + piece, share.steps), rank)
            cells = np.searchsorted(numbers, batches, side="right") - 1
            others = {at: [self._place(cut, numbers, share, first + at, rank)[0]] for at in short}
            key = (self._seed, epoch, _ITEMS)
            yield from cut.batches(key, cells, batches - numbers[cells], others)

    def _place(
        self, cut: Cut, numbers: NDArray[np.int64], share: WindowShare, step: int, rank: int
    ) -> tuple[tuple[int, int, int], bool]:
        """The stretch (cell, first, last) that a rank takes, and whether it is a repeat."""
        taken, rank = share.turn(step, rank)
        ranks, batches = share.world_size, len(taken)
        if batches == ranks or self._last == "fill":
            return self._stretch(cut, numbers, int(taken[rank % batches])), rank >= batches
        # Fewer batches than ranks: each is cut for several, and what is cut from a batch that is
        # within the budget is, too.
        place = rank * batches // ranks
        begin, end = -(-place * ranks // batches), -(-(place + 1) * ranks // batches)
        cell, first, last = self._stretch(cut, numbers, int(taken[place]))
        items, part, parts = last - first, rank - begin, end - begin
        cuts = [-(-items * at // parts) for at in (part, part + 1)]
        if cuts[0] < cuts[1]:
            return (cell, first + cuts[0], first + cuts[1]), False
        again = first + part % items
        return (cell, again, again + 1), True

    @staticmethod
    def _stretch(cut: Cut, numbers: NDArray[np.int64], batch: int) -> tuple[int, int, int]:
        cell = int(np.searchsorted(numbers, batch, side="right")) - 1
        size = int(cut.sizes[cell])
        first = (batch - int(numbers[cell])) * size
        return cell, first, min(first + size, int(cut.counts[cell]))


def _residence(counts: NDArray[np.int64]) -> float:
    shares = counts / counts.sum()
    return float(shares @ shares)
