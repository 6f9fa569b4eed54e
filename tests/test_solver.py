"""Simplex projection and the quadratic problem over simplices: optimality, closed forms, brute
force, extreme scales.
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from ddi import bundle, min_norm_point, min_norm_product, project_simplex

METHODS = ["exact", "apg", "frank-wolfe"]
F64 = torch.float64


def vectors(m, d, seed=0, batch=()):
    return torch.randn(*batch, m, d, dtype=F64, generator=torch.Generator().manual_seed(seed))


def gram(v):
    return v @ v.mT


def certificate(G, a, c=0.0):
    """Frank-Wolfe gap over one simplex, from its definition."""
    r = (G @ a.unsqueeze(-1)).squeeze(-1) - c
    return (a * r).sum(-1) - r.amin(-1)


# -------------------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=12),
    st.sampled_from([1e-15, 1e-3, 1.0, 1e15]),
    st.sampled_from([1e-3, 1.0, 40.0]),
)
@settings(max_examples=200, deadline=None)
def test_projection_satisfies_the_kkt_conditions(values, scale, radius):
    """``a = max(v - t, 0)`` with one ``t``, and the entries sum to the radius."""
    v = scale * torch.tensor(values, dtype=F64)
    a = project_simplex(v, radius)
    size = max(v.abs().max().item(), radius)
    assert (a >= 0).all() and abs(a.sum().item() - radius) <= 1e-12 * radius
    threshold = (v - a)[a > 0]
    assert threshold.max() - threshold.min() <= 1e-12 * size
    assert (v[a == 0] <= threshold.max() + 1e-12 * size).all()


def test_projection_by_hand_and_by_brute_force():
    torch.testing.assert_close(project_simplex(torch.tensor([0.5, 0.3])), torch.tensor([0.6, 0.4]))
    torch.testing.assert_close(
        project_simplex(torch.tensor([5.0, 1.0, 1.0])), torch.tensor([1.0, 0.0, 0.0])
    )
    assert torch.equal(project_simplex(torch.tensor([7.0]), 3.0), torch.tensor([3.0]))
    v = vectors(5, 3)
    grid = (
        torch.tensor(
            [p for p in itertools.product(range(201), repeat=3) if sum(p) == 200], dtype=F64
        )
        / 200
    )
    nearest = ((v[:, None] - grid) ** 2).sum(-1).argmin(1)
    torch.testing.assert_close(project_simplex(v), grid[nearest], atol=6e-3, rtol=0)


def test_projection_is_idempotent_and_commutes_with_permutations_and_shifts():
    v = vectors(4, 7)
    a = project_simplex(v)
    torch.testing.assert_close(project_simplex(a), a)
    torch.testing.assert_close(project_simplex(v + 3), a)
    torch.testing.assert_close(project_simplex(v.flip(-1)), a.flip(-1))
    assert project_simplex(v.float()).dtype == torch.float32


@pytest.mark.parametrize(
    "v", [torch.tensor([]), torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.inf]), [1.0]]
)
def test_projection_refuses_what_it_cannot_project(v):
    with pytest.raises(ValueError, match="^v must"):
        project_simplex(v)


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan")])
def test_projection_refuses_an_impossible_radius(radius):
    with pytest.raises(ValueError, match="radius"):
        project_simplex(torch.ones(2), radius)


# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("m, d", [(1, 3), (2, 1), (5, 2), (10, 4), (10, 50), (30, 12)])
def test_every_method_is_optimal_to_its_tolerance(method, linear, m, d):
    v = vectors(m, d, batch=(3,)) + 0.3
    G = gram(v)
    c = vectors(m, 3, 1).mT if linear else None
    got = min_norm_point(G, c, method)
    scale = torch.maximum(
        G.abs().amax((-2, -1)), torch.tensor(0.0 if c is None else (c.amax() - c.amin()).item())
    )
    gap = certificate(G, got.weights, 0.0 if c is None else c)
    assert got.converged.all()
    assert (gap <= (1e-10 if method == "exact" else 1.001e-6) * scale).all()
    torch.testing.assert_close(got.gap, gap, atol=1e-13 * scale.max().item(), rtol=1e-6)
    torch.testing.assert_close(got.weights.sum(-1), torch.ones(3, dtype=F64))
    assert (got.weights >= 0).all()
    point = (got.weights.unsqueeze(-2) @ v).squeeze(-2)
    torch.testing.assert_close(got.squared_norm, point.square().sum(-1), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("linear", [False, True])
def test_exact_agrees_with_a_generic_convex_solver(linear):
    for seed in range(8):
        v = vectors(6, 3, seed) + 0.5
        G, c = gram(v), vectors(1, 6, 100 + seed)[0] if linear else torch.zeros(6, dtype=F64)

        def objective(a, G=G, c=c):
            return 0.5 * a @ G.numpy() @ a - c.numpy() @ a, G.numpy() @ a - c.numpy()

        free = [(0, None)] * 6
        one = {"type": "eq", "fun": lambda a: a.sum() - 1}
        peer = minimize(objective, [1 / 6] * 6, jac=True, bounds=free, constraints=one, tol=1e-14)
        a = min_norm_point(G, c).weights
        assert objective(a.numpy())[0] <= peer.fun + 1e-8
        assert objective(a.numpy())[0] >= peer.fun - 1e-6


def test_two_vectors_closed_form():
    """``alpha = clip(<g2 - g1, g2> / ||g2 - g1||^2)`` on the segment."""
    for seed in range(50):
        v = vectors(2, 3, seed)
        a = ((v[1] - v[0]) @ v[1] / (v[1] - v[0]).square().sum()).clamp(0, 1)
        got = min_norm_point(gram(v)).weights
        torch.testing.assert_close(got, torch.stack([a, 1 - a]), atol=1e-9, rtol=0)


def test_orthogonal_vectors_closed_form():
    norms = torch.tensor([1.0, 2.0, 0.5, 10.0], dtype=F64)
    got = min_norm_point(torch.diag(norms**2))
    torch.testing.assert_close(got.weights, norms**-2 / (norms**-2).sum())
    torch.testing.assert_close(got.squared_norm, 1 / (norms**-2).sum())


DEGENERATE = {
    "one": torch.tensor([[2.0, 1.0]]),
    "zero among others": torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]),
    "all zero": torch.zeros(4, 3),
    "duplicates": torch.tensor([[1.0, 1.0]] * 5 + [[1.0, -1.0]] * 4),
    "opposite": torch.tensor([[1.0, 2.0], [-1.0, -2.0]]),
    "three at 120 degrees": torch.tensor([[1.0, 0.0], [-0.5, 3**0.5 / 2], [-0.5, -(3**0.5) / 2]]),
    "0 inside, rank 2 of 12": torch.randn(12, 2, generator=torch.Generator().manual_seed(0)),
    "collinear": torch.arange(1.0, 9.0)[:, None] * torch.tensor([[1.0, 1.0]]),
    "norms 100 apart": torch.tensor([[100.0, 1.0], [-0.01, 1.0], [1.0, 0.01]]),
    "cosines .9999": 1 + 0.01 * torch.randn(10, 6, generator=torch.Generator().manual_seed(1)),
}
IN_HULL = {
    "zero among others",
    "all zero",
    "opposite",
    "three at 120 degrees",
    "0 inside, rank 2 of 12",
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1.0, 1e15, 1e30])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_degenerate_inputs_at_every_scale(case, scale, dtype):
    G = (gram(DEGENERATE[case].double()) * scale).to(dtype)
    got = min_norm_point(G)
    assert torch.isfinite(got.weights).all() and got.weights.dtype == dtype
    largest = G.double().abs().max()
    gap = certificate(G.double(), got.weights.double())
    assert gap <= (1e-10 if dtype == F64 else 1e-6) * largest
    assert got.converged
    assert got.gap >= 0 and got.squared_norm >= 0
    if case in IN_HULL:
        assert got.squared_norm <= 1e-6 * largest
    else:
        assert got.squared_norm > 1e-6 * largest


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 8), st.integers(0, 3))
@settings(max_examples=120, deadline=None)
def test_exact_is_exact_on_random_problems(seed, m, d, spread):
    g = torch.Generator().manual_seed(seed)
    v = torch.randn(m, d, dtype=F64, generator=g) * 10.0 ** (
        spread * torch.rand(m, 1, dtype=F64, generator=g)
    )
    v = v[torch.randint(m, (m,), generator=g)]  # with duplicates
    G = gram(v)
    got = min_norm_point(G)
    assert certificate(G, got.weights) <= 1e-10 * G.abs().max() and got.converged


def test_a_batch_is_its_problems():
    v = vectors(7, 4, batch=(5, 3)) * torch.tensor([1e-8, 1.0, 1e6], dtype=F64).view(1, 3, 1, 1)
    G = gram(v)
    for method in METHODS:
        whole = min_norm_point(G, method=method)
        assert whole.weights.shape == (5, 3, 7) and whole.gap.shape == (5, 3)
        for i, j in itertools.product(range(5), range(3)):
            alone = min_norm_point(G[i, j], method=method)
            apart = ((whole.weights[i, j] - alone.weights) @ v[i, j]).square().sum()
            assert apart <= 2 * (1e-10 if method == "exact" else 1e-6) * G[i, j].abs().max()


@pytest.mark.parametrize("method", METHODS)
def test_invariances(method):
    """Order, rotation, scaling and duplicated vectors change nothing in the point; a constant in
    ``c`` neither.
    """
    v = vectors(6, 4) + 0.5
    c = vectors(1, 6, 2)[0]
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    options = dict(method=method, tol=1e-9, max_iter=200_000)
    base = min_norm_point(gram(v), **options)
    point = base.weights @ v
    again = min_norm_point(gram(v[order]), **options).weights @ v[order]
    torch.testing.assert_close(again, point, atol=1e-4, rtol=0)
    twice = torch.cat([v, v[:3]])
    torch.testing.assert_close(
        min_norm_point(gram(twice), **options).weights @ twice, point, atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        min_norm_point(1e8 * gram(v), **options).weights, base.weights, atol=1e-5, rtol=0
    )
    shifted = min_norm_point(gram(v), c + 5, **options).weights
    torch.testing.assert_close(
        shifted, min_norm_point(gram(v), c, **options).weights, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("shift", [0.5, 2.0], ids=["0 in the hull", "0 outside"])
@pytest.mark.parametrize("method", METHODS)
def test_certificate_bounds_hold(method, shift):
    v = vectors(10, 4) + shift
    best = min_norm_point(gram(v)).weights @ v
    for most in (1, 2, 5, 20):
        got = min_norm_point(gram(v), method=method, tol=0.0, max_iter=most)
        w = got.weights @ v
        assert w @ w - best @ best <= 2 * got.gap + 1e-12
        assert (w - best).square().sum() <= got.gap + 1e-12
        if got.squared_norm > 1e-9 * gram(v).max():  # else 0 is in the hull, and rounding decides
            assert bool(((v @ w) > 0).all()) == bool(got.gap < got.squared_norm)


def test_iterative_methods_say_when_they_did_not_converge():
    G = gram(vectors(20, 10))
    for method in ("apg", "frank-wolfe"):
        got = min_norm_point(G, method=method, tol=1e-12, max_iter=3)
        assert not got.converged and got.iterations == 3


def test_frank_wolfe_never_goes_up():
    """Every iterate is feasible and no worse than the one before: steps end at the boundary, not
    beyond it.
    """
    for seed in range(5):
        G = gram(vectors(8, 4, seed) + 0.5)
        values = [
            min_norm_point(G, method="frank-wolfe", tol=0.0, max_iter=n).squared_norm
            for n in range(1, 25)
        ]
        assert all(b <= a + 1e-12 for a, b in itertools.pairwise(values))


def hard(seed):
    """A product with losses that the exact method takes several iterations for."""
    k, m, d = 12, 5, 30
    groups = torch.arange(k).repeat(m)
    return gram(vectors(k * m, d, seed)), groups, 30 * vectors(1, k * m, 50 + seed)[0]


def wandering(seed):
    """One simplex with losses, on which the gap of the exact method's iterates also goes up."""
    groups = torch.zeros(60, dtype=torch.int64)
    return gram(vectors(60, 20, seed) + 0.5), groups, 2 * vectors(1, 60, 50 + seed)[0]


