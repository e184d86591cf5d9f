"""The report of a run: one HTML file that holds everything, needs no network and opens anywhere.

It is made from what a run folder holds (`run.json`, `events.jsonl`, the sources' and the steps'
manifests) and from nothing else, so the same folder gives the same bytes. A run that failed or was
interrupted gives a report too; what cannot be read is said on the page.

Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> from mbflow.flow.manifest import write_sealed
    >>> from mbflow.report import write_report
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_sealed(Path(folder) / "run.json", {"mbflow_run": 1, "name": "demo"})
    ...     write_report(Path(folder)).name
    'report.html'
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from mbflow import chart as charts
from mbflow.display import MISSING, column, count, duration, size
from mbflow.errors import DataError, ResourceError
from mbflow.flow.events import read_events
from mbflow.flow.manifest import read_sealed, write_whole

__all__ = ["write_report"]

_FOLDED_ABOVE = 40
_HALVED_FROM = 16
_SHOWN_ROWS = 2000
_STATUS = {
    "done": "Done",
    "failed": "Failed",
    "interrupted": "Interrupted",
    "running": "Not finished",
}
_SOURCE_COLUMNS = {
    "source": False,
    "reads": False,
    "rows": True,
    "size": True,
    "files": True,
    "fingerprint": False,
}
_STEP_STATUS = {"done": "run", "kept": "reused", "failed": "failed", "pending": "not run"}


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder, whole or not at all.

    Args:
        folder: A run folder, as `mbflow run` leaves it.

    Returns:
        The path of the report.

    Raises:
        DataError: There is no `run.json` in the folder, or it is damaged.
        ResourceError: The report cannot be written.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.report import write_report
        >>> write_report(Path("no-such-folder"))
        Traceback (most recent call last):
        ...
        mbflow.errors.DataError: no-such-folder: this is no run folder: it has no run.json
    """
    page = _template().render(_view(Path(folder)))
    path = Path(folder) / "report.html"
    # JSON can hold halves of surrogate pairs, which UTF-8 cannot.
    try:
        write_whole(path, page.encode("utf-8", errors="backslashreplace"))
    except OSError as error:
        raise ResourceError(
            f"{path}: cannot be written ({error.strerror or error}); the results are safe: "
            f"mend this, then run: mbflow report {folder}"
        ) from error
    return path


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["prose"] = _prose
    source = Path(__file__).with_suffix(".html.j2")
    return environment.from_string(source.read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class _Cell:
    text: str
    is_figure: bool = False
    title: str = ""
    is_code: bool = False


@dataclass(frozen=True, slots=True)
class _Table:
    """A table as the page shows it: texts, and which columns are figures."""

    title: str
    columns: list[_Cell]
    rows: list[list[_Cell]]
    left_out: int
    folded: bool

    @property
    def blocks(self) -> list[list[list[_Cell]]]:
        """The rows in one block, or in two that stand side by side where the table is narrow."""
        half = (len(self.rows) + 1) // 2
        if self.folded or len(self.columns) > 5 or len(self.rows) < _HALVED_FROM:
            return [self.rows]
        return [self.rows[:half], self.rows[half:]]


@dataclass(frozen=True, slots=True)
class _Chart:
    title: str
    ylabel: str
    series: list[str]
    svg: Markup
    has_spread: bool


def _view(folder: Path) -> dict[str, Any]:
    """Everything that the template shows, as texts ready to stand on the page."""
    try:
        run = read_sealed(folder / "run.json")
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{folder}: this is no run folder: it has no run.json") from None
    problems: list[str] = []
    events = _last_run(folder / "events.jsonl", problems)
    reasons = {e.get("step"): str(e.get("reason", "")) for e in events if "reason" in e}
    sources = _mapping(run.get("sources"))
    looked_at = {name: _manifest(folder / "sources" / f"{name}.json", problems) for name in sources}
    steps = _mapping(run.get("steps"))
    manifests = {
        name: _manifest(folder / "steps" / name / "_manifest.json", problems)
        for name, step in steps.items()
        if _mapping(step).get("status") in ("done", "kept")
    }
    build = _mapping(run.get("build"))
    if build.get("profile") == "debug":
        problems.append("mbflow was a debug build: the times say nothing about its speed.")
    warnings = [str(e.get("text", "")) for e in events if e.get("event") == "warning"]
    status = str(run.get("status", "unknown"))
    pipeline_file = str(run.get("pipeline_file") or "")
    return {
        "name": str(run.get("name") or folder.name),
        "status": status,
        "status_text": _STATUS.get(status, status),
        "started": _moment(run.get("started")),
        "took": duration(run.get("seconds")),
        "pipeline_file": pipeline_file,
        "error": str(run.get("error") or ""),
        "resume": f"mbflow run {pipeline_file}" if status in ("failed", "interrupted") else "",
        "facts": _facts(run, sources, steps, manifests),
        "warnings": [*warnings, *problems],
        "results": _results(steps, manifests),
        "notes": {
            name: [str(note) for note in notes]
            for name, manifest in manifests.items()
            if (notes := _sequence(manifest.get("notes")))
        },
        "steps": _steps(steps, reasons),
        "outputs": _outputs(manifests),
        "sources": _sources(sources),
        "inputs": _inputs(looked_at),
        "environment": _environment(run, build),
        "versions": _mapping(run.get("versions")),
        "pipeline": _as_yaml(run.get("pipeline")),
    }


def _prose(text: str) -> Markup:
    """Text for people, escaped, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`\n]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704


def _mapping(value: object) -> dict[str, Any]:
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}


def _sequence(value: object) -> list[Any]:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []


def _manifest(path: Path, problems: list[str]) -> dict[str, Any]:
    """A sealed document, or nothing and a line among the problems."""
    try:
        return read_sealed(path)
    except FileNotFoundError:
        problems.append(f"{path.parent.name}/{path.name} is missing, so this page leaves it out.")
    except (DataError, OSError) as error:
        problems.append(f"{path.parent.name}/{path.name} cannot be read: {error}")
    return {}


def _last_run(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The events since the run was last started; the log keeps those of earlier starts too."""
    events: list[dict[str, Any]] = []
    damaged = 0
    for record, sound in read_events(path):
        damaged += not sound
        if sound and record.get("event") == "run_started":
            events.clear()
        if sound:
            events.append(record)
    if damaged:
        problems.append(f"events.jsonl is damaged: {_counted(damaged, 'line')} left out.")
    return events


def _moment(value: object) -> str:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return str(value or "")
    offset = moment.utcoffset()
    zone = "" if offset is None else " UTC" if offset == timedelta(0) else f" {moment:%z}"
    if offset is not None and moment.tzinfo is UTC:
        zone = " UTC"
    return f"{moment.day} {moment:%B %Y, %H:%M:%S}{zone}"


def _facts(
    run: Mapping[str, Any],
    sources: Mapping[str, Any],
    steps: Mapping[str, Any],
    manifests: Mapping[str, Mapping[str, Any]],
) -> list[tuple[str, str, str]]:
    """The headline: (label, figure, what stands small beside it)."""
    facts: list[tuple[str, str, str]] = []
    rows_in = sum(_whole(_mapping(source).get("rows")) for source in sources.values())
    bytes_in = sum(_whole(_mapping(source).get("bytes")) for source in sources.values())
    if sources:
        facts.append(("Rows in", count(rows_in), size(bytes_in)))
    kept = [m for m in manifests.values() if m.get("kind") == "kept"]
    if kept:
        rows = _whole(kept[-1].get("rows"))
        share = f"{100 * rows / rows_in:.3g} % of the rows" if rows_in else ""
        facts.append(("Rows kept", count(rows), share))
    states = [str(_mapping(step).get("status")) for step in steps.values()]
    others = [(state, states.count(state)) for state in ("kept", "failed", "pending")]
    aside = ", ".join(f"{number} {_STEP_STATUS[state]}" for state, number in others if number)
    facts.append(("Steps run", count(states.count("done")), aside or f"of {len(states)}"))
    threads = _whole(run.get("threads"))
    spent = sum(map(_seconds, steps.values()))
    aside = f", {duration(spent)} when the steps ran" if "kept" in states else ""
    took = duration(run.get("seconds"))
    facts.append(("Time", took, _counted(threads, "thread") + aside))
    written = sum(_whole(_mapping(step).get("bytes")) for step in steps.values())
    parts = sum(len(_sequence(manifest.get("files"))) for manifest in manifests.values())
    facts.append(("Output", size(written), _counted(parts, "file")))
    return facts


def _seconds(step: object) -> float:
    seconds = _mapping(step).get("seconds")
    return seconds if isinstance(seconds, int | float) else 0.0


def _counted(number: int, noun: str) -> str:
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _results(
    steps: Mapping[str, Any], manifests: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What the steps show, in their order."""
    results = []
    for number, (name, manifest) in enumerate(manifests.items(), 1):
        drawn = [
            chart
            for index, one in enumerate(_sequence(manifest.get("charts")), 1)
            if (chart := _chart(_mapping(one), f"c{number}-{index}")) is not None
        ]
        tables = [_table(_mapping(one)) for one in _sequence(manifest.get("tables"))]
        if drawn or tables:
            use = str(_mapping(steps.get(name)).get("use", ""))
            titles = {chart.title for chart in drawn}
            results.append(
                {"name": name, "use": use, "charts": drawn, "tables": tables, "titles": titles}
            )
    return results


def _chart(chart: Mapping[str, Any], salt: str) -> _Chart | None:
    series = [_mapping(one) for one in _sequence(chart.get("series"))]
    groups = _sequence(chart.get("groups"))
    known = {**chart, "groups": groups, "series": series}
    try:
        svg = charts.draw(known, salt=salt)
    except ValueError:
        return None  # no numbers: the tables say what there is
    return _Chart(
        title=str(chart.get("title") or ""),
        ylabel=str(chart.get("ylabel") or ""),
        series=_legend(known),
        svg=Markup(svg),  # noqa: S704 - matplotlib escapes every text in it
        has_spread=charts.has_spread(known),
    )


def _legend(chart: Mapping[str, Any]) -> list[str]:
    """What colours stand for: series, or the groups of points where those are named."""
    named = [str(name) for name in _sequence(chart.get("group_names"))]
    if chart.get("kind") != "scatter" or not named:
        return charts.series_names(chart)
    if len(named) <= charts.SERIES_COLOURS:
        return named
    # Colours come round again, so one stands for several groups.
    rounds = range(charts.SERIES_COLOURS)
    return [_listed(named[first :: charts.SERIES_COLOURS]) for first in rounds]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 4 else ""
    return ", ".join(names[:3] if more else names) + more


def _table(table: Mapping[str, Any]) -> _Table:
    names = [str(name) for name in _sequence(table.get("columns"))]
    rows = [_sequence(row) for row in _sequence(table.get("rows"))]
    shown = rows[:_SHOWN_ROWS]
    width = max([len(names), *(len(row) for row in shown)])
    names += [""] * (width - len(names))
    cells: list[list[_Cell]] = [[] for _ in shown]
    head: list[_Cell] = []
    for place, name in enumerate(names):
        texts, is_figure = column([row[place] if place < len(row) else None for row in shown])
        head.append(_Cell(name, is_figure))
        for line, text in zip(cells, texts, strict=True):
            line.append(_Cell(text, is_figure))
    return _Table(
        title=str(table.get("title") or ""),
        columns=head,
        rows=cells,
        left_out=len(rows) - len(shown),
        folded=len(rows) > _FOLDED_ABOVE,
    )


def _steps(steps: Mapping[str, Any], reasons: Mapping[Any, str]) -> list[dict[str, Any]]:
    known = {name: _mapping(step) for name, step in steps.items()}
    times = {name: step.get("seconds") for name, step in known.items()}
    longest = max((t for t in times.values() if isinstance(t, int | float)), default=0)
    shown = []
    for name, step in known.items():
        seconds = times[name]
        share = seconds / longest if isinstance(seconds, int | float) and longest > 0 else 0
        status = str(step.get("status", ""))
        shown.append(
            {
                "name": name,
                "use": str(step.get("use", "")),
                "inputs": ", ".join(str(one) for one in _sequence(step.get("from"))),
                "status": status,
                "status_text": _STEP_STATUS.get(status, status),
                "reason": reasons.get(name, ""),
                "time": duration(seconds),
                "share": f"{100 * min(max(share, 0), 1):.1f}",
                "rows": count(step.get("rows")),
                "bytes": size(step.get("bytes")),
                "fingerprint": str(step.get("fingerprint") or ""),
            }
        )
    return shown


def _plain_table(
    title: str, columns: Mapping[str, bool], rows: Iterable[Sequence[_Cell]]
) -> _Table | None:
    lines = [list(row) for row in rows]
    if not lines:
        return None
    head = [_Cell(name, is_figure) for name, is_figure in columns.items()]
    kept = lines[:_SHOWN_ROWS]
    return _Table(title, head, kept, len(lines) - len(kept), folded=len(lines) > _FOLDED_ABOVE)


def _hash(value: object) -> _Cell:
    """A checksum by its first digits; the whole of it stands in the title."""
    text = str(value or "")
    return _Cell(text[:12] if text else MISSING, title=text, is_code=True)


def _outputs(manifests: Mapping[str, Mapping[str, Any]]) -> _Table | None:
    return _plain_table(
        "Output files",
        {"step": False, "file": False, "rows": True, "size": True, "XXH3-128": False},
        (
            (
                _Cell(name),
                _Cell(str(part.get("name", ""))),
                _Cell(count(part.get("rows")), is_figure=True),
                _Cell(size(part.get("bytes")), is_figure=True),
                _hash(part.get("xxh3_128")),
            )
            for name, manifest in manifests.items()
            for part in map(_mapping, _sequence(manifest.get("files")))
        ),
    )


def _sources(sources: Mapping[str, Any]) -> _Table | None:
    return _plain_table(
        "",
        {
            "source": False,
            "reads": False,
            "rows": True,
            "size": True,
            "files": True,
            "fingerprint": False,
        },
        (
            (
                _Cell(name),
                _Cell(_described(source)),
                _Cell(count(source.get("rows")), is_figure=True),
                _Cell(size(source.get("bytes")), is_figure=True),
                _Cell(count(source.get("files")), is_figure=True),
                _hash(source.get("fingerprint")),
            )
            for name, source in ((name, _mapping(one)) for name, one in sources.items())
        ),
    )


def _described(source: Mapping[str, Any]) -> str:
    where = source.get("where")
    return f"{source.get('use', '')}, where {where}" if where else str(source.get("use", ""))


def _inputs(manifests: Mapping[str, Mapping[str, Any]]) -> _Table | None:
    return _plain_table(
        "Input files",
        {"source": False, "file": False, "rows": True, "size": True, "XXH3-128": False},
        (
            (
                _Cell(name),
                _Cell(str(part.get("name", "")), title=str(part.get("path") or "")),
                _Cell(count(part.get("rows")), is_figure=True),
                _Cell(size(part.get("size")), is_figure=True),
                _hash(part.get("xxh3_128")),
            )
            for name, manifest in manifests.items()
            for part in map(_mapping, _sequence(manifest.get("files")))
        ),
    )


def _environment(run: Mapping[str, Any], build: Mapping[str, Any]) -> list[tuple[str, str]]:
    machine = _mapping(run.get("machine"))
    built = [str(build[key]) for key in ("profile", "features", "target") if build.get(key)]
    lines = [
        ("Seed", str(run.get("seed", MISSING))),
        ("Threads", count(run.get("threads"))),
        ("Build", ", ".join(built)),
        ("System", str(machine.get("system") or "")),
        ("Processor", str(machine.get("cpu") or machine.get("processor") or "")),
        ("Cores", count(machine.get("cores")) if "cores" in machine else ""),
        ("Started", _moment(run.get("started"))),
        ("Finished", _moment(run.get("finished"))),
    ]
    return [(label, text) for label, text in lines if text]


def _as_yaml(document: object) -> str:
    """Plain data as YAML, in the order it has."""
    if not document:
        return ""
    from io import StringIO

    from ruamel.yaml import YAML

    yaml = YAML(pure=True)
    yaml.width = 100
    stream = StringIO()
    yaml.dump(_laid_out(document), stream)
    return stream.getvalue()


def _laid_out(value: object) -> object:
    """The same data with lists of single values on one line each."""
    from ruamel.yaml.comments import CommentedSeq

    if isinstance(value, dict):
        return {key: _laid_out(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    items = CommentedSeq([_laid_out(item) for item in value])
    if not any(isinstance(item, dict | list) for item in value):
        items.fa.set_flow_style()
    return items
