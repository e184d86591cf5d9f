"""Edge tables in Parquet files, read in pieces; what is wrong in them is told by file and row.

Example:
    >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
    >>> from mbflow.graph.edge_files import EdgeFiles
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pq.write_table(pa.table({"src": [1, 2], "dst": [0, 0]}), folder + "/edges.parquet")
    ...     files = EdgeFiles.find(folder, what="edges")
    ...     [table["dst"].to_pylist() for table in files.tables(["dst"])]
    [[0, 0]]
"""

from __future__ import annotations

import glob
import os
import queue
import re
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mbflow.errors import DataError, InvalidArgumentError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["EdgeFiles", "TableFile", "ahead"]

Item = TypeVar("Item")

_SUFFIXES = (".parquet", ".parq", ".pq")
# Rows of a piece: enough to deal to ranges of nodes, few beside a graph that is worth the care.
_PIECE_ROWS = 1 << 21


@dataclass(frozen=True)
class TableFile:
    """One Parquet file as it was when it was found.

    Attributes:
        path: Where it lies.
        rows: How many rows it has.
        size: Its size in bytes.
        modified: When it changed last, in nanoseconds.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.graph.edge_files import TableFile
        >>> TableFile(Path("edges.parquet"), 3, 100, 0).rows
        3
    """

    path: Path
    rows: int
    size: int
    modified: int


class EdgeFiles:
    """Parquet files whose rows follow each other, in the order of their names.

    Args:
        files: The files.
        schema: The columns of the first one.

    Example:
        >>> from mbflow.graph.edge_files import EdgeFiles
        >>> EdgeFiles.find("no-such-folder", what="edges")
        Traceback (most recent call last):
        ...
        mbflow.errors.DataError: edges: no-such-folder: there is no such file or folder
    """

    def __init__(self, files: Sequence[TableFile], schema: pa.Schema) -> None:
        self.files = tuple(files)
        self.schema = schema
        self._firsts: list[int] = []
        rows = 0
        for file in self.files:
            self._firsts.append(rows)
            rows += file.rows
        self.rows = rows

    @classmethod
    def find(cls, given: Any, *, what: str) -> EdgeFiles:
        """The Parquet files that a path, a folder, a pattern, or several of them stand for.

        Args:
            given: A path or a list of paths. Of a folder, all files `*.parquet` below it; a pattern
                is as in the shell. Files that were found before stay as they are.
            what: How messages call the table.

        Raises:
            DataError: There is no such file, or one is no Parquet file.
            InvalidArgumentError: What is given is no path, such as a table in memory.
        """
        import pyarrow.parquet as pq

        if isinstance(given, EdgeFiles):
            return given
        is_one = isinstance(given, str | os.PathLike) or not isinstance(given, Iterable)
        items = [given] if is_one else list(given)
        for item in items:
            if not isinstance(item, str | os.PathLike):
                _no_path(item if isinstance(given, list | tuple) else given, what)
        files, schema = [], None
        for path in (path for item in items for path in _matches(os.fspath(item), what)):
            with _readable(path), pq.ParquetFile(path) as parquet:
                status = path.stat()
                rows = parquet.metadata.num_rows
                files.append(TableFile(path, rows, status.st_size, status.st_mtime_ns))
                schema = parquet.schema_arrow if schema is None else schema
        if schema is None:
            raise DataError(f"{what}: no file is named; expected a Parquet file or a folder")
        return cls(files, schema)

    def has(self, column: str) -> bool:
        """Whether the first file has a column of that name."""
        return column in self.schema.names

    def need(self, columns: Sequence[str]) -> None:
        """Refuse columns that the first file has not, or has twice.

        Raises:
            DataError: With the columns that there are.
        """
        for column in columns:
            if not self.has(column):
                _missing(self.files[0].path, column, self.schema)
            if self.schema.names.count(column) > 1:
                raise DataError(
                    f"{self.files[0].path}: {self.schema.names.count(column)} columns are called "
                    f"`{column}`; expected one"
                )

    def locate(self, row: int) -> tuple[Path, int]:
        """The file that a row of the table stands in, and its number in it."""
        # The last file that starts there: one without rows may start at the same place.
        at = bisect_right(self._firsts, row) - 1
        return self.files[at].path, row - self._firsts[at]

    @contextmanager
    def naming(self, first_row: int | None = None) -> Iterator[None]:
        """Within this, errors name the file, and the row in it where they know one.

        Args:
            first_row: What rows are counted from, by whose file other errors are named, too;
                without it, from the first one of the table.
        """
        try:
            yield
        except DataError as error:
            if error.row is None and first_row is not None and first_row < self.rows:
                raise DataError(f"{self.locate(first_row)[0]}: {error}") from None
            if error.row is None:
                raise
            first_row = first_row or 0
            path, row = self.locate(first_row + error.row)
            if str(error).startswith(f"{path}, row {row}: "):
                raise  # it was named where it was found
            text = re.sub(rf"^row {error.row}: ", "", str(error))
            if text == str(error):
                text = text.replace(f" in row {error.row}", "", 1)
            raise DataError(f"{path}, row {row}: {text}", row=first_row + error.row) from None

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read some columns of all rows, a few million rows at a time; every page is checked.

        Raises:
            DataError: A file cannot be read, lacks a column, or changed since it was found.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        for file in self.files:
            waiting: list[pa.RecordBatch] = []
            rows = read = 0
            # Through a buffer, so that a row group is never in memory as a whole.
            with (
                _readable(file.path),
                pq.ParquetFile(
                    file.path,
                    page_checksum_verification=True,
                    pre_buffer=False,
                    buffer_size=1 << 20,
                ) as parquet,
            ):
                for column in columns:
                    if column not in parquet.schema_arrow.names:
                        _missing(file.path, column, parquet.schema_arrow)
                for batch in parquet.iter_batches(_PIECE_ROWS, columns=list(columns)):
                    batch.validate()
                    waiting.append(batch)
                    rows += batch.num_rows
                    if 2 * rows >= _PIECE_ROWS:
                        yield pa.Table.from_batches(waiting)
                        waiting, read, rows = [], read + rows, 0
                if waiting:
                    yield pa.Table.from_batches(waiting)
                status = file.path.stat()
            changed = (status.st_size, status.st_mtime_ns) != (file.size, file.modified)
            if changed or read + rows != file.rows:
                raise DataError(
                    f"{file.path}: it changed while it was read; run again when it is still"
                )


