"""Attacks: closed forms on linear models, the set, determinism, what may come in and go out."""

import inspect
import math
import re
from dataclasses import FrozenInstanceError, fields, replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from ddi import (
    ELLE,
    FAST,
    FGSM,
    L2,
    MLP,
    PGA,
    PGD,
    Attack,
    LInf,
    Rule,
    Setting,
    SmallNet,
    as_attack,
    cross_entropy,
    digits,
    inverse_time,
    margin_loss,
    robust_accuracy,
    train,
)

EPS = 0.2
ATTACKS = [
    PGD(EPS, 0.05, 10),
    PGD(EPS, 0.05, 10, keep="best", loss=margin_loss),
    PGD(1.0, 0.2, 10, norm="L2"),
    PGD(1.0, 0.2, 10, norm="L2", box=None, schedule=inverse_time(3)),
    PGA(EPS, 5.0, 5),
    FGSM(EPS),
    FGSM(1.0, "L2"),
    PGD(2.0, 0.5, 10, norm="L1"),
    PGD(2.0, 0.5, 3, norm="L1", box=None),
    FGSM(2.0, "L1"),
    FAST(EPS, 0.25),
]


@pytest.fixture
def batch():
    data = digits()
    return data.x_train[:12].double(), data.y_train[:12]


def small_model(seed=0, **options):
    torch.manual_seed(seed)
    return MLP(hidden=(16,), **options).double()


def logistic(logits, y):
    return nn.functional.softplus(-y * logits.squeeze(1))


def linear_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).double()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_delta_is_in_the_set_detached_and_no_weaker_than_nothing(attack, batch):
    x, y = batch
    model = small_model()
    delta = attack(model, x, y, torch.Generator().manual_seed(0))
    assert delta.shape == x.shape and delta.dtype == x.dtype and not delta.requires_grad
    assert attack.threat.contains(delta, x, atol=1e-9).all()
    assert (attack.loss(model(x + delta), y) > attack.loss(model(x), y)).all()


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_pgd_reaches_the_linear_closed_form_in_linf(batch, box):
    """``max softplus(-y f(x + d))`` is attained by moving every pixel by ``-y eps sign(theta)``, as
    far as the box lets.
    """
    x, _ = batch
    y = torch.tensor([1.0, -1.0] * 6, dtype=x.dtype)
    model = linear_model()
    theta = model[1].weight.view(1, 1, 8, 8)
    best = LInf(EPS, box).project((-y.view(-1, 1, 1, 1) * EPS * theta.sign()).expand_as(x), x)
    enough = PGD(EPS, 0.05, 8, loss=logistic, box=box)  # alpha * steps = 2 eps
    torch.testing.assert_close(enough(model, x, y), best.detach(), atol=1e-12, rtol=0)
    short = PGD(EPS, 0.05, 4, loss=logistic, box=None)(
        model, x, y, torch.Generator().manual_seed(0)
    )
    assert (short - best).abs().max() > 0.05


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_pgd_reaches_the_linear_closed_form_in_l2(batch, box):
    """Optimal: the multiple of ``-y theta`` that, clipped to the box, has norm ``eps`` (found here
    by a fine search).
    """
    x, _ = batch
    y = torch.tensor([1.0, -1.0] * 6, dtype=x.dtype)
    model = linear_model()
    theta = model[1].weight.detach().view(1, 1, 8, 8)
    threat = L2(0.5, box)
    far = -y.view(-1, 1, 1, 1) * theta * 1e6
    best = threat.project(far.expand_as(x), x)
    delta = PGD(0.5, 0.05, 400, norm="L2", loss=logistic, box=box, schedule=inverse_time(100))(
        model, x, y
    )
    reached, bound = (logistic(model(x + d), y) for d in (delta, best))
    torch.testing.assert_close(reached, bound, atol=1e-5, rtol=0)
    if box is None:
        torch.testing.assert_close(
            bound, nn.functional.softplus(-y * model(x).squeeze(1) + 0.5 * theta.norm())
        )


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_pgd_reaches_the_linear_closed_form_in_l1(batch, box):
    """Filled greedily: the largest of the weights first, as far as ball and box let it, pixels at
    the border passed over.
    """
    x, _ = batch
    y = torch.tensor([1.0, -1.0] * 6, dtype=x.dtype)
    model = linear_model()
    theta = model[1].weight.detach().flatten()
    best = torch.zeros(len(x), 64, dtype=x.dtype)
    for row, (image, label) in enumerate(zip(x.flatten(1), y, strict=True)):
        left = 2.0
        for j in theta.abs().argsort(descending=True):
            way = (-label * theta[j]).sign()
            room = math.inf if box is None else (1 - image[j] if way > 0 else image[j])
            best[row, j] = way * min(left, room)
            left -= abs(best[row, j].item())
    once = FGSM(2.0, "L1", logistic, box)(model, x, y)
    torch.testing.assert_close(once.flatten(1), best, atol=1e-9, rtol=0)
    many = PGD(2.0, 0.5, 300, True, "L1", logistic, box, schedule=inverse_time(20))
    delta = many(model, x, y, torch.Generator().manual_seed(0))
    reached, bound = (logistic(model(x + d), y) for d in (delta, once))
    torch.testing.assert_close(reached, bound, atol=1e-4, rtol=0)


