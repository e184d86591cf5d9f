"""Graph attention: the layer against loops, gradients, training, and what scores mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import oracles
from mbflow.errors import DataError, InvalidArgumentError, MissingExtraError
from mbflow.select import Graph, attention_scores, hash_graph
from mbflow.training import keep_mask, ordered_tasks

torch = pytest.importorskip("torch", reason="needs the extra `train`")
from mbflow.select import attention_training, gat, subgraph  # noqa: E402 - imports torch

RAGGED = [[1, 2], [0], [], [0, 1, 2, 4], [3], [4, 0]]


def graph_of(lists):
    offsets, neighbours = oracles.ragged(lists)
    return Graph(offsets, neighbours, np.ones(len(neighbours), np.float32), {})


def network(width, classes, *, dropout=0.0, seed=0, run=lambda *task: list(map(*task))):
    return gat.Network(
        width,
        classes,
        heads=3,
        hidden=2,
        feature_dropout=dropout,
        attention_dropout=dropout,
        seed=seed,
        run=run,
    )


def arrays(heads):
    return [tuple(weight.detach().numpy() for weight in head) for head in heads]


def by_loops(net, features, lists):
    """Logits and last-layer coefficients of all rows by the oracle."""
    first = oracles.attention_layer(features, lists, arrays(net._first.heads))
    middle = oracles.elu(np.concatenate([outputs for outputs, _ in first], axis=1))
    second = oracles.attention_layer(middle, lists, arrays(net._second.heads))
    logits = np.mean([outputs for outputs, _ in second], axis=0)
    edges = second[0][1].keys()
    return logits, {e: np.mean([parts[e] for _, parts in second]) for e in edges}


@pytest.fixture(autouse=True)
def one_torch_thread():
    """Tiny tensors are slower on many threads; tests of threads set their own number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def two_moons(rows=300, seed=0):
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, np.pi, rows)
    labels = np.arange(rows) % 2
    features = np.stack([np.cos(angle) + labels, np.sin(angle) * (1 - 2 * labels)], axis=1)
    features += 0.1 * rng.standard_normal(features.shape)
    return features.astype(np.float32), labels


