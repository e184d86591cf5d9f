"""The command line: arguments in, calls out. Data goes to stdout, all for people to stderr.

Exit codes: 0 done, 1 defect, 2 pipeline or arguments, 3 data, 4 resources, 5 interrupted.

Example:
    >>> from mbflow.cli import main
    >>> main(["validate", "no-such.yaml"])
    2
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mbflow.errors import InterruptedRunError, MbflowError, PipelineError

__all__ = ["main"]

# Its base is what all wrong arguments raise; typer does not export it under a name.
USAGE_ERROR: Any = typer.BadParameter.__base__

# What typer makes of Ctrl-C before a command is under way.
_CTRL_C = 130

app = typer.Typer(
    name="mbflow",
    help="Mini-batches for training, from Parquet: pipelines that select, pack and sample.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

PipelineFile = Annotated[Path, typer.Argument(help="The pipeline's YAML file.", metavar="FILE")]
RunPath = Annotated[
    Path, typer.Argument(help="A run folder, or a folder that holds just one.", metavar="RUN")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a value: PATH=VALUE. Repeatable.", metavar="PATH=VALUE"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def _version(wanted: bool) -> None:  # noqa: FBT001  - typer calls it so
    if wanted:
        from mbflow import build_info

        info = build_info()
        typer.echo(f"mbflow {info['version']} ({info['profile']}, {info['features']})")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Mini-batches for training, from Parquet: pipelines that select, pack and sample."""
    del version


def _say(text: str) -> None:
    _print(text, err=True)


def _print(text: str, *, nl: bool = True, err: bool = False) -> None:
    try:
        typer.echo(text, nl=nl, err=err)
    except BrokenPipeError:
        # The reader has gone, as in `mbflow plan ... | head -1`: what is under way goes on.
        _discard(2 if err else 1)


def _discard(stream: int) -> None:
    """Let what is still written to a stream go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream)
    os.close(nowhere)


def _print_json(value: Any) -> None:
    _print(json.dumps(value, indent=2, ensure_ascii=False))


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
    from mbflow.progress import table

    _print(table(columns, rows, title=title))


def _load(file: Path, assignments: list[str] | None) -> Any:
    from mbflow.steps import load

    return load(file, assignments=assignments or ())


@app.command(epilog="Example: mbflow run pipelines/select.yaml --set vars.keep=0.1")
def run(
    file: PipelineFile,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Run a pipeline, or go on with it: only what is missing is done."""
    from mbflow import steps
    from mbflow.progress import listener
    from mbflow.report import write_report

    pipeline = _load(file, assignments)
    with listener(sys.stderr) as progress:
        result = steps.run(pipeline, listeners=[progress], reporter=write_report)
    report = result.folder / "report.html"
    tables = [
        {"step": name, **table}
        for name, output in result.outputs.items()
        for table in output.manifest["tables"]
    ]
    if as_json:
        _print_json(
            {
                "folder": str(result.folder),
                "report": str(report),
                "seconds": round(result.seconds, 3),
                "ran": result.ran,
                "kept": result.kept,
                "outputs": {
                    name: {
                        "path": str(output.folder),
                        "rows": output.manifest["rows"],
                        "fingerprint": output.manifest["fingerprint"],
                    }
                    for name, output in result.outputs.items()
                },
                "tables": tables,
            }
        )
        return
    _print_results([output.manifest for output in result.outputs.values()])
    _print(f"run folder  {result.folder}")
    _print(f"report      {report}")


def _print_results(manifests: Sequence[dict[str, Any]]) -> None:
    """Results on the terminal; how each column was treated stands in the report only."""
    for manifest in manifests:
        for table in manifest["tables"]:
            if not table["title"].startswith("Columns "):
                title = f"{manifest['step']}: {table['title']}"
                _print_table(table["columns"], table["rows"], title)
                _print("")
    for manifest in manifests:
        for note in manifest["notes"]:
            _print(f"{manifest['step']}: {note}")
    _print("")


