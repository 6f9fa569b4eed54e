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
# (chapter-17)=
# # A maximum over the weights
#
# :::{admonition} What you will learn
# :class: frame
#
# - that sharpness-aware minimisation (SAM) is adversarial training of the *weights*, and that Danskin's theorem applies to its objective as it stands;
# - what SAM's update drops: a term of order $\rho^2$, with its constant; and where the update and its objective part company;
# - why SAM is not a product over the samples, though it is printed as one, and what SAMPa saves: depth, not work;
# - what SAM does with wrong labels, beside early stopping and a smaller learning rate;
# - $\epsilon$-stability: the same maximum over a shift, where the optimum sits *on* a kink.
#
# **Before you start.** {ref}`Chapter 2 <chapter-02>` (Danskin), {ref}`chapter 4 <chapter-04>` (stationary means: 0 in the hull) and {ref}`chapter 7 <chapter-07>` (products). Symbols: {ref}`notation`.
#
# **Time and hardware.** Half an hour to read; under half a minute to run on one processor core. The training curves are read from records.
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

# %%
import json

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import ddi
from ddi import plots
from ddi.clone import repository

# %%
plots.use_style()
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## The question, in a picture
#
# Adversarial training asks for weights $\theta$ whose loss stays low when an adversary moves the *images*. Now let the adversary move the weights themselves:
#
# ```{math}
# :label: eq-17-phi
#
# \min_\theta\ \phi_\rho(\theta), \qquad \phi_\rho(\theta) = \max_{\lVert e\rVert_2 \le \rho} L(\theta + e) .
# ```
#
# A low value of $\phi_\rho$ means that the loss is low all over a ball: a *flat* minimum. Here is the idea in one dimension.

# %%
ρ = 0.3


def valleys(θ):
    """A loss with a deep narrow valley at -1 and a shallower broad one at 1."""
    narrow = torch.exp(-((θ + 1) ** 2) / (2 * 0.1**2))
    broad = torch.exp(-((θ - 1) ** 2) / (2 * 0.5**2))
    return 1 + 0.1 * θ - narrow - 0.8 * broad


def worst_near(θ, n=601):
    """φ_ρ by brute force, at many θ."""
    return valleys(θ[..., None] + torch.linspace(-ρ, ρ, n)).amax(-1)


# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-17-valleys", "caption": "The deepest valley is not the best one for whoever may be moved. The loss (dashed) and its maximum over a ball of radius 0.3 (solid). Dots: their minima; the bar is the ball around the lower one of φ."}, "image": {"alt": "Two curves over one weight from minus 1.9 to 2.5. The dashed loss has a deep narrow valley at minus 1 and a shallower broad one near 1. The solid maximum over the ball nearly fills the narrow valley and has its minimum, a sharp corner at height 0.43, above the broad one."}}
grid = torch.linspace(-1.9, 2.5, 2201)
low, high = valleys(grid), worst_near(grid)
fig, ax = plt.subplots(figsize=(6.4, 3.8))
ax.plot(grid, low, "--", color="#D55E00")
ax.plot(grid, high, color="#000000")
for values, colour in ((low, "#D55E00"), (high, "#000000")):
    ax.plot(grid[values.argmin()], values.min(), "o", color=colour, markersize=8)
best = grid[high.argmin()]
ax.plot([best - ρ, best + ρ], [high.min()] * 2, color="#0072B2", linewidth=4, alpha=0.6)
ax.text(-0.78, 0.1, "L", color="#D55E00", fontsize=14)
ax.text(-1.0, 1.0, "φ, the worst in the ball", color="#000000")
ax.set(xlabel="θ", ylabel="loss", ylim=(-0.2, 1.25))
plt.show()

# %% [markdown]
# In {numref}`fig-17-valleys` the minimum of $\phi_\rho$ sits at a corner. Both ends of the ball have the same loss there, a tie as in {ref}`chapter 3 <chapter-03>`. Set $g(\theta, e) = L(\theta + e)$. Then $\nabla_\theta g(\theta, e) = \nabla L(\theta + e)$, and the ball, which does not depend on $\theta$, is compact. For continuously differentiable $L$ this is Danskin's theorem, with nothing to add.
#
# (check-17-1)=
# **Check 17.1** *(the corner, by three roads.)* The minimum of $\phi_\rho$ by brute force over a grid is where bisection finds $L(\theta - \rho) = L(\theta + \rho)$ (to the grid's step). There the one-sided slopes of $\phi_\rho$, both ways, are those of Danskin's theorem from the gradients at the two ends (to $10^{-4}$), both positive; and 0 is in their hull.

# %%
left, right = torch.tensor(0.5), torch.tensor(1.5)
for _ in range(60):  # which end is the worse one?
    middle = (left + right) / 2
    below = valleys(middle - ρ) > valleys(middle + ρ)
    left, right = (middle, right) if below else (left, middle)
corner = middle.clone()
assert (corner - best).abs() <= 2 * (grid[1] - grid[0])

# %%
slope_at = torch.func.grad(valleys)
hull = torch.stack([slope_at(corner - ρ), slope_at(corner + ρ)])[:, None]
for way in (-1.0, 1.0):
    t, way = 1e-6, torch.tensor([way])
    seen = (worst_near(corner + t * way[0]) - worst_near(corner)) / t
    slope = ddi.directional_derivative(hull, way)
    assert slope > 0.1 and (seen - slope).abs() < 1e-4
assert ddi.steepest_descent(hull, tol=1e-9).slope == 0

