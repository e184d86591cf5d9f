"""Samplers side by side: edges a second with relabelling, by one thread and by two."""

from __future__ import annotations

import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.bench.graph_children import Child, children, seeds_file
from mbflow.graph import Graph, NeighbourSampler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mbflow.bench.graph_data import Files

__all__ = ["FANOUTS", "Workload", "graph_of", "labor", "sample", "weighted"]

Records = list[dict[str, Any]]

FANOUTS: dict[str, tuple[int, ...]] = {"15-10-5": (15, 10, 5), "25-10": (25, 10)}
"""By the name that tables give them; from the seeds outward."""

_OWN = "mbflow"
_WITHIN = "threads within a batch"
_BATCHES = "threads by batches"


# What is the same in all records of a table, or stands elsewhere in them.
_ALIKE = ("ids", "threads", "sharing", "times_best_peer", "note")


@dataclass(frozen=True)
class Workload:
    """What is sampled.

    Attributes:
        files: The graph.
        batches: How many batches a measurement has.
        batch_size: Seeds of a batch, none of them twice.
        repeats: Turns, in each of which every case runs once.

    Example:
        >>> from mbflow.bench.graph_data import make
        >>> from mbflow.bench.graph_sampling import Workload
        >>> Workload(make(100, 500, "graphs"), 3, 10, 1).seeds().shape
        (3, 10)
    """

    files: Files
    batches: int = 10
    batch_size: int = 1024
    repeats: int = 3

    def seeds(self) -> NDArray[np.int64]:
        """The seeds, `int64 [batches, batch_size]`.

        Returns:
            Ids of nodes.
        """
        draw = np.random.default_rng(5)
        rows = [
            draw.choice(self.files.nodes, self.batch_size, replace=False)
            for _ in range(self.batches)
        ]
        return np.array(rows, np.int64)


@dataclass(frozen=True)
class _Case:
    """One way of sampling.

    Attributes:
        name: Of the library, with its version.
        method: How edges are drawn.
        output: Type of ids.
        threads: How many.
        way: What threads share.
        run: Samples all batches once, and says what it took.
        note: Why it does not run, or empty.
    """

    name: str
    method: str
    output: str
    threads: int
    way: str
    run: Callable[[], dict[str, Any]] | None
    note: str = ""


def graph_of(files: Files) -> Graph:
    """The graph of files, read into memory.

    Args:
        files: As `graph_data.make` gives them.

    Returns:
        The graph, with weights.

    Example:
        >>> from mbflow.bench.graph_data import make
        >>> from mbflow.bench.graph_sampling import graph_of
        >>> graph_of(make(100, 500, "graphs")).edges
        500
    """
    offsets = files.array("offsets").view(np.uint64)
    mapped = Graph(offsets, files.array("sources"), files.nodes, weights=files.array("weights"))
    # In memory, as the peers have theirs.
    return mapped.in_memory()


def sample(work: Workload, tell: Callable[[str], object]) -> Records:
    """Uniform sampling without replacement, and the numbering of what was found.

    Args:
        work: What is sampled.
        tell: Called before each run with a line of text.

    Returns:
        A record for each fan-out and case: edges a second, and a second of processor time, of the
        median turn; milliseconds, edges and nodes of a batch; how often as many edges a second as
        the fastest peer on as many threads, on one thread of processor time.

    Example:
        >>> from mbflow.bench.graph_data import make
        >>> from mbflow.bench.graph_sampling import Workload, sample
        >>> records = sample(Workload(make(100, 500, "graphs"), 2, 10, 1), lambda line: None)
        >>> records[0]["case"], records[0]["method"], records[0]["edges"] > 0
        ('mbflow', 'uniform', True)
    """
    records: Records = []
    graph, seeds = graph_of(work.files), work.seeds()
    with children(work.files, threads=(1, 2)) as peers, tempfile.TemporaryDirectory() as folder:
        path = seeds_file(folder, seeds)
        for name, fanouts in FANOUTS.items():
            own = partial(_own, graph, fanouts, seeds)
            cases = [
                own("int64"),
                own("uint32"),
                own("int64", expand="new"),
                own("uint32", threads=2),
                own("int64", threads=2),
            ]
            for child in peers:
                cases += _uniform(child, fanouts, path)
            records += [
                {"fanouts": name} | record
                for record in _measured(cases, work, partial(_told, tell, f"sample {name}"))
            ]
    return records


def weighted(work: Workload, tell: Callable[[str], object]) -> Records:
    """Sampling by weights without replacement, beside uniform sampling by the same library.

    Args:
        work: What is sampled.
        tell: Called before each run with a line of text.

    Returns:
        As `sample`, and how often as long an edge takes as in the library's uniform sampling.

    Example:
        >>> from mbflow.bench.graph_sampling import weighted
        >>> weighted.__name__
        'weighted'
    """
    return _beside_uniform("weighted", work, tell)


def labor(work: Workload, tell: Callable[[str], object]) -> Records:
    """LABOR-0, beside uniform sampling by the same library.

    Args:
        work: What is sampled.
        tell: Called before each run with a line of text.

    Returns:
        As `weighted`, and how many nodes a batch has for each that uniform sampling finds.

    Example:
        >>> from mbflow.bench.graph_sampling import labor
        >>> labor.__name__
        'labor'
    """
    return _beside_uniform("labor", work, tell)


