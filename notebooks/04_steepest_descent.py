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
# (chapter-04)=
# # Steepest descent: Theorem 2 and its fine print
#
# :::{admonition} What you will learn
# :class: frame
#
# - why the steepest descent direction of a maximum is minus the shortest vector in the hull of the maximisers' gradients;
# - how to confirm it by brute force, by difference quotients and by a solver that knows nothing of hulls;
# - which hypothesis the theorem needs, and why "not a local minimiser" is not it;
# - what goes wrong with a lost sign, or with a lost maximiser.
#
# **Before you start.** {ref}`Chapter 2 <chapter-02>` for the directional derivative, {ref}`chapter 3 <chapter-03>` for the failure of a single gradient.
#
# **Time and hardware.** Forty minutes to read; a few seconds to run on one processor core.
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
from itertools import combinations
from math import pi, sqrt

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.optimize import linprog, minimize

from ddi import (
    directional_derivative,
    gram_matrix,
    min_norm_point,
    one_sided,
    plots,
    steepest_descent,
)

plots.use_style()
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## The shortest vector
#
# Five perturbations tie as the worst, with gradients $g_1, \dots, g_5$ (the columns of $M$). Which direction lowers *all five* losses, and the least lowered one most? {numref}`fig-04-hull` has the answer, and this chapter proves it: take the convex hull of the gradients, find its point $w$ nearest to $0$, and walk the opposite way. Of all lines that separate $0$ from the hull, the one through $w$ is the farthest from $0$.

# %%
M = torch.tensor([[-0.6, 2.4, 2.2, 0.8, 1.3], [1.6, -0.5, 1.5, 2.3, 1.0]])
result = steepest_descent(M.T)  # the package takes one gradient a row
w, γ = M @ result.weights, result.direction
Mn = M.numpy()

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-04-hull", "caption": "The point $w$ of least norm of the hull, its supporting line, and the steepest descent direction $\\gamma^\\star = -w/\\|w\\|$."}, "image": {"alt": "Five gradients in the plane, drawn as orange arrows from the origin, and their shaded convex hull. The point w on the edge between g1 and g2 is the hull's nearest point to the origin. A dashed line through w, at right angles to w, has the hull on its far side. A blue arrow from the origin points the opposite way: the steepest descent direction."}}
fig, ax = plt.subplots(figsize=(6.2, 5.2))
hull = Mn[:, [0, 1, 2, 3]].T
ax.fill(*hull.T, color="#D55E00", alpha=0.12, zorder=0)
ax.plot(*np.vstack([hull, hull[:1]]).T, color="#D55E00", linewidth=1)
offsets = [(-26, -6), (8, 2), (8, 0), (6, 8), (-12, 10)]
for i, (p, offset) in enumerate(zip(Mn.T, offsets, strict=True)):
    ax.annotate("", p, (0, 0), arrowprops={"arrowstyle": "-|>", "color": "#D55E00", "lw": 1.2})
    ax.annotate(f"$g_{i + 1}$", p, xytext=offset, textcoords="offset points", color="#D55E00", fontsize=14)
wn, γn = w.numpy(), γ.numpy()
across = np.array([-wn[1], wn[0]]) / np.linalg.norm(wn)
ends = wn + np.outer([-2.85, 2.15], across)
ax.plot(*ends.T, "--", color="black", linewidth=1.5)
ax.annotate(r"$\langle w, z\rangle = \|w\|^2$", ends[0], xytext=(-100, 0), textcoords="offset points", fontsize=13)
ax.plot([0, wn[0]], [0, wn[1]], color="#0072B2", linewidth=2.5)
ax.plot(*wn, "o", color="#0072B2", markersize=9)
ax.annotate("$w$", wn, xytext=(9, 3), textcoords="offset points", color="#0072B2", fontsize=16)
ax.annotate("", γn, (0, 0), arrowprops={"arrowstyle": "-|>", "color": "#0072B2", "lw": 3, "mutation_scale": 20})
ax.annotate("γ*", γn, xytext=(-24, -6), textcoords="offset points", color="#0072B2", fontsize=16)
ax.plot(0, 0, "o", color="black", markersize=6)
ax.annotate("0", (0, 0), xytext=(8, -14), textcoords="offset points", fontsize=13)
ax.set(aspect="equal", xlim=(-1.5, 3.1), ylim=(-1.25, 2.7), xlabel="first component of a gradient", ylabel="second component")
plt.show()

# %% [markdown]
# ## The question
#
# At a point $\theta$ let $g_1, \dots, g_m \in \mathbb{R}^d$ be the gradients $\nabla_\theta g(\theta, \delta^{(i)})$ at all maximisers
# $\delta^{(i)}$ of the inner problem. They are the columns of a matrix $M \in \mathbb{R}^{d \times m}$. Danskin's theorem gives the slope
# of $\phi$ along any $\gamma$:
#
# ```{math}
# :label: eq-04-slope
#
# D(\gamma) := D_\gamma\phi(\theta) = \max_{i = 1, \dots, m} \langle \gamma, g_i\rangle .
# ```
#
# So $D(s\gamma) = s\,D(\gamma)$ for $s \ge 0$. We saw in {ref}`chapter 3 <chapter-03>` that $-g_i$ need not descend. Which unit vector does so best? We solve
#
# ```{math}
# :label: eq-04-problem
#
# \min_{\lVert\gamma\rVert = 1} \max_{i} \langle \gamma, g_i\rangle .
# ```
#
# In plain words: for each way to walk, the most stubborn maximiser sets the slope; choose the way on which even it gives in most.
#
# :::{admonition} Source's claim (Latorre et al. 2023, Theorem 2)
# :class: claim
#
# Let the maximisers be finitely many, and let $\theta$ not be a local minimiser of $\phi$. Then the steepest descent direction is
# $\gamma^\star = -M\alpha^\star / \lVert M\alpha^\star\rVert$, where $\alpha^\star$ minimises $\lVert M\alpha\rVert^2$ over the simplex
# $\Delta = \{\alpha \ge 0, \sum_i\alpha_i = 1\}$.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# The formula is right, and it is classical: compare {cite:t}`demyanov1966` and {cite:t}`wolfe1975`. The hypothesis is too weak. What is needed is that $0$ is not in the hull of
# the $g_i$. We prove the theorem with that hypothesis first, and come to the fine print in *Breaking it*.
# Finiteness is for the computer only: with any compact set of gradients in place of the $g_i$ our proof is the same.
# :::

