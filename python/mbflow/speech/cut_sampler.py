"""A sampler in lhotse's interface over planned batches of its cuts.

Imports lhotse and torch; the rest of `mbflow.speech` imports this module only when it is asked for.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from lhotse import CutSet
from lhotse.dataset.sampling.base import CutSampler, attach_dataloading_info, mark_as_duplicate
from torch.utils.data import get_worker_info

from mbflow import _native
from mbflow.batches import check_state, check_whole
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.speech.durations import DurationBatches
from mbflow.speech.lengths import Lengths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["CutBatchSampler", "naming"]

# Ids that are joined at once for their checksum.
_IDS = 1 << 16


class CutBatchSampler(CutSampler):  # type: ignore[misc]
    """Batches of lhotse's cuts by `DurationBatches`, made by `mbflow.speech.lhotse_sampler`.

    As with lhotse's samplers, a pass goes over the epoch that `set_epoch` said, from its start, or
    from where a state was taken that has just been loaded; without `set_epoch` it is the same epoch
    again. A state of an epoch that is done gives an empty pass, unless `set_epoch` said the next.

    Where the sampler is in the training process, as beside a map-style data set, rank `r` of `w`
    takes the steps of that rank. Where each worker process has a copy of it, as in lhotse's
    `IterableDatasetWrapper`, worker `i` of `n` takes each `n`-th of them from the `i`-th on; a
    `DataLoader` puts them in order again. So there, too, each cut is taken once, and ranks must be
    given as they are: lhotse's advice of rank 0 of 1 for all would have all ranks take all cuts.

    Args:
        cuts: The cuts.
        lengths: Their durations, and tokens.
        options: Further arguments of `DurationBatches`.
        shuffle: A new order in each epoch.
        world_size: Number of ranks, by default as lhotse finds it.
        rank: Number of the rank likewise.

    Attributes:
        batches: The plan, a `DurationBatches` of the cuts by their place, with its `report`.
        cuts: A tuple of the one `CutSet`, as in lhotse.

    Raises:
        DataError: A cut cannot be used; the message names it by its id.
        InvalidArgumentError: An option is out of range, or there are no such ranks.

    Example:
        >>> from lhotse import CutSet, MonoCut
        >>> from mbflow.speech import lhotse_sampler
        >>> cuts = CutSet([MonoCut(str(i), start=0, duration=2, channel=0) for i in range(8)])
        >>> samplers = [
        ...     lhotse_sampler(cuts, max_duration=4.0, world_size=2, rank=rank) for rank in range(2)
        ... ]
        >>> [[len(batch) for batch in sampler] for sampler in samplers]
        [[2, 2], [2, 2]]
    """

    epoch: int

    def __init__(
        self,
        cuts: Sequence[Any],
        lengths: Lengths,
        options: Mapping[str, Any],
        *,
        shuffle: bool = True,
        world_size: int | None = None,
        rank: int | None = None,
    ) -> None:
        try:
            super().__init__(
                shuffle=shuffle,
                drop_last=bool(options.get("drop_last", False)),
                world_size=world_size,
                rank=rank,
                seed=options.get("seed", 0),
            )
        except AssertionError as error:
            raise InvalidArgumentError(
                f"there is no such rank: rank is {rank} of world_size {world_size} as given; what "
                "is not given comes from RANK and WORLD_SIZE or torch.distributed"
            ) from error
        self._options = dict(options)
        self._filtered = 0
        self._said: int | None = None
        self._plan(list(cuts), lengths)

    def _plan(self, cuts: list[Any], lengths: Lengths) -> None:
        if not cuts:
            raise DataError("no cut is left; expected at least one that passes the filter")
        with naming(cuts):
            batches = DurationBatches(lengths, **self._options)
        # Refuses ranks that an epoch has no step for.
        batches.sampler(self.rank, self.world_size)
        # What is refused leaves the sampler as it was.
        held = CutSet.from_cuts(cuts)
        pieces = [
            _native.xxh3_128("\0".join(cut.id for cut in cuts[at : at + _IDS]).encode())
            for at in range(0, len(cuts), _IDS)
        ]
        self.batches, self.cuts, self._held = batches, (held,), cuts
        self._digest = _native.xxh3_128("".join(pieces).encode())
        self._just_restored_state = False
        self._begin(self.epoch, ())

    def _begin(self, epoch: int, start: Any) -> None:
        self._at, self._start = epoch, start
        self._drawn, self._first, self._stride = 0, 0, 1
        self._follows = False

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass go over an epoch from its start.

        A pass that a state was loaded for goes on if it is of this epoch.

        Args:
            epoch: Its number, from 0.

        Raises:
            InvalidArgumentError: It is below 0.

        Example:
            >>> from lhotse import CutSet, MonoCut
            >>> from mbflow.speech import lhotse_sampler
            >>> cuts = CutSet([MonoCut("a", start=0, duration=2, channel=0)])
            >>> sampler = lhotse_sampler(cuts, max_cuts=1)
            >>> sampler.set_epoch(3)
            >>> sampler.epoch
            3
        """
        check_whole("epoch", epoch, least=0, most=2**63 - 1)
        self._said = int(epoch)
        super().set_epoch(self._said)

    def _planned(self, epoch: int) -> int:
        return epoch if self.shuffle else 0

    def _share(self) -> Any:
        epoch, start = (self._at, self._start) if self._at == self.epoch else (self.epoch, ())
        return self.batches.share(self._planned(epoch), world_size=self.world_size, start=start)

    def __len__(self) -> int:
        return int(self._share().steps)

    def __iter__(self) -> Iterator[Any]:
        if not self._just_restored_state:
            self._begin(self.epoch, ())
            self.diagnostics.reset_current_epoch()
            left_out = self._filtered + len(self.batches.lengths) - len(self.batches)
            self.diagnostics.current_epoch_stats.discarded_cuts = left_out
        worker = get_worker_info()
        self._drawn = 0
        self._first, self._stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return self

    def __next__(self) -> Any:
        self.allow_iter_to_reset_state()
        epoch, step = self._planned(self._at), self._first + self._drawn * self._stride
        ranks = {"world_size": self.world_size, "start": self._start}
        if step >= self.batches.steps(epoch, **ranks):
            if self._follows and self._at == self.epoch:
                self.set_epoch(self.epoch + 1)
            raise StopIteration
        items = self.batches.batch(epoch, step, rank=self.rank, **ranks)
        repeats = self.batches.repeats(epoch, step, rank=self.rank, **ranks)
        self._drawn += 1
        taken = [self._held[item] for item in items.tolist()]
        if repeats.any():
            again = mark_as_duplicate(self.rank)
            taken = [
                cut.with_id(again(cut.id)) if repeat else cut
                for cut, repeat in zip(taken, repeats.tolist(), strict=True)
            ]
        batch = CutSet.from_cuts(taken)
        self.diagnostics.keep(batch)
        for transform in self._transforms:
            batch = transform(batch)
        attach_dataloading_info(batch, rank=self.rank, world_size=self.world_size)
        return batch

    def filter(self, predicate: Callable[[Any], bool]) -> CutBatchSampler:
        """Plan anew with the cuts only that satisfy a condition.

        Args:
            predicate: Says of a cut whether it is kept.

        Returns:
            The sampler itself, at the start of its epoch.

        Raises:
            DataError: No cut is left. Then, and at any other error, the sampler stays as it was.
            InvalidArgumentError: Too few cuts are left for a step of all ranks.

        Example:
            >>> from lhotse import CutSet, MonoCut
            >>> from mbflow.speech import lhotse_sampler
            >>> cuts = CutSet([MonoCut(str(i), start=0, duration=i, channel=0) for i in (1, 9)])
            >>> lhotse_sampler(cuts, max_cuts=4).filter(lambda cut: cut.duration < 5).num_cuts
            1
        """
        kept = [row for row, cut in enumerate(self._held) if predicate(cut)]
        lengths, cuts = self.batches.lengths, self._held
        tokens = None if lengths.tokens is None else lengths.tokens[kept]
        self._plan([cuts[row] for row in kept], Lengths(lengths.seconds[kept], tokens))
        self._filtered += len(cuts) - len(kept)
        return self

    def fingerprint(self) -> dict[str, Any]:
        """What the batches depend on, as a resume compares it: the plan, and which cuts these are.

        Example:
            >>> from lhotse import CutSet, MonoCut
            >>> from mbflow.speech import lhotse_sampler
            >>> cuts = CutSet([MonoCut("a", start=0, duration=2, channel=0)])
            >>> lhotse_sampler(cuts, max_cuts=1).fingerprint()["items"]
            1
        """
        return {"cuts": self._digest, "shuffle": self.shuffle, **self.batches.fingerprint()}

    def state_dict(self, *, steps: int | None = None) -> dict[str, Any]:
        """Where the run stands, as a few integers and lhotse's diagnostics.

        Args:
            steps: Steps of the pass at hand that training has done. By default the batches that
                were drawn, which in a loader with worker processes are ahead of training; where
                the sampler is in the workers themselves, only training can say it.

        Returns:
            The epoch, what of it is done by all ranks, the fingerprint and the diagnostics.

        Raises:
            InvalidArgumentError: There are not so many steps, or they are needed and not given.

        Example:
            >>> from lhotse import CutSet, MonoCut
            >>> from mbflow.speech import lhotse_sampler
            >>> cuts = CutSet([MonoCut(str(i), start=0, duration=2, channel=0) for i in range(8)])
            >>> state = lhotse_sampler(cuts, max_cuts=2).state_dict(steps=3)
            >>> other = lhotse_sampler(cuts, max_cuts=2)
            >>> other.load_state_dict(state)
            >>> len(list(other))
            1
        """
        if steps is None:
            if self._stride != 1:
                raise InvalidArgumentError(
                    "a worker process knows its own steps only; ask the sampler of the training "
                    "process and tell it the steps"
                )
            steps = self._drawn if self._at == self.epoch else 0
        return {
            "epoch": self.epoch,
            "batches_done": self._share().done(steps),
            "plan": self.fingerprint(),
            "diagnostics": self.diagnostics.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where a state was taken, also with another rank and number of ranks.

        Args:
            state_dict: What `state_dict` gave; it is left as it is.

        Raises:
            InvalidArgumentError: It is the state of other cuts or options; the message says what
                differs, and the sampler stays where it was.

        Example:
            >>> from lhotse import CutSet, MonoCut
            >>> from mbflow.speech import lhotse_sampler
            >>> cuts = CutSet([MonoCut("a", start=0, duration=2, channel=0)])
            >>> state = lhotse_sampler(cuts, max_cuts=1).state_dict()
            >>> lhotse_sampler(cuts, max_cuts=1, seed=1).load_state_dict(state)
            Traceback (most recent call last):
            mbflow.errors.InvalidArgumentError: ... other batches: seed was 0 and is 1
        """
        epoch, done = check_state(state_dict, self.fingerprint())
        share = self.batches.share(self._planned(epoch), world_size=self.world_size, start=done)
        # torchdata's loader loads a state, and replays steps to the end of its epoch, after
        # training has said that it is at the next one. So that one follows.
        follows = self._said == epoch + 1
        begins = follows and share.steps == 0
        self.epoch, start = (epoch + 1, ()) if begins else (epoch, share.start)
        self._begin(self.epoch, start)
        self._follows = follows and not begins
        self.diagnostics.load_state_dict(_diagnostics(state_dict.get("diagnostics"), epoch))
        self.diagnostics.set_epoch(self.epoch)
        self._just_restored_state = not begins

    @property
    def is_lazy(self) -> bool:
        """Whether cuts are read while they are sampled: never."""
        return False

    @property
    def num_cuts(self) -> int:
        """Cuts of an epoch, of all ranks."""
        return len(self.batches)

    def _left(self) -> Iterator[Any]:
        """What is left of the epoch, taken by one rank."""
        drawn = self._drawn if self._at == self.epoch else 0
        start = self._share().done(min(self._first + drawn * self._stride, len(self)))
        return self.batches.epoch(self._planned(self.epoch), start=start)

    @property
    def remaining_cuts(self) -> int:
        """Cuts of the epoch that no rank has taken; counted when asked for."""
        return sum(len(items) for items in self._left())

    @property
    def remaining_duration(self) -> float:
        """Seconds of the cuts that no rank has taken; summed when asked for."""
        seconds = self.batches.lengths.seconds
        return float(sum(np.sum(seconds[items], dtype=np.float64) for items in self._left()))


def _diagnostics(state: Any, epoch: int) -> dict[str, Any]:
    """Diagnostics as lhotse loads them: it empties what it is given, and needs whole keys."""
    known = dict(state or {"current_epoch": epoch, "stats_per_epoch": {}})
    stats = known.get("stats_per_epoch", {})
    known["stats_per_epoch"] = {int(key): dict(value) for key, value in stats.items()}
    return known


@contextmanager
def naming(cuts: Sequence[Any]) -> Iterator[None]:
    """Name the cut in errors that name an item by its place.

    Example:
        >>> from mbflow.errors import DataError
        >>> from mbflow.speech.cut_sampler import naming
        >>> with naming(["a", "b"]):
        ...     raise DataError("item 1 is empty", row=1)
        Traceback (most recent call last):
        mbflow.errors.DataError: cut number 1: item 1 is empty
    """
    try:
        yield
    except DataError as error:
        if error.row is None:
            raise
        name = getattr(cuts[error.row], "id", None)
        where = f"number {error.row}" if name is None else repr(name)
        raise DataError(f"cut {where}: {error}", row=error.row) from error