def _beside_uniform(method: str, work: Workload, tell: Callable[[str], object]) -> Records:
    graph, seeds = graph_of(work.files), work.seeds()
    found: Records = []
    needs = method == "weighted"
    with (
        children(work.files, weights=needs) as peers,
        tempfile.TemporaryDirectory() as folder,
    ):
        path = seeds_file(folder, seeds)
        for name, fanouts in FANOUTS.items():
            both: tuple[Any, ...] = ("uniform", method)
            cases = [_own(graph, fanouts, seeds, "int64", method=one) for one in both]
            for child in peers:
                if child.missing or method not in child.methods:
                    note = child.missing or f"does not sample by {method}"
                    cases.append(_Case(child.version, method, "int64", 1, "", None, note))
                    continue
                cases += [_peer(child, one, fanouts, path) for one in both]
            records = _measured(cases, work, partial(_told, tell, f"{method} {name}"))
            plain = {one["case"]: one for one in records if one["method"] == "uniform"}
            for record in records:
                base = plain.get(record["case"], record)
                kept = {key: value for key, value in record.items() if key not in _ALIKE}
                found.append(
                    {
                        "fanouts": name,
                        **kept,
                        "slower_than_uniform": _ratio(_rate(base), _rate(record)),
                        "nodes_of_uniform": _ratio(record["nodes"], base["nodes"]),
                        "note": record["note"],
                    }
                )
    return found


def _uniform(child: Child, fanouts: Sequence[int], path: str) -> list[_Case]:
    if child.missing:
        return [_Case(child.version, "uniform", "int64", 1, "", None, child.missing)]
    if child.threads > 1:
        return [_peer(child, "uniform", fanouts, path)]
    cases = [_peer(child, "uniform", fanouts, path)]
    # DGL's fused sampling loses edges where two threads sample at once: both use the graph's one
    # array of local ids.
    other = "calls" if "calls" in child.methods else "uniform"
    if other != "uniform":
        cases.append(_peer(child, other, fanouts, path))
    return [*cases, _peer(child, other, fanouts, path, workers=2)]


def _peer(
    child: Child, method: str, fanouts: Sequence[int], path: str, *, workers: int = 1
) -> _Case:
    request = {"method": method, "fanouts": list(fanouts), "seeds": path, "workers": workers}
    way = _WITHIN if child.threads > 1 else _BATCHES if workers > 1 else ""
    threads = max(child.threads, workers)
    # The two calls that a sampler is made of are another way to the same sample.
    name = f"{child.version}, unfused" if method == "calls" else child.version
    drawn = "uniform" if method == "calls" else method
    return _Case(name, drawn, "int64", threads, way, partial(child.ask, request))


def _own(
    graph: Graph,
    fanouts: Sequence[int],
    seeds: NDArray[np.int64],
    output: Any,
    *,
    method: Any = "uniform",
    threads: int = 1,
    expand: Any = "all",
) -> _Case:
    sampler = NeighbourSampler(graph, fanouts, method=method, dtype=output, expand=expand)
    name = _OWN if expand == "all" else f"{_OWN}, new nodes only"
    way = _BATCHES if threads > 1 else ""
    return _Case(name, method, output, threads, way, partial(_sampled, sampler, seeds, threads))


def _sampled(sampler: NeighbourSampler, seeds: NDArray[np.int64], threads: int) -> dict[str, Any]:
    def one(number: int) -> tuple[int, int]:
        found = sampler.sample(seeds[number], batch=number)
        return found.edges, len(found.nodes)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(threads)))  # each thread's first batch makes its tables
        started, processor = time.perf_counter(), time.process_time()
        numbers = range(len(seeds))
        counts = list(pool.map(one, numbers)) if threads > 1 else [one(n) for n in numbers]
        seconds, processor = time.perf_counter() - started, time.process_time() - processor
    edges, nodes = (sum(each) for each in zip(*counts, strict=True))
    return {"seconds": seconds, "processor": processor, "edges": edges, "nodes": nodes}


def _measured(
    cases: Sequence[_Case], work: Workload, tell: Callable[[str, int, int], object]
) -> Records:
    found: dict[int, list[dict[str, Any]]] = {place: [] for place in range(len(cases))}
    for turn in range(1, work.repeats + 1):
        for place, case in enumerate(cases):
            if case.run is not None:
                tell(f"{case.name} {case.method}", turn, work.repeats)
                found[place].append(case.run())
    records = [_record(case, found[place], work.batches) for place, case in enumerate(cases)]
    for record in records:
        rates = [
            _rate(other)
            for other in records
            if other["threads"] == record["threads"] and not other["case"].startswith(_OWN)
        ]
        best = max((rate for rate in rates if rate), default=None)
        own = record["case"].startswith(_OWN)
        record["times_best_peer"] = _ratio(_rate(record), best) if own else None
        record["note"] = record.pop("note")
    return records


def _rate(record: dict[str, Any]) -> float | None:
    """What is compared: on one thread processor time, which other programs hardly change."""
    one = record["threads"] == 1
    name = "million_edges_per_processor_second" if one else "million_edges_per_second"
    rate: float | None = record[name]
    return rate


def _record(case: _Case, runs: Sequence[dict[str, Any]], batches: int) -> dict[str, Any]:
    def median(of: Callable[[dict[str, Any]], float]) -> float | None:
        return statistics.median(map(of, runs)) if runs else None

    return {
        "case": case.name,
        "method": case.method,
        "ids": case.output,
        "threads": case.threads,
        "sharing": case.way,
        "million_edges_per_second": median(lambda run: run["edges"] / run["seconds"] / 1e6),
        "million_edges_per_processor_second": median(
            lambda run: run["edges"] / max(run["processor"], 1e-9) / 1e6
        ),
        "ms_per_batch": median(lambda run: run["seconds"] / batches * 1e3),
        "edges": median(lambda run: run["edges"] / batches),
        "nodes": median(lambda run: run["nodes"] / batches),
        "note": case.note,
    }


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one and other else None


def _told(tell: Callable[[str], object], table: str, case: str, turn: int, turns: int) -> None:
    tell(f"{table}: {case}" + (f", {turn} of {turns}" if turns > 1 else ""))
