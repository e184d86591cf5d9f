"""An endless stream of batches: who takes what, a sampler with its state, and a report."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.batches import check_fingerprint, check_whole
from mbflow.errors import InvalidArgumentError
from mbflow.speech.shares import Past, past

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from mbflow import _native
    from mbflow.speech.mix import MixedBatches

__all__ = ["MixReport", "MixShare", "StreamSampler", "mix_report"]


@dataclass(frozen=True)
class MixShare:
    """How an endless stream is shared among ranks.

    Which bucket a step takes depends on the steps done before, by whatever numbers of ranks. Each
    bucket is a list of batches without end, of which the ranks of a step take the next ones.

    Attributes:
        world_size: Number of ranks.
        start: What was done before, by whatever numbers of ranks.
        steps: Steps from `start` on that can be counted: for training, no end.

    Example:
        >>> from mbflow.speech import MixedBatches
        >>> MixedBatches({"a": [1.0, 1.0]}).share(world_size=3).start
        ()
    """

    world_size: int
    start: Past
    steps: int
    _steps: int = field(repr=False)
    _turns: NDArray[np.int64] = field(repr=False)
    _done: NDArray[np.int64] = field(repr=False)
    _order: _native.durations.Interleave = field(repr=False)

    def turns(self, first: int, last: int, rank: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The buckets of steps `first` to `last - 1`, and the batch of each that a rank takes.

        Example:
            >>> from mbflow.speech import MixedBatches
            >>> share = MixedBatches({"a": [1.0, 1.0]}).share(world_size=3)
            >>> [found.tolist() for found in share.turns(4, 6, 1)]
            [[0, 0], [13, 16]]
        """
        if last - first == 1:
            bucket, turn = self._order.at(self._steps + first)
            buckets, turns = np.array([bucket]), np.array([turn])
        else:
            found, turns = self._order.turns(self._steps + first, self._steps + last)
            buckets = found.astype(np.int64)
        batches = self._done[buckets] + self.world_size * (turns - self._turns[buckets]) + rank
        return buckets, batches

    def done(self, steps: int) -> Past:
        """What is done after `steps` steps: the `start` to go on from.

        Args:
            steps: From 0.

        Returns:
            Pairs of numbers of ranks and of steps.

        Raises:
            InvalidArgumentError: It is below 0 or above `self.steps`.

        Example:
            >>> from mbflow.speech import MixedBatches
            >>> MixedBatches({"a": [1.0]}).share(world_size=2, start=((8, 3),)).done(4)
            ((8, 3), (2, 4))
        """
        check_whole("steps", steps, least=0, most=self.steps)
        return past((*self.start, (self.world_size, int(steps))))


