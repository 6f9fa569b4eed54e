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
# (chapter-10)=
# # Many optimal perturbations?
#
# :::{admonition} What you will learn
# :class: frame
#
# - what random restarts of an attack show about the number of optimal perturbations, and what they cannot show;
# - a linear control with *one* optimal perturbation that gives the same picture, in closed form;
# - how many different perturbations remain on a clean and on a robust network once the attack has converged, and how equally good they are;
# - whether their gradients in $\theta$ differ, which is all that a descent direction can see.
#
# **Before you start.** {ref}`Chapter 1 <chapter-01>` (PGD on a linear model), {ref}`chapter 3 <chapter-03>` (the criterion of the corollary) and
# {ref}`chapter 7 <chapter-07>` (the product of the samples' maximisers). Symbols: {ref}`notation`.
#
# **Time and hardware.** Three quarters of an hour to read; about fifteen seconds to run on one processor core.
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
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import torch

import ddi
from ddi import plots

plots.use_style()
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## One maximum, many perturbations
#
# {cite:t}`latorre2023` attack images of CIFAR-10 several times from random starts. The perturbations that come out are all clearly apart, and all strong; so, they conclude, a sample has many optimal ones. {numref}`fig-10-linear` shows the same picture for a *linear* model, which has exactly one optimal perturbation.

# %% tags=["hide-input"]
def rms_distance(q, n, ε):
    """Root mean squared distance of two restarts on a linear model."""
    return math.sqrt(2 * n * ε**2 * q**3 * (4 / 3 - q))


def tail_exponent(q):
    """c(q) of the theorem."""
    return q * (1 / 3 - q / 4) ** 2 / (2 * (2 / 5 - q / 3))


def pairs(δ):
    """Pairwise l2 distances of m restarts, (m, k, ...) -> (k, m, m)."""
    flat = δ.flatten(2).transpose(0, 1)
    return torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")


ε_C = 8 / 255
n_C = 3072  # numbers in an image of CIFAR-10
m = 10  # restarts
torch.manual_seed(0)
flat_model = ddi.MLP(n_C, 2, ())  # two classes, linear
w = (flat_model[1].weight[1] - flat_model[1].weight[0]).detach()
grey, zeros = torch.full((10, 3, 32, 32), 0.5), torch.zeros(10, dtype=torch.int64)
pgd7 = ddi.PGD(eps=ε_C, alpha=ε_C / 4, steps=7, box=None)
δ_C = pgd7.restarts(flat_model, grey, zeros, m, torch.Generator().manual_seed(10))
i, j = torch.triu_indices(m, m, 1)
d_C, predicted = pairs(δ_C)[:, i, j], rms_distance(1 / 8, n_C, ε_C)

ball = ddi.LInf(ε_C, None)
seed = torch.Generator().manual_seed(20)
measured = {0: pairs(ball.sample(δ_C.flatten(0, 1), seed).view_as(δ_C))}
for T in range(1, 9):
    attack = replace(pgd7, steps=T)
    seed = torch.Generator().manual_seed(10 + T)
    measured[T] = pairs(attack.restarts(flat_model, grey, zeros, m, seed))
rms = {T: (d[:, i, j] ** 2).mean().sqrt().item() for T, d in measured.items()}

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-10-linear", "caption": "A linear model has one optimal perturbation. Top: 450 pairwise distances of PGD-7 restarts, clearly separated from zero. Bottom: the distance against the number of steps; with the eighth it is exactly zero."}, "image": {"alt": "Top: a narrow histogram of pairwise l2 distances around 0.12, far from zero, with the predicted value marked. Bottom: measured points on the predicted curve of the root mean squared distance, which falls from 1.4 without steps to 0.12 after seven and to zero after eight."}}
fig, (top, bottom) = plt.subplots(2, 1, figsize=(6.4, 6.2))
top.set_axisbelow(True)
top.hist(d_C.flatten().tolist(), bins=torch.linspace(0, 0.16, 65).tolist(), color="#888888")
top.axvline(predicted, color="black", linestyle="--", linewidth=1.5)
top.annotate("predicted", (predicted, 1), (-10, -6), xycoords=("data", "axes fraction"), textcoords="offset points", ha="right", va="top")
top.annotate("one maximiser,\nyet no pair near 0", (0.01, 0.55), xycoords=("data", "axes fraction"))
top.set(xlabel="pairwise $\\ell_2$ distance, PGD-7, n = 3072", ylabel="pairs", xlim=(0, 0.16))
fine = torch.linspace(0, 8, 161).tolist()
bottom.plot(fine, [rms_distance(1 - T / 8, n_C, ε_C) for T in fine], color="black")
bottom.plot(list(rms), list(rms.values()), "o", color="#888888", markersize=8)
bottom.annotate("PGD-7", (7, rms[7]), (0, 16), textcoords="offset points", ha="center")
bottom.annotate("exactly 0", (8, 0), (0, 12), textcoords="offset points", ha="center")
bottom.set(xlabel="steps of length ε/4", ylabel="rms distance", xlim=(-0.2, 9), ylim=(-0.05, 1.5))
plt.show()

