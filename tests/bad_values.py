"""Bad values by kind of argument: what each family of arguments must be tried with."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ddi


# fmt: off
@dataclass(frozen=True)
class Bad:
    """A replacement, made from the good value, and what it may be taken for (nothing: refused)."""

    label: str
    make: Callable[[Any], Any]
    plain: Callable[[Any], Any] | None = None
    loose: bool = False  # the result's dtype may be another


Kind = tuple[Bad, ...]


def is_(label: str, value: Any, plain: Callable[[Any], Any] | None = None) -> Bad:
    """A replacement that does not depend on the good value."""
    return Bad(label, lambda good: value, plain)


def itself(good: Any) -> Any:
    """The good value: what a replacement of other type may stand for."""
    return good


# ----------------------------------------------------------------------------------- the families

NOTHING = is_("None", None)
ALIEN = (is_("an object", object()), is_("a dict", {"a": 1}), is_("a set", {1}))


def optional(kind: Kind) -> Kind:
    """The same kind where ``None`` is an answer."""
    return tuple(bad for bad in kind if bad is not NOTHING)


def number(low: float = -math.inf, high: float = math.inf, strict: bool = False) -> Kind:
    """A real number in a range."""
    found = [
        NOTHING, *ALIEN,
        is_("NaN", math.nan), is_("infinite", math.inf), is_("minus infinite", -math.inf),
        is_("an integer beyond float", 10**400), is_("a string", "0.1"), is_("True", True),
        is_("complex", 1j), is_("NumPy NaN", np.float64("nan")), is_("NaN tensor", torch.tensor(math.nan)),
        Bad("a list", lambda good: [good]),
        Bad("two of them", lambda good: torch.full((2,), float(good))),
        Bad("NumPy float64", np.float64, float),
        Bad("NumPy float32", np.float32, lambda good: float(np.float32(good))),
        Bad("NumPy array of no axes", lambda good: np.array(float(good)), float),
        Bad("tensor of no axes", lambda good: torch.tensor(float(good), dtype=torch.float64), float),
        Bad("fraction", lambda good: Fraction(float(good)), float),
    ]
    if math.isfinite(low):
        found += [is_("below", low - 1), is_("far below", low - 1e300)]
    if math.isfinite(high):
        found += [is_("above", high + 1)]
    if strict:
        found += [is_("at the open end", low)]
    return tuple(found)


def integer(low: int | None = None, high: int | None = None) -> Kind:
    """An integer in a range."""
    found = [
        NOTHING, *ALIEN,
        is_("NaN", math.nan), is_("infinite", math.inf), is_("a half", 2.5), is_("a string", "2"),
        is_("True", True), is_("False", False), is_("NumPy True", np.bool_(True)), is_("complex", 2j),
        Bad("a list", lambda good: [good]),
        Bad("NumPy array of two", lambda good: np.array([good, good])),
        Bad("two of them", lambda good: torch.tensor([good, good])),
        Bad("a whole float", float, itself),
        Bad("NumPy float64", np.float64, itself),
        Bad("NumPy int64", np.int64, itself),
        Bad("NumPy uint8", np.uint8, itself),
        Bad("tensor of no axes", torch.tensor, itself),
    ]
    if low is not None:
        found += [is_("below", low - 1), is_("far below", low - 10**30)]
    if high is not None:
        found += [is_("above", high + 1)]
    return tuple([*found, is_("beyond 64 bits", 10**30)])


def cap(kind: Kind) -> Kind:
    """An integer that only bounds how much is done at once."""
    return (*kind, is_("huge", 2**62, itself))


FLAG: Kind = (
    NOTHING, *ALIEN,
    is_("a string", "false"), is_("the string True", "True"), is_("2", 2), is_("NaN", math.nan),
    is_("empty list", []), is_("0", 0, lambda good: False), is_("1.0", 1.0, lambda good: True),
    is_("two flags", np.array([True, False])), Bad("NumPy bool", np.bool_, itself),
    Bad("tensor of no axes", torch.tensor, itself),
)

WORD: Kind = (
    NOTHING, *ALIEN,
    is_("another word", "nonsense"), is_("empty", ""), is_("1", 1), is_("True", True), is_("NaN", math.nan),
    Bad("a list", lambda good: [good]), Bad("other case", str.swapcase),
    Bad("with a blank", lambda good: good + " "), Bad("bytes", str.encode),
    Bad("half of it", lambda good: good[: len(good) // 2]), Bad("NumPy string", np.str_, itself),
    is_("array of words", np.array(["a", "b"])), is_("a tensor", torch.ones(2)),
)

TEXT: Kind = (NOTHING, *ALIEN, is_("1", 1), is_("True", True), is_("bytes", b"a"), is_("a list", ["a"]))
NAME: Kind = (
    *TEXT, is_("empty", ""), is_("..", ".."), is_("upwards", "../a"), is_("absolute", "/a"),
    is_("two folders", "a/b"), is_("with NUL", "a\0b"), is_("with a newline", "a\nb"),
)

PATH: Kind = (
    NOTHING, *ALIEN,
    is_("1", 1), is_("True", True), is_("1.5", 1.5), is_("a list", ["a"]), is_("a tensor", torch.ones(2)),
    is_("with NUL", "a\0b"), is_("under a file", __file__ + "/a"),
)

BOX: Kind = (
    *ALIEN,
    is_("upside down", (1.0, 0.0)), is_("empty", (0.0, 0.0)), is_("NaN", (math.nan, 1.0)),
    is_("infinite", (0.0, math.inf)), is_("one", (0.0,)), is_("three", (0.0, 0.5, 1.0)), is_("nothing", ()),
    is_("a number", 1.0), is_("True", True), is_("strings", ("0", "1")), is_("a string", "01"),
    is_("None inside", (None, 1.0)), is_("bools", (False, True)), is_("lists", ([0.0], [1.0])),
    is_("beyond float", (0, 10**400)), is_("a matrix", np.zeros((2, 2))),
    Bad("a list", list, itself), Bad("NumPy array", np.array, itself),
    Bad("a tensor", torch.tensor, itself),
    Bad("NumPy numbers", lambda good: tuple(map(np.float64, good)), itself),
    Bad("integers", lambda good: tuple(map(int, good)), itself),
)


def row(entry: Kind, empty: bool = True) -> Kind:
    """A tuple of numbers or integers."""
    inside = [
        Bad(f"{bad.label} inside", lambda good, bad=bad: (bad.make(good[0]), *good[1:]))
        for bad in entry
        if bad.plain is None
    ]
    found = [
        NOTHING, *ALIEN, *inside,
        is_("a string", "12"), is_("a number", 0.5), is_("True", True), is_("a matrix", np.full((2, 2), 0.5)),
        Bad("a list", list, itself), Bad("NumPy array", np.array, itself),
        Bad("a tensor", lambda good: torch.tensor(good, dtype=torch.float64 if isinstance(good[0], float) else None), itself),
    ]
    return tuple(found if empty else [*found, is_("empty", ())])


# ------------------------------------------------------------------------------------------ tensors


def _entry(value: float) -> Callable[[Tensor], Tensor]:
    def make(good: Tensor) -> Tensor:
        bad = good.clone()
        bad.view(-1)[-1] = value
        return bad

    return make


def _numpy(good: Tensor) -> np.ndarray:
    return good.numpy().copy()


NO_TENSOR: Kind = (
    *ALIEN,
    is_("a string", "tensor"), is_("a number", 1.0), is_("NaN", math.nan), is_("True", True),
    is_("empty list", []), is_("ragged list", [[1.0], [1.0, 2.0]]),
    Bad("NumPy array", _numpy, itself), Bad("a list", Tensor.tolist, itself),
    Bad("a tuple of rows", tuple, itself),
    Bad("other device", lambda good: good.to("meta")),
    Bad("complex", lambda good: good.to(torch.complex64)),
    Bad("one axis more", lambda good: good[None]), Bad("no axes", lambda good: good.flatten()[0]),
    Bad("sparse", Tensor.to_sparse, itself),
)


def floats(
    other_shapes: bool = True, box: bool = False, dtypes: bool = True, batched: bool = False
) -> Kind:
    """A floating-point tensor, finite; its shape bound to other arguments, or free."""
    found = [
        NOTHING, *NO_TENSOR,
        Bad("NaN inside", _entry(math.nan)), Bad("infinite inside", _entry(math.inf)),
        Bad("minus infinite inside", _entry(-math.inf)),
        Bad("integers", lambda good: (100 * good).long()),
        Bad("bool", lambda good: good > 0),
        Bad("uint8", lambda good: torch.zeros_like(good, dtype=torch.uint8)),
        Bad("empty", lambda good: good[:0]),
        Bad("integer array", lambda good: (100 * good).long().numpy()),
        Bad("array of objects", lambda good: good.numpy().astype(object)),
    ]
    if other_shapes:
        found += [
            Bad("one row less", lambda good: good[:-1]),
            Bad("one row more", lambda good: torch.cat([good, good[:1]])),
            Bad("one row", lambda good: good[:1]),
            Bad("last axis shorter", lambda good: good[..., :-1]),
        ]
    if box:
        found += [
            Bad("above the box", _entry(1.01)), Bad("below the box", _entry(-0.01)),
            Bad("0 to 255", lambda good: 255 * good),
        ]
    if dtypes:
        found += [
            Bad("the other float", lambda g: g.to(torch.float64 if g.dtype == torch.float32 else torch.float32), itself, True)
        ]
    return tuple(bad for bad in found if not (batched and bad.label == "one axis more"))


FREE = floats(other_shapes=False)
IMAGES = floats(other_shapes=False, box=True, dtypes=False, batched=True)
DELTAS = (  # any number of perturbations, of as many images
    *floats(other_shapes=False, dtypes=False), Bad("last axis shorter", lambda good: good[..., :-1]),
    Bad("one image less", lambda good: good[:, :-1]), Bad("one image", lambda good: good[:, :1]),
)
LABELS: Kind = (
    NOTHING, *NO_TENSOR,
    Bad("one row less", lambda good: good[:-1]), Bad("one row", lambda good: good[:1]),
    Bad("empty", lambda good: good[:0]), Bad("column", lambda good: good[:, None]),
    Bad("one-hot", lambda good: nn.functional.one_hot(good, 10)),
    Bad("negative", _entry(-1)), Bad("too large", _entry(10)), Bad("ignored", _entry(-100)),
    Bad("float", Tensor.float), Bad("NaN", lambda good: good.float() * math.nan), Bad("bool", Tensor.bool),
    Bad("int32", Tensor.int, itself), Bad("uint8", Tensor.byte, itself),
    Bad("float array", lambda good: good.double().numpy()),
)
GROUPS: Kind = tuple(bad for bad in LABELS if bad.label not in ("None", "negative", "too large", "ignored", "bool"))

# ---------------------------------------------------------------------------- models, losses, attacks


def without(kind: Kind, *labels: str) -> Kind:
    """The same kind less what is allowed here."""
    assert set(labels) <= {bad.label for bad in kind}
    return tuple(bad for bad in kind if bad.label not in labels)


def _wrapped(change: Callable[[Tensor], Any]) -> Callable[[Any], Any]:
    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: Tensor) -> Any:
            return change(self.inner(images))

    return Wrapped


NO_FUNCTION: Kind = (*ALIEN, is_("a string", "a"), is_("a number", 1.0), is_("True", True), is_("a class", dict))
MODULE: Kind = (
    NOTHING, *NO_FUNCTION,
    Bad("its class", type), Bad("a plain function", lambda good: lambda images: good(images), itself),
    Bad("returns a tuple", _wrapped(lambda out: (out, out))), Bad("returns a dict", _wrapped(lambda out: {"logits": out})),
    Bad("returns None", _wrapped(lambda out: None)), Bad("returns a list", _wrapped(Tensor.tolist)),
    Bad("returns one axis", _wrapped(lambda out: out[:, 0])), Bad("returns three axes", _wrapped(lambda out: out[..., None])),
    Bad("returns one row less", _wrapped(lambda out: out[:-1])), Bad("returns no class", _wrapped(lambda out: out[:, :0])),
    Bad("returns integers", _wrapped(Tensor.argsort)), Bad("returns NaN", _wrapped(lambda out: out * math.nan)),
    Bad("returns the infinite", _wrapped(lambda out: out + math.inf)),
    Bad("returns too few classes", _wrapped(lambda out: out[:, :2])),
    Bad("without gradient", _wrapped(Tensor.detach)),
)
LOSS: Kind = (
    NOTHING, *NO_FUNCTION,
    is_("the mean", nn.functional.cross_entropy), is_("a module with mean", nn.CrossEntropyLoss()),
    is_("its class", nn.CrossEntropyLoss), is_("returns None", lambda logits, labels: None),
    is_("returns a column", lambda logits, labels: ddi.cross_entropy(logits, labels)[:, None]),
    is_("returns NaN", lambda logits, labels: ddi.cross_entropy(logits, labels) * math.nan),
    is_("returns integers", lambda logits, labels: ddi.cross_entropy(logits, labels).long()),
    is_("without gradient", lambda logits, labels: ddi.cross_entropy(logits, labels).detach()),
    is_("returns a float", lambda logits, labels: 1.0),
)


def surely(attack: Any) -> Any:
    """The same attack without its random start."""
    return dataclasses.replace(attack, random_start=False)


ATTACK: Kind = (
    NOTHING, *NO_FUNCTION,
    Bad("its class", type), Bad("its name", lambda good: type(good).__name__),
    Bad("a plain callable", lambda good: lambda model, x, y: surely(good)(model, x, y), lambda good: surely(good)),
    is_("returns None", lambda model, x, y: None), is_("returns the batch's mean", lambda model, x, y: x.mean(0)),
    is_("returns NaN", lambda model, x, y: x * math.nan), is_("returns NumPy", lambda model, x, y: x.numpy()),
    is_("returns integers", lambda model, x, y: x.long()), is_("returns one row", lambda model, x, y: x[:1]),
    is_("returns a number", lambda model, x, y: 0.0),
)
SCHEDULE: Kind = (*NO_FUNCTION, is_("returns None", lambda step: None), is_("returns NaN", lambda step: math.nan),
                  is_("returns a string", lambda step: "1"))
PHI: Kind = (
    NOTHING, *NO_FUNCTION,
    is_("returns None", lambda theta: None), is_("returns two", lambda theta: torch.ones(2)),
    is_("returns NaN", lambda theta: math.nan), is_("returns a string", lambda theta: "1"),
    is_("returns complex", lambda theta: 1j),
)
GENERATOR: Kind = (
    *ALIEN, is_("a seed", 0), is_("a string", "0"), is_("True", True), is_("NumPy's", np.random.default_rng(0)),
    is_("its class", torch.Generator), is_("a list", [torch.Generator()]),
)
DEVICE: Kind = (
    NOTHING, *ALIEN, is_("gpu", "gpu"), is_("empty", ""), is_("not there", "cuda:99"), is_("a float", 1.5),
    is_("a list", ["cpu"]), is_("negative", "cpu:-1"),
)
DTYPE: Kind = (
    NOTHING, *ALIEN, is_("a string", "float32"), is_("NumPy's", np.float32), is_("Python's", float),
    is_("integers", torch.int64), is_("complex", torch.complex64), is_("bool", torch.bool), is_("1", 1),
)
MAPPING: Kind = (
    NOTHING, is_("an object", object()), is_("a list", [1]), is_("a string", "a"), is_("1", 1),
    is_("pairs", [("a", 1)]), is_("keys that are no strings", {1: 2}), is_("a value no file holds", {"a": object()}),
)


def made(kind: type | None = None) -> Kind:
    """An instance of one of this package's classes."""
    return (NOTHING, *NO_FUNCTION, is_("a list", []), Bad("its class", type), Bad("its fields", lambda good: vars(good)))


