# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,-all
#     cell_metadata_filter: tags,mystnb,-all
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (chapter-08)=
# # A synthetic min-max problem
#
# :::{admonition} What you will learn
# :class: frame
#
# - the two-dimensional problem of the paper's Figure 1, in closed form: where its kink is, and where one gradient ascends;
# - how much of the zig-zag comes from finite steps, how much from inexact maximisers, and how much from the kink;
# - what normalisation alone does, and what is left for Danskin's descent direction (DDi) to gain;
# - why near ties must not be treated as ties, and how the bundle step avoids it.
#
# **Before you start.** {ref}`Chapter 3 <chapter-03>` (the corollary, kinks, the subgradient method), {ref}`chapter 4 <chapter-04>` (steepest descent)
# and the bundle step of {ref}`chapter 7 <chapter-07>`. Symbols: {ref}`notation`.
#
# **Time and hardware.** An hour to read; about ten seconds to run on one processor core.
# :::

# %% tags=["remove-cell"]
# Only in Colab: fetch the book and install it in place. Anywhere else this cell does nothing.
import importlib.util
import subprocess
import sys
from pathlib import Path

REPOSITORY = ""  # `make notebooks` copies repository.url of _config.yml here
if "google.colab" in sys.modules and importlib.util.find_spec("ddi") is None:
    if not REPOSITORY:
        raise RuntimeError("First run `!git clone ADDRESS ddi-book`, then `%pip install -e ddi-book`, and restart.")
    clone = str(Path("ddi-book").resolve())
    if not Path(clone).exists():
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", REPOSITORY, clone], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-e", clone], check=True)
    sys.path.insert(0, clone)  # an installation in place is seen from the next start on

# %% tags=["hide-input"]
import math
from functools import partial

import matplotlib.pyplot as plt
import torch
from matplotlib.patheffects import withStroke

import ddi
from ddi import plots

plots.use_style()
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## Two walks
#
# {numref}`fig-08-paths` is the first experiment of {cite:t}`latorre2023`. The robust loss of two parameters is a bowl with a crease. From a point on the crease PGD, which follows one gradient, zigzags across it; DDi, which follows the least-norm point of ten, walks along it.
#
# So the paper says. But {ref}`chapter 3 <chapter-03>` asked: *null set, finite steps, or inexact maximisers?* This problem is so small that each can be turned off by itself. In the released code's variant ({numref}`fig-08-ledger`) about half of the harm to normalised PGD is a matter of inexact maximisers, nearly all the rest one of finite steps. The crease as such is nothing, but for one thing: *the code starts on it*.

# %% tags=["hide-input"]
def φ(θ):
    """The robust loss in closed form, for θ (..., 2)."""
    return θ[..., 0] ** 2 + (θ[..., 1].abs() + 1) ** 2


def g(θ, δ, κ=0.0):
    """Losses (n, m) at θ (n, 2) and δ (n, m)."""
    common = (θ**2).sum(1, keepdim=True) + 1
    return common + 2 * θ[:, 1:] * (2 * δ - 1) - κ * δ * (1 - δ)


def gradients(θ, δ):
    """Gradients in θ, (n, m, 2), whatever κ is."""
    second = 2 * θ[:, 1:] + 2 * (2 * δ - 1)
    return torch.stack([(2 * θ[:, :1]).expand_as(second), second], -1)


def ascend(θ, m, draw, α=1.0, κ=0.0, steps=10):
    """δ (n, m): m restarts of projected gradient ascent at each θ."""
    δ = torch.rand(len(θ), m, generator=draw)
    grow, push = 1 + 2 * α * κ, α * (4 * θ[:, 1:] - κ)
    for _ in range(steps):  # δ + α (4 θ_2 - κ (1 - 2 δ)), projected
        δ = (grow * δ + push).clamp_(0, 1)
    return δ


def exact(θ, m=1):
    """The maximiser, m times."""
    return (θ[:, 1:] > 0).double().expand(-1, m)


# %% tags=["hide-input"]
def single(G, *_):
    return G[:, 0]  # of one restart


def least(G, *_):
    """Least norm of the hull of G (n, m, 2), here a segment."""
    low, high = G[..., 1].amin(1), G[..., 1].amax(1)
    return torch.stack([G[:, 0, 0], torch.zeros(()).clamp(low, high)], 1)


def unit(rule):
    """The rule, normalised; 0 stays 0."""

    def normalised(*given):
        w = rule(*given)
        norm = w.norm(dim=1, keepdim=True)
        return w / torch.where(norm > 0, norm, 1.0)

    return normalised


RULES = {"PGD": single, "PGD normalised": unit(single), "DDi": unit(least)}


def walk(θ, rule, β, attack, κ=0.0):
    """The path (K + 1, n, 2) of θ - β_k w from n starts (n, 2) at once.

    A rule gets the gradients, the losses (for the bundle, later) and β_k.
    """
    path = [θ]
    for step in β.tolist():
        δ = attack(path[-1])
        w = rule(gradients(path[-1], δ), g(path[-1], δ, κ), step)
        path.append(path[-1] - step * w)
    return torch.stack(path)


K = 50
TEXT = {"β": 0.5 / torch.arange(1, K + 1).sqrt(), "κ": 0.0}
CODE = {"β": torch.full((K,), 0.1), "κ": 1.0}


def run(rule, θ, setting, α=1.0):
    """Walk by a rule, attacking as the setting does."""
    m = 1 if rule in (single, RULES["PGD normalised"]) else 10  # restarts
    draw = torch.Generator().manual_seed(0)
    attack = partial(ascend, m=m, draw=draw, α=α, κ=setting["κ"])
    return walk(θ, rule, setting["β"], attack, setting["κ"])


on_kink = torch.tensor([[1.0, 0.0]]).repeat(200, 1)  # 200 runs from (1, 0)
FIXED = {"β": CODE["β"], "κ": 0.0}  # the text's function, fixed step


def all_three(θ, setting):
    return {name: run(rule, θ, setting) for name, rule in RULES.items()}


kink_text, kink_code = (all_three(on_kink, s) for s in (TEXT, CODE))

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-08-paths", "caption": "From (1, 0), a point on the kink (dotted), DDi walks along the crease and PGD zigzags across it, in the text's setting (left) and in the code's (right). One run each. Top: contours of φ. Bottom: φ − 1."}, "image": {"alt": "Four panels. Top: contours of phi with a horizontal dotted crease; from the point (1, 0) an orange path zigzags across the crease, a blue one runs straight along it to the centre. In the text's setting unnormalised PGD jumps to the vertical axis at once and stays on it. Bottom: phi minus 1 against the step. Unnormalised PGD first leaves the panel at the top, then falls smoothly; normalised PGD jumps up and down all the way, in the code's setting between 0.1 and 0.6; DDi falls quickly to nearly 0."}}
axis, tall = torch.linspace(-0.6, 1.2, 161), torch.linspace(-1.05, 1.05, 161)
X, Y = torch.meshgrid(axis, tall, indexing="xy")
surface = φ(torch.stack([X, Y], -1)) - 1
halo = [withStroke(linewidth=4, foreground="white")]
fig, axes = plt.subplots(2, 2, figsize=(6.2, 6.6), height_ratios=[1.05, 1])
for column, (paths, title) in enumerate(((kink_text, "text"), (kink_code, "code"))):
    plane, value = axes[:, column]
    plane.contour(X, Y, surface, levels=[0.1, 0.3, 0.7, 1.2, 2, 3], colors="#bbbbbb", linewidths=0.9)
    plane.axhline(0, color="black", linestyle=":", linewidth=1.2)
    for name in ("PGD", "PGD normalised", "DDi"):
        if name == "PGD" and column == 1:
            continue  # the code has no unnormalised PGD
        style = plots.METHODS[name]
        plane.plot(*paths[name][:, 0].T, color=style["color"], marker=style["marker"], linestyle="-", linewidth=1.1, markersize=3.5)
        plots.line(value, range(K + 1), φ(paths[name][:, 0]) - 1, name, "", linewidth=1.6, markersize=4)
    plane.plot(0, 0, "*", color="black", markersize=14, zorder=4)
    plane.set(xlabel="$θ_1$", xlim=(-0.6, 1.2), ylim=(-1.05, 1.05), aspect="equal", xticks=[-0.5, 0, 0.5, 1], yticks=[-1, 0, 1])
    plane.grid(False)
    value.set(xlabel="step k", ylim=(-0.03, 1.45), xlim=(0, K), xticks=[0, 25, 50])
    value.annotate(title, (0.96, 0.95), xycoords="axes fraction", ha="right", va="top", fontsize=13)
axes[0, 0].set_ylabel("$θ_2$")
axes[1, 0].set_ylabel("φ(θ) − 1")
for ax, name, place in (
    (axes[0, 0], "PGD", (-0.1, 0.62)), (axes[0, 0], "PGD\nnormalised", (0.48, -0.74)), (axes[0, 0], "DDi", (0.5, 0.1)),
    (axes[0, 1], "PGD normalised", (0.0, 0.5)), (axes[0, 1], "DDi", (0.4, -0.3)),
):
    ax.text(*place, name, color=plots.METHODS[name.replace("\n", " ")]["color"], ha="right" if name == "PGD" else "left", va="center", path_effects=halo)
plt.show()

