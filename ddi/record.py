"""Records: one folder a run, with its configuration, its numbers and where they come from.

``results/<experiment>/<arm>-seed<k>/`` holds ``config.toml``, ``metrics.csv`` (a row an epoch) and
``provenance.json``. Every write is atomic; a run that dies leaves a record that says ``"complete":
false``.
"""

import csv
import io
import json
import os
import platform
import subprocess
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch

from ddi.data import Dataset

__all__ = ["Record", "RunWriter", "provenance", "read_record", "read_records"]


@dataclass(frozen=True)
class Record:
    """One recorded run, as read: its folder's name, configuration, metrics by column, and
    provenance.
    """

    name: str
    config: dict[str, Any]
    metrics: dict[str, np.ndarray]
    provenance: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether the run reached its end."""
        return bool(self.provenance.get("complete"))

    def row(self, which: str = "last") -> dict[str, float]:
        """The metrics of the ``"last"`` evaluated epoch, or of the ``"best"``, by robust validation
        accuracy.
        """
        if which not in ("last", "best") or not self.metrics:
            raise ValueError(
                f'which must be "last" or "best", of a record with rows; got {which!r} for {self.name}'
            )
        i = -1 if which == "last" else int(self.metrics["robust"].argmax())
        return {key: float(column[i]) for key, column in self.metrics.items()}


def provenance(
    dataset: Dataset | None, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """What the numbers of a run depend on: device, driver, versions, commit, and the data set, if
    any, with its hash.
    """
    device = torch.device(device)
    cuda = device.type == "cuda"
    source = {
        "device": torch.cuda.get_device_name(device)
        if cuda
        else platform.processor() or platform.machine(),
        "cuda": torch.version.cuda if cuda else None,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        if cuda
        else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "dtype": str(dtype).removeprefix("torch."),
        "commit": _commit(),
    }
    return source | ({"data": dataset.name, "data_sha256": dataset.sha256()} if dataset else {})


def _commit() -> str | None:
    """Commit of the repository that holds this package, ``-dirty`` if tracked files outside
    ``results/`` differ.

    Where there is no repository (a copy on another machine), ``DDI_COMMIT`` may say which commit
    was copied.
    """
    git = ["git", "-C", str(Path(__file__).parent)]
    head = _output(*git, "rev-parse", "HEAD")
    if head is None:
        return os.environ.get("DDI_COMMIT")
    changed = _output(*git, "diff", "--name-only", "HEAD", "--", ":/", ":(top,exclude)results")
    return f"{head}-dirty" if changed else head


def _output(*command: str) -> str | None:
    """First line that a program prints, or ``None`` if it is not there or fails."""
    try:
        return (
            subprocess.run(command, capture_output=True, text=True, check=True)
            .stdout.partition("\n")[0]
            .strip()
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("TensorBoard is not installed: pip install tensorboard") from error
    return SummaryWriter(folder)


def write_json(path: str | Path, thing: Any) -> None:
    """Write ``thing`` atomically."""
    _write(Path(path), json.dumps(thing, indent=2) + "\n")


class RunWriter:
    """Writes one run's folder; use as a context manager, so that leaving it without an error marks
    the run complete.

    Args:
        folder: ``results/<experiment>/<arm>-seed<k>``; made if missing, refused if it holds a
            complete record.
        config: what was asked for; TOML-able.
        source: the result of :func:`provenance`.
        tensorboard: write the rows to ``<folder>/tensorboard`` too.

    Raises:
        FileExistsError: if the folder already holds a complete record.
        ImportError: if TensorBoard is asked for and not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        config: dict[str, Any],
        source: dict[str, Any],
        tensorboard: bool = False,
    ) -> None:
        self.folder = Path(folder)
        if (self.folder / "provenance.json").exists() and read_record(self.folder).complete:
            raise FileExistsError(
                f"{self.folder} already holds a complete record; move it away to run again"
            )
        self.board = _board(self.folder / "tensorboard") if tensorboard else None
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, float]] = []
        self.source = dict(source)
        self._start = time.perf_counter()
        _write(self.folder / "config.toml", tomli_w.dumps(config))
        self._finish(False)

    def log(self, **row: float) -> None:
        """Append one row to ``metrics.csv``; every row has the columns of the first."""
        if self.rows and row.keys() != self.rows[0].keys():
            raise ValueError(f"row must have the columns {list(self.rows[0])}, got {list(row)}")
        self.rows.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, row.keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        _write(self.folder / "metrics.csv", text.getvalue())
        if self.board is not None:
            for key, value in row.items():
                self.board.add_scalar(key, value, int(row.get("epoch", len(self.rows))))
            self.board.flush()

    @property
    def seconds(self) -> float:
        """Seconds since the run began, without the time between its pieces."""
        return time.perf_counter() - self._start

    def resume(self, rows: list[dict[str, float]], seconds: float) -> None:
        """Start from the rows of an interrupted run, and from the seconds that it had taken."""
        self.rows, self._start = [], time.perf_counter() - seconds
        for row in rows:
            self.log(**row)

    def _finish(self, complete: bool) -> None:
        source = self.source | {"wall_seconds": round(self.seconds, 3), "complete": complete}
        write_json(self.folder / "provenance.json", source)

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._finish(kind is None)
        if self.board is not None:
            self.board.close()


def read_record(folder: str | Path) -> Record:
    """Read one run's folder.

    Raises:
        FileNotFoundError: if the folder holds no record.
    """
    folder = Path(folder)
    if not (folder / "provenance.json").exists():
        raise FileNotFoundError(f"{folder} holds no record (no provenance.json)")
    config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    source = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    metrics: dict[str, np.ndarray] = {}
    if (folder / "metrics.csv").exists():
        with open(folder / "metrics.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        metrics = {
            key: np.array([float(row[key]) for row in rows]) for key in (rows[0] if rows else ())
        }
    return Record(folder.name, config, metrics, source)


def read_records(experiment: str | Path) -> list[Record]:
    """All runs of one experiment's folder, sorted by name; empty if there are none."""
    folders = sorted(path.parent for path in Path(experiment).glob("*/provenance.json"))
    return [read_record(folder) for folder in folders]
