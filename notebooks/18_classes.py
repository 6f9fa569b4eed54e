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
# (chapter-18)=
# # A maximum over the classes
#
# :::{admonition} What you will learn
# :class: frame
#
# - that robust training leaves classes behind, and how far;
# - what Danskin's theorem says about a maximum over classes, and why the formula as printed would be minimised by a network that knows nothing;
# - how a bandit (CFOL) learns which class is worst from what it drew, and what a full-information rival (Hedge) can promise;
# - why the point of least norm, the right answer for tied maximisers, is a wrong one for classes, and what the bundle step does instead;
# - whether the bundle step over classes has a better front of average against worst class than its rivals: an experiment that was designed before it ran, and whose answer is no.
#
# **Before you start.** {ref}`Chapter 2 <chapter-02>` (Danskin), {ref}`chapter 4 <chapter-04>` (least norm) and the bundle step of {ref}`chapter 7 <chapter-07>`. Symbols: {ref}`notation`.
#
# **Time and hardware.** Forty minutes to read; about ten seconds to run on one processor core. The large experiment is read from records.
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
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.optimize import linprog
from scipy.spatial import ConvexHull

import ddi
from ddi import plots
from ddi.clone import repository

BOOK = repository()
sys.path.insert(0, str(BOOK / "experiments"))
import classes  # the experiment's program
import classes_table as table  # its analysis

# %%
plots.use_style()
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
C = 10  # classes

# %% [markdown]
# ## Who pays for the average?
#
# Twenty small networks, trained robustly on scikit-learn's digits with class-balanced batches, are right under attack on about seven test images of ten. But whose? {numref}`fig-18-classes` asks class by class. (All of it comes from the records of an experiment that we describe {ref}`below <sec-18-design>`.)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-18-classes", "caption": "Balanced training is right on 92 % of the zeros and on 33 % of the eights. The bundle step over the classes (t = 0.5) lifts the eights to 49 % and pays at the other end; least norm over the classes (DDi) lies far below both, with four classes at 6 % or less. Robust accuracy by class on test images, ε = 0.15, 20 networks together."}, "image": {"alt": "Robust accuracy of the ten digit classes in falling order. Balanced training falls from 0.92 for class 0 to 0.33 for class 8. The bundle lies a little lower on the left and higher on the right, from 0.87 to 0.49. Least norm lies far below both, and at or near zero for four classes."}}
# NBVAL_IGNORE_OUTPUT
RECORDS = BOOK / "results" / "classes"
every = {f"{eps:g}": table.read(RECORDS / f"eps{eps:g}") for eps in classes.EPSILONS}
main = every["0.15"]
LOOK = {
    "balanced": ("PGD", "balanced batches"),
    "bundle": ("bundle", "bundle"),
    "minnorm": ("DDi", "least norm (DDi)"),
}
RIVALS = {
    "cfol": ("#56B4E9", "s", "CFOL"),
    "hedge": ("#8C510A", "D", "Hedge"),
    "tilt": ("#5E3C99", "v", "tilt"),
    "cvar": ("#4D4D4D", "x", "CVaR"),
}
order = np.argsort(table.pooled(main["balanced"]))[::-1]
fig, ax = plt.subplots(figsize=(6.4, 4.2))
for name in ("balanced", "bundle-0.5", "minnorm"):
    method, label = LOOK[name.split("-")[0]]
    values = table.pooled(main[name])[order]
    ax.plot(range(C), values, **(plots.METHODS[method] | {"markersize": 7}))
    ax.annotate(
        label,
        (C - 1, values[-1]),
        (8, 0),
        textcoords="offset points",
        va="center",
        color=plots.METHODS[method]["color"],
        annotation_clip=False,
    )
ax.set_xticks(range(C), order)
ax.set(xlabel="class, in the order of balanced training")
ax.set(ylabel="robust accuracy", ylim=(-0.03, 1))
plt.show()

# %% [markdown]
# The classes *are* about equally frequent here, so batches with equally many images of each class help little: against batches drawn from all images they add 0.037 [0.008, 0.067] to the worst class at ε = 0.15, and 0.009 [−0.006, 0.024] at ε = 0.1. (In brackets, here and below: 95 % intervals over the twenty networks.) The eights are not rare, they are hard.
#
# :::{admonition} Source's claim (Cevher 2024, slides "Is the training 'fair'?" and "Key challenges in ML demand much more than ERM")
# :class: claim
#
# Adversarial training may sacrifice a subset of the classes in favour of consensus: on CIFAR-10 the average robust accuracy is 51 % and that of the worst class 23.5 %; on CIFAR-100 the worst class has 0 %, the best 76 %. To protect the weak, class-focused online learning {cite}`pethick2023` solves
#
# $$
# \begin{aligned}
# & \min_{\theta} \max_{b^c \in [C]} \frac{1}{n_c} \sum_{i=1}^{n_c} \\
# & \quad \Bigl[ \max_{\lVert\delta\rVert \le \epsilon} L\bigl(h_\theta(a_i + \delta), b^c\bigr) \Bigr] .
# \end{aligned}
# $$
#
# Great potential: the average does not suffer much, or can even improve. ($[C]$ are the $C$ classes, $b^c$ is the label of class $c$, $n_c$ the number of its images.)
# :::
#
# :::{admonition} Our comment
# :class: comment
#
# The sum must run over the images *of class $c$*. As printed it takes the same first $n_c$ images for every class, and gives them the label $b^c$, whatever they show. That is another problem: for equal $n_c$, and without perturbations, the maximum over $c$ is at least the mean over $c$, which is at least $\ln C$ by Jensen's inequality, with equality exactly for uniform predictions. Its solution is a network that knows nothing.
# :::
#
# Throughout, $L_c(\theta)$ is the mean *robust* loss of the images of class $c$, and
#
# ```{math}
# :label: eq-18-phi
#
# \phi(\theta) = \max_{c} L_c(\theta) = \max_{p \in \Delta_C} \sum_c p_c\, L_c(\theta) .
# ```
#
# In plain words: an adversary of a second kind. The first moves the pixels; the second chooses the class, or, which is the same for him, the odds $p$ at which classes are drawn. A linear function on the simplex has its maximum at a vertex.
#
# (check-18-1)=
# **Check 18.1** *(the maximum over odds is the maximum over classes; as printed, ignorance is optimal).* For 20 random vectors of losses: the linear program over $\Delta_C$, sorting, and the bundle's solver with zero gradients agree to $10^{-9}$. With the cap $p_c \le 1/k$ the program gives the mean of the $k$ largest (*CVaR*, {cite}`rockafellar2000`). The printed value is at least $\ln C$ for 200 random networks' outputs, $\ln C$ for constant outputs, and above 5 for a perfect classifier, whose meant value is below 0.01.

