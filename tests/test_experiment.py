"""Experiments as TOML files, the command line, phases and schedules, and several processes for one
batch.
"""

import importlib.util
import json
import os
import runpy
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ddi import (
    FAST,
    MLP,
    PGD,
    Phase,
    Setting,
    descent_rule,
    digits,
    read_experiment,
    read_record,
    robust_accuracy,
    train,
)
from ddi.__main__ import main
from ddi.trainer import plain

FILES = sorted((Path(__file__).parents[1] / "experiments").glob("*.toml"))
TINY = """
data = "digits"
[model]
name = "MLP"
hidden = [8]
[setting]
epochs = 2
batch_size = 100
augment = false
validation = 300
[attack]
eps = "1/10"
alpha = 0.05
steps = 2
[arms.pgd]
[arms.ddi]
rule = { name = "ddi", m = 2 }
[arms.later]
attack = { kind = "FAST" }
phases = [{ start = 0.5, attack = { kind = "PGD", schedule = "inverse_time(3)" }, rule = { name = "bundle", m = 3 } }]
"""


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path / "tiny.toml"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_books_files_are_sound_and_their_arms_paired(path):
    runs = read_experiment(path)
    assert len({run.name for run in runs}) == len(runs)
    seeds = {run.setting.seed for run in runs}
    assert {(run.arm, run.setting.seed) for run in runs} == {
        (run.arm, seed) for run in runs for seed in seeds
    }
    assert len({(run.evaluation, run.data, run.setting.batch_size) for run in runs}) == 1
    assert runs[0].evaluation.steps == 20


def test_the_defaults_are_the_papers_setting():
    run = next(
        run for run in read_experiment(FILES[0].parent / "figure4-left.toml") if run.arm == "ddi"
    )
    assert run.setting == Setting() and run.rule == descent_rule("ddi", m=10)
    assert (run.setting.epochs, run.setting.lr, run.setting.momentum, run.setting.weight_decay) == (
        200,
        0.1,
        0.0,
        5e-4,
    )
    assert run.attack == PGD(8 / 255, 2 / 255, 7) and run.evaluation == PGD(8 / 255, 2 / 255, 20)
    assert run.model == {"name": "ResNet18"}


def test_tables_are_laid_over_the_base_and_replaced_by_another_kind(tiny):
    pgd, ddi, later = read_experiment(tiny)
    assert (
        pgd.attack == ddi.attack == PGD(0.1, 0.05, 2)
        and pgd.rule.name == "single"
        and ddi.rule.m == 2
    )
    assert later.attack == FAST(0.1)  # the base's eps, and the alpha of FAST
    (phase,) = later.phases
    assert (
        phase.start == 0.5
        and phase.rule == descent_rule("bundle", m=3, t=0.1)
        and phase.attack.eps == 0.1
    )
    assert later.evaluation == pgd.evaluation
    assert [phase.attack.schedule(step) for step in (1, 3, 4, 12)] == [1, 1, 1 / 2, 1 / 10]
    assert pgd.evaluation == PGD(0.1, 0.05, 20)


def test_overrides_are_stronger_than_files_and_arms_and_flags_are_overrides(tiny):
    overrides = [
        "rule.m=7",
        "setting.lr=0.3",
        "attack.eps=1/5",
        "model.activation=relu",
        "seeds=[3,5]",
    ]
    runs = read_experiment(tiny, overrides, ["ddi"], epochs=9)
    assert [run.name for run in runs] == ["ddi-seed3", "ddi-seed5"]
    assert all(
        run.rule.m == 7 and run.setting.lr == 0.3 and run.setting.epochs == 9 for run in runs
    )
    assert all(run.attack.eps == 0.2 and run.model["activation"] == "relu" for run in runs)
    assert [run.setting.seed for run in read_experiment(tiny, arms=["pgd"], seeds=2)] == [0, 1]


