"""The product direction: every mix of per-sample maximisers is a maximiser of the batch.

The batch loss is ``g = 1/k sum_i L_i(theta, d_i)``, so its maximisers are a product set, and the
steepest descent direction solves ``min || 1/k sum_i G_i a_i ||`` over one simplex a *sample*. Three
ways to it: per-sample gradients and one Gram matrix (exact; memory ``m k d``), chunks that choose
together (exact for the coarser product; memory ``m c d``), and matrix-free Frank-Wolfe by
forward-mode derivatives (memory ``O(d)``, certified by its gap).

Under ``torchrun`` each process gives its share of the batch, of equal size; what is returned is
that of the whole batch.
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

__all__ = [
    "ProductPoint",
    "chunk_gradients",
    "per_sample_gradients",
    "product_point",
    "sample_losses",
]

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class ProductPoint:
    """Point of least norm of the sum of the samples' hulls.

    Attributes:
        vector: ``w``, ``(d,)``, in the order of ``model.parameters()``: the direction to
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
    loss: Loss = cross_entropy,
    tol: float = 1e-6,
    max_iter: int = 100,
    certify: bool = True,
) -> ProductPoint:
    """Solve ``min || 1/k sum_i sum_j a_ji grad L_ij ||`` over one simplex a sample, ``L_ij =
    loss(model(x_i + d_ji), y_i)``.

    Args:
        model: run in eval mode and left as found. x: ``(k, ...)``. y: ``(k,)``. deltas: ``(m, k,
            ...)``.
        method: ``"gram"``, ``"chunks"`` or ``"matrix-free"`` (see the module).
        chunks: number of parts of the batch that each choose together; needed by, and only for,
            ``"chunks"``.
        loss: one value a sample.
        tol, max_iter: for ``"matrix-free"``: stop at ``gap <= tol * ||w||^2`` or after ``max_iter``
            steps.
        certify: for ``"matrix-free"``: measure the gap after the last step too, by ``m`` passes.
            Without, ``gap`` is what the line search of that step proves, for which the same two
            inequalities hold.

    Raises:
        ValueError: for shapes that do not agree, an unknown method, or an impossible number of
            chunks.
    """
    _check(x, y, deltas)
    m = len(deltas)
    if method not in ("gram", "chunks", "matrix-free"):
        raise ValueError(f'method must be "gram", "chunks" or "matrix-free", got {method!r}')
    if (method == "chunks") != (chunks is not None):
        raise ValueError(
            f'chunks must be given with method="chunks" and only then, got {chunks!r} with {method!r}'
        )
    if method == "matrix-free":
        return _frank_wolfe(model, x, y, deltas, loss, tol, max_iter, certify)
    rows, part, losses = product_rows(model, x, y, deltas, chunks, loss)
    groups, rows = torch.arange(rows.shape[1]).repeat(m), rows.flatten(0, 1)
    point = min_norm_product(gram_matrix(rows), groups)
    weights = point.weights.to(rows)
    return ProductPoint(
        weights @ rows, weights.view(m, -1)[:, part], float(point.gap), point.iterations, losses
    )


def product_rows(
    model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor, chunks: int | None, loss: Loss
) -> tuple[Tensor, Tensor, Tensor]:
    """The vectors that the product is taken of, ``(m, parts, d)``, a sample's part ``(k,)``, and
    the losses ``(m, k)``.
    """
    k = len(x) * world()
    if chunks is not None:
        return _chunk_gradients(model, x, y, deltas, chunks, loss)
    with frozen(model):
        each = [_part_gradients(model, x + d, y, len(x), loss) for d in deltas]
    rows, losses = (torch.stack(some) for some in zip(*each, strict=True))
    return gather(rows, 1) / k, torch.arange(k), gather(losses, 1)


def sample_losses(
    model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor, loss: Loss = cross_entropy
) -> Tensor:
    """The values ``L_ij``, ``(m, k)``, in eval mode and without a graph."""
    _check(x, y, deltas)
    with frozen(model), torch.no_grad():
        return torch.stack([loss(model(x + d), y) for d in deltas])


def per_sample_gradients(
    model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor, loss: Loss = cross_entropy
) -> Tensor:
    """``grad L_ij`` of every sample at every perturbation, ``(m, k, d)``, flat in the order of
    ``model.parameters()``.
    """
    _check(x, y, deltas)
    with frozen(model):
        return torch.stack([_part_gradients(model, x + d, y, len(x), loss)[0] for d in deltas])


def chunk_gradients(
    model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor, chunks: int, loss: Loss = cross_entropy
) -> tuple[Tensor, Tensor]:
    """Gradients of the batch loss restricted to each chunk, ``1/k sum_{i in chunk} grad L_ij``.

    Returns: ``(m, chunks, d)``, and the chunk of each sample, ``(k,)``: consecutive samples, sizes
        differing by at most 1.
    """
    _check(x, y, deltas)
    return _chunk_gradients(model, x, y, deltas, chunks, loss)[:2]


