"""The steps speech.buckets and speech.batches: the planner's own figures, kills and forecasts."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from flows import hashes
from mbflow.cli import main
from mbflow.errors import DataError, InvalidArgumentError, PipelineError
from mbflow.flow.folder import find, verify
from mbflow.flow.preview import preview
from mbflow.speech import Budget, DurationBatches, PackedBatches, bucket_edges, outliers
from mbflow.speech.lengths import Lengths, rounded_up
from mbflow.steps import load, run
from mbflow.steps.speech_batches import BatchesParameters
from mbflow.steps.speech_durations import Utterances
from mbflow.steps.speech_plan import BudgetParameters, PlanParameters, made
from speech_pipelines import BATCHES, corpus, manifest, output, pipeline, write


@pytest.mark.parametrize(
    ("given", "step", "message"),
    [
        ("{}", "", "expected one of `seconds`, `samples`, `audio` and `path`, found none"),
        ("{seconds: a, audio: b}", "", "found `seconds` and `audio`"),
        ("{samples: a}", "", "`samples` and `sampling_rate` go together"),
        ("{samples: a, sampling_rate: 0}", "", "`sampling_rate` is 0; expected at least 1"),
        ("{seconds: a, tokens: b, text: c}", "", "expected `tokens` or `text`, found both"),
        ("{seconds: a, unit: letters}", "", "expected `characters`, `words` or `bytes`"),
        ("{seconds: a}", "{budget: {}}", "expected `padded_seconds`, `padded_tokens`"),
        ("{seconds: a}", "{budget: {padded_seconds: -1}}", "expected more than 0"),
        (
            "{seconds: a}",
            "{budget: {quadratic: 9, items: 3}}",
            "`quadratic` is for `padded_seconds`",
        ),
        ("{seconds: a}", "{budget: {memory: {most: 9}}}", "an item takes nothing"),
        ("{seconds: a}", "{budget: {sizes_by_bucket: [[5, 0]]}}", "size at 5.0 is 0"),
        ("{seconds: a}", "{budget: {sizes_by_bucket: [[5, 2]], items: 3}}", "stands alone"),
        ("{seconds: a}", "{budget: {second: 3}}", "unknown key `second`; did you mean"),
        ("{seconds: a}", "{edges: [3, 3]}", "is there twice"),
        ("{seconds: a}", "{edges: best}", "`equal_count`"),
        ("{seconds: a}", "{edges: [1, [2, 3], x]}", "expected a number or a list, found `x`"),
        ("{seconds: a}", "{buckets: [1]}", "expected 2 entries, found fewer"),
        ("{seconds: a}", "{buckets: many}", "expected a whole number or a list, found `many`"),
        ("{seconds: a}", "{budget: {memory: {most: 9, fix: 3}}}", "known: fixed, item, most"),
        (
            "{seconds: a}",
            "{budget: 600}",
            "found 600; for so many padded seconds write `{padded_seconds: 600}`",
        ),
        ("{seconds: a}", "{buckets: 0}", "expected numbers from 1 to 10000"),
        ("{seconds: a}", "{drop_last: true, fill_last: true}", "found both"),
    ],
)
def test_parameters_are_checked_with_their_place(tmp_path: Path, given, step, message) -> None:
    with pytest.raises(PipelineError) as error:
        pipeline(tmp_path, given, *([BATCHES.format(step)] if step else []))
    (line,) = error.value.problems
    assert message in line
    assert line.startswith(f"speech.yaml:{8 if step else 7}:")


@pytest.mark.parametrize(
    ("given", "budget"),
    [
        ("{padded_seconds: 60}", Budget.padded_seconds(60)),
        (
            "{padded_seconds: 60, quadratic: 20, items: 9, multiple: 2}",
            (Budget.padded_seconds(60, quadratic=20) & Budget.items(9)).multiple_of(2),
        ),
        ("{padded_tokens: 300}", Budget.padded_tokens(300)),
        (
            "{memory: {most: 9, fixed: 1, seconds: 0.1, product: 0.001}}",
            Budget.memory(9, fixed=1, seconds=0.1, product=0.001),
        ),
        (
            "{sizes_by_bucket: [[5.0, 64], [[40, 100], 16], [[40, 999], 4]]}",
            Budget.sizes_by_bucket([(5.0, 64), ((40, 100), 16), ((40, 999), 4)]),
        ),
    ],
)
def test_budgets_are_those_of_the_planner(tmp_path: Path, given, budget) -> None:
    write(tmp_path, corpus(10))
    asked = pipeline(
        tmp_path, "{seconds: seconds, tokens: tokens}", BATCHES.format(f"{{budget: {given}}}")
    )
    assert asked.steps["batches"].parameters.budget.budget() == budget
    table = corpus(10)
    run(asked)
    plan = DurationBatches(table["seconds"], table["tokens"], budget=budget, seed=5)
    assert_planned(output(tmp_path, "batches"), plan, np.arange(10), epochs=1, world_size=1)


def assert_planned(found: pl.DataFrame, plan, items, *, epochs, world_size) -> None:
    """Every row of a plan is what the planner says of its epoch, step and rank."""
    expected = [
        (epoch, step, rank)
        for epoch in range(epochs)
        for step in range(plan.steps(epoch, world_size=world_size))
        for rank in range(world_size)
    ]
    assert found.select("epoch", "step", "rank").rows() == expected
    for row, place in zip(found.iter_rows(named=True), expected, strict=True):
        at = {"rank": place[2], "world_size": world_size}
        own = plan.batch(*place[:2], **at)
        assert row["items"] == items[own].tolist()
        assert row["repeats"] == plan.repeats(*place[:2], **at).sum()
        assert row["seconds"] == plan.lengths.seconds[own].max()
        if plan.order == "buckets":
            assert row["bucket"] == plan.share(place[0], world_size=world_size).turn(place[1], 0)[0]
            assert row["seconds"] <= plan.edges.seconds[row["bucket"]]


@pytest.mark.parametrize("order", ["buckets", "window"])
@pytest.mark.parametrize("last", ["", "drop_last", "fill_last"])
@pytest.mark.parametrize("world_size", [1, 5])
def test_plans_are_those_of_the_planner(tmp_path: Path, order, last, world_size) -> None:
    table = corpus(400)
    write(tmp_path, table, files=2)
    rule = f", {last}: true" if last else ""
    given = (
        f"{{budget: {{padded_seconds: 90}}, buckets: 7, epochs: 3, world_size: {world_size}, "
        f"order: {order}, window: 150, min_seconds: 2, max_seconds: 30{rule}}}"
    )
    asked = pipeline(
        tmp_path,
        "{seconds: seconds}",
        BATCHES.format(given),
        where="tokens > 5",
    )
    foreseen = preview(asked)
    run(asked)
    items = np.flatnonzero(table["tokens"].to_numpy() > 5)
    plan = DurationBatches(
        table["seconds"].to_numpy()[items],
        budget=90.0,
        buckets=7,
        order=order,
        window=150,
        seed=5,
        min_seconds=2,
        max_seconds=30,
        **({last: True} if last else {}),
    )
    found = output(tmp_path, "batches")
    assert_planned(found, plan, items, epochs=3, world_size=world_size)
    report = plan.report(world_size)
    shown = manifest(tmp_path, "batches")
    dropped = pl.read_parquet(tmp_path / "runs/speech/steps/batches/_dropped/*.parquet")
    assert dropped["item"].to_list() == items[plan.dropped["item"]].tolist()
    assert any("items were dropped: too short" in note for note in shown["notes"])
    for name in (
        "steps",
        "padding_in",
        "fill",
        "straggler_efficiency",
        "repeated",
        "left_out",
        "dropped",
    ):
        assert shown["meta"]["figures"][name] == getattr(report, name)
    assert f"{100 * report.padding_in:.2f} %" in [row[1] for row in shown["tables"][0]["rows"]]
    # What was foreseen from the columns is what came out.
    (step,) = [one for one in foreseen["steps"] if one["name"] == "batches"]
    assert step["forecast"] == shown["meta"]["figures"]
    assert step["tables"] == shown["tables"]
    assert step["rows"] == pytest.approx(found.height, rel=0.05)
    if last != "drop_last":
        kept = np.setdiff1d(items, dropped["item"].to_numpy())
        first = found.filter(pl.col("epoch") == 0)
        unmarked = [row[: len(row) - more] for row, more in first.select("items", "repeats").rows()]
        everything = sorted(item for row in unmarked for item in row)
        if last == "fill_last" or world_size == 1:
            assert everything == kept.tolist()


def test_buckets_are_those_of_the_planner_and_are_taken_over(tmp_path: Path) -> None:
    table = corpus(500)
    write(tmp_path, table)
    buckets = (
        "buckets: {use: speech.buckets, from: durations, with: {buckets: [4, 2], edge_step: 0.5, "
        "budget: {padded_seconds: 120}, max_seconds: 20, rate_sigmas: 3}}"
    )
    batches = "batches: {use: speech.batches, from: [durations, buckets], with: {world_size: 2}}"
    asked = pipeline(tmp_path, "{seconds: seconds, tokens: tokens}", buckets, batches)
    foreseen = {one["name"]: one for one in preview(asked)["steps"]}
    run(asked)
    lengths = Lengths.of(table["seconds"], table["tokens"])
    out = outliers(lengths, max_seconds=20, rate_sigmas=3)["item"].to_numpy()
    assert len(out) > 0
    kept = np.setdiff1d(np.arange(500), out)
    edges = bucket_edges(lengths.seconds[kept], lengths.tokens[kept], buckets=(4, 2), step=0.5)
    found = output(tmp_path, "buckets")
    bucket = edges.assign(lengths.seconds[kept], lengths.tokens[kept])
    for place, row in enumerate(found.iter_rows(named=True)):
        own = lengths.seconds[kept][bucket == place].astype(np.float64)
        most = lengths.tokens[kept][bucket == place].max()
        assert (row["bucket"], row["items"]) == (place, len(own))
        assert (row["seconds"], row["tokens"]) == (edges.seconds[place], edges.tokens[place])
        assert row["batch_size"] == max(1, int(120 // row["seconds"]))
        assert row["padding"] == pytest.approx(1 - own.sum() / (len(own) * row["seconds"]))
        assert most <= row["tokens"]
    assert found["seconds"].to_numpy() % 0.5 == pytest.approx(0)
    plan = DurationBatches(
        lengths,
        budget=120.0,
        edges=list(zip(edges.seconds, edges.tokens, strict=True)),
        max_seconds=20,
        rate_sigmas=3,
        seed=5,
    )
    assert_planned(output(tmp_path, "batches"), plan, np.arange(500), epochs=1, world_size=2)
    for name in ("buckets", "batches"):
        assert foreseen[name]["forecast"] == manifest(tmp_path, name)["meta"]["figures"]
        assert foreseen[name]["tables"] == manifest(tmp_path, name)["tables"]
        assert foreseen[name]["action"] == "run"


def test_buckets_that_come_in_are_not_given_again(tmp_path: Path) -> None:
    write(tmp_path, corpus(50))
    asked = pipeline(
        tmp_path,
        "{seconds: seconds}",
        "buckets: {use: speech.buckets, from: durations}",
        "batches: {use: speech.batches, from: [durations, buckets], with: {edges: [50]}}",
    )
    with pytest.raises(InvalidArgumentError, match="`edges`: the buckets come in by `from`"):
        run(asked)


def test_windows_take_the_budget_and_the_limits_of_buckets(tmp_path: Path) -> None:
    table = corpus(500)
    write(tmp_path, table)
    asked = pipeline(
        tmp_path,
        "{seconds: seconds}",
        "buckets: {use: speech.buckets, from: durations, with: {buckets: 4, edge_step: 0.5, "
        "budget: {padded_seconds: 70}, max_seconds: 20}}",
        "batches: {use: speech.batches, from: [durations, buckets], "
        "with: {order: window, window: 100}}",
    )
    foreseen = {one["name"]: one for one in preview(asked)["steps"]}["batches"]
    run(asked)
    plan = DurationBatches(
        table["seconds"], budget=70.0, max_seconds=20, order="window", window=100, seed=5
    )
    assert_planned(output(tmp_path, "batches"), plan, np.arange(500), epochs=1, world_size=1)
    shown = manifest(tmp_path, "batches")
    assert foreseen["forecast"] == shown["meta"]["figures"]
    assert "their edges are not used" in foreseen["notes"][0]
    assert foreseen["notes"][0] in shown["notes"]


@pytest.mark.parametrize(
    ("count", "given", "noted"),
    [
        (
            60,
            "buckets: 20, world_size: 30, fill_last: true",
            r"batches fill \d\S* % of the budget and repeats are \S+ % of the items: 30 ranks share "
            r"what little is left of each of \d+ buckets; use fewer buckets, `order: window` or "
            r"fewer ranks$",
        ),
        (60, "buckets: 20", r"^batches fill \S+ % of the budget: 1 rank takes what little"),
        (60, "order: window, world_size: 30", r"^batches fill \S+ % .*: 30 ranks share few items;"),
        (3, "order: window", r"^batches fill \S+ % .*: the items are few; use a smaller budget$"),
        (3000, "buckets: 4, world_size: 2", None),
    ],
)
def test_batches_that_stay_small_are_noted(tmp_path: Path, count, given, noted) -> None:
    write(tmp_path, corpus(count))
    asked = pipeline(
        tmp_path,
        "{seconds: seconds}",
        BATCHES.format(f"{{budget: {{padded_seconds: 600}}, {given}}}"),
    )
    foreseen = {one["name"]: one for one in preview(asked)["steps"]}["batches"]
    run(asked)
    assert foreseen["notes"] == manifest(tmp_path, "batches")["notes"]
    assert len(foreseen["notes"]) == (noted is not None)
    if noted is not None:
        assert re.search(noted, foreseen["notes"][0])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (BATCHES.format("{budget: {padded_tokens: 90}}"), "the budget counts tokens; name"),
        (BATCHES.format("{budget: {memory: {most: 9, product: 1}}}"), "the budget counts tokens"),
        (
            BATCHES.format("{budget: {sizes_by_bucket: [[[40, 99], 4]]}}"),
            "the budget counts tokens",
        ),
        (BATCHES.format("{rate_sigmas: 3}"), "it counts tokens; name `tokens` or `text`"),
        (BATCHES.format("{buckets: [4, 2]}"), "the buckets are by tokens"),
        (BATCHES.format("{edges: [[40, 99]]}"), "the edges are by tokens"),
        (
            "packed: {use: speech.pack, from: durations, with: {capacity: 9, by: tokens}}",
            "`by: tokens` needs tokens",
        ),
    ],
)
def test_what_counts_tokens_needs_them(tmp_path: Path, step, message) -> None:
    with pytest.raises(PipelineError) as error:
        pipeline(tmp_path, "{seconds: seconds}", step)
    (line,) = error.value.problems
    assert re.match(r"speech.yaml:8:[^:3]\d*: ", line)
    assert message in line
    pipeline(tmp_path, "{seconds: seconds, text: text}", step)
    pipeline(tmp_path, "{seconds: seconds, tokens: tokens}", step)


def test_all_plans_of_the_pipeline_are_for_the_same_ranks(root: Path) -> None:
    asked = load(root / "pipelines" / "speech.yaml", assignments=["vars.ranks=5"])
    assert asked.steps["batches"].parameters.world_size == 5
    assert asked.steps["packed"].parameters.world_size == 5


def test_a_budget_that_the_file_leaves_out_can_be_set(root: Path, capsys) -> None:
    file = str(root / "pipelines" / "speech.yaml")
    budget = "steps.batches.with.budget"
    given = [f"{budget}.padded_seconds=30", f"{budget}.memory.most=9", f"{budget}.memory.item=1"]
    asked = load(file, assignments=given).steps["batches"].parameters.budget
    assert asked.budget() == Budget.padded_seconds(30) & Budget.memory(9, item=1)
    assert main(["validate", file, "--set", f"{budget}.paded_seconds=30"]) == 2
    assert "did you mean `padded_seconds`" in capsys.readouterr().err


def test_lengths_without_tokens_are_refused_wherever_they_come_from() -> None:
    utterances = Utterances(np.arange(2), Lengths.of([1.0, 2.0]), 2)
    asked = PlanParameters(budget=BudgetParameters(padded_tokens=90))
    with pytest.raises(InvalidArgumentError, match="tokens`: the budget counts"):
        made(utterances, asked, seed=0)
    window = BatchesParameters(buckets=(4, 2), order="window")
    assert made(utterances, window, seed=0, **window.options).order == "window"


def test_an_item_above_the_budget_is_named_by_its_row(tmp_path: Path) -> None:
    table = pa.table({"seconds": [1.0, 50.0, 2.0, 70.0, 3.0]})
    write(tmp_path, table, files=2)
    asked = pipeline(
        tmp_path,
        "{seconds: seconds}",
        BATCHES.format("{budget: {padded_seconds: 60}}"),
        where="seconds <> 50",
    )
    text = r"1.parquet: item 3 of 70 seconds is above the budget .*`too_long: drop` \(row 0 of this file"
    with pytest.raises(DataError, match=rf"^batches \(speech.yaml:8:3\): .*{text}"):
        run(asked)
    found = {one["name"]: one for one in preview(asked)["steps"]}
    assert found["batches"]["error"]["exit_code"] == 3
    wanted = rf"^batches \(speech.yaml:8:3\): cannot be foreseen: .*{text}"
    assert re.search(wanted, found["batches"]["error"]["text"])
    assert found["batches"]["forecast"] is None
    assert found["durations"]["error"] is None
    assert found["durations"]["forecast"]["items"] == 4
    run(
        pipeline(
            tmp_path,
            "{seconds: seconds}",
            BATCHES.format("{budget: {padded_seconds: 60}, too_long: drop}"),
        )
    )
    notes = manifest(tmp_path, "batches")["notes"]
    assert notes[0] == "1 of 5 items were dropped: above the budget alone"
    assert "1.parquet, row 0), 70 seconds: above the budget alone" in notes[1]


KILLED = """\
import os, signal, sys
from mbflow.steps import run

