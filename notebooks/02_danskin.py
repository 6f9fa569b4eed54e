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
# (chapter-02)=
# # Danskin's theorem
#
# :::{admonition} What you will learn
# :class: frame
#
# - how to differentiate a maximum: the statement, a complete proof, and which half of it needs which hypothesis;
# - when the gradient at one adversarial example *is* the gradient of the robust loss, and how exact the attack must be;
# - what there is instead of a gradient at a tie: a convex hull of gradients;
# - how the theorem fails when a hypothesis is dropped.
#
# **Before you start.** {ref}`Chapter 1 <chapter-01>`; compact sets, the mean value theorem, convex functions.
#
# **Time and hardware.** An hour to read; about fifteen seconds to run on one processor core.
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

import matplotlib.pyplot as plt
import torch

import ddi
from ddi import plots

plots.use_style()
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## Three maxima
#
# The robust loss is a maximum, $\phi(\theta) = \max_{\delta \in S} g(\theta, \delta)$. How steep is it along a direction $\gamma$? Three examples in the plane, with one maximiser, with three, and with a continuum of them:
#
# | | $g(\theta, \delta)$ | $S$ | at the point | maximisers |
# |:--|:--|:--|:--|:--|
# | disc | $\langle\theta, \delta\rangle - \tfrac12\lVert\delta\rVert^2$ | unit disc | $(1.2, 0.5)$ | $\theta/\lVert\theta\rVert$ |
# | three | $\langle\theta, a_\delta\rangle + 0.3\lVert\theta\rVert^2$ | $\{1, 2, 3\}$ | $0$ | all three |
# | arc | $\langle\theta, (\cos\delta, \sin\delta)\rangle - \max(\lvert\delta\rvert - 1, 0)^2$ | $[-\pi, \pi]$ | $0$ | $[-1, 1]$ |
#
# Here $a_1, a_2, a_3$ are three fixed vectors, the rows of `A` below. The code reads like the table.

# %%
A = torch.tensor([[1.2, -0.3], [0.5, 1.0], [-0.6, 0.4]])  # rows a_1, a_2, a_3
middle = torch.linspace(-1, 1, 2001)  # the maximisers of the third case
grid = torch.cat([torch.linspace(-math.pi, math.pi, 20_001), middle])  # its S
penalty = (grid.abs() - 1).clamp_min(0) ** 2


def circle(δ):
    return torch.stack([δ.cos(), δ.sin()], -1)


# %%
def φ_disc(θ):
    δ = θ / θ.norm().clamp_min(1)
    return θ @ δ - δ @ δ / 2


def φ_three(θ):
    return (θ @ A.T).amax(-1) + 0.3 * θ.square().sum(-1)


def φ_arc(θ):
    return (circle(grid) @ θ - penalty).max()


# %% [markdown]
# Each case is $\phi$, the point, and the gradients $\nabla_\theta g$ at its maximisers, one a row. `ddi.one_sided` is the difference quotient for a finite $t$, `ddi.directional_derivative` the formula.

# %%
θ_disc, origin = torch.tensor([1.2, 0.5]), torch.zeros(2)
cases = {
    "disc": (φ_disc, θ_disc, (θ_disc / θ_disc.norm())[None]),
    "three": (φ_three, origin, A),
    "arc": (φ_arc, origin, circle(middle)),
}
ψ = torch.linspace(-math.pi, math.pi, 121)
directions = circle(ψ)  # unit vectors, three degrees apart


# %%
def quotients(name, t):
    φ, θ, _ = cases[name]
    return torch.tensor([ddi.one_sided(φ, θ, γ, t) for γ in directions])


def danskin(gradients):
    D = ddi.directional_derivative
    return torch.stack([D(gradients, γ) for γ in directions])


formula = {name: danskin(case[2]) for name, case in cases.items()}

# %% [markdown]
# {numref}`fig-02-cases` draws a slope for every direction: difference quotients for two $t$, and a formula that knows only the gradients at the maximisers. The quotients sink onto it. Only the first curve is a sinusoid, that is, linear in $\gamma$. The formula is Danskin's theorem, the subject of this chapter.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-02-cases", "caption": "Slope of $\\phi$ in every direction. With one maximiser Danskin's formula (black) is a sinusoid, with three the upper envelope of three sinusoids, with a continuum a flattened one. The quotients sink onto it as $t$ decreases."}, "image": {"alt": "Three stacked panels over the angle of the direction. Black curve: the formula. Two coloured curves, quotients at t = 1 and t = 0.3, lie above it and approach it. Top: a sinusoid. Middle: a curve with upward kinks. Bottom: flat at one in the middle, falling to about minus one half at both ends."}}
fig, axes = plt.subplots(3, 1, figsize=(6.4, 7.6), sharex=True)
notes = {"disc": "one maximiser", "three": "three maximisers", "arc": "a continuum"}
for ax, name in zip(axes, cases, strict=True):
    for t, colour, dash in ((1.0, "#56B4E9", "--"), (0.3, "#0072B2", ":")):
        ax.plot(ψ, quotients(name, t), color=colour, linestyle=dash, label=f"quotient, t = {t:g}")
    ax.plot(ψ, formula[name], color="black", label="Danskin's formula")
    ax.set_ylabel("slope")
    ax.text(0.5, 0.06, notes[name], transform=ax.transAxes, ha="center", style="italic")
axes[0].legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), handlelength=1.6, columnspacing=1.0, fontsize=11)
axes[2].set_xlabel("angle of the direction")
axes[2].set_xticks([-math.pi, -math.pi / 2, 0, math.pi / 2, math.pi], ["−180°", "−90°", "0°", "90°", "180°"])
plt.show()

