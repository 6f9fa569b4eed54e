"""Ratios of times inside one run: what a Danskin direction costs, beside the least that its passes
can cost.

All jobs of a section are timed in turn, forwards and backwards, so that a slow minute meets them
alike; a ratio is the median over the rounds of the quotient within a round. The *work limit* of a
rule is its passes in units of PGD-7 training, with attack, gradient and forward-mode passes as
measured in the same run. Nothing here is an absolute claim.
"""

import copy
import math
import os
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ddi.attacks import FAST, PGD, cross_entropy, frozen
from ddi.danskin import gram_matrix
from ddi.data import crop_and_flip
from ddi.descent import assign_gradient, descent_rule
from ddi.fast import Fast, Kernels
from ddi.peers import accelerated, optional, plain_step
from ddi.product import losses_along
from ddi.solver import min_norm_point
from ddi.timing import Jobs, Processes, Row, interleaved, peak_memory, ratio

__all__ = ["GOALS", "Bench"]

# goals: (row, on the CPU, on a GPU); "<=" below the number, ">=" above it
GOALS = {
    "DDi, m = 10 / PGD-7": ("<= 10.2", "<= 6"),
    "comb, m = 10 / PGD-7": ("<= 1.05 limit", "<= 2.5"),
    "product, 2 chunks, m = 2 / PGD-7": ("<= 2.1", "<= 1.8"),
    "product, 4 chunks, m = 2 / PGD-7": ("<= 2.1", "<= 1.8"),
    "product, matrix-free, m = 2 / PGD-7": ("<= 2.8", "<= 2.5"),
    "FAST product, m = 2 / PGD-7": ("<= 0.7", "<= 0.7"),
    "solver / DDi step": ("<= 0.01", "<= 0.01"),
    "exact solver / 100 accelerated iterations": ("<= 0.333", None),
    "exact solver / TorchJD's MGDA": ("<= 0.333", None),
    "1 000 problems one by one / in one batch": (None, ">= 100"),
    "torchattacks' PGD-7 / ours": (">= 1", ">= 3"),
    "plain eager training loop / ours": (None, ">= 2"),
    "share of the bf16 peak": (None, ">= 0.3"),
}

# passes of one step: through the attack (no weight gradients), of weight gradients, in forward mode
PASSES = {
    "PGD-7": (7, 1, 0),
    "DDi, m = 10": (70, 10, 0),
    "comb, m = 10": (14, 10, 0),
    "product, 2 chunks, m = 2": (14, 2, 0),
    "product, 4 chunks, m = 2": (14, 2, 0),
    "product, matrix-free, m = 2": (14, 2, 2),
    "FAST product, m = 2": (2, 2, 0),
}
SHARED = ("PGD-7", "DDi, m = 10", "product, 4 chunks, m = 2")  # timed in several processes


