"""What a model carries, and how it is left as it was found.

Attacks, rules and evaluations call somebody's model. Whatever a call may move (modes,
``requires_grad``, ``.grad``, the Parameter objects themselves, buffers, generators) is put back by
the two context managers here; nothing else in the package saves or restores anything of a model.
Values are put back without a trace in autograd, so that the backward pass of a forward pass made
earlier still works.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Model = Callable[[Tensor], Tensor]

__all__ = ["Model", "call", "eager", "frozen", "once", "trainable"]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters a direction is taken over, by name and in order: floating-point, and with
    ``requires_grad``.

    Raises:
        ValueError: if there is none.
    """
    found = {n: p for n, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}
    if not found:
        raise ValueError(
            "model must have a trainable parameter (floating-point, requires_grad), got none"
        )
    return found


def eager(model: nn.Module) -> nn.Module:
    """The network behind ``torch.compile``, for ``vmap`` and forward mode; any other model itself."""
    return getattr(model, "_orig_mod", model)


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """Evaluate in eval mode without weight gradients; on leaving, also by an exception, everything
    is as it was.

    That is every submodule's training flag, every parameter (the object, its ``requires_grad`` and
    ``.grad``), every buffer (the object and its value), and the state of every generator that a
    submodule holds. A model that is no module is called as it is.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(m, m.training) for m in model.modules()]
    objects = [(m, dict(m._parameters)) for m in model.modules()]
    flags = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    moved = _Moved.of(model)
    try:
        model.eval()
        for p, _, _ in flags:
            p.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module, parameters in objects:
            module._parameters.update(parameters)
        for p, requires, grad in flags:
            p.requires_grad_(requires)
            p.grad = grad
        moved.put_back()


@contextmanager
def once(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Several passes in the model's own mode, each from the same state, of which the first alone
    moves it.

    In training mode a forward pass moves BatchNorm's statistics, the vectors of a spectral norm, or
    the random numbers of dropout. Call what this yields before every pass but the first: it puts
    back what the passes so far have moved, so that all passes are of *one* function (the same
    dropout mask, for example); on leaving, what the first one moved stays.
    """
    before = _Moved.of(model, randomness=True)
    after: list[_Moved] = []

    def again() -> None:
        if not after:
            after.append(_Moved.of(model, randomness=True))
        before.put_back()

    try:
        yield again
    finally:
        for state in after:
            state.put_back()


def call(model: nn.Module, parameters: Mapping[str, Tensor], images: Tensor) -> Any:
    """``model(images)`` with these tensors, named as by :func:`trainable`, in place of its
    parameters.

    (``torch.func.functional_call`` leaves a module that has two names with the wrong tensors.)
    """
    every: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                every.setdefault(id(p), []).append((module, name))
    named = dict(model.named_parameters())
    places = [(every[id(named[name])], named[name], new) for name, new in parameters.items()]
    try:
        for where, _, new in places:
            for module, name in where:
                module._parameters[name] = new  # type: ignore[assignment]
        return model(images)
    finally:
        for where, old, _ in places:
            for module, name in where:
                module._parameters[name] = old


@dataclass(frozen=True)
class _Moved:
    """Whatever forward passes move, as it was at one moment."""

    buffers: list[tuple[nn.Module, str, Tensor | None, Tensor | None]]
    generators: list[tuple[torch.Generator, Tensor]]

    @classmethod
    def of(cls, model: nn.Module, randomness: bool = False) -> "_Moved":
        """Of this model; with ``randomness`` also torch's own generators."""
        buffers = [
            (module, name, buffer, None if buffer is None else buffer.detach().clone())
            for module in model.modules()
            for name, buffer in module._buffers.items()
        ]
        held = [
            g for m in model.modules() for g in vars(m).values() if isinstance(g, torch.Generator)
        ]
        if randomness:
            held.append(torch.default_generator)
            for device in {p.device for p in model.parameters() if p.is_cuda}:
                held.append(torch.cuda.default_generators[device.index])
        return cls(buffers, [(g, g.get_state()) for g in held])

    def put_back(self) -> None:
        """Objects first, then values; through ``.data``, of which autograd takes no notice."""
        for module, name, buffer, value in self.buffers:
            module._buffers[name] = buffer
            if buffer is not None and value is not None:
                buffer.data.copy_(value)
        for generator, state in self.generators:
            generator.set_state(state)
