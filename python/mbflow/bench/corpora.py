"""Made-up corpora: lengths of utterances as published quantiles of real corpora have them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow import _native
from mbflow.errors import InvalidArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CORPORA", "durations", "tokens"]

_DRAWS, _NORMAL, _RATES = 0xD0_0001, 0xD0_0002, 0xD0_0003
_LONGEST = 40.0
_PIECE = 1 << 20

# Cumulative shares, and the seconds at them.
_QUANTILES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "librispeech": (
        (0, 0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 0.999, 1),
        (1.0, 2.3, 3.5, 5.0, 9.8, 13.4, 15.1, 16.5, 17.2, 18.1, 18.9, 31.0),
    ),
    "wenet": (
        (0, 0.25, 0.50, 0.75, 0.99, 0.999, 1),
        (0.2, 1.4, 2.0, 3.0, 8.4, 15.4, 405.0),
    ),
    "ted": (
        (0, 0.25, 0.50, 0.75, 0.995, 0.999, 1),
        (0.5, 3.7, 6.0, 8.3, 14.9, 16.6, 33.3),
    ),
}

CORPORA = (*_QUANTILES, "log_normal")
"""Names of the corpora: LibriSpeech (train-other-500), WenetSpeech L and TED-LIUM 3, each with
three-way speed perturbation, and `exp(N(ln 6.5, 0.75))` from 0.5 s on."""


def durations(corpus: str, items: int, *, first: int = 0, seed: int = 0) -> NDArray[np.float32]:
    """Seconds of each utterance, in random order, in whole milliseconds, at most 40 s.

    Drawn by the inverse of the distribution, which is linear between the published quantiles. Those
    of WenetSpeech are few, so that its mean comes to 2.7 s where the corpus has 2.5 s.

    Args:
        corpus: One of `CORPORA`.
        items: Number of utterances.
        first: Number of the first; a corpus made in pieces is the same as made at once.
        seed: Key of all draws.

    Returns:
        float32 of shape (items,).

    Raises:
        InvalidArgumentError: There is no such corpus, or there are no items.

    Example:
        >>> from mbflow.bench.corpora import durations
        >>> durations("ted", 1000).max() <= 40
        np.True_

    Source: the tables that icefall's `display_manifest_statistics.py` prints in its recipes.
    """
    if corpus not in CORPORA:
        raise InvalidArgumentError(f"no corpus {corpus!r}; known: {', '.join(CORPORA)}")
    if items < 1:
        raise InvalidArgumentError(f"items is {items}; expected at least 1")
    seconds = np.empty(items, np.float32)
    for start in range(0, items, _PIECE):
        part = seconds[start : start + _PIECE]
        drawn: NDArray[np.float64]
        if corpus in _QUANTILES:
            shares, values = _QUANTILES[corpus]
            bits = _native.random_u64(seed, _DRAWS, first + start, len(part))
            drawn = np.interp((bits >> np.uint64(11)) * 2.0**-53, shares, values)
        else:
            normal = _native.random_normal(seed, _NORMAL, first + start, len(part))
            drawn = np.maximum(np.exp(math.log(6.5) + 0.75 * normal.astype(np.float64)), 0.5)
        part[:] = np.round(np.minimum(drawn, _LONGEST), 3)
    return seconds


def tokens(
    seconds: NDArray[Any], *, rate: float = 5.0, sigma: float = 0.30, seed: int = 0
) -> NDArray[np.uint32]:
    """Output tokens of each utterance: at least one, at a log-normal rate.

    Args:
        seconds: Of shape (items,).
        rate: Median tokens a second.
        sigma: Standard deviation of the logarithm of the rate.
        seed: Key of all draws.

    Returns:
        uint32 of shape (items,).

    Example:
        >>> import numpy as np
        >>> from mbflow.bench.corpora import tokens
        >>> tokens(np.array([2.0, 4.0]), sigma=0.0)
        array([10, 20], dtype=uint32)
    """
    normal = _native.random_normal(seed, _RATES, 0, len(seconds)).astype(np.float64)
    found = np.round(seconds * rate * np.exp(sigma * normal))
    return np.maximum(found, 1).astype(np.uint32)
