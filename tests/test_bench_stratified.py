"""The benchmark of stratified batches on a small set."""

from __future__ import annotations

import numpy as np
import pytest

from mbflow.bench import stratified
from mbflow.errors import InvalidArgumentError


def test_records_say_what_the_batches_hold():
    told = []
    records = stratified.run(
        rows=2_000, classes=5, batch_size=50, repeats=1, on_progress=told.append
    )
    assert [tuple(record) for record in records] == [stratified.COLUMNS] * 5
    assert len(told) == 5
    by_name = {record["method"]: record for record in records}
    ours = by_name["mbflow proportional"]
    assert ours["rows_off_mixture"] < 1.0
    assert (ours["rows_missed"], ours["rows_repeated"]) == (0, 0)
    assert by_name["mbflow balanced, as many rows"]["rows_off_mixture"] < 1.0
    drawn = by_name["torch WeightedRandomSampler"]
    if not drawn["note"]:
        assert drawn["rows_off_mixture"] > 1.0
        assert drawn["rows_missed"] > 0


def test_labels_have_classes_of_halving_sizes():
    labels = stratified.class_labels(1 << 12, 5, seed=1)
    assert np.bincount(labels).tolist() == [2048, 1024, 512, 256, 256]
    assert (np.diff(labels) != 0).sum() > 1000
    with pytest.raises(InvalidArgumentError, match="8 rows in 5 classes"):
        stratified.class_labels(8, 5)
