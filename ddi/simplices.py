"""One simplex, or a product of simplices over groups of coordinates: projection, vertices,
Frank-Wolfe gap.

Arrays are NumPy's, in float64: the problems are small, and what they cost is the number of
operations that Python starts, not what these compute.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddi import _checks

__all__ = ["Array", "Mask", "Simplices", "check_groups", "project_simplex"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def project_simplex(v: Tensor, radius: float = 1.0) -> Tensor:
    """Solve ``min ||a - v||_2`` over ``a >= 0, sum(a) = radius``, along the last axis.

    Exact, by sorting (Duchi et al. 2008, figure 1). Any leading shape; the result has ``v``'s
    dtype and device, and no graph.

    Raises:
        ValueError: if ``v`` is empty, not floating-point or not finite, or ``radius`` is not
            positive.
    """
    _checks.float_tensor("v", v)
    a = _project(v.detach().double().cpu().numpy(), _checks.positive("radius", radius))
    return torch.as_tensor(a).to(v)


def _project(v: Array, radius: float) -> Array:
    """The projection; entries of ``-inf`` (padding) get weight 0."""
    v = (v - v.max(-1, keepdims=True)) / radius
    u = -np.sort(-v, axis=-1)
    excess = (u.cumsum(-1) - 1) / np.arange(1, v.shape[-1] + 1)
    rho = (u > excess).sum(-1, keepdims=True)
    a: Array = (v - np.take_along_axis(excess, rho - 1, -1)).clip(0, None)
    return radius * (a / a.sum(-1, keepdims=True))


def check_groups(groups: Tensor, n: int) -> Tensor:
    """``groups`` if it is ``n`` integer labels, a dense tensor; else ``ValueError``."""
    dense = isinstance(groups, Tensor) and groups.layout == torch.strided and not groups.is_meta
    whole = dense and not groups.is_floating_point() and not groups.is_complex()
    if not whole or groups.dtype == torch.bool or groups.shape != (n,):
        _checks.refuse("groups", f"a tensor of {n} integers", groups)
    return groups


class Simplices:
    """The polytope of weights ``(B, n)`` that are non-negative and sum to 1 in each group of
    coordinates.

    Args:
        groups: ``(n,)`` integer labels, any values in any order. n: how many there must be.

    Attributes:
        n, count: number of coordinates and of groups.
        group: ``(n,)``, the group of each coordinate, counted from 0. indicator: ``(n, count)``,
            1.0 where the coordinate is in the group. order: ``0 ... n - 1``.

    Raises:
        ValueError: if ``groups`` is not ``n`` integers.
    """

    def __init__(self, groups: Tensor, n: int) -> None:
        labels, group = np.unique(check_groups(groups, n).cpu().numpy(), return_inverse=True)
        self.n, self.count, self.group, self.order = n, len(labels), group, np.arange(n)
        self.indicator: Array = (group[:, None] == np.arange(self.count)).astype(np.float64)
        sizes = np.bincount(group)
        # row g: the coordinates of group g, padded with n, which points at an extra column
        self._index = np.full((self.count, sizes.max()), n)
        self._index[np.arange(sizes.max()) < sizes[:, None]] = group.argsort(kind="stable")

    def _rows(self, v: Array) -> Array:
        """The groups' entries, ``(B, count, size)``, filled up with infinity."""
        rows: Array = np.concatenate([v, np.full_like(v[:, :1], math.inf)], 1)[:, self._index]
        return rows

    def least(self, r: Array) -> Array:
        """The smallest entry of each group, ``(B, count)``."""
        return self._rows(r).min(-1)

    def first(self, r: Array) -> NDArray[np.intp]:
        """The coordinate of each group's smallest entry (the first of ties), ``(B, count)``."""
        return self._index[np.arange(self.count), self._rows(r).argmin(-1)]

    def shift(self, c: Array) -> Array:
        """Subtract each group's largest entry: a constant a group changes no solution."""
        return c + self.least(-c)[:, self.group]

    def normalise(self, a: Array) -> Array:
        """Divide non-negative weights by their sum, a group at a time."""
        return a / (a @ self.indicator)[:, self.group]

    def project(self, v: Array) -> Array:
        """Euclidean projection of ``(B, n)``: a simplex projection of each group."""
        out = np.zeros((len(v), self.n + 1))
        out[:, self._index.ravel()] = _project(-self._rows(-v), 1.0).reshape(len(v), -1)
        return out[:, : self.n]

    def vertex(self, r: Array) -> Array:
        """Solve ``min <r, v>`` over the polytope: in every group all weight on the smallest entry
        (the first of ties).
        """
        corner = np.zeros_like(r)
        corner[np.arange(len(r))[:, None], self.first(r)] = 1.0
        return corner

    def gaps(self, a: Array, r: Array) -> Array:
        """Frank-Wolfe gap of each group, ``sum_i a_i (r_i - min r) >= 0``, shape ``(B, count)``."""
        return (a * (r - self.least(r)[:, self.group])) @ self.indicator

    def gap(self, a: Array, r: Array) -> Array:
        """Frank-Wolfe gap ``<r, a> - min <r, v>`` over the polytope, shape ``(B,)``."""
        return self.gaps(a, r).sum(-1)

    def worst(self, a: Array, r: Array) -> Mask:
        """Boolean ``(B, n)``: the members of the group with the largest gap."""
        return self.group == self.gaps(a, r).argmax(-1)[:, None]
