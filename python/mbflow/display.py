"""How counts, sizes, durations and columns of figures are written for people.

The report, the progress lines and the tables of the command line all write figures this way, so
that one number looks the same everywhere. Machines read JSON and Parquet instead.

Example:
    >>> from mbflow.display import count, duration, size
    >>> count(20000), size(4_120_000), duration(83.2)
    ('20,000', '4.1 MB', '1 min 23 s')
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

__all__ = ["MISSING", "column", "count", "duration", "size"]

MISSING = "–"
"""What stands where there is no figure."""

_LARGEST_PLAIN = 1e15
_NUMBER = r"[-+−]?\d[\d.,]*(e[-+]?\d+)?"
_FIGURE = re.compile(
    rf"[~<>]?\s?{_NUMBER}(\s?[±×/]\s?{_NUMBER})?(\s?(%|[a-zA-Z]{{1,3}}))?(\s\d+ \w+)?"
)


def _finite(value: object) -> float | None:
    """The value as a finite number, or None where it is none (booleans are no figures)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def count(value: object) -> str:
    """A whole number with separators of thousands; `MISSING` for what is none.

    Example:
        >>> from mbflow.display import count
        >>> count(1234567), count(None)
        ('1,234,567', '–')
    """
    number = _finite(value)
    return MISSING if number is None else f"{round(number):,}"


def size(value: object) -> str:
    """A number of bytes in decimal units, as file managers and disks state it.

    Example:
        >>> from mbflow.display import size
        >>> size(812), size(41_000), size(2.5e9)
        ('812 B', '41 kB', '2.5 GB')
    """
    number = _finite(value)
    if number is None:
        return MISSING
    if abs(number) < 1000:
        return f"{number:.0f} B"
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        number /= 1000
        if abs(number) < 999.5 or unit == "PB":
            return f"{number:.1f} {unit}" if abs(number) < 9.95 else f"{number:,.0f} {unit}"
    return MISSING


def duration(seconds: object) -> str:
    """Seconds as two units at most.

    Example:
        >>> from mbflow.display import duration
        >>> duration(0.0042), duration(2.34), duration(59.96), duration(4000)
        ('4 ms', '2.3 s', '1 min 00 s', '1 h 07 min')
    """
    number = _finite(seconds)
    if number is None:
        return MISSING
    if number < 0.9995:
        return f"{number * 1000:.0f} ms"
    if number < 59.95:
        return f"{number:.1f} s"
    whole = round(number)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(number / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def column(values: Sequence[Any]) -> tuple[list[str], bool]:
    """The cells of one column, written alike, and whether they are figures (so: right-aligned).

    Whole numbers get separators of thousands. Other numbers all get the same number of decimals:
    enough for four significant digits of the largest, without zeros that all of them end in.
    Very large and very small numbers get a power of ten.

    Args:
        values: Plain data; None and NaN become `MISSING`.

    Returns:
        One text for each value, and True where all values are figures.

    Example:
        >>> from mbflow.display import column
        >>> column([0.95, 0.6412345, None])
        (['0.9500', '0.6412', '–'], True)
        >>> column([20000, 800])
        (['20,000', '800'], True)
        >>> column(["A", 1])
        (['A', '1'], False)
    """
    present = [value for value in values if value is not None]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in present):
        return [_text(value) for value in values], all(map(_reads_as_figure, present))
    if all(isinstance(value, int) for value in present):
        return [MISSING if value is None else f"{value:,}" for value in values], bool(present)
    pattern = _pattern([number for value in present if (number := _finite(value)) is not None])
    return [_float(value, pattern) for value in values], True


def _pattern(finite: list[float]) -> str:
    """One format for all numbers of a column."""
    largest = max((abs(number) for number in finite), default=0.0)
    smallest = min((abs(number) for number in finite if number), default=largest)
    if largest >= _LARGEST_PLAIN or (largest and largest < 1e-3) or (smallest and smallest < 1e-7):
        return ".3g"
    decimals = 4 if largest <= 1 else max(0, 4 - len(str(int(largest))))
    texts = [f"{number:.{decimals}f}" for number in finite]
    while decimals > 1 and largest > 1 and all(text.endswith("0") for text in texts):
        decimals -= 1
        texts = [text[:-1] for text in texts]
    return f",.{decimals}f"


def _float(value: object, pattern: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    number = _finite(value)
    if number is None:
        return str(value) if isinstance(value, float) else f"{value:,}"
    return f"{number:{pattern}}"


def _text(value: object) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def _reads_as_figure(value: object) -> bool:
    """Whether a text is a figure, with its spread or unit: `0.951 ± 0.003`, `4 %`, `1 min 14 s`."""
    return isinstance(value, str) and bool(value == MISSING or _FIGURE.fullmatch(value))
