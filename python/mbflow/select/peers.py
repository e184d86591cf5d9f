"""Selectors of imbalanced-learn to compare with, each in a process of its own with a time limit."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.errors import InvalidArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CLEANING", "PEERS", "PeerResult", "run_peer"]

CLEANING = ("EditedNearestNeighbours", "CondensedNearestNeighbour", "OneSidedSelection")
"""Those of `PEERS` that reach no given number of rows: they clean, and keep what they keep."""
_BUDGETED = ("NearMiss", "InstanceHardnessThreshold", "ClusterCentroids")
PEERS = (*CLEANING, *_BUDGETED)
"""Classes of `imblearn.under_sampling` that `run_peer` runs."""


@dataclass(frozen=True)
class PeerResult:
    """What a peer made of the rows.

    Attributes:
        features: float32 of shape (kept, columns); ClusterCentroids makes rows of its own.
        codes: int64 of shape (kept,).
        seconds: Wall time of `fit_resample` alone.
        peak_bytes: The most memory that its process held.
        skipped: Why there is no result; empty where there is one.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.peers import PeerResult
        >>> PeerResult(np.empty((0, 2)), np.empty(0), 0.0, 0, "over 60 s").skipped
        'over 60 s'
    """

    features: NDArray[np.float32]
    codes: NDArray[np.int64]
    seconds: float
    peak_bytes: int
    skipped: str = ""


def run_peer(
    name: str,
    features: NDArray[np.float32],
    *,
    codes: NDArray[np.int64],
    counts: NDArray[np.int64],
    seed: int = 0,
    time_limit: float = 60.0,
) -> PeerResult:
    """Run one under-sampler of imbalanced-learn on encoded rows, default settings.

    Args:
        name: One of `PEERS`.
        features: float32 of shape (rows, columns).
        codes: Class of each row.
        counts: Rows to keep of each class, for those peers that reach a number.
        seed: Its `random_state`, where it has one.
        time_limit: Seconds after which it is stopped.

    Returns:
        The rows it keeps, or why there are none.

    Raises:
        InvalidArgumentError: There is no such peer.

    Example:
        >>> import numpy as np
        >>> from mbflow.select.peers import run_peer
        >>> rows, codes = np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1])
        >>> run_peer("Guess", rows, codes=codes, counts=np.array([1, 1]))
        Traceback (most recent call last):
        ...
        mbflow.errors.InvalidArgumentError: there is no peer 'Guess'; expected one of ...
    """
    if name not in PEERS:
        raise InvalidArgumentError(f"there is no peer {name!r}; expected one of {', '.join(PEERS)}")
    nothing = np.empty((0, features.shape[1]), np.float32), np.empty(0, np.int64)
    if util.find_spec("imblearn") is None:
        return PeerResult(*nothing, 0.0, 0, "imbalanced-learn is not installed")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        np.savez(place / "in.npz", features=features, codes=codes, counts=counts, seed=seed)
        # A process, since a sampler that does not end cannot be stopped otherwise.
        command = [sys.executable, "-m", "mbflow.select.peers", name, folder]
        try:
            ended = subprocess.run(  # noqa: S603 - this interpreter and a name out of `PEERS`
                command, capture_output=True, text=True, timeout=time_limit, check=False
            )
        except subprocess.TimeoutExpired:
            return PeerResult(*nothing, time_limit, 0, f"not done in {time_limit:g} s")
        if ended.returncode != 0:
            reason = (ended.stderr.strip().splitlines() or ["no message"])[-1][:200]
            return PeerResult(*nothing, 0.0, 0, f"failed: {reason}")
        with np.load(place / "out.npz") as out:
            return PeerResult(
                out["features"], out["codes"], float(out["seconds"]), int(out["peak"])
            )


def _work(name: str, folder: Path) -> None:
    """The child's side: read, resample, write."""
    import resource
    import warnings

    from imblearn import under_sampling

    with np.load(folder / "in.npz") as given:
        features, codes = given["features"], given["codes"]
        counts, seed = given["counts"], int(given["seed"]) % 2**32
    settings: dict[str, Any] = {}
    if name in _BUDGETED:
        settings["sampling_strategy"] = dict(enumerate(counts.tolist()))
    else:
        settings["sampling_strategy"] = "all"
    if name not in {"EditedNearestNeighbours", "NearMiss"}:
        settings["random_state"] = seed
    sampler = getattr(under_sampling, name)(**settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = time.perf_counter()
        kept, kept_codes = sampler.fit_resample(features, codes)
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.savez(
        folder / "out.npz",
        features=np.asarray(kept, np.float32),
        codes=np.asarray(kept_codes, np.int64),
        seconds=seconds,
        peak=peak if sys.platform == "darwin" else peak * 1024,
    )


if __name__ == "__main__":
    _work(sys.argv[1], Path(sys.argv[2]))
