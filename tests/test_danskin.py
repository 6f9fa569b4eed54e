"""Danskin's quantities against brute force, difference quotients and closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddi import (
    certify,
    directional_derivative,
    gram_matrix,
    min_norm_point,
    one_sided,
    steepest_descent,
    two_sided,
)

F64 = torch.float64


def rows(n, d, seed=0, shift=0.5):
    return torch.randn(n, d, dtype=F64, generator=torch.Generator().manual_seed(seed)) + shift


def test_directional_derivative_is_the_one_sided_quotient_of_a_maximum():
    g = rows(5, 3)

    def phi(theta):
        return (
            g @ theta + 0.5 * theta.square().sum()
        ).max()  # every row is a maximiser's gradient at 0

    for seed in range(10):
        s = rows(1, 3, seed, 0)[0]
        formula = directional_derivative(g, s).item()
        assert one_sided(phi, torch.zeros(3, dtype=F64), s, 1e-7) == pytest.approx(
            formula, abs=1e-5
        )
        assert directional_derivative(g, 3 * s).item() == pytest.approx(3 * formula)


def test_directional_derivative_of_a_product_is_the_maximum_over_all_mixes():
    g, groups = rows(7, 3), torch.tensor([0, 1, 1, 0, 2, 2, 1])
    members = [g[groups == k] for k in range(3)]
    mixes = (
        members[0][:, None, None] + members[1][None, :, None] + members[2][None, None]
    ).flatten(0, 2)
    s = rows(1, 3, 9)[0]
    torch.testing.assert_close(directional_derivative(g, s, groups), (mixes @ s).max())


def test_quotients_at_a_kink():
    """``phi = |theta|``: both one-sided slopes are 1; the two-sided quotient says 0 and is no
    derivative.
    """
    zero, right = torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64)
    assert one_sided(torch.abs, zero, right, 1e-3) == one_sided(torch.abs, zero, -right, 1e-3) == 1
    assert two_sided(torch.abs, zero, right, 1e-3) == 0
    assert two_sided(lambda t: t**2 + t, right, right, 1e-3) == pytest.approx(3)


@pytest.mark.parametrize("seed", range(6))
def test_steepest_descent_beats_every_direction_of_the_circle(seed):
    g = rows(5, 2, seed)
    found = steepest_descent(g)
    angle = torch.linspace(0, 2 * math.pi, 100_001, dtype=F64)
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    best = (circle @ g.T).amax(1).min()
    if best >= 0:
        assert found.stationary
        return
    assert found.direction.norm().item() == pytest.approx(1)
    step = (
        math.pi / 100_000
    )  # half the grid's spacing: the slope is Lipschitz in the angle with constant max ||g||
    assert best - step * g.norm(dim=1).max() <= found.slope <= best + 1e-12
    assert found.slope.item() == pytest.approx(-(found.weights @ g).norm().item())
    assert directional_derivative(g, found.direction).item() == pytest.approx(found.slope.item())


@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 6), st.booleans())
@settings(max_examples=100, deadline=None)
def test_no_random_direction_descends_more_steeply(seed, n, d, product):
    g = rows(n, d, seed, 0.3)
    groups = torch.arange(n) % 3 if product else None
    found = steepest_descent(g, groups)
    s = rows(200, d, seed + 1, 0)
    s = s / s.norm(dim=1, keepdim=True)
    slopes = torch.stack([directional_derivative(g, one, groups) for one in s])
    assert (slopes >= found.slope - 1e-6 * g.norm(dim=1).max()).all()
    assert found.slope < 0 or found.stationary


@pytest.mark.parametrize("scale", [1e-150, 1e-15, 1.0, 1e15, 1e150])
def test_scale_changes_the_slope_and_nothing_else(scale):
    g = rows(4, 3, 2, 0.8)
    one, other = steepest_descent(g), steepest_descent(scale * g)
    torch.testing.assert_close(other.direction, one.direction)
    assert other.slope.item() == pytest.approx(scale * one.slope.item())


@pytest.mark.parametrize(
    "g",
    [
        torch.zeros(3, 2),
        torch.tensor([[1.0, 2.0], [-1.0, -2.0]]),
        torch.tensor([[1.0, 0.0], [-0.5, 3**0.5 / 2], [-0.5, -(3**0.5) / 2]]),
        torch.tensor([[1.0, 1.0], [0.0, 0.0]]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_stationary_points_say_so_and_never_give_nan(g, dtype, scale):
    found = steepest_descent((scale * g.double()).to(dtype))
    assert found.stationary and found.slope == 0 and (found.direction == 0).all()
    assert found.direction.dtype == dtype and torch.isfinite(found.weights).all()


@pytest.mark.parametrize("large", [1e3, 1e6, 1e9, 1e12])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_slope_is_measured_along_the_returned_direction(large, dtype):
    """Without a tolerance rounding may eat the slope; then the result says stationary."""
    g = torch.tensor([[large, 0.0], [0.0, 1.0]], dtype=dtype)
    found = steepest_descent(g, tol=0.0)
    if found.stationary:
        assert found.slope == 0 and (found.direction == 0).all()
    else:
        measured = directional_derivative(g, found.direction).item()
        assert found.slope.item() == pytest.approx(measured, rel=1e-5) and measured < 0


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_stationary_is_a_distance_of_1e_7_of_the_longest(scale):
    for distance, stationary in ((3e-7, False), (3e-8, True)):
        g = scale * torch.tensor([[1.0, distance], [-1.0, distance]], dtype=F64)
        assert steepest_descent(g).stationary == stationary
        twice, groups = torch.cat([g, g]), torch.tensor([0, 0, 1, 1])
        assert steepest_descent(twice, groups).stationary == stationary
        assert steepest_descent(g, tol=1e-5).stationary
        assert not steepest_descent(g, tol=1e-9).stationary


def test_singleton_is_the_negative_normalised_gradient():
    g = rows(1, 5)
    found = steepest_descent(g)
    torch.testing.assert_close(found.direction, -g[0] / g[0].norm())
    torch.testing.assert_close(steepest_descent(g.repeat(4, 1)).direction, found.direction)


def test_counterexample_two():
    """Each single negative gradient ascends with slope ``-<u, v>``; ``-(u + v)`` descends with
    ``-||u + v|| / 2``.
    """
    u, v = torch.tensor([1.0, 0.0], dtype=F64), torch.tensor([-0.6, 0.8], dtype=F64)
    g = torch.stack([u, v])
    assert (
        directional_derivative(g, -u).item()
        == directional_derivative(g, -v).item()
        == pytest.approx(0.6)
    )
    found = steepest_descent(g)
    torch.testing.assert_close(found.direction, -(u + v) / (u + v).norm())
    assert found.slope.item() == pytest.approx(-(u + v).norm().item() / 2)


def test_counterexample_three_joint_promises_what_the_product_denies():
    """The batch of theory: columns (1,1), (1,1) promise -sqrt 2 along -(1,1); every mix counted, it
    rises by +sqrt 2.
    """
    a, a2 = torch.tensor([[1.0, -3.0], [1.0, 5.0]], dtype=F64)
    first, second = torch.stack([a, a2]), torch.stack([a2, a])
    joint = steepest_descent((first + second) / 2)
    assert joint.slope.item() == pytest.approx(-math.sqrt(2))
    parts, groups = torch.cat([first, second]) / 2, torch.tensor([0, 0, 1, 1])
    assert directional_derivative(parts, joint.direction, groups).item() == pytest.approx(
        math.sqrt(2)
    )
    product = steepest_descent(parts, groups)
    torch.testing.assert_close(
        product.direction, torch.tensor([-1.0, 0.0], dtype=F64), atol=1e-9, rtol=0
    )
    assert product.slope.item() == pytest.approx(-1)


def test_gram_matrix_is_accumulated_in_float64_whatever_the_block():
    g = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    exact = g.double() @ g.double().T
    for block in (7, 1000, 1 << 20):
        torch.testing.assert_close(gram_matrix(g, block), exact, rtol=1e-13, atol=1e-12)
    tiny = torch.tensor(
        [[1.0, 1e-5], [1.0, -1e-5]]
    )  # float32 squares would lose the second coordinate
    assert min_norm_point(gram_matrix(tiny)).squared_norm.item() == pytest.approx(1.0)
    assert gram_matrix(tiny)[0, 0] - gram_matrix(tiny)[0, 1] == pytest.approx(2e-10, rel=1e-5)


def test_gram_matrix_of_a_batch_and_its_default_block():
    g = torch.randn(3, 4, (1 << 15) + 5, generator=torch.Generator().manual_seed(0))
    want = torch.einsum("bid,bjd->bij", g.double(), g.double())
    torch.testing.assert_close(gram_matrix(g), want, rtol=1e-12, atol=1e-9)


def test_gram_matrix_refuses_rows_whose_products_overflow():
    """What infinity minus infinity makes of them would depend on the processor."""
    g = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=F64)
    for scale in (1e160, 1e200, 1e300):
        with pytest.raises(ValueError, match="gradients must have norms of at most 1e150"):
            gram_matrix(scale * g)
    assert torch.isfinite(gram_matrix(1e149 * g)).all()
    big = gram_matrix(1e38 * g.float())
    torch.testing.assert_close(big, 2e76 * torch.eye(2, dtype=F64), rtol=1e-6, atol=1e69)
    assert (gram_matrix(1e-200 * g) == 0).all()
    assert steepest_descent(1e200 * g).slope.item() == pytest.approx(-1e200)
    for bad in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="gradients must be finite"):
            gram_matrix(torch.tensor([[bad, 0.0]]))
    for block in (0, -1, 1.0):
        with pytest.raises(ValueError, match="block"):
            gram_matrix(g, block)


@pytest.mark.parametrize("groups", [None, torch.tensor([5, 1, 5, 1, 9])])
def test_float32_gradients_give_what_float64_gives(groups):
    g = rows(5, 4, 1, 0.8)
    one, other = steepest_descent(g, groups), steepest_descent(g.float(), groups)
    assert {t.dtype for t in (other.direction, other.slope, other.weights)} == {torch.float32}
    torch.testing.assert_close(other.direction.double(), one.direction, atol=1e-5, rtol=0)
    assert other.slope.item() == pytest.approx(one.slope.item(), rel=1e-5)
    slope = directional_derivative(g.float(), one.direction.float(), groups)
    assert slope.dtype == torch.float32 and slope.item() == pytest.approx(one.slope.item(), 1e-5)


def test_quotients_take_a_millionth_by_default():
    asked = []

    def phi(theta):
        asked.append(theta.item())
        return 3 * theta

    zero, one = torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64)
    for quotient, steps in ((one_sided, [0, 1e-6]), (two_sided, [-1e-6, 1e-6])):
        asked.clear()
        assert quotient(phi, zero, one) == pytest.approx(3)
        assert sorted(asked) == pytest.approx(steps)


@pytest.mark.parametrize(
    ("dtype", "close"), [(F64, 1e-4), (torch.float32, 1e-2), (torch.bfloat16, 5)]
)
def test_quotients_have_a_length_that_their_dtype_can_bear(dtype, close):
    """The slope of ``sum x^2`` along ones is ``2 sum x = 30``; in float32 1e-6 made 28.6 of it."""
    x = torch.linspace(1, 2, 10, dtype=dtype)
    for quotient in (one_sided, two_sided):
        assert quotient(lambda x: (x**2).sum(), x, torch.ones_like(x)) == pytest.approx(
            30, abs=close
        )


@pytest.mark.parametrize("groups", [None, torch.tensor([0, 0, 1, 1])])
@pytest.mark.parametrize(
    "digits, dtype", [(9, torch.bfloat16), (12, torch.half), (25, torch.float)]
)
def test_what_is_false_by_less_than_a_digit_of_the_dtype_is_not_proved(digits, dtype, groups):
    """Slopes of ``-(1 - small)``, which the dtype rounds to -1, and a slack between the two."""
    small, count = 2.0**-digits, 1 if groups is None else 2
    g = torch.tensor([[1, small], [1.5, small]] * count).to(dtype)
    s = torch.tensor([-1.0, 1.0]).to(dtype)
    radius = (1 - small / 4) / math.sqrt(2)  # times ||s||: almost 1
    found = certify(g, s, 1.0, radius, groups)
    assert found.bound == pytest.approx(count * 0.75 * small) and not found.descends
    proved = certify(g, s, 1.0, radius * (1 - small), groups)
    assert proved.bound == pytest.approx(-count * (0.25 * small - small**2 / 4)) and proved.descends
    rounded = directional_derivative(g, s, groups)
    assert rounded.dtype == dtype and rounded == -count


def test_a_slope_in_float16_is_that_of_float64_rounded_once():
    """Products of 300 by 250, which float16 does not hold, and a sum that it does."""
    g = torch.tensor([[300.0, 300.0], [290.0, 310.0]]).half()
    s = torch.tensor([250.0, -249.0]).half()
    assert directional_derivative(g, s).item() == 300
    found, exact = steepest_descent(g), steepest_descent(g.double())
    assert found.slope.item() == pytest.approx(exact.slope.item(), rel=1e-3)
    torch.testing.assert_close(found.direction.double(), exact.direction, atol=5e-4, rtol=0)


def test_small_entries_of_float16_gradients_keep_their_digits():
    """What all have in common is a six millionth of the largest, and float16 has no such number."""
    found = steepest_descent(torch.tensor([[60000.0, 0.01], [-60000.0, 0.01]]).half(), tol=0.0)
    assert found.slope.item() == pytest.approx(-0.01, rel=1e-3)
    assert found.direction.tolist() == [pytest.approx(0, abs=1e-3), -1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_slope_of_nearly_opposite_gradients_is_theirs(dtype):
    """Gradients a thousand times as long as their hull is far from 0: what the direction loses in
    rounding is in the slope, and nothing else is.
    """
    slopes = []
    for seed in range(50):
        u, v = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed))
        g = (1000 * torch.stack([u, -u]) + torch.stack([v, v])).to(dtype)
        found = steepest_descent(g, tol=0.0)
        measured = directional_derivative(g.double(), found.direction.double()).item()
        rounded_once = pytest.approx(measured, rel=torch.finfo(dtype).eps / 2 + 1e-9, abs=1e-7)
        assert found.stationary or found.slope.item() == rounded_once
        slopes.append(found.slope.item())
    assert sorted(slopes)[25] < -0.5


# --------------------------------------------------------------------------------------------------


def circle_problem(n, c=2.0, R=1.0):
    """``g = <theta, c + R (cos d, sin d)>`` at 0: every angle ties; n midpoints are a net of radius
    pi / n.
    """
    angle = (torch.arange(n, dtype=F64) + 0.5) * 2 * math.pi / n
    return torch.stack([c + R * angle.cos(), R * angle.sin()], 1), math.pi / n


@pytest.mark.parametrize("n", [2, 3, 5, 10, 50, 1000])
def test_certificate_bounds_the_true_slope_of_a_continuum(n):
    net, radius = circle_problem(n)
    dense, _ = circle_problem(200_001)
    found = steepest_descent(net)
    for s in (
        found.direction,
        torch.tensor([-1.0, 0.0], dtype=F64),
        torch.tensor([0.3, -2.0], dtype=F64),
    ):
        got = certify(net, s, lipschitz=1.0, radius=radius)
        true = directional_derivative(dense, s).item()
        assert got.bound >= true - 1e-9
        assert got.bound == pytest.approx(
            directional_derivative(net, s).item() + radius * s.norm().item()
        )
    if n >= 10:
        assert certify(net, found.direction, 1.0, radius).descends


def test_certificate_needs_a_strict_inequality():
    g = torch.tensor([[1.0, 0.0]], dtype=F64)
    assert not certify(g, torch.tensor([-1.0, 0.0], dtype=F64), 1.0, 1.0).descends
    assert certify(g, torch.tensor([-1.0, 0.0], dtype=F64), 1.0, 0.999).descends


def test_per_sample_certificate_bounds_the_product_slope():
    one, radius = circle_problem(12)
    two, _ = circle_problem(12, 1.0, 0.5)
    net, groups = torch.cat([one, two]) / 2, torch.arange(2).repeat_interleave(12)
    dense = torch.cat([circle_problem(10_000)[0], circle_problem(10_000, 1.0, 0.5)[0]]) / 2
    s = torch.tensor([-0.8, 0.6], dtype=F64)
    got = certify(net, s, torch.tensor([0.5, 0.25]), radius, groups)
    true = directional_derivative(dense, s, torch.arange(2).repeat_interleave(10_000)).item()
    assert true <= got.bound <= true + 2 * 0.75 * radius
    assert got.bound == pytest.approx(directional_derivative(net, s, groups).item() + 0.75 * radius)


@pytest.mark.parametrize("many", [False, True])
def test_the_slack_counts_once_a_group(many):
    g, groups = rows(7, 3), torch.tensor([0, 1, 1, 0, 2, 2, 1])
    s, L, r = rows(1, 3, 9)[0], 0.5, 0.25
    lipschitz, radius = (torch.full((3,), L), torch.full((3,), r)) if many else (L, r)
    want = directional_derivative(g, s, groups).item() + 3 * L * r * s.norm().item()
    assert certify(g, s, lipschitz, radius, groups).bound == pytest.approx(want)
    assert certify(g, s, torch.tensor(L), radius, groups).bound == pytest.approx(want)


@pytest.mark.parametrize(
    "lipschitz, radius, name",
    [
        (-1.0, 0.1, "lipschitz"),
        (1.0, float("nan"), "radius"),
        (torch.ones(2), 0.1, "lipschitz"),
        (1.0, -0.1, "radius"),
        (torch.tensor([-1.0]), 0.1, "lipschitz"),
        (1.0, torch.tensor([torch.inf]), "radius"),
        ("1", 0.1, "lipschitz"),
    ],
)
def test_impossible_certificates_are_refused(lipschitz, radius, name):
    with pytest.raises(ValueError, match=name):
        certify(torch.ones(3, 2), torch.ones(2), lipschitz, radius)


@pytest.mark.parametrize(
    "g, options, name",
    [
        (torch.ones(2), {}, "gradients"),
        (torch.ones(0, 3), {}, "gradients"),
        (torch.tensor([[1.0, torch.nan]]), {}, "gradients.*finite"),
        (torch.ones(2, 2, dtype=torch.int64), {}, "gradients.*floating"),
        (torch.ones(2, 2), {"groups": torch.zeros(3, dtype=torch.int64)}, "groups"),
        (torch.ones(2, 2), {"groups": torch.zeros(2)}, "groups"),
        (torch.ones(2, 2), {"tol": -1.0}, "tol"),
        (torch.ones(2, 2), {"method": "magic"}, "method"),
    ],
)
def test_impossible_gradients_are_refused(g, options, name):
    with pytest.raises(ValueError, match=name):
        steepest_descent(g, **options)


def test_impossible_directions_are_refused():
    with pytest.raises(ValueError, match="direction"):
        directional_derivative(torch.ones(2, 3), torch.ones(2))
    with pytest.raises(ValueError, match="direction"):
        directional_derivative(torch.ones(2, 3), torch.tensor([1.0, torch.nan, 0.0]))
    for quotient in (one_sided, two_sided):
        with pytest.raises(ValueError, match="t must"):
            quotient(torch.abs, torch.zeros(1), torch.ones(1), 0.0)


def test_a_slope_that_rounding_has_eaten_is_none():
    """In bfloat16 the direction is rounded by as much as two nearly opposite gradients differ."""
    slopes = []
    for seed in range(100):
        u, p = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed))
        found = steepest_descent(torch.stack([u, -u + 0.004 * p]).bfloat16())
        assert found.slope <= 0 and found.stationary == (found.slope == 0)
        assert found.stationary == (not found.direction.any())
        slopes.append(found.slope.item())
    assert min(slopes) < 0
