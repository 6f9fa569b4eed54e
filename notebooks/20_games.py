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

# (chapter-20)=
# # Games over distributions
#
# :::{admonition} What you will learn
# :class: frame
#
# - the Wasserstein distance $W_1$ by four roads, and why it is a *minimum* as well as a *maximum*;
# - that the corollary of {ref}`chapter 3 <chapter-03>`, false for maxima, is true for minima;
# - what a critic's value is worth: nothing without a *certified* Lipschitz constant;
# - what the lecture's algorithm for generative adversarial networks (GANs) does as printed, and as meant;
# - a game in which descent–ascent circles for ever, and its mixed equilibrium in closed form.
#
# **Before you start.** {ref}`Chapter 2 <chapter-02>` (Danskin's theorem) and {ref}`chapter 3 <chapter-03>` (the corollary). Symbols: {ref}`notation`.
#
# **Time and hardware.** An hour to read; about twenty seconds to run on one processor core. The training of GANs is read from records.
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
import math
import sys

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.optimize import linprog, linear_sum_assignment, minimize

import ddi
from ddi import plots
from ddi.clone import repository

BOOK = repository()
sys.path.insert(0, str(BOOK / "experiments"))
import plane_gan as gan  # the record's program: data, critics, training

# %%
plots.use_style()
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
REAL, FAKE = "#4D4D4D", "#B2182B"  # the data's points and the generator's

# %% [markdown]
# ## Two samples, a matching and a critic
#
# Until now the players were weights and perturbations. Here one player is a *probability law*. A generator moves points; a critic, also called discriminator or dual variable, tells them from data. {numref}`fig-20-matching` has the chapter in one picture.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-20-matching", "caption": "One distance, seen twice: an optimal matching (lines) and an optimal critic (levels). Grey: data. Red: generated points. The critic falls along every line with slope exactly one."}, "image": {"alt": "Twenty-four grey points on a circle and twenty-four red points around its centre, joined in pairs by thin lines that do not cross. Behind them, level curves of a function that is high near the grey points and low in the middle; every line crosses the levels at right angles where it meets a red point."}}
draw = torch.Generator().manual_seed(20)
x, y = gan.ring(24, draw), torch.randn(24, 2, generator=draw) / 2
W, partner = gan.matching(x, y)


def potential(x, y):
    """An optimal critic's values at x and y: the programme over 1-Lipschitz functions."""
    points, n, m = torch.cat([x, y]), len(x), len(y)
    i, j = np.nonzero(~np.eye(n + m, dtype=bool))
    pairs = np.zeros((len(i), n + m))
    pairs[np.arange(len(i)), i], pairs[np.arange(len(i)), j] = 1, -1
    gain = np.r_[np.full(n, 1 / n), np.full(m, -1 / m)]
    free = [(0, 0)] + [(None, None)] * (n + m - 1)  # a constant does not matter
    lengths = torch.cdist(points, points).numpy()[i, j]
    d = torch.as_tensor(linprog(-gain, A_ub=pairs, b_ub=lengths, bounds=free).x)
    return d[:n], d[n:]


def lower(a, x, d_x):
    """The smallest 1-Lipschitz function with the values d_x at x, at the points a."""
    return (d_x - (a[..., None, :] - x).norm(dim=-1)).amax(-1)


d_x, d_y = potential(x, y)
side = torch.linspace(-2.6, 2.6, 131)
grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)
fig, ax = plt.subplots(figsize=(5.4, 5.2))
ax.contourf(side, side, lower(grid, x, d_x), levels=14, cmap="Greens", alpha=0.6)
for real, fake in zip(x[partner], y, strict=True):
    ax.plot(*torch.stack([real, fake]).T, color="#222222", linewidth=0.9)
ax.plot(*x.T, "o", color=REAL, markersize=6)
ax.plot(*y.T, "s", color=FAKE, markersize=6)
ax.set(aspect="equal", xticks=[], yticks=[])
ax.grid(False)
plt.show()

