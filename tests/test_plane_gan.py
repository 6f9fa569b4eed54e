"""What chapter 20 and its record stand on: exact matchings, and constants that hold everywhere."""

from itertools import permutations

import numpy as np
import plane_gan as gan
import pytest
import torch
from scipy.optimize import linprog

KINDS = ("relu", "clip 0.3", "penalty 10", "spectral", "orthogonal spline", "orthogonal groupsort")


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def test_matching_is_the_best_of_all_permutations_and_its_gradient_that_of_the_distance():
    for p in (1, 2, 4):
        x, y = torch.randn(5, p), torch.randn(5, p, requires_grad=True)
        distance, partner = gan.matching(x, y)
        costs = [(y - x[list(s)]).norm(dim=1).mean().item() for s in permutations(range(5))]
        assert abs(distance.item() - min(costs)) < 1e-14
        assert abs((y - x[partner]).norm(dim=1).mean() - distance) < 1e-14
        (gradient,) = torch.autograd.grad(distance, y)
        for direction in torch.randn(5, 5, p):
            ahead, behind = (gan.matching(x, y + t * direction)[0] for t in (1e-6, -1e-6))
            assert abs((ahead - behind) / 2e-6 - (gradient * direction).sum()) < 1e-7


def test_duality_on_random_discrete_measures():
    for p, n, m in ((1, 4, 7), (2, 6, 6), (3, 8, 3)):
        x, y = torch.randn(n, p), torch.randn(m, p)
        a, b = torch.rand(n).softmax(0).numpy(), torch.rand(m).softmax(0).numpy()
        rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
        cost, marginals = torch.cdist(x, y).flatten().numpy(), np.r_[a, b]
        least = linprog(cost, A_eq=np.vstack([rows, columns]), b_eq=marginals).fun
        points = torch.cat([x, y])
        pairs = [(i, j) for i in range(n + m) for j in range(n + m) if i != j]
        differences = np.array([np.eye(n + m)[i] - np.eye(n + m)[j] for i, j in pairs])
        lengths = [(points[i] - points[j]).norm().item() for i, j in pairs]
        bounds = [(0, 0)] + [(None, None)] * (n + m - 1)
        most = -linprog(np.r_[-a, b], differences, lengths, bounds=bounds).fun
        assert abs(least - most) < 1e-8


@pytest.mark.parametrize("kind", KINDS)
def test_the_certified_constant_bounds_every_slope_after_training(kind):
    real, fake = gan.ring(32, torch.Generator().manual_seed(1)), torch.randn(32, 2)
    rival = gan.Ascent(kind, 1e-2)
    for _ in range(10):
        rival.step(real, fake)
    network = rival.network.eval()
    if "spline" in kind:  # parameters that have left [-1, 1] do not count
        with torch.no_grad():
            network[1].slopes.mul_(3)
    one, two = torch.randn(2, 3000, 2) * 3
    near = one + 1e-3 * two
    for other in (two, near):
        with torch.no_grad():
            rise = (network(one) - network(other))[:, 0].abs() / (one - other).norm(dim=1)
        assert rise.max() <= gan.certified(network) * (1 + 1e-6)
    assert gan.value(network, real, fake) <= gan.certified(network) * gan.matching(real, fake)[0]


def test_the_penalty_is_subtracted_from_what_the_critic_maximises():
    real, fake = gan.ring(64, torch.Generator().manual_seed(1)), torch.randn(64, 2) / 2
    after = {}
    for sign in (-1.0, 1.0):
        torch.manual_seed(0)
        rival = gan.Ascent("penalty 10", 5e-3, sign)
        for _ in range(60):
            rival.step(real, fake)
        after[sign] = gan.slopes(rival.network, real).mean()
    assert abs(after[-1.0] - 1) < 0.4 < abs(after[1.0] - 1)
