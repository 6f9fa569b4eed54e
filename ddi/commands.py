"""What the commands of :mod:`ddi.__main__` do, with their options as arguments; each returns an
exit status.
"""

import importlib
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddi import _checks as check
from ddi import _words as words
from ddi import parallel, plots
from ddi.checkpoint import Checkpoints
from ddi.data import Dataset, load_data
from ddi.experiment import Run, read_experiment, read_file
from ddi.plan import check_model, check_plan
from ddi.record import AlreadyComplete, Record, read_record, read_records

__all__ = ["Terminated", "data", "device_named", "list_folder", "report", "run", "summary"]


class Terminated(BaseException):
    """The process was asked to end (SIGTERM)."""


def device_named(name: str | None) -> torch.device:
    """A device that is there; by default a GPU, if there is one.

    Raises:
        ValueError: if it is not.
    """
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    return check.device("device", usual if name is None else name)


def run(
    runs: Sequence[Run],
    out: str,
    device: str | None = None,
    checkpoint_every: int | None = None,
    tensorboard: bool = False,
    quiet: bool = False,
    dry_run: bool = False,
) -> int:
    """Train all runs that are not complete yet; says where it stopped if it is stopped."""
    at: list[Run] = []
    threads = torch.get_num_threads()
    try:
        launched = torch.distributed.is_torchelastic_launched()
        place = parallel.start() if launched else device_named(device)
        data = load_data(runs[0].data).to(place)
        if place.type == "cpu" and data.x_train[0].numel() < 1024:
            torch.set_num_threads(1)  # on small images threads wait longer than they compute
        folder = words.path("out", out)
        _check_runs(runs, data, folder)
        if dry_run:
            for one in runs:
                epochs = f"{one.rule.name}, {one.setting.epochs} epochs on {data.name} ({place})"
                _say(f"{one.experiment}/{one.name}: {epochs}")
            return 0
        through = []
        for one in runs:
            at.append(one)
            if _one_run(one, data, out, checkpoint_every, tensorboard, quiet):
                through.append(one.name)
        if parallel.rank() == 0:
            _draw(through, folder / runs[0].experiment)
        return int(len(through) < len(runs))
    except (KeyboardInterrupt, Terminated) as stop:
        _say(_where_it_stopped(at[-1].folder(out) if at else None), error=True)
        return 143 if isinstance(stop, Terminated) else 130
    finally:
        torch.set_num_threads(threads)


def _one_run(
    one: Run, data: Dataset, out: str, every: int | None, tensorboard: bool, quiet: bool
) -> bool:
    """Train one run; what stops only it is told (``False``), and the others go on."""
    folder = one.folder(out)
    try:
        one.train(data, out, every, not quiet, tensorboard)
    except AlreadyComplete:
        _say(f"{folder}: complete, kept")
        return True
    except FloatingPointError as error:  # a finding, and no reason to drop the other arms
        _say(f"{folder}: {error}; incomplete", error=True)
        return False
    except (FileExistsError, ValueError) as error:
        _say(f"ddi: {error}", error=True)
        return False
    _say(f"{folder}: {_numbers(read_record(folder))}" if parallel.rank() == 0 else "")
    return True


def _check_runs(runs: Sequence[Run], data: Dataset, out: Path) -> None:
    """What would fail only in the run fails here: a plan that does not fit the data, a network that
    does not fit the images, a folder that cannot be written.
    """
    seen = set()
    for one in runs:
        try:
            check_plan(one.setting, one.plan, data)
            if repr(one.model) not in seen:
                seen.add(repr(one.model))
                check_model(one.make_model(data), data)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{one.experiment}, arm {one.arm}, on {data.name}: {error}") from error
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        check.refuse("out", "a folder that can be written to", str(out))


def _where_it_stopped(folder: Path | None) -> str:
    if folder is None:
        return "ddi: stopped before the first run; the same command begins again"
    try:
        state = Checkpoints(folder, None).load()
    except (ValueError, OSError):
        state = None
    if state is None:
        return f"ddi: stopped in {folder}, before its first checkpoint; the same command begins it"
    at = state["at"]
    step = f", step {at['step']} of the next" if at["step"] else ""
    return (
        f"ddi: stopped in {folder}; the same command goes on from its checkpoint "
        f"after epoch {at['epoch']}{step}"
    )


def _draw(names: Sequence[str], folder: Path) -> None:
    """Curves of all records of the experiment, and a summary of the runs of this command."""
    records = [record for record in read_records(folder) if "robust" in record.metrics]
    if not records:
        return
    done = [record for record in records if record.complete and record.name in names]
    _say("\n".join(summary(done)))
    plots.save_curves(records, folder / "curves.png")
    _say(f"curves: {folder / 'curves.png'}")


