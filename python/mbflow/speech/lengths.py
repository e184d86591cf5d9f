"""How long items are: from columns or from Parquet."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow import _native
from mbflow.arrow import to_series
from mbflow.errors import DataError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Lengths", "rounded_up", "usable"]

_MOST_ITEMS = 2**32 - 1

# Of each file of an index, its bytes and when it was written, in nanoseconds.
_Stamps = list[tuple[int, int]]


@dataclass(frozen=True, eq=False, repr=False)
class Lengths:
    """Seconds, and tokens where known, of each item: eight bytes an item.

    Attributes:
        seconds: float32 of shape (items,), above 0; what is more precise is rounded up.
        tokens: uint32 likewise, or None.

    Example:
        >>> from mbflow.speech import Lengths
        >>> len(Lengths.of([1.5, 2.0], [10, 20]))
        2
    """

    seconds: NDArray[np.float32]
    tokens: NDArray[np.uint32] | None = None
    _digests: list[str] = field(default_factory=list)
    _index: tuple[Path, _Stamps] | None = field(default=None)

    @classmethod
    def of(cls, seconds: Any, tokens: Any = None) -> Lengths:
        """Lengths from columns.

        Args:
            seconds: NumPy, polars, pandas, pyarrow (chunks too), or a list; of shape (items,).
            tokens: Output tokens likewise, or None.

        Raises:
            DataError: There is no item, or one whose seconds are null, NaN, infinite or not above
                0, or whose tokens are null, negative or no whole number; the message names the
                first.
            InvalidArgumentError: The two differ in length, or hold no numbers.

        Example:
            >>> import polars as pl
            >>> from mbflow.speech import Lengths
            >>> Lengths.of(pl.Series([1, 2])).seconds.tolist()
            [1.0, 2.0]
        """
        if isinstance(seconds, Lengths):
            if tokens is not None:
                raise InvalidArgumentError(
                    "tokens are given twice: beside lengths that may hold them"
                )
            return seconds
        found = column_numbers(seconds, "seconds")
        if not len(found):
            raise DataError("seconds: there is no item; expected at least one")
        if len(found) > _MOST_ITEMS:
            raise InvalidArgumentError(f"seconds: expected under 2^32 items, got {len(found)}")
        lengths = rounded_up(found)
        refuse_items(~usable(lengths), found, "seconds", "finite seconds above 0")
        if tokens is None:
            return cls(_read_only(lengths))
        outputs = column_numbers(tokens, "tokens")
        if len(outputs) != len(found):
            raise InvalidArgumentError(
                f"tokens: {len(outputs)} for {len(found)} items; expected one for each"
            )
        with np.errstate(invalid="ignore"):
            whole = (outputs >= 0) & (outputs < 2**32) & (outputs == np.floor(outputs))
        refuse_items(~whole, outputs, "tokens", "whole numbers from 0 to 2^32 - 1")
        return cls(_read_only(lengths), _read_only(outputs.astype(np.uint32)))

    @classmethod
    def from_parquet(
        cls,
        path: str | Path | Sequence[str | Path],
        *,
        seconds: str = "seconds",
        tokens: str | None = None,
    ) -> Lengths:
        """Lengths from columns of Parquet files: one, those of a folder or pattern, or several.

        Only these columns are read, a row group at a time.

        Args:
            path: A file; a folder or a pattern such as `"part-*.parquet"`, whose files are read in
                order of name; or a sequence of these.
            seconds: The column of seconds.
            tokens: The column of output tokens, if any.

        Raises:
            DataError: There is no file, a file is damaged or lacks a column, or as in `of`, where
                the message names the file and its row.

        Example:
            >>> from mbflow.speech import Lengths
            >>> Lengths.from_parquet("corpus/", seconds="duration")  # doctest: +SKIP
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        paths = [path] if isinstance(path, str | Path) else list(path)
        files = [file for one in paths for file in _files(Path(one))]
        root = ", ".join(map(str, paths))
        if not files:
            raise DataError("there is no Parquet file: no path was given")
        columns = [seconds] if tokens is None else [seconds, tokens]
        found: list[list[Any]] = [[] for _ in columns]
        for file in files:
            try:
                with pq.ParquetFile(
                    file, memory_map=True, page_checksum_verification=True
                ) as reader:
                    missing = [name for name in columns if name not in reader.schema_arrow.names]
                    if missing:
                        raise DataError(
                            f"{file}: no column `{missing[0]}`; it has "
                            f"{reader.schema_arrow.names[:20]}"
                        )
                    row = 0
                    for batch in reader.iter_batches(batch_size=1 << 20, columns=columns):
                        if not batch.num_rows:
                            continue
                        try:
                            part = cls.of(
                                batch.column(columns[0]),
                                None if tokens is None else batch.column(columns[1]),
                            )
                        except DataError as error:
                            raise _elsewhere(error, file, row) from None
                        except InvalidArgumentError as error:
                            named = ", ".join(f"`{name}`" for name in columns)
                            raise DataError(f"{file}, columns {named}: {error}") from None
                        found[0].append(part.seconds)
                        if part.tokens is not None:
                            found[1].append(part.tokens)
                        row += batch.num_rows
            except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
                raise DataError(f"{file}: cannot be read: {error}") from error
        if not found[0]:
            raise DataError(f"{root}: there is no item; expected at least one")
        joined = [_read_only(np.concatenate(parts)) for parts in found]
        return cls(joined[0], joined[1] if tokens is not None else None)

    def save(self, folder: str | Path) -> None:
        """Write an index that `open` maps into memory, so that processes share it.

        Args:
            folder: A folder, made where there is none.

        Example:
            >>> import tempfile
            >>> from mbflow.speech import Lengths
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Lengths.of([1.0, 2.0]).save(folder)
            ...     len(Lengths.open(folder))
            2
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        # The index counts as written when its seconds are there, so these come last.
        (target / "seconds.npy").unlink(missing_ok=True)
        (target / "tokens.npy").unlink(missing_ok=True)
        for name, values in (("tokens", self.tokens), ("seconds", self.seconds)):
            if values is not None:
                part = target / f"{name}.npy.part"
                with part.open("wb") as file:
                    np.save(file, values)
                part.rename(target / f"{name}.npy")

    @classmethod
    def open(cls, folder: str | Path) -> Lengths:
        """Map an index into memory that `save` wrote; takes no time and no memory of its own.

        Pickled, such lengths are the name of their folder: worker processes map it themselves.

        Args:
            folder: Where it is.

        Raises:
            DataError: There is none, or it is damaged.

        Example:
            >>> from mbflow.speech import Lengths
            >>> Lengths.open("index/")  # doctest: +SKIP
        """
        paths = [Path(folder) / f"{name}.npy" for name in ("seconds", "tokens")]
        try:
            arrays = [np.load(path, mmap_mode="r") for path in paths if path.exists()]
        except (OSError, ValueError) as error:
            raise DataError(f"{folder}: the index cannot be read: {error}") from error
        if not paths[0].exists():
            raise DataError(f"{folder}: there is no index of lengths (no seconds.npy)")
        kinds = [np.float32, np.uint32]
        for path, array, kind in zip(paths, arrays, kinds, strict=False):
            if array.dtype != kind or array.ndim != 1 or len(array) != len(arrays[0]):
                raise DataError(
                    f"{path}: is of {array.dtype} and shape {array.shape}; not an index"
                )
        index = (Path(folder).resolve(), _stamps(paths))
        return cls(arrays[0], arrays[1] if len(arrays) > 1 else None, _index=index)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._index is None:
            return Lengths, (self.seconds, self.tokens, self._digests)
        return _reopen, (*self._index, self._digests)

    def __len__(self) -> int:
        return len(self.seconds)

    def __repr__(self) -> str:
        return f"Lengths({len(self):,} items{'' if self.tokens is None else ', with tokens'})"

    def digest(self) -> str:
        """A checksum of the lengths, worked out once.

        Example:
            >>> from mbflow.speech import Lengths
            >>> Lengths.of([1.0]).digest() == Lengths.of([1]).digest()
            True
        """
        if not self._digests:
            parts = [self.seconds] if self.tokens is None else [self.seconds, self.tokens]
            pieces = [
                _native.xxh3_128(np.ascontiguousarray(part[at : at + (1 << 22)]).tobytes())
                for part in parts
                for at in range(0, len(part), 1 << 22)
            ]
            self._digests.append(_native.xxh3_128("".join(pieces).encode()))
        return self._digests[0]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(path.rglob("*.parquet"))
    elif path.exists():
        found = [path]
    else:
        found = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
    if not found:
        raise DataError(f"{path}: there is no Parquet file")
    return found


def _stamps(paths: Sequence[Path]) -> _Stamps:
    found = [path.stat() for path in paths if path.exists()]
    return [(stat.st_size, stat.st_mtime_ns) for stat in found]


def _reopen(folder: Path, stamps: _Stamps, digests: list[str]) -> Lengths:
    """An index in the process that unpickles it."""
    lengths = Lengths.open(folder)
    if lengths._index is None or lengths._index[1] != stamps:  # noqa: SLF001
        raise DataError(
            f"{folder}: the index was written anew since it was opened; plan again from it"
        )
    lengths._digests.extend(digests)  # noqa: SLF001
    return lengths


def rounded_up(values: Any) -> NDArray[np.float32]:
    """Seconds in single precision, no less than they are: what is padded must not come out shorter.

    Example:
        >>> from mbflow.speech.lengths import rounded_up
        >>> [float(value) >= 0.7 for value in rounded_up([0.7])]
        [True]
    """
    exact = np.asarray(values)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded: NDArray[np.float32] = exact.astype(np.float32)
        if exact.dtype.kind != "f" or exact.dtype.itemsize > rounded.itemsize:
            below = rounded < exact
            rounded[below] = np.nextafter(rounded[below], np.float32(np.inf))
    return rounded


def usable(seconds: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which seconds are finite and above 0, by more than what single precision can hardly hold.

    Example:
        >>> import numpy as np
        >>> from mbflow.speech.lengths import usable
        >>> usable(np.array([1, 0, np.nan, np.inf], np.float32)).tolist()
        [True, False, False, False]
    """
    return np.isfinite(seconds) & (seconds >= np.finfo(np.float32).tiny)


