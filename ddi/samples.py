"""What directions a sample ask of a model: in eval mode it is one function of its own parameters,
and no sample's logits depend on the others.
"""

from functools import partial

from torch import Tensor, nn

from ddi import _checks
from ddi.gradients import Passes
from ddi.state import call, draws_numbers, eager, frozen

__all__ = ["check_samples", "leaves_of"]


def check_samples(through: Passes, x: Tensor) -> None:
    """Refuse a model that has no gradient a sample.

    Raises:
        ValueError: if a BatchNorm takes the batch's own statistics in eval mode too, if the model
            draws random numbers there, or if it reaches a parameter by another way than as its
            module's. The last two are seen by one pass.
    """
    for name, module in through.model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"model must have running statistics in its BatchNorm for directions a sample, got "
                f"{name!r} with track_running_stats=False, which couples the samples"
            )
    model, images = eager(through.model), x[:2].detach().clone()
    with frozen(model):
        names = {id(p.requires_grad_()): name for name, p in through.parameters.items()}
        others = {name: p.requires_grad_() for name, p in through.detached().items()}
        found: list[Tensor] = []

        def run() -> None:
            found.append(through.precision.forward(partial(call, model, others), images))

        if draws_numbers(model, run):
            raise ValueError(
                "model must draw no random numbers in eval mode for directions a sample, got "
                "one that does (a dropout that is always on, noise in forward): each of its "
                "passes is of another function"
            )
        leaves = leaves_of(_checks.logits(found[0], len(images)))
    given = set(map(id, others.values()))
    aside = [names.get(id(leaf), "one of none") for leaf in leaves if id(leaf) not in given]
    if aside:
        raise ValueError(
            "model must reach its trainable tensors as parameters of its modules, got one that "
            f"reaches {', '.join(sorted(aside))} by another way (a tuple or table, a closure, "
            "a module in a plain list), which directions a sample would miss"
        )


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
