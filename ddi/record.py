"""A run's folder, as a reader needs it: its configuration, its numbers and where they come from.

``results/<experiment>/<arm>-seed<k>/`` holds ``config.toml``, ``metrics.csv`` (a row an epoch) and
``provenance.json``. Every write is atomic, one process at a time writes, and what is there already
is overwritten only by the very same run; a run that dies leaves a record that says ``"complete":
false``. How files are written, the lock, and the checkpoints and weights beside the record are in
:mod:`ddi.checkpoint`.
"""

import csv
import io
import json
import os
import platform
import re
import subprocess
import time
import tomllib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

import numpy as np
import tomli_w
import torch

from ddi import _checks as check
from ddi import _words as words
from ddi.checkpoint import MOVE, Lock, write_atomically, write_json
from ddi.data import Dataset
from ddi.identity import differences, flat

__all__ = ["AlreadyComplete", "Record", "RunWriter", "provenance", "read_record", "read_records"]

Value = TypeVar("Value")

# besides the config
DECIDES = ("data_sha256", "device_type", "dtype", "network", "constants", "frozen")


class _Columns(dict[str, Value]):
    """A table by column, of a file that is named where a column is asked for that it lacks."""

    def __init__(self, columns: Mapping[str, Value], path: Path | str) -> None:
        super().__init__(columns)
        self.path = path

    def __missing__(self, key: str) -> NoReturn:
        there = ", ".join(self) or "none"
        raise ValueError(f"{self.path} must have a column {key!r}, it has: {there}")


_NAME = re.compile(r"-seed(\d+)([-_]\S*)?.*$", re.DOTALL)


class AlreadyComplete(FileExistsError):
    """The folder holds a complete record, of the very run that was asked for."""


@dataclass(frozen=True)
class Record:
    """One recorded run, as read: its folder's name, configuration, metrics by column (the rows by
    epoch, whatever order a file has them in), and provenance. A column that its file does not have
    is a ``ValueError`` that names both.
    """

    name: str
    config: dict[str, Any]
    metrics: dict[str, np.ndarray]
    provenance: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether the run reached its end."""
        return bool(self.provenance.get("complete"))

    @property
    def arm(self) -> str:
        """The folder's name without a seed and what follows it, but for words joined by ``-`` or
        ``_``: ``x-seed0-m3`` is of ``x-m3``, and ``x-seed0 (copy)`` of ``x``.
        """
        return _NAME.sub(r"\2", self.name)

    @property
    def seed(self) -> int | None:
        """That of the configuration, which a copy of the folder has too, whatever it is called;
        where it says none, that of the folder's name.
        """
        setting = self.config.get("setting")
        said = self.config.get("seed", setting.get("seed") if isinstance(setting, dict) else None)
        named = _NAME.search(self.name)
        return int(named[1]) if said is None and named else said

    def row(self, which: str = "last") -> dict[str, float]:
        """The metrics of the ``"last"`` evaluated epoch, or of the ``"best"``, by robust validation
        accuracy.

        Raises:
            ValueError: where there are no rows, or none of a column that is asked for.
        """
        check.one_of("which", which, ("last", "best"))
        if not self.metrics:
            raise ValueError(f"which must be of a record with rows, got none in {self.name}")
        i = -1 if which == "last" else int(self.metrics["robust"].argmax())
        row = {key: float(column[i]) for key, column in self.metrics.items()}
        return _Columns(row, getattr(self.metrics, "path", self.name))


def provenance(
    dataset: Dataset | None, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """What the numbers of a run depend on: device, driver, versions, commit, and the data set, if
    any, with its hash.
    """
    device, dtype = check.device("device", device), check.float_dtype("dtype", dtype)
    if dataset is not None:
        check.instance("dataset", dataset, Dataset)
    cuda, processor = device.type == "cuda", platform.processor() or platform.machine()
    source = {
        "device": torch.cuda.get_device_name(device) if cuda else processor,
        "device_type": device.type,
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


class RunWriter:
    """Writes one run's folder; use as a context manager, so that leaving it without an error marks
    the run complete.

    Args:
        folder: ``results/<experiment>/<arm>-seed<k>``; made if missing, and locked until the writer
            is closed (or the process dies).
        config: what was asked for; TOML-able.
        source: the result of :func:`provenance`; of it the hash of the data, the kind of device,
            the dtype and the network (if given) decide the run, together with ``config``.
        tensorboard: write the rows to ``<folder>/tensorboard`` too.

    Raises:
        AlreadyComplete: if the folder holds a complete record of this run.
        FileExistsError: if it holds a record of another run, with what differs, or another process
            writes to it. Nothing in it is touched.
        ValueError: if it holds a record that cannot be read.
        ImportError: if TensorBoard is asked for and not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        config: dict[str, Any],
        source: dict[str, Any],
        tensorboard: bool = False,
    ) -> None:
        self.folder = words.path("folder", folder)
        config = words.table("config", config)
        self.rows: list[dict[str, float]] = []
        self.source = words.table("source", source, null=True)
        self._start = time.perf_counter()
        self._make_board = _summary_writer() if check.flag("tensorboard", tensorboard) else None
        self._board: Any = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):  # a file is in the way
            check.refuse("folder", "a folder, or a path where one can be made", str(self.folder))
        self._lock = Lock(self.folder)
        try:
            _refuse_another(self.folder, config, self.source)
            write_atomically(self.folder / "config.toml", tomli_w.dumps(config).encode())
            self._finish(False)
        except BaseException:
            self._lock.release()
            raise

    def log(self, **row: float) -> None:
        """Append one row to ``metrics.csv``; every row has the columns of the first."""
        if self.rows and row.keys() != self.rows[0].keys():
            raise ValueError(f"row must have the columns {list(self.rows[0])}, got {list(row)}")
        self.rows.append(row)
        self._write_rows()
        if self._make_board is not None:
            step = int(row.get("epoch", len(self.rows)))
            if self._board is None:  # rows that an interrupted process wrote too late are dropped
                self._board = self._make_board(self.folder / "tensorboard", purge_step=step)
            for key, value in row.items():
                self._board.add_scalar(key, value, step)
            self._board.flush()

    def _write_rows(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.folder / "metrics.csv", text.getvalue().encode())

    @property
    def seconds(self) -> float:
        """Seconds since the run began, without the time between its pieces."""
        return time.perf_counter() - self._start

    def resume(self, rows: list[dict[str, float]], seconds: float) -> None:
        """Start from the rows of an interrupted run, and from the seconds that it had taken."""
        self.rows, self._start = list(rows), time.perf_counter() - seconds
        if self.rows:
            self._write_rows()

    def _finish(self, complete: bool) -> None:
        source = self.source | {"wall_seconds": round(self.seconds, 3), "format": 2}
        source["complete"] = complete
        write_json(self.folder / "provenance.json", source)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self._finish(kind is None)
            if self._board is not None:
                self._board.close()
        finally:
            self._lock.release()


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("TensorBoard is not installed: pip install tensorboard") from error
    return SummaryWriter


