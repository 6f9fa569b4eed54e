"""SAM and SAMPa: the gradients they promise, at the weights they promise, of one function; and that
nothing of the model is left moved.
"""

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ddi
from ddi import MLP, PGD, SAM, Phase, SAMPa, Setting, descent_rule, digits, read_record, train
from ddi.descent import Step
from ddi.identity import as_table, flat
from ddi.sharpness import of_epoch
from ddi.state import displaced, trainable
from ddi.tables import rule_of

ATTACK = PGD(0.4, 0.2, 2)
RULES = {
    "single": {},
    "ddi": {"m": 3},
    "max": {"m": 3},
    "comb": {"m": 3},
    "mean": {"m": 2, "weight_decay": 0.3},
    "bundle": {"m": 3, "t": 0.1},
    "product": {"m": 2, "method": "chunks", "chunks": 3},
}


def batch(k=6, first=0, dtype=torch.float64):
    data = digits()
    return data.x_train[first : first + k].to(dtype), data.y_train[first : first + k]


def net(dtype=torch.float64, seed=0):
    """BatchNorm and dropout, in training mode; the first layer is frozen, so ``d`` is not all."""
    torch.manual_seed(seed)
    layers = (nn.Linear(64, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Dropout(0.5), nn.Linear(7, 10))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), *layers).to(dtype)
    for p in model[1].parameters():
        p.requires_grad_(False)
    return model


