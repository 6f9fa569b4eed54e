"""Every check of an argument that this package makes, and the words for what may not come in.

A check returns what it was given, as plain Python where it was a NumPy number, or raises
``ValueError`` with one sentence: the argument's name, what is expected of it, and what it was.
Callers keep what a check returns; a frozen dataclass does so with :func:`store`.
"""

import math
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Kind = TypeVar("Kind")
Interval = tuple[float, float]

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def refuse(name: str, expected: str, value: Any) -> NoReturn:
    """Raise the error that every check here raises."""
    raise ValueError(f"{name} must be {expected}, got {shown(value)}")


def shown(value: Any) -> str:
    """``value`` in a few words: what a reader of an error needs to recognise it."""
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        layout = "" if value.layout == torch.strided else "sparse "
        place = "" if value.device.type == "cpu" else f" on {value.device}"
        return f"a {layout}tensor of {kind} and shape {tuple(value.shape)}{place}"
    if isinstance(value, np.ndarray):
        return f"a NumPy array of {value.dtype} and shape {value.shape}"
    if isinstance(value, nn.Module):
        return f"the module {type(value).__name__}"
    if isinstance(value, (tuple, list)) and any(isinstance(v, (Tensor, np.ndarray)) for v in value):
        first = ", ".join(shown(v) for v in value[:3])
        return f"a {type(value).__name__} of {len(value)}: {first}"
    try:
        text = " ".join(_SHORT.repr(value).split())
    except Exception:  # an integer of many thousand digits; an object that cannot show itself
        text = "a value"
    plain = isinstance(value, (str, int, float, np.generic, type(None), Collection, type))
    return text if plain else f"{text} of type {type(value).__name__}"


def store(thing: object, **values: Any) -> None:
    """Set fields of a frozen dataclass: what its checks return replaces what was given."""
    for name, value in values.items():
        object.__setattr__(thing, name, value)


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
    """An integer (no boolean, no ``3.0``), ``low <= value <= high`` where these are given, of 64
    bits: what has more can neither be counted to nor be written into a record.
    """
    right = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    right = right and -(2**63) <= value < 2**63
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


def interval(name: str, value: Any) -> Interval | None:
    """``None``, or a pair ``(low, high)`` of finite numbers with ``low < high``."""
    if value is None:
        return None
    pair = value if isinstance(value, (tuple, list)) and len(value) == 2 else (None, None)
    try:
        low, high = finite(name, pair[0]), finite(name, pair[1])
    except ValueError:
        low = high = 0.0
    if not low < high:
        refuse(name, "None or (low, high), finite numbers with low < high", value)
    return low, high


# --------------------------------------------------------------------------------------------------


def one_of(name: str, value: Any, allowed: Collection[str] | Mapping[str, Any]) -> str:
    """One of these words."""
    if not isinstance(value, str) or value not in allowed:
        refuse(name, "one of " + ", ".join(f'"{word}"' for word in allowed), value)
    return value


def function(name: str, value: Kind) -> Kind:
    """Something that can be called (and is no class)."""
    if not callable(value) or isinstance(value, type):
        refuse(name, "callable (and no class)", value)
    return value


def instance(name: str, value: Any, kind: type[Kind]) -> Kind:
    """An instance of that class."""
    if not isinstance(value, kind):
        own = kind.__module__.partition(".")[0].replace("builtins", "")
        refuse(name, " ".join(["a", *own.split(), kind.__name__]), value)
    return value


def choice(name: str, value: Any, table: Mapping[str, Kind]) -> Kind:
    """What stands in this table under this word."""
    return table[one_of(name, value, table)]


# --------------------------------------------------------------------------------------------------


def float_tensor(
    name: str,
    value: Any,
    ndim: int = 1,
    shape: tuple[int, ...] | None = None,
    all_finite: bool = True,
) -> Tensor:
    """A non-empty, dense, real floating-point tensor with at least ``ndim`` axes, or of exactly
    that ``shape``; all finite, unless that is not asked.
    """
    dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
    if not dense or not value.is_floating_point():
        refuse(name, "a floating-point tensor", value)
    if shape is not None and tuple(value.shape) != shape:
        refuse(name, f"a floating-point tensor of shape {shape}", value)
    if value.ndim < ndim or value.numel() == 0:
        axes = f"{ndim} ax{'is' if ndim == 1 else 'es'}"
        refuse(name, f"a non-empty tensor with at least {axes}", value)
    if all_finite:
        _range(name, value)
    return value


def _range(name: str, value: Tensor) -> Interval:
    """Least and largest entry, both finite; one wait for the device."""
    low, high = torch.stack(torch.aminmax(value.detach())).tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{name} must be finite, got NaN or infinite entries")
    return low, high


