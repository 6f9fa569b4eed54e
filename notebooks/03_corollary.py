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
# (chapter-03)=
# # The corollary, its counterexamples, and why it holds almost everywhere
#
# :::{admonition} What you will learn
# :class: frame
#
# - why the gradient at an optimal perturbation need not give a descent direction of the robust loss;
# - the line at which the well-known proof slips, and the criterion that tells when its conclusion is true;
# - why every counterexample lives on a set of parameters of measure zero;
# - why training with one exact maximiser converges without descending, and which question that leaves open.
#
# **Before you start.** {ref}`Chapter 2 <chapter-02>`: Danskin's theorem and one-sided derivatives. The symbols are those of {ref}`notation`.
#
# **Time and hardware.** An hour to read; a few seconds to run on one processor core.
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
# ## A valley
#
# {numref}`fig-03-valley` is the whole problem. A robust loss $\phi$ is the larger of two linear losses with gradients $u$ and $v$; it is a valley with two straight walls. At a point on its floor both losses are maximal. Training takes *one* of the two gradients and steps against it. Both such steps climb. The way down is along the floor, and only the two gradients together know where that is.

# %%
def pair(ω):
    """Unit vectors u, v at the angle ω, with u + v pointing up."""
    s, c = math.sin(ω / 2), math.cos(ω / 2)
    return torch.tensor([[s, c], [-s, c]])


# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-03-valley", "caption": "Both negative gradients cross the valley floor and climb; the way down is along the floor. Contours of $\\phi$ in counterexample 2, at an angle of 120°."}, "image": {"alt": "V-shaped contours of phi around the origin with the kink as a vertical dashed line. Two orange arrows, minus u and minus v, point down to the left and down to the right into the region where phi is higher; a blue arrow, along minus (u plus v), points straight down into the region where phi is lower."}}
u, v = pair(math.radians(120))
axis = torch.linspace(-1.35, 1.35, 201)
X, Y = torch.meshgrid(axis, axis, indexing="xy")
θ = torch.stack([X, Y], -1)
values = torch.maximum(θ @ u, θ @ v)
levels = [k / 4 for k in range(-4, 9)]
halo = [withStroke(linewidth=5, foreground="#dddddd")]
fig, ax = plt.subplots(figsize=(5.2, 5.2))
ax.contourf(X, Y, values, levels=levels, cmap="Greys", vmin=-1.2, vmax=4, extend="both")
ax.contour(X, Y, values, levels=levels, colors="#555555", linewidths=[3 if k == 0 else 0.8 for k in levels], linestyles="-")
for height, y in ((0, -0.95), (0.5, 0.2), (1, 0.75)):
    ax.text(-(height - 0.5 * y) / math.sqrt(0.75) - 0.05, y, f"φ = {height:g}", rotation=60, rotation_mode="anchor", ha="center", va="bottom")
ax.plot([0, 0], [-1.35, 1.35], color="black", linestyle=":", linewidth=1.5)
ax.text(0.05, 1.2, "the kink", va="center")
for w, method, label, xy in ((-u, "PGD", "$-u$", (-1.1, -0.66)), (-v, "PGD", "$-v$", (0.92, -0.66)), (-(u + v), "DDi", "$-(u+v)$", (0.07, -1.16))):
    color = plots.METHODS[method]["color"]
    ax.annotate("", w.tolist(), (0, 0), arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 3.5, "mutation_scale": 24, "shrinkA": 0, "shrinkB": 0})
    ax.text(*xy, label, color=color, fontsize=17, va="center", path_effects=halo)
ax.plot(0, 0, "o", color="black", markersize=7)
ax.set(xlabel="$θ_1$", ylabel="$θ_2$", aspect="equal", xlim=(-1.35, 1.35), ylim=(-1.35, 1.35))
ax.grid(False)
plt.show()

# %% [markdown]
# ## The claim
#
# $S$ is a compact metric space ({ref}`chapter 2 <chapter-02>` needed no metric; the sequences of {prf:ref}`thm-03-clarke` do), $g(\theta, \delta)$ is continuous, and $\nabla_\theta g$ exists and is continuous in $(\theta, \delta)$ jointly.
# We write $\phi(\theta) = \max_{\delta \in S} g(\theta, \delta)$, $S^\star(\theta)$ for the set of maximisers, and
#
# ```{math}
# :label: eq-03-danskin
#
# \begin{aligned}
# D_\gamma\phi(\theta) &= \lim_{t \downarrow 0} \frac{\phi(\theta + t\gamma) - \phi(\theta)}{t} \\
# &= \max_{\delta \in S^\star(\theta)} \langle \gamma, \nabla_\theta g(\theta, \delta) \rangle .
# \end{aligned}
# ```
#
# The second equality is Danskin's theorem. A vector $\gamma$ is a *descent direction* of $\phi$ at $\theta$ if $D_\gamma\phi(\theta) < 0$, and an *ascent direction* if $D_\gamma\phi(\theta) > 0$.
#
# :::{admonition} Source's claim (Madry et al. 2018, Corollary C.2; Latorre et al. 2023, Corollary 1)
# :class: claim
#
# Let $\delta^\star$ be any maximiser at $\theta$. If $\nabla_\theta g(\theta, \delta^\star) \ne 0$, then $-\nabla_\theta g(\theta, \delta^\star)$ is a descent direction of $\phi$ at $\theta$.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# By this corollary {cite:t}`madry2018` justify adversarial training: find one optimal perturbation, then take a gradient step.
# {cite:t}`latorre2023` show that it is false; the lecture {cite}`cevher2024` and the slides {cite}`cho2023` report this.
# :::
#
# ### Counterexample 1: the absolute value
#
# :::{admonition} Source's claim (Latorre et al. 2023, Counterexample 1, equation (5))
# :class: claim
#
# Let $S = [-1, 1]$ and $g(\theta, \delta) = \theta\delta$, so that $\phi(\theta) = |\theta|$. At $\theta = 0$ the perturbation $\delta = 1$ is optimal and has gradient $1$. Yet $-1$ is no descent direction, as $0$ is the global minimiser.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# It holds. At $\theta = 0$ *every* $\delta$ is optimal, $S^\star(0) = [-1, 1]$: a continuum of maximisers, with all gradients from $-1$ to $1$.
# :::
#
# (check-03-1)=
# **Check 03.1** *(every $\delta \in [-1, 1]$ is optimal at $0$, and $\phi$ rises both ways).* On a grid of 2001 perturbations all losses tie exactly. The slope along $\gamma$ by Danskin's formula, by the two ends alone,
# and by difference quotients of three lengths is $|\gamma|$, to $10^{-12}$.

# %% tags=["hide-input"]
δ, θ = torch.linspace(-1, 1, 2001), torch.zeros(2001, requires_grad=True)
loss = θ * δ
(gradients,) = torch.autograd.grad(loss.sum(), θ)
assert (loss == 0).all()  # S*(0) is the whole interval
assert torch.equal(gradients, δ)

# %% tags=["hide-input"]
O = torch.zeros(1)
for γ in torch.tensor([[-3.0], [-1.0], [1.0], [2.0]]):
    for M in (gradients[:, None], gradients[[0, -1], None]):
        assert abs(ddi.directional_derivative(M, γ) - γ.norm()) < 1e-12
    for t in (1e-6, 1e-2, 10.0):
        quotient = ddi.one_sided(lambda θ: (θ * δ).max(), O, γ, t)
        assert abs(quotient - γ.norm()) < 1e-12

# %% [markdown]
# ## The line where the proof slips
#
# The argument of Madry et al., as the paper retells it in its equation (8), has three lines. Let $\bar\delta \in S^\star(\theta)$ and $\gamma = \nabla_\theta g(\theta, \bar\delta) \ne 0$.
#
# 1. By Danskin's theorem, $D_\gamma\phi(\theta) = \max_{\delta \in S^\star(\theta)} \langle\gamma, \nabla_\theta g(\theta, \delta)\rangle$. **True.**
# 2. The maximum is at least the term of $\bar\delta$, so $D_\gamma\phi(\theta) \ge \lVert\gamma\rVert^2 > 0$. **True.**
# 3. Hence $D_{-\gamma}\phi(\theta) < 0$. **Here it slips.** To walk *along* a gradient raises $\phi$. It does not follow that to walk *against* it lowers $\phi$.
#
# :::{admonition} Source's claim (Latorre et al. 2023, Lemma 1 and section 2)
# :class: claim
#
# Let $\hat D_\gamma\phi(\theta)$ be the *two-sided* limit, as $t \to 0$, of $(\phi(\theta + t\gamma) - \phi(\theta))$ divided by $t \lVert\gamma\rVert$. If it exists, then $\hat D_{-\gamma}\phi(\theta) = -\hat D_\gamma\phi(\theta)$.
# The flawed proof uses this rule for one-sided derivatives, for which it is false.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# Both sentences hold. Lemma 1 is true, and line 3 misuses it: Danskin's theorem speaks of one-sided derivatives. The next theorem says what exactly line 3 forgets.
# :::
#
# ::::{prf:theorem} What line 3 forgets
# :label: thm-03-width
#
# For every $\theta$ and $\gamma$,
#
# $$
# \begin{aligned}
# & D_\gamma\phi(\theta) + D_{-\gamma}\phi(\theta) \\
# & \quad = \max_{\delta \in S^\star(\theta)} \langle\gamma, \nabla_\theta g(\theta, \delta)\rangle \\
# & \qquad - \min_{\delta \in S^\star(\theta)} \langle\gamma, \nabla_\theta g(\theta, \delta)\rangle \ge 0 .
# \end{aligned}
# $$
#
# The two-sided limit along $\gamma$ exists if and only if this *width* of the set of gradients is $0$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-03-width`, and of Lemma 1
#
# ::::{prf:proof}
# By {eq}`eq-03-danskin`, $D_{-\gamma}\phi(\theta) = \max_\delta \langle-\gamma, \nabla_\theta g(\theta, \delta)\rangle = -\min_\delta \langle\gamma, \nabla_\theta g(\theta, \delta)\rangle$, both over the compact set $S^\star(\theta)$. Add $D_\gamma\phi(\theta)$.
# Let $q(t) = (\phi(\theta + t\gamma) - \phi(\theta))/t$ for $t \ne 0$. As $t \downarrow 0$, $q(t) \to D_\gamma\phi(\theta)$ and $q(-t) \to -D_{-\gamma}\phi(\theta)$.
# The two-sided limit exists if and only if these agree, that is, if the sum is $0$.
#
# Lemma 1 is the same remark. If $q$ has a two-sided limit $\ell$, then the quotient along $-\gamma$, which is $(\phi(\theta - t\gamma) - \phi(\theta))/t = -q(-t)$, has the limit $-\ell$. Divide by $\lVert\gamma\rVert$.
# ::::
# :::::
#
# In plain words: if the maximisers disagree about the slope along $\gamma$, the largest opinion wins in *both* directions, forward and backward.
#
# To test this we make 100 random kinks. In each, four losses $g_i(\theta) = \langle v_i, \theta\rangle + b_i \lVert\theta\rVert^2$ tie at $\theta = 0$, with gradients $v_i \in \mathbb{R}^3$.

