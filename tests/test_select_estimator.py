"""The estimator: scikit-learn's and imbalanced-learn's checks, pipelines, kinds of tables, targets."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from mbflow.errors import DataError, InvalidArgumentError
from mbflow.select import InstanceSelector, select_instances

try:
    from imblearn.utils import estimator_checks as sampler_checks
except ImportError:
    sampler_checks = None

# Columns of y in place of a vector are part of what the checks try.
quiet = pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")


@quiet
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([InstanceSelector(method="coverage")])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def sampler_cases():
    if sampler_checks is None:
        return [pytest.param(None, marks=pytest.mark.skip(reason="imbalanced-learn is missing"))]
    selector = InstanceSelector(method="coverage")
    found = list(sampler_checks._yield_all_checks(selector))
    return [pytest.param(check, id=getattr(check, "__name__", str(check))) for check in found]


@quiet
@pytest.mark.parametrize("check", sampler_cases())
def test_imbalanced_learn_checks(check):
    # One of the checks wants a NaN among the kept rows, which 4 of 100 rows may well lack.
    check("InstanceSelector", InstanceSelector(0.5, method="coverage"))


def blobs(rows=300, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.choice(3, rows, p=[0.6, 0.3, 0.1])
    return rng.normal(size=(rows, 4)) + 2.0 * y[:, None], y


def test_it_keeps_what_select_instances_keeps():
    X, y = blobs()
    selector = InstanceSelector(0.1, method="coverage", power=0.5, random_state=3)
    X_kept, y_kept = selector.fit_resample(X, y)
    expected = select_instances(X, y, fraction=0.1, method="coverage", power=0.5, seed=3)
    assert selector.sample_indices_.tolist() == expected.indices.tolist()
    assert np.array_equal(X_kept, X[expected.indices])
    assert np.array_equal(y_kept, y[expected.indices])
    assert selector.sampling_strategy_ == dict(enumerate(np.bincount(y_kept).tolist()))
    assert clone(selector).get_params() == selector.get_params()


def test_classes_of_any_kind_and_given_rows():
    X, y = blobs()
    names = np.array(["red", "green", "blue"])[y]
    wanted = {"red": 5, "green": 4, "blue": 3}
    selector = InstanceSelector(count=12, method="coverage", sampling_strategy=wanted)
    _, kept = selector.fit_resample(X, names)
    assert selector.sampling_strategy_ == wanted
    assert sorted(kept) == ["blue"] * 3 + ["green"] * 4 + ["red"] * 5
    equal = InstanceSelector(count=12, method="coverage", sampling_strategy="equal").fit(X, names)
    assert set(equal.sampling_strategy_.values()) == {4}
    with pytest.raises(InvalidArgumentError, match="no row has the class 'pink'"):
        clone(selector).set_params(sampling_strategy={"pink": 1}).fit(X, names)
    for strategy in ("majority", 0.5, len):
        with pytest.raises(InvalidArgumentError, match=r"sampling_strategy is .* expected 'auto'"):
            clone(selector).set_params(sampling_strategy=strategy).fit(X, names)
    many = wanted | {"red": 9999}
    with pytest.raises(InvalidArgumentError, match="gives 9999 rows to the class 'red'"):
        clone(selector).set_params(sampling_strategy=many, count=None).fit(X, names)
    when = np.array(["2020-01-01", "NaT"] * (len(X) // 2), "datetime64[D]")
    with pytest.raises(DataError, match=r"no class .* in row 1"):
        clone(selector).set_params(sampling_strategy="auto").fit(X[: len(when)], when)
    with pytest.raises(InvalidArgumentError, match="settings holds 'seed'; give it as `random_st"):
        clone(selector).set_params(settings={"seed": 3}).fit(X, names)


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow", "list", "numpy"])
def test_tables_come_back_as_what_they_were(kind):
    X, y = blobs(100)
    expected = InstanceSelector(0.1, method="coverage").fit(X, y).sample_indices_
    names = ["a", "b", "c", "d"]
    table, target = {
        "pandas": lambda: (
            pd.DataFrame(X, columns=names, index=range(500, 600)),
            pd.Series(y, index=range(500, 600), name="kind", dtype="category"),
        ),
        "polars": lambda: (pl.DataFrame(X, schema=names), pl.Series("kind", y)),
        "pyarrow": lambda: (pa.table(dict(zip(names, X.T, strict=True))), pa.array(y)),
        "list": lambda: (X.tolist(), y.tolist()),
        "numpy": lambda: (X, y),
    }[kind]()
    selector = InstanceSelector(0.1, method="coverage")
    kept, labels = selector.fit_resample(table, target)
    assert type(kept) is type(table)
    assert type(labels) is type(target)
    assert selector.sample_indices_.tolist() == expected.tolist()
    assert np.allclose(np.asarray(kept), X[expected])
    assert np.array_equal(np.asarray(labels), y[expected])
    assert selector.n_features_in_ == 4
    if kind in {"pandas", "polars", "pyarrow"}:
        assert selector.feature_names_in_.tolist() == names
    if kind == "pandas":
        assert kept.index.tolist() == (expected + 500).tolist()
        assert (kept.dtypes == table.dtypes).all()
        assert labels.dtype == target.dtype


def test_frames_of_mixed_columns():
    rows = 60
    table = pd.DataFrame(
        {
            "age": pd.array([None, *range(1, rows)], dtype="Int64"),
            "town": pd.Categorical(["here", "there", None] * 20),
            "when": pd.date_range("2020", periods=rows),
        }
    ).drop(columns="when")
    kept, _ = InstanceSelector(0.2, method="coverage").fit_resample(table, [0, 1] * 30)
    assert len(kept) == 12
    assert (kept.dtypes == table.dtypes).all()


def test_a_numeric_target_is_cut_into_strata():
    X, _ = blobs(200)
    y = np.exp(X[:, 0])
    selector = InstanceSelector(0.1, method="coverage", quantiles=4)
    _, y_kept = selector.fit_resample(X, y)
    assert selector.sampling_strategy_ == dict.fromkeys(range(4), 5)
    edges = np.quantile(y, [0.25, 0.5, 0.75])
    assert np.bincount(np.searchsorted(edges, y_kept)).tolist() == [5, 5, 5, 5]
    # Targets of which most are equal have fewer strata.
    y[:150] = 0.0
    assert len(clone(selector).fit(X, y).sampling_strategy_) == 2
    with pytest.raises(InvalidArgumentError, match="Unknown label type"):
        InstanceSelector().fit(X, X[:, 0])
    with pytest.raises(InvalidArgumentError, match="quantiles is 0"):
        InstanceSelector(quantiles=0).fit(X, y)
    with pytest.raises(InvalidArgumentError, match="not numeric"):
        InstanceSelector(quantiles=3).fit(X, ["a"] * 200)
    with pytest.raises(ValueError, match="NaN"):
        InstanceSelector(quantiles=3).fit(X, np.full(200, np.nan))


def test_states_of_random_generators():
    X, y = blobs()
    by_key = [InstanceSelector(0.1, method="random", random_state=k).fit(X, y) for k in (1, 1, 2)]
    first, same, other = (selector.sample_indices_.tolist() for selector in by_key)
    assert first == same != other
    drawn = InstanceSelector(0.1, method="random", random_state=np.random.RandomState(5))
    assert drawn.fit(X, y).sample_indices_.tolist() != drawn.fit(X, y).sample_indices_.tolist()
    assert len(InstanceSelector(0.1, method="random", random_state=None).fit(X, y).sample_indices_)


def test_wrong_input_is_refused():
    X, y = blobs(50)
    for target, error, message in [
        (None, InvalidArgumentError, "requires y to be passed"),
        (np.zeros(50), InvalidArgumentError, "only one class"),
        (y[:-1], ValueError, "inconsistent numbers of samples"),
        (np.eye(3)[y] + 1, InvalidArgumentError, "Unknown label type"),
        (np.array([None, *["a", "b"] * 24, "a"], dtype=object), DataError, "row 0"),
    ]:
        with pytest.raises(error, match=message):
            InstanceSelector(method="coverage").fit(X, target)
    with pytest.raises(DataError, match="0 rows"):
        InstanceSelector().fit(pl.DataFrame({"a": []}), [])
    with pytest.raises(InvalidArgumentError, match="fraction is 2"):
        InstanceSelector(2).fit(X, y)
    with pytest.raises(NotFittedError):
        InstanceSelector().get_feature_names_out()


def test_it_works_in_pipelines_and_searches():
    pipeline = pytest.importorskip("imblearn.pipeline")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.preprocessing import StandardScaler

    X, y = blobs(400)
    chain = pipeline.Pipeline(
        [
            ("scale", StandardScaler()),
            ("select", InstanceSelector(method="coverage")),
            ("classify", LogisticRegression()),
        ]
    )
    search = GridSearchCV(chain, {"select__fraction": [0.1, 0.3]}, cv=3, error_score="raise")
    search.fit(X, y)
    # Rows are dropped for training alone.
    assert len(search.predict(X)) == 400
    assert search.best_score_ > 0.7
    assert len(search.best_estimator_["select"].sample_indices_) in {40, 120}


def test_importing_select_loads_no_scikit_learn():
    code = "import sys, mbflow.select; print('sklearn' in sys.modules)"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout == "False\n"