def plain(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return MLP(hidden=(6,)).to(dtype)


def draw(seed=3):
    return torch.Generator().manual_seed(seed)


def flat_of(model):
    return torch.cat([p.detach().flatten() for p in trainable(model).values()])


def moved(model, by):
    """A copy of the model elsewhere."""
    other, at = copy.deepcopy(model), 0
    for p in trainable(other).values():
        p.data += by[at : at + p.numel()].view_as(p)
        at += p.numel()
    return other


def everything(model):
    """All values and flags of a model."""
    values = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [(m.training, [p.requires_grad for p in m.parameters()]) for m in model.modules()]
    return values, flags


def equal(one, two):
    return one[1] == two[1] and all(torch.equal(one[0][key], two[0][key]) for key in one[0])


def step(rule, model, x, y, attack=ATTACK, seed=3):
    torch.manual_seed(11)  # dropout's
    return rule(model, x, y, attack, draw(seed))


@pytest.mark.parametrize(
    "make, name",
    [(plain, name) for name in RULES] + [(net, name) for name in RULES if name != "product"],
)  # (in training mode BatchNorm couples the samples of a product)
def test_sam_is_the_rule_at_the_weights_that_one_ascent_step_reaches(name, make):
    """By hand, on copies: the same masks, random starts and statistics at both places."""
    (x, y), rule = batch(), descent_rule(name, **RULES[name])
    here = step(rule, make(), x, y)
    away = moved(make(), 0.7 * here.gradient / here.gradient.norm())
    there = step(rule, away, x, y)
    found = step(SAM(rule, rho=0.7), make(), x, y)
    torch.testing.assert_close(found.gradient, there.gradient, rtol=1e-9, atol=1e-12)
    assert found.loss == here.loss
    rise = there.loss - here.loss
    assert found.diagnostics["sharpness"] == pytest.approx(rise, rel=1e-9)
    assert abs(rise) > 1e-3
    assert (there.gradient - here.gradient).norm() > 1e-2 * here.gradient.norm()


@pytest.mark.parametrize("name", RULES)
def test_without_radius_sam_is_the_rule_and_draws_as_it_does(name):
    """Exactly at 0, and in the limit; the generators stand where the rule leaves them."""
    (x, y), rule = batch(), descent_rule(name, **RULES[name])
    model, again = net(), net()
    torch.manual_seed(11)
    one = rule(model, x, y, ATTACK, first := draw())
    torch.manual_seed(11)
    two = SAM(rule, rho=0)(again, x, y, ATTACK, second := draw())
    assert torch.equal(one.gradient, two.gradient) and one.loss == two.loss
    assert torch.equal(first.get_state(), second.get_state())
    assert equal(everything(model), everything(again))
    close = [step(SAM(rule, rho=r), plain(), x, y).gradient for r in (1e-4, 1e-6)]
    exact = step(rule, plain(), x, y).gradient
    far, near = ((g - exact).norm() / exact.norm() for g in close)
    assert 0 < near < far / 30 and near < 1e-4


def test_what_a_training_pass_moves_is_moved_by_the_pass_at_the_weights_themselves():
    (x, y), rule = batch(), descent_rule("ddi", m=3)
    model, alone = net(), net()
    step(rule, alone, x, y)
    step(SAM(rule, rho=5.0), model, x, y)
    assert equal(everything(model), everything(alone))
    assert model[3].num_batches_tracked == 1
    assert not torch.equal(model[3].running_mean, net()[3].running_mean)


class Boom(Exception):
    pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("calls", [1, 2, 3, None])
@pytest.mark.parametrize("make", [SAM, SAMPa])
def test_weights_are_back_bit_for_bit_also_after_an_exception(make, calls, dtype):
    """In whichever of the calls it comes; after it, a SAMPa goes on as if it had not been."""
    (x, y), model, left = batch(dtype=dtype), net(dtype), [calls]

    def attack(model, x, y):
        if left[0] is not None:
            left[0] -= 1
            if not left[0]:
                raise Boom
        return 0.1 * torch.ones_like(x)

    options = {"rho": 0.3} | ({"lam": 0.2} if make is SAMPa else {})
    sam, weights = make(descent_rule("single"), **options), flat_of(model)
    for _ in range(3):
        before = sam.state_dict()
        try:
            sam(model, x, y, attack)
        except Boom:
            assert sam.state_dict() == before
        assert torch.equal(flat_of(model), weights)
    assert left[0] is None or left[0] <= 0
    assert all(p.grad is None for p in model.parameters())


def test_an_earlier_forward_pass_can_still_be_differentiated():
    (x, y), model = batch(), plain()
    value = nn.functional.cross_entropy(model(x), y)
    SAM(descent_rule("ddi", m=2), rho=0.5)(model, x, y, ATTACK)
    value.backward()


def test_where_the_gradient_is_zero_nothing_is_perturbed():
    (x, y), model = batch(), plain()

    def flat_rule(*arguments):
        return Step(torch.zeros(len(flat_of(model)), dtype=x.dtype), 1.0, {"norm": 0.0})

    flat_rule.penalty = None
    sam = SAM(descent_rule("single"), rho=0.5)
    object.__setattr__(sam, "rule", flat_rule)
    found = sam(model, x, y, ATTACK)
    assert torch.equal(found.gradient, torch.zeros_like(found.gradient))


@pytest.mark.parametrize("scale", [1e-25, 1e15])
def test_the_perturbation_has_its_length_at_every_scale_of_the_loss(scale):
    (x, y), lengths = batch(dtype=torch.float32), []

    def loss(logits, labels):
        return scale * nn.functional.cross_entropy(logits, labels, reduction="none")

    def attack(model, x, y):
        pairs = zip((p.detach().double() for p in model.parameters()), weights, strict=True)
        lengths.append(sum((a - b).square().sum().item() for a, b in pairs) ** 0.5)
        return torch.zeros_like(x)

    model = plain(torch.float32)
    weights = [p.detach().double() for p in model.parameters()]
    SAM(descent_rule("single", loss=loss), rho=0.5)(model, x, y, attack)
    assert lengths == [0.0, pytest.approx(0.5, rel=1e-4)]


@pytest.mark.parametrize("name", ["single", "ddi", "product"])
@pytest.mark.parametrize("lam, t", [(0.0, 0.3), (0.2, 0.3), (1.0, 0.7)])
def test_three_steps_of_sampa_by_hand(name, lam, t):
    """Three batches, weights that move between the calls: both gradients on copies."""
    rule, rho, model = descent_rule(name, **RULES[name]), 0.4, plain()
    sampa = SAMPa(rule, rho=rho, lam=lam, t=t)
    images, labels, g = None, None, None
    for k in range(3):
        x, y = batch(first=6 * k)
        theta = flat_of(model)
        found = step(sampa, model, x, y, seed=k)
        assert torch.equal(flat_of(model), theta)
        if k == 0:
            ahead = step(rule, moved(model, 0 * theta), x, y, seed=k)
            direction = ahead.gradient / ahead.gradient.norm()
            expected = step(rule, moved(model, rho * direction), x, y, seed=k).gradient
        else:
            ahead = step(rule, moved(model, -t * g), x, y, seed=k)
            away = step(rule, moved(model, rho * g / g.norm()), images, labels, seed=k)
            expected = (1 - lam) * away.gradient + lam * ahead.gradient
        torch.testing.assert_close(found.gradient, expected, rtol=1e-8, atol=1e-11)
        assert found.loss == pytest.approx(ahead.loss, rel=1e-9)
        images, labels, g = x, y, ahead.gradient
        for p in trainable(model).values():
            p.data -= 0.1


def test_a_copy_of_the_state_goes_on_as_the_original_and_an_empty_one_begins():
    rule, model, (x, y) = descent_rule("ddi", m=2), plain(), batch()
    one, other = (SAMPa(rule, rho=0.4, lam=0.2) for _ in range(2))
    begun = step(one, model, x, y)
    other.load_state_dict(one.state_dict())
    x_, y_ = batch(first=6)
    goes = [step(sampa, model, x_, y_).gradient for sampa in (one, other)]
    assert torch.equal(*goes)
    one.load_state_dict({})
    assert torch.equal(step(one, model, x, y).gradient, begun.gradient)
    assert not torch.equal(goes[0], step(SAM(rule, rho=0.4), model, x_, y_).gradient)


def test_another_model_begins_without_the_memory_of_the_first():
    """Of the same shapes, so that nothing else tells them apart; a wrapper is no other model."""
    rule, (x, y), (x_, y_) = descent_rule("ddi", m=2), batch(), batch(first=6)
    one, other = plain(), moved(plain(), torch.full_like(flat_of(plain()), 0.05))
    begun = step(SAMPa(rule, rho=0.4, lam=0.2), other, x_, y_).gradient
    sampa, kept = (SAMPa(rule, rho=0.4, lam=0.2) for _ in range(2))
    step(sampa, one, x, y)
    assert torch.equal(step(sampa, other, x_, y_).gradient, begun)
    step(kept, one, x, y)
    goes = step(kept, nn.Sequential(one), x_, y_).gradient
    sampa.load_state_dict({})
    step(sampa, one, x, y)
    assert torch.equal(goes, step(sampa, one, x_, y_).gradient)
    assert not torch.equal(goes, step(SAM(rule, rho=0.4), one, x_, y_).gradient)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_a_copy_of_a_model_and_its_rule_goes_on_as_they_do(copied):
    """And is itself of the copied model from its first call on, and of no model of other shapes."""
    rule, (x, y), (x_, y_) = descent_rule("ddi", m=2), batch(), batch(first=6)
    model, sampa = plain(), SAMPa(rule, rho=0.4, lam=0.2)
    step(sampa, model, x, y)
    (twin, again), (_, astray) = copied((model, sampa)), copied((model, sampa))
    goes = step(sampa, model, x_, y_).gradient
    assert torch.equal(step(again, twin, x_, y_).gradient, goes)
    assert torch.equal(step(again, twin, x, y).gradient, step(sampa, model, x, y).gradient)
    begun = step(SAM(rule, rho=0.4), model, x_, y_).gradient
    assert not torch.equal(goes, begun)
    torch.testing.assert_close(step(again, model, x_, y_).gradient, begun)
    torch.manual_seed(0)
    wider = MLP(hidden=(7,)).double()
    begun = step(SAM(rule, rho=0.4), wider, x_, y_).gradient
    torch.testing.assert_close(step(astray, wider, x_, y_).gradient, begun)


def test_a_loaded_memory_is_of_whatever_model_comes_next():
    """Also where the rule has been called with another model before."""
    rule, (x, y), (x_, y_) = descent_rule("ddi", m=2), batch(), batch(first=6)
    one, other = plain(), plain(seed=1)
    sampa, loaded = (SAMPa(rule, rho=0.4, lam=0.2) for _ in range(2))
    step(sampa, one, x, y)
    step(loaded, other, x_, y_)
    loaded.load_state_dict(sampa.state_dict())
    expected = step(sampa, one, x_, y_).gradient
    assert torch.equal(step(loaded, plain(), x_, y_).gradient, expected)


def test_what_is_remembered_is_not_what_the_caller_writes_into():
    (x, y), sampa = batch(), SAMPa(descent_rule("single"), rho=0.4, lam=0.2)
    step(sampa, plain(), x, y)
    kept = {key: value.clone() for key, value in sampa.state_dict().items()}
    x.zero_(), y.zero_()
    assert all(torch.equal(value, kept[key]) for key, value in sampa.state_dict().items())


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {"images": torch.ones(2, 3)},
        {"a": 1},
        {"images": 1, "labels": torch.tensor([1]), "gradient": torch.ones(3)},
        {"images": torch.ones(1, 3), "labels": torch.tensor([-1]), "gradient": torch.ones(3)},
        {"images": torch.ones(1, 3), "labels": torch.tensor([1]), "gradient": torch.ones(0)},
    ],
)
def test_what_is_no_state_is_refused_and_nothing_is_forgotten(state):
    (x, y), sampa = batch(), SAMPa(descent_rule("single"), rho=0.4, lam=0.2)
    step(sampa, plain(), x, y)
    with pytest.raises(ValueError, match="state"):
        sampa.load_state_dict(state)
    assert len(sampa.state_dict()) == 3
    with pytest.raises(ValueError, match="state"):
        SAM(descent_rule("single"), rho=0.4).load_state_dict({"a": 1})


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("rule", [descent_rule("single"), descent_rule("ddi", m=3)])
def test_passes_counted_are_passes_made_from_the_first_call_on(rule):
    (x, y), attack = batch(), PGD(0.1, 0.05, 5)
    for sam in (SAM(rule, rho=0.1), SAMPa(rule, rho=0.1, lam=0.2)):
        seen, model = [0], plain()
        model[1].register_full_backward_hook(
            lambda *found, n=seen: n.__setitem__(0, n[0] + len(found[2][0]))
        )
        for calls in (1, 2):
            sam(model, x, y, attack)
            assert seen[0] == len(x) * calls * sam.passes(5)
        assert sam.passes(5) == 2 * rule.passes(5) == 2 * 6 * rule.attacks


