"""The step `select.keep`: the rows to train on, from rows, a graph or scores, of any size.

Example:
    >>> from mbflow.steps.select_keep import KeepParameters
    >>> KeepParameters(fraction=0.1).method
    'auto'
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
import pyarrow as pa
from pydantic import Field, ValidationInfo, field_validator

from mbflow import select
from mbflow.errors import DataError
from mbflow.flow.dataset import Dataset
from mbflow.flow.source import Source
from mbflow.flow.step import Context
from mbflow.select.choose import Chooser, Method
from mbflow.select.explain import flat_points
from mbflow.steps import strata
from mbflow.steps.select_graph import EncodingParameters, encoded, read_graph, read_scores
from mbflow.steps.why import TABLE

if TYPE_CHECKING:
    import numpy as np

__all__ = ["KeepParameters", "can_keep", "keep"]


class KeepParameters(EncodingParameters):
    """`with:` of `select.keep`.

    Example:
        >>> from mbflow.steps.select_keep import KeepParameters
        >>> KeepParameters(count=100, quotas={"a": 60, "b": 40}).explain
        True
    """

    fraction: float | None = Field(
        None, gt=0, le=1, description="Share of the rows to keep; 0.04 when nothing is given."
    )
    count: int | None = Field(None, ge=1, description="Rows to keep, instead of `fraction`.")
    method: Method = Field(
        "auto",
        description="How rows are chosen; `auto` takes the scores where they come in, else refine "
        "where there are few rows and coverage where there are many.",
    )
    quotas: Literal["auto", "power", "equal", "proportional", "gain"] | dict[str, int] = Field(
        "auto",
        description="How the rows to keep are shared among classes: by a power of the class size, "
        "equally, in proportion, by the gain in coverage, or as given by class, which without "
        "`fraction` and `count` also says how many in all; `auto` is `power`, but lets the search "
        "of `refine` share them as it finds best.",
    )
    power: float = Field(
        0.75,
        ge=0,
        le=1,
        description="With `quotas: power`, the power: 1 is proportional, 0 equal.",
    )
    edit_noise: bool = Field(
        default=False, description="Keep no row whose ten nearest rows are mostly of other classes."
    )
    neighbours: int | None = Field(
        None, ge=1, le=1000, description="Neighbours in the graph that coverage builds; default 40."
    )
    rounds: int = Field(
        40, ge=0, le=10_000, description="Rounds of the search with `method: refine`."
    )
    quantiles: int | None = Field(
        None, ge=2, le=10_000, description="Cut a numeric label into so many classes of equal size."
    )
    strata_rows: int = Field(
        250_000,
        ge=1000,
        le=2**31 - 1,
        description="Sources with more rows are cut into strata of similar rows, at most so many "
        "each, selected from one by one; memory goes with this and with the threads.",
    )
    explain: bool = Field(
        default=True, description="Write which kept row stands for each row, for `mbflow why`."
    )
    row_column: str = Field("row", min_length=1, description="Name of the column of positions.")
    score_column: str = Field("score", min_length=1, description="Name of the column of scores.")

    @field_validator("count")
    @classmethod
    def _one_size(cls, count: int | None, info: ValidationInfo) -> int | None:
        if count is not None and info.data.get("fraction") is not None:
            raise ValueError("expected `fraction` or `count`, found both")
        return count

    @field_validator("score_column")
    @classmethod
    def _two_names(cls, name: str, info: ValidationInfo) -> str:
        if name == info.data.get("row_column"):
            raise ValueError(f"`{name}` is the name of `row_column` already; give another")
        return name


def can_keep(parameters: KeepParameters, source: Source) -> None:
    """Refuse, before anything runs, what the source cannot give.

    Raises:
        DataError: A new column has the name of one of the source, or `count` is above its rows.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["select.keep"].preflight.__name__
        'can_keep'
    """
    for name in (parameters.row_column, parameters.score_column):
        if name in source.columns:
            option = "row_column" if name == parameters.row_column else "score_column"
            raise DataError(
                f"source `{source.name}` has a column `{name}` already; give the new one another "
                f"name with `{option}`"
            )
    if parameters.count is not None and parameters.count > source.num_positions:
        raise DataError(
            f"source `{source.name}` has {source.num_positions} rows; `count: {parameters.count}` "
            "cannot be kept of them"
        )


def keep(context: Context, parameters: KeepParameters) -> None:
    """Run `select.keep`.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["select.keep"].takes
        ('rows|graph|scores', 'scores?')
    """
    source = context.source
    assert source is not None
    assert source.label is not None
    rows = source.rows()
    if rows == 0:
        raise DataError(
            f"source `{source.name}`: no row{' passes `where`' if source.where else 's'}"
        )
    fraction = 0.04 if parameters.fraction is None else parameters.fraction
    given = None if parameters.fraction is not None else parameters.quotas
    wanted = select.kept_count(rows, fraction=fraction, count=parameters.count, quotas=given)
    settings = parameters.model_dump(
        exclude={"fraction", "count", "explain", "row_column", "score_column"}
    )
    recipe: dict[str, Any] = {
        **settings,
        # An evaluation selects the same share of fewer rows.
        "fraction": fraction if parameters.fraction is not None else wanted / rows,
    }
    del recipe["strata_rows"]
    first = context.inputs[0]
    alone = isinstance(first, Source) and len(context.inputs) == 1
    if alone and rows > parameters.strata_rows:
        batches, classes = _from_strata(context, source, settings, wanted)
    else:
        batches, classes, more = _from_memory(context, source, parameters, settings, wanted)
        recipe |= more
    _write(context, source, parameters, batches, classes)
    _say(context, rows, wanted)
    context.meta.update(label=source.label, recipe=recipe)


def _from_memory(
    context: Context,
    source: Source,
    parameters: KeepParameters,
    settings: dict[str, Any],
    wanted: int,
) -> tuple[Iterable[pa.RecordBatch], tuple[str, ...], dict[str, Any]]:
    """Select from all rows at once; also gives what upstream steps add to the recipe."""
    graph = scores = None
    recipe: dict[str, Any] = {}
    method = parameters.method
    datasets = [item for item in context.inputs if isinstance(item, Dataset)]
    for dataset in datasets:
        recipe |= dataset.meta["recipe"]
        if dataset.kind == "scores":
            scores = dataset.table()
    quantiles = parameters.quantiles or recipe.get("quantiles")
    recipe["quantiles"] = quantiles
    if datasets and datasets[0].kind == "graph":
        table, features, graph = read_graph(datasets[0])
        labels, positions = table["label"], table["row"].to_numpy()
    else:
        context.progress(0, None, "", "reading")
        chosen = parameters
        if datasets:
            chosen = parameters.model_copy(
                update={key: recipe[key] for key in ("scale", "max_categories")}
            )
        features, found, encoder = encoded(source, chosen, quantiles)
        assert found is not None
        labels, positions = found, source.positions()
        if not datasets:
            context.table(
                "Columns and what was done with them",
                ["column", "kind", "treatment", "detail"],
                [[note.column, note.kind, note.treatment, note.detail] for note in encoder.notes],
            )
    codes = select.encode_labels(labels, name=source.label or "label", quantiles=quantiles)
    if scores is not None:
        _same_rows(scores, positions)
    if scores is not None and method == "auto":
        method = "attention"
    chooser = Chooser(
        features,
        codes,
        settings={**recipe, **settings} if datasets else settings,
        graph=graph,
        attention=None if scores is None else read_scores(scores),
        seed=context.seed,
        threads=context.threads,
        on_progress=lambda done, total, text: context.progress(done, total, "rounds", text),
    )
    context.progress(0, None, "", f"choosing {wanted} of {len(features)} rows")
    choice = chooser.choose(
        method,
        count=wanted,
        quotas=parameters.quotas,
        power=parameters.power,
        edit_noise=parameters.edit_noise,
    )
    recipe["method"] = choice.method
    why = select.explain_selection(
        features, codes, indices=choice.indices, representatives=choice.representatives
    )
    for note in choice.notes:
        context.note(note)
    _scatter(context, features, codes.codes, why.kept, codes.classes)
    context.meta["method"] = choice.method
    told = strata.why_table(positions, codes.codes, choice.scores, why, codes.classes)
    return told.to_batches(max_chunksize=1 << 16), codes.classes, recipe


def _same_rows(scores: pa.Table, positions: np.ndarray[Any, np.dtype[np.int64]]) -> None:
    """Refuse scores, such as a plug-in may write, that are not one a row in the order of rows."""
    if scores.num_rows != len(positions):
        raise DataError(
            f"there are {scores.num_rows} scores for {len(positions)} rows; expected one a row"
        )
    if "row" in scores.column_names:
        differ = scores["row"].to_numpy() != positions
        if differ.any():
            place = int(differ.argmax())
            raise DataError(
                f"the score in row {place} is of row {scores['row'][place]} of the source; "
                f"expected row {positions[place]}: one score a row, in their order"
            )


def _from_strata(
    context: Context, source: Source, settings: dict[str, Any], wanted: int
) -> tuple[Iterable[pa.RecordBatch], tuple[str, ...]]:
    """Select from one stratum after the other, on the engine."""
    if settings["method"] == "refine":
        raise DataError(
            f"`method: refine` searches all rows at once, and source `{source.name}` has more than "
            f"`strata_rows: {settings['strata_rows']}`; raise that, or use `method: coverage`"
        )
    if settings["quotas"] == "gain":
        raise DataError(
            f"`quotas: gain` compares all rows with each other, and source `{source.name}` has "
            f"more than `strata_rows: {settings['strata_rows']}`; raise that, or use other quotas"
        )
    plan = strata.Plan.of(context, source, settings)
    tasks = plan.tasks(context, settings, wanted)
    folders, methods, notes = [], set(), set()
    for done, folder in enumerate(context.map(strata.select_stratum, tasks), start=1):
        content = Dataset.open(folder).manifest
        methods.add(content["method"])
        notes.update(content["notes"])
        folders.append(folder)
        context.progress(done, len(tasks), "strata", "selecting")
    for note in sorted(notes):
        context.note(note)
    context.note(
        f"selected in {len(tasks)} strata of similar rows; columns were encoded by a sample of "
        f"{plan.content['sampled']} rows"
    )
    context.table(
        "Columns and what was done with them",
        ["column", "kind", "treatment", "detail"],
        plan.content["columns"],
    )
    context.meta["method"] = ", ".join(sorted(methods))
    context.meta["strata"] = len(tasks)
    classes = tuple(plan.content["classes"])
    _scatter(context, *strata.read_points(folders), classes)
    return strata.read_why(folders), classes


def _scatter(
    context: Context,
    features: np.ndarray[Any, np.dtype[np.float32]],
    codes: np.ndarray[Any, np.dtype[np.int64]],
    kept: np.ndarray[Any, np.dtype[np.bool_]],
    classes: tuple[str, ...],
) -> None:
    points = flat_points(features, codes, kept=kept, seed=context.seed)
    context.scatter(
        "Kept rows (large) over dropped ones (small)",
        xlabel=f"first principal axis; both show {points['share']:.0%} of the variance",
        ylabel="second principal axis",
        series=points["series"],
        group_names=list(classes),
    )


def _write(
    context: Context,
    source: Source,
    parameters: KeepParameters,
    batches: Iterable[pa.RecordBatch],
    classes: tuple[str, ...],
) -> None:
    """Write the kept rows, what is said of every row beside them, and the table of classes."""
    kept: list[pa.RecordBatch] = []
    by_class: list[pl.DataFrame] = []
    for batch in batches:
        if parameters.explain:
            context.write_beside(TABLE, batch)
        kept.append(batch.filter(batch.column("kept")).select(["row", "score"]))
        frame = pl.DataFrame(pl.from_arrow(batch.select(["class", "kept", "score"])))
        by_class.append(_counted(frame))
    chosen = pa.Table.from_batches(kept).sort_by("row")
    positions, scores = chosen["row"].to_numpy(), chosen["score"].to_numpy()
    done = 0
    for batch in source.take(positions):
        part = slice(done, done + batch.num_rows)
        done += batch.num_rows
        context.write(
            pa.Table.from_batches([batch])
            .append_column(parameters.row_column, pa.array(positions[part]))
            .append_column(parameters.score_column, pa.array(scores[part]))
        )
        context.progress(done, len(positions), "rows", "writing")
    order = {name: place for place, name in enumerate(classes)}
    sums = pl.concat(by_class).group_by("class").sum()
    sums = sums.sort(pl.col("class").replace_strict(order, return_dtype=pl.Int64))
    share = (pl.col("kept") / pl.col("rows")).alias("share")
    mean = (pl.col("score") / pl.col("kept")).fill_nan(None).alias("mean score kept")
    table = sums.select("class", "rows", "kept", share, mean)
    context.table("Rows kept per class", table.columns, table.rows())
    context.meta.update(kept=len(positions), classes=table.height)


def _counted(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.group_by("class", maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("rows"),
        pl.col("kept").sum().cast(pl.Int64),
        pl.col("score").filter(pl.col("kept")).cast(pl.Float64).sum(),
    )


def _say(context: Context, rows: int, wanted: int) -> None:
    count = context.meta["kept"]
    context.note(f"kept {count} of {rows} rows ({count / rows:.2%}) by {context.meta['method']}")
    if count != wanted:
        context.note(
            f"{wanted} rows were asked for; each of the {context.meta['classes']} classes keeps at "
            "least one row"
        )
