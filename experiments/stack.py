"""Networks side by side: one module, the gradients of all their losses, and a rule's weights.

So small a network costs mostly the number of operations started, so that the programs here train
the networks of all seeds of a cell together.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import celu

import ddi


class Stack(nn.Module):
    """``S`` fully connected CELU networks of one shape, as one module on ``(S * B, ...)``."""

    def __init__(self, models: list[ddi.MLP]) -> None:
        super().__init__()
        linear = [[layer for layer in model if isinstance(layer, nn.Linear)] for model in models]
        stacked = [
            (
                torch.stack([a.weight.detach().T for a in layer]),
                torch.stack([a.bias for a in layer]),
            )
            for layer in zip(*linear, strict=True)
        ]
        self.count = len(models)
        self.weights = nn.ParameterList(w for w, _ in stacked)
        self.biases = nn.ParameterList(b.detach()[:, None] for _, b in stacked)
        # the same tensors: they only change in place, and module lists are slow to read
        self.layers = list(zip(self.weights, self.biases, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """``(S * B, ...) -> (S * B, classes)``."""
        z = x.reshape(self.count, -1, self.layers[0][0].shape[1])
        for i, (w, b) in enumerate(self.layers):
            z = torch.baddbmm(b, celu(z) if i else z, w)
        return z.flatten(0, 1)

    @torch.no_grad()
    def move(self, step: list[Tensor], size: Tensor | float) -> None:
        """Subtract ``size`` (a number, or one a network) times the step."""
        size = torch.as_tensor(size, dtype=torch.float64).expand(self.count)[:, None, None]
        for p, d in zip((*self.weights, *self.biases), step, strict=True):
            p.sub_(size * d)


@dataclass(frozen=True)
class Passes:
    """Losses of every network, perturbation and image, ``(S, m, B)``, and what their gradients are
    made of: the gradient of one loss in a layer's weights is the outer product of its row of
    ``inputs`` and its row of ``slopes``, both ``(S, m * B, width)``, in the biases its ``slopes``.
    """

    losses: Tensor
    inputs: list[Tensor]
    slopes: list[Tensor]

    @classmethod
    def of(cls, stack: Stack, x: Tensor, y: Tensor, deltas: Tensor) -> "Passes":
        """``x`` and ``y`` hold S * B images and labels, ``deltas`` is ``(m, S * B, ...)``."""
        s, m = stack.count, len(deltas)
        a = (x + deltas).reshape(m, s, -1, x[0].numel()).transpose(0, 1).flatten(1, 2)
        labels = y.view(s, 1, -1).expand(-1, m, -1).reshape(-1)
        inputs, values = [], []
        for w, b in stack.layers:
            z = torch.baddbmm(b.detach(), a, w.detach()).requires_grad_()
            inputs.append(a.detach())
            values.append(z)
            a = celu(z)
        losses = ddi.cross_entropy(values[-1].flatten(0, 1), labels)
        slopes = torch.autograd.grad(losses.sum(), values)
        return cls(losses.detach().view(s, m, -1), inputs, list(slopes))

    def gradient(self, weights: Tensor) -> list[Tensor]:
        """``1/B sum w_ji grad L_ij`` of each network, in the order of the stack's parameters."""
        share = weights.reshape(len(weights), -1, 1) / self.losses.shape[-1]
        scaled = [share * slope for slope in self.slopes]
        first = [a.mT @ b for a, b in zip(self.inputs, scaled, strict=True)]
        return first + [b.sum(1, keepdim=True) for b in scaled]

    @cached_property
    def joint_gram(self) -> Tensor:
        """Inner products of the m gradients of the batch, ``(S, m, m)``."""
        s, m, b = self.losses.shape
        parts = []
        for a, slope in zip(self.inputs, self.slopes, strict=True):
            a, slope = (v.reshape(s * m, b, -1) / math.sqrt(b) for v in (a, slope))
            parts.append((a.mT @ slope).view(s, m, -1))
            parts.append(slope.sum(1).view(s, m, -1) / math.sqrt(b))
        return sum(p @ p.mT for p in parts)

    def gram(self, network: int, rows: Tensor) -> Tensor:
        """Inner products of ``1/B grad L_ij`` of one network, for some of its m * B rows."""
        gram = torch.zeros(len(rows), len(rows), dtype=torch.float64)
        for a, slope in zip(self.inputs, self.slopes, strict=True):
            a, slope = a[network, rows], slope[network, rows]
            gram += (slope @ slope.T) * (a @ a.T + 1)
        return gram / self.losses.shape[-1] ** 2

    def lengths(self) -> Tensor:
        """``|grad L_ij|``, ``(S, m, B)``."""
        pairs = zip(self.inputs, self.slopes, strict=True)
        squares = sum(s.square().sum(-1) * (a.square().sum(-1) + 1) for a, s in pairs)
        return squares.sqrt().view_as(self.losses)


def first_of_kind(deltas: Tensor, count: int) -> Tensor:
    """Which perturbations differ from all before them, bit for bit; ``(S, m, B)``."""
    flat = deltas.flatten(2)
    new = [
        ~(flat[:j] == flat[j]).all(-1).any(0) if j else flat.new_ones(flat.shape[1]).bool()
        for j in range(len(flat))
    ]
    return torch.stack(new).view(len(flat), count, -1).transpose(0, 1)


def spread(passes: Passes, network: int, new: Tensor, t: float | None) -> tuple[Tensor, bool]:
    """Weights ``(m, B)`` of the product, or with ``t`` of the bundle step of that length.

    Equal perturbations have equal gradients, so one of them stands for all; an image with one
    perturbation has nothing to choose, and enters the problem of the others as a linear term.
    """
    losses = passes.losses[network]
    weights = torch.zeros_like(losses)
    choice = new.sum(0) > 1
    fixed, free = (
        (new & ~choice).flatten().nonzero()[:, 0],
        (new & choice).flatten().nonzero()[:, 0],
    )
    weights.view(-1)[fixed] = 1.0
    if not len(free):
        return weights, True
    gram, n = passes.gram(network, torch.cat([free, fixed])), len(free)
    linear = -gram[:n, n:].sum(1)
    if t is not None:
        linear += losses.flatten()[free] / (losses.shape[1] * t)
    point = ddi.min_norm_product(gram[:n, :n], free % losses.shape[1], linear)
    weights.view(-1)[free] = point.weights
    return weights, bool(point.converged)


def choose(rule: str, passes: Passes, deltas: Tensor, t: float) -> tuple[Tensor, int]:
    """The rule's weights of all gradients, ``(S, m, B)``, and the number of unsolved problems."""
    losses = passes.losses
    s, m, _ = losses.shape
    weights = torch.zeros_like(losses)
    if rule == "single":
        weights[:, 0] = 1.0
    elif rule == "perexample":
        weights[:, 0] = 1 / passes.lengths()[:, 0].clamp_min(1e-30)
    elif rule == "mean":
        weights += 1 / m
    elif rule == "max":
        weights.scatter_(1, losses.argmax(1, keepdim=True), 1.0)
    elif rule == "ddi":
        points = [ddi.min_norm_point(gram) for gram in passes.joint_gram]
        weights += torch.stack([point.weights for point in points])[:, :, None]
        return weights, sum(not point.converged for point in points)
    elif rule in ("product", "bundle"):
        new = first_of_kind(deltas, s)
        step = t if rule == "bundle" else None
        solved = [spread(passes, i, new[i], step) for i in range(s)]
        return torch.stack([w for w, _ in solved]), sum(not good for _, good in solved)
    else:
        raise ValueError(f"rule must be one of the design's, got {rule!r}")
    return weights, 0
