"""How features are held: rounding, scales, alignment, columns of Parquet."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mbflow.errors import DataError, InvalidArgumentError
from mbflow.graph.feature_values import DTYPES, aligned, check_dtype, encode, matrix

_FINITE = st.floats(-60000, 60000, width=32)
_SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=7)


@given(hnp.arrays(np.float32, _SHAPES, elements=st.floats(width=32)))
def test_bfloat16_is_that_of_torch(values):
    torch = pytest.importorskip("torch")
    expected = torch.from_numpy(values).to(torch.bfloat16)
    lost = torch.isinf(expected).numpy() & np.isfinite(values)
    if lost.any():
        with pytest.raises(DataError, match="more than bfloat16 holds"):
            encode(values, "bfloat16")
        return
    found, scales = encode(values, "bfloat16")
    back = (found.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(back, expected.float().numpy())
    assert scales is None


@given(hnp.arrays(np.float64, _SHAPES, elements=st.floats(-60000, 60000)))
def test_float16_is_rounded_once(values):
    found, _ = encode(values, "float16")
    np.testing.assert_array_equal(found, values.astype(np.float16))


@given(hnp.arrays(np.float32, _SHAPES, elements=_FINITE))
def test_int8_is_within_half_a_step(values):
    found, scales = encode(values, "int8")
    assert found.dtype == np.int8
    assert found.min(initial=0) >= -127
    back = found * scales[:, None]
    steps = np.abs(values).max(axis=1) / 127
    # Scales below the smallest number of full precision are rounded themselves.
    assert (np.abs(back - values) <= 0.5001 * steps[:, None] + 1e-37).all()


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("float16", 65520.0, r"row 1: column 2 is 65520\.0, more than float16 holds; hold it as"),
        ("float32", 1e39, r"row 1: column 2 is 1e\+39, more than float32 holds; scale the column"),
        ("bfloat16", 3.4e38, r"row 1: column 2 is 3\.4e\+38, more than bfloat16 holds"),
        ("int8", np.nan, r"row 1: column 2 is nan; int8 holds finite numbers only: fill it"),
        ("int8", np.inf, "row 1: column 2 is inf; int8 holds finite"),
    ],
)
def test_what_a_type_does_not_hold_is_named(dtype, value, message):
    values = np.zeros((3, 4))
    values[1, 2] = value
    with pytest.raises(DataError, match=message) as raised:
        encode(values, dtype)
    assert raised.value.row == 1


def test_columns_are_named_where_they_have_names():
    values = np.full((1, 2), 1e9)
    with pytest.raises(DataError, match="row 0: column `a` is"):
        encode(values, "float16", ["a", "b"])
    with pytest.raises(DataError, match="row 0: entry 0 of column `x` is"):
        encode(values, "float16", ["x"])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_infinity_and_nan_are_kept_by_floats(dtype):
    found, _ = encode(np.array([[np.inf, -np.inf, np.nan]]), dtype)
    back = found.astype(np.uint32) << 16 if dtype == "bfloat16" else found
    back = back.view(np.float32) if dtype == "bfloat16" else back
    np.testing.assert_array_equal(back.astype(np.float32), [[np.inf, -np.inf, np.nan]])


@settings(max_examples=30)
@given(st.integers(0, 300), st.integers(0, 40), st.sampled_from(sorted(DTYPES)))
def test_memory_begins_with_a_line(rows, columns, dtype):
    table = aligned(rows, columns, dtype)
    assert table.shape == (rows, columns)
    assert table.dtype == DTYPES[dtype]
    assert table.size == 0 or table.ctypes.data % 128 == 0
    assert not table.any()
    table[...] = 1


def test_large_memory_begins_with_a_large_page():
    assert aligned(1 << 20, 2, "float32").ctypes.data % (1 << 21) == 0


def test_types_that_there_are_not_are_refused():
    for wrong in ("float64", None, np.float32):
        with pytest.raises(InvalidArgumentError, match="expected one of float32, float16"):
            check_dtype(wrong)


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float32()), pa.large_list(pa.int64()), pa.list_(pa.float16(), 2)],
    ids=str,
)
def test_lists_become_a_matrix(kind):
    values = [[1, 2], [3, 4], [5, 6]]
    if kind == pa.list_(pa.float16(), 2):
        array = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(1, 7, dtype=np.float16)), 2)
    else:
        array = pa.array(values, kind)
    table = pa.table({"x": pa.chunked_array([array.slice(0, 1), array.slice(1)])})
    found = matrix(table, ["x"], None)
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(matrix(table.slice(1, 1), ["x"], 2), [[3, 4]])


def test_columns_become_a_matrix():
    table = pa.table(
        {
            "a": pa.array([1, 2], pa.int8()),
            "b": pa.array([True, False]),
            "c": pa.array([0.5, 1.5], pa.float64()),
        }
    )
    np.testing.assert_array_equal(matrix(table, ["a", "c", "b"], None), [[1, 0.5, 1], [2, 1.5, 0]])


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        ({"x": [[1.0], None]}, ["x"], "row 1: column `x` is null"),
        ({"x": [[1.0, 2.0], [1.0, None]]}, ["x"], "row 1: an entry of column `x` is null"),
        ({"x": [[1.0, 2.0], [1.0]]}, ["x"], "row 1: column `x` has 1 entries, and 2 in the rows"),
        ({"x": ["a"]}, ["x"], "the column `x` is string; expected numbers"),
        ({"x": [["a"]]}, ["x"], "the column `x` is string; expected numbers"),
        ({"x": [1.0, None], "y": [1, 2]}, ["y", "x"], "row 1: column `x` is null"),
        ({"x": [1.0], "y": [[1.0]]}, ["x", "y"], "the column `y` is list<.*>; expected numbers"),
    ],
)
def test_columns_that_are_no_numbers_are_refused(columns, names, message):
    with pytest.raises(DataError, match=message):
        matrix(pa.table(columns), names, None)
