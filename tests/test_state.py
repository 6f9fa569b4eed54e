"""A model is left exactly as it was found; where it must move, it moves once."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from ddi import (
    MLP,
    PGD,
    SAM,
    SmallNet,
    clean_accuracy,
    descent_rule,
    frozen,
    moved,
    robust_accuracy,
)
from ddi.state import Precision, call, eager, once, trainable

_COPY = moved._copy
X, Y = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8)


class Everything(nn.Module):
    """A model that moves whatever a model can carry, in every forward pass, and fails on demand."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = MLP(hidden=(16,), norm="batch")
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mask", torch.ones(1).expand(10))
        self.register_buffer("nothing", None)
        self.plain = torch.zeros(3)
        self.noise = torch.Generator().manual_seed(3)
        self.passes, self.fail_at = 0, None

    def forward(self, x):
        self.passes += 1
        self.calls += 1
        self.seen = self.seen + 1
        self.plain += 1
        x = x + 0.01 * torch.randn(x.shape, generator=self.noise)
        if self.fail_at == self.passes:
            raise ArithmeticError("planted")
        return self.body(self.dropout(x)) * self.mask


def everything(model):
    """What ``frozen`` promises to keep: objects by identity, values by value."""
    tensors = [*model.parameters(), *model.buffers(), model.plain]
    objects = [id(t) for t in tensors] + [id(p.grad) for p in model.parameters()]
    values = [t.detach().clone() for t in tensors]
    flags = [m.training for m in model.modules()] + [p.requires_grad for p in model.parameters()]
    return objects, flags, values, model.noise.get_state()


def same(a, b):
    equal = all(torch.equal(u, v) for u, v in zip(a[2], b[2], strict=True))
    return a[:2] == b[:2] and equal and torch.equal(a[3], b[3])


JOBS = {
    "attack": lambda m: PGD(0.1, 0.05, 3)(m, X, Y),
    "best": lambda m: PGD(0.1, 0.05, 3, keep="best")(m, X, Y),
    "restarts": lambda m: PGD(0.1, 0.05, 3).restarts(m, X, Y, 2, batch_size=5),
    "clean": lambda m: clean_accuracy(m, X, Y, 2),
    "robust": lambda m: robust_accuracy(m, X, Y, PGD(0.1, 0.05, 1), restarts=3, batch_size=3),
}


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
@pytest.mark.parametrize("fail_at", [None, 1, 3])
def test_the_model_comes_back_exactly_as_it_was(job, fail_at):
    model = Everything().train()
    model.body[2].eval()
    first, *_, last = model.parameters()
    first.requires_grad_(False)
    last.grad = torch.ones_like(last)
    model.fail_at = fail_at
    before, random = everything(model), torch.get_rng_state()
    if fail_at is None:
        job(model)
    else:
        with pytest.raises(ArithmeticError, match="planted"):
            job(model)
    assert model.passes >= (fail_at or 2) and same(everything(model), before)
    assert (last.grad == 1).all()
    if "clean_accuracy" in job.__code__.co_names:  # the others may draw a start
        assert torch.equal(torch.get_rng_state(), random)


def test_a_module_of_two_parents_has_its_own_mode_again():
    shared = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout()).eval()
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), shared), nn.Sequential(shared))
    model.training = False  # so that the second parent is switched after what it shares
    shared[1].training = True
    before = [m.training for m in model.modules()]
    with frozen(model):
        assert not any(m.training for m in model.modules())
    assert [m.training for m in model.modules()] == before


def test_frozen_restores_what_is_done_to_it_inside():
    model = Everything().train()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = everything(model)
    with frozen(model):
        assert not any(m.training for m in model.modules())
        assert not any(p.requires_grad for p in model.parameters())
        for p in model.parameters():
            p.requires_grad_(True)
            p.grad = None
        model(X).sum().backward()
        assert all(p.grad is not None for p in model.body[3].parameters())
        model.body[1].weight = nn.Parameter(torch.zeros(16, 64))
        model.body[1].register_parameter("extra", nn.Parameter(torch.zeros(1)))
    assert same(everything(model), before) and "extra" not in dict(model.named_parameters())
    assert all((p.grad == 1).all() for p in model.parameters())
    with frozen(lambda z: z):  # no module: nothing to keep
        pass


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
@pytest.mark.parametrize("norm", ["none", "group", "batch"])
def test_the_backward_pass_of_an_earlier_forward_pass_still_works(job, norm):
    """In training mode, and in eval mode, in which BatchNorm's backward reads the buffers."""
    for mode in (True, False):
        torch.manual_seed(0)
        model = SmallNet(1, norm=norm).train(mode)
        alone = copy.deepcopy(model)
        clean = nn.functional.cross_entropy(model(X), Y)
        job(model)
        clean.backward()
        nn.functional.cross_entropy(alone(X), Y).backward()
        for p, q in zip(model.parameters(), alone.parameters(), strict=True):
            assert torch.equal(p.grad, q.grad)


