"""Catastrophic overfitting in seconds: does training with one step of FGSM collapse, and what
prevents it? The record behind chapter 16.

    python experiments/digits_collapse.py                     # all arms, seeds 0 ... 15
    python experiments/digits_collapse.py --arms fgsm,fast --seeds 4 --out /tmp/collapse

**Design, fixed before the run.** Digits, binarised at one half, 1 400 to train; l-infinity, eps =
0.4, box [0, 1]: an image of zeros and ones is still there in every image of its set, by rounding.
Conv(1, 16, 3) - Conv(16, 32, 3, stride 2) - 64 - 10 with ReLU and PyTorch's initialisation. Adam,
batches of 64, 30 epochs, a learning rate that rises to 0.005 over the first tenth of the training
and falls to a fifth of it. A penalty's weight rises linearly over the first quarter. Every seed has
its own initialisation, batches and noise; the seeds of an arm run side by side as one network with
stacked parameters.

- ``fgsm``: one step of eps from 0. ``fast``: one step of 1.25 eps from a random start (Wong et al.
  2020). ``pgd7``: seven steps of eps / 4 from a random start.
- ``elle-100``, ``elle-300``, ``gradalign-0.3``, ``llr-10``, ``cure-0.03``: ``fgsm`` and a penalty,
  whose number is its weight: the package's (:mod:`ddi.objectives`), for stacked networks.
- ``pgd4``, ``pgd5`` (added after the other arms had run): four steps of eps / 2, five of 0.4 eps,
  two radii in all as in the rule of chapter 1, from a random start. They take as many passes as
  ELLE and LLR (5), as GradAlign and CURE (6).

*Pilots*, with the seeds 100 to 103, which the record leaves out. At eps = 0.3 ``fgsm`` lost 0.1 to
0.4 of accuracy from FGSM to PGD-40, but none of 20 runs, with five schedules, ended below one half;
nor did six without a box (0.2, 0.3). At eps = 0.35 one of three and at 0.4 two of three did, and
``pgd7`` and ``fast`` at 0.4 did not; so 0.4 was taken. Each penalty ran once with three of these
seeds, to see that it trains; the weights come from older trials at eps = 0.3 and were not tuned.

**Reading rule.** A run has *collapsed* where its accuracy under PGD-40 is less than half of its
accuracy under FGSM. The result of an arm is the *share of seeds* that had collapsed at the last
epoch, and the share that had at some evaluated epoch of the last three quarters of the training;
both of all seeds that ran. Medians rank nothing: with other rounding (another processor, another
number of seeds side by side) the same seed may end elsewhere. An arm is said to collapse less often
than ``fgsm`` where Fisher's exact test, one-sided, gives p < 0.05; arms that differ by less are
level. A network of accuracy under 0.3 on clean images is *dead*, and counted apart.

*Equal passes* (added with the arms ``pgd4`` and ``pgd5``, before they ran): each penalty against
the arm with as many passes, by the accuracies under PGD-40 at the last epoch of all seeds. One of
the two is ahead where the Mann-Whitney test, two-sided, gives p < 0.05; else they are not told
apart. The penalties' weights were not tuned, nor were the steps of ``pgd4`` and ``pgd5``.

**Measured** after every second epoch, on the first 200 test images: ``clean``; ``fgsm``: accuracy
at the FGSM perturbation; ``pgd``: share classified rightly at the image itself, at a random start
and at every one of the 40 iterates of step eps / 10 that follow; ``misalignment`` and ``elle``: the
measures of local linearity that GradAlign and ELLE penalise; ``loss_0`` ... ``loss_10``: the mean
loss at the image plus 0, 0.1, ... 1 of its FGSM perturbation. ``passes``: forward and backward
passes of a batch in one step, in the parameters or in the images; ``seconds``: of training an
epoch, a seed (on a busy machine: no measure of cost).

Writes results/digits-collapse/<arm>-seed<k>/; complete records are kept as they are.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cosine_similarity
from torch.nn.functional import cross_entropy as _cross_entropy

from ddi import RunWriter, digits, provenance, read_record

ROOT = Path(__file__).resolve().parents[1]
EPS = 0.4
SETTING = {
    "data": "digits, binarised at 0.5",
    "eps": EPS,
    "norm": "Linf",
    "batch_size": 64,
    "optimiser": "Adam",
    "lr": 0.005,
    "schedule": "up in the first tenth, down to a fifth",
    "ramp": 0.25,
    "evaluate_every": 2,
    "test_images": 200,
}
Parameters = list[Tensor]  # each (S, ...): S networks side by side


def network(seed: int) -> nn.Sequential:
    """One network, as PyTorch initialises it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)),
        )


