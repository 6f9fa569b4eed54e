"""The training loop: schedule, evaluation, record, checkpoint, resume.

A run is decided by its :class:`Setting` and its seed. Each epoch draws its shuffle, its augmentation and its attacks from
one generator, so runs with the same seed see the same batches whatever their rule (paired arms), and a run that was
interrupted goes on, on the CPU bit for bit, from its last checkpoint.
"""

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ddi.attacks import PGD, Attack
from ddi.data import Dataset, crop_and_flip
from ddi.descent import Rule, assign_gradient
from ddi.evaluate import clean_accuracy, robust_accuracy
from ddi.record import RunWriter, provenance
from ddi.threat import number, whole

__all__ = ["Setting", "train"]


@dataclass(frozen=True)
class Setting:
    """What the optimiser does; the defaults are the paper's (section 5.3).

    Args:
        epochs, batch_size: as usual; an incomplete last batch is dropped.
        lr, momentum, weight_decay: of SGD. Weight decay acts after the rule's direction, as in PyTorch.
        milestones: shares of the epochs at which ``lr`` is multiplied by 0.1.
        augment: random crop and flip of every batch.
        validation: training images held out, at random with a fixed seed, for evaluation after every epoch.
        evaluate_every: epochs between evaluations (the last epoch is always evaluated).
        seed: of initial order, augmentation and attacks; the caller seeds the model's weights.
    """

    epochs: int = 200
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 5e-4
    milestones: tuple[float, ...] = (0.5, 0.75)
    augment: bool = True
    validation: int = 5000
    evaluate_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validation", "evaluate_every"):
            whole(name, getattr(self, name))
        number("lr", self.lr, strict=True)
        number("momentum", self.momentum)
        number("weight_decay", self.weight_decay)
        if not all(0 < share < 1 for share in self.milestones):
            raise ValueError(f"milestones must be shares of the epochs between 0 and 1, got {self.milestones!r}")

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        return self.lr * 0.1 ** sum(epoch >= share * self.epochs for share in self.milestones)


class Checkpoints:
    """Two files, the newest checkpoint and the one before: written atomically, read as weights only, checked.

    Args:
        folder: where they are kept. run: what decides the run; a checkpoint of another run is not used.
    """

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        self.newest, self.before, self.run = folder / "checkpoint.pt", folder / "checkpoint.previous.pt", run

    def save(self, state: dict[str, Any]) -> None:
        """Write ``state``; at every moment a complete checkpoint lies on the disk."""
        temporary = self.newest.with_suffix(".tmp")
        with open(temporary, "wb") as file:
            torch.save({"run": repr(self.run), "state": state}, file)
            file.flush()
            os.fsync(file.fileno())
        if self.newest.exists():
            os.replace(self.newest, self.before)
        os.replace(temporary, self.newest)

    def load(self) -> dict[str, Any] | None:
        """The newest usable state, or ``None``; says of a file that is truncated or foreign that it was passed over."""
        for path in (self.newest, self.before):
            if not path.exists():
                continue
            try:
                found = torch.load(path, weights_only=True, map_location="cpu")
                if found["run"] == repr(self.run):
                    return found["state"]
                reason = "it belongs to another run"
            except Exception as error:  # whatever a damaged file makes of itself
                reason = f"it cannot be read ({type(error).__name__})"
            print(f"{path}: passed over, {reason}", flush=True)
        return None


