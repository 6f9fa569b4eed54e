"""Bad input by kind of argument, and what a call may do with it.

A case is a good call with one argument replaced. It may end in two ways: refused, by an error that
``ddi`` itself raises and whose words name the argument; or accepted, with the result that the plain
value has which the replacement stands for (``numpy.int64(3)`` for 3). Anything else is a fault: an
error that torch or Python raised, a hang, or a result that nobody asked for.
"""

import contextlib
import dataclasses
import inspect
import io
import math
import re
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ddi

PACKAGE = str(Path(ddi.__file__).resolve().parent)
REFUSED, RIGHT, RAW, WRONG, HANGS = "refused", "accepted", "raw error", "wrong", "hangs"
WORDS = (ValueError, TypeError, OSError, ImportError, FloatingPointError)
SECONDS = 5


# Other words that name an argument: what it is made of, or what it must agree with.
ALSO = {
    "x": ("images",), "y": ("labels",), "model": ("labels", "logits", "loss", "gradient", "gradients"), "deltas": ("x", "perturbations"),
    "gram": ("linear", "values", "groups"), "gradients": ("direction", "groups"), "direction": ("theta",), "theta": ("direction",),
    "logits": ("labels",), "attack": ("delta", "deltas", "perturbation", "perturbations"), "loss": ("gradient", "gradients", "model"),
    "x_train": ("y_train",), "x_test": ("y_test",), "y_train": ("x_train",), "y_test": ("x_test",), "flat": ("gradient",),
    "path": ("experiment",), "folder": ("record",), "name": ("data",), "root": ("data",),
}  # fmt: skip


@dataclass(frozen=True)
class Bad:
    """A replacement, made from the good value, and what it may be taken for (nothing: refused)."""

    label: str
    make: Callable[[Any], Any]
    plain: Callable[[Any], Any] | None = None
    loose: bool = False  # the result's dtype may be another


@dataclass(frozen=True)
class Entry:
    """A public callable: a good call, the kinds of its arguments where the usual one does not fit,
    and what is compared of a result.
    """

    good: Callable[[], dict[str, Any]]
    kinds: dict[str, "Kind"] = field(default_factory=dict)
    call: Callable[..., Any] | None = None
    use: Callable[[Any], Any] = lambda result: result


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
    ]  # fmt: skip
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
    ]  # fmt: skip
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
)  # fmt: skip

WORD: Kind = (
    NOTHING, *ALIEN,
    is_("another word", "nonsense"), is_("empty", ""), is_("1", 1), is_("True", True), is_("NaN", math.nan),
    Bad("a list", lambda good: [good]), Bad("other case", str.swapcase),
    Bad("with a blank", lambda good: good + " "), Bad("bytes", str.encode),
    Bad("half of it", lambda good: good[: len(good) // 2]), Bad("NumPy string", np.str_, itself),
    is_("array of words", np.array(["a", "b"])), is_("a tensor", torch.ones(2)),
)  # fmt: skip

TEXT: Kind = (NOTHING, *ALIEN, is_("1", 1), is_("True", True), is_("bytes", b"a"), is_("a list", ["a"]))
NAME: Kind = (
    *TEXT, is_("empty", ""), is_("..", ".."), is_("upwards", "../a"), is_("absolute", "/a"),
    is_("two folders", "a/b"), is_("with NUL", "a\0b"), is_("with a newline", "a\nb"),
)  # fmt: skip

PATH: Kind = (
    NOTHING, *ALIEN,
    is_("1", 1), is_("True", True), is_("1.5", 1.5), is_("a list", ["a"]), is_("a tensor", torch.ones(2)),
    is_("with NUL", "a\0b"), is_("under a file", __file__ + "/a"),
)  # fmt: skip

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
)  # fmt: skip


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
    ]  # fmt: skip
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
)  # fmt: skip


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
    ]  # fmt: skip
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
        ]  # fmt: skip
    if dtypes:
        found += [
            Bad("the other float", lambda g: g.to(torch.float64 if g.dtype == torch.float32 else torch.float32), itself, True)
        ]  # fmt: skip
    return tuple(bad for bad in found if not (batched and bad.label == "one axis more"))