# %% [markdown]
# ## The shortest vector of a hull
#
# Let $K = \mathrm{conv}\{g_1, \dots, g_m\} = \{M\alpha : \alpha \in \Delta\}$. It is convex and compact, so it has a point $w$ of least norm,
# and only one. One inequality says all that we need to know about it.
#
# ::::{prf:lemma} The supporting line
# :label: thm-04-projection
#
# The point $w$ of least norm of $K$ is unique, and it is the only point of $K$ with
# $\langle w, z\rangle \ge \lVert w\rVert^2$ for all $z \in K$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-04-projection`
#
# ::::{prf:proof}
# Let $w$ have least norm and let $z \in K$. For $0 < s \le 1$ the point $w + s(z - w)$ lies in $K$, so
#
# $$
# \lVert w\rVert^2 \le \lVert w + s(z - w)\rVert^2 = \lVert w\rVert^2 + 2s\langle w, z - w\rangle + s^2\lVert z - w\rVert^2 .
# $$
#
# Subtract $\lVert w\rVert^2$, divide by $2s$ and let $s \downarrow 0$: $\langle w, z - w\rangle \ge 0$. That is the inequality.
#
# Conversely let $w' \in K$ satisfy the inequality. With Cauchy and Schwarz, $\lVert w'\rVert^2 \le \langle w', z\rangle \le \lVert w'\rVert \lVert z\rVert$ for all
# $z \in K$, so $w'$ has least norm too. For two points $w, w'$ of least norm, $\lVert w - w'\rVert^2 = (\lVert w\rVert^2 - \langle w, w'\rangle) + (\lVert w'\rVert^2 - \langle w', w\rangle) \le 0$
# by the inequality, used for each of them. Hence $w = w'$.
# ::::
# :::::
#
# In plain words: if $w \ne 0$, draw the line through $w$ at right angles to $w$ (beyond the plane, the hyperplane). The whole hull lies on its far side. So a step along $-w$ goes
# against *every* gradient of the hull, by at least $\lVert w\rVert^2$.
#
# ::::{prf:theorem} Steepest descent
# :label: thm-04-steepest
#
# Let $w = M\alpha^\star$ be the point of least norm of $K$. Then
#
# 1. $D(\gamma) \ge -\lVert w\rVert\,\lVert\gamma\rVert$ for every $\gamma$;
# 2. if $w \ne 0$, then $\gamma^\star = -w/\lVert w\rVert$ is the one and only solution of {eq}`eq-04-problem`, and $D(\gamma^\star) = -\lVert w\rVert$;
# 3. a descent direction exists if and only if $0 \notin K$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-04-steepest`
#
# ::::{prf:proof}
# A linear function has its maximum over a hull at one of the $g_i$, so $D(\gamma) = \max_{z \in K}\langle\gamma, z\rangle \ge \langle\gamma, w\rangle \ge -\lVert\gamma\rVert\,\lVert w\rVert$,
# the last step by Cauchy and Schwarz. That is the first part.
#
# Let $w \ne 0$. By {prf:ref}`thm-04-projection`, $D(\gamma^\star) = -\min_i\langle w, g_i\rangle / \lVert w\rVert \le -\lVert w\rVert$, and by the first part it is not less. If another
# unit vector $\gamma$ reaches $D(\gamma) = -\lVert w\rVert$, then $\langle\gamma, w\rangle = -\lVert w\rVert$ in the chain above. Equality in Cauchy and Schwarz leaves $\gamma = -w/\lVert w\rVert$ only.
#
# For the third part: if $0 \notin K$ then $w \ne 0$ and $D(\gamma^\star) < 0$; if $0 \in K$ then $w = 0$ and the first part says $D \ge 0$.
# ::::
# :::::
#
# The source takes another road {cite}`latorre2023`: it relaxes the sphere to the ball, and swaps minimum and maximum by the minimax theorem of {cite:t}`sion1958`,
#
# $$
# \min_{\lVert\gamma\rVert \le 1}\max_{\alpha \in \Delta}\,\gamma^\top M\alpha = \max_{\alpha \in \Delta}\min_{\lVert\gamma\rVert \le 1}\gamma^\top M\alpha = -\min_{\alpha \in \Delta}\lVert M\alpha\rVert .
# $$
#
# We meet that relaxation again below.
#
# Two other roads to $w$: the point nearest to $0$ on any segment between two gradients (in the plane, a hull that does not hold $0$ has its nearest point on one of them), and SciPy's general solver SLSQP, on $\min_{\alpha \in \Delta}\lVert M\alpha\rVert^2$.


# %%
def nearest(p, q):
    """The point of the segment from p to q that is nearest to 0."""
    s = (p @ (p - q) / ((p - q) @ (p - q))).clamp(0, 1)
    return p + s * (q - p)


segments = combinations(M.T, 2)
w_segments = min((nearest(p, q) for p, q in segments), key=torch.norm)

# %%
slsqp = minimize(
    lambda α: (Mn @ α) @ (Mn @ α), np.full(5, 0.2),
    jac=lambda α: 2 * Mn.T @ (Mn @ α), bounds=[(0, 1)] * 5,
    constraints={"type": "eq", "fun": lambda α: α.sum() - 1},
    method="SLSQP", tol=1e-14,
)  # fmt: skip

# %% [markdown]
# (check-04-1)=
# **Check 04.1** *(the point of least norm, by three roads, and {prf:ref}`thm-04-projection`).* The active-set method of `ddi` and the segments agree to $10^{-12}$, and with SLSQP to $10^{-6}$;
# the inequality holds for every $g_i$ to $10^{-12}$.

# %% tags=["hide-input"]
assert torch.allclose(w, w_segments, atol=1e-12, rtol=0)
assert np.allclose(w, Mn @ slsqp.x, rtol=0, atol=1e-6)
assert (M.T @ w >= w @ w - 1e-12).all() and w.norm() > 0.9
used = (result.weights > 1e-9).nonzero().flatten() + 1
print(f"✓ w = ({w[0]:.3f}, {w[1]:.3f}), made of gradients", used.tolist())

# %% [markdown]
# %% [markdown]
# ## Is it really the steepest?
#
# We need a $\phi$ that has these gradients and is not simply linear: on a linear one every difference quotient is exact, and tests nothing. Let the adversary choose among five perturbations, $\mathcal{S} = \{1, \dots, 5\}$, with
# $g(\theta, \delta) = \sin\langle g_\delta, \theta\rangle + c_\delta\lVert\theta\rVert^2$. At $\theta = 0$ all five tie at the value $0$.

# %%
c = torch.tensor([0.3, -0.2, 0.1, 0.4, -0.1])


def losses(θ):
    """The value of each of the five perturbations."""
    return torch.sin(M.T @ θ) + c * (θ @ θ)


def φ(θ):
    """The robust loss: the largest of the five."""
    return losses(θ).max()


# %%
θ = torch.zeros(2)
angles = torch.arange(7200) * 2 * pi / 7200
D = (torch.stack([angles.cos(), angles.sin()], 1) @ M).amax(1)  # all slopes

# %% [markdown]
# (check-04-2)=
# **Check 04.2** *(Theorem 2 in the plane, by four roads).* Autograd finds the five gradients. The slope $-\lVert w\rVert$ of the theorem, the maximum {eq}`eq-04-slope` along $\gamma^\star$, and the
# least slope over $7\,200$ directions agree: the first two to $10^{-12}$, the grid to its resolution. The difference quotient of $\phi$ along $\gamma^\star$ (step $10^{-6}$) agrees to $10^{-5}$.

# %%
J = torch.autograd.functional.jacobian(losses, θ)  # one gradient a row
assert torch.allclose(J, M.T, atol=1e-12, rtol=0)
assert abs(directional_derivative(M.T, γ) + w.norm()) < 1e-12
assert abs(result.slope + w.norm()) < 1e-12
assert -1e-12 <= D.min() + w.norm() < M.norm(dim=0).max() * pi / 7200
assert abs(one_sided(φ, θ, γ, t=1e-6) + w.norm()) < 1e-5
print(f"✓ slope {result.slope:.4f}; least of {len(D)} directions {D.min():.4f}")

