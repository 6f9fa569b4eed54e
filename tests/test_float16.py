"""Float16: what an attack finds and a rule returns is that of float32, though its backward pass has
no numbers below 6e-8.
"""

import copy

import pytest
import torch
from torch import nn

from ddi import (
    CURE,
    ELLE,
    KL,
    LLR,
    MLP,
    PGA,
    PGD,
    GradAlign,
    assign_gradient,
    cross_entropy,
    descent_rule,
    digits,
    margin_loss,
    robust_accuracy,
)

EPS = 0.1


@pytest.fixture(scope="module")
def sure():
    """A network that knows its training images by heart, three times as sure as it was trained to
    be, with room: its losses are below 1e-4.
    """
    data = digits()
    x, y = data.x_train[:400], data.y_train[:400]
    torch.manual_seed(0)
    model = MLP(hidden=(64, 64))
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(400):
        optimiser.zero_grad()
        cross_entropy(model(x), y).mean().backward()
        optimiser.step()
    with torch.no_grad():
        for parameter in model[-1].parameters():
            parameter.mul_(3.0)
    return model.eval()


def low(way, model, x):
    """The context, the network and the images of one of the two ways to float16."""
    if way == "half":
        return torch.autocast("cpu", enabled=False), copy.deepcopy(model).half(), x.half()
    return torch.autocast("cpu", torch.float16), model, x


def drawn():
    return torch.Generator().manual_seed(0)


each_way = pytest.mark.parametrize("way", ["autocast", "half"])


@each_way
@pytest.mark.parametrize(
    "attack",
    [
        PGD(EPS, EPS / 4, 20),
        PGD(6 * EPS, 1.5 * EPS, 20, norm="L2", keep="best"),
        PGD(EPS, EPS / 4, 20, loss=margin_loss),
        PGD(EPS, EPS / 4, 20, loss=KL()),
    ],
    ids=["linf", "l2", "margin", "kl"],
)
def test_an_attack_is_as_strong_as_in_float32(sure, way, attack):
    """Two standard errors are 0.05; unscaled, most images stand."""
    data = digits()
    x, y = data.x_test, data.y_test
    full = robust_accuracy(sure, x, y, attack, generator=drawn()).value
    context, model, images = low(way, sure, x)
    with context:
        found = robust_accuracy(model, images, y, attack, generator=drawn()).value
    assert full < 0.5 and abs(found - full) < 0.05


@each_way
@pytest.mark.parametrize("factor", [1.0, 3e-4])
def test_a_step_of_length_one_is_the_gradient_itself(sure, way, factor):
    """Sample by sample, whatever the others' losses are, also where the scaled pass overflows."""
    data = digits()
    x, y = data.x_test[:40] * factor, data.y_test[:40]
    model = sure if factor == 1 else nn.Sequential(Times(1 / factor), sure)
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model(point), y).sum(), point)
    length = gradient.flatten(1).norm(dim=1)
    size = 0.5 / length.max().item()
    attack = PGA(1.0, size, 1, box=None, random_start=False, norm="L2")
    context, model, images = low(way, model, x)
    with context:
        delta = attack(model, images, y)
    seen = size * length > 1e-3  # what a delta in float16 can show
    off = (delta.float() - size * gradient).flatten(1).norm(dim=1) / (size * length)
    assert seen.sum() >= 3 and off[seen].max() < 0.05


