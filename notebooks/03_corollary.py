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
# - the exact line at which the well-known proof slips, and the criterion that tells when its conclusion is true;
# - two counterexamples and a family of them, for every step length;
# - why every counterexample lives on a set of parameters of measure zero, and what question that leaves open.
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

# %%
import math
from functools import partial

import matplotlib.pyplot as plt
import torch
from matplotlib.patheffects import withStroke

import ddi
from ddi import plots

# %%
plots.use_style()
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## The claim
#
# As in {ref}`chapter 2 <chapter-02>`, $S$ is a compact metric space, $g(\theta, \delta)$ is continuous, and $\nabla_\theta g$ exists and is continuous in $(\theta, \delta)$ jointly.
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
# The second equality is Danskin's theorem {cite}`danskin1966`. A vector $\gamma$ is a *descent direction* of $\phi$ at $\theta$ if $D_\gamma\phi(\theta) < 0$, and an *ascent direction* if $D_\gamma\phi(\theta) > 0$.
# We do not divide by $\lVert\gamma\rVert$; equation (6) of the paper {cite}`latorre2023` does. The sign, which decides what descends, is the same.
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
# {cite:t}`latorre2023` show that it is false; the lecture {cite}`cevher2024` and the slides {cite}`cho2023` report this. The lecture numbers it A.2.
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
# It holds. At $\theta = 0$ the loss is $0$ whatever the perturbation does, so *every* $\delta$ is optimal: $S^\star(0) = [-1, 1]$, as the paper and the lecture say.
# Cho's slide "Counterexample 1" prints $S^\star(0) = \{-1, 1\}$. The slope is the same, because a linear function takes its maximum over an interval at an end; but the maximisers are a continuum, and some of them have smaller gradients, one of them $0$.
# :::
#
# (check-03-1)=
# **Check 03.1** *(every $\delta \in [-1, 1]$ is optimal at $0$, and $\phi$ rises both ways).* On a grid of 2001 perturbations all losses tie exactly. The slope along $\gamma$ by Danskin's formula, by the two ends alone,
# and by difference quotients of three lengths is $|\gamma|$, to $10^{-12}$.

# %%
δ, θ = torch.linspace(-1, 1, 2001), torch.zeros(2001, requires_grad=True)
loss = θ * δ
(gradients,) = torch.autograd.grad(loss.sum(), θ)
assert (loss == 0).all()  # S*(0) is the whole interval
assert torch.equal(gradients, δ)

# %%
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
# Two small slips in the neighbourhood. With the paper's own definition (6), which divides by $\lVert\gamma\rVert$, (8) should end in $\ge \lVert\gamma\rVert > 0$; its $\lVert\gamma\rVert^2$ belongs to the definition without the division.
# Cho's slide "A Mistake in the proof" says that $D_{-\gamma}\, g(\theta, \delta^\star) < 0$ does not follow. It does: $g(\cdot, \delta^\star)$ is smooth. What does not follow is $D_{-\gamma}\,\phi(\theta) < 0$.
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
# In plain words: if the maximisers disagree about the slope along $\gamma$, the largest opinion wins in *both* directions, forward and backward. What they disagree by is exactly what the two slopes fail to cancel by.
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
# **Check 03.2** *(lines 1 and 2 are true, line 3 is not, and the width is what is missing).* Difference quotients with $t = 10^{-9}$, to within $10^{-6}$. Line 3 must fail in more than 50 of the 400 cases, and hold in more than 50. So often, too, must (8) as printed fail with the paper's definition (6). The loss $g(\cdot, \bar\delta)$ at the one perturbation falls with slope $-\lVert\gamma\rVert^2$ in each.

# %%
square = products.diagonal(dim1=1, dim2=2).flatten()  # ‖γ‖²
width = (products.amax(2) - products.amin(2)).flatten()
assert (forward - square).min() > -1e-6  # lines 1 and 2, equation (8)
assert (forward + backward - width).abs().max() < 1e-6  # the theorem
assert (backward > 1e-3).sum() > 50  # line 3 fails
assert (backward < -1e-3).sum() > 50  # line 3 holds

# With definition (6), divided by ‖γ‖, equation (8) is not always true:
assert (forward / square.sqrt() < square - 1e-3).sum() > 50

