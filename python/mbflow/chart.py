"""Charts as SVG text that stands inside an HTML page and takes its colours from there.

Colours in the SVG are CSS variables (`--ink`, `--faint`, `--grid`, `--series-1` and so on), so that
one drawing serves a light and a dark page. The same chart gives the same text, byte for byte.

Example:
    >>> from mbflow.chart import bars
    >>> svg = bars({"groups": ["a"], "series": [{"name": "x", "mean": [0.5]}]}, salt="c1")
    >>> svg.startswith("<svg"), "var(--series-1)" in svg
    (True, True)
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["SERIES_COLOURS", "bars", "draw", "has_spread", "lines", "scatter", "series_names"]

SERIES_COLOURS = 6
"""Series that have a colour of their own; further ones start again with the first."""

# Colours that stand for a CSS variable while matplotlib draws. No chart uses them otherwise.
_VARIABLES = {"#fe0001": "--ink", "#fe0002": "--faint", "#fe0003": "--grid"} | {
    f"#fe001{number}": f"--series-{number}" for number in range(1, SERIES_COLOURS + 1)
}
_INK, _FAINT, _GRID = "#fe0001", "#fe0002", "#fe0003"
_LABELLED_BARS = 18
_NAMED_GROUPS = 16
_LARGEST_PLAIN = 1e7
_WIDTH, _HEIGHT = 8.6, 3.3


def series_names(chart: Mapping[str, Any]) -> list[str]:
    """The names of a chart's series in the order of their colours, for a legend in HTML.

    Example:
        >>> from mbflow.chart import series_names
        >>> series_names({"series": [{"name": "all rows"}, {}]})
        ['all rows', 'series 2']
    """
    series = chart.get("series") or []
    return [str(one.get("name", f"series {number}")) for number, one in enumerate(series, 1)]


def has_spread(chart: Mapping[str, Any]) -> bool:
    """Whether a chart has whiskers: a deviation above 0, as single runs have none.

    Example:
        >>> from mbflow.chart import has_spread
        >>> has_spread({"groups": ["a", "b"], "series": [{"mean": [0.5, 0.7], "sd": [0, None]}]})
        False
    """
    groups = len(chart.get("groups") or [])
    spreads = (_numbers(one.get("sd"), groups) for one in chart.get("series") or [])
    return any(abs(sd) > 0 for row in spreads for sd in row)


def draw(chart: Mapping[str, Any], *, salt: str) -> str:
    """Draw a chart by its `kind`: "bars" (the default), "lines" or "scatter".

    Raises:
        ValueError: There is nothing to draw, or no such kind.

    Example:
        >>> from mbflow.chart import draw
        >>> draw({"kind": "pie"}, salt="a")
        Traceback (most recent call last):
        ...
        ValueError: there is no chart 'pie'; expected bars, lines or scatter
    """
    kind = chart.get("kind") or "bars"
    drawers = {"bars": bars, "lines": lines, "scatter": scatter}
    if kind not in drawers:
        raise ValueError(f"there is no chart {kind!r}; expected bars, lines or scatter")
    return drawers[kind](chart, salt=salt)


def lines(chart: Mapping[str, Any], *, salt: str) -> str:
    """Draw one line a series over the groups, each point with its standard deviation as a whisker.

    Args:
        chart: As for `bars`; the y axis holds the values, not zero.
        salt: Set before every id in the SVG.

    Returns:
        An `<svg>` element without a legend.

    Raises:
        ValueError: There is nothing to draw.

    Example:
        >>> from mbflow.chart import lines
        >>> chart = {"groups": ["90 %", "96 %"], "series": [{"name": "all", "mean": [0.9, 0.8]}]}
        >>> lines(chart, salt="a").startswith("<svg")
        True
    """
    groups = [str(group) for group in chart.get("groups") or []]
    series = list(chart.get("series") or [])
    heights = [_numbers(one.get("mean"), len(groups)) for one in series]
    if not any(not math.isnan(number) for row in heights for number in row):
        raise ValueError("the chart has no numbers; expected `groups` and `series` with `mean`")

    def paint(axes: Any) -> None:
        for index, (row, one) in enumerate(zip(heights, series, strict=True)):
            places = [group + (index - (len(heights) - 1) / 2) * 0.02 for group in range(len(row))]
            axes.plot(places, row, color=_colour(index), linewidth=2, marker="o", markersize=5)
            _whiskers(axes, places, row, _numbers(one.get("sd"), len(groups)))
        axes.set_xlim(-0.3, len(groups) - 0.7)
        # Of many groups, such as epochs, every so many has its name, and the last one always.
        apart = -(-len(groups) // _NAMED_GROUPS)
        named = range((len(groups) - 1) % apart, len(groups), apart)
        axes.set_xticks(named, [_plain(_short(groups[at], len(named))) for at in named])
        axes.set_ylabel(_plain(str(chart.get("ylabel") or "")), color=_FAINT, labelpad=8)
        axes.tick_params(axis="x", length=0, colors=_INK, pad=6)
        axes.grid(visible=True, axis="y", color=_GRID, linewidth=1)

    return _figure(paint, salt, height=_HEIGHT)


def scatter(chart: Mapping[str, Any], *, salt: str) -> str:
    """Draw points: the first series small and faint, the later ones over it, larger.

    Args:
        chart: `series`, each with `name`, `x`, `y` and `group` (a number for each point, which
            picks its colour; the first colour without), `xlabel`, `ylabel`.
        salt: Set before every id in the SVG.

    Returns:
        An `<svg>` element without a legend.

    Raises:
        ValueError: There is nothing to draw.

    Example:
        >>> from mbflow.chart import scatter
        >>> chart = {"series": [{"name": "dropped", "x": [0.0, 1.0], "y": [0.5, 0.1]}]}
        >>> scatter(chart, salt="a").startswith("<svg")
        True
    """
    series = list(chart.get("series") or [])
    points: list[tuple[list[float], list[float], list[int]]] = []
    for one in series:
        given = one.get("x")
        count = len(given) if isinstance(given, Sequence) else 0
        x, y = _numbers(given, count), _numbers(one.get("y"), count)
        groups = [0 if math.isnan(g) else int(g) for g in _numbers(one.get("group"), count)]
        points.append((x, y, groups))
    if not any(x for x, _, _ in points):
        raise ValueError("the chart has no points; expected `series` with `x` and `y`")

    def paint(axes: Any) -> None:
        for layer, (x, y, groups) in enumerate(points):
            for group in sorted(set(groups)):
                chosen = [index for index, own in enumerate(groups) if own == group]
                axes.plot(
                    [x[i] for i in chosen],
                    [y[i] for i in chosen],
                    linestyle="none",
                    marker="o",
                    markersize=3.2 if layer == 0 else 4.2,
                    color=_colour(group),
                    alpha=0.45 if layer == 0 else 1.0,
                    markeredgewidth=0 if layer == 0 else 0.7,
                    markeredgecolor=_INK,
                )
        axes.set_xlabel(_plain(str(chart.get("xlabel") or "")), color=_FAINT)
        axes.set_ylabel(_plain(str(chart.get("ylabel") or "")), color=_FAINT, labelpad=8)
        axes.tick_params(axis="x", length=0, colors=_FAINT)

    return _figure(paint, salt, height=2 * _HEIGHT)


def _colour(index: int) -> str:
    return f"#fe001{index % SERIES_COLOURS + 1}"


def bars(chart: Mapping[str, Any], *, salt: str) -> str:
    """Draw one bar for each group and series, from zero, with its standard deviation as a whisker.

    Args:
        chart: `groups` (names), `series` (each with `name`, `mean` and `sd`, one number a group;
            None where there is none), `ylabel`, and `decimals` of the labels (default 3; fewer
            where the largest is 100 or more).
        salt: Set before every id in the SVG, so that several charts fit in one page.

    Returns:
        An `<svg>` element without a legend; see `series_names`.

    Raises:
        ValueError: There is nothing to draw.

    Example:
        >>> from mbflow.chart import bars
        >>> chart = {"groups": ["1-NN"], "series": [{"name": "all", "mean": [0.9], "sd": [0.01]}]}
        >>> bars(chart, salt="a") == bars(chart, salt="a")
        True
    """
    groups = [str(group) for group in chart.get("groups") or []]
    series = list(chart.get("series") or [])
    heights = [_numbers(one.get("mean"), len(groups)) for one in series]
    spreads = [_numbers(one.get("sd"), len(groups)) for one in series]
    drawn = [number for row in heights for number in row if not math.isnan(number)]
    if not drawn:
        raise ValueError("the chart has no numbers; expected `groups` and `series` with `mean`")
    decimals = int(chart.get("decimals", 3))
    return _draw(groups, heights, spreads, str(chart.get("ylabel") or ""), salt, decimals)


def _numbers(values: object, length: int) -> list[float]:
    """One float for each group; NaN where there is no finite number."""
    given = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
    result = []
    for value in given[:length]:
        usable = isinstance(value, int | float) and not isinstance(value, bool)
        usable = usable and abs(value) < 1e300  # False for NaN and infinities too
        result.append(float(value) if usable else math.nan)
    return result + [math.nan] * (length - len(result))


def _draw(
    groups: list[str],
    heights: list[list[float]],
    spreads: list[list[float]],
    ylabel: str,
    salt: str,
    decimals: int,
) -> str:
    def paint(axes: Any) -> None:
        width = 0.8 / len(heights)
        labelled = len(groups) * len(heights) <= _LABELLED_BARS
        low, high = _limits(heights, spreads)
        pattern = _pattern(heights, decimals)
        for index, (row, spread) in enumerate(zip(heights, spreads, strict=True)):
            places = [
                group + (index - (len(heights) - 1) / 2) * width for group in range(len(groups))
            ]
            axes.bar(places, row, width=width * 0.86, color=_colour(index), linewidth=0)
            _whiskers(axes, places, row, spread)
            if labelled:
                _labels(axes, places, row, spread, (high - low) * 0.018, pattern)
        axes.set_ylim(low, high)
        axes.set_xlim(-0.55, len(groups) - 0.45)
        axes.set_xticks(range(len(groups)), [_plain(_short(name, len(groups))) for name in groups])
        axes.set_ylabel(_plain(ylabel), color=_FAINT, labelpad=8)
        axes.tick_params(axis="x", length=0, colors=_INK, pad=6)
        axes.grid(visible=True, axis="y", color=_GRID, linewidth=1)
        if low < 0:
            axes.axhline(0, color=_FAINT, linewidth=0.8)

    return _figure(paint, salt, height=_HEIGHT)


def _figure(paint: Callable[[Any], None], salt: str, *, height: float) -> str:
    """The SVG of one pair of axes in the style of the page."""
    # Imported here: matplotlib takes half a second, and runs without a chart need none of it.
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # The figure is made without pyplot, so no global figure or backend is touched.
    style: Any = {
        "svg.hashsalt": salt,
        "svg.fonttype": "none",
        "font.size": 10.5,
        "text.usetex": False,
        "text.parse_math": False,  # a name in data may hold a `$`
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(_WIDTH, height), facecolor="none", layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot(facecolor="none")
        paint(axes)
        axes.tick_params(axis="y", length=0, colors=_FAINT)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(_FAINT)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with warnings.catch_warnings():
            # Letters that matplotlib's font lacks are drawn by the reader's browser.
            warnings.simplefilter("ignore")
            figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    return _inline(buffer.getvalue(), salt)


def _limits(heights: list[list[float]], spreads: list[list[float]]) -> tuple[float, float]:
    """The y axis always holds zero, since a bar's length is its value; shares end at one."""
    pairs = [
        (height, 0.0 if math.isnan(spread) else abs(spread))
        for row, others in zip(heights, spreads, strict=True)
        for height, spread in zip(row, others, strict=True)
        if not math.isnan(height)
    ]
    low = min(0.0, *(height - spread for height, spread in pairs))
    high = max(0.0, *(height + spread for height, spread in pairs))
    if low == 0 and 0.5 < high <= 1:
        return 0.0, 1.08
    room = (high - low or 1.0) * 0.12
    return (low - room if low < 0 else 0.0), high + room


