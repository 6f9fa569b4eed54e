"""What an attack is, to whoever calls one: a method or a function ``(model, x, y) -> delta``."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddi._checks import (
    batch_of,
    float_tensor,
    function,
    instance,
    network,
    one_device,
    positive_int,
    random_source,
    refuse,
)
from ddi.state import Model, frozen

ALL = slice(None)

__all__ = ["ALL", "Attack", "AttackLike", "as_attack", "attack_like"]


class Attack:
    """What rules, evaluation and trainer call. A subclass defines ``__call__``, and has restarts
    from it.
    """

    @property
    def passes(self) -> int:
        """Forward-and-backward passes of the batch that one call takes; 0 where that is unknown."""
        return 0

    def passes_for(self, classes: int) -> int:
        """The same, on a model of so many classes."""
        return self.passes

    def __call__(
        self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Perturbations of ``x``, of its shape and dtype, detached and finite."""
        raise NotImplementedError

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
        """``m`` calls on ``x[only]``, ``(m, *x[only].shape)``; arguments as for
        :meth:`ddi.attacks.PGD.restarts`.
        """
        m, batch_size = sizes(m, batch_size, only)
        x, y = chosen(x, only), y[only]
        batches = list(zip(*(torch.split(t, batch_size or len(x)) for t in (x, y)), strict=True))
        each = [torch.cat([self(model, a, b, generator) for a, b in batches]) for _ in range(m)]
        return torch.stack(each)


AttackLike = Attack | Callable[..., Tensor]


def as_attack(thing: AttackLike) -> Attack:
    """The attack behind ``thing``: itself, or a callable ``(model, x, y) -> delta`` as an attack.

    A callable that has an argument named ``generator`` is given it. It is called on copies of the
    images and labels, with the model in eval mode and left as found; what it returns is checked.
    It returns perturbations: a function that returns images (as those of torchattacks do) needs
    ``- x`` behind it.

    Raises:
        ValueError: if ``thing`` cannot be called so, or (when it is called) if it does not return
            a floating-point tensor of the images' shape, or images instead of perturbations.
        FloatingPointError: if what it returns is not finite.
    """
    attack_like("attack", thing)
    return thing if isinstance(thing, Attack) else _Function(thing)


def attack_like(name: str, thing: AttackLike) -> AttackLike:
    """``thing``, if it takes what an attack is given; where its signature says that it does not,
    ``ValueError`` at the door, so that a ``TypeError`` of a call is one of the code inside.
    """
    own = isinstance(function(name, thing), Attack)
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):  # one that is written in C and does not say
        return thing
    words = ("model", "x", "y", "generator")[: 4 if own else 3]
    takes = {} if own or "generator" not in signature.parameters else {"generator": None}
    try:
        signature.bind(*words, **takes)
    except TypeError:
        takers = f"callable as ({', '.join(words)}) -> delta"
        raise ValueError(f"{name} must be {takers}, got one of {signature}") from None
    return thing


@dataclass(frozen=True)
class _Function(Attack):
    run: Callable[..., Any]

    def __call__(
        self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        network("model", model)
        float_tensor("x", x, 2)
        one_device(x=x, y=batch_of("y", y, len(x)))
        random_source("generator", generator, x.device)
        takes = {"generator": generator} if _takes_generator(self.run) else {}
        with frozen(model):
            delta = self.run(model, x.detach().clone(), y.detach().clone(), **takes)
        name = "what the attack returns"
        float_tensor(name, delta, shape=tuple(x.shape), all_finite=False)
        one_device(x=x, delta=delta)
        if not delta.isfinite().all():
            raise FloatingPointError(f"{name} must be finite, got NaN or infinite entries")
        if _images(x, delta.detach()):
            raise ValueError(
                f"{name} must be perturbations, got what looks like images: return images - x"
            )
        return delta.detach().to(x.dtype)


def _images(x: Tensor, delta: Tensor) -> bool:
    """Whether ``delta`` holds images in [0, 1]: nearer to ``x`` than to 0, and out of the box if
    added to it.
    """
    inside = all(bool(((0 <= t) & (t <= 1)).all()) for t in (x, delta))
    return inside and bool((x + delta).max() > 1.001) and (delta - x).norm() < 0.75 * delta.norm()


def _takes_generator(function: Callable[..., Any]) -> bool:
    try:
        return "generator" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # one that is written in C and does not say
        return False


def sizes(m: Any, batch_size: Any, only: Any) -> tuple[int, int | None]:
    instance("only", only, slice)
    size = None if batch_size is None else positive_int("batch_size", batch_size)
    return positive_int("m", m), size


def chosen(x: Tensor, only: slice) -> Tensor:
    if not len(x[only]):
        refuse("only", f"a slice that holds one of the {len(x)} samples", only)
    return x[only]


def usable(tensor: Tensor) -> Tensor:
    """Without its graph; a tensor made under ``inference_mode`` as a copy that autograd knows."""
    tensor = tensor.detach()
    return tensor.clone() if tensor.is_inference() else tensor
