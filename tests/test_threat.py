"""The threat sets: feasibility, optimality of the projections, random starts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddi import L2, LInf, Threat, threat_model

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


@pytest.mark.parametrize("threat", [LInf(0.2), L2(0.7)], ids=["Linf", "L2"])
def test_several_perturbations_of_each_image_are_projected_one_by_one(threat):
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(5, 1, 3, 3, generator=draw, dtype=torch.float64)
    v = torch.randn(2, 4, *x.shape, generator=draw, dtype=torch.float64)
    p = threat.project(v, x)
    for i in range(2):
        for j in range(4):
            torch.testing.assert_close(p[i, j], threat.project(v[i, j], x))


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


@pytest.mark.parametrize("threat", SETS, ids=repr)
def test_contains_tells_the_ball_and_the_box(threat):
    """Ten tolerances beyond either, in one pixel of one sample, is outside; half a one is not."""
    lo, hi = threat.box or (0.0, 1.0)
    x = torch.full((3, 1, 2, 3), (lo + hi) / 2, dtype=torch.float64)
    atol = 1e-3
    delta = threat.steepest(torch.ones_like(x)) * threat.eps
    assert threat.contains(delta, x).all() and threat.contains(-delta, x).all()
    for extra, inside in ((0.5, True), (10, False)):
        longer = delta.clone()
        longer[1] *= 1 + extra * atol / threat.eps
        assert threat.contains(longer, x, atol).tolist() == [True, inside, True]
    if threat.box:
        for edge, sign in ((lo, -1), (hi, 1)):
            x[1, 0, 0, 0] = edge
            for extra, inside in ((0.5, True), (10, False)):
                out = torch.zeros_like(x)
                out[1, 0, 0, 0] = sign * extra * atol
                assert threat.contains(out, x, atol).tolist() == [True, inside, True]
    assert not threat.contains(torch.full_like(x, torch.nan), x).any()


@pytest.mark.parametrize("threat", [s for s in SETS if isinstance(s, L2)], ids=repr)
def test_projection_resolves_the_direction_at_every_length(threat):
    """What is very far away is projected as what is far away in the same direction."""
    x = images(threat)
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    far = threat.project(1e15 * v, x)
    torch.testing.assert_close(threat.project(1e300 * v, x), far, atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("box", [(0.0, 1.0), (0.1, 0.9), (-0.42421, 2.82148), (1e-3, 255.0)])
def test_bounds_keep_the_sum_inside_the_box_and_always_allow_zero(dtype, box):
    threat = LInf(1e9, box)
    g = torch.Generator().manual_seed(0)
    x = (box[0] + (box[1] - box[0]) * torch.rand(10_000, 2, generator=g, dtype=torch.float64)).to(
        dtype
    )
    lo, hi = threat.bounds(x)
    low, high = torch.minimum(x + lo, x).double(), torch.maximum(x + hi, x).double()
    inside = (x.double() >= box[0]) & (x.double() <= box[1])
    assert inside.double().mean() > 0.9
    assert (lo <= 0).all() and (hi >= 0).all()
    assert (low[inside] >= box[0]).all() and (high[inside] <= box[1]).all()
    width = torch.finfo(dtype).eps * max(abs(v) for v in box)
    assert (low[inside] <= box[0] + 4 * width).all() and (high[inside] >= box[1] - 4 * width).all()
    edges = torch.tensor([box], dtype=dtype)
    assert threat.bounds(edges)[0][0, 0] == 0 and threat.bounds(edges)[1][0, 1] == 0


def test_numbers_are_kept_as_plain_python():
    for kind in (LInf, L2):
        threat = kind(np.float32(0.5), [0, np.int64(2)])
        assert threat == kind(0.5, (0.0, 2.0)) and type(threat.eps) is float
        assert type(threat.box) is tuple and {type(v) for v in threat.box} == {float}
        assert kind(0.5).box == (0.0, 1.0)
    assert threat_model("Linf", 0.1) == LInf(0.1, (0.0, 1.0))
    assert threat_model("L2", 0.1, None) == L2(0.1, None)


def test_a_set_of_ones_own_says_what_is_missing():
    x = torch.rand(2, 3)
    for use in (
        lambda t: t.project(x, x),
        lambda t: t.sample(x),
        lambda t: t.steepest(x),
        lambda t: t.norm(x),
    ):
        with pytest.raises(NotImplementedError):
            use(Threat(0.1))


@pytest.mark.parametrize("threat", [LInf(0.1), L2(0.1)], ids=repr)
@pytest.mark.parametrize(
    ("delta", "x", "words"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), r"delta must be .*\(2, 4\)"),
        (torch.zeros(1, 4), torch.zeros(2, 4), r"delta must be .*\(2, 4\)"),
        (np.zeros((2, 4)), torch.zeros(2, 4), "delta must be .*NumPy"),
        (torch.zeros(2, 4), np.zeros((2, 4)), "x must be .*NumPy"),
        (torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 4), "delta must be .*int64"),
        (torch.full((2, 4), torch.nan), torch.zeros(2, 4), "delta must be finite"),
        (torch.zeros(4), torch.zeros(4), "x must be .*2 axes"),
    ],
)
def test_impossible_projections_are_refused(threat, delta, x, words):
    with pytest.raises(ValueError, match=words):
        threat.project(delta, x)


def test_impossible_draws_are_refused():
    for threat in (LInf(0.1), L2(0.1)):
        for x in (torch.zeros(2, 3).long(), torch.full((2, 3), torch.nan), np.zeros((2, 3)), None):
            with pytest.raises(ValueError, match="x must be"):
                threat.sample(x)
        with pytest.raises(ValueError, match="generator must be"):
            threat.sample(torch.zeros(2, 3), 0)
        with pytest.raises(ValueError, match="atol must be"):
            threat.contains(torch.zeros(2, 3), torch.zeros(2, 3), -1.0)


@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf, "0.1", True, None, 1j])
@pytest.mark.parametrize("kind", [LInf, L2])
def test_impossible_eps_is_refused(kind, eps):
    with pytest.raises(ValueError, match="eps"):
        kind(eps)


@pytest.mark.parametrize("box", [(1.0, 0.0), (0.0, math.nan), (0.0,), 1.0, "01", (0, 0)])
def test_impossible_box_is_refused(box):
    with pytest.raises(ValueError, match="box"):
        LInf(0.1, box)


def test_unknown_norm_is_refused():
    for norm in ("L7", None, 2):
        with pytest.raises(ValueError, match=f'norm must be one of "Linf", "L2", got {norm!r}'):
            threat_model(norm, 0.1)
