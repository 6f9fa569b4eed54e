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
# (chapter-06)=
# # The certificate: Theorem 3
#
# :::{admonition} What you will learn
# :class: frame
#
# - how finitely many perturbations can *prove* that a direction descends, although infinitely many are maximal;
# - how fine the net of perturbations must be before the proof succeeds, and what it says while it fails;
# - how a batch is certified sample by sample;
# - how to bound the Lipschitz constant of a small network rigorously, and why an estimate of it proves nothing.
#
# **Before you start.** Danskin's theorem ({ref}`chapter 2 <chapter-02>`), the steepest descent direction ({ref}`chapter 4 <chapter-04>`), operator norms of matrices.
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
from math import cos, floor, isclose, sqrt
from math import pi as π

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch.func import functional_call, grad, jacrev, vmap
from torch.linalg import matrix_norm
from torch.nn.functional import normalize

import ddi
from ddi import plots

plots.use_style()
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## What is promised, true, and proved
#
# On a circle of perturbations every $\delta$ is maximal, and we know $n$ of them, evenly spaced. We compute the steepest descent direction from these $n$ gradients. {numref}`fig-06-refine` follows three numbers as $n$ grows: the slope that the direction *promises*, if the $n$ were all; its *true* slope; and a bound $B$ that can be *proved* from the $n$ gradients and one Lipschitz constant. From 12 nodes on it is a proof of descent. This chapter derives the bound, finds where it begins to speak, and asks what it would take for a network.

# %%
c, R = torch.tensor([0.8, 0.6]), 0.8  # the least true slope is -0.2


def g(θ, δ, c=c, R=R):
    """⟨θ, c + R (cos δ, sin δ)⟩, for every angle in δ."""
    return (c + R * torch.stack([δ.cos(), δ.sin()], -1)) @ θ

# %% tags=["hide-input"]
def net(n):
    """The midpoints of n equal arcs, and the radius ε of this net."""
    return (2 * torch.arange(n) + 1) * π / n, π / n

# %% tags=["hide-input"]
def gradients(δ):
    """∇g at θ = 0 by autograd, one row for each angle: (n, 2)."""
    return vmap(grad(g), in_dims=(None, 0))(torch.zeros(2), δ)


# %% tags=["hide-input"]
dense = torch.linspace(0, 2 * π, 20001)
circle = gradients(dense)  # (20001, 2)
generator = torch.Generator().manual_seed(6)
directions = normalize(torch.randn(30, 2, generator=generator))


def φ_circle(θ):
    return g(θ, dense).max()


# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-06-refine", "caption": "The promise is too good, the bound too careful, the truth in between. The direction descends truly from 3 nodes on; it is proved from 12 on."}, "image": {"alt": "Slope against the number of nodes, on a logarithmic axis from 1 to 200. The true slope starts at plus 0.2, is zero at 2 nodes, and settles at minus 0.2. The promise lies below it from the start and rises to it. The proved bound falls from above 0.6, crosses zero at 12 nodes and approaches the true slope from above."}}
counts = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 17, 20, 25, 32, 40, 60, 100, 200]
rows = []
for n in counts:
    δ, ε = net(n)
    best = ddi.steepest_descent(gradients(δ))
    rows.append((best.slope, best.direction @ c + R, ddi.certify(gradients(δ), best.direction, R, ε).bound))
promise, true, proved = np.array(rows, dtype=float).T
fig, ax = plt.subplots(figsize=(6.4, 4))
ax.axhline(0, color="black", linewidth=0.8)
ax.axvspan(12, 200, color="#009E73", alpha=0.10, linewidth=0)
plots.line(ax, counts, promise, "DDi", "", markevery=1)
plots.line(ax, counts, true, "true", "")
ax.plot(counts, proved, "--s", color="#7A3E9D")
ax.annotate("proved, $B$", (5.4, 0.33), color="#7A3E9D")
ax.annotate("true slope", (1.1, 0.24), color="black")
ax.annotate("promised", (3.0, -0.62), color=plots.METHODS["DDi"]["color"])
ax.annotate("certified", (13.5, 0.6), color="#00694C")
ax.annotate("ascent", (200, 0.02), ha="right", va="bottom", color="#666666")
ax.set(xscale="log", ylim=(-0.9, 0.7), xlabel="nodes $n$", ylabel="slope of $\\phi$ along $\\gamma^\\star_n$")
ax.set_xticks([1, 3, 12, 40, 200], ["1", "3", "12", "40", "200"])
ax.minorticks_off()
plt.show()

# %% [markdown]
# ## The statement
#
# Danskin's theorem needs *all* maximisers of $\phi(\theta) = \max_{\delta \in S} g(\theta, \delta)$.
# Where they are infinitely many, we can only list some. A finite set $S_m = \{\delta^{(1)}, \dots, \delta^{(m)}\}$ is an **ε-net** of $S^\star$ if every
# $\delta \in S^\star$ has a node $\delta^{(i)}$ with $\lVert\delta - \delta^{(i)}\rVert_2 \le \epsilon$. In this chapter $\epsilon$ is always the radius of the net, never that of the attack.
#
# :::{admonition} Source's claim (Latorre et al. 2023, Theorem 3)
# :class: claim
#
# Let $\nabla_\theta g(\theta, \cdot)$ be $L$-Lipschitz, let $S_m$ be an ε-net of $S^\star(\theta)$, and let $\gamma^\star$ be the steepest descent direction computed from $S_m$.
# If $\max_i \langle\gamma^\star, \nabla_\theta g(\theta, \delta^{(i)})\rangle < -L\epsilon$, then $\gamma^\star$ is a descent direction of $\phi$ at $\theta$.
# :::
#
# The inequality behind it is more general than the statement, so we prove that.
#
# ::::{prf:theorem} The certificate
# :label: thm-06-certificate
#
# Let the hypotheses of Danskin's theorem hold: $S$ is compact, $g$ and $\nabla_\theta g$ are continuous in $(\theta, \delta)$. Let $\nabla_\theta g(\theta, \cdot)$ be $L$-Lipschitz on $S$, and let $S_m \subset S$ be an
# ε-net of $S^\star(\theta)$. Then for **every** $\gamma \in \mathbb{R}^d$
#
# $$
# D_\gamma\phi(\theta) \;\le\; B(\gamma) := \max_{i \le m}\,\langle\gamma, \nabla_\theta g(\theta, \delta^{(i)})\rangle + L\epsilon\,\lVert\gamma\rVert .
# $$ (eq-06-bound)
#
# If $B(\gamma) < 0$ then $\gamma$ descends. Let $M$ hold the $m$ gradients as columns, and let $M\alpha^\star$ be the point of their hull nearest to 0. Then $B$ can be negative only if $\lVert M\alpha^\star\rVert > L\epsilon$,
# and in that case $\gamma^\star = -M\alpha^\star/\lVert M\alpha^\star\rVert$ minimises $B$ over the unit directions:
#
# $$
# B(\gamma^\star) = L\epsilon - \lVert M\alpha^\star\rVert .
# $$ (eq-06-star)
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-06-certificate`
#
# ::::{prf:proof}
# Take $\delta \in S^\star(\theta)$ and a node $\delta^{(i)}$ with $\lVert\delta - \delta^{(i)}\rVert \le \epsilon$. By Cauchy–Schwarz and the Lipschitz property
#
# $$
# \langle\gamma, \nabla_\theta g(\theta, \delta)\rangle
# = \langle\gamma, \nabla_\theta g(\theta, \delta^{(i)})\rangle + \langle\gamma, \nabla_\theta g(\theta, \delta) - \nabla_\theta g(\theta, \delta^{(i)})\rangle
# \le \max_j\,\langle\gamma, \nabla_\theta g(\theta, \delta^{(j)})\rangle + \lVert\gamma\rVert L\epsilon .
# $$
#
# The right side does not depend on $\delta$. Take the maximum over $\delta \in S^\star(\theta)$; by Danskin's theorem the left side becomes $D_\gamma\phi(\theta)$. This is {eq}`eq-06-bound`.
#
# Now let $w = M\alpha^\star$. For a unit $\gamma$ the maximum over the nodes is the maximum over their hull, so it is at least $\langle\gamma, w\rangle \ge -\lVert w\rVert$; hence $B(\gamma) \ge L\epsilon - \lVert w\rVert$ for every unit $\gamma$.
# If $w = 0$ this is $\ge 0$. If $w \ne 0$, then $w$ is the projection of 0 onto the hull, so $\langle w, v\rangle \ge \lVert w\rVert^2$ for all $v$ in the hull: the maximum along $\gamma^\star = -w/\lVert w\rVert$ is at most $-\lVert w\rVert$,
# with equality at $w$. So $\gamma^\star$ attains the least value, which is {eq}`eq-06-star`. Since $B(s\gamma) = sB(\gamma)$ for $s > 0$, nothing changes for other lengths.
# ::::
# :::::
#
# In plain words: an unseen maximiser has a node near it. Its gradient can differ from the node's by at most $L\epsilon$. So measure the slope at the nodes, and give $L\epsilon$ away for what was not seen. If the rest still points down, it is down.
# The proof never uses that a node *is* a maximiser. We come back to that.

# %% [markdown]
# ## A continuum of maximisers
#
# The circle of {numref}`fig-06-refine` in formulas: with $c \in \mathbb{R}^2$ and $0 < R < \lVert c\rVert$ let
#
# ```{math}
# :label: eq-06-circle
#
# g(\theta, \delta) = \langle\theta,\, c + R\,(\cos\delta, \sin\delta)\rangle, \qquad S = [0, 2\pi], \qquad \theta = 0 .
# ```
#
# At $\theta = 0$ every $\delta$ ties, so $S^\star(0) = S$. The gradients fill a circle of radius $R$ about $c$. Everything about it is known:
#
# - $\lVert\nabla_\theta g(0, \delta) - \nabla_\theta g(0, \delta')\rVert = 2R\,\lvert\sin\frac{\delta - \delta'}2\rvert \le R\,\lvert\delta - \delta'\rvert$, so $L = R$, and no smaller $L$ will do;
# - the $n$ midpoints $\delta^{(j)} = (2j - 1)\pi/n$ of equal arcs are a net with $\epsilon = \pi/n$;
# - for a unit $\gamma$ the true slope is $D_\gamma\phi(0) = \langle\gamma, c\rangle + R$, and its least value is $-(\lVert c\rVert - R)$, along $-c$.

