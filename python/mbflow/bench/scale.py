"""Selection from large Parquet files, as a user runs it: time and peak memory of the command."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow import _native
from mbflow.bench.data import mixture
from mbflow.errors import ResourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["COLUMNS", "run", "run_pipeline", "write_mixture"]

COLUMNS = ("case", "rows", "columns", "threads", "seconds", "peak_mb", "kept", "note")
_CLASSES = 10
_FILE_ROWS = 1 << 20

_PIPELINES = {
    "coverage": """
  keep: {use: select.keep, from: rows, with: {method: coverage, fraction: 0.04}}
""",
    "attention": """
  graph: {use: select.graph, from: rows, with: {neighbours: 10}}
  score: {use: select.attention, from: graph}
  keep: {use: select.keep, from: score, with: {fraction: 0.04}}
""",
}


@dataclass(frozen=True)
class _Ended:
    seconds: float
    peak_bytes: int
    kept: int
    checksums: tuple[str, ...]


def write_mixture(folder: Path, rows: int, *, columns: int = 32, seed: int = 0) -> None:
    """Write an overlapping mixture of 50 clusters in 10 classes as Parquet files of 2^20 rows.

    A row's class is its cluster's number modulo 10.

    Args:
        folder: Where the files go; made anew.
        rows: Number of rows.
        columns: Feature columns `f0`, `f1`, ... of float32.
        seed: Key of the data.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mbflow.bench.scale import write_mixture
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_mixture(Path(folder) / "data", 100, columns=2)
        ...     [path.name for path in (Path(folder) / "data").iterdir()]
        ['part-000.parquet']
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, rows, _FILE_ROWS)):
        count = min(_FILE_ROWS, rows - start)
        features, clusters = mixture(count, columns, first=start, seed=seed)
        table = {f"f{column}": features[:, column] for column in range(columns)}
        labels = pa.array(np.char.add("class ", (clusters % _CLASSES).astype(str)))
        pq.write_table(pa.table({**table, "label": labels}), folder / f"part-{number:03d}.parquet")


def run_pipeline(
    data: Path, steps: str, *, out: Path, threads: int | None = None, memory: int | None = None
) -> _Ended:
    """Run a pipeline with the command line in a process of its own.

    Args:
        data: Parquet file or folder with a column `label`.
        steps: The `steps:` of the pipeline.
        out: Run folder.
        threads: Threads; by default those of this process.
        memory: The most bytes of address space that the process may use.

    Returns:
        Wall time, peak memory, rows kept and the checksums of the kept rows.

    Raises:
        ResourceError: The command failed.

    Example:
        >>> from mbflow.bench.scale import run_pipeline
        >>> run_pipeline.__name__
        'run_pipeline'
    """
    from mbflow.flow.dataset import Dataset

    text = (
        f"mbflow: 1\nname: bench\nsources:\n"
        f"  rows: {{use: parquet, with: {{path: '{data}', label: label}}}}\n"
        f"steps:{steps}run: {{out: '{out}', threads: {threads or _native.num_threads()}}}\n"
    )
    file = out.with_suffix(".yaml")
    file.write_text(text)
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({memory},) * 2); "
    code = (limit if memory else "") + "from mbflow.__main__ import start; start()"
    command = [sys.executable, "-c", code, "run", str(file)]
    log = out.with_suffix(".log")
    with log.open("wb") as lines:
        started = time.perf_counter()
        child = subprocess.Popen(command, stdout=lines, stderr=lines)  # noqa: S603 - itself
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        tail = " ".join(log.read_text(errors="replace").split()[-60:])
        raise ResourceError(f"the pipeline ended with {child.returncode}: {tail}")
    kept = Dataset.open(out / "bench" / "steps" / "keep").manifest
    peak = usage.ru_maxrss if sys.platform == "darwin" else usage.ru_maxrss * 1024
    return _Ended(seconds, peak, kept["rows"], tuple(f["xxh3_128"] for f in kept["files"]))


def run(
    *,
    sizes: Sequence[int] = (1_000_000,),
    columns: int = 32,
    cases: Sequence[str] = ("coverage", "attention"),
    threads: Sequence[int] | None = None,
    memory: int | None = None,
    on_progress: Callable[[str], object] | None = None,
) -> list[dict[str, Any]]:
    """Measure the selection of 4 % from made-up Parquet data, in and out.

    Args:
        sizes: Rows of each data set.
        columns: Feature columns.
        cases: "coverage" and "attention".
        threads: Numbers of threads to run with; with several, the kept rows are compared.
        memory: The most bytes that each process may use.
        on_progress: Called before each run with a line of text.

    Returns:
        Records with the keys `COLUMNS`.

    Raises:
        ResourceError: A run failed.

    Example:
        >>> from mbflow.bench.scale import COLUMNS
        >>> COLUMNS[:2]
        ('case', 'rows')
    """
    records: list[dict[str, Any]] = []
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            if on_progress is not None:
                on_progress(f"writing {rows} rows")
            write_mixture(place / "data", rows, columns=columns)
            for case in cases:
                first: tuple[str, ...] | None = None
                for count in threads or (_native.num_threads(),):
                    if on_progress is not None:
                        on_progress(f"{case}, {rows} rows, {count} threads")
                    ended = run_pipeline(
                        place / "data",
                        _PIPELINES[case],
                        out=place / f"{case}-{count}",
                        threads=count,
                        memory=memory,
                    )
                    note = "" if memory is None else f"at most {memory >> 20} MB"
                    if first is not None:
                        same = "the same rows" if ended.checksums == first else "OTHER ROWS"
                        note = f"{note}; {same} as with the first number of threads".lstrip("; ")
                    first = first or ended.checksums
                    row = (
                        case, rows, columns, count, ended.seconds, ended.peak_bytes / 1e6,
                        ended.kept, note,
                    )  # fmt: skip
                    records.append(dict(zip(COLUMNS, row, strict=True)))
    return records