def test_fgsm_is_one_clipped_step_of_gradient_ascent_from_zero(batch):
    """Wherever ``alpha |grad| >= eps`` in every coordinate, PGA's first step from 0 is FGSM's."""
    x, y = batch
    model = small_model()
    fgsm = FGSM(EPS)(model, x, y)
    torch.testing.assert_close(
        PGA(EPS, 1e12, 1, random_start=False)(model, x, y), fgsm, atol=1e-12, rtol=0
    )
    torch.testing.assert_close(
        PGD(EPS, EPS, 1, random_start=False)(model, x, y), fgsm, atol=0, rtol=0
    )


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_pga_adds_alpha_times_the_gradient(batch, norm):
    """Inside the set; of ``z_0`` of a linear model the gradient is its first row."""
    x, y = batch
    model = linear_model()
    attack = PGA(100.0, 0.25, 3, False, norm, lambda z, y: z.squeeze(1), None)
    step = model[1].weight.view(1, 1, 8, 8).expand_as(x).detach()
    torch.testing.assert_close(attack(model, x, y), 0.75 * step, atol=1e-12, rtol=0)


def test_fgsm_step_is_the_sign_of_a_finite_difference(batch):
    x, y = batch
    model = small_model()
    delta = FGSM(1e-3, box=None)(model, x, y)
    bump = torch.zeros_like(x)
    bump[:, 0, 3, 4] = 1e-6
    slope = cross_entropy(model(x + bump), y) - cross_entropy(model(x - bump), y)
    assert torch.equal(delta[:, 0, 3, 4].sign(), slope.detach().sign())


def test_fast_starts_at_random_and_takes_one_step(batch):
    x, y = batch
    model = small_model()
    one, two = (FAST(EPS, 0.05)(model, x, y, torch.Generator().manual_seed(s)) for s in (0, 1))
    assert (one - two).abs().max() > 0.1
    start = LInf(EPS).sample(x, torch.Generator().manual_seed(0))
    assert (one - start).abs().max() <= 0.05 + 1e-12


def far_below(logits, y):
    """A loss of which every value is negative, as the margin's is of what stands."""
    return cross_entropy(logits, y) - 100


@pytest.mark.parametrize("loss", [cross_entropy, far_below])
def test_best_iterate_is_never_worse_than_the_last_or_the_start(batch, loss):
    x, y = batch
    model = small_model()
    wild = dict(eps=1.0, alpha=1.5, steps=7, box=None, norm="L2", loss=loss)  # overshoots
    value = {}
    for keep in ("last", "best"):
        delta = PGD(**wild, keep=keep)(model, x, y, torch.Generator().manual_seed(0))
        value[keep] = cross_entropy(model(x + delta), y)
    assert (value["best"] >= value["last"] - 1e-12).all()
    one = PGD(1.0, 0.0, 1, norm="L2", box=None, keep="best", loss=loss)(
        model, x, y, torch.Generator().manual_seed(0)
    )
    assert (value["best"] >= cross_entropy(model(x + one), y) - 1e-12).all()


def test_schedule_scales_the_steps(batch):
    """Far from every edge the signs of a linear model add up: ``1/2 + 1/4 + 1/8 + 1/16`` alphas."""
    x, y = batch
    model = linear_model()
    steps: list[int] = []

    def halving(step):
        steps.append(step)
        return 0.5**step

    attack = PGD(10.0, 2.0, 4, False, loss=lambda z, y: z.squeeze(1), box=None, schedule=halving)
    delta = attack(model, x, y)
    assert steps == [1, 2, 3, 4]
    expected = 2 * 15 / 16 * model[1].weight.sign().view(1, 1, 8, 8).expand_as(x)
    torch.testing.assert_close(delta, expected.detach(), atol=1e-12, rtol=0)
    assert [inverse_time(8)(t) for t in (1, 8, 9, 10, 70)] == [1, 1, 1 / 2, 1 / 3, 1 / 63]
    assert inverse_time()(9) == 1 / 2 and inverse_time.__defaults__ == (8,)
    assert inverse_time(np.int64(3)).__name__ == "inverse_time(3)"
    for bad in (0, 2.5, "8"):
        with pytest.raises(ValueError, match="start must be an integer >= 1"):
            inverse_time(bad)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_restarts_are_single_calls_from_the_starts_of_one_draw(attack, batch):
    """One batch of ``m B`` images, cut in as few pieces as may be; each restart is what a call on
    the same start gives.
    """
    x, y = batch
    m, calls = 3, []
    model = small_model()
    model.register_forward_hook(lambda *a: calls.append(len(a[1][0])))
    draw = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    whole = attack.restarts(model, x, y, m, draw())
    assert whole.shape == (m, *x.shape) and set(calls) == {m * len(x)}
    passes = attack.steps + (attack.keep == "best")
    assert len(calls) == passes
    calls.clear()
    parts = attack.restarts(model, x, y, m, draw(), batch_size=7)
    assert max(calls) == 6 and len(calls) == 6 * passes  # 36 images: 6 pieces of 6
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=0)
    together = attack(model, x.repeat(m, 1, 1, 1), y.repeat(m), draw())
    torch.testing.assert_close(whole.flatten(0, 1), together, atol=1e-12, rtol=0)
    part = attack.restarts(model, x, y, m, draw(), only=slice(2, 9))
    torch.testing.assert_close(part, whole[:, 2:9], atol=1e-12, rtol=0)
    one = attack.restarts(model, x, y, 1, draw())[0]
    torch.testing.assert_close(one, attack(model, x, y, draw()), atol=1e-12, rtol=0)
    assert (whole[0] - whole[1]).abs().max() > 1e-3 or not attack.random_start


