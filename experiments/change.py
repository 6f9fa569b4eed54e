"""What a direction changes on one batch: slopes that every rule promises, and the change of phi.

``phi`` is the mean over the batch of the largest loss found by several restarts of PGD-20, each
sample's best iterate kept, always from the same starts.
"""

from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import ddi

# "strong" is the gradient at the perturbations that give phi itself: one gradient, but better
# maximisers
RULES = ("single", "strong", "max", "mean", "ddi", "product", "bundle")
RESTARTS = 2  # of the attack that measures phi


def strongest(model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor) -> tuple[Tensor, float]:
    """Each sample's perturbation of largest loss, and the mean of these losses."""
    losses = ddi.sample_losses(model, x, y, deltas)
    best = deltas[losses.argmax(0), torch.arange(len(x), device=x.device)]
    return best, float(losses.amax(0).double().mean())


def restarts(
    model: nn.Module, x: Tensor, y: Tensor, attack: ddi.PGD, count: int, seed: int
) -> Tensor:
    """``count`` perturbations of the batch, from starts that only ``seed`` decides."""
    draw = torch.Generator(x.device).manual_seed(seed)
    return attack.restarts(model, x, y, count, draw, batch_size=512 if x.is_cuda else None)


def move(model: nn.Module, step: Tensor) -> nn.Module:
    """A copy of the model whose parameters have moved by a flat step."""
    moved = deepcopy(model)
    vector_to_parameters(
        parameters_to_vector(model.parameters()).detach() + step, moved.parameters()
    )
    return moved


def gradient(
    model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor, rule: str, **options
) -> tuple[Tensor, float]:
    """What a rule makes of given perturbations: unit direction to add, and the norm before dividing
    by it.
    """
    given = iter(deltas)
    step = ddi.descent_rule(rule, m=len(deltas), **options)(model, x, y, lambda *_: next(given))
    return -step.gradient / step.gradient.norm().clamp_min(1e-30), step.diagnostics["norm"]


def probing(training: ddi.PGD) -> ddi.PGD:
    """PGD-7 in the set of the training attack: that attack itself, where it is the paper's."""
    eps = training.eps
    return ddi.PGD(eps, eps / 4, 7, norm=training.norm, box=training.box, loss=training.loss)


def directions(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    deltas: Tensor,
    best: Tensor,
    chunks: int,
    lr: float,
    rules: list[str],
) -> dict[str, tuple[Tensor, float]]:
    """Unit direction and norm of the rules, and of ``single`` and ``max``, with which all are
    compared.
    """
    parts = {"method": "chunks", "chunks": chunks}
    given = {name: (deltas, name, {}) for name in ("single", "max", "mean", "ddi")}
    given |= {"strong": (best[None], "single", {})}
    given |= {"product": (deltas, "product", parts | {"normalize": False})}
    given |= {"bundle": (deltas, "bundle", parts | {"joint": False, "t": lr})}
    return {
        name: gradient(model, x, y, d, rule, **extra)
        for name, (d, rule, extra) in given.items()
        if name in {"single", "max", *rules}
    }


def cosines(columns: Tensor) -> dict[str, float]:
    """Of the pairs of batch gradients, ``(m, d)``."""
    gram = ddi.gram_matrix(columns)
    norms = gram.diagonal().sqrt()
    i, j = torch.triu_indices(len(gram), len(gram), 1)
    cosines = (gram / (norms[:, None] * norms))[i, j]
    return {
        "cosine_mean": float(cosines.mean()),
        "cosine_min": float(cosines.min()),
        "negative_pairs": int((gram[i, j] < 0).sum()),
    }


def probe(
    model: nn.Module, x: Tensor, y: Tensor, other: list[Tensor], run: ddi.Run, options, seed: int
) -> list[dict]:
    """All rows of one batch; ``other`` is a second batch, whose gradient shows what a change of
    images does.
    """
    chunks = options.chunks
    measured = probing(run.attack)
    attack = replace(measured, steps=20, keep="best")
    deltas = restarts(model, x, y, measured, options.m, seed)
    best, φ = strongest(model, x, y, restarts(model, x, y, attack, RESTARTS, seed + 1))
    found = directions(model, x, y, deltas, best, chunks, run.setting.lr, options.rules)

    rows, _ = ddi.chunk_gradients(model, x, y, deltas, chunks)  # (m, chunks, d)
    columns = rows.sum(1)
    groups = torch.arange(chunks, device=x.device).repeat(options.m)
    foreign, _ = gradient(model, *other, restarts(model, *other, measured, 1, seed + 2), "single")
    same = cosines(columns) | {
        "cosine_other_batch": float(found["single"][0] @ foreign),
        "phi": φ,
        "phi_m": strongest(model, x, y, deltas)[1],
    }
    result = []
    for number, name in enumerate(options.rules):
        direction, norm = found[name]
        product = ddi.directional_derivative(rows.flatten(0, 1), direction, groups)
        slopes = {
            "slope_joint": float(ddi.directional_derivative(columns, direction)),
            "slope_product": float(product),
            "slope_max": -float(found["max"][0] @ direction) * found["max"][1],
            "cosine_single": float(found["single"][0] @ direction),
        }
        for t in options.t:
            moved = move(model, t * direction)
            after = strongest(moved, x, y, restarts(moved, x, y, attack, RESTARTS, seed + 1))[1]
            change = {"rule": number, "t": t, "change": after - φ, "norm": norm}
            result.append(change | slopes | same)
    return result
