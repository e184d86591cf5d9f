"""Class labels of every type, and those that are refused."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from mbflow.errors import DataError, InvalidArgumentError
from mbflow.select import Labels, encode_labels

TEXT = ["b", "a", "b", "c"]


@pytest.mark.parametrize(
    "column",
    [
        TEXT,
        tuple(TEXT),
        np.array(TEXT),
        np.array(TEXT, dtype=object),
        pl.Series(TEXT),
        pl.Series(TEXT, dtype=pl.Categorical),
        pl.Series(TEXT, dtype=pl.Enum(["c", "b", "a"])),
        pd.Series(TEXT),
        pd.Series(TEXT, dtype="category"),
        pa.array(TEXT),
        pa.array(TEXT).dictionary_encode(),
        pa.chunked_array([TEXT[:1], TEXT[1:]]),
    ],
    ids=lambda column: f"{type(column).__module__.split('.')[0]}-{type(column).__name__}",
)
def test_text_of_every_kind_gives_the_same_codes(column):
    labels = encode_labels(column)
    assert labels.classes == ("a", "b", "c")
    assert labels.codes.tolist() == [1, 0, 1, 2]
    assert labels.codes.dtype == np.int64
    assert labels.sizes.tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("column", "classes", "codes"),
    [
        ([10, 9, 10], ("9", "10"), [1, 0, 1]),
        (np.array([-1, 3, -1], np.int8), ("-1", "3"), [0, 1, 0]),
        (np.array([2, 1], np.uint64), ("1", "2"), [1, 0]),
        ([2.0, 1.0, 2.0], ("1", "2"), [1, 0, 1]),
        ([True, False], ("False", "True"), [1, 0]),
        (["only"], ("only",), [0]),
    ],
)
def test_numbers_and_booleans(column, classes, codes):
    labels = encode_labels(column)
    assert labels.classes == classes
    assert labels.codes.tolist() == codes


def test_encoded_labels_pass_through():
    labels = encode_labels(TEXT)
    assert encode_labels(labels) is labels
    assert isinstance(labels, Labels)


@pytest.mark.parametrize(
    ("column", "row", "message"),
    [
        (
            ["a", None, "b", None],
            1,
            "column 'label' has no label .* in 2 of 4 rows, first in row 1",
        ),
        ([1.0, 2.0, float("nan")], 2, "has no label .* in 1 of 3 rows, first in row 2"),
        (pd.Series(["a", np.nan]), 1, "first in row 1"),
        (pd.Series([1, None]), 1, "first in row 1"),
        ([1.0, 2.5], 1, "holds the number 2.5 in row 1; .* cut a regression target"),
        ([1.0, float("inf")], 1, "holds the number inf in row 1"),
    ],
)
def test_missing_and_fractional_labels_name_the_row(column, row, message):
    with pytest.raises(DataError, match=message) as caught:
        encode_labels(column)
    assert caught.value.row == row


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [
        ([], DataError, "has no rows"),
        ([None, None], DataError, "only nulls"),
        ([dt.date(2020, 1, 1)], DataError, "type Date, which is no class label"),
        ([[1], [2]], DataError, "List"),
        ([1, "a"], DataError, "cannot be read as values of one type"),
        (np.zeros((2, 2)), InvalidArgumentError, r"shape \(2, 2\); expected one dimension"),
        ("text", InvalidArgumentError, "of type str; expected a column"),
        (7, InvalidArgumentError, "of type int; expected a column"),
        (pd.DataFrame({"a": [1]}), InvalidArgumentError, "expected"),
    ],
)
def test_what_is_no_label_column(column, error, message):
    with pytest.raises(error, match=message):
        encode_labels(column)


def test_the_message_uses_the_name_given():
    with pytest.raises(DataError, match="column 'kind'"):
        encode_labels([None, "a"], name="kind")