# %% [markdown]
# ## What SAM computes
#
# The maximum over a ball in the space of all weights is out of reach for a network. SAM {cite}`foret2021` takes *one* step of ascent, of length $\rho$, and the gradient there:
#
# ```{math}
# :label: eq-17-sam
#
# \begin{aligned}
# e_1(\theta) &= \rho\, \frac{\nabla L(\theta)}{\lVert\nabla L(\theta)\rVert}, \\
# \theta &\leftarrow \theta - \eta\, \nabla L(\theta + e_1(\theta)) .
# \end{aligned}
# ```
#
# :::{admonition} Source's claim (Cevher 2024, "Sharpness-aware minimization (SAM)")
# :class: claim
#
# The gradient of the loss at $\theta + \delta^\star(\theta)$ is, by the chain rule, the gradient at the shifted weights plus a term with the derivative of $\delta^\star$, and *"the second-order term is dropped for accelerating the computation"*.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# What is dropped depends on what $\delta^\star$ is. For the true maximiser nothing is. For the one step it is small, and we can say how small.
# :::
#
# ::::{prf:theorem} What SAM drops
# :label: thm-17-drop
#
# Let $L$ be three times continuously differentiable near $\theta$, $g = \nabla L(\theta) \ne 0$, $\hat g = g / \lVert g\rVert$, $H = \nabla^2 L(\theta)$, and
#
# ```{math}
# :label: eq-17-c
#
# c = \frac{1}{\lVert g\rVert}\, H\,(I - \hat g \hat g^\top)\, H \hat g .
# ```
#
# 1. *(Envelope.)* For small $\rho$ the maximiser $e^\star$ in {eq}`eq-17-phi` is unique, lies on the sphere, and $\nabla\phi_\rho(\theta) = \nabla L(\theta + e^\star)$: the term with the derivative of $e^\star$ is 0.
# 2. *(One step.)* Let $V(\theta) = L(\theta + e_1(\theta))$, the loss where SAM looks. Then
#
#    $$
#    \begin{aligned}
#    &\nabla V(\theta) - \nabla L(\theta + e_1) \\
#    &\quad = \rho^2 c + O(\rho^3) .
#    \end{aligned}
#    $$
# 3. *(The objective.)* Also
#
#    $$
#    \begin{aligned}
#    &\nabla\phi_\rho(\theta) - \nabla L(\theta + e_1) \\
#    &\quad = \rho^2 c + O(\rho^3) .
#    \end{aligned}
#    $$
#
#    So the dropped term is, to leading order, just what separates SAM from its objective.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-17-drop`
#
# ::::{prf:proof}
# Write $P = I - \hat g\hat g^\top$.
#
# 1. For small $\rho$, $\nabla L \ne 0$ on the ball, so a maximiser lies on the sphere, and there $\nabla L(\theta + e)$ is a positive multiple of $e$:
#
#    $$
#    e = \rho\, \frac{\nabla L(\theta + e)}{\lVert\nabla L(\theta + e)\rVert} .
#    $$
#
#    The right-hand side is a contraction in $e$ (its derivative is of order $\rho$), so $e^\star$ is unique. Danskin's theorem gives the gradient. Seen by the chain rule: $\lVert e^\star\rVert = \rho$ for all $\theta$, so $e^\star$ moves tangentially to the sphere, while $\nabla L(\theta + e^\star)$ is normal to it; their product is 0.
# 2. The derivative of $g/\lVert g\rVert$ is $PH/\lVert g\rVert$, so the dropped term is $(\rho/\lVert g\rVert)\, H P\, \nabla L(\theta + e_1)$. And $\nabla L(\theta + e_1) = g + \rho H\hat g + O(\rho^2)$ with $Pg = 0$.
# 3. Insert $e_1$ into the right-hand side of the fixed point:
#
#    $$
#    e^\star = \rho\hat g + \frac{\rho^2}{\lVert g\rVert} P H \hat g + O(\rho^3) .
#    $$
#
#    So
#
#    $$
#    \begin{aligned}
#    &\nabla L(\theta + e^\star) - \nabla L(\theta + e_1) \\
#    &\quad = H (e^\star - e_1) + O(\rho^3) \\
#    &\quad = \rho^2 c + O(\rho^3) .
#    \end{aligned}
#    $$
# ::::
# :::::
#
# In plain words: at a true maximiser the chain rule's extra term vanishes, because the maximiser can only slide along the sphere, and the loss does not change that way. One step of ascent is a maximiser up to $\rho^2$, and so is its gradient. (With one weight there is no way to slide: $c = 0$, and {numref}`fig-17-valleys` cannot show it. A network with ReLU is not smooth enough for the theorem where its units switch.)
#
# We look at it on a network small enough for its whole Hessian: 64–8–10 with tanh, on 40 digits, after twenty steps of gradient descent.

# %%
digits = ddi.digits().to(dtype=torch.float64)
x, y = digits.x_train[:40].flatten(1), digits.y_train[:40]
SIZES = (8 * 64, 8, 10 * 8, 10)


# %%
def L(θ, x=x, y=y):
    """Mean loss of the network with weights θ, (610,)."""
    W, b, V, c = θ.split(SIZES)
    hidden = torch.tanh(x @ W.view(8, 64).T + b)
    return cross_entropy(hidden @ V.view(10, 8).T + c, y)


grad = torch.func.grad(L)


# %%
def unit(v):
    return v / v.norm()


# %%
def ascend(θ, ρ, steps=1, *batch):
    """SAM's perturbation; with more steps, towards the maximiser on the sphere."""
    e = torch.zeros_like(θ)
    for _ in range(steps):
        e = ρ * unit(grad(θ + e, *batch))
    return e


# %%
torch.manual_seed(0)
θ = 0.3 * torch.randn(sum(SIZES))
for _ in range(20):
    θ = θ - 0.3 * grad(θ)

# %%
g = grad(θ)
H = torch.func.jacrev(grad)(θ)
v = H @ unit(g)
c = H @ (v - unit(g) * (unit(g) @ v)) / g.norm()


def three(ρ):
    """The gradients of SAM, of the loss where it looks, and of the objective."""
    sam = grad(θ + ascend(θ, ρ))
    total = torch.func.grad(lambda θ: L(θ + ascend(θ, ρ)))(θ)
    return sam, total, grad(θ + ascend(θ, ρ, 60))


# %%
radii = (0.05, 0.025, 0.0125, 0.00625)
found = {ρ: three(ρ) for ρ in radii}

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-17-orders", "caption": "What SAM drops is of order ρ², until the ball is too large for one step. Distances between gradients against the radius, a network of 610 weights. The jump of the orange line: from 0.2 on the maximiser is far from where one step looks."}, "image": {"alt": "Log-log plot, radius from 0.0125 to 0.8. SAM minus the plain gradient rises with slope one. The dropped term rises with slope two throughout. The distance from SAM to the objective's gradient lies on the dropped term up to radius 0.1 and then jumps up by a factor of more than ten. The distance that is left with the term rises with slope three and joins it after the jump."}}
# NBVAL_IGNORE_OUTPUT
wide = [0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8]
names = ("SAM − plain gradient", "dropped term", "φ's gradient − SAM", "… with the term")
lines = {name: [] for name in names}
for ρ in wide:
    sam, total, exact = found.get(ρ) or three(ρ)
    pairs = ((sam, g), (total, sam), (exact, sam), (exact, total))
    for values, (a, b) in zip(lines.values(), pairs, strict=True):
        values.append(float((a - b).norm()))
