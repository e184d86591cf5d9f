"""Made-up data for benchmarks, the same to the bit wherever it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mbflow import _native
from mbflow.errors import InvalidArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["mixture"]

_CENTRES, _NOISE, _MEMBERS = 0xBE_0001, 0xBE_0002, 0xBE_0003
_ROWS_AT_ONCE = 1 << 18


def mixture(
    rows: int, columns: int, *, clusters: int = 50, spread: float = 1.0, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Overlapping Gaussian clusters: standard normal centres, noise of `spread` around them.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        clusters: Number of clusters; each row's is drawn at random.
        spread: Standard deviation of the noise in each column.
        seed: Key of all draws.

    Returns:
        float32 of shape (rows, columns), and the cluster of each row.

    Raises:
        InvalidArgumentError: A size is below 1.

    Example:
        >>> from mbflow.bench.data import mixture
        >>> features, clusters = mixture(100, 3, clusters=5)
        >>> features.shape, int(clusters.max())
        ((100, 3), 4)
    """
    if min(rows, columns, clusters) < 1:
        raise InvalidArgumentError("rows, columns and clusters must each be at least 1")
    centres = _native.random_normal(seed, _CENTRES, 0, clusters * columns)
    centres = centres.reshape(clusters, columns)
    members = _native.random_integers(seed, _MEMBERS, clusters, 0, rows).astype(np.int64)
    features = np.empty((rows, columns), dtype=np.float32)
    for start in range(0, rows, _ROWS_AT_ONCE):
        part = features[start : start + _ROWS_AT_ONCE]
        noise = _native.random_normal(seed, _NOISE, start * columns, part.size)
        part[:] = centres[members[start : start + len(part)]]
        part += np.float32(spread) * noise.reshape(part.shape)
    return features, members
