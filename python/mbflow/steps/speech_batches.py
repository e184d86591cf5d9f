"""The step `speech.batches`: which rank takes which utterances at which step, as a Parquet table.

The plan is written a piece at a time. Pieces that are done stand in the step's scratch folder with
their checksums, so that a run that is started again goes on after them.

Example:
    >>> from mbflow.steps.speech_batches import BatchesParameters
    >>> BatchesParameters(world_size=8).order
    'buckets'
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from mbflow.flow.source import Source
from mbflow.flow.step import Context, Forecast
from mbflow.speech import DurationBatches
from mbflow.speech.report import BatchReport
from mbflow.speech.shares import BucketShare
from mbflow.steps.speech_durations import Utterances, marks
from mbflow.steps.speech_pieces import piece
from mbflow.steps.speech_plan import (
    Cuts,
    PlanParameters,
    dropped_notes,
    foreseen,
    inputs_of,
    made,
)

__all__ = ["BatchesParameters", "batches", "forecast_batches"]

# A piece of a plan has the steps of about so many items: 32 MiB of numbers.
_PIECE_ITEMS = 1 << 22
_CLASSES = 12
# A fill below this, or more repeats of the items, is worth a word.
_LOW_FILL = 0.5
_MANY_REPEATS = 0.01


class BatchesParameters(PlanParameters):
    """`with:` of `speech.batches`.

    Example:
        >>> from mbflow.steps.speech_batches import BatchesParameters
        >>> BatchesParameters(order="window", window=5000).last
        'short'
    """

    epochs: int = Field(1, ge=1, le=100_000, description="Epochs to plan, each in a new order.")
    world_size: int = Field(1, ge=1, le=1_000_000, description="Number of ranks.")
    order: Literal["buckets", "window"] = Field(
        "buckets",
        description="Buckets that take turns, or neighbours in length: the least padding.",
    )
    window: int = Field(
        20_000, ge=1, description="With `order: window`: fewer mix more, more pad less."
    )
    drop_last: bool = Field(
        default=False, description="Leave out what fills no batch, and batches that fill no step."
    )
    fill_last: bool = Field(
        default=False, description="Fill batches and steps up with repeats instead."
    )

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.drop_last and self.fill_last:
            raise ValueError("expected `drop_last` or `fill_last`, found both")
        return self

    @property
    def last(self) -> str:
        """What becomes of what does not fill a batch or a step, see `mbflow.batches.Last`."""
        return "drop" if self.drop_last else "fill" if self.fill_last else "short"

    @property
    def options(self) -> dict[str, Any]:
        """What `DurationBatches` takes besides the budget and the buckets."""
        return self.model_dump(include={"order", "window", "drop_last", "fill_last"})


def batches(context: Context, parameters: BatchesParameters) -> None:
    """Run `speech.batches`.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["speech.batches"].takes
        ('durations', 'buckets?')
    """
    utterances, cuts = inputs_of(context.inputs, context.source)
    context.progress(0, None, "", "cutting buckets")
    plan = made(utterances, parameters, seed=context.seed, cuts=cuts, **parameters.options)
    found = plan.report(parameters.world_size)
    figures, shown = _summary(found)
    _Written(context, parameters, plan, utterances).go()
    dropped_notes(context, plan.dropped, utterances)
    for note in _notes(plan, found, cuts):
        context.note(note)
    context.table(**shown)
    context.meta.update(figures=figures, plan=plan.fingerprint())


class _Written:
    """Writes the plan of all epochs."""

    def __init__(
        self,
        context: Context,
        parameters: BatchesParameters,
        plan: DurationBatches,
        utterances: Utterances,
    ) -> None:
        self.context = context
        self.plan = plan
        self.items = utterances.items
        self.epochs = parameters.epochs
        self.world_size = parameters.world_size
        # Batches, items, seconds and padded seconds, by the edges of the buckets, or by length.
        if plan.edges is not None:
            self.edges = np.unique(plan.edges.seconds)
        else:
            shares = np.linspace(0, 1, _CLASSES + 1)[1:]
            self.edges = np.unique(np.quantile(plan.lengths.seconds, shares).astype(np.float64))
        self.sums = np.zeros((4, len(self.edges)))

    def go(self) -> None:
        for epoch in range(self.epochs):
            steps = self.plan.steps(epoch, world_size=self.world_size)
            each = max(1, -(-len(self.plan) // max(1, steps)))
            some = max(1, _PIECE_ITEMS // each)
            seen = np.zeros(len(self.items), np.bool_)
            for first in range(0, steps, some):
                last = min(first + some, steps)
                for batch in self._piece(epoch, first, last, seen):
                    if epoch == 0:
                        self._add(batch)
                    self.context.write(batch)
                done = epoch * steps + last
                self.context.progress(done, self.epochs * steps, "steps", f"epoch {epoch}")
        self._charts()

    def _piece(
        self, epoch: int, first: int, last: int, seen: np.ndarray[Any, np.dtype[np.bool_]]
    ) -> Iterator[pa.RecordBatch]:
        """The rows of some steps."""
        folder = self.context.scratch / f"epoch-{epoch:06d}-{first:09d}"
        found, was_there = piece(folder, lambda: self._rows(epoch, first, last, seen))
        for batch in found.batches():
            if was_there:
                seen[self._numbers(batch)] = True
            yield batch

    def _numbers(self, batch: pa.RecordBatch) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Items of a batch of rows as the plan counts them."""
        found: np.ndarray[Any, np.dtype[np.int64]] = np.searchsorted(
            self.items, batch.column("items").flatten().to_numpy()
        )
        return found

    def _rows(
        self, epoch: int, first: int, last: int, seen: np.ndarray[Any, np.dtype[np.bool_]]
    ) -> pa.Table:
        plan, size = self.plan, self.world_size
        ranks = [
            plan.epoch(epoch, rank=rank, world_size=size, start_step=first) for rank in range(size)
        ]
        taken: list[np.ndarray[Any, np.dtype[np.int64]]] = []
        repeats = np.zeros((last - first) * size, np.int32)
        for step in range(first, last):
            parts = [next(rank) for rank in ranks]
            items = np.concatenate(parts)
            # An item repeats one that came before it in the epoch or that comes in this step.
            if seen[items].any() or len(np.unique(items)) < len(items):
                at = (step - first) * size
                repeats[at : at + size] = [
                    plan.repeats(epoch, step, rank=rank, world_size=size).sum()
                    for rank in range(size)
                ]
            seen[items] = True
            taken += parts
            self.context.check()
        lengths = np.array([len(part) for part in taken])
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        values = np.concatenate(taken)
        columns: dict[str, Any] = {
            "epoch": pa.array(np.full(len(taken), epoch), pa.int32()),
            "step": np.repeat(np.arange(first, last), size),
            "rank": pa.array(np.tile(np.arange(size), last - first), pa.int32()),
        }
        share = plan.share(epoch, world_size=size)
        if isinstance(share, BucketShare):
            buckets, _, _ = share.turns(first, last, 0)
            columns["bucket"] = pa.array(np.repeat(buckets, size), pa.int32())
        columns["items"] = pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()), pa.array(self.items[values])
        )
        columns["seconds"] = np.maximum.reduceat(plan.lengths.seconds[values], offsets[:-1])
        if plan.lengths.tokens is not None:
            columns["tokens"] = np.maximum.reduceat(plan.lengths.tokens[values], offsets[:-1])
        columns["repeats"] = repeats
        return pa.table(columns)

    def _add(self, batch: pa.RecordBatch) -> None:
        """Count batches, items, seconds and padded seconds by bucket or by length."""
        numbers = self._numbers(batch)
        longest = batch.column("seconds").to_numpy().astype(np.float64)
        sizes = batch.column("items").value_lengths().to_numpy()
        starts = np.cumsum(sizes) - sizes
        own = np.add.reduceat(self.plan.lengths.seconds[numbers].astype(np.float64), starts)
        place = np.minimum(np.searchsorted(self.edges, longest), len(self.edges) - 1)
        for row, values in enumerate((np.ones(len(sizes)), sizes, own, sizes * longest)):
            self.sums[row] += np.bincount(place, values, minlength=len(self.edges))

    def _charts(self) -> None:
        there = np.flatnonzero(self.sums[0])
        count, items, own, padded = self.sums[:, there]
        what = "of the bucket" if self.plan.order == "buckets" else "of the longest item"
        charts = (
            (f"Padding by seconds {what}", "padding, %", 100 * (1 - own / padded), 2),
            (f"Items of a batch by seconds {what}", "items, mean", items / count, 1),
        )
        for title, label, values, decimals in charts:
            self.context.chart(
                title,
                ylabel=label,
                groups=marks(self.edges[there]),
                series=[{"name": label, "mean": values.tolist()}],
                decimals=decimals,
            )


