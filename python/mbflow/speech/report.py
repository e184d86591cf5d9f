"""What an epoch of batches comes to before anything is trained: padding, stragglers, order."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mbflow.speech.durations import DurationBatches

__all__ = ["BatchReport", "report"]

# The length in seconds at which an item costs twice as much as by its length alone.
_QUADRATIC = 30.0


@dataclass(frozen=True)
class BatchReport:
    """What an epoch comes to for so many ranks.

    Shares are of 1. A batch is padded to its longest item; by `padding_to_edges` to the edge of its
    bucket, as for shapes that a compiled model has seen.

    Attributes:
        world_size: Number of ranks.
        steps: Steps of each rank.
        items: Items of an epoch, over all ranks, without repeats.
        repeated: Items that are taken once more.
        left_out: Items that this epoch leaves out, since they fill no batch or no step.
        dropped: Items that are in no epoch, see `DurationBatches.dropped`.
        batch_items: Mean items of a batch.
        fill: Mean over batches of their items over the most that the budget allows at their
            lengths: low where many ranks share the little that is left of each bucket, which fewer
            buckets mend.
        padding_in: Padded seconds over all seconds that are computed.
        padding_to_edges: The same, padded to the edges of the buckets; None without buckets.
        padding_out: Padded tokens over all tokens that are computed; None without tokens.
        straggler_efficiency: Mean over ranks of the padded seconds of a step over their most: the
            share of time in which a rank does not wait for the slowest one.
        straggler_efficiency_quadratic: The same, where an item of `d` seconds costs `d + d^2 / 30`.
        bytes: Memory of the plan: lengths, and the order of the items.
        order_correlation: Correlation between the places of items in this epoch and in the next;
            near 0 for a fresh order.
        length_correlation: Correlation between the place of an item and its length: near 0 where
            long and short ones come at all times.
        batch_spread: Standard deviation of the seconds in a batch over that of all: near 1 for
            batches drawn at random, near 0 for batches of equal lengths.
        residence: The items among which those of a batch are drawn, over all: the mean share of the
            items in the bucket or cell of an item.

    Example:
        >>> from mbflow.speech import DurationBatches
        >>> found = DurationBatches([1.0, 2.0, 1.0, 2.0], budget=4.0, buckets=2).report(1)
        >>> found.steps, found.padding_in
        (2, 0.0)
    """

    world_size: int
    steps: int
    items: int
    repeated: int
    left_out: int
    dropped: int
    batch_items: float
    fill: float
    padding_in: float
    padding_to_edges: float | None
    padding_out: float | None
    straggler_efficiency: float
    straggler_efficiency_quadratic: float
    bytes: int
    order_correlation: float
    length_correlation: float
    batch_spread: float
    residence: float

    def __str__(self) -> str:
        rows = dataclasses.asdict(self)
        width = max(map(len, rows))
        return "\n".join(
            f"{name:<{width}}  {'-' if value is None else _written(value)}"
            for name, value in rows.items()
        )


def _written(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"


def report(batches: DurationBatches, *, world_size: int, epoch: int = 0) -> BatchReport:
    """Look at all batches of an epoch; see `DurationBatches.report`.

    Args:
        batches: The batches.
        world_size: Number of ranks.
        epoch: Number of the epoch.

    Returns:
        The report. O(items), a step of all ranks at a time.

    Raises:
        InvalidArgumentError: A number is out of range, or the epoch has no step.

    Example:
        >>> from mbflow.speech import DurationBatches
        >>> from mbflow.speech.report import report
        >>> report(DurationBatches([1.0, 1.0], budget=2.0), world_size=1).batch_items
        2.0
    """
    steps = batches.steps(epoch, world_size=world_size)
    if steps == 0:
        raise InvalidArgumentError(f"an epoch has no step for {world_size} ranks; use fewer")
    lengths = batches.lengths
    seconds, tokens = lengths.seconds, lengths.tokens
    places = np.full(len(seconds), -1, np.int64)
    padded = np.zeros(4)
    real = np.zeros(2)
    efficiency = np.zeros(2)
    taken = spread = fill = 0.0
    count = 0
    edges = None if batches.edges is None else batches.edges.seconds
    for step, parts in enumerate(_steps(batches, epoch, world_size)):
        sizes = np.array([len(part) for part in parts])
        items = np.concatenate(parts)
        starts = np.cumsum(sizes) - sizes
        own = seconds[items].astype(np.float64)
        longest = np.maximum.reduceat(own, starts)
        cost = np.stack([sizes * longest, sizes * (longest + longest**2 / _QUADRATIC)])
        efficiency += cost.mean(axis=1) / cost.max(axis=1)
        padded[0] += cost[0].sum()
        if edges is not None:
            padded[1] += (sizes * edges[np.searchsorted(edges, longest)]).sum()
        real[0] += own.sum()
        widest = None
        means = np.add.reduceat(own, starts) / sizes
        spread += ((own - np.repeat(means, sizes)) ** 2).sum()
        if tokens is not None:
            outputs = tokens[items].astype(np.float64)
            widest = np.maximum.reduceat(outputs, starts)
            padded[2] += (sizes * widest).sum()
            real[1] += outputs.sum()
        fill += (sizes / np.maximum(batches.budget.sizes(longest, widest), 1)).clip(max=1).sum()
        new = items[places[items] < 0]
        places[new] = step
        taken += len(items)
        count += len(parts)
    seen = np.flatnonzero(places >= 0)
    return BatchReport(
        world_size=world_size,
        steps=steps,
        items=len(seen),
        repeated=int(taken) - len(seen),
        left_out=len(batches) - len(seen),
        dropped=len(batches.lengths) - len(batches),
        batch_items=float(taken / count),
        fill=float(fill / count),
        padding_in=float(1 - real[0] / padded[0]),
        padding_to_edges=None if edges is None else float(1 - real[0] / padded[1]),
        padding_out=None if tokens is None or not padded[2] else float(1 - real[1] / padded[2]),
        straggler_efficiency=float(efficiency[0] / steps),
        straggler_efficiency_quadratic=float(efficiency[1] / steps),
        bytes=batches.bytes,
        order_correlation=_correlation(places[seen], _places(batches, epoch + 1, world_size)[seen]),
        length_correlation=_correlation(places[seen], seconds[seen].astype(np.float64)),
        batch_spread=float(np.sqrt(spread / taken)) / max(float(seconds[seen].std()), 1e-12),
        residence=batches.residence,
    )


def _steps(
    batches: DurationBatches, epoch: int, world_size: int
) -> Iterator[list[NDArray[np.int64]]]:
    ranks = [batches.epoch(epoch, rank=rank, world_size=world_size) for rank in range(world_size)]
    for parts in zip(*ranks, strict=True):
        yield list(parts)


def _places(batches: DurationBatches, epoch: int, world_size: int) -> NDArray[np.int64]:
    places = np.full(len(batches.lengths), -1, np.int64)
    for step, parts in enumerate(_steps(batches, epoch, world_size)):
        places[np.concatenate(parts)] = step
    return places


def _correlation(first: NDArray[Any], second: NDArray[Any]) -> float:
    if len(first) < 2 or first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
