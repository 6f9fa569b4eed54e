"""The programs of the records on the size of weights (chapter 12), wrong labels (chapter 15) and
saliency maps (chapter 19).
"""

from dataclasses import replace

import digits_noise as noise
import numpy as np
import pytest
import resnet_weights as weights
import saliency
import torch

import ddi


def test_one_label_in_five_becomes_another_one():
    y = torch.arange(20_000) % 10
    given = noise.noisy(y, torch.Generator().manual_seed(1))
    wrong = given != y
    assert abs(wrong.double().mean() - 0.2) < 0.01
    shift = (given - y)[wrong] % 10
    assert shift.bincount(minlength=10)[1:].min() > 300  # all nine others: 444 each on average


def test_strong_is_both_attacks_and_memorised_is_of_the_wrong_labels(monkeypatch):
    model, draw = ddi.MLP(64, 10, ()), torch.Generator().manual_seed(0)
    x, y = torch.rand(60, 1, 8, 8, generator=draw), torch.arange(60) % 10
    with torch.no_grad():
        says = model(x).argmax(1)
    true = torch.where(torch.arange(60) < 20, (says + 1) % 10, says)  # the first 20 are wrong ...
    given = torch.where(torch.arange(60) < 5, (says + 2) % 10, says)  # ... and 5 not as it says
    found = noise.measured(model, x, y, x, given, true)
    assert found["memorised"] == 15 / 20
    assert found["strong"] <= found["pgd"] <= found["clean"]
    attacks = []

    def stands(model, x, y, attack):
        attacks.append(attack)
        return torch.arange(60) % (3 if isinstance(attack, ddi.BETA) else 2) == 0

    monkeypatch.setattr(noise, "stands", stands)
    found = noise.measured(model, x, y, x, given, true)
    assert found["pgd"] == 1 / 2 and abs(found["strong"] - 1 / 6) < 1e-12
    assert [(a.eps, a.steps) for a in attacks] == [(0.1, 20)] * 2


@pytest.mark.parametrize(("arm", "passes"), [("pgd", 8), ("beta", 64), ("mart", 9)])
def test_a_noise_record_is_written_once(arm, passes, tmp_path, capsys):
    noise.run(arm, 0, 1, tmp_path)
    record = ddi.read_record(tmp_path / f"{arm}-seed0")
    assert record.complete and record.metrics["passes"].tolist() == [8 * passes]
    assert record.metrics["train_loss"][0] > 1
    noise.run(arm, 0, 1, tmp_path)
    assert "kept" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------


@pytest.fixture
def images():
    """A data set of the shape of the part of CIFAR-10 that is used, made of noise."""
    draw, n = torch.Generator().manual_seed(0), saliency.EACH
    x = torch.rand(n, 3, 32, 32, generator=draw)
    y = torch.arange(5 * n) % 10
    return ddi.Dataset("noise", x.repeat(5, 1, 1, 1), y, x, y[:n], 10)


def test_the_first_images_of_each_file():
    x = torch.arange(50_000.0).view(-1, 1, 1, 1) / 50_000
    y = torch.arange(50_000) % 10
    part = saliency.firsts(ddi.Dataset("all", x, y, x[:10_000], y[:10_000], 10))
    first = [int(round(50_000 * v)) for v in part.x_train.flatten()[:: saliency.EACH].tolist()]
    assert first == [0, 10_000, 20_000, 30_000, 40_000]
    assert len(part.x_train) == 5 * saliency.EACH and len(part.x_test) == saliency.EACH
    assert torch.equal(part.x_test, x[: saliency.EACH]) and saliency.firsts(part) is part
    with pytest.raises(ValueError, match="CIFAR-10"):
        saliency.firsts(ddi.digits())


@pytest.mark.parametrize("arm", saliency.ARMS)
def test_each_arm_perturbs_by_what_the_design_says(arm):
    eps, draw = saliency.EPS, torch.Generator().manual_seed(2)
    model, x = ddi.SmallNet(norm="none"), torch.full((4, 3, 32, 32), 0.5)
    with torch.no_grad():
        moved = (saliency.perturbed(arm, model, x, torch.arange(4), draw) - x).abs()
    sizes = {"plain": 0.0, "uniform": eps, "noise": 2 * eps, "strong-noise": 8 * eps}
    assert abs(moved.max() - sizes.get(arm, eps)) < 1e-3
    if arm in saliency.SIGNS:
        assert moved.min() > sizes[arm] - 1e-6
    if arm == "uniform":
        assert abs(moved.mean() - eps / 2) < 1e-3


def test_alignment_is_the_distance_of_a_linear_network():
    model = ddi.MLP(64, 10, ())
    x, y = torch.rand(5, 1, 8, 8), torch.tensor([0, 3, 3, 9, 1])
    w = model[1].weight.detach()
    g = saliency.saliency(model, x, y)
    assert torch.allclose(g.flatten(1), w[y])
    values = ((x.flatten(1) * w[y]).sum(1).abs() / w[y].norm(dim=1)).sort().values
    assert abs(saliency.alignment(x, g) - values[2]) < 1e-6
    found = saliency.measured(model, x, y, g)
    grey = x.mean((1, 2, 3), keepdim=True)
    assert abs(found["centred"] - saliency.alignment(x - grey, g)) < 1e-6 < found["alignment"]


