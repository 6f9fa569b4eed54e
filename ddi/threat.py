"""The sets that perturbations are chosen from: balls in the l-infinity or l2 norm, cut by the image
box.

For one image ``x`` the set is ``S(x) = {d : ||d|| <= eps, lo <= x + d <= hi}``. It is compact and,
because the box depends on ``x``, differs from sample to sample. With ``box=None`` it is the ball
alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ddi._checks import (
    Interval,
    choice,
    float_tensor,
    images,
    interval,
    non_negative,
    one_device,
    random_source,
    refuse,
    store,
)

Box = Interval | None
Projection = Callable[[Tensor], Tensor]

__all__ = ["L2", "Box", "LInf", "Projection", "Threat", "threat_model"]


@dataclass(frozen=True)
class Threat:
    """Common part of :class:`LInf` and :class:`L2`.

    Args:
        eps: radius of the ball, in the units of the images (``8/255`` for images in ``[0, 1]``).
        box: lowest and highest value of a perturbed image, or ``None`` for no box.

    Raises:
        ValueError: if ``eps`` is negative, NaN or infinite, or ``box`` is not an increasing pair.
    """

    eps: float
    box: Box = (0.0, 1.0)

    def __post_init__(self) -> None:
        store(self, eps=non_negative("eps", self.eps), box=interval("box", self.box))

    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest perturbation that the box allows, elementwise (infinite without a
        box).

        They are such that ``x + d``, computed in the dtype of ``x``, is inside the box (as its
        numbers are in that dtype, rounded inward). Zero is always allowed: an image that lies
        outside by the rounding of its numbers may stay where it is.
        """
        if self.box is None:
            return torch.full_like(x, -math.inf), torch.full_like(x, math.inf)
        one = torch.finfo(x.dtype).eps  # d * (1 - one) is nearer to 0 by one unit of d's last place
        pair = []
        for edge, sign in zip(self.box, (1.0, -1.0), strict=True):
            end = torch.tensor(sign * edge, dtype=x.dtype)  # sign * (x + d) >= end
            if end.item() < sign * edge:
                end = torch.nextafter(end, torch.full_like(end, math.inf))
            nearest = end.item() - sign * x
            over = sign * x + nearest < end.item()
            pair.append(torch.where(over, nearest * (1 - one), nearest).clamp_max_(0).mul_(sign))
        return pair[0], pair[1]

    def check(self, x: Tensor) -> Tensor:
        """Return ``x``, if it is a non-empty batch of finite floats inside the box up to the
        rounding of their dtype; otherwise raise ``ValueError``.
        """
        return images("x", x, self.box)

    def project(self, delta: Tensor, x: Tensor) -> Tensor:
        """Nearest point of ``S(x)`` in the Euclidean norm, a sample at a time.

        Args:
            delta: of ``x``'s shape, or ``(..., *x.shape)``: several perturbations of each image.

        Raises:
            ValueError: for tensors that are not finite, or of other shapes, and images outside the
                box.
        """
        self.check(x)
        float_tensor("delta", delta, x.ndim)
        if delta.shape[-x.ndim :] != x.shape:
            refuse("delta", f"of shape {tuple(x.shape)}, or (..., {str(tuple(x.shape))[1:]}", delta)
        one_device(delta=delta, x=x)
        each = x.expand(delta.shape).reshape(-1, *x.shape[1:])
        return self.projection(each)(delta.reshape(each.shape).clone()).view(delta.shape)

    def projection(self, x: Tensor) -> Projection:
        """The projection onto ``S(x)``, for many perturbations of the same images; it may overwrite
        its argument.
        """
        raise NotImplementedError

    def sample(
        self, x: Tensor, generator: torch.Generator | None = None, project: Projection | None = None
    ) -> Tensor:
        """Random perturbation: uniform in the ball, then clipped to the box (the field's random
        start).

        ``project`` is ``projection(x)``, if it is at hand.
        """
        raise NotImplementedError

    def steepest(self, gradient: Tensor) -> Tensor:
        """Solve ``max <gradient, s>`` subject to ``||s|| <= 1``, a sample at a time (0 where the
        gradient is 0).
        """
        raise NotImplementedError

    def norm(self, delta: Tensor) -> Tensor:
        """Norm of each sample's perturbation, shape ``(B,)``."""
        raise NotImplementedError

    def contains(self, delta: Tensor, x: Tensor, atol: float = 1e-6) -> Tensor:
        """Whether each perturbation lies in ``S(x)`` up to ``atol``; shape ``(B,)``, boolean."""
        self.check(x)
        float_tensor("delta", delta, shape=tuple(x.shape), all_finite=False)
        one_device(delta=delta, x=x)
        atol = non_negative("atol", atol)
        lo, hi = self.bounds(x)
        inside = ((delta >= lo - atol) & (delta <= hi + atol)).flatten(1).all(1)
        return inside & (self.norm(delta) <= self.eps + atol)


