"""What a batch may cost: limits from which batch sizes follow."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow import _native
from mbflow.batches import check_whole
from mbflow.errors import InvalidArgumentError
from mbflow.speech.lengths import rounded_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Budget"]

_Limit = tuple[float, float, float, float, float, float, float, float]

# What the kernels count in has room for this, and for sums and products of a few of them beside.
_MOST = 2**62


@dataclass(frozen=True)
class Budget:
    """How many items, padded to a length, a batch of one rank may hold.

    Made by one of its class methods. Two budgets joined by `&` both hold. A batch of `B` items
    padded to `T` seconds and `U` tokens is within a budget when each of its limits is kept; sizes
    are rounded down to whole items, so a budget is never exceeded.

    Attributes:
        limits: For each limit its numbers `(fixed, item, seconds, seconds_squared, tokens,
            tokens_squared, product, most)`: `fixed + B (item + seconds T + seconds_squared T^2 +
            tokens U + tokens_squared U^2 + product T U) <= most`.
        multiple: Sizes are rounded down to a multiple of this, where there are so many items.
        table: Or, instead of limits, the size for each bucket, by its edges in seconds and tokens.

    Raises:
        InvalidArgumentError: There are neither limits nor a table, or both, or one is not as above.

    Example:
        >>> from mbflow.speech import Budget
        >>> budget = Budget.padded_seconds(600) & Budget.items(64)
        >>> budget.sizes([5.0, 20.0]).tolist()
        [64, 30]
    """

    limits: tuple[_Limit, ...]
    multiple: int = 1
    table: tuple[tuple[float, float, int], ...] = ()

    def __post_init__(self) -> None:
        check_whole("multiple", self.multiple, least=1, most=_MOST)
        limits = _rows("limits", self.limits, 8)
        table = _rows("table", self.table, 3)
        if bool(limits) == bool(table):
            raise InvalidArgumentError(
                f"a budget of {len(limits)} limits and a table of {len(table)} rows; expected one "
                "of the two, as the class methods of Budget make them"
            )
        for limit in limits:
            for value in limit[:-1]:
                _at_least_zero("a coefficient of a limit", value)
            if not any(limit[1:-1]):
                raise InvalidArgumentError("an item takes nothing; expected a coefficient above 0")
            _positive("what a limit allows", limit[-1])
        rows = sorted(_table_row(*row) for row in table)
        for (seconds, tokens, _), after in pairwise(rows):
            if (seconds, tokens) == after[:2]:
                raise InvalidArgumentError(
                    f"the table has the edge {_shown(seconds, tokens)} twice, as seconds are held "
                    "in single precision; expected one size for each bucket"
                )
        object.__setattr__(self, "limits", tuple(tuple(map(float, limit)) for limit in limits))
        object.__setattr__(self, "multiple", int(self.multiple))
        object.__setattr__(self, "table", tuple(rows))

    @classmethod
    def padded_seconds(cls, most: float, *, quadratic: float | None = None) -> Budget:
        """Padded seconds of a batch: items times the longest.

        Args:
            most: Seconds.
            quadratic: The length in seconds at which an item counts twice: an item of `d` seconds
                counts `d + d^2 / quadratic`, as in lhotse's `quadratic_duration`.

        Raises:
            InvalidArgumentError: A number is not finite or not above 0.

        Example:
            >>> from mbflow.speech import Budget
            >>> Budget.padded_seconds(600, quadratic=20).sizes([20.0]).tolist()
            [15]
        """
        squared = 0.0 if quadratic is None else 1.0 / _positive("quadratic", quadratic)
        if squared == math.inf:
            raise InvalidArgumentError(f"quadratic is {quadratic!r}, too small to divide by")
        limit = (0.0, 0.0, 1.0, squared, 0.0, 0.0, 0.0, _positive("most", most))
        return cls((limit,))

    @classmethod
    def padded_tokens(cls, most: float) -> Budget:
        """Padded tokens of a batch: items times the most tokens.

        Args:
            most: Tokens.

        Raises:
            InvalidArgumentError: It is not finite or not above 0.

        Example:
            >>> from mbflow.speech import Budget
            >>> Budget.padded_tokens(4096).sizes([1.0], [100]).tolist()
            [40]
        """
        return cls(((0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, _positive("most", most)),))

    @classmethod
    def items(cls, most: int) -> Budget:
        """A number of items.

        Args:
            most: Items.

        Raises:
            InvalidArgumentError: It is no whole number of at least 1.

        Example:
            >>> from mbflow.speech import Budget
            >>> Budget.items(32).sizes([1.0, 9.0]).tolist()
            [32, 32]
        """
        check_whole("most", most, least=1, most=_MOST)
        return cls(((0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, float(most)),))

    @classmethod
    def memory(
        cls,
        most: float,
        *,
        fixed: float = 0.0,
        item: float = 0.0,
        seconds: float = 0.0,
        seconds_squared: float = 0.0,
        tokens: float = 0.0,
        tokens_squared: float = 0.0,
        product: float = 0.0,
    ) -> Budget:
        """Memory by a fitted model, in whatever unit the coefficients have.

        A batch of `B` items of `T` seconds and `U` tokens takes `fixed + B (item + seconds T +
        seconds_squared T^2 + tokens U + tokens_squared U^2 + product T U)`.

        Args:
            most: What may be taken.
            fixed: What is taken before any item.
            item: By each item.
            seconds: By each second of an item.
            seconds_squared: By each square second.
            tokens: By each token.
            tokens_squared: By each pair of tokens.
            product: By each pair of a second and a token.

        Raises:
            InvalidArgumentError: A number is negative or not finite, or all of an item are 0.

        Example:
            >>> from mbflow.speech import Budget
            >>> budget = Budget.memory(80.0, fixed=8.0, seconds=0.1, tokens=0.01)
            >>> budget.sizes([10.0], [20]).tolist()
            [60]
        """
        given = {
            "fixed": fixed,
            "item": item,
            "seconds": seconds,
            "seconds_squared": seconds_squared,
            "tokens": tokens,
            "tokens_squared": tokens_squared,
            "product": product,
        }
        numbers_ = tuple(_at_least_zero(name, value) for name, value in given.items())
        return cls(((*numbers_, _positive("most", most)),))  # type: ignore[arg-type]

    @classmethod
    def sizes_by_bucket(cls, table: Mapping[Any, int] | Sequence[tuple[Any, int]]) -> Budget:
        """Batch sizes by bucket, as NeMo's OOMptimizer writes them: they say the buckets, too.

        Args:
            table: By the bucket's edge, seconds or a pair of seconds and tokens, the batch size.

        Raises:
            InvalidArgumentError: The table is empty, or holds an edge that is not above 0 or comes
                twice, or a size below 1.

        Example:
            >>> from mbflow.speech import Budget
            >>> Budget.sizes_by_bucket({5.0: 100, 40.0: 10}).sizes([3.0, 5.0, 6.0]).tolist()
            [100, 100, 10]
        """
        try:
            given = table.items() if isinstance(table, Mapping) else table
            pairs = [(edge, size) for edge, size in given]
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(
                f"the table is {table!r}; expected sizes by edge: a mapping, or pairs of an edge "
                "and a size"
            ) from error
        if not pairs:
            raise InvalidArgumentError("the table is empty; expected a size for each bucket")
        rows = []
        for edge, size in pairs:
            both = tuple(edge) if isinstance(edge, tuple | list) else (edge, math.inf)
            if len(both) != 2:
                raise InvalidArgumentError(
                    f"edge {edge!r}: expected seconds, or a pair of seconds and tokens"
                )
            rows.append((*both, size))
        return cls((), table=tuple(rows))

    def __and__(self, other: Budget) -> Budget:
        if not isinstance(other, Budget):
            return NotImplemented
        if self.table or other.table:
            raise InvalidArgumentError(
                "a table of sizes by bucket cannot be joined with another budget; put the smaller "
                "sizes into the table"
            )
        multiple = math.lcm(self.multiple, other.multiple)
        if multiple > _MOST:
            raise InvalidArgumentError(
                f"multiples of {self.multiple} and of {other.multiple} are those of {multiple}; "
                f"expected at most {_MOST}"
            )
        return replace(self, limits=(*self.limits, *other.limits), multiple=multiple)

    @property
    def needs_tokens(self) -> bool:
        """Whether tokens count: without them, sizes would be those of items of no token.

        Example:
            >>> from mbflow.speech import Budget
            >>> Budget.padded_tokens(100).needs_tokens, Budget.items(8).needs_tokens
            (True, False)
        """
        by_limit = any(any(limit[4:7]) for limit in self.limits)
        return by_limit or any(tokens < math.inf for _, tokens, _ in self.table)

    def multiple_of(self, multiple: int) -> Budget:
        """The same, with sizes rounded down to a multiple, where there are so many items.

        Args:
            multiple: The number, such as 8.

        Raises:
            InvalidArgumentError: It is no whole number of at least 1, or sizes are given by bucket.

        Example:
            >>> from mbflow.speech import Budget
            >>> Budget.padded_seconds(600).multiple_of(8).sizes([11.0, 100.0]).tolist()
            [48, 6]
        """
        check_whole("multiple", multiple, least=1, most=_MOST)
        if self.table:
            raise InvalidArgumentError("sizes that are given by bucket are not rounded")
        return replace(self, multiple=int(multiple))

    def sizes(self, seconds: ArrayLike, tokens: ArrayLike | None = None) -> NDArray[np.int64]:
        """How many items of each shape a batch may hold.

        Args:
            seconds: Seconds that the items are padded to, of shape (shapes,).
            tokens: Tokens likewise; 0 by default.

        Returns:
            int64 of shape (shapes,); 0 where one item alone is above the budget.

        Raises:
            InvalidArgumentError: The shapes differ, or hold no numbers.

        Example:
            >>> from mbflow.speech import Budget
            >>> Budget.padded_seconds(60).sizes([2.0, 61.0]).tolist()
            [30, 0]
        """
        lengths = _column("seconds", seconds)
        outputs = np.zeros_like(lengths) if tokens is None else _column("tokens", tokens)
        if lengths.ndim != 1 or outputs.shape != lengths.shape:
            raise InvalidArgumentError(
                f"tokens: shape {outputs.shape} does not fit seconds of shape {lengths.shape}; "
                "expected one dimension and a number of tokens for each"
            )
        if not self.table:
            return _native.durations.batch_sizes(
                np.array(self.limits, dtype=np.float64),
                lengths,
                outputs,
                multiple=self.multiple,
            )
        sizes = np.zeros(len(lengths), dtype=np.int64)
        open_ = np.ones(len(lengths), dtype=bool)
        for edge, most_tokens, size in self.table:
            found = open_ & (lengths <= edge) & (outputs <= most_tokens)
            sizes[found] = size
            open_ &= ~found
        return sizes


def _rows(name: str, rows: Any, width: int) -> tuple[tuple[Any, ...], ...]:
    """Rows of so many columns, refused if they are none."""
    try:
        found = tuple(tuple(row) for row in rows)
    except TypeError:
        found = ((),)
    if any(len(row) != width for row in found):
        raise InvalidArgumentError(
            f"{name}: {rows!r}; expected a tuple of tuples of {width} numbers, as the class "
            "methods of Budget make it"
        )
    return found


def _table_row(seconds: Any, tokens: Any, size: Any) -> tuple[float, float, int]:
    """A row of a table, its seconds as lengths are: one as long as an edge is in its bucket."""
    shown = _shown(seconds, tokens)
    longest = float(rounded_up([_positive(f"edge {shown}", seconds)])[0])
    if longest == math.inf:
        raise InvalidArgumentError(f"edge {shown}: too long for single precision")
    check_whole(f"size at {shown}", size, least=1, most=_MOST)
    most = math.inf if tokens == math.inf else _positive(f"tokens of {shown}", tokens)
    return longest, most, int(size)


def _shown(seconds: Any, tokens: Any) -> str:
    return f"{seconds!r}" if tokens == math.inf else f"{(seconds, tokens)!r}"


def _column(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        found = np.asarray(values)
    except ValueError:
        found = np.empty(0, object)
    if found.dtype.kind not in "fiu":
        raise InvalidArgumentError(f"{name}: expected numbers, of shape (shapes,)")
    return np.ascontiguousarray(found, dtype=np.float64)


def _positive(name: str, value: Any) -> float:
    number = _at_least_zero(name, value)
    if number == 0:
        raise InvalidArgumentError(f"{name} is {value!r}; expected a finite number above 0")
    return number


def _at_least_zero(name: str, value: Any) -> float:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        found = float(value) if number else math.nan
    except OverflowError:
        found = math.inf
    if not 0 <= found < math.inf:
        raise InvalidArgumentError(f"{name} is {value!r}; expected a finite number of at least 0")
    return found
