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
# (chapter-19)=
# # Other norms, and what robust gradients show
#
# :::{admonition} What you will learn
# :class: frame
#
# - what an attack in the $\ell_1$ norm looks like, and why: its best directions are single pixels;
# - the exact projection onto the $\ell_1$ ball *and* the image box, and why doing one after the other is not it;
# - why an $\ell_1$ attack that forgets the box loses most of its power;
# - how much of the better *saliency maps* of robust networks is owed to the adversary, and how much to noise;
# - a theorem by which adversarial examples are inevitable, and which of its hypotheses images lack.
#
# **Before you start.** {ref}`Chapter 1 <chapter-01>` (linear models) and {ref}`chapter 2 <chapter-02>` (Danskin's theorem). Symbols: {ref}`notation`.
#
# **Time and hardware.** Half an hour to read; about twenty seconds to run on one processor core.
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

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.optimize import linprog, minimize
from torch import nn

import ddi
from ddi import plots
from ddi.clone import repository

# %%
plots.use_style()
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
data = ddi.digits()
X, Y = data.x_train.double(), data.y_train
x, y = data.x_test.double(), data.y_test

# %% [markdown]
# ## One image, three norms
#
# The networks of this chapter are small ones on the 8 × 8 digits, of 64 hidden units, three seeds for each way of training: plain; with random signs added to the images ($\pm0.2$, no adversary); with the attack PGD in $\ell_\infty$ at $\epsilon = 0.1$. The cell below trains all nine, the seeds of one kind at once.

# %% tags=["hide-input"]
SEEDS, KINDS = 3, ("plain", "noise", "adversarial")


def network(w, images):
    """Logits (S, B, 10) of the networks w, for images (S, B, 64)."""
    hidden = torch.relu(torch.baddbmm(w[1][:, None], images, w[0].mT))
    return torch.baddbmm(w[3][:, None], hidden, w[2].mT)


def inside(images, δ):
    return (images + δ).clamp(0, 1) - images


def pgd(w, images, labels, ε, steps, draw):
    """Sign steps of 2.5 ε / steps from a random start, in the box."""
    δ = inside(images, ε * (2 * torch.rand(images.shape, generator=draw) - 1))
    for _ in range(steps):
        δ.requires_grad_(True)
        logits = network(w, images + δ).flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, labels.flatten())
        (g,) = torch.autograd.grad(loss, δ)
        δ = inside(images, (δ.detach() + 2.5 * ε / steps * g.sign()).clamp(-ε, ε))
    return δ


