"""Times and memory compared fairly: jobs in turn, and ratios inside a round."""

import math
import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Self

import numpy as np
import torch
from torch import multiprocessing

from ddi import parallel

Jobs = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Row:
    """One line of the table: a median with its quartiles, and the work limit."""

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    limit: float = math.nan
    note: str = ""

    def plain(self) -> dict[str, Any]:
        """For JSON, without NaN."""
        return {
            key: None if isinstance(v, float) and math.isnan(v) else v
            for key, v in vars(self).items()
        }


def interleaved(jobs: Jobs, rounds: int, device: torch.device) -> dict[str, np.ndarray]:
    """Seconds of every job in every round; one round before them warms up, and every other round
    runs backwards.
    """
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name in list(jobs)[:: 1 if turn % 2 else -1]:
            _wait(device)
            start = time.perf_counter()
            jobs[name]()
            _wait(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values[1:]) for name, values in seconds.items()}


def ratio(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Median and quartiles of the quotients, round by round."""
    low, middle, high = np.quantile(one / other, (0.25, 0.5, 0.75))
    return {"value": float(middle), "low": float(low), "high": float(high)}


def peak_memory(job: Callable[[], object], device: torch.device) -> int:
    """Most bytes that a job holds beyond what was held before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        job()
        return torch.cuda.max_memory_allocated(device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        job()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return int(
        np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]).max(initial=0)
    )


class Processes:
    """New processes on this machine, joined as ``torchrun`` would join them; calling this runs a
    job in all at once.

    Args:
        count: of processes. threads: of each. jobs: from a process's device to its jobs; it is
            pickled.

    Raises:
        EOFError: from a call, if a process has died; its own message stands in the error output.
    """

    def __init__(self, count: int, threads: int, jobs: Callable[[torch.device], Jobs]) -> None:
        context = multiprocessing.get_context("spawn")
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        pipes = [context.Pipe() for _ in range(count)]
        self._pipes = [ours for ours, _ in pipes]
        for rank, (_, theirs) in enumerate(pipes):
            place = {
                "RANK": rank,
                "WORLD_SIZE": count,
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": port,
            }
            context.Process(target=_serve, args=(place, threads, jobs, theirs), daemon=True).start()
            theirs.close()

    def __call__(self, name: str) -> None:
        for pipe in self._pipes:
            pipe.send(name)
        for pipe in self._pipes:
            pipe.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()


def _serve(
    place: dict[str, int | str],
    threads: int,
    jobs: Callable[[torch.device], Jobs],
    pipe: Connection,
) -> None:
    os.environ.update({key: str(value) for key, value in place.items()})
    torch.set_num_threads(threads)
    device = parallel.start()
    torch.manual_seed(0)  # the processes draw alike
    mine = jobs(device)
    try:
        while True:
            name = pipe.recv()
            mine[name]()
            _wait(device)
            pipe.send(name)
    except EOFError:  # the other end is closed
        torch.distributed.destroy_process_group()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def lines(rows: Iterable[Row]) -> Iterable[str]:
    """The rows as text."""
    for row in rows:
        spread = "" if math.isnan(row.low) else f" ({row.low:.3g} ... {row.high:.3g})"
        limit = "" if math.isnan(row.limit) else f"; work limit {row.limit:.3g}"
        value = "absent" if math.isnan(row.value) else f"{row.value:.3g}"
        yield f"{row.name:50} {value}{spread}{limit}{f'  [{row.note}]' if row.note else ''}"
