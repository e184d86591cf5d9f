"""How the attention network is trained, and the pass over all rows that scores them.

Imports torch; the rest of `mbflow.select` imports this module only when attention is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from mbflow import _native
from mbflow.errors import InvalidArgumentError
from mbflow.select.aggregation import aggregate, disagreement
from mbflow.select.gat import head_coefficients
from mbflow.select.subgraph import Subgraph, dense_table
from mbflow.training import BestWeights

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mbflow.select.aggregation import Aggregation
    from mbflow.select.gat import HeadMap, Network
    from mbflow.select.hashing import Graph

__all__ = ["RowScores", "Schedule", "Training", "class_weights", "score_rows", "train"]

_STREAM_BATCH = 0x5E2_00000  # plus the number of the pass over the training rows
_STREAM_FANOUT = 0x5E1_00006
_PASS_ROWS = 32_768  # rows that one task of the scoring pass takes
_WAVE = 4  # tasks of that pass whose results are held at once
_STEPS = 4  # of the optimiser in an epoch of mini-batches, at most
_INPUT_VALUES = 33_554_432  # features that one step may gather


@dataclass(frozen=True)
class Schedule:
    """What a step of training is over.

    Attributes:
        epochs: The most epochs.
        patience: Epochs without a lower watched loss before training ends.
        learning_rate: Step size of Adam.
        full_batch_rows: The most training rows of a step over all.
        batch_rows: The most rows of a step where there are more.
        fanout: The most neighbours drawn for a row, in each layer, where there are more.
        seed: Key of batches and draws.

    Example:
        >>> from mbflow.select.attention_training import Schedule
        >>> schedule = Schedule(epochs=9, patience=3, learning_rate=0.1, full_batch_rows=99)
        >>> schedule.rows_of_a_step(columns=32), schedule.rows_of_a_step(columns=4096)
        (1024, 227)
    """

    epochs: int
    patience: int
    learning_rate: float
    full_batch_rows: int
    batch_rows: int = 1024
    fanout: int = 5
    seed: int = 0

    def rows_of_a_step(self, *, columns: int) -> int:
        """Rows of a mini-batch, fewer where many columns would make its inputs large."""
        around = (1 + self.fanout) ** 2 * max(1, columns)
        return max(1, min(self.batch_rows, _INPUT_VALUES // around))

    def full_batch(self, *, rows: int, columns: int) -> bool:
        """Whether a step is over all training rows."""
        return rows <= self.full_batch_rows and rows * columns <= 2 * _INPUT_VALUES


@dataclass(frozen=True)
class Training:
    """How training went.

    Attributes:
        losses: Mean training loss of the steps of each epoch.
        watched_losses: Loss on the watched rows after each epoch.
        best_epoch: The epoch whose weights the network has now.
        watched_accuracy: Accuracy on the watched rows with them.
        batch_rows: Rows of a step; 0 for all.
        steps: Steps of an epoch.

    Example:
        >>> from mbflow.select.attention_training import Training
        >>> Training((0.7,), (0.6,), 0, 0.5, 0, 1).best_epoch
        0
    """

    losses: tuple[float, ...]
    watched_losses: tuple[float, ...]
    best_epoch: int
    watched_accuracy: float
    batch_rows: int
    steps: int


def class_weights(codes: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Weights of the loss that let each class count the same.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.attention_training import class_weights
        >>> class_weights(np.array([0, 0, 0, 1]), 2)
        array([0.6666667, 2.       ], dtype=float32)
    """
    sizes = np.bincount(codes, minlength=classes)
    return (len(codes) / (classes * sizes)).astype(np.float32)


