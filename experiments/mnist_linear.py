"""Logistic regression on MNIST, 0 against 1, under the optimal l-infinity perturbation of radius
0.2 (chapter 01).

    DDI_DATA=<folder that holds MNIST/raw> python experiments/mnist_linear.py

Three ways to train: on clean images (``standard``), on optimally perturbed images with the box [0,
1] ignored (``robust-nobox``) or respected (``robust-box``); each by ten epochs of SGD with learning
rate 0.1 and 1 (``-lr1``), and three seeds. Each run writes results/mnist-linear/<arm>-seed<k>/; a
complete record is kept as it is. Errors are shares of the 2 115 test images, clean and perturbed
optimally without and with the box.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ddi import Dataset, LInf, RunWriter, mnist, provenance, read_record

RESULTS = Path(__file__).resolve().parents[1] / "results" / "mnist-linear"
NO_BOX, BOX = LInf(0.2, box=None), LInf(0.2, box=(0.0, 1.0))
TRAIN_ON = {"standard": None, "robust-nobox": NO_BOX, "robust-box": BOX}
SETTING = {
    "data": "mnist, 0 against 1",
    "eps": 0.2,
    "norm": "Linf",
    "epochs": 10,
    "batch_size": 100,
    "loss": "logistic",
}
INIT = "uniform in [-1/28, 1/28], weights and bias"


def worst(threat: LInf, θ: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Maximise the logistic loss over the set, exactly: ``-y eps sign(theta)``, clipped to the box
    if there is one.
    """
    return threat.project(-threat.eps * y[:, None] * θ.sign(), x)


def error(θ: Tensor, θ0: Tensor, x: Tensor, y: Tensor, threat: LInf | None = None) -> float:
    """Share of images that are not strictly on their side of the boundary."""
    x = x if threat is None else x + worst(threat, θ, x, y)
    return (y * (x @ θ + θ0) <= 0).double().mean().item()


def run(data: Dataset, source: dict, train_on: str, lr: float, seed: int) -> None:
    """Train one model and write its record."""
    arm = train_on + ("-lr1" if lr == 1 else "")
    folder = RESULTS / f"{arm}-seed{seed}"
    if (folder / "provenance.json").exists() and read_record(folder).complete:
        print(f"{folder.name}: complete, kept")
        return
    x, x_test = data.x_train.flatten(1), data.x_test.flatten(1)
    y, y_test = (2.0 * labels - 1 for labels in (data.y_train, data.y_test))
    generator = torch.Generator().manual_seed(seed)
    θ, θ0 = ((2 * torch.rand(n, generator=generator) - 1) / 28 for n in (784, 1))
    config = SETTING | {"arm": arm, "train_on": train_on, "lr": lr, "seed": seed, "init": INIT}
    config |= {"test_images": len(x_test)}
    with RunWriter(folder, config, source) as record:
        for epoch in range(1, SETTING["epochs"] + 1):
            total = 0.0
            for batch in torch.randperm(len(x), generator=generator).split(SETTING["batch_size"]):
                images, labels, threat = x[batch], y[batch], TRAIN_ON[train_on]
                if threat is not None:
                    images = images + worst(threat, θ, images, labels)
                margins = labels * (images @ θ + θ0)
                total += softplus(-margins).sum().item()
                # minus the loss's derivative in the logit
                slope = torch.sigmoid(-margins) * labels / len(labels)
                θ, θ0 = θ + lr * slope @ images, θ0 + lr * slope.sum()
            row = {
                "clean_error": error(θ, θ0, x_test, y_test),
                "error_nobox": error(θ, θ0, x_test, y_test, NO_BOX),
                "error_box": error(θ, θ0, x_test, y_test, BOX),
            }
            record.log(epoch=epoch, train_loss=total / len(x), **row)
    said = ", ".join(f"{key} {value:.4f}" for key, value in row.items())
    print(f"{folder.name}: {said}", flush=True)


def main() -> None:
    """All runs."""
    torch.set_num_threads(1)
    data = mnist().pair(0, 1)
    source = provenance(data)
    for lr in (0.1, 1.0):
        for train_on in TRAIN_ON:
            for seed in range(3):
                run(data, source, train_on, lr, seed)


if __name__ == "__main__":
    main()
