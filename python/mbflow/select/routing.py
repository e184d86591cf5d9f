"""Routing rows that do not fit memory into strata of similar rows, in one pass."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mbflow import _native
from mbflow.errors import InvalidArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Router"]

_PROJECTIONS = 32
# Quantiles of a sample differ from those of all rows, so strata are planned below the cap.
_FILL = 0.9


@dataclass(frozen=True)
class Router:
    """A binary tree of cuts along random projections: rows that end in one leaf are alike.

    A row's stratum depends on the row alone, so it is the same however rows arrive.

    Attributes:
        seed: Key of the projections.
        strata: Number of strata.
        axes: int64 of shape (cuts,): the projection that each cut looks at; the first cut comes
            first.
        cuts: float32 of shape (cuts,): a row above goes to the second child.
        children: int64 of shape (cuts, 2): the cut that comes next, or -1 less the stratum.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.routing import Router
        >>> features = np.arange(90, dtype=np.float32).reshape(-1, 1)
        >>> router = Router.fit(features, rows=90, stratum_rows=40)
        >>> router.strata, np.bincount(router.route(features))
        (3, array([30, 30, 30]))
    """

    seed: int
    strata: int
    axes: NDArray[np.int64]
    cuts: NDArray[np.float32]
    children: NDArray[np.int64]

    @classmethod
    def fit(
        cls, sample: NDArray[np.float32], *, rows: int, stratum_rows: int, seed: int = 0
    ) -> Router:
        """Place the cuts at quantiles of a sample, so that strata are of even size.

        Each cut looks along that of 32 random projections in which its sample spreads the widest.

        Args:
            sample: float32 of shape (any, columns): some of the rows.
            rows: How many rows there are in all.
            stratum_rows: How many a stratum may hold; the sizes that come about are within this
                where the sample is like the rest and no value is frequent.
            seed: Key of the projections.

        Raises:
            InvalidArgumentError: `stratum_rows` is below 1.
        """
        if stratum_rows < 1:
            raise InvalidArgumentError(f"stratum_rows is {stratum_rows}; expected at least 1")
        strata = 1
        if rows > stratum_rows:
            strata = max(2, min(math.ceil(rows / (stratum_rows * _FILL)), len(sample)))
        axes: list[int] = []
        cuts: list[np.float32] = []
        children: list[list[int]] = []
        projected = _native.project(sample, projections=_PROJECTIONS, seed=seed)
        # (rows of the sample, strata to make of them, the cut above, which of its children)
        waiting = deque([(np.arange(len(sample)), strata, -1, 0)])
        made = 0
        while waiting:
            inside, leaves, above, side = waiting.popleft()
            place = len(axes) if leaves > 1 else -1 - made
            if above >= 0:
                children[above][side] = place
            if leaves == 1:
                made += 1
                continue
            values = projected[inside]
            axis = int(values.astype(np.float64).var(axis=0).argmax()) if len(inside) else 0
            first = leaves // 2
            rank = max(0, len(inside) * first // leaves - 1)
            cut = np.sort(values[:, axis])[rank] if len(inside) else np.float32(0.0)
            axes.append(axis)
            cuts.append(cut)
            children.append([0, 0])
            higher = values[:, axis] > cut
            waiting.append((inside[~higher], first, place, 0))
            waiting.append((inside[higher], leaves - first, place, 1))
        return cls(
            seed,
            strata,
            np.array(axes, np.int64),
            np.array(cuts, np.float32),
            np.array(children, np.int64).reshape(-1, 2),
        )

    def route(self, features: NDArray[np.float32]) -> NDArray[np.int64]:
        """The stratum of each row, 0 to `strata - 1`: int64 of shape (rows,)."""
        if self.strata == 1 or not len(features):
            return np.zeros(len(features), np.int64)
        projected = _native.project(features, projections=_PROJECTIONS, seed=self.seed)
        place = np.zeros(len(features), np.int64)
        going = np.arange(len(features))
        while len(going):
            at = place[going]
            above = projected[going, self.axes[at]] > self.cuts[at]
            place[going] = self.children[at, above.astype(np.int64)]
            going = going[place[going] >= 0]
        return -1 - place
