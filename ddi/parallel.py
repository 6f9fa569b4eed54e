"""Several processes for one batch: each takes its share of the samples, and sums are taken over
all.

Nothing here does anything until ``torch.distributed`` has been initialised (``torchrun``). Every
process then calls a rule with the same weights, the same whole batch (no ``DistributedSampler``)
and the same generator state, and gets the same update as one process would; other weights or
another batch are refused (:func:`alike`). Two things are not as in one process: in training mode
BatchNorm normalises every share by its own mean and variance (its running statistics are averaged
over the processes), and every process draws the same dropout mask for its share.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

__all__ = [
    "alike",
    "average_buffers",
    "gather",
    "on_first",
    "own",
    "rank",
    "sent",
    "start",
    "total",
    "world",
]

T = TypeVar("T")


def start() -> torch.device:
    """Join the processes that ``torchrun`` started (NCCL with GPUs, gloo without); returns this
    process's device.
    """
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(rank() % torch.cuda.device_count())
    return torch.device("cuda", torch.cuda.current_device())


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if world() > 1 else 0


def own(count: int) -> slice:
    """The samples of a batch of ``count`` that are this process's.

    Raises:
        ValueError: if ``count`` is not a multiple of the number of processes.
    """
    if count % world():
        raise ValueError(
            f"the batch must be a multiple of the {world()} processes, got {count} samples"
        )
    size = count // world()
    return slice(rank() * size, (rank() + 1) * size)


def alike(parameters: Iterable[Tensor], x: Tensor, y: Tensor) -> None:
    """Whether all processes have the same weights (but for rounding) and the very same batch.

    Raises:
        ValueError: in all of them, if not.
    """
    if world() == 1:
        return
    weights = torch.cat([p.detach().flatten().double() for p in parameters])
    sums = torch.stack([part.sum() for part in weights.chunk(8)]) / weights.norm().clamp_min(1e-9)
    sums = sums.nan_to_num(1e9, 1e9, -1e9)  # a largest NaN is no number to compare
    parts = {"model": sums, "x": _mark(x), "y": _mark(y)}
    marks = torch.cat([part.to(x.device) for part in parts.values()])
    most = torch.stack([marks, -marks])
    dist.all_reduce(most, dist.ReduceOp.MAX)
    spread = torch.split(most.sum(0), [len(part) for part in parts.values()])
    for name, between in zip(parts, spread, strict=True):
        if (between > 1e-3).any():  # of other initial weights the sums differ by a tenth and more
            raise ValueError(
                f"{name} must be the same in all {world()} processes, and is not: each takes its "
                "share of one batch (no DistributedSampler), with one network (the same seed)"
            )


def _mark(tensor: Tensor) -> Tensor:
    """A whole number made of a batch's bits and their places: another for other samples, another
    order, or images that were mirrored or shifted.
    """
    rows = (tensor + 0).reshape(len(tensor), -1).contiguous()  # -0.0 becomes 0.0, which it equals
    bits = rows.view({1: torch.int8, 2: torch.int16}.get(rows.element_size(), torch.int32))
    odd = 2 * torch.arange(max(bits.shape), device=rows.device) + 1
    across = (bits * odd[: bits.shape[1]]).sum(1)  # int64: what is too large goes round
    mark = (across * odd[: len(bits)]).sum() + rows.numel()
    return (mark % 2**52).double()[None]


def total(tensor: Tensor) -> Tensor:
    """Sum over the processes, in place."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather(tensor: Tensor, dim: int) -> Tensor:
    """The processes' tensors, of one shape, one after the other along ``dim``."""
    if world() == 1:
        return tensor
    parts = [
        torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world())
    ]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts, dim)


def sent(value: T) -> T:
    """The first process's value, in all of them."""
    if world() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box)
    return box[0]


def on_first(make: Callable[[], T]) -> T | None:
    """What ``make`` returns, called by the first process alone; ``None`` in the others. If it
    raises, all of them raise that.
    """
    made, failure = None, None
    if rank() == 0:
        try:
            made = make()
        except Exception as error:
            failure = error
    if (failure := sent(failure)) is not None:
        raise failure
    return made


def average_buffers(model: nn.Module) -> None:
    """Running statistics (BatchNorm) become the mean of the processes' own, in place."""
    if world() > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                total(buffer.div_(world()))
