"""Wasserstein GANs in the plane: the lecture's algorithm as printed and as meant (chapter 20).

    python experiments/plane_gan.py                  all arms and seeds: ten minutes of an idle core
    python experiments/plane_gan.py clip matching    these arms

The data are eight Gaussians on a circle; the generator is a small network of Gaussian noise. An
arm names how the critic is kept 1-Lipschitz (``critic``), and whether each generator step starts
from a fresh critic (``restart``: so the printed algorithm) or from the last one. ``matching`` has
no critic: it descends the exact distance between the two batches. Each run writes
results/plane-gan/<arm>-seed<k>/ with a row every 25 generator steps, W1 between 400 fresh samples
of either law and the number of modes found; seed 0 also what the pictures need (pictures.npz).
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm

from ddi import RunWriter, provenance
from ddi.record import AlreadyComplete

RESULTS = Path(__file__).resolve().parents[1] / "results" / "plane-gan"
RADIUS, SPREAD, WIDTH = 2.0, 0.1, 64
CENTRES = RADIUS * torch.tensor(
    [[np.cos(a), np.sin(a)] for a in np.arange(8) * np.pi / 4], dtype=torch.float64
)
SHOWN = (0, 50, 100, 200, 400)  # generator steps of the pictures
BASE = {"steps": 400, "critic_steps": 5, "batch": 128, "lr": 1e-3, "lr_critic": 5e-3}
GENTLY = {"lr_critic": 2e-3}  # clipping at 5e-3 collapses; the rates were chosen on seeds 5 and 6
ARMS = {
    "matching": {"critic": "none", "restart": False},
    "groupsort": {"critic": "orthogonal groupsort", "restart": False},
    "groupsort-printed": {"critic": "orthogonal groupsort", "restart": True},
    "groupsort-printed-25": {"critic": "orthogonal groupsort", "restart": True, "critic_steps": 25},
    "clip": {"critic": "clip 0.1", "restart": False} | GENTLY,
    "clip-printed": {"critic": "clip 0.1", "restart": True} | GENTLY,
    "penalty": {"critic": "penalty 10", "restart": False},
    "penalty-printed": {"critic": "penalty 10", "restart": True},
}
# a fresh critic has more to do in as many steps: do rates of its own help? (0.05, of 0.02 and 0.05)
ARMS |= {f"{arm}-fast": ARMS[arm] | {"lr_critic": 0.05} for arm in ARMS if arm.endswith("printed")}


def ring(n: int, generator: torch.Generator) -> Tensor:
    """``n`` points of the data: a centre drawn at random, plus Gaussian noise; float64."""
    which = torch.randint(8, (n,), generator=generator)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return CENTRES[which] + SPREAD * noise


def matching(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The distance W1 between two samples of one size, and for each ``y`` the number of its ``x``
    in an optimal matching.
    """
    cost = torch.cdist(y.detach(), x.detach()).numpy()
    rows, columns = linear_sum_assignment(cost)
    return (y - x[columns]).norm(dim=1).mean(), torch.as_tensor(columns)


class GroupSort(nn.Module):
    """Sort neighbouring pairs of coordinates: 1-Lipschitz, and a gradient keeps its length."""

    def forward(self, a: Tensor) -> Tensor:
        return a.unflatten(-1, (-1, 2)).sort(-1).values.flatten(-2)


class Spline(nn.Module):
    """A learnable activation: linear between 13 knots, slopes in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.knots = torch.linspace(-3, 3, 13)
        self.slopes = nn.Parameter(torch.cat([-torch.ones(7), torch.ones(7)]))

    def forward(self, a: Tensor) -> Tensor:
        slopes = self.slopes.clamp(-1, 1)
        bends = (a[..., None] - self.knots.to(a)).relu() @ slopes.diff()
        return slopes[0] * a + bends


def critic(kind: str, width: int = WIDTH) -> nn.Sequential:
    """A network from the plane to the line with two hidden layers. ``kind``: words that name how
    its weights are kept (``spectral``, ``orthogonal``; ``clip`` and ``penalty`` act while it is
    trained) and its activation (``groupsort``, ``spline``; else ReLU).
    """
    keep: Callable[[nn.Module], nn.Module] = lambda layer: layer  # noqa: E731
    if "spectral" in kind:
        keep = spectral_norm
    elif "orthogonal" in kind:
        keep = lambda layer: orthogonal(layer, orthogonal_map="cayley")  # noqa: E731
    act = GroupSort if "groupsort" in kind else Spline if "spline" in kind else nn.ReLU
    sizes = (2, width, width, 1)
    layers = [keep(nn.Linear(a, b)) for a, b in zip(sizes, sizes[1:], strict=False)]
    return nn.Sequential(layers[0], act(), layers[1], act(), layers[2])


def certified(network: nn.Sequential) -> float:
    """A Lipschitz constant that holds everywhere: the product of the layers' spectral norms (all
    activations here are 1-Lipschitz).
    """
    linear = [layer.weight for layer in network if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        return float(np.prod([torch.linalg.matrix_norm(w, 2).item() for w in linear]))


def value(network: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """What the critic maximises: its mean on ``real`` minus its mean on ``fake``."""
    return network(real).mean() - network(fake).mean()


def slopes(network: nn.Module, points: Tensor) -> Tensor:
    """Norms of the critic's gradients at ``points``, differentiable in its weights."""
    points = points.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network(points).sum(), points, create_graph=True)
    return gradient.norm(dim=1)


