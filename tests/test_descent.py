"""Descent rules: identities between them, invariances, the two ends of the bundle, BatchNorm, bad
input.
"""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from ddi import (
    MLP,
    PGD,
    RULES,
    Rule,
    SmallNet,
    assign_gradient,
    descent_rule,
    digits,
    directional_derivative,
    per_sample_gradients,
    sample_losses,
    steepest_descent,
)
from ddi.combine import Problem, cosines
from ddi.tables import applicable

ATTACK = PGD(0.4, 0.2, 2)
OPTIONS = {
    "single": {},
    "mean": {},
    "max": {},
    "min": {},
    "ddi": {},
    "comb": {},
    "product": {"method": "gram"},
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
    small = run("bundle", model, x, y, t=1e-9, joint=False, method="gram").gradient
    torch.testing.assert_close(small, run("max", model, x, y).gradient, atol=1e-6, rtol=0)
    for options, name in (({}, "ddi"), ({"joint": False, "method": "gram"}, "product")):
        large = run("bundle", model, x, y, t=1e9, **options).gradient
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
    one, other = (run(name, *problem(1), weight_decay=0.1).gradient for name in ("ddi", "product"))
    torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", [{"method": "gram"}, {"method": "chunks", "chunks": 3}])
def test_weight_decay_of_the_product_counts_once(options):
    """With one perturbation there is nothing to choose: gradient and loss are those of single."""
    model, x, y = problem()
    delta = deltas_of(model, x, y, 1)
    one = run("single", model, x, y, given(delta), weight_decay=0.1)
    for name, more in (("product", {"normalize": False}), ("bundle", {"joint": False})):
        step = run(name, model, x, y, given(delta), m=1, weight_decay=0.1, **{**options, **more})
        torch.testing.assert_close(step.gradient, one.gradient)
        assert step.loss == pytest.approx(one.loss)
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    rows = per_sample_gradients(model, x, y, deltas_of(model, x, y)) / 5 + 0.1 / 5 * theta
    want = steepest_descent(rows.flatten(0, 1), torch.arange(5).repeat(4)).direction
    for more in ({}, {"method": "matrix-free", "max_iter": 500}):
        got = run("product", model, x, y, weight_decay=0.1, **more).gradient
        torch.testing.assert_close(got, -want, atol=1e-4 if more else 1e-6, rtol=0)


def test_bundle_of_samples_solves_its_primal_problem():
    """``min_s 1/k sum_i max_j (l_ij + <g_ij, s>) + |s|^2 / 2t`` at ``s = -t w``, for a middle t."""
    model, x, y = problem()
    deltas, t = deltas_of(model, x, y), 3.0
    step = run("bundle", model, x, y, t=t, joint=False, method="gram")
    losses, rows = sample_losses(model, x, y, deltas), per_sample_gradients(model, x, y, deltas)
    w, a = step.gradient, step.diagnostics["weights"]
    torch.testing.assert_close((a[..., None] * rows).sum((0, 1)) / 5, w)
    primal = (losses - t * rows @ w).amax(0).mean() + t / 2 * w @ w
    dual = (a * losses).sum() / 5 - t / 2 * w @ w
    torch.testing.assert_close(primal, dual, atol=1e-8, rtol=0)
    assert ((a > 0.01) & (a < 0.99)).any()


def test_diagnostics_by_hand():
    model, x, y = problem(7)
    deltas = deltas_of(model, x, y)
    losses, rows = sample_losses(model, x, y, deltas), per_sample_gradients(model, x, y, deltas)
    for options in ({"method": "gram"}, {"chunks": 3}, {"method": "matrix-free", "max_iter": 5}):
        step = run("product", model, x, y, **({"method": None} | options))
        told, a = step.diagnostics, step.diagnostics["weights"]
        w = (a[..., None] * rows).sum((0, 1)) / 7
        torch.testing.assert_close(step.gradient, w / w.norm(), atol=1e-8, rtol=0)
        assert step.loss == pytest.approx(losses.mean().item())
        assert told["norm"] == pytest.approx(w.norm().item())
        assert told["entropy"] == pytest.approx(torch.special.entr(a).sum().item() / 7)
        assert told["parameters"] == rows.shape[-1] == sum(p.numel() for p in model.parameters())
        assert "cosine_mean" not in told
    raw = run("ddi", model, x, y, normalize=False)
    columns, told = rows.mean(1), raw.diagnostics
    products = columns @ raw.gradient
    gap = raw.gradient @ raw.gradient - products.min()
    assert told["gap"] == pytest.approx(gap.item(), abs=1e-9)
    assert told["norm"] == pytest.approx(raw.gradient.norm().item())
    assert told["entropy"] == pytest.approx(torch.special.entr(told["weights"]).sum().item())
    assert run("single", model, x, y).diagnostics["norm"] == pytest.approx(
        batch_gradient(model, x + deltas_of(model, x, y, 1)[0], y).norm().item()
    )


def test_the_coin_of_comb_is_fair():
    model, x, y = problem(5)
    seen = []
    hook = model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0] - x))
    two = torch.stack([torch.zeros_like(x), torch.full_like(x, 0.1)])
    run("comb", model, x, y, given(two), m=400)
    hook.remove()
    share = torch.stack(seen).flatten(1).gt(0.05).double().mean().item()
    assert share == pytest.approx(0.5, abs=0.06)  # five standard errors