# %% [markdown]
# ## The statement
#
# The robust loss has parameters $\theta \in \mathbb R^d$; $S^\star(\theta) = \{\delta \in S : g(\theta, \delta) = \phi(\theta)\}$ holds the optimal perturbations, or *maximisers*. The *one-sided directional
# derivative* of $\phi$ along $\gamma$ is its slope when we set out from $\theta$ in the direction $\gamma$:
#
# ```{math}
# :label: eq-02-slope
#
# D_\gamma\phi(\theta) = \lim_{t \downarrow 0} \frac{\phi(\theta + t\gamma) - \phi(\theta)}{t} .
# ```
#
# :::{admonition} Source's claim (Latorre et al. 2023, Theorem 1, after Danskin 1966)
# :class: claim
#
# Let $S$ be compact, $g$ continuous and differentiable in $\theta$, with $\nabla_\theta g$ continuous in $(\theta, \delta)$ together. Then $\phi$
# has a directional derivative along every unit vector $\gamma$: the largest $\langle\gamma, \nabla_\theta g(\theta, \delta)\rangle$ over the maximisers $\delta$.
# :::
#
# ::::{prf:theorem} Danskin, 1966
# :label: thm-02-danskin
#
# Let $S$ be a non-empty compact topological space, $g : \mathbb R^d \times S \to \mathbb R$ continuous, $g(\cdot, \delta)$ differentiable for every
# $\delta$, and $\nabla_\theta g$ continuous on $\mathbb R^d \times S$ too. Then for every $\theta$ and every $\gamma \in \mathbb R^d$ the limit {eq}`eq-02-slope` exists, and
#
# ```{math}
# :label: eq-02-danskin
#
# D_\gamma\phi(\theta) = \max_{\delta \in S^\star(\theta)} \langle \gamma, \nabla_\theta g(\theta, \delta) \rangle .
# ```
# ::::
#
# **In plain words.** Freeze each maximiser and differentiate the loss as if the attack did not move. Each frozen loss proposes a slope, and the
# steepest *upward* proposal wins, because $\phi$ is their maximum. That the attack does move, as $\theta$ does, changes nothing to first order.
# Note where the maximum stands: the formula asks for **all** maximisers, not for one. The theorem goes back to {cite:t}`danskin1966` and {cite:t}`demyanov1966`.
#
# The proof rests on a lemma: maximisers may jump from one corner of $S^\star(\theta)$ to another, but not away from it.
#
# ::::{prf:lemma} Maximisers stay near
# :label: lem-02-near
#
# Let $S$ be compact.
# 1. If $f$ is continuous on $\mathbb R^d \times S$, then the largest $\lVert f(\theta + h, \delta) - f(\theta, \delta)\rVert$ over all $\delta \in S$ tends to 0 as $h \to 0$.
# 2. If $g$ is continuous and $U \supseteq S^\star(\theta)$ is open in $S$, then $S^\star(\theta + h) \subseteq U$ for all sufficiently small $h$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`lem-02-near`
#
# ::::{prf:proof}
# We begin with 1. Let $\eta > 0$. By continuity every $\delta$ has an open neighbourhood $V_\delta$ and a radius $r_\delta > 0$ such that
# $\lVert f(\theta + h, \delta') - f(\theta, \delta)\rVert < \eta/2$ for $\delta' \in V_\delta$, $\lVert h\rVert < r_\delta$. With $h = 0$ as well, the triangle inequality gives
# $\lVert f(\theta + h, \delta') - f(\theta, \delta')\rVert < \eta$ there. Finitely many $V_\delta$ cover $S$; the least of their radii serves for all $\delta'$.
#
# For 2, let $K = S \setminus U$; it is closed in a compact space, hence compact. If it is empty there is nothing to show. Otherwise $g(\theta, \cdot)$ has a maximum on $K$,
# and it is less than $\phi(\theta)$ since $K$ holds no maximiser: call it $\phi(\theta) - 3\kappa$, $\kappa > 0$. By 1, for small $h$ all values of $g$ move by less than $\kappa$. Then
# $g(\theta + h, \delta) < \phi(\theta) - 2\kappa$ for $\delta \in K$, whereas $\phi(\theta + h) > \phi(\theta) - \kappa$. So no point of $K$ is a maximiser at $\theta + h$.
# ::::
# :::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-02-danskin`
#
# ::::{prf:proof}
# A continuous function on a compact set has a maximum, so $S^\star(\theta)$ is not empty. It is closed in $S$, hence compact, and the maximum in {eq}`eq-02-danskin` is attained.
# Call it $m$.
#
# **Lower half.** Let $\delta \in S^\star(\theta)$. As $\phi(\theta + t\gamma) \ge g(\theta + t\gamma, \delta)$ and $\phi(\theta) = g(\theta, \delta)$,
#
# $$
# \frac{\phi(\theta + t\gamma) - \phi(\theta)}{t} \ge \frac{g(\theta + t\gamma, \delta) - g(\theta, \delta)}{t} ,
# $$
#
# and as $t \downarrow 0$ the right side tends to $\langle\gamma, \nabla_\theta g(\theta, \delta)\rangle$. Hence the lower limit of the left side is at least $m$. This half used that $g(\cdot, \delta)$ is differentiable at $\theta$, and nothing else.
#
# **Upper half.** Let $\eta > 0$. The set $U = \{\delta : \langle\gamma, \nabla_\theta g(\theta, \delta)\rangle < m + \eta\}$ is open, because $\nabla_\theta g(\theta, \cdot)$ is continuous, and contains
# $S^\star(\theta)$. For small $t > 0$ take any maximiser $\delta_t \in S^\star(\theta + t\gamma)$; by part 2 of {prf:ref}`lem-02-near` it lies in $U$. Now $\phi(\theta + t\gamma) = g(\theta + t\gamma, \delta_t)$ and
# $\phi(\theta) \ge g(\theta, \delta_t)$. With the mean value theorem, for some $s \in (0, t)$,
#
# $$
# \frac{\phi(\theta + t\gamma) - \phi(\theta)}{t} \le \frac{g(\theta + t\gamma, \delta_t) - g(\theta, \delta_t)}{t}
# = \langle\gamma, \nabla_\theta g(\theta + s\gamma, \delta_t)\rangle .
# $$
#
# By part 1 of {prf:ref}`lem-02-near` for $f = \nabla_\theta g$, if $t$ is small, the right side is at most $\langle\gamma, \nabla_\theta g(\theta, \delta_t)\rangle + \eta < m + 2\eta$. Hence the upper limit of the
# quotient is at most $m + 2\eta$ for every $\eta > 0$. Both halves together: the limit exists and is $m$.
# ::::
# :::::
#
# Remember the two halves. The lower one costs almost nothing; compactness and continuity are all spent on the upper one. So where a hypothesis fails, but maximisers and their gradients exist, the formula can
# err in one direction only: it promises *less slope than there is*. For a method that wants to descend this is the dangerous direction.

# %% [markdown]
# ## The formula in the three cases
#
# How near must a quotient with a finite $t$ be? In all three cases $0 \le \text{quotient} - D_\gamma\phi \le t/2$ for a unit vector $\gamma$: the disc's $\phi$ is convex with a gradient of Lipschitz
# constant 1, along each ray the second case is linear but for the term $0.3\,t^2$, and in the third a perturbation at distance $e$ from $[-1, 1]$ gains at most $te - e^2 \le t^2/4$.
#
# (check-02-1)=
# **Check 02.1** *(the difference quotient tends to Danskin's formula, with one maximiser, with three and with a continuum).* In 121 directions and $t = 1, 0.1, 0.01, 0.001$ the quotient is never below
# the formula (up to rounding, $10^{-9}$) and at most $t/2$ above it. Bend "three" the other way ($-0.3$ for $0.3$), so that $\phi$ is not convex, and it lies between $t/5$ and $t/2$ *below*: the lower side is tested, too. For the arc the formula is also compared with its closed form, $\cos\max(\lvert\psi\rvert - 1, 0)$ for the direction of angle $\psi$, to $10^{-6}$.

# %%
for name in cases:
    for t in (1.0, 0.1, 0.01, 0.001):
        above = quotients(name, t) - formula[name]
        assert -1e-9 <= above.min() and above.max() <= t / 2
    worst = (quotients(name, 1.0) - formula[name]).max()
    print(f"✓ {name}: at t = 1 up to {worst:.2f} above, bound 0.5")
for t in (1.0, 0.1, 0.01, 0.001):
    bent = quotients("three", t) - 0.6 * t  # -0.3 for 0.3
    below = formula["three"] - bent
    assert 0.2 * t <= below.min() and below.max() <= 0.5 * t
closed_form = (ψ.abs() - 1).clamp_min(0).cos()
assert torch.allclose(formula["arc"], closed_form, rtol=0, atol=1e-6)

# %% [markdown]
# %% [markdown]
# What if we know only one of the maximisers? By the lower half of the proof, each maximiser alone gives a lower bound of the slope.
#
# (check-02-2)=
# **Check 02.2** *(the maximum must run over all maximisers).* With one gradient in place of three, the formula never exceeds the slope, and in some direction falls short of it by more than 0.9, where
# the finite step $t = 0.001$ explains 0.0005. With the arc's middle point in place of the arc, likewise.

# %% tags=["hide-input"]
for name, lone in (("three", A[:1]), ("arc", circle(torch.zeros(1)))):
    short = quotients(name, 0.001) - danskin(lone)
    assert short.min() >= -1e-12
    assert short.max() > 0.9
    print(f"✓ {name}: one maximiser falls short by up to {short.max():.2f}; bound 0.9")

# %% [markdown]
# :::{admonition} Source's claim (Latorre et al. 2023, Definition 1 and equations (6), (8))
# :class: claim
#
# The directional derivative is defined with a quotient that is also divided by $\lVert\gamma\rVert_2$. In (8) Danskin's formula is then used with $\gamma = \nabla_\theta g(\theta, \bar\delta)$ for one maximiser $\bar\delta$, and
# gives $D_\gamma\phi(\theta) \ge \lVert\nabla_\theta g(\theta, \bar\delta)\rVert^2$.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# For unit vectors the two definitions agree. For others they differ by the factor $\lVert\gamma\rVert$: our $D_\gamma$ scales with $\gamma$, as formula {eq}`eq-02-danskin` and the lecture's
# definition do {cite:p}`cevher2024`. So (8), whose $\gamma$ is no unit vector, holds for our $D_\gamma$; with (6) its bound reads $\lVert\nabla_\theta g\rVert$.
# The sign, which is all that the paper uses, is the same. We never divide.
# :::
#
# (check-02-3)=
# **Check 02.3** *(one formula, two normalisations).* For $\gamma = (3, 4)$ and for $\gamma/5$, which is a unit vector, our quotient equals formula {eq}`eq-02-danskin`, and that of (6) the formula divided by $\lVert\gamma\rVert$. With $\phi(\theta) = \langle\gamma, \theta\rangle$ and $\gamma = (3, 4)$
# the quotient of (6) is 5, where (8) prints at least 25. To $10^{-3}$, with $t = 10^{-5}$.