def test_by_default_the_cpu_takes_96_images_of_cifars_size_at_a_time():
    model, calls = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), []
    model.register_forward_hook(lambda *a: calls.append(len(a[1][0])))
    x, y = torch.rand(100, 3, 32, 32), torch.zeros(100, dtype=torch.int64)
    PGD(steps=1).restarts(model, x, y, 3)
    assert calls == [75] * 4
    calls.clear()
    PGD(steps=1)(model, x, y)
    assert calls == [100]


def test_the_passes_are_those_that_the_model_sees(batch):
    x, y = batch
    for attack, passes in ((PGD(steps=4), 4), (FGSM(), 1), (FAST(), 1), (PGA(steps=3), 3)):
        model, calls = small_model(), []
        model.register_forward_hook(lambda *a, calls=calls: calls.append(1))
        attack(model, x, y)
        assert attack.passes == passes == len(calls)
    assert as_attack(lambda model, x, y: x).passes == 0


DEFAULTS = {
    "eps": 8 / 255,
    "alpha": 2 / 255,
    "steps": 7,
    "random_start": True,
    "norm": "Linf",
    "loss": cross_entropy,
    "box": (0.0, 1.0),
    "keep": "last",
    "schedule": None,
    "autocast": False,
}


def test_the_defaults_are_those_of_the_field():
    values = lambda attack: {f.name: getattr(attack, f.name) for f in fields(attack)}  # noqa: E731
    assert values(PGD()) == values(PGA()) == DEFAULTS and list(values(PGD())) == list(DEFAULTS)
    one = {"alpha": 8 / 255, "steps": 1, "random_start": False}
    assert values(FGSM()) == DEFAULTS | one
    assert values(FAST()) == DEFAULTS | {"alpha": 10 / 255, "steps": 1}
    order = lambda kind: list(inspect.signature(kind).parameters)  # noqa: E731
    assert order(FGSM) == ["eps", "norm", "loss", "box", "autocast"]
    assert order(FAST) == ["eps", "alpha", "norm", "loss", "box", "autocast", "random_start"]


def test_numpy_numbers_are_kept_as_plain_python_and_nothing_changes_afterwards():
    attack = PGD(np.float64(0.5), np.float32(0.25), np.int64(3), np.True_, box=[0, np.int8(2)])
    kinds = [type(getattr(attack, name)) for name in ("eps", "alpha", "steps", "random_start")]
    assert kinds == [float, float, int, bool] and attack.box == (0.0, 2.0)
    assert type(attack.box) is tuple and attack == PGD(0.5, 0.25, 3, box=(0.0, 2.0))
    assert FGSM(np.float32(0.5)).alpha == 0.5 and replace(FGSM(0.5), eps=0.25).alpha == 0.25
    with pytest.raises(FrozenInstanceError):
        attack.eps = 1.0