# %% [markdown]
# ## The problem
#
# :::{admonition} Source's claim (Latorre et al. 2023, section 5.2 and Figure 1, (a) and (b))
# :class: claim
#
# On $g(\theta, \delta) = \delta\,(\theta_1^2 + (\theta_2 + 1)^2)$ $+\; (1 - \delta)\,(\theta_1^2 + (\theta_2 - 1)^2)$ with $\theta \in \mathbb{R}^2$ and $\delta \in [0, 1]$, a problem borrowed from {cite:t}`orabona2019`, the gradient at a single example leads to an increase of the objective and to unstable behaviour, in spite of a decaying step size. DDi computes ten examples and can avoid this.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# The text, with appendix B.3, leaves three things open. The code released with the paper settles them, but for a slightly different experiment:
#
# | setting | text | code |
# |---|---|---|
# | extra term in $g$ | none | $-\delta(1 - \delta)$ |
# | start | not said | $(1, 0)$ |
# | inner ascent | ten steps, their length not said | of length $1$, from a uniform random $\delta$ |
# | outer step of number $k$ | $0.5/\sqrt k$; a fixed one is said to give the same picture | $0.1$ |
# | PGD's gradient | not said | normalised, as DDi's is |
#
# Which of the two drew the figure cannot be known. We follow the text, take from the code what the text leaves open, and show *the code's variant* beside it.
# :::
#
# Both experiments are one function, with $\kappa = 0$ for the text and $\kappa = 1$ for the code. Multiply out:
#
# ```{math}
# :label: eq-08-g
#
# \begin{aligned}
# g(\theta, \delta) ={} & \lVert\theta\rVert^2 + 1 + 2\theta_2\,(2\delta - 1) \\
# & - \kappa\,\delta\,(1 - \delta) .
# \end{aligned}
# ```
#
# ::::{prf:theorem} The problem in closed form
# :label: thm-08-phi
#
# For every $\kappa \ge 0$:
#
# 1. $\phi(\theta) = \lVert\theta\rVert^2 + 1 + 2|\theta_2|$. It is convex, and $0$ is its only minimiser, with $\phi(0) = 1$.
# 2. Where $\theta_2 > 0$ the only maximiser is $\delta = 1$; where $\theta_2 < 0$ it is $\delta = 0$; there $\nabla\phi(\theta) \ne 0$, and the corollary is true. Where $\theta_2 = 0$ both ends are maximisers, and for $\kappa = 0$ so is every $\delta$ between.
# 3. At a point $(a, 0)$ of this *kink* the two ends have the gradients $v_\pm = (2a, \pm2)$, and for all $t \ge 0$
#
# $$
# \begin{aligned}
# & \phi\bigl((a, 0) - t v_\pm\bigr) - \phi(a, 0) \\
# & \quad = 4t\,(1 - a^2) + 4t^2\,(1 + a^2) .
# \end{aligned}
# $$
#
# So $-v_\pm$ ascends if $|a| < 1$. At $|a| = 1$ its slope is $0$, yet $\phi$ rises at every $t > 0$. For $a \ne 0$ the steepest descent direction is $(-\operatorname{sign} a,\, 0)$, along the kink, with slope $-2|a|$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-08-phi`
#
# ::::{prf:proof}
# For fixed $\theta$, $g$ is linear ($\kappa = 0$) or strictly convex ($\kappa > 0$) in $\delta$, so its maximum over $[0, 1]$ is at an end, and strictly between the ends $g$ is smaller unless $\kappa = 0$ and $\theta_2 = 0$. The extra term vanishes at the ends. Their values are $\lVert\theta\rVert^2 + 1 \pm 2\theta_2$. This gives 1 and 2. Off the kink the gradient is $(2\theta_1,\, 2\theta_2 \pm 2)$ with the sign of $\theta_2$, so it is not $0$.
#
# For 3: $(a, 0) - t v_\pm = (a(1 - 2t),\, \mp2t)$, and $\phi$ there is $a^2 (1 - 2t)^2 + (1 + 2t)^2$; subtract $a^2 + 1$. The hull of the gradients at the kink is the segment from $v_-$ to $v_+$, for $\kappa = 0$ too. Its point of least norm is $(2a, 0)$, and Theorem 2 of the paper ({ref}`chapter 4 <chapter-04>`) gives the direction.
# ::::
# :::::
#
# In plain words: a bowl with a crease along the $\theta_1$ axis. The minimiser lies in the crease. Inside the crease and within distance $1$ of the minimiser, a step against either gradient climbs the other side. The code starts at $(1, 0)$: exactly *on* the crease, and exactly where such steps begin to harm.
#
# (check-08-1)=
# **Check 08.1** *(the closed form, for the text's function and the code's).* At 500 random $\theta$ and $\kappa = 0, 1, 5$: brute force over 101 perturbations, the formula as printed in the paper, and {eq}`eq-08-g` agree with $\phi$ to $10^{-12}$; the extra term never changes $\phi$; autograd gives `gradients`. The best $\delta$ is the end that the theorem names.

# %% tags=["hide-input"]
draw = torch.Generator().manual_seed(8)
θ = 3 * torch.rand(500, 2, generator=draw) - 1.5
δ = torch.linspace(0, 1, 101)
up, down = (θ[:, :1] ** 2 + (θ[:, 1:] + end) ** 2 for end in (1, -1))
for κ in (0.0, 1.0, 5.0):
    printed = δ * up + (1 - δ) * down - κ * δ * (1 - δ)
    assert (printed - g(θ, δ.expand(500, 101), κ)).abs().max() < 1e-12
    assert (printed.amax(1) - φ(θ)).abs().max() < 1e-12
    assert torch.equal(δ[printed.argmax(1)], (θ[:, 1] > 0).double())

leaf, some = θ.clone().requires_grad_(), torch.rand(500, 1, generator=draw)
for κ in (0.0, 1.0):
    (automatic,) = torch.autograd.grad(g(leaf, some, κ).sum(), leaf)
    assert (automatic - gradients(θ, some)[:, 0]).abs().max() < 1e-12
print(f"✓ three formulas agree at {len(θ)} points and for three κ")

# %% [markdown]
# (check-08-2)=
# **Check 08.2** *(on the kink a single gradient ascends exactly within distance 1 of the minimiser).* For 61 points $(a, 0)$, $|a| \le 1.5$: the slope along $-v_\pm$ by `ddi.directional_derivative` is $4(1 - a^2)$ (to $10^{-12}$), the rise at 40 step lengths is the polynomial of the theorem (to $10^{-12}$) and positive where $|a| \le 1$, the code's start $(1, 0)$ included. At four of them `ddi.steepest_descent` points along the kink.

# %%
ends, t = torch.tensor([[0.0, 1.0]]), torch.logspace(-6, 0, 40)
climbs = 0
for a in torch.arange(-30, 31) / 20:
    kink = torch.stack([a, torch.zeros(())])
    M = gradients(kink[None], ends)[0]
    for v in M:
        slope = ddi.directional_derivative(M, -v)
        assert abs(slope - 4 * (1 - a**2)) < 1e-12
        rise = φ(kink - t[:, None] * v) - φ(kink)
        formula = 4 * t * (1 - a**2) + 4 * t**2 * (1 + a**2)
        assert (rise - formula).abs().max() < 1e-12
        assert (rise > 0).all() or abs(a) > 1
    climbs += bool((rise > 0).all())
print(f"✓ of 61 points {climbs} climb at every length")

# %% tags=["hide-input"]
# NBVAL_IGNORE_OUTPUT
for a in (-1.5, -0.7, 0.3, 1.0):
    kink = torch.tensor([[a, 0.0]])
    steepest = ddi.steepest_descent(gradients(kink, ends)[0])
    assert abs(steepest.slope + 2 * abs(a)) < 1e-9
    along = torch.tensor([-math.copysign(1, a), 0.0])
    assert (steepest.direction - along).norm() < 1e-9
    print(f"✓ at ({a}, 0): along the kink, slope {steepest.slope:.1f}")

# %% [markdown]
# ## What ten steps of ascent find
#
# The attack starts from a uniform random $\delta_0$ and takes $n = 10$ steps of projected gradient ascent of size $\alpha$.
#
# ::::{prf:theorem} What the attack finds
# :label: thm-08-attack
#
# Let $\operatorname{clip}$ be the projection onto $[0, 1]$.
#
# 1. In the text's problem ($\kappa = 0$) the attack ends at $\operatorname{clip}(\delta_0 + 4\alpha n\,\theta_2)$. For $\theta_2 \ne 0$ that is the maximiser with probability $\min(1,\, 4\alpha n\,|\theta_2|)$.
# 2. In the code's variant ($\kappa = \alpha = 1$) it ends at $\operatorname{clip}(c + 3^n (\delta_0 - c))$ with $c = \tfrac12 - 2\theta_2$. For $\theta_2 \ne 0$ it tends, as $n \to \infty$, to the *wrong* end with probability $\tfrac12 (1 - 4|\theta_2|)_+$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-08-attack`
#
# ::::{prf:proof}
# 1. The slope in $\delta$ is $4\theta_2$ everywhere. Steps of one sign, clipped one by one, end where their sum, clipped once, ends. For $\theta_2 > 0$ the end $1$ is reached if and only if $\delta_0 \ge 1 - 4\alpha n\theta_2$.
# 2. The slope is $4\theta_2 - (1 - 2\delta) = 2(\delta - c)$, so one step triples the distance from $c$, without change of sign, until an end stops it. From $\delta_0 > c$ the path never falls and goes to $1$, from $\delta_0 < c$ to $0$. Say $\theta_2 > 0$, so that $1$ is right: the wrong end is reached with probability $\Pr[\delta_0 < c] = \max(c, 0)$. The other sign is symmetric.
# ::::
# :::::
#
# In plain words: for the text's function ten steps of size $1$ find the maximiser surely as soon as $|\theta_2| \ge 1/40$; closer to the kink it depends on $\delta_0$. The code's extra term is a ridge between the two ends. In the strip $|\theta_2| < 1/4$ the wrong end is a local maximum, and no number of steps repairs a start on the wrong side.
#
# (check-08-3)=
# **Check 08.3** *(what the attack finds).* At 13 values of $\theta_2$, with $20\,000$ restarts each: the attack ends where {prf:ref}`thm-08-attack` says (to $10^{-9}$), for the text's function with $\alpha = 1$ and $0.1$ and for the code's variant; and off the kink the share of restarts at the maximiser is within $0.02$ of the probability (more than five standard deviations; for the code's variant, of the limit).

