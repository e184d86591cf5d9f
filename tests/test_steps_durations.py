"""The step speech.durations: lengths from columns and from audio, and what cannot be used."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbflow.errors import DataError
from mbflow.flow.preview import preview
from mbflow.flow.validate import parse
from mbflow.speech.lengths import rounded_up
from mbflow.steps import CATALOGUE, run
from mbflow.steps.speech_durations import marks
from speech_pipelines import BATCHES, corpus, manifest, output, pipeline, wav, write

COLUMNS = pa.table(
    {
        "seconds": pa.array([1.5, 2.0, 0.25]),
        "whole": pa.array([1, 2, 3], pa.int8()),
        "samples": pa.array([8000, 4000, 16000]),
        "rate": pa.array([8000, 16000, 16000], pa.uint16()),
        "text": ["ein Häuschen", " zwei ", ""],
        "kind": pa.array(["ein Häuschen", " zwei ", ""]).dictionary_encode(),
        "list": pa.array([[1, 2, 3], [], [7]], pa.list_(pa.int16())),
    }
)


@pytest.mark.parametrize(
    ("given", "seconds", "tokens"),
    [
        ("{seconds: seconds}", [1.5, 2.0, 0.25], None),
        ("{seconds: whole, tokens: whole}", [1, 2, 3], [1, 2, 3]),
        ("{samples: samples, sampling_rate: 8000}", [1, 0.5, 2], None),
        ("{samples: samples, sampling_rate: rate, tokens: list}", [1, 0.25, 1], [3, 0, 1]),
        ("{seconds: seconds, text: text}", [1.5, 2.0, 0.25], [12, 6, 0]),
        ("{seconds: seconds, text: kind, unit: bytes}", [1.5, 2.0, 0.25], [13, 6, 0]),
        ("{seconds: seconds, text: text, unit: words}", [1.5, 2.0, 0.25], [2, 1, 0]),
    ],
)
def test_lengths_from_columns(tmp_path: Path, given, seconds, tokens) -> None:
    write(tmp_path, COLUMNS)
    run(pipeline(tmp_path, given))
    found = output(tmp_path, "durations")
    assert found["item"].to_list() == [0, 1, 2]
    assert found["seconds"].dtype == pl.Float32
    assert found["seconds"].to_list() == seconds
    if tokens is None:
        assert found.columns == ["item", "seconds"]
    else:
        assert found["tokens"].dtype == pl.UInt32
        assert found["tokens"].to_list() == tokens


def test_any_files_row_groups_and_threads_give_the_same_lengths(tmp_path: Path) -> None:
    table = corpus(1000)
    found = []
    for number, (files, group, threads) in enumerate([(1, 10_000, 1), (3, 7, 3), (7, 100, 2)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder, table, files=files, group=group)
        given = "{seconds: seconds, tokens: tokens}"
        run(pipeline(folder, given, where="seconds > 2 AND tokens > 3", threads=threads))
        found.append(output(folder, "durations"))
    keep = (table["seconds"].to_numpy() > 2) & (table["tokens"].to_numpy() > 3)
    for one in found:
        assert one["item"].to_list() == np.flatnonzero(keep).tolist()
        np.testing.assert_array_equal(
            one["seconds"].to_numpy(), rounded_up(table["seconds"].to_numpy()[keep])
        )
        assert one["tokens"].to_list() == table["tokens"].to_numpy()[keep].tolist()


class TestAudio:
    """Lengths by the headers of recordings."""

    @pytest.fixture(autouse=True)
    def _needs_soundfile(self) -> None:
        pytest.importorskip("soundfile")

    def test_of_every_kind_of_column(self, tmp_path: Path) -> None:
        import soundfile

        samples = [800, 1600, 12_345, 1]
        recordings = [wav(count) for count in samples[:2]]
        for count, kind in zip(samples[2:], ("FLAC", "OGG"), strict=True):
            body = io.BytesIO()
            soundfile.write(body, np.zeros(count), 8000, format=kind)
            recordings.append(body.getvalue())
        (tmp_path / "data").mkdir()
        for number, recording in enumerate(recordings):
            (tmp_path / "data" / f"{number}.audio").write_bytes(recording)
        names = [f"{number}.audio" for number in range(4)]
        struct = [
            {"bytes": recordings[0], "path": "elsewhere.wav"},
            {"bytes": None, "path": names[1]},
            {"bytes": recordings[2], "path": None},
            {"bytes": None, "path": names[3]},
        ]
        table = pa.table({"audio": recordings, "file": names, "both": struct})
        write(tmp_path, table, group=3)
        expected = rounded_up(np.array(samples) / 8000)
        for given in ("{audio: audio}", "{path: file}", "{audio: both}"):
            run(pipeline(tmp_path, given))
            np.testing.assert_array_equal(output(tmp_path, "durations")["seconds"], expected)

    def test_the_headers_say_what_decoding_gives(self, root: Path, tmp_path: Path) -> None:
        import soundfile

        file = root / "examples" / "data" / "spoken_digits.parquet"
        (tmp_path / "data").symlink_to(file.parent)
        table = pq.read_table(file)
        text = pipeline(tmp_path, "{audio: audio, text: text, unit: words}").resolved
        text["sources"]["rows"]["with"]["path"] = str(file)
        found = parse(json.dumps(text), "speech.yaml", catalogue=CATALOGUE)
        run(found)
        lengths = output(tmp_path, "durations")
        decoded = [
            len(soundfile.read(io.BytesIO(one))[0]) / 8000 for one in table["audio"].to_pylist()
        ]
        np.testing.assert_array_equal(lengths["seconds"], rounded_up(decoded))
        assert lengths["tokens"].to_list() == [len(t.split()) for t in table["text"].to_pylist()]
        assert {len(t.split()) for t in table["text"].to_pylist()} >= {1, 2, 3, 4, 5}

    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            (None, "`audio` is null"),
            (b"", "`audio` cannot be used: format not recognised"),
            (b"RIFF" + bytes(100), "`audio` cannot be used: "),
            (wav(0), "`audio` cannot be used: it holds no sample"),
        ],
    )
    def test_broken_recordings_are_named_or_dropped(self, tmp_path: Path, bad, reason) -> None:
        table = pa.table({"audio": [wav(800), wav(800), wav(1600), bad, wav(2400)]})
        write(tmp_path, table, files=2, group=2)
        where = f"{tmp_path}/data/1.parquet: {reason}"
        with pytest.raises(DataError) as error:
            run(pipeline(tmp_path, "{audio: audio}"))
        assert str(error.value).startswith(f"durations (speech.yaml:7:3): {where}")
        assert "(row 0 of this file, counted from 0)" in str(error.value)
        assert error.value.row == 3
        run(pipeline(tmp_path, "{audio: audio, on_error: drop}"))
        assert output(tmp_path, "durations")["item"].to_list() == [0, 1, 2, 4]
        notes = manifest(tmp_path, "durations")["notes"]
        assert notes[0] == "1 row was dropped, without a length that can be used"
        assert notes[1].startswith(f"dropped: {tmp_path}/data/1.parquet, row 0: {reason}")
        beside = pl.read_parquet(tmp_path / "runs/speech/steps/durations/_dropped/*.parquet")
        assert beside.select("item", "row").rows() == [(3, 0)]

    def test_more_broken_ones_than_are_allowed(self, tmp_path: Path) -> None:
        write(tmp_path, pa.table({"audio": [b"x", wav(1), b"x", b"x"]}), group=1)
        with pytest.raises(DataError, match=r"more than 2 rows.*0.parquet: `audio`.*row 0 of"):
            run(pipeline(tmp_path, "{audio: audio, on_error: drop, most_errors: 2}"))
        run(pipeline(tmp_path, "{audio: audio, on_error: drop, most_errors: 3}"))
        assert output(tmp_path, "durations")["item"].to_list() == [1]

    def test_a_path_that_leads_nowhere(self, tmp_path: Path) -> None:
        write(tmp_path, pa.table({"file": ["gone.wav"]}))
        with pytest.raises(DataError, match=r"there is no file .*/data/gone.wav \(row 0 of"):
            run(pipeline(tmp_path, "{path: file}"))

    def test_a_plan_looks_at_a_sample(self, tmp_path: Path) -> None:
        draw = np.random.default_rng(3)
        sizes = draw.integers(100, 4000, 3000)
        recordings = [wav(size) for size in sizes]
        # Broken where a sample of the first rows of row groups does not look.
        recordings[1499] = b"broken"
        write(tmp_path, pa.table({"audio": recordings}), group=50)
        given = "{audio: audio, on_error: drop}"
        step = (
            "batches: {use: speech.batches, from: durations, with: {budget: {padded_seconds: 4}}}"
        )
        asked = pipeline(tmp_path, given, step)
        foreseen = {one["name"]: one for one in preview(asked)["steps"]}
        title = foreseen["batches"]["tables"][0]["title"]
        assert title == "An epoch of 1 rank, estimated from 1,024 of 3,000 items"
        assert foreseen["durations"]["forecast"]["looked_at"] == 1024
        assert not (tmp_path / "runs").exists()
        run(asked)
        after = {one["name"]: one for one in preview(asked)["steps"]}
        for name, slack in (("padding_in", 0.01), ("straggler_efficiency", 0.01), ("steps", 15)):
            expected = after["batches"]["forecast"][name]
            assert foreseen["batches"]["forecast"][name] == pytest.approx(expected, abs=slack)
        assert "estimated" not in after["batches"]["tables"][0]["title"]


def test_only_audio_needs_the_extra() -> None:
    step = CATALOGUE["speech.durations"]
    assert step.needs(step.parameters(seconds="x", text="y")) == ()
    for way in ("audio", "path"):
        assert step.needs(step.parameters(**{way: "x"})) == ("soundfile",)


@pytest.mark.parametrize(
    ("column", "given", "reason"),
    [
        ([1.0, None], "{seconds: x}", "`x` is null (row 1"),
        ([1.0, float("nan")], "{seconds: x}", "`x` is nan; expected finite seconds above 0 (row 1"),
        ([2.0, 0.0], "{seconds: x}", "`x` is 0; expected finite seconds above 0 (row 1"),
        ([-1, 4], "{seconds: x}", "`x` is -1; expected finite seconds above 0 (row 0"),
        ([1.0, 1e-300], "{seconds: x}", "`x` is 1e-300; expected finite seconds above 0 (row 1"),
        (
            [8, 0],
            "{samples: y, sampling_rate: x}",
            "`x` is 0; expected a finite number above 0 (row 1",
        ),
        ([1, -2], "{seconds: y, tokens: x}", "`x` is -2; expected a whole number from 0"),
        ([1.0, 2.5], "{seconds: y, tokens: x}", "`x` is 2.5; expected a whole number from 0"),
        (["a", None], "{seconds: y, text: x}", "`x` is null (row 1"),
        ([[1], None], "{seconds: y, tokens: x}", "`x` is null (row 1"),
    ],
)
def test_values_that_cannot_be_used_are_named(tmp_path: Path, column, given, reason) -> None:
    write(tmp_path, pa.table({"x": column, "y": [1.0, 2.0]}))
    with pytest.raises(DataError) as error:
        run(pipeline(tmp_path, given))
    assert str(error.value).startswith(
        f"durations (speech.yaml:7:3): {tmp_path}/data/0.parquet: {reason}"
    )
    dropped = given.replace("}", ", on_error: drop}")
    run(pipeline(tmp_path, dropped))
    assert output(tmp_path, "durations").height == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "{seconds: duration}",
            r"no column `duration` \(`seconds`\); source `rows` reads: seconds",
        ),
        ("{seconds: text}", r"the column `text` \(`seconds`\) is string; expected numbers"),
        ("{audio: text}", r"the column `text` \(`audio`\) is string; expected bytes"),
        ("{path: seconds}", r"the column `seconds` \(`path`\) is double; expected text"),
        (
            "{seconds: seconds, text: whole}",
            r"the column `whole` \(`text`\) is int8; expected text",
        ),
        ("{seconds: seconds, tokens: text}", r"is string; expected numbers or lists"),
        ("{samples: samples, sampling_rate: hertz}", r"no column `hertz` \(`sampling_rate`\)"),
    ],
)
def test_columns_are_looked_at_before_anything_runs(tmp_path: Path, given, message) -> None:
    write(tmp_path, COLUMNS)
    if "audio" in given or "path" in given:
        pytest.importorskip("soundfile")
    with pytest.raises(DataError, match=message):
        preview(pipeline(tmp_path, given))
    with pytest.raises(DataError, match=message):
        run(pipeline(tmp_path, given))


def test_no_row_passes(tmp_path: Path) -> None:
    write(tmp_path, corpus(10))
    asked = pipeline(tmp_path, "{seconds: seconds}", where="seconds < 0")
    with pytest.raises(DataError, match="source `rows`: no row passes `where`"):
        run(asked)
    (step,) = preview(asked)["steps"]
    assert "source `rows`: no row passes `where`" in step["error"]["text"]


@pytest.mark.parametrize("count", [1, 5, 12, 13, 24, 25])
def test_the_last_bar_by_length_has_its_mark(tmp_path: Path, count: int) -> None:
    edges = np.arange(1, count + 1)
    found = marks(edges)
    assert found[-1] == str(count)
    assert sum(map(bool, found)) <= 12
    assert all(not mark or mark == str(edge) for mark, edge in zip(found, edges, strict=True))


def test_charts_say_what_they_show(tmp_path: Path) -> None:
    table = corpus(300)
    write(tmp_path, table)
    run(pipeline(tmp_path, "{seconds: seconds}", BATCHES.format("{buckets: 3}")))
    (histogram,) = manifest(tmp_path, "durations")["charts"]
    assert histogram["decimals"] == 0
    assert float(histogram["groups"][-1]) == pytest.approx(
        max(table["seconds"].to_pylist()), rel=0.01
    )
    padding, items = manifest(tmp_path, "batches")["charts"]
    found = output(tmp_path, "batches")
    seconds = np.array(table["seconds"])
    for place, edge in enumerate(sorted(found["bucket"].unique())):
        rows = found.filter(pl.col("bucket") == edge)
        padded = sum(len(row) * longest for row, longest in rows.select("items", "seconds").rows())
        own = sum(seconds[row].sum() for row in rows["items"].to_list())
        share = 100 * (1 - own / padded)
        assert padding["series"][0]["mean"][place] == pytest.approx(share, abs=1e-3)
    assert padding["ylabel"] == "padding, %"
    assert items["decimals"] == 1
