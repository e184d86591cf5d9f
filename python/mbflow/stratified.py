"""Batches that keep the mixture of the classes, for training on labelled rows."""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mbflow import _native
from mbflow.arrow import to_series
from mbflow.batches import BatchSampler, Last, Share, check_last, check_whole
from mbflow.errors import DataError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import polars as pl
    from numpy.typing import NDArray

__all__ = ["StratifiedBatches"]

# Rows are turned into codes in pieces of this many, so that no column of 64-bit codes is ever made.
_PIECE = 1 << 22
# Integers within a range of this are looked up in a table, which is ten times faster.
_TABLE = 1 << 20
# Rows an epoch may hold; more is a slip in the weights.
_MOST_ROWS = 1 << 40


class StratifiedBatches:
    """Batches that each hold the class mixture to within one row, as a pure function.

    Which rows batch `b` of an epoch holds follows by arithmetic from the labels, the seed, the
    epoch and `b`: no step is iterated to. The rows of an epoch are put on a line, class after
    class, each class in a fresh keyed order, and dealt round-robin; so each batch has the floor or
    the ceiling of `quotas[c] * rows of the batch / sum of quotas` rows of class `c`. Kept are
    four bytes a row.

    Every epoch has another order. With `mixture="proportional"` it holds every row exactly once.
    Otherwise class `c` gives `quotas[c]` rows: a class with fewer rows goes round again, all of
    its rows in one order, then all in another, so that its rows occur equally often to within one.
    A class with more rows than its quota gives a different part in each epoch, until fewer than a
    quota are left and a fresh order begins.

    Args:
        labels: Class of each row: NumPy, polars, pandas, pyarrow (chunks and dictionaries too), or
            a list.
        batch_size: Rows of a batch of one rank.
        mixture: `"proportional"`: as in `labels`; `"balanced"`: as many rows of each class; or
            weights, a mapping of each class to a number above 0.
        epoch_rows: Rows of an epoch. By default the fewest that hold each row at least once: all
            rows once for the class with the most rows for its weight, repeats in the others.
        last: What becomes of the rows that do not fill a batch, and of batches that do not fill a
            step of all ranks, see `Last`. A rank for which no row is left at a short last step
            takes one of another rank's, marked as a repeat.
        seed: Key of all draws, 0 to 2^64 - 1.

    Attributes:
        classes: The classes, in ascending order.
        sizes: Rows of each class, int64 of shape (classes,).
        quotas: Rows of each class in an epoch, likewise.
        batch_size: As given.
        batches: Batches of an epoch.
        rows: Number of labels.

    Raises:
        InvalidArgumentError: A parameter is out of range, or a weight is missing or too many.
        DataError: There is no row, or a label is null or NaN.

    Example:
        >>> from mbflow.stratified import StratifiedBatches
        >>> batches = StratifiedBatches(["cat"] * 6 + ["dog"] * 2, 4)
        >>> batches.steps(), sum(int(row) >= 6 for row in batches.batch(0, 1))
        (2, 1)
        >>> balanced = StratifiedBatches(["cat"] * 6 + ["dog"] * 2, 4, mixture="balanced")
        >>> balanced.quotas, sum(int(balanced.repeats(0, step).sum()) for step in range(3))
        (array([6, 6]), 4)
    """

    def __init__(
        self,
        labels: Any,
        batch_size: int,
        *,
        mixture: Literal["proportional", "balanced"] | Mapping[Any, float] = "proportional",
        epoch_rows: int | None = None,
        last: Last = "short",
        seed: int = 0,
    ) -> None:
        check_whole("batch_size", batch_size, least=1)
        check_whole("seed", seed, least=0, most=2**64 - 1)
        if epoch_rows is not None:
            check_whole("epoch_rows", epoch_rows, least=1, most=_MOST_ROWS)
        check_last(last)
        codes, self.classes = _class_codes(labels)
        offsets, self._rows_by_class = _native.rows_by_class(codes, len(self.classes))
        del codes
        self.sizes: NDArray[np.int64] = np.diff(offsets)
        weights = _weights(mixture, self.classes, self.sizes)
        self.batch_size = int(batch_size)
        self.last: Last = last
        self.seed = int(seed)
        self.quotas = _quotas(self.sizes, weights, epoch_rows, self.classes)
        total = int(self.quotas.sum())
        if last == "fill" and total % self.batch_size:
            missing = self.batch_size - total % self.batch_size
            self.quotas = self.quotas + _apportioned(self.quotas.astype(np.float64), missing)
            total += missing
        self.batches = total // self.batch_size
        self._uneven = last == "short" and total % self.batch_size > 0
        if last == "short":
            self.batches = -(-total // self.batch_size)
        elif self.batches == 0:
            raise InvalidArgumentError(
                f"batch_size is {batch_size} and an epoch has {total} rows, so last='drop' leaves "
                "no batch; take a smaller batch_size, or last='short'"
            )
        self._deal: tuple[int, _native.Deal] | None = None
        self._digest: str | None = None

    @property
    def rows(self) -> int:
        """Number of labels."""
        return len(self._rows_by_class)

    def __repr__(self) -> str:
        return (
            f"StratifiedBatches({self.rows} rows, {len(self.classes)} classes, "
            f"{self.batches} batches of {self.batch_size})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_deal": None}

    def share(self, epoch: int = 0, *, world_size: int = 1, start: int = 0) -> Share:
        """How the batches of an epoch are shared among ranks.

        Args:
            epoch: Number of the epoch; all have the same share.
            world_size: Number of ranks.
            start: Batches of the epoch that are done already.

        Returns:
            The share.

        Raises:
            InvalidArgumentError: A number is out of range.

        Example:
            >>> from mbflow.stratified import StratifiedBatches
            >>> StratifiedBatches([0, 1] * 8, 2).share(world_size=3).steps
            3
        """
        check_whole("epoch", epoch, least=0, most=2**63 - 1)
        return Share(self.batches, world_size, start, self.last, self._uneven)

    def steps(self, *, world_size: int = 1, start: int = 0) -> int:
        """Steps of an epoch, the same for every rank; see `share`.

        Args:
            world_size: Number of ranks.
            start: Batches of the epoch that are done already.

        Returns:
            The count.

        Raises:
            InvalidArgumentError: A number is out of range.

        Example:
            >>> from mbflow.stratified import StratifiedBatches
            >>> StratifiedBatches([0, 1] * 8, 2).steps(world_size=4)
            2
        """
        return self.share(world_size=world_size, start=start).steps

    def batch(
        self, epoch: int, step: int, *, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> NDArray[np.int64]:
        """The rows that a rank takes at a step, in keyed order; costs what the batch holds.

        Args:
            epoch: Number of the epoch, from 0; there is no last one.
            step: 0 to `steps(...) - 1`.
            rank: 0 to `world_size - 1`.
            world_size: Number of ranks.
            start: Batches of the epoch that were done before step 0: 0, or where a run with
                another number of ranks stopped.

        Returns:
            Row numbers, int64 of shape (rows of the batch,).

        Raises:
            InvalidArgumentError: There is no such epoch, step or rank.

        Example:
            >>> from mbflow.stratified import StratifiedBatches
            >>> batches = StratifiedBatches([0] * 9 + [1] * 3, 4, seed=1)
            >>> sorted(int(row) for step in range(3) for row in batches.batch(5, step))
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
        """
        return self._dealt(epoch, step, rank, world_size, start)[0]

    def repeats(
        self, epoch: int, step: int, *, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> NDArray[np.bool_]:
        """Which rows of `batch` are repeats: rows with another, unmarked place in the epoch.

        Args:
            epoch: As for `batch`, as all others.
            step: Number of the step.
            rank: Number of the rank.
            world_size: Number of ranks.
            start: Batches that were done before.

        Returns:
            bool of shape (rows of the batch,).

        Raises:
            InvalidArgumentError: As for `batch`.

        Example:
            >>> from mbflow.stratified import StratifiedBatches
            >>> StratifiedBatches([0, 0, 1], 3).repeats(0, 0).any()
            np.False_
        """
        return self._dealt(epoch, step, rank, world_size, start)[1]

    def _dealt(
        self, epoch: int, step: int, rank: int, world_size: int, start: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        turn = self.share(epoch, world_size=world_size, start=start).turn(step, rank)
        deal = self._deal_of(epoch)
        rows = self._rows_by_class
        if turn.parts == 1:
            dealt = deal.batch(rows, turn.batch)
            return (dealt[0], np.ones_like(dealt[1])) if turn.repeat else dealt
        dealt = deal.split(rows, turn.batch, turn.parts, turn.part)
        if len(dealt[0]):
            return dealt
        # Fewer rows than ranks: the first parts hold one each, and are taken in turn.
        left = sum(len(deal.batch(rows, at)[0]) for at in range(turn.batch, deal.batches))
        row, repeat = deal.split(rows, turn.batch, turn.parts, turn.part % left)
        return row, np.ones_like(repeat)

    def _deal_of(self, epoch: int) -> _native.Deal:
        cached = self._deal
        if cached is not None and cached[0] == epoch:
            return cached[1]
        deal = _native.Deal(
            self.sizes.tolist(),
            self.quotas.tolist(),
            self.batch_size,
            seed=self.seed,
            epoch=int(epoch),
        )
        self._deal = (int(epoch), deal)
        return deal

    def fingerprint(self) -> dict[str, int | str]:
        """What the batches depend on, as a resume compares it.

        Returns:
            Rows, batch size, seed, the rule for what is left, and digests of quotas and labels.

        Example:
            >>> from mbflow.stratified import StratifiedBatches
            >>> StratifiedBatches([0, 1], 2).fingerprint()["rows"]
            2
        """
        return {
            "rows": self.rows,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "last": self.last,
            "quotas": _native.xxh3_128(self.quotas.tobytes()),
            "labels": self._label_digest(),
        }

    def _label_digest(self) -> str:
        if self._digest is None:
            rows = self._rows_by_class
            pieces = (rows[first : first + _PIECE] for first in range(0, len(rows), _PIECE))
            digests = "".join(_native.xxh3_128(piece.tobytes()) for piece in pieces)
            self._digest = _native.xxh3_128(self.sizes.tobytes() + digests.encode())
        return self._digest

    def sampler(self, *, rank: int = 0, world_size: int = 1, epoch: int = 0) -> BatchSampler:
        """A batch sampler of one rank, for `torch.utils.data.DataLoader(batch_sampler=...)`.

        Args:
            rank: 0 to `world_size - 1`.
            world_size: Number of ranks.
            epoch: The first epoch.

        Returns:
            The sampler.

        Raises:
            InvalidArgumentError: There is no such rank, or an epoch has no step for so many ranks.

        Example:
            >>> from mbflow.stratified import StratifiedBatches
            >>> sampler = StratifiedBatches([0, 0, 1, 1], 2).sampler()
            >>> [len(batch) for batch in sampler], sampler.epoch
            ([2, 2], 1)
        """
        return BatchSampler(self, rank=rank, world_size=world_size, epoch=epoch)


def _weights(
    mixture: Any, classes: tuple[Any, ...], sizes: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """The weight of each class; None stands for the mixture as it is."""
    if isinstance(mixture, str):
        if mixture == "proportional":
            return None
        if mixture == "balanced":
            return np.ones(len(sizes))
    if not hasattr(mixture, "keys"):
        raise InvalidArgumentError(
            f"mixture is {mixture!r}; expected 'proportional', 'balanced' or a mapping of each "
            "class to its weight"
        )
    unknown = [key for key in mixture if key not in set(classes)]
    missing = [name for name in classes if name not in mixture]
    if unknown or missing:
        parts = [f"no row has the class {unknown[0]!r}"] if unknown else []
        parts += [f"class {missing[0]!r} has no weight"] if missing else []
        raise InvalidArgumentError(
            f"mixture: {' and '.join(parts)}; expected a weight for each of the {len(classes)} "
            "classes and no other"
        )
    for name in classes:
        weight = mixture[name]
        number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
        if not number or not 0.0 < float(weight) < math.inf:
            raise InvalidArgumentError(
                f"mixture: the weight of class {name!r} is {weight!r}; expected a number above 0 "
                "(to leave a class out, drop its rows first)"
            )
    return np.array([float(mixture[name]) for name in classes])


def _quotas(
    sizes: NDArray[np.int64],
    weights: NDArray[np.float64] | None,
    epoch_rows: int | None,
    classes: tuple[Any, ...],
) -> NDArray[np.int64]:
    """Rows of each class in an epoch."""
    if epoch_rows is not None:
        quotas = _apportioned(sizes.astype(np.float64) if weights is None else weights, epoch_rows)
        if not quotas.all():
            name = classes[int(np.argmin(quotas))]
            raise InvalidArgumentError(
                f"class {name!r} would have no row in an epoch of {epoch_rows} rows; raise "
                "epoch_rows or the weight of the class"
            )
        return quotas
    if weights is None:
        return sizes
    exact = (sizes / weights).max() * weights
    if not exact.sum() <= _MOST_ROWS:
        raise InvalidArgumentError(
            f"an epoch that holds each row at least once would have {exact.sum():.3g} rows, since "
            "the weights are so far from the sizes of the classes; set epoch_rows"
        )
    rounded: NDArray[np.int64] = np.maximum(sizes, np.floor(exact + 0.5).astype(np.int64))
    return rounded


def _apportioned(weights: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """`total` in proportion to weights: the largest remainders get one more, ties the lower."""
    # Divided by the largest, so that the sum cannot overflow.
    weights = weights / weights.max()
    exact = weights / weights.sum() * total
    shares: NDArray[np.int64] = np.floor(exact + 1e-9).astype(np.int64)
    remainders = np.round(exact - shares, 9)
    missing = total - int(shares.sum())
    shares[np.argsort(-remainders, kind="stable")[: max(missing, 0)]] += 1
    return shares


def _class_codes(
    labels: Any,
) -> tuple[NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32], tuple[Any, ...]]:
    """Each row's class as a code of the smallest type, and the classes in ascending order."""
    import polars as pl

    series = to_series(labels, name="labels")
    if series.len() == 0:
        raise DataError("labels: there is no row; expected at least one")
    _refuse_missing(series)
    if isinstance(series.dtype, pl.Categorical | pl.Enum):
        text: type[pl.String] | None = pl.String
    elif series.dtype.is_float() and (series != series.floor()).any():
        row = int((series != series.floor()).arg_max() or 0)
        raise DataError(
            f"labels: row {row} is {series[row]}, which is no class label; expected strings, "
            "categories, whole numbers or booleans (`mbflow.select.quantile_labels` cuts a numeric "
            "target into classes)",
            row=row,
        )
    elif series.dtype.is_nested() or series.dtype == pl.Object:
        raise DataError(
            f"labels are of type {series.dtype}, which is no class label; expected strings, "
            "categories, integers or booleans"
        )
    else:
        text = None
    pieces = [series.slice(first, _PIECE) for first in range(0, series.len(), _PIECE)]
    found = pl.concat([piece.unique() for piece in pieces]).unique()
    names = (found if text is None else found.cast(text)).to_list()
    if text is not None:
        found, pieces = found.to_physical(), [piece.to_physical() for piece in pieces]
    order = sorted(range(len(names)), key=names.__getitem__)
    dtype = _smallest(len(names))
    codes = np.empty(series.len(), dtype)
    place = np.empty(len(names), dtype)
    place[order] = np.arange(len(names), dtype=dtype)
    code_of = _coder(found, place)
    for index, piece in enumerate(pieces):
        codes[index * _PIECE : index * _PIECE + piece.len()] = code_of(piece)
    return codes, tuple(names[at] for at in order)


def _coder(found: pl.Series, place: NDArray[Any]) -> Callable[[pl.Series], NDArray[Any]]:
    """The function that turns values into the places of their classes."""
    import polars as pl

    if found.dtype.is_integer():
        values = found.to_list()
        low, high = min(values), max(values)
        if high - low < _TABLE and low >= -(2**63) and high < 2**63:
            table = np.zeros(high - low + 1, place.dtype)
            table[np.array(values, np.int64) - low] = place
            return lambda piece: table[piece.to_numpy().astype(np.int64) - low]
    new = pl.Series(place)
    return lambda piece: piece.replace_strict(found, new, return_dtype=new.dtype).to_numpy()


def _smallest(classes: int) -> Any:
    return np.uint8 if classes <= 1 << 8 else np.uint16 if classes <= 1 << 16 else np.uint32


def _refuse_missing(series: pl.Series) -> None:
    missing = series.is_null() if series.null_count() else None
    if missing is None and series.dtype.is_float():
        missing = series.is_nan()
    row = None if missing is None else missing.arg_max()
    if missing is not None and row is not None and missing[row]:
        raise DataError(
            f"labels: row {row} has no class (null or NaN), as {int(missing.sum())} of "
            f"{series.len()} rows; drop these rows or give them a class",
            row=row,
        )
