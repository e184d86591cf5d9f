"""Pieces of a long plan: made one after the other, and found again by a run that was stopped.

Example:
    >>> import tempfile, pyarrow as pa
    >>> from pathlib import Path
    >>> from mbflow.steps.speech_pieces import piece
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = [piece(Path(folder) / "a", lambda: pa.table({"x": [1, 2]})) for _ in range(2)]
    ...     [was_there for _, was_there in made], made[1][0].table()["x"].to_pylist()
    ([False, True], [1, 2])
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mbflow.errors import DataError
from mbflow.flow.dataset import Dataset, DatasetWriter, damage

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["piece"]


def piece(folder: Path, make: Callable[[], pa.Table]) -> tuple[Dataset, bool]:
    """The rows of a piece: as they lie in a folder, where every byte is sound, else made anew.

    Args:
        folder: Where the piece lies once it is there.
        make: Makes its rows.

    Returns:
        The rows, and whether they were there.

    Example:
        >>> from mbflow.steps.speech_pieces import piece
        >>> rows, was_there = piece(context.scratch / "epoch-0", make)  # doctest: +SKIP
    """
    try:
        found = Dataset.open(folder)
        if not damage(folder, found.manifest):
            return found, True
    except (DataError, OSError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    writer = DatasetWriter(temporary)
    writer.write(make())
    manifest = writer.finish({"kind": "piece", "meta": {}})
    temporary.rename(folder)
    return Dataset(folder, manifest), False
