"""Quadratic problems over one simplex or a product of simplices, from the Gram matrix alone.

The problem solved everywhere is ``min 1/2 a'Ga - c'a`` over weights ``a`` that lie in a simplex, or
whose every group lies in one. With ``G = M'M`` and ``c = 0`` it gives the point of least norm of a
hull (Theorem 2) or of a sum of hulls; with ``c`` the loss values it is the dual of the bundle step.
Cost does not depend on the dimension of the vectors. All is computed in float64 by NumPy, on the
CPU.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddi import _checks
from ddi.simplices import Array, Mask, Simplices, check_groups

__all__ = ["MinNormPoint", "bundle", "min_norm_point", "min_norm_product"]

Solved = tuple[Array, int]  # weights, iterations


@dataclass(frozen=True)
class MinNormPoint:
    """Solution of the simplex problem, and its certificate.

    Attributes:
        weights: ``(..., n)``, non-negative, summing to 1 (in each group).
        squared_norm: ``a'Ga``, shape ``(...)``: the squared norm of ``w = Ma``.
        gap: Frank-Wolfe gap ``sum_groups (a'r - min r)`` with ``r = Ga - c``, shape ``(...)``. It
            is never negative, bounds the suboptimality of the objective, and without ``c`` gives
            ``||w||^2 - ||w*||^2 <= 2 gap`` and ``||w - w*||^2 <= gap``; ``-w`` descends on every
            vector exactly if ``gap < ||w||^2`` (one group).
        iterations: iterations taken (the most of a batch).
        converged: boolean, shape ``(...)``: ``gap <= tol`` times the largest entry of the problem.
    """

    weights: Tensor
    squared_norm: Tensor
    gap: Tensor
    iterations: int
    converged: Tensor


def min_norm_point(
    gram: Tensor,
    linear: Tensor | None = None,
    method: str = "exact",
    tol: float | None = None,
    max_iter: int | None = None,
) -> MinNormPoint:
    """Solve ``min 1/2 a'Ga - c'a`` over the simplex: with ``c = 0``, the point of least norm in
    ``conv{g_i}`` (eq. 14).

    Args:
        gram: ``G``, ``(..., m, m)``, floating point, positive semidefinite up to rounding;
            symmetrised here.
        linear: ``c``, ``(..., m)``, or ``None`` for 0.
        method: ``"exact"`` (an active-set method in the manner of Wolfe 1976, finitely many steps),
            ``"apg"`` (the paper's accelerated projected gradient with step ``1/||G||_2``) or
            ``"frank-wolfe"`` (with away steps).
        tol: relative gap at which to stop; default 1e-6, and for ``"exact"`` as far as rounding
            lets it (it is reported converged at 1e-10, for float32 input at 1e-6).
        max_iter: most iterations; default ``100 + 10 m`` for ``"exact"``, else 10 000.

    Returns:
        :class:`MinNormPoint` in ``gram``'s dtype, on its device.

    Raises:
        ValueError: for a matrix that is not square, not finite or indefinite, or an unknown method.
    """
    _checks.float_tensor("gram", gram, 2)
    groups = torch.zeros(gram.shape[-1], dtype=torch.int64)
    return min_norm_product(gram, groups, linear, method, tol, max_iter)


def min_norm_product(
    gram: Tensor,
    groups: Tensor,
    linear: Tensor | None = None,
    method: str = "exact",
    tol: float | None = None,
    max_iter: int | None = None,
) -> MinNormPoint:
    """Solve ``min 1/2 a'Ga - c'a`` with each group's weights in a simplex: least norm of a *sum* of
    hulls.

    With ``c = 0`` this is ``w = sum_groups sum_{i in group} a_i g_i``; for a mean over groups scale
    the vectors first.

    Args:
        gram: one matrix of all ``n`` vectors, ``(..., n, n)``.
        groups: ``(n,)`` integers, the group of each vector; any labels, in any order.
        linear, method, tol, max_iter: as for :func:`min_norm_point`.

    Raises:
        ValueError: as for :func:`min_norm_point`, and if ``groups`` is not ``n`` integers.
    """
    solve = SOLVERS[_checks.one_of("method", method, SOLVERS)]
    exact, float64 = method == "exact", isinstance(gram, Tensor) and gram.dtype == torch.float64
    tol = (1e-16 if exact else 1e-6) if tol is None else _checks.non_negative("tol", tol)
    if max_iter is not None:
        _checks.positive_int("max_iter", max_iter)
    problem, scale = _problem(gram, groups, linear, tol)
    simplices = problem.simplices
    a, iterations = solve(problem, max_iter or (100 + 10 * simplices.n if exact else 10_000))

    weights = torch.as_tensor(simplices.normalise(a)).to(gram.dtype)
    rounded = weights.double().numpy()
    gap = problem.gap(rounded)
    squared = (rounded * _times(problem.G, rounded)).sum(-1).clip(0, None)
    good = gap <= (max(tol, 1e-10 if float64 else 1e-6) if exact else tol) * problem.size
    shape = gram.shape[:-2]
    found = [torch.as_tensor(v).to(gram).reshape(shape) for v in (squared * scale, gap * scale)]
    converged = torch.as_tensor(good, device=gram.device).reshape(shape)
    weights = weights.to(gram.device).reshape(*shape, simplices.n)
    return MinNormPoint(weights, found[0], found[1], iterations, converged)


def bundle(
    gram: Tensor, values: Tensor, t: float, groups: Tensor | None = None, method: str = "exact"
) -> MinNormPoint:
    """Weights of the bundle step: ``min_s max_j (l_j + <g_j, s>) + ||s||^2 / (2t)`` through its
    dual.

    The dual is ``min t/2 a'Ga - l'a`` over the simplex (or one simplex a group), and the step is
    ``s = -t M a``. For small ``t`` it follows the largest value (PGD-max); for large ``t``, or tied
    values, the least norm (DDi).

    Args:
        gram: ``(..., n, n)``. values: the losses ``l``, ``(..., n)``. t: step length, positive.
        groups: as for :func:`min_norm_product`, or ``None`` for one simplex.

    Returns: :class:`MinNormPoint`; ``squared_norm`` is ``a'Ga``, without ``t``; ``gap`` is that of
        the dual divided by ``t``.
    """
    t = _checks.positive("t", t)
    _checks.float_tensor("gram", gram, 2)
    linear = _checks.float_tensor("values", values).double() / t
    if not torch.isfinite(linear).all():
        raise ValueError(f"t must leave values / t finite, got {t!r}")
    groups = torch.zeros(gram.shape[-1], dtype=torch.int64) if groups is None else groups
    return min_norm_product(gram, groups, linear, method)


# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Problem:
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
        return _times(self.G, a) - self.c

    def gap(self, a: Array) -> Array:
        return self.simplices.gap(a, self.residual(a))


def _times(G: Array, a: Array) -> Array:
    return (G @ a[:, :, None])[:, :, 0]


def _problem(
    gram: Tensor, groups: Tensor, linear: Tensor | None, tol: float
) -> tuple[_Problem, Array]:
    """What is given, checked and scaled, and the scales ``(B,)``: the largest entry of each
    matrix, or where that is 0 the largest loss difference.
    """
    n = _checks.float_tensor("gram", gram, 2).shape[-1]
    if gram.shape[-2] != n:
        raise ValueError(f"gram must be square in its last two axes, got shape {tuple(gram.shape)}")
    simplices = Simplices(check_groups(groups, n), n)
    shape = gram.shape[:-2]
    c = np.zeros((1, n))
    if linear is not None:
        _checks.float_tensor("linear", linear)
        try:
            c = linear.detach().double().cpu().expand(*shape, n).reshape(-1, n).numpy()
        except RuntimeError:
            _checks.refuse("linear", f"a tensor that expands to shape {(*shape, n)}", linear)
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
    return _Problem(G, c, simplices, size, tol * size, _floor(G, gram.dtype)), scale


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


def _active_set(problem: _Problem, most: int) -> Solved:
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


def _step(problem: _Problem, a: Array, r: Array, free: Mask) -> tuple[Array, Mask, Mask]:
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


def _pivot(problem: _Problem, rounds: int = 6) -> Array:
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


def _to_affine_minimiser(problem: _Problem, r: Array, free: Mask) -> Array:
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


def _accelerated(problem: _Problem, most: int) -> Solved:
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


def _away_steps(problem: _Problem, most: int) -> Solved:
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
        curvature = (d * _times(G, d)).sum(-1)[:, None]
        slope = -(d * r).sum(-1)[:, None]
        step = np.where(curvature * longest > slope, slope / curvature.clip(1e-300, None), longest)
        moved = a + step * d
        a = np.where(done[:, None], a, simplices.normalise(np.where(moved > 1e-16, moved, 0.0)))
    return a, most


SOLVERS = {"exact": _active_set, "apg": _accelerated, "frank-wolfe": _away_steps}