class Times(nn.Module):
    """A factor, by steps that float16 can take."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


class ByHand(nn.Module):
    """Statistics of the batch that no BatchNorm shows."""

    def forward(self, h):
        return (h - h.mean(0)) / (h.std(0) + 1e-3)


@pytest.mark.parametrize("kind", ["batchnorm", "by hand", "lambda"])
def test_samples_that_are_coupled_have_one_scale(kind):
    """By the batch's own statistics: a gradient contains the others' losses."""
    data = digits()
    x, y = data.x_test[:12], data.y_test[:12]
    torch.manual_seed(0)
    norm = ByHand() if kind == "by hand" else nn.BatchNorm1d(32, track_running_stats=False)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), norm, nn.Tanh(), nn.Linear(32, 10))
    with torch.no_grad():
        network[-1].weight.mul_(30.0)
    model = (lambda images: network(images)) if kind == "lambda" else network
    attack = PGA(1.0, 0.01, 1, box=None, random_start=False, norm="L2")
    full = attack(model, x, y)
    with torch.autocast("cpu", torch.float16):
        found = attack(model, x, y)
    assert (found - full).norm() / full.norm() < 0.02


@each_way
@pytest.mark.parametrize(
    "name, options",
    [
        ("single", {}),
        ("mean", {"m": 2}),
        ("product", {"m": 2, "chunks": 4}),
        ("product", {"m": 2, "method": "gram"}),
    ],
)
@pytest.mark.parametrize("factor", [1.0, 1e3])
def test_a_direction_is_that_of_float32(sure, way, name, options, factor):
    """Of small losses, and of large ones, where the scaled pass overflows."""
    data = digits()
    images, labels = (data.x_train, data.y_train) if factor == 1 else (data.x_test, data.y_test)
    x, y = images[:40], labels[:40]

    def loss(logits, y):
        return factor * cross_entropy(logits, y)

    rule = descent_rule(name, normalize=False, loss=loss, **options)
    full = rule(sure, x, y, none)
    context, model, images = low(way, sure, x)
    with context:
        step = rule(model, images, y, none)
    assert full.loss < 1e-3 if factor == 1 else full.loss > 1
    assert step.gradient.dtype == torch.float32
    assert (step.gradient - full.gradient).norm() < 0.05 * full.gradient.norm()
    assign_gradient(model, step.gradient)
    assert all(p.grad.dtype == p.dtype for p in model.parameters())


class Behind(nn.Module):
    """A network in float16 behind images in float32."""

    def __init__(self, network):
        super().__init__()
        self.network = network.half()

    def forward(self, x):
        return self.network(x.half()).float()


def test_weights_in_float16_behind_images_in_float32_lose_nothing(sure):
    data = digits()
    x, y = data.x_train[:40], data.y_train[:40]
    rule = descent_rule("single", normalize=False)
    full = rule(sure, x, y, none).gradient
    found = rule(Behind(copy.deepcopy(sure)), x, y, none).gradient
    assert (found.float() - full).norm() < 0.05 * full.norm()


def test_a_compiled_network_whose_scaled_pass_overflows_moves_once(sure):
    """Its graph is gone after one backward pass; another pass is of the same function."""
    data = digits()
    x, y = data.x_test[:40], data.y_test[:40]
    torch.manual_seed(0)
    model = nn.Sequential(copy.deepcopy(sure), nn.BatchNorm1d(10), nn.Dropout(0.3)).train()
    start = copy.deepcopy(model.state_dict())

    def loss(logits, y):
        return 1e3 * cross_entropy(logits, y)

    torch.manual_seed(1)
    model(x)
    after = torch.get_rng_state()
    rule = descent_rule("single", normalize=False, loss=loss)
    steps = []
    for network in (model, torch.compile(model, backend="aot_eager")):
        model.load_state_dict(start)
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.float16):
            steps.append(rule(network, x, y, none).gradient)
        assert model[1].num_batches_tracked == 1 and torch.equal(torch.get_rng_state(), after)
    torch.compiler.reset()
    assert (steps[0] - steps[1]).norm() < 0.02 * steps[0].norm()


@each_way
def test_penalties_in_float16(sure, way):
    """ELLE is that of float32; what takes gradients inside, which would be 0, is refused."""
    data = digits()
    x, y = data.x_test[:40], data.y_test[:40]
    attack = PGD(EPS, EPS / 4, 1, random_start=False)
    rule = descent_rule("single", normalize=False, penalty=ELLE(10.0))
    full = rule(sure, x, y, attack, drawn())
    context, model, images = low(way, sure, x)
    with context:
        step = rule(model, images, y, attack, drawn())
        for penalty in (GradAlign(), CURE(), LLR()):
            with pytest.raises(ValueError, match=r"no gradients in float16"):
                descent_rule("single", penalty=penalty)(model, images, y, attack, drawn())
    assert step.loss == pytest.approx(full.loss, rel=0.05)


def test_a_gradient_that_float16_cannot_hold_is_refused(sure):
    model = copy.deepcopy(sure).half()
    size = sum(p.numel() for p in model.parameters())
    with pytest.raises(ValueError, match="finite in float16"):
        assign_gradient(model, torch.cat([torch.ones(size - 1), torch.tensor([1e5])]))
    assert all(p.grad is None for p in model.parameters())


def none(model, x, y):
    return torch.zeros_like(x)