# ------------------------------------------------------------------------- kinds by the argument's name

RADIUS = number(0)
COUNT = integer(1)
USUAL: dict[str, Kind] = {
    "model": MODULE, "x": IMAGES, "y": LABELS, "deltas": DELTAS, "eps": RADIUS, "alpha": RADIUS,
    "steps": COUNT, "random_start": FLAG, "norm": WORD, "loss": LOSS, "box": optional(BOX), "keep": WORD,
    "schedule": optional(SCHEDULE), "generator": optional(GENERATOR), "batch_size": optional(cap(COUNT)), "restarts": COUNT,
    "progress": FLAG, "passes": FLAG, "attack": ATTACK, "m": COUNT, "seed": integer(0), "start": COUNT,
    "logits": floats(dtypes=False), "labels": LABELS,
    "gram": floats(batched=True), "linear": optional(floats()), "groups": optional(GROUPS), "method": WORD, "tol": RADIUS,
    "max_iter": COUNT, "values": floats(), "t": number(0, strict=True), "gradients": FREE, "direction": floats(),
    "block": optional(cap(COUNT)), "lipschitz": RADIUS, "radius": RADIUS, "phi": PHI, "theta": FREE, "v": floats(other_shapes=False, batched=True),
    "chunks": COUNT, "measure_gap": FLAG, "flat": floats(), "normalize": optional(FLAG), "joint": FLAG,
    "weight_decay": RADIUS, "in_features": COUNT, "in_channels": COUNT, "hidden": row(COUNT),
    "activation": WORD, "mean": row(number()), "std": row(number(0, strict=True)), "name": WORD, "padding": integer(0),
    "root": optional(PATH), "download": FLAG, "folder": PATH, "experiment": PATH, "path": PATH, "config": MAPPING,
    "source": MAPPING, "tensorboard": FLAG, "dataset": made(), "device": DEVICE, "dtype": DTYPE, "data": made(),
    "rule": made(), "setting": made(), "evaluation": optional(ATTACK), "about": optional(MAPPING),
    "checkpoint_every": optional(COUNT), "epochs": COUNT, "lr": number(0, strict=True), "momentum": RADIUS, "rho": RADIUS, "lam": number(0, 1), "state": MAPPING,
    "milestones": row(number(0, 1, strict=True)), "m_end": optional(COUNT), "augment": FLAG, "validation": COUNT,
    "evaluate_every": COUNT, "epoch_steps": optional(COUNT), "project": (), "value": number(0, 1), "n": COUNT,
    "x_train": FREE, "y_train": LABELS, "x_test": FREE, "y_test": LABELS,  # their box is the attacks'
    "delta": floats(dtypes=False), "atol": RADIUS, "gradient": FREE, "which": WORD, "zero": integer(0, 9), "one": integer(0, 9),
    "count": COUNT, "epoch": integer(0), "phases": (), "only": (), "arms": (), "overrides": (), "kernels": made(), "sampler": optional(made()),
    "beta": RADIUS, "weight": RADIUS, "decay": number(0, 1), "deviations": RADIUS, "h": number(0, strict=True), "penalty": optional(without(made(), "None")), "classes": COUNT,
    "precision": WORD, "channels_last": FLAG, "compile": WORD, "autocast": FLAG, "thing": tuple(bad for bad in ATTACK if not bad.label.startswith("returns")), "seeds": (), "rows": (), "seconds": RADIUS, "arm": NAME,
}


