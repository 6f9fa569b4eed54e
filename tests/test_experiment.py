"""Experiments as TOML files, the command line, phases and schedules, and several processes for one
batch.
"""

import importlib
import io
import json
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ddi import (
    FAST,
    FGSM,
    MLP,
    PGD,
    Phase,
    Record,
    Setting,
    descent_rule,
    digits,
    read_experiment,
    read_record,
    robust_accuracy,
    train,
)
from ddi.__main__ import HELP, main
from ddi.checkpoint import load_weights
from ddi.commands import summary
from ddi.identity import as_table
from ddi.kernels import Kernels
from ddi.measure import evaluate_run

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
[[arms.later.phases]]
start = 0.5
attack = { kind = "PGD", schedule = "inverse_time(3)" }
rule = { name = "bundle", m = 3 }
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
    alike = {(run.evaluation, run.data, run.setting.batch_size) for run in runs}
    assert len(alike) == len({run.attack.eps for run in runs})  # one evaluation a radius
    assert all(run.evaluation.eps == run.attack.eps for run in runs)
    # PGD-20 as in the paper, but for a design with few images, and where PGD-20 could be masked
    steps = {"resnet-start": 10, "catastrophic": 50}.get(path.stem, 20)
    assert runs[0].evaluation.steps == steps


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
    assert (
        later.evaluation == pgd.evaluation == PGD(0.1, 0.025, 20)
    )  # of the training attack the set
    assert [phase.attack.schedule(step) for step in (1, 3, 4, 12)] == [1, 1, 1 / 2, 1 / 10]


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
        ("setting.lr=-1", "arm pgd: setting: lr"),
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
        ("data=5", "data must be of the TOML type string"),
        ("setting.augment=False", "setting.augment must be True or False, got 'False'"),
        ("rule.normalize=yes", "rule.normalize must be True or False"),
        ("attack.random_start=no", "attack.random_start must be True or False"),
        ("setting.lr=fast", "setting.lr must be a number or a fraction"),
        ("setting.epochs=2.0", "setting.epochs must be an integer"),
        ("setting.milestones=0.5", "setting.milestones must be an array"),
        ("model.hidden=8", "model.hidden must be an array"),
        ("model.hidden=[-3]", "model.hidden must be an integer >= 1"),
        ("model.activation=1", "model.activation"),
        ("attack.eps=8/0", "attack.eps must be a number or a fraction"),
        ("attack.eps=1e400", "attack.eps"),
        ("attack.eps=nan", "attack.eps"),
        ("attack.box=7", "attack.box must be an array"),
        ("seeds=1000000000", "seeds must be an integer from 1 to"),
        ("seeds=[0,0]", "seeds"),
        ("rule.chunks=500", "chunks"),
        ("setting.batch_size=2000", "batch_size and validation must fit"),
        ("kernels.precision=fp8", "precision must be one of"),
        ("kernels.compile=yes", "compile must be one of"),
    ],
)
def test_mistakes_are_refused_before_any_work(tiny, tmp_path, capsys, change, message):
    for dry in ([], ["--dry-run"]):  # what a dry run accepts runs
        assert main(["run", str(tiny), "--out", str(tmp_path / "out"), change, *dry]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
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
        ("phases = [{ rule = 'ddi', start = 0.5 }]", r"phases\[0\].rule must be"),
        ("phases = ['ddi']", r"phases\[0\] must be a table with a start"),
        ("[arms]\na = 5", "arms.a must be a table"),
        ("[grid]\n" + "\n".join(f"'setting.a{i}' = [1, 2]" for i in range(40)), "at most 10000"),
        ("[arms.'../../out']", "folder.s name"),
        ("[arms.'..']", "folder.s name"),
        ("experiment = 'a/b'", "folder.s name"),
        ("[grid]\n'attack.eps' = ['1/5', '1_5']", "attack.eps"),
        ("[grid]\n'setting.lr' = [0.1, 0.1]", "one name"),
        ("[grid]\n'setting.lr' = 1", "list of values"),
        ("this is no TOML", "is not TOML"),
    ],
)
def test_files_that_make_no_sense_are_refused(tmp_path, text, message):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_experiment(tmp_path / "bad.toml")


