"""A maximum over the classes: the bundle step over ten class gradients against its rivals.

    python experiments/classes.py --workers 8     # runs what is not recorded yet, in order
    python experiments/classes.py --only eps0.15/bundle     # cells whose name begins so
    python experiments/classes.py --estimate      # core-minutes of what is left, measured
    python experiments/classes.py --table         # the analysis of what is recorded

The design, fixed before any run, is experiments/classes.md. Writes results/classes/eps<eps>/
<cell>.json. The networks of all seeds are trained side by side (``stack.py``).
"""

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from stack import Passes, Stack
from torch import Tensor

import ddi
from ddi.checkpoint import write_atomically

ROOT = Path(__file__).resolve().parents[1]
EPSILONS, SEEDS = (0.15, 0.1), tuple(range(100, 120))
C, PER_CLASS, HIDDEN, STEPS, RATE = 10, 6, 64, 2000, 0.01
TRAIN, VALIDATION = 1000, 300  # the rest of the 1 797 digits, 497, is the test part
RESTARTS, PROBES = 2, 40


@dataclass(frozen=True)
class Cell:
    """A rule that weighs the classes (or draws them), with its parameters."""

    name: str
    eps: float
    rule: str
    value: float = 0.0  # t of the bundle, eta, temperature, or the number of worst classes
    gamma: float = 0.0  # CFOL's share of uniform exploration


def weights(rule: str, value: float, losses: Tensor, gram: Tensor, scores: Tensor) -> Tensor:
    """Weights of the classes, ``(S, C)``, from class losses, ``(S, C)``, the Gram matrices of the
    class gradients, ``(S, C, C)``, and the scores that Hedge has collected, ``(S, C)``.
    """
    if rule == "bundle":
        return ddi.bundle(gram, losses, value).weights
    if rule == "minnorm":
        return ddi.min_norm_point(gram).weights
    if rule == "hedge":
        return scores.softmax(1)
    if rule == "tilt":
        return (losses / value).softmax(1)
    if rule == "cvar":
        worst = losses.topk(int(value), dim=1).indices
        return torch.zeros_like(losses).scatter_(1, worst, 1 / int(value))
    if rule in ("balanced", "plain", "cfol"):
        return torch.full_like(losses, 1 / C)
    raise ValueError(f"rule must be one of the design's, got {rule!r}")


@dataclass
class Parts:
    """Training, validation and test images of every seed, the training images sorted by class."""

    x: Tensor  # (n, 1, 8, 8), all digits
    y: Tensor  # (n,)
    seeds: tuple[int, ...] = SEEDS
    train: Tensor = field(init=False)  # (S, TRAIN) indices, as are the other two
    validation: Tensor = field(init=False)
    test: Tensor = field(init=False)

    def __post_init__(self) -> None:
        orders = [torch.randperm(len(self.x), generator=_random(seed, 0)) for seed in self.seeds]
        order = torch.stack(orders)
        train, rest = order[:, :TRAIN], order[:, TRAIN:]
        self.validation, self.test = rest[:, :VALIDATION], rest[:, VALIDATION:]
        self.train = train.gather(1, self.y[train].argsort(dim=1, stable=True))
        self.counts = torch.stack([(self.y[self.train] == c).sum(1) for c in range(C)], 1)
        self.starts = self.counts.cumsum(1) - self.counts

    def draw(self, classes: Tensor | None, uniform: Tensor) -> Tensor:
        """Training images, ``(S, B)`` indices, uniform in each of ``classes``, ``(S, B)``, or, with
        ``None``, uniform among all.
        """
        if classes is None:
            return self.train.gather(1, (uniform * TRAIN).long())
        place = (uniform * self.counts.gather(1, classes)).long() + self.starts.gather(1, classes)
        return self.train.gather(1, place)


def _random(seed: int, key: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 10**7 + key)


