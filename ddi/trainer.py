"""The training loop: schedule, evaluation, record, checkpoint, resume.

A run is decided by its :class:`Setting`, its rule and attack, and its seed. The shuffle and the
augmentation are drawn from one generator and the attacks from another, so runs with the same seed
see the same batches whatever their rule (paired arms), and a run that was interrupted goes on, on
the CPU bit for bit, from its last checkpoint.
"""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ddi.attacks import PGD, Attack
from ddi.checkpoint import Checkpoints, save_atomically
from ddi.data import Dataset, crop_and_flip
from ddi.descent import Rule, assign_gradient
from ddi.evaluate import clean_accuracy, robust_accuracy
from ddi.fast import Fast, Kernels
from ddi.parallel import rank, share, total, world
from ddi.record import RunWriter, provenance
from ddi.threat import number, whole

__all__ = ["Phase", "Setting", "train"]

MEANS = (
    "train_loss",
    "norm",
    "entropy",
    "gap",
    "cosine_mean",
    "cosine_min",
    "negative_pairs",
)  # over an epoch's steps


@dataclass(frozen=True)
class Setting:
    """What the optimiser does; the defaults are the paper's (section 5.3).

    Args:
        epochs, batch_size: as usual; an incomplete last batch is dropped.
        lr, momentum, weight_decay: of SGD. Weight decay acts after the rule's direction, as in
            PyTorch.
        milestones: shares of the epochs at which ``lr`` is multiplied by 0.1.
        m_end: if given, the rule's ``m`` falls linearly over the epochs to this number ("decay",
            appendix B.4).
        augment: random crop and flip of every batch.
        validation: training images held out, at random with a fixed seed, for evaluation after
            every epoch.
        evaluate_every: epochs between evaluations (the last epoch is always evaluated).
        epoch_steps: steps that an epoch has; by default as many as one pass over the training
            images. With fewer, an epoch is that part of a freshly shuffled pass.
        seed: of initial order, augmentation and attacks; the caller seeds the model's weights.
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
        for name in (
            "epochs",
            "batch_size",
            "validation",
            "evaluate_every",
            "m_end",
            "epoch_steps",
        ):
            if getattr(self, name) is not None or name not in ("m_end", "epoch_steps"):
                whole(name, getattr(self, name))
        number("lr", self.lr, strict=True)
        number("momentum", self.momentum)
        number("weight_decay", self.weight_decay)
        if not all(0 < share < 1 for share in self.milestones):
            raise ValueError(
                f"milestones must be shares of the epochs between 0 and 1, got {self.milestones!r}"
            )

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        return self.lr * 0.1 ** sum(epoch >= share * self.epochs for share in self.milestones)

    def m_at(self, epoch: int, m: int) -> int:
        """Perturbations of an epoch, counted from 0, for a rule that has ``m`` in the first."""
        return (
            m
            if self.m_end is None
            else round(m + (self.m_end - m) * epoch / max(1, self.epochs - 1))
        )


@dataclass(frozen=True)
class Phase:
    """From the share ``start`` of the epochs on, train with this rule and this attack."""

    start: float
    rule: Rule
    attack: Attack

    def __post_init__(self) -> None:
        if not 0 <= number("start", self.start) < 1:
            raise ValueError(
                f"start must be a share of the epochs, at least 0 and less than 1, got {self.start!r}"
            )


def train(
    model: nn.Module,
    data: Dataset,
    rule: Rule,
    attack: Attack,
    setting: Setting,
    folder: str | Path,
    evaluation: Attack | None = None,
    phases: Sequence[Phase] = (),
    kernels: Kernels = Kernels(),  # noqa: B008  (frozen)
    about: dict[str, Any] | None = None,
    checkpoint_every: int | None = None,
    progress: bool = False,
    tensorboard: bool = False,
) -> nn.Module:
    """Train ``model`` in place with a descent rule, and record the run in ``folder``; goes on where
    it was interrupted.

    A row of the record holds the epoch, the steps and the passes (:meth:`ddi.descent.Rule.passes`)
    so far, the seconds spent on training, accuracies on the validation images (``clean``,
    ``robust``) and on as many training images (``robust_train``), and means over the epoch's steps
    of the loss and of the rule's diagnostics. The weights of the epoch with the best ``robust`` are
    kept in ``best.pt``.

    Args:
        model: on the device of ``data``; its initial weights count only where no checkpoint is
            found.
        data: a part of its training images is held out for validation; the test set is not touched.
        rule: of :mod:`ddi.descent`; for ``bundle``, ``t`` is the learning rate of the epoch.
        attack: of training. evaluation: of validation, by default PGD-20 in the set of ``attack``.
        phases: rules and attacks that follow, by increasing ``start``.
        kernels: precision, memory order and compilation of the passes.
        about: more to be recorded with the configuration, for example how the model was made.
        checkpoint_every: steps between checkpoints, besides the one after every epoch.
        progress: show a progress bar. tensorboard: write the rows for TensorBoard too.

    Returns:
        The trained model.

    Raises:
        FloatingPointError: if the loss or the gradient is not finite; the last checkpoint is kept
            and the record says that it is incomplete.
        FileExistsError: if ``folder`` holds a complete record already.
        ValueError: if a batch is larger than the training images or no multiple of the number of
            processes.
    """
    evaluation = evaluation or PGD(attack.eps, attack.alpha, 20, norm=attack.norm, box=attack.box)
    plan = sorted([Phase(0.0, rule, attack), *phases], key=lambda phase: phase.start)
    decides = {
        "setting": plain(setting),
        "rule": plain(rule),
        "attack": plain(attack),
        "evaluation": plain(evaluation),
    }
    decides["kernels"] = plain(kernels)
    if phases:
        decides["phases"] = [
            {"start": p.start, "rule": plain(p.rule), "attack": plain(p.attack)} for p in plan[1:]
        ]
    part, x_val, y_val = data.hold_out(setting.validation)
    x, y, device = part.x_train, part.y_train, part.x_train.device
    batches, attacks = (
        torch.Generator(device).manual_seed(s) for s in (setting.seed, setting.seed + 10**6)
    )
    fast = model if kernels == Kernels() else Fast(model, kernels)
    options = {"weight_decay": setting.weight_decay, "fused": device.type == "cuda"}
    optimiser = torch.optim.SGD(model.parameters(), setting.lr, setting.momentum, **options)
    if setting.weight_decay and any(phase.rule.weight_decay for phase in plan):
        raise ValueError(
            "weight_decay must be that of the setting (after the direction) or of the rule (inside), not both"
        )
    share(setting.batch_size)
    steps = min(len(x) // setting.batch_size, setting.epoch_steps or len(x))
    if steps < 1:
        raise ValueError(
            f"batch_size must be at most the {len(x)} training images, got {setting.batch_size}"
        )

    folder, source = Path(folder), provenance(data, device)
    run = decides | {"data": source["data_sha256"], "device": device.type}
    run["model"] = [(name, tuple(value.shape)) for name, value in model.state_dict().items()]
    alone = rank() == 0  # one process writes
    with (
        RunWriter(folder, decides | (about or {}), source, tensorboard)
        if alone
        else nullcontext() as record
    ):
        checkpoints = Checkpoints(folder, run)
        at = {
            "epoch": 0,
            "step": 0,
            "passes": 0,
            "order": torch.empty(0, dtype=torch.int64),
            "sums": {},
            "rows": [],
        }
        at |= {"best": -math.inf, "trained": 0.0, "seconds": 0.0}
        if (state := checkpoints.load()) is not None:
            at = state["at"]
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            batches.set_state(state["batches"])
            attacks.set_state(state["attacks"])
            if alone:
                record.resume(at["rows"], at["seconds"])

        def save() -> None:
            if alone:
                at["seconds"] = record.seconds
                tensors = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
                checkpoints.save(
                    tensors
                    | {"batches": batches.get_state(), "attacks": attacks.get_state(), "at": at}
                )

        while at["epoch"] < setting.epochs:
            epoch, started = at["epoch"], time.perf_counter() - at["trained"]
            for group in optimiser.param_groups:
                group["lr"] = setting.lr_at(epoch)
            now = [phase for phase in plan if epoch >= phase.start * setting.epochs][-1]
            rule = replace(now.rule, m=setting.m_at(epoch, now.rule.m))
            if rule.name == "bundle":
                rule = replace(rule, t=setting.lr_at(epoch))
            if at["step"] == 0:
                at["order"], at["sums"] = (
                    torch.randperm(len(x), generator=batches, device=device),
                    {},
                )
            bar = tqdm(
                total=steps,
                initial=at["step"],
                desc=f"epoch {epoch + 1}",
                disable=not (progress and alone),
            )
            while at["step"] < steps:
                chosen = at["order"].to(device)[at["step"] * setting.batch_size :][
                    : setting.batch_size
                ]
                images = (
                    crop_and_flip(x[chosen], generator=batches) if setting.augment else x[chosen]
                )
                step = rule(fast.train(), images, y[chosen], now.attack, attacks)
                if not (math.isfinite(step.loss) and torch.isfinite(step.gradient).all()):
                    raise FloatingPointError(
                        f"the loss is {step.loss} in epoch {epoch + 1}, step {at['step'] + 1}"
                    )
                assign_gradient(model, step.gradient)
                optimiser.step()
                _average_buffers(model)
                for key, value in ({"train_loss": step.loss} | step.diagnostics).items():
                    if key in MEANS:
                        at["sums"][key] = at["sums"].get(key, 0.0) + value
                at["passes"] += rule.passes(now.attack.steps)
                at["step"] += 1
                at["trained"] = time.perf_counter() - started
                bar.update()
                if checkpoint_every and at["step"] % checkpoint_every == 0 and at["step"] < steps:
                    save()
            bar.close()
            at["epoch"], at["step"] = epoch + 1, 0
            last = at["epoch"] == setting.epochs
            if alone and (last or at["epoch"] % setting.evaluate_every == 0):
                robust, robust_train = (
                    robust_accuracy(
                        fast, *pair, evaluation, generator=torch.Generator(device).manual_seed(0)
                    ).value
                    for pair in ((x_val, y_val), (x[: len(x_val)], y[: len(x_val)]))
                )
                row = {
                    "epoch": epoch + 1,
                    "step": (epoch + 1) * steps,
                    "passes": at["passes"],
                    "lr": setting.lr_at(epoch),
                }
                row |= {
                    "m": 1 if rule.name == "single" else rule.m,
                    "clean": clean_accuracy(model, x_val, y_val).value,
                }
                row |= {
                    "robust": robust,
                    "robust_train": robust_train,
                    "seconds": round(at["trained"], 3),
                }
                record.log(**row, **{key: at["sums"].get(key, math.nan) / steps for key in MEANS})
                at["rows"] = list(record.rows)
                if robust > at["best"]:
                    at["best"] = robust
                    save_atomically(
                        {"model": model.state_dict(), "epoch": epoch + 1}, folder / "best.pt"
                    )
            save()
    return model


def plain(thing: Any) -> dict[str, Any]:
    """A dataclass as TOML-able values: functions by their names, ``None`` left out."""
    values = {
        key: getattr(value, "__name__", value)
        for key, value in asdict(thing).items()
        if value is not None
    }
    kind = {"kind": type(thing).__name__} if isinstance(thing, Attack) else {}
    return kind | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _average_buffers(model: nn.Module) -> None:
    """With several processes: running statistics (BatchNorm) become the mean of the processes' own."""
    if world() > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                total(buffer.div_(world()))
