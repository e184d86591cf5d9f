"""How figures are written for people."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbflow.display import MISSING, column, count, duration, size

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([])
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9_949, "9.9 kB"), (9_951, "10 kB"),
     (999_499, "999 kB"), (999_500, "1.0 MB"), (6.2e9, "6.2 GB"), (1e18, "1,000 PB"),
     (None, MISSING), (True, MISSING), (math.nan, MISSING)],
)  # fmt: skip
def test_sizes(value: object, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 ms"), (0.0994, "99 ms"), (0.9996, "1.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"),
     (3599.4, "59 min 59 s"), (3599.6, "1 h 00 min"), (90_000, "25 h 00 min"), ("1", MISSING)],
)  # fmt: skip
def test_durations(value: object, text: str) -> None:
    assert duration(value) == text


@given(ANYTHING)
def test_any_value_has_a_text(value: object) -> None:
    for write in (count, size, duration):
        text = write(value)
        assert isinstance(text, str)
        assert text


@pytest.mark.parametrize(
    ("values", "texts", "is_figure"),
    [
        ([0.5, 0.25, None, math.nan], ["0.5000", "0.2500", MISSING, MISSING], True),
        ([1234.6, 2.0], ["1,235", "2"], True),
        ([12.5, 3.0], ["12.5", "3.0"], True),
        ([10_000, -3], ["10,000", "-3"], True),
        ([1e-9, 2e-9], ["1e-09", "2e-09"], True),
        ([1e20, 1.0], ["1e+20", "1"], True),
        (["0.95 ± 0.01", "4.1 MB", "1 min 14 s", MISSING], None, True),
        (["A", "B"], ["A", "B"], False),
        (["2026-11-21"], ["2026-11-21"], False),
        ([True, False], ["yes", "no"], False),
        ([None], [MISSING], False),
        ([], [], False),
    ],
)
def test_columns(values: list[object], texts: list[str] | None, is_figure: bool) -> None:
    assert column(values) == (values if texts is None else texts, is_figure)


@given(st.lists(ANYTHING, max_size=8))
def test_a_column_has_one_text_a_value(values: list[object]) -> None:
    texts, is_figure = column(values)
    assert len(texts) == len(values)
    assert isinstance(is_figure, bool)
    assert all(isinstance(text, str) for text in texts)


@given(st.lists(st.floats(min_value=-1, max_value=1), min_size=1, max_size=8))
def test_shares_keep_four_decimals(values: list[float]) -> None:
    texts, is_figure = column(values)
    assert is_figure
    largest = max(map(abs, values))
    for text, value in zip(texts, values, strict=True):
        assert float(text) == pytest.approx(value, abs=max(5e-5, 6e-3 * largest))
