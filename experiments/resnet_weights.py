"""Why do raw steps fall behind at like lengths? Arms that differ in the weights' size alone
(chapter 12).

    DDI_DATA=<folder> python experiments/resnet_weights.py --seed 0

The paper's own network in the setting of resnet-start.toml, on a CPU. The design, with what would
refute the answer, is in resnet-weights.md and older than the records. Of a seed, ``normalised`` and
``raw`` are trained for 300 steps. The others start from one of the two as it was after 80 steps and
go on with normalised steps, on the same batches:

- ``raw-then``: from ``raw``;
- ``raw-then-small``: from ``raw``, the weights of every convolution scaled to the norm that they
  have in ``normalised`` at that step. GroupNorm follows each, so the function stays what it is;
- ``then-large``: from ``normalised``, scaled to the norms that they have in ``raw``;
- ``raw-then-zero``, ``then-zero``: from either, the last layer set to 0.

Writes results/resnet-weights/<arm>-seed<k>/, a row a block of 20 steps. Means over its steps: the
training loss, the gradient's norm, the share of its square that belongs to convolutions
(``convolutions``) and to the last layer (``last``), and by how much a step turns a convolution's
weights (``turn``, degrees, mean over layers). After its last step: the norms of the weights of all
convolutions (``weights``), of GroupNorm's gains (``gains``), of its biases (``biases``) and of the
last layer's weights (``head``), and the largest ratio of a convolution's norm to that of the start
(``growth``). Complete records are kept; after an interruption an arm begins again.
"""

import argparse
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import ddi
from ddi.checkpoint import save_atomically

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "experiments" / "resnet-start.toml"
BLOCK, STEPS, SWITCH, RATE = 20, 300, 80, 0.1
FROM = {"raw-then": "raw", "raw-then-small": "raw", "then-large": "normalised"}
FROM |= {"raw-then-zero": "raw", "then-zero": "normalised"}
SCALED_TO = {"raw-then-small": "normalised", "then-large": "raw"}


def convolutions(model: nn.Module) -> list[Tensor]:
    """Their weights: GroupNorm follows each, so none's norm changes the function."""
    return [m.weight.detach() for m in model.modules() if isinstance(m, nn.Conv2d)]


def norms(model: nn.Module) -> Tensor:
    """Of every convolution's weights."""
    return torch.stack([w.norm() for w in convolutions(model)])


def shares(model: nn.Module) -> dict[str, float]:
    """What convolutions and the last layer have of the squared gradient."""
    square = {name: (p.grad**2).sum() for name, p in model.named_parameters()}
    whole = sum(square.values())
    last = [name for name, _ in model[-1].named_parameters(prefix=f"{len(model) - 1}")]
    four = [name for name, p in model.named_parameters() if p.dim() == 4]
    parts = {"convolutions": four, "last": last}
    return {part: float(sum(square[name] for name in of) / whole) for part, of in parts.items()}


def sizes(model: nn.Module, start: Tensor) -> dict[str, float]:
    """Norms of the weights by kind of layer."""
    groups = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    now, kinds = norms(model), {"gains": "weight", "biases": "bias"}
    row = {"weights": now.norm().item(), "growth": (now / start).max().item()}
    for kind, name in kinds.items():
        row[kind] = torch.cat([getattr(m, name).detach() for m in groups]).norm().item()
    return row | {"head": model[-1].weight.detach().norm().item()}


def angles(before: list[Tensor], model: nn.Module) -> Tensor:
    """By how many degrees every convolution's weights have turned."""
    pairs = zip(before, convolutions(model), strict=True)
    # the chord of two unit vectors: their cosine would lose small angles to rounding
    chords = [(a / a.norm() - b / b.norm()).norm() for a, b in pairs]
    return torch.rad2deg(2 * torch.asin(torch.stack(chords) / 2))


def scale(model: nn.Module, wanted: Tensor) -> None:
    """Give every convolution's weights this norm."""
    for weight, norm in zip(convolutions(model), wanted, strict=True):
        weight *= norm / weight.norm()


