"""The trainer: what it computes, and that an interrupted run is the uninterrupted one."""

import math
import os
import random
import re
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ddi
from ddi import (
    MLP,
    PGD,
    Phase,
    Rule,
    Setting,
    assign_gradient,
    crop_and_flip,
    descent_rule,
    digits,
    read_record,
    train,
)
from ddi.checkpoint import Checkpoints, load_weights
from ddi.identity import network_hash
from ddi.naming import named
from ddi.plan import phase_at
from ddi.record import AlreadyComplete

ATTACK = PGD(0.1, 0.05, 2)
SHORT = Setting(epochs=2, batch_size=100, augment=False, validation=300, lr=0.05)


def fresh(seed=0, **options):
    torch.manual_seed(seed)
    return MLP(hidden=(8,), **options)


def run(folder, model=None, rule="single", setting=SHORT, **options):
    rule_options = {"m": 2} if rule != "bundle" else {"m": 2, "t": 1.0}
    return train(
        model or fresh(),
        digits(),
        descent_rule(rule, **rule_options),
        ATTACK,
        setting,
        folder,
        **options,
    )


def same(one, two):
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )


class Stop(Exception):
    """A planted interruption."""


def stopping(model, calls):
    """Raise after so many forward passes."""
    left = [calls]

    def count(*args):
        left[0] -= 1
        if left[0] < 0:
            raise Stop

    model.register_forward_pre_hook(count)
    return model


def test_single_is_sgd_on_pgd_examples(tmp_path):
    """One epoch by hand, with the same two generators."""
    setting = replace(SHORT, epochs=1, momentum=0.9, weight_decay=0.01)
    got = run(tmp_path / "run", setting=setting)
    model, (part, _, _) = fresh(), digits().hold_out(300)
    optimiser = torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=0.01)
    batches, attacks = (torch.Generator().manual_seed(s) for s in (0, 10**6))
    order = torch.randperm(1100, generator=batches)
    for i in order.split(100):
        delta = ATTACK(model, part.x_train[i], part.y_train[i], attacks)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(
            model(part.x_train[i] + delta), part.y_train[i]
        ).backward()
        optimiser.step()
    for a, b in zip(got.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_learning_rate_schedule():
    setting = Setting()
    assert [setting.lr_at(e) for e in (0, 99, 100, 149, 150, 199)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3]
    )


@pytest.mark.parametrize("rule", ["single", "ddi", "comb", "bundle"])
def test_record_and_learning(tmp_path, rule):
    run(tmp_path / "run", rule=rule, setting=replace(SHORT, epochs=3))
    record = read_record(tmp_path / "run")
    assert record.complete and record.metrics["epoch"].tolist() == [1, 2, 3]
    assert record.metrics["train_loss"][-1] < record.metrics["train_loss"][0]
    assert (record.metrics["robust"] < record.metrics["clean"]).any()
    assert record.config["rule"]["name"] == rule and record.config["setting"]["epochs"] == 3
    assert record.provenance["data"] == "digits"
    with pytest.raises(FileExistsError):
        run(tmp_path / "run", rule=rule)


QUICK = replace(SHORT, epochs=3, epoch_steps=6, validation=60, momentum=0.9, augment=True)
WEAK = PGD(0.1, 0.1, 1)  # evaluation of runs whose accuracies do not matter


def counted(model):
    """The model, and the list of the sizes of the batches that go through it."""
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    return model, seen


def dropping():
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 10)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("calls, every", [(20, 2), (50, 4), (70, None)])
def test_an_interrupted_run_goes_on_and_is_the_uninterrupted_one(tmp_path, calls, every):
    """With BatchNorm, dropout and another global seed; from the checkpoint, not the start."""
    options = {"setting": QUICK, "evaluation": WEAK, "checkpoint_every": every}
    model, passes = counted(dropping())
    whole = run(tmp_path / "whole", model, "comb", **options)
    assert len(passes) > calls + 20
    with pytest.raises(Stop):
        run(tmp_path / "run", stopping(dropping(), calls), "comb", **options)
    assert not read_record(tmp_path / "run").complete
    model, again = counted(dropping())
    torch.manual_seed(99)
    resumed = run(tmp_path / "run", model, "comb", **options)
    assert same(whole, resumed)
    assert 0 < len(again) < len(passes) - calls / 2
    one, two = (read_record(tmp_path / name).metrics for name in ("whole", "run"))
    assert one.keys() == two.keys()
    for key in one.keys() - {"seconds"}:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)


def test_the_setting_s_seed_decides_what_the_network_draws_and_the_caller_s_generator_is_left(
    tmp_path,
):
    setting = replace(QUICK, epochs=1, augment=False)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = run(tmp_path / "a", dropping_from(before), setting=setting, evaluation=WEAK)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    two = run(tmp_path / "b", dropping_from(None), setting=setting, evaluation=WEAK)
    assert same(one, two)
    other = replace(setting, seed=1)
    assert not same(one, run(tmp_path / "c", dropping_from(None), setting=other, evaluation=WEAK))


