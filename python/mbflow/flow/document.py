r"""A pipeline file as plain data in which every key and value still knows its line and column.

YAML 1.2 is read with ruamel.yaml's parser, and nothing in the file can run code: tags, anchors,
aliases, merge keys and several documents are refused, sizes are capped. `${vars.x}` and `${env.X}`
are filled in after parsing, so a value can never change the structure around it. Problems are
collected, not raised one by one.

Example:
    >>> from mbflow.flow.document import Document
    >>> document = Document.parse("a:\n  b: 1\n", "x.yaml")
    >>> document.data, str(document.place(("a", "b")))
    ({'a': {'b': 1}}, 'x.yaml:2:6')
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["Document", "Place", "Problems", "nearest"]

Path = tuple[str | int, ...]

_MOST_BYTES: Final = 1 << 20
_MOST_NODES: Final = 100_000
_MOST_DEPTH: Final = 32
_REFERENCE: Final = re.compile(r"\$(\$?)\{([^{}]*)\}")
_NAME: Final = re.compile(r"(vars|env)\.([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something stands: a file with 1-based line and column, or a `--set` argument.

    Example:
        >>> from mbflow.flow.document import Place
        >>> str(Place("a.yaml", 3, 7))
        'a.yaml:3:7'
    """

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(slots=True)
class Problems:
    """All that is wrong with one file, each with its place.

    Example:
        >>> from mbflow.flow.document import Place, Problems
        >>> problems = Problems()
        >>> problems.add(Place("a.yaml", 1, 1), "the file is empty")
        >>> problems.lines()
        ['a.yaml:1:1: the file is empty']
    """

    found: list[tuple[Place, str]] = field(default_factory=list)

    def add(self, place: Place, message: str) -> None:
        """Note one problem."""
        if (place, message) not in self.found:
            self.found.append((place, message))

    def lines(self) -> list[str]:
        """One line for each problem, in the order of the file."""
        ordered = sorted(self.found, key=lambda item: item[0])
        return [f"{place}: {message}" for place, message in ordered]


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known: the nearest known one, and the list of all.

    Example:
        >>> from mbflow.flow.document import nearest
        >>> nearest("neighbors", ["neighbours", "bits"])
        'did you mean `neighbours`? known: bits, neighbours'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    listed = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
    if not names:
        return "none is known here"
    return f"did you mean `{close[0]}`? known: {listed}" if close else f"known: {listed}"