# %% [markdown]
# ## Pushing a law forward
#
# :::{admonition} Source's claims (Cevher 2024, "A way to model complex distributions: The push-forward measure")
# :class: claim
#
# If $\omega \sim p_\Omega$, the law of $h(\omega)$ is the *push-forward* $h \# p_\Omega$. For a standard normal $\omega$ and $h(\omega) = \omega^2$ it is the chi-square law with one degree of freedom. Explanation: for monotone $h$ the density of $z = h(\omega)$ is $p_\Omega(h^{-1}(z)) \det J h^{-1}(z)$.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# The example is right and its explanation does not reach it: $\omega^2$ is not monotone, and two points are sent to each $z > 0$. The sum over both is needed. And a density takes the *absolute value* of the determinant. For invertible pieces of $h$, $p_Z(z) = \sum_{\omega:\, h(\omega) = z} p_\Omega(\omega) / |\det J h(\omega)|$.
# :::
#
# (check-20-1)=
# **Check 20.1** *(both branches, and |det|.)* For $\omega^2$: the sum over both branches is the chi-square density $e^{-z/2}/\sqrt{2\pi z}$ (to $10^{-12}$, relative); one branch is half of it. The probabilities of 8 intervals in $200\,000$ draws agree within five standard deviations. For a linear map with $\det A < 0$ the printed formula gives a negative density; with $|\det|$ it is the normal density with covariance $AA^\top$ (to $10^{-12}$, relative).

# %%
def normal(a):
    """The standard normal density at a (..., p)."""
    return torch.exp(-(a**2).sum(-1) / 2) / (2 * math.pi) ** (a.shape[-1] / 2)


z = torch.linspace(0.01, 6, 60)
branch = normal(z.sqrt()[:, None]) / (2 * z.sqrt())  # at ω = +√z
chi_square = torch.exp(-z / 2) / (2 * math.pi * z).sqrt()
assert ((branch + branch) / chi_square - 1).abs().max() < 1e-12
assert (branch / chi_square - 0.5).abs().max() < 1e-12

# %%
edges = torch.tensor([0.0, 0.1, 0.3, 0.6, 1.0, 1.5, 2.5, 4.0, 8.0])
share = torch.special.erf((edges / 2).sqrt()).diff()
squares = torch.randn(200_000, generator=draw) ** 2
seen = torch.histogram(squares, edges).hist / 200_000
assert ((seen - share).abs() < 5 * (share * (1 - share) / 200_000).sqrt()).all()

# %%
A = torch.tensor([[1.0, 2.0], [1.5, 0.5]])
points, back = torch.randn(50, 2, generator=draw), torch.linalg.inv(A)
printed = normal(points @ back.T) * torch.linalg.det(back)
law = torch.distributions.MultivariateNormal(torch.zeros(2), A @ A.T)
assert (printed < 0).all()
assert (printed.abs() / law.log_prob(points).exp() - 1).abs().max() < 1e-12

# %% [markdown]
# ## The distance, by four roads
#
# Take samples $x_1, \dots, x_n$ of the data and $y_1, \dots, y_n$ of the generator, with empirical laws $\hat\mu$ and $\hat\nu$. The *1-Wasserstein distance* is the least mean distance over which mass must be carried.
#
# :::{admonition} Source's claims (Cevher 2024, "The Wasserstein distance", "Duality of 1-Wasserstein", "Towards an optimization problem")
# :class: claim
#
# (17)–(18): $W_q(\mu, \nu)^q$ is the infimum of $\mathbb{E}\, d(a, a')^q$ over couplings. (6), Kantorovich–Rubinstein duality: $W_1(\mu, \nu)$ is the supremum of $\mathbb{E}_\mu d - \mathbb{E}_\nu d$ over 1-Lipschitz $d$. $W_q$ is a distance. Monge's cost (16) is $\mathbb{E}\lVert Y - T(X)\rVert$. And: $W_1$ is not smooth, and cannot be computed exactly.
# :::
#
# For finite samples it can be computed, and by more than one road. As a *minimum*:
#
# ```{math}
# :label: eq-20-min
#
# W_1(\hat\mu, \hat\nu) = \min_\sigma \frac1n \sum_{j=1}^n \lVert y_j - x_{\sigma(j)}\rVert
# ```
#
# over permutations $\sigma$ (couplings of two uniform laws on $n$ points are bistochastic matrices, whose extreme points are permutations). As a *maximum*: over critics, where only their $2n$ values at the points count. And on the line in closed form: sort both samples.

