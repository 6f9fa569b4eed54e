"""Objectives, losses that see the clean logits too, and penalties, terms that no training
perturbation enters.

An objective stands wherever a loss does, in attacks and rules alike (``PGD(loss=KL())``,
``descent_rule("ddi", loss=TRADES(6.0))``). A penalty is an option of a rule
(``descent_rule("ddi", penalty=ELLE(1000.0))``): the maximisers do not depend on it, so its gradient
shifts every column by the same vector, as weight decay does.

In a record and an experiment's file they have names: ``loss = "trades(6)"``, ``penalty =
"elle(1000)"``.
"""

import math
from typing import Any, Self

import torch
from torch import Tensor

from ddi import _checks
from ddi.losses import Inner, Named, Network, Objective, cross_entropy, rise
from ddi.threat import Threat

__all__ = [
    "CURE",
    "ELLE",
    "KL",
    "LLR",
    "MART",
    "TRADES",
    "AdaptiveELLE",
    "GradAlign",
    "Penalty",
    "divergence",
]


def divergence(clean: Tensor, moved: Tensor) -> Tensor:
    """``KL(softmax(clean) || softmax(moved))`` in nats, of logits ``(B, C)``; one value a row."""
    p, q = clean.log_softmax(1), moved.log_softmax(1)
    return (p.exp() * (p - q)).sum(1)


class KL(Objective):
    """``KL(p(x) || p(x + d))``, ``p`` the model's probabilities: what TRADES' attack maximises.

    Value and gradient are 0 at ``d = 0``, so that an attack from there follows its own rounding:
    start at random. The labels are not used.
    """

    word, passes = "kl", 2

    def inner(self, model: Network, x: Tensor, y: Tensor) -> Inner:
        """``d -> KL(p(x) || p(x + d))``."""
        clean = model(x)
        return lambda delta: divergence(clean, model(x + delta))


class TRADES(Objective):
    """``CE(x) + beta KL(p(x) || p(x + d))`` (Zhang et al. 2019).

    ``CE(x)`` does not contain ``d``: the maximisers are those of :class:`KL`, and training on this
    at an attack on :class:`KL` is a zero-sum game, to which Danskin's theorem applies as it stands.
    Gradients go through the clean logits and the others.

    Raises:
        ValueError: unless ``beta`` is a finite number ``>= 0``.
    """

    word, passes = "trades", 2

    def __init__(self, beta: float = 6.0) -> None:
        self.beta = _checks.non_negative("beta", beta)
        self.numbers = (self.beta,)

    def inner(self, model: Network, x: Tensor, y: Tensor) -> Inner:
        """``d -> CE(x) + beta KL(p(x) || p(x + d))``."""
        clean = model(x)
        natural = cross_entropy(clean, y)
        return lambda delta: natural + self.beta * divergence(clean, model(x + delta))


class MART(Objective):
    """``BCE(x + d) + beta (1 - p_y(x)) KL(p(x) || p(x + d))``, with the boosted cross-entropy ``BCE
    = -log p_y - log(1 - max_{j != y} p_j)`` (Wang et al. 2020).

    Its authors attack cross-entropy, not this: then training is no zero-sum game.

    Raises:
        ValueError: unless ``beta`` is a finite number ``>= 0``; when it is called, for a model with
            a single logit.
    """

    word, passes = "mart", 2

    def __init__(self, beta: float = 5.0) -> None:
        self.beta = _checks.non_negative("beta", beta)
        self.numbers = (self.beta,)

    def inner(self, model: Network, x: Tensor, y: Tensor) -> Inner:
        """``d -> BCE(x + d) + beta (1 - p_y(x)) KL(p(x) || p(x + d))``."""
        clean = model(x)
        doubt = -torch.expm1(-cross_entropy(clean, y))  # 1 - p_y(x)

        def values(delta: Tensor) -> Tensor:
            moved = model(x + delta)
            return boosted(moved, y) + self.beta * doubt * divergence(clean, moved)

        return values


def boosted(logits: Tensor, y: Tensor) -> Tensor:
    """``-log p_y - log(1 - p_j)`` for the strongest rival ``j``, one value a sample."""
    if logits.shape[1] < 2:
        raise ValueError("model must have two classes or more, got one logit")
    classes = torch.arange(logits.shape[1], device=logits.device)
    rival = logits.masked_fill(y[:, None] == classes, -torch.inf).argmax(1)
    others = logits.masked_fill(rival[:, None] == classes, -torch.inf)  # log(1 - p_j), no 1 - 1
    return cross_entropy(logits, y) + logits.logsumexp(1) - others.logsumexp(1)


# --------------------------------------------------------------------------------------------------


