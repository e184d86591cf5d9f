"""Samples as torch tensors, DGL's blocks and PyG's data: shared memory, ids, and what models see."""

from __future__ import annotations

import dataclasses
from importlib import util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_samples import graph_of, hetero_graph, random_edges
from mbflow.dgl_compat import load_dgl
from mbflow.errors import InvalidArgumentError
from mbflow.graph import Graph, Layer, NeighbourSampler, Sample
from mbflow.graph.hops import hetero_hops, hops
from mbflow.graph.interop import to_dgl, to_pyg, to_torch

torch = pytest.importorskip("torch")

NODES = 80
SOURCES, TARGETS = random_edges(NODES, 500, seed=3)
GRAPH = graph_of(SOURCES, TARGETS, nodes=NODES)
HETERO = hetero_graph()
SEEDS = [5, 0, 31, 79]
CITES = ("paper", "cites", "paper")


def sampled(expand: str, fanouts=(4, 3, 2), seeds=SEEDS) -> Sample:
    return NeighbourSampler(GRAPH, fanouts, expand=expand).sample(seeds)


def hetero_sampled(expand: str, fanouts=(4, 3, 2), seeds=None):
    return NeighbourSampler(HETERO, fanouts, expand=expand).sample(
        seeds or {"paper": [3, 0], "author": [1]}
    )


def loaded_dgl():
    if util.find_spec("dgl") is None:
        pytest.skip("dgl is not installed")
    return load_dgl(purpose="a test")


def end_of(graph, edges: np.ndarray) -> np.ndarray:
    """The node that each edge of the graph leads to."""
    return np.searchsorted(graph.offsets, edges, side="right") - 1


# torch


def test_tensors_share_the_memory_of_the_sample():
    sample = sampled("all")
    found = to_torch(sample)
    assert found.nodes.data_ptr() == sample.nodes.ctypes.data
    assert found.seeds.data_ptr() == sample.seeds.ctypes.data
    assert found.sizes == sample.sizes
    assert len(found.layers) == 3
    for ours, layer in zip(found.layers, sample.layers, strict=True):
        for name in ("offsets", "sources", "edges"):
            one, array = getattr(ours, name), getattr(layer, name)
            assert one.data_ptr() == array.ctypes.data
            assert one.tolist() == array.tolist()
        assert (ours.first, ours.targets) == (layer.first, layer.targets)


def test_tensors_of_u32_and_of_memory_that_cannot_be_written_are_copies():
    layer = sampled("all").layers[0]
    offsets = layer.offsets.copy()
    offsets.flags.writeable = False
    narrow = Layer(offsets, layer.sources.astype(np.uint32), layer.edges.astype(np.uint32))
    sample = Sample(np.arange(100), (narrow,), (4, 100), np.arange(4))
    (found,) = to_torch(sample).layers
    assert found.sources.dtype == found.edges.dtype == torch.int64
    assert found.sources.tolist() == layer.sources.tolist()
    assert found.offsets.data_ptr() != offsets.ctypes.data
    assert found.offsets.tolist() == offsets.tolist()


@pytest.mark.parametrize("expand", ["all", "new"])
def test_an_edge_index_names_both_ends_of_each_edge(expand):
    sample = sampled(expand)
    for layer in to_torch(sample).layers:
        sources, targets = layer.edge_index()
        edges = layer.edges.numpy()
        assert sample.nodes[sources].tolist() == GRAPH.sources[edges].tolist()
        assert sample.nodes[targets].tolist() == end_of(GRAPH, edges).tolist()


def test_a_sample_of_many_types_in_tensors():
    sample = hetero_sampled("all")
    sample = dataclasses.replace(sample, trees={"paper": np.zeros(9, np.int64)})
    found = to_torch(sample).to("cpu", non_blocking=True)
    assert found.nodes.keys() == sample.nodes.keys()
    assert found.nodes["paper"].data_ptr() == sample.nodes["paper"].ctypes.data
    assert found.trees["paper"].tolist() == [0] * 9
    for hop, layers in zip(found.layers, sample.layers, strict=True):
        assert hop.keys() == layers.keys()
        for relation, layer in hop.items():
            assert layer.sources.tolist() == layers[relation].sources.tolist()


