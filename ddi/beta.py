"""BETA: every rival class attacked by itself, in one batch, and the best margin kept."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ddi._checks import answer, labels, logits, store
from ddi.attacks import PGD, Ascent
from ddi.losses import Loss, margin_loss
from ddi.state import Model, Precision, frozen

__all__ = ["BETA"]


@dataclass(frozen=True)
class BETA(PGD):
    """Best targeted attack (Robey et al. 2023): maximise the margin ``max_{j != y} z_j - z_y``,
    which is positive exactly where the model is fooled.

    The margin is a maximum over the rivals ``j``, so its maximiser is the best of those of ``z_j -
    z_y``: PGD climbs each of them, from the same start (all rivals are rows of one batch), and of
    the ``C - 1`` perturbations of a sample the one with the largest margin is kept. One step is
    ``C - 1`` passes (:meth:`passes_for`).

    Args:
        eps, alpha, steps, random_start, norm, box, keep, schedule, autocast: as for
            :class:`ddi.attacks.PGD` (``keep`` is about the steps towards one rival).

    Raises:
        ValueError: as :class:`ddi.attacks.PGD`; when it is called, also for a model with a single
            logit.
    """

    loss: Loss = field(default=margin_loss, init=False)

    def __post_init__(self) -> None:
        store(self, loss=margin_loss)  # a default that is a function would be a method
        super().__post_init__()

    @property
    def passes(self) -> int:
        """0, since it depends on the number of classes (:meth:`passes_for`)."""
        return 0

    def passes_for(self, classes: int) -> int:
        """A pass for every step towards each of the other classes."""
        return self.steps * (classes - 1)

    def _ascend(
        self,
        model: Model,
        precision: Precision,
        x: Tensor,
        y: Tensor,
        start: Tensor,
        batch_size: int | None,
    ) -> Tensor:
        def logits_of(images: Tensor) -> Tensor:
            with frozen(model), torch.no_grad():
                output = precision.forward(lambda images: answer(model, images), images)
            return logits(output, len(images))

        # two images: of one alone a BatchNorm without running statistics makes nothing
        classes = logits_of(x[:2].clone()).shape[1]
        labels("y", y, len(x), classes)
        if classes < 2:
            raise ValueError("model must have two classes or more, got one logit")
        rivals = (y + torch.arange(1, classes, device=y.device)[:, None]) % classes
        pair = torch.stack([y.expand_as(rivals), rivals], -1).flatten(0, 1)
        many = [v.repeat(classes - 1, *[1] * (x.ndim - 1)) for v in (x, start)]
        pieces = zip(*(torch.split(v, batch_size or len(pair)) for v in (*many, pair)), strict=True)
        found, margins = [], []
        for some, begin, both in pieces:
            delta = Ascent(self, _towards, model, precision, some, both, begin).run()
            found.append(delta)
            margins.append(margin_loss(logits_of(some + delta), both[:, 0]))
        best = torch.cat(margins).view(rivals.shape).argmax(0)
        each = torch.cat(found).view(classes - 1, *x.shape)
        return each[best, torch.arange(len(x), device=x.device)]


def _towards(logits: Tensor, pair: Tensor) -> Tensor:
    """The margin of one rival, ``z_j - z_y``, for rows ``(y, j)``."""
    true, rival = logits.gather(1, pair).unbind(1)
    return rival - true
