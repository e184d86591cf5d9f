"""The evidence, resource and scale parts of `bench select`, on as little as will do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mbflow.bench import evidence, resources, scale
from mbflow.cli import main
from mbflow.errors import DataError, ResourceError
from selections import labelled

pytest.importorskip("torch", reason="needs the extra `train`")
pytest.importorskip("sklearn", reason="needs the extra `train`")

SETS = {
    "one": (labelled(90).drop("target"), "label"),
    "two": (labelled(80, seed=4).drop("target"), "label"),
}


@pytest.fixture(scope="module")
def records() -> pl.DataFrame:
    return evidence.run(SETS, seeds=2, reductions=[0.8], methods=["medoids", "coverage"])


def test_evidence_has_every_method_on_every_split(records: pl.DataFrame) -> None:
    assert records["set"].unique(maintain_order=True).to_list() == ["one", "two"]
    methods = {"all", "random", "selected", "medoids", "coverage", *evidence.RIVALS}
    counts = records.group_by("set", "seed", "classifier").agg(pl.col("training_set"))
    assert counts.height == 2 * 2 * 4
    assert all(set(names) == methods for names in counts["training_set"])
    part = records.filter(pl.col("training_set").is_in(["random", "selected", "medoids"]))
    assert part.group_by("set", "seed").agg(pl.col("rows").n_unique())["rows"].to_list() == [1] * 4


def test_tables_are_means_of_the_records(records: pl.DataFrame) -> None:
    tables = evidence.tables(records)
    table = tables["accuracy, 80% left out, 1-NN, LR, RF"]
    assert table["set"].to_list() == ["one", "two", "mean"]
    by_hand = records.filter(
        pl.col("classifier").is_in(["1-NN", "logistic regression", "random forest"])
        & (pl.col("set") == "two")
        & (pl.col("training_set") == "selected")
    )["accuracy"].mean()
    assert table["auto"][1] == pytest.approx(by_hand)
    assert table["auto"][2] == pytest.approx(np.mean(table["auto"].to_list()[:2]))
    boosted = tables["accuracy, 80% left out, gradient boosting"]
    assert boosted.columns == table.columns
    against = tables["against random, 80% left out, 1-NN, LR, RF"]
    assert "auto" in against["method"].to_list()
    row = against.filter(method="auto").row(0, named=True)
    assert row["difference"] == pytest.approx(table["auto"][2] - table["random"][2])
    assert row["sets"] == 2
    ranks = against["average_rank"].to_list()
    assert all(1 <= rank <= against.height + 1 for rank in ranks)
    text = evidence.markdown(tables)
    assert text.count("## ") == len(tables)
    assert "| mean |" in text


def test_finished_splits_are_kept_and_taken(tmp_path: Path, records: pl.DataFrame) -> None:
    cache = tmp_path / "splits"
    options = {"seeds": 1, "reductions": [0.8], "methods": ["medoids"], "cache": cache}
    first = evidence.run({"one": SETS["one"]}, **options)
    (kept,) = cache.glob("*.parquet")
    pl.read_parquet(kept).with_columns(accuracy=pl.lit(0.125)).write_parquet(kept)
    told: list[str] = []
    second = evidence.run({"one": SETS["one"]}, on_progress=told.append, **options)
    assert set(second["accuracy"]) == {0.125}
    assert second.height == first.height
    assert told == ["one, split 1 of 1"]
    paths = evidence.store(records, evidence.tables(records), tmp_path / "out")
    assert pl.read_parquet(paths[0]).height == records.height
    assert paths[1].read_text().startswith("# Evidence of instance selection")


def test_sets_of_a_folder(tmp_path: Path) -> None:
    for name in ("b", "a"):
        SETS["one"][0].write_parquet(tmp_path / f"{name}.parquet")
    found = evidence.find_sets(tmp_path)
    assert list(found) == ["a", "b"]
    assert found["a"][0].equals(SETS["one"][0])
    assert list(evidence.find_sets(tmp_path / "a.parquet")) == ["a"]
    with pytest.raises(DataError, match=r"a\.parquet: no column `kid` \(the label\)"):
        evidence.find_sets(tmp_path, label="kid")
    for wrong in (tmp_path / "none", tmp_path / "gone.parquet"):
        with pytest.raises(DataError, match="there is no Parquet file"):
            evidence.find_sets(wrong)


def test_evidence_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Too few rows for the search, which takes its time.
    labelled(48).drop("target").write_parquet(tmp_path / "two.parquet")
    given = ["bench", "select", "--part", "evidence", "--data", str(tmp_path / "two.parquet"),
             "--seeds", "1", "--json", "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(given) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["set"] for row in found["accuracy, 96% left out, 1-NN, LR, RF"]} == {"two", "mean"}
    assert (tmp_path / "out" / "select-evidence.parquet").exists()
    assert main(["bench", "select", "--part", "nothing"]) == 2
    assert "no part `nothing`" in capsys.readouterr().err


@pytest.mark.peer("imblearn")
def test_resources_of_each_method_and_why_one_has_none() -> None:
    records = resources.run(
        sizes=[400], columns=3, methods=["random", "coverage"], peers=["NearMiss"]
    )
    assert [tuple(record) for record in records] == [resources.COLUMNS] * 3
    assert [record["method"] for record in records] == ["random", "coverage", "NearMiss"]
    assert [record["kept"] for record in records] == [16, 16, 16]
    assert all(record["peak_mb"] > 50 for record in records)
    late = resources.run(
        sizes=[400], columns=3, methods=["random"], peers=["NearMiss"], time_limit=0.01
    )
    assert [record["note"] for record in late] == ["not done in 0.01 s"] * 2
    assert [record["seconds"] for record in late] == [None, None]


def test_scale_compares_numbers_of_threads(tmp_path: Path) -> None:
    told: list[str] = []
    records = scale.run(
        sizes=[500], columns=3, cases=["coverage"], threads=[1, 2], on_progress=told.append
    )
    assert [tuple(record) for record in records] == [scale.COLUMNS] * 2
    assert [record["kept"] for record in records] == [20, 20]
    assert records[1]["note"] == "the same rows as with the first number of threads"
    assert told == [
        "writing 500 rows",
        "coverage, 500 rows, 1 threads",
        "coverage, 500 rows, 2 threads",
    ]
    scale.write_mixture(tmp_path / "data", 50, columns=2)
    wrong = "\n  keep: {use: select.keep, from: rows, with: {count: 51}}\n"
    with pytest.raises(ResourceError, match=r"the pipeline ended with 3: .* cannot be kept"):
        scale.run_pipeline(tmp_path / "data", wrong, out=tmp_path / "out")