# %%
each = zip(kinks.flatten(0, 1)[:, None], bends.flatten())
alone = torch.cat([slopes(v, b, -v) for v, b in each])
assert (alone + square).abs().max() < 1e-6  # g at one perturbation falls
print("lines 1 and 2 hold in 400 of 400 cases; line 3 fails in more than 50")

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
assert sum(not ddi.steepest_descent(V).stationary for V in misled) > 20
print("in more than 20 of 100 kinks some direction descends but no -v_i does")

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
# A unique maximiser with non-zero gradient is sufficient: the criterion has one product, $\lVert\bar v\rVert^2 > 0$. It is not necessary. The criterion also holds if there are two gradients at an acute angle, or if many maximisers share one gradient. The latter will turn out to be the rule.
# Cho's hypothesis is too weak even for a unique maximiser: $0$ is no local minimiser of $-\theta^2$ or of $\theta^3$, but the gradient there is $0$, and no direction descends.
# :::
#
# For $\theta \in \mathbb{R}^2$ let $g(\theta, \delta) = \theta_1 \cos 3\delta + \theta_2 \sin 3\delta$ with $\delta \in [0, 2\pi]$. Then $\phi(\theta) = \lVert\theta\rVert$. At almost every $\theta$ there are three maximisers, $2\pi/3$ apart. All three have the gradient $\theta / \lVert\theta\rVert$.
#
# (check-03-4)=
# **Check 03.4** *(a unique maximiser is sufficient, not necessary; and "no local minimiser" is not enough).* Three distant maximisers share one gradient and the corollary holds, for 100 random $\theta$, to $10^{-9}$. Two gradients at $60°$ both descend, with slope $-1/2$. For $-\theta^2$ and $\theta^3$ neither direction has slope below $-10^{-5}$.

# %%
for θ in torch.randn(100, 2, generator=gen):
    turns = torch.atan2(θ[1], θ[0]) / (2 * math.pi) % 1 + torch.arange(3)
    δ = 2 * math.pi * turns / 3
    M = torch.stack([torch.cos(3 * δ), torch.sin(3 * δ)], 1)
    assert (M @ θ - θ.norm()).abs().max() < 1e-12  # three maximisers,
    assert (δ.diff() > 2).all()  # far apart,
    assert (M - θ / θ.norm()).abs().max() < 1e-9  # and one gradient
    assert abs(ddi.directional_derivative(M, -M[0]) + 1) < 1e-9

# %%
acute = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)]])
for v in acute:
    assert abs(ddi.directional_derivative(acute, -v) + 0.5) < 1e-12

# %%
O, left, right = torch.tensor([0.0, -1.0, 1.0])
for cho in (lambda θ: -(θ**2), lambda θ: θ**3):
    assert cho(left / 10) < 0  # 0 is no local minimiser
    assert min(ddi.one_sided(cho, O, γ) for γ in (left, right)) > -1e-5

# %% [markdown]
# Note what this says about experiments. That restarts of an attack end at *different perturbations* does not yet make a case for using several of them. Only different *gradients* do.
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
# It holds, and more is true: the rise is not an affair of small steps, and (10), which prints $\ge$, is an equality. Equation (11) and Cho's slide give the slope of the vector $-(u + v)$, which is no unit vector; for the unit vector along it the slope is $-\lVert u + v\rVert / 2$.
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
# In plain words: $\phi$ is a valley with two straight walls, whose floor slopes down gently. Each gradient is that of one wall. To walk against it is to cross the floor and climb the other wall, at once and for ever. The way down is along the floor, and only the two gradients together know where that is.

# %%
def pair(ω):
    """Unit vectors u, v at the angle ω, with u + v pointing up."""
    s, c = math.sin(ω / 2), math.cos(ω / 2)
    return torch.tensor([[s, c], [-s, c]])


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
for u, v in map(pair, angles):
    for θ in (-t[:, None] * u, -t[:, None] * v):
        φ = g(θ, δ, u, v).amax(1)
        same(φ, torch.maximum(θ @ u, θ @ v))
        same(φ, -t * (u @ v))
        assert (φ > 0).all()
print("φ rises at 89 angles and 37 step lengths, along -u and along -v")

# %% [markdown]
# (check-03-6)=
# **Check 03.6** *(the slopes, and the way down).* To $10^{-9}$: (10) is an equality; the slope of $-(u + v)$ is $-1 - \langle u, v\rangle$ as in (11); along the unit vector $\phi$ falls by $t\lVert u + v\rVert/2$ at every step length. At every fourth angle `ddi.steepest_descent` finds that vector, and brute force over 3600 directions finds none better.

# %%
for u, v in map(pair, angles):
    half = (u + v).norm() / 2
    M, γ = torch.stack([u, v]), -(u + v) / (2 * half)
    slopes = [ddi.directional_derivative(M, s) for s in (-v, -(u + v), γ)]
    assert abs(slopes[0] + u @ v) < 1e-9  # equation (10), with =
    assert abs(slopes[1] + 1 + u @ v) < 1e-9  # equation (11)
    assert abs(slopes[2] + half) < 1e-9  # for the unit vector
    same(g(t[:, None] * γ, δ, u, v).amax(1), -t * half)

# %%
ψ = torch.arange(3600) * (2 * math.pi / 3600)
circle = torch.stack([torch.cos(ψ), torch.sin(ψ)], 1)
for ω in angles[::4]:
    M, half = pair(ω), math.cos(ω / 2)  # half of ‖u + v‖
    steepest = ddi.steepest_descent(M)
    assert (steepest.direction - torch.tensor([0.0, -1.0])).norm() < 1e-9
    assert abs(steepest.slope + half) < 1e-9
    assert (circle @ M.T).amax(1).min() >= -half - 1e-9

