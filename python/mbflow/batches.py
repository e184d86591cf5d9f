"""Which rank takes what at which step: the arithmetic that all kinds of batches share.

An epoch is a list of batches that depends on the data and a seed alone, never on the number of
ranks. At each step the ranks take the next batches of that list, one each. So where a run stands is
one number, the batches that are done, and it may go on with another number of ranks. `Share` holds
this arithmetic, and `BatchSampler` takes any `Plan` that stands on it to a training loop.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from mbflow.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["BatchSampler", "Last", "Plan", "Share", "Turn", "check_last", "check_whole"]

Last = Literal["short", "drop", "fill"]
"""What becomes of rows and batches that do not fill a batch, or a step of all ranks.

`"short"`: every row is used; the last batch is shorter, and a last step that has too few batches
for the ranks, or that shorter one, is dealt again, so that all ranks have as many rows to within
one. `"drop"`: they are left out. `"fill"`: they are filled up with repeats, which are marked.
"""


@dataclass(frozen=True)
class Turn:
    """What one rank takes at one step.

    Attributes:
        batch: Number of the batch in the epoch.
        parts: 1, or into how many parts the batches from `batch` to the end are dealt again.
        part: Which of these parts.
        repeat: Whether this batch has an earlier turn in the epoch.

    Example:
        >>> from mbflow.batches import Turn
        >>> Turn(3).parts
        1
    """

    batch: int
    parts: int = 1
    part: int = 0
    repeat: bool = False


@dataclass(frozen=True)
class Share:
    """How the batches of an epoch are shared among ranks: equal steps for all, in the same order.

    At step `s` rank `r` takes batch `start + s * world_size + r`. What is held fixed is the list of
    batches: to go on with another number of ranks, `start` is the batches that are done.

    Attributes:
        batches: Batches of the epoch.
        world_size: Number of ranks.
        start: Batches of the epoch that are done already, by whatever number of ranks.
        last: What a last step does for which batches are too few, see `Last`: with `"fill"` the
            ranks that are left over take the first batches of the epoch again.
        uneven: Whether the last batch is shorter than the others; with `"short"` the last step is
            then dealt again over the ranks, so that all do the same work.

    Raises:
        InvalidArgumentError: A number is out of range.

    Example:
        >>> from mbflow.batches import Share
        >>> share = Share(10, world_size=4, last="fill")
        >>> share.steps, [share.turn(2, rank).batch for rank in range(4)]
        (3, [8, 9, 0, 1])
        >>> Share(10, world_size=3, start=share.done(1)).turn(0, 2).batch
        6
    """

    batches: int
    world_size: int = 1
    start: int = 0
    last: Last = "short"
    uneven: bool = False

    def __post_init__(self) -> None:
        check_whole("batches", self.batches, least=0)
        check_whole("world_size", self.world_size, least=1)
        check_whole("start", self.start, least=0, most=self.batches)
        check_last(self.last)

    @property
    def steps(self) -> int:
        """Steps that each rank takes; 0 where nothing is left for a step of all ranks."""
        left = self.batches - self.start
        return left // self.world_size if self.last == "drop" else -(-left // self.world_size)

    def turn(self, step: int, rank: int) -> Turn:
        """What a rank takes at a step.

        Args:
            step: 0 to `steps - 1`.
            rank: 0 to `world_size - 1`.

        Returns:
            The turn.

        Raises:
            InvalidArgumentError: There is no such step or rank.

        Example:
            >>> from mbflow.batches import Share
            >>> Share(10, world_size=4).turn(2, 3)
            Turn(batch=8, parts=4, part=3, repeat=False)
        """
        if self.steps == 0:
            raise InvalidArgumentError(
                f"there is no step: {self.batches - self.start} batches are left for "
                f"{self.world_size} ranks and last is {self.last!r}"
            )
        check_whole("step", step, least=0, most=self.steps - 1)
        check_whole("rank", rank, least=0, most=self.world_size - 1)
        first = self.start + step * self.world_size
        whole = self.batches - first - self.world_size
        if self.last != "short" or self.world_size == 1 or not self.uneven:
            whole += 1
        if whole > 0:
            return Turn(first + rank)
        if self.last == "short":
            return Turn(first, self.world_size, rank)
        over = first + rank - self.batches
        return Turn(first + rank) if over < 0 else Turn(over % self.batches, repeat=True)

    def done(self, steps: int) -> int:
        """Batches of the epoch that are done after `steps` steps: the `start` to go on from.

        Args:
            steps: 0 to `self.steps`.

        Returns:
            The count; all batches, after the last step.

        Raises:
            InvalidArgumentError: There are not so many steps.

        Example:
            >>> from mbflow.batches import Share
            >>> Share(10, world_size=4).done(2)
            8
        """
        check_whole("steps", steps, least=0, most=self.steps)
        done = self.start + int(steps) * self.world_size
        return self.batches if steps == self.steps else min(done, self.batches)


@runtime_checkable
class Plan(Protocol):
    """Batches that are a pure function of epoch, step, rank and number of ranks.

    Example:
        >>> from mbflow.batches import Plan
        >>> from mbflow.stratified import StratifiedBatches
        >>> isinstance(StratifiedBatches([0, 1], 2), Plan)
        True
    """

    def share(self, epoch: int = 0, *, world_size: int = 1, start: int = 0) -> Share:
        """How the batches of an epoch are shared among ranks."""

    def batch(
        self, epoch: int, step: int, *, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> NDArray[np.int64]:
        """The rows that a rank takes at a step."""

    def fingerprint(self) -> dict[str, int | str]:
        """What the batches depend on, as a resume compares it."""


class BatchSampler:
    """The batches of one rank, epoch after epoch, in the protocol of torch's batch samplers.

    A pass goes over one epoch and then moves on to the next, so that no epoch is seen twice by
    omission; `set_epoch` says otherwise. `rank` and `world_size` may be another run's when its
    state is loaded: the epoch goes on where it stopped. Torch itself is not needed.

    Args:
        batches: The batches, such as `StratifiedBatches`.
        rank: 0 to `world_size - 1`.
        world_size: Number of ranks.
        epoch: The first epoch.

    Attributes:
        epoch: The epoch that the next pass goes over, or that the one at hand is in.

    Raises:
        InvalidArgumentError: There is no such rank, or an epoch has no step for so many ranks.

    Example:
        >>> from mbflow.stratified import StratifiedBatches
        >>> batches = StratifiedBatches([0, 1] * 8, 2)
        >>> sampler = batches.sampler(rank=1, world_size=2)
        >>> stopped_after = sampler.state_dict(steps=3)
        >>> other = batches.sampler()
        >>> other.load_state_dict(stopped_after)
        >>> len(other)
        2
    """

    def __init__(
        self, batches: Plan, *, rank: int = 0, world_size: int = 1, epoch: int = 0
    ) -> None:
        share = batches.share(epoch, world_size=world_size)
        check_whole("rank", rank, least=0, most=world_size - 1)
        if share.steps == 0:
            raise InvalidArgumentError(
                f"an epoch has {share.batches} batches, too few for {world_size} ranks, and "
                "last='drop' leaves them out; use fewer ranks, smaller batches or last='fill'"
            )
        self._batches = batches
        self._rank = int(rank)
        self._world_size = int(world_size)
        self.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass go over an epoch from its start.

        Args:
            epoch: Its number, from 0.

        Raises:
            InvalidArgumentError: It is below 0.

        Example:
            >>> from mbflow.stratified import StratifiedBatches
            >>> sampler = StratifiedBatches([0, 1], 2).sampler()
            >>> sampler.set_epoch(3)
            >>> sampler.epoch
            3
        """
        check_whole("epoch", epoch, least=0, most=2**63 - 1)
        self.epoch = int(epoch)
        self._start = 0
        self._steps_done = 0

    def _share(self) -> Share:
        return self._batches.share(self.epoch, world_size=self._world_size, start=self._start)

    def __len__(self) -> int:
        return self._share().steps

    def __iter__(self) -> Iterator[list[int]]:
        share, epoch = self._share(), self.epoch
        for step in range(share.steps):
            rows = self._batches.batch(
                epoch,
                step,
                rank=self._rank,
                world_size=share.world_size,
                start=share.start,
            )
            self._steps_done = step + 1
            yield rows.tolist()
        self.set_epoch(epoch + 1)

    def state_dict(self, *, steps: int | None = None) -> dict[str, Any]:
        """Where the run stands, as a few integers.

        Args:
            steps: Steps of the epoch at hand that training has done, in this run. A loader with
                worker processes draws batches ahead of training, so it should be given then; by
                default it is the batches that were drawn.

        Returns:
            The epoch, the batches of it that are done by all ranks, and the plan's fingerprint.

        Raises:
            InvalidArgumentError: There are not so many steps.

        Example:
            >>> from mbflow.stratified import StratifiedBatches
            >>> state = StratifiedBatches([0, 1], 1).sampler().state_dict(steps=1)
            >>> state["epoch"], state["batches_done"]
            (0, 1)
        """
        share = self._share()
        done = share.done(self._steps_done if steps is None else steps)
        return {
            "epoch": self.epoch,
            "batches_done": done,
            "plan": self._batches.fingerprint(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken, also with another rank and number of ranks.

        Args:
            state: What `state_dict` gave.

        Raises:
            InvalidArgumentError: It is the state of other batches; the message says what differs.

        Example:
            >>> from mbflow.stratified import StratifiedBatches
            >>> batches = StratifiedBatches([0, 1], 1)
            >>> sampler = batches.sampler()
            >>> sampler.load_state_dict(batches.sampler().state_dict(steps=1))
            >>> len(list(sampler)), sampler.epoch
            (1, 1)
        """
        try:
            epoch, done, plan = state["epoch"], state["batches_done"], dict(state["plan"])
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArgumentError(
                "the state is not one of a batch sampler; expected a mapping with epoch, "
                "batches_done and plan"
            ) from error
        own = self._batches.fingerprint()
        differing = [key for key in own if plan.get(key) != own[key]]
        if differing:
            raise InvalidArgumentError(
                "the state is one of other batches: "
                + ", ".join(f"{key} was {plan.get(key)!r} and is {own[key]!r}" for key in differing)
            )
        check_whole("epoch", epoch, least=0, most=2**63 - 1)
        # Refused here, a state leaves the sampler where it was.
        share = self._batches.share(epoch, world_size=self._world_size, start=done)
        if share.steps == 0:
            # What is left is too little for a step of all ranks, so the next epoch begins.
            self.set_epoch(epoch + 1)
        else:
            self.set_epoch(epoch)
            self._start = share.start


def check_whole(name: str, value: Any, *, least: int, most: int | None = None) -> None:
    """Refuse what is no whole number in a range.

    Args:
        name: What the number is called.
        value: The number.
        least: The lowest that will do.
        most: The highest, where there is one.

    Raises:
        InvalidArgumentError: It is none.

    Example:
        >>> from mbflow.batches import check_whole
        >>> check_whole("rank", 3, least=0)
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, numbers.Integral)
        or int(value) < least
        or (most is not None and int(value) > most)
    ):
        wanted = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InvalidArgumentError(f"{name} is {value!r}; expected a whole number {wanted}")


def check_last(last: Any) -> None:
    """Refuse what is no rule for the last batch.

    Args:
        last: The rule, see `Last`.

    Raises:
        InvalidArgumentError: It is none.

    Example:
        >>> from mbflow.batches import check_last
        >>> check_last("fill")
    """
    if last not in ("short", "drop", "fill"):
        raise InvalidArgumentError(f"last is {last!r}; expected 'short', 'drop' or 'fill'")
