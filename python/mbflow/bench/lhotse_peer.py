"""lhotse's `DynamicBucketingSampler` as a peer: cuts without audio, its batches as items."""

from __future__ import annotations

import copy
import gzip
import warnings
from bisect import bisect_left
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow import _native

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from mbflow.speech import Edges

__all__ = [
    "Cuts",
    "all_ranks",
    "batches",
    "endless_ranks",
    "fixed_sizes",
    "items_of",
    "replay",
    "sampler",
    "state_after",
    "write_manifest",
]

_PASSES = 0xD0_0020


class Cuts:
    """Cuts that are made when they are asked for, in the order of the data.

    Args:
        seconds: Of each item.
        tokens: Output tokens of each, for buckets by seconds and tokens.
        passes: 1, or None to go on for ever, each time in another order.
        seed: Key of the orders.

    Example:
        >>> import numpy as np
        >>> from mbflow.bench.lhotse_peer import Cuts
        >>> next(iter(Cuts(np.array([1.0])))).duration  # doctest: +SKIP
        1.0
    """

    is_lazy = True

    def __init__(
        self,
        seconds: NDArray[Any],
        tokens: NDArray[Any] | None = None,
        *,
        passes: int | None = 1,
        seed: int = 0,
    ) -> None:
        self._seconds = seconds
        self._tokens = tokens
        self._passes = passes
        self._seed = seed

    def __iter__(self) -> Iterator[Any]:
        from lhotse import MonoCut

        seconds = self._seconds.tolist()
        if self._passes is None:
            number = self._seed << 16
            while True:
                for item in _native.permutation(number, _PASSES, len(seconds)).tolist():
                    yield MonoCut(id=str(item), start=0.0, duration=seconds[item], channel=0)
                number += 1
        tokens = None if self._tokens is None else self._tokens.tolist()
        for item, length in enumerate(seconds):
            cut = MonoCut(id=str(item), start=0.0, duration=length, channel=0)
            if tokens is not None:
                # An attribute is a custom field to lhotse, and this one is where NeMo looks.
                cut.input_ids = range(tokens[item])
            yield cut


