"""The one deep entry: a labelled table in, the rows to train on out."""

from __future__ import annotations

import difflib
import inspect
import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mbflow.arrow import to_frame
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.select.choose import Chooser, FurtherSettings, Method
from mbflow.select.features import ColumnNote, FeatureEncoder, Scale
from mbflow.select.keep import keep_summary
from mbflow.select.labels import Labels, encode_labels
from mbflow.select.strata import Quotas, kept_count

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import polars as pl
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from mbflow.select.neighbours import GraphMetric

__all__ = ["SETTINGS", "Selection", "select_instances", "split_label"]


@dataclass(frozen=True, repr=False)
class Selection:
    """The rows to keep, and why.

    Attributes:
        indices: Row numbers of the kept rows, int64, ascending.
        scores: float32 of shape (rows,): the attention that each row gives ("attention"); for
            "coverage", "refine" and "attention_coverage" the summed similarity of the rows that a
            kept row stands for, 0 for others; 0 throughout for "medoids" and "random".
        summary: A polars table with a row for each class (see `keep_summary`).
        columns: What the encoder did with each column.
        notes: What a reader should know, in words.
        method: The method that chose, "auto" resolved.
        representatives: int64 of shape (rows,): the kept row that stands for each, where the method
            says so (see `explain_selection`).

    Example:
        >>> import numpy as np
        >>> from mbflow.select import select_instances
        >>> features = np.arange(20.0).reshape(-1, 1)
        >>> selection = select_instances(features, [0] * 10 + [1] * 10, count=4)
        >>> len(selection.indices), selection.summary["kept"].to_list()
        (4, [2, 2])
    """

    indices: NDArray[np.int64]
    scores: NDArray[np.float32]
    summary: pl.DataFrame
    columns: tuple[ColumnNote, ...]
    notes: tuple[str, ...]
    method: str = "auto"
    representatives: NDArray[np.int64] | None = None

    def __repr__(self) -> str:
        return (
            f"Selection({len(self.indices)} of {len(self.scores)} rows, "
            f"{self.summary.height} classes, by {self.method})"
        )