class Course:
    """One cell on its way."""

    def __init__(self, cell: Cell, parts: Parts) -> None:
        self.cell, self.parts, s = cell, parts, len(parts.seeds)
        self.stack = Stack([network(seed) for seed in parts.seeds])
        parameters = [*self.stack.weights, *self.stack.biases]
        self.adam = torch.optim.Adam(parameters, lr=RATE)
        self.attack = ddi.PGD(cell.eps, 2.5 * cell.eps / 7, 7)
        self.scores = torch.zeros(s, C, dtype=torch.float64)
        self.seen: dict[str, list[Any]] = {"step": [], "weights": [], "losses": []}

    @property
    def chances(self) -> Tensor:
        """CFOL's probabilities of the classes, ``(S, C)``."""
        return self.cell.gamma / C + (1 - self.cell.gamma) * self.scores.softmax(1)

    def batch(self, random: torch.Generator) -> Tensor:
        """Indices ``(S, C * PER_CLASS)``; the same uniform numbers choose images in every cell."""
        s, size = self.stack.count, C * PER_CLASS
        uniform = torch.rand(s, size, generator=random, dtype=torch.float64)
        if self.cell.rule == "plain":
            return self.parts.draw(None, uniform)
        classes = torch.arange(C).repeat_interleave(PER_CLASS).expand(s, -1)
        if self.cell.rule == "cfol":
            classes = torch.multinomial(self.chances, size, replacement=True, generator=random)
        return self.parts.draw(classes, uniform)

    def advance(self, step: int) -> None:
        """One step: batch, attack, weights of the classes, Adam."""
        rule, s = self.cell.rule, self.stack.count
        random = _random(self.parts.seeds[0], 1 + step)
        index = self.batch(random).flatten()
        x, y = self.parts.x[index], self.parts.y[index]
        delta = self.attack.restarts(self.stack, x, y, 1, random, batch_size=len(x))
        passes = Passes.of(self.stack, x, y, delta)
        # one row a class (in the cells with balanced batches, which alone look at the rows)
        passes = Passes(passes.losses.view(s, C, PER_CLASS), passes.inputs, passes.slopes)
        losses = passes.losses.mean(2).double()
        solved = rule in ("bundle", "minnorm")
        gram = passes.joint_gram.double() if solved else torch.empty(0)
        if rule == "hedge":
            self.scores += self.cell.value * losses
        elif rule == "cfol":
            self.feed(x + delta[0], y)
        w = weights(rule, self.cell.value, losses, gram, self.scores)
        if step % (STEPS // PROBES) == 0:
            self.look(step, w if rule != "cfol" else self.chances, losses)
        gradient = passes.gradient(w.to(x.dtype)[:, :, None].expand_as(passes.losses))
        for group in self.adam.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
            for p, g in zip(group["params"], gradient, strict=True):
                p.grad = g
        self.adam.step()

    @torch.no_grad()
    def feed(self, x: Tensor, y: Tensor) -> None:
        """CFOL's bandit feedback: eta / p_c for every adversarial error of class c."""
        wrong = (self.stack(x).argmax(1) != y).double().view(self.stack.count, -1)
        classes = y.view(self.stack.count, -1)
        paid = self.cell.value * wrong / self.chances.gather(1, classes)
        self.scores.scatter_add_(1, classes, paid)

    def look(self, step: int, w: Tensor, losses: Tensor) -> None:
        """Weights (CFOL: probabilities) and class losses of the first seed on the way."""
        self.seen["step"].append(step)
        for key, value in (("weights", w), ("losses", losses)):
            self.seen[key].append([round(v, 4) for v in value[0].tolist()])

    def outcome(self) -> dict[str, Any]:
        """Correct and all images by class, ``(S, C)``, under the final attack, and clean."""
        found: dict[str, Any] = {}
        attack = ddi.PGD(self.cell.eps, self.cell.eps / 10, 40, keep="best")
        parts = (("validation", self.parts.validation), ("test", self.parts.test))
        for number, (name, index) in enumerate(parts):
            x, y = self.parts.x[index.flatten()], self.parts.y[index.flatten()]
            random = _random(self.parts.seeds[0], 1_000_000 + number)
            deltas = attack.restarts(self.stack, x, y, RESTARTS, random, batch_size=len(x))
            with torch.no_grad():
                right = self.stack(x).argmax(1) == y
                robust = right.clone()
                for delta in deltas:
                    robust &= self.stack(x + delta).argmax(1) == y
            every = torch.ones_like(right)
            for key, hits in (("clean", right), ("robust", robust), ("images", every)):
                found[f"{name}_{key}"] = by_class(hits, y.view(index.shape)).tolist()
        return found


def by_class(hits: Tensor, y: Tensor) -> Tensor:
    """How many images of each class are hit, ``(S, C)``; ``y`` is ``(S, n)``."""
    return torch.zeros(len(y), C, dtype=torch.int64).scatter_add_(1, y, hits.view(y.shape).long())


def network(seed: int) -> ddi.MLP:
    """The network of a seed, float32, at PyTorch's initialisation."""
    torch.manual_seed(seed)
    return ddi.MLP(64, C, (HIDDEN,), "celu")


def run(cell: Cell, out: Path) -> str:
    """Make the record of one cell, if it is not there; returns a line that says what it is."""
    path = out / f"eps{cell.eps:g}" / f"{cell.name}.json"
    if path.exists():
        return f"{path.parent.name}/{cell.name}: recorded"
    torch.set_num_threads(1)
    data, begun = ddi.digits(), time.process_time()
    course = Course(cell, parts_of(data))
    for step in range(STEPS):
        course.advance(step)
    outcome = course.outcome()
    record = {"cell": asdict(cell), "seeds": course.parts.seeds, "steps": STEPS, "hidden": HIDDEN}
    record |= {"batch": C * PER_CLASS, "rate": RATE, "outcome": outcome, "seen": course.seen}
    record |= {"cpu_seconds": round(time.process_time() - begun, 1)}
    record |= {"provenance": ddi.provenance(data)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record) + "\n").encode())
    hit, of = (torch.tensor(outcome[f"validation_{k}"]) for k in ("robust", "images"))
    share = hit / of
    return (
        f"{path.parent.name}/{cell.name}: validation, average {hit.sum() / of.sum():.3f}, "
        f"worst class {share.amin(1).mean():.3f}, {record['cpu_seconds']} s"
    )


