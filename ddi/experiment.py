"""Experiments as TOML files: a base, arms that change it, and seeds; each arm and seed is one run.

A file has the tables ``model``, ``setting``, ``attack``, ``evaluation``, ``rule`` and ``kernels``,
with the fields of :class:`ddi.trainer.Setting`, of the attack, of :class:`ddi.descent.Rule` and of
:class:`ddi.fast.Kernels` as keys, and ``arms.<name>`` tables that change them. A table that names
another ``kind`` or ``name`` than the base replaces the base's table (of an attack, all but ``eps``,
``norm`` and ``box``); any other is laid over it. ``phases`` is a list of later rules and attacks,
each with its ``start``; ``grid`` gives lists of values that multiply the arms. Lengths may be
written as fractions, ``eps = "8/255"``. A record's ``config.toml`` is such a file.
"""

import difflib
import inspect
import itertools
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddi import attacks, models
from ddi.attacks import Attack, inverse_time
from ddi.data import Dataset
from ddi.descent import Rule
from ddi.fast import Kernels
from ddi.trainer import Phase, Setting, train

__all__ = ["Run", "read_experiment"]

ATTACKS = {kind: getattr(attacks, kind) for kind in ("PGD", "PGA", "FGSM", "FAST")}
MODELS = {name: getattr(models, name) for name in ("ResNet18", "SmallNet", "MLP")}
LOSSES = ("cross_entropy", "margin_loss")
SET = (
    "eps",
    "norm",
    "box",
)  # what the perturbations are chosen from: it stays when an arm names another attack
TABLES = ("model", "setting", "attack", "evaluation", "rule", "kernels", "phases")
NAMES = {str: "string", dict: "table", list: "array", (int, list): "integer or array"}
KINDS = {
    "title": str,
    "figure": str,
    "experiment": str,
    "arm": str,
    "data": str,
    "seeds": (int, list),
    "phases": list,
}
TOP = ("title", "figure", "experiment", "arm", "data", "seeds", "grid", "arms", *TABLES)


@dataclass(frozen=True)
class Run:
    """One arm of an experiment with one seed."""

    experiment: str
    arm: str
    data: str
    model: dict[str, Any]
    setting: Setting
    rule: Rule
    attack: Attack
    evaluation: Attack
    phases: tuple[Phase, ...] = ()
    kernels: Kernels = Kernels()

    @property
    def name(self) -> str:
        """``<arm>-seed<k>``, the folder of its record."""
        return f"{self.arm}-seed{self.setting.seed}"

    def make_model(self, data: Dataset) -> nn.Module:
        """A new model for that data, with the weights of the run's seed."""
        with torch.random.fork_rng():
            torch.manual_seed(self.setting.seed)
            return make_model(self.model, data).to(data.x_train.device)

    def train(self, data: Dataset, out: str | Path, **options: Any) -> nn.Module:
        """Train and record under ``out/<experiment>/<arm>-seed<k>``; ``options`` are those of
        :func:`ddi.trainer.train`.
        """
        about = {
            "experiment": self.experiment,
            "arm": self.arm,
            "data": self.data,
            "model": self.model,
        }
        folder = Path(out) / self.experiment / self.name
        model, plan = self.make_model(data), (self.rule, self.attack, self.setting)
        return train(
            model, data, *plan, folder, self.evaluation, self.phases, self.kernels, about, **options
        )


def make_model(spec: dict[str, Any], data: Dataset) -> nn.Module:
    """The network that ``spec`` names, for images and classes like those of ``data``."""
    options = {
        key: tuple(v) if isinstance(v, list) else v for key, v in spec.items() if key != "name"
    }
    shape = data.x_train.shape[1:]
    size = {"in_features": shape.numel()} if spec["name"] == "MLP" else {"in_channels": shape[0]}
    return MODELS[spec["name"]](**size, classes=data.classes, **options)


