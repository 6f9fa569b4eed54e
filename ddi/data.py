"""Data sets as tensors: scikit-learn's digits (embedded, no download), MNIST and CIFAR-10.

Images are float32 NCHW in ``[0, 1]``, labels int64. ``DDI_DATA`` names the folder to look in.
"""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddi.threat import whole

__all__ = ["Dataset", "cifar10", "crop_and_flip", "digits", "load_data", "mnist"]

SETS = ("digits", "mnist", "cifar10")


@dataclass(frozen=True)
class Dataset:
    """Training and test images ``(N, C, H, W)`` in ``[0, 1]`` and labels ``(N,)``, with the number
    of classes.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Dataset":
        """A copy on another device, with images of another floating dtype."""
        move = {
            f: getattr(self, f).to(device=device)
            for f in ("x_train", "y_train", "x_test", "y_test")
        }
        return replace(
            self, **{f: v.to(dtype or v.dtype) if f[0] == "x" else v for f, v in move.items()}
        )

    def pair(self, zero: int = 0, one: int = 1) -> "Dataset":
        """The two-class part: images of class ``zero`` get label 0, those of class ``one`` label 1."""
        if zero == one or not {zero, one} <= set(range(self.classes)):
            raise ValueError(
                f"zero and one must be two classes of 0 ... {self.classes - 1}, got {zero!r} and {one!r}"
            )
        parts = {}
        for split in ("train", "test"):
            x, y = getattr(self, f"x_{split}"), getattr(self, f"y_{split}")
            keep = (y == zero) | (y == one)
            parts |= {f"x_{split}": x[keep], f"y_{split}": (y[keep] == one).long()}
        return replace(self, name=f"{self.name}-{zero}v{one}", classes=2, **parts)

    def hold_out(self, count: int, seed: int = 0) -> tuple["Dataset", Tensor, Tensor]:
        """Take ``count`` training images away, at random, for validation; the test set is never
        used to choose.

        Returns:
            The data set with the remaining training images, and the validation images and labels.
        """
        whole("count", count, len(self.x_train) - 1)
        order = torch.randperm(len(self.x_train), generator=torch.Generator().manual_seed(seed))
        held, rest = order[:count].to(self.x_train.device), order[count:].to(self.x_train.device)
        smaller = replace(self, x_train=self.x_train[rest], y_train=self.y_train[rest])
        return smaller, self.x_train[held], self.y_train[held]

    def sha256(self) -> str:
        """Hash of all images (as float32) and labels, for a record's provenance."""
        digest = hashlib.sha256()
        for tensor in (self.x_train.float(), self.y_train, self.x_test.float(), self.y_test):
            digest.update(
                repr(tuple(tensor.shape)).encode() + tensor.cpu().contiguous().numpy().tobytes()
            )
        return digest.hexdigest()


