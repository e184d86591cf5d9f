"""Edges of buckets: given, of equal shares, or those that make padding cheapest."""

from __future__ import annotations

import itertools
import math
import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mbflow import _native
from mbflow.batches import check_whole
from mbflow.errors import InvalidArgumentError
from mbflow.speech.lengths import rounded_up

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Edges", "bucket_edges"]

# Up to this many different lengths every one may be an edge; of more, so many are chosen.
_MOST_CANDIDATES = 1 << 13
# Weights become whole numbers that add up to about this.
_WEIGHT = float(1 << 40)
# Buckets by seconds and tokens are chosen by the lengths of up to so many items.
_MOST_SHAPED = 1 << 15
# Splits of the shapes among seconds and tokens that are tried: each has 1.25 times the last's.
_GROWTH = 1.25

_NAMES = ("optimal", "equal_count", "equal_duration")


@dataclass(frozen=True)
class Edges:
    """Buckets by their upper edges; an edge belongs to its bucket.

    Attributes:
        seconds: float64 of shape (buckets,), in rising order.
        tokens: Likewise, `inf` where tokens do not matter; rising among equal seconds.

    Example:
        >>> import numpy as np
        >>> from mbflow.speech import Edges
        >>> edges = Edges.of([5.0, 10.0])
        >>> edges.assign(np.array([5.0, 5.1, 11.0], np.float32), None).tolist()
        [0, 1, 2]
    """

    seconds: NDArray[np.float64]
    tokens: NDArray[np.float64]

    @classmethod
    def of(cls, edges: Any) -> Edges:
        """Edges as a user gives them.

        Args:
            edges: Seconds, or pairs of seconds and tokens, as NeMo's 2D buckets.

        Raises:
            InvalidArgumentError: There is none, one is not above 0 or not a number, or two are
                equal.

        Example:
            >>> from mbflow.speech import Edges
            >>> Edges.of([(5.0, 40), (5.0, 20)]).tokens.tolist()
            [20.0, 40.0]
        """
        if isinstance(edges, Edges):
            return edges
        try:
            pairs = [
                (float(edge), math.inf) if np.ndim(edge) == 0 else tuple(map(float, _two(edge)))
                for edge in edges
            ]
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidArgumentError(
                f"edges: expected {', '.join(map(repr, _NAMES))}, a sequence of seconds or one of "
                f"pairs (seconds, tokens); got {edges!r}"
            ) from error
        if not pairs:
            raise InvalidArgumentError("edges: expected at least one, got none")
        wrong = [pair for pair in pairs if not (0 < pair[0] < math.inf and pair[1] > 0)]
        if wrong:
            raise InvalidArgumentError(f"edges: {wrong[0]} is not above 0 and finite")
        # As lengths are, so that an item as long as an edge is in its bucket.
        seconds = rounded_up([pair[0] for pair in pairs]).astype(np.float64)
        if not np.isfinite(seconds).all():
            raise InvalidArgumentError(f"edges: {max(pairs)} is above what single precision holds")
        pairs = sorted(zip(seconds.tolist(), (pair[1] for pair in pairs), strict=True))
        twice = [pair for pair, after in itertools.pairwise(pairs) if pair == after]
        if twice:
            raise InvalidArgumentError(f"edges: {twice[0]} is there twice, in single precision")
        return cls(np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs]))

    def __len__(self) -> int:
        return len(self.seconds)

    def assign(
        self, seconds: NDArray[np.float32], tokens: NDArray[np.uint32] | None
    ) -> NDArray[np.uint32]:
        """The bucket of each item: the first whose edges are not below its lengths.

        Args:
            seconds: Of shape (items,).
            tokens: Likewise, or None.

        Returns:
            uint32 of shape (items,); the number of buckets where none is large enough.

        Example:
            >>> import numpy as np
            >>> from mbflow.speech import Edges
            >>> edges = Edges.of([(5.0, 20), (5.0, 40), (9.0, 30)])
            >>> lengths = np.array([4.0, 4.0, 6.0, 6.0], np.float32)
            >>> edges.assign(lengths, np.array([20, 21, 25, 35], np.uint32)).tolist()
            [0, 1, 2, 3]
        """
        distinct, first, counts = np.unique(self.seconds, return_index=True, return_counts=True)
        group = _native.durations.bucket_of(np.ascontiguousarray(seconds), distinct)
        if tokens is None or not np.isfinite(self.tokens).any():
            # Of shapes without tokens there is one for each length.
            return group
        bucket = np.full(len(seconds), len(self), np.uint32)
        for at in range(len(distinct)):
            # A shape too small in tokens leaves the item to a longer bucket that is large enough.
            open_ = np.flatnonzero(group == at)
            for later in range(at, len(distinct)):
                rows = slice(first[later], first[later] + counts[later])
                place = np.searchsorted(self.tokens[rows], tokens[open_].astype(np.float64))
                fits = place < counts[later]
                bucket[open_[fits]] = first[later] + place[fits]
                open_ = open_[~fits]
                if not len(open_):
                    break
        return bucket