# %%
draw = torch.Generator().manual_seed(18)
one = np.ones((1, C))
for _ in range(20):
    L = 3 * torch.rand(C, generator=draw)
    solver = ddi.bundle(torch.zeros(C, C), L, 1.0).weights @ L
    assert abs(solver - L.max()) < 1e-9
    for k in (1, 3, 7):
        program = linprog(-L.numpy(), A_eq=one, b_eq=[1], bounds=(0, 1 / k))
        assert abs(-program.fun - L.topk(k).values.mean()) < 1e-9


# %%
def printed(logits):
    """The slide's maximum over labels on the same images; logits (..., n, C)."""
    return (-logits.log_softmax(-1)).mean(-2).amax(-1)


outputs = 3 * torch.randn(200, 50, C, generator=draw)
assert printed(outputs).min() >= math.log(C)
assert abs(printed(torch.zeros(50, C)) - math.log(C)) < 1e-12

# %%
labels = torch.arange(50) % C
perfect = 8 * torch.nn.functional.one_hot(labels, C).double()
meant = ddi.cross_entropy(perfect, labels).view(-1, C).mean(0).max()
assert printed(perfect) > 5 and meant < 0.01

# %% [markdown]
# ## Danskin, one floor up
#
# $\phi$ is again a maximum of functions, now of only ten. If they are differentiable at $\theta$ with gradients $g_c$ (that is Danskin's theorem on the lower floor: where the maximisers over the pixels share a gradient), it applies again:
#
# $$
# D_\gamma \phi(\theta) = \max_{c\,:\, L_c(\theta) = \phi(\theta)} \langle g_c, \gamma\rangle .
# $$
#
# The hull of the *worst* classes' gradients decides, and its point of least norm is the steepest descent direction. Classes that are not worst have no say.
#
# If the images have several maximisers each, both floors open: with $S_i^\star$ the maximisers of image $i$,
#
# $$
# \begin{aligned}
# D_\gamma \phi(\theta) & = \max_{c\,:\, L_c = \phi}\ \frac1{n_c} \sum_{i : b_i = c} \\
# & \quad \max_{\delta \in S_i^\star} \langle \nabla_\theta L_i(\theta, \delta), \gamma\rangle .
# \end{aligned}
# $$
#
# The hull is then that of the worst classes' *means of per-sample hulls* ({ref}`chapter 7 <chapter-07>`). We test the upper floor only.
#
# Here is a network to try it on: 64-64-10 with CELU, float64, four hundred steps of robust training with class-balanced batches. We find perturbations for twenty images of each class, and keep them fixed from here on, so that the $L_c$ are smooth and the maximum over classes is exact.

# %%
digits = ddi.digits().to(dtype=torch.float64)
images = torch.cat([digits.x_train, digits.x_test])
parts = classes.Parts(images, torch.cat([digits.y_train, digits.y_test]), seeds=(18,))
course = classes.Course(classes.Cell("live", 0.15, "balanced"), parts)
for step in range(400):
    course.advance(step)

# %%
y = torch.arange(C).repeat_interleave(20)
chosen = parts.draw(y[None], torch.rand(1, len(y), generator=draw))[0]
strong = ddi.PGD(0.15, 0.015, 40, keep="best")
x = images[chosen]
X = (x + strong(course.stack, x, y, draw)).flatten(1)

# %%
pieces = [p[0].detach() for p in course.stack.parameters()]  # W1, W2, b1, b2
θ0 = torch.cat([p.flatten() for p in pieces])


def class_losses(θ):
    """L_c at the flat parameters θ, (C,)."""
    parted = θ.split([p.numel() for p in pieces])
    W1, W2, b1, b2 = (v.view_as(p) for v, p in zip(parted, pieces, strict=True))
    z = torch.nn.functional.celu(X @ W1 + b1) @ W2 + b2
    return ddi.cross_entropy(z, y).view(C, -1).mean(1)


def φ(θ):
    return class_losses(θ).max()


L, M = class_losses(θ0), torch.func.jacrev(class_losses)(θ0)
G = ddi.gram_matrix(M)
worst = int(L.argmax())

# %% [markdown]
# A step against the worst class's gradient lowers it until it meets another class. There, at a tie, we stop.
#
# (check-18-2)=
# **Check 18.2** *(Danskin's formula at a tie of two classes, for fixed perturbations).* Bisection along $-g_{c^\star}$ finds a $\theta$ where the two worst classes agree to $10^{-12}$. In 40 random directions, against either gradient, and in the direction of `ddi.steepest_descent`, the one-sided difference quotient (of second order) of $\phi$ agrees with the larger of the two inner products to $10^{-5}$. Steepest descent has the slope $-\lVert w^\star\rVert$, and no other of these directions, scaled to unit length, descends faster.


# %%
def ahead(τ):
    """How far the worst class is above all others after a step of τ."""
    values = class_losses(θ0 - τ * M[worst])
    return values[worst] - torch.cat([values[:worst], values[worst + 1 :]]).max()


low, high = 0.0, 1e-3
while ahead(high) > 0:
    high *= 2
for _ in range(60):
    middle = (low + high) / 2
    low, high = (middle, high) if ahead(middle) > 0 else (low, middle)
tie = θ0 - high * M[worst]

# %%
values = class_losses(tie)
two = values.topk(2).indices
assert values[two[0]] - values[two[1]] < 1e-12
pair = torch.func.jacrev(class_losses)(tie)[two]
steepest = ddi.steepest_descent(pair)
directions = [*torch.randn(40, len(tie), generator=draw), -pair[0], -pair[1]]

# %%
h = 1e-4
for γ in (steepest.direction, *directions):
    γ = γ / γ.norm()
    slope = ddi.directional_derivative(pair, γ)
    quotient = (4 * φ(tie + h * γ) - 3 * φ(tie) - φ(tie + 2 * h * γ)) / (2 * h)
    assert abs(quotient - slope) < 1e-5
    assert slope >= steepest.slope - 1e-9
assert abs(steepest.slope + (steepest.weights @ pair).norm()) < 1e-9

# %% [markdown]
# ## Learning the odds
#
# Training in batches does not know $L_c(\theta)$; it sees a few images. (The {ref}`experiment below <sec-18-design>` needs this section; the next one does not.) There are two schools.
#
# **Bandit** (CFOL, {cite}`pethick2023`, by Exp3, {cite}`auer2002`): draw the class of every image from $p = \gamma/C + (1 - \gamma) \operatorname{softmax}(s)$, see whether the network errs on it under attack, and add $\eta / p_c$ to $s_c$ if it does. A class with small $p_c$ is seldom drawn, and counts for more when it is. (Here $\gamma$ is a share of exploration, as in Exp3, and no direction.)
#
# **Full information** (Hedge, {cite}`freundschapire1997`; in deep learning *group DRO*, {cite}`sagawa2020`): draw all classes equally, see all their losses, $s \leftarrow s + \eta L$, and weigh the losses by $p = \operatorname{softmax}(s)$.
#
# (check-18-3)=
# **Check 18.3** *(the bandit's estimate is unbiased; its variance is what γ bounds).* The expectation of what one drawn image adds, enumerated over all $1\,000$ training images, is $\eta$ times the vector of class error rates, for every $p$ (to $10^{-12}$). Without the division by $p_c$ it is $\eta\, p_c$ times the rate instead: odds would feed themselves. The second moment of component $c$ is the rate divided by $p_c$, at most $C/\gamma$; its mean under $p$ is the sum of the rates, at most $C$. And the experiment's program adds just that.

