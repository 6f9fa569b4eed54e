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
# (chapter-01)=
# # Adversarial risk, and the linear case solved exactly
#
# :::{admonition} What you will learn
# :class: frame
#
# - what adversarial risk is, and how it differs from empirical risk;
# - what FGSM, PGA and PGD compute, and why PGD steps along the *sign* of the gradient;
# - how to attack a linear model optimally, in closed form, in $\ell_\infty$ and $\ell_2$, with and without the image box;
# - what the optimal attack does to a classifier of handwritten digits, and what training against it changes.
#
# **Before you start.** Gradients, norms, the logistic loss, and a little PyTorch. Symbols are listed in {ref}`notation`.
#
# **Time and hardware.** Forty minutes to read; ten seconds to run on one processor core.
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
import itertools
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.optimize import linprog, minimize
from torch.nn.functional import softplus

import ddi
from ddi import FGSM, L2, PGA, PGD, LInf, cross_entropy, plots
from ddi.clone import repository

plots.use_style()
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
generator = torch.Generator().manual_seed(1)

# %% [markdown]
# ## What an adversary does to a digit
#
# scikit-learn's digits {cite}`alpaydin1998` have $8 \times 8$ pixels in $[0, 1]$; we take the classes 0 (label $-1$) and 1 (label $+1$). A linear model tells them apart without an error. Now every pixel may move by at most $0.3$. {numref}`fig-01-images` shows the worst such move for this model, which this chapter computes in closed form: it paints the *other* digit. A pixel at $0$ is paper and one at $1$ is ink; if we insist that the result is an image (the *box*), paper cannot be bleached further, and the attack is weaker.

# %%
data = ddi.digits().pair(0, 1).to(dtype=torch.float64)
x, x_test = data.x_train.flatten(1), data.x_test.flatten(1)
y, y_test = (2.0 * labels - 1 for labels in (data.y_train, data.y_test))
print(f"{len(x)} training, {len(x_test)} test images, {x.shape[1]} pixels")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-01-images", "caption": "The optimal perturbation carries the picture of the *other* digit; the box removes the part that would leave the range. Top: weights and the two perturbations of the 0, red positive and blue negative. All images share one grey scale from −0.3 to 1.3."}, "image": {"alt": "Nine small pictures. Top row: the weights of the standard model and the perturbations without and with the box, in red and blue; with the box the blue is pale or missing where the digit has little ink. Below: a zero and a one, clean and under both perturbations."}}
zero, one = int((y_test < 0).nonzero()[0]), int((y_test > 0).nonzero()[0])
θ, free = torch.zeros(64), LInf(0.3, None)
for _ in range(1000):  # logistic regression without intercept
    θ = θ + 0.5 * (torch.sigmoid(-y * (x @ θ)) * y) @ x / len(y)
assert (y_test * (x_test @ θ) > 0).all()  # without an error
moves = [threat.project(-1e12 * y_test[:, None] * θ, x_test) for threat in (free, LInf(0.3))]
fig, axes = plt.subplots(3, 3, figsize=(6.0, 6.2))
top = [θ / θ.abs().max() * 0.3, *(move[zero] for move in moves)]
plots.show_images(axes[0], torch.stack(top).view(3, 1, 8, 8), ["weights θ", "δ*, no box", "δ*, box"], limit=0.3)
for row, i in zip(axes[1:], (zero, one), strict=True):
    shown = [x_test[i], *(x_test[i] + move[i] for move in moves)]
    for ax, image, title in zip(row, shown, ["clean", "x + δ*, no box", "x + δ*, box"], strict=True):
        ax.imshow(image.view(8, 8), cmap="gray_r", vmin=-0.3, vmax=1.3)
        ax.set_axis_off()
        ax.set_title(title, fontsize=11)
for ax in axes[0]:
    ax.title.set_fontsize(11)
plt.show()

# %% [markdown]
# ## From empirical to adversarial risk
#
# We have $k$ samples $(x_i, y_i)$, a model with parameters $\theta$, and a loss $L(\theta, x, y)$.
# *Empirical risk minimisation* chooses $\theta$ to make the mean loss small:
#
# $$
# R(\theta) = \frac1k \sum_{i=1}^k L(\theta, x_i, y_i) .
# $$
#
# Now let an adversary change every image a little {cite}`szegedy2014`. It may add any $\delta$ of the *threat set*
#
# ```{math}
# :label: eq-01-set
#
# S(x) = \{\delta : \|\delta\| \le \epsilon,\ 0 \le x + \delta \le 1\} .
# ```
#
# The second condition is the *box*: a perturbed image is still an image. We say "without the box" when we drop it.
# The *adversarial risk* is the mean of the worst losses:
#
# ```{math}
# :label: eq-01-risk
#
# \begin{aligned}
# \phi(\theta) &= \frac1k \sum_{i=1}^k \max_{\delta_i \in S(x_i)} L(\theta, x_i + \delta_i, y_i) \\
#   &= \max_{\delta_1 \in S(x_1), \dots, \delta_k \in S(x_k)} \ \frac1k \sum_{i=1}^k L(\theta, x_i + \delta_i, y_i) .
# \end{aligned}
# ```
#
# The maxima exist, because $S(x)$ is compact and the loss is continuous. The second equality holds because each $\delta_i$ appears in one
# term only: the best joint choice is made of the best single choices. It looks harmless. {ref}`Chapter 7 <chapter-07>` is about what follows from it.
#
# To try it we take a small network with two inputs, three samples, and 81 perturbations on a grid for each (without the box).

# %%
torch.manual_seed(0)
net, labels = ddi.MLP(2, 2, hidden=(8,)), torch.tensor([0, 1, 0])
points = torch.rand(3, 2, generator=generator)
ticks = torch.linspace(-0.3, 0.3, 9)
moved = points[:, None] + torch.cartesian_prod(ticks, ticks)
many = labels.repeat_interleave(81)
values = cross_entropy(net(moved.view(-1, 2)), many).view(3, 81).detach()

# %% [markdown]
# (check-01-1)=
# **Check 01.1** *(the maximum of the mean is the mean of the maxima.)* All $81^3$ joint choices are tried. The two lines of {eq}`eq-01-risk` agree to $10^{-12}$, and the adversarial risk exceeds the clean one.

# %% tags=["hide-input"]
joint = (values[0][:, None, None] + values[1][:, None] + values[2]) / 3
assert abs(joint.max() - values.amax(1).mean()) < 1e-12
clean = cross_entropy(net(points), labels).mean()
assert joint.max() > clean
print(f"✓ {joint.numel()} joint choices: {joint.max():.3f}; clean {clean:.3f}")

# %% [markdown]
# Why a smooth loss, when what we fear is a wrong label? Because the smooth loss bounds the share of errors from above.
#
# (A box like the next one reports what a source says: here the lecture of {cite:t}`cevher2024`, further down also the *basics slides* {cite}`basicslides`.
# The box after it is our comment.)
#
# :::{admonition} Source's claim (Cevher 2024, "Adversary maximizes an upper bound (I)")
# :class: claim
#
# The 0–1 loss at the optimal perturbation is at most the maximum of the cross-entropy.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# True with logarithms to base 2, not in nats, the unit that PyTorch uses. A misclassified sample gives its own label a probability of at most
# $\tfrac12$, since another label has at least as much. So its cross-entropy is at least $\ln 2 \approx 0.693$, not at least $1$. The bound to use is
# $L_{01} \le L_{\mathrm{CE}} / \ln 2$.
# :::
#
# (check-01-2)=
# **Check 01.2** *(cross-entropy bounds the error only after division by $\ln 2$.)* On random logits every misclassified sample satisfies the corrected
# bound; some break the printed one. So does a linear model whose *worst* margin is $-0.01$: its worst loss is $0.698 < 1$, and the sample is lost.

# %% tags=["hide-input"]
z = torch.randn(5000, 3, generator=generator)
labels = torch.randint(3, (5000,), generator=generator)
wrong = z.argmax(1) != labels
entropy = cross_entropy(z, labels)[wrong]
assert (entropy / math.log(2) >= 1).all()
assert (entropy < 1).any()
below = int((entropy < 1).sum())
print(f"✓ of {len(entropy)} errors {below} have less than 1 nat, none less than ln 2")
worst_entropy = cross_entropy(torch.tensor([[0.01, 0.0]]), torch.tensor([1]))
assert abs(worst_entropy - 0.698) < 5e-4