@pytest.mark.parametrize("problem", [hard, wandering])
def test_exact_returns_its_best_iterate(problem):
    """More iterations never give a larger gap."""
    for seed in range(20):
        G, groups, c = problem(seed)
        found = [min_norm_product(G, groups, c, tol=0.0, max_iter=n) for n in range(1, 15)]
        gaps = [point.gap.item() for point in found]
        assert all(b <= a + 1e-12 for a, b in itertools.pairwise(gaps))


def test_exact_says_when_it_did_not_converge():
    seen = set()
    for seed in range(20):
        G, groups, c = hard(seed)
        got = min_norm_product(G, groups, c, max_iter=1)
        spread = max((c[groups == g].max() - c[groups == g].min()).item() for g in range(12))
        share = got.gap.item() / max(G.abs().max().item(), spread)
        if not 1e-11 < share < 1e-9:  # too near to call
            assert bool(got.converged) == (share <= 1e-10)
            seen.add(bool(got.converged))
        assert min_norm_product(G, groups, c).converged
    assert False in seen


def test_accelerated_is_faster_than_plain_projected_gradient():
    v = vectors(12, 12) * torch.logspace(0, -2, 12, dtype=F64) + torch.eye(12, dtype=F64)[0]
    G = gram(v)
    fast = min_norm_point(G, method="apg")
    a, step, plain = torch.full((12,), 1 / 12, dtype=F64), 1 / torch.linalg.eigvalsh(G)[-1], 0
    while certificate(G, a) > 1e-6 * G.max() and plain < 20_000:
        a, plain = project_simplex(a - step * (G @ a)), plain + 1
    assert fast.converged and plain > 300 and 0 < fast.iterations < plain / 3


