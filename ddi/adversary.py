"""What an attack is, to whoever calls one: a method or a function ``(model, x, y) -> delta``."""

import inspect
from collections.abc import Callable, Sequence
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
RETURNED = "what the attack returns"

__all__ = ["ALL", "Attack", "AttackLike", "as_attack", "attack_like"]


class Attack:
    """What rules, evaluation and trainer call. A subclass defines ``__call__``, and has restarts
    from it, or the other way round. One that is not of this package is called as a function is
    (:func:`as_attack`).
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
    """The attack behind ``thing``: one of this package itself, and a callable ``(model, x, y) ->
    delta`` or a user's subclass of :class:`Attack` within what every user's attack needs.

    It is called on copies of the images and labels, with the model in eval mode and left as found;
    what it returns is checked, of ``restarts`` too. A callable that has an argument named
    ``generator`` is given it. It returns perturbations: a function that returns images (as those of
    torchattacks do) needs ``- x`` behind it.

    Raises:
        ValueError: if ``thing`` cannot be called so, or (when it is called) if it does not return
            a floating-point tensor of the images' shape, or images instead of perturbations.
        FloatingPointError: if what it returns is not finite.
    """
    attack_like("attack", thing)
    own = thing if isinstance(thing, Attack) else _Function(thing)
    ours = own is thing and type(own).__module__.startswith("ddi.")
    return own if ours else _Guarded(own)


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
        takes = {"generator": generator} if _takes_generator(self.run) else {}
        delta: Tensor = self.run(model, x, y, **takes)
        return delta


@dataclass(frozen=True)
class _Guarded(Attack):
    """A user's attack, whatever it overrides; its attributes are this one's. Of calls and restarts
    those count that a user wrote: the other is made of them, and not what the parent had.
    """

    own: Attack

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "own":  # also while a copy is being made
            raise AttributeError(name)
        return getattr(self.own, name)

    def _rank(self, name: str) -> int:
        """How many classes are between the attack's and the one that defines the method."""
        return [name in vars(kind) for kind in type(self.own).__mro__].index(True)

    @property
    def passes(self) -> int:
        return self.own.passes

    def passes_for(self, classes: int) -> int:
        return self.own.passes_for(classes)

    def __call__(
        self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        if self._rank("restarts") < self._rank("__call__"):
            return self.restarts(model, x, y, 1, generator)[0]

        def run(x: Tensor, y: Tensor) -> Tensor:
            return _tensor(self.own(model, x, y, generator), x.shape)[None]

        return _guarded(run, model, x, y, generator)[0]

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
        if self._rank("__call__") < self._rank("restarts"):  # each call on what was given
            return super().restarts(model, x, y, m, generator, batch_size, only)
        m, size = sizes(m, batch_size, only)

        def run(x: Tensor, y: Tensor) -> Tensor:
            deltas = self.own.restarts(model, x, y, m, generator, batch_size=size, only=only)
            return _tensor(deltas, (m, *chosen(x, only).shape))

        return _guarded(run, model, x, y, generator, only)


def _guarded(
    run: Callable[[Tensor, Tensor], Tensor],
    model: Model,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator | None,
    only: slice = ALL,
) -> Tensor:
    """``run`` on copies, ``(m, *x[only].shape)``, detached, in the dtype of ``x``."""
    network("model", model)
    float_tensor("x", x, 2)
    one_device(x=x, y=batch_of("y", y, len(x)))
    random_source("generator", generator, x.device)
    with frozen(model):
        deltas = run(x.detach().clone(), y.detach().clone()).detach()
    one_device(x=x, delta=deltas)
    if not deltas.isfinite().all():
        raise FloatingPointError(f"{RETURNED} must be finite, got NaN or infinite entries")
    if any(_images(chosen(x.detach(), only), delta) for delta in deltas):
        raise ValueError(
            f"{RETURNED} must be perturbations, got what looks like images: return images - x"
        )
    return deltas.to(x.dtype)


def _tensor(deltas: Any, shape: Sequence[int]) -> Tensor:
    return float_tensor(RETURNED, deltas, shape=tuple(shape), all_finite=False)


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