@pytest.mark.parametrize("outer", [torch.no_grad, torch.inference_mode])
def test_attacks_and_accuracies_inside_no_grad_and_inference_mode(outer):
    model, attack = MLP(hidden=(8,), norm="batch").train(), PGD(0.3, 0.1, 3)
    draw = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    plain = attack(model, X, Y, draw())
    accuracy = robust_accuracy(model, X, model.eval()(X).argmax(1), attack, generator=draw())
    with outer():
        x = X * 1  # a tensor made inside
        y = model(x).argmax(1)
        inside = attack(model, x, Y.clone(), draw())
        assert robust_accuracy(model, x, y, attack, generator=draw()) == accuracy
    assert torch.equal(inside, plain) and not inside.is_inference()


# --------------------------------------------------------------------------------------------------


class Running(nn.Module):
    """Moves a buffer by assignment, another in place, and a draw of the global generator."""

    def __init__(self):
        super().__init__()
        self.register_buffer("moves", torch.zeros(()))
        self.register_buffer("counts", torch.zeros(()))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        self.moves = self.moves + 1
        self.counts += 1
        return self.linear(x.flatten(1)) * torch.rand(())


STATEFUL = {
    "assignment": Running,
    "batch": lambda: SmallNet(1, norm="batch"),
    "instance": lambda: nn.Sequential(
        nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten(), nn.Linear(64, 10)
    ),
    "spectral": lambda: nn.Sequential(
        nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(64, 10))
    ),
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)),
}


@pytest.mark.parametrize("make", STATEFUL.values(), ids=STATEFUL)
def test_several_passes_are_of_one_function_and_move_it_once(make):
    torch.manual_seed(0)
    model = make().train()
    other = copy.deepcopy(model)
    torch.manual_seed(1)
    expected = other(X)
    after, random = [b.clone() for b in other.buffers()], torch.get_rng_state()
    torch.manual_seed(1)
    with once(model) as again:
        outputs = []
        for i in range(3):
            if i:
                again()
            outputs.append(model(X))
    assert all(torch.equal(output, expected) for output in outputs)
    assert all(torch.equal(b, a) for b, a in zip(model.buffers(), after, strict=True))
    assert torch.equal(torch.get_rng_state(), random)


class Codebook(nn.Module):
    """A parameter that is not trained, and moves in every pass in training mode (or in any)."""

    def __init__(self, always=False):
        super().__init__()
        self.always = always
        self.code = nn.Parameter(torch.zeros(64), requires_grad=False)
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        if self.training or self.always:
            self.code.data.mul_(0.5).add_(x.flatten(1).mean(0).detach(), alpha=0.5)
        return self.linear(x.flatten(1) - self.code)


