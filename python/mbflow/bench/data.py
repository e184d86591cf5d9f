"""Made-up data for benchmarks, the same to the bit wherever it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mbflow import _native
from mbflow.errors import InvalidArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["manifold", "mixture"]

_CENTRES, _NOISE, _MEMBERS = 0xBE_0001, 0xBE_0002, 0xBE_0003
_INNER, _MAP, _BLUR = 0xBE_0004, 0xBE_0005, 0xBE_0006
_ROWS_AT_ONCE = 1 << 18


def mixture(
    rows: int,
    columns: int,
    *,
    clusters: int = 50,
    spread: float = 1.0,
    first: int = 0,
    seed: int = 0,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Overlapping Gaussian clusters: standard normal centres, noise of `spread` around them.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        clusters: Number of clusters; each row's is drawn at random.
        spread: Standard deviation of the noise in each column.
        first: Number of the first row; data made in pieces is the same as made at once.
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
    members = _native.random_integers(seed, _MEMBERS, clusters, first, rows).astype(np.int64)
    features = np.empty((rows, columns), dtype=np.float32)
    for start in range(0, rows, _ROWS_AT_ONCE):
        part = features[start : start + _ROWS_AT_ONCE]
        noise = _native.random_normal(seed, _NOISE, (first + start) * columns, part.size)
        part[:] = centres[members[start : start + len(part)]]
        part += np.float32(spread) * noise.reshape(part.shape)
    return features, members


def manifold(
    rows: int, columns: int, *, inner: int = 16, noise: float = 0.01, seed: int = 0
) -> NDArray[np.float32]:
    """Rows near a curved surface of few dimensions: the bounded curve of a random linear map.

    It is `x - x^3 / 12` of `x = clip(z A / sqrt(inner), -2, 2)`, with `z` and `A` standard normal
    and `z` of `inner` columns, plus noise. Only sums and products, so that the bits are the same on
    every machine.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        inner: Dimensions of the surface.
        noise: Standard deviation of the noise in each column.
        seed: Key of all draws.

    Returns:
        float32 of shape (rows, columns).

    Raises:
        InvalidArgumentError: A size is below 1.

    Example:
        >>> from mbflow.bench.data import manifold
        >>> manifold(100, 8, inner=2).shape
        (100, 8)
    """
    if min(rows, columns, inner) < 1:
        raise InvalidArgumentError("rows, columns and inner must each be at least 1")
    axes = _native.random_normal(seed, _MAP, 0, inner * columns).reshape(inner, columns)
    axes /= np.float32(inner**0.5)
    features = np.empty((rows, columns), dtype=np.float32)
    for start in range(0, rows, _ROWS_AT_ONCE):
        part = features[start : start + _ROWS_AT_ONCE]
        points = _native.random_normal(seed, _INNER, start * inner, len(part) * inner)
        points = points.reshape(len(part), inner)
        part[:] = 0
        # Axis by axis, not by a matrix product, whose order of sums depends on the machine.
        for axis in range(inner):
            part += points[:, axis, None] * axes[axis]
        np.clip(part, -2, 2, out=part)
        part -= part * part * part / np.float32(12)
        blur = _native.random_normal(seed, _BLUR, start * columns, part.size)
        part += np.float32(noise) * blur.reshape(part.shape)
    return features