class Document:
    r"""A parsed file: plain data, and the places of its keys and values.

    Example:
        >>> from mbflow.flow.document import Document
        >>> Document.parse("a: [1, 1]\nb: on\n", "x.yaml").data
        {'a': [1, 1], 'b': 'on'}
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.data: Any = None
        self.problems = Problems()
        self._values: dict[Path, Place] = {}
        self._keys: dict[Path, Place] = {}
        self._stand_ins: set[Place] = set()

    @property
    def unreadable(self) -> set[Place]:
        """Where a value could not be read or filled in, so that something else stands for it."""
        return {place for place, _ in self.problems.found} | self._stand_ins

    def place(self, path: Path, *, key: bool = False) -> Place:
        """The place of a value or of its key; where it has none, of what it stands in."""
        if key and path in self._keys:
            return self._keys[path]
        while path and path not in self._values:
            path = path[:-1]
        return self._values.get(path, Place(self.file, 1, 1))

    @classmethod
    def parse(cls, text: str | bytes, file: str) -> Document:
        """Read YAML text; what is wrong with it is in `problems`.

        Args:
            text: The file's content.
            file: The name to give in problems.
        """
        document = cls(file)
        plain = document._decode(text)
        if plain is not None:
            document._read(plain)
        return document

    def _decode(self, raw: str | bytes) -> str | None:
        if len(raw) > _MOST_BYTES:
            self.problems.add(
                Place(self.file, 1, 1),
                f"the file has {len(raw)} bytes; a pipeline has at most {_MOST_BYTES}",
            )
            return None
        if isinstance(raw, bytes):
            try:
                return raw.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                before = raw[: error.start]
                line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
                self.problems.add(
                    Place(self.file, line, column), "not UTF-8 text; save the file as UTF-8"
                )
                return None
        return raw

    def _read(self, text: str) -> None:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError
        from ruamel.yaml.reader import ReaderError

        try:
            if not self._allowed(YAML(typ="safe", pure=True).parse(text)):
                return
            yaml = YAML(typ="safe", pure=True)
            node = yaml.compose(text)
            if node is not None:
                self.data = self._convert(node, (), yaml.constructor.construct_object)
            if self.data is None and not self.problems.found:
                self.problems.add(Place(self.file, 1, 1), "the file is empty; expected a pipeline")
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = Place(self.file, 1, 1) if mark is None else self._at(mark)
            context = f" {error.context}" if error.context else ""
            self.problems.add(place, f"not valid YAML: {error.problem}{context}")
        except ReaderError as error:
            before = text[: error.position]
            line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
            self.problems.add(
                Place(self.file, line, column),
                f"the control character {error.character!r} is not allowed in YAML",
            )
        except (YAMLError, RecursionError) as error:
            self.problems.add(Place(self.file, 1, 1), f"not valid YAML: {error}")

    def _at(self, mark: Any) -> Place:
        return Place(self.file, mark.line + 1, mark.column + 1)

    def _allowed(self, events: Iterator[Any]) -> bool:
        """Refuse what a pipeline has no use for, before anything is built from the text."""
        depth = nodes = documents = 0
        for event in events:
            kind = type(event).__name__
            nodes += kind in {"ScalarEvent", "MappingStartEvent", "SequenceStartEvent"}
            depth += kind in {"MappingStartEvent", "SequenceStartEvent"}
            depth -= kind in {"MappingEndEvent", "SequenceEndEvent"}
            documents += kind == "DocumentStartEvent"
            message = None
            if documents > 1:
                message = "a second YAML document starts here; a pipeline is one document"
            elif kind == "DocumentStartEvent" and event.version not in (None, (1, 2)):
                version = ".".join(map(str, event.version))
                message = f"%YAML {version} is declared; pipelines are YAML 1.2"
            elif getattr(event, "anchor", None):
                message = "anchors and aliases (& and *) are not allowed; use `vars` and ${vars.x}"
            elif getattr(event, "tag", None):
                message = f"the tag {event.tag} is not allowed; write plain values"
            elif depth > _MOST_DEPTH:
                message = f"nested more than {_MOST_DEPTH} levels deep"
            elif nodes > _MOST_NODES:
                message = f"more than {_MOST_NODES} values"
            if message is not None:
                self.problems.add(self._at(event.start_mark), message)
                if documents > 1 or depth > _MOST_DEPTH or nodes > _MOST_NODES:
                    return False
        return not self.problems.found

    def _convert(self, node: Any, path: Path, construct: Callable[[Any], Any]) -> Any:
        self._values[path] = self._at(node.start_mark)
        if node.id == "sequence":
            return [
                self._convert(item, (*path, index), construct)
                for index, item in enumerate(node.value)
            ]
        if node.id == "mapping":
            return self._convert_map(node, path, construct)
        if node.tag.endswith((":str", ":timestamp")):
            return node.value
        try:
            value = construct(node)
        except (ValueError, OverflowError):
            value = math.nan
        if isinstance(value, float) and not math.isfinite(value):
            self.problems.add(self._values[path], f"{node.value} is not a finite number")
            return 0.0
        return value

    def _convert_map(
        self, node: Any, path: Path, construct: Callable[[Any], Any]
    ) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = self._at(key_node.start_mark)
            if key_node.id != "scalar" or not key_node.tag.endswith((":str", ":merge")):
                found = "a list or map" if key_node.id != "scalar" else key_node.value
                self.problems.add(place, f"a key must be text, found {found}; quote it")
                continue
            key = key_node.value
            if key in result:
                first = self._keys[(*path, key)]
                self.problems.add(
                    place, f"the key `{key}` stands twice; first at line {first.line}"
                )
                continue
            self._keys[(*path, key)] = place
            result[key] = self._convert(value_node, (*path, key), construct)
            if result[key] is None and not value_node.value:
                # The parser puts a value that is not there where the next thing stands.
                self._values[(*path, key)] = place
        return result

    def assign(self, assignments: Iterable[str]) -> None:
        """Apply `--set` arguments, each `path=value` with a dotted path and a YAML value.

        A path goes through maps by key and through lists by number; its last part may be new, so
        that a parameter that the file leaves out can be given; so may the maps below `with`.
        """
        for text in assignments:
            place = Place(f"--set {text}", 0, 0)
            name, equals, value = text.partition("=")
            if not equals or not name.strip():
                self.problems.add(place, "expected path=value, such as vars.keep=0.1")
                continue
            # As the value of a key, so that null is a value and not an empty document.
            other = Document.parse(f"value: {value}", str(place))
            if value.strip() and other.problems.found:
                self.problems.add(place, other.problems.found[0][1])
                continue
            found = other.data["value"] if value.strip() else ""
            self._assign(tuple(name.strip().split(".")), found, place)

    def _assign(self, parts: tuple[str, ...], value: Any, place: Place) -> None:
        here: Any = self.data
        path: Path = ()
        for depth, part in enumerate(parts):
            last = depth == len(parts) - 1
            if isinstance(here, list):
                if not part.isdigit() or int(part) >= len(here):
                    where = ".".join(parts[:depth])
                    self.problems.add(
                        place, f"`{where}` is a list of {len(here)}; no item `{part}`"
                    )
                    return
                index: str | int = int(part)
            elif isinstance(here, dict):
                index = part
                if part not in here and not last:
                    if part in {"with", "vars", "run"} or "with" in parts[:depth]:
                        here[part] = {}
                        self._move((*path, part), place)
                    else:
                        where = ".".join(parts[:depth]) or "the pipeline"
                        self.problems.add(
                            place, f"no `{part}` in {where}; {nearest(part, map(str, here))}"
                        )
                        return
            else:
                where = ".".join(parts[:depth]) or "the pipeline"
                self.problems.add(place, f"`{where}` is not a map; nothing can be set in it")
                return
            path = (*path, index)
            if last and parts[:depth] == ("vars",) and part not in here:
                self.problems.add(place, f"no `{part}` in vars; {nearest(part, map(str, here))}")
                return
            if last:
                here[index] = value
                self._move(path, place)
                return
            here = here[index]

    def _move(self, path: Path, place: Place) -> None:
        """Make a value that was set from outside, and all in it, stand at the given place."""
        for known in (self._values, self._keys):
            for inner in [other for other in known if other[: len(path)] == path]:
                del known[inner]
        self._values[path] = self._keys[path] = place

    def substitute(self, environment: Mapping[str, str]) -> None:
        """Fill in `${vars.x}` and `${env.X}`; what cannot be filled in is a problem.

        Args:
            environment: The process environment; only names listed under `env:` are looked at.
        """
        if not isinstance(self.data, dict):
            return
        listed = self.data.get("env", [])
        names = (
            [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
        )
        allowed = {name: environment.get(name) for name in names}
        variables = self.data.get("vars")
        variables = variables if isinstance(variables, dict) else {}
        filled = {
            key: self._fill(value, ("vars", key), None, allowed) for key, value in variables.items()
        }
        self.data = {
            key: filled
            if key == "vars" and isinstance(value, dict)
            else value
            if key == "env"
            else self._fill(value, (key,), filled, allowed)
            for key, value in self.data.items()
        }

    def _fill(
        self,
        value: Any,
        path: Path,
        variables: dict[str, Any] | None,
        allowed: dict[str, str | None],
    ) -> Any:
        if isinstance(value, dict):
            return {k: self._fill(v, (*path, k), variables, allowed) for k, v in value.items()}
        if isinstance(value, list):
            return [self._fill(v, (*path, i), variables, allowed) for i, v in enumerate(value)]
        if not isinstance(value, str) or "$" not in value:
            return value
        place = self.place(path)
        whole = _REFERENCE.fullmatch(value)
        if whole and not whole[1]:
            return self._look_up(whole[2], place, variables, allowed)

        def text(match: re.Match[str]) -> str:
            if match[1]:
                return match[0][1:]
            found = self._look_up(match[2], place, variables, allowed)
            if isinstance(found, (dict, list)):
                self.problems.add(
                    place, f"${{{match[2]}}} is a list or map and cannot stand inside a text"
                )
                return ""
            if isinstance(found, bool):
                return "true" if found else "false"
            return str(found)

        if "${" in _REFERENCE.sub("", value):
            self.problems.add(
                place, "`${` without its `}`; expected ${vars.NAME} or ${env.NAME}, or $${ for `${`"
            )
            return value
        return _REFERENCE.sub(text, value)

    def _look_up(
        self,
        name: str,
        place: Place,
        variables: dict[str, Any] | None,
        allowed: dict[str, str | None],
    ) -> Any:
        match = _NAME.fullmatch(name.strip())
        if match is None:
            self.problems.add(
                place,
                f"${{{name}}} is not understood; expected ${{vars.NAME}}, ${{env.NAME}} or "
                "${env.NAME:-default}",
            )
            return ""
        kind, key, default = match.groups()
        if kind == "vars":
            return self._variable(key, default, place, variables)
        if key not in allowed:
            self.problems.add(
                place,
                f"${{env.{key}}}: only names listed under `env:` can be used; add {key} there",
            )
            return ""
        value = allowed[key] if allowed[key] is not None else default
        if value is None:
            self.problems.add(
                place,
                f"${{env.{key}}}: the environment variable {key} is not set; set it or write "
                f"${{env.{key}:-default}}",
            )
            return ""
        if any(ord(character) < 32 for character in value):
            self.problems.add(
                place, f"${{env.{key}}}: its value has line breaks or control characters"
            )
            return ""
        return value

    def _variable(
        self, key: str, default: str | None, place: Place, variables: dict[str, Any] | None
    ) -> Any:
        if default is not None:
            self.problems.add(
                place, f"${{vars.{key}:-...}}: a default is for env only; give it in vars"
            )
        elif variables is None:
            self.problems.add(
                place,
                f"${{vars.{key}}}: a value in `vars` cannot refer to another; only to ${{env.X}}",
            )
        elif key not in variables:
            self.problems.add(
                place, f"${{vars.{key}}}: no such name in `vars`; {nearest(key, variables)}"
            )
        else:
            if self.place(("vars", key)) in self.unreadable:
                self._stand_ins.add(place)
            return variables[key]
        return ""