# %% tags=["hide-input"]
def paper_quotient(φ, θ, γ, t=1e-5):
    return ddi.one_sided(φ, θ, γ, t) / γ.norm().item()


γ = torch.tensor([3.0, 4.0])
for v in (γ, γ / 5):
    D = ddi.directional_derivative(A, v).item()
    assert abs(ddi.one_sided(φ_three, origin, v, 1e-5) - D) < 1e-3
    assert abs(paper_quotient(φ_three, origin, v) - D / v.norm()) < 1e-3
assert abs(paper_quotient(lambda θ: γ @ θ, origin, γ) - 5) < 1e-3
assert ddi.directional_derivative(γ[None], γ) == 25  # the bound in (8)

# %% [markdown]
# ## One maximiser: the gradient
#
# ::::{prf:theorem} When the robust loss has a gradient
# :label: thm-02-gradient
#
# Under the hypotheses of {prf:ref}`thm-02-danskin`, $\phi$ is differentiable at $\theta$ if and only if all maximisers share one gradient, $\nabla_\theta g(\theta, \delta) = v$ for every $\delta \in S^\star(\theta)$. Then
# $\nabla\phi(\theta) = v$. In particular this is so if the maximiser is unique.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-02-gradient`
#
# ::::{prf:proof}
# Suppose first that the gradient is shared. We must show $\phi(\theta + h) - \phi(\theta) = \langle v, h\rangle + o(\lVert h\rVert)$; limits along straight lines would not be enough. Let $\eta > 0$ and $\delta \in S^\star(\theta)$. From below,
# $\phi(\theta + h) - \phi(\theta) \ge g(\theta + h, \delta) - g(\theta, \delta) = \langle v, h\rangle + o(\lVert h\rVert)$. From above, $U = \{\delta : \lVert\nabla_\theta g(\theta, \delta) - v\rVert < \eta\}$ is open and contains
# $S^\star(\theta)$, so for small $h$ a maximiser $\delta_h$ at $\theta + h$ lies in $U$ by {prf:ref}`lem-02-near`, and
# $\phi(\theta + h) - \phi(\theta) \le g(\theta + h, \delta_h) - g(\theta, \delta_h) = \langle h, \nabla_\theta g(\theta + sh, \delta_h)\rangle$ with $s \in (0, 1)$. By part 1 of the lemma this
# gradient is within $\eta$ of $\nabla_\theta g(\theta, \delta_h)$ for small $h$, hence within $2\eta$ of $v$, and the bound is $\langle v, h\rangle + 2\eta\lVert h\rVert$.
#
# Conversely let $\phi$ be differentiable. Then $D_{-\gamma}\phi = -D_\gamma\phi = -\langle\gamma, \nabla\phi(\theta)\rangle$, and {eq}`eq-02-danskin` for $\gamma$ and $-\gamma$ says that the largest and the least of
# $\langle\gamma, \nabla_\theta g(\theta, \delta)\rangle$ over the maximisers coincide with $\langle\gamma, \nabla\phi(\theta)\rangle$. As $\gamma$ is arbitrary, every $\nabla_\theta g(\theta, \delta) = \nabla\phi(\theta)$.
# ::::
# :::::
#
# This is what adversarial training uses: attack, freeze the perturbation, backpropagate. No derivative of the attack is taken.
#
# :::{admonition} Source's claim (Cevher 2024, "Danskin's Theorem (1966)"; Cho 2023, "Danskin's Theorem")
# :class: claim
#
# If the optimal perturbation is unique, the robust loss of a sample is differentiable, and its gradient is the gradient of the loss at that perturbation.
# :::
#
# First a case that we can solve by hand. The disc has the unique maximiser $\theta/\max(1, \lVert\theta\rVert)$ for every $\theta$, so $\nabla\phi(\theta)$ should be just that. Inserted into $g$ it gives
# $\phi(\theta) = \tfrac12\lVert\theta\rVert^2$ inside the disc and $\lVert\theta\rVert - \tfrac12$ outside: Huber's function.
#
# (check-02-4)=
# **Check 02.4** *(a unique maximiser gives the gradient; closed form).* At 50 random points three roads agree: the frozen maximiser, autograd through Huber's closed form (to $10^{-12}$), and two-sided difference
# quotients along both axes (to $10^{-6}$).

# %% tags=["hide-input"]
def huber(θ):
    r = θ.norm()
    return torch.where(r <= 1, r**2 / 2, r - 0.5)


for θ in 2 * torch.randn(50, 2, generator=torch.Generator().manual_seed(0)):
    frozen = θ / θ.norm().clamp_min(1)
    assert (torch.func.grad(huber)(θ) - frozen).abs().max() < 1e-12
    for axis in (0, 1):
        steps = ddi.two_sided(φ_disc, θ, torch.eye(2)[axis], 1e-6)
        assert abs(steps - frozen[axis].item()) < 1e-6

# %% [markdown]
# ### A network
#
# We want one network whose maximiser is *provably* unique. It has one hidden layer of CELU units {cite:p}`barron2017` (a ReLU's gradient is not continuous), works in float64 on six digits, and charges the
# perturbation for its length,
#
# ```{math}
# :label: eq-02-network
#
# \begin{aligned}
# \phi(\theta) &= \frac1k \sum_{i=1}^k \phi_i(\theta), \\
# \phi_i(\theta) &= \max_{\lVert\delta\rVert \le \epsilon} \Bigl[ \ell_i(x_i + \delta) - \frac\lambda2 \lVert\delta\rVert^2 \Bigr],
# \end{aligned}
# ```
#
# where $\ell_i$ is the cross-entropy of sample $i$ with parameters $\theta$. If $\nabla_x\ell_i$ has Lipschitz constant at most $L < \lambda$, the bracket is strongly concave in $\delta$ with modulus $\mu = \lambda - L$, and its maximiser on the ball is unique.
# So {prf:ref}`thm-02-gradient` gives the gradient of every $\phi_i$, and $\nabla\phi$ is their mean.

# %% tags=["hide-input"]
data = ddi.digits()
x, y = data.x_train[:6].flatten(1).double(), data.y_train[:6]
shapes = [(16, 64), (16,), (10, 16), (10,)]  # W1, b1, W2, b2
sizes = [math.prod(shape) for shape in shapes]
generator = torch.Generator().manual_seed(0)
pieces = [torch.randn(n, generator=generator) / s for n, s in zip(sizes, (8, 8, 4, 4), strict=True)]
θ0, ε = torch.cat(pieces), 10.0  # ε: for now out of reach


def unpack(θ):
    """The flat parameters as W1, b1, W2, b2."""
    return [piece.view(shape) for piece, shape in zip(θ.split(sizes), shapes, strict=True)]


# %% [markdown]
# For this network $L = \lVert W_1\rVert^2 \bigl(\tfrac12\lVert W_2\rVert^2 + \sqrt2\,\max_j\lVert W_2 e_j\rVert\bigr)$ will do; matrices have spectral norms, and $W_2e_j$ is column $j$ of $W_2$.
#
# :::::{dropdown} Proof of the bound
#
# ::::{prf:proof}
# Write $u = W_1x + b_1$ for the input of the hidden layer, $\sigma$ for CELU and $p$ for the softmax. Then $\nabla_x\ell = W_1^\top \operatorname{diag}(\sigma'(u))\,W_2^\top(p - e_y)$. Let $x$ move by $\Delta$, so $u$ moves by at most $\lVert W_1\rVert\lVert\Delta\rVert$. Two factors change.
#
# - The slopes $\sigma'(u)$ lie in $[0, 1]$ and $\sigma'$ has Lipschitz constant 1. The entries of $W_2^\top(p - e_y)$ are at most $\max_j\lVert W_2e_j\rVert\,\lVert p - e_y\rVert \le \sqrt2\max_j\lVert W_2e_j\rVert$. This changes the gradient
#   by at most $\lVert W_1\rVert \cdot \sqrt2\max_j\lVert W_2e_j\rVert \cdot \lVert W_1\rVert\lVert\Delta\rVert$.
# - The softmax has Jacobian $\operatorname{diag}(p) - pp^\top$, of norm at most $\max_i 2p_i(1 - p_i) \le \tfrac12$ (Gershgorin), so $p$ moves by at most $\tfrac12\lVert W_2\rVert\lVert W_1\rVert\lVert\Delta\rVert$, and the gradient by
#   $\lVert W_1\rVert\lVert W_2\rVert$ times that.
#
# The sum of both, divided by $\lVert\Delta\rVert$, is $L$.
# ::::
# :::::
#
# We take $\lambda = 2L$, so $\mu = L$. The attack is projected gradient ascent, `ddi.PGA`, with the step $1/(\lambda + L)$; its distance from the maximiser shrinks by a third or more in every step.