# %%
gen, O = torch.Generator().manual_seed(3), torch.zeros(3)
kinks = torch.randn(100, 4, 3, generator=gen) + torch.tensor([1.0, 0.0, 0.0])
bends = torch.randn(100, 4, generator=gen)
products = kinks @ kinks.mT  # of each kink, the Gram matrix of its gradients

# %%
def slopes(V, b, directions):
    """Difference quotients of φ at 0 along each direction."""

    def φ(θ):
        return (V @ θ + b * (θ @ θ)).max()

    return torch.tensor([ddi.one_sided(φ, O, γ, t=1e-9) for γ in directions])


forward = torch.cat([slopes(V, b, V) for V, b in zip(kinks, bends)])
backward = torch.cat([slopes(V, b, -V) for V, b in zip(kinks, bends)])

# %% [markdown]
# (check-03-2)=
# **Check 03.2** *(lines 1 and 2 are true, line 3 is not, and the width is what is missing).* Difference quotients with $t = 10^{-9}$, to within $10^{-6}$, in 400 cases. Line 3 must fail in more than 50, and hold in more than 50; so often must (8) as printed fail with the paper's definition (6), which divides by $\lVert\gamma\rVert$. The loss $g(\cdot, \bar\delta)$ falls with slope $-\lVert\gamma\rVert^2$ in each.

# %% tags=["hide-input"]
square = products.diagonal(dim1=1, dim2=2).flatten()  # ‖γ‖²
width = (products.amax(2) - products.amin(2)).flatten()
assert (forward - square).min() > -1e-6  # lines 1 and 2, equation (8)
assert (forward + backward - width).abs().max() < 1e-6  # the theorem
assert (backward > 1e-3).sum() > 50  # line 3 fails
assert (backward < -1e-3).sum() > 50  # line 3 holds

# With definition (6), divided by ‖γ‖, equation (8) is not always true:
assert (forward / square.sqrt() < square - 1e-3).sum() > 50

# %% tags=["hide-input"]
each = zip(kinks.flatten(0, 1)[:, None], bends.flatten())
alone = torch.cat([slopes(v, b, -v) for v, b in each])
assert (alone + square).abs().max() < 1e-6  # g at one perturbation falls
failed, held = int((backward > 1e-3).sum()), int((backward < -1e-3).sum())
print(f"✓ lines 1 and 2 hold in all {len(square)} cases")
print(f"✓ line 3 fails in {failed} and holds in {held} of them; bound 50 each")

# %% [markdown]
# ## When the corollary is true: the criterion
#
# ::::{prf:theorem} Criterion
# :label: thm-03-criterion
#
# Let $\bar\delta \in S^\star(\theta)$ and $\bar v = \nabla_\theta g(\theta, \bar\delta)$. Then
#
# $$
# D_{-\bar v}\,\phi(\theta) = -\min_{\delta \in S^\star(\theta)} \langle \bar v, \nabla_\theta g(\theta, \delta)\rangle .
# $$
#
# So $-\bar v$ is a descent direction **if and only if** $\langle\bar v, \nabla_\theta g(\theta, \delta)\rangle > 0$ for every maximiser $\delta$, and an ascent direction if and only if the product is negative for some maximiser.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-03-criterion`
#
# ::::{prf:proof}
# Put $\gamma = -\bar v$ into {eq}`eq-03-danskin`. The set $S^\star(\theta)$ is compact, as $S$ is compact and $g(\theta, \cdot)$ is continuous, and the product is continuous in $\delta$. So the minimum is attained, and it is positive if and only if every product is.
# ::::
# :::::
#
# In plain words: a gradient may be trusted if it makes an acute angle with the gradients of *all* its rivals. One rival at an obtuse angle is enough, and its loss, which was tied, takes over and rises.
#
# (check-03-3)=
# **Check 03.3** *(the criterion, in both directions).* For all 400 gradients: the least entry of its row of the Gram matrix is minus the slope that `ddi.directional_derivative` gives (to $10^{-12}$), and its sign decides whether a real step, $t = 10^{-9}$, goes down or up. Each must occur more than 50 times. In more than 20 of the 100 kinks no $-v_i$ descends, although some other direction does.

# %%
least = products.amin(2).flatten()
pairs = [(V, v) for V in kinks for v in V]
formula = torch.stack([ddi.directional_derivative(V, -v) for V, v in pairs])
assert (formula + least).abs().max() < 1e-12
assert torch.equal(backward < 0, least > 0)
assert torch.equal(backward > 0, least < 0)
assert 50 < (least > 0).sum() < 350

# %%
misled = kinks[(products.amin(2) < 0).all(1)]  # no -v_i descends
misled = [V for V in misled if not ddi.steepest_descent(V).stationary]
assert len(misled) > 20  # and yet some direction does
print(f"✓ no -v_i descends in {len(misled)} of {len(kinks)} kinks; bound 20")

# %% [markdown]
# :::{admonition} Source's claim (Cevher 2024, "Descent directions in the non-convex case"; Cho 2023, "Corollary(?) of Danskin's Theorem")
# :class: claim
#
# The lecture: *only* when the maximiser is unique is the negative gradient necessarily a descent direction. Cho's slides ask, in place of a non-zero gradient, that $\theta$ be no local minimiser of $g(\cdot, \delta^\star)$, and call the corollary true if the maximiser is unique.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# A unique maximiser with non-zero gradient is sufficient: the criterion has one product, $\lVert\bar v\rVert^2 > 0$. No other condition on the *set* of maximisers is: in this sense the lecture is right. But the criterion also holds if there are two gradients at an acute angle, or if many maximisers share one gradient. The latter will turn out to be the rule.
# Cho's hypothesis is too weak even for a unique maximiser: $0$ is no local minimiser of $-\theta^2$ or of $\theta^3$, but the gradient there is $0$, and no direction descends.
# :::
#
# Let $\delta = (c, z)$ with $c \in \{1, 2, 4\}$, $\lVert z\rVert \le 9$, and $g(\theta, \delta) = \frac12\lVert\theta\rVert^2 - \frac c2\lVert\theta - z\rVert^2$. Each is a plane or a parabola that touches the bowl $\phi(\theta) = \frac12\lVert\theta\rVert^2$ from below at $\theta = z$. So every $\theta$ inside has three maximisers, $z = \theta$ with each $c$: three losses with different curvatures, and one gradient, $\theta$.
#
# (check-03-4)=
# **Check 03.4** *(a unique maximiser is sufficient, not necessary; and "no local minimiser" is not enough).* Three maximisers, whose losses differ by more than $0.1$ one unit away, share one gradient and the corollary holds, for 100 random $\theta$, to $10^{-9}$. Two gradients at $60°$ both descend, with slope $-1/2$. For $-\theta^2$ and $\theta^3$ neither direction has slope below $-10^{-5}$.

# %% tags=["hide-input"]
def touching(θ, c, z):
    return (θ @ θ - c * ((θ - z) ** 2).sum(-1)) / 2


curvatures = torch.tensor([1.0, 2.0, 4.0])
for θ in torch.randn(100, 2, generator=gen):
    trial = θ + torch.randn(200, 1, 2, generator=gen)
    assert (touching(θ, curvatures, trial) < θ @ θ / 2).all()
    by_autograd = torch.func.jacrev(touching)
    M = torch.stack([by_autograd(θ, c, θ.clone()) for c in curvatures])
    assert (M - θ).abs().max() < 1e-9  # three maximisers, one gradient,
    moved = touching(θ + torch.tensor([1.0, 0.0]), curvatures, θ)
    assert (moved.diff() < -0.1).all()  # but three different losses
    assert abs(ddi.directional_derivative(M, -M[0]) + θ @ θ) < 1e-9

# %% tags=["hide-input"]
acute = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)]])
for v in acute:
    assert abs(ddi.directional_derivative(acute, -v) + 0.5) < 1e-12