# %% [markdown]
# ## Three attacks
#
# For one sample write $f(\delta) = L(\theta, x + \delta, y)$. All three attacks are short.
#
# - **FGSM**, the fast gradient sign method {cite}`goodfellow2015`, jumps to a corner: $\delta = \Pi_S(\epsilon\,\mathrm{sign}\,\nabla f(0))$.
# - **PGA**, projected gradient ascent, takes gradient steps and returns to the set: $\delta \leftarrow \Pi_S(\delta + \alpha \nabla f(\delta))$.
# - **PGD**, "projected gradient descent" {cite}`kurakin2017,madry2018`, takes several small FGSM steps: $\delta \leftarrow \Pi_S(\delta + \alpha\,\mathrm{sign}\,\nabla f(\delta))$.
#
# $\Pi_S(\delta)$ is the point of $S$ nearest to $\delta$. For $\ell_\infty$, with or without the box, it clips every coordinate to an interval.
# The name PGD is a misnomer, as the lecture remarks: it ascends, and it does not use the gradient but its sign. In $\ell_2$ the field replaces
# the sign by $\nabla f / \|\nabla f\|_2$.
#
# :::{admonition} Source's claim (Cevher 2024, "Adversarial examples and proximal gradient descent")
# :class: claim
#
# The attack is a composite problem, $\max_\delta f(\delta) + \iota(\delta)$, with $\iota$ the indicator function of the ball: $0$ inside, $+\infty$ outside.
# PGA is its proximal gradient method, and the proximal operator of $\iota$ is the projection, a clip.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# The method is right, the sign in the problem is not: with $+\iota$ every point *outside* has the value $+\infty$. It must be $\max_\delta f(\delta) - \iota(\delta)$.
# :::
#
# (check-01-3)=
# **Check 01.3** *(the indicator must be subtracted.)* On a grid, the printed problem is maximised outside the ball; the corrected one has the
# constrained maximum. The proximal operator, by brute force, is the clip, to the grid's resolution of $10^{-3}$.

# %% tags=["hide-input"]
grid = torch.arange(-1000, 1001) / 1000  # 0.3 and -0.3 are on it, on every machine
f = torch.sin(4 * grid) + grid
inside = grid.abs() <= 0.3
ι = torch.where(inside, 0.0, torch.inf)
assert not inside[(f + ι).argmax()] and (f - ι).max() == f[inside].max()
for v in (-0.9, -0.1234, 0.2345, 0.7):
    prox = grid[(ι + (grid - v) ** 2 / 2).argmin()]
    assert abs(prox - max(-0.3, min(v, 0.3))) < 1e-3

# %% [markdown]
# ### FGSM is one long, clipped PGA step
#
# :::{admonition} Source's claim (Cevher 2024, "A proposed link between FGSM and PGA" and "Projected gradient descent (PGD) attack: A misnomer")
# :class: claim
#
# If $\alpha\,|\nabla f(0)_j| > \epsilon$ for every $j$, one PGA step from $0$ is FGSM. PGD with one step of length $\epsilon$ is FGSM too.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# Both hold. Coordinates with zero gradient may be left out of the condition: neither method moves them.
# How long is the step? For the logistic loss at margin $m$ the gradient in $\delta$ is $-y\theta/(1 + e^m)$, so $\alpha$ must grow like $e^m$. On a
# confident model the raw gradient vanishes; its sign does not. That is a first reason for sign steps.
# :::
#
# We need a model. In this chapter it has one logit $\theta^\top x + \theta_0$ and labels $y \in \{-1, 1\}$; the logistic loss is $\Psi(y(\theta^\top x + \theta_0))$ with
# $\Psi(z) = \log(1 + e^{-z})$.

# %%
def Ψ(z):
    """The logistic loss of a margin z."""
    return softplus(-z)


def linear(θ, θ0):
    """The model x -> θ'x + θ0, one logit an image."""
    return lambda x: x @ θ + θ0


def logistic(logit, y):
    """Loss for the attacks of ddi: one value a sample."""
    return Ψ(y * logit)


# %% [markdown]
# Here is one with margin about 10 on the image $(0.5, 0.5, 0.5, 0.5)$, and a step $\alpha$ that is just long enough.

# %%
ε, θ = 0.3, torch.tensor([1.0, -2.0, 0.0, 0.5])
x1, y1, model = torch.full((1, 4), 0.5), torch.ones(1), linear(θ, 10.0)
gradient = -y1 * torch.sigmoid(-y1 * model(x1)) * θ
α = (1 + 1e-9) * ε / gradient[θ != 0].abs().min().item()

# %% [markdown]
# (check-01-4)=
# **Check 01.4** *(FGSM is one PGA step, if the step is long enough.)* The perturbations are equal bit for bit when $\alpha\,|\nabla f(0)_j| \ge \epsilon$ wherever the gradient is not zero, and differ
# when $\alpha$ is half as long. PGD with one step $\epsilon$ is FGSM as well. The margin is about $10$, so the step that is needed exceeds $1000\,\epsilon$.

# %% tags=["hide-input"]
options = {"steps": 1, "random_start": False, "loss": logistic, "box": None}
fgsm = FGSM(ε, loss=logistic, box=None)(model, x1, y1)
assert torch.equal(PGA(ε, α, **options)(model, x1, y1), fgsm)
assert not torch.equal(PGA(ε, α / 2, **options)(model, x1, y1), fgsm)
assert torch.equal(PGD(ε, ε, **options)(model, x1, y1), fgsm)
assert α > 1000 * ε
print(f"✓ the step must be {α / ε:.0f} ε; bound 1000")

# %% [markdown]
# ### Why sign steps: a lower bound that touches
#
# The second reason is geometry. A gradient step maximises a lower bound of $f$ whose error is measured in $\ell_2$. Measure it in $\ell_\infty$, the
# norm of the attack, and the maximiser is a *clipped sign step*.
#
# In plain words: near a point $\zeta$ of the ball trust the linear model, far away distrust it by $\frac{\Lambda}{2} t^2$; then all coordinates move equally far, each until it meets its wall ({numref}`fig-01-minorant`). If $r_j$ is the room left to coordinate $j$ and $g = \nabla f(\zeta)$, the linear model promises $h(t) = \sum_j |g_j| \min(t, r_j)$. This is concave and piecewise linear, so the best step $t^\star$ is either a breakpoint $r_j$ or a point where $h'(t) = \Lambda t$:

# %%
def h(t, g, room):
    """Σ_j |g_j| min(t, r_j), for a vector of t."""
    return (g.abs() * torch.minimum(t[:, None], room)).sum(1)


def best_step(g, room, Λ):
    """The t >= 0 that maximises h(t) - Λt²/2, and the maximum."""
    breaks = torch.cat([torch.zeros(1), room])
    slopes = (g.abs() * (room > breaks[:, None])).sum(1)  # h' beyond
    t = torch.cat([breaks, slopes / Λ])
    values = h(t, g, room) - Λ / 2 * t**2
    return t[values.argmax()], values.max()


# %%
def rooms(g, ζ, ε):
    """How far each coordinate can follow the sign of g inside the ball."""
    return torch.where(g == 0, 0.0, ε - g.sign() * ζ)


def clipped(ζ, g, t):
    """ζ moved by t along the sign of g, clipped to the ball."""
    return (ζ + t * g.sign()).clamp(-ε, ε)


# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-01-minorant", "caption": "The sign step $t^\\star$ climbs to the peak of a lower bound, so it cannot go down; the linear model alone walks on to the wall, and ends below the start."}, "image": {"alt": "Three curves over the step length t. The linear model rises all the way. The true function rises, peaks and falls below zero, where a cross is marked FGSM. The lower bound lies below the function and peaks at a dot marked t star."}}
β, A, ζ = torch.tensor([0.5, 0.3]), torch.tensor([[5.0, -1.5], [-1.5, 4.0]]), torch.zeros(2)
g, Λ, ts = β - A @ ζ, A.abs().sum(), torch.linspace(0, ε, 200)
path = torch.stack([clipped(ζ, g, t) for t in ts])
truth = path @ β - ((path @ A) * path).sum(1) / 2
model_gain = h(ts, g, rooms(g, ζ, ε))
t_star, promise = best_step(g, rooms(g, ζ, ε), Λ)
fig, ax = plt.subplots()
curves = [("linear model", model_gain, "#999999", "--"), ("f", truth, "black", "-"), ("lower bound", model_gain - Λ / 2 * ts**2, "#009E73", "-.")]
for label, curve, colour, dash in curves:
    shown = curve >= -0.08
    (drawn,) = ax.plot(ts[shown], curve[shown], color=colour, linestyle=dash)
    if label != "f":
        plots.label_line(drawn, label)
ax.text(0.215, 0.04, "f", fontsize=14)
ax.plot(t_star, promise, "o", color="#009E73", markersize=8)
ax.annotate("$t^\\star$", (t_star, promise), xytext=(0, -18), textcoords="offset points", ha="center", fontsize=14)
ax.plot(ts[-1], truth[-1], "X", color="black", markersize=9, clip_on=False)
ax.annotate("FGSM", (ts[-1], truth[-1]), xytext=(-10, -3), textcoords="offset points", ha="right", va="top")
ax.axhline(0, color="#999999", linewidth=1)
ax.set(xlabel="step length $t$", ylabel="gain over the start", xlim=(0, ε), ylim=(-0.09, 0.26))
plt.show()

