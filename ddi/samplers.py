"""Which classes a batch is drawn from: all alike, or with CFOL's probabilities, which go where the
adversarial errors are.

Without a sampler the trainer walks through a shuffle of the images. With one, every image of a
batch is drawn with replacement: its class with the probabilities ``p``, then uniformly within it.
CFOL (Pethick et al. 2023; lecture, "CFOL") means the game ``min over theta, max over p of sum_c p_c
err_c(theta)``; its ``p`` are those of the bandit algorithm Exp3: ``p = gamma / C + (1 - gamma)
softmax(w)``, and a batch adds ``eta sum_i 1[i is misclassified] / p_c`` over its images of class
``c`` to ``w_c``. Over the draw of the batch the expectation of that sum is ``batch_size err_c``,
whatever ``p`` is.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from ddi import _checks as check
from ddi.adversary import ALL, Attack
from ddi.parallel import total
from ddi.state import Model, frozen

__all__ = ["Draws", "Sampler"]

NAMES = ("balanced", "cfol")


@dataclass(frozen=True)
class Sampler:
    """How the trainer draws the classes of a batch.

    Args:
        name: ``"balanced"``, every class alike, or ``"cfol"``.
        gamma: of CFOL, the share of uniform exploration, ``0 < gamma <= 1``; by default 0.5.
        eta: of CFOL, the step of ``w`` an image, ``>= 0``; by default 1e-6, for CIFAR-10 over
            200 epochs. What matters is ``eta`` times the number of images drawn.

    Raises:
        ValueError: for an unknown name, and for an option that is impossible or does not apply.
    """

    name: str
    _: KW_ONLY
    gamma: float | None = None
    eta: float | None = None

    def __post_init__(self) -> None:
        check.one_of("name", self.name, NAMES)
        if self.name != "cfol":
            for option in ("gamma", "eta"):
                if getattr(self, option) is not None:
                    check.refuse(option, 'left out but for "cfol"', getattr(self, option))
            return
        gamma = check.finite("gamma", 0.5 if self.gamma is None else self.gamma, 0.0, 1.0)
        if gamma == 0:
            check.refuse("gamma", "greater than 0: without exploration no estimate is", self.gamma)
        eta = check.non_negative("eta", 1e-6 if self.eta is None else self.eta)
        check.store(self, gamma=gamma, eta=eta)


class Draws:
    """A sampler at work on the training images with labels ``y``: its weights, and its batches.

    Raises:
        ValueError: if a class has no image to be drawn.
    """

    def __init__(self, sampler: Sampler, y: Tensor, classes: int) -> None:
        self.sampler, self.classes = sampler, classes
        self.members, self.count = y.argsort(stable=True), y.bincount(minlength=classes)
        if not self.count.all():
            lacking = (self.count == 0).nonzero().flatten().tolist()
            raise ValueError(
                f"data must have training images of every class, got none of {lacking}"
            )
        self.first = self.count.cumsum(0) - self.count
        self.weights = torch.zeros(classes, dtype=torch.float64, device=y.device)

    @property
    def chances(self) -> Tensor:
        """The probabilities of the classes, ``(C,)``, float64."""
        gamma = 1.0 if self.sampler.gamma is None else self.sampler.gamma
        return gamma / self.classes + (1 - gamma) * self.weights.softmax(0)

    def batch(self, size: int, generator: torch.Generator) -> Tensor:
        """Indices of ``size`` images, drawn independently."""
        chosen = torch.multinomial(self.chances, size, replacement=True, generator=generator)
        share = torch.rand(size, generator=generator, dtype=torch.float64, device=chosen.device)
        place = (share * self.count[chosen]).long().minimum(self.count[chosen] - 1)
        return self.members[self.first[chosen] + place]

    def watch(self, attack: Attack) -> Attack:
        """The attack, with ``w`` following the errors that it finds, where ``w`` counts."""
        return _Watched(attack, self) if self.sampler.eta else attack

    def follow(self, wrong: Tensor, y: Tensor) -> None:
        """Take in which images of this process's share of a batch were misclassified, ``(k,)``."""
        errors = total(y[wrong].bincount(minlength=self.classes)).double()
        self.weights += (self.sampler.eta or 0.0) * errors / self.chances

    def columns(self, robust: dict[int, float]) -> dict[str, float]:
        """For the record: the robust accuracy of every class, and its probability."""
        chances = enumerate(self.chances.tolist())
        return {f"robust_{c}": v for c, v in robust.items()} | {f"p_{c}": p for c, p in chances}


@dataclass
class _Watched(Attack):
    """The attack of one step; its first call counts (SAM calls again, at other weights)."""

    attack: Attack
    draws: Draws
    counted: bool = False

    def passes_for(self, classes: int) -> int:
        return self.attack.passes_for(classes)

    def restarts(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        m: int,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        only: slice = ALL,
    ) -> Tensor:
        """An image counts as misclassified if one of its perturbations is."""
        deltas = self.attack.restarts(model, x, y, m, generator, batch_size, only)
        if self.counted:
            return deltas
        with torch.no_grad(), frozen(model):
            wrong = torch.stack([model(x[only] + d).argmax(1) != y[only] for d in deltas]).any(0)
        self.draws.follow(wrong, y[only])
        self.counted = True
        return deltas


def started(sampler: Any, y: Tensor, classes: int) -> Draws | None:
    """The sampler at work, if there is one."""
    return None if sampler is None else Draws(sampler, y, classes)
