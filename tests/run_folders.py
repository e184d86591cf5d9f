"""A run folder as `mbflow run` leaves it, written from plain data, for tests of what reads one."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from mbflow import _native
from mbflow.flow.manifest import write_sealed

STARTED = "2026-11-21T08:16:03.120+00:00"
CLASSES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NOTES = {
    "graph": [
        "16 numeric columns scaled to [0, 1] (min-max).",
        "No nulls; no column was dropped.",
        "312 buckets over the cap were split along new projections.",
    ],
    "score": ["Stopped after 87 of 200 epochs: the held-out loss was lowest at epoch 67."],
}


def fingerprint(text: str) -> str:
    """A stand-in for a real fingerprint: 32 digits that depend on the text."""
    return _native.xxh3_128(text.encode())


def accuracy_chart() -> dict[str, Any]:
    """The chart of select.evaluate."""
    return {
        "title": "Accuracy on held-out rows",
        "ylabel": "accuracy",
        "groups": ["1-NN", "logistic regression", "random forest"],
        "series": [
            {"name": "all rows", "mean": [0.9561, 0.7712, 0.9634], "sd": [0.0031, 0.0052, 0.0024]},
            {
                "name": "random 4 %",
                "mean": [0.7304, 0.6902, 0.7411],
                "sd": [0.0093, 0.0110, 0.0102],
            },
            {
                "name": "selected 4 %",
                "mean": [0.7689, 0.7105, 0.7702],
                "sd": [0.0071, 0.0084, 0.0066],
            },
        ],
    }


def _class_table() -> dict[str, Any]:
    draw = random.Random(7)
    rows = [
        [name, rows := draw.randint(734, 813), round(rows * 0.04), rows / 20000] for name in CLASSES
    ]
    return {
        "title": "Rows kept per class",
        "columns": ["class", "rows", "kept", "share"],
        "rows": rows,
    }


def _accuracy_table() -> dict[str, Any]:
    chart = accuracy_chart()
    rows = [
        [group, series["name"], series["mean"][place], series["sd"][place], 5]
        for place, group in enumerate(chart["groups"])
        for series in chart["series"]
    ]
    columns = ["classifier", "trained on", "mean", "sd", "seeds"]
    return {"title": "Accuracy on held-out rows", "columns": columns, "rows": rows}


STEPS: dict[str, dict[str, Any]] = {
    "graph": {"use": "select.hash_graph", "from": ["rows"], "kind": "graph", "rows": 20000,
              "seconds": 2.31, "bytes": 4_120_000},
    "score": {"use": "select.attention", "from": ["graph"], "kind": "scores", "rows": 20000,
              "seconds": 41.7, "bytes": 161_000},
    "keep": {"use": "select.keep", "from": ["score"], "kind": "kept", "rows": 800,
             "seconds": 0.084, "bytes": 41_300, "tables": [_class_table()]},
    "check": {"use": "select.evaluate", "from": ["rows", "keep"], "kind": "table", "rows": 9,
              "seconds": 29.4, "bytes": 3_100, "tables": [_accuracy_table()],
              "charts": [accuracy_chart()]},
}  # fmt: skip


def manifest(name: str, step: dict[str, Any]) -> dict[str, Any]:
    """The manifest of one step."""
    part = {"name": "part-00000.parquet", "rows": step["rows"], "bytes": step["bytes"]}
    return {
        "mbflow_manifest": 1,
        "step": name,
        "use": step["use"],
        "version": 1,
        "kind": step["kind"],
        "fingerprint": fingerprint(name),
        "parameters": {},
        "seed": 7,
        "inputs": {},
        "rows": step["rows"],
        "bytes": step["bytes"],
        "columns": {"row": "int64", "score": "float"},
        "files": [{**part, "xxh3_128": fingerprint(f"part {name}")}],
        "notes": NOTES.get(name, []),
        "tables": step.get("tables", []),
        "charts": step.get("charts", []),
        "meta": {},
    }


def run_document(**changes: Any) -> dict[str, Any]:
    """The content of run.json after a run that went well; `changes` replace top-level keys."""
    shown = ("use", "from", "rows", "bytes", "seconds")
    return {
        "mbflow_run": 1,
        "name": "select-letters",
        "status": "done",
        "started": STARTED,
        "finished": "2026-11-21T08:17:17.420+00:00",
        "seconds": 74.3,
        "pipeline": {
            "mbflow": 1,
            "name": "select-letters",
            "seed": 7,
            "sources": {"rows": {"use": "parquet", "with": {"path": "data/letter.parquet"}}},
            "steps": {
                name: {"use": step["use"], "from": step["from"], "with": {"neighbours": 10}}
                for name, step in STEPS.items()
            },
            "run": {"engine": "local", "out": "runs"},
        },
        "pipeline_file": "select.yaml",
        "seed": 7,
        "threads": 2,
        "versions": {"mbflow": "0.1.0", "python": "3.11.7", "pyarrow": "26.0.1", "polars": "2.1.0",
                     "numpy": "2.4.6", "torch": "2.15.0"},
        "build": {"version": "0.1.0", "profile": "release", "target": "x86_64-unknown-linux-gnu",
                  "features": "avx2", "threads": 2},
        "machine": {"system": "Linux 6.1", "cpu": "AMD EPYC 7763", "cores": 2},
        "sources": {"rows": {"use": "parquet", "fingerprint": fingerprint("rows"), "rows": 20000,
                             "bytes": 150_348, "files": 1, "where": None}},
        "steps": {
            name: {**{key: step[key] for key in shown}, "version": 1, "status": "done",
                   "fingerprint": fingerprint(name)}
            for name, step in STEPS.items()
        },
        "error": None,
        "report": None,
        **changes,
    }  # fmt: skip


def write_events(folder: Path, records: list[dict[str, Any]]) -> None:
    """Write events.jsonl as the run's log does."""
    lines = []
    for record in records:
        timed = {"time": STARTED, **record}
        body = json.dumps(timed, ensure_ascii=False)
        lines.append(json.dumps({**timed, "sum": fingerprint(body)[:16]}, ensure_ascii=False))
    (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_run(
    folder: Path,
    run: dict[str, Any] | None = None,
    *,
    manifests: dict[str, dict[str, Any]] | None = None,
    warnings: tuple[str, ...] = (),
) -> Path:
    """Write a whole run folder: a run that went well, or what `run` and `manifests` say instead."""
    folder.mkdir(parents=True, exist_ok=True)
    document = run_document() if run is None else run
    write_sealed(folder / "run.json", document)
    started = {"event": "run_started", "name": "select-letters", "folder": "runs/select-letters"}
    texts = [{"event": "warning", "text": text} for text in warnings]
    write_events(folder, [{**started, "steps": list(STEPS)}, *texts])
    (folder / "sources").mkdir(exist_ok=True)
    source = {
        "name": "letter.parquet",
        "path": "data/letter.parquet",
        "rows": 20000,
        "size": 150_348,
    }
    content = {"files": [{**source, "xxh3_128": fingerprint("letter")}]}
    write_sealed(folder / "sources" / "rows.json", content)
    chosen = {name: manifest(name, step) for name, step in STEPS.items()}
    for name, content in {**chosen, **(manifests or {})}.items():
        (folder / "steps" / name).mkdir(parents=True, exist_ok=True)
        write_sealed(folder / "steps" / name / "_manifest.json", content)
    return folder
