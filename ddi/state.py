"""What a model carries, and how it is left as it was found.

Attacks, rules and evaluations call somebody's model. Whatever a call may move (modes,
``requires_grad``, ``.grad``, the Parameter objects themselves, weights, buffers, generators) is put
back by the context managers here; nothing else in the package saves or restores anything of a
model.
Values are put back without a trace in autograd, so that the backward pass of a forward pass made
earlier still works.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ddi import _checks
from ddi.moved import Moved

Model = Callable[[Tensor], Tensor]

__all__ = [
    "Model",
    "Precision",
    "assign_gradient",
    "call",
    "displaced",
    "draws_numbers",
    "eager",
    "frozen",
    "once",
    "switches",
    "trainable",
]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters a direction is taken over, by name and in order: floating-point, and with
    ``requires_grad``.

    Raises:
        ValueError: if there is none, one is complex, or ``model`` is no module.
    """
    _checks.instance("model", model, nn.Module)
    for name, p in model.named_parameters():
        if p.requires_grad and p.is_complex():
            raise ValueError(
                f"model must have real trainable parameters, got {name!r} of {p.dtype}: hold its "
                "torch.view_as_real as the parameter, or switch off its requires_grad"
            )
    found = {n: p for n, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}
    if not found:
        raise ValueError(
            "model must have a trainable parameter (floating-point, requires_grad), got none"
        )
    return found


def eager(model: nn.Module) -> nn.Module:
    """The network behind ``torch.compile``, for ``vmap`` and forward mode; else the model.

    It is looked for among the model's own modules: a wrapper may hand on what it has not itself.
    """
    own = getattr(model, "_modules", {})
    return own["_orig_mod"] if "_orig_mod" in own else model


def switches(model: nn.Module) -> bool:
    """Whether a module has a ``train`` or ``eval`` of its own, which may move weights (LoRA's
    merges its matrices) and not only set flags.
    """
    methods = (method for m in model.modules() for method in (m.train, m.eval))
    return any(not method.__module__.startswith("torch.") for method in methods)


@contextmanager
def frozen(model: Model, passes: bool = False) -> Iterator[None]:
    """Evaluate in eval mode without weight gradients; on leaving, also by an exception, everything
    is as it was.

    That is every submodule's training flag (one with a ``train`` or ``eval`` of its own is switched
    back by it), every parameter (the object, its ``requires_grad`` and ``.grad``), every buffer,
    every other tensor that a submodule holds and every parameter that is not trained (the object
    and its value), and the state of every generator that a submodule holds. Inside, no parameter
    has a ``.grad``, and no weight is used that ``torch.nn.utils.parametrize.cached`` has kept.

    ``passes`` says that there is at least one inside: then it is remembered which parameters that
    are not trained do not move in eval mode, and these are not copied again.

    The values of trained parameters are put back where a submodule has a ``train`` or ``eval`` of
    its own, which may move them, and not otherwise. Not seen, and so neither put into eval mode nor
    put back: modules, tensors and generators that a module holds in lists, tables or objects that
    are no modules, and numbers of Python (a counter ``self.calls += 1`` moves with every pass). A
    model that is no module, such as a ``lambda`` around one, is called as it is: in training mode
    if the module inside is.

    Raises:
        ValueError: if ``model`` cannot be called, or has no eval mode (one of ``torch.export``).
    """
    _checks.function("model", model)
    _checks.flag("passes", passes)
    if not isinstance(model, nn.Module):
        with _uncached():
            yield
        return
    modes = [(m, m.training) for m in model.modules()]
    # (TorchScript's cannot be exchanged, and its tables not emptied)
    tables = [m._parameters for m in model.modules() if isinstance(m._parameters, dict)]
    objects = [(table, dict(table)) for table in tables]
    # (an inference tensor collects no gradient, and cannot be told to)
    flags = [(p, p.requires_grad, p.grad) for p in model.parameters() if not p.is_inference()]
    moved = Moved.of(model, training=False, trained=switches(model))
    try:
        _to_eval(model)
        for p, _, _ in flags:
            p.requires_grad_(False)
            p.grad = None  # what is summed up inside is not added to the caller's
        with _uncached():
            yield
        if passes:
            moved.learn()
    finally:
        _back_to(modes)
        for table, parameters in objects:
            table.clear()
            table.update(parameters)
        for p, requires, grad in flags:
            p.requires_grad_(requires)
            p.grad = grad
        moved.put_back()


def _to_eval(model: nn.Module) -> None:
    try:
        model.eval()
    except NotImplementedError as error:  # so it is with torch.export(...).module()
        kind = type(model).__name__
        raise ValueError(f"model must have an eval mode, got {kind}, which has none") from error


def _back_to(modes: Sequence[tuple[nn.Module, bool]]) -> None:
    for module, mode in modes:
        if module.training != mode:
            module.train(mode)  # its own may do more than set flags; the children's follow
    for module, mode in modes:
        module.training = mode  # also of what a later one shares with an earlier one


def assign_gradient(model: nn.Module, flat: Tensor) -> None:
    """Put a flat gradient into ``.grad`` of the trainable parameters, in their order; the others'
    stay as they are. It takes the place of what ``.grad`` held, where ``backward`` adds, and is not
    scaled: whoever accumulates averages first, and a ``GradScaler`` (it would divide) is left out.

    Raises:
        ValueError: if its length is not the number of trainable parameters, or it is not finite, in
            float16 either where that is their dtype. Then ``.grad`` is as before.
    """
    parameters = trainable(model).values()
    sizes = [p.numel() for p in parameters]
    _checks.float_tensor("flat", flat, shape=(sum(sizes),))
    pieces = []
    for parameter, piece in zip(parameters, torch.split(flat.detach(), sizes), strict=True):
        # in the parameter's order in memory, too
        pieces.append(torch.empty_like(parameter).copy_(piece.view_as(parameter)))
        if parameter.dtype == torch.float16 and not pieces[-1].isfinite().all():
            _checks.refuse("flat", "finite in float16, the dtype of the parameters", flat)
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece


