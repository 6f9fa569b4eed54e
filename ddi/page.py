"""An experiment run from a page: one cell, for some minutes, that goes on when it is run again."""

import _thread
import signal
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch

from ddi import _checks as check
from ddi import commands
from ddi.clone import repository
from ddi.data import load_data
from ddi.experiment import read_experiment
from ddi.record import Record, read_records
from ddi.tables import known

__all__ = ["from_page"]

TINY = "digits"  # what "tiny" runs: no download, no GPU, under a minute
GPU = ("kernels.precision=attack-bf16", "kernels.channels_last=true")
CHECKPOINT = 25  # steps, of which a stop by the clock loses at most so many


def from_page(
    name: str,
    minutes: float = 10.0,
    epochs: int | None = None,
    overrides: Iterable[str] = (),
    download: bool = False,
    out: str | Path | None = None,
) -> list[Record]:
    """Run the first seed of an experiment of the book for some minutes, on a GPU if there is one,
    with progress bars; called again it goes on, and what is complete is kept.

    The time that is left is divided evenly among the arms that are left, so that all are seen.

    Args:
        name: of a file in ``experiments/`` without ``.toml``, or ``"tiny"``: the digits, on any
            machine.
        minutes: limit of this call. An arm stopped by it has rows of the epochs that it finished.
        epochs, overrides: as for :func:`ddi.experiment.read_experiment`. On a GPU attacks are made
            in bf16, unless an override says otherwise.
        download: let torchvision fetch a data set that is not there.
        out: folder of the records, by default the book's ``results/``.

    Returns:
        All records of the experiment, complete or not.

    Raises:
        ValueError: for a name, limit or override that is impossible, with what is known.
        FileNotFoundError: if the data or the clone of the book is not there.
        RuntimeError: in another thread than the main one, which alone can be interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("from_page can be stopped by its clock in the main thread only")
    minutes = check.positive("minutes", minutes)
    files = {path.stem: path for path in sorted((repository() / "experiments").glob("*.toml"))}
    known("RUN", [name], ["tiny", *files])
    fast = GPU if torch.cuda.is_available() else ()
    path = files[TINY if name == "tiny" else name]
    runs = read_experiment(path, [*fast, *overrides], seeds=1, epochs=epochs)
    load_data(runs[0].data, download=check.flag("download", download))
    folder = Path(out) if out is not None else repository() / "results"
    end = time.monotonic() + 60 * minutes
    for i, one in enumerate(runs):
        seconds = (end - time.monotonic()) / (len(runs) - i)
        go = partial(commands.run, [one], str(folder), None, CHECKPOINT)
        status, rung = _within(seconds, go)
        if status == 130 and not rung:  # the reader stopped it
            break
    return read_records(folder / runs[0].experiment)


def _within(seconds: float, work: Callable[[], int]) -> tuple[int, bool]:
    """The status of ``work``, and whether the clock interrupted it (as Ctrl-C would)."""
    rung = threading.Event()

    def ring() -> None:
        rung.set()
        _thread.interrupt_main()

    status, timer = 130, threading.Timer(max(0.0, seconds), ring)
    timer.daemon = True
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who ignores it is rung too
    try:
        timer.start()
        status = work()
        timer.cancel()
        timer.join()
    except KeyboardInterrupt:  # between two statements of ours
        pass
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
    return status, rung.is_set()