def test_generator_decides_everything(batch):
    x, y = batch
    model = small_model()
    attack = PGD(EPS, 0.05, 3)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two = (attack(model, x, y, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(one, attack(model, x, y, torch.Generator().manual_seed(4)))


def test_each_sample_is_attacked_for_itself(batch):
    """Permuting or dropping samples changes nothing for the others, BatchNorm or not."""
    x, y = batch
    model = small_model(norm="batch").train()
    attack = PGD(EPS, 0.05, 5, random_start=False)
    whole = attack(model, x, y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:5]
    torch.testing.assert_close(attack(model, x[order], y[order]), whole[order], atol=1e-12, rtol=0)


def test_attacks_take_plain_callables(batch):
    x, y = batch
    model, attack = small_model(), PGD(EPS, 0.05, 3, random_start=False)
    assert torch.equal(attack(lambda z: model(z), x, y), attack(model, x, y))


def test_the_callers_tensors_are_left_alone(batch):
    x, y = batch
    x = x.clone().requires_grad_(True)
    graph = (2 * x).sin()
    kept, labels = graph.detach().clone(), y.clone()
    for attack in ATTACKS:
        for delta in (attack(small_model(), graph, y), attack.restarts(small_model(), graph, y, 1)):
            assert not delta.requires_grad
    as_attack(lambda model, x, y: x.zero_().sub_(y.zero_()[0]))(small_model(), graph, y)
    assert torch.equal(graph.detach(), kept) and torch.equal(y, labels)
    graph.sum().backward()
    torch.testing.assert_close(x.grad, 2 * (2 * x.detach()).cos())


def test_losses_by_hand():
    z = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 5.0], [-1.0, -3.0, -2.0]])
    y = torch.tensor([1, 0, 0])
    torch.testing.assert_close(margin_loss(z, y), torch.tensor([-1.0, 5.0, -1.0]))
    torch.testing.assert_close(margin_loss(z + 100, y), margin_loss(z, y))
    torch.testing.assert_close(cross_entropy(z, y), z.exp().sum(1).log() - z[[0, 1, 2], y])
    assert torch.equal(margin_loss(z, y) > 0, z.argmax(1) != y)


# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("box", [(0.0, 1.0), (0.1, 0.9), (-0.42421, 2.82148), (0.0, 255.0)])
def test_attacked_images_can_be_attacked_again(batch, norm, box, dtype):
    """What is inside stays inside, as computed in the images' own dtype; images that leave the box
    by one rounding are accepted, and moved no further out.
    """
    low, width = box[0], box[1] - box[0]
    x = (low + width * batch[0]).to(dtype)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).to(dtype)
    inside = x.double().clamp(*box).to(dtype)
    outside = inside + (inside == inside.max()) * inside.max() * torch.finfo(dtype).eps
    attack = PGD(0.2 * width, 0.1 * width, 3, norm=norm, box=box)
    for images in (inside, outside):
        for _ in range(3):
            delta = attack(model, images, batch[1])
            assert attack.threat.norm(delta).max() <= attack.eps * (1 + 4 * torch.finfo(dtype).eps)
            moved = images + delta
            assert moved.dtype == dtype
            assert (moved >= torch.minimum(images, images.new_tensor(low))).all()
            assert (moved <= torch.maximum(images, images.new_tensor(box[1]))).all()
            images = moved


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_float32_finds_what_float64_finds(batch, norm):
    x, y = batch
    model = small_model()
    attack = PGD(0.5, 0.1, 5, False, norm)
    exact = attack(model, x, y)
    found = attack(small_model().float(), x.float(), y)
    assert found.dtype == torch.float32
    gain = cross_entropy(model(x + found.double()), y) - cross_entropy(model(x), y)
    torch.testing.assert_close(
        gain, cross_entropy(model(x + exact), y) - cross_entropy(model(x), y), rtol=0.02, atol=0
    )


class Steep(nn.Module):
    """Finite everywhere, with a gradient that is infinite or NaN where a pixel is black."""

    def __init__(self, sign):
        super().__init__()
        self.sign = sign

    def forward(self, x):
        root = x.flatten(1)[:, :2].sqrt()
        return torch.stack([root[:, 0] * self.sign, root.sum(1)], 1)


@pytest.mark.parametrize("sign", [0.0, 1.0])
@pytest.mark.parametrize(
    "attack",
    [
        PGD(0.1, 0.05, 3),
        PGD(0.1, 0.05, 3, norm="L2"),
        PGD(0.1, 0.05, 3, norm="L1"),
        PGA(0.1),
        FGSM(),
    ],
)
@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_gradient_that_is_not_finite_is_an_error_that_says_so(attack, sign, keep):
    x, y = torch.full((4, 1, 2, 2), 0.5), torch.tensor([0, 1, 0, 1])
    attack = attack if isinstance(attack, FGSM) else replace(attack, random_start=False, keep=keep)
    assert attack(Steep(sign), x, y).isfinite().all()
    x[2:, 0, 0, 0] = 0
    model = nn.Sequential(Steep(sign), nn.Dropout()).train()
    with pytest.raises(FloatingPointError, match=r"for 2 of 4 samples, first in step 1 of \d"):
        attack(model, x, y)
    assert model.training and model[1].training
    with pytest.raises(FloatingPointError, match="first in step 1 of"):
        attack.restarts(model, x, y, 2)


def test_a_step_of_any_length_ends_inside_the_set(batch):
    x, y = batch[0].float(), batch[1]
    for norm in ("Linf", "L2", "L1"):
        for box in (None, (0.0, 1.0)):
            attack = PGA(0.5, 1e38, 3, norm=norm, box=box)
            delta = attack(small_model().float(), x, y)
            assert delta.isfinite().all() and attack.threat.contains(delta, x).all()