# %% [markdown]
# So the picture proves nothing. What is true of a network, a funnel will count ({numref}`fig-10-funnel`): of 64 images many keep a second perturbation when the attack has converged, on a robust network often a nearly equal one; none has two whose gradients oppose each other.
#
# ## The claim
#
# The maximisers of the loss of one sample form the set $S_i^\star(\theta)$. If it has one element for every sample, the corollary of {ref}`chapter 3 <chapter-03>` is true (for a gradient that is not zero), and one attack is enough.
#
# :::{admonition} Source's claim (Latorre et al. 2023, section 5.1, Figs. 2, 6 and 7)
# :class: claim
#
# The set of optimal perturbations of a sample is not a singleton. The evidence: a ResNet-18 trained on CIFAR-10, several PGD-7 attacks an image from random starts with $\epsilon = 8/255$.
# (i) All pairwise $\ell_2$ distances are clearly separated from zero, so the attacks are distinct. (ii) Their losses lie close together, far above the clean loss, so the attacks are strong {cite}`latorre2023`.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# The lecture {cite}`cevher2024` shows the same picture under the heading that optimised perturbations are typically not unique. The text of section 5.1 does not give PGD's step length $\alpha$; section 5.3 has $\alpha = 2/255$, and we take that.
# It says neither how many attacks an image gets nor whether the network was trained to be robust.
#
# *Distinct* and *strong* are not yet *optimal*. We try to refute the claim in four steps. Would one maximiser give the same picture? Do the perturbations stay distinct when the attack is run to its end? Are they equally good? And do their gradients in $\theta$ differ?
# :::
#
# ## A model with one maximiser gives the same picture
#
# PGD-7 takes 7 steps of $\alpha = \epsilon/4$: it travels at most $\frac74 \epsilon$ in each coordinate. The ball is $2\epsilon$ wide. An attack that starts far from its goal cannot arrive.
#
# Let the loss be a function of $\langle w, \delta \rangle$ with positive derivative and all $w_j \ne 0$, such as the cross-entropy of a linear model with two classes, and let $S = \{\lVert \delta \rVert_\infty \le \epsilon\}$, without a box. The sign of the gradient
# is $\mathrm{sign}(w)$ everywhere. There is exactly one maximiser, $\delta^\star = \epsilon\, \mathrm{sign}(w)$. Call
#
# ```{math}
# :label: eq-10-q
#
# q = \max\Bigl(0,\; 1 - \frac{T\alpha}{2\epsilon}\Bigr)
# ```
#
# the part of the ball's width that $T$ steps of PGD do *not* cover. For PGD-7, $q = \frac18$; from 8 steps on, $q = 0$.
#
# ::::{prf:theorem} Restarts of a linear model
# :label: thm-10-linear
#
# Let $\delta$ and $\delta'$ be two restarts of PGD with $T$ steps of length $\alpha$ from independent starts, uniform on the ball in $\mathbb{R}^n$. Then
#
# 1. $\delta_j = \delta^\star_j - \mathrm{sign}(w_j)\, s_j$ with independent *shortfalls* $s_j$: with probability $1 - q$ the pixel has arrived, $s_j = 0$; otherwise $s_j$ is uniform on $[0, 2q\epsilon]$;
# 2. their mean squared distance is
#
#    ```{math}
#    :label: eq-10-distance
#
#    \mathbb{E} \lVert \delta - \delta' \rVert^2 = 2 n \epsilon^2 q^3 \bigl( \tfrac43 - q \bigr);
#    ```
#
# 3. small distances are hopelessly rare: if $q > 0$,
#
#    ```{math}
#    :label: eq-10-tail
#
#    \begin{gathered}
#    \Pr\Bigl[ \lVert \delta - \delta' \rVert^2 \le \tfrac12\, \mathbb{E} \lVert \delta - \delta' \rVert^2 \Bigr] \\
#    \le\; e^{-n c(q)}, \\
#    c(q) = \frac{q \left( \frac13 - \frac q4 \right)^2}{2 \left( \frac25 - \frac q3 \right)};
#    \end{gathered}
#    ```
#
# 4. both are strong: on average $\langle w, \delta \rangle$ reaches the share $1 - q^2$ of its maximum $\epsilon \lVert w \rVert_1$.
#
# For $q = 0$ every restart ends at $\delta^\star$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-10-linear`
#
# ::::{prf:proof}
# Each step adds $\alpha\, \mathrm{sign}(w_j)$ to pixel $j$ and cuts it at $\pm\epsilon$. Let $U_j$ be the distance from the start to $\delta^\star_j$; it is uniform on $[0, 2\epsilon]$. After $T$ steps the distance is
# $s_j = \max(0, U_j - T\alpha)$, which is claim 1. With $b = 2q\epsilon$ its moments are $m_k = \mathbb{E} s_j^k = q b^k / (k + 1)$.
#
# Put $X_j = (s_j - s_j')^2$, with mean $\mu = 2(m_2 - m_1^2) = 2 b^2 q (\frac13 - \frac q4) = 2 \epsilon^2 q^3 (\frac43 - q)$. The sum over $n$ pixels is claim 2. Further
# $\mathbb{E} X_j^2 = 2 m_4 - 8 m_3 m_1 + 6 m_2^2 = b^4 q (\frac25 - \frac q3)$.
#
# For $z \ge 0$ we have $e^{-z} \le 1 - z + z^2/2$, so $\mathbb{E} e^{-\lambda X_j} \le \exp(-\lambda \mu + \lambda^2 \mathbb{E} X_j^2 / 2)$ for every $\lambda > 0$. By Markov's inequality
# $\Pr[\sum_j X_j \le n\mu/2] \le \exp(n (-\lambda\mu/2 + \lambda^2 \mathbb{E} X_j^2/2))$. The best $\lambda = \mu / (2\, \mathbb{E} X_j^2)$ gives $\exp(-n \mu^2 / (8\, \mathbb{E} X_j^2))$, and
# $\mu^2 / (8\, \mathbb{E} X_j^2) = c(q)$. This is claim 3.
#
# Last, $\langle w, \delta^\star - \delta \rangle = \sum_j |w_j| s_j$ has the mean $\lVert w \rVert_1 m_1 = \lVert w \rVert_1\, \epsilon q^2$.
# ::::
# :::::
#
# For CIFAR-10, $n = 3072$ and $\epsilon = 8/255$, the distance is about $0.12$ with one maximiser, and the chance that a pair is closer than $0.084$ is below $10^{-21}$. On average $\langle w, \delta \rangle$ lacks $q^2 = 1/64$ of its maximum.
# Clear separation, strong attacks, one optimum.
#
# (check-10-1)=
# **Check 10.1** *(one maximiser, the picture of many).* A linear model with random weights on ten images of CIFAR-10's size, ten restarts of the package's PGD-7 each. The mean squared distance agrees with {eq}`eq-10-distance` to 5 %, and the mean shortfall of the gain with $q^2 = 1/64$ to 5 %.
# All 450 distances lie within 20 % of the predicted $0.12$. The bound {eq}`eq-10-tail` is below $10^{-21}$. The share of pixels that have not arrived is $\frac18$, to $0.01$.

# %% tags=["hide-input"]
# NBVAL_IGNORE_OUTPUT
assert math.isclose((d_C**2).mean(), predicted**2, rel_tol=0.05)
assert (d_C / predicted - 1).abs().max() < 0.2
assert math.exp(-n_C * tail_exponent(1 / 8)) < 1e-21
gain = (δ_C.flatten(2) @ w) / (ε_C * w.abs().sum())
assert math.isclose(1 - gain.mean(), 1 / 64, rel_tol=0.05)
assert abs((δ_C.flatten(2) != ε_C * w.sign()).double().mean() - 1 / 8) < 0.01
print(f"✓ {d_C.numel()} distances from {d_C.min():.3f} to {d_C.max():.3f};")
print(f"  predicted {predicted:.3f}, to 20 %")

# %% [markdown]
# (check-10-2)=
# **Check 10.2** *(one more step, and the picture is gone).* The root mean squared distance agrees with {eq}`eq-10-distance` for 1 to 7 steps, to 5 %. After 8 steps, $8\alpha = 2\epsilon$, all restarts are equal, bit for bit.

# %% tags=["hide-input"]
# NBVAL_IGNORE_OUTPUT
for T in range(8):
    assert math.isclose(rms[T], rms_distance(1 - T / 8, n_C, ε_C), rel_tol=0.05)
assert measured[8].max() == 0
print(f"✓ seven steps: {rms[7]:.4f}, predicted {predicted:.4f}; eight: {rms[8]:g}")

# %% [markdown]
# So neither half of the argument, distances away from zero or a strong attack, says anything about the number of maximisers.
#
# ### The box helps, pixel by pixel
#
# Images also keep to the box $[0, 1]$. It shortens the way of some pixels, and so makes restarts more alike. The formula is needed only for the control of {ref}`check 10.3 <check-10-3>`.
#
# :::::{dropdown} The distance with a box
#
# Let $[\mathrm{lo}, \mathrm{hi}]$ be the perturbations that a pixel allows, seen so that the attack walks towards $\mathrm{hi}$. The random start is drawn from $[-\epsilon, \epsilon]$ and clipped, so it may start
# exactly at $\mathrm{lo}$. With $A = \max(0, \mathrm{hi} - \mathrm{lo} - T\alpha)$, the largest possible shortfall,
#
# ```{math}
# :label: eq-10-box
#
# \begin{aligned}
# \mathbb{E}\, s &= \frac{(\epsilon + \mathrm{lo}) A + A^2/2}{2\epsilon}, \\
# \mathbb{E}\, s^2 &= \frac{(\epsilon + \mathrm{lo}) A^2 + A^3/3}{2\epsilon},
# \end{aligned}
# ```
#
# and the mean squared distance is $2 \sum_j (\mathbb{E} s_j^2 - (\mathbb{E} s_j)^2)$. The first summand is the atom at $\mathrm{lo}$, the second the uniform part. Without a box $\mathrm{lo} = -\epsilon$, and {eq}`eq-10-box` becomes {prf:ref}`thm-10-linear`.
# :::::
#
# With PGD-7 a pixel that is nearer than $\frac34 \epsilon$ to black or white always arrives ($A = 0$), and adds no distance.
#
# From here on we use the digits with $\epsilon = 0.2$ and again $\alpha = \epsilon/4$, so that PGD-7 has the same inability to cross. The linear control on the digits tells even from odd: two classes, hence one maximiser.

