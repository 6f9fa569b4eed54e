"""The benchmark's arithmetic with stubbed clocks, and its very command at tiny size. Nothing here
asserts a time.
"""

import json
import math
import runpy
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from ddi import PGD, SmallNet, min_norm_point, parallel

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(
    0, str(FOLDER)
)  # as for `python benchmarks/run.py`, and for the processes it starts

import bench  # noqa: E402
import run  # noqa: E402
import timing  # noqa: E402
from kernels import Kernels  # noqa: E402
from peers import accelerated  # noqa: E402

CPU = torch.device("cpu")
ROUNDS = 3
TINY = ["--model", "SmallNet", "--batch", "4", "--rounds", "1", "--device", "cpu"]


@pytest.fixture
def clock(monkeypatch):
    """A clock that only its jobs move: ``clock(*seconds)`` is a job that takes these in turn."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def job(*seconds, name="", calls=None):
        left = iter(seconds)

        def work():
            now[0] += next(left)
            if calls is not None:
                calls.append(name)

        return work

    return job


def test_jobs_run_in_turn_forwards_and_backwards_and_the_warm_up_is_what_is_dropped(clock):
    calls = []
    jobs = {
        "a": clock(100, 1, 2, 3, name="a", calls=calls),
        "b": clock(200, 7, 8, 9, name="b", calls=calls),
    }
    seconds = timing.interleaved(jobs, ROUNDS, CPU)
    assert "".join(calls) == "baabbaab"
    assert {name: list(values) for name, values in seconds.items()} == {
        "a": [1, 2, 3],
        "b": [7, 8, 9],
    }


def test_ratios_are_taken_inside_a_round():
    slow_minute = np.array([1.0, 1.0, 10.0, 1.0, 1.0])
    assert timing.ratio(3 * slow_minute, slow_minute) == {"value": 3.0, "low": 3.0, "high": 3.0}
    assert timing.ratio(np.array([1.0, 2.0, 4.0]), np.ones(3)) == {
        "value": 2.0,
        "low": 1.5,
        "high": 3.0,
    }


def test_a_row_as_text_and_for_json():
    (text,) = timing.lines([timing.Row("x", 2.0, 1.5, 3.0, 1.75, "why")])
    assert text.split(maxsplit=1) == ["x", "2 (1.5 ... 3); work limit 1.75  [why]"]
    absent = timing.Row("x", math.nan)
    assert "absent" in next(iter(timing.lines([absent])))
    assert json.loads(json.dumps(absent.plain(), allow_nan=False))["value"] is None


# --- every ratio the right way up -----------------------------------------------------------------


@pytest.fixture
def known(monkeypatch):
    """Seconds that are known in place of measured ones: 2, 3, 5, ... by the jobs' order."""
    seen = {}

    def stub(jobs, rounds, device):
        numbers = (n for n in count(2) if all(n % k for k in range(2, n)))
        seconds = {name: np.full(ROUNDS, float(next(numbers))) for name in jobs}
        seen.update({name: float(values[0]) for name, values in seconds.items()})
        return seconds

    monkeypatch.setattr(bench, "interleaved", stub)
    return seen


def tiny():
    torch.manual_seed(0)
    x, y = torch.rand(8, 3, 32, 32), torch.arange(8)
    return bench.Bench(SmallNet(3, 10), x, y, Kernels(), ROUNDS)


def values(rows, kind="value"):
    return {row.name: getattr(row, kind) for row in rows}


def test_steps_are_given_in_units_of_pgd_and_their_limits_in_units_of_its_passes(known):
    rows = tiny().steps()
    t, found, limits = known, values(rows), values(rows, "limit")
    for name in list(bench.PASSES)[1:]:
        assert found[f"{name} / PGD-7"] == pytest.approx(t[name] / t["PGD-7"])
    assert found["solver / DDi step"] == pytest.approx(t["solver"] / t["DDi, m = 10"])
    a, g, j = t["attack pass"], t["given, PGD-7"], t["forward-mode pass"]
    assert found["attack pass / gradient pass"] == pytest.approx(a / g)
    assert found["forward-mode pass / gradient pass"] == pytest.approx(j / g)
    pgd = 7 * a + g
    assert limits["DDi, m = 10 / PGD-7"] == pytest.approx(10)
    assert limits["comb, m = 10 / PGD-7"] == pytest.approx((14 * a + 10 * g) / pgd)
    free = limits["product, matrix-free, m = 2 / PGD-7"]
    assert free == pytest.approx((14 * a + 2 * g + 2 * j) / pgd)
    assert limits["FAST product, m = 2 / PGD-7"] == pytest.approx((2 * a + 2 * g) / pgd)


