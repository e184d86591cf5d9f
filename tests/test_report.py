"""The report of a run: what it shows, what it survives, and that it needs nothing from outside."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mbflow import report
from mbflow.chart import bars, series_names
from mbflow.errors import DataError, ResourceError
from mbflow.flow.manifest import write_sealed
from mbflow.report import write_report
from run_folders import STEPS, accuracy_chart, manifest, run_document, write_run

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """The elements and texts of a page; refuses tags that do not nest."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style" and data.strip():
            self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " | ".join(self.texts)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture
def page(tmp_path: Path) -> Page:
    warnings = ("letter.parquet changed since the last run",)
    return Page(write_report(write_run(tmp_path / "run", warnings=warnings)))


def test_it_shows_what_ran_and_what_came_out(page: Page) -> None:
    for expected in [
        "select-letters",
        "Done",
        "21 November 2026, 08:16:03 UTC",
        "1 min 14 s",
        "20,000",
        "800",
        "4 % of the rows",
        "select.hash_graph ← rows",
        "41.7 s",
        "4.1 MB",
        "Rows kept per class",
        "letter.parquet changed since the last run",
        "16 numeric columns scaled to [0, 1] (min-max).",
        "release, avx2, x86_64-unknown-linux-gnu",
        "letter.parquet",
    ]:
        assert expected in page.text, expected


def test_results_stand_in_the_order_of_the_steps(page: Page) -> None:
    start = page.texts.index("Results")
    check, keep = page.texts.index("check", start), page.texts.index("keep", start)
    assert start < keep < check < page.texts.index("Steps")


def test_every_accuracy_is_in_the_table_with_four_decimals(page: Page) -> None:
    chart = accuracy_chart()
    means = [mean for series in chart["series"] for mean in series["mean"]]
    assert len(means) == 9
    for mean in means:
        assert f"{mean:.4f}" in page.texts


def test_numbers_are_aligned_right_and_names_left(page: Page, tmp_path: Path) -> None:
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    row = re.search(r"<tr><td>A</td>.*</tr>", html)
    assert row is not None
    assert row[0].count('<td class="figure">') == 3


def test_fingerprints_are_short_with_the_whole_in_the_title(page: Page) -> None:
    document = run_document()
    titles = [attributes.get("title") for tag, attributes in page.tags if tag in ("code", "td")]
    for step in document["steps"].values():
        assert step["fingerprint"] in titles
        assert step["fingerprint"][:12] in page.texts
        assert step["fingerprint"] not in page.text


