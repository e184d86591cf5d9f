"""Folders of arrays with a manifest: what a stored graph and a stored table of features share.

A manifest is JSON with a checksum of its own. It names each file with its size and its XXH3-128, so
that a file that was cut off is found when the folder is opened, and one that was damaged when it is
verified.

Example:
    >>> from mbflow.graph.sealed import Folders
    >>> Folders("graph", "graph.json", 1, frozenset(), "build it again").mark
    'mbflow_graph'
"""

from __future__ import annotations

import json
import mmap
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mbflow import _native
from mbflow.errors import DataError
from mbflow.graph.publish import identity

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Expect", "Folders", "check_file", "described", "map_file", "open_whole", "sized"]

_TRIES = 1000
_Opened = TypeVar("_Opened")


@dataclass(frozen=True)
class Folders:
    """What makes a folder a stored thing of one kind.

    Attributes:
        kind: What it is, for messages.
        manifest: The name of its manifest.
        version: The version of the format that is read and written.
        files: The names of all files that may be in it.
        again: What to do where it is damaged.

    Example:
        >>> from mbflow.graph.sealed import Folders
        >>> Folders("graph", "graph.json", 1, frozenset(), "build it again").manifest
        'graph.json'
    """

    kind: str
    manifest: str
    version: int
    files: frozenset[str]
    again: str

    @property
    def mark(self) -> str:
        """The key of the version in the manifest."""
        return f"mbflow_{self.kind}"

    def seal(self, content: dict[str, Any]) -> bytes:
        """The manifest's bytes, with the checksum of the content.

        Example:
            >>> from mbflow.graph.sealed import Folders
            >>> b'"checksum"' in Folders("graph", "graph.json", 1, frozenset(), "").seal({"a": 1})
            True
        """
        plain = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
        sealed = {**content, "checksum": _native.xxh3_128(plain)}
        return (json.dumps(sealed, indent=1) + "\n").encode()

    def read(self, place: Path, path: Path) -> dict[str, Any]:
        """The content of the manifest at a place that was given as a path, with its checksum.

        Raises:
            DataError: There is no such folder, or its manifest is damaged or of another version.

        Example:
            >>> from pathlib import Path
            >>> from mbflow.graph.sealed import Folders
            >>> Folders("graph", "graph.json", 1, frozenset(), "").read(Path("no"), Path("no"))
            Traceback (most recent call last):
            ...
            mbflow.errors.DataError: no: there is no such folder (no graph.json in it)
        """
        file = path / self.manifest
        try:
            data = (place / self.manifest).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            what = f"no stored {self.kind}" if place.is_dir() else "there is no such folder"
            raise DataError(f"{path}: {what} (no {self.manifest} in it)") from None
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from None
        try:
            content = json.loads(data)
            checksum = content.pop("checksum")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise DataError(
                f"{file}: damaged: no manifest of a {self.kind}; {self.again}"
            ) from None
        if self.seal(content) != data:
            raise DataError(f"{file}: damaged: it does not match its checksum; {self.again}")
        if content.get(self.mark) != self.version:
            raise DataError(
                f"{file}: of format {content.get(self.mark)}; this version reads {self.version}"
            )
        content["checksum"] = checksum
        return dict(content)

    def irreplaceable(self, path: Path) -> str | None:
        """Why a new folder of this kind may not take the place of what stands at a path.

        Args:
            path: A path at which something stands.

        Returns:
            What is wrong and what to do, or None for one of this kind, even a damaged one, or an
            empty folder.

        Example:
            >>> import tempfile
            >>> from pathlib import Path
            >>> from mbflow.graph.sealed import Folders
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Folders("graph", "graph.json", 1, frozenset(), "").irreplaceable(Path(folder))
        """
        another = f"is there already and is no stored {self.kind}; give another path"
        if not path.is_dir():
            return another
        with os.scandir(path) as listed:
            entries = sorted(
                (entry.name, entry.is_dir(follow_symlinks=False) or entry.is_symlink())
                for entry in listed
            )
        if not entries:
            return None
        try:
            # What one user of the name writes into it another one does not.
            known = f'"{self.mark}"'.encode() in (path / self.manifest).read_bytes()
        except OSError:
            known = False
        if not known:
            return another
        for name, is_other in entries:
            if is_other or name not in self.files:
                return (
                    f"{name!r} in it is no file of a stored {self.kind}, and would be lost; move "
                    "it away, or give another path"
                )
        return None