# %% [markdown]
# (check-06-1)=
# **Check 06.1** *(three roads to the true slope).* The closed form $\langle\gamma, c\rangle + R$, the maximum of $\langle\gamma, \nabla_\theta g\rangle$ over 20 001 angles, and the difference quotient of $\phi$ agree to $10^{-7}$ in 30 random unit directions.
# So the supremum over $S^\star$ in equation (21) of the paper (Latorre et al. 2023) is the measured slope, by Danskin's theorem (the paper prints it as a definition).

# %% tags=["hide-input"]
for γ in directions:
    closed = float(γ @ c) + R
    brute = ddi.directional_derivative(circle, γ)
    quotient = ddi.one_sided(φ_circle, torch.zeros(2), γ, t=1e-3)
    assert isclose(brute, closed, abs_tol=1e-7)
    assert isclose(quotient, closed, abs_tol=1e-7)

# %% [markdown]
# `ddi.certify(gradients, direction, lipschitz, radius)` returns $B(\gamma)$ as `bound`, and `descends`, which is `bound < 0`.

# %%
δ, ε = net(12)
γ = ddi.steepest_descent(gradients(δ)).direction
certificate = ddi.certify(gradients(δ), γ, lipschitz=R, radius=ε)
print(f"12 nodes: B = {certificate.bound:.3f}, descends: {certificate.descends}")

# %% [markdown]
# (check-06-2)=
# **Check 06.2** *(the theorem, for any direction and any net).* For eight nets, of 1 to 50 nodes, $B(\gamma) \ge D_\gamma\phi(0)$ in all 30 directions. No direction has a smaller $B$ than $\gamma^\star$, where $B(\gamma^\star) = L\epsilon - \lVert M\alpha^\star\rVert$ to $10^{-9}$.
# The bound scales with the direction: $B(3\gamma) = 3B(\gamma)$.

# %% tags=["hide-input"]
for n in (1, 2, 3, 5, 8, 12, 20, 50):
    δ, ε = net(n)
    M = gradients(δ)
    best = ddi.steepest_descent(M)
    bound = ddi.certify(M, best.direction, R, ε).bound
    w = best.weights @ M
    assert isclose(bound, R * ε - w.norm(), abs_tol=1e-9)
    for γ in directions:
        B = ddi.certify(M, γ, R, ε).bound
        assert B >= γ @ c + R - 1e-12 and B >= bound - 1e-9
        triple = ddi.certify(M, 3 * γ, R, ε).bound
        assert isclose(triple, 3 * B, abs_tol=1e-12)

# %% [markdown]
# ## When the proof begins to succeed
#
# The nodes' gradients are the corners of a regular $n$-gon. It lies in the disc of radius $R$ about $c$, and contains the disc of radius $R\cos(\pi/n)$. So the distance of its hull from 0 obeys
#
# ```{math}
# :label: eq-06-bracket
#
# \lVert c\rVert - R \;\le\; \lVert M\alpha^\star\rVert \;\le\; \lVert c\rVert - R\cos(\pi/n) \qquad (n \ge 2),
# ```
#
# and the certificate $\lVert M\alpha^\star\rVert > R\pi/n$
#
# - **surely holds** if $n > \pi R/(\lVert c\rVert - R)$;
# - **surely fails** if $\cos(\pi/n) + \pi/n \ge \lVert c\rVert/R$.
#
# Between the two it depends on where the nodes happen to fall. Both ends behave like $\pi R/(\lVert c\rVert - R)$ as $\lVert c\rVert - R \to 0$: a slope ten times flatter needs a net ten times finer.

# %%
def first_certified(c, R):
    """The least n at which the certificate of γ* holds."""
    for n in range(1, 1000):
        δ, ε = net(n)
        M = c + R * torch.stack([δ.cos(), δ.sin()], -1)
        if ddi.certify(M, ddi.steepest_descent(M).direction, R, ε).descends:
            return n


# %% [markdown]
# (check-06-3)=
# **Check 06.3** *(the certificate begins where the formula says).* For four values of the slope $\lVert c\rVert - R$, the first certified $n$ lies in the bracket, and within one node of $\pi R/(\lVert c\rVert - R)$ for the two smallest slopes. For $c = (0.8, 0.6)$, $R = 0.8$ it is 12.

# %% tags=["hide-input"]
for slope in (0.4, 0.2, 0.1, 0.05):
    n = first_certified(c * (R + slope), R)
    assert cos(π / n) + π / n < 1 + slope / R
    assert n <= floor(π * R / slope) + 1
    assert slope > 0.1 or abs(n - π * R / slope) <= 1
assert first_certified(c, R) == 12
print(f"✓ the first certified n is 12; π R / 0.2 = {π * R / 0.2:.2f}")

# %% [markdown]
# %% [markdown]
# ## While it is silent
#
# A certificate that fails proves nothing, in either direction. Between 3 and 11 nodes $\gamma^\star_n$ truly descends, and the certificate is silent. With one node it is silent as well, and this time $\gamma^\star_1$ truly *ascends*.
#
# :::{admonition} Source's claim (Cho 2023, "Obtaining a better descent direction")
# :class: claim
#
# If $S_m$ is an ε-approximation of $S^\star$ and the gradient is Lipschitz in δ, then $\gamma^\star$ is still the best direction to move in (Theorem 3).
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# The slide drops the inequality, and it is the inequality that does the work. Every non-empty $S_m \subset S$ is a net of *some* radius.
# The one node $\delta^{(1)} = \pi$ is a net with $\epsilon = \pi$: its gradient is $c - (R, 0) = (0, 0.6)$, so $\gamma^\star_1 = (0, -1)$ promises $-0.6$. The true slope is $-0.6 + 0.8 = +0.2$.
# The paper is careful here: without $L$ and $\epsilon$ nothing is certified. Still, it says, $\gamma^\star$ improves the loss at all elements of $S_m$: to first order the maximum over the *list*, while $\phi$ may rise.
# :::
#
# (check-06-4)=
# **Check 06.4** *(silent on descent, silent on ascent).* For every $n$ from 3 to 11, $\gamma^\star_n$ truly descends (slope below $-0.05$) and is not certified. For $n = 1$ every element of the list improves at rate $-0.6$ while $\phi$ rises at rate $+0.2$.
# Whenever the certificate speaks, it is right.

# %%
for n in range(1, 41):
    M, ε = gradients(net(n)[0]), net(n)[1]
    γ, promise = (best := ddi.steepest_descent(M)).direction, best.slope
    true, certified = γ @ c + R, ddi.certify(M, γ, R, ε).descends
    assert (M @ γ <= promise + 1e-9).all() and promise < -0.19
    assert not certified or true < 0
    assert not 3 <= n <= 11 or (true < -0.05 and not certified)
    assert certified == (n >= 12)
    if n == 1:
        assert isclose(promise, -0.6, abs_tol=1e-9) and not certified
        assert isclose(true, 0.2, abs_tol=1e-9)
        print(f"✓ n = 1: promised {promise:.1f}, true {true:+.1f}, not certified")
print("✓ n = 3, …, 11: descends, not certified; certified n: all from 12 to 40")

