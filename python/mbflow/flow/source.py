"""Parquet sources: a file, a folder or a glob, read with every row accounted for.

Files are read in the order of their names. A row's position is its number in the whole source,
counted before `where`. Whatever a malformed file does to the reader comes out as a `DataError`
that names the file and, where known, the column and the row.

Example:
    >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
    >>> from mbflow.flow.source import Source
    >>> folder = tempfile.TemporaryDirectory()
    >>> pq.write_table(pa.table({"x": [1, 2, 3], "y": ["a", "b", "a"]}), folder.name + "/a.parquet")
    >>> source = Source.open("rows", folder.name, label="y", where="x > 1")
    >>> source.table().num_rows, source.positions().tolist()
    (2, [1, 2])
    >>> folder.cleanup()
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mbflow.errors import DataError, ResourceError

__all__ = ["Source", "SourceFile", "foreign_errors"]

_BATCH_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source.

    Attributes:
        path: Where it is.
        name: Its path below the folder that the pipeline names.
        size: In bytes.
        modified: When its content was last written, in nanoseconds; a program can set it back.
        changed: When anything about it last changed; only the system sets it.
        rows: How many it holds.
        first: The position of its first row in the source.

    Example:
        >>> from mbflow.flow.source import SourceFile
        >>> SourceFile(Path("a.parquet"), "a.parquet", 100, 0, 0, rows=3, first=0).rows
        3
    """

    path: Path
    name: str
    size: int
    modified: int
    changed: int
    rows: int
    first: int


@contextlib.contextmanager
def foreign_errors(path: Path | str) -> Iterator[None]:
    """Turn what the Parquet reader raises on a bad file into a `DataError` that names the file.

    Example:
        >>> from mbflow.flow.source import foreign_errors
        >>> with foreign_errors("a.parquet"):
        ...     raise pa.ArrowInvalid("bad magic")
        Traceback (most recent call last):
        ...
        mbflow.errors.DataError: a.parquet: cannot be read as Parquet: bad magic
    """
    try:
        yield
    except (DataError, ResourceError):
        raise
    except MemoryError as error:
        raise DataError(f"{path}: asks for more memory than there is: {_one_line(error)}") from None
    except PermissionError as error:
        raise ResourceError(
            error.errno, f"{path}: no permission to read it; check the file's mode and owner"
        ) from None
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file any more") from None
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        OverflowError,
        UnicodeError,
        RuntimeError,
        AttributeError,
    ) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