def test_the_pipeline_stands_as_yaml(page: Page, tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    (text,) = re.findall(r"<pre>(.*?)</pre>", html, flags=re.DOTALL)
    assert YAML(typ="safe", pure=True).load(text) == run_document()["pipeline"]


def test_it_needs_no_network_and_no_script(page: Page, tmp_path: Path) -> None:
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    tags = [tag for tag, _ in page.tags]
    assert len(tags) > 200
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(tags)
    for _, attributes in page.tags:
        assert not {"src", "onclick", "onload"} & set(attributes)
        for key in ("href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith("#")
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_equal_folders_give_equal_bytes(tmp_path: Path) -> None:
    first = write_report(write_run(tmp_path / "a")).read_bytes()
    assert write_report(write_run(tmp_path / "b")).read_bytes() == first
    assert write_report(tmp_path / "a").read_bytes() == first


def test_nothing_but_the_report_is_written(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    report = write_report(folder)
    after = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert after.pop(report)
    assert after == before


def test_names_in_data_cannot_become_markup(tmp_path: Path) -> None:
    evil = "<script>alert('1')</script>"
    run = run_document(name=evil, error=evil, status="failed", pipeline={"name": evil})
    run["versions"] = {evil: evil}
    run["sources"]["rows"]["where"] = evil
    step = {**STEPS["keep"], "tables": [{"title": evil, "columns": [evil], "rows": [[evil]]}]}
    chart = accuracy_chart()
    chart.update(title=evil, ylabel=evil, groups=[evil, "b", '" onload="x'])
    chart["series"][0]["name"] = evil
    content = {**manifest("keep", step), "charts": [chart], "notes": [f"`{evil}`"]}
    folder = write_run(tmp_path / "run", run, manifests={"keep": content}, warnings=(evil,))
    page = Page(write_report(folder))
    assert page.count("script") == 0
    assert page.count("svg") == 2
    assert page.text.count(evil) >= 10
    assert all("onload" not in attributes for _, attributes in page.tags)


@pytest.mark.parametrize(
    ("status", "expected"),
    [("failed", "The run failed"), ("interrupted", "The run was interrupted")],
)
def test_a_run_that_did_not_end_well_says_how_to_go_on(
    tmp_path: Path, status: str, expected: str
) -> None:
    run = run_document(status=status, finished=None, error="row 17 of column `width` holds NaN")
    run["steps"]["score"]["status"] = "failed"
    for name in ("keep", "check"):
        run["steps"][name].update(status="pending", seconds=None, rows=None, bytes=None)
    folder = write_run(tmp_path / "run", run)
    page = Page(write_report(folder))
    assert expected in page.texts
    assert "holds NaN" in page.text
    assert "mbflow run select.yaml" in page.text
    assert "1 failed, 2 not run" in page.texts
    assert page.count("svg") == 0
    assert "Rows kept" not in page.texts


def test_only_the_last_start_warns_and_damaged_lines_are_counted(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", warnings=("old warning",))
    earlier = (folder / "events.jsonl").read_text(encoding="utf-8")
    write_run(folder, warnings=("new warning",))
    log = folder / "events.jsonl"
    log.write_text(earlier + log.read_text(encoding="utf-8") + '{"broken\n', encoding="utf-8")
    text = Page(write_report(folder)).text
    assert "new warning" in text
    assert "old warning" not in text
    assert "1 line left out" in text


def test_damaged_and_missing_manifests_are_said_not_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    damaged = folder / "steps" / "check" / "_manifest.json"
    damaged.write_bytes(damaged.read_bytes().replace(b"0.9634", b"0.9635", 1))
    (folder / "steps" / "keep" / "_manifest.json").unlink()
    page = Page(write_report(folder))
    assert "check/_manifest.json cannot be read" in page.text
    assert "keep/_manifest.json is missing" in page.text
    assert page.count("svg") == 0


def test_a_folder_without_a_sound_run_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no run folder: it has no run\.json"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"run\.json: damaged"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_report_that_cannot_be_written_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    folder = write_run(tmp_path / "run", manifests=NO_CHARTS)
    monkeypatch.setattr("mbflow.report.write_whole", full)
    with pytest.raises(ResourceError, match=r"report\.html: cannot be written \(No space left"):
        write_report(folder)


def test_a_debug_build_is_said(tmp_path: Path) -> None:
    run = run_document()
    run["build"]["profile"] = "debug"
    assert "debug build" in Page(write_report(write_run(tmp_path / "run", run))).text


NO_CHARTS = {"check": {**manifest("check", STEPS["check"]), "charts": []}}  # drawing takes time
ODD = [None, [], {}, "", "text", -1, 1e308, True, [None], [[]], {"a": None}, "\x00\x1b"]


RUN_KEYS = [key for key in run_document() if key != "mbflow_run"]


@pytest.mark.parametrize("key", RUN_KEYS)
def test_odd_and_missing_fields_never_stop_it(tmp_path: Path, key: str) -> None:
    folder = write_run(tmp_path / "run", manifests=NO_CHARTS)
    without = {name: value for name, value in run_document().items() if name != key}
    for run in [without, *(run_document(**{key: value}) for value in ODD)]:
        write_sealed(folder / "run.json", run)
        assert Page(write_report(folder)).count("h1") == 1


@pytest.mark.parametrize("key", ["kind", "rows", "files", "notes", "tables", "charts"])
def test_odd_manifests_never_stop_it(tmp_path: Path, key: str) -> None:
    folder = write_run(tmp_path / "run", manifests=NO_CHARTS)
    for value in ODD:
        content = {**manifest("keep", STEPS["keep"]), key: value}
        write_sealed(folder / "steps" / "keep" / "_manifest.json", content)
        assert Page(write_report(folder)).count("h1") == 1


def test_ragged_and_large_tables_fold_and_are_cut(tmp_path: Path) -> None:
    tables = [
        {"title": "long", "columns": ["n"], "rows": [[n] for n in range(5000)]},
        {"title": "ragged", "columns": ["a", "b"], "rows": [[1], [1, 2, 3], []]},
        {"title": "empty", "columns": ["a"], "rows": []},
    ]
    content = {**manifest("keep", STEPS["keep"]), "tables": tables}
    page = Page(write_report(write_run(tmp_path / "run", manifests={"keep": content})))
    assert "long (5,000 rows)" in page.texts
    assert "1,999" in page.texts
    assert "2,000" not in page.texts
    assert "3,000 more rows are in the step's folder." in page.texts


def test_ids_are_unique_with_several_charts(tmp_path: Path) -> None:
    charts = [accuracy_chart(), accuracy_chart()]
    content = {**manifest("keep", STEPS["keep"]), "charts": charts}
    page = Page(write_report(write_run(tmp_path / "run", manifests={"keep": content})))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert page.count("svg") == 3
    assert len(ids) > 50
    assert len(ids) == len(set(ids))


def _bar_heights(svg: str) -> list[float]:
    """The heights of the bars: closed paths filled with a series' colour, in drawing units."""
    paths = re.findall(r'<path d="([^"]*)" [^>]*style="fill: var\(--series-\d\)', svg)
    heights = []
    for path in paths:
        y = [float(point.split()[1]) for point in re.findall(r"[ML] ([-\d.]+ [-\d.]+)", path)]
        heights.append(max(y) - min(y))
    return heights


def test_a_bar_is_as_long_as_its_value() -> None:
    chart = {"groups": ["a", "b"], "series": [{"mean": [0.4, 0.8]}, {"mean": [0.2, 0.1]}]}
    heights = _bar_heights(bars(chart, salt="x"))
    assert len(heights) == 4
    unit = heights[0] / 0.4
    assert [h / unit for h in heights] == pytest.approx([0.4, 0.8, 0.2, 0.1], abs=1e-3)


def test_a_chart_is_xml_and_labels_its_bars() -> None:
    svg = bars(accuracy_chart(), salt="x")
    texts = [element.text for element in ET.fromstring(svg).iter() if element.tag.endswith("text")]
    assert {"0.956", "0.730", "0.769", "1-NN", "accuracy"} <= set(texts)
    assert "#fe00" not in svg


def test_numbers_that_are_none_leave_a_gap() -> None:
    means = [None, math.nan, math.inf, 1e308, "0.5", 0.5]
    chart = {"groups": list("abcdef"), "series": [{"mean": means, "sd": [0.1]}]}
    assert len([h for h in _bar_heights(bars(chart, salt="x")) if h > 0]) == 1
    with pytest.raises(ValueError, match="no numbers"):
        bars({"groups": ["a"], "series": [{"mean": [None]}]}, salt="x")


def test_text_with_dollars_and_letters_of_any_script_is_kept() -> None:
    chart = {
        "groups": ["$x$", "字", "a\x07b"],
        "series": [{"mean": [1, 2, 3]}],
        "ylabel": r"\frac$",
    }
    svg = bars(chart, salt="x")
    for text in ("$x$", "字", "a b", r"\frac$"):
        assert f">{text}<" in svg


def test_series_without_a_name_get_one() -> None:
    assert series_names({"series": [{"name": "a"}, {}]}) == ["a", "series 2"]
    assert series_names({}) == []


def test_a_legend_of_many_groups_names_what_shares_a_colour() -> None:
    chart = {"kind": "scatter", "group_names": [f"class {number}" for number in range(26)]}
    legend = report._legend(chart)
    assert legend[0] == "class 0, class 6, class 12 and 2 more"
    assert legend[2] == "class 2, class 8, class 14, class 20"
    assert len(legend) == 6
    assert report._legend(chart | {"group_names": ["a", "b"]}) == ["a", "b"]


def test_text_between_backticks_is_code_and_nothing_else_is() -> None:
    assert report._prose("`<keep>` & more") == "<code>&lt;keep&gt;</code> &amp; more"
    assert "&lt;code" not in report._prose("the step `keep` runs again")
