"""The collapse record's program: networks side by side are networks one by one, with the package's
attacks and penalties; and the experiment file of the lecture's scale runs on digits.
"""

from pathlib import Path

import digits_collapse as collapse
import pytest
import torch

import ddi
from ddi.__main__ import main
from ddi.losses import inner

FILE = Path(__file__).parents[1] / "experiments" / "catastrophic.toml"
SEEDS = [3, 4, 5]
PENALTIES = {
    "elle-100": ddi.ELLE(100),
    "elle-300": ddi.ELLE(300),
    "gradalign-0.3": ddi.GradAlign(0.3),
    "llr-10": ddi.LLR(10),
    "cure-0.03": ddi.CURE(0.03),
}


class Given:
    """Points and shares in place of random ones."""

    def __init__(self, points, share=None):
        self.points, self.share = iter(points), share

    def point(self, x):
        return x + next(self.points)

    def uniform(self, *shape):
        return self.share


@pytest.fixture
def nets():
    """Three networks far from linear, different images for each, and labels."""
    models = [collapse.network(seed).double() for seed in SEEDS]
    for model in models:
        for p in model.parameters():
            p.data *= 2
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(3, 7, 1, 8, 8, generator=draw, dtype=torch.float64)
    y = torch.randint(10, (3, 7), generator=draw)
    return models, collapse.stack(models), x, y


def test_networks_side_by_side_are_networks_one_by_one(nets):
    models, θ, x, y = nets
    values = collapse.losses(θ, x, y)
    stacked = torch.autograd.grad(values.mean(1).sum(), θ)
    for i, model in enumerate(models):
        alone = ddi.cross_entropy(model(x[i]), y[i])
        assert torch.allclose(values[i], alone, rtol=1e-12, atol=1e-12)
        each = torch.autograd.grad(alone.mean(), list(model.parameters()))
        for one, many in zip(each, stacked, strict=True):
            assert torch.allclose(one, many[i], rtol=1e-10, atol=1e-12)


def test_attacks_are_the_packages(nets):
    models, θ, _, y = nets
    x = torch.rand(3, 7, 1, 8, 8, generator=torch.Generator().manual_seed(1)).round().double()
    eps, zero = collapse.EPS, torch.zeros_like(x)
    pairs = [(collapse.fgsm(θ, x, y, None), ddi.FGSM(eps))]
    many = collapse.sign_steps(θ, x, y, zero, 7, eps / 4)
    pairs += [(many, ddi.PGD(eps, eps / 4, 7, random_start=False))]
    start = eps * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) - 1).double()
    pairs += [
        (collapse.project(start, x), lambda m, a, b: ddi.LInf(eps).project(start[at(x, a)], a))
    ]
    for stacked, attack in pairs:
        for i, model in enumerate(models):
            assert torch.allclose(stacked[i], attack(model, x[i], y[i]), atol=1e-12)


@pytest.mark.parametrize(("name", "steps", "size"), [("pgd4", 4, 0.5), ("pgd5", 5, 0.4)])
def test_arms_at_the_penalties_passes_take_their_steps(nets, name, steps, size):
    _, θ, _, y = nets
    x = torch.rand(3, 7, 1, 8, 8, generator=torch.Generator().manual_seed(1)).round().double()
    start = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)).double()
    start = collapse.project(collapse.EPS * (2 * start - 1), x)
    arm = collapse.ARMS[name]
    found = arm.attack(θ, x, y, Given([start]))
    hand = collapse.sign_steps(θ, x, y, start, steps, size * collapse.EPS)
    assert torch.allclose(found, hand, atol=1e-12)
    assert arm.passes == ddi.descent_rule("single").passes(steps)


def at(x, part):
    """Which row of ``x`` that is."""
    return next(i for i in range(len(x)) if torch.equal(x[i], part))


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_and_passes_are_the_packages(nets, name):
    models, θ, x, y = nets
    arm, penalty = collapse.ARMS[name], PENALTIES[name]
    draw = torch.Generator().manual_seed(3)
    threat = ddi.LInf(collapse.EPS)
    each = [penalty.points(images, threat, draw) for images in x]
    points = [torch.stack(some) for some in zip(*each, strict=True)]
    given = Given([p for p in points if p.ndim > 2], next((p for p in points if p.ndim == 2), None))
    stacked = arm.penalty(θ, x, y, given)
    assert stacked.min() >= 0 and stacked.max() > 1e-6
    slopes = torch.autograd.grad(stacked.mean(1).sum(), θ, allow_unused=True)
    for i, model in enumerate(models):
        terms = penalty.terms(inner(ddi.cross_entropy, model, x[i], y[i]), x[i], *each[i])
        assert torch.allclose(stacked[i], terms, rtol=1e-9, atol=1e-12)
        alone = torch.autograd.grad(terms.mean(), list(model.parameters()), allow_unused=True)
        for one, many in zip(alone, slopes, strict=True):
            assert (one is None) == (many is None)
            assert one is None or torch.allclose(one, many[i], rtol=1e-7, atol=1e-10)
    assert arm.weight == penalty.weight
    assert arm.passes == ddi.descent_rule("single", penalty=penalty).passes(1)


def test_no_network_sees_anothers_parameters(nets):
    models, _, x, y = nets
    images, labels = x.flatten(0, 1)[:20], y.flatten()[:20]
    seeds, arm = SEEDS, collapse.ARMS["elle-100"]

    def trained(chosen):
        θ = collapse.stack([models[seeds.index(s)] for s in chosen])
        list(collapse.train(arm, θ, images, labels, 2, collapse.Draw(chosen, 1)))
        return θ

    together, alone = trained(seeds), trained(seeds[1:2])
    for many, one in zip(together, alone, strict=True):
        assert torch.allclose(many[1], one[0], atol=1e-9)
    assert not torch.allclose(together[0][1], dict(models[1].named_parameters())["0.weight"])


def test_a_record_is_written_once(tmp_path, capsys):
    collapse.run("fgsm", [0, 1], 1, tmp_path)
    rows = [ddi.read_record(tmp_path / f"fgsm-seed{seed}") for seed in (0, 1)]
    for record in rows:
        assert record.complete and record.config["passes"] == 2
        m = record.metrics
        assert m["pgd"][-1] <= m["clean"][-1] and m["loss_10"][-1] >= m["loss_0"][-1]
    assert rows[0].metrics["loss_0"][-1] != rows[1].metrics["loss_0"][-1]
    collapse.run("fgsm", [0, 1], 1, tmp_path)
    assert "kept" in capsys.readouterr().out


def test_the_lectures_arms_run_on_digits(tmp_path):
    runs = {run.arm: run for run in ddi.read_experiment(FILE)}
    for arm, run in runs.items():
        eps = {"8": 8 / 255, "16": 16 / 255}[arm.rpartition("-")[2]]
        assert run.attack.eps == run.evaluation.eps == eps, arm
    assert str(runs["elle-8"].rule.penalty) == "elle(1000)"
    command = ["run", str(FILE), "--epochs", "1", "--out", str(tmp_path), "--quiet"]
    command += ["--arms", "fgsm-8,fast-16,llr-8,cure-16,gradalign-16,elle-a-8", "seeds=1"]
    command += ["data=digits", "model.name=SmallNet", "setting.batch_size=10"]
    command += ["setting.epoch_steps=2", "setting.validation=10", "evaluation.steps=1"]
    main(command)
    records = ddi.read_records(tmp_path / "catastrophic")
    assert len(records) == 6 and all(record.complete for record in records)
