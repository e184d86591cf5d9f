"""Stored graphs while others read, write, move and kill: whole, one's own, and nothing else lost."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graph_lists import same
from graph_samples import hetero_graph
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.graph import Graph, HeteroGraph, publish
from mbflow.graph.storage import _GRAPHS, MANIFEST, GraphWriter

SMALL = Graph.from_edges([1], [0])
LARGER = Graph.from_edges(np.arange(5000) % 70, np.arange(5000) % 41)
HETERO = hetero_graph()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def without_exchange(monkeypatch) -> None:
    def refused(first, second):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(publish, "_exchange", refused)


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
    )


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_else_is_in_the_folder_is_not_lost(tmp_path, kind):
    place = SMALL.save(tmp_path / "graph").path
    other = place / ("thesis" if kind == "file" else "rows.bin")
    if kind == "file":
        other.write_text("of value")
    elif kind == "folder":
        other.mkdir()
    else:
        other.symlink_to(tmp_path)
    with pytest.raises(InvalidArgumentError, match=f"'{other.name}' in it is no file of a stored"):
        LARGER.save(place)
    assert os.path.lexists(other)
    assert same(Graph.open(place, verify=True), SMALL)


@pytest.mark.parametrize("content", ["{}", '{"nodes": [1, 2], "links": []}', ""])
def test_a_graph_json_of_others_is_not_lost(tmp_path, content):
    (tmp_path / "graph").mkdir()
    (tmp_path / "graph" / MANIFEST).write_text(content)
    with pytest.raises(InvalidArgumentError, match="is there already and is no stored graph"):
        SMALL.save(tmp_path / "graph")
    assert (tmp_path / "graph" / MANIFEST).read_text() == content


def test_what_appears_in_the_folder_during_the_writing_is_not_lost(tmp_path):
    place = SMALL.save(tmp_path / "graph").path
    with GraphWriter(place) as writer:
        writer.append("offsets", np.array([0, 1], np.uint64))
        writer.append("sources", np.array([0], np.uint32))
        (place / "thesis").write_text("of value")
        with pytest.raises(InvalidArgumentError, match="'thesis' in it"):
            writer.finish(source_nodes=1)
    assert (place / "thesis").read_text() == "of value"
    assert names(tmp_path) == ["graph"]


def test_a_damaged_graph_is_replaced(tmp_path):
    place = SMALL.save(tmp_path / "graph").path
    (place / MANIFEST).write_bytes((place / MANIFEST).read_bytes()[:-30])
    (place / "sources.bin").unlink()
    assert same(LARGER.save(place), LARGER)


@pytest.mark.parametrize("graph", [LARGER, HETERO], ids=["graph", "hetero"])
@pytest.mark.parametrize("target", ["graph", "empty", "dangling"])
def test_a_link_is_written_through(tmp_path, target, graph):
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").mkdir()
    real, link = tmp_path / "disk" / "graph", tmp_path / "home" / "graph"
    if target == "graph":
        graph.save(real)
    elif target == "empty":
        real.mkdir()
    link.symlink_to(real)
    graph.save(link)
    assert link.is_symlink()
    assert not real.is_symlink()
    assert type(graph).open(real, verify=True).edges == graph.edges
    assert names(tmp_path / "disk") == names(tmp_path / "home") == ["graph"]


def test_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(InvalidArgumentError, match="is no stored graph"):
        SMALL.save(tmp_path / "a")
    assert names(tmp_path) == ["a", "b"]


WRITE = """
import sys
from mbflow.graph import Graph
import numpy as np
path, edges, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
graph = Graph.from_edges(np.arange(edges) % 70, np.arange(edges) % 41)
print("ready", flush=True)
for _ in range(times):
    assert graph.save(path).edges == edges
