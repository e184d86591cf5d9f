"""What steps write and read: a folder of Parquet parts with a manifest, whole or not there at all.

Parts carry page checksums, which reading verifies; the manifest, which is written last, holds the
XXH3-128 of every part and of itself. The bytes depend only on the rows, so equal runs give equal
files.

Example:
    >>> import tempfile, pyarrow as pa
    >>> from mbflow.flow.dataset import Dataset, DatasetWriter
    >>> folder = tempfile.TemporaryDirectory()
    >>> writer = DatasetWriter(Path(folder.name))
    >>> writer.write(pa.table({"x": [1, 2]}))
    >>> content = writer.finish({"kind": "rows"})
    >>> Dataset.open(Path(folder.name)).table()["x"].to_pylist()
    [1, 2]
    >>> folder.cleanup()
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mbflow import _native
from mbflow.errors import DataError, DefectError
from mbflow.flow.manifest import read_sealed, sync_folder, write_sealed
from mbflow.flow.source import foreign_errors

__all__ = ["MANIFEST", "Dataset", "DatasetWriter", "damage", "files_of"]

MANIFEST = "_manifest.json"

_PART_GROUPS = 8
_GROUP_ROWS = 131_072
_GROUP_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Dataset:
    """The output of a step, opened for reading.

    Attributes:
        folder: Where it lies.
        manifest: The content of its manifest.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.flow.dataset import Dataset
        >>> Dataset.open(Path("no-such-folder"))
        Traceback (most recent call last):
        ...
        mbflow.errors.DataError: no-such-folder: no _manifest.json; this is no complete output
    """

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """Open the data set in a folder by its manifest.

        Raises:
            DataError: The manifest is damaged or missing.
        """
        try:
            return cls(folder, read_sealed(folder / MANIFEST))
        except FileNotFoundError:
            raise DataError(f"{folder}: no {MANIFEST}; this is no complete output") from None

    @property
    def kind(self) -> str:
        """What the data set holds, as the catalogue names it."""
        return str(self.manifest["kind"])

    @property
    def meta(self) -> dict[str, Any]:
        """What the step that wrote it passed on."""
        meta: dict[str, Any] = self.manifest["meta"]
        return meta

    def beside(self, name: str) -> Dataset:
        """The table of that name that the step wrote beside its output.

        Raises:
            DataError: There is none of that name.
        """
        tables = self.manifest.get("beside", {})
        if name not in tables:
            raise DataError(f"{self.folder}: there is no table `{name}` beside this output")
        return Dataset(self.folder, {"kind": name, "meta": {}, **tables[name]})

    def folder_beside(self, name: str) -> Path:
        """The folder of that name with files of the step's own kind, such as a graph.

        Raises:
            DataError: There is none of that name.
        """
        if "folder" not in self.manifest.get("beside", {}).get(name, {}):
            raise DataError(f"{self.folder}: there is no folder `{name}` beside this output")
        return self.folder / str(self.manifest["beside"][name]["folder"])

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Read the rows in order; every page is checked against its checksum."""
        for file in self.manifest["files"]:
            path = self.folder / file["name"]
            rows = 0
            with (
                foreign_errors(path),
                pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as parquet,
            ):
                wanted = None if columns is None else list(columns)
                for batch in parquet.iter_batches(65_536, columns=wanted):
                    rows += batch.num_rows
                    yield batch
            if rows != file["rows"]:
                raise DataError(f"{path}: {rows} rows, and {file['rows']} in the manifest")

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read all rows into memory."""
        batches = list(self.batches(columns))
        if not batches:
            path = self.folder / self.manifest["files"][0]["name"]
            with foreign_errors(path):
                return pq.read_table(path, columns=None if columns is None else list(columns))
        return pa.Table.from_batches(batches)


class DatasetWriter:
    """Writes Parquet parts into a folder that nobody reads before `finish`.

    Row groups hold 64 MiB of Arrow data by the width of the schema, at most 131,072 rows; parts
    hold eight row groups. So where they are cut depends on the rows, not on how they arrive.

    Args:
        folder: An empty folder.
        below: A folder in it that takes the parts, made when there is one.

    Example:
        >>> import tempfile, pyarrow as pa
        >>> from pathlib import Path
        >>> from mbflow.flow.dataset import DatasetWriter
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     writer = DatasetWriter(Path(folder))
        ...     writer.write(pa.table({"x": [1, 2]}))
        ...     writer.finish({"kind": "rows"})["rows"]
        2
    """

    def __init__(self, folder: Path, *, below: str | None = None) -> None:
        self.folder = folder
        self.rows = 0
        self._below = "" if below is None else f"{below}/"
        self._beside: dict[str, DatasetWriter] = {}
        self._folders: list[str] = []
        self._schema: pa.Schema | None = None
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self._group_rows = _GROUP_ROWS
        self._groups = 0
        self._parts: list[dict[str, Any]] = []

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Append rows; the first call sets the schema."""
        schema = rows.schema.remove_metadata()
        if self._schema is None:
            self._schema = schema
            width = sum(_width(field.type) for field in schema)
            self._group_rows = max(1024, min(_GROUP_ROWS, _GROUP_BYTES // max(1, width)))
        elif not schema.equals(self._schema):
            raise DefectError(f"a step wrote rows of {schema} after rows of {self._schema}")
        self._waiting += [rows] if isinstance(rows, pa.RecordBatch) else rows.to_batches()
        self._waiting_rows += rows.num_rows
        while self._waiting_rows >= self._group_rows:
            self._write_group(self._group_rows)

    def beside(self, name: str) -> DatasetWriter:
        """The writer of a table beside this one, with parts and a schema of its own."""
        if name not in self._beside:
            # Readers of a folder of Parquet files, mbflow's own too, pass over such a name.
            self._beside[name] = DatasetWriter(self.folder, below=f"_{name}")
        return self._beside[name]

    def folder_beside(self, name: str) -> Path:
        """Where a folder beside the table goes; it is the caller's to make and to flush to disk.

        What lies in it at `finish` is part of the output, with checksums.
        """
        self._folders.append(name)
        return self.folder / f"_{name}"

    def _write_group(self, rows: int) -> None:
        table = pa.Table.from_batches(self._waiting, self._schema)
        group, rest = table.slice(0, rows).combine_chunks(), table.slice(rows)
        self._open().write_table(group, row_group_size=max(1, rows))
        self._parts[-1]["rows"] += rows
        self.rows += rows
        self._groups += 1
        self._waiting, self._waiting_rows = rest.to_batches(), rest.num_rows
        if self._groups == _PART_GROUPS:
            self._close_part()

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            name = f"{self._below}part-{len(self._parts):05d}.parquet"
            (self.folder / name).parent.mkdir(exist_ok=True)
            self._parts.append({"name": name, "rows": 0})
            self._writer = pq.ParquetWriter(
                self.folder / name,
                self._schema,
                compression="zstd",
                compression_level=1,
                write_page_checksum=True,
                store_schema=True,
            )
        return self._writer

    def _close_part(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        self._groups = 0
        part = self._parts[-1]
        path = self.folder / part["name"]
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        part["bytes"] = path.stat().st_size
        part["xxh3_128"] = _native.xxh3_128_file(str(path))

    def abandon(self) -> None:
        """Close what is open without finishing; the folder is the caller's to remove."""
        for writer in self._beside.values():
            writer.abandon()
        if self._writer is not None:
            parquet, self._writer = self._writer, None
            try:
                parquet.close()
            except (OSError, pa.ArrowException):
                return

    def finish(self, content: dict[str, Any]) -> dict[str, Any]:
        """Close the last part and write the manifest; returns the manifest's content."""
        manifest = {"mbflow_manifest": 1, **content, **self.contents()}
        beside = {name: writer.contents() for name, writer in sorted(self._beside.items())}
        beside |= {name: self._files_beside(f"_{name}") for name in self._folders}
        if beside:
            manifest["beside"] = beside
        write_sealed(self.folder / MANIFEST, manifest)
        sync_folder(self.folder)
        return manifest

    def _files_beside(self, below: str) -> dict[str, Any]:
        """The manifest's entries about a folder."""
        paths = sorted(path for path in (self.folder / below).iterdir() if path.is_file())
        files = [
            {
                "name": f"{below}/{path.name}",
                "bytes": path.stat().st_size,
                "xxh3_128": _native.xxh3_128_file(str(path)),
            }
            for path in paths
        ]
        return {"folder": below, "bytes": sum(file["bytes"] for file in files), "files": files}

    def contents(self) -> dict[str, Any]:
        """Write what waits and close the last part; the manifest's entries about this table."""
        if self._schema is None:
            raise DefectError("the step ended without writing any output")
        if self._waiting_rows or not self._parts:
            self._write_group(self._waiting_rows)
        self._close_part()
        sync_folder(self.folder / self._below)
        return {
            "rows": self.rows,
            "bytes": sum(part["bytes"] for part in self._parts),
            "columns": {field.name: str(field.type) for field in self._schema},
            "files": self._parts,
        }


def _width(kind: pa.DataType) -> int:
    """Bytes of one value; what has no fixed width counts as 64."""
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * _width(kind.value_type)
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:
        return 64


def files_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The files of a data set and of the tables beside it, as its manifest lists them.

    Example:
        >>> from mbflow.flow.dataset import files_of
        >>> beside = {"why": {"files": [{"name": "_why/part-00000.parquet"}]}}
        >>> manifest = {"files": [{"name": "a.parquet"}], "beside": beside}
        >>> [file["name"] for file in files_of(manifest)]
        ['a.parquet', '_why/part-00000.parquet']
    """
    tables = [manifest, *manifest.get("beside", {}).values()]
    return [file for table in tables for file in table["files"]]


def damage(
    folder: Path,
    manifest: dict[str, Any],
    *,
    map_: Callable[[Callable[[Path], str], Iterable[Path]], Iterable[str]] = map,
) -> list[str]:
    """Compare the files of a data set with its manifest; one line for each difference.

    Args:
        folder: The data set's folder.
        manifest: The content of its manifest.
        map_: Applies the checksum to the files, such as an engine's `map`.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.flow.dataset import damage
        >>> damage(Path("gone"), {"files": [{"name": "a.parquet", "bytes": 3, "xxh3_128": "0"}]})
        ['gone/a.parquet: missing']
    """
    problems: list[str] = []
    whole: list[tuple[Path, str]] = []
    for file in files_of(manifest):
        path = folder / file["name"]
        try:
            size = path.stat().st_size
        except OSError:
            problems.append(f"{path}: missing")
            continue
        if size != file["bytes"]:
            problems.append(f"{path}: {size} bytes, expected {file['bytes']}")
        else:
            whole.append((path, file["xxh3_128"]))
    found = map_(_checksum, [path for path, _ in whole])
    for (path, expected), checksum in zip(whole, found, strict=True):
        if checksum != expected:
            problems.append(
                f"{path}: does not match its checksum (expected {expected}, found {checksum})"
            )
    return problems


def _checksum(path: Path) -> str:
    return _native.xxh3_128_file(str(path))
