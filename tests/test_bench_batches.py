"""The benchmark of duration batches: corpora, peers, measures, and its records on a few items."""

from __future__ import annotations

import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from mbflow import _native, cli
from mbflow.bench import batch_memory, batch_report, batches, corpora, lhotse_peer
from mbflow.bench.batch_measures import (
    Epoch,
    coverage,
    order,
    padding,
    stragglers,
    strided,
)
from mbflow.bench.batch_peers import (
    log_normal_boundaries,
    random_batches,
    sorted_batches,
    speechbrain_batches,
)
from mbflow.bench.batch_strategies import SECONDS, SHAPES, STRATEGIES, Corpus, equal_duration
from mbflow.cli import main
from mbflow.errors import InvalidArgumentError, ResourceError
from mbflow.speech import Budget, bucket_edges

# What lhotse, torch and their like say at import is no concern of these tests.
pytestmark = pytest.mark.filterwarnings("ignore")

QUANTILES = {
    "librispeech": {0.25: 9.8, 0.5: 13.4, 0.75: 15.1, 0.99: 18.1},
    "wenet": {0.25: 1.4, 0.5: 2.0, 0.75: 3.0, 0.99: 8.4},
    "ted": {0.25: 3.7, 0.5: 6.0, 0.75: 8.3, 0.995: 14.9},
    "log_normal": {0.5: 6.5, 0.8413: 6.5 * np.exp(0.75)},
}
MOMENTS = {
    "librispeech": (12.0, 4.2),
    "wenet": (2.76, 2.47),
    "ted": (6.4, 3.7),
    "log_normal": (8.5, 6.8),
}


@pytest.mark.parametrize("name", corpora.CORPORA)
def test_corpora_have_the_published_quantiles(name: str) -> None:
    seconds = corpora.durations(name, 200_000)
    for share, wanted in QUANTILES[name].items():
        assert np.quantile(seconds, share) == pytest.approx(wanted, rel=0.02)
    assert seconds.mean() == pytest.approx(MOMENTS[name][0], rel=0.02)
    assert seconds.std() == pytest.approx(MOMENTS[name][1], rel=0.03)
    assert seconds.min() >= 0.2
    assert seconds.max() <= 40
    milliseconds = seconds.astype(np.float64) * 1000
    np.testing.assert_allclose(milliseconds, np.round(milliseconds), atol=3e-3)


def test_corpora_are_keyed_and_made_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = corpora.durations("ted", 500, seed=3)
    monkeypatch.setattr(corpora, "_PIECE", 77)
    assert np.array_equal(whole, corpora.durations("ted", 500, seed=3))
    assert np.array_equal(whole[100:], corpora.durations("ted", 400, first=100, seed=3))
    assert not np.array_equal(whole, corpora.durations("ted", 500, seed=4))
    with pytest.raises(InvalidArgumentError, match="no corpus 'tedd'; known: librispeech, wenet"):
        corpora.durations("tedd", 5)
    with pytest.raises(InvalidArgumentError, match="items is 0"):
        corpora.durations("ted", 0)


def test_tokens_come_at_a_log_normal_rate() -> None:
    seconds = np.full(100_000, 20.0, np.float32)
    rates = np.log(corpora.tokens(seconds) / 20.0)
    assert np.exp(np.median(rates)) == pytest.approx(5.0, rel=0.01)
    assert rates.std() == pytest.approx(0.30, rel=0.02)
    assert corpora.tokens(np.full(50, 0.01)).tolist() == [1] * 50


def once(batches: list, items: int) -> bool:
    return Counter(int(item) for batch in batches for item in batch) == Counter(range(items))


@pytest.mark.parametrize("items", [1, 2, 47, 48, 49, 1000])
def test_simple_peers_take_each_item_once(items: int) -> None:
    seconds = corpora.durations("log_normal", items)
    drawn = random_batches(items, 48)
    assert once(drawn, items)
    assert {len(batch) for batch in drawn[:-1]} <= {48}
    bound = sorted_batches(seconds, Budget.padded_seconds(60))
    assert once(bound, items)
    for batch, after in zip(bound, [*bound[1:], None], strict=True):
        longest = seconds[batch].max()
        assert len(batch) * longest <= 60 * (1 + 1e-6)
        assert seconds[batch[0]] == longest
        # One more would not have fitted.
        assert after is None or (len(batch) + 1) * longest > 60
    two = sorted_batches(seconds, Budget.padded_seconds(60), tokens=corpora.tokens(seconds))
    assert once(two, items)