"""


def test_a_killed_writer_leaves_a_whole_graph(tmp_path):
    """Killed again and again at any moment; what it left beside goes with the next graph."""
    place = SMALL.save(tmp_path / "graph").path
    for wait in (0.0, 0.004, 0.011, 0.03):
        writer = start(WRITE, place, 5000, 1_000_000)
        assert writer.stdout.readline() == "ready\n"
        time.sleep(wait)
        writer.kill()
        assert writer.wait() == -signal.SIGKILL
        writer.communicate()
        assert Graph.open(place, verify=True).edges in (1, 5000)
    SMALL.save(place)
    assert names(tmp_path) == ["graph"]


def test_two_writers_and_a_reader(tmp_path):
    place = SMALL.save(tmp_path / "graph").path
    writers = [start(WRITE, place, edges, 60) for edges in (3000, 5000)]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        assert Graph.open(place, verify=True).edges in (1, 3000, 5000)
        seen += 1
    assert seen
    for writer in writers:
        assert (writer.communicate()[1], writer.returncode) == ("", 0)
    assert Graph.open(place, verify=True).edges in (3000, 5000)
    assert names(tmp_path) == ["graph"]


def test_two_writers_where_nothing_can_be_exchanged(tmp_path, monkeypatch):
    without_exchange(monkeypatch)
    place = SMALL.save(tmp_path / "graph").path
    assert same(LARGER.save(place), LARGER)
    assert same(Graph.open(place, verify=True), LARGER)
    assert names(tmp_path) == ["graph"]
    # Killed between the two names: the graph that was there is brought back.
    place.rename(tmp_path / f".old-{'0' * 16}-graph")
    with GraphWriter(place):
        assert same(Graph.open(place, verify=True), LARGER)
    assert names(tmp_path) == ["graph"]


def test_what_a_writer_returns_is_what_it_wrote(tmp_path):
    with GraphWriter(tmp_path / "graph") as writer:
        writer.append("offsets", np.array([0, 1], np.uint64))
        writer.append("sources", np.array([0], np.uint32))
        stored = writer.finish(source_nodes=1)
        LARGER.save(tmp_path / "graph")
    assert (stored.edges, stored.path) == (1, tmp_path / "graph")
    assert Graph.open(tmp_path / "graph").edges == 5000


SPILL = """
import sys, time
from mbflow.graph import Graph, spill
def wait(*arguments):
    print("dealt", flush=True)
    time.sleep(600)
spill._store = wait
Graph.from_parquet(sys.argv[1], out=sys.argv[2], memory=1 << 20)
"""


def test_only_what_the_dead_left_is_swept(tmp_path):
    pq.write_table(pa.table({"src": [2, 1], "dst": [0, 0]}), tmp_path / "edges.parquet")
    (tmp_path / "out").mkdir()
    place = tmp_path / "out" / "graph"
    other = tmp_path / "out" / f".tmp-{'0' * 16}-another-graph"
    other.mkdir()
    writers = [start(SPILL, tmp_path / "edges.parquet", place) for _ in range(2)]
    for writer in writers:
        assert writer.stdout.readline() == "dealt\n"
    assert len(names(tmp_path / "out")) == 3
    writers[0].terminate()
    writers[0].communicate()
    SMALL.save(place)
    left = set(names(tmp_path / "out")) - {"graph", other.name}
    assert [re.fullmatch(r"\.tmp-[0-9a-f]{16}-graph", name) is None for name in left] == [False]
    assert (tmp_path / "out" / left.pop() / "spill" / "0-sources").exists()
    writers[1].terminate()
    writers[1].communicate()
    SMALL.save(place)
    assert names(tmp_path / "out") == [other.name, "graph"]


WRITE_HETERO = """
import sys
from graph_samples import hetero_graph
graph = hetero_graph(int(sys.argv[2]))
for _ in range(int(sys.argv[3])):
    assert graph.save(sys.argv[1]).edges == graph.edges