# %% [markdown]
# {numref}`fig-03-valley` shows the valley for an angle of $120°$. The contours are those of $\phi$; both negative gradients cross them uphill. {numref}`fig-03-profiles` walks along the three directions.

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

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-03-profiles", "caption": "No step length helps: $\\phi$ rises along a negative gradient from the first step to the last."}, "image": {"alt": "phi along two directions against the step length t from 0 to 2. The orange line along minus u rises from 0 to 1; the blue line along minus (u plus v), normalised, falls from 0 to minus 1. A grey dotted line, the loss at the one perturbation that gave u, falls to minus 2."}}
walk = torch.linspace(0, 2, 41)
γ = -(u + v) / (u + v).norm()
fig, ax = plt.subplots(figsize=(6.4, 3.8))
ax.axhline(0, color="black", linewidth=0.8)
plots.line(ax, walk.numpy(), g(-walk[:, None] * u, δ, u, v).amax(1), "PGD", "φ along $-u$, $-v$")
plots.line(ax, walk.numpy(), g(walk[:, None] * γ, δ, u, v).amax(1), "DDi", "φ along $-(u+v)$")
(drawn,) = ax.plot(walk, -walk, color="#666666", linestyle=":")
plots.label_line(drawn, "$g(\\cdot,1)$ along $-u$")
ax.set(xlabel="step length t", ylabel="change of the loss", xlim=(0, 2), xticks=[0, 0.5, 1, 1.5, 2])
plt.show()

# %% [markdown]
# The dotted line of {numref}`fig-03-profiles` is what the gradient step was promised: the loss *at the perturbation that was attacked with* falls at slope $-1$. Its rival, tied at the start, rises in the meantime, and $\phi$ is the larger of the two.
#
# The descent directions of two unit gradients at an angle $\omega$ form a cone of opening $180° - \omega$ around $-(u + v)$. The negative gradients stand at $\pm\omega/2$ from its axis, so they are inside if and only if $\omega < 90°$. That is the criterion again; {numref}`fig-03-cone` shows it.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-03-cone", "caption": "Negative gradients (dots) descend if the gradients meet at 60°, and ascend if they meet at 120°. The slope below zero marks the cone of descent."}, "image": {"alt": "Directional derivative against the direction's angle from minus (u plus v). For gradients at 120 degrees the curve is below zero between minus 30 and 30 degrees, and the two orange dots at plus and minus 60 degrees are above zero, at one half. For gradients at 60 degrees the dashed curve is below zero between minus 60 and 60 degrees, and the dots at plus and minus 30 degrees are below zero, at minus one half."}}
turn = torch.linspace(-110, 110, 441)
directions = torch.stack([torch.sin(turn.deg2rad()), -torch.cos(turn.deg2rad())], 1)
fig, ax = plt.subplots(figsize=(6.4, 4.0))
ax.axhline(0, color="black", linewidth=0.8)
orange = plots.METHODS["PGD"]["color"]
for ω, style, place in ((120, "-", (0, -0.16)), (60, "--", (0, -0.64))):
    M = pair(math.radians(ω))
    slope = (directions @ M.T).amax(1)
    ax.plot(turn, slope, color="black", linestyle=style)
    ax.fill_between(turn, slope, 0, where=slope < 0, color=plots.METHODS["DDi"]["color"], alpha=0.15, linewidth=0)
    ax.text(*place, f"{ω}°", ha="center", va="center")
    for angle, name in ((ω / 2, "$-v$"), (-ω / 2, "$-u$")):
        height = -math.cos(math.radians(ω))
        ax.plot(angle, height, "o", color=orange, markersize=9)
        ax.annotate(name, (angle, height), xytext=(9 if angle > 0 else -9, -3), textcoords="offset points", color=orange, fontsize=14, ha="left" if angle > 0 else "right", va="top")
ax.set(xlabel="angle between γ and −(u + v), degrees", ylabel="slope of φ along γ", xlim=(-110, 110), xticks=range(-90, 91, 30))
plt.show()

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
# Appendix A also says that $\langle\gamma, \nabla_\theta g\rangle > 0$ at one maximiser gives $D_\gamma\phi \ge 0$; it gives $D_\gamma\phi > 0$, and $\delta$ should be $\delta_0$ in that line ({ref}`check 03.3 <check-03-3>`).
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

# %%
at_kink = losses(θ0[None])[0]
elsewhere = losses(θ0 + torch.randn(200, 10, generator=gen))
assert (at_kink[:8] == 0).all() and (at_kink[8:] < 0).all()
assert (elsewhere.argmax(1) < 8).all()  # a corner is best

# %%
steepest = ddi.steepest_descent(V)
assert ((V @ V.T).amin(1) < 0).all() and abs(steepest.slope + 0.5) < 1e-9
assert all((losses(θ0 - t[:, None] * v).amax(1) > 0).all() for v in V)
assert (losses(θ0 + t[:, None] * steepest.direction).amax(1) < 0).all()

# %% [markdown]
# (check-03-8)=
# **Check 03.8** *(obtuse partners alone are not enough).* For three unit vectors at $120°$: each has an obtuse partner; `ddi.steepest_descent` says stationary; the least slope over 3600 directions is $+1/2$, to $10^{-9}$; and $\phi(\theta) \ge \lVert\theta - \theta_0\rVert/2$ at 1000 random $\theta$.

