"""Records: what is written, what comes back, and what is never overwritten."""

import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest
import torch

from ddi import Record, RunWriter, digits, provenance, read_record, read_records
from ddi.__main__ import main
from ddi.record import AlreadyComplete


def test_a_record_comes_back_as_written(tmp_path):
    config = {"eps": 0.2, "arm": "standard", "model": {"hidden": [8, 8]}}
    with RunWriter(tmp_path / "e" / "standard-seed0", config, provenance(digits())) as run:
        for epoch in range(3):
            run.log(epoch=epoch, loss=0.1 / 3 * epoch)
    record = read_record(tmp_path / "e" / "standard-seed0")
    assert record.config == config and record.complete and record.name == "standard-seed0"
    np.testing.assert_array_equal(record.metrics["loss"], 0.1 / 3 * np.arange(3))
    for key in (
        "device",
        "torch",
        "dtype",
        "commit",
        "data",
        "data_sha256",
        "wall_seconds",
        "threads",
    ):
        assert key in record.provenance
    assert record.provenance["data"] == "digits"
    assert [r.name for r in read_records(tmp_path / "e")] == ["standard-seed0"]
    assert read_records(tmp_path / "nothing") == []
    assert not list(tmp_path.rglob("*.tmp"))


def test_provenance_names_the_commit_and_says_when_the_code_differs(tmp_path, monkeypatch):
    import ddi.record

    def git(*words):
        subprocess.run(
            ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True
        )

    package = tmp_path / "ddi"
    package.mkdir()
    monkeypatch.setattr(ddi.record, "__file__", str(package / "record.py"))
    assert provenance(digits())["commit"] is None  # no repository
    (package / "record.py").write_text("one")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "old").write_text("one")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    clean = provenance(digits())["commit"]
    assert len(clean) == 40
    (tmp_path / "results" / "old").write_text("two")
    assert provenance(digits())["commit"] == clean
    (package / "record.py").write_text("two")
    assert provenance(digits())["commit"] == f"{clean}-dirty"


def test_a_copy_without_a_repository_says_which_commit_it_was_given(tmp_path, monkeypatch):
    monkeypatch.setattr("ddi.record.__file__", str(tmp_path / "record.py"))
    assert provenance(digits())["commit"] is None
    monkeypatch.setenv("DDI_COMMIT", "abc")
    assert provenance(digits())["commit"] == "abc"


def test_a_run_that_dies_leaves_an_incomplete_record(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        RunWriter(tmp_path / "run", {}, provenance(digits())) as run,
    ):
        run.log(epoch=0, loss=1.0)
        raise KeyboardInterrupt
    record = read_record(tmp_path / "run")
    assert not record.complete and record.metrics["loss"].tolist() == [1.0]
    with RunWriter(tmp_path / "run", {}, provenance(digits())) as run:  # may be done again
        assert not read_record(tmp_path / "run").complete
        run.log(epoch=0, loss=2.0)
    assert read_record(tmp_path / "run").complete
    with pytest.raises(AlreadyComplete, match="complete record"):
        RunWriter(tmp_path / "run", {}, provenance(digits()))
    for config, source in (({"lr": 0.1}, provenance(digits())), ({}, {"dtype": "float64"})):
        with pytest.raises(FileExistsError, match="another run"):
            RunWriter(tmp_path / "run", config, source)


def test_a_resumed_record_keeps_rows_and_seconds(tmp_path):
    with RunWriter(tmp_path / "run", {}, {}) as run:
        run.resume([{"epoch": 0}], 1000.0)
        run.log(epoch=1)
    record = read_record(tmp_path / "run")
    assert (
        record.metrics["epoch"].tolist() == [0, 1]
        and 1000 <= record.provenance["wall_seconds"] < 1100
    )


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    run = RunWriter(tmp_path / "run", {}, {})
    run.log(epoch=0)

    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        run.log(epoch=1)
    assert read_record(tmp_path / "run").metrics["epoch"].tolist() == [0]
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["complete"] is False


def test_records_refuse_changing_columns_and_missing_folders(tmp_path):
    run = RunWriter(tmp_path / "run", {}, {})
    run.log(epoch=0)
    for row in ({"epoch": 1, "loss": 0.0}, {"loss": 0.0}, {}):
        with pytest.raises(ValueError, match="columns"):
            run.log(**row)
    assert read_record(tmp_path / "run").metrics["epoch"].tolist() == [0]
    with pytest.raises(FileNotFoundError, match="holds no record"):
        read_record(tmp_path)


def test_the_dtype_and_the_kind_of_device_are_recorded():
    source = provenance(None, "cpu", torch.float64)
    assert (source["dtype"], source["device_type"]) == ("float64", "cpu")


def test_records_of_the_first_format_are_known_again(tmp_path):
    """They lack keys that newer ones have: the common ones are compared."""
    with RunWriter(tmp_path / "run", {"lr": 0.1}, {}):
        pass
    path = tmp_path / "run" / "provenance.json"
    source = json.loads(path.read_text())
    del source["format"]
    path.write_text(json.dumps(source))
    with pytest.raises(AlreadyComplete):
        RunWriter(tmp_path / "run", {"lr": 0.1, "new": 1}, {"network": "x"})
    with pytest.raises(FileExistsError, match="lr is 0.1 there and 0.2 here"):
        RunWriter(tmp_path / "run", {"lr": 0.2}, {})


