"""Duration batches beside lhotse, SpeechBrain and simple ways: speed, padding, ranks, resume."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib import util
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow import _native
from mbflow.bench import batch_memory, batch_ranks, lhotse_peer
from mbflow.bench.batch_files import files
from mbflow.bench.batch_measures import Epoch, coverage, order, padding
from mbflow.bench.batch_resume import resume
from mbflow.bench.batch_strategies import (
    PEER,
    STRATEGIES,
    Corpus,
    Strategy,
    Timed,
)
from mbflow.bench.corpora import CORPORA
from mbflow.bench.harness import Case, measure, require_release
from mbflow.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PARTS", "TITLES", "run"]

Records = list[dict[str, Any]]
_Tell = Callable[[str], object]
_Epochs = dict[tuple[str, str], Epoch | str]

_COMMON = ("librispeech", "wenet", "log_normal")
PARTS = ("planner", "padding", "ranks", "resume", "scale")

TITLES = {
    "speed": "Lengths in memory to all batches of an epoch, one thread (processor time)",
    "files": "A file on disk to all batches of an epoch, one thread (processor time); memory in MB",
    "padding": "Padding in seconds and tokens, and fill of the budget, in per cent",
    "order": "How random the batches are",
    "packing": "Packed rows of 40 s, best fit decreasing",
    "ranks": "Several ranks: stragglers and same bucket in per cent, items missed and repeated",
    "drift": "Four ranks, same bucket in per cent of the steps, over many steps",
    "one_batch": "One batch by number of ranks, in microseconds of processor time",
    "resume": "Going on in the middle of an epoch",
    "scale": "Large plans, each in a process of its own",
}
"""What each table of a result says."""


def run(
    *,
    parts: Sequence[str] = PARTS,
    corpora: Sequence[str] | None = None,
    items: int | None = None,
    quick: bool = False,
    repeats: int = 3,
    on_progress: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Measure batches of made-up corpora; peers that are not installed are named as left out.

    lhotse's figures hold the making of its cuts, without which it cannot start; "cuts ready" is
    the sampler alone. All but the scale table is measured on one thread.

    Args:
        parts: Of `PARTS`.
        corpora: Of `mbflow.bench.corpora.CORPORA`; the first is used where one is enough. By
            default librispeech, wenet and log_normal, or with `quick` the first and last of these.
        items: Items of each corpus: 200,000, or with `quick` 50,000.
        quick: Less of everything: a minute or two.
        repeats: Turns of the speed tables, in each of which every way runs once; 1 with `quick`.
        on_progress: Called before each run with a line of text.

    Returns:
        `parameters`, and `tables`: for each title of `TITLES` that belongs to the parts a list of
        records, plain data.

    Raises:
        ResourceError: The native extension is a debug build.
        InvalidArgumentError: There is no such part or corpus, or there are too few items.

    Example:
        >>> from mbflow.bench.batches import PARTS
        >>> PARTS[0]
        'planner'
    """
    require_release()
    _check(parts, PARTS, "part")
    names = tuple(corpora or (("librispeech", "log_normal") if quick else _COMMON))
    _check(names, CORPORA, "corpus")
    count = items if items is not None else 50_000 if quick else 200_000
    if count < 1000:
        raise InvalidArgumentError(f"items is {count}; expected at least 1000")
    tell = on_progress or (lambda _: None)
    made = [Corpus.made(name, count) for name in names]
    turns = 1 if quick else repeats
    tables: dict[str, Records] = {}
    epochs: _Epochs = {}
    threads = _native.num_threads()
    _native.set_num_threads(1)
    try:
        _warm()
        if "planner" in parts:
            tables["speed"] = _speed(made[0], turns, epochs, tell)
            tables["files"] = files(made[0], turns, tell)
        if "padding" in parts:
            tables["padding"], tables["order"] = _padding(made, epochs, tell)
            tables["packing"] = [_packing(corpus) for corpus in made]
        if "ranks" in parts:
            ends = made[:1] if quick or len(made) == 1 else [made[0], made[-1]]
            tables["ranks"] = [
                record for corpus in ends for record in batch_ranks.ranks(corpus, tell)
            ]
            tables["drift"] = batch_ranks.drift(made[0], _steps(count, quick=quick), tell)
            tables["one_batch"] = batch_ranks.one_batch(made[0], tell)
        if "resume" in parts:
            tables["resume"] = resume(made[0], tell)
    finally:
        _native.set_num_threads(threads)
    if "scale" in parts:
        tables["scale"] = batch_memory.scale(2_000_000 if quick else 44_000_000, tell)
    return {
        "parameters": {
            "items": count,
            "corpora": list(names),
            "parts": list(parts),
            "quick": quick,
            "repeats": turns,
        },
        "tables": tables,
    }


