"""From a pipeline file to a checked `Pipeline`, or to all that is wrong with it at once.

Example:
    >>> from mbflow.flow.validate import parse
    >>> from mbflow.steps import CATALOGUE
    >>> parse("mbflow: 2", "x.yaml", catalogue=CATALOGUE)
    Traceback (most recent call last):
    ...
    mbflow.errors.PipelineError: x.yaml:1:1: `name` is missing: The pipeline's name; also that of \
its run folder.
    x.yaml:1:1: `sources` is missing: What is read, by name.
    x.yaml:1:1: `steps` is missing: What is done, by name.
    x.yaml:1:9: expected 1, found 2
"""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mbflow.errors import PipelineError
from mbflow.flow.document import Document, nearest
from mbflow.flow.messages import counted, explain, shown
from mbflow.flow.spec import ParquetSpec, PipelineSpec, RunSpec, StepSpec
from mbflow.flow.step import Catalogue, Step, described

__all__ = ["Pipeline", "StepUse", "load", "parse"]

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class StepUse:
    """A step as one pipeline uses it: its entry, its inputs by name and its checked parameters.

    Example:
        >>> from mbflow.flow.validate import StepUse
        >>> "parameters" in StepUse.__dataclass_fields__
        True
    """

    name: str
    step: Step
    inputs: tuple[str, ...]
    source: str | None
    parameters: BaseModel
    seed: int
    place: str

    @property
    def where(self) -> str:
        """The step's name and its place in the file, for messages."""
        return f"{self.name} ({self.place})"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline whose every name, type and value was checked. Steps stand in running order.

    Example:
        >>> from mbflow.flow.validate import Pipeline
        >>> Pipeline.__dataclass_fields__["steps"].type
        'dict[str, StepUse]'
    """

    name: str
    file: str
    seed: int
    sources: dict[str, ParquetSpec]
    steps: dict[str, StepUse]
    run: RunSpec
    resolved: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The run folder: `run.out` / name."""
        return Path(self.run.out).expanduser() / self.name


