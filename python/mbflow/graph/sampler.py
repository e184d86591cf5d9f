"""Sampled neighbourhoods: for each target of a layer some of its incoming edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mbflow import _native
from mbflow.batches import check_whole
from mbflow.errors import InvalidArgumentError
from mbflow.graph.columns import seed_times
from mbflow.graph.graph import Graph
from mbflow.graph.hetero import HeteroGraph
from mbflow.graph.sample import HeteroSample, Layer, Relation, Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Method", "NeighbourSampler"]

Method = Literal["uniform", "weighted", "labor", "latest", "budget"]
"""How the edges of a target are chosen, see `NeighbourSampler`."""

_METHODS = ("uniform", "weighted", "labor", "latest", "budget")
_MOST = 2**63 - 1


class NeighbourSampler:
    """Samples neighbourhoods of seeds: layer by layer some of the incoming edges of each target.

    Every draw is keyed by (seed, epoch, batch, layer, node), so the same call gives the same sample
    in any process, on any number of threads, whatever was sampled before.

    Methods:
        "uniform": each set of edges equally likely (Floyd's algorithm, draws without bias).
        "weighted": one edge after the other in proportion to its weight among those left, as in
            Efraimidis and Spirakis' exponential races; edges of weight 0 are never taken, not by a
            fan-out of -1 either.
        "labor": LABOR-0 with exactly `fanout` edges a target: those whose sources drew least, where
            all targets of a layer see the same draws, so that they share sources and the sample has
            fewer nodes.
        "latest": the latest edges before the seed's time, latest first.
        "budget": fan-outs are the number of distinct sources of a whole layer, whatever the number
            of targets; sources are drawn by priority, by their share in the means of the targets,
            and the layers have `weights`.

    Args:
        graph: The graph, or a set of relations.
        fanouts: For each layer from the seeds outward, how many edges of a target are taken; -1
            takes all, 0 none. For a `HeteroGraph` either one list that goes for all relations, or a
            mapping of relations to lists; relations left out are not followed.
        method: How edges are chosen.
        replace: Whether an edge may be drawn again ("uniform" and "weighted"); each target that has
            edges then gets `fanout` of them.
        seed: Seed of all draws, 0 to 2^64 - 1.
        expand: `"all"`: each layer goes on from all nodes found so far, as message passing needs
            that updates every node in each layer; `"new"`: from those that the last layer found, as
            in PyG.
        temporal: Whether only edges before the time of the seed are taken, from the seed's whole
            tree; `sample` then needs `times`, and the graph, or one of its relations, has times.
            Implies `disjoint`.
        disjoint: Whether the trees of the seeds are kept apart: a node stands once for each tree.
        across_layers: Whether the draws of "labor" are shared by the layers, too.
        dtype: Type of `nodes` and `sources`: `"int64"`, or `"uint32"` for half the memory. With
            `"uint32"` the layers' `edges` are also of that type where the graph has few enough.
        page_nodes: How many rows of the feature table lie on a page of memory: the new nodes of
            each layer are then grouped by page, so that a gather reads page after page.

    Attributes:
        graph: As given.
        fanouts: As given, a tuple for each relation that is followed; for a `Graph` one tuple.
        layers: The number of layers.

    Raises:
        InvalidArgumentError: An argument is out of range, weights or times are missing or wrong, or
            two options exclude each other.

    Example:
        >>> from mbflow.graph import Graph, NeighbourSampler
        >>> graph = Graph.from_edges([1, 2, 3, 4], [0, 0, 0, 1])
        >>> sampler = NeighbourSampler(graph, fanouts=[2, 1], seed=7)
        >>> sample = sampler.sample([0, 4], epoch=0, batch=0)
        >>> sample.nodes[:2].tolist(), sample.layers[0].offsets.tolist()
        ([0, 4], [0, 2, 2])

    Source: GraphSAGE (Hamilton, Ying, Leskovec, NeurIPS 2017); LABOR (Balin, Catalyurek, NeurIPS
    2023); layer budgets after LADIES (Zou et al., NeurIPS 2019) with priority sampling (Duffield,
    Lund, Thorup, JACM 2007).
    """

    def __init__(
        self,
        graph: Graph | HeteroGraph,
        fanouts: Sequence[int] | Mapping[Relation, Sequence[int]] = (15, 10, 5),
        *,
        method: Method = "uniform",
        replace: bool = False,
        seed: int = 0,
        expand: Literal["all", "new"] = "all",
        temporal: bool = False,
        disjoint: bool = False,
        across_layers: bool = False,
        dtype: Literal["int64", "uint32"] = "int64",
        page_nodes: int | None = None,
    ) -> None:
        if not isinstance(graph, Graph | HeteroGraph):
            raise InvalidArgumentError(
                f"graph: expected a mbflow.graph.Graph or HeteroGraph, got {type(graph).__name__}"
            )
        temporal = temporal or method == "latest"
        self.graph = graph
        self._options = _Options(
            method=method,
            replace=replace,
            seed=seed,
            expand=expand,
            temporal=temporal,
            disjoint=disjoint or temporal,
            across_layers=across_layers,
            dtype=_type_name(dtype),
            page_nodes=page_nodes,
        )
        self.fanouts = _fanouts(graph, fanouts)
        self._make()

    def _make(self) -> None:
        options = self._options
        graph = self.graph
        if isinstance(graph, Graph):
            self._types: tuple[str, ...] = ("",)
            counts = [graph.nodes]
            if graph.source_nodes != graph.nodes:
                raise InvalidArgumentError(
                    f"graph: its edges lead from {graph.source_nodes} nodes to {graph.nodes} "
                    "others; sample it as a relation of a HeteroGraph"
                )
            followed = [(("", "", ""), graph, self.fanouts)]
        else:
            self._types = graph.types
            counts = [graph.nodes[kind] for kind in graph.types]
            followed = [
                (relation, graph.relations[relation], fanouts)
                for relation, fanouts in self.fanouts.items()
            ]
        if options.temporal and all(edges.times is None for _, edges, _ in followed):
            raise InvalidArgumentError(
                "temporal: the graph has no times of edges; build it with `times=`"
            )
        self._relations = [relation for relation, _, _ in followed]
        self.layers = len(followed[0][2])
        place = {kind: at for at, kind in enumerate(self._types)}
        self._native = _native.sampling.Sampler(
            counts,
            [
                (
                    edges.offsets,
                    edges.sources,
                    (place[relation[0]], place[relation[2]]),
                    list(fanouts),
                    self._weights(relation, edges),
                    self._times(edges),
                )
                for relation, edges, fanouts in followed
            ],
            method=options.method,
            seed=options.seed,
            replace=options.replace,
            across_layers=options.across_layers,
            expand_new=options.expand == "new",
            trees=options.disjoint,
            page=options.page_nodes,
            narrow=options.dtype == "uint32",
        )

    def _weights(
        self, relation: Relation, graph: Graph
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]] | None:
        if self._options.method != "weighted":
            return None
        if graph.weights is None:
            of = "" if relation == ("", "", "") else f" of relation {relation}"
            raise InvalidArgumentError(
                f"method 'weighted': the edges{of} have no weights; build the graph with `weights=`"
            )
        try:
            sums = _native.sampling.weight_sums(graph.offsets, graph.weights)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(
                f"method 'weighted': {error} (edges are counted as in `graph.weights`, not as in "
                "the edge list; `keep_rows=True` tells the row of each in `graph.rows`)"
            ) from None
        return graph.weights, sums

    def _times(self, graph: Graph) -> tuple[NDArray[np.int64], NDArray[np.uint32] | None] | None:
        if not self._options.temporal or graph.times is None:
            return None
        return graph.times, _native.sampling.time_order(graph.offsets, graph.times)

    def __getstate__(self) -> dict[str, Any]:
        return {"graph": self.graph, "options": self._options, "fanouts": self.fanouts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.graph, self._options, self.fanouts = state["graph"], state["options"], state["fanouts"]
        self._make()

    def __repr__(self) -> str:
        return f"NeighbourSampler({self.graph!r}, {self.fanouts!r}, {self._options.method!r})"

    @property
    def is_temporal(self) -> bool:
        """Whether `sample` needs the times of the seeds."""
        return self._options.temporal

    @property
    def is_disjoint(self) -> bool:
        """Whether the trees of the seeds are kept apart."""
        return self._options.disjoint

    def fingerprint(self) -> dict[str, int | str]:
        """What a sample depends on besides the edges themselves, as a resume compares it.

        Returns:
            Plain values by name.

        Example:
            >>> from mbflow.graph import Graph, NeighbourSampler
            >>> graph = Graph.from_edges([1], [0])
            >>> NeighbourSampler(graph, fanouts=[2]).fingerprint()["method"]
            'uniform'
        """
        options = self._options
        nodes = self.graph.nodes
        return {
            "nodes": nodes if isinstance(nodes, int) else str(dict(nodes)),
            "edges": self.graph.edges,
            "fanouts": str(self.fanouts),
            **{name: getattr(options, name) for name in _KEYED},
        }

    def sample(self, seeds: Any, *, epoch: int = 0, batch: int = 0, times: Any = None) -> Any:
        """The sampled neighbourhood of some seeds.

        Args:
            seeds: Ids of nodes, integers of shape (seeds,), repeats allowed; for a `HeteroGraph` a
                mapping of types to such ids.
            epoch: Keys the draws, from 0.
            batch: Keys the draws, from 0.
            times: With `temporal`, the time of each seed, of shape (seeds,), or a mapping of types
                to such: integers in the unit of `Graph.times`, or dates and times of any kind,
                which become microseconds since 1970-01-01 UTC as those of edges do. Edges at that
                very time are not taken, nor later ones.

        Returns:
            A `Sample`, or a `HeteroSample` of a `HeteroGraph`.

        Raises:
            InvalidArgumentError: A seed is no node (the first is named), seeds are no integers,
                times are missing or not as many, or the graph is damaged.

        Example:
            >>> from mbflow.graph import Graph, NeighbourSampler
            >>> graph = Graph.from_edges([1, 2, 3], [0, 0, 0], times=[10, 20, 30])
            >>> sampler = NeighbourSampler(graph, fanouts=[1], method="latest")
            >>> sampler.sample([0, 0], times=[15, 30]).nodes.tolist()
            [0, 0, 1, 2]
        """
        check_whole("epoch", epoch, least=0, most=_MOST)
        check_whole("batch", batch, least=0, most=_MOST)
        is_hetero = isinstance(self.graph, HeteroGraph)
        ids = self._by_type("seeds", seeds) if is_hetero else {"": _integers("seeds", seeds)}
        arrays = [ids.get(kind, np.empty(0, np.int64)) for kind in self._types]
        moments = self._moments(times, ids)
        nodes, trees, hops, sizes, places = self._native.sample(
            arrays, moments, epoch=int(epoch), batch=int(batch)
        )
        layers = [
            {
                relation: Layer(offsets, sources, edges, first, weights)
                for relation, (first, offsets, sources, edges, weights) in (
                    (relation, hop)
                    for relation, hop in zip(self._relations, hop_list, strict=True)
                    if hop is not None
                )
            }
            for hop_list in hops
        ]
        if is_hetero:
            kinds = self._types
            return HeteroSample(
                nodes=dict(zip(kinds, nodes, strict=True)),
                layers=tuple(layers),
                sizes={kind: tuple(size) for kind, size in zip(kinds, sizes, strict=True)},
                seeds={kind: places[at] for at, kind in enumerate(kinds) if kind in ids},
                trees=None if trees is None else dict(zip(kinds, trees, strict=True)),
            )
        return Sample(
            nodes=nodes[0],
            layers=tuple(
                layer.get(self._relations[0]) or self._empty(sizes[0], at)
                for at, layer in enumerate(layers)
            ),
            sizes=tuple(sizes[0]),
            seeds=places[0],
            trees=None if trees is None else trees[0],
        )

    def _empty(self, sizes: list[int], layer: int) -> Layer:
        """A layer of a fan-out of 0, or without targets."""
        first = sizes[layer - 1] if self._options.expand == "new" and layer > 0 else 0
        none = np.empty(0, self._options.dtype)
        return Layer(np.zeros(sizes[layer] - first + 1, np.int64), none, none, first)

    def _by_type(self, name: str, given: Any) -> dict[str, NDArray[np.int64]]:
        if not isinstance(given, Mapping):
            raise InvalidArgumentError(
                f"{name}: expected a mapping of node types to ids, got {type(given).__name__}"
            )
        unknown = [kind for kind in given if kind not in self._types]
        if unknown:
            raise InvalidArgumentError(
                f"{name}: there is no node type {unknown[0]!r}; known: {', '.join(self._types)}"
            )
        return {kind: _integers(f"{name} of {kind!r}", ids) for kind, ids in given.items()}

    def _moments(
        self, times: Any, ids: Mapping[str, NDArray[np.int64]]
    ) -> NDArray[np.int64] | None:
        if not self._options.temporal:
            if times is not None:
                raise InvalidArgumentError(
                    "times are given to a sampler that is not temporal; make it with temporal=True"
                )
            return None
        if times is None:
            raise InvalidArgumentError("times: a temporal sampler needs the time of each seed")
        if isinstance(self.graph, Graph):
            given = {"": seed_times(times)}
        else:
            if isinstance(times, Mapping):
                times = {
                    kind: seed_times(of, name=f"times of {kind!r}") for kind, of in times.items()
                }
            given = self._by_type("times", times)
        for kind, seeds in ids.items():
            if len(given.get(kind, ())) != len(seeds):
                of = f" of type {kind!r}" if kind else ""
                raise InvalidArgumentError(
                    f"times: expected {len(seeds)}, one for each seed{of}, got "
                    f"{len(given.get(kind, ()))}"
                )
        if len(given) > len(ids):
            extra = next(kind for kind in given if kind not in ids)
            raise InvalidArgumentError(f"times: there are times of type {extra!r}, but no seeds")
        none = np.empty(0, np.int64)
        return np.concatenate([none, *(given[kind] for kind in self._types if kind in ids)])


@dataclass(frozen=True)
class _Options:
    """What goes for all relations; checked when it is made."""

    method: str
    replace: bool
    seed: int
    expand: str
    temporal: bool
    disjoint: bool
    across_layers: bool
    dtype: str
    page_nodes: int | None

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            known = ", ".join(repr(name) for name in _METHODS)
            raise InvalidArgumentError(f"method is {self.method!r}; expected one of {known}")
        for name in ("replace", "temporal", "disjoint", "across_layers"):
            if not isinstance(getattr(self, name), bool):
                value = getattr(self, name)
                raise InvalidArgumentError(f"{name} is {value!r}; expected True or False")
        check_whole("seed", self.seed, least=0, most=2**64 - 1)
        object.__setattr__(self, "seed", int(self.seed))
        if self.expand not in ("all", "new"):
            raise InvalidArgumentError(f"expand is {self.expand!r}; expected 'all' or 'new'")
        if self.dtype not in ("int64", "uint32"):
            raise InvalidArgumentError(f"dtype is {self.dtype!r}; expected 'int64' or 'uint32'")
        if self.page_nodes is not None:
            check_whole("page_nodes", self.page_nodes, least=1, most=2**32 - 1)
        if self.replace and self.method not in ("uniform", "weighted"):
            raise InvalidArgumentError(f"replace=True does not go with method {self.method!r}")
        if self.across_layers and self.method != "labor":
            raise InvalidArgumentError("across_layers=True goes with method 'labor' only")
        if self.method == "budget" and self.disjoint:
            raise InvalidArgumentError("method 'budget' does not keep trees apart, nor times")


_KEYED = (
    "method",
    "replace",
    "seed",
    "expand",
    "temporal",
    "disjoint",
    "across_layers",
    "page_nodes",
)


def _fanouts(graph: Graph | HeteroGraph, fanouts: Any) -> Any:
    if isinstance(graph, Graph):
        if isinstance(fanouts, Mapping):
            raise InvalidArgumentError(
                "fanouts: expected a list, as the graph has one relation; got a mapping"
            )
        return _fanout_list("fanouts", fanouts)
    if not isinstance(fanouts, Mapping):
        same = _fanout_list("fanouts", fanouts)
        return dict.fromkeys(graph.relations, same)
    unknown = [relation for relation in fanouts if relation not in graph.relations]
    if unknown:
        known = ", ".join(map(str, graph.relations))
        raise InvalidArgumentError(f"fanouts: there is no relation {unknown[0]!r}; known: {known}")
    found = {
        relation: _fanout_list(f"fanouts of {relation}", fanouts[relation])
        for relation in graph.relations
        if relation in fanouts
    }
    lengths = {len(fanout) for fanout in found.values()}
    if len(lengths) != 1:
        raise InvalidArgumentError(
            "fanouts: expected as many layers for each relation, got "
            + (", ".join(map(str, sorted(lengths))) or "no relation")
        )
    return found


def _fanout_list(name: str, fanouts: Any) -> tuple[int, ...]:
    if isinstance(fanouts, str | bytes) or not hasattr(fanouts, "__iter__"):
        raise InvalidArgumentError(f"{name}: expected a list of whole numbers, got {fanouts!r}")
    found = list(fanouts)
    if not found:
        raise InvalidArgumentError(f"{name}: expected at least one layer, got none")
    for layer, fanout in enumerate(found):
        check_whole(f"{name}[{layer}]", fanout, least=-1, most=2**31 - 1)
    return tuple(int(fanout) for fanout in found)


def _type_name(dtype: Any) -> Any:
    try:
        return dtype if dtype is None else np.dtype(dtype).name
    except TypeError:
        return dtype


def _integers(name: str, given: Any) -> NDArray[np.int64]:
    if isinstance(given, np.ma.MaskedArray) and np.ma.getmaskarray(given).any():
        row = int(np.argmax(np.ma.getmaskarray(given)))
        raise InvalidArgumentError(f"{name}: entry {row} is masked; expected integers")
    try:
        array = np.asarray(given)
    except ValueError:
        raise InvalidArgumentError(f"{name}: expected one dimension, got lists of lists") from None
    if array.ndim != 1:
        raise InvalidArgumentError(f"{name}: expected one dimension, got shape {array.shape}")
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu":
        hint = "; give the indices where a mask is true" if array.dtype.kind == "b" else ""
        if array.dtype.kind in "OUT":
            hint = "; `graph.ids.encode(names)` gives the numbers of nodes by their names"
        raise InvalidArgumentError(f"{name}: expected integers, got {array.dtype}{hint}")
    if array.dtype == np.uint64 and bool((array > _MOST).any()):
        row = int(np.argmax(array > _MOST))
        raise InvalidArgumentError(f"{name}: entry {row} is {array[row]}, above 2^63 - 1")
    return np.ascontiguousarray(array, np.int64)
