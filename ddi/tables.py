"""A TOML table made into the thing that it describes: dataclasses, attacks, losses, networks.

Every value is checked against the type that its field declares, so that a word which is no TOML
(``False``, ``yes``) is never taken for true, and lengths may be fractions.
"""

import difflib
import inspect
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from fractions import Fraction
from typing import Any, Union, get_args, get_origin, get_type_hints

from torch import nn

from ddi import _checks as check
from ddi import attacks, models, objectives
from ddi.attacks import Attack, inverse_time
from ddi.beta import BETA
from ddi.data import Dataset
from ddi.descent import Rule
from ddi.identity import NONE
from ddi.plan import default_evaluation
from ddi.sharpness import SAM, AnyRule, SAMPa

__all__ = [
    "ATTACKS",
    "MODELS",
    "applicable",
    "attack_of",
    "default_attack",
    "known",
    "make",
    "model_of",
    "rule_of",
]

ATTACKS = {kind: getattr(attacks, kind) for kind in ("PGD", "PGA", "FGSM", "FAST")}
ATTACKS["BETA"] = BETA
MODELS: dict[str, type[nn.Module]] = {
    name: getattr(models, name) for name in ("ResNet18", "SmallNet", "MLP")
}
LOSSES = {name: getattr(attacks, name) for name in ("cross_entropy", "margin_loss")}
OBJECTIVES = {kind.word: kind for kind in (objectives.KL, objectives.TRADES, objectives.MART)}
PENALTIES = {
    kind.word: kind
    for kind in (
        objectives.ELLE,
        objectives.AdaptiveELLE,
        objectives.GradAlign,
        objectives.LLR,
        objectives.CURE,
    )
}
FRACTION = re.compile(r"[+-]?\d{1,15}(\.\d{1,15})?(/\d{1,15})?")


