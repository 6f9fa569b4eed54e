"""What attacks maximise and rules descend on: losses of logits and labels, and objectives, which
see more than logits; one value a sample.
"""

from collections.abc import Callable
from functools import partial, wraps

import torch
from torch import Tensor, nn

from ddi import _checks
from ddi.coupling import coupled
from ddi.state import Precision

Loss = Callable[[Tensor, Tensor], Tensor]
Network = Callable[[Tensor], Tensor]
Inner = Callable[[Tensor], Tensor]

__all__ = [
    "OF_LOGITS",
    "Inner",
    "Loss",
    "LossLike",
    "Named",
    "Network",
    "Objective",
    "Scaled",
    "cross_entropy",
    "inner",
    "loss_like",
    "margin_loss",
    "narrow",
    "of_classes",
    "rise",
]

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
    fooled. Arguments and errors as for :func:`ddi.losses.cross_entropy`.
    """
    true = labels[:, None] == torch.arange(logits.shape[1], device=labels.device)
    other = logits.masked_fill(true, -torch.inf).amax(1)
    return other - logits.gather(1, labels[:, None]).squeeze(1)


OF_LOGITS = (cross_entropy, margin_loss)


class Named:
    """What a record calls by a word and its numbers, ``trades(6)``; things of one name are equal.

    Attributes:
        word: of the class. numbers: of this one, plain finite numbers.
    """

    word = ""
    numbers: tuple[float, ...] = ()

    @property
    def __name__(self) -> str:
        numbers = [int(v) if float(v).is_integer() and abs(v) < 1e15 else v for v in self.numbers]
        word = self.word or type(self).__qualname__
        return f"{word}({', '.join(map(repr, numbers))})" if numbers else word

    def __repr__(self) -> str:
        return self.__name__

    def __eq__(self, other: object) -> bool:
        same = type(self) is type(other) and type(self).__module__.startswith("ddi.")
        return self is other or (same and self.numbers == getattr(other, "numbers", None))

    def __hash__(self) -> int:
        return hash((type(self), self.numbers))


class Objective(Named):
    """A loss that sees more than the perturbed images' logits; it stands wherever a loss does.

    A subclass defines :meth:`inner`. It must be made of operations that ``vmap`` and forward mode
    know (no ``one_hot``, no look at values).

    Attributes:
        passes: forward-and-backward passes of the batch that its gradient in the parameters takes.
    """

    passes = 1

    def inner(self, model: Network, x: Tensor, y: Tensor) -> Inner:
        """The inner problem of a batch: a function of ``delta``, of ``x``'s shape, with one value a
        sample, ``(B,)``. What does not depend on ``delta`` is computed once, here.

        Args:
            model: from images to logits ``(B, C)``. x: images ``(B, ...)``. y: int64 labels
                ``(B,)`` in ``0 ... C-1``.
        """
        raise NotImplementedError


LossLike = Loss | Objective


def loss_like(name: str, value: LossLike) -> LossLike:
    """A loss: an objective, or a function of logits and labels.

    Raises:
        ValueError: for anything else, also for a class of either.
    """
    return value if isinstance(value, Objective) else _checks.function(name, value)


def inner(loss: LossLike, model: Network, x: Tensor, y: Tensor) -> Inner:
    """``delta -> (B,)``, whatever kind of loss that is: for a function of logits and labels
    ``delta -> loss(model(x + delta), y)``. The model may write into the images that it is given.

    Raises:
        ValueError: when it is called, if it does not return one value a sample.
    """
    if isinstance(loss, Objective):
        # on copies: a model that normalises in place would change the images for the next pass
        values_of = loss.inner(lambda images: model(images.clone()), x, y)
        return lambda delta: _one_each(values_of(delta), len(x))
    return lambda delta: _one_each(loss(model(x + delta), y), len(x))


def _one_each(values: Tensor, count: int) -> Tensor:
    one = isinstance(values, Tensor) and values.shape == (count,)
    if not one or not values.is_floating_point():
        wanted = f"one value a sample, a floating-point tensor of shape ({count},)"
        raise ValueError(
            f"loss must return {wanted} (in torch's losses: reduction='none'), "
            f"got {_checks.shown(values)}"
        )
    return values


def of_classes(loss: LossLike) -> bool:
    """Whether the loss compares logits with classes; one of a user's own may do otherwise."""
    return isinstance(loss, Objective) or loss in OF_LOGITS


