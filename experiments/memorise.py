"""Wrong labels, memorised or not: SGD, SAM and SAMPa on scikit-learn's digits (chapter 17).

    python experiments/memorise.py

Of 600 training images 40 % have a wrong label, drawn among the nine others; so have 300 images held
out for validation. The 397 test images have their own labels, and nothing is chosen by them. Each
arm trains a network 64-256-10 (CELU) by SGD without momentum and weight decay, 100 epochs of
batches of 50, at each learning rate of the same grid, on four seeds (weights, split, noise,
batches). The arms see the same batches. ``normalised`` is the control that has SGD's direction and
a step of fixed length. ``results/memorise/<arm>.json`` holds, for each run, the accuracy on the
test images, on the validation images and on the training images (both by their given labels),
after every second epoch. A record that is complete is kept.
"""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from ddi import MLP, SAM, SAMPa, assign_gradient, descent_rule, digits, provenance

RESULTS = Path(__file__).resolve().parents[1] / "results" / "memorise"
SETTING = {
    "data": "digits",
    "train": 600,
    "validation": 300,
    "noise": 0.4,
    "hidden": 256,
    "epochs": 100,
    "every": 2,
    "batch_size": 50,
    "lr": [0.03, 0.1, 0.3],
    "seeds": 4,
}
SINGLE = descent_rule("single")
ARMS = {
    "sgd": lambda lr: SINGLE,
    "normalised": lambda lr: descent_rule("single", normalize=True),
    "sam": lambda lr: SAM(SINGLE, rho=0.5),
    "sam-small": lambda lr: SAM(SINGLE, rho=0.2),
    "sampa": lambda lr: SAMPa(SINGLE, rho=0.5, lam=0.2, t=lr),
    "sampa-0": lambda lr: SAMPa(SINGLE, rho=0.5, lam=0.0, t=lr),
}
Images = tuple[Tensor, Tensor]


def split(seed: int) -> tuple[Images, Images, Images]:
    """Training, validation and test images with their labels; the first two noisy."""
    data, draw = digits(), torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.x_train), generator=draw)
    x, y = data.x_train[order], data.y_train[order]
    wrong = torch.rand(len(y), generator=draw) < SETTING["noise"]
    other = (y + torch.randint(1, 10, y.shape, generator=draw)) % 10
    y, n = torch.where(wrong, other, y), SETTING["train"]
    held = slice(n, n + SETTING["validation"])
    return (x[:n], y[:n]), (x[held], y[held]), (data.x_test, data.y_test)


def clean(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """No adversary."""
    return torch.zeros_like(x)


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return round((model(x).argmax(1) == y).double().mean().item(), 4)


def run(arm: str, lr: float, seed: int) -> dict:
    """Train one network."""
    train, validation, test = split(seed)
    torch.manual_seed(seed)
    model, rule = MLP(hidden=(SETTING["hidden"],)), ARMS[arm](lr)
    optimiser = torch.optim.SGD(model.parameters(), lr)
    draw, x, y = torch.Generator().manual_seed(seed), *train
    found: dict = {"lr": lr, "seed": seed, "test": [], "validation": [], "train": []}
    for epoch in range(1, SETTING["epochs"] + 1):
        for part in torch.randperm(len(x), generator=draw).split(SETTING["batch_size"]):
            assign_gradient(model, rule(model, x[part], y[part], clean).gradient)
            optimiser.step()
        if epoch % SETTING["every"] == 0:
            for name, images in (("test", test), ("validation", validation), ("train", train)):
                found[name].append(accuracy(model, *images))
    return found


def main() -> None:
    """All runs."""
    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for arm in ARMS:
        path = RESULTS / f"{arm}.json"
        if path.exists():
            print(f"{arm}: complete, kept")
            continue
        runs = [run(arm, lr, s) for lr in SETTING["lr"] for s in range(SETTING["seeds"])]
        record = {"arm": arm, "setting": SETTING, "provenance": provenance(digits()), "runs": runs}
        path.write_text(json.dumps(record, separators=(",", ":")) + "\n", encoding="utf-8")
        for lr in SETTING["lr"]:
            last = [r["test"][-1] for r in runs if r["lr"] == lr]
            best = [max(r["test"]) for r in runs if r["lr"] == lr]
            print(f"{arm:10} lr {lr}: last {last}, best epoch {best}", flush=True)


if __name__ == "__main__":
    main()