# --- in experiments, records and training ---------------------------------------------------------


def test_an_epoch_s_rule_has_its_m_and_length_and_shares_the_memory():
    pa = SAMPa(descent_rule("bundle", m=4, t=1.0), rho=0.1, lam=0.3, t=1.0)
    (x, y), model = batch(), plain()
    later = of_epoch(pa, 2, 0.25)
    assert (later.rule.m, later.rule.t, later.t, later.rho, later.lam) == (2, 0.25, 0.25, 0.1, 0.3)
    assert (pa.m, pa.t, later.name, later.chunks) == (4, 1.0, "bundle", None)
    step(later, model, x, y)
    assert pa.state_dict().keys() == {"images", "labels", "gradient"}
    sam = of_epoch(SAM(descent_rule("ddi", m=4), rho=0.1), 2, 0.25)
    assert (sam.rule.m, sam.rule.t, sam.rho) == (2, None, 0.1)
    assert of_epoch(descent_rule("single"), 3, 0.25) == descent_rule("single", m=3)


@pytest.mark.parametrize(
    "rule",
    [
        SAM(descent_rule("single"), rho=0.05),
        SAM(descent_rule("product", m=3, chunks=2), rho=0.05),
        SAMPa(descent_rule("ddi", m=2), rho=0.05, lam=0.2, t=0.3),
        SAMPa(descent_rule("bundle", m=2, t=0.3), rho=0.05, lam=0.0, t=0.3),
        descent_rule("bundle", m=2, t=0.3),
    ],
)
def test_a_rule_s_table_is_flat_and_read_back_as_the_rule(rule):
    table = as_table(rule)
    assert not any(isinstance(value, dict) for value in table.values())
    assert rule_of("rule", table, 0.7) == rule
    assert ("rho" in table) == isinstance(rule, SAM)


