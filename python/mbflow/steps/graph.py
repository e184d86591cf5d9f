"""The steps of graphs, between Parquet and the functions of `mbflow.graph`.

Example:
    >>> from mbflow.steps.graph import STEPS
    >>> STEPS[0].use, STEPS[0].gives
    ('graph.csc', 'csc')
"""

from __future__ import annotations

from mbflow.flow.step import Step
from mbflow.steps.graph_csc import CscParameters, can_build, csc, forecast_csc

__all__ = ["STEPS"]

# Estimates are what the process holds at the peak: the libraries, the rows at hand, and the graph.
_BASE = 450 << 20


def _estimate_csc(parameters: CscParameters, rows: int, size: int) -> tuple[int, int]:
    del size  # edges are read in pieces
    if parameters.memory is not None:
        return 1, _BASE + (parameters.memory << 20)
    return 1, _BASE + parameters.building_bytes(nodes=0, edges=rows)


STEPS: tuple[Step, ...] = (
    Step(
        use="graph.csc",
        version=1,
        function=csc,
        parameters=CscParameters,
        takes=("rows", "rows?", "rows?"),
        gives="csc",
        summary="A graph from a table of edges, and tables of nodes and of source nodes.",
        estimate=_estimate_csc,
        check=can_build,
        forecast=forecast_csc,
    ),
)
