"""Batches of items of like length, as a pure function of epoch, step and rank."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from mbflow import _native
from mbflow.batches import BatchSampler, Last, check_state, check_whole
from mbflow.errors import InvalidArgumentError
from mbflow.speech.budget import Budget
from mbflow.speech.dropped import outlying
from mbflow.speech.lengths import Lengths
from mbflow.speech.orders import BucketOrder, WindowOrder
from mbflow.speech.shares import MOST_RANKS, BucketShare, Past, WindowShare, past
from mbflow.speech.usable import Usable, fitting

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from mbflow.speech.edges import Edges
    from mbflow.speech.report import BatchReport

__all__ = ["DurationBatches"]

_BUDGET = Budget.padded_seconds(600)
# Shares of epochs that are remembered; a share is worked out in less than a millisecond.
_REMEMBERED = 8
_MOST_EPOCHS = 2**63 - 1


class DurationBatches:
    """Batches of items of like length, within a budget, as a pure function of what is asked for.

    Which items rank `r` of `w` takes at step `s` of an epoch follows by arithmetic from the lengths
    and the seed. So all ranks agree without talking, take as many steps, at each step take items of
    the same bucket, and a run goes on at any step, also with another number of ranks, at once.

    With `order="buckets"` the items are put into buckets by length, and each bucket is cut, in an
    order that is new in each epoch, into batches of the size that the budget allows at its edge.
    The buckets take turns in proportion to what they hold, so that all end together. Which batches
    an epoch has does not depend on the number of ranks, except for the last step of each bucket.

    With `order="window"` the items are sorted by length and cut into cells of neighbours, of which
    each epoch draws batches at random; at a step the ranks take batches that are next to each
    other, and the steps come in random order. A cell is as narrow as the stretches that sorted
    windows of `window` random items would be cut into: the least padding where lengths have no
    gaps, and the least mixing.

    Args:
        seconds: Length of each item in seconds, above 0: NumPy, polars, pandas, pyarrow, a list, or
            `Lengths`, which may be mapped from a file.
        tokens: Output tokens of each item, likewise.
        budget: What a batch of one rank may cost, or a number: padded seconds.
        buckets: How many buckets at most; a pair for buckets in seconds and tokens.
        edges: `"optimal"`, `"equal_count"`, `"equal_duration"`, or the edges; see `bucket_edges`.
        edge_step: Edges by seconds are rounded up to multiples of this many seconds.
        order: `"buckets"` or `"window"`.
        window: With `order="window"`, the items of a window: fewer mix more, more pad less.
        seed: Key of all draws, 0 to 2^64 - 1.
        drop_last: Repeat no item and make no small batches: what is left of a bucket after its full
            steps is dealt to all ranks in equal parts where these are half a batch at least, and
            else left out; other items are left out in each epoch. By default all items are used:
            what is left of a bucket is dealt to all ranks, and ranks for which nothing is left
            repeat an item, which `repeats` marks.
        fill_last: Instead, fill batches and steps up with repeats, which `repeats` marks: with many
            ranks, many of them.
        too_long: What becomes of items that are above the budget alone, or above all given edges:
            `"error"`, or `"drop"`.
        min_seconds: Items below this are dropped.
        max_seconds: Items above this are dropped.
        rate_sigmas: Items with more tokens a second than the mean of their bucket and so many
            standard deviations are dropped; None for none.

    Attributes:
        lengths: The items.
        budget: The budget.
        edges: Edges of the buckets; None with `order="window"`.

    Raises:
        DataError: There is no item or none is left, one has no proper length, or one is above the
            budget alone; the message names the first.
        InvalidArgumentError: A parameter is out of range.

    Example:
        >>> import numpy as np
        >>> from mbflow.speech import Budget, DurationBatches
        >>> seconds = np.random.default_rng(0).uniform(1, 20, 1000)
        >>> batches = DurationBatches(seconds, budget=Budget.padded_seconds(200), buckets=8)
        >>> items = batches.batch(epoch=0, step=5, rank=1, world_size=4)
        >>> seconds[items].max() * len(items) <= 200
        np.True_

    Source: arXiv 2503.05931 (duration buckets, synchronised over ranks).
    """

    def __init__(
        self,
        seconds: Any,
        tokens: Any = None,
        *,
        budget: Budget | float = _BUDGET,
        buckets: int | tuple[int, int] = 30,
        edges: Literal["optimal", "equal_count", "equal_duration"] | Any = "optimal",
        edge_step: float | None = None,
        order: Literal["buckets", "window"] = "buckets",
        window: int = 20_000,
        seed: int = 0,
        drop_last: bool = False,
        fill_last: bool = False,
        too_long: Literal["error", "drop"] = "error",
        min_seconds: float = 0.0,
        max_seconds: float = math.inf,
        rate_sigmas: float | None = None,
    ) -> None:
        check_whole("seed", seed, least=0, most=2**64 - 1)
        check_whole("window", window, least=1)
        if order not in ("buckets", "window"):
            raise InvalidArgumentError(f"order is {order!r}; expected 'buckets' or 'window'")
        if drop_last and fill_last:
            raise InvalidArgumentError("drop_last and fill_last: expected one of them at most")
        last: Last = "drop" if drop_last else "fill" if fill_last else "short"
        self.lengths = Lengths.of(seconds, tokens)
        self.budget = budget if isinstance(budget, Budget) else Budget.padded_seconds(budget)
        if order == "window" and self.budget.table:
            raise InvalidArgumentError(
                "a budget of sizes by bucket has no sizes for windows; expected order='buckets' or "
                "a budget of limits"
            )
        if order == "window" and not isinstance(edges, str):
            raise InvalidArgumentError("edges are those of buckets; expected order='buckets'")
        self.order = order
        self.window = int(window)
        self.seed = int(seed)
        self.last: Last = last
        if rate_sigmas is not None and self.lengths.tokens is None:
            raise InvalidArgumentError("rate_sigmas is about tokens a second; pass tokens")
        dropped = outlying(
            self.lengths, min_seconds=min_seconds, max_seconds=max_seconds, rate_sigmas=rate_sigmas
        )
        self.edges: Edges | None = None
        self._order: BucketOrder | WindowOrder
        if order == "window":
            self._kept, self._dropped = fitting(
                self.lengths, dropped, self.budget, too_long=too_long
            )
            self._order = WindowOrder(
                self.lengths, self._kept, self.budget, window=self.window, last=last, seed=self.seed
            )
        else:
            used = Usable.of(
                self.lengths,
                dropped,
                self.budget,
                buckets=buckets,
                edges=edges,
                edge_step=edge_step,
                too_long=too_long,
            )
            self._kept, self._dropped = used.items, used.dropped
            self._order = BucketOrder.of(self.lengths, used, self.budget, last=last, seed=self.seed)
            self.edges = self._order.edges
        self._shares: dict[Any, BucketShare | WindowShare] = {}
        # Where an iteration or a state that was loaded stands: epoch, share and steps since.
        self._place: tuple[int, BucketShare | WindowShare | None, int] = (0, None, 0)
        self._resumed: tuple[int, Past] | None = None

    def __repr__(self) -> str:
        return f"DurationBatches({len(self)} of {len(self.lengths)} items, {self.order!r})"

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def dropped(self) -> pl.DataFrame:
        """The items that are in no epoch: a table of item, seconds, tokens and reason."""
        return self._dropped.table(self.lengths)

    @property
    def bytes(self) -> int:
        """Memory of the plan in bytes: the lengths, and the order of the items."""
        tokens = self.lengths.tokens
        arrays = [self.lengths.seconds, self._kept, *([] if tokens is None else [tokens])]
        return sum(array.nbytes for array in arrays) + self._order.bytes

    @property
    def residence(self) -> float:
        """Mean share of the items that is in the bucket or cell of an item."""
        return self._order.residence

    def __getstate__(self) -> dict[str, Any]:
        # Workers that are started anew get the lengths and the order, and work out shares again.
        return self.__dict__ | {"_shares": {}, "_place": (0, None, 0)}

    def share(
        self, epoch: int = 0, *, world_size: int = 1, start: Past | int = 0
    ) -> BucketShare | WindowShare:
        """How an epoch is shared among ranks.

        Args:
            epoch: Number of the epoch, from 0; there is no last one.
            world_size: Number of ranks.
            start: What of the epoch was done before, as `BatchSampler.state_dict` says it: pairs of
                a number of ranks and the steps it took.

        Returns:
            The share.

        Raises:
            InvalidArgumentError: A number is out of range.

        Example:
            >>> from mbflow.speech import DurationBatches
            >>> DurationBatches([1.0] * 12, budget=2.0).share(world_size=3).steps
            2
        """
        if type(epoch) is not int or type(world_size) is not int:
            # What merely equals a number, as True does, must not be found under it.
            check_whole("epoch", epoch, least=0, most=_MOST_EPOCHS)
            check_whole("world_size", world_size, least=1, most=MOST_RANKS)
            epoch, world_size = int(epoch), int(world_size)
        try:
            found = self._shares.get((epoch, world_size, start))
        except TypeError:
            found = None  # lists, as a state from a file has them
        if found is not None:
            return found
        check_whole("epoch", epoch, least=0, most=_MOST_EPOCHS)
        done = past(start)
        made = self._order.share(epoch, world_size, done)
        # Other threads may look, so the cache is replaced and not changed.
        kept = list(self._shares.items())[1 - _REMEMBERED :]
        key = start if isinstance(start, int) else done
        self._shares = {**dict(kept), (epoch, world_size, key): made}
        return made

    def steps(self, epoch: int = 0, *, world_size: int = 1, start: Past | int = 0) -> int:
        """Steps of an epoch, the same for every rank.

        Args:
            epoch: Number of the epoch.
            world_size: Number of ranks.
            start: What was done before, see `share`.

        Returns:
            The count.

        Raises:
            InvalidArgumentError: A number is out of range.

        Example:
            >>> from mbflow.speech import DurationBatches
            >>> DurationBatches([1.0] * 12, budget=2.0).steps(0, world_size=2)
            3
        """
        return self.share(epoch, world_size=world_size, start=start).steps

    def batch(
        self,
        epoch: int,
        step: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        start: Past | int = 0,
    ) -> NDArray[np.int64]:
        """The items that a rank takes at a step; costs what the batch holds.

        Args:
            epoch: Number of the epoch, from 0.
            step: 0 to `steps(...) - 1`.
            rank: 0 to `world_size - 1`.
            world_size: Number of ranks.
            start: What of the epoch was done before step 0, see `share`.

        Returns:
            Item numbers, int64 of shape (items of the batch,).

        Raises:
            InvalidArgumentError: There is no such epoch, step or rank.

        Example:
            >>> from mbflow.speech import DurationBatches
            >>> batches = DurationBatches([3.0, 1.0, 3.0, 1.0], budget=6.0, buckets=2)
            >>> sorted(sorted(batches.batch(0, step).tolist()) for step in range(2))
            [[0, 2], [1, 3]]
        """
        return self._taken(epoch, step, rank, world_size, start)[0]

    def repeats(
        self,
        epoch: int,
        step: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        start: Past | int = 0,
    ) -> NDArray[np.bool_]:
        """Which items of `batch` are repeats: items with another, unmarked place in the epoch.

        Args:
            epoch: As for `batch`, as all others.
            step: Number of the step.
            rank: Number of the rank.
            world_size: Number of ranks.
            start: What was done before.

        Returns:
            bool of shape (items of the batch,).

        Raises:
            InvalidArgumentError: As for `batch`.

        Example:
            >>> from mbflow.speech import DurationBatches
            >>> batches = DurationBatches([1.0] * 3, budget=1.0)
            >>> [bool(batches.repeats(0, 1, rank=rank, world_size=2)[0]) for rank in range(2)]
            [False, True]
        """
        return self._taken(epoch, step, rank, world_size, start)[1]

    def epoch(
        self,
        epoch: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        start: Past | int | None = None,
        start_step: int = 0,
    ) -> Iterator[NDArray[np.int64]]:
        """The batches of a rank, one after the other: what `batch` gives for each step, faster.

        After `load_state_dict`, the epoch of that state goes on where it stopped.

        Args:
            epoch: Number of the epoch.
            rank: 0 to `world_size - 1`.
            world_size: Number of ranks.
            start: What of the epoch was done before step 0, see `share`; by default what a state
                that was loaded says of it, or nothing.
            start_step: The first step to take.

        Yields:
            Item numbers, int64 of shape (items of the batch,).

        Raises:
            InvalidArgumentError: There is no such epoch, step or rank.

        Example:
            >>> from mbflow.speech import DurationBatches
            >>> batches = DurationBatches([1.0] * 5, budget=2.0)
            >>> [len(batch) for batch in batches.epoch(0, start_step=1)]
            [2, 1]
        """
        if start is None:
            resumed = self._resumed
            start = resumed[1] if resumed is not None and resumed[0] == epoch else 0
        share = self.share(epoch, world_size=world_size, start=start)
        check_whole("rank", rank, least=0, most=share.world_size - 1)
        check_whole("start_step", start_step, least=0, most=share.steps)
        return self._iterate(int(epoch), share, int(start_step), int(rank))

    def _iterate(
        self, epoch: int, share: BucketShare | WindowShare, start_step: int, rank: int
    ) -> Iterator[NDArray[np.int64]]:
        for step, items in enumerate(self._order.epoch(epoch, share, start_step, rank), start_step):
            self._place = (epoch, share, step + 1)
            yield items

    def state_dict(self) -> dict[str, Any]:
        """Where the last iteration by `epoch` stands, as a few integers.

        Samplers have states of their own: `BatchSampler.state_dict`, in the same form.

        Returns:
            The epoch, what of it is done by all ranks, and the fingerprint of the plan.

        Example:
            >>> from mbflow.speech import DurationBatches
            >>> batches = DurationBatches([1.0] * 8, budget=2.0)
            >>> first = next(batches.epoch(0))
            >>> batches.state_dict()["batches_done"]
            ((1, 1),)
        """
        epoch, share, steps = self._place
        done: Past = ()
        if share is not None:
            done = share.done(steps)
        elif self._resumed is not None:
            epoch, done = self._resumed
        return {"epoch": epoch, "batches_done": done, "plan": self.fingerprint()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let `epoch` go on where a state was taken, also with another number of ranks.

        Args:
            state: What `state_dict` gave, here or of a sampler.

        Raises:
            InvalidArgumentError: It is the state of another plan; the message says what differs.

        Example:
            >>> from mbflow.speech import DurationBatches
            >>> batches = DurationBatches([1.0] * 8, budget=2.0)
            >>> batches.load_state_dict({**batches.state_dict(), "batches_done": [[2, 1]]})
            >>> len(list(batches.epoch(0)))
            2
        """
        epoch, done = check_state(state, self.fingerprint())
        share = self.share(epoch, start=done)
        self._resumed, self._place = (epoch, share.start), (epoch, None, 0)

    def _taken(
        self, epoch: int, step: int, rank: int, world_size: int, start: Past | int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        share = self.share(epoch, world_size=world_size, start=start)
        check_whole("rank", rank, least=0, most=share.world_size - 1)
        return self._order.taken(int(epoch), share, step, int(rank))

    def fingerprint(self) -> dict[str, int | str]:
        """What the batches depend on, as a resume compares it.

        Returns:
            Items, order, window, seed, the rule for what is left, and digests of lengths, buckets
            and batch sizes.

        Example:
            >>> from mbflow.speech import DurationBatches
            >>> DurationBatches([1.0, 2.0]).fingerprint()["items"]
            2
        """
        return {
            "items": len(self._kept),
            "order": self.order,
            "seed": self.seed,
            "last": self.last,
            "lengths": self.lengths.digest(),
            "dropped": _native.xxh3_128(self._dropped.items.tobytes()),
            **self._order.fingerprint(),
        }

    def sampler(self, rank: int = 0, world_size: int = 1, *, epoch: int = 0) -> BatchSampler:
        """A batch sampler of one rank, for `torch.utils.data.DataLoader(batch_sampler=...)`.

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
            >>> from mbflow.speech import DurationBatches
            >>> sampler = DurationBatches([1.0] * 4, budget=2.0).sampler()
            >>> [len(batch) for batch in sampler], sampler.epoch
            ([2, 2], 1)
        """
        return BatchSampler(self, rank=rank, world_size=world_size, epoch=epoch)

    def report(self, world_size: int = 8, *, epoch: int = 0) -> BatchReport:
        """What an epoch comes to, before anything is trained; see `BatchReport`.

        Args:
            world_size: Number of ranks.
            epoch: Number of the epoch.

        Returns:
            The report.

        Raises:
            InvalidArgumentError: A number is out of range, or the epoch has no step.

        Example:
            >>> from mbflow.speech import DurationBatches
            >>> DurationBatches([1.0, 2.0], budget=4.0, buckets=1).report(1).padding_in
            0.25
        """
        from mbflow.speech.report import report

        return report(self, world_size=world_size, epoch=epoch)