def test_the_length_of_sampa_is_the_learning_rate_where_it_is_not_given():
    rule = rule_of("rule", {"name": "single", "rho": "1/20", "lam": 0.2}, 0.7)
    assert rule == SAMPa(descent_rule("single"), rho=0.05, lam=0.2, t=0.7)
    bundle = rule_of("rule", {"name": "bundle", "rho": 0.1}, 0.7)
    assert bundle == SAM(descent_rule("bundle", t=0.7), rho=0.1)


@pytest.mark.parametrize(
    "table, words",
    [
        ({"rhoo": 0.1}, "rhoo is not known; did you mean rho"),
        ({"lam": 0.1}, r"needs \['rho'\]"),
        ({"rho": -1}, "rho must be a finite number >= 0, got -1"),
        ({"rho": "none"}, "rho must be a number or a fraction"),
        ({"rho": True}, "rho must be a finite number, got True"),
        ({"rho": 0.1, "lam": 2}, "lam must be a finite number with 0 <= lam <= 1, got 2"),
        ({"rho": 0.1, "t": 0.1}, 't must be given for rule "bundle"'),
        ({"rho": 0.1, "lam": 0.1, "t": 0}, "t must be a finite number > 0, got 0"),
    ],
)
def test_tables_that_make_no_sense_are_refused(table, words):
    with pytest.raises(ValueError, match=words):
        rule_of("rule", {"name": "single"} | table, 0.1)