def _two(edge: Any) -> tuple[Any, Any]:
    first, second = edge
    return first, second


def bucket_edges(
    seconds: NDArray[np.float32],
    tokens: NDArray[np.uint32] | None = None,
    *,
    buckets: int | tuple[int, int] = 30,
    edges: Literal["optimal", "equal_count", "equal_duration"] | Any = "optimal",
    step: float | None = None,
    weights: NDArray[np.float64] | None = None,
) -> Edges:
    """Edges of buckets for items of these lengths.

    `"optimal"` edges make the padded seconds least, when every item is padded to the edge of its
    bucket, by dynamic programming: exact for up to 8,192 different lengths; of more, those of every
    so-manieth item in order of length may be edges. Since a batch holds as many items as its budget
    allows at the edge, this is also the fewest batches for a budget of padded seconds.

    With two numbers of buckets, `(a, b)`, there are at most `a * b` buckets in seconds and tokens,
    which make the sum of the padded shares of seconds and tokens least among cuts into buckets by
    seconds that are then cut by tokens: how many by seconds is tried out, and the cuts by tokens
    are dealt to where they save most. Of more than 32,768 items every so-manieth is looked at.
    Other `edges` take `a` by seconds, each cut into `b`.

    Args:
        seconds: Of shape (items,), above 0.
        tokens: Likewise, for two numbers of buckets.
        buckets: How many at most: of few different lengths there are fewer.
        edges: `"optimal"`; `"equal_count"`, as many items in each; `"equal_duration"`, as many
            seconds in each, as lhotse does; or the edges themselves, see `Edges.of`.
        step: Edges by seconds are rounded up to multiples of this many seconds.
        weights: How often each item comes, above 0, where some come more often than others.

    Returns:
        The edges; the last one holds the longest item, unless they were given.

    Raises:
        InvalidArgumentError: A parameter is out of range, or tokens are missing.

    Example:
        >>> import numpy as np
        >>> from mbflow.speech import bucket_edges
        >>> bucket_edges(np.array([1, 2, 9, 10], np.float32), buckets=2).seconds.tolist()
        [2.0, 10.0]

    Source: arXiv 2503.05931 (1D and 2D duration bucketing); the optimal cut: see
    `_native.durations.OptimalEdges`.
    """
    _check(seconds, tokens, weights)
    if not isinstance(edges, str):
        return Edges.of(edges)
    if edges not in _NAMES:
        raise InvalidArgumentError(
            f"edges is {edges!r}; expected {', '.join(map(repr, _NAMES))} or the edges themselves"
        )
    two = isinstance(buckets, tuple | list)
    if two and len(buckets) != 2:  # type: ignore[arg-type]
        raise InvalidArgumentError(f"buckets is {buckets!r}; expected a number or a pair of them")
    pair: Any = buckets if two else (buckets, 1)
    by_seconds, by_tokens = pair
    check_whole("buckets", by_seconds, least=1, most=10_000)
    check_whole("buckets", by_tokens, least=1, most=10_000)
    _check_step(step)
    if two and tokens is None:
        raise InvalidArgumentError("buckets by seconds and tokens need tokens; pass them")
    lengths = seconds if step is None else _to_steps(seconds.astype(np.float64), float(step))
    if not two or by_tokens == 1:
        found = _cut(lengths, by_seconds, edges, weights)
        return Edges(found, np.full(len(found), np.inf))
    assert tokens is not None
    if edges == "optimal":
        return _jointly(lengths, tokens, by_seconds * by_tokens, weights)
    cuts = _cut(lengths, by_seconds, edges, weights)
    place = np.searchsorted(cuts, lengths)
    inside = [place == at for at in range(len(cuts))]
    return _nested(
        cuts, [_cut(tokens[part], by_tokens, edges, _part(weights, part)) for part in inside]
    )


