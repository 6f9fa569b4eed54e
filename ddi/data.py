"""Data sets as tensors: scikit-learn's digits (embedded, no download) and MNIST.

Images are float32 NCHW in ``[0, 1]``, labels int64. ``DDI_DATA`` names the folder to look in.
"""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["Dataset", "digits", "mnist"]


@dataclass(frozen=True)
class Dataset:
    """Training and test images ``(N, C, H, W)`` in ``[0, 1]`` and labels ``(N,)``, with the number of classes."""

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Dataset":
        """A copy on another device, with images of another floating dtype."""
        move = {f: getattr(self, f).to(device=device) for f in ("x_train", "y_train", "x_test", "y_test")}
        return replace(self, **{f: v.to(dtype or v.dtype) if f[0] == "x" else v for f, v in move.items()})

    def pair(self, zero: int = 0, one: int = 1) -> "Dataset":
        """The two-class part: images of class ``zero`` get label 0, those of class ``one`` label 1."""
        if zero == one or not {zero, one} <= set(range(self.classes)):
            raise ValueError(f"zero and one must be two classes of 0 ... {self.classes - 1}, got {zero!r} and {one!r}")
        parts = {}
        for split in ("train", "test"):
            x, y = getattr(self, f"x_{split}"), getattr(self, f"y_{split}")
            keep = (y == zero) | (y == one)
            parts |= {f"x_{split}": x[keep], f"y_{split}": (y[keep] == one).long()}
        return replace(self, name=f"{self.name}-{zero}v{one}", classes=2, **parts)

    def sha256(self) -> str:
        """Hash of all images (as float32) and labels, for a record's provenance."""
        digest = hashlib.sha256()
        for tensor in (self.x_train.float(), self.y_train, self.x_test.float(), self.y_test):
            digest.update(repr(tuple(tensor.shape)).encode() + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def digits() -> Dataset:
    """The 1 797 handwritten digits of scikit-learn, 8x8 pixels: 1 400 to train and 397 to test, split by a fixed shuffle."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    y = torch.tensor(labels, dtype=torch.int64)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1400], order[1400:]
    return Dataset("digits", x[train], y[train], x[test], y[test], 10)


def mnist(root: str | Path | None = None, download: bool = False) -> Dataset:
    """MNIST, 60 000 + 10 000 images of 28x28, through torchvision.

    Args:
        root: folder in torchvision's layout (``root/MNIST/raw``); default the environment variable ``DDI_DATA``,
            else ``./data``.
        download: let torchvision fetch it.

    Raises:
        FileNotFoundError: if it is not there, naming the ways to get it.
    """
    from torchvision.datasets import MNIST

    root = Path(root or os.environ.get("DDI_DATA", "data"))
    try:
        sets = [MNIST(root, train=train, download=download) for train in (True, False)]
    except RuntimeError as error:
        raise FileNotFoundError(
            f"MNIST was not found under {root}. Three ways to get it: call mnist(download=True); "
            "set DDI_DATA to a folder that holds MNIST/raw/*-ubyte; or use the embedded digits()."
        ) from error
    tensors = [t for s in sets for t in (s.data[:, None].float() / 255, s.targets.long())]
    return Dataset("mnist", *tensors, 10)