# %% tags=["hide-input"]
O, left, right = torch.tensor([0.0, -1.0, 1.0])
for cho in (lambda θ: -(θ**2), lambda θ: θ**3):
    assert cho(left / 10) < 0  # 0 is no local minimiser
    assert min(ddi.one_sided(cho, O, γ) for γ in (left, right)) > -1e-5

# %% [markdown]
# So restarts that end at *different perturbations* do not yet make a case for using several of them. Only different *gradients* do.
#
# ## Counterexample 2: away from any minimum
#
# At the kink of $|\theta|$ no direction descends, so nothing better could have been done. The second counterexample of {cite:t}`latorre2023` is stronger.
#
# :::{admonition} Source's claim (Latorre et al. 2023, Counterexample 2, equations (9)–(11))
# :class: claim
#
# Let $u, v \in \mathbb{R}^2$ be unit vectors with $-1 < \langle u, v\rangle < 0$, $S = [0, 1]$ and $g(\theta, \delta) = \delta\langle\theta, u\rangle + (1 - \delta)\langle\theta, v\rangle + \delta(\delta - 1)$.
# Then $S^\star(0) = \{0, 1\}$ with the gradients $v$ and $u$. Both $-u$ and $-v$ are ascent directions, but $-(u + v)$ is a descent direction.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# It holds, and more is true: (10) is an equality, and the rise is not an affair of small steps.
# :::
#
# ::::{prf:theorem} Counterexample 2 at every step length
# :label: thm-03-every
#
# Let $u$, $v$ and $g$ be those of counterexample 2. For all $\theta$, $\phi(\theta) = \max(\langle\theta, u\rangle, \langle\theta, v\rangle)$. So $\phi(0) = 0$, and for **every** $t > 0$,
#
# $$
# \phi(-tu) = \phi(-tv) = -t\,\langle u, v\rangle > 0 ,
# $$
#
# and along the unit vector $\gamma = -(u + v)/\lVert u + v\rVert$
#
# $$
# \phi(t\gamma) = -\tfrac{t}{2}\lVert u + v\rVert < 0 .
# $$
#
# No unit direction has a smaller slope at $0$ than $\gamma$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-03-every`
#
# ::::{prf:proof}
# For fixed $\theta$, $g(\theta, \cdot)$ is a parabola that opens upwards, so its maximum over $[0, 1]$ is at an end. The ends have the values $\langle\theta, v\rangle$ and $\langle\theta, u\rangle$. At $\theta = 0$ both ends tie, and inside $g < 0$.
#
# - Along $-tv$ the two values are $-t$ and $-t\langle u, v\rangle$. Since $-\langle u, v\rangle > 0 > -1$, the second is the maximum. By symmetry the same holds for $-tu$.
# - As $\langle u + v, u\rangle = 1 + \langle u, v\rangle = \langle u + v, v\rangle$ and $\lVert u + v\rVert^2 = 2(1 + \langle u, v\rangle) > 0$, both values along $t\gamma$ are $-t(1 + \langle u, v\rangle)/\lVert u + v\rVert = -t\lVert u + v\rVert/2$.
# - For a unit vector $s$, $\max(\langle s, u\rangle, \langle s, v\rangle) \ge \tfrac12 \langle s, u + v\rangle \ge -\tfrac12 \lVert u + v\rVert$.
# ::::
# :::::
#
# In plain words: the loss *at the perturbation that was attacked with* falls as promised, at slope $-1$; its rival, tied at the start, rises meanwhile, at once and for ever, and $\phi$ is the larger of the two.

# %%
def g(θ, δ, u, v):
    """Equation (9) for θ (n, 2) and δ (m,): losses (n, m)."""
    return (θ @ u)[:, None] * δ + (θ @ v)[:, None] * (1 - δ) + δ * (δ - 1)

# %% [markdown]
# (check-03-5)=
# **Check 03.5** *($\phi$ rises along $-u$ and $-v$ at every angle and every step length).* For 89 angles from $91°$ to $179°$ and 37 step lengths from $10^{-8}$ to $10$: the inner maximum by brute force over 101 perturbations is $\max(\langle\theta, u\rangle, \langle\theta, v\rangle)$, and is $-t\langle u, v\rangle > 0$, all to a relative $10^{-10}$.

# %%
t, δ = torch.logspace(-8, 1, 37), torch.linspace(0, 1, 101)
angles = [math.radians(k) for k in range(91, 180)]
same = partial(torch.testing.assert_close, rtol=1e-10, atol=0)
rises = []
for u, v in map(pair, angles):
    for θ in (-t[:, None] * u, -t[:, None] * v):
        φ = g(θ, δ, u, v).amax(1)
        same(φ, torch.maximum(θ @ u, θ @ v))
        same(φ, -t * (u @ v))
        assert (φ > 0).all()
        rises.append(φ)
lowest = min(float((φ_at / t).min()) for φ_at in rises)
print(f"✓ φ rises in all {len(rises)} × {len(t)} walks, by at least {lowest:.3f} t")

# %% [markdown]
# (check-03-6)=
# **Check 03.6** *(the slopes, and the way down).* To $10^{-9}$: (10) is an equality; the slope of the vector $-(u + v)$ is $-1 - \langle u, v\rangle$, the value in (11); along the unit vector $\phi$ falls by $t\lVert u + v\rVert/2$ at every step length. At every fourth angle `ddi.steepest_descent` finds that vector, and brute force over 3600 directions finds none better.

# %% tags=["hide-input"]
for u, v in map(pair, angles):
    half = (u + v).norm() / 2
    M, γ = torch.stack([u, v]), -(u + v) / (2 * half)
    slopes = [ddi.directional_derivative(M, s) for s in (-v, -(u + v), γ)]
    assert abs(slopes[0] + u @ v) < 1e-9  # equation (10), with =
    assert abs(slopes[1] + 1 + u @ v) < 1e-9  # equation (11)
    assert abs(slopes[2] + half) < 1e-9  # for the unit vector
    same(g(t[:, None] * γ, δ, u, v).amax(1), -t * half)

# %% tags=["hide-input"]
ψ = torch.arange(3600) * (2 * math.pi / 3600)
circle = torch.stack([torch.cos(ψ), torch.sin(ψ)], 1)
for ω in angles[::4]:
    M, half = pair(ω), math.cos(ω / 2)  # half of ‖u + v‖
    steepest = ddi.steepest_descent(M)
    assert (steepest.direction - torch.tensor([0.0, -1.0])).norm() < 1e-9
    assert abs(steepest.slope + half) < 1e-9
    assert (circle @ M.T).amax(1).min() >= -half - 1e-9

# %% [markdown]
# ## A family in any dimension
#
# :::{admonition} Source's claim (Latorre et al. 2023, section 3 and appendix A)
# :class: claim
#
# Take vectors $v_1, \dots, v_n$ such that each has a partner at an obtuse angle, and $g(\theta, \delta) = \sum_i \delta_i \langle v_i, \theta - \theta_0\rangle - H(\delta)$, where $\delta$ lies in the simplex and $H$ is the Shannon entropy.
# The maximisers at $\theta_0$ are the corners, with the gradients $v_i$, and no $-v_i$ is a descent direction. Section 3 announces that a descent direction exists all the same.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# That no $-v_i$ descends is right. That some other direction does needs one more hypothesis, $0 \notin \operatorname{conv}\{v_i\}$, which does not follow from obtuse partners. Three unit vectors at $120°$ have them, and then $\theta_0$ is the global minimiser.
# :::
#
# ::::{prf:theorem} The simplex-entropy family
# :label: thm-03-family
#
# Let $n \ge 2$ and $g$ as above. Then $\phi(\theta) = \max_i \langle v_i, \theta - \theta_0\rangle$ for every $\theta$.
#
# 1. If $v_i$ has an obtuse partner, then $\phi(\theta_0 - t v_i) > \phi(\theta_0)$ for every $t > 0$.
# 2. If $0 \notin \operatorname{conv}\{v_i\}$, a descent direction at $\theta_0$ exists. If $0 \in \operatorname{conv}\{v_i\}$, then $\theta_0$ is a global minimiser of $\phi$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-03-family`
#
# ::::{prf:proof}
# For fixed $\theta$ the function $-H(\delta) = \sum_i \delta_i \log \delta_i$ is strictly convex and $0$ at the corners; so $g(\theta, \cdot)$ is strictly convex, its maximisers are corners, and a corner's value is $\langle v_i, \theta - \theta_0\rangle$. At $\theta_0$ all corners tie at $0$.
#
# 1. If $\langle v_i, v_j\rangle < 0$, then $\phi(\theta_0 - t v_i) \ge -t\langle v_j, v_i\rangle > 0 = \phi(\theta_0)$.
# 2. If $0$ is not in the hull, let $w \ne 0$ be the hull's point of least norm. Then $\langle w, v_i\rangle \ge \lVert w\rVert^2$ for each $i$: otherwise a small move from $w$ towards $v_i$ would shorten it. So $D_{-w}\phi(\theta_0) = \max_i\langle-w, v_i\rangle \le -\lVert w\rVert^2 < 0$.
#    If $0 = \sum_i \alpha_i v_i$ with weights $\alpha$ in the simplex, then $\phi(\theta) \ge \sum_i \alpha_i \langle v_i, \theta - \theta_0\rangle = 0 = \phi(\theta_0)$.
# ::::
# :::::
#
# We build four pairs of partners in $\mathbb{R}^{10}$, $v = \tfrac12 e_1 \pm w$ with unit vectors $w \perp e_1$. Partners have the product $\tfrac14 - 1 < 0$, and the hull stays half a unit away from $0$.