fig, ax = plt.subplots(figsize=(6.4, 4.4))
colours = ("#0072B2", "#000000", "#D55E00", "#009E73")
looks = tuple(zip(colours, "os^D", ("-", "--", "-", ":"), strict=True))
drawn = [
    ax.loglog(wide, values, color=colour, marker=marker, linestyle=dash)[0]
    for values, (colour, marker, dash) in zip(lines.values(), looks, strict=True)
]
ax.set(xlabel="ρ", ylabel="distance of the gradients", xlim=(0.011, 0.9))
ax.set_xticks(wide, [f"{ρ:g}" for ρ in wide])
ax.minorticks_off()
fig.draw_without_rendering()
plots.label_ends(drawn, list(lines), 15)
plt.show()

# %% [markdown]
# The theorem is about small $\rho$, and {numref}`fig-17-orders` shows what "small" means here: up to about 0.1. From 0.2 on the fixed point is far from where SAM looks.
#
# `ascend` with many steps is the fixed point of the proof. Where it converges, the gradient is normal to the sphere: a *stationary* point, and along it the envelope theorem holds even if another maximum is higher.
#
# (check-17-2)=
# **Check 17.2** *(envelope.)* At $\rho = 0.05$ the fixed point is on the sphere with gradient normal to it (to $10^{-10}$). Along three random directions the central difference of $L(\theta + e^\star(\theta))$ is $\langle u, \nabla L(\theta + e^\star)\rangle$ to $10^{-7}$, and the derivative of $e^\star$, which is not that small itself (above 0.001), has inner product 0 with the gradient to $10^{-7}$.

# %%
e = ascend(θ, 0.05, 60)
G = grad(θ + e)
assert (e.norm() - 0.05).abs() < 1e-10 and (unit(G) - unit(e)).norm() < 1e-10

# %%
draw, h = torch.Generator().manual_seed(17), 1e-5
for _ in range(3):
    u = unit(torch.randn(len(θ), generator=draw))
    ahead, behind = (ascend(θ + s * u, 0.05, 60) for s in (h, -h))
    rise = (L(θ + h * u + ahead) - L(θ - h * u + behind)) / (2 * h)
    moves = (ahead - behind) / (2 * h)
    assert (rise - G @ u).abs() < 1e-7
    assert moves.norm() > 1e-3 and (moves @ G).abs() < 1e-7

# %% [markdown]
# (check-17-3)=
# **Check 17.3** *(the constant.)* For $\rho = 0.05, 0.025, 0.0125, 0.00625$ the dropped term, $\nabla V$ by automatic differentiation through both gradients minus SAM's gradient, is $\rho^2 c$ with $c$ from the full Hessian up to a relative error below $8\rho$. The distance from $\nabla\phi_\rho$ to SAM's gradient is $\rho^2\lVert c\rVert$ up to a factor $1 \pm 3\rho$. And $\nabla V$, with the term, is closer to $\nabla\phi_\rho$ by another order: that distance falls by more than six when $\rho$ is halved.

# %%
for ρ, (sam, total, exact) in found.items():
    assert (total - sam - ρ**2 * c).norm() < 8 * ρ * ρ**2 * c.norm()
    assert abs((exact - sam).norm() / (ρ**2 * c.norm()) - 1) < 3 * ρ
third = [(total - exact).norm() for _, total, exact in found.values()]
assert all(a > 6 * b for a, b in zip(third, third[1:], strict=False))

# %%
sam, total, _ = found[0.00625]
print(f"‖c‖ {c.norm():.3f}, measured {(total - sam).norm() / 0.00625**2:.3f}")
print(f"‖g‖ {g.norm():.3f}")

# %% [markdown]
# More steps of the same ascent buy one order each. That is the fixed point's contraction: $e_K - e^\star = O(\rho^{K+1})$.
#
# (check-17-4)=
# **Check 17.4** *(a step of ascent, an order.)* With $K = 1, 2, 3$ steps the distance from $\nabla L(\theta + e_K)$ to $\nabla\phi_\rho$ falls, from $\rho = 0.05$ to $0.025$, like $\rho^{K + 1}$: the measured exponent is within 0.25 of it.

# %%
for K in (1, 2, 3):
    apart = [(grad(θ + ascend(θ, ρ, K)) - found[ρ][2]).norm() for ρ in (0.05, 0.025)]
    assert (torch.log2(apart[0] / apart[1]) - (K + 1)).abs() < 0.25

# %% [markdown]
# (check-17-5)=
# **Check 17.5** *(at a large radius SAM's gradient is not the one at the highest peak found.)* At $\rho = 0.5$ take the highest of thirteen ascents, one from where SAM starts and a dozen from random points. It is a peak of the sphere: the gradient is normal to it (to $10^{-6}$), and along a random direction its height has the slope $\langle u, \nabla L(\theta + e^\star)\rangle$ (to $10^{-5}$). SAM's point is not where an ascent ends: its loss is more than 0.1 nats lower, and the cosine of the two gradients is below 0.5. The dropped term is *not* to blame: it is shorter than a tenth of the distance between them.

# %%
def climb(at, e, steps=400):
    """Up to a fixed point on the sphere of radius 0.5, from e."""
    for _ in range(steps):
        e = 0.5 * unit(grad(at + e))
    return e


# %%
starts = [ascend(θ, 0.5), *unit(torch.randn(len(θ), 12, generator=draw)).T]
top = max((climb(θ, 0.5 * unit(start)) for start in starts), key=lambda e: L(θ + e))
sam, total, _ = three(0.5)
exact = grad(θ + top)
assert (unit(exact) - unit(top)).norm() < 1e-6
assert L(θ + top) > L(θ + ascend(θ, 0.5)) + 0.1
assert unit(sam) @ unit(exact) < 0.5
assert (total - sam).norm() < (exact - sam).norm() / 10
print(f"cosine {unit(sam) @ unit(exact):.2f}")

# %%
ends = [L(at + climb(at, top)) for at in (θ + h * u, θ - h * u)]
assert ((ends[0] - ends[1]) / (2 * h) - exact @ u).abs() < 1e-5

# %% [markdown]
# ## In the package
#
# `ddi.SAM(rule, rho=...)` does this around *any* rule: it calls the rule, moves the weights by $\rho$ along its gradient, calls the rule again and puts the weights back. With an adversary on the images the two maxima nest. `clean` below is no adversary.

# %%
model = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10))
nn.utils.vector_to_parameters(θ, model.parameters())
single = ddi.descent_rule("single")


# %%
def clean(model, x, y):
    return torch.zeros_like(x)


def gradient(rule, attack=clean, x=x, y=y):
    """The rule's direction; random starts are the same at every call."""
    return rule(model, x, y, attack, torch.Generator().manual_seed(1)).gradient


# %% [markdown]
# (check-17-6)=
# **Check 17.6** *(SAM of a rule.)* `ddi.SAM` around *single* is $\nabla L(\theta + e_1)$ (to $10^{-12}$), and the weights come back bit for bit. With PGD on the images, around *single*, *ddi* and *product*: at $\rho = 0$ it is the rule itself; at $\rho = 10^{-6}$ it is the rule up to a thousandth of its length; at $0.5$ it is another direction (cosine below 0.99).

