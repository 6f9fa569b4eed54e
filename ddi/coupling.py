"""Whether a model's logits of an image depend on the other images in its batch."""

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

__all__ = ["coupled"]

# By their ids, the models of whose samples it is known that they do not see each other.
_alone: WeakValueDictionary[int, nn.Module] = WeakValueDictionary()


def coupled(model: nn.Module, run: Callable[[Tensor], Any], x: Tensor) -> bool:
    """Whether one of the first two images has other logits beside the other than beside a copy of
    itself, in a batch of the same size and at the same place, so that all is rounded alike.

    It costs three passes of two images the first time; that a model's images do not see each other
    is remembered. Two images that have the same logits tell nothing, and neither do logits that
    are not finite: then the answer is no, this time.

    Args:
        model: in eval mode. run: from images to its logits. x: images ``(B, ...)``.
    """
    if _alone.get(id(model)) is model or len(x) < 2:
        return False
    both = run(x[:2].detach().clone())
    if not isinstance(both, Tensor) or not both.is_floating_point():
        return True  # no logits: whoever wants some says so
    both = both.detach()
    if not both.isfinite().all() or torch.equal(both[0], both[1]):
        return False
    room = max(1e-3, 8 * torch.finfo(both.dtype).eps)
    for j in (0, 1):
        # (with a graph, as before: torch's transformers compute otherwise without)
        twins = run(x[j : j + 1].detach().repeat(2, *[1] * (x.ndim - 1))).detach()
        if not (twins[j] - both[j]).abs().max() <= room * both[j].abs().max():  # NaN, too
            return True
    _alone[id(model)] = model
    return False
