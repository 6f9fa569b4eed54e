"""The threat sets: feasibility, optimality of the projections, random starts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddi import L2, LInf, threat_model

SETS = [
    LInf(0.3),
    LInf(0.3, None),
    L2(0.5),
    L2(0.5, None),
    LInf(0.3, (-1.0, 2.0)),
    L2(0.7, (-1.0, 2.0)),
]


def images(threat, n=6, seed=0, dtype=torch.float64):
    lo, hi = threat.box or (0.0, 1.0)
    x = torch.rand(n, 1, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    x[0], x[1] = 0.0, 1.0  # images on the border of the box
    return lo + (hi - lo) * x


@pytest.mark.parametrize("threat", SETS, ids=repr)
@pytest.mark.parametrize("scale", [1e-15, 1e-2, 1.0, 10.0, 1e15])
def test_projection_satisfies_its_variational_inequality(threat, scale):
    """``p`` is the nearest point of the convex set iff ``<v - p, s - p> <= 0`` for every ``s`` of
    the set.
    """
    x = images(threat)
    v = scale * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    p = threat.project(v, x)
    assert threat.contains(p, x, atol=1e-12).all()
    for seed in range(200):
        s = threat.sample(x, torch.Generator().manual_seed(seed))
        inner = ((v - p) * (s - p)).flatten(1).sum(1)
        assert (inner <= 1e-9 * max(1.0, scale)).all()


@pytest.mark.parametrize("threat", SETS, ids=repr)
def test_projection_leaves_the_set_alone_and_is_idempotent(threat):
    x = images(threat)
    inside = 0.999 * threat.sample(x, torch.Generator().manual_seed(0))
    assert torch.equal(threat.project(inside, x), inside)
    once = threat.project(torch.randn_like(x) * 3, x)
    torch.testing.assert_close(threat.project(once, x), once, atol=1e-12, rtol=0)


def test_projection_on_a_disc_cut_by_the_box_by_hand():
    """In the plane: from (2, 2), disc of radius 1, first coordinate at most 0.5: nearest is (0.5,
    sqrt(3)/2).
    """
    x = torch.tensor([[[[0.5, -8.0]]]], dtype=torch.float64)
    got = L2(1.0, (-10.0, 1.0)).project(torch.full_like(x, 2.0), x).flatten()
    torch.testing.assert_close(
        got, torch.tensor([0.5, math.sqrt(3) / 2], dtype=torch.float64), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("threat", SETS, ids=repr)
def test_steepest_maximises_the_linear_function_over_the_unit_ball(threat):
    g = torch.randn(5, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    g[0] = 0
    s = threat.steepest(g)
    assert (s[0] == 0).all()
    dual = g.flatten(1).abs().sum(1) if isinstance(threat, LInf) else g.flatten(1).norm(dim=1)
    torch.testing.assert_close((g * s).flatten(1).sum(1), dual)
    assert (threat.norm(s) <= 1 + 1e-12).all()
    for scale in (1e-30, 1e30):
        torch.testing.assert_close(threat.steepest(scale * g.float()), s.float())


@pytest.mark.parametrize("threat", [LInf(0.3, None), L2(0.5, None)], ids=repr)
def test_random_start_fills_the_ball(threat):
    x = torch.zeros(20_000, 1, 1, 2, dtype=torch.float64)
    delta = threat.sample(x, torch.Generator().manual_seed(0))
    radius = threat.norm(delta) / threat.eps
    assert radius.max() <= 1 and radius.max() > 0.99
    # uniform in two dimensions: P(norm <= r eps) = r^2 for both balls
    for r in (0.3, 0.6, 0.9):
        assert abs((radius <= r).double().mean() - r**2) < 0.02
    assert delta.mean(0).abs().max() < 0.01


def test_random_start_is_clipped_to_the_box():
    x = torch.ones(100, 1, 2, 2)
    for threat in (LInf(0.3), L2(0.3)):
        delta = threat.sample(x, torch.Generator().manual_seed(0))
        assert (delta <= 0).all() and (delta == 0).any()


@given(st.integers(0, 10_000), st.floats(0, 2), st.sampled_from(["Linf", "L2"]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_projection_is_always_feasible_in_float32(seed, eps, norm, box):
    threat = threat_model(norm, eps, (0.0, 1.0) if box else None)
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(4, 1, 3, 3, generator=g)
    v = torch.randn(x.shape, generator=g) * 10.0 ** torch.randint(-6, 7, (1,), generator=g).item()
    p = threat.project(v, x)
    assert torch.isfinite(p).all() and threat.contains(p, x, atol=2e-6).all()
    if box:
        assert (x + p).min() >= 0 and (x + p).max() <= 1


@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf, "0.1", True])
@pytest.mark.parametrize("kind", [LInf, L2])
def test_impossible_eps_is_refused(kind, eps):
    with pytest.raises(ValueError, match="eps"):
        kind(eps)


@pytest.mark.parametrize("box", [(1.0, 0.0), (0.0, math.nan), (0.0,), 1.0])
def test_impossible_box_is_refused(box):
    with pytest.raises(ValueError, match="box"):
        LInf(0.1, box)


def test_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="norm.*L7"):
        threat_model("L7", 0.1)
