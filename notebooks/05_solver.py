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
# (chapter-05)=
# # The min-norm solver
#
# :::{admonition} What you will learn
# :class: frame
#
# - how to project onto the simplex with one sort;
# - three methods for the point of least norm of a hull: accelerated projected gradient, Frank–Wolfe, and a finite exact one;
# - a certificate that says how good an *unfinished* answer is, and whether its direction descends;
# - what the Gram matrix saves, and which digits it costs.
#
# **Before you start.** {ref}`Chapter 4 <chapter-04>`: the steepest descent direction is $-w^\star/\lVert w^\star\rVert$, where $w^\star$ is the point of least norm
# of the hull of the gradients. Eigenvalues, and Lagrange multipliers.
#
# **Time and hardware.** One hour to read; under twenty seconds to run on one processor core.
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
from itertools import combinations, count, islice

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.autograd.functional import hessian
from torch.autograd.functional import jacobian as gradient

from ddi import gram_matrix, min_norm_point, plots, project_simplex

plots.use_style()
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## The problem
#
# Given gradients $g_1, \dots, g_m \in \mathbb{R}^d$, the columns of $M$, we look for weights $\alpha$ in the simplex
# $\Delta_m = \{\alpha \ge 0, \sum_i \alpha_i = 1\}$:
#
# ```{math}
# :label: eq-05-problem
#
# \min_{\alpha \in \Delta_m} f(\alpha), \quad f(\alpha) = \tfrac12 \lVert M\alpha\rVert^2 .
# ```
#
# With the *Gram matrix* $G = M^\top M$, whose entries are $G_{ij} = \langle g_i, g_j\rangle$, this is $f(\alpha) = \frac12\alpha^\top G\alpha$.
# We write $w = M\alpha$ for the point of the hull and $r = G\alpha$ for the gradient of $f$; its entries are $r_i = \langle g_i, w\rangle$.
# The minimiser $w^\star = M\alpha^\star$ is unique; $\alpha^\star$ need not be.
# In code, as in `ddi`, the gradients are the *rows* of `g`, so that $w$ is `α @ g`.
#
# Everything below sees only the $m \times m$ matrix $G$: we shall come back to what that saves and what it costs.

# %% [markdown]
# ## Projecting onto the simplex
#
# The accelerated method takes a gradient step, leaves the simplex, and must come back to the nearest point: lower all entries by the same amount $\tau$, cut off what falls below zero, and choose $\tau$ so that the rest sums to 1 ({numref}`fig-05-level`).

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-05-level", "caption": "Projection cuts every entry at one level $\\tau$: the dark parts are the weights, and they sum to 1."}, "image": {"alt": "Six bars of falling height. A dashed horizontal line, the level tau, crosses them. The parts of the three highest bars above the line are dark and carry the weights 0.6, 0.3 and 0.1; the other bars end below the line and get weight zero."}}
v = torch.tensor([1.1, 0.8, 0.6, 0.35, 0.2, -0.25])
α = project_simplex(v)
τ = (v - α)[0].item()
fig, ax = plt.subplots(figsize=(6.4, 3.2))
ax.bar(range(1, 7), v, color="#d5dbe8", width=0.7)
ax.bar(range(1, 7), α, bottom=v - α, color="#332288", width=0.7)
ax.axhline(τ, color="#CC6677", linestyle="--")
ax.axhline(0, color="black", linewidth=0.8)
ax.annotate("level τ", (6.45, τ), xytext=(0, 5), textcoords="offset points", color="#CC6677", ha="right")
for i in range(3):
    ax.annotate(f"{α[i]:.1f}", (i + 1, v[i].item()), xytext=(0, 4), textcoords="offset points", ha="center")
ax.set(xlabel="entry", ylabel="value", ylim=(-0.35, 1.3))
ax.grid(axis="x", visible=False)
ax.set_axisbelow(True)
plt.show()

# %% [markdown]
# Duchi et al. {cite}`duchi2008` find $\tau$ with one sort.
#
# ::::{prf:theorem} Projection onto the simplex
# :label: thm-05-projection
#
# Let $u_1 \ge \dots \ge u_m$ be the entries of $v$ in falling order, and $\tau_j = \frac1j\bigl(\sum_{i \le j} u_i - 1\bigr)$.
# Then the inequality $u_j > \tau_j$ holds exactly for $j = 1, \dots, \rho$ with some $\rho \ge 1$, and the point of $\Delta_m$ nearest to $v$ is
#
# $$
# \Pi(v)_i = \max(v_i - \tau_\rho, 0) .
# $$
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-05-projection`
#
# ::::{prf:proof}
# We minimise $\frac12\lVert a - v\rVert^2$ subject to $a \ge 0$ and $\sum_i a_i = 1$. The problem is strictly convex with linear constraints, so its only solution
# is the point for which multipliers $\tau \in \mathbb{R}$ and $\mu \ge 0$ exist with $a - v + \tau\mathbf{1} - \mu = 0$ and $\mu_i a_i = 0$.
# If $a_i > 0$ then $a_i = v_i - \tau$; if $a_i = 0$ then $v_i - \tau = -\mu_i \le 0$. Together, $a_i = \max(v_i - \tau, 0)$.
#
# It remains to find $\tau$ with $h(\tau) = 1$, where $h(\tau) = \sum_i \max(v_i - \tau, 0)$. This function is continuous, falls strictly until it reaches 0, and takes every
# positive value, so $\tau$ is unique.
# Since $h(u_j) = \sum_{i \le j}(u_i - u_j)$, the inequality $u_j > \tau_j$ says $h(u_j) < 1$. As $j$ grows, $u_j$ falls and $h(u_j)$ rises, so the inequality holds up to some
# index $\rho$ and no further, and it holds for $j = 1$, where $h(u_1) = 0$.
# Hence $h(u_\rho) < 1 \le h(u_{\rho + 1})$ (with $u_{m+1} = -\infty$), so that $u_{\rho+1} \le \tau < u_\rho$. For such $\tau$ we have $h(\tau) = \sum_{i \le \rho}(u_i - \tau)$, and
# $h(\tau) = 1$ gives $\tau = \tau_\rho$.
# ::::
# :::::


# %%
def project(v: Tensor) -> Tensor:
    """The point of the simplex nearest to v: one sort, one threshold."""
    u = v.sort(descending=True).values
    τ = (u.cumsum(0) - 1) / torch.arange(1, len(v) + 1)
    ρ = (u > τ).sum()
    return (v - τ[ρ - 1]).clamp_min(0)


# %% [markdown]
# Two slower roads to the same point: bisection for the level $\tau$, and brute force over all $2^m - 1$ sets of positive entries.

# %%
def by_bisection(v: Tensor) -> Tensor:
    low, high = v.min() - 1, v.max()
    for _ in range(100):
        τ = (low + high) / 2
        low, high = (τ, high) if (v - τ).clamp_min(0).sum() > 1 else (low, τ)
    return (v - τ).clamp_min(0)

# %%
def supports_of(m: int) -> list[list[int]]:
    sizes = range(1, m + 1)
    return [list(S) for k in sizes for S in combinations(range(m), k)]

# %%
def by_brute_force(v: Tensor) -> Tensor:
    found = []
    for S in supports_of(len(v)):
        a = torch.zeros_like(v)
        a[S] = v[S] - (v[S].sum() - 1) / len(S)
        found += [a] if (a >= 0).all() else []
    return min(found, key=lambda a: (a - v).norm())

# %% [markdown]
# (check-05-1)=
# **Check 05.1** *(the sorted projection is the nearest point of the simplex).* On 40 random vectors it agrees with bisection, with brute force and with `ddi.project_simplex` to $10^{-12}$,
# and it satisfies the optimality condition $\langle v - a, e_i - a\rangle \le 10^{-12}$ at every corner $e_i$.

# %% tags=["hide-input"]
generator = torch.Generator().manual_seed(0)
for scale in 20 * [1.0] + 20 * [0.1]:
    v = scale * torch.randn(6, generator=generator)
    a = project(v)
    for other in (by_bisection(v), by_brute_force(v), project_simplex(v)):
        assert torch.allclose(a, other, rtol=0, atol=1e-12)
    assert a.min() >= 0 and abs(a.sum() - 1) < 1e-12
    at_corners = (v - a) - (v - a) @ a  # ⟨v - a, e_i - a⟩ for every i
    assert at_corners.max() <= 1e-12

# %% [markdown]
# ## Accelerated projected gradient, and its step
#
# :::{admonition} Source's claim (Latorre et al. 2023, section 4)
# :class: claim
#
# The weights $\alpha^\star \in \arg\min_{\Delta_m} \lVert M\alpha\rVert^2$ can be found efficiently to any accuracy, by the accelerated method of Parikh and Boyd (their section 4.3) with
# Duchi's projection. A fixed step suffices; it is the inverse of the spectral norm of $M^\top M$. The method runs for a fixed number of iterations.
# :::
#
# A step is safe if it is at most $1/L$, where $L$ is the Lipschitz constant of the gradient.
#
# ::::{prf:theorem} The safe step
# :label: thm-05-step
#
# The gradient of $\frac12\lVert M\alpha\rVert^2$ has, on all of $\mathbb{R}^m$, the Lipschitz constant $\lVert G\rVert_2 = \lVert M\rVert_2^2$; that of $\lVert M\alpha\rVert^2$ has $2\lVert G\rVert_2$.
# A projected gradient step of length at most $1/L$ never raises the objective.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-05-step`
#
# ::::{prf:proof}
# The two gradients are $G\alpha$ and $2G\alpha$, linear maps of norm $\lVert G\rVert_2$ and $2\lVert G\rVert_2$.
# Let $b = \Pi(a - s\nabla f(a))$ with $s \le 1/L$. The optimality condition of the projection, at the point $a$ of the simplex, reads $\langle a - s\nabla f(a) - b, a - b\rangle \le 0$,
# that is, $\langle\nabla f(a), b - a\rangle \le -\lVert b - a\rVert^2/s$. With the quadratic upper bound,
#
# $$
# \begin{aligned}
# f(b) &\le f(a) + \langle\nabla f(a), b - a\rangle + \tfrac L2\lVert b - a\rVert^2 \\
# &\le f(a) - \bigl(\tfrac1s - \tfrac L2\bigr)\lVert b - a\rVert^2 \le f(a) .
# \end{aligned}
# $$
# ::::
# :::::
#
# :::{admonition} Our comment
# :class: comment
#
# The printed step is right for $\frac12\lVert M\alpha\rVert^2$. For the objective as printed, $\lVert M\alpha\rVert^2$, it is twice too long, and *Breaking it* shows that it then need not converge.
# Whether a fixed number of iterations is enough is a question to the certificate, below.
# :::
#
# Acceleration looks ahead along the last move before it takes the gradient {cite}`parikh2014`. The method is written as a generator, so that we can watch every iterate; the factor `c` is 1
# until *Breaking it*.