# %%
W = torch.nn.functional.normalize(torch.randn(4, 9, generator=gen), dim=1)
V = torch.cat([torch.full((8, 1), 0.5), torch.cat([W, -W])], 1)
θ0 = torch.randn(10, generator=gen)
inside = -torch.rand(4000, 8, generator=gen).log()
inside = inside / inside.sum(1, keepdim=True)
simplex = torch.cat([torch.eye(8), inside])  # the 8 corners first

# %%
def losses(θ):
    """g(θ, δ) for parameters (n, 10), at all sampled δ."""
    return ((θ - θ0) @ V.T) @ simplex.T - torch.special.entr(simplex).sum(1)

# %% [markdown]
# (check-03-7)=
# **Check 03.7** *(ten dimensions, eight gradients, none of them descends, and yet there is a way down).* At $\theta_0$ the corners tie exactly and 4000 points inside are worse. At 200 random $\theta$ the best corner beats them all. At all 37 step lengths of {ref}`check 03.5 <check-03-5>` $\phi$ rises along every $-v_i$, and falls along the steepest direction, whose slope is $-1/2$ to $10^{-9}$.

# %% tags=["hide-input"]
at_kink = losses(θ0[None])[0]
elsewhere = losses(θ0 + torch.randn(200, 10, generator=gen))
assert (at_kink[:8] == 0).all() and (at_kink[8:] < 0).all()
assert (elsewhere.argmax(1) < 8).all()  # a corner is best

# %% tags=["hide-input"]
steepest = ddi.steepest_descent(V)
assert ((V @ V.T).amin(1) < 0).all() and abs(steepest.slope + 0.5) < 1e-9
assert all((losses(θ0 - t[:, None] * v).amax(1) > 0).all() for v in V)
assert (losses(θ0 + t[:, None] * steepest.direction).amax(1) < 0).all()

# %% [markdown]
# (check-03-8)=
# **Check 03.8** *(obtuse partners alone are not enough).* For three unit vectors at $120°$: each has an obtuse partner; `ddi.steepest_descent` says stationary; the least slope over 3600 directions is $+1/2$, to $10^{-9}$; and $\phi(\theta) \ge \lVert\theta - \theta_0\rVert/2$ at 1000 random $\theta$.

# %% tags=["hide-input"]
star = circle[[0, 1200, 2400]]
assert ((star @ star.T).amin(1) < -0.4).all()
assert ddi.steepest_descent(star).stationary
assert abs((circle @ star.T).amax(1).min() - 0.5) < 1e-9
h = torch.randn(1000, 2, generator=gen)
assert ((h @ star.T).amax(1) >= h.norm(dim=1) / 2 - 1e-12).all()

# %% [markdown]
# ## Almost everywhere the corollary is true
#
# How often does an optimiser stand on a kink? That maxima are differentiable almost everywhere is textbook; we did not find it said of adversarial training.
#
# ::::{prf:theorem} One gradient almost everywhere
# :label: thm-03-ae
#
# Under the hypotheses of Danskin's theorem:
#
# 1. $\phi$ is locally Lipschitz, so it is differentiable at almost every $\theta$.
# 2. $\phi$ is differentiable at $\theta$ **if and only if** all maximisers share one $\theta$-gradient, and then that gradient is $\nabla\phi(\theta)$.
#
# So for almost every $\theta$ the corollary is true: for *any* maximiser $\delta^\star$ with $\nabla_\theta g(\theta, \delta^\star) \ne 0$, the vector $-\nabla_\theta g(\theta, \delta^\star) = -\nabla\phi(\theta)$ descends, and normalised it is the direction of steepest descent.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-03-ae`
#
# ::::{prf:proof}
# On a ball $\phi$ is Lipschitz ({ref}`an exercise of chapter 2 <ex-02-lipschitz>`). A locally Lipschitz function on $\mathbb{R}^d$ is differentiable almost everywhere (Rademacher's theorem {cite}`rademacher1919`). Part 2 is {prf:ref}`thm-02-gradient`, and the last sentence is {prf:ref}`thm-03-criterion` with one product, $\lVert\nabla\phi(\theta)\rVert^2$.
# ::::
# :::::
#
# In plain words: draw $\theta$ from any density. With probability one, all optimal perturbations, be they one or a thousand, push the parameters in one and the same direction. There Danskin's descent direction (DDi; {ref}`chapter 4 <chapter-04>`), computed from exact maximisers, *is* the normalised negative gradient of adversarial training.
#
# We watch it happen. Let $\delta \in [0, 2\pi)$ (a circle, so compact) and let $g$ be a random wave with six parameters,
#
# ```{math}
# :label: eq-03-wave
#
# \begin{aligned}
# g(\theta, \delta) &= \sum_{j=1}^{3} \bigl(\theta_j \cos j\delta + \theta_{3+j} \sin j\delta\bigr) \\
# &= \langle\theta, f(\delta)\rangle .
# \end{aligned}
# ```
#
# Its gradient in $\theta$ is $f(\delta) \in \mathbb{R}^6$. To see how near a tie is we need *all* local maximisers: the peaks of 720 grid points, each polished by Newton's method (folded).

# %%
frequency = torch.tensor([1.0, 2.0, 3.0])


def f(δ):
    angle = δ[:, None] * frequency
    return torch.cat([torch.cos(angle), torch.sin(angle)], 1)


grid = torch.arange(720) * (2 * math.pi / 720)
waves = f(grid)

# %% tags=["hide-input"]
def peaks(θ):
    """All local maximisers of the wave, and their losses."""
    wave, (a, b) = waves @ θ, θ.view(2, 3)
    δ = grid[(wave > wave.roll(1)) & (wave >= wave.roll(-1))]
    for _ in range(6):
        c, s = f(δ).split(3, 1)
        slope = (c * b - s * a) @ frequency
        bend = (c * a + s * b) @ frequency**2
        δ = δ + slope / bend
    return δ, f(δ) @ θ

# %% [markdown]
# (check-03-9)=
# **Check 03.9** *(a random $\theta$ is on no kink, and there the corollary holds).* At 300 random $\theta$ the second-best peak is lower than the best by more than $10^{-5}$. The gradient $p$ at the best agrees with autograd through the maximum over the peaks (to $10^{-12}$) and with two-sided differences of $\phi$ (to $10^{-4}$), and the step $-10^{-6} p$ lowers $\phi$.

# %%
draws = torch.randn(300, 6, generator=torch.Generator().manual_seed(9))
shared, gaps = [], []
for θ in draws:
    δ, loss = peaks(θ)
    shared.append(f(δ[loss.argmax()][None])[0])
    if len(loss) > 1:
        gaps.append(loss.sort().values[-2:].diff())
gaps = torch.cat(gaps)
assert len(gaps) > 200 and gaps.min() > 1e-5

# %%
def φ(θ):
    return peaks(θ)[1].max()


directions = torch.randn(300, 6, generator=gen)
for θ, p, γ in zip(draws, shared, directions):
    leaf = θ.clone().requires_grad_()
    (automatic,) = torch.autograd.grad((f(peaks(θ)[0]) @ leaf).max(), leaf)
    assert (automatic - p).abs().max() < 1e-12
    assert abs(ddi.two_sided(φ, θ, γ) - p @ γ) < 1e-4
    assert φ(θ - 1e-6 * p) < φ(θ)  # the corollary

# %%
near, nearer = int((gaps < 0.5).sum()), int((gaps < 0.05).sum())
assert 0 < nearer < 30 < near < 130
print(f"✓ {len(draws)} random θ, none on a kink; smallest gap {gaps.min():.4f}")
print(f"  within 0.5 of a tie: {near}; within 0.05: {nearer}")

# %% [markdown]
# Not *on* a kink, but some are near one. Keep this in mind.
#
# {numref}`fig-03-map` shows a plane in the space of parameters. Colour is the optimal perturbation. Where it jumps, two maximisers tie: those are the kinks. They are curves, and a random point misses them.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-03-map", "caption": "The kinks (black) are curves, of area zero: a random θ (white) may be near one, but is on one with probability zero. A plane of parameters of the wave; colour is the best perturbation."}, "image": {"alt": "A plane of parameters coloured by the maximising perturbation. Three regions, each of nearly one colour, meet along three black curves that start from one point and run outwards; sixty small white dots, random parameters, lie scattered over the regions."}}
axis = torch.linspace(-2.5, 2.5, 241)
X, Y = torch.meshgrid(axis, axis, indexing="xy")
base = torch.tensor([0.0, 0.35, 1.0, 0.0, 0.25, 0.0])  # the plane: θ1 and θ4 (the first wave) vary
fine = torch.arange(360) * (2 * math.pi / 360)
F = f(fine)
plane = base.repeat(X.numel(), 1)
plane[:, 0], plane[:, 3] = X.flatten(), Y.flatten()
best = fine[(plane @ F.T).argmax(1)].view(X.shape)
third = ((fine / 2 + math.pi / 6) % math.pi * 3 / math.pi).long()  # which of three arcs
high = torch.stack([(plane @ F[third == k].T).amax(1).view(X.shape) for k in range(3)])
dots = 4.8 * torch.rand(60, 2, generator=torch.Generator().manual_seed(5)) - 2.4
fig, ax = plt.subplots(figsize=(6.2, 5.2))
image = ax.pcolormesh(X, Y, best, cmap="twilight", vmin=0, vmax=2 * math.pi, rasterized=True)
for k in range(3):  # two arcs tie, and the other one is lower
    i, j = (k + 1) % 3, (k + 2) % 3
    tie = torch.where(high[k] < high[[i, j]].amax(0), high[i] - high[j], math.nan)
    ax.contour(X, Y, tie, levels=[0], colors="black", linewidths=2.2)