def trained(kind, epochs=20, batch=100):
    """The weights of SEEDS networks, each with its own start and order of the images."""
    draw = torch.Generator().manual_seed(19)
    shapes = ((64, 64), (64,), (10, 64), (10,))
    w = [(2 * torch.rand(SEEDS, *s, generator=draw) - 1) / 8 for s in shapes]
    w = [v.requires_grad_(True) for v in w]
    optimiser = torch.optim.Adam(w, lr=3e-3)
    for epoch in range(epochs):
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - epoch / epochs)
        order = torch.stack([torch.randperm(len(X), generator=draw) for _ in range(SEEDS)])
        for chosen in order.split(batch, 1):
            images, labels, δ = X.flatten(1)[chosen], Y[chosen], 0.0
            if kind == "adversarial":
                δ = pgd([v.detach() for v in w], images, labels, 0.1, 5, draw)
            elif kind == "noise":
                signs = torch.randint(0, 2, images.shape, generator=draw) * 2 - 1
                δ = inside(images, 0.2 * signs)
            z = network(w, images + δ)
            loss = SEEDS * nn.functional.cross_entropy(z.flatten(0, 1), labels.flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return [v.detach() for v in w]


NETS = {kind: trained(kind) for kind in KINDS}


def one(kind, seed=0):
    """One of these networks, as a function of images (B, 1, 8, 8)."""
    w = [v[seed : seed + 1] for v in NETS[kind]]
    return lambda images: network(w, images.flatten(1)[None])[0]

# %% [markdown]
# {numref}`fig-19-three` attacks one image of the adversarially trained network in three norms, with radii at which each attack succeeds. In $\ell_\infty$ nearly every pixel with room moves a little; in $\ell_2$ many pixels move, by different amounts; in $\ell_1$ a handful of pixels move, from end to end, which the eye sees at once.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-19-three", "caption": "The same image under three norms. Top: what the network sees, and what it says. Bottom: the perturbation (red: brighter ink, blue: less). Only the ℓ1 attack is sparse."}, "image": {"alt": "Two rows of four small pixel images. Top: a handwritten digit, and the same digit attacked in l-infinity, l2 and l1. Bottom, below the attacked ones, their perturbations: in l-infinity a ring of small changes on nearly all pixels with room, in l2 a pattern concentrated on some, in l1 a few strong pixels on an empty field."}}
RADII = {"Linf": 0.25, "L2": 1.2, "L1": 3.0}
ATTACKS = {n: ddi.PGD(r, r / 8, 60, norm=n, keep="best") for n, r in RADII.items()}
model = one("adversarial")
right = (model(x).argmax(1) == y).nonzero().flatten()
fooled = torch.ones(len(right), dtype=torch.bool)
found = {}
for norm, attack in ATTACKS.items():
    found[norm] = attack(model, x[right], y[right], torch.Generator().manual_seed(0))
    fooled &= model(x[right] + found[norm]).argmax(1) != y[right]
pick = int(fooled.nonzero()[0])
image = x[right[pick]]
fig, axes = plt.subplots(2, 4, figsize=(7.2, 3.9))
seen = [image] + [image + found[n][pick] for n in RADII]
says = [int(model(v[None]).argmax()) for v in seen]
titles = [f"clean: “{says[0]}”"]
titles += [f"{n}: “{s}”" for n, s in zip(("ℓ∞", "ℓ2", "ℓ1"), says[1:], strict=True)]
plots.show_images(axes[0], torch.stack(seen), titles)
plots.show_images(axes[1, 1:], torch.stack([found[n][pick] for n in RADII]), limit=1.0)
axes[1, 0].set_axis_off()
plt.show()

# %% [markdown]
# :::{admonition} Source's claim (Cevher 2024, "…Into adversarial examples")
# :class: claim
#
# The most commonly used norm in adversarial attacks is $\ell_\infty$. The use of the $\ell_1$ norm leads to sparse attacks.
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# The reason is in the linear problem. Every attack maximises linear functions $\langle g, \delta\rangle$ over its set, step by step. Over the $\ell_\infty$ ball a maximiser is a corner, over the $\ell_1$ ball a *vertex*: everything on one pixel. But images live in a box, so one pixel has little room; and then it is not one pixel but the fewest that fill the budget.
# :::
#
# ## The linear problem: fill greedily
#
# ::::{prf:theorem} Linear maximisation over the $\ell_1$ ball and the box
# :label: thm-19-greedy
#
# Let $S = \{\delta : \lVert\delta\rVert_1 \le \epsilon,\ l_j \le \delta_j \le u_j\}$ with $l_j \le 0 \le u_j$, and $g \in \mathbb{R}^n$. Let $r_j = u_j$ where $g_j > 0$ and $r_j = -l_j$ where $g_j < 0$: the room towards $g$. Going through the pixels by falling $|g_j|$, give each $\min(r_j, \text{what is left of } \epsilon)$. The result maximises $\langle g, \cdot\rangle$ over $S$. Without the box the maximum is $\epsilon \lVert g\rVert_\infty$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-19-greedy`
#
# ::::{prf:proof}
# It does not pay to move against $g$, so with $a_j = |\delta_j|$ the problem is to maximise $\sum |g_j| a_j$ subject to $0 \le a_j \le r_j$ and $\sum a_j \le \epsilon$: a fractional knapsack whose items all have weight one. If some $a$ is feasible and $|g_i| > |g_k|$ with $a_i < r_i$ and $a_k > 0$, moving a little from $k$ to $i$ gains; so at a maximum the items are full in the order of $|g_j|$. Items with equal $|g_j|$ may be exchanged: there are several maximisers.
# ::::
# :::::
#
# (check-19-1)=
# **Check 19.1** *(greedy = linear programme; ties.)* On 40 random problems with a box the greedy point, `ddi.L1.step`, has the value of SciPy's linear programme (to $10^{-9}$). Without the box it is one pixel, and the value is $\epsilon\lVert g\rVert_\infty$. Where two $|g_j|$ tie, both vertices are maximisers, and so is every mix. Then Danskin's theorem has two gradients: for $\phi(\theta) = \max_\delta \langle\theta, \delta\rangle$ the one-sided slopes are the *maximum* over both vertices (finite difference, to $10^{-6}$), so in opposite directions they are not minus each other.

# %%
draw = torch.Generator().manual_seed(1)
threat, free = ddi.L1(1.5), ddi.L1(1.5, box=None)
images, g = (torch.rand(40, 12, generator=draw), torch.randn(40, 12, generator=draw))
greedy = threat.step(g, images, 1.5)

# %%
for a, c, s in zip(images, g, greedy, strict=True):
    rooms = [(0, 1 - v) for v in a.tolist()] + [(0, v) for v in a.tolist()]
    ones = np.ones((1, 24))
    programme = linprog(torch.cat([-c, c]), A_ub=ones, b_ub=[1.5], bounds=rooms)
    assert abs(float(c @ s) + programme.fun) < 1e-9

# %%
alone = free.step(g, images, 1.5)
assert ((alone != 0).sum(1) == 1).all()
assert ((g * alone).sum(1) - 1.5 * g.abs().amax(1)).abs().max() < 1e-12

# %%
θ = torch.tensor([2.0, -2.0, 0.5])  # a tie
vertices = 1.5 * torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
assert torch.equal(vertices @ θ, torch.full((2,), 3.0))
γ, t = torch.tensor([-1.0, -0.4, 0.3]), 1e-7
φ = lambda θ: 1.5 * θ.abs().max()
for way in (γ, -γ):
    slope = (φ(θ + t * way) - φ(θ)) / t
    assert abs(slope - ddi.directional_derivative(vertices, way)) < 1e-6
there, back = (ddi.directional_derivative(vertices, way) for way in (γ, -γ))
assert abs(there + back) > 0.1

# %% [markdown]
# For a linear model with labels $\pm1$ the inner problem *is* this one, with $g = -y\theta$, so the robust loss is known exactly, as in {ref}`chapter 1 <chapter-01>` for $\ell_\infty$: $\log(1 + \exp(-y f(x) + \epsilon\lVert\theta\rVert_\infty))$ without the box, and with the greedy sum in place of $\epsilon\lVert\theta\rVert_\infty$ with it.
#
# (check-19-2)=
# **Check 19.2** *(the linear case, exactly.)* On a random linear model and 60 digits, two attacks find the exact robust loss. With the box FGSM does: one greedy step of length $\epsilon$, to $10^{-12}$. Without the box PGD does, in 20 steps, to $10^{-9}$. With the box the mean gain in margin is below 0.9 of $\epsilon\lVert\theta\rVert_\infty$: the best pixels have too little room.

# %%
θ = torch.randn(64, generator=draw)
linear = lambda images: (images.flatten(1) @ θ)[:, None]
softplus = lambda z, y: nn.functional.softplus(-y * z[:, 0])
few, sign = x[:60], torch.where(torch.arange(60) % 2 == 0, 1.0, -1.0)
margin = sign * linear(few)[:, 0]

# %%
room = torch.where((-sign[:, None] * θ) > 0, 1 - few.flatten(1), few.flatten(1))
order = θ.abs().argsort(descending=True)
before = room[:, order].cumsum(1) - room[:, order]
amount = (2.0 - before).clamp(min=0).minimum(room[:, order])
gain = (amount * θ.abs()[order]).sum(1)

# %%
box = ddi.FGSM(2.0, "L1", softplus)(linear, few, sign)
exact = torch.log1p((gain - margin).exp())
assert (softplus(linear(few + box), sign) - exact).abs().max() < 1e-12
open_air = ddi.PGD(2.0, 0.5, 20, norm="L1", loss=softplus, box=None)(linear, few, sign)
exact = torch.log1p((2.0 * θ.abs().max() - margin).exp())
assert (softplus(linear(few + open_air), sign) - exact).abs().max() < 1e-9
print(f"share of the free gain: {gain.mean() / (2 * θ.abs().max()):.1f}")
assert gain.mean() < 0.9 * 2 * θ.abs().max()

# %% [markdown]
# ## The projection
#
# PGD also needs the nearest point of the set.
#
# ::::{prf:theorem} Projection onto the $\ell_1$ ball and the box
# :label: thm-19-projection
#
# Let $r_j$ be the room towards $v_j$. The nearest point of $S$ to $v$ is
#
# $$
# s_j = \operatorname{sign}(v_j)\,\min\bigl((|v_j| - \lambda)_+,\ r_j\bigr),
# $$
#
# with $\lambda = 0$ if that is short enough, and otherwise the $\lambda$ with $\sum_j |s_j| = \epsilon$. This sum is piecewise linear in $\lambda$, with the $2n$ breakpoints $|v_j|$ and $|v_j| - r_j$: sort them, and $\lambda$ is found exactly.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-19-projection`
#
# ::::{prf:proof}
# Signs agree, so minimise $\frac12\sum(a_j - |v_j|)^2$ over $0 \le a_j \le r_j$, $\sum a_j \le \epsilon$. For the multiplier $\lambda \ge 0$ of the sum, the minimiser over each $a_j$ is $|v_j| - \lambda$ clipped to $[0, r_j]$. The sum of these falls as $\lambda$ grows, and complementary slackness is the condition given.
# ::::
# :::::
#
# In words: *first* a soft threshold, *then* a clip, with a threshold that knows of the clip. {cite:t}`duchi2008` made the projection onto the ball alone fast; {cite:t}`croce2021` saw that for images the box must be part of it.
#
# (check-19-3)=
# **Check 19.3** *(the projection, by four roads.)* On 60 random points in 12 dimensions, with ties, images on the border and a third of the points inside the ball, `ddi.L1.project` agrees with bisection on $\lambda$ (to $10^{-12}$) and with the generic solver SLSQP (to $10^{-6}$), and satisfies the variational inequality $\langle v - s, d - s\rangle \le 0$ at its worst point $d$, which {prf:ref}`thm-19-greedy` gives (to $10^{-12}$). In the plane no point of a grid of 400 × 400 is nearer than it.

# %%
images, v = torch.rand(60, 12, generator=draw), torch.randn(60, 12, generator=draw)
images[::4, ::2], v[::3], v[1::3] = 0.0, v[::3].sign() * 0.8, v[1::3] / 10
s = threat.project(v, images)
room = torch.where(v > 0, 1 - images, images)
low, high = torch.zeros(60, 1), v.abs().amax(1, keepdim=True)
clipped = lambda λ: torch.minimum((v.abs() - λ).clamp(min=0), room)
long = clipped(0 * low).sum(1) > 1.5
for _ in range(60):
    λ = (low + high) / 2
    more = clipped(λ).sum(1, keepdim=True) > 1.5
    low, high = torch.where(more, λ, low), torch.where(more, high, λ)
expected = v.sign() * torch.where(long[:, None], clipped(high), clipped(0 * low))
assert 20 <= long.sum() < 60 and (s - expected).abs().max() < 1e-12

# %%
def slsqp(v, image):
    """The same point by a generic solver, in two non-negative parts."""
    bounds = [(0, float(1 - a)) for a in image] + [(0, float(a)) for a in image]
    part = lambda z: z[:12] - z[12:] - v.numpy()
    slope = lambda z: np.concatenate([part(z), -part(z)])
    within = {"type": "ineq", "fun": lambda z: 1.5 - z.sum()}
    value = lambda z: 0.5 * (part(z) ** 2).sum()
    given = {"jac": slope, "bounds": bounds, "constraints": within, "method": "SLSQP"}
    exact = {"ftol": 1e-15, "maxiter": 500}
    z = minimize(value, np.zeros(24), options=exact, **given).x
    return torch.as_tensor(z[:12] - z[12:])

# %%
for k in range(0, 60, 3):
    assert (slsqp(v[k], images[k]) - s[k]).abs().max() < 1e-6
worst = threat.step(v - s, images, 1.5)
assert ((v - s) * (worst - s)).sum(1).max() < 1e-12

# %%
side = torch.linspace(0, 1, 400)
grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).view(-1, 2)
for corner, point in (([0.1, 0.6], [1.2, -1.5]), ([0.9, 0.5], [2.0, 1.5])):
    corner, point = torch.tensor([corner]), torch.tensor([point])
    feasible = grid[(grid - corner).abs().sum(1) <= 0.7] - corner
    nearest = (ddi.L1(0.7).project(point, corner) - point).norm()
    assert nearest <= (feasible - point).norm(dim=1).min() + 1e-12

