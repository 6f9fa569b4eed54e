"""Evaluation: counts by hand, monotonicity in the attack, signs of masked gradients."""

import inspect
import math
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ddi import (
    FGSM,
    MLP,
    PGD,
    Accuracy,
    LInf,
    autoattack_accuracy,
    clean_accuracy,
    digits,
    margin_loss,
    masking_signs,
    robust_accuracy,
)
from ddi.evaluate import standing


def linear_pair():
    """A linear classifier of two points whose distances to the boundary are known: 0.1 and 0.3 in
    l-infinity.
    """
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-1.0], [1.0]]))
        model[1].bias.copy_(torch.tensor([0.5, -0.5]))
    return model, torch.tensor([0.6, 0.2, 0.8, 0.9]).view(4, 1, 1, 1), torch.tensor([1, 0, 1, 0])


def to_the_dark(model, x, y, generator):
    return 0.2 - x


def test_an_image_that_has_fallen_does_not_stand_up_again():
    model, x, y = linear_pair()
    assert robust_accuracy(model, x, y, to_the_dark).value == 0.25  # the last is wrong at first
    compiled = torch.compile(model, backend="eager")  # there the fallen go along
    assert robust_accuracy(compiled, x, y, to_the_dark).value == 0.25


@pytest.mark.parametrize(("compiled", "sizes"), [(True, {4}), (False, {4, 2})])
def test_only_a_compiled_network_meets_batches_of_one_size(compiled, sizes):
    torch.manual_seed(0)
    model, x, seen = MLP(hidden=(8,)), torch.rand(8, 1, 8, 8), []
    y = model(x).argmax(1)
    y[:2] = (y[:2] + 1) % 10  # two images that need no attack
    model.register_forward_hook(lambda m, images, z: seen.append(len(images[0])))
    run = torch.compile(model, backend="eager") if compiled else model
    value = robust_accuracy(run, x, y, PGD(steps=1, eps=0), batch_size=4).value
    assert set(seen) == sizes and value == 0.75
    torch.compiler.reset()


def trained_linear():
    data = digits()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimiser = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(data.x_train), data.y_train).backward()
        optimiser.step()
    return model, data.x_test[:100], data.y_test[:100]


def test_clean_accuracy_counts():
    model, x, y = linear_pair()
    for batch_size in (1, 3, 500):
        got = clean_accuracy(model.train(), x, y, batch_size)
        assert (got.value, got.n) == (0.75, 4) and model.training
    assert got.standard_error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert str(Accuracy(0.5, 100)) == "50.00 % ± 5.00 (n = 100)"


@pytest.mark.parametrize(
    "eps, value", [(0.0, 0.75), (0.05, 0.75), (0.15, 0.5), (0.25, 0.5), (0.35, 0.0)]
)
def test_robust_accuracy_is_the_share_farther_than_eps_from_the_boundary(eps, value):
    model, x, y = linear_pair()
    attack = PGD(eps, eps / 4, 20)
    assert robust_accuracy(model, x, y, attack).value == value
    assert robust_accuracy(model, x, y, attack, restarts=3, batch_size=2).value == value


class Moving(nn.Module):
    """A network that answers otherwise in training mode, and whose statistics move there."""

    def __init__(self, model):
        super().__init__()
        self.model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.9), model)

    def forward(self, x):
        return self.model(x)


