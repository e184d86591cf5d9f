"""Counts and draws by class: quotas that add up, stratified samples, stratified splits."""

from __future__ import annotations

import bisect
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mbflow import _native
from mbflow.batches import check_whole
from mbflow.errors import InvalidArgumentError
from mbflow.select.labels import Labels, encode_labels

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Quotas",
    "class_quotas",
    "kept_count",
    "quotas",
    "spread_quotas",
    "stratified_random",
    "stratified_split",
]

# Sizes to a higher power leave what numbers can hold, and mean nothing that 10 does not.
_MOST_POWER = 10.0

Quotas = Literal["auto", "power", "equal", "proportional", "gain"] | Mapping[Any, int]
_POWERS = {"equal": 0.0, "proportional": 1.0}

# Streams of the keyed generator; each use of randomness has its own, so no two share draws.
_STREAM_RANDOM = 0x5E1_00001
_STREAM_SPLIT = 0x5E1_00002


def kept_count(
    rows: int, *, fraction: Any = None, count: Any = None, quotas: Quotas | None = None
) -> int:
    """The number of rows to keep, from a fraction or a count.

    Args:
        rows: Rows there are.
        fraction: Share of the rows, above 0 and at most 1; the count is `rows * fraction` to the
            nearest whole number, halves up, and at least 1.
        count: Rows to keep, 1 to `rows`; wins over `fraction`.
        quotas: Where these give the rows of each class, their sum wins over `fraction`; they are
            checked by `class_quotas`.

    Returns:
        The count, 1 to `rows`.

    Raises:
        InvalidArgumentError: Neither is given, or one is out of its range.

    Example:
        >>> from mbflow.select import kept_count
        >>> kept_count(20_000, fraction=0.04)
        800
    """
    if count is not None:
        if (
            isinstance(count, bool)
            or not isinstance(count, numbers.Integral)
            or not 1 <= int(count) <= rows
        ):
            raise InvalidArgumentError(
                f"count is {count}; expected a whole number from 1 to {rows}, the number of rows"
            )
        return int(count)
    if isinstance(quotas, Mapping):
        given: list[Any] = list(quotas.values())
        return sum(int(number) for number in given if isinstance(number, numbers.Integral))
    if fraction is None:
        raise InvalidArgumentError("neither fraction nor count is given; give one of them")
    number = isinstance(fraction, numbers.Real) and not isinstance(fraction, bool)
    if not number or not 0.0 < float(fraction) <= 1.0:
        raise InvalidArgumentError(
            f"fraction is {fraction}; expected a number above 0 and at most 1, such as 0.04"
        )
    return min(rows, max(1, math.floor(rows * float(fraction) + 0.5)))


def quotas(sizes: ArrayLike, count: int, *, power: float = 0.75) -> NDArray[np.int64]:
    """Share `count` rows among classes in proportion to `size ** power`.

    Each class gets at least 1 and at most its size. Where a share hits such a limit, the others
    share the rest in proportion; shares are rounded by the largest remainder, ties to the lower
    class. `power=1` is proportional, `power=0` gives equal quotas.

    Args:
        sizes: Rows of each class, shape (classes,); a class without rows gets none.
        count: Rows to keep in all. Where it is below the number of classes each class gets 1, so
            the sum is then larger than asked.
        power: 0 to 10.

    Returns:
        int64 of shape (classes,); the sum is `max(count, classes with rows)`.

    Raises:
        InvalidArgumentError: `count` is not in 1 .. sum of sizes, a size or `power` is negative.

    Example:
        >>> from mbflow.select import quotas
        >>> quotas([900, 90, 10], 100, power=1.0)
        array([90,  9,  1])
        >>> quotas([900, 90, 10], 100, power=0.0)
        array([45, 45, 10])
    """
    given = np.asarray(sizes)
    if given.ndim != 1 or given.dtype.kind not in "iu" or (given < 0).any():
        raise InvalidArgumentError("sizes must be one dimension of whole numbers, none negative")
    rows = given.astype(np.int64)
    if not 1 <= count <= rows.sum():
        raise InvalidArgumentError(
            f"count is {count}; expected 1 to {rows.sum()}, the sum of sizes"
        )
    _check_power(power)
    used = rows > 0
    return _shared(np.where(used, rows, 1.0) ** power * used, rows, int(count))


