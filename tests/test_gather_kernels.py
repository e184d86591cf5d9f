"""The gather kernels: every lane run on the CPU, and every kernel compiled for every GPU."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gather_emulator import NONE_BAD, Emulator, Memory, requests, requests_of_rows
from mbflow.errors import DefectError, InvalidArgumentError, MissingExtraError
from mbflow.graph import gather_kernels, pcie_requests
from mbflow.graph.gather_kernels import (
    ARCHITECTURES,
    CASTS,
    KERNELS,
    compile_kernels,
    compile_ptx,
    kernel_arguments,
    launch_shape,
)

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
PAIRS = [(old, new) for old in BYTES for new in (old, *CASTS[old])]


@pytest.fixture(scope="session")
def emulator(tmp_path_factory) -> Emulator:
    if shutil.which("g++") is None:
        pytest.skip("needs the compiler g++")
    return Emulator(tmp_path_factory.mktemp("gather"))


# ---- What is to come out, by NumPy ---------------------------------------------------------------


def widened(rows: np.ndarray, dtype: str) -> np.ndarray:
    """uint8[n, bytes] read as numbers: float32[n, width]."""
    if dtype == "bfloat16":
        return (rows.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return rows.view(dtype).astype(np.float32)


def as_bfloat16(values: np.ndarray) -> np.ndarray:
    """Bits, uint16, of the nearest of the two neighbours, measured in float64."""
    low = values.view(np.uint32) >> 16

    def number(bits: np.ndarray) -> np.ndarray:
        # The neighbour of the largest number is 2^128, which the format calls infinity.
        with np.errstate(invalid="ignore"):
            found = (bits << 16).astype(np.uint32).view(np.float32).astype(np.float64)
        return np.where(np.isinf(found), np.copysign(2.0**128, found), found)

    near, far = number(low), number(low + 1)
    exact = values.astype(np.float64)
    below, above = np.abs(exact - near), np.abs(far - exact)
    up = (above < below) | ((above == below) & (low % 2 == 1))
    return np.where(np.isinf(values), low, low + up).astype(np.uint16)


def narrowed(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32[n, width] as bytes, uint8[n, bytes]."""
    if dtype == "bfloat16":
        return as_bfloat16(values).view(np.uint8)
    with np.errstate(over="ignore"):
        return values.astype(dtype).view(np.uint8)


def numbers(draw: np.random.Generator, rows: int, width: int, dtype: str) -> np.ndarray:
    """A table of numbers of all magnitudes, as bytes: uint8[rows, bytes]."""
    if dtype == "int8":
        return draw.integers(0, 256, (rows, width), dtype=np.uint8)
    exponents = draw.integers(-30, 17, (rows, width))
    return narrowed((draw.normal(size=(rows, width)) * 2.0**exponents).astype(np.float32), dtype)


# ---- Any gather ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    pair: tuple[str, str]
    width: int
    rows: int
    base: int
    padding: int
    ids: list[int]
    id_dtype: str
    out_base: int
    out_padding: int
    hot: tuple[int, int] | None  # rows of the hot table, and where it begins
    scaled: bool
    threads: int
    blocks: int
    lanes: int | None  # those of launch_shape if None
    seed: int


