"""Parquet sources: every row in its place, and bad files as errors that say what and where."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbflow.errors import DataError, ResourceError
from mbflow.flow.parts import parts as parts_of
from mbflow.flow.source import Source


def write(path: Path, rows: dict[str, object], **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows), path, **options)
    return path


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Three files, 10 rows each, x = 0 .. 29, read in the order of their names."""
    for index, name in enumerate(["a.parquet", "sub/b.parquet", "z.parquet"]):
        write(
            tmp_path / "parts" / name,
            {"x": list(range(10 * index, 10 * index + 10)), "y": ["k", "m"] * 5},
            row_group_size=4,
        )
    write(tmp_path / "parts" / "_hidden.parquet", {"x": [99], "y": ["k"]})
    (tmp_path / "parts" / "readme.txt").write_text("no data")
    return tmp_path / "parts"


def test_file_folder_glob_and_list_read_the_same_rows(parts: Path) -> None:
    files = [str(parts / name) for name in ["a.parquet", "sub/b.parquet", "z.parquet"]]
    expected = list(range(30))
    for path in (str(parts), str(parts) + "/", files, str(parts / "**" / "[a-z].parquet")):
        assert Source.open("rows", path).table()["x"].to_pylist() == expected
    assert Source.open("rows", files[0]).table()["x"].to_pylist() == expected[:10]


def test_positions_are_those_of_the_whole_source(parts: Path) -> None:
    source = Source.open("rows", str(parts), where="x % 7 = 3 and y = 'm'", columns=["y"])
    frame = pl.DataFrame({"x": range(30), "y": ["k", "m"] * 15})
    expected = frame.with_row_index().filter((pl.col("x") % 7 == 3) & (pl.col("y") == "m"))
    assert source.positions().tolist() == expected["index"].to_list()
    assert source.table().to_pydict() == {"y": expected["y"].to_list()}
    assert source.columns == ["y"]


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(0, 29)))
def test_take_reads_just_these_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("take")
    for index in range(3):
        write(
            folder / f"{index}.parquet",
            {"x": list(range(10 * index, 10 * index + 10))},
            row_group_size=3,
        )
    positions = np.array(sorted(rows), dtype=np.int64)
    batches = Source.open("rows", str(folder)).take(positions)
    assert [x for batch in batches for x in batch["x"].to_pylist()] == sorted(rows)


def test_where_sees_the_source_as_a_whole(tmp_path: Path) -> None:
    for index in range(3):
        write(tmp_path / f"{index}.parquet", {"x": list(range(40 * index, 40 * index + 40))})
    one = Source.open("rows", str(tmp_path), where="x > AVG(x)")
    assert one.positions().tolist() == list(range(60, 120))
    assert Source.open("rows", str(tmp_path), where="x > MAX(x) - 5").table().num_rows == 5
    assert Source.open("rows", str(tmp_path), where="1 = 1").table().num_rows == 120


def test_no_file_is_read_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "d" / "a.parquet", {"x": [1, 2]})
    (tmp_path / "d" / "self").symlink_to(tmp_path / "d")
    assert Source.open("rows", str(tmp_path / "d")).table().num_rows == 2
    for twice in ([str(path), str(path)], [str(tmp_path / "d"), str(path)]):
        with pytest.raises(DataError, match=r"a\.parquet: named twice"):
            Source.open("rows", twice)


def test_views_are_read_and_taken_as_text(tmp_path: Path) -> None:
    column = pa.array(["a", "b", "c"], pa.string_view())
    source = Source.open("rows", str(write(tmp_path / "a.parquet", {"x": column})))
    assert source.table()["x"].to_pylist() == ["a", "b", "c"]
    (batch,) = source.take(np.array([0, 2]))
    assert batch["x"].to_pylist() == ["a", "c"]


def test_a_name_too_long_for_the_system(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be looked up: File name too long"):
        Source.open("rows", "a" * 5000)


def test_columns_by_name_and_glob_keep_the_order_of_the_file_and_the_label(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"x_1": [1], "other": [2], "x_2": [3], "y": ["k"]})
    source = Source.open("rows", str(path), columns=["x_*"], label="y")
    assert source.columns == ["x_1", "x_2", "y"]


def test_locate_names_the_file_and_the_row_in_it(parts: Path) -> None:
    path, row = Source.open("rows", str(parts)).locate(17)
    assert (path.name, row) == ("b.parquet", 7)


