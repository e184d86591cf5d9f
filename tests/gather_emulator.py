"""Runs the gather kernels on the CPU, lane after lane, and says what every lane read and wrote."""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mbflow.graph import gather_kernels
from mbflow.graph.gather_kernels import LaunchShape, kernel_arguments

LINE = 128
LOAD = np.dtype(
    [("address", "u8"), ("thread", "i8"), ("row", "i8"), ("number", "i4"), ("size", "i4")]
)
NONE_BAD = 2**64 - 1
_C_TYPES = {"uint64": ctypes.c_uint64, "int64": ctypes.c_int64, "int32": ctypes.c_int32}


class _Recording(ctypes.Structure):
    _fields_ = [
        ("loads", ctypes.c_void_p),
        ("capacity", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("ranges", ctypes.c_void_p),
        ("n_ranges", ctypes.c_int64),
        ("out", ctypes.c_uint64),
        ("out_bytes", ctypes.c_uint64),
        ("writes", ctypes.c_void_p),
        ("stores", ctypes.c_int64 * 5),
        ("read_elsewhere", ctypes.c_int64),
        ("written_elsewhere", ctypes.c_int64),
        ("misaligned", ctypes.c_int64),
    ]


@dataclass(frozen=True)
class Recorded:
    """What the lanes of a launch did."""

    loads: np.ndarray
    """LOAD[n], in the order of the lanes."""
    writes: np.ndarray
    """uint8[bytes of the output]: how often each was written."""
    stores: list[int]
    """How many stores there were of 1, 2, 4, 8 and 16 bytes."""
    mistakes: tuple[int, int, int]
    """Reads and writes where none are allowed, and addresses that are no multiple of the size."""
    first_bad: int


class Memory:
    """Bytes that begin at a chosen place within a line; around them lies a line of noise."""

    def __init__(self, size: int, base: int, *, fill: int = 0xA5) -> None:
        self._all = np.full(size + base + 4 * LINE, fill, np.uint8)
        begin = -self._all.ctypes.data % LINE + LINE + base
        self.bytes = self._all[begin : begin + size]
        self.fill = fill

    @property
    def address(self) -> int:
        return self.bytes.ctypes.data

    @property
    def lines(self) -> tuple[int, int]:
        """Addresses of the lines that the bytes touch: first, and after the last."""
        return self.address // LINE * LINE, -(-(self.address + self.bytes.size) // LINE) * LINE


class Emulator:
    """The library that the compiler makes of `gather.cu`, with more macros defined where given."""

    def __init__(self, folder: Path, *defines: str) -> None:
        tests = Path(__file__).parent
        kernels = Path(gather_kernels.__file__).parent
        library = folder / "gather_emulation.so"
        subprocess.run(
            ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror",
             "-Wno-unknown-pragmas", "-Wno-unused-parameter", "-DMBFLOW_EMULATE",
             *(f"-D{define}" for define in defines), f"-I{kernels}", f"-I{tests}",
             str(tests / "gather_emulation.cpp"), "-o", str(library)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        self.library = ctypes.CDLL(str(library))

    def run(
        self,
        shape: LaunchShape,
        *,
        out: Memory,
        ids: np.ndarray,
        readable: list[tuple[int, int]] | None = None,
        arrays: dict[str, np.ndarray | None] | None = None,
        **arguments: int,
    ) -> Recorded:
        """Launch a kernel; `arrays` are scales and slots, `readable` the lines of the tables."""
        first_bad = np.array([NONE_BAD], np.uint64)
        given = {name: array for name, array in (arrays or {}).items() if array is not None}
        ranges = list(readable or [])
        for array in (ids, *given.values()):
            ranges.append((array.ctypes.data, array.ctypes.data + array.nbytes))
        values = kernel_arguments(
            shape, ids=ids.ctypes.data, count=ids.size, id_dtype=ids.dtype.name, out=out.address,
            first_bad=first_bad.ctypes.data, **arguments,
            **{name: array.ctypes.data for name, array in given.items()},
        )  # fmt: skip
        allowed = np.array(ranges, np.uint64)
        writes = np.zeros(out.bytes.size, np.uint8)
        row_bytes = arguments["row_bytes"]
        loads = np.zeros(ids.size * (row_bytes + 2 * LINE), LOAD)
        recording = _Recording(
            loads=loads.ctypes.data, capacity=loads.size, ranges=allowed.ctypes.data,
            n_ranges=len(allowed), out=out.address, out_bytes=out.bytes.size,
            writes=writes.ctypes.data,
        )  # fmt: skip
        self.library.emulate(
            ctypes.cast(getattr(self.library, shape.kernel), ctypes.c_void_p),
            ctypes.c_uint(shape.blocks),
            ctypes.c_uint(shape.threads),
            ctypes.byref(recording),
            *(_C_TYPES[value.dtype.name](value.item()) for value in values),
        )
        assert recording.count <= loads.size
        mistakes = (recording.read_elsewhere, recording.written_elsewhere, recording.misaligned)
        return Recorded(
            loads[: recording.count], writes, list(recording.stores), mistakes, int(first_bad[0])
        )

    def convert(self, name: str, values: np.ndarray) -> np.ndarray:
        """One of the conversions by itself: uint32 bits to float32, or float32 to uint32 bits."""
        out = np.zeros(values.size, np.uint32 if values.dtype == np.float32 else np.float32)
        arguments = map(ctypes.c_void_p, (values.ctypes.data, out.ctypes.data))
        getattr(self.library, name)(*arguments, ctypes.c_int64(values.size))
        return out


def requests(recorded: Recorded, shape: LaunchShape, *, lanes: int = 32) -> int:
    """Requests of a launch: for each load of `lanes` lanes together, the lines that it touches."""
    loads = recorded.loads
    groups = shape.blocks * shape.threads // shape.lanes
    turn = (loads["row"] - loads["thread"] // shape.lanes) // groups
    return np.unique(_packed(loads["thread"] // lanes, turn, *_place(loads))).size


def requests_of_rows(recorded: Recorded, rows: int) -> np.ndarray:
    """The same for each row by itself, as if no other row shared its loads: int64[rows]."""
    loads = recorded.loads
    _, first = np.unique(_packed(loads["row"], *_place(loads)), return_index=True)
    return np.bincount(loads["row"][first], minlength=rows)


def _place(loads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return loads["number"], (loads["address"] // LINE).astype(np.int64)


def _packed(*columns: np.ndarray) -> np.ndarray:
    """A number for each row of the columns, the same for equal rows only."""
    key = np.zeros(columns[0].size, np.int64)
    for column in columns if key.size else ():
        _, place = np.unique(column, return_inverse=True)
        key = key * (int(place.max()) + 1) + place
    return key