# %% [markdown]
# (check-19-4)=
# **Check 19.4** *(one after the other is not the projection.)* To project onto the ball, and then clip to the box, gives a feasible point; but in more than half of 500 random cases it is farther from $v$, in some by more than 3 % of the distance. With $\ell_\infty$ the order does not matter, since ball and box are both boxes.

# %%
draw = torch.Generator().manual_seed(4)
images = (torch.rand(500, 64, generator=draw) - 0.3).clamp(0, 1)
v = 0.3 * torch.randn(500, 64, generator=draw)
tight, loose = ddi.L1(2.0), ddi.L1(2.0, box=None)
one_then_other = loose.project(v, images).clamp(-images, 1 - images)
farther = (v - one_then_other).norm(dim=1) / (v - tight.project(v, images)).norm(dim=1)
assert tight.contains(one_then_other, images, 1e-9).all()
assert (farther > 1 - 1e-12).all()
print(f"farther in {(farther > 1 + 1e-6).double().mean():.0%} of rows")
assert (farther > 1 + 1e-6).double().mean() > 1 / 2 and farther.max() > 1.03

# %% [markdown]
# ## The attack
#
# Now the network. An $\ell_1$ attack whose step puts everything on the pixel of largest $|g_j|$ is *steepest ascent* in this norm, and it soon stands still: that pixel reaches the border of the box, and its gradient still points outwards. Every later step is clipped away. The step of {prf:ref}`thm-19-greedy`, with the box around the *current* image, spends its length where something can move.
#
# (check-19-5)=
# **Check 19.5** *(sparse, and only with the box in mind.)* On the three adversarially trained networks, $\epsilon_1 = 2$, 40 steps of $0.25$, in every seed: steps that forget the box leave an accuracy higher by more than 0.25 than greedy steps do. Among the images that fall, the median number of pixels moved by more than $0.05$ is at most 4 of 64. In $\ell_\infty$ with the same mass spread over all pixels, $\epsilon = 2/64$, the median number moved by more than half of that is above 32, and the accuracy is higher by more than 0.25.