# %% [markdown]
# {numref}`fig-04-angles` draws the slope for every direction. Against two of the five single gradients the way leads uphill, as in {ref}`chapter 3 <chapter-03>`; against the other three it descends, but not as steeply as along $\gamma^\star$.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-04-angles", "caption": "The slope of $\\phi$ in every direction: lowest along $\\gamma^\\star$, but $-g_1$ and $-g_2$ lead uphill."}, "image": {"alt": "Slope against the angle of the direction. A thick black curve, the upper envelope of five thin grey cosine curves, falls below zero in one interval, shaded blue. Its lowest point, marked with a blue triangle, is the steepest descent direction at slope minus 0.97. Orange circles mark minus each gradient: three inside the shaded interval, two above zero."}}
fig, ax = plt.subplots(figsize=(6.4, 4.2))
grid = np.linspace(90, 390, 1201)
directions = np.stack([np.cos(np.radians(grid)), np.sin(np.radians(grid))])
each = Mn.T @ directions
envelope = each.max(0)
ax.axhline(0, color="black", linewidth=0.8)
ax.plot(grid, each.T, color="#bbbbbb", linewidth=1)
ax.plot(grid, envelope, color="black", linewidth=3)
ax.fill_between(grid, envelope, 0, where=envelope < 0, color="#0072B2", alpha=0.25)
place = {0: (10, -6), 1: (-36, -6), 2: (-38, -16), 3: (8, -16), 4: (-42, 3)}
for i in range(5):
    unit = -Mn[:, i] / np.linalg.norm(Mn[:, i])
    angle, slope = np.degrees(np.arctan2(unit[1], unit[0])) % 360, (Mn.T @ unit).max()
    ax.plot(angle, slope, "o", color="#D55E00", markersize=9, markeredgecolor="white", zorder=4)
    ax.annotate(f"$-g_{i + 1}$", (angle, slope), xytext=place[i], textcoords="offset points", color="#D55E00", fontsize=13)
angle = np.degrees(np.arctan2(γn[1], γn[0])) % 360
ax.plot(angle, -np.linalg.norm(wn), "^", color="#0072B2", markersize=12, markeredgecolor="white", zorder=5)
ax.annotate("γ*", (angle, -np.linalg.norm(wn)), xytext=(-7, -22), textcoords="offset points", color="#0072B2", fontsize=17)
ax.annotate(r"$D(\gamma)$", (128, np.interp(128, grid, envelope)), xytext=(8, 4), textcoords="offset points", fontsize=14)
ax.set(xlabel="angle of the direction γ (degrees)", ylabel="slope", ylim=(-1.7, 2.8), xlim=(90, 390), xticks=range(90, 391, 60))
plt.show()

# %% [markdown]
# In the plane a grid of angles is enough; in forty dimensions it is hopeless, and the theorem earns its keep. There we ask a solver that knows nothing of hulls. It gets {eq}`eq-04-problem`
# with the ball for the sphere: minimise $\tau$ over $(\gamma, \tau)$ subject to $\langle\gamma, g_i\rangle \le \tau$ and $\lVert\gamma\rVert^2 \le 1$.

# %%
d, m, rng = 40, 8, torch.Generator().manual_seed(4)
wide = torch.randn(d, m, generator=rng) + torch.randn(d, 1, generator=rng)
wide = torch.linspace(0.5, 2, m) * wide  # short gradients and long ones
A = wide.numpy()

# %%
start = -A.mean(1) / np.linalg.norm(A.mean(1))
I, ones = np.eye(d + 1), np.ones(m)
below = {
    "fun": lambda z: z[-1] - z[:-1] @ A,
    "jac": lambda z: np.c_[-A.T, ones],
}
ball = {
    "fun": lambda z: 1 - z[:-1] @ z[:-1],
    "jac": lambda z: np.append(-2 * z[:-1], 0),
}
epigraph = minimize(  # z = (γ, τ)
    lambda z: z[-1], np.append(start, (start @ A).max()), jac=lambda z: I[-1],
    constraints=[{"type": "ineq"} | below, {"type": "ineq"} | ball],
    method="SLSQP", tol=1e-12, options={"maxiter": 1000},
)  # fmt: skip

# %% [markdown]
# (check-04-3)=
# **Check 04.3** *(Theorem 2 in forty dimensions).* The solver's least slope and its direction agree with the theorem's $-\lVert w\rVert$ and $\gamma^\star$ to $10^{-6}$ and $10^{-4}$. $20\,000$ directions around $\gamma^\star$, at each of four distances, keep the bound of the
# proof, $D(\gamma) \ge -\lVert w\rVert\cos\omega$ with $\omega$ the angle between $\gamma$ and $\gamma^\star$; those that lean away at right angles to all gradients attain it. Both to $10^{-9}$.

# %% tags=["hide-input"]
best = steepest_descent(wide.T)
norm = (wide @ best.weights).norm()  # of w
assert abs(best.slope + norm) < 1e-9 and abs(epigraph.x[-1] + norm) < 1e-6
assert np.allclose(epigraph.x[:-1], best.direction, rtol=0, atol=1e-4)
lean = torch.randn(20_000, d, generator=rng)
Q = torch.linalg.qr(wide).Q  # a basis of the gradients' span
aside = lean - lean @ Q @ Q.T
for distance in (0.01, 0.1, 1.0, 10.0):
    for toward, attained in ((lean, False), (aside, True)):
        tries = best.direction + distance * toward / toward.norm(dim=1, keepdim=True)
        tries = tries / tries.norm(dim=1, keepdim=True)
        spare = (tries @ wide).amax(1) + norm * (tries @ best.direction)
        assert spare.min() > -1e-9 and (spare.max() < 1e-9) == attained
print(f"✓ slope: theorem {best.slope:.4f}, a general solver {epigraph.x[-1]:.4f}")

# %% [markdown]
# ## What the direction promises
#
# :::{admonition} Source's claim (Latorre et al. 2023, section 4, after Theorem 3)
# :class: claim
#
# Even if it cannot be certified, $\gamma^\star$ is the best choice for a given set of adversarial examples, as it improves the loss on all of them.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# True to first order, if $0$ is not in the hull: $\langle\gamma^\star, g_i\rangle \le -\lVert w\rVert < 0$ for *all* $i$, and no unit vector guarantees more. For a single one of them
# $-g_i/\lVert g_i\rVert$ is better, as a rule, and "best" treats all losses as tied.
# :::
#
# (check-04-4)=
# **Check 04.4** *(the smallest decrease is the largest possible, and is shared).* Along $\gamma^\star$ all eight losses fall at least at the rate $\lVert w\rVert$, those with positive weight at exactly that rate
# (to $10^{-9}$). Each single direction $-g_i/\lVert g_i\rVert$ is better for its own loss, and worse for the worst one. For $m = 1$ the two directions are the same.

# %% tags=["hide-input"]
rates = best.direction @ wide
positive = best.weights > 1e-9
assert (rates <= 1e-9 - norm).all() and norm > 0.1
assert torch.allclose(rates[positive], -norm, atol=1e-9, rtol=0)
assert not positive.all()
print(f"✓ least decrease {norm:.3f}, shared by {int(positive.sum())} of 8 losses")
for g in wide.T:
    single = steepest_descent(g[None])
    assert torch.allclose(single.direction, -g / g.norm())
    assert single.slope < best.direction @ g - 1e-3
    assert directional_derivative(wide.T, single.direction) > best.slope + 0.1