@pytest.mark.parametrize("seed", range(3))
def test_speechbrain_fills_one_batch_a_bucket_at_a_time(seed: int) -> None:
    seconds = corpora.durations("ted", 2000, seed=seed)
    boundaries = np.array([2.0, 5.0, 10.0, 20.0])
    found = speechbrain_batches(seconds.tolist(), boundaries, 100.0, seed=seed)
    assert once(found, 2000)
    left = Counter()
    for batch in found:
        buckets = {int(np.searchsorted(boundaries, seconds[item])) for item in batch}
        assert len(buckets) == 1
        (bucket,) = buckets
        size = 1 if bucket == len(boundaries) else int(100 / boundaries[bucket])
        assert len(batch) <= size
        left[bucket] += len(batch) < size
        if bucket < len(boundaries):
            assert len(batch) * seconds[batch].max() <= 100
    assert max(left.values()) <= 1
    assert found != speechbrain_batches(seconds.tolist(), boundaries, 100.0, seed=seed + 9)


def test_log_normal_boundaries_are_quantiles() -> None:
    found = log_normal_boundaries(600.0, 30)
    assert len(found) == 30
    assert found[-1] == 600
    # The middle of an odd number of quantiles is the median, which is 1 before it is scaled.
    odd = log_normal_boundaries(1.0, 31)
    draws = np.exp(np.random.default_rng(0).normal(size=200_000))
    np.testing.assert_allclose((draws <= odd[7] / odd[15]).mean(), 8 / 32, atol=0.005)


def test_measures_by_hand() -> None:
    seconds, tokens = np.array([1.0, 3.0, 2.0, 2.0]), np.array([4, 4, 2, 6])
    epoch = Epoch.of([[0, 1], [2, 3]])
    found = padding(epoch, seconds, tokens, Budget.padded_seconds(8) & Budget.items(2))
    assert found["batches"] == 2
    assert found["padding"] == pytest.approx(100 * (1 - 8 / 10))
    assert found["token_padding"] == pytest.approx(100 * (1 - 16 / 20))
    assert (found["fill_min"], found["fill_max"]) == (100.0, 100.0)
    assert padding(epoch, seconds, tokens, SECONDS)["fill_min"] == pytest.approx(100 * 4 / 600)
    assert padding(epoch, seconds, tokens, None)["fill_mean"] is None
    first = 2 * (5.86e-4 * 3 + 1.55e-5 * 4 + 8.9e-7 * 12)
    assert padding(epoch, seconds, tokens, SHAPES)["fill_max"] == pytest.approx(100 * first)
    waits = stragglers(epoch, 2, seconds, np.array([1.5, 4.0]))
    assert waits["efficiency"] == pytest.approx(100 * 5 / 6)
    costs = 2 * (3 + 9 / 30), 2 * (2 + 4 / 30)
    assert waits["efficiency_quadratic"] == pytest.approx(100 * sum(costs) / 2 / max(costs))
    assert waits["used"] == pytest.approx(100 * 8 / 12)
    assert waits["same_bucket"] == 0.0
    assert stragglers(epoch, 1, seconds, np.array([1.5, 4.0]))["same_bucket"] == 50.0
    assert stragglers(epoch, 2, seconds, np.array([4.0]))["same_bucket"] == 100.0
    assert coverage(Epoch.of([[0, 0], [2]]), 4) == {"missed": 2, "repeated": 1}
    with pytest.raises(InvalidArgumentError, match="each with an item"):
        Epoch.of([[0], []])
    assert strided([1, 2, 3, 4, 5], 4) == [1, 2, 3, 4, 5, 1, 2, 3]
    assert strided([1], 3) == [1, 1, 1]
    assert strided([1, 2], 2) == [1, 2]


