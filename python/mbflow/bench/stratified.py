"""Stratified batches beside torch's samplers and scikit-learn's folds: time, and what they hold."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow import _native
from mbflow.bench.harness import Case, measure, require_release
from mbflow.errors import InvalidArgumentError
from mbflow.stratified import StratifiedBatches

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["COLUMNS", "class_labels", "run"]

COLUMNS = (
    "rows",
    "classes",
    "batch_size",
    "method",
    "seconds",
    "rows_per_second",
    "rows_off_mixture",
    "rows_missed",
    "rows_repeated",
    "note",
)
_STREAM_LABELS = 0x5E3_00001
# Folds cost the rows times the batches.
_FOLD_ROWS = 200_000


def class_labels(rows: int, classes: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Labels in random order whose classes halve in size, down to the last two of equal size.

    Args:
        rows: Number of labels.
        classes: Number of classes, at most 40.
        seed: Key of the order.

    Returns:
        int64 of shape (rows,).

    Raises:
        InvalidArgumentError: There are too few rows for so many classes.

    Example:
        >>> import numpy as np
        >>> from mbflow.bench.stratified import class_labels
        >>> np.bincount(class_labels(8, 3))
        array([4, 2, 2])
    """
    if not 1 <= classes <= 40 or rows < 2 ** (classes - 1):
        raise InvalidArgumentError(
            f"{rows} rows in {classes} classes; expected 1 to 40 classes and 2^(classes - 1) rows"
        )
    ends = [rows - (rows >> (at + 1)) for at in range(classes - 1)]
    labels = np.searchsorted(np.array(ends, np.int64), np.arange(rows), side="right")
    order: NDArray[np.int64] = labels[_native.permutation(seed, _STREAM_LABELS, rows)]
    return order


def run(
    *,
    rows: int = 200_000,
    classes: int = 10,
    batch_size: int = 256,
    repeats: int = 3,
    seed: int = 0,
    on_progress: Callable[[str], object] | None = None,
) -> list[dict[str, Any]]:
    """Measure the way from labels in memory to all batches of one epoch, as arrays of row numbers.

    Args:
        rows: Number of labels.
        classes: Number of classes, whose sizes halve.
        batch_size: Rows of a batch.
        repeats: Turns; times are medians.
        seed: Key of labels and orders.
        on_progress: Called before each run with a line of text.

    Returns:
        Records with the keys `COLUMNS`: `rows_off_mixture` is the largest distance of a batch from
        the mixture that the method is after, in rows of a class; `rows_missed` and `rows_repeated`
        say how the epoch differs from holding every row once.

    Raises:
        ResourceError: The native extension is a debug build.
        InvalidArgumentError: There are too few rows for so many classes.

    Example:
        >>> from mbflow.bench.stratified import COLUMNS
        >>> COLUMNS[3]
        'method'
    """
    require_release()
    labels = class_labels(rows, classes, seed=seed)
    sizes = np.bincount(labels, minlength=classes)
    proportional, balanced = sizes / rows, np.full(classes, 1 / classes)
    cases: list[tuple[Case, NDArray[np.float64]]] = [
        (Case("mbflow proportional", partial(_ours, labels, batch_size, seed)), proportional),
        (
            Case(
                "mbflow balanced, as many rows",
                partial(_ours, labels, batch_size, seed, mixture="balanced", epoch_rows=rows),
            ),
            balanced,
        ),
        (Case("torch RandomSampler", partial(_torch, labels, batch_size), "torch"), proportional),
        (
            Case(
                "torch WeightedRandomSampler",
                partial(_torch, labels, batch_size, weighted=True),
                "torch",
            ),
            balanced,
        ),
    ]
    if rows <= _FOLD_ROWS:
        folds = partial(_folds, labels, batch_size, seed)
        cases.append((Case("scikit-learn StratifiedKFold", folds, "sklearn"), proportional))
    measured = measure(
        [case for case, _ in cases], repeats=repeats, on_progress=partial(_tell, on_progress)
    )
    records = []
    for case, (_, mixture) in zip(measured, cases, strict=True):
        held: tuple[Any, ...] = (None, None, None)
        if case.result is not None:
            held = _held(case.result, labels, mixture)
        speed = rows / case.median if case.median else None
        values = (rows, classes, batch_size, case.name, case.median, speed, *held, case.skipped)
        records.append(dict(zip(COLUMNS, values, strict=True)))
    return records


def _tell(on_progress: Callable[[str], object] | None, case: str, turn: int, turns: int) -> None:
    if on_progress is not None:
        on_progress(f"{case}, {turn} of {turns}")


def _ours(
    labels: NDArray[np.int64], batch_size: int, seed: int, **options: Any
) -> list[NDArray[np.int64]]:
    batches = StratifiedBatches(labels, batch_size, seed=seed, **options)
    return [batches.batch(0, step) for step in range(batches.steps())]


def _torch(
    labels: NDArray[np.int64], batch_size: int, *, weighted: bool = False
) -> list[NDArray[np.int64]]:
    from torch.utils.data import BatchSampler, RandomSampler, Sampler, WeightedRandomSampler

    order: Sampler[int]
    if weighted:
        weights = (1.0 / np.bincount(labels))[labels]
        # The annotation asks for a sequence of floats, and a tensor of them is what it becomes.
        order = WeightedRandomSampler(weights, len(labels))  # type: ignore[arg-type]
    else:
        order = RandomSampler(range(len(labels)))
    sampler = BatchSampler(order, batch_size, drop_last=False)
    return [np.array(batch, np.int64) for batch in sampler]


def _folds(labels: NDArray[np.int64], batch_size: int, seed: int) -> list[NDArray[np.int64]]:
    import warnings

    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(-(-len(labels) // batch_size), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Classes with fewer rows than there are batches.
        warnings.simplefilter("ignore")
        return [rows for _, rows in folds.split(labels, labels)]


def _held(
    batches: list[NDArray[np.int64]], labels: NDArray[np.int64], mixture: NDArray[np.float64]
) -> tuple[float, int, int]:
    """The largest distance from the mixture, and the rows that are missed and repeated."""
    off = max(
        float(np.abs(np.bincount(labels[rows], minlength=len(mixture)) - mixture * len(rows)).max())
        for rows in batches
    )
    times = np.bincount(np.concatenate(batches), minlength=len(labels))
    return off, int((times == 0).sum()), int((times - 1).clip(min=0).sum())
