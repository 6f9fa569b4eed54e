"""The plotting style and the curves of records."""

import shutil

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from ddi import Record, RunWriter, plots, read_records


def test_curves_are_means_with_a_standard_deviation():
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
    last = [v for x, v in ax.collections[0].get_paths()[0].vertices if x == 2]
    spread = np.std([0.4, 0.8], ddof=1)
    assert [min(last), max(last)] == pytest.approx([0.6 - spread, 0.6 + spread])
    fig.canvas.draw()
    heights = sorted(text.get_window_extent().y0 for text in ax.texts)
    assert [t.get_text() for t in ax.texts] == ["PGD", "DDi"] and np.diff(
        heights
    ) > 10  # labels do not touch
    plt.close(fig)


@pytest.mark.parametrize("copied", ["pgd-seed0 (copy)", "pgd-seed2"])
def test_a_copied_record_is_no_seed(tmp_path, copied):
    for seed in (0, 1):
        config = {"setting": {"seed": seed}}
        with RunWriter(tmp_path / f"pgd-seed{seed}", config, {}) as run:
            run.log(epoch=1, robust=0.25, clean=0.5)
    arms = plots.by_arm(read_records(tmp_path))
    assert {arm: [one.seed for one in runs] for arm, runs in arms.items()} == {"pgd": [0, 1]}
    shutil.copytree(tmp_path / "pgd-seed0", tmp_path / copied)
    for use in (plots.by_arm, plots.panels):
        with pytest.raises(ValueError, match="got seed 0 of pgd twice") as error:
            use(read_records(tmp_path))
        for folder in ("pgd-seed0", copied):
            assert str(tmp_path / folder) in str(error.value)
    plt.close("all")


def test_an_arm_is_a_name_without_its_seed_and_an_unknown_seed_is_none_twice():
    names = (
        "x-seed0-m3",
        "x-seed1-m3",
        "x-seed0-m10",
        "x-seed0",
        "x-m3-seed2",
        "y",
        "y",
        "z-seed0_2",
    )
    arms = plots.by_arm(Record(name, {}, {}, {}) for name in names)
    seeds = {arm: [one.seed for one in runs] for arm, runs in arms.items()}
    expected = {"x-m3": [0, 1, 2], "x-m10": [0], "x": [0], "y": [None, None], "z_2": [0]}
    assert seeds == expected and list(seeds) == list(expected)
    with pytest.raises(ValueError, match="got seed 1 of x-m3 twice"):
        plots.by_arm(Record(f"x-seed1-m3{end}", {}, {}, {}) for end in ("", " (copy)"))


def test_seeds_are_cut_to_the_shortest_and_records_without_rows_passed_over(tmp_path):
    def record(name, values):
        metrics = {"epoch": np.arange(len(values)), "robust": np.array(values)}
        return Record(name, {}, metrics | {"clean": metrics["robust"]} if values else {}, {})

    records = [record("pgd-seed0", [0, 0.2, 0.4]), record("pgd-seed1", [0, 0.4])]
    records += [record("pgd-seed2", []), record("ddi-seed0", [])]
    fig, ax = plt.subplots()
    plots.curves(ax, records)
    (drawn,) = ax.lines
    assert drawn.get_ydata() == pytest.approx([0, 0.3])
    with pytest.raises(ValueError, match="names must be arms with rows"):
        plots.curves(ax, records, names={"ddi": "DDi"})
    plt.close(fig)
    for some in (records, records[2:], []):
        plots.save_curves(some, tmp_path / "curves.png")
        assert (tmp_path / "curves.png").stat().st_size > 1000


def test_panels_draw_every_arm_against_epochs_and_against_seconds():
    def record(name, seconds, robust):
        metrics = {"epoch": [1.0, 2.0], "seconds": seconds, "robust": robust, "norm": [3.0, 1.0]}
        return Record(name, {}, {key: np.array(value) for key, value in metrics.items()}, {})

    records = [
        record("pgd-seed0", [10.0, 20.0], [0.1, 0.3]),
        record("pgd-seed1", [14.0, 30.0], [0.2, 0.4]),
        record("fast-seed0", [3.0, 6.0], [0.1, 0.2]),
    ]
    figure = plots.panels(iter(records))
    epochs, seconds = figure.axes
    assert [line.get_xdata().tolist() for line in epochs.lines] == [[1, 2], [1, 2]]
    assert [line.get_xdata().tolist() for line in seconds.lines] == [[12, 25], [3, 6]]
    for ax in (epochs, seconds):
        assert {text.get_text() for text in ax.texts} == {"PGD", "fast"}
        assert ax.lines[0].get_ydata() == pytest.approx([0.15, 0.35])
    assert "seconds" in seconds.get_xlabel() and "robust" in seconds.get_ylabel()
    (ax,) = plots.panels(records, [("epoch", "norm")], {"fast": "FAST"}).axes
    assert ax.lines[0].get_ydata().tolist() == [3, 1] and ax.texts[0].get_text() == "FAST"
    plt.close("all")


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


def test_many_arms_are_told_apart_and_their_labels_do_not_touch():
    def record(i):
        metrics = {"epoch": np.arange(3.0), "robust": np.array([0.0, 0.1, 0.2 + 1e-3 * i])}
        return Record(f"arm{i}-seed0", {}, metrics, {})

    fig, (few, many) = plt.subplots(1, 2)
    plots.curves(few, [record(i) for i in range(4)])
    fig.canvas.draw()
    heights = sorted(text.get_window_extent().y0 for text in few.texts)
    assert len(heights) == 4 and np.diff(heights).min() > 10
    plots.curves(many, [record(i) for i in range(20)])
    styles = [(line.get_color(), line.get_linestyle()) for line in many.lines]
    markers = [(line.get_color(), line.get_marker()) for line in many.lines]
    assert len(styles) == 20 and len(set(styles)) == 18 and len(set(markers)) == 6
    plt.close(fig)
