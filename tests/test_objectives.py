"""Objectives and penalties: against formulas by hand, in every rule, once a step, with a state."""

import copy
import itertools
import json
import math
import re
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ddi import (
    BETA,
    CURE,
    ELLE,
    FAST,
    FGSM,
    KL,
    LLR,
    MART,
    MLP,
    PGA,
    PGD,
    SAM,
    TRADES,
    AdaptiveELLE,
    GradAlign,
    LInf,
    Objective,
    Penalty,
    SAMPa,
    Setting,
    SmallNet,
    cross_entropy,
    descent_rule,
    digits,
    margin_loss,
    min_norm_point,
    min_norm_product,
    per_sample_gradients,
    product_point,
    read_experiment,
    read_record,
    sample_losses,
    train,
)
from ddi.__main__ import main
from ddi.identity import as_table
from ddi.losses import inner
from ddi.tables import attack_of, make

K, M = 5, 4
ATTACK = PGD(0.3, 0.15, 2)
PENALTIES = [ELLE(2000.0), GradAlign(40.0), LLR(5.0), CURE(0.2, 0.8)]
each_penalty = pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: penalty.word)


def by_hand_kl(z0, z, y):
    p, q = F.softmax(z0, 1), F.softmax(z, 1)
    return F.kl_div(q.log(), p, reduction="none").sum(1)


def by_hand_trades(z0, z, y):
    return F.cross_entropy(z0, y, reduction="none") + 3.5 * by_hand_kl(z0, z, y)


def by_hand_mart(z0, z, y):
    """As its authors wrote it, without the small numbers that they add."""
    rows, q = torch.arange(len(y)), F.softmax(z, 1)
    rival = torch.argsort(q, 1)[:, -2:]
    rival = torch.where(rival[:, 1] == y, rival[:, 0], rival[:, 1])
    boosted = F.cross_entropy(z, y, reduction="none") - (1 - q)[rows, rival].log()
    return boosted + 2.5 * by_hand_kl(z0, z, y) * (1 - F.softmax(z0, 1)[rows, y])


OBJECTIVES = [(KL(), by_hand_kl), (TRADES(3.5), by_hand_trades), (MART(2.5), by_hand_mart)]
each_objective = pytest.mark.parametrize(
    "loss, formula", OBJECTIVES, ids=[loss.word for loss, _ in OBJECTIVES]
)


