"""Every method behind one door: exact counts, what is shared, and what parts of data may lack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mbflow import _native
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.select import Labels, class_quotas, neighbour_graph, select_instances
from mbflow.select.choose import METHODS, Chooser
from mbflow.select.features import FeatureEncoder
from selections import labelled

pytest.importorskip("torch", reason="needs the extra `train`")
pytest.importorskip("sklearn", reason="needs the extra `train`")

TABLE = labelled(200)
FEATURES = FeatureEncoder().fit_transform(TABLE.drop("label", "target"))
CODES = np.searchsorted(["a", "b", "c"], TABLE["label"].to_numpy().astype(str))
LABELS = Labels(CODES, ("a", "b", "c"))
QUICK = {"rounds": 2, "epochs": 3, "heads": 1}


@pytest.fixture(scope="module")
def chooser() -> Chooser:
    return Chooser(FEATURES, LABELS, settings=QUICK, seed=3)


@pytest.mark.parametrize("method", METHODS)
def test_one_chooser_gives_what_many_calls_give(chooser: Chooser, method: str) -> None:
    """The graph, the kernel and the attention that methods share carry nothing over."""
    choice = chooser.choose(method, count=24)
    fresh = Chooser(FEATURES, LABELS, settings=QUICK, seed=3).choose(method, count=24)
    np.testing.assert_array_equal(choice.indices, fresh.indices)
    np.testing.assert_array_equal(choice.scores, fresh.scores)
    assert len(choice.indices) == 24
    assert (np.diff(choice.indices) > 0).all()
    assert choice.scores.dtype == np.float32
    assert np.isfinite(choice.scores).all()
    if choice.representatives is not None:
        kept = choice.representatives >= 0
        assert set(choice.representatives[kept]) <= set(choice.indices.tolist())


@pytest.mark.parametrize("method", [name for name in METHODS if name != "refine"])
def test_counts_of_a_part_of_the_data_are_exact_also_where_they_are_zero(
    chooser: Chooser, method: str
) -> None:
    counts = np.array([9, 0, 4])
    choice = chooser.choose(method, counts=counts)
    assert np.bincount(CODES[choice.indices], minlength=3).tolist() == [9, 0, 4]


def test_a_part_with_one_class_is_covered_instead_of_attended_to() -> None:
    rows = np.flatnonzero(CODES == 0)
    part = Chooser(FEATURES[rows], Labels(CODES[rows], ("a", "b")), settings=QUICK)
    choice = part.choose("attention", counts=np.array([5, 0]))
    plain = part.choose("coverage", counts=np.array([5, 0]))
    assert choice.method == "coverage"
    assert choice.notes
    np.testing.assert_array_equal(choice.indices, plain.indices)
    with pytest.raises(
        DataError, match=r"all \d+ labels are 'a'; attention learns to tell classes"
    ):
        part.choose("attention", count=5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("edit_noise", [False, True])
def test_any_number_of_threads_gives_the_same(method: str, edit_noise: bool) -> None:
    before = _native.num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            _native.set_num_threads(threads)
            choice = Chooser(FEATURES, LABELS, settings=QUICK, seed=3, threads=threads).choose(
                method, count=20, edit_noise=edit_noise
            )
            found.append((choice.indices, choice.scores, choice.notes))
    finally:
        _native.set_num_threads(before)
    for indices, scores, notes in found[1:]:
        np.testing.assert_array_equal(indices, found[0][0])
        np.testing.assert_array_equal(scores, found[0][1])
        assert notes == found[0][2]


def test_kept_rows_score_what_they_stand_for(chooser: Chooser) -> None:
    choice = chooser.choose("coverage", count=24)
    kept = np.zeros(200, bool)
    kept[choice.indices] = True
    assert (choice.scores[~kept] == 0).all()
    assert (choice.scores[kept] >= 1 - 1e-6).all() or (choice.scores[kept] > 0).all()
    assert choice.scores.sum() <= 200


def test_auto_searches_where_it_can_and_is_guarded_where_it_cannot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = Chooser(FEATURES[:40], Labels(CODES[:40], LABELS.classes), settings=QUICK)
    assert few.choose("auto", count=6).method == "coverage"
    assert Chooser(FEATURES, LABELS, settings=QUICK).choose("auto", count=20).method == "refine"
    monkeypatch.setattr("mbflow.select.choose._SEARCHED_ROWS", 100)
    choice = Chooser(FEATURES, LABELS, settings=QUICK).choose("auto", count=20)
    assert choice.method in {"coverage", "random"}
    assert choice.notes[0].startswith("the better on rows that neither keeps: random 0.")
    # Told the rows of each class, as for one part of many, it neither searches nor judges.
    counts = class_quotas(LABELS, 20)
    assert Chooser(FEATURES, LABELS, settings=QUICK).choose("auto", counts=counts).notes == ()


def test_the_guard_takes_what_scores_better_be_it_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that say nothing, so that chance decides which of the two is better."""
    random = np.random.default_rng(0)
    features = random.normal(size=(300, 3)).astype(np.float32)
    labels = Labels(random.integers(0, 2, 300), ("a", "b"))
    monkeypatch.setattr("mbflow.select.choose._SEARCHED_ROWS", 100)
    taken = set()
    for seed in range(8):
        chooser = Chooser(features, labels, settings={}, seed=seed)
        choice = chooser.choose("auto", count=16)
        scored = choice.notes[0].removeprefix("the better on rows that neither keeps: ")
        scores = {
            name: float(score) for name, score in (p.rsplit(" ", 1) for p in scored.split("; "))
        }
        assert len(scores) == 2
        best = max(scores, key=lambda name: scores[name])
        assert choice.method == ("random" if best == "random" else "coverage")
        if choice.method == "coverage":
            covered = chooser.choose("coverage", count=16)
            np.testing.assert_array_equal(choice.indices, covered.indices)
        taken.add(choice.method)
    assert taken == {"random", "coverage"}