PER_GROUP = without(number(0), "two of them")  # which is one a group
PLAIN = without(IMAGES, "above the box", "below the box", "0 to 255")  # where no box is known
FORWARD = (*without(MODULE, "without gradient", "returns the infinite", "a plain function"), Bad("a plain function", lambda good: lambda images: good(images), itself))
CALLED = (*without(MODULE, "a plain function"), Bad("a plain function", lambda good: lambda images: good(images), itself))
JUDGED = without(CALLED, "returns the infinite")  # which is a wrong answer
ANYWHERE = without(floats(dtypes=False), "NaN inside", "infinite inside", "minus infinite inside")  # outside is an answer
FINITE = without(floats(), "NaN inside", "infinite inside", "minus infinite inside")  # looked at before
KEPT = tuple(bad for bad in ATTACK if not bad.label.startswith("returns"))  # an attack that is not called yet
LOGITS = without(ANYWHERE, "last axis shorter")
CROPPED = without(floats(other_shapes=False, dtypes=False), "NaN inside", "infinite inside", "minus infinite inside")  # to look at them costs a GPU a wait a batch
VALUED = without(LOSS, "without gradient")  # where none is taken
SEVERAL = without(floats(dtypes=False), "one axis more")  # perturbations of each image
NEVER = (is_("given", 2), is_("a string", "2"))  # an argument that belongs to another method
