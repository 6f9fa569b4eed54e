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
    descent_rule,
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


class TwoOutputs(MLP):
    def forward(self, x):
        return super().forward(x), 0


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


def wide(k, m):
    """Perturbations so far apart that Frank-Wolfe needs many steps."""
    model, x, y, _ = problem(k, m)
    noise = torch.rand(m, *x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    return model, x, y, 4 * noise - 2


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
    model, x, y, deltas = wide(5, 4)
    exact = product_point(model, x, y, deltas)
    fine = product_point(model, x, y, deltas, "chunks", chunks=5)
    torch.testing.assert_close(fine.vector, exact.vector, atol=1e-7, rtol=0)
    free = product_point(model, x, y, deltas, "matrix-free", tol=0.0, max_iter=7)
    assert free.iterations == 7 and ((free.weights > 0) & (free.weights < 1)).any()
    torch.testing.assert_close(free.weights.sum(0), torch.ones(5, dtype=x.dtype))
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


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_tolerance_of_matrix_free_is_relative(scale):
    """Losses a thousand times larger need as many steps, and stop within the tolerance."""
    model, x, y, deltas = wide(5, 4)
    steps = []
    for factor in (1.0, scale):
        loss = lambda z, y, factor=factor: factor * cross_entropy(z, y)  # noqa: E731
        free = product_point(model, x, y, deltas, "matrix-free", loss=loss, tol=0.03, max_iter=500)
        assert free.gap <= 0.03 * free.vector.square().sum() and 0 < free.iterations < 500
        steps.append(free.iterations)
    assert abs(steps[0] - steps[1]) <= 1


def test_matrix_free_takes_one_step_by_default():
    model, x, y, deltas = problem(5, 4)
    assert product_point(model, x, y, deltas, "matrix-free", tol=0.0).iterations == 1


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
            model, x, y, deltas, "matrix-free", max_iter=steps, tol=0.0, measure_gap=False
        )
        same = product_point(model, x, y, deltas, "matrix-free", max_iter=steps, tol=0.0)
        torch.testing.assert_close(free.vector, same.vector)
        torch.testing.assert_close(free.weights.sum(0), torch.ones(5, dtype=x.dtype))
        each = per_sample_gradients(model, x, y, deltas) / 5
        mixed = (free.weights[..., None] * each).sum((0, 1))
        torch.testing.assert_close(mixed, free.vector, atol=1e-10, rtol=1e-8)
        assert free.iterations == same.iterations == steps
        before = product_point(model, x, y, deltas, "matrix-free", max_iter=steps - 1, tol=0.0)
        fallen = before.vector.square().sum() - free.vector.square().sum()
        assert free.gap == pytest.approx((2 * before.gap - fallen).item(), rel=1e-6)
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
        ({"y": torch.zeros(3, dtype=torch.int64)}, "y must"),
        ({"y": torch.zeros(4, 1, dtype=torch.int64)}, "y must"),
        ({"y": torch.zeros(4)}, "y must"),
        ({"y": torch.tensor([0, 1, 2, 10])}, "y must be class labels from 0 to 9"),
        ({"x": [1.0]}, "x must"),
        ({"model": lambda x: x}, "model must"),
        ({"model": nn.Flatten()}, "model must have a trainable parameter"),
        ({"model": TwoOutputs().double()}, "the model's output must"),
        ({"loss": nn.functional.cross_entropy}, "loss must return one value a sample"),
        ({"loss": nn.CrossEntropyLoss}, "loss must be callable"),
        ({"method": "matrix-free", "max_iter": -1}, "max_iter"),
        ({"method": "matrix-free", "max_iter": 1.5}, "max_iter"),
        ({"method": "matrix-free", "tol": -1.0}, "tol"),
        ({"x": torch.zeros(0, 1, 8, 8)}, "x"),
    ],
)
def test_impossible_calls_are_refused(change, name):
    model, x, y, deltas = problem(4, 3)
    call = {"model": model, "x": x, "y": y, "deltas": deltas} | change
    with pytest.raises(ValueError, match=name):
        product_point(**call)


