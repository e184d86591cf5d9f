"""The command line as people use it: what it prints where, and how it exits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbflow.cli import app, main
from mbflow.flow.manifest import read_sealed
from mbflow.flow.preview import catalogue_markdown
from mbflow.flow.spec import schema_text
from mbflow.steps import CATALOGUE

FAST = [
    "--set", "steps.keep.with={fraction: 0.1, rounds: 2}",
    "--set", "steps.check.with={seeds: 2, compare: [medoids]}",
]  # fmt: skip


@pytest.fixture
def table(tmp_path: Path, blobs) -> Path:
    """A labelled table with numbers, text and gaps."""
    features, labels = blobs
    frame = pl.DataFrame({f"x_{i}": features[:, i] for i in range(features.shape[1])})
    frame = frame.with_columns(
        pl.Series("kind", ["red", "green", None, "blue"] * (len(labels) // 4)),
        pl.Series("label", labels),
    )
    path = tmp_path / "table.parquet"
    frame.write_parquet(path)
    return path


def call(
    *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, as a shell starts it."""
    return subprocess.run(
        [sys.executable, "-m", "mbflow", *arguments],
        capture_output=True, text=True, check=False, timeout=240, cwd=cwd,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_run_again_verify_report_show(root: Path, tmp_path: Path, table: Path) -> None:
    given = ["pipelines/select.yaml", "--set", f"vars.data={table}", "--set", f"run.out={tmp_path}/runs",
             *FAST]  # fmt: skip
    first = call("run", *given, cwd=root)
    assert first.returncode == 0, first.stderr
    assert "Rows kept per class" in first.stdout
    assert "selected 10 %" in first.stdout
    assert "\x1b[" not in first.stdout + first.stderr
    assert re.search(r"\[2/2\] check select.evaluate: done", first.stderr)
    folder = tmp_path / "runs" / "select"
    assert f"report      {folder}/report.html" in first.stdout

    kept = pl.read_parquet(folder / "steps" / "keep" / "*.parquet")
    rows = pl.read_parquet(table)
    assert kept.height == 24
    assert kept["row"].is_sorted()
    assert kept.drop("row", "score").equals(rows[kept["row"].to_list()])
    assert set(kept["label"]) == set(rows["label"])

    again = call("run", *given, "--json", cwd=root)
    result = json.loads(again.stdout)
    assert (result["ran"], result["kept"]) == ([], ["keep", "check"])
    assert result["outputs"]["keep"]["rows"] == 24

    sound = call("verify", str(tmp_path / "runs"), cwd=root)
    assert (sound.returncode, "all sound" in sound.stdout) == (0, True)

    before = (folder / "report.html").read_bytes()
    assert call("report", str(folder), cwd=root).stdout.strip() == str(folder / "report.html")
    assert (folder / "report.html").read_bytes() == before
    assert call("verify", str(folder), cwd=root).returncode == 0

    shown = json.loads(call("show", str(folder), "--json", cwd=root).stdout)
    assert shown["run"]["status"] == "done"
    assert shown["tables"][1]["title"] == "Rows kept per class"
    assert shown["tables"][1]["step"] == "keep"
    assert "keep: Rows kept per class" in first.stdout

    part = folder / "steps" / "keep" / "part-00000.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    damaged = call("verify", str(folder), cwd=root)
    assert damaged.returncode == 3
    assert f"{part}: does not match its checksum" in damaged.stderr
    assert damaged.stdout == ""
    mended = call("run", *given, cwd=root)
    assert mended.returncode == 0
    assert "does not match its checksum" in mended.stderr
    assert call("verify", str(folder), cwd=root).returncode == 0


def test_plan_says_what_would_run_and_writes_nothing(root: Path, tmp_path: Path) -> None:
    done = call("plan", "pipelines/select.yaml", "--set", f"run.out={tmp_path}/runs", cwd=root)
    assert done.returncode == 0, done.stderr
    assert re.search(r"keep +select\.keep +rows +run +not done yet +800", done.stdout)
    assert "20000" in done.stdout or "20,000" in done.stdout
    assert not (tmp_path / "runs").exists()
    plan = json.loads(
        call(
            "plan", "pipelines/select.yaml", "--set", f"run.out={tmp_path}", "--json", cwd=root
        ).stdout
    )
    assert [step["action"] for step in plan["steps"]] == ["run"] * 2


def test_validate_prints_every_problem_with_its_place(root: Path, tmp_path: Path) -> None:
    good = (root / "pipelines" / "attention.yaml").read_text()
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        good.replace("neighbours: 10", "neighbors: 10").replace("[graph, score]", "[graph, scor]")
    )
    done = call("validate", "pipelines/select.yaml", str(bad), cwd=root)
    assert done.returncode == 2
    assert done.stdout == "pipelines/select.yaml: valid (2 steps)\n"
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert re.match(
        rf"{re.escape(str(bad))}:\d+:\d+: unknown key `neighbors`; did you mean", lines[0]
    )
    assert "no source or step `scor`; did you mean `score`?" in lines[1]