class Noisy(nn.Module):
    """BatchNorm and dropout, in float64."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Dropout(0.4)
        self.last = nn.Linear(12, 10)
        self.double()

    def forward(self, x):
        return self.last(self.drop(torch.tanh(self.norm(self.first(x.flatten(1))))))


def problem(k=K, seed=0, model=None, dtype=torch.float64):
    torch.manual_seed(seed)
    data, model = digits(), (model or MLP(hidden=(8,))).to(dtype)
    return model, data.x_train[:k].to(dtype), data.y_train[:k]


def curved():
    """A network whose loss is far from affine on the set."""
    model, x, y = problem()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    return model, x, y


def flat_gradient(model, value):
    each = torch.autograd.grad(value, list(model.parameters()))
    return torch.cat([g.flatten() for g in each])


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def deltas_of(model, x, y, m=M):
    return ATTACK.restarts(model, x, y, m, drawn())


def columns_by_hand(model, x, y, deltas, formula):
    """``grad L_ij``, ``(m, k, d)``, one backward pass each, and the values."""
    pairs = itertools.product(range(len(deltas)), range(len(x)))
    values = [formula(model(x[[i]]), model(x[[i]] + deltas[j, [i]]), y[[i]])[0] for j, i in pairs]
    rows = torch.stack([flat_gradient(model, value) for value in values])
    return rows.view(len(deltas), len(x), -1), torch.stack(values).view(len(deltas), -1).detach()


# --- objectives -----------------------------------------------------------------------------------


@each_objective
def test_an_objective_is_its_formula_and_so_are_its_gradients(loss, formula):
    model, x, y = problem()
    deltas = deltas_of(model, x, y)
    rows, values = columns_by_hand(model, x, y, deltas, formula)
    torch.testing.assert_close(sample_losses(model, x, y, deltas, loss), values)
    torch.testing.assert_close(per_sample_gradients(model, x, y, deltas, loss), rows)


@each_objective
def test_every_rule_combines_the_columns_of_an_objective(loss, formula):
    model, x, y = problem()
    deltas = deltas_of(model, x, y)
    each, values = columns_by_hand(model, x, y, deltas, formula)
    rows, joint = each / K, each.mean(1)

    def step(name, **options):
        supply = itertools.cycle(deltas)
        rule = descent_rule(name, m=M, loss=loss, **options)
        return rule(model, x, y, lambda model, x, y: next(supply), drawn())

    best = rows[values.argmax(0), torch.arange(K)].sum(0)
    combined = min_norm_point(joint @ joint.T).weights @ joint
    whole = rows.flatten(0, 1)
    weights = min_norm_product(whole @ whole.T, torch.arange(K).repeat(M)).weights
    expected = {
        "single": joint[0],
        "mean": joint.mean(0),
        "max": best,
        "min": joint[joint.norm(dim=1).argmin()],
        "ddi": combined / combined.norm(),
    }
    for name, want in expected.items():
        torch.testing.assert_close(step(name).gradient, want, atol=1e-8, rtol=1e-6)
    want = weights @ whole
    for options in ({"method": "gram"}, {"chunks": K}):
        got = step("product", normalize=False, **options)
        torch.testing.assert_close(got.gradient, want, atol=1e-7, rtol=1e-6)
        assert got.loss == pytest.approx(values.mean().item())
    free = product_point(
        model, x, y, deltas, "matrix-free", loss=loss, max_iter=3000, tol=1e-5, measure_gap=True
    )
    assert (free.vector - want).square().sum() <= free.gap + 1e-9
    assert free.gap <= 1e-3 * want.square().sum()
    close = step("bundle", t=1e9, joint=False, method="gram").gradient
    torch.testing.assert_close(close, want, atol=1e-6, rtol=1e-4)


def test_trades_without_beta_is_cross_entropy_at_the_clean_images():
    model, x, y = problem()
    found = sample_losses(model, x, y, deltas_of(model, x, y), TRADES(0.0))
    torch.testing.assert_close(found, cross_entropy(model(x), y).detach().expand(M, K))


def test_mart_of_two_classes_counts_cross_entropy_twice():
    """The strongest rival is the only one: ``1 - p_j = p_y``."""
    model, x, y = problem(model=MLP(64, 2, (8,)))
    y = y % 2
    deltas = deltas_of(model, x, y)
    torch.testing.assert_close(
        sample_losses(model, x, y, deltas, MART(0.0)), 2 * sample_losses(model, x, y, deltas)
    )


def test_mart_is_finite_where_the_rival_is_all_but_certain():
    model, x, y = problem(dtype=torch.float32)
    with torch.no_grad():
        model[-1].bias[3] = 80.0
    assert torch.isfinite(sample_losses(model, x, y * 0, deltas_of(model, x, y), MART())).all()
    assert torch.isfinite(per_sample_gradients(model, x, y * 0, 0 * x[None], MART())).all()


class InPlace(nn.Module):
    """Normalises its images in place, or not."""

    def __init__(self, within: bool):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.within = MLP(hidden=(16,)).double(), within

    def forward(self, x):
        return self.net(x.sub_(0.5).div_(0.25) if self.within else (x - 0.5) / 0.25)


class Twice(Objective):
    """A user's: one tensor of images for two passes."""

    def inner(self, model, x, y):
        def values(delta):
            moved = x + delta
            return cross_entropy(model(moved), y) + cross_entropy(model(moved), y)

        return values


@pytest.mark.parametrize("loss", [KL(), TRADES(6.0), MART(5.0), Twice()], ids=str)
@pytest.mark.parametrize("name", ["single", "product"])
def test_an_objective_of_a_network_that_normalises_in_place_is_that_of_one_that_does_not(
    name, loss
):
    data = digits()
    x, y = data.x_train[:12].double(), data.y_train[:12]
    before, found = x.clone(), []
    for within in (True, False):
        model, attack = InPlace(within), PGD(0.2, 0.05, 3, loss=loss)
        drawn = lambda: torch.Generator().manual_seed(0)  # noqa: E731
        step = descent_rule(name, m=2, loss=loss)(model, x, y, attack, drawn())
        found.append((attack(model, x, y, drawn()), step.gradient, torch.tensor(step.loss)))
        assert torch.equal(x, before)
    assert found[0][1].norm() > 1e-3
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(here, there)


def test_kl_does_not_move_from_zero_and_moves_from_a_random_start():
    """Its value and gradient are 0 there: raw steps stay, up to rounding."""
    model, x, y = problem()
    still = PGA(0.3, 1.0, 1, random_start=False, loss=KL())(model, x, y)
    assert still.abs().max() < 1e-12
    start = PGA(0.3, 0.0, 1, loss=KL())(model, x, y, drawn())
    moved = PGA(0.3, 1.0, 5, loss=KL())(model, x, y, drawn())
    before, after = (sample_losses(model, x, y, d[None], KL()) for d in (start, moved))
    assert (after > 1.05 * before).all()


def test_the_attack_on_trades_is_the_attack_on_kl():
    """``CE(x)`` does not contain the perturbation."""
    model, x, y = problem()
    one, other = (PGD(0.3, 0.1, 4, loss=loss)(model, x, y, drawn()) for loss in (KL(), TRADES(2.0)))
    torch.testing.assert_close(one, other)
    assert (one - PGD(0.3, 0.1, 4)(model, x, y, drawn())).abs().max() > 0.1


def test_clean_logits_are_computed_once_an_attack():
    model, x, y = problem()
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    PGD(0.3, 0.1, 4, loss=TRADES())(model, x, y)
    assert len(seen) == 5