# %%
pgd = ddi.PGD(0.2, 0.1, 5)
weights = nn.utils.parameters_to_vector(model.parameters()).clone()
hand = grad(θ + ascend(θ, 0.5))
assert (gradient(ddi.SAM(single, rho=0.5)) - hand).norm() < 1e-12
assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), weights)

# %%
rules = {"single": {}, "ddi": {"m": 3}, "product": {"m": 2, "chunks": 4}}
for name, options in rules.items():
    rule = ddi.descent_rule(name, **options)
    plain = gradient(rule, pgd)
    at = {ρ: gradient(ddi.SAM(rule, rho=ρ), pgd) for ρ in (0.0, 1e-6, 0.5)}
    assert torch.equal(at[0.0], plain)
    assert (at[1e-6] - plain).norm() < 1e-3 * plain.norm()
    assert unit(at[0.5]) @ unit(plain) < 0.99

# %% [markdown]
# ## One perturbation, or one for each sample?
#
# :::{admonition} Source's claim (Cevher 2024, "Sharpness-aware minimization (SAM)")
# :class: claim
#
# The objective is $\min_x \frac1n\sum_i \max_{\lVert\delta\rVert \le \epsilon} L(h_{x + \delta}(a_i), b_i)$.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# As printed every sample has a maximum of its own. The update on the next slide has one $\delta$ for the whole batch, and so has the original {cite}`foret2021`. They are two objectives.
# :::
#
# ```{math}
# :label: eq-17-order
#
# \begin{aligned}
# &\max_e\ \frac1n\sum_i L_i(\theta + e) \\
# &\quad \le \frac1n \sum_J\ \max_e \sum_{i \in J} L_i(\theta + e) \\
# &\quad \le \frac1n\sum_i \max_e L_i(\theta + e) .
# \end{aligned}
# ```
#
# Here $J$ runs over groups of samples. This holds since a maximum of a sum is at most the sum of the maxima. In {ref}`chapter 7 <chapter-07>` each image had its own perturbation, so $S = \prod_i S_i$ and every *mix* of maximisers was a maximiser. Here all samples share one $e$: no product, no mixes, and nothing for the product direction to choose from. SAM on mini-batches stands in between, with one $e$ for each batch ($m$-sharpness, for batches of $m$ samples).
#
# (check-17-7)=
# **Check 17.7** *(ordered, and far apart.)* At $\rho = 0.5$ the best of three ascents for each group, a lower bound of its maximum, rises in the mean as the groups are split, from 40 to 20, 10, 5 and 1, by more than 0.01 nats each time. (That it does not fall is sure by construction: one of the ascents is the larger group's.) With one $e$ for each sample it is more than a nat higher than with one for all.

# %%
def highest(part, coarse):
    """The best perturbation of a group: from 0, or from the larger group's."""
    found = [coarse, ascend(θ, 0.5, 20, *part)]
    e = coarse
    for _ in range(20):
        e = 0.5 * unit(grad(θ + e, *part))
    return max([*found, e], key=lambda e: L(θ + e, *part))