# %% [markdown]
# ## The ball and the sphere
#
# :::{admonition} Source's claim (Latorre et al. 2023, appendix C, equation 16)
# :class: claim
#
# Where $\theta$ is not a local optimum, the sphere $\lVert\gamma\rVert = 1$ can be relaxed to the ball $\lVert\gamma\rVert \le 1$: solutions and least value stay the same, and that value is negative.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# It holds exactly if $0 \notin K$. Otherwise the ball's solution $\gamma = 0$ is not on the sphere, and the sphere's value is zero or even positive: it measures how deep $0$ lies inside the hull.
# :::
#
# ::::{prf:theorem} Signed distance
# :label: thm-04-sphere
#
# Let $v = \min_{\lVert\gamma\rVert = 1}D(\gamma)$. If $0 \notin K$, then $v = -\mathrm{dist}(0, K)$. If $0 \in K$, then $v = \mathrm{dist}(0, \partial K)$, the distance to the
# boundary. The least value over the ball is $\min(v, 0)$. Hence the two problems have the same value if and only if $0$ is not in the interior of $K$, and the same solutions if and only if $0 \notin K$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-04-sphere`
#
# ::::{prf:proof}
# The first statement is {prf:ref}`thm-04-steepest`, with $\lVert w\rVert = \mathrm{dist}(0, K)$.
#
# For the second let $B_r$ be the closed ball of radius $r \ge 0$ around $0$. We claim that $B_r \subset K$ if and only if $D(\gamma) \ge r$ for all unit $\gamma$. If $B_r \subset K$, then $r\gamma \in K$, so
# $D(\gamma) \ge \langle\gamma, r\gamma\rangle = r$. If some $z \in B_r$ is not in $K$, let $p$ be the nearest point of $K$ to $z$ and $\gamma = (z - p)/\lVert z - p\rVert$. By {prf:ref}`thm-04-projection`, used for $z - K$,
# $D(\gamma) = \langle\gamma, p\rangle < \langle\gamma, z\rangle \le r$. So $v$ is the largest $r$ with $B_r \subset K$, and that is $\mathrm{dist}(0, \partial K)$.
#
# For the ball, $D(s\gamma) = s\,D(\gamma)$ gives the value $\min_{0 \le s \le 1} s\,v = \min(v, 0)$. If $v < 0$, only $s = 1$ is optimal, so the solutions are the same; if $v \ge 0$ (that is, $0 \in K$), the ball has the solution $\gamma = 0$, which is not on the sphere.
# ::::
# :::::
#
# We slide a triangle with inscribed radius $\frac12$ past the origin: $K_s$ has its centre at $(0, s)$, so that $0$ is its centre at $s = 0$, and outside for $s < -1$ or $s > \frac12$.

# %%
corners = torch.tensor([[0.0, 1.0], [-sqrt(3) / 2, -0.5], [sqrt(3) / 2, -0.5]])
circle = torch.stack([angles.cos(), angles.sin()])


def sphere_value(gradients):
    """Least slope over the unit circle, by brute force."""
    return (gradients @ circle).amax(0).min()


# %%
def signed_distance(s):
    """Minus the distance of 0 from the triangle at s; inside, the depth."""
    return 1 + s if s < -1 else min(0.5 + s / 2, 0.5 - s)


# %% [markdown]
# (check-04-5)=
# **Check 04.5** *(sphere and ball).* For 61 positions of the triangle the brute-force value over the sphere is the signed distance, to $10^{-12}$ (the best directions are on the grid), and the value over the ball, which is what
# `steepest_descent` returns as its slope, is the smaller of that and $0$, to $10^{-9}$. At the centre the sphere's least slope is $+\frac12$, taken in three directions.

# %% tags=["hide-input"]
shifts = torch.linspace(-1.5, 1.5, 61).tolist()
for s in shifts:
    triangle = corners + torch.tensor([0.0, s])
    assert abs(sphere_value(triangle) - signed_distance(s)) < 1e-12
    on_ball = steepest_descent(triangle).slope
    assert abs(on_ball - min(signed_distance(s), 0)) < 1e-9
assert ((corners @ circle).amax(0) < 0.5 + 1e-6).sum() == 3
at_centre = sphere_value(corners)
print(f"✓ {len(shifts)} positions; at the centre: sphere +{at_centre:.2f}, ball 0")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-04-sphere", "caption": "Once $0$ is inside the hull, the least slope over the sphere is positive; the ball's is $0$."}, "image": {"alt": "Left: three copies of a triangle along a vertical line; one far above the origin, one whose lower edge touches it, one around it. Right: least slope against the triangle's position. Outside the hull the sphere's black curve and the ball's blue dashed curve coincide below zero; inside, the black one rises to one half while the blue one stays at zero."}}
fig, (ax, bx) = plt.subplots(1, 2, figsize=(6.4, 3.6), width_ratios=[1, 1.35])
for s, colour in ((0.0, "#009E73"), (0.5, "#E69F00"), (1.25, "#CC79A7")):
    ax.fill(*(corners.numpy() + [0, s]).T, facecolor="none", edgecolor=colour, linewidth=2.5, zorder=3)
    ax.annotate(f"$s={s:g}$", (0.87, s - 0.5), xytext=(5, 0), textcoords="offset points", color=colour)
    bx.plot(s, signed_distance(s), "o", color=colour, markersize=9, zorder=5)
ax.plot(0, 0, "o", color="black", markersize=7, zorder=4)
ax.annotate("0", (0, 0), xytext=(6, 3), textcoords="offset points", fontsize=13)
ax.set(aspect="equal", xlim=(-1.1, 2.2), ylim=(-0.75, 2.5), xticks=[-1, 0, 1], yticks=[0, 1, 2])
values = np.array([signed_distance(s) for s in shifts])
bx.plot(shifts, values, color="black", linewidth=3)
bx.plot(shifts, np.minimum(values, 0), "--", color="#0072B2")
bx.axvspan(-1, 0.5, color="#f2f2f2", zorder=0)
bx.annotate("sphere", (-0.68, 0.26), ha="right", fontsize=13)
bx.annotate("ball", (-0.3, -0.14), color="#0072B2", fontsize=13)
bx.annotate("0 in the hull", (-0.25, -0.9), ha="center", color="#555555")
bx.set(xlabel="position $s$ of the triangle", ylabel="least slope", ylim=(-1.1, 0.65))
plt.show()

# %% [markdown]
# {numref}`fig-04-sphere` shows both values. A program that insists on a unit vector asks the sphere's question, and inside the hull every answer walks up. The ball's answer there is $\gamma = 0$: stay.
#
# ## The weights are not unique, the direction is
#
# The theorem speaks of *an* $\alpha^\star$ and *the* $\gamma^\star$. Four gradients on a vertical line show why: $(1, -1)$, $(1, 1)$, and $(1, -2)$, $(1, 3)$. Weights $\frac12, \frac12$ on the first pair, weights $\frac35, \frac25$ on the second pair, and every mixture of the two
# give the same $w = (1, 0)$. (The weights are unique if the $g_i$ with $\langle w, g_i\rangle = \lVert w\rVert^2$ are affinely independent.) So never compare solvers by their weights.
#
# (check-04-6)=
# **Check 04.6** *(many $\alpha^\star$, one $M\alpha^\star$).* A whole segment of weights is optimal: each meets {prf:ref}`thm-04-projection`. Three methods return the same point to $10^{-5}$, also when every gradient is given three times.