FREE = floats(other_shapes=False)
IMAGES = floats(other_shapes=False, box=True, dtypes=False, batched=True)
LABELS: Kind = (
    NOTHING, *NO_TENSOR,
    Bad("one row less", lambda good: good[:-1]), Bad("one row", lambda good: good[:1]),
    Bad("empty", lambda good: good[:0]), Bad("column", lambda good: good[:, None]),
    Bad("one-hot", lambda good: nn.functional.one_hot(good, 10)),
    Bad("negative", _entry(-1)), Bad("too large", _entry(10)), Bad("ignored", _entry(-100)),
    Bad("float", Tensor.float), Bad("NaN", lambda good: good.float() * math.nan), Bad("bool", Tensor.bool),
    Bad("int32", Tensor.int, itself), Bad("uint8", Tensor.byte, itself),
    Bad("float array", lambda good: good.double().numpy()),
)  # fmt: skip
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
)  # fmt: skip
LOSS: Kind = (
    NOTHING, *NO_FUNCTION,
    is_("the mean", nn.functional.cross_entropy), is_("a module with mean", nn.CrossEntropyLoss()),
    is_("its class", nn.CrossEntropyLoss), is_("returns None", lambda logits, labels: None),
    is_("returns a column", lambda logits, labels: ddi.cross_entropy(logits, labels)[:, None]),
    is_("returns NaN", lambda logits, labels: ddi.cross_entropy(logits, labels) * math.nan),
    is_("returns integers", lambda logits, labels: ddi.cross_entropy(logits, labels).long()),
    is_("without gradient", lambda logits, labels: ddi.cross_entropy(logits, labels).detach()),
    is_("returns a float", lambda logits, labels: 1.0),
)  # fmt: skip


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
)  # fmt: skip
SCHEDULE: Kind = (*NO_FUNCTION, is_("returns None", lambda step: None), is_("returns NaN", lambda step: math.nan),
                  is_("returns a string", lambda step: "1"))  # fmt: skip
PHI: Kind = (
    NOTHING, *NO_FUNCTION,
    is_("returns None", lambda theta: None), is_("returns two", lambda theta: torch.ones(2)),
    is_("returns NaN", lambda theta: math.nan), is_("returns a string", lambda theta: "1"),
    is_("returns complex", lambda theta: 1j),
)  # fmt: skip
GENERATOR: Kind = (
    *ALIEN, is_("a seed", 0), is_("a string", "0"), is_("True", True), is_("NumPy's", np.random.default_rng(0)),
    is_("its class", torch.Generator), is_("a list", [torch.Generator()]),
)  # fmt: skip
DEVICE: Kind = (
    NOTHING, *ALIEN, is_("gpu", "gpu"), is_("empty", ""), is_("not there", "cuda:99"), is_("a float", 1.5),
    is_("a list", ["cpu"]), is_("negative", "cpu:-1"),
)  # fmt: skip
DTYPE: Kind = (
    NOTHING, *ALIEN, is_("a string", "float32"), is_("NumPy's", np.float32), is_("Python's", float),
    is_("integers", torch.int64), is_("complex", torch.complex64), is_("bool", torch.bool), is_("1", 1),
)  # fmt: skip
MAPPING: Kind = (
    NOTHING, is_("an object", object()), is_("a list", [1]), is_("a string", "a"), is_("1", 1),
    is_("pairs", [("a", 1)]), is_("keys that are no strings", {1: 2}), is_("a value no file holds", {"a": object()}),
)  # fmt: skip


def made(kind: type | None = None) -> Kind:
    """An instance of one of this package's classes."""
    return (NOTHING, *NO_FUNCTION, is_("a list", []), Bad("its class", type), Bad("its fields", lambda good: vars(good)))


# ------------------------------------------------------------------------------------------ judging


