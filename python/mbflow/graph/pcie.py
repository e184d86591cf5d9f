"""What gathering rows over PCI Express costs: requests for lines of 128 bytes.

A GPU that reads host memory asks for it line by line. How often it asks depends on where rows
begin, not on their contents, so that it can be counted before any GPU is there.

Example:
    >>> from mbflow.graph import pcie_requests
    >>> pcie_requests(2408, aligned=False), pcie_requests(2408)
    (36.625, 19.75)
"""

from __future__ import annotations

from math import gcd
from statistics import fmean

from mbflow.batches import check_whole
from mbflow.errors import InvalidArgumentError

__all__ = ["LANE_BYTES", "LINE", "pcie_requests"]

LINE = 128
"""Bytes of a line, the most that one request asks for."""
LANE_BYTES = (1, 2, 4, 8, 16)
"""What one of the 32 lanes of a warp may load at a time, in bytes."""
_LANES = 32


def pcie_requests(
    row_bytes: int, *, base: int = 0, lane_bytes: int = 4, aligned: bool = True
) -> float:
    """How many requests a row takes, in the mean over the rows of a table.

    A load of a warp makes a request for each line that it touches, and nothing merges the requests
    of two loads. Not aligned, the loads of a row begin where the row does, so that a load that
    begins within a line asks for one line more, which the next load asks for again. Aligned, they
    begin at whole lines (whole loads, where these are shorter), and what lies outside the row is
    masked.

    Args:
        row_bytes: Bytes of a row; rows follow each other without gaps.
        base: Address of the first row.
        lane_bytes: Bytes that each of 32 lanes loads at a time: 1, 2, 4, 8 or 16.
        aligned: Whether loads begin at whole lines.

    Returns:
        The mean number of requests. Rows repeat their place in a line after at most 128, so this is
        exact.

    Raises:
        InvalidArgumentError: A number is out of range.

    Example:
        >>> from mbflow.graph import pcie_requests
        >>> [pcie_requests(512, base=base, aligned=False) for base in (0, 16)]
        [4.0, 8.0]
        >>> [pcie_requests(512, base=base) for base in (0, 16)]
        [4.0, 5.0]

    Source:
        Min et al.: Large Graph Convolutional Network Training with GPU-Oriented Data Communication
        Architecture (arXiv 2103.03330), automatic address alignment.
    """
    check_whole("row_bytes", row_bytes, least=1)
    check_whole("base", base, least=0)
    if lane_bytes not in LANE_BYTES:
        expected = ", ".join(map(str, LANE_BYTES))
        raise InvalidArgumentError(f"lane_bytes is {lane_bytes!r}; expected one of {expected}")
    load = _LANES * lane_bytes
    places = [(base + row * row_bytes) % LINE for row in range(LINE // gcd(row_bytes, LINE))]
    count = _aligned if aligned else _plain
    return fmean(count(place, row_bytes, load) for place in places)


def _aligned(place: int, row_bytes: int, load: int) -> int:
    """Requests of a row that begins so far within a line, by loads that begin at whole lines."""
    unit = min(load, LINE)
    return (place % unit + row_bytes - 1) // unit + 1


def _plain(place: int, row_bytes: int, load: int) -> int:
    """The same by loads of which the first begins where the row does."""
    whole, rest = divmod(row_bytes, load)
    if load % LINE == 0:
        requests = whole * (load // LINE + (place > 0))
    else:
        requests = sum(_lines(place + number * load, load) for number in range(whole))
    return requests + (_lines(place + whole * load, rest) if rest else 0)


def _lines(start: int, size: int) -> int:
    return (start + size - 1) // LINE - start // LINE + 1
