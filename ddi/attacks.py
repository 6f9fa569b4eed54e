"""Attacks: approximate maximisers of ``L(theta, x + d, y)`` over the threat set ``S(x)``.

An attack is an object called as ``attack(model, x, y, generator=None) -> delta``; it maximises
every sample's loss separately and returns ``delta`` of ``x``'s shape, detached and inside the set.
The model comes back as it was.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddi.threat import Box, Projection, Threat, number, threat_model, whole

Loss = Callable[[Tensor, Tensor], Tensor]
Model = Callable[[Tensor], Tensor]
ALL = slice(None)

__all__ = [
    "FAST",
    "FGSM",
    "PGA",
    "PGD",
    "Attack",
    "cross_entropy",
    "frozen",
    "inverse_time",
    "margin_loss",
]


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
    return logits.masked_fill(true, -torch.inf).amax(1) - logits.gather(1, labels[:, None]).squeeze(
        1
    )


def inverse_time(start: int = 8) -> Callable[[int], float]:
    """Step schedule ``1 / max(1, step - start + 1)``, steps counted from 1 (the paper's "PGD-70 -
    1/t", section 5.3).
    """
    whole("start", start)

    def schedule(step: int) -> float:
        return 1.0 / max(1, step - start + 1)

    schedule.__name__ = f"inverse_time({start})"
    return schedule


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """Evaluate in eval mode without weight gradients; on leaving, also by an exception, restore
    everything.

    Restored are every submodule's training flag, every parameter's ``requires_grad`` and ``.grad``
    and every buffer.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(m, m.training) for m in model.modules()]
    params = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    buffers = [
        (m, n, b, b.clone())
        for m in model.modules()
        for n, b in m._buffers.items()
        if b is not None
    ]
    try:
        model.eval()
        for p, _, _ in params:
            p.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for p, requires, grad in params:
            p.requires_grad_(requires)
            p.grad = grad
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer.copy_(value)


def check_labels(labels: Tensor, batch: int, classes: int | None = None) -> None:
    """Raise ``ValueError`` unless ``labels`` has ``batch`` entries and, given ``classes``, lies in
    ``0 ... classes - 1``.
    """
    if not isinstance(labels, Tensor) or labels.shape[:1] != (batch,):
        raise ValueError(
            f"labels must have length {batch}, got {tuple(getattr(labels, 'shape', ()))}"
        )
    if classes is None:
        return
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise ValueError(
            f"labels must be int64 of shape ({batch},), got {labels.dtype} {tuple(labels.shape)}"
        )
    low, high = labels.min().item(), labels.max().item()
    if low < 0 or high >= classes:
        raise ValueError(f"labels must lie in 0 ... {classes - 1}, got {low} ... {high}")