# %% [markdown]
# ::::{prf:theorem} The sign step
# :label: thm-01-sign
#
# Let $B = \{\delta : a \le \delta \le b\}$ be a bounded box (the $\ell_\infty$ ball, with or without the image box). Let $f$ be differentiable with
# $\|\nabla f(\delta) - \nabla f(\delta')\|_1 \le \Lambda \|\delta - \delta'\|_\infty$ on $B$, with $\Lambda > 0$. Fix $\zeta \in B$ and put $g = \nabla f(\zeta)$. Let $r_j$ be the room that is left in the
# direction of $g_j$: $b_j - \zeta_j$ if $g_j > 0$, $\zeta_j - a_j$ if $g_j < 0$, and $0$ if $g_j = 0$. Put $h(t) = \sum_j |g_j| \min(t, r_j)$. Then:
#
# 1. $f(\delta) \ge f(\zeta) + \langle g, \delta - \zeta\rangle$ $- \frac{\Lambda}{2} \|\delta - \zeta\|_\infty^2$ for all $\delta \in B$;
# 2. the right-hand side is largest on $B$ at $\delta^+ = \mathrm{clip}(\zeta + t^\star\,\mathrm{sign}\,g,\ [a, b])$, where $t^\star$ maximises $h(t) - \frac{\Lambda}{2} t^2$ over $t \ge 0$;
# 3. $f(\delta^+) - f(\zeta) \ge h(t^\star) - \frac{\Lambda}{2} {t^\star}^2$ $\ge 0$, with a strict last inequality unless $h = 0$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-01-sign`
#
# ::::{prf:proof}
# For (1) let $d = \delta - \zeta$. The segment from $\zeta$ to $\delta$ lies in $B$, so by Hölder's inequality
#
# $$
# \begin{aligned}
# & f(\delta) - f(\zeta) - \langle g, d\rangle \\
# & \quad = \int_0^1 \langle \nabla f(\zeta + sd) - g, d\rangle\, ds \\
# & \quad \ge -\int_0^1 \Lambda s \|d\|_\infty^2\, ds \\
# & \quad = -\tfrac{\Lambda}{2} \|d\|_\infty^2 .
# \end{aligned}
# $$
#
# For (2) let $\zeta + d \in B$ and $t = \|d\|_\infty$. Then $g_j d_j \le |g_j| \min(t, r_j)$ for every $j$, so the right-hand side of (1) is at most
# $f(\zeta) + h(t) - \frac{\Lambda}{2} t^2$, hence at most the same with $t^\star$. At $\delta^+$ this value is reached: there $g_j d_j = |g_j| \min(t^\star, r_j)$, and $\|d\|_\infty \le t^\star$.
#
# For (3) insert $\delta^+$ in (1). The maximum over $t$ is at least the value $0$ at $t = 0$. If $h \ne 0$, then $h(t) = ct$ with $c > 0$ for small $t$, and $ct > \frac{\Lambda}{2} t^2$ there.
# ::::
# :::::
#
# PGD with a constant step is this scheme with $t^\star$ replaced by a constant $\alpha$. $f$ need not be concave.
#
# Our test functions are random concave quadratics $f(\delta) = \beta^\top\delta - \frac12\delta^\top A\delta$. For them $\Lambda = \sum_{ij} |A_{ij}|$ will do, because
# $\|Ad\|_1 \le \sum_{ij} |A_{ij}|\,\|d\|_\infty$.

# %% tags=["hide-input"]
def random_quadratic(p=3):
    """β, A and a point ζ of the ball of radius ε."""
    C = torch.randn(p, p, generator=generator)
    ζ = ε * (2 * torch.rand(p, generator=generator) - 1)
    return 0.5 * torch.randn(p, generator=generator), C.T @ C, ζ


def solver_maximum(g, ζ, Λ):
    """Maximise <g, δ - ζ> - Λs²/2 over the ball, |δ_j - ζ_j| <= s, by SLSQP."""
    g, ζ, p = g.numpy(), ζ.numpy(), len(g)
    walls = {"type": "ineq", "fun": lambda v: np.r_[v[p] - (v[:p] - ζ), v[p] + (v[:p] - ζ)]}
    start = np.r_[ζ, 0.1]
    bounds = [(-ε, ε)] * p + [(0, 2 * ε)]
    cost = lambda v: Λ / 2 * v[p] ** 2 - g @ (v[:p] - ζ)  # noqa: E731
    return -minimize(cost, start, bounds=bounds, constraints=walls, method="SLSQP", options={"ftol": 1e-12}).fun


# %% [markdown]
# (check-01-5)=
# **Check 01.5** *($\delta^+$ maximises the lower bound.)* The bound at $\delta^+$ is $h(t^\star) - \frac{\Lambda}{2}{t^\star}^2$ above $f(\zeta)$ (to $10^{-12}$). This value is compared with a fine grid
# over $t$ (to $10^{-4}$) and with a general solver, SLSQP, on the variables $(\delta, s)$ with $|\delta_j - \zeta_j| \le s$ (to $10^{-6}$).

# %% tags=["hide-input"]
ts = torch.linspace(0, 2 * ε, 60001)
for _ in range(10):
    β, A, ζ = random_quadratic()
    g, Λ = β - A @ ζ, A.abs().sum().item()
    room = rooms(g, ζ, ε)
    t_star, value = best_step(g, room, Λ)
    d = clipped(ζ, g, t_star) - ζ
    assert abs(g @ d - Λ / 2 * d.abs().max() ** 2 - value) < 1e-12
    by_grid = (h(ts, g, room) - Λ / 2 * ts**2).max()
    assert -1e-12 < value - by_grid < 1e-4
    assert abs(solver_maximum(g, ζ, Λ) - value) < 1e-6

# %% [markdown]
# :::{admonition} Source's claim (Cevher 2024, "Multiple steps of FGSM: A connection to majorization-minimization")
# :class: claim
#
# For concave $f$ the next point is $\mathrm{clip}(\zeta - t^\star \mathrm{sign}\,\nabla f(\zeta), [-\epsilon, \epsilon])$, and $t^\star$ maximises the largest value of the linear term
# $\langle \nabla f(\zeta), \delta - \zeta\rangle$ over $\|\delta - \zeta\|_\infty \le t$, with the maximum printed over $\zeta$.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# The idea is right. Three slips: for a maximisation the sign step needs a *plus*; the inner maximum is over $\delta$, since $\zeta$ is given; and $t^\star$ must
# maximise $h(t) - \frac{\Lambda}{2} t^2$. Without the last term the largest $t$ always wins, and "the step" is a jump to the wall.
# :::
#
# (check-01-6)=
# **Check 01.6** *(plus, and with $-\frac{\Lambda}{2} t^2$.)* On 200 random concave quadratics the corrected step rises by at least what {prf:ref}`thm-01-sign` guarantees (to $10^{-12}$).
# The printed minus sign goes down every time. Without the quadratic term the value falls in at least 20 of the 200. The guarantee also holds on 200 logistic losses,
# which are *convex* in $\delta$, with $\Lambda = \|\theta\|_1^2 / 4$.

# %% tags=["hide-input"]
falls = 0
for _ in range(200):
    β, A, ζ = random_quadratic()
    g = β - A @ ζ
    t_star, promise = best_step(g, rooms(g, ζ, ε), A.abs().sum())
    moves = (g, 0.0), (g, t_star), (-g, t_star), (g, 2 * ε)
    points = [clipped(ζ, *move) for move in moves]
    start, plus, minus, wall = (β @ δ - δ @ A @ δ / 2 for δ in points)
    assert plus - start >= promise - 1e-12 and promise > 0
    assert minus < start
    falls += int(wall < start)
assert falls >= 20
print(f"✓ without the quadratic term {falls} of 200 steps fall; bound 20")

# %% tags=["hide-input"]
for _ in range(200):
    θ, _, ζ = random_quadratic()
    θ, m = 3 * θ, torch.randn((), generator=generator)
    g = -torch.sigmoid(-m - θ @ ζ) * θ
    t_star, promise = best_step(g, rooms(g, ζ, ε), θ.abs().sum() ** 2 / 4)
    rise = Ψ(m + θ @ clipped(ζ, g, t_star)) - Ψ(m + θ @ ζ)
    assert rise >= promise - 1e-12

