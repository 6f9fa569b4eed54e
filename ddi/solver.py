"""Quadratic problems over one simplex or a product of simplices, from the Gram matrix alone.

The problem solved everywhere is ``min 1/2 a'Ga - c'a`` over weights ``a`` that lie in a simplex, or
whose every group lies in one. With ``G = M'M`` and ``c = 0`` it gives the point of least norm of a
hull (Theorem 2) or of a sum of hulls; with ``c`` the loss values it is the dual of the bundle step.
Cost does not depend on the dimension of the vectors. All is computed in float64 by NumPy, on the
CPU.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ddi import _checks
from ddi.quadratic import SOLVERS, a_vector, problem_of, times

__all__ = ["MinNormPoint", "bundle", "min_norm_point", "min_norm_product"]


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
    problem, scale = problem_of(gram, groups, linear, tol)
    simplices = problem.simplices
    a, iterations = solve(problem, max_iter or (100 + 10 * simplices.n if exact else 10_000))

    weights = torch.as_tensor(simplices.normalise(a)).to(gram.dtype)
    rounded = weights.double().numpy()
    gap = problem.gap(rounded)
    squared = (rounded * times(problem.G, rounded)).sum(-1).clip(0, None)
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
    linear = a_vector("values", values, gram).double() / t
    if not torch.isfinite(linear).all():
        raise ValueError(f"t must leave values / t finite, got {t!r}")
    groups = torch.zeros(gram.shape[-1], dtype=torch.int64) if groups is None else groups
    return min_norm_product(gram, groups, linear, method)
