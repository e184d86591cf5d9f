"""The validated search: starts of many kinds, then a hill climb from the best of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from mbflow import _native
from mbflow.batches import check_whole
from mbflow.errors import InvalidArgumentError, require
from mbflow.select.columns import feature_matrix
from mbflow.select.coverage import Kernel, coverage_graph, edited, neighbour_agreement
from mbflow.select.hashing import Graph
from mbflow.select.labels import Labels, encode_labels
from mbflow.select.medoids import medoid_rows
from mbflow.select.strata import Quotas, class_quotas, kept_count, stratified_random
from mbflow.training import ordered_tasks, single_threaded, without_warnings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["FREE_POWER", "Refined", "Start", "refine_rows"]

_STREAM_VALIDATION = 0x5E1_00021
_STREAM_DROP = 0x5E3_00000  # plus the round
_STREAM_WEIGHT = 0x5E4_00000  # plus the round
_STREAM_KEEP_COUNTS = 0x5E1_00022
_AGREEMENT_NEIGHBOURS = 20
_TREES = 60
# The graph of two steps has only the nearest of the neighbours: it grows with their square.
_STEP_NEIGHBOURS = 10
# Share of the kept rows that a round replaces, at first; it falls to 30 % of that.
_REPLACED = 0.15
_MANY_ROWS = 3000
FREE_POWER = 0.75
"""With quotas "auto" and this power, the usual one, a search shares rows among classes freely."""
# How much the newest error rates count in their moving average.
_MEMORY = 0.3


@dataclass(frozen=True)
class Start:
    """A selection that the search could start from.

    Attributes:
        name: Its kind, such as "coverage, power" or "random".
        score: Mean accuracy of the three classifiers on the validation rows.
        indices: Row numbers, int64, ascending.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.refine import Start
        >>> Start("random", 0.5, np.array([3, 8])).name
        'random'
    """

    name: str
    score: float
    indices: NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class Refined:
    """The rows that the search ended with.

    Attributes:
        indices: Row numbers of the kept rows, int64, ascending.
        scores: The score of the selection held after each round, float64 of shape (rounds + 1,);
            the first is that of the best start.
        starts: What was tried to start from, in the order tried.
        start: The name of the start that the climb went from.
        accepted: Rounds whose change was kept.
        representatives: int64 of shape (rows,): the kept row of the same class that stands for each
            row.
        similarities: float32 of shape (rows,): how alike the two are in the graph.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import refine_rows
        >>> features = np.arange(60.0, dtype=np.float32).reshape(-1, 1)
        >>> refined = refine_rows(features, ["a"] * 30 + ["b"] * 30, count=6, rounds=2)
        >>> len(refined.indices), len(refined.scores)
        (6, 3)
    """

    indices: NDArray[np.int64]
    scores: NDArray[np.float64]
    starts: tuple[Start, ...]
    start: str
    accepted: int
    representatives: NDArray[np.int64]
    similarities: NDArray[np.float32]

    def __repr__(self) -> str:
        return (
            f"Refined({len(self.indices)} of {len(self.representatives)} rows, from {self.start}, "
            f"{self.scores[0]:.3f} to {self.scores[-1]:.3f})"
        )


def refine_rows(
    features: Any,
    labels: Any,
    *,
    count: int,
    quotas: Quotas = "auto",
    power: float = 0.75,
    graph: Graph | None = None,
    neighbours: int = 40,
    rounds: int = 40,
    portfolio: bool = True,
    validation_rows: int = 8000,
    seed: int = 0,
    threads: int | None = None,
    on_progress: Callable[[int, int, float], object] | None = None,
) -> Refined:
    """Keep the rows that train classifiers best, judged on given rows that are not kept.

    A selection scores the mean accuracy of a 1-nearest-neighbour classifier, a logistic regression
    and a small random forest, trained on the kept rows, on a fixed random sample of the others. The
    search starts from the best of several selections, among them a stratified random one, so that
    it does not end with a lower score than any of them. Then each round replaces some kept rows by
    others that cover badly classified regions, and stays if the score is not lower.

    Nothing but the rows given is looked at. The score is that of the rows searched on: for an
    unbiased estimate test on rows that were not given (`evaluate_selection`). The same seed gives
    the same rows for any number of threads.

    Args:
        features: float32 of shape (rows, columns), finite, scaled (see `FeatureEncoder`).
        labels: Class label of each row (see `encode_labels`).
        count: Rows to keep; where it is below the number of classes, one of each is kept.
        quotas: "auto" lets the search share the rows among the classes, at least one to each; any
            other rule of `class_quotas` stays as it is.
        power: See `class_quotas`; another one than 0.75 is kept to, too.
        graph: See `coverage_rows`.
        neighbours: See `coverage_rows`.
        rounds: Rounds of the climb, at least 0. With none, and without `portfolio`, this is
            coverage with a guard: the random sample where that scores better.
        portfolio: Try many starts; otherwise only coverage, and random.
        validation_rows: The most rows to score on, at least 1.
        seed: Key of all randomness.
        threads: Threads to score starts on; by default all that mbflow uses.
        on_progress: Called after each round with (rounds done, rounds, score).

    Returns:
        The rows, how the search went, and which row stands for each.

    Raises:
        InvalidArgumentError: An argument is out of range, or lengths differ.
        DataError: A feature is NaN or infinite, or a label is missing.
        MissingExtraError: scikit-learn is not installed.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import refine_rows
        >>> features = np.arange(60.0, dtype=np.float32).reshape(-1, 1)
        >>> refine_rows(features, ["a"] * 30 + ["b"] * 30, count=4, rounds=1).indices.size
        4
    """
    encoded = encode_labels(labels)
    matrix = feature_matrix(features, len(encoded.codes))
    check_whole("rounds", rounds, least=0)
    check_whole("validation_rows", validation_rows, least=1)
    if threads is not None:
        check_whole("threads", threads, least=1)
    if graph is None:
        graph = coverage_graph(matrix, neighbours=neighbours, seed=seed)
    elif graph.rows != len(matrix):
        raise InvalidArgumentError(
            f"the graph has {graph.rows} rows and the features {len(matrix)}; expected the "
            "features that the graph was built from"
        )
    wanted = kept_count(len(matrix), count=count)
    if not isinstance(quotas, Mapping) and (quotas != "auto" or power != FREE_POWER):
        shares = class_quotas(encoded, wanted, quotas=quotas, power=power)
        quotas = dict(zip(encoded.classes, shares.tolist(), strict=True))
        wanted = int(shares.sum())
    search = _Search(matrix, encoded, graph, seed, min(validation_rows, len(matrix)))
    workers = _native.num_threads() if threads is None else threads
    # Loaded, so that its thread pools are there to be held.
    require("sklearn.linear_model", extra="train", purpose="the validated search for rows")
    with single_threaded():
        starts = search.starts(wanted, quotas, power=power, portfolio=portfolio, threads=workers)
        best = max(starts, key=lambda start: start.score)
        kept, scores, accepted = search.climb(
            best.indices, rounds, fixed_counts=isinstance(quotas, Mapping), on_progress=on_progress
        )
    stand_ins, similarities = search.kernel.representatives(matrix, kept)
    return Refined(
        kept,
        np.array(scores),
        tuple(starts),
        best.name,
        accepted,
        stand_ins,
        similarities,
    )


# Name, kept rows, rows asked, and the share of classifiers that are wrong on each of them.
Judged = tuple[str, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


class _Search:
    """What stays the same during a search: the rows, their kernel, the rows to score on."""

    def __init__(
        self,
        features: NDArray[np.float32],
        labels: Labels,
        graph: Graph,
        seed: int,
        validation_rows: int,
    ) -> None:
        from scipy.sparse import csr_array

        self.features = features
        self.labels = labels
        self.codes = labels.codes
        self.graph = graph
        self.seed = seed
        self.kernel = Kernel.of(graph, labels)
        order = _native.permutation(seed, _STREAM_VALIDATION, len(features))
        self.validation = np.sort(order[:validation_rows])
        agreement = neighbour_agreement(labels, graph, neighbours=_AGREEMENT_NEIGHBOURS)
        self.agreement = agreement + 0.05
        self.known = np.zeros(len(features))
        rows = len(features)
        entries = self.kernel.weights.astype(np.float64)
        parts = (entries, self.kernel.neighbours, self.kernel.offsets)
        self.smooth = csr_array(parts, shape=(rows, rows))
        self.sums = np.add.reduceat(entries, self.kernel.offsets[:-1])

    def starts(
        self, count: int, quotas: Quotas, *, power: float, portfolio: bool, threads: int
    ) -> list[Start]:
        named = self._selections(count, quotas, power, portfolio=portfolio)

        def judged(item: tuple[str, NDArray[np.int64]]) -> Judged:
            return (*item, *self.errors(item[1]))

        with ordered_tasks(threads) as run:
            found = cast("list[Judged]", run(judged, named))
        # What is known of a row while it was not kept: the mean over the starts without it.
        sums, times = np.zeros(len(self.codes)), np.zeros(len(self.codes))
        for _, _, asked, wrong in found:
            sums[asked] += wrong
            times[asked] += 1.0
        mean = float(sums.sum() / max(1.0, times.sum()))
        self.known = np.where(times > 0.0, sums / np.maximum(times, 1.0), mean)
        return [Start(name, self._score(asked, wrong), rows) for name, rows, asked, wrong in found]

    def _score(self, asked: NDArray[np.int64], wrong: NDArray[np.float64]) -> float:
        """Accuracy on the rows to score on.

        Among many rows, a kept one counts as it did while it was not kept: left out of the mean,
        hard rows would be kept only so as not to be asked any more. Among few, what is known of a
        row is too uncertain to gain by that, and kept rows are left out.
        """
        if len(self.codes) < _MANY_ROWS:
            return 1.0 - float(wrong.mean())
        errors = self.known.copy()
        errors[asked] = wrong
        return 1.0 - float(errors[self.validation].mean())

    def _selections(
        self, count: int, quotas: Quotas, power: float, *, portfolio: bool
    ) -> Iterator[tuple[str, NDArray[np.int64]]]:
        fixed = isinstance(quotas, Mapping)
        sizes: Quotas = quotas if fixed else "proportional"
        yield "random", self._random(count, sizes)
        first = "given" if fixed else "power"
        rules: list[tuple[str, Quotas, float]] = [(first, quotas, power)]
        if portfolio:
            yield (
                "medoids",
                medoid_rows(self.features, self.labels, count=count, quotas=sizes, seed=self.seed),
            )
            others: list[tuple[str, Quotas, float]] = [
                ("equal", "equal", 0.0),
                ("square root", "power", 0.5),
                ("power", "power", 0.75),
                ("proportional", "proportional", 1.0),
                ("gain", "gain", 0.0),
            ]
            rules += [] if fixed else [rule for rule in others if rule[0] != first]
        for name, rule, exponent in rules:
            shares = (
                None
                if rule == "gain"
                else class_quotas(self.labels, count, quotas=rule, power=exponent)
            )
            target = count if shares is None else shares
            rows, _ = self.kernel.cover(target)
            yield f"coverage, {name}", np.sort(rows)
            if portfolio:
                clean = edited(self.labels, self.graph, shares, count)
                rows, _ = self.kernel.cover(target, candidates=clean)
                yield f"coverage, {name}, edited", np.sort(rows)
        if portfolio:
            kernel = two_steps(self.graph, self.labels)
            for name, rule, exponent in rules[:1] if fixed else rules[:2]:
                shares = None
                if rule != "gain":
                    shares = class_quotas(self.labels, count, quotas=rule, power=exponent)
                rows, _ = kernel.cover(count if shares is None else shares)
                yield f"two steps, {name}", np.sort(rows)

    def _random(self, count: int, quotas: Quotas) -> NDArray[np.int64]:
        if not isinstance(quotas, Mapping):
            return stratified_random(self.labels, count=count, seed=self.seed)
        shares = class_quotas(self.labels, count, quotas=quotas)
        order = _native.permutation(self.seed, _STREAM_VALIDATION, len(self.codes))
        parts = [order[self.codes[order] == code][:share] for code, share in enumerate(shares)]
        return np.sort(np.concatenate(parts))

    def errors(self, kept: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The rows scored on, and the share of the classifiers that are wrong on each."""
        asked = np.setdiff1d(self.validation, kept, assume_unique=True)
        if len(asked) == 0:
            asked = self.validation
        truth = self.codes[asked]
        predicted = _predictions(
            self.features[kept], self.codes[kept], self.features[asked], self.seed
        )
        return asked, np.mean([codes != truth for codes in predicted], axis=0)

    def climb(
        self,
        kept: NDArray[np.int64],
        rounds: int,
        *,
        fixed_counts: bool,
        on_progress: Callable[[int, int, float], object] | None,
    ) -> tuple[NDArray[np.int64], list[float], int]:
        asked, wrong = self.errors(kept)
        score = self._score(asked, wrong)
        scores, accepted = [score], 0
        error = np.zeros(len(self.codes))
        error[asked] = wrong
        for turn in range(rounds):
            trial = self._changed(kept, error, turn, rounds, fixed_counts=fixed_counts)
            asked, wrong = self.errors(trial)
            tried = self._score(asked, wrong)
            error[asked] += _MEMORY * (wrong - error[asked])
            self.known[asked] += _MEMORY * (wrong - self.known[asked])
            if tried >= score:
                kept, score = trial, tried
                accepted += 1
            scores.append(score)
            if on_progress is not None:
                on_progress(turn + 1, rounds, score)
        return kept, scores, accepted

    def _changed(
        self,
        kept: NDArray[np.int64],
        error: NDArray[np.float64],
        turn: int,
        rounds: int,
        *,
        fixed_counts: bool,
    ) -> NDArray[np.int64]:
        size = len(kept)
        dropped = max(1, round(_REPLACED * size * (1.0 - 0.7 * turn / rounds)))
        order = _native.permutation(self.seed, _STREAM_DROP + turn, size)
        rest, gone = np.sort(kept[order[dropped:]]), kept[order[:dropped]]
        # Where errors are, and near them; of rows that their neighbours agree with; and by chance.
        near = 0.5 * error + 0.5 * (self.smooth @ error) / self.sums
        mean = float(near.mean())
        weights = self.agreement * self._chance(turn)
        if mean > 0.0:
            weights = weights * (1.0 + 2.0 * near / mean)
        coin = _native.random_u64(self.seed, _STREAM_KEEP_COUNTS, turn, 1)[0]
        if fixed_counts or coin & np.uint64(1):
            target: NDArray[np.int64] | int = np.bincount(
                self.codes[gone], minlength=len(self.labels.classes)
            ).astype(np.int64)
        else:
            target = dropped
        more, _ = self.kernel.cover(target, weights=weights, start=rest)
        # More than were dropped come back where several classes were emptied and few are kept.
        return np.sort(np.concatenate([rest, more]))

    def _chance(self, turn: int) -> NDArray[np.float64]:
        draws = _native.random_u64(self.seed, _STREAM_WEIGHT + turn, 0, len(self.codes))
        uniform = ((draws >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
        return np.sqrt(-np.log(uniform))


def two_steps(graph: Graph, labels: Labels) -> Kernel:
    """The kernel `K + K K` of the nearest neighbours: rows with common neighbours are alike.

    The edges of a row are in the order of the row numbers, the row itself not first.

    Source:
        Rustamov et al., graph coverage selection (arXiv 2606.22002); the kernel K is ours.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import encode_labels
        >>> from mbflow.select.coverage import coverage_graph
        >>> from mbflow.select.refine import two_steps
        >>> graph = coverage_graph(np.arange(3.0, dtype=np.float32)[:, None], neighbours=1)
        >>> kernel = two_steps(graph, encode_labels(list("aaa")))
        >>> kernel.neighbours[: kernel.offsets[1]]
        array([0, 1, 2], dtype=int32)
    """
    from scipy.sparse import csr_array

    degrees = np.minimum(np.diff(graph.offsets), _STEP_NEIGHBOURS)
    offsets = np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64)
    edges = np.arange(offsets[-1]) + np.repeat(graph.offsets[:-1] - offsets[:-1], degrees)
    near = Graph(offsets, graph.neighbours[edges], graph.distances[edges], graph.stats)
    one = Kernel.of(near, labels)
    parts = (one.weights.astype(np.float64), one.neighbours, one.offsets)
    matrix = csr_array(parts, shape=(one.rows, one.rows))
    both = csr_array(matrix + matrix @ matrix)
    both.sort_indices()
    return Kernel(
        both.indptr.astype(np.int64),
        both.indices.astype(np.int32),
        both.data.astype(np.float32),
        labels,
    )


def _predictions(
    features: NDArray[np.float32],
    codes: NDArray[np.int64],
    asked: NDArray[np.float32],
    seed: int,
) -> list[NDArray[np.int64]]:
    """The classes that three classifiers, trained on some rows, give to others."""
    from sklearn import config_context
    from sklearn.linear_model import LogisticRegression

    nearest, _ = _native.nearest_rows(features, asked)
    predicted = [codes[nearest]]
    if codes.min() == codes.max():
        return predicted  # the others would say the same
    predicted.append(_native.forest_classes(features, codes, asked, trees=_TREES, seed=seed))
    model = LogisticRegression(max_iter=100)
    # The kernels above have checked the values. A fit on few rows may not converge in full, which
    # is part of what is measured.
    with config_context(assume_finite=True, skip_parameter_validation=True), without_warnings():
        predicted.append(np.asarray(model.fit(features, codes).predict(asked), dtype=np.int64))
    return predicted