def forecast_batches(
    parameters: BatchesParameters, inputs: tuple[Any, ...], seed: int, source: Source | None
) -> Forecast:
    """What an epoch would come to, for `mbflow plan`.

    Args:
        parameters: `with:` of the step.
        inputs: The utterances, and the buckets if any.
        seed: Key of all draws.
        source: Where the utterances are, for messages.

    Returns:
        The figures of `DurationBatches.report`; estimates where the utterances are a sample.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["speech.batches"].forecast.__name__
        'forecast_batches'
    """
    utterances, cuts = inputs_of(inputs, source)
    used = foreseen(utterances)
    plan = made(used, parameters, seed=seed, cuts=cuts, **parameters.options)
    estimated = utterances.estimated or used.estimated
    scale = utterances.total / len(used.items)
    found = plan.report(parameters.world_size)
    figures, shown = _summary(found, scale=scale, estimated=estimated)
    rows = parameters.epochs * figures["steps"] * parameters.world_size
    return Forecast(None, figures, (shown,), rows, _notes(plan, found, cuts))


def _notes(plan: DurationBatches, report: BatchReport, cuts: Cuts | None) -> tuple[str, ...]:
    """What people should know of a plan that is not as they may think."""
    notes = []
    if cuts is not None and plan.order == "window":
        notes.append(
            "`order: window` takes the budget and the limits of the buckets that come in; their "
            "edges are not used"
        )
    found = []
    if report.fill < _LOW_FILL:
        found.append(f"batches fill {_share(report.fill)} of the budget")
    repeated = report.repeated / report.items
    if repeated > _MANY_REPEATS:
        found.append(f"repeats are {_share(repeated)} of the items")
    if found:
        one = report.world_size == 1
        who = "1 rank takes" if one else f"{report.world_size:,} ranks share"
        what, ways = "the items are few", ["a smaller budget"]
        if plan.edges is not None and len(plan.edges) > 1:
            what = f"{who} what little is left of each of {len(plan.edges):,} buckets"
            ways = ["fewer buckets", "`order: window`"]
        elif not one:
            what = f"{who} few items"
        ways += [] if one else ["fewer ranks"]
        advice = ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])} or {ways[-1]}"
        notes.append(f"{' and '.join(found)}: {what}; use {advice}")
    return tuple(notes)