def summary(records: Sequence[Record]) -> list[str]:
    """Lines that say which arm is ahead of which, by how much against the spread over seeds, and in
    how many passes, by robust validation accuracy after the last epoch.
    """
    last = {
        arm: [one.row() for one in of_arm]
        for arm, of_arm in plots.by_arm(records).items()
        if of_arm
    }
    if not last:
        return []
    mean = {arm: float(np.mean([row["robust"] for row in rows])) for arm, rows in last.items()}
    spread = {
        arm: float(np.std([row["robust"] for row in rows], ddof=1)) if len(rows) > 1 else np.nan
        for arm, rows in last.items()
    }
    order = sorted(mean, key=lambda arm: -mean[arm])
    lines = [
        "robust validation accuracy after the last epoch, mean over seeds ± standard deviation"
    ]
    for arm in order:
        seeds, passes = len(last[arm]), last[arm][0]["passes"]
        error = f"± {spread[arm]:.4f}" if seeds > 1 else " " * 8
        plural = "s" if seeds > 1 else ""
        lines.append(
            f"  {arm:20} {mean[arm]:.4f} {error} {passes:>9.0f} passes, {seeds} seed{plural}"
        )
    if len(order) > 1:
        lines += _lead(order, mean, spread, last)
    return lines


def _lead(
    order: Sequence[str],
    mean: dict[str, float],
    spread: dict[str, float],
    last: dict[str, list[dict[str, float]]],
) -> list[str]:
    """Which arms the first is ahead of, and which the spread over seeds does not tell from it."""
    first = order[0]
    one_seed = not all(np.isfinite(spread[arm]) for arm in order)
    apart: list[str] = []
    level: list[str] = []
    for arm in order[1:]:
        ahead = mean[first] - mean[arm]
        ratio = last[arm][0]["passes"] / last[first][0]["passes"]
        clear = ahead > 2 * max(spread[first], spread[arm])
        (apart if clear else level).append(f"{arm} (by {ahead:.4f}; {ratio:.2g} times its passes)")
    if one_seed:
        words = "one seed says nothing about the spread"
        return [f"{first} ahead of {', '.join([*apart, *level])}; {words}"]
    lines = [f"{first} ahead by more than twice the spread over seeds: {', '.join(apart)}"]
    lines += [f"{first} ahead by what that spread could explain: {', '.join(level)}"]
    return [line for line, arms in zip(lines, (apart, level), strict=True) if arms]


def _numbers(record: Record) -> str:
    best, last = record.row("best"), record.row("last")
    text = f"best epoch {best['epoch']:.0f}: robust {best['robust']:.4f}, clean {best['clean']:.4f}"
    return (
        f"{text}; last epoch {last['epoch']:.0f}: robust {last['robust']:.4f}, "
        f"clean {last['clean']:.4f} (validation)"
    )


def _say(text: str, error: bool = False) -> None:
    """Print, once for all processes."""
    if text and parallel.rank() == 0:
        print(text, file=sys.stderr if error else sys.stdout, flush=True)


def data(name: str, download: bool = False) -> int:
    """Say what a data set holds."""
    found = load_data(name, download=download)
    for split in ("train", "test"):
        x = getattr(found, f"x_{split}")
        print(
            f"{found.name} {split}: {len(x)} images {tuple(x.shape[1:])}, {found.classes} classes"
        )
    print(f"sha256 {found.sha256()}")
    return 0


def list_folder(name: str) -> int:
    """List the experiments and the records of a folder; what is damaged is named, status 1."""
    folder, status = words.path("folder", name), 0
    files, records = sorted(folder.glob("*.toml")), sorted(folder.glob("**/provenance.json"))
    if not files and not records:
        raise FileNotFoundError(f"{folder} holds neither experiments (*.toml) nor records")
    for path in [*files, *records]:
        try:
            line = _line(path)
        except (ValueError, OSError) as error:
            status = 1
            print(f"ddi: {error}", file=sys.stderr)
        else:
            print(line)
    return status


def _line(path: Path) -> str:
    if path.suffix == ".toml":
        runs = read_experiment(path)
        arms = ", ".join(dict.fromkeys(run.arm for run in runs))
        title = read_file(path).get("title", "")
        return f"{path}: {title}\n  {len(runs)} runs on {runs[0].data}: {arms}"
    record = read_record(path.parent)
    state = "complete" if record.complete else "incomplete"
    rows = len(next(iter(record.metrics.values()), np.empty(0)))
    numbers = _numbers(record) if "robust" in record.metrics else f"{rows} rows"
    return f"{path.parent}: {state}; {record.provenance.get('data', 'no data named')}; {numbers}"


def report() -> int:
    """Print what to paste where a check fails on a new machine."""
    package: Any = importlib.import_module("ddi")
    lines = {
        "ddi": package.__version__,
        "python": f"{platform.python_version()} ({platform.system()} {platform.machine()})",
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": _processor(),
        "capability": f"{torch.backends.cpu.get_cpu_capability()}",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} processors",
        "BLAS": _blas(),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
    for key, value in lines.items():
        print(f"{key:11}{value}")
    return 0


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        models = [line.partition(":")[2] for line in text.splitlines() if "model name" in line]
    except OSError:
        models = []
    return models[0].strip() if models else platform.processor() or platform.machine()


def _blas() -> str:
    numpy = np.show_config(mode="dicts") or {}
    blas = numpy.get("Build Dependencies", {}).get("blas", {})
    own = f"NumPy {blas.get('name', 'unknown')} {blas.get('version', '')}".strip()
    mkl: Any = torch.backends.mkl
    return f"torch {'with' if mkl.is_available() else 'without'} MKL, {own}"