# %%
W1, _, W2, _ = unpack(θ0)
norm1, norm2 = (torch.linalg.matrix_norm(W, 2).item() for W in (W1, W2))
L = norm1**2 * (norm2**2 / 2 + math.sqrt(2) * W2.norm(dim=0).max().item())
λ, μ = 2 * L, L


# %%
def g(θ, δ):
    """The bracket of the formula above, one value a sample."""
    W1, b1, W2, b2 = unpack(θ)
    logits = torch.celu((x + δ) @ W1.T + b1) @ W2.T + b2
    return ddi.cross_entropy(logits, y) - λ / 2 * δ.square().sum(1)


# %%
def attack(θ, steps=50, start=None):
    options = {"random_start": start is not None, "norm": "L2", "box": None}
    pga = ddi.PGA(ε, 1 / (λ + L), steps, loss=lambda v, y: v, **options)
    return pga(lambda images: g(θ, images - x), x, y, start)


def φ(θ):
    return g(θ, attack(θ)).mean()



# %% [markdown]
# So that both kinds of solution occur, we let $\epsilon$ lie between the third and the fourth of the six distances that the maximisers would go if there were no ball.

# %%
reach = attack(θ0, steps=90).norm(dim=1).sort().values
ε = reach[2:4].mean().item()
δ_star = attack(θ0, steps=90)

# %% [markdown]
# (check-02-5)=
# **Check 02.5** *(the maximiser is unique, and found).* A step of ascent no longer moves it (to $10^{-12}$). Three random starts end within $10^{-12}$ of it. Three of the six perturbations end on the sphere and three inside.

# %% tags=["hide-input"]
ball = ddi.L2(ε, box=None)
ascent = torch.func.grad(lambda δ: g(θ0, δ).sum())(δ_star)
moved = ball.project(δ_star + ascent / (λ + L), x)
assert (moved - δ_star).abs().max() < 1e-12
for seed in range(3):
    other = attack(θ0, steps=90, start=torch.Generator().manual_seed(seed))
    assert (other - δ_star).abs().max() < 1e-12
on_sphere = ball.norm(δ_star) > ε - 1e-9
assert on_sphere.sum() == 3
print(f"✓ {on_sphere.sum()} of {len(x)} perturbations on the sphere")

# %% [markdown]
# Now the gradient, by four roads: (1) freeze $\delta^\star$ and differentiate; (2) differentiate through all the steps of the attack, so that $\delta$ depends on $\theta$; (3) difference quotients of $\phi$, which attack afresh at
# $\theta \pm t\gamma$; (4) `ddi.directional_derivative` with the one gradient.

# %%
def unrolled(θ, steps=50):
    """φ with the attack as part of autograd's graph."""
    δ = torch.zeros_like(x)
    for _ in range(steps):
        ascent = torch.func.grad(lambda δ: g(θ, δ).sum())(δ)
        δ = ball.project(δ + ascent / (λ + L), x)
    return g(θ, δ).mean()


# %%
def parameter_gradient(δ):
    return torch.func.grad(lambda θ: g(θ, δ).mean())(θ0)


gradient = parameter_gradient(δ_star)
θ_ = θ0.clone().requires_grad_()
(through_attack,) = torch.autograd.grad(unrolled(θ_), θ_)

# %% [markdown]
# (check-02-6)=
# **Check 02.6** *(a unique maximiser gives the gradient; a network).* Roads 1 and 2 agree to $10^{-8}$ of the gradient's norm. Along the gradient's own direction and two random ones, two-sided quotients ($t = 10^{-5}$) agree with roads 1 and 4 to $10^{-6}$, one-sided
# quotients ($t = 10^{-6}$) to $10^{-4}$. The gradient at the *clean* images is a different one, by more than 1 %.

# %%
assert (through_attack - gradient).norm() < 1e-8 * gradient.norm()
clean = (parameter_gradient(0 * x) - gradient).norm() / gradient.norm()
assert clean > 0.01
print(f"✓ the clean gradient is off by {clean:.0%}; bound 1 %")
random = torch.randn(2, len(θ0), generator=generator)
rays = torch.cat([gradient[None], random])
for γ in rays / rays.norm(dim=1, keepdim=True):
    slope = ddi.directional_derivative(gradient[None], γ).item()
    assert abs(slope - (gradient @ γ).item()) < 1e-12
    assert abs(ddi.two_sided(φ, θ0, γ, 1e-5) - slope) < 1e-6
    assert abs(ddi.one_sided(φ, θ0, γ, 1e-6) - slope) < 1e-4

# %% [markdown]
# In practice the attack stops early. Strong concavity tells how far off it can be: if a sample's bracket is still a gap below its maximum, then
# $\lVert\delta - \delta^\star\rVert^2 \le 2\,\text{gap}/\mu$. The gradient is wrong by at most a multiple of the distance, hence of the *square root* of the gap: a
# loss that is right to five digits may come with a gradient that is right to three ({numref}`fig-02-network`).
#
# (check-02-7)=
# **Check 02.7** *(a small gap means a near maximiser, and a gradient nearly right).* Over the first 15 steps $\lVert\delta_k - \delta^\star\rVert^2 \le 2\,\text{gap}_k/\mu$ for every sample (up to rounding, $10^{-14}$). When the loss is right to $10^{-4}$ for the first time, the
# gradient is not yet right to $10^{-4}$; after 50 steps both are, to $10^{-8}$.

# %% tags=["hide-input"]
path = [0 * x] + [attack(θ0, steps=k) for k in (*range(1, 16), 50)]
gaps = torch.stack([g(θ0, δ_star) - g(θ0, δ) for δ in path])
distances = torch.stack([ball.norm(δ - δ_star) for δ in path])
assert (distances**2 <= 2 * gaps / μ + 1e-14).all()
value_error = gaps.mean(1) / φ(θ0)
errors = torch.stack([parameter_gradient(δ) - gradient for δ in path])
gradient_error = errors.norm(dim=1) / gradient.norm()
first = int((value_error < 1e-4).nonzero()[0, 0])
assert gradient_error[first] > 1e-4
assert max(value_error[-1].abs(), gradient_error[-1]) < 1e-8
print(f"✓ loss off by {value_error[first]:.0e}, gradient by {gradient_error[first]:.0e}")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-02-network", "caption": "Stopping the attack early: the loss is right long before its gradient is. On a logarithmic axis the loss's error falls about twice as steeply as the gradient's."}, "image": {"alt": "Relative error against the number of ascent steps, logarithmic. The gradient's error falls slowly from a few per cent; the loss's error starts at about one per cent and falls about twice as fast."}}
fig, ax = plt.subplots()
for error, text, colour, marker, dy in (
    (gradient_error, "gradient", "#D55E00", "o", 0),
    (value_error, "loss", "#0072B2", "s", 0),
):
    (drawn,) = ax.semilogy(range(15), error[:15], color=colour, marker=marker)
    plots.label_line(drawn, text, dy)
ax.set(xlabel="steps of the attack", ylabel="relative error")
plt.show()

# %% [markdown]
# ## At a tie: kinks, and the quotient that hides them
#
# If maximisers tie and their gradients differ, $\phi$ has no gradient ({prf:ref}`thm-02-gradient`). Formula {eq}`eq-02-danskin` shows what it has instead. Add the slopes in two opposite directions:
#
# ```{math}
# :label: eq-02-width
#
# \begin{aligned}
# & D_\gamma\phi(\theta) + D_{-\gamma}\phi(\theta) \\
# & \quad = \max_{\delta \in S^\star(\theta)} \langle\gamma, \nabla_\theta g(\theta, \delta)\rangle \\
# & \qquad - \min_{\delta \in S^\star(\theta)} \langle\gamma, \nabla_\theta g(\theta, \delta)\rangle \ge 0 .
# \end{aligned}
# ```
#
# This is the *width* of the set of gradients in the direction $\gamma$. It is never negative: the kinks of a maximum always point down, like the tip of a V. The two slopes are opposite, as they are for a
# differentiable function, only where the width is 0.
#
# :::{admonition} Source's claim (Basics slides, "Adversarial training")
# :class: claim
#
# Danskin's theorem is summed up as: the gradient of the maximum is the gradient of the function at its maximum {cite:p}`basicslides`.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# True where the maximisers share their gradient. At a tie of different gradients $\phi$ has none; the theorem speaks of slopes, one for each direction.
# :::
#
# A popular numerical test looks straight past all this. The *two-sided quotient* $(\phi(\theta + t\gamma) - \phi(\theta - t\gamma))/2t$ tends to $\tfrac12(D_\gamma\phi - D_{-\gamma}\phi)$, the mean of the slopes on either side of the
# kink. It converges, looks like a derivative, and is not the slope of $\phi$ along $\gamma$ ({numref}`fig-02-two-sided`).
#
# (check-02-8)=
# **Check 02.8** *(at a tie there are slopes but no gradient, and the two-sided quotient does not notice).* For "three" at 0, in each of the 121 directions: the slopes satisfy {eq}`eq-02-width` with a width above 0.5; the two-sided quotient equals half their difference to $10^{-9}$, for $t = 0.1$ as for
# $t = 0.001$; and it is more than 0.25 below the slope. For $\lvert\theta\rvert$ at 0 the one-sided quotient is 1 both ways and the two-sided one 0.

