"""Accuracy on clean images, under PGD with restarts, and under AutoAttack; each with its number of
images and error.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ddi._checks import (
    answer,
    finite,
    flag,
    images,
    instance,
    integer,
    labels,
    logits,
    network,
    one_device,
    one_of,
    positive,
    positive_int,
    random_source,
    store,
)
from ddi.attacks import FGSM, PGD, Attack, as_attack
from ddi.state import Model, eager, frozen
from ddi.threat import SETS

__all__ = ["Accuracy", "autoattack_accuracy", "clean_accuracy", "masking_signs", "robust_accuracy"]

PGD20 = PGD(eps=8 / 255, alpha=2 / 255, steps=20)


@dataclass(frozen=True)
class Accuracy:
    """A share ``value`` of ``n`` images, with its binomial standard error."""

    value: float
    n: int

    def __post_init__(self) -> None:
        store(self, value=finite("value", self.value, 0.0, 1.0), n=positive_int("n", self.n))

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
        model: any callable from images to logits.
        x: images ``(N, ...)``. y: int64 labels ``(N,)``. batch_size: images in one pass (250; 1 000
            on a GPU).

    Raises:
        ValueError: for an empty or non-finite batch, labels of wrong shape, dtype or range, and a
            model that does not return logits ``(N, C)``.
        FloatingPointError: if logits are NaN.
    """
    _check(model, x, y)
    return _accuracy(_correct(model, x, y, _size(x, batch_size)))