# %%
class Forgetful(ddi.PGD):
    """PGD whose steps do not know the box."""

    def step(self, gradient, images, size):
        return size * self.threat.steepest(gradient)

# %%
options = {"steps": 40, "norm": "L1", "random_start": False}
attacks = [kind(2.0, 0.25, **options) for kind in (Forgetful, ddi.PGD)]
attacks.append(ddi.PGD(2 / 64, 1 / 256, 40))
left, moved = [], []
for model in (one("adversarial", seed) for seed in range(SEEDS)):
    left.append([ddi.robust_accuracy(model, x, y, attack).value for attack in attacks])
    δ = attacks[1](model, x, y)
    fell = (model(x).argmax(1) == y) & (model(x + δ).argmax(1) != y)
    flat = attacks[2](model, x, y).flatten(1).abs() > 1 / 64
    few = δ[fell].flatten(1).abs() > 0.05
    moved.append([int(n.sum(1).median()) for n in (few, flat)])
    left[-1].append(ddi.clean_accuracy(model, x, y).value)

# %%
# NBVAL_IGNORE_OUTPUT
print("clean   box forgotten   box known   ℓ∞")
for (forgetful, aware, flat, clean), (few, many) in zip(left, moved, strict=True):
    print(f"{clean:.2f} {forgetful:12.2f} {aware:14.2f} {flat:8.2f}")
    assert forgetful - aware > 0.25 and flat - aware > 0.25
    assert few <= 4 and many > 32

# %% [markdown]
# ## Saliency maps
#
# :::{admonition} Source's claim (Cevher 2024, "Beyond robustness: Adversarial training for better interpretability")
# :class: claim
#
# To interpret the prediction of a model $h_x(a)$, look at $\nabla_x h_x(a)$, called the saliency map. Minimax adversarial training seems to help!
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# In the lecture's letters $x$ are the weights and $a$ is the image: the map is $\nabla_a h_x(a)$. Whether training "helps" needs a number. {cite:t}`etmann2019`, whom the slide cites, take the *alignment* of image and gradient, $\alpha(a) = |\langle a, \nabla h(a)\rangle| / \lVert\nabla h(a)\rVert$ (here with the logit $h$ of the label). And it needs a *control*: is it the adversary that helps, or would any perturbation do? Our second kind of network saw random signs instead, and no adversary.
# :::
#
# {numref}`fig-19-saliency` shows the maps. The plain network's maps are strong all over the image. In the last row most pixels are pale, and those on the strokes and in their gaps remain. The row in between saw no adversary. (One network of each kind; {ref}`check 19.8 <check-19-8>` counts on all.)

# %%
def saliency(kind):
    """Gradients of the label's logit in the test images, (S, N, 64)."""
    images = x.flatten(1).expand(SEEDS, -1, -1).clone().requires_grad_(True)
    z = network(NETS[kind], images).gather(2, y.expand(SEEDS, -1)[..., None])
    return torch.autograd.grad(z.sum(), images)[0]

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-19-saliency", "caption": "Saliency maps of one network of each kind, for the same eight digits. Red: more ink raises the label's logit; blue: lowers it. Each map is scaled by itself."}, "image": {"alt": "Four rows of eight small images. First row: handwritten digits. Second row, plain training: red and blue pixels scattered over the image. Third row, random signs: smoother patches. Fourth row, adversarial training: a few strong pixels along the strokes and in their gaps, the rest pale."}}
shown = [int((y == c).nonzero()[0]) for c in range(8)]
fig, axes = plt.subplots(4, 8, figsize=(7.2, 4.1))
plots.show_images(axes[0], x[shown])
for row, kind in zip(axes[1:], KINDS, strict=True):
    maps = saliency(kind)[0, shown]
    maps = maps / maps.abs().amax(1, keepdim=True)
    plots.show_images(row, maps.view(-1, 8, 8), limit=1.0)
for ax, word in zip(axes[:, 0], ("digit", "plain", "noise", "adversary"), strict=True):
    put = {"transform": ax.transAxes, "rotation": 90, "va": "center", "ha": "center"}
    ax.text(-0.35, 0.5, word, fontsize=10, **put)
plt.show()