# %%
for γ in directions:
    products = A @ γ
    forward = ddi.directional_derivative(A, γ).item()
    backward = ddi.directional_derivative(A, -γ).item()
    width = (products.max() - products.min()).item()
    assert abs(forward + backward - width) < 1e-12 and width > 0.5
    for t in (0.1, 1e-3):
        two = ddi.two_sided(φ_three, origin, γ, t)
        assert abs(two - (forward - backward) / 2) < 1e-9
        assert two < forward - 0.25

# %%
zero, one = torch.zeros(1), torch.ones(1)
for γ in (one, -one):
    assert ddi.one_sided(torch.abs, zero, γ) == 1
assert ddi.two_sided(torch.abs, zero, one) == 0

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-02-two-sided", "caption": "A cut through the kink of \"three\". $\\phi$ rises both ways, with slopes 1.2 and 0.6; the two-sided quotient (dashed), half their difference, is the slope of $\\phi$ on neither side."}, "image": {"alt": "A V-shaped curve with its tip at zero, rising on both sides and more steeply on the right; a dashed chord-like line of small positive slope through the tip."}}
fig, ax = plt.subplots(figsize=(6.4, 3.4))
γ = torch.tensor([1.0, 0.0])
t = torch.linspace(-1, 1, 201)
ax.plot(t, φ_three(t[:, None] * γ), color="black", linewidth=2.5)
slopes = [ddi.directional_derivative(A, s * γ).item() for s in (1, -1)]
ax.plot([0, 1], [0, slopes[0]], color="#D55E00")
ax.plot([0, -1], [0, slopes[1]], color="#D55E00")
two = ddi.two_sided(φ_three, origin, γ, 1e-3)
ax.plot([-1, 1], [-two, two], "--", color="#0072B2")
ax.annotate("φ", (1, φ_three(γ).item()), xytext=(6, 0), textcoords="offset points", va="center")
ax.annotate(f"slope {slopes[0]:.1f}", (1, slopes[0]), xytext=(6, 0), textcoords="offset points", va="center", color="#D55E00")
ax.annotate(f"slope {slopes[1]:.1f}, to the left", (-1, 0.03), color="#D55E00")
ax.annotate(f"two-sided\n{two:.1f}", (1, two), xytext=(6, 0), textcoords="offset points", va="center", color="#0072B2")
ax.set(xlabel="t, along γ = (1, 0)", ylabel="φ(tγ)", xlim=(-1.02, 1.02), xticks=[-1, -0.5, 0, 0.5, 1], yticks=[0, 0.5, 1, 1.5])
plt.show()

# %% [markdown]
# ## The hull of the gradients
#
# The right object at a tie is a set: all slopes of lines that stay below $\phi$ near the point. How strictly below? {numref}`fig-02-regular` shows a line that touches $\phi$ *to first order* and yet runs above it. The first kind is what every maximiser gives; the second needs convexity.

# %%
def φ_bent(θ):
    return θ.abs() - θ**2


# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-02-regular", "caption": "$\\phi = |\\theta| - \\theta^2$ at 0: the line of slope 1, a gradient at a maximiser, runs above $\\phi$ on the right at every distance, and touches it to first order."}, "image": {"alt": "A curve with a V-shaped tip at zero that bends over on both sides; the dashed line of slope one leaves it tangentially and stays above it to the right of zero."}}
fig, ax = plt.subplots(figsize=(6.4, 3.2))
t = torch.linspace(-0.8, 0.8, 321)
ax.plot(t, φ_bent(t), color="black", linewidth=2.5)
ax.plot([-0.3, 0.45], [-0.3, 0.45], "--", color="#0072B2")
ax.annotate("slope 1", (0.45, 0.45), xytext=(6, -2), textcoords="offset points", color="#0072B2", va="center")
ax.annotate("φ", (0.8, φ_bent(t[-1]).item()), xytext=(6, 0), textcoords="offset points", va="center")
ax.set(xlabel="θ", ylabel="φ(θ)")
plt.show()

# %% [markdown]
# A vector $s$ is a *regular subgradient* of $\phi$ at $\theta$ if the plane of slope $s$ lies below $\phi$ to first order, $\phi(\theta + h) \ge \phi(\theta) + \langle s, h\rangle - o(\lVert h\rVert)$. It is a *subgradient* if
# $\phi(\theta') \ge \phi(\theta) + \langle s, \theta' - \theta\rangle$ for every $\theta'$, with nothing subtracted; the set of these is the *subdifferential* $\partial\phi(\theta)$ of convex analysis {cite:p}`rockafellar1970`.
#
# ::::{prf:theorem} The hull
# :label: thm-02-hull
#
# 1. Under the hypotheses of {prf:ref}`thm-02-danskin` the regular subgradients of $\phi$ at $\theta$ are exactly the points of the convex hull
#    $K(\theta)$ of the gradients $\nabla_\theta g(\theta, \delta)$, $\delta \in S^\star(\theta)$.
# 2. *(The convex case.)* Let $S \subset \mathbb R^n$ be compact and not empty, $g$ continuous, and every $g(\cdot, \delta)$ convex and differentiable. Then $\nabla_\theta g$ is continuous, so that {prf:ref}`thm-02-danskin` applies; $\phi$ is convex; and $\partial\phi(\theta) = K(\theta)$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-02-hull`
#
# ::::{prf:proof}
# We begin with 1. $S^\star(\theta)$ is compact and $\nabla_\theta g(\theta, \cdot)$ continuous, so the set of gradients is compact and so is its convex hull $K$. By {eq}`eq-02-danskin`,
# $D_\gamma\phi(\theta) = \max_{s \in K}\langle\gamma, s\rangle$, since a linear function has the same maximum on a set and on its hull.
#
# - Let $s = \sum_i\alpha_i\nabla_\theta g(\theta, \delta_i) \in K$, a finite convex combination. Then $\phi(\theta + h) \ge \sum_i\alpha_i g(\theta + h, \delta_i) = \phi(\theta) + \langle s, h\rangle + o(\lVert h\rVert)$.
# - Let $s$ be a regular subgradient. With $h = t\gamma$ and $t \downarrow 0$ we get $\langle s, \gamma\rangle \le D_\gamma\phi(\theta) = \max_{s' \in K}\langle\gamma, s'\rangle$ for every $\gamma$. A point outside the compact convex set $K$ could be
#   strictly separated from it by some $\gamma$, which would contradict this. So $s \in K$.
#
# For 2, a maximum of convex functions is convex. *Continuity of the gradient:* let $(\theta_n, \delta_n) \to (\theta, \delta)$ and $s_n = \nabla_\theta g(\theta_n, \delta_n)$. For all $z$, $g(z, \delta_n) \ge g(\theta_n, \delta_n) + \langle s_n, z - \theta_n\rangle$. With
# $z = \theta_n + s_n/\lVert s_n\rVert$, where $s_n \ne 0$, this shows that $(s_n)$ is bounded, as $g$ is bounded on bounded sets. A limit point $s$ satisfies $g(z, \delta) \ge g(\theta, \delta) + \langle s, z - \theta\rangle$ for all $z$, so it is a subgradient of the differentiable
# convex function $g(\cdot, \delta)$, hence its gradient. Bounded, with this one limit point, $s_n \to \nabla_\theta g(\theta, \delta)$. *The subdifferential:* a subgradient is a regular one, so it lies in $K$. If $s \in K$, then $\langle s, \gamma\rangle \le D_\gamma\phi(\theta)$, and for convex $\phi$ the quotient
# $(\phi(\theta + t\gamma) - \phi(\theta))/t$ does not decrease with $t$, so $\phi(\theta + \gamma) - \phi(\theta) \ge D_\gamma\phi(\theta) \ge \langle s, \gamma\rangle$ for every $\gamma$.
# ::::
# :::::
#
# :::{admonition} Source's claim (Cevher 2024, "Danskin's theorem", the Bertsekas variant)
# :class: claim
#
# Let $S \subset \mathbb R^n$ be compact, $g$ continuous, and $g(\cdot, \delta)$ convex. Then (1) $\phi$ is convex; (2) if the maximiser is unique, $\phi$ is differentiable with $\nabla\phi(\theta) = \nabla_\theta g(\theta, \delta^\star)$;
# (3) otherwise $\partial\phi(\theta)$ is the convex hull of the subdifferentials of $g(\cdot, \delta^\star)$ at the maximisers {cite:p}`bertsekas1999`.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# (1) and (3) hold as printed {cite:p}`hiriarturruty1993`; we prove (3) where $g$ is differentiable. (2) needs one word more: $g(\cdot, \delta^\star)$ must be *differentiable* at $\theta$, as the symbol $\nabla_\theta g$ suggests. Convexity pays for much, namely for continuity of the gradient and
# for inequalities that hold globally, but the loss of a network is not convex in its parameters.
# :::
#
# The second case, "three", is convex. {numref}`fig-02-hull` shows its creases, where maximisers tie, and the hull at three points. At A, the origin, we test every point $s$ of a grid in two ways: by geometry, whether the least-norm point of the hull of the
# $a_i - s$ is 0 (`ddi.min_norm_point`, which {ref}`chapter 5 <chapter-05>` explains); and by the definition, whether the subgradient inequality survives $2\,880$ trial points $\theta'$.

