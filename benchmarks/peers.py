"""What the benchmark compares with: the paper's solver, a training step as scripts write it, and
optional packages.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ddi import crop_and_flip


def accelerated(gram: Tensor, iterations: int = 100) -> Tensor:
    """The paper's solver as a plain loop of so many accelerated projected gradient steps."""
    step, count = (
        1 / torch.linalg.matrix_norm(gram, 2),
        torch.arange(1, len(gram) + 1, device=gram.device),
    )
    a = ahead = torch.full_like(gram[0], 1 / len(gram))
    for t in range(iterations):
        v = ahead - step * (gram @ ahead)
        new = (v - ((v.sort(descending=True).values.cumsum(0) - 1) / count).max()).clamp(min=0)
        a, ahead = new, new + t / (t + 3) * (new - a)
    return a


def plain_step(model: nn.Module, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """A step of PGD-7 training as scripts write it: eager, float32, weight gradients in the attack,
    too.
    """
    images, eps, alpha = crop_and_flip(x), 8 / 255, 2 / 255
    delta = torch.empty_like(images).uniform_(-eps, eps)
    delta = ((images + delta).clamp(0, 1) - images).requires_grad_()
    model.train()
    for _ in range(7):
        nn.functional.cross_entropy(model(images + delta), y).backward()
        moved = (delta.detach() + alpha * delta.grad.sign()).clamp(-eps, eps)
        delta = ((images + moved).clamp(0, 1) - images).requires_grad_()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images + delta.detach()), y).backward()
    optimizer.step()


def optional(module: str, name: str) -> Any:
    """A class of a package that need not be installed, or ``None``."""
    try:
        return getattr(__import__(module, fromlist=[name]), name)
    except ImportError:
        return None