def train(
    model: nn.Module,
    data: Dataset,
    rule: Rule,
    attack: Attack,
    setting: Setting,
    folder: str | Path,
    evaluation: Attack | None = None,
    checkpoint_every: int | None = None,
    progress: bool = False,
) -> nn.Module:
    """Train ``model`` in place with a descent rule, and record the run in ``folder``; goes on where it was interrupted.

    Args:
        model: on the device of ``data``; its initial weights count only where no checkpoint is found.
        data: a part of its training images is held out for validation; the test set is not touched.
        rule: of :mod:`ddi.descent`; for ``bundle``, ``t`` is the learning rate of the epoch.
        attack: of training. evaluation: of validation, by default PGD-20 in the set of ``attack``.
        checkpoint_every: steps between checkpoints, besides the one after every epoch.
        progress: show a progress bar.

    Returns:
        The trained model.

    Raises:
        FloatingPointError: if the loss or the gradient is not finite; the last checkpoint is kept and the record says
            that it is incomplete.
        FileExistsError: if ``folder`` holds a complete record already.
    """
    evaluation = evaluation or PGD(attack.eps, attack.alpha, 20, norm=attack.norm, box=attack.box)
    config = {"setting": _plain(setting), "rule": _plain(rule), "attack": _plain(attack), "evaluation": _plain(evaluation)}
    part, x_val, y_val = data.hold_out(setting.validation)
    x, y, device = part.x_train, part.y_train, part.x_train.device
    batches, attacks = (torch.Generator(device).manual_seed(s) for s in (setting.seed, setting.seed + 10**6))
    optimiser = torch.optim.SGD(model.parameters(), setting.lr, setting.momentum, weight_decay=setting.weight_decay)
    steps = len(x) // setting.batch_size
    if steps < 1:
        raise ValueError(f"batch_size must be at most the {len(x)} training images, got {setting.batch_size}")

    folder, source = Path(folder), provenance(data, device)
    with RunWriter(folder, config, source) as record:
        checkpoints = Checkpoints(folder, config | {"data": source["data_sha256"]})
        at = {"epoch": 0, "step": 0, "order": torch.empty(0, dtype=torch.int64), "total": 0.0, "rows": [], "seconds": 0.0}
        if (state := checkpoints.load()) is not None:
            at = state["at"]
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            batches.set_state(state["batches"])
            attacks.set_state(state["attacks"])
            record.resume(at["rows"], at["seconds"])

        def save() -> None:
            at["seconds"] = record.seconds
            tensors = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
            checkpoints.save(tensors | {"batches": batches.get_state(), "attacks": attacks.get_state(), "at": at})

        while at["epoch"] < setting.epochs:
            epoch = at["epoch"]
            for group in optimiser.param_groups:
                group["lr"] = setting.lr_at(epoch)
            now = replace(rule, t=setting.lr_at(epoch)) if rule.name == "bundle" else rule
            if at["step"] == 0:
                at["order"], at["total"] = torch.randperm(len(x), generator=batches, device=device), 0.0
            bar = tqdm(total=steps, initial=at["step"], desc=f"epoch {epoch + 1}", disable=not progress)
            while at["step"] < steps:
                chosen = at["order"].to(device)[at["step"] * setting.batch_size :][: setting.batch_size]
                images = crop_and_flip(x[chosen], generator=batches) if setting.augment else x[chosen]
                step = now(model.train(), images, y[chosen], attack, attacks)
                if not (torch.isfinite(step.gradient).all() and torch.isfinite(torch.tensor(step.loss))):
                    raise FloatingPointError(f"the loss is {step.loss} in epoch {epoch + 1}, step {at['step'] + 1}")
                assign_gradient(model, step.gradient)
                optimiser.step()
                at["total"] += step.loss
                at["step"] += 1
                bar.update()
                if checkpoint_every and at["step"] % checkpoint_every == 0 and at["step"] < steps:
                    save()
            bar.close()
            at["epoch"], at["step"] = epoch + 1, 0
            if at["epoch"] % setting.evaluate_every == 0 or at["epoch"] == setting.epochs:
                robust = [robust_accuracy(model, *pair, evaluation, generator=torch.Generator(device).manual_seed(0)).value
                          for pair in ((x_val, y_val), (x[: len(x_val)], y[: len(x_val)]))]  # fmt: skip
                row = {"epoch": epoch + 1, "lr": setting.lr_at(epoch), "train_loss": at["total"] / steps}
                row |= {"clean": clean_accuracy(model, x_val, y_val).value, "robust": robust[0], "robust_train": robust[1]}
                row |= {key: value for key, value in step.diagnostics.items() if key != "weights"}
                record.log(**row)
                at["rows"] = list(record.rows)
            save()
    return model


def _plain(thing: Any) -> dict[str, Any]:
    """A dataclass as TOML-able values: functions by their names, ``None`` left out."""
    values = {key: getattr(value, "__name__", value) for key, value in asdict(thing).items() if value is not None}
    return {"kind": type(thing).__name__} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
