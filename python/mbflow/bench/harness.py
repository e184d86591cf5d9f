"""How benchmarks measure: release builds only, cases in turns, medians, peers may be absent."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from mbflow import _native
from mbflow.errors import InvalidArgumentError, ResourceError

__all__ = ["Case", "Measured", "environment", "measure", "peak_memory", "require_release"]

_PACKAGES = ("numpy", "polars", "torch", "scikit-learn", "faiss-cpu", "lhotse", "dgl")


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        name: How the record calls it.
        run: Does the work once and returns its result.
        needs: Module that must be there; the case is skipped by name where it is not.

    Example:
        >>> from mbflow.bench.harness import Case
        >>> Case("sum", lambda: sum(range(10))).run()
        45
    """

    name: str
    run: Callable[[], Any]
    needs: str | None = None


@dataclass(frozen=True)
class Measured:
    """What one case took.

    Attributes:
        name: Name of the case.
        seconds: Wall time of each repeat; empty where the case was skipped.
        result: What the last repeat returned.
        skipped: Why the case did not run; empty where it did.

    Example:
        >>> from mbflow.bench.harness import Measured
        >>> Measured("x", (3.0, 1.0, 2.0), None, "").median
        2.0
    """

    name: str
    seconds: tuple[float, ...]
    result: Any
    skipped: str

    @property
    def median(self) -> float | None:
        """Median of the wall times in seconds; None where the case was skipped."""
        return statistics.median(self.seconds) if self.seconds else None


def require_release() -> None:
    """Refuse to measure a debug build.

    Raises:
        ResourceError: The native extension is a debug build.

    Example:
        >>> from mbflow.bench.harness import require_release
        >>> callable(require_release)
        True
    """
    profile = _native.build_info()["profile"]
    if profile != "release":
        raise ResourceError(
            f"the native extension is a {profile} build, whose times say nothing; run: "
            "maturin develop --release"
        )


def environment() -> dict[str, Any]:
    """Where the figures come from: processor, cores, memory, versions, build.

    Returns:
        Plain data, the same keys on every machine.

    Example:
        >>> from mbflow.bench.harness import environment
        >>> sorted(environment())[:3]
        ['build', 'cores', 'memory_bytes']
    """
    build = _native.build_info()
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": _native.num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "build": {key: build[key] for key in ("version", "profile", "target", "features")},
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def peak_memory() -> int:
    """The most memory this program has held so far, in bytes.

    Where the system says so, not counting what the process held before it became this program: a
    child starts with the memory of its parent.

    Example:
        >>> from mbflow.bench.harness import peak_memory
        >>> peak_memory() > 1_000_000
        True
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure(
    cases: Sequence[Case],
    *,
    repeats: int = 3,
    on_progress: Callable[[str, int, int], object] | None = None,
) -> list[Measured]:
    """Run cases in turns, so that a slow moment of the machine falls on all of them.

    Args:
        cases: What to run; a case whose module is absent is skipped.
        repeats: Turns, at least 1.
        on_progress: Called before each run with (case, turn from 1, turns).

    Returns:
        One result a case, in order.

    Raises:
        InvalidArgumentError: `repeats` is below 1.

    Example:
        >>> from mbflow.bench.harness import Case, measure
        >>> cases = [Case("a", lambda: 1), Case("b", lambda: 2, needs="a_module_that_is_absent")]
        >>> [(case.result, case.skipped) for case in measure(cases, repeats=2)]
        [(1, ''), (None, 'a_module_that_is_absent is not installed')]
    """
    if repeats < 1:
        raise InvalidArgumentError(f"repeats is {repeats}; expected at least 1")
    skipped = {
        case.name: f"{case.needs} is not installed"
        for case in cases
        if case.needs is not None and util.find_spec(case.needs) is None
    }
    seconds: dict[str, list[float]] = {case.name: [] for case in cases}
    results: dict[str, Any] = {}
    for turn in range(1, repeats + 1):
        for case in cases:
            if case.name in skipped:
                continue
            if on_progress is not None:
                on_progress(case.name, turn, repeats)
            started = time.perf_counter()
            results[case.name] = case.run()
            seconds[case.name].append(time.perf_counter() - started)
    return [
        Measured(
            case.name,
            tuple(seconds[case.name]),
            results.get(case.name),
            skipped.get(case.name, ""),
        )
        for case in cases
    ]