# %%
def accelerated(G: Tensor, c: float = 1.0, start: Tensor | None = None):
    """Iterates of accelerated projected gradient for ½αᵀGα, step c/‖G‖."""
    step = c / torch.linalg.matrix_norm(G, 2)
    α = before = torch.full_like(G[0], 1 / len(G)) if start is None else start
    for k in count():
        yield α
        ahead = α + k / (k + 3) * (α - before)
        before, α = α, project(ahead - step * (G @ ahead))


# %% [markdown]
# (check-05-2)=
# **Check 05.2** *(the step $1/\lVert G\rVert_2$ belongs to $\frac12\lVert M\alpha\rVert^2$).* The Lipschitz constant of the gradient by three roads, to a relative $10^{-10}$: eigenvalues of autograd's Hessian, the largest
# singular value of $M$, and a difference quotient along the worst direction, the first eigenvector of $G$. For $\lVert M\alpha\rVert^2$ it is twice as large. Between two points of the simplex it is not exceeded.

# %% tags=["hide-input"]
g = torch.randn(6, 40, generator=generator)
a, b = (project(torch.randn(6, generator=generator)) for _ in range(2))
worst = torch.linalg.eigh(g @ g.T).eigenvectors[:, -1]

# %% tags=["hide-input"]
for factor in (1, 2):
    def objective(α, factor=factor):
        return factor / 2 * (α @ g).square().sum()

    at_a, at_b, far = (gradient(objective, x) for x in (a, b, a + worst))
    L = factor * torch.linalg.svdvals(g)[0] ** 2
    assert abs(torch.linalg.eigvalsh(hessian(objective, a))[-1] / L - 1) < 1e-10
    assert abs((far - at_a).norm() / L - 1) < 1e-10  # worst has norm 1
    assert (at_a - at_b).norm() <= L * (a - b).norm()

# %% [markdown]
# The bound known for this method is $f(\alpha_k) - f^\star \le 2L\lVert\alpha_0 - \alpha^\star\rVert^2/(k+1)^2$ for $k \ge 1$, with $L = \lVert G\rVert_2$ {cite}`beck2009` (for the momentum $k/(k+3)$: {cite:t}`tseng2008`). It is in terms of the *largest* eigenvalue of $G$: we return to that.
#
# (check-05-3)=
# **Check 05.3** *(accelerated gradient and projection together solve the problem).* On four problems (a random one, the same with norms up to 10 and 100 times apart, and nearly parallel gradients) the first 200 iterates keep the bound, and come within a factor 20 of it; the first 50 are those of `ddi.min_norm_point(G, method="apg")` to $10^{-9}$;
# and $\alpha^\star$ is a fixed point, $\alpha^\star = \Pi(\alpha^\star - sG\alpha^\star)$ for short and long steps, $s\lVert G\rVert_2 = 0.01$, 1 and 100, to $10^{-9}$.

# %% tags=["hide-input"]
g = torch.randn(8, 5, generator=generator) + torch.tensor([1.5, 0, 0, 0, 0])
apart = [torch.logspace(0, e, 8)[:, None] * g for e in (0, 1, 2)]  # norms
parallel = 0.1 * g + torch.tensor([1.0, 0, 0, 0, 0])
grams = [gram_matrix(rows) for rows in (*apart, parallel)]

# %% tags=["hide-input"]
shares = []
for G in grams:
    best, L = min_norm_point(G), torch.linalg.matrix_norm(G, 2)
    iterates = list(islice(accelerated(G), 201))
    reach = (iterates[0] - best.weights).square().sum()
    used = []
    for k in range(1, 201):
        excess = (iterates[k] @ G @ iterates[k] - best.squared_norm) / 2
        bound = 2 * L * reach / (k + 1) ** 2
        assert excess <= bound + 1e-12 * L
        used.append(float(excess / bound))
    shares.append(max(used))
    for k in range(1, 51):
        theirs = min_norm_point(G, method="apg", tol=0.0, max_iter=k).weights
        assert torch.allclose(theirs, iterates[k], rtol=0, atol=1e-9)
    for s in (0.01, 1.0, 100.0):
        moved = project(best.weights - s / L * (G @ best.weights))
        assert torch.allclose(moved, best.weights, rtol=0, atol=1e-9)
assert max(shares) > 0.05
print("✓ largest share of the bound:", ", ".join(f"{s:.0%}" for s in shares))

# %% [markdown]
# ## Frank–Wolfe, and why it steps away
#
# :::{admonition} Source's claim (Latorre et al. 2023, section 4)
# :class: claim
#
# As an alternative one can use Frank–Wolfe with away steps.
# :::
#
# Frank–Wolfe {cite}`frankwolfe1956,jaggi2013` needs no projection and no step size. It looks for the corner with the smallest $r_i = \langle g_i, w\rangle$ and goes toward it, by exact line search. If the solution lies inside a
# face, away from its corners, it zigzags: it can leave a corner's weight behind only by moving toward other corners, for ever. An *away step* {cite}`lacostejulien2015` moves instead straight away from the worst corner that still
# carries weight, and can drop it at once.


# %%
def frank_wolfe(G: Tensor, away: bool = True):
    """Iterates of Frank-Wolfe, from the shortest vector."""
    corner = torch.eye(len(G))
    α = corner[G.diagonal().argmin()]
    while True:
        yield α
        r = G @ α
        nearest, farthest = r.argmin(), r.where(α > 0, -torch.inf).argmax()
        d, longest = corner[nearest] - α, 1.0
        if away and r[farthest] - α @ r > α @ r - r[nearest]:
            d, longest = α - corner[farthest], α[farthest] / (1 - α[farthest])
        α = α + min(longest, -(d @ r) / (d @ G @ d).clamp_min(1e-300)) * d
        α = α.where(α > 1e-15, 0.0)
        α = α / α.sum()

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-05-zigzag", "caption": "Plain Frank–Wolfe zigzags toward the edge on which the solution lies; with away steps it drops the upper corner and is done."}, "image": {"alt": "Top: part of a triangle and two paths that start at its upper corner and go to the left and to the right in turn. Plain Frank-Wolfe bounces on in ever smaller steps and stays above the solution on the lower edge; the path with away steps leaves after ten bounces, goes down to the edge and along it to the solution. Bottom: on log axes the gap of the plain method falls like one over the number of iterations, that with away steps drops to rounding level after about ten."}}
g_zigzag = torch.tensor([[-2.0, 0.4], [2.6, 0.5], [0.3, 1.1]])
G_zigzag = gram_matrix(g_zigzag)
best = min_norm_point(G_zigzag)
paths = {away: torch.stack(list(islice(frank_wolfe(G_zigzag, away), 1001))) for away in (False, True)}
style = {
    False: {"color": "#CC6677", "linestyle": "-", "linewidth": 1.4, "label": "plain"},
    True: {"color": "#117733", "linestyle": "--", "linewidth": 2.2, "label": "away steps"},
}
fig, (ax, right) = plt.subplots(2, 1, figsize=(5.6, 7.6), height_ratios=(1.2, 1))
ax.fill(*g_zigzag.T, color="#e8ebf3")
for away in (False, True):
    w = paths[away] @ g_zigzag
    ax.plot(*w[:60].T, marker=".", markersize=5, **style[away])
    r = paths[away] @ G_zigzag
    gap = (paths[away] * r).sum(1) - r.amin(1)
    last = int((gap > 1e-12).nonzero()[-1]) + 2
    shown = gap[:last].clamp_min(1e-13)
    right.loglog(torch.arange(1, len(shown) + 1), shown, **style[away])
