"""Losses of samples and their flat gradients: the passes that every rule is made of.

A gradient is flat over the model's trainable parameters, in the order of
:func:`ddi.state.trainable`; one that the model does not use has gradient 0. The passes run in the
autocast that the caller has switched on, and nothing else does: from the logits on, all is in the
dtype of the images (for float16 in float32). Passes in float16 are scaled, so that small gradients
are not lost.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial, reduce

import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from ddi import _checks
from ddi.adversary import AttackLike
from ddi.losses import Inner, LossLike, Objective, cross_entropy, inner, loss_like, narrow
from ddi.objectives import Penalty
from ddi.parallel import total, world
from ddi.state import Precision, call, eager, once, trainable
from ddi.threat import Threat

__all__ = [
    "Passes",
    "Shift",
    "columns",
    "move",
    "passes",
]


@contextmanager
def passes(model: nn.Module, x: Tensor, y: Tensor, loss: LossLike) -> Iterator["Passes"]:
    """The passes of ``model`` for images like ``x`` with labels ``y``; inside, no autocast but
    theirs.

    Raises:
        ValueError: for images, labels, a model or a loss that cannot be used.
        RuntimeError: under ``torch.inference_mode``, which forbids derivatives.
    """
    _checks.labels("y", y, len(_checks.images("x", x)))
    _checks.one_device(x=x, y=y)
    loss_like("loss", loss)
    for name, tensor in (("x", x), ("y", y)):
        if tensor.is_inference():
            raise ValueError(
                f"{name} must be a tensor that autograd can keep, got one made under "
                "torch.inference_mode: clone it outside"
            )
    if torch.is_inference_mode_enabled():
        raise RuntimeError("gradients cannot be taken in torch.inference_mode: use torch.no_grad")
    precision = Precision.of(x.device)
    with precision.algebra():
        parameters, classes = trainable(eager(model)), int(y.max()) + 1
        yield Passes(model, loss, parameters, classes, precision, narrow(model, precision, x))


@dataclass(frozen=True)
class Passes:
    """What :func:`passes` gives.

    Attributes:
        model, loss: as given. parameters: the trainable ones. classes: least number of them.
        precision: that of the caller. narrow: whether backward passes are in float16.
    """

    model: nn.Module
    loss: LossLike
    parameters: dict[str, nn.Parameter]
    classes: int
    precision: Precision
    narrow: bool

    @property
    def sizes(self) -> list[int]:
        """Number of entries of each parameter; their sum is the length of a flat gradient."""
        return [p.numel() for p in self.parameters.values()]

    def rows(self, *shape: int) -> Tensor:
        """Room for ``shape`` flat gradients, not filled."""
        parameters = list(self.parameters.values())
        dtype = reduce(torch.promote_types, [p.dtype for p in parameters])
        dtype = torch.float32 if dtype == torch.float16 else dtype  # of a range for gradients
        return torch.empty(*shape, sum(self.sizes), dtype=dtype, device=parameters[0].device)

    def flat(self) -> Tensor:
        """The parameters themselves, ``(d,)``."""
        return torch.cat([p.detach().flatten() for p in self.parameters.values()], out=self.rows())

    def scales(self, k: int) -> tuple[float, ...]:
        """By what to multiply a mean over ``k`` losses before its backward pass, and divide the
        gradient after it, the first that does not overflow: in float16, which has no numbers below
        6e-8, small gradients would be 0.
        """
        if not self.narrow:
            return (1.0,)
        return tuple(2.0 ** (power + k.bit_length() - 1) for power in (9, 1, -7))

    def inner(self, x: Tensor, y: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Inner:
        """The inner problem ``delta -> (B,)`` of the batch; with other tensors in place of the
        parameters, eagerly.
        """
        run = self.model if parameters is None else partial(call, eager(self.model), parameters)

        def network(images: Tensor) -> Tensor:
            logits = _checks.logits(self.precision.forward(run, images), len(images))
            if logits.shape[1] < self.classes:
                top, classes = self.classes - 1, logits.shape[1]
                raise ValueError(f"y must be class labels from 0 to {classes - 1}, got {top}")
            return logits.float() if logits.dtype == torch.float16 else logits

        return inner(self.loss, network, x, y)

    def losses(self, x: Tensor, delta: Tensor, y: Tensor) -> Tensor:
        """One value a sample, ``(B,)``."""
        return self.inner(x, y)(delta)

    def gradient(self, x: Tensor, delta: Tensor, y: Tensor, k: int, out: Tensor) -> Tensor:
        """Write the gradient of ``1/k`` times the sum of the losses into ``out``; return these."""
        return self.gradient_of(lambda: self.losses(x, delta, y), k, out)

    def gradient_of(self, values: Callable[[], Tensor], k: int, out: Tensor) -> Tensor:
        """The same for any values ``(B,)`` that depend on the parameters."""
        # inside frozen this is undone on leaving; outside they have it already
        parameters = [p.requires_grad_() for p in self.parameters.values()]
        with once(self.model) if self.narrow else nullcontext() as again:
            for scale in self.scales(k):
                found = _differentiable(values())
                each = _checks.derivatives(found.sum() * scale / k, parameters, zeros=True)
                for piece, one in zip(torch.split(out, self.sizes), each, strict=True):
                    piece.view_as(one).copy_(one.to_dense())  # sparse: embeddings
                if again is None or out.div_(scale).isfinite().all():
                    break
                again()
        return found.detach()

    def group_gradients(self, x: Tensor, delta: Tensor, y: Tensor, k: int, out: Tensor) -> Tensor:
        """The same as :meth:`gradient` for each of ``len(out)`` consecutive groups of equal size,
        into the rows of ``out``: all at once by ``vmap``, or one after the other where the model
        has an operator that ``vmap`` does not know.
        """
        try:
            return self._at_once(x, delta, y, k, out)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            pieces = (torch.split(v, len(x) // len(out)) for v in (x, delta, y))
            each = zip(*pieces, out, strict=True)
            losses = torch.cat([self.gradient(a, d, b, k, row) for a, d, b, row in each])
            warnings.warn(
                "vmap does not know an operator of this model, so groups are differentiated one "
                f"after the other: slower, and the same values ({_first_line(error)})",
                RuntimeWarning,
                stacklevel=2,
            )
            return losses

    def _at_once(self, x: Tensor, delta: Tensor, y: Tensor, k: int, out: Tensor) -> Tensor:
        def value(
            parameters: dict[str, Tensor], some: Tensor, moved: Tensor, labels: Tensor
        ) -> tuple[Tensor, Tensor]:
            losses = _differentiable(self.inner(some, labels, parameters)(moved))
            return (losses.sum() * scale if self.narrow else losses.sum()), losses

        pieces = [v.reshape(len(out), -1, *v.shape[1:]) for v in (x, delta, y)]
        for scale in self.scales(1):
            with _unfused():
                every = vmap(grad(value, has_aux=True), in_dims=(None, 0, 0, 0))
                each, losses = every(self.detached(), *pieces)
            for piece, one in zip(torch.split(out, self.sizes, 1), each.values(), strict=True):
                torch.div(one.reshape(len(out), -1).to(piece), k * scale, out=piece)
            if not self.narrow or out.isfinite().all():
                break
        return losses.flatten()

    def along(self, x: Tensor, delta: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """The losses, and their slopes ``<w, grad L_i>``, both ``(B,)``: one forward-mode pass,
        without autocast, which has no forward mode for convolutions. Hooks on the gradients of
        activations have no say in it, as they have in a backward pass.

        Raises:
            ValueError: if the model has an operator without forward-mode derivative.
        """
        parameters = self.detached()
        pieces = zip(parameters.items(), torch.split(w, self.sizes), strict=True)
        tangent = {name: piece.view_as(p).to(p) for (name, p), piece in pieces}
        full = replace(self, precision=replace(self.precision, low=False))
        try:
            with _unfused():
                both = jvp(lambda p: full.inner(x, y, p)(delta), (parameters,), (tangent,))
            values, slopes = both[:2]
            return values, slopes
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.losses(x, delta, y)  # the model's own errors come out as they are
            raise ValueError(
                'method must be "chunks" or "gram" for this model, got "matrix-free": it needs '
                f"forward-mode derivatives, and an operator has none ({_first_line(error)})"
            ) from error

    def detached(self) -> dict[str, Tensor]:
        """The parameters' values, by name, without a graph."""
        return {name: p.detach() for name, p in self.parameters.items()}


