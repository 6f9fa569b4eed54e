"""The ledger of a network: direction, step length and inner solver, varied one at a time.

    python experiments/ledger.py              # runs what is not recorded yet, in the design's order
    python experiments/ledger.py --only small-a/product     # cells whose name begins so
    python experiments/ledger.py --table      # the analysis of what is recorded

The design, fixed before any run, is experiments/ledger.md. Writes results/ledger/<setting>/
<cell>.json; a cell that was interrupted goes on at its last probe. All networks of a setting are
trained side by side (``stack.py``).
"""

import argparse
import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from stack import Passes, Stack, choose, first_of_kind
from torch import Tensor

import ddi
from ddi.checkpoint import save_atomically, write_atomically

ROOT = Path(__file__).resolve().parents[1]
EPS = 0.2
INNER = {"PGD-7": ddi.PGD(EPS, 0.08, 7), "PGD-40": ddi.PGD(EPS, 0.02, 40)}
PROBE, PROBE_RESTARTS = replace(INNER["PGD-40"], keep="best"), 4
FINAL, FINAL_RESTARTS = ddi.PGD(EPS, 0.01, 100, keep="best"), 10
PROBES, RATES, M = 24, (0.03, 0.1, 0.3, 1.0), 5
DISTINCT = 0.02  # l-infinity distance of two perturbations that count as two


@dataclass(frozen=True)
class Setting:
    """Networks, images and batches that a group of cells shares; all differences are within one."""

    name: str
    hidden: int
    seeds: tuple[int, ...]
    images: tuple[int, int] = (0, 64)
    batch: int | None = None  # drawn anew at every step; None: all images