RULES = {
    "mean": descent_rule("mean", m=3),
    "product": descent_rule("product", m=2),
    "sam": SAM(descent_rule("single"), rho=0.1),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_codebook_moves_once(rule):
    torch.manual_seed(0)
    model = Codebook().train()
    alone = copy.deepcopy(model)
    step = rule(model, X, Y, lambda model, x, y: torch.zeros_like(x))
    loss = nn.functional.cross_entropy(alone(X), Y)
    assert torch.equal(model.code, alone.code) and not model.code.requires_grad
    if rule is RULES["mean"]:  # all three columns are of the network that moved once
        loss.backward()
        want = torch.cat([p.grad.flatten() for p in alone.linear.parameters()])
        torch.testing.assert_close(step.gradient, want)


def test_what_passes_move_in_eval_mode_comes_back_every_time():
    model = Codebook(always=True)
    for _ in range(3):
        clean_accuracy(model, X, Y, 2)
        assert not model.code.any() and not model.linear.weight.grad
    rule = descent_rule("mean", m=3)
    alone = copy.deepcopy(model.eval())
    for _ in range(3):
        rule(model, X, Y, lambda model, x, y: torch.zeros_like(x))  # no pass in the attack
        alone(X)
        assert torch.equal(model.code, alone.code) and model.code.any()


@pytest.mark.parametrize("name", ["mean", "product"])
def test_a_frozen_backbone_is_copied_once_and_never_written(name, tmp_path, monkeypatch):
    np.save(tmp_path / "weight.npy", np.random.default_rng(0).normal(size=(16, 64)) / 8)
    weight = np.load(tmp_path / "weight.npy", mmap_mode="r")  # to write is to crash
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, 10)).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch knows no tensor that is only read
        model[1].weight = nn.Parameter(torch.from_numpy(weight), requires_grad=False)
    copied = []
    monkeypatch.setattr(moved, "_copy", lambda t: copied.append(t) or _COPY(t))
    rule, attack = descent_rule(name, m=3), PGD(0.1, 0.1, 1)
    for step in range(moved.ENOUGH + 2):
        copied.clear()
        rule(model, X.double(), Y, attack)
        if step in (0, moved.ENOUGH + 1):
            assert any(t is model[1].weight for t in copied) == (step == 0)
    assert np.array_equal(model[1].weight, weight)


class Teacher(nn.Module):
    """Follows its student, as whose copy it begins, a little in every pass in training mode."""

    def __init__(self):
        super().__init__()
        self.student = nn.Linear(64, 10)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.teacher.weight.lerp_(self.student.weight, 0.1)
        return self.student(x.flatten(1)) + self.teacher(x.flatten(1))


def test_a_teacher_that_begins_as_a_copy_moves_once_a_step():
    torch.manual_seed(0)
    model = Teacher()
    want = model.teacher.weight.clone()
    rule, attack = descent_rule("mean", m=3), PGD(0.1, 0.1, 1)
    for step in range(4):
        want.lerp_(model.student.weight.detach(), 0.1)
        rule(model, X, Y, attack)
        assert torch.equal(model.teacher.weight, want)
        with torch.no_grad():
            model.student.weight += 1.0 + step


