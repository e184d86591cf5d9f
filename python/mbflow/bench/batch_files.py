"""From a file on disk to all batches of an epoch: Parquet for mbflow, a manifest for lhotse."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.bench import batch_memory, lhotse_peer
from mbflow.bench.batch_strategies import PEER, SECONDS, Corpus, Strategy, Timed
from mbflow.bench.harness import Case, measure
from mbflow.speech import DurationBatches, Lengths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["READERS", "files", "write"]

_PARQUET, _MANIFEST = "cuts.parquet", "cuts.jsonl.gz"


def write(folder: Path, corpus: Corpus) -> None:
    """Write the files of a corpus.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mbflow.bench.batch_files import write
        >>> from mbflow.bench.batch_strategies import Corpus
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(Path(folder), Corpus.made("ted", 10))
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['cuts.jsonl.gz', 'cuts.parquet']
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"seconds": corpus.seconds}), folder / _PARQUET)
    lhotse_peer.write_manifest(folder / _MANIFEST, corpus.seconds)


def _ours(folder: Path, order: Any) -> Iterator[Any]:
    lengths = Lengths.from_parquet(folder / _PARQUET)
    return DurationBatches(lengths, budget=SECONDS, order=order).epoch(0)


def _lhotse(folder: Path) -> Iterator[Any]:
    from lhotse import CutSet

    return lhotse_peer.batches(CutSet.from_jsonl_lazy(folder / _MANIFEST))


READERS: dict[str, tuple[Callable[[Path], Iterator[Any]], str | None]] = {
    "mbflow buckets from Parquet": (partial(_ours, order="buckets"), None),
    "mbflow window from Parquet": (partial(_ours, order="window"), None),
    f"{PEER} from jsonl.gz": (_lhotse, "lhotse"),
}
"""By name: from a folder of `write` to the batches of an epoch, and the module that it needs."""


def files(corpus: Corpus, turns: int, tell: Callable[[str], object]) -> list[dict[str, Any]]:
    """Measure each reader: processor time here, and memory in a process of its own.

    Args:
        corpus: The corpus.
        turns: Turns, of which the best counts.
        tell: Called before each run with a line of text.

    Returns:
        Records, with `base_mb` when all is loaded and nothing read, and `peak_mb`.

    Example:
        >>> from mbflow.bench.batch_files import files
        >>> files.__name__
        'files'
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder, corpus)
        write(folder / "small", Corpus.made(corpus.name, 1000))
        timed = {
            name: Timed(Strategy(name, partial(_from, read, folder), needs=needs), corpus)
            for name, (read, needs) in READERS.items()
        }
        measured = measure(
            [Case(name, one, one.strategy.needs) for name, one in timed.items()],
            repeats=turns,
            on_progress=lambda name, turn, of: tell(f"files: {name}, {turn} of {of}"),
        )
        peaks: dict[str, dict[str, Any]] = {}
        for case in measured:
            peaks[case.name] = {"base_mb": None, "peak_mb": None}
            if not case.skipped:
                tell(f"files: memory of {case.name}")
                peaks[case.name] = batch_memory.in_a_process("epoch", case.name, str(folder))
    best = {name: min(one.seconds, default=None) for name, one in timed.items()}
    peer = best[f"{PEER} from jsonl.gz"]
    records = []
    for case in measured:
        own, first = best[case.name], timed[case.name].first
        records.append(
            {
                "strategy": case.name,
                "items_per_second": own and len(corpus.seconds) / own,
                "times_lhotse": peer / own if peer and own else None,
                "first_batch_ms": float(np.median(first)) * 1e3 if first else None,
                **peaks[case.name],
                "note": case.skipped,
            }
        )
    return records


def _from(read: Callable[[Path], Iterator[Any]], folder: Path, _: Corpus) -> Iterator[Any]:
    return read(folder)
