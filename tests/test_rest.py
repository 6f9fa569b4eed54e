"""Records and plots."""

import json
import os
import subprocess

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from ddi import (
    Record,
    RunWriter,
    digits,
    plots,
    provenance,
    read_record,
    read_records,
)

# --------------------------------------------------------------------------------------------------


# --------------------------------------------------------------------------------------------------


def test_curves_are_means_with_a_standard_deviation(tmp_path):
    def record(name, values):
        return Record(
            name,
            {},
            {"epoch": np.arange(3.0), "robust": np.array(values), "clean": np.array(values)},
            {},
        )

    records = [
        record("pgd-seed0", [0, 0.2, 0.4]),
        record("pgd-seed1", [0, 0.4, 0.8]),
        record("ddi-seed0", [0.1, 0.1, 0.61]),
    ]
    assert {arm: len(runs) for arm, runs in plots.by_arm(records).items()} == {"pgd": 2, "ddi": 1}
    fig, ax = plt.subplots()
    plots.curves(ax, records)
    assert (
        ax.lines[0].get_ydata() == pytest.approx([0, 0.3, 0.6])
        and ax.lines[0].get_color() == "#D55E00"
    )
    top = max(ax.collections[0].get_paths()[0].vertices[:, 1])
    assert top == pytest.approx(0.6 + np.std([0.4, 0.8], ddof=1))
    fig.canvas.draw()
    heights = sorted(text.get_window_extent().y0 for text in ax.texts)
    assert [t.get_text() for t in ax.texts] == ["PGD", "DDi"] and np.diff(
        heights
    ) > 10  # labels do not touch
    plt.close(fig)


# --------------------------------------------------------------------------------------------------


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
    with pytest.raises(FileExistsError, match="complete record"):
        RunWriter(tmp_path / "run", {}, {})


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
    with pytest.raises(ValueError, match="columns"):
        run.log(epoch=1, loss=0.0)
    with pytest.raises(FileNotFoundError, match="holds no record"):
        read_record(tmp_path)


# --------------------------------------------------------------------------------------------------


def test_every_method_has_its_own_colour_and_its_own_dash_or_marker():
    colours = [m["color"] for m in plots.METHODS.values()]
    shapes = [(str(m["linestyle"]), m["marker"]) for m in plots.METHODS.values()]
    assert len(set(colours)) == len(colours) and len(set(shapes)) == len(shapes)


def test_plots_draw_what_they_are_given():
    plots.use_style()
    fig, axes = plt.subplots(1, 3)
    drawn = plots.line(axes[0], [0, 1, 2], torch.tensor([3.0, 4.0, 5.0]), "DDi", "ours")
    assert (
        drawn.get_ydata().tolist() == [3, 4, 5]
        and drawn.get_color() == plots.METHODS["DDi"]["color"]
    )
    assert [t.get_text() for t in axes[0].texts] == ["ours"]
    assert fig.get_facecolor() == (1, 1, 1, 1)
    plots.show_images(axes[1:], torch.rand(2, 1, 8, 8), ["a", "b"], limit=0.5)
    assert axes[1].images[0].get_clim() == (-0.5, 0.5)
    with pytest.raises(ValueError, match="method"):
        plots.line(axes[0], [0], [0], "SGD")
    plt.close(fig)
