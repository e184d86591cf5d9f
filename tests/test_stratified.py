"""Stratified batches: mixture, repeats, ranks, kinds of labels, wrong input."""

from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mbflow
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.stratified import StratifiedBatches
from oracles import class_counts

label_lists = st.lists(st.integers(0, 6), min_size=1, max_size=80)
lasts = st.sampled_from(["short", "drop", "fill"])


def epoch_of(batches, epoch=0, world_size=1):
    """(rows, repeats) of each step and rank, in order."""
    places = {"world_size": world_size}
    return [
        (
            batches.batch(epoch, step, rank=rank, **places),
            batches.repeats(epoch, step, rank=rank, **places),
        )
        for step in range(batches.steps(world_size=world_size))
        for rank in range(world_size)
    ]


@given(labels=label_lists, size=st.integers(1, 20), seed=st.integers(0, 5), last=lasts)
def test_proportional_batches_hold_the_mixture(labels, size, seed, last):
    if last == "drop":
        size = min(size, len(labels))
    batches = StratifiedBatches(labels, size, last=last, seed=seed)
    labels = np.array(labels)
    taken = epoch_of(batches, epoch=seed)
    rows = np.concatenate([rows for rows, _ in taken])
    repeats = np.concatenate([repeats for _, repeats in taken])
    assert rows.dtype == np.int64
    if last == "short":
        assert sorted(rows) == list(range(len(labels)))
        assert not repeats.any()
    elif last == "drop":
        assert len(rows) == len(labels) // size * size
        assert len(set(rows)) == len(rows)
    else:
        assert len(rows) == -(-len(labels) // size) * size
        assert sorted(rows[~repeats]) == list(range(len(labels)))
    for batch, _ in taken:
        if last != "short":
            assert len(batch) == size
        counts = class_counts(labels[batch], batches.classes)
        for count, quota in zip(counts, batches.quotas, strict=True):
            share = Fraction(int(quota) * len(batch), int(batches.quotas.sum()))
            assert int(share) <= count <= -(-share // 1)


@given(
    labels=label_lists,
    size=st.integers(1, 20),
    world_size=st.integers(1, 7),
    balanced=st.booleans(),
)
def test_ranks_together_hold_the_epoch_once(labels, size, world_size, balanced):
    mixture = "balanced" if balanced else "proportional"
    batches = StratifiedBatches(labels, size, mixture=mixture)
    taken = epoch_of(batches, world_size=world_size)
    rows = np.concatenate([rows for rows, _ in taken])
    repeats = np.concatenate([repeats for _, repeats in taken])
    assert min(len(rows) for rows, _ in taken) >= 1
    assert sorted(rows[~repeats]) == list(range(len(labels)))
    last = [len(rows) for rows, _ in taken[-world_size:]]
    assert max(last) - min(last) <= 1
    assert all(len(rows) == size for rows, _ in taken[:-world_size])
    # Repeats are those of the mixture, and one for each rank that would have none.
    assert len(rows) == max(
        int(batches.quotas.sum()),
        (batches.steps(world_size=world_size) - 1) * size * world_size + world_size,
    )


@given(labels=label_lists, size=st.integers(1, 20), data=st.data())
def test_weights_repeat_rare_rows_equally_often(labels, size, data):
    weights = {name: data.draw(st.sampled_from([0.5, 1, 3])) for name in set(labels)}
    batches = StratifiedBatches(labels, size, mixture=weights, seed=3)
    labels = np.array(labels)
    taken = epoch_of(batches)
    rows = np.concatenate([rows for rows, _ in taken])
    occurrences = np.bincount(rows, minlength=len(labels))
    assert occurrences.min() >= 1
    per_weight = max(Fraction(int((labels == c).sum())) / Fraction(w) for c, w in weights.items())
    for name, quota in zip(batches.classes, batches.quotas, strict=True):
        of_class = occurrences[labels == name]
        assert of_class.sum() == quota
        assert of_class.max() - of_class.min() <= 1
        assert abs(quota - per_weight * Fraction(weights[name])) <= Fraction(1, 2)
    for batch, _ in taken:
        for count, quota in zip(
            class_counts(labels[batch], batches.classes), batches.quotas, strict=True
        ):
            share = Fraction(int(quota) * len(batch), int(batches.quotas.sum()))
            assert int(share) <= count <= -(-share // 1)


def test_balanced_batches_of_a_rare_class():
    labels = np.array([0] * 990 + [1] * 10)
    batches = StratifiedBatches(labels, 32, mixture="balanced", seed=1)
    for rows, _ in epoch_of(batches)[:-1]:
        assert labels[rows].sum() == 16
    smaller = StratifiedBatches(labels, 32, mixture="balanced", epoch_rows=320)
    assert smaller.quotas.tolist() == [160, 160]
    # 160 of 990 rows in each of six epochs: none twice.
    common = [
        row
        for epoch in range(6)
        for rows, _ in epoch_of(smaller, epoch)
        for row in rows
        if row < 990
    ]
    assert len(common) == len(set(common)) == 960


def test_rare_rows_are_spread_over_the_epoch():
    labels = np.array([0] * 1000 + [1] * 10)
    batches = StratifiedBatches(labels, 10)
    steps = [
        [step for step in range(101) if (batches.batch(epoch, step) >= 1000).any()]
        for epoch in range(30)
    ]
    # Ten rows in ten of 101 batches; the mean of their steps wanders around the middle.
    assert all(len(found) == 10 for found in steps)
    assert abs(np.mean(steps) - 50) < 6
    assert all(np.ptp(found) > 40 for found in steps)


def test_epochs_seeds_and_threads():
    labels = np.arange(3_000) % 5
    batches = StratifiedBatches(labels, 64)
    first = [batches.batch(0, step).tolist() for step in range(batches.steps())]
    assert first != [batches.batch(1, step).tolist() for step in range(batches.steps())]
    assert first != [
        StratifiedBatches(labels, 64, seed=1).batch(0, step).tolist()
        for step in range(batches.steps())
    ]
    before = mbflow.num_threads()
    try:
        for threads in (1, 3):
            mbflow.set_num_threads(threads)
            again = StratifiedBatches(labels, 64)
            # From the end, so that no batch can lean on the one before it.
            assert [again.batch(0, s).tolist() for s in reversed(range(47))] == first[::-1]
    finally:
        mbflow.set_num_threads(before)


def test_batches_travel_to_other_processes():
    batches = StratifiedBatches(["a", "b", "b"] * 5, 4, mixture="balanced")
    batches.batch(0, 0)
    other = pickle.loads(pickle.dumps(batches))
    assert other.batch(2, 1).tolist() == batches.batch(2, 1).tolist()
    assert other.fingerprint() == batches.fingerprint()


TEXTS = ["b", "a", "c", "a", "b", "b"] * 7


@pytest.mark.parametrize(
    "labels",
    [
        TEXTS,
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        pl.Series(TEXTS),
        pl.Series(TEXTS, dtype=pl.Categorical),
        pl.Series(TEXTS, dtype=pl.Enum(["c", "b", "a", "unused"])),
        pd.Series(TEXTS, index=range(100, 142)),
        pd.Series(TEXTS, dtype="category"),
        pa.array(TEXTS),
        pa.chunked_array([TEXTS[:5], [], TEXTS[5:]]),
        pa.array(TEXTS).dictionary_encode(),
        pa.chunked_array(
            [pa.array(TEXTS[:9]).dictionary_encode(), pa.array(TEXTS[9:]).dictionary_encode()]
        ),
    ],
    ids=lambda labels: (
        f"{type(labels).__module__}.{getattr(labels, 'dtype', getattr(labels, 'type', ''))}"
    ),
)
def test_every_kind_of_labels_gives_the_same_batches(labels):
    batches = StratifiedBatches(labels, 5, mixture={"a": 1, "b": 2, "c": 1})
    expected = StratifiedBatches(TEXTS, 5, mixture={"a": 1, "b": 2, "c": 1})
    assert batches.classes == ("a", "b", "c")
    assert batches.sizes.tolist() == [14, 21, 7]
    assert batches.batch(0, 3).tolist() == expected.batch(0, 3).tolist()


@settings(max_examples=20)
@given(st.sampled_from([np.int8, np.int64, np.uint32, np.float32, np.float64, np.bool_]))
def test_numbers_are_labels(dtype):
    labels = np.array([1, 0, 1, 1], dtype)
    batches = StratifiedBatches(labels, 4)
    assert batches.classes == (0, 1)
    assert batches.sizes.tolist() == [1, 3]


@pytest.mark.parametrize(
    "values", [[-128, 127], [0, 2**63 + 5], [-(2**63), 2**63 - 1], [2**40, 2**40 + 3], [5, 10**7]]
)
def test_far_apart_numbers_are_labels(values):
    dtype = np.uint64 if max(values) >= 2**63 else np.int64
    batches = StratifiedBatches(np.array(values * 3, dtype), 2)
    assert batches.classes == tuple(values)
    assert sorted(row % 2 for row in batches.batch(0, 0)) == [0, 1]


@pytest.mark.parametrize("classes", [256, 257, 70_000])
def test_many_classes(classes):
    labels = np.arange(2 * classes) % classes
    batches = StratifiedBatches(labels, 100)
    assert len(batches.classes) == classes
    # More classes than a batch has rows: a class may be absent, none comes twice.
    assert len(set(labels[batches.batch(0, 1)])) == 100
    assert batches.batches == -(-2 * classes // 100)


def test_wrong_labels_are_refused():
    with pytest.raises(DataError, match="no row"):
        StratifiedBatches([], 2)
    with pytest.raises(DataError, match="row 1 has no class") as caught:
        StratifiedBatches(["a", None, None], 2)
    assert caught.value.row == 1
    with pytest.raises(DataError, match="row 2 has no class"):
        StratifiedBatches(np.array([1.0, 2.0, np.nan]), 2)
    with pytest.raises(DataError, match="no class label"):
        StratifiedBatches(pl.Series([[1], [2]]), 2)
    with pytest.raises(InvalidArgumentError):
        StratifiedBatches(np.zeros((2, 2)), 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"seed": -1}, "seed is -1"),
        ({"last": "keep"}, "last is 'keep'"),
        (
            {"mixture": "equal"},
            "mixture is 'equal'; expected 'proportional', 'balanced' or a mapping",
        ),
        ({"mixture": 3}, "expected 'proportional', 'balanced' or a mapping"),
        ({"mixture": {"a": 1}}, "class 'b' has no weight"),
        ({"mixture": {"a": 1, "b": 1, "z": 1}}, "no row has the class 'z'"),
        ({"mixture": {"a": 1, "b": 0}}, "the weight of class 'b' is 0"),
        ({"mixture": {"a": 1, "b": -2}}, "the weight of class 'b' is -2"),
        ({"mixture": {"a": 1, "b": float("nan")}}, "the weight of class 'b' is nan"),
        ({"mixture": {"a": 1, "b": True}}, "the weight of class 'b' is True"),
        ({"mixture": {"a": 1, "b": 1e-300}}, "set epoch_rows"),
        ({"epoch_rows": 0}, "epoch_rows is 0"),
        ({"epoch_rows": 1}, "would have no row in an epoch of 1 rows"),
        ({"batch_size": 10, "last": "drop"}, "leaves no batch"),
    ],
)
def test_wrong_parameters_are_refused(options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        StratifiedBatches(["a", "b", "b"], **({"batch_size": 2} | options))


def test_measurements_are_no_labels():
    with pytest.raises(DataError, match=r"row 1 is 0\.5, which is no class label.*quantile_labels"):
        StratifiedBatches(np.array([1.0, 0.5, 2.0]), 2)


def test_batches_larger_than_the_data():
    batches = StratifiedBatches(["a", "b", "b"], 10)
    assert batches.steps() == 1
    assert sorted(batches.batch(0, 0)) == [0, 1, 2]
    filled = StratifiedBatches(["a", "b", "b"], 10, last="fill")
    assert len(filled.batch(0, 0)) == 10
    assert filled.repeats(0, 0).sum() == 7


def test_places_that_do_not_exist_are_refused():
    batches = StratifiedBatches([0, 1, 1], 2)
    for arguments, places, message in [
        ((-1, 0), {}, "epoch is -1"),
        ((0, 2), {}, "step is 2"),
        ((0, 0), {"rank": 1}, "rank is 1"),
        ((0, 0), {"world_size": 0}, "world_size is 0"),
        ((0, 0), {"start": 3}, "start is 3"),
    ]:
        with pytest.raises(InvalidArgumentError, match=message):
            batches.batch(*arguments, **places)
