"""`select.evaluate` in a pipeline: records, tables, charts and what it says of chance."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from mbflow.errors import DataError, PipelineError
from mbflow.report import write_report
from mbflow.select import evaluate_selection
from mbflow.steps import run
from selections import labelled, pipeline, write

pytest.importorskip("torch", reason="needs the extra `train`")
pytest.importorskip("sklearn", reason="needs the extra `train`")

TABLE = labelled(240)
KEEP = "  keep: {use: select.keep, from: rows, with: {method: coverage, fraction: 0.1}}\n"


def evaluated(folder: Path, given: str, *, threads: int = 2, out: str = "runs"):
    if not (folder / "data").exists():
        write(folder / "data", TABLE)
    steps = f"{KEEP}  check: {{use: select.evaluate, from: [rows, keep], with: {{{given}}}}}"
    result = run(pipeline(folder, folder / "data", steps, threads=threads, out=out))
    return result, result.outputs["check"]


def test_records_are_those_of_the_function_for_any_threads(tmp_path: Path) -> None:
    given = "seeds: 2, classifiers: [1-NN, random forest], compare: [medoids]"
    expected = evaluate_selection(
        TABLE, "label", recipe={"method": "coverage", "fraction": 0.1}, seeds=[5, 6],
        classifiers=["1-NN", "random forest"], compare=["medoids"], record_times=False,
    )  # fmt: skip
    for threads in (1, 3):
        _, check = evaluated(tmp_path, given, threads=threads, out=f"r{threads}")
        assert pl.DataFrame(pl.from_arrow(check.table())).equals(expected)
    accuracy, differences = check.manifest["tables"]
    assert [row[0] for row in accuracy["rows"]] == [
        "all rows", "random 10 %", "selected 10 %", "medoids 10 %"
    ]  # fmt: skip
    assert accuracy["rows"][0][1] == 192
    assert differences["columns"][-2:] == ["p", "p (Holm)"]
    assert {row[0] for row in differences["rows"]} == {"selected", "medoids"}
    assert check.manifest["charts"][0].get("kind", "bars") == "bars"
    assert any("a stratified random sample" in note for note in check.manifest["notes"])


def test_several_reductions_give_one_line_each(tmp_path: Path) -> None:
    given = "seeds: 2, classifiers: [1-NN], compare: [random], reductions: [0.5, 0.9]"
    result, check = evaluated(tmp_path, given)
    chart = check.manifest["charts"][0]
    assert chart["kind"] == "lines"
    assert chart["groups"] == ["50 % left out", "90 % left out"]
    assert [one["name"] for one in chart["series"]] == ["all rows", "random", "selected"]
    all_rows = chart["series"][0]["mean"]
    assert all_rows[0] == all_rows[1]
    records = pl.DataFrame(pl.from_arrow(check.table()))
    assert sorted(records["fraction"].unique().to_list()) == [0.1, 0.5, 1.0]
    means = records.filter(training_set="selected").group_by("fraction").agg(pl.mean("accuracy"))
    assert chart["series"][2]["mean"] == pytest.approx(
        means.sort("fraction", descending=True)["accuracy"].to_list()
    )
    page = write_report(result.folder).read_text()
    assert page.count("<svg") == 2
    assert "50 % left out" in page
    assert "first principal axis" in page


def test_of_many_rows_a_sample_is_measured_on(tmp_path: Path) -> None:
    given = "seeds: 1, classifiers: [1-NN], max_rows: 100, max_train_rows: 30"
    _, check = evaluated(tmp_path, given)
    notes = check.manifest["notes"]
    assert "measured on a random 100 of 240 rows" in notes
    records = pl.DataFrame(pl.from_arrow(check.table()))
    rows = dict(records.select("training_set", "rows").rows())
    assert rows == {"all": 30, "random": 8, "selected": 8}
    assert any("30 of 80 rows stand for all" in note for note in notes)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("compare: [best]", PipelineError, "best"),
        ("reductions: [1.0]", PipelineError, "expected shares of at least 0 and below 1, found 1"),
        ("reductions: []", PipelineError, "reductions"),
        ("classifiers: [svm]", PipelineError, "svm"),
        ("seeds: 0", PipelineError, "expected at least 1"),
    ],
)
def test_refusals(tmp_path: Path, given: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        evaluated(tmp_path, given)


def test_a_bad_value_is_found_in_its_file(tmp_path: Path) -> None:
    keep = "  keep: {use: select.keep, from: rows, with: {count: 9, method: random}}\n"
    check = "  check: {use: select.evaluate, from: [rows, keep], with: {seeds: 1}}"
    bad = TABLE.with_columns(x=pl.when(pl.int_range(240) == 130).then(float("inf")).otherwise("x"))
    write(tmp_path / "data", bad, cuts=(100,))
    with pytest.raises(DataError, match=r"001\.parquet: .* in row 130; .*\(row 30 of this file"):
        run(pipeline(tmp_path, tmp_path / "data", keep + check))