@dataclass(frozen=True)
class Shift:
    """The part of a batch's loss that no training perturbation changes: ``weight_decay / 2
    ||theta||^2`` and a penalty, with the random ``points`` of this process's samples.
    """

    weight_decay: float
    penalty: Penalty | None
    points: tuple[Tensor, ...]

    @classmethod
    def of(
        cls,
        weight_decay: float,
        penalty: Penalty | None,
        attack: AttackLike,
        x: Tensor,
        generator: torch.Generator | None,
        only: slice,
    ) -> "Shift":
        """With points for the whole batch, as one process would draw them, in the attack's set.

        Raises:
            ValueError: if there is a penalty, and the set of the attack is not known.
        """
        if penalty is None:
            return cls(weight_decay, None, ())
        threat = getattr(attack, "threat", None)
        if not isinstance(threat, Threat):
            _checks.refuse("attack", "one of ddi's beside a penalty, which needs its set", attack)
        points = penalty.points(x, threat, generator)
        return cls(weight_decay, penalty, tuple(p[only] for p in points))

    def __bool__(self) -> bool:
        return bool(self.weight_decay) or self.penalty is not None

    def at(self, through: Passes, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Its gradient over the whole batch, ``(d,)``, and its value, in the model's own mode; both
        a single 0 where nothing is shifted.
        """
        row = value = torch.zeros((), dtype=torch.float64)  # of no axes: it fits any device, dtype
        if self.weight_decay:
            theta = through.flat()
            row, value = self.weight_decay * theta, theta.double().square().sum()
            value *= self.weight_decay / 2
        if self.penalty is None:
            return row, value
        if isinstance(through.loss, Objective):
            through = replace(through, loss=cross_entropy)
        if self.penalty.twice:
            if through.narrow:
                expected = "one that takes no gradients in float16 (bfloat16 has their range)"
                _checks.refuse("penalty", expected, self.penalty)
            through = replace(through, model=eager(through.model))
        slope, penalty, k = through.rows(), self.penalty, len(x) * world()

        with once(through.model) as again:

            def terms() -> Tensor:
                values_of = through.inner(x, y)

                def values_at(delta: Tensor) -> Tensor:
                    again()  # all points are of one function, of one dropout mask
                    return values_of(delta)

                found = penalty.terms(values_at, x, *self.points)
                return _checks.float_tensor(
                    "the penalty's terms", found, 1, (len(x),), all_finite=False
                )

            mean = total(through.gradient_of(terms, k, slope).double().sum()) / k
        weight = penalty.weigh(float(mean))
        return row + weight * total(slope), value + weight * mean


def columns(
    through: Passes, x: Tensor, y: Tensor, deltas: Tensor, shift: Shift
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Gradients ``(m, 1, d)`` and values ``(m, 1)`` of the mean loss, each batch by itself, in the
    model's own mode; and the shift, whose passes move nothing either.
    """
    k, rows, losses = len(x) * world(), through.rows(len(deltas)), []
    with once(through.model) as again:
        for j, (row, delta) in enumerate(zip(rows, deltas, strict=True)):
            if j:
                again()
            losses.append(through.gradient(x, delta, y, k, row))
        if shift.penalty is not None:
            again()
        moved = shift.at(through, x, y)
    values = torch.stack(losses).double().sum(1, keepdim=True) / k
    return total(rows)[:, None], total(values), moved


def move(through: Passes, x: Tensor, delta: Tensor, y: Tensor) -> None:
    """The loss's passes in the model's own mode, for what they move; nothing in eval mode."""
    if any(module.training for module in through.model.modules()):
        with torch.no_grad():
            through.losses(x, delta, y)


def _differentiable(losses: Tensor) -> Tensor:
    """The losses, if a derivative is to be had of them; ``grad`` would take 0 for it."""
    if not losses.requires_grad:
        raise ValueError("loss must depend on a trainable parameter of model, got none")
    return losses


@contextmanager
def _unfused() -> Iterator[None]:
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
