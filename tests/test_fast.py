"""The fast path computes the same: bit for bit where it only wraps, within stated tolerances where
it changes kernels.
"""

from functools import partial

import pytest
import torch

from ddi import (
    FAST,
    PGD,
    Fast,
    Kernels,
    ResNet18,
    Setting,
    SmallNet,
    assign_gradient,
    descent_rule,
    digits,
    read_record,
    robust_accuracy,
    train,
)

RULES = [
    descent_rule("single"),
    descent_rule("ddi", m=2),
    descent_rule("product", m=2, method="chunks", chunks=2),
    descent_rule("product", m=2, method="matrix-free"),
    descent_rule("max", m=2),
]


def problem(net=SmallNet):
    torch.manual_seed(0)
    return net(3, 10), torch.rand(4, 3, 16, 16), torch.arange(4)


def update(rule, model, x, y):
    return rule(model, x, y, PGD(steps=2), torch.Generator().manual_seed(1)).gradient


@pytest.fixture
def quick_compiler(monkeypatch):
    """``torch.compile`` without a C++ compiler: the same tracing and differentiation, PyTorch's own
    kernels.
    """
    compile = torch.compile

    def traced(model, mode, dynamic):
        return compile(model, backend="aot_eager", dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", traced)
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name + rule.method)
def test_the_wrapper_alone_changes_nothing(rule):
    model, x, y = problem()
    assert torch.equal(update(rule, Fast(model, Kernels()), x, y), update(rule, model, x, y))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name + rule.method)
def test_channels_last_and_tracing_agree_with_the_plain_path(rule, quick_compiler):
    model, x, y = problem()
    plain = update(rule, model, x, y)
    fast = Fast(model, Kernels(channels_last=True, compile="default"))
    torch.testing.assert_close(
        update(rule, fast, x, y), plain, atol=1e-5 * plain.abs().max().item(), rtol=1e-4
    )
    torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-5)


def test_bf16_in_the_attack_touches_no_gradient():
    model, x, y = problem(ResNet18)
    fast = Fast(model, Kernels(precision="attack-bf16"))
    fixed = PGD(steps=2)(model, x, y, torch.Generator().manual_seed(0))
    rule = descent_rule("single")
    assert torch.equal(
        rule(fast, x, y, lambda *_: fixed).gradient, rule(model, x, y, lambda *_: fixed).gradient
    )
    attack = PGD(steps=5)
    low, full = (attack(net, x, y, torch.Generator().manual_seed(0)) for net in (fast, model))
    assert not torch.equal(low, full) and attack.threat.contains(low, x).all()
    with torch.no_grad():
        clean, weaker, stronger = (
            torch.nn.functional.cross_entropy(model.eval()(x + d), y) for d in (0, low, full)
        )
    assert (
        weaker - clean > 0.9 * (stronger - clean) > 0
    )  # a tenth of the gain at most is lost to rounding


def test_slope_lost_by_a_bf16_gradient_is_small():
    """The measure is the slope along the bf16 direction on the float32 gradient, relative to the
    steepest, -1.
    """
    model, x, y = problem(ResNet18)
    fixed, rule = torch.zeros_like(x), descent_rule("single", normalize=True)
    low = rule(Fast(model, Kernels(precision="bf16")), x, y, lambda *_: fixed).gradient
    full = rule(model, x, y, lambda *_: fixed).gradient
    slope = -(low.double() @ full.double()) / (low.double().norm() * full.double().norm())
    assert -1 + 1e-9 < slope < -0.99 and low.dtype == torch.float32


def test_buffers_modes_and_accuracies_are_the_models_own(quick_compiler):
    model, x, y = problem(partial(SmallNet, norm="batch"))
    fast = Fast(model, Kernels(compile="default")).train()
    before = model.state_dict()["1.running_mean"].clone()
    update(descent_rule("single"), fast, x, y)
    assert model.training and not torch.equal(model.state_dict()["1.running_mean"], before)
    assert [n.removeprefix("eager.") for n, _ in fast.named_parameters()] == [
        n for n, _ in model.named_parameters()
    ]
    same = [
        robust_accuracy(net, x, y, FAST(), generator=torch.Generator().manual_seed(0)).value
        for net in (fast, model)
    ]
    assert same[0] == same[1]


def test_a_fused_optimiser_moves_reordered_weights_alike():
    models = [
        SmallNet(3, 10).to(memory_format=order)
        for order in (torch.contiguous_format, torch.channels_last)
    ]
    models[1].load_state_dict(models[0].state_dict())
    for model, fused in zip(models, (False, True), strict=True):
        sgd = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=fused)
        for seed in range(2):
            flat = torch.randn(
                sum(p.numel() for p in model.parameters()),
                generator=torch.Generator().manual_seed(seed),
            )
            assign_gradient(model, flat)
            sgd.step()
    assert any(
        p.stride() != q.stride() for p, q in zip(*(m.parameters() for m in models), strict=True)
    )
    for plain, reordered in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(reordered, plain, rtol=0, atol=1e-6)


def test_every_batch_size_is_compiled_not_the_first_eight(monkeypatch):
    compile, graphs = torch.compile, []

    def counted(model, mode, dynamic):
        return compile(
            model, backend=lambda graph, _: graphs.append(graph) or graph.forward, dynamic=dynamic
        )

    monkeypatch.setattr(torch, "compile", counted)
    fast, sizes = Fast(SmallNet(3, 10), Kernels(compile="default")), range(2, 14)
    with torch.no_grad():
        for n in sizes:
            fast(torch.rand(n, 3, 16, 16))
    assert len(graphs) == len(sizes)
    torch.compiler.reset()


@pytest.mark.parametrize(("mode", "expected"), [("default", {4}), ("off", {4, 2})])
def test_only_a_compiled_network_meets_batches_of_one_size(mode, expected):
    model, _, _ = problem()
    x, sizes = torch.rand(8, 3, 16, 16), set()
    y = model(x).argmax(1)
    y[:2] = (y[:2] + 1) % 10  # two images that need no attack
    fast = Fast(model, Kernels(compile=mode))
    object.__setattr__(fast, "_run", lambda images: sizes.add(len(images)) or model(images))
    robust_accuracy(fast, x, y, PGD(steps=1), batch_size=4)
    assert sizes == expected


def test_training_records_its_kernels_and_comes_close_to_the_plain_run(tmp_path, quick_compiler):
    setting, data = Setting(epochs=2, epoch_steps=4, batch_size=50, validation=100), digits()
    curves = []
    for name, kernels in (("plain", Kernels()), ("fast", Kernels("attack-bf16", True, "default"))):
        torch.manual_seed(0)
        attack = PGD(eps=0.1, alpha=0.05, steps=2)
        train(
            SmallNet(1, 10),
            data,
            descent_rule("ddi", m=2),
            attack,
            setting,
            tmp_path / name,
            kernels=kernels,
        )
        record = read_record(tmp_path / name)
        curves.append(record.metrics["train_loss"])
        assert record.config["kernels"]["precision"] == kernels.precision
    assert abs(curves[0] - curves[1]).max() < 0.01


@pytest.mark.parametrize("bad", [{"precision": "fp8"}, {"compile": "yes"}, {"channels_last": 1.5}])
def test_unknown_kernels_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Kernels(**bad)
