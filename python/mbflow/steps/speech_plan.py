"""What the steps of duration batches have in common, and the step `speech.buckets`.

Example:
    >>> from mbflow.steps.speech_plan import BudgetParameters
    >>> BudgetParameters(padded_seconds=600, items=64).budget().sizes([5.0, 20.0]).tolist()
    [64, 30]
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from mbflow.errors import DataError, InvalidArgumentError
from mbflow.flow.dataset import Dataset
from mbflow.flow.source import Source
from mbflow.flow.spec import Parameters
from mbflow.flow.step import Context, Forecast
from mbflow.speech import Budget, DurationBatches, Edges
from mbflow.steps.speech_durations import DROPPED, Utterances
from mbflow.steps.speech_measure import DurationsParameters

__all__ = [
    "BucketsParameters",
    "BudgetParameters",
    "Cuts",
    "MemoryParameters",
    "PlanParameters",
    "buckets",
    "can_count",
    "dropped_notes",
    "forecast_buckets",
    "foreseen",
    "inputs_of",
    "located",
    "made",
]

_SHOWN = 20
# A forecast plans for so many utterances at most, and for a sample repeated to as many.
FORESEEN = 1 << 20


class MemoryParameters(Parameters):
    """`memory:` of a budget: a fitted model, in whatever unit the coefficients have.

    Example:
        >>> from mbflow.steps.speech_plan import MemoryParameters
        >>> MemoryParameters(most=80, seconds=0.1).fixed
        0.0
    """

    most: float = Field(gt=0, description="What may be taken.")
    fixed: float = Field(0.0, ge=0, description="What is taken before any item.")
    item: float = Field(0.0, ge=0, description="By each item.")
    seconds: float = Field(0.0, ge=0, description="By each second of an item.")
    seconds_squared: float = Field(0.0, ge=0, description="By each square second.")
    tokens: float = Field(0.0, ge=0, description="By each token.")
    tokens_squared: float = Field(0.0, ge=0, description="By each pair of tokens.")
    product: float = Field(0.0, ge=0, description="By each pair of a second and a token.")


class BudgetParameters(Parameters):
    """`budget:` of the planning steps: all limits that are given hold.

    Example:
        >>> from mbflow.steps.speech_plan import BudgetParameters
        >>> BudgetParameters(sizes_by_bucket=[(5.0, 64), (40.0, 8)]).budget().sizes([6.0]).tolist()
        [8]
    """

    padded_seconds: float | None = Field(
        None, gt=0, description="Padded seconds of a batch: items times the longest."
    )
    quadratic: float | None = Field(
        None, gt=0, description="With `padded_seconds`, the seconds at which an item counts twice."
    )
    padded_tokens: float | None = Field(
        None, gt=0, description="Padded tokens of a batch: items times the most tokens."
    )
    items: int | None = Field(None, ge=1, description="Items of a batch.")
    memory: MemoryParameters | None = Field(None, description="Memory by a fitted model.")
    multiple: int | None = Field(
        None, ge=1, description="Sizes are rounded down to a multiple, where there are so many."
    )
    sizes_by_bucket: list[tuple[float | tuple[float, float], int]] | None = Field(
        None,
        min_length=1,
        description="Or the batch size of each bucket by its edge: seconds, or seconds and tokens.",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        limits = [self.padded_seconds, self.padded_tokens, self.items, self.memory]
        given = [limit for limit in limits if limit is not None]
        if self.quadratic is not None and self.padded_seconds is None:
            raise ValueError("`quadratic` is for `padded_seconds`; expected both")
        if self.sizes_by_bucket is not None and (given or self.multiple is not None):
            raise ValueError("`sizes_by_bucket` stands alone; put smaller sizes into the table")
        if self.sizes_by_bucket is None and not given:
            raise ValueError(
                "expected `padded_seconds`, `padded_tokens`, `items`, `memory` or `sizes_by_bucket`"
            )
        try:
            self.budget()
        except InvalidArgumentError as error:
            raise ValueError(str(error)) from None
        return self

    def budget(self) -> Budget:
        """The budget.

        Raises:
            InvalidArgumentError: An item takes nothing by the model of memory, or the table has an
                edge that is not above 0 or a size below 1.
        """
        if self.sizes_by_bucket is not None:
            return Budget.sizes_by_bucket(self.sizes_by_bucket)
        limits = []
        if self.padded_seconds is not None:
            limits.append(Budget.padded_seconds(self.padded_seconds, quadratic=self.quadratic))
        if self.padded_tokens is not None:
            limits.append(Budget.padded_tokens(self.padded_tokens))
        if self.items is not None:
            limits.append(Budget.items(self.items))
        if self.memory is not None:
            limits.append(Budget.memory(**self.memory.model_dump()))
        joined = limits[0]
        for limit in limits[1:]:
            joined = joined & limit
        return joined if self.multiple is None else joined.multiple_of(self.multiple)

    @model_validator(mode="before")
    @classmethod
    def _a_map(cls, given: Any) -> Any:
        if isinstance(given, int | float) and not isinstance(given, bool):
            raise ValueError(  # noqa: TRY004  - what pydantic tells the place of
                f"expected a map, found {given}; for so many padded seconds write "
                f"`{{padded_seconds: {given}}}`"
            )
        return given

    @property
    def by_tokens(self) -> str | None:
        """The limit that counts tokens, if there is one."""
        if self.padded_tokens is not None:
            return "padded_tokens"
        memory = self.memory
        if memory is not None and (memory.tokens or memory.tokens_squared or memory.product):
            return "memory"
        table = self.sizes_by_bucket or []
        return "sizes_by_bucket" if any(isinstance(edge, tuple) for edge, _ in table) else None


class PlanParameters(Parameters):
    """What is planned for; what is left out is as in the buckets that come in, or the default.

    Example:
        >>> from mbflow.steps.speech_plan import PlanParameters
        >>> PlanParameters(buckets=(30, 5)).too_long is None
        True
    """

    budget: BudgetParameters | None = Field(
        None, description="What a batch of one rank may cost; default: `{padded_seconds: 600}`."
    )
    buckets: int | tuple[int, int] | None = Field(
        None,
        description="How many buckets at most, or how many by seconds and by tokens; default: 30.",
    )
    edges: (
        Literal["optimal", "equal_count", "equal_duration"]
        | list[float | tuple[float, float]]
        | None
    ) = Field(
        None,
        description="How they are cut: for the least padding, the default; into equal numbers of "
        "items; into equal seconds; or the edges themselves: seconds, or seconds and tokens.",
    )
    edge_step: float | None = Field(
        None, gt=0, description="Edges are rounded up to multiples of so many seconds."
    )
    min_seconds: float | None = Field(None, ge=0, description="Shorter items are dropped.")
    max_seconds: float | None = Field(None, gt=0, description="Longer items are dropped.")
    rate_sigmas: float | None = Field(
        None,
        gt=0,
        description="Items with more tokens a second than the mean of their bucket and so many "
        "standard deviations are dropped.",
    )
    too_long: Literal["error", "drop"] | None = Field(
        None,
        description="What becomes of items above the budget alone, or above all given edges; "
        "default: error.",
    )

    @field_validator("buckets")
    @classmethod
    def _at_least_one(cls, buckets: int | tuple[int, int] | None) -> Any:
        numbers = () if buckets is None else (buckets,) if isinstance(buckets, int) else buckets
        if any(not 1 <= number <= 10_000 for number in numbers):
            raise ValueError(f"expected numbers from 1 to 10000, found {buckets}")
        return buckets

    @field_validator("edges")
    @classmethod
    def _proper(cls, edges: Any) -> Any:
        if isinstance(edges, list):
            try:
                Edges.of(edges)
            except InvalidArgumentError as error:
                raise ValueError(str(error)) from None
        return edges


class BucketsParameters(PlanParameters):
    """`with:` of `speech.buckets`.

    Example:
        >>> from mbflow.steps.speech_plan import BucketsParameters
        >>> BucketsParameters(edges=[5.0, 20.0]).edges
        [5.0, 20.0]
    """


_NAME_TOKENS = "name `tokens` or `text` in `speech.durations`"


def can_count(
    parameters: PlanParameters, inputs: tuple[Any, ...]
) -> tuple[tuple[str, ...], str] | None:
    """Refuse what counts tokens where there are none, before anything is read.

    Args:
        parameters: `with:` of the step.
        inputs: `with:` of the steps that come in.

    Returns:
        The path of the parameter and what is wrong with it, or None.

    Example:
        >>> from mbflow.steps.speech_measure import DurationsParameters
        >>> from mbflow.steps.speech_plan import PlanParameters, can_count
        >>> can_count(PlanParameters(rate_sigmas=3), (DurationsParameters(seconds="seconds"),))
        (('rate_sigmas',), 'it counts tokens; name `tokens` or `text` in `speech.durations`')
    """
    durations = inputs[0]
    if not isinstance(durations, DurationsParameters) or durations.tokens or durations.text:
        return None
    return _counts(parameters)


def _counts(parameters: PlanParameters) -> tuple[tuple[str, ...], str] | None:
    """The parameter that counts tokens, and what to do where there are none."""
    limit = None if parameters.budget is None else parameters.budget.by_tokens
    if limit is not None:
        return ("budget", limit), f"the budget counts tokens; {_NAME_TOKENS}"
    if parameters.rate_sigmas is not None:
        return ("rate_sigmas",), f"it counts tokens; {_NAME_TOKENS}"
    if getattr(parameters, "order", "buckets") == "window":
        return None  # there are no buckets
    if isinstance(parameters.buckets, tuple):
        return ("buckets",), f"the buckets are by tokens, too; {_NAME_TOKENS}"
    edges = parameters.edges
    if isinstance(edges, list) and any(isinstance(edge, tuple) for edge in edges):
        return ("edges",), f"the edges are by tokens, too; {_NAME_TOKENS}"
    return None


@dataclass(frozen=True)
class Cuts:
    """What `speech.buckets` found, as `speech.batches` takes it over.

    Attributes:
        edges: Edge of each bucket in seconds, or seconds and tokens.
        recipe: The parameters that are not None.

    Example:
        >>> from mbflow.steps.speech_plan import Cuts
        >>> Cuts([5.0], {}).edges
        [5.0]
    """

    edges: list[Any]
    recipe: dict[str, Any]

    @classmethod
    def read(cls, dataset: Dataset) -> Cuts:
        """The output of `speech.buckets`."""
        table = dataset.table(["seconds", "tokens"])
        pairs = zip(table["seconds"].to_pylist(), table["tokens"].to_pylist(), strict=True)
        edges = [seconds if tokens is None else (seconds, tokens) for seconds, tokens in pairs]
        return cls(edges, dataset.meta["recipe"])


def made(
    utterances: Utterances,
    parameters: PlanParameters,
    *,
    seed: int,
    cuts: Cuts | None = None,
    **options: Any,
) -> DurationBatches:
    """The batches that parameters ask for.

    Args:
        utterances: The items.
        parameters: `with:` of the step; it goes before what `cuts` says.
        seed: Key of all draws.
        cuts: The buckets that came in, if any. With `order="window"` their edges are not used; the
            budget and the limits are.
        options: What else `DurationBatches` takes.

    Returns:
        The batches; their items are numbers of `utterances`.

    Raises:
        DataError: An item cannot be used; the message names its row.
        InvalidArgumentError: Parameters do not go together.

    Example:
        >>> import numpy as np
        >>> from mbflow.speech import Lengths
        >>> from mbflow.steps.speech_durations import Utterances
        >>> from mbflow.steps.speech_plan import PlanParameters, made
        >>> utterances = Utterances(np.array([0, 1]), Lengths.of([1.0, 2.0]), 2)
        >>> made(utterances, PlanParameters(), seed=0)
        DurationBatches(2 of 2 items, 'buckets')
    """
    wrong = _counts(parameters) if utterances.lengths.tokens is None else None
    if wrong is not None:
        raise InvalidArgumentError(f"`{'.'.join(wrong[0])}`: {wrong[1]}")
    given = parameters.model_dump(include=set(PlanParameters.model_fields), exclude_none=True)
    if cuts is not None:
        twice = [f"`{name}`" for name in ("buckets", "edges", "edge_step") if name in given]
        if twice:
            raise InvalidArgumentError(
                f"{' and '.join(twice)}: the buckets come in by `from`; set them there"
            )
        given = {**cuts.recipe, **given, "edges": cuts.edges}
        for name in ("buckets", "edge_step"):
            given.pop(name, None)
        if options.get("order") == "window":
            del given["edges"]
    if "budget" in given:
        given["budget"] = BudgetParameters(**given["budget"]).budget()
        if given["budget"].table and cuts is not None:
            given.pop("edges", None)  # the table names them
    try:
        return DurationBatches(utterances.lengths, seed=seed, **given, **options)
    except DataError as error:
        raise located(error, utterances) from None


def located(error: DataError, utterances: Utterances) -> DataError:
    """An error about an item as one about a row of the source.

    Example:
        >>> import numpy as np
        >>> from mbflow.errors import DataError
        >>> from mbflow.speech import Lengths
        >>> from mbflow.steps.speech_durations import Utterances
        >>> from mbflow.steps.speech_plan import located
        >>> utterances = Utterances(np.array([7]), Lengths.of([1.0]), 1)
        >>> print(located(DataError("item 0 is too long", row=0), utterances))
        item 7 is too long (items are rows of the source, counted from 0)
    """
    if error.row is None:
        return error
    item = int(utterances.items[error.row])
    text = str(error).replace(f"item {error.row} ", f"item {item} ", 1)
    text = text.replace("too_long='drop'", "`too_long: drop`")
    if utterances.source is None:
        return DataError(f"{text} (items are rows of the source, counted from 0)", row=item)
    path, row = utterances.source.locate(item)
    return DataError(f"{path}: {text} (row {row} of this file, counted from 0)", row=item)


def dropped_notes(context: Context, dropped: pl.DataFrame, utterances: Utterances) -> None:
    """Count and list the items that are in no batch: the first in notes, all in a table beside.

    Args:
        context: Of the step.
        dropped: Their numbers in `item`, their lengths, and the `reason`.
        utterances: The items.

    Example:
        >>> from mbflow.steps.speech_plan import dropped_notes
        >>> dropped_notes(context, batches.dropped, utterances)  # doctest: +SKIP
    """
    if not dropped.height:
        return
    items = utterances.items[dropped["item"].to_numpy()]
    dropped = dropped.with_columns(pl.Series("item", items))
    for reason, count in dropped.group_by("reason", maintain_order=True).len().rows():
        context.note(f"{count} of {len(utterances.items)} items were dropped: {reason}")
    for row in dropped.head(_SHOWN).iter_rows(named=True):
        item, reason = row.pop("item"), row.pop("reason")
        size = ", ".join(f"{value:.6g} {name}" for name, value in row.items() if value is not None)
        where = ""
        if utterances.source is not None:
            path, place = utterances.source.locate(item)
            where = f" ({path}, row {place})"
        context.note(f"dropped: item {item}{where}, {size}: {reason}")
    if dropped.height > _SHOWN:
        more = dropped.height - _SHOWN
        context.note(f"dropped: {more} more, see the table `{DROPPED}`")
    context.write_beside(DROPPED, dropped.to_arrow())


def inputs_of(
    inputs: tuple[Any, ...], source: Source | None = None
) -> tuple[Utterances, Cuts | None]:
    """The utterances and, where they come in, the buckets: from outputs or from forecasts.

    Args:
        inputs: Of the step, or of its forecast.
        source: Where the utterances are, for messages.

    Example:
        >>> import numpy as np
        >>> from mbflow.speech import Lengths
        >>> from mbflow.steps.speech_durations import Utterances
        >>> from mbflow.steps.speech_plan import Cuts, inputs_of
        >>> utterances = Utterances(np.array([0]), Lengths.of([1.0]), 1)
        >>> inputs_of((utterances, Cuts([5.0], {})))[1].edges
        [5.0]
    """
    first, *rest = inputs
    utterances = first if isinstance(first, Utterances) else Utterances.read(first, source)
    cuts = [item if isinstance(item, Cuts) else Cuts.read(item) for item in rest]
    return utterances, cuts[0] if cuts else None


def foreseen(utterances: Utterances) -> Utterances:
    """As many utterances as a forecast plans for: a sample is repeated, of very many some are left.

    Buckets fill up with the number of utterances, so a small sample alone would have small batches.

    Example:
        >>> import numpy as np
        >>> from mbflow.speech import Lengths
        >>> from mbflow.steps.speech_durations import Utterances
        >>> from mbflow.steps.speech_plan import foreseen
        >>> sample = Utterances(np.array([0, 9]), Lengths.of([1.0, 2.0]), 5)
        >>> foreseen(sample).lengths.seconds.tolist()
        [1.0, 2.0, 1.0, 2.0, 1.0]
    """
    count, seen = min(utterances.total, FORESEEN), len(utterances.items)
    if count == seen:
        return utterances
    places = np.arange(count) % seen if count > seen else np.arange(count) * seen // count
    lengths = utterances.lengths
    few = dataclasses.replace(
        lengths,
        seconds=lengths.seconds[places],
        tokens=None if lengths.tokens is None else lengths.tokens[places],
        _digests=[],
    )
    return dataclasses.replace(utterances, items=utterances.items[places], lengths=few)


def _recipe(parameters: PlanParameters) -> dict[str, Any]:
    names = set(PlanParameters.model_fields)
    found: dict[str, Any] = parameters.model_dump(mode="json", include=names, exclude_none=True)
    return found


def buckets(context: Context, parameters: BucketsParameters) -> None:
    """Run `speech.buckets`.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["speech.buckets"].takes
        ('durations',)
    """
    utterances, _ = inputs_of(context.inputs, context.source)
    batches = made(utterances, parameters, seed=context.seed)
    table = _table(batches)
    context.write(table)
    dropped_notes(context, batches.dropped, utterances)
    figures, shown = _summary(table)
    context.table(**shown)
    context.meta.update(recipe=_recipe(parameters), figures=figures)


def forecast_buckets(
    parameters: BucketsParameters, inputs: tuple[Any, ...], seed: int, source: Source | None
) -> Forecast:
    """The buckets, for `mbflow plan`.

    Args:
        parameters: `with:` of the step.
        inputs: The utterances.
        seed: Key of all draws.
        source: Where the utterances are, for messages.

    Returns:
        `Cuts`, with what they come to.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["speech.buckets"].forecast.__name__
        'forecast_buckets'
    """
    utterances, _ = inputs_of(inputs, source)
    used = foreseen(utterances)
    table = _table(made(used, parameters, seed=seed))
    figures, shown = _summary(table)
    shown["title"] += utterances.estimated or used.estimated
    edges = [
        seconds if tokens is None else (seconds, tokens)
        for seconds, tokens in zip(
            table["seconds"].to_pylist(), table["tokens"].to_pylist(), strict=True
        )
    ]
    return Forecast(Cuts(edges, _recipe(parameters)), figures, (shown,), table.num_rows)


def _table(batches: DurationBatches) -> pa.Table:
    """A row a bucket: its edges, items, the most of them in a batch, and padding to the edge."""
    lengths, edges = batches.lengths, batches.edges
    assert edges is not None, "batches in buckets"
    kept = np.delete(np.arange(len(lengths)), batches.dropped["item"].to_numpy())
    seconds = lengths.seconds[kept]
    tokens = None if lengths.tokens is None else lengths.tokens[kept]
    bucket = edges.assign(seconds, tokens)
    counts = np.bincount(bucket, minlength=len(edges))
    total = np.bincount(bucket, seconds.astype(np.float64), minlength=len(edges))
    most = np.zeros(len(edges))
    if tokens is not None:
        np.maximum.at(most, bucket, tokens)
    # Each item fits alone, though the corner of its bucket may not.
    sizes = np.maximum(batches.budget.sizes(edges.seconds, np.minimum(edges.tokens, most)), 1)
    return pa.table(
        {
            "bucket": pa.array(np.arange(len(edges)), pa.int32()),
            "seconds": edges.seconds,
            "tokens": pa.array(edges.tokens, mask=~np.isfinite(edges.tokens)),
            "items": counts,
            "batch_size": sizes,
            "padding": 1 - total / (counts * edges.seconds),
        }
    )


def _summary(table: pa.Table) -> tuple[dict[str, Any], dict[str, Any]]:
    counts, edges = table["items"].to_numpy(), table["seconds"].to_numpy()
    padding = table["padding"].to_numpy()
    padded = float(counts @ edges)
    share = float((counts * edges) @ padding) / padded
    kept = int(counts.sum())
    two = table["tokens"].null_count < table.num_rows
    names = ["bucket", "seconds", *(["tokens"] if two else []), "items", "batch_size", "padding"]
    cells = {name: table[name].to_pylist() for name in names}
    cells["padding"] = [f"{100 * value:.2f} %" for value in cells["padding"]]
    rows = [list(row) for row in zip(*cells.values(), strict=True)]
    figures = {"buckets": table.num_rows, "items": kept, "padding_to_edges": share}
    title = f"{table.num_rows} buckets, {100 * share:.2f} % padding to their edges"
    shown = [name.replace("_", " ") for name in names]
    return figures, {"title": title, "columns": shown, "rows": rows}