def split_label(
    table: Any, labels: Any, *, quantiles: int | None = None
) -> tuple[pl.DataFrame, Labels]:
    """Features and class labels of a table.

    Args:
        table: NumPy 2-D, polars, pandas, pyarrow.
        labels: The name of the label column, which is then no feature, or a column of labels.
        quantiles: Cut a numeric label into so many classes of about equal size.

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
        return frame.drop(labels), encode_labels(
            frame.get_column(labels), name=labels, quantiles=quantiles
        )
    encoded = encode_labels(labels, quantiles=quantiles)
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
    method: Method = "auto",
    quotas: Quotas = "auto",
    power: float = 0.75,
    edit_noise: bool = False,
    quantiles: int | None = None,
    columns: Sequence[str] | None = None,
    scale: Scale = "min_max",
    max_categories: int = 32,
    graph: str = "auto",
    neighbours: int | None = None,
    metric: GraphMetric = "euclidean",
    rounds: int = 40,
    seed: int = 0,
    threads: int | None = None,
    on_progress: Callable[[int, int, str], object] | None = None,
    **settings: Unpack[FurtherSettings],
) -> Selection:
    """Choose the rows of a labelled table to train on: by default 4 % of them.

    Encodes the columns (`FeatureEncoder`), shares the rows to keep among the classes, and keeps

    - "coverage": the rows that cover all others best in a neighbour graph; needs no training
      (`coverage_rows`);
    - "refine": what a search from there finds, which trains small classifiers on the candidates and
      scores them on rows of the same table (`refine_rows`);
    - "medoids": the rows nearest to k-means centres of each class (`medoid_rows`);
    - "random": a stratified random sample;
    - "attention": the rows that a graph attention network looks at most (`attention_scores`), the
      method of the paper, which on average is below a random sample;
    - "attention_coverage": coverage with rows weighed by what attention says of them;
    - "auto": "refine" where the table is small enough for it to take seconds, else the better of
      coverage and a stratified random sample, by classifiers tested on rows that neither keeps.

    The same seed gives the same rows for any number of threads and any kind of table. How good they
    are to train on depends on the data: `evaluate_selection` measures it.

    Args:
        features: NumPy 2-D, polars, pandas or pyarrow table, one row an instance.
        labels: A column of class labels, or the name of the label column in `features`.
        fraction: Share of the rows to keep, above 0 and at most 1.
        count: Rows to keep; wins over `fraction`. At least one row of each class is kept.
        method: See above.
        quotas: How the rows to keep are shared among the classes: "power", "equal",
            "proportional", "gain" (coverage only), or the rows of each class by name, which without
            `count` also say how many there are in all. "auto" is "power", but lets the search of
            "refine" share them as it finds best.
        power: With quotas "power", class quotas go with the class size to this power; another than
            0.75 is kept to by the search, too.
        edit_noise: Keep no row whose ten nearest rows are mostly of other classes.
        quantiles: Take the labels for a numeric target and cut it into this many classes.
        columns: Names of the feature columns to use; all by default.
        scale: See `FeatureEncoder`.
        max_categories: See `FeatureEncoder`.
        graph: A kind of `neighbour_graph`, or "auto": exact where there are few rows.
        neighbours: Neighbours of each row; by default 40 for coverage and 10 for attention.
        metric: What near means: "euclidean", "manhattan" or "cosine".
        rounds: Rounds of the search of "refine".
        seed: Key of all randomness.
        threads: Threads of training; by default all that mbflow uses.
        on_progress: Called with (done, of how many, what) while a search or a training goes on.
        settings: Further settings of `neighbour_graph` (`bits`, `family`, `width`, `projections`,
            `bucket_cap`, `probes`, `refinements`, ...) and of `attention_scores` (`heads`,
            `hidden`, `epochs`, `patience`, `learning_rate`, ...), by name.

    Returns:
        The kept rows, what stands for what, a summary by class, and notes.

    Raises:
        InvalidArgumentError: An argument is out of range, or lengths differ.
        DataError: The data cannot be used: missing labels, infinite values, ...
        MissingExtraError: torch or scikit-learn is not installed, which attention and refine need.

    Source:
        arXiv 2502.20293 (attention); arXiv 2606.22002 (coverage); what is ours is said in the
        parts.

    Example:
        >>> import polars as pl
        >>> from mbflow.select import select_instances
        >>> table = pl.DataFrame({"x": [0.0, 0.1, 0.2, 0.8, 0.9, 1.0], "kind": list("aaabbb")})
        >>> selection = select_instances(table, "kind", count=2, method="coverage")
        >>> table[selection.indices]["kind"].to_list()
        ['a', 'b']
    """
    _check_key(seed, threads)
    _check_names(settings)
    table, encoded = split_label(features, labels, quantiles=quantiles)
    wanted = kept_count(table.height, fraction=fraction, count=count, quotas=quotas)
    encoder = FeatureEncoder(scale=scale, max_categories=max_categories, columns=columns)
    chooser = Chooser(
        encoder.fit_transform(table),
        encoded,
        settings={
            **settings,
            "graph": graph,
            "neighbours": neighbours,
            "metric": metric,
            "rounds": rounds,
        },
        seed=seed,
        threads=threads,
        on_progress=on_progress,
    )
    choice = chooser.choose(method, count=wanted, quotas=quotas, power=power, edit_noise=edit_noise)
    notes = list(choice.notes)
    if len(choice.indices) > wanted:
        notes.append(
            f"{wanted} rows were asked for and {len(choice.indices)} kept: one of each class"
        )
    return Selection(
        choice.indices,
        choice.scores,
        keep_summary(choice.scores, encoded, choice.indices),
        encoder.notes,
        tuple(notes),
        choice.method,
        choice.representatives,
    )


SETTINGS = (
    *(
        name
        for name, kind in inspect.signature(select_instances).parameters.items()
        if kind.kind is kind.KEYWORD_ONLY and name not in {"seed", "threads", "on_progress"}
    ),
    *FurtherSettings.__annotations__,
)
"""The names that `select_instances` takes beside its data, its seed and its threads."""


def _check_names(settings: Mapping[str, Any]) -> None:
    for name in settings:
        if name not in FurtherSettings.__annotations__:
            near = difflib.get_close_matches(name, SETTINGS, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InvalidArgumentError(
                f"select_instances takes no {name!r}; {hint}it takes {', '.join(SETTINGS)}"
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