def test_accuracies_are_those_of_eval_mode_whatever_the_batch_size():
    linear, x, y = trained_linear()
    model = Moving(linear).train()
    model.model[0].running_mean.fill_(0.1)
    attack, draw = PGD(0.05, 0.02, 3, random_start=False), torch.Generator
    z = linear((x - 0.1) / math.sqrt(1 + 1e-5))
    expected = (z.argmax(1) == y).double().mean().item()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    robust = robust_accuracy(model.eval(), x, y, attack)
    assert 0 < robust.value < expected < 1
    for size in (None, 1, 7, 100):
        model.train()
        assert clean_accuracy(model, x, y, size).value == expected
        assert robust_accuracy(model, x, y, attack, generator=draw(), batch_size=size) == robust
        assert model.training and model.model[1].training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_restarts_attack_what_still_stands_and_the_generator_decides():
    """Each round fells others: what stands after r rounds stands in each of them."""
    model, x, y = trained_linear()
    weak = PGD(0.1, 0.02, 1)
    draw = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    values = [robust_accuracy(model, x, y, weak, r, draw()).value for r in (1, 2, 8)]
    assert values[0] > values[1] > values[2]
    stands, source = model(x).argmax(1) == y, draw()
    for _ in range(2):
        left = stands.nonzero().squeeze(1)
        moved = x[left] + weak(model, x[left], y[left], source)
        stands[left] &= model(moved).argmax(1) == y[left]
    assert values[1] == stands.double().mean().item()
    other = robust_accuracy(model, x, y, weak, 8, torch.Generator().manual_seed(1)).value
    strong = robust_accuracy(model, x, y, PGD(0.1, 0.02, 20), 1, draw()).value
    assert strong < values[0] < clean_accuracy(model, x, y).value and other < values[0]


def test_defaults_are_those_that_the_book_names():
    options = lambda f: {  # noqa: E731
        n: p.default for n, p in inspect.signature(f).parameters.items() if p.default is not p.empty
    }
    pgd20 = PGD(8 / 255, 2 / 255, 20)
    assert options(clean_accuracy) == {"batch_size": None}
    assert options(robust_accuracy) == {
        "attack": pgd20, "restarts": 1, "generator": None, "batch_size": None, "progress": False
    }  # fmt: skip
    assert options(standing) == options(robust_accuracy)
    assert options(autoattack_accuracy) == {
        "eps": 8 / 255, "norm": "Linf", "seed": 0, "batch_size": 250
    }  # fmt: skip
    assert options(masking_signs) == {"attack": pgd20, "generator": None}
    model, calls = MLP(hidden=()), []
    model.register_forward_hook(lambda m, i, z: calls.append(len(z)))
    clean_accuracy(model, torch.rand(600, 1, 8, 8), torch.zeros(600, dtype=torch.int64))
    assert calls == [250, 250, 100]


def test_any_callable_is_an_attack_only_through_its_deltas():
    model, x, y = linear_pair()

    def towards(model, x, y):
        return LInf(0.35).project((1 - 2.0 * y).view(-1, 1, 1, 1).expand_as(x) * 0.35, x)

    assert robust_accuracy(model, x, y, towards).value == 0
    assert robust_accuracy(model, x, y, lambda model, x, y: 0 * x, restarts=2).value == 0.75
    with pytest.raises(ValueError, match="attack must be callable"):
        robust_accuracy(model, x, y, PGD)


