"""Descent rules: from a batch and an attack to one update of the parameters.

``rule(model, x, y, attack)`` returns a :class:`Step` whose ``gradient`` is flat, over the trainable
parameters in the order of :func:`ddi.state.trainable`, and is what an optimiser *subtracts*;
:func:`ddi.state.assign_gradient` puts it into ``.grad``. Below, ``g_j`` is the gradient of the
mean loss of the batch at its ``j``-th perturbation, and ``M`` has the columns ``g_1 ... g_m``.

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

A new rule is a function in ``ddi.combine.COMBINE``, from the Gram matrix and the losses to
weights. Weight decay and a penalty (:mod:`ddi.objectives`) do not depend on the perturbation: they
shift every column by one vector.

Under ``torchrun`` every process calls the rule with the same batch and an equal generator, does its
share of the samples, and gets the update of the whole batch: the gradients are summed over the
processes before the Gram matrix.
"""

from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ddi import _checks
from ddi.adversary import AttackLike, as_attack
from ddi.combine import COMBINE, RULES, Problem, cosines, least_norm, weigh
from ddi.gradients import Passes, Shift, columns, move, passes
from ddi.losses import LossLike, Objective, cross_entropy, loss_like
from ddi.objectives import Penalty
from ddi.parallel import alike, own, world
from ddi.product import (
    METHODS,
    STEPS,
    finite_gram,
    frank_wolfe,
    product_rows,
    still_finite,
)
from ddi.samples import check_samples
from ddi.state import frozen

__all__ = ["RULES", "Rule", "Step", "descent_rule"]

CHUNKS = 8  # of a batch, if not given: memory for 8 m gradients, whatever the batch