# %% [markdown]
# {numref}`fig-06-hulls` shows it in the plane of the gradients. A direction $\gamma$ ascends as soon as some gradient lies beyond the line $\langle\gamma, v\rangle = 0$. The certificate knows that every gradient lies within $L\epsilon$ of a node's, and so on the nodes' side of the dashed line $\langle\gamma, v\rangle = B(\gamma)$. It speaks if the dashed line stays clear of the side $\langle\gamma, v\rangle \ge 0$ (with one node it lies far below the picture). The arrow is $M\alpha^\star$, and $\gamma^\star$ points the opposite way.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-06-hulls", "caption": "Left: one node promises descent, but some gradients lie beyond the zero line (orange): ascent. Right: with 20 nodes no gradient can lie beyond the dashed line, and it is clear of the orange side: descent is proved."}, "image": {"alt": "Two panels with a circle of gradients, nodes on it, the origin, and an arrow from the origin to the point of the nodes' hull nearest to it. Left, one node: the circle dips below the horizontal line through the origin, into the orange half-plane. Right, twenty nodes: a dashed line parallel to the zero line runs between the zero line and the circle."}}
fig, axes = plt.subplots(1, 2, figsize=(6.4, 3.7), sharex=True, sharey=True)
for ax, n in zip(axes, (1, 20), strict=True):
    δ, ε = net(n)
    M = gradients(δ)
    best = ddi.steepest_descent(M)
    γ, w = best.direction, best.weights @ M
    across = torch.stack([-γ[1], γ[0]])
    bad = circle @ γ > 1e-9
    ax.plot(*circle.T, color="#bbbbbb", linewidth=1.5)
    ax.plot(*torch.where(bad[:, None], circle, torch.nan).T, color="#D55E00", linewidth=3.5)
    ax.fill(*M.T, color="#0072B2", alpha=0.15)
    ax.plot(*M.T, "o", color="#0072B2")
    for offset, style in ((0.0, {"color": "black", "linewidth": 1}), (R * ε - w.norm(), {"color": "#7A3E9D", "linestyle": "--"})):
        ends = torch.stack([offset * γ + s * across for s in (-4.0, 4.0)])
        ax.plot(*ends.T, **style)
    uphill = torch.stack([-4 * across, 4 * across, 4 * across + 4 * γ, -4 * across + 4 * γ])
    ax.fill(*uphill.T, color="#D55E00", alpha=0.10, linewidth=0)
    ax.annotate("", w.tolist(), (0, 0), arrowprops={"arrowstyle": "-|>", "color": "#0072B2", "linewidth": 2, "shrinkA": 0, "shrinkB": 0})
    ax.plot(0, 0, "o", color="black")
    ax.text(0.96, 0.04, f"$n = {n}$", transform=ax.transAxes, ha="right", fontsize=14)
    ax.set(xlim=(-0.6, 1.9), ylim=(-0.6, 1.7), aspect="equal", xticks=[0, 1], yticks=[0, 1])
plt.show()

# %% [markdown]
# ## Must the nodes be maximisers?
#
# :::{admonition} Source's claim (Latorre et al. 2023, section 4, after Theorem 3)
# :class: claim
#
# What the theorem asks of the oracle (the routine that supplies $S_m$) does not require solving the inner maximisation to optimality.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# Half of this is right. The proof needs no node to be a maximiser: nodes *near* maximisers serve as well, and further nodes can only raise the bound. But it needs a node within $\epsilon$ of **every** maximiser, and near means near in δ, not near in value.
# A perturbation whose loss is within a hair of the maximum may lie far from all of $S^\star$, and then its gradient tells us nothing. To know that no maximiser was missed is a global statement. It is no easier than the optimisation.
# :::
#
# First, let $\delta \in \mathbb{R}^2$ with $\lVert\delta\rVert \le 2R$, and $g(\theta, \delta) = \langle\theta, c + \delta\rangle - (\lVert\delta\rVert - R)^2$. At $\theta = 0$ the maximisers are the circle $\lVert\delta\rVert = R$, the gradients are $c + \delta$, and $L = 1$.
# If each of $n$ equidistant nodes misses the circle by $h$, none is maximal, and the net's radius is at most $R\pi/n + h$.
# Second, tilt counterexample 2 (Latorre et al. 2023) by a small $\eta > 0$: $g(\theta, \delta) = \delta\langle\theta, u\rangle + (1 - \delta)\langle\theta, v\rangle + \delta(\delta - 1) + \eta\delta$, $S = [0, 1]$, $\theta = 0$, where $\langle u, v\rangle < 0$. Now $\delta = 1$ is the only maximiser, and $\delta = 0$ misses it by $\eta$.
#
# (check-06-5)=
# **Check 06.5** *(near in δ suffices, near in value does not).* With 60 nodes, each off the circle by $h = 0.02$ (alternately inside and outside), the certificate holds, and rightly.
# In the second example $-\nabla_\theta g(0, 0) = -v$, from a perturbation that is maximal up to $\eta = 10^{-6}$, ascends with slope $-\langle u, v\rangle = 0.6$.

# %% tags=["hide-input"]
n, h = 60, 0.02
angle, ε = net(n)[0], R * π / n + h
length = R + h * (-1.0) ** torch.arange(n)
nodes = length[:, None] * torch.stack([angle.cos(), angle.sin()], -1)
assert ((length - R).abs() > 0.9 * h).all()  # no node is a maximiser,
distance = torch.cdist(circle - c, nodes).min(dim=1).values
assert distance.max() <= ε  # but every maximiser has a node within ε
γ = ddi.steepest_descent(c + nodes).direction
bound = ddi.certify(c + nodes, γ, lipschitz=1.0, radius=ε).bound
assert γ @ c + R <= bound < 0

# %% tags=["hide-input"]
u, v = torch.tensor([1.0, 0.0]), torch.tensor([-0.6, 0.8])
s, η = torch.linspace(0, 1, 1001), 1e-6


def φ_tilted(θ):
    return (s * (θ @ u) + (1 - s) * (θ @ v) + s * (s - 1) + η * s).max()


assert φ_tilted(torch.zeros(2)) == η  # at δ = 1; the value at δ = 0 is 0
slope = ddi.one_sided(φ_tilted, torch.zeros(2), -v, t=1e-8)
assert isclose(slope, 0.6, abs_tol=1e-5)

# %% [markdown]
# ## A batch: one net for each sample
#
# For a batch, $g = \frac1k\sum_i L_i(\theta, \delta_i)$ and $S^\star = \prod_i S_i^\star$: every mix of per-sample maximisers is a maximiser. If each sample has $m$ nodes, a net of the product has $m^k$ nodes. There is no need to list them.
#
# ::::{prf:theorem} The certificate, sample by sample
# :label: thm-06-batch
#
# Let every loss $L_i$ satisfy the hypotheses of Danskin's theorem, let $\nabla_\theta L_i(\theta, \cdot)$ be $K_i$-Lipschitz, and let $\delta_i^{(1)}, \dots, \delta_i^{(m)} \in S_i$ be an $\epsilon_i$-net of $S_i^\star(\theta)$. Then for every $\gamma$
#
# ```{math}
# :label: eq-06-batch
#
# D_\gamma\phi(\theta) \;\le\; \frac1k\sum_{i=1}^k\Bigl[\max_{j}\,\langle\gamma, \nabla_\theta L_i(\theta, \delta_i^{(j)})\rangle + K_i\epsilon_i\lVert\gamma\rVert\Bigr] .
# ```
#
# It is never weaker than {eq}`eq-06-bound` for the net of all $m^k$ mixes with the joint constants $L = \frac1k(\sum_i K_i^2)^{1/2}$ and $\epsilon = (\sum_i\epsilon_i^2)^{1/2}$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-06-batch`
#
# ::::{prf:proof}
# Since the maximisers form a product, Danskin's theorem reads $D_\gamma\phi(\theta) = \frac1k\sum_i\max_{\delta_i \in S_i^\star}\langle\gamma, \nabla_\theta L_i(\theta, \delta_i)\rangle$. Apply the first part of the proof of {prf:ref}`thm-06-certificate` to every term.
#
# For the comparison: the maximum over all mixes of a mean is the mean of the maxima, so the first terms agree. As for the second, the joint gradient changes by at most $\frac1k\sum_i K_i\lVert\delta_i - \delta_i'\rVert \le \frac1k(\sum_i K_i^2)^{1/2}\lVert\delta - \delta'\rVert$,
# and the mixes form a net of radius $(\sum_i\epsilon_i^2)^{1/2}$. By Cauchy–Schwarz $\frac1k\sum_i K_i\epsilon_i$ is at most the product of the two.
# ::::
# :::::
#
# In `ddi.certify`, rows with the same label in `groups` belong to one sample. The mean over $k$ samples is meant, so the rows and the constants are divided by $k$. We take three circles.

