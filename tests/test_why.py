"""`mbflow why`: what a run says about one row."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from mbflow.cli import main
from mbflow.errors import DataError
from mbflow.steps import run
from mbflow.steps.why import look_up, sentences
from selections import kept, labelled, pipeline, write

TABLE = labelled(120)
GIVEN = "count: 12, method: coverage"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pl.DataFrame]:
    """A run that left out the rows with x <= -1, and what it wrote about the others."""
    folder = tmp_path_factory.mktemp("why")
    result, _, why = kept(folder, TABLE, GIVEN, more=", where: 'x > -1'")
    assert 0 < why.height < 120
    return result.folder, why


def test_every_row_is_found_as_it_was_written(done) -> None:
    folder, why = done
    for row in why.to_dicts():
        found = look_up(folder, row["row"])
        assert {key: found[key] for key in row} == row
        assert (found["step"], found["method"]) == ("keep", "coverage")
        other = row["nearest_other"]
        assert found["other_class"] == (None if other is None else TABLE["label"][other])


def test_a_kept_row_in_words(done, capsys: pytest.CaptureFixture[str]) -> None:
    folder, why = done
    row = why.filter(pl.col("kept") & (pl.col("stands_for") > 1)).row(0, named=True)
    assert main(["why", str(folder), "--row", str(row["row"])]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"Row {row['row']} (class {row['class']}) was kept by coverage.",
        f"It stands for {row['stands_for']} dropped rows; its score is {row['score']:.4g}.",
        f"The nearest kept row of another class is row {row['nearest_other']} (class "
        f"{TABLE['label'][row['nearest_other']]}), at distance {row['other_distance']:.4g}.",
    ]


def test_a_dropped_row_in_words_and_as_json(done, capsys: pytest.CaptureFixture[str]) -> None:
    folder, why = done
    row = why.filter(~pl.col("kept")).row(0, named=True)
    # The folder above holds one run, so it will do.
    assert main(["why", str(folder.parent), "--row", str(row["row"])]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"Row {row['row']} (class {row['class']}) was dropped by coverage.",
        f"Row {row['representative']} of the same class, at distance {row['distance']:.4g}, "
        "stands for it.",
    ]
    assert main(["why", str(folder), "--row", str(row["row"]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == look_up(folder, row["row"])
    assert found["kept"] is False


def test_rows_that_nothing_stands_for_and_single_rows() -> None:
    base = {"row": 3, "class": "a", "method": None, "score": 1.0, "nearest_other": None}
    assert sentences({**base, "kept": False, "representative": None}) == [
        "Row 3 (class a) was dropped.",
        "No row of its class was kept among those like it: none stands for it.",
    ]
    assert sentences({**base, "kept": True, "stands_for": 1}) == [
        "Row 3 (class a) was kept.",
        "It stands for 1 dropped row; its score is 1.",
    ]


def test_rows_that_are_not_there(done, capsys: pytest.CaptureFixture[str]) -> None:
    folder, why = done
    left_out = min(set(range(120)) - set(why["row"].to_list()))
    for row in (left_out, 120, 10**12):
        assert main(["why", str(folder), "--row", str(row)]) == 3
        message = f"it holds nothing about row {row}; .* {why.height} of them passed `where`"
        assert message.split(";", maxsplit=1)[0] in capsys.readouterr().err
        with pytest.raises(DataError, match=message):
            look_up(folder, row)
    assert main(["why", str(folder), "--row", "-1"]) == 2
    assert main(["why", str(folder)]) == 2
    assert main(["why", str(folder / "gone"), "--row", "1"]) == 3
    assert "there is no such folder" in capsys.readouterr().err


def test_a_run_without_explanations_says_how_to_get_them(tmp_path: Path) -> None:
    result, *_ = kept(tmp_path, TABLE, f"{GIVEN}, explain: false")
    with pytest.raises(DataError, match=r"no step of this run explains .* unless `explain: false`"):
        look_up(result.folder, 1)
    with pytest.raises(DataError, match=r"`keep` has no explanations; those that have: none"):
        look_up(result.folder, 1, step="keep")


def test_several_steps_must_be_told_apart(tmp_path: Path) -> None:
    write(tmp_path / "data", TABLE)
    steps = (
        f"  first: {{use: select.keep, from: rows, with: {{{GIVEN}}}}}\n"
        "  second: {use: select.keep, from: rows, with: {count: 100, method: random}}"
    )
    folder = run(pipeline(tmp_path, tmp_path / "data", steps)).folder
    with pytest.raises(DataError, match="name one with --step: first, second"):
        look_up(folder, 1)
    assert main(["why", str(folder), "--row", "1", "--step", "second"]) == 0
    assert look_up(folder, 1, step="second")["method"] == "random"
    with pytest.raises(DataError, match=r"no step `third` that was run; there are first, second"):
        look_up(folder, 1, step="third")


def test_damage_is_noticed(tmp_path: Path) -> None:
    result, *_ = kept(tmp_path, TABLE, GIVEN)
    file = result.folder / "steps" / "keep" / "_why" / "part-00000.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"_why/part-00000\.parquet: cannot be read as Parquet"):
        look_up(result.folder, 1)
