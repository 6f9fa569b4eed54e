"""Losses of logits and labels, one value a sample: what attacks maximise and rules descend on."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]

__all__ = ["OF_LOGITS", "Loss", "cross_entropy", "margin_loss"]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats, one value a sample: ``log sum_j exp(z_j) - z_y``; shapes ``(B, C),
    (B,) -> (B,)``.
    """
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Margin ``max_{j != y} z_j - z_y``, one value a sample; positive exactly where the model is
    fooled.
    """
    true = labels[:, None] == torch.arange(logits.shape[1], device=labels.device)
    other = logits.masked_fill(true, -torch.inf).amax(1)
    return other - logits.gather(1, labels[:, None]).squeeze(1)


OF_LOGITS = (cross_entropy, margin_loss)