@st.composite
def cases(draw) -> Case:
    old, new = draw(st.sampled_from(PAIRS))
    size, out_size = BYTES[old], BYTES[new]
    widest = draw(st.sampled_from([8, 64, 300, 700]))
    rows = draw(st.integers(1, 40))
    id_dtype = draw(st.sampled_from(["int64", "int32", "uint32"]))
    far = st.sampled_from(
        [rows, 2**31 - 1] + ([-1, -(2**31)] if id_dtype != "uint32" else [2**32 - 1])
    )
    inside = st.integers(0, rows - 1)
    one = st.one_of(inside, inside, inside, inside, far) if draw(st.booleans()) else inside
    return Case(
        pair=(old, new),
        width=draw(st.integers(1, widest)),
        rows=rows,
        base=draw(st.integers(0, 128 // size - 1)) * size,
        padding=draw(st.sampled_from([0, 0, 1, 3])) * size,
        ids=draw(st.lists(one, max_size=40)),
        id_dtype=id_dtype,
        out_base=draw(st.one_of(st.just(0), st.integers(0, 32 // out_size - 1))) * out_size,
        out_padding=draw(st.sampled_from([0, 0, 1])) * out_size,
        hot=draw(st.none() | st.tuples(st.integers(0, 12), st.integers(0, 16 // size - 1))),
        scaled=draw(st.booleans()),
        threads=draw(st.sampled_from([32, 64, 256])),
        blocks=draw(st.integers(1, 5)),
        lanes=draw(st.none() | st.sampled_from([1, 2, 4, 8, 16, 32])),
        seed=draw(st.integers(0, 99)),
    )


@settings(max_examples=2000, deadline=None)
@given(case=cases())
def test_any_gather_is_right_and_reads_lines_once(emulator, case):
    draw = np.random.default_rng(case.seed)
    old, new = case.pair
    size, out_size = BYTES[old], BYTES[new]
    row_bytes, out_row = case.width * size, case.width * out_size
    pitch, out_pitch = row_bytes + case.padding, out_row + case.out_padding
    ids = np.array(case.ids, case.id_dtype)
    table = Memory(case.rows * pitch, case.base)
    out = Memory(max(1, ids.size * out_pitch), case.out_base, fill=0x5A)
    values = numbers(draw, case.rows, case.width, old)
    table.bytes.reshape(case.rows, pitch)[:, :row_bytes] = values
    scales = draw.normal(size=case.rows).astype(np.float32) if case.scaled else None
    given = {"scales": scales}
    more, readable = {}, [table.lines]
    slots = np.full(case.rows, -1, np.int32)
    addresses = table.address + np.arange(case.rows) * pitch
    if case.hot is not None:
        hot_rows, hot_base = case.hot
        slots = draw.integers(-1, hot_rows + 2, case.rows).astype(np.int32)
        # What the hot table holds differs from the table, so that it shows which one was read.
        hot = Memory(max(1, hot_rows * row_bytes), hot_base * size)
        hot_values = numbers(draw, hot_rows, case.width, old)
        hot.bytes[: hot_rows * row_bytes] = hot_values.reshape(-1)
        hot_scales = draw.normal(size=max(1, hot_rows)).astype(np.float32) if case.scaled else None
        given |= {"slots": slots, "hot_scales": hot_scales}
        more = {"hot": hot.address, "hot_rows": hot_rows}
        readable.append(hot.lines)
        is_hot = (slots >= 0) & (slots < hot_rows)
        values = values.copy()
        values[is_hot] = hot_values[slots[is_hot]]
        addresses = np.where(is_hot, hot.address + slots.astype(np.int64) * row_bytes, addresses)
        if scales is not None:
            scales = scales.copy()
            scales[is_hot] = hot_scales[slots[is_hot]]

    shape = launch_shape(
        row_bytes, ids.size, dtype=old, out_dtype=new, base=table.address, pitch=pitch,
        threads=case.threads, blocks=case.blocks,
    )  # fmt: skip
    chosen = case.lanes is None and case.hot is None
    if case.lanes is not None:
        shape = replace(shape, lanes=case.lanes)
    recorded = emulator.run(
        shape, ids=ids, out=out, readable=readable, arrays=given, table=table.address,
        rows=case.rows, row_bytes=row_bytes, pitch=pitch, out_pitch=out_pitch, **more,
    )  # fmt: skip

    # The values, each byte written once, and nothing between rows.
    valid = (ids >= 0) & (ids < case.rows)
    if old == new:
        expected = values
    else:
        floats = widened(values, old)
        if scales is not None and old == "int8":
            floats = floats * scales[:, None]
        expected = narrowed(floats, new)
    found = out.bytes[: ids.size * out_pitch].reshape(ids.size, out_pitch)
    np.testing.assert_array_equal(found[valid, :out_row], expected[ids[valid].astype(np.int64)])
    assert not found[~valid, :out_row].any()
    written = recorded.writes[: ids.size * out_pitch].reshape(ids.size, out_pitch)
    assert (written[:, :out_row] == 1).all()
    assert not written[:, out_row:].any()
    assert recorded.mistakes == (0, 0, 0)
    bad = np.flatnonzero(~valid)
    assert recorded.first_bad == (bad[0] if bad.size else NONE_BAD)

    # Each load touches its row, and so no line but the row's.
    loads = recorded.loads
    assert valid[loads["row"]].all()
    begins = addresses[ids[loads["row"]].astype(np.int64)] if loads.size else np.zeros(0, np.int64)
    at = loads["address"].astype(np.int64)
    assert (at + loads["size"] > begins).all()
    assert (at < begins + row_bytes).all()
    assert (loads["size"] == 16).all()
    assert (at % 16 == 0).all()

    # As many requests as the row has lines, and fewer where rows in one load share a line.
    first = addresses[ids[valid].astype(np.int64)]
    least = (first % 128 + row_bytes - 1) // 128 + 1
    if chosen or shape.lanes >= 8:
        np.testing.assert_array_equal(requests_of_rows(recorded, ids.size)[valid], least)
    if chosen or shape.lanes >= 8:
        assert requests(recorded, shape) <= requests(recorded, shape, lanes=8) <= least.sum()


@pytest.mark.parametrize("lane_bytes", [1, 2, 4])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_naive_and_aligned_cost_what_the_closed_forms_say(emulator, lane_bytes, data):
    width = data.draw(st.integers(1, 300), label="width")
    base = data.draw(st.integers(0, 128 // lane_bytes - 1), label="base") * lane_bytes
    row_bytes = width * lane_bytes
    ids = np.arange(128)
    table, out = Memory(ids.size * row_bytes, base), Memory(ids.size * row_bytes, 0)
    table.bytes[:] = np.random.default_rng(width).integers(0, 256, table.bytes.size)
    for aligned in (True, False):
        out.bytes[:] = 0
        shape = launch_shape(
            row_bytes, ids.size, base=table.address, out_base=out.address, aligned=aligned, blocks=3
        )
        recorded = emulator.run(
            shape, ids=ids, out=out, readable=[table.lines], table=table.address, rows=ids.size,
            row_bytes=row_bytes, out_pitch=row_bytes,
        )  # fmt: skip
        np.testing.assert_array_equal(out.bytes, table.bytes)
        assert (recorded.writes == 1).all()
        assert recorded.mistakes == (0, 0, 0)
        lane = 16 if aligned else int(shape.kernel[-1])
        assert lane >= lane_bytes
        mean = requests_of_rows(recorded, ids.size).mean()
        assert mean == pcie_requests(row_bytes, base=base, lane_bytes=lane, aligned=aligned)
        if shape.lanes == 32:
            assert requests(recorded, shape) == mean * ids.size


@pytest.mark.parametrize(
    ("row_bytes", "base", "naive", "aligned"),
    [(400, 0, 6.625, 4), (512, 0, 4, 4), (512, 16, 8, 5), (1412, 4, 22.65625, 12), (2408, 64, 36.625, 19.75)],
)  # fmt: skip
def test_requests_of_known_widths(emulator, row_bytes, base, naive, aligned):
    ids = np.random.default_rng(0).permutation(128)
    table, out = Memory(ids.size * row_bytes, base), Memory(ids.size * row_bytes, 0)
    for expected, kind in ((aligned, True), (naive, False)):
        shape = launch_shape(row_bytes, ids.size, base=base, aligned=kind)
        recorded = emulator.run(
            shape, ids=ids, out=out, readable=[table.lines], table=table.address, rows=ids.size,
            row_bytes=row_bytes, out_pitch=row_bytes,
        )  # fmt: skip
        assert requests(recorded, shape) / ids.size == expected


# ---- Single things -------------------------------------------------------------------------------


def copied(emulator, memory: Memory, out: Memory, row_bytes: int, ids: np.ndarray, **more):
    rows = memory.bytes.size // row_bytes
    shape = launch_shape(row_bytes, ids.size, base=memory.address)
    given = {"table": memory.address, "rows": rows} | more
    return emulator.run(
        shape, ids=ids, out=out, readable=[memory.lines], row_bytes=row_bytes, out_pitch=row_bytes,
        **given,
    )  # fmt: skip


@pytest.mark.parametrize(("shift", "width"), [(0, 16), (8, 8), (4, 4), (2, 2), (1, 1)])
def test_stores_are_as_wide_as_addresses_allow(emulator, shift, width):
    table, out = Memory(4 * 512, 16), Memory(4 * 512, 16 + shift)
    recorded = copied(emulator, table, out, 512, np.arange(4))
    sizes = dict(zip((1, 2, 4, 8, 16), recorded.stores, strict=True))
    assert sizes == {size: 4 * 512 // width if size == width else 0 for size in sizes}


def test_the_edges_of_a_row_do_not_make_its_middle_narrow(emulator):
    table, out = Memory(3 * 100, 4), Memory(3 * 100, 4)
    recorded = copied(emulator, table, out, 100, np.arange(3))
    # Rows of 12, 5 x 16 and 8 bytes; of 8, 5 x 16 and 12; of 4 and 6 x 16.
    assert recorded.stores == [0, 0, 7, 2, 16]


def test_offsets_beyond_32_bits(emulator):
    rows, row_bytes, far = 3, 520, 2**33
    table, out = Memory(rows * row_bytes, 8), Memory(rows * row_bytes, 0)
    table.bytes[:] = np.random.default_rng(0).integers(0, 256, table.bytes.size)
    # The table begins terabytes below; only its last rows are there, and only they are read.
    recorded = copied(
        emulator, table, out, row_bytes, far + np.arange(rows),
        table=table.address - far * row_bytes, rows=far + rows,
    )  # fmt: skip
    assert recorded.mistakes == (0, 0, 0)
    np.testing.assert_array_equal(out.bytes, table.bytes)


@pytest.mark.parametrize("ahead", [1, 3, 4])
@pytest.mark.parametrize("row_bytes", [12, 132, 2408])
def test_any_number_of_loads_may_be_under_way(ahead, row_bytes, emulator, tmp_path):
    changed = Emulator(tmp_path, f"MBFLOW_AHEAD={ahead}")
    ids = np.arange(64)
    table = Memory(ids.size * row_bytes, 4)
    table.bytes[:] = np.random.default_rng(0).integers(0, 256, table.bytes.size)
    found = []
    for one in (emulator, changed):
        out = Memory(table.bytes.size, 4)
        recorded = copied(one, table, out, row_bytes, ids)
        np.testing.assert_array_equal(out.bytes, table.bytes)
        assert (recorded.writes == 1).all()
        found.append(requests_of_rows(recorded, ids.size).tolist())
    assert found[0] == found[1]


def test_no_ids_and_no_rows(emulator):
    table, out = Memory(64, 0), Memory(192, 0, fill=1)
    nothing = copied(emulator, table, out, 64, np.zeros(0, np.int64))
    assert (nothing.loads.size, nothing.writes.sum(), nothing.first_bad) == (0, 0, NONE_BAD)
    empty = copied(emulator, table, out, 64, np.zeros(3, np.int64), rows=0)
    assert (empty.loads.size, empty.first_bad) == (0, 0)
    assert not out.bytes.any()


@pytest.mark.parametrize("kernel", [name for name in KERNELS if "naive" in name])
def test_naive_kernels_write_zeros_for_ids_out_of_range(emulator, kernel):
    table, out = Memory(4 * 60, 0), Memory(3 * 60, 0)
    table.bytes[:] = 7
    shape = replace(launch_shape(60, 3, aligned=False), kernel=kernel)
    recorded = emulator.run(
        shape, ids=np.array([1, -1, 4]), out=out, readable=[table.lines], table=table.address,
        rows=4, row_bytes=60, out_pitch=60,
    )  # fmt: skip
    assert recorded.first_bad == 1
    assert (out.bytes.reshape(3, 60) == [[7], [0], [0]]).all()


def test_conversions_from_16_bits_are_exact(emulator):
    bits = np.arange(65536, dtype=np.uint32)
    half = emulator.convert("widen_float16", bits)
    np.testing.assert_array_equal(half, bits.astype(np.uint16).view(np.float16).astype(np.float32))
    brain = emulator.convert("widen_bfloat16", bits)
    np.testing.assert_array_equal(brain.view(np.uint32), bits << 16)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_conversions_to_16_bits_round_to_the_nearest_even(emulator, name):
    # Every number of 16 bits, every middle of two, and what lies next to either.
    every = np.sort(widened(np.arange(65536, dtype=np.uint16).view(np.uint8), name))
    every = every[np.isfinite(every)]
    middles = np.array([a / 2 + b / 2 for a, b in pairwise(every)], np.float32)
    at = np.concatenate([every, middles])
    random = np.random.default_rng(0).integers(0, 2**32, 300_000, dtype=np.uint32)
    values = np.concatenate(
        [at, np.nextafter(at, np.float32(np.inf)), np.nextafter(at, np.float32(-np.inf)),
         random.view(np.float32), np.array([np.inf, -np.inf, 65519.996, 65520, 3.4e38], np.float32)]
    )  # fmt: skip
    numbers_only = values[~np.isnan(values)]
    found = emulator.convert(f"narrow_{name}", numbers_only)
    np.testing.assert_array_equal(found, narrowed(numbers_only, name).view(np.uint16))

    nans = np.array([0x7FC00000, 0xFFFFFFFF, 0x7F800001, 0xFF800001], np.uint32).view(np.float32)
    back = emulator.convert(f"widen_{name}", emulator.convert(f"narrow_{name}", nans))
    assert np.isnan(back).all()
    np.testing.assert_array_equal(np.signbit(back), np.signbit(nans))


# ---- Launches ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row_bytes", "base", "lanes"),
    [(1, 0, 1), (16, 0, 1), (16, 4, 2), (12, 0, 2), (32, 0, 2), (64, 0, 4), (64, 8, 8), (100, 0, 8),
     (128, 0, 8), (128, 16, 8), (128, 4, 16), (132, 0, 16), (136, 0, 16), (260, 0, 32), (200, 0, 32), (256, 0, 16), (256, 64, 32), (2408, 0, 32)],
)  # fmt: skip
def test_lanes_of_a_row(row_bytes, base, lanes):
    assert launch_shape(row_bytes, 10, base=base).lanes == lanes


def test_blocks_are_as_many_as_rows_need_and_capped():
    assert [launch_shape(2408, count).blocks for count in (0, 1, 8, 9, 80)] == [1, 1, 1, 2, 10]
    assert launch_shape(16, 257).blocks == 2
    assert launch_shape(2408, 10**6, blocks=96).blocks == 96
    assert launch_shape(2408, 10**12).blocks == 2**31 - 1
    assert launch_shape(2408, 8, threads=64).blocks == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"row_bytes": 0}, "row_bytes is 0; expected a whole number of at least 1"),
        ({"count": -1}, "count is -1"),
        ({"threads": 48}, "threads is 48; expected a multiple of 32"),
        ({"threads": 2048}, "threads is 2048; expected a whole number from 32 to 1024"),
        ({"blocks": 0}, "blocks is 0"),
        ({"pitch": 4}, "pitch is 4; expected a whole number of at least 8"),
        ({"dtype": "float64", "out_dtype": "float32"}, "no kernel converts float64 to float32; there are"),
        ({"dtype": "float32", "out_dtype": "int8"}, "no kernel converts float32 to int8"),
        ({"out_dtype": "float16", "base": 2}, "base is 2; expected a multiple of the 4 bytes of float32"),
        ({"out_dtype": "float16", "aligned": False}, "only aligned kernels convert float32 to float16"),
    ],
)  # fmt: skip
def test_launches_that_cannot_be(given, message):
    with pytest.raises(InvalidArgumentError, match=message):
        launch_shape(**{"row_bytes": 8, "count": 1} | given)


def test_an_unknown_type_of_ids():
    places = dict.fromkeys(("ids", "count", "table", "rows", "out", "out_pitch", "first_bad"), 0)
    with pytest.raises(
        InvalidArgumentError, match="id_dtype is 'float32'; expected one of int64, int32"
    ):
        kernel_arguments(launch_shape(8, 1), row_bytes=8, id_dtype="float32", **places)


# ---- Compilation for GPUs ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def nvrtc() -> None:
    """Skips where CuPy or NVRTC is missing."""
    try:
        gather_kernels._nvrtc()
    except MissingExtraError as error:
        pytest.skip(f"needs the extra `gpu`: {error}")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_all_kernels_compile_with_wide_loads(nvrtc, arch):
    cubin = compile_kernels(arch)
    assert cubin[:4] == b"\x7fELF"
    ptx = compile_ptx(arch)
    assert f".target {arch}" in ptx
    bodies = dict(re.findall(r"\.entry (\w+)\((.*?)(?=\.entry|\Z)", ptx, re.DOTALL))
    assert sorted(bodies) == sorted(KERNELS)
    for name, body in bodies.items():
        assert b".text." + name.encode() in cubin
        # Words that are indexed at run time would lie in local memory, off the chip.
        assert ".local" not in body
        assert ("ld.global.nc.v4" in body) == ("naive" not in name), name
        loads = re.findall(r"ld\.global\S*", body)
        assert all(".nc" in load for load in loads), loads
    assert "st.global.v4" in bodies["gather_copy"] or "st.v4" in bodies["gather_copy"]


def test_what_nvrtc_does_not_compile_for(nvrtc):
    with pytest.raises(InvalidArgumentError, match="arch is 'sm_10'; this NVRTC compiles for sm_"):
        compile_kernels("sm_10")


def test_a_source_that_does_not_compile_says_why(nvrtc, monkeypatch):
    monkeypatch.setattr(gather_kernels, "source", lambda: "__global__ void broken( {}")
    gather_kernels._compiled.cache_clear()
    with pytest.raises(
        DefectError, match=r"(?s)does not compile for sm_90.*gather\.cu\(1\): error"
    ):
        compile_kernels("sm_90")


def test_without_cupy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setitem(sys.modules, "cupy.cuda", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mbflow\[gpu\]'"):
        gather_kernels._nvrtc()


def test_without_the_library_of_nvrtc_the_extra_is_named(monkeypatch):
    def missing():
        raise RuntimeError("Failure finding libnvrtc.so")

    found = SimpleNamespace(nvrtc=SimpleNamespace(getVersion=missing))
    monkeypatch.setattr(gather_kernels, "require", lambda *_, **__: found)
    with pytest.raises(MissingExtraError, match=r"finding libnvrtc.*pip install 'mbflow\[gpu\]'"):
        gather_kernels._nvrtc()


def test_the_source_names_every_kernel():
    text = gather_kernels.source()
    named = re.findall(r"^GATHER(_NAIVE)?\((\w+),", text, re.MULTILINE)
    assert [f"gather{naive.lower()}_{name}" for naive, name in named] == list(KERNELS)