@dataclass(frozen=True)
class Cell:
    """One row of the ledger: a direction, its step lengths and its inner attack."""

    name: str
    rule: str
    h: float = 0.1
    steps: int = 240
    inner: str = "PGD-7"
    m: int = M
    raw: bool = False

    def size(self, step: int) -> float:
        """Step length (raw: rate): ``h`` for one half of the steps, then geometrically to h/100."""
        late = step + 1 - self.steps // 2
        return self.h * 100.0 ** (-max(0, late) / (self.steps - self.steps // 2))


# --------------------------------------------------------------------------------------------------


@dataclass
class Course:
    """One cell on its way: networks, where they are, and what was seen on the way."""

    setting: Setting
    cell: Cell
    data: ddi.Dataset
    stack: Stack = field(init=False)
    step: int = 0
    seconds: float = 0.0
    unsolved: int = 0
    path: Tensor = field(init=False)
    seen: dict[str, list[list[float | None]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stack = Stack([network(self.setting.hidden, seed) for seed in self.setting.seeds])
        self.path = torch.zeros(self.stack.count, dtype=torch.float64)
        first, last = self.setting.images
        self.x, self.y = self.data.x_train[first:last], self.data.y_train[first:last]

    def random(self, key: int) -> torch.Generator:
        """Random numbers that setting and ``key`` decide: the cells of a setting share them."""
        return torch.Generator().manual_seed(self.setting.seeds[0] * 10**7 + key)

    def batch(self) -> tuple[Tensor, Tensor]:
        """The images and labels of this step, of all networks one after the other."""
        s, size = self.stack.count, self.setting.batch
        if size is None:
            return self.x.repeat(s, 1, 1, 1), self.y.repeat(s)
        order = torch.rand(s, len(self.x), generator=self.random(2_000_000 + self.step)).argsort(1)
        chosen = order[:, :size].flatten()
        return self.x[chosen], self.y[chosen]

    def attack(self, attack: ddi.PGD, x: Tensor, y: Tensor, m: int, key: int) -> Tensor:
        """``m`` restarts, ``(m, S * B, ...)``, a whole stack at a time."""
        return attack.restarts(self.stack, x, y, m, self.random(key), batch_size=len(x))

    def phi(self, attack: ddi.PGD, x: Tensor, y: Tensor, m: int, key: int) -> Tensor:
        """Mean over the images of the largest loss found, ``(S,)``."""
        deltas = self.attack(attack, x, y, m, key)
        return Passes.of(self.stack, x, y, deltas).losses.amax(1).mean(1)

    def advance(self) -> None:
        """One step of the cell's direction; every ``steps / PROBES``-th is measured as well."""
        cell, (x, y) = self.cell, self.batch()
        deltas = self.attack(INNER[cell.inner], x, y, cell.m, self.step)
        passes, size = Passes.of(self.stack, x, y, deltas), cell.size(self.step)
        weights, unsolved = choose(cell.rule, passes, deltas, size)
        gradient = passes.gradient(weights)
        norm = sum(g.square().sum((1, 2)) for g in gradient).sqrt()
        sizes = torch.full_like(norm, size) if cell.raw else size / norm.clamp_min(1e-30)
        every = cell.steps // PROBES
        measured = self.step % every == every // 2
        before = self.probe(x, y) | {"norm": norm} if measured else {}
        self.stack.move(gradient, sizes)
        if measured:
            after = self.phi(PROBE, x, y, PROBE_RESTARTS, 1_000_000 + self.step)
            for key, value in (before | {"change": after - before["phi"]}).items():
                short = [None if v.isnan() else float(f"{v:.6g}") for v in value]
                self.seen.setdefault(key, []).append(short)
        self.unsolved += unsolved
        self.path += sizes * norm
        self.step += 1

    def probe(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What the design measures before a step; each ``(S,)``."""
        key, s = 1_000_000 + self.step, self.stack.count
        deltas = self.attack(INNER[self.cell.inner], x, y, M, key)
        gram = Passes.of(self.stack, x, y, deltas).joint_gram
        norms = gram.diagonal(dim1=1, dim2=2).sqrt()
        cosines = gram / (norms[:, :, None] * norms[:, None])
        found = {"phi": self.phi(PROBE, x, y, PROBE_RESTARTS, key), "cosine": cosines.amin((1, 2))}
        found["distinct"] = first_of_kind(deltas, s).double().sum(1).mean(1)
        return found | self.gaps(x, y, key)

    def gaps(self, x: Tensor, y: Tensor, key: int) -> dict[str, Tensor]:
        """Loss gaps between each image's best converged perturbation and the next distinct one."""
        s = self.stack.count
        deltas = self.attack(INNER["PGD-40"], x, y, PROBE_RESTARTS, key)
        still = torch.stack([converged(self.stack, x, y, d) for d in deltas])  # (m, S * B)
        losses = Passes.of(self.stack, x, y, deltas).losses.transpose(0, 1).flatten(1)
        losses = losses.where(still, -math.inf)
        top, best = losses.max(0)
        chosen = deltas[best, torch.arange(len(x))]
        far = (deltas - chosen).abs().flatten(2).amax(-1) > DISTINCT
        gap = top - losses.where(far, -math.inf).amax(0)
        gap = gap.where(gap.isfinite(), math.nan).view(s, -1)
        two = gap.isfinite()
        least = gap.nan_to_num(math.inf).amin(1)
        return {
            "two": two.double().mean(1),
            "converged": still.view(len(deltas), s, -1).double().mean((0, 2)),
            "gap_least": least.where(two.any(1), math.nan),
            "gap_median": gap.nanmedian(1).values,
        }

    def outcome(self) -> dict[str, list[float]]:
        """The primary outcome and phi on the test images, a value a network."""
        s = self.stack.count
        found = {}
        data = {"train": (self.x[:512], self.y[:512]), "test": (self.data.x_test, self.data.y_test)}
        for number, (name, (x, y)) in enumerate(data.items()):
            images = x.repeat(s, 1, 1, 1), y.repeat(s)
            found[f"phi_{name}"] = self.phi(FINAL, *images, FINAL_RESTARTS, 3_000_000 + number)
        return {key: value.tolist() for key, value in found.items()}

    def state(self) -> dict[str, Any]:
        """What the rest of the course depends on."""
        keys = ("step", "seconds", "unsolved", "path", "seen")
        return {key: getattr(self, key) for key in keys} | {"stack": self.stack.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.stack.load_state_dict(state.pop("stack"))
        for key, value in state.items():
            setattr(self, key, value)


def network(hidden: int, seed: int) -> ddi.MLP:
    """The network of a seed, float64, at PyTorch's initialisation."""
    torch.manual_seed(seed)
    return ddi.MLP(64, 10, (hidden,), "celu").double()


def converged(stack: Stack, x: Tensor, y: Tensor, delta: Tensor) -> Tensor:
    """Whether a further step of PGD-40 leaves a perturbation where it is, ``(S * B,)``."""
    attack, images = INNER["PGD-40"], (x + delta).requires_grad_()
    (gradient,) = torch.autograd.grad(ddi.cross_entropy(stack(images), y).sum(), images)
    further = attack.threat.project(delta + attack.alpha * attack.threat.steepest(gradient), x)
    return (further == delta).flatten(1).all(1)


def run(
    setting: Setting,
    cell: Cell,
    data: ddi.Dataset,
    out: Path,
    source: dict[str, Any],
    kind: type[Course] = Course,
) -> dict[str, Any]:
    """The record of one cell: read if it is there, else made, from where it was interrupted."""
    path = out / setting.name / f"{cell.name}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    path.parent.mkdir(parents=True, exist_ok=True)
    course, kept = kind(setting, cell, data), path.with_suffix(".pt")
    if kept.exists():
        course.load(torch.load(kept, weights_only=True))
    begun = time.process_time() - course.seconds
    while course.step < cell.steps:
        course.advance()
        if course.step % (cell.steps // PROBES) == 0:
            course.seconds = time.process_time() - begun
            save_atomically(course.state(), kept)
    record = {"setting": asdict(setting), "cell": asdict(cell), "outcome": course.outcome()}
    record |= {"path": course.path.tolist(), "unsolved": course.unsolved, "probes": course.seen}
    record |= {"cpu_seconds": round(time.process_time() - begun, 1), "provenance": source}
    write_atomically(path, (json.dumps(record) + "\n").encode())
    kept.unlink(missing_ok=True)
    mean = torch.tensor(record["outcome"]["phi_train"]).mean()
    print(f"{setting.name}/{cell.name}: phi {mean:.4f}, {record['cpu_seconds']} s", flush=True)
    return record


# --------------------------------------------------------------------------------------------------


def seeds(first: int, count: int = 20) -> tuple[int, ...]:
    """Seeds in a row."""
    return tuple(range(first, first + count))


MAIN = Setting("small-a", 16, seeds(10))
TUNING = Setting("tuning", 16, (4, 5, 6))
REPLICATIONS = Setting("small-b", 16, seeds(30), (64, 128)), Setting("wide-a", 64, seeds(50))
DOSES = tuple(Setting(f"batch-{b}", 16, seeds(70, 10), (0, 1400), b) for b in (8, 64, 512))
SHORT = (0.05, 0.02, 0.01)


def unit(rule: str, h: float = 0.1, inner: str = "PGD-7") -> Cell:
    """A cell of unit steps at equal path length."""
    name = f"{rule}-h{h:g}" + ("" if inner == "PGD-7" else f"-{inner}")
    if rule == "strong":
        return Cell(name, "max", h, round(24 / h), "PGD-40", PROBE_RESTARTS)
    m = 1 if rule in ("single", "perexample") else M
    return Cell(name, rule, h, round(24 / h), inner, m)


def raw(rule: str, rate: float) -> Cell:
    """A cell whose steps are not normalised; its ``h`` is the rate."""
    return Cell(f"raw-{rule}-{rate:g}", rule, rate, m=1 if rule == "single" else M, raw=True)


def timed(rule: str, rate: float) -> Cell:
    """A raw cell of rate times steps 120: all run for the same time of the flow."""
    cell = raw(rule, rate)
    return replace(cell, name=f"{cell.name}-time", steps=round(120 / rate))


RULES = ("single", "product", "ddi", "strong", "mean", "max", "bundle")
PASSES = Cell("single-h0.1-passes", "single", 0.1, 1200, m=1)
RAW = ("single", "product", "bundle")
TIMED = (0.25, 1.0, 2.5, 0.1)


def fixed_cells() -> Iterator[tuple[Setting, Cell]]:
    """The cells that depend on no other, in the design's order but for the raw ones."""
    yield from ((MAIN, unit(rule)) for rule in (*RULES, "perexample"))
    yield from ((MAIN, unit(rule, h)) for h in SHORT for rule in ("single", "product"))
    yield MAIN, PASSES
    yield from ((MAIN, unit(rule, inner="PGD-40")) for rule in ("single", "product", "ddi"))
    yield from ((TUNING, raw(rule, rate)) for rule in RAW for rate in RATES)


def addition() -> Iterator[tuple[Setting, Cell]]:
    """Addition 1 of the design."""
    fresh = REPLICATIONS[0]
    yield from ((fresh, unit(rule)) for rule in ("single", "product"))
    yield from ((fresh, timed(r, rate)) for rate in TIMED for r in ("single", "product"))


def later_cells() -> Iterator[tuple[Setting, Cell]]:
    """What follows the raw cells."""
    yield from ((MAIN, unit(rule, h)) for h in SHORT for rule in ("ddi", "bundle"))
    for setting in REPLICATIONS:
        yield from ((setting, unit(rule)) for rule in RULES)
        yield from ((setting, unit(rule, h)) for h in SHORT for rule in ("single", "product"))
        yield setting, PASSES
    for setting in DOSES:
        rules = ("single", "ddi", "product") if setting.batch != 512 else ("single", "ddi")
        yield from ((setting, unit(rule)) for rule in rules)


def tuned(out: Path) -> Iterator[tuple[Setting, Cell]]:
    """The raw cells, each at the rate of least mean outcome on the tuning seeds."""
    for rule in RAW:
        texts = [(out / TUNING.name / f"{raw(rule, r).name}.json").read_text() for r in RATES]
        means = [sum(json.loads(text)["outcome"]["phi_train"]) for text in texts]
        yield MAIN, raw(rule, RATES[means.index(min(means))])


def run_all(pairs: Iterable[tuple[Setting, Cell]], only: str, *rest: Any) -> None:
    """Run those of the cells whose name begins with ``only``."""
    for setting, cell in pairs:
        if f"{setting.name}/{cell.name}".startswith(only):
            run(setting, cell, *rest)


def main() -> None:
    """Read the command line; run, or show the analysis."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cells whose <setting>/<cell> begins with this")
    parser.add_argument("--table", action="store_true", help="the analysis of what is recorded")
    parser.add_argument("--figure", type=Path, help="with --table: draw the main setting here")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "ledger")
    options = parser.parse_args()
    if options.table:
        from ledger_table import show

        return show(options.out, options.figure)
    torch.set_num_threads(1)
    data = ddi.digits().to(dtype=torch.float64)
    rest = data, options.out, ddi.provenance(data, dtype=torch.float64)
    run_all(fixed_cells(), options.only, *rest)
    if not options.only:
        run_all(tuned(options.out), "", *rest)
    run_all(addition(), options.only, *rest)
    run_all(later_cells(), options.only, *rest)


if __name__ == "__main__":
    main()
