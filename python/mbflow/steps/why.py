"""What a run says about one row: kept or dropped, and which row stands for it.

Example:
    >>> from pathlib import Path
    >>> from mbflow.steps.why import look_up
    >>> look_up(Path("no-such-folder"), 3)
    Traceback (most recent call last):
    ...
    mbflow.errors.DataError: no-such-folder: there is no such folder
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mbflow.errors import DataError
from mbflow.flow.dataset import Dataset
from mbflow.flow.folder import RunFolder, find

__all__ = ["look_up", "sentences"]

TABLE = "why"
"""The table that `select.keep` writes beside its output."""


def look_up(run: Path, row: int, *, step: str | None = None) -> dict[str, Any]:
    """Find what the selection of a run did with a row.

    Args:
        run: A run folder, or the folder that holds just one.
        row: The row's position in the source, counted from 0 over all its files, before `where`.
        step: The step that selected, where the run has several.

    Returns:
        `row`, `class`, `kept`, `score`, `representative`, `distance`, `stands_for`,
        `nearest_other`, `other_distance` as the step wrote them, `other_class`, `step`, `method`
        and `strata`: into how many strata the rows were routed, each selected from on its own, so
        that a row was compared with the kept rows of its stratum.

    Raises:
        DataError: There is no such run, step or row, or it did not pass `where`.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.steps.why import look_up
        >>> look_up(Path("runs/select"), 17)["kept"]  # doctest: +SKIP
        False
    """
    folder = find(run)
    dataset = _selected(folder, step)
    why = dataset.beside(TABLE)
    found = _row(why, row)
    if found is None:
        last = why.manifest["rows"] - 1
        raise DataError(
            f"{dataset.folder}: it holds nothing about row {row}; rows are counted from 0 over all "
            f"files of the source, {last + 1} of them passed `where`"
        )
    other = found["nearest_other"]
    other_row = None if other is None else _row(why, other)
    return {
        **found,
        "other_class": None if other_row is None else other_row["class"],
        "step": dataset.folder.name,
        "method": dataset.meta.get("method"),
        "strata": dataset.meta.get("strata", 1),
    }


def _selected(folder: RunFolder, step: str | None) -> Dataset:
    """The output of the step that selected."""
    there = {
        path.name: Dataset.open(path)
        for path in sorted(folder.steps.glob("*"))
        if not path.name.startswith(".")
    }
    having = [name for name, one in there.items() if TABLE in one.manifest.get("beside", {})]
    if step is not None:
        if step not in there:
            raise DataError(
                f"{folder.path}: there is no step `{step}` that was run; there are "
                f"{', '.join(there) or 'none'}"
            )
        if step not in having:
            raise DataError(
                f"{folder.path}: the step `{step}` has no explanations; those that have: "
                f"{', '.join(having) or 'none'}"
            )
        return there[step]
    if not having:
        raise DataError(
            f"{folder.path}: no step of this run explains its rows; `select.keep` does unless "
            "`explain: false`"
        )
    if len(having) > 1:
        raise DataError(
            f"{folder.path}: several steps explain rows; name one with --step: {', '.join(having)}"
        )
    return there[having[0]]


def _row(why: Dataset, row: int) -> dict[str, Any] | None:
    for batch in why.batches():
        places = np.flatnonzero(batch.column("row").to_numpy() == row)
        if len(places):
            found: dict[str, Any] = batch.slice(int(places[0]), 1).to_pylist()[0]
            return found
    return None


def sentences(found: dict[str, Any]) -> list[str]:
    """What `look_up` found, in words.

    Example:
        >>> from mbflow.steps.why import sentences
        >>> sentences({"row": 3, "class": "a", "kept": False, "representative": 7,
        ...            "distance": 0.25, "step": "keep", "method": "coverage"})[1]
        'Row 7 of the same class, at distance 0.25, stands for it.'
    """
    method = f" by {found['method']}" if found.get("method") else ""
    state = "kept" if found["kept"] else "dropped"
    among = " in its stratum" if found.get("strata", 1) > 1 else ""
    lines = [f"Row {found['row']} (class {found['class']}) was {state}{method}."]
    if not found["kept"]:
        if found["representative"] is None:
            lines.append("No row of its class was kept among those like it: none stands for it.")
        else:
            lines.append(
                f"Row {found['representative']} of the same class, at distance "
                f"{found['distance']:.4g}, stands for it."
            )
        return lines
    rows = "1 dropped row" if found["stands_for"] == 1 else f"{found['stands_for']} dropped rows"
    lines.append(f"It stands for {rows}; its score is {found['score']:.4g}.")
    if found["nearest_other"] is not None:
        lines.append(
            f"The nearest kept row of another class{among} is row {found['nearest_other']} (class "
            f"{found['other_class']}), at distance {found['other_distance']:.4g}."
        )
    return lines
