"""What happens during a run, as frozen dataclasses, and the log that keeps them.

A listener is a callable that takes one event. The run itself, the progress display and the log on
disk all see the same stream. Nothing here knows what a step does.

Example:
    >>> from mbflow.flow.events import RunWarning, to_record
    >>> to_record(RunWarning(text="careful"))["event"]
    'warning'
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mbflow import _native
from mbflow.flow.manifest import write_whole

__all__ = [
    "Event",
    "EventLog",
    "Listener",
    "RunFinished",
    "RunStarted",
    "RunWarning",
    "StepFailed",
    "StepFinished",
    "StepKept",
    "StepProgress",
    "StepStarted",
    "ends_whole",
    "read_events",
    "to_record",
]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run began.

    Example:
        >>> from mbflow.flow.events import RunStarted
        >>> RunStarted(name="demo", folder="runs/demo", steps=("graph", "keep")).steps
        ('graph', 'keep')
    """

    name: str
    folder: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step began; `reason` says why it was not reused.

    Example:
        >>> from mbflow.flow.events import StepStarted
        >>> StepStarted(step="graph", use="select.hash_graph", reason="not done yet").use
        'select.hash_graph'
    """

    step: str
    use: str
    reason: str


@dataclass(frozen=True, slots=True)
class StepProgress:
    """A step got further: `done` of `total` units (`total` is None where it is not known).

    Example:
        >>> from mbflow.flow.events import StepProgress
        >>> StepProgress(step="score", done=3, total=10, unit="epochs", text="").done
        3
    """

    step: str
    done: int
    total: int | None
    unit: str
    text: str


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A step's output is complete and on disk. `seconds` is wall time, `bytes` is on disk.

    Example:
        >>> from mbflow.flow.events import StepFinished
        >>> StepFinished(step="keep", seconds=0.5, rows=10, bytes=100).rows
        10
    """

    step: str
    seconds: float
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class StepKept:
    """A step was done already, its output passed its checksums, and it is reused.

    Example:
        >>> from mbflow.flow.events import StepKept
        >>> StepKept(step="keep", rows=10, bytes=100).step
        'keep'
    """

    step: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step ended with an error; nothing of its output is visible.

    Example:
        >>> from mbflow.flow.events import StepFailed
        >>> StepFailed(step="keep", error="no rows").error
        'no rows'
    """

    step: str
    error: str


@dataclass(frozen=True, slots=True)
class RunWarning:
    """Something a person should know that does not stop the run.

    Example:
        >>> from mbflow.flow.events import RunWarning
        >>> RunWarning(text="a.parquet changed").text
        'a.parquet changed'
    """

    text: str


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run ended with `status` "done", "failed" or "interrupted".

    Example:
        >>> from mbflow.flow.events import RunFinished
        >>> RunFinished(status="done", seconds=1.0, folder="runs/demo").status
        'done'
    """

    status: str
    seconds: float
    folder: str


Event = (
    RunStarted
    | StepStarted
    | StepProgress
    | StepFinished
    | StepKept
    | StepFailed
    | RunWarning
    | RunFinished
)
Listener = Callable[[Event], None]

_NAMES: dict[type[Any], str] = {
    RunStarted: "run_started",
    StepStarted: "step_started",
    StepProgress: "step_progress",
    StepFinished: "step_finished",
    StepKept: "step_kept",
    StepFailed: "step_failed",
    RunWarning: "warning",
    RunFinished: "run_finished",
}


def to_record(event: Event) -> dict[str, Any]:
    """Turn an event into plain data, with its name under `event`.

    Example:
        >>> from mbflow.flow.events import StepKept, to_record
        >>> to_record(StepKept(step="keep", rows=1, bytes=2))
        {'event': 'step_kept', 'step': 'keep', 'rows': 1, 'bytes': 2}
    """
    return {"event": _NAMES[type(event)], **asdict(event)}


def _line(record: dict[str, Any]) -> str:
    body = json.dumps(record, ensure_ascii=False, sort_keys=False)
    return json.dumps({**record, "sum": _native.xxh3_128(body.encode())[:16]}, ensure_ascii=False)


class EventLog:
    """Appends events to `events.jsonl`, one JSON object with its checksum a line.

    Progress is not logged: it is for the moment. A line is written in one call, so a killed run
    leaves at most one cut line at the end, which `read_events` passes over and the next run drops.

    Example:
        >>> import tempfile
        >>> from mbflow.flow.events import EventLog, RunWarning, read_events
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "events.jsonl"
        >>> log = EventLog(path); log(RunWarning(text="hello")); log.close()
        >>> [record["text"] for record, sound in read_events(path) if sound]
        ['hello']
        >>> folder.cleanup()
    """

    def __init__(self, path: Path) -> None:
        _mend(path)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def __call__(self, event: Event) -> None:
        """Append one event."""
        if isinstance(event, StepProgress):
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        os.write(self._file, (_line({"time": now, **to_record(event)}) + "\n").encode())

    def close(self) -> None:
        """Flush to disk and close."""
        os.fsync(self._file)
        os.close(self._file)


def _mend(path: Path) -> None:
    """Drop what a kill or a flipped bit left behind, so that the log is sound from here on."""
    if not path.exists():
        return
    sound = [record for record, is_sound in read_events(path) if is_sound]
    data = "".join(_line(record) + "\n" for record in sound).encode()
    if data != path.read_bytes():
        write_whole(path, data)


def read_events(path: Path) -> Iterator[tuple[dict[str, Any], bool]]:
    """Read the log: each record and whether it matches its checksum.

    A last line without a line break was cut by a kill and is passed over. A line that is no JSON
    object comes as an empty record that does not match.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.flow.events import read_events
        >>> list(read_events(Path("no-such-log.jsonl")))
        []
    """
    if not path.exists():
        return
    data = path.read_bytes()
    for raw in data[: data.rfind(b"\n") + 1].splitlines():
        try:
            text = raw.decode()
            record = json.loads(text)
            given = record.pop("sum")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            yield {}, False
            continue
        yield record, _line(record) == text and isinstance(given, str)


def ends_whole(path: Path) -> bool:
    """Whether the log is there and its last line is complete.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.flow.events import ends_whole
        >>> ends_whole(Path("no-such-log.jsonl"))
        False
    """
    return path.exists() and path.read_bytes()[-1:] == b"\n"
