"""Wrong labels: which objective keeps its robustness while the network memorises them? The record
behind chapter 15.

    python experiments/digits_noise.py                        # all arms, seeds 0 ... 4
    python experiments/digits_noise.py --arms pgd,trades --seeds 3 --out /tmp/noise

**Design, fixed before the run.** The first 400 training digits, of which each gets, with
probability 0.2, another label, drawn for every seed anew. A perceptron of one hidden layer (512,
CELU), l-infinity, eps = 0.1, box [0, 1]; Adam with learning rate 0.001, batches of 50, 100 epochs.
All training attacks take seven steps of eps / 4 from a random start.

- ``pgd``: cross-entropy, attacked by cross-entropy. ``margin``: cross-entropy, attacked by the
  margin. ``beta``: cross-entropy, attacked by BETA (nine times the passes of an attack).
- ``trades``: TRADES with beta = 6, attacked by KL. ``mart``: MART with beta = 5, attacked by
  cross-entropy.

**Measured** after every tenth epoch on the 397 test images, whose labels are right: ``clean``;
``pgd``, accuracy under PGD-20; ``strong``, share that stands PGD-20 on cross-entropy and BETA-20,
each with steps of eps / 10 from a random start; and on the training images ``memorised``, the share
of the wrong labels that the network gives back on the images as they are. ``passes``:
forward-and-backward passes of a batch so far; ``seconds``: of training.

**Reading rule.** What an arm loses is its best ``strong`` less its last, a seed at a time. An arm
is better than another where it is in every seed; all seeds that ran are shown.

Writes results/digits-noise/<arm>-seed<k>/; complete records are kept as they are.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from ddi import (
    BETA,
    KL,
    MART,
    MLP,
    PGD,
    TRADES,
    Rule,
    RunWriter,
    assign_gradient,
    clean_accuracy,
    descent_rule,
    digits,
    frozen,
    margin_loss,
    provenance,
    read_record,
)

ROOT = Path(__file__).resolve().parents[1]
EPS, STEPS = 0.1, 7
SETTING = {
    "data": "digits, 400 images, 20 % of the labels wrong",
    "eps": EPS,
    "steps": STEPS,
    "hidden": 512,
    "optimiser": "Adam",
    "lr": 0.001,
    "batch_size": 50,
    "evaluate_every": 10,
}
ARMS: dict[str, tuple[Rule, PGD]] = {
    "pgd": (descent_rule("single"), PGD(EPS, EPS / 4, STEPS)),
    "margin": (descent_rule("single"), PGD(EPS, EPS / 4, STEPS, loss=margin_loss)),
    "beta": (descent_rule("single"), BETA(EPS, EPS / 4, STEPS)),
    "trades": (descent_rule("single", loss=TRADES(6.0)), PGD(EPS, EPS / 4, STEPS, loss=KL())),
    "mart": (descent_rule("single", loss=MART(5.0)), PGD(EPS, EPS / 4, STEPS)),
}


def noisy(y: Tensor, draw: torch.Generator) -> Tensor:
    """Labels of which one in five, on average, is another one."""
    wrong = torch.rand(len(y), generator=draw) < 0.2
    other = (y + torch.randint(1, 10, (len(y),), generator=draw)) % 10
    return torch.where(wrong, other, y)


def stands(model: nn.Module, x: Tensor, y: Tensor, attack: PGD) -> Tensor:
    """Which images are classified as labelled under the attack, ``(N,)``."""
    moved = x + attack(model, x, y, torch.Generator().manual_seed(0))
    with frozen(model), torch.no_grad():
        return model(moved).argmax(1) == y


def measured(
    model: nn.Module, x: Tensor, y: Tensor, images: Tensor, given: Tensor, true: Tensor
) -> dict[str, float]:
    """The columns of the record, but for those of the training itself."""
    pgd, beta = (stands(model, x, y, kind(EPS, EPS / 10, 20)) for kind in (PGD, BETA))
    wrong = given != true
    return {
        "clean": clean_accuracy(model, x, y).value,
        "pgd": pgd.double().mean().item(),
        "strong": (pgd & beta).double().mean().item(),
        "memorised": clean_accuracy(model, images[wrong], given[wrong]).value,
    }


def run(arm: str, seed: int, epochs: int, out: Path) -> None:
    """Train one network and write its record."""
    folder = out / f"{arm}-seed{seed}"
    if (folder / "provenance.json").exists() and read_record(folder).complete:
        print(f"{folder.name}: complete, kept")
        return
    (rule, attack), data = ARMS[arm], digits()
    x, true = data.x_train[:400], data.y_train[:400]
    draw = torch.Generator().manual_seed(seed)
    y = noisy(true, draw)
    torch.manual_seed(seed)
    model = MLP(hidden=(512,))
    optimiser = torch.optim.Adam(model.parameters(), SETTING["lr"])
    config = SETTING | {"arm": arm, "seed": seed, "epochs": epochs}
    passes, seconds = 0, 0.0
    with RunWriter(folder, config, provenance(data)) as record:
        for epoch in range(1, epochs + 1):
            started, losses = time.perf_counter(), []
            for batch in torch.randperm(len(x), generator=draw).split(SETTING["batch_size"]):
                step = rule(model.train(), x[batch], y[batch], attack, draw)
                assign_gradient(model, step.gradient)
                optimiser.step()
                passes += rule.passes(attack.passes_for(10))
                losses.append(step.loss)
            seconds += time.perf_counter() - started
            if epoch % SETTING["evaluate_every"] == 0 or epoch == epochs:
                row = measured(model, data.x_test, data.y_test, x, y, true)
                mean = sum(losses) / len(losses)
                record.log(epoch=epoch, train_loss=mean, passes=passes, seconds=seconds, **row)
    print(f"{folder.name}: " + ", ".join(f"{k} {v:.3f}" for k, v in row.items()), flush=True)


def main() -> None:
    """All runs, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "digits-noise")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(options.seeds):
        for arm in options.arms.split(","):
            run(arm, seed, options.epochs, options.out)


if __name__ == "__main__":
    main()