def rise(values_of: Inner, delta: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """Losses ``(B,)``, and their gradients in the perturbations, of ``delta``'s shape; detached
    from the parameters unless a graph is to be created.

    Raises:
        ValueError: if nothing leads from the losses back to the images.
    """
    delta = delta.detach().requires_grad_(True)
    values, gradient = values_of(delta), None
    if values.requires_grad:
        (gradient,) = _checks.derivatives(values.sum(), [delta], create_graph=create_graph)
    if gradient is None:
        raise ValueError(
            "loss(model(x), y) must be differentiable in x, got one without a path back to the "
            "images (a detach, an argmax or a no_grad in the model?)"
        )
    return (values if create_graph else values.detach()), gradient


def narrow(model: object, precision: Precision, images: Tensor) -> bool:
    """Whether a backward pass is in float16, which has no numbers below 6e-8: by the autocast, the
    images or the weights.
    """
    held = {p.dtype for p in model.parameters()} if isinstance(model, nn.Module) else set()
    return torch.float16 in held | {images.dtype, precision.dtype if precision.low else None}


class Scaled:
    """Gradients in the images that float16 does not lose (in other dtypes nothing is done): what
    comes into the network at the logits is multiplied by a power of two, a sample at a time, and
    what comes out at the images is divided by it again, in float32.

    Args:
        model: in eval mode. Where a sample's logits depend on the others (statistics of the batch),
            and where that cannot be asked (a ``lambda``), all samples have one power: a gradient
            holds the others' losses. precision: of the passes. x: the images of a batch.

    Attributes:
        wide: the dtype of losses and gradients.
    """

    def __init__(self, model: object, precision: Precision, x: Tensor) -> None:
        self.on, self.dtype = narrow(model, precision, x), x.dtype
        self.together = self.on and (
            not isinstance(model, nn.Module) or coupled(model, partial(precision.forward, model), x)
        )
        self.wide = torch.promote_types(x.dtype, torch.float32) if self.on else x.dtype
        self.top = torch.full((len(x),), 5, device=x.device)  # largest entry at the logits, log2

    def through(self, run: Network, images: Tensor) -> Tensor:
        """``run(images)``, to be differentiated in the images alone."""
        if not self.on:
            return run(images)
        powers: list[Tensor] = []

        def grow(gradient: Tensor) -> Tensor:
            largest = gradient.abs().reshape(len(gradient), -1).amax(1)
            each = (self.top - torch.frexp(largest).exponent).clamp(-126, 126)
            each = each.amin().expand_as(each) if self.together else each
            powers[:] = [torch.ones_like(largest).ldexp(each)]
            return gradient * _along(powers[0], gradient)

        def shrink(gradient: Tensor) -> Tensor:
            return gradient / _along(powers[0], gradient)

        images = images.to(self.wide, copy=True)
        if images.requires_grad:
            images.register_hook(shrink)  # type: ignore[no-untyped-call]
        logits = run(images.to(self.dtype, copy=True))
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            return logits  # whoever checks must see it
        logits = logits.to(self.wide, copy=True)
        if logits.requires_grad:
            logits.register_hook(grow)  # type: ignore[no-untyped-call]
        return logits

    def rise(self, values_of: Inner, delta: Tensor) -> tuple[Tensor, Tensor]:
        """As :func:`rise`; a sample whose gradient overflows is tried again with smaller powers."""
        while True:
            values, gradient = rise(values_of, delta.to(self.wide))
            if not self.on:
                return values, gradient
            bad = ~gradient.flatten(1).abs().amax(1).isfinite() & (self.top > -19)
            if not bad.any():
                return values, gradient
            self.top = torch.where(bad | self.together, self.top - 8, self.top)


def _along(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))
