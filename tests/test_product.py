"""The product direction: three ways that agree with each other and with every mix written out."""

import itertools

import pytest
import torch
from torch import nn

from ddi import (
    MLP,
    PGD,
    SmallNet,
    chunk_gradients,
    cross_entropy,
    digits,
    directional_derivative,
    gram_matrix,
    margin_loss,
    min_norm_point,
    per_sample_gradients,
    product_point,
    sample_losses,
    steepest_descent,
)


def problem(k=4, m=3, model=None, seed=0):
    data = digits()
    torch.manual_seed(seed)
    model = (model or MLP(hidden=(6,))).double()
    x, y = data.x_train[:k].double(), data.y_train[:k]
    return (
        model,
        x,
        y,
        PGD(0.4, 0.2, 2).restarts(model, x, y, m, torch.Generator().manual_seed(seed)),
    )


def batch_gradient(model, x, y, loss=cross_entropy):
    value = loss(model(x), y).mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))])


@pytest.mark.parametrize(
    "model",
    [MLP(hidden=(6,)), MLP(hidden=(6,), norm="batch"), SmallNet(1, norm="batch"), SmallNet(1)],
)
def test_per_sample_gradients_are_autograds_one_by_one(model):
    model, x, y, deltas = problem(3, 2, model)
    model.train()
    state = {n: v.clone() for n, v in model.state_dict().items()}
    got = per_sample_gradients(model, x, y, deltas)
    assert model.training and all(torch.equal(v, state[n]) for n, v in model.state_dict().items())
    model.eval()
    for j, i in itertools.product(range(2), range(3)):
        want = batch_gradient(model, x[i : i + 1] + deltas[j, i : i + 1], y[i : i + 1])
        torch.testing.assert_close(got[j, i], want, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("chunks", [1, 2, 3, 4])
def test_chunk_gradients_sum_to_the_gradient_of_the_batch(chunks):
    model, x, y, deltas = problem()
    rows, part = chunk_gradients(model, x, y, deltas, chunks)
    assert rows.shape[:2] == (3, chunks) and sorted(set(part.tolist())) == list(range(chunks))
    sizes = part.bincount()
    assert sizes.max() - sizes.min() <= 1
    for j in range(3):
        torch.testing.assert_close(
            rows[j].sum(0), batch_gradient(model, x + deltas[j], y), atol=1e-12, rtol=1e-8
        )


def test_gram_method_is_brute_force_over_all_mixes():
    model, x, y, deltas = problem(4, 3)
    each = per_sample_gradients(model, x, y, deltas) / 4
    mixes = torch.stack(
        [
            sum(each[j, i] for i, j in enumerate(pick))
            for pick in itertools.product(range(3), repeat=4)
        ]
    )
    assert len(mixes) == 81
    brute = min_norm_point(gram_matrix(mixes)).weights @ mixes
    got = product_point(model, x, y, deltas)
    torch.testing.assert_close(got.vector, brute, atol=1e-6, rtol=0)
    torch.testing.assert_close((got.weights[..., None] * each).sum((0, 1)), got.vector)
    torch.testing.assert_close(got.weights.sum(0), torch.ones(4, dtype=x.dtype))
    groups = torch.arange(4).repeat(3)
    steepest = steepest_descent(each.flatten(0, 1), groups)
    torch.testing.assert_close(
        steepest.direction, -got.vector / got.vector.norm(), atol=1e-6, rtol=0
    )


def test_three_ways_agree():
    model, x, y, deltas = problem(5, 3)
    exact = product_point(model, x, y, deltas)
    fine = product_point(model, x, y, deltas, "chunks", chunks=5)
    torch.testing.assert_close(fine.vector, exact.vector, atol=1e-7, rtol=0)
    free = product_point(model, x, y, deltas, "matrix-free", tol=1e-4, max_iter=3000)
    assert free.gap <= 1e-4 * free.vector.square().sum()
    assert (free.vector - exact.vector).square().sum() <= free.gap + 1e-12
    each = per_sample_gradients(model, x, y, deltas) / 5
    torch.testing.assert_close(
        (free.weights[..., None] * each).sum((0, 1)), free.vector, atol=1e-10, rtol=1e-8
    )
    w = free.vector
    gap = sum(
        (free.weights[:, i] * (each[:, i] @ w)).sum() - (each[:, i] @ w).min() for i in range(5)
    )
    assert free.gap == pytest.approx(gap.item(), abs=1e-12)


def test_matrix_free_starts_from_the_first_restart_and_only_improves():
    model, x, y, deltas = problem(5, 4)
    start = product_point(model, x, y, deltas, "matrix-free", max_iter=0)
    assert (start.weights[0] == 1).all() and (start.weights[1:] == 0).all()
    torch.testing.assert_close(start.vector, batch_gradient(model, x + deltas[0], y))
    lengths = [
        product_point(model, x, y, deltas, "matrix-free", max_iter=n, tol=0.0).vector.norm()
        for n in range(6)
    ]
    assert all(b <= a for a, b in itertools.pairwise(lengths)) and lengths[-1] < lengths[0]


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_what_the_line_search_proves_is_true(steps):
    """Without the passes that measure the gap at the end, the point is the same and the two
    inequalities hold.
    """
    for seed in range(3):
        model, x, y, deltas = problem(5, 4, seed=seed)
        best = product_point(model, x, y, deltas).vector
        free = product_point(
            model, x, y, deltas, "matrix-free", max_iter=steps, tol=0.0, certify=False
        )
        same = product_point(model, x, y, deltas, "matrix-free", max_iter=steps, tol=0.0)
        assert torch.equal(free.vector, same.vector) and torch.equal(free.weights, same.weights)
        assert free.iterations == same.iterations == steps
        left = free.vector.square().sum() - best.square().sum()
        assert 0 < left <= free.gap and (free.vector - best).square().sum() <= free.gap


@pytest.mark.parametrize("options", [("gram",), ("chunks", 2), ("chunks", 5), ("matrix-free",)])
def test_losses_come_along(options):
    model, x, y, deltas = problem(5, 3)
    chunks = {"chunks": options[1]} if len(options) > 1 else {}
    point = product_point(model, x, y, deltas, options[0], **chunks)
    torch.testing.assert_close(point.losses, sample_losses(model, x, y, deltas))


def test_one_chunk_is_the_joint_direction_and_one_sample_needs_no_product():
    model, x, y, deltas = problem(4, 3)
    joint = steepest_descent(torch.stack([batch_gradient(model, x + d, y) for d in deltas]))
    one = product_point(model, x, y, deltas, "chunks", chunks=1).vector
    torch.testing.assert_close(joint.direction, -one / one.norm(), atol=1e-7, rtol=0)
    single = product_point(model, x[:1], y[:1], deltas[:, :1]).vector
    same = product_point(model, x[:1], y[:1], deltas[:, :1], "chunks", chunks=1).vector
    torch.testing.assert_close(single, same, atol=1e-9, rtol=0)


def test_product_is_never_less_steep_on_the_product_than_any_other_direction():
    for seed in range(3):
        model, x, y, deltas = problem(6, 3, seed=seed)
        each = per_sample_gradients(model, x, y, deltas) / 6
        groups, flat = torch.arange(6).repeat(3), each.flatten(0, 1)
        others = [d.sum(0) for d in each] + [each.mean(0).sum(0)]
        others += [product_point(model, x, y, deltas, "chunks", chunks=c).vector for c in (1, 2, 3)]
        slopes = [directional_derivative(flat, -w / w.norm(), groups) for w in others]
        best = steepest_descent(flat, groups).slope
        assert all(best <= s + 1e-9 for s in slopes)


def test_permuting_samples_and_perturbations_changes_nothing():
    model, x, y, deltas = problem(5, 3)
    base = product_point(model, x, y, deltas).vector
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = product_point(model, x[order], y[order], deltas[:, order].flip(0)).vector
    torch.testing.assert_close(moved, base, atol=1e-7, rtol=0)


def test_other_losses_and_float32():
    model, x, y, deltas = problem(3, 2)
    model.float()
    got = product_point(model, x.float(), y, deltas.float(), loss=margin_loss)
    assert got.vector.dtype == torch.float32 and torch.isfinite(got.vector).all()
    losses = sample_losses(model, x.float(), y, deltas.float(), margin_loss)
    torch.testing.assert_close(
        losses[1], margin_loss(model(x.float() + deltas[1].float()), y).detach()
    )


def test_shared_parameters_and_exceptions_leave_the_model_alone():
    model, x, y, deltas = problem(2, 2)
    model.train()

    def broken(logits, labels):
        raise RuntimeError("planted")

    for method in ("gram", "matrix-free"):
        with pytest.raises(RuntimeError, match="planted"):
            product_point(model, x, y, deltas, method, loss=broken)
        assert model.training and all(
            p.requires_grad and p.grad is None for p in model.parameters()
        )


@pytest.mark.parametrize(
    "change, name",
    [
        ({"method": "magic"}, "method"),
        ({"method": "chunks"}, "chunks"),
        ({"chunks": 2}, "chunks"),
        ({"method": "chunks", "chunks": 5}, "chunks"),
        ({"method": "chunks", "chunks": 0}, "chunks"),
        ({"deltas": torch.zeros(3, 4, 1, 8, 7)}, "deltas"),
        ({"deltas": torch.zeros(4, 1, 8, 8)}, "deltas"),
        ({"deltas": torch.full((3, 4, 1, 8, 8), torch.nan)}, "deltas.*finite"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, "labels"),
        ({"x": torch.zeros(0, 1, 8, 8)}, "x"),
    ],
)
def test_impossible_calls_are_refused(change, name):
    model, x, y, deltas = problem(4, 3)
    call = {"model": model, "x": x, "y": y, "deltas": deltas} | change
    with pytest.raises(ValueError, match=name):
        product_point(**call)


def test_model_without_parameters_order_is_that_of_parameters():
    """``vector`` fills ``.grad`` in the order of ``model.parameters()``."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False), nn.Linear(3, 2)).double()
    x, y = torch.rand(2, 1, 2, 2, dtype=torch.float64), torch.tensor([0, 1])
    w = product_point(model, x, y, torch.zeros(1, 2, 1, 2, 2, dtype=torch.float64)).vector
    torch.testing.assert_close(w, batch_gradient(model, x, y))