def _whiskers(axes: Any, places: list[float], row: list[float], spread: list[float]) -> None:
    # No spread, as of a single run, has no whisker.
    shown = [i for i, sd in enumerate(spread) if abs(sd) > 0 and not math.isnan(row[i])]
    axes.errorbar(
        [places[i] for i in shown],
        [row[i] for i in shown],
        yerr=[abs(spread[i]) for i in shown],
        fmt="none",
        ecolor=_INK,
        elinewidth=1.1,
        capsize=2.6,
        capthick=1.1,
    )


def _pattern(heights: list[list[float]], decimals: int) -> str:
    """One format for the labels of all bars: about four digits of the largest."""
    largest = max(abs(number) for row in heights for number in row if not math.isnan(number))
    if largest >= _LARGEST_PLAIN:
        return ",.4g"
    digits = len(str(int(largest)))
    return f",.{decimals if digits == 1 else min(decimals, max(0, 4 - digits))}f"


def _labels(
    axes: Any,
    places: list[float],
    row: list[float],
    spread: list[float],
    gap: float,
    pattern: str,
) -> None:
    for place, height, sd in zip(places, row, spread, strict=True):
        if math.isnan(height):
            continue
        reach = 0.0 if math.isnan(sd) else abs(sd)
        up = height >= 0
        axes.text(
            place,
            height + (reach + gap) * (1 if up else -1),
            f"{height:{pattern}}",
            ha="center",
            va="bottom" if up else "top",
            color=_INK,
            fontsize=9.5,
        )


def _short(name: str, groups: int) -> str:
    """A name that leaves room for its neighbours."""
    room = max(6, 96 // max(1, groups))
    return name if len(name) <= room else name[: room - 1] + "…"


def _plain(text: str) -> str:
    """Text without control characters, which XML cannot hold."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _inline(svg: str, salt: str) -> str:
    """The `<svg>` element alone, with CSS variables for colours and ids of its own."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</defs>\s*", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="', f'id="{salt}-', svg)
    svg = re.sub(r'(xlink:href="|url\()#', rf"\1#{salt}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return re.sub(r" font-family: [^;\"]*;", "", svg)  # the page sets the font
