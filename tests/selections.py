"""Labelled rows and pipelines of selection steps over them, for the tests of the steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from mbflow.flow.run import RunResult
from mbflow.steps import run


def labelled(rows: int = 360, *, seed: int = 0) -> pl.DataFrame:
    """Overlapping classes of unequal size, numbers with gaps, text with nulls, a numeric target."""
    random = np.random.default_rng(seed)
    names = np.array(["a", "b", "c"])
    codes = np.searchsorted([0.5, 0.85], random.random(rows))
    codes[:3] = (0, 1, 2)
    centres = np.array([[0.0, 0.0, 0.0], [1.5, 1.0, 0.0], [0.0, 2.0, 1.5]])
    values = centres[codes] + random.normal(0, 0.8, (rows, 3))
    kinds = np.array(["red", "green", "blue"])[(codes + random.integers(0, 2, rows)) % 3]
    return pl.DataFrame(values, schema=["x", "y", "z"]).with_columns(
        pl.when(pl.int_range(rows) % 17 == 3).then(None).otherwise(pl.col("y")).alias("y"),
        kind=pl.when(pl.int_range(rows) % 13 == 5).then(None).otherwise(pl.Series(kinds)),
        label=pl.Series(names[codes]),
        target=pl.Series(values[:, 0] * 3 + random.normal(0, 0.1, rows)),
    )


def write(
    folder: Path, table: pl.DataFrame, *, cuts: tuple[int, ...] = (), groups: int = 0
) -> Path:
    """The table as one file, or cut into several, with row groups of so many rows."""
    folder.mkdir(parents=True)
    edges = [0, *cuts, table.height]
    for number in range(len(edges) - 1):
        part = table[edges[number] : edges[number + 1]]
        part.write_parquet(folder / f"{number:03d}.parquet", row_group_size=groups or None)
    return folder


def pipeline(
    folder: Path,
    data: Path,
    steps: str,
    *,
    label: str = "label",
    more: str = "",
    threads: int = 2,
    out: str = "runs",
) -> Path:
    """A pipeline file over the data; `more` goes into `with:` of the source."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{out}.yaml"
    file.write_text(
        f"mbflow: 1\nname: t\nseed: 5\n"
        f"sources:\n  rows: {{use: parquet, with: {{path: '{data}', label: {label}{more}}}}}\n"
        f"steps:\n{steps}\n"
        f"run: {{out: '{folder / out}', threads: {threads}}}\n"
    )
    return file


def kept(
    folder: Path,
    table: pl.DataFrame,
    given: str,
    *,
    steps: str = "",
    source: str = "rows",
    **more: str,
) -> tuple[RunResult, pl.DataFrame, pl.DataFrame]:
    """Run `select.keep` over a table: the result, the kept rows and what is said of every row."""
    name = more.pop("out", "runs")
    if not (folder / "data").exists():
        write(folder / "data", table)
    keep = f"{steps}  keep: {{use: select.keep, from: {source}, with: {{{given}}}}}"
    result = run(pipeline(folder, folder / "data", keep, out=name, **more))
    dataset = result.outputs["keep"]
    rows = pl.DataFrame(pl.from_arrow(dataset.table()))
    told = dataset.manifest.get("beside", {})
    why = pl.DataFrame(pl.from_arrow(dataset.beside("why").table())) if told else pl.DataFrame()
    return result, rows, why
