"""Descent rules: from a batch and an attack to one update of the parameters.

``rule(model, x, y, attack)`` returns a :class:`Step` whose ``gradient`` is flat, in the order of
``model.parameters()``, and is what an optimiser *subtracts*; :func:`assign_gradient` puts it into
``.grad``. Below, ``g_j`` is the gradient of the mean loss of the batch at its ``j``-th
perturbation, and ``M`` has the columns ``g_1 ... g_m``.

- ``single``: ``g_1``, PGD training (Madry et al. 2018).
- ``mean``: ``1/m sum_j g_j``.
- ``max``: the gradient at the strongest of ``m`` perturbations, a sample at a time (PGD-max-m,
  section 5.3).
- ``min``: the ``g_j`` of least norm (PGD-min-m, section 5.3).
- ``ddi``: ``M a*``, the point of least norm of the hull (Algorithm 1).
- ``comb``: the same for ``m`` random mixes of two attacks (appendix B.4.1).
- ``product``: the point of least norm of the sum of the samples' hulls (see :mod:`ddi.product`).
- ``bundle``: ``M a`` for the dual of the bundle step of length ``t``: the losses weigh in, and
  nothing is normalised.

Under ``torchrun`` every process calls the rule with the same batch and an equal generator, does its
share of the samples,
and gets the update of the whole batch: the gradients are summed over the processes before the Gram
matrix.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ddi.attacks import Attack, Loss, Model, check_labels, cross_entropy
from ddi.danskin import gram_matrix
from ddi.parallel import share, total, world
from ddi.product import product_point, product_rows, sample_losses
from ddi.solver import bundle, min_norm_point, min_norm_product
from ddi.threat import number, whole

__all__ = ["RULES", "Rule", "Step", "assign_gradient", "descent_rule"]

RULES = ("single", "mean", "max", "min", "ddi", "comb", "product", "bundle")
AttackLike = Attack | Callable[[Model, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """What a rule makes of a batch.

    Attributes:
        gradient: ``(d,)``, to be subtracted; 0 where no direction descends, never NaN.
        loss: mean loss of the batch, averaged over the perturbations whose gradients were taken.
        diagnostics: ``norm`` of the combination before any normalisation, and, from several
            gradients, ``weights`` (a tensor), ``gap`` (Frank-Wolfe), ``entropy`` of the weights
            (nats), ``cosine_mean`` and ``cosine_min`` over the pairs of joint gradients, and
            ``negative_pairs``, how many pairs have a negative inner product.
    """

    gradient: Tensor
    loss: float
    diagnostics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule:
    """One descent rule with its options; call it as ``rule(model, x, y, attack, generator=None) ->
    Step``.

    Gradients are taken in the mode that the model is in, one batch of perturbations at a time, so
    that BatchNorm never mixes them; its running statistics move once a call. The per-sample rules
    (``product``, and ``bundle`` with ``joint=False``) take gradients in eval mode, since in
    training mode BatchNorm couples the samples.

    Args:
        name: one of ``RULES``.
        m: number of perturbations (for ``comb`` of mixes, from two attacks); ``single`` takes one,
            whatever ``m`` is.
        normalize: divide by the norm; by default as in Algorithm 1: ``ddi``, ``comb`` and
            ``product``, no other.
        method: of the product: ``"gram"``, ``"chunks"`` or ``"matrix-free"``. chunks: for
            ``"chunks"``.
        max_iter: Frank-Wolfe steps of ``"matrix-free"``.
        t: step length of ``bundle``: the learning rate.
        joint: for ``bundle``: one weight a batch of perturbations, or (``False``) one a sample and
            perturbation.
        weight_decay: coefficient of ``1/2 ||theta||^2`` as part of every column's loss (0: leave it
            to the optimiser).
        loss: one value a sample.
    """

    name: str
    m: int = 10
    normalize: bool | None = None
    method: str = "gram"
    chunks: int | None = None
    max_iter: int = 1
    t: float | None = None
    joint: bool = True
    weight_decay: float = 0.0
    loss: Loss = cross_entropy

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise ValueError(f"name must be one of {RULES}, got {self.name!r}")
        for name in ("m", "max_iter"):
            whole(name, getattr(self, name))
        number("weight_decay", self.weight_decay)
        if (self.t is not None) != (self.name == "bundle"):
            raise ValueError(
                f'rule "bundle" needs t, its step length, and no other rule takes it; got t={self.t!r}'
            )
        if self.t is not None:
            number("t", self.t, strict=True)
        if self.name == "bundle" and self.normalize:
            raise ValueError(
                "normalize must not be True for bundle: its step has a length of its own"
            )
        if self.method == "matrix-free" and self.weight_decay:
            raise ValueError(
                "weight_decay inside the columns is not available with matrix-free; leave it to the optimiser"
            )

    @property
    def normalized(self) -> bool:
        """Whether the result is divided by its norm."""
        return self.name in ("ddi", "comb", "product") if self.normalize is None else self.normalize

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        attack: AttackLike,
        generator: torch.Generator | None = None,
    ) -> Step:
        """Attack the batch, take gradients and combine them.

        Args:
            model: its mode, gradients and (but for one move of BatchNorm's statistics) buffers are
                left as they are.
            x: images ``(k, ...)``. y: labels ``(k,)``.
            attack: an attack of this package, or any ``(model, x, y) -> delta``.
            generator: source of the random starts, and of the mixes of ``comb``.
        """
        check_labels(y, len(x))
        part = share(len(x))
        deltas = self._perturb(model, x, y, attack, generator, part)
        x, y = x[part], y[part]
        per_sample = self.name == "product" or (self.name == "bundle" and not self.joint)
        step = (
            self._product(model, x, y, deltas) if per_sample else self._joint(model, x, y, deltas)
        )
        if not self.normalized:
            return step
        norm = step.gradient.norm()
        return Step(
            step.gradient / norm if norm > 0 else step.gradient, step.loss, step.diagnostics
        )

    def passes(self, steps: int) -> int:
        """Forward-and-backward passes of the batch that one step takes, with attacks of ``steps``
        steps each.

        Attack and gradient passes count alike; what needs no backward pass (the losses that ``max``
        compares, and those of forward mode) is not counted.
        """
        attacks = {"single": 1, "comb": 2}.get(self.name, self.m)
        gradients = {"single": 1, "max": 1}.get(self.name, self.m)
        if self.name == "product" and self.method == "matrix-free":
            gradients = 1 + self.max_iter
        return attacks * steps + gradients

    def _perturb(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        attack: AttackLike,
        generator: torch.Generator | None,
        part: slice,
    ) -> Tensor:
        """The perturbations whose gradients are taken, ``(m, *x[part].shape)``; one for ``single``
        and ``max``.
        """
        count = {"single": 1, "comb": 2}.get(self.name, self.m)
        if isinstance(attack, Attack):
            deltas = attack.restarts(model, x, y, count, generator, part=part)
        else:
            deltas = torch.stack([attack(model, x[part], y[part]) for _ in range(count)])
        if self.name == "max":
            strongest = sample_losses(model, x[part], y[part], deltas, self.loss).argmax(0)
            return deltas[strongest, torch.arange(deltas.shape[1], device=x.device)][None]
        if self.name == "comb":
            bits = (torch.rand(self.m, len(x), generator=generator, device=x.device) < 0.5)[:, part]
            return torch.where(bits.view(*bits.shape, *[1] * (x.ndim - 1)), deltas[0], deltas[1])
        return deltas

    def _joint(self, model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor) -> Step:
        """Rules that give one weight to each column of ``M``."""
        columns, values = _columns(model, x, y, deltas, self.loss)
        if self.weight_decay:
            columns += self.weight_decay * _flat(model.parameters())
            values = values + self.weight_decay / 2 * _flat(model.parameters()).square().sum()
        loss, m = float(values.mean()), len(columns)
        if m == 1:
            return Step(columns[0], loss, {"norm": float(columns[0].norm())})
        gram = gram_matrix(columns).cpu()
        even = torch.full((m,), 1 / m, dtype=gram.dtype, device=gram.device)
        gap = math.nan
        if self.name == "mean":
            weights = even
        elif self.name == "min":
            weights = torch.zeros_like(even).index_fill(0, gram.diagonal().argmin(), 1.0)
        else:
            point = (
                min_norm_point(gram)
                if self.name != "bundle"
                else bundle(gram, values.double().cpu(), self.t)
            )
            weights, gap = point.weights, float(point.gap)
        gradient = weights.to(columns) @ columns
        if self.name != "mean" and gradient.norm() <= 1e-7 * columns.norm(dim=1).max():
            gradient = torch.zeros_like(
                gradient
            )  # 0 is in the hull: no direction descends on all columns
        return Step(gradient, loss, _diagnose(gram) | _weigh(weights, gap, gradient))

    def _product(self, model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor) -> Step:
        """Rules that give one weight to each sample (or chunk) and perturbation."""
        _move_statistics(model, x + deltas[0])
        m, k, decay = len(deltas), len(x) * world(), self.weight_decay
        if self.name == "product" and not decay:
            options = {
                "chunks": self.chunks,
                "loss": self.loss,
                "max_iter": self.max_iter,
                "certify": False,
            }
            point = product_point(model, x, y, deltas, self.method, **options)
            return Step(
                point.vector,
                float(point.losses.mean()),
                _weigh(point.weights, point.gap, point.vector, k),
            )
        chunks = self.chunks if self.method == "chunks" else None
        rows, part, values = product_rows(model, x, y, deltas, chunks, self.loss)
        parts, rows, loss = rows.shape[1], rows.flatten(0, 1), float(values.mean())
        if decay:
            rows = rows + decay / parts * _flat(model.parameters())
            loss += float(decay / 2 * _flat(model.parameters()).square().sum())
        gram, groups = gram_matrix(rows), torch.arange(parts).repeat(m)
        if self.name == "bundle":
            chosen = values.new_zeros(m, parts, dtype=torch.float64).index_add_(
                1, part.to(x.device), values.double() / k
            )
            point = bundle(gram, chosen.flatten(), self.t, groups)
        else:
            point = min_norm_product(gram, groups)
        gradient = point.weights.to(rows) @ rows
        return Step(
            gradient, loss, _weigh(point.weights.view(m, -1), float(point.gap), gradient, parts)
        )


def descent_rule(name: str, **options: Any) -> Rule:
    """The rule of that name with these options; see :class:`Rule`.

    Raises:
        ValueError: for an unknown name or an impossible option.
    """
    try:
        return Rule(name, **options)
    except TypeError as error:
        raise ValueError(f"options of a rule are those of ddi.descent.Rule: {error}") from error


def assign_gradient(model: nn.Module, flat: Tensor) -> None:
    """Put a flat gradient into ``.grad`` of the parameters, in the order of ``model.parameters()``.

    Raises:
        ValueError: if its length is not the number of parameters.
    """
    parameters = list(model.parameters())
    sizes = [p.numel() for p in parameters]
    if flat.shape != (sum(sizes),):
        raise ValueError(f"flat must have shape ({sum(sizes)},), got {tuple(flat.shape)}")
    for parameter, part in zip(parameters, flat.split(sizes), strict=True):
        parameter.grad = torch.empty_like(parameter).copy_(
            part.view_as(parameter)
        )  # in its order in memory, too


def _flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def _columns(
    model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor, loss: Loss
) -> tuple[Tensor, Tensor]:
    """Rows ``g_j``, ``(m, d)``, and mean losses ``(m,)``; each batch by itself, buffers moved by
    the first alone.
    """
    parameters = list(model.parameters())
    columns = x.new_empty(
        len(deltas), sum(p.numel() for p in parameters), dtype=parameters[0].dtype
    )
    values, kept = [], []
    with torch.enable_grad():
        for row, delta in zip(columns, deltas, strict=True):
            value = loss(model(x + delta), y).sum() / (len(x) * world())
            torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)], out=row)
            values.append(value.detach())
            if not kept:
                kept = [(b, b.clone()) for b in model.buffers()]
    with torch.no_grad():
        for buffer, before in kept:
            buffer.copy_(before)
    return total(columns), total(torch.stack(values))


def _move_statistics(model: nn.Module, images: Tensor) -> None:
    """One forward pass in the model's own mode, for the running statistics of BatchNorm; nothing
    without it.
    """
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in model.modules()):
        with torch.no_grad():
            model(images)


def _diagnose(gram: Tensor) -> dict[str, float]:
    """Cosines and negative pairs of the columns."""
    i, j = torch.triu_indices(len(gram), len(gram), 1)
    norms = gram.diagonal().sqrt()
    scale = norms[i] * norms[j]
    cosines = torch.where(scale > 0, gram[i, j] / torch.where(scale > 0, scale, 1.0), 0.0)
    least, negative = float(cosines.min()), float((gram[i, j] < 0).sum())
    return {"cosine_mean": float(cosines.mean()), "cosine_min": least, "negative_pairs": negative}


def _weigh(weights: Tensor, gap: float, gradient: Tensor, groups: int = 1) -> dict[str, Any]:
    """Weights, their mean entropy over groups, the gap, and the norm of the combination."""
    entropy = float(torch.special.entr(weights.double()).sum() / groups)
    return {"weights": weights, "entropy": entropy, "gap": gap, "norm": float(gradient.norm())}
