"""Slow, obvious versions of what mbflow computes, to compare with."""

from __future__ import annotations

import math
from decimal import Decimal, getcontext
from fractions import Fraction

import numpy as np


def exact_neighbours(features, k):
    """For each row the k nearest others by plain loops, ties to the lower row number."""
    rows = [[float(value) for value in row] for row in features]
    result = []
    for i, row in enumerate(rows):
        others = [(math.dist(row, other), j) for j, other in enumerate(rows) if j != i]
        result.append([j for _, j in sorted(others)[:k]])
    return result


def ragged(lists):
    """Offsets and values of lists of row numbers."""
    offsets = np.cumsum([0, *(len(items) for items in lists)]).astype(np.int64)
    return offsets, np.array([item for items in lists for item in items], dtype=np.int32)


def attention_layer(inputs, lists, heads):
    """One graph attention layer by loops over rows, heads and edges, in float64.

    `lists` holds the neighbours of each row; the row itself is always among its sources. Returns
    for each head the outputs and, by (target, source), the coefficients.
    """
    results = []
    for weight, source_vector, target_vector, bias in heads:
        values = np.asarray(inputs, np.float64) @ np.asarray(weight, np.float64)
        source_logits = values @ np.asarray(source_vector, np.float64).ravel()
        target_logits = values @ np.asarray(target_vector, np.float64).ravel()
        outputs, coefficients = np.zeros_like(values), {}
        for target, neighbours in enumerate(lists):
            sources = [target, *neighbours]
            logits = [source_logits[source] + target_logits[target] for source in sources]
            powers = [math.exp(logit if logit > 0 else 0.2 * logit) for logit in logits]
            for source, power in zip(sources, powers, strict=True):
                coefficients[target, source] = power / sum(powers)
                outputs[target] += coefficients[target, source] * values[source]
        results.append((outputs + np.asarray(bias, np.float64), coefficients))
    return results


def elu(values):
    return np.where(values > 0, values, np.expm1(np.minimum(values, 0)))


def quotas(sizes, count, power):
    """The level by bisection in 60 digits, then the largest remainders, ties to the lower class."""
    getcontext().prec = 60
    power = Decimal(str(power))
    used = [index for index, size in enumerate(sizes) if size > 0]
    weights = {index: Decimal(sizes[index]) ** power for index in used}
    total = max(count, len(used))

    def shares(level):
        return {i: min(max(level * weights[i], Decimal(1)), Decimal(sizes[i])) for i in used}

    low, high = Decimal(0), Decimal(10) ** 12
    for _ in range(250):
        middle = (low + high) / 2
        if sum(shares(middle).values()) < total:
            low = middle
        else:
            high = middle
    exact = {index: round(share, 30) for index, share in shares(high).items()}
    result = {index: int(share) for index, share in exact.items()}
    missing = total - sum(result.values())
    by_remainder = sorted(used, key=lambda i: (-round(exact[i] - result[i], 9), i))
    for index in by_remainder[:missing]:
        result[index] += 1
    return [result.get(index, 0) for index in range(len(sizes))]


def kept_count(rows, fraction):
    """Nearest whole number in exact arithmetic on the float product, halves up, at least 1."""
    return min(rows, max(1, math.floor(Fraction(rows * fraction) + Fraction(1, 2))))


def keep(scores, labels, shares):
    """The best rows of each class by sorting lists."""
    kept = []
    for name, share in shares.items():
        rows = [row for row, label in enumerate(labels) if label == name]
        kept += sorted(rows, key=lambda row: (-scores[row], row))[:share]
    return sorted(kept)


def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def class_counts(labels, classes):
    """How often each class occurs, by counting."""
    return [sum(1 for label in labels if label == name) for name in classes]