# %%
train = parts.train[0]
attacked = strong(course.stack, images[train], parts.y[train], draw)
with torch.no_grad():
    guess = course.stack(images[train] + attacked).argmax(1)
wrong, owner = (guess != parts.y[train]).double(), parts.y[train]
size = torch.bincount(owner, minlength=C).double()
rate = torch.bincount(owner, wrong, minlength=C) / size

# %%
γ = 0.5
for _ in range(20):
    s = 3 * torch.randn(C, generator=draw)
    p = γ / C + (1 - γ) * s.softmax(0)
    chance = p[owner] / size[owner]  # of every image
    expected = torch.bincount(owner, chance * wrong / p[owner], minlength=C)
    assert (expected - rate).abs().max() < 1e-12
    naive = torch.bincount(owner, chance * wrong, minlength=C)
    assert (naive - p * rate).abs().max() < 1e-12
    second = torch.bincount(owner, chance * (wrong / p[owner]) ** 2, minlength=C)
    assert (second - rate / p).abs().max() < 1e-12 and second.max() <= C / γ
    assert abs(p @ second - rate.sum()) < 1e-12

# %%
bandit = classes.Course(classes.Cell("live", 0.15, "cfol", 2e-3, γ), parts)
bandit.stack, bandit.scores = course.stack, torch.randn(1, C, generator=draw)
before, odds = bandit.scores.clone(), bandit.chances[0]
batch = train[::20]
bandit.feed(images[batch] + attacked[::20], parts.y[batch])
paid = torch.bincount(owner[::20], 2e-3 * wrong[::20] / odds[owner[::20]], minlength=C)
assert (bandit.scores - before - paid).abs().max() < 1e-12

# %% [markdown]
# What can such a player promise? That over $T$ rounds he does nearly as well as the best fixed class, *whatever* the losses are.
#
# ::::{prf:theorem} Regret of Hedge
# :label: thm-18-hedge
#
# Let $L_1, \dots, L_T \in \mathbb{R}^C$ be any sequence, $R_t = \max_c L_{t,c} - \min_c L_{t,c}$ and $S_t = \sum_{r \le t} L_r$.
#
# 1. With $p_t = \operatorname{softmax}(\eta S_{t-1})$, chosen *before* $L_t$ is seen,
#
#    $$
#    \begin{aligned}
#    & \max_c S_{T,c} - \sum_t \langle p_t, L_t\rangle \\
#    & \quad \le \frac{\ln C}{\eta} + \frac{\eta}{8} \sum_t R_t^2 .
#    \end{aligned}
#    $$
# 2. With $p_t = \operatorname{softmax}(\eta S_t)$, chosen *after*, the left side is at most $\ln C/\eta$.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-18-hedge`
#
# ::::{prf:proof}
# Let $\Phi_t = \frac1\eta \ln \frac1C \sum_c e^{\eta S_{t,c}}$. Then $\Phi_0 = 0$ and $\Phi_T \ge \max_c S_{T,c} - \ln C / \eta$. With the first $p_t$, by Hoeffding's lemma,
#
# $$
# \begin{aligned}
# \Phi_t - \Phi_{t-1} & = \tfrac1\eta \ln \textstyle\sum_c p_{t,c}\, e^{\eta L_{t,c}} \\
# & \le \langle p_t, L_t\rangle + \tfrac\eta8 R_t^2 .
# \end{aligned}
# $$
#
# With the second, by Jensen's inequality,
#
# $$
# \begin{aligned}
# \Phi_t - \Phi_{t-1} & = -\tfrac1\eta \ln \textstyle\sum_c p_{t,c}\, e^{-\eta L_{t,c}} \\
# & \le \langle p_t, L_t\rangle .
# \end{aligned}
# $$
#
# Sum over $t$.
# ::::
# :::::
#
# In plain words: who sees the losses first pays only for not having started at the right class. Our Hedge is of the second kind: it weighs the batch whose losses it has just seen. What does that say about $\theta$? If the $L_c$ are convex, the averages of both players' moves are near a saddle point ({cite:t}`freund1999`); for a network, nothing.
#
# (check-18-4)=
# **Check 18.4** *(the bounds, on recorded losses).* Class losses that the experiment recorded every fifty steps, forty rounds of every cell, and six η from 0.01 to 10: regret stays below its bound in every case, with $p_t$ before and after. For the best of these six η the bound is below half of the trivial $\sum_t R_t$ in every sequence. (For the smallest η that Hedge has in the experiment it is empty: $\ln C/\eta$ is 2.3 nats a step.)


# %%
def regret(L, η, after):
    """Regret of Hedge on losses (T, C), and its bound."""
    S = L.cumsum(0)
    p = (η * (S if after else S - L)).softmax(1)
    bound = math.log(C) / η
    if not after:
        bound += η / 8 * float((L.amax(1) - L.amin(1)).square().sum())
    return float(S[-1].max() - (p * L).sum()), bound


# %%
for record in [r for records in every.values() for r in records.values()]:
    L_t = torch.tensor(record["seen"]["losses"])
    trivial, bounds = float((L_t.amax(1) - L_t.amin(1)).sum()), []
    for η in (0.01, 0.1, 0.3, 1.0, 3.0, 10.0):
        for after in (False, True):
            lost, bound = regret(L_t, η, after)
            assert lost <= bound + 1e-9
        bounds.append(regret(L_t, η, False)[1])
    assert min(bounds) < trivial / 2

