"""Draw the pictures of the README and the first page: ``book/_static/descent.png``, the robust loss
of counterexample 2 and its directions, and ``ledger.png``, what chapter 14 records.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ddi import plots

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "experiments"))
import ledger_table  # noqa: E402


def phi(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """``max over d in [0, 1] of d p + (1 - d) q + d (d - 1)``: convex in d, so an end wins."""
    return np.maximum(p, q)


def landscape(ax: plt.Axes, u: np.ndarray, v: np.ndarray) -> None:
    """Contours of ``phi`` around 0; where it is below its value at 0 the ground is blue."""
    grid = np.linspace(-1.25, 1.25, 400)
    X, Y = np.meshgrid(grid, grid)
    values = phi(u[0] * X + u[1] * Y, v[0] * X + v[1] * Y)
    ax.contourf(X, Y, values, levels=[-2, 0, 2], colors=["#dcebf5", "#f4f4f4"])
    thin = {"colors": "#bbbbbb", "linewidths": 0.8, "linestyles": "-"}
    ax.contour(X, Y, values, levels=np.arange(-1.6, 1.7, 0.1), **thin)
    ax.contour(X, Y, values, levels=[0], colors="black", linewidths=2)
    ax.annotate("φ as at θ", (0.53, -0.9), rotation=-65, ha="center", va="center")


def arrow(ax: plt.Axes, tip: np.ndarray, method: str, text: str, shift: tuple) -> None:
    """From 0 to ``tip``, in the method's colour, with its words."""
    colour = plots.METHODS[method]["color"]
    head = {"arrowstyle": "-|>", "lw": 3, "color": colour, "mutation_scale": 20}
    ax.annotate("", tip, (0, 0), arrowprops=head)
    words = {"ha": "center", "va": "center", "fontweight": "bold", "fontsize": 12}
    ax.annotate(text, tip + np.array(shift), color=colour, **words)


def ledger() -> None:
    """Robust loss of the ledger's main setting, against the path and against the flow's time."""
    cells = ledger_table.read(ROOT / "results" / "ledger" / "small-a")
    names = {
        "single-h0.1": ("PGD normalised", {}, "one gradient, steps of 0.1"),
        "single-h0.02": ("PGD", {"linestyle": ":"}, "one gradient, steps of 0.02"),
        "product-h0.1": ("product DDi", {}, "product direction, steps of 0.1"),
    }
    fig, axes = plt.subplots(2, 1, figsize=(6.4, 6.4), sharey=True, layout="constrained")
    for cell, (method, more, label) in names.items():
        clock, values = (v.mean(1) for v in ledger_table.against_time(cells[cell]))
        sizes = ledger_table.block_sizes(cells[cell])
        length = sizes.cumsum() - sizes / 2
        style = plots.METHODS[method] | more
        for ax, x in zip(axes, (length, clock), strict=True):
            ax.plot(x, values, markevery=4, **style, label=label)
    axes[0].set(xlabel="length of the path, Σ h", ylabel="robust loss (nats)")
    axes[1].set(xlabel="time of the flow, Σ h / ‖d‖", ylabel="robust loss (nats)")
    axes[0].legend(frameon=False)
    fig.savefig(ROOT / "book" / "_static" / "ledger.png", dpi=110)


def main() -> None:
    """The landscape, the two negative gradients, and the steepest descent direction."""
    plots.use_style()
    angle = np.deg2rad(65)
    u, v = np.array([np.sin(angle), np.cos(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    fig, ax = plt.subplots(figsize=(6.4, 4.5))
    landscape(ax, u, v)
    steepest = -(u + v) / np.linalg.norm(u + v)
    arrow(ax, -u, "PGD", "$-\\nabla g_1$: φ rises", (0.05, -0.13))
    arrow(ax, -v, "PGD", "$-\\nabla g_2$: φ rises", (-0.05, -0.13))
    arrow(ax, steepest, "DDi", "$-(\\nabla g_1 + \\nabla g_2)$: φ falls", (0, -0.12))
    ax.plot(0, 0, "ko", markersize=7)
    ax.annotate("θ", (0, 0), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=14)
    ax.set(xlim=(-1.25, 1.25), ylim=(-1.25, 0.5), aspect="equal")
    ax.set_axis_off()
    fig.savefig(Path(__file__).parents[1] / "_static" / "descent.png", dpi=130)
    ledger()


if __name__ == "__main__":
    main()