# %%
k, m = 3, 6
centres = torch.tensor([[1.0, 0.2], [0.8, 0.7], [0.9, -0.4]])
radii = torch.tensor([0.5, 0.8, 0.6])

# %%
def rows_of(m):
    """The k·m rows ∇L_i(δ_i^(j)) / k, and the sample that each belongs to."""
    angle = net(m)[0]
    points = torch.stack([angle.cos(), angle.sin()], -1)
    rows = centres[:, None] + radii[:, None, None] * points
    return rows.flatten(0, 1) / k, torch.arange(k).repeat_interleave(m)


# %% [markdown]
# (check-06-6)=
# **Check 06.6** *($km$ rows do the work of $m^k$ columns).* For $m = 6$ all 216 mixes give the same steepest descent direction as the 18 rows (to $10^{-7}$) and, with the joint constants, a bound that is never smaller, in $\gamma^\star$ and in all 30 directions. The true slope, $\frac1k\sum_i(\langle\gamma, c_i\rangle + R_i)$, is below both.

# %% tags=["hide-input"]
rows, sample = rows_of(m)
pick = torch.cartesian_prod(*[torch.arange(m)] * k)  # (m^k, k)
mixes = sum(rows.view(k, m, 2)[i, pick[:, i]] for i in range(k))
L_joint, ε = radii.norm() / k, π / m
γ = ddi.steepest_descent(rows, sample).direction
assert len(mixes) == 216
assert torch.allclose(γ, ddi.steepest_descent(mixes).direction, atol=1e-7, rtol=0)
for s in (γ, *directions):
    each = ddi.certify(rows, s, radii / k, ε, groups=sample).bound
    joint = ddi.certify(mixes, s, L_joint, sqrt(k) * ε).bound
    assert centres.mean(0) @ s + radii.mean() <= each <= joint - 1e-3

# %% [markdown]
# Algorithm 1 has only $m$ columns for the whole batch. How fine a net can they be? A mix is a point of the *torus*, one angle a sample (0 and $2\pi$ are one angle here).
#
# - *Ordered* columns, column $j$ being the mix of every sample's $j$-th node, have three equal angles. The mix $(0, \frac{2\pi}3, \frac{4\pi}3)$ stays at least $\pi\sqrt{8/9}$ away from all of these, however large $m$ is.
# - *Independent* columns come near every mix in the end. But $N$ balls of radius $\epsilon$ that cover the torus have at least its volume, $N\,V_k\,\epsilon^k \ge (2\pi)^k$. As the unit ball has the volume $V_k \le (2\pi e/k)^{k/2}$, it follows that $\epsilon \ge 1.52\,\sqrt k\, N^{-1/k}$.
#
# Let all radii be $R$, so that $L = R/\sqrt k$. To bring the slack $L\epsilon$ below $s$ then takes at least $(1.52\,R/s)^k$ columns: exponentially many in $k$, if $s < 1.52\,R$. For each sample alone $\pi R/s$ nodes do.
#
# (check-06-7)=
# **Check 06.7** *(a batch needs exponentially many restarts where a net a sample needs few).* Ordered columns: for $m = 10, 100, 1000$ the certificate is silent in every direction, as the least $B$, that of $\gamma^\star$, exceeds 0.5. Independent columns: with 3 000 of them the covering radius is *proved* (distances at $64^3$ grid points, plus half a cell's diagonal), and they certify; with 300 the certificate is silent, and by volume no set of fewer than 100 columns has a slack below the true slope. Sample by sample the proof succeeds from 7 nodes each on (for every $m$ up to 300): 21 gradients.

# %%
steepest = -normalize(centres.mean(0), dim=0)
thirds, around = 2 * π / 3 * torch.arange(3), π * sqrt(8 / 9)
for m in (10, 100, 1000):
    on_diagonal, columns = net(m)[0][:, None], rows_of(m)[0].view(k, m, 2).sum(0)
    turn = (on_diagonal - thirds + π).remainder(2 * π) - π
    assert turn.norm(dim=1).min() >= around - 1e-9
    γ = ddi.steepest_descent(columns).direction  # has the least B
    assert ddi.certify(columns, γ, L_joint, around).bound > 0.5

# %%
random = 2 * π * np.random.default_rng(0).random((3000, 3))
turns = torch.from_numpy(random)[..., None]
points = torch.cat([turns.cos(), turns.sin()], -1) * radii[:, None]
columns = (centres + points).mean(1)
axis = π * (2 * np.arange(64) + 1) / 64
torus = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)


def by_columns(N):
    """The best certificate that the first N random columns can give."""
    reach = cKDTree(random[:N], boxsize=2 * π).query(torus)[0].max()
    γ = ddi.steepest_descent(columns[:N]).direction
    return ddi.certify(columns[:N], γ, L_joint, reach + sqrt(3) * π / 64)


# %%
silent, certified = by_columns(300), by_columns(3000)
true = (centres.mean(0) @ steepest + radii.mean()).item()
fewest = (2 * π) ** 3 / (4 / 3 * π * (-true / L_joint.item()) ** 3)
assert silent.bound > 0.05 and certified.descends and fewest > 100
print(f"✓ random columns: 300 give B = {silent.bound:+.2f},", end=" ")
print(f"3000 give {certified.bound:+.2f}; fewest by volume {fewest:.0f}")

# %%
for m in range(3, 301):
    (rows, sample), ε = rows_of(m), π / m
    each = ddi.certify(rows, steepest, radii / k, ε, groups=sample)
    slope = ddi.directional_derivative(rows, steepest, sample)
    joint = slope + L_joint * sqrt(k) * ε  # the bound from all m^k mixes
    assert each.descends == (m >= 7) and (joint < 0) == (m >= 7)
print("✓ sample by sample: 3 · 7 = 21 gradients")

# %% [markdown]
# {numref}`fig-06-batch` counts what each way costs. All bounds are along the direction that truly is steepest. (On the diagonal we use the radius $\pi\sqrt{8/9}$, which no number of columns can beat.)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-06-batch", "caption": "For a batch of three, a net for each sample proves descent with 21 gradients, and the net of all mixes with 343. Independent columns do with 3 000 (star), ordered ones never."}, "image": {"alt": "Proved bound against the number of gradients, on a logarithmic axis. Sample by sample the bound drops below zero at 21 gradients and approaches the true slope, near minus 0.3. With all mixes it crosses zero at 343 gradients. With the ordered columns it stays above 0.3 throughout, near 0.8 from three columns on. A star just below zero marks 3000 independent columns."}}
fig, ax = plt.subplots(figsize=(6.4, 3.8))
each, joint, diagonal = [], [], []
for m in (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 24, 40, 80, 300):
    rows, sample = rows_of(m)
    each.append((k * m, ddi.certify(rows, steepest, radii / k, π / m, sample).bound))
    slack = radii.norm().item() / k * π
    joint.append((m**k, ddi.directional_derivative(rows, steepest, sample) + slack * sqrt(k) / m))
    diagonal.append((m, (rows.view(k, m, 2).sum(0) @ steepest).max() + slack * sqrt(8 / 9)))
ax.axhline(0, color="black", linewidth=0.8)
ax.axhline(true, color="black")
x, y = np.array([p for p in joint if p[0] <= 1800], dtype=float).T
ax.plot(x, y, "--s", color="#7A3E9D")
plots.line(ax, *np.array(each, dtype=float).T, "product DDi", "", markevery=1)
plots.line(ax, *np.array(diagonal, dtype=float).T, "DDi", "", markevery=1)
ax.annotate("sample by sample", (1.8, -0.12), color="#00694C")
ax.annotate("all mixes", (90, 0.2), color="#7A3E9D")
ax.plot(3000, certified.bound, "*", color="#0072B2", markersize=14)
ax.annotate("ordered columns", (12, 0.7), color="#0072B2")
ax.annotate("true slope", (2, true + 0.02), va="bottom")
ax.set(xscale="log", xlabel="gradients computed", ylabel="proved bound of $D_\\gamma\\phi$")
plt.show()

