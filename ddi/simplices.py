"""One simplex, or a product of simplices over groups of coordinates: projection, vertices,
Frank-Wolfe gap.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddi.threat import number

__all__ = ["Simplices", "check_floats", "project_simplex"]


def check_floats(name: str, value: Tensor, ndim: int, finite: bool = True) -> Tensor:
    """Return ``value`` if it is a non-empty, finite, real floating tensor of at least ``ndim``
    axes; else ``ValueError``.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(
            f"{name} must be a floating-point tensor, got {getattr(value, 'dtype', type(value).__name__)}"
        )
    if value.ndim < ndim or value.numel() == 0:
        raise ValueError(
            f"{name} must be non-empty with at least {ndim} axes, got shape {tuple(value.shape)}"
        )
    if finite and not all(math.isfinite(extreme) for extreme in torch.aminmax(value.detach())):
        raise ValueError(f"{name} must be finite, got NaN or infinite entries")
    return value


def project_simplex(v: Tensor, radius: float = 1.0) -> Tensor:
    """Solve ``min ||a - v||_2`` over ``a >= 0, sum(a) = radius``, along the last axis.

    Exact, by sorting (Duchi et al. 2008, figure 1). Any leading shape; the result has ``v``'s
    dtype.

    Raises:
        ValueError: if ``v`` is empty, not floating-point or not finite, or ``radius`` is not
            positive.
    """
    check_floats("v", v, 1)
    return _project(v.double(), number("radius", radius, strict=True)).to(v.dtype)


def _project(v: Tensor, radius: float) -> Tensor:
    """The projection in float64; entries of ``-inf`` (padding) get weight 0."""
    v = (v - v.amax(-1, keepdim=True)) / radius
    u = v.sort(-1, descending=True).values
    count = torch.arange(1, v.shape[-1] + 1, dtype=v.dtype, device=v.device)
    excess = (u.cumsum(-1) - 1) / count
    rho = (u > excess).sum(-1, keepdim=True)
    a = (v - excess.gather(-1, rho - 1)).clamp_min(0)
    return radius * (a / a.sum(-1, keepdim=True))


class Simplices:
    """The polytope of weights ``(B, n)`` that are non-negative and sum to 1 in each group of
    coordinates.

    Its methods take and give NumPy arrays if ``device`` is ``None``, and tensors on ``device``
    otherwise. NumPy is for small problems, whose cost is the number of operations that Python
    starts, and not what they compute.

    Args:
        groups: ``(n,)`` integer labels, any values in any order.
        n: how many there must be. device: where the weights will be, or ``None``.

    Raises:
        ValueError: if ``groups`` is not ``n`` integers.
    """

    def __init__(self, groups: Tensor, n: int, device: torch.device | None) -> None:
        if not isinstance(groups, Tensor) or groups.shape != (n,) or groups.is_floating_point():
            raise ValueError(f"groups must be {n} integers, got {groups!r}")
        labels, group = np.unique(groups.cpu().numpy(), return_inverse=True)
        self.n, self.count, self.xp = n, len(labels), np if device is None else torch
        sizes = np.bincount(group)
        # row g: the coordinates of group g, padded with n, which points at an extra column
        index = np.full((self.count, sizes.max()), n)
        index[np.arange(sizes.max()) < sizes[:, None]] = group.argsort(kind="stable")
        member = (group[:, None] == np.arange(self.count)).astype(np.float64)
        arrays = group, index, member, np.arange(n)
        here = (lambda a: a) if device is None else (lambda a: torch.as_tensor(a, device=device))
        self.group, self.index, self.indicator, self.order = map(
            here, arrays
        )  # indicator: (n, count)

    def _rows(self, v: Any) -> Any:
        """The groups' entries, ``(B, count, size)``, filled up with infinity."""
        return self.xp.concatenate([v, self.xp.full_like(v[:, :1], math.inf)], 1)[:, self.index]

    def least(self, r: Any) -> Any:
        """The smallest entry of each group, ``(B, count)``."""
        return self.xp.amin(self._rows(r), -1)

    def shift(self, c: Any) -> Any:
        """Subtract each group's largest entry: a constant a group changes no solution."""
        return c + self.least(-c)[:, self.group]

    def normalise(self, a: Any) -> Any:
        """Divide non-negative weights by their sum, a group at a time."""
        return a / (a @ self.indicator)[:, self.group]

    def project(self, v: Any) -> Any:
        """Euclidean projection of ``(B, n)``: a simplex projection of each group."""
        rows = _project(-torch.as_tensor(self._rows(-v)), 1.0)
        out = rows.new_zeros(len(v), self.n + 1)
        out[:, torch.as_tensor(self.index).flatten()] = rows.flatten(1)
        return out[:, : self.n].numpy() if self.xp is np else out[:, : self.n]

    def vertex(self, r: Any) -> Any:
        """Solve ``min <r, v>`` over the polytope: in every group all weight on the smallest entry
        (the first of ties).
        """
        chosen = self.index[self.order[: self.count], self._rows(r).argmin(-1)]
        corner = self.xp.zeros_like(r)
        corner[self.xp.arange(len(r))[:, None], chosen] = 1.0
        return corner

    def gaps(self, a: Any, r: Any) -> Any:
        """Frank-Wolfe gap of each group, ``sum_i a_i (r_i - min r) >= 0``, shape ``(B, count)``."""
        return (a * (r - self.least(r)[:, self.group])) @ self.indicator

    def gap(self, a: Any, r: Any) -> Any:
        """Frank-Wolfe gap ``<r, a> - min <r, v>`` over the polytope, shape ``(B,)``."""
        return self.gaps(a, r).sum(-1)

    def worst(self, a: Any, r: Any) -> Any:
        """Boolean ``(B, n)``: the members of the group with the largest gap."""
        return self.group == self.gaps(a, r).argmax(-1)[:, None]
