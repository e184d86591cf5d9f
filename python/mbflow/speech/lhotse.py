"""Batches of lhotse's cuts: a drop-in for its `DynamicBucketingSampler`."""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mbflow.batches import check_whole
from mbflow.errors import DataError, InvalidArgumentError, require
from mbflow.speech.budget import Budget
from mbflow.speech.lengths import Lengths, rounded_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from mbflow.speech.cut_sampler import CutBatchSampler

__all__ = ["lhotse_sampler"]

# What lhotse's sampler needs because it sees a few cuts at a time.
_WITHOUT_EFFECT = (
    "buffer_size",
    "concurrent",
    "consistent_ids",
    "num_cuts_for_bins_estimate",
    "shuffle_buffer_size",
    "strict",
    "sync_buckets",
)


def lhotse_sampler(
    cuts: Iterable[Any],
    *,
    max_duration: float | None = None,
    max_cuts: int | None = None,
    quadratic_duration: float | None = None,
    constraint: Any = None,
    budget: Budget | None = None,
    num_buckets: int | tuple[int, int] = 30,
    duration_bins: Iterable[float] | None = None,
    tokens: str | Callable[[Any], int] | None = None,
    edges: Literal["optimal", "equal_count", "equal_duration"] | Any = "optimal",
    order: Literal["buckets", "window"] = "buckets",
    window: int = 20_000,
    shuffle: bool = True,
    drop_last: bool = False,
    too_long: Literal["error", "drop"] = "error",
    min_seconds: float = 0.0,
    max_seconds: float = math.inf,
    rate_sigmas: float | None = None,
    seed: int = 0,
    world_size: int | None = None,
    rank: int | None = None,
    **without_effect: Any,
) -> CutBatchSampler:
    """A sampler of lhotse's cuts that plans by `DurationBatches`, in place of lhotse's own.

    It takes the arguments of `DynamicBucketingSampler`, gives a `CutSet` for each step and goes
    where that goes: into a `DataLoader` beside a map-style data set, with `batch_size=None`, or
    into an `IterableDatasetWrapper`. All ranks are at the same bucket at each step, every cut is
    taken once in an epoch, and a state is loaded at once, also for another number of ranks.

    All cuts are read when the sampler is made, for their durations, and are kept in memory; a
    lazily opened manifest is read once. So lhotse's `buffer_size`, `shuffle_buffer_size`,
    `num_cuts_for_bins_estimate`, `concurrent`, `sync_buckets`, `consistent_ids` and `strict` are
    taken and have no effect.

    Args:
        cuts: A `CutSet`, or anything that is iterated as cuts. One set; no pairs.
        max_duration: Padded seconds of a batch at most: cuts times the longest.
        max_cuts: Cuts of a batch at most.
        quadratic_duration: A cut of `d` seconds counts `d + d^2 / quadratic_duration`.
        constraint: Instead, lhotse's `TimeConstraint` or `FixedBucketBatchSizeConstraint`.
        budget: Instead or beside, a `Budget`.
        num_buckets: How many buckets; a pair for buckets in seconds and tokens.
        duration_bins: Edges of the buckets in seconds, as lhotse estimates them: one less than
            there are buckets, since the last bucket takes all that is longer.
        tokens: What gives the output tokens of a cut: the name of an attribute, or a function.
        edges: How the edges are chosen, see `bucket_edges`; not beside `duration_bins`.
        order: `"buckets"` or `"window"`, see `DurationBatches`.
        window: With `order="window"`: fewer mix more, more pad less.
        shuffle: A new order in each epoch. If not, each epoch is as epoch 0: a keyed order of
            buckets and cuts still, not that of the manifest.
        drop_last: Leave out the cuts that fill no batch or step. By default what is left is dealt
            to all ranks; a cut that a rank takes again has an id with `_dup`, as in lhotse.
        too_long: What becomes of cuts that alone are above the budget: `"error"` or `"drop"`.
        min_seconds: Cuts below this are left out.
        max_seconds: Cuts above this are left out.
        rate_sigmas: Leave out cuts with too many tokens a second, see `DurationBatches`.
        seed: Key of all draws, 0 to 2^64 - 1, the same on all ranks. lhotse's `"randomized"` and
            `"trng"` are refused: with them ranks take the same cuts twice and others never.
        world_size: Number of ranks; by default lhotse finds it: `WORLD_SIZE`, torch.distributed, 1.
        rank: Number of the rank; by default found likewise.
        **without_effect: The arguments of lhotse's that have no effect.

    Returns:
        The sampler, a subclass of lhotse's `CutSampler`.

    Raises:
        MissingExtraError: lhotse is not installed.
        DataError: There is no cut, or one has no duration above 0 or exceeds the budget alone; the
            message names the first by its id.
        InvalidArgumentError: An argument is out of range or unknown.

    Example:
        >>> from lhotse import CutSet, MonoCut
        >>> from mbflow.speech import lhotse_sampler
        >>> cuts = CutSet(
        ...     [MonoCut(str(i), start=0, duration=1 + i % 3, channel=0) for i in range(12)]
        ... )
        >>> sampler = lhotse_sampler(cuts, max_duration=6.0, num_buckets=3)
        >>> sampler.set_epoch(0)
        >>> sum(len(batch) for batch in sampler), len(sampler)
        (12, 5)
    """
    require("lhotse", extra="lhotse", purpose="batches of its cuts")
    unknown = sorted(set(without_effect) - set(_WITHOUT_EFFECT))
    if unknown:
        raise InvalidArgumentError(f"lhotse_sampler has no argument `{unknown[0]}`")
    for name, value, least in (("world_size", world_size, 1), ("rank", rank, 0)):
        if value is not None:
            check_whole(name, value, least=least)
    from mbflow.speech.cut_sampler import CutBatchSampler

    held, lengths = _read(cuts, tokens)
    if duration_bins is not None:
        if not isinstance(edges, str) or edges != "optimal":
            raise InvalidArgumentError("edges and duration_bins: expected one of them at most")
        edges = _upper_edges(duration_bins, lengths)
    return CutBatchSampler(
        held,
        lengths,
        {
            "budget": _budget(max_duration, max_cuts, quadratic_duration, constraint, budget),
            "buckets": num_buckets,
            "edges": edges,
            "order": order,
            "window": window,
            "seed": seed,
            "drop_last": drop_last,
            "too_long": too_long,
            "min_seconds": min_seconds,
            "max_seconds": max_seconds,
            "rate_sigmas": rate_sigmas,
        },
        shuffle=shuffle,
        world_size=None if world_size is None else int(world_size),
        rank=None if rank is None else int(rank),
    )


