"""Awkward data through each of the three doors: a clear error, or a right answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mbflow.errors import DataError, InvalidArgumentError, MbflowError
from mbflow.select import InstanceSelector, select_instances
from selections import kept

pytest.importorskip("sklearn", reason="needs the extra `train`")

Door = Callable[[pl.DataFrame, dict[str, Any]], np.ndarray[Any, Any]]
NAMES = ("function", "selector", "pipeline")


@pytest.fixture(params=NAMES)
def door(request: pytest.FixtureRequest, tmp_path: Path) -> Door:
    """Select from a table with a column `label`; the kept rows."""

    def function(table: pl.DataFrame, given: dict[str, Any]) -> np.ndarray[Any, Any]:
        selection = select_instances(table, "label", **given)
        assert len(selection.scores) == table.height
        return selection.indices

    def selector(table: pl.DataFrame, given: dict[str, Any]) -> np.ndarray[Any, Any]:
        own = {key: value for key, value in given.items() if key in {"fraction", "count", "method"}}
        rest = {key: value for key, value in given.items() if key not in own}
        sampler = InstanceSelector(**own, settings=rest)
        if "label" not in table.columns:
            raise DataError("there is no label column 'label'")
        features, labels = sampler.fit_resample(table.drop("label"), table["label"])
        assert len(features) == len(labels) == len(sampler.sample_indices_)
        return sampler.sample_indices_

    def pipeline(table: pl.DataFrame, given: dict[str, Any]) -> np.ndarray[Any, Any]:
        text = ", ".join(f"{key}: {value}" for key, value in given.items())
        _, rows, why = kept(tmp_path, table, text)
        assert why.height == table.height
        return rows["row"].to_numpy()

    return {"function": function, "selector": selector, "pipeline": pipeline}[request.param]


@pytest.fixture
def through(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["door"])


def two_classes(rows: int = 60) -> pl.DataFrame:
    values = np.random.default_rng(0).normal(size=(rows, 2)) + np.arange(rows)[:, None] % 2
    return pl.DataFrame(values, schema=["x", "y"]).with_columns(
        label=pl.Series(["a", "b"] * (rows // 2))
    )


@pytest.mark.parametrize("method", ["auto", "coverage", "medoids", "random"])
def test_one_class(door: Door, through: str, method: str) -> None:
    table = two_classes().with_columns(label=pl.lit("only"))
    if through == "selector":
        # scikit-learn's checks ask a sampler to refuse it.
        with pytest.raises(InvalidArgumentError, match="only one class, 'only'; expected at least"):
            door(table, {"count": 6, "method": method})
    else:
        assert len(door(table, {"count": 6, "method": method})) == 6


def test_one_class_says_nothing_to_attention(door: Door) -> None:
    table = two_classes().with_columns(label=pl.lit("only"))
    with pytest.raises((DataError, InvalidArgumentError), match="two"):
        door(table, {"count": 6, "method": "attention"})


@pytest.mark.parametrize("method", ["auto", "coverage", "refine", "medoids", "random"])
def test_a_class_with_one_row(door: Door, method: str) -> None:
    table = two_classes(80)
    table = pl.concat([table, table.head(1).with_columns(label=pl.lit("lonely"))])
    rows = door(table, {"count": 8, "method": method})
    assert len(rows) == 8
    assert 80 in rows


@pytest.mark.parametrize("method", ["auto", "coverage", "refine", "medoids", "random"])
def test_all_rows_equal(door: Door, method: str) -> None:
    table = two_classes(80).with_columns(x=pl.int_range(80) % 2 * 1.0, y=pl.lit(3.0))
    rows = door(table, {"count": 8, "method": method})
    assert len(set(rows.tolist())) == 8
    assert set(rows % 2) == {0, 1}


def test_a_table_without_any_difference(door: Door) -> None:
    table = two_classes().with_columns(x=pl.lit(1.0), y=pl.lit(3.0))
    with pytest.raises(DataError, match="no usable feature column"):
        door(table, {"count": 6})


@pytest.mark.parametrize("given", [{"fraction": 0.001}, {"count": 1}])
def test_so_few_rows_that_a_class_would_vanish(door: Door, given: dict[str, Any]) -> None:
    assert sorted(door(two_classes(), given) % 2) == [0, 1]


def test_more_classes_than_rows_to_keep(door: Door) -> None:
    table = two_classes(100).with_columns(label=pl.format("class {}", pl.int_range(100) % 50))
    rows = door(table, {"count": 7})
    assert sorted(table["label"][rows.tolist()].unique()) == sorted(table["label"].unique())
    assert len(rows) == 50


@pytest.mark.parametrize(
    "given",
    [{"fraction": 1.5}, {"fraction": 0.0}, {"fraction": -0.1}, {"fraction": float("nan")},
     {"count": 0}, {"count": 61}],
)  # fmt: skip
def test_a_share_or_count_out_of_range(door: Door, through: str, given: dict[str, Any]) -> None:
    given = {key: ".nan" if value != value and through == "pipeline" else value
             for key, value in given.items()}  # fmt: skip
    with pytest.raises((MbflowError, ValueError), match=r"fraction|count"):
        door(two_classes(), given)


@pytest.mark.parametrize("value", [None, float("nan")])
def test_missing_labels(door: Door, value: float | None) -> None:
    labels = [0.0, 1.0] * 30
    labels[17] = value
    table = two_classes().with_columns(label=pl.Series(labels, dtype=pl.Float64))
    with pytest.raises(ValueError, match=r"row 17|NaN"):
        door(table, {"count": 6})


def test_no_label_column(door: Door) -> None:
    with pytest.raises(DataError, match=r"no label column 'label'|no column `label`"):
        door(two_classes().drop("label"), {"count": 6})


def test_no_rows(door: Door) -> None:
    with pytest.raises(ValueError, match=r"no rows?|0 rows"):
        door(two_classes().head(0), {"fraction": 0.5})


@pytest.mark.parametrize("method", ["auto", "random"])
def test_one_row(door: Door, method: str) -> None:
    with pytest.raises(ValueError, match=r"no usable feature column|one class"):
        door(two_classes().head(1), {"fraction": 0.5, "method": method})


def test_two_rows(door: Door) -> None:
    assert door(two_classes().head(2), {"count": 2}).tolist() == [0, 1]


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 1e308])
def test_infinities(door: Door, value: float) -> None:
    table = two_classes().with_columns(x=pl.when(pl.int_range(60) == 23).then(value).otherwise("x"))
    with pytest.raises(DataError, match=r"'x' holds .* in row 23"):
        door(table, {"count": 6})


def test_constant_and_empty_columns_are_left_out(door: Door) -> None:
    table = two_classes(80)
    odd = table.with_columns(
        same=pl.lit(4.0),
        nothing=pl.lit(None, pl.Float64),
        null=pl.lit(None),
        word=pl.lit("w"),
        gaps=pl.lit(None, pl.String),
        nan=pl.lit(float("nan")),
    )
    given = {"count": 8, "method": "coverage"}
    assert door(odd, given).tolist() == select_instances(table, "label", **given).indices.tolist()


def test_a_text_column_of_a_hundred_thousand_values(door: Door, through: str) -> None:
    rows = 100_000
    table = two_classes(rows).with_columns(name=pl.format("name {}", pl.int_range(rows)))
    given = {"count": 100, "method": "random"}
    seed = 5 if through == "pipeline" else 0
    expected = select_instances(table.drop("name"), "label", **given, seed=seed).indices
    assert door(table, given).tolist() == expected.tolist()


def test_very_many_columns(door: Door, through: str) -> None:
    columns = 4_000 if through == "pipeline" else 20_000
    values = np.random.default_rng(0).normal(size=(10, columns)).astype(np.float32)
    names = [f"c{number}" for number in range(columns)]
    table = pl.DataFrame(values, schema=names).with_columns(label=pl.Series(["a", "b"] * 5))
    rows = door(table, {"count": 4})
    assert len(rows) == 4
    assert sorted(rows % 2) == [0, 0, 1, 1]
