"""The one door to DGL: it imports, or says plainly why not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LOAD = """
import os, sys
from mbflow.dgl_compat import load_dgl
from mbflow.errors import MbflowError
for _ in range(2):
    try:
        print(load_dgl(purpose="this test").__version__)
    except MbflowError as error:
        print(type(error).__name__, error)
print(os.environ.get("DGLBACKEND"), [name for name in sys.modules if name.startswith("setuptools")])
"""


def _load(path: Path, *, isolated: bool) -> list[str]:
    """What two attempts print, with `path` before (or instead of) the installed packages."""
    folder = str(Path(__file__).parent.parent / "python")
    code = f"import sys; sys.path.insert(0, {str(path)!r})\n{LOAD}"
    if isolated:
        code = f"import sys, torch, numpy, packaging.version\nsys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n{code}"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": folder, "HOME": str(path)},
    )
    return result.stdout.splitlines()


@pytest.mark.peer
def test_dgl_imports_and_leaves_nothing_behind(tmp_path: Path) -> None:
    pytest.importorskip("psutil")
    if _load(tmp_path, isolated=False)[0].startswith("MissingExtraError"):
        pytest.skip("dgl is not installed")
    first, second, rest = _load(tmp_path, isolated=False)
    assert first == second
    assert first.split(".")[0] == "1"
    assert rest == "None []"
    assert list(tmp_path.iterdir()) == []  # DGL itself would write to the home directory


def test_without_dgl_the_extra_is_named(tmp_path: Path) -> None:
    first, second, rest = _load(tmp_path, isolated=True)
    assert first == second
    assert first.startswith("MissingExtraError the package `dgl` is needed for this test")
    assert "pip install 'mbflow[dgl]'" in first
    assert rest == "None []"


@pytest.mark.parametrize(
    "raised",
    [
        "ImportError('no libgraphbolt beside this torch')",
        "ModuleNotFoundError(\"No module named 'torchdata.datapipes'\", name='torchdata.datapipes')",
        "FileNotFoundError('no libgraphbolt')",
    ],
)
def test_a_dgl_that_does_not_import_is_a_clear_error_each_time(tmp_path: Path, raised: str) -> None:
    package = tmp_path / "dgl"
    package.mkdir()
    (package / "__init__.py").write_text("from . import graphbolt\n")
    (package / "graphbolt.py").write_text(f"raise {raised}\n")
    first, second, rest = _load(tmp_path, isolated=False)
    assert first == second
    assert first.startswith("ResourceError DGL is installed and does not import beside torch ")
    assert "dgl==1.1.3" in first
    assert rest == "None []"