def test_order_tells_a_shuffle_from_the_order_of_the_data() -> None:
    seconds = corpora.durations("ted", 4000)
    data = [range(at, at + 40) for at in range(0, 4000, 40)]
    kept = order(Epoch.of(data), seconds)
    assert kept["order_correlation"] > 0.999
    assert kept["displacement"] < 0.01
    drawn = order(Epoch.of(random_batches(4000, 40)), seconds)
    assert abs(drawn["order_correlation"]) < 0.06
    assert drawn["displacement"] == pytest.approx(1 / 3, abs=0.02)
    assert drawn["batch_spread"] == pytest.approx(1.0, abs=0.03)
    assert abs(drawn["length_correlation"]) < 0.06
    sorted_ = order(Epoch.of(sorted_batches(seconds, SECONDS)), seconds)
    assert sorted_["batch_spread"] < 0.2
    assert sorted_["length_correlation"] < -0.9


@pytest.mark.parametrize("name", [name for name in STRATEGIES if not name.startswith("lhotse")])
def test_strategies_take_each_item_once_within_their_budget(name: str) -> None:
    made = Corpus.made("log_normal", 3000)
    epoch = Epoch.of(list(STRATEGIES[name].batches(made)))
    assert coverage(epoch, 3000) == {"missed": 0, "repeated": 0}
    found = padding(epoch, made.seconds, made.tokens, STRATEGIES[name].budget)
    assert (found["fill_max"] is None) == (name == "random 48")
    assert (found["fill_max"] or 0) <= 100.001


@pytest.mark.peer("lhotse")
class TestLhotse:
    """What the peer does here is what it does elsewhere."""

    def test_strategies_take_each_item_once(self) -> None:
        made = Corpus.made("ted", 3000)
        for name, strategy in STRATEGIES.items():
            if name.startswith("lhotse"):
                epoch = Epoch.of(list(strategy.batches(made)))
                counts = coverage(epoch, 3000)
                assert counts["repeated"] == 0, name
                if "not synchronised" not in name:
                    assert counts["missed"] == 0, name
                if "sizes given" in name or "NeMo" in name:
                    fill = padding(epoch, made.seconds, made.tokens, strategy.budget)["fill_max"]
                    assert fill <= 100.001, name

    def test_a_batch_is_of_one_bucket_by_seconds_and_tokens(self) -> None:
        made = Corpus.made("ted", 2000)
        edges = bucket_edges(made.seconds, made.tokens, buckets=(4, 3), edges="equal_duration")
        assert len(edges) == 12
        options = lhotse_peer.fixed_sizes(edges, np.full(12, 20))
        bucket = edges.assign(made.seconds, made.tokens)
        cuts = lhotse_peer.Cuts(made.seconds, made.tokens)
        found = list(lhotse_peer.batches(cuts, **options))
        assert once(found, 2000)
        assert all(len(set(bucket[batch].tolist())) == 1 for batch in found)
        assert max(map(len, found)) == 20

    def test_all_ranks_are_what_each_rank_gets(self) -> None:
        seconds = corpora.durations("log_normal", 1500)
        options = {"num_buckets": 4, "max_duration": 100.0, "buffer_size": 500}
        steps = list(lhotse_peer.all_ranks(lhotse_peer.Cuts(seconds), 3, **options))
        for rank in range(3):
            cuts = lhotse_peer.Cuts(seconds)
            alone = list(lhotse_peer.batches(cuts, world_size=3, rank=rank, **options))
            assert alone == [step[rank] for step in steps]

    def test_endless_ranks_have_orders_of_their_own(self) -> None:
        seconds = corpora.durations("ted", 400)
        steps, edges = lhotse_peer.endless_ranks(
            seconds, 2, 60, num_buckets=3, max_duration=50.0, buffer_size=300
        )
        assert len(steps) == 60
        assert len(edges) == 2
        assert any(first != second for first, second in steps)
        taken = Counter(item for step in steps for item in step[0])
        assert max(taken.values()) > 1

    def test_a_manifest_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        from lhotse import CutSet

        seconds = corpora.durations("ted", 50)
        lhotse_peer.write_manifest(tmp_path / "cuts.jsonl.gz", seconds)
        cuts = list(CutSet.from_jsonl_lazy(tmp_path / "cuts.jsonl.gz"))
        assert [cut.id for cut in cuts] == [str(item) for item in range(50)]
        np.testing.assert_allclose([cut.duration for cut in cuts], seconds, atol=1e-4)
        cuts[7].recording.to_dict()

    def test_a_state_is_replayed_to_the_same_batch(self) -> None:
        cuts = lhotse_peer.Cuts(corpora.durations("ted", 1000))
        options = {"num_buckets": 4, "max_duration": 60.0}
        state, wanted = lhotse_peer.state_after(cuts, 20, **options)
        assert lhotse_peer.replay(cuts, state, **options) == wanted
        with pytest.raises(AssertionError, match="different world_size"):
            lhotse_peer.replay(cuts, state, world_size=2, **options)