def _summary(
    report: BatchReport, *, scale: float = 1.0, estimated: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the first epoch comes to: plain figures, and a table for people."""
    world_size = report.world_size
    figures = dataclasses.asdict(report)
    figures["steps"] = round(report.steps * scale)
    if estimated:
        # A sample says nothing of these.
        for name in ("items", "repeated", "left_out", "dropped", "bytes", "order_correlation"):
            del figures[name]
    rows = [
        [name, written(figures[key])]
        for key, name, written in _FIGURES
        if figures.get(key) is not None
    ]
    ranks = "1 rank" if world_size == 1 else f"{world_size:,} ranks"
    title = f"An epoch of {ranks}{estimated}"
    return figures, {"title": title, "columns": ["figure", "value"], "rows": rows}


def _share(value: float) -> str:
    return f"{100 * value:.2f} %"


def _count(value: float) -> str:
    return f"{value:,}"


_FIGURES: tuple[tuple[str, str, Any], ...] = (
    ("steps", "steps of each rank", _count),
    ("batch_items", "items of a batch, mean", lambda value: f"{value:,.1f}"),
    ("fill", "fill of the budget, mean", _share),
    ("padding_in", "padding of the input", _share),
    ("padding_to_edges", "padding of the input to the edges of the buckets", _share),
    ("padding_out", "padding of the output tokens", _share),
    ("straggler_efficiency", "straggler efficiency", _share),
    ("straggler_efficiency_quadratic", "straggler efficiency, quadratic cost", _share),
    ("items", "items", _count),
    ("repeated", "items repeated", _count),
    ("left_out", "items left out", _count),
    ("dropped", "items dropped", _count),
    ("batch_spread", "spread of lengths in a batch, of that of all", lambda value: f"{value:.3f}"),
    ("order_correlation", "correlation of the order with the next epoch's", "{:.3f}".format),
    ("length_correlation", "correlation of the order with length", "{:.3f}".format),
    ("residence", "items that a batch is drawn from", _share),
)
