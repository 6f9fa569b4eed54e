"""Do robust networks show better saliency maps on CIFAR-10, and is it the adversary? The record
behind chapter 19.

    DDI_DATA=<folder> python experiments/saliency.py                     # all arms, seeds 0 ... 4
    DDI_DATA=<folder> python experiments/saliency.py --data cifar10      # the same images of it

**Design, fixed before the run.** Lossless images: the first 1 017 of each of the six files of
CIFAR-10, 5 085 to train and 1 017 to test (of a set of 50 000 + 10 000 in the original order these
are taken). SmallNet, CELU, no normalisation: where GroupNorm follows the first layer the logits do
not change if an image is multiplied by a number, so <a, g> = 0 for every network (seen after one
epoch of a seed that is not used here). Random crops and flips. Training is chapter 19's of the
digits: Adam, learning rate 0.003 falling linearly to 0, batches of 100; here 40 epochs. The arms of
a seed share initial weights, batches and crops. eps = 8/255, box [0, 1].

- ``plain``; ``adversarial``: PGD, five steps of eps / 2 from a random start, l-infinity.
- ``noise``, chapter 19's control: random signs of 2 eps, and no adversary. ``uniform``: uniform in
  [-eps, eps]. ``strong-noise``: random signs of 8 eps = 0.25.

**Measured** at the end on the test images: ``clean``; ``robust``, accuracy under PGD-20 (steps of
eps / 8, random start); ``alignment``, the median over the images a of |<a, g>| / |g| with g the
gradient of the label's logit in the image (chapter 19's measure); ``centred``, the same with every
channel of a less its mean, since the brightness of a photograph is no drawing of what is on it.

**Reading rule.** An arm raises a measure over another if it does in every seed. Chapter 19's
verdict on digits is repeated if ``adversarial`` raises the alignment over ``plain``, and ``noise``
brings at least half of that gain in every seed; the second half fails if it brings less than half
in every seed; anything else is left open. ``alignment`` decides, ``centred`` is told beside it.

Writes results/saliency/<arm>-seed<k>/, and of seed 0 results/saliency/maps.npz: g of the first
correctly labelled test image of each of six classes (by all arms; no image is stored), summed over
the channels and scaled to +-127. Complete records are kept as they are.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ddi import (
    PGD,
    Dataset,
    RunWriter,
    SmallNet,
    clean_accuracy,
    crop_and_flip,
    cross_entropy,
    load_data,
    provenance,
    read_record,
    robust_accuracy,
)

ROOT = Path(__file__).resolve().parents[1]
EPS, EACH, STEPS, LR, BATCH = 8 / 255, 1017, 5, 0.003, 100
SETTING = {
    "data": "cifar10, the first 1 017 images of each file",
    "model": "SmallNet, norm none",
    "eps": EPS,
    "steps": STEPS,
    "optimiser": "Adam",
    "lr": LR,
    "batch_size": BATCH,
}
ARMS = ("plain", "uniform", "noise", "strong-noise", "adversarial")
SIGNS = {"noise": 2 * EPS, "strong-noise": 8 * EPS}
CLASSES = (0, 1, 3, 7, 8, 9)  # of the maps: aeroplane, car, cat, horse, ship, lorry


def firsts(data: Dataset) -> Dataset:
    """The first images of each file of CIFAR-10: of the whole set, or what is this part already."""
    if len(data.x_train) == 5 * EACH and len(data.x_test) == EACH:
        return data
    if len(data.x_train) != 50_000 or len(data.x_test) != 10_000:
        raise ValueError(f"data must be CIFAR-10 or this part, got {len(data.x_train)} images")
    keep = torch.arange(50_000) % 10_000 < EACH
    x, y = data.x_train[keep], data.y_train[keep]
    return Dataset(data.name, x, y, data.x_test[:EACH], data.y_test[:EACH], data.classes)


def perturbed(arm: str, model: nn.Module, x: Tensor, y: Tensor, draw: torch.Generator) -> Tensor:
    """The images that an arm is trained on."""
    if arm == "adversarial":
        return x + PGD(EPS, EPS / 2, STEPS)(model, x, y, draw)
    if arm == "plain":
        return x
    share = 2 * torch.rand(x.shape, generator=draw) - 1
    return (x + (EPS * share if arm == "uniform" else SIGNS[arm] * share.sign())).clamp(0, 1)


def saliency(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of each label's logit in its image."""
    images = x.clone().requires_grad_()
    logits = model(images).gather(1, y[:, None])
    return torch.autograd.grad(logits.sum(), images)[0]


