"""Quadratic problems over one simplex or a product of simplices, from the Gram matrix alone.

The problem solved everywhere is ``min 1/2 a'Ga - c'a`` over weights ``a`` that lie in a simplex, or
whose every group lies in one. With ``G = M'M`` and ``c = 0`` it gives the point of least norm of a
hull (Theorem 2) or of a sum of hulls; with ``c`` the loss values it is the dual of the bundle step.
Cost does not depend on the dimension of the vectors.
"""

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ddi.simplices import Simplices, check_floats
from ddi.threat import number, whole

__all__ = ["MinNormPoint", "bundle", "min_norm_point", "min_norm_product"]

Solved = tuple[Any, int]  # weights, iterations

METHODS = ("exact", "apg", "frank-wolfe")


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
    gram, n = check_floats("gram", gram, 2), gram.shape[-1]
    if gram.shape[-2] != n:
        raise ValueError(f"gram must be square in its last two axes, got shape {tuple(gram.shape)}")
    shape, many = (
        gram.shape[:-2],
        gram.is_cuda and gram.numel() >= 32 * n * n,
    )  # few problems are quicker on the CPU
    simplices = Simplices(groups, n, gram.device if many else None)
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    if max_iter is not None:
        whole("max_iter", max_iter)
    exact = method == "exact"
    tol = number("tol", (1e-16 if exact else 1e-6) if tol is None else tol)
    max_iter = max_iter or (100 + 10 * n if exact else 10_000)

    if linear is None:
        linear = gram.new_zeros(n)
    else:
        check_floats("linear", linear, 1)
        if linear.shape[-1] != n:
            raise ValueError(
                f"linear must have {n} entries on its last axis, got shape {tuple(linear.shape)}"
            )
    G = gram.detach().double().reshape(-1, n, n)
    c = linear.detach().to(G).expand(*shape, n).reshape(-1, n)
    if not many:
        G, c = G.cpu().numpy(), c.cpu().numpy()
    xp = simplices.xp
    c = simplices.shift(c)
    largest = xp.amax(xp.amax(abs(G), -1), -1)
    scale = xp.where(
        largest > 0, largest, xp.amax(abs(c), -1)
    )  # the unit of the problem: the largest Gram entry
    scale = xp.where(scale > 0, scale, 1.0)
    G, c = G / scale[:, None, None], c / scale[:, None]
    G = (G + G.swapaxes(1, 2)) / 2
    floor = _semidefinite(G, gram.dtype, xp)
    size = xp.amax(abs(c), -1).clip(
        1.0, None
    )  # ... or the largest loss difference, where that is larger

    solve = {"exact": _active_set, "apg": _accelerated, "frank-wolfe": _away_steps}[method]
    a, iterations = solve(G, c, simplices, tol * size, max_iter, floor)
    weights = torch.as_tensor(simplices.normalise(a)).to(gram.dtype)
    rounded = weights.double() if many else weights.double().numpy()
    gap = simplices.gap(rounded, _residual(G, rounded, c))
    squared = (rounded * _residual(G, rounded, 0.0)).sum(-1).clip(0, None)
    good = (
        gap <= (max(tol, 1e-10 if gram.dtype == torch.float64 else 1e-6) if exact else tol) * size
    )
    found = (squared * scale, gap * scale, good)
    squared, gap, good = (torch.as_tensor(v, device=gram.device).reshape(shape) for v in found)
    weights = weights.to(gram.device).reshape(*shape, n)
    return MinNormPoint(weights, squared.to(gram.dtype), gap.to(gram.dtype), iterations, good)


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
    number("t", t, strict=True)
    check_floats("values", values, 1)
    groups = torch.zeros(gram.shape[-1], dtype=torch.int64) if groups is None else groups
    return min_norm_product(gram, groups, values.double() / t, method)


# --------------------------------------------------------------------------------------------------
# Each takes G (B, n, n) of unit scale, c (B, n), the groups, the gap to reach (B,), the most
# iterations and the size of G's rounding-level negative eigenvalues, and returns (weights,
# iterations); NumPy arrays, or tensors on a GPU.