# %%
def primal(x, y, a, b):
    """W1 of weighted points: the linear programme over couplings."""
    n, m = len(x), len(y)
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    cost = torch.cdist(x, y).flatten().numpy()
    return linprog(cost, A_eq=np.vstack([rows, columns]), b_eq=np.r_[a, b]).fun


def on_the_line(x, y, a, b):
    """W1 of weighted points on the line: the area between their distribution functions."""
    at, order = torch.cat([x, y])[:, 0].sort()
    jumps = torch.cat([torch.as_tensor(a), -torch.as_tensor(b)])[order]
    return float((jumps.cumsum(0)[:-1].abs() * at.diff()).sum())

# %% [markdown]
# (check-20-2)=
# **Check 20.2** *(four roads.)* In the plane and in five dimensions, $n = 24$: the programme over couplings, the optimal assignment and the programme over 1-Lipschitz functions agree to $10^{-8}$. On the line, with other weights and sizes, the programme over couplings agrees with the area between the distribution functions, and for equal weights with the sorted samples. $\mathbb{E}\lVert Y - T(X)\rVert$ with $Y$ drawn apart from $X$, (16) as printed, is not the cost: it is larger, and does not depend on the matching $T$ in 500 shuffles (to $10^{-12}$).

# %%
even = np.full(24, 1 / 24)
for p in (2, 5):
    one, two = (torch.randn(24, p, generator=draw) + shift for shift in (0, 0.7))
    assigned = float(gan.matching(one, two)[0])
    d_one, d_two = potential(one, two)
    assert abs(primal(one, two, even, even) - assigned) < 1e-8
    assert abs(d_one.mean() - d_two.mean() - assigned) < 1e-8

# %%
one, two = torch.randn(24, 1, generator=draw), 2 * torch.rand(24, 1, generator=draw)
as_sorted = float((one.sort(0).values - two.sort(0).values).abs().mean())
assert abs(primal(one, two, even, even) - as_sorted) < 1e-8
a, b = (torch.rand(k, generator=draw) for k in (9, 24))
a, b = (a / a.sum()).numpy(), (b / b.sum()).numpy()
assert abs(primal(one[:9], two, a, b) - on_the_line(one[:9], two, a, b)) < 1e-8

# %%
apart = torch.cdist(x, y).mean()  # (16) as printed, Y independent of X
shuffles = [y[torch.randperm(24, generator=draw)] for _ in range(500)]
costs = torch.stack([torch.cdist(x, T).mean() for T in shuffles])
assert (costs - apart).abs().max() < 1e-12 and apart > 1.1 * W

# %% [markdown]
# (check-20-3)=
# **Check 20.3** *(a distance, and the plug-in bound (4).)* On 40 random triples of samples, for $q = 1$ and $2$: $W_q$ of a sample and a shuffle of it is $0$, of two different samples positive, symmetric, and the triangle inequality holds (to $10^{-12}$). None of these laws has a density: "equal densities almost everywhere", the printed condition for $W_q = 0$, must read "equal measures" (with finite moments of order $q$). The bound (4) is the triangle inequality, with the sample in the middle.

# %%
def wasserstein(x, y, q=1):
    cost = torch.cdist(x, y).numpy() ** q
    return cost[linear_sum_assignment(cost)].mean() ** (1 / q)