def test_tensors_move_to_a_device():
    sample = sampled("all")
    weights = np.ones(len(sample.layers[0].sources), np.float32)
    layers = (dataclasses.replace(sample.layers[0], weights=weights), *sample.layers[1:])
    sample = dataclasses.replace(sample, layers=layers, trees=np.zeros(len(sample.nodes), np.int64))
    moved = to_torch(sample).to("meta")
    tensors = [moved.nodes, moved.seeds, moved.trees, moved.layers[0].weights]
    tensors += [
        one for layer in moved.layers for one in (layer.offsets, layer.sources, layer.edges)
    ]
    assert {str(one.device) for one in tensors} == {"meta"}
    assert moved.layers[1].weights is None


def test_something_else_is_no_sample():
    for convert in (to_torch, to_pyg, to_dgl):
        if convert is to_pyg:
            pytest.importorskip("torch_geometric")
        if convert is to_dgl:
            loaded_dgl()
        with pytest.raises(InvalidArgumentError, match="sample is a list; expected a Sample"):
            convert([1, 2])


# hops


def expected_edges(graph, layer: Layer, nodes: np.ndarray) -> list[tuple[int, int, int]]:
    return [
        (
            int(nodes[layer.sources[place]]),
            int(nodes[layer.first + target]),
            int(layer.edges[place]),
        )
        for target in range(layer.targets)
        for place in range(layer.offsets[target], layer.offsets[target + 1])
    ]


@settings(max_examples=40)
@given(
    seeds=st.lists(st.integers(0, NODES - 1), max_size=8),
    fanouts=st.lists(st.sampled_from([-1, 0, 1, 3]), min_size=1, max_size=3),
)
def test_hops_hold_the_edges_of_the_layers_in_order(seeds, fanouts):
    sample = sampled("new", fanouts, seeds)
    found = hops(sample)
    assert found.nodes[: len(seeds)].tolist() == seeds
    assert sorted(set(found.nodes.tolist())) == sorted(sample.nodes.tolist())
    assert sum(found.node_counts) == len(found.nodes)
    assert sum(found.edge_counts) == len(found.edges)
    assert len(found.edge_counts) == len(fanouts) == len(found.node_counts) - 1
    begin = 0
    for number, layer in enumerate(sample.layers):
        end = begin + found.edge_counts[number]
        sources, targets = found.edge_index[:, begin:end]
        edges = found.edges[begin:end].tolist()
        ours = list(
            zip(found.nodes[sources].tolist(), found.nodes[targets].tolist(), edges, strict=True)
        )
        wanted = expected_edges(GRAPH, layer, sample.nodes)
        assert set(ours) == set(wanted)
        if number == 0:
            # Each seed has its edges as often as it was given.
            for place, seed in enumerate(seeds):
                own = [edge for edge, target in zip(edges, targets, strict=True) if target == place]
                assert own == [edge for _, end_node, edge in wanted if end_node == seed]
        else:
            assert ours == wanted
        # What a hop found stands behind all that hops before it found.
        assert targets.max(initial=-1) < sum(found.node_counts[: number + 1])
        assert sources.max(initial=-1) < sum(found.node_counts[: number + 2])
        begin = end


def test_hops_of_several_types_hold_every_relation():
    sample = hetero_sampled("new", seeds={"paper": [3, 0, 3, 3], "author": [1]})
    other = ("topic", "about", "paper")
    found = hetero_hops(sample, relations=[other])
    assert found.nodes["paper"][:4].tolist() == [3, 0, 3, 3]
    assert found.node_counts["topic"][0] == 0
    assert found.edge_counts[other] == [0, 0, 0]
    assert found.edge_index[other].shape == (2, 0)
    assert set(found.edge_index) == {*HETERO.relations, other}
    for relation, graph in HETERO.relations.items():
        (sources, targets), edges = found.edge_index[relation], found.edges[relation]
        assert found.nodes[relation[0]][sources].tolist() == graph.sources[edges].tolist()
        assert found.nodes[relation[2]][targets].tolist() == end_of(graph, edges).tolist()
    assert sum(map(sum, found.edge_counts.values())) > 40


def test_hops_need_layers_that_go_on_from_the_nodes_found_last():
    with pytest.raises(InvalidArgumentError, match=r'layer 1 begins at node 0.*expand="new"'):
        hops(sampled("all"))
    with pytest.raises(InvalidArgumentError, match=r"layer 1 of relation paper/cites/paper"):
        hetero_hops(hetero_sampled("all"))
    assert hops(sampled("all", [4])).edge_counts == hops(sampled("new", [4])).edge_counts


