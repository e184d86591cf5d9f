"""Tables of mixed columns as one float32 matrix: scaling, imputation, one-hot, and notes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, get_args

import numpy as np

from mbflow.arrow import to_frame
from mbflow.batches import check_whole
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.select.columns import (
    ColumnTable,
    Source,
    column_kind,
    column_type,
    float_matrix,
    sources_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import polars as pl
    from numpy.typing import NDArray

__all__ = ["ColumnNote", "FeatureEncoder", "Scale"]

Item = TypeVar("Item")
Scale = Literal["min_max", "standard", "none"]

# Columns are worked on side by side, as many as fit this many float64 values.
_BLOCK_VALUES = 4_000_000


@dataclass(frozen=True)
class ColumnNote:
    """What the encoder did with one column.

    Attributes:
        column: Name of the column.
        kind: "number", "boolean", "text", "time", "vector" or "empty".
        treatment: "scaled", "kept" (0 and 1 or unscaled), "one_hot" or "dropped".
        detail: The same in words: values filled in and with what, columns made, why dropped.

    Example:
        >>> from mbflow.select import ColumnNote
        >>> ColumnNote("age", "number", "scaled", "min_max").column
        'age'
    """

    column: str
    kind: str
    treatment: str
    detail: str


@dataclass(frozen=True)
class _Number:
    """One output column: `(value - shift) / scale`, or `fill` in place of a missing value."""

    column: str
    element: int | None  # position inside a vector column
    fill: float
    shift: float
    scale: float


@dataclass(frozen=True)
class _Text:
    """One output column a category, and one for all others where `other` says so."""

    column: str
    fill: str
    categories: tuple[str, ...]
    other: bool


class FeatureEncoder:
    """Encode tables as float32 features; learned on one table, applied to any with its columns.

    Numbers: missing values (null and NaN) become the median, then scaling. Booleans: 0 and 1,
    missing ones the most frequent. Text, categories and enums: one column of 0 and 1 for each of
    the most frequent `max_categories` values (ties by value) and one for all others where there are
    more; missing ones become the most frequent value. A text column whose distinct values are more
    than `max_categories` and than half of the rows is dropped as an identifier. Dates, times,
    durations and decimals are numbers. Fixed-size lists of numbers give one column an element.
    Columns that are constant or all null are dropped. `notes` says what was done.

    All statistics are computed in float64; the result does not depend on threads.

    Args:
        scale: "min_max" (to 0 .. 1), "standard" (mean 0, standard deviation 1) or "none".
        max_categories: The most one-hot columns of one text column, at least 1.
        columns: Names of the columns to use, in this order; all by default.

    Raises:
        InvalidArgumentError: An argument is out of range.

    Example:
        >>> import polars as pl
        >>> from mbflow.select import FeatureEncoder
        >>> table = pl.DataFrame({"size": [1, 2, 5], "kind": ["a", "b", "a"]})
        >>> encoder = FeatureEncoder().fit(table)
        >>> encoder.transform(table)
        array([[0.  , 1.  , 0.  ],
               [0.25, 0.  , 1.  ],
               [1.  , 1.  , 0.  ]], dtype=float32)
        >>> encoder.feature_names
        ('size', 'kind=a', 'kind=b')
    """

    def __init__(
        self,
        *,
        scale: Scale = "min_max",
        max_categories: int = 32,
        columns: Sequence[str] | None = None,
    ) -> None:
        if scale not in get_args(Scale):
            raise InvalidArgumentError(
                f"scale is {scale!r}; expected one of {', '.join(map(repr, get_args(Scale)))}"
            )
        check_whole("max_categories", max_categories, least=1)
        if columns is not None:
            columns = _names(columns)
        self.scale: Scale = scale
        self.max_categories = int(max_categories)
        self.columns = None if columns is None else tuple(columns)
        self.notes: tuple[ColumnNote, ...] = ()
        self._outputs: tuple[_Number | _Text, ...] = ()
        self._types: dict[str, str] = {}

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Name of each output column: `age`, `vector[3]`, `colour=red`, `colour=(other)`."""
        names: list[str] = []
        for output in self._outputs:
            if isinstance(output, _Number):
                inside = "" if output.element is None else f"[{output.element}]"
                names.append(f"{output.column}{inside}")
            else:
                names += [f"{output.column}={category}" for category in output.categories]
                names += [f"{output.column}=(other)"] * output.other
        return tuple(names)

    @property
    def width(self) -> int:
        """Number of output columns."""
        return sum(_width(output) for output in self._outputs)

    def fit(self, table: Any) -> Self:
        """Learn medians, scales and categories from a table.

        Args:
            table: NumPy 2-D, polars, pandas, pyarrow (see `mbflow.arrow.to_frame`).

        Returns:
            The encoder itself.

        Raises:
            DataError: No rows, an infinite value, a column of a type that is no feature, or no
                column is left.
            InvalidArgumentError: `table` is no table.

        Example:
            >>> import numpy as np
            >>> from mbflow.select import FeatureEncoder
            >>> FeatureEncoder().fit(np.array([[1.0], [3.0]])).width
            1
        """
        frame = self._chosen(to_frame(table, what="the feature table"))
        if frame.width == 0:
            raise DataError("the feature table has no columns; expected at least one")
        if frame.height == 0:
            raise DataError("the feature table has no rows; expected at least one")
        columns = ColumnTable.of(frame)
        notes: dict[str, ColumnNote] = {}
        outputs: dict[str, list[_Number | _Text]] = {}
        sources: list[Source] = []
        for name, series in columns.columns.items():
            kind = column_kind(series)
            if series.null_count() == frame.height:
                notes[name] = ColumnNote(name, kind, "dropped", "all values are null")
            elif kind == "text":
                text, notes[name] = self._fit_text(series)
                outputs[name] = [] if text is None else [text]
            else:
                found = sources_of(series, kind)
                if not found:
                    notes[name] = ColumnNote(name, kind, "dropped", "lists of length 0")
                sources += found
        fitted = chain.from_iterable(
            self._fit_numbers(columns, block) for block in _blocks(sources, frame.height)
        )
        for name, group in groupby(fitted, key=lambda result: result[0].column):
            results = list(group)
            notes[name] = self._number_note(results[0][0].kind, results)
            outputs[name] = [outcome for _, outcome, _ in results if isinstance(outcome, _Number)]
        self._outputs = tuple(
            output for name in columns.columns for output in outputs.get(name, [])
        )
        self.notes = tuple(notes[name] for name in columns.columns)
        self._types = {
            output.column: column_type(columns.columns[output.column]) for output in self._outputs
        }
        if not self._outputs:
            reasons = "; ".join(f"{note.column!r}: {note.detail}" for note in self.notes[:5])
            raise DataError(
                f"no usable feature column is left of {len(self.notes)} ({reasons or 'none given'})"
            )
        return self

    def transform(self, table: Any) -> NDArray[np.float32]:
        """Encode a table with what `fit` learned.

        Args:
            table: A table with the columns of the fitted one; others are ignored.

        Returns:
            float32 of shape (rows, width), C order.

        Raises:
            DataError: A column is missing or of another type, a value is infinite, or does not fit
                float32 after scaling.
            InvalidArgumentError: The encoder is not fitted, or `table` is no table.

        Example:
            >>> import numpy as np
            >>> from mbflow.select import FeatureEncoder
            >>> encoder = FeatureEncoder().fit(np.array([[1.0], [3.0]]))
            >>> encoder.transform(np.array([[2.0]]))
            array([[0.5]], dtype=float32)
        """
        if not self._outputs:
            raise InvalidArgumentError("the encoder is not fitted; call fit first")
        frame = to_frame(table, what="the feature table")
        columns = ColumnTable.of(frame)
        missing = [
            output.column for output in self._outputs if output.column not in columns.columns
        ]
        if missing:
            raise DataError(
                f"the feature table lacks column {missing[0]!r} that the encoder was fitted on; "
                f"its columns are {', '.join(map(repr, frame.columns[:10]))}"
            )
        for name, fitted in self._types.items():
            series = columns.columns[name]
            found = column_type(series)
            if found not in (fitted, "empty"):
                raise DataError(
                    f"column {name!r} is of type {series.dtype} here, but held {fitted} when the "
                    "encoder was fitted; convert it"
                )
        result = np.zeros((frame.height, self.width), dtype=np.float32)
        numbers: list[tuple[_Number, int]] = []
        at = 0
        for output in self._outputs:
            if isinstance(output, _Number):
                numbers.append((output, at))
            else:
                part = result[:, at : at + _width(output)]
                _one_hot(columns.columns[output.column], output, part)
            at += _width(output)
        for block in _blocks(numbers, frame.height):
            _scale_block(columns, block, result)
        return result

    def fit_transform(self, table: Any) -> NDArray[np.float32]:
        """`fit` and `transform` of the same table.

        Example:
            >>> import numpy as np
            >>> from mbflow.select import FeatureEncoder
            >>> FeatureEncoder(scale="none").fit_transform(np.array([[1], [3]]))
            array([[1.],
                   [3.]], dtype=float32)
        """
        frame = to_frame(table, what="the feature table")
        return self.fit(frame).transform(frame)

    def to_dict(self) -> dict[str, Any]:
        """All that was learned as plain data that JSON can hold.

        Example:
            >>> import json, numpy as np
            >>> from mbflow.select import FeatureEncoder
            >>> encoder = FeatureEncoder().fit(np.array([[1.0], [3.0]]))
            >>> text = json.dumps(encoder.to_dict())
            >>> FeatureEncoder.from_dict(json.loads(text)).width
            1
        """
        return {
            "format": 1,
            "scale": self.scale,
            "max_categories": self.max_categories,
            "columns": None if self.columns is None else list(self.columns),
            "outputs": [
                asdict(output)
                if isinstance(output, _Number)
                else {**asdict(output), "categories": list(output.categories)}
                for output in self._outputs
            ],
            "notes": [asdict(note) for note in self.notes],
            "types": self._types,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """The encoder that `to_dict` described.

        Raises:
            DataError: `state` is of another format.

        Example:
            >>> import numpy as np
            >>> from mbflow.select import FeatureEncoder
            >>> encoder = FeatureEncoder().fit(np.array([[1.0], [3.0]]))
            >>> FeatureEncoder.from_dict(encoder.to_dict()).notes == encoder.notes
            True
        """
        if state.get("format") != 1 or not {"scale", "outputs", "notes"} <= state.keys():
            raise DataError(
                f"the encoder state is of format {state.get('format')!r}; expected 1, with the "
                "keys scale, outputs and notes, as written by FeatureEncoder.to_dict"
            )
        encoder = cls(
            scale=state["scale"], max_categories=state["max_categories"], columns=state["columns"]
        )
        encoder._outputs = tuple(
            _Text(**{**output, "categories": tuple(output["categories"])})
            if "categories" in output
            else _Number(**output)
            for output in state["outputs"]
        )
        encoder.notes = tuple(ColumnNote(**note) for note in state["notes"])
        encoder._types = dict(state.get("types", {}))
        return encoder

    def _chosen(self, frame: pl.DataFrame) -> pl.DataFrame:
        if self.columns is None:
            return frame
        present = set(frame.columns)
        for name in self.columns:
            if name not in present:
                raise DataError(
                    f"columns names {name!r}, which the feature table lacks; its columns are "
                    f"{', '.join(map(repr, frame.columns[:10]))}"
                )
        return frame.select(self.columns)

    def _fit_text(self, series: pl.Series) -> tuple[_Text | None, ColumnNote]:
        import polars as pl

        name, rows, missing = series.name, series.len(), series.null_count()
        counts = (
            series.cast(pl.String)
            .drop_nulls()
            .rename("value")
            .value_counts(name="count")
            .sort(["count", "value"], descending=[True, False])
        )
        distinct = counts.height
        if distinct == 1:
            return None, ColumnNote(name, "text", "dropped", "constant")
        if distinct > max(self.max_categories, rows / 2):
            detail = f"{distinct} distinct values in {rows} rows: an identifier, no category"
            return None, ColumnNote(name, "text", "dropped", detail)
        kept = tuple(counts["value"].head(self.max_categories).to_list())
        text = _Text(name, kept[0], kept, other=distinct > len(kept))
        detail = f"{_width(text)} columns"
        if text.other:
            detail += f", one of them for {distinct - len(kept)} rarer values"
        if missing:
            detail += f"; {missing} missing values filled with the most frequent, {kept[0]!r}"
        return text, ColumnNote(name, "text", "one_hot", detail)

    def _fit_numbers(
        self, table: ColumnTable, block: Sequence[Source]
    ) -> Iterator[tuple[Source, _Number | str, int]]:
        """For each source: its output, or why it gives none, and how many values are missing."""
        values = float_matrix(table, [(source.column, source.element) for source in block])
        missing = np.isnan(values).sum(axis=0)
        low, high = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
        fill = _medians(values, missing)
        if self.scale == "standard":
            largest = np.maximum(np.abs(low), np.abs(high))
            largest[~(largest > 0.0)] = 1.0
            # Divided by the largest, squares cannot overflow.
            filled = np.where(np.isnan(values), fill, values) / largest
            shift, scale = filled.mean(axis=0) * largest, filled.std(axis=0) * largest
        else:
            shift, scale = low, high - low
        for index, source in enumerate(block):
            absent = int(missing[index])
            outcome: _Number | str
            if absent == table.rows:
                outcome = "all values are null or NaN"
            elif low[index] == high[index] or not scale[index] > 0.0:
                outcome = "constant"
            elif source.kind == "boolean":
                # The median of zeros and ones is the most frequent, 0.5 on a tie: then False.
                outcome = _Number(source.column, None, float(fill[index] > 0.5), 0.0, 1.0)
            elif self.scale == "none":
                outcome = _Number(source.column, source.element, float(fill[index]), 0.0, 1.0)
            else:
                outcome = _Number(
                    source.column,
                    source.element,
                    float(fill[index]),
                    float(shift[index]),
                    float(scale[index]),
                )
            yield source, outcome, absent

    def _number_note(
        self, kind: str, results: Sequence[tuple[Source, _Number | str, int]]
    ) -> ColumnNote:
        """The note of one column, from all its elements (one, unless it is a vector column)."""
        name = results[0][0].column
        numbers = [outcome for _, outcome, _ in results if isinstance(outcome, _Number)]
        reasons = sorted({outcome for _, outcome, _ in results if isinstance(outcome, str)})
        if not numbers:
            return ColumnNote(name, kind, "dropped", ", ".join(reasons) or "lists of length 0")
        absent = sum(count for _, outcome, count in results if isinstance(outcome, _Number))
        treatment = "kept" if kind == "boolean" or self.scale == "none" else "scaled"
        detail: str = "not scaled" if self.scale == "none" else self.scale
        if kind == "boolean":
            detail = "0 and 1"
        if kind == "vector":
            detail = f"{len(numbers)} of {len(results)} elements, {detail}"
        if absent and kind == "vector":
            detail += f"; {absent} missing values filled with the median of their element"
        elif absent:
            what = "most frequent" if kind == "boolean" else "median"
            detail += f"; {absent} missing values filled with the {what}, {numbers[0].fill:g}"
        if reasons:
            detail += f"; {len(results) - len(numbers)} elements dropped: {', '.join(reasons)}"
        return ColumnNote(name, kind, treatment, detail)


def _names(columns: Any) -> list[str]:
    """Names of columns, each once."""
    if isinstance(columns, str) or not isinstance(columns, Iterable):
        raise InvalidArgumentError(f"columns is {columns!r}; expected a list of names")
    names: dict[str, None] = {}
    for name in columns:
        if not isinstance(name, str):
            raise InvalidArgumentError(f"columns holds {name!r}; expected names")
        if name in names:
            raise InvalidArgumentError(f"columns names {name!r} twice; leave one out")
        names[name] = None
    return list(names)


def _medians(values: NDArray[np.float64], missing: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """The median of each column without its NaN; NaN for a column of nothing else."""
    medians = np.full(values.shape[1], np.nan)
    whole = missing == 0
    if whole.any():
        medians[whole] = np.median(values[:, whole], axis=0)
    partial = np.flatnonzero((missing > 0) & (missing < len(values)))
    if len(partial):
        ordered = np.sort(values[:, partial], axis=0)  # NaN goes last
        count = len(values) - missing[partial]
        at = np.arange(len(partial))
        medians[partial] = (ordered[(count - 1) // 2, at] + ordered[count // 2, at]) / 2
    return medians


def _width(output: _Number | _Text) -> int:
    return 1 if isinstance(output, _Number) else len(output.categories) + output.other


def _blocks(items: Sequence[Item], rows: int) -> Iterator[Sequence[Item]]:
    step = min(4096, max(1, _BLOCK_VALUES // max(rows, 1)))
    for start in range(0, len(items), step):
        yield items[start : start + step]


def _one_hot(series: pl.Series, text: _Text, target: NDArray[np.float32]) -> None:
    import polars as pl

    if column_kind(series) not in {"text", "empty"}:
        raise DataError(
            f"column {series.name!r} is of type {series.dtype} here, but held text when the "
            "encoder was fitted"
        )
    unseen = len(text.categories)
    codes = (
        series.cast(pl.String)
        .fill_null(text.fill)
        .replace_strict(
            list(text.categories), list(range(unseen)), default=unseen, return_dtype=pl.Int64
        )
        .to_numpy()
    )
    rows = np.flatnonzero(codes < target.shape[1])
    target[rows, codes[rows]] = 1.0


def _scale_block(
    table: ColumnTable, block: Sequence[tuple[_Number, int]], result: NDArray[np.float32]
) -> None:
    numbers = [number for number, _ in block]
    values = float_matrix(table, [(number.column, number.element) for number in numbers])
    for index, number in enumerate(numbers):
        column = values[:, index]
        column[np.isnan(column)] = number.fill
        column -= number.shift
        column /= number.scale
    with np.errstate(over="ignore"):
        scaled = values.astype(np.float32)
    if not np.isfinite(scaled).all():
        row, index = (int(place[0]) for place in np.nonzero(~np.isfinite(scaled)))
        raise DataError(
            f"column {numbers[index].column!r} does not fit float32 in row {row} after scaling; "
            "use scale='min_max' or 'standard', or rescale the column",
            row=row,
        )
    result[:, [place for _, place in block]] = scaled