def column_numbers(column: Any, name: str) -> NDArray[Any]:
    """A column as a NumPy array of numbers, with its nulls refused."""
    if isinstance(column, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(column)
        if masked.any():
            row = int(np.argmax(masked))
            raise DataError(
                f"{name}: item {row} is masked, as {int(masked.sum())} of {masked.size}; drop "
                "these items or give them a length",
                row=row,
            )
        column = column.data
    if isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in "fiu":
        return column
    if isinstance(column, list | tuple) and all(type(value) in (int, float) for value in column):
        # Whole numbers and others side by side are numbers.
        found: NDArray[Any] = np.array(column)
        if found.dtype.kind in "fiu":
            return found
    series = to_series(column, name=name)
    if not series.dtype.is_numeric() and len(series):
        raise InvalidArgumentError(f"{name}: of type {series.dtype}; expected numbers")
    if series.null_count():
        row = int(series.is_null().arg_max() or 0)
        raise DataError(
            f"{name}: item {row} is null, as {series.null_count()} of {len(series)}; drop these "
            "items or give them a length",
            row=row,
        )
    found = series.to_numpy() if len(series) else np.empty(0)
    return found.astype(np.float64) if found.dtype == object else found


def refuse_items(wrong: NDArray[np.bool_], values: NDArray[Any], name: str, wanted: str) -> None:
    """Raise an error that names the first wrong item, if there is one."""
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"{name}: item {row} is {values[row]}, and {int(wrong.sum())} of {len(values)} are no "
            f"{wanted}; drop these items first",
            row=row,
        )


def _read_only(values: NDArray[Any]) -> NDArray[Any]:
    values.flags.writeable = False
    return values


def _elsewhere(error: DataError, file: Path, first: int) -> DataError:
    """The error of a part of a file, with the row of the file."""
    row = getattr(error, "row", None)
    if row is None:
        return DataError(f"{file}: {error}")
    return DataError(f"{file}, row {first + row}: {error}", row=first + row)
