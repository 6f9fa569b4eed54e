"""How an experiment's passes are made on a fast GPU: the table ``kernels`` of its file."""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from ddi import _checks as check
from ddi.adversary import Attack

__all__ = ["Kernels"]


@dataclass(frozen=True)
class Kernels:
    """How the passes are made.

    Args:
        precision: ``"float32"``, or ``"attack-bf16"``: the training attacks under bf16 autocast
            (their option ``autocast``). What they find is a valid perturbation, at worst a weaker
            one; the gradients stay in float32.
        channels_last: weights of convolutions in NHWC order in memory, as tensor cores want them.
        compile: mode of ``torch.compile`` (``"reduce-overhead"`` takes CUDA graphs), or ``"off"``.
    """

    precision: str = "float32"
    channels_last: bool = False
    compile: str = "off"

    def __post_init__(self) -> None:
        check.one_of("precision", self.precision, ("float32", "attack-bf16"))
        check.flag("channels_last", self.channels_last)
        modes = ("off", "default", "reduce-overhead", "max-autotune")
        check.one_of("compile", self.compile, modes)

    def attack(self, attack: Attack) -> Attack:
        """The attack in this precision."""
        if self.precision == "float32":
            return attack
        low: Attack = replace(attack, autocast=True)  # type: ignore[type-var]
        return low

    def model(self, model: nn.Module) -> nn.Module:
        """The network in this order and compiled; parameters are its own."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        if self.compile == "off":
            return model
        # attacks, gradients, chunks and evaluation each have a shape: more than PyTorch's eight
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        compiled: Any = torch.compile(model, mode=self.compile, dynamic=False)
        return cast(nn.Module, compiled)
