"""The step `speech.pack`: utterances packed into rows of one capacity, none of them split.

Example:
    >>> from mbflow.steps.speech_pack import PackParameters
    >>> PackParameters(capacity=30).fit
    'best'
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from mbflow.errors import DataError, InvalidArgumentError
from mbflow.flow.source import Source
from mbflow.flow.spec import Parameters
from mbflow.flow.step import Context, Forecast
from mbflow.speech import PackedBatches
from mbflow.steps.speech_durations import Utterances
from mbflow.steps.speech_measure import DurationsParameters
from mbflow.steps.speech_pieces import piece
from mbflow.steps.speech_plan import dropped_notes, foreseen, inputs_of, located

__all__ = ["PackParameters", "can_pack", "forecast_pack", "pack"]

# A piece of a plan has the steps of about so many items: 32 MiB of numbers.
_PIECE_ITEMS = 1 << 22


class PackParameters(Parameters):
    """`with:` of `speech.pack`.

    Example:
        >>> from mbflow.steps.speech_pack import PackParameters
        >>> PackParameters(capacity=4096, by="tokens").rows
        1
    """

    capacity: float = Field(gt=0, description="The most that a row holds: seconds, or tokens.")
    by: Literal["seconds", "tokens"] = Field("seconds", description="What is packed.")
    rows: int = Field(1, ge=1, le=2**31 - 1, description="Rows of a batch of one rank.")
    fit: Literal["best", "first"] = Field(
        "best",
        description="An item goes into the row that it leaves the least room in, or into the first "
        "that has room.",
    )
    shuffle: bool = Field(
        default=True, description="Items of equal length change places in each epoch."
    )
    resolution: float | None = Field(
        None,
        gt=0,
        description="The grid that lengths are rounded up to; default: a 4096th of the capacity.",
    )
    too_long: Literal["error", "drop"] = Field(
        "error", description="What becomes of items above the capacity."
    )
    epochs: int = Field(1, ge=1, le=100_000, description="Epochs to plan, each in a new order.")
    world_size: int = Field(1, ge=1, le=1_000_000, description="Number of ranks.")
    drop_last: bool = Field(
        default=False,
        description="Leave out rows that fill no batch, and batches that fill no step.",
    )
    fill_last: bool = Field(
        default=False, description="Fill batches and steps up with repeats instead."
    )

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.drop_last and self.fill_last:
            raise ValueError("expected `drop_last` or `fill_last`, found both")
        return self


_NAME_TOKENS = "`by: tokens` needs tokens; name `tokens` or `text` in `speech.durations`"


def can_pack(
    parameters: PackParameters, inputs: tuple[Any, ...]
) -> tuple[tuple[str, ...], str] | None:
    """Refuse, before anything is read, to pack by tokens where there are none.

    Args:
        parameters: `with:` of the step.
        inputs: `with:` of the step that comes in.

    Returns:
        The path of the parameter and what is wrong with it, or None.

    Example:
        >>> from mbflow.steps.speech_measure import DurationsParameters
        >>> from mbflow.steps.speech_pack import PackParameters, can_pack
        >>> can_pack(PackParameters(capacity=9), (DurationsParameters(seconds="seconds"),))
    """
    durations = inputs[0]
    if parameters.by == "seconds" or not isinstance(durations, DurationsParameters):
        return None
    return None if durations.tokens or durations.text else (("by",), _NAME_TOKENS)


def _packed(
    utterances: Utterances, parameters: PackParameters, seed: int
) -> tuple[PackedBatches, np.ndarray[Any, Any]]:
    """The rows, and what is packed of each item."""
    lengths: np.ndarray[Any, Any] = utterances.lengths.seconds
    if parameters.by == "tokens":
        if utterances.lengths.tokens is None:
            raise InvalidArgumentError(_NAME_TOKENS)
        lengths = utterances.lengths.tokens
    options = parameters.model_dump(exclude={"by", "epochs", "world_size"})
    try:
        return PackedBatches(lengths, seed=seed, **options), lengths
    except DataError as error:
        raise located(error, utterances) from None


def pack(context: Context, parameters: PackParameters) -> None:
    """Run `speech.pack`.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["speech.pack"].gives
        'packed'
    """
    utterances, _ = inputs_of(context.inputs, context.source)
    context.progress(0, None, "", "packing")
    plan, lengths = _packed(utterances, parameters, context.seed)
    figures, shown = _summary(plan, parameters)
    steps, epochs = plan.steps(world_size=parameters.world_size), parameters.epochs
    if steps == 0:
        raise InvalidArgumentError(
            f"an epoch has no step for {parameters.world_size} ranks: its {figures['rows']} rows "
            "are too few; use fewer ranks or smaller batches, or do not drop"
        )
    some = max(1, _PIECE_ITEMS * steps // len(plan))
    for epoch in range(epochs):
        for first in range(0, steps, some):
            last = min(first + some, steps)

            def make(epoch: int = epoch, first: int = first, last: int = last) -> pa.Table:
                return _rows(plan, utterances.items, lengths, parameters, epoch, range(first, last))

            found, _ = piece(context.scratch / f"epoch-{epoch:06d}-{first:09d}", make)
            for batch in found.batches():
                context.write(batch)
            context.progress(epoch * steps + last, epochs * steps, "steps", f"epoch {epoch}")
    dropped_notes(context, plan.dropped.rename({"length": parameters.by}), utterances)
    context.table(**shown)
    context.meta.update(figures=figures, plan=plan.fingerprint())


def _rows(
    plan: PackedBatches,
    items: np.ndarray[Any, np.dtype[np.int64]],
    lengths: np.ndarray[Any, Any],
    parameters: PackParameters,
    epoch: int,
    steps: range,
) -> pa.Table:
    """A row of the table for each packed row of some steps."""
    size = parameters.world_size
    ranks = [
        plan.epoch(epoch, rank=rank, world_size=size, start_step=steps[0]) for rank in range(size)
    ]
    taken = [next(rank) for _ in steps for rank in ranks]
    counts = np.array([len(batch) for batch in taken])
    sizes = np.concatenate([np.diff(batch.offsets) for batch in taken])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    values = np.concatenate([batch.items for batch in taken])
    firsts = np.cumsum(counts) - counts
    return pa.table(
        {
            "epoch": pa.array(np.full(len(sizes), epoch), pa.int32()),
            "step": np.repeat(np.repeat(np.arange(steps.start, steps.stop), size), counts),
            "rank": pa.array(np.repeat(np.tile(np.arange(size), len(steps)), counts), pa.int32()),
            "row": pa.array(np.arange(len(sizes)) - np.repeat(firsts, counts), pa.int32()),
            "items": pa.ListArray.from_arrays(
                pa.array(offsets, pa.int32()), pa.array(items[values])
            ),
            "length": np.add.reduceat(lengths[values].astype(np.float64), offsets[:-1]),
            "repeat": np.concatenate([batch.repeats for batch in taken]),
        }
    )


def forecast_pack(
    parameters: PackParameters, inputs: tuple[Any, ...], seed: int, source: Source | None
) -> Forecast:
    """What packing would come to, for `mbflow plan`.

    Args:
        parameters: `with:` of the step.
        inputs: The utterances.
        seed: Key of all draws.
        source: Where the utterances are, for messages.

    Returns:
        The figures of `PackedBatches.report`; estimates where the utterances are a sample.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["speech.pack"].forecast.__name__
        'forecast_pack'
    """
    utterances, _ = inputs_of(inputs, source)
    used = foreseen(utterances)
    plan, _ = _packed(used, parameters, seed)
    figures, shown = _summary(
        plan,
        parameters,
        scale=utterances.total / len(used.items),
        estimated=utterances.estimated or used.estimated,
    )
    return Forecast(None, figures, (shown,), parameters.epochs * figures["rows"])


def _summary(
    plan: PackedBatches, parameters: PackParameters, *, scale: float = 1.0, estimated: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an epoch comes to: plain figures, and a table for people."""
    figures = dataclasses.asdict(plan.report(parameters.world_size))
    for name in ("steps", "rows", "bound", "items"):
        figures[name] = round(figures[name] * scale)
    rows = [
        ["rows of an epoch", f"{figures['rows']:,}"],
        ["rows that no packing can be below", f"{figures['bound']:,}"],
        ["steps of each rank", f"{figures['steps']:,}"],
        ["items of a row, mean", f"{figures['items'] / figures['rows']:,.1f}"],
        ["capacity that is not filled", f"{100 * figures['waste']:.2f} %"],
        ["items", f"{figures['items']:,}"],
    ]
    if estimated:
        del figures["dropped"]  # a sample says nothing of it
    else:
        rows.append(["items dropped", f"{figures['dropped']:,}"])
    title = f"Rows of {parameters.capacity:g} {parameters.by}{estimated}"
    return figures, {"title": title, "columns": ["figure", "value"], "rows": rows}