@pytest.mark.parametrize("lists", [RAGGED, [[1, 2], [2, 0], [0, 1]], [[], []]])
def test_both_layers_agree_with_loops(lists):
    features = np.random.default_rng(1).standard_normal((len(lists), 4)).astype(np.float32)
    net = network(4, 3)
    graph = graph_of(lists)
    rows = np.arange(len(lists))
    around = subgraph.Subgraph.around(graph.offsets, graph.neighbours, rows)
    logits, _ = by_loops(net, features, lists)
    np.testing.assert_allclose(net.logits(features, around).numpy(), logits, rtol=1e-4, atol=1e-6)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_part_of_a_random_graph_agrees_with_loops_over_all_of_it(data):
    count = data.draw(st.integers(2, 9))
    lists = [
        data.draw(st.lists(st.integers(0, count - 1).filter(lambda j, i=i: j != i), unique=True))
        for i in range(count)
    ]
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1))))
    features = np.random.default_rng(count).standard_normal((count, 3)).astype(np.float32)
    net = network(3, 2, seed=count)
    around = subgraph.Subgraph.around(*oracles.ragged(lists), rows)
    logits, _ = by_loops(net, features, lists)
    np.testing.assert_allclose(
        net.logits(features, around).numpy(), logits[rows], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("lists", [RAGGED, [[1, 2], [2, 0], [0, 1]]])
def test_gradients_agree_with_differences(lists):
    features = np.random.default_rng(2).standard_normal((len(lists), 4)).astype(np.float32)
    labels = torch.arange(len(lists)) % 3
    net = network(4, 3)
    around = subgraph.Subgraph.around(*oracles.ragged(lists), np.arange(len(lists)))

    def loss(logits):
        return torch.nn.functional.cross_entropy(logits, labels)

    net.step(torch.from_numpy(features)[around.inputs], around, loss, step=0)
    for weight in net.weights:
        grad = weight.grad.clone()
        estimate = torch.empty_like(grad)
        with torch.no_grad():
            flat, out = weight.view(-1), estimate.view(-1)
            for index in range(len(flat)):
                start = float(flat[index])
                values = []
                for step in (1e-2, -1e-2):
                    flat[index] = start + step
                    values.append(float(loss(net.logits(features, around))))
                flat[index] = start
                out[index] = (values[0] - values[1]) / 2e-2
        torch.testing.assert_close(grad, estimate, rtol=2e-2, atol=2e-3)


def test_gradients_with_dropout_agree_with_autograd_on_the_same_masks():
    features = np.random.default_rng(3).standard_normal((6, 4)).astype(np.float32)
    around = subgraph.Subgraph.around(*oracles.ragged(RAGGED), np.array([0, 2, 3, 5]))
    assert around.first.unused is not None
    labels = torch.arange(4) % 3
    settings = {"heads": 3, "hidden": 5, "feature_dropout": 0.3, "attention_dropout": 0.5}
    results = []
    for plain in (False, True):
        run = lambda *task: list(map(*task))  # noqa: E731
        net = gat.Network(4, 3, **settings, seed=1, run=run, plain=plain)
        loss = net.step(
            torch.from_numpy(features)[around.inputs],
            around,
            lambda logits: torch.nn.functional.cross_entropy(logits, labels),
            step=2,
        )
        results.append([torch.tensor(loss), *[weight.grad for weight in net.weights]])
    assert any(grad.any() for grad in results[0][1:])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_incoming_coefficients_add_up_to_one_and_scores_are_outgoing_sums():
    features = np.random.default_rng(4).standard_normal((6, 4)).astype(np.float32)
    graph = graph_of(RAGGED)
    labels = [0, 1, 0, 1, 0, 1]
    made = []

    class Kept(gat.Network):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gat, "Network", Kept)
        attention = attention_scores(
            features, labels, graph, epochs=4, held_out=0.0, learning_rate=0.5, seed=3
        )
    _, coefficients = by_loops(made[0], features, RAGGED)
    incoming, given_out = np.zeros(6), np.zeros(6)
    for (target, source), value in coefficients.items():
        incoming[target] += value
        if source != target or source in RAGGED[target]:
            given_out[source] += value
    np.testing.assert_allclose(incoming, 1.0, rtol=1e-12)
    # Row 5 lists itself nowhere; only slot 0, the row itself, is left out of the sum.
    expected = np.zeros(6)
    for target, sources in enumerate(RAGGED):
        for source in sources:
            expected[source] += coefficients[target, source]
    np.testing.assert_allclose(attention.scores, expected, rtol=1e-4, atol=1e-6)
    assert attention.scores.dtype == np.float32
    assert attention.degrees.tolist() == [3, 2, 2, 1, 2, 0]
    assert attention.scores[5] == 0.0


def test_scores_say_more_than_degree():
    features, labels = two_moons()
    attention = attention_scores(features, labels, hash_graph(features), epochs=60)
    assert attention.degree_correlation < 0.999
    order = np.argsort(-attention.scores, kind="stable")[:30]
    by_degree = np.argsort(-attention.degrees, kind="stable")[:30]
    assert set(order) != set(by_degree)
    expected = np.corrcoef(attention.scores, attention.degrees)[0, 1]
    assert attention.degree_correlation == pytest.approx(expected, abs=1e-6)


def test_it_learns():
    features, labels = two_moons()
    attention = attention_scores(features, labels, hash_graph(features), epochs=100)
    assert attention.losses[-1] < 0.3 * attention.losses[0]
    assert attention.held_out_accuracy > 0.9
    assert len(attention.held_out_losses) == len(attention.losses)


