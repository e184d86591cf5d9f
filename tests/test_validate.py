"""Wrong pipeline files: every problem at once, with its line, its column and what to do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbflow.errors import PipelineError
from mbflow.flow.document import Document
from mbflow.flow.preview import resolved_text
from mbflow.flow.validate import parse
from mbflow.steps import CATALOGUE

GOOD = """\
mbflow: 1
name: demo
seed: 7
vars: {data: a.parquet, keep: 0.1, off: [1, 2]}
env: [HOME, MBFLOW_TEST_UNSET]
sources:
  rows: {use: parquet, with: {path: "${vars.data}", label: y}}
steps:
  graph: {use: select.hash_graph, from: rows, with: {neighbours: 5}}
  score: {use: select.attention, from: graph}
  keep: {use: select.keep, from: score, with: {fraction: "${vars.keep}"}}
  check: {use: select.evaluate, from: [rows, keep]}
run: {out: runs}
"""
STEP_NAMES = (
    "graph.csc, graph.evaluate, graph.predict, graph.sample, graph.train, "
    "select.attention, select.evaluate, select.graph, select.hash_graph, select.keep, "
    "speech.batches, speech.buckets, speech.durations, speech.pack"
)
NAME_RULE = "expected a name of lower-case letters, digits, - and _, starting with a letter, at most 64 long"
GRAPH_KEYS = "bits, bucket_cap, family, max_categories, neighbours, probes, projections, refinements, scale, width"

# (what is replaced, by what, the problems in the order of the file)
CASES: list[tuple[str, str, list[str]]] = [
    # the version and the name
    ("mbflow: 1", "mbflow: 2", ["1:9: expected 1, found 2"]),
    ("mbflow: 1\n", "", ["1:1: `mbflow` is missing: The version of this grammar."]),
    ("mbflow: 1", "mbflow: true", ["1:9: expected a number, found true"]),
    ("name: demo", "name: Demo X", [f"2:7: {NAME_RULE}, found `Demo X`"]),
    ("name: demo", "name: 7", ["2:7: expected text, found 7"]),
    ("name: demo", "name:", ["2:1: expected text, found nothing"]),
    ("name: demo", "name: ../up", [f"2:7: {NAME_RULE}, found `../up`"]),
    ("name: demo", f"name: {'a' * 65}", [f"2:7: {NAME_RULE}, found `{'a' * 60}...`"]),
    # numbers
    ("seed: 7", "seed: -1", ["3:7: expected at least 0, found -1"]),
    ("seed: 7", "seed: true", ["3:7: expected a number, found true"]),
    ("seed: 7", "seed: 1.5", ["3:7: expected a whole number, found 1.5"]),
    ("seed: 7", "seed: on", ["3:7: expected a whole number, found `on`"]),
    ("seed: 7", "seed: 12:30:45", ["3:7: expected a whole number, found `12:30:45`"]),
    (
        "seed: 7",
        "seed: 9223372036854775808",
        ["3:7: expected less than 9223372036854775808, found 9223372036854775808"],
    ),
    ("neighbours: 5", "neighbours: five", ["9:66: expected a whole number, found `five`"]),
    ("neighbours: 5", "neighbours: 0", ["9:66: expected at least 1, found 0"]),
    ("neighbours: 5", "neighbours: 5000", ["9:66: expected at most 1000, found 5000"]),
    ("neighbours: 5", "neighbours: [1]", ["9:66: expected a whole number, found a list"]),
    ("neighbours: 5", "width: -1", ["9:61: expected more than 0.0, found -1"]),
    ("neighbours: 5", "width: .inf", ["9:61: .inf is not a finite number"]),
    ("keep: 0.1", "keep: 2", ["11:58: expected at most 1.0, found 2"]),
    ("keep: 0.1", "keep: .nan", ["4:31: .nan is not a finite number"]),
    ("keep: 0.1", "keep: some", ["11:58: expected a number, found `some`"]),
    (
        "neighbours: 5",
        "width: 2",
        ["9:61: `width` is for `family: p_stable` only; leave it out"],
    ),
    (
        'fraction: "${vars.keep}"',
        "fraction: 0.1, count: 5",
        ["11:70: expected `fraction` or `count`, found both"],
    ),
    # keys
    (
        "seed: 7",
        "sed: 7",
        [
            (
                "3:1: unknown key `sed`; did you mean `seed`? known: env, mbflow, name, run, seed, "
                "sources, steps, vars"
            )
        ],
    ),
    (
        "neighbours: 5",
        "neighbors: 5",
        [f"9:54: unknown key `neighbors`; did you mean `neighbours`? known: {GRAPH_KEYS}"],
    ),
    (
        "neighbours: 5",
        "neighbours: 5, neighbours: 6",
        ["9:69: the key `neighbours` stands twice; first at line 9"],
    ),
    ("seed: 7", "name: 7", ["3:1: the key `name` stands twice; first at line 2"]),
    ("run: {out: runs}", "1: 2", ["13:1: a key must be text, found 1; quote it"]),
    ("run: {out: runs}", "true: 2", ["13:1: a key must be text, found true; quote it"]),
    ("run: {out: runs}", "[a]: 2", ["13:1: a key must be text, found a list or map; quote it"]),
    (
        "run: {out: runs}",
        "<<: {a: 1}",
        [
            "13:1: unknown key `<<`; known: env, mbflow, name, run, seed, sources, steps, vars",
        ],
    ),
    (
        "from: graph}",
        "frm: graph}",
        [
            "10:10: `from` is missing: The source or step whose output it takes, or a list of them.",
            "10:34: unknown key `frm`; did you mean `from`? known: from, seed, use, with",
        ],
    ),
    # choices
    (
        "neighbours: 5",
        "family: sgn",
        ["9:62: expected `sign` or `p_stable`, found `sgn`; did you mean `sign`?"],
    ),
    (
        "neighbours: 5",
        "scale: minmax",
        ["9:61: expected `min_max`, `standard` or `none`, found `minmax`; did you mean `min_max`?"],
    ),
    ("use: parquet", "use: csv", ["7:15: expected `parquet`, found `csv`"]),
    ("run: {out: runs}", "run: {engine: ray}", ["13:15: expected `local`, found `ray`"]),
    # names of steps and inputs
    (
        "use: select.keep",
        "use: select.kep",
        [
            (
                f"11:15: no step `select.kep` in the catalogue; did you mean `select.keep`? "
                f"known: {STEP_NAMES}"
            )
        ],
    ),
    (
        "use: select.keep",
        "use: os.system",
        [f"11:15: no step `os.system` in the catalogue; known: {STEP_NAMES}"],
    ),
    ("use: select.keep", "use: [a]", ["11:15: expected text, found a list"]),
    (
        "from: score",
        "from: scor",
        ["11:34: no source or step `scor`; did you mean `score`? known: check, graph, rows, score"],
    ),
    (
        "[rows, keep]",
        "[rows, score]",
        [
            (
                "12:46: select.evaluate takes what gives kept here, and `score` gives scores; `keep` "
                "would fit"
            )
        ],
    ),
    (
        "from: score",
        "from: check",
        [
            (
                "11:34: select.keep takes the rows of a source or what gives graph or what gives scores "
                "here, and `check` gives table; `graph` would fit"
            )
        ],
    ),
    (
        "from: score",
        "from: [graph, graph]",
        [
            (
                "11:42: select.keep takes what gives scores here, and `graph` gives graph; `score` would "
                "fit"
            )
        ],
    ),
    (
        "from: score",
        "from: [graph, score, score]",
        [
            (
                "11:34: select.keep takes 1 to 2 inputs (rows or graph or scores, scores (may be left "
                "out)), found 3"
            )
        ],
    ),
    (
        "from: [rows, keep]",
        "from: rows",
        ["12:39: select.evaluate takes 2 inputs (rows, kept), found 1"],
    ),
    (
        "from: [rows, keep]",
        "from: [keep, rows]",
        [
            (
                "12:40: select.evaluate takes the rows of a source here, and `keep` gives kept; `rows` "
                "would fit"
            ),
            (
                "12:46: select.evaluate takes what gives kept here, and `rows` gives rows; `keep` would "
                "fit"
            ),
        ],
    ),
    ("from: graph}", "from: score}", ["10:40: the step `score` takes its own output"]),
    ("from: graph}", "from: [graph, 3]}", ["10:48: expected text, found 3"]),
    ("from: graph}", "from: {a: b}}", ["10:40: expected text or a list, found a map"]),
    (
        "graph: {use: select.hash_graph, from: rows",
        "rows: {use: select.hash_graph, from: rows",
        [
            "9:3: `rows` is a source already; give the step another name",
            "9:40: the step `rows` takes its own output",
            "10:40: no source or step `graph`; known: check, keep, rows",
            "12:40: select.evaluate takes the rows of a source here, and `rows` gives graph",
        ],
    ),
    (
        "from: rows, with: {neighbours: 5}",
        "from: keep",
        [
            (
                "9:41: select.hash_graph takes the rows of a source here, and `keep` gives kept; `rows` "
                "would fit"
            )
        ],
    ),
    (
        "  graph: {use",
        "  Graph: {use",
        [
            f"9:3: {NAME_RULE}, found `Graph`",
            "10:40: no source or step `graph`; did you mean `Graph`? known: Graph, check, keep, rows",
        ],
    ),
    # what must be there
    (
        ", label: y",
        "",
        [
            "7:30: `label` is missing: the step `score` (select.attention) needs the class of each row",
            "7:30: `label` is missing: the step `keep` (select.keep) needs the class of each row",
            "7:30: `label` is missing: the step `check` (select.evaluate) needs the class of each row",
        ],
    ),
    (
        'path: "${vars.data}", ',
        "",
        [
            (
                "7:30: `path` is missing: A Parquet file, a folder of them, a glob, or a list of these; "
                "relative to the working directory."
            )
        ],
    ),
    (
        'rows: {use: parquet, with: {path: "${vars.data}", label: y}}',
        "{}",
        [
            "7:3: expected at least one, found none",
            "9:41: no source or step `rows`; known: check, keep, score",
            "12:40: no source or step `rows`; known: graph, keep, score",
        ],
    ),
    # kinds of values
    ('path: "${vars.data}"', "path: [1]", ["7:38: expected text, found 1"]),
    ('path: "${vars.data}"', "path: 3", ["7:37: expected text or a list, found 3"]),
    ('path: "${vars.data}"', "path: []", ["7:37: expected at least one, found none"]),
    ('path: "${vars.data}"', 'path: ""', ["7:37: expected at least one, found none"]),
    ('path: "${vars.data}"', "path: {a: b}", ["7:37: expected text or a list, found a map"]),
    ("env: [HOME, MBFLOW_TEST_UNSET]", "env: true", ["5:6: expected a list, found true"]),
    ("neighbours: 5", "neighbours: true", ["9:66: expected a number, found true"]),
    ("run: {out: runs}", "run: []", ["13:6: expected a map, found a list"]),
    ("run: {out: runs}", "run: {out: ''}", ["13:12: expected at least 1 character, found ``"]),
    ("run: {out: runs}", "run: {threads: 0}", ["13:16: expected at least 1, found 0"]),
    (
        "run: {out: runs}",
        "run: {plugins: [foo]}",
        [
            (
                "13:17: no installed package offers the plug-in `foo` (entry point group mbflow.steps); "
                "none is known here"
            )
        ],
    ),
    ("env: [HOME, MBFLOW_TEST_UNSET]", "env: HOME", ["5:6: expected a list, found `HOME`"]),
    (
        "env: [HOME, MBFLOW_TEST_UNSET]",
        "env: ['A B']",
        ["5:7: expected text like ^[A-Za-z_][A-Za-z0-9_]*$, found `A B`"],
    ),
    (
        "keep: 0.1",
        "keep: {a: 1}",
        [
            "4:31: expected text or a whole number or a number or true or false or a list, found a map",
            "11:58: expected a number, found a map",
        ],
    ),
    (
        "label: y}",
        'label: y, where: "x >"}',
        ["7:70: expected a polars SQL expression, found `x >`: unable to parse 'x >' as Expr"],
    ),
    # references
    (
        "${vars.data}",
        "${vars.dta}",
        ["7:37: ${vars.dta}: no such name in `vars`; did you mean `data`? known: data, keep, off"],
    ),
    (
        "${vars.data}",
        "${env.PATH}",
        ["7:37: ${env.PATH}: only names listed under `env:` can be used; add PATH there"],
    ),
    (
        "${vars.data}",
        "${env.MBFLOW_TEST_UNSET}",
        [
            (
                "7:37: ${env.MBFLOW_TEST_UNSET}: the environment variable MBFLOW_TEST_UNSET is not set; "
                "set it or write ${env.MBFLOW_TEST_UNSET:-default}"
            )
        ],
    ),
    (
        "${vars.data}",
        "${data}",
        [
            (
                "7:37: ${data} is not understood; expected ${vars.NAME}, ${env.NAME} or "
                "${env.NAME:-default}"
            )
        ],
    ),
    (
        "${vars.data}",
        "${vars.data",
        ["7:37: `${` without its `}`; expected ${vars.NAME} or ${env.NAME}, or $${ for `${`"],
    ),
    (
        "${vars.data}",
        "x-${vars.off}",
        ["7:37: ${vars.off} is a list or map and cannot stand inside a text"],
    ),
    (
        "data: a.parquet",
        'data: "${vars.keep}"',
        ["4:14: ${vars.keep}: a value in `vars` cannot refer to another; only to ${env.X}"],
    ),
    (
        "${vars.data}",
        "${vars.data:-x}",
        ["7:37: ${vars.data:-...}: a default is for env only; give it in vars"],
    ),
    # YAML itself, and what is not let in
    (
        "name: demo",
        "name: &a demo",
        ["2:7: anchors and aliases (& and *) are not allowed; use `vars` and ${vars.x}"],
    ),
    (
        "name: demo",
        "name: *a",
        ["2:7: anchors and aliases (& and *) are not allowed; use `vars` and ${vars.x}"],
    ),
    (
        "name: demo",
        "name: !!python/object/apply:os.system [ls]",
        [
            (
                "2:7: the tag tag:yaml.org,2002:python/object/apply:os.system is not allowed; write plain "
                "values"
            )
        ],
    ),
    (
        "steps:",
        "---\nsteps:",
        ["8:1: a second YAML document starts here; a pipeline is one document"],
    ),
    (
        "  score",
        "\tscore",
        [
            (
                "10:1: not valid YAML: found character '\\t' that cannot start any token while scanning "
                "for the next token"
            )
        ],
    ),
    (
        "name: demo",
        "name: demo: more",
        ["2:11: not valid YAML: mapping values are not allowed here"],
    ),
    ("name: demo", "name: \x07", ["2:7: the control character 7 is not allowed in YAML"]),
    (
        "name: demo",
        "name: 'demo",
        ["14:1: not valid YAML: found unexpected end of stream while scanning a quoted scalar"],
    ),
    (
        "mbflow: 1\n",
        "%YAML 1.1\n---\nmbflow: 1\n",
        ["2:1: %YAML 1.1 is declared; pipelines are YAML 1.2"],
    ),
    # several at once, in the order of the file
    (
        "seed: 7\n",
        "seed: x\nfoo: 1\n",
        [
            "3:7: expected a whole number, found `x`",
            "4:1: unknown key `foo`; known: env, mbflow, name, run, seed, sources, steps, vars",
        ],
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), CASES, ids=[case[1][:40] for case in CASES])
def test_wrong_file(old: str, new: str, expected: list[str]) -> None:
    assert old in GOOD
    with pytest.raises(PipelineError) as caught:
        parse(GOOD.replace(old, new, 1), "p.yaml", catalogue=CATALOGUE, environment={"HOME": "h"})
    assert list(caught.value.problems) == [f"p.yaml:{line}" for line in expected]


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 60
    assert len({(old, new) for old, new, _ in CASES}) == len(CASES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "p.yaml:1:1: the file is empty; expected a pipeline"),
        ("# nothing\n", "p.yaml:1:1: the file is empty; expected a pipeline"),
        ("- a\n", "p.yaml:1:1: expected a map with `mbflow`, `name`, ..., found a list"),
        ("just text", "p.yaml:1:1: expected a map with `mbflow`, `name`, ..., found `just text`"),
        ("a: " + "[" * 40 + "]" * 40, "p.yaml:1:35: nested more than 32 levels deep"),
        ("a: [" + "1," * 100_001 + "]", "p.yaml:1:199999: more than 100000 values"),
        (
            "#" * (1 << 20) + "##",
            "p.yaml:1:1: the file has 1048578 bytes; a pipeline has at most 1048576",
        ),
        (b"a: 1\nb: \xff\n", "p.yaml:2:4: not UTF-8 text; save the file as UTF-8"),
    ],
    ids=["empty", "comment", "list", "text", "deep", "many", "big", "latin"],
)
def test_no_pipeline_at_all(text: str | bytes, expected: str) -> None:
    with pytest.raises(PipelineError) as caught:
        parse(text, "p.yaml", catalogue=CATALOGUE)
    assert caught.value.problems[0] == expected


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("foo", "expected path=value, such as vars.keep=0.1"),
        ("steps.keep.with.fraction=2", "expected at most 1.0, found 2"),
        (
            "steps.kep.with.x=1",
            "no `kep` in steps; did you mean `keep`? known: check, graph, keep, score",
        ),
        ("steps.graph.with.nx=1", f"unknown key `nx`; known: {GRAPH_KEYS}"),
        ("steps.check.from.5=keep", "`steps.check.from` is a list of 2; no item `5`"),
        (
            "steps.graph.with.bit.most=1",
            f"unknown key `bit`; did you mean `bits`? known: {GRAPH_KEYS}",
        ),
        ("steps.graph.with.bits.most=1", "expected a whole number, found a map"),
        ("name.x=1", "`name` is not a map; nothing can be set in it"),
        ("name=", f"{NAME_RULE}, found ``"),
        (
            "seed=[1",
            (
                "not valid YAML: expected ',' or ']', but got '<stream end>' while parsing a "
                "flow sequence"
            ),
        ),
        ("seed=!x 1", "the tag !x is not allowed; write plain values"),
    ],
)
def test_wrong_assignment(assignment: str, expected: str) -> None:
    with pytest.raises(PipelineError) as caught:
        parse(GOOD, "p.yaml", catalogue=CATALOGUE, assignments=[assignment])
    assert list(caught.value.problems) == [f"--set {assignment}: {expected}"]


def test_assignments_and_references_fill_in() -> None:
    pipeline = parse(
        GOOD.replace("label: y", 'label: "$${y}", where: "a > ${env.LOW:-3}"').replace(
            "env: [HOME", "env: [LOW, HOME"
        ),
        "p.yaml",
        catalogue=CATALOGUE,
        assignments=[
            "vars.keep=0.5",
            "run.threads=3",
            "steps.check.with.seeds=2",
            "vars.data=b.pq",
        ],
        environment={},
    )
    assert pipeline.sources["rows"].path == "b.pq"
    assert pipeline.sources["rows"].label == "${y}"
    assert pipeline.sources["rows"].where == "a > 3"
    assert pipeline.resolved["steps"]["keep"]["with"]["fraction"] == 0.5
    assert pipeline.resolved["steps"]["check"]["with"]["seeds"] == 2
    assert pipeline.run.threads == 3


def test_null_can_be_assigned() -> None:
    text = GOOD.replace("label: y", 'label: y, where: "x > 1"')
    pipeline = parse(
        text, "p.yaml", catalogue=CATALOGUE, assignments=["sources.rows.with.where=null"]
    )
    assert pipeline.sources["rows"].where is None


def test_resolved_text_loads_to_the_same_pipeline() -> None:
    once = parse(GOOD, "p.yaml", catalogue=CATALOGUE)
    again = parse(resolved_text(once.resolved), "p.yaml", catalogue=CATALOGUE)
    assert again.resolved == once.resolved
    assert list(again.steps) == list(once.steps)


def test_steps_run_after_their_inputs_whatever_the_order_of_the_file() -> None:
    lines = GOOD.splitlines(keepends=True)
    text = "".join(lines[:8] + list(reversed(lines[8:12])) + lines[12:])
    assert list(parse(text, "p.yaml", catalogue=CATALOGUE).steps) == [
        "graph",
        "score",
        "keep",
        "check",
    ]


PIECES = st.sampled_from(
    [
        *"{}[]:,-#&*!|>'\"%@` \n\t$",
        "mbflow",
        ": 1\n",
        "steps:",
        "${vars.",
        "a: b\n",
        "\u2028",
        "é",
        "\x00",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_any_text_gives_problems_and_never_another_error(text: str) -> None:
    document = Document.parse(text, "p.yaml")
    assert document.data is not None or document.problems.found
    with pytest.raises(PipelineError) as caught:
        parse(text, "p.yaml", catalogue=CATALOGUE)
    assert all(line.startswith("p.yaml:") for line in caught.value.problems)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 12), PIECES)
def test_a_mutated_file_is_valid_or_has_placed_problems(at: int, drop: int, put: str) -> None:
    text = GOOD[:at] + put + GOOD[at + drop :]
    try:
        parse(text, "p.yaml", catalogue=CATALOGUE, environment={})
    except PipelineError as error:
        assert error.problems
        for line in error.problems:
            file, row, column, message = line.split(":", 3)
            assert (file, row.isdigit(), column.isdigit()) == ("p.yaml", True, True)
            assert message.strip()
