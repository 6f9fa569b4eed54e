"""The threat sets: feasibility, optimality of the projections, random starts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from ddi import L1, L2, LInf, Threat, threat_model

SETS = [
    LInf(0.3),
    LInf(0.3, None),
    L2(0.5),
    L2(0.5, None),
    LInf(0.3, (-1.0, 2.0)),
    L2(0.7, (-1.0, 2.0)),
    L1(0.5),
    L1(0.5, None),
    L1(1.2, (-1.0, 2.0)),
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


@pytest.mark.parametrize("threat", [LInf(0.2), L2(0.7), L1(0.9)], ids=repr)
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
    order = {LInf: 1, L2: 2, L1: math.inf}[type(threat)]  # of the dual norm
    torch.testing.assert_close((g * s).flatten(1).sum(1), g.flatten(1).norm(order, dim=1))
    assert (threat.norm(s) <= 1 + 1e-12).all()
    for scale in (1e-30, 1e30):
        torch.testing.assert_close(threat.steepest(scale * g.float()), s.float())


@pytest.mark.parametrize("threat", [LInf(0.3, None), L2(0.5, None), L1(0.4, None)], ids=repr)
def test_random_start_fills_the_ball(threat):
    x = torch.zeros(20_000, 1, 1, 2, dtype=torch.float64)
    delta = threat.sample(x, torch.Generator().manual_seed(0))
    radius = threat.norm(delta) / threat.eps
    assert radius.max() <= 1 and radius.max() > 0.99
    # uniform in two dimensions: P(norm <= r eps) = r^2 for every ball
    for r in (0.3, 0.6, 0.9):
        assert abs((radius <= r).double().mean() - r**2) < 0.02
    assert delta.mean(0).abs().max() < 0.01


def test_random_start_is_clipped_to_the_box():
    x = torch.ones(100, 1, 2, 2)
    for threat in (LInf(0.3), L2(0.3), L1(0.3)):
        delta = threat.sample(x, torch.Generator().manual_seed(0))
        assert (delta <= 0).all() and (delta == 0).any()


@given(
    st.integers(0, 10_000), st.floats(0, 2), st.sampled_from(["Linf", "L2", "L1"]), st.booleans()
)
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


@pytest.mark.parametrize("threat", [s for s in SETS if not isinstance(s, LInf)], ids=repr)
def test_projection_resolves_the_direction_at_every_length(threat):
    """What is very far away is projected as what is far away in the same direction."""
    x = images(threat)
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    far = threat.project(1e15 * v, x)
    torch.testing.assert_close(threat.project(1e300 * v, x), far, atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("box", [(0.0, 1.0), None])
def test_the_l2_projection_stays_in_the_ball_in_half_precision(dtype, box):
    """Its norm as float64 sees it, and no more than two units of rounding from the exact point."""
    threat, g = L2(0.7, box), torch.Generator().manual_seed(0)
    x = torch.rand(50, 3, 8, 8, generator=g).to(dtype)
    length = torch.rand(50, 1, 1, 1, generator=g) * 4
    v = torch.randn(x.shape, generator=g)
    v = (length * v / v.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).to(dtype)
    found = threat.project(v, x)
    assert found.dtype == dtype
    norms = found.double().flatten(1).norm(dim=1)
    assert norms.max() <= threat.eps * (1 + 1e-6) and norms.max() > 0.99 * threat.eps
    exact = threat.project(v.double(), x.double())
    near = 2 * torch.finfo(dtype).eps * exact.abs() + 1e-5
    assert ((found.double() - exact).abs() <= near).all()
    lo, hi = threat.bounds(x)
    assert (found >= lo).all() and (found <= hi).all()
    short = v.double().flatten(1).norm(dim=1) < 0.99 * threat.eps
    assert short.any() and torch.equal(found[short], v.clamp(lo, hi)[short])


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


def test_bounds_reach_the_edges_of_the_box():
    """Where nothing is rounded: neither smaller nor larger."""
    lo, hi = LInf(9.0, (-1.0, 2.0)).bounds(torch.tensor([[-1.0, -0.5, 0.0, 0.25, 2.0]]))
    assert lo.tolist() == [[0.0, -0.5, -1.0, -1.25, -3.0]]
    assert hi.tolist() == [[3.0, 2.5, 2.0, 1.75, 0.0]]


def test_numbers_are_kept_as_plain_python():
    for kind in (LInf, L2, L1):
        threat = kind(np.float32(0.5), [0, np.int64(2)])
        assert threat == kind(0.5, (0.0, 2.0)) and type(threat.eps) is float
        assert type(threat.box) is tuple and {type(v) for v in threat.box} == {float}
        assert kind(0.5).box == (0.0, 1.0)
    assert threat_model("Linf", 0.1) == LInf(0.1, (0.0, 1.0))
    assert threat_model("L2", 0.1, None) == L2(0.1, None)
    assert threat_model("L1", 0.1, None) == L1(0.1, None)


def test_a_set_of_ones_own_says_what_is_missing():
    x = torch.rand(2, 3)
    for use in (
        lambda t: t.project(x, x),
        lambda t: t.sample(x),
        lambda t: t.steepest(x),
        lambda t: t.step(x, x, 0.1),
        lambda t: t.norm(x),
    ):
        with pytest.raises(NotImplementedError):
            use(Threat(0.1))


@pytest.mark.parametrize("threat", [LInf(0.1), L2(0.1), L1(0.1)], ids=repr)
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
    for threat in (LInf(0.1), L2(0.1), L1(0.1)):
        for x in (torch.zeros(2, 3).long(), torch.full((2, 3), torch.nan), np.zeros((2, 3)), None):
            with pytest.raises(ValueError, match="x must be"):
                threat.sample(x)
        with pytest.raises(ValueError, match="generator must be"):
            threat.sample(torch.zeros(2, 3), 0)
        with pytest.raises(ValueError, match="atol must be"):
            threat.contains(torch.zeros(2, 3), torch.zeros(2, 3), -1.0)


@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf, "0.1", True, None, 1j])
@pytest.mark.parametrize("kind", [LInf, L2, L1])
def test_impossible_eps_is_refused(kind, eps):
    with pytest.raises(ValueError, match="eps"):
        kind(eps)


@pytest.mark.parametrize("box", [(1.0, 0.0), (0.0, math.nan), (0.0,), 1.0, "01", (0, 0)])
def test_impossible_box_is_refused(box):
    with pytest.raises(ValueError, match="box"):
        LInf(0.1, box)


def test_unknown_norm_is_refused():
    for norm in ("L7", None, 2):
        with pytest.raises(
            ValueError, match=f'norm must be one of "Linf", "L2", "L1", got {norm!r}'
        ):
            threat_model(norm, 0.1)


# --- l1: what only this set can get wrong -----------------------------------


def by_bisection(v, lo, hi, eps):
    """The projection onto the l1 ball and the box, from its dual: one multiplier, by bisection."""
    room = np.where(v > 0, hi, -lo)
    clip = lambda c: np.clip(np.abs(v) - c, 0, room)  # noqa: E731
    low, high = 0.0, np.abs(v).max()
    if clip(0.0).sum() > eps:
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if clip(middle).sum() > eps else (low, middle)
    return np.sign(v) * clip(high if low else 0.0)


def by_slsqp(v, lo, hi, eps):
    """The same by a generic solver, in ``s = plus - minus`` with both parts ``>= 0``."""
    n = len(v)
    start = np.zeros(2 * n)
    found = minimize(
        lambda z: 0.5 * ((z[:n] - z[n:] - v) ** 2).sum(),
        start,
        jac=lambda z: np.concatenate([z[:n] - z[n:] - v, v - z[:n] + z[n:]]),
        bounds=[*((0, b) for b in hi), *((0, -a) for a in lo)],
        constraints={
            "type": "ineq",
            "fun": lambda z: eps - z.sum(),
            "jac": lambda z: -np.ones(2 * n),
        },
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return found.x[:n] - found.x[n:]


def several_in_l1(n=7, seed=0, box=(0.0, 1.0), dtype=torch.float64):
    """Images, some on the border, and points of very different lengths, some with ties."""
    draw = torch.Generator().manual_seed(seed)
    low, high = box or (0.0, 1.0)
    x = low + (high - low) * torch.rand(60, n, generator=draw, dtype=dtype)
    x[0], x[1], x[2, ::2] = low, high, low
    v = torch.randn(60, n, generator=draw, dtype=dtype)
    v[::3] = v[::3].sign() * 0.7  # all alike
    v[1::3, : n // 2] = v[1::3, :1].abs()
    return v, x


@pytest.mark.parametrize("box", [None, (0.0, 1.0), (-0.3, 0.1)], ids=str)
@pytest.mark.parametrize("eps", [0.05, 0.4, 1.0])
def test_l1_projection_is_that_of_two_other_solvers(eps, box):
    v, x = several_in_l1(box=box)
    threat = L1(eps, box)
    lo, hi = (t.clamp(-9, 9) for t in threat.bounds(x))
    found = threat.project(v, x)
    for row in range(len(x)):
        one = [t[row].numpy() for t in (v, lo, hi)]
        np.testing.assert_allclose(found[row], by_bisection(*one, eps), atol=1e-12)
        np.testing.assert_allclose(found[row], by_slsqp(*one, eps), atol=1e-6)
    outside = threat.norm(v.clamp(lo, hi)) > eps
    assert outside.any()
    torch.testing.assert_close(threat.norm(found)[outside], torch.full_like(v[outside, 0], eps))


@pytest.mark.parametrize("box", [None, (0.0, 1.0), (-1e3, 1e3)], ids=str)
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3, 1e6, 1e12])
@pytest.mark.parametrize("eps", [1e-6, 1e-2, 1.0, 1e6])
def test_l1_projection_meets_its_worst_inequality_at_every_scale(eps, scale, box):
    """``max_s <v - p, s - p> <= 0`` over the set: its linear maximiser is known exactly."""
    v, x = several_in_l1(n=40, seed=1, box=box)
    v, threat = scale * v, L1(eps, box)
    p = threat.project(v, x)
    s = threat.step(v - p, x, eps)
    inner = ((v - p) * (s - p)).sum(1)
    assert (inner <= 1e-12 * eps * (v - p).abs().amax(1)).all()
    assert threat.contains(p, x, atol=1e-13 * eps).all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e9])
def test_l1_projection_in_float32_is_that_of_float64_and_never_outside(scale):
    v, x = several_in_l1(n=300, seed=2, dtype=torch.float32)
    threat = L1(0.7)
    found = threat.project(scale * v, x)
    exact = threat.project((scale * v).double(), x.double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, atol=2e-7, rtol=0)
    assert (found.double().abs().sum(1) <= 0.7).all()


@pytest.mark.parametrize("box", [None, (0.0, 1.0), (-2.0, 0.5)], ids=str)
@pytest.mark.parametrize("size", [0.02, 0.5, 3.0])
def test_l1_step_is_the_vertex_that_a_linear_program_finds(size, box):
    g, x = several_in_l1(seed=3, box=box)
    g[4], g[5, 1:] = 0, 0
    threat = L1(1.0, box)
    step = threat.step(g, x, size)
    lo, hi = (t.clamp(-9, 9) for t in threat.bounds(x))
    for row in range(len(x)):
        c = g[row].numpy()
        bounds = [*((0, b) for b in hi[row].tolist()), *((0, -a) for a in lo[row].tolist())]
        ones = np.ones((1, 2 * len(c)))
        best = linprog(np.concatenate([-c, c]), A_ub=ones, b_ub=[size], bounds=bounds)
        assert abs(float(g[row] @ step[row]) + best.fun) <= 1e-9
    assert (step[4] == 0).all() and (step[5, 1:] == 0).all()
    assert L1(size, box).contains(step, x, atol=1e-12).all()
    if box is None:
        assert torch.equal(step, size * threat.steepest(g)) and ((step != 0).sum(1) <= 1).all()


def test_l1_start_is_uniform_in_a_ball_of_three_dimensions():
    """``E |d_j| = eps / (n + 1)``, ``E d_j^2 = 2 eps^2 / ((n + 1)(n + 2))``, signs independent."""
    eps, n = 0.6, 3
    x = torch.zeros(100_000, n, dtype=torch.float64)
    d = L1(eps, None).sample(x, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(d.abs().mean(0), eps / (n + 1), rtol=0.02)
    np.testing.assert_allclose((d**2).mean(0), 2 * eps**2 / ((n + 1) * (n + 2)), rtol=0.03)
    assert (d.T @ d / len(d) / eps**2)[~torch.eye(n, dtype=torch.bool)].abs().max() < 0.005
    radius = d.abs().sum(1) / eps
    assert abs((radius <= 0.5).double().mean() - 0.5**n) < 0.01 and radius.max() <= 1


@pytest.mark.parametrize("box", [(0.0, 1.0), None])
@pytest.mark.parametrize("kind", [LInf, L2, L1])
def test_a_set_of_radius_zero_holds_nothing_but_zero(kind, box):
    threat = kind(0.0, box)
    x = images(threat)
    delta = 2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype) - 1
    for found in (threat.project(delta, x), threat.sample(x)):
        assert found.shape == x.shape and not found.any()
    assert threat.contains(0 * delta, x).all() and not threat.contains(delta, x).any()
