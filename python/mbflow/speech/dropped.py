"""Items that are left out, and why: too short, too long, or with too many tokens a second."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.errors import InvalidArgumentError
from mbflow.speech.edges import Edges, bucket_edges
from mbflow.speech.lengths import Lengths, rounded_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl
    from numpy.typing import NDArray

__all__ = ["Dropped", "outliers", "outlying"]

_REASONS = ("", "too short", "too long", "too many tokens a second")


@dataclass(frozen=True, eq=False)
class Dropped:
    """Items that are left out, each with a reason.

    Attributes:
        items: Their numbers, int64, ascending.
        codes: For each, the place of its reason in `reasons`, int8.
        reasons: The reasons.

    Example:
        >>> from mbflow.speech import Lengths
        >>> from mbflow.speech.dropped import outlying
        >>> dropped = outlying(Lengths.of([0.1, 5.0, 90.0]), min_seconds=0.5)
        >>> dropped.items.tolist(), dropped.reason(0)
        ([0], 'too short')
    """

    items: NDArray[np.int64]
    codes: NDArray[np.int8]
    reasons: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.items)

    def reason(self, place: int) -> str:
        """Why the item at a place is left out."""
        return self.reasons[int(self.codes[place])]

    def more(self, items: NDArray[Any], reason: str) -> Dropped:
        """These and other items, which have one reason."""
        joined = np.concatenate([self.items, items.astype(np.int64)])
        codes = np.append(self.codes, np.full(len(items), len(self.reasons), np.int8))
        order = np.argsort(joined, kind="stable")
        return Dropped(joined[order], codes[order], (*self.reasons, reason))

    @classmethod
    def joined(cls, parts: Sequence[Dropped], offsets: Sequence[int]) -> Dropped:
        """Those of several sources, with reasons alike, whose items are numbered from offsets."""
        items = [part.items + offset for part, offset in zip(parts, offsets, strict=False)]
        codes = np.concatenate([part.codes for part in parts])
        return cls(np.concatenate(items), codes, parts[0].reasons)

    def table(self, lengths: Lengths) -> pl.DataFrame:
        """As a table with the columns item, seconds, tokens and reason."""
        import polars as pl

        tokens = None if lengths.tokens is None else lengths.tokens[self.items]
        return pl.DataFrame(
            {
                "item": self.items,
                "seconds": lengths.seconds[self.items],
                "tokens": tokens,
                "reason": [self.reasons[code] for code in self.codes.tolist()],
            },
            schema_overrides={
                "item": pl.Int64,
                "seconds": pl.Float32,
                "tokens": pl.UInt32,
                "reason": pl.String,
            },
        )


def outliers(
    lengths: Any,
    *,
    min_seconds: float = 0.0,
    max_seconds: float = math.inf,
    rate_sigmas: float | None = 4.0,
    edges: Any = None,
) -> pl.DataFrame:
    """Items to leave out: too short, too long, or with too many tokens a second.

    Such an item makes every batch of its bucket small. The tokens a second of an item are held
    against the mean and the standard deviation of its duration bucket.

    Args:
        lengths: The items: `Lengths`, or a column of seconds.
        min_seconds: Items below this are left out.
        max_seconds: Items above this are left out.
        rate_sigmas: Items whose tokens a second are above the mean by more than so many standard
            deviations are left out; None for none, as where there are no tokens.
        edges: Edges of the duration buckets; by default 30 of equal duration among the items that
            are not too short or too long.

    Returns:
        A table with the columns item (its number), seconds, tokens and reason, in order of item.

    Raises:
        InvalidArgumentError: A limit is no number.

    Example:
        >>> from mbflow.speech import Lengths, outliers
        >>> lengths = Lengths.of([0.1, 5.0, 90.0])
        >>> outliers(lengths, min_seconds=0.5, max_seconds=40)["item"].to_list()
        [0, 2]

    Source: arXiv 2503.05931 as NeMo's `estimate_duration_bins_2d.py` does it (4 sigma).
    """
    if not isinstance(lengths, Lengths):
        lengths = Lengths.of(lengths)
    found = outlying(
        lengths,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        rate_sigmas=rate_sigmas,
        edges=edges,
    )
    return found.table(lengths)


def _is_number(value: Any) -> bool:
    try:
        return (
            not isinstance(value, bool)
            and isinstance(value, numbers.Real)
            and not math.isnan(float(value))
        )
    except OverflowError:
        return False


def outlying(
    lengths: Lengths,
    *,
    min_seconds: float = 0.0,
    max_seconds: float = math.inf,
    rate_sigmas: float | None = None,
    edges: Any = None,
) -> Dropped:
    """What `outliers` says, without a table.

    Example:
        >>> from mbflow.speech import Lengths
        >>> from mbflow.speech.dropped import outlying
        >>> len(outlying(Lengths.of([1.0, 2.0])))
        0
    """
    seconds = lengths.seconds
    for name, value in (("min_seconds", min_seconds), ("max_seconds", max_seconds)):
        if not _is_number(value):
            raise InvalidArgumentError(f"{name} is {value!r}; expected seconds")
    if rate_sigmas is not None and not (_is_number(rate_sigmas) and rate_sigmas > 0):
        raise InvalidArgumentError(f"rate_sigmas is {rate_sigmas!r}; expected a number above 0")
    reasons = np.zeros(len(seconds), np.int8)
    # As lengths are, so that an item as long as a limit is within it.
    least, most = rounded_up([float(min_seconds), float(max_seconds)])
    reasons[seconds < least] = 1
    reasons[seconds > most] = 2
    inside = np.flatnonzero(reasons == 0)
    if lengths.tokens is not None and rate_sigmas is not None and len(inside):
        kept = seconds[inside]
        rates = lengths.tokens[inside].astype(np.float64) / kept
        cuts = bucket_edges(kept, edges="equal_duration") if edges is None else Edges.of(edges)
        bucket = np.minimum(np.searchsorted(np.unique(cuts.seconds), kept), len(cuts) - 1)
        count = np.maximum(np.bincount(bucket), 1)
        mean = np.bincount(bucket, rates) / count
        deviation = np.sqrt(np.bincount(bucket, (rates - mean[bucket]) ** 2) / count)
        reasons[inside[rates > mean[bucket] + rate_sigmas * deviation[bucket]]] = 3
    items = np.flatnonzero(reasons)
    return Dropped(items, reasons[items], _REASONS)
