"""Folders that appear under their name whole or not at all, whoever else reads or writes there.

A folder is written beside its place under a name of its own, and exchanged with what stands there
in one step, where the file system can. A writer holds a lock on what it writes, so that the next
writer of the same place tells what a killed one left from what is still being written.

Example:
    >>> import tempfile
    >>> from mbflow.graph.publish import Staging
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Staging(folder + "/new", reason=lambda path: None) as staging:
    ...         _ = (staging.folder / "file").write_text("whole")
    ...         staging.publish()
    ...     [path.name for path in (staging.path).iterdir()]
    ['file']
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from mbflow.errors import InvalidArgumentError, ResourceError

__all__ = ["Staging", "identity", "refusals", "sync"]

_HERE = -100  # AT_FDCWD
_EXCHANGE = 2  # RENAME_EXCHANGE
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
_TRIES = 1000


class Staging:
    """A folder that is being written, to take the place of what stands under its name.

    To be used in a `with` block: when that ends without `publish`, nothing of it stays.

    Args:
        path: Where it is to appear; a link is followed, and what it leads to is replaced.
        reason: Says why what stands at a path may not be replaced, or None where it may.

    Attributes:
        path: Where it is to appear, without links.
        folder: Where it is written.

    Raises:
        InvalidArgumentError: What stands at `path` may not be replaced.
        ResourceError: The folder cannot be made.

    Example:
        >>> import tempfile
        >>> from mbflow.graph.publish import Staging
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Staging(folder, reason=lambda path: "is of value")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        mbflow.errors.InvalidArgumentError: ... is of value
    """

    def __init__(
        self, path: str | os.PathLike[str], *, reason: Callable[[Path], str | None]
    ) -> None:
        self.path = Path(os.path.realpath(path))
        self.folder = self.path
        self._reason = reason
        self._lock = -1
        with refusals(self.path):
            self._check()

    def __enter__(self) -> Self:
        with refusals(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(self.path)
            while self._lock < 0:
                mark = secrets.token_hex(8)
                self.folder = self.path.with_name(f".tmp-{mark}-{self.path.name}")
                self.folder.mkdir()
                # Without one a writer that sweeps may have taken the folder for one of the dead.
                self._lock = _locked(self.folder, needed=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)

    def publish(self) -> None:
        """Put the folder in its place, and remove what stood there; its files are on disk.

        Raises:
            InvalidArgumentError: What stands there by now may not be replaced.
            ResourceError: It cannot be put there.
        """
        with refusals(self.path):
            sync(self.folder)
            for _ in range(_TRIES):
                if self._placed():
                    break
            else:
                raise OSError(errno.EBUSY, "others keep replacing it")
            sync(self.path.parent)

    def _placed(self) -> bool:
        try:
            self.folder.rename(self.path)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        else:
            return True
        self._check()
        try:
            _exchange(self.folder, self.path)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            return self._replaced()
        shutil.rmtree(self.folder, ignore_errors=True)
        return True

    def _replaced(self) -> bool:
        """Where nothing can be exchanged: rename what is there, and bring it back on failure."""
        old = self.path.with_name(self.folder.name.replace(".tmp-", ".old-", 1))
        try:
            self.path.rename(old)
        except FileNotFoundError:
            return False
        try:
            self.folder.rename(self.path)
        except OSError as error:
            if error.errno in _TAKEN:
                shutil.rmtree(old, ignore_errors=True)
                return False
            old.rename(self.path)
            raise
        shutil.rmtree(old, ignore_errors=True)
        return True

    def _check(self) -> None:
        try:
            reason = self._reason(self.path) if os.path.lexists(self.path) else None
        except FileNotFoundError:
            return  # another writer has just renamed it
        if reason is not None:
            raise InvalidArgumentError(f"{self.path}: {reason}")


def _exchange(first: Path, second: Path) -> None:
    """Exchange two names in one step (Linux: renameat2)."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    names = (os.fsencode(first), os.fsencode(second))
    if rename(_HERE, names[0], _HERE, names[1], ctypes.c_uint(_EXCHANGE)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(first), None, str(second))


def _locked(folder: Path, *, needed: bool) -> int:
    """A handle on a folder with its lock; -1 where another has it or the folder is gone.

    Where the file system has no locks, nothing is ever swept: -1 if a lock is `needed`.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        if needed or not folder.exists():
            return -1
        raise
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return -1
    except OSError:
        if needed:
            os.close(handle)
            return -1
    if not folder.exists():
        os.close(handle)
        return -1
    return handle


def _sweep(path: Path) -> None:
    """Remove what killed writers of a place left beside it."""
    left = re.compile(r"\.(tmp|old)-[0-9a-f]{16}-" + re.escape(path.name))
    for folder in path.parent.iterdir():
        found = left.fullmatch(folder.name)
        if found is None:
            continue
        handle = _locked(folder, needed=True)
        if handle < 0:
            continue
        try:
            if found[1] == "old" and not os.path.lexists(path):
                folder.rename(path)  # killed between two names
            else:
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def identity(path: Path) -> tuple[int, int, int] | None:
    """Which folder stands at a path: another value once it was replaced; None where there is none.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.graph.publish import identity
        >>> identity(Path("no-such-folder")) is None, identity(Path()) == identity(Path())
        (True, True)
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


def sync(path: Path) -> None:
    """Have a file or folder on disk before going on.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.graph.publish import sync
        >>> sync(Path())
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Tell what the system refuses as a `ResourceError` that names a graph.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.graph.publish import refusals
        >>> with refusals(Path("graph")):
        ...     raise PermissionError(13, "Permission denied")
        Traceback (most recent call last):
        ...
        mbflow.errors.ResourceError: graph: the graph cannot be written: Permission denied
    """
    try:
        yield
    except ResourceError:
        raise
    except OSError as error:
        raise ResourceError(
            error.errno, f"{path}: the graph cannot be written: {error.strerror or error}"
        ) from None