def _no_path(item: Any, what: str) -> None:
    advice = {
        "edges": "for edges in memory use `Graph.from_edges(sources, targets)`",
        "nodes": "for ids in memory give `NodeIds.of(ids)`",
        "source_nodes": "for ids in memory give `NodeIds.of(ids)`",
    }
    held = type(item)
    name = held.__name__ if held.__module__ == "builtins" else f"{held.__module__}.{held.__name__}"
    raise InvalidArgumentError(
        f"{what}: of type {name}; expected the path of a Parquet file or folder, or a list of "
        f"paths; {advice.get(what, 'write the table first')}"
    )


def _missing(path: Path, column: str, schema: pa.Schema) -> None:
    names = ", ".join(schema.names[:20])
    raise DataError(f"{path}: no column `{column}`; it has: {names}")


def _matches(item: str, what: str) -> list[Path]:
    path = Path(item).expanduser()
    if path.is_dir():
        found = sorted(
            file
            for file in path.rglob("*")
            if file.suffix in _SUFFIXES
            and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
        )
        if not found:
            raise DataError(f"{what}: {item}: the folder holds no file *.parquet")
        return found
    if path.exists():
        return [path]
    if glob.has_magic(item):
        # Path.glob wants a root; this takes patterns as the shell does.
        names = glob.glob(str(path), recursive=True)  # noqa: PTH207
        found = [file for file in sorted(map(Path, names)) if file.is_file()]
        if found:
            return found
        raise DataError(f"{what}: {item}: no file matches")
    raise DataError(f"{what}: {item}: there is no such file or folder")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        line = str(error).partition("\n")[0]
        raise DataError(f"{path}: cannot be read as Parquet: {line}") from None


def ahead(items: Callable[[], Iterator[Item]]) -> Iterator[Item]:
    """The items of an iterator, each made on a thread of its own while the one before is used.

    Args:
        items: Makes the iterator.

    Example:
        >>> from mbflow.graph.edge_files import ahead
        >>> list(ahead(lambda: iter([1, 2])))
        [1, 2]
    """
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=1)
    stop = threading.Event()

    def hand_over(entry: tuple[bool, Any]) -> None:
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in items():
                hand_over((True, item))
                if stop.is_set():
                    return
            hand_over((False, None))
        except BaseException as error:  # noqa: BLE001  - raised again where the items are used
            hand_over((False, error))

    thread = threading.Thread(target=work, name="mbflow-edges", daemon=True)
    thread.start()
    try:
        while True:
            more, item = ready.get()
            if not more:
                if item is not None:
                    raise item
                return
            yield item
    finally:
        stop.set()
        thread.join()