@pytest.mark.parametrize("method", ["apg", "frank-wolfe"])
def test_ten_thousand_iterations_are_taken_by_default(method):
    G = gram(vectors(30, 30, 3) * torch.logspace(0, -3, 30, dtype=F64) + 1e-2)
    got = min_norm_point(G, method=method, tol=1e-30)
    assert got.iterations == 10_000 and not got.converged


def test_a_constant_in_the_losses_changes_nothing_however_large():
    v, c = vectors(6, 4) + 0.5, vectors(1, 6, 2)[0]
    for method in METHODS:
        base, far = (min_norm_point(gram(v), c + shift, method) for shift in (0.0, 1e9))
        torch.testing.assert_close(far.weights, base.weights, atol=1e-4, rtol=0)
        assert far.converged and far.gap <= 2e-6 * gram(v).max()


@pytest.mark.parametrize("method", ["apg", "frank-wolfe"])
def test_with_a_large_loss_the_gap_to_reach_is_larger(method):
    """One loss is 10^4 units of the matrix below the others: that is what the tolerance is of."""
    v, c = vectors(8, 4) + 0.5, 0.1 * vectors(1, 8, 2)[0]
    G = gram(v)
    c[7] -= 1e4 * G.max()
    got = min_norm_point(G, c, method, tol=1e-6)
    assert got.converged and 1e-5 * G.max() < got.gap <= 1.01e-2 * G.max()
    few = min_norm_point(G, c, method, tol=1e-12)
    assert few.converged and few.gap <= 1.01e-8 * G.max()