class Masked(nn.Module):
    """Right on the training images, and flat: its gradient tells an attack nothing."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return (50 * self.model(x)).round().detach() / 50 + 0 * x.flatten(1).sum(1, keepdim=True)


def test_masked_gradients_are_noticed_and_honest_ones_not():
    model, x, y = trained_linear()
    attack = PGD(0.1, 0.02, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert masking_signs(model, x, y, attack) == []
    with pytest.warns(UserWarning, match="may be masked.*whole box"):
        assert len(masking_signs(Masked(model), x, y, attack)) >= 1


class OneStep(nn.Module):
    """Honest at the images themselves, and flat a little off them."""

    def __init__(self, model, x):
        super().__init__()
        self.model, self.images = model, x

    def forward(self, x):
        z = self.model(x)
        near = (x.flatten(1)[:, None] - self.images.flatten(1)).abs().amax(2).amin(1) < 1e-6
        return torch.where(near[:, None], z, z.detach() + 0 * z)


def test_a_step_that_is_stronger_than_many_is_a_sign():
    model, x, y = trained_linear()
    attack = PGD(0.1, 0.005, 10, random_start=False)  # one step of ten gets anywhere
    with pytest.warns(UserWarning, match="one step is stronger than 10"):
        signs = masking_signs(OneStep(model, x), x, y, attack)
    assert signs[0].startswith("one step is stronger than 10: ")
    once = robust_accuracy(model, x, y, FGSM(0.1))
    assert f": {once} against " in signs[0]


def test_signs_need_a_margin_of_two_standard_errors():
    """With n images that all stand, one that falls to a single step is less than 2 of them."""
    model, x, y = trained_linear()
    stands = model(x).argmax(1) == y
    x, y = x[stands][:2], y[stands][:2]
    attack = PGD(1e-4, 0.0, 2, random_start=False, loss=margin_loss)

    def falls(count):
        def run(images):
            z = 50 * model(images)
            moved = (images - x[: len(images)]).flatten(1).abs().amax(1) > 0.5e-4
            moved &= torch.arange(len(images)) < count
            return torch.where(moved[:, None], -z, z)

        return run

    for count, n in ((1, 0), (2, 0)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            signs = masking_signs(falls(count), x, y, attack)
        assert len([s for s in signs if s.startswith("one step")]) == n


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_signs_do_not_depend_on_the_scale_of_the_images(norm):
    """Powers of two change no bit."""
    model, x, y = trained_linear()
    attack = PGD(0.125, 0.03125, 10, norm=norm, random_start=False)
    found = {}
    for scale in (1.0, 256.0, 0.0625):
        for kind in (lambda m: m, Masked):
            net = kind(model)
            box = (0.0, scale)
            scaled = replace(attack, eps=scale * attack.eps, alpha=scale * attack.alpha, box=box)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run = lambda images, net=net, scale=scale: net(images / scale)  # noqa: E731
                draw = torch.Generator().manual_seed(0)
                signs = masking_signs(run, x * scale, y, scaled, draw)
            found.setdefault(kind is Masked, []).append([s.split(":")[0][:14] for s in signs])
    assert found[False] == [[]] * 3 and found[True] == [["with the whole"]] * 3


def test_without_a_box_the_range_is_that_of_the_images():
    model, x, y = trained_linear()
    shifted = lambda images: model((images + 300) / 100)  # noqa: E731
    attack = PGD(10.0, 2.0, 10, box=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert masking_signs(shifted, 100 * x - 300, y, attack) == []


def test_autoattack_is_at_least_as_strong_as_pgd():
    pytest.importorskip("pyautoattack")
    model, x, y = trained_linear()
    model.train().zero_grad()
    first = next(model.parameters()).requires_grad_(False)
    random = torch.get_rng_state()
    x, y = x[:12], y[:12]
    ours = robust_accuracy(model, x, y, PGD(0.1, 0.02, 20), generator=torch.Generator())
    theirs = autoattack_accuracy(model, x, y, eps=0.1)
    assert theirs.value <= ours.value < clean_accuracy(model, x, y).value
    assert theirs.n == 12 and model.training and torch.equal(torch.get_rng_state(), random)
    assert not first.requires_grad and model[1].bias.requires_grad
    assert all(p.grad is None for p in model.parameters())
    # in an l2 ball of that radius there are far fewer perturbations
    assert autoattack_accuracy(model, x, y, 0.1, "L2").value > theirs.value


class InPlace(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x.sub_(0.5).mul_(2))


def test_autoattack_of_a_network_that_normalises_in_place():
    pytest.importorskip("pyautoattack")
    torch.manual_seed(1)
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(25, 2)), torch.rand(20, 1, 5, 5)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(25, 2))
    with torch.no_grad():  # the same function, without the subtraction
        plain[1].weight.copy_(2 * net[1].weight)
        plain[1].bias.copy_(net[1].bias - net[1].weight.sum(1))
    y, kept = plain(x).argmax(1), x.clone()
    found = autoattack_accuracy(InPlace(net), x, y, 0.05)
    assert torch.equal(x, kept)
    exact = robust_accuracy(plain, x, y, FGSM(0.05)).value
    assert 0.1 < exact < 0.9 and abs(found.value - exact) < 0.11


def test_autoattack_in_l1_is_no_stronger_than_the_greedy_maximum_of_a_linear_network():
    """With two classes FGSM's one step, filled greedily, is the exact maximiser in ball and box."""
    pytest.importorskip("pyautoattack")
    torch.manual_seed(1)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(25, 2)), torch.rand(40, 1, 5, 5)
    y = model(x).argmax(1)
    exact = robust_accuracy(model, x, y, FGSM(0.5, "L1")).value
    theirs = autoattack_accuracy(model, x, y, 0.5, "L1").value
    assert 0.2 < exact < 0.8 and exact <= theirs <= exact + 0.1
    with pytest.raises(ValueError, match="x must be images of 5 pixels"):
        autoattack_accuracy(model, x[..., :4], y, 0.5, "L1")