def test_types_are_widened_over_files(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.parquet", {"x": pa.array([1], pa.int32()), "y": pa.array(["k"])})
    write(
        tmp_path / "d" / "b.parquet",
        {"y": pa.array(["m"], pa.large_string()), "x": pa.array([1.5], pa.float64())},
    )
    table = Source.open("rows", str(tmp_path / "d")).table()
    assert table["x"].to_pylist() == [1.0, 1.5]
    assert table["y"].to_pylist() == ["k", "m"]


def test_an_empty_file_among_others_adds_no_rows(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.parquet", {"x": pa.array([], pa.int64())})
    write(tmp_path / "d" / "b.parquet", {"x": [1]})
    source = Source.open("rows", str(tmp_path / "d"))
    assert source.table()["x"].to_pylist() == [1]
    assert source.positions().tolist() == [0]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda d: "gone.parquet", {}, "gone.parquet: there is no such file or folder (looked in"),
        (lambda d: str(d / "gone-*.parquet"), {}, "gone-*.parquet: no file matches"),
        (lambda d: [str((d / "empty").mkdir() or d / "empty")], {}, "the folder holds no file"),
        (lambda d: ((d / "a.parquet").write_bytes(b"") and "") or str(d / "a.parquet"), {},
         "a.parquet: cannot be read as Parquet"),
        (lambda d: (d / "a.parquet").write_bytes(b"x" * 100) and str(d / "a.parquet"), {},
         "a.parquet: cannot be read as Parquet"),
        (lambda d: str(write(d / "a.parquet", {"x": [1]})), {"label": "y"},
         "a.parquet: no column `y` (the label); it has: x"),
        (lambda d: str(write(d / "a.parquet", {"x": [1]})), {"columns": ["z*"]},
         "a.parquet: no column `z*`; it has: x"),
        (lambda d: str(write(d / "a.parquet", {"x": [1]})), {"where": "z > 1"},
         "a.parquet: no column `z` (in `where: z > 1`); it has: x"),
        (lambda d: str(write(d / "a.parquet", {"x": [1]})), {"where": "x >"},
         "`where: x >` is not understood"),
    ],
    ids=["missing", "glob", "empty folder", "zero bytes", "no parquet", "label", "columns", "where",
         "syntax"],
)  # fmt: skip
def test_what_cannot_be_opened_says_why(tmp_path: Path, make, options, message: str) -> None:
    with pytest.raises(DataError) as caught:
        Source.open("rows", make(tmp_path), **options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"x": [1]}, "b.parquet: has no column `y`"),
        ({"x": [1], "y": [2], "z": [3]}, "b.parquet: has a column `z`, unlike"),
        ({"x": ["text"], "y": [2]}, "b.parquet: the column `x` is string, and int64 in"),
    ],
)
def test_files_that_do_not_fit_together(tmp_path: Path, second: dict, message: str) -> None:
    write(tmp_path / "a.parquet", {"x": [1], "y": [2]})
    write(tmp_path / "b.parquet", second)
    with pytest.raises(DataError) as caught:
        Source.open("rows", str(tmp_path))
    assert message in str(caught.value)
    assert "a.parquet" in str(caught.value)


def test_where_that_is_no_condition(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"x": [1, 2]})
    with pytest.raises(DataError, match="not true or false for each row"):
        Source.open("rows", str(path), where="x + 1").table()
    with pytest.raises(DataError, match="cannot be applied"):
        Source.open("rows", str(path), where="x = 'text'").table()


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"x": list(range(200_000))}, row_group_size=50_000)
    source = Source.open("rows", str(path))
    batches = source.batches()
    next(batches)
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match=r"a\.parquet: it changed while it was read"):
        list(batches)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"x": [1]})
    path.chmod(0)
    with pytest.raises(ResourceError, match="no permission"):
        Source.open("rows", str(path))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 7), st.sampled_from(["flip", "cut", "zero"]))
def test_a_damaged_file_is_an_error_or_whole_rows(
    tmp_path_factory: pytest.TempPathFactory, at: int, bit: int, how: str
) -> None:
    path = tmp_path_factory.mktemp("damage") / "a.parquet"
    write(path, {"x": list(range(500)), "y": ["k", "m"] * 250}, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    at %= len(data)
    if how == "flip":
        data[at] ^= 1 << bit
    elif how == "cut":
        del data[at:]
    else:
        data[at : at + 16] = bytes(min(16, len(data) - at))
    path.write_bytes(data)
    try:
        table = Source.open("rows", str(path)).table()
    except DataError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
    else:
        table.validate(full=True)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("where", [None, "x % 3 = 0 OR x > 24"])
def test_parts_hold_what_the_source_does(parts: Path, whole: bool, where: str | None) -> None:
    source = Source.open("rows", str(parts), where=where)
    found = parts_of(source, ["x"], whole=whole)
    assert len(found) == (3 if whole else 9)
    assert [part.first for part in found] == np.cumsum([0, *(p.rows for p in found)])[:-1].tolist()
    read = [pair for part in found for pair in part.scan(["y", "x"])]
    expected = source.table(["y", "x"])
    assert pa.Table.from_batches([batch for _, batch in read]).equals(expected)
    positions = np.concatenate([here for here, _ in read])
    np.testing.assert_array_equal(positions, source.positions())
    for part in found:
        own = [row for _, batch in part.scan(["x"]) for row in batch["x"].to_pylist()]
        few = [row for _, batch in part.scan(["x"], most=2) for row in batch["x"].to_pylist()]
        assert few == own[:2]


def test_wide_rows_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    write(
        tmp_path / "a.parquet",
        {"audio": [bytes([row]) * (2 << 20) for row in range(20)], "audios": [1] * 20},
    )
    (part,) = parts_of(Source.open("rows", str(tmp_path)), ["audio"])
    assert part.size == pytest.approx(40 << 20, rel=0.01)
    sizes = [batch.num_rows for _, batch in part.scan(["audio"])]
    assert sum(sizes) == 20
    assert max(sizes) <= 8


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_damaged_part_is_an_error_or_whole_rows(
    tmp_path_factory: pytest.TempPathFactory, at: int, bit: int
) -> None:
    path = tmp_path_factory.mktemp("damage") / "a.parquet"
    write(path, {"x": list(range(500))}, write_page_checksum=True, row_group_size=200)
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << bit
    path.write_bytes(data)
    try:
        source = Source.open("rows", str(path))
        rows = [row for p in parts_of(source, ["x"]) for _, b in p.scan(["x"]) for row in b["x"]]
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert len(rows) == source.num_positions