@pytest.mark.parametrize("wrong", [SAM(descent_rule("single"), rho=0.1), "single", None])
def test_around_a_rule_and_nothing_else(wrong):
    with pytest.raises(ValueError, match="rule must be a ddi Rule"):
        SAM(wrong, rho=0.1)


QUICK = Setting(epochs=2, batch_size=50, augment=False, validation=1200, lr=0.05, momentum=0.5)
WEAK = PGD(0.1, 0.05, 1)


class Stop(Exception):
    pass


def trained(folder, rule, stop=None, seed=0, phases=(), **options):
    """A training run of a network with BatchNorm and dropout, perhaps stopped after some passes."""
    torch.manual_seed(seed)
    layers = nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 10)
    model, seen = nn.Sequential(*layers), [0]

    def count(*_):
        seen[0] += 1
        if stop and seen[0] > stop:
            raise Stop

    model.register_forward_pre_hook(count)
    setting = replace(QUICK, **options)
    phases = [replace(p, rule=rule) if p.rule is None else p for p in phases]
    data = digits()
    return train(model, data, rule, WEAK, setting, folder, WEAK, phases, checkpoint_every=1), seen[
        0
    ]


@pytest.mark.parametrize("stop", [9, 17, 30])
def test_a_run_with_sampa_that_is_interrupted_is_the_uninterrupted_one(tmp_path, stop):
    """Bit for bit, within an epoch and across; the run begins with an empty memory."""
    sampa = SAMPa(descent_rule("ddi", m=2), rho=0.2, lam=0.2)
    whole, passes = trained(tmp_path / "whole", sampa)
    with pytest.raises(Stop):
        trained(tmp_path / "run", sampa, stop)
    other = SAMPa(descent_rule("ddi", m=2), rho=0.2, lam=0.2)
    resumed, again = trained(tmp_path / "run", other)
    assert passes > 40 and 0 < again < passes - stop / 2
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    one, two = (read_record(tmp_path / name).metrics for name in ("whole", "run"))
    for key in one.keys() - {"seconds"}:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)


def test_a_run_begins_with_an_empty_memory_and_counts_its_passes(tmp_path):
    sampa = SAMPa(descent_rule("single"), rho=0.2, lam=0.2)
    first, _ = trained(tmp_path / "one", sampa)
    second, _ = trained(tmp_path / "two", sampa)
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
    record = read_record(tmp_path / "one")
    steps = record.metrics["step"][-1]
    assert record.metrics["passes"][-1] == steps * 2 * (1 + 1)
    assert not sampa.state_dict()  # nor does it leave anything behind


def test_the_auxiliary_point_follows_the_learning_rate_and_a_phase_begins_without_memory(
    tmp_path, monkeypatch
):
    seen = []
    call = SAMPa.__call__

    def spied(self, *arguments):
        seen.append((self.t, bool(self.state_dict())))
        return call(self, *arguments)

    monkeypatch.setattr(SAMPa, "__call__", spied)
    sampa = SAMPa(descent_rule("single"), rho=0.2, lam=0.2)
    later = [Phase(0.5, sampa, PGD(0.05, 0.05, 1))]
    trained(tmp_path / "run", sampa, phases=later, epochs=2, milestones=(0.5,), epoch_steps=2)
    length = pytest.approx(0.005)
    assert seen == [(0.05, False), (0.05, True), (length, False), (length, True)]
    assert not sampa.state_dict()  # the caller's own


