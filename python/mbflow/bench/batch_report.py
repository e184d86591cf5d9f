"""The result of `bench batches` as files: JSON, drawings, and one page that needs no network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mbflow import chart
from mbflow.bench.batches import TITLES
from mbflow.bench.corpora import CORPORA
from mbflow.display import column
from mbflow.flow.manifest import write_whole

__all__ = ["charts", "drawing", "page", "store"]

_LIGHT = {
    "--page": "#f7f7f5", "--card": "#ffffff", "--ink": "#1a1e24", "--faint": "#626b76",
    "--line": "#e3e4e1", "--grid": "#ecedea", "--series-1": "#5b6673", "--series-2": "#e69f00",
    "--series-3": "#0072b2", "--series-4": "#009e73", "--series-5": "#cc79a7",
    "--series-6": "#56b4e9",
}  # fmt: skip
_DARK = _LIGHT | {
    "--page": "#101317", "--card": "#171b21", "--ink": "#e7eaee", "--faint": "#97a1ad",
    "--line": "#2a3038", "--grid": "#262c34", "--series-1": "#9aa5b1", "--series-2": "#f0b429",
    "--series-3": "#4aa3df", "--series-4": "#2fbf93", "--series-5": "#dd93bd",
    "--series-6": "#8ccdf3",
}  # fmt: skip

_CORPORA = {
    "librispeech": "LibriSpeech",
    "wenet": "WenetSpeech",
    "ted": "TED-LIUM",
    "log_normal": "log-normal",
}
_PADDED = (
    "lhotse 30",
    "lhotse 120, bins given, buffer 100k",
    "mbflow buckets 30",
    "mbflow buckets 120",
    "mbflow window",
)
_RANKED = ("lhotse 30", "lhotse 30, not synchronised", "mbflow buckets 30", "mbflow window")
_COSTS = (("efficiency", "T"), ("efficiency_quadratic", "T + T²/30"))


def charts(tables: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Charts of what the tables hold, as `mbflow.chart.bars` takes them.

    Args:
        tables: The `tables` of a result.

    Returns:
        By name: `padding` in per cent by corpus, and `stragglers`: what ranks lose by waiting for
        the slowest, in per cent, by number of ranks and cost of an item.

    Example:
        >>> from mbflow.bench.batch_report import charts
        >>> charts({})
        {}
    """
    found = {}
    padded = tables.get("padding", [])
    names = [name for name in CORPORA if any(row["corpus"] == name for row in padded)]
    if names:
        values = {(row["corpus"], row["strategy"]): row["padding"] for row in padded}
        found["padding"] = {
            "title": "Padding by strategy, in per cent of the seconds that are computed",
            "ylabel": "padding, %",
            "decimals": 2,
            "groups": [_CORPORA[name] for name in names],
            "series": [
                {"name": one, "mean": [values.get((name, one)) for name in names]}
                for one in _PADDED
            ],
        }
    ranked = [row for row in tables.get("ranks", []) if not row["drop_last"]]
    if ranked:
        corpus = ranked[-1]["corpus"]
        rows = {(row["strategy"], row["ranks"]): row for row in ranked if row["corpus"] == corpus}
        sizes = sorted({size for _, size in rows})
        found["stragglers"] = {
            "title": f"Waiting for the slowest rank, {_CORPORA[corpus]}, by what T seconds cost",
            "ylabel": "share of the time, %",
            "decimals": 2,
            "groups": [f"{size} ranks, {cost}" for size in sizes for _, cost in _COSTS],
            "series": [
                {
                    "name": one,
                    "mean": [
                        _lost(rows.get((one, size), {}).get(key))
                        for size in sizes
                        for key, _ in _COSTS
                    ],
                }
                for one in _RANKED
            ],
        }
    return found


def _lost(efficiency: float | None) -> float | None:
    return None if efficiency is None else 100 - efficiency