# %% tags=["hide-input"]
ε, k = 0.2, 64
S = ddi.LInf(ε)
data = ddi.digits().to(dtype=torch.float64)
x, y = data.x_train[:k], data.y_train[:k]
pgd7 = ddi.PGD(eps=ε, alpha=ε / 4, steps=7)


def train(labels, classes, hidden, attack=None, steps=400, lr=0.5):
    """SGD on the digits, against an attack if there is one."""
    torch.manual_seed(0)
    net, draw = ddi.MLP(64, classes, hidden), torch.Generator().manual_seed(1)
    for _ in range(steps):
        b = torch.randint(1400, (64,), generator=draw)
        images = data.x_train[b]
        if attack is not None:
            images = images + attack(net, images, labels[b], draw)
        loss = ddi.cross_entropy(net(images), labels[b]).mean()
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for p, gradient in zip(net.parameters(), gradients, strict=True):
                p -= lr * gradient
    return net


even_odd = train(data.y_train % 2, 2, ())

# %% [markdown]
# (check-10-3)=
# **Check 10.3** *(the linear control in the box).* The mean over 64 digits of the shortfall and of the squared distance, from 200 restarts, agree with {eq}`eq-10-box` to 5 %. On every pixel with $A = 0$ all restarts agree exactly; that is more than half of the pixels. With 8 steps the distance is exactly zero on all images.

# %% tags=["hide-input"]
# NBVAL_IGNORE_OUTPUT
up = (even_odd[1].weight[1] - even_odd[1].weight[0]).sign().detach().view(1, 8, 8)
σ = up * (1 - 2 * (y % 2)).view(k, 1, 1, 1)  # away from the label
lower, upper = S.bounds(x)
lo = torch.where(σ > 0, lower, -upper).clamp_min(-ε)
hi = torch.where(σ > 0, upper, -lower).clamp_max(ε)
A = (hi - lo - 7 * ε / 4).clamp_min(0)
E_s = ((ε + lo) * A + A**2 / 2) / (2 * ε)
E_s2 = ((ε + lo) * A**2 + A**3 / 3) / (2 * ε)
boxed = 2 * (E_s2 - E_s**2).flatten(1).sum(1)
many = pgd7.restarts(even_odd, x, y % 2, 200, torch.Generator().manual_seed(2))
assert math.isclose((hi - σ * many).mean(), E_s.mean(), rel_tol=0.05)
squared = 2 * many.var(0).flatten(1).sum(1)  # unbiased
assert math.isclose(squared.mean(), boxed.mean(), rel_tol=0.05)
still = A == 0
assert (many.amax(0) - many.amin(0))[still].max() == 0 and still.double().mean() > 0.5
seed = torch.Generator().manual_seed(3)
eight = replace(pgd7, steps=8).restarts(even_odd, x, y % 2, m, seed)
assert pairs(eight).max() == 0
print(f"✓ mean squared distance {squared.mean():.5f},")
print(f"  predicted {boxed.mean():.5f}, to 5 %")
print(f"✓ {still.double().mean():.0%} of the pixels arrive, bound 50 %")

# %% [markdown]
# ## A clean and a robust network
#
# One hidden layer of 64 CELU units, trained for 400 steps of SGD, once on clean digits and once against PGD-7. We measure on the first 64 training images, with $m = 10$ restarts each.

# %%
nets = {"clean": train(data.y_train, 10, (64,))}
nets["robust"] = train(data.y_train, 10, (64,), pgd7)

# %% [markdown]
# (check-10-4)=
# **Check 10.4** *(the two networks are what their names say).* On 397 test images both classify more than 80 % of the clean digits. Under PGD with 40 steps of $\epsilon/10$ the clean network keeps less than 15 %, the robust one more than 25 %.

# %% tags=["hide-input"]
# NBVAL_IGNORE_OUTPUT
strong = ddi.PGD(eps=ε, alpha=ε / 10, steps=40)
for name, low, high in (("clean", 0.0, 0.15), ("robust", 0.25, 1.0)):
    tested = (nets[name], data.x_test, data.y_test)
    assert ddi.clean_accuracy(*tested).value > 0.8
    robust = ddi.robust_accuracy(*tested, strong).value
    assert low <= robust <= high
    print(f"✓ {name}: robust accuracy {robust:.2f}, bounds {low} and {high}")


# %% [markdown]
# ### What we measure
#
# `spread` runs $m$ restarts and keeps the perturbations $\delta_{ij}$, the pairwise distances, the losses $\ell_{ij}$, and the gradients $g_{ij} = \nabla_\theta L_i(\theta, \delta_{ij})$. The *gap* of a restart is
# $\Delta_{ij} = \max_{j'} \ell_{ij'} - \ell_{ij} \ge 0$: what it loses against the sample's best.

# %% tags=["hide-input"]
@dataclass
class Spread:
    """Perturbations (m, k, ...), distances (k, m, m), losses, gradients (m, k, d)."""

    δ: torch.Tensor
    distance: torch.Tensor
    loss: torch.Tensor
    gradient: torch.Tensor

    @property
    def gap(self):
        """What each restart loses against the sample's best, (m, k)."""
        return self.loss.amax(0) - self.loss


def spread(model, x, y, attack, m=10, seed=1, finish=None):
    """m restarts of an attack; `finish(model, x, y, δ)` may improve them."""
    δ = attack.restarts(model, x, y, m, torch.Generator().manual_seed(seed))
    if finish is not None:
        δ = finish(model, x, y, δ)
    losses = ddi.sample_losses(model, x, y, δ)
    return Spread(δ, pairs(δ), losses, ddi.per_sample_gradients(model, x, y, δ))


first = {name: spread(net, x, y, pgd7) for name, net in nets.items()}
first["linear"] = spread(even_odd, x, y % 2, pgd7)

# %% [markdown]
# (check-10-5)=
# **Check 10.5** *(the paper's picture appears on all three models).* With PGD-7 at least 90 % of all pairs are more than 0.01 apart: on the clean network, on the robust one, and on the linear control, which has one maximiser.
# On each, the mean loss over the restarts has at least three quarters of the best restart's gain over the clean loss, in nine samples of ten.

# %% tags=["hide-input"]
# NBVAL_IGNORE_OUTPUT
for name, s in first.items():
    net, labels = (even_odd, y % 2) if name == "linear" else (nets[name], y)
    away = (s.distance[:, i, j] > 0.01).double().mean()
    assert away > 0.9
    ℓ_clean = ddi.cross_entropy(net(x), labels).detach()
    share = (s.loss.mean(0) - ℓ_clean) / (s.loss.amax(0) - ℓ_clean)
    assert (share > 0.75).double().mean() > 0.9
    print(f"✓ {name}: {away:.0%} of the pairs are apart, bound 90 %;")
    print(f"  strong in {(share > 0.75).double().mean():.0%} of the samples")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-10-paper", "caption": "The paper's two pictures on the digits. Top: pairwise distances of PGD-7 restarts, separated from zero on all three models. Bottom: losses of ten restarts on 24 images of the robust network, far above the clean loss."}, "image": {"alt": "Top: three histograms of pairwise distances on a logarithmic axis: the linear control around 0.05, the clean network spread from 0.03 to more than 1, the robust network around 0.5. Bottom: for each of 24 images, sorted, a grey circle for the clean loss and, well above it, ten short dashes close together for the restarts."}}