def test_defaults():
    rule = descent_rule("ddi")
    assert (rule.m, rule.weight_decay, rule.joint, rule.normalized) == (10, 0.0, True, True)
    product = descent_rule("product")
    assert (product.method, product.chunks, product.max_iter) == ("chunks", None, None)
    assert descent_rule("product", method="matrix-free").max_iter == 1
    assert {n for n in RULES if descent_rule(n, **OPTIONS[n]).normalized} == {
        "ddi",
        "comb",
        "product",
    }


@pytest.mark.parametrize("k, chunks", [(20, 8), (8, 8), (5, 5), (1, 1)])
def test_the_product_takes_eight_chunks_or_one_a_sample(k, chunks):
    model, x, y = problem(k)
    some = run("product", model, x, y, method=None).gradient
    same = run("product", model, x, y, method="chunks", chunks=chunks).gradient
    torch.testing.assert_close(some, same, atol=1e-9, rtol=0)


def test_more_chunks_than_samples_are_refused():
    rule = descent_rule("product", chunks=6)
    rule.check_batch(6)
    with pytest.raises(ValueError, match="chunks must be at most the batch's 5 samples"):
        rule.check_batch(5)
    with pytest.raises(ValueError, match="chunks"):
        run("product", *problem(5), method=None, chunks=6)


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


def test_a_gradient_lies_in_memory_as_its_parameter_does():
    conv = nn.Conv2d(3, 4, 3, bias=False).to(memory_format=torch.channels_last)
    assign_gradient(conv, torch.arange(108.0))
    assert torch.equal(conv.weight.grad, torch.arange(108.0).view(4, 3, 3, 3))
    assert conv.weight.grad.stride() == conv.weight.stride() != (27, 9, 3, 1)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("sgd", {}, "name"),
        ("ddi", {"m": 0}, "m must"),
        ("ddi", {"t": 1.0}, "t=1.0"),
        ("bundle", {}, "step length"),
        ("bundle", {"t": -1.0}, "t must"),
        ("bundle", {"t": 0.1, "normalize": True}, "normalize"),
        ("ddi", {"weight_decay": float("nan")}, "weight_decay"),
        ("ddi", {"m": 2.0}, "m must"),
        ("ddi", {"m": True}, "m must"),
        ("ddi", {"normalize": "yes"}, "normalize"),
        ("ddi", {"method": "gram"}, "method"),
        ("ddi", {"chunks": 2}, "chunks"),
        ("ddi", {"max_iter": 2}, "max_iter"),
        ("ddi", {"joint": False}, "joint"),
        ("ddi", {"joint": 0}, "joint"),
        ("ddi", {"loss": "cross_entropy"}, "loss"),
        ("ddi", {"loss": nn.CrossEntropyLoss}, "loss"),
        ("product", {"method": "gramm"}, "method"),
        ("product", {"method": "gram", "chunks": 2}, "chunks"),
        ("product", {"chunks": 0}, "chunks"),
        ("product", {"max_iter": 2}, "max_iter"),
        ("product", {"method": "matrix-free", "max_iter": 0}, "max_iter"),
        ("bundle", {"t": 0.1, "joint": False, "method": "matrix-free"}, "method"),
        ("bundle", {"t": 0.1, "method": "gram"}, "method"),
    ],
)
def test_impossible_rules_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        descent_rule(name, **options)


