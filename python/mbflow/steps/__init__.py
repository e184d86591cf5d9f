"""The catalogue: step name -> function and parameters. The only place where flow meets the domains.

A new step is one function and one entry; `CONTRIBUTING.md` shows it.

Example:
    >>> from mbflow.steps import CATALOGUE
    >>> CATALOGUE.names()[:4]
    ('select.graph', 'select.hash_graph', 'select.attention', 'select.keep')
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from mbflow.flow.events import Listener
from mbflow.flow.run import RunResult
from mbflow.flow.run import run as _run
from mbflow.flow.step import Catalogue
from mbflow.flow.validate import Pipeline
from mbflow.flow.validate import load as _load
from mbflow.steps.graph import STEPS as GRAPH
from mbflow.steps.graph_learning import STEPS as GRAPH_LEARNING
from mbflow.steps.select import STEPS as SELECT
from mbflow.steps.speech import STEPS as SPEECH

__all__ = ["CATALOGUE", "load", "run"]

CATALOGUE = Catalogue([*SELECT, *SPEECH, *GRAPH, *GRAPH_LEARNING])


def load(path: str | os.PathLike[str], *, assignments: Iterable[str] = ()) -> Pipeline:
    """Read and check a pipeline file against the catalogue.

    Args:
        path: The YAML file.
        assignments: Changes as `--set` takes them, each `path=value`.

    Returns:
        The checked pipeline, to be given to `run`.

    Raises:
        PipelineError: With one line for each problem, as `file:line:column: message`.

    Example:
        >>> from mbflow.steps import load
        >>> load("no-such.yaml")
        Traceback (most recent call last):
        ...
        mbflow.errors.PipelineError: no-such.yaml: cannot be read: No such file or directory
    """
    return _load(path, CATALOGUE, assignments=assignments)


def run(
    pipeline: Pipeline | str | os.PathLike[str],
    *,
    assignments: Iterable[str] = (),
    listeners: Iterable[Listener] = (),
    reporter: Callable[[Path], Path] | None = None,
) -> RunResult:
    """Run a pipeline, or go on with it: what is done and sound is reused.

    Args:
        pipeline: A pipeline file, or what `load` returned.
        assignments: Changes as `--set` takes them; only with a file.
        listeners: Called with every event of `mbflow.flow.events`.
        reporter: Writes the report; such as `mbflow.report.write_report`.

    Returns:
        The run folder and the output of each step.

    Raises:
        PipelineError: The file is wrong.
        DataError: The data cannot be used.
        ResourceError: The machine refuses, or another run uses the folder.

    Example:
        >>> from mbflow.steps import run
        >>> result = run("pipelines/select.yaml")  # doctest: +SKIP
        >>> result.outputs["keep"].table().num_rows  # doctest: +SKIP
        800
    """
    if not isinstance(pipeline, Pipeline):
        pipeline = load(pipeline, assignments=assignments)
    return _run(pipeline, listeners=listeners, reporter=reporter)
