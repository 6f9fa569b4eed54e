"""Losses of samples and their flat gradients: the passes that every rule is made of.

A gradient is flat over the model's trainable parameters, in the order of
:func:`ddi.state.trainable`; one that the model does not use has gradient 0. The passes run in the
autocast that the caller has switched on, and nothing else does: from the logits on, all is in the
dtype of the images.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce

import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from ddi import _checks
from ddi.losses import Loss
from ddi.state import Precision, call, draws, eager, frozen, trainable

__all__ = ["Passes", "assign_gradient", "leaves_of", "passes"]


@contextmanager
def passes(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Iterator["Passes"]:
    """The passes of ``model`` for images like ``x`` with labels ``y``; inside, no autocast but
    theirs.

    Raises:
        ValueError: for images, labels, a model or a loss that cannot be used.
        RuntimeError: under ``torch.inference_mode``, which forbids derivatives.
    """
    _checks.labels("y", y, len(_checks.images("x", x)))
    _checks.one_device(x=x, y=y)
    _checks.function("loss", loss)
    if torch.is_inference_mode_enabled():
        raise RuntimeError("gradients cannot be taken in torch.inference_mode: use torch.no_grad")
    precision = Precision.of(x.device)
    with precision.algebra():
        yield Passes(model, loss, trainable(eager(model)), int(y.max()) + 1, precision)


@dataclass(frozen=True)
class Passes:
    """What :func:`passes` gives.

    Attributes:
        model, loss: as given. parameters: the trainable ones. classes: least number of them.
        precision: that of the caller.
    """

    model: nn.Module
    loss: Loss
    parameters: dict[str, nn.Parameter]
    classes: int
    precision: Precision

    @property
    def sizes(self) -> list[int]:
        """Number of entries of each parameter; their sum is the length of a flat gradient."""
        return [p.numel() for p in self.parameters.values()]

    def rows(self, *shape: int) -> Tensor:
        """Room for ``shape`` flat gradients, not filled."""
        parameters = list(self.parameters.values())
        dtype = reduce(torch.promote_types, [p.dtype for p in parameters])
        return torch.empty(*shape, sum(self.sizes), dtype=dtype, device=parameters[0].device)

    def flat(self) -> Tensor:
        """The parameters themselves, ``(d,)``."""
        return torch.cat([p.detach().flatten() for p in self.parameters.values()])

    def losses(
        self, images: Tensor, y: Tensor, parameters: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """One value a sample, ``(B,)``; with other tensors in place of the parameters, eagerly."""
        run = self.model if parameters is None else partial(call, eager(self.model), parameters)
        logits = _checks.logits(self.precision.forward(run, images), len(images))
        if logits.shape[1] < self.classes:
            top, classes = self.classes - 1, logits.shape[1]
            raise ValueError(f"y must be class labels from 0 to {classes - 1}, got {top}")
        values = self.loss(logits, y)
        one = isinstance(values, Tensor) and values.shape == (len(images),)
        if not one or not values.is_floating_point():
            wanted = f"one value a sample, a floating-point tensor of shape ({len(images)},)"
            raise ValueError(
                f"loss must return {wanted} (in torch's losses: reduction='none'), "
                f"got {_checks.shown(values)}"
            )
        return values

    def check_one_function(self, images: Tensor) -> None:
        """Refuse a model that, in eval mode, is not one function of the parameters that
        :func:`ddi.state.call` gives it: gradients a sample would be of different functions, or miss
        a part. Seen by one pass.

        Raises:
            ValueError: if it draws random numbers, or reaches a parameter by another way than as
                its module's.
        """
        model, images = eager(self.model), images[:2].detach().clone()
        with frozen(model):
            names = {id(p.requires_grad_()): name for name, p in self.parameters.items()}
            others = {name: p.requires_grad_() for name, p in self._detached().items()}
            found: list[Tensor] = []

            def run() -> None:
                found.append(self.precision.forward(partial(call, model, others), images))

            if draws(model, run):
                raise ValueError(
                    "model must draw no random numbers in eval mode for directions a sample, got "
                    "one that does (a dropout that is always on, noise in forward): each of its "
                    "passes is of another function"
                )
            leaves = leaves_of(_checks.logits(found[0], len(images)))
        given = set(map(id, others.values()))
        aside = [names.get(id(leaf), "one of none") for leaf in leaves if id(leaf) not in given]
        if aside:
            raise ValueError(
                "model must reach its trainable tensors as parameters of its modules, got one that "
                f"reaches {', '.join(sorted(aside))} by another way (a tuple or table, a closure, "
                "a module in a plain list), which directions a sample would miss"
            )

    def gradient(self, images: Tensor, y: Tensor, k: int, out: Tensor) -> Tensor:
        """Write the gradient of ``1/k`` times the sum of the losses into ``out``; return these."""
        # inside frozen this is undone on leaving; outside they have it already
        parameters = [p.requires_grad_() for p in self.parameters.values()]
        losses = _differentiable(self.losses(images, y))
        total = losses.sum() / k
        each = _checks.derivatives(total, parameters, zeros=True)
        for piece, one in zip(torch.split(out, self.sizes), each, strict=True):
            piece.view_as(one).copy_(one)
        return losses.detach()

    def part_gradients(self, images: Tensor, y: Tensor, k: int, out: Tensor) -> Tensor:
        """The same for each of ``len(out)`` consecutive parts of equal size, into the rows of
        ``out``: all at once by ``vmap``, or one after the other where the model has an operator
        that ``vmap`` does not know.
        """
        parts = len(out)
        try:
            return self._at_once(images, y, parts, k, out)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            size = len(images) // parts
            pairs = zip(torch.split(images, size), torch.split(y, size), out, strict=True)
            losses = torch.cat([self.gradient(some, labels, k, row) for some, labels, row in pairs])
            warnings.warn(
                "vmap does not know an operator of this model, so its parts are differentiated one "
                f"after the other: slower, and the same values ({_first_line(error)})",
                RuntimeWarning,
                stacklevel=2,
            )
            return losses

    def _at_once(self, images: Tensor, y: Tensor, parts: int, k: int, out: Tensor) -> Tensor:
        def value(
            parameters: dict[str, Tensor], some: Tensor, labels: Tensor
        ) -> tuple[Tensor, Tensor]:
            losses = _differentiable(self.losses(some, labels, parameters))
            return losses.sum(), losses

        pieces = (v.view(parts, -1, *v.shape[1:]) for v in (images, y))
        with _plain_kernels():
            every = vmap(grad(value, has_aux=True), in_dims=(None, 0, 0))
            each, losses = every(self._detached(), *pieces)
        for piece, one in zip(torch.split(out, self.sizes, 1), each.values(), strict=True):
            torch.div(one.flatten(1), k, out=piece)
        return losses.flatten()

    def along(self, images: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """The losses, and their slopes ``<w, grad L_i>``, both ``(B,)``: one forward-mode pass,
        without autocast, which has no forward mode for convolutions.

        Raises:
            ValueError: if the model has an operator without forward-mode derivative.
        """
        parameters = self._detached()
        parts = zip(parameters.items(), torch.split(w, self.sizes), strict=True)
        tangent = {name: part.view_as(p).to(p) for (name, p), part in parts}
        plain = replace(self, precision=replace(self.precision, low=False))
        try:
            with _plain_kernels():
                both = jvp(partial(plain.losses, images, y), (parameters,), (tangent,))
            values, slopes = both[:2]
            return values, slopes
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.losses(images, y)  # the model's own errors come out as they are
            raise ValueError(
                'method must be "chunks" or "gram" for this model, got "matrix-free": it needs '
                f"forward-mode derivatives, and an operator has none ({_first_line(error)})"
            ) from error

    def _detached(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.parameters.items()}


def assign_gradient(model: nn.Module, flat: Tensor) -> None:
    """Put a flat gradient into ``.grad`` of the trainable parameters, in their order; the others'
    stay as they are.

    Raises:
        ValueError: if its length is not the number of trainable parameters, or it is not finite.
    """
    parameters = trainable(model).values()
    sizes = [p.numel() for p in parameters]
    _checks.float_tensor("flat", flat, shape=(sum(sizes),))
    for parameter, part in zip(parameters, torch.split(flat.detach(), sizes), strict=True):
        # in the parameter's order in memory, too
        parameter.grad = torch.empty_like(parameter).copy_(part.view_as(parameter))


def leaves_of(output: Tensor) -> list[Tensor]:
    """The trainable tensors that the graph of ``output`` begins with."""
    found, seen, left = [], set(), [output.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [following for following, _ in node.next_functions]
            if (leaf := getattr(node, "variable", None)) is not None:
                found.append(leaf)
    return found


def _differentiable(losses: Tensor) -> Tensor:
    """The losses, if a derivative is to be had of them; ``grad`` would take 0 for it."""
    if not losses.requires_grad:
        raise ValueError("loss must depend on a trainable parameter of model, got none")
    return losses


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Attention of plain operations, which forward mode and ``vmap`` know, not of fused ones."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            # torch's own decompositions for forward mode still use torch.jit.script
            warnings.filterwarnings("ignore", message=".*torch.jit", category=Warning)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:160]
