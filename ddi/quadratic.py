"""The quadratic problem over simplices, scaled, and three methods for it; NumPy, in float64."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddi import _checks
from ddi.simplices import Array, Mask, Simplices, check_groups

__all__ = ["SOLVERS", "Problem", "a_vector", "problem_of", "times"]

Solved = tuple[Array, int]  # weights, iterations


@dataclass(frozen=True)
class Problem:
    """A batch of ``B`` problems in units in which the largest entry of each matrix is 1.

    Attributes:
        G: ``(B, n, n)``, symmetric. c: ``(B, n)``, each group's largest entry 0.
        size: ``(B,)``, the larger of 1 and the largest loss difference. tol: the gap to reach,
            ``(B,)``. floor: bound of G's negative eigenvalues, ``(B,)``, of rounding's size.
    """

    G: Array
    c: Array
    simplices: Simplices
    size: Array
    tol: Array
    floor: Array

    def residual(self, a: Array) -> Array:
        """The objective's gradient ``Ga - c``."""
        return times(self.G, a) - self.c

    def gap(self, a: Array) -> Array:
        """Frank-Wolfe gap."""
        return self.simplices.gap(a, self.residual(a))


def times(G: Array, a: Array) -> Array:
    """``Ga``, a problem at a time."""
    return (G @ a[:, :, None])[:, :, 0]


def a_vector(name: str, value: Tensor, gram: Tensor) -> Tensor:
    """One number a vector of ``gram``, ``(..., n)``, expanded to the leading axes of ``gram``; one
    for all vectors would change no solution, and is refused.
    """
    shape = tuple(gram.shape[:-1])
    _checks.float_tensor(name, value)
    if value.shape[-1] == shape[-1]:
        try:
            return value.expand(shape)
        except RuntimeError:
            pass
    _checks.refuse(name, f"a tensor that expands to shape {shape}, last axis {shape[-1]}", value)


def problem_of(
    gram: Tensor, groups: Tensor, linear: Tensor | None, tol: float
) -> tuple[Problem, Array]:
    """What is given, checked and scaled, and the scales ``(B,)``: the largest entry of each
    matrix, or where that is 0 the largest loss difference.
    """
    n = _checks.float_tensor("gram", gram, 2).shape[-1]
    if gram.shape[-2] != n:
        raise ValueError(f"gram must be square in its last two axes, got shape {tuple(gram.shape)}")
    simplices = Simplices(check_groups(groups, n), n)
    c = np.zeros((1, n))
    if linear is not None:
        c = a_vector("linear", linear, gram).detach().double().cpu().reshape(-1, n).numpy()
    G = gram.detach().double().cpu().reshape(-1, n, n).numpy()
    c = simplices.shift(np.broadcast_to(c, (len(G), n)))
    scale, most = abs(G).max((-2, -1)), abs(c).max(-1)
    scale = np.where(scale > 0, scale, np.where(most > 0, most, 1.0))
    with np.errstate(over="ignore"):
        G, c = G / scale[:, None, None], c / scale[:, None]
    if not np.isfinite(c).all():
        raise ValueError("linear must be finite in units of gram's largest entry")
    G = (G + G.swapaxes(1, 2)) / 2
    size = abs(c).max(-1).clip(1.0, None)
    return Problem(G, c, simplices, size, tol * size, _floor(G, gram.dtype)), scale


def _floor(G: Array, dtype: torch.dtype) -> Array:
    """A bound of the size of the negative eigenvalues of ``G`` (unit scale), ``(B,)``; refused if
    larger than rounding in ``dtype``.
    """
    n = G.shape[-1]
    try:  # the cheap proof that there are none below rounding
        np.linalg.cholesky(G + 5e-15 * n * np.eye(n))
        return np.zeros(len(G))
    except np.linalg.LinAlgError:
        lowest = np.linalg.eigvalsh(G)[:, 0]
    if (lowest < -n * (1e-10 if dtype == torch.float64 else 1e-5)).any():
        least = f"an eigenvalue {lowest.min():.3g} of its largest entry"
        raise ValueError(f"gram must be positive semidefinite, got {least}")
    return (-lowest).clip(0, None)


