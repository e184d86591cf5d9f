"""A graph from Parquet: time, peak memory, and how soon a stored one is open."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbflow import _native
from mbflow.bench.graph_data import write_parquet
from mbflow.bench.harness import peak_memory
from mbflow.errors import ResourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mbflow.bench.graph_data import Files

__all__ = ["build"]


def build(
    files: Files, edges: int, repeats: int, tell: Callable[[str], object]
) -> list[dict[str, Any]]:
    """Build a graph from an edge list in Parquet, store it, and open it, in processes of their own.

    Args:
        files: The graph whose degrees the edge list has.
        edges: How many edges the list has.
        repeats: Builds; the fastest is shown, and opened as often.
        tell: Called before each run with a line of text.

    Returns:
        A record: seconds, bytes of the result, peak memory of the process above that before the
        build, that as a multiple of the result, and milliseconds to open the stored graph and read
        the neighbours of its last node.

    Raises:
        ResourceError: A process failed.

    Example:
        >>> from mbflow.bench.graph_build import build
        >>> build.__name__
        'build'
    """
    with tempfile.TemporaryDirectory() as folder:
        table, stored = Path(folder) / "edges.parquet", Path(folder) / "graph"
        small = Path(folder) / "small.parquet"
        write_parquet(files, small, edges=1)
        tell(f"csc: writing {edges:,} edges")
        size = write_parquet(files, table, edges=edges)
        built, opened = [], []
        for turn in range(1, repeats + 1):
            tell(f"csc: {turn} of {repeats}")
            built.append(_in_a_process("build", str(table), str(stored), str(small)))
            opened.append(_in_a_process("open", str(stored)))
    best = min(built, key=lambda one: float(one["seconds"]))
    return [
        {
            "case": "mbflow",
            "edges": edges,
            "parquet_mb": size / 1e6,
            "threads": _native.num_threads(),
            "seconds": best["seconds"],
            "million_edges_per_second": edges / best["seconds"] / 1e6,
            "result_mb": best["bytes"] / 1e6,
            "peak_mb": best["peak"] / 1e6,
            "peak_of_result": best["peak"] / best["bytes"],
            "save_seconds": best["save_seconds"],
            "open_ms": min(one["seconds"] for one in opened) * 1e3,
            "open_mb": min(one["peak"] for one in opened) / 1e6,
        }
    ]


def _in_a_process(*arguments: str) -> dict[str, Any]:
    threads = {"MBFLOW_NUM_THREADS": str(_native.num_threads())}
    ended = subprocess.run(  # noqa: S603 - this interpreter and known names
        [sys.executable, "-m", "mbflow.bench.graph_build", *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, **threads},
    )  # fmt: skip
    if ended.returncode != 0:
        tail = (ended.stderr.strip().splitlines() or ["failed"])[-1]
        raise ResourceError(f"{arguments[0]}: the process ended: {tail[:300]}")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def _build(table: str, stored: str, small: str) -> dict[str, Any]:
    from mbflow.graph import Graph

    # An edge first: what is loaded on first use is the base.
    Graph.from_parquet(small)
    base = peak_memory()
    started = time.perf_counter()
    graph = Graph.from_parquet(table)
    seconds = time.perf_counter() - started
    peak = peak_memory() - base
    started = time.perf_counter()
    graph.save(stored)
    return {
        "seconds": seconds,
        "bytes": graph.nbytes,
        "peak": peak,
        "save_seconds": time.perf_counter() - started,
    }


def _open(stored: str) -> dict[str, Any]:
    from mbflow.graph import Graph

    base = peak_memory()
    started = time.perf_counter()
    graph = Graph.open(stored)
    graph.neighbours(graph.nodes - 1)
    return {"seconds": time.perf_counter() - started, "peak": peak_memory() - base}


if __name__ == "__main__":
    _found = _build(*sys.argv[2:]) if sys.argv[1] == "build" else _open(*sys.argv[2:])
    sys.stdout.write(json.dumps(_found) + "\n")
