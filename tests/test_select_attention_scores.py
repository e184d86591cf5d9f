"""What is made of the attention: aggregations, confidence, memory-mapped input, other devices."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from mbflow.errors import InvalidArgumentError
from mbflow.select import Graph, attention_scores, coverage_weights, encode_labels, hash_graph

torch = pytest.importorskip("torch", reason="needs the extra `train`")
from mbflow.select import aggregation, attention_training, gat, subgraph  # noqa: E402 - torch

RAGGED = [[1, 2], [0], [], [0, 1, 2, 4], [3], [4, 0]]


def graph_of(lists):
    offsets, neighbours = oracles.ragged(lists)
    return Graph(offsets, neighbours, np.ones(len(neighbours), np.float32), {})


def blobs(rows=240, seed=0, classes=3):
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    features = rng.standard_normal((rows, 4)) + 2.0 * np.eye(classes, 4)[labels]
    return features.astype(np.float32), labels


@pytest.fixture(autouse=True)
def one_torch_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def trained(monkeypatch):
    """The networks that were made."""
    made = []

    class Kept(gat.Network):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings)
            made.append(self)

    monkeypatch.setattr(gat, "Network", Kept)
    return made


def weights_of(layer):
    return [tuple(weight.detach().numpy() for weight in head) for head in layer.heads]


def both_layers(network, features, lists):
    first = oracles.attention_layer(features, lists, weights_of(network._first))
    middle = oracles.elu(np.concatenate([outputs for outputs, _ in first], axis=1))
    return first, oracles.attention_layer(middle, lists, weights_of(network._second))


def weighed(parts, by):
    """Several coefficients of each slot of one target as one, by loops."""
    if by == "max":
        return [max(values) for values in zip(*parts, strict=True)]
    weights = [1.0] * len(parts)
    if by == "entropy":
        for place, part in enumerate(parts):
            shares = [value / sum(part) for value in part]
            entropy = -sum(share * math.log(share) for share in shares if share > 0)
            even = math.log(len(part)) if len(part) > 1 else 1.0
            weights[place] = (1.0 - entropy / even if len(part) > 1 else 0.0) + 1e-6
    return [
        sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)
        for values in zip(*parts, strict=True)
    ]


@pytest.mark.parametrize("within_class", [False, True])
@pytest.mark.parametrize(
    ("heads_by", "layers_by"),
    [
        ("mean", "last"),
        ("max", "last"),
        ("entropy", "last"),
        ("mean", "mean"),
        ("max", "max"),
        ("entropy", "entropy"),
        ("max", "entropy"),
    ],
)
def test_scores_agree_with_loops_over_heads_layers_and_edges(
    trained, heads_by, layers_by, within_class
):
    features = np.random.default_rng(4).standard_normal((6, 4)).astype(np.float32)
    labels = np.array([0, 1, 0, 1, 0, 1])
    result = attention_scores(
        features,
        labels,
        graph_of(RAGGED),
        epochs=5,
        held_out=0.0,
        learning_rate=0.5,
        heads_by=heads_by,
        layers_by=layers_by,
        within_class=within_class,
    )
    layers = both_layers(trained[0], features, RAGGED)
    expected = np.zeros(6)
    for target, neighbours in enumerate(RAGGED):
        slots = [target, *neighbours]
        edges = [
            weighed([[parts[target, s] for s in slots] for _, parts in layer], heads_by)
            for layer in layers
        ]
        given_out = edges[1] if layers_by == "last" else weighed(edges, layers_by)
        for source, value in zip(slots[1:], given_out[1:], strict=True):
            if not within_class or labels[source] == labels[target]:
                expected[source] += value
    np.testing.assert_allclose(result.scores, expected, rtol=2e-4, atol=1e-5)


def test_confidence_prediction_and_disagreement_agree_with_loops(trained):
    features = np.random.default_rng(5).standard_normal((6, 4)).astype(np.float32)
    labels = ["b", "a", "c", "a", "c", "b"]
    result = attention_scores(
        features, labels, graph_of(RAGGED), epochs=4, held_out=0.0, learning_rate=0.5, seed=2
    )
    _, second = both_layers(trained[0], features, RAGGED)
    logits = np.mean([outputs for outputs, _ in second], axis=0)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    codes = encode_labels(labels).codes
    np.testing.assert_allclose(result.confidence, shares[np.arange(6), codes], rtol=1e-4)
    assert result.predicted.tolist() == shares.argmax(axis=1).tolist()
    votes = [outputs.argmax(axis=1) for outputs, _ in second]
    pairs = [(i, j) for i in range(4) for j in range(i)]
    differ = np.mean([votes[i] != votes[j] for i, j in pairs], axis=0)
    np.testing.assert_allclose(result.disagreement, differ, rtol=1e-6)
    assert (result.confidence.dtype, result.predicted.dtype) == (np.float32, np.int32)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(0, 99), st.booleans())
def test_mean_and_entropy_keep_incoming_sums_and_max_is_at_least_each(
    heads, targets, slots, seed, ragged
):
    rng = np.random.default_rng(seed)
    unused = None
    logits = torch.from_numpy(rng.normal(0, 4, (heads, targets, slots)).astype(np.float32))
    if ragged:
        marks = rng.random((targets, slots)) < 0.5
        marks[:, 0] = False
        unused = torch.from_numpy(marks)
        logits = logits.masked_fill(unused, -torch.inf)
    coefficients = torch.softmax(logits, dim=2)
    for by in ("mean", "entropy"):
        sums = aggregation.aggregate(coefficients, unused, by).sum(dim=1).numpy()
        np.testing.assert_allclose(sums, 1.0, rtol=1e-5)
    largest = aggregation.aggregate(coefficients, unused, "max")
    assert bool((largest >= coefficients).all())
    kept = aggregation.concentration(coefficients, unused).numpy()
    assert ((kept >= 0) & (kept <= 1)).all()


def test_a_head_that_chooses_outweighs_one_that_does_not():
    even, sharp = [0.25] * 4, [0.97, 0.01, 0.01, 0.01]
    parts = torch.tensor([[even], [sharp]])
    by_entropy = aggregation.aggregate(parts, None, "entropy")[0, 0]
    assert float(by_entropy) > 0.96 > 0.62 > float(aggregation.aggregate(parts, None, "mean")[0, 0])


def test_within_class_gives_less_and_only_what_other_classes_gave():
    features, labels = blobs()
    graph = hash_graph(features, neighbours=6)
    settings = {"epochs": 5, "seed": 1}
    everything = attention_scores(features, labels, graph, **settings)
    own = attention_scores(features, labels, graph, within_class=True, **settings)
    assert (own.scores <= everything.scores + 1e-6).all()
    np.testing.assert_allclose(
        everything.own_class_share * everything.scores, own.scores, rtol=1e-5, atol=1e-6
    )
    assert np.array_equal(everything.own_class_share, own.own_class_share)
    alone = np.array(
        [
            all(labels[t] == labels[s] for t in np.flatnonzero(named.any(axis=1)))
            for s, named in (
                (s, (graph.neighbours.reshape(-1, 6) == s)) for s in range(len(labels))
            )
        ]
    )
    np.testing.assert_allclose(own.scores[alone], everything.scores[alone], rtol=1e-6)
    assert (own.scores[~alone] < everything.scores[~alone]).all()


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("batches", [{}, {"full_batch_rows": 50, "batch_rows": 40, "fanout": 3}])
def test_every_field_is_the_same_to_the_bit_for_any_number_of_threads(threads, batches):
    features, labels = blobs()
    graph = hash_graph(features, neighbours=6)
    settings = {
        "epochs": 4,
        "seed": 3,
        "heads_by": "entropy",
        "layers_by": "entropy",
        "feature_dropout": 0.1,
        **batches,
    }
    one = attention_scores(features, labels, graph, threads=1, **settings)
    many = attention_scores(features, labels, graph, threads=threads, **settings)
    for name in ("scores", "confidence", "disagreement", "predicted", "losses", "held_out_losses"):
        assert np.array_equal(getattr(one, name), getattr(many, name)), name


@pytest.mark.parametrize("batches", [{}, {"full_batch_rows": 50, "batch_rows": 40}])
def test_memory_mapped_input_gives_the_same(tmp_path, monkeypatch, batches):
    features, labels = blobs(rows=400)
    graph = hash_graph(features, neighbours=6)
    mapped = {}
    for name, values in (
        ("features", features),
        ("offsets", graph.offsets),
        ("neighbours", graph.neighbours),
    ):
        np.save(tmp_path / f"{name}.npy", values)
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    on_disk = Graph(mapped["offsets"], mapped["neighbours"], graph.distances, {})
    monkeypatch.setattr(gat, "_BLOCK_VALUES", 64)
    whole = attention_scores(features, labels, graph, epochs=3, **batches)
    parts = attention_scores(mapped["features"], labels, on_disk, epochs=3, **batches)
    assert np.array_equal(whole.scores, parts.scores)
    assert np.array_equal(whole.confidence, parts.confidence)


def test_a_step_gathers_what_it_needs_and_no_more():
    class Counted:
        def __init__(self, values):
            self.values, self.shape, self.most = values, values.shape, 0

        def __len__(self):
            return len(self.values)

        def __getitem__(self, key):
            taken = self.values[key]
            self.most = max(self.most, len(taken))
            return taken

    features, labels = blobs(rows=2000)
    graph = hash_graph(features, neighbours=6)
    counted = Counted(features)
    schedule = attention_training.Schedule(
        epochs=1, patience=1, learning_rate=0.1, full_batch_rows=1, batch_rows=10, fanout=2
    )

    def run(function, *items):
        return list(map(function, *items))

    network = gat.Network(
        4, 3, heads=2, hidden=3, feature_dropout=0.0, attention_dropout=0.0, seed=0, run=run
    )
    attention_training.train(
        network,
        counted,
        graph,
        labels,
        rows=np.arange(2000),
        watched=np.arange(5),
        schedule=schedule,
        run=run,
    )
    assert 0 < counted.most <= max(10 * 3 * 3, 5 * 7 * 7)


def test_the_path_of_other_devices_gives_the_same_training(monkeypatch):
    features, labels = blobs()
    graph = hash_graph(features, neighbours=6)
    settings = {"epochs": 6, "seed": 5, "full_batch_rows": 50, "batch_rows": 40, "fanout": 3}
    ours = attention_scores(features, labels, graph, device="cpu", **settings)

    class Plain(gat.Network):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings, plain=True)

    def refuse(*_, **__):
        raise AssertionError("the plain path went through the CPU's own layer")

    monkeypatch.setattr(gat, "Network", Plain)
    monkeypatch.setattr(gat, "attend", refuse)
    monkeypatch.setattr(torch.nn.functional, "embedding_bag", refuse)
    plain = attention_scores(features, labels, graph, device="cpu", **settings)
    np.testing.assert_allclose(plain.losses, ours.losses, rtol=1e-5)
    np.testing.assert_allclose(plain.scores, ours.scores, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(plain.confidence, ours.confidence, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_nearly_the_same_scores():
    features, labels = blobs()
    graph = hash_graph(features, neighbours=6)
    ours = attention_scores(features, labels, graph, device="cpu", epochs=6)
    other = attention_scores(features, labels, graph, device="cuda", epochs=6)
    np.testing.assert_allclose(other.scores, ours.scores, rtol=1e-3, atol=1e-3)


def test_a_missing_gpu_and_wrong_choices_are_refused(monkeypatch):
    features, labels = blobs(rows=12)
    graph = hash_graph(features, neighbours=2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for wrong, message in (
        ({"device": "cuda"}, 'device is "cuda" and torch finds none'),
        ({"device": "tpu"}, "device is 'tpu'; expected one of 'auto', 'cpu', 'cuda'"),
        ({"heads_by": "last"}, "heads_by is 'last'; expected one of 'mean', 'max', 'entropy'"),
        ({"layers_by": "sum"}, "layers_by is 'sum'; expected one of 'last', 'mean'"),
        ({"fanout": 0}, "fanout is 0; expected a whole number from 1"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            attention_scores(features, labels, graph, **wrong)


def test_a_draw_names_neighbours_of_the_row_each_once():
    lists = [[*range(1, 9)], [0], [], [5, 6, 7, 8], [1, 2, 3], [], [], [0, 1, 2, 3, 4], [7]]
    offsets, neighbours = oracles.ragged(lists)
    rows = np.array([0, 3, 2, 7, 1])
    seen = set()
    for key in range(60):
        table, unused = subgraph.dense_table(offsets, neighbours, rows, fanout=3, key=key)
        assert table.shape == (5, 4)
        for place, row in enumerate(rows):
            drawn = [
                int(value)
                for slot, value in enumerate(table[place])
                if slot > 0 and not unused[place, slot]
            ]
            assert len(set(drawn)) == len(drawn) == min(3, len(lists[row]))
            assert set(drawn) <= set(lists[row])
            seen |= {(int(row), value) for value in drawn}
        again, _ = subgraph.dense_table(offsets, neighbours, rows, fanout=3, key=key)
        assert np.array_equal(table, again)
    assert seen == {(int(row), value) for row in rows for value in lists[row]}


def test_few_and_many_named_rows_are_numbered_alike():
    rng = np.random.default_rng(0)
    table = rng.integers(0, 1000, (20, 3)).astype(np.int32)
    few, few_local = subgraph.renumbered(table, 1000)
    many, many_local = subgraph.renumbered(table, 100_000)
    assert np.array_equal(few, many)
    assert np.array_equal(few_local, many_local)
    assert few_local.dtype == many_local.dtype == np.int32


def test_wide_features_make_steps_smaller():
    schedule = attention_training.Schedule(
        epochs=1, patience=1, learning_rate=0.1, full_batch_rows=4096
    )
    assert schedule.full_batch(rows=4096, columns=64)
    assert schedule.full_batch(rows=4096, columns=4096)
    assert not schedule.full_batch(rows=4096, columns=65_536)
    assert schedule.rows_of_a_step(columns=4096) * 36 * 4096 <= 33_554_432
    assert schedule.rows_of_a_step(columns=10**9) == 1


def test_wide_one_hot_columns_are_told_apart():
    codes = np.random.default_rng(0).integers(0, 4096, 1200)
    features = np.zeros((1200, 4097), np.float32)
    features[np.arange(1200), codes] = 1.0
    labels = (codes % 2).astype(np.int64)
    features[:, 4096] = labels + 0.1 * np.random.default_rng(1).standard_normal(1200)
    graph = hash_graph(features[:, 4096:], neighbours=5)
    attention = attention_scores(
        features, labels, graph, epochs=6, full_batch_rows=100, learning_rate=0.05
    )
    assert attention.held_out_accuracy > 0.9
    assert any("4 steps over 227 of 1080 training rows" in note for note in attention.notes)


def test_rows_in_the_wrong_place_count_little_in_coverage():
    features, labels = blobs(rows=300)
    features = features * np.float32(3.0)
    wrong = np.arange(0, 30, 3)
    given = labels.copy()
    given[wrong] = (labels[wrong] + 1) % 3
    graph = hash_graph(features, neighbours=8)
    attention = attention_scores(features, given, graph, epochs=60, learning_rate=0.02)
    weights = coverage_weights(attention)
    assert weights.dtype == np.float64
    assert (weights > 0).all()
    assert weights[wrong].mean() < 0.6 * np.delete(weights, wrong).mean()
    expected = math.sqrt(attention.own_class_share[7] + 0.05)
    assert weights[7] == pytest.approx(expected, rel=1e-6)
