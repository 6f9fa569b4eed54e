"""Networks: shapes, sizes, strides, groups, and what their options may be."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn

from ddi import MLP, Normalize, ResNet18, SmallNet
from ddi.models import BasicBlock


@pytest.mark.parametrize("activation", ["celu", "relu", "elu"])
@pytest.mark.parametrize("norm", ["none", "group", "batch"])
def test_models_take_images_and_return_logits(activation, norm):
    x = torch.rand(4, 1, 8, 8)
    for model in (MLP(64, 10, (16, 24), activation, norm), SmallNet(1, 10, activation, norm)):
        assert model(x).shape == (4, 10)
        kinds = {type(m) for m in model.modules()}
        assert {"celu": nn.CELU, "relu": nn.ReLU, "elu": nn.ELU}[activation] in kinds
        assert (nn.GroupNorm in kinds) == (norm == "group")
        assert bool(kinds & {nn.BatchNorm1d, nn.BatchNorm2d}) == (norm == "batch")


def test_sizes():
    count = lambda model: sum(p.numel() for p in model.parameters())  # noqa: E731
    assert 55_000 < count(SmallNet(3)) < 65_000
    assert count(MLP(64, 10, (256, 256))) == 64 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10
    assert count(MLP(64, 10, ())) == 650
    assert SmallNet(3)(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_resnet18_has_the_papers_size_and_shape(norm):
    model = ResNet18(norm=norm, activation="relu").eval()
    if norm != "none":
        assert sum(p.numel() for p in model.parameters()) == 11_173_962
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert model(x).shape == (2, 10)
        assert nn.Sequential(*list(model)[:-3])(x).shape == (2, 512, 4, 4)
    assert (
        len([m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)])
        == 17
    )
    assert ResNet18(in_channels=1, classes=3)(torch.rand(1, 1, 32, 32)).shape == (1, 3)


def test_normalize_is_a_layer():
    x = torch.rand(2, 3, 4, 4)
    layer = Normalize((0.5, 0.4, 0.3), (0.2, 0.1, 1.0))
    torch.testing.assert_close(layer(x)[:, 1], (x[:, 1] - 0.4) / 0.1)
    assert not list(layer.parameters()) and len(layer.state_dict()) == 2


@pytest.mark.parametrize(
    "options, name", [({"activation": "gelu"}, "activation"), ({"norm": "layer"}, "norm")]
)
def test_unknown_switches_are_refused(options, name):
    for kind in (MLP, SmallNet, ResNet18):
        with pytest.raises(ValueError, match=name):
            kind(**options)


def test_defaults_are_the_papers_smooth_setting():
    options = lambda kind: {  # noqa: E731
        n: p.default for n, p in inspect.signature(kind).parameters.items()
    }
    smooth = {"in_channels": 3, "classes": 10, "activation": "celu", "norm": "group"}
    assert options(SmallNet) == options(ResNet18) == smooth
    flat = {"in_features": 64, "classes": 10, "hidden": (256, 256), "activation": "celu"}
    assert options(MLP) == flat | {"norm": "none"}


def test_group_normalisation_has_eight_groups_or_as_many_as_divide():
    groups = lambda model: {m.num_groups for m in model.modules() if isinstance(m, nn.GroupNorm)}  # noqa: E731
    assert groups(SmallNet()) == groups(ResNet18()) == {8}
    assert groups(MLP(hidden=(24, 12, 7), norm="group")) == {8, 4, 1}


def test_strides_of_the_small_network():
    model = SmallNet()
    assert [m.stride[0] for m in model if isinstance(m, nn.Conv2d)] == [2, 2, 2, 1]
    assert nn.Sequential(*list(model)[:-3])(torch.rand(2, 3, 32, 32)).shape == (2, 64, 4, 4)
    assert sum(p.numel() for p in model.parameters()) == 60_336 + 352 + 650
    x = torch.rand(2, 3, 32, 32)
    middle = nn.Sequential(*list(model)[:-3])(x)
    torch.testing.assert_close(model(x), model[-1](middle.mean((2, 3))))


@pytest.mark.parametrize("activation", ["celu", "relu", "elu"])
@pytest.mark.parametrize("norm", ["none", "group", "batch"])
@pytest.mark.parametrize(("width", "stride"), [(8, 1), (16, 2), (16, 1)])
def test_a_block_is_residual_plus_shortcut_and_then_the_activation(activation, norm, width, stride):
    torch.manual_seed(0)
    block = BasicBlock(8, width, stride, activation, norm).eval()
    x = torch.randn(2, 8, 8, 8)
    total = block.residual(x) + block.shortcut(x)
    assert (total < -0.1).any()
    act = {"celu": nn.functional.celu, "relu": nn.functional.relu, "elu": nn.functional.elu}
    torch.testing.assert_close(block(x), act[activation](total))
    assert block(x).shape == (2, width, 8 // stride, 8 // stride)
    assert isinstance(block.shortcut, nn.Identity) == (width == 8 and stride == 1)
    kinds = [type(m) for m in block.residual if not isinstance(m, nn.Identity)]
    between = {"none": [], "group": [nn.GroupNorm], "batch": [nn.BatchNorm2d]}[norm]
    layer = {"celu": nn.CELU, "relu": nn.ReLU, "elu": nn.ELU}[activation]
    assert kinds == [nn.Conv2d, *between, layer, nn.Conv2d, *between]
    assert (block.residual[0].bias is not None) == (norm == "none")


@pytest.mark.parametrize("kind", [MLP, SmallNet, ResNet18])
@pytest.mark.parametrize("value", [0, -3, 2.0, "3", True, None])
def test_impossible_numbers_are_refused(kind, value):
    names = ["in_features", "classes"] if kind is MLP else ["in_channels", "classes"]
    for name in names:
        with pytest.raises(ValueError, match=f"^{name} must be an integer >= 1, got"):
            kind(**{name: value})
    with pytest.raises(ValueError, match="^hidden must be"):
        MLP(hidden=(8, value))


def test_impossible_widths_and_switches_are_refused():
    for hidden in (8, "88", None, {8}):
        with pytest.raises(ValueError, match="^hidden must be a tuple of widths"):
            MLP(hidden=hidden)
    assert MLP(np.int64(4), np.int64(3), [np.int64(5)])(torch.rand(2, 4)).shape == (2, 3)
    for options in ({"norm": None}, {"activation": nn.ReLU}, {"norm": True}):
        for kind in (MLP, SmallNet, ResNet18):
            with pytest.raises(ValueError, match=f"^{next(iter(options))} must be one of"):
                kind(**options)
    with pytest.raises(ValueError, match="^norm must be one of"):
        MLP(hidden=(), norm="layer")


def test_normalisation_has_one_number_a_channel_or_one_for_all():
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(Normalize((0.5,), [0.2])(x), (x - 0.5) / 0.2)
    for channels in (1, 2, 4):
        with pytest.raises(ValueError, match="x must have 3 channels"):
            Normalize((0.5,) * 3, (0.2,) * 3)(torch.rand(2, channels, 4, 4))
    for bad, words in (
        (((0.5, 0.5), (0.2,)), "one length"),
        (((0.5,), (0.0,)), "std must be"),
        (((0.5,), (-1.0,)), "std must be"),
        (((float("nan"),), (0.2,)), "mean must be"),
        ((0.5, 0.2), "mean must be a tuple"),
        (((), ()), "mean must be a tuple"),
    ):
        with pytest.raises(ValueError, match=words):
            Normalize(*bad)
