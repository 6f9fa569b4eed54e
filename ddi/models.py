"""Networks for images in ``[0, 1]``: NCHW in, logits out; normalisation is a layer of the model."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ddi._checks import choice, finite, one_of, positive, positive_int

__all__ = ["MLP", "Normalize", "ResNet18", "SmallNet"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"celu": nn.CELU, "relu": nn.ReLU, "elu": nn.ELU}
NORMS = ("group", "batch", "none")


def activation_layer(name: str) -> nn.Module:
    """A new layer ``"celu"`` or ``"elu"`` (continuously differentiable) or ``"relu"`` (not)."""
    return choice("activation", name, ACTIVATIONS)()


def norm_layer(name: str, channels: int) -> nn.Module:
    """A new layer ``"group"`` (GroupNorm, up to 8 groups), ``"batch"`` (BatchNorm) or ``"none"``,
    for ``channels``.
    """
    if one_of("norm", name, NORMS) == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    return nn.BatchNorm2d(channels) if name == "batch" else nn.Identity()


def _switches(activation: str, norm: str) -> None:
    one_of("activation", activation, ACTIVATIONS)
    one_of("norm", norm, NORMS)


class Normalize(nn.Module):
    """``(x - mean) / std``, a channel at a time, so that attacks see images in ``[0, 1]``.

    Args:
        mean: one number a channel, or one for all. std: as many, positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        pair = {}
        for name, values, check in (("mean", mean, finite), ("std", std, positive)):
            if not isinstance(values, (tuple, list)) or not values:
                raise ValueError(
                    f"{name} must be a tuple of numbers, one a channel, got {values!r}"
                )
            pair[name] = torch.tensor([check(name, v) for v in values]).view(-1, 1, 1)
        if len(pair["mean"]) != len(pair["std"]):
            raise ValueError(f"mean and std must have one length, got {mean!r} and {std!r}")
        self.register_buffer("mean", pair["mean"])
        self.register_buffer("std", pair["std"])

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, C, H, W)``."""
        if len(self.mean) not in (1, x.shape[-3]):
            raise ValueError(f"x must have {len(self.mean)} channels, got shape {tuple(x.shape)}")
        return (x - self.mean) / self.std


class MLP(nn.Sequential):
    """Fully connected network on flattened images.

    Args:
        in_features: values an image, ``C * H * W`` (64 for the digits).
        classes: number of logits.
        hidden: widths of the hidden layers; ``()`` gives a linear model.
        activation: ``"celu"``, ``"elu"`` or ``"relu"``.
        norm: ``"none"``, or ``"group"``/``"batch"`` normalisation after each hidden linear layer.
    """

    def __init__(
        self,
        in_features: int = 64,
        classes: int = 10,
        hidden: Sequence[int] = (256, 256),
        activation: str = "celu",
        norm: str = "none",
    ) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        width, classes = positive_int("in_features", in_features), positive_int("classes", classes)
        _switches(activation, norm)
        if not isinstance(hidden, (tuple, list)):
            raise ValueError(f"hidden must be a tuple of widths, got {hidden!r}")
        for units in (positive_int("hidden", units) for units in hidden):
            between = nn.BatchNorm1d(units) if norm == "batch" else norm_layer(norm, units)
            layers += [nn.Linear(width, units), between, activation_layer(activation)]
            width = units
        super().__init__(
            *(layer for layer in layers if not isinstance(layer, nn.Identity)),
            nn.Linear(width, classes),
        )


class SpatialMean(nn.Module):
    """Mean over the image, ``(B, C, H, W) -> (B, C, 1, 1)`` (PyTorch's adaptive pooling has no
    ``vmap`` in NHWC order).
    """

    def forward(self, x: Tensor) -> Tensor:
        """The mean of every channel."""
        return x.mean((2, 3), keepdim=True)


class SmallNet(nn.Sequential):
    """Four 3x3 convolutions (16, 32, 64, 64 channels; the first three with stride 2), mean over the
    image, linear.

    About 60 000 parameters, for images of any size from 8x8.

    Args:
        in_channels: 1 for grey, 3 for colour images. classes: number of logits.
        activation, norm: as for :class:`MLP`; ``"celu"`` with ``"group"`` is the paper's smooth
            setting.
    """

    def __init__(
        self, in_channels: int = 3, classes: int = 10, activation: str = "celu", norm: str = "group"
    ) -> None:
        _switches(activation, norm)
        layers: list[nn.Module] = []
        width, classes = positive_int("in_channels", in_channels), positive_int("classes", classes)
        for channels, stride in ((16, 2), (32, 2), (64, 2), (64, 1)):
            conv = nn.Conv2d(width, channels, 3, stride, padding=1, bias=norm == "none")
            layers += [conv, norm_layer(norm, channels), activation_layer(activation)]
            width = channels
        super().__init__(*layers, SpatialMean(), nn.Flatten(), nn.Linear(width, classes))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016); switches as of :class:`ResNet18`."""

    def __init__(self, width_in: int, width: int, stride: int, activation: str, norm: str) -> None:
        super().__init__()
        bias = norm == "none"
        self.residual = nn.Sequential(
            nn.Conv2d(width_in, width, 3, stride, padding=1, bias=bias),
            norm_layer(norm, width),
            activation_layer(activation),
            nn.Conv2d(width, width, 3, padding=1, bias=bias),
            norm_layer(norm, width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            conv = nn.Conv2d(width_in, width, 1, stride, bias=bias)
            self.shortcut = nn.Sequential(conv, norm_layer(norm, width))
        self.activation = activation_layer(activation)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, width_in, H, W) -> (B, width, H / stride, W / stride)``."""
        return self.activation(self.residual(x) + self.shortcut(x))


class ResNet18(nn.Sequential):
    """ResNet-18 for 32x32 images: a 3x3 stem without pooling, widths 64 to 512; 11.17 million
    parameters.

    Args:
        in_channels, classes, activation, norm: as for :class:`SmallNet`. The paper's setting is
            ``"celu"`` with ``"group"`` (its appendix B.2), the field's is ``"relu"`` with
            ``"batch"``.
    """

    def __init__(
        self, in_channels: int = 3, classes: int = 10, activation: str = "celu", norm: str = "group"
    ) -> None:
        _switches(activation, norm)
        in_channels, classes = (
            positive_int("in_channels", in_channels),
            positive_int("classes", classes),
        )
        stem = nn.Conv2d(in_channels, 64, 3, padding=1, bias=norm == "none")
        layers: list[nn.Module] = [stem, norm_layer(norm, 64), activation_layer(activation)]
        width_in = 64
        for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            layers += [BasicBlock(width_in, width, stride, activation, norm)]
            layers += [BasicBlock(width, width, 1, activation, norm)]
            width_in = width
        super().__init__(*layers, SpatialMean(), nn.Flatten(), nn.Linear(512, classes))