# %% tags=["hide-input"]
# NBVAL_IGNORE_OUTPUT
below = [-0.3, -0.2, -0.1, -0.05, -0.02, -0.01]
above = [0.005, 0.015, 0.03, 0.12, 0.22, 0.27]
second = torch.tensor([*below, 0.0, *above])
attacks = {"text, α = 1": (1, 0), "text, α = 0.1": (0.1, 0)}
attacks["code"] = (1, 1)  # α and κ
line, shares = torch.stack([torch.ones(13), second], 1), {}
for name, (α, κ) in attacks.items():
    δ0 = ascend(line, 20_000, torch.Generator().manual_seed(3), steps=0)
    found = ascend(line, 20_000, torch.Generator().manual_seed(3), α, κ)
    c = 0.5 - 2 * second[:, None]
    formula = c + 3**10 * (δ0 - c) if κ else δ0 + 40 * α * second[:, None]
    assert (found - formula.clamp(0, 1)).abs().max() < 1e-9
    shares[name] = (found == exact(line)).double().mean(1)


def probability(gap, name):
    """That the attack ends at the maximiser, where |θ_2| = gap > 0."""
    if name == "code":
        return (0.5 + 2 * gap).clamp_max(1)
    return (gap * (40 if name == "text, α = 1" else 4)).clamp_max(1)


off = second != 0
for name, share in shares.items():
    expected = probability(second.abs(), name)
    assert (share - expected)[off].abs().max() < 0.02
    print(f"✓ {name}: off by {(share - expected)[off].abs().max():.3f}, bound 0.02")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-08-attack", "caption": "How surely one attack finds the maximiser. In the text's problem with inner step α = 1 it can fail only next to the kink; with α = 0.1, and in the code's variant, in a strip ten times as wide."}, "image": {"alt": "Probability that ten ascent steps end at the maximiser, against the distance from the kink, 0 to 0.32. The line of the text's problem with inner step 1 rises from 0 to 1 at a distance of 0.025; the code's variant rises from one half to one at 0.25; the text's problem with inner step 0.1 rises from 0 to 1 at 0.25. Measured markers lie on the lines."}}
fig, ax = plt.subplots(figsize=(6.4, 3.6))
gap = torch.linspace(1e-4, 0.32, 400)
looks = {
    "text, α = 1": ("#000000", "-", "o", (0.034, 0.93)),
    "text, α = 0.1": ("#56B4E9", "--", "s", (0.135, 0.45)),
    "code": ("#009E73", "-.", "D", (0.055, 0.68)),
}
for name, (colour, dash, marker, place) in looks.items():
    ax.plot(gap, probability(gap, name), color=colour, linestyle=dash)
    ax.plot(second.abs()[off], shares[name][off], marker, color=colour, markersize=6)
    ax.text(*place, name, color=colour, va="center")
ax.set(xlabel="distance from the kink, |θ₂|", ylabel="P(attack is exact)")
ax.set(xlim=(0, 0.32), ylim=(-0.03, 1.05))
plt.show()

# %% [markdown]
# {numref}`fig-08-attack`: the extra term of the code, which leaves $\phi$ as it is, turns an almost perfect attack into a gamble. It also makes *ten* restarts likely to find *both* ends within the strip.
#
# ## The figure, as the text and as the code have it
#
# Back to {numref}`fig-08-paths`. Each step is $\theta \leftarrow \theta - \beta_k w$, and its three methods are:
#
# - **PGD**: $w$ is the gradient at one restart. **PGD normalised**: the same, divided by its norm.
# - **DDi**: the point of least norm of the hull of ten restarts' gradients, divided by its norm (Algorithm 1).
#
# All gradients at one $\theta$ share their first component, so the hull is a segment, and its point of least norm is a clamp.
#
# Two numbers sum up a path. The *excess* is $\phi - 1$ averaged over the last ten iterates: how far from the minimum it ends. The *rise* is the sum of all increases of $\phi$: how erratic it was.

# %% tags=["hide-input"]
def excess(path):
    return float((φ(path[-10:]) - 1).mean())


def rise(path):
    return float(φ(path).diff(dim=0).clamp_min(0).sum(0).mean())


def table(left, right, rows):
    """Print excess and rise of each row's two sets of paths, mean ± std over the runs."""
    print(f"{'':19}{left:^24}{right:^24}".rstrip())
    print(" " * 19 + "      excess        rise" * 2)
    for name, both in rows.items():
        print(f"{name:19}", end="")
        for path in both:
            increases = φ(path).diff(dim=0).clamp_min(0).sum(0)
            for runs in ((φ(path[-10:]) - 1).mean(0), increases):
                print(f" {runs.mean():5.2f} ±{runs.std():4.2f}", end="")
        print()

# %% [markdown]
# (check-08-4)=
# **Check 08.4** *(from the code's start the paper's picture comes out, for the text's setting and for the code's).* Means of 200 runs of 50 steps from $(1, 0)$. DDi's rise is less than a tenth of normalised PGD's, and its excess less than a fifth, in both settings; with a fixed step on the text's function, less than half and less than a fifth. Yet DDi, too, raises $\phi$ in more than 30 % of its steps, by little. A text-setting DDi run stays *on the kink*, $\theta_2 = 0$ to the last bit, with probability $(1 - 2^{-9})^{50} = 0.91$: the share of 2000 runs agrees to $0.03$. At 50 other points the clamp is what `ddi.steepest_descent` finds, to $10^{-9}$.

# %% tags=["hide-input"]
# NBVAL_IGNORE_OUTPUT
for paths in (kink_text, kink_code):
    assert rise(paths["DDi"]) < rise(paths["PGD normalised"]) / 10
    assert excess(paths["DDi"]) < excess(paths["PGD normalised"]) / 5
    assert (φ(paths["DDi"]).diff(dim=0) > 1e-12).double().mean() > 0.3
    rises = rise(paths["DDi"]), rise(paths["PGD normalised"])
    print(f"✓ rise: DDi {rises[0] / rises[1]:.3f} of PGD's; bound 0.1")
kink_fixed = all_three(on_kink, FIXED)
assert rise(kink_fixed["DDi"]) < rise(kink_fixed["PGD normalised"]) / 2
assert excess(kink_fixed["DDi"]) < excess(kink_fixed["PGD normalised"]) / 5
many = run(RULES["DDi"], on_kink.repeat(10, 1), TEXT)
stays = (many[..., 1] == 0).all(0).double().mean()
assert abs(stays - (1 - 2**-9) ** 50) < 0.03
print(f"✓ stays on the kink: {stays:.2f}, predicted {(1 - 2**-9) ** 50:.2f}")
near = torch.rand(50, 2, generator=draw) * torch.tensor([1.0, 0.1])
for M in gradients(near, torch.rand(50, 10, generator=draw)):
    best = ddi.steepest_descent(M)
    assert (best.slope * best.direction - least(M[None])[0]).norm() < 1e-9

# %% [markdown]
# So far the paper's claim stands. But DDi owes its straight walk to a start on a line that random starts miss with probability one.
#
# ## A start drawn at random
#
# We draw 200 starts uniformly from the square $[-1.5, 1.5]^2$, the window of the code's picture. Everything else stays. (Tables: mean ± standard deviation over 200 runs.)

# %% tags=["hide-input"]
place = torch.Generator().manual_seed(1)
starts = 3 * torch.rand(200, 2, generator=place) - 1.5
text, code = (all_three(starts, s) for s in (TEXT, CODE))


def ratio(paths):
    """DDi's excess in units of normalised PGD's."""
    return excess(paths["DDi"]) / excess(paths["PGD normalised"])


pairs = {"text": (kink_text, text), "code": (kink_code, code)}
methods = ("PGD normalised", "DDi")
table(
    "from (1, 0)",
    "random starts",
    {
        f"{key}, {name}": [paths[name] for paths in both]
        for key, both in pairs.items()
        for name in methods
    },
)

# %% [markdown]
# DDi's excess is no longer small. Its *rise* depends on the variant. In the text's setting it is half of normalised PGD's. In the code's variant it is still next to nothing: there DDi is stable, but *biased*, for it settles beside the minimiser, with half of PGD's excess.
#
# To see where the rest comes from, give both methods *exact* maximisers.
#
# ::::{prf:proposition} With an exact attack, DDi is normalised PGD
# :label: thm-08-same
#
# As long as no iterate has $\theta_2 = 0$, the paths of DDi and of normalised PGD with exact maximisers are the same path.
# ::::
#
# For off the kink the maximiser is unique ({prf:ref}`thm-08-phi`): all ten restarts find it, and the hull of their gradients is one point. So whatever DDi gains here from a random start, it gains *because* its restarts miss the maximum.
#
# (check-08-5)=
# **Check 08.5** *(from random starts: with an exact attack DDi and normalised PGD are the same; with the real attack DDi's advantage in excess shrinks at least threefold, and in rise it stays in the code's variant only; no iterate is on the kink).* 200 starts, 50 steps. The two paths agree to $10^{-9}$. The quotient of DDi's excess and normalised PGD's is below $0.15$ from $(1, 0)$, above $0.35$ from random starts, and at least three times as large there, in both settings.
# DDi's rise from random starts is a third to two thirds of normalised PGD's in the text's setting, and less than a tenth in the code's variant; with a fixed step on the text's function it is more than half, and the excess more than two thirds. In the code's variant DDi's excess is within a quarter of that of normalised PGD *with an exact attack*. In its last 25 steps normalised PGD with an exact attack is never farther from the kink than its last step was long (to $10^{-9}$).

