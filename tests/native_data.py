"""Rows for the tests of the kernels, and the obvious way to find their neighbours."""

from __future__ import annotations

import numpy as np


def exact_graph(features: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs in float64, ordered by (distance, row number)."""
    wide = features.astype(np.float64)
    distances = np.sqrt(((wide[:, None, :] - wide[None, :, :]) ** 2).sum(axis=2))
    np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distances, order, axis=1)


def mixture(rows: int, width: int, clusters: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, width)) * 3
    noise = rng.normal(size=(rows, width))
    return (centres[rng.integers(clusters, size=rows)] + noise).astype(np.float32)