def test_the_profile_parts_a_step_into_its_attack_and_all_else(known):
    found, t = values(tiny().profile()), known
    a, g, j = t["attack pass"], t["given, PGD-7"], t["forward-mode pass"]
    whole, rest = t["product, matrix-free, m = 2"], t["given, product, matrix-free, m = 2"]
    name = "product, matrix-free, m = 2"
    assert found[f"{name}: attack / its passes"] == pytest.approx((whole - rest) / (14 * a))
    assert found[f"{name}: all else / its passes"] == pytest.approx(rest / (2 * g + 2 * j))
    assert len(found) == 2 * len(bench.PASSES)


def test_the_solver_stands_over_its_peers_and_a_hundred_problems_count_for_a_thousand(
    known, monkeypatch
):
    monkeypatch.setattr(bench, "optional", lambda *_: lambda: lambda gram: accelerated(gram, 5))
    rows, t = tiny().solver(), known
    for peer, name in (("apg", "100 accelerated iterations"), ("torchjd", "TorchJD's MGDA")):
        both = [row for row in rows if row.name == f"exact solver / {name}"]
        assert [row.value for row in both] == [pytest.approx(t["exact"] / t[peer])] * 2
        assert {row.note.split(";")[0] for row in both} == {
            "cosines near 0.5",
            "cosines above 0.99",
        }
    batch = values(rows)["1 000 problems one by one / in one batch"]
    assert batch == pytest.approx(10 * t["one"] / t["all"])


def test_peers_stand_over_ours(known, monkeypatch):
    def stand_in(model, eps, alpha, steps):
        return lambda x, y: model(x)

    monkeypatch.setattr(bench, "optional", lambda *_: stand_in)
    attacks = {}
    real = bench.interleaved

    def remember(jobs, rounds, device):
        seconds = real(jobs, rounds, device)
        attacks.update(seconds if "theirs" in jobs else {})
        return seconds

    monkeypatch.setattr(bench, "interleaved", remember)
    found = values(tiny().peers())
    one = attacks["theirs"][0] / attacks["ours"][0]
    assert found["torchattacks' PGD-7 / ours"] == pytest.approx(one)
    assert found["plain eager training loop / ours"] == pytest.approx(
        known["plain"] / known["ours"]
    )


def test_growth_is_over_the_first_of_its_kind(known):
    found = values(tiny().growth())
    assert found["DDi, m = 10 / m = 1"] == pytest.approx(7 / 2)  # 2, 3, 5, 7 for m = 1, 2, 5, 10
    assert found["PGD-7, batch 8 / batch 2"] == pytest.approx(5 / 2)
    assert found["product, 8 chunks / 1 chunk"] == pytest.approx(7 / 2)
    assert found["solver, d = 1000000 / d = 10000"] == pytest.approx(5 / 2)
    assert found["Gram product, d = 1000000 / d = 10000"] == pytest.approx(5 / 2)


