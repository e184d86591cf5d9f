"""Peers' samplers as child processes, each run by the Python that has the library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mbflow.bench import graph_peers
from mbflow.bench.graph_peers import MARK, PEERS
from mbflow.errors import ResourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mbflow.bench.graph_data import Files

__all__ = ["Child", "children", "python_of"]

# Run by path, the other modules of this folder would stand in the way: one is called `select`.
_BY_PATH = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"


def python_of(peer: str) -> str:
    """The Python that runs a peer: this one, or that which `MBFLOW_BENCH_<PEER>_PYTHON` names.

    Args:
        peer: Of `graph_peers.PEERS`; `-` becomes `_` in the name of the variable.

    Returns:
        Path of the program.

    Example:
        >>> import os
        >>> from mbflow.bench.graph_children import python_of
        >>> os.environ["MBFLOW_BENCH_PYG_LIB_PYTHON"] = "other/bin/python"
        >>> python_of("pyg-lib")
        'other/bin/python'
        >>> del os.environ["MBFLOW_BENCH_PYG_LIB_PYTHON"]
    """
    name = peer.upper().replace("-", "_")
    return os.environ.get(f"MBFLOW_BENCH_{name}_PYTHON", sys.executable)


class Child:
    """A peer's process, which answers one request at a time.

    Args:
        peer: Of `graph_peers.PEERS`.
        files: The graph it samples.
        threads: That the library may use for a batch.
        weights: Whether it reads the weights.

    Attributes:
        peer: As given.
        threads: As given.
        version: The library's name and version, or the peer's name where it is missing.
        missing: Why the library does not run, or empty.
        methods: What it samples by.

    Example:
        >>> from mbflow.bench.graph_children import Child
        >>> from mbflow.bench.graph_data import make
        >>> with Child("nothing", make(100, 500, "graphs")) as child:
        ...     child.missing
        "'nothing'"
    """

    def __init__(self, peer: str, files: Files, *, threads: int = 1, weights: bool = False) -> None:
        self.peer, self.threads = peer, threads
        self.version, self.missing, self.methods = peer, "", ()
        self._said = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - closed by close()
        python = python_of(peer)
        own = python == sys.executable
        by = ["-m", graph_peers.__name__] if own else ["-c", _BY_PATH, graph_peers.__file__]
        environment = {
            key: value for key, value in os.environ.items() if own or key != "PYTHONPATH"
        }
        try:
            self._process: subprocess.Popen[str] | None = subprocess.Popen(  # noqa: S603
                [python, *by, peer, str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                env={**environment, "OMP_NUM_THREADS": str(threads)},
            )
        except OSError as error:
            self._process, self.missing = None, f"{python}: {error.strerror}"
            return
        names = ["offsets", "sources64"] + (["weights"] if weights else [])
        paths = {name: str((files.folder / f"{name}.npy").resolve()) for name in names}
        try:
            answer = self.ask({"arrays": paths})
        except ResourceError as error:
            answer = {"missing": str(error)}
        self.missing = answer.get("missing", "")
        self.version = answer.get("version", peer)
        self.methods = tuple(answer.get("methods", ()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Have the library do something.

        Args:
            request: As `graph_peers.serve` reads it.

        Returns:
            Its answer.

        Raises:
            ResourceError: The process ended.
        """
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise ResourceError(f"{self.peer} does not run: {self.missing}")
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except OSError:
            pass  # it ended, which the reading says
        for line in process.stdout:
            if line.startswith(MARK):
                found: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return found
        process.wait()
        self._said.seek(0)
        tail = (self._said.read().strip().splitlines() or ["failed"])[-1]
        raise ResourceError(f"{self.peer}: the process ended: {tail[:200]}")

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            if self._process.stdin is not None:
                self._process.stdin.close()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process.wait()
        self._said.close()


@contextmanager
def children(
    files: Files, *, threads: tuple[int, ...] = (1,), weights: bool = False
) -> Iterator[list[Child]]:
    """All peers, each with each number of threads; those that do not run once, as missing.

    Args:
        files: The graph they sample.
        threads: That a library may use for a batch.
        weights: Whether they read the weights.

    Yields:
        The processes, which end when the context does.

    Example:
        >>> from mbflow.bench.graph_children import children
        >>> children.__name__
        'children'
    """
    with ExitStack() as stack:
        found = []
        for peer in PEERS:
            for count in threads:
                child = stack.enter_context(Child(peer, files, threads=count, weights=weights))
                found.append(child)
                # pyg-lib takes one thread for a batch.
                if child.missing or peer == "pyg-lib":
                    break
        yield found


def seeds_file(folder: str | Path, seeds: Any) -> str:
    """Write batches of seeds to where the peers read them."""
    import numpy as np

    path = Path(folder).resolve() / "seeds.npy"
    np.save(path, seeds)
    return str(path)
