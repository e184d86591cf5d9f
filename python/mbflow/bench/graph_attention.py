"""An epoch of a two-layer GAT by each backend: time in turns, and memory, each in a process."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import util
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mbflow import _native
from mbflow.bench.harness import peak_memory, require_release
from mbflow.errors import InvalidArgumentError, MbflowError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BACKENDS", "Epochs", "gat_epochs", "ratios"]

BACKENDS = ("native", "torch", "dgl", "pyg")
"""Backends of `mbflow.edge_attention.GraphAttention`."""
_MODULES = {"native": "torch", "torch": "torch", "dgl": "dgl", "pyg": "torch_geometric"}
_INPUTS, _HEADS, _HIDDEN, _CLASSES = 50, 4, 16, 10
_STREAM = 0xB6_0000


@dataclass(frozen=True)
class Epochs:
    """What epochs of one backend took.

    Attributes:
        backend: One of `BACKENDS`.
        threads: Threads of the kernels, of torch and of OpenMP.
        seconds: Wall time of each epoch: forward, loss, backward, step of Adam.
        losses: The loss of each epoch, the same for all backends but for rounding.
        before_bytes: Memory of the process before it made graph, features and weights.
        peak_bytes: The most that it held.
        skipped: Why there are no epochs; empty where there are.

    Example:
        >>> from mbflow.bench.graph_attention import Epochs
        >>> Epochs("native", 1, (0.3, 0.1, 0.2), (2.3, 2.2, 2.1), 5, 9).median
        0.2
    """

    backend: str
    threads: int
    seconds: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    before_bytes: int = 0
    peak_bytes: int = 0
    skipped: str = ""

    @property
    def median(self) -> float | None:
        """Median of the seconds; None where the backend was skipped."""
        return statistics.median(self.seconds) if self.seconds else None


def gat_epochs(
    *,
    nodes: int = 100_000,
    edges: int = 1_000_000,
    repeats: int = 7,
    threads: Sequence[int] = (1, 2),
    backends: Sequence[str] = BACKENDS,
    on_progress: Callable[[str, int, int], object] | None = None,
) -> list[Epochs]:
    """Time epochs of a GAT (50 -> 4 x 16 -> 10, ELU between) over a whole random graph.

    Each backend is a process of its own; they take turns, epoch by epoch, so that a slow moment of
    the machine falls on all. One epoch before the first turn is not counted.

    Args:
        nodes: Nodes.
        edges: Edges, with ends drawn uniformly.
        repeats: Epochs that are counted, at least 1.
        threads: Thread counts to run with, one after another.
        backends: Which of `BACKENDS`.
        on_progress: Called before each epoch with (backend and threads, turn from 1, turns).

    Returns:
        One result for each backend and thread count, in that order of threads.

    Raises:
        InvalidArgumentError: An argument is out of range.
        ResourceError: The native extension is a debug build.

    Example:
        >>> from mbflow.bench.graph_attention import gat_epochs
        >>> size = {"nodes": 50, "edges": 200, "repeats": 2, "threads": [1]}
        >>> [result.backend for result in gat_epochs(**size, backends=["native"])]
        ['native']
    """
    for name, value in (("nodes", nodes), ("edges", edges), ("repeats", repeats)):
        if value < 1:
            raise InvalidArgumentError(f"{name} is {value}; expected at least 1")
    unknown = set(backends) - set(BACKENDS)
    if unknown:
        raise InvalidArgumentError(
            f"there is no backend {min(unknown)!r}; expected some of {', '.join(BACKENDS)}"
        )
    require_release()
    results = []
    for count in threads:
        with ExitStack() as stack:
            workers = [
                stack.enter_context(_Worker(backend, count, nodes, edges)) for backend in backends
            ]
            for turn in range(repeats + 1):
                for worker in workers:
                    if on_progress is not None and turn and not worker.skipped:
                        on_progress(f"{worker.backend}, {count} threads", turn, repeats)
                    worker.epoch(counted=turn > 0)
            results += [worker.result() for worker in workers]
    return results


def ratios(results: Sequence[Epochs]) -> dict[str, dict[int, float]]:
    """How many times longer each other backend's median epoch takes than the native one's.

    Args:
        results: What `gat_epochs` returns.

    Returns:
        Backend -> threads -> ratio, without what was skipped.

    Example:
        >>> from mbflow.bench.graph_attention import Epochs, ratios
        >>> ratios([Epochs("native", 2, (0.1,)), Epochs("dgl", 2, (0.5,)), Epochs("pyg", 2)])
        {'dgl': {2: 5.0}}
    """
    native = {result.threads: result.median for result in results if result.backend == "native"}
    found: dict[str, dict[int, float]] = {}
    for result in results:
        ours = native.get(result.threads)
        if result.backend != "native" and result.median is not None and ours:
            found.setdefault(result.backend, {})[result.threads] = result.median / ours
    return found


class _Worker:
    """A process that does one epoch for each line it is sent."""

    def __init__(self, backend: str, threads: int, nodes: int, edges: int) -> None:
        self.backend = backend
        self.skipped = ""
        self._threads = threads
        self._size = nodes, edges
        self._replies: list[dict[str, Any]] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        module = _MODULES[self.backend]
        if util.find_spec(module) is None:
            self.skipped = f"{module} is not installed"
            return self
        name = "mbflow.bench.graph_attention"
        numbers = [str(number) for number in (self._threads, *self._size)]
        # Libraries with an OpenMP of their own (DGL) heed the environment alone.
        count = {"OMP_NUM_THREADS": numbers[0], "MBFLOW_NUM_THREADS": numbers[0]}
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, a name out of `BACKENDS`
            [sys.executable, "-m", name, self.backend, *numbers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **count},
        )
        return self

    def epoch(self, *, counted: bool) -> None:
        if self.skipped or self._process is None:
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            said = self._process.stderr.read().strip().splitlines() or ["it ended without a word"]
            self.skipped = f"failed: {said[-1][:200]}"
            return
        reply = json.loads(line)
        if "skipped" in reply:
            self.skipped = reply["skipped"]
        elif counted:
            self._replies.append(reply)

    def result(self) -> Epochs:
        if self.skipped:
            return Epochs(self.backend, self._threads, skipped=self.skipped)
        return Epochs(
            self.backend,
            self._threads,
            tuple(reply["seconds"] for reply in self._replies),
            tuple(reply["loss"] for reply in self._replies),
            self._replies[-1]["before"],
            self._replies[-1]["peak"],
        )

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        self._process.communicate()  # closes what it reads from, at which it ends


def _work(backend: str, threads: int, nodes: int, edges: int) -> None:
    """The child's side."""
    import torch

    from mbflow.edge_attention import EdgeGraph, GraphAttention

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    kind: Any = backend
    try:
        first = GraphAttention(_INPUTS, _HIDDEN, heads=_HEADS, activation="elu", backend=kind)
        second = GraphAttention(_HEADS * _HIDDEN, _CLASSES, backend=kind)
    except MbflowError as error:
        for _ in sys.stdin:
            print(json.dumps({"skipped": str(error)}), flush=True)  # noqa: T201 - to the parent
        return
    torch.manual_seed(0)
    for layer in (first, second):
        layer.reset_parameters()  # peers draw, too, when they are made
    before = peak_memory()
    ends = [_native.random_integers(0, _STREAM + end, nodes, 0, edges) for end in (0, 1)]
    offsets = np.zeros(nodes + 1, dtype=np.int64)
    np.cumsum(np.bincount(ends[0].astype(np.int64), minlength=nodes), out=offsets[1:])
    graph = EdgeGraph(offsets, ends[1].astype(np.uint32), rows=nodes)
    del ends
    features = torch.randn(nodes, _INPUTS)
    labels = torch.randint(_CLASSES, (nodes,))
    optimiser = torch.optim.Adam([*first.parameters(), *second.parameters()], lr=0.01)
    for _ in sys.stdin:
        began = time.perf_counter()
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(second(first(features, graph), graph), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        seconds = time.perf_counter() - began
        reply = {"seconds": seconds, "loss": loss.item(), "before": before, "peak": peak_memory()}
        print(json.dumps(reply), flush=True)  # noqa: T201 - to the parent


if __name__ == "__main__":
    _work(sys.argv[1], *map(int, sys.argv[2:]))
