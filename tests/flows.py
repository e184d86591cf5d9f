"""Small pipelines of plain steps for the tests of the flow; they need no domain and no extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from mbflow.flow.spec import Parameters
from mbflow.flow.step import Catalogue, Context, Step
from mbflow.flow.validate import Pipeline, parse


class AddParameters(Parameters):
    """`with:` of `test.add`."""

    amount: int = Field(1, description="What is added to x.")
    fail: str = Field("", description="What goes wrong.")


def add(context: Context, parameters: AddParameters) -> None:
    """Add to the column x, a batch at a time."""
    total = 0
    for batch in context.inputs[0].batches():
        values = [value + parameters.amount for value in batch["x"].to_pylist()]
        context.write(pa.table({"x": values}))
        total += len(values)
        context.progress(total, None, "rows")
    if parameters.fail == "value":
        raise ValueError("a step's own fault")
    if parameters.fail == "memory":
        raise MemoryError
    context.note(f"added {parameters.amount} to {total} rows")
    context.table("Sums", ["rows"], [[total]])


def double(value: int) -> int:
    """What `test.join` maps."""
    return 2 * value


def join(context: Context, parameters: Parameters) -> None:
    """Pair two inputs by position, doubled on the engine."""
    first, second = (item.table()["x"].to_pylist() for item in context.inputs)
    context.write(pa.table({"x": list(context.map(double, first)), "z": second}))


CATALOGUE = Catalogue(
    [
        Step("test.add", 1, add, AddParameters, ("rows",), "sums", "Adds to x."),
        Step("test.more", 1, add, AddParameters, ("sums",), "sums", "Adds to x again."),
        Step("test.join", 1, join, Parameters, ("sums", "sums"), "pairs", "Pairs two."),
    ]
)

TEXT = """\
mbflow: 1
name: tiny
seed: 3
sources:
  rows: {{use: parquet, with: {{path: {folder}/data}}}}
steps:
  one: {{use: test.add, from: rows, with: {{amount: 10}}}}
  two: {{use: test.more, from: one}}
  both: {{use: test.join, from: [one, two]}}
run: {{out: {folder}/runs, threads: 2}}
"""


def make_data(folder: Path, rows: int = 1000) -> None:
    """Two files with x = 0 .. rows - 1."""
    (folder / "data").mkdir(exist_ok=True)
    half = rows // 2
    pq.write_table(pa.table({"x": list(range(half))}), folder / "data" / "a.parquet")
    pq.write_table(pa.table({"x": list(range(half, rows))}), folder / "data" / "b.parquet")


def tiny(folder: Path, *assignments: str, catalogue: Catalogue = CATALOGUE) -> Pipeline:
    """The tiny pipeline over the data in a folder."""
    text = TEXT.format(folder=folder)
    return parse(text, "tiny.yaml", catalogue=catalogue, assignments=assignments)


def hashes(run: Path) -> dict[str, bytes]:
    """Every file of every step's output, by its path in the run folder."""
    files = sorted(path for path in (run / "steps").rglob("*") if path.is_file())
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}


def events_of(listener: list[Any], kind: type) -> list[Any]:
    """The events of one kind that a listener collected."""
    return [event for event in listener if isinstance(event, kind)]