# %% [markdown]
# First the case that can be solved. For a linear function $f(a) = \langle\theta, a\rangle + c$ the map is $\theta$, *whatever the image*; and $|f(a)| / \lVert\theta\rVert_q$ is the distance of $a$ to the other side in the norm dual to $\ell_q$. So for a linear classifier of two classes *without bias* alignment *is* robustness in $\ell_2$: that is Etmann's point. For a network they are only related. Alignment drops the bias and takes one logit; robustness is a margin between two logits. {numref}`fig-19-alignment` will part them.
#
# (check-19-6)=
# **Check 19.6** *(margin over gradient norm = distance.)* For random linear functions of 20 variables and the norms $\ell_\infty$, $\ell_2$, $\ell_1$ (dual norms $\ell_1$, $\ell_2$, $\ell_\infty$), the step `ddi` calls steepest, of length $|f|/\lVert\theta\rVert_q$ and against the sign of $f$, lands on $f = 0$ (to $10^{-12}$), and of 2000 random points of that length or shorter none crosses.

# %%
draw = torch.Generator().manual_seed(6)
for norm, q in (("Linf", 1), ("L2", 2), ("L1", math.inf)):
    ball = ddi.threat_model(norm, 1.0, None)
    θ, a = torch.randn(20, generator=draw), torch.randn(20, generator=draw)
    f = float(θ @ a) + 0.3
    distance = abs(f) / θ.norm(q)
    step = -math.copysign(1.0, f) * ball.steepest(θ[None])[0]
    assert abs(f + θ @ (distance * step)) < 1e-12
    near = ddi.threat_model(norm, float(distance), None)
    around = near.sample(torch.zeros(2000, 20), draw)
    assert ((f + around @ θ) * f > 0).all()

# %% [markdown]
# (check-19-7)=
# **Check 19.7** *(linear: sparser, and less like the class difference.)* The $\ell_\infty$-robust logistic regression of threes against eights is a smooth convex problem in $\theta = u - v$, $u, v \ge 0$ ({ref}`chapter 1 <chapter-01>`), solved by L-BFGS-B, with a small ridge ($10^{-3}$). As $\epsilon$ goes from 0 to 0.2, the number of pixels in $\theta$ falls by more than half; but the cosine between $\theta$ and the difference of the class means, the natural picture of "what makes an eight", *falls* too, by more than 0.1. Here, on this pair, the adversary makes the map sparse, not truer.

# %%
pair = (Y == 3) | (Y == 8)
A, b = X[pair].flatten(1), torch.where(Y[pair] == 8, 1.0, -1.0)
means = A[b > 0].mean(0) - A[b < 0].mean(0)


def objective(z, ε):
    z = torch.tensor(z, requires_grad=True)
    u, v, c = z[:64], z[64:128], z[128]
    robust = b * (A @ (u - v) + c) - ε * (u + v).sum()
    loss = nn.functional.softplus(-robust).mean() + 5e-4 * ((u + v) ** 2).sum()
    (slope,) = torch.autograd.grad(loss, z)
    return loss.item(), slope.numpy()

# %%
pixels, cosine = [], []
for ε in (0.0, 0.05, 0.1, 0.2):
    given = {"bounds": [(0, None)] * 128 + [(None, None)], "options": {"maxiter": 2000}}
    z = minimize(objective, np.zeros(129), (ε,), "L-BFGS-B", True, **given).x
    θ = torch.as_tensor(z[:64] - z[64:128])
    pixels.append(int((θ.abs() > 1e-3 * θ.abs().max()).sum()))
    cosine.append(float(θ @ means / θ.norm() / means.norm()))
print("cosine", [round(c, 1) for c in cosine])
assert pixels[-1] < pixels[0] / 2 and cosine[-1] < cosine[0] - 0.1

# %% [markdown]
# (check-19-8)=
# **Check 19.8** *(alignment and sparsity, with the control.)* In each of the three seeds, medians over the test images: adversarial training raises alignment over plain training by more than 0.08. Random signs of $\pm0.2$, twice the adversary's radius but without an adversary, bring more than 0.7 of that gain. Sparsity is another matter: the *Gini coefficient* of the map (0: all pixels alike, near 1: one pixel alone) rises by more than 0.1 with the adversary, and by less than 0.07 with the signs. Both raise the accuracy under attack (PGD-20, $\epsilon = 0.1$), the adversary more ({numref}`fig-19-alignment`).

# %%
alignment, robust, gini = {}, {}, {}
ranks = (2 * torch.arange(64) - 63) / 64
for kind in KINDS:
    g = saliency(kind)
    sizes = g.abs().sort(2).values
    gini[kind] = (sizes @ ranks / sizes.sum(2)).median(1).values
    along = (x.flatten(1) * g).sum(2).abs() / g.norm(dim=2)
    alignment[kind] = along.median(1).values
    images, labels = x.flatten(1).expand(SEEDS, -1, -1), y.expand(SEEDS, -1)
    δ = pgd(NETS[kind], images, labels, 0.1, 20, torch.Generator().manual_seed(8))
    says = network(NETS[kind], images + δ).argmax(2)
    robust[kind] = (says == labels).double().mean(1)

# %%
# NBVAL_IGNORE_OUTPUT
gain = {kind: alignment[kind] - alignment["plain"] for kind in KINDS}
shares = (gain["noise"] / gain["adversarial"]).tolist()
print("share of the gain without an adversary:", *(f"{s:.1f}" for s in shares))
assert (gain["adversarial"] > 0.08).all() and min(shares) > 0.7
assert (gini["adversarial"] > gini["plain"] + 0.1).all()
assert (gini["noise"] < gini["plain"] + 0.07).all()
assert (robust["noise"] > robust["plain"]).all()
assert (robust["adversarial"] > robust["noise"]).all()

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-19-alignment", "caption": "Alignment rises with adversarial training, and about as much with noise; robustness tells the two apart. Each mark is one network."}, "image": {"alt": "Scatter plot of nine marks, median alignment against accuracy under attack. Three grey marks of plain training at the lower left; three of random signs, higher in alignment and a little more to the right; three of adversarial training far to the right, about as high as those of random signs."}}
fig, ax = plt.subplots(figsize=(6.0, 3.6))
looks = {"plain": ("#4D4D4D", "o"), "noise": ("#E69F00", "s")}
looks["adversarial"] = "#0072B2", "^"
for kind, (colour, marker) in looks.items():
    ax.plot(robust[kind], alignment[kind], marker, color=colour, markersize=8)
    tip = float(robust[kind].mean()), float(alignment[kind].max())
    word = {"textcoords": "offset points", "color": colour, "ha": "center"}
    ax.annotate(kind, tip, xytext=(0, 10), **word)
