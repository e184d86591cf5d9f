"""Rows of one capacity, packed with whole items, as a pure function of epoch, step and rank."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mbflow import _native
from mbflow.batches import BatchSampler, Last, Share, check_whole, share_whole
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.speech.lengths import Lengths, column_numbers, refuse_items, rounded_up
from mbflow.speech.shares import turn_places

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl
    from numpy.typing import NDArray

__all__ = ["PackReport", "PackedBatches", "PackedRows"]

# Seeds derived from the seed of an epoch, one for each purpose.
_ROWS, _ITEMS = range(2)
# By default lengths are rounded up to the capacity over a number between these, about one to so
# many items: with few items a fine grid leaves none of equal length to change places with.
_GRIDS = (1 << 12, 1 << 16)
_ITEMS_A_CELL = 16
# An iteration gets batches from the kernels in pieces of about this many items.
_PIECE = 1 << 16
# The order of all items at once takes about as long as to look up one of so many, one by one.
_ONE_OF = 16
# Capacities are at least what single precision holds in full, and are counted in the kernels.
_LEAST, _MOST = float(np.finfo(np.float32).tiny), 2**63 - 1
# Steps of the grid that a capacity may be: more are finer than double precision.
_STEPS = 2**53
# A capacity may be exceeded by the rounding of a product and of a quotient.
_ROUNDING = 1 + 2.0**-50
# Numbers of items, and so of rows and ranks that have one, are below this.
_ITEMS_BELOW = 2**32


_Orders = tuple["NDArray[np.uint32]", "NDArray[np.uint32]"]


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Rows of items, as a ragged array.

    Attributes:
        offsets: int64 of shape (rows + 1,).
        items: int64: row `i` holds `items[offsets[i]:offsets[i + 1]]`, longest first as far
            as the grid of `PackedBatches.resolution` tells them apart.
        repeats: bool of shape (rows,): which rows have another, unmarked place in the epoch.

    Example:
        >>> from mbflow.speech import PackedBatches
        >>> rows = PackedBatches([6, 3, 1], capacity=10).batch(0, 0)
        >>> len(rows), rows.offsets.tolist(), rows.items.tolist()
        (1, [0, 3], [0, 1, 2])
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int64]
    repeats: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.repeats)

    def tolist(self) -> list[list[int]]:
        """The items of each row.

        Example:
            >>> from mbflow.speech import PackedBatches
            >>> PackedBatches([6, 3, 1], capacity=10).batch(0, 0).tolist()
            [[0, 1, 2]]
        """
        items, ends = self.items.tolist(), self.offsets.tolist()
        return [items[first:last] for first, last in pairwise(ends)]


@dataclass(frozen=True)
class PackReport:
    """What an epoch of packed rows comes to.

    Attributes:
        world_size: Number of ranks.
        steps: Steps of each rank.
        rows: Rows of an epoch.
        bound: Rows that no packing can be below: what all items are long, over the capacity.
        items: Items of an epoch.
        dropped: Items that are in no epoch.
        waste: The share of the capacity of all rows that no item fills.

    Example:
        >>> from mbflow.speech import PackedBatches
        >>> PackedBatches([6, 3, 7], capacity=10).report(world_size=2).waste
        0.2
    """

    world_size: int
    steps: int
    rows: int
    bound: int
    items: int
    dropped: int
    waste: float


class PackedBatches:
    """Batches of rows that hold several items each, up to a capacity, for packed attention.

    Items are packed once, by best-fit or first-fit decreasing, none of them split. In each epoch
    the rows come in a new keyed order, and items of equal length change places by another, so that
    an item has other partners in each epoch while rows, steps and waste stay what they are. Which
    rows rank `r` of `w` takes at a step follows by arithmetic: all ranks take as many steps, and a
    run goes on at any step, also with another number of ranks, at once.

    Args:
        lengths: Length of each item, above 0: whole numbers of tokens or frames, or seconds; NumPy,
            polars, pandas, pyarrow, a list, or `Lengths`, whose seconds are taken.
        capacity: The most that a row may hold, in the same unit.
        rows: Rows of a batch.
        fit: `"best"` or `"first"`: an item goes into the row that it leaves the least room in, or
            into the first that has room.
        shuffle: Whether items of equal length change places in each epoch.
        resolution: The grid that lengths are rounded up to, so that a row never exceeds its
            capacity; items of equal rounded length may change places. By default whole numbers are
            not rounded, and others to a 4096th of the capacity or, of 65,536 items and more, to a
            finer part, down to a 65,536th, with 8 to 16 items for each part. A coarser grid mixes
            more and wastes more.
        seed: Key of all draws, 0 to 2^64 - 1.
        drop_last: Leave out rows that fill no batch and batches that fill no step. By default all
            rows are used: what is left at the end is dealt to all ranks, and ranks for which
            nothing is left repeat a row, which `PackedRows.repeats` marks.
        fill_last: Instead, fill batches and steps up with repeats, which are marked.
        too_long: What becomes of items longer than the capacity: `"error"`, or `"drop"`.

    Attributes:
        capacity: The capacity.
        resolution: The grid.
        dropped: A table of the items that are in no epoch: item, length, reason.

    Raises:
        DataError: There is no item or none is left, one has no proper length, or one is longer than
            the capacity; the message names the first.
        InvalidArgumentError: A parameter is out of range.

    Example:
        >>> import numpy as np
        >>> from mbflow.speech import PackedBatches
        >>> tokens = np.random.default_rng(0).integers(1, 400, 1000)
        >>> batches = PackedBatches(tokens, capacity=1024, rows=4)
        >>> rows = batches.batch(epoch=0, step=5, rank=1, world_size=2)
        >>> bool((np.add.reduceat(tokens[rows.items], rows.offsets[:-1]) <= 1024).all())
        True

    Source: Krell et al., "Efficient Sequence Packing without Cross-contamination",
    arXiv 2107.02027; the bound of the packing: see `_native.durations.pack`.
    """

    def __init__(
        self,
        lengths: Any,
        *,
        capacity: float,
        rows: int = 1,
        fit: Literal["best", "first"] = "best",
        shuffle: bool = True,
        resolution: float | None = None,
        seed: int = 0,
        drop_last: bool = False,
        fill_last: bool = False,
        too_long: Literal["error", "drop"] = "error",
    ) -> None:
        check_whole("seed", seed, least=0, most=2**64 - 1)
        check_whole("rows", rows, least=1, most=_ITEMS_BELOW - 1)
        _check_positive("capacity", capacity)
        if not _LEAST <= capacity <= _MOST:
            raise InvalidArgumentError(
                f"capacity is {capacity!r}; expected a number from {_LEAST:.3g} to 2^63 - 1: say "
                "lengths and capacity in another unit"
            )
        capacity = int(capacity) if capacity == int(capacity) else float(capacity)
        if resolution is not None:
            _check_positive("resolution", resolution)
            if resolution > capacity or float(resolution) * _STEPS < capacity:
                which = "above" if resolution > capacity else "too small beside"
                raise InvalidArgumentError(
                    f"resolution is {resolution!r}, {which} the capacity of {capacity}; expected a "
                    "fraction of it"
                )
        if fit not in ("best", "first"):
            raise InvalidArgumentError(f"fit is {fit!r}; expected 'best' or 'first'")
        if too_long not in ("error", "drop"):
            raise InvalidArgumentError(f"too_long is {too_long!r}; expected 'error' or 'drop'")
        if drop_last and fill_last:
            raise InvalidArgumentError("drop_last and fill_last: expected one of them at most")
        self.last: Last = "drop" if drop_last else "fill" if fill_last else "short"
        self.capacity = capacity
        self.rows, self.seed = int(rows), int(seed)
        self.fit, self.shuffle = fit, bool(shuffle)
        values = lengths.seconds if isinstance(lengths, Lengths) else None
        values = column_numbers(lengths, "lengths") if values is None else values
        if not len(values):
            raise DataError("lengths: there is no item; expected at least one")
        with np.errstate(invalid="ignore"):
            wrong = ~(np.isfinite(values) & (values > 0))
        refuse_items(wrong, values, "lengths", "finite lengths above 0")
        # As lengths are held, so that one as long as the capacity fits.
        self._held = self.capacity
        if values.dtype == np.float32:
            self._held = float(rounded_up([self.capacity])[0])
        kept = self._fitting(values, too_long)
        values = values[kept]
        cells, room, self.resolution = _on_grid(values, self._held, resolution)
        self._total = float(values.sum(dtype=np.float64))
        self._digest = _native.xxh3_128(cells.tobytes() + kept.tobytes())
        self._offsets, places = _native.durations.pack(cells, room, fit=fit)
        self._numbers = np.arange(len(self._offsets) - 1, dtype=np.uint32)
        if not shuffle:
            self._items = kept[places]
            return
        # Each place of a row stands for a place among the items of one length.
        distinct, classes = np.unique(cells, return_inverse=True)
        self._class_offsets, by_class = _native.rows_by_class(
            classes.astype(np.uint32), len(distinct)
        )
        self._items = kept[by_class]
        self._places = np.empty(len(by_class), np.uint32)
        self._places[by_class] = np.arange(len(by_class), dtype=np.uint32)
        self._places = self._places[places]

    def _fitting(self, values: NDArray[Any], too_long: str) -> NDArray[np.uint32]:
        """The items that are no longer than the capacity."""
        import polars as pl

        out = np.flatnonzero(values > self._held)
        if len(out) and (too_long == "error" or len(out) == len(values)):
            hint = "" if too_long == "drop" else ", or drop such items by too_long='drop'"
            raise DataError(
                f"lengths: item {out[0]} is {values[out[0]]} long, above the capacity of "
                f"{self.capacity}, as {len(out)} of {len(values)}; raise the capacity{hint}",
                row=int(out[0]),
            )
        self.dropped: pl.DataFrame = pl.DataFrame(
            {
                "item": out,
                "length": values[out].astype(np.float64),
                "reason": ["above the capacity"] * len(out),
            },
            schema={"item": pl.Int64, "length": pl.Float64, "reason": pl.String},
        )
        return np.delete(np.arange(len(values), dtype=np.uint32), out)

    def __repr__(self) -> str:
        return f"PackedBatches({len(self)} items in {len(self._numbers)} rows of {self.capacity})"

    def __len__(self) -> int:
        """Items of an epoch."""
        return len(self._items)

    def share(self, epoch: int = 0, *, world_size: int = 1, start: int = 0) -> Share:
        """How the batches of an epoch are shared among ranks.

        Args:
            epoch: Number of the epoch, from 0; all have as many batches.
            world_size: Number of ranks.
            start: Batches of the epoch that are done before step 0, by whatever numbers of ranks.

        Returns:
            The share.

        Raises:
            InvalidArgumentError: A number is out of range.

        Example:
            >>> from mbflow.speech import PackedBatches
            >>> PackedBatches([9] * 12, capacity=10).share(world_size=5).steps
            3
        """
        check_whole("epoch", epoch, least=0, most=2**63 - 1)
        rows = len(self._numbers)
        batches = rows // self.rows if self.last == "drop" else -(-rows // self.rows)
        uneven = self.last == "short" and rows % self.rows > 0
        check_whole("world_size", world_size, least=1, most=_ITEMS_BELOW - 1)
        check_whole("start", start, least=0, most=batches)
        return Share(batches, int(world_size), int(start), self.last, uneven)

    def steps(self, epoch: int = 0, *, world_size: int = 1, start: int = 0) -> int:
        """Steps of an epoch, the same for every rank and every epoch.

        Args:
            epoch: Number of the epoch.
            world_size: Number of ranks.
            start: Batches that are done before, see `share`.

        Returns:
            The count.

        Raises:
            InvalidArgumentError: A number is out of range.

        Example:
            >>> from mbflow.speech import PackedBatches
            >>> PackedBatches([5] * 12, capacity=10, rows=2).steps()
            3
        """
        return self.share(epoch, world_size=world_size, start=start).steps

    def batch(
        self, epoch: int, step: int, *, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> PackedRows:
        """The rows that a rank takes at a step; costs what they hold.

        Args:
            epoch: Number of the epoch, from 0.
            step: 0 to `steps(...) - 1`.
            rank: 0 to `world_size - 1`.
            world_size: Number of ranks.
            start: Batches of the epoch that are done before step 0, see `share`.

        Returns:
            The rows, with item numbers.

        Raises:
            InvalidArgumentError: There is no such epoch, step or rank.

        Example:
            >>> from mbflow.speech import PackedBatches
            >>> batches = PackedBatches([7, 3, 6, 4], capacity=10)
            >>> sorted(batches.batch(0, step).tolist()[0] for step in range(2))
            [[0, 1], [2, 3]]
        """
        share = self.share(epoch, world_size=world_size, start=start)
        check_whole("step", step, least=0, most=max(0, share.steps - 1))
        check_whole("rank", rank, least=0, most=share.world_size - 1)
        first = int(step)
        return next(self._piece(int(epoch), share, range(first, first + 1), int(rank)))

    def epoch(
        self,
        epoch: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        start_step: int = 0,
    ) -> Iterator[PackedRows]:
        """The batches of a rank, one after the other: what `batch` gives for each step, faster.

        Args:
            epoch: Number of the epoch.
            rank: 0 to `world_size - 1`.
            world_size: Number of ranks.
            start: Batches of the epoch that are done before step 0, see `share`.
            start_step: The first step to take.

        Yields:
            The rows, with item numbers.

        Raises:
            InvalidArgumentError: There is no such epoch, step or rank.

        Example:
            >>> from mbflow.speech import PackedBatches
            >>> [len(rows) for rows in PackedBatches([9] * 5, capacity=10, rows=2).epoch(0)]
            [2, 2, 1]
        """
        share = self.share(epoch, world_size=world_size, start=start)
        check_whole("rank", rank, least=0, most=share.world_size - 1)
        check_whole("start_step", start_step, least=0, most=share.steps)
        begin, number = int(start_step), int(epoch)
        most = (share.steps - begin) * self.rows
        orders = self._orders(number) if most * _ONE_OF > len(self._numbers) else None
        piece = max(1, _PIECE * len(self._numbers) // (len(self) * self.rows))
        for first in range(begin, share.steps, piece):
            steps = range(first, min(first + piece, share.steps))
            yield from self._piece(number, share, steps, int(rank), orders)

    def _orders(self, epoch: int) -> _Orders:
        """The rows of an epoch in order, and its items by length, those of one in their order."""
        rows = self._rows(epoch, [0], [len(self._numbers)]).astype(np.uint32)
        if not self.shuffle:
            return rows, self._items
        counts = np.diff(self._class_offsets).tolist()
        items = self._of_classes(epoch, list(range(len(counts))), [0] * len(counts), counts)
        return rows, items.astype(np.uint32)

    def _rows(self, epoch: int, firsts: list[int], lasts: list[int]) -> NDArray[np.int64]:
        return _native.durations.bucket_items(
            np.array([0, len(self._numbers)]),
            self._numbers,
            (self.seed, epoch, _ROWS),
            [0] * len(firsts),
            firsts,
            lasts,
        )

    def _of_classes(
        self, epoch: int, classes: list[int], firsts: list[int], lasts: list[int]
    ) -> NDArray[np.int64]:
        return _native.durations.bucket_items(
            self._class_offsets, self._items, (self.seed, epoch, _ITEMS), classes, firsts, lasts
        )

    def _piece(
        self,
        epoch: int,
        share: Share,
        steps: range,
        rank: int,
        orders: _Orders | None = None,
    ) -> Iterator[PackedRows]:
        """The batches of a rank at some steps; `orders` are those of the epoch, if known."""
        all_rows = len(self._numbers)
        left = share.batches - share.start
        whole = share_whole(left, share.world_size, self.last, uneven=share.uneven)
        numbers_ = np.arange(steps.start, min(steps.stop, whole)) * share.world_size
        begins = (numbers_ + (share.start + rank)) * self.rows
        if self.last == "fill":
            begins = begins[begins + self.rows <= all_rows]
        firsts = begins.tolist()
        lasts = np.minimum(begins + self.rows, all_rows).tolist()
        counts = [last - first for first, last in zip(firsts, lasts, strict=True)]
        repeated = []
        # Of the last step and the last batch of the epoch, parts may be dealt or repeated.
        for step in steps[len(firsts) :]:
            places, repeats = turn_places(share.turn(step, rank), self.rows, all_rows, self.last)
            firsts += [first for first, _ in places]
            lasts += [last for _, last in places]
            counts.append(sum(last - first for first, last in places))
            repeated.append((sum(counts), repeats))
        if orders is None:
            rows = self._rows(epoch, firsts, lasts)
        else:
            stretches = _stretches(np.array(firsts), np.array(lasts) - np.array(firsts))
            rows = orders[0][stretches].astype(np.int64)
        marks = np.zeros(len(rows), np.bool_)
        for end, repeats in repeated:
            marks[end - repeats : end] = True
        begins = self._offsets[rows]
        sizes = self._offsets[rows + 1] - begins
        offsets = np.concatenate(([0], sizes.cumsum()))
        items = self._at(_stretches(begins, sizes), epoch, orders)
        # From lists of whole batches: what is done for each batch is most of what an epoch takes.
        counted = np.array(counts)
        starts = counted.cumsum() - counted
        first_items = offsets[starts]
        own = offsets[_stretches(starts, counted + 1)] - np.repeat(first_items, counted + 1)
        row, at = 0, 0
        edges = pairwise([*first_items.tolist(), len(items)])
        for count, (begin, stop) in zip(counts, edges, strict=True):
            last = row + count
            yield PackedRows(own[at : at + count + 1], items[begin:stop], marks[row:last])
            row, at = last, at + count + 1

    def _at(
        self, places: NDArray[np.int64], epoch: int, orders: _Orders | None
    ) -> NDArray[np.int64]:
        """The items at places of the packing."""
        if not self.shuffle:
            return self._items[places].astype(np.int64)
        own = self._places[places]
        if orders is not None:
            return orders[1][own].astype(np.int64)
        classes = np.searchsorted(self._class_offsets, own, side="right") - 1
        firsts = own - self._class_offsets[classes]
        return self._of_classes(epoch, classes.tolist(), firsts.tolist(), (firsts + 1).tolist())

    def fingerprint(self) -> dict[str, int | str]:
        """What the batches depend on, as a resume compares it.

        Returns:
            Items, capacity, rows of a batch, how items are packed, seed, the rule for what is left,
            and a digest of the lengths.

        Example:
            >>> from mbflow.speech import PackedBatches
            >>> PackedBatches([1, 2], capacity=10).fingerprint()["capacity"]
            '10'
        """
        return {
            "items": len(self),
            "capacity": repr(self.capacity),
            "resolution": repr(self.resolution),
            "rows": self.rows,
            "fit": self.fit,
            "shuffle": int(self.shuffle),
            "seed": self.seed,
            "last": self.last,
            "lengths": self._digest,
        }

    def sampler(self, rank: int = 0, world_size: int = 1, *, epoch: int = 0) -> BatchSampler:
        """A batch sampler of one rank, for `torch.utils.data.DataLoader(batch_sampler=...)`.

        It yields a list of rows, each a list of items: a data set is asked for a row at a time, and
        `data[[3, 8, 1]]` is to give the packed row of these items.

        Args:
            rank: 0 to `world_size - 1`.
            world_size: Number of ranks.
            epoch: The first epoch.

        Returns:
            The sampler, with `state_dict` and `load_state_dict`; a state of another rank or number
            of ranks may be loaded, one of other batches is an error that says what differs.

        Raises:
            InvalidArgumentError: There is no such rank, or an epoch has no step for so many ranks.

        Example:
            >>> from mbflow.speech import PackedBatches
            >>> [sorted(batch) for batch in PackedBatches([7, 3], capacity=10).sampler()]
            [[[0, 1]]]
        """
        plan: Any = self  # its batches are rows of items, where those of other plans are items
        return BatchSampler(plan, rank=rank, world_size=world_size, epoch=epoch)

    def report(self, world_size: int = 8) -> PackReport:
        """What an epoch comes to, before anything is trained; see `PackReport`.

        Args:
            world_size: Number of ranks.

        Returns:
            The report.

        Raises:
            InvalidArgumentError: `world_size` is out of range.

        Example:
            >>> from mbflow.speech import PackedBatches
            >>> found = PackedBatches([5, 5, 5, 5], capacity=10).report(1)
            >>> found.rows, found.bound, found.waste
            (2, 2, 0.0)
        """
        rows = len(self._numbers)
        full = self._total / self._held
        return PackReport(
            world_size=world_size,
            steps=self.steps(world_size=world_size),
            rows=rows,
            # A sum of floats may be just above the whole number that it stands for.
            bound=math.ceil(full * (1 - 1e-12)),
            items=len(self),
            dropped=len(self.dropped),
            waste=max(0.0, (rows * self._held - self._total) / (rows * self._held)),
        )


def _check_positive(name: str, value: Any) -> None:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise InvalidArgumentError(f"{name} is {value!r}; expected a finite number above 0")


def _stretches(firsts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """So many numbers from each first one on, one stretch after the other."""
    ends = counts.cumsum()
    found: NDArray[np.int64] = np.repeat(firsts - (ends - counts), counts)
    return found + np.arange(len(found))


def _on_grid(
    values: NDArray[Any], capacity: float, resolution: float | None
) -> tuple[NDArray[np.uint64], int, float]:
    """Lengths rounded up and the capacity rounded down to a grid, in steps of it, and the step."""
    if resolution is None:
        if values.dtype.kind in "iu" or (values == np.floor(values)).all():
            return values.astype(np.uint64), math.floor(capacity), 1.0
        cells = 1 << (len(values) // _ITEMS_A_CELL).bit_length()
        resolution = capacity / min(max(cells, _GRIDS[0]), _GRIDS[1])
    step = float(resolution)
    # By the product, which says what a number of steps amounts to: a quotient of a length on the
    # grid may be rounded to above or below a whole number.
    room = math.floor(capacity / step) + 1
    while room * step > capacity * _ROUNDING:
        room -= 1
    own = values.astype(np.float64)
    steps = np.floor(own / step)
    # What is held in single precision may be above the grid by its rounding alone.
    slack = 1 + 2.0**-23 if values.dtype == np.float32 else 1.0
    steps += steps * step * slack < own
    # What is rounded to above the capacity fits alone.
    return np.minimum(steps, room).astype(np.uint64), room, step