# PyG


def test_pyg_data_holds_the_sample():
    pytest.importorskip("torch_geometric")
    sample = sampled("new")
    data = to_pyg(sample, rows=GRAPH.rows)
    assert data.n_id.data_ptr() == sample.nodes.ctypes.data
    assert data.batch_size == 4
    assert data.num_nodes == len(sample.nodes)
    assert data.num_sampled_nodes == [4, *np.diff(sample.sizes).tolist()]
    assert data.num_sampled_edges == [len(layer.sources) for layer in sample.layers]
    assert SOURCES[data.e_id].tolist() == data.n_id[data.edge_index[0]].tolist()
    assert TARGETS[data.e_id].tolist() == data.n_id[data.edge_index[1]].tolist()
    places = to_pyg(sample).e_id
    assert GRAPH.rows[places].tolist() == data.e_id.tolist()
    assert "edge_weight" not in data
    assert "batch" not in data
    data.validate()


def test_pyg_data_of_weights_and_trees():
    pytest.importorskip("torch_geometric")
    sample = sampled("new")
    layers = tuple(
        dataclasses.replace(layer, weights=layer.edges.astype(np.float32))
        for layer in sample.layers
    )
    trees = np.arange(len(sample.nodes)) % 4
    data = to_pyg(dataclasses.replace(sample, layers=layers, trees=trees))
    assert data.edge_weight.dtype == torch.float32
    assert data.edge_weight.tolist() == data.e_id.tolist()
    assert data.batch.tolist() == trees.tolist()


def test_pyg_data_of_several_types():
    pytest.importorskip("torch_geometric")
    sample = hetero_sampled("new")
    rows = {relation: graph.rows for relation, graph in HETERO.relations.items()}
    data = to_pyg(sample, rows=rows)
    assert data["paper"].batch_size == 2
    assert data["author"].batch_size == 1
    assert "batch_size" not in data["topic"]
    seen = 0
    for relation, graph in HETERO.relations.items():
        store = data[relation]
        place = np.argsort(graph.rows)[store.e_id.numpy()]
        seen += len(place)
        sources, targets = store.edge_index
        assert data[relation[0]].n_id[sources].tolist() == graph.sources[place].tolist()
        assert data[relation[2]].n_id[targets].tolist() == end_of(graph, place).tolist()
        assert len(store.num_sampled_edges) == 3
    assert seen == sample.edges > 40
    data.validate()


# DGL


def aggregated(sample: Sample, features: torch.Tensor) -> torch.Tensor:
    """The sum over incoming edges, layer by layer, plus what the node itself has."""
    x = features[sample.nodes]
    for layer in reversed(sample.layers):
        target = torch.zeros(layer.targets, x.shape[1], dtype=x.dtype)
        for place in range(layer.targets):
            begin, end = layer.offsets[place : place + 2]
            target[place] = x[layer.sources[begin:end]].sum(0) + x[layer.first + place]
        x = target
    return x


def test_dgl_blocks_hold_the_sample():
    dgl = loaded_dgl()
    sample = sampled("all")
    blocks = to_dgl(sample, rows=GRAPH.rows)
    assert [block.num_dst_nodes() for block in blocks] == list(sample.sizes[2::-1])
    assert [block.num_src_nodes() for block in blocks] == list(sample.sizes[:0:-1])
    for block in blocks:
        assert block.is_block
        sources, targets, edges = block.edges(form="all")
        rows = block.edata[dgl.EID][edges]
        assert SOURCES[rows].tolist() == block.srcdata[dgl.NID][sources].tolist()
        assert TARGETS[rows].tolist() == block.dstdata[dgl.NID][targets].tolist()
        known = block.srcdata[dgl.NID][: block.num_dst_nodes()]
        assert known.tolist() == block.dstdata[dgl.NID].tolist()
    assert blocks[-1].dstdata[dgl.NID].tolist() == SEEDS
    # The first layer's ids are the sample's own memory.
    assert blocks[0].srcdata[dgl.NID].data_ptr() == sample.nodes.ctypes.data
    features = torch.randn(NODES, 3, dtype=torch.float64)
    x = features[blocks[0].srcdata[dgl.NID]]
    for block in blocks:
        block.srcdata["x"] = x
        block.update_all(dgl.function.copy_u("x", "m"), dgl.function.sum("m", "y"))
        x = block.dstdata["y"] + x[: block.num_dst_nodes()]
    torch.testing.assert_close(x, aggregated(sample, features))


