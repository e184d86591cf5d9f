"""Samplers of other libraries, in a process of their own: DGL, GraphBolt, pyg-lib.

Run by the Python that has the library, which need not have mbflow: this module then imports NumPy,
torch and the library alone. It reads requests from standard input, a line of JSON each, and answers
each with a line of JSON.

Example:
    >>> from mbflow.bench import graph_peers
    >>> graph_peers.PEERS
    ('dgl', 'graphbolt', 'pyg-lib')
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

__all__ = ["MARK", "PEERS", "serve"]

PEERS = ("dgl", "graphbolt", "pyg-lib")
"""The libraries."""

MARK = "mbflow-peer "
"""What a line that is an answer begins with: libraries print, too."""


class _Dgl:
    """`NeighborSampler`, `LaborSampler` and the two calls that these are made of."""

    methods = ("uniform", "calls", "weighted", "labor")

    def __init__(self, arrays: dict[str, Any]) -> None:
        self.dgl = _import_dgl()
        import torch

        self.version = f"DGL {self.dgl.__version__}"
        edges = ("csc", (arrays["offsets"], arrays["sources64"], torch.zeros(0, dtype=torch.int64)))
        nodes = len(arrays["offsets"]) - 1
        self.graph = self.dgl.graph(edges, num_nodes=nodes)
        self.arrays = arrays

    def sampler(self, method: str, fanouts: list[int]) -> Any:
        """A function of seeds that returns how many edges and nodes it found, and the edges."""
        loading = self.dgl.dataloading
        outward = fanouts[::-1]
        if method == "labor":
            sampler = loading.LaborSampler(outward)
        elif method == "weighted":
            self.graph.edata["w"] = self.arrays["weights"]
            sampler = loading.NeighborSampler(outward, prob="w")
        else:
            sampler = loading.NeighborSampler(outward, fused=method == "uniform")

        def sample(seeds: Any) -> Any:
            nodes, _, blocks = sampler.sample_blocks(self.graph, seeds)
            count = sum(block.num_edges() for block in blocks)
            return count, len(nodes), blocks[-1].edata[self.dgl.EID]

        return sample


def _import_dgl() -> Any:
    os.environ["DGLBACKEND"] = "pytorch"  # DGL otherwise writes the choice into the home directory
    try:
        from mbflow.dgl_compat import load_dgl
    except ImportError:
        import dgl

        return dgl
    return load_dgl(purpose="the benchmark")


class _GraphBolt:
    """`sample_neighbors` or `sample_layer_neighbors`, and `unique_and_compact` of each layer."""

    methods = ("uniform", "weighted", "labor")

    def __init__(self, arrays: dict[str, Any]) -> None:
        dgl = _import_dgl()
        import dgl.graphbolt as gb
        import torch

        self.version = f"GraphBolt {dgl.__version__}"
        self.gb, self.torch = gb, torch
        weights = {"w": arrays["weights"]} if "weights" in arrays else None
        self.graph = gb.fused_csc_sampling_graph(
            arrays["offsets"], arrays["sources64"], edge_attributes=weights
        )

    def sampler(self, method: str, fanouts: list[int]) -> Any:
        """As of DGL."""
        wanted = [self.torch.tensor([fanout]) for fanout in fanouts]
        name = "sample_layer_neighbors" if method == "labor" else "sample_neighbors"
        draw = getattr(self.graph, name)
        probability = "w" if method == "weighted" else None

        def sample(seeds: Any) -> Any:
            count, first = 0, None
            for fanout in wanted:
                found = draw(seeds, fanout, probs_name=probability)
                csc = found.sampled_csc
                # Without an array of edge ids GraphBolt says the sources alone; edge `i` of the
                # star that is counted by thirds comes from node `i + 1`.
                first = csc.indices - 1 if first is None else first
                seeds, _ = self.gb.unique_and_compact_csc_formats(csc, seeds)
                count += len(csc.indices)
            return count, len(seeds), first

        return sample


class _PygLib:
    """`torch.ops.pyg.neighbor_sample`, which goes on from the nodes found last."""

    methods = ("uniform", "weighted")

    def __init__(self, arrays: dict[str, Any]) -> None:
        import pyg_lib
        import torch

        self.version = f"pyg-lib {pyg_lib.__version__}"
        self.draw = torch.ops.pyg.neighbor_sample
        self.arrays = arrays

    def sampler(self, method: str, fanouts: list[int]) -> Any:
        """As of DGL."""
        weights = self.arrays["weights"] if method == "weighted" else None
        offsets, sources = self.arrays["offsets"], self.arrays["sources64"]

        def sample(seeds: Any) -> Any:
            _, _, nodes, edges, *_ = self.draw(
                offsets, sources, seeds, fanouts, edge_weight=weights, csc=True
            )
            return len(edges), len(nodes), edges

        return sample


def serve(peer: str, threads: int) -> None:
    """Answer requests until there is none left.

    The first line says which files hold the graph's arrays, and is answered by the library's name
    and version. Others say `method`, `fanouts`, `seeds` (a NumPy file, a batch a row) and `workers`
    (threads that take batches); they are answered by seconds of time and of processor time, edges
    and nodes; with `thirds` (a degree) by how many edges of the first layer are in each third.

    Args:
        peer: Of `PEERS`.
        threads: That the library may use for a batch.

    Example:
        >>> from mbflow.bench.graph_peers import serve
        >>> serve.__name__
        'serve'
    """
    import warnings

    import numpy as np

    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(threads)
    library: Any = None
    known = {"dgl": _Dgl, "graphbolt": _GraphBolt, "pyg-lib": _PygLib}
    for line in sys.stdin:
        request = json.loads(line)
        if library is None:
            files = request["arrays"]
            arrays = {name: torch.from_numpy(np.load(file)) for name, file in files.items()}
            try:
                library = known[peer](arrays)
            except Exception as error:  # noqa: BLE001 - whatever keeps a library from starting
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                _answer({"missing": reason[:200]})
                return
            _answer({"version": library.version, "methods": library.methods})
        else:
            _answer(_measured(library, request, torch.from_numpy(np.load(request["seeds"]))))


def _measured(library: Any, request: dict[str, Any], seeds: Any) -> dict[str, Any]:
    sample = library.sampler(request["method"], request["fanouts"])
    sample(seeds[0])
    degree = request.get("thirds")
    if degree:
        thirds = [0, 0, 0]
        for batch in seeds:
            places = sample(batch)[2] * 3 // degree
            for third in range(3):
                thirds[third] += int((places == third).sum())
        return {"thirds": thirds}
    with ThreadPoolExecutor(request["workers"]) as pool:
        started, processor = time.perf_counter(), time.process_time()
        if request["workers"] == 1:
            found = [sample(batch)[:2] for batch in seeds]
        else:
            found = [one[:2] for one in pool.map(sample, seeds)]
        seconds, processor = time.perf_counter() - started, time.process_time() - processor
    edges, nodes = (sum(counts) for counts in zip(*found))  # noqa: B905 - also by Python 3.9
    return {"seconds": seconds, "processor": processor, "edges": edges, "nodes": nodes}


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.write(MARK + json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