kinds = {"linear": ("#888888", "linear control"), "clean": ("#0072B2", "clean network"), "robust": ("#D55E00", "robust network")}
fig, (top, bottom) = plt.subplots(2, 1, figsize=(6.4, 6.8))
bins = torch.logspace(-2.3, 0.4, 55).tolist()
for name, (colour, label) in kinds.items():
    d = first[name].distance[:, i, j].flatten()
    top.hist(d.tolist(), bins=bins, histtype="step", linewidth=2, color=colour)
    place = {"linear": (0.037, 290), "clean": (2, 90), "robust": (1.4, 200)}[name]
    top.annotate(label, place, color=colour, ha="right" if name == "linear" else "left")
top.set(xscale="log", xlabel="pairwise $\\ell_2$ distance, PGD-7", ylabel="pairs", xlim=(0.005, 25))
top.set_xticks([0.01, 0.1, 1], ["0.01", "0.1", "1"])
top.minorticks_off()
s, ℓ_clean = first["robust"], ddi.cross_entropy(nets["robust"](x), y).detach()
order = s.loss[:, :24].amax(0).argsort()
at = torch.arange(24)
bottom.plot(at, ℓ_clean[:24][order], "o", color="#888888", markerfacecolor="white", markersize=7)
for row in s.loss[:, :24]:
    bottom.plot(at, row[order], "_", color=kinds["robust"][0], markersize=9, alpha=0.7)
bottom.annotate("ten restarts", (17, s.loss[:, order[17]].amax()), (-14, 12), textcoords="offset points", ha="right", color=kinds["robust"][0])
bottom.annotate("clean loss", (19.5, 0.08), ha="center", color="#666666")
bottom.set(xlabel="image, sorted", ylabel="loss, nats", xticks=[])
plt.show()

# %% [markdown]
# One thing is already different in {numref}`fig-10-paper`: the networks' distances are larger than the linear control's. The inability to cross explains a part of them, not all.
#
# ## Run to the end
#
# So we let the attack converge: 150 steps, the first 40 of length $\epsilon/4$, then 15 % shorter each time. Where the maximum is not at a corner, signs are a poor compass; so we finish with projected gradient ascent, each restart with a step length of its own.
# How near to a maximum does that end? The *first-order gap* tells,
#
# ```{math}
# :label: eq-10-first-order
#
# \max_{\delta' \in S_i} \langle \nabla_\delta L_i(\theta, \delta_{ij}), \delta' - \delta_{ij} \rangle \ge 0 ,
# ```
#
# and is zero exactly at stationary points.

# %% tags=["hide-input"]
def value_and_slope(model, x, y, δ):
    """Losses (m, k) and their gradients in δ, (m, k, ...)."""
    δ = δ.detach().requires_grad_()
    logits = model((x + δ).flatten(0, 1))
    losses = ddi.cross_entropy(logits, y.repeat(len(δ)))
    (slope,) = torch.autograd.grad(losses.sum(), δ)
    return losses.detach().view(δ.shape[:2]), slope


def first_order_gap(model, x, y, δ):
    """How much the linear model of the loss promises, (m, k)."""
    slope, (low, high) = value_and_slope(model, x, y, δ)[1], S.bounds(x)
    to_low, to_high = low.clamp_min(-ε) - δ, high.clamp_max(ε) - δ
    return torch.maximum(slope * to_low, slope * to_high).flatten(2).sum(2)


# %% tags=["hide-input"]
def polish(model, x, y, δ, steps=100):
    """Projected gradient ascent; a step is kept if the loss does not fall."""
    size = torch.full((*δ.shape[:2], 1, 1, 1), 0.05)
    (losses, slope), project = value_and_slope(model, x, y, δ), S.projection(x)
    for _ in range(steps):
        trial = project(δ + size * slope)
        higher, its_slope = value_and_slope(model, x, y, trial)
        good = higher >= losses
        losses, mask = torch.where(good, higher, losses), good.view_as(size)
        δ, slope = torch.where(mask, trial, δ), torch.where(mask, its_slope, slope)
        size = size * torch.where(mask, 1.5, 0.4)
    return δ


# %%
def shorter(step):
    """1 for 40 steps, then a factor 0.85 a step."""
    return 0.85 ** max(0, step - 40)


to_the_end = replace(pgd7, steps=150, schedule=shorter)
last = {}
for name, net in nets.items():
    last[name] = spread(net, x, y, to_the_end, finish=polish)

# %% [markdown]
# We call two perturbations *distinct* if they are more than 0.01 apart in $\ell_2$. (The diameter of the ball is $3.2$.)
#
# (check-10-6)=
# **Check 10.6** *(the attack has converged, and part of the distances is gone).* All first-order gaps are below $10^{-4}$ nats. PGD-7 left next to no pair closer than $10^{-3}$; now more than half of the pairs coincide to that accuracy on the clean network, more than a quarter on the robust one.
# A second road, 60 steps of constant length from twenty fresh starts and the same finish, finds the same best loss (to $10^{-6}$) in more than half of the samples. In the others *best* means only the best found.

# %% tags=["hide-input"]
# NBVAL_IGNORE_OUTPUT
second = {name: spread(net, x, y, replace(pgd7, steps=60), 20, seed=2, finish=polish) for name, net in nets.items()}
for name, least in (("clean", 0.5), ("robust", 0.25)):
    unmet = first_order_gap(nets[name], x, y, last[name].δ).max()
    assert unmet < 1e-4
    together = (last[name].distance[:, i, j] < 1e-3).double().mean()
    before = (first[name].distance[:, i, j] < 1e-3).double().mean()
    assert together > least and before < 0.05
    difference = (last[name].loss.amax(0) - second[name].loss.amax(0)).abs()
    assert (difference < 1e-6).double().mean() > 0.5
    print(f"✓ {name}: first-order gap {unmet:.0e}, bound 1e-4;")
    print(f"  {together:.0%} of the pairs coincide, bound {least:.0%}")

# %% [markdown]
# (check-10-7)=
# **Check 10.7** *(several perturbations remain; on the clean network they are not equally good, on the robust one many nearly are).* Count the samples with a perturbation that is distinct from the best one. After convergence they are more than a third of the 64 on the clean network, and more than half on the robust one.
# Now ask that it also be within 0.01 nats of the best. On the clean network at most twelve samples pass, on the robust one at least twenty.

# %% tags=["hide-input"]
def rivals(s, nats=math.inf):
    """Restarts distinct from the sample's best and within `nats` of it, (m, k)."""
    best = s.loss.argmax(0)
    away = s.distance[torch.arange(len(best)), best].T > 0.01
    return away & (s.gap <= nats)