def dropping_from(state):
    model = dropping()
    if state is not None:
        torch.random.set_rng_state(state)
    return model


def test_every_column_of_a_record_is_what_it_says(tmp_path):
    """Two epochs of ddi by hand: means over the steps, passes, accuracies in eval mode."""
    setting = replace(SHORT, epoch_steps=3, milestones=(0.5,), validation=50)
    evaluation = PGD(0.1, 0.05, 3)
    run(tmp_path / "run", dropping(), "ddi", setting, evaluation=evaluation)
    rows = read_record(tmp_path / "run").metrics
    model, (part, x, y) = dropping(), digits().hold_out(50)
    optimiser = torch.optim.SGD(model.parameters(), 0.05, weight_decay=5e-4)
    batches, attacks = (torch.Generator().manual_seed(s) for s in (0, 10**6))
    torch.manual_seed(0)
    keys = ("norm", "entropy", "gap", "cosine_mean", "cosine_min", "negative_pairs")
    for epoch in range(2):
        optimiser.param_groups[0]["lr"] = 0.05 if epoch == 0 else 0.05 * 0.1
        steps = []
        for i in torch.randperm(1350, generator=batches)[:300].split(100):
            rule = descent_rule("ddi", m=2)
            steps.append(rule(model.train(), part.x_train[i], part.y_train[i], ATTACK, attacks))
            assign_gradient(model, steps[-1].gradient)
            optimiser.step()
        state = torch.random.get_rng_state()
        first = part.x_train[:50], part.y_train[:50]
        expected = {
            "epoch": epoch + 1,
            "step": 3 * (epoch + 1),
            "passes": 3 * (epoch + 1) * (2 * 2 + 2),
            "lr": optimiser.param_groups[0]["lr"],
            "m": 2,
            "clean": (model.eval()(x).argmax(1) == y).double().mean().item(),
            "train_loss": np.mean([step.loss for step in steps]),
            **{key: np.mean([step.diagnostics[key] for step in steps]) for key in keys},
        }
        for name, (a, b) in {"robust": (x, y), "robust_train": first}.items():
            delta = evaluation(model, a, b, torch.Generator().manual_seed(0))
            stands = (model(a).argmax(1) == b) & (model(a + delta).argmax(1) == b)
            expected[name] = stands.double().mean().item()
            if name == "robust":
                each = [stands[y == c].double().mean().item() for c in range(10)]
                expected["robust_worst"] = min(each)
        torch.random.set_rng_state(state)
        for key, value in expected.items():
            assert rows[key][epoch] == pytest.approx(value, rel=1e-5, abs=1e-7), key
        assert rows.keys() - expected.keys() == {"seconds"}
    assert rows["clean"][1] != rows["robust"][1]


def test_seconds_are_of_training_and_grow_by_what_an_epoch_takes(tmp_path, monkeypatch):
    """A clock that moves one second a step."""
    clock = [0.0]
    monkeypatch.setattr("ddi.trainer.time.perf_counter", lambda: clock[0])

    class Slow(PGD):
        def restarts(self, *args, **options):
            clock[0] += 1
            return super().restarts(*args, **options)

    setting = replace(QUICK, epochs=3)
    model = fresh()
    rule = descent_rule("single")
    train(model, digits(), rule, Slow(0.1, 0.05, 1), setting, tmp_path / "run", WEAK)
    assert read_record(tmp_path / "run").metrics["seconds"].tolist() == [6, 12, 18]


def test_arms_see_the_same_batches(tmp_path):
    """Rules draw different numbers of attacks, and yet the same images in the same order."""
    seen = {}
    for rule in ("single", "ddi"):
        batches = []

        class Spy(PGD):
            def restarts(self, model, x, y, m, generator=None, batches=batches, **options):
                batches.append(x)
                return super().restarts(model, x, y, m, generator, **options)

        options = {"m": 3} if rule == "ddi" else {}
        setting = replace(SHORT, augment=True)
        train(
            fresh(),
            digits(),
            descent_rule(rule, **options),
            Spy(0.1, 0.05, 1),
            setting,
            tmp_path / rule,
        )
        seen[rule] = torch.stack(batches)
    assert torch.equal(seen["single"], seen["ddi"])


OPTIONS = {"setting": QUICK, "evaluation": WEAK, "checkpoint_every": 2}


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def interrupted(folder, calls=45):
    with pytest.raises(Stop):
        run(folder, stopping(fresh(), calls), **OPTIONS)
    return files(folder)


