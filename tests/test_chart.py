"""Line charts and scatters: what is drawn, and what cannot be."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from mbflow.chart import SERIES_COLOURS, bars, draw, has_spread, lines, scatter

LINES = {
    "kind": "lines",
    "ylabel": "accuracy",
    "groups": ["90 % left out", "96 % left out", "98 % left out"],
    "series": [
        {"name": "all rows", "mean": [0.9, 0.9, 0.9], "sd": [0.01, None, 0.01]},
        {"name": "random", "mean": [0.8, None, 0.6], "sd": [0.02, 0.02, 0.02]},
    ],
}
POINTS = {
    "kind": "scatter",
    "xlabel": "first axis",
    "ylabel": "second axis",
    "series": [
        {"name": "dropped", "x": [0.0, 1.0, 2.0], "y": [0.0, 1.0, 4.0], "group": [0, 1, 0]},
        {"name": "kept", "x": [1.5], "y": [2.0], "group": [SERIES_COLOURS]},
    ],
}


def colours(svg: str) -> set[str]:
    return set(re.findall(r"var\((--series-\d)\)", svg))


@pytest.mark.parametrize("chart", [LINES, POINTS], ids=["lines", "scatter"])
def test_drawings_are_whole_and_the_same_again(chart) -> None:
    svg = draw(chart, salt="c")
    root = ET.fromstring(svg)
    assert root.tag.endswith("svg")
    assert draw(chart, salt="c") == svg
    assert draw(chart, salt="d") != svg
    ids = [node.get("id") for node in root.iter() if node.get("id")]
    assert ids
    assert all(name.startswith("c-") for name in ids)
    assert "#fe00" not in svg
    for text in (chart["ylabel"], chart.get("xlabel", chart.get("groups", [""])[0])):
        assert text in svg


def test_one_line_a_series_with_a_gap_where_there_is_no_number() -> None:
    svg = lines(LINES, salt="c")
    assert colours(svg) == {"--series-1", "--series-2"}
    more = {**LINES, "series": [{"name": "x", "mean": [0.9, 0.8, 0.7], "sd": [0, 0, 0]}]}
    assert colours(lines(more, salt="c")) == {"--series-1"}
    assert svg.count("<use") > lines(more, salt="c").count("<use")


def names_of(svg: str) -> list[str | None]:
    return [node.text for node in ET.fromstring(svg).iter() if node.tag.endswith("text")]


@pytest.mark.parametrize("count", [1, 2, 16, 17, 50, 400])
def test_of_many_epochs_as_many_have_a_label_as_can_be_read(count) -> None:
    epochs = [f"e{number}" for number in range(1, count + 1)]
    series = [{"name": "training", "mean": [1 / number for number in range(1, count + 1)]}]
    named = [name for name in names_of(lines({"groups": epochs, "series": series}, salt="c"))
             if name and name.startswith("e")]  # fmt: skip
    assert len(named) <= 16
    assert len(named) > min(count, 16) // 2
    assert named[-1] == epochs[-1]
    places = [epochs.index(name) for name in named]
    assert len({after - before for before, after in itertools.pairwise(places)}) <= 1


@pytest.mark.parametrize("draw_one", [bars, lines])
def test_only_several_runs_have_whiskers(draw_one) -> None:
    def drawn(sd):
        one = {"name": "gcn", "mean": [0.5, 0.7], "sd": sd}
        chart = {"groups": ["valid", "test"], "series": [one]}
        return has_spread(chart), draw_one(chart, salt="c")

    without = drawn([None, None])
    assert not without[0]
    assert drawn([0.0, 0.0]) == without
    there, svg = drawn([0.0, 0.1])
    assert there
    assert svg != without[1]


def test_points_have_the_colour_of_their_group_and_kept_ones_lie_on_top() -> None:
    svg = scatter(POINTS, salt="c")
    # The seventh group starts the colours again.
    assert colours(svg) == {"--series-1", "--series-2"}
    plain = {"series": [{"x": [0.0], "y": [1.0]}]}
    assert colours(scatter(plain, salt="c")) == {"--series-1"}
    assert svg.index("opacity: 0.45") < svg.rindex("var(--series-1)")


@pytest.mark.parametrize(
    "chart",
    [
        {"kind": "lines"},
        {"kind": "lines", "groups": ["a"], "series": [{"mean": [None]}]},
        {"kind": "lines", "groups": ["a"], "series": [{"mean": "0.5"}]},
        {"kind": "scatter"},
        {"kind": "scatter", "series": [{"name": "x", "x": [], "y": []}]},
        {"kind": "scatter", "series": [{"name": "x", "x": None}]},
        {"kind": "pie"},
    ],
)
def test_what_cannot_be_drawn_is_refused(chart) -> None:
    with pytest.raises(ValueError, match=r"the chart has no|there is no chart 'pie'"):
        draw(chart, salt="c")


@pytest.mark.parametrize(
    "series",
    [
        {"x": [0.0, float("nan"), 2.0], "y": [1.0, 2.0, float("inf")], "group": [0, None, "a"]},
        {"x": [0.0, 1.0], "y": [1.0]},
        {"x": [1.0, 1.0], "y": [1.0, 1.0]},
        {"x": [True, "2"], "y": [0, 1]},
    ],
)
def test_odd_numbers_break_no_scatter(series) -> None:
    ET.fromstring(scatter({"series": [series, series]}, salt="c"))


def test_names_cannot_break_out_of_the_drawing() -> None:
    evil = '</text><script>alert(1)</script>&"\x00'
    for chart in (
        {**LINES, "ylabel": evil, "groups": [evil, evil, evil]},
        {**POINTS, "xlabel": evil, "ylabel": evil},
    ):
        svg = draw(chart, salt="c")
        ET.fromstring(svg)
        assert "<script" not in svg


@pytest.mark.parametrize(
    ("heights", "options", "labels"),
    [
        ([0.5, 0.25], {}, ["0.500", "0.250"]),
        ([9.5, 24.31], {"decimals": 1}, ["9.5", "24.3"]),
        ([9.5, 24.3149], {}, ["9.50", "24.31"]),
        ([3, 1200], {"decimals": 0}, ["3", "1,200"]),
        ([3.25, 1200.5], {}, ["3", "1,200"]),
        ([1e9, 2.5], {}, ["1e+09", "2.5"]),
    ],
)
def test_labels_of_a_chart_are_written_alike(heights, options, labels) -> None:
    groups = [f"g{number}" for number in range(len(heights))]
    chart = {"groups": groups, "series": [{"name": "x", "mean": heights}], **options}
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", bars(chart, salt="a"))
    assert [text for text in texts if text in labels][-len(labels) :] == labels
