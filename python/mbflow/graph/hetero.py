"""Graphs of several types of nodes and edges: a set of relations."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mbflow.errors import DataError, InvalidArgumentError
from mbflow.graph.graph import Graph, opened, written
from mbflow.graph.publish import Staging, identity, refusals, sync
from mbflow.graph.sample import Relation
from mbflow.graph.storage import irreplaceable

__all__ = ["HeteroGraph"]

_MANIFEST = "hetero.json"
_FORMAT = 1
# Of this format, whether one writer or several have stored it before.
_FOLDER = re.compile(r"relation-[0-9]+(-[0-9a-f]{12})?")
_TRIES = 1000


class HeteroGraph:
    """A graph of several types of nodes and edges: one `Graph` for each relation.

    Args:
        relations: For each `(source type, name, target type)` its edges. The sources of a relation
            are nodes of its source type, as many as `Graph.source_nodes` says; its targets are
            nodes of its target type, as many as `Graph.nodes` says.

    Attributes:
        relations: As given, read-only, in the order given.
        types: The types of nodes, in the order in which the relations name them.
        nodes: For each type how many nodes it has.

    Raises:
        InvalidArgumentError: There is no relation, a relation is no triple of names or no `Graph`,
            or two relations disagree on the number of nodes of a type.

    Example:
        >>> from mbflow.graph import Graph, HeteroGraph
        >>> writes = Graph.from_edges([0, 1, 1], [0, 0, 1], nodes=2, source_nodes=2)
        >>> cites = Graph.from_edges([1], [0], nodes=2)
        >>> graph = HeteroGraph(
        ...     {("author", "writes", "paper"): writes, ("paper", "cites", "paper"): cites}
        ... )
        >>> dict(graph.nodes), graph.edges
        ({'author': 2, 'paper': 2}, 4)
    """

    def __init__(self, relations: Mapping[Relation, Graph]) -> None:
        if not relations:
            raise InvalidArgumentError("relations: expected at least one relation, got none")
        nodes: dict[str, int] = {}
        seen: dict[str, str] = {}
        for relation, graph in relations.items():
            name = _checked(relation, graph)
            source, _, target = relation
            for kind, count, side in (
                (source, graph.source_nodes, "source_nodes"),
                (target, graph.nodes, "nodes"),
            ):
                if nodes.setdefault(kind, count) != count:
                    raise InvalidArgumentError(
                        f"relation {name} has {count} nodes of type {kind!r} and {seen[kind]} has "
                        f"{nodes[kind]}; give the number of all of them as `{side}=` where the "
                        "graph is made"
                    )
                seen.setdefault(kind, name)
        self.relations: Mapping[Relation, Graph] = MappingProxyType(dict(relations))
        self.types: tuple[str, ...] = tuple(nodes)
        self.nodes: Mapping[str, int] = MappingProxyType(nodes)

    @property
    def edges(self) -> int:
        """The number of edges of all relations."""
        return sum(graph.edges for graph in self.relations.values())

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = False) -> HeteroGraph:
        """Open a stored graph of several types by memory map.

        Args:
            path: The folder that `save` wrote.
            verify: Read everything and compare it with the checksums.

        Returns:
            The graph; its arrays cannot be written to.

        Raises:
            DataError: There is no such graph, or a file is missing, truncated or damaged; the
                message names it.

        Example:
            >>> import tempfile
            >>> from mbflow.graph import Graph, HeteroGraph
            >>> cites = Graph.from_edges([1], [0])
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     _ = HeteroGraph({("paper", "cites", "paper"): cites}).save(folder + "/graph")
            ...     HeteroGraph.open(folder + "/graph", verify=True)
            HeteroGraph(1 types, 1 relations)
        """
        for _ in range(_TRIES):
            found = identity(Path(path))
            place = Path(os.path.realpath(path))
            try:
                graphs = {
                    relation: Graph.open(place / name, verify=verify)
                    for relation, name in _listed(place, Path(path))
                }
            except DataError:
                if identity(Path(path)) == found:
                    raise
                continue
            if identity(Path(path)) == found:
                return cls(graphs)
        raise DataError(f"{path}: others keep replacing it; wait for them")

    def save(self, path: str | os.PathLike[str]) -> HeteroGraph:
        """Store the graph in a folder: a stored `Graph` for each relation and a list of them.

        Whole or not at all; a graph of several types that is there is replaced in one step. Others
        may read that one meanwhile, or store theirs: the last one stays.

        Args:
            path: The folder, or a link to one.

        Returns:
            The stored graph, opened.

        Raises:
            InvalidArgumentError: No such graph stands at `path`, or other files beside it.
            ResourceError: The folder cannot be written.

        Example:
            >>> import tempfile
            >>> from mbflow.graph import Graph, HeteroGraph
            >>> cites = Graph.from_edges([1], [0])
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     graph = HeteroGraph({("paper", "cites", "paper"): cites})
            ...     dict(graph.save(folder + "/graph").nodes)
            {'paper': 2}
        """
        names = [f"relation-{number}" for number in range(len(self.relations))]
        entries = [
            {"relation": list(relation), "folder": name}
            for relation, name in zip(self.relations, names, strict=True)
        ]
        with Staging(path, reason=_irreplaceable) as staging:
            parts = [
                written(graph, staging.folder / name)
                for graph, name in zip(self.relations.values(), names, strict=True)
            ]
            with refusals(staging.path):
                manifest = staging.folder / _MANIFEST
                content = {"mbflow_hetero_graph": _FORMAT, "relations": entries}
                manifest.write_text(json.dumps(content, indent=1), encoding="utf-8")
                sync(manifest)
            staging.publish()
        for part, name in zip(parts, names, strict=True):
            part.path = staging.path / name
        return HeteroGraph(dict(zip(self.relations, map(opened, parts), strict=True)))

    def __repr__(self) -> str:
        return f"HeteroGraph({len(self.types)} types, {len(self.relations)} relations)"

    def __getstate__(self) -> dict[Relation, Graph]:
        return dict(self.relations)

    def __setstate__(self, relations: dict[Relation, Graph]) -> None:
        # What was checked once may be pickled, and mapping proxies may not.
        HeteroGraph.__init__(self, relations)


def _checked(relation: Relation, graph: Graph) -> str:
    if (
        not isinstance(relation, tuple)
        or len(relation) != 3
        or not all(isinstance(part, str) and part for part in relation)
    ):
        raise InvalidArgumentError(
            f"relation {relation!r}: expected a triple (source type, name, target type) of strings"
        )
    if not isinstance(graph, Graph):
        raise InvalidArgumentError(
            f"relation {relation!r}: expected a mbflow.graph.Graph, got {type(graph).__name__}"
        )
    return "-".join(relation)


def _listed(place: Path, path: Path) -> list[tuple[Relation, str]]:
    """The relations of a stored graph and their folders."""
    file = path / _MANIFEST
    again = "give the folder that HeteroGraph.save wrote, or store it again"
    try:
        content = json.loads((place / _MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{file}: no stored graph of several types can be read there ({error}); {again}"
        ) from None
    if not isinstance(content, dict) or "mbflow_hetero_graph" not in content:
        raise DataError(f"{file}: no list of the relations of a graph; {again}")
    if content["mbflow_hetero_graph"] != _FORMAT:
        raise DataError(
            f"{file}: of format {content['mbflow_hetero_graph']}; this version reads {_FORMAT}"
        )
    entries = content.get("relations")
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{file}: `relations`: expected a list of relations; {again}")
    listed: dict[Relation, str] = {}
    for number, entry in enumerate(entries):
        relation, folder = _entry(entry)
        if relation is None or folder is None or relation in listed or folder in listed.values():
            raise DataError(
                f"{file}: `relations[{number}]`: expected the three names of a relation and its "
                f"folder, and each once, got {json.dumps(entry)[:80]}; {again}"
            )
        listed[relation] = folder
    return list(listed.items())


def _entry(entry: Any) -> tuple[Relation | None, str | None]:
    if not isinstance(entry, dict):
        return None, None
    names, folder = entry.get("relation"), entry.get("folder")
    if not isinstance(folder, str) or not _FOLDER.fullmatch(folder):
        folder = None
    if not isinstance(names, list) or len(names) != 3:
        return None, folder
    if not all(isinstance(name, str) and name for name in names):
        return None, folder
    return (names[0], names[1], names[2]), folder


def _irreplaceable(path: Path) -> str | None:
    """Why a graph of several types may not take the place of what stands at a path."""
    no_graph = "is there already and is no stored graph of several types; give another path"
    if not path.is_dir():
        return no_graph
    entries = sorted(path.iterdir())
    if not entries:
        return None
    try:
        known = b'"mbflow_hetero_graph"' in (path / _MANIFEST).read_bytes()
    except OSError:
        known = False
    if not known:
        return no_graph
    for entry in entries:
        own = entry.name == _MANIFEST or (
            _FOLDER.fullmatch(entry.name)
            and not entry.is_symlink()
            # Gone, where another writer replaces it: what it finds in its place is checked by it.
            and (not entry.exists() or irreplaceable(entry) is None)
        )
        if not own:
            return (
                f"{entry.name!r} in it is no part of a stored graph, and would be lost; move it "
                "away, or give another path"
            )
    return None
