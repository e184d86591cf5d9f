"""An endless stream of batches of items of like length, mixed from several sources by weight."""

from __future__ import annotations

import math
import numbers
from bisect import bisect_right
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mbflow import _native
from mbflow.batches import check_whole
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.speech.budget import Budget
from mbflow.speech.dropped import Dropped, outlying
from mbflow.speech.edges import Edges
from mbflow.speech.lengths import Lengths
from mbflow.speech.shares import Past, past
from mbflow.speech.stream import MixReport, MixShare, StreamSampler, mix_report
from mbflow.speech.usable import Usable, bucket_sizes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl
    from numpy.typing import ArrayLike, NDArray


__all__ = ["MixedBatches"]

# Seeds derived from the seed, one for each purpose.
_ITEMS, _SOURCES, _BUCKETS = range(3)
# Turns of a round: shares are kept to within one part in so many.
_ROUND = 1 << 32
# A source with few items in a bucket has so many of them in a row of several rounds, so that one
# look-up serves them all.
_ROW = 64
# A stream gets batches from the kernels in pieces of about this many items.
_PIECE = 1 << 16
# Shares that are remembered.
_REMEMBERED = 8
# Items of a bucket in the stream, and so its steps, are counted up to this by the kernels.
_MOST = 1 << 47
# Weights are within this factor of each other: less is no share of a stream that ever comes.
_WEIGHTS_WITHIN = 1e100


