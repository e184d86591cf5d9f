"""The step `graph.sample`: mini-batches of sampled neighbourhoods, as a Parquet table.

Example:
    >>> from mbflow.steps.graph_sample import SampleParameters
    >>> SampleParameters(batch_size=512, fanouts=[10, 5]).epochs
    1
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from mbflow.errors import DataError
from mbflow.flow.dataset import Dataset
from mbflow.flow.source import Source
from mbflow.flow.spec import Parameters
from mbflow.flow.step import Context, Forecast
from mbflow.steps.graph_csc import CscParameters, open_graph
from mbflow.steps.graph_nodes import NodeParameters, check_split, node_ids, read_order
from mbflow.steps.speech_pieces import piece

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mbflow.graph import Graph, Sample
    from mbflow.graph.batches import Batches

__all__ = [
    "SampleParameters",
    "SamplingParameters",
    "can_sample",
    "check_method",
    "forecast_sample",
    "inspect_sample",
    "sample",
    "sampled_figures",
]

# A piece of the output has about so many edges: 64 MiB of numbers.
_PIECE_EDGES = 1 << 21
_LOOKED_AT = 3  # batches of an epoch that a forecast samples


class SamplingParameters(Parameters):
    """How neighbourhoods are sampled.

    Example:
        >>> from mbflow.steps.graph_sample import SamplingParameters
        >>> SamplingParameters(batch_size=9, fanouts=[2]).method
        'uniform'
    """

    batch_size: int | None = Field(
        None, ge=1, le=2**31 - 1, description="Seeds of a batch; default: no batches, all at once."
    )
    fanouts: list[int] | None = Field(
        None,
        min_length=1,
        description="Neighbours drawn of each node, layer by layer from the seeds outward; -1 "
        "takes all.",
    )
    method: Literal["uniform", "weighted", "labor"] = Field(
        "uniform",
        description="How neighbours are drawn: with equal chances, by the weights of the edges, "
        "or by draws that nodes share, so that a batch has fewer nodes.",
    )
    replace: bool = Field(default=False, description="Draw neighbours with replacement.")

    @field_validator("fanouts")
    @classmethod
    def _counts(cls, fanouts: list[int] | None) -> list[int] | None:
        for fanout in fanouts or ():
            if not -1 <= fanout <= 2**31 - 1:
                raise ValueError(f"expected whole numbers from 0, or -1 for all, found {fanout}")
        return fanouts

    def batches(self, graph: Graph, seeds: NDArray[np.int64], *, seed: int) -> Batches:
        """The batches of these seeds."""
        from mbflow.graph import Batches

        assert self.batch_size is not None
        if self.method == "weighted":
            _check_weights(graph)
        return Batches(
            graph,
            seeds,
            self.batch_size,
            fanouts=self.fanouts,
            method=self.method,
            replace=self.replace,
            seed=seed,
        )


def _check_weights(graph: Graph) -> None:
    """Refuse a graph whose edges cannot be drawn by their weights."""
    if graph.weights is None:
        raise DataError(
            "`method: weighted`: the edges have no weights; name their column with `weight` of "
            "`graph.csc`"
        )
    wrong = np.flatnonzero(~(np.isfinite(graph.weights) & (graph.weights >= 0)))
    if len(wrong):
        edge = int(wrong[0])
        target = int(np.searchsorted(graph.offsets, np.uint64(edge), side="right")) - 1
        named = graph.source_ids if graph.source_nodes != graph.nodes else None
        sources = node_ids(graph) if named is None else named.values
        source = sources[int(graph.sources[edge])].as_py()
        row = "" if graph.rows is None else f", row {int(graph.rows[edge])} of the edges,"
        raise DataError(
            f"`method: weighted`: the edge from {source!r} to "
            f"{node_ids(graph)[target].as_py()!r}{row} has the weight {graph.weights[edge]:g}, and "
            f"{len(wrong) - 1} others are such; expected weights from 0 in the column that "
            "`weight` of `graph.csc` names"
        )


def check_method(
    parameters: SamplingParameters, inputs: tuple[Any, ...]
) -> tuple[tuple[str, ...], str] | None:
    """Refuse, before anything is read, to draw by weights that the graph will not have.

    Args:
        parameters: `with:` of the step.
        inputs: `with:` of each input, that of the graph first.

    Returns:
        The path of the parameter and what is wrong with it, or None.

    Example:
        >>> from mbflow.steps.graph_csc import CscParameters
        >>> from mbflow.steps.graph_sample import SampleParameters, check_method
        >>> check_method(SampleParameters(method="weighted"), (CscParameters(),))[0]
        ('method',)
    """
    graph = inputs[0]
    if parameters.method != "weighted" or not isinstance(graph, CscParameters):
        return None
    if graph.weight is not None or graph.duplicates == "count":
        return None
    return ("method",), (
        "the edges have no weights; name their column with `weight` of `graph.csc`"
    )


class SampleParameters(SamplingParameters):
    """`with:` of `graph.sample`.

    Example:
        >>> from mbflow.steps.graph_sample import SampleParameters
        >>> SampleParameters().fanouts
        [15, 10, 5]
    """

    batch_size: int = Field(1024, ge=1, le=2**31 - 1, description="Seeds of a batch.")
    fanouts: list[int] = Field(
        default=[15, 10, 5],
        min_length=1,
        description="Neighbours drawn of each node, layer by layer from the seeds outward; -1 "
        "takes all.",
    )
    epochs: int = Field(1, ge=1, le=100_000, description="Epochs, each in an order of its own.")
    id: str | None = Field(
        None,
        description="Where the nodes come in: the column of their ids; default: `id` where there "
        "is such a column, else a node's row.",
    )
    split: str | None = Field(
        None, description="Where the nodes come in: the column that says which are seeds."
    )
    seeds: str = Field("train", description="The value in `split` of the nodes that are seeds.")

    @model_validator(mode="after")
    def _split_for_seeds(self) -> Self:
        if "seeds" in self.model_fields_set and self.split is None:
            raise ValueError("`seeds` needs `split`, the column that it is a value of")
        return self


def can_sample(
    parameters: SampleParameters, inputs: tuple[Any, ...]
) -> tuple[tuple[str, ...], str] | None:
    """Refuse, before anything is read, a column of nodes that do not come in.

    Args:
        parameters: `with:` of the step.
        inputs: `with:` of each input, None for a source.

    Returns:
        The path of the parameter and what is wrong with it, or None.

    Example:
        >>> from mbflow.steps.graph_sample import SampleParameters, can_sample
        >>> can_sample(SampleParameters(split="split"), (None, None))
    """
    if len(inputs) > 1:
        return check_method(parameters, inputs)
    for name in ("split", "id"):
        if getattr(parameters, name) is not None:
            return (name,), f"`{name}` is a column of the nodes; write `from: [GRAPH, NODES]`"
    return check_method(parameters, inputs)


def inspect_sample(parameters: SampleParameters, sources: tuple[Source | None, ...]) -> None:
    """Refuse, before anything runs, columns of the nodes that are not there.

    Args:
        parameters: `with:` of the step.
        sources: One for each input, None for what a step makes.

    Raises:
        DataError: A column is missing, or that of the splits holds no names.

    Example:
        >>> from mbflow.steps.graph_sample import SampleParameters, inspect_sample
        >>> inspect_sample(SampleParameters(), (None,))
    """
    source = sources[1] if len(sources) > 1 else None
    if source is None:
        return
    for name in filter(None, (parameters.split, parameters.id)):
        if name not in source.schema.names:
            raise DataError(
                f"source `{source.name}`: no column `{name}`; it has: "
                f"{', '.join(source.schema.names[:20])}"
            )
    if parameters.split is not None:
        check_split(source, parameters.split)


def _seeds(source: Source | None, graph: Graph, parameters: SampleParameters) -> NDArray[np.int64]:
    if source is None or parameters.split is None:
        return np.arange(graph.nodes, dtype=np.int64)
    inspect_sample(parameters, (None, source))
    order = read_order(source, graph, NodeParameters(id=parameters.id))
    values = source.table([parameters.split])[0].cast(pa.large_string())
    chosen = pc.fill_null(pc.equal(values, parameters.seeds), fill_value=False)
    nodes = order[np.asarray(chosen, dtype=np.bool_)]
    if not len(nodes):
        found = sorted(name for name in pc.unique(values).to_pylist() if name is not None)
        raise DataError(
            f"source `{source.name}`: the column `{parameters.split}` (`split`) is nowhere "
            f"`{parameters.seeds}` (`seeds`); it holds: {', '.join(found[:20]) or 'nothing'}"
        )
    return np.sort(nodes)


def sampled_figures(batches: Batches) -> dict[str, int]:
    """What a batch comes to, as the mean of the first ones of an epoch.

    Example:
        >>> from mbflow.graph import Batches, Graph
        >>> from mbflow.steps.graph_sample import sampled_figures
        >>> sampled_figures(Batches(Graph.from_edges([1], [0]), [0], 1, fanouts=[2]))
        {'batches': 1, 'nodes': 2, 'edges': 1}
    """
    steps = batches.steps(0)
    samples = [batches.batch(0, step) for step in range(min(steps, _LOOKED_AT))]
    count = max(1, len(samples))
    return {
        "batches": steps,
        "nodes": round(sum(len(one.nodes) for one in samples) / count),
        "edges": round(sum(one.edges for one in samples) / count),
    }


def sample(context: Context, parameters: SampleParameters) -> None:
    """Run `graph.sample`.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["graph.sample"].gives
        'samples'
    """
    dataset = context.inputs[0]
    assert isinstance(dataset, Dataset)
    graph = open_graph(dataset)
    source = context.inputs[1] if len(context.inputs) > 1 else None
    assert source is None or isinstance(source, Source)
    seeds = _seeds(source, graph, parameters)
    batches = parameters.batches(graph, seeds, seed=context.seed)
    ids = node_ids(graph)
    steps, epochs = batches.steps(0), parameters.epochs
    figures = sampled_figures(batches)
    some = max(1, _PIECE_EDGES // max(1, figures["edges"] + parameters.batch_size))
    edges = 0
    for epoch in range(epochs):
        for first in range(0, steps, some):
            last = min(first + some, steps)

            def make(epoch: int = epoch, first: int = first, last: int = last) -> pa.Table:
                taken = []
                for step, one in enumerate(batches.epoch(epoch, start=first), first):
                    if step == last:
                        break
                    taken.append(_rows(one, graph, ids, epoch, step))
                    context.progress(epoch * steps + step, epochs * steps, "batches", "")
                return pa.concat_tables(taken)

            found, _ = piece(context.scratch / f"epoch-{epoch:06d}-{first:09d}", make)
            for batch in found.batches():
                edges += batch.num_rows - int(pc.equal(batch.column("layer"), -1).sum().as_py())
                context.write(batch)
            context.progress(epoch * steps + last, epochs * steps, "batches", f"epoch {epoch}")
    figures |= {"seeds": len(seeds), "epochs": epochs, "sampled_edges": edges}
    context.table(**_shown(figures))
    context.meta.update(figures=figures, plan=batches.fingerprint())


def _rows(one: Sample, graph: Graph, ids: pa.Array, epoch: int, step: int) -> pa.Table:
    """The seeds of a sample, as layer -1, and then its edges by layer."""
    seeds = one.nodes[one.seeds]
    sources = [np.zeros(len(seeds), np.int64)]
    targets = [np.asarray(seeds, np.int64)]
    edges = [np.zeros(len(seeds), np.int64)]
    layers = [np.full(len(seeds), -1, np.int16)]
    for depth, layer in enumerate(one.layers):
        sources.append(np.asarray(one.nodes[layer.sources], np.int64))
        targets.append(np.asarray(one.nodes[layer.target_of_edge()], np.int64))
        edges.append(np.asarray(layer.edges, np.int64))
        layers.append(np.full(len(layer.sources), depth, np.int16))
    depth_of = np.concatenate(layers)
    place = np.concatenate(edges)
    is_seed = depth_of < 0
    columns: dict[str, Any] = {
        "epoch": pa.array(np.full(len(depth_of), epoch, np.int32)),
        "batch": pa.array(np.full(len(depth_of), step, np.int64)),
        "layer": pa.array(depth_of),
        "source": ids.take(pa.array(np.concatenate(sources), mask=is_seed)),
        "target": ids.take(pa.array(np.concatenate(targets))),
        "edge": pa.array(place, mask=is_seed),
    }
    if graph.rows is not None:
        rows = np.zeros(len(place), np.int64)
        rows[~is_seed] = graph.rows[place[~is_seed]].astype(np.int64)
        columns["row"] = pa.array(rows, mask=is_seed)
    return pa.table(columns)


def forecast_sample(
    parameters: SampleParameters, inputs: tuple[Any, ...], seed: int, source: Source | None
) -> Forecast | None:
    """What sampling would come to, for `mbflow plan`.

    Args:
        parameters: `with:` of the step.
        inputs: The graph, where it is there, and the table of nodes if it comes in.
        seed: Key of all draws.
        source: Not used.

    Returns:
        Batches, and edges and nodes of a batch: of the first ones of an epoch.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["graph.sample"].forecast.__name__
        'forecast_sample'
    """
    del source
    if not isinstance(inputs[0], Dataset):
        return None
    graph = open_graph(inputs[0])
    nodes = inputs[1] if len(inputs) > 1 else None
    seeds = _seeds(nodes, graph, parameters)
    figures = sampled_figures(parameters.batches(graph, seeds, seed=seed))
    figures |= {"seeds": len(seeds), "epochs": parameters.epochs}
    batches = parameters.epochs * figures["batches"]
    figures["sampled_edges"] = batches * figures["edges"]
    rows = figures["sampled_edges"] + parameters.epochs * len(seeds)
    return Forecast(None, figures, (_shown(figures),), rows)


def _shown(figures: dict[str, int]) -> dict[str, Any]:
    names = {
        "epochs": "epochs",
        "batches": "batches of an epoch",
        "edges": "edges of a batch, mean of the first ones",
        "nodes": "nodes of a batch, mean of the first ones",
        "sampled_edges": "edges in all",
    }
    rows = [[text, f"{figures[name]:,}"] for name, text in names.items()]
    return {"title": "Batches", "columns": ["figure", "value"], "rows": rows}
