"""Convolutions and networks against dense matrices, and inference against the whole graph."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_data import compressed, dense, random_graph, slow_sample
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.graph import Graph, Layer, Sample

torch = pytest.importorskip("torch")

from mbflow.graph.gat import GAT, GATConv  # noqa: E402
from mbflow.graph.inference import infer  # noqa: E402 - imports torch
from mbflow.graph.layers import (  # noqa: E402
    TensorLayer,
    in_degrees,
    neighbour_sum,
    tensor_layers,
    whole_sample,
)
from mbflow.graph.models import GCN, GCNConv, GraphNetwork, GraphSAGE, SAGEConv  # noqa: E402

NETWORKS = [GCN, GraphSAGE, GAT]


def layer_of(graph: Graph) -> TensorLayer:
    return tensor_layers(whole_sample(graph, [], layers=1), in_degrees(graph))[0]


def features_of(graph: Graph, columns: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(graph.nodes, columns))
    return drawn.astype(np.float32)


@st.composite
def graphs(draw) -> Graph:
    nodes = draw(st.integers(1, 9))
    ends = st.integers(0, nodes - 1)
    edges = draw(st.lists(st.tuples(ends, ends), max_size=30))
    return compressed([s for s, _ in edges], [t for _, t in edges], nodes)


@given(graphs(), st.integers(1, 3), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_sum_and_its_gradient_are_those_of_the_adjacency_matrix(
    graph, columns, weighted, seed
) -> None:
    draw = np.random.default_rng(seed)
    whole = layer_of(graph)
    weights = torch.from_numpy(draw.random(graph.edges).astype(np.float32)) if weighted else None
    layer = TensorLayer(whole.offsets, whole.sources, whole.degrees, weights)
    matrix = np.zeros((graph.nodes, graph.nodes))
    targets = np.repeat(np.arange(graph.nodes), np.diff(graph.offsets.astype(np.int64)))
    for edge, (target, source) in enumerate(zip(targets, graph.sources, strict=True)):
        matrix[target, source] += 1.0 if weights is None else float(weights[edge])
    values = torch.from_numpy(draw.normal(size=(graph.nodes, columns))).requires_grad_()
    found = neighbour_sum(layer, values)
    np.testing.assert_allclose(found.detach(), matrix @ values.detach().numpy(), atol=1e-12)
    upward = torch.from_numpy(draw.normal(size=(graph.nodes, columns)))
    found.backward(upward)
    np.testing.assert_allclose(values.grad, matrix.T @ upward.numpy(), atol=1e-12)
    np.testing.assert_allclose(layer.counts, matrix.sum(1), rtol=1e-6)


def test_the_gradient_is_that_of_finite_differences() -> None:
    layer = layer_of(random_graph(7, 12, seed=3))
    values = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: neighbour_sum(layer, x), values)


@pytest.mark.parametrize("columns", [2, 5])
def test_gcn_is_the_normalised_adjacency_matrix(columns) -> None:
    graph = random_graph(30, 60, seed=1)
    x = features_of(graph, 4)
    convolution = GCNConv(4, columns).double()
    with torch.no_grad():
        convolution.bias.copy_(torch.arange(columns))
    closed = dense(graph) + np.eye(graph.nodes)
    root = np.diag(closed.sum(1) ** -0.5)
    expected = root @ closed @ root @ x @ convolution.weight.detach().numpy() + np.arange(columns)
    found = convolution(layer_of(graph), torch.from_numpy(x).double())
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("columns", [2, 7])
def test_graphsage_is_the_mean_over_neighbours(columns) -> None:
    graph = random_graph(30, 60, seed=2)
    x = features_of(graph, 4).astype(np.float64)
    convolution = SAGEConv(4, columns).double()
    matrix = dense(graph)
    mean = matrix @ x / np.maximum(matrix.sum(1, keepdims=True), 1)
    own, neighbours = (
        w.detach().numpy() for w in (convolution.weight_own, convolution.weight_given)
    )
    found = convolution(layer_of(graph), torch.from_numpy(x))
    np.testing.assert_allclose(found.detach(), x @ own + mean @ neighbours, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("concat", [True, False])
def test_gat_is_a_softmax_over_a_dense_matrix(concat) -> None:
    graph = random_graph(20, 40, seed=11)
    closed = torch.from_numpy(dense(graph) + np.eye(graph.nodes))
    convolution = GATConv(4, 3, heads=2, concat=concat).double()
    with torch.no_grad():
        convolution.bias.copy_(torch.arange(convolution.out_features))
    x = torch.from_numpy(features_of(graph, 4)).double()

    def oracle(x: torch.Tensor) -> torch.Tensor:
        heads = []
        for head in range(2):
            z = x @ convolution.weight[:, 3 * head : 3 * head + 3]
            source = z @ convolution.attention_source[head]
            target = z @ convolution.attention_target[head]
            logits = torch.nn.functional.leaky_relu(target[:, None] + source[None, :], 0.2)
            raised = closed * torch.exp(logits)  # an edge that stands twice counts twice
            heads.append(raised / raised.sum(1, keepdim=True) @ z)
        found = torch.cat(heads, 1) if concat else torch.stack(heads).mean(0)
        return found + convolution.bias

    parts = []
    for function in (oracle, lambda x: convolution(layer_of(graph), x)):
        own = x.clone().requires_grad_()
        found = function(own)
        weights = [own, *convolution.parameters()]
        upward = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view_as(found)
        parts.append([found.detach(), *torch.autograd.grad(found, weights, upward)])
    for one, other in zip(*parts, strict=True):
        torch.testing.assert_close(one, other)


def test_attention_dropout_keeps_the_mean_and_goes_by_its_key() -> None:
    graph = random_graph(20, 60, seed=12)
    x, layer = torch.from_numpy(features_of(graph, 4)), layer_of(graph)
    convolution = GATConv(4, 2, heads=2, dropout=0.5)
    with torch.no_grad():
        one, same, other = (convolution(layer, x, key=key) for key in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        drawn = torch.stack([convolution(layer, x, key=key) for key in range(100)])
        convolution.eval()
        kept = convolution(layer, x, key=1)
    error = drawn.std(0) / 10
    assert ((drawn.mean(0) - kept).abs() < 5 * error + 1e-6).all()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_sample_with_all_neighbours_gives_what_the_whole_graph_gives(network, layers) -> None:
    graph = random_graph(60, 120, seed=4)
    x = torch.from_numpy(features_of(graph, 6))
    model = network(6, 3, hidden=5, layers=layers).eval()
    seeds = np.array([59, 3, 17, 58, 4])
    sample = slow_sample(graph, seeds, [-1] * layers, [0])
    found = model(tensor_layers(sample, in_degrees(graph)), x[torch.from_numpy(sample.nodes)])
    whole = model(layer_of(graph), x)
    torch.testing.assert_close(found[sample.seeds], whole[seeds], rtol=1e-5, atol=1e-6)


def test_gcn_over_drawn_neighbours_is_right_in_the_mean() -> None:
    graph = random_graph(40, 200, seed=5)
    x = torch.from_numpy(features_of(graph, 3))
    convolution = GCNConv(3, 2)
    whole = convolution(layer_of(graph), x)[:1]
    assert int(graph.offsets[1]) > 4
    draws = []
    for key in range(1500):
        sample = slow_sample(graph, np.array([0]), [3], [key])
        (layer,) = tensor_layers(sample, in_degrees(graph))
        draws.append(convolution(layer, x[torch.from_numpy(sample.nodes)]).detach())
    drawn = torch.cat(draws)
    error = drawn.std(0) / len(drawn) ** 0.5
    assert (error > 0).all()
    assert ((drawn.mean(0) - whole[0].detach()).abs() < 4 * error).all()


def test_weights_of_a_sample_count_in_the_mean() -> None:
    weights = np.array([3.0, 1.0], np.float32)
    sample = Sample(
        np.array([0, 1, 2]),
        (Layer(np.array([0, 2]), np.array([1, 2]), np.array([0, 1]), weights=weights),),
        (1, 3),
        np.array([0]),
    )
    (layer,) = tensor_layers(sample, torch.tensor([2.0, 0.0, 0.0]))
    convolution = SAGEConv(1, 1)
    torch.nn.init.zeros_(convolution.weight_own)
    torch.nn.init.ones_(convolution.weight_given)
    x = torch.tensor([[100.0], [4.0], [8.0]])
    assert convolution(layer, x).item() == pytest.approx(5.0)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_graph_without_edges(network) -> None:
    graph = compressed([], [], 4)
    model = network(3, 2).eval()
    x = torch.eye(4, 3, requires_grad=True)
    found = model(layer_of(graph), x)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(x.grad).all()
    alone = infer(model, graph, features=np.eye(4, 3)).logits
    torch.testing.assert_close(alone, found.detach())


def test_no_nodes_at_all() -> None:
    graph = compressed([], [], 0)
    assert infer(GCN(3, 2), graph, features=np.empty((0, 3))).logits.shape == (0, 2)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("threads", [1, 3])
def test_inference_in_chunks_is_the_whole_graph(network, threads) -> None:
    graph = random_graph(97, 300, seed=6)
    x = features_of(graph, 9)
    model = network(9, 4, hidden=6, layers=3).eval()
    whole = model(layer_of(graph), torch.from_numpy(x)).detach()
    for nodes, edges in ((10, 1000), (1000, 7), (1, 1), (1000, 10**6)):
        found = infer(
            model, graph, features=x, chunk_nodes=nodes, chunk_edges=edges, threads=threads
        )
        torch.testing.assert_close(found.logits, whole, rtol=1e-5, atol=1e-6)
        assert found.embeddings is None
    assert model.training is False


def test_inference_does_not_depend_on_threads_and_leaves_the_mode() -> None:
    graph = random_graph(80, 300, seed=7)
    x = features_of(graph, 5)
    model = GCN(5, 3)
    assert model.training
    results = [infer(model, graph, features=x, chunk_nodes=9, threads=n) for n in (1, 2, 5)]
    assert all(torch.equal(results[0].logits, one.logits) for one in results[1:])
    assert model.training
    torch.testing.assert_close(results[0].probabilities().sum(1), torch.ones(80))


def test_embeddings_are_what_the_last_convolution_takes() -> None:
    graph = random_graph(30, 60, seed=8)
    x = features_of(graph, 5)
    model = GCN(5, 3, hidden=4).eval()
    found = infer(model, graph, features=x, embeddings=True, chunk_nodes=7)
    assert found.embeddings.shape == (30, 4)
    last = model.convolutions[-1](layer_of(graph), found.embeddings)
    torch.testing.assert_close(last, found.logits)
    first = infer(GCN(5, 3, layers=1), graph, features=x, embeddings=True, chunk_nodes=7)
    np.testing.assert_array_equal(first.embeddings, x)


def test_dropout_goes_by_its_key() -> None:
    graph = random_graph(30, 60, seed=9)
    x, layer = torch.from_numpy(features_of(graph, 5)), layer_of(graph)
    model = GCN(5, 3, dropout=0.5)
    one, same, other = (model(layer, x, key=key) for key in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(model(layer, x), model(layer, x))
    model.eval()
    assert torch.equal(model(layer, x, key=1), model(layer, x, key=2))


def test_the_same_seed_gives_the_same_first_weights() -> None:
    one, same, other = (GraphSAGE(5, 3, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_what_cannot_be_computed_is_refused() -> None:
    graph = random_graph(10, 20, seed=10)
    model = GCN(3, 2)
    layer = layer_of(graph)
    with pytest.raises(InvalidArgumentError, match=r"2 convolutions and the sample 1 layers"):
        model([layer], torch.ones(10, 3))
    with pytest.raises(InvalidArgumentError, match="layers must be at least 1"):
        GCN(3, 2, layers=0)
    with pytest.raises(InvalidArgumentError, match="dropout must be at least 0 and below 1"):
        GraphNetwork([GCNConv(3, 2)], torch.relu, dropout=1.0)
    with pytest.raises(DataError, match=r"features have 9 rows and the graph 10 nodes"):
        infer(model, graph, features=np.ones((9, 3)))
    with pytest.raises(InvalidArgumentError, match="chunk_nodes"):
        infer(model, graph, features=np.ones((10, 3)), chunk_nodes=0)
    between = Graph(graph.offsets, graph.sources, 12)
    with pytest.raises(InvalidArgumentError, match="one kind of nodes"):
        infer(model, between, features=np.ones((10, 3)))
    late = Layer(np.array([0, 1]), np.array([0]), np.array([0]), first=1)
    sample = Sample(np.array([0, 1]), (late,), (1, 2), np.array([0]))
    with pytest.raises(InvalidArgumentError, match="nodes found last alone"):
        tensor_layers(sample, torch.ones(2))


def test_features_that_are_no_numbers_are_named():
    graph = Graph.from_edges([1, 2, 3], [0, 0, 1])
    features = np.ones((4, 3))
    features[2, 1] = np.nan
    with pytest.raises(DataError, match="features: node 2 has nan in column 1; expected finite"):
        infer(GCN(3, 2), graph, features=features, chunk_nodes=2)
