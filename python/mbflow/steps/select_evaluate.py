"""The step `select.evaluate`.

Example:
    >>> from mbflow.steps.select_evaluate import EvaluateParameters
    >>> EvaluateParameters().seeds
    5
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from mbflow import _native, select
from mbflow.errors import DataError
from mbflow.flow.dataset import Dataset
from mbflow.flow.source import Source
from mbflow.flow.spec import Parameters
from mbflow.flow.step import Context
from mbflow.select.choose import Method
from mbflow.steps.strata import located

if TYPE_CHECKING:
    import polars as pl

__all__ = ["EvaluateParameters", "evaluate"]


_STREAM_SAMPLE = 0x5E1_00033
# Below this, a difference is said to be more than chance.
_CLEAR = 0.05
_PEERS = Literal[
    "EditedNearestNeighbours",
    "CondensedNearestNeighbour",
    "OneSidedSelection",
    "NearMiss",
    "InstanceHardnessThreshold",
    "ClusterCentroids",
]


class EvaluateParameters(Parameters):
    """`with:` of `select.evaluate`.

    Example:
        >>> from mbflow.steps.select_evaluate import EvaluateParameters
        >>> EvaluateParameters(reductions=[0.9, 0.96]).classifiers[0]
        '1-NN'
    """

    seeds: int = Field(5, ge=1, le=1000, description="Repeated splits, each with its own seed.")
    classifiers: list[
        Literal["1-NN", "logistic regression", "random forest", "gradient boosting"]
    ] = Field(
        default=["1-NN", "logistic regression", "random forest"],
        min_length=1,
        description="What is trained on the rows.",
    )
    compare: list[Method | _PEERS] = Field(
        default=[],
        description="Other methods of `select.keep`, and samplers of imbalanced-learn, to measure "
        "as well.",
    )
    reductions: list[float] | None = Field(
        None,
        min_length=1,
        description="Shares of the rows to leave out, such as [0.9, 0.96, 0.98]; default: what "
        "`select.keep` leaves out.",
    )
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of the rows held out for testing in each split."
    )
    max_rows: int = Field(
        200_000,
        ge=10,
        description="Of larger sources, a random sample of so many rows is measured on.",
    )
    max_train_rows: int = Field(
        50_000, ge=10, description="The `all rows` classifiers see at most so many rows."
    )
    peer_seconds: float = Field(
        60.0, gt=0, description="A sampler of imbalanced-learn is stopped after so many seconds."
    )

    @field_validator("reductions")
    @classmethod
    def _shares(cls, reductions: list[float] | None) -> list[float] | None:
        for share in reductions or ():
            if not 0.0 <= share < 1.0:
                raise ValueError(f"expected shares of at least 0 and below 1, found {share}")
        return reductions


def evaluate(context: Context, parameters: EvaluateParameters) -> None:
    """Run `select.evaluate`.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["select.evaluate"].takes
        ('rows', 'kept')
    """
    source, kept = context.inputs
    assert isinstance(source, Source)
    assert isinstance(kept, Dataset)
    assert source.label is not None
    total = source.rows()
    table, sampled = _rows(context, source, total, parameters.max_rows)
    labels = table[source.label]
    recipe = kept.meta["recipe"]
    fractions = None
    if parameters.reductions is None:
        # The share that was kept, also where the rows of each class were given.
        fractions = [recipe["fraction"]]
    else:
        fractions = [round(1.0 - share, 12) for share in parameters.reductions]
    context.progress(0, parameters.seeds, "splits")
    try:
        records = select.evaluate_selection(
            table.drop_columns([source.label]),
            labels,
            recipe=recipe,
            seeds=range(context.seed, context.seed + parameters.seeds),
            test_fraction=parameters.test_fraction,
            classifiers=parameters.classifiers,
            compare=parameters.compare,
            fractions=fractions,
            peer_seconds=parameters.peer_seconds,
            max_train_rows=parameters.max_train_rows,
            # Splits run side by side, so each gets its share of the threads.
            threads=max(1, context.threads // parameters.seeds),
            # Times differ from run to run; outputs do not.
            record_times=False,
            on_progress=lambda done, total: context.progress(done, total, "splits"),
            map=context.map,
        )
    except DataError as error:
        if sampled:
            raise
        raise located(source, error, 0) from None
    context.write(records.to_arrow())
    share = kept.manifest["rows"] / total
    _publish(context, records, parameters, share)
    if sampled:
        context.note(f"measured on a random {table.num_rows} of {total} rows")


def _rows(context: Context, source: Source, total: int, most: int) -> tuple[pa.Table, bool]:
    """All rows of a source, or a sample of so many; and whether it is one."""
    if total <= most:
        return source.table(), False
    drawn = _native.random_integers(context.seed, _STREAM_SAMPLE, total, 0, 2 * most)
    chosen = np.unique(drawn.astype(np.int64))
    keep = _native.permutation(context.seed, _STREAM_SAMPLE, len(chosen))[:most]
    wanted = np.sort(chosen[keep])
    parts: list[pa.RecordBatch] = []
    done = 0
    for batch in source.batches():
        low, high = np.searchsorted(wanted, [done, done + batch.num_rows])
        if high > low:
            parts.append(batch.take(pa.array(wanted[low:high] - done)))
        done += batch.num_rows
        context.progress(done, total, "rows", "reading a sample")
    return pa.Table.from_batches(parts), True


def _publish(
    context: Context, records: pl.DataFrame, parameters: EvaluateParameters, share: float
) -> None:
    """The tables and the charts: accuracy by training set, and against random."""
    summary = select.summarise(records, test_fraction=parameters.test_fraction)
    groups = [*parameters.classifiers, "mean of all"]
    found = {
        (row["training_set"], row["fraction"], row["classifier"]): row
        for row in summary.accuracy.to_dicts()
    }
    keys = list(dict.fromkeys((name, fraction) for name, fraction, _ in found))
    several = len({fraction for name, fraction in keys if name != "all"}) > 1
    rows, series = [], []
    for name, fraction in keys:
        cells = [found[name, fraction, group] for group in groups]
        text = "all rows" if name == "all" else f"{name} {_percent(fraction if several else share)}"
        texts = [_spread(cell["accuracy"], cell["accuracy_sd"]) for cell in cells]
        rows.append([text, round(cells[0]["rows"]), *texts])
        series.append(
            {
                "name": text,
                "mean": [cell["accuracy"] for cell in cells],
                "sd": [cell["accuracy_sd"] or 0.0 for cell in cells],
            }
        )
    title = f"Accuracy on held-out rows, mean ± sd over {_splits(parameters.seeds)}"
    context.table(title, ["trained on", "rows", *groups], rows)
    if several:
        _slopes(context, found, keys)
    else:
        context.chart("Accuracy", ylabel="accuracy on held-out rows", groups=groups, series=series)
    differences = summary.differences.to_dicts()
    context.table(
        "Minus a stratified random sample of the same size, paired by split",
        ["trained on", "kept", "classifier", "difference", "standard error", "p", "p (Holm)"],
        [
            [
                row["training_set"],
                _percent(row["fraction"] if several else share),
                row["classifier"],
                row["difference"],
                row["standard_error"],
                _number(row["p"]),
                _number(row["p_holm"]),
            ]
            for row in differences
        ],
    )
    for row in differences:
        if row["training_set"] == "selected" and row["classifier"] == "mean of all":
            _verdict(context, row, parameters.seeds, several)
    context.note(
        "each split selects anew from its training rows alone; its test rows were seen by nothing"
    )
    for note in sorted(set(records["note"].to_list()) - {""}):
        context.note(note)


def _slopes(
    context: Context,
    found: dict[tuple[str, float, str], dict[str, Any]],
    keys: list[tuple[str, float]],
) -> None:
    """One line a training set over what is left out."""
    fractions = sorted({fraction for name, fraction in keys if name != "all"}, reverse=True)
    series = []
    for name in dict.fromkeys(name for name, _ in keys):
        cells = [
            found.get((name, 1.0 if name == "all" else fraction, "mean of all"), {})
            for fraction in fractions
        ]
        series.append(
            {
                "name": "all rows" if name == "all" else name,
                "mean": [cell.get("accuracy") for cell in cells],
                "sd": [cell.get("accuracy_sd") for cell in cells],
            }
        )
    context.lines(
        "Accuracy by reduction, mean of all classifiers",
        ylabel="accuracy on held-out rows",
        groups=[f"{_percent(1 - fraction)} left out" for fraction in fractions],
        series=series,
    )


def _verdict(context: Context, row: dict[str, Any], seeds: int, several: bool) -> None:  # noqa: FBT001
    error, p = row["standard_error"], row["p_holm"]
    if error is None:
        return
    gap = row["difference"]
    verdict = "not clearly different from"
    if p is not None and p < _CLEAR:
        verdict = "better than" if gap > 0 else "worse than"
    tested = "all splits differ alike" if p is None or math.isnan(p) else f"p {p:.2g} by Holm"
    at = f" at {_percent(row['fraction'])}" if several else ""
    context.note(
        f"the selected rows are {verdict} a stratified random sample of the same size{at}: "
        f"{gap:+.4f} ± {error:.4f} (standard error over {_splits(seeds)}; {tested})"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _splits(count: int) -> str:
    return f"{count} split" if count == 1 else f"{count} splits"


def _spread(mean: float, deviation: float | None) -> str:
    return f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}"
