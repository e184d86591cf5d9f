"""The step `speech.durations`: how long each utterance of a source is, from columns or from audio.

Example:
    >>> from mbflow.steps import CATALOGUE
    >>> CATALOGUE["speech.durations"].takes
    ('rows',)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mbflow.display import duration
from mbflow.errors import DataError
from mbflow.flow.dataset import Dataset
from mbflow.flow.parts import parts
from mbflow.flow.source import Source
from mbflow.flow.step import Context, Forecast
from mbflow.speech import Lengths
from mbflow.steps.speech_measure import DurationsParameters, Measure, Measured, measure

__all__ = ["Utterances", "durations", "forecast_durations", "marks"]

DROPPED = "dropped"
_SHOWN = 20
# A forecast looks at the audio of about so many rows, at so many places.
_LOOKED_AT = 1024
_PLACES = 32
_BARS = 24
_MARKS = 12


def durations(context: Context, parameters: DurationsParameters) -> None:
    """Run `speech.durations`.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["speech.durations"].gives
        'durations'
    """
    source = context.source
    assert source is not None
    rows = _rows(source)
    tasks = [Measure(part, parameters) for part in parts(source, parameters.columns)]
    wrong: list[tuple[int, str]] = []
    found: list[Measured] = []
    done = 0
    for task, measured in zip(tasks, context.map(measure, tasks), strict=True):
        wrong += measured.wrong
        if len(wrong) > parameters.most_errors:
            path, row = source.locate(wrong[0][0])
            raise DataError(
                f"more than {parameters.most_errors} rows (`most_errors`) have no length that can "
                f"be used; the first: {path}: {wrong[0][1]} (row {row} of this file, counted "
                "from 0)",
                row=wrong[0][0],
            )
        context.write(_table(measured))
        found.append(measured)
        done += task.part.rows
        context.progress(done, source.num_positions, "rows", "measuring")
    lengths = Utterances.of(source, found, total=rows - len(wrong))
    if wrong:
        _tell(context, source, wrong)
    figures, table = _summary(lengths)
    context.table(**table)
    context.meta.update(source=source.name, dropped=len(wrong), figures=figures)
    _histogram(context, lengths.lengths.seconds)


def _rows(source: Source) -> int:
    rows = source.rows()
    if rows == 0:
        raise DataError(
            f"source `{source.name}`: no row{' passes `where`' if source.where else 's'}"
        )
    return rows


def _table(measured: Measured) -> pa.Table:
    columns: dict[str, Any] = {"item": measured.items, "seconds": measured.seconds}
    if measured.tokens is not None:
        columns["tokens"] = measured.tokens
    return pa.table(columns)


def _tell(context: Context, source: Source, wrong: list[tuple[int, str]]) -> None:
    """Count and list the rows that were dropped: the first in the notes, all in a table beside."""
    places = [source.locate(position) for position, _ in wrong]
    reasons = [reason for _, reason in wrong]
    rows = "row was" if len(wrong) == 1 else "rows were"
    context.note(f"{len(wrong)} {rows} dropped, without a length that can be used")
    for (path, row), reason in list(zip(places, reasons, strict=True))[:_SHOWN]:
        context.note(f"dropped: {path}, row {row}: {reason}")
    if len(wrong) > _SHOWN:
        context.note(f"dropped: {len(wrong) - _SHOWN} more, see the table `{DROPPED}`")
    context.write_beside(
        DROPPED,
        pa.table(
            {
                "item": [position for position, _ in wrong],
                "file": [str(path) for path, _ in places],
                "row": [row for _, row in places],
                "reason": reasons,
            }
        ),
    )


@dataclass(frozen=True)
class Utterances:
    """Lengths of the utterances of a source, or of a sample of them.

    Attributes:
        items: Position in the source of each, int64 of shape (items,), rising.
        lengths: Seconds, and tokens where known.
        total: How many utterances there are; more than `items` in a sample.
        source: Where they are, where that is known.

    Example:
        >>> import numpy as np
        >>> from mbflow.speech import Lengths
        >>> from mbflow.steps.speech_durations import Utterances
        >>> Utterances(np.array([3, 5]), Lengths.of([1.0, 2.0]), 2).estimated
        ''
    """

    items: np.ndarray[Any, np.dtype[np.int64]]
    lengths: Lengths
    total: int
    source: Source | None = None

    @classmethod
    def of(cls, source: Source, found: list[Measured], *, total: int) -> Utterances:
        """Put together what parts of a source hold.

        Raises:
            DataError: They hold no utterance.
        """
        items = np.concatenate([part.items for part in found])
        if not len(items):
            raise DataError(f"source `{source.name}`: no row has a length that can be used")
        tokens = [part.tokens for part in found if part.tokens is not None]
        seconds = np.concatenate([part.seconds for part in found])
        lengths = Lengths.of(seconds, np.concatenate(tokens) if tokens else None)
        return cls(items, lengths, total, source)

    @classmethod
    def read(cls, dataset: Dataset, source: Source | None = None) -> Utterances:
        """The output of `speech.durations`, a batch at a time: 16 bytes an utterance.

        Raises:
            DataError: A part of it cannot be read.
        """
        known = "tokens" in dataset.manifest["columns"]
        columns = ["item", "seconds", *(["tokens"] if known else [])]
        pieces: list[list[Any]] = [[] for _ in columns]
        for batch in dataset.batches(columns):
            for part, column in zip(pieces, batch.columns, strict=True):
                part.append(column.to_numpy())
        arrays = [np.concatenate(part) for part in pieces]
        lengths = Lengths.of(arrays[1], arrays[2] if known else None)
        return cls(arrays[0], lengths, len(arrays[0]), source)

    @property
    def estimated(self) -> str:
        """What to add to the title of a table that is made from a sample."""
        seen = len(self.items)
        return "" if seen == self.total else f", estimated from {seen:,} of {self.total:,} items"


def forecast_durations(
    parameters: DurationsParameters, inputs: tuple[Any, ...], seed: int, source: Source | None
) -> Forecast | None:
    """The lengths, for `mbflow plan`: from columns of numbers all of them, of audio a sample.

    The sample is the first rows of row groups that are evenly spread over the source.

    Args:
        parameters: `with:` of the step.
        inputs: The source.
        seed: Not used.
        source: The same source.

    Returns:
        `Utterances`, with what they come to.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["speech.durations"].forecast.__name__
        'forecast_durations'
    """
    del inputs, seed
    assert source is not None
    total = _rows(source)
    most = None
    sample = parts(source, parameters.columns)
    if parameters.listens and total > _LOOKED_AT:
        groups = parts(source, parameters.columns, whole=False)
        places = np.unique(np.linspace(0, len(groups) - 1, min(_PLACES, len(groups))).astype(int))
        sample = [groups[place] for place in places]
        most = -(-_LOOKED_AT // len(sample))
    found = [measure(Measure(part, parameters, most)) for part in sample]
    if most is not None and not any(len(part.items) for part in found):
        return None  # none of the rows that were looked at passes `where`
    wrong = sum(len(part.wrong) for part in found)
    utterances = Utterances.of(source, found, total=total - wrong if most is None else total)
    figures, table = _summary(utterances)
    return Forecast(utterances, figures, (table,), utterances.total)


def _summary(utterances: Utterances) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the lengths come to: plain figures, and a table for people."""
    lengths = utterances.lengths
    total = float(lengths.seconds.sum(dtype=np.float64)) * utterances.total / len(lengths)
    figures = {"items": utterances.total, "seconds": total, "looked_at": len(lengths)}
    names = ["of an utterance", "seconds"]
    columns = [["least", "5 %", "median", "95 %", "most", "mean"], _quantiles(lengths.seconds, 2)]
    if lengths.tokens is not None:
        names.append("tokens")
        columns.append(_quantiles(lengths.tokens, 0))
    title = f"{utterances.total:,} utterances of {duration(total)} in all{utterances.estimated}"
    rows = [list(row) for row in zip(*columns, strict=True)]
    return figures, {"title": title, "columns": names, "rows": rows}


