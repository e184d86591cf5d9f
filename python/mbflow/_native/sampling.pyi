# ruff: noqa: PYI021  -- the stub is the reference manual: users and editors read its docstrings
"""The kernels of graph sampling: neighbourhoods, random walks, negative edges.

What `mbflow._native` says of its functions goes for these, too. Arrays must be contiguous and of
the type that is stated: these are inner parts of `mbflow.graph`, which checks what it is given.
"""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Sampler",
    "negative_sources",
    "permuted",
    "time_order",
    "walks",
    "weight_sums",
]

@final
class Sampler:
    """Samples neighbourhoods in a graph of `len(nodes)` types of nodes, see `NeighbourSampler`.

    A relation is `(offsets, sources, (source type, target type), fanouts, (weights, sums) or None,
    (times, order) or None)`. A fan-out below 0 takes all edges. The arrays are held, not copied.

    Raises:
        InvalidArgumentError: `page` is 0; when sampling, arrays do not fit one another.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import sampling
        >>> offsets, sources = np.array([0, 2, 2], np.uint64), np.array([0, 1], np.uint32)
        >>> relation = (offsets, sources, (0, 0), [2], None, None)
        >>> sampler = sampling.Sampler([2], [relation], method="uniform", seed=0)
        >>> nodes, trees, hops, sizes, seeds = sampler.sample([np.array([0])])
        >>> nodes, sizes
        ([array([0, 1])], [[1, 2]])
    """

    def __new__(
        cls,
        nodes: Sequence[int],
        relations: Sequence[
            tuple[
                NDArray[np.uint64],
                NDArray[np.uint32],
                tuple[int, int],
                Sequence[int],
                tuple[NDArray[np.float32], NDArray[np.float64]] | None,
                tuple[NDArray[np.int64], NDArray[np.uint32] | None] | None,
            ]
        ],
        *,
        method: str,
        seed: int,
        replace: bool = False,
        across_layers: bool = False,
        expand_new: bool = False,
        trees: bool = False,
        page: int | None = None,
        narrow: bool = False,
    ) -> Sampler: ...
    def sample(
        self,
        seeds: Sequence[NDArray[np.int64]],
        times: NDArray[np.int64] | None = None,
        *,
        epoch: int = 0,
        batch: int = 0,
    ) -> tuple[
        list[NDArray[Any]],
        list[NDArray[np.int64]] | None,
        list[
            list[
                tuple[
                    int,
                    NDArray[np.int64],
                    NDArray[Any],
                    NDArray[Any],
                    NDArray[np.float32] | None,
                ]
                | None
            ]
        ],
        list[list[int]],
        list[NDArray[np.int64]],
    ]:
        """Nodes and trees of each type, hops by layer and relation, sizes, places of the seeds."""

def weight_sums(offsets: NDArray[np.uint64], weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """The sums of weights that weighted draws search: of each node's first 16 edges, 32, and so on.

    Raises:
        InvalidArgumentError: A weight is negative, NaN or infinite; the first one is named.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import sampling
        >>> offsets, weights = np.array([0, 2, 3], np.uint64), np.array([0.5, 1, 2], np.float32)
        >>> sampling.weight_sums(offsets, weights)
        array([1.5, 2. , 0. ])
    """

def time_order(offsets: NDArray[np.uint64], times: NDArray[np.int64]) -> NDArray[np.uint32] | None:
    """Each node's edges by time, as distances from its first one; None where all lie so already.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import sampling
        >>> sampling.time_order(np.array([0, 2, 3], np.uint64), np.array([9, 5, 7]))
        array([1, 0, 0], dtype=uint32)
    """

def walks(
    offsets: NDArray[np.uint64],
    sources: NDArray[np.uint32],
    seeds: NDArray[np.int64],
    length: int,
    *,
    weights: tuple[NDArray[np.float32], NDArray[np.float64]] | None = None,
    restart: float = 0.0,
    seed: int,
    epoch: int = 0,
    batch: int = 0,
) -> NDArray[np.int64]:
    """Random walks along incoming edges, `length + 1` nodes each, one after the other.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import sampling
        >>> offsets, sources = np.array([0, 1, 2], np.uint64), np.array([1, 0], np.uint32)
        >>> sampling.walks(offsets, sources, np.array([0]), 3, seed=0)
        array([0, 1, 0, 1])
    """

def negative_sources(
    offsets: NDArray[np.uint64],
    sources: NDArray[np.uint32],
    source_nodes: int,
    targets: NDArray[np.int64],
    count: int,
    *,
    source_sums: NDArray[np.float64] | None = None,
    self_loops: bool = False,
    attempts: int = 64,
    seed: int,
    epoch: int = 0,
    batch: int = 0,
) -> NDArray[np.int64]:
    """For each target `count` sources that no edge leads from to it, see `negative_edges`.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import sampling
        >>> offsets, sources = np.array([0, 1, 2], np.uint64), np.array([1, 0], np.uint32)
        >>> sampling.negative_sources(offsets, sources, 3, np.array([0]), 2, seed=0)
        array([2, 2])
    """

def permuted(length: int, places: NDArray[np.int64], *, seed: int, epoch: int) -> NDArray[np.int64]:
    """What stands at some places of a keyed permutation of `0..len`.

    Raises:
        InvalidArgumentError: There is no such place.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import sampling
        >>> sorted(sampling.permuted(3, np.arange(3), seed=0, epoch=0).tolist())
        [0, 1, 2]
    """
