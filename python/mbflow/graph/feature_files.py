"""Stored features: a folder with the rows, as they are gathered, and a manifest.

The rows lie without gaps in `rows.bin`, little-endian, so that the file mapped into memory is the
table itself; `scales.bin` holds a float32 for each row of int8. The manifest, `features.json`,
holds type, sizes and XXH3-128. A folder appears under its name when all of it is on disk, or not at
all.

Example:
    >>> import tempfile
    >>> import numpy as np
    >>> from mbflow.graph.feature_files import FeatureWriter, StoredFeatures
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with FeatureWriter(folder + "/features", 2, dtype="float16") as writer:
    ...         writer.append(np.ones((3, 2)))
    ...         _ = writer.finish()
    ...     StoredFeatures(folder + "/features").rows.shape
    (3, 2)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np

from mbflow.errors import DataError, InvalidArgumentError
from mbflow.graph.feature_values import DTYPES, check_dtype, encode
from mbflow.graph.publish import Staging, refusals, sync
from mbflow.graph.sealed import Expect, Folders, check_file, described, map_file, open_whole, sized

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MANIFEST", "FeatureWriter", "StoredFeatures", "open_features"]

MANIFEST = "features.json"
"""The file that makes a folder a stored table of features."""

_FILES = {"rows": "rows.bin", "scales": "scales.bin"}
_MOST = (1 << 63) - 1
_AGAIN = "write the features again, or copy them again from where they are whole"
_FEATURES = Folders("features", MANIFEST, 1, frozenset({MANIFEST, *_FILES.values()}), _AGAIN)


class StoredFeatures:
    """Stored features that are being opened: the manifest is read, the files are mapped.

    Args:
        path: The folder.

    Attributes:
        path: The folder, without links.
        dtype: One of `mbflow.graph.feature_values.DTYPES`.
        rows: `[rows, columns]`, mapped to be read.
        scales: float32 `[rows]` for int8, else None.
        checksum: Of the manifest.

    Raises:
        DataError: There are no features, the manifest is damaged, or a file is missing or has
            another size; the message names the file.

    Example:
        >>> from mbflow.graph.feature_files import StoredFeatures
        >>> StoredFeatures("no-such-folder")
        Traceback (most recent call last):
        ...
        mbflow.errors.DataError: no-such-folder: there is no such folder (no features.json in it)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.realpath(path))
        content = _FEATURES.read(self.path, Path(path))
        expect = Expect(Path(path) / MANIFEST, _AGAIN)
        self.dtype: str = content.get("dtype", "")
        expect.that("dtype", self.dtype, " or ".join(DTYPES), holds=self.dtype in DTYPES)
        for name in ("rows", "columns"):
            expect.count(name, content.get(name), _MOST)
        self.checksum: str = content["checksum"]
        rows, columns = content["rows"], content["columns"]
        needed = {"rows": rows * columns * DTYPES[self.dtype].itemsize}
        if self.dtype == "int8":
            needed["scales"] = 4 * rows
        arrays = content.get("arrays")
        expect.that(
            "arrays", arrays, f"files of {' and '.join(needed)}",
            holds=isinstance(arrays, dict) and arrays.keys() == needed.keys(),
        )  # fmt: skip
        self._entries: dict[str, dict[str, Any]] = content["arrays"]
        for name, size in needed.items():
            entry = self._entries[name]
            expect.file(f"arrays.{name}", entry, _FILES[name])
            expect.that(
                f"arrays.{name}.bytes", entry["bytes"], str(size), holds=entry["bytes"] == size
            )
        self.rows = self._map("rows", DTYPES[self.dtype]).reshape(rows, columns)
        self.scales = self._map("scales", np.dtype(np.float32)) if "scales" in needed else None
        self._states = [_state(self._file(name)) for name in needed]

    def _file(self, name: str) -> Path:
        return self.path / _FILES[name]

    def _map(self, name: str, kind: np.dtype[Any]) -> NDArray[Any]:
        entry = self._entries[name]
        file = sized(self.path, entry, _AGAIN)
        return map_file(file, kind.newbyteorder("<")) if entry["bytes"] else np.empty(0, kind)

    def verify(self) -> None:
        """Compare all bytes with the checksums.

        Raises:
            DataError: They do not match; the message names the file.
        """
        for entry in self._entries.values():
            check_file(self.path, entry, _AGAIN)

    def refuse_changed(self) -> None:
        """Refuse files that were cut off or written to since they were opened.

        Of a file that was cut off, memory that is mapped would end the process when it is read. A
        folder that others have replaced is no matter: what was opened stays.

        Raises:
            DataError: Naming the file.
        """
        for name, state in zip(self._entries, self._states, strict=True):
            found = _state(self._file(name))
            if found is not None and state is not None and found != state and found[0] == state[0]:
                raise DataError(f"{self._file(name)}: changed since it was opened; {_AGAIN}")


