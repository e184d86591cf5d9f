"""Where work runs: an engine maps a function over items. The rest of a run is in `run`.

Example:
    >>> from mbflow.flow.engine import LocalEngine
    >>> with LocalEngine(threads=2) as engine:
    ...     list(engine.map(abs, [-1, -2, 3]))
    [1, 2, 3]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, Self, TypeVar

__all__ = ["Engine", "LocalEngine"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(Protocol):
    """All that an engine provides.

    Results come in the order of the items, so that nothing can depend on which worker was faster.

    Example:
        >>> from mbflow.flow.engine import Engine, LocalEngine
        >>> engine: Engine = LocalEngine(threads=1)
        >>> list(engine.map(abs, [-1]))
        [1]
        >>> engine.close()
    """

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply `function` to each item; a bounded number of items is under way at a time."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...


class LocalEngine:
    """Runs on the threads of this process.

    Kernels, Parquet reading, torch and scikit-learn let go of the interpreter lock while they work,
    so threads are enough and nothing has to be pickled.

    Args:
        threads: How many items are worked on at the same time, at least 1.

    Example:
        >>> from mbflow.flow.engine import LocalEngine
        >>> engine = LocalEngine(threads=1)
        >>> list(engine.map(len, ["a", "bb"]))
        [1, 2]
        >>> engine.close()
    """

    def __init__(self, *, threads: int) -> None:
        self._threads = max(1, threads)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="mbflow")

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply `function` to each item; the first error ends the map and is raised."""
        under_way: deque[Future[Result]] = deque()
        try:
            for item in items:
                under_way.append(self._pool.submit(function, item))
                if len(under_way) > self._threads:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()

    def close(self) -> None:
        """Stop taking work; what is under way ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
