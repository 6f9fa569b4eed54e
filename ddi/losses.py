"""Losses of logits and labels, one value a sample: what attacks maximise and rules descend on."""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor, nn

from ddi import _checks

Loss = Callable[[Tensor, Tensor], Tensor]

__all__ = ["OF_LOGITS", "Loss", "cross_entropy", "margin_loss"]

NO_LABEL = torch.iinfo(torch.int64).min  # torch's own choice, -100, would pass as a loss of 0


def _of_logits(loss: Loss) -> Loss:
    """The loss behind its door.

    Types, shapes and dtypes are looked at always, and values never, since that makes a GPU wait and
    is not possible under ``vmap`` or on the device "meta". A CPU's kernels find a label that is no
    class, and then it is named; a GPU's kernels stop the program.
    """

    @wraps(loss)
    def checked(logits: Tensor, labels: Tensor) -> Tensor:
        dense = isinstance(logits, Tensor) and logits.layout == torch.strided
        if not dense or not logits.is_floating_point() or logits.ndim != 2 or not logits.numel():
            _checks.refuse("logits", "a floating-point tensor of shape (B, C)", logits)
        _checks.label_tensor("labels", labels, len(logits))
        _checks.one_device(logits=logits, labels=labels)
        try:
            return loss(logits, labels)
        except (IndexError, RuntimeError):
            _checks.labels("labels", labels, *logits.shape)
            raise

    return checked


@_of_logits
def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats, one value a sample: ``log sum_j exp(z_j) - z_y``.

    Args:
        logits: ``(B, C)``, floating point. labels: int64 ``(B,)`` in ``0 ... C-1``; the values are
            looked at on the CPU alone.

    Returns:
        ``(B,)``, in the dtype of ``logits``.

    Raises:
        ValueError: for other shapes, dtypes or labels.
    """
    return nn.functional.cross_entropy(logits, labels, reduction="none", ignore_index=NO_LABEL)


@_of_logits
def margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Margin ``max_{j != y} z_j - z_y``, one value a sample; positive exactly where the model is
    fooled. Arguments and errors as for :func:`cross_entropy`.
    """
    true = labels[:, None] == torch.arange(logits.shape[1], device=labels.device)
    other = logits.masked_fill(true, -torch.inf).amax(1)
    return other - logits.gather(1, labels[:, None]).squeeze(1)


OF_LOGITS = (cross_entropy, margin_loss)
