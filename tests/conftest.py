"""Markers that skip by what the machine has, and the small inputs that many tests share."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("mbflow", deadline=None)
settings.load_profile("mbflow")

ROOT = Path(__file__).resolve().parents[1]


@cache
def _has_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _missing(*packages: str) -> list[str]:
    return [package for package in packages if importlib.util.find_spec(package) is None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine cannot run."""
    for item in items:
        if item.get_closest_marker("gpu") and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if item.get_closest_marker("ray") and _missing("ray"):
            item.add_marker(pytest.mark.skip(reason="needs the extra `ray`"))
        peer = item.get_closest_marker("peer")
        if peer and (missing := _missing(*(peer.args or ("faiss", "imblearn", "psutil")))):
            reason = f"needs the extra `bench`: {', '.join(missing)} not installed"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of more data that `MBFLOW_DATA` names; what needs it is skipped without."""
    named = os.environ.get("MBFLOW_DATA")
    if not named:
        pytest.skip("needs MBFLOW_DATA, the folder of the larger test data")
    return Path(named)


@pytest.fixture(scope="session")
def letter_file() -> Path:
    """The data set that the repository carries."""
    return ROOT / "examples" / "data" / "letter.parquet"


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Three overlapping classes: features float32[240, 5], labels str[240], unequal in number."""
    draw = np.random.default_rng(0)
    sizes = {"a": 140, "b": 70, "c": 30}
    centres = draw.normal(scale=2.0, size=(3, 5))
    features = [c + draw.normal(size=(n, 5)) for c, n in zip(centres, sizes.values(), strict=True)]
    labels = np.repeat(list(sizes), list(sizes.values()))
    order = draw.permutation(len(labels))
    return np.concatenate(features).astype(np.float32)[order], labels[order]
