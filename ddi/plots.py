"""The book's one plotting style, its colours by method, and direct labels."""

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

__all__ = ["METHODS", "label_line", "line", "show_images", "use_style"]

# Okabe and Ito's colour-blind safe palette; each method keeps its colour, dash and marker in every figure of the book.
METHODS: dict[str, dict[str, object]] = {
    "true": {"color": "#000000", "linestyle": "-", "marker": ""},
    "PGD": {"color": "#D55E00", "linestyle": "-", "marker": "o"},
    "PGD normalised": {"color": "#E69F00", "linestyle": "--", "marker": "s"},
    "mean": {"color": "#999999", "linestyle": (0, (5, 1, 1, 1)), "marker": "v"},
    "DDi": {"color": "#0072B2", "linestyle": "-", "marker": "^"},
    "product DDi": {"color": "#009E73", "linestyle": "-.", "marker": "D"},
    "bundle": {"color": "#CC79A7", "linestyle": ":", "marker": "P"},
}


def use_style() -> None:
    """Set matplotlib to the book's style: opaque white, light grid, no frame, readable at phone width."""
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
            "axes.prop_cycle": cycler(color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]),
            "grid.color": "#e6e6e6",
            "font.size": 12,
            "axes.labelsize": 12,
            "legend.frameon": False,
            "lines.linewidth": 2.0,
            "lines.markersize": 5,
            "mathtext.fontset": "dejavusans",
        }
    )


def line(ax: Axes, x: object, y: object, method: str, label: str | None = None, **options: object) -> Line2D:
    """Plot a line in the method's colour, dash and marker, labelled directly at its right end (``label=""``: not)."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {tuple(METHODS)}, got {method!r}")
    style = METHODS[method] | {"markevery": max(1, len(np.atleast_1d(np.asarray(x))) // 8)} | options
    (drawn,) = ax.plot(np.asarray(x), np.asarray(y), **style)
    return label_line(drawn, method if label is None else label)


def label_line(drawn: Line2D, text: str, dy: float = 0.0) -> Line2D:
    """Write ``text`` to the right of a line's last point, in its colour, ``dy`` points higher."""
    x, y = drawn.get_xdata()[-1], drawn.get_ydata()[-1]
    drawn.axes.annotate(
        text,
        (x, y),
        xytext=(6, dy),
        textcoords="offset points",
        color=drawn.get_color(),
        va="center",
        annotation_clip=False,
    )
    return drawn


def show_images(axes: object, images: object, titles: list[str] | None = None, limit: float | None = None) -> None:
    """Show ``(N, H, W)`` or ``(N, 1, H, W)`` on as many axes: grey in ``[0, 1]``, or red-blue in ``[-limit, limit]``."""
    axes = np.ravel(axes)
    images = np.asarray(images)
    images = images.reshape(len(images), *images.shape[-2:])
    scale = {"cmap": "gray_r", "vmin": 0, "vmax": 1} if limit is None else {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    for i, (ax, image) in enumerate(zip(axes, images, strict=True)):
        ax.imshow(image, **scale)
        ax.set_axis_off()
        if titles is not None:
            ax.set_title(titles[i], fontsize=10)
