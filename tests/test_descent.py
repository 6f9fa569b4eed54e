"""Descent rules: identities between them, invariances, the two ends of the bundle, BatchNorm, bad
input.
"""

import itertools

import pytest
import torch
from torch import nn

from ddi import (
    MLP,
    PGD,
    RULES,
    SmallNet,
    assign_gradient,
    descent_rule,
    digits,
    directional_derivative,
    per_sample_gradients,
    sample_losses,
    steepest_descent,
)

ATTACK = PGD(0.4, 0.2, 2)
OPTIONS = {
    "single": {},
    "mean": {},
    "max": {},
    "min": {},
    "ddi": {},
    "comb": {},
    "product": {},
    "bundle": {"t": 0.1},
}


def problem(k=5, seed=0, model=None, dtype=torch.float64):
    data = digits()
    torch.manual_seed(seed)
    model = (model or MLP(hidden=(6,))).to(dtype)
    return model, data.x_train[:k].to(dtype), data.y_train[:k]


def run(name, model, x, y, attack=ATTACK, seed=0, **options):
    rule = descent_rule(name, **({"m": 4} | OPTIONS[name] | options))
    return rule(model, x, y, attack, torch.Generator().manual_seed(seed))


def given(deltas):
    """An attack that hands out these perturbations in turn."""
    supply = itertools.cycle(deltas)
    return lambda model, x, y: next(supply)


def deltas_of(model, x, y, m=4, seed=0):
    return ATTACK.restarts(model, x, y, m, torch.Generator().manual_seed(seed))


def batch_gradient(model, x, y):
    value = nn.functional.cross_entropy(model(x), y)
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))])


def test_single_is_pgd_training():
    model, x, y = problem()
    step = run("single", model, x, y)
    delta = ATTACK(model, x, y, torch.Generator().manual_seed(0))
    torch.testing.assert_close(step.gradient, batch_gradient(model, x + delta, y))
    assert step.loss == pytest.approx(nn.functional.cross_entropy(model(x + delta), y).item())


def test_ddi_of_one_is_normalised_single():
    model, x, y = problem()
    one, single = run("ddi", model, x, y, m=1), run("single", model, x, y, normalize=True)
    torch.testing.assert_close(one.gradient, single.gradient)
    assert one.gradient.norm().item() == pytest.approx(1)


def test_mean_and_min_by_hand():
    model, x, y = problem()
    columns = torch.stack([batch_gradient(model, x + d, y) for d in deltas_of(model, x, y)])
    torch.testing.assert_close(run("mean", model, x, y).gradient, columns.mean(0))
    torch.testing.assert_close(
        run("min", model, x, y).gradient, columns[columns.norm(dim=1).argmin()]
    )
    step = run("mean", model, x, y)
    cosines = nn.functional.normalize(columns) @ nn.functional.normalize(columns).T
    pairs = cosines[tuple(torch.triu_indices(4, 4, 1))]
    assert step.diagnostics["cosine_mean"] == pytest.approx(pairs.mean().item())
    assert step.diagnostics["cosine_min"] == pytest.approx(pairs.min().item())
    assert step.diagnostics["negative_pairs"] == (pairs < 0).sum()
    assert step.diagnostics["norm"] == pytest.approx(columns.mean(0).norm().item())
    assert step.diagnostics["entropy"] == pytest.approx(torch.tensor(4.0).log().item())


def test_max_takes_the_strongest_of_each_sample():
    model, x, y = problem()
    deltas = deltas_of(model, x, y)
    strongest = sample_losses(model, x, y, deltas).argmax(0)
    picked = deltas[strongest, torch.arange(len(x))]
    torch.testing.assert_close(
        run("max", model, x, y).gradient, batch_gradient(model, x + picked, y)
    )
    losses = [nn.functional.cross_entropy(model(x + d), y).item() for d in deltas]
    assert run("max", model, x, y).loss >= max(losses)


