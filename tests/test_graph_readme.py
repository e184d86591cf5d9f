"""What the README says of graphs: each of its blocks runs as a script of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

from mbflow.dgl_compat import load_dgl
from mbflow.errors import MissingExtraError, ResourceError

ROOT = Path(__file__).parent.parent
SECTIONS = (
    "Neighbour graphs",
    "Graphs and sampled neighbourhoods",
    "Graph neural networks",
    "Feature tables",
)


def _blocks() -> list[tuple[str, str]]:
    """(title of the section and number, Python) of each block."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = []
    for title in SECTIONS:
        section = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
        blocks = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        found += [(f"{title} {number}", block) for number, block in enumerate(blocks, 1)]
    return found


BLOCKS = _blocks()


def _missing(block: str) -> str | None:
    """What a block needs and this machine lacks."""
    for name in ("torch", "torch_geometric"):
        if re.search(rf"^(from|import) {name}\b", block, re.MULTILINE) and not util.find_spec(name):
            return name
    if "mbflow.graph.models" in block and not util.find_spec("torch"):
        return "torch"
    if "to_dgl" in block:
        try:
            load_dgl(purpose="this test")
        except (MissingExtraError, ResourceError) as error:
            return f"dgl: {error}"
    return None


@pytest.mark.parametrize("block", [code for _, code in BLOCKS], ids=[name for name, _ in BLOCKS])
def test_what_the_readme_says_runs(block: str, tmp_path: Path) -> None:
    """In a folder of its own, since a block may write beside what it reads."""
    if missing := _missing(block):
        pytest.skip(f"needs {missing}")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    script = tmp_path / "readme.py"
    script.write_text(block, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "python")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_shows_each_way_to_use_a_sample() -> None:
    text = "\n".join(code for _, code in BLOCKS)
    for name in ("temporal=True", "PyGSampler", "to_dgl", "negative_edges", "Batches(sampler"):
        assert name in text
    titles = re.findall(r"^## (.*)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    first = titles.index(SECTIONS[0])
    assert tuple(titles[first : first + len(SECTIONS)]) == SECTIONS
