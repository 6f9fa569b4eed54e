"""Several processes for one batch."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from ddi import MLP, digits, parallel, read_record

RULES = {
    "single": {}, "max": {"m": 3}, "mean": {"m": 3}, "ddi": {"m": 3}, "comb": {"m": 4},
    "ddi-decay": {"m": 3, "weight_decay": 0.1},
    "product-gram": {"m": 2}, "product-chunks": {"m": 2, "method": "chunks", "chunks": 3},
    "product-free": {"m": 2, "method": "matrix-free", "max_iter": 3},
    "product-decay": {"m": 2, "weight_decay": 0.1},
    "ddi-trades": {"m": 3, "loss": "trades(6)"},
    "single-elle": {"penalty": "elle(1000)"}, "comb-gradalign": {"m": 3, "penalty": "gradalign(2)"},
    "product-mart": {"m": 2, "loss": "mart", "penalty": "elle(1000)", "weight_decay": 0.1},
    "product-free-elle": {"m": 2, "method": "matrix-free", "penalty": "elle(1000)"},
    "bundle": {"m": 3, "t": 0.5}, "bundle-each": {"m": 2, "t": 0.5, "joint": False},
    "single-sam": {"rho": 0.3}, "ddi-sampa": {"m": 2, "rho": 0.3, "lam": 0.2, "t": 0.1},
}  # fmt: skip
PROGRAM = """
import copy, sys
from dataclasses import replace
import torch
from ddi import BETA, MLP, PGD, Sampler, Setting, descent_rule, digits, parallel, train
from ddi.tables import rule_of

def gradients(rules):
    data, found = digits().to(dtype=torch.float64), {}
    torch.manual_seed(0)
    model = MLP(hidden=(8,)).double()
    for name, options in rules.items():
        rule = rule_of(name, {"name": name.split("-")[0]} | options, 0.1)
        x, y = data.x_train[:20], data.y_train[:20]
        for attack in (PGD(0.2, 0.1, 2), BETA(0.2, 0.1, 2)):
            draw = torch.Generator().manual_seed(1)
            for half in (x, x.flip(0)) if "rho" in options else (x,):  # the second SAMPa remembers
                step = rule(model, half, y, attack, draw)
            found[f"{name} {type(attack).__name__}"] = step.gradient
    return found

def buffers():
    torch.manual_seed(0)
    model, data = MLP(hidden=(8,), norm="batch"), digits()
    model(data.x_train[:20][parallel.own(20)])
    parallel.average_buffers(model)
    return dict(model.named_buffers())

def sampled(folder):
    torch.manual_seed(0)
    model, data = MLP(hidden=(8,)).double(), digits().to(dtype=torch.float64)
    setting = Setting(epochs=1, batch_size=100, augment=True, validation=300, lr=0.1)
    sampler = Sampler("cfol", eta=0.01)
    rule, attack = rule_of("rule", {"name": "mean", "m": 2}, 0.1), PGD(0.1, 0.05, 2)
    return train(model, data, rule, attack, setting, folder, sampler=sampler)

def refused():
    # what every process is told that has not what the others have
    rank, x, y, found = parallel.rank(), digits().x_train[:8], digits().y_train[:8], {}
    torch.manual_seed(1 + rank)
    model = MLP(hidden=(8,))
    torch.manual_seed(0)
    same = MLP(hidden=(8,))
    norm = torch.cat([p.detach().flatten() for p in same.parameters()]).norm()
    black = torch.zeros_like(x)
    cases = {"": (same, x, y), "model": (model, x, y), "y": (same, x, y.flip(0) if rank else y)}
    cases["x"] = same, x[:4] if rank else x[4:], y[:4]
    cases["x order"] = same, x.flip(0) if rank else x, y
    cases["x size"] = same, x[:4] if rank else x, y[:4] if rank else y
    cases["x size in black"] = same, black[:4] if rank else black, y[:4] if rank else y
    cases["x mirrored"] = same, x.flip(-1) if rank else x, y
    for name, by in (("model by 1 % of its norm", norm / 100), ("model NaN", torch.nan)):
        cases[name] = copy.deepcopy(same), x, y
        cases[name][0][1].weight.data[0, 0] += by if rank else 0.0
    for name, case in cases.items():
        try:
            descent_rule("mean", m=2)(*case, PGD(0.1, 0.05, 1), torch.Generator().manual_seed(0))
            found[name] = ""
        except ValueError as error:
            found[name] = str(error)
    with torch.no_grad():
        same[1].weight *= 1 + 1e-6 * rank  # what rounding may do
    parallel.alike(same.parameters(), black * (-1) ** rank, y)  # -0.0 is 0.0
    parallel.alike([torch.full((9,), torch.nan)], x, y)  # to be told of as in one process
    return found

