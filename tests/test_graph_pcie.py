"""Requests over PCI Express: against a simulator that marks line after line, and published means."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbflow.errors import InvalidArgumentError
from mbflow.graph import pcie_requests


def simulated(row_bytes: int, base: int, lane_bytes: int, *, aligned: bool) -> float:
    """Every byte that a lane reads, load after load, and the lines of each load."""
    load = 32 * lane_bytes
    rows = 128
    requests = 0
    for row in range(rows):
        first = base + row * row_bytes
        end = first + row_bytes
        begin = first - first % min(load, 128) if aligned else first
        lines_of_loads = set()
        for byte in range(first, end):
            number = (byte - begin) // load
            lines_of_loads.add((number, byte // 128))
        requests += len(lines_of_loads)
    return requests / rows


@settings(max_examples=150, deadline=None)
@given(
    row_bytes=st.integers(1, 700),
    base=st.integers(0, 300),
    lane_bytes=st.sampled_from([1, 2, 4, 8, 16]),
    aligned=st.booleans(),
)
def test_counts_are_those_of_a_simulator(row_bytes, base, lane_bytes, aligned):
    found = pcie_requests(row_bytes, base=base, lane_bytes=lane_bytes, aligned=aligned)
    assert found == simulated(row_bytes, base, lane_bytes, aligned=aligned)


@pytest.mark.parametrize(
    ("row_bytes", "base", "lane_bytes", "plain", "aligned"),
    [
        (132, 0, 4, 2.97, 2.00),
        (188, 0, 4, 3.41, 2.44),
        (256, 0, 4, 2, 2),
        (256, 16, 4, 4, 3),
        (256, 64, 4, 4, 3),
        (400, 0, 4, 6.625, 4.00),
        (400, 64, 4, 6.625, 4.00),
        (512, 0, 4, 4, 4),
        (512, 16, 4, 8, 5),
        (800, 0, 4, 11.50, 7.00),
        (1024, 16, 4, 16, 9),
        (1172, 0, 4, 18.84, 10.12),
        (1372, 0, 4, 21.38, 11.69),
        (1412, 0, 4, 22.66, 12.00),
        (2052, 0, 4, 32.50, 17.00),
        (2408, 0, 4, 36.625, 19.75),
        (3072, 0, 4, 24, 24),
        (3072, 16, 4, 48, 25),
        # float16, two bytes a lane.
        (200, 0, 2, 5.31, 4.00),
        (1204, 0, 2, 27.8, 19.75),
        (256, 16, 2, 6.0, 5.0),
        # As wide as rows allow.
        (400, 0, 16, 4.00, 4.00),
        (800, 0, 16, 7.75, 7.00),
        (2408, 0, 8, 28.2, 19.75),
    ],
)
def test_means_are_those_that_are_known(row_bytes, base, lane_bytes, plain, aligned):
    one = {"base": base, "lane_bytes": lane_bytes}
    assert pcie_requests(row_bytes, aligned=False, **one) == pytest.approx(plain, abs=0.051)
    assert pcie_requests(row_bytes, **one) == pytest.approx(aligned, abs=0.0051)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"row_bytes": 0}, "row_bytes is 0; expected a whole number of at least 1"),
        ({"row_bytes": 4, "base": -1}, "base is -1"),
        ({"row_bytes": 4, "lane_bytes": 3}, "lane_bytes is 3; expected one of 1, 2, 4, 8, 16"),
    ],
)
def test_numbers_out_of_range(given, message):
    with pytest.raises(InvalidArgumentError, match=message):
        pcie_requests(given.pop("row_bytes"), **given)
