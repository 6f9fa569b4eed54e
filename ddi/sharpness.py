"""A maximum over the weights around any rule: SAM and its parallel form.

:class:`SAM` takes the rule's step at ``theta + rho g / ||g||``, where ``g`` is the rule's own
gradient at ``theta``: one ascent step towards ``max { L(theta + e) : ||e|| <= rho }`` (Foret et al.
2021), and the gradient there. :class:`SAMPa` perturbs by a gradient that it already has, so that
its two gradients do not wait for each other (Xie et al. 2024). Both call the rule twice a step, on
*one* function of the weights: the second call meets the same dropout masks, BatchNorm statistics,
random starts and weight of a penalty as the first, and only what the first one moves stays moved.
"""

import copy
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from ddi import _checks
from ddi.adversary import AttackLike
from ddi.descent import Rule, Step
from ddi.losses import Inner
from ddi.objectives import Penalty
from ddi.state import displaced, eager, once, trainable
from ddi.threat import Threat

__all__ = ["SAM", "AnyRule", "SAMPa", "fresh", "of_epoch"]

MEMORY = ("images", "labels", "gradient")


@dataclass(frozen=True)
class SAM:
    """Sharpness-aware minimisation: the step of ``rule`` at ``theta + rho g / ||g||``, ``g`` being
    its gradient at ``theta``.

    Called like a rule: ``sam(model, x, y, attack, generator=None) -> Step``. Where ``g`` is 0
    nothing is perturbed. An attack is run again at the perturbed weights. The step's ``loss`` is
    that at ``theta``, its diagnostics those of the second call and ``sharpness``, by how much the
    loss there is above that at ``theta``. What it does not have itself (``name``, ``m``, ``loss``,
    ...) is its rule's.

    Args:
        rule: a rule of :mod:`ddi.descent`.
        rho: radius ``>= 0`` of the perturbation, in the Euclidean norm of all trainable weights.

    Raises:
        ValueError: if ``rule`` is no :class:`ddi.descent.Rule`, or ``rho`` no such number.
    """

    rule: Rule
    _: KW_ONLY
    rho: float

    def __post_init__(self) -> None:
        _checks.instance("rule", self.rule, Rule)
        _checks.store(self, rho=_checks.non_negative("rho", self.rho))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "rule":  # also while a copy is being made
            raise AttributeError(name)
        return getattr(self.rule, name)

    def passes(self, steps: int) -> int:
        """Forward-and-backward passes of the batch that one step takes: twice the rule's, with
        attacks of ``steps`` steps each.
        """
        return 2 * self.rule.passes(steps)

    def around(self, rule: Rule, lr: float) -> Self:
        """The same around another rule, for steps of length ``lr``; a memory is shared."""
        other = copy.copy(self)
        _checks.store(other, rule=rule)
        return other

    def state_dict(self) -> dict[str, Tensor]:
        """What the next call depends on besides its arguments: of SAM, nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state_dict` returned.

        Raises:
            ValueError: if it is something else.
        """
        if not isinstance(state, Mapping) or state:
            _checks.refuse("state", "an empty table", state)

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        attack: AttackLike,
        generator: torch.Generator | None = None,
    ) -> Step:
        """Arguments and errors are those of :meth:`ddi.descent.Rule.__call__`; the weights are left
        as they are, bit for bit, also after an exception.
        """
        with once(_checks.instance("model", model, nn.Module), generator) as again:
            rule = _of_one_weight(self.rule)
            here = rule(model, x, y, attack, generator)
            again()
            with displaced(model, self._ascent(here.gradient)):
                there = rule(model, x, y, attack, generator)
        more = {"sharpness": there.loss - here.loss}
        return replace(there, loss=here.loss, diagnostics=there.diagnostics | more)

    def _ascent(self, gradient: Tensor) -> Tensor:
        """``rho g / ||g||``, or 0."""
        norm = torch.linalg.vector_norm(gradient, dtype=torch.float64)
        return self.rho * (gradient / norm) if norm > 0 else torch.zeros_like(gradient)


@dataclass
class _Owner:
    """The parameters that a memory is of: their shapes, and the objects themselves, held weakly. A
    copy (also by pickle) has the shapes alone, since the model that is copied with it has others.
    """

    shapes: tuple[torch.Size, ...] = ()
    objects: Sequence[weakref.ref[Tensor]] = ()

    def __getstate__(self) -> dict[str, Any]:
        return {"shapes": self.shapes, "objects": ()}

    def leave(self) -> None:
        """Whatever model comes next is the owner."""
        self.shapes, self.objects = (), ()

    def becomes(self, parameters: Sequence[Tensor]) -> bool:
        """Make these the owner; whether they may have been it before."""
        shapes = tuple(p.shape for p in parameters)
        known = all(ref() is p for ref, p in zip(self.objects, parameters, strict=False))
        same = self.shapes in ((), shapes) and known
        self.shapes, self.objects = shapes, [weakref.ref(p) for p in parameters]
        return same


