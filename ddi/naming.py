"""A text for a thing, so that equal texts mean equal things: what decides a run besides numbers and
words (a loss, an attack, the code of a network) gets into records and is compared by it.

A thing is read down to its values: code, defaults, closures, class attributes, the module globals
that a function uses, plain attributes, tables, objects without a class of their own (namespaces),
and tensors by their bytes. Not seen: what code reaches by ``module.name``, ``getattr`` or a file,
the inside of objects of installed packages, the state of generators, and the hooks of a module
(most only look on, and a run may go on without them).
"""

import dis
import enum
import functools
import hashlib
import inspect
import sys
import types
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path, PurePath
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ddi.losses import Named

__all__ = ["Reading", "named"]

PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range, slice)
OPTIONS = (bool, int, float, str, type(None), types.FunctionType, functools.partial)
NAMED = ("torch", "ddi", "builtins", "typing")  # packages whose classes are known by their names
BARE = {*vars(nn.Module()), "training"}


def named(thing: Any) -> str:
    """A function or callable object by name.

    Functions of this package and schedules have their own names. Others are named with their
    module, a partial with its arguments, an object with its plain attributes, and what a user wrote
    or gave a tensor to with a hash of its content, since another of the same name may take its
    place.
    """
    return Reading().named(thing)


class Reading:
    """One reading of things: none is read twice, and one that holds itself comes to an end."""

    def __init__(self, known: Mapping[int, tuple[Any, str]] | None = None) -> None:
        self.done: dict[int, tuple[Any, str]] = dict(known or {})
        self.open: list[int] = []

    def named(self, thing: Any) -> str:
        """As :func:`ddi.naming.named`."""
        if isinstance(thing, types.MethodType):
            return self._method(thing)
        if isinstance(thing, type):
            return _full(thing) + self._class_code(thing)
        if isinstance(thing, Named) and type(thing).__module__.startswith("ddi."):
            return thing.__name__
        return self._once(thing, self._named)

    def content(self, value: Any) -> str:
        """The same text for the same content, of values that no address gets into."""
        if isinstance(value, PLAIN):
            return repr(value)
        if isinstance(value, np.generic):
            return repr(value.item())
        if isinstance(value, enum.Enum):
            return f"{_full(type(value))}.{value.name}"
        if isinstance(value, (torch.dtype, torch.device, torch.layout, PurePath)):
            return str(value)
        if isinstance(value, types.ModuleType):
            return value.__name__
        if isinstance(value, (property, staticmethod, classmethod)):
            inner = (getattr(value, key, None) for key in ("fget", "fset", "__func__"))
            return repr([self.content(function) for function in inner])
        if callable(value) or isinstance(value, Named):
            return self.named(value)
        return self._once(value, self._content)

    def written(self, thing: Any, whole: bool = True) -> list[str]:
        """What an object is besides its class's name and its options: what a user wrote for its
        class, and methods of its own; then all that it holds. Of a module ``whole`` means
        with its parameters, buffers and modules.
        """
        lines = [self.named(kind) for kind in type(thing).__mro__ if self._class_code(kind)]
        held = {k: v for k, v in _held(thing).items() if k not in {*_attributes(thing), *BARE}}
        own = {k: v for k, v in held.items() if callable(v) and not isinstance(v, nn.Module)}
        if isinstance(thing, nn.Module):
            if not whole:  # the others are in what a checkpoint holds
                own |= {k: thing._buffers[k] for k in thing._non_persistent_buffers_set}
            for part in (thing._parameters, thing._buffers, thing._modules) if whole else ():
                own |= {k: v for k, v in part.items() if v is not None}
        everything = own | held if lines else own
        return lines + [f"{key}={self.content(v)}" for key, v in sorted(everything.items())]

    def options(self, thing: Any) -> list[tuple[str, str]]:
        """Its options, each a name and a text."""
        return [(key, self.text(v)) for key, v in sorted(_attributes(thing).items())]

    def text(self, value: Any) -> str:
        """A value as it is written, a callable by its name, anything else by its content."""
        if callable(value) or isinstance(value, Named):
            return self.named(value)
        return repr(value) if _is_plain(value) else self.content(value)

    def _once(self, thing: Any, read: Callable[[Any], str]) -> str:
        key = id(thing)
        if key in self.open:
            return f"<{len(self.open) - self.open.index(key)} up>"
        if key not in self.done:
            self.open.append(key)
            try:
                self.done[key] = thing, read(thing)
            finally:
                self.open.pop()
        return self.done[key][1]

    def _named(self, thing: Any) -> str:
        if isinstance(thing, functools.partial):
            values = [self.text(v) for v in thing.args]
            values += [f"{k}={self.text(v)}" for k, v in sorted(thing.keywords.items())]
            return f"partial({', '.join([self.named(thing.func), *values])})"
        module = getattr(thing, "__module__", None) or "builtins"
        if isinstance(thing, types.FunctionType):
            if module.startswith("ddi."):
                return thing.__name__
            full = f"{module}.{thing.__qualname__}"
            return full if module.startswith("torch.") else f"{full}#{self._function(thing)}"
        if hasattr(thing, "__name__") and not hasattr(thing, "__wrapped__"):  # written in C
            return f"{module}.{getattr(thing, '__qualname__', thing.__name__)}"
        written = self.written(thing)
        code = [f"#{_digest(written)}"] if written else []
        options = ", ".join(f"{key}={text}" for key, text in self.options(thing))
        return f"{_full(type(thing))}({options}){''.join(code)}"

    def _method(self, method: types.MethodType) -> str:
        name, function = method.__name__, cast(Any, method.__func__)
        known = inspect.getattr_static(type(method.__self__), name, None) is function
        written = isinstance(function, types.FunctionType) and not known
        code = f"#{self._function(function)}" if written else ""
        return f"{self.named(method.__self__)}.{name}{code}"

    def _content(self, value: Any) -> str:
        if isinstance(value, (torch.Tensor, np.ndarray)):
            return self._array(value)
        if isinstance(value, Mapping):
            return repr({str(key): self.content(v) for key, v in value.items()})
        if isinstance(value, (list, tuple, deque)):
            return repr([self.content(v) for v in value])
        if isinstance(value, (set, frozenset)):
            return repr(sorted(map(self.content, value)))
        kind = type(value)
        if kind in (types.SimpleNamespace, Namespace) or is_dataclass(value) or not _library(kind):
            held = {key: self.content(v) for key, v in sorted(_held(value).items())}
            return f"{self.named(kind)}({held})"
        return _full(kind)

    def _array(self, value: torch.Tensor | np.ndarray) -> str:
        if isinstance(value, np.ndarray) and value.dtype.kind not in "biufc":
            return f"{value.shape} {self.content(value.tolist())}"
        array = torch.as_tensor(value).detach()
        about = f"{tuple(array.shape)} {array.dtype}"
        if array.is_meta or array.is_quantized:
            return about
        dense = array.to_dense() if array.layout != torch.strided else array
        dense = dense.resolve_conj().resolve_neg().cpu().contiguous()
        return f"{about} {_digest(dense.reshape(-1).view(torch.uint8).numpy().tobytes())}"

    def _class_code(self, kind: type) -> str:
        """The methods of a class that is none of Python's, torch's or this package's; of a class of
        the user's own its attributes too.
        """
        if kind.__module__.partition(".")[0] in (*NAMED, *sys.stdlib_module_names):
            return ""
        return self._once(kind, self._read_class)

    def _read_class(self, kind: Any) -> str:
        methods = (types.FunctionType, property, staticmethod, classmethod)
        lines = [
            f"{name} {self.content(value)}"
            for name, value in sorted(vars(kind).items())
            if isinstance(value, methods)
            or not (_library(kind) or name.startswith("__") or inspect.isdatadescriptor(value))
        ]
        return f"#{_digest(lines)}" if lines else ""

    def _function(self, function: types.FunctionType) -> str:
        """Hash of a function's code, its defaults, and the values that it closes over or finds in
        its module.
        """
        cells = []
        for cell in function.__closure__ or ():
            try:
                cells.append(self.content(cell.cell_contents))
            except ValueError:  # one that is not filled yet
                cells.append("")
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items()]
        names = () if _library(function) else sorted(set(_globals_of(function.__code__)))
        used = [
            (name, self.content(function.__globals__[name]))
            for name in names
            if name in function.__globals__
        ]
        code = self._code(function.__code__)
        return _digest([code, [self.content(v) for v in defaults], cells, used])

    def _code(self, code: types.CodeType) -> tuple[Any, ...]:
        inner = [
            self._code(v) if isinstance(v, types.CodeType) else self.content(v)
            for v in code.co_consts
        ]
        return code.co_code, code.co_names, inner