# %% tags=["hide-input"]
# NBVAL_IGNORE_OUTPUT
def exactly(rule, θ, β, m=10):
    """Walk by a rule that is given the exact maximiser."""
    return walk(θ, rule, β, partial(exact, m=m))


for β in (TEXT["β"], CODE["β"]):
    alone = exactly(RULES["PGD normalised"], starts, β)
    assert (alone - exactly(RULES["DDi"], starts, β)).abs().max() < 1e-9
    assert (alone[..., 1] != 0).all()
    apart = (alone - exactly(RULES["DDi"], starts, β)).abs().max()
    assert (alone[26:, :, 1].abs() <= β[25:, None] + 1e-9).all()
    print(f"✓ exact attack: the paths differ by {apart:.0e}, bound 1e-9")

# %% tags=["nbval-ignore-output"]
for here, there in ((text, kink_text), (code, kink_code)):
    assert ratio(there) < 0.15 and ratio(here) > 0.35
    assert ratio(here) > 3 * ratio(there)
    print(f"✓ DDi's share of the excess: from (1, 0) {ratio(there):.2f},")
    print(f"  from random starts {ratio(here):.2f}")
    for name in ("PGD normalised", "DDi"):
        assert (here[name][..., 1] != 0).all()
exact_code = exactly(RULES["PGD normalised"], starts, CODE["β"])
fixed = all_three(starts, FIXED)
assert rise(fixed["DDi"]) > rise(fixed["PGD normalised"]) / 2
assert ratio(fixed) > 2 / 3
assert 1 / 3 < rise(text["DDi"]) / rise(text["PGD normalised"]) < 2 / 3
assert rise(code["DDi"]) < rise(code["PGD normalised"]) / 10  # stable
assert abs(excess(code["DDi"]) / excess(exact_code) - 1) < 0.25  # but biased

# %% [markdown]
# ## What normalisation does
#
# The source (section 5.2 with appendix B.3) says that following a single gradient is unstable although the step, $0.5/\sqrt k$, decays.
#
# :::{admonition} Our comment
# :class: comment
#
# For *normalised* PGD this holds. For PGD as it is usually understood, unnormalised (*raw*), it does not, and the reason is in the constants.
# With inner steps of size 1, as in the code, the text's attack from random starts is nearly exact. A raw step of size $\beta$ multiplies $\theta$ by $1 - 2\beta$ and, with the maximiser, moves $\theta_2$ by $2\beta$ towards the other side. The first step has $\beta_1 = 1/2$: it forgets the start. Every path goes to $(0, \mp1)$ at once if the attack is exact, and $\theta_1$ is $0$ for ever, whatever the attack.
# From there an exact path does zigzag, but with a shrinking $|\theta_2|$: $\phi$ falls at *every* later step.
# :::
#
# What does normalisation do, then? Near the minimiser a raw gradient has length about $2$, so normalising it halves the step. If that is all, raw PGD with $\beta_k / 2$ must end where normalised PGD ends.

# %% tags=["hide-input"]
least_text, least_code = (run(least, starts, s) for s in (TEXT, CODE))
table(
    "text",
    "code",
    {
        "raw PGD": (text["PGD"], code["PGD"]),
        "raw DDi": (least_text, least_code),
        "normalised PGD": (text["PGD normalised"], code["PGD normalised"]),
        "normalised DDi": (text["DDi"], code["DDi"]),
    },
)

# %% [markdown]
# Read the table (random starts; mean ± standard deviation) by pairs. In the text's setting the two raw rows agree: from a random start most of DDi's gain over PGD is a shorter step. In the code's variant they do not: there the hull itself has a part in the gain.
# The first half is a warning for the large experiments, where the paper, as far as its text says, compares a normalised DDi with a raw PGD at one learning rate; {ref}`chapter 12 <chapter-12>` has the control.
#
# (check-08-6)=
# **Check 08.6** *(normalisation halves the step; whether that calms the path depends on the variant).* Random starts. Raw PGD with an exact attack in the text's setting: $\theta_1$ is exactly $0$ after one step, and $\phi$ falls at each of the steps 2 to 1000. With the real attack, raw PGD with half the step ends within 15 % of normalised PGD's excess, in the text's setting and in the code's.
# Normalised PGD's rise is more than three times raw PGD's in the text's setting, and less than two thirds of it in the code's variant. In the text's setting at least two thirds of the improvement from PGD to DDi is there in normalised PGD; *without* normalisation DDi improves PGD's excess by less than 10 % of it. In the code's variant it improves it by more than 40 %.

# %% tags=["hide-input"]
# NBVAL_IGNORE_OUTPUT
long = 0.5 / torch.arange(1, 1001).sqrt()
raw = exactly(single, starts, long)
assert (raw[1:, :, 0] == 0).all()
assert (raw[1, :, 1].abs() - 1).abs().max() < 1e-12
assert (φ(raw[1:]).diff(dim=0) < 0).all()
for setting, paths in ((TEXT, text), (CODE, code)):
    halved = run(single, starts, setting | {"β": setting["β"] / 2})
    halves = excess(halved) / excess(paths["PGD normalised"])
    assert abs(halves - 1) < 0.15
    print(f"✓ half the step: {halves:.2f} of the excess; bound 1 ± 0.15")
E_raw, E_norm, E_ddi = (excess(text[name]) for name in RULES)
assert (E_raw - E_norm) / (E_raw - E_ddi) > 2 / 3
assert excess(least_text) > 0.9 * E_raw
assert excess(least_code) < 0.6 * excess(code["PGD"])
assert rise(text["PGD normalised"]) > 3 * rise(text["PGD"])
assert rise(code["PGD normalised"]) < 2 / 3 * rise(code["PGD"])
print(f"✓ share of the gain: {(E_raw - E_norm) / (E_raw - E_ddi):.2f}; bound 2/3")

# %% [markdown]
# ## Finite steps: exact maximisers, shorter steps
#
# With exact maximisers and a constant step $h$ the late path can be solved. Each method ends in a cycle of two points.
#
# ::::{prf:theorem} Where the zig-zag ends
# :label: thm-08-cycle
#
# Let maximisers be exact and $0 < h < 1/2$ the constant step. In 1 and 2, let no iterate be on the kink.
#
# 1. *Raw.* $\theta_1 \to 0$ and $|\theta_2| \to h/(1 - h)$, with alternating signs: $\phi - 1$ tends to $(1 - h)^{-2} - 1$, which is about $2h$.
# 2. *Normalised, on the axis $\theta_1 = 0$.* From $|\theta_2| < h$ on the path alternates between two points at the distances $a$ and $h - a$ from the kink, on its two sides. The mean of $\phi - 1$ over the cycle is $h + \tfrac12\bigl(a^2 + (h - a)^2\bigr)$.
# 3. *DDi on the kink, normalised,* with both ends among its restarts. From $0 < |\theta_1| < h$ on it alternates in the same way along the kink, unless it stops at $0$, and with $a = |\theta_1|$ the mean of $\phi - 1$ is $\tfrac12\bigl(a^2 + (h - a)^2\bigr) \le h^2/2$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-08-cycle`
#
# ::::{prf:proof}
# *1.* $\theta_1$ is multiplied by $1 - 2h$. With $r = h/(1 - h)$, the map of $\theta_2$ is $x \mapsto (1 - 2h)x - 2h \operatorname{sign} x$. Let $y = |x|$. If $y > 2h/(1 - 2h)$, the sign stays and $y$ falls by more than $2h$; this happens finitely often. Otherwise the sign changes and the new $y$ is $2h - (1 - 2h)y$, so $y' - r = -(1 - 2h)(y - r)$: the distance from $r$ shrinks by the factor $1 - 2h$. (The image lies in $[0, 2h]$, and $2h \le 2h/(1 - 2h)$, so signs change from then on; an image $0$ is a point of the kink, which we excluded.) Finally $\phi = (1 + r)^2 = (1 - h)^{-2}$.
#
# *2.* On the axis the gradient is $(0,\, \pm(2|\theta_2| + 2))$, so the step is $h$ towards the kink: $a \mapsto h - a$, on the other side, and back. $\phi - 1 = 2a + a^2$; take the mean over $a$ and $h - a$.
#
# *3.* The least vector is $(2\theta_1, 0)$, so for $\theta_1 \ne 0$ the step is $h$ towards $0$, and $\phi - 1 = \theta_1^2$. The maximum of $a^2 + (h - a)^2$ on $[0, h]$ is $h^2$.
# ::::
# :::::
#
# In plain words: across the crease $\phi$ has slopes, so the overshoot costs about $h$; along it $\phi$ is smooth, and the same overshoot costs at most $h^2/2$.
#
# So with exact maximisers the price of finite steps is proportional to the step. With the code's attack it is not: in the strip, chance decides on which side of the kink a gradient belongs. Steps with a restoring drift of order $h\,\theta_2$ and noise of variance of order $h^2$ leave a cloud of width of order $\sqrt h$.
#
# (check-08-7)=
# **Check 08.7** *(three laws: $h$, about $\sqrt h$, and nearly a constant).* Random starts, constant steps $h$ from $0.1$ down to $0.1/8$, the same total length $6$; the excess is now the mean over the last fifth of the path. Exact and raw: $(1 - h)^{-2} - 1$, to 1 % of it. Exact and normalised: $h$, to 10 %. With the code's attack a step eight times shorter divides normalised PGD's excess by only 2 to 4.5 ($\sqrt8$ is 2.8), and DDi's excess changes by less than 60 %.

