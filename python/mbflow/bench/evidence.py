"""Is a selection better than a random sample, and than its peers? Many sets, many paired splits."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow import _native
from mbflow.bench.rivals import RIVALS
from mbflow.errors import DataError
from mbflow.flow.manifest import write_whole
from mbflow.select import evaluate_split, stratified_random
from mbflow.select.labels import encode_labels
from mbflow.select.statistics import average_ranks, paired_over_sets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import polars as pl

__all__ = [
    "METHODS",
    "REDUCTIONS",
    "bundled_sets",
    "find_sets",
    "markdown",
    "run",
    "store",
    "tables",
]

REDUCTIONS = (0.90, 0.96, 0.98)
METHODS = ("medoids", "coverage", "attention", "attention_coverage")
_CLASSIFIERS = ("1-NN", "logistic regression", "random forest", "gradient boosting")
_SEARCHED = _CLASSIFIERS[:3]
_MOST_ROWS = 10_000


def bundled_sets() -> dict[str, tuple[pl.DataFrame, str]]:
    """The classification sets that scikit-learn ships, each a table and its label column.

    Example:
        >>> from mbflow.bench.evidence import bundled_sets
        >>> bundled_sets()["wine"][0].shape
        (178, 14)
    """
    import polars as pl
    from sklearn import datasets

    found = {}
    for name in ("digits", "breast_cancer", "wine", "iris"):
        loaded = getattr(datasets, f"load_{name}")()
        columns = [str(column) for column in loaded.feature_names]
        table = pl.DataFrame(loaded.data, schema=columns).with_columns(
            label=pl.Series(loaded.target)
        )
        found[name] = (table, "label")
    return found


def find_sets(data: Path, *, label: str = "label") -> dict[str, tuple[pl.DataFrame, str]]:
    """Every Parquet file of a folder, or one file, as labelled tables by name.

    Raises:
        DataError: There is none, or one lacks the label column.

    Example:
        >>> from pathlib import Path
        >>> from mbflow.bench.evidence import find_sets
        >>> list(find_sets(Path("examples/data")))  # doctest: +SKIP
        ['letter']
    """
    import polars as pl
    import pyarrow.parquet as pq

    paths = sorted(data.glob("*.parquet")) if data.is_dir() else [data]
    if not paths or not all(path.exists() for path in paths):
        raise DataError(f"{data}: there is no Parquet file")
    found = {}
    for path in paths:
        table = pl.DataFrame(pl.from_arrow(pq.read_table(path)))
        if label not in table.columns:
            raise DataError(f"{path}: no column `{label}` (the label); it has {table.columns[:20]}")
        found[path.stem] = (table, label)
    return found


def run(
    sets: dict[str, tuple[pl.DataFrame, str]],
    *,
    seeds: int = 10,
    reductions: Sequence[float] = REDUCTIONS,
    methods: Sequence[str] = METHODS,
    peers: Sequence[str] = (),
    peer_seconds: float = 60.0,
    cache: Path | None = None,
    on_progress: Callable[[str], object] | None = None,
    map: Callable[..., Iterable[Any]] = map,  # noqa: A002 - it takes the place of the built-in
) -> pl.DataFrame:
    """Measure every method on every split of every set.

    Of sets with more than 10,000 rows a stratified random 10,000 are used. Every split selects anew
    from its training rows; nothing is chosen on test rows.

    Args:
        sets: Labelled tables by name.
        seeds: Paired splits of each set, 80 to 20.
        reductions: Shares of the training rows to leave out.
        methods: Methods of `select_instances`, beside "auto" ("selected" in the result) and random.
        peers: Samplers of imbalanced-learn.
        peer_seconds: Time limit for each run of a peer.
        cache: A folder in which finished splits are kept, so that a run started again goes on.
        on_progress: Called after each split with a line of text.
        map: Applies a function to the splits, in order.

    Returns:
        The records of `evaluate_split` with the name of the `set`.

    Example:
        >>> from mbflow.bench.evidence import bundled_sets, run
        >>> sets = {"iris": bundled_sets()["iris"]}
        >>> run(sets, seeds=1, reductions=[0.9], methods=["random"]).height  # doctest: +SKIP
        20
    """
    import polars as pl

    tasks = [(name, seed) for name in sets for seed in range(seeds)]
    one = partial(
        _split,
        sets=sets,
        reductions=tuple(reductions),
        compare=(*methods, *RIVALS, *peers),
        peer_seconds=peer_seconds,
        cache=cache,
    )
    frames: list[pl.DataFrame] = []
    for (name, seed), frame in zip(tasks, map(one, tasks), strict=True):
        frames.append(frame)
        if on_progress is not None:
            on_progress(f"{name}, split {seed + 1} of {seeds}")
    return pl.concat(frames, how="diagonal_relaxed")


def _split(
    task: tuple[str, int],
    *,
    sets: dict[str, tuple[pl.DataFrame, str]],
    reductions: tuple[float, ...],
    compare: tuple[str, ...],
    peer_seconds: float,
    cache: Path | None,
) -> pl.DataFrame:
    import polars as pl

    name, seed = task
    shares = "-".join(f"{share:g}" for share in reductions)
    key = _native.xxh3_128(repr((compare, _MOST_ROWS, peer_seconds)).encode())[:8]
    kept = None if cache is None else cache / f"{name}-{seed}-{shares}-{key}.parquet"
    if kept is not None and kept.exists():
        found: pl.DataFrame = pl.read_parquet(kept)
        return found
    table, label = sets[name]
    labels = encode_labels(table[label], name=label)
    if table.height > _MOST_ROWS:
        rows = stratified_random(labels, count=_MOST_ROWS, seed=0)
        table = table[rows]
        labels = encode_labels(table[label], name=label)
    records = evaluate_split(
        table.drop(label),
        labels,
        seed,
        recipe={"method": "auto"},
        classifiers=_CLASSIFIERS,
        compare={name: RIVALS.get(name, name) for name in compare},
        fractions=[round(1 - share, 12) for share in reductions],
        peer_seconds=peer_seconds,
        threads=1,
    )
    frame = pl.DataFrame(records).with_columns(set=pl.lit(name))
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_suffix(f".tmp{seed}")
        frame.write_parquet(temporary)
        temporary.rename(kept)
    return frame


def tables(records: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """What the records say: means by set, and tests over sets.

    Args:
        records: What `run` gave.

    Returns:
        By title: for each reduction the mean accuracy of 1-NN, logistic regression and random
        forest by set and method; the same of gradient boosting, which no search sees; and every
        method against random and against coverage over sets (see `paired_over_sets`), with the
        average rank.

    Example:
        >>> from mbflow.bench.evidence import tables
        >>> tables.__name__
        'tables'
    """
    import polars as pl

    result: dict[str, pl.DataFrame] = {}
    # The recipe of the splits is method "auto".
    records = records.with_columns(pl.col("training_set").replace({"selected": "auto"}))
    everything = records.filter(pl.col("training_set") == "all")
    for fraction in sorted(set(records["fraction"]) - {1.0}, reverse=True):
        chosen = pl.concat([everything, records.filter(pl.col("fraction") == fraction)])
        for title, classifiers in (
            ("1-NN, LR, RF", _SEARCHED),
            ("gradient boosting", ("gradient boosting",)),
        ):
            means = (
                chosen.filter(pl.col("classifier").is_in(classifiers))
                .group_by("set", "training_set", maintain_order=True)
                .agg(pl.col("accuracy").mean())
                .rename({"training_set": "method"})
            )
            name = f"{1 - fraction:.0%} left out, {title}"
            wide = means.pivot(on="method", index="set", values="accuracy")
            mean = wide.select(pl.lit("mean").alias("set"), pl.exclude("set").mean())
            result[f"accuracy, {name}"] = pl.concat([wide, mean])
            ours = means.filter(pl.col("method") != "all")
            complete = [
                method
                for method in ours["method"].unique(maintain_order=True).to_list()
                if ours.filter(pl.col("method") == method).height == wide.height
            ]
            ranks = average_ranks(wide.select(complete).to_numpy())
            ranked = pl.DataFrame({"method": complete, "average_rank": ranks})
            for baseline in ("random", "coverage"):
                if baseline in complete:
                    tested = paired_over_sets(ours, baseline=baseline)
                    result[f"against {baseline}, {name}"] = tested.join(
                        ranked, on="method", how="left", maintain_order="left"
                    )
    effectiveness = (
        records.filter((pl.col("training_set") != "all") & pl.col("classifier").is_in(_SEARCHED))
        .group_by("training_set", "fraction", maintain_order=True)
        .agg(
            pl.col("accuracy").mean(),
            pl.col("effectiveness").mean(),
        )
    )
    result["effectiveness (accuracy x reduction)"] = effectiveness
    return result


def markdown(found: dict[str, pl.DataFrame]) -> str:
    """Tables as Markdown text.

    Example:
        >>> import polars as pl
        >>> from mbflow.bench.evidence import markdown
        >>> print(markdown({"A": pl.DataFrame({"x": [0.5]})}).splitlines()[-1])
        | 0.500 |
    """
    lines: list[str] = []
    for title, table in found.items():
        lines += [f"## {title}", "", "| " + " | ".join(table.columns) + " |"]
        lines.append("| " + " | ".join("---" for _ in table.columns) + " |")
        lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in table.rows()]
        lines.append("")
    return "\n".join(lines).rstrip()


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def store(records: pl.DataFrame, found: dict[str, pl.DataFrame], folder: Path) -> list[Path]:
    """Write the records as Parquet and the tables as Markdown; returns the paths.

    Example:
        >>> from mbflow.bench.evidence import store
        >>> store.__name__
        'store'
    """
    folder.mkdir(parents=True, exist_ok=True)
    parquet, text = folder / "select-evidence.parquet", folder / "select-evidence.md"
    columns = [name for name in records.columns if name != "note"]
    records.select(columns).write_parquet(parquet, compression="zstd")
    write_whole(text, ("# Evidence of instance selection\n\n" + markdown(found) + "\n").encode())
    return [parquet, text]
