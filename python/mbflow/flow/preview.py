"""What people ask before they run: what would be done, what a pipeline says, what steps there are.

Example:
    >>> from mbflow.flow.preview import resolved_text
    >>> print(resolved_text({"mbflow": 1, "name": "demo"}), end="")
    mbflow: 1
    name: demo
"""

from __future__ import annotations

import io
import types
import typing
from typing import Any

from mbflow.errors import MbflowError
from mbflow.flow import inputs
from mbflow.flow.dataset import Dataset, damage
from mbflow.flow.engine import LocalEngine
from mbflow.flow.folder import RunFolder
from mbflow.flow.plan import estimates, fingerprints, state
from mbflow.flow.run import check_extras, open_sources
from mbflow.flow.source import Source
from mbflow.flow.step import Catalogue, Forecast, Step, described
from mbflow.flow.validate import Pipeline

__all__ = ["catalogue_markdown", "outline", "parameter_rows", "preview", "resolved_text"]


def preview(pipeline: Pipeline) -> dict[str, Any]:
    """What a run would do, as plain data; nothing is written.

    A step that cannot be foreseen has an `error`: the `text`, and the `exit_code` that the run
    would end with. What the other steps would come to stands there all the same.

    Raises:
        DataError: A source cannot be used.
        MissingExtraError: A step needs a package that is not installed.

    Example:
        >>> from mbflow.flow.preview import preview
        >>> from mbflow.steps import load
        >>> preview(load("pipelines/select.yaml"))["name"]  # doctest: +SKIP
        'select-letters'
    """
    check_extras(pipeline)
    folder = RunFolder(pipeline.folder)
    sources = open_sources(pipeline)
    with LocalEngine(threads=pipeline.run.threads or 4) as engine:
        manifests = {
            name: inputs.scan(
                source,
                pipeline.sources[name],
                before=inputs.known(folder.source(name)),
                map_=engine.map,
            )
            for name, source in sources.items()
        }
    prints = fingerprints(pipeline, {name: m["fingerprint"] for name, m in manifests.items()})
    sizes = {name: (source.num_positions, _in_memory(source)) for name, source in sources.items()}
    states = {
        name: state(folder.step(name), use, expected=prints[name])
        for name, use in pipeline.steps.items()
    }
    there = {
        name: found.manifest["rows"]
        for name, found in states.items()
        if found.done and found.manifest is not None
    }
    outputs = {name: Dataset(folder.step(name), states[name].manifest or {}) for name in there}
    forecasts, errors = _forecasts(pipeline, sources, outputs)
    foreseen = {name: one.rows for name, one in forecasts.items() if one.rows is not None}
    expected = estimates(pipeline, sizes, known={**foreseen, **there})
    steps = [
        {
            "name": name,
            "use": use.step.use,
            "from": list(use.inputs),
            "action": "reuse" if name in there else "run",
            "reason": states[name].reason,
            "fingerprint": prints[name],
            "rows": expected[name].rows,
            "memory": 0 if name in there else expected[name].memory,
            "forecast": None if forecast is None else forecast.figures,
            "tables": [] if forecast is None else list(forecast.tables),
            "notes": [] if forecast is None else list(forecast.notes),
            "error": errors.get(name),
        }
        for name, use in pipeline.steps.items()
        for forecast in [forecasts.get(name)]
    ]
    return {
        "name": pipeline.name,
        "folder": str(folder.path),
        "sources": [
            {
                "name": name,
                "files": len(manifest["files"]),
                "rows": manifest["rows"],
                "bytes": manifest["bytes"],
                "columns": len(manifest["columns"]),
                "fingerprint": manifest["fingerprint"],
            }
            for name, manifest in manifests.items()
        ],
        "steps": steps,
    }


def _forecasts(
    pipeline: Pipeline, sources: dict[str, Source], outputs: dict[str, Dataset]
) -> tuple[dict[str, Forecast], dict[str, dict[str, Any]]]:
    """What each step that can tell would come to, from what is there and from other forecasts.

    Of a step whose output is there, what it said of itself; and of those that fail, why.
    """
    asked = {item for use in pipeline.steps.values() if use.step.forecast for item in use.inputs}
    sound = {
        name: output
        for name, output in outputs.items()
        if name in asked and not damage(output.folder, output.manifest)
    }
    known: dict[str, Any] = {**sources, **sound}
    found: dict[str, Forecast] = {}
    errors: dict[str, dict[str, Any]] = {}
    for name, use in pipeline.steps.items():
        inputs = tuple(known.get(item) for item in use.inputs)
        if use.step.forecast is None or any(item is None for item in inputs):
            continue
        if name in outputs:
            manifest = outputs[name].manifest
            figures = manifest["meta"].get("figures", {})
            tables, notes = tuple(manifest["tables"]), tuple(manifest["notes"])
            found[name] = Forecast(figures=figures, tables=tables, notes=notes)
            continue
        source = None if use.source is None else sources[use.source]
        try:
            forecast = use.step.forecast(use.parameters, inputs, use.seed, source)
        except MbflowError as error:
            text = f"{use.where}: cannot be foreseen: {error}"
            errors[name] = {"text": text, "exit_code": error.exit_code}
            continue
        if forecast is not None:
            found[name] = forecast
            known[name] = forecast.value
    return found, errors