# %%
axes = torch.linspace(-0.9, 1.5, 25), torch.linspace(-0.6, 1.3, 20)
s = torch.cartesian_prod(*axes)
shifted = A - s[:, None]  # (500, 3, 2)
inside = ddi.min_norm_point(shifted @ shifted.mT).squared_norm.sqrt() < 1e-6
ring = circle(torch.linspace(-math.pi, math.pi, 720))
trials = torch.cat([r * ring for r in (1e-3, 1e-2, 0.1, 1)])
values = φ_three(trials)
violation = (s @ trials.T - values).amax(1)  # positive: the plane pierces φ

# %% [markdown]
# (check-02-9)=
# **Check 02.9** *(in the convex case the subdifferential is the hull).* For all 500 points $s$ both tests give the same answer (tolerance $10^{-12}$ for the inequality), and both answers occur more than 50 times. The midpoint
# inequality confirms at $2\,880$ pairs that $\phi$ is convex.

# %% tags=["hide-input"]
assert torch.equal(inside, violation <= 1e-12)
assert min(inside.sum(), (~inside).sum()) > 50
pairs = trials[torch.randperm(len(trials), generator=generator)]
middles = (values + φ_three(pairs)) / 2
assert (φ_three((trials + pairs) / 2) <= middles + 1e-12).all()
print(f"✓ {int(inside.sum())} of {len(s)} grid points are subgradients, by both tests")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-02-hull", "caption": "Above: level lines of $\\phi$ for \"three\"; along the grey creases two maximisers tie, at A all three. Below: the subdifferentials there, a triangle at A, a segment at B, a point at C. The dots are the subgradients that check 02.9 found. The slope $D_\\gamma\\phi$ at A is how far the triangle reaches in the direction of the unit vector $\\gamma$: the length of the arrow, up to the dashed line."}, "image": {"alt": "Above, contour lines with kinks along three grey rays that meet at A; B lies on a ray, C on none. Below, a triangle with corners a1, a2, a3 filled with small dots; an arrow gamma from the origin, and at right angles to it a dashed line that touches the corner a2; a segment B and a point C elsewhere."}}
fig, (left, right) = plt.subplots(2, 1, figsize=(5.8, 9.2))
axis = torch.linspace(-1.5, 1.5, 241)
plane = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
scores = plane @ A.T
left.contour(axis, axis, scores.amax(-1) + 0.3 * plane.square().sum(-1), levels=[0.12 + 0.3 * k for k in range(14)], colors="#56B4E9", linewidths=1.2)
for i, j, k in ((0, 1, 2), (1, 2, 0), (0, 2, 1)):  # a crease is a ray on which two scores tie above the third
    ray = torch.tensor([-(A[i] - A[j])[1], (A[i] - A[j])[0]])
    ray = ray if (A[i] - A[k]) @ ray > 0 else -ray
    left.plot(*(torch.stack([0 * ray, 1.5 * ray / ray.abs().max()])).T, color="#777777", linewidth=3, alpha=0.7)
    if (i, j) == (1, 2):
        B = 0.9 * ray / ray.abs().max()
C = torch.tensor([1.0, -0.5])
for name, point in (("A", origin), ("B", B), ("C", C)):
    left.plot(*point, "o", color="black")
    left.annotate(name, point, xytext=(7, 5), textcoords="offset points", weight="bold")
left.set(xlabel="$θ_1$", ylabel="$θ_2$", xticks=[-1, 0, 1], yticks=[-1, 0, 1], aspect="equal")

right.fill(*A.T, color="#56B4E9", alpha=0.25)
right.plot(*s[inside].T, ".", color="#0072B2", markersize=3)
for i, (dx, dy) in enumerate(((2, -14), (8, 4), (-20, -4))):
    right.plot(*A[i], "o", color="black")
    right.annotate(f"$a_{i + 1}$", A[i], xytext=(dx, dy), textcoords="offset points")
