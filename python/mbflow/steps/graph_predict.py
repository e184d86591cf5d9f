"""The steps `graph.evaluate` and `graph.predict`: a trained network over all neighbours.

Example:
    >>> from mbflow.steps.graph_predict import PredictParameters
    >>> PredictParameters(embeddings=True).probabilities
    False
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from mbflow.errors import DataError
from mbflow.flow.dataset import Dataset
from mbflow.flow.source import Source
from mbflow.flow.spec import Parameters
from mbflow.flow.step import Context, Forecast
from mbflow.steps.graph_csc import open_graph
from mbflow.steps.graph_nodes import (
    NodeParameters,
    check_columns,
    check_device,
    node_ids,
    read_features,
    read_few_labels,
    read_order,
)
from mbflow.steps.graph_train import Examples, TrainParameters, stored_networks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mbflow.graph import Graph
    from mbflow.graph.inference import Inference
    from mbflow.graph.models import GraphNetwork
    from mbflow.steps.graph_nodes import Labels

__all__ = [
    "EvaluateParameters",
    "PredictParameters",
    "evaluate",
    "forecast_evaluate",
    "forecast_predict",
    "predict",
]

_WRITTEN = 65_536  # rows at a time
_MOST_CLASSES = 40  # of a confusion matrix for people


class PredictParameters(Parameters):
    """`with:` of `graph.predict`.

    Example:
        >>> from mbflow.steps.graph_predict import PredictParameters
        >>> PredictParameters().device
        'auto'
    """

    probabilities: bool = Field(
        default=False, description="Write the probability of every class, in a list."
    )
    embeddings: bool = Field(
        default=False, description="Write what the last convolution takes, in a list."
    )
    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:N`.")

    _device = field_validator("device")(check_device)


class EvaluateParameters(Parameters):
    """`with:` of `graph.evaluate`.

    Example:
        >>> from mbflow.steps.graph_predict import EvaluateParameters
        >>> EvaluateParameters().device
        'auto'
    """

    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:N`.")

    _device = field_validator("device")(check_device)


def predict(context: Context, parameters: PredictParameters) -> None:
    """Run `graph.predict`.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["graph.predict"].gives
        'predictions'
    """
    trained, dataset, source = context.inputs
    assert isinstance(trained, Dataset)
    assert isinstance(dataset, Dataset)
    assert isinstance(source, Source)
    meta = trained.meta
    used = NodeParameters.model_validate(
        {name: meta["parameters"][name] for name in NodeParameters.model_fields}
    )
    check_columns(source, used)
    graph = open_graph(dataset)
    context.progress(0, None, "", "reading the nodes")
    features = read_features(source, read_order(source, graph, used), used)
    _check_width(source, features, meta)
    model = stored_networks(trained)[meta["best_run"]]
    found = _inferred(context, model, graph, features, parameters.device, parameters.embeddings)
    probabilities = found.probabilities().numpy()
    kind = pa.type_for_alias(meta["label_type"])
    classes, ids = pa.array(meta["classes"], kind), node_ids(graph)
    for start in range(0, max(1, graph.nodes), _WRITTEN):
        part = probabilities[start : start + _WRITTEN]
        best = part.argmax(axis=1)
        columns = {
            "id": ids.slice(start, _WRITTEN),
            "predicted": classes.take(pa.array(best)),
            "probability": part[np.arange(len(part)), best],
        }
        if parameters.probabilities:
            columns["probabilities"] = _lists(part)
        if parameters.embeddings and found.embeddings is not None:
            columns["embedding"] = _lists(found.embeddings[start : start + _WRITTEN].numpy())
        context.write(pa.table(columns))
    context.note(f"{graph.nodes:,} nodes, each from all its neighbours")
    if parameters.probabilities:
        shown = ", ".join(str(one) for one in meta["classes"][:20])
        context.note(f"`probabilities` are in the order of the classes: {shown}")
    context.meta.update(classes=meta["classes"])


def forecast_predict(
    parameters: PredictParameters, inputs: tuple[Any, ...], seed: int, source: Source | None
) -> Forecast | None:
    """How many nodes are predicted, for `mbflow plan`.

    Args:
        parameters: `with:` of the step.
        inputs: The network and the graph, or what is foreseen of them, and the table of nodes.
        seed: Not used.
        source: Not used.

    Returns:
        A row a node.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["graph.predict"].forecast.__name__
        'forecast_predict'
    """
    del parameters, seed, source
    graph = open_graph(inputs[1]) if isinstance(inputs[1], Dataset) else inputs[1]
    if graph.nodes is None:
        return None
    return Forecast(figures={"nodes": graph.nodes}, rows=graph.nodes)


def _lists(values: NDArray[np.float32]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _check_width(source: Source, features: NDArray[np.float32], meta: dict[str, Any]) -> None:
    if features.shape[1] != meta["in_features"]:
        raise DataError(
            f"source `{source.name}`: {features.shape[1]} features of each node, and the network "
            f"was trained on {meta['in_features']}"
        )


def _inferred(
    context: Context,
    model: GraphNetwork,
    graph: Graph,
    features: NDArray[np.float32],
    device: str,
    embeddings: bool = False,  # noqa: FBT001, FBT002 - as `infer` has it
    run: str = "",
) -> Inference:
    from mbflow.graph.inference import infer
    from mbflow.graph.train import device_of

    # `infer` counts a node in each layer; a reader counts nodes.
    def on_progress(done: int, total: int) -> None:
        context.progress(done // model.depth, total // model.depth, "nodes", run)

    return infer(
        model.to(device_of(device)),
        graph,
        features=features,
        embeddings=embeddings,
        threads=context.threads,
        on_progress=on_progress,
    )


def evaluate(context: Context, parameters: EvaluateParameters) -> None:
    """Run `graph.evaluate`.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["graph.evaluate"].gives
        'table'
    """
    trained = context.inputs[0]
    assert isinstance(trained, Dataset)
    meta = trained.meta
    used = TrainParameters.model_validate(meta["parameters"])
    examples = Examples.read(context, context.inputs[1:], used)
    source, labels = examples.source, examples.labels
    _check_width(source, examples.features, meta)
    if list(labels.classes) != meta["classes"]:
        raise DataError(
            f"source `{source.name}`: its training nodes have other classes than those that the "
            "network was trained on; evaluate with the nodes that it was trained with"
        )
    splits = _splits(used, labels)
    models = stored_networks(trained)
    counts: list[dict[str, NDArray[np.int64]]] = []
    for number, model in enumerate(models):
        run = f"network {number + 1} of {len(models)}" if len(models) > 1 else ""
        found = _inferred(
            context, model, examples.graph, examples.features, parameters.device, run=run
        )
        predicted = found.logits.argmax(dim=1).numpy()
        counts.append({split: _confusion(predicted, labels, split) for split in splits})
    context.write(_records(counts, labels))
    _publish(context, counts, labels, splits, meta)


def forecast_evaluate(
    parameters: EvaluateParameters, inputs: tuple[Any, ...], seed: int, source: Source | None
) -> Forecast | None:
    """How many rows a table of classes has at most, for `mbflow plan`.

    Args:
        parameters: `with:` of the step.
        inputs: The network and the graph, or what is foreseen of them, and the table of nodes.
        seed: Not used.
        source: Not used.

    Returns:
        For each run and split a row a pair of classes, as far as there are nodes for it.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["graph.evaluate"].forecast.__name__
        'forecast_evaluate'
    """
    del parameters, seed, source
    model, given, nodes = inputs
    if isinstance(model, Dataset):
        used = TrainParameters.model_validate(model.meta["parameters"])
    else:
        used = model
    graph = open_graph(given) if isinstance(given, Dataset) else None
    check_columns(nodes, used)
    labels = read_few_labels(nodes, graph, used)
    if labels is None:
        return None
    pairs = len(labels.classes) ** 2
    rows = sum(min(pairs, len(labels.known(split))) for split in _splits(used, labels))
    return Forecast(rows=used.runs * rows)


def _splits(parameters: TrainParameters, labels: Labels) -> list[str]:
    """The splits that are measured: those of training first, then all others with known classes."""
    first = [parameters.train, labels.validation, labels.test]
    order = [name for name in first if name is not None]
    names = [*dict.fromkeys([*order, *sorted(labels.splits)])]
    return [name for name in names if len(labels.known(name))]


def _confusion(predicted: NDArray[np.int64], labels: Labels, split: str) -> NDArray[np.int64]:
    """How many nodes of each class (rows) were taken for each (columns)."""
    nodes, classes = labels.known(split), len(labels.classes)
    flat = labels.codes[nodes] * classes + predicted[nodes]
    found: NDArray[np.int64] = np.bincount(flat, minlength=classes * classes)
    return found.reshape(classes, classes)


def _records(counts: list[dict[str, NDArray[np.int64]]], labels: Labels) -> pa.Table:
    """A row for each run, split and pair of classes that some node is of."""
    rows: dict[str, list[Any]] = {
        name: [] for name in ("run", "split", "label", "predicted", "nodes")
    }
    for run, splits in enumerate(counts):
        for split, matrix in splits.items():
            for true, taken in zip(*np.nonzero(matrix), strict=True):
                pair = (labels.classes[true], labels.classes[taken])
                values = (run, split, *pair, int(matrix[true, taken]))
                for column, value in zip(rows.values(), values, strict=True):
                    column.append(value)
    kind = labels.kind
    types = {
        "run": pa.int32(), "split": pa.string(), "label": kind, "predicted": kind,
        "nodes": pa.int64(),
    }  # fmt: skip
    return pa.table({name: pa.array(rows[name], types[name]) for name in rows})


def _accuracy(matrix: NDArray[np.int64]) -> float:
    return float(np.trace(matrix) / matrix.sum())


def _publish(
    context: Context,
    counts: list[dict[str, NDArray[np.int64]]],
    labels: Labels,
    splits: list[str],
    meta: dict[str, Any],
) -> None:
    runs, best = len(counts), meta["best_run"]
    by_split = {split: [_accuracy(one[split]) for one in counts] for split in splits}
    figures = {}
    rows = []
    for split, values in by_split.items():
        mean, deviation = float(np.mean(values)), _deviation(values)
        figures[split] = {"accuracy": mean, "deviation": deviation, "runs": runs}
        shown = f"{mean:.4f}" if deviation is None else f"{mean:.4f} ± {deviation:.4f}"
        rows.append([split, int(counts[best][split].sum()), shown, values[best]])
    several = runs > 1
    title = "Accuracy by split" + (f", mean ± sd over {runs} trainings" if several else "")
    columns = ["split", "nodes", "accuracy", *(["of the run that predicts"] if several else [])]
    context.table(title, columns, [row if several else row[:3] for row in rows])
    context.chart(
        "Accuracy",
        ylabel="share of nodes whose class was found",
        groups=splits,
        series=[
            {
                "name": meta["parameters"]["model"],
                "mean": [figures[split]["accuracy"] for split in splits],
                "sd": [figures[split]["deviation"] or 0.0 for split in splits],
            }
        ],
    )
    # Nodes to validate on have chosen the epoch, and those to train on the weights.
    order = (labels.test, labels.validation, splits[0])
    shown_split = next(name for name in order if name in splits)
    matrix = counts[best][shown_split]
    _by_class(context, matrix, labels.classes, shown_split)
    if shown_split != labels.test:
        context.note(
            f"no nodes to test on: by class, and last, the split `{shown_split}` is shown; name "
            "another with `test` of `graph.train`"
        )
    context.meta.update(figures=figures)
    # Named last, so that it is what the terminal ends with.
    values = by_split[shown_split]
    spread = f" ± {_deviation(values):.4f} (sd over {runs} trainings)" if several else ""
    context.note(f"accuracy on `{shown_split}`: {np.mean(values):.4f}{spread}")


def _deviation(values: list[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _by_class(
    context: Context, matrix: NDArray[np.int64], classes: tuple[Any, ...], split: str
) -> None:
    names = [str(one) for one in classes]
    hits, true, taken = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    rows = [
        [
            name,
            int(true[at]),
            _share(hits[at], true[at]),
            _share(hits[at], taken[at]),
            _share(2 * hits[at], true[at] + taken[at]),
        ]
        for at, name in enumerate(names)
    ]
    columns = ["class", "nodes", "recall", "precision", "F1"]
    context.table(f"By class, split `{split}`", columns, rows)
    if len(names) > _MOST_CLASSES:
        context.note(
            f"{len(names)} classes are too many for a confusion matrix here; the output has it"
        )
        return
    context.table(
        f"Confusion, split `{split}`: nodes of each class by the class that was found",
        ["class", *names],
        [[name, *map(int, matrix[at])] for at, name in enumerate(names)],
    )


def _share(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole else None