def train(
    network: Network,
    features: NDArray[np.float32],
    graph: Graph,
    codes: NDArray[np.int64],
    *,
    rows: NDArray[np.int64],
    watched: NDArray[np.int64],
    schedule: Schedule,
    run: HeadMap,
    on_progress: Callable[[int, int, float], object] | None = None,
) -> Training:
    """Train a network in place; it ends with the weights of the best epoch.

    Args:
        network: The network.
        features: float32 of shape (all rows, columns); only the rows of a step are gathered.
        graph: Neighbours of all rows, gathered likewise.
        codes: Class codes of all rows.
        rows: The training rows: no other row's code enters a training loss.
        watched: The rows whose loss decides which epoch is best.
        schedule: What a step is over.
        run: A `map` that returns results in order.
        on_progress: Called after each epoch with (epochs done, epochs, training loss).

    Returns:
        How it went.

    Raises:
        InvalidArgumentError: The loss is not finite in any epoch.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import hash_graph
        >>> from mbflow.select.attention_training import Schedule, train
        >>> from mbflow.select.gat import Network
        >>> features, codes = np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1])
        >>> run = lambda function, *items: list(map(function, *items))
        >>> shape = {"heads": 1, "hidden": 2, "feature_dropout": 0.0, "attention_dropout": 0.0}
        >>> training = train(
        ...     Network(4, 2, **shape, seed=0, run=run),
        ...     features,
        ...     hash_graph(features, neighbours=1),
        ...     codes,
        ...     rows=np.arange(4),
        ...     watched=np.arange(4),
        ...     schedule=Schedule(epochs=3, patience=3, learning_rate=0.1, full_batch_rows=9),
        ...     run=run,
        ... )
        >>> len(training.losses), training.steps
        (3, 1)
    """
    device = network.device
    known = torch.from_numpy(codes)
    weights = torch.from_numpy(class_weights(codes[rows], int(codes.max()) + 1)).to(device)

    def loss_of(chosen: NDArray[np.int64]) -> Callable[[torch.Tensor], torch.Tensor]:
        targets = known.index_select(0, torch.from_numpy(chosen)).to(device)
        return lambda logits: torch.nn.functional.cross_entropy(logits, targets, weight=weights)

    full = schedule.full_batch(rows=len(rows), columns=features.shape[1])
    batch = 0 if full else min(len(rows), schedule.rows_of_a_step(columns=features.shape[1]))
    steps = 1 if full else max(1, min(_STEPS, len(rows) // batch))
    batches = _whole(features, graph, rows) if full else None
    drawn = _Batches(features, graph, rows, batch, schedule) if batches is None else None

    optimiser = torch.optim.Adam(network.weights, lr=schedule.learning_rate)
    best = BestWeights(network.weights)
    around_watched = Subgraph.around(graph.offsets, graph.neighbours, watched)
    around_watched = around_watched.to(device)
    losses: list[float] = []
    watched_losses: list[float] = []
    for epoch in range(schedule.epochs):
        numbers = range(epoch * steps, (epoch + 1) * steps)
        if drawn is not None:
            drawn.prepare(numbers)
            batches = run(drawn, numbers)
        assert batches is not None
        total = 0.0
        for number, (chosen, inputs, around) in zip(numbers, batches, strict=True):
            total += network.step(
                inputs.to(device), around.to(device), loss_of(chosen), step=number
            )
            optimiser.step()
        losses.append(total / steps)
        logits = network.logits(features, around_watched)
        watched_losses.append(float(loss_of(watched)(logits)))
        best.offer(epoch, watched_losses[-1])
        if on_progress is not None:
            on_progress(epoch + 1, schedule.epochs, losses[-1])
        if epoch - best.epoch >= schedule.patience:
            break
    if best.epoch < 0:
        raise InvalidArgumentError(
            f"training diverged: the loss is {watched_losses[-1]} after {len(losses)} epochs "
            f"with learning_rate {schedule.learning_rate}; use a lower one"
        )
    best.restore()
    predicted = network.logits(features, around_watched).argmax(dim=1).cpu().numpy()
    accuracy = float((predicted == codes[watched]).mean())
    return Training(tuple(losses), tuple(watched_losses), best.epoch, accuracy, batch, steps)


Batch = tuple["NDArray[np.int64]", torch.Tensor, Subgraph]


def _whole(features: NDArray[np.float32], graph: Graph, rows: NDArray[np.int64]) -> list[Batch]:
    around = Subgraph.around(graph.offsets, graph.neighbours, rows)
    return [(rows, _gathered(features, around.inputs), around)]


def _gathered(features: NDArray[np.float32], rows: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(features[rows], dtype=np.float32))


class _Batches:
    """Step number -> rows, inputs and graph of the step: a pure function, so tasks may share it."""

    def __init__(
        self,
        features: NDArray[np.float32],
        graph: Graph,
        rows: NDArray[np.int64],
        batch: int,
        schedule: Schedule,
    ) -> None:
        self._features = features
        self._graph = graph
        self._rows = rows
        self._batch = batch
        self._schedule = schedule
        self._orders: dict[int, NDArray[np.int64]] = {}
        self._first = 0
        self._keys = np.empty(0, dtype=np.uint64)
        # What is left of a pass over the rows when no whole step fits any more is left out of it.
        self._steps_of_a_pass = len(rows) // batch

    def prepare(self, numbers: range) -> None:
        """Draw what these steps go by, and forget the rest."""
        self._first = numbers.start
        self._keys = _native.random_u64(
            self._schedule.seed, _STREAM_FANOUT, 2 * numbers.start, 2 * len(numbers)
        )
        passes = {number // self._steps_of_a_pass for number in numbers}
        self._orders = {
            index: self._orders[index] if index in self._orders else self._order(index)
            for index in passes
        }

    def _order(self, index: int) -> NDArray[np.int64]:
        order: NDArray[np.int64] = _native.permutation(
            self._schedule.seed, _STREAM_BATCH + index, len(self._rows)
        )
        return order

    def __call__(self, number: int) -> Batch:
        index, place = divmod(number, self._steps_of_a_pass)
        order = self._orders[index][place * self._batch : (place + 1) * self._batch]
        chosen = np.sort(self._rows[order])
        first = 2 * (number - self._first)
        keys = int(self._keys[first]), int(self._keys[first + 1])
        around = Subgraph.around(
            self._graph.offsets,
            self._graph.neighbours,
            chosen,
            fanout=self._schedule.fanout,
            keys=keys,
        )
        return chosen, _gathered(self._features, around.inputs), around


@dataclass(frozen=True)
class RowScores:
    """What a trained network says of each row.

    Attributes:
        scores: float64 of shape (rows,): the coefficients that a row has as a source, summed.
        own_class: float64 of shape (rows,): the same over targets of the source's class alone.
        confidence: float32 of shape (rows,): probability of the row's own class.
        disagreement: float32 of shape (rows,): share of pairs of heads that predict different
            classes.
        predicted: int32 of shape (rows,): code of the class with the highest probability.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.attention_training import RowScores
        >>> zeros = np.zeros(1, np.float32)
        >>> RowScores(np.ones(1), np.ones(1), zeros, zeros, np.zeros(1, np.int32)).scores
        array([1.])
    """

    scores: NDArray[np.float64]
    own_class: NDArray[np.float64]
    confidence: NDArray[np.float32]
    disagreement: NDArray[np.float32]
    predicted: NDArray[np.int32]


def score_rows(
    network: Network,
    features: NDArray[np.float32],
    graph: Graph,
    codes: NDArray[np.int64],
    *,
    heads_by: Aggregation,
    layers_by: Aggregation | Literal["last"],
    run: HeadMap,
) -> RowScores:
    """Score all rows: two passes over the graph in blocks, with all neighbours.

    Holds two numbers by heads and hidden widths for each row; features are read once, in order.

    Args:
        network: The network.
        features: float32 of shape (rows, columns).
        graph: Neighbours of each row.
        codes: Class codes of each row: read for `confidence` and `own_class` alone.
        heads_by: How the heads of a layer are aggregated (see `aggregate`).
        layers_by: How the two layers are, or "last" for the second alone.
        run: A `map` that returns results in order.

    Returns:
        The scores.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import Graph
        >>> from mbflow.select.attention_training import score_rows
        >>> from mbflow.select.gat import Network
        >>> run = lambda function, *items: list(map(function, *items))
        >>> shape = {"heads": 1, "hidden": 2, "feature_dropout": 0.0, "attention_dropout": 0.0}
        >>> offsets, neighbours = np.array([0, 1, 1]), np.array([1], np.int32)
        >>> graph = Graph(offsets, neighbours, np.ones(1, np.float32), {})
        >>> scores = score_rows(
        ...     Network(1, 2, **shape, seed=0, run=run),
        ...     np.zeros((2, 1), np.float32),
        ...     graph,
        ...     np.array([0, 1]),
        ...     heads_by="mean",
        ...     layers_by="last",
        ...     run=run,
        ... )
        >>> scores.scores
        array([0. , 0.5])
    """
    device, count = network.device, graph.rows
    blocks = [
        np.arange(start, min(start + _PASS_ROWS, count), dtype=np.int64)
        for start in range(0, count, _PASS_ROWS)
    ]

    def table(rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], Any, Any, Any]:
        slots, unused = dense_table(graph.offsets, graph.neighbours, rows)
        empty = None if unused is None else torch.from_numpy(unused).to(device)
        return slots, unused, torch.from_numpy(slots).to(device), empty

    middle = torch.empty(count, network.middle_width, device=device)

    def first_layer() -> tuple[torch.Tensor, torch.Tensor]:
        projected = network.project(features)
        logits = network.first_logits(projected)

        def first(rows: NDArray[np.int64]) -> None:
            _, _, sources, empty = table(rows)
            part = network.middle(projected, logits, sources, empty)
            middle[int(rows[0]) : int(rows[-1]) + 1] = part

        run(first, blocks)
        return logits

    first_logits = first_layer()
    second_logits = network.second_logits(middle)
    scores = np.zeros(count, dtype=np.float64)
    own_class = np.zeros(count, dtype=np.float64)
    confidence = np.empty(count, dtype=np.float32)
    differ = np.empty(count, dtype=np.float32)
    predicted = np.empty(count, dtype=np.int32)

    def second(
        rows: NDArray[np.int64],
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.bool_]]:
        slots, unused, sources, empty = table(rows)
        coefficients = head_coefficients(second_logits, sources, empty)
        outputs = network.outputs(middle, sources, coefficients)
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        differ[part] = disagreement(outputs).cpu().numpy()
        likely = torch.softmax(torch.stack(outputs).mean(dim=0), dim=1).cpu().numpy()
        predicted[part] = likely.argmax(axis=1)
        confidence[part] = likely[np.arange(len(rows)), codes[part]]
        edges = aggregate(coefficients, empty, heads_by)
        if layers_by != "last":
            below = aggregate(head_coefficients(first_logits, sources, empty), empty, heads_by)
            edges = aggregate(torch.stack([below, edges]), empty, layers_by)
        real = np.ones(slots.shape, dtype=np.bool_) if unused is None else ~unused
        real[:, 0] = False
        same = codes[slots] == codes[rows][:, None]
        return slots[real], edges.cpu().numpy()[real], same[real]

    for start in range(0, len(blocks), _WAVE):
        for sources, given, same in run(second, blocks[start : start + _WAVE]):
            scores += np.bincount(sources, weights=given, minlength=count)
            own_class += np.bincount(sources[same], weights=given[same], minlength=count)
    return RowScores(scores, own_class, confidence, differ, predicted)