# %% [markdown]
# ## Classes do not tie
#
# Danskin's descent direction takes the point of least norm of several gradients. Over *perturbations* of one batch that does little harm, since their losses are nearly tied ({ref}`chapter 7 <chapter-07>`). Are those of *classes*? First where everything is known.
#
# Let each class want its own place $a_c$ in the plane: $L_c(\theta) = \frac12 \lVert\theta - a_c\rVert^2$. The minimiser of $\phi = \max_c L_c$ is the centre of the *smallest circle* that holds all places.
#
# ::::{prf:theorem} The circle
# :label: thm-18-circle
#
# Let $\theta$ be any point of the plane.
#
# 1. The point of least norm of the gradients $\theta - a_c$ is $\theta - \pi(\theta)$, where $\pi(\theta)$ is the point of the hull of the $a_c$ nearest to $\theta$. In the hull it is $0$: the min-norm rule stops *wherever it enters the hull*, however far the worst class is.
# 2. The bundle step with $t = 1$ leads from every $\theta$ to the centre of the smallest circle, at once.
# ::::
#
# :::::{dropdown} Proof of {prf:ref}`thm-18-circle`
#
# ::::{prf:proof}
# The hull of the gradients is $\theta$ minus the hull of the places, which is 1. For 2,
#
# $$
# L_c(\theta + \gamma) = L_c(\theta) + \langle g_c, \gamma\rangle + \tfrac12 \lVert\gamma\rVert^2
# $$
#
# exactly, so the bundle's model with $t = 1$ *is* $\phi$.
# ::::
# :::::
#
# In plain words: every point of the hull is a *Pareto* point, where no class can gain unless another loses. The rule of least norm is content with any of them: it looks for a direction in which *all* classes gain (in multi-objective learning that is its purpose, {cite}`desideri2012`). Which class is worst is written in the values, and it does not look at them.
#
# (check-18-5)=
# **Check 18.5** *(the circle).* For six random places, the circle found by trying all pairs and triples: from 50 starts, inside and outside of the hull, one bundle step with $t = 1$ ends at its centre to $10^{-7}$, and the longest distance at the centre is the radius. At 50 points of the hull `ddi.steepest_descent` says *stationary*, although there $\phi$ is above its minimum, by more than a tenth of it at most of them.


# %%
def circle(a):
    """Centre of the smallest circle around the points a (n, 2), by brute force."""
    best = None
    for k in (2, 3):
        for few in combinations(range(len(a)), k):
            A, ones = a[list(few)], torch.ones(k, 1)
            # the centre is a mean of the k points that is equally far from all of them
            K = torch.cat([torch.cat([2 * A @ A.T, ones], 1), torch.ones(1, k + 1)])
            K[-1, -1] = 0
            right = torch.cat([A.square().sum(1), torch.ones(1)])
            centre = torch.linalg.lstsq(K, right[:, None]).solution[:k, 0] @ A
            radius = (a - centre).norm(dim=1).max()
            if best is None or radius < best[0]:
                best = radius, centre
    return best


places = torch.rand(6, 2, generator=draw) * torch.tensor([2.0, 1.2])
radius, centre = circle(places)


def φ_circle(θ):
    return 0.5 * (places - θ).square().sum(1).max()


# %%
for k in range(50):
    start = 3 * torch.rand(2, generator=draw) - 0.5
    g = start - places
    α = ddi.bundle(g @ g.T, 0.5 * g.square().sum(1), 1.0).weights
    assert (start - α @ g - centre).norm() < 1e-7
assert abs(φ_circle(centre) - radius**2 / 2) < 1e-12

# %%
inside = torch.rand(50, 6, generator=draw).pow(3)
inside = inside / inside.sum(1, keepdim=True) @ places
assert all(ddi.steepest_descent(point - places).stationary for point in inside)
excess = torch.stack([φ_circle(point) / φ_circle(centre) - 1 for point in inside])
assert (excess > 0).all() and (excess > 0.1).double().mean() > 0.5


# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-18-circle", "caption": "Least norm stops where it meets the hull (grey); the bundle goes to the centre of the smallest circle. Six classes in the plane, each wants its own place (dots). From one start: least norm, bundle steps of t = 0.2, and steps against the worst class alone."}, "image": {"alt": "Six dots, the polygon around them and the smallest circle around all. Three paths from a start outside. The path of least norm ends on the polygon's boundary, at the place of one class and far from the centre of the circle. The path of the bundle ends at the centre. The path of the worst class reaches the centre's neighbourhood and jumps to and fro there."}}
def path(rule, steps):
    """Places on the way from the start by steps of θ - rule(θ)."""
    on = [torch.tensor([2.6, 1.5])]
    for _ in range(steps):
        on.append(on[-1] - rule(on[-1] - places))
    return torch.stack(on)


def bundle_rule(g, t=0.2):
    return t * ddi.bundle(g @ g.T, 0.5 * g.square().sum(1), t).weights @ g


ways = {
    "bundle": path(bundle_rule, 40),
    "DDi": path(lambda g: 0.2 * ddi.min_norm_point(g @ g.T).weights @ g, 60),
    "PGD": path(lambda g: 0.2 * g[g.square().sum(1).argmax()], 40),
}
fig, ax = plt.subplots(figsize=(6.4, 5.0))


edge = places[ConvexHull(places.numpy()).vertices]
ax.fill(*edge.T, color="#eeeeee")
ax.plot(*places.T, "o", color="black")
ax.add_patch(plt.Circle(centre.tolist(), float(radius), fill=False, color="#888888"))
words = {"PGD": "worst class alone", "DDi": "least norm", "bundle": "bundle"}
for method, text in words.items():
    style = plots.METHODS[method] | {"label": text, "markersize": 5}
    ax.plot(*ways[method].T, **style)
ax.plot(*centre, "*", color="#F0E442", markeredgecolor="black", markersize=15, zorder=5)
ax.set(aspect="equal")
ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=3)
ax.grid(False)
plt.show()

# %% [markdown]
# Now the network. Its ten class losses are far from tied, and a class with a high loss also has a long gradient, since both come from the images that are still wrong. So least norm, which tends to give weight to *short* gradients, favours the classes that are learned already.
#
# (check-18-6)=
# **Check 18.6** *(over classes the point of least norm is a Pareto direction, and looks away from the worst class).* On the live network: losses differ by more than a factor of 3, and their correlation with the lengths of the gradients is above 0.7. Along $-w^\star$ every class falls with slope at most $-\lVert w^\star\rVert^2$, with equality where it has weight (central differences, to $10^{-6}$). The weight of the worst class is below 0.2, and it falls less than a fifth as fast as along its own gradient, at equal length of step.

# %%
lengths = G.diagonal().sqrt()
assert L.max() > 3 * L.min()
assert torch.corrcoef(torch.stack([L, lengths]))[0, 1] > 0.7
least = ddi.min_norm_point(G)
w = least.weights @ M
forth, back = class_losses(θ0 - 1e-4 * w), class_losses(θ0 + 1e-4 * w)
slopes = (forth - back) / 2e-4
assert (slopes <= -w @ w + 1e-6).all()
assert (slopes + w @ w)[least.weights > 1e-6].abs().max() < 1e-6
assert least.weights[worst] < 0.2
assert -slopes[worst] / w.norm() < lengths[worst] / 5

# %%
# NBVAL_IGNORE_OUTPUT
print("class   loss   |gradient|   weight at least norm")
for c in L.argsort(descending=True).tolist():
    print(f"{c:5} {L[c]:6.2f} {lengths[c]:11.2f} {least.weights[c]:13.2f}")

