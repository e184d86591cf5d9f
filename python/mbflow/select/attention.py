"""Scores of rows by graph attention: who is looked at when a network tells the classes."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mbflow import _native
from mbflow.errors import DataError, InvalidArgumentError, require
from mbflow.select.columns import feature_matrix
from mbflow.select.labels import Labels, encode_labels
from mbflow.select.strata import stratified_split
from mbflow.training import ordered_tasks, single_threaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mbflow.select.aggregation import Aggregation
    from mbflow.select.hashing import Graph

__all__ = ["Attention", "attention_scores"]

_STREAM_WATCHED = 0x5E1_00005
# The held-out loss of large data is measured on a sample: enough to see it rise.
_WATCHED_ROWS = 2_048
_COUNTED = 16_777_216  # edges whose sources are counted at once
_AGGREGATIONS = ("mean", "max", "entropy")
Device = Literal["auto", "cpu", "cuda"]
# As in the step `select.attention`: far more than helps, far less than memory.
_MOST = {"heads": 64, "hidden": 1024, "epochs": 100_000}


@dataclass(frozen=True)
class Attention:
    """Scores of the rows, and how the training went.

    Attributes:
        scores: float32 of shape (rows,): the attention that each row gives as a source, summed over
            the rows that have it as a neighbour; heads and layers aggregated as asked for.
        degrees: int64 of shape (rows,): how many rows have it as a neighbour, the null model.
        degree_correlation: Pearson correlation of scores and degrees; None where either is
            constant.
        own_class_share: float32 of shape (rows,): the share of the attention that a row gives that
            goes to rows of its own class; 0 for a row that no other looks at.
        confidence: float32 of shape (rows,): the probability that the network gives the row's own
            class. It has seen the labels of the training rows, so most rows look easier than a new
            row would.
        disagreement: float32 of shape (rows,): the share of pairs of second-layer heads whose own
            class logits are highest for different classes; no label is needed for it.
        predicted: int32 of shape (rows,): code of the most probable class, in the order of
            `encode_labels(labels).classes`.
        losses: Mean training loss of the steps of each epoch.
        held_out_losses: Loss on the held-out rows after each epoch.
        best_epoch: The epoch whose weights were used, from 0.
        held_out_accuracy: Accuracy on the held-out rows with these weights, None without such rows.
        notes: What a reader should know, in words.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import attention_scores, hash_graph
        >>> features = np.array([[0.0], [0.1], [0.9], [1.0]], np.float32)
        >>> graph = hash_graph(features, neighbours=2)
        >>> attention = attention_scores(features, ["a", "a", "b", "b"], graph, epochs=5)
        >>> attention.scores.shape, len(attention.losses)
        ((4,), 5)
    """

    scores: NDArray[np.float32]
    degrees: NDArray[np.int64]
    degree_correlation: float | None
    own_class_share: NDArray[np.float32]
    confidence: NDArray[np.float32]
    disagreement: NDArray[np.float32]
    predicted: NDArray[np.int32]
    losses: tuple[float, ...]
    held_out_losses: tuple[float, ...]
    best_epoch: int
    held_out_accuracy: float | None
    notes: tuple[str, ...]


def attention_scores(
    features: NDArray[np.float32],
    labels: Any,
    graph: Graph,
    *,
    heads: int = 4,
    hidden: int = 8,
    epochs: int = 150,
    patience: int = 20,
    learning_rate: float = 0.05,
    feature_dropout: float = 0.0,
    attention_dropout: float = 0.1,
    held_out: float = 0.1,
    full_batch_rows: int = 4096,
    batch_rows: int = 1024,
    fanout: int = 5,
    heads_by: Aggregation = "mean",
    layers_by: Aggregation | Literal["last"] = "last",
    within_class: bool = False,
    device: Device = "auto",
    seed: int = 0,
    threads: int | None = None,
    on_progress: Callable[[int, int, float], object] | None = None,
) -> Attention:
    """Train graph attention to tell the classes, and score rows by the attention they give.

    Two layers of several heads over each row's neighbours and the row itself; cross entropy
    weighted by class; Adam; the weights of the epoch with the lowest loss on a stratified held-out
    part of the rows. Labels enter the loss of the training part only, never the network.

    The coefficients of a row's incoming edges add up to 1, so their mean says nothing but its
    degree; the score is the sum over the row's outgoing edges, without the edge to itself. For each
    edge the heads of a layer are aggregated first, then the layers, then edges are summed. The
    score is near to plain degree, which is given beside it.

    An epoch is one step of the optimiser over all training rows. Where there are more than
    `full_batch_rows`, or where their features fill more than 256 MiB, it is up to 4 steps over
    `batch_rows` of them (fewer where there are many columns) and a draw of their neighbours
    within two steps; scores always come from all neighbours. Features, offsets and
    neighbours may be memory-mapped: what is held of them is a step's part, and beside that two
    times heads x hidden numbers and a few more for each row.

    The same seed gives the same scores on the CPU for any number of threads. A GPU adds in no
    fixed order, so its scores differ in their last digits. Torch's own random state and thread
    count are left as they were.

    Args:
        features: float32 of shape (rows, columns), finite.
        labels: Class label of each row (see `encode_labels`).
        graph: Neighbours of each row.
        heads: Heads of each layer.
        hidden: Width of each head of the first layer.
        epochs: The most epochs.
        patience: Epochs without a lower held-out loss before training ends.
        learning_rate: Step size of Adam.
        feature_dropout: Share of the values dropped before each layer, 0 up to below 1.
        attention_dropout: Share of the coefficients dropped, 0 up to below 1.
        held_out: Share of each class held out; 0 watches the training loss instead.
        full_batch_rows: The most training rows of one step over all.
        batch_rows: Rows of a step where there are more.
        fanout: The most neighbours of a row that such a step draws, in each layer.
        heads_by: How the heads of a layer are aggregated, edge by edge: "mean", "max", or
            "entropy", the mean weighted by how concentrated a head's coefficients of the target
            are (1 - entropy / log of the number of slots).
        layers_by: "last" takes the second layer alone; "mean", "max" and "entropy" aggregate both
            layers likewise.
        within_class: Sum only the attention that goes to rows of the source's own class. Uses the
            labels of all rows, after training.
        device: "cpu", "cuda", or "auto" for a GPU where torch finds one.
        seed: Key of the split, the first weights, the batches and dropout.
        threads: Threads to use; by default `mbflow._native.num_threads()`.
        on_progress: Called after each epoch with (epochs done, epochs, training loss).

    Returns:
        The scores and how training went.

    Raises:
        InvalidArgumentError: An argument is out of range, or lengths differ.
        DataError: The labels hold one class only.
        MissingExtraError: torch is not installed.

    Source:
        Velickovic et al.: Graph Attention Networks (arXiv 1710.10903), sections 2.1 and 3.3;
        attention as importance: arXiv 2502.20293.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import attention_scores, hash_graph
        >>> features = np.array([[0.0], [0.1], [0.2], [0.9], [1.0]], np.float32)
        >>> graph = hash_graph(features, neighbours=2)
        >>> attention = attention_scores(features, [0, 0, 0, 1, 1], graph, epochs=3, held_out=0.0)
        >>> attention.degrees
        array([2, 2, 4, 1, 1])
    """
    _check_counts(
        heads=heads,
        hidden=hidden,
        epochs=epochs,
        patience=patience,
        full_batch_rows=full_batch_rows,
        batch_rows=batch_rows,
        fanout=fanout,
    )
    _check_choice("heads_by", heads_by, _AGGREGATIONS)
    _check_choice("layers_by", layers_by, ("last", *_AGGREGATIONS))
    _check_choice("device", device, ("auto", "cpu", "cuda"))
    if threads is not None:
        _check_counts(threads=threads)
    for name, share in (
        ("feature_dropout", feature_dropout),
        ("attention_dropout", attention_dropout),
        ("held_out", held_out),
    ):
        if not 0.0 <= share < 1.0:
            raise InvalidArgumentError(f"{name} is {share}; expected at least 0 and below 1")
    if not learning_rate > 0.0:
        raise InvalidArgumentError(f"learning_rate is {learning_rate}; expected above 0")
    encoded = _checked_labels(features, labels, graph)
    require("torch", extra="train", purpose="attention scores")
    import torch

    from mbflow.select.attention_training import Schedule, score_rows, train
    from mbflow.select.gat import Network

    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidArgumentError('device is "cuda" and torch finds none; use "auto" or "cpu"')
    place = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    training_rows, held = stratified_split(encoded, test_fraction=held_out, seed=seed)
    notes: list[str] = []
    watched = held
    if len(held) == 0:
        watched = training_rows
        notes.append("no rows are held out: training stopped by the training loss")
    if len(watched) > _WATCHED_ROWS:
        drawn = _native.permutation(seed, _STREAM_WATCHED, len(watched))[:_WATCHED_ROWS]
        watched = np.sort(watched[drawn])
    workers = _native.num_threads() if threads is None else threads
    with single_threaded(), ordered_tasks(workers if place == "cpu" else 1) as run:
        network = Network(
            features.shape[1],
            len(encoded.classes),
            heads=heads,
            hidden=hidden,
            feature_dropout=feature_dropout,
            attention_dropout=attention_dropout,
            seed=seed,
            run=run,
            device=place,
        )
        training = train(
            network,
            features,
            graph,
            encoded.codes,
            rows=training_rows,
            watched=watched,
            schedule=Schedule(
                epochs=epochs,
                patience=patience,
                learning_rate=learning_rate,
                full_batch_rows=full_batch_rows,
                batch_rows=batch_rows,
                fanout=fanout,
                seed=seed,
            ),
            run=run,
            on_progress=on_progress,
        )
        rows = score_rows(
            network,
            features,
            graph,
            encoded.codes,
            heads_by=heads_by,
            layers_by=layers_by,
            run=run,
        )
    if training.batch_rows:
        notes.append(
            f"each epoch is {training.steps} steps over {training.batch_rows} of "
            f"{len(training_rows)} training rows"
        )
    if place != "cpu":
        notes.append("trained on a GPU: another run may differ in the last digits of the scores")
    degrees = _degrees(graph)
    scores = (rows.own_class if within_class else rows.scores).astype(np.float32)
    own_class_share = np.zeros(graph.rows, dtype=np.float32)
    given = rows.scores > 0.0
    np.divide(rows.own_class, rows.scores, out=own_class_share, where=given, casting="same_kind")
    return Attention(
        scores=scores,
        degrees=degrees,
        degree_correlation=_correlation(scores, degrees),
        own_class_share=own_class_share,
        confidence=rows.confidence,
        disagreement=rows.disagreement,
        predicted=rows.predicted,
        losses=training.losses,
        held_out_losses=training.watched_losses if len(held) else (),
        best_epoch=training.best_epoch,
        held_out_accuracy=training.watched_accuracy if len(held) else None,
        notes=tuple(notes),
    )


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        expected = ", ".join(map(repr, choices))
        raise InvalidArgumentError(f"{name} is {value!r}; expected one of {expected}")


def _check_counts(**counts: Any) -> None:
    for name, value in counts.items():
        limit = _MOST.get(name, 2**31 - 1)
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not whole or not 1 <= int(value) <= limit:
            raise InvalidArgumentError(
                f"{name} is {value!r}; expected a whole number from 1 to {limit}"
            )


def _checked_labels(features: NDArray[np.float32], labels: Any, graph: Graph) -> Labels:
    if getattr(features, "ndim", 0) != 2:
        raise InvalidArgumentError("features must be an array of two dimensions (rows, columns)")
    if not hasattr(graph, "neighbours"):
        raise InvalidArgumentError(
            f"the graph is of type {type(graph).__name__}; expected what neighbour_graph returns"
        )
    encoded = encode_labels(labels)
    if not len(features) == len(encoded.codes) == graph.rows:
        raise InvalidArgumentError(
            f"lengths differ: {len(features)} rows of features, {len(encoded.codes)} labels and a "
            f"graph of {graph.rows} rows; expected one label and one node for each row"
        )
    if not isinstance(features, np.memmap):
        # What is mapped may be larger than memory, and was checked when it was written.
        feature_matrix(features, len(encoded.codes))
    if len(encoded.classes) < 2:
        raise DataError(
            f"all {len(encoded.codes)} labels are {encoded.classes[0]!r}; attention learns to tell "
            "classes apart and needs at least two: check the label column, or keep rows without "
            "scores by `stratified_random`"
        )
    return encoded


def _degrees(graph: Graph) -> NDArray[np.int64]:
    """How many rows have each as a neighbour; in parts, since counting widens what it counts."""
    degrees = np.zeros(graph.rows, dtype=np.int64)
    for start in range(0, graph.edges, _COUNTED):
        part = graph.neighbours[start : start + _COUNTED]
        degrees += np.bincount(part, minlength=graph.rows)
    return degrees


def _correlation(scores: NDArray[np.float32], degrees: NDArray[np.int64]) -> float | None:
    if scores.std() == 0.0 or degrees.std() == 0.0:
        return None
    return float(np.corrcoef(scores.astype(np.float64), degrees)[0, 1])