def test_a_saliency_record_and_its_maps(images, tmp_path):
    small = ddi.Dataset(
        "few", images.x_train[:200], images.y_train[:200], images.x_test, images.y_test, 10
    )
    rows = saliency.run("noise", 0, 1, small, tmp_path)
    assert ddi.read_record(tmp_path / "noise-seed0").complete
    assert saliency.run("noise", 0, 1, small, tmp_path) is None
    rows[:, -1] = 1.0
    rows[0, -1] = 0.0  # the first image of class 0 is taken for another
    saliency.keep_maps({"noise": rows}, small, tmp_path)
    with np.load(tmp_path / "maps.npz") as kept:
        assert kept["label"].tolist() == list(saliency.CLASSES)
        assert kept["image"].tolist() == [10, 1, 3, 7, 8, 9]
        assert (np.abs(kept["noise"]).max((1, 2)) == 127).all()
        whole = rows[10, :-1].view(32, 32)
        assert np.abs(kept["noise"][0] - 127 * (whole / whole.abs().max()).numpy()).max() <= 0.5


# --------------------------------------------------------------------------------------------------


def test_scaled_weights_have_the_norms_and_the_function_stays():
    torch.manual_seed(0)
    model, x = ddi.ResNet18(), torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        before = model(x)
        wanted = weights.norms(model) * torch.linspace(0.8, 1.25, 20)
        weights.scale(model, wanted)
        assert torch.allclose(weights.norms(model), wanted, rtol=1e-5)
        assert (model(x) - before).abs().max() < 1e-3 * before.std()


def test_a_turn_is_an_angle_and_not_a_length():
    model = ddi.SmallNet()
    before = [w.clone() for w in weights.convolutions(model)]
    weights.scale(model, 3 * weights.norms(model))
    assert weights.angles(before, model).max() < 0.05
    first = weights.convolutions(model)[0]
    first.view(-1)[:2] = torch.tensor([3.0, 4.0])
    first.view(-1)[2:] = 0
    before = [w.clone() for w in weights.convolutions(model)]
    first.view(-1)[:2] = torch.tensor([-8.0, 6.0])  # orthogonal, and longer
    assert abs(weights.angles(before, model)[0] - 90) < 1e-3


def test_shares_are_of_the_squared_gradient_and_sizes_of_their_layers():
    model = ddi.SmallNet()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    model[0].weight.grad.view(-1)[:4] = 1.0  # a convolution: 4
    model[1].weight.grad[:2] = 2.0  # a gain: 8
    model[-1].bias.grad[:1] = 2.0  # the last layer: 4
    assert weights.shares(model) == {"convolutions": 0.25, "last": 0.25}
    with torch.no_grad():
        model[1].bias.fill_(3.0)
    found = weights.sizes(model, weights.norms(model) / torch.tensor([1.0, 2.0, 1.0, 1.0]))
    assert abs(found["growth"] - 2) < 1e-6 and abs(found["biases"] - 3 * 16**0.5) < 1e-5
    assert abs(found["gains"] - 176**0.5) < 1e-5  # 16 + 32 + 64 + 64 ones
    assert abs(found["head"] - model[-1].weight.norm()) < 1e-6


def test_arms_share_batches_and_differ_at_the_switch_by_size_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "BLOCK", 1)
    monkeypatch.setattr(weights, "SWITCH", 1)
    (run,) = ddi.read_experiment(weights.FILE, arms=["fast"], seeds=[3])
    setting = replace(run.setting, batch_size=10, validation=10)
    run = replace(run, model={"name": "SmallNet"}, setting=setting)
    draw = torch.Generator().manual_seed(0)
    x, y = torch.rand(50, 3, 8, 8, generator=draw), torch.arange(50) % 10
    data, switch = ddi.Dataset("noise", x, y, x[:10], y[:10], 10), {}
    begun = {}
    block = weights.Walk.block

    def watched(self, rule):
        begun[self.step, rule.normalize, len(begun)] = weights.norms(self.model)
        return block(self, rule)

    monkeypatch.setattr(weights.Walk, "block", watched)
    for arm in ("normalised", "raw", *weights.FROM):
        weights.walk(arm, run, data, 2, tmp_path, switch)
        if arm not in weights.FROM:
            switch[arm] = torch.load(tmp_path / f"{arm}-seed3.pt", weights_only=True)
    steps = [(step, normalised) for step, normalised, _ in begun]
    assert steps == [(0, True), (1, True), (0, False), (1, False), *[(1, True)] * 5]
    after, large = list(begun.values())[1], list(begun.values())[3]
    assert (after - large).abs().max() > 1e-3
    wanted_norms = (large, after, large, large, after)
    for found, wanted in zip(list(begun.values())[4:], wanted_norms, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-5)
    arms = ("normalised", "raw", *weights.FROM)
    rows = {a: ddi.read_record(tmp_path / f"{a}-seed3").metrics for a in arms}
    assert rows["raw"]["step"].tolist() == [1, 2] and rows["raw-then"]["step"].tolist() == [2]
    # one function, batch and random start after the switch, so one loss
    loss = {arm: rows[arm]["train_loss"][-1] for arm in arms}
    for arm, same in list(weights.FROM.items())[:3]:
        assert abs(loss[arm] - loss[same]) < 1e-3 < abs(loss["raw"] - loss["normalised"])
    for arm in ("raw-then-zero", "then-zero"):  # a network that guesses
        assert abs(loss[arm] - np.log(10)) < 1e-5 < abs(loss["raw"] - np.log(10))