def curve(folder):
    torch.manual_seed(0)
    model = MLP(hidden=(8,)).double()
    setting = Setting(epochs=2, batch_size=100, augment=True, validation=300, lr=0.1)
    data = digits().to(dtype=torch.float64)
    rule = rule_of("rule", {"name": "ddi", "m": 2, "penalty": "elle-a(1e5, 0.5, 0)"}, 0.1)
    return train(model, data, rule, PGD(0.1, 0.05, 2), setting, folder)
"""


def test_two_processes_are_one(tmp_path):
    """Two gloo processes share each batch: the first-step gradients to 1e-6 of their norm, and a
    whole training run. Processes that do not have one batch and one network are told so.
    """
    script = f"{PROGRAM}\nrules = {RULES!r}\n" + textwrap.dedent(
        """
        torch.set_num_threads(1)
        parallel.start()
        found = gradients(rules)
        curve(sys.argv[1] + "/two")
        sampled(sys.argv[1] + "/two-sampled")
        torch.save(buffers(), f"{sys.argv[1]}/buffers{parallel.rank()}.pt")
        torch.save(refused(), f"{sys.argv[1]}/refused{parallel.rank()}.pt")
        try:
            curve(sys.argv[1] + "/two")
        except FileExistsError as error:
            print(f"rank {parallel.rank()}: {type(error).__name__}", flush=True)
        torch.save(found, f"{sys.argv[1]}/rank{parallel.rank()}.pt")
        """
    )
    (tmp_path / "program.py").write_text(script)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    alone = os.environ | (
        {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    )  # whatever the machine's name
    program = [str(tmp_path / "program.py"), str(tmp_path)]
    done = subprocess.run([*command, *program], capture_output=True, text=True, env=alone)
    assert done.returncode == 0, done.stderr[-3000:]
    for r in (0, 1):  # the first process alone reads the record, and both stop
        assert f"rank {r}: AlreadyComplete" in done.stdout
    torch.manual_seed(0)
    net, halves = MLP(hidden=(8,), norm="batch"), digits().x_train[:20].split(10)
    means = [net[1](net[0](half)).mean(0) for half in halves]
    both = [torch.load(tmp_path / f"buffers{r}.pt", weights_only=True) for r in (0, 1)]
    for found in both:  # of the mean of the halves a tenth, as BatchNorm's momentum has it
        torch.testing.assert_close(found["2.running_mean"], 0.1 * (means[0] + means[1]) / 2)
    for r in (0, 1):  # a process of another network or batch would drop half of its samples
        for name, said in torch.load(tmp_path / f"refused{r}.pt").items():
            wanted = f"{name.split()[0]} must be the same in all 2 processes" if name else ""
            assert said.startswith(wanted) and bool(said) == bool(name), (name, said)
    space: dict = {}
    exec(PROGRAM, space)
    one, pair = space["gradients"](RULES), [torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1)]
    for name, expected in one.items():
        for found in pair:
            assert (found[name] - expected).norm() <= 1e-6 * expected.norm(), name
    space["curve"](tmp_path / "one")
    space["sampled"](tmp_path / "one-sampled")
    for end in ("", "-sampled"):
        alone, shared = (read_record(tmp_path / f"{n}{end}").metrics for n in ("one", "two"))
        for key in alone.keys() - {"seconds"}:
            np.testing.assert_allclose(shared[key], alone[key], rtol=1e-5, atol=1e-9, err_msg=key)
    assert max(alone[f"p_{c}"][-1] for c in range(10)) > 0.105  # 0.1 without errors


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr(parallel, "world", lambda: 2)
    monkeypatch.setattr(parallel, "rank", lambda: 1)
    assert parallel.own(6) == slice(3, 6)
    with pytest.raises(ValueError, match="multiple of the 2 processes, got 5"):
        parallel.own(5)


def test_alone_nothing_is_sent():
    assert parallel.sent({"a": 1}) == {"a": 1} and parallel.on_first(lambda: 3) == 3
    with pytest.raises(OSError, match="full"):
        parallel.on_first(lambda: (_ for _ in ()).throw(OSError("full")))