def test_a_grid_multiplies_the_arms(tmp_path, tiny):
    tiny.write_text('grid = { "setting.lr" = [0.1, 1.0], "rule.m" = [2, 3] }\n' + TINY)
    runs = read_experiment(tiny, arms=["ddi"])
    assert [run.arm for run in runs] == [
        "ddi-lr0.1-m2",
        "ddi-lr0.1-m3",
        "ddi-lr1.0-m2",
        "ddi-lr1.0-m3",
    ]
    assert [(run.setting.lr, run.rule.m) for run in runs] == [
        (0.1, 2),
        (0.1, 3),
        (1.0, 2),
        (1.0, 3),
    ]
    (point,) = read_experiment(tiny, arms=["ddi-lr1.0-m2"])
    assert (point.arm, point.setting.lr, point.rule.m) == ("ddi-lr1.0-m2", 1.0, 2)


@pytest.mark.parametrize(
    "change, message",
    [
        ("setting.lrr=1", "did you mean lr"),
        ("seting.lr=1", "overrides begin with"),
        ("setting.lr", "key=value"),
        ("setting.lr=-1", "arm pgd: lr"),
        ("setting.seed=1", "seeds="),
        ("attack.eps=8/0x", "attack.eps"),
        ("attack.schedule=cosine", "inverse_time"),
        ("attack.kind=CW", "CW is not known"),
        ("attack.loss=l1", "l1 is not known"),
        ("rule.name=best", "name must be one of"),
        ("model.name=VGG", "VGG is not known"),
        ("model.depth=3", "depth is not known"),
        ("model.activation=gelu", "activation"),
        ("seeds=0", "seeds"),
        ("seeds=1.5", "seeds"),
        ("data=nowhere", "nowhere.npz"),
    ],
)
def test_mistakes_are_refused_before_any_work(tiny, tmp_path, capsys, change, message):
    assert main(["run", str(tiny), "--out", str(tmp_path / "out"), change]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("[arms.a]\nrule = 3", "rule must be a table"),
        ("[arms.a.settings]\nlr = 3", "did you mean setting"),
        ("[arm.a]", "arm must be of the TOML type string"),
        ("rule = 3", "rule must be of the TOML type table"),
        ("phases = [{ rule = { name = 'mean' } }]", "start"),
        ("phases = [{ start = 1.5 }]", "start"),
        ("[grid]\nlr = [1]", "<table>.<key>"),
        ("[grid]\n'setting.lr' = 1", "list of values"),
        ("this is no TOML", "is not TOML"),
    ],
)
def test_files_that_make_no_sense_are_refused(tmp_path, text, message):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_experiment(tmp_path / "bad.toml")


def test_missing_files_and_arms_are_named(tiny, tmp_path):
    with pytest.raises(ValueError, match="TOML file"):
        read_experiment(tmp_path / "none.toml")
    with pytest.raises(ValueError, match="did you mean ddi"):
        read_experiment(tiny, arms=["dddi"])


def test_from_the_command_line_to_records_a_plot_and_test_accuracy(tiny, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        main(
            [
                "run",
                str(tiny),
                "--arms",
                "pgd,later",
                "--quiet",
                "--out",
                str(out),
                "setting.lr=0.2",
            ]
        )
        == 0
    )
    for arm in ("pgd", "later"):
        record = read_record(out / "tiny" / f"{arm}-seed0")
        assert record.complete and record.config["setting"]["lr"] == 0.2
        (again,) = read_experiment(
            out / "tiny" / f"{arm}-seed0" / "config.toml"
        )  # a record repeats its run
        (asked,) = read_experiment(tiny, ["setting.lr=0.2"], [arm])
        assert replace(again, phases=()) == replace(asked, phases=())
        assert [plain(phase.attack) for phase in again.phases] == [
            plain(phase.attack) for phase in asked.phases
        ]
        assert [phase.rule for phase in again.phases] == [phase.rule for phase in asked.phases]
    assert (out / "tiny" / "curves.png").stat().st_size > 10_000
    assert (
        main(["run", str(tiny), "--arms", "pgd", "--quiet", "--out", str(out), "setting.lr=0.2"])
        == 0
    )
    assert "complete, kept" in capsys.readouterr().out
    assert (
        main(["list", str(out)]) == 0 and "pgd-seed0: complete; digits" in capsys.readouterr().out
    )
    assert (
        main(["list", str(tmp_path)]) == 0
        and "3 runs on digits: pgd, ddi, later" in capsys.readouterr().out
    )

    for _ in range(2):  # a second evaluation replaces the first
        assert (
            main(["evaluate", str(out / "tiny" / "pgd-seed0"), "--n", "200", "--device", "cpu"])
            == 0
        )
    entries = json.loads((out / "tiny" / "pgd-seed0" / "test.json").read_text())
    assert [(e["which"], e["attack"], e["n"]) for e in entries] == [
        (which, attack, 200) for which in ("best", "last") for attack in ("clean", "PGD-20x1")
    ]
    data, (run,) = digits(), read_experiment(tiny, arms=["pgd"])
    model = run.make_model(data)
    model.load_state_dict(
        torch.load(out / "tiny" / "pgd-seed0" / "best.pt", weights_only=True)["model"]
    )
    accuracy = (model(data.x_test[:200]).argmax(1) == data.y_test[:200]).double().mean().item()
    assert entries[0]["accuracy"] == accuracy and entries[1]["accuracy"] <= accuracy