class Weak(nn.Module):
    """What a linear model says, told without a gradient."""

    def __init__(self, how):
        super().__init__()
        self.how, self.linear = how, nn.Linear(64, 10).double()

    def forward(self, x):
        z = self.linear(x.flatten(1))
        if self.how == "pair":
            return z, z
        return {"detached": z.detach(), "constant": self.linear.bias.expand(len(x), 10)}[self.how]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("detached", "differentiable in x"),
        ("constant", "differentiable in x"),
        ("pair", r"the model's output must be .*logits, \(12, C\), got a tuple of 2"),
    ],
)
def test_a_model_without_a_gradient_or_logits_is_refused_in_words(batch, how, words):
    with pytest.raises(ValueError, match=words):
        PGD()(Weak(how), *batch)


def test_models_that_do_not_fit_are_refused_in_words(batch):
    x, y = batch
    with pytest.raises(ValueError, match="generator must be a torch.Generator or None, got 3"):
        PGD()(small_model(), x, y, 3)
    with pytest.raises(ValueError, match="dtype.*float32.*got torch.float64"):
        PGD()(small_model().float(), x, y)
    with pytest.raises(ValueError, match="lazy"):
        PGD()(nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), x, y)
    with torch.inference_mode():
        made = small_model()
    with pytest.raises(ValueError, match="outside torch.inference_mode"):
        PGD()(made, x, y)
    for model in (None, MLP, "model"):
        with pytest.raises(ValueError, match="model must be callable"):
            PGD()(model, x, y)


# --------------------------------------------------------------------------------------------------


def test_autocast_runs_the_model_in_bf16_and_nothing_else(batch):
    """A tenth of the gain at most is lost to rounding."""
    x, y = batch[0].float(), batch[1]
    torch.manual_seed(0)
    model, seen = SmallNet(1, 10), []
    model[0].register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    losses = []

    def loss(logits, y):
        losses.append((logits.dtype, torch.is_autocast_enabled("cpu")))
        return cross_entropy(logits, y)

    attack = PGD(0.1, 0.03, 5, loss=loss)
    draw = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    full = attack(model, x, y, draw())
    assert set(seen) == {torch.float32}
    seen.clear()
    low = replace(attack, autocast=True)(model, x, y, draw())
    with torch.autocast("cpu", torch.bfloat16):
        callers = attack(model, x, y, draw())
    assert set(seen) == {torch.bfloat16} and set(losses) == {(torch.float32, False)}
    assert torch.equal(callers, low) and low.dtype == torch.float32
    assert not torch.equal(low, full) and attack.threat.contains(low, x, atol=1e-7).all()
    model.eval()
    with torch.no_grad():
        none, weaker, stronger = (cross_entropy(model(x + d), y).mean() for d in (0, low, full))
    assert weaker - none > 0.9 * (stronger - none) > 0


# --------------------------------------------------------------------------------------------------


def towards(model, x, y):
    return (y.view(-1, 1, 1, 1) / 100).to(x).expand_as(x)


def test_any_callable_is_an_attack(batch):
    x, y = batch
    model = small_model()
    attack = as_attack(towards)
    assert isinstance(attack, Attack) and as_attack(attack) is attack
    assert as_attack(PGD()) == PGD()
    delta = attack(model, x, y, torch.Generator())
    assert torch.equal(delta, towards(model, x, y)) and not delta.requires_grad
    many = attack.restarts(model, x, y, 3, batch_size=5, only=slice(2, 9))
    assert many.shape == (3, 7, *x.shape[1:]) and torch.equal(many[2], delta[2:9])
    single = as_attack(lambda model, x, y: torch.zeros_like(x).float())(model, x, y)
    assert single.dtype == x.dtype


