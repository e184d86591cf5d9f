"""The steps `select.graph`, `select.hash_graph` and `select.attention`.

Example:
    >>> from mbflow.steps.select_graph import GraphParameters
    >>> GraphParameters(kind="exact").neighbours
    10
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, ValidationInfo, field_validator

from mbflow import select
from mbflow.errors import DataError
from mbflow.flow.dataset import Dataset
from mbflow.flow.source import Source
from mbflow.flow.spec import Parameters
from mbflow.flow.step import Context
from mbflow.select.neighbours import KIND_OPTIONS
from mbflow.steps.strata import located

__all__ = [
    "AttentionParameters",
    "GraphParameters",
    "HashGraphParameters",
    "attention",
    "graph",
    "hash_graph",
    "read_graph",
    "read_scores",
]

_CHUNK = 65_536


class EncodingParameters(Parameters):
    """How columns become features."""

    scale: Literal["min_max", "standard", "none"] = Field(
        "min_max", description="How numeric columns are scaled."
    )
    max_categories: int = Field(
        32, ge=1, le=4096, description="Values of a text column that get a column of their own."
    )


class HashGraphParameters(EncodingParameters):
    """`with:` of `select.hash_graph`.

    Example:
        >>> from mbflow.steps.select_graph import HashGraphParameters
        >>> HashGraphParameters(neighbours=5).bucket_cap
        256
    """

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

    @field_validator("width")
    @classmethod
    def _for_p_stable(cls, width: float | None, info: ValidationInfo) -> float | None:
        if width is not None and info.data.get("family") == "sign":
            raise ValueError("`width` is for `family: p_stable` only; leave it out")
        return width


class GraphParameters(EncodingParameters):
    """`with:` of `select.graph`.

    Example:
        >>> from mbflow.steps.select_graph import GraphParameters
        >>> GraphParameters(kind="multi_view", views=4).metric
        'euclidean'
    """

    kind: Literal["single_level", "multi_level", "multi_view", "mini_batch", "exact"] = Field(
        "single_level", description="How candidates are found; `exact` compares all rows."
    )
    neighbours: int = Field(10, ge=1, le=1000, description="Neighbours of each row.")
    metric: Literal["euclidean", "manhattan", "cosine"] = Field(
        "euclidean", description="What near means."
    )
    batch_rows: int | None = Field(
        None, ge=2, le=16_384, description="Rows of a stratified batch (mini_batch)."
    )
    overlap: float | None = Field(
        None, ge=0, le=0.95, description="Share of rows that batches have in common (mini_batch)."
    )
    percentile: float | None = Field(
        None,
        gt=0,
        lt=100,
        description="Link pairs above this percentile of similarity instead (mini_batch).",
    )
    levels: int | None = Field(
        None, ge=1, le=16, description="Levels of codes, coarse to fine (multi_level)."
    )
    views: int | None = Field(
        None, ge=1, le=1000, description="Independent sets of projections (multi_view)."
    )
    view_columns: float | None = Field(
        None, gt=0, le=1, description="Share of the columns that a view sees (multi_view)."
    )
    bits: int | None = Field(
        None, ge=1, le=64, description="Projections in a row's code; default: from the rows."
    )
    family: Literal["sign", "p_stable"] | None = Field(
        None, description="Codes by the sign of projections (the default), or by quantising them."
    )
    width: float | None = Field(
        None, gt=0, description="Width of a cell of p-stable codes, in units of scaled features."
    )
    projections: Literal["gaussian", "sparse"] | None = Field(
        None, description="How projections are drawn; default: gaussian."
    )
    bucket_cap: int | None = Field(
        None, ge=2, le=2**31 - 1, description="Rows in a bucket at most; larger ones are split."
    )
    probes: int | None = Field(
        None,
        ge=0,
        le=2**31 - 1,
        description="Buckets besides its own that a row is compared with (single_level).",
    )
    refinements: int | None = Field(
        None,
        ge=0,
        le=100,
        description="How often rows move to the bucket with the nearest mean (single_level).",
    )
    descents: int = Field(
        0, ge=0, le=100, description="Rounds that look at neighbours of neighbours."
    )
    quantiles: int | None = Field(
        None, ge=2, le=10_000, description="Cut a numeric label into so many classes of equal size."
    )

    @field_validator(
        "batch_rows", "overlap", "percentile", "levels", "views", "view_columns", "bits", "family",
        "width", "projections", "bucket_cap", "probes", "refinements", "descents",
    )  # fmt: skip
    @classmethod
    def _of_the_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("kind")
        if value and kind is not None and info.field_name not in KIND_OPTIONS[kind]:
            having = [name for name, options in KIND_OPTIONS.items() if info.field_name in options]
            raise ValueError(
                f"`{info.field_name}` is for `kind: {' | '.join(having)}` only; leave it out"
            )
        return value

    @field_validator("width")
    @classmethod
    def _for_p_stable(cls, width: float | None, info: ValidationInfo) -> float | None:
        if width is not None and info.data.get("family") != "p_stable":
            raise ValueError("`width` is for `family: p_stable` only; leave it out")
        return width


class AttentionParameters(Parameters):
    """`with:` of `select.attention`.

    Example:
        >>> from mbflow.steps.select_graph import AttentionParameters
        >>> AttentionParameters(heads=2).epochs
        150
    """

    heads: int = Field(4, ge=1, le=64, description="Attention heads.")
    hidden: int = Field(8, ge=1, le=1024, description="Width of each head in the first layer.")
    epochs: int = Field(
        150,
        ge=1,
        le=100_000,
        description="Rounds of training at most: passes over the rows, or four batches where there "
        "are many.",
    )
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
    heads_by: Literal["mean", "max", "entropy"] = Field(
        "mean", description="How the heads of a layer are aggregated, edge by edge."
    )
    layers_by: Literal["last", "mean", "max", "entropy"] = Field(
        "last", description="How the layers are aggregated; `last` takes the second alone."
    )
    within_class: bool = Field(
        default=False, description="Sum only the attention given to rows of the same class."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to train; `auto` takes a GPU where torch finds one."
    )


def hash_graph(context: Context, parameters: HashGraphParameters) -> None:
    """Run `select.hash_graph`: `select.graph` with `kind: single_level`.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["select.hash_graph"].gives
        'graph'
    """
    given = parameters.model_dump(exclude={"scale", "max_categories"})
    _build(context, parameters, {"kind": "single_level", **given}, None)


def graph(context: Context, parameters: GraphParameters) -> None:
    """Run `select.graph`.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["select.graph"].gives
        'graph'
    """
    given = parameters.model_dump(
        exclude={"scale", "max_categories", "quantiles"}, exclude_none=True
    )
    _build(context, parameters, given, parameters.quantiles)


def encoded(
    source: Source, parameters: EncodingParameters, quantiles: int | None
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], pa.ChunkedArray | None, select.FeatureEncoder]:
    """The features of all rows of a source, its labels and the encoder."""
    table = source.table()
    if table.num_rows == 0:
        raise DataError(
            f"source `{source.name}`: no row{' passes `where`' if source.where else 's'}"
        )
    try:
        # A wrong label is found now, not after the graph was built.
        labels = None if source.label is None else table[source.label]
        if labels is not None:
            select.encode_labels(labels, name=source.label or "label", quantiles=quantiles)
            table = table.drop_columns([source.label])
        encoder = select.FeatureEncoder(
            scale=parameters.scale, max_categories=parameters.max_categories
        )
        return encoder.fit_transform(table), labels, encoder
    except DataError as error:
        raise located(source, error, 0) from None


def _build(
    context: Context,
    parameters: EncodingParameters,
    given: dict[str, Any],
    quantiles: int | None,
) -> None:
    source = context.inputs[0]
    assert isinstance(source, Source)
    context.progress(0, None, "", "reading")
    features, labels, encoder = encoded(source, parameters, quantiles)
    context.progress(0, None, "", f"linking {len(features)} rows x {features.shape[1]} features")
    found = select.neighbour_graph(
        features,
        labels=(
            select.encode_labels(labels, quantiles=quantiles)
            if given["kind"] == "mini_batch" and labels is not None
            else None
        ),
        **given,
        seed=context.seed,
    )
    context.progress(0, None, "", "writing")
    positions = source.positions()
    for start in range(0, len(features), _CHUNK):
        stop = min(len(features), start + _CHUNK)
        offsets = found.offsets[start : stop + 1]
        edges = slice(offsets[0], offsets[-1])
        lists = pa.array((offsets - offsets[0]).astype(np.int32))
        columns: dict[str, Any] = {
            "row": pa.array(positions[start:stop]),
            "features": pa.FixedSizeListArray.from_arrays(
                pa.array(features[start:stop].reshape(-1)), features.shape[1]
            ),
            "neighbours": pa.ListArray.from_arrays(lists, pa.array(found.neighbours[edges])),
            "distances": pa.ListArray.from_arrays(lists, pa.array(found.distances[edges])),
        }
        if found.weights is not None:
            columns["weights"] = pa.ListArray.from_arrays(lists, pa.array(found.weights[edges]))
        if labels is not None:
            columns["label"] = labels.slice(start, stop - start).combine_chunks()
        context.write(pa.table(columns))
    # The comparison is quadratic; a hundred rows tell the share to a few per cent.
    sample = min(len(features), max(100, min(1000, 20_000_000 // len(features))))
    recall = select.exact_recall(found, features, sample=sample, seed=context.seed)
    context.note(
        f"{found.rows} rows x {features.shape[1]} features, {found.edges} edges; "
        f"{recall:.1%} of the exact nearest neighbours found (looked at {sample} rows)"
    )
    context.table(
        "Columns and what was done with them",
        ["column", "kind", "treatment", "detail"],
        [[note.column, note.kind, note.treatment, note.detail] for note in encoder.notes],
    )
    recipe = {key: value for key, value in given.items() if key != "kind"}
    context.meta.update(
        label=source.label,
        features=features.shape[1],
        recall=recall,
        stats={key: _plain(value) for key, value in found.stats.items()},
        metric=found.metric,
        recipe={
            "graph": given["kind"],
            **recipe,
            "scale": parameters.scale,
            "max_categories": parameters.max_categories,
            **({} if quantiles is None else {"quantiles": quantiles}),
        },
    )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def read_graph(dataset: Dataset) -> tuple[pa.Table, Any, select.Graph]:
    """The graph data set as a table without the big columns, the features and the graph.

    Args:
        dataset: What `select.graph` wrote.

    Returns:
        `row` and, with a label, `label` of each row; float32 of shape (rows, features); the graph.

    Example:
        >>> from mbflow.steps.select_graph import read_graph
        >>> table, features, graph = read_graph(result.outputs["graph"])  # doctest: +SKIP
    """
    table = dataset.table()
    features = table["features"].combine_chunks()
    width = features.type.list_size
    # Arrow's memory is read-only, which torch does not take.
    values = features.flatten().to_numpy(zero_copy_only=False).reshape(-1, width).copy()
    lists = table["neighbours"].combine_chunks()
    distances = table["distances"].combine_chunks()
    weights = None
    if "weights" in table.column_names:
        weights = table["weights"].combine_chunks().values.to_numpy().copy()
    found = select.Graph(
        lists.offsets.to_numpy().astype(np.int64),
        lists.values.to_numpy().copy(),
        distances.values.to_numpy().copy(),
        dataset.meta["stats"],
        weights,
        dataset.meta["metric"],
    )
    big = {"features", "neighbours", "distances", "weights"}
    return table.drop_columns(sorted(big & set(table.column_names))), values, found


def read_scores(table: pa.Table) -> select.Attention:
    """The scores data set as `attention_scores` gives it; a plug-in may have written less of it.

    Args:
        table: Its rows; columns that are not there come back as zeros.

    Example:
        >>> import pyarrow as pa
        >>> from mbflow.steps.select_graph import read_scores
        >>> read_scores(pa.table({"score": [0.5, 0.25]})).scores
        array([0.5 , 0.25], dtype=float32)
    """
    rows = table.num_rows

    def column(name: str, kind: type[np.generic]) -> np.ndarray[Any, Any]:
        if name in table.column_names:
            values: np.ndarray[Any, Any] = table[name].to_numpy().astype(kind)
            return values
        return np.zeros(rows, kind)

    return select.Attention(
        scores=column("score", np.float32),
        degrees=column("degree", np.int64),
        degree_correlation=None,
        own_class_share=column("own_class_share", np.float32),
        confidence=column("confidence", np.float32),
        disagreement=column("disagreement", np.float32),
        predicted=column("predicted", np.int32),
        losses=(),
        held_out_losses=(),
        best_epoch=0,
        held_out_accuracy=None,
        notes=(),
    )


def attention(context: Context, parameters: AttentionParameters) -> None:
    """Run `select.attention`.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["select.attention"].takes
        ('graph',)
    """
    dataset = context.inputs[0]
    assert isinstance(dataset, Dataset)
    table, features, found = read_graph(dataset)

    def on_progress(epoch: int, epochs: int, loss: float) -> None:
        context.progress(epoch, epochs, "epochs", f"loss {loss:.3f}")

    result = select.attention_scores(
        features,
        select.encode_labels(
            table["label"],
            name=dataset.meta["label"],
            quantiles=dataset.meta["recipe"].get("quantiles"),
        ),
        found,
        **parameters.model_dump(),
        seed=context.seed,
        threads=context.threads,
        on_progress=on_progress,
    )
    for name, column in (
        ("score", result.scores),
        ("degree", result.degrees),
        ("own_class_share", result.own_class_share),
        ("confidence", result.confidence),
        ("disagreement", result.disagreement),
        ("predicted", result.predicted),
    ):
        table = table.append_column(name, pa.array(column))
    context.write(table)
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
