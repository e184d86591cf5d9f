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

import json
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np

from mbflow import _native
from mbflow._native import csc
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.graph.ids import NodeIds
from mbflow.graph.publish import Staging, identity, refusals, sync

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MANIFEST", "GraphWriter", "StoredGraph", "irreplaceable", "open_graph", "write_graph"]

MANIFEST = "graph.json"
"""The file that makes a folder a stored graph."""

_FORMAT = 1
_TYPES = {
    "offsets": ("uint64",),
    "sources": ("uint32",),
    "weights": ("float32",),
    "types": ("uint16",),
    "times": ("int64",),
    "rows": ("uint32", "uint64"),
}
_IDS = {"nodes": "ids.parquet", "source_nodes": "source_ids.parquet"}
_FILES = {MANIFEST, *(f"{name}.bin" for name in _TYPES), *_IDS.values()}
_MOST_NODES = (1 << 32) - 1
_TRIES = 1000
_AGAIN = "build the graph again, or copy it again from where it is whole"


def _sealed(content: dict[str, Any]) -> bytes:
    plain = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    sealed = {**content, "checksum": _native.xxh3_128(plain)}
    return (json.dumps(sealed, indent=1) + "\n").encode()


def _manifest(place: Path, path: Path) -> dict[str, Any]:
    """The content of the manifest at a place that was given as a path."""
    file = path / MANIFEST
    try:
        data = (place / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        what = "no stored graph" if place.is_dir() else "there is no such folder"
        raise DataError(f"{path}: {what} (no {MANIFEST} in it)") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    try:
        content = json.loads(data)
        checksum = content.pop("checksum")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(f"{file}: damaged: no manifest of a graph; {_AGAIN}") from None
    if _sealed(content) != data:
        raise DataError(f"{file}: damaged: it does not match its checksum; {_AGAIN}")
    if content.get("mbflow_graph") != _FORMAT:
        raise DataError(
            f"{file}: of format {content.get('mbflow_graph')}; this version reads {_FORMAT}"
        )
    _check_content(file, content)
    content["checksum"] = checksum
    return dict(content)


def _check_content(file: Path, content: dict[str, Any]) -> None:
    """Check that a manifest that is as it was written has what a graph has."""

    def expect(what: str, value: Any, expected: str, *, holds: bool) -> None:
        if not holds:
            shown = "nothing" if value is None else repr(value)[:40]
            raise DataError(f"{file}: `{what}`: expected {expected}, got {shown}; {_AGAIN}")

    def expect_count(what: str, value: Any, most: int) -> None:
        holds = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
        expect(what, value, f"a number from 0 to {most}", holds=holds)

    def expect_file(what: str, entry: Any, name: str) -> None:
        expect(what, entry, "a description of a file", holds=isinstance(entry, dict))
        expect(f"{what}.file", entry.get("file"), name, holds=entry.get("file") == name)
        expect_count(f"{what}.bytes", entry.get("bytes"), (1 << 63) - 1)
        found = entry.get("xxh3_128")
        expect(f"{what}.xxh3_128", found, "a checksum", holds=isinstance(found, str))

    for name in ("nodes", "source_nodes"):
        expect_count(name, content.get(name), _MOST_NODES)
    expect_count("edges", content.get("edges"), (1 << 63) - 1)
    for what, known in (("arrays", _TYPES), ("ids", _IDS)):
        entries = content.get(what)
        expect(what, entries, "an object", holds=isinstance(entries, dict))
        others = sorted(content[what].keys() - known.keys())
        expect(what, others, f"some of {', '.join(known)}", holds=not others)
    arrays = content["arrays"]
    for name in dict.fromkeys(("offsets", "sources", *arrays)):
        entry = arrays.get(name)
        expect_file(f"arrays.{name}", entry, f"{name}.bin")
        dtype = entry.get("dtype")
        expected = " or ".join(_TYPES[name])
        expect(f"arrays.{name}.dtype", dtype, expected, holds=dtype in _TYPES[name])
    for name, entry in content["ids"].items():
        expect_file(f"ids.{name}", entry, _IDS[name])
        expect_count(f"ids.{name}.nodes", entry.get("nodes"), _MOST_NODES)


def irreplaceable(path: Path) -> str | None:
    """Why a graph may not take the place of what stands at a path.

    Args:
        path: A path at which something stands.

    Returns:
        What is wrong and what to do, or None for a stored graph, even a damaged one, or an empty
        folder.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mbflow.graph.storage import irreplaceable
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "thesis.txt").write_text("of value")
        ...     irreplaceable(Path(folder))
        'is there already and is no stored graph; give another path'
    """
    no_graph = "is there already and is no stored graph; give another path"
    if not path.is_dir():
        return no_graph
    with os.scandir(path) as listed:
        entries = sorted(
            (entry.name, entry.is_dir(follow_symlinks=False) or entry.is_symlink())
            for entry in listed
        )
    if not entries:
        return None
    try:
        # What one user of the name writes into it another one does not.
        known = b'"mbflow_graph"' in (path / MANIFEST).read_bytes()
    except OSError:
        known = False
    if not known:
        return no_graph
    for name, is_other in entries:
        if is_other or name not in _FILES:
            return (
                f"{name!r} in it is no file of a stored graph, and would be lost; move it away, or "
                "give another path"
            )
    return None


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
            self._sized(entry)

    def _sized(self, entry: dict[str, Any]) -> Path:
        file = self.path / str(entry["file"])
        try:
            found = file.stat()
        except OSError as error:
            raise DataError(f"{file}: {error.strerror}; {_AGAIN}") from None
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{file}: is no file; {_AGAIN}")
        size = found.st_size
        if size != entry["bytes"]:
            raise DataError(f"{file}: {size} bytes, expected {entry['bytes']}; {_AGAIN}")
        return file

    def _map(self, name: str, entry: dict[str, Any]) -> NDArray[Any]:
        file = self._sized(entry)
        dtype = np.dtype(entry["dtype"]).newbyteorder("<")
        length = self.nodes + 1 if name == "offsets" else self.edges
        if entry["bytes"] != length * dtype.itemsize:
            raise DataError(
                f"{self.path / MANIFEST}: `arrays.{name}.bytes`: expected {length * dtype.itemsize}"
                f" for {length} values, got {entry['bytes']}; {_AGAIN}"
            )
        if length == 0:
            return np.empty(0, dtype)
        try:
            with file.open("rb") as opened:
                memory = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise DataError(f"{file}: cannot be mapped: {error.strerror}") from None
        return np.frombuffer(memory, dtype)

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
                file = self.path / entry["file"]
                found = _native.xxh3_128_file(str(file))
                if found != entry["xxh3_128"]:
                    raise DataError(
                        f"{file}: does not match its checksum (expected {entry['xxh3_128']}, found "
                        f"{found}); {_AGAIN}"
                    )
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
    for _ in range(_TRIES):
        folder = identity(Path(path))
        try:
            stored = StoredGraph(path)
            stored.check(verify=verify)
        except DataError:
            if identity(Path(path)) == folder:
                raise
            continue
        if identity(Path(path)) == folder:
            return stored
    raise DataError(f"{path}: others keep replacing it; wait for them")


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
                entry = self._entry(f"{name}.bin")
                arrays[name] = {"dtype": self._dtypes[name], **entry}
            for entry in self._ids.values():
                sync(self.folder / entry["file"])
                entry.update(self._entry(entry["file"]))
            offsets = np.dtype(np.uint64).itemsize
            content = {
                "mbflow_graph": _FORMAT,
                "nodes": arrays["offsets"]["bytes"] // offsets - 1,
                "source_nodes": source_nodes,
                "edges": arrays["sources"]["bytes"] // np.dtype(np.uint32).itemsize,
                "arrays": arrays,
                "ids": self._ids,
            }
            manifest = self.folder / MANIFEST
            manifest.write_bytes(_sealed(content))
            sync(manifest)
            stored = StoredGraph(self.folder)
            stored.check(verify=False)
            self._staging.publish()
        stored.path = self.path
        return stored

    def _entry(self, name: str) -> dict[str, Any]:
        file = self.folder / name
        checksum = _native.xxh3_128_file(str(file))
        return {"file": name, "bytes": file.stat().st_size, "xxh3_128": checksum}


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