# %% [markdown]
# The bundle step of {ref}`chapter 7 <chapter-07>` is made for this: pieces that do *not* tie. With one "sample" whose pieces are the classes, {prf:ref}`thm-07-bundle` says
#
# ```{math}
# :label: eq-18-bundle
#
# p(t) = \operatorname*{arg\,max}_{p \in \Delta_C} \langle p, L\rangle - \frac t2 \Bigl\lVert \sum_c p_c\, g_c \Bigr\rVert^2 :
# ```
#
# how large a loss *is*, less how hard the mixture pushes. For short $t$ it is the worst class alone, for long $t$ the point of least norm, and between them a class counts if a step of that length lets it overtake ({numref}`fig-18-weights`).
#
# (check-18-7)=
# **Check 18.7** *(the two ends, exactly).* On the live network, let
#
# $$
# t_0 = \min_c \frac{L_{c^\star} - L_c}{\lVert g_{c^\star}\rVert^2 - \langle g_{c^\star}, g_c\rangle}
# $$
#
# over the $c$ with positive denominator. Up to $t_0$ the weight of the worst class is 1 to $10^{-9}$; at $1.01\, t_0$ it is not. $t_0$ is close to where bisection found the tie of check 18.2: within a fourth. Over 60 values of $t$, $\langle p(t), L\rangle$ and $\lVert \sum_c p_c g_c\rVert^2$ fall as $t$ grows, and the latter is at most $2(\max L - \min L)/t$ above least norm; at $t = 10^8$ it is least norm to $10^{-6}$. With all losses equal it is least norm at every $t$.

# %%
room = G[worst, worst] - G[worst]
t0 = ((L[worst] - L) / room)[room > 1e-9].min()
assert ddi.bundle(G, L, float(0.99 * t0)).weights[worst] > 1 - 1e-9
assert ddi.bundle(G, L, float(1.01 * t0)).weights[worst] < 1 - 1e-4
assert abs(t0 / high - 1) < 0.25

# %%
times = torch.logspace(-3, 3, 60)
solved = [ddi.bundle(G, L, float(t)) for t in times]
p_t = torch.stack([s.weights for s in solved])
squares = torch.stack([s.squared_norm for s in solved])
assert ((p_t @ L).diff() < 1e-8).all() and (squares.diff() < 1e-8).all()
above = squares - least.squared_norm
assert (above <= 2 * (L.max() - L.min()) / times + 1e-8).all()

# %%
assert abs(ddi.bundle(G, L, 1e8).squared_norm - least.squared_norm) < 1e-6
for t in (0.01, 1.0, 100.0):
    tied = ddi.bundle(G, torch.ones(C), t)
    assert abs(tied.squared_norm - least.squared_norm) < 1e-8

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-18-weights", "caption": "From the worst class alone to the point of least norm: the bundle's weights against t, one row a class, worst class on top."}, "image": {"alt": "Heat map of weights, rows are the ten classes in order of their loss, columns t from 0.001 to 1000. On the left only the top row is bright. From about t = 0.01 on the second and then further classes join, at t = 1 nearly all have weight, and on the right the weights no longer change; there the lower rows, classes of small loss, are at least as bright as the top rows."}}
# NBVAL_IGNORE_OUTPUT
rows = L.argsort(descending=True)
fig, ax = plt.subplots(figsize=(6.4, 3.8))
look = {"aspect": "auto", "cmap": "magma", "vmin": 0, "vmax": 0.6}
shade = ax.imshow(p_t[:, rows].T, extent=(-3, 3, C - 0.5, -0.5), **look)
ax.set_yticks(range(C), [f"class {c}: {L[c]:.2f}" for c in rows.tolist()])
ax.set_xticks(range(-3, 4), [f"{10.0**k:g}" for k in range(-3, 4)])
ax.set(xlabel="t", ylabel="class and its loss")
ax.grid(False)
fig.colorbar(shade, label="weight")
plt.show()

# %% [markdown]
# (sec-18-design)=
# ## An experiment, designed before it ran
#
# In a pilot of three seeds the bundle over classes looked like a new method, better than its rivals at one end of the trade-off and level at the other. A pilot that makes a hypothesis is no evidence for it. So `experiments/classes.md` was written and committed first: hypotheses, rivals, parameters, seeds, what is counted and how it is read. Then it was run, once.
#
# **What is trained.** 64-64-10 networks with CELU, two thousand steps of Adam under PGD-7, ε = 0.15 and 0.1. Twenty fresh seeds, shared by all methods; each seed also *splits* the 1 797 digits anew: 1 000 to train, 300 to choose, 497 to report. All methods make the same number of passes: class gradients cost none, since the losses of different classes are losses of different images. (In CPU time the bundle took 22 to 27 % more than Hedge.) The seeds split the *same* digits, and their test parts overlap: intervals speak of other splits and networks, not of other digits.
#
# **Who competes**, with six parameters each (the bundle's $t$ only shapes the weights: Adam makes the steps, for all methods alike):
#
# | method | weights of the classes | parameter |
# |---|---|---|
# | *bundle* | {eq}`eq-18-bundle` | $t$ |
# | *CFOL* | bandit, draws the classes | $\eta$, $\gamma$ |
# | *Hedge* | $\operatorname{softmax}(\eta \sum L)$, remembers | $\eta$ |
# | *tilt* {cite}`li2021` | $\operatorname{softmax}(L/\tau)$: {eq}`eq-18-bundle` with entropy in place of gradients | $\tau$ |
# | *CVaR* | $1/k$ on the $k$ largest losses | $k$ |
#
# besides *plain* and *balanced* batches, and least norm.
#
# **What counts.** For every mix $(1 - \lambda)\cdot\text{worst} + \lambda\cdot\text{average}$, $\lambda = 0, 0.1, \dots, 1$, a method's best cell is chosen on the validation part (*balanced* is allowed to all, since it is the lenient limit of the rivals). The *front value* $F$ of a seed is the mean of the eleven mixes on its test part. The bundle *holds* against a rival if $F$ is larger with Holm-adjusted $p < 0.05$ at both ε, and is *level* if the equivalence test within ± 0.01 passes at both (both tests as in {ref}`chapter 14 <chapter-14>`).

# %%
# NBVAL_IGNORE_OUTPUT
for eps, records in every.items():
    assert len(records) == 33, f"records are missing at ε = {eps}"
source = main["balanced"]["provenance"]
minutes = sum(r["cpu_seconds"] for e in every.values() for r in e.values()) / 60
networks = len(main["balanced"]["seeds"])
print(f"66 cells of {networks} networks, {minutes:.0f} CPU minutes")
print(f"{source['device']}, torch {source['torch']}")

# %% [markdown]
# (check-18-8)=
# **Check 18.8** *(who is left behind).* At ε = 0.15 the worst class has less than half of the average, in the mean over networks, plain and balanced; at ε = 0.1 less than four fifths. Over all networks together it is class 8. Least norm is far worse than doing nothing: its worst class is below 0.01. In the first network, at every look from step 100 on, 0.99 of its weight lies on one class, whose loss ends below 0.01. In each network some class is right on 95 % or more, not the same one in all.

