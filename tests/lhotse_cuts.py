"""Cuts without audio and samplers of them, for the tests of lhotse's side."""

from __future__ import annotations

import numpy as np
import pytest

from mbflow.speech import lhotse_sampler

torch = pytest.importorskip("torch")
lhotse = pytest.importorskip("lhotse")

SECONDS = np.random.default_rng(3).lognormal(1.5, 0.6, 400).clip(0.5, 25).round(3)


def cuts_of(seconds=SECONDS):
    return lhotse.CutSet(
        [
            lhotse.MonoCut(f"cut-{row}", start=0, duration=float(duration), channel=0)
            for row, duration in enumerate(seconds)
        ]
    )


def sampler_of(cuts=None, **options):
    options = {"max_duration": 60.0, "num_buckets": 6, **options}
    return lhotse_sampler(cuts_of() if cuts is None else cuts, **options)


def ids(batches):
    return [[cut.id for cut in batch] for batch in batches]


def flat(batches):
    return [id_ for batch in batches for id_ in batch]


def original(id_):
    return id_.partition("_dup")[0]


class Ids(torch.utils.data.Dataset):
    """A map-style data set that is asked for a CutSet."""

    def __getitem__(self, cuts):
        assert isinstance(cuts, lhotse.CutSet)
        return [cut.id for cut in cuts]
