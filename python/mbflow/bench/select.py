"""The hashing graph beside scikit-learn's exact neighbours and FAISS: time and recall."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow import _native
from mbflow.bench.data import manifold, mixture
from mbflow.bench.harness import Case, measure, require_release
from mbflow.select import FeatureEncoder, Graph, exact_recall, neighbour_graph

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
    "ivf_at_equal_recall",
    "hnsw_at_equal_recall",
    "note",
)
SIZES: tuple[tuple[int, int], ...] = ((100_000, 20),)
LARGE_SIZES: tuple[tuple[int, int], ...] = ((1_000_000, 32),)

_PROBES = (8, 16, 32, 64)
_VIEWS = (10, 20, 32)
_IVF_PROBES = (8, 24)
_HNSW_EF = (16, 64)
_MANIFOLD_COLUMNS = 96
# Clusters that hardly overlap: many centres, little noise.
_APART: dict[str, Any] = {"clusters": 200, "spread": 0.3}
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
        sizes: (rows, columns) of the made-up data: for each, a mixture of 50 overlapping clusters,
            one of 200 that lie apart, one normal cloud, and, with 96 columns, a curved surface of
            16 dimensions.
        large: Also measure both mixtures of `LARGE_SIZES`, without scikit-learn; this takes
            minutes.
        repeats: Turns; times are medians.
        neighbours: Neighbours of each row.
        sample: Rows on which recall is measured against brute force.
        data: A labelled Parquet file to measure as well.
        label: Its label column, which is no feature.
        seed: Key of the data, of the graph and of the sample.
        on_progress: Called before each run with a line of text.

    Returns:
        Records with the keys `COLUMNS`; `times_faster_than_ivf` is the time of FAISS IVF-Flat with
        8 probes over that of the method. `ivf_at_equal_recall` is the time that IVF-Flat would
        need for the recall of the method over the time of the method, and `hnsw_at_equal_recall`
        the same for HNSW: a peer's time is interpolated between its two settings, linearly in the
        logarithms of the time and of the share of neighbours missed; a recall below that of its
        first setting takes the time of the first, which favours the method, and one above its last
        setting has no ratio.

    Raises:
        ResourceError: The native extension is a debug build.
        InvalidArgumentError: A size is out of range.

    Example:
        >>> from mbflow.bench.select import COLUMNS
        >>> COLUMNS[:3]
        ('data', 'rows', 'columns')
    """
    require_release()
    sets: list[tuple[str, Callable[[], NDArray[np.float32]]]] = []
    for rows, columns in sizes:
        sets += _mixtures(rows, columns, seed)
        sets += [
            (
                f"isotropic {rows:,} x {columns}",
                partial(_mixture, rows, columns, {"clusters": 1}, seed),
            ),
            (
                f"manifold {rows:,} x {_MANIFOLD_COLUMNS}",
                partial(manifold, rows, _MANIFOLD_COLUMNS, seed=seed),
            ),
        ]
    for rows, columns in LARGE_SIZES if large else ():
        sets += _mixtures(rows, columns, seed)
    if data is not None:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(Path(data)).drop_columns([label])
        sets.append((Path(data).stem, partial(FeatureEncoder().fit_transform, table)))
    records: list[dict[str, Any]] = []
    for name, make in sets:
        features = make()
        measured = measure(
            _cases(features, neighbours, seed),
            repeats=repeats,
            on_progress=partial(_tell, on_progress, name),
        )
        anchor = next(case.median for case in measured if case.name == _ANCHOR)
        recalls = {
            case.name: exact_recall(case.result, features, sample=sample, seed=seed)
            for case in measured
            if not case.skipped
        }
        curves = [
            [
                (case.median, recalls[case.name])
                for case in measured
                if case.median and case.name.startswith(peer)
            ]
            for peer in ("FAISS IVF", "FAISS HNSW")
        ]
        for case in measured:
            recall = recalls.get(case.name)
            ours = case.name.startswith("mbflow")
            equal = [
                _at_recall(curve, recall) / case.median
                if ours and case.median and recall is not None and _reaches(curve, recall)
                else None
                for curve in curves
            ]
            ratio = anchor / case.median if anchor and case.median else None
            values = (name, *features.shape, case.name, case.median, recall, ratio, *equal)
            records.append(dict(zip(COLUMNS, (*values, case.skipped), strict=True)))
    return records


def _mixture(rows: int, columns: int, options: dict[str, Any], seed: int) -> NDArray[np.float32]:
    return mixture(rows, columns, seed=seed, **options)[0]


def _mixtures(
    rows: int, columns: int, seed: int
) -> list[tuple[str, Callable[[], NDArray[np.float32]]]]:
    size = f"{rows:,} x {columns}"
    return [
        (f"mixture {size}", partial(_mixture, rows, columns, {}, seed)),
        (f"separated mixture {size}", partial(_mixture, rows, columns, _APART, seed)),
    ]


def _reaches(curve: list[tuple[float, float]], recall: float) -> bool:
    return bool(curve) and recall <= max(reached for _, reached in curve)


def _at_recall(curve: list[tuple[float, float]], recall: float) -> float:
    """The time a peer needs for a recall that it reaches; see `run`."""
    curve = sorted(curve, key=lambda point: point[1])
    missed = [np.log(max(1 - reached, 1e-4)) for _, reached in curve]
    times = [np.log(seconds) for seconds, _ in curve]
    # The share missed falls along the curve; interpolation wants rising numbers.
    wanted = np.log(max(1 - recall, 1e-4))
    return float(np.exp(np.interp(-wanted, [-share for share in missed], times)))


def _tell(
    on_progress: Callable[[str], object] | None, data: str, case: str, turn: int, turns: int
) -> None:
    if on_progress is not None:
        on_progress(f"{data}: {case}, {turn} of {turns}")


def _cases(features: NDArray[np.float32], neighbours: int, seed: int) -> list[Case]:
    graph = partial(neighbour_graph, features, neighbours=neighbours, seed=seed)
    cases = [
        Case(
            f"mbflow single_level probes {probes}",
            partial(graph, kind="single_level", probes=probes),
        )
        for probes in _PROBES
    ]
    cases += [
        Case(f"mbflow multi_view views {views}", partial(graph, kind="multi_view", views=views))
        for views in _VIEWS
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
    cases += [
        Case(f"FAISS HNSW M16 ef {ef}", partial(_hnsw, features, neighbours, ef), "faiss")
        for ef in _HNSW_EF
    ]
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


def _hnsw(features: NDArray[np.float32], neighbours: int, ef: int) -> Graph:
    import faiss

    faiss.omp_set_num_threads(_native.num_threads())
    index = faiss.IndexHNSWFlat(features.shape[1], 16)
    index.add(features)
    index.hnsw.efSearch = ef
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
