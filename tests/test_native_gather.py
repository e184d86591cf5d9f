"""Gathers of rows against NumPy and torch: kinds, ids, threads, memory maps, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mbflow
from mbflow._native import gather
from mbflow.errors import InvalidArgumentError

KINDS = ("float32", "float16", "bfloat16", "int8")
IDS = (np.int64, np.uint64, np.int32, np.uint32)


def _table(rng: np.random.Generator, kind: str, rows: int, columns: int):
    """A table as it is stored, its scales, and its rows as float32."""
    if kind == "int8":
        stored = rng.integers(-128, 128, (rows, columns)).astype(np.int8)
        scales = rng.normal(size=rows).astype(np.float32)
        return stored, scales, stored.astype(np.float32) * scales[:, None]
    values = rng.normal(size=(rows, columns)).astype(np.float32)
    if kind == "bfloat16":
        stored = (values.view(np.uint32) >> 16).astype(np.uint16)
        return stored, None, (stored.astype(np.uint32) << 16).view(np.float32)
    stored = values.astype(kind)
    return stored, None, stored.astype(np.float32)


def _gathered(stored: np.ndarray, ids: np.ndarray, kind: str, scales=None) -> np.ndarray:
    out = np.full((len(ids), stored.shape[1]), np.nan, np.float32)
    if kind == "float32":
        gather.rows(stored.view(np.uint8), ids, out.view(np.uint8))
    else:
        gather.rows(stored.view(np.uint8), ids, out, kind=kind, scales=scales)
    return out


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    id_type=st.sampled_from(IDS),
    rows=st.integers(1, 50),
    columns=st.one_of(st.integers(0, 40), st.integers(250, 620)),
    count=st.integers(0, 300),
    seed=st.integers(0, 1000),
)
def test_rows_are_those_that_numpy_takes(kind, id_type, rows, columns, count, seed):
    rng = np.random.default_rng(seed)
    stored, scales, values = _table(rng, kind, rows, columns)
    ids = rng.integers(0, rows, count).astype(id_type)
    np.testing.assert_array_equal(
        _gathered(stored, ids, kind, scales), values[ids.astype(np.int64)]
    )


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 30),
    width=st.integers(0, 200),
    count=st.integers(0, 90),
    seed=st.integers(0, 99),
)
def test_bytes_of_any_width_are_copied(rows, width, count, seed):
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 256, (rows, width)).astype(np.uint8)
    ids = rng.integers(0, rows, count)
    out = np.empty((count, width), np.uint8)
    gather.rows(table, ids, out)
    np.testing.assert_array_equal(out, table[ids])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_that_torch_selects_for_any_number_of_threads(kind, monkeypatch):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    stored, scales, _ = _table(rng, kind, 3000, 65)
    ids = rng.integers(0, len(stored), 20_000)
    if kind == "bfloat16":
        table = torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16).float()
    elif kind == "int8":
        table = torch.from_numpy(stored).float() * torch.from_numpy(scales)[:, None]
    else:
        table = torch.from_numpy(stored).float()
    expected = torch.index_select(table, 0, torch.from_numpy(ids)).numpy()
    threads = mbflow.num_threads()
    try:
        for count in (1, 2, 3):
            mbflow.set_num_threads(count)
            out = _gathered(stored, ids, kind, scales)
            assert (out.view(np.uint32) == expected.view(np.uint32)).all()
    finally:
        mbflow.set_num_threads(threads)


def test_every_float16_is_exact():
    stored = np.arange(1 << 16, dtype=np.uint16).view(np.float16)[None]
    with np.errstate(invalid="ignore"):
        expected = stored.astype(np.float32)
    out = _gathered(stored, np.array([0]), "float16")
    np.testing.assert_array_equal(out, expected)
    assert (np.signbit(out) == np.signbit(expected)).all()


@pytest.mark.parametrize("id_type", IDS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_bad_id_is_named_and_nothing_is_written(kind, id_type):
    stored, scales, _ = _table(np.random.default_rng(2), kind, 800, 3)
    ids = np.zeros(300_000, id_type)
    ids[[17, 70_000]] = 900
    out = np.full((len(ids), 3), 5, np.float32)
    into = out.view(np.uint8) if kind == "float32" else out
    with pytest.raises(InvalidArgumentError) as caught:
        gather.rows(
            stored.view(np.uint8),
            ids,
            into,
            kind="same" if kind == "float32" else kind,
            scales=scales,
        )
    assert str(caught.value) == "ids: ids[17] is 900; expected 0 to 799 (the table has 800 rows)"
    assert (out == 5).all()


@pytest.mark.parametrize("id_type", [np.int32, np.int64])
def test_a_negative_id_is_no_row(id_type):
    table, out = np.zeros((4, 3), np.uint8), np.ones((2, 3), np.uint8)
    with pytest.raises(InvalidArgumentError, match=r"ids\[1\] is -1; expected 0 to 3 \("):
        gather.rows(table, np.array([0, -1], id_type), out)
    assert out.all()


def test_few_rows_and_no_rows():
    for columns in (0, 1, 7):
        one = np.full((1, columns), 3, np.uint8)
        out = np.zeros((4, columns), np.uint8)
        gather.rows(one, np.zeros(4, np.int64), out)
        assert (out == 3).all()
        none = one[:0]
        gather.rows(none, np.array([], np.int64), out[:0])
        with pytest.raises(InvalidArgumentError, match=r"ids\[0\] is 0; the table has no rows"):
            gather.rows(none, np.array([0]), out[:1])


def test_a_read_only_memory_map_is_read_where_it_is(tmp_path):
    rng = np.random.default_rng(3)
    values = rng.normal(size=(5000, 90)).astype(np.float32)
    np.save(tmp_path / "table.npy", values)
    table = np.load(tmp_path / "table.npy", mmap_mode="r")
    assert not table.flags.writeable
    ids = rng.integers(0, 5000, 9000)
    np.testing.assert_array_equal(_gathered(table, ids, "float32"), values[ids])


def test_arguments_that_do_not_fit_are_refused():
    table, ids = np.zeros((4, 6), np.uint8), np.array([0, 1])
    out, floats = np.zeros((2, 6), np.uint8), np.zeros((2, 3), np.float32)
    scales = np.ones(4, np.float32)

    def refused(match, table=table, ids=ids, out=out, **more):
        with pytest.raises(InvalidArgumentError, match=match):
            gather.rows(table, ids, out, **more)

    refused("table: expected a 2-D array of uint8", table=table.astype(np.float32))
    refused("table: expected a 2-D array of uint8", table=table[0])
    refused("table: .*not contiguous", table=np.zeros((4, 12), np.uint8)[:, ::2])
    refused("ids: expected a 1-D array of int64", ids=ids.astype(np.float64))
    refused("ids: expected a 1-D array of int64", ids=ids[None])
    refused("ids: expected a 1-D array of int64", ids=[0, 1])
    refused("ids: .*not contiguous", ids=np.zeros(4, np.int64)[::2])
    refused("out: expected a 2-D array of uint8, 2 x 6, got 2 x 5", out=out[:, :5])
    refused("out: expected a 2-D array of uint8, 2 x 6$", out=floats)
    refused("out: expected a 2-D array of float32, 2 x 3$", kind="float16")
    refused("out: .*not contiguous", out=np.zeros((4, 6), np.uint8)[::2])
    refused("kind: expected 'same', .*, got \"float64\"", kind="float64")
    refused("scales: expected one for each row of int8, got none", kind="int8")
    refused('scales: expected none for kind="float16"', kind="float16", scales=scales)
    refused(
        "scales: expected a 1-D array of float32", kind="int8", scales=scales.astype(np.float64)
    )
    refused(
        "scales: expected one for each of 4 rows, got 3",
        kind="int8",
        scales=scales[:3],
        out=np.zeros((2, 6), np.float32),
    )
    refused(
        "rows of whole float16 values", table=np.zeros((4, 7), np.uint8), out=floats, kind="float16"
    )
    fixed = out.copy()
    fixed.flags.writeable = False
    refused("out: ", out=fixed)
    refused("out: ", table=table, out=table[2:])
