"""The training loop of a graph network: mini-batches or the whole graph, exact to resume.

Where a training stands is an epoch, a step in it, the weights, the optimiser's state and the best
weights so far. Samples and dropout are drawn by key, so nothing else has to be kept: a training
that goes on from a checkpoint ends, on the CPU, with the weights of one that was never stopped, to
the bit. Torch runs on one thread meanwhile, so that the weights do not depend on the number of
threads; sampling and inference use several.

Imports torch; `mbflow.graph` imports this module only where it is asked for.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch

from mbflow import _native
from mbflow.errors import DataError, DefectError, InvalidArgumentError
from mbflow.graph.checkpoint import check_same, read_checkpoint, write_checkpoint
from mbflow.graph.inference import infer
from mbflow.graph.layers import TensorLayer, in_degrees, tensor_layers, whole_sample
from mbflow.graph.sample import Sample
from mbflow.graph.training_data import (
    check_batches,
    check_features,
    check_labels,
    check_network,
    check_nodes,
    device_of,
    digest,
    identity,
    refuse_not_finite,
)
from mbflow.training import BestWeights, single_threaded

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from mbflow.graph.graph import Graph
    from mbflow.graph.models import GraphNetwork

__all__ = [
    "EpochRecord",
    "SampleBatches",
    "Schedule",
    "Training",
    "WholeGraph",
    "device_of",
    "train",
]

_STREAM_DROPOUT = 0x6A1_00002


class SampleBatches(Protocol):
    """The batches of an epoch as samples: `mbflow.graph.Batches`, or `WholeGraph`.

    Where there is a method `fingerprint`, plain values by name, a checkpoint keeps them and refuses
    batches with others; without it, tell what batches depend on in `about` of `train`.

    Example:
        >>> from mbflow.graph.train import WholeGraph
        >>> WholeGraph.__name__
        'WholeGraph'
    """

    def steps(self, epoch: int = 0) -> int:
        """Steps of an epoch."""

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Sample]:
        """The samples of an epoch, from a step on."""


class WholeGraph:
    """One step an epoch, over the whole graph.

    Args:
        graph: The graph.
        seeds: The nodes whose labels the loss is over: ids, or a mask of all nodes.
        layers: Convolutions of the network.

    Attributes:
        graph: As given.

    Raises:
        InvalidArgumentError: A seed is no node.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph import Graph
        >>> from mbflow.graph.train import WholeGraph
        >>> graph = Graph(np.array([0, 1, 1], np.uint64), np.array([1], np.uint32), 2)
        >>> batches = WholeGraph(graph, [0], layers=2)
        >>> batches.steps(), [sample.seeds.tolist() for sample in batches.epoch(0)]
        (1, [[0]])
    """

    def __init__(self, graph: Graph, seeds: Any, *, layers: int) -> None:
        # The same object each epoch, so that what is derived from it is made once.
        self.graph = graph
        self._sample = whole_sample(graph, check_nodes(graph, seeds, "seeds"), layers=layers)

    def fingerprint(self) -> dict[str, int | str]:
        """What the batches depend on, as a checkpoint compares it."""
        return {"seeds": digest(self._sample.seeds), "layers": len(self._sample.layers)}

    def steps(self, epoch: int = 0) -> int:
        """1."""
        del epoch
        return 1

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Sample]:
        """The graph, once, unless that step is done."""
        del epoch
        if start == 0:
            yield self._sample


@dataclass(frozen=True)
class Schedule:
    """How a network is trained.

    Attributes:
        epochs: The most epochs.
        patience: Epochs without a better validation before training stops; None: all epochs.
        watch: What better means: a lower loss, or a higher accuracy, on the validation nodes.
        keep: Which weights the network has in the end: those of the best epoch, or the last.
        validate_every: Epochs between validations.
        learning_rate: Step size of Adam.
        weight_decay: Of Adam.
        decay: The layers that it applies to.
        seed: Key of dropout.

    Raises:
        InvalidArgumentError: A number is out of range.

    Example:
        >>> from mbflow.graph.train import Schedule
        >>> Schedule(epochs=100, patience=10).learning_rate
        0.01
    """

    epochs: int = 200
    patience: int | None = None
    watch: Literal["loss", "accuracy"] = "loss"
    keep: Literal["best", "last"] = "best"
    validate_every: int = 1
    learning_rate: float = 0.01
    weight_decay: float = 5e-4
    decay: Literal["first", "all"] = "first"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "validate_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidArgumentError(f"{name} must be at least 1, found {value}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InvalidArgumentError(
                f"learning_rate must be above 0 and finite, found {self.learning_rate}"
            )
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise InvalidArgumentError(
                f"weight_decay must be at least 0 and finite, found {self.weight_decay}"
            )


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch came to.

    Attributes:
        epoch: Its number, from 0.
        loss: Mean training loss of its steps, with dropout.
        validation_loss: On the validation nodes after it, where it was validated.
        validation_accuracy: Likewise.

    Example:
        >>> from mbflow.graph.train import EpochRecord
        >>> EpochRecord(0, 1.9).validation_loss is None
        True
    """

    epoch: int
    loss: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class Training:
    """How a training went.

    Attributes:
        epochs: What each epoch came to.
        best_epoch: The epoch with the best validation; without validation, the last.
        kept_epoch: The epoch whose weights the network has now.

    Example:
        >>> from mbflow.graph.train import EpochRecord, Training
        >>> Training((EpochRecord(0, 1.9),), 0, 0).validation_accuracy is None
        True
    """

    epochs: tuple[EpochRecord, ...]
    best_epoch: int
    kept_epoch: int

    @property
    def validation_accuracy(self) -> float | None:
        """Of the weights that were kept."""
        return self.epochs[self.kept_epoch].validation_accuracy

    @property
    def validation_loss(self) -> float | None:
        """Of the weights that were kept."""
        return self.epochs[self.kept_epoch].validation_loss