def known(where: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise ``ValueError`` for a key that is not allowed, with the nearest one that is."""
    allowed = list(dict.fromkeys(allowed))
    for key in given:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            listed = ", ".join(sorted(allowed)[:50])
            raise ValueError(f"{where}: {key} is not known{hint} (known: {listed})")


def make(where: str, kind: type[Any], table: dict[str, Any]) -> Any:
    """The dataclass ``kind`` from a table of its fields.

    Raises:
        ValueError: for unknown or missing keys, values of another type, or what ``kind`` refuses.
    """
    every = {f.name: f for f in fields(kind) if f.init}
    known(where, table, every)
    needed = [n for n, f in every.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in table]:
        raise ValueError(f"{where} needs {missing}")
    hints = get_type_hints(kind)
    values = {key: _value(f"{where}.{key}", value, hints[key]) for key, value in table.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _value(name: str, value: Any, hint: Any) -> Any:
    """A TOML value as one of the type that a field declares."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if type(None) in options and value == NONE:
        return None
    options = tuple(option for option in options if option is not type(None))
    if any(get_origin(option) is tuple for option in options):
        if not isinstance(value, (list, tuple)):
            check.refuse(name, "an array of numbers", value)
        return tuple(check.finite(name, v) for v in value)
    if bool in options:
        return check.flag(name, value)
    if float in options:
        return _number(name, value)
    if int in options:
        return check.integer(name, value)
    if name.endswith(".loss"):
        plain = LOSSES.get(value) if isinstance(value, str) else None
        return plain or _called(name, value, OBJECTIVES, LOSSES)
    if name.endswith(".penalty"):
        return _called(name, value, PENALTIES)
    if name.endswith(".schedule"):
        return _schedule(name, value)
    if options == (str,):
        return check.instance(name, value, str)
    return value


def _number(name: str, value: Any) -> float:
    if not isinstance(value, str):
        return check.finite(name, value)
    try:
        if not FRACTION.fullmatch(value):
            raise ValueError
        numerator, _, denominator = value.partition("/")
        return float(Fraction(numerator) / Fraction(denominator or "1"))
    except (ValueError, ZeroDivisionError):
        check.refuse(name, 'a number or a fraction like "8/255"', value)


def _called(name: str, value: Any, kinds: Mapping[str, Any], others: Iterable[str] = ()) -> Any:
    """What a word with its numbers, ``"trades(6)"``, stands for; without them, the usual ones."""
    match = re.fullmatch(r"([\w-]+)(?:\(([^()]*)\))?", str(value))
    word, numbers = match.groups() if match else (str(value), None)
    known(name, [word], [*others, *kinds])
    each = [v.strip() for v in (numbers or "").split(",") if v]
    try:
        return kinds[word](*(_written(name, v) for v in each))
    except TypeError:
        check.refuse(name, f"{word} with the numbers that it has, as in {kinds[word]()}", value)


def _written(name: str, text: str) -> float:
    """A number as a record writes it, ``1e-07``, or as anybody does."""
    try:
        return float(text)
    except ValueError:
        return _number(name, text)


def _schedule(name: str, value: Any) -> Any:
    match = re.fullmatch(r"inverse_time\((\d{1,9})\)", str(value))
    if not match:
        check.refuse(name, '"inverse_time(8)" or the like', value)
    return inverse_time(check.positive_int(name, int(match[1])))


def attack_of(where: str, table: dict[str, Any]) -> Attack:
    """The attack that a table describes; its ``kind`` is one of ``ATTACKS``."""
    kind = check.instance(f"{where}.kind", table.get("kind", "PGD"), str)
    known(f"{where}.kind", [kind], ATTACKS)
    options = {key: value for key, value in table.items() if key != "kind"}
    attack: Attack = make(where, ATTACKS[kind], options)
    return attack


def default_attack(attack: Attack, table: dict[str, Any]) -> dict[str, Any]:
    """The table of an evaluation: what it leaves open is PGD-20 in the set of ``attack``, of which
    another kind of attack takes what it has.
    """
    given = {"kind": "PGD"} | table
    usual = default_evaluation(attack)
    eps = given.get("eps", usual.eps)
    known("evaluation.kind", [str(given["kind"])], ATTACKS)
    kind = ATTACKS[str(given["kind"])]
    usual_ = {"eps": usual.eps, "norm": usual.norm, "box": usual.box}
    if any(field.name == "steps" and field.init for field in fields(kind)):
        usual_ |= {"steps": 20, "alpha": _number("evaluation.eps", eps) / 4}
    return {key: NONE if value is None else value for key, value in usual_.items()} | given


def applicable(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a recorded rule that apply to it: earlier versions wrote all, also where they
    had no effect.
    """
    per_sample = options["name"] == "product" or not options.get("joint", True)
    method = options.get("method", "chunks") if per_sample else None
    idle = {"max_iter"} if method != "matrix-free" else set()
    idle |= {"method"} if not per_sample else set()
    return {key: value for key, value in options.items() if key not in idle}


def rule_of(where: str, table: dict[str, Any], lr: float) -> AnyRule:
    """The rule that a table describes: with ``rho`` SAM around it, with ``lam`` too SAMPa. ``t`` is
    the learning rate where it is not given.

    Raises:
        ValueError: for keys and values that no such rule has.
    """
    sharp = {key: table[key] for key in ("rho", "lam") if key in table}
    known(where, table, [*(f.name for f in fields(Rule) if f.init), "rho", "lam"])
    inner = {key: value for key, value in table.items() if key not in sharp}
    t = {"t": table.get("t", lr)}
    if inner.get("name") == "bundle":
        inner |= t
    elif "lam" in sharp:
        inner.pop("t", None)
    rule: AnyRule = make(where, Rule, inner)
    if "lam" in sharp:
        rule = make(where, SAMPa, {"rule": rule} | sharp | t)
    elif "rho" in sharp:
        rule = make(where, SAM, {"rule": rule} | sharp)
    return rule


def model_of(spec: dict[str, Any], data: Dataset | None = None) -> nn.Module:
    """The network that ``spec`` describes, for images and classes like those of ``data``.

    Raises:
        ValueError: for an unknown name or key, or an impossible option.
    """
    name = check.instance("model.name", spec.get("name", "ResNet18"), str)
    if name.startswith("python:"):
        raise ValueError(
            f"this run was made from Python, with a {name[7:]} whose options are not recorded; say "
            "how it is made: evaluate --network 'name=\"MLP\", hidden=[64]', or before the run "
            'train(..., about={"model": {"name": "MLP", "hidden": [64]}})'
        )
    known("model.name", [name], MODELS)
    signature = inspect.signature(MODELS[name]).parameters
    own = set(signature) - {"in_channels", "in_features", "classes"}
    known("model", spec, {"name", *own})
    options = {}
    for key, value in spec.items():
        if key == "name":
            continue
        wanted = signature[key].default
        if isinstance(wanted, tuple):
            if not isinstance(value, (list, tuple)):
                check.refuse(f"model.{key}", "an array of integers", value)
            value = tuple(check.positive_int(f"model.{key}", v) for v in value)
        elif isinstance(wanted, str):
            check.instance(f"model.{key}", value, str)
        options[key] = value
    if data is not None:
        shape = data.x_train.shape[1:]
        first = "in_features" if name == "MLP" else "in_channels"
        options |= {first: shape.numel() if name == "MLP" else shape[0], "classes": data.classes}
    return MODELS[name](**options)