def _check(given: Sequence[str], known: Sequence[str], what: str) -> None:
    wrong = [name for name in given if name not in known]
    if wrong or not given:
        raise InvalidArgumentError(
            f"no {what} {wrong[0] if wrong else ''!r}; known: {', '.join(known)}"
        )


def _steps(items: int, *, quick: bool) -> int:
    """Steps of the drift table: the longer, the more of it shows."""
    return min(1_000 if quick else 8_000, items // 25)


def _warm() -> None:
    """Load what is loaded on first use: it is no part of the work."""
    corpus = Corpus.made("ted", 1000)
    for strategy in STRATEGIES.values():
        if strategy.needs is None or util.find_spec(strategy.needs) is not None:
            list(strategy.batches(corpus))


_SPEED = (
    "mbflow buckets 30",
    "mbflow buckets 120",
    "mbflow window",
    "mbflow buckets 30 x 5",
    PEER,
    "lhotse 30, bins given, buffer 100k",
    "lhotse 30, sizes given",
    "SpeechBrain 30, equal duration",
)


def _speed(corpus: Corpus, turns: int, epochs: _Epochs, tell: _Tell) -> Records:
    strategies = [STRATEGIES[name] for name in _SPEED]
    if util.find_spec("lhotse") is not None:
        cuts = list(lhotse_peer.Cuts(corpus.seconds))
        ready = Strategy(f"{PEER}, cuts ready", lambda _: lhotse_peer.batches(cuts))
        strategies.insert(strategies.index(STRATEGIES[PEER]) + 1, ready)
    timed = {one.name: Timed(one, corpus) for one in strategies}
    cases = [Case(name, one, one.strategy.needs) for name, one in timed.items()]
    measured = measure(cases, repeats=turns, on_progress=partial(_told, tell, "speed"))
    best = {name: min(one.seconds, default=None) for name, one in timed.items()}
    peers = [best[name] for name in best if name.startswith("lhotse")]
    fastest = min((seconds for seconds in peers if seconds), default=None)
    records = []
    for case in measured:
        epochs[corpus.name, case.name] = case.skipped or case.result
        own, first = best[case.name], timed[case.name].first
        records.append(
            {
                "strategy": case.name,
                "items_per_second": own and len(corpus.seconds) / own,
                "times_lhotse": _ratio(best[PEER], own),
                "times_fastest_lhotse": _ratio(fastest, own),
                "first_batch_ms": float(np.median(first)) * 1e3 if first else None,
                "note": case.skipped,
            }
        )
    return records


def _ratio(peer: float | None, own: float | None) -> float | None:
    return peer / own if peer and own else None


def _padding(made: Sequence[Corpus], epochs: _Epochs, tell: _Tell) -> tuple[Records, Records]:
    padded: Records = []
    orders: Records = []
    for corpus in made:
        missing = [one for one in STRATEGIES.values() if (corpus.name, one.name) not in epochs]
        cases = [Case(one.name, Timed(one, corpus), one.needs) for one in missing]
        table = f"padding, {corpus.name}"
        for case in measure(cases, repeats=1, on_progress=partial(_told, tell, table)):
            epochs[corpus.name, case.name] = case.skipped or case.result
        for name, strategy in STRATEGIES.items():
            found = epochs[corpus.name, name]
            key = {"corpus": corpus.name, "strategy": name}
            if isinstance(found, str):
                padded.append(key | dict.fromkeys(_PADDING) | {"note": found})
                continue
            values = padding(found, corpus.seconds, corpus.tokens, strategy.budget)
            counts = coverage(found, len(corpus.seconds))
            padded.append(key | values | counts | {"note": ""})
            orders.append(key | order(found, corpus.seconds))
    return padded, orders


_PADDING = (
    "batches", "mean_items", "padding", "token_padding", "fill_mean", "fill_min", "fill_max",
    "missed", "repeated",
)  # fmt: skip


def _packing(corpus: Corpus) -> dict[str, Any]:
    """Rows of 40 s of whole items: what models that take packed sequences can reach."""
    lengths = np.round(corpus.seconds.astype(np.float64) * 1000).astype(np.uint64)
    capacity = 40_000
    started = time.process_time()
    offsets, _ = _native.durations.pack(lengths, capacity)
    seconds = time.process_time() - started
    rows = len(offsets) - 1
    return {
        "corpus": corpus.name,
        "rows": rows,
        "waste": float(100 * (1 - lengths.sum() / (rows * capacity))),
        "items_per_second": len(lengths) / seconds,
    }


def _told(tell: _Tell, table: str, case: str, turn: int, turns: int) -> None:
    tell(f"{table}: {case}" + (f", {turn} of {turns}" if turns > 1 else ""))
