"""Data sets as tensors: scikit-learn's digits (embedded, no download), MNIST and CIFAR-10.

Images are float32 NCHW in ``[0, 1]``, labels int64. ``DDI_DATA`` names the folder to look in.
"""

import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddi import _checks
from ddi._checks import (
    flag,
    float_tensor,
    images,
    integer,
    labels,
    one_device,
    positive_int,
    random_source,
    refuse,
    store,
)

__all__ = ["Dataset", "cifar10", "crop_and_flip", "digits", "load_data", "mnist"]

TENSORS = ("x_train", "y_train", "x_test", "y_test")
CLASSES = 100_000  # at most, in a file: a larger label is a mistake, and no network has its output
DAMAGED = (
    *(OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, AssertionError),
    *(RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error, struct.error),
)


@dataclass(frozen=True)
class Dataset:
    """Training and test images ``(N, C, H, W)``, of one shape, dtype and device, and int64 labels
    ``(N,)`` in ``0 ... classes - 1``.

    Images are finite, and in ``[0, 1]``, unless the attacks' box says otherwise; it is there that
    this is checked.

    Raises:
        ValueError: for tensors that are not so.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            refuse("name", "a word", self.name)
        store(self, classes=positive_int("classes", self.classes))
        one_device(**{name: getattr(self, name) for name in TENSORS})
        for split in ("train", "test"):
            x = images(f"x_{split}", getattr(self, f"x_{split}"))
            labels(f"y_{split}", getattr(self, f"y_{split}"), len(x), self.classes)
        train, test = self.x_train, self.x_test
        if (train.shape[1:], train.dtype) != (test.shape[1:], test.dtype):
            like = f"of shape (N, *{tuple(train.shape[1:])}) and {train.dtype}, like x_train"
            refuse("x_test", like, test)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Dataset":
        """A copy on another device, with images of another floating dtype.

        Raises:
            ValueError: for a device that is not there, or a dtype that is not floating-point.
        """
        if device is not None:
            device = _checks.device("device", device)
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            refuse("dtype", "a floating-point torch.dtype", dtype)
        move = {name: getattr(self, name).to(device=device) for name in TENSORS}
        return replace(
            self, **{f: v.to(dtype or v.dtype) if f[0] == "x" else v for f, v in move.items()}
        )

    def pair(self, zero: int = 0, one: int = 1) -> "Dataset":
        """The two-class part: images of class ``zero`` get label 0, those of class ``one`` label 1.

        Raises:
            ValueError: unless these are two of the classes, each with an image.
        """
        last = self.classes - 1
        zero, one = integer("zero", zero, 0, last), integer("one", one, 0, last)
        if zero == one:
            raise ValueError(f"zero and one must be two classes, got {zero} and {one}")
        parts: dict[str, Tensor] = {}
        for split in ("train", "test"):
            x, y = getattr(self, f"x_{split}"), getattr(self, f"y_{split}")
            if not ((y == zero).any() and (y == one).any()):
                raise ValueError(f"zero and one must have images in y_{split}, got {zero}, {one}")
            keep = (y == zero) | (y == one)
            parts |= {f"x_{split}": x[keep], f"y_{split}": (y[keep] == one).long()}
        return replace(self, name=f"{self.name}-{zero}v{one}", classes=2, **parts)

    def hold_out(self, count: int, seed: int = 0) -> tuple["Dataset", Tensor, Tensor]:
        """Take ``count`` training images away, at random, for validation; the test set is never
        used to choose.

        Returns:
            The data set with the remaining training images, and the validation images and labels.

        Raises:
            ValueError: unless ``count`` is from 1 to one less than there are.
        """
        count = positive_int("count", count, len(self.x_train) - 1)
        draw = torch.Generator().manual_seed(integer("seed", seed, 0, 2**63 - 1))
        order = torch.randperm(len(self.x_train), generator=draw).to(self.x_train.device)
        held, rest = order[:count], order[count:]
        smaller = copy(self)  # parts of what has been checked are not looked at again
        store(smaller, x_train=self.x_train[rest], y_train=self.y_train[rest])
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

    pixels, classes = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    y = torch.tensor(classes, dtype=torch.int64)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1400], order[1400:]
    return Dataset("digits", x[train], y[train], x[test], y[test], 10)


def mnist(root: str | Path | None = None, download: bool = False) -> Dataset:
    """MNIST, 60 000 + 10 000 images of 28x28; arguments and errors as for :func:`cifar10`."""
    from torchvision import datasets

    return _stored("mnist", datasets.MNIST, (1, 28, 28), root, download)


def cifar10(root: str | Path | None = None, download: bool = False) -> Dataset:
    """CIFAR-10, 50 000 + 10 000 colour images of 32x32.

    Args:
        root: a folder that holds torchvision's layout or ``cifar10.npz``, or the path of an
            ``.npz`` file with ``x_train, y_train, x_test, y_test`` (uint8 images NHWC or NHW,
            integer labels; read without pickle); default the environment variable ``DDI_DATA``,
            else ``./data``. ``~`` is the home folder.
        download: let torchvision fetch it.

    Raises:
        FileNotFoundError: if it is not there, naming the ways to get it, or cannot be downloaded.
        ValueError: for a damaged file, and an ``.npz`` without these arrays, or with other dtypes,
            shapes or layouts.
    """
    from torchvision import datasets

    return _stored("cifar10", datasets.CIFAR10, (3, 32, 32), root, download)


def load_data(name: str, download: bool = False) -> Dataset:
    """A data set by name: ``"digits"``, ``"mnist"``, ``"cifar10"``, or an ``.npz``, by path or by
    its name in ``DDI_DATA``.

    Raises:
        FileNotFoundError: if it is not there. ValueError: if an ``.npz`` does not hold what
            :func:`cifar10` says.
    """
    if not isinstance(name, (str, Path)) or not str(name):
        refuse("name", f"one of {tuple(SETS)}, or the name or path of an .npz file", name)
    flag("download", download)
    if name in SETS:
        return SETS[str(name)](download)
    path = Path(name).expanduser()
    if path.suffix != ".npz":
        path = _folder(None) / f"{name}.npz"
    if not path.exists():
        raise FileNotFoundError(
            f"data must be one of {tuple(SETS)} or an .npz file, by path or by its name in "
            f"DDI_DATA; no {path}"
        )
    return _read_npz(path)


SETS: dict[str, Callable[[bool], Dataset]] = {
    "digits": lambda download: digits(),
    "mnist": lambda download: mnist(download=download),
    "cifar10": lambda download: cifar10(download=download),
}  # by name, whether to download them


def _folder(root: Any) -> Path:
    if root is not None and not isinstance(root, (str, Path)):
        refuse("root", "a folder or the path of an .npz file", root)
    return Path(root or os.environ.get("DDI_DATA") or "data").expanduser()


def _stored(
    name: str, kind: Any, shape: tuple[int, ...], root: str | Path | None, download: bool
) -> Dataset:
    folder, download = _folder(root), flag("download", download)
    packed = folder if folder.suffix == ".npz" else folder / f"{name}.npz"
    if packed.exists():
        data = _read_npz(packed)
        found = tuple(data.x_train.shape[1:])
        if found != shape or data.classes > 10:
            raise ValueError(
                f"{packed} must hold {name}: images of {shape} (C, H, W) in 10 classes, "
                f"got {found} in {data.classes}"
            )
        return replace(data, classes=10)
    try:
        sets = [kind(folder, train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        ways = (
            f"set DDI_DATA to a folder in torchvision's layout, or with {name}.npz; or use the "
            "embedded digits()."
        )
        if download:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            raise FileNotFoundError(
                f"{name} could not be downloaded to {folder} (root; {why}). Without a "
                f"network: {ways}"
            ) from error
        raise FileNotFoundError(
            f"{name} was not found under {folder} (root), or is not whole. Ways to get it: let "
            f"torchvision download it ({name}(download=True)); {ways}"
        ) from error
    except DAMAGED as error:
        raise ValueError(f"{name} under {folder} cannot be read: it is damaged") from error
    pairs = [(_images(np.asarray(s.data)), torch.as_tensor(s.targets).long()) for s in sets]
    return Dataset(name, *pairs[0], *pairs[1], 10)


def _read_npz(path: Path) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = sorted(set(TENSORS) - set(file.files))
            # (of a member that is no array NumPy gives the bytes)
            arrays = {key: np.asarray(file[key]) for key in TENSORS if key not in missing}
    except DAMAGED:
        raise ValueError(
            f"{path} cannot be read: it must be an .npz file of plain numbers, and is damaged, "
            "something else, or holds Python objects (which are never loaded)"
        ) from None  # NumPy's own words advise to load it unsafely
    if missing:
        raise ValueError(f"{path} must hold {', '.join(TENSORS)}, but lacks {', '.join(missing)}")
    for split in ("train", "test"):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        layout = x.ndim == 3 or (x.ndim == 4 and 1 <= x.shape[3] <= 4)
        if x.dtype != np.uint8 or not layout or not x.size:
            raise ValueError(
                f"{path}: x_{split} must be uint8, (N, H, W) or (N, H, W, C) with the channels "
                f"last, got {x.dtype} {x.shape}"
            )
        whole = np.issubdtype(y.dtype, np.integer) and y.shape == (len(x),)
        if not whole or y.min() < 0 or y.max() >= CLASSES:
            found = f"from {y.min()} to {y.max()}" if whole else f"{y.dtype} {y.shape}"
            raise ValueError(
                f"{path}: y_{split} must be {len(x)} labels from 0 to {CLASSES - 1}, got {found}"
            )
    shapes = arrays["x_train"].shape, arrays["x_test"].shape
    if shapes[0][1:] != shapes[1][1:]:
        raise ValueError(f"{path}: x_train and x_test must agree in shape, got {shapes}")
    top = int(max(arrays["y_train"].max(), arrays["y_test"].max()))
    y_train, y_test = (torch.tensor(arrays[f"y_{s}"].astype(np.int64)) for s in ("train", "test"))
    x_train, x_test = _images(arrays["x_train"]), _images(arrays["x_test"])
    return Dataset(path.stem, x_train, y_train, x_test, y_test, top + 1)


def _images(x: np.ndarray) -> Tensor:
    """uint8 ``(N, H, W)`` or ``(N, H, W, C)`` to float32 ``(N, C, H, W)`` in ``[0, 1]``."""
    x = x[..., None] if x.ndim == 3 else x
    return torch.tensor(x).permute(0, 3, 1, 2).contiguous().float() / 255


def crop_and_flip(x: Tensor, padding: int = 4, generator: torch.Generator | None = None) -> Tensor:
    """Random crop after zero padding, and random horizontal flip, of a batch ``(B, C, H, W)`` on
    its own device.

    Args:
        x: floating point; it is not looked at whether all are finite (whatever takes gradients
            does that), since a GPU would be waited for. padding: pixels of zeros at every edge,
            ``>= 0``. generator: source of crops and flips.

    Raises:
        ValueError: for an argument that is none of these.
    """
    if float_tensor("x", x, 4, all_finite=False).ndim != 4:
        refuse("x", "a batch of images, (B, C, H, W)", x)
    padding = integer("padding", padding, 0)
    draw = random_source("generator", generator, x.device)
    batch, _, height, width = x.shape
    rows, columns = torch.randint(2 * padding + 1, (2, batch), generator=draw, device=x.device)
    flip = torch.rand(batch, generator=draw, device=x.device) < 0.5
    down = torch.arange(height, device=x.device)[None] + rows[:, None]
    across = torch.arange(width, device=x.device)
    across = torch.where(flip[:, None], across.flip(0), across) + columns[:, None]
    padded = torch.nn.functional.pad(x, [padding] * 4)
    sample = torch.arange(batch, device=x.device)
    crops = padded[sample[:, None, None], :, down[:, :, None], across[:, None, :]]
    return crops.permute(0, 3, 1, 2).contiguous()
