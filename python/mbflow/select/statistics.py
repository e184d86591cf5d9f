"""Is a difference more than chance? Paired tests over splits and over data sets, and ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mbflow.errors import InvalidArgumentError, require

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import ArrayLike, NDArray

__all__ = ["average_ranks", "holm", "paired_over_sets", "resampled_t_test"]


def resampled_t_test(differences: ArrayLike, *, test_fraction: float) -> float:
    """The p-value of a mean difference over repeated random splits of one data set.

    Splits overlap, so a plain paired t-test finds too much; this one widens the variance by the
    share of test rows.

    Args:
        differences: One number a split, paired.
        test_fraction: Share of the rows in the test part, above 0 and below 1.

    Returns:
        Two-sided p-value; 1 where all differences are 0; NaN for fewer than two, and where all are
        the same, since then nothing is known of how they spread.

    Raises:
        InvalidArgumentError: `test_fraction` is out of range.
        MissingExtraError: SciPy is not installed.

    Source:
        Nadeau, Bengio: Inference for the generalization error (Machine Learning 52, 2003), the
        corrected resampled t-test.

    Example:
        >>> from mbflow.select.statistics import resampled_t_test
        >>> resampled_t_test([0.01, 0.02, 0.015, 0.012], test_fraction=0.2) < 0.05
        True
    """
    if not 0.0 < test_fraction < 1.0:
        raise InvalidArgumentError(f"test_fraction is {test_fraction}; expected above 0, below 1")
    require("scipy", extra="train", purpose="paired tests")
    from scipy import stats

    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return float("nan")
    if not values.any():
        return 1.0
    # Equal differences of accuracies differ by rounding.
    if np.ptp(values) <= 1e-9 * np.abs(values).max():
        return float("nan")
    spread = values.var(ddof=1) * (1 / len(values) + test_fraction / (1 - test_fraction))
    return float(2 * stats.t.sf(abs(values.mean()) / np.sqrt(spread), len(values) - 1))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjust p-values for how many there are, by Holm's step-down method; NaN stay NaN.

    Args:
        p_values: Shape (tests,).

    Returns:
        float64 of the same shape: each may be compared with the level that is asked for.

    Source:
        Holm: A simple sequentially rejective multiple test procedure (Scand. J. Statist. 6, 1979).

    Example:
        >>> from mbflow.select.statistics import holm
        >>> holm([0.01, 0.04, 0.03])
        array([0.03, 0.06, 0.06])
    """
    values = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    result = np.full(len(values), np.nan)
    factors = np.arange(len(order), 0, -1)
    result[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
    return result


def average_ranks(scores: ArrayLike) -> NDArray[np.float64]:
    """The mean rank of each method over data sets: 1 is best, equal scores share their ranks.

    Args:
        scores: Shape (sets, methods), higher is better.

    Returns:
        float64 of shape (methods,).

    Example:
        >>> from mbflow.select.statistics import average_ranks
        >>> average_ranks([[0.9, 0.8, 0.8], [0.7, 0.9, 0.6]])
        array([1.5 , 1.75, 2.75])
    """
    values = np.asarray(scores, dtype=np.float64)
    better = (values[:, None, :] > values[:, :, None]).sum(axis=2)
    equal = (values[:, None, :] == values[:, :, None]).sum(axis=2)
    ranks: NDArray[np.float64] = (better + (equal + 1) / 2).mean(axis=0)
    return ranks


def paired_over_sets(accuracies: pl.DataFrame, *, baseline: str) -> pl.DataFrame:
    """Compare every method with one of them over data sets.

    Args:
        accuracies: A row for each `set` and `method` with its mean `accuracy`.
        baseline: The method that the others are compared with.

    Returns:
        A row for each other method, in order of appearance: `method`, `sets` (in which both are),
        `difference` (mean, method minus baseline), `standard_error` (over sets), `better`, `worse`
        (counts of sets), `p` (two-sided Wilcoxon signed-rank test over sets) and `p_holm`.

    Raises:
        InvalidArgumentError: The baseline is not among the methods.
        MissingExtraError: SciPy is not installed.

    Source:
        Demsar: Statistical comparisons of classifiers over multiple data sets (JMLR 7, 2006).

    Example:
        >>> import polars as pl
        >>> from mbflow.select.statistics import paired_over_sets
        >>> rows = [(s, m, a + 0.01 * i * (m == "b")) for i, s in enumerate("xyz", 1)
        ...         for m, a in (("a", 0.5), ("b", 0.6))]
        >>> table = pl.DataFrame(rows, schema=["set", "method", "accuracy"], orient="row")
        >>> paired_over_sets(table, baseline="a").select("method", "sets", "better").row(0)
        ('b', 3, 3)
    """
    import polars as pl

    require("scipy", extra="train", purpose="paired tests")
    from scipy import stats

    methods = accuracies["method"].unique(maintain_order=True).to_list()
    if baseline not in methods:
        raise InvalidArgumentError(f"there is no method {baseline!r}; there are {methods}")
    base = accuracies.filter(pl.col("method") == baseline).select("set", base="accuracy")
    rows: list[dict[str, Any]] = []
    for method in methods:
        if method == baseline:
            continue
        both = accuracies.filter(pl.col("method") == method).join(base, on="set", how="inner")
        gaps = (both["accuracy"] - both["base"]).to_numpy()
        p = float("nan")
        if len(gaps) >= 2:
            p = 1.0 if not gaps.any() else float(stats.wilcoxon(gaps).pvalue)
        rows.append(
            {
                "method": method,
                "sets": len(gaps),
                "difference": float(gaps.mean()) if len(gaps) else None,
                "standard_error": (
                    float(gaps.std(ddof=1) / np.sqrt(len(gaps))) if len(gaps) > 1 else None
                ),
                "better": int((gaps > 0).sum()),
                "worse": int((gaps < 0).sum()),
                "p": p,
            }
        )
    adjusted = holm([row["p"] for row in rows])
    return pl.DataFrame(rows).with_columns(pl.Series("p_holm", adjusted))