def test_a_callable_sees_the_model_in_eval_mode_and_may_take_the_generator(batch):
    x, y = batch
    model, seen = small_model(norm="batch").train(), []

    def noise(model, x, y, generator=None):
        seen.append((len(x), any(m.training for m in model.modules())))
        model(x).sum().backward() if x.requires_grad else None
        return torch.rand(x.shape, generator=generator, dtype=x.dtype)

    for thing in (noise, partial(noise), PGD(EPS, random_start=True).__call__):
        attack = as_attack(thing)
        one, two = (attack(model, x, y, torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(one, two)
        first, second = attack.restarts(model, x, y, 2, torch.Generator().manual_seed(3))
        assert torch.equal(first, one) and not torch.equal(first, second)
    assert set(seen) == {(len(x), False)} and model.training and model[2].training


class Zero(Attack):
    """The least that an attack of one's own needs."""

    def __call__(self, model, x, y, generator=None):
        return torch.zeros_like(x)


def test_an_attack_of_ones_own_has_restarts_and_is_taken_as_it_is(batch):
    x, y = batch
    assert torch.equal(Zero().restarts(small_model(), x, y, 2), torch.zeros(2, *x.shape).double())
    assert as_attack(Zero()).passes == 0
    assert robust_accuracy(small_model(), x, small_model()(x).argmax(1), Zero()).value == 1
    with pytest.raises(NotImplementedError):
        Attack()(small_model(), x, y)


def climb(model, x, y, steps=2):
    """What a user writes: it thinks of no mode, leaves gradients, and writes into its arguments."""
    clean, delta = x.clone(), torch.zeros_like(x)
    for _ in range(steps):
        delta.requires_grad_()
        cross_entropy(model(clean + delta), y).sum().backward()
        delta = (delta.detach() + 0.05 * delta.grad.sign()).clamp(-EPS, EPS)
    x.zero_(), y.zero_()
    return delta


class Calls(Attack):
    def __call__(self, model, x, y, generator=None):
        return climb(model, x, y)


class Restarts(PGD):
    def restarts(self, model, x, y, m, generator=None, batch_size=None, only=slice(None)):
        return torch.stack([climb(model, x[only].clone(), y[only].clone()) for _ in range(m)])


class Inside(PGD):
    def _ascend(self, model, precision, x, y, start, batch_size):
        return climb(model, x, y)


class Mixed(Calls, PGD):
    """Overrides by a parent."""


@pytest.mark.parametrize(
    "own", [Calls(), Restarts(EPS), Inside(EPS), Mixed(EPS)], ids=lambda own: type(own).__name__
)
def test_a_users_class_is_run_as_the_same_function_is(batch, own):
    x, y = batch
    kept, labels = x.clone(), y.clone()
    found = []
    for attack in (own, climb):
        model = small_model(norm="batch").train()
        norm = next(m for m in model if isinstance(m, nn.BatchNorm1d))
        deltas = as_attack(attack).restarts(model, x, y, 2, only=slice(1, 9))
        assert norm.num_batches_tracked == 0 and all(p.grad is None for p in model.parameters())
        step = Rule("mean", m=2)(model, x, y, attack)
        assert norm.num_batches_tracked == 1 and all(p.grad is None for p in model.parameters())
        robust_accuracy(model, x, model.eval()(x).argmax(1), attack)
        model.train()
        assert norm.num_batches_tracked == 1 and all(p.grad is None for p in model.parameters())
        assert model.training and torch.equal(x, kept) and torch.equal(y, labels)
        found.append((deltas, step.gradient, as_attack(attack)(model, x, y)))
    assert found[1][0].any()
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=1e-12)


def test_what_a_users_class_is_beside_its_call_stays(batch):
    attack = as_attack(Mixed(EPS, steps=3))
    assert (attack.passes, attack.passes_for(10), attack.steps) == (3, 3, 3)
    assert attack.threat.eps == EPS and attack == as_attack(Mixed(EPS, steps=3)) != as_attack(climb)
    step = Rule("single", penalty=ELLE())(small_model(), *batch, attack)  # it needs the set
    assert step.loss > 0


def fixed(value, many):
    """A class whose call, or whose restarts, return that."""

    class One(Attack):
        def __call__(self, model, x, y, generator=None):
            return value(x)

    class Many(One):
        def restarts(self, model, x, y, m, generator=None, batch_size=None, only=slice(None)):
            return value(x[only])[None].repeat_interleave(m, 0)

    return Many() if many else One()


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (lambda x: x[:1, :, :1, :1], ValueError, r"returns must be .*12, 1, 8, 8\)"),
        (lambda x: x[:3], ValueError, r"returns must be .*12, 1, 8, 8\)"),
        (lambda x: x / 0, FloatingPointError, "returns must be finite"),
        (lambda x: (x + 0.1).clamp(0, 1), ValueError, "looks like images: return images - x"),
    ],
)
def test_what_a_users_class_returns_is_checked(batch, many, value, error, words):
    x, _ = batch
    model, attack = small_model(), fixed(value, many)
    with pytest.raises(error, match=words):
        Rule("single")(model, *batch, attack)
    if not many:
        with pytest.raises(error, match=words):
            robust_accuracy(model, x, model(x).argmax(1), attack)


@pytest.mark.parametrize("which", range(3))
def test_a_restart_that_returns_images_is_found_whichever_it_is(batch, which):
    x, y = batch

    class Mixed(Attack):
        def restarts(self, model, x, y, m, generator=None, batch_size=None, only=slice(None)):
            deltas = torch.zeros(m, *x[only].shape, dtype=x.dtype)
            deltas[which] = (x[only] + 0.1).clamp(0, 1)
            return deltas

    with pytest.raises(ValueError, match="looks like images: return images - x"):
        Rule("mean", m=3)(small_model(), x, y, Mixed())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("box", [(0.0, 1.0), None])
def test_l2_perturbations_in_half_precision_are_in_the_ball(batch, dtype, box):
    """As float64 sees them: what is rounded is what is projected, and not the projection."""
    x, y = batch
    model, attack = small_model().to(dtype), PGD(0.7, 0.5, 4, norm="L2", box=box)
    delta = attack.restarts(model, x.to(dtype), y, 5, torch.Generator().manual_seed(0))
    norms = delta.double().flatten(2).norm(dim=2)
    assert delta.dtype == dtype and 0.99 * attack.eps < norms.max() <= attack.eps * (1 + 1e-6)