@dataclass(frozen=True, slots=True)
class Source:
    """The rows of some Parquet files, with the columns and rows that the pipeline asked for.

    Attributes:
        name: The source's name in the pipeline.
        files: In reading order.
        schema: Of the columns that are read, after types were unified over the files.
        label: The class column, or None.
        where: A polars SQL expression, or None.
        num_positions: Rows in the files, before `where`.
        full: The schema of all columns of the files.
        needed: The columns that `where` reads.
        mask: Holds, once it is known, for each position whether `where` is true.

    Example:
        >>> from mbflow.flow.source import Source
        >>> Source.open("rows", "no-such-file.parquet")
        Traceback (most recent call last):
        ...
        mbflow.errors.DataError: source `rows`: no-such-file.parquet: there is no such file or...
    """

    name: str
    files: tuple[SourceFile, ...]
    schema: pa.Schema
    label: str | None
    where: str | None
    num_positions: int
    full: pa.Schema
    needed: tuple[str, ...]
    mask: list[np.ndarray[Any, np.dtype[np.bool_]]] = field(default_factory=list, compare=False)

    kind = "rows"

    @classmethod
    def open(
        cls,
        name: str,
        path: str | Sequence[str],
        *,
        columns: Sequence[str] | None = None,
        label: str | None = None,
        where: str | None = None,
    ) -> Source:
        """Find the files, read their footers and check that they fit together.

        Args:
            name: The source's name, for messages.
            path: A file, folder or glob, or several.
            columns: Names or globs of the columns to read; the label is always read.
            label: The class column.
            where: A polars SQL expression over the columns of the files.

        Raises:
            DataError: Missing, unreadable or mismatched files, or a column that is not there.
        """
        try:
            paths = _find([path] if isinstance(path, str) else path)
        except DataError as error:
            raise DataError(f"source `{name}`: {error}") from None
        files: list[SourceFile] = []
        schemas: list[pa.Schema] = []
        first = 0
        for file_path, short in paths:
            with foreign_errors(file_path):
                status = file_path.stat()
                with pq.ParquetFile(file_path, page_checksum_verification=True) as parquet:
                    rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
            if rows < 0 or rows > 1 << 48:
                raise DataError(f"{file_path}: its footer claims {rows} rows")
            files.append(
                SourceFile(
                    path=file_path,
                    name=short,
                    size=status.st_size,
                    modified=status.st_mtime_ns,
                    changed=status.st_ctime_ns,
                    rows=rows,
                    first=first,
                )
            )
            schemas.append(schema)
            first += rows
        full = _unified(files, schemas)
        chosen = _chosen(full, columns, label, files[0].path)
        needed = _needed(full, where, files[0].path)
        return cls(name, tuple(files), chosen, label, where, first, full, needed)

    @property
    def columns(self) -> list[str]:
        """The names of the columns that are read."""
        return list(self.schema.names)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Read the rows that pass `where`, in order, at most 65,536 at a time."""
        for _, batch in self.scan(columns):
            yield batch

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read all rows that pass `where` into memory."""
        wanted = self.columns if columns is None else list(columns)
        schema = pa.schema([self.schema.field(column) for column in wanted])
        return pa.Table.from_batches(list(self.batches(wanted)), schema)

    def positions(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The position of each row that passes `where`: int64, ascending."""
        if self.where is None:
            return np.arange(self.num_positions, dtype=np.int64)
        found = [positions for positions, _ in self.scan([])]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def take(
        self, positions: np.ndarray[Any, np.dtype[np.int64]], columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Read the rows at ascending positions; only row groups that hold any are read."""
        wanted = self.columns if columns is None else list(columns)
        for file in self.files:
            low, high = np.searchsorted(positions, [file.first, file.first + file.rows])
            if low == high:
                continue
            local = positions[low:high] - file.first
            with foreign_errors(file.path), _opened(file) as parquet:
                starts = np.cumsum(
                    [0]
                    + [
                        parquet.metadata.row_group(index).num_rows
                        for index in range(parquet.metadata.num_row_groups)
                    ]
                )
                for index in range(len(starts) - 1):
                    a, b = np.searchsorted(local, starts[index : index + 2])
                    if a == b:
                        continue
                    inside = pa.array(local[a:b] - starts[index])
                    group = self._cast(parquet.read_row_group(index, columns=wanted), wanted, file)
                    yield from group.take(inside).combine_chunks().to_batches()
            self.check_unchanged(file)

    def locate(self, position: int) -> tuple[Path, int]:
        """The file that holds a position, and the row in it (from 0)."""
        for file in self.files:
            if position < file.first + file.rows:
                return file.path, position - file.first
        raise IndexError(position)

    def rows(self) -> int:
        """How many rows pass `where`."""
        mask = self._mask()
        return self.num_positions if mask is None else int(mask.sum())

    def scan(
        self, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[np.ndarray[Any, np.dtype[np.int64]], pa.RecordBatch]]:
        """Read as `batches` does, with the position of each row."""
        wanted = self.columns if columns is None else list(columns)
        for file, position, batch in self._raw(wanted):
            yield self.passing(wanted, file, position, batch)

    def passing(
        self, wanted: list[str], file: SourceFile, position: int, batch: pa.RecordBatch
    ) -> tuple[np.ndarray[Any, np.dtype[np.int64]], pa.RecordBatch]:
        """The rows of a batch that pass `where`, with their positions.

        Args:
            wanted: The columns, in order.
            file: Where the batch was read from.
            position: Of its first row.
            batch: The rows.
        """
        mask = self._mask()
        here = np.arange(position, position + batch.num_rows, dtype=np.int64)
        table = pa.Table.from_batches([batch])
        if mask is not None:
            keep = mask[position : position + batch.num_rows]
            here, table = here[keep], table.filter(pa.array(keep))
        found = self._cast(table, wanted, file).combine_chunks().to_batches()
        schema = pa.schema([self.schema.field(column) for column in wanted])
        return here, found[0] if found else pa.RecordBatch.from_pylist([], schema)

    def _raw(self, columns: Sequence[str]) -> Iterator[tuple[SourceFile, int, pa.RecordBatch]]:
        """Every row of these columns as it stands in the files: file, first position, rows."""
        for file in self.files:
            position = file.first
            with foreign_errors(file.path), _opened(file) as parquet:
                batches = (
                    parquet.iter_batches(_BATCH_ROWS, columns=list(columns))
                    if columns
                    else _empty_batches(file.rows)
                )
                for batch in batches:
                    batch.validate(full=True)
                    yield file, position, batch
                    position += batch.num_rows
            if position != file.first + file.rows:
                raise DataError(
                    f"{file.path}: its footer says {file.rows} rows, but "
                    f"{position - file.first} could be read"
                )
            self.check_unchanged(file)

    def _mask(self) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        """For each position whether `where` holds, or None without one.

        It is applied to the whole source at once, not by batch: `x > AVG(x)` must not depend on
        how the rows are spread over files.
        """
        if self.where is None:
            return None
        if not self.mask:
            schema = pa.schema([self.full.field(column) for column in self.needed])
            parts = []
            for file, _, batch in self._raw(self.needed):
                with foreign_errors(file.path):
                    part = pa.Table.from_batches([batch]).select(list(self.needed))
                    parts.append(part.cast(schema))
            table = pa.concat_tables(parts) if parts else schema.empty_table()
            found = _condition(table, self.where, self.files[0].path)
            keep = found.fill_null(value=False).to_numpy()
            if len(keep) == 1:
                keep = np.repeat(keep, self.num_positions)
            if len(keep) != self.num_positions:
                raise DataError(
                    f"`where: {self.where}` gives {len(keep)} values for {self.num_positions} rows"
                )
            self.mask.append(keep)
        return self.mask[0]

    def _cast(self, table: pa.Table, wanted: list[str], file: SourceFile) -> pa.Table:
        schema = pa.schema([self.schema.field(column) for column in wanted])
        try:
            return table.select(wanted).cast(schema)
        except (pa.ArrowException, ValueError) as error:
            raise DataError(f"{file.path}: {_one_line(error)}") from None

    def check_unchanged(self, file: SourceFile) -> None:
        """Refuse a file that is no longer as it was when the source was opened.

        Raises:
            DataError: It changed.
        """
        with foreign_errors(file.path):
            status = file.path.stat()
        if (status.st_size, status.st_mtime_ns) != (file.size, file.modified):
            raise DataError(
                f"{file.path}: it changed while it was read; run again when it is still"
            )


def _opened(file: SourceFile) -> pq.ParquetFile:
    return pq.ParquetFile(file.path, page_checksum_verification=True, pre_buffer=False)


def _empty_batches(rows: int) -> Iterator[pa.RecordBatch]:
    """Batches without columns that only count rows."""
    for start in range(0, rows, _BATCH_ROWS):
        count = min(_BATCH_ROWS, rows - start)
        yield pa.RecordBatch.from_struct_array(
            pa.StructArray.from_buffers(pa.struct([]), count, [None])
        )


def _find(given: Sequence[str]) -> list[tuple[Path, str]]:
    """All files, sorted by name, each with its name below the folder that was given."""
    found: list[tuple[Path, str]] = []
    for item in given:
        try:
            found += _matches(item)
        except OSError as error:
            raise DataError(f"{item[:200]}: cannot be looked up: {error.strerror}") from None
    seen: set[Path] = set()
    for file, _ in found:
        real = file.resolve()
        if real in seen:
            raise DataError(f"{file}: named twice; its rows would be read twice")
        seen.add(real)
    return found


def _matches(item: str) -> list[tuple[Path, str]]:
    path = Path(item).expanduser()
    if path.is_dir():
        inside = sorted(_inside(path))
        if not inside:
            raise DataError(f"{item}: the folder holds no file *.parquet")
        return [(file, file.relative_to(path).as_posix()) for file in inside]
    if path.exists():
        return [(path, path.name)]
    if glob.has_magic(item):
        # Path.glob wants a root; this takes patterns as the shell does.
        names = glob.glob(str(path), recursive=True)  # noqa: PTH207
        files = [file for file in sorted(map(Path, names)) if file.is_file()]
        if not files:
            raise DataError(f"{item}: no file matches")
        return [(file, file.name) for file in files]
    raise DataError(f"{item}: there is no such file or folder{_elsewhere(path)}")


def _inside(top: Path) -> Iterator[Path]:
    """The Parquet files below a folder; linked folders are entered, but none twice."""
    seen: set[Path] = set()
    for folder, inner, names in os.walk(top, followlinks=True):
        here = Path(folder)
        real = here.resolve()
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith((".", "_")))
        for name in names:
            if name.endswith((".parquet", ".parq", ".pq")) and not name.startswith((".", "_")):
                yield here / name


