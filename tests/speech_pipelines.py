"""Pipelines of duration batches over small corpora, and what they write."""

from __future__ import annotations

import io
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mbflow.flow.validate import Pipeline, parse
from mbflow.steps import CATALOGUE

TEXT = """\
mbflow: 1
name: speech
seed: 5
sources:
  rows: {{use: parquet, with: {{path: {folder}/data{where}}}}}
steps:
  durations: {{use: speech.durations, from: rows, with: {durations}}}
{steps}
run: {{out: {folder}/runs, threads: {threads}}}
"""


def pipeline(
    folder: Path, durations: str, *steps: str, where: str = "", threads: int = 2
) -> Pipeline:
    text = TEXT.format(
        folder=folder,
        durations=durations,
        steps="\n".join(f"  {step}" for step in steps),
        where=f", where: {where}" if where else "",
        threads=threads,
    )
    return parse(text, "speech.yaml", catalogue=CATALOGUE)


def write(folder: Path, table: pa.Table, *, files: int = 1, group: int = 10_000) -> None:
    (folder / "data").mkdir(exist_ok=True)
    each = -(-table.num_rows // files)
    for number in range(files):
        part = table.slice(number * each, each)
        pq.write_table(part, folder / "data" / f"{number}.parquet", row_group_size=group)


def output(folder: Path, step: str) -> pl.DataFrame:
    files = sorted((folder / "runs" / "speech" / "steps" / step).glob("part-*.parquet"))
    return pl.concat([pl.read_parquet(file) for file in files])


def manifest(folder: Path, step: str) -> dict[str, Any]:
    return json.loads((folder / "runs/speech/steps" / step / "_manifest.json").read_text())


def corpus(count: int, *, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    seconds = np.round(draw.lognormal(1.5, 0.6, count).clip(0.3, 40), 3)
    return pa.table({"seconds": seconds, "tokens": draw.poisson(seconds * 4)})


def wav(samples: int, rate: int = 8000) -> bytes:
    body = io.BytesIO()
    with wave.open(body, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(2 * samples))
    return body.getvalue()


BATCHES = "batches: {{use: speech.batches, from: durations, with: {}}}"