for _ in range(40):
    u, v, w = (torch.randn(12, 2, generator=draw) * s for s in (1, 2, 0.5))
    for q in (1, 2):
        there = wasserstein(u, v, q)
        assert wasserstein(u, u[torch.randperm(12, generator=draw)], q) < 1e-12
        assert there > 0.1 and abs(there - wasserstein(v, u, q)) < 1e-12
        assert there <= wasserstein(u, w, q) + wasserstein(w, v, q) + 1e-12

# %% [markdown]
# The two programmes are dual, so their solutions fit each other: where mass moves, the critic's constraint is tight. For a 1-Lipschitz function that is tight on a pair, it is tight at every point between.
#
# (check-20-4)=
# **Check 20.4** *(complementary slackness.)* For the samples of {numref}`fig-20-matching`: on every matched pair the optimal critic falls by exactly the distance, and along the segment it is affine with slope one, at 50 points of each (to $10^{-7}$). On at least half of the other pairs the constraint is slack by more than 0.1.

# %%
moved = (y - x[partner]).norm(dim=1)
assert (d_x[partner] - d_y - moved).abs().max() < 1e-7
t = torch.linspace(0, 1, 50)[:, None, None]
along = lower(x[partner] + t * (y - x[partner]), x, d_x)
assert (along - (d_x[partner] - t[..., 0] * moved)).abs().max() < 1e-7
slack = torch.cdist(y, x) - (d_x - d_y[:, None])
assert slack.min() > -1e-7 and (slack > 0.1).double().mean() > 0.5

# %% [markdown]
# ## The gradient of a minimum
#
# Now let the generated points move. By {eq}`eq-20-min` $W_1$ is a *minimum* of finitely many functions, each smooth where no pair coincides. Danskin's theorem for $-W_1$ says:
#
# ::::{prf:theorem} The gradient of $W_1$, and the corollary for minima
# :label: thm-20-gradient
#
# Let $x_i \ne y_j$ for all $i, j$, let $\Sigma$ be the set of optimal matchings, and $g_\sigma$ the vector with blocks $\frac1n (y_j - x_{\sigma(j)}) / \lVert y_j - x_{\sigma(j)}\rVert$.
#
# 1. $D_\gamma W_1 = \min_{\sigma \in \Sigma} \langle\gamma, g_\sigma\rangle$. Where the optimal matching is unique, so for almost all $y$, $\nabla W_1 = g_\sigma$.
# 2. *Every* $-g_\sigma$, $\sigma \in \Sigma$, is a descent direction, and its slope is at most $-\lVert g_\sigma\rVert^2 = -1/n$.
# 3. If $d$ is an optimal critic and differentiable at all $y_j$, then $g_\sigma$ has the blocks $-\frac1n \nabla d(y_j)$, for every $\sigma \in \Sigma$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-20-gradient`
#
# ::::{prf:proof}
# Part 1 is Danskin's theorem for the maximum of the finitely many $-\frac1n\sum_j \lVert y_j - x_{\sigma(j)}\rVert$, smooth near $y$. $W_1$ is Lipschitz in $y$, so it is differentiable almost everywhere; there its one-sided slopes are linear in $\gamma$, so all $g_\sigma$ coincide. Part 2: $\min_\tau \langle -g_\sigma, g_\tau\rangle \le -\langle g_\sigma, g_\sigma\rangle$; the $n$ blocks have norm $1/n$. Part 3: $d$ falls with slope one towards $y_j$ along the segment from $x_{\sigma(j)}$ ({ref}`check 20.4 <check-20-4>`), so its derivative along the unit vector of the segment is $-1$ at $y_j$; its gradient there has norm at most one, so it is minus that unit vector.
# ::::
# :::::
#
# In plain words: for a *maximum* one maximiser is not enough, since going down on one function may go up on another that takes over. For a *minimum* one is enough: whoever takes over lies lower. The corollary of Madry et al., false in adversarial training, is true for the generator that descends an exact $W_1$.
#
# (check-20-5)=
# **Check 20.5** *(the gradient, by four roads.)* At the samples of {numref}`fig-20-matching`: autograd through the matching, the theorem's formula (to $10^{-12}$), differences of $W_1$ with a new matching for each (to $10^{-6}$) and the gradient of the optimal critic `lower` at the generated points (to $10^{-12}$) agree.

