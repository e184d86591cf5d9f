"""Selecting from more rows than fit memory: route them to strata, select from each on its own.

Two passes over the source. The first counts classes and draws a sample, on which the encoder and
the router are fitted; the second encodes each row and appends it to the files of its stratum. Then
the strata are worked on side by side. Both the routed files and the result of each stratum stand in
the step's scratch folder with their checksums, so that a run started again goes on in the middle.

Which stratum a row goes to depends on the row alone, and every count on all rows: so the result is
the same for any number of workers and for any files that hold the same rows in the same order.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mbflow import _native, select
from mbflow.errors import DataError
from mbflow.flow.dataset import Dataset, DatasetWriter, damage
from mbflow.flow.manifest import read_sealed, sync_folder, write_sealed
from mbflow.flow.source import Source
from mbflow.flow.step import Context
from mbflow.select.choose import Chooser
from mbflow.select.explain import explain_selection
from mbflow.select.labels import LabelIndex, Labels, QuantileIndex
from mbflow.select.routing import Router
from mbflow.select.strata import quotas_by_rule, spread_quotas

__all__ = [
    "Plan",
    "Task",
    "located",
    "read_points",
    "read_why",
    "select_stratum",
    "why_table",
]

_STREAM_SAMPLE = 0x5E1_00031
_STREAM_STRATUM = 0x5E1_00032
_SAMPLE_ROWS = 1 << 18
_BUFFERED_BYTES = 128 << 20
_ROUTED = "routed.json"
_POINTS = "points"
_SHOWN = 2000


@dataclass(frozen=True)
class Plan:
    """The rows of a source, routed to strata on disk.

    Attributes:
        folder: Where the files lie.
        content: What stands in `routed.json`: encoder notes, classes, and each stratum's rows,
            class counts and checksums.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.steps.strata import Plan
        >>> Plan(Path("scratch"), {"sizes": [90, 10], "strata": []}).sizes
        array([90, 10])
    """

    folder: Path
    content: dict[str, Any]

    @classmethod
    def of(cls, context: Context, source: Source, settings: dict[str, Any]) -> Plan:
        """The plan that an interrupted run left, when every byte of it is sound; else a new one."""
        folder = context.scratch
        try:
            found = cls(folder, read_sealed(folder / _ROUTED))
            if not found.damage():
                return found
        except (DataError, OSError):
            pass
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        content = _route(context, source, settings, folder)
        sync_folder(folder)
        write_sealed(folder / _ROUTED, content)
        return cls(folder, content)

    def damage(self) -> list[str]:
        """One line for each routed file that is not as it was written."""
        problems = []
        for stratum in self.content["strata"]:
            for name, checksum in stratum["files"].items():
                path = self.folder / name
                if not path.exists() or _native.xxh3_128_file(str(path)) != checksum:
                    problems.append(f"{path}: is not as it was written")
        return problems

    @property
    def sizes(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Rows of each class: int64 of shape (classes,)."""
        return np.asarray(self.content["sizes"], np.int64)

    def tasks(self, context: Context, settings: dict[str, Any], wanted: int) -> list[Task]:
        """What there is to do: strata above the cap are dealt into equal parts."""
        classes = tuple(self.content["classes"])
        counts = quotas_by_rule(
            classes, self.sizes, wanted, quotas=settings["quotas"], power=settings["power"]
        )
        parts: list[tuple[int, int, int]] = []
        members: list[np.ndarray[Any, Any]] = []
        for number, stratum in enumerate(self.content["strata"]):
            pieces = -(-stratum["rows"] // settings["strata_rows"])
            codes = np.fromfile(self.folder / f"{number:06d}.codes", np.int32)
            for piece in range(pieces):
                parts.append((number, piece, pieces))
                members.append(np.bincount(codes[piece::pieces], minlength=len(classes)))
        shares = spread_quotas(counts, np.asarray(members, np.int64))
        keys = _native.random_u64(context.seed, _STREAM_STRATUM, 0, max(1, len(parts)))
        return [
            Task(
                folder=self.folder,
                number=number,
                piece=piece,
                pieces=pieces,
                width=self.content["width"],
                classes=classes,
                counts=tuple(share.tolist()),
                settings=settings,
                seed=int(key),
                threads=context.threads,
                shown=-(-_SHOWN // len(parts)),
            )
            for (number, piece, pieces), share, key in zip(parts, shares, keys, strict=True)
        ]


@dataclass(frozen=True)
class Task:
    """One stratum, or one part of a stratum that is above the cap, as plain data.

    Attributes:
        folder: The step's scratch folder.
        number: Which stratum.
        piece: Which part of it: every row whose number in it is `piece` modulo `pieces`.
        pieces: In how many parts it is dealt.
        width: Features of a row.
        classes: Names of all classes of the source.
        counts: Rows to keep of each class.
        settings: `with:` of the step.
        seed: Key of all draws.
        threads: How many it may use.
        shown: How many kept, and how many dropped, rows it gives to the picture.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.steps.strata import Task
        >>> Task(Path("scratch"), 3, 0, 1, 2, ("a",), (5,), {}, 0, 1, 10).output.name
        'done-000003-0000'
    """

    folder: Path
    number: int
    piece: int
    pieces: int
    width: int
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    settings: dict[str, Any]
    seed: int
    threads: int
    shown: int

    @property
    def output(self) -> Path:
        """Where the result lies once it is there."""
        return self.folder / f"done-{self.number:06d}-{self.piece:04d}"


def select_stratum(task: Task) -> Path:
    """Select from one stratum; a sound result of an interrupted run is taken as it is.

    Args:
        task: What is to do; a process elsewhere can do it if it sees the folder.

    Returns:
        The folder of the result.

    Example:
        >>> from mbflow.steps.strata import select_stratum
        >>> folder = select_stratum(task)  # doctest: +SKIP
    """
    try:
        if not damage(task.output, Dataset.open(task.output).manifest):
            return task.output
    except (DataError, OSError):
        pass
    shutil.rmtree(task.output, ignore_errors=True)
    own = slice(task.piece, None, task.pieces)
    rows = np.fromfile(task.folder / f"{task.number:06d}.rows", np.int64)[own]
    codes = np.fromfile(task.folder / f"{task.number:06d}.codes", np.int32)[own].astype(np.int64)
    values = np.memmap(task.folder / f"{task.number:06d}.features", np.float32, mode="r")
    features = np.ascontiguousarray(values.reshape(-1, task.width)[own])
    del values
    settings = task.settings
    present = np.unique(codes)
    labels = Labels(np.searchsorted(present, codes), tuple(task.classes[c] for c in present))
    counts = np.asarray(task.counts, np.int64)[present]
    chooser = Chooser(features, labels, settings=settings, seed=task.seed, threads=task.threads)
    choice = chooser.choose(settings["method"], counts=counts, edit_noise=settings["edit_noise"])
    why = explain_selection(
        features, labels, indices=choice.indices, representatives=choice.representatives
    )
    temporary = task.output.with_name(f".tmp-{task.output.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    writer = DatasetWriter(temporary)
    writer.write(why_table(rows, codes, choice.scores, why, task.classes))
    writer.beside(_POINTS).write(_points(task, features, codes, why.kept))
    writer.finish({"kind": "why", "notes": list(choice.notes), "method": choice.method})
    temporary.rename(task.output)
    return task.output


def _points(
    task: Task,
    features: np.ndarray[Any, np.dtype[np.float32]],
    codes: np.ndarray[Any, np.dtype[np.int64]],
    kept: np.ndarray[Any, np.dtype[np.bool_]],
) -> pa.Table:
    """Some kept and some dropped rows of the stratum, for the picture of all."""
    order = _native.permutation(task.seed, _STREAM_STRATUM, len(codes))
    chosen = np.concatenate([order[kept[order]][: task.shown], order[~kept[order]][: task.shown]])
    return pa.table(
        {
            "features": pa.FixedSizeListArray.from_arrays(
                pa.array(features[chosen].reshape(-1)), task.width
            ),
            "code": pa.array(codes[chosen]),
            "kept": pa.array(kept[chosen]),
        }
    )


def read_points(
    folders: list[Path],
) -> tuple[
    np.ndarray[Any, np.dtype[np.float32]],
    np.ndarray[Any, np.dtype[np.int64]],
    np.ndarray[Any, np.dtype[np.bool_]],
]:
    """Features, classes and whether they were kept, of some rows of every stratum.

    Args:
        folders: What `select_stratum` returned for each.

    Returns:
        float32 of shape (points, features), class codes and bool of shape (points,).

    Example:
        >>> from mbflow.steps.strata import read_points
        >>> features, codes, kept = read_points(folders)  # doctest: +SKIP
    """
    tables = [Dataset.open(folder).beside(_POINTS).table() for folder in folders]
    table = pa.concat_tables(tables).combine_chunks()
    values = table["features"].combine_chunks()
    features = values.flatten().to_numpy().reshape(-1, values.type.list_size)
    return features, table["code"].to_numpy(), table["kept"].to_numpy()


def why_table(
    rows: np.ndarray[Any, np.dtype[np.int64]],
    codes: np.ndarray[Any, np.dtype[np.int64]],
    scores: np.ndarray[Any, np.dtype[np.float32]],
    why: select.Explanation,
    classes: tuple[str, ...],
) -> pa.Table:
    """The explanation of some rows in terms of their positions in the source.

    Args:
        rows: Position of each row in the source.
        codes: Class of each.
        scores: Score of each.
        why: What each one's place in the selection is; its row numbers count these rows.
        classes: Name of each class.

    Returns:
        The table that `mbflow why` reads; null where nothing stands for a row, or nothing is near.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import explain_selection
        >>> from mbflow.steps.strata import why_table
        >>> features, codes = np.array([[0.0], [0.5]], np.float32), np.array([0, 0])
        >>> why = explain_selection(features, codes, indices=np.array([1]))
        >>> table = why_table(np.array([7, 9]), codes, np.ones(2, np.float32), why, ("a",))
        >>> table["representative"].to_pylist(), table["nearest_other"].to_pylist()
        ([9, 9], [None, None])
    """

    def positions(numbers: np.ndarray[Any, np.dtype[np.int64]]) -> pa.Array:
        known = numbers >= 0
        return pa.array(rows[np.where(known, numbers, 0)], mask=~known)

    def distances(values: np.ndarray[Any, np.dtype[np.float32]]) -> pa.Array:
        return pa.array(values, mask=np.isnan(values))

    names = pa.DictionaryArray.from_arrays(
        pa.array(codes.astype(np.int32)), pa.array(list(classes), pa.string())
    )
    return pa.table(
        {
            "row": pa.array(rows),
            "class": names.cast(pa.string()),
            "kept": pa.array(why.kept),
            "score": pa.array(scores.astype(np.float32)),
            "representative": positions(why.representatives),
            "distance": distances(why.distances),
            "stands_for": pa.array(why.stands_for),
            "nearest_other": positions(why.nearest_other),
            "other_distance": distances(why.other_distances),
        }
    )


def read_why(folders: list[Path]) -> Iterator[pa.RecordBatch]:
    """The rows of all strata, one stratum after the other.

    Args:
        folders: What `select_stratum` returned for each.

    Example:
        >>> from mbflow.steps.strata import read_why
        >>> list(read_why([]))
        []
    """
    for folder in folders:
        yield from Dataset.open(folder).batches()


def located(source: Source, error: DataError, offset: int) -> DataError:
    """An error about a row of a batch as one about a row of a file of the source.

    Args:
        source: Where the batch was read from.
        error: What was found, with the row of the batch where it is about one.
        offset: How many rows that pass `where` come before the batch.

    Example:
        >>> from mbflow.errors import DataError
        >>> from mbflow.steps.strata import located
        >>> raise located(source, DataError("no label", row=2), 0)  # doctest: +SKIP
    """
    if error.row is None:
        return DataError(f"{source.files[0].path}: {error}")
    position = int(source.positions()[error.row + offset])
    path, row = source.locate(position)
    # The text counts in the batch; what it says of the source must count there.
    text = re.sub(rf"\brow {error.row}\b", f"row {position}", str(error))
    text = re.sub(r"\bin (\d+) of \d+ rows", r"in at least \1 rows", text)
    return DataError(f"{path}: {text} (row {row} of this file, counted from 0)")


def _route(
    context: Context, source: Source, settings: dict[str, Any], folder: Path
) -> dict[str, Any]:
    label = source.label
    assert label is not None
    rows, index, sample, drawn = _look(context, source, settings["quantiles"])
    encoder = select.FeatureEncoder(
        scale=settings["scale"], max_categories=settings["max_categories"]
    )
    try:
        fitted = encoder.fit_transform(sample.drop_columns([label]))
    except DataError as error:
        # Said of the sample, in which no row but this one is of interest.
        offset = 0 if error.row is None else int(drawn[error.row]) - error.row
        raise located(source, error, offset) from None
    router = Router.fit(fitted, rows=rows, stratum_rows=settings["strata_rows"], seed=context.seed)
    del sample, fitted
    spill = _Spill(folder, router.strata, len(index.classes))
    done = 0
    for positions, batch in source.scan():
        table = pa.Table.from_batches([batch])
        if not batch.num_rows:
            continue
        try:
            features = encoder.transform(table.drop_columns([label]))
            codes = index.encode(table[label]).codes
        except DataError as error:
            raise located(source, error, done) from None
        spill.add(router.route(features), features, codes, positions)
        done += len(codes)
        context.progress(done, rows, "rows", "routing to strata of similar rows")
    strata = spill.finish()
    return {
        "rows": rows,
        "width": encoder.width,
        "classes": list(index.classes),
        "sizes": index.sizes.tolist(),
        "sampled": min(rows, _SAMPLE_ROWS),
        "columns": [[n.column, n.kind, n.treatment, n.detail] for n in encoder.notes],
        "strata": strata,
    }


def _look(
    context: Context, source: Source, quantiles: int | None
) -> tuple[int, LabelIndex | QuantileIndex, pa.Table, np.ndarray[Any, np.dtype[np.int64]]]:
    """How many rows pass, their classes, a sample of them, and which ones that holds."""
    label = source.label
    assert label is not None
    rows = source.rows()
    drawn = _native.random_integers(context.seed, _STREAM_SAMPLE, rows, 0, _SAMPLE_ROWS)
    wanted = np.unique(drawn.astype(np.int64)) if rows > _SAMPLE_ROWS else np.arange(rows)
    index: LabelIndex | QuantileIndex = LabelIndex(name=label)
    if quantiles is not None:
        index = QuantileIndex(quantiles, name=label)
    parts: list[pa.Table] = []
    done = 0
    for batch in source.batches():
        table = pa.Table.from_batches([batch])
        if not batch.num_rows:
            continue
        try:
            index.add(table[label])
        except DataError as error:
            raise located(source, error, done) from None
        low, high = np.searchsorted(wanted, [done, done + batch.num_rows])
        parts.append(table.take(pa.array(wanted[low:high] - done)))
        done += batch.num_rows
        context.progress(done, rows, "rows", "counting classes")
    return rows, index, pa.concat_tables(parts).combine_chunks(), wanted


class _Spill:
    """Appends encoded rows to the files of their strata, buffered so that writes are large."""

    def __init__(self, folder: Path, strata: int, classes: int) -> None:
        self._folder = folder
        self._waiting: list[list[tuple[np.ndarray[Any, Any], ...]]] = [[] for _ in range(strata)]
        self._bytes = 0
        self._rows = [0] * strata
        self._counts = np.zeros((strata, classes), np.int64)

    def add(
        self,
        strata: np.ndarray[Any, np.dtype[np.int64]],
        features: np.ndarray[Any, np.dtype[np.float32]],
        codes: np.ndarray[Any, np.dtype[np.int64]],
        positions: np.ndarray[Any, np.dtype[np.int64]],
    ) -> None:
        order = np.argsort(strata, kind="stable")
        present, starts = np.unique(strata[order], return_index=True)
        for number, members in zip(present, np.split(order, starts[1:]), strict=True):
            part = (features[members], codes[members].astype(np.int32), positions[members])
            self._waiting[number].append(part)
            self._rows[number] += len(members)
            self._counts[number] += np.bincount(codes[members], minlength=self._counts.shape[1])
            self._bytes += sum(array.nbytes for array in part)
        if self._bytes > _BUFFERED_BYTES:
            self._flush()

    def _flush(self) -> None:
        for number, parts in enumerate(self._waiting):
            for place, suffix in enumerate(("features", "codes", "rows")):
                with (self._folder / f"{number:06d}.{suffix}").open("ab") as file:
                    for part in parts:
                        file.write(np.ascontiguousarray(part[place]).data)
            parts.clear()
        self._bytes = 0

    def finish(self) -> list[dict[str, Any]]:
        """Write what waits; each stratum's rows, class counts and checksums."""
        self._flush()
        result = []
        for number, rows in enumerate(self._rows):
            names = [f"{number:06d}.{suffix}" for suffix in ("features", "codes", "rows")]
            files = {name: _native.xxh3_128_file(str(self._folder / name)) for name in names}
            result.append({"rows": rows, "counts": self._counts[number].tolist(), "files": files})
        return result
