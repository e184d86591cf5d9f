"""JSON documents that carry their own checksum, and files that appear whole or not at all.

A sealed document is JSON with a `checksum` of everything else in it; the bytes on disk must equal
what this module would write for its content, so that one flipped bit anywhere in the file is
noticed, white space included.

Example:
    >>> from mbflow.flow.manifest import seal, unseal
    >>> unseal(seal({"rows": 3}))["rows"]
    3
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from mbflow import _native
from mbflow.errors import DataError

__all__ = [
    "canonical",
    "fingerprint",
    "read_sealed",
    "seal",
    "sync_folder",
    "unseal",
    "write_sealed",
    "write_whole",
]


def canonical(value: Any) -> bytes:
    """One form for equal plain data: sorted keys, no white space, UTF-8; NaN is refused.

    Example:
        >>> from mbflow.flow.manifest import canonical
        >>> canonical({"b": 1, "a": [1.5, None]})
        b'{"a":[1.5,null],"b":1}'
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def fingerprint(value: Any) -> str:
    """XXH3-128 of the canonical form, 32 hexadecimal digits.

    Example:
        >>> from mbflow.flow.manifest import fingerprint
        >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
        True
    """
    return _native.xxh3_128(canonical(value))


def seal(content: dict[str, Any]) -> bytes:
    """The bytes of a document with its checksum, readable and the same for the same content.

    Example:
        >>> from mbflow.flow.manifest import seal
        >>> b'"checksum"' in seal({})
        True
    """
    body = {key: value for key, value in content.items() if key != "checksum"}
    sealed = {**body, "checksum": fingerprint(body)}
    return (json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def unseal(data: bytes) -> dict[str, Any]:
    """Read a sealed document back.

    Raises:
        ValueError: The bytes are not those of a sealed document; the message says how.

    Example:
        >>> from mbflow.flow.manifest import seal, unseal
        >>> unseal(seal({"rows": 3}).replace(b"3", b"4", 1))
        Traceback (most recent call last):
        ...
        ValueError: the content does not match its checksum
    """
    try:
        content = json.loads(data.decode())
    except (ValueError, RecursionError):
        raise ValueError("not a JSON document") from None
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  - one error type for all damage
    try:
        sound = seal(content) == data
    except (ValueError, RecursionError):
        sound = False
    if not sound:
        raise ValueError("the content does not match its checksum")
    del content["checksum"]
    return content


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a sealed document from a file.

    Raises:
        DataError: The file is damaged or is not such a document.
        FileNotFoundError: There is no such file.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.flow.manifest import read_sealed
        >>> read_sealed(Path("no-such-folder/run.json"))
        Traceback (most recent call last):
        ...
        FileNotFoundError: [Errno 2] No such file or directory: 'no-such-folder/run.json'
    """
    try:
        return unseal(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: damaged: {error}") from None


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write a sealed document: it appears whole, or what was there before stays.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mbflow.flow.manifest import read_sealed, write_sealed
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_sealed(Path(folder) / "run.json", {"rows": 3})
        ...     read_sealed(Path(folder) / "run.json")
        {'rows': 3}
    """
    write_whole(path, seal(content))


def write_whole(path: Path, data: bytes) -> None:
    """Write bytes under a temporary name, flush them to disk, then rename.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mbflow.flow.manifest import write_whole
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder) / "a.txt", b"hello")
        ...     [p.name for p in Path(folder).iterdir()]
        ['a.txt']
    """
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it outlives a power cut.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mbflow.flow.manifest import sync_folder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sync_folder(Path(folder))
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
