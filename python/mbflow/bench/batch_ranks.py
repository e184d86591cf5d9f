"""Several ranks: who waits for whom, do they take the same bucket, what does a batch cost."""

from __future__ import annotations

import time
from functools import partial
from importlib import util
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow import _native
from mbflow.bench import lhotse_peer
from mbflow.bench.batch_measures import Epoch, coverage, stragglers, strided
from mbflow.bench.batch_strategies import PEER, STRATEGIES, Corpus, equal_duration, planned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from mbflow.speech import DurationBatches

__all__ = ["drift", "one_batch", "ranks"]

Records = list[dict[str, Any]]

_RANKS = (8, 64)
_WORLDS = (1, 8, 64, 600)
_DRAWS = 0xD0_0030
# Batches that are timed. lhotse makes as many batches as there are ranks for each one it gives.
_CALLS = 2000
_PEER_BATCHES = 1500
_COLUMNS = (
    "steps", "efficiency", "efficiency_quadratic", "used", "same_bucket", "missed", "repeated",
)  # fmt: skip


def ranks(corpus: Corpus, tell: Callable[[str], object]) -> Records:
    """One epoch with 8 and with 64 ranks, and with 8 also where what fills no step is dropped.

    Peers that know no ranks are dealt as torch's `DistributedSampler` deals.

    Args:
        corpus: The corpus.
        tell: Called before each run with a line of text.

    Returns:
        Records: steps, the shares of `batch_measures.stragglers`, items missed and repeated.

    Example:
        >>> from mbflow.bench.batch_ranks import ranks
        >>> ranks.__name__
        'ranks'
    """
    records: Records = []
    for name, needs, run in _ways(corpus):
        for size, drop in ((8, False), (8, True), (64, False)):
            key = {"corpus": corpus.name, "strategy": name, "ranks": size, "drop_last": drop}
            none = key | dict.fromkeys(_COLUMNS)
            if needs and util.find_spec(needs) is None:
                records.append(none | {"note": f"{needs} is not installed"})
                continue
            tell(f"ranks, {corpus.name}: {name}, {size} ranks" + (", drop last" if drop else ""))
            found = run(size, drop)
            if found is None:
                continue
            steps, edges = found
            if not steps:
                records.append(none | {"note": "too few items for a step of all ranks"})
                continue
            epoch = Epoch.of([batch for step in steps for batch in step])
            records.append(
                key
                | {"steps": len(steps)}
                | stragglers(epoch, size, corpus.seconds, edges)
                | coverage(epoch, len(corpus.seconds))
                | {"note": ""}
            )
    return records


_Steps = tuple[list[list[Any]], "NDArray[np.float64] | None"]
_Way = tuple[str, str | None, "Callable[[int, bool], _Steps | None]"]


def _ways(corpus: Corpus) -> list[_Way]:
    return [
        ("mbflow buckets 30", None, partial(_ours, corpus, "buckets")),
        ("mbflow window", None, partial(_ours, corpus, "window")),
        (PEER, "lhotse", partial(_lhotse, corpus, sync=True)),
        (f"{PEER}, not synchronised", "lhotse", partial(_lhotse, corpus, sync=False)),
        *(
            (name, None, partial(_dealt, corpus, name))
            for name in ("SpeechBrain 30, equal duration", "random 48")
        ),
    ]


def _ours(corpus: Corpus, order: str, size: int, drop: bool) -> _Steps:  # noqa: FBT001 - see _ways
    batches = planned(corpus, order=order, drop_last=drop)
    edges = None if batches.edges is None else batches.edges.seconds
    return _steps(batches, 0, size), edges


def _steps(batches: DurationBatches, epoch: int, size: int) -> list[list[NDArray[np.int64]]]:
    """The batches of all ranks at each step; `strict` since all have as many steps."""
    each = [batches.epoch(epoch, rank=rank, world_size=size) for rank in range(size)]
    return [list(step) for step in zip(*each, strict=True)]


def _lhotse(corpus: Corpus, size: int, drop: bool, *, sync: bool) -> _Steps | None:  # noqa: FBT001
    if drop and not sync:
        return None
    edges = equal_duration(corpus)
    options = {"duration_bins": edges[:-1].tolist(), "drop_last": drop, "sync_buckets": sync}
    return list(lhotse_peer.all_ranks(lhotse_peer.Cuts(corpus.seconds), size, **options)), edges


def _dealt(corpus: Corpus, name: str, size: int, drop: bool) -> _Steps | None:  # noqa: FBT001
    if drop:
        return None
    batches = strided(list(STRATEGIES[name].batches(corpus)), size)
    steps = [batches[at : at + size] for at in range(0, len(batches), size)]
    return steps, equal_duration(corpus) if name.startswith("SpeechBrain") else None