@dataclass(frozen=True)
class LInf(Threat):
    """``S(x) = {d : max_j |d_j| <= eps, lo <= x + d <= hi}``; see :class:`Threat` for the
    arguments.
    """

    def projection(self, x: Tensor) -> Projection:
        """Solve ``min_s ||s - delta||_2`` over ``s in S(x)``, exactly: a clip, since the set is a
        box.

        Args:
            x: images inside the box, shape ``(B, ...)``.

        Returns:
            The map of ``delta``, of ``x``'s shape and with any finite values, to ``s``, in place.
        """
        lo, hi = self.bounds(x)
        lo, hi = lo.clamp_(-self.eps, self.eps), hi.clamp_(-self.eps, self.eps)
        return lambda delta: delta.clamp_(lo, hi)

    def sample(
        self, x: Tensor, generator: torch.Generator | None = None, project: Projection | None = None
    ) -> Tensor:
        """Uniform on ``[-eps, eps]`` in every coordinate, then clipped to the box."""
        random_source("generator", generator, self.check(x).device)
        noise = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        return (project or self.projection(x))(noise.mul_(2).sub_(1).mul_(self.eps))

    def steepest(self, gradient: Tensor) -> Tensor:
        """The sign of the gradient: it maximises ``<gradient, s>`` over ``max_j |s_j| <= 1``."""
        return gradient.sign()

    def norm(self, delta: Tensor) -> Tensor:
        """``max_j |d_j|`` of each sample, shape ``(B,)``."""
        return delta.flatten(1).abs().amax(1)


@dataclass(frozen=True)
class L2(Threat):
    """``S(x) = {d : ||d||_2 <= eps, lo <= x + d <= hi}``; see :class:`Threat` for the arguments."""

    def projection(self, x: Tensor) -> Projection:
        """Solve ``min_s ||s - delta||_2`` over ``s in S(x)``: the true projection onto ball *and*
        box together.

        The solution is ``clip(c * delta)`` for the largest ``c`` in ``[0, 1]`` whose clip has norm
        ``<= eps``; ``c`` is found by bisection to the resolution of the dtype, from below, so the
        result is always feasible. (Shrinking to the ball and then clipping is feasible too, but is
        not the nearest point where both bind.)
        """
        return partial(self._onto_both, *self.bounds(x))

    def _onto_both(self, lo: Tensor, hi: Tensor, delta: Tensor) -> Tensor:
        most = torch.finfo(delta.dtype).max
        delta = delta.clamp(-most, most)
        full = delta.clamp(lo, hi)
        outside = self.norm(full) > self.eps
        if self.eps == 0 or not outside.any():
            return full * (self.eps > 0)
        result, d, lo, hi = full.clone(), delta[outside], lo[outside], hi[outside]
        unit = self.steepest(d)
        length = (unit * d).flatten(1).sum(1).view((-1,) + (1,) * (d.ndim - 1))
        low, high = torch.full_like(length, self.eps), length.clamp_max(most)
        for _ in range(0 if self.box is None else 64):  # c * length by bisection of its logarithm
            middle = low.sqrt() * high.sqrt()
            fits = (self.norm((middle * unit).clamp(lo, hi)) <= self.eps).view(low.shape)
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        result[outside] = (low * unit).clamp(lo, hi)
        return result

    def sample(
        self, x: Tensor, generator: torch.Generator | None = None, project: Projection | None = None
    ) -> Tensor:
        """Uniform in the ball (Gaussian direction, radius ``eps * U^(1/n)``), then clipped to the
        box.
        """
        random_source("generator", generator, self.check(x).device)
        normal = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        uniform = torch.rand(x.shape[0], generator=generator, dtype=x.dtype, device=x.device)
        radius = self.eps * uniform ** (1 / normal[0].numel())
        lo, hi = self.bounds(x)
        return (self.steepest(normal) * radius.view((-1,) + (1,) * (x.ndim - 1))).clamp(lo, hi)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The gradient divided by its l2 norm, a sample at a time; 0 stays 0 at every scale."""
        flat = gradient.flatten(1)
        peak = flat.abs().amax(1, keepdim=True)
        flat = flat / torch.where(peak > 0, peak, 1.0)  # the squares below stay in range
        norm = flat.norm(dim=1, keepdim=True)
        return (flat / torch.where(norm > 0, norm, 1.0)).view_as(gradient)

    def norm(self, delta: Tensor) -> Tensor:
        """Euclidean norm of each sample's perturbation, shape ``(B,)``."""
        return delta.flatten(1).norm(dim=1)


SETS: dict[str, type[Threat]] = {"Linf": LInf, "L2": L2}


def threat_model(norm: str, eps: float, box: Box = (0.0, 1.0)) -> Threat:
    """The set named by the field's words: ``"Linf"`` or ``"L2"``.

    Raises:
        ValueError: if ``norm`` is not one of the names, or ``eps`` or ``box`` is impossible.
    """
    return choice("norm", norm, SETS)(eps, box)