# %% tags=["hide-input"]
line = torch.tensor([[1.0, 1.0, 1.0, 1.0], [-2.0, -1.0, 1.0, 3.0]])
for s in (0.0, 0.3, 1.0):
    α = torch.tensor([0.6 * s, (1 - s) / 2, (1 - s) / 2, 0.4 * s])
    assert (line.T @ (line @ α) >= (line @ α).square().sum() - 1e-12).all()
for method in ("exact", "apg", "frank-wolfe"):
    for gradients in (line.T, line.T.repeat(3, 1)):
        point = min_norm_point(gram_matrix(gradients), method=method, tol=1e-12)
        found = point.weights @ gradients
        assert torch.allclose(found, torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0)

# %% [markdown]
# ## A sign in Algorithm 1
#
# :::{admonition} Source's claim (Latorre et al. 2023, Algorithm 1, lines 8 and 9)
# :class: claim
#
# Having found $\alpha^\star$, set $\gamma^\star \leftarrow M\alpha^\star/\lVert M\alpha^\star\rVert$ and $\theta_{t+1} \leftarrow \theta_t + \beta_t\gamma^\star$.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# Line 8 has lost the minus sign of Theorem 2. As printed the algorithm *ascends*: $\langle w/\lVert w\rVert, g_i\rangle \ge \lVert w\rVert$ for every $i$. {cite:t}`cho2023` prints the sign correctly. The theorem is not touched.
# :::
#
# We run both versions on the source's counterexample 2: $g(\theta, \delta) = \delta\langle\theta, u\rangle + (1 - \delta)\langle\theta, v\rangle + \delta(\delta - 1)$ on $[0, 1]$, with $u$ and $v$ at $120°$. It is convex in $\delta$, so the maximum is at an end:
# $\phi(\theta) = \max(\langle\theta, u\rangle, \langle\theta, v\rangle)$.

# %%
V = torch.tensor([[0.5, 0.5], [sqrt(3) / 2, -sqrt(3) / 2]])  # columns u and v


def run(sign, β=0.1, steps=20, single=False, V=V):
    """Losses along Algorithm 1, line 8 with this sign; or one maximiser."""
    θ, values = torch.zeros(2), []  # we start at the kink
    for _ in range(steps + 1):
        ends = θ @ V
        values.append(ends.max())
        ties = ends >= ends.max() - 1e-9
        M_t = V[:, ties][:, -1:] if single else V[:, ties]  # line 6
        α = min_norm_point(gram_matrix(M_t.T)).weights  # line 7
        θ = θ + β * sign * (M_t @ α) / (M_t @ α).norm()  # lines 8 and 9
    return torch.stack(values)


# %% [markdown]
# (check-04-7)=
# **Check 04.7** *(the printed sign ascends, Theorem 2's descends).* From the kink, with $\beta = 0.1$: as printed every step raises $\phi$, corrected every step lowers it, both by $\beta\lVert u + v\rVert/2$ to $10^{-9}$.
# With one maximiser only, the first step goes along $-v$, where the slope at the kink is $-\langle u, v\rangle > 0$, and it climbs.
# Two such steps together descend $\cos\frac\omega2$ times as far as two corrected ones, where $\omega$ is the angle between $u$ and $v$: half as far at $120°$ (also run at $100°$ and $160°$).

# %%
printed, corrected, single = run(+1), run(-1), run(-1, single=True)
u, v = V.T
slope = (u + v).norm() / 2
assert torch.allclose(printed.diff(), 0.1 * slope, atol=1e-9, rtol=0)
assert torch.allclose(corrected.diff(), -0.1 * slope, atol=1e-9, rtol=0)
assert abs(steepest_descent(V.T).slope + slope) < 1e-12 and slope > 0.4
assert abs(directional_derivative(V.T, -v) + u @ v) < 1e-12
assert single[1] > single[0] + 0.04
assert torch.allclose(single[::2], corrected[::2] / 2, atol=1e-9, rtol=0)

# %%
for degrees in (100, 120, 160):
    half = torch.tensor(degrees * pi / 360)
    W = torch.stack([half.cos() * torch.ones(2), half.sin() * torch.tensor([1, -1])])
    one, both = run(-1, single=True, V=W)[::2], run(-1, V=W)[::2]
    assert torch.allclose(one, both * half.cos(), atol=1e-9, rtol=0)
    print(f"✓ {degrees}°: one gradient descends {one[-1] / both[-1]:.2f} times as far")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-04-sign", "caption": "Algorithm 1 as printed climbs at every step; with the minus sign of Theorem 2 it descends."}, "image": {"alt": "Robust loss against step. A blue dashed line, Algorithm 1 as printed, rises steadily. A solid blue line with triangles, with the minus sign, falls steadily. An orange line with circles, one maximiser at a time, goes up at the first step, then down and up in a zigzag that falls more slowly."}}
fig, ax = plt.subplots(figsize=(6.4, 3.8))
steps = np.arange(len(printed))
plots.line(ax, steps, printed, "DDi", "as printed", linestyle="--", marker="")
plots.line(ax, steps, corrected, "DDi", "minus sign", markevery=2)
plots.line(ax, steps, single, "PGD", "one gradient", markevery=1, markersize=4)
ax.axhline(0, color="black", linewidth=0.8, zorder=0)
ax.set(xlabel="step", ylabel="robust loss φ", xlim=(0, 20), xticks=range(0, 21, 5))
plt.show()

# %% [markdown]
# {numref}`fig-04-sign` also shows training with one gradient, in steps of the same length. It climbs at every other step, and still descends on the whole, at $\cos\frac\omega2$ of the rate. To climb now and then is not to fail.
#
# ## At every scale
#
# Gradients come in all sizes. Squaring, in the Gram matrix, is the danger: $(10^{-200})^2$ underflows and $(10^{200})^2$ overflows. `steepest_descent` divides by the largest entry first.
#
# (check-04-8)=
# **Check 04.8** *(scales, copies, zero).* Multiplying all gradients by $10^{\pm15}$ or $10^{\pm200}$ changes no direction (to $10^{-12}$) and scales the slope (to a relative $10^{-12}$), though at $10^{\pm200}$ the square of every single entry is $0$ or $\infty$.
# Copies change nothing; a zero gradient makes the point stationary, and nothing is NaN. One limit remains, explained below.

# %% tags=["hide-input"]
for scale in (1e-200, 1e-15, 1e15, 1e200):
    scaled = steepest_descent(scale * M.T)
    assert torch.allclose(scaled.direction, γ, atol=1e-12, rtol=0)
    assert abs(scaled.slope / (scale * result.slope) - 1) < 1e-12
assert (1e-200 * M).square().max() == 0  # so a Gram matrix would be useless
assert (1e200 * M).square().isinf().all()
copies = steepest_descent(M.T.repeat(3, 1))
assert torch.allclose(copies.direction, γ, atol=1e-9, rtol=0)
with_zero = steepest_descent(torch.cat([M.T, torch.zeros(1, 2)]))
assert with_zero.stationary and with_zero.slope == 0
print("✓ same direction at all four scales, tripled, and not with a zero gradient")
assert (with_zero.direction == 0).all()
for large, verdict in ((1e6, False), (1e9, True)):
    pair = torch.diag(torch.tensor([large, 1.0]))
    assert steepest_descent(pair).stationary == verdict

