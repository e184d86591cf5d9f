"""Speech: batches of utterances of like length, without compute for padding.

Example:
    >>> from mbflow.speech import Budget, DurationBatches
    >>> batches = DurationBatches([2.0, 9.0, 2.5, 8.0], budget=Budget.padded_seconds(20), buckets=2)
    >>> sorted(sorted(batches.batch(0, step).tolist()) for step in range(batches.steps(0)))
    [[0, 2], [1, 3]]
"""

from __future__ import annotations

from mbflow.batches import BatchSampler
from mbflow.speech.budget import Budget
from mbflow.speech.dropped import outliers
from mbflow.speech.durations import DurationBatches
from mbflow.speech.edges import Edges, bucket_edges
from mbflow.speech.lengths import Lengths
from mbflow.speech.lhotse import lhotse_sampler
from mbflow.speech.mix import MixedBatches
from mbflow.speech.packing import PackedBatches, PackedRows, PackReport
from mbflow.speech.report import BatchReport
from mbflow.speech.stream import MixReport

__all__ = [
    "BatchReport",
    "BatchSampler",
    "Budget",
    "DurationBatches",
    "Edges",
    "Lengths",
    "MixReport",
    "MixedBatches",
    "PackReport",
    "PackedBatches",
    "PackedRows",
    "bucket_edges",
    "lhotse_sampler",
    "outliers",
]
