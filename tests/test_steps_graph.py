"""The steps that sample graphs and learn on them: what they write, refuse and go on from."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import hashes
from graph_data import random_graph
from mbflow.cli import main
from mbflow.errors import DataError, PipelineError
from mbflow.flow.folder import find, verify
from mbflow.flow.preview import preview
from mbflow.flow.validate import Pipeline, parse
from mbflow.steps import CATALOGUE, load, run
from mbflow.steps.graph_train import stored_networks

torch = pytest.importorskip("torch")

NODES, CLASSES = 60, ("ant", "bee", "cat")
ROOT = Path(__file__).resolve().parents[1]

TEXT = """\
mbflow: 1
name: nodes
seed: 4
sources:
  nodes: {{use: parquet, with: {{path: {folder}/nodes.parquet}}}}
  edges: {{use: parquet, with: {{path: {folder}/edges.parquet}}}}
steps:
  graph: {{use: graph.csc, from: [edges, nodes]}}
{steps}
run: {{out: {folder}/{out}, threads: {threads}}}
"""
TRAIN = "  train: {{use: graph.train, from: [graph, nodes], with: {}}}"
REST = (
    "  check: {use: graph.evaluate, from: [train, graph, nodes]}",
    "  predict: {use: graph.predict, from: [train, graph, nodes], with: "
    "{probabilities: true, embeddings: true}}",
)


def columns_of(seed: int = 0) -> dict[str, Any]:
    """Nodes with names, features that tell the classes apart, and splits."""
    draw = np.random.default_rng(seed)
    codes = draw.integers(0, 3, NODES)
    codes[:3] = range(3)
    features = draw.normal(size=(NODES, 4)).astype(np.float32)
    features[np.arange(NODES), codes] += 3.0
    split = ["train"] * 24 + ["valid"] * 12 + ["test"] * 18 + [None] * 6
    return {
        "id": [f"n{node:03d}" for node in range(NODES)],
        "features": features.tolist(),
        "label": [CLASSES[code] for code in codes],
        "split": split,
    }


def write(folder: Path, nodes: dict[str, Any], *, shuffled: bool = False) -> None:
    graph = random_graph(NODES, 90, seed=1)
    targets = np.repeat(np.arange(NODES), np.diff(graph.offsets.astype(np.int64)))
    names = np.array([f"n{node:03d}" for node in range(NODES)])
    edges = {"src": names[graph.sources], "dst": names[targets]}
    pq.write_table(pa.table(edges), folder / "edges.parquet")
    table = pa.table(nodes)
    if shuffled:
        table = table.take(pa.array(np.random.default_rng(2).permutation(NODES)))
    pq.write_table(table, folder / "nodes.parquet")


def pipeline(folder: Path, *steps: str, out: str = "runs", threads: int = 2) -> Pipeline:
    text = TEXT.format(folder=folder, steps="\n".join(steps), out=out, threads=threads)
    return parse(text, "nodes.yaml", catalogue=CATALOGUE)


SMALL = "{model: MODEL, hidden: 8, epochs: 12, learning_rate: 0.05, device: cpu}"
BATCHED = (
    "{model: MODEL, hidden: 4, epochs: 4, learning_rate: 0.05, batch_size: 7, fanouts: [3, 2], "
    "device: cpu, runs: 2}"
)


@pytest.mark.parametrize("model", ["gcn", "sage", "gat"])
def test_from_two_tables_to_predictions(tmp_path: Path, model: str) -> None:
    nodes = columns_of()
    write(tmp_path, nodes, shuffled=True)
    given = SMALL.replace("MODEL", model).replace("epochs: 12", "epochs: 40")
    result = run(pipeline(tmp_path, TRAIN.format(given), *REST))
    predictions = result.outputs["predict"].table()
    # In the order of the graph, which is that of the table of nodes it was built with.
    label = dict(zip(nodes["id"], nodes["label"], strict=True))
    split = dict(zip(nodes["id"], nodes["split"], strict=True))
    ids, predicted = predictions["id"].to_pylist(), predictions["predicted"].to_pylist()
    assert sorted(ids) == nodes["id"]
    probabilities = np.array(predictions["probabilities"].to_pylist())
    assert probabilities.shape == (NODES, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert [CLASSES[at] for at in probabilities.argmax(1)] == predicted
    np.testing.assert_allclose(predictions["probability"], probabilities.max(1))
    width = {"gcn": 8, "sage": 8, "gat": 64}[model]
    assert predictions["embedding"].type.list_size == width
    figures = result.outputs["check"].meta["figures"]
    for name, count in (("train", 24), ("valid", 12), ("test", 18)):
        hits = [label[i] == p for i, p in zip(ids, predicted, strict=True) if split[i] == name]
        assert len(hits) == count
        assert figures[name]["accuracy"] == pytest.approx(np.mean(hits))
    if model == "sage":  # the others mix nodes of all classes, as the edges are random
        assert figures["train"]["accuracy"] > 0.8
    records = result.outputs["check"].table()
    assert sum(records["nodes"].to_pylist()) == 54
    verify(find(tmp_path / "runs" / "nodes"))


def test_batches_and_runs(tmp_path: Path) -> None:
    write(tmp_path, columns_of())
    result = run(pipeline(tmp_path, TRAIN.format(BATCHED.replace("MODEL", "sage")), *REST))
    train = result.outputs["train"]
    history = train.beside("history").table().to_pydict()
    assert history["run"] == [0] * 4 + [1] * 4
    assert history["epoch"] == [0, 1, 2, 3] * 2
    best = {
        run: max(
            (a, -loss) for r, a, loss in zip(history["run"], history["validation_accuracy"],
                                             history["validation_loss"], strict=True) if r == run
        )
        for run in (0, 1)
    }  # fmt: skip
    assert len(stored_networks(train)) == 2
    assert train.meta["best_run"] in best
    figures = result.outputs["check"].meta["figures"]["test"]
    records = result.outputs["check"].table().to_pylist()
    by_run = [
        sum(r["nodes"] for r in records if r["run"] == number and r["split"] == "test"
            and r["label"] == r["predicted"]) / 18
        for number in (0, 1)
    ]  # fmt: skip
    assert figures["runs"] == 2
    assert figures["accuracy"] == pytest.approx(np.mean(by_run))
    assert figures["deviation"] == pytest.approx(np.std(by_run, ddof=1))


def test_the_result_does_not_depend_on_threads(tmp_path: Path) -> None:
    write(tmp_path, columns_of())
    step = TRAIN.format(BATCHED.replace("MODEL", "gcn"))
    for threads in (1, 3):
        run(pipeline(tmp_path, step, *REST, out=f"runs{threads}", threads=threads))
    one, other = (hashes(tmp_path / f"runs{n}" / "nodes") for n in (1, 3))
    assert one == other
    assert one


_KILLED = """
import os, sys
sys.path.insert(0, sys.argv[1])
import test_steps_graph as t
from mbflow.steps import graph_train
from mbflow.steps import run
from mbflow.flow import events
graph_train._CHECKPOINT_SECONDS = 0.0
seen = []
def listen(event):
    if isinstance(event, events.StepProgress) and event.unit == "steps":
        seen.append(event)
        if len(seen) == int(sys.argv[3]):
            os.kill(os.getpid(), 9)