ax.set(xlabel="accuracy under PGD-20, ε = 0.1", ylabel="median alignment")
ax.margins(0.2)
plt.show()

# %% [markdown]
# So the slide's "seems to help" is right, but most of the gain in alignment needs no minimax problem. (The signs are larger than the adversary's steps. Noise is a weak adversary, so it may be larger before it harms.) The gain in sparsity needs one, and there is a reason. An $\ell_\infty$ adversary penalises, to first order, $\epsilon\lVert\nabla L\rVert_1$, which favours sparse gradients. Independent noise of mean zero has no first-order effect, and in the second order penalises curvature. (Ours is clipped to the box, so on blank pixels its mean is not zero.) One radius, no weight decay, 8 × 8 pixels: more was not tried.
#
# ## The same maps on CIFAR-10
#
# Do photographs say the same? `experiments/saliency.py` trains a small convolutional network on 5 085 images of CIFAR-10 in the same ways, at $\epsilon = 8/255$, five seeds each; design and reading rule were committed before the run. The controls are random signs of $2\epsilon$, as above, and of $8\epsilon = 0.25$ (uniform noise within $\epsilon$ is in the record, too). {numref}`fig-19-cifar` shows maps of one seed, for images that all arms classify correctly.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-19-cifar", "caption": "Saliency maps on CIFAR-10, the same six test images in every row (no image is stored here). The grain comes from the first layer, which has stride 2. Channels summed; red: more light raises the label's logit; each map is scaled by itself."}, "image": {"alt": "Four rows of six small maps. Plain training and weak noise: a fine checkered grain of red and blue all over. Strong noise: broader patches of red and blue. Adversarial training: most of the map is pale, with a few coloured bands and patches."}}
CIFAR = {"plain": "plain", "noise": "signs 2ε", "strong-noise": "signs 8ε"}
CIFAR |= {"adversarial": "adversary"}
folder = repository() / "results" / "saliency"
words = {0: "plane", 1: "car", 3: "cat", 7: "horse", 8: "ship", 9: "lorry"}
with np.load(folder / "maps.npz") as maps:
    fig, axes = plt.subplots(4, len(maps["label"]), figsize=(7.2, 5.0))
    for row, (kind, word) in zip(axes, CIFAR.items(), strict=True):
        plots.show_images(row, maps[kind] / 127, limit=1.0)
        put = {"transform": row[0].transAxes, "rotation": 90, "va": "center"}
        row[0].text(-0.2, 0.5, word, fontsize=10, ha="center", **put)
    for ax, label in zip(axes[0], maps["label"], strict=True):
        ax.set_title(words[int(label)], fontsize=10)
plt.show()

# %% [markdown]
# (check-19-9)=
# **Check 19.9** *(on photographs the adversary does more.)* (i) From the record: adversarial training raises the alignment over plain training in every seed, to more than four times as much. Signs of $2\epsilon$ bring less than a tenth of that gain in every seed, signs of $8\epsilon$ less than half. So the second half of the verdict on digits, that noise brings most of it, *fails* here. With every channel's mean taken off the image the gain is there too, and neither kind of signs brings half of it. (ii) The measure has a trap. In the same network with GroupNorm behind its first layer, at any weights, a brighter image $c\,a$ has the logits of $a$. So $\langle a, \nabla h(a)\rangle = 0$: the alignment is below $10^{-3}$, where it is above 0.1 without.

# %%
runs = plots.by_arm(ddi.read_records(folder))
assert all(r.complete for records in runs.values() for r in records)
last = lambda kind, name: np.array([r.metrics[name][-1] for r in runs[kind]])
seeds = {len(records) for records in runs.values()}
for name in ("alignment", "centred"):
    plain = last("plain", name)
    more = {kind: last(kind, name) - plain for kind in CIFAR}
    assert (more["adversarial"] > 0).all()
    for kind in ("noise", "strong-noise"):
        share = more[kind] / more["adversarial"]
        print(f"{name}: {kind} brings {share.mean():.0%} of the gain")
        assert (share < 0.5).all()
    if name == "alignment":
        assert (last("adversarial", name) > 4 * plain).all()
        assert (more["noise"] < more["adversarial"] / 10).all()
for kind, word in CIFAR.items():
    pair = [last(kind, name).mean() for name in ("clean", "robust")]
    print(f"{word}: clean {pair[0]:.2f}, attacked {pair[1]:.2f}")

# %%
torch.manual_seed(9)
some = torch.rand(10, 3, 32, 32)
for norm in ("group", "none"):
    images = some.clone().requires_grad_(True)
    h = ddi.SmallNet(norm=norm)(images).diagonal()
    (g,) = torch.autograd.grad(h.sum(), images)
    along = (some * g).sum((1, 2, 3)).abs() / g.flatten(1).norm(dim=1)
    assert along.max() < 1e-3 if norm == "group" else along.median() > 0.1