class Merging(nn.Linear):
    """A low-rank addition that ``eval()`` merges into the weight, as loralib's does."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.a = nn.Parameter(torch.randn(2, sizes[0]))
        self.b = nn.Parameter(torch.randn(sizes[1], 2))
        self.merged = False

    def train(self, mode=True):
        if self.merged == mode:
            self.weight.data += (-1 if mode else 1) * self.b @ self.a
            self.merged = not mode
        return super().train(mode)

    def forward(self, x):
        return super().forward(x) if self.merged else super().forward(x) + x @ self.a.T @ self.b.T


def test_a_network_whose_eval_moves_weights_is_switched_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), Merging(64, 16), Merging(16, 10)).train()
    model[2].eval()
    values = [p.detach().clone() for p in model.parameters()]
    clean_accuracy(model, X, Y, 2)
    assert (model[1].merged, model[2].merged, model[2].training) == (False, True, False)
    assert all(torch.equal(p, v) for p, v in zip(model.parameters(), values, strict=True))
    step = descent_rule("single")(model, X, Y, PGD(0.1, 0.05, 2))
    assert all(torch.equal(p, v) for p, v in zip(model.parameters(), values, strict=True))
    where = iter(torch.split(step.gradient, [p.numel() for p in trainable(model).values()]))
    lengths = {name: next(where).norm() for name in trainable(model)}
    assert lengths["1.a"] > 0.1 and lengths["1.b"] > 0.1 and lengths["1.bias"] > 0.01
    with pytest.raises(ValueError, match="same weights in train.. and eval"):
        descent_rule("product")(model, X, Y, PGD(0.1, 0.05, 2))
    assert all(torch.equal(p, v) for p, v in zip(model.parameters(), values, strict=True))


def test_gradients_that_the_caller_has_summed_up_are_not_touched():
    model = MLP(hidden=(8,))
    nn.functional.cross_entropy(model(X), Y).backward()
    summed = [(p.grad, p.grad.clone()) for p in model.parameters()]

    def attack(model, x, y):
        assert all(p.grad is None for p in model.parameters())
        model.requires_grad_(True)
        model.zero_grad(set_to_none=False)
        model(x).sum().backward()
        model(x).sum().backward()
        return torch.zeros_like(x)

    robust_accuracy(model, X, model(X).argmax(1), attack)
    for p, (grad, value) in zip(model.parameters(), summed, strict=True):
        assert p.grad is grad and torch.equal(grad, value)


class Observer(nn.Linear):
    """Keeps what it saw in a buffer for which it makes room in place, as those of quantisation."""

    def __init__(self):
        super().__init__(64, 10)
        self.register_buffer("seen", torch.zeros(0))

    def forward(self, x):
        self.seen.resize_(64).copy_(x.detach().flatten(1).amax(0))
        return super().forward(x.flatten(1))


def test_a_buffer_that_changes_its_shape_in_place():
    model = Observer().train()
    clean_accuracy(model, X, Y, 2)
    assert model.seen.shape == (0,) and model.training and model.weight.requires_grad
    descent_rule("mean", m=3)(model, X, Y, lambda model, x, y: 0.1 * torch.ones_like(x))
    assert torch.equal(model.seen, (X + 0.1).flatten(1).amax(0))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("kind", ["script", "trace"])
def test_torchscript_is_attacked_and_left_as_it_was(kind):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 10))
    twin = copy.deepcopy(plain)  # what is made of it shares its buffers
    model = torch.jit.script(twin) if kind == "script" else torch.jit.trace(twin.eval(), X)
    plain.train(model.training)
    before = copy.deepcopy(model.state_dict())
    attack = PGD(0.1, 0.05, 3)
    draw = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    torch.testing.assert_close(attack(model, X, Y, draw()), attack(plain, X, Y, draw()))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters()) and model.training == plain.training
    one, two = (descent_rule("product")(m, X, Y, attack, draw()).gradient for m in (model, plain))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-3)


def test_a_failure_after_the_first_pass_leaves_one_move():
    model = Running()
    with pytest.raises(ArithmeticError), once(model) as again:
        model(X)
        again()
        model(X)
        raise ArithmeticError
    assert model.moves == 1 and model.counts == 1


# --------------------------------------------------------------------------------------------------


class Twice(nn.Module):
    """One layer with two names, and a weight tied to another module's."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(64, 64)
        self.b = self.a
        self.c = nn.Linear(64, 64, bias=False)
        self.c.weight = self.a.weight
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.c(torch.tanh(self.b(torch.tanh(self.a(x.flatten(1)))))))


class Recurrent(nn.Module):
    """Rows of the image as a sequence, through a recurrent layer, which keeps a list of weights."""

    def __init__(self, kind):
        super().__init__()
        self.rnn, self.head = kind(8, 6, batch_first=True), nn.Linear(6, 10)

    def forward(self, x):
        return self.head(self.rnn(x.squeeze(1))[0][:, -1])


def normed():
    return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 10)))


HOLDERS = {
    "plain": lambda: MLP(hidden=(8,)),
    "twice": Twice,
    "rnn": lambda: Recurrent(nn.RNN),
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "parametrised": normed,
}


@pytest.mark.parametrize("make", HOLDERS.values(), ids=HOLDERS)
def test_call_puts_tensors_in_every_place_of_a_parameter(make):
    """The loss and its gradient are those of a model whose parameters have been moved there."""
    torch.manual_seed(0)
    model = make()
    objects = dict(model.named_parameters(remove_duplicate=False))
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for p in moved.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    loss = lambda z: nn.functional.cross_entropy(z, Y)  # noqa: E731
    loss(moved(X)).backward()
    new = {n: p.detach().clone().requires_grad_(True) for n, p in trainable(moved).items()}
    value = loss(call(model, new, X))
    got = torch.autograd.grad(value, list(new.values()))
    torch.testing.assert_close(value, loss(moved(X)))
    for g, p in zip(got, moved.parameters(), strict=True):
        torch.testing.assert_close(g, p.grad)
    assert all(p.grad is None for p in model.parameters())
    again = dict(model.named_parameters(remove_duplicate=False))
    assert again.keys() == objects.keys() and all(again[n] is p for n, p in objects.items())
    assert not torch.allclose(model(X), moved(X), atol=1e-3)
    with pytest.raises((RuntimeError, ValueError)):
        call(model, new, X.double())
    assert all(p is objects[n] for n, p in model.named_parameters(remove_duplicate=False))
    copy.deepcopy(model)