# %%
star = circle[[0, 1200, 2400]]
assert ((star @ star.T).amin(1) < -0.4).all()
assert ddi.steepest_descent(star).stationary
assert abs((circle @ star.T).amax(1).min() - 0.5) < 1e-9
h = torch.randn(1000, 2, generator=gen)
assert ((h @ star.T).amax(1) >= h.norm(dim=1) / 2 - 1e-12).all()

# %% [markdown]
# ## Almost everywhere the corollary is true
#
# The sources stop here. But how often does an optimiser stand on a kink?
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
# *Part 1.* Let $B$ be a closed ball of parameters. On the compact set $B \times S$ the continuous function $\lVert\nabla_\theta g\rVert$ has a maximum $L$. By the mean value theorem $|g(\theta, \delta) - g(\theta', \delta)| \le L\lVert\theta - \theta'\rVert$ for $\theta, \theta' \in B$ and every $\delta$.
# If $\delta$ is a maximiser at $\theta$, then $\phi(\theta) - \phi(\theta') \le g(\theta, \delta) - g(\theta', \delta) \le L\lVert\theta - \theta'\rVert$; exchange $\theta$ and $\theta'$. A locally Lipschitz function on $\mathbb{R}^d$ is differentiable almost everywhere (Rademacher's theorem {cite}`rademacher1919`).
#
# *Part 2.* If $\phi$ is differentiable at $\theta$, then $D_\gamma\phi(\theta) = -D_{-\gamma}\phi(\theta)$, so by {prf:ref}`thm-03-width` the set of gradients has width $0$ along every $\gamma$. It is one point, $p$ say, and $\langle\nabla\phi(\theta), \gamma\rangle = D_\gamma\phi(\theta) = \langle p, \gamma\rangle$ for all $\gamma$, so $p = \nabla\phi(\theta)$.
#
# Conversely let all maximisers have the gradient $p$. By {eq}`eq-03-danskin`, $D_\gamma\phi(\theta) = \langle p, \gamma\rangle$ for all $\gamma$. A locally Lipschitz function on $\mathbb{R}^d$ whose directional derivatives are linear in $\gamma$ is differentiable:
# cover the unit sphere by finitely many balls of radius $\varepsilon$ with centres $\gamma_j$. For small $t$, $|\phi(\theta + t\gamma_j) - \phi(\theta) - t\langle p, \gamma_j\rangle| \le \varepsilon t$ for all $j$. For any other unit $\gamma$ use the nearest centre; the error is at most $\varepsilon t + (L + \lVert p\rVert)\varepsilon t$.
#
# The last sentence is {prf:ref}`thm-03-criterion` with one product, $\lVert p\rVert^2$.
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
# g(\theta, \delta) &= \sum_{j=1}^{3} \bigl(\theta_j \cos 2j\delta + \theta_{3+j} \sin 2j\delta\bigr) \\
# &= \langle\theta, f(\delta)\rangle .
# \end{aligned}
# ```
#
# Its gradient in $\theta$ is $f(\delta) \in \mathbb{R}^6$. Both have period $\pi$ in $\delta$, so every $\theta$ has at least two maximisers, $\delta^\star$ and $\delta^\star + \pi$. We find *all* local maximisers: the peaks of 720 grid points, each polished by Newton's method.

# %%
frequency = torch.tensor([2.0, 4.0, 6.0])


def f(δ):
    angle = δ[:, None] * frequency
    return torch.cat([torch.cos(angle), torch.sin(angle)], 1)


grid = torch.arange(720) * (2 * math.pi / 720)
waves = f(grid)

# %%
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
# **Check 03.9** *(at random $\theta$ the maximisers differ and their gradient does not).* At 300 random $\theta$: two or more maximisers, at distance 3 or more; their gradients agree to $10^{-9}$, agree with autograd through the maximum over the peaks (to $10^{-12}$) and with two-sided differences of $\phi$ (to $10^{-4}$); and the step $-10^{-6} p$ against that gradient $p$ lowers $\phi$. No $\theta$ hits a kink: the second-best peak with another gradient is lower by more than $10^{-5}$.

# %%
draws = torch.randn(300, 6, generator=torch.Generator().manual_seed(9))
shared, gaps = [], []
for θ in draws:
    δ, loss = peaks(θ)
    best = loss > loss.max() - 1e-9
    M = f(δ[best])
    assert best.sum() >= 2 and δ[best].max() - δ[best].min() > 3
    assert (M - M[0]).abs().max() < 1e-9  # one gradient
    shared.append(M[0])
    if not best.all():
        gaps.append(loss.max() - loss[~best].max())

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
gaps = torch.stack(gaps)
assert gaps.min() > 1e-5
assert 0 < (gaps < 0.05).sum() < 30 < (gaps < 0.5).sum() < 130
print("300 random θ: several maximisers each, one gradient, none on a kink")