@pytest.mark.parametrize("edit_noise", [False, True])
@pytest.mark.parametrize(
    "rule",
    [{"quotas": "equal"}, {"quotas": "proportional"}, {"quotas": "power"}, {"power": 0.2}],
)
def test_a_search_keeps_to_the_quotas_asked_for(rule: dict[str, Any], edit_noise: bool) -> None:
    chooser = Chooser(FEATURES, LABELS, settings={**QUICK, "rounds": 4})
    choice = chooser.choose("auto", count=25, edit_noise=edit_noise, **rule)
    assert choice.method == "refine"
    kept = np.bincount(LABELS.codes[choice.indices], minlength=len(LABELS.classes))
    assert kept.tolist() == class_quotas(LABELS, 25, **rule).tolist()


def test_gain_is_for_coverage() -> None:
    chooser = Chooser(FEATURES, LABELS, settings=QUICK)
    assert chooser.choose("auto", count=20, quotas="gain").method == "coverage"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "refine", "quotas": "gain"}, "which 'refine' does not know"),
        ({"method": "best"}, "method is 'best'; expected one of 'auto', 'coverage', 'refine'"),
        ({"method": "medoids", "quotas": "gain"}, "which 'medoids' does not know"),
        ({"method": "random", "quotas": "fair"}, "quotas is 'fair'"),
        ({"neighbours": 0, "method": "coverage"}, "neighbours"),
        ({"graph": "round", "method": "coverage"}, "kind is 'round'; expected one of exact"),
        ({"metric": "chess", "method": "coverage"}, "chess"),
        ({"rounds": -1, "method": "refine"}, "rounds is -1; expected a whole number of at least 0"),
        ({"quantiles": 1}, "strata is 1"),
        ({"nieghbours": 3}, "takes no 'nieghbours'; did you mean 'neighbours'"),
        ({"graph": "exact", "probes": 3, "method": "coverage"}, "probes does not apply to kind"),
    ],
)
def test_refusals(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        select_instances(FEATURES, LABELS if "quantiles" not in settings else TABLE["target"],
                         count=20, **settings)  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["exact", "single_level", "multi_level", "multi_view", "mini_batch"]
)
@pytest.mark.parametrize("metric", ["euclidean", "manhattan", "cosine"])
def test_every_graph_and_metric_can_be_covered(kind: str, metric: str) -> None:
    selection = select_instances(
        FEATURES, LABELS, count=20, method="coverage", graph=kind, metric=metric, seed=2
    )
    assert len(selection.indices) == 20
    graph = neighbour_graph(
        FEATURES, kind=kind, metric=metric, neighbours=40, seed=2,
        labels=LABELS if kind == "mini_batch" else None,
    )  # fmt: skip
    given = Chooser(FEATURES, LABELS, settings={}, graph=graph).choose("coverage", count=20)
    np.testing.assert_array_equal(selection.indices, given.indices)


def test_rows_of_each_class_say_how_many_in_all() -> None:
    quotas = {"a": 7, "b": 2, "c": 11}
    for method in ("auto", "coverage", "medoids", "random"):
        selection = select_instances(TABLE, "label", quotas=quotas, method=method, rounds=1)
        assert dict(selection.summary.select("class", "kept").rows()) == quotas
    with pytest.raises(InvalidArgumentError, match="adds up to 20 rows and 21 are to be kept"):
        select_instances(TABLE, "label", quotas=quotas, count=21)


def test_a_numeric_target_is_cut_at_its_quantiles() -> None:
    selection = select_instances(
        TABLE, "target", quantiles=5, quotas="equal", count=25, method="coverage"
    )
    assert selection.summary["rows"].to_list() == [40] * 5
    assert selection.summary["kept"].to_list() == [5] * 5
    edges = np.quantile(TABLE["target"].to_numpy(), [0.2, 0.4, 0.6, 0.8])
    codes = np.searchsorted(edges, TABLE["target"].to_numpy()[selection.indices])
    assert np.bincount(codes).tolist() == [5] * 5
