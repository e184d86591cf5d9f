"""Graph attention: against plain loops, plain torch, DGL and PyG; gradients; threads; bad input."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbflow import _native
from mbflow.errors import InvalidArgumentError, MissingExtraError

torch = pytest.importorskip("torch")

from mbflow.edge_attention import EdgeGraph, GraphAttention, attend  # noqa: E402
from mbflow.graph import Graph, Layer, NeighbourSampler  # noqa: E402


def _graph(
    rng: np.random.Generator,
    *,
    rows: int,
    targets: int,
    edges: int,
    kinds: tuple[type, type] = (np.int64, np.int64),
    first: int = 0,
) -> EdgeGraph:
    """A random graph; sources repeat, and many targets have no edges where there are few edges."""
    sources = rng.integers(0, rows, edges)
    counts = np.bincount(rng.integers(0, max(1, targets), edges), minlength=targets)
    if targets == 0:
        sources, counts = sources[:0], counts[:0]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return EdgeGraph(offsets.astype(kinds[0]), sources.astype(kinds[1]), rows=rows, first=first)


def _slow(layer: GraphAttention, features: np.ndarray, graph: EdgeGraph):
    """The definition, edge by edge, in float64."""
    weight, source, target = (
        p.detach().numpy().astype(np.float64) for p in (layer.weight, layer.source, layer.target)
    )
    _, heads, width = weight.shape
    values = np.einsum("ri,ihd->rhd", features.astype(np.float64), weight)
    out = np.zeros((graph.targets, heads, width))
    attention = np.zeros((graph.edges, heads))
    for t in range(graph.targets):
        row = int(graph.target_rows()[t])
        edges = range(int(graph.offsets[t]), int(graph.offsets[t + 1]))
        for h in range(heads):
            logits = []
            for e in edges:
                j = int(graph.sources[e])
                logit = source[h] @ values[j, h] + target[h] @ values[row, h]
                logits.append(logit if logit > 0 else layer.negative_slope * logit)
            powers = [np.exp(logit - max(logits)) for logit in logits]
            for e, power in zip(edges, powers, strict=True):
                attention[e, h] = power / sum(powers)
                out[t, h] += attention[e, h] * values[int(graph.sources[e]), h]
    joined = out.reshape(graph.targets, heads * width) if layer.concat else out.mean(axis=1)
    if layer.bias is not None:
        joined = joined + layer.bias.detach().numpy()
    if layer.activation == "elu":
        joined = np.where(joined > 0, joined, np.exp(np.minimum(joined, 0)) - 1)
    return joined, attention


def _layer(seed: int, *shape: int, **options: object) -> GraphAttention:
    torch.manual_seed(seed)
    layer = GraphAttention(*shape, **options)
    if layer.bias is not None:
        torch.nn.init.normal_(layer.bias)
    return layer


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 30),
    share=st.floats(0, 1),
    edges=st.integers(0, 150),
    inputs=st.integers(1, 7),
    width=st.sampled_from([1, 2, 7, 8, 10, 16, 17, 24, 32, 40]),
    heads=st.sampled_from([1, 2, 3, 5]),
    concat=st.booleans(),
    bias=st.booleans(),
    activation=st.sampled_from(["none", "elu"]),
    slope=st.sampled_from([0.0, 0.2, 1.0, 1.5]),
    kinds=st.sampled_from([(np.int64, np.int64), (np.uint64, np.uint32), (np.int64, np.int32)]),
)
def test_output_and_attention_are_those_of_plain_loops(
    seed, rows, share, edges, inputs, width, heads, concat, bias, activation, slope, kinds
) -> None:
    rng = np.random.default_rng(seed)
    targets = int(share * rows)
    graph = _graph(rng, rows=rows, targets=targets, edges=edges, kinds=kinds, first=rows - targets)
    layer = _layer(
        seed, inputs, width, heads=heads, concat=concat, bias=bias, activation=activation,
        negative_slope=slope,
    )  # fmt: skip
    features = rng.normal(size=(rows, inputs)).astype(np.float32)
    expected, coefficients = _slow(layer, features, graph)
    for backend in ("native", "torch"):
        layer.backend = backend
        out, attention = layer(torch.from_numpy(features), graph, return_attention=True)
        np.testing.assert_allclose(out.detach(), expected, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(attention, coefficients, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["torch", "dgl", "pyg"])
@pytest.mark.parametrize("shape", ["whole", "first", "later"])
def test_all_backends_agree(backend: str, shape: str) -> None:
    rng = np.random.default_rng(5)
    targets, first = {"whole": (90, 0), "first": (40, 0), "later": (40, 30)}[shape]
    graph = _graph(rng, rows=90, targets=targets, edges=2 * targets, first=first)
    assert (np.diff(graph.offsets) == 0).any()
    features = torch.from_numpy(rng.normal(size=(90, 12)).astype(np.float32))
    for options in ({"heads": 4}, {"heads": 3, "concat": False, "activation": "elu"}):
        ours = _layer(1, 12, 10, **options)
        try:
            theirs = GraphAttention(12, 10, backend=backend, **options)
        except MissingExtraError as error:
            pytest.skip(str(error))
        theirs.load_state_dict(ours.state_dict())
        out, attention = ours(features, graph, return_attention=True)
        other, coefficients = theirs(features, graph, return_attention=True)
        torch.testing.assert_close(out, other, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(attention, coefficients, rtol=1e-5, atol=1e-5)
        weights = torch.from_numpy(rng.normal(size=out.shape).astype(np.float32))
        (out * weights).sum().backward()
        (other * weights).sum().backward()
        for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, its.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [3, 8, 10, 16])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("activation", ["none", "elu"])
def test_gradients_in_float64(width: int, dropout: float, activation: str) -> None:
    rng = np.random.default_rng(width)
    graph = _graph(rng, rows=14, targets=9, edges=30, first=2)
    sizes = [(14, 5), (5, 2, width), (2, width), (2, width), (2 * width,)]
    inputs = [torch.from_numpy(rng.normal(size=size)).requires_grad_() for size in sizes]

    def function(x, weight, source, target, bias):
        return attend(
            x, graph, weight=weight, source=source, target=target, bias=bias,
            activation=activation, dropout=dropout, key=11,
        )  # fmt: skip

    assert torch.autograd.gradcheck(function, inputs, eps=1e-6, atol=1e-6, fast_mode=False)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    ("heads", "width", "concat"), [(4, 16, True), (1, 10, True), (3, 5, False)]
)
def test_gradients_are_those_of_plain_torch(
    heads: int, width: int, concat: bool, dropout: float
) -> None:
    rng = np.random.default_rng(7)
    graph = _graph(rng, rows=200, targets=150, edges=2000, kinds=(np.uint64, np.uint32))
    grads, outs = [], []
    for backend in ("native", "torch"):
        layer = _layer(3, 6, width, heads=heads, concat=concat, dropout=dropout, activation="elu",
                       backend=backend).double()  # fmt: skip
        features = torch.from_numpy(np.random.default_rng(8).normal(size=(200, 6)))
        features.requires_grad_()
        out = layer(features, graph, key=5)
        out.square().sum().backward()
        outs.append(out.detach())
        grads.append([features.grad, *[p.grad for p in layer.parameters()]])
    torch.testing.assert_close(*outs, rtol=1e-10, atol=1e-10)
    for native, plain in zip(*grads, strict=True):
        torch.testing.assert_close(native, plain, rtol=1e-9, atol=1e-9)


def test_targets_in_any_rows() -> None:
    rng = np.random.default_rng(2)
    base = _graph(rng, rows=20, targets=8, edges=60)
    places = np.array([3, 19, 4, 4, 0, 7, 1, 2], np.int32)  # row 4 is the target twice
    graph = EdgeGraph(base.offsets, base.sources, rows=20, targets=places)
    results = []
    for backend in ("native", "torch"):
        layer = _layer(4, 5, 6, heads=2, backend=backend).double()
        features = torch.from_numpy(np.random.default_rng(9).normal(size=(20, 5))).requires_grad_()
        out = layer(features, graph)
        out.square().sum().backward()
        results.append([out.detach(), features.grad, *[p.grad for p in layer.parameters()]])
    for native, plain in zip(*results, strict=True):
        torch.testing.assert_close(native, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_results_are_the_same_to_the_bit_for_any_number_of_threads(dropout: float) -> None:
    rng = np.random.default_rng(3)
    graph = _graph(rng, rows=20_000, targets=15_000, edges=200_000, kinds=(np.uint64, np.uint32))
    features = torch.from_numpy(rng.normal(size=(20_000, 20)).astype(np.float32))
    layer = _layer(6, 20, 12, heads=3, dropout=dropout, activation="elu")
    before = _native.num_threads(), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            _native.set_num_threads(threads)
            torch.set_num_threads(threads)
            given = features.clone().requires_grad_()
            layer.zero_grad()
            out, attention = layer(given, graph, key=9, return_attention=True)
            out.square().sum().backward()
            results.append(
                [out, attention, given.grad, *[p.grad.clone() for p in layer.parameters()]]
            )
    finally:
        _native.set_num_threads(before[0])
        torch.set_num_threads(before[1])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_nodes_without_neighbours_get_the_bias() -> None:
    layer = _layer(1, 3, 4, heads=2)
    graph = EdgeGraph(np.array([0, 0, 1, 1]), np.array([2]), rows=3)
    features = torch.randn(3, 3, requires_grad=True)
    out = layer(features, graph)
    assert torch.equal(out[0], layer.bias)
    assert torch.equal(out[2], layer.bias)
    torch.testing.assert_close(out[1], (features[2] @ layer.weight.flatten(1)) + layer.bias)
    out[0].sum().backward()
    assert not features.grad.any()
    nothing = EdgeGraph(np.array([0]), np.array([], np.uint32), rows=0)
    empty = layer(torch.zeros(0, 3, requires_grad=True), nothing)
    assert empty.shape == (0, 8)
    empty.sum().backward()


def test_large_logits_do_not_overflow() -> None:
    layer = _layer(1, 2, 3, heads=2)
    graph = EdgeGraph(np.array([0, 3]), np.array([0, 1, 2]), rows=3)
    features = torch.tensor([[1e4, 3.0], [-1e4, 2.0], [2e4, 1.0]], requires_grad=True)
    out, attention = layer(features, graph, return_attention=True)
    assert torch.isfinite(out).all()
    torch.testing.assert_close(attention.sum(0), torch.ones(2))
    out.sum().backward()
    assert torch.isfinite(features.grad).all()


def test_a_node_with_many_neighbours_and_many_heads() -> None:
    # More edges of a target, and of a source, than are worked on at once.
    rng = np.random.default_rng(0)
    edges = 3000
    graph = EdgeGraph(np.array([0, edges, edges + 500]), rng.integers(0, 3, edges + 500), rows=4)
    for heads in (1, 40, 300):
        results = []
        for backend in ("native", "torch"):
            layer = _layer(2, 3, 2, heads=heads, backend=backend, dropout=0.2).double()
            x = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 3))).requires_grad_()
            out, attention = layer(x, graph, key=3, return_attention=True)
            out.square().sum().backward()
            results.append([out.detach(), attention, x.grad, layer.weight.grad, layer.target.grad])
        for native, plain in zip(*results, strict=True):
            torch.testing.assert_close(native, plain, rtol=1e-9, atol=1e-9)


def test_nan_is_not_hidden() -> None:
    layer = _layer(1, 2, 3)
    graph = EdgeGraph(np.array([0, 2, 3]), np.array([0, 1, 1]), rows=2)
    out = layer(torch.tensor([[float("nan"), 1.0], [1.0, 1.0]]), graph)
    assert torch.isnan(out[0]).all()


def test_memory_that_is_not_contiguous() -> None:
    rng = np.random.default_rng(1)
    graph = _graph(rng, rows=9, targets=9, edges=40)
    layer = _layer(2, 4, 3, heads=2)
    wide = torch.from_numpy(rng.normal(size=(4, 9)).astype(np.float32))
    strided = np.repeat(graph.sources, 2)[::2]
    again = EdgeGraph(np.repeat(graph.offsets, 2)[::2], strided, rows=9)
    assert torch.equal(layer(wide.t(), graph), layer(wide.t().contiguous(), again))
    out = layer(wide.t(), graph)
    (gradient,) = torch.autograd.grad(out, layer.weight, torch.ones(18, 9)[::2, :6][:, :6])
    (same,) = torch.autograd.grad(layer(wide.t(), graph), layer.weight, torch.ones(9, 6))
    assert torch.equal(gradient, same)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    graph = EdgeGraph(np.arange(20_001), np.zeros(20_000, np.int64), rows=20_000)
    layer = _layer(1, 1, 1, heads=2, dropout=0.25, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    ones = torch.ones(20_000, 1)
    torch.manual_seed(4)
    first, second = layer(ones, graph), layer(ones, graph)
    assert not torch.equal(first, second)
    torch.manual_seed(4)
    assert torch.equal(first, layer(ones, graph))
    assert first.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert first.mean().item() == pytest.approx(1.0, abs=0.02)
    layer.eval()
    assert torch.equal(layer(ones, graph), torch.ones(20_000, 2))


def test_a_layer_of_a_sample_is_made_ready_once() -> None:
    layer = Layer(np.array([0, 2, 3]), np.array([2, 1, 0]), np.arange(3), first=1)
    ready = EdgeGraph.of(layer, 3)
    assert EdgeGraph.of(layer, 3) is ready
    assert ready.target_rows().tolist() == [1, 2]
    assert ready.sources is layer.sources  # no copy
    assert EdgeGraph.of(layer, 5) is not ready
    with pytest.raises(InvalidArgumentError, match="features have 4 rows and the graph 3"):
        EdgeGraph.of(ready, 4)


@pytest.mark.parametrize(
    ("offsets", "sources", "options", "message"),
    [
        ([], [], {}, "offsets: expected at least one number"),
        ([0, 2], [0], {}, "offsets: expected to go from 0 to 1, the number of sources"),
        ([0, 2, 1], [0], {}, "offset 2 is 1, below 2 before it"),
        ([0, -1, 1], [0], {}, r"offsets\[1\] is -1; expected numbers from 0 on"),
        ([0, 1], [-5], {}, r"sources\[0\] is -5; expected numbers from 0 on"),
        ([0, 1], [4], {}, "edge 0 comes from row 4; there are 4 rows"),
        ([0, 1], [0], {"first": 4}, "targets: 1 from row 4 on; there are 4 rows"),
        ([0, 1], [0], {"targets": np.array([9], np.int32)}, "target 0 is row 9"),
        ([[0, 1]], [0], {}, "offsets is an array of int64 and shape"),
        ([0.0, 1.0], [0], {}, "offsets is an array of float64"),
    ],
)
def test_bad_graphs_are_refused(offsets, sources, options, message: str) -> None:
    offsets = np.array(offsets, None if offsets else np.int64)
    with pytest.raises(InvalidArgumentError, match=message):
        EdgeGraph(offsets, np.array(sources, np.int64), rows=4, **options)


def test_bad_arguments_are_refused() -> None:
    graph = EdgeGraph(np.array([0, 1]), np.array([1]), rows=2)
    layer = GraphAttention(3, 2)
    for features, message in (
        (torch.ones(2, 4), r"shape \(2, 4\); expected \(rows, 3\)"),
        (torch.ones(6), r"shape \(6,\)"),
        (torch.ones(2, 3).double(), "float64 and weights torch.float32"),
        (torch.ones(2, 3).half(), "float16"),
        (torch.ones(3, 3), "features have 3 rows and the graph 2"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            layer(features, graph)
    for options, message in (
        ({"heads": 0}, "heads is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"negative_slope": -0.1}, "negative_slope is -0.1"),
        ({"negative_slope": float("nan")}, "negative_slope is nan"),
        ({"backend": "dgll"}, "expected one of 'native', 'torch', 'dgl', 'pyg'"),
        ({"activation": "relu"}, "activation is 'relu'"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            GraphAttention(3, 2, **options)


def test_it_learns() -> None:
    """Two layers tell apart communities that the features alone do not show."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 40)
    ends = [rng.choice(np.flatnonzero(labels == label), 6) for label in labels]
    graph = EdgeGraph(np.arange(0, 721, 6), np.concatenate(ends), rows=120)
    features = np.zeros((120, 8), np.float32)
    features[:, :3] = np.eye(3)[labels]
    features[rng.random(120) < 0.7, :3] = 0
    features[:, 3:] = rng.normal(size=(120, 5))
    torch.manual_seed(0)
    first = GraphAttention(8, 8, heads=4, dropout=0.2, activation="elu")
    second = GraphAttention(32, 3)
    optimiser = torch.optim.Adam([*first.parameters(), *second.parameters()], lr=0.02)
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(second(first(x, graph), graph), y)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    first.eval()
    assert losses[-1] < 0.3 * losses[0]
    assert (second(first(x, graph), graph).argmax(1) == y).float().mean() > 0.9


