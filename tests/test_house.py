"""The rules of the house: size of files, imports, docs, examples, and papers that stay true."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

import mbflow
import mbflow._native

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {".rs", ".py", ".pyi", ".cu", ".cpp", ".h"}
TEXTS = SOURCES | {".toml", ".md", ".yaml", ".yml", ".json", ".j2", ".txt", ""}
LONGEST = 600
LEFT_OUT = {"target", "dist", "runs", "node_modules"}
STUBS = {
    f"mbflow._native.{path.stem}".removesuffix(".__init__"): path
    for path in sorted((ROOT / "python/mbflow/_native").glob("*.pyi"))
}
MODULES = sorted(
    {found.name for found in pkgutil.walk_packages(mbflow.__path__, "mbflow.")}
    - {"mbflow.__main__"}
    | set(STUBS)
)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@cache
def repository_files() -> list[Path]:
    """What is or would be committed; without git, all that no build made."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
        found = [ROOT / name for name in listed.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        found = [
            path
            for path in ROOT.rglob("*")
            if not any(
                part.startswith(".") or part in LEFT_OUT for part in path.relative_to(ROOT).parts
            )
        ]
    return sorted(path for path in found if path.is_file())


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_no_source_file_is_longer_than_600_lines() -> None:
    sizes = {p: len(_lines(p)) for p in repository_files() if p.suffix in SOURCES}
    assert len(sizes) > 50
    assert {path.suffix for path in sizes} >= {".rs", ".py", ".pyi"}
    assert {str(p.relative_to(ROOT)): n for p, n in sizes.items() if n > LONGEST} == {}


def test_nothing_is_left_unfinished_or_bound_to_one_machine() -> None:
    # Each with a class of one letter, so that this file does not find itself.
    marks = re.compile(
        r"\b(?:[T]ODO|[F]IXME|[X]XX)\b|(?:[t]odo|[u]nimplemented)!\(|[N]otImplementedError"
    )
    machine = re.compile(r"(?:^|[^\w.])/(?:work|farm|home|root|Users)/")
    looked_at = 0
    found = []
    for path in repository_files():
        if path.suffix not in TEXTS or path.name == "LICENSE":
            continue
        looked_at += 1
        for number, line in enumerate(_lines(path), 1):
            if marks.search(line) or machine.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert looked_at > 60
    assert found == []


def _python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, check=True, text=True, cwd=ROOT).stdout


def test_import_mbflow_loads_nothing_heavy() -> None:
    loaded = set(_python("import mbflow, sys; print(*sorted(sys.modules))").split())
    assert "mbflow._native" in loaded
    heavy = {"torch", "ray", "cupy", "dgl", "polars", "pydantic", "pyarrow", "pandas", "sklearn",
             "matplotlib", "typer", "rich", "ruamel.yaml", "jinja2"}  # fmt: skip
    assert loaded & heavy == set()


def test_import_mbflow_costs_under_50_ms_over_bare_python() -> None:
    # The cost of the import alone, measured inside a fresh interpreter; the best of many starts,
    # since other work on the machine can only add to it.
    code = (
        "import time; begin = time.perf_counter(); import mbflow; "
        "print(time.perf_counter() - begin)"
    )
    assert min(float(_python(code)) for _ in range(9)) < 0.050


def test_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    kept = re.search(r"(\d+) kept, 0 broken", result.stdout)
    assert kept, result.stdout
    assert int(kept[1]) >= 4


@cache
def _stub(module: str) -> dict[str, str]:
    """The docstrings of the native functions: their reference manual is the stub."""
    tree = ast.parse(STUBS[module].read_text(encoding="utf-8"))
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    docs = {node.name: ast.get_docstring(node) or "" for node in functions}
    return {"": ast.get_docstring(tree) or "", **docs}


def _doc(value: object) -> str:
    module = str(getattr(value, "__module__", ""))
    if module in STUBS:
        return _stub(module).get(str(getattr(value, "__name__", "")), "")
    return inspect.getdoc(value) or ""


def _public(module: ModuleType) -> Iterator[tuple[str, object]]:
    """The functions and classes of a module's `__all__` that are mbflow's own."""
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        own = str(getattr(value, "__module__", "")).startswith("mbflow")
        if (
            own
            and not name.startswith("_")
            and (inspect.isclass(value) or inspect.isroutine(value))
        ):
            yield name, value


def _has_example(text: str) -> bool:
    return bool(re.search(r"^Examples?:$", text, re.MULTILINE)) and ">>>" in text


