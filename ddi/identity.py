"""What decides a run, as one value: a flat table from dotted keys to text, compared before anything
of an earlier run is used.

Two runs are one run if their tables are equal: setting, rule, attack, evaluation, phases, the
network with its options, the data's hash, the kind of device and the dtype. A checkpoint goes on,
and a record is kept, only then; :func:`differences` says in words what is not equal.
"""

import contextlib
import functools
import hashlib
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ddi.adversary import Attack
from ddi.descent import Rule
from ddi.state import eager

__all__ = ["as_table", "differences", "flat", "named", "network"]

NONE = "none"  # TOML has no null: where None is not the default, this word stands for it


def named(thing: Any) -> str:
    """A function or callable object by name, so that equal names mean equal functions.

    Functions of this package and schedules have their own names. Others are named with their
    module, a partial with its arguments, an object with its plain attributes, and a function or
    class that a user wrote with a hash of its code, since another of the same name may take its
    place.
    """
    if isinstance(thing, functools.partial):
        values = [_text(v) for v in thing.args] + [
            f"{k}={_text(v)}" for k, v in sorted(thing.keywords.items())
        ]
        return f"partial({', '.join([named(thing.func), *values])})"
    if isinstance(thing, types.MethodType):
        return f"{named(thing.__self__)}.{thing.__name__}"
    module = getattr(thing, "__module__", None) or "builtins"
    if isinstance(thing, types.FunctionType):
        if module.startswith("ddi."):
            return thing.__name__
        full = f"{module}.{thing.__qualname__}"
        return full if module.startswith("torch.") else f"{full}#{_function_hash(thing)}"
    if isinstance(thing, (type, types.BuiltinFunctionType)):
        return f"{module}.{thing.__qualname__}"
    kind = type(thing)
    options = ", ".join(f"{k}={_text(v)}" for k, v in sorted(_attributes(thing).items()))
    written = _own_code(thing)
    code = f"#{hashlib.sha256(repr(written).encode()).hexdigest()[:8]}" if written else ""
    return f"{kind.__module__}.{kind.__qualname__}({options}){code}"


def as_table(thing: Any) -> dict[str, Any]:
    """A dataclass as a TOML table, a callable as the table ``{"callable": its name}``.

    ``None`` is left out where it is the default and written ``"none"`` where it is not; tuples
    become lists, NumPy numbers plain ones, functions their names. Attacks have their ``kind``; a
    rule inside (of SAM) lies flat in the table.
    """
    if not is_dataclass(thing) or isinstance(thing, type):
        return {"callable": named(thing)}
    table: dict[str, Any] = {"kind": type(thing).__name__} if isinstance(thing, Attack) else {}
    for field in (field for field in fields(thing) if field.init):
        value = getattr(thing, field.name)
        if isinstance(value, Rule):
            table |= as_table(value)
        elif value is not None or field.default is not None:
            table[field.name] = NONE if value is None else _plain(value)
    return table


def network(model: nn.Module) -> str:
    """Hash of a network without its weights: kinds and plain attributes of its modules (an
    activation, a rate of dropout), names, shapes and dtypes of parameters and buffers.
    """
    model = eager(model)
    lines = []
    for name, module in model.named_modules():
        kind = type(module)
        options = sorted((k, _text(v)) for k, v in _attributes(module).items())
        own = f" {written}" if (written := _own_code(module)) else ""
        lines.append(f"{name}: {kind.__module__}.{kind.__qualname__} {options}{own}")
    for name, tensor in model.state_dict().items():
        lines.append(f"{name}: {tuple(tensor.shape)} {tensor.dtype}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested tables and lists of tables as one table of dotted keys and texts."""
    found: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            value = {str(i): v for i, v in enumerate(value)}
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + str(key)] = _text(_plain(value))
    return found


def differences(
    there: Mapping[str, str], here: Mapping[str, str], only_common: bool = False
) -> str:
    """What is not equal, in words; empty if nothing is. ``only_common``: keys in both alone count
    (records made before a key was recorded)."""
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    if only_common:
        keys = [key for key in keys if key in there and key in here]
    words = [
        "the network is another one"
        if key == "network"
        else f"{key} is {_short(there.get(key))} there and {_short(here.get(key))} here"
        for key in keys
    ]
    more = f", and {len(words) - 8} more" if len(words) > 8 else ""
    return "; ".join(words[:8]) + more


def _short(text: str | None) -> str:
    if text is None:
        return "not given"
    return text if len(text) <= 48 else text[:45] + "..."


def _attributes(thing: Any) -> dict[str, Any]:
    """Attributes that are options: numbers, words, functions, and tuples of them."""
    plain = (bool, int, float, str, type(None), types.FunctionType, functools.partial)
    return {
        key: value
        for key, value in getattr(thing, "__dict__", {}).items()
        if not key.startswith("_")
        and key != "training"
        and all(isinstance(v, plain) for v in (value if isinstance(value, tuple) else (value,)))
    }


def _text(value: Any) -> str:
    return named(value) if callable(value) else repr(value)


def _plain(value: Any) -> Any:
    """TOML-able: what a record holds in place of ``value``."""
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    return named(value) if callable(value) else value


def _own_code(thing: Any) -> list[str]:
    """What a user wrote for the class of an object: the methods of each class that is neither of
    torch nor of this package, and what the object holds besides options and what is in its state
    (values of private names, lists and tables, tensors that are no parameters).
    """
    code = [
        f"{name} {_function_hash(method)}"
        for kind in type(thing).__mro__
        if kind.__module__.partition(".")[0] not in ("torch", "ddi", "builtins", "typing")
        for name, method in sorted(vars(kind).items())
        if isinstance(method, types.FunctionType)
    ]
    if not code:
        return []
    bare = {*vars(nn.Module()), *_attributes(thing), "training"}
    held = {k: v for k, v in getattr(thing, "__dict__", {}).items() if k not in bare}
    if isinstance(thing, nn.Module):
        held |= {k: thing._buffers[k] for k in thing._non_persistent_buffers_set}
    return code + [f"{key}={_content(value)}" for key, value in sorted(held.items())]


def _content(value: Any) -> str:
    """The same text for the same content, of values that no address gets into."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        array = torch.as_tensor(value).detach().cpu()
        numbers = hashlib.sha256(repr(array.tolist()).encode()).hexdigest()[:8]
        return f"{tuple(array.shape)} {array.dtype} {numbers}"
    if isinstance(value, Mapping):
        return repr({str(key): _content(v) for key, v in value.items()})
    if isinstance(value, (list, tuple)):
        return repr([_content(v) for v in value])
    if isinstance(value, (set, frozenset)):
        return repr(sorted(map(_content, value)))
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None))):
        return repr(value)
    return (
        named(value) if callable(value) and not isinstance(value, nn.Module) else str(type(value))
    )


def _function_hash(function: types.FunctionType, above: tuple[Any, ...] = ()) -> str:
    """Of a function's code, its defaults, and the values that it closes over."""

    def code(c: types.CodeType) -> tuple[Any, ...]:
        inner = [code(v) if isinstance(v, types.CodeType) else _content(v) for v in c.co_consts]
        return c.co_code, c.co_names, inner

    def inside(value: Any) -> str:
        if not isinstance(value, types.FunctionType):
            return _content(value)
        itself = value is function or value in above  # a function that calls itself closes over it
        return "itself" if itself else _function_hash(value, (*above, function))

    cells = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # one that is not filled yet
            cells.append(inside(cell.cell_contents))
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items()]
    known = code(function.__code__), [inside(v) for v in defaults], cells
    return hashlib.sha256(repr(known).encode()).hexdigest()[:8]