def _chunk_gradients(
    model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor, chunks: int, loss: Loss
) -> tuple[Tensor, Tensor, Tensor]:
    k = len(x) * world()
    whole("chunks", chunks, k)
    part = torch.arange(k) * chunks // k
    mine, sizes = (
        v.tolist() for v in part[rank() * len(x) :][: len(x)].unique_consecutive(return_counts=True)
    )
    new = x.new_empty if world() == 1 else x.new_zeros  # the other processes' rows are added
    rows = new(len(deltas), chunks, sum(p.numel() for p in model.parameters()))
    losses = x.new_empty(len(deltas), len(x))
    with frozen(model):
        for row, values, d in zip(rows, losses, deltas, strict=True):
            if (
                k < 8 * chunks and k % chunks == 0 and chunks % world() == 0
            ):  # small parts of equal size, all at once
                gradients, values[:] = _part_gradients(model, x + d, y, chunks // world(), loss)
                torch.div(gradients, k, out=row[mine[0] : mine[-1] + 1])
                continue
            for c, images, labels, their in zip(
                mine, (x + d).split(sizes), y.split(sizes), values.split(sizes), strict=True
            ):
                _, their[:] = _sum_gradient(model, images, labels, loss, k, row[c])
    return total(rows), part, gather(losses, 1)


def _frank_wolfe(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    deltas: Tensor,
    loss: Loss,
    tol: float,
    max_iter: int,
    certify: bool,
) -> ProductPoint:
    """One forward-mode pass along ``w`` gives every ``<w, grad L_ij>``; one backward pass gives the
    vertex they pick.
    """
    k, sample = len(x) * world(), torch.arange(len(x), device=x.device)
    weights = torch.zeros(deltas.shape[:2], dtype=x.dtype, device=x.device)
    weights[0] = 1  # from the first restart
    with frozen(model):
        w = total(_sum_gradient(model, x + deltas[0], y, loss, k)[0])
        for steps in count():
            losses, slopes = losses_along(model, x, y, deltas, w / k, loss)
            pick = slopes.argmin(0)
            gap = float(total((weights * (slopes - slopes.amin(0))).sum()))
            if gap <= tol * float(w @ w) or steps == max_iter:
                break
            away = w - total(_sum_gradient(model, x + deltas[pick, sample], y, loss, k)[0])
            step = min(1.0, gap / max(float(away @ away), torch.finfo(w.dtype).tiny))
            w = w - step * away
            weights = (1 - step) * weights
            weights[pick, sample] += step
            if (
                not certify and steps + 1 == max_iter
            ):  # |w - w*|^2 is at most twice what the objective can still fall
                gap, steps = (
                    max(0.0, 2 * gap - 2 * step * gap + step**2 * float(away @ away)),
                    max_iter,
                )
                break
    return ProductPoint(w, gather(weights, 1), gap, steps, gather(losses, 1))


def losses_along(
    model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor, w: Tensor, loss: Loss
) -> tuple[Tensor, Tensor]:
    """Losses and ``<w, grad L_ij>`` of every sample and perturbation, both ``(m, k)``: ``m``
    forward-mode passes.
    """
    model = getattr(model, "eager", model)
    params = _parameters(model)
    parts = w.split([p.numel() for p in params.values()])
    tangent = {name: part.view_as(p) for (name, p), part in zip(params.items(), parts, strict=True)}

    def losses(q: Parameters, d: Tensor) -> Tensor:
        return loss(functional_call(model, q, (x + d,)), y)

    with (
        warnings.catch_warnings()
    ):  # torch's own decompositions for forward mode still use torch.jit.script
        warnings.filterwarnings("ignore", message=".*torch.jit", category=Warning)
        both = [jvp(partial(losses, d=d), (params,), (tangent,)) for d in deltas]
    values, slopes = (torch.stack(some) for some in zip(*both, strict=True))
    return values, slopes


def _part_gradients(
    model: nn.Module, images: Tensor, y: Tensor, parts: int, loss: Loss
) -> tuple[Tensor, Tensor]:
    """Gradients ``(parts, d)`` of the sums of the losses of consecutive parts of equal size, and
    the losses.
    """
    model = getattr(model, "eager", model)

    def value(params: Parameters, some: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        losses = loss(functional_call(model, params, (some,)), labels)
        return losses.sum(), losses

    pieces = (v.unflatten(0, (parts, -1)) for v in (images, y))
    each, losses = vmap(grad(value, has_aux=True), in_dims=(None, 0, 0))(
        _parameters(model), *pieces
    )
    return torch.cat([g.flatten(1) for g in each.values()], 1), losses.flatten()


def _sum_gradient(
    model: nn.Module, images: Tensor, y: Tensor, loss: Loss, k: int, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Flat gradient of ``1/k`` times the sum of the losses, and these; inside ``frozen``, which
    undoes what this sets.
    """
    params = [p.requires_grad_() for p in model.parameters()]
    with torch.enable_grad():
        losses = loss(model(images), y)
        gradient = torch.autograd.grad(losses.sum() / k, params)
    return torch.cat([g.flatten() for g in gradient], out=out), losses.detach()


def _parameters(model: nn.Module) -> Parameters:
    return {name: p.detach() for name, p in model.named_parameters()}


def _check(x: Tensor, y: Tensor, deltas: Tensor) -> None:
    check_floats("x", x, 2)
    check_labels(y, len(x))
    check_floats("deltas", deltas, 3)
    if deltas.shape[1:] != x.shape:
        raise ValueError(
            f"deltas must have shape (m, {', '.join(map(str, x.shape))}), got {tuple(deltas.shape)}"
        )
