"""The one deep entry: every kind of table, every kind of label, and what it refuses."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from mbflow import _native
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.select import (
    FeatureEncoder,
    Labels,
    attention_scores,
    encode_labels,
    hash_graph,
    keep_rows,
    neighbour_graph,
    select_instances,
    split_label,
)

pytest.importorskip("torch", reason="needs the extra `train`")
datasets = pytest.importorskip("sklearn.datasets", reason="needs the extra `train`")

# The paper's method, with little work.
QUICK = {"method": "attention", "neighbours": 10, "graph": "single_level", "epochs": 6, "seed": 4}


@pytest.fixture(scope="module")
def iris():
    data = datasets.load_iris()
    names = np.array(["setosa", "versicolor", "virginica"])[data.target]
    table = pl.DataFrame(data.data, schema=["a", "b", "c", "d"])
    return table.with_columns(kind=pl.Series(names))


@pytest.fixture(scope="module")
def expected(iris):
    return select_instances(iris, "kind", fraction=0.1, **QUICK)


def test_what_comes_out(iris, expected):
    assert expected.indices.dtype == np.int64
    assert (np.diff(expected.indices) > 0).all()
    assert len(expected.indices) == 15
    assert expected.scores.dtype == np.float32
    assert expected.scores.shape == (150,)
    assert expected.summary["class"].to_list() == ["setosa", "versicolor", "virginica"]
    assert expected.summary["kept"].to_list() == [5, 5, 5]
    assert [note.column for note in expected.columns] == ["a", "b", "c", "d"]
    assert iris[expected.indices]["kind"].value_counts()["count"].to_list() == [5, 5, 5]
    with pytest.raises(AttributeError):
        expected.indices = None


def test_every_kind_of_table_gives_the_same_rows(iris, expected):
    features, names = iris.drop("kind"), iris["kind"].to_list()
    arrow = iris.to_arrow()
    for table, labels in [
        (features, names),
        (features.to_numpy(), np.array(names)),
        (np.asfortranarray(features.to_numpy()), iris["kind"]),
        (features.to_pandas(), pd.Series(names, index=range(1000, 1150))),
        (iris.to_pandas(), "kind"),
        (iris.to_pandas().set_index(np.arange(150) * 7), "kind"),
        (iris.with_columns(pl.col("kind").cast(pl.Categorical)), "kind"),
        (arrow, "kind"),
        (arrow.to_batches()[0], "kind"),
        (pa.concat_tables([arrow.slice(0, 99), arrow.slice(99)]), "kind"),
        (features.to_arrow(), arrow["kind"]),
        (features, encode_labels(names)),
    ]:
        selection = select_instances(table, labels, fraction=0.1, **QUICK)
        assert np.array_equal(selection.indices, expected.indices)
        assert np.array_equal(selection.scores, expected.scores)
        assert selection.summary.equals(expected.summary)


def test_the_stages_one_by_one_give_the_same(iris, expected):
    table, labels = split_label(iris, "kind")
    features = FeatureEncoder().fit_transform(table)
    graph = hash_graph(features, seed=4)
    attention = attention_scores(features, labels, graph, epochs=6, seed=4)
    assert np.array_equal(attention.scores, expected.scores)
    assert np.array_equal(keep_rows(attention.scores, labels, fraction=0.1), expected.indices)


def test_any_number_of_threads_gives_the_same(iris, expected):
    before = _native.num_threads()
    try:
        for threads in (1, 2, 7):
            _native.set_num_threads(threads)
            selection = select_instances(iris, "kind", fraction=0.1, **QUICK)
            assert np.array_equal(selection.scores, expected.scores)
            assert np.array_equal(selection.indices, expected.indices)
    finally:
        _native.set_num_threads(before)


def test_the_label_column_is_no_feature(iris):
    leaking = iris.with_columns(code=iris["kind"].cast(pl.Categorical).to_physical())
    _, labels = split_label(leaking, "kind")
    assert labels.classes == ("setosa", "versicolor", "virginica")
    selection = select_instances(iris, "kind", fraction=0.1, **QUICK)
    assert "kind" not in [note.column for note in selection.columns]


def test_count_power_and_columns(iris):
    selection = select_instances(
        iris.head(120), "kind", count=12, power=0.0, columns=["a", "b"], **QUICK
    )
    assert selection.summary["rows"].to_list() == [50, 50, 20]
    assert selection.summary["kept"].to_list() == [4, 4, 4]
    assert [note.column for note in selection.columns] == ["a", "b"]
    everything = select_instances(iris, "kind", fraction=1.0, **QUICK)
    assert everything.indices.tolist() == list(range(150))


def test_fewer_rows_than_classes_are_said(iris):
    selection = select_instances(iris, "kind", count=2, **QUICK)
    assert selection.summary["kept"].to_list() == [1, 1, 1]
    assert "2 rows were asked for and 3 kept: one of each class" in selection.notes


def test_a_class_of_one_row_is_kept(iris):
    table = pl.concat([iris, iris.head(1).with_columns(kind=pl.lit("lonely"))])
    selection = select_instances(table, "kind", fraction=0.05, **QUICK)
    kept = dict(selection.summary.select("class", "kept").rows())
    assert kept["lonely"] == 1
    assert sum(kept.values()) == 8


def test_equal_rows_can_be_selected_from():
    features = np.zeros((30, 2))
    features[15:, 1] = 1
    selection = select_instances(features, [0, 1] * 15, count=6, **QUICK)
    assert selection.summary["kept"].to_list() == [3, 3]


def test_text_nulls_and_numbers_together():
    rng = np.random.default_rng(0)
    rows = 200
    labels = np.arange(rows) % 2
    table = pl.DataFrame(
        {
            "x": [None if i % 9 == 0 else float(v) for i, v in enumerate(rng.normal(labels))],
            "colour": [None if i % 13 == 0 else "rgb"[i % 3] for i in range(rows)],
            "flag": (rng.random(rows) < 0.2 + 0.6 * labels).tolist(),
            "id": [f"row {i}" for i in range(rows)],
        }
    )
    selection = select_instances(table, labels, fraction=0.1, **QUICK)
    assert {note.column: note.treatment for note in selection.columns} == {
        "x": "scaled",
        "colour": "one_hot",
        "flag": "kept",
        "id": "dropped",
    }


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": [0, 1]}, InvalidArgumentError, "there are 2 labels for 150 rows; expected one"),
        (
            {"labels": "nope"},
            DataError,
            "there is no label column 'nope'; the columns are 'a', 'b'",
        ),
        ({"labels": ["x"] * 150}, DataError, "all 150 labels are 'x'"),
        ({"labels": [0.5] * 150}, DataError, "cut a regression target .* which `quantiles` does"),
        ({"fraction": 0.0}, InvalidArgumentError, "fraction is 0.0"),
        ({"fraction": 1.5}, InvalidArgumentError, "fraction is 1.5"),
        (
            {"count": 151},
            InvalidArgumentError,
            "count is 151; expected a whole number from 1 to 150",
        ),
        ({"power": -1}, InvalidArgumentError, "power is -1"),
        ({"scale": "max"}, InvalidArgumentError, "scale is 'max'"),
        ({"columns": ["a", "zz"]}, DataError, "columns names 'zz'"),
        ({"neighbours": 0}, InvalidArgumentError, "neighbours"),
        ({"family": "cosine"}, InvalidArgumentError, "family"),
    ],
)
def test_refusals(iris, change, error, message):
    arguments = {"labels": "kind", **QUICK, **change}
    with pytest.raises(error, match=message):
        select_instances(iris, **arguments)


def test_one_row_and_no_rows(iris):
    with pytest.raises(DataError, match="no usable feature column"):
        select_instances(iris.head(1), "kind")
    with pytest.raises(DataError, match="no rows"):
        select_instances(iris.head(0), "kind")


def test_labels_by_name_keep_their_name_in_errors(iris):
    table = iris.with_columns(kind=pl.when(pl.col("a") > 5).then("kind"))
    with pytest.raises(DataError, match="column 'kind' has no label"):
        select_instances(table, "kind")


def test_encoded_labels_that_lack_rows_are_refused(iris):
    labels = Labels(np.zeros(3, np.int64), ("x",))
    with pytest.raises(InvalidArgumentError, match="there are 3 labels for 150 rows"):
        select_instances(iris, labels)


@pytest.mark.parametrize("name", ["car", "credit-g", "banknote"])
def test_real_sets(data_folder, name):
    path = data_folder / "tabular" / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"MBFLOW_DATA has no tabular/{name}.parquet")
    table = pl.read_parquet(path)
    selection = select_instances(table, "label", **QUICK)
    assert len(selection.indices) == int(table.height * 0.04 + 0.5)
    assert (selection.summary["kept"] >= 1).all()


def test_the_step_defaults_are_those_of_python() -> None:
    import inspect

    from mbflow.steps import CATALOGUE

    checked = 0
    for use, function in (
        ("select.hash_graph", hash_graph),
        ("select.graph", neighbour_graph),
        ("select.attention", attention_scores),
        ("select.keep", select_instances),
    ):
        here = inspect.signature(function).parameters
        for name, field in CATALOGUE[use].parameters.model_fields.items():
            # None leaves the choice to the other side.
            if name in here and here[name].default is not None and field.default is not None:
                assert here[name].default == field.default, (use, name)
                checked += 1
    assert checked >= 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": None}, "seed is None"),
        ({"threads": 0}, "threads is 0"),
        ({"fraction": "0.1"}, "fraction is 0.1"),
        ({"count": 2.5}, "count is 2.5"),
        ({"neighbours": 2.5}, "neighbour_graph"),
        ({"probes": -1}, "neighbour_graph"),
        (
            {"method": "attention", "heads": 10**6},
            "heads is 1000000; expected a whole number from 1 to 64",
        ),
    ],
)
def test_settings_of_the_wrong_kind(settings: dict[str, Any], message: str) -> None:
    features = np.arange(40, dtype=np.float32).reshape(20, 2)
    with pytest.raises(InvalidArgumentError, match=re.escape(message)):
        select_instances(features, ["a", "b"] * 10, **{"epochs": 1, **settings})


def test_a_type_that_polars_cannot_read_names_the_column() -> None:
    import pyarrow as pa

    table = pa.table({"wide": pa.array([1, 2], pa.decimal256(70, 10)), "y": ["a", "b"]})
    with pytest.raises(DataError, match=r"column 'wide' is of type decimal256\(70, 10\)"):
        select_instances(table, "y", epochs=1)