def alignment(x: Tensor, g: Tensor) -> float:
    """Median over the images of ``|<a, g>| / |g|``."""
    along = (x * g).flatten(1).sum(1).abs()
    return (along / g.flatten(1).norm(dim=1).clamp_min(1e-30)).median().item()


def measured(model: nn.Module, x: Tensor, y: Tensor, g: Tensor) -> dict[str, float]:
    """The columns of the record that are measured on test images."""
    attack, start = PGD(EPS, EPS / 8, 20), torch.Generator().manual_seed(0)
    return {
        "clean": clean_accuracy(model, x, y).value,
        "robust": robust_accuracy(model, x, y, attack, generator=start).value,
        "alignment": alignment(x, g),
        "centred": alignment(x - x.mean((2, 3), keepdim=True), g),
    }


def trained(arm: str, seed: int, epochs: int, data: Dataset) -> tuple[nn.Module, float]:
    """A network, and the loss of its last epoch."""
    torch.manual_seed(seed)
    model = SmallNet(norm="none")
    batches, draw = (torch.Generator().manual_seed(s) for s in (seed, seed + 10**6))
    optimiser = torch.optim.Adam(model.parameters())
    for epoch in range(epochs):
        optimiser.param_groups[0]["lr"] = LR * (1 - epoch / epochs)
        losses = []
        order = torch.randperm(len(data.x_train), generator=batches)
        for batch in torch.split(order, BATCH):
            images, y = crop_and_flip(data.x_train[batch], generator=batches), data.y_train[batch]
            loss = cross_entropy(model(perturbed(arm, model, images, y, draw)), y).mean()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            losses.append(loss.item())
    return model.eval(), sum(losses) / len(losses)


def run(arm: str, seed: int, epochs: int, data: Dataset, out: Path) -> Tensor | None:
    """Train one network, write its record, and return its maps and where it is right."""
    folder = out / f"{arm}-seed{seed}"
    if (folder / "provenance.json").exists() and read_record(folder).complete:
        print(f"{folder.name}: complete, kept")
        return None
    config = SETTING | {"arm": arm, "seed": seed, "epochs": epochs}
    with RunWriter(folder, config, provenance(data)) as record:
        started = time.perf_counter()
        model, loss = trained(arm, seed, epochs, data)
        seconds = time.perf_counter() - started
        g = saliency(model, data.x_test, data.y_test)
        row = measured(model, data.x_test, data.y_test, g)
        record.log(epoch=epochs, train_loss=loss, seconds=seconds, **row)
    print(f"{folder.name}: " + ", ".join(f"{k} {v:.3f}" for k, v in row.items()), flush=True)
    with torch.no_grad():
        right = model(data.x_test).argmax(1) == data.y_test
    return torch.cat([g.sum(1).flatten(1), right[:, None]], 1)


def keep_maps(found: dict[str, Tensor], data: Dataset, out: Path) -> None:
    """Write ``maps.npz``: the maps of the chosen images by arm, their classes and numbers."""
    right = torch.stack([rows[:, -1] > 0 for rows in found.values()]).all(0)
    chosen = [(right & (data.y_test == c)).nonzero().flatten()[:1] for c in CLASSES]
    numbers = torch.cat(chosen)
    maps = {}
    for arm, rows in found.items():
        part = rows[numbers, :-1]
        whole = (127 * part / part.abs().amax(1, keepdim=True)).round().to(torch.int8)
        maps[arm] = whole.view(-1, *data.x_test.shape[2:]).numpy()
    maps |= {"image": numbers.numpy(), "label": data.y_test[numbers].numpy()}
    np.savez_compressed(out / "maps.npz", allow_pickle=False, **maps)


def main() -> None:
    """All runs, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", default="cifar10_lossless")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "saliency")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = firsts(load_data(options.data))
    for seed in range(options.seeds):
        found = {arm: run(arm, seed, options.epochs, data, options.out) for arm in ARMS}
        if seed == 0 and all(rows is not None for rows in found.values()):
            keep_maps(
                {arm: rows for arm, rows in found.items() if rows is not None}, data, options.out
            )


if __name__ == "__main__":
    main()