@pytest.mark.parametrize(
    ("returns", "error", "words"),
    [
        (lambda x: x[:3], ValueError, r"what the attack returns must be .*\(12, 1, 8, 8\)"),
        (lambda x: x.numpy(), ValueError, "got a NumPy array"),
        (lambda x: x.long(), ValueError, "got a tensor of int64"),
        (lambda x: None, ValueError, "got None"),
        (lambda x: x.to("meta"), ValueError, "on meta"),
        (lambda x: x / 0, FloatingPointError, "finite"),
        (lambda x: x, ValueError, "got what looks like images: return images - x"),
        (lambda x: (x + 0.3 * (0.5 - x).sign()).clamp(0, 1), ValueError, "looks like images"),
    ],
)
def test_what_a_callable_returns_is_checked(batch, returns, error, words):
    with pytest.raises(error, match=words):
        as_attack(lambda model, x, y: returns(x))(small_model(), *batch)


@pytest.mark.parametrize(
    ("x", "delta"),
    [(0.4, 0.4), (0.5, 0.3), (0.9, 0.4), (0.9, -0.8), (1.5, 1.5), (0.0, 1.0), (0.02, 0.3)],
)
def test_perturbations_are_not_taken_for_images(x, delta):
    x, y = torch.full((3, 1, 8, 8), x), torch.zeros(3, dtype=torch.int64)
    found = as_attack(lambda model, x, y: torch.full_like(x, delta))(MLP(), x, y)
    assert torch.equal(found, torch.full_like(x, delta))


class Short(Attack):
    def __call__(self, model, x, y):
        return torch.zeros_like(x)


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (lambda x, y: x, r"\(model, x, y\) -> delta, got one of \(x, y\)"),
        (lambda model, x, y, eps: x, r"got one of \(model, x, y, eps\)"),
        (lambda model, x, generator: x, r"got one of \(model, x, generator\)"),
        (partial(lambda model, x, y: x, None), r"got one of \(x, y\)"),
        (Short(), r"\(model, x, y, generator\) -> delta, got one of \(model, x, y\)"),
    ],
)
def test_a_callable_of_another_signature_is_refused_at_every_door(batch, thing, words, tmp_path):
    def never(model, x, y):
        raise AssertionError("nothing is called")

    model, rule = small_model(), Rule("ddi", m=2)
    setting = Setting(epochs=1, batch_size=8)
    for name, use in {
        "attack": lambda: as_attack(thing),
        "attack ": lambda: robust_accuracy(model, *batch, thing),
        "attack  ": lambda: rule(model, *batch, thing),
        "attack   ": lambda: train(
            model, digits(), Rule("single"), thing, setting, tmp_path / "a", evaluation=PGD()
        ),
        "evaluation": lambda: train(
            model, digits(), Rule("single"), never, setting, tmp_path / "a", evaluation=thing
        ),
    }.items():
        with pytest.raises(ValueError, match=f"^{name.strip()} must be callable as .*{words}"):
            use()
    assert not (tmp_path / "a").exists()


def test_a_type_error_inside_of_a_callable_is_its_own(batch):
    def broken(model, x, y=None, *, generator=None, scale=1.0):
        return x + None

    with pytest.raises(TypeError, match="unsupported operand"):
        as_attack(broken)(small_model(), *batch)
    every = (lambda *args: 0 * args[1], lambda model, x, y, **rest: 0 * x, torch.nn.Identity())
    for attack in every[:2]:
        assert not as_attack(attack)(small_model(), *batch).any()
    as_attack(every[2])  # a module does not say what it takes


@pytest.mark.parametrize("thing", [PGD, "PGD", None, 3])
def test_what_cannot_be_called_is_no_attack(thing):
    with pytest.raises(ValueError, match="attack must be callable"):
        as_attack(thing)


# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, name",
    [
        ({"eps": -1}, "eps"),
        ({"eps": float("nan")}, "eps"),
        ({"alpha": -0.1}, "alpha"),
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"norm": "l8"}, "norm"),
        ({"keep": "first"}, "keep"),
        ({"loss": "ce"}, "loss"),
        ({"schedule": 3}, "schedule"),
        ({"box": (1, 0)}, "box"),
        ({"eps": "8/255"}, "eps"),
        ({"eps": True}, "eps"),
        ({"alpha": math.inf}, "alpha"),
        ({"steps": True}, "steps"),
        ({"random_start": "false"}, "random_start"),
        ({"autocast": 1}, "autocast"),
        ({"loss": nn.CrossEntropyLoss}, "loss"),
        ({"norm": None}, "norm"),
    ],
)
def test_impossible_settings_are_refused(options, name):
    with pytest.raises(ValueError, match=f"^{name} must be "):
        PGD(**options)
    if name in ("eps", "norm", "loss", "box", "autocast"):
        with pytest.raises(ValueError, match=f"^{name} must be "):
            FGSM(**options)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_lengths_beyond_the_dtype_of_the_images_are_refused_and_what_it_holds_is_not(norm, dtype):
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    y, model = torch.tensor([0, 1, 2]), nn.Linear(4, 3).to(dtype)
    top = float(torch.finfo(dtype).max)
    doubled = PGD(0.1, top, norm=norm, schedule=lambda step: 2.0)
    attacks = {"eps": PGD(2 * top, 0.1, norm=norm), "alpha": PGD(0.1, 2 * top, norm=norm)}
    for name, attack in [*attacks.items(), ("alpha", doubled), ("eps", FGSM(2 * top, norm))]:
        words = f"{name} must be a finite number with 0 <= {name} <= {top:g}, got "
        with pytest.raises(ValueError, match="^" + re.escape(words)):
            attack(model, x, y)
    threat = attacks["eps"].threat
    for use in (lambda: threat.project(x, x), lambda: threat.sample(x)):
        with pytest.raises(ValueError, match="^eps must be "):
            use()
    delta = PGD(top, top, 2, norm=norm)(model, x, y)  # the box cuts it
    assert bool(((x + delta >= 0) & (x + delta <= 1)).all()) and delta.any()


