"""Choosing rows of encoded data by any method; what methods share is computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import util
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

import numpy as np

from mbflow.errors import DataError, InvalidArgumentError
from mbflow.select.attention import attention_scores
from mbflow.select.attention_coverage import coverage_weights
from mbflow.select.coverage import Kernel, edited
from mbflow.select.keep import top_rows
from mbflow.select.labels import Labels
from mbflow.select.medoids import medoids_by_class
from mbflow.select.neighbours import neighbour_graph
from mbflow.select.refine import FREE_POWER, refine_rows
from mbflow.select.strata import class_quotas, draw_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from mbflow.select.attention import Attention
    from mbflow.select.hashing import Graph
    from mbflow.select.strata import Quotas

__all__ = ["METHODS", "Choice", "Chooser", "FurtherSettings", "Method"]

Method = Literal[
    "auto", "coverage", "refine", "attention", "attention_coverage", "medoids", "random"
]
METHODS: tuple[Method, ...] = get_args(Method)


class FurtherSettings(TypedDict, total=False):
    """Settings of `neighbour_graph` and of `attention_scores` that `select_instances` passes on.

    Example:
        >>> from mbflow.select.choose import FurtherSettings
        >>> FurtherSettings(heads=2)
        {'heads': 2}
    """

    batch_rows: int
    overlap: float
    percentile: float
    levels: int
    views: int
    view_columns: float
    bits: int | None
    family: Literal["sign", "p_stable"]
    width: float | None
    projections: Literal["gaussian", "sparse"]
    bucket_cap: int | None
    probes: int | None
    refinements: int | None
    descents: int
    heads: int
    hidden: int
    epochs: int
    patience: int
    learning_rate: float
    feature_dropout: float
    attention_dropout: float
    held_out: float
    heads_by: Literal["mean", "max", "entropy"]
    layers_by: Literal["last", "mean", "max", "entropy"]
    within_class: bool
    device: Literal["auto", "cpu", "cuda"]


_NAMES = tuple(FurtherSettings.__annotations__)
_GRAPH = _NAMES[: _NAMES.index("heads")]
_ATTENTION = _NAMES[_NAMES.index("heads") :]
# Up to so many rows exact neighbours take seconds; beyond, hashing finds nearly all of them sooner.
_EXACT_ROWS = 20_000
_COVERAGE_NEIGHBOURS = 40
# Within these numbers of rows the search takes seconds and has rows enough to judge by.
_LEAST_SEARCHED, _SEARCHED_ROWS = 50, 50_000
_ATTENTION_NEIGHBOURS = 10


@dataclass(frozen=True)
class Choice:
    """Rows chosen by one method.

    Attributes:
        method: The method, with "auto" resolved.
        indices: int64, ascending.
        scores: float32 of shape (rows,): the attention given for "attention"; for the methods by
            coverage the summed similarity of the rows that a kept row stands for, 0 for others; 0
            throughout for "medoids" and "random".
        representatives: int64 of shape (rows,): the kept row that stands for each, where the method
            says so; None otherwise.
        notes: What a reader should know, in words.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.choose import Choice
        >>> Choice("random", np.array([3]), np.zeros(5, np.float32), None, ()).method
        'random'
    """

    method: str
    indices: NDArray[np.int64]
    scores: NDArray[np.float32]
    representatives: NDArray[np.int64] | None
    notes: tuple[str, ...] = ()


class Chooser:
    """Chooses rows of encoded data; the graph, its kernel and attention are worked out once.

    Args:
        features: float32 of shape (rows, columns), finite.
        labels: Class of each row; a class may have no row.
        settings: `graph` (a kind, or "auto"), `neighbours`, `metric`, `rounds`, and what
            `FurtherSettings` names; other keys are passed over.
        graph: A neighbour graph of the rows, in place of one made by the settings.
        attention: What attention says of the rows, in place of a training.
        seed: Key of all randomness.
        threads: Threads of training; by default all that mbflow uses.
        on_progress: Called with (done, of how many, what).

    Example:
        >>> import numpy as np
        >>> from mbflow.select import encode_labels
        >>> from mbflow.select.choose import Chooser
        >>> features = np.arange(20, dtype=np.float32).reshape(-1, 1)
        >>> chooser = Chooser(features, encode_labels([0] * 10 + [1] * 10), settings={})
        >>> len(chooser.choose("coverage", count=4).indices)
        4
    """

    def __init__(
        self,
        features: NDArray[np.float32],
        labels: Labels,
        *,
        settings: Mapping[str, Any],
        graph: Graph | None = None,
        attention: Attention | None = None,
        seed: int = 0,
        threads: int | None = None,
        on_progress: Callable[[int, int, str], object] | None = None,
    ) -> None:
        self._features = features
        self._labels = labels
        self._settings = settings
        self._given = graph
        self._given_attention = attention
        self._seed = seed
        self._threads = threads
        self._on_progress = on_progress
        self._graphs: dict[int, Graph] = {}

    def choose(
        self,
        method: str,
        *,
        count: int | None = None,
        counts: NDArray[np.int64] | None = None,
        quotas: Quotas = "auto",
        power: float = 0.75,
        edit_noise: bool = False,
    ) -> Choice:
        """Choose rows.

        Args:
            method: One of `METHODS`.
            count: Rows to keep, shared by `quotas`. Either this or `counts`.
            counts: Rows to keep of each class, int64 of shape (classes,); 0 is allowed.
            quotas: See `class_quotas`; "gain" for coverage alone. With "auto" a search shares the
                rows as it finds best.
            power: See `class_quotas`.
            edit_noise: Keep no row that its neighbours disagree with.

        Raises:
            InvalidArgumentError: An argument is out of range.
        """
        if method not in METHODS:
            raise InvalidArgumentError(
                f"method is {method!r}; expected one of {', '.join(map(repr, METHODS))}"
            )
        notes: list[str] = []
        guarded = method == "auto" and counts is None
        if method == "auto":
            method = "refine" if self._may_search(counts) and quotas != "gain" else "coverage"
            guarded = guarded and quotas != "gain"
        if method in {"attention", "attention_coverage"} and self._present < 2:
            if counts is None:
                raise DataError(_one_class(self._labels))
            notes.append(
                "strata with rows of one class only were covered, since attention "
                "tells classes apart"
            )
            method = "coverage"
        if quotas == "gain" and method not in {"coverage", "attention_coverage"}:
            raise InvalidArgumentError(
                f"quotas 'gain' shares rows by what they add to coverage, which {method!r} does "
                "not know; use 'auto', 'power', 'equal', 'proportional' or the rows of each class"
            )
        if counts is None and quotas != "gain":
            assert count is not None
            counts = class_quotas(self._labels, count, quotas=quotas, power=power)
        if method == "refine" or (guarded and self._may_judge()):
            assert count is not None
            assert counts is not None
            return self._refined(
                count, counts, quotas, power, edit_noise=edit_noise, search=method == "refine"
            )
        if method in {"coverage", "attention_coverage"}:
            weights = self._attention_weights if method == "attention_coverage" else None
            wanted = counts if counts is not None else count
            assert wanted is not None
            covered = self._covered(wanted, weights, edit_noise=edit_noise)
            if weights is not None:
                notes += self._attention.notes
            return Choice(method, *covered, tuple(notes))
        assert counts is not None
        picked = self._picked(method, counts, edit_noise=edit_noise)
        if method == "attention":
            notes += self._attention.notes
        return Choice(method, *picked, tuple(notes))

    def _may_search(self, counts: NDArray[np.int64] | None) -> bool:
        """Whether the search takes seconds and has what it needs."""
        return counts is None and len(self._features) <= _SEARCHED_ROWS and self._may_judge()

    def _may_judge(self) -> bool:
        """Whether there are rows enough to tell a good selection from a bad one."""
        enough = len(self._features) >= _LEAST_SEARCHED and self._present > 1
        return enough and util.find_spec("sklearn") is not None

    def _covered(
        self,
        wanted: NDArray[np.int64] | int,
        weights: NDArray[np.float64] | None,
        *,
        edit_noise: bool,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        candidates = None
        graph, kernel = self._kernel
        if edit_noise:
            if isinstance(wanted, int):
                candidates = edited(self._labels, graph, None, wanted)
            else:
                candidates = edited(self._labels, graph, wanted, int(wanted.sum()))
        order, _ = kernel.cover(wanted, weights=weights, candidates=candidates)
        stands, similarities = kernel.representatives(self._features, order)
        known = stands >= 0
        scores = np.bincount(
            stands[known], weights=similarities[known], minlength=len(self._features)
        )
        return np.sort(order), scores.astype(np.float32), stands

    def _picked(
        self, method: str, counts: NDArray[np.int64], *, edit_noise: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64] | None]:
        """Attention, medoids and random; noise is edited out by leaving those rows aside."""
        rows = np.arange(len(self._features))
        if edit_noise:
            rows = np.flatnonzero(edited(self._labels, self._kernel[0], counts, int(counts.sum())))
        labels = Labels(self._labels.codes[rows], self._labels.classes)
        scores = np.zeros(len(self._features), np.float32)
        if method == "attention":
            scores = self._attention.scores
            kept = top_rows(scores[rows], labels, counts)
        elif method == "medoids":
            kept = medoids_by_class(self._features[rows], labels, counts, seed=self._seed)
        else:
            kept = draw_rows(labels, counts, seed=self._seed)
        return rows[kept], scores, None

    def _refined(
        self,
        count: int,
        counts: NDArray[np.int64],
        quotas: Quotas,
        power: float,
        *,
        edit_noise: bool,
        search: bool,
    ) -> Choice:
        """The search, or where it would take too long, the better of coverage and random."""
        features, labels, graph = self._features, self._labels, self._graph_of(_COVERAGE_NEIGHBOURS)
        rows = np.arange(len(features))
        if quotas != "auto" or power != FREE_POWER:
            # Of all rows, also where some are edited out below.
            quotas = dict(zip(labels.classes, counts.tolist(), strict=True))
            count = int(counts.sum())
        if edit_noise:
            rows = np.flatnonzero(edited(labels, graph, counts, count))
            features, labels = features[rows], Labels(labels.codes[rows], labels.classes)
            graph = self._build(features, _COVERAGE_NEIGHBOURS)
        found = refine_rows(
            features,
            labels,
            count=count,
            quotas=quotas,
            power=power,
            graph=graph,
            rounds=self._settings.get("rounds", 40) if search else 0,
            portfolio=search,
            seed=self._seed,
            threads=self._threads,
            on_progress=self._told("score"),
        )
        indices = rows[found.indices]
        stands = rows[found.representatives] if len(rows) == len(self._features) else None
        scores = np.zeros(len(self._features), np.float32)
        sums = np.bincount(found.representatives, weights=found.similarities, minlength=len(rows))
        scores[rows] = np.where(np.isin(rows, indices), sums, 0.0)
        if not search:
            method = "random" if found.start == "random" else "coverage"
            scored = "; ".join(f"{start.name} {start.score:.3f}" for start in found.starts)
            note = f"the better on rows that neither keeps: {scored}"
            return Choice(method, indices, scores, stands, (note,))
        note = (
            f"the search started from {found.start} with a score of {found.scores[0]:.3f} on rows "
            f"it did not keep, and ended at {found.scores[-1]:.3f} after {len(found.scores) - 1} "
            f"rounds, {found.accepted} of them taken"
        )
        return Choice("refine", indices, scores, stands, (note,))

    @cached_property
    def _present(self) -> int:
        return len(np.unique(self._labels.codes))

    @cached_property
    def _kernel(self) -> tuple[Graph, Kernel]:
        graph = self._graph_of(_COVERAGE_NEIGHBOURS)
        return graph, Kernel.of(graph, self._labels)

    @cached_property
    def _attention(self) -> Attention:
        if self._given_attention is not None:
            return self._given_attention
        chosen = {name: self._settings[name] for name in _ATTENTION if name in self._settings}
        return attention_scores(
            self._features,
            self._labels,
            self._graph_of(_ATTENTION_NEIGHBOURS),
            **chosen,
            seed=self._seed,
            threads=self._threads,
            on_progress=self._told("loss"),
        )

    @cached_property
    def _attention_weights(self) -> NDArray[np.float64]:
        return coverage_weights(self._attention)

    def _told(self, what: str) -> Callable[[int, int, float], object] | None:
        report = self._on_progress
        if report is None:
            return None
        return lambda done, total, value: report(done, total, f"{what} {value:.3f}")

    def _graph_of(self, neighbours: int) -> Graph:
        """The given graph, or one with the neighbours asked for, else with this many."""
        if self._given is not None:
            return self._given
        given = self._settings.get("neighbours")
        wanted = neighbours if given is None else given
        if wanted not in self._graphs:
            self._graphs[wanted] = self._build(self._features, wanted)
        return self._graphs[wanted]

    def _build(self, features: NDArray[np.float32], neighbours: int) -> Graph:
        kind: Any = self._settings.get("graph", "auto")
        chosen = {
            name: self._settings[name] for name in _GRAPH if self._settings.get(name) is not None
        }
        if kind == "auto":
            few = len(features) <= _EXACT_ROWS and not chosen
            kind = "exact" if few else "single_level"
        return neighbour_graph(
            features,
            kind=kind,
            neighbours=neighbours,
            metric=self._settings.get("metric", "euclidean"),
            labels=self._labels if kind == "mini_batch" else None,
            **chosen,
            seed=self._seed,
        )


def _one_class(labels: Labels) -> str:
    return (
        f"all {len(labels.codes)} labels are {labels.classes[int(labels.codes[0])]!r}; attention "
        "learns to tell classes apart and needs at least two: check the label column, or use "
        "another method"
    )