# %% [markdown]
# %% [markdown]
# ## The linear case, solved exactly
#
# For a linear model no iteration is needed. $\Psi$ decreases, so the adversary makes the margin as small as it can:
#
# ::::{prf:theorem} The optimal attack on a linear model
# :label: thm-01-linear
#
# Let $\Psi$ be continuous and decreasing, $v = -y\theta$, let $x$ lie in the box, and let $S(x)$ be one of the four sets below. Then
#
# ```{math}
# :label: eq-01-closed
#
# \begin{aligned}
# & \max_{\delta \in S(x)} \Psi\bigl(y(\theta^\top (x + \delta) + \theta_0)\bigr) \\
# & \qquad = \Psi\bigl(y(\theta^\top x + \theta_0) - s\bigr)
# \end{aligned}
# ```
#
# with $s = \max_{\delta \in S(x)} \langle v, \delta \rangle$, and a perturbation that attains $s$ attains the left-hand side. With $r_j$ the room in the box, $1 - x_j$ if $v_j > 0$ and $x_j$ otherwise:
#
# | set | $\delta^\star$ | $s$ |
# |---|---|---|
# | $\ell_\infty$ | $-y\epsilon\,\mathrm{sign}\,\theta$ | $\epsilon\lVert\theta\rVert_1$ |
# | $\ell_2$ | $-y\epsilon\,\theta / \lVert\theta\rVert_2$ | $\epsilon\lVert\theta\rVert_2$ |
# | $\ell_\infty$, box | $\mathrm{clip}(-y\epsilon\,\mathrm{sign}\,\theta,\ [-x, 1 - x])$ | $\sum_j \lvert\theta_j\rvert \min(\epsilon, r_j)$ |
# | $\ell_2$, box | $\mathrm{clip}(-yc\,\theta,\ [-x, 1 - x])$ | $\langle v, \delta^\star\rangle$ |
#
# In the last row $c$ is such that $\|\delta^\star\|_2 = \epsilon$; if no $c$ reaches $\epsilon$, let $c \to \infty$. In the second, $\theta \ne 0$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-01-linear`
#
# ::::{prf:proof}
# Since $y\theta^\top\delta = -\langle v, \delta\rangle$ and $\Psi$ decreases, the loss is largest where $\langle v, \delta\rangle$ is; a continuous function has a maximum on the compact set $S(x)$. This is {eq}`eq-01-closed`.
#
# - *$\ell_\infty$, with or without the box.* The coordinates are independent: $v_j\delta_j$ is to be largest on an interval that contains $0$. Its end on the side of $\mathrm{sign}\,v_j$ is
#   the choice, at distance $\epsilon$ or, with the box, $\min(\epsilon, r_j)$.
# - *$\ell_2$.* By the Cauchy–Schwarz inequality $\langle v, \delta\rangle \le \epsilon\|v\|_2$, with equality at $\epsilon v / \|v\|_2$.
# - *$\ell_2$, box.* Let $c > 0$ and let $\delta^\star = \mathrm{clip}(cv, [-x, 1 - x])$ have norm $\epsilon$. It is the projection of $cv$ onto the box, so it maximises
#   $\langle v, \delta\rangle - \frac{1}{2c}\|\delta\|_2^2$ there. For every $\delta \in S(x)$ therefore
#   $\langle v, \delta\rangle \le \langle v, \delta^\star\rangle + \frac{1}{2c}(\|\delta\|_2^2 - \epsilon^2)$ $\le \langle v, \delta^\star\rangle$. The norm of the clip grows continuously with $c$ from $0$. If it never
#   reaches $\epsilon$, then its limit, the maximiser over the box alone, has norm at most $\epsilon$ and lies in $S(x)$.
# ::::
# :::::
#
# In plain words: every pixel pushes against its own weight. The margin loses $\epsilon$ times the *dual norm* of the weights, $\|\theta\|_* = \max_{\|\delta\| \le 1} \langle\theta, \delta\rangle$:
# $\|\theta\|_1$ for $\ell_\infty$, $\|\theta\|_2$ for $\ell_2$. The box only takes away what would leave the image's range.
#
# All four rows are one line of code. To maximise $\langle v, \cdot\rangle$ over $S(x)$, go very far along $v$ and project back. (The proof's clip is what `project` computes.)

# %%
def worst(θ, x, y, threat):
    """The optimal perturbation: the projection of a far point along -yθ."""
    return threat.project(-1e12 * y[:, None] * θ, x)


SETS = {
    "ℓ∞": LInf(0.3, None),
    "ℓ∞, box": LInf(0.3),
    "ℓ2": L2(0.6, None),
    "ℓ2, box": L2(0.6),
}

# %% tags=["hide-input"]
def solver_gain(v, x, threat):
    """Maximise <v, δ> over S(x) by SLSQP, knowing nothing of the closed form."""
    v, x = v.numpy(), x.numpy()
    low, high = (np.full_like(x, -np.inf), np.full_like(x, np.inf)) if threat.box is None else (-x, 1 - x)
    if isinstance(threat, LInf):
        low, high = np.maximum(low, -threat.eps), np.minimum(high, threat.eps)
    ball = {"type": "ineq", "fun": lambda d: threat.eps**2 - d @ d, "jac": lambda d: -2 * d}
    result = minimize(
        lambda d: -v @ d,
        0.01 * v,
        jac=lambda d: -v,
        bounds=list(zip(low, high, strict=True)),
        constraints=[ball] if isinstance(threat, L2) else [],
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 500},
    )
    return -result.fun


# %% [markdown]
# Six images of five pixels, some of them at $0$ and $1$, weights of which one is small, and the table's $s$:

# %%
X = torch.rand(6, 5, generator=generator)
θ = torch.randn(5, generator=generator)
X[0, :3], X[1, 1:4], θ[0] = 0.0, 1.0, 0.02
Y = torch.tensor([1.0, -1.0] * 3)
V = -Y[:, None] * θ
room = torch.where(V > 0, 1 - X, X)
table = {
    "ℓ∞": 0.3 * θ.abs().sum().expand(6),
    "ℓ∞, box": (θ.abs() * room.clamp(max=0.3)).sum(1),
    "ℓ2": 0.6 * θ.norm().expand(6),
}

# %% [markdown]
# The last row needs $c$, one for each image. The norm of the clip grows with it, so we halve an interval:

# %%
low, high = torch.zeros(6, 1), torch.full((6, 1), 1e6)
for _ in range(100):
    c = (low + high) / 2
    clip = (c * V).clamp(-X, 1 - X)
    short = clip.norm(dim=1, keepdim=True) < 0.6
    low, high = torch.where(short, c, low), torch.where(short, high, c)
table["ℓ2, box"] = (V * clip).sum(1)

# %% [markdown]
# (check-01-7)=
# **Check 01.7** *({prf:ref}`thm-01-linear`, four sets, four roads.)* For random weights and images, the gain of `worst` equals the table's $s$ (to $10^{-12}$),
# SLSQP's maximum (to $10^{-6}$) and PGD's after 200 steps (to $10^{-6}$). For $\ell_\infty$ it is also the best of all $2^5$ corners of $S(x)$.

# %%
for name, threat in SETS.items():
    δ = worst(θ, X, Y, threat)
    s = (V * δ).sum(1)
    assert threat.contains(δ, X, atol=1e-12).all()
    assert (s - table[name]).abs().max() < 1e-12
    for i in range(6):
        assert abs(solver_gain(V[i], X[i], threat) - s[i]) < 1e-6

# %%
for threat in SETS.values():
    norm = "Linf" if isinstance(threat, LInf) else "L2"
    pgd = PGD(threat.eps, 0.3, 200, norm=norm, loss=logistic, box=threat.box)
    found, best = pgd(linear(θ, 0.0), X, Y, generator), worst(θ, X, Y, threat)
    assert (V * (found - best)).sum(1).abs().max() < 1e-6

# %%
for name in ("ℓ∞", "ℓ∞, box"):
    corners = torch.tensor(list(itertools.product([-1e9, 1e9], repeat=5)))
    tries = [SETS[name].project(corner.expand(6, 5), X) for corner in corners]
    by_corner = (V * torch.stack(tries)).sum(2).amax(0)
    s = (V * worst(θ, X, Y, SETS[name])).sum(1)
    assert (by_corner - s).abs().max() < 1e-12

# %% [markdown]
# :::{admonition} Source's claim (Basics slides, "Linear models")
# :class: claim
#
# $\delta^\star = -y\epsilon\,\mathrm{sign}\,\theta$ does not depend on $x$, and the worst loss is, as one line prints it, $\Psi(y(\theta^\top(x + \delta)) - \epsilon\|\theta\|_1)$. The adversarial risk that follows
# is convex in $(\theta, \theta_0)$.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# The printed worst loss still contains the $\delta$ over which the maximum was taken, and has lost $\theta_0$. It should be $\Psi(y(\theta^\top x + \theta_0) - \epsilon\|\theta\|_1)$, as in the slide's next formula.
# And $\delta^\star$ is independent of $x$ only without the box. With the box, which for images is part of the problem, a pixel at $0$
# cannot go below. Convexity holds in all four cases, as $\Psi$ is convex: a maximum of convex functions of $(\theta, \theta_0)$ is convex.
# :::
#
# (check-01-8)=
# **Check 01.8** *(the slide's formula, corrected; $\delta^\star$ and the box.)* The corrected formula is the true worst loss (to $10^{-12}$). The printed one, at $\delta = \delta^\star$, subtracts
# $\epsilon\|\theta\|_1$ twice and is wrong by more than $0.1$ even for $\theta_0 = 0$; at $\delta = 0$ it is wrong by more than $0.1$ for $\theta_0 = 1$. Without the box
# two equally labelled images share $\delta^\star$; with it they do not.

# %% tags=["hide-input"]
def worst_loss(θ, θ0, x, y, threat):
    """The loss of the optimally perturbed images."""
    return Ψ(y * linear(θ, θ0)(x + worst(θ, x, y, threat)))


# %% tags=["hide-input"]
l1 = 0.3 * θ.abs().sum()
truth = {θ0: worst_loss(θ, θ0, X, Y, SETS["ℓ∞"]) for θ0 in (0.0, 1.0)}
for θ0 in truth:
    assert (Ψ(Y * (X @ θ + θ0) - l1) - truth[θ0]).abs().max() < 1e-12
