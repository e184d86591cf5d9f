"""Peak memory of planners, and plans of millions of items, each in a process of its own."""

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
from mbflow.bench import corpora
from mbflow.bench.batch_strategies import SECONDS
from mbflow.bench.harness import peak_memory
from mbflow.errors import ResourceError
from mbflow.speech import DurationBatches, Lengths

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["in_a_process", "scale"]

_ITERATED = 2_000_000


def scale(items: int, tell: Callable[[str], object]) -> list[dict[str, Any]]:
    """Plan a WenetSpeech-like corpus from an index that is mapped into memory, and iterate one.

    Args:
        items: Items to plan; an epoch is iterated of 2,000,000 at most.
        tell: Called before each run with a line of text.

    Returns:
        Records: seconds to the plan, to its first batch and over an epoch of rank 0 of 1 (where
        that was done), items a second of it, and the peak of the process.

    Raises:
        ResourceError: A process failed.

    Example:
        >>> from mbflow.bench.batch_memory import scale
        >>> scale.__name__
        'scale'
    """
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for count in dict.fromkeys((items, min(items, _ITERATED))):
            index = Path(folder) / str(count)
            tell(f"scale: writing an index of {count} items")
            Lengths(corpora.durations("wenet", count)).save(index)
            for order in ("buckets", "window"):
                tell(f"scale: {order}, {count} items")
                passes = "epoch" if count <= _ITERATED else "plan"
                found = in_a_process("plan", order, str(index), passes)
                records.append({"strategy": f"mbflow {order}", "items": count, **found})
    return records


def in_a_process(*arguments: str) -> dict[str, Any]:
    """Run a part of this module in a process of its own, on as many threads.

    Args:
        *arguments: `"epoch"`, one of `batch_files.READERS` and its folder; or `"plan"`, an order,
            an index of lengths, and `"epoch"` or `"plan"`.

    Returns:
        What it measured.

    Raises:
        ResourceError: The process failed.

    Example:
        >>> from mbflow.bench.batch_memory import in_a_process
        >>> in_a_process("nothing")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        mbflow.errors.ResourceError: nothing: the process ended: ...
    """
    command = [sys.executable, "-m", "mbflow.bench.batch_memory", *arguments]
    threads = {"MBFLOW_NUM_THREADS": str(_native.num_threads())}
    ended = subprocess.run(  # noqa: S603 - this interpreter and known names
        command, capture_output=True, text=True, check=False, env={**os.environ, **threads}
    )
    if ended.returncode != 0:
        tail = (ended.stderr.strip().splitlines() or ["failed"])[-1]
        raise ResourceError(f"{' '.join(arguments)}: the process ended: {tail[:300]}")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def _epoch(name: str, folder: str) -> dict[str, Any]:
    from mbflow.bench.batch_files import READERS

    read = READERS[name][0]
    # A small one first: what is loaded on first use is the base.
    for _ in read(Path(folder) / "small"):
        pass
    _forget_peak()
    base = peak_memory()
    for _ in read(Path(folder)):
        pass
    return {"base_mb": base / 1e6, "peak_mb": peak_memory() / 1e6}


def _forget_peak() -> None:
    """Start the peak anew where the system can: imports may have held more than is held now."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _plan(order: Any, index: str, passes: str) -> dict[str, Any]:
    DurationBatches([1.0, 2.0], order=order).batch(0, 0)
    started = time.perf_counter()
    batches = DurationBatches(Lengths.open(index), budget=SECONDS, order=order)
    planned = time.perf_counter() - started
    started = time.perf_counter()
    batches.batch(0, batches.steps(0, world_size=128) // 2, rank=5, world_size=128)
    first = time.perf_counter() - started
    seconds = None
    if passes == "epoch":
        started = time.perf_counter()
        for _ in batches.epoch(0):
            pass
        seconds = time.perf_counter() - started
    return {
        "plan_seconds": planned,
        "first_batch_seconds": first,
        "epoch_seconds": seconds,
        "epoch_items_per_second": seconds and len(batches) / seconds,
        "plan_mb": batches.bytes / 1e6,
        "peak_mb": peak_memory() / 1e6,
    }


def _work(what: str, *arguments: str) -> None:
    parts: dict[str, Callable[..., dict[str, Any]]] = {"epoch": _epoch, "plan": _plan}
    found = parts[what](*arguments)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    _work(*sys.argv[1:])