def test_processes_stand_over_one_process(known, monkeypatch):
    class Crew:
        def __init__(self, count, threads, jobs):
            assert (count, threads) == (2, 1)

        def __enter__(self):
            return lambda name: None

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(bench, "Processes", Crew)
    monkeypatch.setattr(bench.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    rows = tiny().processes()
    for row, name in zip(rows, bench.SHARED, strict=True):
        assert row.value == pytest.approx(known[name] / known[f"{name} alone"]) and row.value > 1
        assert row.limit == pytest.approx(1 / 2)


# --- what is charged, and the tools ---------------------------------------------------------------


def test_the_passes_that_are_charged_are_those_of_the_rules():
    b = tiny()
    for name, rule in b.rules.items():
        attack, gradient, _ = bench.PASSES[name]
        assert attack + gradient == rule.passes(b.attack.steps)
        assert attack == rule.passes(b.attack.steps) - rule.passes(0)


class Watched(nn.Module):
    """A linear network that counts the images that it sees in forward mode."""

    def __init__(self):
        super().__init__()
        self.weight, self.images = nn.Parameter(torch.zeros(10, 12)), 0

    def forward(self, x):
        if forward_ad.unpack_dual(self.weight).tangent is not None:
            self.images += len(x)
        return x.flatten(1) @ self.weight.T


@pytest.mark.parametrize("name", bench.RULES)
def test_forward_mode_passes_that_are_charged_are_taken(name):
    model, x, y = Watched(), torch.rand(4, 3, 2, 2), torch.arange(4)
    tiny().rules[name](model, x, y, PGD(steps=1))
    assert model.images / len(x) == bench.PASSES[name][2]


def _sums(device):
    def add():
        assert parallel.world() == 2 and parallel.total(torch.tensor([1.0 + parallel.rank()])) == 3

    def die():
        raise SystemExit(3)

    return {"add": add, "die": die}


def test_jobs_run_in_joined_processes_and_a_dead_one_does_not_hang():
    with timing.Processes(2, 1, _sums) as crew:
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
    assert one <= timing.peak_memory(two_in_turn, CPU) < 1.2 * one
    together = timing.peak_memory(lambda: [torch.ones(1 << 20) for _ in range(2)], CPU)
    assert both <= together < 1.2 * both


def test_the_fixed_loop_solves_the_problem_it_is_timed_on():
    M = torch.randn(5, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, best = accelerated(M @ M.T, 2000), min_norm_point(M @ M.T)
    assert abs(a @ (M @ M.T) @ a / best.squared_norm - 1) < 1e-6


def test_measuring_a_pass_leaves_the_model_as_it_was():
    b = tiny()
    b.plain.train()
    frozen = next(b.plain.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in b.plain.state_dict().items()}
    b._attack_pass()
    b._forward_mode(b.x)
    assert b.plain.training and not frozen.requires_grad
    assert sum(p.requires_grad for p in b.plain.parameters()) == len(list(b.plain.parameters())) - 1
    assert all(torch.equal(before[name], value) for name, value in b.plain.state_dict().items())


def test_low_precision_is_where_it_is_asked_for():
    x, kinds = torch.rand(2, 3, 32, 32), []
    model = SmallNet(3, 10)
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    for precision in ("float32", "attack-bf16", "bf16"):
        kernels = Kernels(precision)
        assert kernels.of(model)(x).dtype == torch.float32
        assert kernels.attack["autocast"] == (precision != "float32")
    assert kinds == [torch.float32, torch.float32, torch.bfloat16]


# --- the command ----------------------------------------------------------------------------------


def test_the_command_at_tiny_size_records_every_section(tmp_path, capsys, monkeypatch):
    peers = {
        "MGDAWeighting": lambda: lambda gram: accelerated(gram, 5),
        "PGD": lambda model, eps, alpha, steps: lambda x, y: model(x),
    }
    monkeypatch.setattr(bench, "optional", lambda module, name: peers[name])
    out = tmp_path / "tiny.json"
    assert run.main([*TINY, "--precision", "attack-bf16", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    rows = {row["name"]: row for row in record["rows"]}
    assert record["complete"] and record["kernels"]["precision"] == "attack-bf16"
    assert record["provenance"]["torch"]
    assert {row["section"] for row in record["rows"]} == set(bench.SECTIONS)
    assert rows["gain of the attack, float32 / plain"]["value"] == pytest.approx(1)
    assert abs(rows["slope lost by a direction, float32"]["value"]) < 1e-6
    assert 1e-9 < rows["slope lost by a direction, bf16"]["value"] < 0.01
    memory = {name: row["value"] for name, row in rows.items() if name.startswith("memory")}
    assert memory["memory, full product, m = 2"] > 6  # m k gradients, and m without chunks
    assert memory["memory, DDi, m = 10"] > 8
    printed = capsys.readouterr().out
    assert all(name in printed for name in rows) and "goal" not in printed


def test_absent_peers_are_said_to_be_absent_and_a_cut_run_leaves_what_it_has(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(bench, "optional", lambda module, name: None)
    out = tmp_path / "cut.json"
    assert run.main([*TINY, "--out", str(out), "--sections", "solver"]) == 0
    assert "TorchJD is absent" in capsys.readouterr().out
    assert json.loads(out.read_text())["complete"]

    def dies(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.Bench, "peers", dies)
    with pytest.raises(KeyboardInterrupt):
        run.main([*TINY, "--out", str(out), "--sections", "solver,peers"])
    record = json.loads(out.read_text())
    assert not record["complete"] and {row["section"] for row in record["rows"]} == {"solver"}


@pytest.mark.parametrize("wrong", [["--sections", "speed"], ["--batch", "2"], ["--rounds", "-1"]])
def test_impossible_benchmarks_are_refused(wrong, capsys):
    assert run.main(["--device", "cpu", *wrong]) == 1
    assert wrong[0].strip("-") in capsys.readouterr().err


# --- the records on the speed page ----------------------------------------------------------------


def test_every_record_fills_the_tables_of_the_speed_page():
    house = runpy.run_path(str(FOLDER.parent / "book" / "tools" / "house.py"))
    found = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
    assert found and set(found) <= set(house["RECORDS"])
    for section in bench.SECTIONS:
        table = house["_table"](found, section)
        rows = {row["name"] for record in found.values() for row in record["rows"]
                if row["section"] == section}  # fmt: skip
        assert len(table) >= 2 + len(rows) > 2, section
        assert all(any(line.startswith(f"| {name}") for line in table) for name in rows)
        assert not any(word in "".join(table) for word in ("goal", "missed", "not measured"))