def drift(corpus: Corpus, steps: int, tell: Callable[[str], object]) -> Records:
    """Four ranks over many steps: lhotse in its iterable style, epoch after epoch for mbflow.

    Args:
        corpus: The corpus.
        steps: Steps to take; the shares are of the first and of the last eighth, and of all.
        tell: Called before each run with a line of text.

    Returns:
        Records: same bucket in per cent of the steps, and the straggler efficiency of the last
        eighth.

    Example:
        >>> from mbflow.bench.batch_ranks import drift
        >>> drift.__name__
        'drift'
    """
    size, part = 4, max(1, steps // 8)
    records: Records = []
    for name in ("mbflow buckets 30", PEER):
        if name == PEER and util.find_spec("lhotse") is None:
            records.append({"strategy": name, "steps": steps, **dict.fromkeys(_DRIFT)})
            continue
        tell(f"drift: {name}, {steps} steps of {size} ranks")
        found: list[list[Any]] = []
        edges: NDArray[np.float64]
        if name == PEER:
            found, edges = lhotse_peer.endless_ranks(corpus.seconds, size, steps)
        else:
            batches = planned(corpus)
            assert batches.edges is not None, "batches in buckets"
            edges = batches.edges.seconds
            number = 0
            while len(found) < steps:
                found += _steps(batches, number, size)
                number += 1
        shares = [
            stragglers(
                Epoch.of([batch for step in taken for batch in step]), size, corpus.seconds, edges
            )
            for taken in (found[:part], found[steps - part : steps], found[:steps])
        ]
        values = (
            *(share["same_bucket"] for share in shares),
            shares[1]["efficiency"],
            shares[1]["efficiency_quadratic"],
        )
        records.append({"strategy": name, "steps": steps, **dict(zip(_DRIFT, values, strict=True))})
    return records


_DRIFT = ("first_eighth", "last_eighth", "all", "late_efficiency", "late_efficiency_quadratic")


def one_batch(corpus: Corpus, tell: Callable[[str], object]) -> Records:
    """What one batch costs by world size: of any rank at any step, and lhotse's next one.

    Args:
        corpus: The corpus.
        tell: Called before each run with a line of text.

    Returns:
        Records: by world size the first batch and the mean of later ones, of mbflow the best of
        three passes, in microseconds of
        processor time. A first batch of mbflow is the first of an epoch and a world size, of a plan
        that is there; one of lhotse holds the filling of its buffer.

    Example:
        >>> from mbflow.bench.batch_ranks import one_batch
        >>> one_batch.__name__
        'one_batch'
    """
    records: Records = []
    for order in ("buckets", "window"):
        name = f"mbflow {order}, any step and rank"
        batches = planned(corpus, order=order)
        for world in _WORLDS:
            tell(f"one batch: {name}, {world} ranks")
            batch = partial(batches.batch, 0, world_size=world)
            first = _clocked(partial(batch, 0, rank=world - 1))
            total = batches.steps(0, world_size=world)
            drawn = [
                _native.random_integers(world, _DRAWS + of, most, 0, _CALLS).tolist()
                for of, most in enumerate((total, world))
            ]
            later = min(
                _clocked(
                    lambda: [batch(step, rank=rank) for step, rank in zip(*drawn, strict=True)]  # noqa: B023
                )
                for _ in range(3)
            )
            records.append(_record(name, world, first, later / _CALLS))
    records += [_peers_batch(corpus, world, tell) for world in _WORLDS]
    mine = {row["ranks"]: row["microseconds"] for row in records[: len(_WORLDS)]}
    for row in records:
        own = row["microseconds"]
        row["times_mbflow_buckets"] = own and own / mine[row["ranks"]]
    return records


def _peers_batch(corpus: Corpus, world: int, tell: Callable[[str], object]) -> dict[str, Any]:
    name = f"{PEER}, next step"
    if util.find_spec("lhotse") is None:
        return _record(name, world, None, None)
    tell(f"one batch: {name}, {world} ranks")
    made = lhotse_peer.batches(lhotse_peer.Cuts(corpus.seconds), world_size=world)
    first = _clocked(partial(next, made))
    times: list[float] = []
    while len(times) < max(2, _PEER_BATCHES // world):
        started = time.process_time()
        if next(made, None) is None:
            break
        times.append(time.process_time() - started)
    return _record(name, world, first, float(np.mean(times)) if times else None)


def _record(name: str, world: int, first: float | None, later: float | None) -> dict[str, Any]:
    return {
        "strategy": name,
        "ranks": world,
        "first_us": first and first * 1e6,
        "microseconds": later and later * 1e6,
    }


def _clocked(run: Callable[[], Iterable[Any]]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started
