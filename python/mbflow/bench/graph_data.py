"""Made-up graphs like ogbn-products: many nodes of few neighbours, few of very many."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Files", "degrees", "make", "write_parquet"]

_CHUNK = 1 << 22
# Spread of the logarithm of a degree: the largest of 2.4 million is then some 240 times the mean,
# as in ogbn-products.
_SPREAD = 1.22


@dataclass(frozen=True)
class Files:
    """A made-up graph in NumPy files, which this process and peers in other ones map into memory.

    Attributes:
        folder: Holds `offsets.npy` (`int64 [nodes + 1]`), `sources.npy` (`uint32 [edges]`),
            `sources64.npy` (`int64 [edges]`, the same, for peers) and `weights.npy`
            (`float32 [edges]`, above 0 and up to 1).
        nodes: How many.
        edges: How many.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.bench.graph_data import Files
        >>> Files(Path("graph"), 10, 20).edges
        20
    """

    folder: Path
    nodes: int
    edges: int

    def array(self, name: str) -> NDArray[Any]:
        """An array of the graph, mapped into memory.

        Args:
            name: Of a file without its ending.

        Returns:
            The array, which cannot be written to.
        """
        found: NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return found


def degrees(nodes: int, edges: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Log-normal degrees that sum to a number of edges.

    Args:
        nodes: How many nodes, at least 1.
        edges: How many edges.
        seed: Of the draws.

    Returns:
        `int64 [nodes]`.

    Raises:
        InvalidArgumentError: There is no node, or a number is negative.

    Example:
        >>> from mbflow.bench.graph_data import degrees
        >>> found = degrees(1000, 20_000)
        >>> int(found.sum()), bool(found.max() > 10 * found.mean())
        (20000, True)
    """
    if nodes < 1 or edges < 0:
        raise InvalidArgumentError(
            f"nodes is {nodes} and edges is {edges}; expected at least 1 and at least 0"
        )
    drawn: NDArray[Any] = np.random.default_rng(seed).lognormal(0.0, _SPREAD, nodes)
    ends = np.cumsum(drawn)
    # Rounding the running sum, not each degree, keeps the number of edges.
    ends = np.round(ends * (edges / ends[-1])).astype(np.int64)
    ends[-1] = edges
    found: NDArray[np.int64] = np.diff(ends, prepend=0)
    return found


def make(
    nodes: int,
    edges: int,
    folder: str | Path,
    *,
    seed: int = 0,
    on_progress: Callable[[str], object] | None = None,
) -> Files:
    """Make a graph, or open it where it was made before.

    In-degrees are log-normal; an edge comes from a node by chance of that node's own degree. Edges
    may repeat, as they may in a configuration model. Takes some 5 bytes of memory an edge.

    Args:
        nodes: How many nodes.
        edges: How many edges.
        folder: Where graphs are kept, each in a folder of its own.
        seed: Of the draws.
        on_progress: Called with a line of text before the work.

    Returns:
        The graph's files.

    Raises:
        InvalidArgumentError: There is no node, or a number is negative.

    Example:
        >>> from mbflow.bench.graph_data import make
        >>> files = make(100, 500, "graphs")
        >>> files.array("sources").shape, int(files.array("offsets")[-1])
        ((500,), 500)
    """
    home = Path(folder) / f"products-like-{nodes}-{edges}-{seed}"
    files = Files(home, nodes, edges)
    if (home / "graph.json").exists():
        return files
    if on_progress is not None:
        on_progress(f"making a graph of {nodes:,} nodes and {edges:,} edges")
    counts = degrees(nodes, edges, seed=seed)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    partial = home.with_name(home.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    np.save(partial / "offsets.npy", offsets)
    kinds = {"sources": np.uint32, "sources64": np.int64, "weights": np.float32}
    written = {
        name: np.lib.format.open_memmap(partial / f"{name}.npy", "w+", dtype, (edges,))
        for name, dtype in kinds.items()
    }
    draw = np.random.default_rng((seed, 1))
    owners = _owners(offsets)
    for begin, end in _pieces(offsets):
        low, high = int(offsets[begin]), int(offsets[end])
        drawn = owners[draw.integers(0, edges, high - low)]
        order = np.repeat(np.arange(begin, end), counts[begin:end]) * nodes
        chosen = np.sort(order + drawn) - order
        written["sources"][low:high] = chosen
        written["sources64"][low:high] = chosen
        written["weights"][low:high] = 1.0 - draw.random(high - low, np.float32)
    for one in written.values():
        one.flush()
    (partial / "graph.json").write_text(json.dumps({"nodes": nodes, "edges": edges}), "utf-8")
    shutil.rmtree(home, ignore_errors=True)
    partial.rename(home)
    return files


def _pieces(offsets: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ranges of nodes of about as many edges as a chunk has, or of one node."""
    found = []
    begin, nodes = 0, len(offsets) - 1
    while begin < nodes:
        end = int(np.searchsorted(offsets, offsets[begin] + _CHUNK, side="right")) - 1
        end = min(max(end, begin + 1), nodes)
        found.append((begin, end))
        begin = end
    return found


def _owners(offsets: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The node of each edge: any one of them is a node by chance of its degree."""
    found: NDArray[np.uint32] = np.repeat(
        np.arange(len(offsets) - 1, dtype=np.uint32), np.diff(offsets)
    )
    return found


def write_parquet(files: Files, path: str | Path, *, edges: int | None = None) -> int:
    """Write an edge list in no order, of the graph's degrees.

    Args:
        files: The graph.
        path: The file to write: `src` and `dst`, `int64`.
        edges: How many; by default as many as the graph has.

    Returns:
        How many bytes the file has.

    Example:
        >>> from mbflow.bench.graph_data import make, write_parquet
        >>> write_parquet(make(100, 500, "graphs"), "edges.parquet") > 1000
        True
    """
    import pyarrow as pa
    from pyarrow import parquet

    owners = _owners(files.array("offsets"))
    draw = np.random.default_rng(2)
    schema = pa.schema([("src", pa.int64()), ("dst", pa.int64())])
    left = files.edges if edges is None else edges
    with parquet.ParquetWriter(path, schema) as writer:
        while left:
            count = min(left, 1 << 21)
            pair = [owners[draw.integers(0, len(owners), count)].astype(np.int64) for _ in schema]
            writer.write_table(pa.table(dict(zip(schema.names, pair, strict=True)), schema))
            left -= count
    return Path(path).stat().st_size