# %% [markdown]
# Why digits and photographs differ was not tested. The digits' signs, $\pm0.2$, are three times as large as $2\epsilon$ here; but those of $8\epsilon$ are larger still.
#
# ## Are adversarial examples inevitable?
#
# :::{admonition} Source's claim (Cevher 2024, "Challenge: Adversarial examples are inevitable")
# :class: claim
#
# The title of a slide, with a figure of {cite:t}`shafahi2019`: in high dimensions every classifier has adversarial examples for most points.
# :::
#
# The reason is concentration of measure: in high dimension a set of half the measure is *near* almost everything. On the sphere $S^{n-1}$ let $\sigma$ be the uniform law and $A_\epsilon$ the points within angle $\epsilon$ of $A$ (in the cube: within Euclidean distance $\epsilon$). $\Phi$ is the distribution function of the standard normal law.
#
# ::::{prf:theorem} Concentration on sphere and cube
# :label: thm-19-levy
#
# 1. (Lévy's isoperimetric inequality, with the usual bound of a cap, {cite}`ball1997`.) If $\sigma(A) \ge \frac12$ and $0 \le \epsilon \le \pi/2$, then $\sigma(A_\epsilon) \ge 1 - e^{-n \sin^2(\epsilon)/2}$. Of all such sets the half sphere has the smallest $\sigma(A_\epsilon)$.
# 2. On the cube $[0, 1]^n$ with its uniform law, and Euclidean distance,
#
#    $$
#    \operatorname{vol}(A_\epsilon) \ge \Phi\bigl(\Phi^{-1}(\operatorname{vol} A) + \sqrt{2\pi}\,\epsilon\bigr) .
#    $$
# 3. Let the data have a density of at most $V$ (with respect to $\sigma$). Of a class of probability $m$ that a classifier puts on at most half of the sphere, the share that is not within $\epsilon$ of the other classes is at most
#
#    $$
#    \frac{V}{m}\, e^{-n \sin^2(\epsilon)/2} .
#    $$
# ::::
#
# :::::{dropdown} Where these come from
#
# ::::{prf:proof}
# 1 is quoted. For 2: the map $T(z) = (\Phi(z_1), \dots, \Phi(z_n))$ takes the Gaussian law to the cube's, and is Lipschitz with constant $1/\sqrt{2\pi}$, the largest value of the normal density. So $T$ maps points within $\sqrt{2\pi}\,\epsilon$ of $T^{-1}(A)$ into $A_\epsilon$, and Gaussian isoperimetry gives the bound. For 3 let $A$ be the points that are *not* put into the class. $\sigma(A) \ge \frac12$, so by 1 the points outside of $A_\epsilon$ have $\sigma$ at most $e^{-n \sin^2(\epsilon)/2}$, and probability at most $V$ times that. All of them are in the class.
# ::::
# :::::
#
# In plain words: let $A$ be the points that a classifier does *not* call “three”. If these are half of the sphere or more, almost every point is a small step from them, whatever the classifier. Almost every “three” is, too, unless the threes are very few or very crowded. {numref}`fig-19-levy` simulates it.
#
# (check-19-10)=
# **Check 19.10** *(the theorem, simulated.)* $20\,000$ points of $S^{n-1}$, $n = 100$ and $1000$, and three sets of measure ½ whose distance is known: a half sphere, a band $|u_1| \le c$, and $\{\lVert(u_1, \dots, u_{n/2})\rVert \le 1/\sqrt2\}$. Each has $\sigma(A_\epsilon)$ at least the bound, and the half sphere least (up to 0.02, five standard errors). On the cube, for the half $z_1 \le \frac12$, $\operatorname{vol}(A_\epsilon) = \frac12 + \epsilon$ exactly: above the bound, which touches it at $\epsilon = 0$ (slopes both 1, to $10^{-6}$).