def _quantiles(values: np.ndarray[Any, Any], decimals: int) -> list[str]:
    found = [f"{value:,.{decimals}f}" for value in np.quantile(values, [0, 0.05, 0.5, 0.95, 1])]
    return [*found, f"{values.mean(dtype=np.float64):,.{decimals or 1}f}"]


def _histogram(context: Context, seconds: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    """A chart of how many utterances are how long; the longest hundredth is in the last bar."""
    edges = np.linspace(0, float(np.quantile(seconds, 0.99)), _BARS + 1)[1:]
    place = np.minimum(np.searchsorted(edges, seconds), _BARS - 1)
    context.chart(
        "Utterances by length, up to so many seconds",
        ylabel="utterances",
        groups=marks(np.append(edges[:-1], seconds.max())),
        series=[{"name": "utterances", "mean": np.bincount(place, minlength=_BARS).tolist()}],
        decimals=0,
    )


def marks(edges: np.ndarray[Any, np.dtype[np.float64]]) -> list[str]:
    """Names of the bars of a chart by length, the last one always: few enough to stand apart.

    Example:
        >>> import numpy as np
        >>> from mbflow.steps.speech_durations import marks
        >>> marks(np.array([1.25, 20.0]))
        ['1.25', '20']
    """
    each = -(-len(edges) // _MARKS)
    last = len(edges) - 1
    return [f"{edge:.3g}" if (last - place) % each == 0 else "" for place, edge in enumerate(edges)]