@dataclass(frozen=True)
class Step:
    """What a rule makes of a batch.

    Attributes:
        gradient: ``(d,)``, to be subtracted; 0 where no direction descends, never NaN.
        loss: mean loss of the batch, averaged over the perturbations whose gradients were taken.
        diagnostics: ``parameters``, the number ``d`` of trainable parameters that the direction is
            over; ``norm`` of the combination before any normalisation; and, from several
            gradients, ``weights`` (a tensor: ``(m,)``, or ``(m, k)`` with a column a sample),
            ``gap`` (Frank-Wolfe), ``entropy`` of the weights (nats, the mean over the samples), and
            if they are joint ``cosine_mean`` and ``cosine_min`` over their pairs, and
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
    that BatchNorm never mixes them. The per-sample rules (``product``, and ``bundle`` with
    ``joint=False``) take gradients in eval mode, since in training mode BatchNorm couples the
    samples. Whatever a forward pass in training mode moves (running statistics, the state of
    dropout's generator) moves once a call under every rule.

    Args:
        name: one of ``RULES``.
        m: number of perturbations (for ``comb`` of mixes, from two attacks); ``single`` takes one,
            whatever ``m`` is.
        normalize: divide by the norm; by default as in Algorithm 1: ``ddi``, ``comb`` and
            ``product``, no other. Not for ``bundle``.
        method: of the per-sample rules: ``"chunks"`` (by default: the others need memory for a
            gradient a sample and perturbation, or forward-mode derivatives), ``"gram"`` or, for
            ``product``, ``"matrix-free"``.
        chunks: for ``"chunks"``, by default 8, or one a sample of a smaller batch.
        max_iter: Frank-Wolfe steps of ``"matrix-free"``, by default 1.
        t: step length of ``bundle``: the learning rate.
        joint: for ``bundle``: one weight a batch of perturbations, or (``False``) one a sample and
            perturbation.
        weight_decay: coefficient of ``1/2 ||theta||^2`` as part of every column's loss (0: leave it
            to the optimiser).
        loss: ``loss(logits, labels)``, one value a sample, or an objective.
        penalty: of :mod:`ddi.objectives`, as part of every column's loss: computed once a step.

    Raises:
        ValueError: for an unknown name, and for an option that is impossible or does not apply.
    """

    name: str
    _: KW_ONLY
    m: int = 10
    normalize: bool | None = None
    method: str | None = None
    chunks: int | None = None
    max_iter: int | None = None
    t: float | None = None
    joint: bool = True
    weight_decay: float = 0.0
    loss: LossLike = cross_entropy
    penalty: Penalty | None = None

    def __post_init__(self) -> None:
        _checks.one_of("name", self.name, RULES)
        _checks.store(
            self,
            m=_checks.positive_int("m", self.m),
            joint=_checks.flag("joint", self.joint),
            weight_decay=_checks.non_negative("weight_decay", self.weight_decay),
            loss=loss_like("loss", self.loss),
        )
        if self.penalty is not None:
            _checks.instance("penalty", self.penalty, Penalty)
        if self.normalize is not None:
            _checks.store(self, normalize=_checks.flag("normalize", self.normalize))
        self._check_bundle()
        if self.per_sample:
            self._check_method()
        else:
            self._must_not_have('of a rule that is neither "product" nor joint=False', "method")
            self._must_not_have('without method="chunks"', "chunks")
            self._must_not_have('without method="matrix-free"', "max_iter")

    def _must_not_have(self, why: str, name: str) -> None:
        if getattr(self, name) is not None:
            _checks.refuse(name, f"left out {why} (rule {self.name!r})", getattr(self, name))

    def _check_bundle(self) -> None:
        if (self.t is not None) != (self.name == "bundle"):
            raise ValueError(
                't must be given for rule "bundle", its step length, and for no other, got '
                f"t={self.t!r} for {self.name!r}"
            )
        if self.t is not None:
            _checks.store(self, t=_checks.positive("t", self.t))
            if self.normalize:
                raise ValueError(
                    "normalize must not be True for bundle: its step has a length of its own"
                )
        elif not self.joint:
            raise ValueError(f"joint must be True except for bundle, got False for {self.name!r}")

    def _check_method(self) -> None:
        allowed = METHODS if self.name == "product" else ("gram", "chunks")
        method = "chunks" if self.method is None else _checks.one_of("method", self.method, allowed)
        _checks.store(self, method=method)
        if method != "chunks":
            self._must_not_have('without method="chunks"', "chunks")
        elif self.chunks is not None:
            _checks.store(self, chunks=_checks.positive_int("chunks", self.chunks))
        if method != "matrix-free":
            self._must_not_have('without method="matrix-free"', "max_iter")
            return
        steps = STEPS if self.max_iter is None else _checks.positive_int("max_iter", self.max_iter)
        _checks.store(self, max_iter=steps)

    @property
    def normalized(self) -> bool:
        """Whether the result is divided by its norm."""
        return self.name in ("ddi", "comb", "product") if self.normalize is None else self.normalize

    @property
    def per_sample(self) -> bool:
        """Whether each sample (or chunk) has weights of its own."""
        return self.name == "product" or not self.joint

    @property
    def attacks(self) -> int:
        """Number of attacks on the batch in one step."""
        return {"single": 1, "comb": 2}.get(self.name, self.m)

    def passes(self, steps: int) -> int:
        """Forward-and-backward passes of the batch that one step takes, with attacks of ``steps``
        steps each.

        Attack and gradient passes count alike, an objective's and a penalty's too; what needs no
        backward pass (the losses that ``max`` compares, those of forward mode, and the pass of the
        per-sample rules in training mode) is not counted.
        """
        gradients = 1 if self.name in ("single", "max") else self.m
        if self.max_iter is not None:
            gradients = 1 + self.max_iter
        gradients *= self.loss.passes if isinstance(self.loss, Objective) else 1
        gradients += self.penalty.passes if self.penalty else 0
        return self.attacks * _checks.integer("steps", steps, 0) + gradients

    def check_batch(self, k: int) -> None:
        """Refuse a batch of ``k`` samples (of all processes) that the rule cannot divide.

        Raises:
            ValueError: if there are fewer samples than ``chunks``.
        """
        if self.chunks is not None and self.chunks > k:
            raise ValueError(f"chunks must be at most the batch's {k} samples, got {self.chunks}")

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
            model: its mode, gradients and (but for what one forward pass moves) buffers are left as
                they are.
            x: images ``(k, ...)``. y: labels ``(k,)``, int64.
            attack: an attack of this package, or any ``(model, x, y) -> delta``.
            generator: source of the random starts, of the mixes of ``comb``, and of the points of
                a penalty, in this order.

        Raises:
            ValueError: for a batch, model, attack or loss that cannot be used, and where several
                processes (``torchrun``) do not have the same weights and the same whole batch.
            FloatingPointError: if a loss or a gradient is not finite.
        """
        with passes(model, x, y, self.loss) as through:
            alike(model.parameters(), x, y)
            self.check_batch(len(x))
            if self.per_sample:
                check_samples(through, x)
            only, generator = own(len(x)), _checks.random_source("generator", generator, x.device)
            deltas = self._perturb(through, x, y, attack, generator, only)
            shift = Shift.of(self.weight_decay, self.penalty, attack, x, generator, only)
            x, y = x[only], y[only]
            if self.per_sample:
                move(through, x, deltas[0], y)
            if self.method == "matrix-free":
                step = self._matrix_free(through, x, y, deltas, shift)
            else:
                step = self._combined(through, x, y, deltas, shift)
        norm = step.diagnostics["norm"]
        return replace(step, gradient=step.gradient / norm) if self.normalized and norm else step

    def _perturb(
        self,
        through: Passes,
        x: Tensor,
        y: Tensor,
        attack: AttackLike,
        generator: torch.Generator | None,
        only: slice,
    ) -> Tensor:
        """The perturbations whose gradients are taken, ``(m, *x[only].shape)``; one for ``single``
        and ``max``.
        """
        with through.precision.passes():
            attack = as_attack(attack)
            deltas = attack.restarts(through.model, x, y, self.attacks, generator, only=only)
        if self.name == "max":
            with torch.no_grad(), frozen(through.model):
                losses = torch.stack([*map(through.inner(x[only], y[only]), deltas)])
            return deltas[losses.argmax(0), torch.arange(deltas.shape[1], device=x.device)][None]
        if self.name == "comb":
            bits = (torch.rand(self.m, len(x), generator=generator, device=x.device) < 0.5)[:, only]
            return torch.where(bits.view(*bits.shape, *[1] * (x.ndim - 1)), deltas[0], deltas[1])
        return deltas

    def _combined(
        self, through: Passes, x: Tensor, y: Tensor, deltas: Tensor, shift: Shift
    ) -> Step:
        """The gradients of all perturbations, joint or a group of samples, and their mix."""
        if self.per_sample:
            rows, group, values = self._groups(through, x, y, deltas)
            with frozen(through.model):
                moved = shift.at(through, x, y)
        else:
            rows, values, moved = columns(through, x, y, deltas, shift)
        m, count, d = rows.shape
        if shift:
            rows += moved[0] / count
            values += moved[1] / count
        rows, loss = rows.flatten(0, 1), float(still_finite("the loss", values).sum() / m)
        if len(rows) == 1:
            norm = float(still_finite("the gradient", rows[0].norm()))
            return Step(rows[0], loss, {"parameters": d, "norm": norm})
        groups = torch.arange(count).repeat(m)
        problem = Problem(finite_gram(rows), values.cpu().flatten(), groups, self.t)
        weights, gap = COMBINE[self.name](problem)
        gradient = weights.to(rows) @ rows
        if COMBINE[self.name] is least_norm:
            longest = problem.gram.diagonal().sqrt().view(m, count).amax(0)
            if gradient.norm() <= 1e-7 * longest.sum():  # 0 is in the hull: nothing descends
                gradient = torch.zeros_like(gradient)
        if self.per_sample:
            more = weigh(weights.view(m, count)[:, group], gap)
        else:
            more = weigh(weights, gap) | cosines(problem)
        norm = float(still_finite("the gradient", gradient.norm()))
        return Step(gradient, loss, {"parameters": d, "norm": norm} | more)

    def _groups(
        self, through: Passes, x: Tensor, y: Tensor, deltas: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients ``(m, groups, d)``, the group of each sample, ``(k,)``, and what the groups add
        to the mean loss, ``(m, groups)``.
        """
        k = len(x) * world()
        chunks = None if self.method == "gram" else self.chunks or min(CHUNKS, k)
        rows, group, losses = product_rows(through, x, y, deltas, chunks)
        values = losses.new_zeros(rows.shape[:2], dtype=torch.float64)
        return rows, group, values.index_add_(1, group.to(x.device), losses.double() / k)

    def _matrix_free(
        self, through: Passes, x: Tensor, y: Tensor, deltas: Tensor, shift: Shift
    ) -> Step:
        with frozen(through.model):
            row, value = shift.at(through, x, y)
        assert (most := self.max_iter) is not None  # it has a default
        point = frank_wolfe(through, x, y, deltas, 1e-6, most, measure_gap=False, shift=row)
        norm = float(still_finite("the gradient", point.vector.norm()))
        more = {"parameters": len(point.vector), "norm": norm}
        loss = float(still_finite("the loss", point.losses.mean() + value))
        return Step(point.vector, loss, more | weigh(point.weights, point.gap))


descent_rule = Rule  # the name of the contract: a rule, by its name and options