@pytest.mark.parametrize("method", METHODS)
def test_tolerance_is_relative_to_the_losses_where_these_are_larger(method):
    v, c = vectors(6, 4) + 0.5, 1e12 * vectors(1, 6, 2)[0]
    got = min_norm_point(gram(v), c, method)
    gap = certificate(gram(v), got.weights, c)
    assert got.converged
    assert gap <= (1e-10 if method == "exact" else 1e-6) * (c.max() - c.min())


def test_the_matrix_is_symmetrised():
    """An antisymmetric part as large as the matrix changes nothing: only ``a'Ga`` counts."""
    v = vectors(6, 2)
    G = gram(v)
    K = G.abs().max() * torch.triu(torch.ones(6, 6, dtype=F64), 1)
    base, other = min_norm_point(G), min_norm_point(G + K - K.mT)
    torch.testing.assert_close(other.weights @ v, base.weights @ v, atol=1e-5, rtol=0)
    torch.testing.assert_close(other.squared_norm, base.squared_norm, atol=1e-9, rtol=0)


def test_float32_matrices_and_their_rounding_are_accepted():
    v = vectors(9, 2) + 0.5
    groups = torch.tensor([0, 1, 2] * 3)
    exact = min_norm_product(gram(v), groups)
    got = min_norm_product(gram(v).float(), groups, torch.zeros(9))
    assert got.converged and {got.weights.dtype, got.gap.dtype} == {torch.float32}
    assert got.squared_norm.item() == pytest.approx(exact.squared_norm.item(), abs=1e-4)


