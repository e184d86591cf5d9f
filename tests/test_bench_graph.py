"""The benchmark of graphs: made-up graphs, peers' processes, the bias test, and its records."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mbflow import cli
from mbflow.bench import graph, graph_bias, graph_build, graph_children, graph_data, graph_peers
from mbflow.bench.graph_sampling import FANOUTS, Workload, graph_of
from mbflow.errors import InvalidArgumentError, ResourceError

# What torch and its like say at import is no concern of these tests.
pytestmark = pytest.mark.filterwarnings("ignore")

NODES, EDGES = 3_000, 30_000


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> graph_data.Files:
    return graph_data.make(NODES, EDGES, tmp_path_factory.mktemp("graphs"))


@pytest.fixture
def no_peers(monkeypatch, tmp_path) -> None:
    """No Python runs a peer: the records are then quickly there."""
    for peer in graph_peers.PEERS:
        name = peer.upper().replace("-", "_")
        monkeypatch.setenv(f"MBFLOW_BENCH_{name}_PYTHON", str(tmp_path / "absent"))


# Graphs


@pytest.mark.parametrize(("nodes", "edges"), [(1, 0), (1, 7), (5, 3), (1000, 12_345)])
def test_degrees_sum_to_the_edges(nodes, edges):
    found = graph_data.degrees(nodes, edges, seed=3)
    assert found.shape == (nodes,)
    assert found.sum() == edges
    assert found.min() >= 0


def test_degrees_are_log_normal():
    found = graph_data.degrees(200_000, 10_000_000)
    logs = np.log(found[found > 20] / 50)
    # A log-normal's upper tail: quantiles of the logarithm are those of a normal.
    assert np.quantile(np.log(found[found > 0]), 0.5) == pytest.approx(
        np.log(50) - 1.22**2 / 2, abs=0.05
    )
    assert np.quantile(found, 0.99) == pytest.approx(
        50 * np.exp(1.22 * 2.326 - 1.22**2 / 2), rel=0.05
    )
    assert logs.max() > 4
    with pytest.raises(InvalidArgumentError, match="nodes is 0"):
        graph_data.degrees(0, 5)


def test_a_made_up_graph_is_in_columns(files):
    offsets, sources = files.array("offsets"), files.array("sources")
    assert offsets[-1] == len(sources) == EDGES
    assert (np.diff(offsets) == graph_data.degrees(NODES, EDGES)).all()
    for node in range(0, NODES, 7):
        own = sources[offsets[node] : offsets[node + 1]].astype(np.int64)
        assert (np.diff(own) >= 0).all()
    assert (files.array("sources64") == sources).all()
    assert sources.max() < NODES
    weights = files.array("weights")
    assert weights.min() > 0
    assert weights.max() <= 1
    assert graph_of(files).nodes == NODES


def test_edges_come_from_nodes_by_their_degree(files):
    degrees = np.diff(files.array("offsets"))
    drawn = np.bincount(files.array("sources"), minlength=NODES)
    # A node's expected count is its degree: chi-square over those of which many are expected.
    many = degrees >= 20
    statistic = ((drawn[many] - degrees[many]) ** 2 / degrees[many]).sum()
    assert 1e-6 < stats.chi2.sf(statistic, many.sum()) < 1 - 1e-6
    assert many.sum() > 100


def test_a_graph_is_made_once_and_the_same_in_any_pieces(files, tmp_path, monkeypatch):
    told = []
    again = graph_data.make(NODES, EDGES, files.folder.parent, on_progress=told.append)
    assert (again, told) == (files, [])
    monkeypatch.setattr(graph_data, "_CHUNK", 50)
    other = graph_data.make(NODES, EDGES, tmp_path, on_progress=told.append)
    assert len(told) == 1
    offsets = other.array("offsets")
    assert (offsets == files.array("offsets")).all()
    pieces = graph_data._pieces(np.asarray(offsets))
    assert [begin for begin, _ in pieces[1:]] == [end for _, end in pieces[:-1]]
    assert (pieces[0][0], pieces[-1][1]) == (0, NODES)
    assert max(end - begin for begin, end in pieces) > 1
    assert (np.diff(other.array("sources"))[:1000] >= 0).mean() > 0.5


def test_an_edge_list_in_parquet_has_the_graphs_degrees(files, tmp_path):
    from pyarrow import parquet

    size = graph_data.write_parquet(files, tmp_path / "edges.parquet", edges=20_000)
    assert size == (tmp_path / "edges.parquet").stat().st_size
    table = parquet.read_table(tmp_path / "edges.parquet")
    assert table.column_names == ["src", "dst"]
    assert table.num_rows == 20_000
    degrees = np.diff(files.array("offsets"))
    for column in table.columns:
        counts = np.bincount(column.to_numpy(), minlength=NODES)
        assert np.corrcoef(counts, degrees)[0, 1] > 0.9


# Peers


def test_a_peer_runs_by_the_python_that_is_named(monkeypatch):
    assert graph_children.python_of("dgl") == sys.executable
    monkeypatch.setenv("MBFLOW_BENCH_PYG_LIB_PYTHON", "elsewhere")
    assert graph_children.python_of("pyg-lib") == "elsewhere"


@pytest.mark.parametrize("way", ["own", "other"])
@pytest.mark.peer("dgl", "torch")
def test_a_peer_samples_in_a_process_of_its_own(files, tmp_path, monkeypatch, way):
    if way == "other":
        # The same program by another name is run by the path of its source.
        text = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
        (tmp_path / "other").write_text(text)
        (tmp_path / "other").chmod(0o755)
        monkeypatch.setenv("MBFLOW_BENCH_DGL_PYTHON", str(tmp_path / "other"))
    seeds = Workload(files, 3, 50).seeds()
    path = graph_children.seeds_file(tmp_path, seeds)
    with graph_children.Child("dgl", files, weights=True) as child:
        assert child.missing == ""
        assert child.version.startswith("DGL 1.1")
        for method in child.methods:
            request = {"method": method, "fanouts": [4, 3], "seeds": path, "workers": 1}
            found = child.ask(request)
            assert 300 < found["edges"] < 3 * 50 * (4 + 5 * 3)
            assert 3 * 50 < found["nodes"] <= found["edges"] + 3 * 50
            assert found["seconds"] > 0
        # As many edges as this package's sampler takes.
        degrees = np.diff(files.array("offsets"))
        request = {"method": "uniform", "fanouts": [4], "seeds": path, "workers": 1}
        assert child.ask(request)["edges"] == np.minimum(degrees[seeds], 4).sum()
        with pytest.raises(ResourceError, match=r"dgl: the process ended: .*KeyError"):
            child.ask({"method": "uniform"})


def test_a_peer_that_is_not_there_is_named(files, no_peers):
    with graph_children.children(files, threads=(1, 2)) as found:
        assert [child.peer for child in found] == list(graph_peers.PEERS)
        assert all("No such file" in child.missing for child in found)
        with pytest.raises(ResourceError, match="dgl does not run"):
            found[0].ask({})


def test_a_library_that_does_not_import_is_named(files, monkeypatch):
    with graph_children.Child("nothing", files) as child:
        assert child.missing == "'nothing'"
        assert child.methods == ()


# Bias


def test_chi_square_is_scaled_by_draws_that_exclude_each_other():
    # All neighbours drawn each time: the counts cannot vary at all, so the spread is zero.
    statistic, chance = graph_bias.chi_square([1010, 990, 1000], degree=300, fanout=10)
    plain = stats.chisquare([1010, 990, 1000])
    assert statistic == pytest.approx(plain.statistic * 299 / 290)
    assert chance == pytest.approx(stats.chi2.sf(statistic, 2))
    # Counts of draws without replacement have the chances that the scaled statistic says.
    draw = np.random.default_rng(0)
    counts = draw.multivariate_hypergeometric([100] * 3, 150, size=(2000, 20)).sum(axis=1)
    chances = [graph_bias.chi_square(one.tolist(), degree=300, fanout=150)[1] for one in counts]
    assert stats.kstest(chances, "uniform").pvalue > 1e-4


def test_every_third_of_the_neighbours_is_drawn_as_often(no_peers):
    own, *peers = graph_bias.bias(300, lambda _: None)
    assert own["first"] + own["second"] + own["third"] == 300 * 100
    assert own["chance"] > 1e-6
    assert [record["case"] for record in peers] == list(graph_peers.PEERS)
    assert all(record["chi_square"] is None and record["note"] for record in peers)


def test_the_bias_of_sixteen_random_bits_is_seen():
    # What a remainder of 16 bits does to a degree of 49,152.
    places = np.random.default_rng(0).integers(0, 1 << 16, 30_000) % 49_152
    counts = np.bincount(places * 3 // 49_152, minlength=3).tolist()
    assert graph_bias.chi_square(counts, degree=49_152, fanout=100)[1] < 1e-100


# Records


def test_records_of_sampling(no_peers):
    told = []
    found = graph.run(
        parts=["sample", "weighted", "labor"], nodes=NODES, edges=EDGES, batches=2, repeats=2,
        on_progress=told.append,
    )  # fmt: skip
    assert found == json.loads(json.dumps(found))
    assert found["parameters"]["batch_size"] == 1024
    tables = found["tables"]
    own = [record for record in tables["sample"] if record["case"].startswith("mbflow")]
    assert [record["threads"] for record in own] == [1, 1, 1, 2, 2] * 2
    for record in own:
        assert record["million_edges_per_second"] > 0
        assert record["edges"] > 1024
        assert record["nodes"] <= NODES
    # Threads and the type of ids change nothing of what is drawn.
    assert len({(one["fanouts"], one["edges"], one["nodes"]) for one in own}) == 2 * len(FANOUTS)
    for name in ("weighted", "labor"):
        uniform, other, *peers = tables[name][: 2 + len(graph_peers.PEERS)]
        assert (uniform["method"], other["method"]) == ("uniform", name)
        assert uniform["slower_than_uniform"] == 1
        assert other["slower_than_uniform"] > 0
        assert all("No such file" in peer["note"] for peer in peers)
    assert tables["labor"][1]["nodes_of_uniform"] < 1
    assert "sample 15-10-5: mbflow uniform, 2 of 2" in told


def test_records_of_building(files):
    (record,) = graph_build.build(files, 20_000, 1, lambda _: None)
    assert record["edges"] == 20_000
    assert record["seconds"] > 0
    assert record["open_ms"] > 0
    # Offsets of 8 bytes a node and sources of 4 bytes an edge.
    assert record["result_mb"] * 1e6 == pytest.approx(20_000 * 4 + NODES * 8, rel=0.05)
    with pytest.raises(ResourceError, match="open: the process ended"):
        graph_build._in_a_process("open", "absent")


@pytest.mark.peer("torch")
def test_records_of_a_gat():
    options = {"nodes": 60, "edges": 300, "threads": [1], "backends": ["native", "torch"]}
    native, other = graph._gat(1, lambda _: None, options)
    assert (native["backend"], other["backend"]) == ("native", "torch")
    assert native["times_native"] is None
    assert other["times_native"] == pytest.approx(other["seconds"] / native["seconds"])
    assert other["peak_mb"] > other["above_start_mb"]
    assert native["note"] == other["note"] == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ["nothing"]}, r"no part \['nothing'\]; known: sample"),
        ({"parts": []}, "no part"),
        ({"repeats": 0}, "repeats is 0"),
        ({"draws": 0}, "draws is 0"),
    ],
)
def test_wrong_parameters_are_refused(options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        graph.run(**options)


def test_the_command_writes_its_tables(no_peers, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(graph, "SIZES", {"quick": (NODES, EDGES)})
    arguments = ["bench", "graph", "--part", "labor", "--repeats", "1", "--data", str(tmp_path)]
    assert cli.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "LABOR-0, beside uniform sampling" in said.out
    stored = json.loads((tmp_path / "out" / "graph.json").read_text())
    assert stored["tables"]["labor"][0]["case"] == "mbflow"
    assert list(tmp_path.glob("products-like-*"))
    assert cli.main([*arguments, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"environment", "parameters", "tables"}
    assert cli.main(["bench", "graph", "--part", "nothing"]) == 2
    assert Path(stored["environment"]["system"])
