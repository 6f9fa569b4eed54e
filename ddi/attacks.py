"""Attacks: approximate maximisers of ``L(theta, x + d, y)`` over the threat set ``S(x)``.

An :class:`Attack` is called as ``attack(model, x, y, generator=None) -> delta``; it maximises every
sample's loss separately and returns ``delta`` of ``x``'s shape, detached. The model and the
caller's tensors come back as they were. :class:`PGD` is the one loop of the field's iterated
attacks; whoever writes another attack writes a subclass of :class:`Attack`, or a function
``(model, x, y) -> delta``, which :func:`as_attack` makes one.

In eval mode a sample's perturbation does not depend on the other samples of its batch, unless the
model couples them: BatchNorm without running statistics (``track_running_stats=False``) does. Then
the batch is attacked as a whole, and the result depends on how it was cut.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ddi._checks import (
    answer,
    batch_of,
    finite,
    flag,
    function,
    interval,
    labels,
    logits,
    network,
    non_negative,
    one_device,
    one_of,
    positive_int,
    random_source,
    store,
)
from ddi.adversary import ALL, Attack, as_attack, chosen, sizes, usable
from ddi.losses import LossLike, Scaled, cross_entropy, inner, loss_like, margin_loss, of_classes
from ddi.state import Model, Precision, frozen
from ddi.threat import Box, Projection, Threat, threat_model

__all__ = [
    "FAST",
    "FGSM",
    "PGA",
    "PGD",
    "Attack",
    "as_attack",
    "cross_entropy",
    "inverse_time",
    "margin_loss",
]


def inverse_time(start: int = 8) -> Callable[[int], float]:
    """Step schedule ``1 / max(1, step - start + 1)``, steps counted from 1 (the paper's "PGD-70 -
    1/t", section 5.3).
    """
    start = positive_int("start", start)

    def schedule(step: int) -> float:
        return 1.0 / max(1, step - start + 1)

    schedule.__name__ = f"inverse_time({start})"
    return schedule


@dataclass(frozen=True)
class PGD(Attack):
    """Iterated FGSM with a random start: the adversary of Madry et al. (2018) and Kurakin et al.
    (2017).

    ``d <- project(d + alpha_t * s(grad))`` where ``s`` is the sign (``"Linf"``), the gradient
    divided by its norm (``"L2"``) or its largest entry's sign (``"L1"``;
    :meth:`ddi.threat.L1.step`), and ``alpha_t = alpha * schedule(t)`` for ``t = 1 ... steps``.
    Opposite corners of the ball are ``2 * eps`` apart: with ``alpha * steps < 2 * eps`` a random
    start is not forgotten.

    Args:
        eps: radius of the ball. alpha: step length, in the same units. steps: number of steps, ``>=
            1``.
        random_start: start uniformly in the ball, clipped to the box; otherwise at 0.
        norm: ``"Linf"``, ``"L2"`` or ``"L1"``. loss: ``loss(logits, labels)``, one value a sample,
            or an :class:`ddi.losses.Objective`.
        box: range of the images, or ``None``. keep: ``"last"`` iterate, or the ``"best"`` of all, a
            sample at a time.
        schedule: multiplier of ``alpha`` by step, counted from 1, or ``None`` for 1.
        autocast: run the model in bf16 (``torch.autocast``); loss, steps and projections stay in
            the images' dtype. Whatever is found is a valid perturbation, perhaps a weaker one.

    Raises:
        ValueError: for an argument that is none of these; ``eps`` and ``alpha`` must be ``>= 0``.
    """

    eps: float = 8 / 255
    alpha: float = 2 / 255
    steps: int = 7
    random_start: bool = True
    norm: str = "Linf"
    loss: LossLike = cross_entropy
    box: Box = (0.0, 1.0)
    keep: str = "last"
    schedule: Callable[[int], float] | None = None
    autocast: bool = False

    def __post_init__(self) -> None:
        store(self, eps=non_negative("eps", self.eps), alpha=non_negative("alpha", self.alpha))
        store(self, steps=positive_int("steps", self.steps), box=interval("box", self.box))
        for name in ("random_start", "autocast"):
            store(self, **{name: flag(name, getattr(self, name))})
        one_of("keep", self.keep, ("last", "best"))
        loss_like("loss", self.loss)
        if self.schedule is not None:
            function("schedule", self.schedule)
        threat_model(self.norm, self.eps, self.box)

    @property
    def threat(self) -> Threat:
        """The set that the perturbations are chosen from."""
        return threat_model(self.norm, self.eps, self.box)

    @property
    def passes(self) -> int:
        """One forward-and-backward pass a step (``keep="best"`` takes one more forward pass)."""
        return self.steps

    def step(self, gradient: Tensor, images: Tensor, size: float) -> Tensor:
        """What an ascent step adds to the images: ``size`` times the unit step of the norm."""
        return self.threat.step(gradient, images, size)

    def __call__(
        self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Maximise ``loss(model(x + d), y)`` over ``d in S(x)``, a sample at a time.

        Args:
            model: any callable from images to logits; a module is run in eval mode and left exactly
                as found.
            x: images, NCHW (or any ``(B, ...)``), floating point, inside the box.
            y: labels, ``(B,)``; for the losses of this package int64 in ``0 ... C-1``.
            generator: source of the random start; the same state gives the same perturbation.

        Returns:
            ``delta``, of ``x``'s shape and dtype, detached, inside ``S(x)``; ``x + delta`` is
            inside the box as computed in that dtype.

        Raises:
            ValueError: for an empty or non-finite batch, images outside the box, labels of wrong
                shape, dtype or range, and a model or a loss that does not return what it must.
            FloatingPointError: if the gradient in the images is not finite.
        """
        return self._attack(model, x, y, 1, generator, None, ALL)[0]

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
        """``m`` perturbations a sample from independent random starts, in one batched call of ``m *
        B`` samples.

        Args:
            m: number of restarts, ``>= 1``.
            batch_size: largest number of samples in one forward pass. It bounds memory and changes
                no random number. By default all ``m * B`` on a GPU, and on the CPU 96 images of
                CIFAR's size: the memory of larger layers goes back to the system after every use,
                and costs page faults.
            only: attack these samples of the batch only, but draw the random starts of all, so that
                several processes that share a batch see the numbers that one would.

        Returns:
            Tensor of shape ``(m, *x[only].shape)``.
        """
        m, batch_size = sizes(m, batch_size, only)
        if batch_size is None and isinstance(x, Tensor) and not x.is_cuda:
            batch_size = max(1, 96 * 3072 // max(1, x[:1].numel()))
        return self._attack(model, x, y, m, generator, batch_size, only)

    def _attack(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        m: int,
        generator: torch.Generator | None,
        batch_size: int | None,
        only: slice,
    ) -> Tensor:
        self._check(model, x, y, generator)
        precision = Precision.of(x.device, self.autocast)
        with precision.algebra():
            x, y = usable(x), usable(y)
            every = x.repeat(m, *[1] * (x.ndim - 1))
            start = self._start(every, generator).view(m, *x.shape)[:, only].flatten(0, 1)
            x, y = chosen(x, only), y[only]
            many, targets = x.repeat(m, *[1] * (x.ndim - 1)), y.repeat(m, *[1] * (y.ndim - 1))
            pieces = -(-len(many) // (batch_size or len(many)))  # of one size, or nearly
            size = -(-len(many) // pieces)
            each = zip(*(torch.split(t, size) for t in (many, targets, start)), strict=True)
            found = [self._ascend(model, precision, a, b, d, batch_size) for a, b, d in each]
            return torch.cat(found).view(m, *x.shape)

    def _ascend(
        self, model: Model, precision: Precision, x: Tensor, y: Tensor, start: Tensor, _: int | None
    ) -> Tensor:
        """From these starts to perturbations."""
        return Ascent(self, self.loss, model, precision, x, y, start).run()

    def _check(self, model: Any, x: Any, y: Any, generator: Any) -> None:
        network("model", model)
        one_device(x=x, y=y)
        finite("alpha", self.alpha, 0.0, torch.finfo(self.threat.check(x).dtype).max)
        (labels if of_classes(self.loss) else batch_of)("y", y, len(x))
        random_source("generator", generator, x.device)

    def _start(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.threat.sample(x, generator) if self.random_start else torch.zeros_like(x)


@dataclass
class Ascent:
    """One batch on its way up."""

    attack: PGD
    loss: LossLike
    model: Model
    precision: Precision
    x: Tensor
    y: Tensor
    delta: Tensor
    checked: bool = False  # whether the labels are classes of the model
    scaled: Scaled = field(init=False)

    def run(self) -> Tensor:
        """The attack's steps from ``delta``."""
        attack, x, delta = self.attack, self.x, self.delta
        project: Projection = attack.threat.projection(x)
        wrong = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        with frozen(self.model, passes=attack.steps > 0):
            self.scaled = Scaled(self.model, self.precision, x)
            best = torch.full((len(x),), -torch.inf, dtype=self.scaled.wide, device=x.device)
            kept = delta
            values_of = inner(self.loss, self._logits, x, self.y)
            for step in range(1, attack.steps + 1):
                values, gradient = self.scaled.rise(values_of, delta)
                bad = ~gradient.flatten(1).abs().amax(1).isfinite() & (wrong == 0)
                wrong = torch.where(bad, step, wrong)  # looked at once, below: no wait for a GPU
                if attack.keep == "best":
                    best, kept = _better(values, delta, best, kept)
                size = attack.alpha
                if attack.schedule is not None:
                    size *= finite(f"schedule({step})", attack.schedule(step), low=0.0)
                    finite("alpha", size, 0.0, torch.finfo(x.dtype).max)
                delta = project((delta + attack.step(gradient, x + delta, size)).to(x.dtype))
            if attack.keep == "best":
                with torch.no_grad():
                    kept = _better(values_of(delta), delta, best, kept)[1]
        if wrong.any():
            count, first = int((wrong > 0).sum()), int(wrong[wrong > 0].min())
            raise FloatingPointError(
                f"the loss's gradient in the images is NaN or infinite for {count} of {len(x)} "
                f"samples, first in step {first} of {attack.steps}"
            )
        return kept if attack.keep == "best" else delta

    def _logits(self, images: Tensor) -> Tensor:
        run = partial(self.precision.forward, partial(answer, self.model))
        output = self.scaled.through(run, images)
        if not self.checked and of_classes(self.loss):
            labels("y", self.y, len(images), logits(output, len(images)).shape[1])
        self.checked = True
        return output


def _better(values: Tensor, delta: Tensor, best: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    wins = values > best
    kept = torch.where(wins.view((-1,) + (1,) * (delta.ndim - 1)), delta, kept)
    return torch.where(wins, values, best), kept


@dataclass(frozen=True)
class PGA(PGD):
    """Projected gradient ascent, ``d <- project(d + alpha_t * grad)``, with the raw gradient of
    each sample's loss.

    This is what the lecture (Cevher 2024) calls PGA, a proximal gradient method for a smooth loss
    and the indicator of the set; ``alpha`` is a length per unit of gradient, ``1/L`` for a concave
    loss with ``L``-Lipschitz gradient.
    """

    def step(self, gradient: Tensor, images: Tensor, size: float) -> Tensor:
        """``size`` times the gradient itself."""
        return size * gradient


@dataclass(frozen=True)
class FGSM(PGD):
    """Fast gradient sign method (Goodfellow et al. 2015): ``project(eps * s(grad at 0))``; one
    step, no random start.

    ``s`` is that of :class:`PGD`, and so are its arguments ``eps, norm, loss, box, autocast``.
    """

    alpha: float = field(default=0.0, init=False)  # the one step has the length of the radius
    steps: int = field(default=1, init=False)
    random_start: bool = field(default=False, init=False)
    keep: str = field(default="last", init=False)
    schedule: None = field(default=None, init=False)

    def __post_init__(self) -> None:
        store(self, alpha=self.eps)
        super().__post_init__()


@dataclass(frozen=True)
class FAST(PGD):
    """FGSM from a random start (Wong et al. 2020): uniform start, one step of ``alpha``,
    projection.

    It takes ``eps, alpha, norm, loss, box, autocast`` (and ``random_start`` by name), as
    :class:`PGD` does; the default ``alpha = 10/255`` is 1.25 times ``eps``, as in that paper.
    """

    alpha: float = 10 / 255
    steps: int = field(default=1, init=False)
    random_start: bool = field(default=True, kw_only=True)
    keep: str = field(default="last", init=False)
    schedule: None = field(default=None, init=False)
