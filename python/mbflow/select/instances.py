"""The one deep entry: a labelled table in, the rows to train on out."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mbflow.arrow import to_frame
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.select.attention import attention_scores
from mbflow.select.features import ColumnNote, FeatureEncoder, Scale
from mbflow.select.hashing import hash_graph
from mbflow.select.keep import keep_rows, keep_summary
from mbflow.select.labels import Labels, encode_labels
from mbflow.select.strata import kept_count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

__all__ = ["Selection", "select_instances", "split_label"]


@dataclass(frozen=True, repr=False)
class Selection:
    """The rows to keep, and why.

    Attributes:
        indices: Row numbers of the kept rows, int64, ascending.
        scores: float32 of shape (rows,): the attention that each row gives.
        summary: A polars table with a row for each class (see `keep_summary`).
        columns: What the encoder did with each column.
        notes: What a reader should know, in words.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import select_instances
        >>> features = np.arange(20.0).reshape(-1, 1)
        >>> selection = select_instances(features, [0] * 10 + [1] * 10, count=4, epochs=3)
        >>> len(selection.indices), selection.summary["kept"].to_list()
        (4, [2, 2])
    """

    indices: NDArray[np.int64]
    scores: NDArray[np.float32]
    summary: pl.DataFrame
    columns: tuple[ColumnNote, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"Selection({len(self.indices)} of {len(self.scores)} rows, "
            f"{self.summary.height} classes)"
        )


def split_label(table: Any, labels: Any) -> tuple[pl.DataFrame, Labels]:
    """Features and class labels of a table.

    Args:
        table: NumPy 2-D, polars, pandas, pyarrow.
        labels: The name of the label column, which is then no feature, or a column of labels.

    Returns:
        The feature columns and the encoded labels.

    Raises:
        InvalidArgumentError: There are not as many labels as rows.
        DataError: The label column is missing, or a label is.

    Example:
        >>> import polars as pl
        >>> from mbflow.select import split_label
        >>> table, labels = split_label(pl.DataFrame({"x": [1, 2], "y": ["a", "b"]}), "y")
        >>> table.columns, labels.classes
        (['x'], ('a', 'b'))
    """
    frame = to_frame(table, what="the feature table")
    if isinstance(labels, str):
        if labels not in frame.columns:
            raise DataError(
                f"there is no label column {labels!r}; the columns are "
                f"{', '.join(map(repr, frame.columns[:10]))}"
            )
        return frame.drop(labels), encode_labels(frame.get_column(labels), name=labels)
    encoded = encode_labels(labels)
    if len(encoded.codes) != frame.height:
        raise InvalidArgumentError(
            f"there are {len(encoded.codes)} labels for {frame.height} rows; expected one a row"
        )
    return frame, encoded


def select_instances(
    features: Any,
    labels: Any,
    *,
    fraction: float = 0.04,
    count: int | None = None,
    power: float = 0.75,
    columns: Sequence[str] | None = None,
    scale: Scale = "min_max",
    max_categories: int = 32,
    neighbours: int = 10,
    bits: int | None = None,
    family: Literal["sign", "p_stable"] = "sign",
    width: float | None = None,
    projections: Literal["gaussian", "sparse"] = "gaussian",
    bucket_cap: int | None = None,
    probes: int | None = None,
    refinements: int | None = None,
    heads: int = 4,
    hidden: int = 8,
    epochs: int = 150,
    patience: int = 20,
    learning_rate: float = 0.05,
    feature_dropout: float = 0.0,
    attention_dropout: float = 0.1,
    held_out: float = 0.1,
    seed: int = 0,
    threads: int | None = None,
    on_progress: Callable[[int, int, float], object] | None = None,
) -> Selection:
    """Choose the rows of a labelled table to train on: by default 4 % of them.

    Encodes the columns (`FeatureEncoder`), links near rows (`hash_graph`), scores each row by the
    attention it gives in a graph attention network (`attention_scores`), and keeps the rows with
    the highest scores within class quotas (`keep_rows`). The same seed gives the same rows for any
    number of threads and any kind of table.

    How good the rows are to train on depends on the data and is often no better than a stratified
    random sample of the same size: `evaluate_selection` measures it.

    Args:
        features: NumPy 2-D, polars, pandas or pyarrow table, one row an instance.
        labels: A column of class labels, or the name of the label column in `features`.
        fraction: Share of the rows to keep, above 0 and at most 1.
        count: Rows to keep; wins over `fraction`. At least one row of each class is kept.
        power: Class quotas are proportional to the class size to this power.
        columns: Names of the feature columns to use; all by default.
        scale: See `FeatureEncoder`.
        max_categories: See `FeatureEncoder`.
        neighbours: See `hash_graph`, as for the next six.
        bits: Length of the sign code.
        family: Kind of code.
        width: Bucket width of p-stable codes.
        projections: Kind of random directions.
        bucket_cap: The most rows in one bucket.
        probes: Buckets that each row looks into.
        refinements: Rounds that move rows to nearer buckets.
        heads: See `attention_scores`, as for the next seven.
        hidden: Width of a head.
        epochs: The most epochs.
        patience: Epochs without a lower held-out loss before training ends.
        learning_rate: Step size.
        feature_dropout: Share of values dropped.
        attention_dropout: Share of coefficients dropped.
        held_out: Share of the rows that decides when to stop.
        seed: Key of all randomness.
        threads: Threads of the training; by default all that mbflow uses.
        on_progress: Called after each epoch with (epochs done, epochs, loss).

    Returns:
        The kept rows, all scores, a summary by class, and notes.

    Raises:
        InvalidArgumentError: An argument is out of range, or lengths differ.
        DataError: The data cannot be used: missing labels, infinite values, one class only, ...
        MissingExtraError: torch is not installed.

    Source:
        arXiv 2502.20293; what is ours is said in the parts.

    Example:
        >>> import polars as pl
        >>> from mbflow.select import select_instances
        >>> table = pl.DataFrame({"x": [0.0, 0.1, 0.2, 0.8, 0.9, 1.0], "kind": list("aaabbb")})
        >>> selection = select_instances(table, "kind", count=2, epochs=5)
        >>> table[selection.indices]["kind"].to_list()
        ['a', 'b']
    """
    _check_key(seed, threads)
    table, encoded = split_label(features, labels)
    wanted = kept_count(table.height, fraction=fraction, count=count)
    encoder = FeatureEncoder(scale=scale, max_categories=max_categories, columns=columns)
    matrix = encoder.fit_transform(table)
    graph = hash_graph(
        matrix,
        neighbours=neighbours,
        bits=bits,
        family=family,
        width=width,
        projections=projections,
        bucket_cap=bucket_cap,
        probes=probes,
        refinements=refinements,
        seed=seed,
    )
    attention = attention_scores(
        matrix,
        encoded,
        graph,
        heads=heads,
        hidden=hidden,
        epochs=epochs,
        patience=patience,
        learning_rate=learning_rate,
        feature_dropout=feature_dropout,
        attention_dropout=attention_dropout,
        held_out=held_out,
        seed=seed,
        threads=threads,
        on_progress=on_progress,
    )
    indices = keep_rows(attention.scores, encoded, count=wanted, power=power)
    notes = list(attention.notes)
    if len(indices) > wanted:
        notes.append(f"{wanted} rows were asked for and {len(indices)} kept: one of each class")
    return Selection(
        indices,
        attention.scores,
        keep_summary(attention.scores, encoded, indices),
        encoder.notes,
        tuple(notes),
    )


def _check_key(seed: Any, threads: Any) -> None:
    if (
        isinstance(seed, bool)
        or not isinstance(seed, numbers.Integral)
        or not 0 <= int(seed) < 2**64
    ):
        raise InvalidArgumentError(f"seed is {seed!r}; expected a whole number from 0 to 2^64 - 1")
    if threads is None:
        return
    if isinstance(threads, bool) or not isinstance(threads, numbers.Integral) or int(threads) < 1:
        raise InvalidArgumentError(f"threads is {threads!r}; expected a whole number of at least 1")
