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
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "BatchSampler",
    "Last",
    "Plan",
    "Share",
    "Shared",
    "Start",
    "Turn",
    "check_fingerprint",
    "check_last",
    "check_state",
    "check_whole",
    "last_turn",
    "share_steps",
    "share_whole",
]

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
        for name in ("batches", "world_size", "start"):
            # NumPy's narrow integers would overflow below.
            object.__setattr__(self, name, int(getattr(self, name)))

    @property
    def steps(self) -> int:
        """Steps that each rank takes; 0 where nothing is left for a step of all ranks."""
        return int(share_steps(self.batches - self.start, self.world_size, self.last))

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
        step, rank = int(step), int(rank)
        first = self.start + step * self.world_size
        left = self.batches - self.start
        if step < share_whole(left, self.world_size, self.last, uneven=self.uneven):
            return Turn(first + rank)
        return last_turn(first, rank, self.batches, self.world_size, self.last)

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
        if steps == self.steps:
            # What does not fill a step is done with.
            return self.batches
        return self.start + int(steps) * self.world_size


def share_steps(left: Any, world_size: int, last: Last) -> Any:
    """Steps that each rank takes of lists of which so many batches are left.

    Args:
        left: Batches, an integer or an array of them.
        world_size: Number of ranks.
        last: What becomes of what does not fill a step, see `Last`.

    Returns:
        Steps, of the same shape.

    Example:
        >>> from mbflow.batches import share_steps
        >>> share_steps(10, 4, "short"), share_steps(10, 4, "drop")
        (3, 2)
    """
    return left // world_size if last == "drop" else -(-left // world_size)


def share_whole(left: Any, world_size: int, last: Last, *, uneven: Any) -> Any:
    """Steps at which each rank takes a batch of its own: all but the last one, or all.

    Args:
        left: Batches, an integer or an array of them.
        world_size: Number of ranks.
        last: What becomes of what does not fill a step, see `Last`.
        uneven: Whether the last batch is shorter than the others, or an array of this.

    Returns:
        Steps, of the same shape.

    Example:
        >>> from mbflow.batches import share_whole
        >>> share_whole(8, 4, "short", uneven=False), share_whole(8, 4, "short", uneven=True)
        (2, 1)
    """
    if last == "short" and world_size > 1:
        return (left - uneven) // world_size
    return left // world_size


def last_turn(first: int, rank: int, batches: int, world_size: int, last: Last) -> Turn:
    """What a rank takes at a step at which not each has a batch of its own.

    Args:
        first: The first batch of the step.
        rank: Number of the rank.
        batches: Batches of the epoch.
        world_size: Number of ranks.
        last: `"fill"` repeats the first batches; else those that are left are dealt again.

    Example:
        >>> from mbflow.batches import last_turn
        >>> last_turn(8, 3, 10, 4, "fill")
        Turn(batch=1, parts=1, part=0, repeat=True)
    """
    if last != "fill":
        return Turn(first, world_size, rank)
    over = first + rank - batches
    return Turn(first + rank) if over < 0 else Turn(over % batches, repeat=True)


Start = int | tuple[tuple[int, int], ...]
"""What of an epoch is done: batches of its list, or for batches of like length, the steps that each
number of ranks took."""


class Shared(Protocol):
    """How an epoch is shared among ranks: what `BatchSampler` needs of it.

    Example:
        >>> from mbflow.batches import Share
        >>> Share(10, world_size=4).done(1)
        4
    """

    @property
    def world_size(self) -> int:
        """Number of ranks."""

    @property
    def start(self) -> Any:
        """What of the epoch is done already."""

    @property
    def steps(self) -> int:
        """Steps that are left for each rank."""

    def done(self, steps: int) -> Any:
        """What is done after so many more steps."""


@runtime_checkable
class Plan(Protocol):
    """Batches that are a pure function of epoch, step, rank and number of ranks.

    Example:
        >>> from mbflow.batches import Plan
        >>> from mbflow.stratified import StratifiedBatches
        >>> isinstance(StratifiedBatches([0, 1], 2), Plan)
        True
    """

    def share(self, epoch: int = 0, *, world_size: int = 1, start: Any = 0) -> Shared:
        """How the batches of an epoch are shared among ranks."""

    def batch(
        self, epoch: int, step: int, *, rank: int = 0, world_size: int = 1, start: Any = 0
    ) -> NDArray[np.int64]:
        """The rows that a rank takes at a step."""

    def fingerprint(self) -> dict[str, int | str]:
        """What the batches depend on, as a resume compares it."""