@pytest.mark.parametrize("damage", [lambda b: b[:1000], lambda b: b[:-400] + b[-300:], "weights"])
def test_of_a_damaged_checkpoint_the_one_before_is_used_and_kept(tmp_path, capsys, damage):
    model, passes = counted(fresh())
    whole = run(tmp_path / "whole", model, **OPTIONS)
    interrupted(tmp_path / "run")
    newest, before = (tmp_path / "run" / f"checkpoint{s}.pt" for s in ("", ".previous"))
    if damage == "weights":  # a sound file with other numbers in it: only the digest can tell
        found = torch.load(newest, weights_only=True)
        found["state"]["model"]["1.weight"][0, 0] += 1
        torch.save(found, newest)
    else:
        newest.write_bytes(damage(newest.read_bytes()))
    at = torch.load(before, weights_only=True)["state"]["at"]
    assert Checkpoints(tmp_path / "run", None).load()["at"]["step"] == at["step"]
    with pytest.raises(Stop):  # killed before it has written a good one
        run(tmp_path / "run", stopping(fresh(), 2), **OPTIONS)
    assert Checkpoints(tmp_path / "run", None).load()["at"]["step"] == at["step"]
    model, again = counted(fresh())
    assert same(run(tmp_path / "run", model, **OPTIONS), whole)
    assert 0 < len(again) < len(passes) - 20
    assert "checkpoint.pt cannot be read" in capsys.readouterr().out


def test_a_damaged_checkpoint_does_not_push_out_the_good_one_before(tmp_path):
    files = Checkpoints(tmp_path, {})
    for at in (1, 2):
        files.save({"at": at})
    files.newest.write_bytes(files.newest.read_bytes()[:100])
    again = Checkpoints(tmp_path, {})
    assert again.load() == {"at": 1}
    again.save({"at": 3})
    assert load_weights(files.newest)["state"] == {"at": 3}
    assert load_weights(files.before)["state"] == {"at": 1}
    again.save({"at": 4})
    assert load_weights(files.before)["state"] == {"at": 3}


def test_if_no_checkpoint_can_be_read_nothing_is_overwritten(tmp_path):
    interrupted(tmp_path / "run")
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (tmp_path / "run" / name).write_bytes(b"no checkpoint")
    before = files(tmp_path / "run")
    with pytest.raises(ValueError, match="move it away"):
        run(tmp_path / "run", **OPTIONS)
    after = files(tmp_path / "run")
    assert all(after[k] == before[k] for k in before if k.endswith((".pt", ".csv")))


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_checkpoint_that_runs_code_is_not_unpickled(tmp_path):
    interrupted(tmp_path / "run")
    torch.save({"state": Bomb(tmp_path / "boom")}, tmp_path / "run" / "checkpoint.pt")
    run(tmp_path / "run", **OPTIONS)
    assert not (tmp_path / "boom").exists()


