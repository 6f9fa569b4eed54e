"""What directions a sample ask of a model: in eval mode it is one function of its own parameters,
and no sample's logits depend on the others.
"""

from functools import partial

from torch import Tensor, nn

from ddi import _checks
from ddi.coupling import coupled
from ddi.gradients import Passes
from ddi.state import call, draws_numbers, eager, frozen, switches

__all__ = ["check_samples", "leaves_of"]


def check_samples(through: Passes, x: Tensor) -> None:
    """Refuse a model that has no gradient a sample.

    Raises:
        ValueError: if a BatchNorm takes the batch's own statistics in eval mode too, if a trainable
            parameter has a hook on its gradient, if ``eval()`` moves weights, if the model draws
            random numbers there, if it reaches a parameter by another way than as its module's, or
            if one sample's logits depend on another's. The last three are seen by passes of two
            images: one every time, and three more, for the last, once a model.
    """
    model, images = eager(through.model), x[:2].detach().clone()
    _check_modules(model, through.parameters)
    before = [p.detach().clone() for p in model.parameters()] if switches(model) else []
    with frozen(model, passes=True):
        if not all(map(_same, before, model.parameters())):
            raise ValueError(
                "model must have the same weights in train() and eval() for directions a sample, "
                "got one whose eval() changes them (LoRA that merges): switch that off, since what "
                "is merged has no gradient"
            )
        names = {id(p.requires_grad_()): name for name, p in through.parameters.items()}
        others = {name: p.requires_grad_() for name, p in through.detached().items()}
        run = partial(through.precision.forward, partial(call, model, others))
        found: list[Tensor] = []
        if draws_numbers(model, lambda: found.append(run(images))):
            raise ValueError(
                "model must draw no random numbers in eval mode for directions a sample, got "
                "one that does (a dropout that is always on, noise in forward): each of its "
                "passes is of another function"
            )
        leaves = leaves_of(_checks.logits(found[0], len(images)))
        if coupled(model, run, x):
            raise ValueError(
                "model must compute each sample's logits from that sample alone in eval mode for "
                "directions a sample, got one whose logits of an image depend on the others in its "
                "batch (statistics of the batch?)"
            )
    given = set(map(id, others.values()))
    aside = [names.get(id(leaf), "one of none") for leaf in leaves if id(leaf) not in given]
    if aside:
        raise ValueError(
            "model must reach its trainable tensors as parameters of its modules, got one that "
            f"reaches {', '.join(sorted(aside))} by another way (a tuple or table, a closure, "
            "a module in a plain list), which directions a sample would miss"
        )


def _check_modules(model: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"model must have running statistics in its BatchNorm for directions a sample, got "
                f"{name!r} with track_running_stats=False, which couples the samples"
            )
    if hooked := [name for name, p in parameters.items() if p._backward_hooks]:
        raise ValueError(
            "model must have no gradient hooks on its parameters for directions a sample, which "
            f"would pass them by, got one on {', '.join(hooked)}"
        )


def _same(before: Tensor, now: Tensor) -> bool:
    return bool(((before == now) | ((before != before) & (now != now))).all())


def leaves_of(output: Tensor) -> list[Tensor]:
    """The trainable tensors that the graph of ``output`` begins with."""
    found, seen, left = [], set(), [output.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [following for following, _ in node.next_functions]
            if (leaf := getattr(node, "variable", None)) is not None:
                found.append(leaf)
    return found