# %% [markdown]
# ## A network, and a constant that is proved
#
# Where does $L$ come from? For one hidden layer it can be derived by hand. Let $x$ be the perturbed input, and
#
# $$
# z = Ax + b, \quad a = \sigma(z), \quad o = Ca + e, \quad p = \operatorname{softmax}(o), \quad \ell = -\log p_y,
# $$
#
# with $\sigma$ the CELU: $\sigma(z) = z$ for $z \ge 0$ and $e^z - 1$ below {cite}`barron2017`. We need two facts about it, $\lvert\sigma'\rvert \le 1$ and $\lvert\sigma'(s) - \sigma'(t)\rvert \le \lvert s - t\rvert$. Matrix norms are spectral.
#
# :::{admonition} Source's claim (Cevher 2024, "Neural network distances inspired by the 1-Wasserstein distance", lemma (10))
# :class: claim
#
# The network $a \mapsto X_2^\top\sigma(X_1a)$ has an $\ell_2$ Lipschitz constant of at most $\lVert X_1\rVert_2\lVert X_2\rVert_2$.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# True if σ is 1-Lipschitz, which the slide does not say. It bounds the *output*. Theorem 3 needs the gradient *in the parameters*, and that needs a bound of $\sigma''$ (or a Lipschitz constant of $\sigma'$) too.
# :::
#
# ::::{prf:theorem} A Lipschitz constant for one hidden layer
# :label: thm-06-network
#
# Let $x$ range over a convex set $X$ within distance $\rho$ of a point $x_0$. Put
# $\bar x = \lVert x_0\rVert + \rho$, $\;\bar a = \lVert\sigma(Ax_0 + b)\rVert + \lVert A\rVert\rho$, $\;\bar c = \max_j\lVert C_j - C_y\rVert$ (rows of $C$), $\;\kappa = \max_{j,h}\lvert C_{jh} - C_{yh}\rvert$,
#
# $$
# L_r = \tfrac12\lVert C\rVert\lVert A\rVert, \qquad L_q = \tfrac12\lVert C\rVert^2\lVert A\rVert + \kappa\lVert A\rVert .
# $$
#
# Then $x \mapsto \nabla_{(A, b, C, e)}\,\ell$ is Lipschitz on $X$ with
#
# ```{math}
# :label: eq-06-network
#
# L = \sqrt{\,L_r^2 + \bigl(L_r\bar a + \sqrt2\,\lVert A\rVert\bigr)^2 + L_q^2 + \bigl(L_q\bar x + \bar c\bigr)^2\,} ,
# ```
#
# and $\ell$ itself is Lipschitz on $X$ with $L_g = \bar c\,\lVert A\rVert$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-06-network`
#
# ::::{prf:proof}
# Let $r = p - e_y$ (here $e_y$ is the unit vector) and $q = DC^\top r$ with $D = \operatorname{diag}\sigma'(z)$. By the chain rule the four blocks of the gradient are $\nabla_e\ell = r$, $\nabla_C\ell = ra^\top$, $\nabla_b\ell = q$, $\nabla_A\ell = qx^\top$. Take $x, x' \in X$, let $\tau = \lVert x - x'\rVert$, and write primes for what belongs to $x'$.
#
# - *Forward.* As $\lvert\sigma'\rvert \le 1$: $\lVert z - z'\rVert \le \lVert A\rVert\tau$, $\lVert a - a'\rVert \le \lVert A\rVert\tau$, $\lVert o - o'\rVert \le \lVert C\rVert\lVert A\rVert\tau$, and, comparing with $x_0$, $\lVert a\rVert \le \bar a$.
# - *Block $e$.* The Jacobian of the softmax is $\operatorname{diag}p - pp^\top$. The absolute values in its row $i$ sum to $2p_i(1 - p_i) \le \frac12$, so, being symmetric, it has norm at most $\frac12$ (Gershgorin), and $\lVert r - r'\rVert \le L_r\tau$.
# - *Block $C$.* We have $\lVert r\rVert^2 = \sum_{j \ne y}p_j^2 + (1 - p_y)^2 \le 2$. Hence $\lVert ra^\top - r'a'^\top\rVert_F \le \lVert r - r'\rVert\lVert a\rVert + \lVert r'\rVert\lVert a - a'\rVert \le (L_r\bar a + \sqrt2\lVert A\rVert)\tau$.
# - *Block $b$.* Since $C^\top r = \sum_j p_j(C_j - C_y)$ is a convex combination, $\lVert C^\top r\rVert \le \bar c$, and each entry is at most $\kappa$ in absolute value. Now $q - q' = DC^\top(r - r') + (D - D')C^\top r'$. The first term is at most $\lVert C\rVert L_r\tau = \frac12\lVert C\rVert^2\lVert A\rVert\tau$. In the second, entry $h$ is at most $\kappa\lvert z_h - z_h'\rvert$, so its norm is at most $\kappa\lVert A\rVert\tau$. Together: $\lVert q - q'\rVert \le L_q\tau$.
# - *Block $A$.* As $\lVert q'\rVert \le \bar c$: $\lVert qx^\top - q'x'^\top\rVert_F \le \lVert q - q'\rVert\lVert x\rVert + \lVert q'\rVert\tau \le (L_q\bar x + \bar c)\tau$.
#
# The blocks are different coordinates of one vector, so their bounds add in squares. Finally $\nabla_x\ell = A^\top q$ has norm at most $\lVert A\rVert\bar c$, and $X$ is convex.
# ::::
# :::::
#
# In plain words: how fast can each factor of the gradient change, and how large is the other factor meanwhile? It is the product rule, block by block, with the worst case taken every time.

# %%
def lipschitz(model, x0, y, ρ):
    """(L, L_g) for ddi.MLP with one CELU layer, inputs within ρ of x0."""
    A, b, C, _ = (p.detach() for p in model.parameters())
    norm_A, norm_C = matrix_norm(A, 2), matrix_norm(C, 2)
    c_bar, κ = (C - C[y]).norm(dim=1).max(), (C - C[y]).abs().max()
    a_bar, x_bar = torch.celu(A @ x0 + b).norm() + norm_A * ρ, x0.norm() + ρ
    L_r, L_q = norm_C * norm_A / 2, norm_C**2 * norm_A / 2 + κ * norm_A
    L_C, L_A = L_r * a_bar + sqrt(2) * norm_A, L_q * x_bar + c_bar
    L = torch.stack([L_r, L_C, L_q, L_A]).norm()
    return L.item(), (c_bar * norm_A).item()


# %%
def network_gradients(model, x, y):
    """∇ℓ in all the parameters, at every row of x: (n, d)."""
    labels, unmoved = torch.full((len(x),), y), torch.zeros_like(x)[None]
    return ddi.per_sample_gradients(model, x, labels, unmoved)[0]


# %% [markdown]
# (check-06-8)=
# **Check 06.8** *(the proved constants are never exceeded).* On 40 random networks of various shapes and scales, with 100 near and 100 far pairs of inputs and one of the labels each: no change of the gradient exceeds $L$, none of the loss exceeds $L_g$, none of the logits exceeds the lecture's $\lVert A\rVert\lVert C\rVert$, each times the distance.
# With $3\sigma$ in place of σ, which is not 1-Lipschitz, the lecture's bound fails.