# %%
def W1(y, x=x):
    return gan.matching(x, y)[0]


leaf = y.clone().requires_grad_()
(automatic,) = torch.autograd.grad(W1(leaf), leaf)
formula = (y - x[partner]) / moved[:, None] / 24
assert (automatic - formula).abs().max() < 1e-12
(slope_of_critic,) = torch.autograd.grad(lower(leaf, x, d_x).mean(), leaf)
assert (-slope_of_critic - formula).abs().max() < 1e-12
for γ in torch.randn(8, *y.shape, generator=draw):
    assert abs(ddi.two_sided(W1, y, γ) - (γ * formula).sum()) < 1e-6

# %% [markdown]
# (check-20-6)=
# **Check 20.6** *(at a tie the slopes are a minimum, and the corollary holds.)* Data at $(0,0), (1,1)$, generated points at $(1,0), (0,1)$: both matchings are optimal. In 12 directions the one-sided slope is the *smaller* of the two inner products (to $10^{-5}$), which is minus `ddi.directional_derivative` of the negative gradients. Both $-g_\sigma$ descend, with a slope below $-\frac12$, although $\langle g_\sigma, g_\tau\rangle = 0$. For the maximum of the same two functions neither descends: its slope along both is $0$.

# %%
square = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
corners = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
to = [corners - square, corners - square.flip(0)]
g = torch.stack([(u / u.norm(dim=1, keepdim=True) / 2).flatten() for u in to])


def tied(y):
    return W1(y.view(2, 2), square)


for γ in torch.randn(12, 4, generator=draw):
    slope = ddi.one_sided(tied, corners.flatten(), γ)
    assert abs(slope - (g @ γ).min()) < 1e-5
    assert abs(slope + ddi.directional_derivative(-g, γ)) < 1e-5

# %%
for one in g:
    assert ddi.one_sided(tied, corners.flatten(), -one) < -0.49
    assert abs(ddi.directional_derivative(g, -one)) < 1e-12
assert abs(g[0] @ g[1]) < 1e-12

# %% [markdown]
# ### And of a maximum
#
# The generator of a Wasserstein GAN does not see matchings. It descends a *maximum*, over critics, and takes the gradient at one maximiser. Is that Danskin's theorem? Its hypothesis is a gradient, continuous in the critic: critics are only Lipschitz. Two optimal critics show what may happen.
#
# (check-20-7)=
# **Check 20.7** *(two optimal critics, one gradient.)* `lower`, the smallest 1-Lipschitz function with the optimal values at the data, and the largest with the optimal values at the generated points, $\min_j d(y_j) + \lVert a - y_j\rVert$, have the same value, $W_1$ (to $10^{-7}$). The first has the gradient of $W_1$. The second has a cone's tip at every $y_j$: its slope is $+1$ in every direction, so it asks each generated point to move *anywhere*, and tells it nothing.

# %%
def upper(a, y, d_y):
    """The largest 1-Lipschitz function with the values d_y at y, at the points a."""
    return (d_y + (a[..., None, :] - y).norm(dim=-1)).amin(-1)


for critic in (lambda a: lower(a, x, d_x), lambda a: upper(a, y, d_y)):
    assert abs(critic(x).mean() - critic(y).mean() - W) < 1e-7
angles = torch.arange(12) * math.pi / 6
for γ in torch.stack([angles.cos(), angles.sin()], 1):
    ahead = upper(y + 1e-6 * γ, y, d_y) - upper(y, y, d_y)
    assert (ahead / 1e-6 - 1).abs().max() < 1e-5

