"""The plan of a run: what the optimiser does, and which rule and attack act when."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddi import _checks as check
from ddi import _words as words
from ddi.adversary import AttackLike, attack_like
from ddi.attacks import PGD
from ddi.data import Dataset
from ddi.descent import Rule
from ddi.identity import as_table
from ddi.objectives import Penalty
from ddi.parallel import own
from ddi.samplers import Sampler
from ddi.samples import leaves_of
from ddi.sharpness import SAM, AnyRule, fresh
from ddi.state import eager, frozen

__all__ = [
    "Phase",
    "Setting",
    "check_model",
    "check_plan",
    "checked_folder",
    "config_of",
    "default_evaluation",
    "joined",
    "memories",
    "phase_at",
    "whole_plan",
]


@dataclass(frozen=True)
class Setting:
    """What the optimiser does; the defaults are the paper's (section 5.3).

    Args:
        epochs, batch_size: as usual; an incomplete last batch is dropped.
        lr, momentum, weight_decay: of SGD. Weight decay acts after the rule's direction, as in
            PyTorch.
        milestones: shares of the epochs at which ``lr`` is multiplied by 0.1; a share ``k/epochs``
            is epoch ``k``, counted from 0, exactly.
        m_end: if given, the rule's ``m`` falls linearly over the epochs to this number ("decay",
            appendix B.4).
        augment: random crop and flip of every batch.
        validation: training images held out, at random with a fixed seed, for evaluation after
            every epoch.
        evaluate_every: epochs between evaluations (the last epoch is always evaluated).
        epoch_steps: steps that an epoch has; by default as many as one pass over the training
            images. With fewer, an epoch is that part of a freshly shuffled pass.
        seed: of order, augmentation, attacks, and what the network draws; the caller seeds the
            model's weights.

    Raises:
        ValueError: for a value of another type or out of range. NumPy numbers become plain ones.
    """

    epochs: int = 200
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 5e-4
    milestones: tuple[float, ...] = (0.5, 0.75)
    m_end: int | None = None
    augment: bool = True
    validation: int = 5000
    evaluate_every: int = 1
    epoch_steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        kept: dict[str, Any] = {}
        for name in ("epochs", "batch_size", "validation", "evaluate_every"):
            kept[name] = check.positive_int(name, getattr(self, name))
        for name in ("m_end", "epoch_steps"):
            if getattr(self, name) is not None:
                kept[name] = check.positive_int(name, getattr(self, name))
        kept["seed"] = check.integer("seed", self.seed, 0, 2**62)
        kept["lr"] = check.positive("lr", self.lr)
        for name in ("momentum", "weight_decay"):
            kept[name] = check.non_negative(name, getattr(self, name))
        kept["augment"] = check.flag("augment", self.augment)
        if not isinstance(self.milestones, (tuple, list)):
            check.refuse("milestones", "a tuple of shares of the epochs", self.milestones)
        kept["milestones"] = tuple(
            check.finite("milestones", share, 0.0, 1.0, strict=True) for share in self.milestones
        )
        check.store(self, **kept)

    def reached(self, share: float, epoch: int) -> bool:
        """Whether ``epoch``, counted from 0, is at or after that share of the epochs, exactly: of
        100 epochs 0.55 is epoch 55, which ``0.55 * 100 = 55.000000000000007`` is not.
        """
        return epoch >= self.first_epoch(share)

    def first_epoch(self, share: float) -> int:
        """The first epoch, counted from 0, at or after that share of the epochs, exactly."""
        return ceil(Fraction(share).limit_denominator(10**6) * self.epochs)

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        return self.lr * 0.1 ** sum(self.reached(share, epoch) for share in self.milestones)

    def m_at(self, epoch: int, m: int) -> int:
        """Perturbations of an epoch, counted from 0, for a rule that has ``m`` in the first."""
        if self.m_end is None:
            return m
        return round(m + (self.m_end - m) * epoch / max(1, self.epochs - 1))


@dataclass(frozen=True)
class Phase:
    """From the share ``start`` of the epochs on, train with this rule and this attack.

    A phase begins with the first epoch at or after that share (``start = 0.9`` of 2 epochs is after
    the last: :func:`ddi.trainer.train` refuses a phase without an epoch). One that starts at 0
    takes the place of the rule and the attack that training is given besides.
    """

    start: float
    rule: AnyRule
    attack: AttackLike

    def __post_init__(self) -> None:
        start = check.finite("start", self.start, 0.0, 1.0)
        if start == 1:
            check.refuse("start", "a share of the epochs, at least 0 and less than 1", self.start)
        check.store(self, start=start)
        if not isinstance(self.rule, SAM):
            check.instance("rule", self.rule, Rule)
        attack_like("attack", self.attack)


def whole_plan(
    setting: Setting,
    rule: AnyRule,
    attack: AttackLike,
    evaluation: AttackLike,
    phases: Sequence[Phase],
) -> list[Phase]:
    """All phases of a run, each of its parts of its kind, and as at its beginning.

    Raises:
        ValueError: for a part that is something else, or a phase that has no epoch of the run.
    """
    check.instance("setting", setting, Setting)
    attack_like("evaluation", evaluation)
    if not isinstance(phases, (list, tuple)):
        check.refuse("phases", "a list or tuple of ddi Phase", phases)
    for i, phase in enumerate(phases):
        check.instance(f"phases[{i}]", phase, Phase)
    _check_starts(setting, plan := joined(rule, attack, phases))
    return [replace(phase, rule=fresh(phase.rule)) for phase in plan]


def joined(rule: AnyRule, attack: AttackLike, phases: Sequence[Phase]) -> list[Phase]:
    """All phases; the first is that of ``rule`` and ``attack``, unless one of ``phases`` starts at
    0.
    """
    at_once = [phase for phase in phases if phase.start == 0] or [Phase(0.0, rule, attack)]
    return [*at_once, *(phase for phase in phases if phase.start != 0)]


def _check_starts(setting: Setting, plan: Sequence[Phase]) -> None:
    """Raise ``ValueError`` unless every phase has an epoch: a plan that is not followed as it is
    written would be recorded as if it were.
    """
    starts = sorted(phase.start for phase in plan)
    first = [setting.first_epoch(start) for start in starts]
    for one, two, i, j in zip(starts, starts[1:], first, first[1:], strict=False):
        if i == j:
            raise ValueError(
                f"phases must begin in different epochs, got the starts {one} and {two}, which are "
                f"both epoch {i + 1} of {setting.epochs}"
            )
    if first[-1] >= setting.epochs:
        raise ValueError(
            f"phases must begin before the last epoch does, at {setting.epochs - 1} of "
            f"{setting.epochs} epochs, got the start {starts[-1]}"
        )


def memories(plan: Sequence[Phase]) -> list[Penalty | SAM]:
    """What of the phases' rules may remember something from step to step."""
    all_of = [thing for phase in plan for thing in (phase.rule, phase.rule.penalty)]
    return [thing for thing in all_of if isinstance(thing, (Penalty, SAM))]