@pytest.mark.parametrize(
    "x, y, name",
    [
        (torch.rand(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64), "x"),
        (torch.rand(2, 1, 8, 8) + 1, torch.zeros(2, dtype=torch.int64), "box"),
        (torch.rand(2, 1, 8, 8) * torch.nan, torch.zeros(2, dtype=torch.int64), "finite"),
        (torch.ones(2, 1, 8, 8, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), "floating"),
        (torch.rand(2, 1, 8, 8), torch.zeros(3, dtype=torch.int64), "^y must be class labels.*2"),
        (torch.rand(2, 1, 8, 8), torch.tensor([0, 10]), "^y must be class labels.*9"),
        (torch.rand(2, 1, 8, 8), torch.tensor([-1, 1]), "^y must be class labels"),
        (torch.rand(2, 1, 8, 8), torch.tensor([0.0, 1.0]), "labels.*int64"),
        (torch.rand(2, 1, 8, 8), torch.tensor([[0], [1]]), r"labels.*\(2,\)"),
        (torch.rand(2, 1, 8, 8), torch.tensor([0, 1], dtype=torch.int32), "labels.*int32"),
        (torch.rand(2, 1, 8, 8), np.array([0, 1]), "^y must.*NumPy array of int64"),
        (torch.rand(2, 1, 8, 8), [0, 1], "^y must"),
        (np.zeros((2, 1, 8, 8)), torch.tensor([0, 1]), "^x must.*NumPy array of float64"),
        (torch.rand(2), torch.tensor([0, 1]), "^x must.*2 axes"),
        (torch.rand(2, 1, 8, 8), torch.tensor([0, 1], device="meta"), "one device.*y on meta"),
    ],
)
@pytest.mark.parametrize("m", [None, 2])
def test_impossible_batches_are_refused_and_the_model_is_untouched(x, y, name, m):
    model = MLP(hidden=()).train()
    attack = PGD()
    with pytest.raises(ValueError, match=name):
        attack(model, x, y) if m is None else attack.restarts(model, x, y, m)
    assert model.training and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "options, name",
    [
        ({"m": 0}, "m"),
        ({"m": 1.5}, "m"),
        ({"m": True}, "m"),
        ({"m": 2, "batch_size": 0}, "batch_size"),
        ({"m": 2, "only": 3}, "only"),
        ({"m": 2, "only": slice(20, 30)}, "only"),
    ],
)
@pytest.mark.parametrize("attack", [PGD(), Zero()])
def test_impossible_restarts_are_refused(attack, options, name, batch):
    with pytest.raises(ValueError, match=f"^{name} must be "):
        attack.restarts(small_model(), *batch, **options)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), lambda z, y: z, lambda z, y: z.argmax(1)])
def test_loss_must_give_one_value_a_sample(batch, loss):
    with pytest.raises(ValueError, match="loss must return one value a sample"):
        PGD(loss=loss)(small_model(), *batch)


@pytest.mark.parametrize("value", [math.nan, -1.0, "1", None, torch.tensor(1.0)])
def test_a_schedule_must_give_lengths(batch, value):
    with pytest.raises(ValueError, match=r"schedule\(1\) must be a finite number >= 0"):
        PGD(schedule=lambda step: value)(small_model(), *batch)


def test_labels_of_a_loss_of_ones_own_are_what_it_takes(batch):
    x, _ = batch
    soft = torch.full((len(x), 10), 0.1, dtype=x.dtype)
    loss = lambda z, y: -(y * z.log_softmax(1)).sum(1)  # noqa: E731
    attack = PGD(EPS, 0.05, 3, loss=loss)
    assert attack.restarts(small_model(), x, soft, 2, batch_size=5).abs().max() > 0.05
    with pytest.raises(ValueError, match="y must be a tensor of length 12"):
        attack(small_model(), x, soft[:3])
