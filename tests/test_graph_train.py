"""The training loop: what it learns, and that it goes on exactly where it was stopped."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graph_data import SlowBatches, compressed, dense, random_graph
from mbflow.errors import DataError, InvalidArgumentError

torch = pytest.importorskip("torch")

from mbflow.graph.checkpoint import read_checkpoint, write_checkpoint  # noqa: E402
from mbflow.graph.inference import infer  # noqa: E402
from mbflow.graph.models import GCN, GraphSAGE  # noqa: E402
from mbflow.graph.train import Schedule, WholeGraph, device_of, train  # noqa: E402

NODES, COLUMNS, CLASSES = 40, 6, 3


def example(seed: int = 0):
    """A graph, features that tell the classes apart a little, and the classes."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, NODES)
    features = draw.normal(size=(NODES, COLUMNS)).astype(np.float32)
    features[np.arange(NODES), labels] += 2.0
    return random_graph(NODES, 80, seed=seed), features, labels


def weights_of(model) -> list[np.ndarray]:
    return [weight.detach().numpy().copy() for weight in model.parameters()]


def trained(model, batches, *, graph, features, labels, **options):
    options.setdefault("schedule", Schedule(epochs=4, seed=3))
    options.setdefault("validation", np.arange(20, 30))
    outcome = train(
        model, graph, features=features, labels=labels, batches=batches, device="cpu", **options
    )
    return weights_of(model), outcome


@pytest.mark.parametrize("network", [GCN, GraphSAGE])
@pytest.mark.parametrize("layers", [1, 2])
def test_mini_batches_with_all_neighbours_train_as_the_whole_graph_does(network, layers) -> None:
    graph, features, labels = example()
    data = {"graph": graph, "features": features, "labels": labels}
    found = []
    for whole in (False, True):
        batches = SlowBatches(graph, np.arange(20), 7, fanouts=[-1] * layers, whole=whole)
        model = network(COLUMNS, CLASSES, layers=layers, dropout=0.0)
        before = weights_of(model)
        found.append(trained(model, batches, **data)[0])
        assert max(abs(a - b).max() for a, b in zip(before, found[-1], strict=True)) > 1e-3
    for mini, full in zip(*found, strict=True):
        np.testing.assert_allclose(mini, full, rtol=1e-5, atol=1e-5)


def test_one_batch_of_all_seeds_is_the_step_of_a_whole_graph() -> None:
    graph, features, labels = example()
    data = {"graph": graph, "features": features, "labels": labels}
    # In the order of the seeds, so that both losses are the same mean.
    seeds = np.arange(20)
    found = [
        trained(GCN(COLUMNS, CLASSES, dropout=0.0), batches, **data)[0]
        for batches in (
            SlowBatches(graph, seeds, 20, fanouts=[-1, -1]),
            WholeGraph(graph, seeds, layers=2),
        )
    ]
    for mini, full in zip(*found, strict=True):
        np.testing.assert_allclose(mini, full, rtol=1e-5, atol=1e-5)