def test_the_gradient_of_a_sparse_embedding():
    class Words(nn.Module):
        def __init__(self, sparse):
            super().__init__()
            torch.manual_seed(0)
            self.words, self.head = nn.Embedding(12, 6, sparse=sparse), nn.Linear(6, 10)

        def forward(self, x):
            return self.head(self.words((10 * x).long().flatten(1)).mean(1))

    zero = lambda model, x, y: torch.zeros_like(x)  # noqa: E731
    sparse, dense = (descent_rule("single")(Words(s), X, Y, zero).gradient for s in (True, False))
    torch.testing.assert_close(sparse, dense)
    assert dense[:72].norm() > 0.01


def test_a_module_of_torch_export_and_inference_tensors_are_refused_in_words():
    model = MLP(hidden=(8,))
    exported = torch.export.export(model, (X,)).module()
    with pytest.raises(ValueError, match="model must have an eval mode, got"):
        clean_accuracy(exported, X, Y)
    assert all(p.requires_grad for p in exported.parameters())
    with torch.inference_mode():
        x, y = X * 1, Y * 1
    for images, labels, name in ((x, Y, "x"), (X, y, "y")):
        with pytest.raises(ValueError, match=f"{name} must be .* made under torch.inference_mode"):
            descent_rule("single")(model, images, labels, PGD(0.1, 0.05, 1))


def test_trainable_parameters_are_the_floating_ones_that_ask_for_a_gradient():
    model = Twice()
    model.head.bias.requires_grad_(False)
    model.register_parameter("steps", nn.Parameter(torch.zeros(2, dtype=torch.int64), False))
    assert list(trainable(model)) == ["a.weight", "a.bias", "head.weight"]
    with pytest.raises(ValueError, match="trainable parameter"):
        trainable(nn.Flatten())
    with pytest.raises(ValueError, match="trainable parameter"):
        trainable(model.requires_grad_(False))


def test_complex_parameters_are_refused_if_they_are_to_be_trained():
    model = MLP(hidden=(8,))
    model.phase = nn.Parameter(torch.zeros(3, dtype=torch.cfloat))
    with pytest.raises(ValueError, match="real trainable parameters, got 'phase' of torch.complex"):
        descent_rule("single")(model, X, Y, PGD(0.1, 0.05, 1))
    model.phase.requires_grad_(False)
    assert "phase" not in trainable(model)


def test_a_compiled_network_is_recognised():
    model = MLP(hidden=(8,))
    compiled = torch.compile(model, backend="eager")
    assert eager(compiled) is model and eager(model) is model

    class Delegating(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net, self.gain = net, nn.Parameter(torch.full((10,), 3.0))

        def forward(self, x):
            return self.gain * self.net(x)

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("net"), name)

    wrapped, plain = Delegating(compiled), Delegating(model)
    assert wrapped._orig_mod is model and eager(wrapped) is wrapped
    rule = descent_rule("product", m=2)
    one, two = (rule(m, X, Y, lambda m, x, y: torch.zeros_like(x)) for m in (wrapped, plain))
    torch.testing.assert_close(one.gradient, two.gradient)


def test_only_forward_passes_see_the_callers_autocast():
    x = torch.rand(4, 8)
    model = nn.Linear(8, 8)
    seen = lambda: (torch.is_autocast_enabled("cpu"), torch.is_grad_enabled())  # noqa: E731
    for caller, option, low in ((False, False, False), (True, False, True), (False, True, True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=caller), torch.no_grad():
            frame = Precision.of(x.device, option)
            with frame.algebra():
                assert seen() == (False, True) and (x @ x.mT).dtype == torch.float32
                z = frame.forward(model, x)
                assert z.dtype == torch.float32 and torch.equal(z, model(x)) == (not low)
                torch.testing.assert_close(z, model(x), rtol=0.05, atol=0.05)
                assert frame.forward(lambda x: seen(), x) == (low, True)
            assert seen() == (caller, False)
    assert seen() == (False, True)
