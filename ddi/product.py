"""The product direction: every mix of per-sample maximisers is a maximiser of the batch.

The batch loss is ``g = 1/k sum_i L_i(theta, d_i)``, so its maximisers are a product set, and the steepest descent
direction solves ``min || 1/k sum_i G_i a_i ||`` over one simplex a *sample*. Three ways to it: per-sample gradients and
one Gram matrix (exact; memory ``m k d``), chunks that choose together (exact for the coarser product; memory
``m c d``), and matrix-free Frank-Wolfe by forward-mode derivatives (memory ``O(d)``, certified by its gap).

Under ``torchrun`` each process gives its share of the batch, of equal size; what is returned is that of the whole batch.
"""

import warnings
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from ddi.attacks import Loss, check_labels, cross_entropy, frozen
from ddi.danskin import gram_matrix
from ddi.parallel import gather, rank, total, world
from ddi.simplices import check_floats
from ddi.solver import min_norm_product
from ddi.threat import whole

__all__ = ["ProductPoint", "chunk_gradients", "per_sample_gradients", "product_point", "sample_losses"]

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class ProductPoint:
    """Point of least norm of the sum of the samples' hulls.

    Attributes:
        vector: ``w``, ``(d,)``, in the order of ``model.parameters()``: the direction to **subtract**, not normalised.
        weights: ``(m, k)``, non-negative; the column of each sample sums to 1.
        gap: Frank-Wolfe gap of the problem solved; ``||w||^2 - ||w*||^2 <= 2 gap``.
        iterations: iterations of the solver.
    """

    vector: Tensor
    weights: Tensor
    gap: float
    iterations: int


def product_point(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    deltas: Tensor,
    method: str = "gram",
    *,
    chunks: int | None = None,
    loss: Loss = cross_entropy,
    tol: float = 1e-6,
    max_iter: int = 100,
) -> ProductPoint:
    """Solve ``min || 1/k sum_i sum_j a_ji grad L_ij ||`` over one simplex a sample, ``L_ij = loss(model(x_i + d_ji), y_i)``.

    Args:
        model: run in eval mode and left as found. x: ``(k, ...)``. y: ``(k,)``. deltas: ``(m, k, ...)``.
        method: ``"gram"``, ``"chunks"`` or ``"matrix-free"`` (see the module).
        chunks: number of parts of the batch that each choose together; needed by, and only for, ``"chunks"``.
        loss: one value a sample.
        tol, max_iter: for ``"matrix-free"``: stop at ``gap <= tol * ||w||^2`` or after ``max_iter`` steps.

    Raises:
        ValueError: for shapes that do not agree, an unknown method, or an impossible number of chunks.
    """
    _check(x, y, deltas)
    m, k = deltas.shape[0], len(x) * world()
    if method not in ("gram", "chunks", "matrix-free"):
        raise ValueError(f'method must be "gram", "chunks" or "matrix-free", got {method!r}')
    if (method == "chunks") != (chunks is not None):
        raise ValueError(f'chunks must be given with method="chunks" and only then, got {chunks!r} with {method!r}')
    if method == "matrix-free":
        return _frank_wolfe(model, x, y, deltas, loss, tol, max_iter)
    if method == "gram":
        rows, part = gather(per_sample_gradients(model, x, y, deltas, loss), 1) / k, torch.arange(k)
    else:
        rows, part = chunk_gradients(model, x, y, deltas, chunks, loss)
    groups, rows = torch.arange(rows.shape[1]).repeat(m), rows.flatten(0, 1)
    point = min_norm_product(gram_matrix(rows).cpu(), groups)  # one small problem: the CPU is quicker
    weights = point.weights.to(rows)
    return ProductPoint(weights @ rows, weights.view(m, -1)[:, part], float(point.gap), point.iterations)


def sample_losses(model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor, loss: Loss = cross_entropy) -> Tensor:
    """The values ``L_ij``, ``(m, k)``, in eval mode and without a graph."""
    _check(x, y, deltas)
    with frozen(model), torch.no_grad():
        return torch.stack([loss(model(x + d), y) for d in deltas])


def per_sample_gradients(model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor, loss: Loss = cross_entropy) -> Tensor:
    """``grad L_ij`` of every sample at every perturbation, ``(m, k, d)``, flat in the order of ``model.parameters()``."""
    _check(x, y, deltas)
    with frozen(model):
        return torch.stack([_part_gradients(model, x + d, y, len(x), loss) for d in deltas])