# --------------------------------------------------------------------------------------------------
# Each takes a problem and the most iterations, and returns (weights, iterations).


def _active_set(problem: Problem, most: int) -> Solved:
    """Minimise on the affine hull of a support; drop what turns negative; let in what the gap
    points to; repeat.

    A tiny proximal term, centred at the current point (so that it moves no solution), keeps every
    system regular. Returned is the iterate of least gap.
    """
    simplices = problem.simplices
    rounding = 1e-11 * problem.size
    a = _pivot(problem)
    free = a > 0  # first the minimiser on this support
    settled: Mask = np.zeros(len(a), dtype=np.bool_)
    new = np.zeros_like(free)
    kept, least = a, np.full(len(a), math.inf)
    idle = np.zeros(len(a), dtype=np.int64)  # iterations lost to rounding
    for iteration in range(most):
        r = problem.residual(a)
        gaps = simplices.gaps(a, r)
        gap = gaps.sum(-1)
        kept = np.where((gap < least)[:, None], a, kept)
        idle = np.where((gap < 0.9 * least) | (gap > rounding), 0, idle + 1)
        least = np.minimum(least, gap)
        done = (gap <= problem.tol) | (idle >= 2)
        if done.all():
            return kept, iteration
        lowest = simplices.vertex(r) > 0
        wide = gaps >= 0.1 * gaps.mean(-1)[:, None]
        entering = lowest & wide[:, simplices.group] & settled[:, None]
        new = np.where(settled[:, None], entering & ~free, new)
        free = free | entering
        moved, blocked, stopped = _step(problem, a, r, free)
        free, new = free & ~blocked, new & ~blocked
        stuck = stopped & ~new.any(-1)  # all that came in fell out: keep the steepest alone
        if stuck.any():
            steepest = lowest & simplices.worst(a, r) & stuck[:, None]
            free, new = free | steepest, new | steepest
        settled[:] = ~blocked.any(-1)
        a = np.where(done[:, None], a, moved)
    return kept, most


def _step(problem: Problem, a: Array, r: Array, free: Mask) -> tuple[Array, Mask, Mask]:
    """Go towards the minimiser on the affine hull of ``free``, as far as the weights stay
    non-negative: where to, which weights block, and which problems do not move at all.
    """
    d = _to_affine_minimiser(problem, r, free)
    falling = free & (d < 0)
    ratio = np.where(falling, a / np.where(falling, -d, 1.0), math.inf)
    step = ratio.min(-1).clip(None, 1.0)[:, None]
    blocked = falling & (ratio <= step)
    moved = np.where(blocked, 0.0, a + step * d).clip(0, None)
    return problem.simplices.normalise(moved), blocked, step[:, 0] == 0


def _pivot(problem: Problem, rounds: int = 6) -> Array:
    """A start: drop all negative weights and let in all that the multipliers ask for, at once, from
    the full support.

    Block pivoting (Portugal, Judice and Vicente 1994) mostly finds the support in a few rounds, but
    it may cycle, so what it finds is no more than a feasible point.
    """
    simplices = problem.simplices
    free = np.ones_like(problem.c, dtype=np.bool_)
    for _ in range(rounds):
        even = simplices.normalise(free.astype(np.float64))
        a = even + _to_affine_minimiser(problem, problem.residual(even), free)
        r = problem.residual(a)
        level = ((even * r) @ simplices.indicator)[:, simplices.group]
        wrong = (free & (a < 0)) | (~free & (r < level))
        if not wrong.any():
            break
        free = free ^ wrong
        free = free | (simplices.vertex(np.where(free, 0.0, 1.0)) > 0)  # one member at least
    return simplices.normalise(a.clip(0, None))