class Bench:
    """The measurements for one network, batch and set of kernels.

    Args:
        model: NCHW images to logits. x, y: one batch, on the model's device; random images do.
        kernels: of our own side; the peers run the model as it is.
        rounds: of every comparison.
    """

    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, kernels: Kernels, rounds: int
    ) -> None:
        self.plain, self.x, self.y, self.kernels, self.rounds = model, x, y, kernels, rounds
        self.model = model if kernels == Kernels() else Fast(model, kernels)
        self.device = x.device
        self.attack = PGD()
        named = {
            "PGD-7": ("single", {}),
            "DDi, m = 10": ("ddi", {"m": 10}),
            "comb, m = 10": ("comb", {"m": 10}),
        }
        for chunks in (2, 4):
            named[f"product, {chunks} chunks, m = 2"] = (
                "product",
                {"m": 2, "method": "chunks", "chunks": chunks},
            )
        named["product, matrix-free, m = 2"] = ("product", {"m": 2, "method": "matrix-free"})
        self.rules = {
            name: descent_rule(rule, **options) for name, (rule, options) in named.items()
        }

    def row(self, name: str, **values: Any) -> Row:
        """A row with its goal for this device."""
        return Row(name, goal=GOALS.get(name, (None, None))[self.device.type == "cuda"], **values)

    def steps(self) -> list[Row]:
        """A step of every rule over a step of PGD-7 training, and the work limits."""
        seconds, passes, rows = self._seconds, self._passes, []
        least = {name: float(np.dot(counts, passes)) for name, counts in PASSES.items()}
        for name in list(PASSES)[1:]:
            limit = least[name] / least["PGD-7"]
            rows.append(
                self.row(f"{name} / PGD-7", limit=limit, **ratio(seconds[name], seconds["PGD-7"]))
            )
        rows.append(
            self.row("solver / DDi step", **ratio(seconds["solver"], seconds["DDi, m = 10"]))
        )
        for kind in ("attack", "forward-mode"):
            rows.append(
                self.row(
                    f"{kind} pass / gradient pass",
                    **ratio(seconds[f"{kind} pass"], seconds["gradient pass"]),
                )
            )
        return rows

    def profile(self) -> list[Row]:
        """Where a step's time beyond its limit goes: its attack, and all else, each over what its
        passes cost.
        """
        rows, (a, g, j) = [], self._passes
        for name, (attack, gradient, forward) in PASSES.items():
            rest = self._seconds[f"given, {name}"]
            rows.append(
                self.row(
                    f"{name}: attack / its passes", **ratio(self._seconds[name] - rest, attack * a)
                )
            )
            rows.append(
                self.row(
                    f"{name}: all else / its passes", **ratio(rest, gradient * g + forward * j)
                )
            )
        return rows

    @cached_property
    def _seconds(self) -> dict[str, np.ndarray]:
        """Of the steps, of the same steps with their perturbations given, of single passes and of
        the solver.
        """
        deltas = self.attack.restarts(self.model, self.x, self.y, 1)
        jobs: Jobs = {name: self._step(rule) for name, rule in self.rules.items()}
        jobs["FAST product, m = 2"] = self._step(self.rules["product, 4 chunks, m = 2"], FAST())
        jobs |= {
            f"given, {name}": self._step(rule, lambda *_: deltas[0])
            for name, rule in self.rules.items()
        }
        point = torch.ones(sum(p.numel() for p in self.plain.parameters()), device=self.device)
        jobs["attack pass"] = self._attack_pass
        jobs["forward-mode pass"] = lambda: self._forward_mode(deltas, point)
        gram = gram_matrix(torch.randn(10, 1000, generator=torch.Generator().manual_seed(0))).to(
            self.device
        )
        jobs["solver"] = lambda: min_norm_point(gram)
        seconds = interleaved(jobs, self.rounds, self.device)
        seconds["gradient pass"] = seconds["given, PGD-7"]
        seconds["given, FAST product, m = 2"] = seconds["given, product, 4 chunks, m = 2"]
        return seconds

    @property
    def _passes(self) -> list[float]:
        """Seconds of a pass of the attack, of weight gradients, and in forward mode."""
        return [
            float(np.median(self._seconds[f"{kind} pass"]))
            for kind in ("attack", "gradient", "forward-mode")
        ]

    def solver(self) -> list[Row]:
        """The exact solver against a fixed loop and TorchJD; vectors with a common part, and such
        as DDi meets.
        """
        draw, rows, weighting = (
            torch.Generator().manual_seed(0),
            [],
            optional("torchjd.aggregation", "MGDAWeighting"),
        )
        for kind, common in (("cosines near 0.5", 1.0), ("cosines above 0.99", 15.0)):
            M = torch.randn(10, 1000, generator=draw, dtype=torch.float64)
            M += common * torch.randn(1000, generator=draw, dtype=torch.float64)
            gram = gram_matrix(M).to(self.device)
            jobs: Jobs = {
                "exact": lambda g=gram: min_norm_point(g).weights,
                "apg": lambda g=gram: accelerated(g),
            }
            if weighting is not None:
                jobs["torchjd"] = lambda g=gram, w=weighting: w()(g)
            seconds = interleaved(
                {k: _repeat(job, 10) for k, job in jobs.items()}, self.rounds, self.device
            )
            best = float(min_norm_point(gram).squared_norm)
            found = {name: job() for name, job in jobs.items()}
            excess = {name: float(a @ gram @ a) / best - 1 for name, a in found.items()}
            for peer, name in (
                ("apg", "100 accelerated iterations"),
                ("torchjd", "TorchJD's MGDA"),
            ):
                if peer not in jobs:
                    rows.append(
                        self.row(f"exact solver / {name}", value=math.nan, note="TorchJD is absent")
                    )
                    continue
                note = f"{kind}; excess of ||w||^2: exact {abs(excess['exact']):.0e}, peer {abs(excess[peer]):.0e}"
                rows.append(
                    self.row(
                        f"exact solver / {name}",
                        note=note,
                        **ratio(seconds["exact"], seconds[peer]),
                    )
                )
        many = (
            gram_matrix(torch.randn(10, 1000, generator=draw))
            .to(self.device)
            .expand(1000, 10, 10)
            .clone()
        )
        many += torch.diag_embed(
            torch.rand(1000, 10, generator=draw, dtype=torch.float64).to(self.device) * 100
        )
        jobs = {
            "one": lambda: [min_norm_point(g) for g in many[:100]],
            "all": lambda: min_norm_point(many),
        }
        seconds = interleaved(jobs, self.rounds, self.device)
        return [
            *rows,
            self.row(
                "1 000 problems one by one / in one batch",
                **ratio(10 * seconds["one"], seconds["all"]),
            ),
        ]

    def peers(self) -> list[Row]:
        """PGD-7 against torchattacks, and a training step against a plain eager loop."""
        name, kind, rows = "torchattacks' PGD-7 / ours", optional("torchattacks", "PGD"), []
        self.plain.eval()
        if kind is None:
            rows.append(self.row(name, value=math.nan, note="torchattacks is absent"))
        else:
            theirs = kind(self.plain, eps=8 / 255, alpha=2 / 255, steps=7)
            jobs: Jobs = {
                "theirs": lambda: theirs(self.x, self.y),
                "ours": lambda: self.attack(self.model, self.x, self.y),
            }
            seconds = interleaved(jobs, 3 * self.rounds, self.device)
            rows.append(self.row(name, **ratio(seconds["theirs"], seconds["ours"])))
        sgd = torch.optim.SGD(self.plain.parameters(), 1e-4, fused=self.device.type == "cuda")
        jobs = {
            "plain": lambda: plain_step(self.plain, self.x, self.y, sgd),
            "ours": lambda: self._training_step(sgd),
        }
        seconds = interleaved(jobs, self.rounds, self.device)
        rows.append(
            self.row("plain eager training loop / ours", **ratio(seconds["plain"], seconds["ours"]))
        )
        if self.device.type == "cuda":
            with FlopCounterMode(display=False) as counter:
                plain_step(self.plain, self.x, self.y, sgd)
            n = 8192
            p, q = (torch.randn(n, n, device=self.device, dtype=torch.bfloat16) for _ in range(2))
            peak = (
                2
                * n**3
                / np.median(interleaved({"matmul": lambda: p @ q}, 10, self.device)["matmul"])
            )
            rate = counter.get_total_flops() / np.median(seconds["ours"])
            rows.append(
                self.row(
                    "share of the bf16 peak",
                    value=float(rate / peak),
                    note=f"peak {peak / 1e12:.0f} TFLOP/s",
                )
            )
        return rows

    def agreement(self) -> list[Row]:
        """What other kernels cost: the attack's gain, and the slope that a direction loses on
        float32 gradients.
        """
        unit, attack, rows = descent_rule("single", normalize=True), self.attack, []
        fixed = attack(self.plain, self.x, self.y, self._draw())
        clean, full = self._loss(0.0), self._loss(fixed)
        usual, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
        plain = unit(self.plain, self.x, self.y, lambda *_: fixed).gradient.double()
        torch.backends.cudnn.allow_tf32 = usual
        plain /= plain.norm()
        channels, mode = self.kernels.channels_last, self.kernels.compile
        for precision in ("float32", "attack-bf16", "bf16"):
            fast = Fast(self.plain, Kernels(precision, channels, mode))
            gain = (self._loss(attack(fast, self.x, self.y, self._draw())) - clean) / (full - clean)
            rows.append(self.row(f"gain of the attack, {precision} / plain", value=gain))
            other = unit(fast, self.x, self.y, lambda *_: fixed).gradient.double()
            rows.append(
                self.row(
                    f"slope lost by a direction, {precision}",
                    value=1 - float(other @ plain / other.norm()),
                )
            )
        return rows

    def growth(self) -> list[Row]:
        """How a step grows with m, the batch and the chunks; the solver with the dimension."""
        rows, ms, chunks = [], (1, 2, 5, 10), (1, 2, 4, 8)
        jobs: Jobs = {f"DDi, m = {m} / m = 1": self._step(descent_rule("ddi", m=m)) for m in ms}
        rows += self._over_first(jobs)
        sizes = [len(self.x) // 4, len(self.x) // 2, len(self.x)]
        rule = self.rules["PGD-7"]
        jobs = {
            f"PGD-7, batch {n} / batch {sizes[0]}": lambda n=n: rule(
                self.model, self.x[:n], self.y[:n], self.attack
            )
            for n in sizes
        }
        rows += self._over_first(jobs)
        options = {"m": 2, "method": "chunks"}
        jobs = {
            f"product, {c} chunks / 1 chunk": self._step(
                descent_rule("product", chunks=c, **options), FAST()
            )
            for c in chunks
            if c <= len(self.x)
        }
        rows += self._over_first(jobs)
        vectors = {d: torch.randn(10, d, device=self.device) for d in (10**4, 10**5, 10**6)}
        grams = {d: gram_matrix(v) for d, v in vectors.items()}
        jobs = {
            f"solver, d = {d} / d = 10000": _repeat(lambda g=g: min_norm_point(g), 10)
            for d, g in grams.items()
        }
        rows += self._over_first(jobs)
        jobs = {
            f"Gram product, d = {d} / d = 10000": lambda v=v: gram_matrix(v)
            for d, v in vectors.items()
        }
        return rows + self._over_first(jobs)

    def processes(self, count: int = 2) -> list[Row]:
        """A step shared by several processes over the same step in one; nothing where each cannot
        have a GPU.
        """
        if self.device.type == "cuda" and torch.cuda.device_count() < count:
            return []
        threads = torch.get_num_threads()
        each = min(threads, max(1, (os.cpu_count() or 1) // count))
        jobs = {name: self._step(self.rules[name]) for name in SHARED}
        parts = copy.deepcopy(self.plain).cpu(), self.x.cpu(), self.y.cpu(), self.kernels
        with Processes(count, each, partial(_shared, *parts)) as crew:
            both = {f"{name} alone": job for name, job in jobs.items()} | {
                name: partial(crew, name) for name in jobs
            }
            seconds = interleaved(both, self.rounds, self.device)
        limit = (threads if self.device.type == "cpu" else each) / (count * each)
        rows, note = [], f"threads: {threads}, then {each} each"
        for name in jobs:
            value = ratio(seconds[name], seconds[f"{name} alone"])
            rows.append(
                self.row(f"{name}, {count} processes / 1 process", limit=limit, note=note, **value)
            )
        return rows

    def memory(self) -> list[Row]:
        """Peak memory of a step of each rule beyond PGD-7's, in units of the parameters' own size."""
        size = sum(p.numel() * p.element_size() for p in self.plain.parameters())
        rules = self.rules | {"full product, m = 2": descent_rule("product", m=2)}
        fixed = self.attack(self.model, self.x, self.y)
        peaks = {}
        for (
            name,
            rule,
        ) in rules.items():  # the perturbations are given: the attacks' memory is the same for all
            peaks[name] = peak_memory(
                lambda rule=rule: rule(self.model, self.x, self.y, lambda *_: fixed), self.device
            )
        base = peaks["PGD-7"]
        return [
            self.row(f"memory, {name}", value=(peaks[name] - base) / size)
            for name in rules
            if name != "PGD-7"
        ]

    def _draw(self) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(0)

    def _loss(self, delta: Tensor | float) -> float:
        with frozen(self.plain), torch.no_grad():
            return float(cross_entropy(self.plain(self.x + delta), self.y).mean())

    def _over_first(self, jobs: Jobs) -> list[Row]:
        seconds = interleaved(jobs, self.rounds, self.device)
        first, *others = seconds
        return [self.row(name, **ratio(seconds[name], seconds[first])) for name in others]

    def _step(self, rule: Callable[..., object], attack: Any = None) -> Callable[[], object]:
        return lambda: rule(self.model, self.x, self.y, attack or self.attack)

    def _attack_pass(self) -> Tensor:
        attacked = getattr(self.model, "attacked", self.model)
        with frozen(self.model), torch.enable_grad():
            x = self.x.clone().requires_grad_()
            return torch.autograd.grad(cross_entropy(attacked(x), self.y).sum(), x)[0]

    def _forward_mode(self, deltas: Tensor, along: Tensor) -> object:
        with frozen(self.model):
            return losses_along(self.model, self.x, self.y, deltas, along, cross_entropy)

    def _training_step(self, sgd: torch.optim.Optimizer) -> None:
        images = crop_and_flip(self.x)
        step = self.rules["PGD-7"](self.model.train(), images, self.y, self.attack)
        assign_gradient(self.model, step.gradient)
        sgd.step()


def _repeat(job: Callable[[], object], times: int) -> Callable[[], object]:
    return lambda: [job() for _ in range(times)]


def _shared(model: nn.Module, x: Tensor, y: Tensor, kernels: Kernels, device: torch.device) -> Jobs:
    """The steps as one of several processes runs them: a rule takes its own share of the batch."""
    bench = Bench(model.to(device), x.to(device), y.to(device), kernels, 1)
    return {name: bench._step(bench.rules[name]) for name in SHARED}
