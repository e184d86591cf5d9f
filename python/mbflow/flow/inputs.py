"""Manifests of sources: which bytes a run reads, and whether they are still those of the last run.

A file's content hash is kept with its size and modification time, so that a file that did not
change is not read again to know it.

Example:
    >>> from mbflow.flow.inputs import changes
    >>> a = {"files": [{"name": "a.parquet", "xxh3_128": "1", "size": 3}]}
    >>> b = {"files": [{"name": "a.parquet", "xxh3_128": "2", "size": 4}]}
    >>> changes(a, b)
    ['a.parquet changed (3 -> 4 bytes)']
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mbflow import _native
from mbflow.errors import DataError
from mbflow.flow.manifest import fingerprint, read_sealed
from mbflow.flow.source import Source, SourceFile, foreign_errors
from mbflow.flow.spec import ParquetSpec

__all__ = ["changes", "damage", "known", "scan"]


def known(path: Path) -> dict[str, Any] | None:
    """The manifest that an earlier run left, or None where there is none that can be trusted.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.flow.inputs import known
        >>> known(Path("no-such.json")) is None
        True
    """
    try:
        return read_sealed(path)
    except (DataError, OSError):
        return None


def scan(
    source: Source,
    spec: ParquetSpec,
    *,
    before: dict[str, Any] | None,
    map_: Callable[[Callable[[SourceFile], str], Iterable[SourceFile]], Iterable[str]] = map,
    on_file: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Make a source's manifest: size, time and XXH3-128 of each file, rows, and a fingerprint.

    Args:
        source: The opened source.
        spec: What the pipeline says of it; columns, label and filter enter the fingerprint.
        before: The manifest of the last run, whose hashes are taken over for files of equal path,
            size and times.
        map_: Applies the checksum to the files, such as an engine's `map`.
        on_file: Called with (files done, files in all).

    Returns:
        Plain data, to be sealed.

    Raises:
        DataError: A file cannot be read, or changes while it is.

    Example:
        >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
        >>> from mbflow.flow.inputs import damage, scan
        >>> from mbflow.flow.source import Source
        >>> from mbflow.flow.spec import ParquetSpec
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = folder + "/a.parquet"
        ...     pq.write_table(pa.table({"x": [1, 2]}), path)
        ...     manifest = scan(Source.open("rows", path), ParquetSpec(path=path), before=None)
        ...     list(damage(manifest)), manifest["rows"], manifest["files"][0]["name"]
        ([], 2, 'a.parquet')
    """
    trusted = {
        (file["path"], file["size"], file["modified"], file["changed"]): file["xxh3_128"]
        for file in (before or {}).get("files", [])
    }
    keys = [
        (str(file.path.absolute()), file.size, file.modified, file.changed) for file in source.files
    ]
    fresh = iter(
        map_(_checksum, [f for f, k in zip(source.files, keys, strict=True) if k not in trusted])
    )
    files: list[dict[str, Any]] = []
    for done, (file, key) in enumerate(zip(source.files, keys, strict=True)):
        on_file(done, len(source.files))
        checksum = trusted[key] if key in trusted else next(fresh)
        files.append(
            {
                "name": file.name,
                "path": key[0],
                "size": file.size,
                "modified": file.modified,
                "changed": file.changed,
                "rows": file.rows,
                "xxh3_128": checksum,
            }
        )
    read = {
        "columns": {field.name: str(field.type) for field in source.schema},
        "label": spec.label,
        "where": spec.where,
    }
    # Names and times stay out: the same bytes in the same order are the same data.
    content = [[file["rows"], file["xxh3_128"]] for file in files]
    return {
        "mbflow_source": 1,
        "use": "parquet",
        "fingerprint": fingerprint({"use": "parquet", "files": content, **read}),
        "rows": source.num_positions,
        "bytes": sum(file.size for file in source.files),
        **read,
        "files": files,
    }


def _checksum(file: SourceFile) -> str:
    with foreign_errors(file.path):
        checksum = _native.xxh3_128_file(str(file.path))
        status = file.path.stat()
    if (status.st_size, status.st_mtime_ns) != (file.size, file.modified):
        raise DataError(f"{file.path}: it changed while it was read; run again when it is still")
    return checksum


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two manifests of one source, a line for each file.

    Example:
        >>> from mbflow.flow.inputs import changes
        >>> changes({"files": [{"name": "a.parquet"}]}, {"files": []})
        ['a.parquet is gone']
    """
    old = {file["name"]: file for file in before["files"]}
    new = {file["name"]: file for file in now["files"]}
    lines = [f"{name} is gone" for name in old if name not in new]
    lines += [f"{name} is new" for name in new if name not in old]
    for name in old:
        if name in new and old[name]["xxh3_128"] != new[name]["xxh3_128"]:
            sizes = f"{old[name]['size']} -> {new[name]['size']} bytes"
            lines.append(f"{name} changed ({sizes})")
    return lines


def damage(manifest: dict[str, Any]) -> Iterator[str]:
    """Compare the files of a source with its manifest; a line for each that differs.

    Example:
        >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
        >>> from mbflow.flow.inputs import damage, scan
        >>> from mbflow.flow.source import Source
        >>> from mbflow.flow.spec import ParquetSpec
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = folder + "/a.parquet"
        ...     pq.write_table(pa.table({"x": [1, 2]}), path)
        ...     manifest = scan(Source.open("rows", path), ParquetSpec(path=path), before=None)
        ...     list(damage(manifest)), manifest["rows"], manifest["files"][0]["name"]
        ([], 2, 'a.parquet')
    """
    for file in manifest["files"]:
        path = Path(file["path"])
        try:
            found = _native.xxh3_128_file(str(path))
        except OSError as error:
            yield f"{path}: cannot be read: {error.strerror or error}"
            continue
        if found != file["xxh3_128"]:
            yield (f"{path}: changed since the run (expected {file['xxh3_128']}, found {found})")
