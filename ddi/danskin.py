"""Danskin's theorem as functions: directional derivative, steepest descent, certificate, difference
quotients.

Throughout, ``gradients`` is ``(n, d)``: row ``i`` is the gradient in the parameters at the ``i``-th
maximiser. With ``groups`` the rows are per-sample gradients and the maximisers of a batch are all
their mixes, one row a group; whoever means the *mean* over ``k`` samples divides the rows by ``k``
first.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddi import _checks
from ddi.simplices import check_groups
from ddi.solver import min_norm_product

__all__ = [
    "Certificate",
    "SteepestDescent",
    "certify",
    "directional_derivative",
    "gram_matrix",
    "one_sided",
    "steepest_descent",
    "two_sided",
]


@dataclass(frozen=True)
class SteepestDescent:
    """Steepest descent direction of ``phi``.

    Attributes:
        direction: ``(d,)``, a unit vector **to add** to the parameters; 0 if stationary.
        weights: ``(n,)``, the convex weights of the gradients (in each group).
        slope: scalar, the directional derivative along ``direction``: ``-||M a*||`` (Theorem 2); 0
            if stationary.
        stationary: 0 lies in the hull up to the tolerance, so no direction descends.
    """

    direction: Tensor
    weights: Tensor
    slope: Tensor
    stationary: bool


@dataclass(frozen=True)
class Certificate:
    """An upper bound of the directional derivative (Theorem 3), and whether it proves descent
    (``bound < 0``).
    """

    bound: float
    descends: bool


LARGEST = 1e300  # of a squared norm: no partial sum of the products of such rows overflows


def gram_matrix(gradients: Tensor, block: int | None = None) -> Tensor:
    """``G_ij = <g_i, g_j>`` of the rows of ``(..., n, d)``, accumulated in float64 over blocks of
    columns; ``(..., n, n)`` float64.

    By default a block is as large as a CPU's cache holds well, and on a GPU a million columns.

    Squaring costs half the digits: distances of the hull from 0 below about ``1.5e-8 max||g||`` are
    not resolved, entries below about 1e-162 square to 0, and rows longer than 1e150 are refused,
    since the sum of their products can overflow to infinity or NaN as the processor adds it up.
    (:func:`steepest_descent` divides by the size of the largest entry first.)

    Raises:
        ValueError: for rows that are not finite, or longer than 1e150.
    """
    _checks.float_tensor("gradients", gradients, 2, all_finite=False)
    gram = products(gradients, None if block is None else _checks.positive_int("block", block))
    if not (gram.diagonal(dim1=-2, dim2=-1) <= LARGEST).all():
        _checks.float_tensor("gradients", gradients, 2)  # says so if they are not finite
        raise ValueError("gradients must have norms of at most 1e150, got larger: rescale them")
    return gram


def products(rows: Tensor, block: int | None = None) -> Tensor:
    """The Gram matrix, unchecked: where a row is not finite its diagonal entry is not, either."""
    pieces = torch.split(rows, block or (1 << 20 if rows.is_cuda else 1 << 15), -1)
    gram = rows.new_zeros(*rows.shape[:-1], rows.shape[-2], dtype=torch.float64)
    for piece in pieces:
        wide = piece.double()
        gram += wide @ wide.mT
    return gram


def _check(gradients: Tensor, groups: Tensor | None) -> Tensor:
    """The groups of ``(n, d)`` gradients, on their device."""
    _checks.float_tensor("gradients", gradients, 2)
    if gradients.ndim != 2:
        raise ValueError(f"gradients must have shape (n, d), got {tuple(gradients.shape)}")
    n = len(gradients)
    if groups is None:
        return torch.zeros(n, dtype=torch.int64, device=gradients.device)
    return check_groups(groups, n).to(gradients.device)


def _largest(values: Tensor, groups: Tensor) -> Tensor:
    """The largest value of each group."""
    labels, group = torch.unique(groups, return_inverse=True)
    least = torch.full_like(labels, -torch.inf, dtype=values.dtype)
    return least.scatter_reduce(0, group, values, "amax")


def directional_derivative(
    gradients: Tensor, direction: Tensor, groups: Tensor | None = None
) -> Tensor:
    """Danskin's formula ``max_i <direction, g_i>`` (eq. 4); with ``groups`` the sum over groups of
    their maxima.

    Args:
        gradients: ``(n, d)``. direction: ``(d,)``; it is not normalised, so this is the paper's (6)
            for unit vectors.
        groups: ``(n,)`` integers, or ``None``.

    Returns:
        A scalar in the dtype of ``gradients``, computed in float64 and rounded once; infinite where
        that dtype (float16) cannot hold it.
    """
    return _slope(gradients, direction, groups).to(gradients.dtype)


def _slope(gradients: Tensor, direction: Tensor, groups: Tensor | None) -> Tensor:
    """The directional derivative, a float64 scalar."""
    groups = _check(gradients, groups)
    _checks.float_tensor("direction", direction, shape=tuple(gradients.shape[1:]))
    _checks.one_device(gradients=gradients, direction=direction)
    return _largest(gradients.double() @ direction.double(), groups).sum()


def steepest_descent(
    gradients: Tensor, groups: Tensor | None = None, tol: float = 1e-7, method: str = "exact"
) -> SteepestDescent:
    """Solve ``min_{||s|| = 1} max_i <s, g_i>`` (eq. 12) by the point of least norm of the hull
    (Theorem 2, eq. 14).

    Theorem 2 asks that the point is no local minimiser; what its proof needs is that 0 is not in
    the hull. Where ``||M a*|| <= tol * max||g||`` (with groups: the sum of the groups' maxima) the
    result says ``stationary``.

    Args:
        gradients: ``(n, d)``, any scale. groups: ``(n,)`` integers, or ``None``. tol: relative,
            ``>= 0``.
        method: of :func:`ddi.solver.min_norm_point`.
    """
    groups, tol = _check(gradients, groups), _checks.non_negative("tol", tol)
    gradients = gradients.detach()
    wide = gradients.to(torch.promote_types(gradients.dtype, torch.float32))
    largest = wide.abs().max()
    power = largest / (2 * torch.frexp(largest).mantissa)  # of 2, so that no digit is rounded away
    unit = wide / torch.where(largest > 0, power, 1.0)
    weights = min_norm_product(gram_matrix(unit), groups, method=method).weights
    point = weights @ unit.double()
    reach = _largest(unit.double().norm(dim=1), groups).sum()
    norm = point.norm()
    weights = weights.to(gradients.dtype)
    if norm > tol * reach:
        direction = (-point / norm).to(gradients.dtype)
        slope = (_slope(unit, direction, groups) * power.double()).to(gradients.dtype)
        if slope < 0:  # rounding can eat a slope far below max ||g||
            return SteepestDescent(direction, weights, slope, False)
    return SteepestDescent(torch.zeros_like(gradients[0]), weights, gradients.new_zeros(()), True)


def certify(
    gradients: Tensor,
    direction: Tensor,
    lipschitz: float | Tensor,
    radius: float | Tensor,
    groups: Tensor | None = None,
) -> Certificate:
    """Theorem 3: ``D phi <= max_i <s, g_i> + L eps ||s||`` if the ``i`` form an ``eps``-net of all
    maximisers.

    With ``groups`` it is the per-sample form: ``sum_groups [max_i <s, g_i> + L eps ||s||]``, where
    each group is a net of its own sample's maximisers.

    Args:
        gradients, direction, groups: as for :func:`directional_derivative`.
        lipschitz: a *proven* Lipschitz constant ``L`` of the gradients in the perturbation (of the
            rows as given, so divided by ``k`` where they are); a scalar, or one a group. One
            estimated by sampling certifies nothing.
        radius: the net's ``eps``; a scalar, or one a group.

    Raises:
        ValueError: for negative or non-finite ``lipschitz`` or ``radius``, or the wrong number of
            them.
    """
    slope = _slope(gradients, direction, groups).cpu()  # rounded to float32 it could prove too much
    count = len(torch.unique(_check(gradients, groups)))
    constants = _each("lipschitz", lipschitz, count) * _each("radius", radius, count)
    bound = (slope + constants.sum() * direction.double().norm().cpu()).item()
    return Certificate(bound, bound < 0)


def _each(name: str, value: float | Tensor, count: int) -> Tensor:
    """A value a group, ``(count,)`` float64, all finite and at least 0."""
    if isinstance(value, Tensor) and value.shape == (count,):
        found = value.detach().double().cpu()
    elif isinstance(value, Tensor) and value.shape != ():
        _checks.refuse(name, f"a number or a tensor of {count} values", value)
    else:
        number = value.item() if isinstance(value, Tensor) else value
        found = torch.tensor(_checks.non_negative(name, number), dtype=torch.float64).expand(count)
    if not torch.isfinite(found).all() or (found < 0).any():
        raise ValueError(f"{name} must be finite and >= 0, got {found.tolist()}")
    return found


Phi = Callable[[Tensor], Tensor | float]


def one_sided(phi: Phi, theta: Tensor, direction: Tensor, t: float | None = None) -> float:
    """One-sided difference quotient ``(phi(theta + t s) - phi(theta)) / t`` for ``t > 0``; tends to
    ``D_s phi`` (eq. 6).

    Args:
        phi: from a tensor like ``theta`` to one finite number, or a tensor of one. theta: floating
            point, of any shape. direction: ``s``, of that shape.
        t: positive; by default 1e-6 in float64, and in other dtypes, where that would be lost in
            rounding, the root of the dtype's resolution (3.5e-4 in float32).

    Raises:
        ValueError: for an argument that is none of these.
    """
    t = _length(t, theta)
    ahead, here = _values(phi, theta, direction, t, 0.0)
    return (ahead - here) / t


def two_sided(phi: Phi, theta: Tensor, direction: Tensor, t: float | None = None) -> float:
    """Two-sided quotient ``(phi(theta + t s) - phi(theta - t s)) / (2 t)``; arguments and errors as
    for :func:`one_sided`.

    Where ``phi`` has a kink it has a limit all the same, half the difference of the slopes along
    ``s`` and along ``-s``, and the limit is no directional derivative: ``phi = |theta|`` at 0 gives
    0.
    """
    t = _length(t, theta)
    ahead, behind = _values(phi, theta, direction, t, -t)
    return (ahead - behind) / (2 * t)


def _length(t: float | None, theta: Tensor) -> float:
    """The ``t`` of a quotient: where its two errors, by rounding and by curvature, are alike."""
    if t is not None:
        return _checks.positive("t", t)
    _checks.float_tensor("theta", theta, 0)
    return max(1e-6, torch.finfo(theta.dtype).eps ** 0.5)


def _values(phi: Phi, theta: Tensor, direction: Tensor, *steps: float) -> list[float]:
    """``phi(theta + step * s)`` for each step."""
    _checks.function("phi", phi)
    _checks.float_tensor("theta", theta, 0)
    _checks.float_tensor("direction", direction, 0, tuple(theta.shape))
    _checks.one_device(theta=theta, direction=direction)
    return [_checks.scalar("phi(theta)", phi(theta + step * direction)) for step in steps]