def test_gradients_of_gradients_are_refused_rather_than_wrong():
    graph = EdgeGraph(np.array([0, 2, 3]), np.array([1, 2, 0]), rows=3)
    layer = GraphAttention(3, 4, heads=2)
    features = torch.ones(3, 3, requires_grad=True)
    found = layer(features, graph)
    with pytest.raises(InvalidArgumentError, match='backend="torch"'):
        torch.autograd.grad(found.sum(), features, create_graph=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weight": torch.ones(3, 2)}, r"weight is a tensor of shape \(3, 2\); expected"),
        ({"source": torch.ones(2)}, r"source is a tensor of shape \(2,\); expected .*\(1, 2\)"),
        ({"target": torch.ones(1, 2).double()}, "target is torch.float64 on cpu and weight"),
        ({"bias": torch.ones(3)}, r"bias is a tensor of shape \(3,\); expected .*\(2,\)"),
        ({"bias": [1, 2]}, "bias is a list"),
        ({"key": -1}, "key is -1; expected a whole number from 0"),
        ({"key": 1.5}, "key is 1.5"),
        ({"activation": "relu"}, "activation is 'relu'; expected 'none' or 'elu'"),
        ({"factors": torch.ones(3, 3)}, r"factors are .* of shape \(3, 3\); .* shape \(2, 1\)"),
        (
            {"features": torch.ones(4, 3).to_sparse()},
            "of layout torch.sparse_coo; expected a dense",
        ),
        ({"features": np.ones((4, 3))}, "features are a ndarray"),
        ({"edges": 5}, "edges is a int; expected a Graph"),
    ],
)
def test_odd_arguments_are_named(given, message):
    graph = EdgeGraph(np.array([0, 2]), np.array([1, 2]), rows=4)
    one = torch.ones(1, 2)
    whole = {"features": torch.ones(4, 3), "edges": graph, "weight": torch.ones(3, 1, 2)}
    whole |= {"source": one, "target": one} | given
    with pytest.raises(InvalidArgumentError, match=message):
        attend(whole.pop("features"), whole.pop("edges"), **whole)


def test_a_whole_sample_is_no_layer():
    sample = NeighbourSampler(Graph.from_edges([1, 2], [0, 0]), [2]).sample([0])
    with pytest.raises(InvalidArgumentError, match=r"edges is a Sample; .*give one of its layers"):
        GraphAttention(3, 2)(torch.ones(3, 3), sample)


def test_edges_that_are_ready_pickle():
    graph = EdgeGraph(np.array([0, 2]), np.array([1, 2]), rows=4, targets=np.array([3], np.uint32))
    again = pickle.loads(pickle.dumps(graph))
    layer, features = GraphAttention(3, 2), torch.randn(4, 3)
    assert torch.equal(layer(features, again), layer(features, graph))