def _elsewhere(path: Path) -> str:
    return "" if path.is_absolute() else f" (looked in {Path.cwd()})"


def _unified(files: Sequence[SourceFile], schemas: Sequence[pa.Schema]) -> pa.Schema:
    """One schema for all files: the first one's columns, types widened where they differ."""
    result = _without_views(schemas[0])
    if len(set(result.names)) != len(result.names):
        twice = next(name for name in result.names if result.names.count(name) > 1)
        raise DataError(f"{files[0].path}: the column `{twice}` stands twice")
    for file, own in zip(files[1:], schemas[1:], strict=True):
        schema = _without_views(own)
        if schema.names != result.names:
            missing = [name for name in result.names if name not in schema.names]
            surplus = [name for name in schema.names if name not in result.names]
            if missing or surplus:
                what = [f"has no column `{name}`" for name in missing[:3]]
                what += [f"has a column `{name}`" for name in surplus[:3]]
                raise DataError(f"{file.path}: {', '.join(what)}, unlike {files[0].path}")
            schema = pa.schema([schema.field(name) for name in result.names])
        if schema.equals(result):
            continue
        try:
            result = pa.unify_schemas([result, schema], promote_options="permissive")
        except (pa.ArrowException, ValueError) as error:
            name = next(n for n in result.names if not _fits(result.field(n), schema.field(n)))
            raise DataError(
                f"{file.path}: the column `{name}` is {schema.field(name).type}, and "
                f"{result.field(name).type} in {files[0].path} ({_one_line(error)})"
            ) from None
    return result


