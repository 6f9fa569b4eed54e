"""Which kernels our side runs on, by what PyTorch offers to everybody."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PRECISIONS = ("float32", "attack-bf16", "bf16")
MODES = ("off", "default", "reduce-overhead", "max-autotune")


@dataclass(frozen=True)
class Kernels:
    """Which kernels run on our side; ``Kernels()`` is the plain path.

    Args:
        precision: ``"float32"``; ``"attack-bf16"``: the attacks under bf16 autocast; ``"bf16"``:
            the gradients as well.
        channels_last: images and weights of convolutions in NHWC order in memory.
        compile: mode of ``torch.compile``, or ``"off"``.
    """

    precision: str = "float32"
    channels_last: bool = False
    compile: str = "off"

    @property
    def attack(self) -> dict[str, bool]:
        """Options of the attacks."""
        return {"autocast": self.precision != "float32"}

    def of(self, model: nn.Module) -> nn.Module:
        """The same parameters on these kernels."""
        if self.precision == "bf16":
            model = _LowPrecision(model)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compile == "off":
            return model
        # attacks, gradients, chunks and evaluation each have a shape: more than PyTorch's eight
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        return torch.compile(model, mode=self.compile, dynamic=False)  # type: ignore[return-value]


class _LowPrecision(nn.Module):
    """A network under bf16 autocast, for the gradients too; logits of the images' dtype."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return self.model(images).to(images.dtype)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode, and without gradients of the weights."""
    trained = [p for p in model.parameters() if p.requires_grad]
    training = model.training
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for p in trained:
            p.requires_grad_()
