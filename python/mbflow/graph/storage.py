"""Stored graphs: a folder with a file for each array and a manifest, opened by memory map.

The files hold the values alone, little-endian, so that each array starts at a page of memory. The
manifest, `graph.json`, holds their types, sizes and XXH3-128, and a checksum of its own. A folder
appears under its name when all of it is on disk, or not at all.

Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> from mbflow.graph import Graph
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     graph = Graph.from_edges([1, 2], [0, 0]).save(folder + "/graph")
    ...     sorted(path.name for path in Path(folder, "graph").iterdir())
    ['graph.json', 'offsets.bin', 'sources.bin']
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np

from mbflow._native import csc
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.graph.ids import NodeIds
from mbflow.graph.publish import Staging, refusals, sync
from mbflow.graph.sealed import Expect, Folders, check_file, described, map_file, open_whole, sized

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MANIFEST", "GraphWriter", "StoredGraph", "irreplaceable", "open_graph", "write_graph"]

MANIFEST = "graph.json"
"""The file that makes a folder a stored graph."""

_TYPES = {
    "offsets": ("uint64",),
    "sources": ("uint32",),
    "weights": ("float32",),
    "types": ("uint16",),
    "times": ("int64",),
    "rows": ("uint32", "uint64"),
}
_IDS = {"nodes": "ids.parquet", "source_nodes": "source_ids.parquet"}
_MOST_NODES = (1 << 32) - 1
_AGAIN = "build the graph again, or copy it again from where it is whole"
_GRAPHS = Folders(
    "graph",
    MANIFEST,
    1,
    frozenset({MANIFEST, *(f"{name}.bin" for name in _TYPES), *_IDS.values()}),
    _AGAIN,
)
irreplaceable = _GRAPHS.irreplaceable
"""Why a graph may not take the place of what stands at a path; None where it may."""


def _manifest(place: Path, path: Path) -> dict[str, Any]:
    """The content of the manifest at a place that was given as a path."""
    content = _GRAPHS.read(place, path)
    expect = Expect(path / MANIFEST, _AGAIN)
    for name in ("nodes", "source_nodes"):
        expect.count(name, content.get(name), _MOST_NODES)
    expect.count("edges", content.get("edges"), (1 << 63) - 1)
    for what, known in (("arrays", _TYPES), ("ids", _IDS)):
        entries = content.get(what)
        expect.that(what, entries, "an object", holds=isinstance(entries, dict))
        others = sorted(content[what].keys() - known.keys())
        expect.that(what, others, f"some of {', '.join(known)}", holds=not others)
    arrays = content["arrays"]
    for name in dict.fromkeys(("offsets", "sources", *arrays)):
        entry = arrays.get(name)
        expect.file(f"arrays.{name}", entry, f"{name}.bin")
        dtype = entry.get("dtype")
        expected = " or ".join(_TYPES[name])
        expect.that(f"arrays.{name}.dtype", dtype, expected, holds=dtype in _TYPES[name])
    for name, entry in content["ids"].items():
        expect.file(f"ids.{name}", entry, _IDS[name])
        expect.count(f"ids.{name}.nodes", entry.get("nodes"), _MOST_NODES)
    return content


class StoredGraph:
    """A stored graph that is being opened: its manifest is read, its files are mapped.

    Args:
        path: The folder.

    Attributes:
        path: The folder, without links, so that it is the same from any working directory.

    Raises:
        DataError: There is no graph, its manifest is damaged, or a file is missing or has another
            size; the message names the file.

    Example:
        >>> from mbflow.graph.storage import StoredGraph
        >>> StoredGraph("no-such-folder")
        Traceback (most recent call last):
        ...
        mbflow.errors.DataError: no-such-folder: there is no such folder (no graph.json in it)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.realpath(path))
        manifest = _manifest(self.path, Path(path))
        self.checksum: str = manifest["checksum"]
        self.nodes: int = manifest["nodes"]
        self.source_nodes: int = manifest["source_nodes"]
        self.edges: int = manifest["edges"]
        self._files: dict[str, dict[str, Any]] = manifest["arrays"]
        self._ids: dict[str, dict[str, Any]] = manifest["ids"]
        self.arrays = {name: self._map(name, entry) for name, entry in self._files.items()}
        for entry in self._ids.values():
            sized(self.path, entry, _AGAIN)

    def _map(self, name: str, entry: dict[str, Any]) -> NDArray[Any]:
        file = sized(self.path, entry, _AGAIN)
        dtype = np.dtype(entry["dtype"]).newbyteorder("<")
        length = self.nodes + 1 if name == "offsets" else self.edges
        if entry["bytes"] != length * dtype.itemsize:
            raise DataError(
                f"{self.path / MANIFEST}: `arrays.{name}.bytes`: expected {length * dtype.itemsize}"
                f" for {length} values, got {entry['bytes']}; {_AGAIN}"
            )
        if length == 0:
            return np.empty(0, dtype)
        return map_file(file, dtype)

    def ids(self, name: str) -> NodeIds | None:
        """What the nodes (`"nodes"`) or those that edges come from (`"source_nodes"`) are called.

        They are read when they are first used.
        """
        entry = self._ids.get(name)
        return None if entry is None else NodeIds.stored(self.path / entry["file"], entry["nodes"])

    def check(self, *, verify: bool) -> None:
        """Check what a reader relies on: the offsets; with `verify` also every byte and source.

        Raises:
            DataError: Something is wrong; the message names the file.
        """
        if verify:
            for entry in (*self._files.values(), *self._ids.values()):
                check_file(self.path, entry, _AGAIN)
        with self._naming("offsets"):
            csc.check_offsets(self.arrays["offsets"], self.edges)
        if verify:
            with self._naming("sources"):
                csc.check_sources(self.arrays["sources"], self.source_nodes)

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        try:
            yield
        except InvalidArgumentError as error:
            file = self.path / self._files[name]["file"]
            raise DataError(f"{file}: damaged: {error}; {_AGAIN}") from None