@dataclass(frozen=True)
class SAMPa(SAM):
    """SAM whose two gradients can be computed at the same time: it ascends along a gradient that
    the step before has left.

    With ``theta`` the weights, ``B`` this call's batch, and ``B'`` and ``g'`` the batch and the
    auxiliary gradient of the call before, a call takes the gradients of the rule

    - ``g`` of ``B`` at ``theta - t g'``, the auxiliary point, and
    - ``s`` of ``B'`` at ``theta + rho g' / ||g'||``,

    returns ``(1 - lam) s + lam g``, and remembers ``B`` and ``g``. The first call, which remembers
    nothing, is SAM's; so is the first with other trainable parameters, since what is remembered is
    of those that it was computed with (a copy of a model and of its rule, made together or sent by
    pickle, goes on as they do). The auxiliary point knows nothing of the optimiser's
    momentum and weight decay. The step's ``loss`` is that of ``B`` at the auxiliary point, its
    diagnostics are those of ``s``.

    Args:
        rule: a rule of :mod:`ddi.descent`.
        rho: radius ``>= 0`` of the perturbation.
        lam: share from 0 to 1 of the auxiliary gradient in the step.
        t: step length of the auxiliary point: the learning rate (the trainer sets it).

    Raises:
        ValueError: for an argument that is no such value.
    """

    _: KW_ONLY
    lam: float
    t: float = 0.1
    _memory: dict[str, Tensor] = field(init=False, repr=False, compare=False, default_factory=dict)
    _owner: _Owner = field(init=False, repr=False, compare=False, default_factory=_Owner)

    def __post_init__(self) -> None:
        super().__post_init__()
        lam, t = _checks.finite("lam", self.lam, 0.0, 1.0), _checks.positive("t", self.t)
        _checks.store(self, lam=lam, t=t)

    def around(self, rule: Rule, lr: float) -> Self:
        """See :meth:`SAM.around`."""
        other = super().around(rule, lr)
        _checks.store(other, t=lr)
        return other

    def state_dict(self) -> dict[str, Tensor]:
        """``images``, ``labels`` and ``gradient`` of the call before; empty before the first."""
        return dict(self._memory)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state_dict` returned; an empty table: from the beginning.

        Raises:
            ValueError: if it is something else.
        """
        if not isinstance(state, Mapping) or set(state) - {*MEMORY} or len(state) not in (0, 3):
            _checks.refuse("state", f"an empty table or one of {', '.join(MEMORY)}", state)
        if state:
            images = _checks.images("the images of state", state["images"])
            _checks.labels("the labels of state", state["labels"], len(images))
            _checks.float_tensor("the gradient of state", state["gradient"])
        self._memory.clear()
        self._memory.update(state)
        self._owner.leave()

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        attack: AttackLike,
        generator: torch.Generator | None = None,
    ) -> Step:
        """See :meth:`SAM.__call__`."""
        with once(_checks.instance("model", model, nn.Module), generator) as again:
            if not self._owner.becomes(list(trainable(eager(model)).values())):
                self._memory.clear()
            rule = _of_one_weight(self.rule)
            if past := self._past(x):
                images, labels, gradient, lam = *past, self.lam
                with displaced(model, -self.t * gradient):
                    ahead = rule(model, x, y, attack, generator)
            else:
                ahead = rule(model, x, y, attack, generator)
                images, labels, gradient, lam = x, y, ahead.gradient, 0.0
            again()
            with displaced(model, self._ascent(gradient)):
                there = rule(model, images, labels, attack, generator)
        kept = x.detach().clone(), y.clone(), ahead.gradient
        self._memory.update(zip(MEMORY, kept, strict=True))
        step = (1 - lam) * there.gradient + lam * ahead.gradient
        return replace(there, gradient=step, loss=ahead.loss)

    def _past(self, x: Any) -> tuple[Tensor, ...]:
        """What is remembered, on the device of ``x``."""
        device = x.device if isinstance(x, Tensor) else None
        return tuple(self._memory[key].to(device) for key in MEMORY if self._memory)


class _OneWeight(Penalty):
    """A penalty within one step: the first call's terms join its history and set its weight."""

    def __init__(self, penalty: Penalty) -> None:
        self.penalty, self.passes, self.twice = penalty, penalty.passes, penalty.twice
        self.weight_of_step: float | None = None

    def points(
        self, x: Tensor, threat: Threat, generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        return self.penalty.points(x, threat, generator)

    def terms(self, values_of: Inner, x: Tensor, *points: Tensor) -> Tensor:
        return self.penalty.terms(values_of, x, *points)

    def weigh(self, mean: float) -> float:
        if self.weight_of_step is None:
            self.weight_of_step = self.penalty.weigh(mean)
        return self.weight_of_step


def _of_one_weight(rule: Rule) -> Rule:
    return rule if rule.penalty is None else replace(rule, penalty=_OneWeight(rule.penalty))


AnyRule = Rule | SAM


def of_epoch(rule: AnyRule, m: int, lr: float) -> AnyRule:
    """``rule`` with ``m`` perturbations and, where it takes steps of its own (``bundle``, SAMPa),
    steps of length ``lr``; a memory is shared.
    """
    if isinstance(rule, SAM):
        return rule.around(_of_epoch(rule.rule, m, lr), lr)
    return _of_epoch(rule, m, lr)


def _of_epoch(rule: Rule, m: int, lr: float) -> Rule:
    return replace(rule, m=m, t=lr if rule.name == "bundle" else rule.t)


def fresh(rule: AnyRule) -> AnyRule:
    """``rule`` as at the beginning of a run: it remembers nothing, nor does its penalty."""
    if isinstance(rule, SAM):
        return replace(rule, rule=_fresh(rule.rule))
    return _fresh(rule)


def _fresh(rule: Rule) -> Rule:
    return rule if rule.penalty is None else replace(rule, penalty=rule.penalty.fresh())