def _globals_of(code: types.CodeType) -> Iterator[str]:
    """Names that code reads from its module, but for those that it writes: these are its state."""
    steps = list(dis.get_instructions(code))
    state = {step.argval for step in steps if step.opname == "STORE_GLOBAL"}
    for step in steps:
        if step.opname == "LOAD_GLOBAL" and step.argval not in state:
            yield step.argval
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _globals_of(inner)


def _held(thing: Any) -> dict[str, Any]:
    """All attributes of an object itself."""
    slots = [name for kind in type(thing).__mro__ for name in vars(kind).get("__slots__", ())]
    found = {name: getattr(thing, name) for name in slots if hasattr(thing, name)}
    return {key: v for key, v in found.items() if not key.startswith("__")} | dict(
        getattr(thing, "__dict__", {})
    )


def _attributes(thing: Any) -> dict[str, Any]:
    """Attributes that are options: numbers, words, functions, and tuples of them."""
    return {
        key: value
        for key, value in getattr(thing, "__dict__", {}).items()
        if not key.startswith("_")
        and key != "training"
        and all(isinstance(v, OPTIONS) for v in (value if isinstance(value, tuple) else (value,)))
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)


def _full(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _library(thing: Any) -> bool:
    """Whether a class or function is of Python or of an installed package."""
    module = getattr(thing, "__module__", None) or "builtins"
    if module.partition(".")[0] in (*NAMED, *sys.stdlib_module_names):
        return True
    origin = getattr(sys.modules.get(module), "__file__", None)
    return origin is not None and bool({"site-packages", "dist-packages"} & {*Path(origin).parts})


def _digest(thing: Any) -> str:
    content = thing if isinstance(thing, bytes) else repr(thing).encode()
    return hashlib.sha256(content).hexdigest()[:8]
