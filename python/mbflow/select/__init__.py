"""Instance selection: a labelled table in, the rows that are worth training on out.

Example:
    >>> import numpy as np
    >>> from mbflow.select import select_instances
    >>> features = np.arange(40.0).reshape(20, 2)
    >>> selection = select_instances(features, ["a"] * 10 + ["b"] * 10, fraction=0.2, epochs=5)
    >>> len(selection.indices)
    4
"""

from mbflow.select.attention import Attention, attention_scores
from mbflow.select.evaluate import evaluate_selection, evaluate_split, summarise
from mbflow.select.features import ColumnNote, FeatureEncoder
from mbflow.select.hashing import Graph, exact_recall, hash_graph, kth_distances
from mbflow.select.instances import Selection, select_instances, split_label
from mbflow.select.keep import keep_rows, keep_summary
from mbflow.select.labels import Labels, encode_labels
from mbflow.select.strata import kept_count, quotas, stratified_random, stratified_split

__all__ = [
    "Attention",
    "ColumnNote",
    "FeatureEncoder",
    "Graph",
    "Labels",
    "Selection",
    "attention_scores",
    "encode_labels",
    "evaluate_selection",
    "evaluate_split",
    "exact_recall",
    "hash_graph",
    "keep_rows",
    "keep_summary",
    "kept_count",
    "kth_distances",
    "quotas",
    "select_instances",
    "split_label",
    "stratified_random",
    "stratified_split",
    "summarise",
]