"""


def test_two_writers_of_several_types(tmp_path):
    place = tmp_path / "graph"
    HETERO.save(place)
    kept = HeteroGraph.open(place)
    writers = [start(WRITE_HETERO, place, seed, 15) for seed in (0, 1)]
    edges = {hetero_graph(seed).edges for seed in (0, 1)}
    while any(writer.poll() is None for writer in writers):
        assert HeteroGraph.open(place, verify=True).edges in edges
    for writer in writers:
        assert (writer.communicate()[1], writer.returncode) == ("", 0)
    assert HeteroGraph.open(place, verify=True).edges in edges
    assert names(tmp_path) == ["graph"]
    assert len(names(place)) == len(HETERO.relations) + 1
    for relation, graph in HETERO.relations.items():  # what is mapped stays
        assert same(kept.relations[relation], graph)


def test_only_a_graph_of_several_types_is_replaced(tmp_path):
    place = tmp_path / "graph"
    HETERO.save(place)
    HETERO.save(place)
    for other in (place / "thesis", place / "relation-0" / "thesis"):
        other.mkdir()
        with pytest.raises(InvalidArgumentError, match="in it is no part of a stored graph"):
            HETERO.save(place)
        other.rmdir()
    HETERO.save(place)
    (place / "hetero.json").write_text("{}")
    with pytest.raises(InvalidArgumentError, match="is no stored graph of several types"):
        HETERO.save(place)
    with pytest.raises(InvalidArgumentError, match="is no stored graph of several types"):
        HETERO.save(place / "relation-0")
    with pytest.raises(InvalidArgumentError, match="is no stored graph"):
        SMALL.save(place)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(mbflow_hetero_graph=9), "of format 9; this version reads"),
        (lambda content: content.pop("mbflow_hetero_graph"), "no list of the relations"),
        (lambda content: content.update(relations=[]), "`relations`: expected a list"),
        (lambda content: content.update(relations="x"), "`relations`: expected a list"),
        (
            lambda content: content["relations"][1].update(content["relations"][0]),
            r"`relations\[1\]`: .* each once",
        ),
        (lambda content: content["relations"][0].update(folder=5), r"`relations\[0\]`"),
        (lambda content: content["relations"][0].update(folder="../g"), r"`relations\[0\]`"),
        (
            lambda content: content["relations"][0].update(relation=["a", 5, "b"]),
            r"`relations\[0\]`",
        ),
        (lambda content: content["relations"].insert(0, None), r"`relations\[0\]`"),
    ],
)
def test_a_list_of_relations_that_is_wrong(tmp_path, change, message):
    HETERO.save(tmp_path / "graph")
    file = tmp_path / "graph" / "hetero.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"hetero\.json: .*{message}"):
        HeteroGraph.open(tmp_path / "graph")


@pytest.mark.parametrize("graph", [LARGER, HETERO], ids=["graph", "hetero"])
def test_another_working_directory(tmp_path, monkeypatch, graph):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    for found in (graph.save("graph"), type(graph).open("graph")):
        monkeypatch.chdir(tmp_path / "elsewhere")
        again = pickle.loads(pickle.dumps(found))
        assert again.edges == graph.edges
        monkeypatch.chdir(tmp_path)


def test_names_are_read_from_another_working_directory(tmp_path, monkeypatch):
    pq.write_table(pa.table({"src": ["a", "b"], "dst": ["c", "c"]}), tmp_path / "edges.parquet")
    monkeypatch.chdir(tmp_path)
    Graph.from_parquet("edges.parquet", out="graph")
    graph = Graph.open("graph")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert graph.ids.decode([0, 2]).to_pylist() == ["a", "c"]


def _entry(name: str, **values: object):
    return lambda content: content["arrays"][name].update(values)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_entry("sources", dtype="bogus"), "arrays.sources.dtype"),
        (_entry("sources", dtype=["uint32"]), "arrays.sources.dtype"),
        (_entry("sources", dtype=None), "arrays.sources.dtype"),
        (_entry("sources", file="../g/sources.bin"), "arrays.sources.file"),
        (_entry("sources", file=None), "arrays.sources.file"),
        (_entry("sources", bytes="4"), "arrays.sources.bytes"),
        (_entry("sources", xxh3_128=None), "arrays.sources.xxh3_128"),
        (lambda content: content["arrays"].pop("offsets"), "arrays.offsets"),
        (lambda content: content["arrays"].pop("sources"), "arrays.sources"),
        (lambda content: content["arrays"].update(sources=None), "arrays.sources"),
        (lambda content: content["arrays"].update(colours={}), "arrays"),
        (lambda content: content.update(arrays=[]), "arrays"),
        (lambda content: content.update(arrays=None), "arrays"),
        (lambda content: content.pop("arrays"), "arrays"),
        (lambda content: content.update(nodes="2"), "nodes"),
        (lambda content: content.update(nodes=True), "nodes"),
        (lambda content: content.pop("nodes"), "nodes"),
        (lambda content: content.update(nodes=3), "arrays.offsets.bytes"),
        (lambda content: content.update(edges=1.5), "edges"),
        (lambda content: content.update(source_nodes="x"), "source_nodes"),
        (lambda content: content.update(source_nodes=-1), "source_nodes"),
        (lambda content: content.update(source_nodes=1 << 32), "source_nodes"),
        (lambda content: content.update(source_nodes=None), "source_nodes"),
        (lambda content: content.update(ids=None), "ids"),
        (lambda content: content.pop("ids"), "ids"),
        (lambda content: content.update(ids={"nodes": []}), "ids.nodes"),
        (lambda content: content.update(ids={"others": {}}), "ids"),
    ],
)
def test_a_sealed_manifest_of_no_graph(tmp_path, change, what):
    place = SMALL.save(tmp_path / "graph").path
    content = json.loads((place / MANIFEST).read_bytes())
    del content["checksum"]
    (place / MANIFEST).write_bytes(_GRAPHS.seal(content))
    assert Graph.open(place).edges == 1
    change(content)
    (place / MANIFEST).write_bytes(_GRAPHS.seal(content))
    with pytest.raises(DataError, match=rf"graph\.json: `{re.escape(what)}`: expected"):
        Graph.open(place)


def test_a_folder_in_the_place_of_an_array(tmp_path):
    place = SMALL.save(tmp_path / "graph").path
    (place / "sources.bin").unlink()
    (place / "sources.bin").mkdir()
    with pytest.raises(DataError, match=r"sources\.bin: is no file"):
        Graph.open(place)
