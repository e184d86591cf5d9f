"""What a person sees while a run goes on: a live display on a terminal, plain lines elsewhere.

Example:
    >>> import io
    >>> from mbflow.flow.events import RunStarted, StepStarted
    >>> from mbflow.progress import listener
    >>> out = io.StringIO()
    >>> with listener(out) as listen:
    ...     listen(RunStarted(name="demo", folder="runs/demo", steps=("graph", "keep")))
    ...     listen(StepStarted(step="graph", use="select.hash_graph", reason="not done yet"))
    >>> print(out.getvalue(), end="")
    demo: 2 steps, into runs/demo
    [1/2] graph select.hash_graph: started, not done yet
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import StringIO
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from mbflow.display import column, count, duration, size
from mbflow.errors import InvalidArgumentError
from mbflow.flow.events import (
    Event,
    Listener,
    RunFinished,
    RunStarted,
    RunWarning,
    StepFailed,
    StepFinished,
    StepKept,
    StepProgress,
    StepStarted,
)

__all__ = ["listener", "table"]

_SECONDS_BETWEEN_LINES = 1.0
_BAR_WIDTH = 24
_ROOMY_WIDTH = 100


@contextmanager
def listener(
    stream: IO[str] | None = None, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Listener]:
    r"""Give a listener that shows events on a stream.

    On a terminal every step has one line that moves; in a pipe, with `NO_COLOR` or with `TERM=dumb`
    each event is a line of plain text, progress at most about once a second for a step (the first
    and the last always). A stream that was closed is written to no more; the run goes on.

    Args:
        stream: Where to show; `sys.stderr` when None.
        clock: Seconds that only rise; a test gives its own.

    Yields:
        A callable that takes one event.

    Example:
        >>> import io
        >>> from mbflow.flow.events import RunWarning
        >>> from mbflow.progress import listener
        >>> out = io.StringIO()
        >>> with listener(out) as listen:
        ...     listen(RunWarning(text="a.parquet changed"))
        >>> out.getvalue()
        'warning: a.parquet changed\n'
    """
    target = sys.stderr if stream is None else stream
    if not _is_lively(target):
        yield _Lines(target, clock)
        return
    # Nothing is highlighted or marked up by rich itself: names in data may look like its tags.
    console = Console(file=target, highlight=False, markup=False, emoji=False)
    display = _Display(console, clock)
    with Live(display, console=console, refresh_per_second=8, redirect_stdout=False):
        yield display


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    title: str = "",
    stream: IO[str] | None = None,
) -> str:
    """A table as text, figures right-aligned: in lines and colour for a terminal, plain elsewhere.

    Args:
        columns: Names of the columns.
        rows: One sequence of plain data a row, as long as `columns`.
        title: Stands above the table.
        stream: Where the text will go, which says how it may look; `sys.stdout` when None.

    Returns:
        The text without a line break at its end. In a pipe it is as wide as its longest row.

    Raises:
        InvalidArgumentError: A row is not as long as `columns`.

    Example:
        >>> import io
        >>> from mbflow.progress import table
        >>> print(table(["class", "kept"], [["A", 31], ["B", 1030]], stream=io.StringIO()))
        class   kept
        A         31
        B      1,030
    """
    if any(len(row) != len(columns) for row in rows):
        raise InvalidArgumentError(
            f"every row must have {len(columns)} cells, one for each column; a row has "
            f"{next(len(row) for row in rows if len(row) != len(columns))}"
        )
    cells = [column([row[place] for row in rows]) for place in range(len(columns))]
    target = sys.stdout if stream is None else stream
    if _is_lively(target):
        return _rich_table(columns, cells, title, Console(file=target).width)
    lines = [title] if title else []
    padded = [_padded(name, *cell) for name, cell in zip(columns, cells, strict=True)]
    lines += ["  ".join(line).rstrip() for line in zip(*padded, strict=True)]
    return "\n".join(lines)


def _is_lively(stream: IO[str]) -> bool:
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "") in ("dumb", "unknown"):
        return False
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def _padded(name: str, texts: list[str], is_figure: bool) -> list[str]:  # noqa: FBT001
    texts = [name, *(" ".join(text.split()) for text in texts)]
    width = max(map(len, texts))
    return [text.rjust(width) if is_figure else text.ljust(width) for text in texts]


def _rich_table(
    columns: Sequence[str], cells: list[tuple[list[str], bool]], title: str, width: int
) -> str:
    from rich.box import SIMPLE_HEAD

    shown = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    shown.title_style = "bold"
    for name, (_, is_figure) in zip(columns, cells, strict=True):
        shown.add_column(Text(name), justify="right" if is_figure else "left", overflow="fold")
    for row in zip(*(texts for texts, _ in cells), strict=True):
        shown.add_row(*map(Text, row))
    text = StringIO()
    console = Console(file=text, force_terminal=True, width=width, highlight=False, markup=False)
    console.print(shown)
    return text.getvalue().rstrip()


def _progress_text(event: StepProgress) -> str:
    total = "" if event.total is None else f"/{event.total:,}"
    if not event.unit:
        return event.text
    text = f"{event.unit} {event.done:,}{total}"
    return f"{text} ({event.text})" if event.text else text


def _output_text(rows: int, size_in_bytes: int) -> str:
    return f"{count(rows)} rows, {size(size_in_bytes)}"


class _Lines:
    """Events as plain lines."""

    def __init__(self, stream: IO[str], clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._steps: tuple[str, ...] = ()
        self._uses: dict[str, str] = {}
        self._shown_at: dict[str, float] = {}
        self._held_back: dict[str, StepProgress] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._steps = event.steps
                number = len(event.steps)
                self._write(
                    f"{event.name}: {number} step{'' if number == 1 else 's'}, into {event.folder}"
                )
            case StepStarted():
                self._uses[event.step] = event.use
                self._say(event.step, f"started, {event.reason}" if event.reason else "started")
            case StepProgress():
                self._progress(event)
            case StepFinished():
                self._release(event.step)
                output = _output_text(event.rows, event.bytes)
                self._say(event.step, f"done in {duration(event.seconds)}, {output}")
            case StepKept():
                self._say(event.step, f"done before, {_output_text(event.rows, event.bytes)}")
            case StepFailed():
                self._release(event.step)
                self._say(event.step, f"failed: {event.error}")
            case RunWarning():
                self._write(f"warning: {event.text}")
            case RunFinished():
                self._write(f"{event.status} after {duration(event.seconds)}: {event.folder}")

    def _progress(self, event: StepProgress) -> None:
        now = self._clock()
        last = self._shown_at.get(event.step)
        ends = event.total is not None and event.done >= event.total
        if last is None or ends or now - last >= _SECONDS_BETWEEN_LINES:
            self._shown_at[event.step] = now
            self._held_back.pop(event.step, None)
            self._say(event.step, _progress_text(event))
        else:
            self._held_back[event.step] = event

    def _release(self, step: str) -> None:
        """Say how far a step came, where that line was held back."""
        event = self._held_back.pop(step, None)
        if event is not None:
            self._say(step, _progress_text(event))

    def _say(self, step: str, text: str) -> None:
        place = (
            f"[{self._steps.index(step) + 1}/{len(self._steps)}] " if step in self._steps else ""
        )
        use = f" {self._uses[step]}" if step in self._uses else ""
        self._write(f"{place}{step}{use}: {text}")

    def _write(self, line: str) -> None:
        # Nobody reads any more, or the disk behind the stream is full: the run itself goes on.
        with suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()


@dataclass
class _Line:
    """One step on the display."""

    use: str = ""
    status: str = "waiting"
    started: float = 0.0
    seconds: float | None = None
    progress: StepProgress | None = None
    text: str = ""


class _Display:
    """Events as a block of lines, one a step, that `Live` draws again and again."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._lines: dict[str, _Line] = {}
        self._known: tuple[str, ...] = ()
        self._spinner = Spinner("dots", style="cyan")
        self._end: Text | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._known = event.steps
                self._lines = {step: _Line() for step in event.steps}
                self._console.print(Text(event.name, style="bold"), Text(event.folder, style="dim"))
            case RunWarning():
                self._console.print(Text(f"warning: {event.text}", style="yellow"))
            case RunFinished():
                style = {"done": "green", "failed": "red"}.get(event.status, "yellow")
                for line in self._lines.values():
                    if line.status == "working":
                        line.status = event.status
                        line.seconds = self._clock() - line.started
                self._end = Text.assemble(
                    (event.status, style), f" after {duration(event.seconds)}: {event.folder}"
                )
            case StepProgress() if event.done == event.total and event.step not in self._known:
                # What is no step of the run, such as reading a source, goes when it is done.
                self._lines.pop(event.step, None)
            case _:
                self._step(event, self._lines.setdefault(event.step, _Line()))

    def _step(
        self,
        event: StepStarted | StepProgress | StepFinished | StepKept | StepFailed,
        line: _Line,
    ) -> None:
        match event:
            case StepStarted():
                line.use, line.status, line.started = event.use, "working", self._clock()
            case StepProgress():
                line.progress = event
            case StepFinished():
                line.status, line.seconds = "done", event.seconds
                line.text = _output_text(event.rows, event.bytes)
            case StepKept():
                line.status = "kept"
                line.text = f"{_output_text(event.rows, event.bytes)}, done before"
            case StepFailed():
                line.status, line.seconds = "failed", self._clock() - line.started
                line.text = event.error.partition("\n")[0]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        names = list(self._lines)
        roomy = options.max_width >= _ROOMY_WIDTH
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=1)
        grid.add_column(no_wrap=True, min_width=min(24, max(map(len, names), default=0)))
        if roomy:
            grid.add_column(no_wrap=True, style="dim")
        grid.add_column(no_wrap=True, justify="right", min_width=7)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        for name in names:
            line = self._lines[name]
            middle = [Text(line.use)] if roomy else []
            state = _state(line, _BAR_WIDTH if roomy else _BAR_WIDTH // 2)
            grid.add_row(self._mark(line), Text(name), *middle, self._elapsed(line), state)
        yield grid
        if self._end is not None:
            yield self._end

    def _mark(self, line: _Line) -> RenderableType:
        marks = {"done": ("✓", "green"), "kept": ("✓", "dim"), "waiting": ("·", "dim")}
        if line.status == "working":
            return self._spinner
        mark, style = marks.get(line.status, ("✗", "red"))
        return Text(mark, style=style)

    def _elapsed(self, line: _Line) -> Text:
        if line.status == "working":
            return Text(duration(max(1.0, self._clock() - line.started)), style="cyan")
        return Text("" if line.seconds is None else duration(line.seconds))


def _state(line: _Line, bar_width: int) -> RenderableType:
    """What stands at the end of a step's line: a bar and a count, or what came out."""
    event = line.progress
    if line.status == "working" and event is not None:
        text = Text(_progress_text(event))
        if not event.total:
            return text
        bar = ProgressBar(total=event.total, completed=event.done, width=bar_width)
        row = Table.grid(padding=(0, 1, 0, 0))
        row.add_row(bar, text)
        return row
    return Text(line.text, style="red" if line.status == "failed" else "dim")