def test_unknown_options_are_refused_and_numpy_numbers_kept_as_python():
    with pytest.raises(TypeError, match="momentum"):
        descent_rule("ddi", momentum=0.9)
    rule = descent_rule(
        "ddi", m=np.int64(3), weight_decay=np.float32(0.5), normalize=np.bool_(True)
    )
    assert (type(rule.m), type(rule.weight_decay), rule.normalize) == (int, float, True)


def test_options_of_older_records_are_read():
    """They hold ``method`` and ``max_iter`` for every rule."""
    old = {"name": "ddi", "m": 3, "method": "gram", "max_iter": 1, "joint": True}
    assert Rule(**applicable(old)) == descent_rule("ddi", m=3)
    old = {"name": "product", "m": 2, "method": "chunks", "chunks": 8, "max_iter": 1}
    assert Rule(**applicable(old)) == descent_rule("product", m=2, chunks=8)
    old = {"name": "product", "m": 2, "method": "matrix-free", "max_iter": 3}
    assert Rule(**applicable(old)).max_iter == 3


# --------------------------------------------------------------------------------------------------


EVERY = [(name, {}) for name in RULES] + [
    ("product", {"method": "chunks", "chunks": 2}),
    ("product", {"method": "matrix-free", "max_iter": 2}),
    ("bundle", {"joint": False, "method": "chunks"}),
]
each_rule = pytest.mark.parametrize("name, options", EVERY)


class Moving(nn.Module):
    """What forward passes in training mode move: by assignment, in place, and by chance."""

    def __init__(self):
        super().__init__()
        self.register_buffer("moves", torch.zeros(()))
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True)
        self.batch, self.drop = nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.head = nn.utils.parametrizations.spectral_norm(nn.Linear(144, 10))

    def forward(self, x):
        if self.training:
            self.moves = self.moves + 1
        return self.head(self.drop(self.batch(self.norm(self.conv(x))).flatten(1)))


@each_rule
def test_what_a_training_pass_moves_moves_once(name, options):
    model, x, y = problem(4, model=Moving())
    model.train()
    deltas = 0.1 * deltas_of(model, x, y, 2)
    twin = copy.deepcopy(model)
    torch.manual_seed(5)
    with torch.no_grad():
        twin(x + (deltas[0] if name != "comb" else 0 * x))
    after = torch.get_rng_state()
    torch.manual_seed(5)
    attack = given(deltas if name != "comb" else [0 * x])
    if name == "max":
        attack = given(deltas[:1])
    run(name, model, x, y, attack, m=2, **options)
    assert torch.equal(torch.get_rng_state(), after)
    for (key, value), other in zip(model.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(value, other, msg=key)


@each_rule
def test_nothing_moves_in_eval_mode(name, options):
    model, x, y = problem(4, model=Moving())
    model.eval()
    state = copy.deepcopy(model.state_dict())
    run(name, model, x, y, m=2, **options)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_all_columns_have_one_dropout_mask():
    model, x, y = problem(model=nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)))
    model.train()
    step = run("ddi", model, x, y, given([0 * x]), m=3)
    assert step.diagnostics["cosine_min"] == pytest.approx(1)


@each_rule
def test_an_earlier_forward_pass_can_still_be_differentiated(name, options):
    model, x, y = problem(4, model=SmallNet(1, norm="batch"))
    clean = nn.functional.cross_entropy(model.train()(x), y)
    run(name, model, x, y, given([0.1 * torch.ones_like(x)]), m=2, **options)
    clean.backward()
    assert all(p.grad is not None for p in model.parameters())


class Tied(nn.Module):
    """A layer with two names, a frozen layer and one that forward does not use."""

    def __init__(self):
        super().__init__()
        self.unused, self.frozen = nn.Linear(3, 3), nn.Linear(64, 16).requires_grad_(False)
        self.a, self.head = nn.Linear(16, 16), nn.Linear(16, 10)
        self.b = self.a

    def forward(self, x):
        return self.head(torch.tanh(self.b(torch.tanh(self.a(self.frozen(x.flatten(1)))))))


@each_rule
def test_directions_are_over_the_trainable_parameters(name, options):
    model, x, y = problem(4, model=Tied())
    objects = {n: id(p) for n, p in model.named_parameters(remove_duplicate=False)}
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimiser = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    step = run(name, model, x, y, m=2, **options)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert step.diagnostics["parameters"] == len(step.gradient) == sum(p.numel() for p in trained)
    assert (step.gradient[:12] == 0).all()  # of the unused layer
    assign_gradient(model, step.gradient)
    optimiser.step()
    for key, value in model.named_parameters():
        assert torch.equal(value, before[key]) == key.startswith("frozen"), key
    assert {n: id(p) for n, p in model.named_parameters(remove_duplicate=False)} == objects
    copy.deepcopy(model)