# %% tags=["hide-input"]
# NBVAL_IGNORE_OUTPUT
lengths, few = [0.1, 0.05, 0.025, 0.0125], starts[:40]
late = {"raw exact": [], "exact": [], "PGD normalised": [], "DDi": []}
for h in lengths:
    β = torch.full((round(6 / h),), h)
    setting = CODE | {"β": β}
    paths = {n: run(RULES[n], few, setting) for n in ("PGD normalised", "DDi")}
    paths["raw exact"] = exactly(single, few, β, 1)
    paths["exact"] = exactly(RULES["PGD normalised"], few, β, 1)
    for name, path in paths.items():
        late[name].append((φ(path[-(len(β) // 5) :]) - 1).mean())
h = torch.tensor(lengths)
E = {name: torch.stack(values) for name, values in late.items()}
assert (E["raw exact"] / ((1 - h) ** -2 - 1) - 1).abs().max() < 0.01
assert (E["exact"] / h - 1).abs().max() < 0.1
assert 2 < E["PGD normalised"][0] / E["PGD normalised"][-1] < 4.5
assert (E["DDi"] / E["DDi"][0] - 1).abs().max() < 0.6
for name, label in (("exact", "exact"), ("PGD normalised", "PGD"), ("DDi", "DDi")):
    print(f"✓ {label}: excess {E[name][0]:.3f}, an eighth of the step {E[name][-1]:.3f}")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-08-steps", "caption": "Late excess against the step length, random starts. With an exact attack the harm of finite steps vanishes with the step; with the code's attack, more slowly; DDi with the code's attack does not improve at all."}, "image": {"alt": "Late excess against step length, both axes logarithmic. Normalised PGD with an exact attack lies on the line of the step length itself, from 0.0125 to 0.1. Normalised PGD with the code's attack falls like the square root, from 0.2 to 0.06. DDi with the code's attack is flat at about 0.1 and lies above both at the shortest step."}}
fig, ax = plt.subplots(figsize=(6.4, 4.2))
for name, method, text_label, dy in (("PGD normalised", "PGD normalised", "PGD normalised,\ncode's attack", 14), ("exact", "true", "PGD normalised,\nexact attack", 4), ("DDi", "DDi", "DDi,\ncode's attack", -26)):
    style = {"marker": "o"} if method == "true" else {}
    drawn = plots.line(ax, h, E[name], method, "", markevery=1, markersize=7, **style)
    x, y = (h[0], E[name][0])
    ax.annotate(text_label, (x, y), (8, dy), textcoords="offset points", color=plots.METHODS[method]["color"], va="center", annotation_clip=False)
for power, start, label in ((1.0, 0.45, "∝ h"), (0.5, 1.35, "∝ √h")):
    guide = start * E["exact" if power == 1 else "PGD normalised"][0] * (h / h[0]) ** power
    ax.plot(h, guide, color="#999999", linewidth=1)
    ax.annotate(label, (h[2], guide[2]), (0, -12 if power == 1 else 12), textcoords="offset points", color="#777777", ha="center")
ax.set(xscale="log", yscale="log", xlabel="step length h", ylabel="late excess φ − 1", xlim=(0.0115, 0.3), ylim=(4e-3, 0.4))
ax.set_xticks([0.0125, 0.025, 0.05, 0.1], ["0.0125", "0.025", "0.05", "0.1"])
ax.minorticks_off()
plt.show()

# %% [markdown]
# In {numref}`fig-08-steps` DDi's curve is level: *Breaking it* says why.
#
# ### As steps shrink, PGD follows DDi's curve
#
# How can PGD with exact maximisers get to the minimum if each of its gradients points across the crease? Two wrong steps add up to a right one. As steps shrink, PGD follows the curve of steepest descent, whichever maximisers it is given ({prf:ref}`thm-08-flow`). The zig-zag is a matter of the step's length; averaged, it moves as DDi does. Here the curve is explicit: $x_1(t) = x_1(0)\,e^{-2t}$ and, for $x_2(0) > 0$, $x_2(t) = \bigl((x_2(0) + 1)\,e^{-2t} - 1\bigr)_+$.
#
# :::::{dropdown} The theorem and its proof
#
# ::::{prf:theorem} Small steps
# :label: thm-08-flow
#
# Let $\phi = \max_\delta g(\cdot, \delta)$ be convex, under the hypotheses of Danskin's theorem.
#
# 1. If an absolutely continuous path has $x'(t) \in -\partial\phi(x(t))$ for almost every $t$, then for almost every $t$, $-x'(t)$ is the point of least norm of $\partial\phi(x(t))$ (classical {cite}`brezis1973`): it moves along DDi's direction.
# 2. For such a path, let $\theta_{k+1} = \theta_k - h\,p_k$ from $\theta_0 = x(0)$, where $p_k$ is the gradient at *any* maximiser at $\theta_k$. If $\lVert p_k\rVert \le L$ and $\lVert x'\rVert \le L$, then $\lVert\theta_k - x(kh)\rVert \le L\sqrt{2h \cdot kh}$.
# ::::
#
# ::::{prf:proof}
# *1.* At almost every $t$ both $x$ and $\phi \circ x$ are differentiable. Let $p \in \partial\phi(x(t))$. For all $s$, $\phi(x(t + s)) - \phi(x(t)) \ge \langle p, x(t + s) - x(t)\rangle$. Divide by $s > 0$ and by $s < 0$ and let $s \to 0$: $(\phi \circ x)'(t) = \langle p, x'(t)\rangle$ for *every* $p$ in the subdifferential. One of them is $q = -x'(t)$. So $\langle p, q\rangle = \lVert q\rVert^2$, hence $\lVert p\rVert \ge \lVert q\rVert$, for all $p$.
#
# *2.* Let $y$ be the polygon through the iterates, $y(t) = \theta_k - (t - kh)p_k$ for $kh \le t \le (k + 1)h$, and $q(t) = -x'(t)$. Then
#
# $$
# \begin{aligned}
# \tfrac12 \tfrac{d}{dt} \lVert x - y\rVert^2 &= -\langle x - \theta_k, q - p_k\rangle \\
# &\quad - \langle\theta_k - y, q - p_k\rangle .
# \end{aligned}
# $$
#
# The first product is at least $0$: add the two subgradient inequalities, of $q$ at $x$ and of $p_k$ at $\theta_k$. ($p_k$ is a regular subgradient, by {prf:ref}`thm-02-hull`, part 1; where $\phi$ is convex a regular subgradient is a subgradient.) The second term is at most $(t - kh)L \cdot 2L$. Integrate: every step adds at most $2L^2 \cdot h^2/2$ to $\tfrac12\lVert x - y\rVert^2$.
# ::::
# :::::
#
# (check-08-8)=
# **Check 08.8** *(raw PGD converges to DDi's curve).* From $(1.2, 0.9)$ up to time 2, for four step lengths from $0.1$ to $0.1/8$: the distance is below the theorem's bound, and below $3h$. At 40 times, before and on the kink, $-x'$ is the least vector that `ddi.steepest_descent` finds, to $10^{-6}$.

# %% tags=["hide-input"]
# NBVAL_IGNORE_OUTPUT
start = torch.tensor([[1.2, 0.9]])


def curve(t):
    decay = torch.exp(-2 * t)
    return torch.stack([1.2 * decay, (1.9 * decay - 1).clamp_min(0)], -1)


L = 2 * math.hypot(1.2, 1.9)  # the longest gradient on the way
for step in lengths:
    k = torch.arange(round(2 / step) + 1)
    path = exactly(single, start, torch.full((len(k) - 1,), step), 1)[:, 0]
    distance = (path - curve(k * step)).norm(dim=1)
    assert (distance <= L * (2 * step * k * step).sqrt() + 1e-12).all()
    assert distance.max() < 3 * step
    print(f"✓ h = {step:g}: distance at most {distance.max() / step:.2f} h, bound 3 h")
for time in torch.linspace(0.01, 1.99, 40):
    x = curve(time)
    velocity = (curve(time + 1e-7) - curve(time - 1e-7)) / 2e-7
    maximisers = ends if x[1] == 0 else exact(x[None])
    steepest = ddi.steepest_descent(gradients(x[None], maximisers)[0])
    assert (-steepest.slope * steepest.direction - velocity).norm() < 1e-6

# %% [markdown]
# ## No kink, the same zig-zag
#
# Is the kink needed at all? Take it away: make $g$ a little concave in $\delta$,
#
# ```{math}
# :label: eq-08-smooth
#
# \begin{gathered}
# g_\mu(\theta, \delta) = \lVert\theta\rVert^2 + 1 + 2\theta_2 s - \mu s^2, \\
# s = 2\delta - 1 .
# \end{gathered}
# ```
#
# ::::{prf:theorem} The smooth twin
# :label: thm-08-smooth
#
# For $\mu > 0$ the maximiser is unique everywhere, $s^\star = \max(-1, \min(1, \theta_2/\mu))$, and $\phi_\mu = \max_\delta g_\mu$ is convex and continuously differentiable, with $\phi - \mu \le \phi_\mu \le \phi$. So the corollary holds at every $\theta$ with a gradient other than $0$.
#
# Raw gradient steps of constant size $h < 1/2$ on $\phi_\mu$ converge to the minimiser if $h < \mu/(1 + \mu)$. If $h > \mu/(1 + \mu)$, then $\theta_2 = \pm h/(1 - h)$, the limit cycle of {prf:ref}`thm-08-cycle`, is a cycle here too, to the last digit.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-08-smooth`
#
# ::::{prf:proof}
# $2\theta_2 s - \mu s^2$ is a concave parabola with its top at $\theta_2/\mu$; clamp it to $[-1, 1]$. Its maximum is $\theta_2^2/\mu$ if $|\theta_2| \le \mu$ and else $2|\theta_2| - \mu$, a Huber function, which is convex, continuously differentiable, and within $\mu$ below $2|\theta_2|$. Where the maximiser is unique the corollary holds ({ref}`chapter 3 <chapter-03>`).
#
# The gradient in $\theta_2$ is $2\theta_2 + 2s^\star$: the derivative of this is $2(1 + 1/\mu)$ or $2$. If $h(1 + 1/\mu) < 1$, both $1 - 2h(1 + 1/\mu)$ and $1 - 2h$ lie in $(-1, 1)$, so the step is a contraction with the fixed point $0$. In the other case $r = h/(1 - h) > \mu$, so at $\theta_2 = \pm r$ we have $s^\star = \pm1$ and the step is that of {prf:ref}`thm-08-cycle`.
# ::::
# :::::
#
# In plain words: here no gradient ever lies. Yet a valley whose floor is narrower than the step cannot be told from a crease. The curvature counts, compared with the step, and not whether a null set exists.
#
# (check-08-9)=
# **Check 08.9** *(without a kink, the same cycle).* Random starts, $h = 0.1$, 400 raw steps with the exact maximiser. For $\mu = 0.01$, $0.05$ and $0.1$, as for the kink, every path ends at $|\theta_2| = 1/9$; for $\mu = 0.12$ and $0.2$ at $0$; all to $10^{-9}$. The threshold $\mu/(1 + \mu) = 0.1$ is $\mu = 1/9$. Normalised PGD, in the code's 50 steps, ends with the excess that it has with the kink, to 5 %, for $\mu = 0.02$ and even for $\mu = 0.3$: a normalised step never grows shorter. (The excess is that of $\phi$, not of $\phi_\mu$.)

# %% tags=["nbval-ignore-output"]
def smooth_exact(θ, μ):
    """The maximiser of the smooth twin."""
    return (1 + (θ[:, 1:] / μ).clamp(-1, 1)) / 2


β = torch.full((400,), 0.1)
kinked = exactly(single, starts, β, 1)[-1, :, 1].abs()
assert (kinked - 1 / 9).abs().max() < 1e-9
for μ in (0.01, 0.05, 0.1, 0.12, 0.2):
    final = walk(starts, single, β, partial(smooth_exact, μ=μ))[-1]
    end = 1 / 9 if μ < 1 / 9 else 0
    assert (final[:, 1].abs() - end).abs().max() < 1e-9
    assert final[:, 0].abs().max() < 1e-9
    end = final[:, 1].abs().mean()
    print(f"✓ μ = {μ:g}: every path ends at |θ₂| = {end:.4f}")

# %% tags=["hide-input"]
twins = {}
for μ in (0.02, 0.3):
    attack = partial(smooth_exact, μ=μ)
    twins[μ] = walk(starts, RULES["PGD normalised"], CODE["β"], attack)
    assert abs(excess(twins[μ]) / excess(exact_code) - 1) < 0.05

# %% [markdown]
# ## A small ε-active set
#
# If finite steps are the trouble, the classical remedy is to count as active every end whose loss is within $\varepsilon$ of the maximum {cite}`demyanov1974`: $\varepsilon$-steepest descent. The gap between the two ends is $4|\theta_2|$, so both are active in the strip $|\theta_2| \le \varepsilon/4$. There DDi's vector is $(2\theta_1, 0)$ as long as $|\theta_2| < 1$: it walks parallel to the crease.
#
# In this light the code's extra term with ten restarts is an $\varepsilon$-active set with $\varepsilon$ up to $1$, for in that strip both ends are local maxima. And ten restarts of the text's attack are one with $\varepsilon$ up to $0.1$.
#
# ::::{prf:proposition} A strip that no step can jump over
# :label: thm-08-epsilon
#
# Normalised steps of length $h$, exact $\varepsilon$-active ends. If $2h \le \varepsilon < 4$, a path never jumps over the strip; once in, it stays there with its $\theta_2$ unchanged. Its excess cannot fall below $2|\theta_2|$, which may be as large as $\varepsilon/2$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-08-epsilon`
#
# ::::{prf:proof}
# The strip has the width $\varepsilon/2 \ge h$, so no step leads from one side to the other. Inside, $|\theta_2| < 1$, the hull's second components run from $2\theta_2 - 2 < 0$ to $2\theta_2 + 2 > 0$, so the least vector has the second component $0$. And $\phi - 1 \ge 2|\theta_2|$.
# ::::
# :::::
#
# In plain words: $\varepsilon = 2h$ ends the zig-zag. But the path keeps the $\theta_2$ with which it entered, and a wider strip only ends the descent earlier. If it enters anywhere within $\pm h/2$ alike, that costs $h/2$ on average, half of the zig-zag's $h$: that is all there is to gain.
#
# (check-08-10)=
# **Check 08.10** *(a small ε helps, a large one harms).* Random starts, $h = 0.1$, 50 steps. For $\varepsilon = 2h$, $4h$ and $1$ each path crosses the kink at most once, ends with $|\theta_2| \le \varepsilon/4$, and its $\theta_2$ does not change in the last 20 steps. The excess with $\varepsilon = 2h$ is a third to two thirds of that with $\varepsilon = 0$; with $\varepsilon = 1$ it is more than three times as large.

# %% tags=["hide-input"]
# NBVAL_IGNORE_OUTPUT
def active(θ, ε):
    """Both ends where their losses are within ε, else the better, twice."""
    best, tied = exact(θ), 4 * θ[:, 1:].abs() <= ε
    return torch.cat([best, torch.where(tied, 1 - best, best)], 1)


relaxed = {}
for ε in (0.0, 0.2, 0.4, 1.0):
    attack = partial(active, ε=ε)
    relaxed[ε] = walk(starts, RULES["DDi"], CODE["β"], attack)
for ε in (0.2, 0.4, 1.0):
    second = relaxed[ε][..., 1]
    assert ((second[1:] * second[:-1] < 0).sum(0) <= 1).all()
    assert second[-1].abs().max() <= ε / 4
    assert (second[-21:] == second[-1]).all()
E_ε = {ε: excess(path) for ε, path in relaxed.items()}
assert 1 / 3 < E_ε[0.2] / E_ε[0.0] < 2 / 3 and E_ε[1.0] > 3 * E_ε[0.0]
print("✓ excess for ε = 0, 2h, 4h, 1:", ", ".join(f"{v:.3f}" for v in E_ε.values()))

# %% [markdown]
# ## Let the values speak: the bundle step
#
# How much an almost tied end matters depends on the step. The bundle step of {ref}`chapter 7 <chapter-07>` knows: with $t = \beta_k$ it minimises $\max_j(\ell_j + \langle g_j, \gamma\rangle) + \lVert\gamma\rVert^2/2t$ over $\gamma$.
#
# ::::{prf:theorem} The bundle step lands on the kink
# :label: thm-08-bundle
#
# Let both ends be among the perturbations, $\kappa = 0$ or no others, and $0 < t \le \tfrac12$.
#
# 1. If $(1 - 2t)\,|\theta_2| \le 2t$, the step leads to $\bigl((1 - 2t)\,\theta_1,\, 0\bigr)$: onto the kink. If not, it is the raw PGD step.
# 2. $\phi$ falls at every step, unless $\theta = 0$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-08-bundle`
#
# ::::{prf:proof}
# *1.* Weights of total $1$ on perturbations amount to one $s \in [-1, 1]$, a mean of $2\delta_j - 1$, with gradient $(2\theta_1,\, 2\theta_2 + 2s)$ and value $\lVert\theta\rVert^2 + 1 + 2\theta_2 s$. The dual ({ref}`chapter 7 <chapter-07>`) minimises $\tfrac t2(2\theta_2 + 2s)^2 - 2\theta_2 s$ over $s$. Its derivative vanishes at $s = \theta_2(1 - 2t)/2t$. If this lies in $[-1, 1]$, then $\gamma_2 = -t(2\theta_2 + 2s) = -\theta_2$. Otherwise $s = \operatorname{sign}\theta_2$, the maximiser. In both cases $\gamma_1 = -2t\theta_1$.
#
# *2.* Each end's loss has the Hessian $2I$, and $2 \le 1/t$. So $\ell_j + \langle g_j, \gamma\rangle + \lVert\gamma\rVert^2/2t \ge g(\theta + \gamma, \delta_j)$, and the minimised model is at least $\phi(\theta + \gamma)$. At $\gamma = 0$ the model is $\phi(\theta)$, and its minimiser is unique, so $\phi(\theta + \gamma) < \phi(\theta)$ unless $\gamma = 0$. By 1, $\gamma = 0$ only if $\theta = 0$.
# ::::
# :::::
#
# In plain words: what a random start never hits, the bundle step hits on purpose, and then it walks along the crease with no zig-zag and no stall. But it has to *know* the other end, and an exact attack will not tell.

# %% tags=["hide-input"]
def bundle(G, ℓ, t):
    weights = ddi.bundle(G @ G.mT, ℓ, t).weights
    return (weights[..., None] * G).sum(1)


def both(θ):
    return ends.expand(len(θ), 2)


some = starts[:50]
landing = walk(some, bundle, CODE["β"], both)
bundle_text = run(bundle, some, TEXT)  # inner steps of size 1
bundle_weak = run(bundle, some, TEXT, α=0.1)
bundle_code = run(bundle, some, CODE)

# %% [markdown]
# So the bundle step needs restarts that differ, and a weak attack serves it better than a strong one. Note that it is a *raw* step: its length is its own, and shrinks to $0$ at the minimiser. Its rivals are raw PGD and raw DDi, not the unit steps.
#
# (check-08-11)=
# **Check 08.11** *(the bundle step: with both ends it lands on the kink and descends at every step; with ten restarts it depends on the attack).* 50 random starts. With both ends: every step is the one of {prf:ref}`thm-08-bundle` (to $10^{-7}$), all paths are on the kink from step 15 on (to $10^{-7}$), $\phi$ falls until its excess is below $10^{-6}$; in the text's setting the first step, $t = \tfrac12$, lands on the minimiser.
# With the restarts of the *code's* attack, or of the text's with $\alpha = 0.1$: excess below $0.01$. With the text's attack and $\alpha = 1$, which is nearly exact: within 10 % of raw PGD's from the same starts.

# %% tags=["hide-input"]
# NBVAL_IGNORE_OUTPUT
h = 0.1
x, y = landing[:-1].unbind(-1)
raw_y = (1 - 2 * h) * y - 2 * h * y.sign()
lands = (1 - 2 * h) * y.abs() <= 2 * h
new_y = torch.where(lands, 0, raw_y)
predicted = torch.stack([(1 - 2 * h) * x, new_y], -1)
assert (landing[1:] - predicted).abs().max() < 1e-7
assert landing[15:, :, 1].abs().max() < 1e-7
falls = φ(landing[1:]) < φ(landing[:-1])
assert (falls | (φ(landing[:-1]) - 1 < 1e-6)).all()
assert walk(some, bundle, TEXT["β"][:1], both)[-1].norm(dim=1).max() < 1e-7
assert excess(bundle_code) < 0.01 and excess(bundle_weak) < 0.01
strong = excess(bundle_text) / excess(text["PGD"][:, :50])
assert abs(strong - 1) < 0.1
print(f"✓ excess: code's attack {excess(bundle_code):.4f}, weak {excess(bundle_weak):.4f}; bound 0.01")
print(f"  strong {strong:.2f} of raw PGD's")

# %% [markdown]
# ## The ledger
#
# All controls side by side, for the code's variant ($h = 0.1$, 50 steps; the tenth of a step takes 500). Each entry is a mean of 200 runs, a bundle's of 50.

# %% tags=["hide-input"]
norm = "PGD normalised"
tenth = exactly(RULES[norm], starts, torch.full((500,), 0.01), 1)
ledger = {  # paths from random starts, from (1, 0) or None, method
    "unit: PGD, code's attack": (code[norm], kink_code[norm], norm),
    "exact attack": (exact_code, None, norm),
    "exact, no kink": (twins[0.02], None, norm),
    "exact, step / 10": (tenth, None, norm),
    "DDi, code's attack": (code["DDi"], kink_code["DDi"], "DDi"),
    "DDi, ε = 2h, exact": (relaxed[0.2], None, "DDi"),
    "bundle, code's attack": (
        run(unit(bundle), some, CODE),
        run(unit(bundle), on_kink[:50], CODE),
        "bundle",
    ),
    "raw: PGD, code's attack": (code["PGD"], kink_code["PGD"], "PGD"),
    "raw DDi": (least_code, run(least, on_kink, CODE), "DDi"),
    "raw bundle": (bundle_code, run(bundle, on_kink[:50], CODE), "bundle"),
}

# %% [markdown]
# (check-08-12)=
# **Check 08.12** *(the ledger's entries).* Normalised PGD from random starts, code's variant. *Inexact maximisers:* exactness removes 35 to 60 % of the excess. (In the text's setting it changes less than 10 %.) *Finite steps:* of what is left, a tenth of the step removes 85 to 95 %. *The kink:* smoothing it away ($\mu = 0.02$) changes less than 5 % of it. DDi with the code's attack ends where a single gradient ends with the exact one (within a quarter).
# *The bundle:* among the raw steps its excess is less than a tenth of DDi's. As a unit step it ends where exact PGD ends, to 5 %, but its rise is less than half of that of PGD with the code's attack.

# %%
values = [excess(row[0]) for row in ledger.values()]
E_code, E_exact, E_twin, E_tenth, E_ddi = values[:5]
E_unit, E_least, E_bundle = values[6], values[8], values[9]
exact_text = exactly(RULES[norm], starts, TEXT["β"])
assert abs(excess(exact_text) / excess(text[norm]) - 1) < 0.1
assert 0.35 < 1 - E_exact / E_code < 0.6  # inexact maximisers
assert 0.85 < 1 - E_tenth / E_exact < 0.95  # finite steps
assert abs(1 - E_twin / E_exact) < 0.05  # the kink
assert abs(E_ddi / E_exact - 1) < 0.25
assert E_bundle < E_least / 10 and abs(E_unit / E_exact - 1) < 0.05
assert rise(ledger["bundle, code's attack"][0]) < rise(code[norm]) / 2
print(f"normalised PGD {E_code:.2f} → exact maximisers {E_exact:.2f}", end=" ")
print(f"→ a tenth of the step {E_tenth:.2f}")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-08-ledger", "caption": "What each cause costs: excess after the same number of steps, code's variant, h = 0.1 (a tenth of the step: ten times as many). Filled: random starts. Hollow: from (1, 0), where the released code starts. A raw bundle step shrinks near the minimum; a unit step cannot."}, "image": {"alt": "Dot plot on a logarithmic axis, one row a variant. Unit steps: PGD with the code's attack about 0.2; with an exact attack 0.1; exact without the kink 0.1; exact with a tenth of the step 0.01; DDi with the code's attack 0.1 from random starts but 0.02 from (1, 0); DDi with exact epsilon-active ends 0.05; bundle 0.1 from either start. Raw steps: PGD 0.3; DDi 0.13 from random starts and 0.01 from (1, 0); bundle 0.001 from either start."}}
fig, ax = plt.subplots(figsize=(6.8, 5.2))
for row, (here, there, method) in enumerate(ledger.values()):
    colour = plots.METHODS[method]["color"]
    marker = plots.METHODS[method]["marker"]
    if there is not None:
        hollow = {"markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": 1.8}
        ax.plot(excess(there), row + 0.28, marker, markersize=11, **hollow)
    ax.plot(excess(here), row, marker, markersize=10, color=colour)
ax.set_yticks(range(len(ledger)), ledger)
ax.set_ylim(len(ledger) - 0.4, -0.5)
ax.grid(axis="y", visible=False)
ax.set(xscale="log", xlabel="excess φ − 1 of the last ten iterates", xlim=(5e-4, 0.5))
for y, width in ((3.5, 1), (6.5, 2)):
    ax.axhline(y, color="#bbbbbb", linewidth=width)
plt.show()

# %% [markdown]
# {numref}`fig-08-ledger` answers the question, on this problem.
#
# - **Inexact maximisers** are about half of normalised PGD's harm in the code's variant, and next to none in the text's.
# - **Finite steps** are nearly all the rest. With exact maximisers the harm is proportional to the step.
# - **The null set** as such is nothing: take the kink away, and the path does the same.
# - **DDi** gains what ten inexact restarts tell it about the other end. In the code's variant that makes it stable, and it pays with a stall: a bias. With exact maximisers it gains nothing, from almost every start.
# - **The bundle** weighs the same restarts with their values, and does not stall. Among the raw steps it is far ahead. Stretched to a unit step it overshoots the kink as PGD does ({prf:ref}`thm-08-cycle`, part 2) and ends no lower: its direction pays only with the length that belongs to it. It too depends on restarts that differ.
#
# What was chosen when: the settings are the sources', the window of random starts was fixed beforehand, and nothing in the theorems is fitted. The values of $\mu$ and ε, and the bounds in the checks that no theorem gives, were chosen after first runs had been seen; they describe these runs. We tried them on eight other sets of seeds: all held.
#
# ## Breaking it
#
# **Drop the hypothesis that the columns are maximisers.** Theorem 2 of the paper needs exact ties; Algorithm 1 treats as tied whatever its restarts find. {numref}`fig-08-stall`: in the code's variant, within the strip, ten restarts mostly find both ends although only one is a maximiser, and the paths go on parallel to the kink.
#
# ::::{prf:proposition} DDi stalls
# :label: thm-08-stall
#
# Let $0 < |\theta_2| < 1$ and let both ends be among the restarts. Then DDi moves along $(-\operatorname{sign}\theta_1,\, 0)$, and for $\theta_1 = 0$ it does not move at all. Yet $\phi$ is differentiable there, and at $(0, \theta_2)$ its slope along $(0, -\operatorname{sign}\theta_2)$ is $-2(1 + |\theta_2|)$. As long as both ends are found, no number of steps and no step length brings $\phi - 1$ below $2|\theta_2| + \theta_2^2$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-08-stall`
#
# ::::{prf:proof}
# The gradients' second components include $2\theta_2 - 2 < 0$ and $2\theta_2 + 2 > 0$, so the least vector is $(2\theta_1, 0)$ and $\theta_2$ never changes. $\phi - 1 = \theta_1^2 + 2|\theta_2| + \theta_2^2$. The slope is the derivative of $2|\theta_2| + \theta_2^2$.
# ::::
# :::::
#
# The direction is not wrong: it descends as long as $\theta_1 \ne 0$. But it insists on lowering the loss at the other end, too, and so is blind to a slope of more than $2$.
#
# (check-08-13)=
# **Check 08.13** *(DDi stalls off the minimiser; the bundle step from the same two ends does not).* At $(0, 0.1)$ with both ends as columns: `ddi.steepest_descent` says stationary, while a difference quotient of $\phi$ is $-2.2$ (to $10^{-4}$) and the bundle step reduces the excess by more than 99 %. In the code's variant more than 90 % of DDi's paths cross the kink at most three times, and in more than a fifth of the runs $|\theta_2|$ ends above $0.05$; normalised PGD with an exact attack crosses it more than ten times in every run.

# %% tags=["hide-input"]
# NBVAL_IGNORE_OUTPUT
point, down = torch.tensor([[0.0, 0.1]]), torch.tensor([0.0, -1.0])
M = gradients(point, ends)[0]
assert ddi.steepest_descent(M).stationary
assert abs(ddi.one_sided(φ, point[0], down) + 2.2) < 1e-4
after = walk(point, bundle, torch.tensor([0.1]), both)[-1]
assert φ(after) - 1 < 0.01 * (φ(point) - 1)


def crossings(path):
    second = path[..., 1]
    return (second[1:] * second[:-1] < 0).sum(0)


assert (crossings(code["DDi"]) <= 3).double().mean() > 0.9
assert crossings(exact_code).min() > 10
stalled = (code["DDi"][-1, :, 1].abs() > 0.05).double().mean()
assert stalled > 0.2
print(f"✓ {stalled:.0%} of DDi's paths stall, bound 20 %")
print(f"✓ exact PGD crosses at least {int(crossings(exact_code).min())} times, bound 10")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-08-stall", "caption": "DDi in the code's variant from 16 random starts: inside the strip (shaded) it soon walks parallel to the kink, and ends (black dots) beside the minimiser (star)."}, "image": {"alt": "A plane with contours of phi and a shaded horizontal strip of half-width one quarter around the dotted kink. Sixteen blue paths come from all sides, enter the strip, turn and run horizontally, some with a second turn, to the vertical axis, where they end, marked by dots, in a cloud around the star in the centre."}}
axis = torch.linspace(-1.6, 1.6, 161)
X, Y = torch.meshgrid(axis, axis, indexing="xy")
fig, ax = plt.subplots(figsize=(5.6, 5.4))
ax.axhspan(-0.25, 0.25, color="#009E73", alpha=0.13, linewidth=0)
ax.contour(X, Y, φ(torch.stack([X, Y], -1)) - 1, levels=[0.1, 0.3, 0.7, 1.2, 2, 3, 4.5], colors="#bbbbbb", linewidths=0.9)
ax.axhline(0, color="black", linestyle=":", linewidth=1.2)
blue = plots.METHODS["DDi"]["color"]
for path in code["DDi"][:, :16].transpose(0, 1):
    ax.plot(*path.T, color=blue, linewidth=1.3, alpha=0.8)
    ax.plot(*path[0], "o", markersize=5, markerfacecolor="white", markeredgecolor=blue)
    ax.plot(*path[-1], "o", color="black", markersize=3.5, zorder=4)
ax.plot(0, 0, "*", color="#F0E442", markeredgecolor="black", markersize=16, zorder=3)
ax.text(1.56, 0.2, "strip", ha="right", va="center", color="#00734f")
ax.set(xlabel="$θ_1$", ylabel="$θ_2$", aspect="equal", xlim=(-1.6, 1.6), ylim=(-1.6, 1.6))
ax.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1])
ax.grid(False)
plt.show()

# %% [markdown]
# ## Summary
#
# - The problem of the paper's Fig. 1 is $\phi(\theta) = \lVert\theta\rVert^2 + 1 + 2|\theta_2|$: convex, with one kink, the $\theta_1$ axis. On it, within distance 1 of the minimiser, every step against the gradient at an end ascends.
# - The contrast of that figure, PGD zigzags and DDi does not, is there in the text's setting and in the code's, *from a start on the kink*. From random starts a part of it survives in the text's setting; in the code's variant DDi hardly ever rises, but settles beside the minimiser: stable, but biased. With exact maximisers nothing is left.
# - Raw PGD in the text's setting, with exact maximisers, lowers $\phi$ at every step after the first. Normalisation acts as half a step; the path becomes more erratic in the text's setting, and calmer in the code's variant with the code's attack.
# - The zig-zag is the finite step's: its harm is proportional to $h$, a smooth narrow valley has it too, and as $h \to 0$ PGD with exact maximisers follows DDi's curve. An inexact attack adds a harm that falls only like $\sqrt h$.
# - Near ties are not ties: DDi fed with both ends stalls off the minimiser. The bundle step, which sees the values, lands on the kink and descends, provided that its restarts differ and that it keeps its own length.
#
# This was one convex problem in two dimensions, made to be difficult. {ref}`Chapter 9 <chapter-09>` puts the same questions to a network.
#
# ## Exercises
#
# ::::{exercise} Ten restarts and two ends
# :label: ex-08-ends
#
# In the code's variant, with what probability do ten restarts at distance $|\theta_2| < 1/4$ from the kink find both ends? At which distance is it one half?
# ::::
#
# ```{solution-start} ex-08-ends
# :label: sol-08-ends
# :class: dropdown
# ```
#
# Each restart is at the wrong end with probability $p = \tfrac12 - 2|\theta_2|$ ({prf:ref}`thm-08-attack`). All ten at one end: $p^{10} + (1 - p)^{10}$. So both are found with probability $1 - p^{10} - (1 - p)^{10}$. For one half, $p^{10}$ is negligible: $(1 - p)^{10} = \tfrac12$ gives $p = 0.067$, so $|\theta_2| = 0.2165$. Nearly the whole strip.

# %%
gap = 0.25 - (1 - 0.5**0.1) / 2
point = torch.tensor([[1.0, gap]]).repeat(20_000, 1)
δ = ascend(point, 10, torch.Generator().manual_seed(5), κ=1.0)
found_both = (δ.amax(1) > 0.5) & (δ.amin(1) < 0.5)
assert abs(found_both.double().mean() - 0.5) < 0.02

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} Speed along the kink
# :label: ex-08-speed
#
# With exact maximisers and small normalised steps, how fast does PGD move *along* the kink at $(a, 0)$, in units of the step? And DDi, with both ends?
# ::::
#
# ```{solution-start} ex-08-speed
# :label: sol-08-speed
# :class: dropdown
# ```
#
# Near $(a, 0)$ the unit steps are $-(a, \pm1)/\sqrt{1 + a^2}$, and the zig-zag uses both signs equally. Their mean is $-(a, 0)/\sqrt{1 + a^2}$, of length $|a|/\sqrt{1 + a^2}$. DDi moves with length $1$. So by normalising *after* cancelling, DDi is faster by $\sqrt{1 + a^2}/|a|$, which is large near the minimiser. Raw steps have the same speed, $2|a|$ a unit of $h$, in both methods: this gain is one of normalisation, too.

# %%
for a in (1.0, 0.3):
    near = torch.tensor([[a, 1e-5]])
    path = exactly(unit(single), near, torch.full((100,), 1e-4), 1)
    speed = (path[0, 0, 0] - path[-1, 0, 0]) / 0.01
    assert abs(speed / (a / math.hypot(1, a)) - 1) < 0.03

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} The mean of many restarts
# :label: ex-08-mean
#
# In the code's variant, let the number of restarts tend to infinity and average their gradients. Show that within the strip the mean is the gradient of a smooth twin {eq}`eq-08-smooth`, and find its $\mu$.
# ::::
#
# ```{solution-start} ex-08-mean
# :label: sol-08-mean
# :class: dropdown
# ```
#
# For $|\theta_2| < 1/4$ a restart ends at $\delta = 1$ with probability $\tfrac12 + 2\theta_2$. So the mean of $s = 2\delta - 1$ is $4\theta_2$, which is $s^\star = \theta_2/\mu$ for $\mu = 1/4$. The mean gradient is $(2\theta_1,\, 2\theta_2 + 8\theta_2)$, and $\pm1$ outside of the strip fits as well. An attack that fails at random smooths the kink; single restarts are its noisy gradients.

# %%
point = torch.tensor([[0.5, 0.1], [0.5, -0.2], [0.5, 0.6]])
δ = ascend(point, 100_000, torch.Generator().manual_seed(6), κ=1.0)
μ_gradient = gradients(point, smooth_exact(point, 0.25))[:, 0]
assert (gradients(point, δ).mean(1) - μ_gradient).abs().max() < 0.03

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} The bundle step is a proximal step
# :label: ex-08-prox
#
# Show that with both ends and $t = \tau/(1 + 2\tau)$ the bundle step from $\theta$ leads to $\arg\min_{\theta'} \phi(\theta') + \lVert\theta' - \theta\rVert^2/2\tau$, for every $\tau > 0$.
# ::::
#
# ```{solution-start} ex-08-prox
# :label: sol-08-prox
# :class: dropdown
# ```
#
# The objective separates. In $\theta_1'$: $2\theta_1' + (\theta_1' - \theta_1)/\tau = 0$, so $\theta_1' = \theta_1/(1 + 2\tau)$. In $\theta_2'$: $0$ is optimal if and only if $|\theta_2|/\tau \le 2$; otherwise $\theta_2' = (\theta_2 - 2\tau \operatorname{sign}\theta_2)/(1 + 2\tau)$. With $1 - 2t = 1/(1 + 2\tau)$ and $2t/(1 - 2t) = 2\tau$ these are the two cases of {prf:ref}`thm-08-bundle`.