def open_graph(path: str | os.PathLike[str], *, verify: bool) -> StoredGraph:
    """Open a stored graph, and check it, while others may replace it: one graph or the other.

    Args:
        path: The folder.
        verify: Read everything and compare it with the checksums.

    Raises:
        DataError: There is no graph, or it is damaged; the message names the file.

    Example:
        >>> import tempfile
        >>> from mbflow.graph import Graph
        >>> from mbflow.graph.storage import open_graph
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Graph.from_edges([1, 2], [0, 0]).save(folder)
        ...     open_graph(folder, verify=True).edges
        2
    """

    def opened() -> StoredGraph:
        stored = StoredGraph(path)
        stored.check(verify=verify)
        return stored

    return open_whole(path, opened)


class GraphWriter:
    """Writes a graph array by array, and makes it appear under its name in the end.

    To be used in a `with` block: when that ends without `finish`, nothing of it stays.

    Args:
        path: The folder. A graph that is there is replaced; anything else is refused.

    Raises:
        InvalidArgumentError: Something else stands at `path`.
        ResourceError: The folder cannot be made or written to.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from mbflow.graph import Graph
        >>> from mbflow.graph.storage import GraphWriter
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with GraphWriter(folder + "/graph") as writer:
        ...         writer.append("offsets", np.array([0, 2, 2], np.uint64))
        ...         writer.append("sources", np.array([0], np.uint32))
        ...         writer.append("sources", np.array([1], np.uint32))
        ...         _ = writer.finish(source_nodes=2)
        ...     Graph.open(folder + "/graph").neighbours(0).tolist()
        [0, 1]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._staging = Staging(path, reason=irreplaceable)
        self.path = self._staging.path
        self.folder = self._staging.folder
        self._open: dict[str, BinaryIO] = {}
        self._dtypes: dict[str, str] = {}
        self._ids: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        self._staging.__enter__()
        self.folder = self._staging.folder
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for file in self._open.values():
            file.close()
        self._staging.__exit__(kind, error, traceback)

    def append(self, name: str, values: NDArray[Any]) -> None:
        """Write the next values of an array; all calls for it take one type."""
        dtype = values.dtype.name
        if dtype not in _TYPES[name] or self._dtypes.setdefault(name, dtype) != dtype:
            raise InvalidArgumentError(f"{name}: expected {' or '.join(_TYPES[name])}, got {dtype}")
        with refusals(self.path):
            if name not in self._open:
                self._open[name] = (self.folder / f"{name}.bin").open("wb")
            little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
            self._open[name].write(little.data)

    def write_ids(self, name: str, ids: NodeIds) -> None:
        """Write what the nodes (`"nodes"` or `"source_nodes"`) are called."""
        file = _IDS[name]
        with refusals(self.path):
            ids.write(self.folder / file)
        self._ids[name] = {"file": file, "nodes": len(ids)}

    def finish(self, *, source_nodes: int) -> StoredGraph:
        """Flush everything to disk, write the manifest, and put the folder in its place.

        Returns:
            The graph that was written, also if another one has taken its place by now.
        """
        arrays: dict[str, Any] = {}
        with refusals(self.path):
            for name, file in self._open.items():
                file.flush()
                os.fsync(file.fileno())
                file.close()
                entry = described(self.folder / f"{name}.bin")
                arrays[name] = {"dtype": self._dtypes[name], **entry}
            for entry in self._ids.values():
                sync(self.folder / entry["file"])
                entry.update(described(self.folder / entry["file"]))
            offsets = np.dtype(np.uint64).itemsize
            content = {
                _GRAPHS.mark: _GRAPHS.version,
                "nodes": arrays["offsets"]["bytes"] // offsets - 1,
                "source_nodes": source_nodes,
                "edges": arrays["sources"]["bytes"] // np.dtype(np.uint32).itemsize,
                "arrays": arrays,
                "ids": self._ids,
            }
            manifest = self.folder / MANIFEST
            manifest.write_bytes(_GRAPHS.seal(content))
            sync(manifest)
            stored = StoredGraph(self.folder)
            stored.check(verify=False)
            self._staging.publish()
        stored.path = self.path
        return stored


def write_graph(
    path: str | os.PathLike[str],
    arrays: dict[str, NDArray[Any] | None],
    *,
    source_nodes: int,
    ids: dict[str, NodeIds | None],
) -> StoredGraph:
    """Store a graph that is in memory.

    Args:
        path: The folder.
        arrays: The arrays of a graph by name; those that are None are left out.
        source_nodes: How many nodes edges come from.
        ids: What the `"nodes"` and `"source_nodes"` are called, or None.

    Returns:
        The graph that was written, also if another one has taken its place by now.

    Raises:
        InvalidArgumentError: Something that is no graph stands at `path`.
        ResourceError: The folder cannot be written.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from mbflow.graph.storage import write_graph
        >>> arrays = {"offsets": np.array([0, 1], np.uint64), "sources": np.array([0], np.uint32)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_graph(folder + "/graph", arrays, source_nodes=1, ids={}).edges
        1
    """
    with GraphWriter(path) as writer:
        for name, values in arrays.items():
            if values is not None:
                writer.append(name, values)
        for name, known in ids.items():
            if known is not None:
                writer.write_ids(name, known)
        return writer.finish(source_nodes=source_nodes)