# %%
for eps, share in (("0.15", 0.5), ("0.1", 0.8)):
    for name in ("plain", "balanced"):
        record = every[eps][name]
        left = table.worst(record).mean() / table.average(record).mean()
        assert left < share and table.pooled(record).argmin() == 8
    failed = every[eps]["minnorm"]
    assert table.worst(failed).mean() < 0.01
    seen = np.array(failed["seen"]["weights"])[2:]  # every fifty steps, from 100 on
    one = seen[-1].argmax()
    assert seen[:, one].min() > 0.99
    assert failed["seen"]["losses"][-1][one] < 0.01
    right, of = table.hits(failed, "test")
    assert (right / of).max(1).min() > 0.95
    assert len(set((right / of).argmax(1))) > 1

# %% [markdown]
# That is check 18.6, run to its end. Least norm favours the class with the shortest gradient, so that class is learned completely, and its gradient nearly vanishes. Then $0$ is nearly in the hull: there is no direction left in which *all* classes fall at first order. (Such a point is called *weakly Pareto-stationary*. Other classes could still gain.) From then on the steps follow this one class, as the path in {numref}`fig-18-circle` ends at one class's place. It is {ref}`chapter 7 <chapter-07>`'s lesson once more: only what ties may be treated as tied.
#
# Now the fronts, in {numref}`fig-18-front`.


# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-18-front", "caption": "The bundle is level with Hedge and CFOL; tilt and CVaR, which look at the losses of one batch only, stay inside of their front. Test accuracy under attack, mean of 20 networks, for every parameter of every method; bars: 95 % interval of the bundle's worst class. Top: ε = 0.15; bottom: ε = 0.1. Least norm is far off the picture, at (0.26, 0.00) and (0.42, 0.01)."}, "image": {"alt": "Two panels, worst-class accuracy against average accuracy. Top: balanced at about (0.695, 0.33). The bundle's curve rises from there to (0.69, 0.475) at t = 0.5 and turns down to the left for smaller t. Hedge rises through (0.684, 0.475) to (0.664, 0.49) and turns down. CFOL's markers lie along the same front. Tilt and CVaR stay below 0.42. Bottom: the same order at a higher level, differences about a third as large."}}
# NBVAL_IGNORE_OUTPUT
def where(records, names):
    """Mean average and worst-class accuracy of cells, (2, n)."""
    those = [records[n] for n in names]
    points = [(table.average(r).mean(), table.worst(r).mean()) for r in those]
    return np.array(points).T