# %% tags=["nbval-ignore-output"]
distinct = {name: int(rivals(s).any(0).sum()) for name, s in last.items()}
tied = {name: int(rivals(s, 0.01).any(0).sum()) for name, s in last.items()}
assert distinct["clean"] > k / 3 and distinct["robust"] > k / 2
assert tied["clean"] <= 12 and tied["robust"] >= 20
for name in nets:
    print(f"✓ {name}: {distinct[name]} of {k} have a distinct one,")
    print(f"  {tied[name]} within 0.01 nats")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-10-converged", "caption": "PGD-7 (dashed) and the converged attack (solid). Top: converged, more than half of the pairs coincide. Bottom: what a restart loses against its sample's best; on the clean network most of the rest lose more than 0.1 nats, on the robust one most lose less."}, "image": {"alt": "Top: the share of pairs closer than a distance. The dashed curves of PGD-7 start at zero; the solid ones start above 0.7 for the clean network and above 0.5 for the robust one, then rise slowly. Bottom: the share of restarts that lose less than a number of nats. The solid curves start high; the clean one stays nearly flat until a tenth of a nat, the robust one climbs steadily from a hundred-thousandth of a nat."}}
fig, (top, bottom) = plt.subplots(2, 1, figsize=(6.4, 6.8))
for name in nets:
    colour, label = kinds[name]
    for s, dash in ((first[name], "--"), (last[name], "-")):
        d = s.distance[:, i, j].flatten().sort().values
        share = torch.arange(1, len(d) + 1) / len(d)
        top.plot([0, *d.tolist(), 1.8], [0, *share.tolist(), 1], color=colour, linestyle=dash)
        gaps = s.gap.flatten().clamp_min(1e-9).sort().values
        bottom.plot([*gaps.tolist(), 10], [*(torch.arange(1, len(gaps) + 1) / len(gaps)).tolist(), 1], color=colour, linestyle=dash)
    top.annotate(label, (0.2, 0.87) if name == "clean" else (0.53, 0.42), color=colour)
    bottom.annotate(label, (4e-8, float((last[name].gap < 4e-8).double().mean())), (0, 6), textcoords="offset points", color=colour)
top.annotate("solid: converged\ndashed: PGD-7", (0.98, 0.05), xycoords="axes fraction", ha="right")
top.set(xlabel="pairwise $\\ell_2$ distance", ylabel="share of pairs", xlim=(-0.02, 1.75), ylim=(0, 1.03))
bottom.axvline(0.01, color="#888888", linewidth=1)
bottom.annotate("0.01", (0.01, 0.04), (5, 0), textcoords="offset points", color="#666666")
bottom.set(xscale="log", xlabel="gap to the sample's best restart, nats", ylabel="share of restarts", xlim=(1e-8, 10), ylim=(0, 1.03))
plt.show()

# %% [markdown]
# {numref}`fig-10-converged` speaks partly for the claim. A converged attack on the robust network does end at several places for most samples, and many of them are as good as equal.
# On the clean network the picture of the paper misleads: what looks like many optimal perturbations is one that is best, found by most restarts, and some worse ones.
#
# ## What a direction can see
#
# The descent direction does not see $\delta$. It sees $g_{ij} = \nabla_\theta L_i(\theta, \delta_{ij})$. By {ref}`chapter 3 <chapter-03>` minus the gradient at one maximiser descends if its inner products with the gradients at all others are positive, and ascends if one is negative; and at almost every $\theta$ *exact* maximisers of $\phi_i$ share one gradient.
# So the question is what *nearly* tied ones do. {numref}`fig-10-angle` shows, for each rival, what it loses and the angle between its gradient and the best restart's.

# %% tags=["hide-input"]
def angles(s):
    """Angle in degrees between each restart's gradient and the best one's, (m, k)."""
    best = s.gradient[s.loss.argmax(0), torch.arange(s.loss.shape[1])]
    cosine = torch.cosine_similarity(s.gradient, best[None], dim=2)
    return torch.rad2deg(cosine.clamp(-1, 1).arccos())


# %% [markdown]
# (check-10-8)=
# **Check 10.8** *(distinct perturbations, similar gradients).* On both networks, with PGD-7 and with the converged attack, all inner products of a sample's ten gradients are positive. On the robust network converged rivals within 0.01 nats of the best are less than $60°$ from it, and half of them less than $15°$; those within
# $10^{-4}$ nats are less than $25°$ from it. On the clean network some rivals are more than $60°$ from the best, and at least half of those lose more than $0.1$ nats.

# %%
for s in (first["clean"], first["robust"], *last.values()):
    inner = torch.einsum("akd,bkd->kab", s.gradient, s.gradient)
    assert inner.min() > 0

# %% tags=["nbval-ignore-output"]
s, angle = last["robust"], angles(last["robust"])
near = angle[rivals(s, 0.01)]
assert near.max() < 60 and near.median() < 15
assert angle[rivals(s, 1e-4)].max() < 25
s, angle = last["clean"], angles(last["clean"])
wide = rivals(s) & (angle > 60)
assert wide.any() and s.gap[wide].median() > 0.1
print(f"✓ robust: {near.median():.0f}° in the median, bound 15°;")
print(f"  {near.max():.0f}° at most, bound 60°")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-10-angle", "caption": "Each point is a converged perturbation that is distinct from its sample's best. The nearer the tie, the smaller the angle between the gradients. Between exact maximisers an angle above 90° would break the corollary."}, "image": {"alt": "A scatter of angles between gradients against loss gaps on a logarithmic axis. Points of the robust network rise from a few degrees at gaps below a thousandth of a nat to fifty degrees at a tenth of a nat. Most points of the clean network have gaps above a hundredth of a nat, with angles up to eighty degrees. All lie below the line at ninety degrees; the region of small gap and large angle is empty."}}
fig, ax = plt.subplots(figsize=(6.4, 4.4))
ax.axhspan(90, 100, color="#f2d5d5")
ax.annotate("if tied, the corollary fails", (0.02, 93), xycoords=("axes fraction", "data"), color="#993333")
for name, marker in (("robust", "o"), ("clean", "s")):
    s, seen = last[name], rivals(last[name])
    ax.plot(s.gap[seen], angles(s)[seen], marker, color=kinds[name][0], markersize=4.5, alpha=0.5, markeredgewidth=0)
ax.annotate("clean network", (0.97, 0.84), xycoords="axes fraction", color=kinds["clean"][0], ha="right")
ax.annotate("robust network", (0.2, 0.13), xycoords="axes fraction", color=kinds["robust"][0], ha="center")
ax.annotate("tied, yet far apart:\nempty", (0.25, 0.55), xycoords="axes fraction", color="#666666", ha="center")
ax.set(xscale="log", xlabel="gap to the sample's best restart, nats", ylabel="angle to its gradient, degrees", xlim=(1e-7, 10), ylim=(0, 100), yticks=[0, 30, 60, 90])
plt.show()

# %% [markdown]
# ### The batch, and two yardsticks
#
# One update uses the mean over the batch, which smooths further. Is what remains large? The first yardstick is the noise of SGD: how much gradients of *different batches* differ. The second is slope. Take every restart within 0.01 nats of its sample's best for a maximiser, as
# {ref}`chapter 7 <chapter-07>` does. Then the slope along a unit vector $\gamma$ is
#
# $$
# \frac1k \sum_{i=1}^k \; \max_{j \,:\, \Delta_{ij} \le 0.01} \langle g_{ij}, \gamma \rangle ,
# $$
#
# and product DDi is the $\gamma$ for which it is least.
#
# (check-10-9)=
# **Check 10.9** *(for the batch the choice of restart is a small matter).* On the robust network, with PGD-7 and converged: relative to their norm, gradients of the batch at two restarts differ by less than a third of what gradients of two batches of 64 differ by. Each of the ten batch gradients alone descends on the full product of the near ties.
# Product DDi is steeper than the average single restart, by less than 5 %, and at least as steep as joint DDi.