δ = worst(θ, X, Y, SETS["ℓ∞"])
assert ((Ψ(Y * ((X + δ) @ θ) - l1) - truth[0.0]).abs() > 0.1).all()
assert ((Ψ(Y * (X @ θ) - l1) - truth[1.0]).abs() > 0.1).all()
boxed = worst(θ, X, Y, SETS["ℓ∞, box"])
assert torch.equal(δ[0], δ[2]) and not torch.allclose(boxed[0], boxed[2])

# %% [markdown]
# (check-01-9)=
# **Check 01.9** *(convex, and its gradient sits at $\delta^\star$.)* Along 25 random segments the adversarial risk at the midpoint is at most the mean of
# the risks at the ends, for each set. Where no $\theta_j$ is zero, its gradient is the loss's gradient at the *fixed* perturbation $\delta^\star$: in $\ell_\infty$ without the box the latter agrees with autograd through the closed form
# (to $10^{-12}$) and with central differences of the risk (to $10^{-6}$). {ref}`Chapter 2 <chapter-02>` says why.

# %% tags=["hide-input"]
def risk(w, threat):
    """Adversarial risk of w = (θ, θ0) on the six images."""
    return worst_loss(w[:-1], w[-1], X, Y, threat).mean()


for threat in SETS.values():
    for _ in range(25):
        u, w = 2 * torch.randn(2, 6, generator=generator)
        mean = (risk(u, threat) + risk(w, threat)) / 2
        assert risk((u + w) / 2, threat) <= mean + 1e-12

# %% tags=["hide-input"]
w = torch.cat([θ, torch.ones(1)]).requires_grad_()
closed = Ψ(Y * (X @ w[:-1] + w[-1]) - 0.3 * w[:-1].abs().sum()).mean()
fixed = Ψ(Y * ((X + δ) @ w[:-1] + w[-1])).mean()
by_formula, at_δ = (torch.autograd.grad(v, w)[0] for v in (closed, fixed))
assert (at_δ - by_formula).abs().max() < 1e-12

# %% tags=["hide-input"]
w, threat, step = w.detach(), SETS["ℓ∞"], 1e-5 * torch.eye(6)
differences = [risk(w + e, threat) - risk(w - e, threat) for e in step]
assert (at_δ - torch.stack(differences) / 2e-5).abs().max() < 1e-6

# %% [markdown]
# ## Digits: zero or one
#
# Back to the images. Training is gradient descent on the (adversarial) risk. In every step we perturb every image optimally and take the gradient there.

# %%
def train(threat=None, steps=1000, lr=0.5):
    """Minimise the adversarial risk, or (no threat) the empirical one."""
    θ, θ0 = torch.zeros(64), torch.zeros(())
    for _ in range(steps):
        moved = x if threat is None else x + worst(θ, x, y, threat)
        margins = y * linear(θ, θ0)(moved)
        slope = torch.sigmoid(-margins) * y / len(y)  # -Ψ'(margin) y / k
        θ, θ0 = θ + lr * slope @ moved, θ0 + lr * slope.sum()
    return θ, θ0


NO_BOX, BOX = LInf(0.3, None), LInf(0.3)
standard, robust, robust_box = train(), train(NO_BOX), train(BOX)

# %% [markdown]
# ### How many steps does PGD need?
#
# On a linear model the sign of the gradient never changes, so in $\ell_\infty$ PGD walks straight to $\delta^\star$, which is at most $2\epsilon$ away in every coordinate.
# It arrives **exactly** once $\alpha \cdot \text{steps} \ge 2\epsilon$, whatever the random start. With fewer steps some pixels may not have arrived.
#
# In $\ell_2$ the walk along a ball's surface has no last step: the tangent of the angle to $\delta^\star$ shrinks by the factor $1 + \alpha/\epsilon$ or more at each step ({ref}`an exercise <ex-01-angle>`). The error decays
# geometrically and does not become zero. So $\alpha \cdot \text{steps} \ge 2\epsilon$ is a rule for $\ell_\infty$ only.
#
# (check-01-10)=
# **Check 01.10** *(PGD reaches the closed form, and when.)* The *gap* is the largest shortfall of PGD's loss over the 75 test images, from random starts, with $\alpha = \epsilon/4$.
# In $\ell_\infty$, with and without the box, it is below $10^{-9}$ after 8 steps (travel $2\epsilon$) and above $0.1$ after 4 (travel $\epsilon$).
# In $\ell_2$ it is still above $10^{-4}$ after 8, and below $10^{-6}$ after 60.

# %%
def gap(threat, steps):
    """Loss that PGD with steps of ε/4 leaves to the optimum, at worst."""
    norm, ε = "Linf" if isinstance(threat, LInf) else "L2", threat.eps
    attack = PGD(ε, ε / 4, steps, norm=norm, loss=logistic, box=threat.box)
    model, seed = linear(*standard), torch.Generator().manual_seed(0)
    found = Ψ(y_test * model(x_test + attack(model, x_test, y_test, seed)))
    best = worst_loss(*standard, x_test, y_test, threat)
    return (best - found).max().item()


# %%
for name, threat in SETS.items():
    if isinstance(threat, LInf):
        assert gap(threat, 4) > 0.1 and gap(threat, 8) < 1e-9
    else:
        assert gap(threat, 8) > 1e-4 and gap(threat, 60) < 1e-6

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-01-pgd", "caption": "In $\\ell_\\infty$ PGD is exact at a travel of $2\\epsilon$ and far off before; in $\\ell_2$ its error decays geometrically. Digits 0 and 1, standard training, steps of $\\epsilon/4$."}, "image": {"alt": "Loss gap on a log scale against distance travelled. Two curves for l-infinity fall off a cliff at travel two epsilon. Two curves for l2 are nearly straight lines that slope down below one millionth between eight and twelve epsilon."}}
fig, ax = plt.subplots()
looks = {"ℓ∞": ("black", "-"), "ℓ∞, box": ("#CC79A7", "--"), "ℓ2": ("#56B4E9", "-"), "ℓ2, box": ("#009E73", "-.")}
for name, threat in SETS.items():
    steps = np.array([*range(1, 9)] if "∞" in name else [*range(1, 10, 2), *range(12, 49, 6)])
    gaps = np.array([max(gap(threat, int(k)), 1e-12) for k in steps])  # exact is drawn at the bottom
    colour, dash = looks[name]
    (drawn,) = ax.plot(steps / 4, gaps, color=colour, linestyle=dash)
    if "∞" not in name:
        plots.label_line(drawn, name)
ax.text(1.45, 4, "ℓ∞", color="black")
ax.text(2.1, 4, "and, dashed, with box", color="#CC79A7")
ax.text(2.1, 3e-9, "both exact from $2\\epsilon$ on", color="#666666")
ax.set(yscale="log", xlabel="travel $\\alpha \\cdot$ steps, in units of $\\epsilon$", ylabel="loss gap to the optimum")
ax.set(xlim=(0, 12), xticks=range(0, 13, 2), ylim=(1e-9, 60))
plt.show()

# %% [markdown]
# {numref}`fig-01-pgd` shows the whole course. In $\ell_\infty$ an evaluation whose PGD travels less than $2\epsilon$ measures the attack's start as well as the model.
#
# ### What the attack does, and what training against it changes
#
# (check-01-11)=
# **Check 01.11** *(clean, attacked, robust.)* For the optimal attack with $\epsilon = 0.3$ the number of errors is counted in three ways, which agree: on the images perturbed by
# `worst`, on those perturbed by PGD, and, without the box, as the number of margins of at most $\epsilon\|\theta\|_1$. Standard training makes no clean error and fails on more than half of the attacked images, with and without the box;
# after robust training, with or without the box, fewer than a quarter are lost.

# %%
def count(w, δ=0.0):
    """Number of perturbed test images on the wrong side."""
    return int((y_test * linear(*w)(x_test + δ) <= 0).sum())


def errors(w, threat):
    """The same, under the optimal attack."""
    return count(w, worst(w[0], x_test, y_test, threat))


# %%
models = {"standard": standard, "robust": robust, "robust, box": robust_box}
print(f"wrong, of {len(y_test)}:  clean  no box  box")
for name, w in models.items():
    print(f"{name:14}{count(w):7}{errors(w, NO_BOX):8}{errors(w, BOX):5}")
assert count(standard) == 0
assert min(errors(standard, threat) for threat in (NO_BOX, BOX)) > 75 / 2
for w in (robust, robust_box):
    assert max(errors(w, NO_BOX), errors(w, BOX)) < 75 / 4

# %%
for w in models.values():
    margins = y_test * linear(*w)(x_test)
    assert errors(w, NO_BOX) == int((margins <= 0.3 * w[0].abs().sum()).sum())
    for threat in (NO_BOX, BOX):
        pgd = PGD(0.3, 0.1, 6, loss=logistic, box=threat.box)
        δ = pgd(linear(*w), x_test, y_test, generator)
        assert errors(w, threat) == count(w, δ)