def _part(weights: NDArray[np.float64] | None, part: Any) -> NDArray[np.float64] | None:
    return None if weights is None else weights[part]


def _sorted(
    values: NDArray[Any], weights: NDArray[np.float64] | None
) -> tuple[NDArray[Any], NDArray[np.float64] | None]:
    if weights is None:
        return np.sort(values), None
    order = np.argsort(values, kind="stable")
    return values[order], weights[order]


def _check(
    seconds: NDArray[Any], tokens: NDArray[Any] | None, weights: NDArray[Any] | None
) -> None:
    columns = {"seconds": seconds, "tokens": tokens, "weights": weights}
    for name, column in columns.items():
        if column is None and name != "seconds":
            continue
        if not isinstance(column, np.ndarray) or column.ndim != 1 or column.dtype.kind not in "fiu":
            raise InvalidArgumentError(f"{name}: expected a NumPy array of numbers, 1-D")
        if len(column) != len(seconds):
            raise InvalidArgumentError(f"{name}: {len(column)} for {len(seconds)} items")
        least = 0 if name == "tokens" else np.finfo(np.float32).tiny
        if not len(column) or not (column.min() >= least and np.isfinite(column.max())):
            raise InvalidArgumentError(f"{name}: expected at least one, each finite and above 0")


def _check_step(step: Any) -> None:
    number = not isinstance(step, bool) and isinstance(step, numbers.Real)
    single = np.finfo(np.float32)
    if step is not None and not (number and single.tiny <= step <= single.max):
        raise InvalidArgumentError(f"step is {step!r}; expected seconds above 0")