class _Late(BaseException):
    pass


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise where the block takes longer: a hang is a fault like others."""

    def late(*_: object) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def bounded(room: int = 1 << 30) -> Iterator[None]:
    """Raise ``MemoryError`` where the block takes more: what would fill a machine is a fault too."""
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # another system: without
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def in_words(error: BaseException) -> bool:
    """Whether a ``raise`` of this package made the error, and not an operation that failed."""
    if not isinstance(error, WORDS):
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    here = Path(frame.f_code.co_filename).resolve()
    if last is None or not str(here).startswith(PACKAGE):
        return False
    steps = {step.offset: step.opname for step in __import__("dis").get_instructions(frame.f_code)}
    return steps.get(last.tb_lasti) == "RAISE_VARARGS"


def same(a: Any, b: Any, loose: bool = False) -> bool:
    """Whether two results are equal, of the same types, floats up to rounding."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        close = (a.shape, a.device, a.layout) == (b.shape, b.device, b.layout)
        close = close and (loose or a.dtype == b.dtype)
        return close and torch.allclose(a.double(), b.double(), 1e-4, 1e-5, equal_nan=True)
    if isinstance(a, str) and isinstance(b, str):
        return a == b
    if type(a) is not type(b) and callable(a) and callable(b):
        return not isinstance(a, type) and not isinstance(b, type)
    if type(a) is not type(b):
        return {type(a), type(b)} == {int, float} and a == b
    if isinstance(a, nn.Module):
        return same(dict(a.state_dict()), dict(b.state_dict()), loose)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and bool(np.allclose(a, b, equal_nan=True))
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name), loose) for f in dataclasses.fields(a))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key], loose) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(v, w, loose) for v, w in zip(a, b, strict=True))
    if isinstance(a, float):
        return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) or (a != a and b != b)
    return callable(a) or bool(a == b)


def outcome(call: Callable[[], Any], names: tuple[str, ...], expected: Callable[[], Any] | None, loose: bool = False) -> tuple[str, str]:
    """What a call with a replaced argument ended in, and the evidence."""
    try:
        with limited(SECONDS), bounded(), quiet():
            found = call()
            torch.manual_seed(0)
            wanted = expected() if expected else None
    except _Late:
        return HANGS, f"more than {SECONDS} s"
    except Exception as error:  # noqa: BLE001  (what is raised is what is judged)
        text = f"{type(error).__name__}: {error}".partition("\n")[0][:160]
        if not in_words(error):
            return RAW, text
        named = any(re.search(rf"(?<![a-zA-Z]){re.escape(name)}(?![a-zA-Z])", str(error)) for name in names)
        return (REFUSED, text) if named else (RAW, f"does not name {names[0]}: {text}")
    if expected is None:
        return WRONG, f"accepted: {_short(found)}"
    return (RIGHT, "") if same(found, wanted, loose) else (WRONG, f"{_short(found)} instead of {_short(wanted)}")


def _short(thing: Any) -> str:
    return " ".join(repr(thing).split())[:100]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Neither warnings nor prints, and a global generator that is everywhere the same."""
    torch.manual_seed(0)
    np.random.seed(0)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a callable and their defaults."""
    found = inspect.signature(function).parameters.values()
    return {
        p.name: (None if p.default is p.empty else p.default)
        for p in found
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }


def cases(entry: Entry, function: Callable[..., Any], usual: dict[str, Kind]) -> Iterator[tuple[str, str, str, str]]:
    """Every case of one callable: argument, label, outcome, evidence."""
    call = entry.call or function
    for argument, default in parameters(function).items():
        kind = entry.kinds.get(argument, usual.get(argument))
        if kind is None:
            raise LookupError(f"no family of bad values for the argument {argument} of {function}")
        for bad in kind:
            def with_(make: Callable[[Any], Any], argument: str = argument, default: Any = default) -> Any:
                good = entry.good()
                return entry.use(call(**good | {argument: make(good.get(argument, default))}))

            try:
                bad.make(entry.good().get(argument, default))
            except Exception:  # noqa: BLE001  (this replacement cannot be made of that value)
                continue
            expected = None if bad.plain is None else (lambda bad=bad, with_=with_: with_(bad.plain))
            yield argument, bad.label, *outcome(lambda bad=bad, with_=with_: with_(bad.make), (argument, *ALSO.get(argument, ())), expected, bad.loose)
