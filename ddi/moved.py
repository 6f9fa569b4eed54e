"""Whatever forward passes move in a model, kept and put back: buffers, other tensors that a module
holds, parameters that are not trained, generators.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Moved"]

# How often passes in eval mode, and in training mode, have left a parameter as it was that is not
# trained. Large ones (a frozen backbone) are not copied in every step: ENOUGH times are enough.
# (More than once, for the teacher of a network may begin as its copy, and not move at first.)
_times: MutableMapping[Tensor, list[int]] = WeakTensorKeyDictionary()
ENOUGH = 10


@dataclass(frozen=True)
class Moved:
    """Whatever forward passes move, as it was at one moment.

    Attributes:
        tensors: who holds it, its name there, the object, and its values. generators: with their
            states. training: the mode of the passes.
    """

    tensors: list[tuple[dict[str, Any], str, Tensor | None, Tensor | None]]
    generators: list[tuple[torch.Generator, Tensor]]
    training: bool

    @classmethod
    def of(
        cls,
        model: nn.Module,
        training: bool,
        randomness: bool = False,
        generator: torch.Generator | None = None,
        trained: bool = False,
    ) -> "Moved":
        """Of this model, before passes in this mode; with ``randomness`` also torch's own
        generators, and one more; with ``trained`` also the parameters that are trained.
        """
        tensors: list[tuple[dict[str, Any], str, Tensor | None, Tensor | None]] = []
        held = [generator] if isinstance(generator, torch.Generator) else []
        for module in model.modules():
            tensors += [(module._buffers, name, b, _copy(b)) for name, b in module._buffers.items()]
            for name, p in module._parameters.items():  # a codebook is one that only passes move
                if p is None or (p.requires_grad and not trained):
                    continue
                if trained or not _still(p, training):  # (eval() may merge matrices)
                    tensors.append((module._parameters, name, p, _copy(p)))
            for name, value in vars(module).items():
                if isinstance(value, Tensor):
                    tensors.append((vars(module), name, value, _copy(value)))
                elif isinstance(value, torch.Generator):
                    held.append(value)
        if randomness:
            held.append(torch.default_generator)
            for device in {p.device for p in model.parameters() if p.is_cuda}:
                held.append(torch.cuda.default_generators[device.index])
        return cls(tensors, [(g, g.get_state()) for g in held], training)

    def learn(self) -> None:
        """Passes have been made since: count what they have not moved."""
        for holder, name, p, value in self.tensors:
            if isinstance(p, nn.Parameter):
                stays = value is not None and _same(p, value) and holder.get(name) is p
                times = _times.setdefault(p, [0, 0])
                times[self.training] = times[self.training] + 1 if stays else 0

    def put_back(self) -> None:
        """Objects first, then values, where they differ for weights (they may be in a file that is
        only read); through ``.data``, of which autograd takes no notice.
        """
        for holder, name, tensor, value in self.tensors:
            holder[name] = tensor
            if tensor is None or value is None:
                continue
            if isinstance(tensor, nn.Parameter) and _same(tensor, value):
                continue
            with torch.inference_mode(tensor.is_inference()):
                if tensor.shape != value.shape:  # an observer makes room in place
                    tensor.resize_(value.shape)
                tensor.data.copy_(value)
        for generator, state in self.generators:
            generator.set_state(state)


def _still(p: nn.Parameter, training: bool) -> bool:
    """Whether passes do not move it; what training does not, eval mode does not either."""
    return any(n >= ENOUGH for n in _times.get(p, [0, 0])[training:])


def _same(tensor: Tensor, value: Tensor) -> bool:
    return tensor.device == value.device and torch.equal(tensor, value)


def _copy(tensor: Tensor | None) -> Tensor | None:
    """The values; ``None`` for a tensor that has none yet, and for one that shows one number in
    many places: no operation writes into such a one.
    """
    if tensor is None or nn.parameter.is_lazy(tensor):
        return None
    sizes = zip(
        tensor.shape, tensor.stride() if tensor.layout == torch.strided else (), strict=False
    )
    return None if any(n > 1 and step == 0 for n, step in sizes) else tensor.detach().clone()
