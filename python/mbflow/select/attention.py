"""Scores of rows by graph attention: who is looked at when a network tells the classes."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow import _native
from mbflow.errors import DataError, InvalidArgumentError, require
from mbflow.select.labels import Labels, encode_labels
from mbflow.select.strata import stratified_split
from mbflow.training import BestWeights, ordered_tasks, single_threaded

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

    from mbflow.select.gat import Network
    from mbflow.select.hashing import Graph

__all__ = ["Attention", "attention_scores"]

_STREAM_WATCHED = 0x5E1_00005
_STREAM_BATCH = 0x5E2_00000  # plus the epoch
# Rows that one pass without gradients takes at a time.
_PASS_ROWS = 65_536
# The held-out loss of large data is measured on a sample: enough to see it rise.
_WATCHED_ROWS = 8_192
# As in the step `select.attention`: far more than helps, far less than memory.
_MOST = {"heads": 64, "hidden": 1024, "epochs": 100_000}


@dataclass(frozen=True)
class Attention:
    """Scores of the rows, and how the training went.

    Attributes:
        scores: float32 of shape (rows,): the attention that each row gives as a source, summed over
            the rows that have it as a neighbour; second layer, heads averaged.
        degrees: int64 of shape (rows,): how many rows have it as a neighbour, the null model.
        degree_correlation: Pearson correlation of scores and degrees; None where either is
            constant.
        losses: Training loss of each epoch.
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
    full_batch_rows: int = 100_000,
    batch_rows: int = 16_384,
    seed: int = 0,
    threads: int | None = None,
    on_progress: Callable[[int, int, float], object] | None = None,
) -> Attention:
    """Train graph attention to tell the classes, and score rows by the attention they give.

    Two layers of several heads over each row's neighbours and the row itself; cross entropy
    weighted by class; Adam; the weights of the epoch with the lowest loss on a stratified held-out
    part of the rows. Labels enter the loss of the training part only, never the network.

    The coefficients of a row's incoming edges add up to 1, so their mean says nothing but its
    degree; the score is the sum over the row's outgoing edges, without the edge to itself. It is
    near to plain degree, which is given beside it.

    An epoch is one step of the optimiser: over all training rows, or, where there are more than
    `full_batch_rows`, over `batch_rows` of them drawn anew and their neighbours within two steps.
    The same seed gives the same scores for any number of threads. Torch's own random state and
    thread count are left as they were.

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
        seed: Key of the split, the first weights, the batches and dropout.
        threads: Threads to use, at most one a head; by default `mbflow._native.num_threads()`.
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
    )
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

    from mbflow.select.gat import Network, Subgraph

    train, held = stratified_split(encoded, test_fraction=held_out, seed=seed)
    notes: list[str] = []
    watched = held
    if len(held) == 0:
        watched = train
        notes.append("no rows are held out: training stopped by the training loss")
    if len(watched) > _WATCHED_ROWS:
        drawn = _native.permutation(seed, _STREAM_WATCHED, len(watched))[:_WATCHED_ROWS]
        watched = np.sort(watched[drawn])
    mini_batches = len(train) > full_batch_rows
    workers = min(heads, _native.num_threads() if threads is None else threads)
    with single_threaded(), ordered_tasks(workers) as run:
        values = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
        codes = torch.from_numpy(encoded.codes)
        sizes = np.bincount(encoded.codes[train], minlength=len(encoded.classes))
        weights = torch.from_numpy((len(train) / (len(sizes) * sizes)).astype(np.float32))

        def cross_entropy(logits: torch.Tensor, rows: NDArray[np.int64]) -> torch.Tensor:
            chosen = codes.index_select(0, torch.from_numpy(rows))
            return torch.nn.functional.cross_entropy(logits, chosen, weight=weights)

        network = Network(
            values.shape[1],
            len(encoded.classes),
            heads=heads,
            hidden=hidden,
            feature_dropout=feature_dropout,
            attention_dropout=attention_dropout,
            seed=seed,
            run=run,
        )
        optimiser = torch.optim.Adam(network.weights, lr=learning_rate)
        best = BestWeights(network.weights)
        around_watched = Subgraph.around(graph.offsets, graph.neighbours, watched)
        rows = train
        around = None if mini_batches else Subgraph.around(graph.offsets, graph.neighbours, train)
        losses: list[float] = []
        watched_losses: list[float] = []
        for epoch in range(epochs):
            if mini_batches:
                order = _native.permutation(seed, _STREAM_BATCH + epoch, len(train))
                rows = np.sort(train[order[:batch_rows]])
                around = Subgraph.around(graph.offsets, graph.neighbours, rows)
            assert around is not None
            losses.append(
                network.step(values, around, partial(cross_entropy, rows=rows), epoch=epoch)
            )
            optimiser.step()
            logits = network.logits(values, around_watched)
            watched_losses.append(float(cross_entropy(logits, watched)))
            best.offer(epoch, watched_losses[-1])
            if on_progress is not None:
                on_progress(epoch + 1, epochs, losses[-1])
            if epoch - best.epoch >= patience:
                break
        if best.epoch < 0:
            raise InvalidArgumentError(
                f"training diverged: the loss is {watched_losses[-1]} after {len(losses)} epochs "
                f"with learning_rate {learning_rate}; use a lower one"
            )
        best.restore()
        predicted = network.logits(values, around_watched).argmax(dim=1).numpy()
        accuracy = float((predicted == encoded.codes[watched]).mean()) if len(held) else None
        scores = _given_attention(network, values, graph)
    if mini_batches:
        notes.append(f"each epoch is one step over {batch_rows} of {len(train)} training rows")
    degrees = np.bincount(graph.neighbours, minlength=graph.rows).astype(np.int64)
    return Attention(
        scores=scores,
        degrees=degrees,
        degree_correlation=_correlation(scores, degrees),
        losses=tuple(losses),
        held_out_losses=tuple(watched_losses) if len(held) else (),
        best_epoch=best.epoch,
        held_out_accuracy=accuracy,
        notes=tuple(notes),
    )


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
    encoded = encode_labels(labels)
    if not len(features) == len(encoded.codes) == graph.rows:
        raise InvalidArgumentError(
            f"lengths differ: {len(features)} rows of features, {len(encoded.codes)} labels and a "
            f"graph of {graph.rows} rows; expected one label and one node for each row"
        )
    if len(encoded.classes) < 2:
        raise DataError(
            f"all {len(encoded.codes)} labels are {encoded.classes[0]!r}; attention learns to tell "
            "classes apart and needs at least two: check the label column, or keep rows without "
            "scores by `stratified_random`"
        )
    return encoded


def _given_attention(network: Network, features: torch.Tensor, graph: Graph) -> NDArray[np.float32]:
    """The coefficients that each row gives as a source, summed; block by block, in row order."""
    import torch

    from mbflow.select.gat import build_table, dense_table, renumbered

    middle = torch.empty(graph.rows, 0)
    blocks = [
        np.arange(start, min(start + _PASS_ROWS, graph.rows), dtype=np.int64)
        for start in range(0, graph.rows, _PASS_ROWS)
    ]
    parts: list[torch.Tensor] = []
    totals = np.zeros(graph.rows, dtype=np.float64)
    for last in (False, True):
        for rows in blocks:
            slots, unused = dense_table(graph.offsets, graph.neighbours, rows)
            sources, local = renumbered(slots, graph.rows)
            table = build_table(local, unused, len(sources))
            chosen = torch.from_numpy(sources)
            if not last:
                parts.append(network.middle(features.index_select(0, chosen), table))
                continue
            given = network.coefficients(middle.index_select(0, chosen), table).numpy()
            real = np.ones(slots.shape, dtype=np.bool_) if unused is None else ~unused
            real[:, 0] = False
            totals += np.bincount(slots[real], weights=given[real], minlength=graph.rows)
        if not last:
            middle = torch.cat(parts)
            parts.clear()
    return totals.astype(np.float32)


def _correlation(scores: NDArray[np.float32], degrees: NDArray[np.int64]) -> float | None:
    if scores.std() == 0.0 or degrees.std() == 0.0:
        return None
    return float(np.corrcoef(scores.astype(np.float64), degrees)[0, 1])