class Attack:
    """A start, and ``steps`` ascent steps each followed by a projection. Subclasses are the attacks
    of the field.
    """

    eps: float
    alpha: float
    steps: int
    random_start: bool
    norm: str
    loss: Loss
    box: Box
    keep: str
    schedule: Callable[[int], float] | None

    def __post_init__(self) -> None:
        self.threat  # noqa: B018  (checks eps, norm and box)
        number("alpha", self.alpha)
        whole("steps", self.steps)
        if self.keep not in ("last", "best"):
            raise ValueError(f'keep must be "last" or "best", got {self.keep!r}')
        for name in ("loss", "schedule"):
            value = getattr(self, name)
            if not callable(value) and not (name == "schedule" and value is None):
                raise ValueError(f"{name} must be callable, got {value!r}")

    @property
    def threat(self) -> Threat:
        """The set that the perturbations are chosen from."""
        return threat_model(self.norm, self.eps, self.box)

    def _direction(self, gradient: Tensor) -> Tensor:
        """What an ascent step adds, before ``alpha``: the unit step of the norm."""
        return self.threat.steepest(gradient)

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
            ``delta``, of ``x``'s shape and dtype, detached, inside ``S(x)``.

        Raises:
            ValueError: for an empty or non-finite batch, images outside the box, labels of wrong
                length or range.
        """
        self.threat.check(x)
        check_labels(y, x.shape[0])
        project = self.threat.projection(x.detach())
        return self._ascend(
            model, x.detach(), y, self._start(x.detach(), generator, project), project
        )

    def restarts(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        m: int,
        generator: torch.Generator | None = None,
        chunk: int | None = None,
        part: slice = ALL,
    ) -> Tensor:
        """``m`` perturbations a sample from independent random starts, in one batched call of ``m *
        B`` samples.

        Args:
            m: number of restarts, ``>= 1``.
            chunk: largest number of samples in one forward pass. It bounds memory and changes no
                random number. By default all ``m * B`` on a GPU, and on the CPU 96 images of
                CIFAR's size: the memory of larger layers goes back to the system after every use,
                and costs page faults.
            part: attack these samples of the batch only, but draw the random starts of all, so that
                several processes that share a batch see the numbers that one would.

        Returns:
            Tensor of shape ``(m, *x[part].shape)``.
        """
        whole("m", m)
        if chunk is not None:
            whole("chunk", chunk)
        self.threat.check(x)
        check_labels(y, x.shape[0])
        start = self._start(x.detach().repeat(m, *[1] * (x.ndim - 1)), generator)
        start, x, y = start.view(m, *x.shape)[:, part].flatten(0, 1), x.detach()[part], y[part]
        many, labels = x.repeat(m, *[1] * (x.ndim - 1)), y.repeat(m, *[1] * (y.ndim - 1))
        most = chunk or (len(many) if x.is_cuda else max(1, 96 * 3072 // x[0].numel()))
        size = -(-len(many) // -(-len(many) // most))  # pieces of one size, or nearly
        pieces = zip(many.split(size), labels.split(size), start.split(size), strict=True)
        found = [self._ascend(model, *piece, self.threat.projection(piece[0])) for piece in pieces]
        return torch.cat(found).view(m, *x.shape)

    def _start(
        self, x: Tensor, generator: torch.Generator | None, project: Projection | None = None
    ) -> Tensor:
        return (
            self.threat.sample(x, generator, project) if self.random_start else torch.zeros_like(x)
        )

    def _ascend(
        self, model: Model, x: Tensor, y: Tensor, delta: Tensor, project: Projection
    ) -> Tensor:
        attacked = getattr(model, "attacked", model)
        best = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        kept = delta
        with frozen(model), torch.enable_grad():
            for step in range(1, self.steps + 1):
                delta.requires_grad_(True)
                values = self._values(attacked, x + delta, y, check=step == 1)
                (gradient,) = torch.autograd.grad(values.sum(), delta)
                delta = delta.detach()
                if self.keep == "best":
                    best, kept = _better(values.detach(), delta, best, kept)
                size = self.alpha * (self.schedule(step) if self.schedule else 1.0)
                delta = project(delta.add_(self._direction(gradient), alpha=size))
            if self.keep == "last":
                return delta
            with torch.no_grad():
                return _better(self._values(attacked, x + delta, y), delta, best, kept)[1]

    def _values(self, model: Model, images: Tensor, y: Tensor, check: bool = False) -> Tensor:
        logits = model(images)
        if check and self.loss in (cross_entropy, margin_loss):
            if logits.ndim != 2:
                raise ValueError(
                    f"model must return logits of shape (B, C), got {tuple(logits.shape)}"
                )
            check_labels(y, len(images), logits.shape[1])
        values = self.loss(logits, y)
        if values.shape != (len(images),):
            raise ValueError(
                f"loss must return one value a sample, ({len(images)},), got {tuple(values.shape)}"
            )
        return values


def _better(values: Tensor, delta: Tensor, best: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    wins = values > best
    return torch.where(wins, values, best), torch.where(
        wins.view((-1,) + (1,) * (delta.ndim - 1)), delta, kept
    )


@dataclass(frozen=True)
class PGD(Attack):
    """Iterated FGSM with a random start: the adversary of Madry et al. (2018) and Kurakin et al.
    (2017).

    ``d <- project(d + alpha_t * s(grad))`` where ``s`` is the sign (``"Linf"``) or the gradient
    divided by its norm (``"L2"``), and ``alpha_t = alpha * schedule(t)`` for steps ``t = 1 ...
    steps``. From a corner of the ball to the opposite one it is ``2 * eps``: with ``alpha * steps <
    2 * eps`` a random start is not forgotten.

    Args:
        eps: radius of the ball. alpha: step length, in the same units. steps: number of steps, ``>=
            1``.
        random_start: start uniformly in the ball, clipped to the box; otherwise at 0.
        norm: ``"Linf"`` or ``"L2"``. loss: ``loss(logits, labels)`` with one value a sample.
        box: range of the images, or ``None``. keep: ``"last"`` iterate, or the ``"best"`` of all, a
            sample at a time.
        schedule: multiplier of ``alpha`` by step, counted from 1, or ``None`` for 1.
    """

    eps: float = 8 / 255
    alpha: float = 2 / 255
    steps: int = 7
    random_start: bool = True
    norm: str = "Linf"
    loss: Loss = cross_entropy
    box: Box = (0.0, 1.0)
    keep: str = "last"
    schedule: Callable[[int], float] | None = None


@dataclass(frozen=True)
class PGA(PGD):
    """Projected gradient ascent, ``d <- project(d + alpha_t * grad)``, with the raw gradient of
    each sample's loss.

    This is what the lecture (Cevher 2024) calls PGA, a proximal gradient method for a smooth loss
    and the indicator of the set; ``alpha`` is a length per unit of gradient, ``1/L`` for a concave
    loss with ``L``-Lipschitz gradient.
    """

    def _direction(self, gradient: Tensor) -> Tensor:
        return gradient


@dataclass(frozen=True)
class FGSM(Attack):
    """Fast gradient sign method (Goodfellow et al. 2015): ``project(eps * s(grad at 0))``; one
    step, no random start.

    ``s`` is the sign (``"Linf"``) or the normalised gradient (``"L2"``). Arguments as for
    :class:`PGD`.
    """

    eps: float = 8 / 255
    norm: str = "Linf"
    loss: Loss = cross_entropy
    box: Box = (0.0, 1.0)

    steps, random_start, keep, schedule = 1, False, "last", None

    @property
    def alpha(self) -> float:  # type: ignore[override]
        """The one step has the length of the radius."""
        return self.eps


@dataclass(frozen=True)
class FAST(Attack):
    """FGSM from a random start (Wong et al. 2020): uniform start, one step of ``alpha``,
    projection.

    Arguments as for :class:`PGD`; the default ``alpha = 10/255`` is 1.25 times ``eps``, as in that
    paper.
    """

    eps: float = 8 / 255
    alpha: float = 10 / 255
    norm: str = "Linf"
    loss: Loss = cross_entropy
    box: Box = (0.0, 1.0)
    random_start: bool = True

    steps, keep, schedule = 1, "last", None