def parts_of(data: ddi.Dataset) -> Parts:
    """All digits, split anew for every seed."""
    return Parts(torch.cat([data.x_train, data.x_test]), torch.cat([data.y_train, data.y_test]))


# six cells a method, as many as the design allows each
BUNDLE = (1.0, 0.1, 3.0, 0.3, 2.0, 0.5)
CFOL = ((5e-4, 0.5), (2e-3, 0.5), (5e-4, 0.9), (1e-4, 0.5), (5e-4, 0.1), (2e-3, 0.9))
HEDGE = (0.05, 0.01, 0.2, 0.002, 0.02, 5e-4)
TILT = (0.3, 1.0, 0.1, 3.0, 0.5, 0.03)
CVAR = (3, 5, 7, 1, 2, 9)


def cells() -> Iterator[Cell]:
    """The cells in the design's order."""
    for eps in EPSILONS:
        yield from (Cell(rule, eps, rule) for rule in ("plain", "balanced"))
        yield from (Cell(f"bundle-{t:g}", eps, "bundle", t) for t in BUNDLE)
        yield from (Cell(f"cfol-{eta:g}-{g:g}", eps, "cfol", eta, g) for eta, g in CFOL)
        yield from (Cell(f"hedge-{eta:g}", eps, "hedge", eta) for eta in HEDGE)
        yield from (Cell(f"tilt-{v:g}", eps, "tilt", v) for v in TILT)
        yield from (Cell(f"cvar-{k}", eps, "cvar", k) for k in CVAR)
        yield Cell("minnorm", eps, "minnorm")


def left(only: str, out: Path) -> list[Cell]:
    """The cells that are not recorded and whose name begins with ``only``."""
    chosen = [c for c in cells() if f"eps{c.eps:g}/{c.name}".startswith(only)]
    return [c for c in chosen if not (out / f"eps{c.eps:g}" / f"{c.name}.json").exists()]


def estimate(count: int, steps: int = 20) -> float:
    """Core-minutes of ``count`` cells, from some steps of a bundle cell and its evaluation."""
    torch.set_num_threads(1)
    course = Course(Cell("smoke", EPSILONS[0], "bundle", 1.0), parts_of(ddi.digits()))
    course.advance(0)
    begun = time.process_time()
    for step in range(1, steps + 1):
        course.advance(step)
    between = time.process_time()
    course.outcome()
    each = (between - begun) / steps * STEPS + time.process_time() - between
    return math.ceil(count * each / 6) / 10


def main() -> None:
    """Read the command line; run, estimate, or show the analysis."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cells whose eps<eps>/<cell> begins with this")
    parser.add_argument("--workers", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--estimate", action="store_true", help="core-minutes of what is left")
    parser.add_argument("--table", action="store_true", help="the analysis of what is recorded")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "classes")
    options = parser.parse_args()
    if options.table:
        from classes_table import show

        return show(options.out)
    todo = left(options.only, options.out)
    if options.estimate:
        return print(f"{len(todo)} cells left: {estimate(len(todo))} core-minutes on this machine")
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the processes that start below
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        futures = [pool.submit(run, cell, options.out) for cell in todo]
        for future in as_completed(futures):
            print(future.result(), flush=True)


if __name__ == "__main__":
    main()
