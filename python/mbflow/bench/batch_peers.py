"""Peers of duration batches that are an algorithm of a few lines: batches of an epoch, as items."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow import _native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mbflow.speech import Budget

__all__ = ["log_normal_boundaries", "random_batches", "sorted_batches", "speechbrain_batches"]

_ORDER = 0xD0_0010


def random_batches(items: int, size: int, *, seed: int = 0) -> list[NDArray[np.int64]]:
    """Items in random order, so many a batch, whatever their lengths.

    Args:
        items: Number of items.
        size: Items of a batch; the last one has what is left.
        seed: Key of the order.

    Returns:
        Item numbers of each batch.

    Example:
        >>> from mbflow.bench.batch_peers import random_batches
        >>> [len(batch) for batch in random_batches(10, 4)]
        [4, 4, 2]
    """
    order = _native.permutation(seed, _ORDER, items)
    return [order[at : at + size] for at in range(0, items, size)]


def sorted_batches(
    seconds: NDArray[Any], budget: Budget, *, tokens: NDArray[Any] | None = None
) -> list[NDArray[np.int64]]:
    """Items from the longest on, each batch as large as its first item allows: a bound on padding.

    There is no randomness in it. With tokens, items of a batch have at most the tokens of the one
    with the most, which is known only when the batch is; so they are not used for its size.

    Args:
        seconds: Of shape (items,).
        budget: What a batch may cost, in seconds alone.
        tokens: Order items of equal seconds by these.

    Returns:
        Item numbers of each batch.

    Example:
        >>> import numpy as np
        >>> from mbflow.bench.batch_peers import sorted_batches
        >>> from mbflow.speech import Budget
        >>> batches = sorted_batches(np.array([1.0, 4.0, 2.0]), Budget.padded_seconds(4))
        >>> [batch.tolist() for batch in batches]
        [[1], [2, 0]]
    """
    order = np.argsort(-seconds, kind="stable")
    if tokens is not None:
        order = np.lexsort((-tokens.astype(np.int64), -seconds))
    sizes = np.maximum(budget.sizes(seconds[order].astype(np.float64)), 1).tolist()
    batches = []
    at = 0
    while at < len(order):
        batches.append(order[at : at + sizes[at]])
        at += sizes[at]
    return batches


def log_normal_boundaries(most: float, buckets: int) -> NDArray[np.float64]:
    """Boundaries that SpeechBrain makes by itself: quantiles of a log-normal, scaled to `most`.

    Args:
        most: The padded seconds that a batch may hold, at which the last boundary lies.
        buckets: How many.

    Returns:
        float64 of shape (buckets,), in rising order.

    Example:
        >>> from mbflow.bench.batch_peers import log_normal_boundaries
        >>> log_normal_boundaries(600.0, 3).round(1).tolist()
        [155.7, 305.6, 600.0]

    Source: SpeechBrain's `DynamicBatchSampler` with `num_quantiles` (a log-normal of shape 1).
    """
    normal = NormalDist()
    at = [number / (buckets + 1) for number in range(1, buckets + 1)]
    quantiles = np.exp([normal.inv_cdf(share) for share in at])
    found: NDArray[np.float64] = quantiles * most / quantiles[-1]
    return found


def speechbrain_batches(
    seconds: Sequence[float], boundaries: NDArray[np.float64], most: float, *, seed: int = 0
) -> list[list[int]]:
    """The batches of SpeechBrain's `DynamicBatchSampler`: an item at a time, in random order.

    An item goes into the bucket of the first boundary that is not below it; a bucket with `most`
    over its boundary items is a batch, and items above the last boundary are batches of their own.
    What is left in the buckets comes last.

    Args:
        seconds: Of shape (items,).
        boundaries: Of the buckets, in rising order.
        most: Padded seconds of a batch.
        seed: Key of the order.

    Returns:
        Item numbers of each batch.

    Example:
        >>> import numpy as np
        >>> from mbflow.bench.batch_peers import speechbrain_batches
        >>> batches = speechbrain_batches([1.0, 3.0, 1.0], np.array([1.0, 4.0]), 2.0)
        >>> sorted(sorted(batch) for batch in batches)
        [[0, 2], [1]]

    Source: SpeechBrain's `DynamicBatchSampler._generate_batches`, from its description.
    """
    sizes = [max(1, int(most / boundary)) for boundary in boundaries] + [1]
    waiting: list[list[int]] = [[] for _ in sizes]
    batches = []
    for item in _native.permutation(seed, _ORDER, len(seconds)).tolist():
        bucket = int(np.searchsorted(boundaries, seconds[item]))
        waiting[bucket].append(item)
        if len(waiting[bucket]) >= sizes[bucket]:
            batches.append(waiting[bucket])
            waiting[bucket] = []
    return batches + [batch for batch in waiting if batch]