class Penalty(Named):
    """A term ``weight * mean_i R_i`` of the batch's loss, where ``R_i`` says how far the loss of a
    sample is from affine in the perturbation, whatever the attack finds.

    A subclass defines :meth:`terms`, and :meth:`points` if it needs random ones. The loss is the
    rule's if that is a function of logits, and cross-entropy beside an objective.

    Args:
        weight: of the term, ``>= 0``.

    Attributes:
        passes: forward-and-backward passes of the batch; one whose gradient in the images is
            differentiated counts twice.
        twice: whether it differentiates such a gradient, which compiled networks cannot.
    """

    passes = 0
    twice = True

    def __init__(self, weight: float, *numbers: float) -> None:
        self.weight = _checks.non_negative("weight", weight)
        self.numbers = (self.weight, *numbers)

    def points(
        self, x: Tensor, threat: Threat, generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        """Random tensors, an entry a sample of the batch."""
        return ()

    def terms(self, values_of: Inner, x: Tensor, *points: Tensor) -> Tensor:
        """``R_i``, ``(B,)``, of the inner problem ``d -> (B,)`` at images ``x``."""
        raise NotImplementedError

    def weigh(self, mean: float) -> float:
        """The weight of a step in which the mean of the terms is this."""
        return self.weight

    def fresh(self) -> Self:
        """As at the beginning of a run."""
        return self

    def state_dict(self) -> dict[str, Any]:
        """What steps have changed."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


class ELLE(Penalty):
    """``(L(c) - (1 - s) L(a) - s L(b))^2`` for random ``a``, ``b`` in the set, ``c = (1 - s) a + s
    b`` and uniform ``s`` (Abad Rocamora et al. 2024). No gradient in the images is needed.
    """

    word, passes, twice = "elle", 3, False

    def __init__(self, weight: float = 1000.0) -> None:
        super().__init__(weight)

    def points(
        self, x: Tensor, threat: Threat, generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        """``a``, ``b`` and ``s``."""
        a, b = threat.sample(x, generator), threat.sample(x, generator)
        return a, b, torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)

    def terms(self, values_of: Inner, x: Tensor, *points: Tensor) -> Tensor:
        """See the class."""
        a, b, share = points
        c = torch.lerp(a, b, share.view(-1, *[1] * (x.ndim - 1)))
        at_a, at_b = values_of(a), values_of(b)
        return (values_of(c) - torch.lerp(at_a, at_b, share.to(at_a))).square()


class AdaptiveELLE(ELLE):
    """ELLE-A: :class:`ELLE` whose weight is ``weight`` in a step in which the mean term exceeds all
    those before by ``deviations`` standard deviations over their mean, and fades by the factor
    ``decay`` in every other, from 0 on.

    The one penalty with a state: its weight, and number, mean and squared deviations of the terms
    so far. A run begins with a fresh one, and its checkpoint holds the state.
    """

    word = "elle-a"

    def __init__(self, weight: float = 4000.0, decay: float = 0.99, deviations: float = 2.0):
        self.decay = _checks.finite("decay", decay, 0.0, 1.0)
        self.deviations = _checks.non_negative("deviations", deviations)
        Penalty.__init__(self, weight, self.decay, self.deviations)
        self.state = {"weight": 0.0, "count": 0.0, "mean": 0.0, "squares": 0.0}

    def weigh(self, mean: float) -> float:
        """This step's weight; ``mean`` joins the history."""
        s = self.state
        spread = math.sqrt(s["squares"] / s["count"]) if s["count"] else 0.0
        jumped = s["count"] > 0 and mean > s["mean"] + self.deviations * spread
        s["weight"] = self.weight if jumped else self.decay * s["weight"]
        s["count"] += 1
        off = mean - s["mean"]
        s["mean"] += off / s["count"]
        s["squares"] += off * (mean - s["mean"])
        return s["weight"]

    def fresh(self) -> Self:
        """Without a history."""
        return type(self)(*self.numbers)

    def state_dict(self) -> dict[str, Any]:
        """Weight and history."""
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.state = {key: float(state[key]) for key in self.state}


class _AtOnePoint(Penalty):
    def points(
        self, x: Tensor, threat: Threat, generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        """``e``."""
        return (threat.sample(x, generator),)


class GradAlign(_AtOnePoint):
    """``1 - cos(grad L(0), grad L(e))``, gradients in the perturbation, at a random ``e`` in the
    set (Andriushchenko and Flammarion 2020); 0 where a gradient is 0.

    It is 0 also for losses ``h(<a, d>)``, which are not affine, and jumps where a ReLU's sign does.
    """

    word, passes = "gradalign", 4

    def __init__(self, weight: float = 0.2) -> None:
        super().__init__(weight)

    def terms(self, values_of: Inner, x: Tensor, *points: Tensor) -> Tensor:
        """See the class."""
        here, there = (
            rise(values_of, delta, create_graph=True)[1].flatten(1)
            for delta in (torch.zeros_like(x), *points)
        )
        lengths = torch.stack([here.norm(dim=1), there.norm(dim=1)])
        defined = (lengths > 0).all(0)
        one, other = torch.where(defined, lengths, 1.0)[..., None]
        return torch.where(defined, 1 - (here / one * (there / other)).sum(1), 0.0)


class LLR(_AtOnePoint):
    """``|L(e) - L(0) - <e, grad L(0)>|`` at a random ``e`` in the set (Qin et al. 2019, who look
    for the worst ``e`` by a few steps).
    """

    word, passes = "llr", 3

    def __init__(self, weight: float = 10.0) -> None:
        super().__init__(weight)

    def terms(self, values_of: Inner, x: Tensor, *points: Tensor) -> Tensor:
        """See the class."""
        (there,) = points
        here, slope = rise(values_of, torch.zeros_like(x), create_graph=True)
        return (values_of(there) - here - (there * slope).flatten(1).sum(1)).abs()


class CURE(Penalty):
    """``||grad L(h z) - grad L(0)||^2`` with ``z`` the sign of ``grad L(0)``, of Euclidean length 1
    (Moosavi-Dezfooli et al. 2019); ``h`` is a length, and the box plays no part.
    """

    word, passes = "cure", 4

    def __init__(self, weight: float = 0.03, h: float = 1.5) -> None:
        self.h = _checks.positive("h", h)
        super().__init__(weight, self.h)

    def terms(self, values_of: Inner, x: Tensor, *points: Tensor) -> Tensor:
        """See the class."""
        here = rise(values_of, torch.zeros_like(x), create_graph=True)[1]
        sign = here.detach().sign()
        length = sign.flatten(1).norm(dim=1).clamp_min(1.0).view(-1, *[1] * (x.ndim - 1))
        there = rise(values_of, self.h * sign / length, create_graph=True)[1]
        return (there - here).flatten(1).square().sum(1)