def _read(
    cuts: Iterable[Any], tokens: str | Callable[[Any], int] | None
) -> tuple[list[Any], Lengths]:
    """All cuts, and how long they are."""
    from lhotse import lazy

    from mbflow.speech.cut_sampler import naming

    source = getattr(cuts, "data", cuts)
    endless = isinstance(source, lazy.LazyInfiniteApproximateMultiplexer) or (
        isinstance(source, lazy.LazyRepeater) and source.times is None
    )
    if endless:
        raise InvalidArgumentError(
            f"cuts repeat without end ({type(source).__name__}); expected cuts of one epoch, as "
            "the sampler begins the next one itself"
        )
    if tokens is not None and not isinstance(tokens, str) and not callable(tokens):
        raise InvalidArgumentError(
            f"tokens is {tokens!r}; expected the name of an attribute of cuts, or a function"
        )
    try:
        each = iter(cuts)
    except TypeError as error:
        raise InvalidArgumentError(
            f"cuts is a {type(cuts).__name__}; expected a CutSet, or anything that is iterated as "
            "cuts"
        ) from error
    held = list(each)
    if not held:
        raise DataError("there is no cut; expected at least one")
    with naming(held):
        seconds = _numbers((getattr(cut, "duration", None) for cut in held), held, "duration")
        if tokens is None:
            return held, Lengths.of(seconds)
        if callable(tokens):
            return held, Lengths.of(seconds, _numbers(map(tokens, held), held, "tokens"))
        own = (getattr(cut, tokens, None) for cut in held)
        return held, Lengths.of(seconds, _numbers(own, held, tokens))