class MixedBatches:
    """Batches of items of like length from several sources, endless, as a pure function of a step.

    Which items rank `r` of `w` takes at a step follows by arithmetic from lengths, weights and
    seed. At each step all ranks take batches of the same bucket, and a run goes on at any step,
    also with another number of ranks, at once.

    Buckets are those of all sources together. A batch mixes the sources: inside a bucket, items of
    the sources take turns in proportion to their weights and to what they hold there, and buckets
    take turns so that every source uses all of its items equally often, in an order that is new
    each time it has used them all. Turns are spread evenly, not drawn: over any stretch of steps a
    source has its share to within a few steps, not to within the square root of the stretch. Where
    one use of the items of a source in a bucket ends and the next begins, a batch may hold an item
    twice, as a batch does of a source that has fewer items there than turns in the batch.

    Args:
        sources: By name, seconds of the items of a source, a pair of seconds and tokens, or
            `Lengths`; columns as in `DurationBatches`.
        weights: By name, a number above 0: the share of a source, relative to the others. By
            default sources are mixed in proportion to their size, so that all end together.
        by: What weights are shares of: `"items"` of the stream or its `"seconds"`.
        budget: What a batch of one rank may cost, or a number: padded seconds.
        buckets: How many buckets at most; a pair for buckets in seconds and tokens.
        edges: Which edges, see `bucket_edges`; each item counts as often as it comes.
        edge_step: Edges by seconds are rounded up to multiples of this many seconds.
        seed: Key of all draws, 0 to 2^64 - 1.
        too_long: What becomes of items that are above the budget alone, or above all given edges:
            `"error"`, or `"drop"`.
        min_seconds: Items below this are dropped.
        max_seconds: Items above this are dropped.
        rate_sigmas: Items with more tokens a second than the mean of their bucket in their source
            and so many standard deviations are dropped; None for none.

    Attributes:
        names: Names of the sources.
        offsets: int64 of shape (sources + 1,): item `i` of source `s` is number `offsets[s] + i` in
            batches, as in torch's `ConcatDataset`.
        lengths: The items of all sources.
        shares: The share of items of each source, by name; they add up to 1.
        budget: The budget.
        edges: Edges of the buckets.
        sizes: int64 of shape (buckets,): items of a batch of each bucket.

    Raises:
        DataError: A source has no item or none is left, an item has no proper length, or one is
            above the budget alone; the message names the source and the first.
        InvalidArgumentError: A parameter is out of range, or a weight is missing, not above 0 or
            of no source.

    Example:
        >>> from mbflow.speech import MixedBatches
        >>> batches = MixedBatches(
        ...     {"read": [2.0] * 900, "spoken": [2.0] * 100},
        ...     weights={"read": 1, "spoken": 1},
        ...     budget=40.0,
        ... )
        >>> items = batches.batch(7, rank=1, world_size=4)
        >>> int((batches.sources_of(items) == 1).sum())
        10

    Source: arXiv 2503.05931 (weighted mixing of sources, synchronised buckets).
    """

    def __init__(
        self,
        sources: Mapping[str, Any],
        *,
        weights: Mapping[str, float] | None = None,
        by: Literal["items", "seconds"] = "items",
        budget: Budget | float = 600.0,
        buckets: int | tuple[int, int] = 30,
        edges: Literal["optimal", "equal_count", "equal_duration"] | Any = "optimal",
        edge_step: float | None = None,
        seed: int = 0,
        too_long: Literal["error", "drop"] = "error",
        min_seconds: float = 0.0,
        max_seconds: float = math.inf,
        rate_sigmas: float | None = None,
    ) -> None:
        check_whole("seed", seed, least=0, most=2**64 - 1)
        if by not in ("items", "seconds"):
            raise InvalidArgumentError(f"by is {by!r}; expected 'items' or 'seconds'")
        if not isinstance(sources, Mapping) or not sources:
            raise InvalidArgumentError(
                "sources: expected a mapping of names to lengths, with at least one source"
            )
        self.names = tuple(sources)
        asked = _weights(weights, self.names)
        parts = [_source(name, sources[name]) for name in self.names]
        self.seed = int(seed)
        self.budget = budget if isinstance(budget, Budget) else Budget.padded_seconds(budget)
        self.offsets = np.cumsum([0, *(len(part) for part in parts)])
        self.lengths = _joined(self.names, parts)
        if self.budget.needs_tokens and self.lengths.tokens is None:
            raise InvalidArgumentError(
                "the budget counts tokens and the sources have none; pass pairs of seconds and "
                "tokens"
            )
        tables = [
            outlying(
                part, min_seconds=min_seconds, max_seconds=max_seconds, rate_sigmas=rate_sigmas
            )
            for part in parts
        ]
        dropped = Dropped.joined(tables, self.offsets.tolist())
        left = np.diff(self.offsets) - [len(table) for table in tables]
        seconds = [float(part.seconds.mean(dtype=np.float64)) for part in parts]
        each = None
        if asked is not None and isinstance(edges, str) and left.all():
            rates = (asked / seconds if by == "seconds" else asked) / left
            each = np.repeat(rates, np.diff(self.offsets))
        used = Usable.of(
            self.lengths,
            dropped,
            self.budget,
            buckets=buckets,
            edges=edges,
            edge_step=edge_step,
            too_long=too_long,
            weights=each,
            name=self._name,
        )
        self._dropped = used.dropped
        self._arrange(used)
        self._mix(asked, by)
        self._forget()

    def _name(self, item: int) -> str:
        source = int(np.searchsorted(self.offsets, item, side="right")) - 1
        return f"item {item - int(self.offsets[source])} of source {self.names[source]!r}"

    def _arrange(self, used: Usable) -> None:
        """Sort items by bucket and source, and leave out buckets without any."""
        full = np.unique(used.bucket)
        self.edges = Edges(used.edges.seconds[full], used.edges.tokens[full])
        shape = (len(full), len(self.names))
        cells = np.searchsorted(full, used.bucket) * shape[1] + self.sources_of(used.items)
        offsets, rows = _native.rows_by_class(cells.astype(np.uint32), shape[0] * shape[1])
        items = used.items[rows]
        self._counts = np.diff(offsets).reshape(shape)
        empty = np.flatnonzero(self._counts.sum(axis=0) == 0)
        if len(empty):
            name, first = self.names[empty[0]], int(self.offsets[empty[0]])
            reason = self._dropped.reason(int(np.searchsorted(self._dropped.items, first)))
            raise DataError(
                f"source {name!r}: no item is left: all {int(self.offsets[empty[0] + 1]) - first} "
                f"were dropped, the first as {reason}"
            )
        most = bucket_sizes(self.budget, self.edges, self.lengths, offsets[:: shape[1]], items)
        # No more than a bucket holds, or a batch would be made of repeats.
        sizes = np.minimum(most, self._counts.sum(axis=1))
        multiple = self.budget.multiple
        self.sizes = np.where(sizes < multiple, sizes, sizes - sizes % multiple)
        counts = np.diff(offsets)
        self._copies = np.where(counts > 0, -(-_ROW // np.maximum(counts, 1)), 1)
        ends = np.cumsum(self._copies)
        self._rows = ends - self._copies
        self._row_offsets = np.concatenate([[0], np.cumsum(np.repeat(counts, self._copies))])
        self._items = np.concatenate(
            [
                np.tile(items[first:last], copies)
                for first, last, copies in zip(
                    offsets[:-1].tolist(), offsets[1:].tolist(), self._copies.tolist(), strict=True
                )
            ]
        )

    def _mix(self, asked: NDArray[np.float64] | None, by: str) -> None:
        """How often each bucket, and inside a bucket each source, has a turn."""
        totals = self._counts.sum(axis=0)
        shares = totals.astype(np.float64) if asked is None else asked
        if asked is not None and by == "seconds":
            shares = asked / self.used()[1]
        shares = shares / shares.sum()
        self.shares = dict(zip(self.names, shares.tolist(), strict=True))
        rates = self._counts * (shares / totals)
        self._turns = np.stack([_whole(row) for row in rates])
        self._bucket_turns = _whole(rates.sum(axis=1) / self.sizes)

    def used(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Items of each source that are used, and their mean seconds: of shape (sources,).

        Example:
            >>> from mbflow.speech import MixedBatches
            >>> [found.tolist() for found in MixedBatches({"a": [1.0, 2.0]}).used()]
            [[2], [1.5]]
        """
        shape, totals = self._counts.shape, self._counts.sum(axis=0)
        cells = np.repeat(np.arange(self._counts.size), self._counts.ravel() * self._copies)
        seconds = np.bincount(cells, self.lengths.seconds[self._items], self._counts.size)
        return totals, (seconds / self._copies).reshape(shape).sum(axis=0) / totals

    def _forget(self) -> None:
        self._mixes: list[_native.durations.Interleave] | None = None
        self._shares: dict[Any, MixShare] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Workers that are started anew make the kernels' objects again.
        return self.__dict__ | {"_mixes": None, "_shares": {}}

    def __repr__(self) -> str:
        return (
            f"MixedBatches({len(self)} items of {len(self.names)} sources, "
            f"{len(self.sizes)} buckets)"
        )

    @property
    def dropped(self) -> pl.DataFrame:
        """The items that are never taken: a table of item, seconds, tokens and reason."""
        return self._dropped.table(self.lengths)

    def __len__(self) -> int:
        """Items that are used."""
        return int(self._counts.sum())

    def sources_of(self, items: ArrayLike) -> NDArray[np.int64]:
        """The source of each item.

        Args:
            items: Item numbers, of any shape.

        Returns:
            Places in `names`, int64 of the same shape.

        Example:
            >>> from mbflow.speech import MixedBatches
            >>> MixedBatches({"a": [1.0, 2.0], "b": [1.0]}).sources_of([0, 1, 2]).tolist()
            [0, 0, 1]
        """
        return np.searchsorted(self.offsets, np.asarray(items), side="right") - 1

    def share(self, *, world_size: int = 1, start: Past | int = 0) -> MixShare:
        """How the stream is shared among ranks.

        Args:
            world_size: Number of ranks.
            start: What was done before, as a state holds it: pairs of a number of ranks and the
                steps that it took.

        Returns:
            The share.

        Raises:
            InvalidArgumentError: A number is out of range.

        Example:
            >>> from mbflow.speech import MixedBatches
            >>> MixedBatches({"a": [1.0, 2.0]}).share(world_size=2).done(5)
            ((2, 5),)
        """
        size = int(self.sizes.max())
        check_whole("world_size", world_size, least=1, most=_MOST // size)
        begun: Any = start
        number = isinstance(begun, numbers.Integral) and not isinstance(begun, bool)
        whole = past(int(begun) if number else begun)
        done_before = sum(ranks * steps for ranks, steps in whole)
        if (done_before + int(world_size)) * size > _MOST:
            raise InvalidArgumentError(
                f"start says that {done_before} batches were done; expected at most "
                f"{_MOST // size - int(world_size)}"
            )
        found = self._shares.get((int(world_size), whole))
        if found is not None:
            return found
        order = _native.durations.Interleave(self._bucket_turns.tolist(), (self.seed, _BUCKETS))
        steps, before = 0, np.zeros(len(self.sizes), np.int64)
        done = np.zeros_like(before)
        for ranks, more in whole:
            steps += more
            after = order.before(steps)
            done += ranks * (after - before)
            before = after
        most = (_MOST // size - done_before) // int(world_size)
        made = MixShare(int(world_size), whole, most, steps, before, done, order)
        # A new dict each time: other threads may be at the old one.
        kept = list(self._shares.items())[1 - _REMEMBERED :]
        self._shares = {**dict(kept), (made.world_size, whole): made}
        return made

    def batch(
        self, step: int, *, rank: int = 0, world_size: int = 1, start: Past | int = 0
    ) -> NDArray[np.int64]:
        """The items that a rank takes at a step; costs what the batch holds.

        Args:
            step: From 0; there is no last one.
            rank: 0 to `world_size - 1`.
            world_size: Number of ranks.
            start: What was done before step 0, see `share`.

        Returns:
            Item numbers, int64 of shape (items of the batch,).

        Raises:
            InvalidArgumentError: There is no such step or rank.

        Example:
            >>> from mbflow.speech import MixedBatches
            >>> sorted(MixedBatches({"a": [1.0] * 2, "b": [1.0] * 2}).batch(10**6).tolist())
            [0, 1, 2, 3]
        """
        share = self.share(world_size=world_size, start=start)
        check_whole("step", step, least=0, most=share.steps - 1)
        check_whole("rank", rank, least=0, most=share.world_size - 1)
        return self._piece(share, int(step), int(step) + 1, int(rank))[0]

    def stream(
        self, *, rank: int = 0, world_size: int = 1, start: Past | int = 0, start_step: int = 0
    ) -> Iterator[NDArray[np.int64]]:
        """The batches of a rank, one after the other for ever: what `batch` gives, faster.

        Args:
            rank: 0 to `world_size - 1`.
            world_size: Number of ranks.
            start: What was done before step 0, see `share`.
            start_step: The first step to take.

        Yields:
            Item numbers, int64 of shape (items of the batch,).

        Raises:
            InvalidArgumentError: There is no such step or rank.

        Example:
            >>> from itertools import islice
            >>> from mbflow.speech import MixedBatches
            >>> batches = MixedBatches({"a": [1.0] * 60, "b": [1.0] * 4}, budget=16.0)
            >>> [len(items) for items in islice(batches.stream(rank=1, world_size=2), 3)]
            [16, 16, 16]
        """
        share = self.share(world_size=world_size, start=start)
        check_whole("start_step", start_step, least=0, most=share.steps - 1)
        check_whole("rank", rank, least=0, most=share.world_size - 1)
        step, most = int(start_step), max(1, _PIECE // int(self.sizes.max()))
        steps = 1
        while step < share.steps:
            last = min(step + steps, share.steps)
            yield from self._piece(share, step, last, int(rank))
            step = last
            # The first batch is there at once.
            steps = min(4 * steps, most)

    def _piece(self, share: MixShare, first: int, last: int, rank: int) -> list[NDArray[np.int64]]:
        """The batches of a rank at steps `first` to `last - 1`."""
        if self._mixes is None:
            key = (self.seed, _SOURCES)
            self._mixes = [
                _native.durations.Interleave(turns, (*key, bucket))
                for bucket, turns in enumerate(self._turns.tolist())
            ]
        buckets, batches = share.turns(first, last, rank)
        sizes = self.sizes[buckets]
        turns = [
            self._mixes[bucket].turns(begin, begin + size)
            for bucket, begin, size in zip(
                buckets.tolist(), (batches * sizes).tolist(), sizes.tolist(), strict=True
            )
        ]
        if len(turns) == 1:
            sources, places = turns[0][0].astype(np.int64), turns[0][1]
            batch, cells = sources, sources + int(buckets[0]) * len(self.names)
        else:
            sources = np.concatenate([turn[0] for turn in turns])
            places = np.concatenate([turn[1] for turn in turns])
            batch = np.repeat(np.arange(len(sizes)) * len(self.names), sizes) + sources
            cells = np.repeat(buckets * len(self.names), sizes) + sources
        uses, places = np.divmod(places, self._counts.ravel()[cells])
        rounds, copies = np.divmod(uses, self._copies[cells])
        rows = self._rows[cells] + copies
        # The places of a source in a batch follow each other in one row or a few: a stretch each.
        order = np.lexsort((batch, rounds))
        rounds, rows, batch, places = rounds[order], rows[order], batch[order], places[order]
        cuts = rounds[1:] != rounds[:-1]
        cuts |= rows[1:] != rows[:-1]
        cuts |= batch[1:] != batch[:-1]
        ends = [*(cuts.nonzero()[0] + 1).tolist(), len(order)]
        firsts = [0, *ends[:-1]]
        stretch_rounds, stretch_rows = rounds[firsts].tolist(), rows[firsts].tolist()
        begins = places[firsts].tolist()
        stops = [begin + end - at for begin, end, at in zip(begins, ends, firsts, strict=True)]
        found = np.empty(len(order), np.int64)
        at = 0
        while at < len(stops):
            end = bisect_right(stretch_rounds, stretch_rounds[at], at)
            found[order[firsts[at] : ends[end - 1]]] = _native.durations.bucket_items(
                self._row_offsets,
                self._items,
                (self.seed, _ITEMS, stretch_rounds[at]),
                stretch_rows[at:end],
                begins[at:end],
                stops[at:end],
            )
            at = end
        sizes_and_ends = zip(sizes.tolist(), sizes.cumsum().tolist(), strict=True)
        return [found[end - size : end] for size, end in sizes_and_ends]

    def fingerprint(self) -> dict[str, int | str]:
        """What the batches depend on, as a resume compares it.

        Returns:
            Sources, their shares, the seed, and digests of lengths, buckets and batch sizes.

        Example:
            >>> from mbflow.speech import MixedBatches
            >>> MixedBatches({"a": [1.0], "b": [1.0, 2.0]}).fingerprint()["sources"]
            'a: 1, b: 2'
        """
        counts = np.diff(self.offsets).tolist()
        edges = self.edges.seconds.tobytes() + self.edges.tokens.tobytes()
        turns = self._turns.tobytes() + self._bucket_turns.tobytes()
        return {
            "sources": ", ".join(f"{n}: {c}" for n, c in zip(self.names, counts, strict=True)),
            "shares": ", ".join(f"{name}: {share:.9g}" for name, share in self.shares.items()),
            "seed": self.seed,
            "lengths": self.lengths.digest(),
            "dropped": _native.xxh3_128(self._dropped.items.tobytes()),
            "edges": _native.xxh3_128(edges),
            "sizes": _native.xxh3_128(self.sizes.tobytes()),
            "turns": _native.xxh3_128(turns),
        }

    def sampler(self, rank: int = 0, world_size: int = 1) -> StreamSampler:
        """An endless batch sampler of one rank, for `DataLoader(batch_sampler=...)` of torch.

        Args:
            rank: 0 to `world_size - 1`.
            world_size: Number of ranks.

        Returns:
            The sampler, with `state_dict` and `load_state_dict`; a state of another rank or number
            of ranks may be loaded, one of other batches is an error that says what differs.

        Raises:
            InvalidArgumentError: There is no such rank.

        Example:
            >>> from mbflow.speech import MixedBatches
            >>> next(iter(MixedBatches({"a": [1.0]}).sampler()))
            [0]
        """
        return StreamSampler(self, rank=rank, world_size=world_size)

    def report(self, *, steps: int = 1000) -> MixReport:
        """What the stream comes to, before anything is trained; see `MixReport`.

        Args:
            steps: Steps of one rank that are looked at.

        Returns:
            The report.

        Raises:
            InvalidArgumentError: `steps` is below 1.

        Example:
            >>> from mbflow.speech import MixedBatches
            >>> batches = MixedBatches({"a": [1.0], "b": [3.0]}, weights={"a": 3, "b": 1})
            >>> batches.report(steps=10).seconds
            {'a': 0.5, 'b': 0.5}
        """
        return mix_report(self, steps=steps)


def _weights(
    weights: Mapping[str, float] | None, names: tuple[str, ...]
) -> NDArray[np.float64] | None:
    if weights is None:
        return None
    if not isinstance(weights, Mapping):
        raise InvalidArgumentError(
            f"weights: expected a mapping of names to numbers, got {type(weights).__name__}"
        )
    unknown = [name for name in weights if name not in names]
    missing = [name for name in names if name not in weights]
    if unknown or missing:
        parts = [f"there is no source {unknown[0]!r}"] if unknown else []
        parts += [f"source {missing[0]!r} has no weight"] if missing else []
        raise InvalidArgumentError(
            f"weights: {' and '.join(parts)}; expected a weight for each of {list(names)[:20]}"
        )
    found = np.array([_weight(name, weights[name]) for name in names])
    least, most = int(found.argmin()), int(found.argmax())
    if found[least] < found[most] / _WEIGHTS_WITHIN:
        raise InvalidArgumentError(
            f"weights: that of source {names[least]!r} is {found[least]} and that of "
            f"{names[most]!r} is {found[most]}; expected weights within a factor of "
            f"{_WEIGHTS_WITHIN}"
        )
    shares: NDArray[np.float64] = found / found[most]
    return shares


def _weight(name: str, weight: Any) -> float:
    number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
    try:
        found = float(weight) if number else math.nan
    except OverflowError:
        found = math.inf
    if not 0.0 < found < math.inf:
        raise InvalidArgumentError(
            f"weights: that of source {name!r} is {weight!r}; expected a number above 0 that is "
            "finite (to leave a source out, do not pass it)"
        )
    return found


def _source(name: str, given: Any) -> Lengths:
    # A tuple of two numbers is a column of two items.
    pair = isinstance(given, tuple) and len(given) == 2
    if pair and (given[0] is None or isinstance(given[0], numbers.Number)):
        pair = False
    try:
        return Lengths.of(*given) if pair else Lengths.of(given)
    except DataError as error:
        raise DataError(f"source {name!r}: {error}", row=error.row) from None
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"source {name!r}: {error}") from None


def _joined(names: tuple[str, ...], parts: list[Lengths]) -> Lengths:
    if len(parts) == 1:
        return parts[0]
    without = [name for name, part in zip(names, parts, strict=True) if part.tokens is None]
    tokens = None
    if not without:
        tokens = np.concatenate([part.tokens for part in parts if part.tokens is not None])
    elif len(without) < len(names):
        raise InvalidArgumentError(
            f"source {without[0]!r} has no tokens and others have; pass tokens for all or for none"
        )
    total = sum(len(part) for part in parts)
    if total >= 2**32:
        raise InvalidArgumentError(f"sources: expected under 2^32 items in all, got {total}")
    return Lengths(np.concatenate([part.seconds for part in parts]), tokens)


def _whole(rates: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole numbers in proportion to rates that add up to a round, above 0 where a rate is."""
    exact = rates / rates.sum() * _ROUND
    whole: NDArray[np.int64] = np.maximum(np.floor(exact), rates > 0).astype(np.int64)
    short = _ROUND - int(whole.sum())
    if short > 0:
        whole[np.argsort(whole - exact, kind="stable")[:short]] += 1
    return whole