@app.command(epilog="Example: mbflow plan pipelines/select.yaml")
def plan(
    file: PipelineFile,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Show what a run would do: steps, reasons, rows, bytes and memory. Writes nothing."""
    from mbflow.display import size
    from mbflow.flow.preview import preview

    found = preview(_load(file, assignments))
    if as_json:
        _print_json(found)
        _end_as_the_run(found["steps"])
        return
    _print_table(
        ["source", "files", "rows", "on disk", "columns"],
        [
            [s["name"], s["files"], s["rows"], size(s["bytes"]), s["columns"]]
            for s in found["sources"]
        ],
        "Sources",
    )
    _print("")
    _print_table(
        ["step", "use", "from", "would", "because", "rows out", "memory"],
        [
            [
                s["name"], s["use"], ", ".join(s["from"]), s["action"], s["reason"],
                s["rows"], size(s["memory"]),
            ]
            for s in found["steps"]
        ],
        "Steps (rows out and memory are estimates for steps that would run)",
    )  # fmt: skip
    for step in found["steps"]:
        for one in step["tables"]:
            _print("")
            _print_table(one["columns"], one["rows"], f"{step['name']}: {one['title']}")
    notes = [f"{step['name']}: {note}" for step in found["steps"] for note in step["notes"]]
    _print("\n".join(["", *notes, *([""] if notes else []), f"run folder  {found['folder']}"]))
    _end_as_the_run(found["steps"])


def _end_as_the_run(steps: Sequence[dict[str, Any]]) -> None:
    """Say which steps of a plan cannot be foreseen; the first is where the run would end."""
    errors = [step["error"] for step in steps if step["error"] is not None]
    for error in errors:
        _say(error["text"])
    if errors:
        raise typer.Exit(errors[0]["exit_code"])


@app.command(epilog="Example: mbflow validate pipelines/*.yaml")
def validate(
    files: Annotated[list[Path], typer.Argument(help="Pipeline files.", metavar="FILE...")],
    assignments: Assignments = None,
) -> None:
    """Check pipeline files without touching data; all problems at once, with line and column."""
    problems: list[str] = []
    for file in files:
        try:
            pipeline = _load(file, assignments)
        except PipelineError as error:
            problems += error.problems
        else:
            _print(f"{file}: valid ({len(pipeline.steps)} steps)")
    if problems:
        raise PipelineError(problems)


@app.command(epilog="Example: mbflow verify runs/select")
def verify(
    run: RunPath,
    as_json: Json = False,
) -> None:
    """Read everything in a run folder and its sources again and compare with the checksums."""
    from mbflow.errors import DataError
    from mbflow.flow.folder import find
    from mbflow.flow.folder import verify as check

    folder = find(run)
    looked, problems = check(folder, on_look=lambda name: _say(f"checking {name}"))
    run_file = folder.read_run() or {}
    waiting = [
        name
        for name, step in run_file.get("steps", {}).items()
        if step["status"] not in {"done", "kept"}
    ]
    if as_json:
        found = {"folder": str(folder.path), "files": looked, "problems": problems}
        _print_json({**found, "not_done": waiting})
    elif not problems:
        _print(f"{folder.path}: {looked} files checked, all sound")
    if waiting:
        _say(
            f"the run is not complete: {', '.join(waiting)} not done; `mbflow run` goes on with it"
        )
    if problems:
        what = "problem" if len(problems) == 1 else "problems"
        advice = "`mbflow run` makes damaged outputs again, and all of them where a source changed"
        raise DataError(
            "\n".join([*problems, f"{len(problems)} {what} in {looked} files; {advice}"])
        )


@app.command(epilog="Example: mbflow why runs/select --row 17")
def why(
    run: RunPath,
    row: Annotated[
        int, typer.Option("--row", min=0, help="Position in the source, counted from 0.")
    ],
    step: Annotated[
        str | None, typer.Option("--step", help="The step that selected, where there are several.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say why a row was kept or dropped, and which kept row stands for it."""
    from mbflow.steps.why import look_up, sentences

    found = look_up(run, row, step=step)
    if as_json:
        _print_json(found)
    else:
        _print("\n".join(sentences(found)))


@app.command(epilog="Example: mbflow show pipelines/select.yaml --resolved")
def show(
    target: Annotated[Path, typer.Argument(help="A pipeline file or a run folder.")],
    assignments: Assignments = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="The whole pipeline with every default filled in.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a pipeline's steps, the resolved pipeline, or what a run folder holds."""
    from mbflow.flow.preview import outline, resolved_text

    if target.is_dir():
        _show_run(target, as_json=as_json)
        return
    pipeline = _load(target, assignments)
    if resolved:
        if as_json:
            _print_json(pipeline.resolved)
        else:
            _print(resolved_text(pipeline.resolved), nl=False)
        return
    columns, rows = outline(pipeline)
    if as_json:
        _print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        _print_table(columns, rows, f"{pipeline.name} ({target})")


def _show_run(target: Path, *, as_json: bool) -> None:
    from mbflow.errors import DataError
    from mbflow.flow.dataset import Dataset
    from mbflow.flow.folder import find

    folder = find(target)
    run = folder.read_run()
    if run is None:
        raise DataError(f"{folder.run_file}: missing or damaged; run the pipeline again")
    columns = ["step", "use", "status", "rows", "bytes", "seconds"]
    rows = [[name, *(step[key] for key in columns[1:])] for name, step in run["steps"].items()]
    manifests = [
        Dataset.open(folder.step(name)).manifest
        for name, step in run["steps"].items()
        if step["status"] in {"done", "kept"}
    ]
    if as_json:
        tables = [{"step": m["step"], **table} for m in manifests for table in m["tables"]]
        _print_json({"run": run, "tables": tables})
        return
    _print_table(columns, rows, f"{run['name']}: {run['status']} ({folder.path})")
    _print("")
    _print_results(manifests)


@app.command(epilog="Example: mbflow steps select.keep")
def steps(
    name: Annotated[str | None, typer.Argument(help="A step, to see its parameters.")] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The whole catalogue as Markdown.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the steps that pipelines can use, or one step's parameters."""
    from mbflow.flow.preview import catalogue_markdown, parameter_rows
    from mbflow.steps import CATALOGUE

    if markdown:
        _print(catalogue_markdown(CATALOGUE), nl=False)
        return
    if name is not None and name not in CATALOGUE:
        from mbflow.flow.document import nearest

        raise PipelineError(f"no step `{name}`; {nearest(name, CATALOGUE.names())}")
    columns, rows, title = parameter_rows(CATALOGUE, name)
    if as_json:
        _print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        _print_table(columns, rows, title)


@app.command(epilog="Example: mbflow schema > pipelines/schema.json")
def schema() -> None:
    """Print the JSON Schema of pipeline files, for editors."""
    from mbflow.flow.spec import schema_text
    from mbflow.steps import CATALOGUE

    _print(schema_text(CATALOGUE), nl=False)


@app.command(epilog="Example: mbflow report runs/select")
def report(run: RunPath) -> None:
    """Write report.html of a run folder again and print where it lies."""
    from mbflow import _native
    from mbflow.errors import DataError
    from mbflow.flow.folder import find
    from mbflow.report import write_report

    with find(run).locked() as folder:
        record = folder.read_run()
        if record is None:
            raise DataError(f"{folder.run_file}: missing or damaged; run the pipeline again")
        path = write_report(folder.path)
        record["report"] = {"file": path.name, "xxh3_128": _native.xxh3_128_file(str(path))}
        folder.write_run(record)
    _print(str(path))


@app.command(epilog="Example: mbflow bench select --part evidence --data sets/ --out results")
def bench(
    subject: Annotated[str, typer.Argument(help="select, stratified, batches or graph.")],
    part: Annotated[
        str | None,
        typer.Option(
            help="Of select: graph (against FAISS, the default), evidence (accuracy on many sets), "
            "resources (time and memory against imbalanced-learn), scale (Parquet in and out). Of "
            "batches: planner, padding, ranks, resume or scale (44 million items); default: all. "
            "Of graph: sample, cached, weighted, labor, csc (Parquet), gat or bias; default: all."
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option(help="Interleaved repeats; medians are shown.", min=1)
    ] = 3,
    large: Annotated[
        bool, typer.Option("--large", help="The largest sizes; takes minutes. Graph: 124 M edges.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Evidence: Parquet files with a column `label`; default: bundled sets. Graph: a "
            "folder that keeps the made-up graphs."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Evidence: paired splits of each set.", min=1)] = 10,
    peers: Annotated[
        bool, typer.Option("--peers", help="Evidence: imbalanced-learn's samplers, too; slow.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder. Evidence: for its tables and finished splits. Batches: for the result as "
            "JSON, a page and drawings. Graph: as JSON."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Batches: a minute or two. Graph: so without --large.")
    ] = False,
    items: Annotated[
        int | None, typer.Option(help="Batches: items of each corpus; default: 200,000.")
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            help="Batches: librispeech, wenet, ted or log_normal. Repeatable; default: all but ted."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure against peers in the same run, as times and ratios. Needs the extra `bench`."""
    from mbflow.bench import harness, subjects

    environment = harness.environment()
    if subject in subjects.TABLED:
        found = subjects.tables(
            subject, part, repeats=repeats, large=large, quick=quick, items=items, corpora=corpus,
            folder=data, on_progress=_say,
        )  # fmt: skip
        _tables(subject, {"environment": environment, **found}, out, as_json=as_json)
        return
    part = part or "graph"
    if (subject, part) == ("select", "evidence"):
        _evidence(data, seeds, peers=peers, out=out, as_json=as_json)
        return
    records = subjects.run(subject, part, repeats=repeats, large=large, on_progress=_say)
    if as_json:
        _print_json({"environment": environment, "records": records})
        return
    columns = list(records[0])
    title = f"bench {subject}" + (f", {part}" if subject == "select" else "")
    _print_table(columns, [[record[key] for key in columns] for record in records], title)
    _say("  ".join(f"{key}: {value}" for key, value in environment.items()))


def _tables(subject: str, result: dict[str, Any], out: Path | None, *, as_json: bool) -> None:
    from mbflow.bench import subjects

    if out is not None:
        for path in subjects.store(subject, result, out):
            _say(f"wrote {path}")
    if as_json:
        _print_json(result)
        return
    for name, records in result["tables"].items():
        columns = list(records[0])
        rows = [[record[key] for key in columns] for record in records]
        _print_table(columns, rows, subjects.titles(subject)[name])
        _print("")
    _say("  ".join(f"{key}: {value}" for key, value in result["environment"].items()))


def _evidence(
    data: Path | None, seeds: int, *, peers: bool, out: Path | None, as_json: bool
) -> None:
    from mbflow import _native
    from mbflow.bench import evidence
    from mbflow.flow.engine import LocalEngine
    from mbflow.select.peers import PEERS

    sets = evidence.bundled_sets() if data is None else evidence.find_sets(data)
    with LocalEngine(threads=_native.num_threads()) as engine:
        records = evidence.run(
            sets,
            seeds=seeds,
            peers=PEERS if peers else (),
            cache=None if out is None else out / "splits",
            on_progress=_say,
            map=engine.map,
        )
    found = evidence.tables(records)
    if out is not None:
        for path in evidence.store(records, found, out):
            _say(f"wrote {path}")
    if as_json:
        _print_json({title: table.to_dicts() for title, table in found.items()})
    else:
        _print(evidence.markdown(found))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: As in `sys.argv[1:]`, which is the default.

    Example:
        >>> from mbflow.cli import main
        >>> main(["steps", "no.such.step"])
        2
    """
    command = arguments is None
    if command:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)
    code = _guarded(sys.argv[1:] if arguments is None else list(arguments))
    if command:
        # After an interrupt the worker thread may still be inside a kernel; nobody waits for it.
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                continue
        os._exit(code)
    return code


def _guarded(arguments: list[str]) -> int:  # noqa: PLR0911  - one return for each kind of end
    try:
        result = app(arguments, standalone_mode=False, prog_name="mbflow")
    except InterruptedRunError as error:
        _say(str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        return InterruptedRunError.exit_code
    except PipelineError as error:
        for problem in error.problems:
            _say(problem)
        return error.exit_code
    except MbflowError as error:
        _say(f"error: {error}")
        return error.exit_code
    except typer.Exit as error:
        return error.exit_code
    except USAGE_ERROR as error:
        error.show(sys.stderr)
        return PipelineError.exit_code
    except SystemExit as error:
        # Help is written by typer itself, which ends so when its reader has gone.
        if isinstance(error.__context__, BrokenPipeError):
            _discard(1)
            return 0
        raise
    except OSError as error:
        from mbflow.flow.run import refusal

        refused = refusal(error, "")
        _say(f"error: {refused}")
        return refused.exit_code
    except Exception as error:
        if os.environ.get("MBFLOW_TRACEBACK"):
            raise
        _say(
            f"error: a defect in mbflow: {type(error).__name__}: {error}; please report it with "
            "what MBFLOW_TRACEBACK=1 in the environment prints"
        )
        return MbflowError.exit_code
    if result == _CTRL_C:
        _say("interrupted")
        return InterruptedRunError.exit_code
    return result if isinstance(result, int) else 0