def release_only() -> None:
    if _native.build_info()["profile"] != "release":
        pytest.skip("needs a release build")


@pytest.fixture(scope="module")
def result() -> dict:
    release_only()
    threads = _native.num_threads()
    told: list[str] = []
    found = batches.run(
        parts=("planner", "padding", "ranks", "resume"),
        corpora=("log_normal",),
        items=2500,
        quick=True,
        on_progress=told.append,
    )
    assert _native.num_threads() == threads
    assert len(told) > 20
    return found


def test_the_result_is_plain_data_with_all_tables(result: dict) -> None:
    assert json.loads(json.dumps(result)) == result
    assert list(result["tables"]) == [name for name in batches.TITLES if name != "scale"]
    for name, records in result["tables"].items():
        assert records, name
        assert len({tuple(record) for record in records}) == 1, name
    assert result["parameters"]["items"] == 2500


def test_every_strategy_has_its_padding_or_a_reason(result: dict) -> None:
    rows = {row["strategy"]: row for row in result["tables"]["padding"]}
    assert list(rows) == list(STRATEGIES)
    for row in rows.values():
        assert (row["padding"] is None) == bool(row["note"])
    assert rows["full sort (bound)"]["padding"] < rows["mbflow buckets 30"]["padding"] < 10
    assert rows["mbflow buckets 120"]["padding"] < rows["mbflow buckets 30"]["padding"]
    assert rows["random 48"]["padding"] > 50
    assert rows["mbflow buckets 30 x 5"]["token_padding"] < 20
    (packed,) = result["tables"]["packing"]
    assert 0 < packed["waste"] < 5


def test_speed_is_against_lhotse_of_the_same_run(result: dict) -> None:
    rows = {row["strategy"]: row for row in result["tables"]["speed"]}
    peer = rows["lhotse 30"]
    if peer["note"]:
        assert peer["note"] == "lhotse is not installed"
        assert all(row["times_lhotse"] is None for row in rows.values())
        return
    assert peer["times_lhotse"] == 1.0
    ours = rows["mbflow buckets 30"]
    ratio = ours["items_per_second"] / peer["items_per_second"]
    assert ours["times_lhotse"] == pytest.approx(ratio)
    fastest = max(row["items_per_second"] for name, row in rows.items() if "lhotse" in name)
    assert ours["times_fastest_lhotse"] == pytest.approx(ours["items_per_second"] / fastest)


def test_files_are_read_with_their_memory(result: dict) -> None:
    rows = result["tables"]["files"]
    assert [row["strategy"].split()[0] for row in rows] == ["mbflow", "mbflow", "lhotse"]
    for row in rows:
        if not row["note"]:
            assert row["items_per_second"] > 0
            assert 20 < row["base_mb"] <= row["peak_mb"]


def test_ranks_of_mbflow_are_in_step(result: dict) -> None:
    for row in result["tables"]["ranks"]:
        if row["strategy"].startswith("mbflow") and not row["drop_last"]:
            assert row["missed"] == 0
            assert row["same_bucket"] in (None, 100.0)
        if row["efficiency"] is not None:
            assert 0 < row["used"] <= 100
            assert 0 < row["efficiency_quadratic"] <= 100
    drift = result["tables"]["drift"][0]
    assert (drift["first_eighth"], drift["last_eighth"], drift["all"]) == (100.0, 100.0, 100.0)
    worlds = [row["ranks"] for row in result["tables"]["one_batch"][:4]]
    assert worlds == [1, 8, 64, 600]


def test_mbflow_goes_on_with_the_same_epoch(result: dict) -> None:
    rows = [row for row in result["tables"]["resume"] if row["strategy"].startswith("mbflow")]
    assert len(rows) == 12
    assert all(row["same"] is True for row in rows)


