"""What batches of any planner come to: padding, fill, stragglers, coverage, order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mbflow.speech import Budget

__all__ = ["Epoch", "coverage", "order", "padding", "stragglers", "strided"]

_QUADRATIC = 30.0


@dataclass(frozen=True)
class Epoch:
    """The batches of an epoch in order, with several ranks those of a step side by side.

    Attributes:
        items: Item numbers of all batches, int64 of shape (items,).
        offsets: Where each batch starts, and the end: int64 of shape (batches + 1,).

    Example:
        >>> from mbflow.bench.batch_measures import Epoch
        >>> len(Epoch.of([[2, 0], [1]]))
        2
    """

    items: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, batches: Sequence[Any]) -> Epoch:
        """From the item numbers of each batch, none of them empty."""
        sizes = np.array([len(batch) for batch in batches], np.int64)
        if not len(sizes) or not sizes.all():
            raise InvalidArgumentError("expected batches, each with an item")
        items = np.concatenate([np.asarray(batch, np.int64) for batch in batches])
        return cls(items, np.concatenate([[0], np.cumsum(sizes)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Items of each batch."""
        return np.diff(self.offsets)

    def most(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """The largest value of each batch."""
        found: NDArray[np.float64] = np.maximum.reduceat(
            values[self.items].astype(np.float64), self.offsets[:-1]
        )
        return found


def padding(
    epoch: Epoch, seconds: NDArray[Any], tokens: NDArray[Any], budget: Budget | None
) -> dict[str, Any]:
    """Padding and fill of the budget.

    Args:
        epoch: The batches.
        seconds: Of each item.
        tokens: Likewise.
        budget: What a batch may cost, for the fill; None where there is none.

    Returns:
        `batches`, `mean_items` of a batch, `padding` and `token_padding` in per cent of what is
        computed when batches are padded to their longest item, and the fill of the budget of
        batches, in per cent: `fill_mean`, `fill_min`, `fill_max`.

    Example:
        >>> import numpy as np
        >>> from mbflow.bench.batch_measures import Epoch, padding
        >>> from mbflow.speech import Budget
        >>> epoch, ones = Epoch.of([[0, 1]]), np.ones(2)
        >>> found = padding(epoch, np.array([1.0, 2.0]), ones, Budget.padded_seconds(8))
        >>> found["padding"], found["fill_mean"]
        (25.0, 50.0)
    """
    sizes, longest, widest = epoch.sizes, epoch.most(seconds), epoch.most(tokens)
    own = seconds[epoch.items].sum(dtype=np.float64)
    outputs = tokens[epoch.items].sum(dtype=np.float64)
    fills: tuple[float | None, ...] = (None, None, None)
    if budget is not None:
        fill = 100 * _fill(budget, sizes, longest, widest)
        fills = (float(fill.mean()), float(fill.min()), float(fill.max()))
    return {
        "batches": len(epoch),
        "mean_items": float(sizes.mean()),
        "padding": float(100 * (1 - own / (sizes * longest).sum())),
        "token_padding": float(100 * (1 - outputs / (sizes * widest).sum())),
        **dict(zip(("fill_mean", "fill_min", "fill_max"), fills, strict=True)),
    }


def _fill(
    budget: Budget,
    sizes: NDArray[np.int64],
    seconds: NDArray[np.float64],
    tokens: NDArray[np.float64],
) -> NDArray[np.float64]:
    shapes = np.stack(
        [np.ones_like(seconds), seconds, seconds**2, tokens, tokens**2, seconds * tokens]
    )
    shares = [
        (fixed + sizes * (np.array(each) @ shapes)) / most for fixed, *each, most in budget.limits
    ]
    found: NDArray[np.float64] = np.max(shares, axis=0)
    return found


def coverage(epoch: Epoch, items: int) -> dict[str, int]:
    """How the epoch differs from holding every item once: items `missed`, and `repeated` ones.

    Example:
        >>> from mbflow.bench.batch_measures import Epoch, coverage
        >>> coverage(Epoch.of([[0, 1], [1]]), 3)
        {'missed': 1, 'repeated': 1}
    """
    times = np.bincount(epoch.items, minlength=items)
    return {"missed": int((times == 0).sum()), "repeated": int((times - 1).clip(min=0).sum())}


def order(epoch: Epoch, seconds: NDArray[Any]) -> dict[str, float]:
    """How random the batches are.

    Args:
        epoch: The batches.
        seconds: Of each item, in the order of the data.

    Returns:
        `order_correlation` between the place of an item in the data and in the epoch (0 for a
        random order, 1 for that of the data), `length_correlation` between its place and its
        seconds (0 where long and short ones come at all times), its `displacement`: the mean
        distance of the two places as a share of the epoch (1/3 for a random order), and
        `batch_spread`: the standard deviation of the seconds in a batch over that of all (1 for
        random batches).

    Example:
        >>> import numpy as np
        >>> from mbflow.bench.batch_measures import Epoch, order
        >>> order(Epoch.of([[0, 1], [2, 3]]), np.array([1.0, 1.0, 2.0, 2.0]))["batch_spread"]
        0.0
    """
    items, count = epoch.items, len(seconds)
    sizes = epoch.sizes
    # All items of a batch have the place of its middle.
    middles = (epoch.offsets[:-1] + epoch.offsets[1:] - 1) / 2
    places = np.repeat(middles, sizes) / len(items)
    own = items / count
    values = seconds[items].astype(np.float64)
    means = np.add.reduceat(values, epoch.offsets[:-1]) / sizes
    spread = np.sqrt(((values - np.repeat(means, sizes)) ** 2).mean())
    return {
        "order_correlation": _correlation(own, places),
        "length_correlation": _correlation(values, places),
        "displacement": float(np.abs(own - places).mean()),
        "batch_spread": float(spread / max(float(values.std()), 1e-12)),
    }


def _correlation(first: NDArray[Any], second: NDArray[Any]) -> float:
    if not (np.ptp(first) and np.ptp(second)):
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def strided(batches: Sequence[Any], ranks: int) -> list[Any]:
    """Batches for ranks that take every so-manieth: filled up with the first, as torch does it.

    Example:
        >>> from mbflow.bench.batch_measures import strided
        >>> strided(["a", "b", "c"], 2)
        ['a', 'b', 'c', 'a']

    Source: `torch.utils.data.DistributedSampler`, around which SpeechBrain puts its batches.
    """
    missing = -len(batches) % ranks
    repeats = -(-missing // len(batches))
    return [*batches, *(list(batches) * repeats)[:missing]]


def stragglers(
    epoch: Epoch, ranks: int, seconds: NDArray[Any], edges: NDArray[Any] | None
) -> dict[str, float | None]:
    """How well ranks that wait for each other at each step are used.

    Args:
        epoch: The batches, those of a step side by side.
        ranks: How many.
        seconds: Of each item.
        edges: Upper edges of the buckets, for `same_bucket`.

    Returns:
        `efficiency`, in per cent: the mean over steps of the mean padded seconds of the ranks over
        the most; `efficiency_quadratic`, where an item of T seconds costs T + T^2 / 30; `used`: the
        seconds of the items over the padded seconds of the slowest ranks, so that padding and
        waiting both count; and `same_bucket`: the per cent of steps in which all items of all ranks
        are of one bucket.

    Example:
        >>> import numpy as np
        >>> from mbflow.bench.batch_measures import Epoch, stragglers
        >>> found = stragglers(Epoch.of([[0], [1]]), 2, np.array([1.0, 2.0]), None)
        >>> found["efficiency"]
        75.0
    """
    longest = epoch.most(seconds)
    linear = epoch.sizes * longest
    costs = [cost.reshape(-1, ranks) for cost in (linear, linear * (1 + longest / _QUADRATIC))]
    shares = [cost.mean(axis=1) / cost.max(axis=1) for cost in costs]
    own = seconds[epoch.items].sum(dtype=np.float64)
    same = None
    if edges is not None:
        bucket = np.searchsorted(edges, seconds[epoch.items].astype(np.float64))
        starts = epoch.offsets[:-1:ranks]
        least, most = np.minimum.reduceat(bucket, starts), np.maximum.reduceat(bucket, starts)
        same = float(100 * (least == most).mean())
    return {
        "efficiency": float(100 * shares[0].mean()),
        "efficiency_quadratic": float(100 * shares[1].mean()),
        "used": float(100 * own / (ranks * costs[0].max(axis=1).sum())),
        "same_bucket": same,
    }
