"""What the sampler of lhotse's cuts is told: cuts, limits, buckets, ranks, and what it refuses."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from lhotse_cuts import SECONDS, cuts_of, ids, lhotse, sampler_of
from mbflow.errors import DataError, InvalidArgumentError, MissingExtraError
from mbflow.speech import Budget, lhotse_sampler

pytestmark = pytest.mark.peer("lhotse", "torch")
data = pytest.importorskip("lhotse.dataset")
sampling = pytest.importorskip("lhotse.dataset.sampling.base")


def test_without_lhotse_an_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lhotse", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mbflow\[lhotse\]'"):
        lhotse_sampler([], max_cuts=1)


def test_importing_speech_loads_neither_lhotse_nor_torch():
    code = "import mbflow.speech, sys; print(*sorted(sys.modules))"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    assert "mbflow.speech.lhotse" in loaded
    assert {"lhotse", "torch", "mbflow.speech.cut_sampler"} & set(loaded) == set()


def test_ranks_are_found_as_lhotse_finds_them(monkeypatch):
    assert (sampler_of().rank, sampler_of().world_size) == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    assert (sampler_of().rank, sampler_of().world_size) == (2, 4)
    assert sampler_of(rank=1).rank == 1
    with pytest.raises(InvalidArgumentError, match="no such rank: rank is 7"):
        sampler_of(rank=7)


def test_a_manifest_may_be_lazily_opened_or_any_iterable(tmp_path):
    path = tmp_path / "cuts.jsonl.gz"
    cuts_of().to_file(path)
    lazy = lhotse.CutSet.from_jsonl_lazy(path)
    assert lazy.is_lazy
    expected = ids(sampler_of())
    assert ids(sampler_of(lazy)) == expected
    assert ids(sampler_of(cut for cut in cuts_of())) == expected
    again = pickle.loads(pickle.dumps(sampler_of(lazy)))
    assert ids(again) == expected
    with pytest.raises(InvalidArgumentError, match="repeat without end"):
        sampler_of(lazy.repeat())
    assert sampler_of(lazy.repeat(2)).num_cuts == 2 * len(SECONDS)


class Odd:
    id = "odd"
    duration = None


@pytest.mark.parametrize(
    ("cuts", "options", "message"),
    [
        ([], {}, "there is no cut"),
        ([Odd()], {}, "cut 'odd': item 0, a Odd, has no duration"),
        ([{"duration": 3}], {}, "cut number 0: item 0, a dict, has no duration"),
        (cuts_of([2.0, 3.0, 70.0]), {}, "cut 'cut-2': item 2 of 70 seconds is above the budget"),
        (
            cuts_of([2.0, 3.0]),
            {"tokens": "words"},
            "cut 'cut-0': item 0, a MonoCut, has no words",
        ),
        (cuts_of([2.0, 3.0]), {"tokens": lambda cut: -1}, "cut 'cut-0': tokens: item 0 is -1"),
        (
            cuts_of([2.0, 3.0]),
            {"tokens": lambda cut: [3]},
            "cut 'cut-0': item 0, a MonoCut, has tokens .3., no number",
        ),
        (cuts_of([2.0]), {"tokens": lambda cut: 10**400}, "above what a float holds"),
    ],
)
def test_cuts_that_cannot_be_used_are_named(cuts, options, message):
    with pytest.raises(DataError, match=message):
        sampler_of(cuts, **options)


def test_a_cut_without_length_is_named():
    cuts = list(cuts_of([2.0, 3.0]))
    cuts[1].duration = 0.0
    with pytest.raises(DataError, match=r"cut 'cut-1': seconds: item 1 is 0.0"):
        sampler_of(cuts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_duration": None}, "nothing limits a batch"),
        ({"cuts": 5}, "cuts is a int; expected a CutSet"),
        ({"tokens": 3}, "tokens is 3; expected the name of an attribute"),
        ({"max_cuts": 10**400}, "most is 1000"),
        ({"duration_bins": [10**400]}, "expected seconds"),
        ({"max_duration": None, "quadratic_duration": 20.0}, "no effect without max_duration"),
        ({"max_durations": 5.0}, "no argument `max_durations`"),
        ({"seed": "trng"}, "seed is 'trng'"),
        ({"world_size": 0}, "world_size is 0"),
        ({"drop_last": True, "world_size": 300}, "too few for 300 ranks"),
        ({"duration_bins": [5.0, 3.0]}, "rising order"),
        ({"duration_bins": ["a"]}, "expected seconds"),
        ({"duration_bins": [3.0], "edges": "equal_count"}, "one of them at most"),
        ({"constraint": sampling.TimeConstraint(5.0)}, "none beside max_duration"),
        ({"constraint": object(), "max_duration": None}, "say others by budget"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        sampler_of(**options)


def test_what_lhotse_needs_for_a_stream_has_no_effect():
    assert ids(
        sampler_of(
            buffer_size=5,
            shuffle_buffer_size=5,
            num_cuts_for_bins_estimate=5,
            concurrent=True,
            sync_buckets=False,
            consistent_ids=False,
            strict=True,
        )
    ) == ids(sampler_of())


def test_limits_may_be_said_in_lhotses_ways_and_ours():
    own = sampler_of(max_cuts=7, quadratic_duration=20.0)
    constraint = sampling.TimeConstraint(60.0, max_cuts=7, quadratic_duration=20.0)
    assert ids(sampler_of(max_duration=None, constraint=constraint)) == ids(own)
    budget = Budget.padded_seconds(60.0, quadratic=20.0) & Budget.items(7)
    assert ids(sampler_of(max_duration=None, budget=budget)) == ids(own)
    assert ids(sampler_of(quadratic_duration=20.0, budget=Budget.items(7))) == ids(own)
    # At the edges of a table and of bins a cut belongs to the bucket that it ends.
    durations = [4.1] * 7 + [16.1] * 5 + [9.0] * 2
    table = data.sampling.dynamic_bucketing.FixedBucketBatchSizeConstraint([4.1, 16.1], [3, 2])
    found = ids(sampler_of(cuts_of(durations), max_duration=None, constraint=table))
    assert sorted(map(len, found)) == [1, 1, 2, 2, 2, 3, 3]
    binned = sampler_of(cuts_of(durations), duration_bins=[4.1, 9.0, 9.0])
    assert binned.batches.edges.seconds == pytest.approx([4.1, 9.0, 16.1])


def test_buckets_in_seconds_and_tokens():
    cuts = cuts_of()
    for row, cut in enumerate(cuts):
        cut.words = 1 + row % 40
    by_name = sampler_of(cuts, tokens="words", num_buckets=(3, 4))
    by_function = sampler_of(cuts, tokens=lambda cut: cut.words, num_buckets=(3, 4))
    found = list(by_name)
    assert ids(found) == ids(by_function)
    edges = by_name.batches.edges
    for batch in found:
        seconds = np.array([cut.duration for cut in batch], np.float32)
        words = np.array([cut.words for cut in batch], np.uint32)
        assert len(set(edges.assign(seconds, words).tolist())) == 1


def test_no_cuts_are_refused():
    with pytest.raises(InvalidArgumentError, match="cuts is a NoneType; expected a CutSet"):
        lhotse_sampler(None, max_duration=5.0)


def test_durations_and_tokens_may_be_ints_and_floats():
    cuts = list(cuts_of([2.0, 2.5, 3.0]))
    cuts[0].duration = 2
    sampler = sampler_of(cuts, tokens=lambda cut: 4 if cut.duration == 2 else 5.0)
    assert sampler.batches.lengths.seconds.tolist() == [2.0, 2.5, 3.0]
    assert sampler.batches.lengths.tokens.tolist() == [4, 5, 5]


def test_ranks_may_be_narrow_integers():
    ranks = {"world_size": np.uint8(2), "rank": np.uint64(1)}
    assert ids(sampler_of(**ranks)) == ids(sampler_of(world_size=2, rank=1))


def test_a_filter_that_fails_leaves_the_sampler_as_it_was():
    def broken(cut):
        raise KeyError(cut.id)

    sampler = sampler_of(cuts_of([2.0] * 60), drop_last=True, world_size=2, rank=0, max_cuts=5)
    wanted, plan = ids(sampler), sampler.fingerprint()
    for predicate, error in (
        (lambda cut: cut.id == "cut-3", InvalidArgumentError),
        (lambda cut: False, DataError),
        (broken, KeyError),
    ):
        with pytest.raises(error):
            sampler.filter(predicate)
        assert sampler.num_cuts == len(sampler.cuts[0]) == 60
        assert sampler.fingerprint() == plan
        assert ids(sampler) == wanted
    assert sampler.filter(lambda cut: cut.id != "cut-3").num_cuts == 59
