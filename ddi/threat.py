"""The sets that perturbations are chosen from: balls in the l-infinity, l2 or l1 norm, cut by the
image box.

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
    finite,
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

__all__ = ["L1", "L2", "Box", "LInf", "Projection", "Threat", "threat_model"]


@dataclass(frozen=True)
class Threat:
    """Common part of :class:`LInf`, :class:`L2` and :class:`L1`.

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
        rounding of their dtype, which can hold the radius; otherwise raise ``ValueError``.
        """
        images("x", x, self.box)
        finite("eps", self.eps, 0.0, torch.finfo(x.dtype).max)
        return x

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

    def step(self, gradient: Tensor, images: Tensor, size: float) -> Tensor:
        """What an ascent step adds to ``images``: ``size`` times the steepest unit step. The box is
        left to the projection, except where a step that forgets it could go nowhere (:class:`L1`).
        """
        return size * self.steepest(gradient)

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
        ``<= eps``; ``c`` is found by bisection to the resolution of the dtype (for bf16 and fp16 in
        float32, then rounded towards 0), from below, so the result is feasible, up to the rounding
        of its norm. (Shrinking to the ball and then clipping is feasible too, but is
        not the nearest point where both bind.)
        """
        return partial(self._onto_both, *self.bounds(x))

    def _onto_both(self, lo: Tensor, hi: Tensor, delta: Tensor) -> Tensor:
        wide = torch.promote_types(delta.dtype, torch.float32)
        if wide != delta.dtype:
            exact = self._onto_both(lo.to(wide), hi.to(wide), delta.to(wide))
            near = exact.to(delta.dtype)
            less = near * (1 - torch.finfo(delta.dtype).eps)
            return torch.where(near.abs() > exact.abs(), less, near)
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


@dataclass(frozen=True)
class L1(Threat):
    """``S(x) = {d : sum_j |d_j| <= eps, lo <= x + d <= hi}``; see :class:`Threat` for the
    arguments.
    """

    def projection(self, x: Tensor) -> Projection:
        """Solve ``min_s ||s - delta||_2`` over ``s in S(x)``: the true projection onto ball *and*
        box together.

        The solution is ``s_j = sign(delta_j) clip(|delta_j| - c, 0, r_j)``, a soft threshold and
        then a clip, where ``r_j`` is the room that the box leaves towards ``delta_j``. Where the
        clip of ``delta`` is too long, ``c`` is the root of ``sum_j |s_j| = eps``, which is
        piecewise linear in ``c``: found exactly, by sorting its ``2n`` breakpoints, in float64.
        (Projecting onto the ball and then clipping does not give the nearest point.)
        """
        return partial(self._onto_both, *self.bounds(x))

    def _onto_both(self, lo: Tensor, hi: Tensor, delta: Tensor) -> Tensor:
        full = delta.clamp(lo, hi)
        outside = self.norm(full) > self.eps
        if self.eps == 0 or not outside.any():
            return full * (self.eps > 0)
        d = delta[outside].flatten(1)
        room = torch.where(d > 0, hi[outside].flatten(1), -lo[outside].flatten(1))
        lengths = self._lengths(d.abs().double(), room.double().clamp_(max=self.eps))
        least = lengths.to(d.dtype)  # rounded towards 0, so that the result is feasible
        least = torch.where(least > lengths, least * (1 - torch.finfo(d.dtype).eps), least)
        full[outside] = (least * d.sign()).view_as(full[outside])
        return full

    def _lengths(self, v: Tensor, room: Tensor) -> Tensor:
        """``clip(v - c, 0, room)`` with the ``c`` for which the sum of each row is ``eps``."""
        v, order = v.sort(1, descending=True)
        room = room.gather(1, order)
        # Only differences of less than eps matter: with larger ones cut, no scale of v loses digits
        gaps = torch.diff(v, dim=1, prepend=v[:, :1]).neg_().clamp_(max=self.eps)
        v = gaps.cumsum(1).neg_()
        ends, which = torch.cat([v, v - room], 1).sort(1, descending=True)
        moving = torch.where(which < v.shape[1], 1.0, -1.0).to(v).cumsum(1)  # between two ends
        grown = moving[:, :-1] * (ends[:, :-1] - ends[:, 1:])
        sums = torch.cat([torch.zeros_like(v[:, :1]), grown.cumsum(1)], 1)  # at the ends
        last = (sums < self.eps).sum(1, keepdim=True).sub_(1).clamp_(max=grown.shape[1] - 1)
        missing = (self.eps - sums.gather(1, last)) / moving.gather(1, last).clamp_(min=1)
        lengths = torch.minimum((v - ends.gather(1, last) + missing).clamp_(min=0), room)
        return torch.empty_like(lengths).scatter_(1, order, lengths)

    def sample(
        self, x: Tensor, generator: torch.Generator | None = None, project: Projection | None = None
    ) -> Tensor:
        """Uniform in the ball (``n`` of ``n + 1`` exponentials over their sum, with random signs),
        then clipped to the box.
        """
        random_source("generator", generator, self.check(x).device)
        signs = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device) - 0.5
        waits = torch.empty_like(x.detach()).exponential_(generator=generator)
        last = torch.empty_like(waits.flatten(1)[:, 0]).exponential_(generator=generator)
        scale = self.eps / (self.norm(waits) + last)
        noise = torch.copysign(waits, signs) * scale.view((-1,) + (1,) * (x.ndim - 1))
        return (project or self.projection(x))(noise)  # in the ball: the projection is the clip

    def steepest(self, gradient: Tensor) -> Tensor:
        """All on the coordinate of largest ``|gradient|``, the first of several (0 where all are
        0).
        """
        flat = gradient.flatten(1)
        first = flat.abs().argmax(1, keepdim=True)
        unit = torch.zeros_like(flat).scatter_(1, first, flat.gather(1, first).sign())
        return unit.view_as(gradient)

    def step(self, gradient: Tensor, images: Tensor, size: float) -> Tensor:
        """Solve ``max <gradient, s>`` subject to ``||s||_1 <= size`` and the box around ``images +
        s``: greedily, the coordinates of largest ``|gradient|`` first, each as far as it can go.

        Without the box it is ``size * steepest(gradient)``; with it that step would be lost where
        its one coordinate stands at the border. (The projection that follows shortens coordinates
        at the border too, so steps of a constant size end within ``size`` of a maximiser.)
        """
        lo, hi = self.bounds(images)
        room = torch.where(gradient > 0, hi, -lo).clamp_(max=size).mul_(gradient != 0).flatten(1)
        flat = gradient.flatten(1)
        order = flat.abs().argsort(dim=1, descending=True, stable=True)
        room = room.gather(1, order)
        left = size - torch.nn.functional.pad(room[:, :-1], (1, 0)).cumsum(1)
        taken = torch.minimum(room, left.clamp_(min=0)) * flat.gather(1, order).sign()
        return torch.empty_like(flat).scatter_(1, order, taken).view_as(gradient)

    def norm(self, delta: Tensor) -> Tensor:
        """``sum_j |d_j|`` of each sample, shape ``(B,)``."""
        return delta.flatten(1).abs().sum(1, dtype=torch.float64).to(delta.dtype)


SETS: dict[str, type[Threat]] = {"Linf": LInf, "L2": L2, "L1": L1}


def threat_model(norm: str, eps: float, box: Box = (0.0, 1.0)) -> Threat:
    """The set named by the field's words: ``"Linf"``, ``"L2"`` or ``"L1"``.

    Raises:
        ValueError: if ``norm`` is not one of the names, or ``eps`` or ``box`` is impossible.
    """
    return choice("norm", norm, SETS)(eps, box)
