"""Checkpoints that a run can be killed around: written atomically, read as weights only, checked
before they are used.
"""

import os
from pathlib import Path
from typing import Any

import torch

__all__ = ["Checkpoints", "save_atomically"]


def save_atomically(thing: Any, path: Path) -> None:
    """``torch.save`` such that ``path`` holds, at every moment, what it held before or all of
    ``thing``.
    """
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        torch.save(thing, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class Checkpoints:
    """Two files, the newest checkpoint and the one before.

    Args:
        folder: where they are kept. run: what decides the run; a checkpoint of another run is not
            used.
    """

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        self.newest, self.before, self.run = (
            folder / "checkpoint.pt",
            folder / "checkpoint.previous.pt",
            repr(run),
        )

    def save(self, state: dict[str, Any]) -> None:
        """Write ``state``; at every moment a complete checkpoint lies on the disk."""
        if self.newest.exists():
            os.replace(self.newest, self.before)
        save_atomically({"run": self.run, "state": state}, self.newest)

    def load(self) -> dict[str, Any] | None:
        """The newest usable state, or ``None``; says of a file that is truncated or foreign that it
        was passed over.
        """
        for path in (self.newest, self.before):
            if not path.exists():
                continue
            try:
                found = torch.load(path, weights_only=True, map_location="cpu")
                if found["run"] == self.run:
                    return found["state"]
                reason = "it belongs to another run"
            except Exception as error:  # whatever a damaged file makes of itself
                reason = f"it cannot be read ({type(error).__name__})"
            print(f"{path}: passed over, {reason}", flush=True)
        return None
