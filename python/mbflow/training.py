"""What training loops share: threading that leaves results alone, dropout by key, best weights.

Libraries split one sum over their threads, and the order of a floating point sum decides its last
bits. So each task here runs on one thread, tasks run beside each other, and their results are
combined in task order: the bits are the same for any number of threads.
"""

from __future__ import annotations

import math
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import torch

__all__ = ["BestWeights", "keep_mask", "ordered_tasks", "single_threaded", "without_warnings"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_lock = threading.Lock()
_holders = 0
_held = ExitStack()
_silenced = 0
_silence = ExitStack()


@contextmanager
def single_threaded() -> Iterator[None]:
    """Hold torch, BLAS and OpenMP at one thread each; put their settings back at the end.

    May be entered again, also by several threads at once: the last to leave restores. Only
    libraries that are loaded already are held, so import them first; BLAS and OpenMP are held where
    `threadpoolctl` is installed (scikit-learn brings it).

    Yields:
        Nothing.

    Example:
        >>> from mbflow.training import single_threaded
        >>> with single_threaded():
        ...     total = sum(range(3))
        >>> total
        3
    """
    global _holders  # noqa: PLW0603 - library thread counts are state of the process, so is this
    with ExitStack() as own:
        with _lock:
            torch_threads = _torch_threads()
            # OpenMP keeps its count per thread, so each thread that enters holds its own; BLAS and
            # torch keep one for the process, so the first to enter holds it for all.
            own.enter_context(_limited("openmp"))
            if _holders == 0:
                _held.enter_context(_limited("blas"))
                if torch_threads is not None:
                    _set_torch_threads(1)
                    _held.callback(_set_torch_threads, torch_threads)
            _holders += 1
        try:
            yield
        finally:
            with _lock:
                _holders -= 1
                if _holders == 0:
                    _held.pop_all().close()


@contextmanager
def without_warnings() -> Iterator[None]:
    """Hold back warnings; put the filters back at the end.

    May be entered again, also by several threads at once: the last to leave restores. The filters
    belong to the process, and `warnings.catch_warnings` in several threads would put back each
    other's.

    Yields:
        Nothing.

    Example:
        >>> import warnings
        >>> from mbflow.training import without_warnings
        >>> with without_warnings():
        ...     warnings.warn("of no interest", stacklevel=1)
    """
    global _silenced  # noqa: PLW0603 - the filters are state of the process, so is this
    with _lock:
        if _silenced == 0:
            _silence.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        _silenced += 1
    try:
        yield
    finally:
        with _lock:
            _silenced -= 1
            if _silenced == 0:
                _silence.pop_all().close()


def _torch_threads() -> int | None:
    if "torch" not in sys.modules:
        return None
    import torch

    return torch.get_num_threads()


def _set_torch_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


@contextmanager
def _limited(interface: str) -> Iterator[None]:
    try:
        from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        yield
        return
    # Selected first: `threadpool_limits` would give back, at its end, other libraries' limits too.
    with ThreadpoolController().select(user_api=interface).limit(limits=1):
        yield


@contextmanager
def ordered_tasks(threads: int) -> Iterator[Callable[..., list[object]]]:
    """A `map` over up to `threads` Python threads that returns its results in task order.

    Worth its cost where a task spends its time in code that lets go of the interpreter lock, as
    torch and NumPy do on large arrays.

    Args:
        threads: At least 1; with 1 the tasks run in the calling thread.

    Yields:
        A function `(function, *iterables) -> list`.

    Example:
        >>> from mbflow.training import ordered_tasks
        >>> with ordered_tasks(2) as run:
        ...     run(abs, [-3, 2, -1])
        [3, 2, 1]
    """

    def in_turn(function: Callable[..., Result], *items: Iterable[Item]) -> list[Result]:
        return list(map(function, *items))

    if threads <= 1:
        yield in_turn
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="mbflow") as pool:

        def side_by_side(function: Callable[..., Result], *items: Iterable[Item]) -> list[Result]:
            return list(pool.map(function, *items))

        yield side_by_side


def keep_mask(shape: tuple[int, ...], share: float, key: int) -> torch.Tensor:
    """0 for the share that is dropped, to the nearest 1/256, and a factor that keeps the mean else.

    One random byte a value: drawing whole floats would take longer than the layer itself.

    Args:
        shape: Of the mask.
        share: What is dropped, at least 0 and below 1.
        key: Equal keys give equal masks.

    Returns:
        float32 of that shape.

    Example:
        >>> from mbflow.training import keep_mask
        >>> keep_mask((2, 3), 0.0, 7).tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    import numpy as np
    import torch

    limit = min(255, round(share * 256))
    count = int(np.prod(shape))
    drawn = np.frombuffer(np.random.Generator(np.random.SFC64(key)).bytes(count), dtype=np.uint8)
    keep = (drawn >= limit).astype(np.float32)
    keep *= 256 / (256 - limit)
    return torch.from_numpy(keep).view(shape)


class BestWeights:
    """Copies of the weights at the lowest loss seen, and the count of epochs since.

    Holds real copies: a reference would follow the optimiser and give back the last weights.

    Args:
        weights: The tensors that training changes in place.

    Example:
        >>> import torch
        >>> from mbflow.training import BestWeights
        >>> weight = torch.tensor([1.0])
        >>> best = BestWeights([weight])
        >>> best.offer(0, 0.5), best.offer(1, 0.9)
        (True, False)
        >>> _ = weight.add_(10.0)
        >>> best.restore()
        >>> weight
        tensor([1.])
    """

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        self._weights = list(weights)
        self._copies: list[torch.Tensor] = []
        self.loss = math.inf
        self.epoch = -1

    def offer(self, epoch: int, loss: float) -> bool:
        """Keep a copy of the weights if `loss` is the lowest so far; say whether it was."""
        if not loss < self.loss:
            return False
        self.loss = loss
        self.epoch = epoch
        self._copies = [weight.detach().clone() for weight in self._weights]
        return True

    def restore(self) -> None:
        """Write the kept copies back into the weights; does nothing if none was kept."""
        for weight, copy in zip(self._weights, self._copies, strict=False):
            weight.data.copy_(copy)

    def state_dict(self) -> dict[str, Any]:
        """The lowest loss, its epoch and the copies, for a checkpoint."""
        return {"loss": self.loss, "epoch": self.epoch, "copies": self._copies}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.loss, self.epoch = float(state["loss"]), int(state["epoch"])
        self._copies = list(state["copies"])
