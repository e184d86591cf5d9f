"""What a run would do: each step's fingerprint, and whether its output is there already.

A step's fingerprint covers its name and version, its parameters, its seed and the fingerprints of
its inputs, down to the bytes of the source files. Threads, engine and folder stay out: they do not
change what comes out.

Example:
    >>> from mbflow.flow.plan import fingerprints
    >>> fingerprints.__name__
    'fingerprints'
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbflow.errors import DataError
from mbflow.flow.dataset import MANIFEST
from mbflow.flow.manifest import fingerprint, read_sealed
from mbflow.flow.validate import Pipeline, StepUse

__all__ = ["Estimate", "State", "estimates", "fingerprints", "state"]


def fingerprints(pipeline: Pipeline, sources: Mapping[str, str]) -> dict[str, str]:
    r"""The fingerprint of every step, from those of the sources. Pure.

    Args:
        pipeline: A checked pipeline.
        sources: The fingerprint of each source's manifest.

    Returns:
        By step name, in running order.

    Example:
        >>> from mbflow.flow.plan import fingerprints
        >>> from mbflow.flow.validate import parse
        >>> from mbflow.steps import CATALOGUE
        >>> pipeline = parse(
        ...     "mbflow: 1\n"
        ...     "name: demo\n"
        ...     "sources: {rows: {use: parquet, with: {path: a.parquet}}}\n"
        ...     "steps: {graph: {use: select.hash_graph, from: rows}}\n",
        ...     "demo.yaml",
        ...     catalogue=CATALOGUE,
        ... )
        >>> one, other = (fingerprints(pipeline, {"rows": name}) for name in ("1", "2"))
        >>> list(one), len(one["graph"]), one == other
        (['graph'], 32, False)
    """
    known = dict(sources)
    result: dict[str, str] = {}
    for name, use in pipeline.steps.items():
        result[name] = known[name] = fingerprint(
            {
                "use": use.step.use,
                "version": use.step.version,
                "parameters": use.parameters.model_dump(mode="json", by_alias=True),
                "seed": use.seed,
                "inputs": [known[item] for item in use.inputs],
                "source": None if use.source is None else known[use.source],
            }
        )
    return result


@dataclass(frozen=True, slots=True)
class State:
    """Whether a step's output is there: `done`, and why not where it is not.

    Example:
        >>> from mbflow.flow.plan import State
        >>> State(done=False, reason="not done yet", manifest=None).done
        False
    """

    done: bool
    reason: str
    manifest: dict[str, Any] | None


def state(folder: Path, use: StepUse, *, expected: str) -> State:
    """Look at the output folder of a step; its files are not read, only the manifest.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.flow.plan import state
        >>> state(Path("no-such-folder"), None, expected="00").reason
        'not done yet'
    """
    try:
        manifest = read_sealed(folder / MANIFEST)
    except OSError:
        return State(done=False, reason="not done yet", manifest=None)
    except DataError as error:
        return State(done=False, reason=f"damaged: {error}", manifest=None)
    if manifest["fingerprint"] == expected:
        return State(done=True, reason="done", manifest=manifest)
    return State(done=False, reason=_difference(manifest, use), manifest=manifest)


def _difference(manifest: dict[str, Any], use: StepUse) -> str:
    """Say in a few words why an output that is there is not the one that is wanted."""
    found = []
    with contextlib.suppress(KeyError, TypeError):
        if (manifest["use"], manifest["version"]) != (use.step.use, use.step.version):
            return f"was made by {manifest['use']} version {manifest['version']}"
        old, new = manifest["parameters"], use.parameters.model_dump(mode="json", by_alias=True)
        found += _changes(old, new, "")
        if manifest["seed"] != use.seed:
            found.append(f"seed {manifest['seed']} -> {use.seed}")
    return "changed: " + ", ".join(found) if found else "its input changed"


def _changes(old: Any, new: Any, path: str) -> list[str]:
    """What differs, by dotted path: maps are looked into, all else is a value."""
    if old == new:
        return []
    maps = [value for value in (old, new) if isinstance(value, dict)]
    # What is not set is as a map without entries, where the other side is one.
    if maps and all(value is None or isinstance(value, dict) for value in (old, new)):
        keys = sorted({key for one in maps for key in one})
        above = f"{path}." if path else ""
        old, new = old or {}, new or {}
        return [
            line for key in keys for line in _changes(old.get(key), new.get(key), f"{above}{key}")
        ]
    return [f"{path} {_set(old)} -> {_set(new)}"]


def _set(value: Any) -> str:
    if value is None:
        return "not set"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a step is expected to put out and to need: rows, and bytes of memory at the peak.

    Example:
        >>> from mbflow.flow.plan import Estimate
        >>> Estimate(rows=800, memory=1 << 20).rows
        800
    """

    rows: int
    memory: int


def estimates(
    pipeline: Pipeline,
    sources: Mapping[str, tuple[int, int]],
    *,
    known: Mapping[str, int] | None = None,
) -> dict[str, Estimate]:
    r"""Estimate every step from the rows and the in-memory bytes of the sources. Pure.

    Args:
        pipeline: A checked pipeline.
        sources: (rows, bytes) of each source.
        known: The rows of steps whose output is there.

    Example:
        >>> from mbflow.flow.plan import estimates
        >>> from mbflow.flow.validate import parse
        >>> from mbflow.steps import CATALOGUE
        >>> pipeline = parse(
        ...     "mbflow: 1\n"
        ...     "name: demo\n"
        ...     "sources: {rows: {use: parquet, with: {path: a.parquet}}}\n"
        ...     "steps: {graph: {use: select.hash_graph, from: rows}}\n",
        ...     "demo.yaml",
        ...     catalogue=CATALOGUE,
        ... )
        >>> estimates(pipeline, {"rows": (1000, 64_000)})["graph"].rows
        1000
    """
    rows = {name: size[0] for name, size in sources.items()}
    size = {name: size[1] for name, size in sources.items()}
    result: dict[str, Estimate] = {}
    for name, use in pipeline.steps.items():
        first = use.source or use.inputs[0]
        if use.step.estimate is None:
            out, memory = rows[use.inputs[0]], size[first]
        else:
            out, memory = use.step.estimate(use.parameters, rows[use.inputs[0]], size[first])
        out = (known or {}).get(name, out)
        rows[name], size[name] = out, size[first]
        result[name] = Estimate(out, memory)
    return result