@pytest.mark.parametrize("loss", [KL(), MART()], ids=lambda loss: loss.word)
def test_labels_of_an_objective_are_classes(loss):
    model, x, y = problem()
    for wrong in (y + 10, y.double(), -y - 1):
        with pytest.raises(ValueError, match="y must be class labels"):
            PGD(0.3, 0.1, 1, loss=loss)(model, x, wrong)


def test_a_users_objective_stands_where_ours_do():
    class Half(Objective):
        passes = 2

        def inner(self, model, x, y):
            clean = cross_entropy(model(x), y)
            return lambda d: 0.5 * clean + 0.5 * cross_entropy(model(x + d), y)

    model, x, y = problem()
    step = descent_rule("product", m=2, loss=Half(), method="gram")(model, x, y, ATTACK, drawn())
    assert torch.isfinite(step.gradient).all()
    rule = descent_rule("single", loss=Half())
    assert rule.passes(3) == 5 and "Half" in as_table(rule)["loss"]


class Mean(Objective):
    def inner(self, model, x, y):
        return lambda d: cross_entropy(model(x + d), y).mean()


@pytest.mark.parametrize("loss", [TRADES, KL, Mean(), 6.0, "trades(6)", Objective])
def test_what_is_no_objective_is_refused(loss):
    model, x, y = problem()
    with pytest.raises((ValueError, NotImplementedError), match="loss must"):
        descent_rule("ddi", m=2, loss=loss)(model, x, y, ATTACK)
    with pytest.raises((ValueError, NotImplementedError), match="loss must"):
        PGD(0.1, 0.1, 1, loss=loss)(model, x, y)


# --- BETA -----------------------------------------------------------------------------------------


def targeted(model, x, y, step):
    """PGD on each rival's margin from the same random start, by hand: ``(C - 1, k, ...)``."""
    classes, ends = 10, []
    for j in range(1, classes):
        rival = (y + j) % classes

        def towards(z, labels, rival=rival):
            return z.gather(1, rival[:, None])[:, 0] - z.gather(1, labels[:, None])[:, 0]

        ends.append(PGD(0.2, step, 6, loss=towards)(model, x, y, drawn()))
    return torch.stack(ends)


def test_beta_is_the_best_of_the_targeted_attacks():
    model, x, y = problem(12)
    beta, ends = BETA(0.2, 0.05, 6), targeted(model, x, y, 0.05)
    margins = torch.stack([margin_loss(model(x + d), y) for d in ends]).detach()
    found = beta(model, x, y, drawn())
    torch.testing.assert_close(margin_loss(model(x + found), y).detach(), margins.amax(0))
    assert len(margins.argmax(0).unique()) > 1
    assert torch.equal(found, ends[margins.argmax(0), torch.arange(12)])
    assert LInf(0.2).contains(found, x).all()


def test_beta_of_two_classes_is_pgd_on_the_margin():
    model, x, y = problem(8, model=MLP(64, 2, (8,)))
    one = BETA(0.2, 0.05, 6)(model, x, y % 2, drawn())
    other = PGD(0.2, 0.05, 6, loss=margin_loss)(model, x, y % 2, drawn())
    torch.testing.assert_close(one, other)


def test_beta_has_restarts_and_no_forward_pass_larger_than_asked():
    model, x, y = problem(6)
    sizes, beta = [], BETA(0.2, 0.05, 3)
    whole = beta.restarts(model, x, y, 3, drawn())
    model.register_forward_hook(lambda module, inputs, _: sizes.append(len(inputs[0])))
    pieces = beta.restarts(model, x, y, 3, drawn(), batch_size=10)
    assert max(sizes) <= 10
    torch.testing.assert_close(pieces, whole)
    part = beta.restarts(model, x, y, 3, drawn(), only=slice(2, 5))
    torch.testing.assert_close(part, whole[:, 2:5])
    assert (whole[0] - whole[1]).abs().max() > 0.01


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_the_passes_of_beta_are_those_of_all_its_rivals():
    model, x, y = problem(6)
    seen, beta = [0], BETA(0.2, 0.05, 3)
    model[1].register_full_backward_hook(
        lambda *args: seen.__setitem__(0, seen[0] + len(args[2][0]))
    )
    beta(model, x, y)
    assert seen[0] == 6 * beta.passes_for(10) == 6 * 27 and beta.passes == 0
    assert ATTACK.passes_for(10) == ATTACK.passes == 2


def test_beta_of_a_network_that_normalises_in_place_is_that_of_one_that_does_not():
    """And the number of classes is seen on two images, of which any network makes something."""
    coupled = nn.BatchNorm1d(10, track_running_stats=False)
    model, x, y = problem(6, model=nn.Sequential(nn.Flatten(), nn.Linear(64, 10), coupled))
    beta, images = BETA(0.2, 0.05, 3), x.clone()
    away = beta(lambda z: model(z - 0.5), x, y, drawn())
    here = beta(lambda z: model(z.sub_(0.5)), x, y, drawn())
    assert torch.equal(x, images) and torch.equal(here, away) and away.abs().max() > 0.1