# %%
# NBVAL_IGNORE_OUTPUT
by_size, above, last_size = {}, [torch.zeros_like(θ)], 40
for size in (40, 20, 10, 5, 1):
    groups = list(zip(x.split(size), y.split(size), strict=True))
    ratio = last_size // size
    above = [highest(part, above[k // ratio]) for k, part in enumerate(groups)]
    tops = [L(θ + e, *part) for e, part in zip(above, groups, strict=True)]
    by_size[size], last_size = float(torch.stack(tops).mean()), size
values = [float(L(θ)), *by_size.values()]
assert all(b > a + 0.01 for a, b in zip(values, values[1:], strict=False))
assert by_size[1] > by_size[40] + 1
for size, value in by_size.items():
    print(f"groups of {size:2}: {value:.2f}")

# %% [markdown]
# ## SAMPa: two gradients that need not wait
#
# SAM's second gradient needs the first, so two processors do not help. SAMPa {cite}`xie2024` perturbs by the gradient of an auxiliary point instead, which is there already:
#
# ```{math}
# :label: eq-17-sampa
#
# \begin{aligned}
# \tilde\theta_k &= \theta_k + \rho\, g_k / \lVert g_k\rVert, \\
# u_{k+1} &= \theta_k - \eta\, g_k, \\
# g_{k+1} &= \nabla L(u_{k+1}), \\
# \theta_{k+1} &= \theta_k - \eta \bigl[(1 - \lambda) \nabla L(\tilde\theta_k) \\
# &\qquad\qquad + \lambda\, g_{k+1}\bigr] .
# \end{aligned}
# ```
#
# $\nabla L(\tilde\theta_k)$ and $g_{k+1}$ both start from $\theta_k$ and $g_k$. With mini-batches $\tilde\theta_k$ is judged on the batch that made $g_k$, so a step sees two batches, the last and the new one. `ddi.SAMPa` remembers the batch and $g_k$, and saves them with the optimiser's state. Its first step, with nothing to remember, is SAM's.
#
# :::{admonition} Source's claim (Cevher 2024, "SAMPa")
# :class: claim
#
# SAMPa *incorporates* optimistic gradient descent (which steps along the gradient at the point where it expects to be):
#
# $$
# \begin{aligned}
# u_{k+1} &= \theta_k - \eta\nabla L(u_k), \\
# \theta_{k+1} &= \theta_k - \eta\nabla L(u_{k+1}) .
# \end{aligned}
# $$
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# From the second step on, with $\lambda = 1$.
# :::
#
# (check-17-8)=
# **Check 17.8** *(its two ends.)* On one batch, five steps: with $\lambda = 1$ `ddi.SAMPa` is a step of SAM and then optimistic gradient descent (to $10^{-12}$). For a loss that is linear in the weights SAM, SAMPa and plain gradient descent are one method, for any $\rho$ and $\lambda$ (to $10^{-12}$).

# %%
η = 0.2


def course(rule, loss_model, steps=5):
    """Weights after each step of that rule; the model is put back."""
    start, path = nn.utils.parameters_to_vector(loss_model.parameters()).detach(), []
    for _ in range(steps):
        now = nn.utils.parameters_to_vector(loss_model.parameters()).detach()
        step = rule(loss_model, x, y, clean).gradient
        path.append(now - η * step)
        nn.utils.vector_to_parameters(path[-1], loss_model.parameters())
    nn.utils.vector_to_parameters(start, loss_model.parameters())
    return torch.stack(path)


# %%
def optimistic(steps=5):
    """By hand; the first step is SAM's, which remembers nothing."""
    g, at = grad(θ), θ - η * grad(θ + ascend(θ, ρ))
    path = [at]
    for _ in range(steps - 1):
        g = grad(at - η * g)
        at = at - η * g
        path.append(at)
    return torch.stack(path)


# %%
ρ = 0.5
ends = course(ddi.SAMPa(single, rho=ρ, lam=1.0, t=η), model)
assert (ends - optimistic()).abs().max() < 1e-12

# %%
linear = nn.Linear(64, 10, bias=False)
flat = ddi.descent_rule("single", loss=lambda logits, y: logits[:, 3] - logits[:, 5])
rivals = [flat, ddi.SAM(flat, rho=ρ)]
rivals += [ddi.SAMPa(flat, rho=ρ, lam=λ, t=η) for λ in (0, 0.2, 1)]
paths = [course(rule, linear) for rule in rivals]
assert all((path - paths[0]).abs().max() < 1e-12 for path in paths)

# %% [markdown]
# :::{admonition} Source's claim (Cevher 2024, "SAM's update rule")
# :class: claim
#
# *Can we run it as fast as base optimizers? Yes! Parallelize two gradient computations.*
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# On two devices, perhaps; we measured no time, and the lecture's table has no row for SGD. What is saved is depth, the length of the chain of gradients that wait for each other: that of SGD and one more. The work is SAM's.
# :::
#
# (check-17-9)=
# **Check 17.9** *(depth, not work.)* Over ten steps SAM and SAMPa take twenty backward passes each, plain descent ten; and `passes` says so. In SAMPa the two of a step can be taken in either order, or at once, from what was there before the step: by hand, with the second one first, the path is the package's (to $10^{-12}$). Depth: SAM 20, SAMPa 11, plain descent 10.

# %%
passes, counted = [], {}
hook = model[1].register_full_backward_hook(lambda *_: passes.append(1))
for rule in (single, ddi.SAM(single, rho=ρ), ddi.SAMPa(single, rho=ρ, lam=0.2)):
    passes.clear()
    course(rule, model, 10)
    counted[type(rule).__name__] = len(passes)
    assert len(passes) == 10 * rule.passes(0)
hook.remove()
assert counted == {"Rule": 10, "SAM": 20, "SAMPa": 20}

# %%
λ, start, at = 0.2, grad(θ), θ - η * grad(θ + ascend(θ, ρ))
g, depth, by_hand = start, 2, [at]
for _ in range(9):
    tilde, auxiliary = at + ρ * unit(g), at - η * g  # both from the past alone
    pair = [grad(auxiliary), grad(tilde)]  # in this order, the other one, or at once
    depth += 1
    g, at = pair[0], at - η * ((1 - λ) * pair[1] + λ * pair[0])
    by_hand.append(at)
package = course(ddi.SAMPa(single, rho=ρ, lam=λ, t=η), model, 10)
assert (package - torch.stack(by_hand)).abs().max() < 1e-12 and depth == 11

# %% [markdown]
# A detail of the authors' code (repository `LIONS-EPFL/SAMPa`, `train.py`) is worth knowing. It does not keep $g_k$, but takes it back out of the mixed gradient, as $\bigl(\text{mix} - (1 - \lambda)\nabla L(\tilde\theta)\bigr)/(\lambda + 10^{-15})$. With $\lambda = 0$ that is 0, and SAMPa becomes plain descent without a word.
#
# (check-17-10)=
# **Check 17.10** *(taking it back out.)* In float32, with random gradients of length about 1: at $\lambda = 0.2$ the recovered direction is exact to $10^{-5}$; at $\lambda = 10^{-6}$ it is wrong by more than a percent; at $\lambda = 0$ it is 0. `ddi.SAMPa` at $\lambda = 0$ does perturb: after the first step it differs from plain descent by more than $10^{-3}$.

# %%
draw = torch.Generator().manual_seed(3)
s, g = (unit(torch.randn(1000, generator=draw)).float() for _ in range(2))
wrong = {}
for λ in (0.2, 1e-6, 0.0):
    mix = (1 - λ) * s + λ * g
    back = (mix - (1 - λ) * s) / (λ + 1e-15)
    wrong[λ] = float((back - g).norm())
assert wrong[0.2] < 1e-5 and wrong[1e-6] > 0.01 and back.norm() == 0

# %%
paths = [course(rule, model) for rule in (single, ddi.SAMPa(single, rho=ρ, lam=0, t=η))]
assert ((paths[1] - paths[0])[1:].norm(dim=1) > 1e-3).all()

# %% [markdown]
# ## What it buys: wrong labels
#
# :::{admonition} Source's claim (Cevher 2024, "Sharpness-aware minimization (SAM)")
# :class: claim
#
# *Flat minima usually generalize better than sharp minima*; the picture shows a considerable reduction of the error.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# One setting in which SAM is known to shine is label noise. A network 64–256–10 (CELU) is trained on 600 digits of which 40 % carry a wrong label, 100 epochs in batches of 50, on four seeds. Every arm has the same learning rates to choose from, 0.01, 0.03, 0.1 and 0.3; the choice is made by the accuracy at the last epoch on validation labels that are as noisy, never by the test images. A control takes SGD's direction in steps of fixed length. (`experiments/memorise.py` wrote the record; the training labels' fate and the rate 0.01 were added to a first one.)
# :::

# %%
# NBVAL_IGNORE_OUTPUT
RECORDS = repository() / "results" / "memorise"
arms = {p.stem: json.loads(p.read_text()) for p in sorted(RECORDS.glob("*.json"))}
setting = arms["sgd"]["setting"]
epochs = np.arange(setting["every"], setting["epochs"] + 1, setting["every"])


def of(arm, key, lr):
    """Curves of that arm, (seeds, epochs)."""
    return np.array([run[key] for run in arms[arm]["runs"] if run["lr"] == lr])


# %%
def chosen(arm):
    """The learning rate with the best last accuracy on the noisy validation labels."""
    return max(setting["lr"], key=lambda lr: of(arm, "validation", lr)[:, -1].mean())


large, own = max(setting["lr"]), {arm: chosen(arm) for arm in arms}

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-17-labels", "caption": "At a large learning rate SGD begins to follow wrong labels and SAM much less; at the rate that each arm chooses there is little left to prevent. Accuracy on clean test images while 40 % of the training labels are wrong; mean and range of four seeds."}, "image": {"alt": "Two panels of test accuracy against 100 epochs. At learning rate 0.3 all curves peak near 0.9 within a few epochs; SGD and the normalised control then fall to about 0.75, SAM and SAMPa only to about 0.86. At the chosen rates all curves end together near 0.9."}}
# NBVAL_IGNORE_OUTPUT
shown = {
    "sgd": ("SGD", "#D55E00", "-"),
    "normalised": ("normalised", "#E69F00", "--"),
    "sam": ("SAM", "#5E3C99", "-"),
    "sampa": ("SAMPa", "#56B4E9", ":"),
}
fig, axes = plt.subplots(2, 1, figsize=(6.4, 6.4), sharex=True, sharey=True)
for ax, title, pick in (
    (axes[0], f"all at learning rate {large}", lambda arm: large),
    (axes[1], "each at its chosen rate", own.get),
):
    drawn = []
    for arm, (name, colour, dash) in shown.items():
        curve = of(arm, "test", pick(arm))
        drawn += ax.plot(epochs, curve.mean(0), color=colour, linestyle=dash)
        shade = {"color": colour, "alpha": 0.12, "linewidth": 0}
        ax.fill_between(epochs, curve.min(0), curve.max(0), **shade)
    ax.set(ylabel="test accuracy", xlim=(0, 100), ylim=(0.65, 0.96))
    ax.text(50, 0.665, title, ha="center", color="#4D4D4D")
    fig.draw_without_rendering()
    plots.label_ends(drawn, [name for name, *_ in shown.values()], 15)
axes[1].set_xlabel("epoch")
plt.show()

# %% [markdown]
# (check-17-11)=
# **Check 17.11** *(at one large learning rate.)* At 0.3, SGD ends more than 0.07 below its own best epoch in every seed. SAM with $\rho = 0.5$ ends above SGD by more than 0.05 in every seed and by 0.08 on the mean, $\rho = 0.2$ in between. SAMPa with the same $\rho$ is within 0.05 of SAM, with $\lambda = 0$, too. The labels are *not* known by heart: of the wrong ones SGD follows less than a fifth in every seed, on the mean more than twice as many as SAM.

# %%
last = {arm: of(arm, "test", large)[:, -1] for arm in arms}
peak = of("sgd", "test", large).max(1)
assert (peak - last["sgd"] > 0.07).all()
assert (last["sam"] - last["sgd"] > 0.05).all()
assert (last["sam"] - last["sgd"]).mean() > 0.08
assert last["sgd"].mean() < last["sam-small"].mean() < last["sam"].mean()
for arm in ("sampa", "sampa-0"):
    assert abs(last[arm].mean() - last["sam"].mean()) < 0.05
wrong = {arm: of(arm, "followed", large)[:, -1] for arm in arms}
assert (wrong["sgd"] < 0.2).all()
assert wrong["sgd"].mean() > 2 * wrong["sam"].mean()

# %%
# NBVAL_IGNORE_OUTPUT
print("last epoch      test  wrong labels")
print(f"at rate {large}     acc.  followed")
for arm in arms:
    print(f"{arm:14} {last[arm].mean():6.3f} {wrong[arm].mean():7.3f}")

# %% [markdown]
# (check-17-12)=
# **Check 17.12** *(not the passes, and not a fixed length of 0.3.)* SGD's direction in steps of length 0.3 ends as SGD at that rate does, within 0.03. *Shorter* steps do help: at 0.03 both end more than 0.1 higher. At equal passes, SAM after half of the epochs, SAM is ahead of SGD by more than 0.05 in every seed.

# %%
assert abs(last["normalised"].mean() - last["sgd"].mean()) < 0.03
for arm in ("sgd", "normalised"):
    assert of(arm, "test", 0.03)[:, -1].mean() > last[arm].mean() + 0.1
half = of("sam", "test", large)[:, len(epochs) // 2 - 1]
assert (half - last["sgd"] > 0.05).all()

# %% [markdown]
# (check-17-13)=
# **Check 17.13** *(what a chosen learning rate and early stopping buy.)* By the noisy validation labels no arm chooses the smallest or the largest rate, and SGD takes 0.03. At their chosen rates all arms end within 0.02 of SGD on the mean. And at 0.3, SGD at the epoch that the same validation labels choose is below SAM at *its* chosen epoch, by less than 0.03, and more than 0.08 above its own last.

# %%
rates = set(own.values())
assert own["sgd"] == 0.03 and not rates & {min(setting["lr"]), large}
ends = {arm: of(arm, "test", lr)[:, -1].mean() for arm, lr in own.items()}
assert all(abs(end - ends["sgd"]) < 0.02 for end in ends.values())

# %%
stopped = {}
for arm in ("sam", "sgd"):
    epoch = of(arm, "validation", large).argmax(1)
    stopped[arm] = of(arm, "test", large)[np.arange(len(epoch)), epoch].mean()
assert 0 < stopped["sam"] - stopped["sgd"] < 0.03
assert stopped["sgd"] > last["sgd"].mean() + 0.08

# %%
# NBVAL_IGNORE_OUTPUT
print("at the chosen rate")
for arm, end in ends.items():
    print(f"{arm:11} {own[arm]:5} {end:.3f}")
print(f"rate {large}, stopped: SAM {stopped['sam']:.3f}")
print(f"                   SGD {stopped['sgd']:.3f}")

# %% [markdown]
# So tell both ({numref}`fig-17-labels`). At a learning rate, or after a time, at which a network begins to follow wrong labels, SAM holds it back, and its second pass does not explain that. But shorter steps hold it back as well: what SAM keeps SGD had in its first epochs, and a smaller rate, chosen without any clean label, keeps it. That is a small network, a small data set and one kind of noise, and none of the networks came near to knowing its wrong labels by heart.

# %% [markdown]
# ## ε-stability: where the optimum is the kink
#
# The lecture puts $\epsilon$-stability beside SAM. In the source {cite}`bogunovic2018` it is about points, not about weights of a network: find the $x$ that attains
#
# ```{math}
# :label: eq-17-stable
#
# \max_x\ \min_{\lvert\delta\rvert \le \epsilon} f(x + \delta)
# ```
#
# for an $f$ that is only seen at points which one asks for. It is {eq}`eq-17-phi` with $f = -L$.

# %%
ε = 0.08
spots = np.linspace(0, 1, 501)
W = round(ε / (spots[1] - spots[0]))  # points of the grid in ε


# %%
def f(x):
    """A high narrow peak at 1/4 and a lower broad one at 0.7."""
    return np.exp(-((x - 0.25) ** 2) / 0.0018) + 0.7 * np.exp(-((x - 0.7) ** 2) / 0.017)


def windows(values, pick):
    """The least or largest of the values within ε of each point."""
    near = [values[max(0, i - W) : i + W + 1] for i in range(len(values))]
    return np.array([pick(part) for part in near])


worth = windows(f(spots), np.min)

# %% [markdown]
# (check-17-14)=
# **Check 17.14** *(0 in the hull, and an optimum.)* The highest peak is worth less than 0.05, the stable optimum more than 0.45. It is, to the grid's step, where bisection finds $f(x - \epsilon) = f(x + \epsilon)$; there the slopes of $f$ at the two ends are above 4 in size and of opposite signs, so moving either way loses at once: a local optimum. And `ddi.steepest_descent` finds 0 in their hull. (In general 0 in the hull is necessary only: every lower peak has it, and every flat valley.)

# %%
a, b = 0.6, 0.8
for _ in range(60):
    middle = (a + b) / 2
    a, b = (middle, b) if f(middle - ε) < f(middle + ε) else (a, middle)
stable = spots[worth.argmax()]
assert abs(stable - a) <= 2 * (spots[1] - spots[0])
assert worth[f(spots).argmax()] < 0.05 and worth.max() > 0.45

# %%
h = 1e-6
ends = [(f(a + s * ε + h) - f(a + s * ε - h)) / (2 * h) for s in (-1, 1)]
assert ends[0] > 4 and ends[1] < -4
slopes = -torch.tensor(ends)[:, None]  # of -f, which is minimised
assert ddi.steepest_descent(slopes, tol=1e-9).slope == 0
print(f"f(x ± ε) = {f(a + ε):.3f}")
print(f"slopes there {ends[0]:+.2f} and {ends[1]:+.2f}")

# %% [markdown]
# Kinks are a null set: almost everywhere there is one gradient ({ref}`chapter 3 <chapter-03>`; several maximisers may share it). But a minimiser is not a point taken at random. Here and in {numref}`fig-17-valleys` it sits *on* the kink, for a smooth one would need a flat end. So the null set says nothing of where training ends ({ref}`chapter 4 <chapter-04>`).
#
# The method of the source, StableOpt, asks where the worst case is best by optimistic bounds, and then looks at the worst point near there by pessimistic ones. The bounds are a Gaussian process's, $\mu \pm 2\sigma$. Its rival, GP-UCB, asks at the largest optimistic bound. {numref}`fig-17-stable` shows where the two ask.

# %%
def bounds(X, Y, scale=0.06, size=0.5, noise=1e-3):
    """Lower and upper confidence bounds of a Gaussian process on the grid."""

    def k(a, b):
        return size**2 * np.exp(-((a[:, None] - b) ** 2) / (2 * scale**2))

    A = np.linalg.solve(k(X, X) + noise**2 * np.eye(len(X)), k(X, spots))
    deviation = np.sqrt(np.maximum(size**2 - (k(X, spots) * A).sum(0), 1e-12))
    return A.T @ Y - 2 * deviation, A.T @ Y + 2 * deviation


def play(seed, stable, samples=20):
    """Points that were asked for, and the bounds at the end."""
    X = np.random.default_rng(seed).uniform(0, 1, 3)
    for _ in range(samples):
        lower, upper = bounds(X, f(X))
        i = windows(upper, np.min).argmax() if stable else upper.argmax()
        if stable:  # the worst point near the most promising one
            near = np.arange(max(0, i - W), min(len(spots), i + W + 1))
            i = near[lower[near].argmin()]
        X = np.append(X, spots[i])
    return X, *bounds(X, f(X))


# %% [markdown]
# (check-17-15)=
# **Check 17.15** *(asked for stability.)* Twenty samples, twelve seeds: the point that StableOpt reports, the one with the best pessimistic worst case, is worth more than 0.45 in every seed. The best point that GP-UCB has seen is worth less than 0.1 in at least half of them. With StableOpt's way to report, GP-UCB's samples do much better, with a median above 0.3.

# %%
# NBVAL_IGNORE_OUTPUT
told, seen, mixed = [], [], []
for seed in range(12):
    X, lower, _ = play(seed, True)
    told.append(worth[windows(lower, np.min).argmax()])
    X, lower, _ = play(seed, False)
    mixed.append(worth[windows(lower, np.min).argmax()])
    seen.append(worth[abs(spots - X[f(X).argmax()]).argmin()])
told, seen, mixed = map(np.array, (told, seen, mixed))
assert (told > 0.45).all() and (seen < 0.1).sum() >= 6
assert np.median(mixed) > 0.3

# %%
# NBVAL_IGNORE_OUTPUT
print(f"StableOpt: {told.min():.2f} to {told.max():.2f}")
print(f"GP-UCB's best point: below 0.1 in {(seen < 0.1).sum()} of 12")
print(f"GP-UCB, reported stably: {mixed.min():.2f} to {mixed.max():.2f}")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-17-stable", "caption": "Asked for the highest point or for the safest one. Solid: f; dashed: its worst value within 0.08; triangles: where twenty samples of each method went (first seed)."}, "image": {"alt": "Function on the unit interval with a narrow peak of height 1 at 0.25 and a broad one of height 0.7 at 0.7. The dashed worst case is near 0 over the narrow peak and has a corner at 0.7, height 0.48. Triangles of GP-UCB crowd at the narrow peak, those of StableOpt at the two sides of the broad one."}}
# NBVAL_IGNORE_OUTPUT
fig, ax = plt.subplots(figsize=(6.4, 3.8))
ax.plot(spots, f(spots), color="#000000")
ax.plot(spots, worth, "--", color="#0072B2")
ax.plot(stable, worth.max(), "o", color="#0072B2", markersize=8)
for method, colour, level in ((True, "#009E73", -0.08), (False, "#D55E00", -0.18)):
    ax.plot(play(0, method)[0], np.full(23, level), "^", color=colour, markersize=6)
    name = "StableOpt" if method else "GP-UCB"
    ax.text(1.02, level, name, color=colour, va="center")
ax.text(0.86, 0.42, "f", fontsize=14)
ax.text(0.44, 0.28, "worst near x", color="#0072B2", ha="center")
ax.set(xlabel="x", ylim=(-0.25, 1.08), xlim=(0, 1))
plt.show()

# %% [markdown]
# ## Breaking it
#
# *Drop $\nabla L(\theta) \ne 0$.* At the bottom of a valley there is nothing to ascend along, and {prf:ref}`thm-17-drop` has no $\hat g$. Back to {numref}`fig-17-valleys`.
#
# (check-17-16)=
# **Check 17.16** *(SAM does not leave the sharp valley.)* At the bottom of the narrow valley ($\lvert L'\rvert < 10^{-9}$, by bisection) the maximiser in the ball is unique and $\phi_\rho$ falls to the left with slope below $-0.3$; an exact maximiser moves there. From 0.02 away, 3 000 steps of SAM with $\rho = 0.3$ end within 0.02 of the bottom, as gradient descent does: it hops to and fro, since the sign of its perturbation flips there. Descent along the gradient at the exact maximiser leaves the valley, by more than 0.4, and ends with a lower $\phi_\rho$. Neither finds the broad valley: both are local.

# %%
a, b = torch.tensor(-1.05), torch.tensor(-0.95)
for _ in range(60):
    middle = (a + b) / 2
    a, b = (a, middle) if slope_at(middle) > 0 else (middle, b)
bottom, ρ = a, 0.3
left, right = valleys(bottom - ρ), valleys(bottom + ρ)
assert slope_at(bottom).abs() < 1e-9 and right - left > 0.05
assert slope_at(bottom + ρ) > 0.3  # φ's slope: leftwards it falls


# %%
def descend(start, perturb, steps=3000):
    """Gradient descent on the loss at perturbed weights, steps 0.05/√k."""
    θ = torch.tensor(start)
    for k in range(1, steps + 1):
        θ = θ - 0.05 / k**0.5 * slope_at(θ + perturb(θ))
    return θ


# %%
ways = {
    "gradient descent": lambda θ: 0.0,
    "SAM": lambda θ: ρ * slope_at(θ).sign(),
    "exact": lambda θ: ρ if valleys(θ + ρ) > valleys(θ - ρ) else -ρ,
}
reached = {name: descend(-1.02, perturb) for name, perturb in ways.items()}
for name in ("gradient descent", "SAM"):
    assert (reached[name] - bottom).abs() < 0.02
assert (reached["exact"] - bottom).abs() > 0.4
φ_there = {name: float(worst_near(place)) for name, place in reached.items()}
assert φ_there["exact"] < φ_there["SAM"] - 0.05 and φ_there["exact"] > high.min() + 0.2

# %% [markdown]
# ## Summary
#
# - SAM's objective is a maximum over a ball in the space of the weights. Danskin's theorem applies to it as it stands: at a maximiser the gradient is that at the shifted weights, and nothing is dropped.
# - SAM's one step of ascent drops a term, and its gradient misses the objective's, by the same $\rho^2 c$ to leading order; with the term the error is of order $\rho^3$, with $K$ steps of ascent $\rho^{K+1}$.
# - All this is for small balls. In our network at $\rho = 0.5$ the highest peak that we find is far from where one step looks, and the dropped term is not to blame.
# - One perturbation for all samples is no product. As the lecture prints the objective, with a maximum for each sample, it is another, larger function than the one whose update it prints.
# - SAMPa takes as many gradients as SAM. They need not wait for each other: the depth is SGD's plus one. (We measured no time.) After its first step, $\lambda = 1$ is optimistic gradient descent; $\lambda = 0$ needs the gradient to be remembered.
# - With 40 % wrong labels and a large learning rate SGD begins to follow them, SAM less than half as much, and SAM ends about ten points above. At the smaller rate that noisy validation labels choose all arms end within two points of each other; stopped by the same labels at the large rate, SGD stays up to three points below SAM.
# - $\epsilon$-stability is the same maximum over a shift. Its optimum sits on a kink, with 0 in Danskin's hull. That is necessary, and here sufficient.
# - Not run here: the lecture's table (ResNet-56 on CIFAR-10). `ddi run experiments/sam.toml` has its arms, for a ResNet-18, with a control that has as many gradients.
#
# ## Exercises
#
# ::::{exercise} A quadratic
# :label: ex-17-quadratic
#
# Let $L(\theta) = \frac12\theta^\top A\theta$ with $A$ symmetric positive definite and $\rho > 0$. Show that at $\theta = 0$ the maximisers of {eq}`eq-17-phi` are $\pm\rho v$ with $v$ a unit eigenvector of the largest eigenvalue $\mu$ (if it is simple), and that $D_\gamma\phi_\rho(0) = \rho\mu\lvert\langle\gamma, v\rangle\rvert$. Along which directions does $\phi_\rho$ have no kink?
# ::::
#
# ```{solution-start} ex-17-quadratic
# :label: sol-17-quadratic
# :class: dropdown
# ```
#
# On the sphere $e^\top A e$ is largest at $\pm\rho v$, where the gradients are $\pm\rho\mu v$, so the largest inner product with $\gamma$ is $\rho\mu\lvert\langle\gamma, v\rangle\rvert$. Orthogonally to $v$ the slope is 0 both ways. The minimiser of $L$ minimises $\phi_\rho$ too, and 0 is in the hull.

# %%
A, ρ = torch.diag(torch.tensor([3.0, 1.0, 0.5])), 0.3
v, t = torch.eye(3)[0], 1e-6
for γ in torch.randn(5, 3, generator=torch.Generator().manual_seed(0)):
    ties = torch.stack([ρ * A @ v, -ρ * A @ v])  # gradients at ± ρ v
    slope = ddi.directional_derivative(ties, γ)
    assert (slope - ρ * 3 * γ[0].abs()).abs() < 1e-12
    nearby = [t * γ + s * ρ * v for s in (1, -1)]  # maximal up to t²
    rise = max(point @ A @ point / 2 for point in nearby) - 3 * ρ**2 / 2
    assert (rise / t - slope).abs() < 1e-4

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} Gradients of unit length
# :label: ex-17-scale
#
# Multiply $L$ by $s > 0$. What happens to $e_1$, to SAM's gradient and to $\rho^2 c$? And what if the weights of a layer are multiplied by $s$ and those of the next divided by $s$, for a network with ReLU?
# ::::
#
# ```{solution-start} ex-17-scale
# :label: sol-17-scale
# :class: dropdown
# ```
#
# $e_1$ does not change, so SAM's gradient and $\rho^2 c$ are multiplied by $s$: SAM is not the control with a step of fixed length. The second change leaves the function of the network as it was, but not the ball: the same function can be made as sharp as one likes, in this sense of the word.

# %%
assert (unit(grad(θ)) - unit(torch.func.grad(lambda θ: 7 * L(θ))(θ))).norm() < 1e-12
W, V = torch.randn(6, 4, generator=draw), torch.randn(3, 6, generator=draw)
point = torch.rand(4, generator=draw)
outs = {}
for s in (1.0, 0.1):  # the layers scaled, and the first one moved by 0.1
    for e in (0.0, 0.1):
        outs[s, e] = (V / s) @ torch.relu((s * W + e) @ point)
assert (outs[1, 0] - outs[0.1, 0]).norm() < 1e-12
moved = {s: (outs[s, 0.1] - outs[s, 0]).norm() for s in (1, 0.1)}
assert moved[0.1] > 5 * moved[1]

# %% [markdown]
# ```{solution-end}
# ```
