"""Progress lines, the live display and tables for the terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from itertools import pairwise

import pytest

from mbflow.flow.events import (
    Event,
    RunFinished,
    RunStarted,
    RunWarning,
    StepFailed,
    StepFinished,
    StepKept,
    StepProgress,
    StepStarted,
)
from mbflow.progress import listener, table


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    """A pipe whose reader went away."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def epoch(done: int, total: int | None = 200, text: str = "loss 0.41") -> StepProgress:
    return StepProgress(step="score", done=done, total=total, unit="epoch", text=text)


RUN: list[Event] = [
    RunStarted(name="letters", folder="runs/letters", steps=("graph", "score", "keep")),
    StepKept(step="graph", rows=20000, bytes=4_100_000),
    StepStarted(step="score", use="select.attention", reason="its parameters changed"),
    RunWarning(text="one [bold]class[/bold] has 1 row"),
    epoch(1),
    StepFinished(step="score", seconds=12.34, rows=20000, bytes=161_000),
    StepStarted(step="keep", use="select.keep", reason="its input changed"),
    StepFailed(step="keep", error="no rows of class `Z`"),
    RunFinished(status="failed", seconds=12.9, folder="runs/letters"),
]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.usefixtures("plain")
def test_a_pipe_gets_plain_lines() -> None:
    out = io.StringIO()
    with listener(out) as listen:
        for event in RUN:
            listen(event)
    assert out.getvalue() == (
        "letters: 3 steps, into runs/letters\n"
        "[1/3] graph: done before, 20,000 rows, 4.1 MB\n"
        "[2/3] score select.attention: started, its parameters changed\n"
        "warning: one [bold]class[/bold] has 1 row\n"
        "[2/3] score select.attention: epoch 1/200 (loss 0.41)\n"
        "[2/3] score select.attention: done in 12.3 s, 20,000 rows, 161 kB\n"
        "[3/3] keep select.keep: started, its input changed\n"
        "[3/3] keep select.keep: failed: no rows of class `Z`\n"
        "failed after 12.9 s: runs/letters\n"
    )


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_that_asks_for_plain_lines_gets_them(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    out = Terminal()
    with listener(out) as listen:
        for event in RUN:
            listen(event)
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().count("\n") == len(RUN)


def _epochs(out: io.StringIO) -> list[int]:
    return [int(number) for number in re.findall(r"epoch (\d+)", out.getvalue())]


def _listen_to(script: Callable[[Callable[[Event], None], Clock], None]) -> io.StringIO:
    out, clock = io.StringIO(), Clock()
    with listener(out, clock=clock) as listen:
        listen(StepStarted(step="score", use="select.attention", reason=""))
        script(listen, clock)
    return out


def test_progress_comes_about_once_a_second_with_the_first_and_the_last() -> None:
    def script(listen: Callable[[Event], None], clock: Clock) -> None:
        for done in range(1, 201):
            listen(epoch(done))
            clock.now += 0.1

    shown = _epochs(_listen_to(script))
    assert shown[0] == 1
    assert shown[-1] == 200
    assert all(9 <= b - a <= 11 for a, b in pairwise(shown[:-1]))
    assert 19 <= len(shown) <= 22


@pytest.mark.parametrize(
    "end",
    [StepFinished(step="score", seconds=1.0, rows=1, bytes=1), StepFailed(step="score", error="x")],
)
def test_a_step_that_ends_early_still_says_how_far_it_came(end: Event) -> None:
    def script(listen: Callable[[Event], None], clock: Clock) -> None:
        for done in range(1, 88):
            listen(epoch(done))
        listen(end)

    out = _listen_to(script)
    assert _epochs(out) == [1, 87]
    last = out.getvalue().splitlines()[-1]
    assert "epoch" not in last
    assert "done in" in last or "failed" in last


def test_progress_without_a_total_or_a_text() -> None:
    def script(listen: Callable[[Event], None], clock: Clock) -> None:
        listen(epoch(1200, None, ""))

    assert "score select.attention: epoch 1,200\n" in _listen_to(script).getvalue()


def test_steps_are_throttled_one_by_one() -> None:
    out, clock = io.StringIO(), Clock()
    with listener(out, clock=clock) as listen:
        for step in ("a", "b"):
            listen(StepProgress(step=step, done=1, total=9, unit="part", text=""))
            listen(StepProgress(step=step, done=2, total=9, unit="part", text=""))
    assert out.getvalue() == "a: part 1/9\nb: part 1/9\n"


def test_a_reader_that_went_away_does_not_stop_the_run() -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (Gone(), closed):
        with listener(stream) as listen:
            for event in RUN:
                listen(event)


@pytest.mark.usefixtures("plain")
def test_a_terminal_gets_one_line_a_step() -> None:
    out = Terminal()
    with listener(out) as listen:
        for event in RUN:
            listen(event)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    last = [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()][-4:]
    assert re.fullmatch(r"✓  graph +20,000 rows, 4\.1 MB, done before", last[0])
    assert re.fullmatch(r"✓  score  select\.attention +12\.3 s  20,000 rows, 161 kB", last[1])
    assert re.fullmatch(r"✗  keep   select\.keep +\d+ ms  no rows of class `Z`", last[2])
    assert last[3].startswith("failed after 12.9 s")
    assert "warning: one [bold]class[/bold] has 1 row" in text


@pytest.mark.usefixtures("plain")
def test_a_narrow_terminal_cuts_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = Terminal()
    with listener(out) as listen:
        for event in RUN[:5]:
            listen(event)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    for name in ("graph", "score", "keep"):
        assert re.search(rf"\S  {name}\b", text)
    assert max(map(len, re.split(r"[\r\n]", text))) <= 60


@pytest.mark.usefixtures("plain")
def test_a_live_display_ends_when_the_run_raises() -> None:
    out = Terminal()

    def run() -> None:
        with listener(out) as listen:
            listen(RUN[0])
            listen(RUN[2])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert out.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is shown again


def test_a_table_in_a_pipe_is_aligned_and_never_cut() -> None:
    long = "x" * 300
    rows = [["A", 31, 0.04, long], ["B", 1030, 0.5, "y\nz"], [None, None, None, None]]
    text = table(["class", "kept", "share", "note"], rows, title="Kept", stream=io.StringIO())
    assert text.split("\n") == [
        "Kept",
        "class   kept   share  note",
        f"A         31  0.0400  {long}",
        "B      1,030  0.5000  y z",
        "–          –       –  –",
    ]


@pytest.mark.usefixtures("plain")
def test_a_table_on_a_terminal_keeps_text_as_it_is() -> None:
    text = table(["a [red]", "n"], [["[bold]x[/bold]", 1234]], title="T", stream=Terminal())
    shown = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "\x1b" in text
    assert "a [red]" in shown
    assert "[bold]x[/bold]" in shown
    assert "1,234" in shown


def test_a_table_without_rows_has_its_head() -> None:
    assert table(["a", "b"], [], stream=io.StringIO()) == "a  b"
    assert table([], [], stream=io.StringIO()) == ""


@pytest.mark.parametrize("row", [["a"], ["a", 1, 2]])
def test_a_row_of_another_length_is_an_error(row: list[object]) -> None:
    with pytest.raises(ValueError, match="every row must have 2 cells"):
        table(["a", "b"], [row], stream=io.StringIO())