# %% [markdown]
# Not *on* a kink, but some are near one: about a quarter of the $\theta$ have a rival within $0.5$ of the maximum, and a few even within $0.05$. Keep this in mind.
#
# {numref}`fig-03-map` shows a plane in the space of parameters. Colour is the optimal perturbation. Where it jumps, two maximisers tie: those are the kinks. They are curves, and a random point misses them.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-03-map", "caption": "The kinks (black) are curves, of area zero: a random θ (white) may be near one, but is on one with probability zero. A plane of parameters of the wave; colour is the best perturbation."}, "image": {"alt": "A plane of parameters coloured by the maximising perturbation. Three regions, each of nearly one colour, meet along three black curves that start from one point and run outwards; sixty small white dots, random parameters, lie scattered over the regions."}}
axis = torch.linspace(-2.5, 2.5, 241)
X, Y = torch.meshgrid(axis, axis, indexing="xy")
base = torch.tensor([0.0, 0.35, 1.0, 0.0, 0.25, 0.0])  # the plane: θ1 and θ4 (the first wave) vary
fine = torch.arange(360) * (math.pi / 360)
F = f(fine)
plane = base.repeat(X.numel(), 1)
plane[:, 0], plane[:, 3] = X.flatten(), Y.flatten()
best = fine[(plane @ F.T).argmax(1)].view(X.shape)
third = ((fine + math.pi / 6) % math.pi * 3 / math.pi).long()  # which of three arcs
high = torch.stack([(plane @ F[third == k].T).amax(1).view(X.shape) for k in range(3)])
dots = 4.8 * torch.rand(60, 2, generator=torch.Generator().manual_seed(5)) - 2.4
fig, ax = plt.subplots(figsize=(6.2, 5.2))
image = ax.pcolormesh(X, Y, best, cmap="twilight", vmin=0, vmax=math.pi, rasterized=True)
for k in range(3):  # two arcs tie, and the other one is lower
    i, j = (k + 1) % 3, (k + 2) % 3
    tie = torch.where(high[k] < high[[i, j]].amax(0), high[i] - high[j], math.nan)
    ax.contour(X, Y, tie, levels=[0], colors="black", linewidths=2.2)
ax.scatter(dots[:, 0], dots[:, 1], s=16, zorder=3, color="white", edgecolor="black", linewidth=0.7)
ax.set(xlabel="$θ_1$", ylabel="$θ_4$", aspect="equal")
ax.grid(False)
bar = fig.colorbar(image, ax=ax, label="maximiser δ (modulo π)", shrink=0.85, ticks=[0, math.pi / 2, math.pi])
bar.ax.set_yticklabels(["0", "π/2", "π"])
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
# It can happen at any stage, but only on a set of parameters of measure zero. At every other $\theta$ with $\nabla\phi(\theta) \ne 0$ a single exact maximiser is sufficient. This may be why the lack of descent does not seem to matter.
# Nor do many *distinct* optimal perturbations, which the paper reports in section 5.1, decide anything: in {ref}`check 03.9 <check-03-9>` and {ref}`check 03.4 <check-03-4>` they share one gradient.
# :::
#
# ## The right language at a kink
#
# {cite:t}`clarke1975` gave locally Lipschitz functions a calculus. His *subdifferential* collects the gradients seen from nearby, and his *directional derivative* takes the steepest rise seen from nearby:
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
# ::::{prf:theorem} A maximum is Clarke regular
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
# The wave {eq}`eq-03-wave` has a kink in closed form. For $\theta = (1, -1, 0, 0, 0, 0)$ the loss is $x - (2x^2 - 1)$ with $x = \cos 2\delta$. Its maximum is at $x = 1/4$, so $\delta = \pm\tfrac12 \arccos\tfrac14$, modulo $\pi$, and the two gradients meet at an obtuse angle.
#
# (check-03-10)=
# **Check 03.10** *(regularity at a kink of the wave).* Let $p, q$ be the two gradients at the kink. The gradients at 100 random points within about $10^{-6}$ of it are $p$ or $q$ (to $10^{-4}$), and both occur often. For 100 random $\gamma$ the difference quotient from the kink is $\max(\langle\gamma, p\rangle, \langle\gamma, q\rangle)$ (to $10^{-3}$), and no quotient from a nearby point exceeds that by more than $10^{-3}$. And $-p$, $-q$ ascend.

# %%
kink, seen = torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0, 0.0]), torch.zeros(2)
p, q = M = f(torch.tensor([0.5, -0.5]) * math.acos(0.25))
near = kink + 1e-6 * torch.randn(100, 6, generator=gen)
for θ in near:
    δ, loss = peaks(θ)
    distance = (M - f(δ[loss.argmax()][None])).norm(dim=1)
    seen[distance.argmin()] += 1
    assert distance.min() < 1e-4
assert seen.min() > 20

