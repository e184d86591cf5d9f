"""Malformed files as the source of a pipeline: a clear error that names the file, or sound rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbflow.cli import main

LIMIT = 2 << 30
READ = """\
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
from mbflow.errors import MbflowError
from mbflow.flow.source import Source
try:
    source = Source.open("rows", sys.argv[1])
    for batch in source.batches():
        batch.validate(full=True)
except MbflowError as error:
    print(error)
    sys.exit(error.exit_code)
print("read")
"""


def check(path: Path) -> None:
    """Read one file to its end in a process with little memory and little time."""
    done = subprocess.run(
        [sys.executable, "-c", READ.format(limit=LIMIT), str(path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 3), (path.name, done.returncode, done.stderr[-2000:])
    assert done.stderr == ""
    if done.returncode == 3:
        assert str(path) in done.stdout
        assert done.stdout.count("\n") == 1
    else:
        assert done.stdout == "read\n"


def own(folder: Path) -> list[Path]:
    """Malformed files of our own making, from one sound file."""
    sound = folder / "sound.parquet"
    pq.write_table(
        pa.table({"x": list(range(2000)), "label": ["a", "b"] * 1000}),
        sound,
        write_page_checksum=True,
    )
    data = sound.read_bytes()
    footer = int.from_bytes(data[-8:-4], "little")
    made = {
        "empty": b"",
        "magic-only": b"PAR1",
        "text": b"x,label\n1,a\n" * 50,
        "cut-footer": data[:-20],
        "cut-data": data[: len(data) // 2],
        "footer-too-long": data[:-8] + (1 << 30).to_bytes(4, "little") + b"PAR1",
        "footer-zeroed": data[: -8 - footer] + bytes(footer) + data[-8:],
        "page-flipped": data[:200] + bytes([data[200] ^ 0x10]) + data[201:],
        "pages-zeroed": data[:4] + bytes(400) + data[404:],
        "encrypted-magic": data[:-4] + b"PARE",
    }
    paths = []
    for name, content in made.items():
        path = folder / f"{name}.parquet"
        path.write_bytes(content)
        paths.append(path)
    return paths


def test_our_own_malformed_files(tmp_path: Path) -> None:
    paths = own(tmp_path)
    assert len(paths) >= 10
    for path in paths:
        check(path)


def test_a_malformed_file_in_a_pipeline_exits_with_3(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    for path in own(tmp_path):
        given = ["--set", f"vars.data={path}", "--set", f"run.out={tmp_path}/runs"]
        code = main(
            ["run", "pipelines/smoke.yaml", "--set", "sources.rows.with.where=x < 500", *given]
        )
        error = capsys.readouterr().err
        assert code == 3, (path.name, error)
        assert str(path) in error
        assert "Traceback" not in error


def test_public_malformed_files(data_folder: Path) -> None:
    paths = sorted(path for path in (data_folder / "corrupt").rglob("*") if path.is_file())
    assert len(paths) >= 100
    for path in paths:
        check(path)