def robust_accuracy(
    model: Model,
    x: Tensor,
    y: Tensor,
    attack: Attack | Callable[..., Tensor] = PGD20,
    restarts: int = 1,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Accuracy:
    """Share of images classified as labelled, clean and at every one of ``restarts`` perturbations.

    Args:
        model, x, y, batch_size: as for :func:`clean_accuracy`. For a network of ``torch.compile``
            batches keep their size (but for the last), since every other size is compiled anew.
        attack: PGD-20 with ``eps = 8/255`` by default; or any callable ``(model, x, y) -> delta``.
        restarts: independent attacks of each image that still stands.
        generator: source of the random starts. progress: show a progress bar.

    Raises:
        ValueError: as for :func:`clean_accuracy`, and for ``restarts < 1``.
    """
    return _accuracy(standing(model, x, y, attack, restarts, generator, batch_size, progress))


def standing(
    model: Model,
    x: Tensor,
    y: Tensor,
    attack: Attack | Callable[..., Tensor] = PGD20,
    restarts: int = 1,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Tensor:
    """Which images :func:`robust_accuracy` counts, ``(N,)``, boolean; arguments and errors are the
    same.
    """
    _check(model, x, y)
    attack, restarts = as_attack(attack), positive_int("restarts", restarts)
    random_source("generator", generator, x.device)
    size, hidden = _size(x, batch_size), not flag("progress", progress)
    stands = _correct(model, x, y, size)
    batches = torch.split(torch.arange(len(x), device=x.device), size)
    rounds = [batch for _ in range(restarts) for batch in batches]
    compiled = isinstance(model, nn.Module) and eager(model) is not model
    for batch in tqdm(rounds, desc="attack", disable=hidden):
        left = batch if compiled and stands[batch].any() else batch[stands[batch]]
        if len(left):
            adversarial = x[left] + attack(model, x[left], y[left], generator)
            stands[left] &= _correct(model, adversarial, y[left], size)
    return stands


def by_class(stands: Tensor, y: Tensor) -> dict[int, float]:
    """Of the classes that have images the share of them that stand."""
    return {c: stands[y == c].double().mean().item() for c in sorted(set(y.tolist()))}


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

    The suite is written for float32 images in ``[0, 1]``, and a network of another dtype sees them
    in its own. It needs ten classes for nine targets: with fewer there are as many targets as other
    classes, and with two or three, for which its targeted loss (DLR) is not defined, ``apgd-t`` is
    left out.

    Args:
        x: images ``(N, C, H, W)`` in ``[0, 1]``. y: int64 labels ``(N,)``. eps: radius, positive.
        norm: ``"Linf"``, ``"L2"`` or, with ``H, W >= 5``, ``"L1"``. seed: of the suite.
        batch_size: images in one pass.

    Raises:
        ImportError: if ``pyautoattack`` is not installed.
        ValueError: for impossible arguments.
    """
    _check(model, x, y, (0.0, 1.0))
    eps, norm = positive("eps", eps), one_of("norm", norm, SETS)
    seed, batch_size = integer("seed", seed, 0), positive_int("batch_size", batch_size)
    if x.ndim != 4:
        raise ValueError(f"x must be images (N, C, H, W), got shape {tuple(x.shape)}")
    if norm == "L1" and min(x.shape[2:]) < 5:  # windows of a fifth of the side
        raise ValueError(
            f"x must be images of 5 pixels or more a side for L1, got {tuple(x.shape)}"
        )
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise ImportError(
            "AutoAttack needs its authors' package: pip install pyautoattack"
        ) from error
    with frozen(model), torch.inference_mode(False), torch.random.fork_rng():  # the suite seeds
        x, y = x.detach().clone(), y.clone()
        with torch.no_grad():
            classes = logits(answer(model, x[:1]), 1).shape[1]
        in_float32 = _InFloat32(model, x.dtype)
        suite = AutoAttack(in_float32, norm=norm, eps=eps, seed=seed, device=x.device)
        _few_classes(suite, classes)
        found, *_ = suite.run_standard_evaluation(x.float(), y, batch_size=batch_size)
        return _accuracy(_correct(in_float32, found, y, batch_size))


class _InFloat32(nn.Module):
    """A network of another dtype, for float32 images; a copy, which it may change in place."""

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        super().__init__()
        self.run, self.dtype = model, dtype
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        own = images.to(self.dtype, copy=True)
        return logits(answer(self.run, own), len(images)).to(images.dtype)


def _few_classes(suite: Any, classes: int) -> None:
    """No more targets than there are other classes; no targeted DLR loss with fewer than four."""
    targets = min(9, classes - 1)
    suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = targets
    if classes < 4:
        suite.attacks_to_run = [name for name in suite.attacks_to_run if name != "apgd-t"]


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
    stronger than many, and a ball as wide as the images' range (the box; without one, from their
    least value to their largest) must leave next to nothing standing. Each sign is also given as a
    warning.

    Args:
        model, x, y: as for :func:`clean_accuracy`. attack: a :class:`ddi.attacks.PGD`, whose norm,
            box, loss and autocast all the compared attacks have. generator: source of the random
            starts.
    """
    _check(model, x, y)
    instance("attack", attack, PGD)
    shared = ("norm", "box", "loss", "autocast")
    settings: dict[str, Any] = {name: getattr(attack, name) for name in shared}
    base = robust_accuracy(model, x, y, attack, generator=generator)
    once = robust_accuracy(model, x, y, FGSM(attack.eps, **settings))
    low, high = attack.box or (float(x.min()), float(x.max()))
    diagonal = torch.full_like(x[:1], high - low)  # the widest perturbation that the box allows
    reach = max(attack.threat.norm(diagonal).item(), attack.eps)
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


def _check(model: Any, x: Any, y: Any, box: tuple[float, float] | None = None) -> None:
    network("model", model)
    one_device(x=x, y=y)
    labels("y", y, len(images("x", x, box)))


def _size(x: Tensor, batch_size: int | None) -> int:
    usual = 1000 if x.is_cuda else 250
    return positive_int("batch_size", usual if batch_size is None else batch_size)


def _accuracy(right: Tensor) -> Accuracy:
    return Accuracy(right.double().mean().item(), len(right))


def _correct(model: Model, x: Tensor, y: Tensor, size: int) -> Tensor:
    """Whether each image is classified as labelled, ``(N,)``."""
    right = []
    with frozen(model, passes=True), torch.no_grad():
        for a, b in zip(torch.split(x, size), torch.split(y, size), strict=True):
            z = logits(answer(model, a.clone()), len(a))  # a model may normalise in place
            labels("y", b, len(b), z.shape[1])
            if z.isnan().any():
                raise FloatingPointError("the model's logits must be numbers, got NaN")
            right.append(z.argmax(1) == b)
    return torch.cat(right)