# %% tags=["hide-input"]
generator = torch.Generator().manual_seed(66)
worst = {"L": 0.0, "L_g": 0.0, "logits": 0.0, "logits, 3σ": 0.0}
for trial in range(40):
    inputs, hidden, classes = 1 + trial % 4, (2, 8, 30)[trial % 3], 2 + trial % 5
    model = ddi.MLP(inputs, classes, (hidden,)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.1, 0.5, 2.0)[trial // 14])
    x0, ρ = torch.randn(inputs, generator=generator) * (trial % 3), 1.0
    far = x0 + ddi.L2(ρ, box=None).sample(torch.zeros(200, inputs), generator)
    x, other = far[:100].repeat(2, 1), far[100:].repeat(2, 1)
    other[:100] = x[:100] + 1e-4 * (other[:100] - x[:100])
    label = trial // 2 % classes
    L, L_g = lipschitz(model, x0, label, ρ)
    lecture = matrix_norm(model[1].weight, 2) * matrix_norm(model[3].weight, 2)
    compared = {
        "L": (L, lambda x, f=model, y=label: network_gradients(f, x, y)),
        "L_g": (L_g, lambda x, f=model, y=label: -f(x).log_softmax(1)[:, y : y + 1]),
        "logits": (lecture.item(), model),
        "logits, 3σ": (lecture.item(), lambda x, f=model: f[3](3 * f[2](f[1](x)))),
    }
    for name, (constant, f) in compared.items():
        with torch.no_grad():
            ratio = ((f(x) - f(other)).norm(dim=1) / (x - other).norm(dim=1)).max().item()
        worst[name] = max(worst[name], ratio / constant)
assert 0.2 < worst["L"] <= 1 and 0.2 < worst["L_g"] <= 1 and worst["logits"] <= 1
assert worst["logits, 3σ"] > 1.1
print("✓ largest ratio to its bound:", {name: f"{r:.2f}" for name, r in worst.items()})

# %% [markdown]
# ## From the network to a proof, without gaps
#
# Now a complete certificate for a classifier: two inputs, four CELU units, two logits, cross-entropy. The hidden units come in pairs that mirror the second input, so the loss is even in $\delta_2$. Its weights are written by hand, so that the maximisers are known:
# the CELU is convex and the second row of $C$ exceeds the first, so the logit margin $o_1 - o_0$ is a sum of convex functions of δ; hence the loss of label 0 is convex on $S = [-1, 1]^2$ and largest at corners, and two of them tie, $(1, 1)$ and $(1, -1)$. The point θ is a kink of φ.

# %%
A = [[0.5, 1.5], [0.5, -1.5], [0.3, 0.8], [0.3, -0.8]]
C = [[-0.5, -0.5, -0.25, -0.25], [0.5, 0.5, 0.25, 0.25]]
model = ddi.MLP(2, 2, (4,)).double()
with torch.no_grad():
    values = (A, [0, 0, -0.5, -0.5], C, [0, 0])
    for p, value in zip(model.parameters(), values, strict=True):
        p.copy_(torch.tensor(value))
corners = torch.tensor([[1.0, 1.0], [1.0, -1.0]])  # the maximisers
G_star = network_gradients(model, corners, 0)

# %% [markdown]
# Suppose that we did not know the maximisers. How would we *prove* that a net covers them all? With $L_g$. Lay a grid of $n \times n$ cell midpoints over $S$: each point of $S$ is within $\epsilon = \sqrt2/n$ of one. Keep the nodes with
#
# ```{math}
# :label: eq-06-keep
#
# g(\theta, \delta^{(i)}) \;\ge\; \max_j g(\theta, \delta^{(j)}) - L_g\epsilon .
# ```
#
# If $\delta \in S^\star$ has the grid point $\delta^{(i)}$ within ε, then $g(\theta, \delta^{(i)}) \ge \phi(\theta) - L_g\epsilon$, and $\phi(\theta)$ is at least every value on the grid. So $\delta^{(i)}$ is kept: the kept nodes are an ε-net of $S^\star$. This is branch and bound in its smallest form.

# %%
def kept_nodes(n, L_g):
    """An ε-net of S* that is proved to be one, and ε."""
    axis = (2 * torch.arange(n) + 1 - n) / n
    grid, ε = torch.cartesian_prod(axis, axis), sqrt(2) / n
    with torch.no_grad():
        loss = -model(grid).log_softmax(1)[:, 0]
    return grid[loss >= loss.max() - L_g * ε], ε


L, L_g = lipschitz(model, torch.zeros(2), 0, ρ=sqrt(2))

# %%
axis = torch.linspace(-1, 1, 201)
everywhere = torch.cartesian_prod(axis, axis)
weights = torch.nn.utils.parameters_to_vector(model.parameters()).detach()


def φ(θ):
    """The robust loss of the network with parameters θ, by brute force."""
    parts = θ.split([p.numel() for p in model.parameters()])
    names = dict(model.named_parameters())
    named = {n: v.view_as(names[n]) for n, v in zip(names, parts, strict=True)}
    logits = functional_call(model, named, (everywhere,)).detach()
    return -logits.log_softmax(1)[:, 0].min()


# %% [markdown]
# (check-06-9)=
# **Check 06.9** *(a proof for a network, and the truth beside it).* The gradients at the two maximisers conflict, so $-\nabla_\theta g$ at either *ascends* (difference quotients of φ, by brute force over $201^2$ perturbations, agree to $10^{-3}$). For every $n$ from 5 to 40 and for 80 the kept nodes are within ε of both maximisers.
# Up to $n = 12$ the certificate is silent, from 13 on it proves that $\gamma^\star$ descends. No bound is ever below the true slope, the maximum over the two corners.

# %%
at_corners = -model(corners).detach().log_softmax(1)[:, 0]
assert torch.allclose(at_corners, φ(weights).expand(2), atol=1e-12, rtol=0)
assert G_star[0] @ G_star[1] < -1
for own, other in (G_star, G_star.flip(0)):
    γ = -own / own.norm()
    assert ddi.directional_derivative(G_star, γ) > 0.5
    quotient = ddi.one_sided(φ, weights, γ, t=1e-5)
    assert isclose(quotient, other @ γ, abs_tol=1e-3)

# %%
for n in (*range(5, 41), 80):
    nodes, ε = kept_nodes(n, L_g)
    assert (torch.cdist(corners, nodes).min(dim=1).values <= ε + 1e-12).all()
    M = network_gradients(model, nodes, 0)
    γ = ddi.steepest_descent(M).direction
    certificate = ddi.certify(M, γ, L, ε)
    true = ddi.directional_derivative(G_star, γ)
    quotient = ddi.one_sided(φ, weights, γ, t=1e-5)
    assert isclose(quotient, true, abs_tol=1e-3)
    assert certificate.bound >= true and certificate.descends == (n >= 13)
    if n in (5, 10, 12, 13, 20, 40, 80):
        print(f"{n}² nodes, {len(nodes)} kept; descends: {certificate.descends}")

# %% [markdown]
# "Rigorous" here means: exact mathematics, evaluated in float64. Rounding is many orders of magnitude smaller than the margins; a proof in the strictest sense would use interval arithmetic.
#
# **How loose is it?** Compare the proved $L$ with two lower estimates of the best one: the largest ratio over sampled pairs, and the largest spectral norm of the Jacobian $\partial\nabla_\theta\ell/\partial\delta$ at sampled points (autograd).

# %%
axis = torch.linspace(-0.999, 0.999, 41)
points = torch.cartesian_prod(axis, axis)
by_pairs = 0.0
for angle in net(12)[0]:
    step = 1e-3 * torch.stack([angle.cos(), angle.sin()])
    moved = network_gradients(model, points + step, 0)
    change = moved - network_gradients(model, points, 0)
    by_pairs = max(by_pairs, change.norm(dim=1).max().item() / 1e-3)

# %%
def loss(parameters, x):
    logits = functional_call(model, parameters, (x[None],))
    return -logits.log_softmax(1)[0, 0]


parameters = {name: p.detach() for name, p in model.named_parameters()}
per_point = vmap(jacrev(grad(loss), argnums=1), in_dims=(None, 0))
blocks = per_point(parameters, points).values()
jacobians = torch.cat([block.flatten(1, -2) for block in blocks], 1)
by_jacobian = matrix_norm(jacobians, 2).max().item()

# %% [markdown]
# (check-06-10)=
# **Check 06.10** *(loose by a factor between 3 and 5).* Both estimates agree to 2 % and are below $L$, which is between 3 and 5 times larger.

# %% tags=["hide-input"]
assert isclose(by_pairs, by_jacobian, rel_tol=0.02)
assert 3 < L / by_jacobian < 5 and max(by_pairs, by_jacobian) < L
print(f"✓ proved {L:.1f}, seen {by_jacobian:.1f}: {L / by_jacobian:.1f} times too large")

# %% [markdown]
# The price of looseness is paid in nodes. A constant $f$ times too large asks for a radius $f$ times smaller, that is for $f^D$ times more cells in $D$ dimensions: tolerable in two, and out of the question for an image. {numref}`fig-06-network` shows the net and what it proves.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-06-network", "caption": "Top: of the 400 nodes on the set of perturbations only those near the two tied maximisers (crosses) need to be kept. Bottom: but for the coarsest net the promise is too modest here, as the net holds nodes that are not maximal; the proof succeeds from 13 nodes a side on."}, "image": {"alt": "Top: the loss of a small network over a square of perturbations, symmetric about the horizontal axis, largest at the two right-hand corners; kept grid nodes cluster at those corners. Bottom: slopes against nodes a side, from 5 to 160 on a logarithmic axis: the proved bound falls from near plus 3 through zero between 10 and 13 towards the true slope, which is near minus 2 from 10 on."}}
fig, axes = plt.subplots(2, 1, figsize=(5.6, 8.6), height_ratios=(1.3, 1))
nodes, ε = kept_nodes(20, L_g)
with torch.no_grad():
    surface = -model(everywhere).log_softmax(1)[:, 0].view(201, 201)
t = np.linspace(-1, 1, 201)
axes[0].contourf(t, t, surface.T, levels=12, cmap="Greys", alpha=0.45)
axes[0].plot(*nodes.T, ".", color="#0072B2", markersize=7)
axes[0].plot(*corners.T, "x", color="#D55E00", markersize=10, markeredgewidth=2.5, clip_on=False)
axes[0].grid(False)
axes[0].set(xlabel="$\\delta_1$", ylabel="$\\delta_2$", aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
sides, rows = [5, 7, 10, 13, 20, 28, 40, 80, 160], []
for n in sides:
    nodes, ε = kept_nodes(n, L_g)
    M = network_gradients(model, nodes, 0)
    γ = ddi.steepest_descent(M).direction
    values = (ddi.directional_derivative(M, γ), ddi.directional_derivative(G_star, γ), ddi.certify(M, γ, L, ε).bound)
    rows.append([float(value) for value in values])
promise, true, proved = np.array(rows).T
axes[1].axhline(0, color="black", linewidth=0.8)
plots.line(axes[1], sides, promise, "DDi", "", markevery=1)
plots.line(axes[1], sides, true, "true", "")
axes[1].plot(sides, proved, "--s", color="#7A3E9D")
axes[1].annotate("proved, $B$", (8, 1.7), color="#7A3E9D")
axes[1].annotate("promised", (4.7, -0.45), color="#0072B2", ha="left", va="bottom")
axes[1].annotate("true", (7.5, -2.1), color="black")
axes[1].set(xscale="log", xlabel="nodes a side, $n$", ylabel="slope along $\\gamma^\\star_n$", ylim=(-2.4, 3))
axes[1].set_xticks([5, 20, 80], ["5", "20", "80"])
axes[1].minorticks_off()
plt.show()

# %% [markdown]
# ## A sampled constant certifies nothing
#
# It is tempting to estimate $L$: sample many pairs, take the largest ratio. But the result is a *lower* bound of $L$, and {prf:ref}`thm-06-certificate` needs an upper one. The two sides of the inequality are not equally harmless: a constant too large makes the certificate silent, a constant too small can make it false.
#
# For *every* finite sample there is a function that fools it. Let $\theta \in \mathbb{R}$, $S = [0, 1]$, $g(\theta, \delta) = \theta\,\psi(\delta)$ and $\theta = 0$, where all δ tie and $\nabla_\theta g = \psi$. Take $\psi(\delta) = 1 + 0.3\sin 2\pi\delta$, a positive function, and cut into it a narrow notch of depth 3 where nobody has looked: in the widest gap of the sample.
# The direction $\gamma = -1$ then ascends: $D_\gamma\phi(0) = -\min\psi > 0$.

# %%
def notched(δ, centre, half_width):
    """ψ: gentle everywhere, but for one notch of depth 3."""
    tent = (1 - (δ - centre).abs() / half_width).clamp_min(0)
    return 1 + 0.3 * torch.sin(2 * π * δ) - 3 * tent

# %%
def sample_with_gap(N, seed=1):
    """N uniform points, 0 and 1; the centre and width of their widest gap."""
    inner = torch.rand(N, generator=torch.Generator().manual_seed(seed))
    points = torch.cat([torch.tensor([0.0, 1.0]), inner]).sort().values
    widest = points.diff().argmax()
    return points, points[widest : widest + 2].mean(), points.diff()[widest]


# %% [markdown]
# (check-06-11)=
# **Check 06.11** *(a false certificate, however many samples).* With $N = 30$, 300, 3000 and 30 000 sampled perturbations, used both as the net and to estimate $L$ (the largest ratio over all pairs, which for points on a line is attained by neighbours), the "certificate" says descent with a margin of 0.3.
# The truth is ascent, with slope above 1.5. The proved constant, $0.6\pi + 3/(\text{half width})$, is silent.

# %%
for N in (30, 300, 3000, 30000):
    points, centre, gap = sample_with_gap(N)
    ψ = notched(points, centre, gap / 4)
    sampled_L, ε = (ψ.diff() / points.diff()).abs().max(), gap / 2
    γ, rows = torch.tensor([-1.0]), ψ[:, None]
    assert ddi.certify(rows, γ, sampled_L, ε).bound < -0.3  # a lie
    proved_L = 0.6 * π + 3 / (gap / 4)
    assert not ddi.certify(rows, γ, proved_L, ε).descends
    lowest = notched(centre, centre, gap / 4)  # ψ where nobody looked
    assert -min(ψ.min(), lowest) > 1.5  # the true slope, -min ψ
    assert (-1e-3 * lowest) > 1.5e-3  # and so φ(-0.001) > φ(0) = 0

# %% [markdown]
# {numref}`fig-06-notch` shows the smallest of the four samples, and what it missed.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-06-notch", "caption": "Thirty samples see a gentle positive gradient. The notch, where it is negative, fits between two of them: moving along -1 ascends."}, "image": {"alt": "A gently waving curve above zero with thirty sample points on it, and one narrow notch between two sample points where the curve plunges below zero, to minus 1 or less."}}
points, centre, gap = sample_with_gap(30)
fine = torch.cat([torch.linspace(0, 1, 2001), torch.linspace(centre - gap / 4, centre + gap / 4, 201)]).sort().values
fig, ax = plt.subplots(figsize=(6.4, 3.4))
ψ = notched(fine, centre, gap / 4)
ax.axhline(0, color="black", linewidth=0.8)
plots.line(ax, fine.numpy(), ψ.numpy(), "true", "")
ax.fill_between(fine, ψ, 0, where=ψ < 0, color="#D55E00", alpha=0.5, linewidth=0)
ax.plot(points, notched(points, centre, gap / 4), "o", color="#0072B2")
lowest = ψ.min().item()
ax.annotate("unseen", (centre + gap / 4, lowest / 2), xytext=(10, 0), textcoords="offset points", color="#D55E00", va="center")
ax.annotate("30 samples", (0.02, 0.5), color="#0072B2")
ax.set(xlabel="perturbation $\\delta$", ylabel="gradient $\\psi(\\delta)$")
plt.show()

# %% [markdown]
# ## Breaking it
#
# We drop four conditions, one at a time, and see what goes wrong.
#
# **The strict inequality.** Let $g = \theta\delta$, $S = [-2, 0]$, $\theta = 0$: all δ tie, $L = 1$, and the node $-1$ is a net with $\epsilon = 1$. Its $\gamma^\star = +1$ has slope exactly $-L\epsilon$ at the node. But $\phi(\theta) = 0$ for all $\theta \ge 0$: no descent. The bound $B = 0$ is sharp.
#
# **The length of γ.** The source's inequality is meant for unit vectors, and has no $\lVert\gamma\rVert$. Forget to normalise, and any promise becomes large enough: ten times $\gamma^\star_1$ of the circle has slope $-6 < -R\pi$ at its node, and ascends.
#
# **Continuity in θ.** Theorem 3 as printed asks for the Lipschitz property in δ, and names none of Danskin's hypotheses. At the one point θ it does not imply them. Tilt the example at which {ref}`Danskin's theorem <chapter-02>` breaks:
# $g = 2\delta\theta^2/(\delta^2 + \theta^2) - \theta/2$ on $S = [0, 1]$ (and $-\theta/2$ for $\delta = 0$). At $\theta = 0$ every gradient is $-\frac12$, so $L = 0$, one node is enough, and $\gamma = 1$ is "certified" with $B = -\frac12$. But $\phi(\theta) = \lvert\theta\rvert - \frac12\theta$ near 0, which rises at rate $+\frac12$.
# (If one $L$ serves for all θ near the point, and $\nabla_\theta g(\cdot, \delta)$ is continuous for each δ, then $\nabla_\theta g$ is jointly continuous; if $g$ is continuous too, all is well.)
#
# (check-06-12)=
# **Check 06.12** *(three conditions that are needed).* The three failures above: the bound exactly 0 with slope 0; the shortened inequality true for a direction of ascent, with `ddi.certify` not deceived; the "certificate" $-\frac12$ beside a difference quotient of $+\frac12$.

# %% tags=["hide-input"]
def φ_flat(θ):
    return (θ * torch.linspace(-2, 0, 101)).max()


one_node, up = torch.tensor([[-1.0]]), torch.tensor([1.0])
certificate = ddi.certify(one_node, up, lipschitz=1.0, radius=1.0)
assert certificate.bound == 0 and not certificate.descends
assert ddi.one_sided(φ_flat, torch.zeros(1), up) == 0

# %% tags=["hide-input"]
γ, M = torch.tensor([0.0, -10.0]), gradients(net(1)[0])
assert ddi.directional_derivative(M, γ) < -R * π
assert γ @ c + R * γ.norm() > 1.9  # the true slope
assert not ddi.certify(M, γ, R, π).descends

# %% tags=["hide-input"]
def φ_jump(θ, δ=torch.logspace(-8, 0, 8001)):
    return (2 * δ * θ**2 / (δ**2 + θ**2) - θ / 2).max()


one_node = torch.tensor([[-0.5]])
assert ddi.certify(one_node, up, lipschitz=0.0, radius=1.0).descends
for t in (1e-2, 1e-4, 1e-6):
    slope = ddi.one_sided(φ_jump, torch.zeros(1), up, t)
    assert isclose(slope, 0.5, abs_tol=1e-3)

# %% [markdown]
# **A Lipschitz gradient at all.** The paper calls the assumption standard in optimisation. The standard one is about the gradient's change in θ, the variable that is optimised. This one is about δ, and a ReLU network does not have it: when a perturbation crosses a unit's kink, the gradient *jumps*. (Nor does it satisfy Danskin's hypotheses.)
#
# (check-06-13)=
# **Check 06.13** *(no L for ReLU).* On the same network with ReLU units, take two perturbations on either side of a kink, at a distance proportional to $t$. Their gradients do not approach each other as $t \to 0$: the ratio grows about a hundredfold whenever $t$ shrinks a hundredfold. With CELU it stays below the proved $L$.

# %% tags=["hide-input"]
relu = ddi.MLP(2, 2, (4,), activation="relu").double()
relu.load_state_dict(model.state_dict())
a = torch.tensor([[0.5, 1.5]])  # the first unit has z = ⟨a, δ⟩,
kink = torch.tensor([[0.6, -0.2]])  # which is 0 here
ratios = {relu: [], model: []}
for t in (1e-2, 1e-4, 1e-6):
    for f in (relu, model):
        ends = network_gradients(f, torch.cat([kink + t * a, kink - t * a]), 0)
        ratios[f].append((ends[0] - ends[1]).norm() / (2 * t * a.norm()))
assert max(ratios[model]) < L
first, second, third = ratios[relu]
assert 90 < second / first < 110 and 90 < third / second < 110

# %% [markdown]
# ## Summary
#
# - Over an ε-net of *all* maximisers, $D_\gamma\phi \le \max_i\langle\gamma, g_i\rangle + L\epsilon\lVert\gamma\rVert$, for any γ. The best direction for this bound is $\gamma^\star$, certified exactly if $\lVert M\alpha^\star\rVert > L\epsilon$.
# - The nodes need not be maximisers. But none of the maximisers may lie farther than ε from them, and nearly maximal *values* say nothing about that.
# - Silence means nothing: the direction may descend or ascend. A flat slope $s$ needs about $\pi R/s$ nodes on the circle.
# - A batch is certified sample by sample with $km$ gradients. Ordered columns of Algorithm 1 never cover the product; independent ones do, in numbers exponential in $k$ if the slope is flatter than $1.52\,R$.
# - For one hidden layer $L$ can be proved. It is loose by a factor, and the factor is paid to the power of the input's dimension. In the dimensions of images the certificate is a guide for thought, and not a tool.
# - An estimated $L$ is a lower bound. It certifies nothing.
#
# ## Exercises
#
# ::::{exercise} The bound is sharp
# :label: ex-06-sharp
#
# Find $g$, $S$, one node and a direction with $D_\gamma\phi(0) = B(\gamma) = \langle\gamma, \nabla_\theta g(0, \delta^{(1)})\rangle + L\epsilon$ and $L\epsilon > 0$. Can the factor of $L\epsilon$ in Theorem 3 be improved?
# ::::
#
# ::::{solution} ex-06-sharp
# :label: sol-06-sharp
# :class: dropdown
#
# Take $g = \theta\delta$, $S = [-1, 1]$, the node $0$, $\gamma = 1$. All δ tie at $\theta = 0$, the gradient δ is 1-Lipschitz, the net's radius is 1, and
#
# $$
# D_\gamma\phi(0) = \max_{\delta \in [-1, 1]}\delta = 1 = 0 + 1 \cdot 1 = B(\gamma) .
# $$
#
# So with any factor $f < 1$ the inequality $D_\gamma\phi \le \max_i\langle\gamma, g_i\rangle + fL\epsilon$ is false. Example one of *Breaking it* shifts this by $-\theta$: with $f < 1$ it would certify a direction that does not descend.
# ::::
#
# ::::{exercise} Half of the slope
# :label: ex-06-half
#
# On the circle {eq}`eq-06-circle`, how many nodes guarantee that $B(\gamma^\star)$ is at most *half* of the steepest slope, $-\frac12(\lVert c\rVert - R)$? Check your answer for $c = (0.8, 0.6)$, $R = 0.8$.
# ::::
#
# ```{solution-start} ex-06-half
# :label: sol-06-half
# :class: dropdown
# ```
#
# By {eq}`eq-06-star` and {eq}`eq-06-bracket`, $B(\gamma^\star) \le R\pi/n - (\lVert c\rVert - R)$. This is at most $-\frac12(\lVert c\rVert - R)$ if $n \ge 2\pi R/(\lVert c\rVert - R)$: twice as many as for the certificate itself. Here $8\pi \approx 25.1$, so 26 nodes.

# %%
for n in (26, 27, 40, 100):
    M, ε = gradients(net(n)[0]), net(n)[1]
    γ = ddi.steepest_descent(M).direction
    assert ddi.certify(M, γ, R, ε).bound <= -0.1

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} How far may we step?
# :label: ex-06-step
#
# The certificate speaks of a slope, not of a step. Suppose the nodes are an ε-net of **all of** $S$, that $B(\gamma) = -\mu < 0$ for a unit γ, and that $\nabla_\theta g(\cdot, \delta)$ is $\Lambda$-Lipschitz in θ for each δ. Show that $\phi(\theta + t\gamma) < \phi(\theta)$ for $0 < t < 2\mu/\Lambda$.
# Why is a net of $S^\star(\theta)$ not enough? What does the result say on the circle?
# ::::
#
# ```{solution-start} ex-06-step
# :label: sol-06-step
# :class: dropdown
# ```
#
# The proof of {prf:ref}`thm-06-certificate` gives $\langle\gamma, \nabla_\theta g(\theta, \delta)\rangle \le -\mu$ for every $\delta \in S$ now. By the descent lemma $g(\theta + t\gamma, \delta) \le g(\theta, \delta) - \mu t + \frac\Lambda2t^2 \le \phi(\theta) - \mu t + \frac\Lambda2t^2$.
# Take the maximum over δ: $\phi(\theta + t\gamma) \le \phi(\theta) - \mu t + \frac\Lambda2t^2$, which is less than $\phi(\theta)$ for $0 < t < 2\mu/\Lambda$.
#
# With a net of $S^\star(\theta)$ alone, a δ that is not maximal at θ, about which nothing is known, may take over after a short step. On the circle $S^\star(0) = S$, and $g$ is linear in θ, so $\Lambda = 0$: a certified direction descends for every step length.

# %%
δ, ε = net(12)
best = ddi.steepest_descent(gradients(δ))
μ = -ddi.certify(gradients(δ), best.direction, R, ε).bound
for t in (1e-3, 1.0, 1e3):
    assert g(t * best.direction, dense).max() <= -μ * t < 0

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} Another activation
# :label: ex-06-tanh
#
# Adapt {prf:ref}`thm-06-network` to $\sigma = \tanh$. Which lines of the proof change? Check the new constants on random networks.
# ::::
#
# ```{solution-start} ex-06-tanh
# :label: sol-06-tanh
# :class: dropdown
# ```
#
# Two facts about σ were used. $\lvert\tanh'\rvert \le 1$ still holds. The Lipschitz constant of $\sigma'$ was 1; now it is $s = \max\lvert\tanh''\rvert$. With $u = \tanh z$ we have $\tanh'' = -2u(1 - u^2)$, largest in size at $u = \pm1/\sqrt3$: $s = 4/(3\sqrt3) \approx 0.77$.
# So only block $b$ changes: $L_q = \frac12\lVert C\rVert^2\lVert A\rVert + s\kappa\lVert A\rVert$. Since $s < 1$, the function `lipschitz` is a valid bound for tanh networks as it stands, up to $\bar a$, where CELU must be replaced by tanh; we use $\lVert a\rVert \le \sqrt{h}$ for $h$ hidden units.