def test_dgl_blocks_are_those_of_dgl_where_all_neighbours_are_taken():
    dgl = loaded_dgl()
    graph = dgl.graph((torch.from_numpy(SOURCES), torch.from_numpy(TARGETS)), num_nodes=NODES)
    sampler = dgl.dataloading.NeighborSampler([-1, -1])
    _, _, theirs = sampler.sample_blocks(graph, torch.tensor(SEEDS))
    ours = to_dgl(sampled("all", [-1, -1]), rows=GRAPH.rows)
    for one, other in zip(ours, theirs, strict=True):
        assert sorted(one.edata[dgl.EID].tolist()) == sorted(other.edata[dgl.EID].tolist())
        assert set(one.srcdata[dgl.NID].tolist()) == set(other.srcdata[dgl.NID].tolist())
        assert one.num_dst_nodes() == other.num_dst_nodes()
    assert ours[-1].dstdata[dgl.NID].tolist() == theirs[-1].dstdata[dgl.NID].tolist()


def test_dgl_blocks_of_u32_and_weights():
    sample = sampled("all")
    layers = tuple(
        Layer(
            layer.offsets,
            layer.sources.astype(np.uint32),
            layer.edges.astype(np.uint32),
            weights=layer.edges.astype(np.float32),
        )
        for layer in sample.layers
    )
    dgl = loaded_dgl()
    for block, other in zip(
        to_dgl(dataclasses.replace(sample, layers=layers)), to_dgl(sample), strict=True
    ):
        assert block.edata["edge_weights"].tolist() == block.edata[dgl.EID].tolist()
        assert [one.tolist() for one in block.edges()] == [one.tolist() for one in other.edges()]


def test_dgl_blocks_of_several_types():
    dgl = loaded_dgl()
    sample = hetero_sampled("all")
    blocks = to_dgl(sample)
    assert len(blocks) == 3
    seen = 0
    for number, block in enumerate(reversed(blocks)):
        assert set(block.canonical_etypes) == set(HETERO.relations)
        for kind in HETERO.nodes:
            assert block.num_dst_nodes(kind) == sample.sizes[kind][number]
            ids = sample.nodes[kind][: sample.sizes[kind][number + 1]]
            assert block.srcnodes[kind].data[dgl.NID].tolist() == ids.tolist()
        for relation, graph in HETERO.relations.items():
            sources, targets, order = block.edges(form="all", etype=relation)
            seen += len(order)
            if not len(order):
                continue
            places = block.edges[relation].data[dgl.EID][order].numpy()
            own, others = block.dstnodes[relation[2]].data, block.srcnodes[relation[0]].data
            assert others[dgl.NID][sources].tolist() == graph.sources[places].tolist()
            assert own[dgl.NID][targets].tolist() == end_of(graph, places).tolist()
    assert seen == sample.edges


def test_dgl_blocks_need_layers_that_go_on_from_all_nodes():
    loaded_dgl()
    with pytest.raises(InvalidArgumentError, match=r'layer 1 has .* from node 4.*expand="all"'):
        to_dgl(sampled("new"))
    with pytest.raises(InvalidArgumentError, match=r"layer 1 of relation"):
        to_dgl(hetero_sampled("new"))
    sample = sampled("all")
    trees = np.zeros(len(sample.nodes), np.int64)
    with pytest.raises(InvalidArgumentError, match="trees are kept apart"):
        to_dgl(dataclasses.replace(sample, trees=trees))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 1, 2], "rows is a list; expected `graph.rows`"),
        (np.array([0.0]), "rows is a ndarray"),
        (np.array([0]), "rows has 1 entries, and the sample has edge 2"),
    ],
)
def test_rows_of_something_else_are_refused(rows, message):
    pytest.importorskip("torch_geometric")
    graph = Graph.from_edges([1, 2, 3], [0, 0, 1])
    sample = NeighbourSampler(graph, [2, 2], expand="new").sample([0])
    with pytest.raises(InvalidArgumentError, match=message):
        to_pyg(sample, rows=rows)