REFUSED = {
    "not square": (torch.ones(2, 3, dtype=F64), "square"),
    "vector": (torch.ones(3, dtype=F64), "axes"),
    "empty": (torch.ones(0, 0, dtype=F64), "non-empty"),
    "NaN": (torch.full((2, 2), torch.nan, dtype=F64), "finite"),
    "infinite": (torch.full((2, 2), torch.inf, dtype=F64), "finite"),
    "integers": (torch.eye(2, dtype=torch.int64), "floating"),
    "list": ([[1.0]], "floating"),
    "indefinite": (torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=F64), "semidefinite"),
    "negative": (-torch.eye(2, dtype=F64), "semidefinite"),
    "slightly indefinite": (torch.diag(torch.tensor([1.0, -1e-6], dtype=F64)), "semidefinite"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("product", [False, True])
def test_impossible_gram_matrices_are_refused(case, product):
    G, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"gram.*{message}"):
        min_norm_product(G, torch.zeros(2, dtype=torch.int64)) if product else min_norm_point(G)


@pytest.mark.parametrize(
    "options, name",
    [
        ({"method": "simplex"}, "method"),
        ({"tol": -1.0}, "tol"),
        ({"max_iter": 0}, "max_iter"),
        ({"max_iter": -1}, "max_iter"),
        ({"max_iter": 2.0}, "max_iter"),
        ({"max_iter": True}, "max_iter"),
        ({"linear": torch.ones(2, 2, dtype=F64)}, "linear"),
        ({"linear": torch.tensor([1, 2])}, "linear"),
        ({"groups": torch.tensor([True, False])}, "groups"),
        ({"linear": torch.ones(3, dtype=F64)}, "linear"),
        ({"linear": torch.tensor([1.0, torch.nan])}, "linear"),
        ({"groups": torch.zeros(3, dtype=torch.int64)}, "groups"),
        ({"groups": torch.zeros(2)}, "groups"),
    ],
)
def test_impossible_options_are_refused(options, name):
    solve = min_norm_product if "groups" in options else min_norm_point
    with pytest.raises(ValueError, match=name):
        solve(torch.eye(2, dtype=F64), **options)


# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(4))
def test_sum_of_hulls_is_the_hull_of_all_mixes(method, seed):
    """Brute force: one column for each of the 2 * 3 * 4 mixes, then the one-simplex problem."""
    v = vectors(9, 3, seed) + 0.4
    groups = torch.tensor([7, 7, 2, 2, 2, 5, 5, 5, 5])[
        torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    ]
    members = [(groups == g).nonzero().squeeze(-1).tolist() for g in (2, 5, 7)]
    mixes = torch.stack([v[list(pick)].sum(0) for pick in itertools.product(*members)])
    brute = min_norm_point(gram(mixes)).weights @ mixes
    got = min_norm_product(gram(v), groups, method=method, tol=1e-9, max_iter=100_000)
    torch.testing.assert_close(got.weights @ v, brute, atol=2e-4, rtol=0)
    for ids in members:
        assert abs(got.weights[ids].sum() - 1) < 1e-12
    w = got.weights @ v
    gap = sum((got.weights[ids] * (v[ids] @ w)).sum() - (v[ids] @ w).min() for ids in members)
    torch.testing.assert_close(got.gap, gap, atol=1e-11, rtol=1e-6)


@pytest.mark.parametrize("k, m, d", [(1, 5, 3), (8, 1, 4), (16, 5, 8), (30, 4, 60), (20, 6, 1)])
def test_products_of_many_simplices_are_solved_exactly(k, m, d):
    v = vectors(k * m, d)
    groups = torch.arange(k).repeat(m)
    got = min_norm_product(gram(v), groups)
    assert got.converged and got.gap <= 1e-10 * gram(v).abs().max()


# --------------------------------------------------------------------------------------------------


def test_bundle_solves_the_primal_step():
    """``min_s max_j (l_j + <g_j, s>) + |s|^2 / 2t``: primal value at ``-tMa`` equals the dual
    value.
    """
    for seed in range(5):
        v, values = vectors(6, 4, seed), vectors(1, 6, 50 + seed)[0]
        for t in (1e-3, 0.3, 1e3):
            a = bundle(gram(v), values, t).weights
            s = -t * (a @ v)
            primal = (values + v @ s).max() + s @ s / (2 * t)
            dual = a @ values - t / 2 * (a @ v) @ (a @ v)
            torch.testing.assert_close(primal, dual, atol=1e-8 * max(1, t), rtol=1e-8)