def test_the_best_weights_are_used_not_the_last():
    features, labels = two_moons(120)
    graph = hash_graph(features)
    settings = {"learning_rate": 0.3, "patience": 6, "seed": 5, "held_out": 0.2}
    stopped = attention_scores(features, labels, graph, epochs=200, **settings)
    assert len(stopped.losses) == stopped.best_epoch + 1 + 6
    assert stopped.best_epoch == int(np.argmin(stopped.held_out_losses))
    until_best = attention_scores(
        features, labels, graph, epochs=stopped.best_epoch + 1, **settings
    )
    beyond = attention_scores(
        features, labels, graph, epochs=len(stopped.losses), **{**settings, "patience": 999}
    )
    assert np.array_equal(stopped.scores, until_best.scores)
    assert np.array_equal(stopped.scores, beyond.scores)


def test_labels_of_held_out_rows_touch_neither_weights_nor_scores():
    from mbflow.select import stratified_split

    features, labels = two_moons(200)
    graph = hash_graph(features)
    _, held = stratified_split(labels, test_fraction=0.3, seed=2)
    changed = labels.copy()
    # Two rows of different classes swap labels: the split, which goes by class, must not move.
    zero, one = (held[labels[held] == name] for name in (0, 1))
    pairs = min(len(zero), len(one))
    changed[zero[:pairs]], changed[one[:pairs]] = 1, 0
    codes = []
    for given_labels in (labels, changed):
        from mbflow.select import attention

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                attention,
                "stratified_split",
                lambda *_, **__: stratified_split(labels, test_fraction=0.3, seed=2),
            )
            codes.append(
                attention_scores(features, given_labels, graph, epochs=1, held_out=0.3, seed=2)
            )
    assert np.array_equal(codes[0].scores, codes[1].scores)
    assert codes[0].losses == codes[1].losses
    assert codes[0].held_out_losses != codes[1].held_out_losses


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_any_number_of_threads_gives_the_same_bits(threads):
    features, labels = two_moons(400)
    graph = hash_graph(features)
    before = torch.get_num_threads()
    settings = {"epochs": 8, "seed": 7, "feature_dropout": 0.2}
    one = attention_scores(features, labels, graph, threads=1, **settings)
    torch.set_num_threads(threads)
    try:
        many = attention_scores(features, labels, graph, threads=threads, **settings)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(one.scores, many.scores)
    assert one.losses == many.losses
    assert one.held_out_losses == many.held_out_losses


def test_the_seed_matters_and_torch_random_state_does_not():
    features, labels = two_moons(100)
    graph = hash_graph(features)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    one = attention_scores(features, labels, graph, epochs=3, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    again = attention_scores(features, labels, graph, epochs=3, seed=1)
    other = attention_scores(features, labels, graph, epochs=3, seed=2)
    assert np.array_equal(one.scores, again.scores)
    assert not np.array_equal(one.scores, other.scores)


def test_mini_batches_learn_and_do_not_depend_on_threads():
    features, labels = two_moons(600)
    graph = hash_graph(features)
    settings = {"epochs": 60, "full_batch_rows": 100, "batch_rows": 64, "fanout": 4, "seed": 1}
    one = attention_scores(features, labels, graph, threads=1, **settings)
    two = attention_scores(features, labels, graph, threads=2, **settings)
    assert one.held_out_accuracy > 0.9
    assert "each epoch is 4 steps over 64 of 540 training rows" in one.notes
    assert np.array_equal(one.scores, two.scores)


def test_blocks_of_the_last_pass_leave_scores_as_they_are(monkeypatch):
    features, labels = two_moons(200)
    graph = hash_graph(features, neighbours=5)
    whole = attention_scores(features, labels, graph, epochs=3)
    monkeypatch.setattr(attention_training, "_PASS_ROWS", 37)
    monkeypatch.setattr(gat, "_BLOCK_VALUES", 50)
    monkeypatch.setattr(gat, "_BLOCK", 11)
    parts = attention_scores(features, labels, graph, epochs=3)
    np.testing.assert_allclose(parts.scores, whole.scores, rtol=1e-5)


def test_the_loss_weighs_classes_equally():
    rng = np.random.default_rng(0)
    labels = np.array([0] * 95 + [1] * 5)
    features = rng.standard_normal((100, 2)).astype(np.float32)
    graph = hash_graph(features)
    attention = attention_scores(
        features, labels, graph, epochs=1, held_out=0.0, heads=3, hidden=2, attention_dropout=0.0
    )
    around = subgraph.Subgraph.around(graph.offsets, graph.neighbours, np.arange(100))
    logits = network(2, 2).logits(features, around).numpy().astype(np.float64)
    surprise = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(100), labels]
    by_class = [surprise[labels == name].mean() for name in (0, 1)]
    assert attention.losses[0] == pytest.approx(np.mean(by_class), rel=1e-5)
    assert attention.losses[0] != pytest.approx(surprise.mean(), rel=1e-3)


