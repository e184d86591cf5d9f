"""kill -9 at random moments: the same output as an undisturbed run, nothing to clean by hand."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import hashes
from mbflow.flow.folder import find, verify

KILLS = 50


def command(root: Path, out: Path) -> subprocess.Popen[str]:
    """The demo pipeline on a part of the letters, quickly, with every step in it."""
    return subprocess.Popen(
        [
            sys.executable, "-m", "mbflow", "run", str(root / "pipelines" / "attention.yaml"),
            "--set", f"run.out={out}",
            "--set", "sources.rows.with.where=x_box < 2",
            "--set", "steps.score.with={heads: 2, epochs: 15}",
            "--set", "steps.check.with={seeds: 1, classifiers: [1-NN]}",
        ],
        cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_kills(root: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    undisturbed = command(root, tmp_path / "undisturbed")
    _, errors = undisturbed.communicate(timeout=120)
    assert undisturbed.returncode == 0, errors
    length = time.monotonic() - started
    expected = hashes(tmp_path / "undisturbed" / "attention")
    assert len(expected) == 9

    draw = random.Random(20)
    kills = finished = 0
    while kills < KILLS:
        out = tmp_path / f"killed-{finished}"
        while kills < KILLS:
            process = command(root, out)
            try:
                # Moments over the whole run, start of the interpreter included.
                _, errors = process.communicate(timeout=draw.uniform(0.3, 1.1) * length)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
                continue
            assert process.returncode == 0, errors
            break
        else:
            process = command(root, out)
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
        assert hashes(out / "attention") == expected
        assert verify(find(out))[1] == []
        assert not list(out.rglob(".tmp-*"))
        assert not list(out.rglob(".old-*"))
        finished += 1
    assert finished >= 1