def _without_views(schema: pa.Schema) -> pa.Schema:
    """Views become plain text and bytes, since not every kernel of Arrow takes views."""
    plain = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    return pa.schema([field.with_type(plain.get(field.type, field.type)) for field in schema])


def _fits(a: pa.Field, b: pa.Field) -> bool:
    try:
        pa.unify_schemas([pa.schema([a]), pa.schema([b])], promote_options="permissive")
    except (pa.ArrowException, ValueError):
        return False
    return True


def _chosen(
    full: pa.Schema, columns: Sequence[str] | None, label: str | None, path: Path
) -> pa.Schema:
    names = list(full.names)
    if label is not None and label not in names:
        raise DataError(f"{path}: no column `{label}` (the label); it has: {_listed(names)}")
    if columns is not None:
        wanted: set[str] = set() if label is None else {label}
        for pattern in columns:
            matches = [pattern] if pattern in names else fnmatch.filter(names, pattern)
            if not matches:
                raise DataError(f"{path}: no column `{pattern}`; it has: {_listed(names)}")
            wanted.update(matches)
        names = [name for name in names if name in wanted]
    return pa.schema([full.field(name) for name in names])


def _needed(full: pa.Schema, where: str | None, path: Path) -> tuple[str, ...]:
    """The columns that `where` reads; it is tried on no rows, so that what is wrong shows now."""
    if where is None:
        return ()
    try:
        names = pl.sql_expr(where).meta.root_names()
    except pl.exceptions.PolarsError as error:
        raise DataError(f"`where: {where}` is not understood: {_one_line(error)}") from None
    for name in names:
        if name not in full.names:
            raise DataError(
                f"{path}: no column `{name}` (in `where: {where}`); it has: {_listed(full.names)}"
            )
    needed = tuple(dict.fromkeys(names))
    empty = pa.schema([full.field(name) for name in needed]).empty_table()
    _condition(empty, where, path)
    return needed


def _condition(table: pa.Table, where: str, path: Path) -> pl.Series:
    """Apply `where` to rows: true, false or null for each."""
    try:
        frame = pl.DataFrame(pl.from_arrow(table))
        result = frame.select(pl.sql_expr(where).alias("keep"))["keep"]
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise DataError(f"{path}: `where: {where}` cannot be applied: {_one_line(error)}") from None
    if result.dtype != pl.Boolean:
        raise DataError(f"`where: {where}` gives {result.dtype}, not true or false for each row")
    return result


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
