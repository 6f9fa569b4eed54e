"""The fast path: the same network and the same parameters, other kernels.

Low precision is meant for the *attack*: whatever it finds is a valid perturbation, and only a
weaker one is lost. The gradients, which the direction is made of, stay in full precision unless
asked otherwise.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Fast", "Kernels"]

PRECISIONS = ("float32", "attack-bf16", "bf16")
MODES = ("off", "default", "reduce-overhead", "max-autotune")


@dataclass(frozen=True)
class Kernels:
    """Which kernels run; ``Kernels()`` is the plain path.

    Args:
        precision: ``"float32"``; ``"attack-bf16"``: the attacks under bf16 autocast; ``"bf16"``:
            the gradients as well. (PyTorch lets a GPU's float32 convolutions round to TF32 unless
            ``torch.backends.cudnn.allow_tf32`` is off.)
        channels_last: images and weights of convolutions in NHWC order in memory, as tensor cores
            want them.
        compile: mode of ``torch.compile`` (``"reduce-overhead"`` takes CUDA graphs), or ``"off"``.
    """

    precision: str = "float32"
    channels_last: bool = False
    compile: str = "off"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("precision", PRECISIONS),
            ("channels_last", (False, True)),
            ("compile", MODES),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")


class Fast(nn.Module):
    """``model`` on another path; parameters, buffers and modes stay the model's own.

    The attacks of this package call ``fast.attacked`` where a plain model is called itself. Forward
    mode and ``vmap`` (the product's gradients) take ``fast.eager``, the model, in its own
    precision.

    Args:
        model: a network, NCHW images to logits. With ``channels_last`` its weights are reordered in
            memory.
        kernels: which.
    """

    def __init__(self, model: nn.Module, kernels: Kernels) -> None:
        super().__init__()
        self.eager, self.kernels = model, kernels
        if kernels.channels_last:
            model.to(memory_format=torch.channels_last)
        run = model
        if (
            self.equal_shapes
        ):  # attacks, gradients, chunks and evaluation each have a shape: more than PyTorch's eight
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
            run = torch.compile(model, mode=kernels.compile, dynamic=False)
        object.__setattr__(self, "_run", run)  # no second submodule with the same parameters

    @property
    def equal_shapes(self) -> bool:
        """Whether batches should keep their size, since every other one is compiled anew."""
        return self.kernels.compile != "off"

    def forward(self, images: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, classes)``: logits of the images' dtype."""
        return self._logits(images, self.kernels.precision == "bf16")

    def attacked(self, images: Tensor) -> Tensor:
        """The same, as the attacks see it."""
        return self._logits(images, self.kernels.precision != "float32")

    def _logits(self, images: Tensor, low: bool) -> Tensor:
        if self.kernels.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=low):
            return self._run(images).to(images.dtype)
