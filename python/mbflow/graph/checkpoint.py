"""Checkpoints of a training: a file that is there as a whole or not at all.

Imports torch; `mbflow.graph` imports this module only where it is asked for.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mbflow.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["check_same", "read_checkpoint", "write_checkpoint"]


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (
        OSError, RuntimeError, ValueError, KeyError, EOFError, AttributeError,
        pickle.UnpicklingError, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise DataError(
            f"{path}: cannot be read as a checkpoint: {' '.join(str(error).split())[:200]}; "
            "remove it to train from the start"
        ) from None


def write_checkpoint(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write a checkpoint under a temporary name, flush it to disk, and rename it.

    Args:
        path: Where it goes; its folder is made. What is there is replaced.
        content: Tensors and plain data.

    Raises:
        OSError: The machine refuses, such as for a full disk; what was there is as it was.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mbflow.graph.checkpoint import read_checkpoint, write_checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_checkpoint(Path(folder) / "a.pt", {"epoch": 3})
        ...     read_checkpoint(Path(folder) / "a.pt")["epoch"]
        3
    """
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".tmp-{place.name}")
    # Torch would tell of a full disk by a RuntimeError without a number.
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    try:
        with temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(place)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    handle = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint back, onto the CPU; nothing in it is run.

    Args:
        path: The file.

    Returns:
        What was written.

    Raises:
        DataError: The file is damaged or no checkpoint.
        FileNotFoundError: There is none.

    Example:
        >>> from mbflow.graph.checkpoint import read_checkpoint
        >>> read_checkpoint("no-such-file.pt")
        Traceback (most recent call last):
        ...
        FileNotFoundError: [Errno 2] No such file or directory: 'no-such-file.pt'
    """
    with _damage(Path(path)):
        with zipfile.ZipFile(path) as archive:
            # Torch itself reads over flipped bits.
            bad = archive.testzip()
        if bad is not None:
            raise ValueError(f"{bad} does not match its checksum")
        found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, dict):
            raise ValueError("it holds no mapping")  # noqa: TRY004 - as above
        return found


def check_same(path: str | os.PathLike[str], found: Any, wanted: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another training.

    Args:
        path: Where it was, for the message.
        found: What its training depended on.
        wanted: What this one depends on.

    Raises:
        DataError: They differ; the message says in what.

    Example:
        >>> from mbflow.graph.checkpoint import check_same
        >>> check_same("a.pt", {"seed": 1}, {"seed": 1})
    """
    found = found if isinstance(found, dict) else {}
    differs = [name for name in wanted if found.get(name) != wanted[name]]
    if differs:
        what = ", ".join(_difference(name, found.get(name), wanted[name]) for name in differs[:4])
        raise DataError(
            f"{path}: a checkpoint of another training ({what}); name another file, or remove it "
            "to train from the start"
        )


_DIGEST = re.compile("[0-9a-f]{32}")


def _difference(name: str, found: Any, wanted: Any) -> str:
    if any(isinstance(one, str) and _DIGEST.fullmatch(one) for one in (found, wanted)):
        return f"other {name}"
    return f"{name} {found}, not {wanted}"