def _in_memory(source: Source) -> int:
    """Bytes of a source's rows in memory, with 16 bytes for a value of no fixed width."""
    total = 0
    for field in source.schema:
        try:
            total += max(1, field.type.bit_width // 8)
        except ValueError:
            total += 16
    return total * source.num_positions


def outline(pipeline: Pipeline) -> tuple[list[str], list[list[Any]]]:
    r"""The steps of a pipeline in running order, as a table of what the file sets.

    Example:
        >>> from mbflow.flow.preview import outline
        >>> from mbflow.flow.validate import parse
        >>> from mbflow.steps import CATALOGUE
        >>> pipeline = parse(
        ...     "mbflow: 1\n"
        ...     "name: demo\n"
        ...     "sources: {rows: {use: parquet, with: {path: a.parquet}}}\n"
        ...     "steps: {graph: {use: select.hash_graph, from: rows}}\n",
        ...     "demo.yaml",
        ...     catalogue=CATALOGUE,
        ... )
        >>> outline(pipeline)[1]
        [['rows', 'parquet', '', 'a.parquet'], ['graph', 'select.hash_graph', 'rows', '']]
    """
    rows: list[list[Any]] = []
    for name, source in pipeline.sources.items():
        path = source.path if isinstance(source.path, str) else ", ".join(source.path)
        rows.append([name, "parquet", "", path])
    for name, use in pipeline.steps.items():
        given = use.parameters.model_dump(mode="json", exclude_unset=True, by_alias=True)
        text = ", ".join(f"{key}={value}" for key, value in given.items())
        rows.append([name, use.step.use, ", ".join(use.inputs), text])
    return ["name", "use", "from", "with"], rows


def resolved_text(resolved: dict[str, Any]) -> str:
    """A resolved pipeline as YAML that `load` reads back.

    Example:
        >>> from mbflow.flow.preview import resolved_text
        >>> print(resolved_text({"run": {"out": "runs"}}), end="")
        run:
          out: runs
    """
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 100
    stream = io.StringIO()
    yaml.dump(resolved, stream)
    return stream.getvalue()


def parameter_rows(
    catalogue: Catalogue, name: str | None
) -> tuple[list[str], list[list[str]], str]:
    """The catalogue as a table, or the parameters of one step.

    Example:
        >>> from mbflow.flow.preview import parameter_rows
        >>> from mbflow.steps import CATALOGUE
        >>> columns, rows, title = parameter_rows(CATALOGUE, "select.hash_graph")
        >>> columns[:3], rows[2][:3]
        (['parameter', 'type', 'default'], ['neighbours', 'whole number, >= 1, <= 1000', '10'])
    """
    if name is None:
        return (
            ["step", "takes", "gives", "extra", "what it does"],
            [
                [step.use, described(step.takes), step.gives, step.extra or "", step.summary]
                for step in catalogue
            ],
            "Steps",
        )
    step = catalogue[name]
    return ["parameter", "type", "default", "meaning"], _parameters(step), f"{name}: {step.summary}"


def _parameters(step: Step) -> list[list[str]]:
    return _fields(step.parameters, "")


def _fields(model: Any, above: str) -> list[list[str]]:
    """A row for each field of a model, and below it one for each field of its own map."""
    rows = []
    for key, field in model.model_fields.items():
        default = "required" if field.is_required() else _value(field.default)
        limits = [str(limit) for limit in field.metadata if "=" in str(limit)]
        kind = _type(field.annotation) + "".join(f", {_limit(limit)}" for limit in limits)
        name = f"{above}{field.alias or key}"
        rows.append([name, kind, default, field.description or ""])
        for inner in (field.annotation, *typing.get_args(field.annotation)):
            if hasattr(inner, "model_fields"):
                rows += _fields(inner, f"{name}.")
    return rows


def _limit(text: str) -> str:
    """`Ge(ge=1)` as pydantic keeps it, as `>= 1`."""
    name, _, value = text.partition("(")[2].rstrip(")").partition("=")
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "length >="}
    return f"{signs.get(name, name)} {value}"


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _type(annotation: Any) -> str:
    names = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    if annotation in names:
        return names[annotation]
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(str(item) for item in typing.get_args(annotation))
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        parts = [_type(a) for a in typing.get_args(annotation) if a is not type(None)]
        return " or ".join(parts)
    if typing.get_origin(annotation) is list:
        return f"list of {_type(typing.get_args(annotation)[0])}"
    if typing.get_origin(annotation) is tuple:
        return f"[{', '.join(map(_type, typing.get_args(annotation)))}]"
    if hasattr(annotation, "model_fields"):
        return "map"
    return str(getattr(annotation, "__name__", annotation))


def catalogue_markdown(catalogue: Catalogue) -> str:
    """The catalogue as the text of `pipelines/steps.md`.

    Example:
        >>> from mbflow.flow.preview import catalogue_markdown
        >>> from mbflow.steps import CATALOGUE
        >>> catalogue_markdown(CATALOGUE).splitlines()[0]
        '# Steps'
    """
    parts = ["# Steps\n\nMade by `mbflow steps --markdown`; do not edit.\n"]
    for step in catalogue:
        needs = "May need" if callable(step.modules) else "Needs"
        extra = f" {needs} the extra `{step.extra}`." if step.extra else ""
        parts.append(f"\n## {step.use}\n\n{step.summary}{extra}\n")
        parts.append(
            f"\nTakes {described(step.takes)}; gives {step.gives}. Version {step.version}.\n"
        )
        parts.append("\n| parameter | type | default | meaning |\n| --- | --- | --- | --- |\n")
        parts += [f"| `{k}` | {t} | {d} | {m} |\n" for k, t, d, m in _parameters(step)]
    return "".join(parts)