def read_experiment(
    path: str | Path, overrides: Iterable[str] = (), arms: Iterable[str] = (), **flags: Any
) -> list[Run]:
    """The runs of a file, seed by seed, everything checked.

    Args:
        path: of the TOML file. overrides: ``key=value`` with dotted keys, stronger than file and
            arms.
        arms: only these, by name, with or without the suffix of a grid's point.
        flags: ``seeds`` and ``epochs``, if not ``None`` stronger than the file.

    Raises:
        ValueError: for an unknown key or arm, with what is known; for an impossible value, with
            where it stands.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"experiment must be a TOML file, and there is none at {path}")
    try:
        file = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    _known(path.name, file, TOP)
    for key, value in file.items():
        kind = KINDS.get(key, dict)
        if not isinstance(value, kind):
            raise ValueError(
                f"{path.name}: {key} must be of the TOML type {NAMES[kind]}, got {value!r}"
            )
    changes = [_override(text) for text in overrides]
    for flag, key in (("seeds", "seeds"), ("epochs", "setting.epochs")):
        if flags.get(flag) is not None:
            changes.append((key.split("."), flags[flag]))
    for keys, value in changes:
        if keys[0] in ("seeds", "data") and len(keys) == 1:
            file[keys[0]] = value
    changes = [change for change in changes if len(change[0]) > 1]
    base = {key: file[key] for key in TABLES if key in file}
    found = file.get("arms") or {file.get("arm", "run"): {}}
    seeds = _seeds(file, base)
    variants = list(_variants(path.name, found, file.get("grid", {})))
    chosen = list(arms) or list(found)
    _known(
        "--arms",
        chosen,
        dict.fromkeys(name for arm, variant, *_ in variants for name in (arm, variant)),
    )
    experiment, data = file.get("experiment", path.stem), file.get("data", "cifar10")
    runs = []
    for seed, (family, arm, tables, point) in itertools.product(seeds, variants):
        if not {family, arm} & set(chosen):
            continue
        where = f"{path.name}, arm {arm}"
        merged = _merge(where, base, tables)
        for keys, value in [*point, *changes]:
            _put(where, merged, keys, value)
        merged.setdefault("setting", {})["seed"] = seed
        runs.append(_build(where, experiment, arm, data, merged))
    return runs


def _seeds(file: dict[str, Any], base: dict[str, Any]) -> list[int]:
    seeds = file.get("seeds", [base.get("setting", {}).get("seed", 0)])
    seeds = list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds
    if not (isinstance(seeds, list) and seeds and all(type(s) is int and s >= 0 for s in seeds)):
        raise ValueError(
            f"seeds must be a number of seeds, at least 1, or a list of them, got {file.get('seeds')!r}"
        )
    return seeds


def _variants(where: str, arms: dict[str, Any], grid: dict[str, list]) -> Iterable[tuple]:
    """Each arm at each point of the grid: its name, that with the point, its tables, and the point
    as changes.
    """
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{where}: grid.{key} must be a list of values, got {values!r}")
    for name, point in itertools.product(arms, itertools.product(*grid.values())):
        _known(f"{where}, arm {name}", arms[name], TABLES)
        suffix = "".join(
            f"-{key.split('.')[-1]}{value}" for key, value in zip(grid, point, strict=True)
        )
        yield (
            name,
            name + suffix,
            arms[name],
            [(key.split("."), value) for key, value in zip(grid, point, strict=True)],
        )


def _merge(where: str, base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    for key, value in over.items():
        if key == "phases" and isinstance(value, list):
            merged[key] = value
            continue
        if not isinstance(value, dict):
            raise ValueError(f"{where}: {key} must be a table, got {value!r}")
        old = merged.get(key, {})
        other = any(name in value and value[name] != old.get(name) for name in ("kind", "name"))
        merged[key] = {k: v for k, v in old.items() if k in SET} | value if other else old | value
        if (
            key == "attack" and other and "alpha" in old and old.get("kind", "PGD") == "PGD"
        ):  # arms are evaluated alike
            merged["evaluation"] = {"alpha": old["alpha"]} | merged.get("evaluation", {})
    return merged


def _override(text: str) -> tuple[list[str], Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError(
            f"overrides are written key=value, for example setting.lr=0.3, got {text!r}"
        )
    if key.split(".")[0] not in (*TABLES, "seeds", "data") or (
        ("." in key) == (key in ("seeds", "data"))
    ):
        raise ValueError(
            f"overrides begin with one of {TABLES[:-1]} and a dot, or are data or seeds, got {text!r}"
        )
    if key == "setting.seed":
        raise ValueError(f"seeds are given as seeds=[{value}] (or --seeds N), got {text!r}")
    try:
        return key.split("."), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.split("."), value


def _put(where: str, tables: dict[str, Any], keys: list[str], value: Any) -> None:
    if len(keys) != 2 or keys[0] not in TABLES[:-1]:
        raise ValueError(
            f"{where}: {'.'.join(keys)} must be <table>.<key> with a table of {TABLES[:-1]}"
        )
    tables[keys[0]] = tables.get(keys[0], {}) | {keys[1]: value}


def _build(where: str, experiment: str, arm: str, data: str, tables: dict[str, Any]) -> Run:
    try:
        model = {"name": "ResNet18"} | tables.get("model", {})
        _known("model.name", [model["name"]], MODELS)
        known = set(inspect.signature(MODELS[model["name"]]).parameters) - {
            "in_channels",
            "in_features",
            "classes",
        }
        _known("model", model, {"name", *known})
        with torch.device("meta"):  # checks the options without making the weights
            MODELS[model["name"]](
                **{
                    k: tuple(v) if isinstance(v, list) else v
                    for k, v in model.items()
                    if k != "name"
                }
            )
        setting = _make("setting", Setting, tables.get("setting", {}))
        attack = _attack("attack", {"kind": "PGD"} | tables.get("attack", {}))
        same = {"kind": "PGD", "eps": attack.eps, "norm": attack.norm, "box": attack.box}
        alpha = getattr(attack, "alpha", 0) if isinstance(attack, attacks.PGD) else attack.eps / 4
        evaluation = _attack(
            "evaluation", same | {"steps": 20, "alpha": alpha} | tables.get("evaluation", {})
        )
        rule = _rule("rule", {"name": "single"} | tables.get("rule", {}), setting)
        kernels = _make("kernels", Kernels, tables.get("kernels", {}))
        phases = []
        for i, phase in enumerate(tables.get("phases", [])):
            _known(f"phases[{i}]", phase, ("start", "attack", "rule"))
            same_set = {key: value for key, value in tables.get("attack", {}).items() if key in SET}
            later_attack = (
                _attack("attack", same_set | phase["attack"]) if "attack" in phase else attack
            )
            later_rule = _rule("rule", phase["rule"], setting) if "rule" in phase else rule
            phases.append(Phase(phase.get("start"), later_rule, later_attack))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error
    return Run(
        experiment, arm, data, model, setting, rule, attack, evaluation, tuple(phases), kernels
    )


def _rule(where: str, table: dict[str, Any], setting: Setting) -> Rule:
    return _make(where, Rule, ({"t": setting.lr} if table.get("name") == "bundle" else {}) | table)


def _attack(where: str, table: dict[str, Any]) -> Attack:
    kind = table.get("kind", "PGD")
    _known(f"{where}.kind", [kind], ATTACKS)
    options = {key: value for key, value in table.items() if key != "kind"}
    if (schedule := options.get("schedule")) is not None:
        name, bracket, start = str(schedule).removesuffix(")").partition("(")
        if name != "inverse_time" or not bracket or not start.isdigit():
            raise ValueError(
                f'{where}.schedule must be "inverse_time(8)" or the like, got {schedule!r}'
            )
        options["schedule"] = inverse_time(int(start))
    return _make(where, ATTACKS[kind], options)


def _make(where: str, kind: Callable[..., Any], table: dict[str, Any]) -> Any:
    known = [f.name for f in fields(kind)]
    _known(where, table, known)
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in table]
    if missing:
        raise ValueError(f"{where} needs {missing}")
    values = {
        key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
    }
    for key in ("eps", "alpha", "t"):
        if isinstance(values.get(key), str):
            try:
                values[key] = float(Fraction(values[key]))
            except ValueError:
                raise ValueError(
                    f'{where}.{key} must be a number or a fraction like "8/255", got {values[key]!r}'
                ) from None
    if "loss" in values:
        _known(f"{where}.loss", [values["loss"]], LOSSES)
        values["loss"] = getattr(attacks, values["loss"])
    return kind(**values)


def _known(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]}?" if near else ""
            raise ValueError(
                f"{where}: {key} is not known{'; ' + hint if hint else ''} (known: {', '.join(sorted(known))})"
            )