def _active_set(G: Any, c: Any, simplices: Simplices, tol: Any, most: int, floor: Any) -> Solved:
    """Minimise on the affine hull of a support; drop what turns negative; let in what the gap
    points to; repeat.

    A tiny proximal term, centred at the current point (so that it moves no solution), keeps every
    system regular.
    """
    xp, n = simplices.xp, c.shape[-1]
    proximal = (1e-14 * n + 2 * floor)[:, None]
    rounding = 1e-11 * xp.amax(abs(c), -1).clip(1.0, None)
    a = _pivot(G, c, simplices, proximal)
    free, settled = a > 0, tol != tol  # first the minimiser on this support
    new = xp.zeros_like(free)
    kept, least, idle = a, xp.full_like(tol, math.inf), xp.zeros_like(tol)
    for iteration in range(most):
        r = _residual(G, a, c)
        gaps = simplices.gaps(a, r)
        gap = gaps.sum(-1)
        kept = xp.where((gap < least)[:, None], a, kept)
        idle = xp.where(
            (gap < 0.9 * least) | (gap > rounding), 0.0, idle + 1
        )  # iterations lost to rounding
        least = xp.minimum(least, gap)
        done = (gap <= tol) | (idle >= 2)
        if done.all():
            return kept, iteration
        lowest = simplices.vertex(r) > 0
        wide = gaps >= 0.1 * gaps.mean(-1)[:, None]
        entering = lowest & wide[:, simplices.group] & settled[:, None]
        new = xp.where(settled[:, None], entering & ~free, new)
        free = free | entering

        d = _to_affine_minimiser(G, r, free, proximal, simplices)
        falling = free & (d < 0)
        ratio = xp.where(falling, a / xp.where(falling, -d, 1.0), math.inf)
        step = xp.amin(ratio, -1).clip(None, 1.0)[:, None]
        blocked = falling & (ratio <= step)
        moved = simplices.normalise(xp.where(blocked, 0.0, a + step * d).clip(0, None))
        free, new = free & ~blocked, new & ~blocked
        stuck = (step[:, 0] == 0) & ~new.any(
            -1
        )  # all that came in fell out: keep the steepest alone
        if stuck.any():
            steepest = lowest & simplices.worst(a, r) & stuck[:, None]
            free, new = free | steepest, new | steepest
        settled = ~blocked.any(-1)
        a = xp.where(done[:, None], a, moved)
    return kept, most


def _pivot(G: Any, c: Any, simplices: Simplices, proximal: Any, rounds: int = 6) -> Any:
    """A start: drop all negative weights and let in all that the multipliers ask for, at once, from
    the full support.

    Block pivoting (Portugal, Judice and Vicente 1994) mostly finds the support in a few rounds, but
    it may cycle, so what it finds is no more than a feasible point.
    """
    xp = simplices.xp
    free = xp.ones_like(c) > 0
    for _ in range(rounds):
        even = simplices.normalise(xp.ones_like(c) * free)
        a = even + _to_affine_minimiser(G, _residual(G, even, c), free, proximal, simplices)
        r = _residual(G, a, c)
        level = ((even * r) @ simplices.indicator)[:, simplices.group]
        wrong = (free & (a < 0)) | (~free & (r < level))
        if not wrong.any():
            break
        free = free ^ wrong
        free = free | (simplices.vertex(xp.where(free, 0.0, 1.0)) > 0)  # one member at least
    return simplices.normalise(a.clip(0, None))