fig, axes = plt.subplots(2, 1, figsize=(6.4, 8.4))
for ax, (eps, records) in zip(axes, every.items(), strict=True):
    for rule, (color, marker, _) in RIVALS.items():
        names = [n for n, r in records.items() if r["cell"]["rule"] == rule]
        names.sort(key=lambda n: records[n]["cell"]["value"])
        line = "" if rule == "cfol" else ":"
        ax.plot(*where(records, names), color=color, marker=marker, linestyle=line)
    names = [f"bundle-{t:g}" for t in sorted(classes.BUNDLE)]
    bars = np.array([table.interval(table.worst(records[n])) for n in names]).T
    a, w = where(records, names)
    style = plots.METHODS["bundle"] | {"linestyle": "-", "markersize": 8, "capsize": 3}
    ax.errorbar(a, w, [w - bars[1], bars[2] - w], **style, zorder=4)
    for t, place in zip(sorted(classes.BUNDLE), zip(a, w, strict=True), strict=True):
        look = {"textcoords": "offset points", "fontsize": 10, "zorder": 7}
        look["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        ax.annotate(f"{t:g}", place, (7, -4), **look)
    dot = {"color": plots.METHODS["PGD"]["color"], "ms": 10, "zorder": 6}
    ax.plot(*where(records, ["balanced"]), "o", **dot)
    ax.set(ylabel=f"worst class, ε = {eps}", xlabel="average")
handles = [
    plt.Line2D([], [], color=c, marker=m, linestyle="")
    for c, m, _ in RIVALS.values()
]
texts = [text for *_, text in RIVALS.values()]
for method, text in (("bundle", "bundle (with t)"), ("PGD", "balanced")):
    look = plots.METHODS[method]
    mark = {key: look[key] for key in ("color", "marker")}
    handles.append(plt.Line2D([], [], linestyle="", **mark))
    texts.append(text)
axes[0].legend(handles, texts, loc="lower left", ncols=2)
plt.show()

# %% [markdown]
# (check-18-9)=
# **Check 18.9** *(the verdict).* By the reading that was fixed: the bundle holds against tilt and against CVaR, and is level with CFOL and with Hedge.

# %%
gaps = {}
for eps, records in every.items():
    F = {m: table.front_value(records, table.family(records, m)) for m in table.METHODS}
    for rival in table.METHODS[1:]:
        gaps[rival, eps] = F["bundle"] - F[rival]
adjusted = table.holm([table.two_sided(gap) for gap in gaps.values()])
p_value = dict(zip(gaps, adjusted, strict=True))

# %%
for eps in every:
    for rival in ("tilt", "cvar"):
        assert gaps[rival, eps].mean() > 0 and p_value[rival, eps] < 0.05
    for rival in ("cfol", "hedge"):
        assert table.equivalent(gaps[rival, eps], 0.01) < 0.05
print("bundle minus")
for (rival, eps), gap in gaps.items():
    print(f"{rival:5} {eps:4} {table.shown(table.interval(gap))}")

# %% [markdown]
# So the pilot's hope is *not* fulfilled: the bundle over classes is not better than CFOL and Hedge. By the bar that the design set (better than all four) it is no new method worth a name.
#
# Is it even level? The primary outcome takes the least of ten accuracies in each network, each measured on some fifty images. Such a minimum is pulled down by noise, and most for a method that makes its classes equal (an {ref}`exercise <ex-18-noise>` below). The *pooled* worst class, over the images of all networks together, hardly knows this noise. The design had it among what is described; to put it into $F$ is hindsight.
#
# (check-18-10)=
# **Check 18.10** *(by the pooled worst class: slightly behind).* At ε = 0.15 the pooled front value of the bundle is below Hedge's and CFOL's by less than 0.03, with 95 % intervals (jackknife: leave out one network at a time) below 0. At ε = 0.1 the differences have the same sign and are smaller, and their intervals contain 0. Tilt and CVaR stay behind, at both ε.

# %%
pooled_gaps = {
    (rival, eps): table.pooled_gap(records, "bundle", rival)
    for eps, records in every.items()
    for rival in table.METHODS[1:]
}
for rival in ("hedge", "cfol"):
    mean, low, high = pooled_gaps[rival, "0.15"]
    assert -0.03 < mean < 0 and high < 0
    assert mean < pooled_gaps[rival, "0.1"][0] < 0 < pooled_gaps[rival, "0.1"][2]
for eps in every:
    assert all(pooled_gaps[rival, eps][1] > 0 for rival in ("tilt", "cvar"))
print("bundle minus")
for (rival, eps), gap in pooled_gaps.items():
    print(f"{rival:5} {eps:4} {table.shown(gap)}")

# %% [markdown]
# The honest sentence is therefore: level with Hedge and CFOL by the measure that was fixed; by a better one slightly behind at ε = 0.15, and undecided at 0.1. What is left is worth knowing, though.
#
# *Tilt* solves the bundle's problem with an entropy where the bundle has the gradients, and it is clearly behind; so is CVaR. Six images say little about a class, and a rule that trusts the losses of one batch chases noise. CFOL and Hedge remember, over hundreds of steps. The bundle remembers nothing: what holds it back from the class that merely looks worst may be the Gram matrix. So a rule without memory kept up by means of the inner products. (Why, we did not test. And a rule with both was no part of the design.)
#
# (check-18-11)=
# **Check 18.11** *(what $t$ does).* At both ε, from $t = 2$ to $0.5$ the worst class rises, by more than 0.02 (95 % intervals above 0), and from $0.5$ to $0.1$ the average falls by more than 0.01 (intervals below 0), and the worst class does not rise. With $t = 1$ against balanced batches the worst class is better and the average equivalent within ± 0.01. Each method's strictest cell has a lower average than balanced batches at ε = 0.15, by less than 0.06, or an equivalent one.


# %%
def change(records, name, other, of):
    """Paired difference of two cells, with its interval."""
    return table.interval(of(records[name]) - of(records[other]))


for eps, records in every.items():
    mean, low, _ = change(records, "bundle-0.5", "bundle-2", table.worst)
    assert mean > 0.02 and low > 0
    mean, _, high = change(records, "bundle-0.1", "bundle-0.5", table.average)
    assert mean < -0.01 and high < 0
    assert change(records, "bundle-0.1", "bundle-0.5", table.worst)[0] < 0

# %%
for eps, records in every.items():
    mean, low, high = change(records, "bundle-1", "balanced", table.worst)
    assert low > 0
    both = [table.average(records[name]) for name in ("bundle-1", "balanced")]
    assert table.equivalent(both[0] - both[1], 0.01) < 0.05
    print(f"ε = {eps:4}: t = 1, worst class {mean:+.3f} [{low:+.3f}, {high:+.3f}]")

# %%
balanced = table.average(main["balanced"])
for method in table.METHODS:
    strictest = table.strict(main, table.family(main, method))
    cost = balanced - table.average(main[strictest])
    assert cost.mean() < 0.06
    assert table.interval(cost)[1] > 0 or table.equivalent(cost, 0.01) < 0.05
    print(f"{strictest:15} costs {cost.mean():.3f} of the average")

# %% [markdown]
# Level does not mean equal everywhere: the fronts *cross*. The design also compares each method's best worst class on validation among cells that keep the average of balanced batches within 0.01 (*matched*), and among all its cells (*strict*). Differences in the worst class, at ε = 0.15, not adjusted for their number:

# %%
# NBVAL_IGNORE_OUTPUT
for at in (table.matched, table.strict):
    print(f"{at.__name__}: bundle minus")
    ours = at(main, table.family(main, "bundle"))
    for rival in ("hedge", "cfol"):
        theirs = at(main, table.family(main, rival))
        print(f"{rival:5} {table.shown(change(main, ours, theirs, table.worst))}")

# %% [markdown]
# At the strict end Hedge is ahead in the worst class, and pays 0.024 of the average for it. `experiments/classes.md` has all of these, for both ε.
#
# (check-18-12)=
# **Check 18.12** *(odds with and without memory).* Between two looks, fifty steps apart, the weights of bundle and tilt change at least five times as much as those of Hedge and CFOL (mean absolute change, second half of training, first seed; {numref}`fig-18-odds`).

# %%
SHOWN = {
    "hedge-0.02": "Hedge, η = 0.02",
    "cfol-0.0005-0.5": "CFOL, η = 0.0005, γ = 0.5",
    "bundle-0.5": "bundle, t = 0.5",
    "tilt-0.5": "tilt, τ = 0.5",
}
course_of = {name: np.array(main[name]["seen"]["weights"]) for name in SHOWN}
moved = {n: np.abs(np.diff(w[20:], axis=0)).mean() for n, w in course_of.items()}
calm = max(moved["hedge-0.02"], moved["cfol-0.0005-0.5"])
assert min(moved["bundle-0.5"], moved["tilt-0.5"]) > 5 * calm

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-18-odds", "caption": "Hedge and CFOL learn the odds once; bundle and tilt decide anew at every batch, and favour the same classes on average. Weights of the classes over training (CFOL: the odds it draws by), first seed, ε = 0.15; rows in the order of balanced training, hardest on top."}, "image": {"alt": "Four heat maps of class weights against the training step. Hedge and CFOL: after some hundred steps smooth horizontal bands, bright in the rows of classes 8, 9, 3 and 1. Bundle and tilt: the same rows are brighter on average, but every column looks different."}}
# NBVAL_IGNORE_OUTPUT
fig, axes = plt.subplots(4, 1, figsize=(6.4, 8.6), sharex=True)
for ax, (name, text) in zip(axes, SHOWN.items(), strict=True):
    shade = ax.imshow(
        course_of[name][:, order[::-1]].T,
        aspect="auto",
        cmap="magma",
        vmin=0,
        vmax=0.4,
        extent=(0, classes.STEPS, C - 0.5, -0.5),
    )
    ax.set_yticks(range(C), order[::-1], fontsize=8)
    ax.set_ylabel(text.split(",")[0] + ", class")
    ax.grid(False)
axes[-1].set_xlabel("training step")
fig.colorbar(shade, ax=axes, label="weight", shrink=0.5)
plt.show()

# %% [markdown]
# ## Breaking it
#
# **Feedback that is not the loss.** CFOL pays its bandit for *errors*, and trains on the cross-entropy. So the two players play for different stakes: it is no zero-sum game, and Danskin's theorem has no maximum to speak of. (CFOL paid by the loss, which would show what that does in training, was no part of the design. The lecture's own setting, CIFAR-10, is prepared in `experiments/cfol.toml`; we have not run it.)
#
# (check-18-13)=
# **Check 18.13** *(errors and losses can name different worst classes).* Class A: one image in five is wrong by a hair, the others are safe; class B: no error, but all images are close. Errors say A, cross-entropy says B; the gradient of $\phi$ belongs to B.


# %%
def mean_loss(margins):
    """Mean cross-entropy of two-class logits (margin, 0), right class first."""
    return torch.nn.functional.softplus(-margins).mean()


A, B = torch.tensor([-0.01, 5.0, 5.0, 5.0, 5.0]), torch.full((5,), 0.3)
errors = [(margins < 0).double().mean() for margins in (A, B)]
assert errors[0] > errors[1] and mean_loss(A) < mean_loss(B) / 2

# %% [markdown]
# **A learning rate that is too large.** The bandit's estimates are unbiased but loud: their second moment is $1/p_c$ times the rate, and scores only add up. With too large an η the odds follow the noise. Take ten classes that are *equally* hard, error rate 0.3, and 600 batches of 60 drawn images.
#
# (check-18-14)=
# **Check 18.14** *(η too large: noise names a worst class where there is none).* The largest of the ten odds should be 0.1, and can be $\gamma/C + 1 - \gamma = 0.55$ at most. Of forty bandits with $\eta = 0.1$ at least half end above 0.5; with $\eta = 5\cdot 10^{-4}$ all end below 0.2.


# %%
def odds_after(η, rounds=600, bandits=40):
    """Exp3's odds after batches of 60 from classes with error rate 0.3."""
    s = torch.zeros(bandits, C)
    for _ in range(rounds):
        p = 0.5 / C + 0.5 * s.softmax(1)
        c = torch.multinomial(p, 60, replacement=True, generator=draw)
        wrong = (torch.rand(bandits, 60, generator=draw) < 0.3).double()
        s.scatter_add_(1, c, η * wrong / p.gather(1, c))
    return 0.5 / C + 0.5 * s.softmax(1)


assert (odds_after(0.1).amax(1) > 0.5).sum() >= 20
assert (odds_after(5e-4).amax(1) < 0.2).all()

# %% [markdown]
# ## Summary
#
# - Robust training leaves classes behind: at ε = 0.15 the eights are right under attack half as often as the average digit, although they are as frequent.
# - Minimising the worst class is a minimum of a maximum, and Danskin's theorem holds on both floors: the hull is that of the *worst* classes' gradients (checked for fixed perturbations). The formula must sum over class $c$; as printed it asks for a network that knows nothing.
# - CFOL's estimate is unbiased, and γ bounds its variance; Hedge that sees the losses first pays at most $\ln C/\eta$. Neither minimises $\phi$ itself: CFOL's feedback is another function.
# - Least norm over all classes, DDi one floor up, fails: classes do not tie. It learns one class completely and forgets the others.
# - The bundle step over the classes sees the values. In a test that was designed first it is level with CFOL and Hedge (slightly behind by a measure with less noise, at the larger ε), and ahead of the rules that, like itself, have no memory. It is one more way to the same front, and no better one.
# - All of that on 8×8 digits and one small network. All verdicts are collected under {ref}`claims` and {ref}`errata`.
#
# ## Exercises
#
# ::::{exercise} Tilting is entropy
# :label: ex-18-tilt
#
# Show that $\operatorname{softmax}(L/\tau)$ maximises $\langle p, L\rangle - \tau \sum_c p_c \ln (C p_c)$ over the simplex, and that the maximum is $\tau \ln \frac1C \sum_c e^{L_c/\tau}$. What are its limits for $\tau \to 0$ and $\tau \to \infty$?
# ::::
#
# ```{solution-start} ex-18-tilt
# :label: sol-18-tilt
# :class: dropdown
# ```
#
# Let $q = \operatorname{softmax}(L/\tau)$, $Z = \frac1C\sum_c e^{L_c/\tau}$. Then $\ln (C q_c) = L_c/\tau - \ln Z$, and
#
# $$
# \begin{aligned}
# & \langle p, L\rangle - \tau \textstyle\sum_c p_c \ln (C p_c) \\
# & \quad = \tau \ln Z - \tau \textstyle\sum_c p_c \ln (p_c/q_c) .
# \end{aligned}
# $$
#
# The last sum is a relative entropy: at least 0, and 0 only at $p = q$. For $\tau \to 0$ the value tends to $\max_c L_c$, for $\tau \to \infty$ to the mean.

# %%
L_some = 3 * torch.rand(C, generator=draw)
for τ in (0.1, 1.0, 10.0):
    q = (L_some / τ).softmax(0)
    top = τ * ((L_some / τ).logsumexp(0) - math.log(C))
    p = torch.rand(500, C, generator=draw).log().neg()
    p = torch.cat([q[None], p / p.sum(1, keepdim=True)])
    objective = p @ L_some - τ * (p * (C * p).log()).sum(1)
    assert abs(objective[0] - top) < 1e-12 and (objective <= top + 1e-12).all()

# %%
for τ, limit in ((1e-3, L_some.max()), (1e4, L_some.mean())):
    assert abs(τ * ((L_some / τ).logsumexp(0) - math.log(C)) - limit) < 3e-3

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} A class that is learned
# :label: ex-18-learned
#
# Let one class have gradient $0$ and less than the largest loss. What are the steps of least norm and of the bundle? Show that the bundle stops only where $0$ is in the hull of the *worst* classes' gradients, for every $t$.
# ::::
#
# ```{solution-start} ex-18-learned
# :label: sol-18-learned
# :class: dropdown
# ```
#
# Least norm is 0: all weight on that class, no step. The bundle's model $\max_c (L_c + \langle g_c, \gamma\rangle) + \lVert\gamma\rVert^2/2t$ is convex, so $\gamma = 0$ minimises it if and only if 0 is in its subdifferential there, and that is the hull of the $g_c$ with the largest $L_c$. The class that is learned is not among them.

