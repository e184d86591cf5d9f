"""The feature encoder: by hand, over kinds of tables, and on tables it must refuse."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracles
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.select import FeatureEncoder


def encode(table, **settings):
    encoder = FeatureEncoder(**settings)
    return encoder.fit_transform(table), encoder


def note_of(encoder, column):
    (note,) = (note for note in encoder.notes if note.column == column)
    return note


def test_numbers_by_hand():
    values, encoder = encode(pl.DataFrame({"a": [2.0, None, 4.0, float("nan"), 10.0, 3.0]}))
    # Median of 2, 3, 4, 10 is 3.5; scaled by (x - 2) / 8.
    assert values[:, 0].tolist() == [0.0, 0.1875, 0.25, 0.1875, 1.0, 0.125]
    note = note_of(encoder, "a")
    assert (note.kind, note.treatment) == ("number", "scaled")
    assert note.detail == "min_max; 2 missing values filled with the median, 3.5"
    standard, _ = encode(pl.DataFrame({"a": [1.0, 3.0]}), scale="standard")
    assert standard[:, 0].tolist() == [-1.0, 1.0]
    plain, encoder = encode(pl.DataFrame({"a": [1, None, 5]}), scale="none")
    assert plain[:, 0].tolist() == [1.0, 3.0, 5.0]
    assert note_of(encoder, "a").treatment == "kept"


@given(
    st.lists(
        st.none() | st.floats(-(2.0**20), 2.0**20, width=32) | st.just(float("nan")),
        min_size=2,
        max_size=30,
    ),
    st.sampled_from(["min_max", "standard", "none"]),
)
def test_numbers_agree_with_lists(column, scale):
    present = [x for x in column if x is not None and x == x]
    table = pl.DataFrame({"x": pl.Series(column, dtype=pl.Float64), "always": range(len(column))})
    values, encoder = encode(table, scale=scale)
    if not present or min(present) == max(present):
        assert encoder.feature_names == ("always",)
        return
    fill = oracles.median(present)
    filled = [x if x is not None and x == x else fill for x in column]
    if scale == "min_max":
        filled = [(x - min(filled)) / (max(filled) - min(filled)) for x in filled]
    elif scale == "standard":
        mean = sum(filled) / len(filled)
        deviation = (sum((x - mean) ** 2 for x in filled) / len(filled)) ** 0.5
        filled = [(x - mean) / deviation for x in filled]
    np.testing.assert_allclose(values[:, 0], filled, rtol=1e-5, atol=1e-5)


def test_text_by_hand():
    table = pl.DataFrame({"kind": ["b", "a", None, "b", "c"]})
    values, encoder = encode(table)
    assert encoder.feature_names == ("kind=b", "kind=a", "kind=c")
    assert values.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert note_of(encoder, "kind").detail == (
        "3 columns; 1 missing values filled with the most frequent, 'b'"
    )
    unseen = encoder.transform(pl.DataFrame({"kind": ["z", None]}))
    assert unseen.tolist() == [[0, 0, 0], [1, 0, 0]]


def test_rare_text_goes_to_other():
    table = pl.DataFrame({"kind": ["a", "a", "a", "b", "b", "d", "c", "c", "a", "a"]})
    values, encoder = encode(table, max_categories=2)
    # b and c are as frequent; b comes first.
    assert encoder.feature_names == ("kind=a", "kind=b", "kind=(other)")
    assert values[:, 2].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0, 0]
    assert values.sum(axis=1).tolist() == [1.0] * 10
    assert encoder.transform(pl.DataFrame({"kind": ["never"]})).tolist() == [[0, 0, 1]]
    assert "one of them for 2 rarer values" in note_of(encoder, "kind").detail


def test_identifiers_are_dropped_where_distinct_values_are_too_many():
    rows = 100
    table = pl.DataFrame(
        {
            "id": [f"{i}" for i in range(rows)],
            "half": [f"{i % 50}" for i in range(rows)],
            "more": [f"{i % 51}" for i in range(rows)],
            "x": range(rows),
        }
    )
    _, encoder = encode(table)
    assert note_of(encoder, "id").treatment == "dropped"
    assert note_of(encoder, "id").detail == (
        "100 distinct values in 100 rows: an identifier, no category"
    )
    assert note_of(encoder, "half").treatment == "one_hot"
    assert note_of(encoder, "more").treatment == "dropped"
    assert encoder.width == 32 + 1 + 1
    _, encoder = encode(table, max_categories=100)
    assert note_of(encoder, "id").treatment == "one_hot"


def test_a_million_distinct_texts():
    count = 1_000_000
    table = pl.DataFrame({"x": range(count)}).with_columns(id=pl.col("x").cast(pl.String))
    values, encoder = encode(table)
    assert values.shape == (count, 1)
    assert note_of(encoder, "id").treatment == "dropped"


def test_booleans():
    values, encoder = encode(
        pl.DataFrame({"flag": [True, None, True, False], "tie": [True, None, None, False]}),
        scale="standard",
    )
    assert values.tolist() == [[1, 1], [1, 0], [1, 0], [0, 0]]
    assert note_of(encoder, "flag").kind == "boolean"
    assert "filled with the most frequent, 1" in note_of(encoder, "flag").detail


def test_dates_times_decimals_are_numbers():
    days = [dt.date(2020, 1, 1), dt.date(2020, 1, 3), dt.date(2020, 1, 2)]
    table = pl.DataFrame(
        {
            "date": days,
            "datetime": [dt.datetime(day.year, 1, day.day) for day in days],  # noqa: DTZ001
            "zoned": [dt.datetime(day.year, 1, day.day, tzinfo=dt.UTC) for day in days],
            "duration": [dt.timedelta(hours=h) for h in (1, 3, 2)],
            "time": [dt.time(h) for h in (1, 3, 2)],
            "decimal": [Decimal("1.5"), Decimal("3.5"), Decimal("2.5")],
        }
    )
    values, encoder = encode(table)
    for column in values.T:
        assert column.tolist() == [0.0, 1.0, 0.5]
    assert [note.kind for note in encoder.notes] == ["time"] * 5 + ["number"]


def test_time_units_agree():
    stamps = pl.Series([dt.datetime(2020, 1, 1), None, dt.datetime(2021, 5, 5, 1, 2, 3)])  # noqa: DTZ001
    states = []
    for unit in ("ns", "us", "ms"):
        frame = pl.DataFrame({"t": stamps.dt.cast_time_unit(unit)})
        states.append(FeatureEncoder().fit(frame).to_dict())
    assert states[0] == states[1] == states[2]


def test_vectors_give_a_column_an_element():
    column = pl.Series(
        "v",
        [[1.0, 5.0, 0.0], None, [3.0, 5.0, None], [2.0, 5.0, 4.0]],
        dtype=pl.Array(pl.Float32, 3),
    )
    values, encoder = encode(pl.DataFrame([column]))
    assert encoder.feature_names == ("v[0]", "v[2]")
    assert values.tolist() == [[0.0, 0.0], [0.5, 0.5], [1.0, 0.5], [0.5, 1.0]]
    note = note_of(encoder, "v")
    assert note.kind == "vector"
    assert note.detail == (
        "2 of 3 elements, min_max; 3 missing values filled with the median of their element; "
        "1 elements dropped: constant"
    )


def test_constant_and_empty_columns_are_dropped_and_noted():
    table = pl.DataFrame(
        {
            "x": [1, 2],
            "constant": [7.5, 7.5],
            "null_number": pl.Series([None, None], dtype=pl.Float64),
            "nan": [float("nan")] * 2,
            "null_text": pl.Series([None, None], dtype=pl.String),
            "null": [None, None],
            "one_text": ["a", None],
            "one_flag": [True, None],
        }
    )
    values, encoder = encode(table)
    assert values.shape == (2, 1)
    assert {n.column: n.detail for n in encoder.notes if n.treatment == "dropped"} == {
        "constant": "constant",
        "null_number": "all values are null",
        "nan": "all values are null or NaN",
        "null_text": "all values are null",
        "null": "all values are null",
        "one_text": "constant",
        "one_flag": "constant",
    }


def test_missing_values_at_transform_take_what_was_fitted():
    encoder = FeatureEncoder().fit(pl.DataFrame({"x": [0.0, 1.0, 4.0], "k": ["a", "b", "b"]}))
    table = pl.DataFrame({"k": [None, "a"], "other": [1, 2], "x": [None, 8.0]}, strict=False)
    assert encoder.transform(table.cast({"k": pl.String})).tolist() == [
        [0.25, 1.0, 0.0],
        [2.0, 0.0, 1.0],
    ]


def mixed_frame():
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "f": rng.standard_normal(60),
            "i": rng.integers(0, 9, 60),
            "s": [None if i % 7 == 0 else "abc"[i % 3] for i in range(60)],
            "b": [None if i % 11 == 0 else i % 3 == 0 for i in range(60)],
            "t": [dt.datetime(2020, 1, 1) + dt.timedelta(hours=i) for i in range(60)],  # noqa: DTZ001
        }
    )


def test_every_kind_of_table_gives_the_same_features():
    frame = mixed_frame()
    arrow = frame.to_arrow()
    tables = [
        frame,
        frame.with_columns(pl.col("s").cast(pl.Categorical)),
        frame.to_pandas(),
        frame.to_pandas().astype({"s": "category"}),
        arrow,
        arrow.to_batches()[0],
        pa.RecordBatchReader.from_batches(arrow.schema, arrow.to_batches()),
        pa.concat_tables([arrow.slice(0, 13), arrow.slice(13)]),
    ]
    expected, encoder = encode(tables[0])
    assert expected.dtype == np.float32
    assert expected.flags.c_contiguous
    for table in tables[1:]:
        values, other = encode(table)
        assert np.array_equal(values, expected)
        assert other.feature_names == encoder.feature_names


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i2", "u1", "?"])
def test_arrays_of_every_number_type(dtype):
    array = (np.arange(12).reshape(6, 2) % 5).astype(dtype)
    expected, _ = encode(pl.DataFrame(array.astype("f8"), schema=["a", "b"]))
    for given_array in (array, np.asfortranarray(array), array[::1], pd.DataFrame(array)):
        assert np.array_equal(encode(given_array)[0], expected)
    assert FeatureEncoder().fit(array).feature_names == ("column_0", "column_1")


def test_columns_chooses_and_orders():
    values, encoder = encode(mixed_frame(), columns=["i", "f"])
    assert encoder.feature_names == ("i", "f")
    assert values.shape == (60, 2)
    with pytest.raises(DataError, match="columns names 'nope', which the feature table lacks"):
        encode(mixed_frame(), columns=["nope"])
    with pytest.raises(InvalidArgumentError, match="columns is 'f'; expected a list of names"):
        FeatureEncoder(columns="f")


def test_plain_data_round_trip():
    frame = mixed_frame().with_columns(
        v=pl.Series([[float(i), i % 4] for i in range(60)], dtype=pl.Array(pl.Float64, 2))
    )
    encoder = FeatureEncoder(scale="standard", max_categories=2, columns=["v", "s", "f"])
    values = encoder.fit_transform(frame)
    again = FeatureEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    assert np.array_equal(again.transform(frame), values)
    assert again.notes == encoder.notes
    assert again.to_dict() == encoder.to_dict()
    with pytest.raises(DataError, match="format 2; expected 1"):
        FeatureEncoder.from_dict({"format": 2})


def test_wide_tables_are_worked_on_in_blocks():
    rng = np.random.default_rng(0)
    array = rng.standard_normal((10, 20_000))
    array[3, 19_999] = np.nan
    values, encoder = encode(array)
    assert values.shape == (10, 20_000)
    assert note_of(encoder, "column_19999").detail.startswith("min_max; 1 missing")
    low, high = array[:, 7].min(), array[:, 7].max()
    np.testing.assert_allclose(values[:, 7], (array[:, 7] - low) / (high - low), rtol=1e-6)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 1e301])
def test_infinities_name_column_and_row(value):
    table = pl.DataFrame({"fine": [1.0, 2.0, 3.0], "bad": [1.0, 0.0, value]})
    with pytest.raises(DataError, match=r"column 'bad' holds .* in row 2; .* null") as caught:
        encode(table)
    assert caught.value.row == 2
    encoder = FeatureEncoder().fit(table.head(2))
    with pytest.raises(DataError, match="column 'bad' holds"):
        encoder.transform(table)


def test_values_beyond_float32_are_an_error_unless_scaled():
    table = pl.DataFrame({"x": [0.0, 1e300], "y": [1, 2]})
    assert encode(table)[0][:, 0].tolist() == [0.0, 1.0]
    assert encode(table, scale="standard")[0][:, 0].tolist() == [-1.0, 1.0]
    with pytest.raises(DataError, match="column 'x' does not fit float32 in row 1") as caught:
        encode(table, scale="none")
    assert caught.value.row == 1


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("bad", [[1], [1, 2]]),
        pl.Series("bad", [{"a": 1}, {"a": 2}]),
        pl.Series("bad", [b"x", b"y"]),
        pl.Series("bad", [object(), object()], dtype=pl.Object),
        pl.Series("bad", [["a"], ["b"]], dtype=pl.Array(pl.String, 1)),
    ],
    ids=lambda column: str(column.dtype),
)
def test_types_that_are_no_feature(column):
    with pytest.raises(DataError, match=r"column 'bad' is of type .* leave the column out"):
        encode(pl.DataFrame([pl.Series("x", [1, 2]), column]))


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        (pl.DataFrame({"x": []}), DataError, "has no rows"),
        (pl.DataFrame({"x": [1, 1]}), DataError, r"no usable feature column .*\('x': constant\)"),
        (pl.DataFrame({"x": [1]}), DataError, "no usable feature column"),
        (np.zeros((3, 0)), DataError, "has no columns"),
        (np.zeros(3), InvalidArgumentError, r"1 dimension\(s\), shape \(3,\); expected 2-D"),
        (np.zeros((2, 2), complex), DataError, "complex numbers"),
        ([[1, 2]], InvalidArgumentError, "of type list; expected a 2-D NumPy array"),
        (pl.DataFrame({"x": [1]}).lazy(), InvalidArgumentError, r"lazy frame; pass `.collect\(\)`"),
        (pl.Series([1, 2]), InvalidArgumentError, "single column"),
        (pd.DataFrame({"x": [1, "a"]}), DataError, "columns of one type each"),
    ],
)
def test_tables_that_cannot_be_used(table, error, message):
    with pytest.raises(error, match=message):
        encode(table)


@pytest.mark.parametrize(
    ("fitted", "given", "held"),
    [
        (pl.Date, pl.Datetime, "dates"),
        (pl.Datetime, pl.Date, "datetimes"),
        (pl.Int64, pl.Date, "numbers"),
        (pl.Int64, pl.Boolean, "numbers"),
        (pl.Boolean, pl.Int64, "booleans"),
        (pl.Duration, pl.Datetime, "durations"),
        (pl.Array(pl.Int8, 2), pl.Array(pl.Int8, 3), "lists of 2 numbers"),
    ],
)
def test_a_column_of_another_type_is_refused(fitted, given, held):
    def column(dtype):
        values = [[1] * dtype.shape[0], [0] * dtype.shape[0]] if hasattr(dtype, "shape") else [1, 0]
        return pl.DataFrame({"a": pl.Series(values).cast(dtype)})

    encoder = FeatureEncoder().fit(column(fitted))
    again = FeatureEncoder.from_dict(encoder.to_dict())
    for one in (encoder, again):
        assert one.transform(column(fitted)).shape[0] == 2
        with pytest.raises(DataError, match=f"here, but held {held} when"):
            one.transform(column(given))
    missing = pl.DataFrame({"a": [None, None]})
    assert np.isfinite(encoder.transform(missing)).all()


@pytest.mark.parametrize("columns", [["x", "x"], 3, "x", [1]])
def test_names_of_columns_are_checked(columns):
    with pytest.raises(InvalidArgumentError, match="columns"):
        FeatureEncoder(columns=columns)


def test_lists_of_no_number_are_dropped():
    empty = pl.Series("e", [[]] * 3, dtype=pl.Array(pl.Int64, 0))
    encoder = FeatureEncoder().fit(pl.DataFrame({"x": [1, 2, 3]}).with_columns(empty))
    assert encoder.feature_names == ("x",)
    assert encoder.notes[1].detail == "lists of length 0"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"x": [1.0]}, "lacks column 'k' that the encoder was fitted on"),
        ({"x": ["a"], "k": ["a"], "v": [1]}, "column 'x' is of type String here, but held numbers"),
        ({"x": [1.0], "k": [2], "v": [1]}, "column 'k' is of type Int64 here, but held text"),
        (
            {"x": [1.0], "k": ["a"], "v": [1]},
            "column 'v' is of type Int64 here, but held lists of 2",
        ),
    ],
)
def test_other_tables_at_transform(table, message):
    fitted = pl.DataFrame({"x": [1.0, 2.0], "k": ["a", "b"]}).with_columns(
        v=pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int64, 2))
    )
    encoder = FeatureEncoder().fit(fitted)
    with pytest.raises(DataError, match=message):
        encoder.transform(pl.DataFrame(table))
    with pytest.raises(InvalidArgumentError, match="not fitted"):
        FeatureEncoder().transform(fitted)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": "log"}, "scale is 'log'; expected one of 'min_max', 'standard', 'none'"),
        ({"max_categories": 0}, "max_categories is 0; expected a whole number of at least 1"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(InvalidArgumentError, match=message):
        FeatureEncoder(**settings)
