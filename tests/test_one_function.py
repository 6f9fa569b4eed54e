"""What directions a sample are taken of must be one function of the model's own parameters; what
cannot be differentiated as it is asked is said in words.
"""

import pytest
import torch
from torch import nn
from torch.nn.functional import dropout
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from ddi import MLP, PGD, Rule, Setting, clean_accuracy, digits, product_point, train
from ddi.product import per_sample_gradients

X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6) % 10
ATTACK = PGD(0.1, 0.05, 2)
PER_SAMPLE = {
    "chunks": Rule("product", m=2, chunks=2),
    "gram": Rule("product", m=2, method="gram"),
    "matrix-free": Rule("product", m=2, method="matrix-free"),
    "bundle": Rule("bundle", m=2, t=0.1, joint=False),
}


class Aside(nn.Module):
    """A linear layer whose weight is reached by another way than as its parameter."""

    def __init__(self, way):
        super().__init__()
        self.layer = nn.Linear(64, 10)
        weight, own = self.layer.weight, {}
        if way == "tuple":
            self.held = (weight,)
            own = {"get": lambda: self.held[0]}
        elif way == "table":
            self.held = {"w": weight}
            own = {"get": lambda: self.held["w"]}
        elif way == "nested list":
            self.held = [[weight]]
            own = {"get": lambda: self.held[0][0]}
        elif way == "closure":
            own = {"get": lambda: weight}
        elif way == "alias":
            object.__setattr__(self, "held", weight)
            own = {"get": lambda: self.held}
        elif way == "module in a list":
            inner = nn.Linear(64, 10)
            self.held, self.registered = [inner], inner.weight
            own = {"get": lambda: self.held[0].weight}
        vars(self).update(own)

    def forward(self, x):
        return x.flatten(1) @ self.get().T + self.layer.bias


WAYS = ("tuple", "table", "nested list", "closure", "alias", "module in a list")


@pytest.mark.parametrize("rule", PER_SAMPLE.values(), ids=PER_SAMPLE)
@pytest.mark.parametrize("way", WAYS)
def test_a_parameter_that_is_reached_aside_is_refused_where_it_would_be_missed(way, rule):
    torch.manual_seed(0)
    model = Aside(way)
    with pytest.raises(ValueError, match=r"by another way.*tuple"):
        rule(model, X, Y, ATTACK)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    joint = Rule("mean", m=2)(model, X, Y, ATTACK).gradient  # misses nothing
    assert joint.norm() > 0.01


def test_a_trainable_layer_in_a_plain_list_is_neither_trained_nor_saved_and_so_refused(tmp_path):
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.held = nn.Linear(64, 10), [nn.Linear(64, 64)]

        def forward(self, x):
            return self.head(self.held[0](x.flatten(1)))

    setting = Setting(epochs=1, epoch_steps=1, validation=60, augment=False)
    model, rule = Hidden(), Rule("single")
    with pytest.raises(ValueError, match=r"trainable tensors.*\(64, 64\).*requires_grad_\(False\)"):
        train(model, digits(), rule, ATTACK, setting, tmp_path / "run")
    with pytest.raises(ValueError, match="by another way"):
        PER_SAMPLE["gram"](model, X, Y, ATTACK)
    model.held[0].requires_grad_(False)  # a fixed one: nothing is missed
    train(model, digits(), rule, ATTACK, setting, tmp_path / "run")
    assert PER_SAMPLE["gram"](model, X, Y, ATTACK).diagnostics["parameters"] == 650


@pytest.mark.parametrize("rule", [*PER_SAMPLE.values(), Rule("ddi", m=2), Rule("single")])
def test_a_cache_of_parametrised_weights_changes_no_direction(rule):
    def made():
        torch.manual_seed(0)
        layer = parametrizations.orthogonal(nn.Linear(64, 10))
        return nn.Sequential(nn.Flatten(), layer)

    deltas = 0.1 * torch.rand(2, *X.shape, generator=torch.Generator().manual_seed(1))
    attack = lambda model, x, y: deltas[0] * (model(x).argmax(1) < 99).view(-1, 1, 1, 1)  # noqa: E731
    plain = rule(made(), X, Y, attack).gradient
    model = made()
    with parametrize.cached():
        clean_accuracy(model, X, Y)  # would keep weights without a graph
        inside = rule(model, X, Y, attack).gradient
        nn.functional.cross_entropy(model(X), Y).backward()  # the caller's own pass has its graph
    torch.testing.assert_close(inside, plain)
    weight = model[1].parametrizations.weight.original
    assert plain.norm() > 0.01 and weight.grad.norm() > 0.01


def noisy(kind):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = MLP(hidden=(8,))
            self.noise = torch.Generator().manual_seed(0)

        def forward(self, x):
            if kind == "dropout":
                return self.body(dropout(x, 0.5, True))
            if kind == "randn":
                return self.body(x + torch.randn(x.shape))
            return self.body(x + torch.randn(x.shape, generator=self.noise))

    return Noisy()


@pytest.mark.parametrize("rule", PER_SAMPLE.values(), ids=PER_SAMPLE)
@pytest.mark.parametrize("kind", ["dropout", "randn", "a generator of its own"])
def test_noise_in_eval_mode_is_refused_for_directions_a_sample(kind, rule):
    model, before = noisy(kind), torch.get_rng_state()
    with pytest.raises(ValueError, match="no random numbers in eval mode"):
        rule(model, X, Y, lambda model, x, y: torch.zeros_like(x))
    assert torch.equal(torch.get_rng_state(), before)
    for function in (product_point, per_sample_gradients):
        with pytest.raises(ValueError, match="no random numbers in eval mode"):
            function(model, X, Y, torch.zeros(2, *X.shape))
    # the joint rules take all gradients at one draw: at equal perturbations they are equal
    step = Rule("mean", m=2)(model, X, Y, lambda model, x, y: torch.zeros_like(x))
    assert step.diagnostics["cosine_min"] == pytest.approx(1)
    quiet = nn.Sequential(nn.Dropout(0.5), model.body)
    assert rule(quiet, X, Y, ATTACK).gradient.norm() > 0.01


@pytest.mark.parametrize("rule", [Rule("ddi", m=2), PER_SAMPLE["chunks"], PER_SAMPLE["gram"]])
def test_checkpointing_that_allows_no_gradients_names_the_way(rule):
    class Saving(nn.Module):
        def __init__(self, reentrant):
            super().__init__()
            self.body, self.reentrant = MLP(hidden=(8,)), reentrant

        def forward(self, x):
            return checkpoint(self.body, x, use_reentrant=self.reentrant)

    with pytest.raises(ValueError, match="use_reentrant=False"):
        rule(Saving(True), X, Y, ATTACK)
    with pytest.raises(ValueError, match="use_reentrant=False"):
        ATTACK(Saving(True), X, Y)
    assert ATTACK(Saving(False), X, Y).shape == X.shape
