"""The steps of instance selection, between Parquet and the functions of `mbflow.select`.

Example:
    >>> from mbflow.steps.select import STEPS
    >>> [step.gives for step in STEPS]
    ['graph', 'scores', 'kept', 'table']
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, ValidationInfo, field_validator

from mbflow import select
from mbflow.errors import DataError
from mbflow.flow.dataset import Dataset
from mbflow.flow.source import Source
from mbflow.flow.spec import Parameters
from mbflow.flow.step import Context, Step

__all__ = ["STEPS"]

_CHUNK = 65_536


class HashGraphParameters(Parameters):
    """`with:` of `select.hash_graph`."""

    neighbours: int = Field(10, ge=1, le=1000, description="Neighbours of each row.")
    bits: int | None = Field(
        None, ge=1, le=64, description="Projections in a row's code; default: from the rows."
    )
    family: Literal["sign", "p_stable"] = Field(
        "sign", description="Codes by the sign of projections, or by quantising them."
    )
    width: float | None = Field(
        None, gt=0, description="Width of a cell of p-stable codes, in units of scaled features."
    )
    projections: Literal["gaussian", "sparse"] = Field(
        "gaussian", description="How projections are drawn."
    )
    bucket_cap: int = Field(
        256,
        ge=2,
        le=2**31 - 1,
        description="Rows in a bucket at most; larger ones are split further.",
    )
    probes: int = Field(
        16, ge=0, le=2**31 - 1, description="Buckets besides its own that a row is compared with."
    )
    refinements: int = Field(
        4, ge=0, le=100, description="How often rows move to the bucket with the nearest mean."
    )
    scale: Literal["min_max", "standard", "none"] = Field(
        "min_max", description="How numeric columns are scaled."
    )
    max_categories: int = Field(
        32, ge=1, le=4096, description="Values of a text column that get a column of their own."
    )

    @field_validator("width")
    @classmethod
    def _for_p_stable(cls, width: float | None, info: ValidationInfo) -> float | None:
        if width is not None and info.data.get("family") == "sign":
            raise ValueError("`width` is for `family: p_stable` only; leave it out")
        return width


class AttentionParameters(Parameters):
    """`with:` of `select.attention`."""

    heads: int = Field(4, ge=1, le=64, description="Attention heads.")
    hidden: int = Field(8, ge=1, le=1024, description="Width of each head in the first layer.")
    epochs: int = Field(150, ge=1, le=100_000, description="Passes over the rows at most.")
    patience: int = Field(
        20, ge=1, description="Epochs without a lower held-out loss before training stops."
    )
    learning_rate: float = Field(0.05, gt=0, le=10, description="Step length of Adam.")
    feature_dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of the features left out in training."
    )
    attention_dropout: float = Field(
        0.1, ge=0, lt=1, description="Share of the attention coefficients left out in training."
    )
    held_out: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of the rows that decides when to stop; 0: the training loss decides.",
    )


class KeepParameters(Parameters):
    """`with:` of `select.keep`."""

    fraction: float | None = Field(
        None, gt=0, le=1, description="Share of the rows to keep; 0.04 when nothing is given."
    )
    count: int | None = Field(None, ge=1, description="Rows to keep, instead of `fraction`.")
    power: float = Field(
        0.75,
        ge=0,
        le=1,
        description="Class quotas go with the class size to this power: 1 proportional, 0 equal.",
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


class EvaluateParameters(Parameters):
    """`with:` of `select.evaluate`."""

    seeds: int = Field(5, ge=1, le=1000, description="Repeated splits, each with its own seed.")
    classifiers: list[Literal["1-NN", "logistic regression", "random forest"]] = Field(
        default=["1-NN", "logistic regression", "random forest"],
        min_length=1,
        description="What is trained on the rows.",
    )
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of the rows held out for testing in each split."
    )
    max_train_rows: int = Field(
        50_000, ge=10, description="The `all rows` classifiers see at most so many rows."
    )


@contextmanager
def _located(source: Source) -> Iterator[None]:
    """Add the file, and the row in it, to an error about a row of the source."""
    try:
        yield
    except DataError as error:
        if error.row is None:
            raise DataError(f"{source.files[0].path}: {error}") from None
        path, row = source.locate(int(source.positions()[error.row]))
        raise DataError(f"{path}: {error} (row {row} of this file, counted from 0)") from None


def _hash_graph(context: Context, parameters: HashGraphParameters) -> None:
    source = context.inputs[0]
    assert isinstance(source, Source)
    context.progress(0, None, "", "reading")
    table = source.table()
    if table.num_rows == 0:
        raise DataError(
            f"source `{source.name}`: no row{' passes `where`' if source.where else 's'}"
        )
    with _located(source):
        # A wrong label is found now, not after the graph was built.
        labels = None if source.label is None else table[source.label]
        if labels is not None:
            select.encode_labels(labels, name=source.label or "label")
            table = table.drop_columns([source.label])
        encoder = select.FeatureEncoder(
            scale=parameters.scale, max_categories=parameters.max_categories
        )
        features = encoder.fit_transform(table)
    context.progress(0, None, "", f"hashing {len(features)} rows x {features.shape[1]} features")
    settings = parameters.model_dump(exclude={"scale", "max_categories"})
    graph = select.hash_graph(features, **settings, seed=context.seed)
    context.progress(0, None, "", "writing")
    positions = source.positions()
    for start in range(0, len(features), _CHUNK):
        stop = min(len(features), start + _CHUNK)
        offsets = graph.offsets[start : stop + 1]
        edges = slice(offsets[0], offsets[-1])
        lists = pa.array((offsets - offsets[0]).astype(np.int32))
        columns: dict[str, Any] = {
            "row": pa.array(positions[start:stop]),
            "features": pa.FixedSizeListArray.from_arrays(
                pa.array(features[start:stop].reshape(-1)), features.shape[1]
            ),
            "neighbours": pa.ListArray.from_arrays(lists, pa.array(graph.neighbours[edges])),
            "distances": pa.ListArray.from_arrays(lists, pa.array(graph.distances[edges])),
        }
        if labels is not None:
            columns["label"] = labels.slice(start, stop - start).combine_chunks()
        context.write(pa.table(columns))
    # The comparison is quadratic; a hundred rows tell the share to a few per cent.
    sample = min(len(features), max(100, min(1000, 20_000_000 // len(features))))
    recall = select.exact_recall(graph, features, sample=sample, seed=context.seed)
    context.note(
        f"{graph.rows} rows x {features.shape[1]} features, {graph.edges} edges; "
        f"{recall:.1%} of the exact nearest neighbours found (looked at {sample} rows)"
    )
    context.table(
        "Columns and what was done with them",
        ["column", "kind", "treatment", "detail"],
        [[note.column, note.kind, note.treatment, note.detail] for note in encoder.notes],
    )
    context.meta.update(
        label=source.label,
        features=features.shape[1],
        recall=recall,
        stats={key: _plain(value) for key, value in graph.stats.items()},
        recipe=parameters.model_dump(),
    )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _read_graph(dataset: Dataset) -> tuple[pa.Table, Any, select.Graph]:
    """The graph data set as a table without the big columns, the features and the graph."""
    table = dataset.table()
    features = table["features"].combine_chunks()
    width = features.type.list_size
    # Arrow's memory is read-only, which torch does not take.
    values = features.flatten().to_numpy(zero_copy_only=False).reshape(-1, width).copy()
    lists = table["neighbours"].combine_chunks()
    distances = table["distances"].combine_chunks()
    graph = select.Graph(
        lists.offsets.to_numpy().astype(np.int64),
        lists.values.to_numpy().copy(),
        distances.values.to_numpy().copy(),
        dataset.meta["stats"],
    )
    return table.drop_columns(["features", "neighbours", "distances"]), values, graph


def _attention(context: Context, parameters: AttentionParameters) -> None:
    dataset = context.inputs[0]
    assert isinstance(dataset, Dataset)
    table, features, graph = _read_graph(dataset)

    def on_progress(epoch: int, epochs: int, loss: float) -> None:
        context.progress(epoch, epochs, "epochs", f"loss {loss:.3f}")

    result = select.attention_scores(
        features,
        select.encode_labels(table["label"], name=dataset.meta["label"]),
        graph,
        **parameters.model_dump(),
        seed=context.seed,
        threads=context.threads,
        on_progress=on_progress,
    )
    context.write(table.append_column("score", pa.array(result.scores)))
    accuracy = result.held_out_accuracy
    context.note(
        f"best epoch {result.best_epoch + 1} of {len(result.losses)}"
        + ("" if accuracy is None else f"; accuracy on held-out rows {accuracy:.3f}")
    )
    if result.degree_correlation is not None:
        context.note(
            f"correlation of score and plain degree, the null model: "
            f"{result.degree_correlation:.3f}"
        )
    for note in result.notes:
        context.note(note)
    context.meta.update(
        label=dataset.meta["label"],
        recipe={**dataset.meta["recipe"], **parameters.model_dump()},
        losses=list(result.losses),
        held_out_losses=list(result.held_out_losses),
    )


def _can_keep(parameters: KeepParameters, source: Source) -> None:
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


def _keep(context: Context, parameters: KeepParameters) -> None:
    dataset, source = context.inputs[0], context.source
    assert isinstance(dataset, Dataset)
    assert source is not None
    scores = dataset.table()
    labels = select.encode_labels(scores["label"], name=dataset.meta["label"])
    fraction = 0.04 if parameters.fraction is None else parameters.fraction
    values = scores["score"].to_numpy()
    kept = select.keep_rows(
        values, labels, fraction=fraction, count=parameters.count, power=parameters.power
    )
    positions = scores["row"].to_numpy()[kept]
    done = 0
    for batch in source.take(positions):
        part = slice(done, done + batch.num_rows)
        done += batch.num_rows
        context.write(
            pa.Table.from_batches([batch])
            .append_column(parameters.row_column, pa.array(positions[part]))
            .append_column(parameters.score_column, pa.array(values[kept[part]]))
        )
        context.progress(done, len(kept), "rows")
    summary = select.keep_summary(values, labels, kept)
    context.table("Rows kept per class", summary.columns, summary.rows())
    asked = select.kept_count(len(values), fraction=fraction, count=parameters.count)
    context.note(f"kept {len(kept)} of {len(values)} rows ({len(kept) / len(values):.2%})")
    if len(kept) != asked:
        context.note(
            f"{asked} rows were asked for; each of the {len(labels.classes)} classes keeps at "
            f"least one row"
        )
    # An evaluation selects the same share of fewer rows.
    share = asked / len(values) if parameters.count is not None else fraction
    recipe = {"fraction": share, "power": parameters.power}
    context.meta.update(label=dataset.meta["label"], recipe={**dataset.meta["recipe"], **recipe})


def _evaluate(context: Context, parameters: EvaluateParameters) -> None:
    source, kept = context.inputs
    assert isinstance(source, Source)
    assert isinstance(kept, Dataset)
    assert source.label is not None
    table = source.table()
    context.progress(0, parameters.seeds, "splits")
    with _located(source):
        records = select.evaluate_selection(
            table.drop_columns([source.label]),
            table[source.label],
            recipe=kept.meta["recipe"],
            seeds=range(context.seed, context.seed + parameters.seeds),
            test_fraction=parameters.test_fraction,
            classifiers=parameters.classifiers,
            max_train_rows=parameters.max_train_rows,
            # Splits run side by side, so each gets its share of the threads.
            threads=max(1, context.threads // parameters.seeds),
            # Times differ from run to run; outputs do not.
            record_times=False,
            on_progress=lambda done, total: context.progress(done, total, "splits"),
            map=context.map,
        )
    context.write(records.to_arrow())
    share = f"{100 * kept.manifest['rows'] / table.num_rows:.3g} %"
    names = {"all": "all rows", "random": f"random {share}", "selected": f"selected {share}"}
    _publish_accuracy(context, records, parameters, names)


def _publish_accuracy(
    context: Context, records: Any, parameters: EvaluateParameters, names: dict[str, str]
) -> None:
    """The tables and the chart: accuracy by training set, and selected against random."""
    summary = select.summarise(records)
    groups = [*parameters.classifiers, "mean of all"]
    found = {(row["training_set"], row["classifier"]): row for row in summary.accuracy.to_dicts()}
    rows, series = [], []
    for key, name in names.items():
        cells = [found[key, group] for group in groups]
        texts = [_spread(cell["accuracy"], cell["accuracy_sd"]) for cell in cells]
        rows.append([name, round(cells[0]["rows"]), *texts])
        series.append(
            {
                "name": name,
                "mean": [cell["accuracy"] for cell in cells],
                "sd": [cell["accuracy_sd"] or 0.0 for cell in cells],
            }
        )
    title = f"Accuracy on held-out rows, mean ± sd over {_splits(parameters.seeds)}"
    context.table(title, ["trained on", "rows", *groups], rows)
    context.chart("Accuracy", ylabel="accuracy on held-out rows", groups=groups, series=series)
    differences = summary.differences.to_dicts()
    context.table(
        "Selected minus random, paired by split",
        ["classifier", "difference", "standard error"],
        [[row["classifier"], row["difference"], row["standard_error"]] for row in differences],
    )
    mean = differences[-1]
    error = mean["standard_error"]
    if error is not None:
        gap = mean["difference"]
        verdict = "no clear difference from"
        if abs(gap) > 2 * error:
            verdict = "better than" if gap > 0 else "worse than"
        context.note(
            f"the selected rows are {verdict} a stratified random sample of the same size: "
            f"{gap:+.4f} ± {error:.4f} (standard error over {_splits(parameters.seeds)})"
        )
    context.note(
        "each split selects anew from its training rows alone; its test rows were seen by nothing"
    )
    for note in sorted(set(records["note"].to_list()) - {""}):
        context.note(note)


def _splits(count: int) -> str:
    return f"{count} split" if count == 1 else f"{count} splits"


def _spread(mean: float, deviation: float | None) -> str:
    return f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}"


# Estimates are what the process holds at the peak, measured on 2 threads and rounded up: the
# libraries themselves, and bytes by row.
_BASE = 200 << 20
_TORCH = 500 << 20
_FOREST_ROW = 30_000


def _estimate_graph(parameters: HashGraphParameters, rows: int, size: int) -> tuple[int, int]:
    # The table, its float64 and float32 forms and the copy sorted by bucket; edges in and out.
    return rows, _BASE + 4 * size + rows * parameters.neighbours * 24


def _estimate_attention(parameters: AttentionParameters, rows: int, size: int) -> tuple[int, int]:
    return rows, _TORCH + size + rows * parameters.heads * (parameters.hidden * 16 + 256)


def _estimate_keep(parameters: KeepParameters, rows: int, size: int) -> tuple[int, int]:
    fraction = 0.04 if parameters.fraction is None else parameters.fraction
    kept = rows if rows == 0 else select.kept_count(rows, fraction=fraction)
    count = kept if parameters.count is None else min(parameters.count, rows)
    return count, _BASE + rows * 32 + size // 16


def _estimate_evaluate(parameters: EvaluateParameters, rows: int, size: int) -> tuple[int, int]:
    # Two splits side by side, each with a forest on all its rows.
    forest = min(parameters.max_train_rows, rows) * _FOREST_ROW
    return 3 * len(
        parameters.classifiers
    ) * parameters.seeds, _TORCH + _BASE + 8 * size + 2 * forest


STEPS: tuple[Step, ...] = (
    Step(
        use="select.hash_graph",
        version=1,
        function=_hash_graph,
        parameters=HashGraphParameters,
        takes=("rows",),
        gives="graph",
        summary="Neighbour graph of the rows, by hashing with random projections.",
        estimate=_estimate_graph,
    ),
    Step(
        use="select.attention",
        version=1,
        function=_attention,
        parameters=AttentionParameters,
        takes=("graph",),
        gives="scores",
        summary="Score of each row: the attention it gives as a source in a trained GAT.",
        label=True,
        extra="train",
        modules=("torch",),
        estimate=_estimate_attention,
    ),
    Step(
        use="select.keep",
        version=1,
        function=_keep,
        parameters=KeepParameters,
        takes=("scores",),
        gives="kept",
        summary="The rows with the highest scores within class quotas; at least one of each class.",
        source=True,
        label=True,
        estimate=_estimate_keep,
        preflight=_can_keep,
    ),
    Step(
        use="select.evaluate",
        version=1,
        function=_evaluate,
        parameters=EvaluateParameters,
        takes=("rows", "kept"),
        gives="table",
        summary="Accuracy of classifiers on all, random and selected rows, over repeated splits.",
        label=True,
        extra="train",
        modules=("torch", "sklearn"),
        estimate=_estimate_evaluate,
    ),
)
