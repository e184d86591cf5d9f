"""Going on in the middle of an epoch: how long it takes, and is it the same epoch."""

from __future__ import annotations

import time
from importlib import util
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.bench import lhotse_peer
from mbflow.bench.batch_strategies import PEER, Corpus, planned

if TYPE_CHECKING:
    from collections.abc import Callable

    from mbflow.speech import DurationBatches

__all__ = ["resume"]

_SHARES = (0.1, 0.5, 0.9)


def resume(corpus: Corpus, tell: Callable[[str], object]) -> list[dict[str, Any]]:
    """Go on at 10, 50 and 90 % of an epoch, with one rank, and from 8 ranks with 6.

    Args:
        corpus: The corpus.
        tell: Called before each run with a line of text.

    Returns:
        Records: `milliseconds` from a state to the next batch, with the plan at hand;
        `cold_milliseconds` from lengths, where the plan is made again (lhotse always reads its
        items again); and `same`: with one rank, that all batches that follow are those of a run
        that was not stopped (lhotse: the next batch); with others, that the two runs hold each item
        just once, not counting marked repeats.

    Example:
        >>> from mbflow.bench.batch_resume import resume
        >>> resume.__name__
        'resume'
    """
    records = []
    for order in ("buckets", "window"):
        for share in _SHARES:
            tell(f"resume: mbflow {order}, at {share:.0%}")
            records.append(_ours(corpus, order, share))
        for share in _SHARES:
            tell(f"resume: mbflow {order}, 8 to 6 ranks, at {share:.0%}")
            records.append(_with_other_ranks(corpus, order, share))
    if util.find_spec("lhotse") is None:
        note = "lhotse is not installed"
        return [*records, _record(PEER, "1", _SHARES[0], None, None, same=None, note=note)]
    tell(f"resume: {PEER}, the batches of an epoch")
    batches = sum(1 for _ in lhotse_peer.batches(lhotse_peer.Cuts(corpus.seconds)))
    for share in _SHARES:
        tell(f"resume: {PEER}, at {share:.0%}")
        records.append(_lhotse(corpus, share, batches))
    return [*records, _lhotse_with_other_ranks(corpus)]


def _record(
    strategy: str,
    ranks: str,
    share: float,
    seconds: float | None,
    cold: float | None,
    *,
    same: bool | None,
    note: str = "",
) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "ranks": ranks,
        "at": f"{share:.0%}",
        "milliseconds": seconds and seconds * 1e3,
        "cold_milliseconds": cold and cold * 1e3,
        "same": same,
        "note": note,
    }


def _ours(corpus: Corpus, order: str, share: float) -> dict[str, Any]:
    batches = planned(corpus, order=order)
    done = int(share * batches.steps())
    state = batches.sampler().state_dict(steps=done)
    seconds, first = _go_on(batches, state)
    started = time.perf_counter()
    fresh = planned(corpus, order=order)
    cold = time.perf_counter() - started
    cold += _go_on(fresh, state)[0]
    sampler = batches.sampler()
    sampler.load_state_dict(state)
    rest = list(sampler)
    wanted = [batch.tolist() for batch in batches.epoch(0, start_step=done)]
    return _record(
        f"mbflow {order}", "1", share, seconds, cold, same=rest == wanted and first == wanted[0]
    )


def _go_on(batches: DurationBatches, state: dict[str, Any], ranks: int = 1) -> tuple[float, Any]:
    started = time.perf_counter()
    sampler = batches.sampler(0, ranks)
    sampler.load_state_dict(state)
    first = next(iter(sampler))
    return time.perf_counter() - started, first


def _with_other_ranks(corpus: Corpus, order: str, share: float) -> dict[str, Any]:
    batches = planned(corpus, order=order)
    done = int(share * batches.steps(world_size=8))
    state = batches.sampler(0, 8).state_dict(steps=done)
    fresh = planned(corpus, order=order)
    seconds, _ = _go_on(fresh, state, 6)
    times = np.zeros(len(corpus.seconds), np.int64)
    for rank in range(8):
        epoch = batches.epoch(0, rank=rank, world_size=8)
        for step in range(done):
            items = next(epoch)
            np.add.at(times, items[~_marked(batches, step, rank, 8, 0)], 1)
    start = state["batches_done"]
    for rank in range(6):
        for step, items in enumerate(batches.epoch(0, rank=rank, world_size=6, start=start)):
            np.add.at(times, items[~_marked(batches, step, rank, 6, start)], 1)
    same = bool((times == 1).all())
    return _record(f"mbflow {order}", "8 to 6", share, seconds, None, same=same)


def _marked(batches: DurationBatches, step: int, rank: int, ranks: int, start: Any) -> Any:
    return batches.repeats(0, step, rank=rank, world_size=ranks, start=start)


def _lhotse(corpus: Corpus, share: float, batches: int) -> dict[str, Any]:
    cuts = lhotse_peer.Cuts(corpus.seconds)
    state, wanted = lhotse_peer.state_after(cuts, int(share * batches))
    started = time.perf_counter()
    first = lhotse_peer.replay(cuts, state)
    cold = time.perf_counter() - started
    return _record(PEER, "1", share, None, cold, same=first == wanted)


def _lhotse_with_other_ranks(corpus: Corpus) -> dict[str, Any]:
    # The numbers of ranks are compared before anything else, so a few items will do.
    cuts = lhotse_peer.Cuts(corpus.seconds[:5000])
    state, _ = lhotse_peer.state_after(cuts, 1, world_size=8)
    note = "not refused"
    try:
        lhotse_peer.replay(cuts, state, world_size=6)
    except AssertionError as error:
        note = str(error).partition("(")[0].strip()
    return _record(PEER, "8 to 6", _SHARES[0], None, None, same=None, note=note)
