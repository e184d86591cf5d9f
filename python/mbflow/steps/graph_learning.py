"""The steps that sample graphs and learn on them, between Parquet and `mbflow.graph`.

Example:
    >>> from mbflow.steps.graph_learning import STEPS
    >>> [step.gives for step in STEPS]
    ['samples', 'model', 'table', 'predictions']
"""

from __future__ import annotations

from mbflow.flow.source import Source
from mbflow.flow.step import Step
from mbflow.steps.graph_nodes import check_columns
from mbflow.steps.graph_predict import (
    EvaluateParameters,
    PredictParameters,
    evaluate,
    forecast_evaluate,
    forecast_predict,
    predict,
)
from mbflow.steps.graph_sample import (
    SampleParameters,
    can_sample,
    check_method,
    forecast_sample,
    inspect_sample,
    sample,
)
from mbflow.steps.graph_train import TrainParameters, count_tensors, forecast_train, train

__all__ = ["STEPS"]

# Estimates are what the process holds at the peak: the libraries themselves, and bytes by row.
_BASE = 250 << 20
_TORCH = 500 << 20


def _estimate_sample(parameters: SampleParameters, rows: int, size: int) -> tuple[int, int]:
    del size
    # How many go out is said by the forecast; the graph is mapped, and a piece is in memory.
    return parameters.epochs * rows, _BASE + (300 << 20)


def _estimate_train(parameters: TrainParameters, rows: int, size: int) -> tuple[int, int]:
    # The features are those of another source, whose size is not known here.
    del rows
    return count_tensors(parameters), _TORCH + 4 * size


def _estimate_evaluate(parameters: EvaluateParameters, rows: int, size: int) -> tuple[int, int]:
    del parameters
    return rows, _TORCH + 4 * size


def _estimate_predict(parameters: PredictParameters, rows: int, size: int) -> tuple[int, int]:
    del parameters
    return rows, _TORCH + 4 * size


def _inspect_train(parameters: TrainParameters, sources: tuple[Source | None, ...]) -> None:
    """Refuse columns that are not there, and a device that is not."""
    if sources[1] is not None:
        check_columns(sources[1], parameters)
    if parameters.device.startswith("cuda"):
        from mbflow.graph.train import device_of

        device_of(parameters.device)


STEPS: tuple[Step, ...] = (
    Step(
        use="graph.sample",
        version=1,
        function=sample,
        parameters=SampleParameters,
        takes=("csc", "rows?"),
        gives="samples",
        summary="Mini-batches of sampled neighbourhoods: the edges of each batch, layer by layer.",
        estimate=_estimate_sample,
        check=can_sample,
        inspect=inspect_sample,
        forecast=forecast_sample,
    ),
    Step(
        use="graph.train",
        version=1,
        function=train,
        parameters=TrainParameters,
        takes=("csc", "rows"),
        gives="model",
        summary="A graph network trained on a graph and its nodes: GCN, GraphSAGE or GAT.",
        extra="train",
        modules=("torch",),
        estimate=_estimate_train,
        check=check_method,
        inspect=_inspect_train,
        forecast=forecast_train,
    ),
    Step(
        use="graph.evaluate",
        version=1,
        function=evaluate,
        parameters=EvaluateParameters,
        takes=("model", "csc", "rows"),
        gives="table",
        summary="Accuracy of a graph network by split and class, from all neighbours.",
        extra="train",
        modules=("torch",),
        estimate=_estimate_evaluate,
        forecast=forecast_evaluate,
    ),
    Step(
        use="graph.predict",
        version=1,
        function=predict,
        parameters=PredictParameters,
        takes=("model", "csc", "rows"),
        gives="predictions",
        summary="The class of every node by a graph network, from all neighbours.",
        extra="train",
        modules=("torch",),
        estimate=_estimate_predict,
        forecast=forecast_predict,
    ),
)
