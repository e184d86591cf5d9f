"""The hashing graph beside scikit-learn's exact neighbours and FAISS: time and recall."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow import _native
from mbflow.bench.data import mixture
from mbflow.bench.harness import Case, measure, require_release
from mbflow.select import FeatureEncoder, Graph, exact_recall, hash_graph

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["COLUMNS", "LARGE_SIZES", "SIZES", "run"]

COLUMNS = (
    "data",
    "rows",
    "columns",
    "method",
    "seconds",
    "recall",
    "times_faster_than_ivf",
    "note",
)
SIZES: tuple[tuple[int, int], ...] = ((100_000, 20),)
LARGE_SIZES: tuple[tuple[int, int], ...] = ((1_000_000, 32),)

_PROBES = (4, 8, 16, 32)
_IVF_PROBES = (8, 24)
# Exact neighbours take time that grows with the square of the rows.
_EXACT_ROWS = 100_000
_ANCHOR = "FAISS IVF-Flat nprobe 8"


def run(
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
    large: bool = False,
    repeats: int = 3,
    neighbours: int = 10,
    sample: int = 1000,
    data: str | Path | None = None,
    label: str = "label",
    seed: int = 0,
    on_progress: Callable[[str], object] | None = None,
) -> list[dict[str, Any]]:
    """Measure the hashing graph and its peers.

    All methods use the threads that mbflow uses and find the `neighbours` nearest other rows of
    every row, building included. Peers that are not installed are named as skipped.

    Args:
        sizes: (rows, columns) of each made-up mixture of 50 clusters.
        large: Also measure `LARGE_SIZES`, without scikit-learn; this takes minutes.
        repeats: Turns; times are medians.
        neighbours: Neighbours of each row.
        sample: Rows on which recall is measured against brute force.
        data: A labelled Parquet file to measure as well.
        label: Its label column, which is no feature.
        seed: Key of the data, of the graph and of the sample.
        on_progress: Called before each run with a line of text.

    Returns:
        Records with the keys `COLUMNS`; `times_faster_than_ivf` is the time of FAISS IVF-Flat with
        8 probes over that of the method.

    Raises:
        ResourceError: The native extension is a debug build.
        InvalidArgumentError: A size is out of range.

    Example:
        >>> from mbflow.bench.select import COLUMNS
        >>> COLUMNS[:3]
        ('data', 'rows', 'columns')
    """
    require_release()
    sets: list[tuple[str, NDArray[np.float32]]] = [
        (f"mixture {rows:,} x {columns}", mixture(rows, columns, seed=seed)[0])
        for rows, columns in (*sizes, *(LARGE_SIZES if large else ()))
    ]
    if data is not None:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(Path(data)).drop_columns([label])
        sets.append((Path(data).stem, FeatureEncoder().fit_transform(table)))
    records: list[dict[str, Any]] = []
    for name, features in sets:
        measured = measure(
            _cases(features, neighbours, seed),
            repeats=repeats,
            on_progress=partial(_tell, on_progress, name),
        )
        anchor = next(case.median for case in measured if case.name == _ANCHOR)
        for case in measured:
            recall = None
            if not case.skipped:
                graph = case.result
                recall = exact_recall(graph, features, sample=sample, seed=seed)
            ratio = anchor / case.median if anchor and case.median else None
            records.append(
                dict(
                    zip(
                        COLUMNS,
                        (
                            name,
                            len(features),
                            features.shape[1],
                            case.name,
                            case.median,
                            recall,
                            ratio,
                            case.skipped,
                        ),
                        strict=True,
                    )
                )
            )
    return records


def _tell(
    on_progress: Callable[[str], object] | None, data: str, case: str, turn: int, turns: int
) -> None:
    if on_progress is not None:
        on_progress(f"{data}: {case}, {turn} of {turns}")


def _cases(features: NDArray[np.float32], neighbours: int, seed: int) -> list[Case]:
    cases = [
        Case(
            f"mbflow hash graph probes {probes}",
            partial(hash_graph, features, neighbours=neighbours, probes=probes, seed=seed),
        )
        for probes in _PROBES
    ]
    if len(features) <= _EXACT_ROWS:
        cases.append(
            Case("scikit-learn brute force", partial(_brute, features, neighbours), "sklearn")
        )
    cases += [
        Case(
            f"FAISS IVF-Flat nprobe {probes}",
            partial(_ivf, features, neighbours, probes),
            "faiss",
        )
        for probes in _IVF_PROBES
    ]
    cases.append(Case("FAISS HNSW M16", partial(_hnsw, features, neighbours), "faiss"))
    return cases


def _brute(features: NDArray[np.float32], neighbours: int) -> Graph:
    from sklearn.neighbors import NearestNeighbors

    model = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(features)
    distances, found = model.kneighbors()
    return _graph(distances, found)


def _ivf(features: NDArray[np.float32], neighbours: int, probes: int) -> Graph:
    import faiss

    faiss.omp_set_num_threads(_native.num_threads())
    # The number of cells that FAISS's guidelines give for this many rows: 4 sqrt(n).
    cells = max(1, min(int(4 * len(features) ** 0.5), len(features) // 39))
    quantiser = faiss.IndexFlatL2(features.shape[1])
    index = faiss.IndexIVFFlat(quantiser, features.shape[1], cells)
    index.train(features)
    index.add(features)
    index.nprobe = probes
    return _without_self(*index.search(features, neighbours + 1))


def _hnsw(features: NDArray[np.float32], neighbours: int) -> Graph:
    import faiss

    faiss.omp_set_num_threads(_native.num_threads())
    index = faiss.IndexHNSWFlat(features.shape[1], 16)
    index.add(features)
    return _without_self(*index.search(features, neighbours + 1))


def _without_self(squares: NDArray[np.float32], found: NDArray[np.int64]) -> Graph:
    """Drop the row itself, or where it was not found, the last of the others."""
    rows, width = found.shape
    own = found == np.arange(rows)[:, None]
    own[~own.any(axis=1), -1] = True
    kept = ~own
    found = np.where(found < 0, np.arange(rows)[:, None], found)
    shape = (rows, width - 1)
    return _graph(np.sqrt(np.maximum(squares[kept], 0)).reshape(shape), found[kept].reshape(shape))


def _graph(distances: NDArray[np.floating[Any]], found: NDArray[np.integer[Any]]) -> Graph:
    rows, width = found.shape
    return Graph(
        np.arange(0, rows * width + 1, width, dtype=np.int64),
        found.astype(np.int32).ravel(),
        distances.astype(np.float32).ravel(),
        {},
    )