# %% tags=["hide-input"]
def apart(vectors):
    """Mean distance of two rows, relative to the mean norm."""
    return torch.pdist(vectors).mean() / vectors.norm(dim=1).mean()


others, net = torch.arange(k, 11 * k), nets["robust"]  # ten more batches
x2, y2 = data.x_train[others], data.y_train[others]
δ2 = pgd7.restarts(net, x2, y2, 1, torch.Generator().manual_seed(3))
batches = ddi.per_sample_gradients(net, x2, y2, δ2).view(10, k, -1).mean(1)
for s in (first["robust"], last["robust"]):
    assert apart(s.gradient.mean(1)) < apart(batches) / 3


# %% tags=["hide-input"]
def near_tie_slope(s, w, nats=0.01):
    """Slope of -w on the product of the near ties: a mean of maxima."""
    along = -(s.gradient @ w) / w.norm()
    return along.masked_fill(s.gap > nats, -math.inf).amax(0).mean().item()


def product_ddi(s, nats=0.01):
    """Least norm over the product of the near ties."""
    keep = (s.gap <= nats).flatten()
    sample = torch.arange(k).repeat(len(s.gap))[keep]
    rows = s.gradient.flatten(0, 1)[keep] / k
    return ddi.min_norm_product(ddi.gram_matrix(rows), sample).weights @ rows


# %% tags=["hide-input"]
# NBVAL_IGNORE_OUTPUT
for s in (first["robust"], last["robust"]):
    columns = s.gradient.mean(1)
    joint = ddi.min_norm_point(ddi.gram_matrix(columns)).weights @ columns
    single = [near_tie_slope(s, column) for column in columns]
    best = near_tie_slope(s, product_ddi(s))
    assert max(single) < 0  # every one descends
    assert -1e-6 < best / (sum(single) / m) - 1 < 0.05  # what product DDi gains
    assert best <= near_tie_slope(s, joint) + 1e-9 < 0
    gained = best / (sum(single) / m) - 1
    print(f"✓ all {m} descend; product DDi gains {gained:.1%}, bound 5 %")

# %% [markdown]
# There remains the finite step. A perturbation that loses 0.01 nats today may be the worst one after the step. We can count that without a new attack: keep the converged perturbations, move $\theta$ by a given length against the gradient $w$ of the batch at the best ones (PGD-max),
# and ask in how many samples a distinct rival has overtaken.

# %% tags=["hide-input"]
def overtaken(net, s, length):
    """Samples whose worst perturbation found is another one after the step."""
    best, sample = s.loss.argmax(0), torch.arange(k)
    w = s.gradient[best, sample].mean(0)
    θ = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    torch.nn.utils.vector_to_parameters(θ - length * w / w.norm(), net.parameters())
    now = ddi.sample_losses(net, x, y, s.δ).argmax(0)
    torch.nn.utils.vector_to_parameters(θ, net.parameters())
    return int((s.distance[sample, best, now] > 0.01).sum()), float(w.norm())


# %% [markdown]
# (check-10-10)=
# **Check 10.10** *(the training's own step crosses many kinks, a short one few).* On the robust network SGD's step has the length $0.5\, \lVert w \rVert$. It changes the worst perturbation of at least 15 of the 64 samples; a step of $0.001$ of at most 8.

# %% tags=["hide-input"]
# NBVAL_IGNORE_OUTPUT
s, net = last["robust"], nets["robust"]
few, size = overtaken(net, s, 0.001)
crossed, _ = overtaken(net, s, 0.5 * size)
assert few <= 8 and crossed >= 15
print(f"✓ a short step changes {few} of {k}, bound 8;")
print(f"  SGD's step {crossed}, bound 15")

# %% [markdown]
# ## Verdict
#
# For the claim to *matter*, a sample must have a second perturbation that passes four gates: distinct from the best; nearly as good; with another gradient; so different that one gradient's step ascends for the other. {numref}`fig-10-funnel` counts the samples.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-10-funnel", "caption": "How many of 64 samples have a second perturbation that passes each gate and all before it. PGD-7 says nearly all are distinct; none reaches the last gate."}, "image": {"alt": "Two groups of horizontal bars with counts, for the clean and the robust network, pale for PGD-7 and full for the converged attack. Distinct: all or most of the 64 samples. Within 0.01 nats: far fewer on the clean network with the converged attack, about half on the robust one. More than 30 degrees apart: next to none. More than 90 degrees apart: none in either."}}
gates = ["distinct", "within 0.01 nats", "over 30° apart", "over 90° apart"]


def funnel(s):
    """Number of samples that pass each gate."""
    near, angle = rivals(s, 0.01), angles(s)
    return [int(g.any(0).sum()) for g in (rivals(s), near, near & (angle > 30), near & (angle > 90))]


fig, axes = plt.subplots(2, 1, figsize=(6.4, 6.4), sharex=True)
for ax, name in zip(axes, nets, strict=True):
    for s, shift, alpha, text in ((first[name], -0.19, 0.4, "PGD-7"), (last[name], 0.19, 1.0, "converged")):
        counts = funnel(s)
        places = [gate + shift for gate in range(4)]
        ax.barh(places, counts, 0.36, color=kinds[name][0], alpha=alpha)
        for place, count in zip(places, counts, strict=True):
            ax.annotate(f"{count}" + (f"  {text}" if place < 1 and place - shift == 0 else ""), (count, place), (5, 0), textcoords="offset points", va="center")
    ax.set_axisbelow(True)
    ax.set_yticks(range(4), gates)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlim=(0, 84), xticks=[0, 16, 32, 48, 64])
    ax.annotate(kinds[name][1], (0.98, 0.06), xycoords="axes fraction", ha="right", color=kinds[name][0], fontsize=13)
axes[1].set_xlabel("samples of 64")
plt.show()