segment = A[1:] + 0.6 * B
right.plot(*segment.T, color="black", linewidth=3)
right.annotate("B", segment.mean(0), xytext=(-6, 8), textcoords="offset points", weight="bold")
point = A[0] + 0.6 * C
right.plot(*point, "o", color="black")
right.annotate("C", point, xytext=(7, 3), textcoords="offset points", weight="bold")
right.text(0.65, 0.35, "A", weight="bold", ha="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.8})
γ = circle(torch.tensor(1.25))
reach, normal = (A @ γ).max() * γ, torch.stack([-γ[1], γ[0]])
right.annotate("", reach, xytext=(0, 0), arrowprops={"arrowstyle": "-|>", "color": "#D55E00", "linewidth": 2, "shrinkA": 0, "shrinkB": 0})
right.annotate("γ", 0.5 * reach, xytext=(-14, 4), textcoords="offset points", color="#D55E00", fontsize=14)
right.plot(*torch.stack([reach - 0.9 * normal, reach + 0.55 * normal]).T, "--", color="#D55E00")
right.plot(0, 0, "+", color="black", markersize=9)
right.annotate("0", (0, 0), xytext=(-6, -16), textcoords="offset points")
right.set(xlabel="first component of a gradient", ylabel="second component", aspect="equal", xlim=(-1.15, 2.15), ylim=(-0.95, 1.75))
plt.show()

# %% [markdown]
# (check-02-10)=
# **Check 02.10** *(item 2 of the variant needs differentiability).* With a single perturbation, $S = \{0\}$, and $g(\theta, 0) = \lvert\theta\rvert$, which is convex and continuous, the maximiser is unique; yet both one-sided slopes at 0 are $+1$, so there is no
# gradient. The subdifferential is $[-1, 1]$, as item 3 says (tried on 41 slopes).

# %% tags=["hide-input"]
def φ_alone(θ):
    return max(θ.abs().item() for δ in [0])  # the maximum over S = {0}


for γ in (one, -one):
    assert ddi.one_sided(φ_alone, zero, γ) == 1
for slope in torch.linspace(-2, 2, 41):
    below = all(φ_alone(r * one) >= slope * r for r in (-1, -0.1, 0.1, 1))
    assert below == bool(slope.abs() <= 1 + 1e-12)

# %% [markdown]
# ## Breaking it
#
# ### The gradient is not jointly continuous
#
# :::{admonition} Source's claim (Cevher 2024, "Descent directions in the non-convex case", the general theorem)
# :class: claim
#
# If $S$ is compact and $g$ is differentiable in $\theta$, not necessarily convex, then $\phi$ is directionally differentiable and {eq}`eq-02-danskin` holds.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# As printed it is false: continuity is missing, that of $g$ (without which there may be no maximum) and that of $\nabla_\theta g$. The same lecture states both where it first gives the theorem.
# :::
#
# Let $S = [0, 1]$ and
#
# ```{math}
# :label: eq-02-pinch
#
# g(\theta, \delta) = \frac{2\delta\theta^2}{\delta^2 + \theta^2}, \quad g(0, 0) = 0, \qquad
# \frac{\partial g}{\partial\theta} = \frac{4\delta^3\theta}{(\delta^2 + \theta^2)^2} .
# ```
#
# $S$ is compact; $g$ is continuous, since $2\delta\lvert\theta\rvert \le \delta^2 + \theta^2$ gives $0 \le g \le \lvert\theta\rvert$; and every $g(\cdot, \delta)$ is differentiable, with derivative 0 at $\theta = 0$. So the formula says that $\phi$ is flat at
# 0. But the bound $\lvert\theta\rvert$ is attained, at $\delta = \lvert\theta\rvert$: $\phi(\theta) = \lvert\theta\rvert$ for $\lvert\theta\rvert \le 1$. Each curve in {numref}`fig-02-breaking` is flat at 0; their upper envelope is not. The derivative is continuous in $\theta$ and
# continuous in $\delta$, but not in both together: it is 1 all along the diagonal $\delta = \theta$, up to the origin.

# %%
def pinch(θ, δ):
    return 2 * δ * θ**2 / (δ**2 + θ**2)


def φ_pinch(θ):
    return pinch(θ, δs).max()


# %% [markdown]
# (check-02-11)=
# **Check 02.11** *(without joint continuity of the gradient the formula fails).* At 0 every gradient vanishes (by autograd, for every $\delta > 0$ of a grid), so the formula gives 0 both ways; the quotient of $\phi$ is 1 both ways, to $10^{-3}$, for $t$ from 1 to $10^{-3}$. Tilted, with $g - \theta/2$, the
# formula promises a descent of slope $-\tfrac12$ along $+1$, where $\phi$ rises with slope $+\tfrac12$.

# %%
δs = torch.logspace(-5, 0, 2001)  # S, without the point 0, where pinch is 0
θs = torch.zeros(len(δs), requires_grad=True)
gradients = torch.autograd.grad(pinch(θs, δs).sum(), θs)[0][:, None]
for γ in (one, -one):
    assert ddi.directional_derivative(gradients, γ) == 0
    for t in (1.0, 0.1, 0.01, 0.001):
        assert abs(ddi.one_sided(φ_pinch, zero, γ, t) - 1) < 1e-3
assert ddi.directional_derivative(gradients - 0.5, one) == -0.5
tilted = ddi.one_sided(lambda θ: φ_pinch(θ) - θ / 2, zero, one, 1e-3)
assert abs(tilted - 0.5) < 1e-3

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-02-breaking", "caption": "The function {eq}`eq-02-pinch`. Top: every curve is flat at 0, their maximum $|\\theta|$ is not. Bottom: the derivative in $\\theta$ is constant on each ray into the origin and differs from ray to ray, so it cannot be continuous there; on the diagonal (orange) it is 1."}, "image": {"alt": "Top, five thin bell-bottomed curves touching zero flatly, under a thick black V. Bottom, the derivative in the theta-delta plane as a fan of wedges that all meet in the origin, from white along both axes to dark blue between them; the diagonal is marked 1."}}
fig, (left, right) = plt.subplots(2, 1, figsize=(5.6, 8.4), height_ratios=(1, 1.4))
t = torch.linspace(-1, 1, 401)
for δ, shade in zip((0.05, 0.1, 0.2, 0.4, 0.8), plt.cm.Blues([0.6, 0.69, 0.78, 0.87, 0.96]), strict=True):
    left.plot(t, pinch(t, δ), color=shade, linewidth=1.5)
    left.annotate(f"δ = {δ:g}", (1, pinch(1.0, δ)), xytext=(5, 0), textcoords="offset points", va="center", color=shade)
left.plot(t, t.abs(), color="black")
left.annotate("φ", (-0.9, 0.9), xytext=(6, 2), textcoords="offset points", fontsize=13)
left.set(xlabel="θ", ylabel="g(θ, δ)")
a, b = torch.meshgrid(torch.linspace(1e-4, 1, 300), torch.linspace(1e-4, 1, 300), indexing="xy")
fan = right.contourf(a, b, 4 * b**3 * a / (a**2 + b**2) ** 2, levels=torch.linspace(0, 1.3, 14), cmap="Blues")
right.plot([0, 1], [0, 1], color="#D55E00")
right.annotate("1", (0.75, 0.75), xytext=(-16, 4), textcoords="offset points", color="white", fontsize=14)
right.grid(False)
fig.colorbar(fan, ax=right, ticks=[0, 0.5, 1], label="∂g/∂θ", shrink=0.75)
right.set(xlabel="θ", ylabel="δ", aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
plt.show()

# %% [markdown]
# ### The set is not compact
#
# Put $1/\delta$ for $\delta$ in {eq}`eq-02-pinch`: now $S = [1, \infty)$ and $g(\theta, \delta) = 2\delta\theta^2/(1 + \delta^2\theta^2)$. There is no pinch any more; $g$ has continuous derivatives of every order in both variables. The maximum is attained at every
# $\theta$, at $\delta = 1/\lvert\theta\rvert$ for $0 < \lvert\theta\rvert \le 1$, at $\delta = 1$ for larger $\lvert\theta\rvert$ and everywhere for $\theta = 0$; and $\phi(\theta) = \lvert\theta\rvert$ for $\lvert\theta\rvert \le 1$ as before. All hypotheses hold but compactness, and the formula says 0 again. What breaks is
# part 1 of {prf:ref}`lem-02-near` for the gradient: as $\theta \downarrow 0$ the maximiser $1/\theta$ escapes to infinity, where $\partial g/\partial\theta$ is 1, though it tends to 0 for every fixed $\delta$. Add the missing point $\delta = \infty$ to make $S$ compact, and it is the point at which the gradient is not continuous. The two failures are one.

# %%
def escape(θ, δ):
    return 2 * δ * θ**2 / (1 + δ**2 * θ**2)


def on_compact(θ):
    return escape(θ, torch.logspace(0, 5, 5001)).max()


def on_half_line(θ):
    return escape(θ, 1 / θ.abs().clamp(1e-30, 1))  # at a maximiser


# %% [markdown]
# (check-02-12)=
# **Check 02.12** *(without compactness the formula fails, even where the maximum is attained).* On $[1, 10^5]$, which is compact, the quotient follows the formula at last: it is 0 to $0.03$ at $t = 10^{-7}$. On $[1, \infty)$ it is 1 at every
# $t \le 1$ (four of them, down to $10^{-12}$), since the maximiser $1/t$ is always there. On an open interval there may be nothing to attain: $g = \theta\delta$ on $(0, 1)$ at $\theta = 1$ grows along $\delta = 1 - 2^{-k}$ and stays below its supremum 1.

# %% tags=["hide-input"]
assert ddi.one_sided(on_compact, zero, one, 1e-7) < 0.03
for t in (1.0, 1e-3, 1e-7, 1e-12):
    assert abs(ddi.one_sided(on_half_line, zero, one, t) - 1) < 1e-9
open_interval = 1 - 2.0 ** -torch.arange(1, 40)
assert ((1.0 * open_interval).diff() > 0).all() and (open_interval < 1).all()

# %% [markdown]
# ### No convexity: which subgradient?
#
# :::{admonition} Source's claim (Cevher 2024, "Danskin's theorem", remarks)
# :class: claim
#
# The adversarial problem is not convex in general; (sub)gradients of $\phi$ are computed as $\nabla_\theta g(\theta, \delta^\star)$, with one maximiser.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# It depends on the word. With a unique maximiser it is the gradient. In the convex case it is one subgradient. With neither, {prf:ref}`thm-02-hull` leaves a *regular* subgradient, and always that; but in general no subgradient in the sense of
# convex analysis, not even if only $\theta'$ near $\theta$ are tried.
# :::
#
# Let $g(\theta, \delta) = \delta\theta - \theta^2$ on $[-1, 1]$, so $\phi(\theta) = \lvert\theta\rvert - \theta^2$. At $\theta = 0$ every $\delta$ is a maximiser, and $\delta = 1$ has the gradient 1. The line of slope 1 runs *above* $\phi$ at every $\theta' > 0$, however near; it
# stays below $\phi$ only up to a second-order term, as {numref}`fig-02-regular` has shown.
#
# (check-02-13)=
# **Check 02.13** *(without convexity the gradient at one maximiser is a regular subgradient, but no subgradient).* For 200 values of $h$ from $10^{-6}$ to 1: $\phi(h) < 1 \cdot h$, so the subgradient inequality fails; $\phi(\pm h) \ge \pm h - h^2$, so the regular one holds; and the slope 1.1,
# outside the hull, violates even that for small $h$.

# %% tags=["hide-input"]
h = torch.logspace(-6, 0, 200)
for δ in torch.linspace(-1, 1, 21):
    assert (φ_bent(h) >= δ * h - h**2 - 1e-15).all()  # φ is a maximum over δ
assert (φ_bent(h) < h).all()
for side in (h, -h):
    assert (φ_bent(side) >= side - h**2 - 1e-15).all()
assert ((φ_bent(h) - 1.1 * h) / h)[h < 1e-3].max() < -0.09

# %% [markdown]
# ## Summary
#
# - Danskin: the slope of a maximum is the largest slope among **all** maximisers, each frozen. The lower bound is free; compactness and joint continuity of $\nabla_\theta g$ buy the upper bound.
# - $\phi$ has a gradient exactly where all maximisers share theirs. Then one attack and one backward pass give it. An attack that stops early gives a loss with a small error and a gradient with a larger one.
# - At a tie of different gradients $\phi$ has a kink that points down, and the hull of the gradients takes the gradient's place. Two-sided quotients do not see it.
# - Without convexity, the gradient at one maximiser is still a regular subgradient. Whether its negative *descends* is another question: {ref}`chapter 3 <chapter-03>`.

# %% [markdown]
# ## Exercises
#
# ::::{exercise} Local Lipschitz continuity
# :label: ex-02-lipschitz
#
# Show that under the hypotheses of {prf:ref}`thm-02-danskin` $\phi$ is Lipschitz on every ball.
# ::::
#
# ::::{solution} ex-02-lipschitz
# :label: sol-02-lipschitz
# :class: dropdown
#
# Let $B$ be a closed ball. $B \times S$ is compact, so $\lVert\nabla_\theta g\rVert$ has a maximum $M$ on it. Let $\theta, \theta' \in B$ and let $\delta$ be a maximiser at $\theta$. By the mean value theorem, on the segment between them, which lies in $B$,
#
# $$
# \phi(\theta) - \phi(\theta') \le g(\theta, \delta) - g(\theta', \delta) \le M \lVert\theta - \theta'\rVert .
# $$
#
# Exchange the roles of $\theta$ and $\theta'$ for the other sign.
# ::::
#
# ::::{exercise} The slope of a norm
# :label: ex-02-norm
#
# Let $g(\theta, \delta) = \langle\theta, \delta\rangle$ and $S = \{\lVert\delta\rVert_\infty \le 1\}$, so that $\phi(\theta) = \lVert\theta\rVert_1$. Which are the maximisers at $\theta = (2, 0, -1)$? Derive $D_\gamma\phi(\theta)$, and compare your formula with `ddi.directional_derivative` and with a difference quotient.
# ::::
#
# ```{solution-start} ex-02-norm
# :label: sol-02-norm
# :class: dropdown
# ```
#
# $\delta_j = \operatorname{sign}\theta_j$ where $\theta_j \ne 0$, and $\delta_j \in [-1, 1]$ is free where $\theta_j = 0$: the edge from $(1, -1, -1)$ to $(1, 1, -1)$. As $\nabla_\theta g = \delta$, the formula gives
# $D_\gamma\phi(\theta) = \sum_{\theta_j \ne 0}\gamma_j\operatorname{sign}\theta_j + \sum_{\theta_j = 0}\lvert\gamma_j\rvert$. The two ends of the edge suffice, since a linear function is largest at an end.

# %%
θ = torch.tensor([2.0, 0.0, -1.0])
ends = torch.tensor([[1.0, -1.0, -1.0], [1.0, 1.0, -1.0]])
for γ in torch.randn(20, 3, generator=generator):
    by_hand = γ[0] + γ[1].abs() - γ[2]
    assert abs(ddi.directional_derivative(ends, γ) - by_hand) < 1e-12
    quotient = ddi.one_sided(lambda θ: θ.abs().sum(), θ, γ, 1e-3)
    assert abs(quotient - by_hand) < 1e-9

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} An inexact attack
# :label: ex-02-inexact
#
# Let every $g(\cdot, \delta)$ be convex and differentiable, and let $\tilde\delta$ be a maximiser only up to $\epsilon$: $g(\theta, \tilde\delta) \ge \phi(\theta) - \epsilon$. Which inequality does $\tilde s = \nabla_\theta g(\theta, \tilde\delta)$ satisfy? Verify it for the disc at
# $(1.2, 0.5)$.
# ::::
#
# ```{solution-start} ex-02-inexact
# :label: sol-02-inexact
# :class: dropdown
# ```
#
# For every $\theta'$, $\phi(\theta') \ge g(\theta', \tilde\delta) \ge g(\theta, \tilde\delta) + \langle\tilde s, \theta' - \theta\rangle \ge \phi(\theta) + \langle\tilde s, \theta' - \theta\rangle - \epsilon$. Such an $\tilde s$ is called an *$\epsilon$-subgradient*. Its plane may
# cut off a piece of $\phi$, but no deeper than $\epsilon$. In the disc's problem, where $\tilde s = \tilde\delta$, the exact subgradient is unique and every other $\tilde\delta$ does cut, at $\theta' = \tilde\delta$ by the whole gap:

# %%
for δ in ddi.L2(1.0, box=None).sample(torch.zeros(20, 2), generator):
    gap = φ_disc(θ_disc) - (θ_disc @ δ - δ @ δ / 2)
    for other in [*(θ_disc + γ for γ in directions), δ]:
        margin = φ_disc(other) - φ_disc(θ_disc) - δ @ (other - θ_disc)
        assert margin >= -gap - 1e-12
    assert abs(margin + gap) < 1e-12 < gap  # the last, θ' = δ: cut by the whole gap

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} What autograd says at a tie
# :label: ex-02-autograd
#
# Write "three" as `(A @ θ).amax() + 0.3 * θ @ θ` and let autograd differentiate it at $\theta = 0$. Which vector is it? Is it in the hull? Is its negative a direction along which $\phi$ falls?
# ::::
#
# ```{solution-start} ex-02-autograd
# :label: sol-02-autograd
# :class: dropdown
# ```
#
# `amax` shares the gradient equally among the tied entries, so we get the mean $(a_1 + a_2 + a_3)/3$: a point of the hull, by convention, and no derivative, for there is none. Its negative does not descend: the
# slope along it is positive, because $a_3$ makes an obtuse angle with the mean.

