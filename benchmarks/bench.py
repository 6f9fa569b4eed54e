"""The measurements: what a Danskin direction costs, beside the least that its passes can cost.

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
from kernels import PRECISIONS, Kernels, evaluating
from peers import accelerated, optional, plain_step
from timing import Jobs, Processes, Row, interleaved, peak_memory, ratio
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import ddi

SECTIONS = ("steps", "profile", "solver", "peers", "agreement", "growth", "processes", "memory")

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
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "PGD-7": ("single", {}),
    "DDi, m = 10": ("ddi", {"m": 10}),
    "comb, m = 10": ("comb", {"m": 10}),
    "product, 2 chunks, m = 2": ("product", {"m": 2, "method": "chunks", "chunks": 2}),
    "product, 4 chunks, m = 2": ("product", {"m": 2, "method": "chunks", "chunks": 4}),
    "product, matrix-free, m = 2": ("product", {"m": 2, "method": "matrix-free"}),
}
SHARED = ("PGD-7", "DDi, m = 10", "product, 4 chunks, m = 2")  # timed in several processes


class Bench:
    """The measurements for one network, batch and set of kernels; a section a method.

    Args:
        model: NCHW images to logits. x, y: one batch, on the model's device; random images do.
        kernels: of our own side; the peers run the model as it is.
        rounds: of every comparison.
    """

    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, kernels: Kernels, rounds: int
    ) -> None:
        self.plain, self.y, self.kernels, self.rounds = model, y, kernels, rounds
        self.model, self.device = kernels.of(model), x.device
        self.x = x.contiguous(memory_format=torch.channels_last) if kernels.channels_last else x
        self.attack, self.fast = ddi.PGD(**kernels.attack), ddi.FAST(**kernels.attack)
        self.rules = {name: ddi.descent_rule(rule, **o) for name, (rule, o) in RULES.items()}

    def steps(self) -> list[Row]:
        """A step of every rule over a step of PGD-7 training, and the work limits."""
        seconds, passes = self._seconds, self._passes
        least = {name: float(np.dot(counts, passes)) for name, counts in PASSES.items()}
        rows = []
        for name in list(PASSES)[1:]:
            measured = ratio(seconds[name], seconds["PGD-7"])
            rows.append(Row(f"{name} / PGD-7", limit=least[name] / least["PGD-7"], **measured))
        rows.append(Row("solver / DDi step", **ratio(seconds["solver"], seconds["DDi, m = 10"])))
        for kind in ("attack", "forward-mode"):
            measured = ratio(seconds[f"{kind} pass"], seconds["gradient pass"])
            rows.append(Row(f"{kind} pass / gradient pass", **measured))
        return rows

    def profile(self) -> list[Row]:
        """Where a step's time beyond its limit goes: its attack, and all else, each over what its
        passes cost.
        """
        rows, (a, g, j) = [], self._passes
        for name, (attack, gradient, forward) in PASSES.items():
            rest = self._seconds[f"given, {name}"]
            attacking = ratio(self._seconds[name] - rest, np.array(attack * a))
            rows.append(Row(f"{name}: attack / its passes", **attacking))
            others = ratio(rest, np.array(gradient * g + forward * j))
            rows.append(Row(f"{name}: all else / its passes", **others))
        return rows

    @cached_property
    def _seconds(self) -> dict[str, np.ndarray]:
        """Of the steps, of the same steps with their perturbations given, of single passes and of
        the solver.
        """
        delta = self.attack(self.model, self.x, self.y)
        jobs: Jobs = {name: self._step(rule) for name, rule in self.rules.items()}
        jobs["FAST product, m = 2"] = self._step(self.rules["product, 4 chunks, m = 2"], self.fast)
        jobs |= {
            f"given, {name}": self._step(rule, lambda *_: delta)
            for name, rule in self.rules.items()
        }
        jobs["attack pass"] = self._attack_pass
        jobs["forward-mode pass"] = lambda: self._forward_mode(self.x + delta)
        vectors = torch.randn(10, 1000, generator=torch.Generator().manual_seed(0))
        gram = ddi.gram_matrix(vectors).to(self.device)
        jobs["solver"] = lambda: ddi.min_norm_point(gram)
        seconds = interleaved(jobs, self.rounds, self.device)
        seconds["gradient pass"] = seconds["given, PGD-7"]
        seconds["given, FAST product, m = 2"] = seconds["given, product, 4 chunks, m = 2"]
        return seconds

    @property
    def _passes(self) -> list[float]:
        """Seconds of a pass of the attack, of weight gradients, and in forward mode."""
        kinds = ("attack", "gradient", "forward-mode")
        return [float(np.median(self._seconds[f"{kind} pass"])) for kind in kinds]

    def solver(self) -> list[Row]:
        """The exact solver against a fixed loop and TorchJD; vectors with a common part, and such
        as DDi meets.
        """
        draw, rows = torch.Generator().manual_seed(0), []
        for kind, common in (("cosines near 0.5", 1.0), ("cosines above 0.99", 15.0)):
            M = torch.randn(10, 1000, generator=draw, dtype=torch.float64)
            M += common * torch.randn(1000, generator=draw, dtype=torch.float64)
            rows += self._solver_beside_peers(ddi.gram_matrix(M).to(self.device), kind)
        gram = ddi.gram_matrix(torch.randn(10, 1000, generator=draw)).to(self.device)
        spread = torch.rand(1000, 10, generator=draw, dtype=torch.float64).to(self.device)
        many = gram + torch.diag_embed(100 * spread)
        jobs: Jobs = {
            "one": lambda: [ddi.min_norm_point(g) for g in many[:100]],
            "all": lambda: ddi.min_norm_point(many),
        }
        seconds = interleaved(jobs, self.rounds, self.device)
        value = ratio(10 * seconds["one"], seconds["all"])
        return [*rows, Row("1 000 problems one by one / in one batch", **value)]

    def _solver_beside_peers(self, gram: Tensor, kind: str) -> list[Row]:
        jobs: Jobs = {
            "exact": lambda: ddi.min_norm_point(gram).weights,
            "apg": lambda: accelerated(gram),
        }
        if (weighting := optional("torchjd.aggregation", "MGDAWeighting")) is not None:
            jobs["torchjd"] = lambda: weighting()(gram)
        seconds = interleaved(
            {k: _repeat(j, 10) for k, j in jobs.items()}, self.rounds, gram.device
        )
        best, rows = float(ddi.min_norm_point(gram).squared_norm), []
        found: dict[str, Any] = {name: job() for name, job in jobs.items()}
        excess = {name: abs(float(a @ gram @ a) / best - 1) for name, a in found.items()}
        for peer, name in (
            ("apg", "100 accelerated iterations"),
            ("torchjd", "TorchJD's MGDA"),
        ):
            if peer not in jobs:
                rows.append(Row(f"exact solver / {name}", math.nan, note="TorchJD is absent"))
                continue
            off = f"excess of ||w||^2: exact {excess['exact']:.0e}, peer {excess[peer]:.0e}"
            measured = ratio(seconds["exact"], seconds[peer])
            rows.append(Row(f"exact solver / {name}", note=f"{kind}; {off}", **measured))
        return rows

    def peers(self) -> list[Row]:
        """PGD-7 against torchattacks, and a training step against a plain eager loop."""
        name, kind, rows = "torchattacks' PGD-7 / ours", optional("torchattacks", "PGD"), []
        self.plain.eval()
        if kind is None:
            rows.append(Row(name, math.nan, note="torchattacks is absent"))
        else:
            theirs = kind(self.plain, eps=8 / 255, alpha=2 / 255, steps=7)
            jobs: Jobs = {
                "theirs": lambda: theirs(self.x, self.y),
                "ours": lambda: self.attack(self.model, self.x, self.y),
            }
            seconds = interleaved(jobs, 3 * self.rounds, self.device)
            rows.append(Row(name, **ratio(seconds["theirs"], seconds["ours"])))
        cuda = self.device.type == "cuda"
        sgd = torch.optim.SGD(self.plain.parameters(), 1e-4, fused=cuda)
        jobs = {
            "plain": lambda: plain_step(self.plain, self.x, self.y, sgd),
            "ours": lambda: self._training_step(sgd),
        }
        seconds = interleaved(jobs, self.rounds, self.device)
        rows.append(
            Row("plain eager training loop / ours", **ratio(seconds["plain"], seconds["ours"]))
        )
        return [*rows, self._share_of_peak(sgd, seconds["ours"])] if cuda else rows

    def _share_of_peak(self, sgd: torch.optim.Optimizer, seconds: np.ndarray) -> Row:
        """Operations a second of our training step over those of one large bf16 product (GPU)."""
        with FlopCounterMode(display=False) as counter:
            plain_step(self.plain, self.x, self.y, sgd)
        n = 8192
        p, q = (torch.randn(n, n, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        product = interleaved({"matmul": lambda: p @ q}, 10, self.device)["matmul"]
        peak = 2 * n**3 / float(np.median(product))
        rate = counter.get_total_flops() / float(np.median(seconds))
        return Row("share of the bf16 peak", rate / peak, note=f"peak {peak / 1e12:.0f} TFLOP/s")

    def agreement(self) -> list[Row]:
        """What other kernels cost: the attack's gain, and the slope that a direction loses on
        float32 gradients.
        """
        unit, rows = ddi.descent_rule("single", normalize=True), []
        fixed = ddi.PGD()(self.plain, self.x, self.y, self._draw())
        clean, full = self._loss(0.0), self._loss(fixed)
        usual, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
        plain = unit(self.plain, self.x, self.y, lambda *_: fixed).gradient.double()
        torch.backends.cudnn.allow_tf32 = usual
        plain /= plain.norm()
        for precision in PRECISIONS:
            kernels = Kernels(precision, self.kernels.channels_last, self.kernels.compile)
            model, attack = kernels.of(self.plain), ddi.PGD(**kernels.attack)
            reached = self._loss(attack(model, self.x, self.y, self._draw()))
            gain = (reached - clean) / (full - clean)
            rows.append(Row(f"gain of the attack, {precision} / plain", gain))
            other = unit(model, self.x, self.y, lambda *_: fixed).gradient.double()
            lost = 1 - float(other @ plain / other.norm())
            rows.append(Row(f"slope lost by a direction, {precision}", lost))
        return rows

    def growth(self) -> list[Row]:
        """How a step grows with m, the batch and the chunks; the solver with the dimension."""
        jobs: Jobs = {
            f"DDi, m = {m} / m = 1": self._step(ddi.descent_rule("ddi", m=m)) for m in (1, 2, 5, 10)
        }
        rows = self._over_first(jobs)
        sizes = [len(self.x) // 4, len(self.x) // 2, len(self.x)]
        rule = self.rules["PGD-7"]
        jobs = {
            f"PGD-7, batch {n} / batch {sizes[0]}": partial(
                rule, self.model, self.x[:n], self.y[:n], self.attack
            )
            for n in sizes
        }
        rows += self._over_first(jobs)
        jobs = {}
        for chunks in (c for c in (1, 2, 4, 8) if c <= len(self.x)):
            rule = ddi.descent_rule("product", m=2, method="chunks", chunks=chunks)
            jobs[f"product, {chunks} chunks / 1 chunk"] = self._step(rule, self.fast)
        rows += self._over_first(jobs)
        vectors = {d: torch.randn(10, d, device=self.device) for d in (10**4, 10**5, 10**6)}
        jobs = {
            f"solver, d = {d} / d = 10000": _repeat(partial(ddi.min_norm_point, g), 10)
            for d, g in ((d, ddi.gram_matrix(v)) for d, v in vectors.items())
        }
        rows += self._over_first(jobs)
        jobs = {
            f"Gram product, d = {d} / d = 10000": partial(ddi.gram_matrix, v)
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
        parts = copy.deepcopy(self.plain).cpu(), self.x.cpu(), self.y.cpu(), self.kernels
        with Processes(count, each, partial(_shared, *parts)) as crew:
            both: Jobs = {f"{name} alone": self._step(self.rules[name]) for name in SHARED}
            both |= {name: partial(crew, name) for name in SHARED}
            seconds = interleaved(both, self.rounds, self.device)
        limit = (threads if self.device.type == "cpu" else each) / (count * each)
        rows, note = [], f"threads: {threads}, then {each} each"
        for name in SHARED:
            value = ratio(seconds[name], seconds[f"{name} alone"])
            label = f"{name}, {count} processes / 1 process"
            rows.append(Row(label, limit=limit, note=note, **value))
        return rows

    def memory(self) -> list[Row]:
        """Peak memory of a step of each rule beyond PGD-7's, in units of the parameters' own size;
        the perturbations are given, since the attacks' memory is the same for all.
        """
        size = sum(p.numel() * p.element_size() for p in self.plain.parameters())
        full = ddi.descent_rule("product", m=2, method="gram")
        fixed = self.attack(self.model, self.x, self.y)
        peaks = {
            name: peak_memory(self._step(rule, lambda *_: fixed), self.device)
            for name, rule in (self.rules | {"full product, m = 2": full}).items()
        }
        base = peaks.pop("PGD-7")
        return [Row(f"memory, {name}", (peak - base) / size) for name, peak in peaks.items()]

    def _draw(self) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(0)

    def _loss(self, delta: Tensor | float) -> float:
        with evaluating(self.plain), torch.no_grad():
            return float(nn.functional.cross_entropy(self.plain(self.x + delta), self.y))

    def _over_first(self, jobs: Jobs) -> list[Row]:
        seconds = interleaved(jobs, self.rounds, self.device)
        first, *others = seconds
        return [Row(name, **ratio(seconds[name], seconds[first])) for name in others]

    def _step(self, rule: Callable[..., object], attack: Any = None) -> Callable[[], object]:
        return lambda: rule(self.model, self.x, self.y, attack or self.attack)

    def _attack_pass(self) -> Tensor:
        low = self.kernels.precision != "float32"
        with evaluating(self.plain), torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            x = self.x.clone().requires_grad_()
            loss = nn.functional.cross_entropy(self.model(x).float(), self.y, reduction="sum")
            return torch.autograd.grad(loss, x)[0]

    def _forward_mode(self, images: Tensor) -> object:
        """The losses, and how they change along one direction of the parameters."""
        network = getattr(self.model, "_orig_mod", self.model)
        parameters = {name: p.detach() for name, p in network.named_parameters()}
        along = {name: torch.ones_like(p) for name, p in parameters.items()}

        def losses(moved: dict[str, Tensor]) -> Tensor:
            logits = torch.func.functional_call(network, moved, (images,))
            return nn.functional.cross_entropy(logits, self.y, reduction="none")

        with evaluating(self.plain):
            return torch.func.jvp(losses, (parameters,), (along,))

    def _training_step(self, sgd: torch.optim.Optimizer) -> None:
        images = ddi.crop_and_flip(self.x)
        step = self.rules["PGD-7"](self.model.train(), images, self.y, self.attack)
        ddi.assign_gradient(self.model, step.gradient)
        sgd.step()


def _repeat(job: Callable[[], object], times: int) -> Callable[[], object]:
    return lambda: [job() for _ in range(times)]


def _shared(model: nn.Module, x: Tensor, y: Tensor, kernels: Kernels, device: torch.device) -> Jobs:
    """The steps as one of several processes runs them: a rule takes its own share of the batch."""
    bench = Bench(model.to(device), x.to(device), y.to(device), kernels, 1)
    return {name: bench._step(bench.rules[name]) for name in SHARED}
