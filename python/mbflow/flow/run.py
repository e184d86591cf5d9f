"""Running a pipeline: only what is missing, each output whole or not at all, always resumable.

The steps run on a worker thread, and the calling thread only waits, so that Ctrl-C is noticed at
once whatever a kernel is doing.

Example:
    >>> from mbflow.flow.run import RunResult
    >>> RunResult.__dataclass_fields__["folder"].type
    'Path'
"""

from __future__ import annotations

import errno
import os
import platform
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from mbflow import _native
from mbflow.errors import (
    DefectError,
    InterruptedRunError,
    MbflowError,
    MissingExtraError,
    ResourceError,
)
from mbflow.flow import dataset, events, inputs
from mbflow.flow.dataset import Dataset, DatasetWriter
from mbflow.flow.engine import LocalEngine
from mbflow.flow.folder import RunFolder
from mbflow.flow.manifest import write_sealed
from mbflow.flow.plan import fingerprints, state
from mbflow.flow.source import Source
from mbflow.flow.step import Context
from mbflow.flow.validate import Pipeline, StepUse

__all__ = ["RunResult", "check_extras", "open_sources", "refusal", "run"]

_REFUSALS: Final = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would exceed the size that is allowed",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOMEM: "no memory left",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files",
    errno.EIO: "the disk reports an error",
}