@pytest.mark.parametrize("method", ["gram", "chunks", "matrix-free"])
def test_a_loss_that_is_a_mean_is_refused_by_every_method(method):
    model, x, y, deltas = problem(4, 3)
    mean = nn.functional.cross_entropy
    chunks = {"chunks": 2} if method == "chunks" else {}
    with pytest.raises(ValueError, match="one value a sample"):
        product_point(model, x, y, deltas, method, loss=mean, **chunks)
    for function in (per_sample_gradients, sample_losses):
        with pytest.raises(ValueError, match="one value a sample"):
            function(model, x, y, deltas, mean)
    with pytest.raises(ValueError, match="one value a sample"):
        chunk_gradients(model, x, y, deltas, 2, mean)


@pytest.mark.parametrize("method", ["gram", "chunks", "matrix-free"])
def test_divergence_is_a_floating_point_error(method):
    model, x, y, deltas = problem(4, 3)
    chunks = {"chunks": 2} if method == "chunks" else {}
    with torch.no_grad():
        model[1].weight.mul_(torch.inf)
    with pytest.raises(FloatingPointError):
        product_point(model, x, y, deltas, method, **chunks)


def test_batchnorm_without_statistics_is_refused():
    model, x, y, deltas = problem(4, 2, SmallNet(1, norm="batch"))
    plain = nn.BatchNorm2d(model[1].num_features, track_running_stats=False).double()
    model[1] = plain
    for call in (
        lambda: product_point(model, x, y, deltas, "matrix-free"),
        lambda: per_sample_gradients(model, x, y, deltas),
        lambda: chunk_gradients(model, x, y, deltas, 2),
    ):
        with pytest.raises(ValueError, match="running statistics"):
            call()


class Statistics(nn.Module):
    """Normalised by hand with the batch's statistics: by its deviations, or as a ghost batch."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.first, self.head = kind, nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x):
        h = self.first(x.flatten(1))
        if self.kind == "deviation":
            h = (h - h.mean(0)) / h.std(0)
        elif self.kind == "detached":
            h = h / h.detach().abs().mean()
        elif self.kind == "largest":
            h = h / h.detach().abs().amax()
        elif self.kind == "first":
            h = h - h[:1] / 2
        elif self.kind == "sums":
            h = h.cumsum(0)
        elif self.kind == "own":
            h = h / h.abs().mean(1, keepdim=True)
        return self.head(torch.tanh(h))


@pytest.mark.parametrize("kind", ["deviation", "detached", "largest", "first", "sums"])
def test_statistics_by_hand_are_refused(kind):
    model, x, y, deltas = problem(4, 2, Statistics(kind))
    for call in (
        lambda: product_point(model, x, y, deltas, "matrix-free"),
        lambda: per_sample_gradients(model, x, y, deltas),
        lambda: descent_rule("product")(model, x, y, lambda model, x, y: 0 * x),
    ):
        with pytest.raises(ValueError, match="that sample alone"):
            call()


def test_statistics_of_one_sample_are_not_refused_and_are_looked_for_once():
    model, x, y, deltas = problem(4, 2, Statistics("own"))
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    twin = torch.cat([x[:1], x[:1], x[2:]])
    for images, passes in ((twin, 2), (x, 4), (x, 1), (x[:1], 1)):
        seen.clear()
        product_point(model, images, y[: len(images)], deltas[:, : len(images)], "chunks", chunks=1)
        assert len(seen) == passes + 2  # and one pass for each of two perturbations
    each = per_sample_gradients(model, x, y, deltas)
    torch.testing.assert_close(each[1].mean(0), batch_gradient(model, x + deltas[1], y))


@pytest.mark.parametrize("depth", [1, 6])
def test_a_transformer_in_bf16_is_not_refused(depth):
    """Without a graph torch computes it otherwise, and off by more than rounding."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    parts = nn.Flatten(1, 2), nn.Linear(8, 64), nn.TransformerEncoder(layer, depth), nn.Flatten()
    model = nn.Sequential(*parts, nn.Linear(512, 10)).bfloat16()
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(8, 1, 8, 8, generator=generator).bfloat16(), torch.arange(8)
    rule = descent_rule("product", normalize=False)
    step = rule(model, x, y, lambda model, x, y: 0 * x)
    loss = nn.functional.cross_entropy(model.eval()(x).float(), y)
    want = torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*model.parameters()])])
    assert (step.gradient.float() - want).norm() < 0.1 * want.norm()