# %% [markdown]
# The limit: "is $0$ in the hull?" has a sharp answer on paper only. The function calls a point stationary if $\lVert w\rVert \le 10^{-7}\max_i\lVert g_i\rVert$ (its argument `tol`). Gradients $(10^9, 0)$ and $(0, 1)$ do have a descent direction,
# with slope about $-1$; relative to the first that is $10^{-9}$, and the function says stationary; with $10^6$ in place of $10^9$ it does not. We return to badly scaled gradients in {ref}`chapter 5 <chapter-05>`.
#
# ## Breaking it
#
# ### When $0$ is in the hull
#
# :::{admonition} Source's claim (Latorre et al. 2023, Theorem 2; appendix C; section 3, item i)
# :class: claim
#
# If $\theta$ is not a local minimiser, a descent direction exists and {eq}`eq-04-problem` is negative; the denominator $\lVert M\alpha^\star\rVert$ is not zero. ({cite:t}`cho2023` states Theorem 2 with the same hypothesis.)
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# At a local minimiser $D \ge 0$, so $0 \in K$. The converse is false: slopes see only the first order. Three examples at $\theta = 0$, none a local minimiser: $\theta_1^3$; $-\lVert\theta\rVert^2$, even a local *maximum*; and
# $\max(\theta_1, -\theta_1) - \theta_2^2$, with two maximisers and a true kink. In each $M\alpha^\star = 0$, and $\gamma^\star$ is $0/0$. Theorem 2 holds with the hypothesis $0 \notin K$ instead.
# :::

# %%
examples = {  # the values of all perturbations, and a way along which φ falls
    "θ₁³": (lambda θ: torch.stack([θ[0] ** 3]), [-1.0, 0.0]),
    "-|θ|²": (lambda θ: torch.stack([-(θ @ θ)]), [0.6, 0.8]),
    "|θ₁| - θ₂²": (
        lambda θ: torch.stack([θ[0], -θ[0]]) - θ[1] ** 2,
        [0.0, 1.0],
    ),
}

# %% [markdown]
# (check-04-9)=
# **Check 04.9** *("not a local minimiser" is not enough).* In each example $\phi$ falls below $\phi(0)$ at distances $10^{-1}, \dots, 10^{-6}$ from $0$; no direction of the grid has a negative slope; the formula divides by $0$ (to $10^{-12}$), and `steepest_descent` says stationary.

# %%
zero = torch.zeros(2)
for name, (values, way) in examples.items():
    assert values(zero).max() == 0
    for k in range(1, 7):
        assert values(10.0**-k * torch.tensor(way)).max() < 0
    J = torch.autograd.functional.jacobian(values, zero)  # one gradient a row
    assert sphere_value(J) >= 0
    point = min_norm_point(gram_matrix(J)).weights @ J
    assert point.norm() < 1e-12  # the formula divides by this
    assert steepest_descent(J).stationary
    print(f"{name}: not a local minimiser, and no descent direction")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-04-fineprint", "caption": "$|\\theta_1| - \\theta_2^2$ at $0$: no direction has a negative slope, yet it is no local minimiser."}, "image": {"alt": "Left: level lines of the function around the origin; above and below the origin lie blue regions where the function is lower. Right: the function along two directions from the origin. Along the first coordinate it is a V; along the second a flat-topped parabola that falls, with slope zero at the origin."}}
