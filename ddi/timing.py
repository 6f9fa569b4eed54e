"""Times and memory compared fairly: jobs in turn, ratios inside a round, and rows that know their goal."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["Jobs", "Row", "interleaved", "lines", "peak_memory", "ratio"]

Jobs = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Row:
    """One line of the table: a median with its quartiles, the work limit, and the goal for this kind of device."""

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    limit: float = math.nan
    goal: str | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; ``None`` without one."""
        if self.goal is None or math.isnan(self.value):
            return None
        sign, bound = self.goal.split()[:2]
        least = float(bound) * (self.limit if self.goal.endswith("limit") else 1)
        return self.value <= least if sign == "<=" else self.value >= least

    def plain(self) -> dict[str, Any]:
        """For JSON, without NaN."""
        values = {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in vars(self).items()}
        return values | {"met": self.met}


def interleaved(jobs: Jobs, rounds: int, device: torch.device) -> dict[str, np.ndarray]:
    """Seconds of every job in every round; one round before them warms up, and every other round runs backwards."""
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
    return int(np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]).max(initial=0))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def lines(rows: Iterable[Row]) -> Iterable[str]:
    """The rows as text."""
    for row in rows:
        spread = "" if math.isnan(row.low) else f" ({row.low:.3g} ... {row.high:.3g})"
        limit = "" if math.isnan(row.limit) else f"; work limit {row.limit:.3g}"
        goal = (
            "" if row.goal is None else f"; goal {row.goal}{'' if row.met is None else ': met' if row.met else ': MISSED'}"
        )
        value = "absent" if math.isnan(row.value) else f"{row.value:.3g}"
        yield f"{row.name:45} {value}{spread}{limit}{goal}{f'  [{row.note}]' if row.note else ''}"
