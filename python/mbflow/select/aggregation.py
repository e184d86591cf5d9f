"""One number an edge from the attention of several heads and layers, and what heads disagree on.

Imports torch; the rest of `mbflow.select` imports this module only when attention is asked for.
"""

from __future__ import annotations

from typing import Literal

import torch

__all__ = ["Aggregation", "aggregate", "concentration", "disagreement"]

Aggregation = Literal["mean", "max", "entropy"]
_LEAST = 1e-6  # a weight that even evenly spread attention has, so that weights add up to something


def aggregate(
    coefficients: torch.Tensor, unused: torch.Tensor | None, by: Aggregation
) -> torch.Tensor:
    """Aggregate the coefficients of heads, or of layers, edge by edge.

    "mean" is the mean and "max" the largest. "entropy" is the mean weighted, for each target, by
    how concentrated the head's attention is: 1 - H / log(slots), H being the entropy of its
    coefficients over the target's slots; a head that looks at all neighbours alike counts
    nothing beside one that chooses. With "mean" and "entropy" a target's coefficients go on adding
    up to what they did, with "max" to at least that.

    Args:
        coefficients: float32 of shape (heads or layers, targets, slots).
        unused: Which slots are unused, bool of shape (targets, slots), None if none is.
        by: The rule.

    Returns:
        float32 of shape (targets, slots).

    Example:
        >>> import torch
        >>> from mbflow.select.aggregation import aggregate
        >>> coefficients = torch.tensor([[[0.5, 0.5]], [[1.0, 0.0]]])
        >>> aggregate(coefficients, None, "mean").tolist()
        [[0.75, 0.25]]
        >>> [round(value, 3) for value in aggregate(coefficients, None, "entropy")[0].tolist()]
        [1.0, 0.0]
    """
    if len(coefficients) == 1:
        return coefficients[0]
    if by == "mean":
        # In order: a reduction over the first axis may be split otherwise on another machine.
        total = coefficients[0].clone()
        for part in coefficients[1:]:
            total += part
        return total / len(coefficients)
    if by == "max":
        return coefficients.amax(dim=0)
    weights = concentration(coefficients, unused) + _LEAST
    total = coefficients[0] * weights[0].unsqueeze(1)
    whole = weights[0].clone()
    for part, weight in zip(coefficients[1:], weights[1:], strict=True):
        total += part * weight.unsqueeze(1)
        whole += weight
    return total / whole.unsqueeze(1)


def concentration(coefficients: torch.Tensor, unused: torch.Tensor | None) -> torch.Tensor:
    """1 - H / log(slots) of each target's coefficients as shares, 0 (even) to 1 (one slot alone).

    Args:
        coefficients: float32 of shape (heads or layers, targets, slots), 0 at unused slots.
        unused: bool of shape (targets, slots), None if none is.

    Returns:
        float32 of shape (heads or layers, targets); 0 where a target has one slot.

    Example:
        >>> import torch
        >>> from mbflow.select.aggregation import concentration
        >>> concentration(torch.tensor([[[0.5, 0.5], [1.0, 0.0]]]), None).tolist()
        [[0.0, 1.0]]
    """
    shares = coefficients / coefficients.sum(dim=2, keepdim=True)
    entropy = -torch.xlogy(shares, shares).sum(dim=2)
    if unused is None:
        slots = torch.full(entropy.shape[1:], float(coefficients.shape[2]), device=shares.device)
    else:
        slots = (~unused).sum(dim=1).to(torch.float32)
    even = torch.log(slots.clamp(min=2.0))
    kept = 1.0 - entropy / even
    return torch.where(slots > 1, kept.clamp(0.0, 1.0), 0.0)


def disagreement(outputs: list[torch.Tensor]) -> torch.Tensor:
    """The share of pairs of heads that predict different classes.

    Args:
        outputs: Class logits of each head, (rows, classes) each.

    Returns:
        float32 of shape (rows,); 0 for one head.

    Example:
        >>> import torch
        >>> from mbflow.select.aggregation import disagreement
        >>> one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> disagreement([one, one, other])
        tensor([0.6667])
    """
    votes = torch.stack([output.argmax(dim=1) for output in outputs])
    heads = len(votes)
    differ = torch.zeros(votes.shape[1], device=votes.device)
    for place in range(1, heads):
        differ += (votes[place:] != votes[:-place]).sum(dim=0)
    return differ / max(1, heads * (heads - 1) // 2)