def test_steps_are_those_of_dense_matrices_and_adam() -> None:
    graph, features, labels = example(2)
    seeds = np.arange(12)
    model = GCN(COLUMNS, CLASSES, hidden=5, dropout=0.0, seed=4)
    convolutions = [
        [weight.detach().double().clone().requires_grad_() for weight in one.parameters()]
        for one in model.convolutions
    ]
    schedule = Schedule(epochs=5, learning_rate=0.05, weight_decay=0.01)
    data = {"graph": graph, "features": features, "labels": labels}
    got, _ = trained(model, WholeGraph(graph, seeds, layers=2), schedule=schedule,
                     validation=None, **data)  # fmt: skip
    closed = dense(graph) + np.eye(NODES)
    root = np.diag(closed.sum(1) ** -0.5)
    matrix = torch.from_numpy(root @ closed @ root)
    x = torch.from_numpy(features).double()
    groups = [
        {"params": convolutions[0], "weight_decay": 0.01},
        {"params": convolutions[1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.Adam(groups, lr=0.05)
    (w0, b0), (w1, b1) = convolutions
    for _ in range(5):
        hidden = torch.relu(matrix @ x @ w0 + b0)
        logits = matrix @ hidden @ w1 + b1
        loss = torch.nn.functional.cross_entropy(logits[:12], torch.from_numpy(labels[:12]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for found, weight in zip(got, [w0, b0, w1, b1], strict=True):
        np.testing.assert_allclose(found, weight.detach(), rtol=1e-4, atol=1e-5)


def test_it_learns() -> None:
    graph, features, labels = example(1)
    model = GraphSAGE(COLUMNS, CLASSES, dropout=0.2)
    batches = SlowBatches(graph, np.arange(20), 10, fanouts=[3, 3])
    schedule = Schedule(epochs=40, learning_rate=0.02)
    outcome = train(
        model, graph, features=features, labels=labels, batches=batches, schedule=schedule,
        validation=np.arange(20, 30), device="cpu",
    )  # fmt: skip
    predicted = infer(model, graph, features=features).logits.argmax(1).numpy()
    assert (predicted[:20] == labels[:20]).mean() > 0.9
    assert outcome.epochs[-1].loss < outcome.epochs[0].loss / 2
    kept = outcome.epochs[outcome.kept_epoch]
    assert kept.validation_loss == min(e.validation_loss for e in outcome.epochs)
    assert outcome.validation_accuracy == (predicted[20:30] == labels[20:30]).mean()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A training with a copy of the checkpoint that a kill in each step would leave behind."""
    folder = tmp_path_factory.mktemp("checkpoints")
    graph, features, labels = example()
    data = {"graph": graph, "features": features, "labels": labels}
    batches = SlowBatches(graph, np.arange(20), 7, fanouts=[2, 3])
    place = folder / "now.pt"

    def keep(done: int, total: int, loss: float) -> None:
        # Called before the step is saved: what a kill would find is the step before.
        if place.exists():
            shutil.copy(place, folder / f"step-{done - 1:02d}.pt")

    schedule = Schedule(epochs=4, patience=3, seed=3, learning_rate=0.05)
    options = {"schedule": schedule, "checkpoint_seconds": 0.0, **data}
    weights, outcome = trained(
        GCN(COLUMNS, CLASSES), batches, checkpoint=place, on_progress=keep, **options
    )
    return weights, outcome, batches, options, folder


def test_every_step_leaves_a_checkpoint(stopped) -> None:
    folder = stopped[-1]
    assert len(sorted(folder.glob("step-*.pt"))) == 11
    assert not list(folder.glob(".tmp-*"))


@pytest.mark.parametrize("step", range(1, 12))
def test_a_training_killed_at_any_step_ends_with_the_same_weights(stopped, tmp_path, step) -> None:
    weights, outcome, batches, options, folder = stopped
    place = tmp_path / "a.pt"
    shutil.copy(folder / f"step-{step:02d}.pt", place)
    seen = []
    model = GCN(COLUMNS, CLASSES, seed=99)  # its first weights do not matter any more
    again, same = trained(
        model, batches, checkpoint=place, on_progress=lambda *at: seen.append(at[0]), **options
    )
    assert seen == list(range(step + 1, 13))
    assert same == outcome
    for one, other in zip(weights, again, strict=True):
        assert one.tobytes() == other.tobytes()


def test_a_finished_training_is_not_run_again(stopped) -> None:
    weights, outcome, batches, options, folder = stopped
    seen = []
    model = GCN(COLUMNS, CLASSES)
    again, same = trained(
        model,
        batches,
        checkpoint=folder / "now.pt",
        on_progress=lambda *at: seen.append(at),
        **options,
    )
    assert seen == []
    assert same == outcome
    assert all(a.tobytes() == b.tobytes() for a, b in zip(weights, again, strict=True))


def test_what_raises_between_steps_leaves_a_checkpoint(stopped, tmp_path) -> None:
    weights, _, batches, options, _ = stopped
    place = tmp_path / "a.pt"
    options = {**options, "checkpoint_seconds": 1e9, "checkpoint": place}

    def stop(done: int, total: int, loss: float) -> None:
        if done == 5:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        trained(GCN(COLUMNS, CLASSES), batches, on_progress=stop, **options)
    assert (read_checkpoint(place)["epoch"], read_checkpoint(place)["step"]) == (1, 2)
    again, _ = trained(GCN(COLUMNS, CLASSES), batches, **options)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(weights, again, strict=True))


def test_ctrl_c_leaves_a_checkpoint(stopped, tmp_path) -> None:
    weights, _, batches, options, _ = stopped
    place = tmp_path / "a.pt"
    options = {**options, "checkpoint_seconds": 1e9, "checkpoint": place}
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trained(
            GCN(COLUMNS, CLASSES), batches,
            on_progress=lambda done, *_: done == 4 and signal.raise_signal(signal.SIGINT),
            **options,
        )  # fmt: skip
    assert signal.getsignal(signal.SIGINT) is handler
    assert read_checkpoint(place)["step"] == 1
    again, _ = trained(GCN(COLUMNS, CLASSES), batches, **options)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(weights, again, strict=True))


_KILLED = """
import os, sys
sys.path.insert(0, sys.argv[1])
import numpy as np, test_graph_train as t
graph, features, labels = t.example()
batches = t.SlowBatches(graph, np.arange(20), 7, fanouts=[2, 3])
t.trained(
    t.GCN(t.COLUMNS, t.CLASSES), batches, graph=graph, features=features, labels=labels,
    schedule=t.Schedule(epochs=4, patience=3, seed=3, learning_rate=0.05),
    checkpoint=sys.argv[2], checkpoint_seconds=0.0,
    on_progress=lambda done, *_: done == 8 and os.kill(os.getpid(), 9),
)
"""


def test_a_killed_process_leaves_the_last_whole_checkpoint(stopped, tmp_path) -> None:
    weights, _, batches, options, _ = stopped
    place = tmp_path / "a.pt"
    tests = str(Path(__file__).parent)
    found = subprocess.run([sys.executable, "-c", _KILLED, tests, str(place)], check=False)
    assert found.returncode == -signal.SIGKILL
    again, _ = trained(GCN(COLUMNS, CLASSES), batches, checkpoint=place, **options)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(weights, again, strict=True))


def test_the_weights_do_not_depend_on_threads() -> None:
    graph, features, labels = example()
    data = {"graph": graph, "features": features, "labels": labels}
    batches = SlowBatches(graph, np.arange(20), 7, fanouts=[2, 3])
    before = torch.get_num_threads()
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(trained(GCN(COLUMNS, CLASSES), batches, threads=threads, **data))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert results[0][1] == results[1][1]
    for one, other in zip(results[0][0], results[1][0], strict=True):
        assert one.tobytes() == other.tobytes()


def test_patience_stops_and_the_best_weights_stay() -> None:
    graph, features, labels = example()
    data = {"graph": graph, "features": features, "labels": labels}
    batches = WholeGraph(graph, np.arange(20), layers=2)
    # A step so long that validation gets worse.
    for watch in ("loss", "accuracy"):
        schedule = Schedule(epochs=60, patience=2, watch=watch, learning_rate=2.0)
        model = GCN(COLUMNS, CLASSES)
        _, outcome = trained(model, batches, schedule=schedule, **data)
        assert len(outcome.epochs) == outcome.best_epoch + 3 < 60
        assert outcome.kept_epoch == outcome.best_epoch
        found = infer(model, graph, features=features).logits[20:30].argmax(1).numpy()
        assert (found == labels[20:30]).mean() == outcome.validation_accuracy
    last = Schedule(epochs=60, patience=2, learning_rate=2.0, keep="last")
    _, outcome = trained(GCN(COLUMNS, CLASSES), batches, schedule=last, **data)
    assert outcome.kept_epoch == len(outcome.epochs) - 1 == outcome.best_epoch + 2
    seldom = Schedule(epochs=5, validate_every=3)
    _, outcome = trained(GCN(COLUMNS, CLASSES), batches, schedule=seldom, **data)
    assert [e.validation_loss is None for e in outcome.epochs] == [True, True, False, True, False]


def test_without_validation_the_last_weights_stay() -> None:
    graph, features, labels = example()
    model = GCN(COLUMNS, CLASSES)
    outcome = train(
        model, graph, features=features, labels=labels, device="cpu",
        batches=WholeGraph(graph, np.arange(20), layers=2), schedule=Schedule(epochs=3, patience=1),
    )  # fmt: skip
    assert (outcome.best_epoch, outcome.kept_epoch, outcome.validation_loss) == (2, 2, None)


def test_a_graph_without_edges_trains_on_the_features() -> None:
    _, features, labels = example()
    graph = compressed([], [], NODES)
    data = {"graph": graph, "features": features, "labels": labels}
    batches = SlowBatches(graph, np.arange(20), 7, fanouts=[2, 2])
    weights, outcome = trained(GCN(COLUMNS, CLASSES), batches, **data)
    assert all(np.isfinite(weight).all() for weight in weights)
    assert len(outcome.epochs) == 4


def test_wrong_arguments_are_refused(tmp_path) -> None:
    graph, features, labels = example()
    data = {"graph": graph, "features": features, "labels": labels}
    whole = WholeGraph(graph, np.arange(20), layers=2)
    model = GCN(COLUMNS, CLASSES)
    for name, value in (
        ("epochs", 0), ("patience", 0), ("validate_every", 0), ("learning_rate", float("nan")),
        ("learning_rate", 0.0), ("weight_decay", -1.0),
    ):  # fmt: skip
        with pytest.raises(InvalidArgumentError, match=name):
            Schedule(**{name: value})
    unknown = labels.copy()
    unknown[7] = -1
    with pytest.raises(InvalidArgumentError, match="the seed 7 has no label"):
        trained(model, whole, **{**data, "labels": unknown})
    unknown = labels.copy()
    unknown[25] = -1
    with pytest.raises(InvalidArgumentError, match="the validation node 25 has no label"):
        trained(model, whole, **{**data, "labels": unknown})
    with pytest.raises(InvalidArgumentError, match="too few training nodes"):
        trained(model, SlowBatches(graph, [], 3, fanouts=[1, 1]), **data)
    huge = {**data, "features": np.full_like(features, 3e38)}
    with pytest.raises(InvalidArgumentError, match="training diverged: the loss is"):
        trained(model, whole, **huge)
    with pytest.raises(InvalidArgumentError, match="expected the device auto, cpu, cuda"):
        device_of("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(InvalidArgumentError, match="sees no CUDA device"):
            device_of("cuda")
        assert device_of("auto").type == "cpu"


def test_a_checkpoint_of_another_training_is_refused(tmp_path) -> None:
    graph, features, labels = example()
    data = {"graph": graph, "features": features, "labels": labels}
    batches = WholeGraph(graph, np.arange(20), layers=2)
    place = tmp_path / "a.pt"
    trained(GCN(COLUMNS, CLASSES), batches, checkpoint=place, about={"data": "a"}, **data)
    other = {"checkpoint": place, "about": {"data": "b"}, **data}
    with pytest.raises(DataError, match=r"another training \(data a, not b\)"):
        trained(GCN(COLUMNS, CLASSES), batches, **other)
    with pytest.raises(DataError, match="seed 3, not 0"):
        trained(GCN(COLUMNS, CLASSES), batches, checkpoint=place, schedule=Schedule(epochs=4),
                about={"data": "a"}, **data)  # fmt: skip
    with pytest.raises(DataError, match="weights"):
        trained(
            GCN(COLUMNS, CLASSES, hidden=5), batches, checkpoint=place, about={"data": "a"}, **data
        )


def test_a_damaged_checkpoint_is_refused(tmp_path) -> None:
    place = tmp_path / "a.pt"
    write_checkpoint(place, {"x": torch.arange(1000)})
    sound = place.read_bytes()
    place.write_bytes(sound[: len(sound) // 2])
    with pytest.raises(DataError, match=r"a\.pt: cannot be read as a checkpoint"):
        read_checkpoint(place)
    place.write_bytes(b"")
    with pytest.raises(DataError, match="remove it to train from the start"):
        read_checkpoint(place)
    at = sound.index(np.arange(100, 140).tobytes()) + 8
    place.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
    with pytest.raises(DataError, match="cannot be read as a checkpoint"):
        read_checkpoint(place)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path) -> None:
    place = tmp_path / "a.pt"
    write_checkpoint(place, {"x": 1})
    with pytest.raises((TypeError, AttributeError, OSError, RuntimeError)):
        write_checkpoint(place, {"x": lambda: None})
    assert read_checkpoint(place) == {"x": 1}
