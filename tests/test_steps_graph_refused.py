"""What the steps on graphs refuse, note and keep: splits, types, weights, devices, full disks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbflow.errors import DataError, InvalidArgumentError, PipelineError
from mbflow.flow.validate import parse
from mbflow.steps import CATALOGUE, run
from mbflow.steps.graph_csc import open_graph
from test_steps_graph import NODES, REST, TEXT, TRAIN, changed, columns_of, pipeline, write

torch = pytest.importorskip("torch")

QUICK = "{epochs: 2, hidden: 4, device: cpu}"


def replace(folder: Path, **columns: pa.Array) -> None:
    """Put other columns into the table of nodes."""
    table = pq.read_table(folder / "nodes.parquet")
    for name, values in columns.items():
        table = table.drop_columns([name]) if name in table.column_names else table
        table = table.append_column(name, values)
    pq.write_table(table, folder / "nodes.parquet")


def test_a_test_split_that_is_named_must_be_there(tmp_path: Path) -> None:
    write(tmp_path, columns_of())
    with pytest.raises(DataError, match=r"is nowhere `tst` \(`test`\); it holds: test, train"):
        run(pipeline(tmp_path, TRAIN.format("{test: tst}")))


def test_a_missing_test_split_is_noted(tmp_path: Path) -> None:
    write(tmp_path, changed(split=dict.fromkeys(range(36, 54), "zz")))
    result = run(pipeline(tmp_path, TRAIN.format(QUICK), REST[0]))
    notes = result.outputs["check"].manifest["notes"]
    assert any("no nodes to test on" in note and "`valid`" in note for note in notes)
    assert notes[-1].startswith("accuracy on `valid`")
    assert set(result.outputs["check"].meta["figures"]) == {"train", "valid", "zz"}


def test_the_test_split_is_the_one_that_is_named(tmp_path: Path) -> None:
    write(tmp_path, changed(split=dict.fromkeys(range(36, 54), "held")))
    given = QUICK.replace("{", "{test: held, ")
    result = run(pipeline(tmp_path, TRAIN.format(given), REST[0]))
    notes = result.outputs["check"].manifest["notes"]
    assert notes[-1].startswith("accuracy on `held`")
    assert not any("no nodes to test on" in note for note in notes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{validation: train}", "`validation` is `train`, the split to learn from"),
        ("{features: []}", "expected at least one column, found none"),
        ("{features: [x0, x0]}", "the column `x0` is named twice"),
        ("{device: abc}", "expected `auto`, `cpu`, `cuda` or `cuda:N`, found `abc`"),
        ("{method: weighted, batch_size: 3, fanouts: [2, 2]}", "with `weight` of `graph.csc`"),
    ],
)
def test_parameters_are_refused_before_anything_runs(
    tmp_path: Path, given: str, message: str
) -> None:
    with pytest.raises(PipelineError) as error:
        pipeline(tmp_path, TRAIN.format(given))
    assert message in str(error.value)


@pytest.mark.parametrize("step", REST)
def test_devices_of_later_steps_are_refused_too(tmp_path: Path, step: str) -> None:
    wrong = step.replace("with: {", "with: {device: abc, ")
    wrong = wrong if "abc" in wrong else wrong.replace("}", ", with: {device: abc}}")
    with pytest.raises(PipelineError, match="found `abc`"):
        pipeline(tmp_path, TRAIN.format("{}"), wrong)


def test_samples_by_weights_need_weights(tmp_path: Path) -> None:
    step = "  s: {use: graph.sample, from: graph, with: {method: weighted}}"
    with pytest.raises(PipelineError, match=r"with `weight` of `graph.csc`"):
        pipeline(tmp_path, step)
    text = TEXT.format(folder=tmp_path, steps=step, out="r", threads=1)
    parse(
        text.replace("nodes]}", "nodes], with: {duplicates: count}}"), "n.yaml", catalogue=CATALOGUE
    )


def test_features_without_entries(tmp_path: Path) -> None:
    write(tmp_path, columns_of())
    replace(tmp_path, features=pa.array([[]] * NODES, pa.list_(pa.float32())))
    with pytest.raises(DataError, match=r"row 0 .* `features` \(`features`\) has no entries"):
        run(pipeline(tmp_path, TRAIN.format("{}")))


@pytest.mark.parametrize(
    "split",
    [
        pa.array([["train"]] * NODES),
        pa.array([b"\xff"] * NODES),
        pa.array([0.5] * NODES),
    ],
)
@pytest.mark.parametrize(
    "step",
    [
        TRAIN.format("{}"),
        "  train: {use: graph.sample, from: [graph, nodes], with: {split: split, fanouts: [2]}}",
    ],
)
def test_splits_are_names(tmp_path: Path, split: pa.Array, step: str) -> None:
    write(tmp_path, columns_of())
    replace(tmp_path, split=split)
    with pytest.raises(DataError, match=r"`split` \(`split`\) is .*; expected names of splits"):
        run(pipeline(tmp_path, step))
    # Before the graph was built.
    assert not (tmp_path / "runs/nodes/steps/graph").exists()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (TRAIN.format("{label: kind}"), "no column `kind`"),
        ("  s: {use: graph.sample, from: [graph, nodes], with: {split: part}}", "no column `part`"),
    ],
)
def test_missing_columns_are_told_before_the_graph_is_built(
    tmp_path: Path, step: str, message: str
) -> None:
    write(tmp_path, columns_of())
    with pytest.raises(DataError, match=message) as error:
        run(pipeline(tmp_path, step))
    assert "nodes.yaml:9:" in str(error.value)
    assert not (tmp_path / "runs/nodes/steps/graph").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
def test_a_device_that_is_not_there_is_told_before_the_graph_is_built(tmp_path: Path) -> None:
    write(tmp_path, columns_of())
    with pytest.raises(InvalidArgumentError, match="sees no CUDA device"):
        run(pipeline(tmp_path, TRAIN.format("{device: cuda}")))
    assert not (tmp_path / "runs/nodes/steps/graph").exists()


@pytest.mark.parametrize(
    "kind", [pa.uint64(), pa.int32(), pa.uint8(), pa.bool_(), pa.string(), pa.large_string()]
)
def test_classes_keep_their_type(tmp_path: Path, kind: pa.DataType) -> None:
    write(tmp_path, columns_of())
    values: list[Any] = [0, 1, 2]
    if kind == pa.uint64():
        values = [2**64 - 1, 2**63 + 1, 5]
    elif not pa.types.is_integer(kind):
        values = [True, False, True] if pa.types.is_boolean(kind) else ["ä", "b", "c"]
    labels = [values[node % 3] for node in range(NODES)]
    replace(tmp_path, label=pa.array(labels, kind))
    result = run(pipeline(tmp_path, TRAIN.format(QUICK), *REST))
    predicted = result.outputs["predict"].table()["predicted"]
    assert predicted.type == kind
    assert set(predicted.to_pylist()) <= set(values)
    records = result.outputs["check"].table()
    assert records["label"].type == records["predicted"].type == kind
    assert set(records["label"].to_pylist()) == set(values)


def test_weights_below_zero(tmp_path: Path) -> None:
    write(tmp_path, columns_of())
    edges = pa.table(
        {"src": ["n003", "n007", "n001"], "dst": ["n001", "n002", "n000"], "w": [1.0, -2.5, 1.0]}
    )
    pq.write_table(edges, tmp_path / "edges.parquet")
    weighted = "{method: weighted, batch_size: 8, fanouts: [2, 2], device: cpu}"
    for rows, place in (
        ("", "'n002' has"),
        (", keep_rows: true", "'n002', row 1 of the edges, has"),
    ):
        text = TEXT.format(folder=tmp_path, steps=TRAIN.format(weighted), out="r", threads=1)
        text = text.replace("nodes]}", f"nodes], with: {{weight: w{rows}}}}}", 1)
        given = parse(text, "nodes.yaml", catalogue=CATALOGUE)
        with pytest.raises(DataError, match=f"'n007' to {place} the weight -2.5") as error:
            run(given)
        assert "`weight` of `graph.csc`" in str(error.value)
        assert error.value.exit_code == 3
    text = text.replace(TRAIN.format(weighted), "")
    result = run(parse(text, "nodes.yaml", catalogue=CATALOGUE))
    assert any(
        "1 edges have a weight below 0" in n for n in result.outputs["graph"].manifest["notes"]
    )


def test_trainings_with_other_seeds_share_none(tmp_path: Path) -> None:
    write(tmp_path, columns_of())
    losses = []
    for seed in (4, 5):
        given = QUICK.replace("{", "{runs: 4, ")
        text = TEXT.format(folder=tmp_path, steps=TRAIN.format(given), out=f"r{seed}", threads=1)
        text = text.replace("seed: 4", f"seed: {seed}")
        result = run(parse(text, "nodes.yaml", catalogue=CATALOGUE))
        losses += result.outputs["train"].beside("history").table()["loss"].to_pylist()
    assert len(losses) == 16
    assert len(set(losses)) == 16


def test_the_size_of_a_graph_counts_the_graph(tmp_path: Path) -> None:
    from mbflow.flow import events

    write(tmp_path, columns_of())
    seen: list[Any] = []
    result = run(pipeline(tmp_path), listeners=[seen.append])
    (finished,) = [event for event in seen if isinstance(event, events.StepFinished)]
    folder = result.folder / "steps/graph"
    on_disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    manifest = (folder / "_manifest.json").stat().st_size
    assert finished.bytes == on_disk - manifest
    assert finished.bytes > open_graph(result.outputs["graph"]).nbytes
    again: list[Any] = []
    run(pipeline(tmp_path), listeners=[again.append])
    (kept,) = [event for event in again if isinstance(event, events.StepKept)]
    assert kept.bytes == finished.bytes


_FULL = """
import resource, sys
import numpy as np, torch
from mbflow.graph.checkpoint import read_checkpoint, write_checkpoint
path = sys.argv[1]
write_checkpoint(path, {"epoch": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_checkpoint(path, {"weights": torch.zeros(100_000)})
except OSError as error:
    print(error.errno, read_checkpoint(path)["epoch"])
"""


def test_a_disk_that_refuses_a_checkpoint(tmp_path: Path) -> None:
    import errno

    place = tmp_path / "a.pt"
    command = [sys.executable, "-c", _FULL, str(place)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(errno.EFBIG), "1"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_seeds_of_runs_are_all_different() -> None:
    from mbflow.steps.graph_train import _run_seed

    seeds = [_run_seed(seed, number) for seed in range(20) for number in range(20)]
    assert len(set(seeds)) == 400
    assert [_run_seed(seed, 0) for seed in range(20)] == list(np.arange(20))
    assert all(0 <= seed < 2**63 for seed in seeds)