def test_show_resolved_is_a_pipeline_again(root: Path, tmp_path: Path) -> None:
    done = call("show", "pipelines/attention.yaml", "--resolved", cwd=root)
    assert "learning_rate: 0.05" in done.stdout
    (tmp_path / "again.yaml").write_text(done.stdout)
    assert call("show", str(tmp_path / "again.yaml"), "--resolved", cwd=root).stdout == done.stdout


def test_generated_files_are_not_stale(root: Path) -> None:
    assert (root / "pipelines" / "schema.json").read_text() == schema_text(CATALOGUE)
    assert (root / "pipelines" / "steps.md").read_text() == catalogue_markdown(CATALOGUE)


def test_schema_accepts_our_pipelines_and_refuses_wrong_ones(root: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    from ruamel.yaml import YAML

    schema = json.loads((root / "pipelines" / "schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    files = sorted((root / "pipelines").glob("*.yaml"))
    assert len(files) >= 2
    for file in files:
        data = YAML(typ="safe").load(file)
        jsonschema.validate(data, schema)
        next(iter(data["steps"].values())).setdefault("with", {})["neighbors"] = 3
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(data, schema)


def test_steps_lists_the_catalogue_and_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["steps", "--json"]) == 0
    assert [row["step"] for row in json.loads(capsys.readouterr().out)] == list(CATALOGUE.names())
    assert main(["steps", "select.keep"]) == 0
    out = capsys.readouterr().out
    assert "fraction" in out
    assert "<= 1" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "gone.yaml"], 2, "gone.yaml: cannot be read: No such file or directory"),
        (["run"], 2, "Missing argument"),
        (["walk"], 2, "No such command 'walk'"),
        (["steps", "select.kep"], 2, "did you mean `select.keep`?"),
        (["verify", "gone"], 3, "gone: there is no such folder"),
        (["report", "pipelines"], 3, "pipelines: this is no run folder"),
        (["bench", "nothing"], 2, "no benchmark `nothing`"),
        (
            ["run", "pipelines/select.yaml", "--set", "vars.data=gone.parquet", "--set", "run.out={tmp}"],
            3,
            "error: source `rows`: gone.parquet: there is no such file or folder",
        ),
        (
            ["run", "pipelines/select.yaml", "--set", "vars.label=no", "--set", "run.out={tmp}"],
            3,
            "letter.parquet: no column `no` (the label); it has: x_box",
        ),
        (["run", "pipelines/select.yaml", "--set", "vars.keep=9"], 2,
         "expected at most 1.0, found 9"),
        (["run", "pipelines/select.yaml", "--set", "vars.kep=1"], 2,
         "--set vars.kep=1: no `kep` in vars; did you mean `keep`?"),
        (["run", "pipelines/select.yaml", "--set", "run.out=/proc/no"], 4, "/proc/no"),
    ],
)  # fmt: skip
def test_errors_exit_with_their_code_and_one_line(
    root: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    done = call(*[argument.format(tmp=tmp_path) for argument in arguments], cwd=root)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_every_verb_has_a_help_with_an_example_that_parses(root: Path) -> None:
    import typer

    group = typer.main.get_command(app)
    verbs = group.commands  # type: ignore[attr-defined]
    assert set(verbs) == {
        "run",
        "plan",
        "validate",
        "verify",
        "show",
        "steps",
        "schema",
        "report",
        "why",
        "bench",
    }
    for name, command in verbs.items():
        assert command.epilog.startswith(f"Example: mbflow {name} ".rstrip()), name
        words = command.epilog.removeprefix("Example: mbflow ").partition(">")[0].split()
        command.make_context(name, words[1:])


BAD_TABLES = {
    "null label": ({"x": [1.0, 2.0, 3.0], "label": ["a", None, "b"]}, r"row 1"),
    "nan label": ({"x": [1.0, 2.0, 3.0], "label": [1.0, float("nan"), 2.0]}, r"row 1"),
    "regression": ({"x": [1.0, 2.0, 3.0], "label": [1.5, 2.5, 3.5]}, r"regression"),
    "infinity": ({"x": [1.0, 2.0, float("inf"), 4.0], "label": ["a", "b"] * 2}, r"row 2"),
    "no rows": ({"x": pa.array([], pa.float64()), "label": pa.array([], pa.string())}, r"no row"),
    "no columns": ({"label": ["a", "b"]}, r"column"),
    "constant": ({"x": [1.0, 1.0], "label": ["a", "b"]}, r"column"),
    "nested": ({"x": [[1], [2, 3]], "label": ["a", "b"]}, r"'x'|`x`"),
    "row taken": (
        {"x": [float(i) for i in range(40)], "row": range(40), "label": ["a", "b"] * 20},
        r"has a column `row` already; give the new one another name with `row_column`",
    ),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables_say_what_and_where(root: Path, tmp_path: Path, name: str) -> None:
    columns, message = BAD_TABLES[name]
    path = tmp_path / "bad.parquet"
    pq.write_table(
        pa.table({k: list(v) if isinstance(v, range) else v for k, v in columns.items()}), path
    )
    done = call("run", "pipelines/select.yaml", "--set", f"vars.data={path}", "--set",
                f"run.out={tmp_path}", *FAST, cwd=root)  # fmt: skip
    assert done.returncode in (2, 3), done.stderr
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert "Traceback" not in done.stderr
    if "row " in message and name != "row taken":
        assert str(path) in error
    left = [p.name for p in tmp_path.rglob(".tmp-*")]
    assert left == []


def test_ctrl_c_ends_a_busy_run_and_the_next_one_goes_on(root: Path, tmp_path: Path) -> None:
    arguments = ["run", "pipelines/smoke.yaml", "--set", f"run.out={tmp_path}", "--set",
                 "steps.score.with.epochs=100000", "--set", "steps.score.with.patience=100000"]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "mbflow", *arguments], cwd=root, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch" in line:
                break
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        code = process.wait(timeout=20)
    assert code == 5, rest
    # Far above the second that is wanted, for machines that are busy with other tests.
    assert time.monotonic() - sent < 10
    assert "run again to go on" in rest
    assert "Traceback" not in rest
    assert read_sealed(tmp_path / "smoke" / "run.json")["status"] == "interrupted"
    done = call("run", "pipelines/smoke.yaml", "--set", f"run.out={tmp_path}", "--json", cwd=root)
    assert json.loads(done.stdout)["kept"] == ["graph"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("mbflow 0.")


@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9])
def test_an_interrupt_at_any_time_has_its_exit_code(root: Path, seconds: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mbflow", "plan", "pipelines/select.yaml"],
        cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    # The interpreter itself answers before mbflow is there, and a fast machine may be done.
    before = process.returncode in (1, -2, 130) and (seconds < 0.2 or "mbflow" not in errors)
    assert process.returncode in (0, 5) or before
    if process.returncode == 5:
        assert errors.endswith("interrupted\n")
        assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("schema | head -c 10", 0),
        ("--help | head -c 10", 0),
        ("plan pipelines/select.yaml --set run.out={tmp} | true", 0),
        ("plan pipelines/select.yaml --set run.out={tmp} | head -3", 0),
        ("run pipelines/smoke.yaml --set run.out={tmp} 2>&1 | head -2", 0),
        ("run gone.yaml 2>&1 | true", 2),
    ],
)
def test_a_closed_pipe_is_no_error(root: Path, tmp_path: Path, arguments: str, code: int) -> None:
    done = subprocess.run(
        ["/bin/bash", "-c", f"{sys.executable} -m mbflow {arguments.format(tmp=tmp_path)} > "
         f"{tmp_path}/read; exit ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True, cwd=root, check=False,
    )  # fmt: skip
    assert done.returncode == code
    assert done.stderr == ""
    if arguments.startswith("run pipelines"):
        assert read_sealed(tmp_path / "smoke" / "run.json")["status"] == "done"
