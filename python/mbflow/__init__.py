"""Mini-batches for training, from Parquet: which rows matter, and how to bring them to the model.

`mbflow.select` chooses the rows of a labelled data set that are worth training on; `mbflow.flow`
runs whole pipelines from YAML. Both load when they are first used, so importing mbflow is quick.

Example:
    >>> import mbflow
    >>> mbflow.build_info()["version"] == mbflow.__version__
    True
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbflow._native import __version__, build_info, num_threads, set_num_threads

if TYPE_CHECKING:
    from mbflow import batches, errors, flow, select
    from mbflow.select import select_instances
    from mbflow.steps import load, run
    from mbflow.stratified import StratifiedBatches

__all__ = [
    "StratifiedBatches",
    "__version__",
    "batches",
    "build_info",
    "errors",
    "flow",
    "load",
    "num_threads",
    "run",
    "select",
    "select_instances",
    "set_num_threads",
]

_MODULES = frozenset({"batches", "errors", "flow", "select"})
_NAMES = {
    "StratifiedBatches": "mbflow.stratified",
    "load": "mbflow.steps",
    "run": "mbflow.steps",
    "select_instances": "mbflow.select",
}


def __getattr__(name: str) -> object:
    """Import a submodule, or the module that defines a name, when it is first used (PEP 562)."""
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"mbflow.{name}")
    if name in _NAMES:
        value: object = getattr(import_module(_NAMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'mbflow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