# %%
g_some = torch.randn(C, 30, generator=draw)
g_some[3], values = 0.0, torch.rand(C, generator=draw)
values[3] = 0.0
gram = ddi.gram_matrix(g_some)
assert ddi.min_norm_point(gram).squared_norm < 1e-9
for t in (0.01, 1.0, 100.0):
    assert ddi.bundle(gram, values, t).squared_norm > 1e-6

# %% [markdown]
# ```{solution-end}
# ```
#
# ::::{exercise} The worst of ten estimates
# :label: ex-18-noise
#
# All ten classes have accuracy 0.6, and each is measured on 50 images. What is the mean of the smallest measured accuracy? Why do the records have a *pooled* worst class besides?
# ::::
#
# ```{solution-start} ex-18-noise
# :label: sol-18-noise
# :class: dropdown
# ```
#
# About 0.49. The standard error of one class is $\sqrt{0.24/50} = 0.069$, and the least of ten is some 1.5 of those below the mean. So a method that makes all classes equal still shows a worst class well below the average, and the bias is largest just for such methods. Pooling the images of all networks (about a thousand a class, some 180 different ones, each seen five or six times) removes most of it. At ε = 0.15 Hedge's pooled worst class is 0.54 where the bundle's is 0.49, since the bundle has left the eights behind its other classes; the mean of the twenty minima, 0.49 to 0.47, hides most of that.

# %%
right = torch.rand(4_000, C, 50, generator=draw) < 0.6
smallest = right.double().mean(2).amin(1).mean()
assert abs(smallest - 0.49) < 0.01
hedge, ours = (table.pooled(main[n]).min() for n in ("hedge-0.02", "bundle-0.5"))
assert hedge > ours + 0.03

# %% [markdown]
# ```{solution-end}
# ```
