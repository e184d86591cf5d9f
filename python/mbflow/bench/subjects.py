"""Which benchmark a subject and a part of it are.

Example:
    >>> from mbflow.bench import subjects
    >>> callable(subjects.run)
    True
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mbflow.errors import PipelineError

__all__ = ["TABLED", "run", "store", "tables", "titles"]

TABLED = ("batches", "graph")
"""Subjects whose result is several tables."""


def run(
    subject: str, part: str, *, repeats: int, large: bool, on_progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Run the benchmark of a subject, or a part of it.

    Args:
        subject: `"select"` or `"stratified"`.
        part: Of `select`: `"graph"`, `"resources"` or `"scale"`.
        repeats: Measurements of each case.
        large: Whether to add cases that take long.
        on_progress: Called with a line for each thing that was measured.

    Returns:
        A record for each case.

    Raises:
        PipelineError: There is no such subject or part.

    Example:
        >>> from mbflow.bench.subjects import run
        >>> run("nothing", "graph", repeats=1, large=False, on_progress=print)
        ... # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        mbflow.errors.PipelineError: no benchmark `nothing`; known: select, stratified, ...
    """
    if subject == "stratified":
        from mbflow.bench import stratified

        return stratified.run(repeats=repeats, on_progress=on_progress)
    if subject != "select":
        raise PipelineError(f"no benchmark `{subject}`; known: select, stratified, batches, graph")
    if part == "graph":
        from mbflow.bench import select as bench_select

        return bench_select.run(repeats=repeats, large=large, on_progress=on_progress)
    if part == "resources":
        from mbflow.bench import resources

        sizes = (20_000, 100_000) if large else (20_000,)
        return resources.run(sizes=sizes, on_progress=on_progress)
    if part == "scale":
        from mbflow.bench import scale

        records = scale.run(on_progress=on_progress)
        if large:
            records += scale.run(
                sizes=(10_000_000,),
                cases=("coverage",),
                threads=(1, 2),
                memory=4 << 30,
                on_progress=on_progress,
            )
        return records
    raise PipelineError(f"no part `{part}`; known: graph, evidence, resources, scale")


def tables(
    subject: str,
    part: str | None,
    *,
    repeats: int,
    large: bool,
    quick: bool,
    items: int | None,
    corpora: Sequence[str] | None,
    folder: Path | None,
    on_progress: Callable[[str], object],
) -> dict[str, Any]:
    """Run a benchmark whose result is several tables, or a part of it.

    Args:
        subject: Of `TABLED`.
        part: Of the subject's parts; None for all.
        repeats: Measurements of each case.
        large: Of `graph`: the large graph.
        quick: Of `batches`: less of everything.
        items: Of `batches`: items of each corpus.
        corpora: Of `batches`: which.
        folder: Of `graph`: where made-up graphs are kept.
        on_progress: Called with a line for each thing that is measured.

    Returns:
        `parameters` and `tables`.

    Raises:
        InvalidArgumentError: There is no such part, or a number is out of range.

    Example:
        >>> from mbflow.bench.subjects import tables
        >>> tables.__name__
        'tables'
    """
    if subject == "batches":
        from mbflow.bench import batches

        return batches.run(
            parts=batches.PARTS if part is None else [part],
            corpora=corpora,
            items=items,
            quick=quick,
            repeats=repeats,
            on_progress=on_progress,
        )
    from mbflow.bench import graph

    return graph.run(
        parts=graph.PARTS if part is None else [part],
        large=large,
        folder=folder,
        repeats=repeats,
        on_progress=on_progress,
    )


def titles(subject: str) -> Mapping[str, str]:
    """What the tables of a subject say.

    Args:
        subject: Of `TABLED`.

    Returns:
        A title for each name of a table.

    Example:
        >>> from mbflow.bench.subjects import titles
        >>> titles("graph")["labor"]
        'LABOR-0, beside uniform sampling'
    """
    if subject == "batches":
        from mbflow.bench import batches

        return batches.TITLES
    from mbflow.bench import graph

    return graph.TITLES


def store(subject: str, result: dict[str, Any], folder: Path) -> list[Path]:
    """Write the result of a benchmark to a folder.

    Args:
        subject: Of `TABLED`.
        result: With `environment`, `parameters` and `tables`.
        folder: Made where it is missing.

    Returns:
        Paths of the files that were written: for `batches` also a page and drawings.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.bench.subjects import store
        >>> [path.name for path in store("graph", {"tables": {}}, Path("results"))]
        ['graph.json']
    """
    if subject == "batches":
        from mbflow.bench import batch_report

        return batch_report.store(result, folder)
    from mbflow.flow.manifest import write_whole

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{subject}.json"
    write_whole(path, (json.dumps(result, indent=1) + "\n").encode())
    return [path]