def test_beta_needs_two_classes():
    model, x, y = problem(4, model=MLP(64, 1, (8,)))
    with pytest.raises(ValueError, match="two classes"):
        BETA(0.2, 0.05, 3)(model, x, 0 * y)
    with pytest.raises(TypeError, match="loss"):
        BETA(0.2, 0.05, 3, loss=cross_entropy)


# --- penalties ------------------------------------------------------------------------------------


def terms_by_hand(penalty, model, x, y, points):
    """Sample by sample, from autograd of the sum."""

    def loss(i, d):
        return F.cross_entropy(model(x[[i]] + d), y[[i]])

    def slope(i, d):
        d = d.clone().requires_grad_()
        return torch.autograd.grad(loss(i, d), d, create_graph=True)[0].flatten()

    found = []
    for i in range(len(x)):
        own, none = [p[[i]] for p in points], torch.zeros_like(x[[0]])
        if isinstance(penalty, ELLE):
            a, b, s = own
            between = (1 - s) * a + s * b
            found.append((loss(i, between) - (1 - s) * loss(i, a) - s * loss(i, b)).square()[0])
        elif isinstance(penalty, GradAlign):
            found.append(1 - torch.cosine_similarity(slope(i, none), slope(i, own[0]), 0))
        elif isinstance(penalty, LLR):
            line = loss(i, none) + slope(i, none) @ own[0].flatten()
            found.append((loss(i, own[0]) - line).abs())
        else:
            g = slope(i, none)
            z = g.detach().sign() / math.sqrt(int((g != 0).sum()))
            found.append((slope(i, (0.8 * z).view_as(none)) - g).square().sum())
    return torch.stack(found)


@each_penalty
@pytest.mark.parametrize(
    "name, options",
    [
        ("single", {}),
        ("mean", {}),
        ("ddi", {}),
        ("product", {"method": "gram"}),
        ("product", {"chunks": 3}),
        ("product", {"method": "matrix-free", "max_iter": 2000}),
        ("bundle", {"t": 0.7}),
        ("bundle", {"t": 0.7, "joint": False}),
    ],
)
def test_a_penalty_shifts_every_column_by_its_gradient(penalty, name, options):
    """The rule's direction is that of columns ``g_j + r``, and its loss has the penalty's value."""
    model, x, y = curved()
    rule = descent_rule(name, m=M, **options)
    plain = rule(model, x, y, ATTACK, drawn())
    moved = replace(rule, penalty=penalty)(model, x, y, ATTACK, drawn())
    draw = drawn()
    deltas = ATTACK.restarts(model, x, y, 1 if name == "single" else M, draw)
    mean = terms_by_hand(penalty, model, x, y, penalty.points(x, ATTACK.threat, draw)).mean()
    shift = penalty.weight * flat_gradient(model, mean)
    assert moved.loss == pytest.approx(plain.loss + penalty.weight * mean.item(), rel=1e-9)
    each = per_sample_gradients(model, x, y, deltas) / K
    values = sample_losses(model, x, y, deltas) / K
    if rule.per_sample:
        parts = torch.arange(K) * (options.get("chunks") or K) // K
        count = int(parts.max()) + 1
        each = torch.zeros(M, count, each.shape[-1], dtype=x.dtype).index_add_(1, parts, each)
        values = torch.zeros(M, count, dtype=x.dtype).index_add_(1, parts, values)
        rows, groups = (each + shift / count).flatten(0, 1), torch.arange(count).repeat(M)
        values = values.flatten()
    else:
        rows, groups, values = each.sum(1) + shift, torch.zeros(len(deltas)).long(), values.sum(1)
    if name == "mean":
        want = rows.mean(0)
    else:
        linear = values / 0.7 if name == "bundle" else None
        want = min_norm_product(rows @ rows.T, groups, linear).weights @ rows
    want = want / want.norm() if rule.normalized else want
    loose = {"atol": 5e-3, "rtol": 0} if "max_iter" in options else {"atol": 1e-7, "rtol": 1e-6}
    torch.testing.assert_close(moved.gradient, want, **loose)
    assert (plain.gradient - moved.gradient).norm() > 0.05 * moved.gradient.norm()


@each_penalty
def test_a_penalty_is_added_as_weight_decay_is(penalty):
    """Both shift; together they add up, in the gradient of single and in the loss."""
    model, x, y = problem()

    def step(**options):
        return descent_rule("single", **options)(model, x, y, ATTACK, drawn())

    plain, one, other, both = (
        step(),
        step(penalty=penalty),
        step(weight_decay=0.3),
        step(penalty=penalty, weight_decay=0.3),
    )
    sum_of = one.gradient + other.gradient - plain.gradient
    torch.testing.assert_close(both.gradient, sum_of)
    assert both.loss == pytest.approx(one.loss + other.loss - plain.loss)