def train(
    model: GraphNetwork,
    graph: Graph,
    *,
    features: NDArray[Any],
    labels: NDArray[Any],
    batches: SampleBatches,
    validation: NDArray[Any] | None = None,
    schedule: Schedule | None = None,
    device: str = "auto",
    threads: int = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 30.0,
    about: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int, float], object] | None = None,
) -> Training:
    """Train a network in place; it ends with the weights of the best epoch, or of the last.

    Weights and times of the graph's edges do not enter the network. Times bound what a temporal
    sampler draws for training; validation is over all edges of the graph, later ones too.

    Args:
        model: The network.
        graph: The graph, for validation and for the degrees; the batches must be of it.
        features: Of shape (nodes, columns), also memory-mapped: only rows of a sample are read.
        labels: Class codes of shape (nodes,), whole numbers, -1 where the class is not known:
            looked at where a node is a seed or in `validation`.
        batches: The samples that training is over.
        validation: Nodes that decide which epoch is best, as ids or as a mask of all nodes; None
            keeps the last.
        schedule: How it is trained; default: as Kipf and Welling did.
        device: Where: `"auto"`, `"cpu"`, `"cuda"`. The network is left there.
        threads: For inference on the validation nodes; the weights do not depend on it.
        checkpoint: A file to go on from where it is there, and to write: every
            `checkpoint_seconds`, on Ctrl-C, when `on_progress` raises, and at the end. It holds
            digests of what the training depends on, for which all features are read once. With
            more `epochs` in the schedule it goes on, as if they had been given at first.
        checkpoint_seconds: Least time between checkpoints; 0 writes one after each step.
        about: What else the training depends on, as plain data: a checkpoint with other values is
            refused.
        on_progress: Called after each step with (steps done, steps of all epochs, training loss);
            it may raise to stop.

    Returns:
        How it went.

    Raises:
        InvalidArgumentError: The loss is not finite, a seed or validation node has no label or one
            that the network has no class for, the batches are of another graph, or an argument is
            of another type.
        DataError: Features or labels are not those of the graph and the network, a feature is not
            finite, or the checkpoint is damaged, or that of another training.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph import Graph
        >>> from mbflow.graph.models import GCN
        >>> from mbflow.graph.train import Schedule, WholeGraph, train
        >>> graph = Graph(np.array([0, 1, 2], np.uint64), np.array([1, 0], np.uint32), 2)
        >>> training = train(
        ...     GCN(2, 2),
        ...     graph,
        ...     features=np.eye(2),
        ...     labels=np.array([0, 1]),
        ...     batches=WholeGraph(graph, [0, 1], layers=2),
        ...     schedule=Schedule(epochs=3),
        ...     device="cpu",
        ... )
        >>> len(training.epochs)
        3
    """
    schedule = Schedule() if schedule is None else schedule
    if not isinstance(schedule, Schedule):
        raise InvalidArgumentError(f"schedule: expected a Schedule, got {type(schedule).__name__}")
    check_network(model)
    check_batches(graph, batches)
    features = check_features(model, graph, features)
    codes = check_labels(graph, labels)
    watched = None if validation is None else check_nodes(graph, validation, "validation")
    place = device_of(device)
    model.to(place)
    loop = _Loop(model, graph, features, codes, schedule, place, threads, watched)
    depends = dict(about or {})
    if checkpoint is not None:
        depends |= identity(graph, batches, features=features, labels=codes, validation=watched)
    resumed = _Resume(checkpoint, checkpoint_seconds, loop, depends)
    resumed.load()
    steps = [batches.steps(epoch) for epoch in range(schedule.epochs)]
    if not all(steps):
        raise InvalidArgumentError(
            f"epoch {steps.index(0)} has no step: there are too few training nodes for a batch"
        )
    total = sum(steps)
    with single_threaded(), _deferred_interrupt() as interrupted:
        while not loop.ended:
            before = loop.epoch, loop.step
            for sample in batches.epoch(loop.epoch, start=loop.step):
                loss = loop.train_step(sample)
                if loop.step == steps[loop.epoch]:
                    loop.end_epoch()
                done = sum(steps[: loop.epoch]) + loop.step
                resumed.after_step(interrupted, on_progress, (done, total, loss))
                if loop.step == 0:
                    break
            if (loop.epoch, loop.step) == before:
                raise DefectError(f"epoch {loop.epoch} has no sample at step {loop.step}")
        # Before the best weights are put in place: with more epochs it goes on from the last ones.
        resumed.save()
        return loop.result()


