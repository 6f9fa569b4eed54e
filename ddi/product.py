"""The product direction: every mix of per-sample maximisers is a maximiser of the batch.

The batch loss is ``g = 1/k sum_i L_i(theta, d_i)``, so its maximisers are a product set, and the
steepest descent direction solves ``min || 1/k sum_i G_i a_i ||`` over one simplex a *sample*. Three
ways to it: per-sample gradients and one Gram matrix (exact; memory ``m k d``), chunks that choose
together (exact for the coarser product; memory ``m c d``), and matrix-free Frank-Wolfe by
forward-mode derivatives (memory ``O(d)``, certified by its gap).

All passes are in eval mode, since in training mode BatchNorm couples the samples; a BatchNorm
without running statistics does so in every mode and is refused. Under ``torchrun`` each process
gives its share of the batch, of equal size; what is returned is that of the whole batch.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddi import _checks
from ddi.danskin import products
from ddi.gradients import Passes, passes
from ddi.losses import LossLike, cross_entropy
from ddi.parallel import gather, rank, total, world
from ddi.samples import check_samples
from ddi.solver import min_norm_product
from ddi.state import frozen

__all__ = [
    "ProductPoint",
    "chunk_gradients",
    "per_sample_gradients",
    "product_point",
    "sample_losses",
]

METHODS = ("gram", "chunks", "matrix-free")
STEPS = 1  # of Frank-Wolfe: each costs a gradient, and m forward-mode passes


@dataclass(frozen=True)
class ProductPoint:
    """Point of least norm of the sum of the samples' hulls.

    Attributes:
        vector: ``w``, ``(d,)``, over the trainable parameters in their order: the direction to
            **subtract**, not normalised.
        weights: ``(m, k)``, non-negative; the column of each sample sums to 1.
        gap: Frank-Wolfe gap of the problem solved; ``||w||^2 - ||w*||^2 <= 2 gap`` and ``||w -
            w*||^2 <= gap``.
        iterations: iterations of the solver.
        losses: the values ``L_ij``, ``(m, k)``, which the passes give besides.
    """

    vector: Tensor
    weights: Tensor
    gap: float
    iterations: int
    losses: Tensor


def product_point(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    deltas: Tensor,
    method: str = "gram",
    *,
    chunks: int | None = None,
    loss: LossLike = cross_entropy,
    tol: float = 1e-6,
    max_iter: int = STEPS,
    measure_gap: bool = True,
) -> ProductPoint:
    """Solve ``min || 1/k sum_i sum_j a_ji grad L_ij ||`` over one simplex a sample, ``L_ij =
    loss(model(x_i + d_ji), y_i)``, or the value of an :class:`ddi.losses.Objective`.

    Args:
        model: run in eval mode and left as found. x: ``(k, ...)``. y: ``(k,)``. deltas: ``(m, k,
            ...)``.
        method: ``"gram"``, ``"chunks"`` or ``"matrix-free"`` (see the module; its forward mode
            passes by hooks on the gradients of activations).
        chunks: number of groups of samples that each choose together; needed by, and only for,
            ``"chunks"``.
        loss: one value a sample.
        tol, max_iter: for ``"matrix-free"``: stop at ``gap <= tol * ||w||^2`` or after ``max_iter``
            steps (0: the first restart); the gap says how far that is from the solution.
        measure_gap: for ``"matrix-free"``: measure the gap after the last step too, by ``m``
            passes. Without, ``gap`` is what the line search of that step proves, for which the
            same two inequalities hold.

    Raises:
        ValueError: for shapes that do not agree, an unknown method, an impossible number of chunks,
            or a model whose samples are coupled, that has hooks on its parameters' gradients, whose
            ``eval()`` moves weights, or that the method cannot differentiate.
        FloatingPointError: if a loss or a gradient is not finite.
    """
    if (_checks.one_of("method", method, METHODS) == "chunks") != (chunks is not None):
        given = f'{chunks!r} with method="{method}"'
        raise ValueError(f'chunks must be given with method="chunks" and only then, got {given}')
    tol, max_iter = _checks.non_negative("tol", tol), _checks.integer("max_iter", max_iter, 0)
    measure_gap = _checks.flag("measure_gap", measure_gap)
    with _batch(model, x, y, deltas, loss) as through:
        if method == "matrix-free":
            return frank_wolfe(through, x, y, deltas, tol, max_iter, measure_gap)
        rows, group, losses = product_rows(through, x, y, deltas, chunks)
        groups, rows = torch.arange(rows.shape[1]).repeat(len(rows)), rows.flatten(0, 1)
        still_finite("the loss", losses)
        point = min_norm_product(finite_gram(rows), groups)
        weights = point.weights.to(rows)
        each = weights.view(len(deltas), -1)[:, group]
        return ProductPoint(weights @ rows, each, float(point.gap), point.iterations, losses)


def sample_losses(
    model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor, loss: LossLike = cross_entropy
) -> Tensor:
    """The values ``L_ij``, ``(m, k)``, in eval mode and without a graph; arguments and errors as
    for :func:`product_point`.
    """
    with _batch(model, x, y, deltas, loss) as through, torch.no_grad(), frozen(model):
        return still_finite("the loss", torch.stack([*map(through.inner(x, y), deltas)]))


def per_sample_gradients(
    model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor, loss: LossLike = cross_entropy
) -> Tensor:
    """``grad L_ij`` of every sample at every perturbation, ``(m, k, d)``, flat over the trainable
    parameters; arguments and errors as for :func:`product_point`.
    """
    with _batch(model, x, y, deltas, loss) as through, frozen(model):
        rows = through.rows(*deltas.shape[:2])
        for row, d in zip(rows, deltas, strict=True):
            through.group_gradients(x, d, y, 1, row)
        return still_finite("the gradient", rows)


def chunk_gradients(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    deltas: Tensor,
    chunks: int,
    loss: LossLike = cross_entropy,
) -> tuple[Tensor, Tensor]:
    """Gradients of the batch loss restricted to each chunk, ``1/k sum_{i in chunk} grad L_ij``.

    Returns: ``(m, chunks, d)``, and the chunk of each sample, ``(k,)``: consecutive samples, sizes
        differing by at most 1. Arguments and errors as for :func:`product_point`.
    """
    chunks = _checks.positive_int("chunks", chunks)
    with _batch(model, x, y, deltas, loss) as through:
        rows, group, _ = product_rows(through, x, y, deltas, chunks)
        return still_finite("the gradient", rows), group


# --------------------------------------------------------------------------------------------------


@contextmanager
def _batch(
    model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor, loss: LossLike
) -> Iterator[Passes]:
    """The passes, with all arguments checked."""
    with passes(model, x, y, loss) as through:
        check_samples(through, x)
        _checks.float_tensor("deltas", deltas, 3)
        if deltas.shape[1:] != x.shape:
            _checks.refuse("deltas", f"of shape (m, {', '.join(map(str, x.shape))})", deltas)
        _checks.one_device(x=x, deltas=deltas)
        yield through


def product_rows(
    through: Passes, x: Tensor, y: Tensor, deltas: Tensor, chunks: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The vectors that the product is taken of, ``(m, chunks, d)`` (by default a chunk a sample),
    the chunk of each sample, ``(k,)``, and the losses ``(m, k)``.
    """
    k = len(x) * world()
    chunks = k if chunks is None else _checks.positive_int("chunks", chunks, k)
    group = torch.arange(k) * chunks // k
    mine, counts = torch.unique_consecutive(group[rank() * len(x) :][: len(x)], return_counts=True)
    sizes: list[int] = counts.tolist()
    equal = k % chunks == 0 and chunks % world() == 0
    rows = through.rows(len(deltas), chunks)
    if world() > 1:
        rows.zero_()  # the other processes' rows are added
    losses = []
    with frozen(through.model):
        for row, d in zip(rows[:, mine[0] : mine[-1] + 1], deltas, strict=True):
            if k < 8 * chunks and equal:  # small chunks of equal size, all at once
                losses.append(through.group_gradients(x, d, y, k, row))
            else:
                pieces = zip(*(torch.split(v, sizes) for v in (x, d, y)), row, strict=True)
                found = [through.gradient(a, d, b, k, out) for a, d, b, out in pieces]
                losses.append(torch.cat(found))
    return total(rows), group, gather(torch.stack(losses), 1)