_VERSIONS: Final = (
    "numpy", "pyarrow", "polars", "pydantic", "ruamel.yaml", "torch", "scikit-learn",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: The run folder.
        seconds: Wall time of this run.
        ran: The steps that ran.
        kept: The steps that were done before and are reused.
        outputs: Each step's output by name.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.flow.run import RunResult
        >>> RunResult(Path("runs/demo"), 1.5, ("graph",), (), {}).ran
        ('graph',)
    """

    folder: Path
    seconds: float
    ran: tuple[str, ...]
    kept: tuple[str, ...]
    outputs: dict[str, Dataset]


def open_sources(pipeline: Pipeline) -> dict[str, Source]:
    """Open every source of a pipeline: files found, footers read, steps' needs checked.

    Raises:
        DataError: Naming the file and what is wrong with it.

    Example:
        >>> from mbflow.flow.run import open_sources
        >>> from mbflow.steps import load
        >>> sources = open_sources(load("pipelines/select.yaml"))  # doctest: +SKIP
        >>> sources["rows"].num_positions  # doctest: +SKIP
        20000
    """
    sources = {
        name: Source.open(name, spec.path, columns=spec.columns, label=spec.label, where=spec.where)
        for name, spec in pipeline.sources.items()
    }
    for use in pipeline.steps.values():
        try:
            if use.step.preflight is not None and use.source is not None:
                use.step.preflight(use.parameters, sources[use.source])
            if use.step.inspect is not None:
                use.step.inspect(use.parameters, tuple(sources.get(item) for item in use.inputs))
        except MbflowError as error:
            _name_step(error, use)
            raise
    return sources


def _stored(manifest: dict[str, Any]) -> int:
    """Bytes of an output, with what stands beside it."""
    beside = manifest.get("beside", {}).values()
    return int(manifest["bytes"]) + sum(int(one["bytes"]) for one in beside)


def _name_step(error: BaseException, use: StepUse) -> None:
    """Put the step and its place in the file before the message of an error of mbflow."""
    if isinstance(error, MbflowError) and error.args:
        error.args = (*error.args[:-1], f"{use.where}: {error.args[-1]}")


def check_extras(pipeline: Pipeline) -> None:
    """Refuse before any work when a step needs a package that is not installed.

    Raises:
        MissingExtraError: Naming the step and the `pip install` to run.

    Example:
        >>> from mbflow.flow.run import check_extras
        >>> from mbflow.steps import load
        >>> check_extras(load("pipelines/select.yaml"))  # doctest: +SKIP
    """
    from importlib.util import find_spec

    for name, use in pipeline.steps.items():
        for module in use.step.needs(use.parameters):
            if find_spec(module) is None:
                raise MissingExtraError(
                    f"the step `{name}` ({use.step.use}) needs the package `{module}`, which is "
                    f"not installed; run: pip install 'mbflow[{use.step.extra}]'"
                )


def run(
    pipeline: Pipeline,
    *,
    listeners: Iterable[events.Listener] = (),
    reporter: Callable[[Path], Path] | None = None,
) -> RunResult:
    """Run a pipeline: do what is missing, reuse what is there and sound.

    Args:
        pipeline: A checked pipeline.
        listeners: Called with every event, from the worker thread.
        reporter: Writes the report of a run folder and returns its path.

    Raises:
        DataError: The data cannot be used.
        ResourceError: The machine refuses, or another run uses the folder.
        InterruptedRunError: Ctrl-C or SIGTERM; run again to go on.
        DefectError: A fault of mbflow or of a plug-in.

    Example:
        >>> from mbflow.steps import load
        >>> from mbflow.flow.run import run
        >>> result = run(load("pipelines/select.yaml"))  # doctest: +SKIP
    """
    check_extras(pipeline)
    folder = RunFolder(pipeline.folder)
    try:
        with folder.locked():
            return _Run(pipeline, folder, listeners, reporter).go()
    except MbflowError:
        raise
    except OSError as error:
        raise refusal(error, folder.path) from error


def refusal(error: OSError, place: Path | str) -> ResourceError:
    """The error that the machine's refusal is to the user; what was done stays done.

    Example:
        >>> import errno
        >>> from mbflow.flow.run import refusal
        >>> str(refusal(OSError(errno.ENOSPC, "No space left on device", "runs/a"), "runs"))
        'runs/a: the disk is full; mend that and run again: what is done is kept'
    """
    number = error.errno
    if number is None:
        # Arrow hides the number in its text.
        number = next((n for n in _REFUSALS if f"errno {n}]" in str(error)), None)
    why = _REFUSALS.get(number or 0) or error.strerror or str(error)
    return ResourceError(
        number,
        f"{error.filename or place}: {why}; mend that and run again: what is done is kept",
    )


class _Run:
    def __init__(
        self,
        pipeline: Pipeline,
        folder: RunFolder,
        listeners: Iterable[events.Listener],
        reporter: Callable[[Path], Path] | None,
    ) -> None:
        self.pipeline = pipeline
        self.folder = folder
        self.reporter = reporter
        self.threads = pipeline.run.threads or _native.num_threads()
        _native.set_num_threads(self.threads)
        self.log = events.EventLog(folder.events_file)
        self.listeners: tuple[events.Listener, ...] = (self.log, *listeners)
        self.stop = threading.Event()
        self.publishing = threading.Lock()
        self.begun = time.monotonic()
        self.before = folder.read_run() or {}
        self.ran: list[str] = []
        self.kept: list[str] = []
        self.record: dict[str, Any] = {}

    def emit(self, event: events.Event) -> None:
        for listener in self.listeners:
            listener(event)

    def check(self) -> None:
        """Leave the step at once when the run was interrupted."""
        if self.stop.is_set():
            raise InterruptedRunError("interrupted")

    def go(self) -> RunResult:
        """Run on a worker thread; wait here, where signals arrive."""
        names = tuple(self.pipeline.steps)
        self.emit(events.RunStarted(self.pipeline.name, str(self.folder.path), names))
        outcome: list[BaseException] = []
        ended = threading.Event()

        def work() -> None:
            try:
                self._work()
            except BaseException as error:  # noqa: BLE001  - handed to the waiting thread
                outcome.append(error)
            finally:
                ended.set()

        thread = threading.Thread(target=work, name="mbflow-run", daemon=True)
        try:
            thread.start()
            while not ended.wait(0.5):
                pass
        except KeyboardInterrupt:
            self.stop.set()
            # A step that is being published right now is finished first: that takes moments.
            with self.publishing:
                outcome[:] = [InterruptedRunError("interrupted")]
            ended.wait(0.3)
            self.folder.discard()
        status = "done" if not outcome else "failed"
        if outcome and isinstance(outcome[0], InterruptedRunError):
            status = "interrupted"
        try:
            self._finish(status, outcome[0] if outcome else None)
        except OSError:
            if not outcome:
                raise
        if outcome:
            raise self._public(outcome[0]) from outcome[0]
        return RunResult(
            folder=self.folder.path,
            seconds=time.monotonic() - self.begun,
            ran=tuple(self.ran),
            kept=tuple(self.kept),
            outputs={name: Dataset.open(self.folder.step(name)) for name in names},
        )

    def _public(self, error: BaseException) -> BaseException:
        """The error to raise; one that is no mbflow error is a defect, kept with its traceback."""
        if isinstance(error, InterruptedRunError):
            return InterruptedRunError(
                f"interrupted; what is done is kept in {self.folder.path}: run again to go on"
            )
        if isinstance(error, MbflowError):
            return error
        if isinstance(error, OSError):
            return refusal(error, self.folder.path)
        if isinstance(error, MemoryError):
            return ResourceError(
                f"{self.folder.path}: no memory left ({error}); use fewer columns or rows, or a "
                "larger machine, and run again: what is done is kept"
            )
        text = "".join(traceback.format_exception(error))
        path = self.folder.path / "defect.txt"
        try:
            path.write_text(text)
        except OSError:
            return DefectError(f"{type(error).__name__}: {error}\n{text}")
        return DefectError(
            f"a defect in mbflow or a plug-in: {type(error).__name__}: {error}; please report it "
            f"with {path}"
        )

    def _work(self) -> None:
        with LocalEngine(threads=self.threads) as engine:
            self.engine = engine
            sources = open_sources(self.pipeline)
            manifests = {name: self._look_at(name, source) for name, source in sources.items()}
            prints = fingerprints(
                self.pipeline,
                {name: manifest["fingerprint"] for name, manifest in manifests.items()},
            )
            self._begin_record(manifests, prints)
            prints |= {name: manifest["fingerprint"] for name, manifest in manifests.items()}
            outputs: dict[str, Source | Dataset] = dict(sources)
            for name, use in self.pipeline.steps.items():
                self.check()
                outputs[name] = self._step(name, use, prints, outputs)
            self.folder.tidy()

    def _look_at(self, name: str, source: Source) -> dict[str, Any]:
        """The manifest of a source; says so when its bytes are not those of the last run."""
        path = self.folder.source(name)
        before = inputs.known(path)

        def on_file(done: int, total: int) -> None:
            self.check()
            if total > 1:
                self.emit(events.StepProgress(f"source {name}", done, total, "files", ""))

        manifest = inputs.scan(
            source,
            self.pipeline.sources[name],
            before=before,
            map_=self.engine.map,
            on_file=on_file,
        )
        on_file(len(source.files), len(source.files))
        if before is not None and before["fingerprint"] != manifest["fingerprint"]:
            for line in inputs.changes(before, manifest)[:20]:
                self.emit(events.RunWarning(f"source {name}: {line} since the last run"))
        if manifest != before:
            write_sealed(path, manifest)
        return manifest

    def _step(
        self,
        name: str,
        use: StepUse,
        prints: dict[str, str],
        outputs: dict[str, Source | Dataset],
    ) -> Dataset:
        """Reuse a step's output if it is the right one and every byte is sound; else run it."""
        folder = self.folder.step(name)
        found = state(folder, use, expected=prints[name])
        reason = found.reason
        if found.done and found.manifest is not None:
            problems = dataset.damage(folder, found.manifest, map_=self.engine.map)
            if not problems:
                self.kept.append(name)
                self._done(name, "kept", found.manifest, None)
                self.emit(events.StepKept(name, found.manifest["rows"], _stored(found.manifest)))
                return Dataset(folder, found.manifest)
            for problem in problems[:20]:
                self.emit(events.RunWarning(f"{problem}; the step `{name}` runs again"))
            reason = "its output is damaged"
        elif reason.startswith("damaged: "):
            text = reason.removeprefix("damaged: ")
            self.emit(events.RunWarning(f"{text}; the step `{name}` runs again"))
            reason = "its output is damaged"
        self.emit(events.StepStarted(name, use.step.use, reason))
        begun = time.monotonic()
        try:
            manifest = self._execute(name, use, prints, outputs)
        except InterruptedRunError:
            raise
        except BaseException as error:
            self.record["steps"][name]["status"] = "failed"
            self.folder.discard()
            self.emit(events.StepFailed(name, f"{type(error).__name__}: {error}"))
            _name_step(error, use)
            raise
        seconds = time.monotonic() - begun
        self.ran.append(name)
        self._done(name, "done", manifest, seconds)
        self.emit(events.StepFinished(name, seconds, manifest["rows"], _stored(manifest)))
        return Dataset(folder, manifest)

    def _execute(
        self,
        name: str,
        use: StepUse,
        prints: dict[str, str],
        outputs: dict[str, Source | Dataset],
    ) -> dict[str, Any]:
        temporary = self.folder.begin(name)
        writer = DatasetWriter(temporary)
        source = None if use.source is None else outputs[use.source]
        assert source is None or isinstance(source, Source)

        def progress(done: int, total: int | None, unit: str, text: str) -> None:
            self.emit(events.StepProgress(name, done, total, unit, text))

        context = Context(
            step=name,
            seed=use.seed,
            threads=self.threads,
            inputs=tuple(outputs[item] for item in use.inputs),
            source=source,
            engine=self.engine,
            writer=writer,
            report_progress=progress,
            check=self.check,
            scratch=self.folder.scratch(name, prints[name]),
        )
        try:
            use.step.function(context, use.parameters)
            content = {
                "step": name,
                "use": use.step.use,
                "version": use.step.version,
                "kind": use.step.gives,
                "fingerprint": prints[name],
                "parameters": use.parameters.model_dump(mode="json", by_alias=True),
                "seed": use.seed,
                "inputs": {item: prints[item] for item in use.inputs},
                "notes": context.notes,
                "tables": context.tables,
                "charts": context.charts,
                "meta": context.meta,
            }
            manifest = writer.finish(content)
        except BaseException:
            writer.abandon()
            raise
        with self.publishing:
            self.check()
            self.folder.publish(name, temporary)
        return manifest

    def _begin_record(self, manifests: dict[str, dict[str, Any]], prints: dict[str, str]) -> None:
        self.record = {
            "mbflow_run": 1,
            "name": self.pipeline.name,
            "status": "running",
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "finished": None,
            "seconds": 0.0,
            "pipeline": self.pipeline.resolved,
            "pipeline_file": self.pipeline.file,
            "seed": self.pipeline.seed,
            "threads": self.threads,
            "versions": _versions(),
            "build": _native.build_info(),
            "machine": {
                "system": platform.platform(),
                "processor": platform.machine(),
                "cores": os.cpu_count(),
            },
            "sources": {
                name: {
                    "use": manifest["use"],
                    "fingerprint": manifest["fingerprint"],
                    "rows": manifest["rows"],
                    "bytes": manifest["bytes"],
                    "files": len(manifest["files"]),
                    "where": manifest["where"],
                }
                for name, manifest in manifests.items()
            },
            "steps": {
                name: {
                    "use": use.step.use,
                    "version": use.step.version,
                    "fingerprint": prints[name],
                    "status": "pending",
                    "seconds": None,
                    "rows": None,
                    "bytes": None,
                    "from": list(use.inputs),
                }
                for name, use in self.pipeline.steps.items()
            },
            "error": None,
            "report": None,
        }
        self.folder.write_run(self.record)

    def _done(
        self, name: str, status: str, manifest: dict[str, Any], seconds: float | None
    ) -> None:
        if seconds is None:
            seconds = self._seconds_before(name, manifest["fingerprint"])
        self.record["steps"][name].update(
            status=status, seconds=seconds, rows=manifest["rows"], bytes=_stored(manifest)
        )

    def _seconds_before(self, name: str, fingerprint: str) -> float | None:
        """How long a reused step took when it ran, from run.json or, after a crash, the log."""
        before = self.before.get("steps", {}).get(name, {})
        if before.get("fingerprint") == fingerprint and before.get("seconds") is not None:
            return float(before["seconds"])
        found = None
        for record, sound in events.read_events(self.folder.events_file):
            if sound and record["event"] == "step_finished" and record["step"] == name:
                found = float(record["seconds"])
        return found

    def _finish(self, status: str, error: BaseException | None) -> None:
        seconds = time.monotonic() - self.begun
        if self.record:
            self.record.update(
                status=status,
                finished=datetime.now(UTC).isoformat(timespec="seconds"),
                seconds=seconds,
                error=None if error is None else str(error),
            )
            if status == "done" and not self.ran and self.before.get("status") == "done":
                # A look at a finished run is not the run: its times stay.
                for key in ("started", "finished", "seconds"):
                    self.record[key] = self.before[key]
            self.folder.write_run(self.record)
        self.emit(events.RunFinished(status, seconds, str(self.folder.path)))
        self.log.close()
        if self.record and self.reporter is not None and status != "interrupted":
            report = self.reporter(self.folder.path)
            self.record["report"] = {
                "file": report.name,
                "xxh3_128": _native.xxh3_128_file(str(report)),
            }
            self.folder.write_run(self.record)


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"mbflow": _native.__version__, "python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