def test_without_lhotse_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    release_only()
    from importlib import util

    real = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "lhotse" else real(name))
    found = batches.run(parts=("padding",), corpora=("ted",), items=1000, quick=True)["tables"]
    notes = {row["strategy"]: row["note"] for row in found["padding"]}
    assert {name for name, note in notes.items() if note == "lhotse is not installed"} == {
        name for name in STRATEGIES if name.startswith("lhotse")
    }
    assert {row["strategy"] for row in found["order"]} == {
        n for n, note in notes.items() if not note
    }
    assert batch_report.page({"environment": {}, "parameters": {}, "tables": found})


class Page(HTMLParser):
    """Texts and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.addresses: list[str] = []

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.addresses += [value for name, value in attrs if name in ("src", "href")]


def test_the_page_and_the_drawings_hold_the_result(result: dict, tmp_path: Path) -> None:
    whole = {"environment": {"cores": 2, "build": {"profile": "release"}}, **result}
    paths = batch_report.store(whole, tmp_path / "out")
    assert [path.name for path in paths] == [
        "batches.json",
        "batches.html",
        "batches-padding.svg",
        "batches-stragglers.svg",
    ]
    assert json.loads(paths[0].read_text()) == whole
    page = Page()
    page.feed(paths[1].read_text())
    assert page.addresses == []
    assert {batches.TITLES[name] for name in result["tables"]} <= set(page.texts)
    assert any("profile release" in text for text in page.texts)
    for path in paths[2:]:
        text = path.read_text()
        assert "var(" not in text
        assert ET.fromstring(text).tag.endswith("svg")
        assert "mbflow window" in text
    drawn = batch_report.charts(result["tables"])["padding"]
    ours = next(one for one in drawn["series"] if one["name"] == "mbflow buckets 30")
    row = next(r for r in result["tables"]["padding"] if r["strategy"] == "mbflow buckets 30")
    assert ours["mean"] == [row["padding"]]


def test_wrong_arguments_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    release_only()
    with pytest.raises(InvalidArgumentError, match="no part 'speed'; known: planner, padding"):
        batches.run(parts=("speed",))
    with pytest.raises(InvalidArgumentError, match="no corpus 'x'"):
        batches.run(corpora=("x",))
    with pytest.raises(InvalidArgumentError, match="items is 10; expected at least 1000"):
        batches.run(items=10)
    monkeypatch.setattr(_native, "build_info", lambda: {"profile": "debug"})
    with pytest.raises(ResourceError, match="is a debug build"):
        batches.run()


def test_scale_plans_in_a_process_of_its_own() -> None:
    records = batch_memory.scale(5000, lambda _: None)
    assert [record["strategy"] for record in records] == ["mbflow buckets", "mbflow window"]
    assert all(record["epoch_items_per_second"] > 0 for record in records)
    assert all(20 < record["peak_mb"] < 2000 for record in records)
    with pytest.raises(ResourceError, match=r"the process ended: .*no index of lengths"):
        batch_memory.in_a_process("plan", "buckets", "no-such-folder", "plan")


def test_from_the_command_line(
    result: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["bench", "batches", "--quick", "--part", "padding", "--items", "1000"]
    assert main([*given, "--corpus", "ted", "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["environment", "parameters", "tables"]
    assert list(found["tables"]) == ["padding", "order", "packing"]
    assert json.loads((tmp_path / "batches.json").read_text()) == found
    cli._tables("batches", {"environment": {"cores": 2}, **result}, None, as_json=False)
    printed = capsys.readouterr()
    assert all(batches.TITLES[name] in printed.out for name in result["tables"])
    assert "cores: 2" in printed.err
    assert main(["bench", "batches", "--part", "nothing"]) == 2
    assert "no part 'nothing'" in capsys.readouterr().err


def test_edges_of_equal_duration_share_the_seconds() -> None:
    made = Corpus.made("librispeech", 5000)
    bucket = np.searchsorted(equal_duration(made, 5), made.seconds)
    shares = np.bincount(bucket, made.seconds) / made.seconds.sum()
    np.testing.assert_allclose(shares, 0.2, atol=0.01)
