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

Box = tuple[float, float] | None
Projection = Callable[[Tensor], Tensor]

__all__ = ["Box", "L2", "LInf", "Threat", "threat_model"]


def number(name: str, value: float, *, low: float = 0.0, strict: bool = False) -> float:
    """Return ``value`` if it is a finite number ``>= low`` (``> low`` if strict); otherwise raise
    ``ValueError``.
    """
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or value < low or (strict and value == low):
        raise ValueError(
            f"{name} must be a finite number {'>' if strict else '>='} {low:g}, got {value!r}"
        )
    return float(value)


def whole(name: str, value: int, high: int | None = None) -> int:
    """Return ``value`` if it is an integer ``>= 1`` (and ``<= high``); otherwise raise
    ``ValueError``.
    """
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or value < 1
        or (high is not None and value > high)
    ):
        raise ValueError(
            f"{name} must be an integer {'>= 1' if high is None else f'from 1 to {high}'}, got {value!r}"
        )
    return value


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
        number("eps", self.eps)
        if self.box is not None:
            pair = isinstance(self.box, (tuple, list)) and len(self.box) == 2
            if (
                not pair
                or not all(math.isfinite(v) for v in self.box)
                or not self.box[0] < self.box[1]
            ):
                raise ValueError(
                    f"box must be None or (low, high) with low < high, got {self.box!r}"
                )

    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest perturbation that the box allows, elementwise (infinite without a
        box).
        """
        lo, hi = self.box if self.box is not None else (-math.inf, math.inf)
        return lo - x, hi - x

    def check(self, x: Tensor) -> None:
        """Raise ``ValueError`` unless ``x`` is a non-empty batch of finite floats inside the box."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise ValueError(
                f"x must be a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}"
            )
        if x.ndim < 2 or x.numel() == 0:
            raise ValueError(f"x must be a non-empty batch of shape (B, ...), got {tuple(x.shape)}")
        low, high = (v.item() for v in torch.aminmax(x.detach()))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("x must be finite, got NaN or infinite values")
        if self.box is not None and (low < self.box[0] or high > self.box[1]):
            raise ValueError(
                f"x must lie in the box {self.box}, got values from {low:g} to {high:g}"
            )

    def project(self, delta: Tensor, x: Tensor) -> Tensor:
        """Nearest point of ``S(x)`` in the Euclidean norm."""
        return self.projection(x)(delta.clone())

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
        return partial(self._onto_both, x)

    def _onto_both(self, x: Tensor, delta: Tensor) -> Tensor:
        lo, hi = self.bounds(x)
        full = delta.clamp(lo, hi)
        outside = self.norm(full) > self.eps
        if self.eps == 0 or not outside.any():
            return full * (self.eps > 0)
        result, d, lo, hi = full.clone(), delta[outside], lo[outside], hi[outside]
        unit = self.steepest(d)
        length = (unit * d).flatten(1).sum(1).view((-1,) + (1,) * (d.ndim - 1))
        low, high = torch.full_like(length, self.eps), length.clamp_max(torch.finfo(d.dtype).max)
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
        normal = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        uniform = torch.rand(x.shape[0], generator=generator, dtype=x.dtype, device=x.device)
        radius = self.eps * uniform ** (1 / normal[0].numel())
        lo, hi = self.bounds(x)
        return (self.steepest(normal) * radius.view((-1,) + (1,) * (x.ndim - 1))).clamp(lo, hi)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The gradient divided by its l2 norm, a sample at a time; 0 stays 0 at every scale."""
        flat = gradient.flatten(1)
        peak = flat.abs().amax(1, keepdim=True)
        flat = flat / torch.where(
            peak > 0, peak, 1.0
        )  # no overflow or underflow in the squares below
        norm = flat.norm(dim=1, keepdim=True)
        return (flat / torch.where(norm > 0, norm, 1.0)).view_as(gradient)

    def norm(self, delta: Tensor) -> Tensor:
        """Euclidean norm of each sample's perturbation, shape ``(B,)``."""
        return delta.flatten(1).norm(dim=1)


def threat_model(norm: str, eps: float, box: Box = (0.0, 1.0)) -> Threat:
    """The set named by the field's words: ``"Linf"`` or ``"L2"``.

    Raises:
        ValueError: if ``norm`` is not one of the two names, or ``eps`` or ``box`` is impossible.
    """
    if norm not in ("Linf", "L2"):
        raise ValueError(f'norm must be "Linf" or "L2", got {norm!r}')
    return (LInf if norm == "Linf" else L2)(eps, box)
