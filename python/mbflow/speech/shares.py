"""Which rank takes which batch at which step, where all ranks take batches of like length.

`mbflow.batches.Share` says it for one list of batches. Here each bucket is such a list, and every
step belongs to one of them; sorted batches are one list, of which a step takes neighbours. What is
held fixed when the number of ranks changes is each list: a run has done a beginning of each bucket,
or some of the sorted batches. It is remembered as `(world_size, steps)` for each number of ranks
that a run has had in the epoch, from which everything else follows.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mbflow import _native
from mbflow.batches import Last, Turn, check_whole, last_turn, share_steps, share_whole
from mbflow.errors import InvalidArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "MOST_RANKS",
    "BucketShare",
    "Past",
    "WindowShare",
    "bucket_share",
    "check_step",
    "derived",
    "past",
    "turn_places",
    "window_share",
]

# Streams of the draws made here: of seeds from seeds, as in the kernels, and two of our own.
_DERIVE = 4
_STEPS = 51
_DROPS = 52
_RANKS = 54

MOST_RANKS = 1 << 24
"""Numbers of ranks are up to this."""
_MOST_STEPS = 1 << 62

Past = tuple[tuple[int, int], ...]
"""`(world_size, steps)`, for each number of ranks that a run has had in an epoch so far."""


def past(start: object) -> Past:
    """Check a past, as a state holds it.

    Args:
        start: 0 or nothing for none, or pairs `(world_size, steps)`.

    Returns:
        The pairs, without those of no step and with equal numbers of ranks joined.

    Raises:
        InvalidArgumentError: It is no such thing.

    Example:
        >>> from mbflow.speech.shares import past
        >>> past([[8, 100], [8, 20], [6, 0]])
        ((8, 120),)
    """
    if start is None or (
        not isinstance(start, bool) and isinstance(start, numbers.Integral) and start == 0
    ):
        return ()
    found: list[tuple[int, int]] = []
    try:
        pairs = [(pair[0], pair[1]) for pair in start if len(pair) == 2 or _never(pair)]  # type: ignore[attr-defined]
    except (TypeError, IndexError, ValueError) as error:
        raise InvalidArgumentError(
            f"start is {start!r}; expected pairs (world_size, steps), or 0 for none"
        ) from error
    for world_size, steps in pairs:
        check_whole("world_size of start", world_size, least=1, most=MOST_RANKS)
        check_whole("steps of start", steps, least=0, most=_MOST_STEPS)
        if found and found[-1][0] == world_size:
            found[-1] = (int(world_size), found[-1][1] + int(steps))
        elif steps:
            found.append((int(world_size), int(steps)))
    return tuple(found)


def _never(pair: object) -> bool:
    raise ValueError(pair)


def turn_places(
    turn: Turn, size: int, items: int, last: Last, *, multiple: int = 1
) -> tuple[list[tuple[int, int]], int]:
    """The places that a turn takes of items in an order that is cut into batches.

    Args:
        turn: The turn, see `mbflow.batches.Share.turn`.
        size: Items of a batch.
        items: Items in all.
        last: What becomes of what does not fill a batch or a step, see `Last`.
        multiple: With `"drop"`, equal parts are multiples of this, where there are so many items.

    Returns:
        Stretches of places as pairs (first, last + 1), and how many at the end are repeats.

    Example:
        >>> from mbflow.batches import Turn
        >>> from mbflow.speech.shares import turn_places
        >>> turn_places(Turn(2), 4, 10, "fill")
        ([(8, 10), (0, 2)], 2)
        >>> turn_places(Turn(2, parts=3, part=2), 4, 10, "short")
        ([(8, 9)], 1)
    """
    first = turn.batch * size
    if turn.parts == 1:
        end = first + size
        if end <= items:
            return [(first, end)], size if turn.repeat else 0
        places, missing = [(first, items)], end - items
        if last != "fill":
            return places, 0
        repeats = missing
        while missing > 0:
            places.append((0, min(items, missing)))
            missing -= items
        return places, size if turn.repeat else repeats
    left = items - first
    if last == "drop":
        # All ranks get as many, and the rest, less than one for each rank, is left out.
        each = left // turn.parts
        each -= each % multiple if each >= multiple else 0
        return [(first + turn.part * each, first + (turn.part + 1) * each)], 0
    cuts = [-(-left * part // turn.parts) for part in (turn.part, turn.part + 1)]
    if cuts[0] < cuts[1]:
        return [(first + cuts[0], first + cuts[1])], 0
    # Fewer items than ranks: the others take one of them once more, in turn.
    again = first + turn.part % left
    return [(again, again + 1)], 1


@dataclass(frozen=True)
class BucketShare:
    """How the buckets of an epoch are shared among ranks.

    Attributes:
        world_size: Number of ranks.
        steps: Steps of the epoch that are left for them, as from `start`.
        start: What was done before, by whatever numbers of ranks.

    Example:
        >>> from mbflow.speech import DurationBatches
        >>> batches = DurationBatches([1.0] * 8 + [2.0] * 8, budget=4.0, buckets=2)
        >>> batches.share(world_size=2).steps
        3
    """

    world_size: int
    steps: int
    start: Past
    _batches: NDArray[np.int64] = field(repr=False)
    _starts: NDArray[np.int64] = field(repr=False)
    _whole: NDArray[np.int64] = field(repr=False)
    _last: Last = field(repr=False)
    _turns: _native.durations.Interleave | None = field(repr=False)
    _offset: int = field(repr=False)

    def turn(self, step: int, rank: int) -> tuple[int, Turn]:
        """The bucket of a step, and what a rank takes of it.

        Args:
            step: 0 to `steps - 1`.
            rank: 0 to `world_size - 1`.

        Returns:
            The bucket and the turn in its list of batches.

        Raises:
            InvalidArgumentError: There is no such step or rank.

        Example:
            >>> from mbflow.speech import DurationBatches
            >>> DurationBatches([1.0], budget=4.0).share().turn(0, 0)
            (0, Turn(batch=0, parts=1, part=0, repeat=False))
        """
        check_step(self, step)
        assert self._turns is not None
        bucket, number = self._turns.at(self._offset + int(step))
        if number < self._whole[bucket]:
            return bucket, Turn(int(self._starts[bucket]) + number * self.world_size + rank)
        return bucket, self._other(bucket, number, rank)

    def turns(
        self, first: int, last: int, rank: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64], dict[int, Turn]]:
        """What a rank takes at steps `first` to `last - 1`.

        Returns:
            The bucket of each step, its batch there, and by the place among these steps the turns
            that are no batch of their own.

        Example:
            >>> from mbflow.speech import DurationBatches
            >>> DurationBatches([1.0], budget=4.0).share().turns(0, 1, 0)
            (array([0], dtype=uint32), array([0]), {})
        """
        assert self._turns is not None
        buckets, numbers = self._turns.turns(self._offset + first, self._offset + last)
        batches = self._starts[buckets] + numbers * self.world_size + rank
        others = np.flatnonzero(numbers >= self._whole[buckets]).tolist()
        turns = {at: self._other(int(buckets[at]), int(numbers[at]), rank) for at in others}
        return buckets, batches, turns

    def _other(self, bucket: int, number: int, rank: int) -> Turn:
        """A turn that is no batch of its own."""
        first = int(self._starts[bucket]) + number * self.world_size
        return last_turn(first, rank, int(self._batches[bucket]), self.world_size, self._last)

    def done(self, steps: int) -> Past:
        """What is done after `steps` steps: the `start` to go on from.

        Args:
            steps: 0 to `self.steps`.

        Returns:
            Pairs of numbers of ranks and of steps.

        Raises:
            InvalidArgumentError: There are not so many steps.

        Example:
            >>> from mbflow.speech import DurationBatches
            >>> DurationBatches([1.0] * 9, budget=2.0).share(world_size=2).done(2)
            ((2, 2),)
        """
        check_whole("steps", steps, least=0, most=self.steps)
        return past((*self.start, (self.world_size, int(steps))))


def check_step(share: BucketShare | WindowShare, step: int) -> None:
    """Refuse a step that an epoch does not have.

    Raises:
        InvalidArgumentError: There is no such step.

    Example:
        >>> from mbflow.speech import DurationBatches
        >>> from mbflow.speech.shares import check_step
        >>> check_step(DurationBatches([1.0], budget=4.0).share(), 0)
    """
    if share.steps == 0:
        raise InvalidArgumentError(
            f"there is no step: too little is left for {share.world_size} ranks"
        )
    check_whole("step", step, least=0, most=share.steps - 1)


def bucket_share(
    batches: NDArray[np.int64],
    uneven: NDArray[np.bool_],
    counts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    *,
    world_size: int,
    start: Past,
    last: Last,
    key: tuple[int, ...],
) -> BucketShare:
    """The share of an epoch in buckets.

    Args:
        batches: Batches of each bucket.
        uneven: Whether the last batch of each is shorter than its others.
        counts: Items of each bucket.
        sizes: Items of a batch of each.
        world_size: Number of ranks.
        start: What was done before, see `past`.
        last: What becomes of what does not fill a step, see `Last`.
        key: Numbers that key the order of the buckets.

    Returns:
        The share. Buckets are interleaved so that all end together, see
        `_native.durations.Interleave`; after a change of the number of ranks what is left of them
        is interleaved anew.

    Raises:
        InvalidArgumentError: More steps were done than an epoch has.

    Example:
        >>> import numpy as np
        >>> from mbflow.speech.shares import bucket_share
        >>> batches, uneven = np.array([3, 5]), np.array([False, False])
        >>> counts, sizes = np.array([6, 5]), np.array([2, 1])
        >>> bucket_share(
        ...     batches, uneven, counts, sizes, world_size=2, start=(), last="short", key=(0, 0)
        ... ).steps
        5
    """
    check_whole("world_size", world_size, least=1, most=MOST_RANKS)
    world_size = int(world_size)
    all_ = start
    offset = 0
    if start and start[-1][0] == world_size:
        start, offset = start[:-1], start[-1][1]
    starts = np.zeros_like(batches)
    for number, (size, steps) in enumerate(start):
        turns = _bucket_steps(batches, starts, counts, sizes, size, last)
        _check_past(steps, int(turns.sum()), size)
        order = _native.durations.Interleave(turns.tolist(), (*key, number))
        starts = np.minimum(starts + order.before(steps) * size, batches)
    turns = _bucket_steps(batches, starts, counts, sizes, world_size, last)
    total = int(turns.sum())
    _check_past(offset, total, world_size)
    left = _native.durations.Interleave(turns.tolist(), (*key, len(start))) if total else None
    whole = share_whole(batches - starts, world_size, last, uneven=uneven)
    return BucketShare(world_size, total - offset, all_, batches, starts, whole, last, left, offset)


def _bucket_steps(
    batches: NDArray[np.int64],
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    world_size: int,
    last: Last,
) -> NDArray[np.int64]:
    left = batches - starts
    steps: NDArray[np.int64] = share_steps(left, world_size, last)
    if last == "drop":
        # What is left is dealt where batches are half full at least, and where it is all that there
        # is: the same items would be left out for ever.
        items = counts - (starts + steps * world_size) * sizes
        half = 2 * items >= world_size * sizes
        dealt = (left > 0) & (items >= world_size) & (half | ((steps == 0) & (starts == 0)))
        steps = steps + dealt
    return steps


def _check_past(steps: int, total: int, world_size: int) -> None:
    if steps > total:
        raise InvalidArgumentError(
            f"start says that {steps} steps of {world_size} ranks were done, but there were only "
            f"{total}"
        )


@dataclass(frozen=True)
class WindowShare:
    """How the sorted batches of an epoch are shared among ranks.

    A step takes `world_size` batches that are next to each other in order of length; the steps come
    in keyed order.

    Attributes:
        world_size: Number of ranks.
        steps: Steps of the epoch that are left for them, as from `start`.
        start: What was done before, by whatever numbers of ranks.

    Example:
        >>> from mbflow.speech import DurationBatches
        >>> batches = DurationBatches([1.0, 2.0, 3.0, 4.0], budget=4.0, order="window")
        >>> batches.share(world_size=2).steps
        2
    """

    world_size: int
    steps: int
    start: Past
    _left: NDArray[np.int64] = field(repr=False)
    _order: NDArray[np.int64] = field(repr=False)
    _turned: NDArray[np.int64] = field(repr=False)

    def turn(self, step: int, rank: int) -> tuple[NDArray[np.int64], int]:
        """The batches that the ranks take together at a step, and the place of a rank among them.

        Which rank has the longest batch is another one at each step.

        Args:
            step: 0 to `steps - 1`.
            rank: 0 to `world_size - 1`.

        Returns:
            The batches, longest first, fewer than ranks where they run out; and the place of the
            rank, below `world_size`.

        Raises:
            InvalidArgumentError: There is no such step.

        Example:
            >>> from mbflow.speech import DurationBatches
            >>> batches = DurationBatches([1.0, 2.0, 3.0, 4.0], budget=4.0, order="window")
            >>> share = batches.share(world_size=4)
            >>> share.turn(0, 0)[0].tolist(), sorted(share.turn(0, rank)[1] for rank in range(4))
            ([0, 1, 2, 3], [0, 1, 2, 3])
        """
        check_step(self, step)
        first = int(self._order[step]) * self.world_size
        place = (rank + int(self._turned[step])) % self.world_size
        return self._left[first : first + self.world_size], place

    def turns(self, first: int, last: int, rank: int) -> tuple[NDArray[np.int64], list[int]]:
        """The batches of a rank at steps `first` to `last - 1`.

        Returns:
            The batches, and at which of these steps there are fewer than ranks.

        Example:
            >>> from mbflow.speech import DurationBatches
            >>> batches = DurationBatches([1.0, 2.0, 3.0, 4.0], budget=4.0, order="window")
            >>> sorted(int(batches.share(world_size=4).turns(0, 1, r)[0][0]) for r in range(4))
            [0, 1, 2, 3]
        """
        firsts = self._order[first:last] * self.world_size
        places = (rank + self._turned[first:last]) % self.world_size
        others = np.flatnonzero(firsts + self.world_size > len(self._left)).tolist()
        return self._left[np.minimum(firsts + places, len(self._left) - 1)], others

    def done(self, steps: int) -> Past:
        """What is done after `steps` steps: the `start` to go on from.

        Args:
            steps: 0 to `self.steps`.

        Returns:
            Pairs of numbers of ranks and of steps.

        Raises:
            InvalidArgumentError: There are not so many steps.

        Example:
            >>> from mbflow.speech import DurationBatches
            >>> batches = DurationBatches([1.0] * 9, budget=2.0, order="window")
            >>> batches.share(world_size=2).done(2)
            ((2, 2),)
        """
        check_whole("steps", steps, least=0, most=self.steps)
        return past((*self.start, (self.world_size, int(steps))))


def window_share(
    batches: int, *, world_size: int, start: Past, last: Last, key: tuple[int, ...]
) -> WindowShare:
    """The share of an epoch of sorted batches.

    Args:
        batches: Batches of the epoch, in order of length.
        world_size: Number of ranks.
        start: What was done before, see `past`.
        last: What becomes of what does not fill a step, see `Last`.
        key: Numbers that key the order of the steps.

    Returns:
        The share.

    Raises:
        InvalidArgumentError: More steps were done than an epoch has.

    Example:
        >>> from mbflow.speech.shares import window_share
        >>> window_share(5, world_size=2, start=(), last="short", key=(0, 0)).steps
        3
    """
    check_whole("world_size", world_size, least=1, most=MOST_RANKS)
    world_size = int(world_size)
    all_ = start
    offset = 0
    if start and start[-1][0] == world_size:
        start, offset = start[:-1], start[-1][1]
    left = np.arange(batches)
    for number, (size, steps) in enumerate(start):
        used, order, _ = _steps(left, size, last, (*key, number))
        _check_past(steps, len(order), size)
        places = (order[:steps, None] * size + np.arange(min(size, len(used)))).ravel()
        left = np.setdiff1d(left, used[places[places < len(used)]], assume_unique=True)
    left, order, turned = _steps(left, world_size, last, (*key, len(start)))
    _check_past(offset, len(order), world_size)
    steps = len(order) - offset
    return WindowShare(world_size, steps, all_, left, order[offset:], turned[offset:])


def _steps(
    left: NDArray[np.int64], world_size: int, last: Last, key: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The batches that steps take, so many neighbours each, the order of the steps, and turns."""
    seed = derived(*key)
    over = len(left) % world_size
    if over and last == "drop":
        # Anywhere among the lengths: the shortest items are not to be always the ones left out.
        at = int(_native.random_integers(seed, _DROPS, len(left) - over + 1, 0, 1)[0])
        left = np.delete(left, slice(at, at + over))
    steps = share_steps(len(left), world_size, last)
    turned = _native.random_integers(seed, _RANKS, world_size, 0, steps).astype(np.int64)
    return left, _native.permutation(seed, _STEPS, steps), turned


def derived(*key: int) -> int:
    """A seed of its own for a path of numbers, as the kernels derive it.

    Example:
        >>> from mbflow.speech.shares import derived
        >>> derived(7), derived(7, 1) != derived(7, 2)
        (7, True)
    """
    seed, *path = key
    for index in path:
        seed = int(_native.random_u64(seed, _DERIVE, index, 1)[0])
    return seed
