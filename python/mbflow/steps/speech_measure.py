"""How long the utterances in a part of a source are: what `speech.durations` maps over its parts.

Example:
    >>> from mbflow.steps.speech_measure import DurationsParameters
    >>> DurationsParameters(audio="audio", text="text").unit
    'characters'
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from mbflow.errors import DataError
from mbflow.flow.parts import Part
from mbflow.flow.source import Source
from mbflow.flow.spec import Parameters
from mbflow.speech.audio import audio_seconds
from mbflow.speech.lengths import rounded_up, usable

__all__ = ["DurationsParameters", "Measure", "Measured", "can_measure", "measure"]

_MOST_TOKENS = 2**32 - 1


class DurationsParameters(Parameters):
    """`with:` of `speech.durations`.

    Example:
        >>> from mbflow.steps.speech_measure import DurationsParameters
        >>> DurationsParameters(samples="frames", sampling_rate=16_000).columns
        ('frames',)
    """

    seconds: str | None = Field(None, description="The column of seconds.")
    samples: str | None = Field(
        None, description="Or the column of numbers of samples, with `sampling_rate`."
    )
    sampling_rate: int | str | None = Field(
        None, description="Samples a second: a number, or the column of it."
    )
    audio: str | None = Field(
        None,
        description="Or the column of encoded audio (FLAC, WAV, OGG), of which the header is read: "
        "bytes, or a struct of `bytes` and `path`.",
    )
    path: str | None = Field(
        None,
        description="Or the column of paths of audio files, relative to the Parquet file's folder.",
    )
    tokens: str | None = Field(
        None, description="The column of numbers of output tokens, or of lists of them."
    )
    text: str | None = Field(None, description="Or the column of text, counted by `unit`.")
    unit: Literal["characters", "words", "bytes"] = Field(
        "characters", description="What of `text` counts as a token."
    )
    on_error: Literal["fail", "drop"] = Field(
        "fail", description="What becomes of rows without a length that can be used."
    )
    most_errors: int = Field(
        100, ge=0, description="With `on_error: drop`, the most rows that may be dropped."
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        ways = [name for name in ("seconds", "samples", "audio", "path") if getattr(self, name)]
        if len(ways) != 1:
            found = " and ".join(f"`{way}`" for way in ways) or "none"
            raise ValueError(
                f"expected one of `seconds`, `samples`, `audio` and `path`, found {found}"
            )
        if (self.samples is None) != (self.sampling_rate is None):
            raise ValueError("`samples` and `sampling_rate` go together; expected both or none")
        if isinstance(self.sampling_rate, int) and self.sampling_rate < 1:
            raise ValueError(f"`sampling_rate` is {self.sampling_rate}; expected at least 1")
        if self.tokens and self.text:
            raise ValueError("expected `tokens` or `text`, found both")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        rate = self.sampling_rate if isinstance(self.sampling_rate, str) else None
        names = (self.seconds, self.samples, rate, self.audio, self.path, self.tokens, self.text)
        return tuple(dict.fromkeys(name for name in names if name))

    @property
    def listens(self) -> bool:
        """Whether audio is looked at."""
        return bool(self.audio or self.path)


def can_measure(parameters: DurationsParameters, source: Source) -> None:
    """Refuse, before anything runs, columns that are not there or of another type.

    Raises:
        DataError: Naming the file, the column and what was expected.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["speech.durations"].preflight.__name__
        'can_measure'
    """
    expected: dict[str, tuple[Callable[[pa.DataType], bool], str]] = {
        "seconds": (_is_number, "numbers"),
        "samples": (_is_number, "numbers"),
        "sampling_rate": (_is_number, "numbers"),
        "audio": (_is_audio, "bytes, or a struct of `bytes` and `path`"),
        "path": (_is_text, "text"),
        "tokens": (lambda kind: _is_number(kind) or _is_list(kind), "numbers or lists"),
        "text": (_is_text, "text"),
    }
    for option, (fits, wanted) in expected.items():
        name = getattr(parameters, option)
        if not isinstance(name, str):
            continue
        if name not in source.columns:
            known = ", ".join(source.columns[:20])
            raise DataError(
                f"{source.files[0].path}: no column `{name}` (`{option}`); source `{source.name}` "
                f"reads: {known}"
            )
        kind = source.schema.field(name).type
        if not fits(kind):
            raise DataError(
                f"{source.files[0].path}: the column `{name}` (`{option}`) is {kind}; expected "
                f"{wanted}"
            )


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _is_audio(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return _is_bytes(kind)
    inner = {kind.field(place).name: kind.field(place).type for place in range(kind.num_fields)}
    return "bytes" in inner and _is_bytes(inner["bytes"])


@dataclass(frozen=True)
class Measure:
    """A part of a source to measure, as plain data.

    Attributes:
        part: The rows.
        parameters: `with:` of the step.
        most: Stop after so many rows; None for all.

    Example:
        >>> from mbflow.steps.speech_measure import Measure
        >>> list(Measure.__dataclass_fields__)
        ['part', 'parameters', 'most']
    """

    part: Part
    parameters: DurationsParameters
    most: int | None = None


@dataclass(frozen=True)
class Measured:
    """What a part of a source holds.

    Attributes:
        items: Positions in the source of the rows with a length, int64 of shape (items,).
        seconds: float32 likewise.
        tokens: uint32 likewise, or None where none were asked for.
        wrong: For each row without a proper length its position and what is wrong, as far as
            `most_errors` allows and one more.

    Example:
        >>> from mbflow.steps.speech_measure import Measured
        >>> list(Measured.__dataclass_fields__)
        ['items', 'seconds', 'tokens', 'wrong']
    """

    items: np.ndarray[Any, np.dtype[np.int64]]
    seconds: np.ndarray[Any, np.dtype[np.float32]]
    tokens: np.ndarray[Any, np.dtype[np.uint32]] | None
    wrong: list[tuple[int, str]]


def measure(task: Measure) -> Measured:
    """Read the lengths of a part of a source.

    Args:
        task: What to read; a process elsewhere can do it if it sees the file.

    Returns:
        The lengths.

    Raises:
        DataError: The file cannot be read, or, with `on_error: fail`, a row has no length; the
            message names the file, the row and the column.

    Example:
        >>> from mbflow.steps.speech_measure import measure
        >>> measure(task).seconds  # doctest: +SKIP
        array([1.5, 2. ], dtype=float32)
    """
    parameters, file = task.parameters, task.part.file
    kept: list[tuple[Any, Any, Any]] = []
    wrong: list[tuple[int, str]] = []
    for positions, batch in task.part.scan(parameters.columns, most=task.most):
        reasons: dict[int, str] = {}
        seconds = _seconds(batch, parameters, file.path.parent, reasons)
        tokens = _tokens(batch, parameters, reasons)
        for row in sorted(reasons):
            position = int(positions[row])
            if parameters.on_error == "fail":
                raise DataError(
                    f"{file.path}: {reasons[row]} (row {position - file.first} of this file, "
                    "counted from 0); mend it, leave it out by `where`, or drop such rows by "
                    "`on_error: drop`",
                    row=position,
                )
            if len(wrong) <= parameters.most_errors:
                wrong.append((position, reasons[row]))
        whole = np.ones(len(positions), np.bool_)
        whole[list(reasons)] = False
        kept.append((positions[whole], seconds[whole], None if tokens is None else tokens[whole]))
    return Measured(
        np.concatenate([part[0] for part in kept] or [np.empty(0, np.int64)]),
        np.concatenate([part[1] for part in kept] or [np.empty(0, np.float32)]),
        np.concatenate([part[2] for part in kept] or [np.empty(0, np.uint32)])
        if parameters.tokens or parameters.text
        else None,
        wrong,
    )


def _seconds(
    batch: pa.RecordBatch, parameters: DurationsParameters, folder: Path, reasons: dict[int, str]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Seconds of each row; where there are none, any number, and the reason."""
    if parameters.listens:
        return _heard(batch, parameters, folder, reasons)
    name = parameters.seconds or parameters.samples
    assert name is not None
    values = _numbers(batch, name, reasons)
    seconds: np.ndarray[Any, np.dtype[np.float32]]
    wanted = "finite seconds above 0"
    if parameters.samples is not None:
        wanted = "a finite number above 0"
        rate: Any = parameters.sampling_rate
        if isinstance(rate, str):
            column, rate = rate, _numbers(batch, rate, reasons)
            _refuse(~(np.isfinite(rate) & (rate > 0)), rate, column, wanted, reasons)
            rate = np.where(rate > 0, rate, 1)
        values_in_seconds = values / rate
    else:
        values_in_seconds = values
    seconds = rounded_up(values_in_seconds)
    _refuse(~usable(seconds), values, name, wanted, reasons)
    return seconds