def images(name: str, value: Any, box: Interval | None = None) -> Tensor:
    """A non-empty batch ``(B, ...)`` of finite floats, inside the box up to the rounding of its own
    dtype.
    """
    x = float_tensor(name, value, 2, all_finite=False)
    low, high = _range(name, x)
    if box is not None:
        room = 4 * torch.finfo(x.dtype).eps * max(abs(box[0]), abs(box[1]))
        if low < box[0] - room or high > box[1] + room:
            outside = low if low < box[0] - room else high
            raise ValueError(f"{name} must lie in the box {box}, got a value of {outside!r}")
    return x


def batch_of(name: str, value: Any, batch: int) -> Tensor:
    """A dense tensor with one entry a sample, ``(batch, ...)``: what a loss of one's own compares
    with.
    """
    dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
    if not dense or value.shape[:1] != (batch,):
        refuse(name, f"a tensor of length {batch}, one entry a sample", value)
    return value


def label_tensor(name: str, value: Any, batch: int) -> Tensor:
    """A dense int64 tensor of shape ``(batch,)``: its values are not looked at, so that no wait for
    a GPU is made, and ``vmap`` knows what is done.
    """
    dense = isinstance(value, Tensor) and value.layout == torch.strided
    if not dense or value.dtype != torch.int64 or value.shape != (batch,):
        refuse(name, f"class labels, an int64 tensor of shape ({batch},)", value)
    return value


def labels(name: str, value: Any, batch: int, classes: int | None = None) -> Tensor:
    """Integer class labels, int64 of shape ``(batch,)``, from 0 (to ``classes - 1``)."""
    if label_tensor(name, value, batch).is_meta:
        refuse(name, f"class labels, an int64 tensor of shape ({batch},), with values", value)
    if batch:
        low, high = torch.stack(torch.aminmax(value)).tolist()
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
        or value.ndim != 2
        or len(value) != batch
    ):
        tip = ": the .logits of what it returns now" if hasattr(value, "logits") else ""
        refuse("the model's output", f"a floating-point tensor of logits, ({batch}, C){tip}", value)
    return value


def scalar(name: str, value: Any) -> float:
    """A finite number, or a tensor that holds one."""
    return finite(name, value.item() if isinstance(value, Tensor) and value.numel() == 1 else value)


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


def device(name: str, value: Any) -> torch.device:
    """A device that torch can compute on here, by its name or as it is."""
    try:
        found = torch.empty(0, device="" if value is None else value)
        if not found.is_meta:
            return found.device
    except (RuntimeError, AssertionError, TypeError, ValueError):
        pass
    refuse(name, 'a device that torch can use here ("cpu", or "cuda" with such a GPU)', value)


def float_dtype(name: str, value: Any) -> torch.dtype:
    """A real floating-point dtype of torch's."""
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        refuse(name, "a floating-point torch.dtype", value)
    return value


def network(name: str, value: Any) -> Callable[[Tensor], Any]:
    """A model that can be called: a module whose lazy layers have seen their first batch, or any
    other callable.
    """
    function(name, value)
    if isinstance(value, nn.Module):
        for where, tensor in [*value.named_parameters(), *value.named_buffers()]:
            if torch.nn.parameter.is_lazy(tensor):
                raise ValueError(
                    f"{name} must be initialised, got the lazy {where}: call it on a batch first"
                )
    return value


def derivatives(
    value: Tensor, inputs: Sequence[Tensor], zeros: bool = False, **graph: Any
) -> Sequence[Any]:
    """``torch.autograd.grad`` with its options about the graph, unused inputs allowed (with
    ``zeros`` as gradients); words where the model checkpoints its activations in the way that
    allows ``.backward()`` only.
    """
    try:
        return torch.autograd.grad(
            value, inputs, allow_unused=True, materialize_grads=zeros, **graph
        )
    except RuntimeError as error:
        if "use_reentrant" in str(error):
            raise ValueError(
                "model must checkpoint its activations with use_reentrant=False, got one that "
                "does with use_reentrant=True, which allows no torch.autograd.grad"
            ) from error
        raise


def answer(model: Callable[[Tensor], Any], images: Tensor) -> Any:
    """``model(images)``; where that fails because the two do not fit, words that say so."""
    try:
        return model(images)
    except RuntimeError as error:
        own = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        if own is not None and own.is_inference():
            raise ValueError(
                "model must be made outside torch.inference_mode, got one whose parameters "
                "autograd does not know"
            ) from error
        if own is not None and (own.dtype, own.device) != (images.dtype, images.device):
            raise ValueError(
                f"x must be of the model's dtype and on its device ({own.dtype}, {own.device}), "
                f"got {images.dtype} on {images.device}"
            ) from error
        error.add_note(f"(raised by the model, for images of shape {tuple(images.shape)})")
        raise