def phase_at(plan: Sequence[Phase], setting: Setting, epoch: int) -> Phase:
    """The phase that an epoch, counted from 0, belongs to: the last of those that have begun."""
    begun = [phase for phase in plan if setting.reached(phase.start, epoch)]
    return max(begun, key=lambda phase: phase.start)


def default_evaluation(attack: AttackLike) -> PGD:
    """PGD-20 with steps of ``eps / 4`` in the set (``eps``, ``norm``, ``box``) of another attack.

    Raises:
        ValueError: if the attack is a plain callable, whose set is not known.
    """
    if not isinstance(attack, PGD):
        raise ValueError(
            "evaluation must be given where the attack is a callable of one's own, whose set of "
            "perturbations (eps, norm, box) is not known"
        )
    return PGD(attack.eps, attack.eps / 4, 20, norm=attack.norm, box=attack.box)


def config_of(
    setting: Setting, plan: Sequence[Phase], evaluation: AttackLike, sampler: Sampler | None = None
) -> dict[str, Any]:
    """What a record says of the run: its parts as TOML tables."""
    first, *later = plan
    config: dict[str, Any] = {
        "setting": as_table(setting),
        "rule": as_table(first.rule),
        "attack": as_table(first.attack),
        "evaluation": as_table(evaluation),
    }
    if sampler is not None:
        config["sampler"] = as_table(check.instance("sampler", sampler, Sampler))
    if later:
        config["phases"] = [
            {"start": p.start, "rule": as_table(p.rule), "attack": as_table(p.attack)}
            for p in sorted(later, key=lambda phase: phase.start)
        ]
    return config


def check_plan(setting: Setting, plan: Sequence[Phase], data: Dataset) -> None:
    """Raise ``ValueError`` for what cannot be trained: a batch larger than the images that are left
    or no multiple of the number of processes, more chunks than images, weight decay in two places.
    """
    images = len(data.x_train) - setting.validation
    if images < setting.batch_size:
        raise ValueError(
            f"batch_size and validation must fit into the {len(data.x_train)} training images, "
            f"got {setting.batch_size} and {setting.validation}"
        )
    own(setting.batch_size)
    for phase in plan:
        if setting.weight_decay and phase.rule.weight_decay:
            raise ValueError(
                "weight_decay must be that of the setting (after the direction) or of the rule "
                "(inside), not both"
            )
        if phase.rule.chunks is not None and phase.rule.chunks > setting.batch_size:
            raise ValueError(
                f"chunks must be at most the batch_size, {setting.batch_size}, "
                f"got {phase.rule.chunks}"
            )


def checked_folder(model: Any, data: Any, folder: Any, every: Any, progress: Any) -> Path:
    """The folder of a run, where all of these are of their kind."""
    check.network("model", check.instance("model", model, nn.Module))
    check.instance("data", data, Dataset)
    if every is not None:
        check.positive_int("checkpoint_every", every)
    check.flag("progress", progress)
    return words.path("folder", folder)


def check_model(model: nn.Module, data: Dataset) -> int:
    """Number of the network's logits. Raise ``ValueError`` unless it gives the images of ``data``
    one for each class, and trains nothing but its parameters (a layer in a plain list would
    neither be trained nor saved); it is left as it was.
    """
    x = data.x_train[:2].clone()  # a model may normalise in place
    with torch.random.fork_rng(), frozen(eager(model)), torch.enable_grad():
        found = check.logits(check.answer(eager(model), x), len(x))
    if aside := leaves_of(found):  # the parameters have no gradient here
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in aside)
        raise ValueError(
            "model must hold the trainable tensors that it uses as parameters of its modules, got "
            f"others of shape {shapes} (a layer in a plain list? one that is not to be trained "
            "needs requires_grad_(False))"
        )
    if found.shape[1] < data.classes:
        raise ValueError(
            f"model must have a logit for each of the {data.classes} classes of {data.name}, "
            f"got {found.shape[1]}"
        )
    return found.shape[1]