def _check_power(power: Any) -> None:
    number = isinstance(power, numbers.Real) and not isinstance(power, bool)
    if not number or not 0.0 <= power <= _MOST_POWER:
        raise InvalidArgumentError(
            f"power is {power!r}; expected a number from 0 (equal) over 1 (proportional) to "
            f"{_MOST_POWER:g}"
        )


def _shared(weights: NDArray[np.float64], rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Whole shares of `count` in proportion to weights, at least 1 and at most the class size."""
    used = rows > 0
    lower, upper = used.astype(np.float64), rows.astype(np.float64)
    total = max(count, int(used.sum()))
    exact = np.clip(_level(weights, lower, upper, total) * weights, lower, upper)
    # A share that is a whole number but for rounding noise must not lose a row to its floor.
    floors = np.floor(exact + 1e-9)
    result = floors.astype(np.int64)
    missing = total - int(result.sum())
    remainders = np.round(np.where(floors < upper, exact - floors, -1.0), 9)
    result[np.argsort(-remainders, kind="stable")[:missing]] += 1
    return result


# Where an argument has the name of the function.
_shares = quotas


def _level(
    weights: NDArray[np.float64],
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    total: int,
) -> float:
    """The factor at which the clipped shares add up to `total`: a rising, piecewise linear sum."""
    used = weights > 0.0
    weights, lower, upper = weights[used], lower[used], upper[used]
    knots = np.unique(np.concatenate([lower / weights, upper / weights]))

    def sum_at(index: int) -> Any:
        return np.clip(knots[index] * weights, lower, upper).sum()

    after = bisect.bisect_left(range(len(knots)), total, key=sum_at)
    if after == 0:
        return float(knots[0])
    if after == len(knots):
        return float(knots[-1])
    start, end = float(knots[after - 1]), float(knots[after])
    below, above = float(sum_at(after - 1)), float(sum_at(after))
    return start + (total - below) / (above - below) * (end - start)


def spread_quotas(counts: ArrayLike, members: ArrayLike) -> NDArray[np.int64]:
    """Share each class's quota among parts of the data, in proportion to the class's rows there.

    Args:
        counts: Rows to keep of each class, shape (classes,).
        members: Rows of each class in each part, shape (parts, classes).

    Returns:
        int64 of the shape of `members`, none above it; the sums over parts are `counts`.

    Raises:
        InvalidArgumentError: A quota is negative or above the rows of its class.

    Example:
        >>> from mbflow.select.strata import spread_quotas
        >>> spread_quotas([3, 1], [[10, 0], [20, 5]])
        array([[1, 0],
               [2, 1]])
    """
    wanted = np.asarray(counts, dtype=np.int64)
    sizes = np.asarray(members, dtype=np.int64)
    totals = sizes.sum(axis=0)
    if (wanted < 0).any() or (wanted > totals).any():
        raise InvalidArgumentError("a quota is negative or above the rows of its class")
    # Whole numbers throughout: rows and quotas stay below 2^31, so products fit.
    product = sizes * wanted
    safe = np.maximum(totals, 1)
    result: NDArray[np.int64] = product // safe
    remainders = product % safe
    for code in np.flatnonzero(result.sum(axis=0) < wanted):
        order = np.argsort(-remainders[:, code], kind="stable")
        result[order[: wanted[code] - result[:, code].sum()], code] += 1
    return result


def class_quotas(
    labels: Any, count: int, *, quotas: Quotas = "power", power: float = 0.75
) -> NDArray[np.int64]:
    """Share `count` rows among the classes of a column, by one of several rules.

    Args:
        labels: Class label of each row (see `encode_labels`).
        count: Rows to keep in all. Where it is below the number of classes each class gets 1.
        quotas: "power" (in proportion to class size to the power `power`), "equal", "proportional",
            or the rows of each class by its name, which add up to `count`; "auto" is "power".
            ("gain" is no share: `coverage_rows` finds it by picking.)
        power: For "power", 0 to 10.

    Returns:
        int64 of shape (classes,), in the order of `encode_labels`, each at least 1 and at most the
        class size.

    Raises:
        InvalidArgumentError: An argument is out of range; a mapping lacks a class, names an unknown
            one, asks for more rows than a class has or for none, or does not add up to `count`.
        DataError: A label is missing.

    Example:
        >>> from mbflow.select import class_quotas
        >>> labels = ["a"] * 90 + ["b"] * 10
        >>> class_quotas(labels, 20, quotas="proportional")
        array([18,  2])
        >>> class_quotas(labels, 20, quotas={"a": 12, "b": 8})
        array([12,  8])
    """
    encoded = encode_labels(labels)
    return quotas_by_rule(encoded.classes, encoded.sizes, count, quotas=quotas, power=power)


def quotas_by_rule(
    classes: Sequence[str],
    sizes: NDArray[np.int64],
    count: int,
    *,
    quotas: Quotas = "power",
    power: float = 0.75,
) -> NDArray[np.int64]:
    """`class_quotas` where the classes have been counted already.

    Args:
        classes: Name of each class.
        sizes: Rows of each class, int64 of shape (classes,).
        count: Rows to keep in all.
        quotas: See `class_quotas`.
        power: See `class_quotas`.

    Raises:
        InvalidArgumentError: As `class_quotas`.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.strata import quotas_by_rule
        >>> quotas_by_rule(["a", "b"], np.array([90, 10]), 20, quotas="equal")
        array([10, 10])
    """
    check_whole("count", count, least=1)
    if isinstance(quotas, Mapping):
        return _given_quotas(classes, sizes, count, quotas)
    if quotas in ("power", "auto"):
        return _shares(sizes, count, power=power)
    if isinstance(quotas, str) and quotas in _POWERS:
        return _shares(sizes, count, power=_POWERS[quotas])
    hint = " ('gain' applies to coverage only)" if quotas == "gain" else ""
    raise InvalidArgumentError(
        f"quotas is {quotas!r}; expected 'auto', 'power', 'equal', 'proportional', 'gain' or the "
        f"rows of each class{hint}"
    )


def _given_quotas(
    classes: Sequence[str], sizes: NDArray[np.int64], count: int | None, given: Mapping[Any, int]
) -> NDArray[np.int64]:
    by_name = {str(name): rows for name, rows in given.items()}
    if len(by_name) < len(given):
        raise InvalidArgumentError(
            f"quotas names a class twice: {', '.join(map(repr, given))}; class names are text"
        )
    if set(classes) <= {"True", "False"}:
        # As YAML and JSON write them.
        by_name = {name.capitalize(): rows for name, rows in by_name.items()}
    unknown = [name for name in by_name if name not in classes]
    if unknown:
        raise InvalidArgumentError(
            f"quotas names the class {unknown[0]!r}, which the labels lack; the classes are "
            f"{', '.join(map(repr, classes[:10]))}"
        )
    result = np.zeros(len(classes), dtype=np.int64)
    for code, (name, size) in enumerate(zip(classes, sizes, strict=True)):
        rows: Any = by_name.get(name)
        if rows is None:
            raise InvalidArgumentError(
                f"quotas gives no rows to the class {name!r}; expected 1 to {size}, the rows it has"
            )
        if (
            isinstance(rows, bool)
            or not isinstance(rows, numbers.Integral)
            or not 1 <= int(rows) <= size
        ):
            raise InvalidArgumentError(
                f"quotas gives {rows} rows to the class {name!r}; expected 1 to {size}, the rows "
                "it has"
            )
        result[code] = int(rows)
    if count is not None and result.sum() != count:
        raise InvalidArgumentError(
            f"quotas adds up to {result.sum()} rows and {count} are to be kept; make them the same"
        )
    return result


def scaled_quotas(
    classes: Sequence[str], sizes: NDArray[np.int64], count: int, *, given: Mapping[Any, int]
) -> dict[str, int]:
    """Quotas given by class, for another number of rows: in the same proportion.

    Args:
        classes: Name of each class.
        sizes: Rows of each class, int64 of shape (classes,).
        count: Rows to keep in all.
        given: Rows of each class by its name, each at least 1.

    Returns:
        Rows by class that add up to `count`, each at least 1 and at most the class size.

    Raises:
        InvalidArgumentError: A class is not named, or an unknown one is.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.strata import scaled_quotas
        >>> scaled_quotas(["a", "b"], np.array([90, 10]), 10, given={"a": 15, "b": 5})
        {'a': 8, 'b': 2}
    """
    whole = np.full(len(classes), np.iinfo(np.int64).max)
    weights = _given_quotas(classes, whole, None, given).astype(np.float64)
    return dict(zip(classes, _shared(weights, sizes, count).tolist(), strict=True))


def stratified_random(
    labels: Any, *, fraction: float | None = None, count: int | None = None, seed: int = 0
) -> NDArray[np.int64]:
    """A random sample with the class mixture of the whole, and at least one row of each class.

    Args:
        labels: Class label of each row (see `encode_labels`).
        fraction: Share of the rows to draw.
        count: Rows to draw; wins over `fraction`.
        seed: Key of the draw.

    Returns:
        Row numbers, int64, ascending.

    Raises:
        InvalidArgumentError: `fraction` or `count` is out of range.
        DataError: A label is missing.

    Example:
        >>> from mbflow.select import stratified_random
        >>> rows = stratified_random(["a"] * 90 + ["b"] * 10, count=10)
        >>> len(rows), int((rows >= 90).sum())
        (10, 1)
    """
    encoded = encode_labels(labels)
    wanted = kept_count(len(encoded.codes), fraction=fraction, count=count)
    return draw_rows(encoded, quotas(encoded.sizes, wanted, power=1.0), seed=seed)


def draw_rows(labels: Labels, counts: NDArray[np.int64], *, seed: int = 0) -> NDArray[np.int64]:
    """A random sample with a given count of each class.

    Args:
        labels: Class of each row.
        counts: Rows to draw of each class, at most those it has.
        seed: Key of the draw.

    Returns:
        Row numbers, int64, ascending.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import encode_labels
        >>> from mbflow.select.strata import draw_rows
        >>> len(draw_rows(encode_labels(["a"] * 9 + ["b"]), np.array([3, 0])))
        3
    """
    shuffled = _shuffled(labels, seed, _STREAM_RANDOM)
    drawn = [rows[:share] for rows, share in zip(shuffled, counts, strict=True)]
    return np.sort(np.concatenate(drawn))


def stratified_split(
    labels: Any, *, test_fraction: float = 0.2, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the rows in two, each class in the same proportion.

    Of a class of n rows, `n * test_fraction` to the nearest whole number go to the test part,
    halves up, and at least one stays in the training part.

    Args:
        labels: Class label of each row (see `encode_labels`).
        test_fraction: Share of the test part, at least 0 and below 1.
        seed: Key of the draw.

    Returns:
        Row numbers of the training and of the test part, int64, ascending, disjoint.

    Raises:
        InvalidArgumentError: `test_fraction` is out of range.
        DataError: A label is missing.

    Example:
        >>> from mbflow.select import stratified_split
        >>> train, test = stratified_split(["a"] * 10 + ["b"], test_fraction=0.2)
        >>> len(train), len(test), 10 in train
        (9, 2, True)
    """
    if not 0.0 <= test_fraction < 1.0:
        raise InvalidArgumentError(
            f"test_fraction is {test_fraction}; expected at least 0 and below 1, such as 0.2"
        )
    encoded = encode_labels(labels)
    train, test = [], []
    for rows in _shuffled(encoded, seed, _STREAM_SPLIT):
        cut = min(math.floor(len(rows) * test_fraction + 0.5), len(rows) - 1)
        test.append(rows[:cut])
        train.append(rows[cut:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def _shuffled(labels: Labels, seed: int, stream: int) -> list[NDArray[np.int64]]:
    """The rows of each class, in the order of one keyed permutation of all rows."""
    order = _native.permutation(seed, stream, len(labels.codes))
    by_class = order[np.argsort(labels.codes[order], kind="stable")]
    return np.split(by_class, np.cumsum(labels.sizes)[:-1])
