"""What a step of the catalogue is, and what it is given when it runs.

A step is a function of a context and its parameters that writes one output. Its entry says what it
takes and gives, so that a pipeline is checked before anything runs. This module knows no domain.

Example:
    >>> from mbflow.flow.step import Catalogue
    >>> Catalogue(()).names()
    ()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pyarrow as pa
    from pydantic import BaseModel

    from mbflow.flow.dataset import Dataset, DatasetWriter
    from mbflow.flow.engine import Engine
    from mbflow.flow.source import Source

__all__ = ["Catalogue", "Context", "Forecast", "Step", "described"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a step would come to, as far as can be told before it runs.

    Attributes:
        value: What the forecasts of later steps get in place of the output.
        figures: Plain figures by name, for programs.
        tables: For people, each with `title`, `columns` and `rows`, as `Context.table` takes them.
        rows: How many rows would go out, where that is known better than `Step.estimate` has it.
        notes: For people, a sentence each, as `Context.note` takes them.

    Example:
        >>> from mbflow.flow.step import Forecast
        >>> Forecast(figures={"padding": 0.02}).tables
        ()
    """

    value: Any = None
    figures: dict[str, Any] = field(default_factory=dict)
    tables: tuple[dict[str, Any], ...] = ()
    rows: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of the catalogue.

    Attributes:
        use: The name that pipelines give, such as `"select.keep"`.
        version: Raised when the step's result changes, so that older outputs are not reused.
        function: Called with a `Context` and an instance of `parameters`.
        parameters: The pydantic model of `with:`; its field descriptions are the documentation.
        takes: The kind of each input in order: `"rows"` is a source, others are what steps give;
            `"rows|graph"` is either, and a last one such as `"scores?"` may be left out.
        gives: The kind of the output.
        summary: One line for `mbflow steps`.
        source: Whether the step also reads the rows of the one source upstream of its inputs
            (`Context.source`), without naming it in `from`.
        label: Whether the sources upstream must name their class column.
        extra: The extra of mbflow that the step needs beyond the base, or None.
        modules: What that extra must make importable, looked for before anything runs; or a
            function that says so from the parameters.
        estimate: From the parameters and the rows and bytes that come in, the rows that go out and
            the memory at the peak in bytes, for `mbflow plan`.
        check: From the parameters and those of each input (None for a source), the path of a
            parameter that does not go with them and what is wrong with it, or None.
        preflight: From the parameters and the source upstream, raises `DataError` for what cannot
            go well, before anything runs.
        inspect: The same from the parameters and each input: a `Source`, or None for what a step
            makes.
        forecast: From the parameters, the inputs, the seed and the source upstream (where `source`
            asks for it), what the step would come to, for `mbflow plan`. An input is a `Source`, a
            `Dataset` where the output is there, or the `value` of a forecast; a forecast is quick,
            whatever the size of the data, and None where it cannot tell.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> CATALOGUE["select.keep"].takes
        ('rows|graph|scores', 'scores?')
    """

    use: str
    version: int
    function: Callable[[Context, Any], None]
    parameters: type[BaseModel]
    takes: tuple[str, ...]
    gives: str
    summary: str
    source: bool = False
    label: bool = False
    extra: str | None = None
    modules: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = ()
    estimate: Callable[[Any, int, int], tuple[int, int]] | None = None
    check: Callable[[Any, tuple[Any, ...]], tuple[tuple[str, ...], str] | None] | None = None
    preflight: Callable[[Any, Source], None] | None = None
    inspect: Callable[[Any, tuple[Source | None, ...]], None] | None = None
    forecast: Callable[[Any, tuple[Any, ...], int, Source | None], Forecast | None] | None = None

    def needs(self, parameters: Any) -> tuple[str, ...]:
        """The modules that the step needs beyond the base, with these parameters."""
        return self.modules(parameters) if callable(self.modules) else self.modules


def described(takes: Iterable[str]) -> str:
    """What a step takes, in words.

    Example:
        >>> from mbflow.flow.step import described
        >>> described(("rows|graph", "scores?"))
        'rows or graph, scores (may be left out)'
    """
    return ", ".join(
        kind.rstrip("?").replace("|", " or ") + " (may be left out)" * kind.endswith("?")
        for kind in takes
    )


class Catalogue:
    """The steps that pipelines can use, by name.

    Example:
        >>> from mbflow.steps import CATALOGUE
        >>> "select.hash_graph" in CATALOGUE
        True
    """

    def __init__(self, steps: Iterable[Step]) -> None:
        self._steps: dict[str, Step] = {}
        for step in steps:
            if step.use in self._steps:
                raise ValueError(f"the step name `{step.use}` is taken twice")
            self._steps[step.use] = step

    def __contains__(self, use: object) -> bool:
        return use in self._steps

    def __getitem__(self, use: str) -> Step:
        return self._steps[use]

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps.values())

    def names(self) -> tuple[str, ...]:
        """The names of all steps, in the order of the catalogue."""
        return tuple(self._steps)

    def with_steps(self, steps: Iterable[Step]) -> Catalogue:
        """A catalogue that has these steps too."""
        return Catalogue([*self._steps.values(), *steps])


@dataclass(slots=True)
class Context:
    """What a running step sees of the world: inputs, output, seed, progress and the engine.

    Attributes:
        step: The step's name in the pipeline.
        seed: The seed for all its draws.
        threads: How many threads it may use.
        inputs: A `Source` or a `Dataset` for each name in `from`, in order.
        source: The one source upstream, for steps that ask for it.
        engine: Runs `map`.
        scratch: A folder for parts of the work that a run started again finds as it left them, as
            long as nothing changed that the output depends on; gone once the output is there.

    Example:
        A step that counts rows, as `CONTRIBUTING.md` explains it:

        >>> def count_rows(context, parameters):
        ...     rows = context.inputs[0].table()
        ...     context.note(f"{rows.num_rows} rows")
        ...     context.write(rows.group_by([]).aggregate([([], "count_all")]))
    """

    step: str
    seed: int
    threads: int
    inputs: tuple[Source | Dataset, ...]
    source: Source | None
    engine: Engine
    writer: DatasetWriter
    report_progress: Callable[[int, int | None, str, str], None]
    check: Callable[[], None]
    scratch: Path
    notes: list[str] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    charts: list[dict[str, Any]] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Append rows to the step's output; all calls must have the same schema."""
        self.check()
        self.writer.write(rows)

    def write_beside(self, name: str, rows: pa.Table | pa.RecordBatch) -> None:
        """Append rows to a table of its own beside the output, such as `"why"`.

        It is checked and kept like the output, and read by `Dataset.beside`.
        """
        self.check()
        self.writer.beside(name).write(rows)

    def folder_beside(self, name: str) -> Path:
        """Where a folder of files beside the output goes, such as a graph; not made yet.

        What the step leaves in it is checked and kept like the output, and found by
        `Dataset.folder_beside`.
        """
        self.check()
        return self.writer.folder_beside(name)

    def note(self, text: str) -> None:
        """Say something to people: it stands in the manifest and in the report."""
        self.notes.append(text)

    def table(self, title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
        """Publish a small table of plain values for the terminal and the report."""
        self.tables.append(
            {"title": title, "columns": list(columns), "rows": [list(row) for row in rows]}
        )

    def chart(
        self,
        title: str,
        *,
        ylabel: str,
        groups: list[str],
        series: list[dict[str, Any]],
        decimals: int = 3,
    ) -> None:
        """Publish a chart for the report: each series has `name`, `mean` and `sd` by group."""
        self.charts.append(
            {
                "title": title,
                "ylabel": ylabel,
                "groups": groups,
                "series": series,
                "decimals": decimals,
            }
        )

    def lines(
        self, title: str, *, ylabel: str, groups: list[str], series: list[dict[str, Any]]
    ) -> None:
        """Publish a chart with a line a series over the groups; else as `chart`."""
        self.chart(title, ylabel=ylabel, groups=groups, series=series)
        self.charts[-1]["kind"] = "lines"

    def scatter(
        self,
        title: str,
        *,
        xlabel: str,
        ylabel: str,
        series: list[dict[str, Any]],
        group_names: list[str],
    ) -> None:
        """Publish points for the report: each series has `name`, `x`, `y` and `group` of points."""
        self.charts.append(
            {
                "kind": "scatter",
                "title": title,
                "xlabel": xlabel,
                "ylabel": ylabel,
                "series": series,
                "group_names": group_names,
            }
        )

    def progress(self, done: int, total: int | None, unit: str, text: str = "") -> None:
        """Say how far the step is; also the point where an interrupted run stops."""
        self.check()
        self.report_progress(done, total, unit, text)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply a module-level function to plain items on the engine; results come in order."""
        for result in self.engine.map(function, items):
            self.check()
            yield result