def _state(file: Path) -> tuple[tuple[int, int], int, int] | None:
    """Which file it is, its size and when it was written to; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns


def open_features(path: str | os.PathLike[str], *, verify: bool) -> StoredFeatures:
    """Open stored features while others may replace them: these or those.

    Args:
        path: The folder.
        verify: Read everything and compare it with the checksums.

    Raises:
        DataError: There are no features, or they are damaged; the message names the file.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from mbflow.graph.feature_files import FeatureWriter, open_features
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with FeatureWriter(folder, 1, dtype="int8") as writer:
        ...         writer.append(np.array([[254.0]]))
        ...         _ = writer.finish()
        ...     open_features(folder, verify=True).scales.tolist()
        [2.0]
    """

    def opened() -> StoredFeatures:
        stored = StoredFeatures(path)
        if verify:
            stored.verify()
        return stored

    return open_whole(path, opened)


class FeatureWriter:
    """Writes rows one after another, or, where their number is known, in any order.

    To be used in a `with` block: when that ends without `finish`, nothing of it stays.

    Args:
        path: The folder. Features that are there are replaced; anything else is refused.
        columns: Columns.
        dtype: One of `mbflow.graph.feature_values.DTYPES`.
        rows: Rows, where they come in any order, with `put`.

    Raises:
        InvalidArgumentError: Something else stands at `path`, or a number is out of range.
        ResourceError: The folder cannot be made or written to.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from mbflow.graph.feature_files import FeatureWriter
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with FeatureWriter(folder, 1, dtype="float32", rows=2) as writer:
        ...         writer.put(np.array([1, 0]), np.array([[5.0], [6.0]]))
        ...         writer.finish().rows.tolist()
        [[6.0], [5.0]]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        columns: int,
        *,
        dtype: str,
        rows: int | None = None,
    ) -> None:
        self._dtype = check_dtype(dtype)
        for name, value in (("columns", columns), ("rows", 0 if rows is None else rows)):
            if not isinstance(value, int) or not 0 <= value <= _MOST:
                raise InvalidArgumentError(f"{name} is {value!r}; expected a number from 0 on")
        self._staging = Staging(path, reason=_FEATURES.irreplaceable)
        self._columns = columns
        self._rows = rows
        self._done = 0
        self._files: dict[str, BinaryIO] = {}
        self._maps: dict[str, NDArray[Any]] = {}
        self._seen = np.zeros(rows or 0, bool)

    def __enter__(self) -> Self:
        self._staging.__enter__()
        try:
            for name in ("rows", "scales") if self._dtype == "int8" else ("rows",):
                with refusals(self._staging.path):
                    self._files[name] = (self._staging.folder / _FILES[name]).open("w+b")
                    self._reserve(name)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _reserve(self, name: str) -> None:
        """Take all of a file's space: a full disk would end a process that writes to a map."""
        if self._rows is None:
            return
        kind = DTYPES[self._dtype] if name == "rows" else np.dtype(np.float32)
        shape = (self._rows, self._columns) if name == "rows" else (self._rows,)
        size = int(np.prod(shape, dtype=object)) * kind.itemsize
        if size:
            os.posix_fallocate(self._files[name].fileno(), 0, size)
            self._maps[name] = np.memmap(
                self._files[name], kind.newbyteorder("<"), "r+", shape=shape
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._maps.clear()
        for file in self._files.values():
            file.close()
        self._staging.__exit__(kind, error, traceback)

    def append(self, values: NDArray[Any], names: Sequence[str] = ()) -> None:
        """Write the next rows, `[rows, columns]`, rounded to the type.

        Raises:
            DataError: A value is beyond what the type holds, with the row in `values`, and the
                column by its name in `names`, where there are any.
            InvalidArgumentError: The columns are not as many, or rows come in any order.
        """
        if self._rows is not None:
            raise InvalidArgumentError("rows come in any order; write them with `put`")
        self.append_encoded(*self._encoded(values, len(values), names))

    def append_encoded(self, rows: NDArray[Any], scales: NDArray[np.float32] | None) -> None:
        """Write the next rows, which are of the type already, with their scales for int8."""
        arrays = [rows] if scales is None else [rows, scales]
        with refusals(self._staging.path):
            for file, array in zip(self._files.values(), arrays, strict=True):
                file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
        self._done += len(rows)

    def put(self, places: NDArray[Any], values: NDArray[Any]) -> None:
        """Write rows, `[rows, columns]`, at their places, each of which comes once.

        Raises:
            DataError: A value is beyond what the type holds, or a place comes twice.
            InvalidArgumentError: The columns are not as many, or a place is out of range.
        """
        if self._rows is None:
            raise InvalidArgumentError("the number of rows is not known; write them with `append`")
        if len(places) and not 0 <= int(places.min()) <= int(places.max()) < self._rows:
            wrong = places[(places < 0) | (places >= self._rows)][0]
            raise InvalidArgumentError(f"place {wrong}; expected 0 to {self._rows - 1}")
        rows, scales = self._encoded(values, len(places))
        counts = self._seen[places]
        unique, firsts = np.unique(places, return_index=True)
        if counts.any() or len(unique) != len(places):
            again = np.ones(len(places), bool)
            again[firsts] = False
            row = int((again | counts).argmax())
            raise DataError(f"row {row}: place {places[row]} comes twice", row=row)
        self._seen[places] = True
        for name, array in (("rows", rows), ("scales", scales)):
            if name in self._maps:
                self._maps[name][places] = array
        self._done += len(places)

    def _encoded(
        self, values: NDArray[Any], rows: int, names: Sequence[str] = ()
    ) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        if values.shape != (rows, self._columns):
            raise InvalidArgumentError(
                f"values of shape {values.shape}; expected {(rows, self._columns)}"
            )
        return encode(values, self._dtype, names)

    def finish(self) -> StoredFeatures:
        """Flush everything to disk, write the manifest, and put the folder in its place.

        Returns:
            The features that were written, also if others have taken their place by now.

        Raises:
            DataError: A place has no row.
        """
        if self._rows is not None and self._done < self._rows:
            missing = int(np.flatnonzero(~self._seen)[0])
            raise DataError(f"no row for place {missing}, and {self._rows - self._done - 1} others")
        folder = self._staging.folder
        with refusals(self._staging.path):
            for array in self._maps.values():
                array.flush()  # type: ignore[attr-defined]
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
            content = {
                _FEATURES.mark: _FEATURES.version,
                "rows": self._done,
                "columns": self._columns,
                "dtype": self._dtype,
                "arrays": {name: described(folder / _FILES[name]) for name in self._files},
            }
            manifest = folder / MANIFEST
            manifest.write_bytes(_FEATURES.seal(content))
            sync(manifest)
            stored = StoredFeatures(folder)
            self._staging.publish()
        stored.path = self._staging.path
        return stored