def test_ddi_is_steepest_descent_on_the_columns():
    model, x, y = problem()
    columns = torch.stack([batch_gradient(model, x + d, y) for d in deltas_of(model, x, y)])
    step = run("ddi", model, x, y)
    torch.testing.assert_close(
        step.gradient, -steepest_descent(columns).direction, atol=1e-7, rtol=0
    )
    raw = run("ddi", model, x, y, normalize=False)
    torch.testing.assert_close(raw.gradient, raw.diagnostics["weights"] @ columns)
    assert raw.diagnostics["gap"] <= 1e-9


def test_comb_mixes_two_attacks():
    model, x, y = problem()
    two, seen = deltas_of(model, x, y, 2), []
    hook = model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    step = run("comb", model, x, y, attack=given(two), m=6)
    hook.remove()
    assert len(seen) == 6 and len({tuple(s.flatten().tolist()) for s in seen}) > 2
    for images in seen:
        first, second = (((images - x - d).flatten(1).abs() < 1e-12).all(1) for d in two)
        assert (first | second).all()
    assert step.diagnostics["weights"].shape == (6,)


def test_product_on_one_sample_is_ddi_and_with_one_chunk_too():
    model, x, y = problem(1)
    torch.testing.assert_close(
        run("product", model, x, y).gradient, run("ddi", model, x, y).gradient, atol=1e-6, rtol=0
    )
    model, x, y = problem(5)
    whole = run("product", model, x, y, method="chunks", chunks=1).gradient
    torch.testing.assert_close(whole, run("ddi", model, x, y).gradient, atol=1e-6, rtol=0)


def test_full_product_is_never_less_steep_on_the_product_than_any_other_rule():
    for seed in range(3):
        model, x, y = problem(5, seed)
        rows = per_sample_gradients(model, x, y, deltas_of(model, x, y, seed=seed)) / 5
        groups, slopes = torch.arange(5).repeat(4), {}
        for name in RULES:
            gradient = run(name, model, x, y, seed=seed).gradient
            slopes[name] = directional_derivative(
                rows.flatten(0, 1), -gradient / gradient.norm(), groups
            ).item()
        assert min(slopes.values()) >= slopes["product"] - 1e-7


def test_permuting_columns_or_samples_changes_nothing():
    model, x, y = problem()
    deltas, order = deltas_of(model, x, y), torch.tensor([3, 0, 4, 1, 2])
    for name in ("mean", "max", "min", "ddi", "product", "bundle"):
        base = run(name, model, x, y, attack=given(deltas)).gradient
        columns = run(name, model, x, y, attack=given(deltas.flip(0))).gradient
        samples = run(name, model, x[order], y[order], attack=given(deltas[:, order])).gradient
        torch.testing.assert_close(columns, base, atol=1e-6, rtol=0)
        torch.testing.assert_close(samples, base, atol=1e-6, rtol=0)


def test_bundle_tends_to_max_and_to_ddi():
    model, x, y = problem()
    deltas = deltas_of(model, x, y)
    strongest = max(deltas, key=lambda d: nn.functional.cross_entropy(model(x + d), y).item())
    small = run("bundle", model, x, y, t=1e-9).gradient
    torch.testing.assert_close(small, batch_gradient(model, x + strongest, y), atol=1e-6, rtol=0)
    small = run("bundle", model, x, y, t=1e-9, joint=False).gradient
    torch.testing.assert_close(small, run("max", model, x, y).gradient, atol=1e-6, rtol=0)
    for joint, name in ((True, "ddi"), (False, "product")):
        large = run("bundle", model, x, y, t=1e9, joint=joint).gradient
        limit = run(name, model, x, y, normalize=False).gradient
        torch.testing.assert_close(large, limit, atol=1e-5, rtol=0)


