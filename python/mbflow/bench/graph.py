"""Graphs beside DGL, GraphBolt and pyg-lib: sampling, bias, building, and an epoch of a GAT."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbflow.bench import graph_bias, graph_build, graph_data, graph_sampling
from mbflow.bench.harness import require_release
from mbflow.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["PARTS", "SIZES", "TITLES", "run"]

PARTS = ("sample", "cached", "weighted", "labor", "csc", "gat", "bias")

SIZES = {
    "cached": (200_000, 2_000_000),
    "quick": (1_000_000, 10_000_000),
    "large": (2_449_029, 123_718_280),
}
"""Nodes and edges: 10 MB, which caches hold; 48 MB; and as many as ogbn-products has."""

TITLES = {
    "sample": "Uniform sampling without replacement and relabelling",
    "cached": "The same on a graph of 10 MB",
    "weighted": "Sampling by weights without replacement, beside uniform sampling",
    "labor": "LABOR-0, beside uniform sampling",
    "csc": "An edge list in Parquet to a graph, stored and opened",
    "gat": "An epoch of a GAT of two layers on all edges",
    "bias": "Draws of 100 of 49,152 neighbours, by thirds of the list, with the chance of it",
}
"""What each table of a result says."""


def run(
    *,
    parts: Sequence[str] = PARTS,
    large: bool = False,
    folder: str | Path | None = None,
    repeats: int = 3,
    nodes: int | None = None,
    edges: int | None = None,
    batches: int = 20,
    draws: int = 4_000,
    on_progress: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Measure graphs; a peer that is not there is named as left out.

    Peers run in processes of their own, by this Python or by that which the environment variable
    `MBFLOW_BENCH_DGL_PYTHON`, `MBFLOW_BENCH_GRAPHBOLT_PYTHON` or `MBFLOW_BENCH_PYG_LIB_PYTHON`
    names: GraphBolt imports only beside an older torch.

    Args:
        parts: Of `PARTS`.
        large: The graph of 124 million edges, like ogbn-products, and a list of 100 million.
        folder: Where the made-up graphs are kept for another time; by default they are not.
        repeats: Turns, in each of which every case runs once; medians are shown.
        nodes: How many nodes the graphs have, in place of what `large` says; 100,000 for the GAT.
        edges: How many edges likewise; 1,000,000 for the GAT. `cached` takes no more than its own.
        batches: Batches of 1024 seeds in a turn.
        draws: Draws of the bias test.
        on_progress: Called before each run with a line of text.

    Returns:
        `parameters`, and `tables`: for each part a list of records, plain data.

    Raises:
        ResourceError: The native extension is a debug build, or a process failed.
        InvalidArgumentError: There is no such part, or a number is out of range.

    Example:
        >>> from mbflow.bench.graph import run
        >>> found = run(parts=["bias"], draws=20)
        >>> list(found["tables"])
        ['bias']
    """
    require_release()
    wrong = [part for part in parts if part not in PARTS]
    if wrong or not parts:
        raise InvalidArgumentError(f"no part {wrong[:1] or ''}; known: {', '.join(PARTS)}")
    for name, value in {"repeats": repeats, "batches": batches, "draws": draws}.items():
        if value < 1:
            raise InvalidArgumentError(f"{name} is {value}; expected at least 1")
    tell = on_progress or (lambda _: None)
    size = SIZES["large" if large else "quick"]
    all_nodes, all_edges = nodes or size[0], edges or size[1]
    tables: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
        if set(parts) - {"bias", "gat", "cached"}:
            files = graph_data.make(all_nodes, all_edges, folder, on_progress=tell)
            work = graph_sampling.Workload(files, batches, min(1024, all_nodes), repeats)
        if "sample" in parts:
            tables["sample"] = graph_sampling.sample(work, tell)
        if "cached" in parts:
            few, less = map(min, SIZES["cached"], (all_nodes, all_edges))
            small = graph_data.make(few, less, folder, on_progress=tell)
            small_work = graph_sampling.Workload(small, batches, min(1024, few), repeats)
            tables["cached"] = graph_sampling.sample(small_work, tell)
        if "weighted" in parts:
            tables["weighted"] = graph_sampling.weighted(work, tell)
        if "labor" in parts:
            tables["labor"] = graph_sampling.labor(work, tell)
        if "csc" in parts:
            count = min(all_edges, 100_000_000)
            tables["csc"] = graph_build.build(files, count, repeats, tell)
        if "gat" in parts:
            given = {"nodes": nodes, "edges": edges}
            tables["gat"] = _gat(repeats, tell, {k: v for k, v in given.items() if v is not None})
        if "bias" in parts:
            tables["bias"] = graph_bias.bias(draws, tell)
    parameters = {
        "nodes": all_nodes,
        "edges": all_edges,
        "batches": batches,
        "batch_size": min(1024, all_nodes),
        "repeats": repeats,
        "draws": draws,
        "parts": list(parts),
    }
    return {"parameters": parameters, "tables": tables}


def _gat(repeats: int, tell: Callable[[str], object], size: dict[str, Any]) -> list[dict[str, Any]]:
    """Epochs of a GAT by each backend, and how much longer than by the native one."""
    from mbflow.bench.graph_attention import gat_epochs, ratios

    found = gat_epochs(
        repeats=repeats,
        **size,
        on_progress=lambda case, turn, turns: tell(f"gat: {case}, {turn} of {turns}"),
    )
    longer = ratios(found)
    return [
        {
            "backend": one.backend,
            "threads": one.threads,
            "seconds": one.median,
            "times_native": longer.get(one.backend, {}).get(one.threads),
            "peak_mb": one.peak_bytes / 1e6,
            "above_start_mb": (one.peak_bytes - one.before_bytes) / 1e6,
            "note": one.skipped,
        }
        for one in found
    ]
