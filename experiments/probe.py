"""What directions differ in, and what they buy: a probe along plain PGD training (chapter 11).

    DDI_DATA=<folder> python experiments/probe.py --model SmallNet --data cifar10
    DDI_DATA=<folder> python experiments/probe.py --model ResNet18 --data cifar10 --device cuda

The network is trained by an arm (``pgd``) of an experiment file (SmallNet: small-cifar10.toml,
ResNet18: figure4-left.toml, MLP: digits.toml, or another by ``--experiment``) at its first learning
rate, by the very steps that ``python -m ddi run`` takes. After given numbers of steps, on batches
of images that training never sees: the cosines of m batch gradients at m restarts of PGD-7 (steps
of ``eps / 4``, whatever the training attack), the slopes that every rule promises, and the measured
change ``phi(theta + t s) - phi(theta)`` for its unit direction ``s`` and several ``t``. There
``phi`` is the mean over the batch of the largest loss found by several restarts of PGD-20, each
sample's best iterate kept, always from the same starts.

Writes results/probe/<model>-<arm>-seed<k>/, a row a (step, batch, rule, t); ``rule`` counts from 0
in the list ``rules`` of config.toml. A run that was interrupted goes on where it was; a complete
record is kept as it is.
"""

import argparse
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from change import RESTARTS, RULES, probe, probing
from torch import Tensor, nn

import ddi
from ddi.checkpoint import save_atomically

ROOT = Path(__file__).resolve().parents[1]
FILES = {"SmallNet": "small-cifar10.toml", "ResNet18": "figure4-left.toml", "MLP": "digits.toml"}
WHOLE = ("step", "batch", "rule", "negative_pairs")  # columns of whole numbers


@dataclass
class Training:
    """Plain PGD training on its way, as the trainer does it: what the probe stops at."""

    model: nn.Module
    data: ddi.Dataset
    run: ddi.Run
    file: Path
    device: torch.device
    step: int = 0
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def __post_init__(self) -> None:
        seed = self.run.setting.seed
        self.batches, self.attacks = (
            torch.Generator(self.device).manual_seed(s) for s in (seed, seed + 10**6)
        )

    def go_on(self, target: int) -> None:
        """Up to the step ``target``."""
        setting, x, y = self.run.setting, self.data.x_train, self.data.y_train
        # a GPU trains with attacks in bf16; what is measured is measured in float32
        attack = replace(self.run.attack, autocast=self.device.type == "cuda")
        optimiser = torch.optim.SGD(
            self.model.parameters(), setting.lr, setting.momentum, weight_decay=setting.weight_decay
        )
        while self.step < target:
            fresh = setting.epoch_steps and self.step % setting.epoch_steps == 0
            if fresh or len(self.order) < setting.batch_size:
                self.order = torch.randperm(len(x), generator=self.batches, device=self.device)
            chosen, self.order = (
                self.order[: setting.batch_size],
                self.order[setting.batch_size :],
            )
            images = x[chosen]
            if setting.augment:
                images = ddi.crop_and_flip(images, generator=self.batches)
            step = self.run.rule(self.model.train(), images, y[chosen], attack, self.attacks)
            ddi.assign_gradient(self.model, step.gradient)
            optimiser.step()
            self.step += 1
            if self.step % 50 == 0 or self.step == target:
                self.save()

    def save(self) -> None:
        """All that decides what follows."""
        kept = {
            "model": self.model.state_dict(),
            "generators": [g.get_state() for g in (self.batches, self.attacks)],
            "at": {"step": self.step, "order": self.order},
        }
        save_atomically(kept, self.file)

    def load(self, state: dict) -> None:
        """Go on from what was saved."""
        self.model.load_state_dict(state["model"])
        for generator, value in zip((self.batches, self.attacks), state["generators"], strict=True):
            generator.set_state(value.cpu())
        self.step, self.order = state["at"]["step"], state["at"]["order"]


def earlier(
    folder: Path, config: dict, device: torch.device
) -> tuple[list[dict], float, dict | None]:
    """Rows of the whole batches, seconds and state of an interrupted run; nothing if there is none.

    Raises:
        AlreadyComplete: if there is nothing left to do.
        ValueError: if the folder holds another run.
    """
    if not (folder / "provenance.json").exists():
        return [], 0.0, None
    old = ddi.read_record(folder)
    if old.complete:
        raise ddi.record.AlreadyComplete
    if old.config != config:
        raise ValueError(f"{folder} holds an unfinished record of another setting; move it away")
    if not (folder / "state.pt").exists():
        return [], 0.0, None
    state = torch.load(folder / "state.pt", weights_only=True, map_location=device)
    tables = {
        key: column.astype(int) if key in WHOLE else column for key, column in old.metrics.items()
    }
    columns = zip(*map(list, tables.values()), strict=True)
    rows = [dict(zip(tables, row, strict=True)) for row in columns]
    whole = Counter((row["step"], row["batch"]) for row in rows)
    size = len(config["rules"]) * len(config["t"])
    rows = [row for row in rows if whole[row["step"], row["batch"]] == size]
    return rows, max((row["seconds"] for row in rows), default=0.0), state