@pytest.mark.parametrize(
    "here",
    [
        SAM(descent_rule("single"), rho=0.3),
        SAMPa(descent_rule("single"), rho=0.2, lam=0.2),
        descent_rule("single"),
    ],
)
def test_runs_with_another_perturbation_are_told_apart(tmp_path, here):
    trained(tmp_path / "run", SAM(descent_rule("single"), rho=0.2), epoch_steps=1)
    with pytest.raises(FileExistsError, match=r"rule\.(rho|lam)"):
        trained(tmp_path / "run", here, epoch_steps=1)


def test_an_experiment_names_them_and_a_record_is_such_a_file(tmp_path):
    (tmp_path / "a.toml").write_text(
        """
        data = "digits"
        [model]
        name = "MLP"
        hidden = [4]
        [setting]
        epochs = 1
        epoch_steps = 2
        validation = 1200
        [arms.sgd]
        [arms.sam]
        rule = { rho = 0.05 }
        [arms.sampa]
        rule = { rho = 0.05, lam = 0.2 }
        """
    )
    runs = {run.arm: run for run in ddi.read_experiment(tmp_path / "a.toml", ["rule.m=3"])}
    assert runs["sgd"].rule == descent_rule("single", m=3)
    assert runs["sam"].rule == SAM(descent_rule("single", m=3), rho=0.05)
    assert runs["sampa"].rule == SAMPa(descent_rule("single", m=3), rho=0.05, lam=0.2, t=0.1)
    (run,) = ddi.read_experiment(tmp_path / "a.toml", ["rule.rho=1/2"], ["sampa"])
    assert run.rule.rho == 0.5
    run.train(digits(), tmp_path / "out")
    (again,) = ddi.read_experiment(run.folder(tmp_path / "out") / "config.toml")
    assert flat(as_table(again.rule)) == flat(as_table(run.rule))
    with pytest.raises(FileExistsError):  # it is known to be that run
        again.train(digits(), tmp_path / "out")


def test_the_lecture_s_experiment_runs_on_digits_by_the_overrides_that_it_names(tmp_path):
    """At tiny size: every arm ends with a record, of clean training, with the passes it says."""
    path = Path(__file__).parents[1] / "experiments" / "sam.toml"
    named = path.read_text(encoding="utf-8").partition("sam.toml ")[2].partition("\n\n")[0]
    words = [word for word in named.replace("#", " ").split() if word != "seeds=1"]
    assert "data=digits" in words and any(w.startswith("setting.epochs=") for w in words)
    tiny = [*words, "setting.epochs=2", "setting.epoch_steps=3", "setting.evaluate_every=2"]
    runs = {run.arm: run for run in ddi.read_experiment(path, tiny, seeds=1)}
    assert list(runs) == ["sgd", "sgd-normalised", "sgd-long", "sam", "sampa"]
    assert runs["sampa"].rule == SAMPa(descent_rule("single"), rho=0.1, lam=0.2, t=0.1)
    full = {run.arm: run.setting.epochs for run in ddi.read_experiment(path)}
    assert full["sgd-long"] == 2 * full["sam"] == 2 * full["sgd"]
    for arm, run in runs.items():
        run.train(digits(), tmp_path)
        record = read_record(run.folder(tmp_path))
        assert record.complete and record.metrics["robust"][-1] == record.metrics["clean"][-1]
        assert record.metrics["passes"][-1] == 6 * (4 if arm in ("sam", "sampa") else 2)


def test_displaced_is_over_the_trainable_parameters():
    model = net()
    with pytest.raises(ValueError, match="flat must be"), displaced(model, torch.ones(3)):
        pass
    weights, whole = flat_of(model), model[1].weight.clone()
    by = torch.randn(len(weights), dtype=weights.dtype, generator=draw())
    with displaced(model, by):
        assert torch.equal(flat_of(model), weights + by) and torch.equal(model[1].weight, whole)
    assert torch.equal(flat_of(model), weights)


@pytest.mark.parametrize("rho", [0.3, 30.0])
def test_sharpness_is_a_difference_however_large(rho):
    (x, y), rule = batch(), descent_rule("single")
    here = step(rule, plain(), x, y)
    there = step(rule, moved(plain(), rho * here.gradient / here.gradient.norm()), x, y)
    found = step(SAM(rule, rho=rho), plain(), x, y).diagnostics["sharpness"]
    assert found == pytest.approx(there.loss - here.loss, rel=1e-9)
    assert (found > 2 * here.loss) == (rho > 1)