run(t.pipeline(t.Path(sys.argv[2]), t.TRAIN.format(t.BATCHED.replace("MODEL", "gcn")), out="killed"), listeners=[listen])
"""


def test_a_killed_training_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    after = 23
    write(tmp_path, columns_of())
    step = TRAIN.format(BATCHED.replace("MODEL", "gcn"))
    whole = run(pipeline(tmp_path, step)).outputs["train"]
    command = [sys.executable, "-c", _KILLED, str(Path(__file__).parent), str(tmp_path), str(after)]
    killed = subprocess.run(command, check=False, env=dict(os.environ))
    assert killed.returncode == -signal.SIGKILL
    left = list((tmp_path / "killed" / "nodes" / "steps").glob(".work-train-*/run-*.pt"))
    assert sorted(path.name for path in left) == ["run-0000.pt", "run-0001.pt"]
    from mbflow.flow import events

    seen: list[Any] = []
    again = run(pipeline(tmp_path, step, out="killed"), listeners=[seen.append])
    steps = [e for e in seen if isinstance(e, events.StepProgress) and e.unit == "steps"]
    # 4 epochs of 4 steps in each of 2 runs, of which what was saved is not done again.
    assert len(steps) == 32 - after + 1
    assert again.outputs["train"].table().equals(whole.table())


def test_a_damaged_checkpoint_is_trained_again(tmp_path: Path) -> None:
    write(tmp_path, columns_of())
    step = TRAIN.format(BATCHED.replace("MODEL", "gcn"))
    whole = run(pipeline(tmp_path, step)).outputs["train"]
    from mbflow.errors import InterruptedRunError
    from mbflow.flow import events

    def stop(event: Any) -> None:
        if isinstance(event, events.StepProgress) and event.unit == "steps" and event.done == 9:
            raise InterruptedRunError("stop")

    with pytest.raises(InterruptedRunError):
        run(pipeline(tmp_path, step, out="killed"), listeners=[stop])
    (place,) = (tmp_path / "killed" / "nodes" / "steps").glob(".work-train-*/run-0000.pt")
    place.write_bytes(place.read_bytes()[:1000])
    again = run(pipeline(tmp_path, step, out="killed"))
    assert again.outputs["train"].table().equals(whole.table())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{batch_size: 3}", "`batch_size` needs `fanouts`"),
        ("{fanouts: [3, 3]}", "`fanouts` needs `batch_size`"),
        ("{batch_size: 3, fanouts: [3]}", "expected 2 fan-outs, one for each of the 2 layers, found 1"),
        ("{batch_size: 3, fanouts: [3, -2]}", "found -2"),
        ("{heads: 2}", "`heads` is for `model: gat` only"),
        ("{attention_dropout: 0.1}", "`attention_dropout` is for `model: gat` only"),
        ("{model: gin}", "expected `gcn`, `sage` or `gat`"),
        ("{epochs: 0}", "expected at least 1, found 0"),
        ("{hiden: 3}", "unknown key `hiden`; did you mean `hidden`"),
    ],
)  # fmt: skip
def test_parameters_are_checked_with_their_place(tmp_path: Path, given: str, message: str) -> None:
    with pytest.raises(PipelineError) as error:
        pipeline(tmp_path, TRAIN.format(given))
    assert len(error.value.problems) == 1
    assert message in str(error.value)
    assert str(error.value).startswith("nodes.yaml:9:")


def test_seeds_of_a_sample_need_the_nodes(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"`split` is a column of the nodes"):
        pipeline(tmp_path, "  s: {use: graph.sample, from: graph, with: {split: split}}")
    with pytest.raises(PipelineError, match=r"`seeds` needs `split`"):
        pipeline(tmp_path, "  s: {use: graph.sample, from: [graph, nodes], with: {seeds: a}}")


def changed(**columns: Any) -> dict[str, Any]:
    table = columns_of()
    for name, change in columns.items():
        if change is None:
            del table[name]
        else:
            table[name] = [change.get(row, value) for row, value in enumerate(table[name])]
    return table


NAN, BIG = [1.0, float("nan"), 0.0, 0.0], [1.0, 2.0, 1e39, 0.0]
NO_TRAIN = dict.fromkeys(range(24), "none")


@pytest.mark.parametrize(
    ("nodes", "given", "message"),
    [
        (changed(label=None), "{}", r"no column `label` \(`label` of the step\); it has: id"),
        (changed(split=None), "{}", r"no column `split` \(`split` of the step\)"),
        (changed(features=None), "{}", r"no column `features` \(`features` of the step\)"),
        (changed(), "{id: name}", r"no column `name` \(`id` of the step\)"),
        (changed(), "{label: features}", r"`features` \(`label`\) is list<.*> *; expected classes"),
        (changed(), "{features: label}", r"`label` \(`features`\) is string; expected numbers"),
        (changed(), "{features: [features, id]}", r"is list<.*>; expected numbers$"),
        (changed(split=NO_TRAIN), "{}", "no training nodes: .* nowhere `train`; it holds: none, test"),
        (changed(), "{train: fit}", r"nowhere `fit`; it holds: test, train, valid"),
        (changed(), "{validation: dev}", r"nowhere `dev` \(`validation`\)"),
        (changed(label={5: None}), "{}", r"nodes.parquet: row 5 .*null in the split `train`"),
        (changed(label={40: "dog"}), "{}", r"row 40 .* class 'dog' is in the split `test` and in no"),
        (changed(label={30: "dog"}), "{}", r"row 30 .* class 'dog' is in the split `valid`"),
        (changed(features={7: NAN}), "{}", r"row 7 .* `features`, entry 1 is nan; expected a finite"),
        (changed(features={7: BIG}), "{}", r"row 7 .* entry 2 is inf"),
        (changed(features={7: None}), "{}", r"row 7 .* `features` \(`features`\) is null"),
        (changed(features={7: [1.0, None, 0.0, 0.0]}), "{}", r"row 7 .* holds null"),
        (changed(features={7: [1.0]}), "{}", r"row 7 .* has 1 entries, and 4 in the rows before"),
        (changed(split=dict.fromkeys(range(24, 36), "x")), "{patience: 3}", "`patience` needs validation"),
    ],
)  # fmt: skip
def test_nodes_that_cannot_be_used_are_refused_before_training(
    tmp_path: Path, nodes: dict[str, Any], given: str, message: str
) -> None:
    write(tmp_path, nodes)
    with pytest.raises(DataError, match=message) as error:
        run(pipeline(tmp_path, TRAIN.format(given)))
    assert "nodes.yaml:9:" in str(error.value)


def test_unknown_labels_are_fine_where_nothing_is_learnt(tmp_path: Path) -> None:
    nodes = changed(label={30: None, 40: None, 57: "dog"})
    write(tmp_path, nodes)
    result = run(pipeline(tmp_path, TRAIN.format(SMALL.replace("MODEL", "gcn")), *REST))
    figures = result.outputs["check"].meta["figures"]
    assert set(figures) == {"train", "valid", "test"}
    records = result.outputs["check"].table().to_pylist()
    assert sum(r["nodes"] for r in records if r["split"] == "test") == 17


def test_nodes_that_are_not_those_of_the_graph(tmp_path: Path) -> None:
    write(tmp_path, columns_of())
    step = TRAIN.format("{}")
    other = (tmp_path / "nodes.parquet").read_bytes()
    few = "  few: {use: parquet, with: {path: FOLDER/few.parquet}}"
    text = TEXT.format(folder=tmp_path, steps=step.replace("nodes]", "few]"), out="r", threads=1)
    text = text.replace("steps:\n", f"{few.replace('FOLDER', str(tmp_path))}\nsteps:\n")
    table = pq.read_table(tmp_path / "nodes.parquet")
    twice = pa.concat_tables([table.slice(0, 59), table.slice(3, 1)])
    strange = table.set_column(0, "id", pa.array(["zz", *table["id"].to_pylist()[1:]]))
    nameless = table.drop_columns(["id"])
    for rows, message in (
        (table.slice(0, 50), r"no row for node 'n050', and 9 others"),
        (twice, r"few.parquet: row 59 \(counted from 0\) is the second row of one node"),
        (strange, r"few.parquet: row 0 .*'zz' in row 0 is no node"),
        (nameless, r"the graph's nodes have names, and no column says which row is which"),
        (table.slice(0, 0), r"no row for node 'n000'|no training nodes"),
    ):
        pq.write_table(rows, tmp_path / "few.parquet")
        with pytest.raises(DataError, match=message):
            run(parse(text, "nodes.yaml", catalogue=CATALOGUE))
    assert (tmp_path / "nodes.parquet").read_bytes() == other


def test_columns_of_numbers_and_numbered_nodes(tmp_path: Path) -> None:
    given = columns_of()
    features = np.array(given.pop("features"))
    given["id"] = list(range(NODES))
    given |= {f"x{column}": features[:, column] for column in range(4)}
    pq.write_table(pa.table(given), tmp_path / "nodes.parquet")
    pq.write_table(pa.table({"src": [1, 2], "dst": [0, 0]}), tmp_path / "edges.parquet")
    step = TRAIN.format("{features: [x0, x1, x2, x3], epochs: 3, scale: row, device: cpu}")
    result = run(pipeline(tmp_path, step, *REST))
    assert result.outputs["train"].meta["in_features"] == 4
    assert result.outputs["predict"].table()["id"].to_pylist() == given["id"]


def test_samples_are_those_of_the_sampler(tmp_path: Path) -> None:
    from mbflow.graph import Batches
    from mbflow.steps.graph_csc import open_graph

    nodes = columns_of()
    write(tmp_path, nodes)
    step = (
        "  s: {use: graph.sample, from: [graph, nodes], with: "
        "{split: split, batch_size: 10, fanouts: [3, 2], epochs: 2}}"
    )
    result = run(pipeline(tmp_path, step))
    found = result.outputs["s"].table().to_pylist()
    graph = open_graph(result.outputs["graph"])
    batches = Batches(graph, np.arange(24), 10, fanouts=[3, 2], seed=4)
    names, expected = nodes["id"], []
    for epoch in range(2):
        for number in range(3):
            sample = batches.batch(epoch, number)
            expected += [
                (epoch, number, -1, None, names[node], None) for node in sample.nodes[sample.seeds]
            ]
            for depth, layer in enumerate(sample.layers):
                ends = zip(layer.sources, layer.target_of_edge(), layer.edges, strict=True)
                expected += [
                    (epoch, number, depth, names[sample.nodes[s]], names[sample.nodes[t]], int(e))
                    for s, t, e in ends
                ]
    columns = ("epoch", "batch", "layer", "source", "target", "edge")
    assert [tuple(row[name] for name in columns) for row in found] == expected
    figures = result.outputs["s"].meta["figures"]
    assert (figures["batches"], figures["seeds"]) == (3, 24)
    assert figures["sampled_edges"] == sum(row["layer"] >= 0 for row in found)


def test_samples_go_on_where_they_stopped(tmp_path: Path, monkeypatch) -> None:
    from mbflow.errors import InterruptedRunError
    from mbflow.flow import events
    from mbflow.steps import graph_sample

    monkeypatch.setattr(graph_sample, "_PIECE_EDGES", 1)
    write(tmp_path, columns_of())
    step = "  s: {use: graph.sample, from: graph, with: {batch_size: 10, fanouts: [3], epochs: 2}}"
    whole = run(pipeline(tmp_path, step, out="whole")).outputs["s"].table()
    seen = []

    def stop(event: Any) -> None:
        if isinstance(event, events.StepProgress) and event.unit == "batches":
            seen.append(event.done)
            if event.done == 7:
                raise InterruptedRunError("stop")

    with pytest.raises(InterruptedRunError):
        run(pipeline(tmp_path, step), listeners=[stop])
    made = sorted((tmp_path / "runs/nodes/steps").glob(".work-s-*/epoch-*"))
    assert len(made) >= 6
    times = [path.stat().st_mtime_ns for path in made]
    kept: list[int] = []

    def look(event: Any) -> None:
        if isinstance(event, events.StepProgress) and not kept:
            kept.extend(path.stat().st_mtime_ns for path in made)

    again = run(pipeline(tmp_path, step), listeners=[look])
    assert kept == times
    assert again.outputs["s"].table().equals(whole)


def test_forecasts_come_true(tmp_path: Path) -> None:
    write(tmp_path, columns_of())
    steps = (
        TRAIN.format(BATCHED.replace("MODEL", "sage")),
        "  s: {use: graph.sample, from: [graph, nodes], with: {split: split, batch_size: 10, "
        "fanouts: [3, 2]}}",
        REST[1],
    )
    before = {one["name"]: one for one in preview(pipeline(tmp_path, *steps))["steps"]}
    assert all(one["error"] is None for one in before.values())
    most = before["train"]["forecast"]
    run(pipeline(tmp_path))  # the graph alone
    there = {one["name"]: one for one in preview(pipeline(tmp_path, *steps))["steps"]}
    found = there["train"]["forecast"]
    assert found["training_nodes"] == most["training_nodes"] == 24
    assert found["batches"] == most["batches"] == 4
    assert found["edges"] <= most["edges"]
    assert found["nodes"] <= most["nodes"]
    assert before["predict"]["rows"] == there["predict"]["rows"] == NODES
    sampled = there["s"]["forecast"]
    result = run(pipeline(tmp_path, *steps)).outputs["s"]
    assert sampled["batches"] == result.meta["figures"]["batches"] == 3
    # All three batches were looked at; their mean is a whole number.
    assert abs(there["s"]["rows"] - result.table().num_rows) <= 3


def test_self_loops_are_noted(tmp_path: Path) -> None:
    write(tmp_path, columns_of())
    edges = pq.read_table(tmp_path / "edges.parquet").to_pydict()
    loops = {name: [*values, "n003", "n059"] for name, values in edges.items()}
    pq.write_table(pa.table(loops), tmp_path / "edges.parquet")
    for model, noted in (("gcn", True), ("sage", False)):
        step = TRAIN.format(SMALL.replace("MODEL", model))
        notes = run(pipeline(tmp_path, step)).outputs["train"].manifest["notes"]
        assert any("2 edges lead from a node to itself" in note for note in notes) == noted


def test_a_plan_counts_the_rows(tmp_path: Path) -> None:
    write(tmp_path, columns_of())
    for model in ("gcn", "sage", "gat"):
        steps = (TRAIN.format(BATCHED.replace("MODEL", model)), REST[0])
        before = {one["name"]: one for one in preview(pipeline(tmp_path, *steps))["steps"]}
        outputs = run(pipeline(tmp_path, *steps)).outputs
        assert before["train"]["rows"] == outputs["train"].table().num_rows
        # 3 classes: 9 pairs in each of 3 splits and 2 runs, of which some do not occur.
        assert outputs["check"].table().num_rows <= before["check"]["rows"] == 54
    again = pipeline(tmp_path, TRAIN.format(BATCHED.replace("MODEL", "gat")),
                     "  more: {use: graph.evaluate, from: [train, graph, nodes]}")  # fmt: skip
    (more,) = [one for one in preview(again)["steps"] if one["name"] == "more"]
    assert more["rows"] == 54


def test_runs_are_counted_in_tables_as_in_files_and_nodes_once(tmp_path: Path) -> None:
    write(tmp_path, columns_of())
    seen: list[tuple[int, str]] = []

    def look(event: Any) -> None:
        if getattr(event, "unit", None) == "nodes" and event.total is not None:
            seen.append((event.done, event.total))

    steps = (TRAIN.format(BATCHED.replace("MODEL", "gcn")), REST[0])
    outputs = run(pipeline(tmp_path, *steps), listeners=[look]).outputs
    assert (NODES, NODES) in seen
    assert max(total for _, total in seen) == NODES
    manifest = outputs["train"].manifest
    (table,) = [one for one in manifest["tables"] if one["title"] == "Trainings"]
    assert table["columns"][-1] == "validation accuracy"
    history = outputs["train"].beside("history").table().to_pylist()
    for row in table["rows"]:
        run_number, epochs, kept, loss = row[:4]
        (same,) = [r for r in history if (r["run"], r["epoch"]) == (run_number, kept)]
        assert same["loss"] == pytest.approx(loss)
        assert epochs == 4
    best = manifest["meta"]["best_run"]
    assert any(f"run {best} (counted from 0)" in note for note in manifest["notes"])


def test_what_the_network_does_not_use_is_noted(tmp_path: Path) -> None:
    write(tmp_path, columns_of())
    edges = pq.read_table(tmp_path / "edges.parquet")
    ones = pa.array(np.ones(edges.num_rows))
    edges = edges.append_column("w", ones).append_column("t", ones.cast(pa.int64()))
    pq.write_table(edges, tmp_path / "edges.parquet")
    small = SMALL.replace("MODEL", "gcn")
    weighted = BATCHED.replace("MODEL", "gcn")[:-1] + ", method: weighted}"

    def notes(columns: str, train: str) -> str:
        text = TEXT.replace("graph.csc, from: [edges, nodes]",
                            f"graph.csc, from: [edges, nodes], with: {{{{{columns}}}}}")  # fmt: skip
        text = text.format(folder=tmp_path, steps=TRAIN.format(train), out="runs", threads=2)
        outputs = run(parse(text, "nodes.yaml", catalogue=CATALOGUE)).outputs
        return " ".join(outputs["train"].manifest["notes"])

    plain = notes("", small)
    assert "weights" not in plain
    assert "times" not in plain
    assert "weights, which are not used" in notes("weight: w", small)
    assert "weights say how often they are drawn" in notes("weight: w", weighted)
    assert "times, which are not used" in notes("time: t", small)


def test_validation_on_the_test_split_is_noted(tmp_path: Path) -> None:
    write(tmp_path, columns_of())
    for split, noted in (("test", True), ("valid", False)):
        given = SMALL.replace("MODEL", "gcn")[:-1] + f", validation: {split}}}"
        found = run(pipeline(tmp_path, TRAIN.format(given))).outputs["train"].manifest["notes"]
        assert any("decides which epoch is best" in note for note in found) == noted


def test_a_plan_names_what_would_fail(tmp_path: Path) -> None:
    write(tmp_path, changed(label={5: None}))
    (step,) = [s for s in preview(pipeline(tmp_path, TRAIN.format("{}")))["steps"] if s["error"]]
    assert step["name"] == "train"
    assert re.search(r"row 5 .* null in the split", step["error"]["text"])


def test_the_pipeline_of_cora_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    assignments = ["steps.train.with.epochs=20", f"run.out={tmp_path}"]
    result = run(load("pipelines/graph.yaml", assignments=assignments))
    assert result.outputs["predict"].table().num_rows == 2708
    figures = result.outputs["check"].meta["figures"]
    assert figures["test"]["accuracy"] > 0.6
    assert figures["train"]["accuracy"] > 0.8
    from mbflow.report import write_report

    page = write_report(result.folder).read_text()
    assert "Confusion, split" in page
    assert main(["verify", str(result.folder)]) == 0


def test_manifest_of_a_model_is_plain(tmp_path: Path) -> None:
    write(tmp_path, columns_of())
    run(pipeline(tmp_path, TRAIN.format(SMALL.replace("MODEL", "gat"))))
    manifest = json.loads((tmp_path / "runs/nodes/steps/train/_manifest.json").read_text())
    assert manifest["meta"]["classes"] == list(CLASSES)
    assert manifest["columns"]["values"].startswith("list<")


def test_what_the_readme_says_runs(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Graph neural networks")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    exec(compile(block.replace("epochs=20", "epochs=6"), "README.md", "exec"), {})
    assert float(capsys.readouterr().out) > 0.5
    (pipeline_text,) = re.findall(r"^```yaml\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert set(parse(pipeline_text, "README.md", catalogue=CATALOGUE).steps) == {
        "graph", "train", "check", "predict"
    }  # fmt: skip