def test_checkpoints_of_an_older_version_are_refused_in_words(tmp_path):
    (tmp_path / "run").mkdir()
    torch.save({"run": "{'setting': 1}", "state": {}}, tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(FileExistsError, match="older version"):
        run(tmp_path / "run", **OPTIONS)


def relu():
    torch.manual_seed(0)
    return MLP(hidden=(8,), activation="relu")


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        torch.manual_seed(0)
        self.scale, self.body = scale, MLP(hidden=(8,))

    def forward(self, x):
        return self.scale * self.body(x)


def other_label():
    data = digits()
    data.y_train[3] = (data.y_train[3] + 1) % 10
    return data


def halved(logits, labels):
    return nn.functional.cross_entropy(logits, labels, reduction="none") / 2


OTHER = {
    "network": ({"model": relu}, "network is another"),
    "plain attribute": ({"model": lambda: Scaled(2.0)}, "network is another"),
    "data": ({"data": other_label}, "data_sha256"),
    "dtype": ({"double": True}, "dtype is 'float32' there and 'float64' here"),
    "fewer epochs": ({"setting": replace(QUICK, epochs=2)}, "setting.epochs is 3 there and 2 here"),
    "seed": ({"setting": replace(QUICK, seed=1)}, "setting.seed is 0 there and 1 here"),
    "rule": ({"rule": descent_rule("ddi", m=2)}, "rule.name is 'single' there and 'ddi' here"),
    "loss": ({"rule": descent_rule("single", loss=halved)}, "rule.loss .*halved"),
    "attack": ({"attack": PGD(0.1, 0.05, 3)}, "attack.steps is 2 there and 3 here"),
    "box": ({"attack": PGD(0.1, 0.05, 2, box=None)}, "attack.box"),
    "evaluation": ({"evaluation": PGD(0.1, 0.1, 2)}, "evaluation.steps"),
    "phases": ({"phases": [Phase(0.5, descent_rule("single"), ATTACK)]}, "phases.0.start"),
    "about": ({"about": {"model": {"name": "A"}}}, "model.name"),
}


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.parametrize("complete", [True, False])
def test_another_run_is_told_apart_and_nothing_of_the_first_is_touched(tmp_path, name, complete):
    def go(model=fresh, data=digits, double=False, **other):
        plan = {"rule": descent_rule("single"), "attack": ATTACK, "setting": QUICK}
        data, model = data(), model()
        if double:
            data, model = data.to(dtype=torch.float64), model.double()
        options = plan | {"evaluation": WEAK, "checkpoint_every": 2} | other
        return train(model, data, folder=tmp_path / "run", **options)

    first = (lambda: Scaled(1.0)) if name == "plain attribute" else fresh
    if complete:
        go(first)
    else:
        with pytest.raises(Stop):
            go(lambda: stopping(first(), 45))
    before = files(tmp_path / "run")
    changes, message = OTHER[name]
    with pytest.raises(FileExistsError, match=message) as caught:
        go(**changes)
    assert not isinstance(caught.value, AlreadyComplete)
    assert files(tmp_path / "run") == before
    if not complete:  # config.toml lost: the checkpoint knows whose it is
        for lost in ("config.toml", "provenance.json"):
            (tmp_path / "run" / lost).unlink()
        kept = files(tmp_path / "run")
        with pytest.raises(FileExistsError, match=message):
            go(**changes)
        assert files(tmp_path / "run").items() >= kept.items()


def test_two_at_once_and_one_dead(tmp_path):
    """A second process is refused; a killed one leaves no lock."""
    program = (
        "import os, sys; from pathlib import Path; from ddi.checkpoint import Lock\n"
        "Lock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FileExistsError, match="in use"):
            run(tmp_path, **OPTIONS)
        assert files(tmp_path) == {}
        holder.kill()
    run(tmp_path, **OPTIONS)
    with pytest.raises(AlreadyComplete):
        run(tmp_path, **OPTIONS)


EVERY_RULE = {
    **{name: {"m": 2} for name in ("max", "mean", "min", "ddi", "comb", "product")},
    "single": {},
    "bundle": {"m": 2, "t": 1.0},
}


@pytest.mark.parametrize("name", EVERY_RULE)
def test_a_run_that_diverges_says_so_under_every_rule(tmp_path, name):
    rule, setting = descent_rule(name, **EVERY_RULE[name]), replace(QUICK, lr=1e30)
    with pytest.raises(FloatingPointError, match="epoch 1, step 2"):
        train(fresh(), digits(), rule, ATTACK, setting, tmp_path / "run", WEAK, checkpoint_every=1)
    assert not read_record(tmp_path / "run").complete
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["state"]
    assert state["at"]["step"] == 1


@pytest.mark.parametrize(
    "spoiled", [{"loss": math.inf}, {"gradient": torch.full((610,), math.inf)}]
)
def test_a_step_that_is_not_finite_is_not_taken(tmp_path, spoiled):
    """Whatever a rule of one's own returns."""

    class Wild(Rule):
        def __call__(self, *args):
            return replace(super().__call__(*args), **spoiled)

    model = fresh()
    with pytest.raises(FloatingPointError, match="epoch 1, step 1"):
        train(model, digits(), Wild("single"), ATTACK, QUICK, tmp_path / "run", WEAK)
    assert same(model, fresh())


def test_the_running_statistics_are_averaged_after_every_step(tmp_path, monkeypatch):
    """What the averaging over the processes makes of them is what the run goes on with."""
    seen = []

    def average(model):
        seen.append(model[2].num_batches_tracked.item())
        model[2].running_mean.zero_()

    monkeypatch.setattr("ddi.trainer.average_buffers", average)
    model = run(tmp_path / "run", dropping(), setting=replace(QUICK, epochs=1), evaluation=WEAK)
    assert seen == [1, 2, 3, 4, 5, 6] and (model[2].running_mean == 0).all()


def test_other_mistakes_are_not_called_divergence(tmp_path):
    def wrong(model, x, y):
        raise ValueError("my own mistake")

    with pytest.raises(ValueError, match="my own mistake"):
        train(fresh(), digits(), descent_rule("single"), wrong, QUICK, tmp_path / "run", WEAK)


@pytest.mark.parametrize("steps", [1, 2])
def test_the_last_step_may_not_leave_weights_that_are_not_finite(tmp_path, steps):
    setting = replace(QUICK, epochs=1, epoch_steps=steps, lr=3e38, weight_decay=0.0, momentum=0.0)
    with pytest.raises(FloatingPointError):
        run(tmp_path / "run", rule="mean", setting=setting)
    assert not read_record(tmp_path / "run").complete


@pytest.mark.parametrize("epochs", [7, 90, 100, 200])
def test_shares_of_the_epochs_fall_in_their_epoch_exactly(epochs):
    for k in range(1, epochs):
        setting = Setting(epochs=epochs, lr=1.0, milestones=(k / epochs,))
        assert [setting.lr_at(e) for e in (k - 1, k)] == [1.0, pytest.approx(0.1)]
        plan = [Phase(k / epochs, descent_rule("ddi"), ATTACK)]
        plan.append(Phase(0.0, descent_rule("single"), ATTACK))
        names = [phase_at(plan, setting, e).rule.name for e in (k - 1, k)]
        assert names == ["single", "ddi"]


def test_phases_may_come_in_any_order_and_bundles_length_follows_the_rate(tmp_path):
    """The rules that are called, epoch by epoch."""
    seen = []

    class Spy(Rule):
        def __call__(self, *args):
            seen.append((self.name, self.m, self.t))
            return super().__call__(*args)

    def phase(start, name, m):
        return Phase(start, Spy(name, m=m, t=9.0 if name == "bundle" else None), ATTACK)

    setting = replace(SHORT, epochs=4, epoch_steps=1, validation=50, milestones=(0.75,))
    phases = [phase(0.5, "bundle", 3), phase(0.25, "mean", 2)]
    train(fresh(), digits(), Spy("single"), ATTACK, setting, tmp_path / "run", WEAK, phases)
    assert seen[:2] == [("single", 10, None), ("mean", 2, None)]
    assert seen[2:] == [("bundle", 3, 0.05), ("bundle", 3, pytest.approx(0.005))]
    config = read_record(tmp_path / "run").config
    assert [p["start"] for p in config["phases"]] == [0.25, 0.5]


class Jumpy(nn.Module):
    """Skips a layer and scales another by Python's and NumPy's numbers, and moves a buffer that
    its ``state_dict`` does not hold.
    """

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(64, 64), nn.Linear(64, 10)
        self.register_buffer("centre", torch.zeros(64), persistent=False)

    def forward(self, x):
        x = x.flatten(1)
        if self.training:
            self.centre.mul_(0.9).add_(0.1 * x.detach().mean(0))
            x = x * np.random.uniform(0.5, 1.5)
        if not self.training or random.random() < 0.5:
            x = torch.relu(self.one(x))
        return self.two(x - self.centre)


def test_foreign_generators_and_unsaved_buffers_are_of_the_run_and_in_its_checkpoint(
    tmp_path, monkeypatch
):
    uniform, draws = np.random.uniform, []

    def trained(folder, outside, stop=None):
        torch.manual_seed(0)
        model = Jumpy()
        random.seed(outside), np.random.seed(outside)
        expected = random.Random(outside).random(), np.random.RandomState(outside).uniform()

        def counted(*bounds):  # one draw a step
            draws.append(bounds)
            if len(draws) == stop:
                raise KeyboardInterrupt
            return uniform(*bounds)

        draws.clear()
        monkeypatch.setattr(np.random, "uniform", counted)
        setting = replace(QUICK, epochs=2, epoch_steps=4)
        with pytest.raises(KeyboardInterrupt) if stop else nullcontext():
            train(
                model, digits(), descent_rule("single"), WEAK, setting, folder, checkpoint_every=1
            )
        assert (random.random(), uniform()) == expected
        return {**model.state_dict(), "centre": model.centre}

    whole = trained(tmp_path / "whole", 1)
    assert whole["centre"].abs().max() > 0
    trained(tmp_path / "cut", 2, stop=7)
    for key, value in trained(tmp_path / "cut", 3).items():
        assert torch.equal(value, whole[key]), key


class Restless(Jumpy):
    """Draws Python's, NumPy's and torch's numbers in eval mode too."""

    def forward(self, x):
        if not self.training:
            x = x * (1 + 0.1 * (random.random() + np.random.uniform() + torch.rand(())))
        return super().forward(x)


def restless(model, x, y):
    return 0.1 * random.random() * np.random.uniform() * torch.rand_like(x)


@pytest.mark.parametrize("kind, evaluation", [(Restless, WEAK), (Jumpy, restless)])
def test_the_numbers_that_validation_draws_are_none_of_the_training_run(tmp_path, kind, evaluation):
    """The weights are the same however often they are evaluated."""
    found = {}
    for every in (1, 3):
        torch.manual_seed(0)
        model = kind()
        model.dropout = nn.Dropout(0.5)
        model.one = nn.Sequential(model.one, model.dropout)  # of torch's own numbers
        setting = replace(QUICK, epochs=3, epoch_steps=2, evaluate_every=every)
        rule, folder = descent_rule("single"), tmp_path / str(every)
        found[every] = train(model, digits(), rule, WEAK, setting, folder, evaluation)
        assert len(read_record(folder).metrics["robust"]) == 3 // every
    assert same(found[1], found[3])


def test_a_state_dict_without_arguments_is_enough_for_a_checkpoint(tmp_path):
    """A buffer that it leaves out, as one that is not persistent, is in the checkpoint besides."""

    class Own(Jumpy):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count += self.training
            return super().forward(x)

        def state_dict(self):
            return {k: v for k, v in super().state_dict().items() if k != "count"}

        def load_state_dict(self, state):
            super().load_state_dict(state, strict=False)

    setting, (one, two) = replace(QUICK, epochs=2, epoch_steps=4), (Own(), Own())
    options = descent_rule("single"), WEAK, setting, tmp_path
    one.register_forward_pre_hook(lambda *_: stop() if one.count == 6 else None)

    def stop():
        raise Stop

    with pytest.raises(Stop):
        train(one, digits(), *options, checkpoint_every=1)
    train(two, digits(), *options, checkpoint_every=1)
    assert two.count == 8 and two.centre.any()


def test_a_phase_that_starts_at_0_is_the_first_and_is_recorded_as_such(tmp_path):
    phases = [Phase(0.5, descent_rule("mean", m=2), WEAK), Phase(0, descent_rule("ddi", m=3), WEAK)]
    setting = replace(QUICK, epochs=2, epoch_steps=1)
    train(fresh(), digits(), descent_rule("single"), ATTACK, setting, tmp_path, WEAK, phases)
    record = read_record(tmp_path)
    assert record.metrics["m"].tolist() == [3, 2]
    assert record.metrics["passes"].tolist() == [3 * 2, 3 * 2 + 2 * 2]  # WEAK has one step
    config = record.config
    assert (config["rule"]["name"], config["attack"]["steps"]) == ("ddi", WEAK.steps)
    assert [phase["rule"]["name"] for phase in config["phases"]] == ["mean"]


@pytest.mark.parametrize(
    ("epochs", "starts", "words"),
    [
        (4, (0.5, 0.5), "starts 0.5 and 0.5, which are both epoch 3 of 4"),
        (4, (0, 0.25, 0), "starts 0.0 and 0.0, which are both epoch 1 of 4"),
        (4, (0.3, 0.4), "starts 0.3 and 0.4, which are both epoch 3 of 4"),
        (4, (1e-9,), "starts 0.0 and 1e-09, which are both epoch 1 of 4"),
        (2, (0.9,), "at 1 of 2 epochs, got the start 0.9"),
        (1, (0.5,), "at 0 of 1 epochs, got the start 0.5"),
    ],
)
def test_a_phase_without_an_epoch_is_refused_before_anything_is_made(
    tmp_path, epochs, starts, words
):
    phases = [Phase(start, descent_rule("ddi"), WEAK) for start in starts]
    setting = replace(QUICK, epochs=epochs)
    with pytest.raises(ValueError, match=f"^phases .*{words}"):
        run(tmp_path / "run", setting=setting, phases=phases)
    assert not (tmp_path / "run").exists()


def test_augmentation_reaches_the_attack_from_the_setting_s_generator(tmp_path):
    seen = []

    def attack(model, x, y):
        seen.append(x.clone())
        return torch.zeros_like(x)

    for augment in (False, True):
        setting = replace(QUICK, epochs=1, epoch_steps=1, augment=augment)
        train(
            fresh(),
            digits(),
            descent_rule("single"),
            attack,
            setting,
            tmp_path / str(augment),
            WEAK,
        )
    data, draw = digits().hold_out(60)[0], torch.Generator().manual_seed(0)
    plain = data.x_train[torch.randperm(1340, generator=draw)[:100]]
    assert torch.equal(seen[0], plain)
    assert torch.equal(seen[1], crop_and_flip(plain, generator=draw))
    assert not torch.equal(seen[1], plain)


def test_the_test_set_is_not_touched(tmp_path):
    """Poisoned with NaN, it changes nothing."""
    whole = run(tmp_path / "whole", **OPTIONS)
    data = digits()
    poisoned = replace(data, x_test=data.x_test.clone())
    poisoned.x_test.fill_(math.nan)  # afterwards, since no data set is made of NaN
    rule = descent_rule("single")
    got = train(fresh(), poisoned, rule, ATTACK, QUICK, tmp_path / "run", WEAK)
    assert same(whole, got)
    one, two = (read_record(tmp_path / name).metrics["robust"] for name in ("whole", "run"))
    assert one.tolist() == two.tolist()


def test_the_default_evaluation_is_in_the_set_of_the_attack(tmp_path):
    setting = replace(QUICK, epochs=1, epoch_steps=1)
    for name, box in (("box", (-1.0, 2.0)), ("none", None)):
        attack = PGD(0.4, 0.3, 1, norm="L2", box=box)
        train(fresh(), digits(), descent_rule("single"), attack, setting, tmp_path / name)
        config = read_record(tmp_path / name).config
        assert (
            config["evaluation"] | {"norm": "L2", "eps": 0.4, "alpha": 0.1, "steps": 20}
            == (config["evaluation"])
        )
        expected = "none" if box is None else list(box)
        assert config["evaluation"]["box"] == config["attack"]["box"] == expected
    with pytest.raises(ValueError, match="evaluation must be given"):
        train(
            fresh(), digits(), descent_rule("single"), lambda m, x, y: x, setting, tmp_path / "own"
        )


def smooth(logits, labels):
    return nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)


LOSSES = {
    "function": (smooth, r"test_trainer\.smooth#[0-9a-f]{8}$"),
    "partial": (
        partial(nn.functional.cross_entropy, reduction="none", label_smoothing=0.1),
        r"partial\(torch.nn.functional.cross_entropy, label_smoothing=0.1, reduction='none'\)",
    ),
    "module": (
        nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1),
        r"CrossEntropyLoss\(.*label_smoothing=0.1, reduction='none'\)",
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_any_loss_is_recorded_by_name(tmp_path, name):
    loss, expected = LOSSES[name]
    setting, attack = replace(QUICK, epochs=1, epoch_steps=1), PGD(0.1, 0.05, 1, loss=loss)
    train(fresh(), digits(), descent_rule("single", loss=loss), attack, setting, tmp_path / "run")
    config = read_record(tmp_path / "run").config
    assert re.search(expected, config["rule"]["loss"])
    assert config["attack"]["loss"] == config["rule"]["loss"]


def test_functions_of_one_name_are_told_apart():
    def make(k):
        def loss(z, y):
            return k * z

        return loss

    def one():
        def loss(z, y):
            return z + 1

        return loss

    assert named(make(1)) == named(make(1)) != named(make(2))
    assert named(one()).split("#")[1] != named(make(1)).split("#")[1]


def a_network(forward=lambda self, z: z.flatten(1) @ self.w, **held):
    """A network of a user's, whose class has always the same name."""

    def __init__(self):
        nn.Module.__init__(self)
        self.w = nn.Parameter(torch.zeros(64, 10))
        self.register_buffer("mean", held.pop("mean", torch.zeros(3)), persistent=False)
        vars(self).update(held)

    return type("Users", (nn.Module,), {"__init__": __init__, "forward": forward})()


def test_all_that_decides_a_network_of_ones_own_is_in_its_identity():
    def powers(k):
        return lambda self, z: (z**k).flatten(1) @ self.w

    others = [
        a_network(),
        a_network(powers(2)),
        a_network(powers(3)),
        a_network(lambda self, z: z.flatten(1) @ self.w + 1),
        a_network(_slope=0.1),
        a_network(_slope=0.2),
        a_network(scales=[1.0, 2.0]),
        a_network(scales=[1.0, 3.0]),
        a_network(table={"a": 1}),
        a_network(act=lambda z: z + 1),
        a_network(act=lambda z: z + 2),
        a_network(mean=torch.ones(3)),
        a_network(shift=torch.ones(3)),
        nn.LeakyReLU(0.1),
        nn.LeakyReLU(0.2),
        nn.Dropout(0.1),
        nn.Dropout(0.2),
    ]
    assert len({network_hash(other) for other in others}) == len(others)
    assert network_hash(a_network(powers(2))) == network_hash(a_network(powers(2)))
    moved = a_network()
    moved.eval().w.data += 1
    assert network_hash(moved) == network_hash(a_network())


def test_a_network_s_identity_is_the_same_in_every_process(tmp_path):
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "class Own(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.kinds, self._by = {'a', 'b', 'c'}, object()\n"
        "    def forward(self, z, how='a', by=object()):\n"
        "        return z if how in {'a', 'b', 'c', 'd'} else -z\n"
    )
    code = "import own; from ddi.identity import network_hash; print(network_hash(own.Own()))"
    path = os.pathsep.join([str(tmp_path), str(Path(ddi.__file__).parents[1])])
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(seen) == 1


def test_a_plain_callable_is_an_attack_in_training_and_evaluation(tmp_path):
    def away(model, x, y):
        return 0.1 * (0.5 - x).sign()

    setting = replace(QUICK, epochs=1, epoch_steps=2, augment=False, momentum=0.0)
    model = train(fresh(), digits(), descent_rule("single"), away, setting, tmp_path / "a", away)
    record = read_record(tmp_path / "a")
    assert "away" in record.config["attack"]["callable"]
    _, x, y = digits().hold_out(60)
    stands = (model(x).argmax(1) == y) & (model(x + away(model, x, y)).argmax(1) == y)
    assert record.metrics["robust"][0] == pytest.approx(stands.double().mean().item())
    assert np.isnan(record.metrics["passes"][0])  # it does not say how many it takes


def test_numpy_numbers_become_plain_ones_and_the_run_goes_on(tmp_path):
    setting = replace(QUICK, lr=np.float32(0.05), epochs=np.int64(3), augment=np.bool_(True))
    assert [type(v) for v in (setting.lr, setting.epochs, setting.augment)] == [float, int, bool]
    model, passes = counted(stopping(fresh(), 45))
    with pytest.raises(Stop):
        run(tmp_path / "run", model, **OPTIONS | {"setting": setting})
    run(tmp_path / "run", **OPTIONS | {"setting": setting})
    assert read_record(tmp_path / "run").complete


def test_the_dtype_is_recorded(tmp_path):
    data = digits().to(dtype=torch.float64)
    setting = replace(QUICK, epochs=1, epoch_steps=1)
    rule = descent_rule("single")
    train(fresh().double(), data, rule, ATTACK, setting, tmp_path / "run", WEAK)
    assert read_record(tmp_path / "run").provenance["dtype"] == "float64"


def test_frozen_parameters_stay_and_decide(tmp_path):
    model = fresh()
    model[1].bias.requires_grad_(False)
    source = network_hash(model)
    assert source == network_hash(fresh())
    with pytest.raises(Stop):
        run(tmp_path / "run", stopping(fresh(), 45), **OPTIONS)
    with pytest.raises(FileExistsError, match="frozen"):
        run(tmp_path / "run", model, **OPTIONS)


def test_kill_9_at_twenty_random_moments(tmp_path):
    """A process that checkpoints every step is killed twenty times; the run that comes of it is the
    whole one.
    """
    program = textwrap.dedent(
        """
        import os, random, signal, sys, time, torch
        from pathlib import Path
        from ddi.checkpoint import Checkpoints
        from ddi import MLP, PGD, Setting, descent_rule, digits, train
        torch.set_num_threads(1)
        data = digits()
        # what is imported late is imported once
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1).step()

        def run(folder, **options):
            torch.manual_seed(0)
            setting = Setting(
                epochs=8, batch_size=100, validation=300, lr=0.05, momentum=0.9)
            rule, attack = descent_rule("ddi", m=2), PGD(0.1, 0.05, 2)
            train(MLP(hidden=(8,), norm="batch"), data, rule, attack, setting, folder, **options)

        def reached(folder):
            try:
                return os.stat(folder + "/checkpoint.pt").st_mtime_ns
            except FileNotFoundError:  # none yet, or just between two renamings
                return None

        folder, draw, killed = sys.argv[1], random.Random(0), 0
        for _ in range(20):
            before, child = reached(folder), os.fork()
            if not child:
                run(folder, checkpoint_every=1)
                os._exit(0)
            while reached(folder) in (None, before) and not os.waitpid(child, os.WNOHANG)[0]:
                time.sleep(0.0005)
            time.sleep(draw.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        at = Checkpoints(Path(folder), None).load()["at"]
        run(folder)
        run(sys.argv[2])
        print(killed, at["epoch"] * 11 + at["step"])
        """
    )
    folders = [str(tmp_path / name) for name in ("run", "whole")]
    done = subprocess.run([sys.executable, "-c", program, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    killed, steps = map(int, done.stdout.split()[-2:])
    assert killed == 20 <= steps  # every process went on by a step at least
    states = [
        torch.load(f"{folder}/checkpoint.pt", weights_only=True)["state"]["model"]
        for folder in folders
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    one, two = (read_record(folder).metrics for folder in folders)
    assert all(
        np.array_equal(one[key], two[key], equal_nan=True) for key in one.keys() - {"seconds"}
    )


@pytest.mark.parametrize(
    "options, name",
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"lr": 0.0}, "lr"),
        ({"momentum": -1.0}, "momentum"),
        ({"milestones": (0.5, 1.5)}, "milestones"),
        ({"validation": True}, "validation"),
        ({"milestones": 0.5}, "milestones"),
        ({"milestones": ("0.5",)}, "milestones"),
        ({"augment": "false"}, "augment"),
        ({"augment": 1}, "augment"),
        ({"lr": math.nan}, "lr"),
        ({"lr": "0.1"}, "lr"),
        ({"seed": -1}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"m_end": 0}, "m_end"),
        ({"epoch_steps": 0}, "epoch_steps"),
        ({"weight_decay": None}, "weight_decay"),
    ],
)
def test_impossible_settings_are_refused(options, name):
    with pytest.raises(ValueError, match=name):
        Setting(**options)


def test_weight_decay_acts_in_one_place(tmp_path):
    rule = descent_rule("ddi", m=2, weight_decay=0.1)
    with pytest.raises(ValueError, match="weight_decay"):
        train(fresh(), digits(), rule, ATTACK, SHORT, tmp_path / "run")
    train(fresh(), digits(), rule, ATTACK, replace(SHORT, weight_decay=0.0), tmp_path / "run")
    assert read_record(tmp_path / "run").config["rule"]["weight_decay"] == 0.1


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match="batch_size"):
        run(tmp_path / "run", setting=replace(SHORT, batch_size=5000))