fig, (ax, bx) = plt.subplots(1, 2, figsize=(6.4, 3.3))
t = np.linspace(-1, 1, 201)
X, Y = np.meshgrid(t, t)
Z = np.abs(X) - Y**2
ax.contourf(X, Y, Z, levels=np.linspace(-1, 1, 21), cmap="RdBu_r", alpha=0.75)
ax.contour(X, Y, Z, levels=[0], colors="black", linewidths=1.5)
ax.plot(0, 0, "o", color="black", markersize=7)
ax.text(0, 0.72, "lower", ha="center", fontsize=12)
ax.text(0, -0.8, "lower", ha="center", fontsize=12)
ax.text(-0.62, 0, "higher", ha="center", va="center", fontsize=12)
ax.text(0.62, 0, "higher", ha="center", va="center", fontsize=12)
ax.grid(False)
ax.set(aspect="equal", xlabel=r"$\theta_1$", ylabel=r"$\theta_2$", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
bx.plot(t, np.abs(t), color="#D55E00", linestyle="--")
bx.plot(t, -(t**2), color="#0072B2")
bx.plot(0, 0, "o", color="black", markersize=7)
bx.annotate(r"along $\theta_1$", (0, 0.8), ha="center", color="#D55E00")
bx.annotate(r"along $\theta_2$", (0, -0.75), ha="center", color="#0072B2")
bx.set(xlabel="coordinate along the line", ylabel="φ", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
plt.show()

# %% [markdown]
# {numref}`fig-04-fineprint` draws the third example. For the existence of a descent direction the condition $0 \notin K$, on the other hand, is exact: part 3 of {prf:ref}`thm-04-steepest` is an equivalence, a *theorem of the alternative*. Either the origin is a convex combination of the gradients,
# or some direction makes an obtuse angle with all of them; never both, never neither. Each side is a linear programme.
#
# (check-04-10)=
# **Check 04.10** *(a descent direction exists if and only if $0 \notin K$).* For 100 random sets of six gradients in $\mathbb{R}^3$, a linear programme that looks for weights with $M\alpha = 0$, one that looks for a direction of
# negative slope, and `steepest_descent` give the same verdict. (By symmetry about half of them have a direction; both verdicts occur more than 20 times.)

# %% tags=["hide-input"]
verdicts, one = [], np.ones(6)
box = [(-1, 1)] * 3 + [(None, None)]  # for (γ, τ)
for _ in range(100):
    Q = torch.randn(3, 6, generator=rng)
    below = np.c_[Q.T, -one]
    hull = linprog(0 * one, A_eq=np.vstack([Q, one]), b_eq=[0, 0, 0, 1])
    least = linprog([0, 0, 0, 1], A_ub=below, b_ub=0 * one, bounds=box).fun
    stationary = steepest_descent(Q.T).stationary
    verdicts.append((hull.status == 0, least > -1e-7, stationary))
assert all(len(set(v)) == 1 for v in verdicts)
inside = sum(v[0] for v in verdicts)
assert 20 < inside < 80
print(f"✓ 0 in the hull of {inside} of 100 sets; three verdicts agree on each")

# %% [markdown]
# For a convex $\phi$ the gap closes, and $\lVert w\rVert$ becomes a certificate of optimality.
#
# ::::{prf:theorem} The convex case
# :label: thm-04-convex
#
# If $\phi$ is convex, then $\phi(\theta) - \phi(\theta') \le \lVert w\rVert\,\lVert\theta - \theta'\rVert$ for all $\theta'$, where $w$ is the point of least norm at $\theta$. In particular $0 \in K$ if and only if $\theta$ is a global minimiser.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-04-convex`
#
# ::::{prf:proof}
# For a convex function the quotient $(\phi(\theta + t\gamma) - \phi(\theta))/t$ grows with $t$, so with $\gamma = \theta' - \theta$ and $t = 1$ it is at least its limit:
# $\phi(\theta') - \phi(\theta) \ge D(\theta' - \theta) \ge -\lVert w\rVert\,\lVert\theta' - \theta\rVert$, by part 1 of {prf:ref}`thm-04-steepest`. If $0 \in K$, then $w = 0$ and the right-hand side is $0$. If $0 \notin K$, there is a descent direction,
# so $\theta$ is no minimiser.
# ::::
# :::::
#
# (check-04-11)=
# **Check 04.11** *(for a convex $\phi$ nothing is lost).* Take $\phi(\theta) = \max_i\langle\theta, g_i\rangle + \frac12\lVert\theta\rVert^2$, so that $\phi(0) = 0$. For the three corners of the triangle, $0 \in K$, and $0$ is a minimiser: none of $10\,000$ random points is lower.
# For the five gradients of {numref}`fig-04-hull` the bound holds at all of them to $10^{-12}$, and almost with equality for one short step: along $\gamma^\star$ the quotient is within $10^{-3}$ of $-\lVert w\rVert$.

# %% tags=["hide-input"]
points = torch.randn(10_000, 2, generator=rng)
points = points * torch.rand(10_000, 1, generator=rng)
for columns, norm in ((corners.T, 0.0), (M, w.norm())):
    rise = (points @ columns).amax(1) + points.square().sum(1) / 2
    assert (rise >= -norm * points.norm(dim=1) - 1e-12).all()
short = 1e-3 * γ
assert steepest_descent(corners).stationary
assert abs(((short @ M).amax() + short @ short / 2) / 1e-3 + w.norm()) < 1e-3

# %% [markdown]
# ### When a maximiser is missing
#
# Theorem 2 assumes that *all* maximisers are known. Danskin's maximum {eq}`eq-04-slope` over some of them only can be too small, never too large. So the slope that a partial set promises can be too optimistic, and the direction may even ascend. We try every non-empty subset of the five.

# %%
subsets = [list(s) for k in range(1, 6) for s in combinations(range(5), k)]
partial = [steepest_descent(M[:, s].T) for s in subsets]
promised = torch.stack([p.slope for p in partial])
true = torch.stack([directional_derivative(M.T, p.direction) for p in partial])

# %% [markdown]
# (check-04-12)=
# **Check 04.12** *(a partial set promises too much).* For all 31 subsets the promise is at most the true slope, and the true slope at least $-\lVert w\rVert$ (to $10^{-12}$). Promise and truth agree exactly for the subsets that hold both $g_1$ and $g_2$, the ends of the edge on which $w$ lies.
# Some of the others ascend.

# %%
assert (promised <= true + 1e-12).all() and (true >= -w.norm() - 1e-12).all()
whole = torch.tensor([{0, 1} <= set(s) for s in subsets])
assert torch.allclose(true[whole], promised[whole], atol=1e-9, rtol=0)
assert (true[~whole] > promised[~whole] + 0.1).all()
assert (promised < 0).all() and (true > 0.1).sum() == (true > 0).sum() == 6
print(f"✓ of {len(true)} subsets {whole.sum()} are best, {(true > 0).sum()} ascend")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-04-missing", "caption": "Every subset of the maximisers promises descent; six of the 31 ascend."}, "image": {"alt": "Scatter plot of true slope against promised slope for 31 subsets of five maximisers. All points lie on or above the diagonal. Eight subsets coincide at the point where the diagonal ends, at slope minus 0.97, marked by a blue triangle. Orange circles above zero are subsets whose direction ascends; grey ones below zero descend. Numbers such as ×2 tell how many subsets coincide."}}
fig, ax = plt.subplots(figsize=(6.4, 4.4))
ax.axhspan(0, 1.6, color="#D55E00", alpha=0.08, zorder=0)
ax.axhline(0, color="black", linewidth=0.8)
ax.plot([-1.45, -0.8], [-1.45, -0.8], "--", color="black", linewidth=1)
ax.annotate("promise kept", (-1.3, -1.3), xytext=(-108, -4), textcoords="offset points")
pairs = torch.stack([promised, true], 1)
for (x, y), count in zip(*np.unique(pairs.numpy().round(6), axis=0, return_counts=True), strict=True):
    colour = "#D55E00" if y > 0 else "#777777"
    if y > -0.95:
        ax.plot(x, y, "o", color=colour, markersize=8, markeredgecolor="white")
        if count > 1:
            ax.annotate(f"×{count}", (x, y), xytext=(7, -13 if -0.52 < y < -0.48 else 0), textcoords="offset points", color=colour)
ax.plot(promised[whole], true[whole], "^", color="#0072B2", markersize=12, markeredgecolor="white")
ax.annotate("with $g_1$ and $g_2$ (×8)", (-0.967, -0.967), xytext=(-4, 14), textcoords="offset points", ha="right", color="#0072B2")
ax.text(-2.7, 1.2, "ascends", color="#D55E00", fontsize=13)
ax.text(-2.7, -0.2, "descends", color="#777777", fontsize=13)
ax.set(xlabel="promised slope", ylabel="true slope", xlim=(-2.8, -0.75), ylim=(-1.5, 1.5))
plt.show()

# %% [markdown]
# {numref}`fig-04-missing` is a warning for everything that follows: in training, the maximisers come from a few restarts of an attack. When a partial set still certifies descent is the question of {ref}`chapter 6 <chapter-06>`. For a batch the columns of Algorithm 1 are almost never all the maximisers: see {ref}`chapter 7 <chapter-07>`.
#
# ## Summary
#
# - The steepest descent direction is $-w/\lVert w\rVert$ with $w$ the shortest vector in the hull of the maximisers' gradients; its slope is $-\lVert w\rVert$.
# - The hypothesis that it needs is $0 \notin K$. "Not a local minimiser" is not enough; for convex $\phi$ the two agree.
# - Sphere and ball give the same answer exactly if $0 \notin K$; inside the hull the least slope on the sphere is positive or zero, and we should stay.
# - $M\alpha^\star$ is unique, $\alpha^\star$ need not be.
# - Algorithm 1, line 8, needs a minus sign.
# - With a maximiser missing, the promised slope can be too good, and the direction may ascend.

# %% [markdown]
# ## Exercises
#
# ::::{exercise} Two gradients
# :label: ex-04-two
#
# Let $m = 2$. (a) Give $\alpha^\star$ in closed form. (b) For which pairs is $-g_1/\lVert g_1\rVert$ itself the steepest direction? (c) For any $m$: when is $-g_1/\lVert g_1\rVert$ the steepest direction, and how does this compare with the criterion $\langle g_1, g_j\rangle > 0$ for mere descent?
# ::::
#
# ```{solution-start} ex-04-two
# :label: sol-04-two
# :class: dropdown
# ```
#
# (a) With $w = g_1 + s(g_2 - g_1)$ the squared norm is a parabola in $s$, least at $s = \langle g_1, g_1 - g_2\rangle/\lVert g_1 - g_2\rVert^2$. Clip $s$ to $[0, 1]$; then $\alpha^\star = (1 - s, s)$. (If $g_1 = g_2$ any $s$ will do.)
#
# (b) By {prf:ref}`thm-04-projection`, $w = g_1$ if and only if $\langle g_1, g_2\rangle \ge \lVert g_1\rVert^2$: the shadow of $g_2$ on $g_1$ is at least as long as $g_1$. If $g_1 \ne 0$ and $g_2$ is no multiple of $g_1$, this is the only case,
# since the segment then meets the ray through $g_1$ in $g_1$ alone. (If $g_2 = \kappa g_1$ with $\kappa > 0$, both gradients have the same direction, and it is the steepest.)
#
# (c) By part 2 of {prf:ref}`thm-04-steepest` the direction is the steepest if and only if $w = \kappa g_1$ for some $0 < \kappa \le 1$. With $\kappa = 1$ that reads $\langle g_1, g_j\rangle \ge \lVert g_1\rVert^2$ for all $j$, much more than
# $\langle g_1, g_j\rangle > 0$. A $\kappa < 1$ needs a shorter multiple of $g_1$ in the hull, as for $(2, 0)$, $(1, 1)$, $(1, -1)$.

# %%
pairs = torch.randn(200, 2, 3, generator=rng)
steepest_alone = 0
for p, q in pairs:
    two = steepest_descent(torch.stack([p, q]))
    point = two.weights @ torch.stack([p, q])
    assert torch.allclose(point, nearest(p, q), atol=1e-9, rtol=0)
    alone = torch.allclose(two.direction, -p / p.norm(), atol=1e-9, rtol=0)
    assert alone == bool(p @ q >= p @ p)
    steepest_alone += alone
assert 5 < steepest_alone < 60

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} A step without normalisation
# :label: ex-04-prox
#
# Let $t > 0$. Show that $\min_\gamma \{\max_i\langle\gamma, g_i\rangle + \lVert\gamma\rVert^2/(2t)\}$ has the one solution $\gamma = -tw$ and the value $-\frac t2\lVert w\rVert^2$. What does it do where $0 \in K$? Check it with SLSQP for the five gradients and $t = 0.5$.
# ::::
#
# ```{solution-start} ex-04-prox
# :label: sol-04-prox
# :class: dropdown
# ```
#
# By part 1 of {prf:ref}`thm-04-steepest` the objective is at least $-\lVert w\rVert\lVert\gamma\rVert + \lVert\gamma\rVert^2/(2t) \ge -\frac t2\lVert w\rVert^2$, the second step by completing the square, with equality only for $\lVert\gamma\rVert = t\lVert w\rVert$. For $w \ne 0$ equality in the first step needs the direction $-w$, by part 2; so
# $\gamma = -tw$. For $w = 0$ only $\gamma = 0$ is left. This step needs no normalisation and knows no $0/0$: where $0 \in K$ it stays. We build on it in {ref}`chapter 7 <chapter-07>`.

# %%
five = minimize(
    lambda z: z[2] + z[:2] @ z[:2], np.array([0.0, 0.0, 1.0]),
    constraints={"type": "ineq", "fun": lambda z: z[2] - z[:2] @ Mn},
    method="SLSQP", tol=1e-14,
)  # fmt: skip
assert np.allclose(five.x[:2], -0.5 * w, rtol=0, atol=1e-5)
assert abs(five.fun + 0.25 * w @ w) < 1e-6

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} Another norm, another direction
# :label: ex-04-norm
#
# "Steepest" means steepest per unit of length, and we measured length by the Euclidean norm. Measure it by $\lVert\gamma\rVert_\infty \le 1$ instead. Show that the least slope is $-\min_{z \in K}\lVert z\rVert_1$. What is the direction for $m = 1$? Compute the direction for the eight gradients in $\mathbb{R}^{40}$ by a linear programme, and compare.
# ::::
#
# ```{solution-start} ex-04-norm
# :label: sol-04-norm
# :class: dropdown
# ```
#
# The function $\langle\gamma, z\rangle$ is linear in each argument, and both sets are convex and compact. By the minimax theorem $\min_\gamma\max_{z \in K}\langle\gamma, z\rangle = \max_{z \in K}\min_\gamma\langle\gamma, z\rangle$, and the inner minimum is $-\lVert z\rVert_1$, the dual norm.
# For $m = 1$ and $g_1$ without zero entries the direction is $-\mathrm{sign}(g_1)$: the sign step that attacks take, here in $\theta$. The condition for descent is $0 \notin K$ as before, and it does not depend on the norm; the direction does.

