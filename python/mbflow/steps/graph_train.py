"""The step `graph.train`: a graph network from a graph and a table of its nodes.

Its output is the weights, as a Parquet table of a row a tensor; what the training went through
stands beside them. A training that is stopped goes on from its checkpoint.

Example:
    >>> from mbflow.steps.graph_train import TrainParameters
    >>> TrainParameters(model="sage", batch_size=512, fanouts=[10, 5]).layers
    2
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from mbflow import _native
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.flow.dataset import Dataset
from mbflow.flow.source import Source
from mbflow.flow.step import Context, Forecast
from mbflow.graph import Graph
from mbflow.steps.graph_csc import open_graph
from mbflow.steps.graph_nodes import (
    LabelParameters,
    Labels,
    check_columns,
    check_device,
    read_features,
    read_few_labels,
    read_labels,
    read_order,
)
from mbflow.steps.graph_sample import SamplingParameters, sampled_figures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mbflow.graph.models import GraphNetwork
    from mbflow.graph.train import Schedule, Training

__all__ = [
    "Examples",
    "TrainParameters",
    "count_tensors",
    "forecast_train",
    "network",
    "stored_networks",
    "train",
]

_CHECKPOINT_SECONDS = 10.0
_STREAM_RUN = 0x6A1_00003
_HEADS = 8
_TENSORS = {"gcn": 2, "sage": 3, "gat": 4}  # of a convolution
_NODES = 1 << 20  # looked at at a time


class TrainParameters(LabelParameters, SamplingParameters):
    """`with:` of `graph.train`.

    Example:
        >>> from mbflow.steps.graph_train import TrainParameters
        >>> TrainParameters().hidden
        16
    """

    model: Literal["gcn", "sage", "gat"] = Field(
        "gcn", description="Graph convolutions, GraphSAGE with means, or graph attention."
    )
    layers: int = Field(2, ge=1, le=64, description="Convolutions, one after the other.")
    hidden: int = Field(
        16, ge=1, le=65_536, description="Width between convolutions; of each head, with `gat`."
    )
    heads: int | None = Field(
        None, ge=1, le=1024, description="Attention heads between layers (gat); default: 8."
    )
    dropout: float = Field(
        0.5, ge=0, lt=1, description="Share of each layer's input that is dropped in training."
    )
    attention_dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of the attention that is dropped (gat); default: as `dropout`.",
    )
    epochs: int = Field(200, ge=1, le=1_000_000, description="The most epochs.")
    patience: int | None = Field(
        None,
        ge=1,
        description="Epochs without a better validation before training stops; default: all "
        "epochs.",
    )
    watch: Literal["loss", "accuracy"] = Field(
        "loss", description="What a better validation is: lower loss, or higher accuracy."
    )
    keep: Literal["best", "last"] = Field(
        "best", description="Weights of the epoch with the best validation, or of the last."
    )
    validate_every: int = Field(1, ge=1, description="Epochs between validations.")
    learning_rate: float = Field(0.01, gt=0, le=10, description="Step size of Adam.")
    weight_decay: float = Field(5e-4, ge=0, le=10, description="Weight decay of Adam.")
    decay: Literal["first", "all"] = Field("first", description="The layers that weights decay in.")
    runs: int = Field(
        1,
        ge=1,
        le=1000,
        description="Trainings, each with a seed of its own; the one with the best validation "
        "predicts, and `graph.evaluate` measures all.",
    )
    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:N`.")

    _device = field_validator("device")(check_device)

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if (self.batch_size is None) != (self.fanouts is None):
            have, lack = ("fanouts", "batch_size") if self.fanouts else ("batch_size", "fanouts")
            raise ValueError(
                f"`{have}` needs `{lack}`; for the whole graph in each step leave both out"
            )
        if self.fanouts is not None and len(self.fanouts) != self.layers:
            raise ValueError(
                f"expected {self.layers} fan-outs, one for each of the {self.layers} layers, "
                f"found {len(self.fanouts)}"
            )
        if self.model != "gat" and self.heads is not None:
            raise ValueError("`heads` is for `model: gat` only; leave it out")
        if self.model != "gat" and self.attention_dropout is not None:
            raise ValueError("`attention_dropout` is for `model: gat` only; leave it out")
        return self

    def schedule(self, seed: int) -> Schedule:
        """How a run with that seed is trained."""
        from mbflow.graph.train import Schedule

        return Schedule(
            epochs=self.epochs,
            patience=self.patience,
            watch=self.watch,
            keep=self.keep,
            validate_every=self.validate_every,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            decay=self.decay,
            seed=seed,
        )


def _run_seed(seed: int, number: int) -> int:
    """That of the step for the first training; steps with other seeds share none of the others."""
    if number == 0:
        return seed
    return int(_native.random_u64(seed, _STREAM_RUN, number, 1)[0]) >> 1


def network(
    parameters: TrainParameters, in_features: int, *, classes: int, seed: int
) -> GraphNetwork:
    """The network that the parameters say, with its first weights.

    Example:
        >>> from mbflow.steps.graph_train import TrainParameters, network
        >>> network(TrainParameters(layers=3), 100, classes=7, seed=0).depth
        3
    """
    from mbflow.graph.gat import GAT
    from mbflow.graph.models import GCN, GraphSAGE

    shape: dict[str, Any] = {
        "hidden": parameters.hidden,
        "layers": parameters.layers,
        "dropout": parameters.dropout,
        "seed": seed,
    }
    if parameters.model == "gat":
        given = parameters.attention_dropout
        shape["heads"] = parameters.heads or _HEADS
        shape["attention_dropout"] = parameters.dropout if given is None else given
        return GAT(in_features, classes, **shape)
    kind = GCN if parameters.model == "gcn" else GraphSAGE
    return kind(in_features, classes, **shape)


@dataclass(frozen=True, eq=False)
class Examples:
    """A graph with what its nodes hold.

    Attributes:
        graph: The graph.
        source: The table of nodes.
        order: int64, the node of each row.
        features: float32 of shape (nodes, columns).
        labels: Classes and splits.

    Example:
        >>> from mbflow.steps.graph_train import Examples
        >>> Examples.__dataclass_fields__["graph"].type
        'Graph'
    """

    graph: Graph
    source: Source
    order: NDArray[np.int64]
    features: NDArray[np.float32]
    labels: Labels

    @classmethod
    def read(cls, context: Context, inputs: tuple[Any, ...], parameters: LabelParameters) -> Self:
        """Open a graph and read all nodes; the cheap checks come first.

        Raises:
            DataError: As `read_order`, `read_features` and `read_labels` say.
        """
        dataset, source = inputs
        assert isinstance(dataset, Dataset)
        assert isinstance(source, Source)
        check_columns(source, parameters)
        graph = open_graph(dataset)
        if graph.source_nodes != graph.nodes:
            raise DataError(
                f"{dataset.folder}: the edges lead from {graph.source_nodes} nodes to "
                f"{graph.nodes} others; a network needs a graph of one kind of nodes"
            )
        context.progress(0, None, "", "reading the nodes")
        order = read_order(source, graph, parameters)
        labels = read_labels(source, order, parameters)
        return cls(graph, source, order, read_features(source, order, parameters), labels)


def train(context: Context, parameters: TrainParameters) -> None:
    """Run `graph.train`.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["graph.train"].gives
        'model'
    """
    examples = Examples.read(context, context.inputs, parameters)
    labels = examples.labels
    seeds = labels.splits[parameters.train]
    validation = None if labels.validation is None else labels.known(labels.validation)
    if (validation is None or not len(validation)) and parameters.patience is not None:
        raise DataError(
            f"source `{examples.source.name}`: `patience` needs validation nodes, and the column "
            f"`{parameters.split}` (`split`) names none with a class; name them with `validation`"
        )
    _note_data(context, examples, parameters)
    found = [
        _run(context, parameters, examples, seeds, validation, number)
        for number in range(parameters.runs)
    ]
    for number, (model, _) in enumerate(found):
        context.write(_weights(model, number))
    trainings = [training for _, training in found]
    for number, training in enumerate(trainings):
        context.write_beside("history", _history(training, number))
    best = _best(trainings)
    _publish(context, trainings, best)
    context.meta.update(
        parameters=parameters.model_dump(mode="json"),
        in_features=examples.features.shape[1],
        classes=list(labels.classes),
        label_type=str(labels.kind),
        validation=labels.validation,
        runs=parameters.runs,
        best_run=best,
    )


def _run(
    context: Context,
    parameters: TrainParameters,
    examples: Examples,
    seeds: NDArray[np.int64],
    validation: NDArray[np.int64] | None,
    number: int,
) -> tuple[GraphNetwork, Training]:
    from mbflow.graph import train as training

    seed = _run_seed(context.seed, number)
    columns, classes = examples.features.shape[1], len(examples.labels.classes)
    model = network(parameters, columns, classes=classes, seed=seed)
    batches: Any = training.WholeGraph(examples.graph, seeds, layers=parameters.layers)
    if parameters.batch_size is not None:
        batches = parameters.batches(examples.graph, seeds, seed=seed)
    runs = f"training {number + 1} of {parameters.runs}, " if parameters.runs > 1 else ""

    def on_progress(done: int, total: int, loss: float) -> None:
        context.progress(
            number * total + done, parameters.runs * total, "steps", f"{runs}loss {loss:.3f}"
        )

    def trained(checkpoint: Path) -> Training:
        return training.train(
            model,
            examples.graph,
            features=examples.features,
            labels=examples.labels.codes,
            batches=batches,
            validation=validation,
            schedule=parameters.schedule(seed),
            device=parameters.device,
            threads=context.threads,
            checkpoint=checkpoint,
            checkpoint_seconds=_CHECKPOINT_SECONDS,
            on_progress=on_progress,
        )

    place = context.scratch / f"run-{number:04d}.pt"
    try:
        outcome = trained(place)
    except DataError:
        # A checkpoint that the disk has damaged: what it held is trained again.
        if not place.exists():
            raise
        place.unlink()
        outcome = trained(place)
    return model.cpu(), outcome


def _note_data(context: Context, examples: Examples, parameters: TrainParameters) -> None:
    graph, labels = examples.graph, examples.labels
    parts = [
        f"{len(labels.known(name)):,} {what}"
        for name, what in (
            (parameters.train, "to train on"),
            (labels.validation, "to validate on"),
            (labels.test, "to test on"),
        )
        if name is not None
    ]
    context.note(
        f"{graph.nodes:,} nodes, {graph.edges:,} edges, {examples.features.shape[1]:,} features, "
        f"{len(labels.classes)} classes; {', '.join(parts)}"
    )
    if labels.validation is not None and labels.validation == labels.test:
        context.note(
            f"the split `{labels.validation}` decides which epoch is best (`validation`), so that "
            "the accuracy on it says little of new nodes"
        )
    _note_unused(context, graph, parameters)
    loops = _self_loops(graph) if parameters.model != "sage" else 0
    if loops:
        context.note(
            f"{loops:,} edges lead from a node to itself and count besides the "
            "node itself; `self_loops: drop` of `graph.csc` leaves them out"
        )


def _note_unused(context: Context, graph: Graph, parameters: TrainParameters) -> None:
    """Say what the edges carry that the network does not see."""
    drawn = parameters.batch_size is not None and parameters.method == "weighted"
    if graph.weights is not None and drawn:
        context.note(
            "the edges' weights say how often they are drawn in training; the network, and "
            "validation with it, counts all edges alike"
        )
    elif graph.weights is not None:
        context.note("the edges have weights, which are not used: all edges count alike")
    if graph.times is not None:
        context.note(
            "the edges have times, which are not used: training and validation see all edges, "
            "later ones too"
        )


def _self_loops(graph: Graph) -> int:
    """How many edges lead from a node to itself."""
    found = 0
    for start in range(0, graph.nodes, _NODES):
        stop = min(start + _NODES, graph.nodes)
        bounds = graph.offsets[start : stop + 1].astype(np.int64)
        targets = np.repeat(np.arange(start, stop), np.diff(bounds))
        found += int((graph.sources[bounds[0] : bounds[-1]] == targets).sum())
    return found


def _weights(model: GraphNetwork, run: int) -> pa.Table:
    """A row for each tensor of a network."""
    tensors = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    return pa.table(
        {
            "run": pa.array([run] * len(tensors), pa.int32()),
            "name": pa.array(list(tensors), pa.string()),
            "shape": pa.array([list(t.shape) for t in tensors.values()], pa.list_(pa.int64())),
            "values": pa.array(
                [t.astype(np.float32).ravel() for t in tensors.values()], pa.list_(pa.float32())
            ),
        }
    )


def _history(training: Training, run: int) -> pa.Table:
    columns = ("epoch", "loss", "validation_loss", "validation_accuracy")
    kinds = (pa.int32(), pa.float64(), pa.float64(), pa.float64())
    values: dict[str, Any] = {"run": pa.array([run] * len(training.epochs), pa.int32())}
    for name, kind in zip(columns, kinds, strict=True):
        values[name] = pa.array([getattr(epoch, name) for epoch in training.epochs], kind)
    return pa.table(values)


def _best(trainings: list[Training]) -> int:
    """The run with the best validation: accuracy first, then loss."""

    def rank(number: int) -> tuple[float, float]:
        accuracy, loss = trainings[number].validation_accuracy, trainings[number].validation_loss
        return (-(accuracy or 0.0), 0.0 if loss is None else loss)

    return min(range(len(trainings)), key=rank)


_SHOWN = 60


def _publish(context: Context, trainings: list[Training], best: int) -> None:
    rows = []
    for number, one in enumerate(trainings):
        kept = one.epochs[one.kept_epoch]
        rows.append(
            [
                number,
                len(one.epochs),
                one.kept_epoch,
                kept.loss,
                kept.validation_loss,
                kept.validation_accuracy,
            ]
        )
    # Runs and epochs are counted as in the output and in `_history`.
    columns = [
        "run (from 0)", "epochs", "kept epoch (from 0)", "training loss", "validation loss",
        "validation accuracy",
    ]  # fmt: skip
    context.table("Trainings", columns, rows)
    epochs = trainings[best].epochs
    step = max(1, -(-len(epochs) // _SHOWN))
    shown = epochs[step - 1 :: step]
    series: list[dict[str, Any]] = [{"name": "training", "mean": [epoch.loss for epoch in shown]}]
    if any(epoch.validation_loss is not None for epoch in shown):
        losses = [epoch.validation_loss for epoch in shown]
        series.append({"name": "validation", "mean": losses})
    for line in series:
        line["sd"] = [0.0] * len(shown)
    groups = [str(epoch.epoch) for epoch in shown]
    if len(groups) > 1:
        context.lines("Loss by epoch", ylabel="cross entropy", groups=groups, series=series)
    if len(trainings) > 1:
        context.note(
            f"run {best} (counted from 0) has the best validation and is the one that predicts"
        )


def stored_networks(dataset: Dataset) -> list[GraphNetwork]:
    """The networks that `graph.train` wrote, one a run.

    Args:
        dataset: Its output.

    Returns:
        The networks, without dropout.

    Raises:
        DataError: The weights are not those of the network that the manifest tells of.

    Example:
        >>> from mbflow.steps.graph_train import stored_networks
        >>> stored_networks(result.outputs["train"])[0].depth  # doctest: +SKIP
        2
    """
    import torch

    meta = dataset.meta
    parameters = TrainParameters.model_validate(meta["parameters"])
    states: list[dict[str, Any]] = [{} for _ in range(meta["runs"])]
    for row in dataset.table().to_pylist():
        values = torch.tensor(row["values"], dtype=torch.float32)
        states[row["run"]][row["name"]] = values.reshape(row["shape"])
    models = []
    for state in states:
        model = network(parameters, meta["in_features"], classes=len(meta["classes"]), seed=0)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            text = " ".join(str(error).split())[:300]
            raise DataError(f"{dataset.folder}: not the weights of its network: {text}") from None
        models.append(model.eval())
    return models


def forecast_train(
    parameters: TrainParameters, inputs: tuple[Any, ...], seed: int, source: Source | None
) -> Forecast | None:
    """What training would come to, for `mbflow plan`.

    Args:
        parameters: `with:` of the step.
        inputs: The graph, or what is foreseen of it, and the table of nodes.
        seed: Key of all draws.
        source: Not used.

    Returns:
        Steps, and edges, nodes and bytes of a step: of the first batches of an epoch.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["graph.train"].forecast.__name__
        'forecast_train'
    """
    del source
    given, nodes = inputs
    if not isinstance(nodes, Source):
        return None
    check_columns(nodes, parameters)
    there = isinstance(given, Dataset)
    graph = open_graph(given) if there else None
    labels = read_few_labels(nodes, graph, parameters)
    if labels is None:
        return None
    seeds = labels.splits[parameters.train]
    columns = _columns(nodes, parameters)
    figures: dict[str, Any] = {"training_nodes": len(seeds), "classes": len(labels.classes)}
    size = given if graph is None else graph
    if parameters.batch_size is None:
        each = {"nodes": size.nodes, "edges": size.edges * parameters.layers, "batches": 1}
    elif graph is not None:
        try:
            each = sampled_figures(parameters.batches(graph, seeds, seed=seed))
        except InvalidArgumentError as error:
            raise DataError(str(error)) from None
    else:
        each = _at_most(parameters, len(seeds), size)
    if each["nodes"] is None:
        return None
    figures |= each
    # Features and what every layer makes of them, kept for the gradient; edges as whole numbers.
    widths = parameters.hidden * ((parameters.heads or _HEADS) if parameters.model == "gat" else 1)
    each_node = 4 * (2 * (columns or 0) + 6 * widths * parameters.layers)
    figures["step_bytes"] = each["nodes"] * each_node + 16 * each["edges"]
    most = "" if there or parameters.batch_size is None else ", at most"
    rows = [
        ["training nodes", f"{len(seeds):,}"],
        ["batches of an epoch", f"{each['batches']:,}"],
        [f"edges of a batch{most}", f"{each['edges']:,}"],
        [f"nodes of a batch{most}", f"{each['nodes']:,}"],
        ["features", "?" if columns is None else f"{columns:,}"],
        ["memory of a step, about", f"{figures['step_bytes'] / 2**20:,.0f} MiB"],
        ["steps in all, at most", f"{parameters.runs * parameters.epochs * each['batches']:,}"],
    ]
    table = {"title": "Training", "columns": ["figure", "value"], "rows": rows}
    return Forecast(parameters, figures, (table,), count_tensors(parameters))


def count_tensors(parameters: TrainParameters) -> int:
    """How many tensors the networks of all runs have, each a row of the output.

    Example:
        >>> from mbflow.steps.graph_train import TrainParameters, count_tensors
        >>> count_tensors(TrainParameters(model="sage", runs=5))
        30
    """
    return _TENSORS[parameters.model] * parameters.layers * parameters.runs


def _at_most(parameters: TrainParameters, seeds: int, size: Any) -> dict[str, Any]:
    """What a batch cannot be above, where the graph is not there to sample from."""
    batch = min(parameters.batch_size or seeds, seeds)
    nodes, edges = batch, 0
    for fanout in parameters.fanouts or ():
        drawn = min(nodes * fanout, size.edges) if fanout >= 0 else size.edges
        edges += drawn
        nodes = min(nodes + drawn, size.nodes) if size.nodes is not None else nodes + drawn
    return {"nodes": nodes, "edges": edges, "batches": -(-seeds // max(1, batch))}


def _columns(source: Source, parameters: LabelParameters) -> int | None:
    """How many features a node has, where the schema says so."""
    names = parameters.features
    if isinstance(names, list) and len(names) != 1:
        return len(names)
    name = names if isinstance(names, str) else names[0]
    kind = source.schema.field(name).type
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    return None if pa.types.is_nested(kind) else 1
