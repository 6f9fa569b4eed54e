"""The training loop: schedule, evaluation, record, checkpoint, resume.

A run is decided by its setting, its rule and attack, its network and its data (:mod:`ddi.plan`,
:mod:`ddi.identity`). The shuffle and the augmentation are drawn from one generator, the attacks
from another, and whatever the network draws (dropout) from torch's, Python's or NumPy's own, seeded
for the run and given back afterwards. So runs with the same seed see the same batches whatever
their rule (paired arms), and an interrupted run goes on, on the CPU bit for bit, from its last
checkpoint (but for tensors that a module holds as plain attributes: these are no state of it).
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ddi import _words as words
from ddi.adversary import Attack, AttackLike, as_attack
from ddi.checkpoint import Checkpoints, own_randomness, save_atomically, set_unsaved, unsaved
from ddi.data import Dataset, crop_and_flip
from ddi.evaluate import by_class, clean_accuracy, standing
from ddi.identity import constants, flat, network_hash
from ddi.parallel import average_buffers, on_first, rank, sent
from ddi.plan import (
    Phase,
    Setting,
    check_model,
    check_plan,
    checked_folder,
    config_of,
    default_evaluation,
    memories,
    phase_at,
    whole_plan,
)
from ddi.record import DECIDES, RunWriter, provenance
from ddi.samplers import Draws, Sampler, started
from ddi.sharpness import AnyRule, of_epoch
from ddi.state import assign_gradient, eager, trainable

__all__ = ["Phase", "Setting", "train"]

# over an epoch's steps
MEANS = ("train_loss", "norm", "entropy", "gap", "cosine_mean", "cosine_min", "negative_pairs")


def train(
    model: nn.Module,
    data: Dataset,
    rule: AnyRule,
    attack: AttackLike,
    setting: Setting,
    folder: str | Path,
    evaluation: AttackLike | None = None,
    phases: Sequence[Phase] = (),
    about: dict[str, Any] | None = None,
    checkpoint_every: int | None = None,
    progress: bool = False,
    tensorboard: bool = False,
    sampler: Sampler | None = None,
) -> nn.Module:
    """Train ``model`` in place with a descent rule, and record the run in ``folder``; goes on where
    it was interrupted.

    A row of the record holds the epoch, the steps and the passes (:meth:`ddi.descent.Rule.passes`;
    NaN for an attack that does not say its steps) so far, the seconds spent on training, accuracies
    on the validation images (``clean``, ``robust``) and on as many training images
    (``robust_train``), on those of the worst class (``robust_worst``), and means over the epoch's
    steps of the loss and of the rule's diagnostics. The weights of the epoch with the best
    ``robust`` are kept in ``best.pt``, as its ``state_dict`` (without non-persistent buffers).

    Args:
        model: on the device of ``data``, perhaps compiled; its initial weights count only where no
            checkpoint is found. Every step is in training mode (``model.train()``), also of layers
            that were in eval mode: to freeze BatchNorm's statistics, override its ``train``.
        data: a part of its training images is held out for validation; the test set is not touched.
        rule: of :mod:`ddi.descent` or :mod:`ddi.sharpness`, whose memory begins empty; for
            ``bundle`` and SAMPa, ``t`` is the learning rate of the epoch.
        attack: of training; an attack of this package or any ``(model, x, y) -> delta``.
        evaluation: of validation, by default :func:`ddi.plan.default_evaluation` of ``attack``.
        phases: rules and attacks that follow, each from its ``start`` on.
        about: more to be recorded with the configuration, for example how the model was made
            (``{"data": "digits", "model": {"name": "MLP", "hidden": [8]}}``: what ``python -m ddi
            evaluate`` needs to know). It is a part of what decides the run.
        checkpoint_every: steps between checkpoints, besides the one after every epoch.
        progress: show a progress bar. tensorboard: write the rows for TensorBoard too.
        sampler: of the batches' classes; rows have each class's ``robust_c`` and chance ``p_c``.

    Returns:
        The trained model.

    Raises:
        FloatingPointError: if the loss, the gradient or the weights are not finite; the last
            checkpoint is kept and the record says that it is incomplete.
        AlreadyComplete: if ``folder`` holds a complete record of this run (a ``FileExistsError``).
        FileExistsError: if it holds another run, with what differs, or another process writes it;
            nothing there is touched.
        ValueError: if the plan is impossible (:func:`ddi.plan.check_plan`), or the checkpoints are
            damaged.
    """
    evaluation = default_evaluation(attack) if evaluation is None else evaluation
    plan = whole_plan(setting, rule, attack, evaluation, phases)
    folder = checked_folder(model, data, folder, checkpoint_every, progress)
    check_plan(setting, plan, data)
    classes = check_model(model, data)
    own = {"data": data.name, "model": {"name": f"python:{type(eager(model)).__name__}"}}
    config = config_of(setting, plan, evaluation, sampler) | own | words.table("about", about or {})
    source = provenance(data, data.x_train.device, data.x_train.dtype)
    source["network"] = network_hash(model)
    with own_randomness(data.x_train.device, setting.seed):
        source["constants"] = constants(model, data.x_train[:2])
    source["frozen"] = [n for n, p in eager(model).named_parameters() if not p.requires_grad]
    run = flat(config) | flat({key: source[key] for key in DECIDES})
    draws = started(sampler, data.hold_out(setting.validation)[0].y_train, data.classes)
    record = on_first(lambda: RunWriter(folder, config, source, tensorboard))
    with record or nullcontext(), own_randomness(data.x_train.device, setting.seed):
        training = _Training(model, data, setting, plan, evaluation, record)
        training.files, training.classes = Checkpoints(folder, run), classes
        training.draws = draws
        if (state := sent(on_first(training.files.load))) is not None:
            training.load_state_dict(state)
        training.run(checkpoint_every, progress)
    return model


@dataclass
class _At:
    """Where a run stands: what a checkpoint holds besides weights, optimiser and generators."""

    epoch: int = 0
    step: int = 0
    passes: float = 0
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    sums: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, float]] = field(default_factory=list)
    best: float = -math.inf
    trained: float = 0.0
    seconds: float = 0.0


class _Training:
    """A run under way: all that decides its rest, as one state."""

    files: Checkpoints
    classes: int  # of the model
    draws: Draws | None  # of the sampler

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        setting: Setting,
        plan: Sequence[Phase],
        evaluation: AttackLike,
        record: RunWriter | None,
    ) -> None:
        rest, self.x_val, self.y_val = data.hold_out(setting.validation)
        self.x, self.y, self.device = rest.x_train, rest.y_train, rest.x_train.device
        self.model, self.setting, self.plan = model, setting, plan
        self.evaluation, self.record = evaluation, record
        self.batches, self.attacks = (
            torch.Generator(self.device).manual_seed(s)
            for s in (setting.seed, setting.seed + 10**6)
        )
        self.optimiser = torch.optim.SGD(
            list(trainable(eager(model)).values()),
            setting.lr,
            setting.momentum,
            weight_decay=setting.weight_decay,
            fused=self.device.type == "cuda",
        )
        self.steps = min(len(self.x) // setting.batch_size, setting.epoch_steps or len(self.x))
        self.at = _At()

    def state_dict(self) -> dict[str, Any]:
        """All that decides the rest of the run."""
        if self.record is not None:
            self.at.seconds = self.record.seconds
        cuda = self.device.type == "cuda"
        return {
            "model": eager(self.model).state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "batches": self.batches.get_state(),
            "attacks": self.attacks.get_state(),
            "torch": torch.random.get_rng_state(),
            "unsaved": unsaved(eager(self.model)),
            "cuda": torch.cuda.get_rng_state(self.device) if cuda else None,
            "classes": None if self.draws is None else self.draws.weights,
            "memories": [memory.state_dict() for memory in memories(self.plan)],
            "at": {f.name: getattr(self.at, f.name) for f in fields(self.at)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        eager(self.model).load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.batches.set_state(state["batches"])
        self.attacks.set_state(state["attacks"])
        torch.random.set_rng_state(state["torch"])
        if state["cuda"] is not None:
            torch.cuda.set_rng_state(state["cuda"], self.device)
        if "unsaved" in state:  # older checkpoints have none
            set_unsaved(eager(self.model), state["unsaved"])
        if self.draws is not None:
            self.draws.weights = state["classes"].to(self.device)
        for memory, held in zip(memories(self.plan), state.get("memories", []), strict=False):
            memory.load_state_dict(held)
        self.at = _At(**state["at"])
        if self.record is not None:
            self.record.resume(self.at.rows, self.at.seconds)

    def run(self, checkpoint_every: int | None, progress: bool) -> None:
        """The epochs that are left."""
        while self.at.epoch < self.setting.epochs:
            rule, attack = self.rule_at(self.at.epoch)
            self.epoch_steps(rule, attack, checkpoint_every, progress)
            self.at.epoch, self.at.step = self.at.epoch + 1, 0
            last = self.at.epoch == self.setting.epochs
            if last or self.at.epoch % self.setting.evaluate_every == 0:
                self.evaluate(rule)
            self.save()

    def save(self) -> None:
        """A checkpoint, by the first process."""
        if self.record is not None:
            self.files.save(self.state_dict())

    def rule_at(self, epoch: int) -> tuple[AnyRule, Attack]:
        """Rule, with the epoch's ``m`` and ``t``, and attack of an epoch."""
        now, setting = phase_at(self.plan, self.setting, epoch), self.setting
        rule = of_epoch(now.rule, setting.m_at(epoch, now.rule.m), setting.lr_at(epoch))
        return rule, as_attack(now.attack)

    def epoch_steps(
        self, rule: AnyRule, attack: Attack, checkpoint_every: int | None, progress: bool
    ) -> None:
        """The steps that are left of an epoch."""
        at, started = self.at, time.perf_counter() - self.at.trained
        for group in self.optimiser.param_groups:
            group["lr"] = self.setting.lr_at(at.epoch)
        if at.step == 0:
            at.sums = {}
            at.order = torch.randperm(len(self.x), generator=self.batches, device=self.device)
        with tqdm(
            total=self.steps,
            initial=at.step,
            desc=f"epoch {at.epoch + 1}",
            disable=not (progress and rank() == 0),
        ) as bar:
            while at.step < self.steps:
                self.one_step(rule, attack)
                at.trained = time.perf_counter() - started
                bar.update()
                if checkpoint_every and at.step % checkpoint_every == 0 and at.step < self.steps:
                    self.save()
                    started = time.perf_counter() - at.trained

    def one_step(self, rule: AnyRule, attack: Attack) -> None:
        """A batch, its direction, and the optimiser's step."""
        at, size = self.at, self.setting.batch_size
        chosen = at.order.to(self.device)[at.step * size : (at.step + 1) * size]
        if self.draws is not None:
            chosen, attack = self.draws.batch(size, self.batches), self.draws.watch(attack)
        images, labels = self.x[chosen], self.y[chosen]
        if self.setting.augment:
            images = crop_and_flip(images, generator=self.batches)
        with self.divergence_placed():
            step = rule(self.model.train(), images, labels, attack, self.attacks)
            if not (math.isfinite(step.loss) and torch.isfinite(step.gradient).all()):
                raise FloatingPointError(f"the loss is {step.loss}, or the gradient not finite")
        assign_gradient(self.model, step.gradient)
        self.optimiser.step()
        average_buffers(self.model)
        for key, value in ({"train_loss": step.loss} | step.diagnostics).items():
            if key in MEANS:
                at.sums[key] = at.sums.get(key, 0.0) + value
        taken = attack.passes_for(self.classes)
        at.passes += rule.passes(taken) if taken else math.nan
        at.step += 1

    def evaluate(self, rule: AnyRule) -> None:
        """The epoch's row and, where it is the best so far, its weights; by the first process."""
        at, setting = self.at, self.setting
        if not all(torch.isfinite(p).all() for p in self.model.parameters()):
            raise FloatingPointError(f"the loss is nan after epoch {at.epoch}: weights not finite")
        if self.record is None:
            return
        count = len(self.x_val)
        with self.divergence_placed(), own_randomness(self.device, 0):
            clean = clean_accuracy(self.model, self.x_val, self.y_val).value
            stands = self.stands(self.x_val, self.y_val)
            robust_train = self.stands(self.x[:count], self.y[:count]).double().mean().item()
        robust, each = stands.double().mean().item(), by_class(stands, self.y_val)
        row: dict[str, float] = {
            "epoch": at.epoch,
            "step": at.epoch * self.steps,
            "passes": at.passes,
            "lr": setting.lr_at(at.epoch - 1),
            "m": 1 if rule.name == "single" else rule.m,
            "clean": clean,
            "robust": robust,
            "robust_train": robust_train,
            "robust_worst": min(each.values()),
            "seconds": round(at.trained, 3),
        } | (self.draws.columns(each) if self.draws else {})
        self.record.log(**row, **{key: at.sums.get(key, math.nan) / self.steps for key in MEANS})
        at.rows = list(self.record.rows)
        if robust > at.best:
            at.best = robust
            best = {"model": eager(self.model).state_dict(), "epoch": at.epoch}
            save_atomically(best, self.record.folder / "best.pt")

    def stands(self, x: Tensor, y: Tensor) -> Tensor:
        """What the evaluation's attack leaves, ``(N,)``, with random numbers of its own."""
        draw = torch.Generator(self.device).manual_seed(0)
        return standing(self.model, x, y, self.evaluation, 1, draw)

    @contextmanager
    def divergence_placed(self) -> Iterator[None]:
        """What rules, attacks and evaluation say of a network that has diverged, with the step."""
        try:
            yield
        except FloatingPointError as error:
            at = f"epoch {self.at.epoch + 1}, step {self.at.step + 1}"
            raise FloatingPointError(f"training is no longer finite in {at}: {error}") from error
