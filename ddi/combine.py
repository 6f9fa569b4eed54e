"""What combines the gradients of a batch: from their Gram matrix and losses to weights.

A new rule is a function in ``COMBINE``. All is on the CPU and in float64.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddi.solver import bundle, min_norm_product

__all__ = ["COMBINE", "RULES", "Problem", "cosines", "least_norm", "weigh"]


@dataclass(frozen=True)
class Problem:
    """``n`` gradients: their Gram matrix ``(n, n)``, the parts ``values`` of the mean loss that
    they are the gradients of, ``(n,)``, which of them choose together, ``groups`` ``(n,)``, and the
    rule's step length ``t``.
    """

    gram: Tensor
    values: Tensor
    groups: Tensor
    t: float | None


Weights = tuple[Tensor, float]


def even(problem: Problem) -> Weights:
    return torch.full_like(problem.values, 1 / len(problem.values)), math.nan


def shortest(problem: Problem) -> Weights:
    least = problem.gram.diagonal().argmin()
    return torch.zeros_like(problem.values).index_fill(0, least, 1.0), math.nan


def least_norm(problem: Problem) -> Weights:
    point = min_norm_product(problem.gram, problem.groups)
    return point.weights, float(point.gap)


def bundle_step(problem: Problem) -> Weights:
    assert problem.t is not None  # a bundle rule without is refused
    point = bundle(problem.gram, problem.values, problem.t, problem.groups)
    return point.weights, float(point.gap)


COMBINE: dict[str, Callable[[Problem], Weights]] = {
    "single": even,  # of one
    "mean": even,
    "max": even,  # of one
    "min": shortest,
    "ddi": least_norm,
    "comb": least_norm,
    "product": least_norm,
    "bundle": bundle_step,
}
RULES = tuple(COMBINE)


def cosines(problem: Problem) -> dict[str, float]:
    """Cosines and negative pairs of the columns."""
    gram = problem.gram
    i, j = torch.triu_indices(len(gram), len(gram), 1)
    norms = gram.diagonal().sqrt()
    scale = norms[i] * norms[j]
    cosines = torch.where(scale > 0, gram[i, j] / torch.where(scale > 0, scale, 1.0), 0.0)
    least, negative = float(cosines.min()), float((gram[i, j] < 0).sum())
    return {"cosine_mean": float(cosines.mean()), "cosine_min": least, "negative_pairs": negative}


def weigh(weights: Tensor, gap: float) -> dict[str, Any]:
    """Weights ``(m,)`` or ``(m, k)``, their entropy (the mean over samples), and the gap."""
    entropy = float(torch.special.entr(weights.double()).sum(0).mean())  # (m,) is one sample
    return {"weights": weights, "entropy": entropy, "gap": gap}