def test_a_run_that_diverges_does_not_stop_the_others(tiny, tmp_path, capsys):
    tiny.write_text(TINY.replace("[arms.pgd]", "[arms.wild]\nsetting = { lr = 1e30 }\n[arms.pgd]"))
    out = ["--out", str(tmp_path / "out"), "--quiet", "--device", "cpu"]
    assert main(["run", str(tiny), "--arms", "wild,pgd", *out]) == 1
    assert "wild-seed0: the loss is" in capsys.readouterr().err
    assert not read_record(tmp_path / "out/tiny/wild-seed0").complete
    assert read_record(tmp_path / "out/tiny/pgd-seed0").complete


def test_the_plan_for_a_gpu_is_sound_and_stops_by_the_clock(tmp_path, capsys):
    script = FILES[0].parent / "gpu.py"
    plan = runpy.run_path(str(script))["plan"](tmp_path, 15, False)
    runs = [command[2:] for _, command in plan if command[:3] == ["-m", "ddi", "run"]]
    assert len(runs) >= 8 and all(
        (FILES[0].parent / Path(command[1]).name).exists() for command in runs
    )
    for command in runs:
        assert (
            main(
                [*command, "--dry-run", "--device", "cpu", "data=digits", "setting.validation=100"]
            )
            == 0
        )
    assert "figure4-left/ddi-seed0: ddi, 15 epochs" in capsys.readouterr().out
    command = [
        sys.executable,
        str(script),
        "--tiny",
        "--epochs",
        "1",
        "--work",
        str(tmp_path / "w"),
        "--records",
    ]
    done = subprocess.run(
        [*command, str(tmp_path / "r.tgz"), "--seconds", "12"], capture_output=True, text=True
    )
    assert (
        done.returncode == 1
        and "stopped by the clock" in done.stdout
        and (tmp_path / "r.tgz").exists()
    )
    finished = (
        (tmp_path / "w" / "done.txt").read_text().splitlines()
        if "done after" in done.stdout
        else []
    )
    again = subprocess.run(
        [*command, str(tmp_path / "r.tgz"), "--seconds", "0.1"], capture_output=True, text=True
    )
    assert all(f"== {name}:" not in again.stdout for name in finished)


def test_a_step_that_fails_compiled_is_tried_again_uncompiled(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("gpu", FILES[0].parent / "gpu.py")
    gpu = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu)
    tried = []

    def compiler_dislikes_it(command, end):
        tried.append(command)
        return (
            "FAILED with status 1" if any("reduce-overhead" in word for word in command) else "done"
        )

    monkeypatch.setattr(gpu, "attempted", compiler_dislikes_it)
    monkeypatch.setattr(
        sys, "argv", ["gpu.py", "--work", str(tmp_path / "w"), "--records", str(tmp_path / "r.tgz")]
    )
    steps = len(gpu.plan(tmp_path, 15, False))
    assert gpu.main() == 0 and len((tmp_path / "w" / "done.txt").read_text().splitlines()) == steps
    assert len(tried) == 2 * steps - 1  # the probe is never compiled
    assert capsys.readouterr().out.count("FAILED") == steps - 1


def test_the_first_seed_is_the_same_network_whatever_the_arm(tiny):
    data = digits()
    models = [run.make_model(data) for run in read_experiment(tiny)]
    assert all(
        torch.equal(a, b)
        for m in models[1:]
        for a, b in zip(models[0].parameters(), m.parameters(), strict=True)
    )