def test_bundle_tends_to_max_and_to_ddi():
    v, values = vectors(6, 4) + 0.5, vectors(1, 6, 1)[0]
    assert bundle(gram(v), values, 1e-9).weights[values.argmax()] > 1 - 1e-9
    ddi = min_norm_point(gram(v)).weights @ v
    torch.testing.assert_close(bundle(gram(v), values, 1e9).weights @ v, ddi, atol=1e-6, rtol=0)
    tied = bundle(gram(v), torch.full((6,), 3.0, dtype=F64), 0.1).weights @ v
    torch.testing.assert_close(tied, ddi, atol=1e-9, rtol=0)


def test_bundle_of_groups_solves_the_primal_step_of_their_sum():
    """``min_s sum_groups max_j (l_j + <g_j, s>) + |s|^2 / 2t`` at ``-tMa``, for float32 too."""
    groups, t = torch.tensor([3, 1, 1, 3, 2, 2, 2]), 0.3
    v, values = vectors(7, 4), 2 * vectors(1, 7, 50)[0]
    for dtype, room in ((F64, 1e-8), (torch.float32, 1e-4)):
        got = bundle(gram(v).to(dtype), values.to(dtype), t, groups)
        assert got.weights.dtype == dtype
        a = got.weights.double()
        s = -t * (a @ v)
        tops = sum((values + v @ s)[groups == g].max() for g in (1, 2, 3))
        primal, dual = tops + s @ s / (2 * t), a @ values - t / 2 * (a @ v) @ (a @ v)
        torch.testing.assert_close(primal, dual, atol=room, rtol=0)


def test_gap_of_the_bundle_is_that_of_the_dual_over_t():
    G, groups, values = hard(0)
    one, other = bundle(G, values, 0.5, groups), min_norm_product(G, groups, values / 0.5)
    torch.testing.assert_close(one.weights, other.weights, atol=1e-9, rtol=0)
    a = torch.full((60,), 1 / 5, dtype=F64)
    r = G @ other.weights - values / 0.5
    parts = [(other.weights * r)[groups == g].sum() - r[groups == g].min() for g in range(12)]
    assert one.gap.item() == pytest.approx(sum(parts).item(), abs=1e-8 * G.max().item())
    assert one.squared_norm.item() == pytest.approx((one.weights @ G @ one.weights).item())
    assert (one.weights - a).abs().max() > 0.1


@pytest.mark.parametrize("t", [0.0, -1.0, float("inf")])
def test_bundle_refuses_an_impossible_step(t):
    with pytest.raises(ValueError, match="t must"):
        bundle(torch.eye(2, dtype=F64), torch.zeros(2, dtype=F64), t)


def test_bundle_refuses_losses_that_overflow():
    with pytest.raises(ValueError, match="t must"):
        bundle(torch.eye(2, dtype=F64), torch.tensor([1e10, 0.0]), 1e-300)
    with pytest.raises(ValueError, match="values must"):
        bundle(torch.eye(2, dtype=F64), torch.tensor([torch.nan, 0.0]), 1.0)


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_exact_stops_where_rounding_lets_it_go_no_further(size):
    """Each problem of a batch at its own time."""
    v, c = vectors(6, 40, batch=(32,)) + 0.5, size * vectors(32, 6, 1)
    got = min_norm_point(gram(v), c, tol=0.0, max_iter=3000)
    assert got.converged.all() and got.iterations < 300


@pytest.mark.parametrize("method", METHODS)
def test_a_squared_norm_is_never_negative(method):
    """Along the weights (1/2, 1/2) this matrix is negative by what is accepted as rounding."""
    edge = -1 - 1e-11
    G = torch.tensor([[1.0, edge], [edge, 1.0]], dtype=F64)
    assert min_norm_point(G, method=method).squared_norm == 0


def test_frank_wolfe_starts_at_the_best_vertex():
    for c in (0.0, 1.0):
        G, c = gram(vectors(8, 4) + 0.5), c * vectors(1, 8, 2)[0]
        got = min_norm_point(G, c, "frank-wolfe", tol=1e9)
        assert got.iterations == 0
        assert got.weights.argmax() == (G.diagonal() / 2 - c).argmin() and got.weights.max() == 1
