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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bad_values import Kind
from torch import Tensor, nn

import ddi

PACKAGE = str(Path(ddi.__file__).resolve().parent)
REFUSED, RIGHT, RAW, WRONG, HANGS = "refused", "accepted", "raw error", "wrong", "hangs"
WORDS = (ValueError, TypeError, OSError, ImportError, FloatingPointError)
SECONDS = 10  # of the processor, so that a busy machine makes no hang


# Other words that name an argument: what it is made of, or what it must agree with.
ALSO = {
    "x": ("images",),
    "y": ("labels",),
    "model": ("labels", "logits", "loss", "gradient", "gradients"),
    "deltas": ("x", "perturbations"),
    "gram": ("linear", "values", "groups"),
    "gradients": ("direction", "groups"),
    "direction": ("theta",),
    "theta": ("direction",),
    "logits": ("labels",),
    "attack": ("delta", "deltas", "perturbation", "perturbations"),
    "loss": ("gradient", "gradients", "model"),
    "x_train": ("y_train",),
    "x_test": ("y_test",),
    "y_train": ("x_train",),
    "y_test": ("x_test",),
    "flat": ("gradient",),
    "path": ("experiment",),
    "thing": ("attack",),
    "folder": ("record",),
    "evaluation": ("attack",),  # where it is called it is one
    "name": ("data",),
    "root": ("data",),
}


@dataclass(frozen=True)
class Entry:
    """A public callable: a good call, the kinds of its arguments where the usual one does not fit,
    and what is compared of a result.
    """

    good: Callable[[], dict[str, Any]]
    kinds: dict[str, Kind] = field(default_factory=dict)
    call: Callable[..., Any] | None = None
    use: Callable[[Any], Any] = lambda result: result


# ------------------------------------------------------------------------------------------ judging


class Late(BaseException):
    pass


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise where the block takes longer: a hang is a fault like others."""

    def late(*_: object) -> None:
        raise Late

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextlib.contextmanager
def bounded(room: int = 1 << 30) -> Iterator[None]:
    """Raise ``MemoryError`` where the block takes more: to fill a machine is a fault too."""
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
        return all(
            same(getattr(a, f.name), getattr(b, f.name), loose) for f in dataclasses.fields(a)
        )
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key], loose) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(v, w, loose) for v, w in zip(a, b, strict=True))
    if isinstance(a, float):
        return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) or (a != a and b != b)
    return callable(a) or bool(a == b)


def outcome(
    call: Callable[[], Any],
    names: tuple[str, ...],
    expected: Callable[[], Any] | None,
    loose: bool = False,
) -> tuple[str, str]:
    """What a call with a replaced argument ended in, and the evidence."""
    try:
        with limited(SECONDS), bounded(), quiet():
            found = call()
            torch.manual_seed(0)
            wanted = expected() if expected else None
    except Late:
        return HANGS, f"more than {SECONDS} s"
    except Exception as error:  # noqa: BLE001  (what is raised is what is judged)
        text = f"{type(error).__name__}: {error}".partition("\n")[0][:160]
        if not in_words(error):
            return RAW, text
        named = any(
            re.search(rf"(?<![a-zA-Z]){re.escape(name)}(?![a-zA-Z])", str(error)) for name in names
        )
        return (REFUSED, text) if named else (RAW, f"does not name {names[0]}: {text}")
    if expected is None:
        return WRONG, f"accepted: {_short(found)}"
    return (
        (RIGHT, "")
        if same(found, wanted, loose)
        else (WRONG, f"{_short(found)} instead of {_short(wanted)}")
    )


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


def cases(
    entry: Entry, function: Callable[..., Any], usual: dict[str, Kind]
) -> Iterator[tuple[str, str, str, str]]:
    """Every case of one callable: argument, label, outcome, evidence."""
    call = entry.call or function
    for argument, default in parameters(function).items():
        kind = entry.kinds.get(argument, usual.get(argument))
        if kind is None:
            raise LookupError(f"no family of bad values for the argument {argument} of {function}")
        for bad in kind:

            def with_(
                make: Callable[[Any], Any], argument: str = argument, default: Any = default
            ) -> Any:
                good = entry.good()
                return entry.use(call(**good | {argument: make(good.get(argument, default))}))

            try:
                bad.make(entry.good().get(argument, default))
            except Exception:  # noqa: BLE001  (this replacement cannot be made of that value)
                continue
            expected = (
                None if bad.plain is None else (lambda bad=bad, with_=with_: with_(bad.plain))
            )
            yield (
                argument,
                bad.label,
                *outcome(
                    lambda bad=bad, with_=with_: with_(bad.make),
                    (argument, *ALSO.get(argument, ())),
                    expected,
                    bad.loose,
                ),
            )
