"""The ways to batch that `bench batches` compares, each from lengths to the batches of an epoch."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.bench import corpora, lhotse_peer
from mbflow.bench.batch_measures import Epoch
from mbflow.bench.batch_peers import (
    log_normal_boundaries,
    random_batches,
    sorted_batches,
    speechbrain_batches,
)
from mbflow.speech import Budget, DurationBatches, bucket_edges

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "PEER",
    "SECONDS",
    "SHAPES",
    "STRATEGIES",
    "Corpus",
    "Strategy",
    "Timed",
    "equal_duration",
    "planned",
]

_MOST = 600.0
SECONDS = Budget.padded_seconds(_MOST)
"""600 padded seconds a batch."""
SHAPES = Budget.memory(1.0, seconds=5.86e-4, tokens=1.55e-5, product=8.9e-7)
"""Memory of a Canary-like model, fitted to the batch sizes that NeMo's documentation prints."""

PEER = "lhotse 30"
"""The strategy that times are held against: 30 buckets, and all else as lhotse has it."""

_SIZE = 48


@dataclass(frozen=True)
class Corpus:
    """Lengths of the items of a corpus.

    Attributes:
        name: Its name.
        seconds: float32 of shape (items,).
        tokens: uint32 likewise.

    Example:
        >>> from mbflow.bench.batch_strategies import Corpus
        >>> len(Corpus.made("ted", 10).tokens)
        10
    """

    name: str
    seconds: NDArray[np.float32]
    tokens: NDArray[np.uint32]

    @classmethod
    def made(cls, name: str, items: int, *, seed: int = 0) -> Corpus:
        """A made-up corpus, see `mbflow.bench.corpora`."""
        seconds = corpora.durations(name, items, seed=seed)
        return cls(name, seconds, corpora.tokens(seconds, seed=seed))


@dataclass(frozen=True)
class Strategy:
    """A way to batch.

    Attributes:
        name: How records call it.
        batches: From a corpus to the item numbers of each batch of an epoch.
        budget: What a batch may cost; None where the way knows no budget.
        needs: Module that must be there.

    Example:
        >>> from mbflow.bench.batch_strategies import STRATEGIES
        >>> STRATEGIES["full sort (bound)"].needs is None
        True
    """

    name: str
    batches: Callable[[Corpus], Iterable[Sequence[int] | NDArray[np.int64]]]
    budget: Budget | None = SECONDS
    needs: str | None = None


@dataclass
class Timed:
    """Runs a strategy and keeps what it took.

    Attributes:
        strategy: The strategy.
        corpus: The corpus.
        seconds: Processor time from the lengths to all batches, of each run.
        first: The same to the first batch.

    Example:
        >>> from mbflow.bench.batch_strategies import STRATEGIES, Corpus, Timed
        >>> timed = Timed(STRATEGIES["random 48"], Corpus.made("ted", 100))
        >>> len(timed()), len(timed.seconds)
        (3, 1)
    """

    strategy: Strategy
    corpus: Corpus
    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)

    def __call__(self) -> Epoch:
        """Run it once."""
        gc.collect()
        started = time.process_time()
        iterator = iter(self.strategy.batches(self.corpus))
        found = [next(iterator)]
        first = time.process_time() - started
        found.extend(iterator)
        self.seconds.append(time.process_time() - started)
        self.first.append(first)
        return Epoch.of(found)


def planned(corpus: Corpus, *, two: bool = False, **options: Any) -> DurationBatches:
    """The plan that is compared: 600 padded seconds, or with `two` a memory model and tokens.

    Example:
        >>> from mbflow.bench.batch_strategies import Corpus, planned
        >>> len(planned(Corpus.made("ted", 100), buckets=2))
        100
    """
    if two:
        return DurationBatches(corpus.seconds, corpus.tokens, budget=SHAPES, **options)
    return DurationBatches(corpus.seconds, budget=SECONDS, **options)


def equal_duration(corpus: Corpus, buckets: int = 30) -> NDArray[np.float64]:
    """Edges that put as many seconds into each bucket, as lhotse chooses them.

    Example:
        >>> from mbflow.bench.batch_strategies import Corpus, equal_duration
        >>> len(equal_duration(Corpus.made("ted", 1000), 7))
        7
    """
    return bucket_edges(corpus.seconds, buckets=buckets, edges="equal_duration").seconds


def _ours(corpus: Corpus, **options: Any) -> Iterable[NDArray[np.int64]]:
    return planned(corpus, **options).epoch(0)


def _lhotse(corpus: Corpus, *, given: int | None = None, **options: Any) -> Iterable[list[int]]:
    if given is not None:
        # The edge of the last bucket is no edge to lhotse.
        options["duration_bins"] = equal_duration(corpus, given)[:-1].tolist()
    return lhotse_peer.batches(lhotse_peer.Cuts(corpus.seconds), **options)


def _sized(corpus: Corpus, *, two: bool = False) -> Iterable[list[int]]:
    buckets = (30, 5) if two else 30
    tokens = corpus.tokens if two else None
    edges = bucket_edges(corpus.seconds, tokens, buckets=buckets, edges="equal_duration")
    budget = SHAPES if two else SECONDS
    sizes = np.maximum(budget.sizes(edges.seconds, edges.tokens if two else None), 1)
    options = lhotse_peer.fixed_sizes(edges, sizes)
    if two:
        # The 20,000 that lhotse holds by itself are too few for batches of so many buckets.
        options["buffer_size"] = 100_000
    return lhotse_peer.batches(lhotse_peer.Cuts(corpus.seconds, tokens), **options)


def _speechbrain(corpus: Corpus, *, own: bool) -> list[list[int]]:
    boundaries = log_normal_boundaries(_MOST, 30) if own else equal_duration(corpus)
    return speechbrain_batches(corpus.seconds.tolist(), boundaries, _MOST)


def _peer(name: str, **options: Any) -> Strategy:
    return Strategy(name, partial(_lhotse, **options), needs="lhotse")


_ALL = (
    Strategy("mbflow buckets 30", _ours),
    Strategy("mbflow buckets 120", partial(_ours, buckets=120)),
    Strategy("mbflow window", partial(_ours, order="window")),
    Strategy("mbflow buckets 30 x 5", partial(_ours, two=True, buckets=(30, 5)), SHAPES),
    Strategy("mbflow window, tokens too", partial(_ours, two=True, order="window"), SHAPES),
    _peer(PEER),
    _peer("lhotse 30, bins given, buffer 100k", given=30, buffer_size=100_000),
    _peer("lhotse 60", num_buckets=60),
    _peer("lhotse 120, bins given, buffer 100k", given=120, buffer_size=100_000),
    _peer("lhotse 30, not synchronised", sync_buckets=False),
    Strategy("lhotse 30, sizes given", _sized, needs="lhotse"),
    Strategy("lhotse 30 x 5 (NeMo), buffer 100k", partial(_sized, two=True), SHAPES, "lhotse"),
    Strategy("SpeechBrain 30, own boundaries", partial(_speechbrain, own=True)),
    Strategy("SpeechBrain 30, equal duration", partial(_speechbrain, own=False)),
    Strategy(f"random {_SIZE}", lambda corpus: random_batches(len(corpus.seconds), _SIZE), None),
    Strategy("full sort (bound)", lambda corpus: sorted_batches(corpus.seconds, SECONDS)),
)

STRATEGIES = {strategy.name: strategy for strategy in _ALL}
"""By name. A number is that of buckets, or of items of a batch."""