ax.plot(*(best.weights @ g_zigzag), "*", color="black", markersize=13)
ax.annotate("$w^*$", tuple(best.weights @ g_zigzag), xytext=(4, -19), textcoords="offset points", fontsize=15)
ax.annotate("start", tuple(g_zigzag[2]), xytext=(6, -2), textcoords="offset points")
ax.set(xlim=(-0.62, 0.82), ylim=(0.34, 1.18), xticks=(-0.5, 0, 0.5))
ax.set_xlabel("$w_1$", fontsize=15)
ax.set_ylabel("$w_2$", fontsize=15)
right.annotate("plain", (90, 0.2), color="#CC6677")
right.annotate("away\nsteps", (16, 1e-9), color="#117733")
right.set(xlabel="iteration", ylabel="gap", ylim=(1e-13, 10))
plt.show()

# %% [markdown]
# {numref}`fig-05-zigzag` is the smallest example. The plain method does keep its guarantee {cite}`jaggi2013`: $f(\alpha_k) - f^\star \le 2D^2/(k+2)$, for $k \ge 1$, with $D$ the diameter of the hull. But it does not do much better either: below, its gap falls like $1/k$.
#
# (check-05-4)=
# **Check 05.4** *(away steps cure the zigzag).* The *gap*, $\lVert w\rVert^2 - \min_i r_i$, measures how far a method is from done; the section after next says why. Plain Frank–Wolfe keeps the bound for 1000 iterations, heads for the two lower corners in turn during the last 500, and its gap is then still above $10^{-3}$. With away steps the gap is below $10^{-12}$ within 20 iterations,
# and the answer agrees with the exact solver to $10^{-9}$; so do the first twelve iterates with those of `method="frank-wolfe"`.

# %% tags=["hide-input"]
diameter = torch.cdist(g_zigzag, g_zigzag).max()
toward = (paths[False] @ G_zigzag).argmin(1)
for k in range(1, 1001):
    f = (paths[False][k] @ g_zigzag).square().sum() / 2
    assert f - best.squared_norm / 2 <= 2 * diameter**2 / (k + 2)
assert (toward[500:-1] != toward[501:]).all()
assert set(toward[500:].tolist()) == {0, 1}

# %% tags=["hide-input"]
plain, away = paths[False][1000], paths[True][20]
assert plain @ G_zigzag @ plain - (G_zigzag @ plain).min() > 1e-3
assert away @ G_zigzag @ away - (G_zigzag @ away).min() < 1e-12
assert torch.allclose(away, best.weights, rtol=0, atol=1e-9)
for k in range(1, 13):
    theirs = min_norm_point(G_zigzag, method="frank-wolfe", tol=0.0, max_iter=k)
    assert torch.allclose(theirs.weights, paths[True][k], rtol=0, atol=1e-9)

# %% [markdown]
# ## An exact method, one support at a time
#
# If we knew the *support* $S$, the set of gradients with positive weight, one linear system would finish the job: the point of least norm of the affine hull of $S$ has weights $\beta$ (of any sign) with
#
# ```{math}
# :label: eq-05-affine
#
# \begin{pmatrix} G_{SS} & \mathbf{1} \\ \mathbf{1}^\top & 0 \end{pmatrix} \begin{pmatrix} \beta \\ \mu \end{pmatrix} = \begin{pmatrix} 0 \\ 1 \end{pmatrix} .
# ```
#
# Wolfe's method {cite}`wolfe1976` guesses the support and mends the guess:
#
# 1. Start at the shortest gradient.
# 2. If no $g_j$ has $\langle g_j, w\rangle < \lVert w\rVert^2$, stop: $w = w^\star$. Otherwise let the one with the smallest product in.
# 3. Solve {eq}`eq-05-affine`. If all of $\beta$ is positive, go there, and back to 2.
# 4. If not, go toward $\beta$ until the first weight reaches 0, drop that gradient, and back to 3.


# %%
def affine_weights(G: Tensor, S: list[int]) -> Tensor:
    """Weights of the least-norm point of the affine hull of S."""
    k = len(S)
    K, rhs = torch.ones(k + 1, k + 1), torch.zeros(k + 1)
    K[:k, :k], K[k, k], rhs[k] = G[S][:, S] / G.max(), 0, 1
    return torch.linalg.solve(K, rhs)[:k]


# %%
def spread(S: list[int], values: Tensor, m: int) -> Tensor:
    return torch.zeros(m).index_put((torch.tensor(S),), values)

# %%
def active_set(G: Tensor, tol: float = 1e-13):
    """Iterates of Wolfe's method; the last one is the solution."""
    S = [int(G.diagonal().argmin())]
    α = spread(S, torch.ones(1), len(G))
    while True:
        yield α
        r = G @ α
        if α @ r - r.min() <= tol * G.max() or int(r.argmin()) in S:
            return
        S = S + [int(r.argmin())]
        while (β := affine_weights(G, S)).min() <= 0:
            t = (α[S] / (α[S] - β)).where(β <= 0, torch.inf)
            kept = t > t.min()
            moved = α[S] + t.min() * (β - α[S])
            α = spread(S, moved.where(kept, 0.0), len(G))
            S = [i for i, stays in zip(S, kept, strict=True) if stays]
        α = spread(S, β, len(G))

# %% [markdown]
# ::::{prf:theorem} The method ends
# :label: thm-05-finite
#
# In exact arithmetic $\lVert w\rVert$ falls strictly from each visit of step 2 to the next, and the method stops at $w^\star$ after finitely many linear systems.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-05-finite`
#
# ::::{prf:proof}
# We show that at step 2 the following holds: the gradients in $S$ are affinely independent, all their weights are positive, and $w$ is the point of least norm of the affine hull $\mathrm{aff}(S)$. It holds at the start.
#
# *Step 2.* Every point $p$ of $\mathrm{aff}(S)$ has $\langle w, p\rangle = \lVert w\rVert^2$. So a $g_j$ with $\langle g_j, w\rangle < \lVert w\rVert^2$ is not in $\mathrm{aff}(S)$: affine independence is kept, and {eq}`eq-05-affine` is regular.
# If there is no such $j$, then $\langle w, p\rangle \ge \lVert w\rVert^2$ for all $p$ in the hull, hence $\lVert p\rVert \ge \lVert w\rVert$: the method is right to stop.
#
# *First pass of step 3.* From $w$ one can go a little way toward $g_j$ and get shorter, so the least-norm point $y$ of the enlarged affine hull has $\lVert y\rVert < \lVert w\rVert$, and therefore $\langle w, y - w\rangle < 0$.
# Since $\langle w, y - w\rangle = \beta_j(\langle w, g_j\rangle - \lVert w\rVert^2)$, we have $\beta_j > 0$. The old weights were positive and the new one grows, so the step toward $y$ has positive length and $\lVert w\rVert$ falls strictly.
#
# *Later passes.* Each is a step toward a least-norm point and never makes $w$ longer; each drops at least one gradient, so there are at most $|S| - 1$ of them. They end with all of $\beta$ positive (with one gradient left, $\beta = 1$), which is the state that step 2 needs.
#
# *Finiteness.* At step 2 the point $w$ is determined by $S$, and $\lVert w\rVert$ falls strictly, so no $S$ comes twice. There are fewer than $2^m$ of them.
# ::::
# :::::
#
# In practice a handful of systems is enough. {numref}`fig-05-supports` follows five gradients in the plane: the arrow is $w$, the dotted line is $\langle \cdot, w\rangle = \lVert w\rVert^2$; whatever lies on the origin's side of it may enter.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-05-supports", "caption": "The exact method visits four supports: from each of the first three a gradient below the dotted line enters (ring); in the third and fourth another one has dropped out (cross). The arrow is $w$."}, "image": {"alt": "Four panels with the same five numbered points, their hull and the origin. First: w is point 1. Second: w is the nearest point of the segment from 1 to 2. Third: point 5 has entered and 1 has dropped out; w lies on the segment from 2 to 5. Fourth: point 4 has entered and 2 has dropped out; w lies on the segment from 4 to 5, and no point is below the dotted line."}}
g_plane = torch.tensor([[-1.5, 2.0], [4.0, 2.5], [1.5, 3.0], [2.0, 1.6], [-4.0, 1.0]])
G_plane = gram_matrix(g_plane)
visited = list(active_set(G_plane))
supports = [(α > 1e-12).nonzero().flatten().tolist() for α in visited]
hull = g_plane[[4, 3, 1, 2, 0]]
fig, axes = plt.subplots(2, 2, figsize=(6.8, 3.9), sharex=True, sharey=True)
for k, (ax, α) in enumerate(zip(axes.flat, visited, strict=True)):
    w = α @ g_plane
    across = torch.stack([w[1], -w[0]]) / w.norm()
    ax.fill(*hull.T, color="#e8ebf3")
    ax.plot(*torch.stack([w - 9 * across, w + 9 * across]).T, ":", color="#666666", linewidth=1.3)
    ax.plot(*g_plane[supports[k]].T, color="#332288", linewidth=2.5)
    ax.plot(*g_plane.T, "o", color="#888888", markersize=6)
    ax.plot(*g_plane[supports[k]].T, "o", color="#332288", markersize=8)
    ax.annotate("", tuple(w), xytext=(0, 0), arrowprops={"arrowstyle": "-|>", "color": "#CC6677", "linewidth": 2, "shrinkA": 0, "shrinkB": 0})
    ax.plot(0, 0, "k+", markersize=9)
    if k + 1 < len(visited):
        ax.plot(*g_plane[(G_plane @ α).argmin()], "o", markersize=15, mfc="none", mec="#117733", mew=2)
    dropped = sorted(set(supports[k - 1]) - set(supports[k])) if k else []
    ax.plot(*g_plane[dropped].T, "x", color="#CC6677", markersize=12, mew=2.5)
    for i, point in enumerate(g_plane):
        ax.annotate(f"{i + 1}", tuple(point), xytext=(0, -23 if i == 3 else 12), textcoords="offset points", ha="center")
    ax.annotate(f"S = {{{', '.join(str(i + 1) for i in supports[k])}}}", (0.97, 0.06), xycoords="axes fraction", ha="right")
    ax.set(xlim=(-4.7, 4.7), ylim=(-0.6, 4.0), aspect="equal")