# %%
primal = linprog(  # z = (γ, τ)
    I[-1], A_ub=np.c_[A.T, -ones], b_ub=0 * ones,
    bounds=[(-1, 1)] * d + [(None, None)],
)  # fmt: skip
simplex = np.append(ones, np.zeros(d))  # z = (α, bounds on the |Mα|ⱼ)
E = np.eye(d)
dual = linprog(
    1 - simplex, A_ub=np.r_[np.c_[A, -E], np.c_[-A, -E]], b_ub=np.zeros(2 * d),
    A_eq=simplex[None], b_eq=[1],
)  # fmt: skip
assert abs(primal.fun + dual.fun) < 1e-7 and dual.fun > 1
sup, euclid = torch.from_numpy(primal.x[:d]), best.direction
# each is the best by its own measure:
assert (sup @ wide).max() < (euclid / euclid.abs().max() @ wide).max() - 0.1
assert (sup / sup.norm() @ wide).max() > best.slope + 0.01

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} How deep inside
# :label: ex-04-deep
#
# Let the gradients be $\pm a_1 e_1, \dots, \pm a_d e_d$, with positive $a_j$ and the unit vectors $e_j$. Find the least slope over the unit sphere with pencil and paper, from {eq}`eq-04-problem` and from {prf:ref}`thm-04-sphere`. What is it for $a_j = 1$ and large $d$?
# ::::
#
# ::::{solution} ex-04-deep
# :label: sol-04-deep
# :class: dropdown
#
# Here $D(\gamma) = \max_j a_j|\gamma_j|$. Let $D(\gamma) = r$ with $\lVert\gamma\rVert = 1$. Then $|\gamma_j| \le r/a_j$, so $1 = \sum_j\gamma_j^2 \le r^2\sum_j a_j^{-2}$, with equality for $|\gamma_j| = r/a_j$. Hence $v = (\sum_j a_j^{-2})^{-1/2}$.
#
# From the theorem: $0$ is in the interior of $K$, and by symmetry the nearest face lies in $\{z : \sum_j z_j/a_j = 1\}$, at the distance $1/\lVert(1/a_1, \dots, 1/a_d)\rVert$ from $0$. That is the same number. For $a_j = 1$ it is $1/\sqrt d$: in high dimension a point can have no
# descent direction, and yet $\phi$ rises only slowly along some directions.
# ::::
#
# ::::{exercise} Strongly convex
# :label: ex-04-strong
#
# Let $\phi(\theta') \ge \phi(\theta) + D(\theta' - \theta) + \frac\mu2\lVert\theta' - \theta\rVert^2$ for all $\theta'$, with $\mu > 0$. Show that $\phi(\theta) - \min\phi \le \lVert w\rVert^2/(2\mu)$, and find a function that attains it.
# ::::
#
# ::::{solution} ex-04-strong
# :label: sol-04-strong
# :class: dropdown
#
# By part 1 of {prf:ref}`thm-04-steepest`, $\phi(\theta') - \phi(\theta) \ge -\lVert w\rVert r + \frac\mu2r^2$ with $r = \lVert\theta' - \theta\rVert$. The right-hand side is least for $r = \lVert w\rVert/\mu$, where it is $-\lVert w\rVert^2/(2\mu)$.
# It is attained for $\phi(\theta) = \max_i\langle\theta, g_i\rangle + \frac\mu2\lVert\theta\rVert^2$ at $\theta = 0$: that is {ref}`the second exercise <ex-04-prox>` with $t = 1/\mu$.
# ::::
