"""Mini-batches of sampled neighbourhoods, as a pure function of epoch, step and rank."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import numpy as np

from mbflow import _native
from mbflow.batches import BatchSampler, Last, Share, Turn, check_last, check_whole
from mbflow.errors import InvalidArgumentError
from mbflow.graph.columns import seed_times
from mbflow.graph.graph import Graph
from mbflow.graph.hetero import HeteroGraph
from mbflow.graph.sampler import Method, NeighbourSampler, _integers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Batches", "SamplerOptions"]


class SamplerOptions(TypedDict, total=False):
    """Options of `NeighbourSampler` that `Batches` hands on.

    Example:
        >>> from mbflow.graph import Batches, Graph
        >>> graph = Graph.from_edges([1, 2], [0, 1])
        >>> Batches(graph, [0], 1, fanouts=[1], replace=True).batch(0, 0).nodes.tolist()
        [0, 1]
    """

    replace: bool
    expand: Literal["all", "new"]
    temporal: bool
    disjoint: bool
    across_layers: bool
    dtype: Literal["int64", "uint32"]
    page_nodes: int | None


class Batches:
    """Batches of seeds with their sampled neighbourhoods, the same on every machine.

    An epoch is a list of batches: the seeds in a keyed order of that epoch, cut into batches. At
    each step the ranks take the next batches of the list, one each, so that all ranks have as many
    steps, and a run may go on with another number of ranks. Nothing is stored for an epoch: any
    batch is found at once.

    Args:
        graph: A graph, a set of relations, or a `NeighbourSampler` with options of its own.
        seeds: Ids of the nodes to learn from, integers of shape (seeds,); for a `HeteroGraph` a
            pair of their type and such ids.
        batch_size: Seeds of a batch.
        fanouts: As for `NeighbourSampler`, (15, 10, 5) by default; not with a sampler.
        method: As for `NeighbourSampler`; not with a sampler.
        seed: Keys the order of the seeds and the draws; a sampler that is given draws by its own.
        shuffle: Whether each epoch has an order of its own; otherwise seeds come as given, and an
            epoch's batches differ from another's in the sampled edges only.
        times: For a temporal sampler, the time of each seed, as in `NeighbourSampler.sample`.
        last: What becomes of seeds that do not fill a batch, and of batches that do not fill a step
            of all ranks, see `mbflow.batches.Last`.
        options: More options of `NeighbourSampler`: `replace`, `expand`, `temporal`, `disjoint`,
            `across_layers`, `dtype`, `page_nodes`; not with a sampler.

    Attributes:
        neighbours: The `NeighbourSampler`.
        batch_size: As given.
        last: As given.
        seed: As given.

    Raises:
        InvalidArgumentError: An argument is out of range, a seed is no node, or options are given
            twice.

    Example:
        >>> from mbflow.graph import Batches, Graph
        >>> graph = Graph.from_edges([1, 2, 3, 3], [0, 0, 1, 2])
        >>> batches = Batches(graph, [0, 1, 2, 3], 2, fanouts=[2, 2], seed=7)
        >>> batches.steps(world_size=2)
        1
        >>> sample = batches.batch(0, 0, rank=1, world_size=2)
        >>> len(sample.seeds), len(sample.layers)
        (2, 2)
    """

    def __init__(
        self,
        graph: Graph | HeteroGraph | NeighbourSampler,
        seeds: Any,
        batch_size: int,
        *,
        fanouts: Sequence[int] | Mapping[Any, Sequence[int]] | None = None,
        method: Method | None = None,
        seed: int = 0,
        shuffle: bool = True,
        times: Any = None,
        last: Last = "short",
        **options: Unpack[SamplerOptions],
    ) -> None:
        check_whole("batch_size", batch_size, least=1, most=2**31 - 1)
        check_whole("seed", seed, least=0, most=2**64 - 1)
        check_last(last)
        if not isinstance(shuffle, bool):
            raise InvalidArgumentError(f"shuffle is {shuffle!r}; expected True or False")
        if isinstance(graph, NeighbourSampler):
            given = {"fanouts": fanouts, "method": method, **options}
            twice = [name for name, value in given.items() if value is not None]
            if twice:
                raise InvalidArgumentError(
                    f"{twice[0]}: the sampler has its own; leave it out here"
                )
            self.neighbours = graph
        else:
            self.neighbours = NeighbourSampler(
                graph,
                (15, 10, 5) if fanouts is None else fanouts,
                method="uniform" if method is None else method,
                seed=seed,
                **options,
            )
        self.batch_size = int(batch_size)
        self.last: Last = last
        self.seed = int(seed)
        self._shuffle = shuffle
        self._kind, self._seeds = self._checked(seeds)
        self._times = self._checked_times(times)
        self._digest: str | None = None

    def _checked(self, seeds: Any) -> tuple[str | None, NDArray[np.uint32]]:
        graph = self.neighbours.graph
        kind = None
        if isinstance(graph, HeteroGraph):
            if isinstance(seeds, Mapping) and len(seeds) == 1:
                seeds = next(iter(seeds.items()))
            if not isinstance(seeds, tuple) or len(seeds) != 2 or seeds[0] not in graph.nodes:
                raise InvalidArgumentError(
                    "seeds: expected a pair of a node type and ids; known types: "
                    + ", ".join(graph.types)
                )
            kind, seeds = seeds
            nodes = graph.nodes[kind]
        else:
            nodes = graph.nodes
        ids = _integers("seeds", seeds)
        wrong = (ids < 0) | (ids >= nodes)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InvalidArgumentError(
                f"seeds: entry {row} is node {ids[row]}; expected 0 to {nodes - 1}"
            )
        return kind, ids.astype(np.uint32)

    def _checked_times(self, times: Any) -> NDArray[np.int64] | None:
        if not self.neighbours.is_temporal:
            if times is not None:
                raise InvalidArgumentError("times: the sampler is not temporal; leave them out")
            return None
        if times is None:
            raise InvalidArgumentError("times: a temporal sampler needs the time of each seed")
        found = seed_times(times)
        if len(found) != len(self._seeds):
            raise InvalidArgumentError(
                f"times: expected {len(self._seeds)}, one for each seed, got {len(found)}"
            )
        return found

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        whole, rest = divmod(len(self._seeds), self.batch_size)
        return whole + (rest > 0 and self.last != "drop")

    def __repr__(self) -> str:
        return (
            f"Batches({len(self._seeds)} seeds, {self.batch_size} a batch, {len(self)} batches an "
            f"epoch, fanouts {self.neighbours.fanouts})"
        )

    def share(self, epoch: int = 0, *, world_size: int = 1, start: int = 0) -> Share:
        """How the batches of an epoch are shared among ranks.

        Args:
            epoch: Number of the epoch; all have as many batches.
            world_size: Number of ranks.
            start: Batches of the epoch that are done already.

        Returns:
            The share.

        Raises:
            InvalidArgumentError: A number is out of range.

        Example:
            >>> from mbflow.graph import Batches, Graph
            >>> batches = Batches(Graph.from_edges([1], [0]), [0, 1], 1)
            >>> batches.share(world_size=2).steps
            1
        """
        check_whole("epoch", epoch, least=0, most=2**63 - 1)
        uneven = self.last == "short" and len(self._seeds) % self.batch_size > 0
        return Share(len(self), world_size, start, self.last, uneven)

    def steps(self, epoch: int = 0, *, world_size: int = 1, start: int = 0) -> int:
        """Steps of each rank in an epoch.

        Args:
            epoch: Number of the epoch.
            world_size: Number of ranks.
            start: Batches of the epoch that are done already.

        Returns:
            The number of steps.

        Raises:
            InvalidArgumentError: A number is out of range.

        Example:
            >>> from mbflow.graph import Batches, Graph
            >>> Batches(Graph.from_edges([1], [0]), [0, 1], 1).steps(0)
            2
        """
        return self.share(epoch, world_size=world_size, start=start).steps

    def seeds(
        self, epoch: int, step: int, *, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> NDArray[np.int64]:
        """The seeds that a rank takes at a step, without sampling around them.

        Args:
            epoch: Number of the epoch, from 0.
            step: Number of the step, from 0.
            rank: Number of the rank.
            world_size: Number of ranks.
            start: Batches of the epoch that were done before.

        Returns:
            int64 of shape (seeds of the batch,): ids of nodes.

        Raises:
            InvalidArgumentError: There is no such step or rank.

        Example:
            >>> from mbflow.graph import Batches, Graph
            >>> batches = Batches(Graph.from_edges([1], [0]), [0, 1], 2, shuffle=False)
            >>> batches.seeds(0, 0).tolist()
            [0, 1]
        """
        turn = self.share(epoch, world_size=world_size, start=start).turn(step, rank)
        return self._seeds[self._places(int(epoch), turn)].astype(np.int64)

    def _places(self, epoch: int, turn: Turn) -> NDArray[np.int64]:
        """Places of a turn's seeds among the seeds as given."""
        total = len(self._seeds)
        first = turn.batch * self.batch_size
        last = min(first + self.batch_size, total)
        if turn.parts > 1:
            # What is left for the last step is dealt again: as many to each rank, to within one.
            whole = total if self.last == "short" else total // self.batch_size * self.batch_size
            left = whole - first
            part = turn.part if left >= turn.parts else turn.part % left
            parts = min(turn.parts, left)
            first, last = first + left * part // parts, first + left * (part + 1) // parts
        if self.last == "fill" and last - first < self.batch_size and turn.parts == 1:
            filled = np.arange(first, first + self.batch_size, dtype=np.int64) % total
            return self._order(epoch, filled)
        return self._order(epoch, np.arange(first, last, dtype=np.int64))

    def _order(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        if not self._shuffle:
            return places
        return _native.sampling.permuted(len(self._seeds), places, seed=self.seed, epoch=epoch)

    def batch(
        self, epoch: int, step: int, *, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> Any:
        """The sampled neighbourhood that a rank takes at a step.

        A pure function: it does not depend on what was sampled before.

        Args:
            epoch: Number of the epoch, from 0.
            step: Number of the step, from 0.
            rank: Number of the rank.
            world_size: Number of ranks.
            start: Batches of the epoch that were done before.

        Returns:
            A `Sample`, or a `HeteroSample` of a `HeteroGraph`.

        Raises:
            InvalidArgumentError: There is no such step or rank.

        Example:
            >>> from mbflow.graph import Batches, Graph
            >>> batches = Batches(Graph.from_edges([1, 2], [0, 1]), [0], 1, fanouts=[1, 1])
            >>> batches.batch(0, 0).nodes.tolist()
            [0, 1, 2]
        """
        turn = self.share(epoch, world_size=world_size, start=start).turn(step, rank)
        return self._sample(int(epoch), turn)

    def _sample(self, epoch: int, turn: Turn) -> Any:
        places = self._places(epoch, turn)
        ids: Any = self._seeds[places].astype(np.int64)
        times: Any = None if self._times is None else self._times[places]
        if self._kind is not None:
            ids = {self._kind: ids}
            times = None if times is None else {self._kind: times}
        return self.neighbours.sample(ids, epoch=epoch, batch=turn.batch, times=times)

    def epoch(
        self,
        epoch: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        threads: int = 1,
        ahead: int = 2,
    ) -> Iterator[Any]:
        """The batches of a rank in an epoch, sampled ahead by background threads.

        Args:
            epoch: Number of the epoch, from 0.
            rank: Number of the rank.
            world_size: Number of ranks.
            start: Batches of the epoch that were done before.
            threads: Threads that sample; 0 samples in the calling thread, when a batch is asked
                for.
            ahead: How many samples each thread may be ahead of the loop.

        Yields:
            What `batch` gives for step 0, 1, and so on, whatever the number of threads.

        Raises:
            InvalidArgumentError: A number is out of range.

        Example:
            >>> from mbflow.graph import Batches, Graph
            >>> batches = Batches(Graph.from_edges([1, 2], [0, 1]), [0, 1, 2], 2, fanouts=[1])
            >>> [len(sample.seeds) for sample in batches.epoch(0, threads=2)]
            [2, 1]
        """
        share = self.share(epoch, world_size=world_size, start=start)
        check_whole("rank", rank, least=0, most=world_size - 1)
        check_whole("ahead", ahead, least=1, most=2**16)
        check_whole("threads", threads, least=0, most=1024)
        turns = (share.turn(step, rank) for step in range(share.steps))
        if threads == 0:
            return (self._sample(int(epoch), turn) for turn in turns)
        return self._sampled_ahead(int(epoch), turns, threads, threads * int(ahead))

    def _sampled_ahead(
        self, epoch: int, turns: Iterator[Turn], threads: int, most: int
    ) -> Iterator[Any]:
        waiting: deque[Future[Any]] = deque()
        # Leaving the loop early ends the threads: what they have not begun is given up.
        with ThreadPoolExecutor(threads, thread_name_prefix="mbflow-sample") as pool:
            try:
                for turn in turns:
                    waiting.append(pool.submit(self._sample, epoch, turn))
                    if len(waiting) > most:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def __getitem__(self, place: Sequence[int]) -> Any:
        """What a torch loader calls for each place that `sampler` gives.

        Args:
            place: (epoch, batch, parts, part).

        Returns:
            A `Sample`, or a `HeteroSample` of a `HeteroGraph`.

        Raises:
            InvalidArgumentError: It is no such place, such as the number of a batch alone, with
                which every pass would give the same epoch.
        """
        numbers = place if isinstance(place, list | tuple | np.ndarray) else ()
        if len(numbers) != 4 or not all(isinstance(number, int | np.integer) for number in numbers):
            raise InvalidArgumentError(
                f"there is no batch {place!r} without an epoch; loop over batches.epoch(epoch), "
                "call batches.batch(epoch, step), or use DataLoader(batches, "
                "sampler=batches.sampler(), batch_size=None)"
            )
        epoch, batch, parts, part = map(int, numbers)
        check_whole("epoch", epoch, least=0, most=2**63 - 1)
        check_whole("batch", batch, least=0, most=len(self) - 1)
        check_whole("parts", parts, least=1)
        check_whole("part", part, least=0, most=parts - 1)
        return self._sample(epoch, Turn(batch, parts, part))

    def __getitems__(self, places: Sequence[Any]) -> Any:
        """What a torch loader calls that would collate several samples: refused."""
        raise InvalidArgumentError(
            "a sample is a whole batch already; use DataLoader(batches, "
            "sampler=batches.sampler(), batch_size=None)"
        )

    def fingerprint(self) -> dict[str, int | str]:
        """What the batches depend on, as a resume compares it.

        Returns:
            Seeds, batch size, seed, the rule for what is left, a digest of the seeds and what the
            sampler depends on.

        Example:
            >>> from mbflow.graph import Batches, Graph
            >>> Batches(Graph.from_edges([1], [0]), [0], 1).fingerprint()["batch_size"]
            1
        """
        if self._digest is None:
            times = b"" if self._times is None else self._times.tobytes()
            self._digest = _native.xxh3_128(self._seeds.tobytes() + times)
        sampler = {f"sampler.{key}": value for key, value in self.neighbours.fingerprint().items()}
        return {
            "seeds": self._digest,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "shuffle": int(self._shuffle),
            "last": self.last,
            **sampler,
        }

    def sampler(self, *, rank: int = 0, world_size: int = 1, epoch: int = 0) -> BatchSampler:
        """A sampler of one rank for a `DataLoader` of torch whose data set is this object.

        `DataLoader(batches, sampler=batches.sampler(), batch_size=None, num_workers=2)` gives
        one epoch a pass. Its `state_dict` goes on in the middle of an epoch, also with another
        number of ranks, and is exact in torchdata's `StatefulDataLoader`.

        Args:
            rank: 0 to `world_size - 1`.
            world_size: Number of ranks.
            epoch: The first epoch.

        Returns:
            The sampler.

        Raises:
            InvalidArgumentError: There is no such rank, or an epoch has no step for so many ranks.

        Example:
            >>> from mbflow.graph import Batches, Graph
            >>> batches = Batches(Graph.from_edges([1, 2], [0, 1]), [0, 1, 2], 2, fanouts=[1])
            >>> [len(batches[place].seeds) for place in batches.sampler()]
            [2, 1]
        """
        return BatchSampler(_Turns(self), rank=rank, world_size=world_size, epoch=epoch)


class _Turns:
    """Turns as rows of numbers, which `BatchSampler` hands to a loader."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.share = batches.share
        self.fingerprint = batches.fingerprint

    def batch(
        self, epoch: int, step: int, *, rank: int = 0, world_size: int = 1, start: Any = 0
    ) -> NDArray[np.int64]:
        turn = self.share(epoch, world_size=world_size, start=start).turn(step, rank)
        return np.array([epoch, turn.batch, turn.parts, turn.part])
