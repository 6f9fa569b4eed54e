"""Accuracy on clean images, under PGD with restarts, and under AutoAttack; each with its number of
images and error.
"""

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ddi.attacks import FGSM, PGD, Attack, Model, check_labels, frozen
from ddi.threat import number, whole

__all__ = ["Accuracy", "autoattack_accuracy", "clean_accuracy", "masking_signs", "robust_accuracy"]

PGD20 = PGD(eps=8 / 255, alpha=2 / 255, steps=20)


@dataclass(frozen=True)
class Accuracy:
    """A share of ``n`` images, and its binomial standard error ``sqrt(p (1 - p) / n)``."""

    value: float
    n: int

    @property
    def standard_error(self) -> float:
        """``sqrt(p (1 - p) / n)``: how far the share would scatter over other draws of ``n``
        images.
        """
        return math.sqrt(self.value * (1 - self.value) / self.n)

    def __str__(self) -> str:
        return f"{100 * self.value:.2f} % ± {100 * self.standard_error:.2f} (n = {self.n})"


def clean_accuracy(model: Model, x: Tensor, y: Tensor, batch_size: int | None = None) -> Accuracy:
    """Share of images classified as labelled, in eval mode; the model is left as found.

    Args:
        x: images ``(N, ...)``. y: int64 labels ``(N,)``. batch_size: images in one pass (250; 1 000
            on a GPU).
    """
    return Accuracy(_correct(model, x, y, batch_size).double().mean().item(), len(x))


def robust_accuracy(
    model: Model,
    x: Tensor,
    y: Tensor,
    attack: Attack = PGD20,
    restarts: int = 1,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Accuracy:
    """Share of images classified as labelled, clean and at every one of ``restarts`` perturbations.

    Args:
        attack: PGD-20 with ``eps = 8/255`` by default. restarts: independent attacks of each image
            that still stands.
        generator: source of the random starts. batch_size: as above. progress: show a progress bar.

    Raises:
        ValueError: for an empty batch, labels of the wrong length, or ``restarts < 1``.
    """
    whole("restarts", restarts)
    stands = _correct(model, x, y, batch_size)
    parts = torch.arange(len(x), device=x.device).split(_size(x, batch_size))
    rounds = [(r, part) for r in range(restarts) for part in parts]
    equal = getattr(model, "equal_shapes", False)
    for _, part in tqdm(rounds, desc="attack", disable=not progress):
        left = part if equal and stands[part].any() else part[stands[part]]
        if len(left):
            adversarial = x[left] + attack(model, x[left], y[left], generator)
            stands[left] &= _correct(model, adversarial, y[left], batch_size)
    return Accuracy(stands.double().mean().item(), len(x))


def autoattack_accuracy(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float = 8 / 255,
    norm: str = "Linf",
    seed: int = 0,
    batch_size: int = 250,
) -> Accuracy:
    """Share of images that stand AutoAttack's standard suite (Croce and Hein 2020), by its authors'
    package.

    Raises:
        ImportError: if ``pyautoattack`` is not installed.
    """
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise ImportError(
            "AutoAttack needs its authors' package: pip install pyautoattack"
        ) from error
    number("eps", eps, strict=True)
    if norm not in ("Linf", "L2"):
        raise ValueError(f'norm must be "Linf" or "L2", got {norm!r}')
    with frozen(model), torch.random.fork_rng():  # the suite seeds torch's global generator
        suite = AutoAttack(model, norm=norm, eps=eps, seed=seed, device=x.device)
        adversarial, *_ = suite.run_standard_evaluation(x, y, batch_size=batch_size)
    return clean_accuracy(model, adversarial.to(x), y, batch_size)


def masking_signs(
    model: Model,
    x: Tensor,
    y: Tensor,
    attack: PGD = PGD20,
    generator: torch.Generator | None = None,
) -> list[str]:
    """Signs that gradients are masked, so that accuracy under PGD means little (Athalye et al.
    2018); empty if none.

    Compared on the given images, with a margin of two standard errors: a single step must not be
    stronger than many, and a ball as wide as the box must leave next to nothing standing. Each sign
    is also given as a warning.
    """
    settings = {"norm": attack.norm, "box": attack.box, "loss": attack.loss}
    base = robust_accuracy(model, x, y, attack, generator=generator)
    once = robust_accuracy(model, x, y, FGSM(attack.eps, **settings))
    reach = 1.0 if attack.norm == "Linf" else math.sqrt(x[0].numel())
    wide = PGD(reach, reach / 10, max(attack.steps, 20), **settings)
    whole = robust_accuracy(model, x, y, wide, generator=generator)
    margin = 2 * max(base.standard_error, 1 / len(x))
    found = []
    if once.value < base.value - margin:
        found.append(f"one step is stronger than {attack.steps}: {once} against {base}")
    if whole.value > 0.1 + margin:
        found.append(f"with the whole box allowed, {whole} still stand")
    for sign in found:
        warnings.warn(f"gradients may be masked: {sign}", stacklevel=2)
    return found


def _size(x: Tensor, batch_size: int | None) -> int:
    return whole("batch_size", batch_size if batch_size is not None else 1000 if x.is_cuda else 250)


def _correct(model: Model, x: Tensor, y: Tensor, batch_size: int | None) -> Tensor:
    """Whether each image is classified as labelled, ``(N,)``."""
    size = _size(x, batch_size)
    if not len(x):
        raise ValueError(f"x must be a non-empty batch, got {tuple(x.shape)}")
    check_labels(y, len(x))
    with frozen(model), torch.no_grad():
        parts = zip(x.split(size), y.split(size), strict=True)
        return torch.cat([model(a).argmax(1) == b for a, b in parts])