@contextmanager
def _quiet() -> Iterator[None]:
    """Without lhotse's advice about the size of its buffer, which it gives as it starts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _started(made: Any) -> Any:
    """Start an epoch. To ask a sampler for its iterator once more would start it anew."""
    with _quiet():
        return iter(made)


def items_of(batch: Any) -> list[int]:
    """Item numbers of a batch; a cut that was put in twice has its item's number, too.

    Example:
        >>> from types import SimpleNamespace
        >>> from mbflow.bench.lhotse_peer import items_of
        >>> items_of([SimpleNamespace(id="3"), SimpleNamespace(id="1_dup0")])
        [3, 1]
    """
    return [int(cut.id.partition("_")[0]) for cut in batch]


def sampler(cuts: Any, *, world_size: int = 1, rank: int = 0, **options: Any) -> Any:
    """A sampler with 30 buckets, 600 padded seconds and shuffling, unless `options` say otherwise.

    Args:
        cuts: What it iterates over.
        world_size: Number of ranks.
        rank: Which of them.
        **options: Of `DynamicBucketingSampler`.

    Returns:
        The sampler.

    Example:
        >>> from mbflow.bench.lhotse_peer import sampler
        >>> sampler.__name__
        'sampler'
    """
    from lhotse.dataset import DynamicBucketingSampler

    given = {"num_buckets": 30, "shuffle": True, "seed": 0, **options}
    if "constraint" not in given:
        given.setdefault("max_duration", 600.0)
    with _quiet():
        return DynamicBucketingSampler(cuts, world_size=world_size, rank=rank, **given)


def batches(cuts: Any, **options: Any) -> Iterator[list[int]]:
    """The batches of an epoch.

    Args:
        cuts: What the sampler iterates over.
        **options: As for `sampler`.

    Yields:
        Item numbers of a batch.

    Example:
        >>> from mbflow.bench.lhotse_peer import batches
        >>> batches.__name__
        'batches'
    """
    started = _started(sampler(cuts, **options))
    while (batch := next(started, None)) is not None:
        yield items_of(batch)


def fixed_sizes(edges: Edges, sizes: NDArray[np.int64]) -> dict[str, Any]:
    """Options of a sampler with a size for each bucket, by seconds or by seconds and tokens.

    Buckets by seconds and tokens are chosen as NeMo's constraint does it when it is strict: the
    bucket by seconds, and in it the one by tokens.

    Args:
        edges: Of the buckets.
        sizes: The most items of a batch of each.

    Returns:
        `constraint` and `duration_bins`.

    Example:
        >>> from mbflow.bench.lhotse_peer import fixed_sizes
        >>> fixed_sizes.__name__
        'fixed_sizes'

    Source: NeMo's `FixedBucketBatchSizeConstraint2D`, from its description.
    """
    from lhotse.dataset.sampling.dynamic_bucketing import FixedBucketBatchSizeConstraint

    if not np.isfinite(edges.tokens).any():
        bins = edges.seconds.tolist()
        constraint = FixedBucketBatchSizeConstraint(
            max_seq_len_buckets=bins, batch_sizes=sizes.tolist()
        )
        return {"constraint": constraint, "duration_bins": bins}

    class BySecondsAndTokens(FixedBucketBatchSizeConstraint):  # type: ignore[misc]
        def measure_length(self, example: Any) -> tuple[float, int]:
            return example.duration, len(example.input_ids)

        def select_bucket(self, buckets: Any, example: Any = None, example_len: Any = None) -> int:
            seconds, tokens = self.measure_length(example) if example_len is None else example_len
            first = bisect_left(buckets, (seconds, 0))
            return bisect_left(buckets, (buckets[first][0], tokens))

    pairs = list(zip(edges.seconds.tolist(), edges.tokens.tolist(), strict=True))
    by_both = BySecondsAndTokens(max_seq_len_buckets=pairs, batch_sizes=sizes.tolist())
    return {"constraint": by_both, "duration_bins": pairs}


def all_ranks(cuts: Any, world_size: int, **options: Any) -> Iterator[list[list[int]]]:
    """The batches of all ranks at each step, as a sampler of any of them works them out.

    Each rank of lhotse makes the batches of all and keeps its own, so one sampler knows them all.

    Args:
        cuts: What it iterates over.
        world_size: Number of ranks.
        **options: As for `sampler`.

    Yields:
        The item numbers of each rank's batch.

    Example:
        >>> from mbflow.bench.lhotse_peer import all_ranks
        >>> all_ranks.__name__
        'all_ranks'
    """
    made = sampler(cuts, world_size=world_size, **options)
    # What a rank keeps is the batch at its number; all of them are at all numbers.
    made.rank = slice(None)
    # The statistics are of one batch.
    made._log_diagnostics = lambda _: None  # noqa: SLF001
    started = _started(made)
    while (step := next(started, None)) is not None:
        yield [items_of(batch) for batch in step]


def endless_ranks(
    seconds: NDArray[Any], world_size: int, steps: int, **options: Any
) -> tuple[list[list[list[int]]], NDArray[np.float64]]:
    """Ranks that each iterate over an endless stream in an order of their own, for some steps.

    So lhotse trains in its iterable style: a sampler for each rank with buckets drawn alike.

    Args:
        seconds: Of each item.
        world_size: Number of ranks.
        steps: Steps to take.
        **options: As for `sampler`.

    Returns:
        The item numbers of each rank's batch at each step, and the edges of the buckets.

    Example:
        >>> from mbflow.bench.lhotse_peer import endless_ranks
        >>> endless_ranks.__name__
        'endless_ranks'
    """
    edges = sampler(Cuts(seconds, passes=None), **options).duration_bins
    ranks = [
        _started(
            sampler(Cuts(seconds, passes=None, seed=rank), **{**options, "duration_bins": edges})
        )
        for rank in range(world_size)
    ]
    return [[items_of(next(rank)) for rank in ranks] for _ in range(steps)], np.array(edges)


def state_after(cuts: Any, steps: int, **options: Any) -> tuple[dict[str, Any], list[int]]:
    """The state of a sampler after some steps, and the items of its next batch.

    Example:
        >>> from mbflow.bench.lhotse_peer import state_after
        >>> state_after.__name__
        'state_after'
    """
    started = _started(sampler(cuts, **options))
    for _ in range(steps):
        next(started)
    return copy.deepcopy(started.state_dict()), items_of(next(started))


def replay(cuts: Any, state: dict[str, Any], **options: Any) -> list[int]:
    """The items of the first batch after a new sampler has loaded a state.

    Raises:
        AssertionError: lhotse refuses the state.

    Example:
        >>> from mbflow.bench.lhotse_peer import replay
        >>> replay.__name__
        'replay'
    """
    made = sampler(cuts, **options)
    with _quiet():
        made.load_state_dict(copy.deepcopy(state))
    return items_of(next(_started(made)))


def write_manifest(path: Path, seconds: NDArray[Any]) -> None:
    """Write cuts as lhotse's manifests have them: a gzip file with a line of JSON for each.

    Args:
        path: The file, `.jsonl.gz`.
        seconds: Of each item.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from mbflow.bench.lhotse_peer import write_manifest
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_manifest(Path(folder) / "cuts.jsonl.gz", np.array([1.5]))
    """
    with gzip.open(path, "wt", compresslevel=6, encoding="utf-8") as file:
        for item, length in enumerate(seconds.tolist()):
            samples = round(length * 16_000)
            file.write(
                f'{{"id": "{item}", "start": 0.0, "duration": {samples / 16_000}, "channel": 0, '
                f'"supervisions": [], "recording": {{"id": "{item}", "sources": [{{"type": '
                f'"file", "channels": [0], "source": "{item}.wav"}}], "sampling_rate": 16000, '
                f'"num_samples": {samples}, "duration": {samples / 16_000}, '
                f'"channel_ids": [0]}}, "type": "MonoCut"}}\n'
            )
