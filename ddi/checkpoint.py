"""A run's folder, as the run needs it: to be killed at any moment and to go on.

Here are the writing of a file (atomically), the lock of the folder, and the checkpoints and weights
in it, with digests that are checked before they are used. What the folder holds for a reader,
numbers and where they come from, is :mod:`ddi.record`, which writes by this module.
"""

import hashlib
import io
import json
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ddi.identity import differences

try:
    import fcntl
except ImportError:  # Windows has no flock: there two processes on one folder are not told apart
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "Checkpoints",
    "Lock",
    "load_weights",
    "own_randomness",
    "save_atomically",
    "set_unsaved",
    "unsaved",
    "write_atomically",
    "write_json",
]


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write so that ``path`` holds, at every moment, what it held before or all of ``content``."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, thing: Any) -> None:
    """Write ``thing`` atomically."""
    write_atomically(path, (json.dumps(thing, indent=2) + "\n").encode())


def save_atomically(thing: Any, path: Path) -> None:
    """``torch.save``, atomically; a table gets its ``sha256``, checked by :func:`load_weights`."""
    if isinstance(thing, dict):
        thing = thing | {"sha256": digest(thing)}
    buffer = io.BytesIO()  # so that a full disk is an OSError, whatever torch makes of it
    torch.save(thing, buffer)
    write_atomically(path, buffer.getbuffer())


def load_weights(path: Path) -> dict[str, Any]:
    """What :func:`save_atomically` wrote, on the CPU, never executing anything that it holds.

    Raises:
        FileNotFoundError: if there is none. ValueError: if it is damaged, with the reason.
    """
    if not path.exists():
        raise FileNotFoundError(f"there are no weights {path}")
    content = io.BytesIO(path.read_bytes())  # so that an OSError is the disk's, and not the file's
    try:
        found = torch.load(content, weights_only=True, map_location="cpu")
        if not isinstance(found, dict):
            raise TypeError("no table")
    except Exception as error:  # whatever a damaged file makes of itself
        raise ValueError(f"{path} cannot be read ({type(error).__name__})") from error
    sha256 = found.pop("sha256", None)
    if sha256 is not None and sha256 != digest(found):
        raise ValueError(f"{path} cannot be read (its content does not have its sha256)")
    return found


def digest(thing: Any) -> str:
    """Hash of nested tables, lists, tensors and plain values."""
    hashed = hashlib.sha256()

    def update(value: Any) -> None:
        if isinstance(value, Tensor):
            hashed.update(f"{tuple(value.shape)} {value.dtype}".encode())
            data = value.detach().cpu().contiguous().reshape(-1)
            hashed.update(data.view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                hashed.update(repr(key).encode())
                update(inner)
        elif isinstance(value, (list, tuple)):
            hashed.update(f"{len(value)} values".encode())
            for inner in value:
                update(inner)
        else:
            hashed.update(repr(value).encode())

    update(thing)
    return hashed.hexdigest()


@contextmanager
def own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Torch's, Python's and NumPy's own generators seeded inside; outside nothing has happened."""
    before = _generators()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed), random.seed(seed), np.random.seed(seed % 2**32)
            yield
    finally:
        _set_generators(before)


def unsaved(model: nn.Module) -> dict[str, Any]:
    """What steps move beside a ``state_dict``: non-persistent buffers, by name, and the states of
    Python's and NumPy's generators, as plain values.
    """
    return _generators() | {"buffers": _buffers(model)}


def set_unsaved(model: nn.Module, state: dict[str, Any]) -> None:
    """Go on from what :func:`unsaved` returned."""
    _set_generators(state)
    for name, buffer in _buffers(model).items():
        buffer.data.copy_(state["buffers"][name])


def _generators() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state()
    return {"python": random.getstate(), "numpy": (name, np.asarray(keys).tolist(), *rest)}


def _set_generators(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    saved = model.state_dict()  # by whoever wrote it, without arguments
    return {name: buffer for name, buffer in model.named_buffers() if name not in saved}


class Lock:
    """One process at a time in a folder; the system lets go of it when the process ends, however.

    Raises:
        FileExistsError: if another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._file = None
        if fcntl is None:
            return
        self._file = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise FileExistsError(
                f"{folder} is in use: another process is writing this run"
            ) from None
        except OSError:  # a file system without locks
            self.release()

    def release(self) -> None:
        """Let go."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


class Checkpoints:
    """Two files, the newest checkpoint and the one before.

    Args:
        folder: where they are kept.
        run: what decides the run (:func:`ddi.identity.flat`), or ``None`` to read any.
    """

    def __init__(self, folder: Path, run: dict[str, str] | None) -> None:
        self.newest, self.before = folder / "checkpoint.pt", folder / "checkpoint.previous.pt"
        self.run = run
        self._sound = False  # whether the newest is known to be good

    def save(self, state: dict[str, Any]) -> None:
        """Write ``state``; where a good checkpoint lay on the disk, one lies there throughout."""
        new = self.newest.with_suffix(".new")
        save_atomically({"run": self.run, "state": state}, new)
        if self._sound and self.newest.exists():  # a damaged one does not push out the one before
            os.replace(self.newest, self.before)
        os.replace(new, self.newest)
        self._sound = True

    def load(self) -> dict[str, Any] | None:
        """The newest good state, or ``None`` if there are no checkpoints; says which was damaged.

        Raises:
            FileExistsError: if one belongs to another run, with what differs; nothing is touched.
            ValueError: if there are some, and none can be read.
        """
        reasons = []
        for path in (self.newest, self.before):
            try:
                found = load_weights(path)
            except FileNotFoundError:
                continue
            except ValueError as error:
                reasons.append(str(error))
                continue
            self._check(path, found)
            for reason in reasons:
                print(f"{reason}: passed over", flush=True)
            self._sound = path == self.newest
            state: dict[str, Any] = found["state"]
            return state
        if reasons:
            raise ValueError(f"{'; '.join(reasons)}: move it away to begin the run again")
        return None

    def _check(self, path: Path, found: dict[str, Any]) -> None:
        run = found.get("run")
        if "state" not in found or not isinstance(run, dict):
            raise FileExistsError(
                f"{path} was written by an older version of this package, which cannot go on from "
                "it; move its folder away to begin the run again"
            )
        if self.run is not None and (words := differences(run, self.run)):
            raise FileExistsError(f"{path} belongs to another run: {words}; {MOVE}")


MOVE = "move that folder away, or choose another"
