"""The guide for adding a step is followed to the letter, and as a plug-in of another package."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from mbflow.errors import PipelineError
from mbflow.flow.run import run
from mbflow.flow.validate import parse
from mbflow.steps import CATALOGUE


@pytest.fixture
def blocks(root: Path) -> tuple[str, str]:
    """The Python and the YAML block of the guide."""
    guide = (root / "DESIGN.md").read_text().split("## How a step is added")[1].split("\n## ")[0]
    python = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    yaml = re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)
    assert (len(python), len(yaml)) == (1, 1)
    return python[0], yaml[0]


def test_the_guide_works(
    root: Path, tmp_path: Path, blocks: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    names: dict[str, object] = {"__name__": "guide"}
    exec(compile(blocks[0], "DESIGN.md", "exec"), names)
    catalogue = CATALOGUE.with_steps(names["STEPS"])
    pipeline = parse(
        blocks[1], "guide.yaml", catalogue=catalogue, assignments=[f"run.out={tmp_path}"]
    )
    output = run(pipeline).outputs["count"]
    assert output.table().num_rows == 26
    assert sum(output.table()["count_all"].to_pylist()) == 20_000
    (table,) = output.manifest["tables"]
    assert table["title"] == "Rows by value"
    assert table["rows"][0] == ["A", 789]
    assert len(table["rows"]) == 26


def test_the_guide_works_as_a_plug_in(
    root: Path, tmp_path: Path, blocks: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    site = tmp_path / "site"
    info = site / "guide_steps-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "guide_steps.py").write_text(blocks[0])
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guide-steps\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mbflow.steps]\nguide = guide_steps:STEPS\n")
    monkeypatch.syspath_prepend(str(site))
    text = blocks[1] + f"run: {{out: {tmp_path}/runs, plugins: [guide]}}\n"
    try:
        pipeline = parse(text, "guide.yaml", catalogue=CATALOGUE)
        assert run(pipeline).outputs["count"].table().num_rows == 26
        with pytest.raises(PipelineError, match="did you mean `guide`"):
            parse(text.replace("[guide]", "[giude]"), "guide.yaml", catalogue=CATALOGUE)
    finally:
        sys.modules.pop("guide_steps", None)
    # Without being listed, a plug-in's steps are not there.
    with pytest.raises(PipelineError, match=r"no step `example\.count` in the catalogue"):
        parse(blocks[1], "guide.yaml", catalogue=CATALOGUE)