ax.scatter(dots[:, 0], dots[:, 1], s=16, zorder=3, color="white", edgecolor="black", linewidth=0.7)
ax.set(xlabel="$θ_1$", ylabel="$θ_4$", aspect="equal")
ax.grid(False)
bar = fig.colorbar(image, ax=ax, label="maximiser δ", shrink=0.85, ticks=[0, math.pi, 2 * math.pi])
bar.ax.set_yticklabels(["0", "π", "2π"])
bar.ax.yaxis.labelpad = 8
plt.show()

# %% [markdown]
# :::{admonition} Source's claim (Latorre et al. 2023, section 3; Cevher 2024, "Solving the inner problem does not yield a descent direction")
# :class: claim
#
# That a negative gradient at a maximiser ascends can happen at any stage of training, whether or not $\theta$ is locally optimal (paper). A single maximiser is not sufficient; in practice, however, the lack of descent does not seem to matter (lecture).
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# It can happen at any stage, but only on a set of parameters of measure zero. At every other $\theta$ with $\nabla\phi(\theta) \ne 0$ a single exact maximiser is sufficient. And convergence never needed descent: see below.
# :::
#
# ## The right language at a kink
#
# Chapters 4 and 7 use one fact: the hull of the gradients *at* a kink is made of the gradients *around* it. {cite:t}`clarke1975` gave locally Lipschitz functions the calculus for it. His *subdifferential* collects the gradients seen from nearby, and his *directional derivative* takes the steepest rise seen from nearby:
#
# $$
# \partial\phi(\theta) = \operatorname{conv}\bigl\{\lim_k \nabla\phi(\theta_k) : \theta_k \to \theta\bigr\} ,
# $$
#
# $$
# \phi^\circ(\theta; \gamma) = \limsup_{\theta' \to \theta,\; t \downarrow 0} \frac{\phi(\theta' + t\gamma) - \phi(\theta')}{t} ,
# $$
#
# where the $\theta_k$ are points of differentiability. Always $\phi^\circ(\theta; \gamma) = \max_{p \in \partial\phi(\theta)} \langle\gamma, p\rangle$ and $\phi^\circ(\theta; \gamma) \ge D_\gamma\phi(\theta)$. If $\phi^\circ(\theta; \gamma) = D_\gamma\phi(\theta)$ for every $\gamma$, then $\phi$ is called *regular* at $\theta$ {cite}`clarke1990`.
#
# ::::{prf:theorem} A maximum is Clarke regular (Clarke 1975, Theorem 2.1)
# :label: thm-03-clarke
#
# Under the hypotheses of Danskin's theorem, $\phi^\circ(\theta; \gamma) = D_\gamma\phi(\theta)$ for all $\theta, \gamma$, and $\partial\phi(\theta) = \operatorname{conv}\{\nabla_\theta g(\theta, \delta) : \delta \in S^\star(\theta)\}$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-03-clarke`
#
# ::::{prf:proof}
# Choose $\theta_k \to \theta$ and $t_k \downarrow 0$ that realise the upper limit, and a maximiser $\delta_k$ at $\theta_k + t_k\gamma$. Since $\phi(\theta_k) \ge g(\theta_k, \delta_k)$, the quotient is at most $(g(\theta_k + t_k\gamma, \delta_k) - g(\theta_k, \delta_k))/t_k = \langle\gamma, \nabla_\theta g(\xi_k, \delta_k)\rangle$, with $\xi_k$ between the two points.
# As $S$ is compact we may assume $\delta_k \to \bar\delta$. From $g(\theta_k + t_k\gamma, \delta_k) = \phi(\theta_k + t_k\gamma)$ and the continuity of $g$ and $\phi$, $\bar\delta \in S^\star(\theta)$. As $\nabla_\theta g$ is jointly continuous,
# the quotients' limit is at most $\langle\gamma, \nabla_\theta g(\theta, \bar\delta)\rangle \le D_\gamma\phi(\theta)$. The other inequality is trivial.
#
# So the compact convex sets $\partial\phi(\theta)$ and $\operatorname{conv}\{\nabla_\theta g(\theta, \delta)\}$ have the same support function, $\gamma \mapsto D_\gamma\phi(\theta)$. A compact convex set is determined by its support function.
# ::::
# :::::
#
# In plain words: up to mixing, the gradients of all maximisers *at* the kink are the gradients that one meets *around* it. (Mixing is needed: in counterexample 1 the maximiser $\delta = 0$ has the gradient $0$, but around the kink one meets $1$ and $-1$ only.) A kink is felt in its neighbourhood, though it has measure zero.
#
# The wave {eq}`eq-03-wave` has a kink in closed form. For $\theta = (1, -1, 0, 0, 0, 0)$ the loss is $x - (2x^2 - 1)$ with $x = \cos\delta$. Its maximum is at $x = 1/4$, so $\delta = \pm\arccos\tfrac14$, and the two gradients meet at an obtuse angle.
#
# (check-03-10)=
# **Check 03.10** *(regularity at a kink of the wave).* Let $p, q$ be the two gradients at the kink. The gradients at 100 random points within about $10^{-6}$ of it are $p$ or $q$ (to $10^{-4}$), and both occur often. For 100 random $\gamma$ the difference quotient from the kink is $\max(\langle\gamma, p\rangle, \langle\gamma, q\rangle)$ (to $10^{-3}$), and no quotient from a nearby point exceeds that by more than $10^{-3}$. And $-p$, $-q$ ascend.

# %% tags=["hide-input"]
kink, seen = torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0, 0.0]), torch.zeros(2)
p, q = M = f(torch.tensor([1.0, -1.0]) * math.acos(0.25))
near = kink + 1e-6 * torch.randn(100, 6, generator=gen)
for θ in near:
    δ, loss = peaks(θ)
    distance = (M - f(δ[loss.argmax()][None])).norm(dim=1)
    seen[distance.argmin()] += 1
    assert distance.min() < 1e-4
assert seen.min() > 20

# %% tags=["hide-input"]
for θ, γ in zip(near, directions):
    support = ddi.directional_derivative(M, γ)
    assert abs(ddi.one_sided(φ, kink, γ) - support) < 1e-3
    quotients = [ddi.one_sided(φ, θ, γ, t) for t in (1e-7, 1e-6)]
    assert max(quotients) < support + 1e-3
assert p @ q < -0.3
assert min(φ(kink - 1e-3 * p), φ(kink - 1e-3 * q)) > φ(kink)