def digits() -> Dataset:
    """The 1 797 handwritten digits of scikit-learn, 8x8 pixels: 1 400 to train and 397 to test,
    split by a fixed shuffle.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    y = torch.tensor(labels, dtype=torch.int64)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1400], order[1400:]
    return Dataset("digits", x[train], y[train], x[test], y[test], 10)


def mnist(root: str | Path | None = None, download: bool = False) -> Dataset:
    """MNIST, 60 000 + 10 000 images of 28x28; arguments and errors as for :func:`cifar10`."""
    from torchvision import datasets

    return _stored("mnist", datasets.MNIST, root, download)


def cifar10(root: str | Path | None = None, download: bool = False) -> Dataset:
    """CIFAR-10, 50 000 + 10 000 colour images of 32x32.

    Args:
        root: a folder that holds torchvision's layout or ``cifar10.npz``, or the path of an
            ``.npz`` file with ``x_train, y_train, x_test, y_test`` (uint8 images NHWC or NHW,
            integer labels; read without pickle); default the environment variable ``DDI_DATA``,
            else ``./data``.
        download: let torchvision fetch it.

    Raises:
        FileNotFoundError: if it is not there, naming the ways to get it.
        ValueError: for an ``.npz`` without these arrays, or with other dtypes or shapes.
    """
    from torchvision import datasets

    return _stored("cifar10", datasets.CIFAR10, root, download)


def load_data(name: str, download: bool = False) -> Dataset:
    """A data set by name: ``"digits"``, ``"mnist"``, ``"cifar10"``, or an ``.npz``, by path or by
    its name in ``DDI_DATA``.

    Raises:
        FileNotFoundError: if it is not there. ValueError: if an ``.npz`` does not hold what
            :func:`cifar10` says.
    """
    if name in SETS:
        return (
            digits()
            if name == "digits"
            else {"mnist": mnist, "cifar10": cifar10}[name](download=download)
        )
    path = (
        Path(name)
        if name.endswith(".npz")
        else Path(os.environ.get("DDI_DATA", "data")) / f"{name}.npz"
    )
    if not path.exists():
        raise FileNotFoundError(
            f"data must be one of {SETS} or an .npz file, by path or by its name in DDI_DATA; no {path}"
        )
    return _read_npz(path)


def _stored(name: str, kind: Any, root: str | Path | None, download: bool) -> Dataset:
    root = Path(root or os.environ.get("DDI_DATA", "data"))
    packed = root if root.suffix == ".npz" else root / f"{name}.npz"
    if packed.exists():
        return _read_npz(packed)
    try:
        sets = [kind(root, train=train, download=download) for train in (True, False)]
    except RuntimeError as error:
        raise FileNotFoundError(
            f"{name} was not found under {root}. Three ways to get it: let torchvision download it ({name}(download=True)); "
            f"set DDI_DATA to a folder in torchvision's layout, or with {name}.npz; or use the embedded digits()."
        ) from error
    return Dataset(
        name,
        *(
            t
            for s in sets
            for t in (_images(np.asarray(s.data)), torch.as_tensor(s.targets).long())
        ),
        10,
    )


def _read_npz(path: Path) -> Dataset:
    with np.load(path, allow_pickle=False) as file:
        missing = {"x_train", "y_train", "x_test", "y_test"} - set(file.files)
        if missing:
            raise ValueError(
                f"{path} must hold x_train, y_train, x_test and y_test, but lacks {sorted(missing)}"
            )
        arrays = {key: file[key] for key in ("x_train", "y_train", "x_test", "y_test")}
    for split in ("train", "test"):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if x.dtype != np.uint8 or x.ndim not in (3, 4) or not len(x):
            raise ValueError(
                f"{path}: x_{split} must be uint8, (N, H, W) or (N, H, W, C), got {x.dtype} {x.shape}"
            )
        if not np.issubdtype(y.dtype, np.integer) or y.shape != (len(x),) or y.min() < 0:
            raise ValueError(
                f"{path}: y_{split} must be {len(x)} labels >= 0, got {y.dtype} {y.shape}"
            )
    parts = [
        t
        for s in ("train", "test")
        for t in (_images(arrays[f"x_{s}"]), torch.tensor(arrays[f"y_{s}"]).long())
    ]
    return Dataset(path.stem, *parts, int(max(arrays["y_train"].max(), arrays["y_test"].max())) + 1)


def _images(x: np.ndarray) -> Tensor:
    """uint8 ``(N, H, W)`` or ``(N, H, W, C)`` to float32 ``(N, C, H, W)`` in ``[0, 1]``."""
    x = x[..., None] if x.ndim == 3 else x
    return torch.tensor(x).permute(0, 3, 1, 2).contiguous().float() / 255


def crop_and_flip(x: Tensor, padding: int = 4, generator: torch.Generator | None = None) -> Tensor:
    """Random crop after zero padding, and random horizontal flip, of a batch ``(B, C, H, W)`` on
    its own device.
    """
    if x.ndim != 4 or padding < 0:
        raise ValueError(
            f"x must be (B, C, H, W) and padding >= 0, got {tuple(x.shape)} and {padding!r}"
        )
    batch, channels, height, width = x.shape
    options = {"generator": generator, "device": x.device}
    rows, columns = torch.randint(2 * padding + 1, (2, batch), **options)
    flip = torch.rand(batch, **options) < 0.5
    down = torch.arange(height, device=x.device)[None] + rows[:, None]
    across = torch.arange(width, device=x.device)
    across = torch.where(flip[:, None], across.flip(0), across) + columns[:, None]
    padded = torch.nn.functional.pad(x, [padding] * 4)
    sample = torch.arange(batch, device=x.device)
    return (
        padded[sample[:, None, None], :, down[:, :, None], across[:, None, :]]
        .permute(0, 3, 1, 2)
        .contiguous()
    )
