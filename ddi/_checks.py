"""What comes in, and the words for what may not: every check of an argument that this package
makes.

A check returns what it was given, as plain Python where it was a NumPy number, or raises
``ValueError`` with one
sentence: the argument's name, what is expected of it, and what it was. Callers keep what a check
returns.
"""

import math
import numbers
from collections.abc import Collection, Mapping
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor

Kind = TypeVar("Kind")


def refuse(name: str, expected: str, value: Any) -> NoReturn:
    """Raise the error that every check here raises."""
    raise ValueError(f"{name} must be {expected}, got {shown(value)}")


def shown(value: Any) -> str:
    """``value`` in a few words: what a reader of an error needs to recognise it."""
    if isinstance(value, Tensor):
        return (
            f"a tensor of {str(value.dtype).removeprefix('torch.')} and shape {tuple(value.shape)}"
        )
    if isinstance(value, np.ndarray):
        return f"a NumPy array of {value.dtype} and shape {value.shape}"
    text = repr(value)
    text = text if len(text) <= 80 else text[:77] + "..."
    return (
        text
        if isinstance(value, (str, numbers.Number, type(None), Collection))
        else f"{text} of {type(value)}"
    )


# --------------------------------------------------------------------------------------------------


def finite(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, strict: bool = False
) -> float:
    """A real number, neither NaN nor infinite, ``low <= value <= high`` (both ``<`` if strict)."""
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    try:
        number = float(value) if real else math.nan
    except OverflowError:
        number = math.inf
    inside = low < number < high if strict else low <= number <= high
    if not math.isfinite(number) or not inside:
        sign = "<" if strict else "<="
        left = f" {'>' if strict else '>='} {low:g}" if math.isfinite(low) else ""
        bounds = f" with {low:g} {sign} {name} {sign} {high:g}" if math.isfinite(high) else left
        refuse(name, f"a finite number{bounds}", value)
    return number


def non_negative(name: str, value: Any) -> float:
    """A finite number ``>= 0``."""
    return finite(name, value, 0.0)


def positive(name: str, value: Any) -> float:
    """A finite number ``> 0``."""
    return finite(name, value, 0.0, strict=True)


def integer(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """An integer (no boolean, no ``3.0``), ``low <= value <= high`` where these are given."""
    right = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not right or (low is not None and value < low) or (high is not None and value > high):
        bounds = {
            (True, True): "",
            (False, True): f" >= {low}",
            (True, False): f" <= {high}",
            (False, False): f" from {low} to {high}",
        }[low is None, high is None]
        refuse(name, f"an integer{bounds}", value)
    return int(value)


def positive_int(name: str, value: Any, high: int | None = None) -> int:
    """An integer from 1 on (to ``high``)."""
    return integer(name, value, 1, high)


def flag(name: str, value: Any) -> bool:
    """``True`` or ``False``, and nothing that only behaves like one."""
    if not isinstance(value, (bool, np.bool_)):
        refuse(name, "True or False", value)
    return bool(value)


# -------------------------------------------------------------------------------------------------


def one_of(name: str, value: Any, allowed: Collection[str] | Mapping[str, Any]) -> str:
    """One of these words."""
    if not isinstance(value, str) or value not in allowed:
        refuse(name, "one of " + ", ".join(f'"{word}"' for word in allowed), value)
    return value


def function(name: str, value: Kind) -> Kind:
    """Something that can be called (and is no class)."""
    if not callable(value) or isinstance(value, type):
        refuse(name, "callable", value)
    return value


def instance(name: str, value: Any, kind: type[Kind]) -> Kind:
    """An instance of that class."""
    if not isinstance(value, kind):
        refuse(name, f"a {kind.__module__.partition('.')[0]} {kind.__name__}", value)
    return value


# --------------------------------------------------------------------------------------------------


def float_tensor(
    name: str,
    value: Any,
    ndim: int = 1,
    shape: tuple[int, ...] | None = None,
    all_finite: bool = True,
) -> Tensor:
    """A non-empty, real floating-point tensor with at least ``ndim`` axes, or of exactly that
    ``shape``, all finite.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        refuse(name, "a floating-point tensor", value)
    if shape is not None and tuple(value.shape) != shape:
        refuse(name, f"a floating-point tensor of shape {shape}", value)
    if value.ndim < ndim or value.numel() == 0:
        refuse(name, f"a non-empty tensor with at least {ndim} axes", value)
    if all_finite and not all(math.isfinite(v) for v in torch.aminmax(value.detach())):
        raise ValueError(f"{name} must be finite, got NaN or infinite entries")
    return value


def images(name: str, value: Any, box: tuple[float, float] | None = None) -> Tensor:
    """A non-empty batch ``(B, ...)`` of finite floats, inside the box up to the rounding of its own
    dtype.
    """
    x = float_tensor(name, value, 2)
    if box is not None:
        low, high = (float(v) for v in torch.aminmax(x.detach()))
        room = 4 * torch.finfo(x.dtype).eps * max(abs(box[0]), abs(box[1]), 1e-30)
        if low < box[0] - room or high > box[1] + room:
            outside = low if low < box[0] - room else high
            raise ValueError(f"{name} must lie in the box {box}, got a value of {outside!r}")
    return x


def labels(name: str, value: Any, batch: int, classes: int | None = None) -> Tensor:
    """Integer class labels, int64 of shape ``(batch,)``, from 0 (to ``classes - 1``)."""
    if not isinstance(value, Tensor) or value.dtype != torch.int64 or value.shape != (batch,):
        refuse(name, f"an int64 tensor of shape ({batch},)", value)
    if batch:
        low, high = (int(v) for v in torch.aminmax(value))
        if low < 0 or (classes is not None and high >= classes):
            top = "" if classes is None else f" to {classes - 1}"
            raise ValueError(
                f"{name} must be class labels from 0{top}, got values from {low} to {high}"
            )
    return value


def logits(value: Any, batch: int) -> Tensor:
    """What a model returned for ``batch`` images: floating-point logits ``(batch, C)``."""
    if (
        not isinstance(value, Tensor)
        or not value.is_floating_point()
        or value.shape[:1] != (batch,)
        or value.ndim != 2
    ):
        refuse("the model's output", f"a floating-point tensor of logits, ({batch}, C)", value)
    return value


def one_device(**tensors: Any) -> None:
    """All of these tensors (others are passed over) on one device."""
    where = {name: t.device for name, t in tensors.items() if isinstance(t, Tensor)}
    if len(set(where.values())) > 1:
        places = ", ".join(f"{name} on {device}" for name, device in where.items())
        raise ValueError(f"{' and '.join(where)} must be on one device, got {places}")


def random_source(name: str, value: Any, device: torch.device) -> torch.Generator | None:
    """``None``, or a generator of that kind of device."""
    if value is not None and not isinstance(value, torch.Generator):
        refuse(name, "a torch.Generator or None", value)
    if value is not None and value.device.type != device.type:
        raise ValueError(
            f"{name} must be on {device.type} like the images, got one on {value.device}"
        )
    return value