class Expect:
    """Refuses a manifest that is as it was written and lacks what its kind has.

    Args:
        file: The manifest, for messages.
        again: What to do.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.graph.sealed import Expect
        >>> Expect(Path("graph.json"), "build it again").count("nodes", 3, 9)
    """

    def __init__(self, file: Path, again: str) -> None:
        self._file = file
        self._again = again

    def that(self, what: str, value: Any, expected: str, *, holds: bool) -> None:
        """Refuse a value that does not hold."""
        if not holds:
            shown = "nothing" if value is None else repr(value)[:40]
            raise DataError(
                f"{self._file}: `{what}`: expected {expected}, got {shown}; {self._again}"
            )

    def count(self, what: str, value: Any, most: int) -> None:
        """Refuse what is no number from 0 to `most`."""
        holds = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
        self.that(what, value, f"a number from 0 to {most}", holds=holds)

    def file(self, what: str, entry: Any, name: str) -> None:
        """Refuse what does not describe the file of that name."""
        self.that(what, entry, "a description of a file", holds=isinstance(entry, dict))
        self.that(f"{what}.file", entry.get("file"), name, holds=entry.get("file") == name)
        self.count(f"{what}.bytes", entry.get("bytes"), (1 << 63) - 1)
        found = entry.get("xxh3_128")
        self.that(f"{what}.xxh3_128", found, "a checksum", holds=isinstance(found, str))


def described(file: Path) -> dict[str, Any]:
    """A file's name, size and checksum, for a manifest.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mbflow.graph.sealed import described
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "rows.bin").write_bytes(b"1234")
        ...     described(Path(folder, "rows.bin"))["bytes"]
        4
    """
    return {
        "file": file.name,
        "bytes": file.stat().st_size,
        "xxh3_128": _native.xxh3_128_file(str(file)),
    }


def sized(folder: Path, entry: dict[str, Any], again: str) -> Path:
    """The file that an entry of a manifest describes, if it is there and as long as it says.

    Raises:
        DataError: It is not; the message names the file.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.graph.sealed import sized
        >>> sized(Path("no-such-folder"), {"file": "rows.bin", "bytes": 4}, "write it again")
        Traceback (most recent call last):
        ...
        mbflow.errors.DataError: no-such-folder/rows.bin: No such file or directory; write it again
    """
    file = folder / str(entry["file"])
    try:
        found = file.stat()
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}; {again}") from None
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{file}: is no file; {again}")
    if found.st_size != entry["bytes"]:
        raise DataError(f"{file}: {found.st_size} bytes, expected {entry['bytes']}; {again}")
    return file


def check_file(folder: Path, entry: dict[str, Any], again: str) -> None:
    """Compare all bytes of a file with its checksum in the manifest.

    Raises:
        DataError: They do not match; the message names the file.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mbflow.graph.sealed import check_file, described
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "rows.bin").write_bytes(b"1234")
        ...     check_file(Path(folder), described(Path(folder, "rows.bin")), "write it again")
    """
    file = folder / entry["file"]
    found = _native.xxh3_128_file(str(file))
    if found != entry["xxh3_128"]:
        raise DataError(
            f"{file}: does not match its checksum (expected {entry['xxh3_128']}, found {found}); "
            f"{again}"
        )


def map_file(file: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values of a file, mapped into memory to be read; one that is not empty.

    Raises:
        DataError: The file cannot be mapped.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from mbflow.graph.sealed import map_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "rows.bin").write_bytes(b"1234")
        ...     map_file(Path(folder, "rows.bin"), np.dtype("u1")).tolist()
        [49, 50, 51, 52]
    """
    try:
        with file.open("rb") as opened:
            memory = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DataError(f"{file}: cannot be mapped: {error.strerror}") from None
    return np.frombuffer(memory, dtype)


def open_whole(path: str | os.PathLike[str], opened: Callable[[], _Opened]) -> _Opened:
    """Open a folder that others may replace meanwhile: one or the other, never parts of both.

    Args:
        path: The folder.
        opened: Opens and checks it.

    Raises:
        DataError: Of `opened`, where nobody has replaced the folder; or others keep replacing it.

    Example:
        >>> from mbflow.graph.sealed import open_whole
        >>> open_whole("somewhere", lambda: 7)
        7
    """
    for _ in range(_TRIES):
        folder = identity(Path(path))
        try:
            found = opened()
        except DataError:
            if identity(Path(path)) == folder:
                raise
            continue
        if identity(Path(path)) == folder:
            return found
    raise DataError(f"{path}: others keep replacing it; wait for them")