# %% [markdown]
# The last row of the table may surprise: the model that was trained with the box loses *more* images within the box than the one trained without. Its mean worst
# training loss, which is what training minimises, is the smaller one. That loss bounds the errors; it does not count them.

# %%
assert worst_loss(*robust_box, x, y, BOX).mean() < worst_loss(*robust, x, y, BOX).mean()

# %% [markdown]
# With the box some of the attack's power is gone: {numref}`fig-01-errors` shows how much, at every radius.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-01-errors", "caption": "Training at $\\epsilon = 0.3$ moves the collapse to larger radii. Share of 75 test images lost to the optimal $\\ell_\\infty$ attack; solid without, dashed with the box."}, "image": {"alt": "Error against the attack's radius. The standard model's error rises steeply from 0.2 and reaches almost one at 0.35. The robust model's error stays below 0.2 up to 0.3 and rises after it. The dashed curves with the box lie at or below the solid ones."}}
radii = np.linspace(0, 0.6, 61)
fig, ax = plt.subplots()
for name, w, colour in (("standard", standard, "black"), ("robust", robust, "#0096C7")):
    for box, dash in ((None, "-"), ((0.0, 1.0), "--")):
        shares = [errors(w, LInf(float(r), box)) / 75 for r in radii]
        ax.plot(radii, shares, color=colour, linestyle=dash)
ax.axvline(0.3, color="#999999", linewidth=1)
ax.text(0.165, 0.62, "standard", ha="center", color="black")
ax.text(0.49, 0.42, "robust", ha="left", color="#0096C7")
ax.set(xlabel="radius $\\epsilon$ of the attack", ylabel="error under attack", xlim=(0, 0.6), ylim=(-0.02, 1.02))
plt.show()

# %% [markdown]
# ### Are sparse models robust?
#
# :::{admonition} Source's claim (Cevher 2024, "A robustness example: Linear prediction")
# :class: claim
#
# The largest value of a linear model over the $\ell_\infty$ ball exceeds the clean one by $\epsilon$ times the dual norm $\|\theta\|_1$, so sparse models are robust in linear prediction.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# The first half is {prf:ref}`thm-01-linear`. The conclusion needs care. What decides is the distance to the boundary,
#
# $$
# \rho(x) = \frac{|\theta^\top x + \theta_0|}{\|\theta\|_*} ,
# $$
#
# with the dual norm $\|\cdot\|_*$ of the attack's norm. Among weights of equal $\|\theta\|_2$ the sparse ones have the smallest $\|\theta\|_1$, by up to $\sqrt p$ in $p$ dimensions; but a dense model may have the larger
# margin, and the same $\rho$. Sparsity is where training against $\ell_\infty$ *leads*, since $\epsilon\|\theta\|_1$ stands in its loss; it is not why it works; and against other norms it may harm.
# :::
#
# (check-01-12)=
# **Check 01.12** *(sparse is robust in $\ell_\infty$ for a given $\|\theta\|_2$, and not beyond.)* {numref}`fig-01-weights` shows the weights.
#
# - $e_1$ and $(1, \dots, 1)/\sqrt p$ have $\ell_\infty$ costs in the ratio $\sqrt p$, yet the same $\rho$ at $x = (1, \dots, 1)$; against an $\ell_1$ attack
#   (dual norm $\|\theta\|_\infty$) the dense one's $\rho$ is $p$ times larger.
# - On the digits, robust training leaves more than 45 of 64 weights below 5 % of the largest, standard training fewer than 30.
# - Against $\ell_2$ with $\epsilon = 1$ the $\ell_\infty$-robust models lose over twice as many images as the standard one.

# %% tags=["hide-input"]
p = 64
sparse, dense = torch.eye(p)[0], torch.ones(p) / math.sqrt(p)
assert abs(dense.norm(p=1) / sparse.norm(p=1) - math.sqrt(p)) < 1e-12
for norm, ratio in ((1, 1), (torch.inf, p)):
    ρ_dense, ρ_sparse = (w.sum() / w.norm(p=norm) for w in (dense, sparse))
    assert abs(ρ_dense / ρ_sparse - ratio) < 1e-12

# %% tags=["hide-input"]
for name, (θ, _) in models.items():
    small = int((θ.abs() < 0.05 * θ.abs().max()).sum())
    assert small < 30 if name == "standard" else small > 45
    lost = errors(models[name], L2(1.0))
    print(f"✓ {name}: {small} of 64 weights below 5 %, {lost} lost in ℓ2")
for threat in (L2(1.0, None), L2(1.0)):
    for w in (robust, robust_box):
        assert errors(w, threat) > 2 * errors(standard, threat)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-01-weights", "caption": "Training against $\\ell_\\infty$ keeps a few reliable pixels and switches the rest off. Weights divided by their largest absolute value; red speaks for 1, blue for 0."}, "image": {"alt": "Two eight by eight maps of weights. Standard training: many pixels coloured, a red stroke in the middle and blue around it. Robust training: a handful of strong pixels, all others white."}}
fig, axes = plt.subplots(1, 2, figsize=(6.0, 3.2))
maps = torch.stack([w[0] / w[0].abs().max() for w in (standard, robust)]).view(2, 1, 8, 8)
plots.show_images(axes, maps, ["standard training", "robust training"], limit=1.0)
for ax in axes:
    ax.title.set_fontsize(12)
plt.show()

# %% [markdown]
# ## MNIST, zero or one
#
# :::{admonition} Source's claim (Basics slides, "MNIST example")
# :class: claim
#
# Logistic regression, 0 against 1, 10 epochs of SGD: test error 0.0004; under the optimal perturbation with $\epsilon = 0.2$, 0.845; after training on
# perturbed images, 0.025.
# :::
#
# (The pictures are credited to {cite:t}`kolter2018`.) We repeated the experiment on MNIST {cite}`lecun1998` and recorded it. The slides state neither the learning rate nor the batch size nor the start. We take batches of 100 and
# PyTorch's usual random start, and try two learning rates, with three seeds each; the table gives mean ± standard deviation. (`experiments/mnist_linear.py` is the program; it needs MNIST, this page only needs its record.) {numref}`fig-01-mnist` shows all runs.

# %% tags=["hide-input"]
folder = repository() / "results" / "mnist-linear"
records = ddi.read_records(folder)
assert records, "no record found: run this page in a clone of the repository, installed with pip install -e"


def last(train_on, lr, column):
    """The column's value after the last epoch, one a seed."""
    return np.array([r.metrics[column][-1] for r in records if (r.config["train_on"], r.config["lr"]) == (train_on, lr)])


SLIDES = {"clean, standard": 0.0004, "attacked, standard": 0.845, "attacked, robust": 0.025}
OURS = {  # what is measured: (training, column) without and with the box
    "clean, standard": [("standard", "clean_error")],
    "attacked, standard": [("standard", "error_nobox"), ("standard", "error_box")],
    "attacked, robust": [("robust-nobox", "error_nobox"), ("robust-box", "error_box")],
}
print(f"{'test error':28}{'slides':8}{'lr 0.1':19}lr 1")
for what, arms in OURS.items():
    for (train_on, column), box in zip(arms, ("no box", "box"), strict=False):
        pairs = [last(train_on, lr, column) for lr in (0.1, 1.0)]
        shown = [f"{v.mean():.4f} ± {v.std(ddof=1):.4f}" for v in pairs]
        name = what + (f", {box}" if "attacked" in what else "")
        print(f"{name:28}{SLIDES[what]:<8}{shown[0]:19}{shown[1]}")

# %% [markdown]
# (check-01-13)=
# **Check 01.13** *(the slides' story, from the record.)* All 18 runs are complete: 10 epochs, $\epsilon = 0.2$. In every run of standard training the clean error is at most two images in $2\,115$; without the box the
# attacked error exceeds one half, and the box alone takes away more than 0.25 of it. Robust training with learning rate 0.1 brings it below 0.04 without the box and below 0.02 with it. One image in $2\,115$ is an error of 0.00047,
# which the slides' 0.0004 fits, cut off after four digits.

# %% tags=["hide-input"]
assert len(records) == 18
for record in records:
    assert record.complete and record.config["eps"] == 0.2
    assert list(record.metrics["epoch"]) == list(range(1, 11))

# %% tags=["hide-input"]
images = records[0].config["test_images"]
for lr in (0.1, 1.0):
    attacked = last("standard", lr, "error_nobox")
    boxed = last("standard", lr, "error_box")
    assert (last("standard", lr, "clean_error") < 2.5 / images).all()
    assert (attacked > 0.5).all() and (attacked - boxed > 0.25).all()
