"""Quadratic problems over one simplex or a product of simplices, from the Gram matrix alone.

The problem solved everywhere is ``min 1/2 a'Ga - c'a`` over weights ``a`` that lie in a simplex, or whose every group
lies in one. With ``G = M'M`` and ``c = 0`` it gives the point of least norm of a hull (Theorem 2) or of a sum of hulls;
with ``c`` the loss values it is the dual of the bundle step. Cost does not depend on the dimension of the vectors.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ddi.simplices import Simplices, check_floats
from ddi.threat import number, whole

__all__ = ["MinNormPoint", "bundle", "min_norm_point", "min_norm_product"]

Solved = tuple[Tensor, int]  # weights, iterations

METHODS = ("exact", "apg", "frank-wolfe")


@dataclass(frozen=True)
class MinNormPoint:
    """Solution of the simplex problem, and its certificate.

    Attributes:
        weights: ``(..., n)``, non-negative, summing to 1 (in each group).
        squared_norm: ``a'Ga``, shape ``(...)``: the squared norm of ``w = Ma``.
        gap: Frank-Wolfe gap ``sum_groups (a'r - min r)`` with ``r = Ga - c``, shape ``(...)``. It is never negative,
            bounds the suboptimality of the objective, and without ``c`` gives ``||w||^2 - ||w*||^2 <= 2 gap`` and
            ``||w - w*||^2 <= gap``; ``-w`` descends on every vector exactly if ``gap < ||w||^2`` (one group).
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
    """Solve ``min 1/2 a'Ga - c'a`` over the simplex: with ``c = 0``, the point of least norm in ``conv{g_i}`` (eq. 14).

    Args:
        gram: ``G``, ``(..., m, m)``, floating point, positive semidefinite up to rounding; symmetrised here.
        linear: ``c``, ``(..., m)``, or ``None`` for 0.
        method: ``"exact"`` (an active-set method in the manner of Wolfe 1976, finitely many steps), ``"apg"`` (the
            paper's accelerated projected gradient with step ``1/||G||_2``) or ``"frank-wolfe"`` (with away steps).
        tol: relative gap at which to stop; default 1e-6, and for ``"exact"`` as far as rounding lets it (it is reported
            converged at 1e-10, for float32 input at 1e-6).
        max_iter: most iterations; default ``100 + 10 m`` for ``"exact"``, else 10 000.

    Returns:
        :class:`MinNormPoint` in ``gram``'s dtype; computed in float64.

    Raises:
        ValueError: for a matrix that is not square, not finite or indefinite, or an unknown method.
    """
    check_floats("gram", gram, 2)
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
    """Solve ``min 1/2 a'Ga - c'a`` with each group's weights in a simplex: least norm of a *sum* of hulls.

    With ``c = 0`` the point is ``w = sum_groups sum_{i in group} a_i g_i``, the least-norm point of the Minkowski sum.
    Whoever wants a mean over groups scales the vectors first.

    Args:
        gram: one matrix of all ``n`` vectors, ``(..., n, n)``.
        groups: ``(n,)`` integers, the group of each vector; any labels, in any order.
        linear, method, tol, max_iter: as for :func:`min_norm_point`.

    Raises:
        ValueError: as for :func:`min_norm_point`, and if ``groups`` is not ``n`` integers.
    """
    gram, n = check_floats("gram", gram, 2), gram.shape[-1]
    if gram.shape[-2] != n:
        raise ValueError(f"gram must be square in its last two axes, got shape {tuple(gram.shape)}")
    simplices = Simplices(groups, n, gram.device)
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    if max_iter is not None:
        whole("max_iter", max_iter)
    exact = method == "exact"
    tol = number("tol", (1e-16 if exact else 1e-6) if tol is None else tol)
    max_iter = max_iter or (100 + 10 * n if exact else 10_000)

    G, shape = gram.detach().double().reshape(-1, n, n), gram.shape[:-2]
    if linear is None:
        c = G.new_zeros(len(G), n)
    else:
        check_floats("linear", linear, 1)
        if linear.shape[-1] != n:
            raise ValueError(f"linear must have {n} entries on its last axis, got shape {tuple(linear.shape)}")
        c = linear.detach().to(G).expand(*shape, n).reshape(-1, n)
    c = simplices.shift(c)
    largest = G.abs().amax((-2, -1))
    scale = torch.where(largest > 0, largest, c.abs().amax(-1))  # the unit of the problem: the largest Gram entry
    scale = torch.where(scale > 0, scale, 1.0)
    G, c = G / scale[:, None, None], c / scale[:, None]
    G = (G + G.mT) / 2
    floor = _semidefinite(G, gram.dtype)
    size = c.abs().amax(-1).clamp_min(1.0)  # ... or the largest loss difference, where that is larger

    solve = {"exact": _active_set, "apg": _accelerated, "frank-wolfe": _away_steps}[method]
    a, iterations = solve(G, c, simplices, tol * size, max_iter, floor)
    a = simplices.normalise(a).to(gram.dtype)
    rounded = a.double()
    gap = simplices.gap(rounded, _residual(G, rounded, c))
    squared = (rounded * (G @ rounded.unsqueeze(-1)).squeeze(-1)).sum(-1).clamp_min(0)
    good = gap <= (max(tol, 1e-10 if gram.dtype == torch.float64 else 1e-6) if exact else tol) * size
    return MinNormPoint(
        a.reshape(*shape, n),
        (squared * scale).to(gram.dtype).reshape(shape),
        (gap * scale).to(gram.dtype).reshape(shape),
        iterations,
        good.reshape(shape),
    )


def bundle(gram: Tensor, values: Tensor, t: float, groups: Tensor | None = None, method: str = "exact") -> MinNormPoint:
    """Weights of the bundle step: ``min_s max_j (l_j + <g_j, s>) + ||s||^2 / (2t)`` through its dual.

    The dual is ``min t/2 a'Ga - l'a`` over the simplex (or one simplex a group), and the step is ``s = -t M a``. For
    small ``t`` it follows the largest value (PGD-max); for large ``t``, or tied values, the least norm (DDi).

    Args:
        gram: ``(..., n, n)``. values: the losses ``l``, ``(..., n)``. t: step length, positive.
        groups: as for :func:`min_norm_product`, or ``None`` for one simplex.

    Returns:
        :class:`MinNormPoint`; ``squared_norm`` is ``a'Ga``, without ``t``; ``gap`` is that of the dual divided by ``t``.
    """
    number("t", t, strict=True)
    check_floats("values", values, 1)
    groups = torch.zeros(gram.shape[-1], dtype=torch.int64) if groups is None else groups
    return min_norm_product(gram, groups, values.double() / t, method)


# --------------------------------------------------------------------------------------------------- the three methods
# Each takes G (B, n, n) of unit scale, c (B, n), the groups, the gap to reach (B,), the most iterations and the size of
# G's rounding-level negative eigenvalues, and returns (weights, iterations).


def _active_set(G: Tensor, c: Tensor, simplices: Simplices, tol: Tensor, most: int, floor: Tensor) -> Solved:
    """Minimise on the affine hull of a support; drop what turns negative; let in what the gap points to; repeat.

    A tiny proximal term, centred at the current point (so that it moves no solution), keeps every system regular.
    """
    B, n = c.shape
    proximal = (1e-14 * n + 2 * floor)[:, None]
    rounding = 1e-11 * c.abs().amax(-1).clamp_min(1.0)
    a = simplices.vertex(G.diagonal(dim1=-2, dim2=-1) / 2 - c)
    free, settled = a > 0, torch.ones(B, dtype=torch.bool, device=c.device)
    new = torch.zeros_like(free)
    kept, least, idle = a, torch.full_like(tol, torch.inf), torch.zeros_like(tol)
    for iteration in range(most):
        r = _residual(G, a, c)
        gaps = simplices.gaps(a, r)
        gap = gaps.sum(-1)
        kept = torch.where((gap < least)[:, None], a, kept)
        idle = torch.where((gap < 0.9 * least) | (gap > rounding), 0, idle + 1)  # iterations lost to rounding
        least = torch.minimum(least, gap)
        done = (gap <= tol) | (idle >= 4)
        if done.all():
            return kept, iteration
        lowest = simplices.vertex(r) > 0
        wide = gaps >= 0.1 * gaps.mean(-1, keepdim=True)
        entering = lowest & wide[:, simplices.group] & settled[:, None]
        new = torch.where(settled[:, None], entering & ~free, new)
        steepest = lowest & simplices.worst(a, r)
        free = free | entering

        idx = free.any(0).nonzero().squeeze(-1)
        f = free[:, idx]
        p, k = len(idx), simplices.count
        K = G.new_zeros(B, p + k, p + k)
        K[:, :p, :p] = torch.where(f[:, :, None] & f[:, None, :], G[:, idx][:, :, idx], 0.0)
        K.diagonal(dim1=-2, dim2=-1)[:, :p] += torch.where(f, proximal, 1.0)
        K[:, :p, p:] = simplices.indicator[idx] * f[:, :, None]
        K[:, p:, :p] = K[:, :p, p:].mT
        rhs = torch.cat([torch.where(f, -r[:, idx], 0.0), G.new_zeros(B, k)], 1)
        d = torch.zeros_like(a)
        d[:, idx] = torch.where(f, torch.linalg.solve(K, rhs.unsqueeze(-1)).squeeze(-1)[:, :p], 0.0)

        falling = free & (d < 0)
        ratio = torch.where(falling, a / torch.where(falling, -d, 1.0), torch.inf)
        step = ratio.amin(-1, keepdim=True).clamp_max(1.0)
        blocked = falling & (ratio <= step)
        moved = torch.where(blocked, 0.0, a + step * d).clamp_min(0)
        a = torch.where(done[:, None], a, simplices.normalise(moved))
        free = free & ~blocked
        new = new & ~blocked
        stuck = (step.squeeze(-1) == 0) & ~new.any(-1)  # all that came in fell out: keep the steepest alone
        new = new | (steepest & stuck[:, None])
        free = free | (steepest & stuck[:, None])
        settled = ~blocked.any(-1)
    return kept, most


def _accelerated(G: Tensor, c: Tensor, simplices: Simplices, tol: Tensor, most: int, floor: Tensor) -> Solved:
    """Accelerated projected gradient (Parikh and Boyd 2014, section 4.3), step ``1/||G||_2`` for ``1/2 a'Ga``."""
    step = 1 / torch.linalg.matrix_norm(G, 2).clamp_min(1e-300)[:, None]
    a = previous = simplices.normalise(torch.ones_like(c))
    for k in range(most):
        done = simplices.gap(a, _residual(G, a, c)) <= tol
        if done.all():
            return a, k
        ahead = a + k / (k + 3) * (a - previous)
        new = simplices.project(ahead - step * _residual(G, ahead, c))
        a, previous = torch.where(done[:, None], a, new), a
    return a, most


def _away_steps(G: Tensor, c: Tensor, simplices: Simplices, tol: Tensor, most: int, floor: Tensor) -> Solved:
    """Frank-Wolfe with away steps (Lacoste-Julien and Jaggi 2015) and exact line search, on the group of largest gap."""
    a = simplices.vertex(G.diagonal(dim1=-2, dim2=-1) / 2 - c)
    for iteration in range(most):
        r = _residual(G, a, c)
        done = simplices.gap(a, r) <= tol
        if done.all():
            return a, iteration
        member = simplices.worst(a, r)  # (B, n), the group to move in
        weights = torch.where(member, a, 0.0)
        toward = torch.zeros_like(a).scatter(1, torch.where(member, r, torch.inf).argmin(1, True), 1.0) - weights
        away_from = torch.where(weights > 0, r, -torch.inf).argmax(1, True)
        away = weights - torch.zeros_like(a).scatter(1, away_from, 1.0)
        go_toward = ((toward * r).sum(1, True) <= (away * r).sum(1, True)) | (weights.gather(1, away_from) == 1)
        d = torch.where(go_toward, toward, away)
        longest = torch.where(go_toward, 1.0, (lambda w: w / (1 - w).clamp_min(1e-300))(weights.gather(1, away_from)))
        curvature = (d * (G @ d.unsqueeze(-1)).squeeze(-1)).sum(1, True)
        slope = -(d * r).sum(1, True)
        step = torch.where(curvature * longest > slope, slope / curvature.clamp_min(1e-300), longest)
        moved = a + step * d
        a = torch.where(done[:, None], a, simplices.normalise(torch.where(moved > 1e-16, moved, 0.0)))
    return a, most


def _semidefinite(G: Tensor, dtype: torch.dtype) -> Tensor:
    """Size of the negative eigenvalues of ``G`` (unit scale), ``(B,)``; refused if larger than rounding in ``dtype``."""
    lowest = torch.linalg.eigvalsh(G)[:, 0]
    allowed = G.shape[-1] * (1e-10 if dtype == torch.float64 else 1e-5)
    if (lowest < -allowed).any():
        raise ValueError(
            f"gram must be positive semidefinite, got an eigenvalue of {lowest.min().item():.3g} times its largest entry"
        )
    return (-lowest).clamp_min(0)


def _residual(G: Tensor, a: Tensor, c: Tensor) -> Tensor:
    return (G @ a.unsqueeze(-1)).squeeze(-1) - c
