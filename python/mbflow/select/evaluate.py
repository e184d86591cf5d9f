"""How good are the kept rows to train on? Measured on rows that no part of the choice has seen."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow import _native
from mbflow.errors import InvalidArgumentError, require
from mbflow.select.features import FeatureEncoder
from mbflow.select.instances import select_instances, split_label
from mbflow.select.labels import Labels
from mbflow.select.strata import stratified_random, stratified_split
from mbflow.training import single_threaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import polars as pl
    from numpy.typing import NDArray

__all__ = [
    "CLASSIFIERS",
    "EvaluationSummary",
    "evaluate_selection",
    "evaluate_split",
    "summarise",
]

CLASSIFIERS = ("1-NN", "logistic regression", "random forest")
_TRAINING_SETS = ("all", "random", "selected")
_ENCODER_SETTINGS = ("scale", "max_categories", "columns")


def evaluate_selection(
    table: Any,
    labels: Any,
    *,
    recipe: Mapping[str, Any] | None = None,
    seeds: int | Sequence[int] = 5,
    test_fraction: float = 0.2,
    classifiers: Sequence[str] = CLASSIFIERS,
    max_train_rows: int | None = 50_000,
    threads: int | None = None,
    record_times: bool = True,
    on_progress: Callable[[int, int], object] | None = None,
    map: Callable[..., Iterable[list[dict[str, Any]]]] = map,  # noqa: A002 - it takes the place of the built-in
) -> pl.DataFrame:
    """Compare training on all rows, on a random sample and on the selected rows.

    For each seed the rows are split in two, by class. The encoder is fitted on the training part
    and the selection is run again on the training part alone, with the same recipe, so that the
    test part is untouched. Then classifiers are trained on all training rows, on a stratified
    random sample as large as the selection, and on the selection, and are scored on the test part.

    Args:
        table: NumPy 2-D, polars, pandas or pyarrow table.
        labels: A column of class labels, or the name of the label column in `table`.
        recipe: Keyword settings of `select_instances`, without `seed`, `threads`, `on_progress`.
        seeds: How many splits, numbered from 0, or the seeds themselves.
        test_fraction: Share of each class in the test part. A class of one row stays in training.
        classifiers: Names out of "1-NN", "logistic regression" and "random forest".
        max_train_rows: Where there are more training rows, "all" is a stratified random sample
            of this many, and the record's `note` says so; None for no limit.
        threads: Threads to use; the results do not depend on it, except for times.
        record_times: Include `fit_seconds` and `selection_seconds`, which differ from run to run.
        on_progress: Called after each split with (splits done, splits).
        map: Applies a function to the seeds, in order; an engine's map runs splits side by side.

    Returns:
        A row for each seed, training set and classifier: `seed`, `training_set` ("all", "random",
        "selected"), `classifier`, `rows`, `test_rows`, `accuracy`, `balanced_accuracy` (mean recall
        of the classes in the test part), `note`, and the times.

    Raises:
        InvalidArgumentError: An argument is out of range.
        DataError: The data cannot be used.
        MissingExtraError: torch or scikit-learn is not installed.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import evaluate_selection
        >>> features = np.arange(60.0).reshape(-1, 1)
        >>> records = evaluate_selection(
        ...     features,
        ...     [0] * 30 + [1] * 30,
        ...     recipe={"fraction": 0.2, "epochs": 5},
        ...     seeds=2,
        ...     classifiers=["1-NN"],
        ... )
        >>> records.shape[0], records["rows"].to_list()[:3]
        (6, [48, 10, 10])
    """
    import polars as pl

    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen:
        raise InvalidArgumentError(f"seeds is {seeds!r}; expected at least one")
    features, encoded = split_label(table, labels)
    settings = _checked(recipe or {}, classifiers, max_train_rows)
    # Encoded once as a whole, so that an error names the row of this table, not of a split of it.
    _encoder(settings).fit_transform(features)
    split = partial(
        evaluate_split,
        features,
        encoded,
        recipe=settings,
        test_fraction=test_fraction,
        classifiers=tuple(classifiers),
        max_train_rows=max_train_rows,
        threads=threads,
        record_times=record_times,
    )
    records: list[dict[str, Any]] = []
    for done, part in enumerate(map(split, chosen), start=1):
        records += part
        if on_progress is not None:
            on_progress(done, len(chosen))
    return pl.DataFrame(records)


def evaluate_split(
    table: Any,
    labels: Any,
    seed: int,
    *,
    recipe: Mapping[str, Any] | None = None,
    test_fraction: float = 0.2,
    classifiers: Sequence[str] = CLASSIFIERS,
    max_train_rows: int | None = 50_000,
    threads: int | None = None,
    record_times: bool = True,
) -> list[dict[str, Any]]:
    """One split of `evaluate_selection`, as a function of plain data for an engine to send around.

    Args:
        table: See `evaluate_selection`, as for all others.
        labels: Class labels or the name of their column.
        seed: Key of the split, of the random sample, of the selection and of the forest.
        recipe: Keyword settings of `select_instances`.
        test_fraction: Share of the test part.
        classifiers: Names of classifiers.
        max_train_rows: The most rows of "all".
        threads: Threads to use.
        record_times: Include times.

    Returns:
        Plain records, one for each training set and classifier.

    Raises:
        InvalidArgumentError: An argument is out of range.
        DataError: The data cannot be used.
        MissingExtraError: torch or scikit-learn is not installed.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import evaluate_split
        >>> features, labels = np.arange(60.0).reshape(-1, 1), [0] * 30 + [1] * 30
        >>> recipe = {"fraction": 0.2, "epochs": 5}
        >>> records = evaluate_split(features, labels, 0, recipe=recipe, classifiers=["1-NN"])
        >>> [record["training_set"] for record in records]
        ['all', 'random', 'selected']
    """
    settings = _checked(recipe or {}, classifiers, max_train_rows)
    require("sklearn", extra="train", purpose="the evaluation of a selection")
    workers = _native.num_threads() if threads is None else threads
    frame, encoded = split_label(table, labels)
    train, test = stratified_split(encoded, test_fraction=test_fraction, seed=seed)
    if len(test) == 0:
        raise InvalidArgumentError(
            f"test_fraction {test_fraction} of {frame.height} rows leaves no row to test on; use a "
            "larger one"
        )
    # Every class keeps a row in the training part, so the codes mean the same there.
    train_labels = Labels(encoded.codes[train], encoded.classes)
    train_frame = frame[train]
    encoder = _encoder(settings)
    features = encoder.fit_transform(train_frame)
    test_features = encoder.transform(frame[test])

    started = time.perf_counter()
    selected = select_instances(
        train_frame, train_labels, **settings, seed=seed, threads=threads
    ).indices
    selection_seconds = time.perf_counter() - started
    everything, note = np.arange(len(train)), ""
    if max_train_rows is not None and len(train) > max_train_rows:
        count = max(max_train_rows, len(encoded.classes))
        everything = stratified_random(train_labels, count=count, seed=seed + 1)
        note = f"a stratified random {len(everything)} of {len(train)} rows stand for all"
    rows_of = {
        "all": everything,
        "random": stratified_random(train_labels, count=len(selected), seed=seed),
        "selected": selected,
    }
    records: list[dict[str, Any]] = []
    for training_set in _TRAINING_SETS:
        rows = rows_of[training_set]
        for name in classifiers:
            started = time.perf_counter()
            predicted = _predicted(
                name, features[rows], train_labels.codes[rows], test_features, seed, workers
            )
            seconds = time.perf_counter() - started
            record: dict[str, Any] = {
                "seed": seed,
                "training_set": training_set,
                "classifier": name,
                "rows": len(rows),
                "test_rows": len(test),
                "accuracy": float((predicted == encoded.codes[test]).mean()),
                "balanced_accuracy": _balanced_accuracy(encoded.codes[test], predicted),
                "note": note if training_set == "all" else "",
            }
            if record_times:
                record["fit_seconds"] = seconds
                record["selection_seconds"] = (
                    selection_seconds if training_set == "selected" else 0.0
                )
            records.append(record)
    return records


def _checked(
    recipe: Mapping[str, Any], classifiers: Sequence[str], max_train_rows: int | None
) -> dict[str, Any]:
    for name in ("seed", "threads", "on_progress"):
        if name in recipe:
            raise InvalidArgumentError(
                f"the recipe sets {name!r}, which the evaluation sets for each split; leave it out"
            )
    if isinstance(classifiers, str) or not classifiers:
        raise InvalidArgumentError(f"classifiers is {classifiers!r}; expected a list of names")
    for name in classifiers:
        if name not in CLASSIFIERS:
            raise InvalidArgumentError(
                f"there is no classifier {name!r}; expected one of "
                f"{', '.join(map(repr, CLASSIFIERS))}"
            )
    if max_train_rows is not None and max_train_rows < 1:
        raise InvalidArgumentError(
            f"max_train_rows is {max_train_rows}; expected at least 1 or None"
        )
    return dict(recipe)


def _encoder(settings: Mapping[str, Any]) -> FeatureEncoder:
    return FeatureEncoder(
        **{name: settings[name] for name in _ENCODER_SETTINGS if name in settings}
    )


def _predicted(
    name: str,
    features: NDArray[np.float32],
    codes: NDArray[np.int64],
    test_features: NDArray[np.float32],
    seed: int,
    threads: int,
) -> NDArray[np.int64]:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    # Imported above, so that their thread pools are there to be held.
    with single_threaded(), warnings.catch_warnings():
        # A fit on few rows may not converge in full, which is part of what is measured.
        warnings.simplefilter("ignore")
        if name == "1-NN":
            model: Any = KNeighborsClassifier(n_neighbors=1, algorithm="brute")
        elif name == "logistic regression":
            model = LogisticRegression(max_iter=1000)
        else:
            # scikit-learn takes forest seeds below 2^32; trees are the same for any n_jobs.
            model = RandomForestClassifier(random_state=seed % 2**32, n_jobs=threads)
        model.fit(features, codes)
        if name == "random forest":
            # Votes are added up in the order threads finish; one thread has one order.
            model.set_params(n_jobs=1)
        return np.asarray(model.predict(test_features), dtype=np.int64)


def _balanced_accuracy(codes: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    present = np.unique(codes)
    return float(np.mean([(predicted[codes == code] == code).mean() for code in present]))


@dataclass(frozen=True)
class EvaluationSummary:
    """Means over splits.

    Attributes:
        accuracy: A row for each training set and classifier, and for "mean of all": `training_set`,
            `classifier`, `splits`, `rows` (mean), `accuracy`, `accuracy_sd`, `balanced_accuracy`,
            `balanced_accuracy_sd`; sd is the standard deviation over splits, null for one split.
        differences: A row for each classifier and "mean of all": `classifier`, `splits`, and of
            selected minus random, paired by split, `difference` of accuracy, its `standard_error`,
            `balanced_difference` and its `balanced_standard_error`.

    Example:
        >>> from mbflow.select.evaluate import summarise
        >>> record = {"seed": 0, "training_set": "all", "classifier": "1-NN", "rows": 10}
        >>> summary = summarise([{**record, "accuracy": 0.5, "balanced_accuracy": 0.5}])
        >>> summary.accuracy["classifier"].to_list()
        ['1-NN', 'mean of all']
    """

    accuracy: pl.DataFrame
    differences: pl.DataFrame


def summarise(records: pl.DataFrame | Sequence[Mapping[str, Any]]) -> EvaluationSummary:
    """Means and spreads over splits, and the paired difference of selected and random.

    Args:
        records: What `evaluate_selection` or `evaluate_split` gave, of any number of splits.

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
    values = table.select(
        "seed", "training_set", "classifier", "rows", "accuracy", "balanced_accuracy"
    ).with_columns(pl.col("rows").cast(pl.Float64))
    means = values.group_by("seed", "training_set", maintain_order=True).agg(
        pl.lit("mean of all").alias("classifier"),
        pl.col("rows", "accuracy", "balanced_accuracy").mean(),
    )
    values = pl.concat([values, means.select(values.columns)])
    accuracy = (
        values.group_by("training_set", "classifier", maintain_order=True)
        .agg(
            pl.len().alias("splits").cast(pl.Int64),
            pl.col("rows").mean(),
            pl.col("accuracy").mean(),
            pl.col("accuracy").std().alias("accuracy_sd"),
            pl.col("balanced_accuracy").mean(),
            pl.col("balanced_accuracy").std().alias("balanced_accuracy_sd"),
        )
        .with_columns(pl.col("training_set").replace_strict(_order(), default=9).alias("order"))
        .sort("order", maintain_order=True)
        .drop("order")
    )
    paired = values.filter(pl.col("training_set") == "selected").join(
        values.filter(pl.col("training_set") == "random"),
        on=["seed", "classifier"],
        suffix="_random",
        maintain_order="left",
    )
    gap = pl.col("accuracy") - pl.col("accuracy_random")
    balanced_gap = pl.col("balanced_accuracy") - pl.col("balanced_accuracy_random")
    differences = paired.group_by("classifier", maintain_order=True).agg(
        pl.len().alias("splits").cast(pl.Int64),
        gap.mean().alias("difference"),
        (gap.std() / pl.len().sqrt()).alias("standard_error"),
        balanced_gap.mean().alias("balanced_difference"),
        (balanced_gap.std() / pl.len().sqrt()).alias("balanced_standard_error"),
    )
    return EvaluationSummary(accuracy, differences)


def _order() -> dict[str, int]:
    return {name: index for index, name in enumerate(_TRAINING_SETS)}
