"""The book's one plotting style: colours by method, direct labels, curves of recorded runs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ddi.record import Record

__all__ = [
    "METHODS",
    "by_arm",
    "curves",
    "label_ends",
    "label_line",
    "line",
    "panels",
    "save_curves",
    "show_images",
    "use_style",
]

# Okabe and Ito's colour-blind safe palette; each method keeps its colour, dash and marker in every
# figure of the book.
METHODS: dict[str, dict[str, Any]] = {
    "true": {"color": "#000000", "linestyle": "-", "marker": ""},
    "PGD": {"color": "#D55E00", "linestyle": "-", "marker": "o"},
    "PGD normalised": {"color": "#E69F00", "linestyle": "--", "marker": "s"},
    "mean": {"color": "#999999", "linestyle": (0, (5, 1, 1, 1)), "marker": "v"},
    "DDi": {"color": "#0072B2", "linestyle": "-", "marker": "^"},
    "product DDi": {"color": "#009E73", "linestyle": "-.", "marker": "D"},
    "bundle": {"color": "#CC79A7", "linestyle": ":", "marker": "P"},
}
# the arms of recorded runs that are one of these methods
ARMS = {
    "pgd": "PGD",
    "pgd-normalised": "PGD normalised",
    "ddi": "DDi",
    "product": "product DDi",
    "mean-normalised": "mean",
}


OTHERS = (
    "#56B4E9",
    "#8C510A",
    "#5E3C99",
    "#B2182B",
    "#4D4D4D",
    "#01665E",
)  # colours of arms that are none of them


def use_style() -> None:
    """Set matplotlib to the book's style: opaque white, light grid, no frame, readable at phone
    width.
    """
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.8),
            "figure.dpi": 110,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.constrained_layout.use": True,
            "axes.facecolor": "white",
            "axes.grid": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": cycler(
                color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
            ),
            "grid.color": "#e6e6e6",
            "font.size": 12,
            "axes.labelsize": 12,
            "legend.frameon": False,
            "lines.linewidth": 2.0,
            "lines.markersize": 5,
            "mathtext.fontset": "dejavusans",
        }
    )


def line(ax: Axes, x: Any, y: Any, method: str, label: str | None = None, **options: Any) -> Line2D:
    """Plot a line in the method's colour, dash and marker, labelled directly at its right end
    (``label=""``: not).
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {tuple(METHODS)}, got {method!r}")
    style = (
        METHODS[method] | {"markevery": max(1, len(np.atleast_1d(np.asarray(x))) // 8)} | options
    )
    (drawn,) = ax.plot(np.asarray(x), np.asarray(y), **style)
    return label_line(drawn, method if label is None else label)


def label_line(drawn: Line2D, text: str, dy: float = 0.0) -> Line2D:
    """Write ``text`` to the right of a line's last point, in its colour, ``dy`` points higher."""
    _axes(drawn).annotate(
        text,
        _end(drawn),
        xytext=(6, dy),
        textcoords="offset points",
        color=drawn.get_color(),
        va="center",
        annotation_clip=False,
    )
    return drawn


def label_ends(drawn: Sequence[Line2D], texts: Sequence[str], gap: float = 14.0) -> None:
    """Label lines of one axes at their right ends, ``gap`` points apart at least; call it when the
    limits are final.
    """
    if not drawn:
        return
    ax = _axes(drawn[0])
    points = 72 / ax.figure.dpi
    ends = [float(ax.transData.transform(_end(one))[1]) * points for one in drawn]
    order = sorted(range(len(drawn)), key=lambda i: ends[i])
    places = np.array([ends[i] for i in order])
    for _ in range(200):  # push neighbours apart, half a way each
        short = np.maximum(gap - np.diff(places), 0) / 2
        if short.max(initial=0) < 0.1:
            break
        places[:-1] -= short
        places[1:] += short
    for place, i in zip(places, order, strict=True):
        label_line(drawn[i], texts[i], dy=place - ends[i])


def _axes(drawn: Line2D) -> Axes:
    assert isinstance(drawn.axes, Axes)
    return drawn.axes


def _end(drawn: Line2D) -> tuple[float, float]:
    return float(np.asarray(drawn.get_xdata())[-1]), float(np.asarray(drawn.get_ydata())[-1])


def by_arm(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by arm (:attr:`ddi.record.Record.arm`), in the order in which they come.

    Raises:
        ValueError: for two records of one arm and one seed (a copy of a folder is no other seed).
            Records whose seed nothing says are taken for different ones.
    """
    arms: dict[str, list[Record]] = {}
    for record in records:
        others = arms.setdefault(record.arm, [])
        twice = [other for other in others if other.seed == record.seed is not None]
        if twice:
            one, two = (getattr(each.metrics, "path", each.name) for each in (twice[0], record))
            raise ValueError(
                f"records must be of different seeds in every arm, got seed {record.seed} of "
                f"{record.arm} twice, in {one} and {two}: move one of them away"
            )
        others.append(record)
    return arms


def curves(
    ax: Axes,
    records: Iterable[Record],
    y: str = "robust",
    x: str = "epoch",
    names: dict[str, str] | None = None,
) -> None:
    """Draw ``y`` against ``x``: a line an arm, the mean of its seeds, with one standard deviation
    shaded (n > 1).

    Args:
        records: seeds of an arm are cut to the shortest; a record without the columns ``x`` and
            ``y`` (one without rows) is passed over.
        names: arms to draw, in this order, with their labels; by default all.
    """
    arms = by_arm(record for record in records if x in record.metrics and y in record.metrics)
    names = names or {arm: ARMS.get(arm, arm) for arm in arms}
    if missing := [arm for arm in names if arm not in arms]:
        raise ValueError(f"names must be arms with rows, {sorted(arms)}, got {missing}")
    drawn = []
    for i, (arm, name) in enumerate(names.items()):
        length = min(len(record.metrics[y]) for record in arms[arm])
        at = np.mean([record.metrics[x][:length] for record in arms[arm]], axis=0)
        values = np.array([record.metrics[y][:length] for record in arms[arm]])
        other = {
            "color": OTHERS[i % 6],
            "linestyle": ("-", "--", ":")[i // 6 % 3],
            "marker": "osv^DP"[i % 6],
        }
        style = METHODS.get(ARMS.get(arm, name), other) | {"markevery": max(1, length // 8)}
        (curve,) = ax.plot(at, values.mean(0), **style)
        if len(values) > 1:
            spread = values.std(0, ddof=1)
            mean = values.mean(0)
            ax.fill_between(
                at, mean - spread, mean + spread, color=curve.get_color(), alpha=0.15, linewidth=0
            )
        drawn.append(curve)
    figure: Any = ax.figure
    figure.draw_without_rendering()
    label_ends(drawn, list(names.values()))


TITLES = {
    "robust": "robust accuracy (validation)",
    "clean": "clean accuracy (validation)",
    "robust_train": "robust accuracy (training images)",
    "robust_worst": "robust accuracy (worst class)",
    "train_loss": "training loss under attack",
    "norm": "norm of the direction",
    "seconds": "seconds of training",
}


def panels(
    records: Iterable[Record],
    shown: Sequence[tuple[str, str]] = (("epoch", "robust"), ("seconds", "robust")),
    names: dict[str, str] | None = None,
) -> Figure:
    """Draw any experiment's arms in panels side by side: by default robust accuracy against epochs
    and against seconds.

    Args:
        records, names: as for :func:`curves`. shown: a pair of columns ``(x, y)`` for each panel.
    """
    records = list(records)
    figure, axes = plt.subplots(1, len(shown), figsize=(5.5 * len(shown), 4.2), squeeze=False)
    for ax, (x, y) in zip(axes[0], shown, strict=True):
        curves(ax, records, y, x, names)
        ax.set(xlabel=TITLES.get(x, x), ylabel=TITLES.get(y, y))
    return figure


def save_curves(records: Sequence[Record], path: str | Path) -> None:
    """Save robust and clean validation accuracy along training, of all arms, as a picture."""
    with plt.rc_context():
        use_style()
        figure = panels(records, (("epoch", "robust"), ("epoch", "clean")))
        figure.savefig(path)
        plt.close(figure)


def show_images(
    axes: Any, images: Any, titles: list[str] | None = None, limit: float | None = None
) -> None:
    """Show ``(N, H, W)`` or ``(N, 1, H, W)`` on as many axes: grey in ``[0, 1]``, or red-blue in
    ``[-limit, limit]``.
    """
    axes = np.ravel(axes)
    images = np.asarray(images)
    images = images.reshape(len(images), *images.shape[-2:])
    scale = (
        {"cmap": "gray_r", "vmin": 0, "vmax": 1}
        if limit is None
        else {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    )
    for i, (ax, image) in enumerate(zip(axes, images, strict=True)):
        ax.imshow(image, **scale)
        ax.set_axis_off()
        if titles is not None:
            ax.set_title(titles[i], fontsize=10)
