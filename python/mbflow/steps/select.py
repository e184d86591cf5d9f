"""The steps of instance selection, between Parquet and the functions of `mbflow.select`.

Example:
    >>> from mbflow.steps.select import STEPS
    >>> [step.gives for step in STEPS]
    ['graph', 'graph', 'scores', 'kept', 'table']
"""

from __future__ import annotations

from mbflow import select
from mbflow.flow.step import Step
from mbflow.steps.select_evaluate import EvaluateParameters, evaluate
from mbflow.steps.select_graph import (
    AttentionParameters,
    GraphParameters,
    HashGraphParameters,
    attention,
    graph,
    hash_graph,
)
from mbflow.steps.select_keep import KeepParameters, can_keep, keep

__all__ = ["STEPS"]

# Estimates are what the process holds at the peak, measured on 2 threads and rounded up: the
# libraries themselves, and bytes by row.
_BASE = 200 << 20
_TORCH = 500 << 20
_FOREST_ROW = 30_000


def _estimate_graph(
    parameters: GraphParameters | HashGraphParameters, rows: int, size: int
) -> tuple[int, int]:
    # The table, its float64 and float32 forms and the copy sorted by bucket; edges in and out.
    return rows, _BASE + 4 * size + rows * parameters.neighbours * 24


def _estimate_attention(parameters: AttentionParameters, rows: int, size: int) -> tuple[int, int]:
    return rows, _TORCH + size + rows * parameters.heads * (parameters.hidden * 16 + 256)


def _estimate_keep(parameters: KeepParameters, rows: int, size: int) -> tuple[int, int]:
    fraction = 0.04 if parameters.fraction is None else parameters.fraction
    kept = rows if rows == 0 else select.kept_count(rows, fraction=fraction)
    count = kept if parameters.count is None else min(parameters.count, rows)
    # Of larger sources one stratum for each of two threads is in memory at a time.
    held = min(rows, 2 * parameters.strata_rows)
    share = held / max(1, rows)
    neighbours = parameters.neighbours or 40
    return count, _TORCH + int(4 * size * share) + held * neighbours * 40 + rows * 40


def _estimate_evaluate(parameters: EvaluateParameters, rows: int, size: int) -> tuple[int, int]:
    # Two splits side by side, each with a forest on all its rows.
    forest = min(parameters.max_train_rows, rows) * _FOREST_ROW
    share = min(1.0, parameters.max_rows / max(1, rows))
    sets = 1 + (2 + len(parameters.compare)) * len(parameters.reductions or [0])
    records = sets * len(parameters.classifiers) * parameters.seeds
    return records, _TORCH + _BASE + int(8 * size * share) + 2 * forest


STEPS: tuple[Step, ...] = (
    Step(
        use="select.graph",
        version=1,
        function=graph,
        parameters=GraphParameters,
        takes=("rows",),
        gives="graph",
        summary="Neighbour graph of the rows: hashed in one of three ways, in batches, or exact.",
        estimate=_estimate_graph,
    ),
    Step(
        use="select.hash_graph",
        version=2,
        function=hash_graph,
        parameters=HashGraphParameters,
        takes=("rows",),
        gives="graph",
        summary="Neighbour graph of the rows, by hashing: `select.graph` of kind `single_level`.",
        estimate=_estimate_graph,
    ),
    Step(
        use="select.attention",
        version=2,
        function=attention,
        parameters=AttentionParameters,
        takes=("graph",),
        gives="scores",
        summary="Score of each row: the attention it gives as a source in a trained GAT.",
        label=True,
        extra="train",
        modules=("torch",),
        estimate=_estimate_attention,
    ),
    Step(
        use="select.keep",
        version=2,
        function=keep,
        parameters=KeepParameters,
        takes=("rows|graph|scores", "scores?"),
        gives="kept",
        summary="The rows to train on, within class quotas, by coverage, search or attention.",
        source=True,
        label=True,
        estimate=_estimate_keep,
        preflight=can_keep,
    ),
    Step(
        use="select.evaluate",
        version=2,
        function=evaluate,
        parameters=EvaluateParameters,
        takes=("rows", "kept"),
        gives="table",
        summary="Accuracy of classifiers on all, random and selected rows, over repeated splits.",
        label=True,
        extra="train",
        modules=("torch", "sklearn"),
        estimate=_estimate_evaluate,
    ),
)
