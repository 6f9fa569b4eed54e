"""The benchmark's arithmetic, and the very commands of the speed table at tiny size. Nothing here
asserts a time.
"""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ddi import Kernels, SmallNet, bench, min_norm_point, parallel
from ddi.__main__ import main
from ddi.bench import GOALS
from ddi.peers import accelerated
from ddi.timing import Processes, Row, interleaved, lines, peak_memory, ratio

CPU = torch.device("cpu")


def test_jobs_run_in_turn_forwards_and_backwards_after_one_round_to_warm_up():
    calls = []
    seconds = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, CPU)
    assert "".join(calls) == "baabbaab" and {len(values) for values in seconds.values()} == {3}


def test_ratios_are_taken_inside_a_round():
    slow_minute = np.array([1.0, 1.0, 10.0, 1.0, 1.0])
    assert ratio(3 * slow_minute, slow_minute) == {"value": 3.0, "low": 3.0, "high": 3.0}
    assert ratio(np.array([1.0, 2.0, 4.0]), np.ones(3)) == {"value": 2.0, "low": 1.5, "high": 3.0}


@pytest.mark.parametrize(
    ("value", "limit", "goal", "met"),
    [
        (10.1, 10.0, "<= 10.2", True),
        (10.3, 10.0, "<= 10.2", False),
        (3.1, 3.0, "<= 1.05 limit", True),
        (3.2, 3.0, "<= 1.05 limit", False),
        (0.99, math.nan, ">= 1", False),
        (1.0, math.nan, ">= 1", True),
        (math.nan, math.nan, ">= 1", None),
        (5.0, math.nan, None, None),
    ],
)
def test_goals_are_judged(value, limit, goal, met):
    row = Row("x", value, limit=limit, goal=goal)
    assert row.met is met
    assert json.loads(json.dumps(row.plain(), allow_nan=False))["met"] is met
    (text,) = lines([row])
    assert ("MISSED" in text) == (met is False) and ("absent" in text) == math.isnan(value)


def _sums(device):
    def add():
        assert parallel.world() == 2 and parallel.total(torch.tensor([1.0 + parallel.rank()])) == 3

    def die():
        raise SystemExit(3)

    return {"add": add, "die": die}


def test_jobs_run_in_joined_processes_and_a_dead_one_does_not_hang():
    with Processes(2, 1, _sums) as crew:
        crew("add")
        crew("add")
        with pytest.raises(EOFError):
            crew("die")


def test_peak_memory_counts_what_is_alive_together():
    def two_in_turn():
        for _ in range(2):
            kept = torch.ones(1 << 20)
            del kept

    one, both = 4 << 20, 8 << 20
    assert one <= peak_memory(two_in_turn, CPU) < 1.2 * one
    assert both <= peak_memory(lambda: [torch.ones(1 << 20) for _ in range(2)], CPU) < 1.2 * both


def test_the_fixed_loop_solves_the_problem_it_is_timed_on():
    M = torch.randn(5, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, best = accelerated(M @ M.T, 2000), min_norm_point(M @ M.T)
    assert abs(a @ (M @ M.T) @ a / best.squared_norm - 1) < 1e-6


def test_the_passes_that_are_charged_are_those_of_the_rules():
    b = bench.Bench(SmallNet(3, 10), torch.rand(4, 3, 32, 32), torch.arange(4), Kernels(), 1)
    for name, rule in b.rules.items():
        attack, gradient, _ = bench.PASSES[name]
        assert attack + gradient == rule.passes(b.attack.steps)
        assert attack == rule.passes(b.attack.steps) - rule.passes(0)


def test_the_command_at_tiny_size_fills_every_row_of_the_table(tmp_path, capsys, monkeypatch):
    peers = {
        "MGDAWeighting": lambda: lambda gram: accelerated(gram, 5),
        "PGD": lambda model, eps, alpha, steps: lambda x, y: model(x),
    }
    monkeypatch.setattr(bench, "optional", lambda module, name: peers[name])
    out = tmp_path / "tiny.json"
    size = ["--model", "SmallNet", "--batch", "4", "--rounds", "1", "--device", "cpu"]
    assert main(["bench", *size, "--precision", "attack-bf16", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    rows = {row["name"]: row for row in record["rows"]}
    assert (
        record["complete"]
        and record["kernels"]["precision"] == "attack-bf16"
        and record["provenance"]["torch"]
    )
    assert set(GOALS) - set(rows) == {"share of the bf16 peak"}  # on a GPU only
    assert all(
        row["value"] > 0
        for name, row in rows.items()
        if not name.startswith(("memory", "slope")) and ": attack" not in name
    )
    limits = {name: row["limit"] for name, row in rows.items() if row["limit"]}
    assert limits["DDi, m = 10 / PGD-7"] == pytest.approx(10) and len(limits) == 6 + 3
    assert limits["PGD-7, 2 processes / 1 process"] in (
        0.5,
        1.0,
    )  # one core for one process, or all of them
    for cheap, dear in (("product, matrix-free", "DDi"), ("FAST product", "product, 4 chunks")):
        assert next(v for n, v in limits.items() if n.startswith(cheap)) < next(
            v for n, v in limits.items() if n.startswith(dear)
        )
    assert rows["gain of the attack, float32 / plain"]["value"] == pytest.approx(1)
    assert abs(rows["slope lost by a direction, float32"]["value"]) < 1e-6
    assert 1e-9 < rows["slope lost by a direction, bf16"]["value"] < 0.01
    parts = [row for row in record["rows"] if row["section"] == "profile"]
    assert [row["name"].split(": ")[1] for row in parts] == 7 * [
        "attack / its passes",
        "all else / its passes",
    ]
    memory = {name: row["value"] for name, row in rows.items() if name.startswith("memory")}
    assert (
        memory["memory, full product, m = 2"] > 6 and memory["memory, DDi, m = 10"] > 8
    )  # m k and m gradients
    assert "goal <= 10.2" in capsys.readouterr().out


def test_absent_peers_are_said_to_be_absent_and_a_cut_run_leaves_what_it_has(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(bench, "optional", lambda module, name: None)
    out = tmp_path / "cut.json"
    command = [
        "bench",
        "--model",
        "SmallNet",
        "--batch",
        "4",
        "--rounds",
        "1",
        "--device",
        "cpu",
        "--out",
        str(out),
    ]
    assert main([*command, "--sections", "solver"]) == 0
    assert (
        "TorchJD is absent" in capsys.readouterr().out and json.loads(out.read_text())["complete"]
    )
    monkeypatch.setattr(bench.Bench, "peers", SimpleNamespace())  # not callable: dies there
    with pytest.raises(TypeError):
        main([*command, "--sections", "solver,peers"])
    record = json.loads(out.read_text())
    assert not record["complete"] and {row["section"] for row in record["rows"]} == {"solver"}


@pytest.mark.parametrize("wrong", [["--sections", "speed"], ["--batch", "2"], ["--rounds", "-1"]])
def test_impossible_benchmarks_are_refused(wrong, capsys):
    assert main(["bench", "--device", "cpu", *wrong]) == 1
    assert wrong[0].strip("-") in capsys.readouterr().err
