"""The evaluation: an untouched test part, fair sizes, the same figures for any threads."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest

from mbflow.errors import DataError, InvalidArgumentError
from mbflow.select import (
    FeatureEncoder,
    encode_labels,
    evaluate_selection,
    evaluate_split,
    kept_count,
    stratified_split,
    summarise,
)
from mbflow.select import evaluate as module

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

    class Watched(module.Chooser):
        def choose(self, *arguments, **settings):
            choice = super().choose(*arguments, **settings)
            seen.append(choice.indices)
            return choice

    monkeypatch.setattr(module, "Chooser", Watched)
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
        ({"max_train_rows": "x"}, "max_train_rows is 'x'"),
        ({"threads": 0}, "threads is 0"),
        ({"recipe": 3}, "recipe is 3; expected a mapping"),
        ({"fractions": 0.1}, r"fractions is 0\.1; expected a list"),
        ({"seeds": None}, "seeds is None; expected a number of splits"),
        ({"seeds": [-1]}, "seed is -1"),
        ({"seeds": [3, 1, 3]}, "seeds holds 3 twice"),
        ({"classifiers": ["1-NN", "1-NN"]}, "classifiers holds '1-NN' twice"),
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


def first_rows(features, labels, count, seed):
    """A method of one's own: the first rows of each class."""
    assert features.dtype == np.float32
    assert len(features) == len(labels.codes)
    return np.sort(
        np.concatenate([np.flatnonzero(labels.codes == code)[: count // 3] for code in range(3)])
    )


def test_other_methods_are_measured_on_the_same_splits(wine):
    records = evaluate_selection(
        *wine,
        recipe={"method": "coverage"},
        seeds=2,
        classifiers=["1-NN"],
        compare={"middle": "medoids", "first": first_rows, "same": "coverage"},
        fractions=[0.5, 0.1],
        record_times=False,
    )
    names = ["all", *["random", "selected", "middle", "first", "same"] * 2]
    for seed in (0, 1):
        part = records.filter(seed=seed)
        assert part["training_set"].to_list() == names
        assert part["fraction"].to_list() == [1.0] + [0.5] * 5 + [0.1] * 5
        train, test = stratified_split(wine[1], seed=seed)
        assert set(part["test_rows"]) == {len(test)}
        for share in (0.5, 0.1):
            wanted = kept_count(len(train), fraction=share)
            rows = dict(part.filter(fraction=share).select("training_set", "rows").rows())
            assert rows.pop("first") == wanted // 3 * 3
            assert set(rows.values()) == {wanted}
    same = records.filter(training_set="same").drop("training_set")
    assert same.equals(records.filter(training_set="selected").drop("training_set"))
    left_out = 1 - records["rows"] / 142
    np.testing.assert_allclose(records["effectiveness"], records["accuracy"] * left_out)
    assert (records.filter(training_set="all")["effectiveness"] == 0).all()
    # Accuracy on hand-picked rows, by hand.
    record = records.filter(seed=1, training_set="first", fraction=0.5).row(0, named=True)
    table, labels = wine
    train, test = stratified_split(labels, seed=1)
    encoder = FeatureEncoder()
    features = encoder.fit_transform(table[train])
    rows = first_rows(features, encode_labels(labels[train]), kept_count(142, fraction=0.5), 0)
    gaps = np.linalg.norm(features[rows][None] - encoder.transform(table[test])[:, None], axis=2)
    assert record["accuracy"] == pytest.approx(
        np.mean(labels[train][rows][gaps.argmin(axis=1)] == labels[test])
    )


def test_nothing_is_counted_twice(wine):
    records = evaluate_selection(
        *wine,
        recipe={"method": "random"},
        seeds=2,
        classifiers=["1-NN"],
        compare=["random", "medoids", "medoids"],
    )
    assert records["training_set"].to_list() == ["all", "random", "selected", "medoids"] * 2


@pytest.mark.peer("imblearn")
def test_peers_keep_their_share_or_say_why_not(wine):
    records = evaluate_selection(
        *wine,
        recipe={"method": "random"},
        seeds=1,
        classifiers=["1-NN"],
        compare=["NearMiss", "EditedNearestNeighbours"],
        fractions=[0.3, 0.1],
    )
    near = records.filter(training_set="NearMiss")
    assert near["rows"].to_list() == [43, 14]
    # What cleans keeps what it keeps, whatever share is asked for.
    edited = records.filter(training_set="EditedNearestNeighbours")
    assert edited["rows"].n_unique() == 1
    assert edited["accuracy"].n_unique() == 1
    late = evaluate_selection(
        *wine,
        recipe={"method": "random"},
        seeds=1,
        classifiers=["1-NN"],
        compare=["NearMiss"],
        peer_seconds=0.001,
    )
    assert set(late["training_set"]) == {"all", "random", "selected"}
    assert late.filter(training_set="all")["note"].to_list() == ["NearMiss: not done in 0.001 s"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compare": ["best"]}, "no method 'best' to compare with; expected some of 'auto'"),
        ({"compare": {"x": "best"}}, "no method 'best'"),
        ({"fractions": [0.1, 0.0]}, "fractions holds 0.0"),
        ({"fractions": [1.5]}, "fractions holds 1.5"),
        ({"fractions": [0.1, 0.2, 0.1]}, "fractions holds 0.1 twice"),
        ({"compare": {"selected": "medoids"}}, "compare gives the name 'selected'"),
        ({"compare": {"random": "medoids"}}, "compare gives the name 'random'"),
        ({"recipe": {"colour": 3}}, "the recipe sets 'colour', which `select_instances` does not"),
    ],
)
def test_refusals_of_comparisons(wine, settings, message):
    with pytest.raises(InvalidArgumentError, match=message):
        evaluate_selection(*wine, **{"recipe": RECIPE, "seeds": 1, **settings})


def test_quotas_by_class_and_strata_of_a_target_are_scaled_to_the_split(wine):
    table, labels = wine
    records = evaluate_selection(
        table,
        labels,
        recipe={"method": "coverage", "quotas": {"0": 30, "1": 6, "2": 6}},
        seeds=1,
        classifiers=["1-NN"],
        fractions=[0.1],
    )
    assert records.filter(training_set="selected")["rows"].to_list() == [14]
    target = table.columns[0]
    records = evaluate_selection(
        table, target, recipe={"method": "coverage", "quantiles": 4, "count": 20}, seeds=1,
        classifiers=["random forest"],
    )  # fmt: skip
    assert records.filter(training_set="selected")["rows"].to_list() == [20]
    assert records.filter(training_set="all")["accuracy"].item() > 0.4


def test_holm_counts_the_questions_asked():
    accuracies = {
        name: {c: list(np.array([0.5, 0.52, 0.51]) + gain) for c in ("1-NN", "random forest")}
        for name, gain in (("all", 0.3), ("random", 0.0), ("selected", 0.1))
    }
    accuracies["selected"]["1-NN"][0] += 0.01
    rows = made_up(accuracies)
    rows += [{**r, "training_set": "other", "accuracy": r["accuracy"] - r["seed"] / 50} for r in rows
             if r["training_set"] == "selected"]  # fmt: skip
    differences = summarise(rows, test_fraction=0.2).differences
    means = differences.filter(classifier="mean of all")
    assert means["training_set"].to_list() == ["selected", "other"]
    assert means["p"].to_list()[0] < 0.05
    assert means["p_holm"].to_list()[0] == pytest.approx(2 * means["p"].to_list()[0])
    # The larger of two p-values stays as it is, and is well above what a plain t-test would say.
    assert means["p_holm"].to_list()[1] == pytest.approx(means["p"].to_list()[1])
    assert differences.filter(pl.col("classifier") != "mean of all")["p_holm"].is_nan().all()