# %% [markdown]
# - **The evidence does not support the claim.** Distances away from zero and losses close together appear on a model with one maximiser, too ({ref}`check 10.1 <check-10-1>`, {ref}`check 10.5 <check-10-5>`).
# - **The claim itself survives on these digits, corrected.** On the robust network a converged attack finds several stationary perturbations for most samples, and for many of them within 0.01 nats of the best ({ref}`check 10.7 <check-10-7>`). They are *nearly* optimal: equal to some digits, not equal. On the clean network most distinct ones are not
#   equally good.
# - **What should follow from it does not.** Near ties have similar gradients, and no two of a sample's gradients oppose each other. On the robust network each restart alone gives a descent direction, and product DDi gains less than 5 % of slope ({ref}`check 10.8 <check-10-8>`, {ref}`check 10.9 <check-10-9>`).
# - **Null set, finite steps, or inexact maximisers?** No sample was caught on the null set: no two near ties oppose each other. Inexact maximisers explain most of the distances on the clean network and a part of them on the robust one ({ref}`check 10.6 <check-10-6>`). Finite steps are real: SGD's own step changes the worst perturbation in many samples ({ref}`check 10.10 <check-10-10>`). {ref}`Chapter 7 <chapter-07>` measures
#   what that is worth: hardly anything early, a few per cent late.
#
# How far does this go? One architecture, 64 images, one training run of each kind. Network, $\epsilon$ and thresholds were chosen after trials, and the bounds in the checks were set after the results were seen. {numref}`fig-10-angle` shows what other thresholds would give. What was tried besides:
#
# | setting | same order? | what changed |
# |---|---|---|
# | two hidden layers of 128; 600 and 1 000 steps; $\epsilon = 0.1$ | yes | the sizes |
# | other seeds | yes | a clean network kept a few near ties more than $60°$ apart |
# | clean, two hidden layers, PGD-7 | yes | one restart of one sample had inner products just below zero; it lost 2.5 nats against the sample's best |
#
# About the paper's ResNet-18 these digits say one thing only: its picture is no evidence. How many optimal perturbations that network has is open. {ref}`Chapter 11 <chapter-11>` asks the same of CIFAR-10.
#
# ## Breaking it
#
# A test that cannot find anything proves nothing. So we build a network in which the claim is true, and see whether the funnel lets it pass. What must be dropped is "at almost every $\theta$". Take a network with a symmetry: one grey image $x = \frac12$, two hidden CELU units with opposite weights $\pm u$ and biases $\mp \langle u, x \rangle$,
#
# ```{math}
# :label: eq-10-twin
#
# \begin{gathered}
# h_\pm = \mathrm{celu}(\pm \langle u, \delta \rangle), \\
# z = (0,\; h_+ + h_-), \qquad y = 0 .
# \end{gathered}
# ```
#
# The loss is $\log(1 + e^{h_+ + h_-})$. It is even in $\delta$ and increases with $|\langle u, \delta \rangle|$, so it has exactly two maximisers, $\pm\epsilon\, \mathrm{sign}(u)$, which tie exactly. At the one $h_+$ is large and $h_-$ negative, at the other it is the reverse: the gradients in the output weights oppose each other.
#
# (check-10-11)=
# **Check 10.11** *(the positive control).* On this network the attack finds both maximisers, at distance $2\epsilon\sqrt{64}$, with equal losses (to $10^{-12}$). Their gradients are more than $90°$ apart, and the sample passes all four gates of {numref}`fig-10-funnel`. The corollary fails: along minus either gradient $\phi$ rises, for step lengths from $10^{-6}$ to
# $10^{-2}$, with the slope that Danskin's formula gives (to 1 % at $10^{-6}$). DDi descends. We take $\phi$ over the two corners. That is exact at $\theta$ and near it, as at either corner the loss increases strictly outwards in every pixel; elsewhere it is a lower bound, so that a rise is a rise.

# %% tags=["hide-input"]
u = 3 / (64 * ε) * (1 - 2 * (torch.arange(64) % 2))  # ⟨u, δ⟩ reaches ±3
twin = ddi.MLP(64, 2, (2,))
x1, y1 = torch.full((1, 1, 8, 8), 0.5), torch.zeros(1, dtype=torch.int64)
with torch.no_grad():
    twin[1].weight.copy_(torch.stack([u, -u]))
    twin[1].bias.copy_(-twin[1].weight @ x1.flatten())
    twin[3].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    twin[3].bias.zero_()
θ_twin = torch.nn.utils.parameters_to_vector(twin.parameters()).detach()

# %% tags=["hide-input"]
s = spread(twin, x1, y1, replace(pgd7, steps=20))
first_end = s.δ[s.distance[0, 0].argmin()]
other_end = s.δ[s.distance[0, 0].argmax()]
ends = torch.stack([first_end, other_end])
assert s.gap.max() < 1e-12 and abs(s.distance.max() - 2 * ε * 8) < 1e-9
assert (ends.abs() - ε).abs().max() < 1e-12 and (first_end + other_end).abs().max() < 1e-12
G = ddi.per_sample_gradients(twin, x1, y1, ends)[:, 0]
assert torch.cosine_similarity(G[0], G[1], dim=0) < -0.1
assert funnel(s) == [1, 1, 1, 1]
assert torch.equal(value_and_slope(twin, x1, y1, ends)[1].sign(), ends.sign())


# %% tags=["hide-input"]
def φ_twin(θ):
    """The largest loss over the two corners."""
    torch.nn.utils.vector_to_parameters(θ, twin.parameters())
    value = ddi.sample_losses(twin, x1, y1, ends).max()
    torch.nn.utils.vector_to_parameters(θ_twin, twin.parameters())
    return value


# %% tags=["nbval-ignore-output"]
for gradient in G:
    γ = -gradient / gradient.norm()
    slope = ddi.directional_derivative(G, γ)
    assert slope > 0
    assert math.isclose(ddi.one_sided(φ_twin, θ_twin, γ), slope, rel_tol=0.01)
    assert all(φ_twin(θ_twin + t * γ) > φ_twin(θ_twin) for t in (1e-6, 1e-4, 1e-2))
    print(f"✓ one gradient: slope {slope:+.3f}")
down = ddi.steepest_descent(G)
assert down.slope < 0 and φ_twin(θ_twin + 1e-3 * down.direction) < φ_twin(θ_twin)
print(f"✓ DDi: slope {down.slope:+.3f}; gates passed {funnel(s)}")

# %% [markdown]
# So the funnel can say yes. But push $\theta$ off the symmetric point by a random $10^{-3}$, and the tie is gone: one of the two is the only maximiser, and minus its gradient descends, for steps that are short enough. For longer steps it still ascends.
#
# (check-10-12)=
# **Check 10.12** *(off the null set the corollary returns, for short steps only).* At 20 random $\theta$ at distance $10^{-3}$ the two corners differ in loss by more than $10^{-7}$; a step of $10^{-8}$ against the gradient at the corner with the larger loss lowers $\phi$; the same way, a step of $10^{-1}$ raises it.

# %% tags=["hide-input"]
# NBVAL_IGNORE_OUTPUT
draw, gaps = torch.Generator().manual_seed(0), []
for _ in range(20):
    push = torch.randn(θ_twin.shape, generator=draw)
    θ = θ_twin + 1e-3 * push / push.norm()
    torch.nn.utils.vector_to_parameters(θ, twin.parameters())
    ℓ = ddi.sample_losses(twin, x1, y1, ends)[:, 0]
    g = ddi.per_sample_gradients(twin, x1, y1, ends)[ℓ.argmax(), 0]
    assert ℓ.max() - ℓ.min() > 1e-7
    assert φ_twin(θ - 1e-8 * g / g.norm()) < φ_twin(θ) < φ_twin(θ - 0.1 * g / g.norm())
    gaps.append((ℓ.max() - ℓ.min()).item())
print(f"✓ {len(gaps)} points differ by {min(gaps):.1e} or more; bound 1e-07")

# %% [markdown]
# ## Summary
#
# - The picture of many distinct, strong perturbations is no evidence of many optimal ones: restarts of PGD-7 give it on a linear model, which has one maximiser. With the eighth step all coincide.
# - After convergence most pairs coincide. On the robust network many samples keep several stationary perturbations within 0.01 nats of the best found, but with similar gradients in $\theta$: one restart is enough for a direction that descends.
# - On a symmetric network, a point of the null set, one restart is not enough. A random push of $10^{-3}$ repairs that, for short steps.
# - Kinks are near enough for SGD's step to cross. That, not a choice among optimal perturbations, is where several perturbations can help.
#
# ## Exercises
#
# ::::{exercise} Where the distance goes
# :label: ex-10-start
#
# What is the root mean squared distance of two *starts*? What share of it does {prf:ref}`thm-10-linear` leave after 7 steps of $\epsilon/4$, and after how many steps is it first below one half?
# ::::
#
# ```{solution-start} ex-10-start
# :label: sol-10-start
# :class: dropdown
# ```
#
# Put $q = 1$ in {eq}`eq-10-distance`: $\epsilon \sqrt{2n/3}$. The share is $\sqrt{q^3 (4 - 3q)}$. For $q = \frac18$ it is $0.084$. It is $0.56$ for $q = \frac12$ (4 steps) and $0.39$ for $q = \frac38$: after 5 steps. Nine tenths of the distance have gone, and still no pair is near zero.