@dataclass
class Walk:
    """A network on its way, and all that decides its next batch."""

    model: nn.Module
    data: ddi.Dataset
    run: ddi.Run
    step: int = 0

    def __post_init__(self) -> None:
        seed = self.run.setting.seed
        self.batches, self.attacks = (
            torch.Generator().manual_seed(s) for s in (seed, seed + 10**6)
        )

    def state(self) -> dict:
        """What is kept at the switch."""
        draws = [g.get_state() for g in (self.batches, self.attacks)]
        return {"step": self.step, "model": deepcopy(self.model.state_dict()), "draws": draws}

    def load(self, state: dict) -> None:
        """Go on from there: at the beginning of a block, where a new order is drawn."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        for generator, value in zip((self.batches, self.attacks), state["draws"], strict=True):
            generator.set_state(value)

    def block(self, rule: ddi.Rule) -> dict[str, float]:
        """20 steps, and their means."""
        setting, x, y = self.run.setting, self.data.x_train, self.data.y_train
        rows = []
        params = self.model.parameters()
        sgd = torch.optim.SGD(params, RATE, weight_decay=setting.weight_decay)
        order = torch.randperm(len(x), generator=self.batches)
        for chosen in order.split(setting.batch_size)[:BLOCK]:
            images = ddi.crop_and_flip(x[chosen], generator=self.batches)
            found = rule(self.model.train(), images, y[chosen], self.run.attack, self.attacks)
            before = [w.clone() for w in convolutions(self.model)]
            ddi.assign_gradient(self.model, found.gradient)
            sgd.step()
            self.step += 1
            turn = angles(before, self.model).mean().item()
            row = {"train_loss": found.loss, "norm": found.diagnostics["norm"], "turn": turn}
            rows.append(row | shares(self.model))
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def walk(arm: str, run: ddi.Run, data: ddi.Dataset, steps: int, out: Path, switch: dict) -> None:
    """One arm's record; ``switch`` has the states at the switch, left in files by the first two."""
    folder = out / f"{arm}-seed{run.setting.seed}"
    if (folder / "provenance.json").exists() and ddi.read_record(folder).complete:
        return print(f"{folder.name}: complete, kept")
    rest, _, _ = data.hold_out(run.setting.validation)
    going = Walk(run.make_model(data), rest, run)
    start = norms(going.model)
    if arm in FROM:
        going.load(switch[FROM[arm]])
    if arm in SCALED_TO:
        other = deepcopy(going.model)
        other.load_state_dict(switch[SCALED_TO[arm]]["model"])
        scale(going.model, norms(other))
    if arm.endswith("-zero"):
        nn.init.zeros_(going.model[-1].weight)
        nn.init.zeros_(going.model[-1].bias)
    rule = ddi.descent_rule("single", normalize=arm != "raw")
    setting = {"lr": RATE, "switch": SWITCH, "steps": steps, "batch_size": run.setting.batch_size}
    config = {"arm": arm, "seed": run.setting.seed, "experiment": FILE.name, "setting": setting}
    with ddi.RunWriter(folder, config, ddi.provenance(data)) as record:
        while going.step < steps:
            row = going.block(rule) | sizes(going.model, start)
            record.log(step=going.step, **row, seconds=round(record.seconds, 1))
            told = ", ".join(f"{key} {value:.4g}" for key, value in row.items())
            print(f"{folder.name}, step {going.step}: {told}", flush=True)
            if going.step == SWITCH and arm not in FROM:
                save_atomically(going.state(), out / f"{folder.name}.pt")


def main() -> None:
    """All arms of a seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS, help="more than the 80 of the switch")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "resnet-weights")
    options = parser.parse_args()
    torch.set_num_threads(1)
    (run,) = ddi.read_experiment(FILE, arms=["fast"], seeds=[options.seed])
    data = ddi.load_data(run.data)
    switch: dict[str, dict] = {}
    for arm in ("normalised", "raw"):
        walk(arm, run, data, options.steps, options.out, switch)
        kept = options.out / f"{arm}-seed{options.seed}.pt"
        switch[arm] = torch.load(kept, weights_only=True)
    for arm in FROM:
        walk(arm, run, data, options.steps, options.out, switch)


if __name__ == "__main__":
    main()