def chunk_gradients(
    model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor, chunks: int, loss: Loss = cross_entropy
) -> tuple[Tensor, Tensor]:
    """Gradients of the batch loss restricted to each chunk, ``1/k sum_{i in chunk} grad L_ij``.

    Returns:
        ``(m, chunks, d)``, and the chunk of each sample, ``(k,)``: consecutive samples, sizes differing by at most 1.
    """
    _check(x, y, deltas)
    k = len(x) * world()
    whole("chunks", chunks, k)
    part = torch.arange(k) * chunks // k
    mine = part[rank() * len(x) :][: len(x)].to(x.device)
    rows = x.new_zeros(len(deltas), chunks, sum(p.numel() for p in model.parameters()))
    with frozen(model):
        for row, d in zip(rows, deltas, strict=True):
            if k % chunks == 0 and chunks % world() == 0:  # parts of equal size, all at once
                row[mine.unique()] = _part_gradients(model, x + d, y, chunks // world(), loss) / k
                continue
            for c in mine.unique().tolist():
                row[c] = _sum_gradient(model, (x + d)[mine == c], y[mine == c], loss) / k
    return total(rows), part


def _frank_wolfe(
    model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor, loss: Loss, tol: float, max_iter: int
) -> ProductPoint:
    """One forward-mode pass along ``w`` gives every ``<w, grad L_ij>``; one backward pass gives the vertex they pick."""
    k, sample = len(x) * world(), torch.arange(len(x), device=x.device)
    pick = sample_losses(model, x, y, deltas, loss).argmax(0)
    weights = torch.zeros(deltas.shape[:2], dtype=x.dtype, device=x.device)
    weights[pick, sample] = 1
    with frozen(model):
        w = total(_sum_gradient(model, x + deltas[pick, sample], y, loss)) / k
        for iteration in count():
            slopes = _slopes(model, x, y, deltas, w, loss) / k
            pick = slopes.argmin(0)
            gap = float(total((weights * (slopes - slopes.amin(0))).sum()))
            if gap <= tol * float(w @ w) or iteration == max_iter:
                return ProductPoint(w, gather(weights, 1), gap, iteration)
            away = w - total(_sum_gradient(model, x + deltas[pick, sample], y, loss)) / k
            step = min(1.0, gap / max(float(away @ away), torch.finfo(w.dtype).tiny))
            w = w - step * away
            weights = (1 - step) * weights
            weights[pick, sample] += step


def _slopes(model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor, w: Tensor, loss: Loss) -> Tensor:
    """``<w, grad L_ij>`` of every sample and perturbation, ``(m, k)``: ``m`` forward-mode passes."""
    params = _parameters(model)
    parts = w.split([p.numel() for p in params.values()])
    tangent = {name: part.view_as(p) for (name, p), part in zip(params.items(), parts, strict=True)}

    def losses(q: Parameters, d: Tensor) -> Tensor:
        return loss(functional_call(model, q, (x + d,)), y)

    with warnings.catch_warnings():  # torch's own decompositions for forward mode still use torch.jit.script
        warnings.filterwarnings("ignore", message=".*torch.jit", category=Warning)
        along = [jvp(partial(losses, d=d), (params,), (tangent,))[1] for d in deltas]
    return torch.stack(along)


def _part_gradients(model: nn.Module, images: Tensor, y: Tensor, parts: int, loss: Loss) -> Tensor:
    """Gradients ``(parts, d)`` of the sums of the losses of consecutive parts of equal size."""

    def value(params: Parameters, some: Tensor, labels: Tensor) -> Tensor:
        return loss(functional_call(model, params, (some,)), labels).sum()

    pieces = (v.unflatten(0, (parts, -1)) for v in (images, y))
    each = vmap(grad(value), in_dims=(None, 0, 0))(_parameters(model), *pieces)
    return torch.cat([g.flatten(1) for g in each.values()], 1)


def _sum_gradient(model: nn.Module, images: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """Flat gradient of the sum of the losses."""
    gradient = grad(lambda params: loss(functional_call(model, params, (images,)), y).sum())(_parameters(model))
    return torch.cat([g.flatten() for g in gradient.values()])


def _parameters(model: nn.Module) -> Parameters:
    return {name: p.detach() for name, p in model.named_parameters()}


def _check(x: Tensor, y: Tensor, deltas: Tensor) -> None:
    check_floats("x", x, 2)
    check_labels(y, len(x))
    check_floats("deltas", deltas, 3)
    if deltas.shape[1:] != x.shape:
        raise ValueError(f"deltas must have shape (m, {', '.join(map(str, x.shape))}), got {tuple(deltas.shape)}")
