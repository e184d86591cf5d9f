"""The steps of duration batches, between Parquet and the functions of `mbflow.speech`.

Example:
    >>> from mbflow.steps.speech import STEPS
    >>> [step.gives for step in STEPS]
    ['durations', 'buckets', 'batches', 'packed']
"""

from __future__ import annotations

from mbflow.flow.step import Step
from mbflow.steps.speech_batches import BatchesParameters, batches, forecast_batches
from mbflow.steps.speech_durations import durations, forecast_durations
from mbflow.steps.speech_measure import DurationsParameters, can_measure
from mbflow.steps.speech_pack import PackParameters, can_pack, forecast_pack, pack
from mbflow.steps.speech_plan import BucketsParameters, buckets, can_count, forecast_buckets

__all__ = ["STEPS"]

# Estimates are what the process holds at the peak: the libraries themselves, and bytes by row.
_BASE = 250 << 20
_PIECE = 200 << 20


def _modules(parameters: DurationsParameters) -> tuple[str, ...]:
    return ("soundfile",) if parameters.listens else ()


def _estimate_durations(parameters: DurationsParameters, rows: int, size: int) -> tuple[int, int]:
    del parameters, size  # a batch of audio is in memory at a time, whatever the source holds
    return rows, _BASE + rows * 40


def _estimate_buckets(parameters: BucketsParameters, rows: int, size: int) -> tuple[int, int]:
    del size
    wanted = parameters.buckets or 30
    most = wanted if isinstance(wanted, int) else wanted[0] * wanted[1]
    return min(most, rows), _BASE + rows * 100


def _estimate_batches(parameters: BatchesParameters, rows: int, size: int) -> tuple[int, int]:
    del size
    # How many go out is said by the forecast; without it, no more than the items.
    return parameters.epochs * rows, _BASE + _PIECE + rows * 100


def _estimate_pack(parameters: PackParameters, rows: int, size: int) -> tuple[int, int]:
    del size
    return parameters.epochs * rows, _BASE + _PIECE + rows * 100


STEPS: tuple[Step, ...] = (
    Step(
        use="speech.durations",
        version=1,
        function=durations,
        parameters=DurationsParameters,
        takes=("rows",),
        gives="durations",
        summary="Seconds, and output tokens, of each utterance: from columns, or audio headers.",
        source=True,
        extra="speech",
        modules=_modules,
        estimate=_estimate_durations,
        preflight=can_measure,
        forecast=forecast_durations,
    ),
    Step(
        use="speech.buckets",
        version=1,
        function=buckets,
        parameters=BucketsParameters,
        takes=("durations",),
        gives="buckets",
        summary="Edges of duration buckets, and how many items a batch of each may hold.",
        source=True,
        estimate=_estimate_buckets,
        check=can_count,
        forecast=forecast_buckets,
    ),
    Step(
        use="speech.batches",
        version=1,
        function=batches,
        parameters=BatchesParameters,
        takes=("durations", "buckets?"),
        gives="batches",
        summary="Which utterances each rank takes at each step, in batches of like length.",
        source=True,
        estimate=_estimate_batches,
        check=can_count,
        forecast=forecast_batches,
    ),
    Step(
        use="speech.pack",
        version=1,
        function=pack,
        parameters=PackParameters,
        takes=("durations",),
        gives="packed",
        summary="Utterances packed into rows of one capacity, none of them split.",
        source=True,
        estimate=_estimate_pack,
        check=can_pack,
        forecast=forecast_pack,
    ),
)
