"""Lengths of utterances: columns, Parquet, an index on disk, and outliers."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbflow.errors import DataError, InvalidArgumentError
from mbflow.speech import Lengths, outliers


@pytest.mark.parametrize(
    "column",
    [
        [1.5, 2.0, 3.0],
        np.array([1.5, 2, 3]),
        np.array([1.5, 2, 3], np.float16),
        np.array([0.0, 1.5, 0.0, 2, 0.0, 3])[1::2],
        pl.Series([1.5, 2.0, 3.0]),
        pd.Series([1.5, 2.0, 3.0], index=[7, 8, 9]),
        pa.array([1.5, 2.0, 3.0]),
        pa.chunked_array([[1.5], [2.0, 3.0]]),
    ],
    ids=str,
)
def test_lengths_are_taken_from_any_column(column):
    found = Lengths.of(column, [1, 2, 3])
    assert found.seconds.tolist() == [1.5, 2.0, 3.0]
    assert found.seconds.dtype == np.float32
    assert found.tokens.tolist() == [1, 2, 3]
    assert found.tokens.dtype == np.uint32
    assert found.seconds.nbytes + found.tokens.nbytes <= 16 * len(found)


def test_whole_seconds_are_seconds():
    assert Lengths.of(np.array([1, 2], np.int16)).seconds.tolist() == [1.0, 2.0]
    assert Lengths.of(pl.Series([1, 2], dtype=pl.UInt8)).seconds.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("seconds", "tokens", "message"),
    [
        ([], None, "there is no item"),
        ([1.0, None], None, "item 1 is null, as 1 of 2"),
        ([1.0, float("nan")], None, "item 1 is nan"),
        ([1.0, float("inf")], None, "item 1 is inf"),
        ([0.0, 1.0], None, "item 0 is 0"),
        ([1.0, -1.0, -2.0], None, "item 1 is -1.0, and 2 of 3"),
        ([1e-60], None, "item 0 is 1e-60"),
        ([1e60], None, "item 0 is 1e\\+60"),
        ([1.0, 1.0], [1, None], "tokens: item 1 is null"),
        ([1.0, 1.0], [1, -1], "tokens: item 1 is -1"),
        ([1.0, 1.0], [1.0, 2.5], "tokens: item 1 is 2.5"),
        ([1.0, 1.0], [1.0, float("nan")], "tokens: item 1 is nan"),
        ([1.0], [2**32], "tokens: item 0 is 4294967296"),
    ],
)
def test_what_is_no_length_is_named(seconds, tokens, message):
    with pytest.raises(DataError, match=message):
        Lengths.of(seconds, tokens)


@pytest.mark.parametrize(
    ("seconds", "tokens", "message"),
    [
        ([1.0, 2.0], [1], "tokens: 1 for 2 items"),
        (["a"], None, "seconds: of type String"),
        ([True], None, "seconds: of type Boolean"),
        (np.ones((2, 2)), None, "seconds"),
        (Lengths.of([1.0]), [1], "tokens are given twice"),
    ],
)
def test_what_is_no_column_of_numbers_is_refused(seconds, tokens, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Lengths.of(seconds, tokens)


def test_parquet_is_read_in_order_of_name(tmp_path):
    for name, seconds in (("b", [3.0, 4.0]), ("a", [1.0, 2.0]), ("sub/c", [5.0])):
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        tokens = [int(s) for s in seconds]
        pq.write_table(pa.table({"text": ["x"] * len(seconds), "s": seconds, "n": tokens}), path)
    found = Lengths.from_parquet(tmp_path, seconds="s", tokens="n")
    assert found.seconds.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert found.tokens.tolist() == [1, 2, 3, 4, 5]
    assert Lengths.from_parquet(tmp_path / "b.parquet", seconds="s").seconds.tolist() == [3.0, 4.0]


def test_parquet_is_read_by_pattern_and_by_list(tmp_path):
    for number in range(3):
        pq.write_table(pa.table({"seconds": [1.0 + number]}), tmp_path / f"part-{number}.parquet")
    pq.write_table(pa.table({"seconds": [9.0]}), tmp_path / "other.parquet")
    found = Lengths.from_parquet(str(tmp_path / "part-*.parquet"))
    assert found.seconds.tolist() == [1.0, 2.0, 3.0]
    paths = [tmp_path / "other.parquet", tmp_path / "part-0.parquet"]
    assert Lengths.from_parquet(paths).seconds.tolist() == [9.0, 1.0]
    assert repr(found) == "Lengths(3 items)"
    with pytest.raises(DataError, match="there is no Parquet file"):
        Lengths.from_parquet(str(tmp_path / "none-*.parquet"))
    with pytest.raises(DataError, match="there is no Parquet file"):
        Lengths.from_parquet([])


def test_parquet_without_what_is_needed_is_named(tmp_path):
    with pytest.raises(DataError, match="there is no Parquet file"):
        Lengths.from_parquet(tmp_path)
    with pytest.raises(DataError, match="there is no Parquet file"):
        Lengths.from_parquet(tmp_path / "none.parquet")
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"s": [1.0, 2.0, -1.0]}), path, row_group_size=2)
    with pytest.raises(DataError, match=r"a\.parquet: no column `seconds`; it has \['s'\]"):
        Lengths.from_parquet(path)
    with pytest.raises(DataError, match=r"a\.parquet, row 2: .*is -1.0"):
        Lengths.from_parquet(path, seconds="s")
    pq.write_table(pa.table({"s": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet, columns `s`: .*of type String"):
        Lengths.from_parquet(tmp_path / "b.parquet", seconds="s")
    pq.write_table(pa.table({"s": pa.array([], pa.float64())}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="there is no item"):
        Lengths.from_parquet(tmp_path / "b.parquet", seconds="s")
    data = bytearray(path.read_bytes())
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read"):
        Lengths.from_parquet(path, seconds="s")


def test_an_index_is_mapped_and_the_same(tmp_path):
    lengths = Lengths.of([1.0, 2.0], [3, 4])
    lengths.save(tmp_path / "index")
    found = Lengths.open(tmp_path / "index")
    assert isinstance(found.seconds, np.memmap)
    assert found.seconds.tolist() == [1.0, 2.0]
    assert found.tokens.tolist() == [3, 4]
    assert found.digest() == lengths.digest() != Lengths.of([1.0, 2.0]).digest()
    Lengths.of([5.0]).save(tmp_path / "index")
    assert Lengths.open(tmp_path / "index").tokens is None
    assert [path.name for path in (tmp_path / "index").iterdir()] == ["seconds.npy"]


def test_a_damaged_index_is_named(tmp_path):
    with pytest.raises(DataError, match="there is no index of lengths"):
        Lengths.open(tmp_path)
    Lengths.of([1.0, 2.0], [3, 4]).save(tmp_path)
    np.save(tmp_path / "tokens.npy", np.array([1], np.uint32))
    with pytest.raises(DataError, match=r"tokens\.npy"):
        Lengths.open(tmp_path)
    (tmp_path / "seconds.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match="cannot be read"):
        Lengths.open(tmp_path)


def test_outliers_are_listed_with_their_reasons():
    seconds = [0.1, 5.0, 90.0, *([10.0] * 40)]
    tokens = [1, 5, 9, 400, *([50] * 39)]
    found = outliers(Lengths.of(seconds, tokens), min_seconds=0.5, max_seconds=40, rate_sigmas=4.0)
    assert found.columns == ["item", "seconds", "tokens", "reason"]
    assert found["item"].to_list() == [0, 2, 3]
    assert found["reason"].to_list() == ["too short", "too long", "too many tokens a second"]
    assert outliers(Lengths.of(seconds, tokens), rate_sigmas=None).is_empty()


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 90)), min_size=1, max_size=60),
    st.floats(0.5, 5),
)
def test_rates_are_held_against_their_bucket(pairs, sigmas):
    edges = [10.0, 20.0, 30.0]
    found = outliers(
        Lengths.of([float(s) for s, _ in pairs], [t for _, t in pairs]),
        rate_sigmas=sigmas,
        edges=edges,
    )
    expected = []
    for low, high in itertools.pairwise([0.0, *edges]):
        inside = [(at, t / s) for at, (s, t) in enumerate(pairs) if low < s <= high]
        if inside:
            rates = np.array([rate for _, rate in inside])
            limit = rates.mean() + sigmas * rates.std()
            # Where all rates are alike, rounding decides nothing.
            expected += [at for at, rate in inside if rate > limit * (1 + 1e-12)]
    assert set(expected) >= set(found["item"].to_list()) - {
        at for at, (s, t) in enumerate(pairs) if (at not in expected) and t / s == 0
    }
    assert set(expected) <= set(found["item"].to_list())


@pytest.mark.parametrize(
    "options", [{"min_seconds": "a"}, {"max_seconds": float("nan")}, {"rate_sigmas": -1}]
)
def test_limits_that_are_no_numbers_are_refused(options):
    with pytest.raises(InvalidArgumentError, match=next(iter(options))):
        outliers(Lengths.of([1.0]), **options)


def test_workers_share_an_index_in_memory(tmp_path):
    """A worker that gets a plan over a mapped index must not get a copy of the index."""
    Lengths.of(np.full(200_000, 2.0)).save(tmp_path)
    code = (
        "import pickle, sys\n"
        "from mbflow.speech import Lengths\n"
        f"lengths = Lengths.open({str(tmp_path)!r})\n"
        "assert len(pickle.dumps(lengths)) < 10_000, len(pickle.dumps(lengths))\n"
        "again = pickle.loads(pickle.dumps(lengths))\n"
        "assert again.seconds[199_999] == 2.0\n"
        "assert again.digest() == lengths.digest()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_limits_hold_what_is_as_long_as_they_are():
    seconds = np.arange(1, 2000) / 100
    for kind in (float, np.float64):
        for value in (0.7, 12.7, 19.99):
            found = outliers(Lengths.of([value]), min_seconds=kind(value), max_seconds=kind(value))
            assert found.is_empty()
    dropped = outliers(Lengths.of(seconds), max_seconds=10.0)["item"]
    assert dropped.to_list() == np.flatnonzero(seconds > 10).tolist()
    assert outliers([0.5, 50.0], max_seconds=np.int64(40))["item"].to_list() == [1]


def test_masked_values_are_missing_ones():
    with pytest.raises(DataError, match="item 1 is masked, as 1 of 3"):
        Lengths.of(np.ma.array([1.0, 99.0, 3.0], mask=[0, 1, 0]))
    assert Lengths.of(np.ma.array([1.0, 2.0])).seconds.tolist() == [1.0, 2.0]


def test_lists_of_whole_and_other_numbers_are_numbers():
    assert Lengths.of([2, 2.5, 3], (1, 2, 3)).seconds.tolist() == [2.0, 2.5, 3.0]
