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

from mbflow.flow import inputs
from mbflow.flow.engine import LocalEngine
from mbflow.flow.folder import RunFolder
from mbflow.flow.plan import estimates, fingerprints, state
from mbflow.flow.run import check_extras, open_sources
from mbflow.flow.source import Source
from mbflow.flow.step import Catalogue, Step, described
from mbflow.flow.validate import Pipeline

__all__ = ["catalogue_markdown", "outline", "parameter_rows", "preview", "resolved_text"]


def preview(pipeline: Pipeline) -> dict[str, Any]:
    """What a run would do, as plain data; nothing is written.

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
    expected = estimates(pipeline, sizes, known=there)
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
        }
        for name, use in pipeline.steps.items()
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
    rows = []
    for key, field in step.parameters.model_fields.items():
        default = "required" if field.is_required() else _value(field.default)
        limits = [str(limit) for limit in field.metadata if "=" in str(limit)]
        kind = _type(field.annotation) + "".join(f", {_limit(limit)}" for limit in limits)
        rows.append([field.alias or key, kind, default, field.description or ""])
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
        extra = f" Needs the extra `{step.extra}`." if step.extra else ""
        parts.append(f"\n## {step.use}\n\n{step.summary}{extra}\n")
        parts.append(
            f"\nTakes {described(step.takes)}; gives {step.gives}. Version {step.version}.\n"
        )
        parts.append("\n| parameter | type | default | meaning |\n| --- | --- | --- | --- |\n")
        parts += [f"| `{k}` | {t} | {d} | {m} |\n" for k, t, d, m in _parameters(step)]
    return "".join(parts)