# %%
shares = [math.sqrt(q**3 * (4 - 3 * q)) for q in (1 - T / 8 for T in range(9))]
assert math.isclose(rms_distance(1, n_C, ε_C), ε_C * math.sqrt(2 * n_C / 3))
assert abs(shares[7] - 0.084) < 1e-3 and shares[4] > 0.5 > shares[5]
for T in range(8):
    assert math.isclose(rms[T] / rms[0], shares[T], rel_tol=0.05)

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} How often do two restarts coincide?
# :label: ex-10-coincide
#
# On a linear model without a box, with what probability do two restarts of PGD-7 end at exactly the same point of $\mathbb{R}^n$? And on the digits, with the box? Compare with the 200 restarts of {ref}`check 10.3 <check-10-3>`.
# ::::
#
# ```{solution-start} ex-10-coincide
# :label: sol-10-coincide
# :class: dropdown
# ```
#
# Two shortfalls agree if both are zero (two uniform ones agree with probability 0): $(1 - q)^2 = 49/64$ for a pixel, $(49/64)^n$ for all; with $n = 3072$ that is below $10^{-355}$. With the box a pixel with $A > 0$ arrives unless the start is below $\mathrm{hi} - T\alpha$, that is, with probability $1 - (A + \mathrm{lo} + \epsilon)/2\epsilon$; two restarts may also
# share the shortfall $A$, if both starts were clipped to $\mathrm{lo}$, with probability $((\mathrm{lo} + \epsilon)/2\epsilon)^2$. Pixels with $A = 0$ always agree. The digits have few pixels with $A > 0$, so some pairs coincide.

# %%
assert n_C * math.log10(49 / 64) < -355
late = torch.where(A > 0, (A + lo + ε) / (2 * ε), 0.0)
both_clipped = torch.where(A > 0, (lo + ε) / (2 * ε), 0.0) ** 2
chance = ((1 - late) ** 2 + both_clipped).flatten(1).prod(1).mean()
a, b = many[:100], many[100:]  # 100 independent pairs an image
equal = ((a - b).abs().flatten(2).amax(2) < 1e-12).double().mean()
assert abs(equal - chance) < 0.01

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} The ℓ2 counterpart
# :label: ex-10-l2
#
# Replace the ball by $\lVert \delta \rVert_2 \le \epsilon$, without a box; PGD's step is now $\alpha$ times the normalised gradient, here $\alpha\, u$ with a fixed unit vector $u$. In high dimension a random start lies nearly on the sphere and nearly orthogonal to $u$. Predict the distance of two restarts after $T$ steps of $\epsilon/4$. When is it zero?
# ::::
#
# ```{solution-start} ex-10-l2
# :label: sol-10-l2
# :class: dropdown
# ```
#
# Let $\omega$ be the angle to $u$, first $90°$. A step and the projection give $\tan \omega_+ = \sin\omega / (\cos\omega + \alpha/\epsilon)$. The parts orthogonal to $u$ keep their directions, which are themselves nearly orthogonal for two starts, and both have the length $\epsilon \sin\omega$. So the distance is about $\sqrt2\, \epsilon \sin\omega_T$. Each step multiplies it by a factor that tends to
# $1/(1 + \alpha/\epsilon) = \frac45$. It is never zero: in $\ell_2$ no number of steps makes restarts coincide exactly, although the maximiser is unique.

# %%
pgd_l2 = ddi.PGD(eps=1.0, alpha=0.25, norm="L2", box=None)
ω, distances = math.pi / 2, {}
for T in range(1, 31):
    ω = math.atan2(math.sin(ω), math.cos(ω) + 0.25)
    distances[T] = math.sqrt(2) * math.sin(ω)
for T in (7, 8, 30):
    δ = replace(pgd_l2, steps=T).restarts(flat_model, grey, zeros, m, torch.Generator().manual_seed(T))
    assert math.isclose(pairs(δ)[:, i, j].mean(), distances[T], rel_tol=0.05)
assert distances[7] > 0.5 and abs(distances[30] / distances[29] - 0.8) < 1e-3

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} Which attacks can cross?
# :label: ex-10-cross
#
# The paper also uses PGD-20, and "PGD-70 – 1/t": 70 steps, the lengths $\alpha / \max(1, t - 7)$ for $t = 1, \dots, 70$ (`ddi.inverse_time()`). With $\alpha = \epsilon/4$, which of PGD-7, PGD-20, PGD-70 – 1/t and the attack of {ref}`check 10.6 <check-10-6>` forget their start on a linear model in $\ell_\infty$?
# ::::
#
# ```{solution-start} ex-10-cross
# :label: sol-10-cross
# :class: dropdown
# ```
#
# The travel must be at least $2\epsilon$, that is $8\alpha$. PGD-7: $7\alpha$, no. PGD-20: $20\alpha$, yes. PGD-70 – 1/t: $\alpha (7 + 1 + \frac12 + \dots + \frac1{63}) \approx 11.7 \alpha$, yes, though it would not be enough for $\alpha = \epsilon/8$. Ours: more than $40\alpha$, yes.

# %%
schedules = {7: None, 20: None, 70: ddi.inverse_time(), 150: shorter}
for T, schedule in schedules.items():
    travel = sum(schedule(t) if schedule else 1.0 for t in range(1, T + 1))
    attack, seed = replace(pgd7, steps=T, schedule=schedule), torch.Generator().manual_seed(T)
    δ = attack.restarts(even_odd, x, y % 2, m, seed)
    assert (pairs(δ).max() < 1e-12) == (travel >= 8)
    assert T != 70 or abs(travel - 11.7) < 0.05

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} Have we found them all?
# :label: ex-10-all
#
# Count the distinct perturbations of each sample among the first 5, 10 and 20 converged restarts (`second` has twenty). Does the count level off? What does that say about the funnel?
# ::::
#
# ```{solution-start} ex-10-all
# :label: sol-10-all
# :class: dropdown
# ```
#
# A restart is new if no earlier one lies within 0.01. On both networks the mean count still grows from 10 to 20 restarts, faster on the robust one: more attacks find more stationary points. So the first gate of the funnel is a lower bound. The second may move either way: more restarts find more rivals, but sometimes also a better best. The last gate stays closed with twenty restarts, too: all inner products are positive.

# %%
def distinct_count(distance):
    """Number of restarts without an earlier one nearby, a sample each."""
    earlier = torch.ones(distance.shape[1:], dtype=torch.bool).tril(-1)
    return (~((distance < 0.01) & earlier).any(2)).sum(1).double()

# %%
growth = {}
for name, s in second.items():
    counts = [distinct_count(s.distance[:, :n, :n]).mean().item() for n in (5, 10, 20)]
    assert 1 < counts[0] < counts[1] < counts[2]
    growth[name] = counts[2] - counts[1]
    assert torch.einsum("akd,bkd->kab", s.gradient, s.gradient).min() > 0
assert growth["robust"] > growth["clean"]

# %% [markdown]
# ```{solution-end}
# ```