@pytest.mark.parametrize(
    ("classes", "dtype"), [(2, torch.float64), (3, torch.float32), (4, torch.float32)]
)
def test_autoattack_takes_any_number_of_classes(classes, dtype):
    """Of two points a distance of eps apart in the box, one falls."""
    pytest.importorskip("pyautoattack")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, classes))
    with torch.no_grad():
        model[1].weight.zero_()[:2] = torch.tensor([[-1.0], [1.0]])
        model[1].bias.fill_(-9.0)[:2] = torch.tensor([2.0, -2.0])
    x = torch.stack([torch.full((1, 2, 2), v) for v in (0.55, 0.9)])
    found = autoattack_accuracy(model.to(dtype), x.to(dtype), torch.ones(2).long(), 0.1)
    assert found.value == 0.5


def test_autoattack_hands_the_suite_what_it_is_given(monkeypatch):
    made = []

    class Suite:
        def __init__(self, model, **options):
            made.append(options)
            self.apgd_targeted, self.fab = SimpleNamespace(), SimpleNamespace()
            self.attacks_to_run = ["apgd-ce", "apgd-t", "fab-t", "square"]

        def run_standard_evaluation(self, x, y, batch_size):
            made[-1] |= {"batch_size": batch_size, "dtype": x.dtype, "runs": self.attacks_to_run}
            made[-1] |= {
                "targets": (self.apgd_targeted.n_target_classes, self.fab.n_target_classes)
            }
            return x.flip(0), y

    monkeypatch.setitem(sys.modules, "pyautoattack", SimpleNamespace(AutoAttack=Suite))
    model, x, y = trained_linear()
    found = autoattack_accuracy(model, x, y, 0.25, "L2", 7, 31)
    assert found == clean_accuracy(model, x.flip(0), y) and 0 < found.value < 0.5
    got = made.pop()
    assert (got["eps"], got["norm"], got["seed"], got["batch_size"]) == (0.25, "L2", 7, 31)
    assert got["targets"] == (9, 9) and got["runs"] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    autoattack_accuracy(model.double(), x.double(), y)
    got = made.pop()
    assert (got["eps"], got["norm"], got["seed"], got["batch_size"]) == (8 / 255, "Linf", 0, 250)
    assert got["dtype"] == torch.float32
    for classes, runs in ((3, ["apgd-ce", "fab-t", "square"]), (4, got["runs"])):
        autoattack_accuracy(MLP(64, classes, ()), x, y % 3)
        got = made.pop()
        assert got["targets"] == (classes - 1, classes - 1) and got["runs"] == runs
    for bad in (
        {"eps": 0},
        {"norm": "L7"},
        {"seed": -1},
        {"batch_size": 0},
        {"x": x * 2},
        {"x": x[:, 0]},
    ):
        with pytest.raises(ValueError, match=f"^{next(iter(bad))} must"):
            autoattack_accuracy(**({"model": model.float(), "x": x, "y": y} | bad))
    assert not made
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(ImportError, match="pip install pyautoattack"):
        autoattack_accuracy(model, x, y)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(0, 1, 1, 1)}, "^x must"),
        ({"x": np.zeros((4, 1, 1, 1))}, "^x must.*NumPy array"),
        ({"x": torch.full((4, 1, 1, 1), torch.nan)}, "^x must be finite"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, "^y must be class labels"),
        ({"y": torch.zeros(4, 1, dtype=torch.int64)}, r"^y must be class labels.*\(4, 1\)"),
        ({"y": torch.zeros(4)}, "^y must be class labels.*float32"),
        ({"y": torch.tensor([0, 1, 2, 0])}, "^y must be class labels from 0 to 1"),
        ({"y": torch.tensor([0, 1, -1, 0])}, "^y must be class labels from 0"),
        ({"y": torch.zeros(4, dtype=torch.int64, device="meta")}, "one device"),
        ({"batch_size": 0}, "^batch_size must"),
        ({"batch_size": 2.0}, "^batch_size must"),
        ({"model": None}, "^model must be callable"),
        ({"model": lambda x: (x, x)}, "the model's output must be"),
        ({"model": nn.Flatten(0)}, "the model's output must be"),
        ({"restarts": 0}, "^restarts must"),
        ({"restarts": True}, "^restarts must"),
        ({"generator": 0}, "^generator must"),
        ({"progress": "no"}, "^progress must"),
        ({"attack": 3}, "^attack must"),
    ],
)
def test_impossible_evaluations_are_refused(change, message):
    model, x, y = linear_pair()
    given = {"model": model, "x": x, "y": y} | change
    calls = [robust_accuracy]
    calls += [clean_accuracy] if change.keys() <= {"model", "x", "y", "batch_size"} else []
    calls += [masking_signs] if change.keys() <= {"model", "x", "y", "attack", "generator"} else []
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call(**given)


