"""The trainer: what it computes, and that an interrupted run is the run that was never interrupted."""

import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch

from ddi import MLP, PGD, Setting, descent_rule, digits, read_record, train

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
    assert (record.metrics["robust"] <= record.metrics["clean"]).all()
    assert record.config["rule"]["name"] == rule and record.config["setting"]["epochs"] == 3
    assert record.provenance["data"] == "digits"
    with pytest.raises(FileExistsError):
        run(tmp_path / "run", rule=rule)


@pytest.mark.parametrize("calls", [1, 7, 40, 100])
@pytest.mark.parametrize("every", [None, 3])
def test_an_interrupted_run_is_the_uninterrupted_one(tmp_path, calls, every):
    setting = replace(SHORT, momentum=0.9, augment=True)
    whole = run(tmp_path / "whole", fresh(norm="batch"), "comb", setting)
    with pytest.raises(Stop):
        run(
            tmp_path / "run",
            stopping(fresh(norm="batch"), calls),
            "comb",
            setting,
            checkpoint_every=every,
        )
    assert not read_record(tmp_path / "run").complete
    resumed = run(tmp_path / "run", fresh(norm="batch"), "comb", setting, checkpoint_every=every)
    assert same(whole, resumed)
    one, two = (read_record(tmp_path / name).metrics for name in ("whole", "run"))
    assert one.keys() == two.keys()
    assert all(
        np.array_equal(one[key], two[key], equal_nan=True) for key in one.keys() - {"seconds"}
    )


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


def test_damaged_and_foreign_checkpoints_are_named_and_the_previous_one_used(tmp_path, capsys):
    whole = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "run", stopping(fresh(), 45), checkpoint_every=2)
    newest = tmp_path / "run" / "checkpoint.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert same(run(tmp_path / "run", checkpoint_every=2), whole)
    assert "checkpoint.pt: passed over, it cannot be read" in capsys.readouterr().out
    with pytest.raises(Stop):
        run(tmp_path / "other", stopping(fresh(), 45), checkpoint_every=2)
    other = replace(SHORT, seed=1)
    assert same(run(tmp_path / "other", setting=other), run(tmp_path / "seed1", setting=other))
    assert "belongs to another run" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError, match="epoch 1, step"):
        run(tmp_path / "run", setting=replace(SHORT, lr=1e30), checkpoint_every=1)
    assert not read_record(tmp_path / "run").complete
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["state"]
    assert state["at"]["step"] >= 1


def test_kill_9_at_twenty_random_moments(tmp_path):
    """A process that checkpoints every step is killed twenty times; the run that comes of it is the
    whole one.
    """
    program = textwrap.dedent(
        """
        import os, random, signal, sys, time, torch
        from ddi import MLP, PGD, Setting, descent_rule, digits, train
        torch.set_num_threads(1)
        data = digits()
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1).step()  # what is imported late is imported once

        def run(folder, **options):
            torch.manual_seed(0)
            setting = Setting(epochs=8, batch_size=100, augment=True, validation=300, lr=0.05, momentum=0.9)
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
        run(folder)
        run(sys.argv[2])
        print(killed)
        """
    )
    folders = [str(tmp_path / name) for name in ("run", "whole")]
    done = subprocess.run([sys.executable, "-c", program, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1] == "20"
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
