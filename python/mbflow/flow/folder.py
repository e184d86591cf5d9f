"""A run folder: its lock, its layout, what a crash left in it, and checking all that is in it.

Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> from mbflow.flow.folder import RunFolder
    >>> with tempfile.TemporaryDirectory() as base:
    ...     with RunFolder(Path(base) / "demo").locked() as folder:
    ...         folder.step("keep").relative_to(base).as_posix()
    'demo/steps/keep'
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from mbflow import _native
from mbflow.errors import DataError, ResourceError
from mbflow.flow import dataset, inputs
from mbflow.flow.dataset import MANIFEST
from mbflow.flow.events import ends_whole, read_events
from mbflow.flow.manifest import read_sealed, sync_folder, write_sealed

__all__ = ["RunFolder", "find", "verify"]


_NUMBERS = itertools.count()


class RunFolder:
    """Paths in a run folder, and the writes that must be whole.

    Args:
        path: The folder; `locked` makes it.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.flow.folder import RunFolder
        >>> RunFolder(Path("runs/demo")).step("keep").as_posix()
        'runs/demo/steps/keep'
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_file = path / "run.json"
        self.events_file = path / "events.jsonl"
        self.steps = path / "steps"
        self.report_file = path / "report.html"

    def step(self, name: str) -> Path:
        """Where a step's output lies when it is complete."""
        return self.steps / name

    def source(self, name: str) -> Path:
        """Where a source's manifest lies."""
        return self.path / "sources" / f"{name}.json"

    def read_run(self) -> dict[str, Any] | None:
        """The content of run.json; None where there is none or it is damaged."""
        try:
            return read_sealed(self.run_file)
        except (DataError, OSError):
            return None

    def write_run(self, content: dict[str, Any]) -> None:
        """Replace run.json as a whole."""
        write_sealed(self.run_file, content)

    @contextlib.contextmanager
    def locked(self) -> Iterator[Self]:
        """Make the folder, hold its lock, and clear what a crash left behind.

        The lock belongs to the process: it is gone with it, however it ends.

        Raises:
            ResourceError: Another run holds the lock, or the folder cannot be made.
        """
        try:
            (self.path / "sources").mkdir(parents=True, exist_ok=True)
            self.steps.mkdir(exist_ok=True)
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ResourceError(
                error.errno,
                f"{self.path}: the run folder cannot be made: {error.strerror}; give another "
                "folder with --set run.out=DIR",
            ) from None
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                holder = os.read(handle, 200).decode(errors="replace").strip()
                raise ResourceError(
                    f"{self.path}: another run is using this folder ({holder or 'just started'}); "
                    "wait for it, or give another folder with --set run.out=DIR"
                ) from None
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            self._clear()
            yield self
        finally:
            os.close(handle)

    def _clear(self) -> None:
        """Remove unfinished outputs of dead runs. Under the lock, so nobody is writing them."""
        for place in (self.path, self.steps, self.path / "sources"):
            for left in place.glob(".tmp-*"):
                _remove(left)
        for old in self.steps.glob(".old-*"):
            name = old.name.removeprefix(".old-")
            if os.path.lexists(self.steps / name):
                _remove(old)
            else:
                old.rename(self.steps / name)

    def begin(self, name: str) -> Path:
        """An empty folder for a step to write into; nobody else looks at it."""
        temporary = self.steps / f".tmp-{name}-{os.getpid()}-{next(_NUMBERS)}"
        temporary.mkdir()
        return temporary

    def publish(self, name: str, temporary: Path) -> None:
        """Make what was written since `begin` the step's output, in place of what was there.

        A crash between the two renames is mended by the next run: it puts the old output back.
        """
        target, old = self.step(name), self.steps / f".old-{name}"
        if os.path.lexists(target):
            target.rename(old)
        temporary.rename(target)
        sync_folder(self.steps)
        if os.path.lexists(old):
            _remove(old)
        for left in self.steps.glob(f".work-{name}-*"):
            _remove(left)

    def scratch(self, name: str, fingerprint: str) -> Path:
        """Where a step keeps parts of its work until it is published, also over a crash.

        What stands there under another fingerprint is of no use any more and is removed.
        """
        place = self.steps / f".work-{name}-{fingerprint[:32]}"
        for left in self.steps.glob(f".work-{name}-*"):
            if left != place:
                _remove(left)
        return place

    def tidy(self) -> None:
        """Remove what steps kept for themselves, when a run is done and nothing needs it."""
        for left in self.steps.glob(".work-*"):
            _remove(left)

    def discard(self) -> None:
        """Remove what unfinished steps wrote."""
        for left in self.steps.glob(".tmp-*"):
            shutil.rmtree(left, ignore_errors=True)