@each_rule
def test_under_autocast_only_the_passes_are_rounded(name, options):
    model, x, y = problem(6, model=SmallNet(1, norm="none"), dtype=torch.float32)
    deltas = deltas_of(model, x, y)
    plain = run(
        name, model, x, y, given(deltas), normalize=None if name == "bundle" else True, **options
    )
    with torch.autocast("cpu", torch.bfloat16):
        step = run(
            name,
            model,
            x,
            y,
            given(deltas),
            normalize=None if name == "bundle" else True,
            **options,
        )
        assert torch.is_autocast_enabled("cpu")
    assert step.gradient.dtype == torch.float32
    if name != "bundle":
        assert step.gradient.norm().item() == pytest.approx(1, abs=1e-5)
    cosine = torch.cosine_similarity(step.gradient, plain.gradient, 0)
    assert cosine > 0.98
    assert step.loss == pytest.approx(plain.loss, rel=2e-2)
    if "gap" in step.diagnostics and name in ("ddi", "comb"):
        assert step.diagnostics["gap"] <= 1e-6 * step.diagnostics["norm"] ** 2


@each_rule
def test_divergence_is_a_floating_point_error(name, options):
    overflow = 1e25, torch.float32  # finite entries, whose squares are not
    for factor, dtype in ((torch.inf, torch.float64), (torch.nan, torch.float64), overflow):
        model, x, y = problem(4, dtype=dtype)
        with torch.no_grad():
            model[1].weight.mul_(factor)
        with pytest.raises(FloatingPointError, match="not finite"):
            run(name, model, x, y, given([torch.zeros_like(x)]), m=2, **options)


@each_rule
def test_what_cannot_be_used_is_refused_in_words(name, options):
    model, x, y = problem(4)
    zero = given([torch.zeros_like(x)])

    def go(model=model, x=x, y=y, attack=zero, **more):
        return run(name, model, x, y, attack, m=2, **{**options, **more})

    for change, message in (
        ({"loss": nn.functional.cross_entropy}, "loss must return one value a sample"),
        ({"y": y[:, None]}, "y must"),
        ({"y": y.double()}, "y must"),
        ({"y": torch.full_like(y, 10)}, "y must be class labels from 0 to 9"),
        ({"x": x.numpy()}, "x must"),
        ({"model": nn.Sequential(nn.Flatten())}, "model must have a trainable"),
        ({"model": lambda x: x}, "model must"),
        ({"attack": lambda m, x, y: x[:1]}, "what the attack returns must"),
        ({"attack": 3}, "attack must"),
    ):
        with pytest.raises(ValueError, match=message):
            go(**change)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        go()
    with torch.no_grad():
        assert torch.isfinite(go().gradient).all()
    with pytest.raises(ValueError, match="generator"):
        descent_rule(name, **(OPTIONS[name] | options))(model, x, y, zero, 3)


def test_batchnorm_without_statistics_is_refused_where_samples_choose():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    model, x, y = problem(4, model=net.append(nn.Flatten()).append(nn.Linear(144, 10)))
    run("ddi", model, x, y)
    for name, options in (("product", {}), ("bundle", {"joint": False, "method": "gram"})):
        with pytest.raises(ValueError, match="running statistics"):
            run(name, model, x, y, **options)


def test_a_compiled_model_is_differentiated_eagerly_by_the_product():
    model, x, y = problem(4)
    compiled = torch.compile(model, backend="eager")
    for name, options in (("ddi", {}), ("product", {}), ("product", {"method": "matrix-free"})):
        one, other = (run(name, net, x, y, **options).gradient for net in (model, compiled))
        torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


def test_the_cosine_with_a_gradient_of_zero_is_zero():
    rows = torch.tensor([[3.0, 4.0], [-3.0, -4.0], [0.0, 0.0]])
    found = cosines(Problem(rows @ rows.T, torch.zeros(3), torch.zeros(3), None))
    assert found["cosine_mean"] == pytest.approx(-1 / 3)
    assert (found["cosine_min"], found["negative_pairs"]) == (-1, 1)