def _to_steps(lengths: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """Each length rounded up to a multiple of a step, as lengths are held."""
    steps = np.floor(lengths / step)
    # A length on the grid may be above its multiple by rounding, and a quotient to either side.
    for _ in range(2):
        steps += rounded_up(steps * step) < lengths
    return rounded_up(steps * step).astype(np.float64)


def _nested(cuts: NDArray[np.float64], by_tokens: list[NDArray[np.float64]]) -> Edges:
    seconds = np.repeat(cuts, [len(part) for part in by_tokens])
    return Edges(seconds, np.concatenate(by_tokens))


def _cut(
    values: NDArray[Any], buckets: int, edges: str, weights: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    if edges == "optimal":
        optimum = _Optimum(values, buckets, weights)
        return optimum.edges(optimum.most)
    ordered, mass = _sorted(values, weights)
    if edges == "equal_duration":
        mass = ordered.astype(np.float64) * (1.0 if mass is None else mass)
    running = np.arange(1.0, len(ordered) + 1) if mass is None else np.cumsum(mass)
    # The total may differ in its last bits from that of the shares.
    shares = np.arange(1, buckets + 1) / buckets * running[-1] * (1 - 1e-12)
    places = np.searchsorted(running, shares)
    places[-1] = len(ordered) - 1
    return np.unique(ordered[np.minimum(places, len(ordered) - 1)]).astype(np.float64)


class _Optimum:
    """The cheapest cuts of lengths into any number of buckets."""

    def __init__(
        self, lengths: NDArray[Any], buckets: int, weights: NDArray[np.float64] | None
    ) -> None:
        ordered, mass = _sorted(lengths, weights)
        new = np.ones(len(ordered), np.bool_)
        np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
        if np.count_nonzero(new) <= _MOST_CANDIDATES:
            values = ordered[new]
        else:
            # The same share of the items between any two.
            places = np.linspace(0, len(ordered) - 1, _MOST_CANDIDATES).astype(np.int64)
            values = np.unique(ordered[places])
        ends = np.searchsorted(ordered, values, side="right")
        scale = 1.0
        if mass is None:
            counts = np.diff(ends, prepend=0)
        else:
            running = np.cumsum(mass)
            scale = _WEIGHT / float(running[-1])
            counts = np.maximum(1, np.rint(np.diff(running[ends - 1], prepend=0) * scale))
        values = values.astype(np.float64)
        self._values = values
        self._native = _native.durations.OptimalEdges(
            values, counts.astype(np.uint64), int(buckets)
        )
        self.costs = self._native.costs / scale
        self.most = len(self.costs)

    def edges(self, buckets: int) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self._values[self._native.edges(buckets)]
        return found


def _jointly(
    seconds: NDArray[Any],
    tokens: NDArray[np.uint32],
    shapes: int,
    weights: NDArray[np.float64] | None,
) -> Edges:
    if len(seconds) <= _MOST_SHAPED:
        return _split(seconds, tokens, shapes, weights)
    # Every so-manieth in order of length; the longest item and the last edges are those of all.
    order = np.argsort(seconds, kind="stable")
    places = np.linspace(0, len(order) - 1, _MOST_SHAPED).astype(np.int64)
    chosen = order[places]
    found = _split(seconds[chosen], tokens[chosen], shapes, _part(weights, chosen))
    firsts = np.flatnonzero(np.append(np.inf, found.seconds[:-1]) != found.seconds)
    stripe = np.searchsorted(found.seconds[firsts], seconds)
    most = np.zeros(len(firsts))
    np.maximum.at(most, stripe, tokens)
    lasts = np.append(firsts[1:], len(found)) - 1
    found.tokens[lasts] = np.maximum(found.tokens[lasts], most)
    return found


def _split(
    seconds: NDArray[Any],
    tokens: NDArray[np.uint32],
    shapes: int,
    weights: NDArray[np.float64] | None,
) -> Edges:
    optimum = _Optimum(seconds, shapes, weights)
    total_seconds, total_tokens = (
        float(column.sum(dtype=np.float64) if weights is None else column @ weights)
        for column in (seconds, tokens)
    )
    total_tokens = max(total_tokens, 1e-300)
    best: tuple[float, Edges] | None = None
    tried = 0
    wanted = 1.0
    while round(wanted) <= min(shapes, optimum.most):
        number = round(wanted)
        wanted *= _GROWTH
        if number == tried:
            continue
        tried = number
        cuts = optimum.edges(number)
        place = np.searchsorted(cuts, seconds)
        order = np.argsort(place, kind="stable")
        ends = np.searchsorted(place[order], np.arange(1, number))
        optima = [
            _Optimum(tokens[part], shapes // number * 4, _part(weights, part))
            for part in np.split(order, ends)
        ]
        dealt = _dealt([found.costs for found in optima], shapes)
        cost = optimum.costs[number - 1] / total_seconds
        cost += (
            sum(found.costs[k - 1] for found, k in zip(optima, dealt, strict=True)) / total_tokens
        )
        if best is None or cost < best[0]:
            parts = [found.edges(k) for found, k in zip(optima, dealt, strict=True)]
            best = (cost, _nested(cuts, parts))
    assert best is not None
    return best[1]


def _dealt(costs: list[NDArray[np.float64]], total: int) -> list[int]:
    """How many cuts each part gets, one at a time to where the next one saves most.

    The savings of a part fall with each cut (its cost is convex in them), so this is the best deal.
    """
    savings = [-np.diff(part) for part in costs]
    part = np.repeat(np.arange(len(costs)), [len(saved) for saved in savings])
    saved = np.concatenate(savings)
    chosen = part[np.argsort(-saved, kind="stable")[: max(0, total - len(costs))]]
    found: list[int] = (1 + np.bincount(chosen, minlength=len(costs))).tolist()
    return found
