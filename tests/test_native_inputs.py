"""What the kernels take from Python as features, and what they refuse."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from mbflow import _native
from mbflow.errors import DataError, InvalidArgumentError
from native_data import exact_graph, mixture

STREAM = 1 << 16

# What it takes


def small() -> np.ndarray:
    return np.array([[0, 5, 1], [2, 5, 3], [9, 0, 4], [7, 1, 4], [0, 5, 2]], dtype=np.float32)


def table(dtype: str = "float32") -> dict[str, np.ndarray]:
    return {name: small()[:, i].astype(dtype) for i, name in enumerate("abc")}


def fixed_size_lists(dtype: pa.DataType) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(small().ravel(), dtype), 3)


def strided() -> np.ndarray:
    wide = np.zeros((10, 6), dtype=np.float32)
    wide[::2, ::2] = small()
    return wide[::2, ::2]


def sliced_lists() -> pa.FixedSizeListArray:
    padded = np.vstack([np.full((2, 3), 77), small(), np.full((1, 3), 88)]).astype(np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(padded.ravel()), 3).slice(2, 5)


ACCEPTED = {
    "numpy float32": small,
    "numpy read-only": lambda: np.frombuffer(small().tobytes(), dtype=np.float32).reshape(5, 3),
    "numpy Fortran order": lambda: np.asfortranarray(small()),
    "numpy strided": strided,
    "numpy reversed": lambda: small()[::-1][::-1],
    **{
        f"numpy {dtype}": (lambda dtype=dtype: small().astype(dtype))
        for dtype in ("f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
    },
    "polars frame": lambda: pl.DataFrame(table()),
    "polars chunked frame": lambda: pl.concat(
        [pl.DataFrame(table())[:2], pl.DataFrame(table())[2:]], rechunk=False
    ),
    "polars integers": lambda: pl.DataFrame(table("int64")),
    "polars array series": lambda: pl.Series("v", small(), dtype=pl.Array(pl.Float32, 3)),
    "polars float64 array frame": lambda: pl.DataFrame(
        {"v": pl.Series(small().astype("f8"), dtype=pl.Array(pl.Float64, 3))}
    ),
    "pandas frame": lambda: pd.DataFrame(table()),
    "pandas frame with an index": lambda: pd.DataFrame(table(), index=[9, 4, 3, 2, 0]),
    "pandas mixed types": lambda: pd.DataFrame(table()).astype({"a": "int16", "b": "float64"}),
    "pyarrow table": lambda: pa.table(table()),
    "pyarrow batch": lambda: pa.record_batch(table()),
    "pyarrow chunked table": lambda: pa.concat_tables(
        [pa.table(table()).slice(0, 3), pa.table(table()).slice(3)]
    ),
    "pyarrow float16": lambda: pa.table(table("float16")),
    "pyarrow reader": lambda: pa.RecordBatchReader.from_batches(
        pa.table(table()).schema, pa.table(table()).to_batches(max_chunksize=2)
    ),
    "pyarrow fixed-size lists": lambda: fixed_size_lists(pa.float32()),
    "pyarrow fixed-size lists of float64": lambda: fixed_size_lists(pa.float64()),
    "pyarrow sliced fixed-size lists": sliced_lists,
    "pyarrow chunked fixed-size lists": lambda: pa.chunked_array(
        [fixed_size_lists(pa.float32()).slice(0, 2), fixed_size_lists(pa.float32()).slice(2)]
    ),
    "pyarrow table of fixed-size lists": lambda: pa.table({"v": fixed_size_lists(pa.float32())}),
}


@pytest.mark.parametrize("make", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_every_layout_gives_the_same_graph(make):
    order, distances = exact_graph(small(), 3)
    offsets, neighbours, lengths, _, stats = _native.neighbour_graph(make(), neighbours=3)
    assert offsets.tolist() == [0, 3, 6, 9, 12, 15]
    assert neighbours.tolist() == order.ravel().tolist()
    np.testing.assert_allclose(lengths, distances.ravel(), rtol=1e-6)
    assert (stats["rows"], stats["width"]) == (5, 3)
    assert (offsets.dtype, neighbours.dtype, lengths.dtype) == (np.int64, np.int32, np.float32)


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("x", [0.0, 1.0, 3.0]),
        pl.DataFrame({"x": [0, 1, 3]}),
        pa.array([0, 1, 3], pa.uint8()),
        pa.chunked_array([pa.array([0.0]), pa.array([1.0, 3.0])]),
        pd.Series([0.0, 1.0, 3.0]),
        np.array([[0.0], [1.0], [3.0]]),
    ],
    ids=["polars", "polars frame", "pyarrow", "pyarrow chunks", "pandas", "numpy"],
)
def test_one_column_is_a_matrix_of_one_column(column):
    _, neighbours, distances, _, _ = _native.neighbour_graph(column, neighbours=1)
    assert neighbours.tolist() == [1, 0, 1]
    assert distances.tolist() == [1.0, 1.0, 2.0]


def test_inputs_are_left_as_they_were():
    features = mixture(500, 4, 3)
    before = features.copy()
    _native.neighbour_graph(features, bucket_cap=20)
    assert np.array_equal(features, before)
    features[0, 0] = 1  # and are not kept borrowed


# What it refuses


def with_value(value: float, dtype: str = "float32") -> np.ndarray:
    features = small().astype(dtype)
    features[3, 1] = features[4, 0] = value
    return features


REFUSED = {
    "NaN": (lambda: with_value(np.nan), DataError, "column 1, row 3: NaN is not a finite number"),
    "infinity": (
        lambda: with_value(-np.inf),
        DataError,
        "column 1, row 3: -inf is not a finite number",
    ),
    "float64 infinity": (
        lambda: with_value(np.inf, "f8"),
        DataError,
        "column 1, row 3: inf is not a finite",
    ),
    "beyond float32": (
        lambda: with_value(1e300, "f8"),
        DataError,
        "column 1, row 3: 1e300 is beyond the range of float32",
    ),
    "overflowing squares": (
        lambda: with_value(1e30),
        DataError,
        "column 1, row 3: .* squared distances overflow",
    ),
    "NaN in a polars column": (
        lambda: pl.DataFrame(with_value(np.nan), schema=["a", "b", "c"]),
        DataError,
        "column `b`, row 3: NaN",
    ),
    "beyond float32 in a column": (
        lambda: pl.DataFrame(with_value(-1e39, "f8"), schema=["a", "b", "c"]),
        DataError,
        "column `a`, row 4: -1e39 is beyond",
    ),
    "null in a polars column": (
        lambda: pl.DataFrame({"a": [1.0, 2.0], "b": [1, None]}),
        DataError,
        "column `b`, row 1: null",
    ),
    "null in a later chunk": (
        lambda: pa.table({"x": pa.chunked_array([[1.0, 2.0], [3.0, None]])}),
        DataError,
        "column `x`, row 3: null",
    ),
    "null list": (
        lambda: pa.array([[1.0, 2.0], None, [1.0, 2.0]], pa.list_(pa.float32(), 2)),
        DataError,
        "row 1: null",
    ),
    "null in a list": (
        lambda: pa.array([[1.0, 2.0], [1.0, None]], pa.list_(pa.float32(), 2)),
        DataError,
        "element 1, row 1: null",
    ),
    "null row of a struct": (
        lambda: pa.array([{"a": 1.0, "b": 1.0}, None]),
        DataError,
        "row 1: null",
    ),
    "strings": (
        lambda: pl.DataFrame({"a": [1.0], "b": ["x"]}),
        InvalidArgumentError,
        "column `b` has type Utf8View; expected floats or integers",
    ),
    "booleans": (
        lambda: pa.table({"a": [True]}),
        InvalidArgumentError,
        "column `a` has type Boolean",
    ),
    "lists of any length": (
        lambda: pa.table({"v": [[1.0], [2.0]]}),
        InvalidArgumentError,
        "column `v` holds lists of any length; cast it to a fixed-size list",
    ),
    "numpy booleans": (lambda: np.ones((2, 2), bool), InvalidArgumentError, "got dtype bool"),
    "numpy objects": (lambda: np.ones((2, 2), object), InvalidArgumentError, "got dtype object"),
    "numpy complex": (
        lambda: np.ones((2, 2), complex),
        InvalidArgumentError,
        "got dtype complex128",
    ),
    "big endian": (lambda: small().astype(">f4"), InvalidArgumentError, "native byte order"),
    "misaligned": (
        lambda: np.frombuffer(b"x" + small().tobytes(), np.float32, offset=1).reshape(5, 3),
        InvalidArgumentError,
        "aligned",
    ),
    "1-D": (
        lambda: np.ones(3, np.float32),
        InvalidArgumentError,
        r"expected 2 dimensions .* got 1",
    ),
    "3-D": (lambda: np.ones((3, 1, 1)), InvalidArgumentError, r"expected 2 dimensions .* got 3"),
    "no rows": (lambda: np.ones((0, 3)), DataError, "at least one row and one column, got 0 x 3"),
    "no columns": (
        lambda: np.ones((3, 0)),
        DataError,
        "at least one row and one column, got 3 x 0",
    ),
    "empty table": (
        lambda: pl.DataFrame({"a": []}, schema={"a": pl.Float32}),
        DataError,
        "at least one row",
    ),
    "table without columns": (pl.DataFrame, DataError, "at least one row"),
    "a list": (lambda: [[1.0, 2.0]], InvalidArgumentError, "expected a 2-D NumPy array.* got list"),
    "None": (lambda: None, InvalidArgumentError, "got NoneType"),
}


@pytest.mark.parametrize(("make", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_wrong_features_are_named(make, error, message):
    for call in (
        _native.neighbour_graph,
        lambda features: _native.project(features, projections=2),
        lambda features: _native.sign_codes(features, bits=2),
        lambda features: _native.p_stable_codes(features, hashes=2, width=1.0),
    ):
        with pytest.raises(error, match=message) as caught:
            call(make())
        assert str(caught.value).startswith("features: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"neighbours": 0}, "neighbours: expected at least 1, got 0"),
        ({"bits": 65}, "bits: expected 1 to 64, got 65"),
        ({"bits": 0}, "bits: expected 1 to 64, got 0"),
        ({"bucket_cap": 1}, "bucket_cap: expected at least 2, got 1"),
        ({"family": "cosine"}, "family: expected 'sign' or 'p_stable', got \"cosine\""),
        ({"projections": "dense"}, "projections: expected 'gaussian' or 'sparse', got \"dense\""),
        ({"width": 1.0}, "width: applies to family='p_stable' only"),
        ({"family": "p_stable", "width": 0.0}, "width: expected a finite, positive number, got 0"),
        ({"refinements": 101}, "refinements: expected at most 100, got 101"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        _native.neighbour_graph(small(), **arguments)


def test_wrong_settings_of_the_others_are_named():
    with pytest.raises(InvalidArgumentError, match="projections: expected 1 to 65536, got 0"):
        _native.project(small(), projections=0)
    with pytest.raises(InvalidArgumentError, match="kind: expected"):
        _native.sign_codes(small(), bits=3, kind="dense")
    with pytest.raises(InvalidArgumentError, match="bound: expected at least 1, got 0"):
        _native.random_integers(0, STREAM, 0, 0, 1)
    with pytest.raises(InvalidArgumentError, match="threads: expected 1 to 1024, got 0"):
        _native.set_num_threads(0)
    for seed in (-1, 2**64, "7", True, 1.5, None):
        with pytest.raises(
            InvalidArgumentError, match=r"seed is .*; expected a whole number from 0"
        ):
            _native.neighbour_graph(small(), seed=seed)


class Lying:
    """Objects whose Arrow methods misbehave."""

    class NotCapsules:
        def __arrow_c_array__(self, requested_schema=None):
            return 1, 2

    class Raising:
        def __arrow_c_stream__(self, requested_schema=None):
            raise OSError("the file went away")

    class WrongCapsule:
        def __arrow_c_stream__(self, requested_schema=None):
            return pa.array([1.0]).__arrow_c_array__()[0]

    class UsedStream:
        def __init__(self) -> None:
            self.capsule = pa.table({"a": [1.0]}).__arrow_c_stream__()
            pl.DataFrame(self)

        def __arrow_c_stream__(self, requested_schema=None):
            return self.capsule


def failing_batches():
    yield pa.record_batch({"a": [1.0]})
    raise ValueError("page 7 is damaged")


@pytest.mark.parametrize(
    "make", [Lying.NotCapsules, Lying.Raising, Lying.WrongCapsule, Lying.UsedStream]
)
def test_capsules_that_lie_end_in_an_exception(make, capfd):
    with pytest.raises(Exception) as caught:
        _native.neighbour_graph(make())
    assert isinstance(caught.value, Exception)
    assert "panicked" not in capfd.readouterr().err


def test_a_stream_that_fails_halfway_is_a_data_error(capfd):
    reader = pa.RecordBatchReader.from_batches(pa.schema({"a": pa.float64()}), failing_batches())
    with pytest.raises(DataError, match="page 7 is damaged"):
        _native.neighbour_graph(reader)
    assert "panicked" not in capfd.readouterr().err