@contextmanager
def _deferred_interrupt() -> Iterator[threading.Event]:
    """Let Ctrl-C wait for the end of a step; a second one is at once."""
    asked = threading.Event()
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield asked
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            signal.default_int_handler(number, frame)
        asked.set()

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Loop:
    """The state of a training, and its steps."""

    def __init__(
        self,
        model: GraphNetwork,
        graph: Graph,
        features: NDArray[Any],
        codes: NDArray[np.int64],
        schedule: Schedule,
        device: torch.device,
        threads: int,
        validation: NDArray[np.int64] | None,
    ) -> None:
        self.model = model
        self.schedule = schedule
        self.epoch = self.step = 0
        self.total = 0.0
        self.records: list[EpochRecord] = []
        self._graph = graph
        self._features = features
        self._codes = codes
        self._device = device
        self._threads = threads
        self._degrees = in_degrees(graph)
        self._validation = None
        if validation is not None and len(validation):
            self._validation = torch.from_numpy(validation)
            self._watched = self._labels(self._validation.numpy(), "validation node")
        weights = list(model.parameters())
        first = {id(weight) for weight in model.convolutions[0].parameters()}
        decayed = [w for w in weights if schedule.decay == "all" or id(w) in first]
        rest = [w for w in weights if not any(w is one for one in decayed)]
        groups = [
            {"params": decayed, "weight_decay": schedule.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.Adam(
            [group for group in groups if group["params"]], lr=schedule.learning_rate
        )
        self.best = BestWeights(weights)
        self._sample: Sample | None = None
        self._tensors: tuple[tuple[TensorLayer, ...], torch.Tensor, torch.Tensor, torch.Tensor]

    @property
    def off_beat(self) -> bool:
        """Whether the last validation was due only because the epochs ended."""
        validated = self._validation is not None and self.step == 0 and self.epoch > 0
        return validated and self.epoch % self.schedule.validate_every != 0

    @property
    def ended(self) -> bool:
        """Whether all epochs are done, or none got better for long enough."""
        if self.step:
            return False
        if self.epoch == self.schedule.epochs:
            return True
        patience = self.schedule.patience
        if patience is None or self.best.epoch < 0 or self._validation is None:
            return False
        return self.epoch - 1 - self.best.epoch >= patience

    def train_step(self, sample: Sample) -> float:
        """One step of the optimiser; the loss before it."""
        layers, inputs, seeds, targets = self._moved(sample)
        self.model.train()
        # Far fewer than 2**32 steps make an epoch.
        index = (self.epoch << 32) + self.step
        key = int(_native.random_u64(self.schedule.seed, _STREAM_DROPOUT, index, 1)[0])
        logits = self.model(layers, inputs, key=key)[seeds]
        loss = torch.nn.functional.cross_entropy(logits, targets)
        value = float(loss.detach())
        if not math.isfinite(value):
            refuse_not_finite(self._features[sample.nodes], sample.nodes)
            raise InvalidArgumentError(
                f"training diverged: the loss is {value} at step {self.step} of epoch "
                f"{self.epoch} with learning_rate {self.schedule.learning_rate}; use a lower one"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.step += 1
        self.total += value
        return value

    def _moved(
        self, sample: Sample
    ) -> tuple[tuple[TensorLayer, ...], torch.Tensor, torch.Tensor, torch.Tensor]:
        if self._sample is not sample:
            layers = tensor_layers(sample, self._degrees, device=self._device)
            gathered = np.asarray(self._features[sample.nodes], dtype=np.float32)
            targets = self._labels(sample.nodes[sample.seeds], "seed")
            self._tensors = (
                layers,
                torch.from_numpy(gathered).to(self._device),
                torch.from_numpy(np.array(sample.seeds, dtype=np.int64)).to(self._device),
                targets.to(self._device),
            )
            self._sample = sample
        return self._tensors

    def _labels(self, nodes: NDArray[Any], what: str) -> torch.Tensor:
        codes = self._codes[nodes]
        if len(codes) and codes.min() < 0:
            node = int(nodes[int(np.argmax(codes < 0))])
            raise InvalidArgumentError(f"the {what} {node} has no label")
        classes = getattr(self.model.convolutions[-1], "out_features", None)
        if classes is not None and len(codes) and codes.max() >= classes:
            node = int(nodes[int(np.argmax(codes >= classes))])
            raise InvalidArgumentError(
                f"the {what} {node} has the label {int(self._codes[node])}, and the network "
                f"{classes} classes; expected 0 to {classes - 1}"
            )
        return torch.from_numpy(codes)

    def end_epoch(self) -> None:
        """Validate, where it is time, and move on to the next epoch."""
        loss = accuracy = None
        last = self.epoch + 1 == self.schedule.epochs
        if self._validation is not None and (
            last or (self.epoch + 1) % self.schedule.validate_every == 0
        ):
            loss, accuracy = self._validate(self._validation)
            self.best.offer(self.epoch, loss if self.schedule.watch == "loss" else -accuracy)
        self.records.append(EpochRecord(self.epoch, self.total / self.step, loss, accuracy))
        self.epoch, self.step, self.total = self.epoch + 1, 0, 0.0

    def _validate(self, nodes: torch.Tensor) -> tuple[float, float]:
        found = infer(self.model, self._graph, features=self._features, threads=self._threads)
        logits = found.logits[nodes]
        loss = float(torch.nn.functional.cross_entropy(logits, self._watched))
        if not math.isfinite(loss):
            refuse_not_finite(self._features)
        return loss, float((logits.argmax(dim=1) == self._watched).double().mean())

    def result(self) -> Training:
        """Put the weights in place that are to be kept."""
        last = len(self.records) - 1
        best = last if self.best.epoch < 0 else self.best.epoch
        kept = last
        if self.schedule.keep == "best" and self.best.epoch >= 0:
            self.best.restore()
            kept = best
        return Training(tuple(self.records), best, kept)


class _Resume:
    """Writes and reads the checkpoints of a loop."""

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        seconds: float,
        loop: _Loop,
        about: dict[str, Any],
    ) -> None:
        self._path = None if path is None else Path(path)
        self._seconds = seconds
        self._loop = loop
        self._about = {
            **about,
            **asdict(loop.schedule),
            "weights": {name: list(w.shape) for name, w in loop.model.state_dict().items()},
        }
        self._saved = time.monotonic()

    def load(self) -> None:
        if self._path is None:
            return
        try:
            found = read_checkpoint(self._path)
        except FileNotFoundError:
            return
        loop = self._loop
        about = found.get("about")
        about = about if isinstance(about, dict) else {}
        epochs, most = about.get("epochs"), loop.schedule.epochs
        longer = isinstance(epochs, int) and epochs < most
        check_same(self._path, {**about, "epochs": most} if longer else about, self._about)
        loop.model.load_state_dict(found["model"])
        loop.optimiser.load_state_dict(found["optimiser"])
        loop.best.load_state_dict(found["best"])
        loop.epoch, loop.step, loop.total = found["epoch"], found["step"], found["total"]
        loop.records = [EpochRecord(**record) for record in found["records"]]
        if longer and loop.epoch == epochs and loop.off_beat:
            raise DataError(
                f"{self._path}: {epochs} epochs, the last validated although `validate_every` is "
                f"{loop.schedule.validate_every}, so that more of them are another training; name "
                "another file, or remove it to train from the start"
            )

    def save(self) -> None:
        if self._path is None:
            return
        loop = self._loop
        content = {
            "mbflow_checkpoint": 1,
            "about": self._about,
            "model": loop.model.state_dict(),
            "optimiser": loop.optimiser.state_dict(),
            "best": loop.best.state_dict(),
            "epoch": loop.epoch,
            "step": loop.step,
            "total": loop.total,
            "records": [asdict(record) for record in loop.records],
        }
        write_checkpoint(self._path, content)
        self._saved = time.monotonic()

    def after_step(
        self,
        interrupted: threading.Event,
        on_progress: Callable[[int, int, float], object] | None,
        figures: tuple[int, int, float],
    ) -> None:
        """Between two steps the state is whole: the place to stop, and to save."""
        try:
            if on_progress is not None:
                on_progress(*figures)
            _leave(interrupted)
        except BaseException:
            self.save()
            raise
        if time.monotonic() - self._saved >= self._seconds:
            self.save()


def _leave(interrupted: threading.Event) -> None:
    if interrupted.is_set():
        raise KeyboardInterrupt