# %%
def angles(n, draw):
    """Angles to three sets of measure one half, (3, 20000)."""
    z = torch.randn(20_000, generator=draw)  # u_1 before it is scaled
    torch.manual_seed(n)
    rest = (n // 2 - 1.0, n // 2 + 0.0)
    laws = [torch.distributions.Chi2(torch.tensor(k)) for k in rest]
    first, second = (law.sample((20_000,)) for law in laws)
    first = first + z**2  # squared lengths of the halves of a normal vector
    length = (first + second).sqrt()
    latitude = (z / length).asin()
    band = latitude.abs() - latitude.abs().median()
    return torch.stack([latitude, band, (first.sqrt() / length).asin() - math.pi / 4])

# %%
ε = torch.linspace(0, 0.3, 61)
curves = {}
for n in (100, 1000):
    far = angles(n, torch.Generator().manual_seed(9))
    curves[n] = (far[..., None] <= ε).double().mean(1)
    bound = 1 - torch.exp(-n * ε.sin() ** 2 / 2)
    assert (curves[n] >= bound - 0.02).all()
    assert (curves[n][1:] >= curves[n][0] - 0.02).all()

# %%
law = torch.distributions.Normal(0.0, 1.0)
cube = lambda ε: law.cdf(math.sqrt(2 * math.pi) * ε)
assert (0.5 + ε >= cube(ε)).all()
assert abs((cube(torch.tensor(1e-4)) - 0.5) / 1e-4 - 1) < 1e-6

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-19-levy", "caption": "A set of half the measure is near almost everything, the more so the higher the dimension n. Lines: three sets (the half sphere grows least). Dotted: the theorem's bound."}, "image": {"alt": "Share of the sphere within an angle of a set, against the angle from 0 to 0.3. For n = 100 the curves rise from one half to 0.99 near the right end; for n = 1000 they reach 0.99 before 0.1. Dotted bounds lie below, starting at zero."}}
fig, ax = plt.subplots(figsize=(6.4, 3.6))
for n, colour in ((100, "#0072B2"), (1000, "#D55E00")):
    for curve, style in zip(curves[n], ("-", "--", "-."), strict=True):
        ax.plot(ε, curve, style, color=colour)
    ax.plot(ε, 1 - torch.exp(-n * ε.sin() ** 2 / 2), ":", color=colour)
    ax.annotate(f"n = {n}", (0.042, 0.3) if n == 1000 else (0.1, 0.3), color=colour)
ax.set(xlabel="angle ε", ylabel="share within ε of the set", ylim=(0, 1.02))
plt.show()

# %% [markdown]
# ## Breaking it: drop the hypotheses
#
# {prf:ref}`thm-19-levy` needs data that *fill* the sphere or cube (a moderate $V$), and a class that is given at most half of it and is not tiny. Drop the first: let the data lie in two opposite caps. Digits are like that, as the check shows.
#
# (check-19-11)=
# **Check 19.11** *(not inevitable.)* (i) $10\,000$ points on two caps of angle 0.3 around opposite poles, one class each, in any dimension: each class has probability ½, and yet no point lies within $\epsilon = 2$ (an angle of 115°) of the other. (ii) The 1797 digits: two images of different classes are at least 0.4 apart in $\ell_\infty$, so by the triangle inequality the nearest-neighbour rule (in $\ell_\infty$) has robust error 0 *on these images* at $\epsilon = 0.19$; 200 random corners of the box around each of 50 images agree. (iii) In the cube, of any dimension, 99 % of the points lie within $0.93$ of every set of half the volume. Not one digit lies within $0.93$ of another class, in $\ell_2$.

# %%
draw = torch.Generator().manual_seed(10)
tilt = 0.3 * torch.rand(10_000, generator=draw)
pole = torch.where(torch.arange(10_000) % 2 == 0, 1.0, -1.0)
angle = torch.where(pole > 0, tilt, math.pi - tilt)  # to the first pole
gap = angle[pole < 0].min() - angle[pole > 0].max()  # none are nearer than this
assert gap > 2.0

# %%
every, label = torch.cat([X, x]).flatten(1), torch.cat([Y, y])
apart = torch.stack([torch.cdist(a[None], every, p=math.inf)[0] for a in every])
other = apart[label[:, None] != label]
print(f"digits of different classes are at least {other.min():.2f} apart")
assert other.min() > 0.4

# %%
for k in range(0, 1797, 36):
    noise = 0.19 * (torch.randint(0, 2, (200, 64), generator=draw) * 2.0 - 1)
    copies = every[k] + noise.clamp(-every[k], 1 - every[k])
    nearest = torch.cdist(copies, every, p=math.inf).argmin(1)
    assert (label[nearest] == label[k]).all()

# %%
ε99 = law.icdf(torch.tensor(0.99)) / math.sqrt(2 * math.pi)
euclidean = torch.cdist(every, every)[label[:, None] != label]
print(f"99 % within {ε99:.2f}; digits are {euclidean.min():.1f} apart or more")
assert abs(ε99 - 0.93) < 0.005 and euclidean.min() > 1.1

# %% [markdown]
# So "inevitable" is a theorem about laws that spread over a whole sphere or cube. For data with gaps between the classes it is silent: *on the sample* a robust classifier exists. Whether one can be learned that is robust on new images, the theorem does not settle either.
#
# ## Summary
#
# - Over the $\ell_1$ ball a linear function is maximised by one pixel; with the box, by filling greedily. That is why $\ell_1$ attacks are sparse. Ties of $|g_j|$ make the maximiser non-unique, and Danskin's slopes one-sided.
# - Projection onto ball and box: soft threshold, then clip, with the threshold from one sort. First the ball, then the box, is not the projection.
# - $\ell_1$ steps that forget the box leave about .8 of the digits right (.94 without an attack), greedy steps in the box .4; these need no further parameter.
# - Saliency maps of adversarially trained networks are better aligned with the image. On digits noise without an adversary brings nearly all of that (shares .9 to 1.1 in three seeds), but not the sparsity; on CIFAR-10 noise of twice the radius brings less than a tenth. In one linear case robust training makes the map sparser and *less* like the class difference.
# - Adversarial examples are inevitable for a class that is not tiny and spread over a sphere or cube. The digits' classes are not: they lie 0.4 apart in $\ell_\infty$.
#
# All verdicts are collected under {ref}`claims` and {ref}`errata`.
#
# ## Exercises
#
# ::::{exercise} A budget for whole pixels
# :label: ex-19-zero
#
# The greedy point of {prf:ref}`thm-19-greedy` moves all but one of its pixels to the border. How many pixels does it move at most, if every pixel has room at least $r$? What happens to sparsity for images with $x \in \{0, 1\}$?
# ::::
#
# ```{solution-start} ex-19-zero
# :label: sol-19-zero
# :class: dropdown
# ```
#
# All but the last are full, so at most $\lceil\epsilon / r\rceil$. For binary images every pixel has room 1 in one direction and 0 in the other: at most $\lceil\epsilon\rceil$ pixels move, and those whose gradient points outwards cannot.

# %%
binary = (torch.rand(50, 64, generator=draw) > 0.5).double()
δ = ddi.L1(9.0).step(torch.randn(50, 64, generator=draw), binary, 2.5)
assert ((δ != 0).sum(1) == 3).all()

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} A fixed point that is none
# :label: ex-19-fixed
#
# Let $\delta^\star$ be the greedy maximiser of a linear loss in the box. Take one more greedy step of length $\alpha$ from it and project. Is the result $\delta^\star$? What does it mean for PGD with a constant $\alpha$, and how does $\ell_\infty$ differ?
# ::::
#
# ```{solution-start} ex-19-fixed
# :label: sol-19-fixed
# :class: dropdown
# ```
#
# No. The full pixels have no room, so the step goes to pixels of smaller $|g_j|$; then the projection lowers *all* moved pixels by the same $\lambda$, the full ones too. The loss falls; later steps refill them. So with a constant $\alpha$ PGD stays near the maximiser and does not sit on it: keep the best iterate, or let $\alpha$ shrink. In $\ell_\infty$ sign steps are fixed at the maximiser, since each pixel is clipped by itself.

# %%
model = lambda images: (images.flatten(1) @ θ64)[:, None]
θ64, few = torch.randn(64, generator=draw), x[:20]
best = ddi.L1(2.0).step(θ64.view(1, 1, 8, 8).expand_as(few), few, 2.0)
step = ddi.L1(2.0).step(θ64.view(1, 1, 8, 8).expand_as(few), few + best, 0.5)
next_one = ddi.L1(2.0).project(best + step, few)
lost = model(few + best) - model(few + next_one)
assert (lost > 1e-3).all() and (lost < 0.5 * θ64.abs().max()).all()

# %% [markdown]
# ```{solution-end}
# ```
