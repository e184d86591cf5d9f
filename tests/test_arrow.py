"""Foreign tables and columns as polars."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from mbflow.arrow import ArrowArrayExportable, ArrowStreamExportable, to_frame, to_series
from mbflow.errors import DataError, InvalidArgumentError


class OnlyStream:
    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


class OnlyArray:
    def __init__(self, array):
        self.array = array

    def __arrow_c_array__(self, requested_schema=None):
        return self.array.__arrow_c_array__(requested_schema)


class OnlyNumpy:
    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


FRAME = pl.DataFrame({"a": [1.5, None], "b": ["x", "y"]})


@pytest.mark.parametrize(
    "table",
    [
        FRAME,
        FRAME.to_arrow(),
        FRAME.to_arrow().to_batches()[0],
        FRAME.to_pandas(),
        OnlyStream(FRAME.to_arrow()),
        OnlyArray(FRAME.to_arrow().to_batches()[0]),
    ],
    ids=lambda table: type(table).__name__,
)
def test_tables(table):
    assert to_frame(table).equals(FRAME)


def test_arrays_and_what_looks_like_one():
    array = np.arange(6).reshape(3, 2)
    for table in (array, OnlyNumpy(array)):
        assert to_frame(table).rows() == [(0, 1), (2, 3), (4, 5)]
    objects = np.array([["x", 1], [np.nan, 2]], dtype=object)
    assert to_frame(objects).rows() == [("x", 1), (None, 2)]
    assert to_frame(np.array([["u", "v"]])).rows() == [("u", "v")]


def test_frames_are_not_copied():
    assert to_frame(FRAME) is FRAME
    array = np.arange(8, dtype=np.float64).reshape(4, 2, order="F")
    assert to_frame(array)["column_1"].to_list() == array[:, 1].tolist()


@pytest.mark.parametrize(
    "column",
    [
        [1, None],
        (1, None),
        pl.Series([1, None]),
        pd.Series([1, None], dtype="Int64"),
        pd.Index([1, None], dtype="Int64"),
        np.array([1, None], dtype=object),
        pa.array([1, None]),
        pa.chunked_array([[1], [None]]),
        OnlyArray(pa.array([1, None])),
    ],
    ids=lambda column: type(column).__name__,
)
def test_columns(column):
    series = to_series(column, name="n")
    assert series.name == "n"
    assert series.to_list() == [1, None]


def test_nan_among_text_is_null_and_among_floats_is_kept():
    assert to_series(np.array(["a", np.nan], dtype=object)).to_list() == ["a", None]
    floats = to_series([1.0, float("nan")])
    assert floats.null_count() == 0
    assert floats.is_nan().to_list() == [False, True]


@pytest.mark.parametrize(
    "table",
    [[1], {"a": [1]}, "x", None, 3, pl.Series([1]), pd.Series([1]), pa.array([1]), np.zeros(2)],
    ids=lambda table: type(table).__name__,
)
def test_what_is_no_table(table):
    with pytest.raises(InvalidArgumentError, match="the table is"):
        to_frame(table)


@pytest.mark.parametrize(
    "column", ["x", None, 3, {"a": 1}, FRAME, FRAME.to_arrow(), np.zeros((2, 2))]
)
def test_what_is_no_column(column):
    with pytest.raises(InvalidArgumentError, match="values is"):
        to_series(column)


def test_mixed_types_are_an_error_of_one_line():
    with pytest.raises(DataError, match="cannot be read as values of one type") as caught:
        to_series([1, "a"])
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="my table cannot be read as columns of one type each"):
        to_frame(pd.DataFrame({"a": [1, "x"]}), what="my table")


def test_protocols():
    assert isinstance(pa.table({}), ArrowStreamExportable)
    assert isinstance(pa.array([1]), ArrowArrayExportable)
    assert not isinstance([1], ArrowStreamExportable)