@pytest.mark.parametrize("name", ["mbflow", *MODULES])
def test_every_public_name_is_documented_with_an_example(name: str) -> None:
    module = importlib.import_module(name)
    text = _stub(name)[""] if name in STUBS else module.__doc__ or ""
    missing = [] if text.strip() else [f"{name}: a docstring"]
    for public, value in _public(module):
        if not _has_example(_doc(value)):
            missing.append(f"{name}.{public}: an example")
        if not inspect.isclass(value):
            continue
        for method, function in vars(value).items():
            inner = getattr(function, "__func__", getattr(function, "fget", function))
            if method.startswith("_") or not inspect.isroutine(inner):
                continue
            if not (inspect.getdoc(getattr(value, method)) or "").strip():
                missing.append(f"{name}.{public}.{method}: a docstring")
    assert missing == []


def test_the_guard_for_docs_looks_at_the_whole_package() -> None:
    assert {
        "mbflow._native",
        "mbflow._native.durations",
        "mbflow.errors",
        "mbflow.flow.plan",
        "mbflow.report",
    } <= set(MODULES)
    found = [name for module in MODULES for name, _ in _public(importlib.import_module(module))]
    assert len(found) > 60
    assert {"hash_graph", "DataError", "write_report", "select_instances"} <= set(found)


def _examples(name: str) -> list[doctest.DocTest]:
    if name in STUBS:
        parse = doctest.DocTestParser().get_doctest
        docs = _stub(name).items()
        tests = [parse(doc, {}, f"{name}.{one}", STUBS[name].name, 0) for one, doc in docs]
    else:
        tests = doctest.DocTestFinder().find(importlib.import_module(name))
    return [test for test in tests if test.examples]


@pytest.mark.parametrize("name", ["mbflow", *MODULES])
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    said: list[str] = []
    for test in _examples(name):
        runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


def test_there_are_many_examples() -> None:
    counts = {name: len(_examples(name)) for name in MODULES}
    assert sum(counts.values()) > 80
    assert counts["mbflow._native"] >= 8


def test_every_pipeline_validates() -> None:
    from mbflow.steps import load

    files = sorted((ROOT / "pipelines").glob("*.yaml"))
    assert files
    for file in files:
        assert load(file).steps


def _pins() -> dict[str, str]:
    pins = {}
    for line in _lines(ROOT / "constraints.txt"):
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.!]*", line), line
        name, version = line.split("==")
        pins[_normal(name)] = version
    return pins


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_constraints_pin_what_is_tested_and_allowed() -> None:
    pins = _pins()
    assert len(pins) > 40
    lines = _lines(ROOT / "constraints.txt")
    assert lines == sorted(lines, key=str.lower)
    extras = _project()["optional-dependencies"]
    wanted = [*_project()["dependencies"], *extras["train"], *extras["dev"], *extras["bench"]]
    for requirement in map(Requirement, wanted):
        if requirement.name != "mbflow":
            pinned = pins.get(_normal(requirement.name))
            assert pinned, f"{requirement.name} is not in constraints.txt"
            assert requirement.specifier.contains(pinned), f"{requirement} does not allow {pinned}"


def test_the_changelog_knows_this_version() -> None:
    headings = [line for line in _lines(ROOT / "CHANGELOG.md") if line.startswith("## ")]
    assert headings
    assert headings[0].split()[1].rstrip(",") == mbflow.__version__


def _trees() -> Iterator[tuple[str, str]]:
    """(paper, path) for each line of the trees in the papers.

    A tree is a fenced block marked `tree`: a path, two spaces or more, what it is; a line that is
    indented lies in the folder above it.
    """
    for paper in ("README.md", "DESIGN.md", "pipelines/README.md"):
        if not (ROOT / paper).exists():
            continue
        text = (ROOT / paper).read_text(encoding="utf-8")
        for block in re.findall(r"^```tree\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            above: list[tuple[int, str]] = []
            for line in block.splitlines():
                indent = len(line) - len(line.lstrip())
                above = [(depth, folder) for depth, folder in above if depth < indent]
                names = re.split(r"\s{2,}", line.strip())[0].split()
                for name in names:
                    yield paper, "".join(folder for _, folder in above) + name
                if names and names[0].endswith("/"):
                    above.append((indent, names[0]))


def test_the_trees_in_the_papers_are_true() -> None:
    lines = list(_trees())
    if not lines:
        pytest.skip("no paper has a block marked `tree`")
    assert [f"{paper}: {path}" for paper, path in lines if not list(ROOT.glob(path))] == []


def test_make_help_names_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    # Run from `make test`, make would take this one for its child and say so.
    outer = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    result = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True,
        env={key: value for key, value in os.environ.items() if key not in outer},
    )  # fmt: skip
    named = [line.split()[0] for line in result.stdout.splitlines()]
    assert sorted(named) == sorted(phony.split())
    assert len(named) >= 10