def test_progress_is_told():
    features, labels = two_moons(60)
    seen = []
    attention = attention_scores(
        features,
        labels,
        hash_graph(features),
        epochs=3,
        on_progress=lambda *step: seen.append(step),
    )
    assert seen == [(i + 1, 3, loss) for i, loss in enumerate(attention.losses)]


def test_without_edges_scores_are_zero_and_correlation_is_undefined():
    attention = attention_scores(
        np.array([[0.0], [1.0]], np.float32), [0, 1], graph_of([[], []]), epochs=2, held_out=0.0
    )
    assert attention.scores.tolist() == [0.0, 0.0]
    assert attention.degree_correlation is None
    assert attention.held_out_accuracy is None
    assert attention.held_out_losses == ()
    assert any("training loss" in note for note in attention.notes)


def test_divergence_is_an_error():
    features, labels = two_moons(60)
    with (
        np.errstate(all="ignore"),
        pytest.raises(InvalidArgumentError, match=r"training diverged: .* use a lower one"),
    ):
        attention_scores(
            features * np.float32(1e30), labels, hash_graph(features), epochs=3, learning_rate=1e30
        )


def test_one_class_cannot_be_told_apart():
    features, _ = two_moons(10)
    with pytest.raises(DataError, match=r"all 10 labels are '7'; .* needs at least two"):
        attention_scores(features, [7] * 10, hash_graph(features))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 0}, "heads is 0; expected a whole number from 1 to 64"),
        ({"epochs": 0}, "epochs is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"hidden": 1.5}, "hidden is 1.5"),
        ({"held_out": 1.0}, "held_out is 1.0; expected at least 0 and below 1"),
        ({"attention_dropout": -0.1}, "attention_dropout is -0.1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; expected above 0"),
    ],
)
def test_settings_out_of_range(settings, message):
    features, labels = two_moons(10)
    with pytest.raises(InvalidArgumentError, match=message):
        attention_scores(features, labels, hash_graph(features), **settings)


def test_lengths_must_agree():
    features, labels = two_moons(10)
    graph = hash_graph(features)
    with pytest.raises(InvalidArgumentError, match="10 rows of features, 9 labels and a graph of"):
        attention_scores(features, labels[:9], graph)
    with pytest.raises(InvalidArgumentError, match="two dimensions"):
        attention_scores(features[:, 0], labels, graph)


def test_without_torch_the_error_names_the_extra(monkeypatch):
    import sys

    features, labels = two_moons(10)
    graph = hash_graph(features)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mbflow\[train\]'"):
        attention_scores(features, labels, graph)


def test_dropout_drops_the_share_and_keeps_the_mean():
    keep = keep_mask((500, 400), 0.25, 11)
    assert float((keep == 0).float().mean()) == pytest.approx(0.25, abs=0.005)
    assert float(keep.mean()) == pytest.approx(1.0, abs=0.005)
    assert len(keep.unique()) == 2
    assert not torch.equal(keep, keep_mask((500, 400), 0.25, 12))


def test_heads_are_combined_in_order_whichever_ends_first():
    import time

    with ordered_tasks(4) as run:
        result = run(lambda i: time.sleep(0.02 * (3 - i)) or i, range(4))
    assert result == [0, 1, 2, 3]