def stack(networks: list[nn.Sequential]) -> Parameters:
    """Their parameters, side by side."""
    each = zip(*(net.parameters() for net in networks), strict=True)
    return [torch.stack(list(tensors)).detach().requires_grad_() for tensors in each]


def logits(θ: Parameters, x: Tensor) -> Tensor:
    """Outputs ``(S, B, 10)`` of all networks, each at its own images ``(S, B, 1, 8, 8)``."""
    S, B = x.shape[:2]
    h = x.transpose(0, 1).flatten(1, 2)  # one image of S groups of channels
    for w, b, stride in ((θ[0], θ[1], 1), (θ[2], θ[3], 2)):
        h = conv2d(h, w.flatten(0, 1), b.flatten(), stride, padding=1, groups=S).relu()
    h = h.view(B, S, -1).transpose(0, 1)
    h = torch.baddbmm(θ[5][:, None], h, θ[4].mT).relu()
    return torch.baddbmm(θ[7][:, None], h, θ[6].mT)


def losses(θ: Parameters, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of every image, ``(S, B)``."""
    z = logits(θ, x)
    return _cross_entropy(z.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)


def slopes(θ: Parameters, x: Tensor, y: Tensor, graph: bool = False) -> Tensor:
    """Gradients of the losses in the images; with a graph, to be differentiated again."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(losses(θ, x, y).sum(), x, create_graph=graph)[0]


def project(δ: Tensor, x: Tensor) -> Tensor:
    """Onto ball and box; for images of zeros and ones this is exact."""
    return δ.clamp((-x).clamp(min=-EPS), (1 - x).clamp(max=EPS))


class Draw:
    """Random numbers, a source of its own for every seed."""

    def __init__(self, seeds: list[int], stream: int) -> None:
        self.sources = [torch.Generator().manual_seed(1000 * stream + seed) for seed in seeds]

    def uniform(self, *shape: int) -> Tensor:
        """``(S, *shape)``, uniform in [0, 1]."""
        return torch.stack([torch.rand(shape, generator=g) for g in self.sources])

    def order(self, n: int) -> Tensor:
        """A permutation a seed, ``(S, n)``."""
        return torch.stack([torch.randperm(n, generator=g) for g in self.sources])

    def point(self, x: Tensor) -> Tensor:
        """A point of every image's set: uniform in the ball, clipped to the box."""
        return x + project(EPS * (2 * self.uniform(*x.shape[1:]) - 1), x)


def sign_steps(
    θ: Parameters, x: Tensor, y: Tensor, start: Tensor, steps: int, size: float
) -> Tensor:
    """Projected steps along the sign of the gradient."""
    δ = start
    for _ in range(steps):
        δ = project(δ + size * slopes(θ, x + δ, y).sign(), x)
    return δ


def fgsm(θ: Parameters, x: Tensor, y: Tensor, draw: Draw) -> Tensor:
    """One step of eps from 0."""
    return sign_steps(θ, x, y, torch.zeros_like(x), 1, EPS)


def fast(θ: Parameters, x: Tensor, y: Tensor, draw: Draw) -> Tensor:
    """One step of 1.25 eps from a random start."""
    return sign_steps(θ, x, y, draw.point(x) - x, 1, 1.25 * EPS)


def pgd(
    θ: Parameters, x: Tensor, y: Tensor, draw: Draw, steps: int = 7, size: float = EPS / 4
) -> Tensor:
    """Steps from a random start."""
    return sign_steps(θ, x, y, draw.point(x) - x, steps, size)


def elle(θ: Parameters, x: Tensor, y: Tensor, draw: Draw) -> Tensor:
    """``(l(c) - (1 - t) l(a) - t l(b))^2`` for ``c = (1 - t) a + t b`` between two random points;
    ``(S, B)``.
    """
    a, b, t = draw.point(x), draw.point(x), draw.uniform(x.shape[1])
    w = t[..., None, None, None]
    many = torch.cat([a, b, (1 - w) * a + w * b], 1)
    la, lb, lc = losses(θ, many, y.repeat(1, 3)).chunk(3, 1)
    return (lc - (1 - t) * la - t * lb).square()


def gradalign(θ: Parameters, x: Tensor, y: Tensor, draw: Draw) -> Tensor:
    """One minus the cosine of the gradients at the image and at a random point; ``(S, B)``."""
    g, h = slopes(θ, torch.cat([x, draw.point(x)], 1), y.repeat(1, 2), True).chunk(2, 1)
    return 1 - cosine_similarity(g.flatten(2), h.flatten(2), dim=2)


def llr(θ: Parameters, x: Tensor, y: Tensor, draw: Draw) -> Tensor:
    """``|l(x + e) - l(x) - <e, grad l(x)>|`` at a random ``e``; ``(S, B)``."""
    x, there = x.detach().requires_grad_(), draw.point(x)
    here = losses(θ, x, y)
    (g,) = torch.autograd.grad(here.sum(), x, create_graph=True)
    rise = ((there - x).detach() * g).flatten(2).sum(2)
    return (losses(θ, there, y) - here - rise).abs()


def cure(θ: Parameters, x: Tensor, y: Tensor, draw: Draw) -> Tensor:
    """``||grad l(x + 1.5 z) - grad l(x)||^2``, ``z`` the sign of ``grad l(x)`` divided by its
    length; ``(S, B)``.
    """
    here = slopes(θ, x, y, True)
    sign = here.detach().sign()
    z = sign / sign.flatten(2).norm(dim=2).clamp_min(1.0)[..., None, None, None]
    return (slopes(θ, x + 1.5 * z, y, True) - here).flatten(2).square().sum(2)


@dataclass(frozen=True)
class Arm:
    """An attack, and a penalty with its weight; ``passes`` of one step."""

    attack: Callable[[Parameters, Tensor, Tensor, Draw], Tensor]
    passes: int
    penalty: Callable[[Parameters, Tensor, Tensor, Draw], Tensor] | None = None
    weight: float = 0.0


ARMS = {  # a gradient that is differentiated again counts twice
    "fgsm": Arm(fgsm, 2),
    "fast": Arm(fast, 2),
    "pgd7": Arm(pgd, 8),
    "pgd4": Arm(partial(pgd, steps=4, size=EPS / 2), 5),
    "pgd5": Arm(partial(pgd, steps=5, size=0.4 * EPS), 6),
    "elle-100": Arm(fgsm, 5, elle, 100.0),
    "elle-300": Arm(fgsm, 5, elle, 300.0),
    "gradalign-0.3": Arm(fgsm, 6, gradalign, 0.3),
    "llr-10": Arm(fgsm, 5, llr, 10.0),
    "cure-0.03": Arm(fgsm, 6, cure, 0.03),
}


def rate(done: float) -> float:
    """Share of the largest learning rate, after a share of the training."""
    return done / 0.1 if done < 0.1 else 0.2 + 0.8 * (1 - done) / 0.9


def train(
    arm: Arm, θ: Parameters, x: Tensor, y: Tensor, epochs: int, draw: Draw
) -> Iterator[dict[str, Tensor | float]]:
    """Train all networks side by side; after each epoch the means of loss and penalty, ``(S,)``."""
    optimiser = torch.optim.Adam(θ)
    size = SETTING["batch_size"]
    total, step = epochs * -(-len(x) // size), 0
    for _ in range(epochs):
        start, sums = time.perf_counter(), torch.zeros(2, len(draw.sources))
        for rows in draw.order(len(x)).split(size, 1):
            step += 1
            images, labels = x[rows], y[rows]
            value = losses(θ, images + arm.attack(θ, images, labels, draw), labels).mean(1)
            extra = torch.zeros_like(value)
            if arm.penalty is not None:
                extra = arm.penalty(θ, images, labels, draw).mean(1)
            weight = arm.weight * min(1.0, step / (SETTING["ramp"] * total))
            optimiser.param_groups[0]["lr"] = SETTING["lr"] * rate(step / total)
            optimiser.zero_grad()
            (value + weight * extra).sum().backward()  # no network sees another's parameters
            optimiser.step()
            sums += torch.stack([value, extra]).detach() * rows.shape[1] / len(x)
        seconds = (time.perf_counter() - start) / len(draw.sources)
        yield {"train_loss": sums[0], "penalty": sums[1], "seconds": seconds}


def measure(θ: Parameters, x: Tensor, y: Tensor, draw: Draw) -> dict[str, Tensor]:
    """Everything that is evaluated, ``(S,)`` each."""
    θ = [p.detach() for p in θ]
    S = len(draw.sources)
    x, y = x.expand(S, *x.shape), y.expand(S, -1)

    def right(images: Tensor) -> Tensor:
        return logits(θ, images).argmax(2) == y

    δ = fgsm(θ, x, y, draw)
    found = {"clean": right(x).float(), "fgsm": right(x + δ).float()}
    stands, moved = right(x), draw.point(x) - x
    stands &= right(x + moved)
    for _ in range(40):
        moved = sign_steps(θ, x, y, moved, 1, EPS / 10)
        stands &= right(x + moved)
    found |= {"pgd": stands.float(), "misalignment": gradalign(θ, x, y, draw).detach()}
    found |= {"elle": elle(θ, x, y, draw)}
    found |= {f"loss_{i}": losses(θ, x + i / 10 * δ, y) for i in range(11)}
    return {name: value.mean(1) for name, value in found.items()}


def run(name: str, seeds: list[int], epochs: int, out: Path) -> None:
    """Train the seeds of an arm and write their records."""
    folders = [out / f"{name}-seed{seed}" for seed in seeds]
    if all((f / "provenance.json").exists() and read_record(f).complete for f in folders):
        print(f"{name}: complete, kept")
        return
    arm, data = ARMS[name], digits()
    x, x_test = ((t >= 0.5).float() for t in (data.x_train, data.x_test))
    source = provenance(data)
    config = SETTING | {"arm": name, "epochs": epochs, "weight": arm.weight, "passes": arm.passes}
    θ, draw = stack([network(seed) for seed in seeds]), Draw(seeds, 1)
    with ExitStack() as writers:
        records = [
            writers.enter_context(RunWriter(f, config | {"seed": s, "seeds": seeds}, source))
            for f, s in zip(folders, seeds, strict=True)
        ]
        x_test, y_test = (t[: SETTING["test_images"]] for t in (x_test, data.y_test))
        for epoch, trained in enumerate(train(arm, θ, x, data.y_train, epochs, draw), 1):
            if epoch % SETTING["evaluate_every"] and epoch < epochs:
                continue
            rows = trained | measure(θ, x_test, y_test, Draw(seeds, 2))
            for i, record in enumerate(records):
                row = {k: v if isinstance(v, float) else float(v[i]) for k, v in rows.items()}
                record.log(epoch=epoch, **row)
    shown = ", ".join(f"{f:.2f}/{p:.2f}" for f, p in zip(rows["fgsm"], rows["pgd"], strict=True))
    print(f"{name}: FGSM/PGD-40 {shown}", flush=True)


def main() -> None:
    """All arms, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", default=",".join(ARMS), help="names, with commas")
    parser.add_argument("--seeds", type=int, default=16, help="how many (default: 16)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "digits-collapse")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = list(range(options.first, options.first + options.seeds))
    for name in options.arms.split(","):
        run(name, seeds, options.epochs, options.out)


if __name__ == "__main__":
    main()