def test_logits_that_are_no_numbers_are_an_error():
    _, x, y = linear_pair()
    for call in (clean_accuracy, robust_accuracy):
        with pytest.raises(FloatingPointError, match="logits"):
            call(lambda images: images.flatten(1).expand(-1, 2) * torch.nan, x, y)
    minus = lambda images: torch.stack([images.flatten(), -torch.inf + images.flatten()], 1)  # noqa: E731
    assert clean_accuracy(minus, x, y).value == 0.5


def test_an_accuracy_is_a_share_of_so_many_images():
    assert Accuracy(np.float64(0.5), np.int64(4)) == Accuracy(0.5, 4)
    assert Accuracy(0.2, 25).standard_error == pytest.approx(0.08)
    for bad in ((1.5, 4), (-0.1, 4), (math.nan, 4), (0.5, 0), (0.5, 2.5)):
        with pytest.raises(ValueError, match="(value|n) must be"):
            Accuracy(*bad)


def test_a_model_that_normalises_in_place_leaves_the_images_alone():
    torch.manual_seed(0)
    linear = nn.Linear(64, 10)

    class InPlace(nn.Module):
        def forward(self, x):
            return linear(x.sub_(0.5).div_(0.25).flatten(1))

    class Apart(nn.Module):
        def forward(self, x):
            return linear(((x - 0.5) / 0.25).flatten(1))

    x, y = torch.rand(40, 1, 8, 8), torch.arange(40) % 10
    before = x.clone()
    y[:20] = Apart()(x).argmax(1)[:20]
    found = [clean_accuracy(model, x, y).value for model in (InPlace(), InPlace(), Apart())]
    assert found[0] == found[1] == found[2] >= 0.5 and torch.equal(x, before)
    weak = PGD(0.01, 0.005, 3, box=None)
    draws = (torch.Generator().manual_seed(1) for _ in range(2))
    robust = [
        robust_accuracy(model, x, y, weak, generator=draw).value
        for model, draw in zip((InPlace(), Apart()), draws, strict=True)
    ]
    assert robust[0] == robust[1] < found[0] and torch.equal(x, before)
