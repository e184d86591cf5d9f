"""Instance selection: a labelled table in, the rows that are worth training on out.

Example:
    >>> import numpy as np
    >>> from mbflow.select import select_instances
    >>> features = np.arange(40.0).reshape(20, 2)
    >>> selection = select_instances(features, ["a"] * 10 + ["b"] * 10, fraction=0.2)
    >>> len(selection.indices)
    4
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbflow.errors import require
from mbflow.select.attention import Attention, attention_scores
from mbflow.select.attention_coverage import coverage_weights
from mbflow.select.coverage import Coverage, coverage_rows
from mbflow.select.evaluate import evaluate_selection, evaluate_split
from mbflow.select.explain import Explanation, explain_selection
from mbflow.select.features import ColumnNote, FeatureEncoder
from mbflow.select.hashing import Graph, exact_recall, hash_graph, kth_distances
from mbflow.select.instances import Selection, select_instances, split_label
from mbflow.select.keep import keep_rows, keep_summary
from mbflow.select.labels import Labels, encode_labels, quantile_labels
from mbflow.select.medoids import medoid_rows
from mbflow.select.neighbours import neighbour_graph
from mbflow.select.refine import Refined, Start, refine_rows
from mbflow.select.strata import (
    class_quotas,
    kept_count,
    quotas,
    stratified_random,
    stratified_split,
)
from mbflow.select.summary import EvaluationSummary, summarise

if TYPE_CHECKING:
    from mbflow.select.estimator import InstanceSelector

__all__ = [
    "Attention",
    "ColumnNote",
    "Coverage",
    "EvaluationSummary",
    "Explanation",
    "FeatureEncoder",
    "Graph",
    "InstanceSelector",
    "Labels",
    "Refined",
    "Selection",
    "Start",
    "attention_scores",
    "class_quotas",
    "coverage_rows",
    "coverage_weights",
    "encode_labels",
    "evaluate_selection",
    "evaluate_split",
    "exact_recall",
    "explain_selection",
    "hash_graph",
    "keep_rows",
    "keep_summary",
    "kept_count",
    "kth_distances",
    "medoid_rows",
    "neighbour_graph",
    "quantile_labels",
    "quotas",
    "refine_rows",
    "select_instances",
    "split_label",
    "stratified_random",
    "stratified_split",
    "summarise",
]


def __getattr__(name: str) -> object:
    """Import the estimator when it is first used: it needs scikit-learn (PEP 562)."""
    if name != "InstanceSelector":
        raise AttributeError(f"module 'mbflow.select' has no attribute {name!r}")
    require("sklearn", extra="train", purpose="InstanceSelector")
    from mbflow.select.estimator import InstanceSelector

    globals()[name] = InstanceSelector
    return InstanceSelector