@pytest.mark.parametrize("name", ["config.toml", "provenance.json", "metrics.csv"])
def test_a_damaged_record_is_named_and_its_neighbours_are_read(tmp_path, name):
    for arm in ("a", "b"):
        with RunWriter(tmp_path / f"{arm}-seed0", {}, {}) as run:
            run.log(epoch=0, robust=0.5)
    (tmp_path / "a-seed0" / name).write_bytes(b"epoch,robust\n1,\xff\n{")
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        read_record(tmp_path / "a-seed0")
    with pytest.warns(UserWarning, match=f"a-seed0.{name} is damaged"):
        assert [r.name for r in read_records(tmp_path)] == ["b-seed0"]


def test_a_table_is_read_with_a_mark_and_a_column_that_it_lacks_is_named(tmp_path, capsys):
    for arm in ("marked", "renamed", "fewer"):
        with RunWriter(tmp_path / f"{arm}-seed0", {}, {}) as run:
            run.log(epoch=0, robust=0.5, clean=0.25)
    tables = {
        "marked": "\ufeffepoch,robust,clean\n0,0.5,0.25\n",
        "renamed": "epoch,robust,Clean\n0,0.5,0.25\n",
        "fewer": "epoch,robust\n0,0.5\n",
    }
    for arm, text in tables.items():
        (tmp_path / f"{arm}-seed0" / "metrics.csv").write_text(text, encoding="utf-8")
    marked, fewer = (read_record(tmp_path / f"{arm}-seed0") for arm in ("marked", "fewer"))
    assert marked.row("best") == {"epoch": 0, "robust": 0.5, "clean": 0.25}
    for use in (lambda: fewer.metrics["clean"], lambda: fewer.row()["clean"]):
        with pytest.raises(ValueError, match=r"metrics.csv must have a column 'clean', .* robust"):
            use()
    assert main(["list", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out.count("robust 0.5000, clean 0.2500") == 2  # best and last of the marked one
    for arm in ("renamed", "fewer"):
        assert f"{arm}-seed0/metrics.csv must have a column 'clean'" in said.err.replace("\\", "/")


def test_rows_come_by_epoch_in_whatever_order_a_table_has_them(tmp_path):
    with RunWriter(tmp_path / "run", {}, {}) as run:
        for epoch in (9, 10, 11):
            run.log(epoch=epoch, robust=0.1 * epoch)
    path = tmp_path / "run" / "metrics.csv"
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, rows[1], rows[2], rows[0]]) + "\n")
    record = read_record(tmp_path / "run")
    assert record.row("last") == {"epoch": 11, "robust": pytest.approx(1.1)}
    assert record.metrics["epoch"].tolist() == [9, 10, 11]
    assert record.metrics["robust"] == pytest.approx([0.9, 1.0, 1.1])


@pytest.mark.parametrize(
    ("name", "config", "arm", "seed"),
    [
        ("pgd-seed2", {}, "pgd", 2),
        ("pgd-seed2", {"seed": 0}, "pgd", 0),
        ("pgd-seed2", {"setting": {"seed": 1}}, "pgd", 1),
        ("pgd-seed0 (copy)", {}, "pgd", 0),
        ("pgd-seed10 (copy)", {"setting": {"seed": 10}}, "pgd", 10),
        ("mine", {"setting": "odd"}, "mine", None),
        ("many-seeds-seed3", {}, "many-seeds", 3),
    ],
)
def test_arm_and_seed_of_a_record(name, config, arm, seed):
    record = Record(name, config, {}, {})
    assert (record.arm, record.seed) == (arm, seed)


def test_a_cut_table_does_not_stop_a_resume(tmp_path):
    run = RunWriter(tmp_path / "run", {}, {})
    run.log(epoch=0, robust=0.5)
    run.__exit__(KeyboardInterrupt, None, None)
    (tmp_path / "run" / "metrics.csv").write_text("epoch,rob")
    with RunWriter(tmp_path / "run", {}, {}) as again:
        again.resume([{"epoch": 0, "robust": 0.5}], 1.0)
    assert read_record(tmp_path / "run").metrics["robust"].tolist() == [0.5]


def test_tensorboard_gets_every_step_once(tmp_path, monkeypatch):
    written = []

    class Board:
        def __init__(self, folder, purge_step):
            written.append(("purge from", purge_step))

        def add_scalar(self, key, value, step):
            written.append((key, value, step))

        def flush(self):
            pass

        close = flush

    module = types.SimpleNamespace(SummaryWriter=Board)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    run = RunWriter(tmp_path / "run", {}, {}, tensorboard=True)
    run.log(epoch=1, robust=0.5)
    run.__exit__(KeyboardInterrupt, None, None)
    with RunWriter(tmp_path / "run", {}, {}, tensorboard=True) as again:
        again.resume([{"epoch": 1, "robust": 0.5}], 1.0)
        again.log(epoch=2, robust=0.7)
    one, two = (("epoch", e, e) for e in (1, 2))
    expected = [("purge from", 1), one, ("robust", 0.5, 1), ("purge from", 2), two]
    assert written == [*expected, ("robust", 0.7, 2)]
