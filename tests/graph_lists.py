"""Edge lists and a slow, obvious way from them to columns, for the tests of graphs."""

from __future__ import annotations

from typing import Any

import numpy as np

from mbflow.graph import Graph

ARRAYS = ("offsets", "sources", "weights", "types", "times", "rows")


def oracle(
    sources: Any,
    targets: Any,
    *,
    nodes: int | None = None,
    source_nodes: int | None = None,
    weights: Any = None,
    types: Any = None,
    times: Any = None,
    duplicates: str = "keep",
    self_loops: str = "keep",
    undirected: bool = False,
    reverse: bool = False,
) -> dict[str, Any]:
    """The arrays of a graph as lists, by sorting tuples; rows are always there."""
    edges = []
    ends = (targets, sources) if reverse else (sources, targets)
    for row, (source, target) in enumerate(zip(*ends, strict=True)):
        if source == target and self_loops != "keep":
            continue
        edges.append((int(target), int(source), row))
        if undirected and source != target:
            edges.append((int(source), int(target), row))
    if nodes is None:
        ends = (
            [*sources, *targets] if source_nodes is None else [*(sources if reverse else targets)]
        )
        nodes = 1 + max(ends, default=-1)
    added = (1 << 32) - 1
    if self_loops == "add":
        edges += [(node, node, added) for node in range(nodes)]
    edges.sort()

    def value(values: Any, row: int, missing: float) -> Any:
        return missing if row == added else values[row]

    kept: dict[tuple[int, int], list[int]] = {}
    for number, (target, source, _) in enumerate(edges):
        key = (target, source) if duplicates != "keep" else (target, source, number)
        kept.setdefault(key, []).append(number)  # type: ignore[arg-type]
    groups = list(kept.values())
    first = [edges[group[0]] for group in groups]
    result: dict[str, Any] = {
        "offsets": [sum(target < node for target, _, _ in first) for node in range(nodes + 1)],
        "sources": [source for _, source, _ in first],
        "rows": [row for _, _, row in first],
        "weights": None,
        "types": None if types is None else [value(types, row, 0) for *_, row in first],
        "times": None if times is None else [value(times, row, -(1 << 63)) for *_, row in first],
    }
    if duplicates == "count":
        result["weights"] = [
            np.float32(
                sum(
                    1.0 if weights is None else float(value(weights, edges[n][2], 1.0))
                    for n in group
                )
            )
            for group in groups
        ]
    elif weights is not None:
        result["weights"] = [value(weights, row, 1.0) for *_, row in first]
    return result


def arrays(graph: Graph) -> dict[str, Any]:
    """What `oracle` gives, of a graph."""
    found = {name: getattr(graph, name) for name in ARRAYS}
    return {name: None if array is None else array.tolist() for name, array in found.items()}


def same(one: Graph, other: Graph) -> bool:
    """Whether two graphs hold the same; the width of `rows` aside."""
    return one.source_nodes == other.source_nodes and arrays(one) == arrays(other)


def random_list(
    edges: int, nodes: int, *, seed: int = 0, skew: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Sources and targets; with a skew above 1 few nodes have most edges."""
    random = np.random.default_rng(seed)
    ends = (nodes * random.random((2, edges)) ** skew).astype(np.int64)
    return ends[0], ends[1]