plt.show()

# %% [markdown]
# (check-05-5)=
# **Check 05.5** *(the exact method is exact, and finite).* In the plane it visits the four supports of the figure, with strictly falling norms. On 40 random problems, with 6 gradients in 2 to 7 dimensions (0 in the hull of some, duplicates in some),
# the squared norm agrees with brute force over all supports and with `ddi.min_norm_point` to $10^{-9}$.


# %% tags=["hide-input"]
def brute_force(G: Tensor) -> float:
    """The least αᵀGα over the least-norm points of all supports."""
    found = []
    for S in supports_of(len(G)):
        K = torch.nn.functional.pad(G[S][:, S], (0, 1, 0, 1), value=1.0)
        K[-1, -1] = 0  # duplicates make K singular: pinv
        β = torch.linalg.pinv(K, rtol=1e-10)[:-1, -1]
        if β.min() >= -1e-9:
            found.append(float(β @ G[S][:, S] @ β))
    return min(found)

# %% tags=["hide-input"]
assert supports == [[0], [0, 1], [1, 4], [3, 4]]
norms = torch.stack(visited) @ g_plane
assert (norms.norm(dim=1).diff() < -0.1).all()

# %% tags=["hide-input"]
zero_inside = 0
for trial in range(40):
    g = torch.randn(6, 2 + trial % 6, generator=generator)
    g[:, 0] += trial % 3
    g[-1] = g[0] if trial % 5 == 0 else g[-1]
    G = g @ g.T
    *_, α = active_set(G)
    ours, theirs = float(α @ G @ α), float(min_norm_point(G).squared_norm)
    assert abs(ours - brute_force(G)) < 1e-9 and abs(ours - theirs) < 1e-9
    zero_inside += ours < 1e-12
assert 0 < zero_inside < 35
print(f"✓ 40 problems agree with brute force; 0 in the hull of {zero_inside}")

# %% [markdown]
# `ddi`'s exact solver is a relative: it begins with *block pivoting* {cite}`portugal1994`, which exchanges several gradients at once and mostly finds the support in a few systems, goes on from there by Wolfe's steps (letting in one gradient for every sample at once), works on whole batches of problems and keeps singular systems regular by a tiny proximal term. No finiteness theorem is claimed for the whole: what makes an answer exact is the gap, which comes next.
#
# ## The certificate
#
# How good is an unfinished answer? The *Frank–Wolfe gap* costs one product $r = G\alpha$ at most: it is $\langle\alpha, r\rangle - \min_i r_i$.
#
# ```{math}
# :label: eq-05-gap
#
# \mathrm{gap} = \lVert w\rVert^2 - \min_i\langle w, g_i\rangle .
# ```
#
# ::::{prf:theorem} What the gap certifies
# :label: thm-05-gap
#
# For every $\alpha \in \Delta_m$, with $w = M\alpha$:
#
# 1. $\mathrm{gap} \ge 0$, and $\mathrm{gap} = 0$ exactly if $w = w^\star$;
# 2. with $e = \lVert w - w^\star\rVert^2$, we have $e \le \lVert w\rVert^2 - \lVert w^\star\rVert^2 \le 2\,\mathrm{gap} - e$.
#    In particular $\lVert w\rVert^2 - \lVert w^\star\rVert^2 \le 2\,\mathrm{gap}$ and $\lVert w - w^\star\rVert^2 \le \mathrm{gap}$;
# 3. $\max_i\langle -w, g_i\rangle = \mathrm{gap} - \lVert w\rVert^2$, so $-w$ descends on every $g_i$ **if and only if** $\mathrm{gap} < \lVert w\rVert^2$;
# 4. if $w \ne 0$, the slope along $-w/\lVert w\rVert$ exceeds the best possible slope, $-\lVert w^\star\rVert$, by at most $\mathrm{gap}/\lVert w\rVert$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-05-gap`
#
# ::::{prf:proof}
# The number $\min_i\langle w, g_i\rangle$ is the minimum of $\langle w, p\rangle$ over the hull. So $\langle w, w - p\rangle \le \mathrm{gap}$ for every $p$ in the hull; $p = w$ gives $\mathrm{gap} \ge 0$.
#
# *Item 2.* Expand $\lVert w\rVert^2 - \lVert w^\star\rVert^2 = 2\langle w, w - w^\star\rangle - \lVert w - w^\star\rVert^2$, and use $\langle w, w - w^\star\rangle \le \mathrm{gap}$: this is the right inequality.
# For the left one expand at $w^\star$, $\lVert w\rVert^2 - \lVert w^\star\rVert^2 = \lVert w - w^\star\rVert^2 + 2\langle w^\star, w - w^\star\rangle$, where the last product is not negative: otherwise a small step from $w^\star$ toward $w$, which stays in the hull, would be shorter.
# The outer inequalities give $2\lVert w - w^\star\rVert^2 \le 2\,\mathrm{gap}$.
#
# *Item 1.* If $\mathrm{gap} = 0$ then $w = w^\star$ by item 2. Conversely, $\langle w^\star, p - w^\star\rangle \ge 0$ for all $p$ in the hull says that the gap of $w^\star$ is at most 0.
#
# *Item 3* rewrites the definition: $\max_i\langle -w, g_i\rangle = -\min_i\langle w, g_i\rangle = \mathrm{gap} - \lVert w\rVert^2$.
#
# *Item 4.* The slope along $-w/\lVert w\rVert$ is therefore $-\lVert w\rVert + \mathrm{gap}/\lVert w\rVert$, and $-\lVert w\rVert \le -\lVert w^\star\rVert$.
# ::::
# :::::
#
# In plain words: one number, known without $w^\star$, bounds the error in value, the error in place and the loss of slope, and decides whether the unfinished direction descends. The best rule for stopping is therefore *relative*: stop once
# $\mathrm{gap} \le \eta\lVert w\rVert^2$, say with $\eta = 0.01$. (If 0 lies in the hull this never happens while $w \ne 0$: $\min_i\langle w, g_i\rangle \le 0$ makes $\mathrm{gap} \ge \lVert w\rVert^2$. Then one stops when $\lVert w\rVert$ is negligible.)
#
# ### Four problems
#
# To see it at work we take $m = 10$ gradients in 1000 dimensions, from random unit vectors $h_1, \dots, h_{10}$ and $c$, which are nearly at right angles:
#
# | problem | gradients | cosines | norms |
# |:--|:--|:--|:--|
# | friendly | $h_i + c$ | ½ | alike |
# | norms ×100 apart | $s_i(h_i + 0.3c)$ | 0.1 | 1 to 100 |
# | cosines .99 | $0.1h_i + c$ | .99 | alike |
# | conflicting pairs, ×100 | $h_i + 0.1c$ and $s_i(0.1c - h_i)$, $i \le 5$ | −.98 within a pair | 1 to 100 |

# %% tags=["hide-input"]
draw = torch.Generator().manual_seed(1)
U = torch.nn.functional.normalize(torch.randn(10, 1000, generator=draw), dim=1)
common = torch.nn.functional.normalize(torch.randn(1000, generator=draw), dim=0)


def conflicting_pairs(ratio: float) -> Tensor:
    """Five pairs of nearly opposite gradients, whose norms are 1 to ``ratio`` times apart."""
    s = ratio ** torch.linspace(0, 1, 5)[:, None]
    return torch.cat([U[:5] + 0.1 * common, s * (0.1 * common - U[:5])])


problems = {
    "friendly": U + common,
    "norms ×100 apart": torch.logspace(0, 2, 10)[:, None] * (U + 0.3 * common),
    "cosines .99": 0.1 * U + common,
    "conflicting pairs, ×100": conflicting_pairs(100.0),
}
solvers = {"accelerated": accelerated, "Frank–Wolfe, away": frank_wolfe, "exact": active_set}
most = {"accelerated": 2000, "Frank–Wolfe, away": 600, "exact": 100}
traces = {(p, s): torch.stack(list(islice(solvers[s](gram_matrix(g)), most[s]))) for p, g in problems.items() for s in solvers}

# %% [markdown]
# (check-05-6)=
# **Check 05.6** *(the gap bounds both errors).* At every iterate of every method on every problem, $\mathrm{gap} \ge 0$ and both inequalities of item 2 hold, with $w^\star$ from `ddi` and a slack for rounding of $10^{-12}\max\lVert g_i\rVert^2$.
# Some iterates have $\lVert w\rVert^2 - \lVert w^\star\rVert^2 > 1.3\,\mathrm{gap}$: without the factor 2 the second inequality is false. (That no smaller factor will do is {ref}`an exercise <ex-05-sharp>`.)