def listen(event):
    if getattr(event, "step", "") == "batches" and getattr(event, "unit", "") == "steps":
        if event.done >= int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

run(sys.argv[1], listeners=[listen])
"""


def test_a_killed_run_goes_on_after_the_pieces_that_are_done(tmp_path: Path) -> None:
    table = corpus(600)
    given = BATCHES.format(
        "{budget: {padded_seconds: 60}, epochs: 6, world_size: 3, fill_last: true}"
    )
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, table)
    run(pipeline(tmp_path / "whole", "{seconds: seconds}", given))
    asked = pipeline(tmp_path / "killed", "{seconds: seconds}", given)
    file = tmp_path / "speech.json"
    file.write_text(json.dumps(asked.resolved))
    epoch = output(tmp_path / "whole", "batches").filter(pl.col("epoch") == 0)["step"].max() + 1
    work = tmp_path / "killed" / "runs" / "speech" / "steps"
    for kill in (2, 4):
        process = subprocess.run(
            [sys.executable, "-c", KILLED, str(file), str(kill * epoch)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert process.returncode == -signal.SIGKILL, process.stderr
        pieces = sorted(work.glob(".work-batches-*/epoch-*"))
        assert len(pieces) >= kill
        assert not (work / "batches").exists()
    before = {piece.name: piece.stat().st_mtime_ns for piece in pieces}
    (pieces[0] / "part-00000.parquet").write_bytes(b"damaged")
    # With the last piece out of the way, all are read again where they lie.
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(file), str(5 * epoch)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == -signal.SIGKILL, process.stderr
    after = {piece.name: piece.stat().st_mtime_ns for piece in work.glob(".work-batches-*/epoch-*")}
    assert [name for name in before if before[name] != after[name]] == [pieces[0].name]
    run(asked)
    found = hashes(tmp_path / "killed" / "runs" / "speech")
    assert found == hashes(tmp_path / "whole" / "runs" / "speech")
    assert len(found) == 4
    assert not list(work.glob(".work-*"))


def test_a_long_plan_is_written_in_pieces(tmp_path: Path, monkeypatch) -> None:
    """Where an epoch is cut does not show, not even in what counts as a repeat."""
    from mbflow.steps import speech_batches

    table = corpus(300)
    found = []
    for items in (1, 40, 1 << 22):
        monkeypatch.setattr(speech_batches, "_PIECE_ITEMS", items)
        folder = tmp_path / str(items)
        folder.mkdir()
        write(folder, table)
        given = "{budget: {padded_seconds: 50}, world_size: 4, fill_last: true, epochs: 2}"
        run(pipeline(folder, "{seconds: seconds}", BATCHES.format(given)))
        found.append(output(folder, "batches"))
    assert found[0]["repeats"].sum() > 0
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])


def test_the_command_line(tmp_path: Path, root: Path, monkeypatch, capsys) -> None:
    """The pipeline of the repository, from another folder, with every verb."""
    pytest.importorskip("soundfile")
    monkeypatch.chdir(tmp_path)
    file = str(root / "pipelines" / "speech.yaml")
    data = ["--set", f"vars.data={root}/examples/data/spoken_digits.parquet"]
    assert main(["plan", file, *data, "--json"]) == 0
    steps = {one["name"]: one for one in json.loads(capsys.readouterr().out)["steps"]}
    figures = steps["batches"]["forecast"]
    assert 0 < figures["padding_in"] < 0.2
    assert main(["plan", file, *data]) == 0
    shown = capsys.readouterr().out
    assert f"{100 * figures['padding_in']:.2f} %" in shown
    assert f"{100 * figures['straggler_efficiency']:.2f} %" in shown
    assert "steps of each rank" in shown
    assert list(tmp_path.iterdir()) == []
    assert main(["run", file, *data]) == 0
    printed = capsys.readouterr().out
    table = next(part for part in printed.split("\n\n") if part.startswith("batches: An epoch"))
    assert table in shown
    assert main(["show", "runs"]) == 0
    assert table in capsys.readouterr().out
    assert "Padding by seconds of the bucket" in (tmp_path / "runs/speech/report.html").read_text()
    assert verify(find(tmp_path / "runs"))[1] == []
    assert main(["plan", file, *data]) == 0
    assert table in capsys.readouterr().out
    windows = ["--set", "steps.batches.with.order=window"]
    assert main(["plan", file, *data, *windows]) == 0
    assert "batches: `order: window` takes the budget" in capsys.readouterr().out
    wrong = ["--set", "steps.packed.with.capacity=1"]
    assert main(["plan", file, *data, *wrong]) == 3
    captured = capsys.readouterr()
    assert table in captured.out
    assert "run folder" in captured.out
    assert re.match(rf"packed \({file}:\d+:3\): cannot be foreseen: .*capacity", captured.err)
    assert main(["plan", file, *data, *wrong, "--json"]) == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)["steps"][-1]["error"]["text"] == captured.err.rstrip("\n")
    assert main(["run", file, *data, *wrong]) == 3
    assert re.search(rf"error: packed \({file}:\d+:3\): .*capacity", capsys.readouterr().err)
    wrong = ["--set", "steps.durations.with.text=transcript"]
    assert main(["plan", file, *data, *wrong]) == 3
    assert "no column `transcript` (`text`)" in capsys.readouterr().err
    assert main(["validate", file, "--set", "steps.batches.with.world_size=0"]) == 2
    assert "expected at least 1, found 0" in capsys.readouterr().err


def assert_packed(found: pl.DataFrame, plan, items, lengths, *, epochs, world_size) -> None:
    """Every row is what the planner says of its epoch, step, rank and place."""
    expected = []
    for epoch in range(epochs):
        for step in range(plan.steps(epoch, world_size=world_size)):
            for rank in range(world_size):
                rows = plan.batch(epoch, step, rank=rank, world_size=world_size)
                for place, own in enumerate(rows.tolist()):
                    length = float(np.sum(lengths[own], dtype=np.float64))
                    repeat = bool(rows.repeats[place])
                    expected.append((epoch, step, rank, place, items[own].tolist(), length, repeat))
    assert found.columns == ["epoch", "step", "rank", "row", "items", "length", "repeat"]
    assert len(found) == len(expected) > 0
    for row, wanted in zip(found.rows(), expected, strict=True):
        assert row[:5] == wanted[:5]
        assert row[5] == pytest.approx(wanted[5])
        assert row[6] == wanted[6]


@pytest.mark.parametrize("by", ["seconds", "tokens"])
@pytest.mark.parametrize("last", ["", "drop_last", "fill_last"])
def test_packed_rows_are_those_of_the_planner(tmp_path: Path, by, last, monkeypatch) -> None:
    from mbflow.steps import speech_pack

    table = corpus(300)
    write(tmp_path, table)
    rule = {last: True} if last else {}
    capacity = 25 if by == "seconds" else 90
    given = {"capacity": capacity, "by": by, "rows": 3, "world_size": 4, "epochs": 2, **rule}
    given |= {"too_long": "drop", "fit": "first"}
    step = f"packed: {{use: speech.pack, from: durations, with: {json.dumps(given)}}}"
    asked = pipeline(
        tmp_path, "{seconds: seconds, tokens: tokens}", step, where="tokens > 0 AND tokens < 200"
    )
    foreseen = {one["name"]: one for one in preview(asked)["steps"]}["packed"]
    monkeypatch.setattr(speech_pack, "_PIECE_ITEMS", 50)
    run(asked)
    tokens = table["tokens"].to_numpy()
    items = np.flatnonzero((tokens > 0) & (tokens < 200))
    lengths = (rounded_up(table["seconds"].to_numpy()) if by == "seconds" else tokens)[items]
    plan = PackedBatches(
        lengths, capacity=capacity, rows=3, fit="first", seed=5, too_long="drop", **rule
    )
    found = output(tmp_path, "packed")
    assert_packed(found, plan, items, lengths, epochs=2, world_size=4)
    assert found["length"].max() <= capacity
    report, shown = plan.report(4), manifest(tmp_path, "packed")
    assert report.dropped > 0
    assert shown["meta"]["figures"] == foreseen["forecast"]
    assert shown["tables"] == foreseen["tables"]
    assert foreseen["forecast"]["waste"] == report.waste
    assert (
        shown["notes"][0]
        == f"{report.dropped} of {len(items)} items were dropped: above the capacity"
    )


def test_what_cannot_be_packed_is_named(tmp_path: Path) -> None:
    write(tmp_path, pa.table({"seconds": [1.0, 9.0, 2.0]}), files=3)
    packed = "packed: {{use: speech.pack, from: durations, with: {{capacity: 5{}}}}}"
    text = r"1.parquet: lengths: item 1 is 9.0 long, above the capacity .* \(row 0 of this file"
    asked = pipeline(tmp_path, "{seconds: seconds}", packed.format(""))
    with pytest.raises(DataError, match=text):
        run(asked)
    assert re.search(text, preview(asked)["steps"][-1]["error"]["text"])
    few = packed.format(", too_long: drop, world_size: 9, drop_last: true")
    with pytest.raises(InvalidArgumentError, match="no step for 9 ranks: its 1 rows are too few"):
        run(pipeline(tmp_path, "{seconds: seconds}", few))