@each_penalty
def test_a_penalty_is_zero_where_the_loss_is_affine_in_the_images(penalty):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    _, x, y = problem()

    def affine(z, labels):
        return z @ torch.tensor([1.0, -2.0, 0.5], dtype=z.dtype)

    model_of = inner(affine, model, x, y)
    points = penalty.points(x, LInf(0.3), drawn())
    assert penalty.terms(model_of, x, *points).abs().max() < 1e-12
    bent, x, y = curved()
    assert (penalty.terms(inner(cross_entropy, bent, x, y), x, *points) > 1e-9).all()


@pytest.mark.parametrize("penalty", [GradAlign(), LLR(), CURE()], ids=lambda penalty: penalty.word)
def test_a_gradient_of_zero_makes_no_nan(penalty):
    """At once 0 everywhere (a constant loss), in the value and in the gradient."""
    model, x, y = problem()
    with torch.no_grad():
        model[-1].weight.zero_()
    step = descent_rule("single", penalty=penalty)(model, x, y, ATTACK, drawn())
    assert torch.isfinite(step.gradient).all() and math.isfinite(step.loss)


def test_penalties_beside_an_objective_are_of_cross_entropy():
    model, x, y = problem()
    steps = [
        descent_rule("single", loss=loss, penalty=penalty)(model, x, y, ATTACK, drawn())
        for loss, penalty in itertools.product((cross_entropy, TRADES()), (None, ELLE(50.0)))
    ]
    plain, elle, trades, both = (step.gradient for step in steps)
    torch.testing.assert_close(both - trades, elle - plain)


@pytest.mark.parametrize("loss", [cross_entropy, TRADES()], ids=["ce", "trades"])
@each_penalty
def test_all_points_of_a_penalty_have_the_mask_of_the_columns(penalty, loss):
    """In training mode a penalty is that of the one network that the mask leaves."""
    model, x, y = problem(6, model=Noisy())
    steps = []
    for some in (None, penalty):
        torch.manual_seed(3)
        rule = descent_rule("single", loss=loss, penalty=some)
        steps.append(rule(model, x, y, Fixed(0.3, 0.1, 1), drawn()))
    shift = steps[1].gradient - steps[0].gradient

    def masked(images):  # the network with the mask of the first pass, whatever is drawn between
        torch.manual_seed(3)
        return model(images)

    points = penalty.points(x, ATTACK.threat, drawn())
    mean = penalty.weight * penalty.terms(inner(cross_entropy, masked, x, y), x, *points).mean()
    assert steps[1].loss - steps[0].loss == pytest.approx(mean.item(), rel=1e-9)
    torch.testing.assert_close(shift, flat_gradient(model, mean))
    flat = penalty.terms(inner(cross_entropy, masked, x, y), x, *[0 * p for p in points])
    if not isinstance(penalty, CURE):  # which chooses its own points
        assert mean > 1e-6 and flat.abs().max() < 1e-9


