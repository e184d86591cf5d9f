"""Means over splits, and whether a method is better than a random sample by more than chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mbflow.errors import InvalidArgumentError
from mbflow.select.statistics import holm, resampled_t_test

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

__all__ = ["EvaluationSummary", "summarise"]

_TRAINING_SETS = ("all", "random", "selected")


@dataclass(frozen=True)
class EvaluationSummary:
    """Means over splits.

    Attributes:
        accuracy: A row for each training set, fraction and classifier, and for "mean of all":
            `training_set`, `fraction`, `classifier`, `splits`, `rows` (mean), `accuracy`,
            `accuracy_sd`, `balanced_accuracy`, `balanced_accuracy_sd`; sd is the standard deviation
            over splits, null for one split.
        differences: A row for each training set but "all" and "random", each fraction, classifier
            and "mean of all": `training_set`, `fraction`, `classifier`, `splits`, and of it minus
            random, paired by split, `difference` of accuracy, its `standard_error`,
            `balanced_difference`, its `balanced_standard_error`, `p` (corrected resampled t-test)
            and, for "mean of all", `p_holm` (adjusted by Holm over these rows).

    Example:
        >>> from mbflow.select import summarise
        >>> record = {"seed": 0, "training_set": "all", "classifier": "1-NN", "rows": 10}
        >>> summary = summarise([{**record, "accuracy": 0.5, "balanced_accuracy": 0.5}])
        >>> summary.accuracy["classifier"].to_list()
        ['1-NN', 'mean of all']
    """

    accuracy: pl.DataFrame
    differences: pl.DataFrame


def summarise(
    records: pl.DataFrame | Sequence[Mapping[str, Any]], *, test_fraction: float = 0.2
) -> EvaluationSummary:
    """Means and spreads over splits, and paired differences to the random sample.

    Args:
        records: What `evaluate_selection` or `evaluate_split` gave, of any number of splits.
        test_fraction: Share of the test part, which the paired test needs.

    Returns:
        The summary.

    Raises:
        InvalidArgumentError: There are no records.

    Example:
        >>> from mbflow.select import summarise
        >>> def record(seed, training_set, accuracy):
        ...     return {
        ...         "seed": seed,
        ...         "training_set": training_set,
        ...         "classifier": "1-NN",
        ...         "rows": 10,
        ...         "accuracy": accuracy,
        ...         "balanced_accuracy": accuracy,
        ...     }
        >>> summary = summarise(
        ...     [
        ...         record(0, "random", 0.5),
        ...         record(0, "selected", 0.75),
        ...         record(1, "random", 0.5),
        ...         record(1, "selected", 0.5),
        ...     ]
        ... )
        >>> summary.differences.select("classifier", "difference", "standard_error").row(0)
        ('1-NN', 0.125, 0.125)
    """
    import polars as pl

    table = records if isinstance(records, pl.DataFrame) else pl.DataFrame(list(records))
    if table.is_empty():
        raise InvalidArgumentError("there are no records to summarise")
    if "fraction" not in table.columns:
        table = table.with_columns(fraction=pl.lit(None, pl.Float64))
    group = ["training_set", "fraction"]
    measures = ["accuracy", "balanced_accuracy"]
    values = table.select("seed", *group, "classifier", "rows", *measures).with_columns(
        pl.col("rows").cast(pl.Float64)
    )
    means = values.group_by("seed", *group, maintain_order=True).agg(
        pl.lit("mean of all").alias("classifier"), pl.col("rows", *measures).mean()
    )
    values = pl.concat([values, means.select(values.columns)])
    names = table["training_set"].unique(maintain_order=True).to_list()
    order = {name: index for index, name in enumerate(dict.fromkeys((*_TRAINING_SETS, *names)))}
    accuracy = (
        values.group_by(*group, "classifier", maintain_order=True)
        .agg(
            pl.len().alias("splits").cast(pl.Int64),
            pl.col("rows").mean(),
            pl.col("accuracy").mean(),
            pl.col("accuracy").std().alias("accuracy_sd"),
            pl.col("balanced_accuracy").mean(),
            pl.col("balanced_accuracy").std().alias("balanced_accuracy_sd"),
        )
        .with_columns(pl.col("training_set").replace_strict(order).alias("order"))
        .sort("order", maintain_order=True)
        .drop("order")
    )
    paired = values.filter(~pl.col("training_set").is_in(["all", "random"])).join(
        values.filter(pl.col("training_set") == "random").drop("training_set"),
        on=["seed", "fraction", "classifier"],
        suffix="_random",
        maintain_order="left",
        nulls_equal=True,
    )
    gap = pl.col("accuracy") - pl.col("accuracy_random")
    balanced_gap = pl.col("balanced_accuracy") - pl.col("balanced_accuracy_random")
    differences = paired.group_by(*group, "classifier", maintain_order=True).agg(
        pl.len().alias("splits").cast(pl.Int64),
        gap.mean().alias("difference"),
        (gap.std() / pl.len().sqrt()).alias("standard_error"),
        balanced_gap.mean().alias("balanced_difference"),
        (balanced_gap.std() / pl.len().sqrt()).alias("balanced_standard_error"),
        gap.alias("gaps"),
    )
    tests = [
        resampled_t_test(gaps, test_fraction=test_fraction)
        for gaps in differences["gaps"].to_list()
    ]
    differences = differences.drop("gaps").with_columns(
        pl.Series("p", tests, pl.Float64), pl.Series("p_holm", _adjusted(differences, tests))
    )
    return EvaluationSummary(accuracy, differences)


def _adjusted(differences: pl.DataFrame, tests: list[float]) -> list[float]:
    """Holm's adjustment over the means of all classifiers: one question a method and fraction."""
    asked = [index for index, name in enumerate(differences["classifier"]) if name == "mean of all"]
    adjusted = [float("nan")] * len(tests)
    for index, value in zip(asked, holm([tests[index] for index in asked]), strict=True):
        adjusted[index] = float(value)
    return adjusted