def command_line() -> argparse.ArgumentParser:
    """Its options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model",
        choices=FILES,
        default="SmallNet",
        help="decides the experiment file (default: SmallNet)",
    )
    parser.add_argument("--experiment", help="another file of this folder, with that model")
    parser.add_argument("--arm", default="pgd", help="how it is trained (default: pgd)")
    parser.add_argument(
        "--steps", default="0,100,400", help="numbers of training steps before each probe"
    )
    parser.add_argument("--batches", type=int, default=5, help="batches of a probe (default: 5)")
    parser.add_argument("--m", type=int, default=10, help="restarts of PGD-7 (default: 10)")
    parser.add_argument(
        "--rules", default=",".join(RULES), help="whose change is measured (default: all)"
    )
    parser.add_argument(
        "--chunks", type=int, default=8, help="groups of samples that choose together (default: 8)"
    )
    parser.add_argument("--t", default="0.01,0.03,0.1,0.3,1", help="step lengths")
    parser.add_argument("--data", help="data set (default: the experiment's)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of weights, batches and attacks (default: 0)"
    )
    parser.add_argument("--device", help="cpu, cuda ... (default: a GPU if there is one)")
    parser.add_argument(
        "--out", default=str(ROOT / "results"), help="folder of the records (default: results)"
    )
    return parser


def configuration(options: argparse.Namespace, run: ddi.Run, data: str, cuda: bool) -> dict:
    """What decides the record."""
    keys = ("model", "arm", "batches", "m", "chunks", "t", "seed")
    config = {key: getattr(options, key) for key in keys}
    config |= {"steps": options.steps, "rules": options.rules}
    config |= {"data": data, "experiment": options.experiment}
    config |= {"batch_size": run.setting.batch_size, "lr": run.setting.lr}
    config |= {"measure": f"PGD-20, {RESTARTS} restarts, best iterate"}
    config |= {"training": {"autocast": True}} if cuda else {}
    attack = probing(run.attack)
    return config | {"eps": attack.eps, "alpha": attack.alpha, "attack_steps": attack.steps}


def parsed() -> tuple[argparse.Namespace, ddi.Run, ddi.Dataset]:
    """The options, the run that they mean, and its data on the device."""
    parser = command_line()
    options = parser.parse_args()
    options.steps = sorted(map(int, options.steps.split(",")))
    options.t = [float(text) for text in options.t.split(",")]
    options.rules = options.rules.split(",")
    options.experiment = file = options.experiment or FILES[options.model]
    path = ROOT / "experiments" / file
    (run,) = ddi.read_experiment(path, arms=[options.arm], seeds=[options.seed])
    if run.model["name"] != options.model or set(options.rules) - set(RULES):
        parser.error(f"{file} must have a {options.model}, and rules be of {', '.join(RULES)}")
    if min(options.steps) < 0 or options.batches < 1 or options.m < 2:
        parser.error("steps must be >= 0, m >= 2 and batches >= 1")
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    data = ddi.load_data(options.data or run.data).to(device)
    most = run.setting.validation // run.setting.batch_size
    if max(2, options.batches) > most:  # a second one shows what other images do
        parser.error(f"batches must be at most the {most} of the held-out images")
    return options, run, data


def main() -> None:
    """Read the command line; train, probe, record."""
    options, run, data = parsed()
    torch.backends.cudnn.allow_tf32 = False  # its ten bits would show in differences of phi
    device = data.x_train.device
    folder = Path(options.out) / "probe" / f"{options.model}-{options.arm}-seed{options.seed}"
    config = configuration(options, run, data.name, device.type == "cuda")
    rest, x_val, y_val = data.hold_out(run.setting.validation)
    training = Training(run.make_model(data), rest, run, folder / "state.pt", device)
    try:
        rows, seconds, state = earlier(folder, config, device)
    except ddi.record.AlreadyComplete:
        return print(f"{folder}: complete, kept")
    if state is not None:
        training.load(state)
    images, labels = (torch.split(v, run.setting.batch_size) for v in (x_val, y_val))
    done = {(row["step"], row["batch"]) for row in rows}
    with ddi.RunWriter(folder, config, ddi.provenance(data, device)) as record:
        record.resume(rows, seconds)
        training.save()
        for step in (step for step in options.steps if step >= training.step):
            training.go_on(step)
            for b in (b for b in range(options.batches) if (step, b) not in done):
                next_one = (b + 1) % max(2, options.batches)
                other, seed = [images[next_one], labels[next_one]], 10**7 + 1000 * step + 10 * b
                model = training.model.eval()
                for row in probe(model, images[b], labels[b], other, run, options, seed):
                    record.log(step=step, batch=b, **row, seconds=round(record.seconds, 1))
                cosine, phi = row["cosine_mean"], row["phi"]
                print(
                    f"step {step}, batch {b}: mean cosine {cosine:.4f}, phi {phi:.4f}", flush=True
                )


if __name__ == "__main__":
    main()