# %% tags=["hide-input"]
tightest = 0.0
for (p, s), α in traces.items():
    g = problems[p]
    w, best = α @ g, min_norm_point(gram_matrix(g)).weights @ g
    slack = 1e-12 * g.square().sum(1).max()
    gap = w.square().sum(1) - (w @ g.T).amin(1)
    excess = w.square().sum(1) - best @ best
    distance = (w - best).square().sum(1)
    assert (gap >= -slack).all()
    assert (distance <= excess + slack).all()
    assert (excess <= 2 * gap - distance + slack).all()
    clear = gap > 1e3 * slack
    tightest = max(tightest, float((excess / gap)[clear].max()))
assert tightest > 1.3
print(f"✓ both bounds hold in {sum(map(len, traces.values()))} iterates;", end=" ")
print(f"largest excess {tightest:.2f} gap")

# %% [markdown]
# (check-05-7)=
# **Check 05.7** *($-w$ descends on all gradients exactly if $\mathrm{gap} < \lVert w\rVert^2$, and loses at most $\mathrm{gap}/\lVert w\rVert$ of slope).* The gap is computed from the Gram matrix alone; the slope from the gradients themselves. Both outcomes occur; for fewer than 1 % of the iterates the two sides are so close that rounding decides, and these we leave out.

# %%
outcomes = {True: 0, False: 0}
for (p, s), α in traces.items():
    g, G = problems[p], gram_matrix(problems[p])
    squared = (α * (α @ G)).sum(1)
    gap = squared - (α @ G).amin(1)
    direction = -torch.nn.functional.normalize(α @ g, dim=1)
    steepness = (direction @ g.T).amax(1)
    best = -min_norm_point(G).squared_norm.sqrt()
    clear = (gap / squared - 1).abs() > 1e-9
    assert torch.equal((steepness < 0)[clear], (gap < squared)[clear])
    assert clear.double().mean() > 0.99
    assert (steepness >= best - 1e-12 * g.norm(dim=1).max()).all()
    assert (steepness - best <= gap / squared.sqrt() + 1e-10).all()
    outcomes[True] += int((steepness < 0).sum())
    outcomes[False] += int((steepness >= 0).sum())
assert min(outcomes.values()) > 20
print(f"✓ descend: {outcomes[True]} iterates; do not: {outcomes[False]}")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-05-convergence", "caption": "Gap (thick) and true excess of $\\lVert w\\rVert^2$ (thin), both divided by $\\lVert w\\rVert^2$. Below the black line $-w$ descends on every gradient. To reach $10^{-6}$ in any panel but the first, the accelerated method needs well over a thousand iterations; away steps need at most some two hundred, the exact method fewer than ten."}, "image": {"alt": "Four panels on log axes, one a problem, with the gap of three methods against iterations. The exact method drops to rounding level within about ten iterations in all four, Frank-Wolfe with away steps within a hundred in three panels and two hundred in the last. The accelerated method needs some four hundred iterations on friendly gradients; in the other panels it is far from done after two thousand, and oscillates. A thin curve of the true error runs below each gap."}}
look = {
    "accelerated": {"color": "#CC6677", "linestyle": "-"},
    "Frank–Wolfe, away": {"color": "#117733", "linestyle": "--"},
    "exact": {"color": "#332288", "linestyle": "-", "marker": "o", "markersize": 4},
}
fig, axes = plt.subplots(2, 2, figsize=(6.8, 5.6), sharex=True, sharey=True)
for ax, (p, g) in zip(axes.flat, problems.items(), strict=True):
    G, floor = gram_matrix(g), 1e-12
    star = min_norm_point(G).squared_norm
    ax.axhline(1, color="black", linewidth=1)
    for s in solvers:
        α = traces[p, s]
        r = α @ G
        squared = (α * r).sum(1)
        for value, width, alpha in (((squared - star) / squared, 1.0, 0.55), (1 - r.amin(1) / squared, 2.2, 1.0)):
            shown = value.where(value > floor, floor)
            last = int((value > floor).nonzero()[-1]) + 2
            ax.loglog(torch.arange(1, len(α) + 1)[:last], shown[:last], **(look[s] | {"linewidth": width, "alpha": alpha}))
    ax.annotate(p, (0.97, 0.93), xycoords="axes fraction", ha="right", va="top", fontweight="bold", bbox={"color": "white", "pad": 1})
    ax.set(ylim=(1e-12, 1e6), xlim=(0.9, 3000))
for ax in axes[1]:
    ax.set_xlabel("iteration")
for ax in axes[:, 0]:
    ax.set_ylabel("relative to $\\|w\\|^2$")
handles = [plt.Line2D([], [], **look[s], linewidth=2.2, label=s) for s in solvers]
fig.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=12)
plt.show()

# %% [markdown]
# {numref}`fig-05-convergence` shows the same runs. The step of the accelerated method is dictated by the largest eigenvalue of $G$, that is by the largest gradients or by what all of them share, so whatever happens among the small ones, or across nearly parallel ones, happens slowly. Away steps feel it in the last problem only: there the gap stays near one half of $\lVert w\rVert^2$ for some 190 iterations, until the last superfluous gradient is dropped. The exact method does not care.
#
# (check-05-8)=
# **Check 05.8** *(bad scales hurt the accelerated method most, and the exact one not at all).* On all four problems the exact method ends within 30 iterations, after reaching $\mathrm{gap} \le 10^{-8}\lVert w\rVert^2$, and away steps reach $10^{-6}\lVert w\rVert^2$ within 500. On all but the friendly one the accelerated method needs for this more than 300 iterations and
# more than 5 times as many as away steps.

# %% tags=["hide-input"]
def iterations_to(p: str, s: str, η: float) -> int:
    """The first iterate with gap ≤ η‖w‖²; if there is none, their number."""
    r = traces[p, s] @ gram_matrix(problems[p])
    good = 1 - r.amin(1) / (traces[p, s] * r).sum(1) <= η
    return int(good.nonzero()[0]) if good.any() else len(good)

# %% tags=["hide-input"]
for p in problems:
    assert iterations_to(p, "exact", 1e-8) < len(traces[p, "exact"]) <= 30
    assert iterations_to(p, "Frank–Wolfe, away", 1e-6) <= 500
    if p != "friendly":
        slow = iterations_to(p, "accelerated", 1e-6)
        away = iterations_to(p, "Frank–Wolfe, away", 1e-6)
        assert slow > max(300, 5 * away)
    print(f"✓ {p}: exact {len(traces[p, 'exact']) - 1} systems")

# %% [markdown]
# ## The Gram matrix: what it costs
#
# Forming $G$ takes $2m^2d$ operations, once. After that an iteration takes about $2m^2$ operations with $G$, and $4md$ without it. So $G$ has paid for itself after $m/2$ iterations, and then $d$, the number of parameters, is out of the picture. PyTorch's operation counter confirms it without a stopwatch.

# %%
from torch.utils.flop_counter import FlopCounterMode