# %%
at_tie = torch.func.grad(lambda θ: (A @ θ).amax() + 0.3 * θ @ θ)(origin)
assert torch.allclose(at_tie, A.mean(0))
slope = ddi.directional_derivative(A, -at_tie)
assert slope > 0.05
assert abs(ddi.one_sided(φ_three, origin, -at_tie, 1e-4) - slope) < 1e-3

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} A minimum instead
# :label: ex-02-minimum
#
# Let $\chi(\theta) = \min_{\delta \in S} g(\theta, \delta)$ under the same hypotheses. What is $D_\gamma\chi(\theta)$? Which way do the kinks of $\chi$ point? Is $-\nabla_\theta g(\theta, \delta_\star) \ne 0$, at one minimiser $\delta_\star$, a descent direction?
# ::::
#
# ::::{solution} ex-02-minimum
# :label: sol-02-minimum
# :class: dropdown
#
# Apply {eq}`eq-02-danskin` to $-g$: $\chi = -\max(-g)$, so $D_\gamma\chi(\theta)$ is the least $\langle\gamma, \nabla_\theta g(\theta, \delta)\rangle$ over the minimisers $\delta$. By the same sign change $D_\gamma\chi + D_{-\gamma}\chi \le 0$: the kinks point up. And yes: along
# $\gamma = -\nabla_\theta g(\theta, \delta_\star)$ the minimum is at most the value at $\delta_\star$ itself, $-\lVert\nabla_\theta g(\theta, \delta_\star)\rVert^2 < 0$. With a friend in place of an adversary, one solution is enough.
# ::::
