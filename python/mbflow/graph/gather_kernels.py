"""The kernels by which a GPU gathers rows of host memory: their source, binaries and launches.

`gather.cu` holds them in CUDA C++. NVRTC compiles it with neither a GPU nor a driver, so that a
binary can be made, and looked at, anywhere. Nothing here touches a device.

Example:
    >>> from mbflow.graph.gather_kernels import launch_shape
    >>> launch_shape(400, 100_000, blocks=64)
    LaunchShape(kernel='gather_copy', lanes=32, threads=256, blocks=64, element_bytes=1)

Source:
    Min et al.: Large Graph Convolutional Network Training with GPU-Oriented Data Communication
    Architecture (arXiv 2103.03330), automatic address alignment. Min et al.: EMOGI (arXiv
    2006.06890), loads that begin at a line, with lanes before the first byte left idle.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import gcd
from typing import Any

import numpy as np

from mbflow.batches import check_whole
from mbflow.errors import DefectError, InvalidArgumentError, MissingExtraError, require
from mbflow.graph.pcie import LINE

__all__ = [
    "ARCHITECTURES",
    "CASTS",
    "ID_TYPES",
    "KERNELS",
    "LaunchShape",
    "compile_kernels",
    "compile_ptx",
    "kernel_arguments",
    "launch_shape",
    "source",
]

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
"""Compute capabilities that the kernels are compiled for in the tests, from Turing to Blackwell."""
CASTS = {
    "float32": ("float16", "bfloat16"),
    "float16": ("float32", "bfloat16"),
    "bfloat16": ("float32", "float16"),
    "int8": ("float32", "float16", "bfloat16"),
}
"""What a gather can convert each element type to; any type can be copied as it is."""
ID_TYPES = ("int64", "int32", "uint32")
"""Types of ids, in the order of the numbers that the kernels know them by."""
_NAIVE_BYTES = (1, 2, 4)
KERNELS = (
    "gather_copy",
    *(f"gather_{old}_to_{new}" for old, kinds in CASTS.items() for new in kinds),
    *(f"gather_naive_{size}" for size in _NAIVE_BYTES),
)
"""Names of the kernels in the source."""

_ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
_CHUNK = 16  # bytes that a lane loads
_MOST_THREADS = 1024
_MOST_BLOCKS = 2**31 - 1


@dataclass(frozen=True)
class LaunchShape:
    """Which kernel gathers, and on how many threads.

    Attributes:
        kernel: Its name in the source.
        lanes: How many threads of a warp take a row: 1, 2, 4, 8, 16 or 32.
        threads: Threads of a block.
        blocks: Blocks; where they are fewer than the rows need, each takes rows in turn.
        element_bytes: Bytes of what the kernel counts a row's width in.

    Example:
        >>> from mbflow.graph.gather_kernels import launch_shape
        >>> launch_shape(16, 1000).lanes
        1
    """

    kernel: str
    lanes: int
    threads: int
    blocks: int
    element_bytes: int


def launch_shape(
    row_bytes: int,
    count: int,
    *,
    dtype: str = "float32",
    out_dtype: str | None = None,
    base: int = 0,
    pitch: int | None = None,
    out_base: int = 0,
    aligned: bool = True,
    threads: int = 256,
    blocks: int | None = None,
) -> LaunchShape:
    """Choose the kernel and how its threads are laid out.

    A narrow row is taken by as few lanes, up to eight, as hold it at 16 bytes each wherever it
    begins, so that one load of a warp reads several rows. A wider row is taken by as many as hold
    its lines: 16 for two lines, 32 for more, in several loads where needed. Any number of lanes
    gives the right rows; these give the fewest requests.

    Args:
        row_bytes: Bytes of a row of the table.
        count: How many rows are gathered; may be 0.
        dtype: Element type of the table.
        out_dtype: Element type of the output, one of `CASTS[dtype]`; as the table if None.
        base: Address of the table's first row.
        pitch: Bytes from a row to the next; `row_bytes` if None.
        out_base: Address of the output, whose rows follow each other without gaps. Only the naive
            kernels need it.
        aligned: False for the kernels that begin at each row's first byte, which are there to be
            compared with: 32 lanes of 4 bytes, or of what divides all addresses, if less.
        threads: Threads of a block, a multiple of 32.
        blocks: The most blocks; if None, as many as the rows need. A cap leaves multiprocessors to
            other work while rows arrive.

    Returns:
        Kernel, lanes, threads and blocks, at least one.

    Raises:
        InvalidArgumentError: A number is out of range, rows hold no whole number of elements or do
            not begin at one, or there is no such conversion.

    Example:
        >>> from mbflow.graph.gather_kernels import launch_shape
        >>> [launch_shape(row_bytes, 1).lanes for row_bytes in (8, 64, 256, 2408)]
        [1, 4, 16, 32]
        >>> launch_shape(100, 1, dtype="int8", out_dtype="float16").kernel
        'gather_int8_to_float16'
    """
    check_whole("row_bytes", row_bytes, least=1)
    check_whole("count", count, least=0)
    check_whole("base", base, least=0)
    check_whole("out_base", out_base, least=0)
    check_whole("threads", threads, least=32, most=_MOST_THREADS)
    if threads % 32:
        raise InvalidArgumentError(f"threads is {threads}; expected a multiple of 32")
    if pitch is None:
        pitch = row_bytes
    check_whole("pitch", pitch, least=row_bytes)
    if blocks is not None:
        check_whole("blocks", blocks, least=1, most=_MOST_BLOCKS)

    kernel, element_bytes = _kernel(dtype, out_dtype)
    for name, value in (("row_bytes", row_bytes), ("base", base), ("pitch", pitch)):
        if value % element_bytes:
            raise InvalidArgumentError(
                f"{name} is {value}; expected a multiple of the {element_bytes} bytes of {dtype}"
            )
    lanes = _lanes(row_bytes, base, pitch)
    if not aligned:
        if kernel != "gather_copy":
            raise InvalidArgumentError(
                f"only aligned kernels convert {dtype} to {out_dtype}; expected aligned=True"
            )
        kernel = f"gather_naive_{gcd(_NAIVE_BYTES[-1], row_bytes, base, pitch, out_base)}"
        lanes = 32
    needed = max(1, -(-count * lanes // threads))
    most = _MOST_BLOCKS if blocks is None else blocks
    return LaunchShape(kernel, lanes, threads, min(needed, most), element_bytes)


def _kernel(dtype: str, out_dtype: str | None) -> tuple[str, int]:
    """Name of the aligned kernel, and bytes of an element of the table as the kernel counts."""
    if out_dtype is None or out_dtype == dtype:
        return "gather_copy", 1
    if out_dtype not in CASTS.get(dtype, ()):
        known = "; ".join(f"{old} to {', '.join(new)}" for old, new in CASTS.items())
        raise InvalidArgumentError(f"no kernel converts {dtype} to {out_dtype}; there are {known}")
    return f"gather_{dtype}_to_{out_dtype}", _ELEMENT_BYTES[dtype]


def _lanes(row_bytes: int, base: int, pitch: int) -> int:
    chunks = -(-_reach(row_bytes, base, pitch, _CHUNK) // _CHUNK)
    if chunks <= 8:
        return 1 << (chunks - 1).bit_length()
    return 16 if _reach(row_bytes, base, pitch, LINE) <= 16 * _CHUNK else 32


def _reach(row_bytes: int, base: int, pitch: int, unit: int) -> int:
    """How far a row reaches at most, counted from the last multiple of `unit` before it."""
    step = gcd(unit, pitch)
    return base % step + unit - step + row_bytes


def kernel_arguments(
    shape: LaunchShape,
    *,
    ids: int,
    count: int,
    table: int,
    rows: int,
    row_bytes: int,
    out: int,
    out_pitch: int,
    first_bad: int,
    id_dtype: str = "int64",
    pitch: int | None = None,
    scales: int = 0,
    slots: int = 0,
    hot: int = 0,
    hot_rows: int = 0,
    hot_pitch: int | None = None,
    hot_scales: int = 0,
) -> tuple[Any, ...]:
    """What a kernel is called with, each of the type and at the place that `gather.cu` says.

    Args:
        shape: From `launch_shape`, for the same rows.
        ids: Address of `count` ids on the device.
        count: How many.
        table: Address of the table's first row, as the device sees it.
        rows: Rows of the table. Other ids give rows of zeros.
        row_bytes: Bytes of a row of the table.
        out: Address of the output on the device.
        out_pitch: Bytes from a row of the output to the next.
        first_bad: Address of a 64-bit word on the device, all ones before. It becomes the least
            position of an id that is out of range.
        id_dtype: Their type, one of `ID_TYPES`.
        pitch: Bytes from a row of the table to the next; `row_bytes` if None.
        scales: Address of a float32 for each row of an int8 table; 0 for none.
        slots: Address of an int32 for each row of the table: its row in the hot table, or -1; 0 if
            there is no hot table.
        hot: Address of the hot table's first row on the device.
        hot_rows: Rows of the hot table.
        hot_pitch: As `pitch`, of the hot table; `row_bytes` if None.
        hot_scales: As `scales`, for each row of the hot table.

    Returns:
        NumPy scalars, such as `cupy.RawKernel` takes.

    Raises:
        InvalidArgumentError: `id_dtype` is none of those known.

    Example:
        >>> from mbflow.graph.gather_kernels import kernel_arguments, launch_shape
        >>> shape = launch_shape(8, 2, dtype="int8", out_dtype="float32")
        >>> found = kernel_arguments(
        ...     shape, ids=256, count=2, table=512, rows=9, row_bytes=8, out=1024, out_pitch=32,
        ...     first_bad=2048,
        ... )
        >>> len(found), found[6]
        (17, np.int64(8))
    """
    if id_dtype not in ID_TYPES:
        expected = ", ".join(ID_TYPES)
        raise InvalidArgumentError(f"id_dtype is {id_dtype!r}; expected one of {expected}")
    return (
        np.uint64(ids),
        np.int32(ID_TYPES.index(id_dtype)),
        np.int64(count),
        np.uint64(table),
        np.int64(rows),
        np.int64(row_bytes if pitch is None else pitch),
        np.int64(row_bytes // shape.element_bytes),
        np.uint64(scales),
        np.uint64(slots),
        np.uint64(hot),
        np.int64(hot_rows),
        np.int64(row_bytes if hot_pitch is None else hot_pitch),
        np.uint64(hot_scales),
        np.uint64(out),
        np.int64(out_pitch),
        np.int32(shape.lanes.bit_length() - 1),
        np.uint64(first_bad),
    )


def source() -> str:
    """The kernels in CUDA C++, as the package carries them.

    Returns:
        The text of `gather.cu`.

    Example:
        >>> from mbflow.graph.gather_kernels import source
        >>> source().count("#include")
        1
    """
    return files("mbflow.graph").joinpath("gather.cu").read_text(encoding="utf-8")


def compile_kernels(arch: str) -> bytes:
    r"""Compile all kernels for one compute capability, with neither a GPU nor a driver.

    Takes some three seconds the first time; a process keeps what it has compiled.

    Args:
        arch: Such as `"sm_90"`.

    Returns:
        A cubin, which `cupy.RawModule(path=...)` loads from a file.

    Raises:
        InvalidArgumentError: NVRTC doesn't compile for `arch`.
        MissingExtraError: CuPy or NVRTC is not installed.
        DefectError: The source does not compile.

    Example:
        >>> from mbflow.graph.gather_kernels import compile_kernels
        >>> compile_kernels("sm_90")[:4]  # doctest: +SKIP
        b'\x7fELF'
        >>> compile_kernels("H200")
        Traceback (most recent call last):
        mbflow.errors.InvalidArgumentError: arch is 'H200'; expected a name such as 'sm_90'
    """
    return _compiled(_checked(arch))[0]


def compile_ptx(arch: str) -> str:
    """The same as `compile_kernels`, as PTX: assembly that can be read.

    Args:
        arch: Such as `"sm_90"`.

    Returns:
        The text.

    Raises:
        InvalidArgumentError: NVRTC doesn't compile for `arch`.
        MissingExtraError: CuPy or NVRTC is not installed.
        DefectError: The source does not compile.

    Example:
        >>> from mbflow.graph.gather_kernels import compile_ptx
        >>> "ld.global.nc.v4" in compile_ptx("sm_90")  # doctest: +SKIP
        True
        >>> compile_ptx("90")
        Traceback (most recent call last):
        mbflow.errors.InvalidArgumentError: arch is '90'; expected a name such as 'sm_90'
    """
    return _compiled(_checked(arch))[1]


def _checked(arch: Any) -> str:
    if not isinstance(arch, str) or not re.fullmatch(r"sm_\d+[a-z]?", arch):
        raise InvalidArgumentError(f"arch is {arch!r}; expected a name such as 'sm_90'")
    return arch


def _nvrtc() -> Any:
    """CuPy's door to NVRTC, with its library loaded."""
    purpose = "compiling the gather kernels"
    try:
        cuda: Any = require("cupy.cuda", extra="gpu", purpose=purpose)
        cuda.nvrtc.getVersion()
    except MissingExtraError:
        raise
    except (ImportError, RuntimeError) as error:
        # CuPy looks for the library at the first call.
        raise MissingExtraError(
            f"NVRTC is needed for {purpose}, and CuPy does not find it "
            f"({' '.join(str(error).split())[:200]}); run: pip install 'mbflow[gpu]'"
        ) from error
    return cuda.nvrtc


@cache
def _compiled(arch: str) -> tuple[bytes, str]:
    nvrtc = _nvrtc()
    supported = [f"sm_{number}" for number in nvrtc.getSupportedArchs()]
    if arch.rstrip("abcdefghijklmnopqrstuvwxyz") not in supported:
        raise InvalidArgumentError(
            f"arch is {arch!r}; this NVRTC compiles for {', '.join(supported)}"
        )
    program = nvrtc.createProgram(source(), "gather.cu", (), ())
    try:
        nvrtc.compileProgram(program, (f"-arch={arch}", "-std=c++17"))
        return nvrtc.getCUBIN(program), nvrtc.getPTX(program).rstrip(b"\0").decode()
    except nvrtc.NVRTCError as error:
        log = nvrtc.getProgramLog(program)
        raise DefectError(f"gather.cu does not compile for {arch} ({error}):\n{log}") from error
    finally:
        nvrtc.destroyProgram(program)