def _refuse_another(folder: Path, config: dict[str, Any], source: dict[str, Any]) -> None:
    """Unless the folder holds no record, or an incomplete one of this very run."""
    found = _config(folder), _source(folder)
    there, here = (
        flat(c or {}) | flat({key: s[key] for key in DECIDES if s and key in s})
        for c, s in (found, (config, source))
    )
    config_there, source_there = found
    complete = bool(source_there and source_there.get("complete"))
    old = source_there is not None and "format" not in source_there  # fewer keys were recorded
    if config_there is not None and (words := differences(there, here, only_common=old)):
        raise FileExistsError(f"{folder} holds a record of another run: {words}; {MOVE}")
    if complete:
        raise AlreadyComplete(
            f"{folder} already holds a complete record; move it away to run again"
        )


def read_record(folder: str | Path) -> Record:
    """Read one run's folder.

    Raises:
        FileNotFoundError: if the folder holds no record. ValueError: if a file of it is damaged.
    """
    folder = words.path("folder", folder)
    config, source = _config(folder), _source(folder)
    if source is None:
        raise FileNotFoundError(f"{folder} holds no record (no provenance.json)")
    if config is None:
        raise ValueError(f"{folder} holds a damaged record: no config.toml")
    return Record(folder.name, config, _metrics(folder), source)


def read_records(experiment: str | Path) -> list[Record]:
    """All runs of one experiment's folder, sorted by name; empty if there are none. A damaged
    record is passed over, with a warning that names it.
    """
    found = []
    for path in sorted(words.path("experiment", experiment).glob("*/provenance.json")):
        try:
            found.append(read_record(path.parent))
        except (ValueError, OSError) as error:
            warnings.warn(f"passed over: {error}", stacklevel=2)
    return found


def _config(folder: Path) -> dict[str, Any] | None:
    return _table(folder / "config.toml", tomllib.loads)


def _source(folder: Path) -> dict[str, Any] | None:
    return _table(folder / "provenance.json", json.loads)


def _table(path: Path, parse: Callable[[str], Any]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        found = parse(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no table")
    except ValueError as error:  # no TOML or JSON, or no text
        raise ValueError(f"{path} is damaged: {error}") from error
    return found


def _metrics(folder: Path) -> dict[str, np.ndarray]:
    path = folder / "metrics.csv"
    if not path.exists():
        return _Columns({}, path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:  # as spreadsheets write it
            rows = list(csv.DictReader(file, strict=True))
        if not rows:
            raise ValueError("it has no rows")
        columns = {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}
        if "epoch" in columns:  # somebody may have sorted the table
            order = columns["epoch"].argsort(kind="stable")
            columns = {key: column[order] for key, column in columns.items()}
        return _Columns(columns, path)
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