# %%
x, y = some.unbind(1)
for τ in (0.05, 0.3, 2.0):
    step = torch.tensor([τ / (1 + 2 * τ)])
    shrunk = torch.stack([x, y.sign() * (y.abs() - 2 * τ).clamp_min(0)], 1)
    proximal = shrunk / (1 + 2 * τ)
    stepped = walk(some, bundle, step, both)[-1]
    assert (stepped - proximal).abs().max() < 1e-7

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} A start a little off the kink
# :label: ex-08-off
#
# Start DDi with *exact* maximisers at $(1, \eta)$ with $\eta = 10^{-12}$ instead of $\eta = 0$, in the code's setting. What is its excess after 50 steps? What does this say about a conclusion drawn from one start?
# ::::
#
# ```{solution-start} ex-08-off
# :label: sol-08-off
# :class: dropdown
# ```
#
# By {prf:ref}`thm-08-same` it is normalised PGD from then on: it zigzags, and {prf:ref}`thm-08-cycle` gives a mean excess of about $h = 0.1$, more than ten times what it has *on* the kink, where both ends tie ($h^2/2$ at most). The two starts cannot be told apart in a figure. With exact maximisers DDi's direction jumps at the kink, and only a start on the kink shows the other side of the jump.

# %%
off_kink = exactly(unit(least), torch.tensor([[1.0, 1e-12]]), CODE["β"])
on_it = walk(on_kink[:1], unit(least), CODE["β"], both)
assert excess(off_kink) > 0.08 and excess(on_it) < 0.1**2 / 2 + 1e-9

# %% [markdown]
# ```{solution-end}
# ```