def _to_affine_minimiser(problem: Problem, r: Array, free: Mask) -> Array:
    """Solve ``min 1/2 d'Gd + r'd + proximal/2 |d|^2`` over ``d`` with ``d = 0`` off ``free`` and
    sum 0 in each group.

    The first free member of each group pays for the others: ``d_lead = -sum of the others' d``,
    which leaves a definite system in these alone.
    """
    G, simplices = problem.G, problem.simplices
    lead = simplices.first(np.where(free, 0.0, 1.0))[:, simplices.group]  # (B, n)
    others = free & (lead != simplices.order)
    idx = np.flatnonzero(others.any(0))  # the union of a batch's; rows of the identity fill up
    f, of, b = others[:, idx], lead[:, idx], np.arange(len(G))[:, None]
    H = G[:, idx] - G[b, of]  # rows, less those of the leads; then columns
    H = H[:, :, idx] - np.take_along_axis(H, of[:, None, :], 2)
    same = simplices.group[idx][:, None] == simplices.group[idx]
    proximal = (1e-14 * simplices.n + 2 * problem.floor)[:, None, None]
    H += proximal * (same + np.eye(len(idx)))
    H = np.where(f[:, :, None] & f[:, None, :], H, np.eye(len(idx)))
    rhs = np.where(f, np.take_along_axis(r, of, 1) - r[:, idx], 0.0)
    d = np.zeros_like(r)
    d[:, idx] = np.where(f, np.linalg.solve(H, rhs[:, :, None])[:, :, 0], 0.0)
    d[b, lead] -= (d @ simplices.indicator)[:, simplices.group]
    return d


def _accelerated(problem: Problem, most: int) -> Solved:
    """Accelerated projected gradient (Parikh and Boyd 2014, section 4.3), step ``1/||G||_2`` for
    ``1/2 a'Ga``.
    """
    simplices = problem.simplices
    step = 1 / np.linalg.eigvalsh(problem.G)[:, -1:].clip(1e-300, None)
    a = previous = simplices.normalise(np.ones_like(problem.c))
    for k in range(most):
        done = problem.gap(a) <= problem.tol
        if done.all():
            return a, k
        ahead = a + k / (k + 3) * (a - previous)
        new = simplices.project(ahead - step * problem.residual(ahead))
        a, previous = np.where(done[:, None], a, new), a
    return a, most


def _away_steps(problem: Problem, most: int) -> Solved:
    """Frank-Wolfe with away steps (Lacoste-Julien and Jaggi 2015) and exact line search, on the
    group of largest gap.
    """
    G, simplices = problem.G, problem.simplices
    a = simplices.vertex(G.diagonal(axis1=1, axis2=2) / 2 - problem.c)
    for iteration in range(most):
        r = problem.residual(a)
        done = simplices.gap(a, r) <= problem.tol
        if done.all():
            return a, iteration
        member = simplices.worst(a, r)  # (B, n), the group to move in
        weights = np.where(member, a, 0.0)
        best = simplices.order == np.where(member, r, math.inf).argmin(-1)[:, None]
        worst = simplices.order == np.where(weights > 0, r, -math.inf).argmax(-1)[:, None]
        share = (weights * worst).sum(-1)[:, None]  # weight of the vertex to move away from
        toward, away = best - weights, weights - worst
        go_toward = ((toward * r).sum(-1) <= (away * r).sum(-1))[:, None] | (share == 1)
        d = np.where(go_toward, toward, away)
        longest = np.where(go_toward, 1.0, share / (1 - share).clip(1e-300, None))
        curvature = (d * times(G, d)).sum(-1)[:, None]
        slope = -(d * r).sum(-1)[:, None]
        step = np.where(curvature * longest > slope, slope / curvature.clip(1e-300, None), longest)
        moved = a + step * d
        a = np.where(done[:, None], a, simplices.normalise(np.where(moved > 1e-16, moved, 0.0)))
    return a, most


SOLVERS = {"exact": _active_set, "apg": _accelerated, "frank-wolfe": _away_steps}