@contextmanager
def displaced(model: nn.Module, flat: Tensor) -> Iterator[None]:
    """The trainable parameters moved by ``flat``, ``(d,)`` in their order; on leaving, also by an
    exception, they have their values again, bit for bit.

    Raises:
        ValueError: if the length of ``flat`` is not their number, or it is not finite.
    """
    parameters = list(trainable(eager(model)).values())
    sizes = [p.numel() for p in parameters]
    _checks.float_tensor("flat", flat, shape=(sum(sizes),))
    before = [p.detach().clone() for p in parameters]
    try:
        for p, piece in zip(parameters, torch.split(flat.detach(), sizes), strict=True):
            p.data.add_(piece.view_as(p))
        yield
    finally:
        for p, value in zip(parameters, before, strict=True):
            p.data.copy_(value)


@contextmanager
def _uncached() -> Iterator[None]:
    """Parametrised weights are computed anew: one that ``parametrize.cached`` has kept may have no
    graph, or come of other parameters.
    """
    kept, parametrize._cache_enabled = parametrize._cache_enabled, 0
    try:
        yield
    finally:
        parametrize._cache_enabled = kept


@contextmanager
def once(
    model: nn.Module, generator: torch.Generator | None = None
) -> Iterator[Callable[[], None]]:
    """Several passes in the model's own mode, each from the same state, of which the first alone
    moves it, and ``generator`` where one is given.

    In training mode a forward pass moves BatchNorm's statistics, the vectors of a spectral norm, or
    the random numbers of dropout. Call what this yields before every pass but the first: it puts
    back what the passes so far have moved, so that all passes are of *one* function (the same
    dropout mask, for example); on leaving, what the first one moved stays. What :func:`frozen` does
    not see is not put back here either: state in a table or a number of Python moves in every pass.
    """
    before = Moved.of(model, model.training, True, generator)
    after: list[Moved] = []

    def again() -> None:
        if not after:
            before.learn()
            after.append(Moved.of(model, model.training, True, generator))
        before.put_back()

    try:
        yield again
        if not after:
            before.learn()
    finally:
        for state in after:
            state.put_back()


def call(model: nn.Module, parameters: Mapping[str, Tensor], images: Tensor) -> Any:
    """``model(images)`` with these tensors, named as by :func:`trainable`, in place of its
    parameters.

    Every place that holds the parameter gets the tensor: a module with two names, a parameter tied
    to another, and the list from which a recurrent layer takes its weights.
    (``torch.func.functional_call`` forgets the first and the last.)
    """
    named = dict(model.named_parameters())
    new = {id(named[name]): tensor for name, tensor in parameters.items()}
    places: list[tuple[Any, Any, Tensor]] = []
    for module in model.modules():
        lists = [v for v in vars(module).values() if type(v) is list]
        pairs = [(module._parameters, module._parameters.items())]
        for holder, items in [*pairs, *((v, enumerate(v)) for v in lists)]:
            places += [(holder, key, held) for key, held in items if id(held) in new]
    try:
        for holder, key, held in places:
            holder[key] = new[id(held)]
        return model(images)
    finally:
        for holder, key, held in places:
            holder[key] = held


def draws_numbers(model: nn.Module, run: Callable[[], object]) -> bool:
    """Whether ``run()`` draws from torch's generators or from one that a module of ``model`` holds;
    what it draws is put back.
    """
    before = Moved.of(model, model.training, randomness=True)
    run()
    moved = any(not torch.equal(g.get_state(), state) for g, state in before.generators)
    before.put_back()
    return moved


@dataclass(frozen=True)
class Precision:
    """The frame around code that takes gradients: in it only forward passes may run in bf16.

    A caller may be inside ``torch.autocast``, ``no_grad`` or ``inference_mode``. Within
    :meth:`algebra` gradients are taken all the same, and everything is computed in the dtype of its
    tensors; :meth:`forward` runs a model as the caller's autocast wants it (or in bf16), and
    returns its output in the images' dtype.
    """

    device: str
    low: bool
    dtype: torch.dtype

    @classmethod
    def of(cls, device: torch.device, autocast: bool = False) -> "Precision":
        """As the caller has it now; with ``autocast`` in bf16, whatever the caller has."""
        kind = device.type
        if autocast:
            return cls(kind, True, torch.bfloat16)
        return cls(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))

    @contextmanager
    def algebra(self) -> Iterator[None]:
        """Gradients on, autocast, inference mode and the cache of parametrised weights off."""
        with (
            _uncached(),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(self.device, enabled=False),
        ):
            yield

    def passes(self) -> AbstractContextManager[object]:
        """The autocast of the passes. Without its cache: a weight that was cast in a pass without
        a graph has none in the next.
        """
        return torch.autocast(self.device, self.dtype, enabled=self.low, cache_enabled=False)

    def forward(self, run: Callable[[Tensor], Any], images: Tensor) -> Any:
        """``run(images)``; floats among what it may return, in the dtype of ``images``. (Integers
        stay what they are: no logits, and whoever checks for these must see it.)
        """
        with self.passes():
            output = run(images)
        floats = isinstance(output, Tensor) and output.is_floating_point()
        return output.to(images.dtype) if floats else output