# %% [markdown]
# ## Converging without descending
#
# There is a method that never asked for descent. It takes the gradient $p_k$ at any *one* maximiser and steps against it, $\theta_{k+1} = \theta_k - \beta_k p_k$, with steps that tend to $0$ but have an infinite sum. For convex $\phi$ this is the *subgradient method*: if the subgradients stay bounded, its best value tends to $\inf\phi$ {cite}`shor1985,boyd2014`.
#
# A network is not convex. But if its gradients are $\rho$-Lipschitz in $\theta$, then $\phi + \frac\rho2\lVert\cdot\rVert^2$ is: $\phi$ is *weakly convex*. How stationary a point is, the *Moreau envelope* $e_\rho$ tells:
#
# ```{math}
# :label: eq-03-envelope
#
# \begin{aligned}
# e_\rho(\theta) &= \min_z \phi(z) + \rho\lVert z - \theta\rVert^2 , \\
# \nabla e_\rho(\theta) &= 2\rho(\theta - \hat\theta) ,
# \end{aligned}
# ```
#
# with $\hat\theta$ the only minimiser. If $\lVert\nabla e_\rho(\theta)\rVert = r$, then at distance $r/2\rho$ from $\theta$ there is a point, $\hat\theta$, whose hull of gradients holds a vector of length $r$.
#
# ::::{prf:theorem} One maximiser is enough, on average
# :label: thm-03-subgradient
#
# Let every $g(\cdot, \delta) + \frac\rho2\lVert\cdot\rVert^2$ be convex, $\rho > 0$, and $p_k = \nabla_\theta g(\theta_k, \delta_k)$ with $g(\theta_k, \delta_k) \ge \phi(\theta_k) - \eta$. For all $\beta_k > 0$
#
# $$
# \begin{aligned}
# \sum_{k \le K} \beta_k \lVert\nabla e_\rho(\theta_k)\rVert^2 \le\; & 2\bigl(e_\rho(\theta_1) - e_\rho(\theta_{K+1})\bigr) \\
# & + 2\rho\sum_{k \le K} \beta_k^2\lVert p_k\rVert^2 + 4\rho\eta\sum_{k \le K} \beta_k .
# \end{aligned}
# $$
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-03-subgradient`
#
# ::::{prf:proof}
# For every $z$, $\phi(z) \ge g(z, \delta_k) \ge g(\theta_k, \delta_k) + \langle p_k, z - \theta_k\rangle - \frac\rho2\lVert z - \theta_k\rVert^2$, so $\langle p_k, \hat\theta_k - \theta_k\rangle \le \phi(\hat\theta_k) - \phi(\theta_k) + \eta + \frac\rho2\lVert\hat\theta_k - \theta_k\rVert^2$. (For convex $g$, $\rho = \eta = 0$, the first inequality says that $p_k$ is a subgradient.) The function $\phi + \rho\lVert\cdot - \theta_k\rVert^2$ is $\rho$-strongly convex and minimal at $\hat\theta_k$, so $\phi(\theta_k) \ge \phi(\hat\theta_k) + \frac32\rho\lVert\hat\theta_k - \theta_k\rVert^2$. Together, $\langle p_k, \hat\theta_k - \theta_k\rangle \le \eta - \rho\lVert\hat\theta_k - \theta_k\rVert^2$. Now put $\hat\theta_k$ into the minimum at $\theta_{k+1}$:
#
# $$
# \begin{aligned}
# e_\rho(\theta_{k+1}) &\le \phi(\hat\theta_k) + \rho\lVert\hat\theta_k - \theta_k + \beta_k p_k\rVert^2 \\
# &= e_\rho(\theta_k) + 2\rho\beta_k\langle p_k, \hat\theta_k - \theta_k\rangle + \rho\beta_k^2\lVert p_k\rVert^2 .
# \end{aligned}
# $$
#
# As $2\rho^2\lVert\hat\theta_k - \theta_k\rVert^2 = \frac12\lVert\nabla e_\rho(\theta_k)\rVert^2$, this is at most $e_\rho(\theta_k) - \frac{\beta_k}2\lVert\nabla e_\rho(\theta_k)\rVert^2 + 2\rho\eta\beta_k + \rho\beta_k^2\lVert p_k\rVert^2$. Sum over $k$.
# ::::
# :::::
#
# In plain words: a step may raise $\phi$ and still lower the *envelope*, and that is what counts. So does the lack of descent matter? For convergence, no. The argument is due to {cite:t}`davis2019`, whose theorem allows random batches (then it holds in expectation); {cite:t}`lin2020` use it for maxima, with inexact maximisers.
#
# **The rate.** With exact maximisers, bounded gradients, $\phi$ bounded below and $\beta_k = \beta_1/\sqrt k$ the least $\lVert\nabla e_\rho\rVert^2$ falls at least as fast as $\log K/\sqrt K$, up to a constant. An attack that errs by $\eta$ may leave a floor, of at most $4\rho\eta$.
#
# **Which ρ?** With a hidden layer none serves for all $\theta$: a large negative weight behind a curved unit bends the loss down without bound. On a bounded convex set that contains all $\theta_k$ and $\hat\theta_k$ one does if the activation is smooth, and the proof needs no more; but it may be so large that the bound is idle.
#
# **ReLU** has no $\rho$. For losses composed of elementary pieces ("tame"), as long as the iterates stay bounded, steps against elements of $\partial\phi$ (square-summable, with an infinite sum) have limit points that are stationary in Clarke's sense {cite}`davis2020`; against elements of a *conservative field* of $\phi$, stationary for that field {cite}`bolte2021`. What automatic differentiation returns at one exact maximiser need be neither: {ref}`check 03.12 <check-03-12>` has steps that climb, and end where $\phi' = 1$. Which formula is conservative for a maximum, and where its steps converge to, is in {cite:t}`pauwels2023`.
#
# **What all this does not say:** which stationary point is reached, or how low it is; how many steps it takes beside DDi, or at a step length that does not shrink.
#
# We try it on counterexample 2 with a bowl and ripples,
#
# $$
# \phi(\theta) = \max(\langle\theta, u\rangle, \langle\theta, v\rangle) + \tfrac12\lVert\theta\rVert^2 + a\cos(\theta_1 + 3\theta_2) ,
# $$
#
# convex for $a = 0$, with $\rho = 4$ for $a = \frac12$. Steps have lengths $1/2\sqrt k$.

# %%
u, v = pair(math.radians(140))
q, K = torch.tensor([1.0, 3.0]), 400


def valley(θ, a):
    bowl = (θ * θ).sum(-1) / 2 + a * torch.cos(θ @ q)
    return torch.maximum(θ @ u, θ @ v) + bowl


# %%
def walk_along(a, η=0.0):
    """Iterates, gradients and β; within η of a tie, the wrong maximiser."""
    θ, rows = torch.tensor([1.5, 2.0]), []
    for k in range(1, K + 1):
        lead = θ @ (u - v)
        first = (lead >= 0) != (lead.abs() <= η and η > 0)
        p = (u if first else v) + θ - a * torch.sin(q @ θ) * q
        β = 0.5 / math.sqrt(k) / p.norm()
        rows.append((θ, p, β))
        θ = θ - β * p
    return [torch.stack(column) for column in zip(*rows, (θ, p, β))]


# %% tags=["hide-input"]
def nearest(θ, a, ρ):
    """The minimiser of the envelope at each row of θ, and its weight of u: bisection over Newton."""
    low, high = torch.zeros(len(θ)), torch.ones(len(θ))
    for _ in range(45):
        α, z = (low + high) / 2, θ.clone()
        for _ in range(12):
            gradient = α[:, None] * u + (1 - α)[:, None] * v + z - a * torch.sin(z @ q)[:, None] * q + 2 * ρ * (z - θ)
            hessian = (1 + 2 * ρ) * torch.eye(2) - a * torch.cos(z @ q)[:, None, None] * torch.outer(q, q)
            z = z - torch.linalg.solve(hessian, gradient)
        up = z @ (u - v) > 0
        low, high = torch.where(up, α, low), torch.where(up, high, α)
    return z, α


# %%
runs, stationary = {}, {}
for a, η, ρ in ((0.0, 0.0, 0.5), (0.5, 0.0, 4.0), (0.5, 0.3, 4.0)):
    path, p, β = walk_along(a, η)
    z, α = nearest(path, a, ρ)
    runs[a, η] = path, p[:K], β[:K], z, α, ρ
    stationary[a, η] = 2 * ρ * (path - z).norm(dim=1)  # ‖∇e_ρ‖

# %% [markdown]
# (check-03-11)=
# **Check 03.11** *(it rises at more than a third of its steps, and converges).* In each run more than 134 of 400 steps raise $\phi$, no iterate is on the kink, and the bound of {prf:ref}`thm-03-subgradient` holds at every $K$ (and is not idle: the left side exceeds a tenth of it somewhere). With exact maximisers the least $\lVert\nabla e_\rho\rVert$ falls below $0.02$; with an attack that errs by $\eta = 0.3$ it stays above $0.1$. At $\hat\theta$ the hull holds a vector of that length, to $10^{-9}$.

# %%
for (a, η), (path, p, β, z, α, ρ) in runs.items():
    rises, size = int((valley(path, a).diff() > 0).sum()), stationary[a, η]
    envelope = valley(z, a) + ρ * (path - z).square().sum(1)
    spent = (β * size[:K] ** 2).cumsum(0)
    lengths = (β**2 * p.square().sum(1)).cumsum(0)
    bound = 2 * (envelope[0] - envelope[1:]) + 2 * ρ * lengths
    share = (spent / (bound + 4 * ρ * η * β.cumsum(0))).max()
    assert 0.1 < share <= 1 and rises > 134 and (path @ (u - v) != 0).all()
    assert size.min() < 0.02 if η == 0 else size.min() > 0.1
    mixed = α[:, None] * u + (1 - α)[:, None] * v
    hull = mixed + z - a * torch.sin(z @ q)[:, None] * q
    assert (hull.norm(dim=1) - size).abs().max() < 1e-9
    print(f"✓ a = {a}, η = {η}: {rises} of {K} steps rise; least ‖∇e_ρ‖", end=" ")
    print(f"{size.min():.1g}; bound used to {share:.0%}")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-03-subgradient", "caption": "Zigzag across the kink: every other step goes up, and yet the envelope's gradient vanishes (black). With an attack that errs by 0.3 it does not (dashed). Top: path and contours of $\\phi$, with ripples."}, "image": {"alt": "Top: rippled contours of phi with a kink along the vertical axis; the orange path comes from the upper right and zigzags across the axis with ever shorter steps. Bottom: the norm of the envelope's gradient on a logarithmic axis against the step; an orange line of each iterate jumps up and down and sinks, a black staircase, the least so far, goes from about 3 to below 0.001, and a dashed staircase stays near 0.3."}}
axis, tall = torch.linspace(-1.0, 1.7, 161), torch.linspace(-0.9, 2.2, 181)
X, Y = torch.meshgrid(axis, tall, indexing="xy")
surface = valley(torch.stack([X, Y], -1), 0.5)
path, orange = runs[0.5, 0.0][0], plots.METHODS["PGD"]["color"]
fig, (plane_ax, value_ax) = plt.subplots(2, 1, figsize=(5.6, 8.2), height_ratios=[1.3, 1])
plane_ax.contour(X, Y, surface, levels=12, colors="#999999", linewidths=1)
plane_ax.plot(path[:, 0], path[:, 1], "-o", color=orange, markersize=3, linewidth=1.2)
plane_ax.set(xlabel="$θ_1$", ylabel="$θ_2$", aspect="equal", xlim=(-1, 1.7), ylim=(-0.9, 2.2))
k = torch.arange(1, K + 2)
for key, dash in (((0.5, 0.0), "-"), ((0.5, 0.3), "--")):
    value_ax.semilogy(k, stationary[key].cummin(0).values, dash, color="black", linewidth=2.5)
value_ax.semilogy(k, stationary[0.5, 0.0], color=orange, linewidth=0.8, zorder=0)
value_ax.text(390, 0.33, "least so far, attack errs", ha="right")
value_ax.text(390, 3e-4, "least so far, exact", ha="right")
value_ax.set(xlabel="step k", ylabel="$\\|\\nabla e_\\rho(\\theta_k)\\|$", xlim=(0, 400), ylim=(1e-4, 8))
plt.show()

# %% [markdown]
# :::{admonition} Source's claim (Latorre et al. 2023, remark in section 1)
# :class: claim
#
# In the convex setting it is well known that a negative subgradient need not be a descent direction.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# It holds: counterexample 2 is convex ({ref}`check 03.6 <check-03-6>`). {numref}`fig-03-subgradient` holds two lessons more: iterates are *drawn to kinks*, and though none lies on one, a step of *finite* length crosses them.
# :::
#
# ## Breaking it
#
# **Drop the joint continuity of $\nabla_\theta g$.** The lecture's "General Danskin's Theorem" asks only that $g$ be differentiable in $\theta$, and adds that with a unique maximiser the negative gradient is necessarily a descent direction. Let $S = [0, 1]$ and, with $g(0, 0) = 0$,
#
# ```{math}
# :label: eq-03-break
#
# g(\theta, \delta) = \frac{\theta}{2} + \frac{2\delta\theta^2}{\delta^2 + \theta^2} - \delta^2 .
# ```
#
# It is continuous, since the fraction is at most $|\theta|$, and differentiable in $\theta$ for each $\delta$, with slope $\tfrac12$ at $\theta = 0$. There $g(0, \delta) = -\delta^2$, so $\delta = 0$ is the unique maximiser. Yet $\phi(\theta) \ge \tfrac\theta2 + |\theta| - \theta^2$, by taking $\delta = |\theta|$: from $0$, $\phi$ rises in both directions.
#
# **Drop $\nabla_\theta g$ itself, as ReLU does.** Let $S = [-2, 2]$ and
#
# $$
# g(\theta, \delta) = (\delta - \theta) - 2\operatorname{relu}(\delta - \theta) + \tfrac12\theta^2 = -|\delta - \theta| + \tfrac12\theta^2 .
# $$
#
# For $\theta \in S$ the only maximiser is $\delta = \theta$, and $\phi(\theta) = \frac12\theta^2$. But there the ReLU is on its kink, at *every* $\theta$, and $g(\cdot, \delta)$ has no derivative. PyTorch takes its slope as 0 and returns $\theta - 1$, where $\phi'(\theta) = \theta$.
#
# (check-03-12)=
# **Check 03.12** *(a unique maximiser, a non-zero gradient, and no descent).* With {eq}`eq-03-break`: on $100\,001$ perturbations $\delta = 0$ is the only maximiser at $\theta = 0$; the slope of $g$ in $\theta$ there is $1/2$ at each of four $\delta$ (to $10^{-6}$); but the one-sided slope of $\phi$ along $-1$ is $+1/2$, and along $+1$ it is $3/2$ (to $0.01$). The reason: at $\theta = \delta = 10^{-6}$ the gradient of $g$ is above $1.4$, so it is not continuous at $(0, 0)$. With ReLU: the steps with $\beta_k = 1/2\sqrt k$ end at $1$ (to $10^{-6}$) from each of four starts, and on $0 < \theta < 1$ every one of the first 100 raises $\phi$.