def _numbers(
    batch: pa.RecordBatch, name: str, reasons: dict[int, str]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    column = batch.column(name)
    for row in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)):
        reasons.setdefault(int(row), f"`{name}` is null")
    found: np.ndarray[Any, np.dtype[np.float64]] = (
        column.cast(pa.float64(), safe=False).fill_null(0).to_numpy(zero_copy_only=False)
    )
    return found


def _refuse(
    bad: np.ndarray[Any, np.dtype[np.bool_]],
    values: np.ndarray[Any, Any],
    name: str,
    wanted: str,
    reasons: dict[int, str],
) -> None:
    for row in np.flatnonzero(bad):
        reasons.setdefault(int(row), f"`{name}` is {values[row]:g}; expected {wanted}")


def _heard(
    batch: pa.RecordBatch, parameters: DurationsParameters, folder: Path, reasons: dict[int, str]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    name = parameters.audio or parameters.path
    assert name is not None
    seconds = np.ones(batch.num_rows)
    for row, audio in enumerate(_recordings(batch.column(name), folder)):
        if audio is None:
            reasons[row] = f"`{name}` is null"
            continue
        try:
            seconds[row] = audio_seconds(audio)
        except DataError as error:
            reasons[row] = f"`{name}` cannot be used: {error}"
    return rounded_up(seconds)


def _recordings(column: pa.Array, folder: Path) -> Iterator[bytes | Path | None]:
    """Content or path of each recording, one at a time: all at once would be copied."""
    named = _is_text(column.type)
    for scalar in column:
        value = scalar.as_py()
        if isinstance(value, dict):
            content, path = value["bytes"], value.get("path")
            # Where there are no bytes, the path says where they are.
            value = folder / path if content is None and path is not None else content
        elif value is not None and named:
            value = folder / value
        yield value


def _tokens(
    batch: pa.RecordBatch, parameters: DurationsParameters, reasons: dict[int, str]
) -> np.ndarray[Any, np.dtype[np.uint32]] | None:
    """Output tokens of each row, or None where none were asked for."""
    name = parameters.tokens or parameters.text
    if name is None:
        return None
    column = batch.column(name)
    for row in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)):
        reasons.setdefault(int(row), f"`{name}` is null")
    if parameters.text:
        column = _text_lengths(column, parameters.unit)
    elif _is_list(column.type):
        column = pc.list_value_length(column)
    values = column.cast(pa.float64(), safe=False).fill_null(0).to_numpy(zero_copy_only=False)
    whole = (values >= 0) & (values <= _MOST_TOKENS) & (values == np.floor(values))
    wanted = "a whole number from 0 to 2^32 - 1"
    _refuse(~whole, values, name, wanted, reasons)
    return np.where(whole, values, 0).astype(np.uint32)


def _text_lengths(column: pa.Array, unit: str) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if unit == "bytes":
        return pc.binary_length(column)
    if unit == "characters":
        return pc.utf8_length(column)
    trimmed = pc.utf8_trim_whitespace(column)
    words = pc.list_value_length(pc.utf8_split_whitespace(trimmed))
    return pc.if_else(pc.equal(pc.binary_length(trimmed), 0), pa.scalar(0, words.type), words)