# %%
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
# There is a method that never asked for descent. For a convex $\phi$ the *subgradient method* {cite}`shor1985,boyd2014` takes the gradient $p_k$ at any one maximiser, and steps against it with steps whose lengths $\beta_k$ tend to $0$ but have an infinite sum:
#
# $$
# \theta_{k+1} = \theta_k - \beta_k\, p_k / \lVert p_k\rVert .
# $$
#
# ::::{prf:theorem} The subgradient method
# :label: thm-03-subgradient
#
# Let $\phi$ be convex with minimiser $\theta^\star$, $R = \lVert\theta_1 - \theta^\star\rVert$, and $0 < \lVert p_k\rVert \le L$. Then
#
# $$
# \min_{k \le K} \phi(\theta_k) - \phi(\theta^\star) \le L\,\frac{R^2 + \sum_{k \le K} \beta_k^2}{2 \sum_{k \le K} \beta_k} .
# $$
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-03-subgradient`
#
# ::::{prf:proof}
# Expanding the square gives $\lVert\theta_{k+1} - \theta^\star\rVert^2 = \lVert\theta_k - \theta^\star\rVert^2 - 2\beta_k\langle p_k, \theta_k - \theta^\star\rangle/\lVert p_k\rVert + \beta_k^2$. By {eq}`eq-03-danskin` and convexity, $\langle p_k, \gamma\rangle \le D_\gamma\phi(\theta_k) \le \phi(\theta_k + \gamma) - \phi(\theta_k)$ for every $\gamma$: $p_k$ is a *subgradient*. With $\gamma = \theta^\star - \theta_k$ this says $\langle p_k, \theta_k - \theta^\star\rangle \ge \phi(\theta_k) - \phi(\theta^\star) \ge 0$, and $1/\lVert p_k\rVert \ge 1/L$.
# Sum over $k \le K$; the left-hand side is at least $0$, so $\tfrac2L \sum_k \beta_k(\phi(\theta_k) - \phi(\theta^\star)) \le R^2 + \sum_k \beta_k^2$. Replace each difference by the least one.
# ::::
# :::::
#
# In plain words: a step may raise $\phi$ and still bring us *closer to the minimiser*, and that is what counts. With lengths $\beta_k$ as above the bound tends to $0$. We try it on counterexample 2 with a bowl added, so that a minimum exists: $\phi(\theta) = \max(\langle\theta, u\rangle, \langle\theta, v\rangle) + \tfrac12\lVert\theta\rVert^2$, minimal at $\theta^\star = -(u + v)/2$ with the value $-\lVert u + v\rVert^2/8$. The minimiser lies on the kink.

# %%
u, v = pair(math.radians(140))
θ, path, gradients = torch.tensor([1.5, 2.0]), [], []
β = 0.5 / torch.arange(1.0, 401.0).sqrt()
for step in β:
    p = (u if θ @ (u - v) >= 0 else v) + θ  # gradient at the maximiser
    path, gradients = path + [θ], gradients + [p]
    θ = θ - step * p / p.norm()
path, gradients = torch.stack(path), torch.stack(gradients)
value = torch.maximum(path @ u, path @ v) + (path**2).sum(1) / 2

# %% [markdown]
# (check-03-11)=
# **Check 03.11** *(it rises at more than a third of its steps, and converges).* At least 134 of 399 steps raise $\phi$. The best value comes within $0.01$ of the minimum and obeys the bound of {prf:ref}`thm-03-subgradient` at every $K$. No iterate is on the kink. At every twentieth, brute force over $\delta$ finds one maximiser only, and the step taken is the direction of `ddi.steepest_descent`, to $10^{-9}$. The last 50 iterates are at least ten times as close to the kink as the first.

# %%
θ_star, lowest = -(u + v) / 2, -((u + v) @ (u + v)) / 8
best, R = value.cummin(0).values - lowest, (path[0] - θ_star).norm()
L = gradients.norm(dim=1).cummax(0).values
bound = L * (R**2 + (β**2).cumsum(0)) / (2 * β.cumsum(0))
assert (best <= bound).all() and (best >= -1e-12).all() and best[-1] < 0.01
assert 134 <= (value.diff() > 0).sum() < 399
print("more than a third of the steps go up; the best value converges")

# %%
δ, side = torch.linspace(0, 1, 101), path @ (u - v)  # side: 0 on the kink
assert (side != 0).all() and side[-50:].abs().max() < side[0].abs() / 10
for k in range(0, 399, 20):
    loss = g(path[k][None], δ, u, v)[0]
    weight = δ[loss == loss.max()][:, None]  # all maximisers on the grid
    steepest = ddi.steepest_descent(weight * u + (1 - weight) * v + path[k])
    step = (path[k + 1] - path[k]) / β[k]
    assert len(weight) == 1 and (steepest.direction - step).norm() < 1e-9

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-03-subgradient", "caption": "Zigzag across the kink: nearly every other step goes up (orange), and the best value (black) converges."}, "image": {"alt": "Left: contours of phi with a V-shaped kink along the vertical axis; the path comes from the upper right and then zigzags across the axis with ever shorter steps down to the minimiser, marked by a star. Right: the excess of phi over its minimum on a logarithmic axis against the step; the orange values jump up and down, and the black staircase of the best value goes down from about 5 to 0.003."}}
axis, tall = torch.linspace(-1.0, 1.7, 161), torch.linspace(-0.9, 2.2, 181)
X, Y = torch.meshgrid(axis, tall, indexing="xy")
plane = torch.stack([X, Y], -1)
surface = torch.maximum(plane @ u, plane @ v) + (plane**2).sum(-1) / 2
fig, (plane_ax, value_ax) = plt.subplots(1, 2, figsize=(7.4, 4.0), width_ratios=[1, 1.25])
plane_ax.contour(X, Y, surface - lowest, levels=[0.05, 0.2, 0.5, 1, 1.6, 2.4, 3.4], colors="#999999", linewidths=1)
plane_ax.plot(path[:, 0], path[:, 1], "-o", color=orange, markersize=3, linewidth=1.2)
plane_ax.plot(*θ_star, "*", color="black", markersize=15)
plane_ax.set(xlabel="$θ_1$", ylabel="$θ_2$", aspect="equal", xlim=(-1, 1.7), ylim=(-0.9, 2.2))
k = torch.arange(1, 401)
value_ax.semilogy(k, value - lowest, "-", color=orange, linewidth=0.8)
value_ax.semilogy(k, best, color="black", linewidth=2.5)
value_ax.text(200, 0.15, "each iterate", color=orange, ha="center")
value_ax.text(200, 0.0012, "best so far", ha="center")
value_ax.set(xlabel="step k", ylabel="φ(θ) − minimum", xlim=(0, 400), ylim=(8e-4, 8))
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
# It holds. Equally well known is the other half: the method converges nevertheless. Adversarial training with exact maximisers is a (stochastic) subgradient method, without convexity. And {numref}`fig-03-subgradient` holds two lessons more: iterates are *drawn to kinks*, and though none lies on one, a step of *finite* length crosses them.
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
# (check-03-12)=
# **Check 03.12** *(a unique maximiser, a non-zero gradient, and no descent).* On $100\,001$ perturbations $\delta = 0$ is the only maximiser at $\theta = 0$; the slope of $g$ in $\theta$ there is $1/2$ at each of four $\delta$ (to $10^{-6}$); but the one-sided slope of $\phi$ along $-1$ is $+1/2$, and along $+1$ it is $3/2$ (to $0.01$). The reason: at $\theta = \delta = 10^{-6}$ the gradient of $g$ is above $1.4$, so it is not continuous at $(0, 0)$.

# %%
def g_rough(θ, δ):
    return θ / 2 + 2 * δ * θ**2 / (δ**2 + θ**2).clamp_min(1e-300) - δ**2


δ = torch.linspace(0, 1, 100_001)
loss = g_rough(O, δ)
assert (loss == loss.max()).sum() == 1 and loss[0] == loss.max()

# %%
for γ, slope in ((left, 0.5), (right, 1.5)):
    for d in torch.tensor([0.0, 0.01, 0.1, 1.0]):
        alone = ddi.one_sided(lambda θ, d=d: g_rough(θ, d), O, γ, 1e-9)
        assert abs(alone - γ / 2) < 1e-6
    jointly = ddi.one_sided(lambda θ: g_rough(θ, δ).max(), O, γ, 1e-3)
    assert abs(jointly - slope) < 0.01

# %%
θ = torch.tensor(1e-6, requires_grad=True)
assert torch.autograd.grad(g_rough(θ, torch.tensor(1e-6)), θ)[0] > 1.4

# %% [markdown]
# **Drop the maximum.** For a *minimum* of smooth functions the corollary is true, and regularity is what fails: {ref}`exercise <ex-03-min>` below.
#
# ## Null set, finite steps, or inexact maximisers?
#
# Under the hypotheses of Danskin's theorem every counterexample lives on a *null set*, a set of measure zero, and there are three ways out of it. Let us put all three to counterexample 2 with $\langle u, v\rangle = -1/2$, at $\theta$ drawn uniformly from the unit disc. Let $s = \langle\theta, u - v\rangle$ be the difference of the two losses that tie at the kink.
#
# - **Null set.** The kink is the line $s = 0$. With exact maximisers and infinitesimal steps, a step against the gradient raises $\phi$ with probability zero.
# - **Finite steps.** A step of length $t$ against the gradient of the exact maximiser raises $\phi$ if and only if $|s| < t/2$: it crosses the kink and climbs further than it fell. That is a strip of positive measure.
# - **Inexact maximisers.** An attack is a local method. Gradient ascent on the parabola $g(\theta, \cdot)$ ends at $\delta = 1$ if it starts above $(1 - s)/2$, else at $\delta = 0$. From a uniform start it ends at the *wrong* end with probability $\tfrac12 (1 - |s|)_+$. Against the wrong gradient $\phi$ rises at every $t$, however small.
#
# (check-03-13)=
# **Check 03.13** *(the three suspects, measured).* With $20\,000$ random $\theta$, an attack by 60 ascent steps, and seven step lengths from $10^{-3}$ to $1$: the share of steps that raise $\phi$ agrees with its closed form (exact attack) or an integral (one start of the attack) to $0.015$. With an exact attack it is at most $t$; with one start it stays above $0.1$. Along $-(u + v)$, built from both local maximisers, no step raises $\phi$.

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
# {numref}`fig-03-suspects` is a caricature: two dimensions, one sample, and a problem built to be difficult. But it separates what the sources mix. So the book's question is:
#
# > **Null set, finite steps, or inexact maximisers?** If several perturbations help a real network, is it because training stands on kinks, because its steps cross them, or because its attacks miss the maximum? And if they do not help, is that because almost everywhere there is nothing to gain?
#
# The tools for finite steps and near-ties are older than adversarial training: $\varepsilon$-subgradients and bundle methods {cite}`lemarechal1975,kiwiel1985`, gradient sampling {cite}`goldstein1977,burke2005`, the multiple-gradient descent algorithm {cite}`desideri2012`. Several restarts of an attack never tie exactly, so whoever combines their gradients uses such a relaxation.
#
# What the later chapters measure:
#
# - {ref}`Chapter 4 <chapter-04>`: the steepest direction at an exact tie, and the hypothesis that it needs;
# - {ref}`Chapter 5 <chapter-05>`: what it costs to compute, and to which accuracy;
# - {ref}`Chapter 6 <chapter-06>`: how many maximisers must be known before a direction is certain to descend;
# - {ref}`Chapter 7 <chapter-07>`: what happens in a batch, where every mix of maximisers is a maximiser; and, for nearly tied perturbations of a real network, the measured $\phi(\theta + t\gamma) - \phi(\theta)$ over several $t$.
#
# ## Summary
#
# - The corollary is false at kinks. Its proof infers $D_{-\gamma}\phi < 0$ from $D_\gamma\phi > 0$, which needs a two-sided derivative.
# - $-\nabla_\theta g(\theta, \bar\delta)$ descends if and only if it has a positive product with *every* maximiser's gradient. A unique maximiser is sufficient, not necessary.
# - In counterexample 2 $\phi$ rises along $-u$ and $-v$ at every step length; $-(u + v)$ descends with slope $-\lVert u + v\rVert/2$ per unit. The simplex-entropy family does the same in any dimension, if $0 \notin \operatorname{conv}\{v_i\}$.
# - For almost every $\theta$ all maximisers share one gradient, the corollary is true, and DDi with exact maximisers is the normalised negative gradient.
# - A maximum is Clarke regular: around a kink one meets, up to mixing, the gradients of its maximisers. The subgradient method is drawn to kinks, does not descend, and converges.
# - What remains is the question above. All verdicts are collected under {ref}`claims` and {ref}`errata`.
#
# ## Exercises
#
# ::::{exercise} A lopsided interval
# :label: ex-03-interval
#
# Let $g(\theta, \delta) = \theta\delta$ with $S = [a, 1]$ and $-1 \le a < 1$. For which $a$ does the corollary hold at $\theta = 0$, for every maximiser with non-zero gradient?
# ::::
#
# ```{solution-start} ex-03-interval
# :label: sol-03-interval
# :class: dropdown
# ```
#
# At $0$ every $\delta \in [a, 1]$ is a maximiser, with gradient $\delta$. By {prf:ref}`thm-03-criterion` all products $\delta\delta'$ with $\delta \ne 0$ must be positive. So it holds if and only if $a > 0$. For $a < 0$ the ends have opposite signs. For $a = 0$ the product with $\delta' = 0$ is $0$: $\phi(\theta) = \max(\theta, 0)$ is level to the left.