@pytest.mark.parametrize("loss", [cross_entropy, TRADES(), MART()], ids=["ce", "trades", "mart"])
@pytest.mark.parametrize(
    "name, options",
    [("single", {}), ("ddi", {}), ("product", {}), ("product", {"method": "matrix-free"})],
)
@pytest.mark.parametrize("penalty", [None, ELLE(5.0), GradAlign(1.0)], ids=str)
def test_what_passes_move_moves_once_with_objectives_and_penalties(loss, name, options, penalty):
    """In training mode the objective's own passes move BatchNorm and the dropout's generator, once;
    the penalty's move nothing.
    """
    model, x, y = problem(6, model=Noisy())
    delta = 0.1 * torch.ones_like(x)
    attack = Fixed(0.3, 0.1, 1)
    twin = copy.deepcopy(model)
    torch.manual_seed(3)
    with torch.no_grad():
        inner(loss, twin, x, y)(delta)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    rule = descent_rule(name, m=3, loss=loss, penalty=penalty, **options)
    step = rule(model, x, y, attack, drawn())
    assert torch.equal(torch.get_rng_state(), after) and torch.isfinite(step.gradient).all()
    for (key, value), other in zip(model.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(value, other, msg=key)
    assert model.norm.num_batches_tracked == (1 if loss is cross_entropy else 2)
    assert model.training and all(p.grad is None and p.requires_grad for p in model.parameters())


class Fixed(PGD):
    """One perturbation, whatever the model."""

    def restarts(self, model, x, y, m, generator=None, batch_size=None, only=slice(None)):
        return (0.1 * torch.ones_like(x[only])).expand(m, *x[only].shape)


def test_the_penalty_is_in_the_mode_of_the_columns():
    """In training mode that of the batch's statistics; in the per-sample rules, eval mode."""
    model, x, y = problem(6, model=Noisy())
    penalty = ELLE(5.0)
    points = penalty.points(x, LInf(0.3), drawn())
    found = {}
    for name in ("mean", "product"):
        torch.manual_seed(3)
        steps = [
            descent_rule(name, m=1, penalty=p, normalize=False)(
                copy.deepcopy(model), x, y, Fixed(0.3, 0.1, 1), drawn()
            )
            for p in (None, penalty)
        ]
        found[name] = steps[1].gradient - steps[0].gradient
    evaluated = copy.deepcopy(model)
    with torch.no_grad():
        model.norm.momentum = evaluated.norm.momentum = 0.0
    mean = penalty.terms(inner(cross_entropy, evaluated.eval(), x, y), x, *points).mean()
    want = 5.0 * flat_gradient(evaluated, mean)
    assert (found["mean"] - want).norm() > 0.1 * want.norm()


def test_a_penalty_needs_an_attack_whose_set_is_known():
    model, x, y = problem()
    with pytest.raises(ValueError, match="attack must be one of ddi's"):
        descent_rule("single", penalty=ELLE())(model, x, y, lambda model, x, y: 0 * x)
    for attack in (FGSM(0.1), FAST(0.1), PGA(0.1, 1.0, 1, norm="L2"), BETA(0.1, 0.1, 1)):
        descent_rule("single", penalty=ELLE())(model, x, y, attack)


def test_terms_are_one_value_a_sample():
    class Mean(Penalty):
        word = "mean"

        def terms(self, values_of, x, *points):
            return values_of(0 * x).mean()

    model, x, y = problem()
    with pytest.raises(ValueError, match="the penalty's terms"):
        descent_rule("single", penalty=Mean(1.0))(model, x, y, ATTACK)


@pytest.mark.parametrize("penalty", [ELLE(1.0), CURE(1.0), AdaptiveELLE()], ids=str)
def test_a_penalty_that_overflows_is_divergence(penalty):
    """Its square is infinite where the loss is not."""
    model, x, y = problem(dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 1e12
    assert descent_rule("single")(model, x, y, ATTACK).loss < 1e38
    with pytest.raises(FloatingPointError, match="not finite"):
        descent_rule("single", penalty=penalty)(model, x, y, ATTACK)


@pytest.mark.parametrize("penalty", [*PENALTIES, AdaptiveELLE()], ids=lambda penalty: penalty.word)
def test_a_compiled_network_is_penalised(penalty):
    model, x, y = problem()
    step = descent_rule("ddi", m=2, penalty=penalty)(model, x, y, ATTACK, drawn())
    compiled = torch.compile(model, backend="eager")
    other = descent_rule("ddi", m=2, penalty=penalty.fresh())(compiled, x, y, ATTACK, drawn())
    torch.testing.assert_close(step.gradient, other.gradient)


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, 8),
        ({"loss": TRADES()}, 9),
        ({"name": "ddi", "m": 3, "loss": MART()}, 27),
        ({"penalty": ELLE()}, 11),
        ({"name": "ddi", "m": 3, "loss": MART(), "penalty": ELLE()}, 30),
    ],
)
def test_passes_of_objectives_and_penalties_are_counted(options, expected):
    model, x, y = problem()
    options = {"name": "single"} | options
    rule, seen = descent_rule(options.pop("name"), **options), [0]
    assert rule.passes(7) == expected
    model[1].register_full_backward_hook(lambda *a: seen.__setitem__(0, seen[0] + len(a[2][0])))
    rule(model, x, y, replace(ATTACK, steps=7), drawn())
    assert seen[0] == K * expected


def test_passes_that_are_differentiated_count_twice():
    counted = {p.word: descent_rule("single", penalty=p).passes(1) - 2 for p in PENALTIES}
    assert counted == {"elle": 3, "gradalign": 4, "llr": 3, "cure": 4}
    free = descent_rule("product", m=2, method="matrix-free", max_iter=3, loss=TRADES())
    assert free.passes(5) == 2 * 5 + 2 * (1 + 3)


# --- ELLE-A ---------------------------------------------------------------------------------------


def test_the_adaptive_weight_jumps_and_fades():
    penalty = AdaptiveELLE(100.0, 0.5, 2.0)
    terms = [1.0, 1.2, 0.8, 1.1, 0.9, 5.0, 1.0, 1.0]
    want, weight = [], 0.0
    for i, term in enumerate(terms):
        history = torch.tensor(terms[:i], dtype=torch.float64)
        mean, spread = (history.mean(), history.std(correction=0)) if i else (math.inf, 0.0)
        weight = 100.0 if term > mean + 2 * spread else 0.5 * weight
        want.append(weight)
    assert [penalty.weigh(term) for term in terms] == pytest.approx(want)
    assert want[1] == want[5] == 100.0 and want[7] == 25.0
    again = penalty.fresh()
    assert again == penalty and again.state_dict()["count"] == 0 and again.weigh(3.0) == 0.0
    again.load_state_dict(penalty.state_dict())
    assert again.weigh(1.0) == penalty.weigh(1.0) == 12.5


