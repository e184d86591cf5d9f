"""Whether a sampler draws each neighbour of a node as often as the others."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.bench.graph_children import children, seeds_file
from mbflow.bench.graph_data import Files
from mbflow.bench.graph_sampling import graph_of
from mbflow.graph import NeighbourSampler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["bias", "chi_square"]

_DEGREE = 49_152
_FANOUT = 100


def chi_square(counts: Sequence[int], *, degree: int, fanout: int) -> tuple[float, float]:
    """Chi-square of how many draws fell into each third of a node's neighbours.

    Draws of one sample exclude each other, which makes the counts vary less than those of
    independent draws; the statistic is scaled by that.

    Args:
        counts: Draws in each third.
        degree: Neighbours of the node, a multiple of 3.
        fanout: Draws of a sample.

    Returns:
        The statistic, and the chance of one as large were all neighbours equally likely.

    Example:
        >>> from mbflow.bench.graph_bias import chi_square
        >>> chi_square([1000, 1000, 1000], degree=300, fanout=10)
        (0.0, 1.0)
    """
    expected = sum(counts) / len(counts)
    spread = (degree - fanout) / (degree - 1)
    statistic = sum((count - expected) ** 2 for count in counts) / expected / spread
    # Two degrees of freedom, of which the chance has a closed form.
    return statistic, math.exp(-statistic / 2)


def bias(draws: int, tell: Callable[[str], object]) -> list[dict[str, Any]]:
    """Draw 100 of 49,152 neighbours again and again, and count them by thirds of the list.

    A sampler that takes a remainder of 16 random bits draws the first third twice as often.

    Args:
        draws: How often.
        tell: Called before each run with a line of text.

    Returns:
        A record for each library: the counts, chi-square, and the chance of one as large.

    Example:
        >>> from mbflow.bench.graph_bias import bias
        >>> (own, *_) = bias(50, lambda line: None)
        >>> own["case"], own["first"] + own["second"] + own["third"], own["chance"] > 1e-6
        ('mbflow', 5000, True)
    """
    with tempfile.TemporaryDirectory() as folder:
        files = _star(Path(folder))
        tell("bias: mbflow")
        sampler = NeighbourSampler(graph_of(files), [_FANOUT])
        counts = np.zeros(3, np.int64)
        for draw in range(draws):
            places = sampler.sample([0], batch=draw).layers[0].edges
            counts += np.bincount(places * 3 // _DEGREE, minlength=3)
        records = [_record("mbflow", counts.tolist(), "")]
        path = seeds_file(folder, np.zeros((draws, 1), np.int64))
        with children(files) as peers:
            for child in peers:
                if child.missing:
                    records.append(_record(child.version, None, child.missing))
                    continue
                tell(f"bias: {child.version}")
                request = {
                    "method": "uniform", "fanouts": [_FANOUT], "seeds": path, "thirds": _DEGREE,
                }  # fmt: skip
                records.append(_record(child.version, child.ask(request)["thirds"], ""))
    return records


def _star(folder: Path) -> Files:
    """A node that all others lead to."""
    offsets = np.full(_DEGREE + 2, _DEGREE, np.int64)
    offsets[0] = 0
    sources = np.arange(1, _DEGREE + 1)
    arrays: dict[str, NDArray[Any]] = {
        "offsets": offsets,
        "sources": sources.astype(np.uint32),
        "sources64": sources.astype(np.int64),
        "weights": np.ones(_DEGREE, np.float32),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return Files(folder, _DEGREE + 1, _DEGREE)


def _record(case: str, counts: Sequence[int] | None, note: str) -> dict[str, Any]:
    if counts is None:
        first, second, third, statistic, chance = [None] * 5
    else:
        first, second, third = counts
        statistic, chance = chi_square(counts, degree=_DEGREE, fanout=_FANOUT)
    return {
        "case": case,
        "first": first,
        "second": second,
        "third": third,
        "chi_square": statistic,
        "chance": chance,
        "note": note,
    }