def _numbers(values: Iterable[Any], cuts: list[Any], name: str) -> NDArray[np.float64]:
    """A number of each cut: of Python's kinds of numbers, one list may hold several."""
    found = list(values)
    for row, value in enumerate(found):
        if value is None or not isinstance(value, numbers.Real):
            kind = type(cuts[row]).__name__
            what = f"has no {name}" if value is None else f"has {name} {value!r}, no number"
            raise DataError(f"item {row}, a {kind}, {what}", row=row)
    try:
        return np.array(found, dtype=np.float64)
    except OverflowError as error:
        raise DataError(f"a cut has {name} above what a float holds") from error


def _upper_edges(bins: Iterable[float], lengths: Lengths) -> list[float]:
    """The bins with the edge of the last bucket; in float32, as the durations are held."""
    try:
        edges = rounded_up(list(bins)).astype(np.float64).tolist()
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgumentError(f"duration_bins: expected seconds, got {bins!r}") from error
    if edges != sorted(edges):
        raise InvalidArgumentError("duration_bins: expected seconds in rising order")
    longest = float(lengths.seconds.max())
    # An edge that lhotse's estimate has twice is a bucket for nothing.
    return sorted({*edges, longest}) if not edges or longest > edges[-1] else sorted(set(edges))


def _budget(
    max_duration: float | None,
    max_cuts: int | None,
    quadratic_duration: float | None,
    constraint: Any,
    budget: Budget | None,
) -> Budget:
    """All that is said of what a batch may cost."""
    if constraint is not None:
        if max_duration is not None or max_cuts is not None or quadratic_duration is not None:
            raise InvalidArgumentError(
                "constraint: expected none beside max_duration, max_cuts or quadratic_duration"
            )
        return _of_constraint(constraint) if budget is None else _of_constraint(constraint) & budget
    if quadratic_duration is not None and max_duration is None:
        raise InvalidArgumentError("quadratic_duration has no effect without max_duration")
    found = [] if budget is None else [budget]
    if max_duration is not None:
        found.append(Budget.padded_seconds(max_duration, quadratic=quadratic_duration))
    if max_cuts is not None:
        found.append(Budget.items(max_cuts))
    if not found:
        raise InvalidArgumentError(
            "nothing limits a batch; expected max_duration, max_cuts, constraint or budget"
        )
    joined = found[0]
    for other in found[1:]:
        joined = joined & other
    return joined


def _of_constraint(constraint: Any) -> Budget:
    from lhotse.dataset.sampling.base import TimeConstraint
    from lhotse.dataset.sampling.dynamic_bucketing import FixedBucketBatchSizeConstraint

    # A subclass may limit by anything, so only these two themselves will do.
    if type(constraint) is FixedBucketBatchSizeConstraint:
        rows = zip(constraint.max_seq_len_buckets, constraint.batch_sizes, strict=True)
        return Budget.sizes_by_bucket({float(edge): size for edge, size in rows})
    if type(constraint) is TimeConstraint and not constraint.concatenate_cuts:
        return _budget(
            constraint.max_duration,
            constraint.max_cuts,
            constraint.quadratic_duration,
            None,
            None,
        )
    raise InvalidArgumentError(
        f"constraint is {constraint!r}; expected a TimeConstraint that does not concatenate or a "
        "FixedBucketBatchSizeConstraint; say others by budget"
    )