@pytest.mark.parametrize("around", [SAM, partial(SAMPa, lam=0.25, t=0.01)], ids=["sam", "sampa"])
def test_a_step_of_two_calls_is_one_entry_of_history_and_has_one_weight(around):
    """The mean terms of the first calls are the history; each step's weight is that of both."""
    model, x, y = curved()
    seen = []

    class Told(AdaptiveELLE):
        def terms(self, values_of, x, *points):
            seen.append(super().terms(values_of, x, *points).mean().item())
            return super().terms(values_of, x, *points)

    penalty = Told(100.0, 0.5, 0.0)
    rule, other = (
        around(descent_rule("single", penalty=penalty), rho=0.2),
        AdaptiveELLE(100.0, 0.5, 0.0),
    )
    for step in range(3):
        more = rule(model, x, y, ATTACK, drawn(step))
        assert len(seen) == 2 * (step + 1) and seen[-1] != seen[-2]
        weight = other.weigh(seen[-2])
        assert penalty.state == pytest.approx(other.state)
        if around is SAM:
            fixed = SAM(descent_rule("single", penalty=ELLE(weight)), rho=0.2)
            want = fixed(model, x, y, ATTACK, drawn(step))
            torch.testing.assert_close(more.gradient, want.gradient)
            assert more.loss == pytest.approx(want.loss)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.1)
    assert penalty.state["count"] == 3 and penalty.state["weight"] > 0


def run_elle_a(folder, epochs, stop=None):
    torch.manual_seed(0)
    model, data = SmallNet(1, norm="batch").double(), digits().to(dtype=torch.float64)
    rule = descent_rule("ddi", m=2, penalty=AdaptiveELLE(300.0, 0.9, 0.5))
    setting = Setting(
        epochs=epochs, batch_size=50, epoch_steps=4, validation=100, lr=0.1, augment=False
    )
    left = [stop or math.inf]

    def count(*_):  # a hook decides no run, so the same run goes on without it
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(count)
    attack = PGD(0.2, 0.1, 1)
    try:
        train(model, data, rule, attack, setting, folder, PGD(0.2, 0.1, 2), checkpoint_every=1)
    except KeyboardInterrupt:
        return None
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_a_run_with_the_adaptive_weight_goes_on_bit_for_bit(tmp_path):
    whole = run_elle_a(tmp_path / "whole", 3)
    assert run_elle_a(tmp_path / "parts", 3, stop=50) is None
    parts = run_elle_a(tmp_path / "parts", 3)
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    one, other = (read_record(tmp_path / name).metrics for name in ("whole", "parts"))
    assert one["train_loss"].tolist() == other["train_loss"].tolist()
    assert one["passes"].tolist() == [4 * (2 * 1 + 2 + 3) * e for e in (1, 2, 3)]


def test_the_same_rule_begins_every_run_afresh(tmp_path):
    """What a run leaves in a penalty does not reach the next."""
    rule = descent_rule("single", penalty=AdaptiveELLE(300.0, 0.9, 0.0))
    rule.penalty.weigh(1e-9)
    setting = Setting(epochs=1, batch_size=50, epoch_steps=3, validation=100, augment=False)
    found = []
    for name in ("a", "b"):
        torch.manual_seed(0)
        model = train(MLP(hidden=(8,)), digits(), rule, ATTACK, setting, tmp_path / name)
        found.append(next(model.parameters()).detach().clone())
    assert torch.equal(*found) and rule.penalty.state_dict()["count"] == 1


def test_passes_of_beta_in_a_record(tmp_path):
    setting = Setting(epochs=1, batch_size=50, epoch_steps=2, validation=100, augment=False)
    model, rule = MLP(hidden=(8,)), descent_rule("ddi", m=2)
    train(model, digits(), rule, BETA(0.1, 0.05, 3), setting, tmp_path / "run")
    record = read_record(tmp_path / "run")
    assert record.metrics["passes"].tolist() == [2 * 2 * (3 * 9 + 1)]
    assert record.config["attack"]["kind"] == "BETA" and "loss" not in record.config["attack"]


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "thing, name",
    [
        (KL(), "kl"),
        (TRADES(6), "trades(6)"),
        (TRADES(0.5), "trades(0.5)"),
        (TRADES(1e-7), "trades(1e-07)"),
        (MART(), "mart(5)"),
        (ELLE(1000), "elle(1000)"),
        (AdaptiveELLE(4000), "elle-a(4000, 0.99, 2)"),
        (GradAlign(0.2), "gradalign(0.2)"),
        (LLR(10), "llr(10)"),
        (CURE(0.03), "cure(0.03, 1.5)"),
    ],
)
def test_a_record_names_what_an_experiment_can_name(thing, name):
    from ddi import Rule

    key = "penalty" if isinstance(thing, Penalty) else "loss"
    rule = Rule("ddi", **{key: thing})
    table = as_table(rule)
    assert table[key] == name == repr(thing) == thing.__name__
    assert make("rule", Rule, table) == rule
    assert getattr(make("rule", Rule, table), key).numbers == thing.numbers
    if key == "loss":
        attack = PGD(loss=thing)
        assert attack_of("attack", as_table(attack)) == attack
    assert "penalty" not in as_table(Rule("ddi"))


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("loss", "trade(6)", "did you mean trades"),
        ("loss", "trades(six)", "a number"),
        ("loss", "trades(-1)", "beta must be"),
        ("loss", "trades(1, 2)", "trades with the numbers"),
        ("loss", "elle(1)", "elle is not known"),
        ("loss", 6, "is not known"),
        ("loss", ["kl"], "is not known"),
        ("loss", "trades(1e)", "a number"),
        ("loss", "trades(nan)", "beta must be"),
        ("penalty", "elle(", "is not known"),
        ("penalty", "trades(6)", "trades is not known"),
        ("penalty", "cure(1, 0)", "h must be"),
        ("penalty", "elle-a(1, 2)", "decay must be"),
        ("penalty", ["elle"], "is not known"),
    ],
)
def test_words_that_name_nothing_are_refused(key, value, message):
    from ddi import Rule

    with pytest.raises(ValueError, match=message):
        make("rule", Rule, {"name": "ddi", key: value})