def test_hooks_on_the_gradients_of_parameters_are_refused():
    model, x, y, deltas = problem(4, 2)
    hook = model[1].weight.register_hook(lambda gradient: 0 * gradient)
    for call in (
        lambda: product_point(model, x, y, deltas, "matrix-free"),
        lambda: per_sample_gradients(model, x, y, deltas),
    ):
        with pytest.raises(ValueError, match=r"hooks on its parameters.*got one on 1\.weight"):
            call()
    hook.remove()
    per_sample_gradients(model, x, y, deltas)


class Square(torch.autograd.Function):
    """An operator that knows its backward pass, and neither ``vmap`` nor forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient * ctx.saved_tensors[0]


class Unknown(MLP):
    def forward(self, x):
        return Square.apply(super().forward(x))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.RNN(8, 5, batch_first=True), nn.Linear(5, 10)

    def forward(self, x):
        return self.head(self.rnn(x.squeeze(1))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.layer(x.squeeze(1)).mean(1))


class Twice(nn.Module):
    """A layer with two names, one with tied weights, a parametrization, a parameter of no
    axes and an unused layer.
    """

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(64, 64)
        self.b = self.a
        self.c = nn.Linear(64, 64, bias=False)
        self.c.weight = self.a.weight
        self.d = nn.utils.parametrizations.orthogonal(nn.Linear(64, 12))
        self.unused, self.head = nn.Linear(3, 3), nn.Linear(12, 10)
        self.act = nn.PReLU()
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        z = self.act(self.b(self.act(self.a(x.flatten(1)))))
        return self.scale * self.head(self.act(self.d(self.c(z))))


@pytest.mark.filterwarnings("ignore:vmap does not know")
@pytest.mark.parametrize("kind", [Twice, Unknown, Recurrent, Attention])
def test_gradients_of_unusual_networks_and_their_objects(kind):
    model, x, y, deltas = problem(4, 2, kind())
    model.eval()
    objects = {n: id(p) for n, p in model.named_parameters(remove_duplicate=False)}
    got = per_sample_gradients(model, x, y, deltas)
    parameters = list(model.parameters())
    for j, i in itertools.product(range(2), range(4)):
        value = cross_entropy(model(x[i : i + 1] + deltas[j, i : i + 1]), y[i : i + 1]).sum()
        each = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        want = torch.cat([g.flatten() for g in each])
        torch.testing.assert_close(got[j, i], want, atol=1e-9, rtol=1e-7)
    assert {n: id(p) for n, p in model.named_parameters(remove_duplicate=False)} == objects
    parts = product_point(model, x, y, deltas, "chunks", chunks=2)
    assert torch.isfinite(parts.vector).all()
    if kind is Unknown:
        with pytest.raises(ValueError, match='"chunks" or "gram" .* forward-mode'):
            product_point(model, x, y, deltas, "matrix-free")
    else:
        free = product_point(model, x, y, deltas, "matrix-free", max_iter=3)
        rows = (free.weights[..., None] * got).sum((0, 1)) / 4
        torch.testing.assert_close(free.vector, rows, atol=1e-9, rtol=1e-6)
    assert {n: id(p) for n, p in model.named_parameters(remove_duplicate=False)} == objects
    assert all(type(p) is nn.Parameter and p.requires_grad for p in parameters)


def test_what_vmap_does_not_know_is_said():
    model, x, y, deltas = problem(4, 2, Unknown())
    with pytest.warns(RuntimeWarning, match="vmap does not know"):
        per_sample_gradients(model, x, y, deltas)


def test_the_direction_is_over_the_trainable_parameters():
    model, x, y, deltas = problem(4, 2)
    every = per_sample_gradients(model, x, y, deltas)
    first = model[1].weight
    first.requires_grad_(False)
    model.register_parameter("steps", nn.Parameter(torch.zeros(2, dtype=torch.int64), False))
    some = per_sample_gradients(model, x, y, deltas)
    torch.testing.assert_close(some, every[..., first.numel() :])
    for method in ("gram", "matrix-free"):
        vector = product_point(model, x, y, deltas, method).vector
        assert len(vector) == some.shape[-1] and not first.requires_grad and first.grad is None


def test_model_without_parameters_order_is_that_of_parameters():
    """``vector`` fills ``.grad`` in the order of ``model.parameters()``."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False), nn.Linear(3, 2)).double()
    x, y = torch.rand(2, 1, 2, 2, dtype=torch.float64), torch.tensor([0, 1])
    w = product_point(model, x, y, torch.zeros(1, 2, 1, 2, 2, dtype=torch.float64)).vector
    torch.testing.assert_close(w, batch_gradient(model, x, y))