# %% tags=["hide-input"]
def g_rough(θ, δ):
    return θ / 2 + 2 * δ * θ**2 / (δ**2 + θ**2).clamp_min(1e-300) - δ**2


δ = torch.linspace(0, 1, 100_001)
loss = g_rough(O, δ)
assert (loss == loss.max()).sum() == 1 and loss[0] == loss.max()

# %% tags=["hide-input"]
for γ, slope in ((left, 0.5), (right, 1.5)):
    for d in torch.tensor([0.0, 0.01, 0.1, 1.0]):
        alone = ddi.one_sided(lambda θ, d=d: g_rough(θ, d), O, γ, 1e-9)
        assert abs(alone - γ / 2) < 1e-6
    jointly = ddi.one_sided(lambda θ: g_rough(θ, δ).max(), O, γ, 1e-3)
    assert abs(jointly - slope) < 0.01

# %% tags=["hide-input"]
θ = torch.tensor(1e-6, requires_grad=True)
assert torch.autograd.grad(g_rough(θ, torch.tensor(1e-6)), θ)[0] > 1.4

# %%
def g_relu(θ, δ):
    return (δ - θ) - 2 * torch.relu(δ - θ) + θ**2 / 2


θ, path = torch.tensor([-1.3, 0.2, 0.9, 1.7]), []
others = torch.linspace(-2, 2, 400)[:, None]
assert (g_relu(θ, others) < g_relu(θ, θ)).all()  # δ = θ is best
for k in range(1, 401):
    path.append(θ)
    leaf = θ.clone().requires_grad_()
    (p,) = torch.autograd.grad(g_relu(leaf, θ).sum(), leaf)
    θ = θ - 0.5 / math.sqrt(k) * p
climbs = torch.stack(path)[:101, 1:3].square().diff(dim=0)  # of 2φ
assert (θ - 1).abs().max() < 1e-6 and climbs.min() > 0
print("✓ with ReLU the steps end at", [round(float(v), 3) for v in θ])

# %% [markdown]
# ## Null set, finite steps, or inexact maximisers?
#
# Under the hypotheses of Danskin's theorem every counterexample lives on a *null set*, a set of measure zero. That leaves three suspects: a null set that is *hit* after all, and two ways in which its neighbourhood counts. We put them to counterexample 2 with $\langle u, v\rangle = -1/2$, at $\theta$ drawn uniformly from the unit disc. Let $s = \langle\theta, u - v\rangle$ be the difference of the two losses that tie at the kink.
#
# - **Null set.** The kink is the line $s = 0$; a random $\theta$ misses it. But null sets *are* hit: by training that starts at $\theta = 0$ ({ref}`chapter 1 <chapter-01>`), by symmetric weights, by steps that land on a kink ({ref}`an exercise <ex-03-landing>`), and by numbers with few digits.
# - **Finite steps.** A step of length $t$ against the gradient of the exact maximiser raises $\phi$ if and only if $|s| < t/2$: it crosses the kink and climbs further than it fell. That is a strip of positive measure, of order $t$. So it is for finitely many pieces that cross at an angle: {prf:ref}`thm-03-strip`.
# - **Inexact maximisers.** An attack is a local method. Gradient ascent on the parabola $g(\theta, \cdot)$ ends at $\delta = 1$ if it starts above $(1 - s)/2$, else at $\delta = 0$. From a uniform start it ends at the *wrong* end with probability $\tfrac12 (1 - |s|)_+$. Against the wrong gradient $\phi$ rises at every $t$, however small.
#
# ::::{prf:proposition} How often a short step climbs
# :label: thm-03-strip
#
# Let $\phi = \max_i g_i$ with finitely many $g_i$ that are $\rho$-smooth and $L$-Lipschitz within distance $t_0$ of a bounded set $B$. On $B$ let $\lVert\nabla g_i\rVert \ge \rho t_0$, and $\lVert\nabla(g_i - g_j)\rVert \ge c$ wherever $|g_i - g_j| < Lt_0$, $i \ne j$, with $c, t_0, \rho > 0$. Then steps of length $t \le t_0$ against the gradient of a maximal $g_i$ raise $\phi$ on a part of $B$ of measure $O(t)$ only.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-03-strip`
#
# ::::{prf:proof}
# If $g_i$ is maximal, it falls by at least $t\lVert\nabla g_i\rVert - \frac\rho2t^2 > 0$. So if $\phi$ rises, some other $g_j$, which rises by at most $Lt$, ends above $\phi(\theta)$: before the step $0 \le h < Lt$ with $h = g_i - g_j$.
#
# How large is this strip? Cover $B$ by finitely many balls of radius $r \le c/8\rho$, $r \le t_0/2$. In one that meets the strip choose a point of it, and let $n$ be the direction of $\nabla h$ there. As $\nabla h$ is $2\rho$-Lipschitz, $\langle\nabla h, n\rangle \ge c - 2\rho\cdot2r \ge c/2$ in all of the ball. So on each line along $n$ the strip has at most the length $Lt/(c/2)$, and by Fubini in the ball at most the measure $\frac{2Lt}c(2r)^{d-1}$. Sum over balls and pairs.
# ::::
# :::::
#
# (check-03-13)=
# **Check 03.13** *(the three suspects, measured).* With $20\,000$ random $\theta$, an attack by 60 ascent steps, and seven step lengths from $10^{-3}$ to $1$: the share of steps that raise $\phi$ agrees with its closed form (exact attack) or an integral (one start of the attack) to $0.015$. With an exact attack it is at most $t$; with one start it stays above $0.1$. Along $-(u + v)$, built from both local maximisers, no step raises $\phi$. The wave {eq}`eq-03-wave` has a continuum of pieces, which the proposition does not cover; there share$/t$ is between $0.03$ and $0.12$ for $t$ from $0.03$ to $1$. And rounded to bfloat16, the two losses of counterexample 2 tie *exactly* at some random $\theta$, in float64 at none.

# %%
u, v = pair(math.radians(120))
θ = torch.randn(20_000, 2, generator=gen)
radius = torch.rand(20_000, 1, generator=gen).sqrt()
θ = θ / θ.norm(dim=1, keepdim=True) * radius  # uniform in the disc
s, δ = θ @ (u - v), torch.rand(20_000, generator=gen)
for _ in range(60):
    δ = (δ + 0.5 * (s + 2 * δ - 1)).clamp(0, 1)  # projected gradient ascent
found = δ[:, None] * u + (1 - δ[:, None]) * v  # gradients
exact = torch.where(s[:, None] > 0, u, v)

# %%
def share_rising(gradient, t):
    """The share of the steps θ - t gradient that raise φ."""
    M = torch.stack([u, v], 1)
    after, before = (θ - t * gradient) @ M, θ @ M
    return (after.amax(1) > before.amax(1)).double().mean()