def _to_affine_minimiser(G: Any, r: Any, free: Any, proximal: Any, simplices: Simplices) -> Any:
    """Solve ``min 1/2 d'Gd + r'd + proximal/2 |d|^2`` over ``d`` with ``d = 0`` off ``free`` and
    sum 0 in each group.
    """
    xp = simplices.xp
    idx = xp.where(free.any(0))[
        0
    ]  # the union of a batch's supports; rows of the identity fill up each problem
    f, p = free[:, idx], len(idx)
    inside = xp.where(f[:, :, None] & f[:, None, :], G[:, idx][:, :, idx], 0.0)
    inside[:, range(p), range(p)] += xp.where(f, proximal, 1.0)
    border = simplices.indicator[idx] * f[:, :, None]
    corner = xp.zeros_like(border[:, : simplices.count])
    K = xp.concatenate(
        [xp.concatenate([inside, border], -1), xp.concatenate([border.swapaxes(1, 2), corner], -1)],
        1,
    )
    rhs = xp.concatenate([xp.where(f, -r[:, idx], 0.0), corner[:, 0]], -1)
    d = xp.zeros_like(r)
    d[:, idx] = xp.where(f, xp.linalg.solve(K, rhs[:, :, None])[:, :p, 0], 0.0)
    return d


def _accelerated(G: Any, c: Any, simplices: Simplices, tol: Any, most: int, floor: Any) -> Solved:
    """Accelerated projected gradient (Parikh and Boyd 2014, section 4.3), step ``1/||G||_2`` for
    ``1/2 a'Ga``.
    """
    xp = simplices.xp
    step = 1 / xp.linalg.eigvalsh(G)[:, -1:].clip(1e-300, None)
    a = previous = simplices.normalise(xp.ones_like(c))
    for k in range(most):
        done = simplices.gap(a, _residual(G, a, c)) <= tol
        if done.all():
            return a, k
        ahead = a + k / (k + 3) * (a - previous)
        new = simplices.project(ahead - step * _residual(G, ahead, c))
        a, previous = xp.where(done[:, None], a, new), a
    return a, most


def _away_steps(G: Any, c: Any, simplices: Simplices, tol: Any, most: int, floor: Any) -> Solved:
    """Frank-Wolfe with away steps (Lacoste-Julien and Jaggi 2015) and exact line search, on the
    group of largest gap.
    """
    xp, n = simplices.xp, c.shape[-1]
    a = simplices.vertex(G[:, range(n), range(n)] / 2 - c)
    for iteration in range(most):
        r = _residual(G, a, c)
        done = simplices.gap(a, r) <= tol
        if done.all():
            return a, iteration
        member = simplices.worst(a, r)  # (B, n), the group to move in
        weights = xp.where(member, a, 0.0)
        best = simplices.order == xp.where(member, r, math.inf).argmin(-1)[:, None]
        worst = simplices.order == xp.where(weights > 0, r, -math.inf).argmax(-1)[:, None]
        share = (weights * worst).sum(-1)[:, None]  # weight of the vertex to move away from
        toward, away = best * 1.0 - weights, weights - worst * 1.0
        go_toward = ((toward * r).sum(-1) <= (away * r).sum(-1))[:, None] | (share == 1)
        d = xp.where(go_toward, toward, away)
        longest = xp.where(go_toward, 1.0, share / (1 - share).clip(1e-300, None))
        curvature = (d * _residual(G, d, 0.0)).sum(-1)[:, None]
        slope = -(d * r).sum(-1)[:, None]
        step = xp.where(curvature * longest > slope, slope / curvature.clip(1e-300, None), longest)
        moved = a + step * d
        a = xp.where(done[:, None], a, simplices.normalise(xp.where(moved > 1e-16, moved, 0.0)))
    return a, most


def _semidefinite(G: Any, dtype: torch.dtype, xp: ModuleType) -> Any:
    """Size of the negative eigenvalues of ``G`` (unit scale), ``(B,)``; refused if larger than
    rounding in ``dtype``.
    """
    lowest, allowed = (
        xp.linalg.eigvalsh(G)[:, 0],
        G.shape[-1] * (1e-10 if dtype == torch.float64 else 1e-5),
    )
    if (lowest < -allowed).any():
        raise ValueError(
            f"gram must be positive semidefinite, got an eigenvalue {lowest.min().item():.3g} of its largest entry"
        )
    return (-lowest).clip(0, None)


def _residual(G: Any, a: Any, c: Any) -> Any:
    return (G @ a[:, :, None])[:, :, 0] - c
