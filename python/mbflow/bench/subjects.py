"""Which benchmark a subject and a part of it are.

Example:
    >>> from mbflow.bench import subjects
    >>> callable(subjects.run)
    True
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mbflow.errors import PipelineError

__all__ = ["run"]


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
        Traceback (most recent call last):
        ...
        mbflow.errors.PipelineError: no benchmark `nothing`; known: select, stratified, batches
    """
    if subject == "stratified":
        from mbflow.bench import stratified

        return stratified.run(repeats=repeats, on_progress=on_progress)
    if subject != "select":
        raise PipelineError(f"no benchmark `{subject}`; known: select, stratified, batches")
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