def test_help_data_and_errors(capsys, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "experiments/digits.toml" in capsys.readouterr().out
    assert main(["data", "digits"]) == 0 and "1400 images (1, 8, 8)" in capsys.readouterr().out
    monkeypatch.setenv("DDI_DATA", str(tmp_path))
    assert main(["data", "cifar10"]) == 1 and "Three ways" in capsys.readouterr().err
    assert main(["list", str(tmp_path)]) == 1
    with pytest.raises(SystemExit, match="2"):
        main(["list", str(tmp_path), "extra=1"])


# --------------------------------------------------------------------------------------------------

ATTACK, SHORT = (
    PGD(0.1, 0.05, 2),
    Setting(epochs=4, batch_size=100, augment=False, validation=300, lr=0.1),
)


def fresh():
    torch.manual_seed(0)
    return MLP(hidden=(8,))


def test_m_falls_linearly_and_passes_are_counted(tmp_path):
    setting = replace(SHORT, m_end=1, epoch_steps=3)
    assert [Setting(m_end=1).m_at(e, 10) for e in (0, 199)] == [10, 1]
    assert np.abs(np.diff([Setting(m_end=1).m_at(e, 10) for e in range(200)])).max() == 1
    train(fresh(), digits(), descent_rule("ddi", m=7), ATTACK, setting, tmp_path / "run")
    record = read_record(tmp_path / "run").metrics
    assert record["m"].tolist() == [7, 5, 3, 1] and record["step"].tolist() == [3, 6, 9, 12]
    assert record["passes"].tolist() == np.cumsum([3 * 3 * m for m in (7, 5, 3, 1)]).tolist()


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize(
    "rule, steps, expected",
    [
        (descent_rule("single"), 7, 8),
        (descent_rule("ddi", m=10), 7, 80),
        (descent_rule("comb", m=10), 7, 24),
        (descent_rule("max", m=10), 7, 71),
        (descent_rule("product", m=2, method="chunks", chunks=4), 7, 16),
        (descent_rule("product", m=2, method="matrix-free"), 7, 16),
        (descent_rule("product", m=2, method="chunks", chunks=4), 1, 4),
    ],
)
def test_passes_counted_are_backward_passes_made(rule, steps, expected):
    """Count the samples that go through the network with a gradient, where that can be seen from
    outside.
    """
    assert rule.passes(steps) == expected
    if rule.name in ("product",):
        return
    seen, model, data = [0], fresh(), digits()
    model[1].register_full_backward_hook(lambda *_: seen.__setitem__(0, seen[0] + len(_[2][0])))
    rule(model, data.x_train[:20], data.y_train[:20], PGD(0.1, 0.05, steps))
    assert seen[0] == 20 * expected


def test_phases_follow_each_other(tmp_path):
    """FAST and single first, then PGD and ddi: the weights are those of two runs, one after the
    other.
    """
    first, second = FAST(0.1), PGD(0.1, 0.05, 3)
    phases = [Phase(0.5, descent_rule("ddi", m=2), second)]
    seen = []

    class Spy(FAST):
        def restarts(self, *args, **options):
            seen.append("fast")
            return super().restarts(*args, **options)

    train(
        fresh(), digits(), descent_rule("single"), Spy(0.1), SHORT, tmp_path / "run", phases=phases
    )
    record = read_record(tmp_path / "run")
    assert len(seen) == 2 * 11 and record.metrics["m"].tolist() == [1, 1, 2, 2]
    assert (
        np.isnan(record.metrics["cosine_mean"][:2]).all()
        and (record.metrics["cosine_mean"][2:] > 0).all()
    )
    assert record.config["phases"][0]["start"] == 0.5 and first.eps == 0.1


def test_best_and_last_epoch_are_kept_apart(tmp_path):
    setting = replace(SHORT, epochs=6, lr=1.0, milestones=())
    model = train(fresh(), digits(), descent_rule("single"), ATTACK, setting, tmp_path / "run")
    record = read_record(tmp_path / "run")
    best, last = record.row("best"), record.row("last")
    assert last["epoch"] == 6 and best["robust"] == record.metrics["robust"].max() >= last["robust"]
    _, x, y = digits().hold_out(300)
    kept, evaluation = (
        torch.load(tmp_path / "run" / "best.pt", weights_only=True),
        PGD(0.1, 0.05, 20),
    )
    for state, row in ((model.state_dict(), last), (kept["model"], best)):
        model.load_state_dict(state)
        draw = torch.Generator().manual_seed(0)
        assert robust_accuracy(model, x, y, evaluation, generator=draw).value == pytest.approx(
            row["robust"]
        )
    assert kept["epoch"] == best["epoch"]
    with pytest.raises(ValueError, match="which"):
        record.row("first")


def test_a_checkpoint_of_another_network_is_passed_over(tmp_path, capsys):
    train(
        fresh(),
        digits(),
        descent_rule("single"),
        ATTACK,
        replace(SHORT, epochs=1),
        tmp_path / "run",
    )
    (tmp_path / "run" / "provenance.json").unlink()
    train(
        MLP(hidden=(9,)),
        digits(),
        descent_rule("single"),
        ATTACK,
        replace(SHORT, epochs=1),
        tmp_path / "run",
    )
    assert "belongs to another run" in capsys.readouterr().out


def test_tensorboard_is_asked_for_by_name_if_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        train(
            fresh(),
            digits(),
            descent_rule("single"),
            ATTACK,
            SHORT,
            tmp_path / "run",
            tensorboard=True,
        )
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------ s

RULES = {
    "single": {}, "max": {"m": 3}, "mean": {"m": 3}, "ddi": {"m": 3}, "comb": {"m": 4},
    "ddi-decay": {"m": 3, "weight_decay": 0.1},
    "product-gram": {"m": 2}, "product-chunks": {"m": 2, "method": "chunks", "chunks": 3},
    "product-free": {"m": 2, "method": "matrix-free", "max_iter": 3}, "product-decay": {"m": 2, "weight_decay": 0.1},
    "bundle": {"m": 3, "t": 0.5}, "bundle-each": {"m": 2, "t": 0.5, "joint": False},
}  # fmt: skip
PROGRAM = """
import sys
from dataclasses import replace
import torch
from ddi import MLP, PGD, Setting, descent_rule, digits, parallel, train

def gradients(rules):
    data, found = digits().to(dtype=torch.float64), {}
    torch.manual_seed(0)
    model = MLP(hidden=(8,)).double()
    for name, options in rules.items():
        rule = descent_rule(name.split("-")[0], **options)
        draw = torch.Generator().manual_seed(1)
        found[name] = rule(model, data.x_train[:20], data.y_train[:20], PGD(0.2, 0.1, 2), draw).gradient
    return found

def curve(folder):
    torch.manual_seed(0)
    model = MLP(hidden=(8,)).double()
    setting = Setting(epochs=2, batch_size=100, augment=True, validation=300, lr=0.1)
    data = digits().to(dtype=torch.float64)
    return train(model, data, descent_rule("ddi", m=2), PGD(0.1, 0.05, 2), setting, folder)
"""


def test_two_processes_are_one(tmp_path):
    """Two gloo processes share each batch: the first-step gradients to 1e-6 of their norm, and a
    whole training run.
    """
    script = f"{PROGRAM}\nrules = {RULES!r}\n" + textwrap.dedent(
        """
        torch.set_num_threads(1)
        parallel.start()
        found = gradients(rules)
        curve(sys.argv[1] + "/two")
        torch.save(found, f"{sys.argv[1]}/rank{parallel.rank()}.pt")
        """
    )
    (tmp_path / "program.py").write_text(script)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    alone = os.environ | (
        {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    )  # whatever the machine's name
    program = [str(tmp_path / "program.py"), str(tmp_path)]
    done = subprocess.run([*command, *program], capture_output=True, text=True, env=alone)
    assert done.returncode == 0, done.stderr[-3000:]
    space: dict = {}
    exec(PROGRAM, space)
    one, pair = space["gradients"](RULES), [torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1)]
    for name, expected in one.items():
        for found in pair:
            assert (found[name] - expected).norm() <= 1e-6 * expected.norm(), name
    space["curve"](tmp_path / "one")
    alone, shared = (read_record(tmp_path / n).metrics for n in ("one", "two"))
    for key in alone.keys() - {"seconds"}:
        np.testing.assert_allclose(shared[key], alone[key], rtol=1e-5, atol=1e-9, err_msg=key)