def operations(run) -> int:
    """Multiplications and additions in matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


# %% [markdown]
# (check-05-9)=
# **Check 05.9** *(the solver's cost does not depend on $d$).* Operation counts, exactly: the Gram matrix takes $2m^2d$ (`ddi.gram_matrix` no more); as many as $m/2$ gradients $M^\top(M\alpha)$ without it; a gradient $G\alpha$ with it takes $2m^2$.

# %% tags=["hide-input"]
m = 10
for d in (1_000, 10_000, 100_000):
    g, α = torch.ones(m, d), torch.full((m, 1), 1 / m)
    gram = operations(lambda g=g: g @ g.T)
    assert 0 < operations(lambda g=g: gram_matrix(g)) <= gram
    without = operations(lambda g=g, α=α: g @ (g.T @ α))
    assert gram == 2 * m**2 * d == m / 2 * without
    assert operations(lambda α=α: torch.ones(m, m) @ α) == 2 * m**2

# %% [markdown]
# :::{admonition} Source's claims (Latorre et al. 2023, 5.3 and B.4)
# :class: claim
#
# Section 5.3: the bulk of DDi's overhead lies in line 7 of Algorithm 1, the min-norm problem. Appendix B.4: three bottlenecks, in descending impact, are finding $m$ perturbations, computing $m$ gradients, and last the min-norm problem.
# :::
#
# Both cannot hold. We count operations for the paper's setting: PGD-7, $m = 10$ and ResNet-18 for images of 32 by 32 pixels, that is, its seventeen $3 \times 3$ convolutions and its last layer in a row (we leave out the three small convolutions in its shortcuts).
# The network lives on PyTorch's `meta` device, which knows shapes and computes nothing.

# %%
widths = 5 * [64] + 4 * [128] + 4 * [256] + 4 * [512]
wide, net = 3, torch.nn.Sequential()
with torch.device("meta"):
    for i, width in enumerate(widths):
        stride = 2 if i in (5, 9, 13) else 1
        net.append(torch.nn.Conv2d(wide, width, 3, stride, 1, bias=False))
        wide = width
    net.append(torch.nn.AdaptiveAvgPool2d(1)).append(torch.nn.Flatten())
    net.append(torch.nn.Linear(512, 10))

# %%
d = sum(p.numel() for p in net.parameters())

# %%
def one_pass(attack: bool) -> int:
    """Forward, and back to the image (an attack step) or to the weights."""
    net.requires_grad_(not attack)
    x = torch.zeros(1, 3, 32, 32, device="meta", requires_grad=attack)
    return operations(lambda: net(x).sum().backward())

# %% [markdown]
# (check-05-10)=
# **Check 05.10** *(counted in operations, the min-norm problem is the last of the three by far).* Even for a batch of a *single* image, and with 1000 accelerated iterations (two products $G\alpha$ each, one for the step and one for the gap), line 7 takes less than a tenth of the $m$ gradients, which take less than the $m$ attacks.

# %%
attacks = m * 7 * one_pass(attack=True)
gradients = m * one_pass(attack=False)
line_7 = 2 * m**2 * d + 1000 * 2 * (2 * m**2)
assert 10.9e6 < d < 11.2e6 and len(net) == 20

# %%
# an attack step costs two forward passes, a gradient nearly three
assert 1.4 < one_pass(attack=False) / one_pass(attack=True) < 1.5
assert line_7 < gradients / 10 and gradients < attacks / 2
print("operations, in 10⁹")
print(f"per image: attacks {attacks / 1e9:.0f}")
print(f"per image: gradients {gradients / 1e9:.0f}")
print(f"per batch: line 7 {line_7 / 1e9:.1f}")

# %% [markdown]
# :::{admonition} Our comment
# :class: comment
#
# In operations appendix B.4 is right and section 5.3 is not. Line 7 is paid once a batch, the other two once an image: at 128 images the ratio grows by another factor of 128. Seconds are another matter: a thousand tiny steps launched one after another from Python on a GPU can take longer than their
# operations suggest. That would be a fact about an implementation, and the exact method, with a dozen steps, removes it.
# :::
#
# ## What the Gram matrix loses
#
# The price of $G$ is that it holds *squares*. A hull at distance $10^{-5}$ from 0, of gradients of norm 1, shows in $G$ as $10^{-10}$ beside 1. Of that, float32 with its seven digits keeps nothing.
#
# ::::{prf:theorem} An inexact Gram matrix
# :label: thm-05-squaring
#
# Let $\tilde G = G + E$ be symmetric with $|E_{ij}| \le \eta$, let $\tilde\alpha$ have gap 0 for $\tilde G$ (such points exist: every minimiser), and $w = M\tilde\alpha$. Then
#
# 1. the least values of $\alpha^\top G\alpha$ and $\alpha^\top\tilde G\alpha$ over $\Delta_m$ differ by at most $\eta$;
# 2. the true gap of $\tilde\alpha$ is at most $2\eta$. So $-w$ certainly descends on every $g_i$ if $\lVert w^\star\rVert^2 > 2\eta$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-05-squaring`
#
# ::::{prf:proof}
# For $\alpha, \beta \in \Delta_m$ we have $|\beta^\top E\alpha| \le \eta\sum_{ij}\beta_i\alpha_j = \eta$. With $\beta = \alpha$ the two objectives differ by at most $\eta$ everywhere, hence so do their least values.
# The gap of $\tilde\alpha$ is the maximum over corners $e_i$ of $(\tilde\alpha - e_i)^\top G\tilde\alpha = (\tilde\alpha - e_i)^\top\tilde G\tilde\alpha - (\tilde\alpha - e_i)^\top E\tilde\alpha \le 0 + 2\eta$.
# Finally, $\mathrm{gap} \le 2\eta < \lVert w^\star\rVert^2 \le \lVert w\rVert^2$ and {prf:ref}`thm-05-gap`. (A minimiser has gap 0 even if $\tilde G$ is not semidefinite: no feasible direction may go down.)
# ::::
# :::::
#
# One rounding of the entries means $\eta = u\max\lVert g_i\rVert^2$ with $u = 2^{-24}$ in float32 and $u = 2^{-53}$ in float64. So distances are safe above
#
# ```{math}
# :label: eq-05-threshold
#
# \sqrt{2u}\,\max_i\lVert g_i\rVert, \quad \sqrt{2u} \approx \begin{cases} 3.5\cdot10^{-4} & \text{(float32)} \\ 1.5\cdot10^{-8} & \text{(float64)} . \end{cases}
# ```
#
# Long sums add their own rounding errors, so these are orders of magnitude, not sharp limits.
#
# :::{admonition} Source's claim (Latorre et al. 2023, appendix C, after (18))
# :class: claim
#
# Squaring the norm in the objective does not change the set of solutions.
# :::
#
# We test it on hulls whose distance from 0 is known *exactly*, in float32 too. So the hull of the first 255 coordinates must hold 0 without any rounding: they are integers with $9g_{10} + \sum_{i=1}^{9} i\,g_i = 0$. The last coordinate is the same in every row, $t$ times the largest norm. All entries are float32 numbers, so the data lose nothing, and only the Gram matrix differs: summed in float32, or by `ddi.gram_matrix` in float64. (The solver computes in float64 in both cases.)


# %%
def hull_at(t: float, generator: torch.Generator) -> Tensor:
    """Ten float32 gradients; the distance of their hull is their last entry."""
    q = torch.randint(-200, 201, (9, 255), generator=generator) * 9
    last = -(q * torch.arange(1, 10)[:, None]).sum(0, keepdim=True) // 9
    g = torch.cat([q, last]).double()
    height = (t * g.norm(dim=1).max()).expand(10, 1)
    return torch.cat([g, height], 1).float()


# %% tags=["hide-input"]
distances = 10.0 ** -(torch.arange(0, 41) / 4)
known, measured, descends = torch.zeros(41, 20), {}, {}
grams = {"float32": lambda g: (g @ g.T).double(), "float64": gram_matrix}
hulls = [[hull_at(float(t), generator) for _ in range(20)] for t in distances]
for name, gram in grams.items():
    point = min_norm_point(torch.stack([torch.stack([gram(g) for g in row]) for row in hulls]).to(getattr(torch, name)))
    measured[name] = torch.zeros(41, 20)
    descends[name] = torch.zeros(41, 20, dtype=torch.bool)
    for i, row in enumerate(hulls):
        for j, g in enumerate(row):
            largest = g.double().norm(dim=1).max()
            w = point.weights[i, j].double() @ g.double()
            known[i, j] = g[0, -1].double() / largest
            measured[name][i, j] = point.squared_norm[i, j].double().sqrt() / largest
            descends[name][i, j] = (g.double() @ w).min() > 0

# %% [markdown]
# (check-05-11)=
# **Check 05.11** *(the Gram matrix, not the square in the objective, loses half of the digits).* From the float64 matrix the distance is right to 1 % down to $10^{-6}$, and the direction descends there on all gradients, in every draw. From the float32 matrix this holds at $3\cdot10^{-3}$ (to 10 %) and above; at $3\cdot10^{-5}$ and below the distance is wrong by more than half in most draws, and most of the directions ascend on some gradient.
# At $10^{-9}$ and below, float64 fails in the same way. Least squares on $M$ itself minimise the same square (here no weight is 0), and in float32 give the distance at $3\cdot10^{-5}$ to 1 %.

# %% tags=["hide-input"]
error = {name: (measured[name] / known - 1).abs() for name in grams}
limits = {"float32": (2.9e-3, 0.1, 3.2e-5), "float64": (9e-7, 0.01, 1.1e-9)}
for name, (safe, tolerance, blind) in limits.items():
    upper, lower = distances > safe, distances < blind
    assert (error[name][upper] < tolerance).all() and descends[name][upper].all()
    assert (error[name][lower] > 0.5).double().mean() > 0.6
    assert descends[name][lower].double().mean() < 0.4

# %% tags=["hide-input"]
for g, distance in zip(hulls[18], known[18]):  # at 10^-4.5
    N = (g[:-1] - g[-1]).T  # w = g_10 + N z
    w = g[-1] + N @ torch.linalg.lstsq(N, -g[-1][:, None]).solution[:, 0]
    relative = w.double().norm() / g.double().norm(dim=1).max()
    assert w.dtype == torch.float32 and abs(relative / distance - 1) < 0.01

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-05-squaring", "caption": "Relative error of the hull's distance from 0, from a Gram matrix in float32 and in float64 (median of 20 hulls), and share of the directions that descend on all gradients. Left of its dotted line each precision is safe; a little to the right of it, it is blind."}, "image": {"alt": "Top: on log axes the relative error against the true distance, from one down to ten to the minus ten. The float32 curve rises with slope minus two and reaches one, where it stays, a little below ten to the minus four; the float64 curve does so a little below ten to the minus eight. Bottom: the share of directions that descend falls from one to zero at the same two places."}}
fig, (ax, below) = plt.subplots(2, 1, figsize=(6.6, 5.0), sharex=True, height_ratios=(2.2, 1))
for name, u, color, dash in (("float32", 2.0**-24, "#CC6677", "-"), ("float64", 2.0**-53, "#332288", "--")):
    middle = error[name].median(1).values.clamp_min(1e-16)
    ax.loglog(distances, middle, dash, color=color)
    below.semilogx(distances, descends[name].double().mean(1), dash, color=color)
    for axis in (ax, below):
        axis.axvline((2 * u) ** 0.5, color=color, linewidth=1, linestyle=":")
ax.axhline(1, color="black", linewidth=1)
ax.annotate("in float32", (0.5, 1e-3), color="#CC6677")
ax.annotate("in float64", (8e-6, 3e-11), color="#332288")
ax.set(ylabel="relative error", ylim=(3e-17, 1e2), xlim=(1.5, 7e-11))
below.set(xlabel="distance of the hull from 0, in units of max‖g‖ (smaller to the right)", ylabel="descends", ylim=(-0.08, 1.08))
below.set_yticks([0, 1], ["none", "all"])
plt.show()

# %% [markdown]
# :::{admonition} Our comment
# :class: comment
#
# The claim holds. What loses digits is not the square but the sums in $G$ ({numref}`fig-05-squaring`; a relative error of 1 means that the solver takes 0 for a point of the hull). The cure is cheap: keep the gradients in float32, and sum their products in float64. Since $1.5\cdot10^{-8}$ is below the rounding of the float32 gradients themselves ($6\cdot10^{-8}$), nothing more is lost.
# :::
#
# ## Breaking it
#
# **The step, twice too long.** The gradient of $\lVert M\alpha\rVert^2$ is $2G\alpha$; with the printed step, the move is $2/\lVert G\rVert_2$ times $G\alpha$: `c = 2` in our code. Take two conflicting gradients, $(1, 0.2)$ and $(-1, 0.2)$, whose solution is $(\frac12, \frac12)$. At $\alpha = (\frac12 + x, \frac12 - x)$ a plain
# projected step multiplies $x$ by $1 - c$, as long as it stays in the simplex. For $c = 2$ that is $-1$: it jumps back and forth for ever. Momentum makes it worse, and breaks beyond $c = \frac43$.
#
# (check-05-12)=
# **Check 05.12** *(with the step for the wrong objective the method does not converge).* The plain method alternates between $0.9$ and $0.1$ to $10^{-9}$. The accelerated one converges for $c = 1$ and $c = 1.3$ (gap below $10^{-9}$ after 600 iterations), and for $c = 1.4$ and $c = 2$ its gap is still above 1.

# %% tags=["hide-input"]
g_pair = torch.tensor([[1.0, 0.2], [-1.0, 0.2]])
G = gram_matrix(g_pair)
start = torch.tensor([0.9, 0.1])
plain = [start]
for _ in range(200):
    step = 2 / torch.linalg.matrix_norm(G, 2)
    plain.append(project(plain[-1] - step * (G @ plain[-1])))

# %% tags=["hide-input"]
assert all(torch.allclose(α, start, atol=1e-9, rtol=0) for α in plain[::2])
assert all(torch.allclose(α, start.flip(0), atol=1e-9, rtol=0) for α in plain[1::2])
for c, converges in ((1.0, True), (1.3, True), (1.4, False), (2.0, False)):
    α = next(islice(accelerated(G, c, start), 600, None))
    gap = α @ G @ α - (G @ α).min()
    assert gap < 1e-9 if converges else gap > 1
print("first weight, c = 2:", [round(float(α[0]), 1) for α in plain[:6]])

# %% [markdown]
# Nearly parallel gradients of similar norm hide the mistake. There the first eigenvector of $G$ is close to a multiple of $(1, \dots, 1)$, along which the simplex does not let us move, and the curvature that matters is far smaller. The step fails just where the gradients conflict, which is where DDi is meant to help.
#
# **A fixed number of iterations.** We return to conflicting pairs, and let the norms be further and further apart. The best slope is always near $-0.1$; the exact method and away steps find a descent direction at once.
#
# (check-05-13)=
# **Check 05.13** *(a fixed number of iterations does not guarantee descent).* After 100 accelerated iterations, the direction descends if all norms are alike, and *ascends* on some gradient if they are 1000 apart, although a direction with slope below $-0.07$ exists; the gap says so in both cases. In both, too, $\lVert M\alpha\rVert^2$ is within $4\lVert G\rVert_2/101^2$ of its least value, which in the second case is large beside that value. From ratio 10 to ratio 1000 the iterations needed until the direction descends grow more than tenfold, while away steps and the exact method need fewer than 20 each.

# %%
def first_descent(method, G: Tensor, most: int = 4000) -> int:
    """The first iterate with ⟨w, g_i⟩ > 0 for all i."""
    for k, α in enumerate(islice(method(G), most)):
        if (G @ α).min() > 0:
            return k
    return most

# %%
for ratio, good in ((1.0, True), (1000.0, False)):
    g = conflicting_pairs(ratio)
    G = gram_matrix(g)
    α = next(islice(accelerated(G), 100, None))
    steepness = (-(α @ g) / (α @ g).norm() @ g.T).max()
    least, L = min_norm_point(G).squared_norm, torch.linalg.matrix_norm(G, 2)
    assert -least.sqrt() < -0.07
    assert α @ G @ α - least <= 4 * L / 101**2
    assert (least > 4 * L / 101**2) == good
    assert (steepness < 0) == good == (α @ G @ α - (G @ α).min() < α @ G @ α)

# %%
needed = {}
for s in solvers:
    both = [gram_matrix(conflicting_pairs(ratio)) for ratio in (10.0, 1000.0)]
    needed[s] = [first_descent(solvers[s], G) for G in both]
assert needed["accelerated"][1] > 10 * needed["accelerated"][0]
assert max(needed["exact"] + needed["Frank–Wolfe, away"]) < 20
slow = needed["accelerated"]
print(f"✓ iterations until descent: {slow[0]} at ratio 10, {slow[1]} at ratio 1000")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-05-count", "caption": "Iterations until the direction descends on all gradients: those of the accelerated method grow with the ratio of the norms, so no fixed number is enough to descend. Away steps and the exact method need one; their lines coincide."}, "image": {"alt": "On log axes, iterations against the ratio of the largest to the smallest norm, from 1 to 3000. The accelerated method rises about linearly from a few to more than a thousand. Frank-Wolfe with away steps and the exact method coincide at one iteration. A horizontal line marks one hundred iterations."}}
ratios = 10 ** torch.linspace(0, 3.5, 11)
fig, ax = plt.subplots(figsize=(6.6, 3.7))
for s in solvers:
    needs = [max(first_descent(solvers[s], gram_matrix(conflicting_pairs(float(q)))), 1) for q in ratios]
    wide = {"linewidth": 6, "alpha": 0.5} if s == "Frank–Wolfe, away" else {"marker": "o", "markersize": 4}
    (drawn,) = ax.loglog(ratios, needs, **(look[s] | wide))
    plots.label_line(drawn, s, dy={"accelerated": 0, "exact": -8}.get(s, 8))
ax.axhline(100, color="black", linewidth=1)
ax.annotate("a fixed count, say 100", (1.1, 115))
ax.set(xlabel="ratio of the norms", ylabel="iterations", ylim=(0.5, 4000))
plt.show()

# %% [markdown]
# :::{admonition} Our comment
# :class: comment
#
# Algorithm 1 asks for $\epsilon$-suboptimality in line 7; section 4 runs a fixed number $k$ of iterations. By the bound quoted before {ref}`check 05.3 <check-05-3>` they do give it, with $\epsilon = 4\lVert G\rVert_2/(k+1)^2$ (from equal weights, $\lVert\alpha_0 - \alpha^\star\rVert < 1$). But descent needs an error small beside $\lVert w^\star\rVert^2$, and no count fixed beforehand gives that ({numref}`fig-05-count`). Stopping at $\mathrm{gap} \le \eta\lVert w\rVert^2$ with $\eta < 1$ does, and so does the exact method.
# :::
#
# **An indefinite "Gram matrix".** Someone estimates each product $\langle g_i, g_j\rangle$ on a different batch, or rounds the entries to a few digits. What results may have a negative eigenvalue; then $f$ is not convex, and the certificate, whose proof lives on $\lVert w - w^\star\rVert^2 \ge 0$, is void.
#
# (check-05-14)=
# **Check 05.14** *(without semidefiniteness the gap certifies nothing).* For $G = \begin{pmatrix} 1 & 2 \\ 2 & 1 \end{pmatrix}$ the accelerated method stays at $(\frac12, \frac12)$ with $\mathrm{gap} = 0$ (to $10^{-12}$): the *maximiser*, with $\alpha^\top G\alpha = \frac32$, while the corners have 1. `ddi` refuses the matrix.

# %% tags=["hide-input"]
G = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
α = next(islice(accelerated(G), 100, None))
assert abs(α @ G @ α - (G @ α).min()) < 1e-12 and abs(α @ G @ α - 1.5) < 1e-12
x = torch.linspace(0, 1, 101)
all_weights = torch.stack([x, 1 - x])
assert (all_weights * (G @ all_weights)).sum(0).max() <= 1.5 + 1e-12

# %% tags=["hide-input"]
try:
    min_norm_point(G)
    refused = False
except ValueError as problem:
    refused = "semidefinite" in str(problem)
assert refused
print("✓ gap 0 at the maximiser 3/2; ddi refuses the matrix")

# %% [markdown]
# ## Summary
#
# - The projection onto the simplex is one sort and one level $\tau$.
# - The step $1/\lVert M^\top M\rVert_2$ belongs to $\frac12\lVert M\alpha\rVert^2$; for $\lVert M\alpha\rVert^2$ it is half as long. With the wrong one the method can cycle.
# - Plain Frank–Wolfe zigzags, away steps do not; the active-set method is finite and, at $m = 10$, needs about a dozen small systems.
# - $\mathrm{gap} = \lVert w\rVert^2 - \min_i\langle w, g_i\rangle$ bounds every error, and $-w$ descends on all gradients exactly if $\mathrm{gap} < \lVert w\rVert^2$. A fixed number of iterations bounds the error, and does not guarantee descent.
# - The Gram matrix takes $d$ out of the solver, and half of the digits out of the answer: sum it in float64.
#
# ## Exercises
#
# ::::{exercise} Both constants are sharp
# :label: ex-05-sharp
#
# Let $m = 2$, $g_2 = g_1 + v$, $\langle g_1, v\rangle \ge 0$, and $\alpha = (1 - s, s)$. Show that $w^\star = g_1$, and compute the gap, $\lVert w\rVert^2 - \lVert w^\star\rVert^2$ and $\lVert w - w^\star\rVert^2$. When does $\lVert w - w^\star\rVert^2 \le \mathrm{gap}$ become an equality, and how near can $\lVert w\rVert^2 - \lVert w^\star\rVert^2 \le 2\,\mathrm{gap}$ come to one ({prf:ref}`thm-05-gap`, item 2)?
# ::::
#
# ```{solution-start} ex-05-sharp
# :label: sol-05-sharp
# :class: dropdown
# ```
#
# Here $w = g_1 + sv$ and $\lVert w\rVert^2 = \lVert g_1\rVert^2 + 2s\langle g_1, v\rangle + s^2\lVert v\rVert^2$, which does not fall with $s \in [0, 1]$: the minimiser is $s = 0$, so $w^\star = g_1$. Write $p = \langle g_1, v\rangle$ and $q = \lVert v\rVert^2$. Since $\langle w, g_1\rangle \le \langle w, g_2\rangle$,
#
# $$
# \begin{aligned}
# \mathrm{gap} = \langle w, w - g_1\rangle &= sp + s^2q, \\
# \lVert w\rVert^2 - \lVert w^\star\rVert^2 &= 2sp + s^2q, \\
# \lVert w - w^\star\rVert^2 &= s^2q .
# \end{aligned}
# $$
#
# If $p = 0$, then $\lVert w - w^\star\rVert^2 = \mathrm{gap}$; for $s > 0$ only then. If $p > 0$ and $s \to 0$, then $(\lVert w\rVert^2 - \lVert w^\star\rVert^2)/\mathrm{gap} \to 2$. And $\lVert w\rVert^2 - \lVert w^\star\rVert^2 = 2\,\mathrm{gap} - \lVert w - w^\star\rVert^2$ always. Neither constant can be improved.

# %%
g1 = torch.tensor([1.0, 2.0])
for s, v in ((0.3, [1.0, -0.5]), (0.3, [1.0, 0.5]), (1e-6, [1.0, 0.5])):
    v = torch.tensor(v)
    g, p, q, w = torch.stack([g1, g1 + v]), g1 @ v, v @ v, g1 + s * v
    gap, excess = w @ w - (g @ w).min(), w @ w - g1 @ g1
    assert abs(gap - (s * p + s**2 * q)) < 1e-14
    assert abs(excess - (2 * s * p + s**2 * q)) < 1e-14
assert 2 - 1e-5 < excess / gap < 2  # the last case: p > 0 and s small

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} Two gradients
# :label: ex-05-two
#
# For $m = 2$ solve {eq}`eq-05-problem` with pencil and paper. Check the formula against `ddi.min_norm_point` on a thousand random pairs, in one batched call.
# ::::
#
# ```{solution-start} ex-05-two
# :label: sol-05-two
# :class: dropdown
# ```
#
# With $\alpha = (1 - s, s)$ the objective is a parabola in $s$ with its vertex (if $g_1 \ne g_2$) at $\langle g_1, g_1 - g_2\rangle/\lVert g_1 - g_2\rVert^2$. Clip it to $[0, 1]$. From the Gram matrix:

# %%
g = torch.randn(1000, 2, 3, generator=generator)
G = g @ g.mT
s = (G[:, 0, 0] - G[:, 0, 1]) / (G[:, 0, 0] - 2 * G[:, 0, 1] + G[:, 1, 1])
theirs = min_norm_point(G).weights[:, 1]
assert torch.allclose(theirs, s.clamp(0, 1), rtol=0, atol=1e-8)

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} A rule for stopping
# :label: ex-05-stop
#
# Show that $\mathrm{gap} \le \eta\lVert w\rVert^2$ with $\eta < 1$ guarantees at least a share $1 - \eta$ of the steepest slope. Solve the four problems above by `frank_wolfe` with this rule, $\eta = 0.1$, and measure the share. Which `tol` makes `ddi.min_norm_point(G, method="frank-wolfe")` as good? (It stops at $\mathrm{gap} \le$ `tol` $\cdot \max_{ij} |G_{ij}|$.)
# ::::
#
# ```{solution-start} ex-05-stop
# :label: sol-05-stop
# :class: dropdown
# ```
#
# By item 3 of {prf:ref}`thm-05-gap`, the slope along $-w/\lVert w\rVert$ is $-\lVert w\rVert + \mathrm{gap}/\lVert w\rVert \le -(1 - \eta)\lVert w\rVert \le -(1 - \eta)\lVert w^\star\rVert$. An absolute tolerance of $\eta\lVert w^\star\rVert^2 \le \eta\lVert w\rVert^2$ is enough, but to set it one must know $\lVert w^\star\rVert$: a reason for the relative rule.

# %%
for g in problems.values():
    G, η = gram_matrix(g), 0.1
    α = next(α for α in frank_wolfe(G) if (G @ α).min() >= (1 - η) * (α @ G @ α))
    star = min_norm_point(G).squared_norm
    tol = float(η * star / G.max())  # `tol` is relative to the largest entry
    theirs = min_norm_point(G, method="frank-wolfe", tol=tol).weights
    for w in (α @ g, theirs @ g):
        share = (g @ w).min() / w.norm() / star.sqrt()
        assert 1 - η <= share <= 1 + 1e-9

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} Scale the gradients first?
# :label: ex-05-scale
#
# Bad scales slow the accelerated method down. Suppose that we divide every $g_i$ by its norm and then solve. (a) Show that a direction descends on all $g_i$ exactly if it descends on all normalised ones, so that 0 is in both hulls or in neither. (b) Is the result still the steepest descent direction? Test both on the conflicting pairs with ratio 1000.
# ::::
#
# ```{solution-start} ex-05-scale
# :label: sol-05-scale
# :class: dropdown
# ```
#
# (a) The sign of $\langle\gamma, g_i\rangle$ does not change when $g_i$ is divided by a positive number. By {ref}`chapter 4 <chapter-04>`, a direction with all products negative exists exactly if 0 is not in the hull. (b) In general not: the hull changes. The normalised problem descends quickly, along a direction whose slope on the original gradients is a little worse.

# %%
g = conflicting_pairs(1000.0)
unit = torch.nn.functional.normalize(g, dim=1)
assert first_descent(accelerated, gram_matrix(unit)) < 20
assert first_descent(accelerated, gram_matrix(g)) > 200

# %%
steepness = {}
for name, rows in (("original", g), ("normalised", unit)):
    w = min_norm_point(gram_matrix(rows)).weights @ rows
    steepness[name] = (-(w / w.norm()) @ g.T).max()
assert steepness["original"] < steepness["normalised"] - 1e-6
assert steepness["normalised"] < 0

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} Half precision
# :label: ex-05-half
#
# Where does {eq}`eq-05-threshold` put the limit for bfloat16, which keeps 8 significant bits? Round Gram matrices of `hull_at(0.3, …)` and `hull_at(1e-3, …)` to bfloat16, and give them to `ddi.min_norm_point`.
# ::::
#
# ```{solution-start} ex-05-half
# :label: sol-05-half
# :class: dropdown
# ```
#
# With 8 significant bits (float32 has 24) the relative rounding error is at most $u = 2^{-8}$, so hulls are safe above $\sqrt{2u}\max\lVert g_i\rVert \approx 0.09\max\lVert g_i\rVert$. In 30 draws all is well at 0.3. At $10^{-3}$ some of the 30 rounded matrices are indefinite and refused; from most of the others
# the distance comes out more than twice too large, and none of their directions descends on all gradients.

# %%
assert abs((2 * 2.0**-8) ** 0.5 - 0.09) < 0.005
for t, fine in ((0.3, True), (1e-3, False)):
    refused, ratios = 0, []
    for seed in range(30):
        g = hull_at(t, torch.Generator().manual_seed(seed)).double()
        try:
            point = min_norm_point(gram_matrix(g).bfloat16().double())
        except ValueError:
            refused += 1
            continue
        assert ((g @ (point.weights @ g)).min() > 0) == fine
        ratios.append(float(point.squared_norm.sqrt() / g[0, -1]))
        assert not fine or abs(ratios[-1] - 1) < 0.01
    assert fine or sum(ratio > 2 for ratio in ratios) > len(ratios) / 2
    assert refused == 0 if fine else 0 < refused < 30

# %% [markdown]
# ```{solution-end}
# ```