def load(
    path: str | os.PathLike[str],
    catalogue: Catalogue,
    *,
    assignments: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Pipeline:
    """Read and check a pipeline file.

    Args:
        path: The YAML file.
        catalogue: The steps it may use.
        assignments: `--set` arguments, each `path=value`.
        environment: For `${env.X}`; default: the process environment.

    Raises:
        PipelineError: With one line for each problem, in the order of the file.

    Example:
        >>> from mbflow.flow.validate import load
        >>> from mbflow.steps import CATALOGUE
        >>> load("no-such.yaml", CATALOGUE)
        Traceback (most recent call last):
        ...
        mbflow.errors.PipelineError: no-such.yaml: cannot be read: No such file or directory
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read: {error.strerror}") from None
    return parse(
        text, os.fspath(path), catalogue=catalogue, assignments=assignments, environment=environment
    )


def parse(
    text: str | bytes,
    file: str,
    *,
    catalogue: Catalogue,
    assignments: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Pipeline:
    r"""Like `load`, from text.

    Example:
        >>> from mbflow.flow.validate import parse
        >>> from mbflow.steps import CATALOGUE
        >>> pipeline = parse(
        ...     "mbflow: 1\nname: demo\n"
        ...     "sources: {rows: {use: parquet, with: {path: a.parquet, label: y}}}\n"
        ...     "steps: {graph: {use: select.hash_graph, from: rows}}\n",
        ...     "demo.yaml", catalogue=CATALOGUE)
        >>> list(pipeline.steps)
        ['graph']
    """
    document = Document.parse(text, file)
    if document.data is not None:
        document.assign(assignments)
        document.substitute(os.environ if environment is None else environment)
    if document.data is None:
        raise PipelineError(document.problems.lines())
    return _Checker(document, catalogue).check()


class _Checker:
    def __init__(self, document: Document, catalogue: Catalogue) -> None:
        self.document = document
        self.problems = document.problems
        self.catalogue = catalogue
        # What could not even be read or filled in is not judged again by its stand-in.
        self.unreadable = document.unreadable

    def check(self) -> Pipeline:
        data = self.document.data
        if not isinstance(data, dict):
            self._add((), f"expected a map with `mbflow`, `name`, ..., found {shown(data)}")
            raise PipelineError(self.problems.lines())
        spec = self._model(PipelineSpec, data, ())
        self._plugins(data)
        uses = self._steps(data)
        if self.problems.found or spec is None:
            raise PipelineError(self.problems.lines())
        ordered = self._ordered(uses, spec)
        if self.problems.found:
            raise PipelineError(self.problems.lines())
        return Pipeline(
            name=spec.name,
            file=self.document.file,
            seed=spec.seed,
            sources={name: source.with_ for name, source in spec.sources.items()},
            steps={use.name: use for use in ordered},
            run=spec.run,
            resolved=_resolved(spec, ordered),
        )

    def _add(self, path: tuple[str | int, ...], message: str, *, key: bool = False) -> None:
        place = self.document.place(path, key=key)
        if place not in self.unreadable:
            self.problems.add(place, message)

    def _model(self, model: type[Model], data: Any, at: tuple[str | int, ...]) -> Model | None:
        try:
            return model.model_validate(data)
        except ValidationError as error:
            found: dict[tuple[tuple[str | int, ...], bool], list[str]] = {}
            for item in _without_vain_branches([dict(item) for item in error.errors()]):
                path, message, key = self._translate(model, item, data, at)
                found.setdefault((path, key), []).append(message)
            for (path, key), messages in found.items():
                for message in _joined(messages):
                    self._add(path, message, key=key)
            return None

    def _translate(
        self, model: type[BaseModel], item: dict[str, Any], data: Any, at: tuple[str | int, ...]
    ) -> tuple[tuple[str | int, ...], str, bool]:
        """Where a problem that pydantic found stands, what to say, and whether it is the key."""
        path, inner, about = _follow(model, item["loc"], data)
        full = (*at, *path)
        kind, context = item["type"], item.get("ctx", {})
        name = str(item["loc"][-1]) if item["loc"] else ""
        if kind == "extra_forbidden":
            known = inner.model_fields if inner is not None else {}
            names = [field.alias or key for key, field in known.items()]
            return full, f"unknown key `{name}`; {nearest(name, names)}", True
        if kind == "missing" and isinstance(item["loc"][-1], int):
            return full[:-1], f"expected {item['loc'][-1] + 1} entries, found fewer", False
        if kind == "missing":
            return full[:-1], f"`{name}` is missing{_described(about)}", False
        key = item["loc"][-1:] == ("[key]",)
        return full, explain(kind, context, item["input"], item["msg"]), key

    def _plugins(self, data: dict[str, Any]) -> None:
        run = data.get("run")
        names = run.get("plugins") if isinstance(run, dict) else None
        if not isinstance(names, list) or not names:
            return
        from importlib.metadata import entry_points

        found = {point.name: point for point in entry_points(group="mbflow.steps")}
        for index, name in enumerate(names):
            if name not in found:
                self._add(
                    ("run", "plugins", index),
                    f"no installed package offers the plug-in `{name}` (entry point group "
                    f"mbflow.steps); {nearest(str(name), found)}",
                )
                continue
            try:
                self.catalogue = self.catalogue.with_steps(found[name].load())
            except Exception as error:  # noqa: BLE001  - foreign code may raise anything
                self._add(("run", "plugins", index), f"the plug-in `{name}` does not load: {error}")

    def _steps(self, data: dict[str, Any]) -> dict[str, tuple[Step, BaseModel | None]]:
        result: dict[str, tuple[Step, BaseModel | None]] = {}
        steps = data.get("steps")
        for name, step in steps.items() if isinstance(steps, dict) else ():
            use = step.get("use") if isinstance(step, dict) else None
            if not isinstance(use, str):
                continue
            if use not in self.catalogue:
                self._add(
                    ("steps", name, "use"),
                    f"no step `{use}` in the catalogue; {nearest(use, self.catalogue.names())}",
                )
                continue
            entry = self.catalogue[use]
            given = step.get("with", {})
            parameters = None
            if isinstance(given, dict):
                parameters = self._model(entry.parameters, given, ("steps", name, "with"))
            result[name] = (entry, parameters)
        if isinstance(steps, dict):
            self._references(data, result)
        return result

    def _references(
        self, data: dict[str, Any], uses: dict[str, tuple[Step, BaseModel | None]]
    ) -> None:
        """Every name in `from` exists, is of the kind the step takes, and the count is right."""
        sources, steps = data.get("sources"), data["steps"]
        sources = sources if isinstance(sources, dict) else {}
        for name in sorted(set(sources) & set(steps), key=str):
            self._add(
                ("steps", name),
                f"`{name}` is a source already; give the step another name",
                key=True,
            )
        kinds = dict.fromkeys(sources, "rows")
        kinds |= {name: entry.gives for name, (entry, _) in uses.items()}
        for name, step in steps.items():
            given = step.get("from") if isinstance(step, dict) else None
            names = [given] if isinstance(given, str) else given
            if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
                continue
            paths = [
                ("steps", name, "from", *([i] if given is names else [])) for i in range(len(names))
            ]
            for item, path in zip(names, paths, strict=True):
                if item not in sources and item not in steps:
                    self._add(
                        path,
                        f"no source or step `{item}`; {nearest(item, {*sources, *steps} - {name})}",
                    )
                elif item == name:
                    self._add(path, f"the step `{name}` takes its own output")
            if name not in uses:
                continue
            takes = uses[name][0].takes
            needed = sum(not wanted.endswith("?") for wanted in takes)
            if not needed <= len(names) <= len(takes):
                count = counted(len(takes), "input")
                if needed < len(takes):
                    count = f"{needed} to {count}"
                self._add(
                    ("steps", name, "from"),
                    f"{uses[name][0].use} takes {count} ({described(takes)}), found {len(names)}",
                )
                continue
            for item, path, wanted in zip(names, paths, takes, strict=False):
                allowed = wanted.rstrip("?").split("|")
                if item in kinds and item != name and kinds[item] not in allowed:
                    fits = sorted(other for other, kind in kinds.items() if kind in allowed)
                    hint = f"; `{fits[0]}` would fit" if fits else ""
                    self._add(
                        path,
                        f"{uses[name][0].use} takes {' or '.join(map(_article, allowed))} here, "
                        f"and `{item}` gives {kinds[item]}{hint}",
                    )

    def _ordered(
        self, uses: dict[str, tuple[Step, BaseModel | None]], spec: PipelineSpec
    ) -> list[StepUse]:
        """Steps in running order: each after its inputs, else in the order of the file."""
        inputs = {name: _names(step) for name, step in spec.steps.items()}
        upstream: dict[str, frozenset[str]] = {name: frozenset({name}) for name in spec.sources}
        ordered: list[StepUse] = []
        waiting = list(spec.steps)
        while waiting:
            ready = [n for n in waiting if all(item in upstream for item in inputs[n])]
            if not ready:
                first = waiting[0]
                self._add(("steps", first, "from"), f"a circle: {_circle(first, inputs)}")
                return ordered
            name = ready[0]
            waiting.remove(name)
            upstream[name] = frozenset().union(*(upstream[item] for item in inputs[name]))
            entry, parameters = uses[name]
            source = None
            if entry.source:
                if len(upstream[name]) != 1:
                    found = ", ".join(sorted(upstream[name]))
                    self._add(
                        ("steps", name, "from"),
                        f"{entry.use} reads the rows of the one source upstream; found {found}",
                    )
                    continue
                (source,) = upstream[name]
            self._needs_label(name, entry, upstream[name], spec)
            assert parameters is not None
            if entry.check is not None:
                above = tuple(uses[item][1] if item in uses else None for item in inputs[name])
                wrong = entry.check(parameters, above)
                if wrong is not None:
                    self._add(("steps", name, "with", *wrong[0]), wrong[1])
            seed = spec.steps[name].seed
            ordered.append(
                StepUse(
                    name,
                    entry,
                    inputs[name],
                    source,
                    parameters,
                    spec.seed if seed is None else seed,
                    str(self.document.place(("steps", name), key=True)),
                )
            )
        return ordered

    def _needs_label(
        self, name: str, entry: Step, sources: frozenset[str], spec: PipelineSpec
    ) -> None:
        if not entry.label:
            return
        for source in sorted(sources):
            if spec.sources[source].with_.label is None:
                self._add(
                    ("sources", source, "with"),
                    f"`label` is missing: the step `{name}` ({entry.use}) needs the class of each "
                    f"row",
                )


def _without_vain_branches(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a union such as `text or list of text`, keep the branch that got furthest."""

    def branch(item: dict[str, Any]) -> tuple[tuple[str | int, ...], int] | None:
        for depth, part in enumerate(item["loc"]):
            if _is_branch(part):
                return item["loc"][:depth], len(item["loc"]) - depth
        return None

    furthest: dict[tuple[str | int, ...], int] = {}
    for item in items:
        if (found := branch(item)) is not None:
            furthest[found[0]] = max(furthest.get(found[0], 0), found[1])
    return [
        item for item in items if (found := branch(item)) is None or found[1] == furthest[found[0]]
    ]


def _is_branch(part: str | int) -> bool:
    return isinstance(part, str) and (
        part in {"str", "int", "float", "bool"}
        or part.startswith(
            ("list[", "tuple[", "literal[", "constrained-", "function-", "nullable[")
        )
    )


def _joined(messages: list[str]) -> list[str]:
    """Make `expected a or b, found x` of messages that expect different types of the same value."""
    parts = [message.partition(", found ") for message in messages]
    if len(messages) > 1 and all(
        head.startswith("expected ") and tail == parts[0][2] for head, _, tail in parts
    ):
        wanted = list(dict.fromkeys(head.removeprefix("expected ") for head, _, _ in parts))
        return [f"expected {' or '.join(wanted)}, found {parts[0][2]}"]
    return list(dict.fromkeys(messages))


def _names(step: StepSpec) -> tuple[str, ...]:
    return (step.from_,) if isinstance(step.from_, str) else tuple(step.from_)


def _circle(first: str, inputs: dict[str, tuple[str, ...]]) -> str:
    """The names along one circle of steps that wait for each other."""
    seen = [first]
    while True:
        following = next((n for n in inputs[seen[-1]] if n in inputs), None)
        if following is None:
            return " <- ".join(seen)
        if following in seen:
            return " <- ".join([*seen[seen.index(following) :], following])
        seen.append(following)


def _resolved(spec: PipelineSpec, ordered: list[StepUse]) -> dict[str, Any]:
    data = spec.model_dump(mode="json", by_alias=True)
    for use in ordered:
        data["steps"][use.name]["with"] = use.parameters.model_dump(mode="json", by_alias=True)
        data["steps"][use.name]["seed"] = use.seed
    return data


def _follow(
    model: type[BaseModel], location: Iterable[str | int], data: Any
) -> tuple[tuple[str | int, ...], type[BaseModel] | None, Any]:
    """Follow pydantic's location through models, dicts and lists; skip its marks for union members.

    Returns the path in the data, the model that holds the last part, and that part's field.
    """
    path: list[str | int] = []
    here: Any = data
    holder: type[BaseModel] | None = model
    inner: Any = model
    about: Any = None
    parts = list(location)
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "[key]":
            continue
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            holder = inner
            fields = {field.alias or key: field for key, field in inner.model_fields.items()}
            about = fields.get(str(part))
            inner = None if about is None else _without_none(about.annotation)
            path.append(part)
            here = here.get(part) if isinstance(here, dict) else None
        elif (isinstance(here, dict) and part in here) or (
            isinstance(here, list) and isinstance(part, int) and part < len(here)
        ):
            path.append(part)
            here, inner = here[part], _member(inner)  # type: ignore[index]
        elif last and not _is_branch(part):
            path.append(part)
    return tuple(path), holder, about


def _without_none(annotation: Any) -> Any:
    """The model of `Model | None`; any other annotation as it is."""
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else annotation
    return annotation


def _member(annotation: Any) -> Any:
    """The type of the values of a dict or list annotation, where that is a model."""
    for argument in _arguments(annotation):
        if isinstance(argument, type) and issubclass(argument, BaseModel):
            return argument
    return None


def _arguments(annotation: Any) -> Iterator[Any]:
    for argument in typing.get_args(annotation):
        yield argument
        if isinstance(argument, types.UnionType) or typing.get_origin(argument) is not None:
            yield from _arguments(argument)


def _described(about: Any) -> str:
    text = getattr(about, "description", None)
    return f": {text}" if text else ""


def _article(kind: str) -> str:
    return {"rows": "the rows of a source"}.get(kind, f"what gives {kind}")