def test_an_experiment_names_objectives_penalties_and_beta(tmp_path):
    (tmp_path / "a.toml").write_text(
        """
        data = "digits"
        [model]
        name = "MLP"
        [attack]
        kind = "BETA"
        eps = 0.1
        steps = 5
        [evaluation]
        kind = "BETA"
        steps = 3
        [rule]
        name = "ddi"
        loss = "mart"
        penalty = "elle-a(300)"
        [arms.trades]
        attack = { kind = "PGD", loss = "kl" }
        rule = { loss = "trades(6)", penalty = "none" }
        [arms.beta]
        """
    )
    trades, beta = read_experiment(tmp_path / "a.toml")
    assert (trades.rule.loss, trades.rule.penalty) == (TRADES(6.0), None)
    assert trades.attack == PGD(0.1, loss=KL())
    assert beta.rule.loss == MART() and beta.rule.penalty == AdaptiveELLE(300.0)
    assert beta.attack == BETA(0.1, 2 / 255, 5) and beta.evaluation == BETA(0.1, 0.025, 3)


@pytest.mark.parametrize(
    "kind, bad",
    [
        (TRADES, {"beta": -1.0}),
        (MART, {"beta": math.nan}),
        (ELLE, {"weight": "1"}),
        (GradAlign, {"weight": None}),
        (LLR, {"weight": math.inf}),
        (CURE, {"h": 0.0}),
        (AdaptiveELLE, {"decay": 1.5}),
        (AdaptiveELLE, {"deviations": -1}),
    ],
)
def test_impossible_numbers_are_refused(kind, bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} must be"):
        kind(**bad)


@pytest.mark.parametrize("penalty", [ELLE, "elle(1)", 3.0, TRADES()])
def test_what_is_no_penalty_is_refused(penalty):
    with pytest.raises(ValueError, match="penalty must be a ddi Penalty"):
        descent_rule("ddi", penalty=penalty)


def test_the_lectures_table_runs_on_digits_and_is_evaluated_by_several_attacks(tmp_path):
    """The command that the file names, with its overrides and fewer steps; then the other one."""
    path = Path(__file__).parents[1] / "experiments" / "surrogates.toml"
    comment = " ".join(re.findall(r"^#   (.*?)\\?$", path.read_text("utf-8"), re.MULTILINE))
    evaluate, run = (shlex.split(c.replace("\\", "")) for c in comment.split("python -m ddi")[1:])
    assert run[:2] == ["run", "experiments/surrogates.toml"] and run[-2:] == ["--epochs", "4"]
    smaller = ["setting.epoch_steps=1", "evaluation.steps=2", "model.hidden=[8]", "--epochs", "1"]
    out = ["--out", str(tmp_path), "--quiet", "--device", "cpu"]
    assert main(["run", str(path), *run[2:-2], *smaller, *out]) == 0
    folders = sorted(f for f in (tmp_path / "surrogates").iterdir() if f.is_dir())
    names = {folder.name.removesuffix("-seed0") for folder in folders}
    assert names >= {"fgsm", "pgd10", "trades10", "mart10", "beta5", "beta10", "beta20"}
    passes = {f.name: read_record(f).metrics["passes"][-1] for f in folders}
    assert passes["trades10-seed0"] == 12 and passes["beta5-seed0"] == 46
    attacks = evaluate[evaluate.index("--attack") :]
    assert main(["evaluate", str(folders[0]), "--n", "5", "--which", "last", *attacks]) == 0
    found = {entry["attack"] for entry in json.loads((folders[0] / "test.json").read_text())}
    assert found == {"clean", "PGD-2x1", "FGSM-1x1", "PGD-10x1", "PGD-40x1", "BETA-10x1"}
    more = ["--attack", 'kind="PGD", steps=1, loss="margin_loss"', "--attack", "kind="]
    assert main(["evaluate", str(folders[0]), "--n", "5", "--which", "last", *more[:2]]) == 0
    found = {entry["attack"] for entry in json.loads((folders[0] / "test.json").read_text())}
    assert "PGD-1x1 loss=margin_loss" in found
    assert main(["evaluate", str(folders[0]), "--n", "5", "--which", "last", *more]) == 1
