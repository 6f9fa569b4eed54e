"""Evaluation: counts by hand, monotonicity in the attack, signs of masked gradients."""

import warnings

import pytest
import torch
from torch import nn

from ddi import (
    PGD,
    Accuracy,
    LInf,
    autoattack_accuracy,
    clean_accuracy,
    digits,
    masking_signs,
    robust_accuracy,
)


def linear_pair():
    """A linear classifier of two points whose distances to the boundary are known: 0.1 and 0.3 in
    l-infinity.
    """
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-1.0], [1.0]]))
        model[1].bias.copy_(torch.tensor([0.5, -0.5]))
    return model, torch.tensor([0.6, 0.2, 0.8, 0.9]).view(4, 1, 1, 1), torch.tensor([1, 0, 1, 0])


@pytest.mark.parametrize("equal_shapes", [False, True])
def test_an_image_that_has_fallen_does_not_stand_up_again(equal_shapes):
    model, x, y = linear_pair()
    model.equal_shapes = equal_shapes  # batches keep their size: the fallen go along

    def to_the_dark(model, x, y, generator):
        return 0.2 - x

    assert (
        robust_accuracy(model, x, y, to_the_dark).value == 0.25
    )  # the last image is wrong until it is attacked


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


def test_restarts_and_steps_never_help_the_model():
    model, x, y = trained_linear()
    weak = PGD(0.1, 0.02, 2)
    values = [
        robust_accuracy(model, x, y, weak, r, torch.Generator().manual_seed(0)).value
        for r in (1, 2, 4)
    ]
    assert values == sorted(values, reverse=True)
    strong = robust_accuracy(
        model, x, y, PGD(0.1, 0.02, 20), 2, torch.Generator().manual_seed(0)
    ).value
    assert strong <= values[0] <= clean_accuracy(model, x, y).value


def test_any_callable_is_an_attack_only_through_its_deltas():
    model, x, y = linear_pair()
    towards = lambda model, x, y, generator=None: LInf(0.35).project(
        (1 - 2.0 * y).view(-1, 1, 1, 1) * 0.35, x
    )  # noqa: E731
    assert robust_accuracy(model, x, y, towards).value == 0


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


def test_autoattack_is_at_least_as_strong_as_pgd():
    pytest.importorskip("pyautoattack")
    model, x, y = trained_linear()
    model.train()
    ours = robust_accuracy(model, x[:30], y[:30], PGD(0.1, 0.02, 20))
    theirs = autoattack_accuracy(model, x[:30], y[:30], eps=0.1)
    assert theirs.value <= ours.value + 1e-9 and theirs.n == 30 and model.training
    assert all(p.requires_grad and p.grad is None or p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(0, 1, 1, 1)}, "x must"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, "labels"),
        ({"restarts": 0}, "restarts"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_impossible_evaluations_are_refused(change, message):
    model, x, y = linear_pair()
    with pytest.raises(ValueError, match=message):
        robust_accuracy(**({"model": model, "x": x, "y": y} | change))
