"""What a change of the package brought: two checkouts timed in turn.

    python benchmarks/before_after.py OLD [NEW]

OLD and NEW (default: this one) are folders that hold ``ddi/``. Each round starts one process in
each of them, in turn, and each process times every job a few times after a warm-up; printed are the
medians of the quotients OLD / NEW by round.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

WORKER = """
import json, time, torch, ddi
torch.manual_seed(0)
x, y, net = torch.rand(128, 3, 32, 32), torch.arange(128) % 10, ddi.SmallNet(3, 10)
M = torch.randn(10, 1000, dtype=torch.float64) + torch.randn(1000, dtype=torch.float64)
many = torch.randn(64, 30, dtype=torch.float64)
rules = {"PGD-7": ("single", {}), "DDi, m = 3": ("ddi", {"m": 3})}
rules["product, 4 chunks"] = ("product", {"m": 2, "method": "chunks", "chunks": 4})
rules["product, 8 chunks"] = ("product", {"m": 2, "method": "chunks", "chunks": 8})
rules["product, matrix-free"] = ("product", {"m": 2, "method": "matrix-free"})
pgd = ddi.PGD()
made = {n: ddi.descent_rule(kind, **options) for n, (kind, options) in rules.items()}
jobs = {n: lambda r=rule: r(net, x, y, pgd) for n, rule in made.items()}
fast = ddi.descent_rule("product", m=2, method="chunks", chunks=4)
jobs["FAST product, 4 chunks"] = lambda: fast(net, x, y, ddi.FAST())
jobs["attack PGD-7"] = lambda: ddi.PGD()(net, x, y)
large, few, labels = ddi.ResNet18(3, 10), x[:32], y[:32]
jobs["ResNet-18, 10 restarts"] = lambda: ddi.FAST().restarts(large, few, labels, 10)
jobs["ResNet-18, FAST product"] = lambda: fast(large, few, labels, ddi.FAST())
jobs["solver, m = 10, x 20"] = lambda: [ddi.min_norm_point(M @ M.T) for _ in range(20)]
pairs = torch.arange(32).repeat(2)
jobs["solver, 32 groups of 2"] = lambda: ddi.min_norm_product(many @ many.T, pairs)
took = {}
for name, job in jobs.items():
    job()
    took[name] = []
    for _ in range(1 if name.startswith("ResNet") else 3):
        start = time.perf_counter()
        job()
        took[name].append(time.perf_counter() - start)
print(json.dumps({name: min(values) for name, values in took.items()}))
"""


def main() -> None:
    """Five rounds, and a line a job."""
    here = Path(__file__).resolve().parents[1]
    trees = [Path(text).resolve() for text in (*sys.argv[1:], here)[:2]]
    rounds: list[list[dict[str, float]]] = []
    for _ in range(5):
        environments = [os.environ | {"PYTHONPATH": str(tree)} for tree in trees]
        command = [sys.executable, "-W", "ignore", "-c", WORKER]
        runs = [
            subprocess.run(command, env=e, cwd="/", capture_output=True, text=True, check=True)
            for e in environments
        ]
        rounds.append([json.loads(run.stdout) for run in runs])
    for name in rounds[0][0]:
        ratios = [old[name] / new[name] for old, new in rounds]
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        print(f"{name:25} before / after {middle:.3g} ({low:.3g} ... {high:.3g})")


if __name__ == "__main__":
    main()