def test_the_encoding_of_files(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbf" + TINY.encode())
    assert len(read_experiment(path)) == 3
    path.write_bytes('title = "für"'.encode("latin-1"))
    with pytest.raises(ValueError, match="a.toml is not in UTF-8"):
        read_experiment(path)


def test_points_of_a_grid_are_folders_inside_out_and_overrides_are_stronger(tiny):
    tiny.write_text('grid = { "attack.eps" = ["4/255", "8/255"] }\n' + TINY)
    runs = read_experiment(tiny, ["attack.alpha=0.3"], ["pgd"], seeds=2)
    assert [run.name for run in runs] == [
        f"pgd-eps{eps}_255-seed{seed}" for seed in (0, 1) for eps in (4, 8)
    ]
    assert [run.attack.eps for run in runs] == [4 / 255, 8 / 255] * 2
    assert {str(run.folder("out").parent) for run in runs} == {str(Path("out") / "tiny")}
    tiny.write_text('grid = { "setting.lr" = [0.1, 1.0] }\n' + TINY)
    assert {run.setting.lr for run in read_experiment(tiny, ["setting.lr=0.3"])} == {0.3}


def test_the_runs_of_a_file_are_arms_times_seeds_times_points(tiny):
    rates = [(1 + i) / 1000 for i in range(400)]
    tiny.write_text(f'seeds = {[*range(10)]}\ngrid = {{ "setting.lr" = {rates} }}\n' + TINY)
    with pytest.raises(ValueError, match="make 12000 runs, at most 10000"):
        read_experiment(tiny)


def test_norm_and_box_stay_when_an_arm_names_another_attack(tmp_path):
    (tmp_path / "a.toml").write_text(
        '[attack]\nnorm = "L2"\nbox = "none"\nalpha = 9.0\n[arms.a]\nattack = { kind = "FAST" }'
    )
    (run,) = read_experiment(tmp_path / "a.toml")
    assert run.attack == FAST(norm="L2", box=None)
    assert (run.evaluation.norm, run.evaluation.box) == ("L2", None)


def test_an_experiment_may_be_in_l1(tmp_path):
    (tmp_path / "a.toml").write_text('[attack]\nnorm = "L1"\neps = 12\nalpha = "1/2"')
    (run,) = read_experiment(tmp_path / "a.toml")
    assert run.attack == PGD(12.0, 0.5, norm="L1")
    assert run.evaluation == PGD(12.0, 3.0, 20, norm="L1")


def test_an_evaluation_may_be_of_any_kind(tiny):
    tiny.write_text(TINY + '[evaluation]\nkind = "FGSM"\n')
    assert {run.evaluation for run in read_experiment(tiny)} == {FGSM(0.1)}


def test_kernels(tiny, tmp_path):
    """Memory order and compilation change how, not what; the record says it."""
    words = ["kernels.channels_last=true", "model={name='x'}"][:1]
    words += ["model.name=SmallNet", "setting.epoch_steps=1", "setting.epochs=1"]
    tiny.write_text(TINY.replace("hidden = [8]\n", ""))
    plain, fast = (read_experiment(tiny, w, ["pgd"])[0] for w in (words[1:], words))
    models = [run.train(digits(), tmp_path / str(i)) for i, run in enumerate((plain, fast))]
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert models[1][0].weight.is_contiguous(memory_format=torch.channels_last)
    config = tmp_path / "1" / "tiny" / "pgd-seed0" / "config.toml"
    assert read_experiment(config)[0].kernels == fast.kernels != plain.kernels


def test_the_kernels_reach_the_attacks_and_the_compiler(tiny, monkeypatch):
    """In bf16 run the training attacks of all phases, and no evaluation."""
    runs = read_experiment(tiny, ["kernels.precision=attack-bf16"])
    trained = [attack for run in runs for attack in (phase.attack for phase in run.plan)]
    assert len(trained) == 4 and all(attack.autocast for attack in trained)
    assert not any(run.evaluation.autocast for run in runs)
    assert not any(run.attack.autocast for run in read_experiment(tiny))
    model, asked = fresh(), {}
    monkeypatch.setattr(torch, "compile", lambda net, **options: asked.update(options) or net)
    for limit, wanted in ((8, 64), (100, 100)):  # PyTorch's own is too low for all the shapes
        with torch._dynamo.config.patch(recompile_limit=limit):
            assert Kernels(compile="reduce-overhead").model(model) is model
            assert torch._dynamo.config.recompile_limit == wanted
    assert asked == {"mode": "reduce-overhead", "dynamic": False}


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
        assert [as_table(phase.attack) for phase in again.phases] == [
            as_table(phase.attack) for phase in asked.phases
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
    assert entries[0]["accuracy"] == accuracy
    p = entries[1]["accuracy"]
    assert entries[1]["standard_error"] == pytest.approx((p * (1 - p) / 200) ** 0.5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the records of a short experiment."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.toml").write_text(TINY)
    short = ["setting.epoch_steps=2", "setting.validation=50", "--device", "cpu"]
    command = ["run", str(folder / "tiny.toml"), "--arms", "pgd", "--seeds", "2", *short]
    assert main([*command, "--out", str(folder), "--quiet", "--checkpoint-every", "1"]) == 0
    return folder / "tiny"


def entries(folder):
    return json.loads((folder / "test.json").read_text())


def copied(trained, tmp_path):
    return Path(shutil.copytree(trained / "pgd-seed0", tmp_path / "pgd-seed0"))


def test_evaluate_keeps_other_measurements_and_uses_its_options(trained, tmp_path, monkeypatch):
    folder, x = copied(trained, tmp_path), np.zeros((4, 8, 8), np.uint8)
    np.savez(tmp_path / "mine.npz", x_train=x, x_test=x, y_train=[0, 1, 2, 9], y_test=[0, 1, 2, 9])
    command = ["evaluate", str(folder), "--device", "cpu", "--which", "best"]
    assert main([*command, "--n", "20"]) == main([*command, "--n", "30"]) == 0
    assert main([*command, "--data", str(tmp_path / "mine.npz")]) == 0
    assert main([*command, "--n", "30", "--restarts", "3"]) == 0
    found = [(e["data"], e["n"], e["attack"], e["which"]) for e in entries(folder)]
    assert found == [
        ("digits", 20, "clean", "best"),
        ("digits", 20, "PGD-20x1", "best"),
        ("digits", 30, "PGD-20x1", "best"),
        ("mine", 4, "clean", "best"),
        ("mine", 4, "PGD-20x1", "best"),
        ("digits", 30, "clean", "best"),
        ("digits", 30, "PGD-20x3", "best"),
    ]
    restarts = []

    def accuracy(model, x, y, attack, count, *rest):
        restarts.append(count)
        raise ValueError("stopped here")

    monkeypatch.setattr("ddi.measure.robust_accuracy", accuracy)
    (folder / "test.json").unlink()
    assert main([*command, "--n", "40", "--restarts", "3"]) == 1
    assert restarts == [3]
    assert [e["attack"] for e in entries(folder)] == ["clean"]  # what was finished is kept


def test_evaluate_of_damaged_and_unfinished_weights(trained, tmp_path, capsys):
    folder, n = copied(trained, tmp_path), ["--n", "20", "--device", "cpu"]
    newest = folder / "checkpoint.pt"
    before = newest.read_bytes()
    newest.write_bytes(before[:500])  # the one before is of the middle of an epoch
    assert main(["evaluate", str(folder), *n]) == 1
    assert "in the middle of epoch 2" in capsys.readouterr().err
    assert {e["which"] for e in entries(folder)} == {"best"}
    newest.write_bytes(before)
    (folder / "best.pt").write_bytes(b"damaged")
    assert main(["evaluate", str(folder), str(trained / "pgd-seed1"), *n]) == 1
    assert "best.pt cannot be read" in capsys.readouterr().err
    assert {e["which"] for e in entries(trained / "pgd-seed1")} == {"best", "last"}
    (folder / "test.json").write_text("[{")
    assert main(["evaluate", str(folder), *n]) == 1
    assert "test.json is damaged" in capsys.readouterr().err


def test_evaluate_names_the_folder_that_fails_and_goes_on(trained, tmp_path, capsys):
    folder, n = copied(trained, tmp_path), ["--n", "20", "--device", "cpu", "--which", "last"]
    kept = copied(trained, tmp_path / "kept")
    (folder / "config.toml").unlink()
    for bad in (folder, tmp_path / "none"):
        (kept / "test.json").unlink(missing_ok=True)
        assert main(["evaluate", str(bad), str(kept), *n]) == 1
        said = [s for s in capsys.readouterr().err.splitlines() if s.startswith("ddi: ")]
        assert len(said) == 1 and str(bad) in said[0]
        assert [e["attack"] for e in entries(kept)] == ["clean", "PGD-20x1"]
    assert main(["evaluate", str(kept), *n]) == 0


def test_evaluate_builds_the_network_that_was_trained_or_refuses(trained, tmp_path, capsys):
    folder, n = copied(trained, tmp_path), ["--n", "20", "--device", "cpu", "--which", "best"]
    config = folder / "config.toml"
    config.write_text(config.read_text().replace("hidden", 'activation = "relu"\nhidden'))
    assert main(["evaluate", str(folder), *n]) == 1
    assert "the network that was trained is another" in capsys.readouterr().err
    setting = replace(SHORT, epochs=1, epoch_steps=1)
    mine = tmp_path / "mine"
    train(fresh(), digits(), descent_rule("single"), ATTACK, setting, mine, PGD(0.1, 0.1, 1))
    assert main(["evaluate", str(mine), *n]) == 1
    said = capsys.readouterr().err
    assert "made from Python, with a MLP" in said and "evaluate --network 'name=" in said
    with pytest.raises(ValueError, match="another"):
        evaluate_run(mine, torch.device("cpu"), network_table="name='MLP', hidden=[9]")
    assert main(["evaluate", str(mine), *n, "--network", "name='MLP', hidden=[8]"]) == 0
    assert [e["attack"] for e in entries(mine)] == ["clean", "PGD-1x1"]


def test_the_same_name_with_other_settings_is_told_apart(trained, tmp_path, capsys):
    copied(trained, tmp_path / "out" / "tiny")
    out = ["--out", str(tmp_path / "out"), "--quiet", "--device", "cpu"]
    same = ["setting.epoch_steps=2", "setting.validation=50"]
    command = ["run", str(trained.parent / "tiny.toml"), "--arms", "pgd", "--seeds", "1", *out]
    kept = {p: p.read_bytes() for p in (tmp_path / "out" / "tiny" / "pgd-seed0").iterdir()}
    assert main([*command, *same]) == 0 and "complete, kept" in capsys.readouterr().out
    assert main([*command, *same, "setting.lr=0.7"]) == 1
    assert "setting.lr is 0.1 there and 0.7 here" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in kept} == kept


def test_a_neighbours_damaged_record_is_named_and_passed_over(trained, tmp_path, capsys):
    folder = copied(trained, tmp_path / "out" / "tiny")
    (folder / "metrics.csv").write_text("epoch,robust\n1,0.5\n2")
    out = ["--out", str(tmp_path / "out"), "--quiet", "--device", "cpu", "seeds=[1]"]
    same = ["setting.epoch_steps=2", "setting.validation=50"]
    tiny = str(trained.parent / "tiny.toml")
    with pytest.warns(UserWarning, match="metrics.csv is damaged"):
        assert main(["run", tiny, "--arms", "pgd", *out, *same]) == 0
    assert main(["list", str(tmp_path)]) == 1
    found = capsys.readouterr()
    assert "metrics.csv is damaged" in found.err and "pgd-seed1: complete" in found.out


@pytest.mark.parametrize("kind, status", [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_stops_in_one_line_that_says_how_to_go_on(tiny, tmp_path, kind, status):
    command = [sys.executable, "-W", "ignore", "-m", "ddi", "run", str(tiny), "--arms", "pgd"]
    command += ["--out", str(tmp_path), "--quiet", "--device", "cpu", "--epochs", "100000"]
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job would not
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, heard)
    while not (tmp_path / "tiny" / "pgd-seed0" / "checkpoint.pt").exists():
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(getattr(signal, kind))
    error = run.communicate(timeout=100)[1]
    assert run.returncode == status and error.count("\n") == 1
    assert re.search(r"stopped in .*pgd-seed0; the same command goes on .* after epoch \d", error)
    assert not read_record(tmp_path / "tiny" / "pgd-seed0").complete


def test_a_run_whose_reader_leaves_is_not_done(tiny, tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "ddi", "run", str(tiny), "--arms", "pgd"]
    command += ["--out", str(tmp_path), "--device", "cpu"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run.stdout.close()
    error = run.communicate(timeout=100)[1]
    assert run.returncode == 1 and "Traceback" not in error and "Exception" not in error


@pytest.mark.parametrize(
    "words, message",
    [
        (["--device", "gpu"], "device must be"),
        (["--device", "cuda:99"], "device must be"),
        (["--device", "meta"], "device must be"),
        (["--out", "FILE/results"], "out must be a folder"),
    ],
)
def test_a_users_mistake_is_one_line(tiny, tmp_path, capsys, words, message):
    (tmp_path / "FILE").write_text("")
    words = [word.replace("FILE", str(tmp_path / "FILE")) for word in words]
    assert main(["run", str(tiny), *words, "--dry-run"]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [["evaluate", "x", "--n", "-5"], ["evaluate", "x", "--restarts", "0"]]
    + [["run", "x", flag, "0"] for flag in ("--seeds", "--epochs", "--checkpoint-every")],
)
def test_counts_are_from_1_on(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "must be an integer from 1 on" in capsys.readouterr().err


def test_options_reach_train(tiny, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "ddi.experiment.train",
        lambda *plan: seen.update(zip("every bar board".split(), plan[-4:-1], strict=True)),
    )
    monkeypatch.setattr("ddi.commands.read_record", lambda folder: None)
    monkeypatch.setattr("ddi.commands._numbers", str)
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["--checkpoint-every", "7", "--tensorboard", "--out", "~/results"]
    assert main(["run", str(tiny), "--arms", "pgd", *words]) == 0
    assert seen == {"every": 7, "bar": True, "board": True}
    assert read_experiment(tiny)[0].folder("~/results").is_relative_to(tmp_path)


def test_the_summary_says_who_is_ahead_by_how_much_and_for_how_much():
    def record(name, robust, passes):
        values = {"robust": np.array([0.0, robust]), "passes": np.array([1.0, passes])}
        return Record(name, {}, values, {})

    records = [record("a-seed0", 0.5, 8), record("a-seed1", 0.52, 8)]
    records += [record("b-seed0", 0.7, 80), record("b-seed1", 0.72, 80)]
    records += [record("c-seed0", 0.69, 40), record("c-seed1", 0.70, 40)]
    *_, first, second, third, apart, level = summary(records)
    assert re.search(r"b +0.7100 ± 0.0141 +80 passes, 2 seeds", first)
    assert re.search(r"c +0.6950 ± 0.0071 +40 passes, 2 seeds", second)
    assert re.search(r"a +0.5100 ± 0.0141 +8 passes, 2 seeds", third)
    assert apart == (
        "b ahead by more than twice the spread over seeds: a (by 0.2000; 0.1 times its passes)"
    )
    assert level == (
        "b ahead by what that spread could explain: c (by 0.0150; 0.5 times its passes)"
    )
    assert "one seed says nothing" in summary(records[::2])[-1]
    assert summary([]) == []


def test_report_prints_versions_and_processor(capsys):
    assert main(["report"]) == 0
    out = capsys.readouterr().out
    for word in (torch.__version__, np.__version__, torch.backends.cpu.get_cpu_capability()):
        assert word in out
    assert re.search(rf"threads +{torch.get_num_threads()} of", out)


def commands_in(text):
    """The commands ``python -m ddi`` of a page, each as words without its comment."""
    found = re.findall(r"(?<![\w ])(?:timeout [-\w ]*)?python -m ddi ([^`\n]+)", text)
    return [shlex.split(line, comments=True) for line in found]


PAGES = ["README.md", "book/reproducing.md"]
EXAMPLES = [
    words
    for text in [HELP, *((FILES[0].parents[1] / page).read_text("utf-8") for page in PAGES)]
    for words in commands_in(text)
    if words != ["run"]
    and "..." not in words
    and "…" not in words
    and not any("{" in w or "$" in w for w in words)
]


@pytest.mark.parametrize("words", EXAMPLES, ids=" ".join)
def test_every_example_is_a_command_that_works(words, trained, tmp_path, monkeypatch, capsys):
    """As it stands but for the data, which are the digits, and without training."""
    monkeypatch.chdir(FILES[0].parents[1])
    if words[0] == "run":
        small = ["data=digits", "setting.validation=400", "--device", "cpu", "--dry-run"]
        if "model.name=SmallNet" not in words:
            small.append("model.name=SmallNet") if "digits" not in words[1] else None
        assert main([*words, *small, "--out", str(tmp_path)]) == 0
    elif words[0] == "evaluate":
        assert main(["evaluate", str(trained / "pgd-seed1"), "--n", "10", "--which", "best"]) == 0
    elif words[0] == "data":
        assert main(["data", "digits", *words[2:]]) == 0
    elif words[0] != "bench":  # which is a program of its own
        assert main(words) == 0


def test_arms_may_be_given_with_spaces(tiny, tmp_path, capsys):
    for arms, names in (("pgd, ddi", ["pgd", "ddi"]), (" ddi ,", ["ddi"])):
        assert main(["run", str(tiny), "--arms", arms, "--dry-run", "--out", str(tmp_path)]) == 0
        said = capsys.readouterr().out.splitlines()
        assert [line.partition(":")[0] for line in said] == [f"tiny/{name}-seed0" for name in names]
    assert main(["run", str(tiny), "--arms", "pgd ddi", "--dry-run", "--out", str(tmp_path)]) == 1
    assert "pgd ddi" in capsys.readouterr().err


def test_arms_that_differ_in_case_alone_are_refused(tiny):
    tiny.write_text(TINY + "[arms.PGD]\n")
    for arms in (
        [],
        ["ddi"],
    ):  # their records would be in one folder where case makes no difference
        with pytest.raises(ValueError, match="two arms, have one name"):
            read_experiment(tiny, arms=arms)


def test_a_run_that_diverges_does_not_stop_the_others(tiny, tmp_path, capsys):
    tiny.write_text(TINY.replace("[arms.pgd]", "[arms.wild]\nsetting = { lr = 1e30 }\n[arms.pgd]"))
    out = ["--out", str(tmp_path / "out"), "--quiet", "--device", "cpu"]
    assert main(["run", str(tiny), "--arms", "wild,pgd", *out]) == 1
    error = capsys.readouterr().err
    assert re.search(r"wild-seed0: (the loss is|training is no longer finite)", error)
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
                [
                    *command,
                    "--dry-run",
                    "--device",
                    "cpu",
                    "data=digits",
                    "setting.validation=100",
                    "--out",
                    str(tmp_path),
                ]
            )
            == 0
        )
    said = capsys.readouterr().out
    assert "figure1c/ddi-seed0: ddi, 15 epochs" in said and "figure4-left" not in said
    # in the order of information, and each a prefix of a training whose learning rate is constant
    names = [name for name, _ in plan]
    arms = ("product, seed 0", "ddi, seed 0", "pgd, seed 1", "pgd-normalised, seed 1")
    assert names[:5] == ["check", *(f"figure1c: {arm}, prefix of 15 epochs" for arm in arms)]
    assert {"probe", "benchmark"} < set(names)
    for command in runs[1:]:
        words = [word for word in command[2:] if "=" in word]
        for run in read_experiment(command[1], words, epochs=15):
            assert {run.setting.lr_at(epoch) for epoch in range(15)} == {0.1}


def test_the_tiny_plan_runs_and_its_records_say_what_they_are(tmp_path):
    """The check, the probe, the benchmark and the first training, as they are run on a GPU."""
    gpu = load_gpu()
    steps = dict(gpu.plan(tmp_path, 2, True))
    first = next(name for name in steps if "pgd, seed 1" in name)
    for name in ("check", "probe", "benchmark", first):
        command = steps[name]
        assert gpu.attempted(command, time.monotonic() + 300) == "done", name
    assert json.loads((tmp_path / "benchmarks" / "tiny.json").read_text())["complete"]
    assert read_record(tmp_path / "results" / "probe" / "MLP-pgd-seed0").complete
    record = read_record(tmp_path / "results" / "figure1c" / "pgd-seed1")
    assert record.complete and record.config["setting"]["milestones"] == []
    gpu.pack(tmp_path, tmp_path / "records.tgz")
    with tarfile.open(tmp_path / "records.tgz") as tar:
        names = tar.getnames()
        said = tar.extractfile("results/figure1c/README.md").read().decode()
    assert "figure1c: prefix of 2 epochs" in said
    assert "results/figure1c/pgd-seed1/metrics.csv" in names
    assert not any(name.endswith(".pt") or name.startswith("check") for name in names)


def load_gpu(name="gpu"):
    sys.modules.pop(name, None)  # as it is written, whatever an earlier test put into it
    return importlib.import_module(name)


@pytest.mark.parametrize("steps", [[6], [2, 6]])
def test_the_probe_trains_the_very_network_of_the_run(tiny, tmp_path, steps):
    """With an epoch that is a part of a pass, augmentation, and a training attack of one step; a
    pause between, as at a probe, changes nothing.
    """
    words = ["setting.epoch_steps=2", "setting.epochs=3", "setting.milestones=[]"]
    words += ["setting.augment=true"]
    tiny.write_text(TINY.replace("alpha = 0.05\nsteps = 2", 'kind = "FAST"'))
    (run,) = read_experiment(tiny, words, ["pgd"])
    trained = run.train(digits(), tmp_path)
    (part, *_), probe = digits().hold_out(run.setting.validation), load_gpu("probe")
    file = tmp_path / "state.pt"

    def fresh():
        return probe.Training(run.make_model(digits()), part, run, file, torch.device("cpu"))

    training = fresh()
    for step in steps:
        training.go_on(step)
        training = fresh()
        training.load(load_weights(file))
    for a, b in zip(training.model.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert load_gpu("change").probing(run.attack) == PGD(0.1, 0.025, 7)


def test_the_plan_goes_on_where_the_clock_stopped_it(tmp_path, monkeypatch, capsys):
    """Two steps are done, the third is stopped: the next piece begins with the third."""
    gpu, tried = load_gpu(), []

    def two_then_stopped(command, end):
        tried.append(command)
        return "done" if len(tried) != 3 else "stopped by the clock"

    monkeypatch.setattr(gpu, "attempted", two_then_stopped)
    work, archive = str(tmp_path / "w"), str(tmp_path / "r.tgz")
    words = ["gpu.py", "--tiny", "--work", work, "--records", archive, "--seconds"]
    monkeypatch.setattr(sys, "argv", [*words, "-1"])
    for _ in range(3):
        assert gpu.main() == 1
    assert "stopped by the clock" in capsys.readouterr().out and Path(archive).exists()
    done = (tmp_path / "w" / "done.txt").read_text().splitlines()
    names = [name for name, _ in gpu.plan(tmp_path, 15, True)]
    assert done == names[:2] and len(tried) == 3
    monkeypatch.setattr(sys, "argv", [*words, "1000"])
    assert gpu.main() == 0 and tried[3] == tried[2] and len(tried) == len(names) + 1
    assert gpu.attempted is two_then_stopped
    slow = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert load_gpu().attempted(slow[1:], 0.0) == "stopped by the clock"


def test_a_step_that_fails_compiled_is_tried_again_uncompiled(tmp_path, monkeypatch, capsys):
    gpu, tried = load_gpu(), []

    def compiler_dislikes_it(command, end):
        tried.append(command)
        return "FAILED with status 1" if any("default" in word for word in command) else "done"

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


def test_the_seed_alone_decides_the_first_weights(tiny):
    """Whatever the caller's generator says, which is left as it was."""
    first, second = read_experiment(tiny, arms=["pgd"], seeds=2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    models = [run.make_model(digits()) for run in (first, second)]
    assert torch.equal(torch.get_rng_state(), before)
    for seed, model in enumerate(models):
        torch.manual_seed(seed)
        for a, b in zip(model.parameters(), MLP(hidden=(8,)).parameters(), strict=True):
            assert torch.equal(a, b)


def test_help_data_and_errors(capsys, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "experiments/digits.toml" in capsys.readouterr().out
    assert main(["data", "digits"]) == 0 and "1400 images (1, 8, 8)" in capsys.readouterr().out
    monkeypatch.setenv("DDI_DATA", str(tmp_path))
    assert main(["data", "cifar10"]) == 1 and "Ways to get it" in capsys.readouterr().err
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
    """FAST and single first, then PGD and ddi."""
    phases = [Phase(0.5, descent_rule("ddi", m=2), PGD(0.1, 0.05, 3))]
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
    assert record.config["phases"][0]["start"] == 0.5


def test_best_and_last_epoch_are_kept_apart(tmp_path):
    setting = replace(SHORT, epochs=6, lr=1.0, milestones=())
    model = train(fresh(), digits(), descent_rule("single"), ATTACK, setting, tmp_path / "run")
    record = read_record(tmp_path / "run")
    best, last = record.row("best"), record.row("last")
    assert last["epoch"] == 6 and best["robust"] == record.metrics["robust"].max() >= last["robust"]
    _, x, y = digits().hold_out(300)
    kept, evaluation = (
        torch.load(tmp_path / "run" / "best.pt", weights_only=True),
        PGD(0.1, 0.025, 20),
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


def test_a_terminal_that_knows_ascii_alone_stops_no_measurement(trained, tmp_path, monkeypatch):
    folder, terminal = copied(trained, tmp_path), io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    (folder / "test.json").unlink(missing_ok=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    command = ["evaluate", str(folder), "--n", "10", "--which", "best", "--device", "cpu"]
    assert main(command) == 0
    assert [e["attack"] for e in entries(folder)] == ["clean", "PGD-20x1"]
    terminal.flush()
    assert b"% ? " in terminal.buffer.getvalue()


def test_a_run_that_was_made_on_another_device_is_not_continued(trained, tmp_path, capsys):
    folder = copied(trained, tmp_path / "out" / "tiny")
    told = json.loads((folder / "provenance.json").read_text())
    tiny, out = str(trained.parent / "tiny.toml"), ["--out", str(tmp_path / "out"), "--quiet"]
    same = ["setting.epoch_steps=2", "setting.validation=50", "--seeds", "1", "--device", "cpu"]
    for complete in (True, False):
        told |= {"device_type": "cuda", "complete": complete}
        (folder / "provenance.json").write_text(json.dumps(told))
        kept = {p: p.read_bytes() for p in folder.iterdir()}
        assert main(["run", tiny, "--arms", "pgd", *out, *same]) == 1
        assert "device_type is 'cuda' there and 'cpu' here" in capsys.readouterr().err
        assert {p: p.read_bytes() for p in folder.iterdir()} == kept
