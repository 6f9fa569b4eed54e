"""Attacks: closed forms on linear models, the set, determinism, and the model left exactly as it
was.
"""

import math

import pytest
import torch
from torch import nn

from ddi import (
    FAST,
    FGSM,
    L2,
    MLP,
    PGA,
    PGD,
    LInf,
    cross_entropy,
    digits,
    frozen,
    inverse_time,
    margin_loss,
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


def test_best_iterate_is_never_worse_than_the_last_or_the_start(batch):
    x, y = batch
    model = small_model()
    wild = dict(eps=1.0, alpha=1.5, steps=7, box=None, norm="L2")  # overshoots
    value = {}
    for keep in ("last", "best"):
        delta = PGD(**wild, keep=keep)(model, x, y, torch.Generator().manual_seed(0))
        value[keep] = cross_entropy(model(x + delta), y)
    assert (value["best"] >= value["last"] - 1e-12).all()
    one = PGD(1.0, 0.0, 1, norm="L2", box=None, keep="best")(
        model, x, y, torch.Generator().manual_seed(0)
    )
    assert (value["best"] >= cross_entropy(model(x + one), y) - 1e-12).all()


def test_schedule_scales_the_steps(batch):
    x, y = batch
    model = small_model()
    steps = []

    def halving(step):
        steps.append(step)
        return 0.5**step

    delta = PGD(10.0, 1.0, 4, random_start=False, box=None, schedule=halving)(model, x, y)
    assert steps == [1, 2, 3, 4]
    assert delta.abs().max() <= 1 / 2 + 1 / 4 + 1 / 8 + 1 / 16
    assert [inverse_time(8)(t) for t in (1, 8, 9, 10, 70)] == [1, 1, 1 / 2, 1 / 3, 1 / 63]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_restarts_are_one_batch_independent_of_the_chunk(attack, batch):
    x, y = batch
    model = small_model()
    calls = []
    model.register_forward_hook(lambda *a: calls.append(len(a[1][0])))
    whole = attack.restarts(model, x, y, 3, torch.Generator().manual_seed(0))
    assert set(calls) == {3 * len(x)}
    calls.clear()
    parts = attack.restarts(model, x, y, 3, torch.Generator().manual_seed(0), chunk=7)
    assert (
        max(calls) <= 7 and len(set(calls)) <= 2
    )  # as few pieces as may be, of one size but for the last
    assert len(calls) % math.ceil(3 * len(x) / 7) == 0
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=0)
    assert whole.shape == (3, *x.shape)
    if attack.random_start:
        assert (whole[0] - whole[1]).abs().max() > 1e-3
        single = attack(model, x, y, torch.Generator().manual_seed(0))
        torch.testing.assert_close(
            attack.restarts(model, x, y, 1, torch.Generator().manual_seed(0))[0], single
        )


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


class Spy(nn.Module):
    """A model with modes of its own, a buffer that moves, frozen parameters, and a fault on demand."""

    def __init__(self):
        super().__init__()
        self.body = small_model(norm="batch")
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))
        self.fail_at = None

    def forward(self, x):
        assert not self.training and not self.dropout.training
        self.calls += 1
        self.seen = self.seen + 1
        if self.fail_at is not None and self.calls >= self.fail_at:
            raise RuntimeError("planted")
        return self.body(self.dropout(x))


@pytest.mark.parametrize("fail_at", [None, 1, 3])
@pytest.mark.parametrize("many", [False, True])
def test_the_model_comes_back_exactly_as_it_was(batch, fail_at, many):
    x, y = batch
    model = Spy()
    model.train()
    model.body[1].eval()
    first = next(model.parameters())
    first.requires_grad_(False)
    last = list(model.parameters())[-1]
    last.grad = torch.ones_like(last)
    kept = last.grad
    model.fail_at = fail_at
    modes = [m.training for m in model.modules()]
    needs = [p.requires_grad for p in model.parameters()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    buffers = [id(b) for b in model.buffers()]
    attack = PGD(EPS, 0.05, 5)
    run = (lambda: attack.restarts(model, x, y, 2)) if many else (lambda: attack(model, x, y))
    if fail_at is None:
        run()
    else:
        with pytest.raises(RuntimeError, match="planted"):
            run()
    assert modes == [m.training for m in model.modules()]
    assert needs == [p.requires_grad for p in model.parameters()]
    assert last.grad is kept and (kept == 1).all() and first.grad is None
    assert buffers == [id(b) for b in model.buffers()]
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_attacks_work_without_grad_mode_and_on_plain_callables(batch):
    x, y = batch
    weight = small_model()
    with torch.no_grad():
        delta = PGD(EPS, 0.05, 3, random_start=False)(weight, x, y)
    torch.testing.assert_close(
        PGD(EPS, 0.05, 3, random_start=False)(lambda z: weight(z), x, y), delta
    )
    with frozen(lambda z: z):
        pass


def test_losses_by_hand():
    z = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 5.0]])
    y = torch.tensor([1, 0])
    torch.testing.assert_close(margin_loss(z, y), torch.tensor([-1.0, 5.0]))
    torch.testing.assert_close(cross_entropy(z, y), z.exp().sum(1).log() - z[[0, 1], y])
    assert torch.equal(margin_loss(z, y) > 0, z.argmax(1) != y)


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
    ],
)
def test_impossible_settings_are_refused(options, name):
    with pytest.raises(ValueError, match=name):
        PGD(**options)


@pytest.mark.parametrize(
    "x, y, name",
    [
        (torch.rand(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64), "x"),
        (torch.rand(2, 1, 8, 8) + 1, torch.zeros(2, dtype=torch.int64), "box"),
        (torch.rand(2, 1, 8, 8) * torch.nan, torch.zeros(2, dtype=torch.int64), "finite"),
        (torch.ones(2, 1, 8, 8, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), "floating"),
        (torch.rand(2, 1, 8, 8), torch.zeros(3, dtype=torch.int64), "labels.*2"),
        (torch.rand(2, 1, 8, 8), torch.tensor([0, 10]), "labels.*9"),
        (torch.rand(2, 1, 8, 8), torch.tensor([-1, 1]), "labels"),
        (torch.rand(2, 1, 8, 8), torch.tensor([0.0, 1.0]), "labels.*int64"),
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
    "options, name", [({"m": 0}, "m"), ({"m": 2, "chunk": 0}, "chunk"), ({"m": 1.5}, "m")]
)
def test_impossible_restarts_are_refused(options, name, batch):
    with pytest.raises(ValueError, match=name):
        PGD().restarts(small_model(), *batch, **options)


def test_loss_must_give_one_value_a_sample(batch):
    with pytest.raises(ValueError, match="one value a sample"):
        PGD(loss=nn.CrossEntropyLoss())(small_model(), *batch)
