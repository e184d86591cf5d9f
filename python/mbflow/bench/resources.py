"""Time and peak memory of each way to select, each in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow import _native
from mbflow.bench.data import mixture
from mbflow.select import class_quotas, select_instances
from mbflow.select.peers import PEERS, run_peer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["COLUMNS", "run"]

COLUMNS = ("rows", "columns", "method", "seconds", "peak_mb", "kept", "note")
_METHODS = ("random", "medoids", "coverage", "refine", "attention")
_CLASSES = 4


def run(
    *,
    sizes: Sequence[int] = (20_000,),
    columns: int = 20,
    methods: Sequence[str] = _METHODS,
    peers: Sequence[str] = PEERS,
    time_limit: float = 60.0,
    on_progress: Callable[[str], object] | None = None,
) -> list[dict[str, Any]]:
    """Measure methods and the samplers of imbalanced-learn on a mixture of 50 clusters, 4 classes.

    Seconds are those of the selection alone, without imports and reading; the peak is of the whole
    process, libraries included.

    Args:
        sizes: Rows of each data set.
        columns: Feature columns.
        methods: Methods of `select_instances`, keeping 4 %.
        peers: Samplers, with 4 % as their budget where they take one.
        time_limit: Seconds after which a process is stopped.
        on_progress: Called before each run with a line of text.

    Returns:
        Records with the keys `COLUMNS`; `note` says why one has no figures.

    Example:
        >>> from mbflow.bench.resources import COLUMNS
        >>> COLUMNS[2]
        'method'
    """
    records: list[dict[str, Any]] = []
    for rows in sizes:
        features, clusters = mixture(rows, columns)
        codes = clusters % _CLASSES
        counts = class_quotas(codes, max(_CLASSES, rows // 25))
        for name in (*methods, *peers):
            if on_progress is not None:
                on_progress(f"{name}, {rows} rows")
            row: tuple[Any, ...]
            if name in peers:
                made = run_peer(name, features, codes=codes, counts=counts, time_limit=time_limit)
                found = None if made.skipped else (made.seconds, made.peak_bytes, len(made.codes))
                row = (*(found or (None, None, None)), made.skipped)
            else:
                row = _own(name, features, codes, time_limit)
            seconds, peak, kept, note = row
            values = (rows, columns, name, seconds, peak and peak / 1e6, kept, note)
            records.append(dict(zip(COLUMNS, values, strict=True)))
    return records


def _own(
    method: str, features: np.ndarray[Any, Any], codes: np.ndarray[Any, Any], time_limit: float
) -> tuple[float | None, int | None, int | None, str]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        np.savez(place / "in.npz", features=features, codes=codes, threads=_native.num_threads())
        command = [sys.executable, "-m", "mbflow.bench.resources", method, folder]
        try:
            ended = subprocess.run(  # noqa: S603 - this interpreter and a known name
                command, capture_output=True, text=True, timeout=time_limit, check=False
            )
        except subprocess.TimeoutExpired:
            return None, None, None, f"not done in {time_limit:g} s"
        if ended.returncode != 0:
            return None, None, None, (ended.stderr.strip().splitlines() or ["failed"])[-1][:200]
        seconds, peak, kept = ended.stdout.split()
        return float(seconds), int(peak), int(kept), ""


def _work(method: Any, folder: Path) -> None:
    with np.load(folder / "in.npz") as given:
        features, codes = given["features"], given["codes"]
        _native.set_num_threads(int(given["threads"]))
    # A small one first: what is loaded on first use is no part of the selection.
    select_instances(features[:200], codes[:200], count=20, method=method)
    started = time.perf_counter()
    selection = select_instances(features, codes, fraction=0.04, method=method)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = peak if sys.platform == "darwin" else peak * 1024
    sys.stdout.write(f"{seconds} {peak} {len(selection.indices)}\n")


if __name__ == "__main__":
    _work(sys.argv[1], Path(sys.argv[2]))
