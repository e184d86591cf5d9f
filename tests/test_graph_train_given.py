"""What the training loop refuses, and what its checkpoints know of a training."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from graph_data import compressed, random_graph
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.graph import Batches

torch = pytest.importorskip("torch")

from mbflow.graph.inference import infer  # noqa: E402
from mbflow.graph.models import GCN  # noqa: E402
from mbflow.graph.train import Schedule, WholeGraph  # noqa: E402
from test_graph_train import CLASSES, COLUMNS, NODES, example, trained  # noqa: E402


def test_a_mask_of_validation_nodes_is_the_same_as_their_ids() -> None:
    graph, features, labels = example()
    data = {"graph": graph, "features": features, "labels": labels}
    batches = WholeGraph(graph, np.arange(20), layers=2)
    mask = np.zeros(NODES, bool)
    mask[20:30] = True
    found = [
        trained(GCN(COLUMNS, CLASSES), batches, validation=given, **data)
        for given in (np.arange(20, 30), mask, mask.tolist(), torch.from_numpy(mask))
    ]
    for weights, outcome in found[1:]:
        assert outcome == found[0][1]
        assert all(a.tobytes() == b.tobytes() for a, b in zip(weights, found[0][0], strict=True))
    seeds = np.zeros(NODES, bool)
    seeds[[3, 5]] = True
    (sample,) = WholeGraph(graph, seeds, layers=1).epoch(0)
    assert sample.seeds.tolist() == [3, 5]


def test_what_training_is_given_is_checked() -> None:
    graph, features, labels = example()
    whole = WholeGraph(graph, np.arange(20), layers=2)
    data = {"graph": graph, "features": features, "labels": labels, "batches": whole}

    def refused(error, match: str, *, model=None, **changed) -> None:
        model = GCN(COLUMNS, CLASSES) if model is None else model
        with pytest.raises(error, match=match):
            trained(model, **{**data, **changed})

    wrong, lists = features.copy(), np.empty(NODES, object)
    wrong[11, 4] = np.nan
    lists[:] = features.tolist()
    beyond = labels.copy()
    beyond[4] = CLASSES
    refused(InvalidArgumentError, "entry 1 is node 9999; expected 0 to 39", validation=[0, 9999])
    refused(InvalidArgumentError, "entry 0 is node -1", validation=[-1])
    refused(InvalidArgumentError, "a mask of 3 truth values", validation=[True, False, True])
    refused(InvalidArgumentError, "validation: expected node ids, .* float64", validation=[0.5])
    refused(DataError, "features have 12 rows and the graph 40 nodes", features=features[:12])
    refused(DataError, "5 columns and the network takes 6", features=features[:, :5])
    refused(InvalidArgumentError, r"give np\.stack", features=lists)
    refused(InvalidArgumentError, r"got shape \(40,\)", features=features[:, 0])
    refused(DataError, "node 11 has nan in column 4", features=wrong)
    refused(DataError, "there are 9 labels", labels=labels[:9])
    refused(InvalidArgumentError, "got float64", labels=labels.astype(float))
    refused(InvalidArgumentError, "seed 4 has the label 3, and the network 3", labels=beyond)
    refused(InvalidArgumentError, "expected a GraphNetwork", model=torch.nn.Linear(6, 3))
    refused(InvalidArgumentError, "expected a Schedule, got dict", schedule={"epochs": 3})
    refused(InvalidArgumentError, r"batches: expected mbflow\.graph\.Batches", batches=None)
    with pytest.raises(InvalidArgumentError, match="seeds: entry 0 is node 40"):
        WholeGraph(graph, [40], layers=2)
    with pytest.raises(InvalidArgumentError, match="expected a GraphNetwork"):
        infer(torch.nn.Linear(6, 3), graph, features=features)
    with pytest.raises(DataError, match="5 columns and the network takes 6"):
        infer(GCN(COLUMNS, CLASSES), graph, features=features[:, :5])


def test_features_of_nodes_that_are_only_validated_must_be_finite() -> None:
    _, features, labels = example()
    graph = compressed([], [], NODES)
    features[25, 1] = np.inf
    batches = Batches(graph, np.arange(20), 7, fanouts=[2, 2])
    with pytest.raises(DataError, match="node 25 has inf in column 1"):
        trained(GCN(COLUMNS, CLASSES), batches, graph=graph, features=features, labels=labels)


@pytest.mark.parametrize("make", [
    lambda graph: WholeGraph(graph, np.arange(20), layers=2),
    lambda graph: Batches(graph, np.arange(20), 7, fanouts=[2, 2]),
])  # fmt: skip
def test_batches_of_another_graph_are_refused(make) -> None:
    graph, features, labels = example()
    data = {"graph": graph, "features": features, "labels": labels}
    same = compressed_again(graph)
    trained(GCN(COLUMNS, CLASSES), make(same), **data)
    with pytest.raises(InvalidArgumentError, match="of another graph, of 90 nodes"):
        trained(GCN(COLUMNS, CLASSES), make(random_graph(90, 80, seed=0)), **data)
    # As many nodes and edges.
    moved = compressed_again(graph, turn=1)
    assert (moved.nodes, moved.edges) == (graph.nodes, graph.edges)
    with pytest.raises(InvalidArgumentError, match="of another graph"):
        trained(GCN(COLUMNS, CLASSES), make(moved), **data)


def compressed_again(graph, *, turn: int = 0):
    targets = np.repeat(np.arange(graph.nodes), np.diff(graph.offsets.astype(np.int64)))
    sources = (graph.sources.astype(np.int64) + turn) % graph.nodes
    return compressed(sources.tolist(), targets.tolist(), graph.nodes)


def test_a_checkpoint_knows_its_batches_and_its_data(tmp_path) -> None:
    graph, features, labels = example()
    data = {"graph": graph, "features": features, "labels": labels}
    place = tmp_path / "a.pt"
    drawn = {"fanouts": [2, 3], "seed": 1}

    def go(*, seeds=20, size=7, options=drawn, **changed) -> None:
        given = {**data, **changed}
        batches = Batches(given["graph"], np.arange(seeds), size, **options)
        trained(GCN(COLUMNS, CLASSES), batches, checkpoint=place, **given)

    def refused(match: str, **changed) -> None:
        with pytest.raises(DataError, match=rf"another training \(.*{match}"):
            go(**changed)

    go()
    go()
    refused(r"batches\.sampler\.fanouts .*2, 3.*, not", options={**drawn, "fanouts": [2, 2]})
    refused(r"batches\.sampler\.method uniform, not labor", options={**drawn, "method": "labor"})
    refused(r"batches\.seed 1, not 2", options={**drawn, "seed": 2})
    refused(r"batches\.batch_size 7, not 5", size=5)
    refused(r"other batches\.seeds", seeds=19)
    refused("other validation", validation=np.arange(20, 29))
    refused("other validation", validation=None)
    for name in ("features", "labels"):
        other = data[name].copy()
        other[-1] = 0 if other[-1].any() else 1
        refused(f"other {name}", **{name: other})
    refused("edges", graph=random_graph(NODES, 70, seed=0))
    refused("other graph", graph=compressed_again(graph, turn=1))


def test_more_epochs_go_on_from_a_checkpoint_to_the_bit(tmp_path) -> None:
    graph, features, labels = example()
    data = {"graph": graph, "features": features, "labels": labels}
    batches = Batches(graph, np.arange(20), 7, fanouts=[2, 3])
    # So long a step that the last epoch is not the best.
    one = {"learning_rate": 0.5, "seed": 3, "validate_every": 2}
    whole, same = trained(GCN(COLUMNS, CLASSES), batches, schedule=Schedule(epochs=8, **one),
                          **data)  # fmt: skip
    place, model = tmp_path / "a.pt", GCN(COLUMNS, CLASSES)
    _, first = trained(model, batches, checkpoint=place, schedule=Schedule(epochs=4, **one), **data)
    assert first.kept_epoch < 3
    model, steps = GCN(COLUMNS, CLASSES, seed=9), []
    again, outcome = trained(
        model, batches, checkpoint=place, schedule=Schedule(epochs=8, **one),
        on_progress=lambda *at: steps.append(at[:2]), **data,
    )  # fmt: skip
    assert steps[0] == (13, 24)
    assert outcome == same
    assert all(a.tobytes() == b.tobytes() for a, b in zip(whole, again, strict=True))
    with pytest.raises(DataError, match="epochs 8, not 4"):
        trained(GCN(COLUMNS, CLASSES), batches, checkpoint=place,
                schedule=Schedule(epochs=4, **one), **data)  # fmt: skip
    place.unlink()
    odd = Schedule(epochs=5, **one)
    trained(GCN(COLUMNS, CLASSES), batches, checkpoint=place, schedule=odd, **data)
    with pytest.raises(DataError, match="5 epochs, the last validated although `validate_every`"):
        trained(GCN(COLUMNS, CLASSES), batches, checkpoint=place,
                schedule=Schedule(epochs=8, **one), **data)  # fmt: skip


def test_gat_is_among_the_models() -> None:
    # In fresh processes, as either module may be the first to be imported.
    for first in ("models", "gat"):
        code = (
            f"import mbflow.graph.{first}; from mbflow.graph.models import GAT, GCN; "
            "print(GAT(3, 2).convolutions[0].in_features, GCN(3, 2).depth)"
        )
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert found.stdout == "3 2\n", found.stderr
    from mbflow.graph import models

    with pytest.raises(AttributeError, match="has no attribute 'GIN'"):
        _ = models.GIN
