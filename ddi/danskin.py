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

from ddi.simplices import Simplices, check_floats
from ddi.solver import min_norm_product
from ddi.threat import number

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


def gram_matrix(gradients: Tensor, block: int | None = None) -> Tensor:
    """``G_ij = <g_i, g_j>`` of the rows of ``(n, d)``, accumulated in float64 over blocks of
    columns; ``(n, n)`` float64.

    By default a block is as large as a CPU's cache holds well, and on a GPU a million columns.

    Squaring costs half the digits: distances of the hull from 0 below about ``1.5e-8 max||g||`` are
    not resolved.
    """
    block = block or (1 << 20 if gradients.is_cuda else 1 << 15)
    pieces = check_floats("gradients", gradients, 2, finite=False).split(block, dim=-1)
    gram = sum(p @ p.mT for p in (piece.double() for piece in pieces))
    if not torch.isfinite(
        gram
    ).all():  # the rows are large, and looked through only where something is wrong
        check_floats("gradients", gradients, 2)
    return gram


def _layout(gradients: Tensor, groups: Tensor | None) -> Simplices:
    check_floats("gradients", gradients, 2)
    if gradients.ndim != 2:
        raise ValueError(f"gradients must have shape (n, d), got {tuple(gradients.shape)}")
    n = len(gradients)
    groups = (
        torch.zeros(n, dtype=torch.int64, device=gradients.device) if groups is None else groups
    )
    return Simplices(groups, n, gradients.device)


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
        A scalar in the dtype of ``gradients``.
    """
    simplices = _layout(gradients, groups)
    check_floats("direction", direction, 1)
    if direction.shape != gradients.shape[1:]:
        raise ValueError(
            f"direction must have shape {tuple(gradients.shape[1:])}, got {tuple(direction.shape)}"
        )
    products = gradients.double() @ direction.double()
    return (products * simplices.vertex(-products[None])[0]).sum().to(gradients.dtype)


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
    simplices, tol = _layout(gradients, groups), number("tol", tol)
    gradients = gradients.detach()
    largest = gradients.abs().max()
    unit = gradients / torch.where(largest > 0, largest, 1.0)
    weights = min_norm_product(gram_matrix(unit), simplices.group, method=method).weights
    point = weights @ unit.double()
    norms = unit.double().norm(dim=1)
    reach = (norms * simplices.vertex(-norms[None])[0]).sum()
    norm = point.norm()
    weights = weights.to(gradients.dtype)
    if norm > tol * reach:
        direction = (-point / norm).to(gradients.dtype)
        slope = directional_derivative(unit, direction, simplices.group) * largest
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
    slope = directional_derivative(gradients, direction, groups).double()
    count = _layout(gradients, groups).count
    pair = []
    for name, value in (("lipschitz", lipschitz), ("radius", radius)):
        value = torch.as_tensor(value, dtype=torch.float64).cpu()
        if (
            value.shape not in ((), (count,))
            or not torch.isfinite(value).all()
            or (value < 0).any()
        ):
            raise ValueError(
                f"{name} must be finite and >= 0, a scalar or {count} values, got {value.tolist()}"
            )
        pair.append(value.expand(count))
    slack = (pair[0] * pair[1]).sum() * direction.double().norm().cpu()
    bound = (slope.cpu() + slack).item()
    return Certificate(bound, bound < 0)


Phi = Callable[[Tensor], Tensor | float]


def one_sided(phi: Phi, theta: Tensor, direction: Tensor, t: float = 1e-6) -> float:
    """One-sided difference quotient ``(phi(theta + t s) - phi(theta)) / t`` for ``t > 0``; tends to
    ``D_s phi`` (eq. 6).
    """
    number("t", t, strict=True)
    return (float(phi(theta + t * direction)) - float(phi(theta))) / t


def two_sided(phi: Phi, theta: Tensor, direction: Tensor, t: float = 1e-6) -> float:
    """Two-sided quotient ``(phi(theta + t s) - phi(theta - t s)) / (2 t)``.

    Where ``phi`` has a kink it has a limit all the same, the mean of two one-sided derivatives, and
    the limit is no
    directional derivative: ``phi = |theta|`` at 0 gives 0.
    """
    number("t", t, strict=True)
    return (float(phi(theta + t * direction)) - float(phi(theta - t * direction))) / (2 * t)