# %%
def theory(t):
    """Probabilities of |s| < t/2, and of a wrong end or |s| < t/2."""
    x, a = torch.linspace(-1, 1, 20_001), t / (2 * math.sqrt(3))
    density = 2 / math.pi * (1 - x**2).sqrt()  # of θ_1, where |s| = √3 |θ_1|
    strip = 2 / math.pi * (a * (1 - a**2).sqrt() + a.arcsin())
    gap = math.sqrt(3) * x.abs()
    wrong = (1 - gap).clamp_min(0) / 2
    fails = torch.where(gap < t / 2, 1.0, wrong)
    return strip, torch.trapezoid(density * fails, x)


# %%
steps, both = torch.logspace(-3, 0, 7), (u + v).expand_as(θ)
for t in steps:
    strip, local = theory(t)
    shares = [share_rising(γ, t) for γ in (exact, found, both)]
    assert abs(shares[0] - strip) < 0.015 and shares[0] <= t
    assert abs(shares[1] - local) < 0.015 and shares[1] > 0.1
    assert shares[2] == 0

# %%
Θ = torch.randn(20_000, 6, generator=gen)
value, best = (Θ @ waves.T).max(1)
unit = waves[best] / math.sqrt(3)  # ‖f(δ)‖² = 3
for t in (0.03, 0.1, 0.3, 1.0):
    raised = ((Θ - t * unit) @ waves.T).amax(1) > value
    rate = raised.double().mean() / t
    assert 0.03 < rate < 0.12
    print(f"✓ wave, t = {t}: a share of {rate:.2f} t of the steps climbs")

# %%
losses_u, losses_v = θ @ u, θ @ v
rounded = losses_u.bfloat16() == losses_v.bfloat16()
assert rounded.sum() > 0 and (losses_u != losses_v).all()
print(f"✓ exact ties of {len(θ)}: bfloat16 {int(rounded.sum())}, float64 0")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-03-suspects", "caption": "With an exact attack the harm vanishes with the step length; with an inexact one it does not. Counterexample 2 at random θ (lines: theory, markers: measured)."}, "image": {"alt": "Share of steps that raise phi against the step length, both axes logarithmic. With an exact attack the share falls in proportion to the step length, from about a third at 1 to 0.0004 at 0.001. With one start of a local attack it is level at about 0.17 for small steps. The direction from both local maximisers never rises, as a text says."}}
curve = torch.logspace(-3, 0, 61)
expected = torch.tensor([theory(t) for t in curve])
fig, ax = plt.subplots(figsize=(6.4, 4.2))
for column, gradient, method, label, dy in ((1, found, "PGD", "inexact\nattack", 16), (0, exact, "true", "exact\nattack", -24)):
    color = plots.METHODS[method]["color"]
    (drawn,) = ax.loglog(curve, expected[:, column], color=color)
    ax.loglog(steps, torch.stack([share_rising(gradient, t) for t in steps]), "o", color=color, markersize=7)
    plots.label_line(drawn, label, dy=dy)
ax.text(1.1e-3, 1.6e-4, "along −(u + v), both maximisers: never", color=plots.METHODS["DDi"]["color"])
ax.set(xlabel="step length t", ylabel="share of steps that raise φ", ylim=(1e-4, 1))
plt.show()

# %% [markdown]
# {numref}`fig-03-suspects` is a caricature: two dimensions, one sample, and a problem built to be difficult. It separates what the sources mix, and asks the book's question:
#
# > **Null set, finite steps, or inexact maximisers?** If several perturbations help a real network, is it because training stands on kinks, because its steps cross them, or because its attacks miss the maximum? And if they do not help, is that because almost everywhere there is nothing to gain?
#
# The tools for finite steps and near-ties are older than adversarial training: $\varepsilon$-subgradients and bundle methods {cite}`lemarechal1975,kiwiel1985`, gradient sampling {cite}`goldstein1977,burke2005`, the multiple-gradient descent algorithm {cite}`desideri2012`. Different restarts hardly ever tie exactly, so whoever combines their gradients uses such a relaxation.
#
# ## Summary
#
# - The corollary is false at kinks. Its proof infers $D_{-\gamma}\phi < 0$ from $D_\gamma\phi > 0$, which needs a two-sided derivative. In counterexample 2 $\phi$ rises along $-u$ and $-v$ at every step length; $-(u + v)$ descends.
# - A maximum is Clarke regular: around a kink one meets, up to mixing, the gradients of its maximisers.
# - With smooth activations and $\phi$ bounded below, one exact maximiser a step is enough to come to near-stationary points, without descending. What a kink costs at *finite* steps, and what a wrong maximiser costs, is the question of the book.
#
# (part-one-map)=
# ### Part I on one page
#
# | statement | where it holds | what it costs | check |
# |:--|:--|:--|:--|
# | the slope of $\phi$ is the largest slope among the maximisers | every $\theta$; $S$ compact, $g$ and $\nabla_\theta g$ continuous | all maximisers | {ref}`02.1 <check-02-1>` |
# | … and a smaller number over some of them only | every $\theta$ | nothing: it is why one restart misleads | {ref}`02.2 <check-02-2>` |
# | one maximiser's gradient is $\nabla\phi$ | where all maximisers share it: almost every $\theta$ | one attack, one backward pass | {ref}`02.6 <check-02-6>`, {ref}`03.9 <check-03-9>` |
# | a loss right to $10^{-4}$ has a gradient that is not | near a maximiser | more attack steps | {ref}`02.7 <check-02-7>` |
# | $-\nabla_\theta g(\theta, \bar\delta)$ descends | if and only if no rival's gradient is at a right or obtuse angle | the gradients of all maximisers | {ref}`03.3 <check-03-3>` |
# | … and ascends at every step length | counterexamples: a null set | – | {ref}`03.5 <check-03-5>` |
# | a step of length $t$ climbs | on a share $O(t)$ of the $\theta$, if finitely many pieces cross at an angle | shorter steps | {ref}`03.13 <check-03-13>` |
# | a step at a wrong maximiser climbs | on a share that does not shrink with $t$ | better attacks | {ref}`03.13 <check-03-13>` |
# | steps at one exact maximiser come to near-stationary points | $\phi$ weakly convex and bounded below, bounded gradients | one gradient a step; steps that shrink | {ref}`03.11 <check-03-11>` |
#
# ## Exercises
#
# ::::{exercise} A minimum instead of a maximum
# :label: ex-03-min
#
# Let $\phi = \min_i g_i$ for finitely many smooth $g_i$. Show that $-\nabla g_i(\theta)$ descends for every $i$ that attains the minimum and has $\nabla g_i(\theta) \ne 0$. Then show for $\phi(\theta) = -|\theta|$ at $0$ that $\phi^\circ(0; \gamma) \ne D_\gamma\phi(0)$.
# ::::
#
# ::::{solution} ex-03-min
# :label: sol-03-min
# :class: dropdown
#
# Danskin's theorem for $-\phi = \max_i(-g_i)$ gives $D_\gamma\phi = \min_i \langle\gamma, \nabla g_i\rangle$ over the active $i$. With $\gamma = -\nabla g_i$ it is at most $-\lVert\nabla g_i\rVert^2 < 0$. So whoever *minimises* over the perturbations may follow any one of them.
#
# For $-|\theta|$ the gradients nearby are $\pm1$, so $\partial\phi(0) = [-1, 1]$ and $\phi^\circ(0; \gamma) = |\gamma|$. But $D_\gamma\phi(0) = -|\gamma|$.
# ::::
#
# ::::{exercise} Inexact, but harmless
# :label: ex-03-acute
#
# Repeat {ref}`check 03.13 <check-03-13>` in thought, with $u$ and $v$ at $60°$. Show that then neither a finite step nor a wrong maximiser can raise $\phi = \max(\langle\theta, u\rangle, \langle\theta, v\rangle)$. Confirm it with code at 1000 random $\theta$.
# ::::
#
# ```{solution-start} ex-03-acute
# :label: sol-03-acute
# :class: dropdown
# ```
#
# A step $-tu$ changes $\langle\theta, u\rangle$ by $-t$ and $\langle\theta, v\rangle$ by $-t\langle u, v\rangle = -t/2$. Both fall, so their maximum falls, whichever of them was the larger. The same holds for $-tv$. What makes a wrong maximiser harmful is the obtuse angle.

# %%
u, v = pair(math.radians(60))
θ = torch.randn(1000, 2, generator=gen)
for w in (u, v):
    for t in (1e-3, 0.1, 1.0, 10.0):
        assert share_rising(w.expand_as(θ), t) == 0

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} Landing on a kink
# :label: ex-03-landing
#
# Run $\theta \leftarrow \theta - \beta\,\nabla_\theta g(\theta, \delta^\star)$ on counterexample 1 with $\beta = 1/2$ from $\theta_1 = 1$. Where is $\theta_3$? Does this contradict {prf:ref}`thm-03-ae`? For which starting points does some iterate land exactly on the kink?
# ::::
#
# ::::{solution} ex-03-landing
# :label: sol-03-landing
# :class: dropdown
#
# The path is $1, \tfrac12, 0$: the third iterate is on the kink. There is no contradiction. The theorem speaks of almost every *point*; it does not say that an algorithm keeps away from the others.
# As the steps have length $\beta$ away from the kink, an iterate hits $0$ if and only if $\theta_1$ is an integer multiple of $\beta$. That is a countable set of starts, of measure zero. For a start drawn from a density the probability is zero.
# ::::
