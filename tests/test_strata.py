"""Selection from more rows than a stratum holds: one result for any files and any threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flows import hashes
from mbflow.errors import DataError
from mbflow.flow.folder import find, verify
from mbflow.flow.manifest import read_sealed
from mbflow.select import class_quotas, explain_selection, quantile_labels
from mbflow.steps import run
from selections import kept, labelled, pipeline, write

ROWS = 4200
CAP = "strata_rows: 1000"
TABLE = labelled(ROWS, seed=1)
KEEP = "  keep: {{use: select.keep, from: rows, with: {{{given}}}}}"
GIVEN = f"count: 210, method: coverage, {CAP}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pl.DataFrame, pl.DataFrame]:
    """The run folder, the kept rows and the explanations of an undisturbed run over one file."""
    result, rows, why = kept(tmp_path_factory.mktemp("whole"), TABLE, GIVEN, threads=1)
    return result.folder, rows, why


def test_exactly_as_many_as_asked_of_each_class(whole) -> None:
    folder, rows, why = whole
    assert rows.height == 210
    assert rows["row"].is_sorted()
    assert rows.drop("row", "score").equals(TABLE[rows["row"].to_list()])
    counts = rows["label"].value_counts().sort("label")["count"].to_list()
    assert counts == class_quotas(TABLE["label"], 210).tolist()
    assert sorted(why["row"].to_list()) == list(range(ROWS))
    assert why.filter("kept").sort("row")["row"].to_list() == rows["row"].to_list()
    manifest = read_sealed(folder / "steps" / "keep" / "_manifest.json")
    assert any("strata of similar rows" in note for note in manifest["notes"])
    assert manifest["charts"][0]["kind"] == "scatter"
    assert verify(find(folder))[1] == []
    assert list((folder / "steps").glob(".work-*")) == []


def test_every_row_is_explained_within_its_stratum(whole) -> None:
    _, _, why = whole
    by_row = why.sort("row")
    representatives = by_row["representative"].to_numpy()
    assert by_row["representative"].null_count() == 0
    chosen = by_row.filter("kept")
    assert (by_row["kept"].to_numpy()[representatives]).all()
    labels = TABLE["label"].to_numpy()
    assert (labels[representatives] == labels).all()
    assert by_row["class"].to_list() == TABLE["label"].to_list()
    assert chosen["stands_for"].sum() == ROWS - 210
    other = chosen.filter(pl.col("nearest_other").is_not_null())
    assert (labels[other["nearest_other"].to_numpy()] != other["class"].to_numpy()).all()
    # As good as it gets: nearly all that the search over all rows at once would say.
    from mbflow.select import FeatureEncoder

    features = FeatureEncoder().fit_transform(TABLE.drop("label"))
    near = explain_selection(features, labels, indices=chosen["row"].to_numpy())
    gap = np.linalg.norm(features - features[representatives], axis=1)
    assert gap.mean() < 1.6 * np.nanmean(near.distances)


@pytest.mark.parametrize(
    ("cuts", "groups", "threads"),
    [((), 0, 2), ((), 100, 3), ((1, 2, 1700, 4199), 0, 1), ((2000,), 333, 3)],
)
def test_the_same_rows_for_any_threads_and_any_files(
    tmp_path: Path, whole, cuts: tuple[int, ...], groups: int, threads: int
) -> None:
    write(tmp_path / "data", TABLE, cuts=cuts, groups=groups)
    _, rows, why = kept(tmp_path, TABLE, GIVEN, threads=threads)
    assert rows.equals(whole[1])
    assert why.equals(whole[2])


@pytest.mark.parametrize("method", ["auto", "medoids", "random"])
@pytest.mark.parametrize("quotas", ["equal", "{a: 3, b: 100, c: 50}"])
def test_other_methods_and_quotas_are_exact_too(tmp_path: Path, method: str, quotas: str) -> None:
    given = f"quotas: {quotas}, method: {method}, {CAP}" + ", count: 150" * (quotas == "equal")
    result, rows, _ = kept(tmp_path, TABLE, given)
    counts = rows["label"].value_counts().sort("label")["count"].to_list()
    assert counts == ([50, 50, 50] if quotas == "equal" else [3, 100, 50])
    expected = {"auto": "coverage"}.get(method, method)
    assert expected in result.outputs["keep"].meta["method"].split(", ")


def test_where_and_a_numeric_target(tmp_path: Path) -> None:
    given = f"count: 120, quotas: equal, quantiles: 4, method: coverage, {CAP}"
    _, rows, why = kept(tmp_path, TABLE, given, label="target", more=", where: 'x > -0.5'")
    positions = np.flatnonzero(TABLE["x"].to_numpy() > -0.5)
    assert len(positions) > 2000
    strata = quantile_labels(TABLE["target"].to_numpy()[positions], 4)
    assert sorted(why["row"].to_list()) == positions.tolist()
    assert why.sort("row")["class"].to_list() == [strata.classes[c] for c in strata.codes]
    codes = strata.codes[np.searchsorted(positions, rows["row"].to_numpy())]
    assert np.bincount(codes).tolist() == [30] * 4


def test_equal_rows_make_a_stratum_above_the_cap_which_is_dealt_in_parts(tmp_path: Path) -> None:
    table = pl.DataFrame({"x": np.where(np.arange(3500) == 7, 1.0, 0.0)}).with_columns(
        label=pl.Series(["a", "b"] * 1750)
    )
    result, rows, why = kept(tmp_path, table, f"count: 70, method: coverage, {CAP}")
    assert rows["label"].value_counts()["count"].to_list() == [35, 35]
    assert why.height == 3500
    # The few rows of a part that keeps none of their class have nothing that stands for them.
    assert why["representative"].null_count() < 10
    notes = result.outputs["keep"].manifest["notes"]
    strata = next(note for note in notes if "strata of similar rows" in note)
    assert int(strata.split()[2]) >= 4


def _broken(table: pl.DataFrame, column: str, row: int, value: object) -> pl.DataFrame:
    return table.with_columns(
        pl.when(pl.int_range(table.height) == row)
        .then(pl.lit(value, table.schema[column]))
        .otherwise(column)
        .alias(column)
    )


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (
            "label",
            None,
            r"002\.parquet: column 'label' has no label .* in at least \d+ rows, .*\(row 40 of this file",
        ),
        ("x", float("inf"), r"002\.parquet: .*'x' holds inf in row 3140; .*\(row 40 of this file"),
    ],
)
def test_a_bad_value_in_a_late_file_is_named(
    tmp_path: Path, column: str, value: object, message: str
) -> None:
    write(tmp_path / "data", _broken(TABLE, column, 3140, value), cuts=(1000, 3100))
    with pytest.raises(DataError, match=message):
        kept(tmp_path, TABLE, GIVEN)
    assert not (tmp_path / "runs" / "t" / "steps" / "keep").exists()


def test_a_sample_for_the_encoder_hides_no_bad_row_and_no_layout_changes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbflow.steps.strata._SAMPLE_ROWS", 700)
    result, first, _ = kept(tmp_path / "one", TABLE, GIVEN)
    write(tmp_path / "two" / "data", TABLE, cuts=(17, 3000), groups=50)
    _, second, _ = kept(tmp_path / "two", TABLE, GIVEN, threads=3)
    assert first.equals(second)
    notes = result.outputs["keep"].manifest["notes"]
    sampled = int(next(note for note in notes if "by a sample of" in note).split()[-2])
    assert 500 < sampled <= 700
    for row in (3140, 3141, 3142, 3143, 3144, 3145):
        folder = tmp_path / str(row)
        write(folder / "data", _broken(TABLE, "x", row, float("-inf")), cuts=(3100,))
        message = rf"001\.parquet: .* in row {row}; .*\(row {row - 3100} of this file"
        with pytest.raises(DataError, match=message):
            kept(folder, TABLE, GIVEN)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("method: refine", "`method: refine` searches all rows at once, .* `strata_rows: 1000`"),
        ("quotas: gain", "`quotas: gain` compares all rows with each other"),
        ("quotas: {a: 1, b: 1, z: 3}", "names the class 'z'"),
    ],
)
def test_what_needs_all_rows_at_once_is_refused(tmp_path: Path, given: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kept(tmp_path, TABLE, f"{given}, {CAP}")


def test_one_class_is_selected_from(tmp_path: Path) -> None:
    table = TABLE.with_columns(label=pl.lit("only"))
    for method in ("auto", "attention"):
        given = f"count: 50, method: {method}, {CAP}"
        result, rows, _ = kept(tmp_path, table, given, out=method)
        assert rows.height == 50
        assert result.outputs["keep"].meta["method"] == "coverage"


def _command(file: Path) -> list[str]:
    return [sys.executable, "-m", "mbflow", "run", str(file)]


def _finished(folder: Path) -> list[Path]:
    """Folders of finished strata; `os.walk` does not mind what is renamed meanwhile."""
    return [
        Path(where)
        for where, _, names in os.walk(folder)
        if Path(where).name.startswith("done-") and "_manifest.json" in names
    ]


def _killed_in_the_middle(folder: Path) -> Path:
    """Run the pipeline, kill it when some strata are done and some are not; its scratch folder."""
    write(folder / "data", TABLE)
    file = pipeline(folder, folder / "data", KEEP.format(given=GIVEN), threads=1)
    for _ in range(20):
        with subprocess.Popen(
            _command(file), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            while process.poll() is None and not _finished(folder / "runs"):
                time.sleep(0.001)
            process.kill()
        scratch = list((folder / "runs" / "t" / "steps").glob(".work-keep-*"))
        if scratch and _finished(scratch[0]):
            return scratch[0]
        shutil.rmtree(folder / "runs")
    pytest.fail("the run was never caught in the middle")


def test_a_killed_run_goes_on_with_what_is_sound(tmp_path: Path, whole) -> None:
    scratch = _killed_in_the_middle(tmp_path)
    assert _finished(scratch)
    run(tmp_path / "runs.yaml")
    result = hashes(tmp_path / "runs" / "t")
    expected = hashes(whole[0])
    assert {name: data for name, data in result.items() if name.endswith(".parquet")} == {
        name: data for name, data in expected.items() if name.endswith(".parquet")
    }
    assert not list((tmp_path / "runs").rglob(".work-*"))
    assert verify(find(tmp_path / "runs"))[1] == []


@pytest.mark.parametrize("harm", ["features", "done", "routed.json", "missing"])
def test_what_was_damaged_meanwhile_is_made_again(tmp_path: Path, whole, harm: str) -> None:
    scratch = _killed_in_the_middle(tmp_path)
    path = {
        "features": scratch / "000000.features",
        "routed.json": scratch / "routed.json",
        "missing": scratch / "000001.codes",
        "done": next(scratch.glob("done-*/part-00000.parquet")),
    }[harm]
    if harm == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    result = run(tmp_path / "runs.yaml")
    rows = pl.DataFrame(pl.from_arrow(result.outputs["keep"].table()))
    assert rows.equals(whole[1])


def test_a_sound_stratum_is_not_worked_on_again(tmp_path: Path) -> None:
    scratch = _killed_in_the_middle(tmp_path)
    done = next(scratch.glob("done-*"))
    before = (done / "part-00000.parquet").stat()
    # Later strata fail now, so that what is there stays to be looked at.
    file = tmp_path / "runs.yaml"
    code = (
        "import mbflow.steps.strata as s, mbflow.steps as steps, sys; real = s.select_stratum\n"
        "def once(task):\n"
        "    if not (task.output / '_manifest.json').exists(): raise MemoryError\n"
        "    return real(task)\n"
        "s.select_stratum = once\n"
        "steps.run(sys.argv[1])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(file)], check=False, capture_output=True
    )
    assert ended.returncode != 0
    after = (done / "part-00000.parquet").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert run(file).ran == ("keep",)


def test_other_parameters_leave_nothing_of_the_old_work(tmp_path: Path) -> None:
    _killed_in_the_middle(tmp_path)
    write(tmp_path / "other" / "data", TABLE)
    fresh, expected, _ = kept(tmp_path / "other", TABLE, GIVEN.replace("210", "200"))
    _, rows, _ = kept(tmp_path, TABLE, GIVEN.replace("210", "200"))
    assert rows.equals(expected)
    assert fresh.ran == ("keep",)
    assert not list((tmp_path / "runs").rglob(".work-*"))


def test_categories_may_differ_from_file_to_file(tmp_path: Path, whole) -> None:
    """Dictionaries of text columns and of the label: each file has its own, and what counts is text."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number, (start, stop) in enumerate([(0, 1500), (1500, ROWS)]):
        part = TABLE[start:stop]
        order = ["c", "a", "b"] if number else ["b", "c", "a"]
        part.with_columns(
            pl.col("kind").cast(pl.Categorical), pl.col("label").cast(pl.Enum(order))
        ).write_parquet(folder / f"{number}.parquet")
    _, rows, why = kept(tmp_path, TABLE, GIVEN)
    assert rows["row"].equals(whole[1]["row"])
    assert why.equals(whole[2])