def _remove(path: Path) -> None:
    """Remove whatever stands there; where it is a link, the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def find(path: Path) -> RunFolder:
    """The run folder at a path, or the only one below it.

    Raises:
        DataError: There is none, or there are several.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.flow.folder import find
        >>> find(Path("no-such-folder"))
        Traceback (most recent call last):
        ...
        mbflow.errors.DataError: no-such-folder: there is no such folder
    """
    if not path.is_dir():
        raise DataError(f"{path}: there is no such folder")
    if (path / "run.json").exists() or (path / "steps").is_dir():
        return RunFolder(path)
    below = sorted(run.parent for run in path.glob("*/run.json"))
    if len(below) == 1:
        return RunFolder(below[0])
    if below:
        names = ", ".join(folder.name for folder in below)
        raise DataError(f"{path}: holds several runs; name one of {names}")
    raise DataError(f"{path}: this is no run folder (no run.json in it)")


def verify(
    folder: RunFolder,
    *,
    map_: Callable[[Callable[[Path], str], Iterable[Path]], Iterable[str]] = map,
    on_look: Callable[[str], None] = lambda _: None,
) -> tuple[int, list[str]]:
    """Read everything in a run folder and its sources again, and compare with the checksums.

    Args:
        folder: The run folder.
        map_: Applies checksums to files, such as an engine's `map`.
        on_look: Called with the name of what is looked at next.

    Returns:
        How many files were checked, and one line for each problem.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mbflow.flow.folder import RunFolder, verify
        >>> with tempfile.TemporaryDirectory() as base:
        ...     verify(RunFolder(Path(base)))[1][0].endswith("run.json: missing")
        True
    """
    problems: list[str] = []
    looked = 1
    run: dict[str, Any] = {}
    try:
        run = read_sealed(folder.run_file)
    except FileNotFoundError:
        problems.append(f"{folder.run_file}: missing")
    except (DataError, OSError) as error:
        problems.append(f"{folder.run_file}: cannot be read: {error}")
    for path in sorted((folder.path / "sources").glob("*.json")):
        on_look(f"source {path.stem}")
        looked += 1
        try:
            manifest = read_sealed(path)
        except (DataError, OSError) as error:
            problems.append(f"{path}: cannot be read: {error}")
            continue
        looked += len(manifest["files"])
        problems += inputs.damage(manifest)
    there = sorted(p for p in folder.steps.glob("*") if not p.name.startswith("."))
    for name, step in run.get("steps", {}).items():
        if step["status"] in {"done", "kept"} and folder.step(name) not in there:
            problems.append(f"{folder.step(name)}: missing")
    for path in there:
        on_look(f"step {path.name}")
        count, found = _verify_step(path, run.get("steps", {}).get(path.name), map_)
        looked += count
        problems += found
    looked += 1
    for number, (_, sound) in enumerate(read_events(folder.events_file), start=1):
        if not sound:
            problems.append(f"{folder.events_file}:{number}: does not match its checksum")
    if run.get("status", "running") != "running" and not ends_whole(folder.events_file):
        # A kill may cut the last line; a run that came to its end closed its log.
        problems.append(f"{folder.events_file}: its last line is cut")
    report = run.get("report")
    if report is not None:
        looked += 1
        path = folder.path / report["file"]
        try:
            if _native.xxh3_128_file(str(path)) != report["xxh3_128"]:
                problems.append(f"{path}: does not match its checksum in run.json")
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror or error}")
    return looked, problems


def _verify_step(
    path: Path,
    expected: dict[str, Any] | None,
    map_: Callable[[Callable[[Path], str], Iterable[Path]], Iterable[str]],
) -> tuple[int, list[str]]:
    try:
        manifest = read_sealed(path / MANIFEST)
    except OSError as error:
        return 1, [f"{path / MANIFEST}: cannot be read: {error.strerror or error}"]
    except DataError as error:
        return 1, [str(error)]
    problems = dataset.damage(path, manifest, map_=map_)
    files = dataset.files_of(manifest)
    named = {path / MANIFEST, *(path / file["name"] for file in files)}
    named |= {file.parent for file in named}
    problems += [
        f"{other}: not in the manifest" for other in sorted(path.rglob("*")) if other not in named
    ]
    done = expected is not None and expected["status"] in {"done", "kept"}
    if done and expected is not None and manifest["fingerprint"] != expected["fingerprint"]:
        problems.append(f"{path}: its fingerprint is not the one in run.json")
    return 1 + len(files), problems