def test_with_exact_ties_the_promised_slope_is_the_measured_one():
    """A linear model whose image has two perturbations of equal loss: phi is their maximum, known
    everywhere.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).double()
    x, y = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64), torch.tensor([0])
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    deltas = torch.tensor([[0.3, -0.3], [-0.3, 0.3]], dtype=torch.float64).view(
        2, 1, 1, 1, 2
    )  # tie, by symmetry

    def phi():
        with torch.no_grad():
            return max(nn.functional.cross_entropy(model(x + d), y).item() for d in deltas)

    for name in ("ddi", "product"):
        step = run(name, model, x, y, attack=given(deltas), m=2)
        before, t, start = phi(), 1e-6, model[1].weight.detach().clone()
        with torch.no_grad():
            model[1].weight -= t * step.gradient.view(2, 2)
        assert (phi() - before) / t == pytest.approx(-step.diagnostics["norm"], rel=1e-4)
        with torch.no_grad():
            model[1].weight.copy_(start)


@pytest.mark.parametrize("name", RULES)
def test_model_is_left_alone_and_float32_stays(name):
    model, x, y = problem(dtype=torch.float32)
    model.train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    step = run(name, model, x, y)
    assert step.gradient.dtype == torch.float32 and torch.isfinite(step.gradient).all()
    assert model.training and all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    again = run(name, model, x, y)
    assert torch.equal(step.gradient, again.gradient)


@pytest.mark.parametrize("name", RULES)
def test_batchnorm_statistics_move_once_and_never_mix(name):
    model, x, y = problem(6, model=SmallNet(1, norm="batch"))
    model.train()
    deltas = deltas_of(model, x, y)
    run(name, model, x, y, attack=given(deltas))
    assert model[1].num_batches_tracked == 1
    if name == "mean":
        columns = [
            batch_gradient(model, x + d, y) for d in deltas
        ]  # each batch with its own statistics
        torch.testing.assert_close(
            run(name, model, x, y, attack=given(deltas)).gradient, torch.stack(columns).mean(0)
        )


def test_weight_decay_inside_every_column():
    model, x, y = problem()
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    plain = run("single", model, x, y)
    decayed = run("single", model, x, y, weight_decay=0.1)
    torch.testing.assert_close(decayed.gradient, plain.gradient + 0.1 * theta)
    assert decayed.loss == pytest.approx(plain.loss + 0.05 * theta.square().sum().item())
    model, x, y = problem(1)
    one, other = (run(name, model, x, y, weight_decay=0.1).gradient for name in ("ddi", "product"))
    torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_conflicting_columns_give_zero_and_never_nan():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False)).double()
    x, y = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    opposite = torch.tensor([[0.5], [-1.5]], dtype=torch.float64).view(2, 1, 1, 1, 1)
    step = run("ddi", model, x, y, attack=given(opposite), m=2, loss=lambda z, y: z.squeeze(1))
    assert (step.gradient == 0).all() and step.diagnostics["negative_pairs"] == 1


def test_assign_gradient_fills_grad_in_order():
    model, x, y = problem()
    flat = batch_gradient(model, x, y)
    assign_gradient(model, flat)
    nn.functional.cross_entropy(model(x), y).backward()  # adds the same once more
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in model.parameters()]), 2 * flat)
    with pytest.raises(ValueError, match="flat"):
        assign_gradient(model, flat[:-1])


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("sgd", {}, "name"),
        ("ddi", {"m": 0}, "m must"),
        ("ddi", {"t": 1.0}, "t=1.0"),
        ("bundle", {}, "step length"),
        ("bundle", {"t": -1.0}, "t must"),
        ("bundle", {"t": 0.1, "normalize": True}, "normalize"),
        ("product", {"method": "matrix-free", "weight_decay": 0.1}, "weight_decay"),
        ("ddi", {"weight_decay": float("nan")}, "weight_decay"),
        ("ddi", {"momentum": 0.9}, "momentum"),
    ],
)
def test_impossible_rules_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        descent_rule(name, **options)
