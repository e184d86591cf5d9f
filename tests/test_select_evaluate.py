"""The evaluation: an untouched test part, fair sizes, the same figures for any threads."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest

from mbflow.errors import DataError, InvalidArgumentError
from mbflow.select import evaluate as module
from mbflow.select import evaluate_selection, evaluate_split, stratified_split, summarise

pytest.importorskip("torch", reason="needs the extra `train`")
datasets = pytest.importorskip("sklearn.datasets", reason="needs the extra `train`")

RECIPE = {"fraction": 0.1, "epochs": 5}


@pytest.fixture(scope="module")
def wine():
    data = datasets.load_wine()
    return pl.DataFrame(data.data), data.target


@pytest.fixture(scope="module")
def records(wine):
    return evaluate_selection(*wine, recipe=RECIPE, seeds=2)


def test_records(wine, records):
    assert records.height == 2 * 3 * 3
    assert records["seed"].unique().sort().to_list() == [0, 1]
    for seed in (0, 1):
        train, test = stratified_split(wine[1], seed=seed)
        part = records.filter(seed=seed)
        assert set(part["test_rows"]) == {len(test)}
        assert set(part.filter(training_set="all")["rows"]) == {len(train)}
        assert set(part.filter(training_set="selected")["rows"]) == {round(0.1 * len(train))}
        assert set(part.filter(training_set="random")["rows"]) == {round(0.1 * len(train))}
    assert records["accuracy"].is_between(0, 1).all()
    assert (records.filter(training_set="all")["accuracy"] > 0.85).all()
    assert (records["fit_seconds"] > 0).all()
    assert (records.filter(training_set="selected")["selection_seconds"] > 0).all()


def test_accuracy_by_hand(wine):
    """1-NN on all rows, by loops over min-max scaled rows."""
    table, labels = wine
    (record, *_) = evaluate_split(table, labels, 3, recipe=RECIPE, classifiers=["1-NN"])
    train, test = stratified_split(labels, seed=3)
    values = table.to_numpy()
    low, high = values[train].min(axis=0), values[train].max(axis=0)
    scaled = (values - low) / (high - low)
    hits = []
    for row in test:
        gaps = ((scaled[train] - scaled[row]) ** 2).sum(axis=1)
        hits.append(labels[train[int(np.argmin(gaps))]] == labels[row])
    assert record["training_set"] == "all"
    assert record["accuracy"] == pytest.approx(np.mean(hits))
    by_class = [
        np.mean([h for h, r in zip(hits, test, strict=True) if labels[r] == c]) for c in range(3)
    ]
    assert record["balanced_accuracy"] == pytest.approx(np.mean(by_class))


def test_nothing_but_the_score_sees_the_test_part(wine, monkeypatch):
    """Other values in the test rows change no selection and no encoder."""
    table, labels = wine
    _, test = stratified_split(labels, seed=0)
    values = table.to_numpy().copy()
    values[test] = 1e6
    seen = []
    real = module.select_instances

    def spy(*arguments, **settings):
        selection = real(*arguments, **settings)
        seen.append(selection.indices)
        return selection

    monkeypatch.setattr(module, "select_instances", spy)
    for features in (table, pl.DataFrame(values, schema=table.schema)):
        evaluate_split(features, labels, 0, recipe=RECIPE, classifiers=["1-NN"])
    assert np.array_equal(*seen)


def test_the_same_for_any_threads_and_any_map(wine, records):
    plain = {"record_times": False, "recipe": RECIPE, "seeds": 2}
    expected = records.drop("fit_seconds", "selection_seconds")
    for threads in (1, 2):
        assert evaluate_selection(*wine, threads=threads, **plain).equals(expected)
    with ThreadPoolExecutor(2) as pool:
        assert evaluate_selection(*wine, threads=2, map=pool.map, **plain).equals(expected)


def test_a_split_is_plain_data(wine):
    import json
    import pickle
    from functools import partial

    split = partial(evaluate_split, *wine, recipe=RECIPE, classifiers=("1-NN",))
    assert json.loads(json.dumps(pickle.loads(pickle.dumps(split))(0)))[0]["seed"] == 0


def test_small_classes_do_not_break_a_split(wine):
    table, labels = wine
    names = [f"class {c}" for c in labels]
    names[0], names[1], names[2] = "one", "two", "two"
    records = evaluate_selection(table, names, recipe=RECIPE, seeds=1)
    assert records["accuracy"].is_finite().all()
    assert records["balanced_accuracy"].is_finite().all()


def test_a_cap_on_all_rows_is_reported(wine):
    records = evaluate_selection(
        *wine, recipe=RECIPE, seeds=1, classifiers=["1-NN"], max_train_rows=50
    )
    assert records.filter(training_set="all")["rows"].to_list() == [50]
    assert records.filter(training_set="all")["note"].to_list() == [
        "a stratified random 50 of 142 rows stand for all"
    ]
    assert records.filter(training_set="selected")["note"].to_list() == [""]


def test_no_warnings_leak_from_fits_that_do_not_converge():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((120, 4)) * [1, 1e4, 1e-4, 1e3]
    labels = (features[:, 1] > 0).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate_selection(
            features,
            labels,
            recipe={**RECIPE, "scale": "none"},
            seeds=1,
            classifiers=["logistic regression"],
        )


def test_progress_and_explicit_seeds(wine):
    seen = []
    records = evaluate_selection(
        *wine,
        recipe=RECIPE,
        seeds=[11, 5],
        classifiers=["1-NN"],
        on_progress=lambda *step: seen.append(step),
    )
    assert seen == [(1, 2), (2, 2)]
    assert records["seed"].unique(maintain_order=True).to_list() == [11, 5]


def test_errors_name_rows_of_the_whole_table(wine):
    table, labels = wine
    values = table.to_numpy().copy()
    values[170, 2] = np.inf
    with pytest.raises(DataError, match="in row 170") as caught:
        evaluate_selection(values, labels, recipe=RECIPE)
    assert caught.value.row == 170


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classifiers": ["svm"]}, "no classifier 'svm'; expected one of '1-NN'"),
        ({"classifiers": []}, "expected a list of names"),
        ({"classifiers": "1-NN"}, "expected a list of names"),
        ({"recipe": {"seed": 3}}, "the recipe sets 'seed'"),
        ({"seeds": 0}, "seeds is 0; expected at least one"),
        ({"test_fraction": 0.0}, "leaves no row to test on"),
        ({"test_fraction": 1.0}, "test_fraction is 1.0"),
        ({"max_train_rows": 0}, "max_train_rows is 0"),
    ],
)
def test_refusals(wine, settings, message):
    with pytest.raises(InvalidArgumentError, match=message):
        evaluate_selection(*wine, **{"recipe": RECIPE, "seeds": 1, **settings})


def made_up(accuracies):
    return [
        {
            "seed": seed,
            "training_set": training_set,
            "classifier": classifier,
            "rows": rows,
            "accuracy": accuracies[training_set][classifier][seed],
            "balanced_accuracy": accuracies[training_set][classifier][seed] / 2,
        }
        for seed in range(3)
        for training_set, rows in (("selected", 4), ("random", 4), ("all", 100))
        for classifier in ("1-NN", "random forest")
    ]


def test_summary_by_hand():
    accuracies = {
        "all": {"1-NN": [0.9, 0.9, 0.9], "random forest": [1.0, 1.0, 1.0]},
        "random": {"1-NN": [0.5, 0.6, 0.7], "random forest": [0.5, 0.5, 0.5]},
        "selected": {"1-NN": [0.6, 0.6, 0.9], "random forest": [0.4, 0.5, 0.6]},
    }
    summary = summarise(made_up(accuracies))
    rows = {(r["training_set"], r["classifier"]): r for r in summary.accuracy.to_dicts()}
    assert list(dict.fromkeys(key[0] for key in rows)) == ["all", "random", "selected"]
    assert len(rows) == 9
    assert rows["random", "1-NN"]["accuracy"] == pytest.approx(0.6)
    assert rows["random", "1-NN"]["accuracy_sd"] == pytest.approx(0.1)
    assert rows["random", "1-NN"]["balanced_accuracy"] == pytest.approx(0.3)
    assert rows["random", "1-NN"]["splits"] == 3
    assert rows["all", "mean of all"]["accuracy"] == pytest.approx(0.95)
    assert rows["all", "mean of all"]["rows"] == 100
    # The sd of the mean of both classifiers, not the mean of their sds.
    assert rows["selected", "mean of all"]["accuracy_sd"] == pytest.approx(
        np.std([0.5, 0.55, 0.75], ddof=1)
    )
    gaps = {r["classifier"]: r for r in summary.differences.to_dicts()}
    assert gaps["1-NN"]["difference"] == pytest.approx(0.1)
    assert gaps["1-NN"]["standard_error"] == pytest.approx(
        np.std([0.1, 0.0, 0.2], ddof=1) / np.sqrt(3)
    )
    assert gaps["mean of all"]["difference"] == pytest.approx(0.05)
    assert gaps["mean of all"]["balanced_difference"] == pytest.approx(0.025)


def test_summary_of_one_split_has_no_spread():
    rows = [
        r
        for r in made_up(
            {
                s: {c: [0.5] * 3 for c in ("1-NN", "random forest")}
                for s in ("all", "random", "selected")
            }
        )
        if r["seed"] == 0
    ]
    summary = summarise(pl.DataFrame(rows))
    assert summary.accuracy["accuracy_sd"].null_count() == summary.accuracy.height
    assert summary.differences["standard_error"].null_count() == 3
    with pytest.raises(InvalidArgumentError, match="no records"):
        summarise([])
