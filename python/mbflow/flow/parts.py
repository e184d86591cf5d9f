"""Parts of a source that are read side by side, whatever the size of their rows.

Example:
    >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
    >>> from mbflow.flow.parts import parts
    >>> from mbflow.flow.source import Source
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pq.write_table(pa.table({"x": [1, 2, 3]}), folder + "/a.parquet", row_group_size=2)
    ...     [part.rows for part in parts(Source.open("rows", folder), ["x"], whole=False)]
    [2, 1]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from mbflow.errors import DataError
from mbflow.flow.source import Source, SourceFile, foreign_errors

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = ["Part", "parts"]

_BATCH_ROWS = 65_536
# A part ends with the row group that brings it to so many rows or bytes in memory.
_PART_ROWS = 1 << 20
_PART_BYTES = 64 << 20
# Of wide columns, such as audio, a batch of a part holds fewer rows: about so many bytes.
_BATCH_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """Some row groups of one file of a source: plain data, read where it is needed.

    Attributes:
        source: What it is a part of.
        file: The file.
        begin: The first row group.
        end: The one after the last.
        first: The position of the first row in the source.
        rows: How many it holds, before `where`.
        size: Bytes in memory of the columns it was cut for.

    Example:
        >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
        >>> from mbflow.flow.parts import parts
        >>> from mbflow.flow.source import Source
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pq.write_table(pa.table({"x": [1, 2, 3]}), folder + "/a.parquet")
        ...     (part,) = parts(Source.open("rows", folder, where="x > 1"), ["x"])
        ...     [(here.tolist(), batch["x"].to_pylist()) for here, batch in part.scan(["x"])]
        [([1, 2], [2, 3])]
    """

    source: Source
    file: SourceFile
    begin: int
    end: int
    first: int
    rows: int
    size: int

    def scan(
        self, columns: Sequence[str], *, most: int | None = None
    ) -> Iterator[tuple[np.ndarray[Any, np.dtype[np.int64]], pa.RecordBatch]]:
        """Read the rows that pass `where`, with their positions, some 16 MiB at a time.

        Args:
            columns: What to read.
            most: Stop after so many rows.

        Raises:
            DataError: The file cannot be read, or changed since the source was opened.
        """
        wanted = list(columns)
        size = max(1, min(_BATCH_ROWS, _BATCH_BYTES * self.rows // max(1, self.size)))
        left = self.rows if most is None else most
        position = self.first
        # Read through a buffer, so that a row group of audio need not fit into memory.
        with (
            foreign_errors(self.file.path),
            pq.ParquetFile(
                self.file.path,
                page_checksum_verification=True,
                pre_buffer=False,
                buffer_size=1 << 20,
            ) as parquet,
        ):
            batches = parquet.iter_batches(
                min(size, max(1, left)), row_groups=range(self.begin, self.end), columns=wanted
            )
            for batch in batches:
                batch.validate(full=True)
                here, found = self.source.passing(wanted, self.file, position, batch)
                position += batch.num_rows
                yield here[:left], found.slice(0, left)
                left -= found.num_rows
                if left <= 0 and most is not None:
                    return
        if position != self.first + self.rows:
            raise DataError(
                f"{self.file.path}: its footer says {self.rows} rows in row groups {self.begin} to "
                f"{self.end - 1}, but {position - self.first} could be read"
            )
        self.source.check_unchanged(self.file)


def parts(source: Source, columns: Sequence[str], *, whole: bool = True) -> list[Part]:
    """Cut a source into runs of row groups, to be read side by side; none is read here.

    Args:
        source: The source.
        columns: What will be read, which says how large a part is.
        whole: Put row groups together up to some 64 MiB; else each is a part.

    Returns:
        The parts in order; `where` is applied when they are read.

    Raises:
        DataError: A file cannot be read.

    Example:
        >>> from mbflow.flow.parts import parts
        >>> parts(source, ["audio"])  # doctest: +SKIP
    """
    # Which rows pass `where` is worked out once, before the parts go to other threads.
    source.rows()
    found: list[Part] = []
    for file in source.files:
        position, begin, rows, size = file.first, 0, 0, 0
        with (
            foreign_errors(file.path),
            pq.ParquetFile(file.path, page_checksum_verification=True) as parquet,
        ):
            footer = parquet.metadata
            for group in range(footer.num_row_groups):
                inside = footer.row_group(group)
                rows += inside.num_rows
                size += _bytes_of(inside, columns)
                last = group + 1 == footer.num_row_groups
                if last or not whole or rows >= _PART_ROWS or size >= _PART_BYTES:
                    found.append(Part(source, file, begin, group + 1, position, rows, size))
                    position, begin, rows, size = position + rows, group + 1, 0, 0
    return found


def _bytes_of(group: pq.RowGroupMetaData, columns: Sequence[str]) -> int:
    """Bytes of some columns of a row group, unpacked."""
    chunks = [group.column(place) for place in range(group.num_columns)]
    return sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if any(f"{chunk.path_in_schema}.".startswith(f"{column}.") for column in columns)
    )
