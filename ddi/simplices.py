"""One simplex, or a product of simplices over groups of coordinates: projection, vertices, Frank-Wolfe gap."""

import torch
from torch import Tensor

from ddi.threat import number

__all__ = ["Simplices", "check_floats", "project_simplex"]


def check_floats(name: str, value: Tensor, ndim: int) -> Tensor:
    """Return ``value`` if it is a non-empty, finite, real floating tensor of at least ``ndim`` axes; else ``ValueError``."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(f"{name} must be a floating-point tensor, got {getattr(value, 'dtype', type(value).__name__)}")
    if value.ndim < ndim or value.numel() == 0:
        raise ValueError(f"{name} must be non-empty with at least {ndim} axes, got shape {tuple(value.shape)}")
    if not torch.isfinite(value).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite entries")
    return value


def project_simplex(v: Tensor, radius: float = 1.0) -> Tensor:
    """Solve ``min ||a - v||_2`` over ``a >= 0, sum(a) = radius``, along the last axis.

    Exact, by sorting (Duchi et al. 2008, figure 1). Any leading shape; the result has ``v``'s dtype.

    Raises:
        ValueError: if ``v`` is empty, not floating-point or not finite, or ``radius`` is not positive.
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
    """The polytope of weights ``(B, n)`` that are non-negative and sum to 1 in each group of coordinates.

    Args:
        groups: ``(n,)`` integer labels, any values in any order.
        n: how many there must be. device: where the weights will be.

    Raises:
        ValueError: if ``groups`` is not ``n`` integers.
    """

    def __init__(self, groups: Tensor, n: int, device: torch.device) -> None:
        if not isinstance(groups, Tensor) or groups.shape != (n,) or groups.is_floating_point():
            raise ValueError(f"groups must be {n} integers, got {groups!r}")
        labels, self.group = groups.to(device).unique(return_inverse=True)
        self.n, self.count = n, len(labels)
        members = [(self.group == g).nonzero().squeeze(-1) for g in range(self.count)]
        # row g: the coordinates of group g, padded with n, which points at an extra column
        self.index = torch.nn.utils.rnn.pad_sequence(members, batch_first=True, padding_value=self.n)
        self.indicator = torch.nn.functional.one_hot(self.group, self.count).double()  # (n, count)

    def _rows(self, v: Tensor, fill: float) -> Tensor:
        return torch.cat([v, v.new_full((len(v), 1), fill)], 1)[:, self.index]  # (B, count, size)

    def shift(self, c: Tensor) -> Tensor:
        """Subtract each group's largest entry: a constant a group changes no solution."""
        return c - self._rows(c, -torch.inf).amax(-1)[:, self.group]

    def normalise(self, a: Tensor) -> Tensor:
        """Divide non-negative weights by their sum, a group at a time."""
        return a / (a @ self.indicator)[:, self.group]

    def project(self, v: Tensor) -> Tensor:
        """Euclidean projection of ``(B, n)``: a simplex projection of each group."""
        rows = _project(self._rows(v, -torch.inf), 1.0)
        out = v.new_zeros(len(v), self.n + 1)
        out[:, self.index.flatten()] = rows.flatten(1)
        return out[:, : self.n]

    def vertex(self, r: Tensor) -> Tensor:
        """Solve ``min <r, v>`` over the polytope: in every group all weight on the smallest entry (the first of ties)."""
        pick = self._rows(r, torch.inf).argmin(-1, keepdim=True)
        chosen = self.index.expand(len(r), -1, -1).gather(-1, pick).squeeze(-1)
        return torch.zeros_like(r).scatter_(1, chosen, 1.0)

    def gaps(self, a: Tensor, r: Tensor) -> Tensor:
        """Frank-Wolfe gap of each group, ``sum_i a_i (r_i - min r) >= 0``, shape ``(B, count)``."""
        return (a * (r - self._rows(r, torch.inf).amin(-1)[:, self.group])) @ self.indicator

    def gap(self, a: Tensor, r: Tensor) -> Tensor:
        """Frank-Wolfe gap ``<r, a> - min <r, v>`` over the polytope, shape ``(B,)``."""
        return self.gaps(a, r).sum(-1)

    def worst(self, a: Tensor, r: Tensor) -> Tensor:
        """Boolean ``(B, n)``: the members of the group with the largest gap."""
        return self.group == self.gaps(a, r).argmax(-1, keepdim=True)