class StreamSampler:
    """The batches of one rank for ever, in the protocol of torch's batch samplers.

    It has no length: a training loop counts steps. Each pass goes on after the batches that the
    last one drew, those included that worker processes had drawn ahead. Torch itself is not needed.

    Args:
        batches: The batches.
        rank: 0 to `world_size - 1`.
        world_size: Number of ranks.

    Raises:
        InvalidArgumentError: There is no such rank.

    Example:
        >>> from itertools import islice
        >>> from mbflow.speech import MixedBatches
        >>> batches = MixedBatches({"a": [1.0] * 4, "b": [1.0] * 4}, budget=2.0)
        >>> sampler = batches.sampler(rank=1, world_size=2)
        >>> drawn = list(islice(sampler, 3))
        >>> other = batches.sampler(rank=0, world_size=3)
        >>> other.load_state_dict(sampler.state_dict())
        >>> other.state_dict()["done"]
        ((2, 3),)
    """

    def __init__(self, batches: MixedBatches, *, rank: int = 0, world_size: int = 1) -> None:
        share = batches.share(world_size=world_size)
        check_whole("rank", rank, least=0, most=share.world_size - 1)
        self._batches = batches
        self._rank = int(rank)
        self._world_size = int(world_size)
        self._start: Past = ()
        self._drawn = 0

    def __iter__(self) -> Iterator[list[int]]:
        self._start = self._done(self._drawn)
        self._drawn = 0
        stream = self._batches.stream(
            rank=self._rank, world_size=self._world_size, start=self._start
        )
        for drawn, items in enumerate(stream, 1):
            self._drawn = drawn
            yield items.tolist()

    def _done(self, steps: int) -> Past:
        return self._batches.share(world_size=self._world_size, start=self._start).done(steps)

    def state_dict(self, *, steps: int | None = None) -> dict[str, Any]:
        """Where the run stands, as a few integers.

        Args:
            steps: Steps that training has done since the pass at hand began. A loader with worker
                processes draws batches ahead of training, so it should be given then; by default it
                is the batches that were drawn.

        Returns:
            What is done, as steps of each number of ranks, and the plan's fingerprint.

        Raises:
            InvalidArgumentError: It is below 0.

        Example:
            >>> from mbflow.speech import MixedBatches
            >>> MixedBatches({"a": [1.0]}).sampler(0, 8).state_dict(steps=40)["done"]
            ((8, 40),)
        """
        done = self._done(self._drawn if steps is None else steps)
        return {"done": done, "plan": self._batches.fingerprint()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass go on where a state was taken, also with another number of ranks.

        Args:
            state: What `state_dict` gave.

        Raises:
            InvalidArgumentError: It is the state of other batches; the message says what differs.

        Example:
            >>> from mbflow.speech import MixedBatches
            >>> sampler = MixedBatches({"a": [1.0]}).sampler()
            >>> sampler.load_state_dict({**sampler.state_dict(), "done": [[4, 10]]})
            >>> sampler.state_dict()["done"]
            ((4, 10),)
        """
        try:
            done, plan = state["done"], dict(state["plan"])
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArgumentError(
                "the state is not one of a sampler of mixed batches; expected a mapping with done "
                "and plan"
            ) from error
        check_fingerprint(plan, self._batches.fingerprint())
        # Refused here, a state leaves the sampler where it was.
        share = self._batches.share(world_size=self._world_size, start=done)
        self._start, self._drawn = share.start, 0


@dataclass(frozen=True)
class MixReport:
    """What a stream of mixed batches comes to.

    Attributes:
        items: The share of each source in the items of the stream, by name.
        seconds: Its share in the seconds.
        rounds: How often each source is used up where all items of the stream are as many as those
            of the sources: 1 for all, mixed in proportion to their size.
        batch_items: Mean items of a batch.
        padding_in: Padded seconds over all seconds computed, where a batch is padded to its
            longest item.
        padding_to_edges: The same, padded to the edges of the buckets.
        dropped: Items that are never taken.

    Example:
        >>> from mbflow.speech import MixedBatches
        >>> batches = MixedBatches(
        ...     {"a": [1.0] * 3, "b": [1.0]}, weights={"a": 1, "b": 1}, budget=2.0
        ... )
        >>> found = batches.report(steps=10)
        >>> found.items, found.rounds["b"], found.padding_in
        ({'a': 0.5, 'b': 0.5}, 2.0, 0.0)
    """

    items: dict[str, float]
    seconds: dict[str, float]
    rounds: dict[str, float]
    batch_items: float
    padding_in: float
    padding_to_edges: float
    dropped: int


def mix_report(batches: MixedBatches, *, steps: int = 1000) -> MixReport:
    """Look at the first batches of a stream; see `MixedBatches.report`.

    Args:
        batches: The batches.
        steps: Steps of one rank that are looked at.

    Returns:
        The report: shares as they are over time, padding as in these steps.

    Raises:
        InvalidArgumentError: `steps` is below 1.

    Example:
        >>> from mbflow.speech import MixedBatches
        >>> from mbflow.speech.stream import mix_report
        >>> mix_report(MixedBatches({"a": [1.0, 1.0]}), steps=1).batch_items
        2.0
    """
    check_whole("steps", steps, least=1)
    counts, means = batches.used()
    shares = np.array(list(batches.shares.values()))
    spoken = shares * means / (shares @ means)
    rounds = shares * counts.sum() / counts
    seconds, edges = batches.lengths.seconds, batches.edges.seconds
    items = real = longest = widest = 0.0
    for found in islice(batches.stream(), steps):
        own = seconds[found]
        items += len(own)
        real += float(own.sum(dtype=np.float64))
        longest += len(own) * float(own.max())
        widest += len(own) * float(edges[np.searchsorted(edges, own.max())])
    named = [dict(zip(batches.names, part.tolist(), strict=True)) for part in (spoken, rounds)]
    return MixReport(
        items=dict(batches.shares),
        seconds=named[0],
        rounds=named[1],
        batch_items=items / steps,
        padding_in=1 - real / longest,
        padding_to_edges=1 - real / widest,
        dropped=len(batches.lengths) - len(batches),
    )