def drawing(given: dict[str, Any], *, salt: str) -> str:
    """A chart as an SVG file of its own, with its title, a legend and colours on white.

    Args:
        given: The chart.
        salt: Set before every id in the SVG.

    Returns:
        The text of the file.

    Example:
        >>> from mbflow.bench.batch_report import drawing
        >>> chart = {"groups": ["a"], "series": [{"name": "x", "mean": [1.0]}], "title": "A"}
        >>> drawing(chart, salt="c").startswith("<svg")
        True
    """
    from html import escape

    svg = chart.bars(given, salt=salt)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert box is not None
    width, height = float(box[1]), float(box[2])
    title = escape(str(given.get("title", "")))
    words = [
        f'<text x="10" y="18" font-size="12" font-weight="600" fill="var(--ink)">{title}</text>'
    ]
    at, line = 10.0, 36.0
    for number, name in enumerate(chart.series_names(given), 1):
        # Letters of a font without serifs are half as wide as high, on average.
        room = 24 + 4.9 * len(name)
        if at + room > width:
            at, line = 10.0, line + 15
        words.append(
            f'<rect x="{at:.1f}" y="{line - 8:g}" width="9" height="9" '
            f'fill="var(--series-{number})"/><text x="{at + 13:.1f}" y="{line:g}" font-size="10" '
            f'fill="var(--faint)">{escape(name)}</text>'
        )
        at += room
    top = line + 10
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height + top:g}" '
        f'width="{width:g}" height="{height + top:g}" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="var(--card)"/>'
    )
    inner = svg.replace("<svg", f'<svg y="{top:g}" width="{width:g}" height="{height:g}"', 1)
    whole = "\n".join([head, *words, inner, "</svg>", ""])
    for name, colour in _LIGHT.items():
        whole = whole.replace(f"var({name})", colour)
    return whole


def page(result: dict[str, Any]) -> str:
    """The result as one HTML page.

    Args:
        result: `environment`, `parameters` and `tables`.

    Returns:
        The page.

    Example:
        >>> from mbflow.bench.batch_report import page
        >>> result = {"environment": {}, "parameters": {}, "tables": {}}
        >>> page(result).startswith("<!doctype html>")
        True
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    source = Path(__file__).with_name("batches.html.j2").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    drawn = [
        {
            "title": one["title"],
            "series": chart.series_names(one),
            "svg": Markup(chart.bars(one, salt=name)),  # noqa: S704 - its texts are escaped
        }
        for name, one in charts(result["tables"]).items()
    ]
    tables = [_table(TITLES[name], rows) for name, rows in result["tables"].items() if rows]
    text: str = environment.from_string(source).render(
        light=_LIGHT,
        dark=_DARK,
        charts=drawn,
        tables=tables,
        environment=_line(result["environment"]),
        parameters=_line(result["parameters"]),
    )
    return text


def _line(values: dict[str, Any]) -> str:
    return " · ".join(f"{key}: {_words(value)}" for key, value in values.items())


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items() if one is not None)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _table(title: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    # A column of notes that nobody wrote says nothing.
    names = [name for name in rows[0] if any(row[name] != "" for row in rows)]
    columns = [column([row[name] for row in rows]) for name in names]
    return {
        "title": title,
        "head": [
            {"text": name.replace("_", " "), "figure": figure}
            for name, (_, figure) in zip(names, columns, strict=True)
        ],
        "rows": [
            {
                "own": str(row.get("strategy", "")).startswith("mbflow"),
                "cells": [
                    {"text": texts[place], "figure": figure, "name": name == "strategy"}
                    for name, (texts, figure) in zip(names, columns, strict=True)
                ],
            }
            for place, row in enumerate(rows)
        ],
    }


def store(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write `batches.json`, `batches.html` and a drawing for each chart; returns the paths.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mbflow.bench.batch_report import store
        >>> result = {"environment": {}, "parameters": {}, "tables": {}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in store(result, Path(folder))]
        ['batches.json', 'batches.html']
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"batches.json": json.dumps(result, indent=1) + "\n", "batches.html": page(result)}
    for name, one in charts(result["tables"]).items():
        texts[f"batches-{name}.svg"] = drawing(one, salt=name)
    for name, text in texts.items():
        write_whole(folder / name, text.encode())
    return [folder / name for name in texts]