# %%
for a in (-1.0, -0.3, 0.0, 0.2, 0.9):
    M = torch.linspace(a, 1, 101)[:, None]
    holds = all(ddi.directional_derivative(M, -v) < 0 for v in M if v != 0)
    assert holds == (a > 0)

# %% [markdown]
# ```{solution-end}
# ```
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
# ::::{exercise} Every step length needs convexity
# :label: ex-03-convex
#
# Show: if $\phi$ is convex and $D_\gamma\phi(\theta) \ge 0$, then $\phi(\theta + t\gamma) \ge \phi(\theta)$ for every $t > 0$. Find a $g$ for which $-\nabla_\theta g$ ascends for small steps and descends for large ones.
# ::::
#
# ```{solution-start} ex-03-convex
# :label: sol-03-convex
# :class: dropdown
# ```
#
# For convex $\phi$ the quotient $(\phi(\theta + t\gamma) - \phi(\theta))/t$ does not decrease in $t$, so it is at least its limit, $D_\gamma\phi(\theta) \ge 0$.
# Without convexity: $g(\theta, \delta) = \theta\delta - \theta^2$ on $[-1, 1]$ has $\phi(\theta) = |\theta| - \theta^2$. At $0$ the step $-t$ against the gradient $1$ gives $t - t^2$: positive for $t < 1$, negative for $t > 1$.

# %%
δ = torch.linspace(-1, 1, 201)
change = [(t * δ - t**2).max() for t in (-0.01, -0.9, -1.1, -5.0)]
assert change[0] > 0 and change[1] > 0 and change[2] < 0 and change[3] < 0

# %% [markdown]
# ```{solution-end}
# ```
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
# As the steps have length $\beta$ away from the kink, an iterate hits $0$ if and only if $\theta_1$ is an integer multiple of $\beta$. That is a countable set of starts, of measure zero. For a start drawn from a density the probability is zero. (For steps of a general map such an argument must be made anew: the image of a set of positive measure may have measure zero.)
# ::::