assert (last("robust-nobox", 0.1, "error_nobox") < 0.04).all()
assert (last("robust-box", 0.1, "error_box") < 0.02).all()
print(f"✓ {len(records)} runs of 10 epochs, {images} test images")
assert images == 2115 and math.floor(1e4 / images) == 4

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-01-mnist", "caption": "Ours beside the slides': the attack's damage depends on the learning rate, and with the box falls to about a half or less. MNIST 0 against 1, $\\epsilon = 0.2$, logistic regression, 10 epochs of SGD with learning rate (lr) 0.1 or 1, batches of 100; one circle for each of 3 seeds, equal ones coincide; recorded runs."}, "image": {"alt": "Test errors on a log scale in three groups: clean, attacked after standard training, attacked after robust training. The slides' diamonds stand at 0.0004, 0.845 and 0.025. Ours without the box lie near them, but for one seed of robust training with learning rate 1 at 0.24; with the box they are smaller."}}
fig, ax = plt.subplots(figsize=(6.4, 4.4))
ticks, names = [], []
for group, (what, arms) in enumerate(OURS.items()):
    for place, name in enumerate(("slides", "lr 0.1", "lr 1")):
        height = -(4 * group + place)
        ticks.append(height)
        names.append(name)
        if place == 0:
            ax.plot(SLIDES[what], height, "D", color="black", markersize=7)
            ax.text(2.2e-4, height + 0.75, f"{what} training", fontsize=12, weight="bold")
            continue
        for (train_on, column), filled in zip(arms, (True, False), strict=False):
            v = last(train_on, (0.1, 1.0)[place - 1], column)
            face = "#0096C7" if filled else "white"
            ax.plot(v, np.full(3, height), "o", color="#0096C7", markerfacecolor=face, markersize=7)
for place, label, colour in ((2.2e-3, "◆ slides", "black"), (1.5e-2, "● no box", "#0096C7"), (1.1e-1, "○ box", "#0096C7")):
    ax.text(place, 1.7, label, color=colour, fontsize=12)
ax.set(xscale="log", xlim=(2e-4, 1.5), ylim=(-11, 2.3), xlabel="test error")
ax.set_yticks(ticks, names)
ax.grid(axis="y", visible=False)
plt.show()

# %% [markdown]
# :::{admonition} Our comment
# :class: comment
#
# The order of magnitude of all three numbers is confirmed. The second and third cannot be compared to the digit. With learning rate 1 the attacked error of standard training comes near the slides'; with 0.1 it is lower.
# For robust training it is the other way round: with learning rate 1 the last epoch, without the box, jumps from seed to seed (see the three circles). A likely reason: the risk has kinks, and steps of constant length do not settle at them.
# And the slides' perturbation ignores the box: part of the 0.845 is owed to pixels outside $[0, 1]$. Within the box about half of it remains.
# :::
#
# ## Breaking it
#
# **Drop a unique maximiser.** At $\theta_j = 0$ every $\delta_j \in [-\epsilon, \epsilon]$ is optimal, and $\epsilon|\theta_j|$ has a kink.
#
# :::{admonition} Source's claim (Basics slides, "Adversarial training")
# :class: claim
#
# The first step (find $\delta^\star$) is derived from Danskin's theorem: the gradient of the inner maximum is simply the gradient of the function, evaluated at its maximum.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# It is the second step, the gradient, that Danskin's theorem is about. And the statement holds where all maximisers have the same gradient in $\theta$ ({ref}`check 01.9 <check-01-9>`), not in general.
# With one pixel $x = 0.1$, $y = 1$, $\theta_0 = 0$ and $\epsilon = 0.2$, without the box, the worst loss is $\phi(\theta) = \Psi(0.1\,\theta - 0.2\,|\theta|)$. At $\theta = 0$ it rises in both directions: with slope $0.05$ to the right and $0.15$ to the left.
# It has its minimum there and no gradient, and following minus "the gradient at the maximum" goes up. This is the subject of {ref}`chapter 3 <chapter-03>`.
# :::
#
# (check-01-14)=
# **Check 01.14** *("the gradient at its maximum" can be no gradient.)* At $\theta = 0$ every $\delta \in [-0.2, 0.2]$ gives the same loss, $\ln 2$. The one-sided slopes are $0.05$ and $0.15$ (difference quotients, to $10^{-6}$). For each corner $\delta = \pm 0.2$,
# a step against its gradient raises $\phi$, for 50 step lengths from $10^{-6}$ to $10$.

# %%
def φ(θ):
    """Worst logistic loss of one pixel x = 0.1, y = 1, over |δ| <= 0.2."""
    return Ψ(0.1 * θ - 0.2 * θ.abs())


zero, t = torch.zeros(()), torch.tensor(1e-7)
for δ in (-0.2, 0.0, 0.2):
    assert abs(Ψ(zero * (0.1 + δ)) - math.log(2)) < 1e-15
for direction, slope in ((1, 0.05), (-1, 0.15)):
    assert abs((φ(direction * t) - φ(zero)) / t - slope) < 1e-6

# %%
for δ in (-0.2, 0.2):
    gradient = -(0.1 + δ) / 2  # of Ψ(θ(x + δ)) at θ = 0
    steps = torch.logspace(-6, 1, 50)
    assert (φ(-steps * gradient) > φ(zero)).all()

# %% [markdown]
# **Drop linearity.** Then the linear model of the loss is a model only, and a jump to the corner may overshoot.
#
# :::{admonition} Source's claim (Cevher 2024, "Adversarial examples and proximal gradient descent (cont'd)")
# :class: claim
#
# PGA gives more powerful attacks than FGSM.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# On a curved loss it can, with a step that fits the curvature. It is no law: on a linear model FGSM is optimal, so nothing is more powerful, and PGA with a moderate number of raw gradient steps is weaker, because on a confident model
# the gradient is tiny.
# :::
#
# (check-01-15)=
# **Check 01.15** *(PGA against FGSM: one example each way.)* On the concave quadratic of {numref}`fig-01-minorant`, whose maximum is inside the ball, PGA with step $1/\|A\|_2$ finds the maximum $\frac12\beta^\top A^{-1}\beta$ (to $10^{-9}$); FGSM ends below its start.
# On the standard digits model FGSM is optimal for every test image (to $10^{-9}$), and ten PGA steps with $\alpha = 1$ fall short by more than $0.5$ on the mean and fool fewer than half as many.

# %% tags=["hide-input"]
β, A = torch.tensor([0.5, 0.3]), torch.tensor([[5.0, -1.5], [-1.5, 4.0]])
quadratic = lambda d: d @ β - ((d @ A) * d).sum(1) / 2  # noqa: E731
itself = {"loss": lambda value, label: value, "box": None}  # attack f itself
origin, label = torch.zeros(1, 2), torch.zeros(1)
α = 1 / torch.linalg.matrix_norm(A, 2).item()
pga = PGA(ε, α, 200, random_start=False, **itself)
fgsm = FGSM(ε, **itself)

# %% tags=["hide-input"]
top = β @ torch.linalg.solve(A, β) / 2
assert abs(quadratic(pga(quadratic, origin, label)) - top) < 1e-9
assert quadratic(fgsm(quadratic, origin, label)) < quadratic(origin)

# %% tags=["hide-input"]
model, best = linear(*standard), worst_loss(*standard, x_test, y_test, BOX)
pga = PGA(0.3, 1.0, 10, random_start=False, loss=logistic)
fgsm = FGSM(0.3, loss=logistic)
moves = [attack(model, x_test, y_test) for attack in (fgsm, pga)]
by_fgsm, by_pga = (Ψ(y_test * model(x_test + δ)) for δ in moves)
assert (best - by_fgsm).abs().max() < 1e-9
assert (best - by_pga).mean() > 0.5
lost = [count(standard, move) for move in moves]
assert 2 * lost[1] < lost[0]
print(f"✓ of 75 images FGSM fools {lost[0]}, PGA {lost[1]}")