class BatchSampler:
    """The batches of one rank, epoch after epoch, in the protocol of torch's batch samplers.

    A pass goes over one epoch and then moves on to the next, so that no epoch is seen twice by
    omission; `set_epoch` says otherwise. `rank` and `world_size` may be another run's when its
    state is loaded: the epoch goes on where it stopped. Torch itself is not needed.

    In torchdata's `StatefulDataLoader` the state of the loader holds the sampler's, as of the batch
    that training has, however many batches the workers are ahead. With `snapshot_every_n_steps`
    above 1 it holds the last snapshot and replays the steps since, which is exact for the same
    number of ranks only.

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
                f"the batches of an epoch are too few for {world_size} ranks, and what does not "
                "fill a step is dropped; use fewer ranks, smaller batches, or do not drop"
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
        self._go_on(int(epoch), 0)

    def _go_on(self, epoch: int, start: Any) -> None:
        self.epoch = epoch
        self._start: Any = start
        self._pass: _Pass | None = None

    def __len__(self) -> int:
        return self._batches.share(self.epoch, world_size=self._world_size, start=self._start).steps

    def __iter__(self) -> Iterator[list[int]]:
        self._pass = self._begun()
        return self._pass

    def _begun(self) -> _Pass:
        made = _Pass(self._batches, self._rank, self._world_size, self._ended)
        return made.begin(self.epoch, self._start)

    def _ended(self, ended: _Pass) -> None:
        if self._pass is ended:
            self.set_epoch(ended.epoch + 1)
            # Training may be behind the workers of a loader, so its steps still count in this pass.
            self._pass = ended

    def state_dict(self, *, steps: int | None = None) -> dict[str, Any]:
        """Where the run stands, as a few integers.

        Args:
            steps: Steps that training has done of the pass that was begun last. A loader with
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
        at = self._pass
        if at is None or (steps is None and at.ended):
            at = self._begun()
        return {**at.state_dict(steps=steps), "plan": self._batches.fingerprint()}

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
        epoch, done = check_state(state, self._batches.fingerprint())
        # Refused here, a state leaves the sampler where it was.
        share = self._batches.share(epoch, world_size=self._world_size, start=done)
        if share.steps == 0:
            # What is left is too little for a step of all ranks, so the next epoch begins.
            self.set_epoch(epoch + 1)
        else:
            self._go_on(epoch, share.start)


class _Pass:
    """One pass of a sampler: an iterator that knows where it stands.

    torchdata saves the state of a sampler and that of its iterator and loads them in this order. An
    epoch whose last batch was drawn is done for the sampler, which begins the next one. To the
    iterator it is an empty rest, so that a loop over epochs counts them as it did before.
    """

    def __init__(
        self, batches: Plan, rank: int, world_size: int, then: Callable[[_Pass], None]
    ) -> None:
        self._batches = batches
        self._rank = rank
        self._world_size = world_size
        self._then = then

    def __getstate__(self) -> dict[str, Any]:
        # A share may hold what cannot be pickled; it follows from what is done of the epoch.
        return self.__dict__ | {"_share": self._share.start}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        self._share = self._batches.share(
            self.epoch, world_size=self._world_size, start=state["_share"]
        )

    def begin(self, epoch: int, start: Any) -> _Pass:
        self.epoch = epoch
        self._share = self._batches.share(epoch, world_size=self._world_size, start=start)
        self._drawn = 0
        self.ended = False
        return self

    def __iter__(self) -> Iterator[list[int]]:
        return self

    def __next__(self) -> list[int]:
        if self._drawn == self._share.steps:
            if not self.ended:
                self.ended = True
                self._then(self)
            raise StopIteration
        rows = self._batches.batch(
            self.epoch,
            self._drawn,
            rank=self._rank,
            world_size=self._world_size,
            start=self._share.start,
        )
        self._drawn += 1
        found: list[int] = rows.tolist()
        return found

    def state_dict(self, *, steps: int | None = None) -> dict[str, Any]:
        done = self._share.done(self._drawn if steps is None else steps)
        return {"epoch": self.epoch, "batches_done": done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.begin(*_where(state))


def _where(state: Mapping[str, Any]) -> tuple[int, Any]:
    try:
        epoch, done = state["epoch"], state["batches_done"]
    except (KeyError, TypeError) as error:
        raise InvalidArgumentError(
            "the state is not one of a batch sampler; expected a mapping with epoch, "
            "batches_done and plan"
        ) from error
    check_whole("epoch", epoch, least=0, most=2**63 - 1)
    return int(epoch), done


def check_state(state: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[int, Any]:
    """Refuse the state of other batches.

    Args:
        state: What `BatchSampler.state_dict` gave.
        own: The fingerprint of the batches that are to go on.

    Returns:
        The epoch, and what of it is done.

    Raises:
        InvalidArgumentError: It is no state, or one of other batches; the message says what
            differs.

    Example:
        >>> from mbflow.batches import check_state
        >>> check_state({"epoch": 2, "batches_done": 7, "plan": {"seed": 1}}, {"seed": 1})
        (2, 7)
    """
    epoch, done = _where(state)
    plan = state.get("plan")
    if not isinstance(plan, dict):
        raise InvalidArgumentError(
            "the state is not one of a batch sampler; expected a mapping with epoch, "
            "batches_done and plan"
        )
    check_fingerprint(plan, own)
    return epoch, done


def check_fingerprint(was: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse the state of other batches.

    Args:
        was: The fingerprint that the state holds.
        own: That of the batches at hand.

    Raises:
        InvalidArgumentError: They differ; the message says in what.

    Example:
        >>> from mbflow.batches import check_fingerprint
        >>> check_fingerprint({"seed": 1, "rows": 9}, {"seed": 1, "rows": 9})
    """
    differing = [key for key in own if was.get(key) != own[key]]
    if differing:
        raise InvalidArgumentError(
            "the state is one of other batches: "
            + ", ".join(f"{key} was {was.get(key)!r} and is {own[key]!r}" for key in differing)
        )


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
