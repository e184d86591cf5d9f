"""How good are the kept rows to train on? Measured on rows that no part of the choice has seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mbflow import _native
from mbflow.batches import check_whole
from mbflow.errors import InvalidArgumentError, require
from mbflow.select.choose import METHODS, Chooser
from mbflow.select.features import FeatureEncoder
from mbflow.select.instances import SETTINGS, split_label
from mbflow.select.labels import Labels
from mbflow.select.peers import CLEANING, PEERS, PeerResult, run_peer
from mbflow.select.strata import (
    class_quotas,
    kept_count,
    scaled_quotas,
    stratified_random,
    stratified_split,
)
from mbflow.training import single_threaded, without_warnings

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "CLASSIFIERS",
    "evaluate_selection",
    "evaluate_split",
]

CLASSIFIERS = ("1-NN", "logistic regression", "random forest", "gradient boosting")
# (features, labels, rows to keep, seed) -> row numbers
Rival = Callable[[NDArray[np.float32], Labels, int, int], NDArray[np.int64]]
_DEFAULT_CLASSIFIERS = CLASSIFIERS[:3]
# The training sets that every evaluation has.
_ALWAYS = ("all", "random", "selected")
_ENCODER_SETTINGS = ("scale", "max_categories", "columns")


def evaluate_selection(
    table: Any,
    labels: Any,
    *,
    recipe: Mapping[str, Any] | None = None,
    seeds: int | Sequence[int] = 5,
    test_fraction: float = 0.2,
    classifiers: Sequence[str] = _DEFAULT_CLASSIFIERS,
    compare: Sequence[str] | Mapping[str, str | Rival] = (),
    fractions: Sequence[float] | None = None,
    peer_seconds: float = 60.0,
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
        classifiers: Names out of "1-NN", "logistic regression", "random forest" and "gradient
            boosting"; the first three by default.
        compare: Other methods of `select_instances` ("medoids", "coverage", ...) and classes of
            imbalanced-learn ("NearMiss", ...; see `mbflow.select.peers.PEERS`) to measure as well.
            They get the recipe's settings; a peer that is not done in time is left out and the note
            of "all" says so. In a mapping, names in the result by such methods, or by functions of
            (features, labels, rows to keep, seed) that return row numbers.
        fractions: Shares of the training rows to keep, each measured; by default the recipe's.
        peer_seconds: Time limit for each run of a peer.
        max_train_rows: Where there are more training rows, "all" is a stratified random sample
            of this many, and the record's `note` says so; None for no limit.
        threads: Threads to use; the results do not depend on it, except for times.
        record_times: Include `fit_seconds` and `selection_seconds`, which differ from run to run.
        on_progress: Called after each split with (splits done, splits).
        map: Applies a function to the seeds, in order; an engine's map runs splits side by side.

    Returns:
        A row for each seed, fraction, training set and classifier: `seed`, `training_set` ("all",
        "random", "selected" and what `compare` names), `fraction` (asked for; 1 for "all"),
        `classifier`, `rows`, `test_rows`, `accuracy`, `balanced_accuracy` (mean recall of the
        classes in the test part), `effectiveness` (accuracy times the share of training rows left
        out), `note`, and the times.

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

    chosen = _seeds(seeds)
    if not chosen:
        raise InvalidArgumentError(f"seeds is {seeds!r}; expected at least one")
    _refuse_twice("seeds", chosen)
    settings = _checked(recipe or {}, classifiers, max_train_rows, compare, fractions)
    features, encoded = split_label(table, labels, quantiles=settings.get("quantiles"))
    # Encoded once as a whole, so that an error names the row of this table, not of a split of it.
    _encoder(settings).fit_transform(features)
    split = partial(
        evaluate_split,
        features,
        encoded,
        recipe=settings,
        test_fraction=test_fraction,
        classifiers=tuple(classifiers),
        compare=compare,
        fractions=fractions,
        peer_seconds=peer_seconds,
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
    classifiers: Sequence[str] = _DEFAULT_CLASSIFIERS,
    compare: Sequence[str] | Mapping[str, str | Rival] = (),
    fractions: Sequence[float] | None = None,
    peer_seconds: float = 60.0,
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
        compare: Names of other methods.
        fractions: Shares to keep.
        peer_seconds: Time limit of a peer.
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
    settings = _checked(recipe or {}, classifiers, max_train_rows, compare, fractions)
    require("sklearn", extra="train", purpose="the evaluation of a selection")
    if threads is not None:
        check_whole("threads", threads, least=1)
    workers = _native.num_threads() if threads is None else threads
    frame, encoded = split_label(table, labels, quantiles=settings.get("quantiles"))
    train, test = stratified_split(encoded, test_fraction=test_fraction, seed=seed)
    if len(test) == 0:
        raise InvalidArgumentError(
            f"test_fraction {test_fraction} of {frame.height} rows leaves no row to test on; use a "
            "larger one"
        )
    # Every class keeps a row in the training part, so the codes mean the same there.
    train_labels = Labels(encoded.codes[train], encoded.classes)
    encoder = _encoder(settings)
    split = _Split(
        features=encoder.fit_transform(frame[train]),
        labels=train_labels,
        test_features=encoder.transform(frame[test]),
        test_codes=encoded.codes[test],
        classifiers=tuple(classifiers),
        seed=seed,
        threads=workers,
        record_times=record_times,
        records=[],
        cleaned={},
    )
    everything, note = np.arange(len(train)), ""
    if max_train_rows is not None and len(train) > max_train_rows:
        count = max(max_train_rows, len(encoded.classes))
        everything = stratified_random(train_labels, count=count, seed=seed + 1)
        note = f"a stratified random {len(everything)} of {len(train)} rows stand for all"
    split.score("all", 1.0, everything, note=note)
    chooser = Chooser(split.features, train_labels, settings=settings, seed=seed, threads=threads)
    shares: list[float | None] = [None] if fractions is None else list(fractions)
    for share in shares:
        wanted = kept_count(
            len(train),
            fraction=share or settings.get("fraction", 0.04),
            count=None if share else settings.get("count"),
            quotas=None if share else settings.get("quotas"),
        )
        nominal = float(share or settings.get("fraction") or wanted / len(train))
        chosen = split.choose(chooser, settings.get("method", "auto"), wanted, settings)
        drawn = stratified_random(train_labels, count=len(chosen[0]), seed=seed)
        split.score("random", nominal, drawn)
        split.score("selected", nominal, *chosen)
        for name, method in _named(compare):
            if callable(method):
                started = time.perf_counter()
                rows = method(split.features, train_labels, wanted, seed)
                split.score(name, nominal, rows, time.perf_counter() - started)
            elif method in PEERS:
                split.score_peer(method, nominal, wanted, settings, peer_seconds)
            else:
                split.score(name, nominal, *split.choose(chooser, method, wanted, settings))
    return split.records


@dataclass(frozen=True)
class _Split:
    """One split of a table into a training and a test part, and what was measured on it."""

    features: NDArray[np.float32]
    labels: Labels
    test_features: NDArray[np.float32]
    test_codes: NDArray[np.int64]
    classifiers: tuple[str, ...]
    seed: int
    threads: int
    record_times: bool
    records: list[dict[str, Any]]
    cleaned: dict[str, PeerResult]

    def choose(
        self, chooser: Chooser, method: str, wanted: int, settings: Mapping[str, Any]
    ) -> tuple[NDArray[np.int64], float]:
        """The rows that a method keeps, and the seconds it took."""
        started = time.perf_counter()
        quotas = settings.get("quotas", "auto")
        if isinstance(quotas, Mapping):
            sizes = self.labels.sizes
            quotas = scaled_quotas(self.labels.classes, sizes, wanted, given=quotas)
        choice = chooser.choose(
            method,
            count=wanted,
            quotas=quotas,
            power=settings.get("power", 0.75),
            edit_noise=settings.get("edit_noise", False),
        )
        return choice.indices, time.perf_counter() - started

    def score(
        self,
        name: str,
        fraction: float,
        rows: NDArray[np.int64],
        seconds: float = 0.0,
        *,
        note: str = "",
    ) -> None:
        """Train on some of the training rows."""
        self._score(name, fraction, self.features[rows], self.labels.codes[rows], seconds, note)

    def score_peer(
        self,
        name: str,
        fraction: float,
        wanted: int,
        settings: Mapping[str, Any],
        time_limit: float,
    ) -> None:
        """Train on what a sampler of imbalanced-learn makes of the training rows."""
        made = self.cleaned.get(name)
        if made is None:
            made = run_peer(
                name,
                self.features,
                codes=self.labels.codes,
                counts=class_quotas(self.labels, wanted, power=settings.get("power", 0.75)),
                seed=self.seed,
                time_limit=time_limit,
            )
        if name in CLEANING:
            # These keep what they keep, whatever share is asked for.
            self.cleaned[name] = made
        if made.skipped or not len(made.codes):
            note = f"{name}: {made.skipped or 'kept no row'}"
            for record in self.records:
                if record["training_set"] == "all" and note not in record["note"]:
                    record["note"] = "; ".join(filter(None, (record["note"], note)))
            return
        self._score(name, fraction, made.features, made.codes, made.seconds, "")

    def _score(
        self,
        name: str,
        fraction: float,
        features: NDArray[np.float32],
        codes: NDArray[np.int64],
        seconds: float,
        note: str,
    ) -> None:
        reduction = 1 - len(codes) / len(self.labels.codes)
        for classifier in self.classifiers:
            started = time.perf_counter()
            predicted = _predicted(
                classifier, features, codes, self.test_features, self.seed, self.threads
            )
            fit_seconds = time.perf_counter() - started
            accuracy = float((predicted == self.test_codes).mean())
            record: dict[str, Any] = {
                "seed": self.seed,
                "training_set": name,
                "fraction": fraction,
                "classifier": classifier,
                "rows": len(codes),
                "test_rows": len(self.test_codes),
                "accuracy": accuracy,
                "balanced_accuracy": _balanced_accuracy(self.test_codes, predicted),
                "effectiveness": accuracy * reduction,
                "note": note,
            }
            if self.record_times:
                record["fit_seconds"] = fit_seconds
                record["selection_seconds"] = seconds
            self.records.append(record)


def _checked(
    recipe: Mapping[str, Any],
    classifiers: Sequence[str],
    max_train_rows: int | None,
    compare: Sequence[str] | Mapping[str, str | Rival],
    fractions: Sequence[float] | None,
) -> dict[str, Any]:
    _check_kinds(recipe, max_train_rows, fractions)
    for name in recipe:
        if name not in SETTINGS and name not in {"seed", "threads", "on_progress"}:
            raise InvalidArgumentError(
                f"the recipe sets {name!r}, which `select_instances` does not take; it takes "
                f"{', '.join(SETTINGS)}"
            )
    known = (*METHODS, *PEERS)
    for name, method in _named(compare):
        if name in _ALWAYS:
            raise InvalidArgumentError(
                f"compare gives the name {name!r} to something else; it stands for one of the "
                f"training sets that are always measured, {', '.join(map(repr, _ALWAYS))}"
            )
        if not callable(method) and method not in known:
            raise InvalidArgumentError(
                f"there is no method {method!r} to compare with; expected some of "
                f"{', '.join(map(repr, known))}"
            )
    _refuse_twice("fractions", fractions or ())
    for share in fractions or ():
        if not 0.0 < share <= 1.0:
            raise InvalidArgumentError(
                f"fractions holds {share}; expected numbers above 0 and at most 1, such as 0.04"
            )
    for name in ("seed", "threads", "on_progress"):
        if name in recipe:
            raise InvalidArgumentError(
                f"the recipe sets {name!r}, which the evaluation sets for each split; leave it out"
            )
    if isinstance(classifiers, str) or not classifiers:
        raise InvalidArgumentError(f"classifiers is {classifiers!r}; expected a list of names")
    _refuse_twice("classifiers", classifiers)
    for name in classifiers:
        if name not in CLASSIFIERS:
            raise InvalidArgumentError(
                f"there is no classifier {name!r}; expected one of "
                f"{', '.join(map(repr, CLASSIFIERS))}"
            )
    return dict(recipe)


def _named(
    compare: Sequence[str] | Mapping[str, str | Rival],
) -> Iterable[tuple[str, str | Rival]]:
    """What to compare with, by its name in the result; each once, and random is there anyway."""
    pairs = dict(compare if isinstance(compare, Mapping) else {name: name for name in compare})
    if pairs.get("random") == "random":
        del pairs["random"]
    return pairs.items()


def _check_kinds(recipe: Any, max_train_rows: Any, fractions: Any) -> None:
    if not isinstance(recipe, Mapping):
        raise InvalidArgumentError(f"recipe is {recipe!r}; expected a mapping of settings")
    if max_train_rows is not None:
        check_whole("max_train_rows", max_train_rows, least=1)
    if fractions is not None and (isinstance(fractions, str) or not hasattr(fractions, "__len__")):
        raise InvalidArgumentError(f"fractions is {fractions!r}; expected a list of numbers")


def _seeds(seeds: Any) -> tuple[Any, ...]:
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        return tuple(range(seeds))
    if isinstance(seeds, str) or not hasattr(seeds, "__len__"):
        raise InvalidArgumentError(
            f"seeds is {seeds!r}; expected a number of splits or a list of seeds"
        )
    return tuple(seeds)


def _refuse_twice(name: str, values: Sequence[Any]) -> None:
    for place, value in enumerate(values):
        if value in values[:place]:
            raise InvalidArgumentError(f"{name} holds {value!r} twice; leave one out")


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
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    # Imported above, so that their thread pools are there to be held.
    # A fit on few rows may not converge in full, which is part of what is measured.
    with single_threaded(), without_warnings():
        if name == "1-NN":
            model: Any = KNeighborsClassifier(n_neighbors=1, algorithm="brute")
        elif name == "logistic regression":
            model = LogisticRegression(max_iter=1000)
        elif name == "gradient boosting":
            # The default of 20 rows a leaf learns nothing from few rows.
            model = HistGradientBoostingClassifier(
                max_iter=50,
                min_samples_leaf=min(20, max(1, len(codes) // 50)),
                early_stopping=False,
                random_state=seed % 2**32,
            )
        else:
            # scikit-learn takes forest seeds below 2^32; trees are the same for any n_jobs.
            model = RandomForestClassifier(random_state=seed % 2**32, n_jobs=threads)
        if len(np.unique(codes)) == 1:
            return np.full(len(test_features), codes[0])
        model.fit(features, codes)
        if name == "random forest":
            # Votes are added up in the order threads finish; one thread has one order.
            model.set_params(n_jobs=1)
        return np.asarray(model.predict(test_features), dtype=np.int64)


def _balanced_accuracy(codes: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    present = np.unique(codes)
    return float(np.mean([(predicted[codes == code] == code).mean() for code in present]))