# %% [markdown]
# ## Summary
#
# - Adversarial risk is the mean of worst losses; with cross-entropy it bounds the worst error after division by $\ln 2$.
# - FGSM is one long clipped gradient step. PGD's sign steps climb a lower bound of the loss measured in $\ell_\infty$: plus the sign, with $-\frac{\Lambda}{2}t^2$ in the choice of the step.
# - A linear model can be attacked exactly: the margin loses $\epsilon$ times the dual norm of the weights, less what the box forbids.
# - In $\ell_\infty$ PGD is exact on a linear model once $\alpha \cdot \text{steps} \ge 2\epsilon$; from a random start not before, as a rule. In $\ell_2$ it converges geometrically.
# - A model without a clean error may lose most images to the optimal attack; robust training wins most of them back, with few weights. The box matters.
# - "The gradient at the maximum" is a gradient only where the maximisers agree on it. From here on the book is about the points where they do not.
#
# ## Exercises
#
# ::::{exercise} The $\ell_1$ attack
# :label: ex-01-l1
#
# What is the optimal attack on a linear model over $\{\delta : \|\delta\|_1 \le \epsilon\}$ without the box, and what does it gain? Which weights of given $\|\theta\|_2$ are most robust against it?
# ::::
#
# ::::{solution} ex-01-l1
# :label: sol-01-l1
# :class: dropdown
#
# With $v = -y\theta$, Hölder's inequality gives $\langle v, \delta\rangle \le \epsilon \|v\|_\infty$, with equality if all of $\epsilon$ is spent on one pixel $j$ of largest $|\theta_j|$: $\delta^\star = -y\epsilon\,\mathrm{sign}(\theta_j)\,e_j$.
# The gain is $\epsilon\|\theta\|_\infty$. For given $\|\theta\|_2 = r$ in $p$ dimensions, $\|\theta\|_\infty \ge r/\sqrt p$, with equality for $|\theta_1| = \dots = |\theta_p|$: the *densest* weights cost least. The most sparse, $\theta = r e_j$, cost most, $\epsilon r$.
# ::::
#
# ::::{exercise} A loss that is not monotone
# :label: ex-01-squared
#
# The lecture lists the squared error $(y - f)^2$ among the losses. For $f(x) = \theta^\top x + \theta_0$ and the $\ell_\infty$ ball without the box, show that its worst value is $(|y - f(x)| + \epsilon\|\theta\|_1)^2$. When is $-y\epsilon\,\mathrm{sign}\,\theta$ *not* optimal? Check it by trying all corners.
# ::::
#
# ```{solution-start} ex-01-squared
# :label: sol-01-squared
# :class: dropdown
# ```
#
# Let $e = y - f(x)$. Then $y - f(x + \delta) = e - \theta^\top\delta$, and $\theta^\top\delta$ takes all values in $[-\epsilon\|\theta\|_1, \epsilon\|\theta\|_1]$. So $|e - \theta^\top\delta|$ is at most $|e| + \epsilon\|\theta\|_1$, reached at
# $\delta^\star = -\epsilon\,\mathrm{sign}(e)\,\mathrm{sign}\,\theta$. This is the other corner than $-y\epsilon\,\mathrm{sign}\,\theta$ when $e$ and $y$ have different signs, that is, when $yf(x) > 1$: the model is too sure, and the squared error punishes that.
# (In terms of the margin $z = yf(x)$ the loss is $(1 - z)^2$.) The theorem's hypothesis that $\Psi$ decreases cannot be dropped.

# %%
θ = torch.tensor([1.0, -2.0, 0.5])
corners = torch.tensor(list(itertools.product([-0.3, 0.3], repeat=3)))
for y_, score in itertools.product((-1.0, 1.0), (-3.0, -0.5, 0.5, 3.0)):
    losses = (y_ - score - corners @ θ) ** 2
    formula = (abs(y_ - score) + 0.3 * θ.abs().sum()) ** 2
    assert abs(losses.max() - formula) < 1e-12
    naive = (y_ - score + 0.3 * y_ * θ.abs().sum()) ** 2
    assert (naive < losses.max() - 1e-9) == (y_ * score > 1)

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} The angle in $\ell_2$
# :label: ex-01-angle
#
# A normalised gradient step on a linear model, without the box, adds $\alpha u$ with a fixed unit vector $u$ and projects onto the ball. Let $\delta$ be on the sphere, at the angle $\omega \le 90°$ from $u$. Show that $\tan\omega_+ = \sin\omega / (\cos\omega + \alpha/\epsilon)$,
# that $\tan\omega$ falls by a factor of at least $1 + \alpha/\epsilon$ if $\omega < 90°$, and that the lost gain $\epsilon\|\theta\|_2(1 - \cos\omega)$ is at most $\epsilon\|\theta\|_2 \tan^2\omega$. Check it in the plane.
# ::::
#
# ```{solution-start} ex-01-angle
# :label: sol-01-angle
# :class: dropdown
# ```
#
# Split $\delta = \epsilon(\cos\omega\, u + \sin\omega\, n)$ with a unit vector $n \perp u$. Then $\delta + \alpha u = (\epsilon\cos\omega + \alpha)u$ $+\ \epsilon\sin\omega\, n$ is outside the ball, and the projection only rescales it: the ratio of the components is
# $\tan\omega_+ = \epsilon\sin\omega / (\epsilon\cos\omega + \alpha)$. Divide both by $\epsilon\cos\omega > 0$: $\tan\omega_+ = \tan\omega / (1 + \alpha/(\epsilon\cos\omega))$ $\le \tan\omega / (1 + \alpha/\epsilon)$. Finally
# $1 - \cos\omega \le 1 - \cos^2\omega$ $= \sin^2\omega \le \tan^2\omega$. So the error is at most $\epsilon\|\theta\|_2 \tan^2\omega_0\,(1 + \alpha/\epsilon)^{-2n}$ after $n$ steps.

# %%
ball, u, q = L2(1.0, None), torch.tensor([[1.0, 0.0]]), 0.25
for ω in torch.linspace(0.1, 1.5, 8):
    δ = torch.stack([ω.cos(), ω.sin()])[None]
    new = ball.project(δ + q * u, torch.zeros(1, 2))
    tangent = new[0, 1] / new[0, 0]
    assert abs(tangent - ω.sin() / (ω.cos() + q)) < 1e-12
    assert tangent <= ω.tan() / (1 + q) + 1e-12

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} Dead pixels
# :label: ex-01-dead
#
# Some pixels are $0$ in every training image. What happens to their weights in standard training? Start it from random weights, uniform in $[-\frac18, \frac18]$, instead of zero: what do the dead pixels do under attack, with and without the box?
# ::::
#
# ```{solution-start} ex-01-dead
# :label: sol-01-dead
# :class: dropdown
# ```
#
# The gradient's component $j$ is a sum of multiples of $x_{ij} = 0$: the weight stays where it began. Clean training images never notice. The attack without the box does: each dead pixel adds $\epsilon|\theta_j|$ to its gain, whatever the label.
# With the box only the inking half is left: for a given label, the pixels whose weight has the harmful sign. So how a model was *initialised* matters to its attacked error (another number that the slides' 0.845 depends on).

# %%
start = (2 * torch.rand(64, generator=generator) - 1) / 8
θ, θ0 = start.clone(), torch.zeros(())
for _ in range(200):
    slope = torch.sigmoid(-y * linear(θ, θ0)(x)) * y / len(y)
    θ, θ0 = θ + 0.5 * slope @ x, θ0 + 0.5 * slope.sum()
dead = x.amax(0) == 0
assert dead.any() and torch.equal(θ[dead], start[dead])
assert not torch.equal(θ, start)

# %%
moves = (worst(θ, x, y, threat) for threat in (NO_BOX, BOX))
no_box, box = (-(y[:, None] * δ * θ)[:, dead].sum(1) for δ in moves)
assert (no_box - 0.3 * start[dead].abs().sum()).abs().max() < 1e-12
assert (0 < box).all() and (box < no_box).all()

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} The most robust linear model
# :label: ex-01-lp
#
# The classifier that keeps all training images at the largest $\ell_\infty$ distance from the boundary (without the box) solves a linear programme. Write it down and solve it with `scipy.optimize.linprog` for the digits. Which radius can a linear model withstand on all training images? How sparse is the solution?
# ::::
#
# ```{solution-start} ex-01-lp
# :label: sol-01-lp
# :class: dropdown
# ```
#
# The distance is $\min_i y_i(\theta^\top x_i + \theta_0) / \|\theta\|_1$. Scale $\theta$ so that $\|\theta\|_1 \le 1$, and write $\theta = a - b$ with $a, b \ge 0$:
#
# $$
# \begin{aligned}
# & \text{maximise } \rho \text{ subject to} \\
# & y_i\bigl((a - b)^\top x_i + \theta_0\bigr) \ge \rho, \\
# & \textstyle\sum_j (a_j + b_j) \le 1, \quad a, b \ge 0 .
# \end{aligned}
# $$
#
# The optimal attack of radius below $\rho$ fools no training image, one of radius above $\rho$ at least one: this is the exact limit for every linear model. (It lies below our training radius, $0.3$: no linear model keeps all training images there.)
# The solver returns a vertex of the feasible set, and a vertex has fewer nonzero weights than there are images at the smallest distance.

# %%
rows = -y[:, None] * x
ones = torch.ones(len(y), 1)
norm = torch.tensor([[1.0] * 128 + [0.0, 0.0]])
images = torch.cat([rows, -rows, -y[:, None], ones], 1)
upper = torch.cat([images, norm]).numpy()
right = np.r_[np.zeros(len(y)), 1.0]
bounds = [(0, None)] * 128 + [(None, None), (0, None)]
cost = np.r_[np.zeros(129), -1.0]
v = linprog(cost, upper, right, bounds=bounds).x
θ, θ0, ρ = torch.tensor(v[:64] - v[64:128]), v[128], v[129]

# %%
for radius, robustly in ((0.999 * ρ, True), (1.001 * ρ, False)):
    moved = x + worst(θ, x, y, LInf(radius, None))
    assert bool((y * linear(θ, θ0)(moved) > 0).all()) == robustly
distance = y * linear(θ, θ0)(x) / θ.abs().sum()
assert abs(ρ - distance.min()) < 1e-6 and ρ < 0.3  # up to the solver's tolerance
nonzero, nearest = (θ.abs() > 1e-6).sum(), (distance < ρ + 1e-6).sum()
assert nonzero < 20 and nonzero < nearest
print(f"radius {ρ:.2f}; fewer than 20 of 64 weights are not zero")

# %% [markdown]
# ```{solution-end}
# ```