def frank_wolfe(
    through: Passes,
    x: Tensor,
    y: Tensor,
    deltas: Tensor,
    tol: float,
    max_iter: int,
    measure_gap: bool,
    shift: Tensor | float = 0.0,
) -> ProductPoint:
    """One forward-mode pass along ``w`` gives every ``<w, grad L_ij>``; one backward pass gives the
    vertex they pick. All vertices, and so ``w``, are moved by ``shift``, ``(d,)``.
    """
    k, sample = len(x) * world(), torch.arange(len(x), device=x.device)

    def vertex(chosen: Tensor) -> Tensor:
        through.gradient(x, chosen, y, k, row := through.rows())
        return total(row) + shift

    with frozen(through.model):
        w, steps = vertex(deltas[0]), 0  # from the first restart
        weights = torch.zeros(deltas.shape[:2], dtype=w.dtype, device=x.device)
        weights[0] = 1
        while True:
            pairs = [through.along(x, d, y, w / k) for d in deltas]
            losses, slopes = (torch.stack(some) for some in zip(*pairs, strict=True))
            pick = slopes.argmin(0)
            gap = float(total((weights * (slopes - slopes.amin(0))).sum()))
            length = _number(w @ w)
            if gap <= tol * length or steps == max_iter:
                break
            away, steps = w - vertex(deltas[pick, sample]), steps + 1
            squared = _number(away @ away)
            step = min(1.0, _number(gap) / max(squared, torch.finfo(w.dtype).tiny))
            w = w - step * away
            weights = (1 - step) * weights
            weights[pick, sample] += step
            if steps == max_iter and not measure_gap:  # twice what the objective can still fall
                gap = max(0.0, 2 * gap - 2 * step * gap + step**2 * squared)
                break
    losses = still_finite("the loss", gather(losses, 1))
    return ProductPoint(w, gather(weights, 1), _number(gap), steps, losses)


def still_finite(what: str, values: Tensor) -> Tensor:
    """``values`` if all are finite.

    Raises:
        FloatingPointError: if not: training diverges, or the numbers overflow.
    """
    if not all(math.isfinite(v) for v in torch.aminmax(values.detach())):
        raise FloatingPointError(f"{what} is not finite")
    return values


def finite_gram(rows: Tensor) -> Tensor:
    """The Gram matrix of the rows, on the CPU, where the problem is solved; errors as
    :func:`still_finite`.
    """
    gram = products(rows).cpu()
    still_finite("the gradient", gram.diagonal())
    return gram


def _number(value: Tensor | float) -> float:
    if not math.isfinite(value):
        raise FloatingPointError("the gradient is not finite")
    return float(value)