class Ascent:
    """A critic of ``kind`` with its optimiser; each call is one step of ascent on the value."""

    def __init__(self, kind: str, lr: float, sign: float = -1.0) -> None:
        self.kind, self.sign, self.network = kind, sign, critic(kind)
        self.bound = float(kind.split()[-1]) if kind.startswith(("clip", "penalty")) else 0.0
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr, betas=(0.5, 0.9))

    def step(self, real: Tensor, fake: Tensor) -> None:
        """Ascend the value (with its penalty, if it has one; ``sign`` +1 is what is printed)."""
        gain = value(self.network, real, fake)
        if self.kind.startswith("penalty"):
            mix = torch.rand(len(real), 1)
            steep = slopes(self.network, mix * real + (1 - mix) * fake)
            gain = gain + self.sign * self.bound * ((steep - 1) ** 2).mean()
        self.optimiser.zero_grad()
        (-gain).backward()
        self.optimiser.step()
        if self.kind.startswith("clip"):
            with torch.no_grad():
                for weight in self.network.parameters():
                    weight.clamp_(-self.bound, self.bound)


def generator_network() -> nn.Sequential:
    """Noise in the plane to points in the plane."""
    return nn.Sequential(
        nn.Linear(2, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2)
    )


def measure(fake: Tensor, real: Tensor) -> dict[str, float]:
    """W1 of two fresh samples, and how many modes have at least a quarter of their share of
    ``fake`` within 0.5.
    """
    near = torch.cdist(fake, CENTRES).min(1)
    found = torch.bincount(near.indices[near.values < 0.5], minlength=8)
    return {
        "w1": float(matching(real, fake)[0]),
        "modes": int((found >= len(fake) / 8 / 4).sum()),
    }


def train(config: dict, record: RunWriter) -> dict[str, np.ndarray]:
    """Run the lecture's algorithm with the settings of ``config``; return what pictures need. The
    default dtype is the run's.
    """
    torch.manual_seed(config["seed"])
    noise = torch.Generator().manual_seed(1000 + config["seed"])
    network, batch = generator_network(), config["batch"]
    optimiser = torch.optim.Adam(network.parameters(), config["lr"], betas=(0.5, 0.9))
    rival: Ascent | None = None
    pictures: dict[str, np.ndarray] = {}
    side = torch.linspace(-3, 3, 41)
    grid = torch.cartesian_prod(side, side)

    def fake(n: int) -> Tensor:
        return network(torch.randn(n, 2, generator=noise))

    for t in range(config["steps"] + 1):
        if config["critic"] != "none":
            if rival is None or config["restart"]:
                rival = Ascent(config["critic"], config["lr_critic"])
            for _ in range(config["critic_steps"]):
                rival.step(ring(batch, noise), fake(batch).detach())
        if t % 25 == 0:
            with torch.no_grad():
                record.log(step=t, **measure(fake(400), ring(400, noise)))
        if t in SHOWN:
            with torch.no_grad():
                pictures[f"points{t}"] = fake(400).numpy().astype(np.float16)
                if rival is not None:
                    seen = rival.network(grid).view(41, 41)
                    pictures[f"critic{t}"] = (seen - seen.mean()).numpy().astype(np.float16)
        points = fake(batch)
        if rival is None:
            loss = matching(ring(batch, noise), points)[0]
        else:
            loss = -rival.network(points).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return pictures


def main(wanted: list[str]) -> None:
    """All arms that are wanted, five seeds each."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    source = provenance(None, dtype=torch.float64)
    for seed in range(5):
        for arm in wanted or ARMS:
            folder = RESULTS / f"{arm}-seed{seed}"
            config = {"arm": arm, "seed": seed} | BASE | ARMS[arm]
            try:
                with RunWriter(folder, config, source) as record:
                    pictures = train(config, record)
                    last = record.rows[-1]
                    if seed == 0:
                        np.savez_compressed(folder / "pictures.npz", **pictures)
            except AlreadyComplete:
                print(f"{folder.name}: complete, kept")
                continue
            print(f"{folder.name}: {last}, {record.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
