"""Runs: what is missing is done, what is there is reused, nothing is lost or half there."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows import CATALOGUE, AddParameters, events_of, hashes, make_data, tiny
from mbflow.errors import DataError, DefectError, MissingExtraError, PipelineError, ResourceError
from mbflow.flow import events
from mbflow.flow.dataset import Dataset, DatasetWriter
from mbflow.flow.folder import RunFolder, find, verify
from mbflow.flow.manifest import read_sealed, seal, unseal
from mbflow.flow.plan import _changes, fingerprints
from mbflow.flow.preview import preview
from mbflow.flow.run import run
from mbflow.flow.step import Catalogue, Step


@pytest.fixture
def place(tmp_path: Path) -> Path:
    make_data(tmp_path)
    return tmp_path


def test_a_run_gives_the_right_rows_and_a_second_one_does_nothing(place: Path) -> None:
    first = run(tiny(place))
    assert first.ran == ("one", "two", "both")
    table = first.outputs["both"].table()
    assert table["x"].to_pylist() == [2 * (x + 10) for x in range(1000)]
    assert table["z"].to_pylist() == [x + 11 for x in range(1000)]
    before = hashes(first.folder)
    second = run(tiny(place))
    assert (second.ran, second.kept) == ((), ("one", "two", "both"))
    assert hashes(first.folder) == before
    record = read_sealed(first.folder / "run.json")
    assert record["status"] == "done"
    assert all(
        step["status"] == "kept" and step["seconds"] > 0 for step in record["steps"].values()
    )


def test_reasons_name_only_what_differs() -> None:
    old = {"a": 1, "budget": {"padded_seconds": 20.0, "items": None, "memory": None}}
    new = {"a": 1, "budget": {"padded_seconds": 60.0, "items": None, "memory": {"most": 8}}}
    assert _changes(old, new, "") == [
        "budget.memory.most not set -> 8",
        "budget.padded_seconds 20 -> 60",
    ]
    assert _changes(old, {**old, "budget": None, "edges": [1]}, "") == [
        "budget.padded_seconds 20 -> not set",
        "edges not set -> [1]",
    ]
    assert _changes({"buckets": {"n": 1}}, {"buckets": 3}, "") == ["buckets {'n': 1} -> 3"]


def test_only_what_depends_on_a_change_runs_again(place: Path) -> None:
    run(tiny(place))
    seen: list[events.Event] = []
    result = run(tiny(place, "steps.two.with.amount=5"), listeners=[seen.append])
    assert (result.ran, result.kept) == (("two", "both"), ("one",))
    reasons = {event.step: event.reason for event in events_of(seen, events.StepStarted)}
    assert reasons == {"two": "changed: amount 1 -> 5", "both": "its input changed"}
    # Threads and folder do not change what comes out.
    assert run(tiny(place, "steps.two.with.amount=5", "run.threads=1")).ran == ()


def test_another_seed_runs_again(place: Path) -> None:
    run(tiny(place))
    seen: list[events.Event] = []
    assert run(tiny(place, "seed=4"), listeners=[seen.append]).ran == ("one", "two", "both")
    assert events_of(seen, events.StepStarted)[0].reason == "changed: seed 3 -> 4"
    assert run(tiny(place, "seed=4", "steps.two.seed=9")).ran == ("two", "both")


def test_a_new_version_of_a_step_runs_again(place: Path) -> None:
    run(tiny(place))
    newer = Catalogue(
        Step(s.use, s.version + (s.use == "test.more"), s.function, s.parameters, s.takes, s.gives,
             s.summary)
        for s in CATALOGUE
    )  # fmt: skip
    assert run(tiny(place, catalogue=newer)).ran == ("two", "both")


def test_a_changed_input_is_noticed_and_named(place: Path) -> None:
    run(tiny(place))
    path = place / "data" / "b.parquet"
    stamp = path.stat()
    # Touching without changing costs a hash and nothing else.
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert run(tiny(place)).ran == ()
    pq.write_table(pa.table({"x": [1, 2, 3]}), path)
    seen: list[events.Event] = []
    result = run(tiny(place), listeners=[seen.append])
    assert result.ran == ("one", "two", "both")
    assert "b.parquet changed" in events_of(seen, events.RunWarning)[0].text
    assert result.outputs["one"].table().num_rows == 503


def test_fingerprints_do_not_depend_on_where_the_data_lies(place: Path, tmp_path: Path) -> None:
    first = run(tiny(place))
    other = tmp_path / "elsewhere"
    other.mkdir()
    shutil.copytree(place / "data", other / "data")
    second = run(tiny(other))
    assert hashes(first.folder) == hashes(second.folder)
    assert fingerprints(tiny(place), {"rows": "0"}) == fingerprints(tiny(other), {"rows": "0"})


@settings(max_examples=60, deadline=None)
@given(number=st.integers(0, 2**32))
def test_any_flipped_bit_is_found_by_verify_and_mended_by_the_next_run(
    tmp_path_factory: pytest.TempPathFactory, number: int
) -> None:
    choice = random.Random(number)
    place = tmp_path_factory.mktemp("flip")
    make_data(place, 40)
    folder = run(tiny(place)).folder
    assert verify(find(folder))[1] == []
    before = hashes(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    assert len(files) >= 9
    path = choice.choice(files)
    data = bytearray(path.read_bytes())
    data[choice.randrange(len(data))] ^= 1 << choice.randrange(8)
    path.write_bytes(data)
    _, problems = verify(find(folder))
    assert any(str(path) in problem for problem in problems), (path, problems)
    seen: list[events.Event] = []
    run(tiny(place), listeners=[seen.append])
    assert hashes(folder) == before
    assert verify(find(folder))[1] == []
    if "steps" in path.parts:
        assert path.parent.name in [event.step for event in events_of(seen, events.StepStarted)]
        assert str(path) in events_of(seen, events.RunWarning)[0].text


def test_missing_and_surplus_files_are_found(place: Path) -> None:
    folder = run(tiny(place)).folder
    (folder / "steps" / "one" / "part-00000.parquet").unlink()
    (folder / "steps" / "two" / "stray.txt").write_text("?")
    shutil.rmtree(folder / "steps" / "both")
    text = "\n".join(verify(find(folder))[1])
    assert "one/part-00000.parquet: missing" in text
    assert "two/stray.txt: not in the manifest" in text
    assert "both: missing" in text


@pytest.mark.parametrize("what", ["file", "link", "dangling"])
def test_a_step_folder_that_was_replaced_is_made_again(place: Path, what: str) -> None:
    folder = run(tiny(place)).folder
    before = hashes(folder)
    step = folder / "steps" / "two"
    shutil.move(step, place / "elsewhere")
    if what == "file":
        step.write_text("no folder")
    elif what == "link":
        (place / "elsewhere" / "part-00000.parquet").write_bytes(b"damaged")
        step.symlink_to(place / "elsewhere")
    else:
        step.symlink_to(place / "nowhere")
    assert run(tiny(place)).ran == ("two",)
    assert hashes(folder) == before
    assert (place / "elsewhere").is_dir()
    assert run(tiny(place)).ran == ()


def test_a_document_nested_without_end_counts_as_damaged(place: Path) -> None:
    folder = run(tiny(place)).folder
    before = hashes(folder)
    for name in ["run.json", "sources/rows.json", "steps/one/_manifest.json"]:
        (folder / name).write_text('{"a":' * 100_000)
    assert len(verify(find(folder))[1]) == 3
    assert run(tiny(place)).ran == ("one",)
    assert hashes(folder) == before


def test_a_changed_input_is_found_by_verify(place: Path) -> None:
    folder = run(tiny(place)).folder
    pq.write_table(pa.table({"x": [1]}), place / "data" / "a.parquet")
    assert "a.parquet: changed since the run" in verify(find(folder))[1][0]


def test_a_failing_step_leaves_nothing_and_the_rest_stays(place: Path) -> None:
    seen: list[events.Event] = []
    with pytest.raises(DefectError, match="a step's own fault"):
        run(tiny(place, "steps.two.with.fail=value"), listeners=[seen.append])
    folder = find(place / "runs")
    assert sorted(path.name for path in folder.steps.iterdir()) == ["one"]
    assert "a step's own fault" in (folder.path / "defect.txt").read_text()
    record = folder.read_run()
    assert record is not None
    assert record["status"] == "failed"
    assert [step["status"] for step in record["steps"].values()] == ["done", "failed", "pending"]
    assert events_of(seen, events.StepFailed)[0].step == "two"
    assert run(tiny(place)).kept == ("one",)


def test_no_memory_is_a_matter_of_resources(place: Path) -> None:
    with pytest.raises(ResourceError, match="no memory left"):
        run(tiny(place, "steps.two.with.fail=memory"))


def test_a_second_run_on_the_same_folder_is_refused(place: Path) -> None:
    with (
        RunFolder(tiny(place).folder).locked(),
        pytest.raises(
            ResourceError, match=rf"another run is using this folder \(process {os.getpid()}"
        ),
    ):
        run(tiny(place))
    assert run(tiny(place)).ran == ("one", "two", "both")


def test_what_a_crash_left_is_cleared(place: Path) -> None:
    folder = run(tiny(place)).folder
    before = hashes(folder)
    (folder / "steps" / ".tmp-one-1-0").mkdir()
    (folder / "steps" / ".tmp-one-1-0" / "part-00000.parquet").write_bytes(b"half")
    (folder / ".tmp-1-run.json").write_bytes(b"half")
    # A crash between the two renames of publishing: the old output is put back.
    (folder / "steps" / "two").rename(folder / "steps" / ".old-two")
    with (folder / "events.jsonl").open("ab") as log:
        log.write(b'{"time": "cut')
    assert run(tiny(place)).ran == ()
    assert hashes(folder) == before
    assert not list(folder.rglob(".tmp-*"))
    assert verify(find(folder))[1] == []


class FullDisk(DatasetWriter):
    """A writer whose disk is full."""

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))


def test_disk_full_is_resumable(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("mbflow.flow.run.DatasetWriter", FullDisk)
        with pytest.raises(ResourceError, match=r"the disk is full; mend that and run again"):
            run(tiny(place))
    assert run(tiny(place)).ran == ("one", "two", "both")


def test_a_file_size_limit_is_a_clear_refusal(place: Path) -> None:
    """The real thing: the kernel refuses a write in the middle of a Parquet file."""
    make_data(place, 200_000)
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from pathlib import Path; from flows import tiny; from mbflow.flow.run import run\n"
        "from mbflow.errors import MbflowError\n"
        "try: run(tiny(Path(sys.argv[1])))\n"
        "except MbflowError as error: print(error); sys.exit(error.exit_code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(place)],
        capture_output=True, text=True, cwd=Path(__file__).parent, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 4, done.stdout + done.stderr
    assert "a file would exceed the size that is allowed" in done.stdout
    assert run(tiny(place)).ran == ("one", "two", "both")


def test_a_folder_that_cannot_be_made(place: Path) -> None:
    (place / "runs").write_text("a file stands in the way")
    with pytest.raises(ResourceError, match="the run folder cannot be made") as caught:
        run(tiny(place))
    assert str(place / "runs") in str(caught.value)


def test_two_inputs_of_one_run_are_the_same_however_many_threads(place: Path) -> None:
    a = run(tiny(place, f"run.out={place}/one", "run.threads=1"))
    b = run(tiny(place, f"run.out={place}/seven", "run.threads=7"))
    assert hashes(a.folder) == hashes(b.folder)


def test_missing_extra_is_refused_before_any_work(place: Path) -> None:
    needy = Catalogue(
        Step(s.use, s.version, s.function, s.parameters, s.takes, s.gives, s.summary,
             extra="train", modules=("no_such_module",))
        for s in CATALOGUE
    )  # fmt: skip
    with pytest.raises(MissingExtraError, match=r"pip install 'mbflow\[train\]'"):
        run(tiny(place, catalogue=needy))
    assert not (place / "runs").exists()


def test_steps_in_a_circle_are_refused(place: Path) -> None:
    with pytest.raises(PipelineError) as caught:
        tiny(place, "steps.one={use: test.more, from: two}")
    assert "a circle: one <- two <- one" in str(caught.value)


def test_preview_says_what_would_run_and_writes_nothing(place: Path) -> None:
    before = sorted(place.rglob("*"))
    found = preview(tiny(place))
    assert [step["action"] for step in found["steps"]] == ["run", "run", "run"]
    assert found["sources"][0]["rows"] == 1000
    assert sorted(place.rglob("*")) == before
    run(tiny(place))
    found = preview(tiny(place, "steps.two.with.amount=2"))
    assert [step["action"] for step in found["steps"]] == ["reuse", "run", "run"]


def test_interrupt_in_the_middle_is_resumable(place: Path) -> None:
    """SIGINT to a real process that is busy in a step; then the run goes on."""
    script = (
        "import sys, time; from pathlib import Path; import flows\n"
        "from mbflow.flow.run import run\n"
        "from mbflow.errors import InterruptedRunError\n"
        "slow = flows.add\n"
        "def add(context, parameters):\n"
        "    print('busy', context.step, flush=True)\n"
        "    if context.step == 'two': time.sleep(60)\n"
        "    slow(context, parameters)\n"
        "for step in flows.CATALOGUE: object.__setattr__(step, 'function', add) "
        "if step.use != 'test.join' else None\n"
        "try: run(flows.tiny(Path(sys.argv[1])))\n"
        "except InterruptedRunError as error:\n"
        "    import os; print(error, flush=True); os._exit(error.exit_code)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(place)],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line == "busy two\n":
            break
    process.send_signal(2)
    rest, _ = process.communicate(timeout=10)
    assert process.returncode == 5
    assert "run again to go on" in rest
    record = find(place / "runs").read_run()
    assert record is not None
    assert record["status"] == "interrupted"
    assert run(tiny(place)).kept == ("one",)


def test_listeners_on_another_thread_see_every_event_in_order(place: Path) -> None:
    seen: list[events.Event] = []
    threads: set[str] = set()

    def listen(event: events.Event) -> None:
        seen.append(event)
        threads.add(threading.current_thread().name)

    run(tiny(place), listeners=[listen])
    assert [type(event) for event in seen if not isinstance(event, events.StepProgress)] == [
        events.RunStarted,
        *[events.StepStarted, events.StepFinished] * 3,
        events.RunFinished,
    ]
    logged = [
        record["event"]
        for record, sound in events.read_events(place / "runs/tiny/events.jsonl")
        if sound
    ]
    assert logged == ["run_started", *["step_started", "step_finished"] * 3, "run_finished"]


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)  # fmt: skip
def test_sealed_documents_read_back(value: object) -> None:
    assert unseal(seal({"value": value})) == {"value": value}


def test_every_flipped_bit_of_a_sealed_document_is_found() -> None:
    data = seal({"rows": 3, "name": "a", "files": [1.5, None, True]})
    for index in range(len(data) * 8):
        bad = bytearray(data)
        bad[index // 8] ^= 1 << (index % 8)
        with pytest.raises(ValueError, match=r"checksum|JSON"):
            unseal(bytes(bad))


def test_a_big_output_is_cut_by_rows_alone(tmp_path: Path) -> None:
    """However the rows arrive, the same parts with the same bytes come out."""
    table = pa.table({"x": list(range(300_000))})
    folders = []
    for number, step in enumerate([300_000, 7_001, 131_072]):
        folder = tmp_path / str(number)
        folder.mkdir()
        writer = DatasetWriter(folder)
        for start in range(0, table.num_rows, step):
            writer.write(table.slice(start, step))
        writer.finish({"kind": "rows"})
        assert Dataset.open(folder).table().equals(table)
        folders.append(folder)
    assert len({(folder / "_manifest.json").read_bytes() for folder in folders}) == 1


def test_writing_another_schema_is_a_defect(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path)
    writer.write(pa.table({"x": [1]}))
    with pytest.raises(DefectError, match="wrote rows of x: string after rows of x: int64"):
        writer.write(pa.table({"x": ["a"]}))


def test_a_page_that_rots_after_the_check_is_still_found(place: Path) -> None:
    output = run(tiny(place)).outputs["one"]
    path = output.folder / "part-00000.parquet"
    data = bytearray(path.read_bytes())
    data[60] ^= 4
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"part-00000\.parquet: cannot be read"):
        output.table()


def test_find_names_the_runs_to_choose_from(place: Path) -> None:
    run(tiny(place))
    run(tiny(place, "name=other"))
    with pytest.raises(DataError, match="holds several runs; name one of other, tiny"):
        find(place / "runs")
    with pytest.raises(DataError, match="no run folder"):
        find(place / "data")


def test_adding_a_parameter_model_is_documented_in_the_manifest(place: Path) -> None:
    manifest = run(tiny(place)).outputs["one"].manifest
    assert manifest["parameters"] == AddParameters(amount=10).model_dump()
    assert manifest["notes"] == ["added 10 to 1000 rows"]
    assert manifest["tables"] == [{"title": "Sums", "columns": ["rows"], "rows": [[1000]]}]
    assert json.loads((place / "runs/tiny/sources/rows.json").read_text())["rows"] == 1000
