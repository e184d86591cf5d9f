"""`select.keep` on rows, on a graph, on scores: the functions of `mbflow.select` say what is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from mbflow.errors import DataError, InvalidArgumentError, PipelineError
from mbflow.flow.folder import find, verify
from mbflow.flow.run import run
from mbflow.flow.spec import Parameters
from mbflow.flow.step import Catalogue, Step
from mbflow.flow.validate import load
from mbflow.select import (
    FeatureEncoder,
    coverage_rows,
    encode_labels,
    explain_selection,
    keep_rows,
    neighbour_graph,
    quantile_labels,
    select_instances,
)
from mbflow.select.attention_coverage import coverage_weights
from mbflow.steps import CATALOGUE
from mbflow.steps import run as run_pipeline
from mbflow.steps.select_graph import read_graph, read_scores
from selections import kept, labelled, pipeline, write

pytest.importorskip("torch", reason="needs the extra `train`")
pytest.importorskip("sklearn", reason="needs the extra `train`")

TABLE = labelled()
FEATURES = TABLE.drop("label")
GRAPH = """\
  graph: {use: select.graph, from: rows, with: {kind: multi_view, views: 3, neighbours: 12}}
  score: {use: select.attention, from: graph, with: {heads: 1, epochs: 8}}
"""


def is_sound(result, rows: pl.DataFrame, why: pl.DataFrame, count: int, classes: int = 3) -> None:
    """What holds for every selection of TABLE, whatever chose it."""
    assert rows.height == count
    assert rows["row"].is_sorted()
    assert rows["row"].n_unique() == count
    assert rows.drop("row", "score").equals(TABLE[rows["row"].to_list()])
    assert why["row"].to_list() == list(range(TABLE.height))
    chosen = why.filter("kept")
    assert chosen["row"].to_list() == rows["row"].to_list()
    assert chosen["score"].to_list() == rows["score"].to_list()
    assert chosen["representative"].to_list() == chosen["row"].to_list()
    assert chosen["class"].n_unique() == classes
    assert chosen["stands_for"].sum() == TABLE.height - count
    assert verify(find(result.folder))[1] == []


@pytest.mark.parametrize(
    "method", ["auto", "coverage", "refine", "medoids", "random", "attention", "attention_coverage"]
)
def test_every_method_from_rows_keeps_what_the_function_keeps(tmp_path: Path, method: str) -> None:
    given = f"method: {method}, count: 40, rounds: 2"
    result, rows, why = kept(tmp_path, TABLE, given)
    is_sound(result, rows, why, 40)
    expected = select_instances(TABLE, "label", count=40, method=method, rounds=2, seed=5)
    np.testing.assert_array_equal(rows["row"], expected.indices)
    np.testing.assert_array_equal(why["score"], expected.scores)
    assert result.outputs["keep"].meta["method"] == expected.method
    assert (method, expected.method) in {("auto", "refine"), (expected.method, expected.method)}


def test_from_a_graph_its_edges_count_and_none_is_built(tmp_path: Path) -> None:
    result, rows, why = kept(
        tmp_path, TABLE, "method: coverage, count: 40", steps=GRAPH, source="graph"
    )
    is_sound(result, rows, why, 40)
    table, features, graph = read_graph(result.outputs["graph"])
    assert graph.weights is not None
    assert graph.metric == "euclidean"
    np.testing.assert_array_equal(features, FeatureEncoder().fit_transform(FEATURES))
    expected = coverage_rows(features, table["label"], count=40, graph=graph)
    np.testing.assert_array_equal(rows["row"], np.sort(expected.indices))
    plain = select_instances(TABLE, "label", count=40, method="coverage", seed=5)
    assert rows["row"].to_list() != plain.indices.tolist()


@pytest.mark.parametrize("source", ["score", "'[graph, score]'", "'[rows, score]'"])
def test_from_scores_the_highest_of_each_class(tmp_path: Path, source: str) -> None:
    result, rows, why = kept(
        tmp_path, TABLE, "method: attention, count: 40", steps=GRAPH, source=source.strip("'")
    )
    is_sound(result, rows, why, 40)
    scores = result.outputs["score"].table()["score"].to_numpy()
    np.testing.assert_array_equal(why["score"], scores)
    np.testing.assert_array_equal(rows["row"], keep_rows(scores, TABLE["label"], count=40))


def test_what_auto_takes_depends_on_what_comes_in(tmp_path: Path) -> None:
    for number, (source, method) in enumerate(
        [
            ("rows", "refine"),
            ("graph", "refine"),
            ("score", "attention"),
            ("[graph, score]", "attention"),
        ]
    ):
        given = "count: 30, rounds: 1"
        result, *_ = kept(tmp_path, TABLE, given, steps=GRAPH, source=source, out=f"r{number}")
        assert result.outputs["keep"].meta["method"] == method
        assert result.outputs["keep"].meta["recipe"]["method"] == method


def test_coverage_weighed_by_scores_takes_those_that_come_in(tmp_path: Path) -> None:
    given = "method: attention_coverage, count: 40"
    result, rows, why = kept(tmp_path, TABLE, given, steps=GRAPH, source="[graph, score]")
    is_sound(result, rows, why, 40)
    table, features, graph = read_graph(result.outputs["graph"])
    weights = coverage_weights(read_scores(result.outputs["score"].table()))
    expected = coverage_rows(features, table["label"], count=40, graph=graph, weights=weights)
    np.testing.assert_array_equal(rows["row"], np.sort(expected.indices))


SIZES = dict(TABLE["label"].value_counts().sort("label").rows())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("count: 36, quotas: equal", {"a": 12, "b": 12, "c": 12}),
        ("count: 36, quotas: power, power: 0", {"a": 12, "b": 12, "c": 12}),
        ("quotas: {a: 3, b: 20, c: 5}", {"a": 3, "b": 20, "c": 5}),
        ("count: 28, quotas: {a: 3, b: 20, c: 5}", {"a": 3, "b": 20, "c": 5}),
        ("fraction: 1.0", SIZES),
        ("fraction: 0.001", {"a": 1, "b": 1, "c": 1}),
    ],
)
def test_quotas(tmp_path: Path, given: str, expected: dict[str, int]) -> None:
    result, rows, why = kept(tmp_path, TABLE, f"method: coverage, {given}")
    is_sound(result, rows, why, sum(expected.values()))
    assert dict(rows["label"].value_counts().sort("label").rows()) == expected
    table = result.outputs["keep"].manifest["tables"][-1]
    assert table["title"] == "Rows kept per class"
    assert {row[0]: row[2] for row in table["rows"]} == expected
    assert {row[0]: row[1] for row in table["rows"]} == SIZES


def test_proportional_quotas_and_gain_add_up(tmp_path: Path) -> None:
    _, rows, _ = kept(tmp_path, TABLE, "method: coverage, count: 36, quotas: proportional")
    found = dict(rows["label"].value_counts().rows())
    assert all(abs(found[name] - size / 10) < 1 for name, size in SIZES.items())
    result, rows, why = kept(
        tmp_path, TABLE, "method: coverage, count: 36, quotas: gain", out="gain"
    )
    is_sound(result, rows, why, 36)


def test_a_class_that_would_vanish_keeps_a_row_and_that_is_said(tmp_path: Path) -> None:
    result, *_ = kept(tmp_path, TABLE, "method: coverage, count: 1")
    notes = result.outputs["keep"].manifest["notes"]
    assert "1 rows were asked for; each of the 3 classes keeps at least one row" in notes


@pytest.mark.parametrize("source", ["rows", "graph", "score"])
def test_a_numeric_target_is_cut_into_strata(tmp_path: Path, source: str) -> None:
    method = "attention" if source == "score" else "coverage"
    steps = (
        "  graph: {use: select.graph, from: rows, with: {quantiles: 4}}\n"
        "  score: {use: select.attention, from: graph, with: {heads: 1, epochs: 3}}\n"
    )
    _, rows, why = kept(
        tmp_path, TABLE, f"count: 40, quotas: equal, quantiles: 4, method: {method}", steps=steps,
        source=source, label="target",
    )  # fmt: skip
    strata = quantile_labels(TABLE["target"], 4)
    assert why["class"].to_list() == [strata.classes[code] for code in strata.codes]
    assert np.bincount(strata.codes[rows["row"].to_numpy()]).tolist() == [10] * 4
    assert rows["target"].dtype == pl.Float64
    again, *_ = kept(tmp_path, TABLE, "count: 40, rounds: 1", label="label", out="classes")
    assert "quantiles" not in again.outputs["keep"].meta["recipe"] or (
        again.outputs["keep"].meta["recipe"]["quantiles"] is None
    )


@pytest.mark.parametrize("method", ["coverage", "random"])
def test_why_is_what_explain_selection_says_in_positions_of_the_source(
    tmp_path: Path, method: str
) -> None:
    condition = "x > 0"
    positions = np.flatnonzero(TABLE["x"].to_numpy() > 0)
    part = TABLE[positions]
    _, rows, why = kept(
        tmp_path, TABLE, f"method: {method}, count: 30", more=f", where: '{condition}'"
    )
    assert why["row"].to_list() == positions.tolist()
    selection = select_instances(part, "label", count=30, method=method, seed=5)
    assert rows["row"].to_list() == positions[selection.indices].tolist()
    expected = explain_selection(
        FeatureEncoder().fit_transform(part.drop("label")),
        part["label"],
        indices=selection.indices,
        representatives=selection.representatives,
    )
    assert why["class"].to_list() == part["label"].to_list()
    assert why["kept"].to_list() == expected.kept.tolist()
    assert why["representative"].to_list() == positions[expected.representatives].tolist()
    np.testing.assert_array_equal(why["distance"], expected.distances)
    assert why["stands_for"].to_list() == expected.stands_for.tolist()
    other = expected.nearest_other
    assert why["nearest_other"].to_list() == [
        positions[row] if row >= 0 else None for row in other.tolist()
    ]
    assert why["other_distance"].null_count() == int((other < 0).sum())


def test_explanations_can_be_left_out(tmp_path: Path) -> None:
    result, rows, why = kept(tmp_path, TABLE, "method: coverage, count: 30, explain: false")
    assert (rows.height, why.height) == (30, 0)
    assert [p.name for p in result.outputs["keep"].folder.iterdir() if p.is_dir()] == []
    assert verify(find(result.folder))[1] == []


def test_tables_beside_are_out_of_the_way_of_readers_of_a_folder(tmp_path: Path) -> None:
    import pyarrow.dataset as ds

    result, rows, _ = kept(tmp_path, TABLE, "method: coverage, count: 30")
    folder = result.outputs["keep"].folder
    assert pl.read_parquet(folder / "*.parquet").equals(rows)
    assert ds.dataset(folder).to_table().num_rows == 30
    # A pipeline can start from the kept rows of another one.
    again = pipeline(
        tmp_path, folder,
        "  keep: {use: select.keep, from: rows, with: {count: 9, method: random,"
        " row_column: r, score_column: s}}",
        out="again",
    )  # fmt: skip
    assert run_pipeline(again).outputs["keep"].table().num_rows == 9


def test_columns_are_named_as_asked_and_noise_is_edited(tmp_path: Path) -> None:
    noisy = TABLE.with_columns(
        label=pl.when(pl.int_range(TABLE.height) % 40 == 1)
        .then(pl.lit("c"))
        .otherwise(pl.col("label"))
    )
    given = "method: medoids, count: 30, edit_noise: true, row_column: position, score_column: why"
    _, rows, _ = kept(tmp_path, noisy, given)
    assert rows.columns == [*TABLE.columns, "position", "why"]
    expected = select_instances(noisy, "label", count=30, method="medoids", edit_noise=True, seed=5)
    assert rows["position"].to_list() == expected.indices.tolist()
    plain = select_instances(noisy, "label", count=30, method="medoids", seed=5)
    assert rows["position"].to_list() != plain.indices.tolist()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("fraction: 1.5", PipelineError, "expected at most 1.0, found 1.5"),
        ("fraction: 0", PipelineError, "expected above 0.0, found 0|found 0"),
        ("fraction: 0.1, count: 3", PipelineError, "expected `fraction` or `count`, found both"),
        ("count: 361", DataError, "source `rows` has 360 rows; `count: 361` cannot be kept"),
        ("method: best", PipelineError, "best"),
        ("quotas: fair", PipelineError, "fair"),
        ("quotas: {a: 3}", InvalidArgumentError, "gives no rows to the class 'b'"),
        ("quotas: {a: 3, b: 3, c: 3, d: 1}", InvalidArgumentError, "names the class 'd'"),
        ("quotas: {a: 3, b: 3, c: 360}", InvalidArgumentError, "gives 360 rows to the class 'c'"),
        ("count: 9, quotas: {a: 3, b: 3, c: 4}", InvalidArgumentError, "adds up to 10 rows and 9"),
        ("quotas: gain, method: medoids", InvalidArgumentError, "'medoids' does not know"),
        ("quantiles: 4", DataError, "column 'label' is of type String; expected numbers"),
        ("row_column: x", DataError, "has a column `x` already; .* with `row_column`"),
        ("score_column: row", PipelineError, "`row` is the name of `row_column` already"),
    ],
)
def test_refusals(tmp_path: Path, given: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kept(tmp_path, TABLE, given)
    assert not list((tmp_path / "runs").rglob("part-*"))


@pytest.mark.parametrize(
    ("more", "label", "message"),
    [
        (", where: 'x > 1000'", "label", "source `rows`: no row passes `where`"),
        (", columns: [x]", "gone", "no column `gone`"),
    ],
)
def test_sources_that_cannot_be_used(tmp_path: Path, more: str, label: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        kept(tmp_path, TABLE, "count: 3", more=more, label=label)


def test_scores_of_other_rows_are_refused(tmp_path: Path) -> None:
    def shuffled(context, parameters) -> None:
        positions = context.inputs[0].positions()
        rows = positions[::-1] if context.seed == 5 else positions[:-1]
        context.write(pa.table({"row": rows, "score": np.ones(len(rows), np.float32)}))
        context.meta["recipe"] = {"scale": "min_max", "max_categories": 32}

    catalogue = Catalogue(CATALOGUE).with_steps(
        [Step("test.score", 1, shuffled, Parameters, ("rows",), "scores", "Scores.", label=True)]
    )
    write(tmp_path / "data", TABLE)
    for seed, message in ((5, "the score in row 0 is of row 359"), (6, "359 scores for 360 rows")):
        steps = (
            f"  score: {{use: test.score, from: rows, seed: {seed}}}\n"
            "  keep: {use: select.keep, from: score, with: {count: 9}}"
        )
        file = pipeline(tmp_path, tmp_path / "data", steps)
        with pytest.raises(DataError, match=message):
            run(load(file, catalogue))


def test_an_evaluation_follows_what_was_kept(tmp_path: Path) -> None:
    """The quotas given by class and the strata of a numeric target are those of the training part."""
    write(tmp_path / "data", TABLE)
    keep = "  keep: {{use: select.keep, from: rows, with: {{method: coverage, {given}}}}}\n"
    check = (
        "  check: {use: select.evaluate, from: [rows, keep], with: {seeds: 1, classifiers: [1-NN]}}"
    )
    for number, (given, label, rows) in enumerate(
        [("quotas: {a: 10, b: 20, c: 10}", "label", 32), ("count: 40, quantiles: 3", "target", 32)]
    ):
        file = pipeline(
            tmp_path, tmp_path / "data", keep.format(given=given) + check, label=label,
            out=f"r{number}",
        )  # fmt: skip
        records = pl.DataFrame(pl.from_arrow(run_pipeline(file).outputs["check"].table()))
        assert records.filter(training_set="selected")["rows"].to_list() == [rows]
        assert records["accuracy"].is_between(0.3, 1).all()


def test_graph_labels_and_neighbours_stand_in_the_output(tmp_path: Path) -> None:
    result, *_ = kept(tmp_path, TABLE, "count: 9, method: coverage", steps=GRAPH, source="graph")
    features = FeatureEncoder().fit_transform(FEATURES)
    expected = neighbour_graph(features, kind="multi_view", views=3, neighbours=12, seed=5)
    table = pl.DataFrame(pl.from_arrow(result.outputs["graph"].table()))
    assert table["neighbours"].explode().to_list() == expected.neighbours.tolist()
    assert table["weights"].explode().to_list() == expected.weights.tolist()
    assert encode_labels(table["label"]).classes == ("a", "b", "c")
