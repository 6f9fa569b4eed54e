"""The ledger's program: networks side by side are networks one by one, and a run resumes exactly."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ddi

PATH = Path(__file__).parents[1] / "experiments" / "ledger.py"
spec = importlib.util.spec_from_file_location("ledger", PATH)
ledger = importlib.util.module_from_spec(spec)
sys.modules["ledger"] = ledger
spec.loader.exec_module(ledger)

SEEDS, IMAGES, M = (3, 4, 5), 7, 5


@pytest.fixture(scope="module")
def toy():
    """Three networks after some steps, seven images, five perturbations with repetitions."""
    data = ddi.digits().to(dtype=torch.float64)
    x, y = data.x_train[:IMAGES], data.y_train[:IMAGES]
    models = [ledger.network(6, seed) for seed in SEEDS]
    for model in models:
        for p in model.parameters():
            p.data *= 4  # far from linear, so that restarts end apart
    attack = ddi.PGD(0.2, 0.08, 3)
    draw = torch.Generator().manual_seed(0)
    deltas = torch.stack([attack.restarts(model, x, y, M, draw) for model in models], 1)
    deltas[3, :, 2] = deltas[1, :, 2]
    deltas[1:, :, 4] = deltas[0, :, 4]  # an image with nothing to choose
    stack = ledger.Stack(models)
    wide = x.repeat(len(SEEDS), 1, 1, 1), y.repeat(len(SEEDS))
    return models, stack, x, y, deltas, wide, ledger.Passes.of(stack, *wide, deltas.flatten(1, 2))


def one(gradient, network):
    """A network's part of a stacked gradient, flat in the order of its own parameters."""
    half = len(gradient) // 2
    parts = [(w[network].T, b[network]) for w, b in zip(gradient[:half], gradient[half:])]
    return torch.cat([v.flatten() for pair in parts for v in pair])


OPTIONS = {
    "single": {},
    "mean": {"m": M},
    "max": {"m": M},
    "ddi": {"m": M, "normalize": False},
    "product": {"m": M, "normalize": False},
    "bundle": {"m": M, "t": 0.7, "joint": False},
}


@pytest.mark.parametrize("rule", OPTIONS)
def test_a_stacked_step_is_the_rules_step(toy, rule):
    models, _, x, y, deltas, _, passes = toy
    weights, unsolved = ledger.choose(rule, passes, deltas.flatten(1, 2), 0.7)
    gradient = passes.gradient(weights)
    assert unsolved == 0
    for i, model in enumerate(models):
        given = iter(deltas[:, i])
        step = ddi.descent_rule(rule, **OPTIONS[rule])(model, x, y, lambda *_: next(given))  # noqa: B023
        error = (one(gradient, i) - step.gradient).norm()
        assert error < 1e-7 * step.gradient.norm()


def test_gram_matrices_and_lengths_are_those_of_per_sample_gradients(toy):
    models, _, x, y, deltas, _, passes = toy
    weights, _ = ledger.choose("perexample", passes, deltas.flatten(1, 2), 0.7)
    gradient = passes.gradient(weights)
    for i, model in enumerate(models):
        each = ddi.per_sample_gradients(model, x, y, deltas[:, i])
        rows = torch.randperm(M * IMAGES, generator=torch.Generator().manual_seed(i))[:20]
        flat = each.flatten(0, 1)[rows] / IMAGES
        torch.testing.assert_close(passes.gram(i, rows), flat @ flat.T, rtol=1e-10, atol=1e-14)
        joint = each.mean(1)
        torch.testing.assert_close(passes.joint_gram[i], joint @ joint.T, rtol=1e-10, atol=1e-14)
        units = each[0] / each[0].norm(dim=1, keepdim=True)
        torch.testing.assert_close(one(gradient, i), units.mean(0), rtol=1e-10, atol=1e-14)


def test_attacks_on_the_stack_are_attacks_on_its_networks(toy):
    models, stack, x, y, _, wide, _ = toy
    attack = ddi.PGD(0.2, 0.08, 7, random_start=False)
    together = attack(stack, *wide).unflatten(0, (len(SEEDS), -1))
    for model, found in zip(models, together, strict=True):
        torch.testing.assert_close(found, attack(model, x, y), rtol=0, atol=1e-12)


def test_lengths_of_steps():
    for h in (0.1, 0.01):
        cell = ledger.unit("single", h)
        sizes = torch.tensor([cell.size(k) for k in range(cell.steps)])
        assert cell.steps == round(24 / h) and (sizes[: cell.steps // 2] == h).all()
        assert (sizes.diff() <= 0).all() and sizes[cell.steps // 2] < h
        assert sizes[-1].item() == pytest.approx(h / 100)
        assert sizes.sum().item() == pytest.approx(14.56, rel=5e-3)


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "FINAL", replace(ledger.FINAL, steps=2))
    monkeypatch.setattr(ledger, "PROBES", 4)
    data = ddi.digits().to(dtype=torch.float64)
    setting = ledger.Setting("toy", 6, (7, 8), (0, 6))
    cell = ledger.Cell("product", "product", 0.5, 8)
    through = ledger.run(setting, cell, data, tmp_path / "through", {})

    advance, count = ledger.Course.advance, iter(range(100))

    def dies(course):
        if next(count) == 5:
            raise KeyboardInterrupt
        advance(course)

    monkeypatch.setattr(ledger.Course, "advance", dies)
    with pytest.raises(KeyboardInterrupt):
        ledger.run(setting, cell, data, tmp_path / "pieces", {})
    assert not (tmp_path / "pieces" / "toy" / "product.json").exists()
    pieces = ledger.run(setting, cell, data, tmp_path / "pieces", {})
    assert next(count) == 5 + 1 + 4  # steps 4 to 7 after the interruption, not all eight
    seconds = [record.pop("cpu_seconds") for record in (through, pieces)]
    assert min(seconds) > 0 and pieces == through
    assert json.loads((tmp_path / "pieces" / "toy" / "product.json").read_text())["probes"]
    assert (
        min(map(len, through["probes"].values())) == max(map(len, through["probes"].values())) == 4
    )
    assert all(
        v == pytest.approx(4 + 0.5 * sum(100 ** (-k / 4) for k in (1, 2, 3, 4)) - 2)
        for v in through["path"]
    )
