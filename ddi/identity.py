"""What decides a run, as one value: a flat table from dotted keys to text, compared before anything
of an earlier run is used.

Two runs are one run if their tables are equal: setting, rule, attack, evaluation, phases, the
network with its options, the data's hash, the kind of device and the dtype. A checkpoint goes on,
and a record is kept, only then; :func:`differences` says in words what is not equal.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddi.adversary import Attack
from ddi.descent import Rule
from ddi.losses import Named
from ddi.naming import Reading, named
from ddi.state import eager, frozen

__all__ = ["as_table", "constants", "differences", "flat", "network_hash"]

NONE = "none"  # TOML has no null: where None is not the default, this word stands for it


def as_table(thing: Any) -> dict[str, Any]:
    """A dataclass as a TOML table, a callable as the table ``{"callable": its name}``.

    ``None`` is left out where it is the default and written ``"none"`` where it is not; tuples
    become lists, NumPy numbers plain ones, functions their names. Attacks have their ``kind``, a
    class that a user wrote its ``code``; a rule inside (of SAM) lies flat in the table.
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
    return table | ({"code": named(type(thing))} if "#" in named(type(thing)) else {})


def network_hash(model: nn.Module) -> str:
    """Hash of a network without its weights: kinds, plain attributes and code of its modules
    (an activation, a rate of dropout), names, shapes and dtypes of parameters and buffers.
    """
    model = eager(model)
    # what the network is made of, also where its own code or a method it holds leads back to it
    parts = [*model.named_modules(), *model.named_parameters()]
    reading = Reading({id(part): (part, f"its own {name!r}") for name, part in parts})
    lines = []
    for name, module in model.named_modules():
        kind = type(module)
        options, own = reading.options(module), reading.written(module, whole=False)
        lines.append(f"{name}: {kind.__module__}.{kind.__qualname__} {options}{own or ''}")
    for name, tensor in model.state_dict().items():
        lines.append(f"{name}: {tuple(tensor.shape)} {tensor.dtype}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def constants(model: nn.Module, images: Tensor) -> dict[str, str]:
    """The contents of what a network holds and does not train, by name: its frozen parameters, and
    the buffers that a pass of these images in training mode does not move (the mean and standard
    deviation of a :class:`ddi.models.Normalize`, no running statistics). The model is left as
    found.
    """
    model, reading = eager(model), Reading()
    held: dict[str, Tensor] = dict(model.named_buffers())
    held |= {n: p for n, p in model.named_parameters() if not p.requires_grad}
    before = {name: reading.content(tensor) for name, tensor in held.items()}
    with torch.random.fork_rng(), frozen(model), torch.no_grad():
        model.train()
        model(images.clone())
        now = dict(model.named_buffers())
        moved = {name for name, b in now.items() if Reading().content(b) != before.get(name)}
    return {name: text for name, text in sorted(before.items()) if name not in moved}


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested tables and lists of tables as one table of dotted keys and texts."""
    found: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            value = {str(i): v for i, v in enumerate(value)}
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + str(key)] = Reading().text(_plain(value))
    return found


def differences(
    there: Mapping[str, str], here: Mapping[str, str], only_common: bool = False
) -> str:
    """What is not equal, in words; empty if nothing is.

    ``only_common``: keys in both alone count (records made before a key was recorded). So it is
    with constants always: which there are is a matter of the network and of what is frozen, and
    records and checkpoints of this format were made before their values were written down.
    """
    keys = [
        key
        for key in {**there, **here}
        if there.get(key) != here.get(key)
        and (key in there and key in here or not (only_common or key.startswith("constants.")))
    ]
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
    return named(value) if callable(value) or isinstance(value, Named) else value