# %%
z = torch.linspace(-5, 5, 100001)
s_max = 4 / (3 * sqrt(3))
assert isclose((2 * z.tanh() * (1 - z.tanh() ** 2)).max(), s_max, abs_tol=1e-6)


def lipschitz_tanh(A, C, y, x_bar):
    norm_A, norm_C, a_bar = matrix_norm(A, 2), matrix_norm(C, 2), sqrt(len(A))
    c_bar, κ = (C - C[y]).norm(dim=1).max(), (C - C[y]).abs().max()
    L_r = norm_C * norm_A / 2
    L_q = norm_C**2 * norm_A / 2 + s_max * κ * norm_A
    L_C, L_A = L_r * a_bar + sqrt(2) * norm_A, L_q * x_bar + c_bar
    return torch.stack([L_r, L_C, L_q, L_A]).norm()


# %%
generator = torch.Generator().manual_seed(3)
for scale in (0.1, 0.5, 2.0):
    tanh = ddi.MLP(2, 3, (6,)).double()
    tanh[2] = torch.nn.Tanh()
    with torch.no_grad():
        for p in tanh.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator))
    A, _, C, _ = (p.detach() for p in tanh.parameters())
    x = 2 * torch.rand(2, 400, 2, generator=generator) - 1
    first, second = (network_gradients(tanh, ends, 1) for ends in x)
    ratio = (first - second).norm(dim=1) / (x[0] - x[1]).norm(dim=1)
    assert ratio.max() <= lipschitz_tanh(A, C, 1, x_bar=sqrt(2))

# %% [markdown]
# ```{solution-end}
# ```
