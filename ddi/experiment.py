"""Experiments as TOML files: a base, arms that change it, and seeds; each arm and seed is one run.

A file has the tables ``model``, ``setting``, ``attack``, ``evaluation``, ``rule``, ``sampler`` and
``kernels``, with the fields of :class:`ddi.plan.Setting`, of the attack, of
:class:`ddi.descent.Rule` and so on as keys, and ``arms.<name>`` tables that change them. A ``rule``
with ``rho`` is one inside :class:`ddi.sharpness.SAM`, with ``rho`` and ``lam`` inside
:class:`ddi.sharpness.SAMPa`. A table
that names another ``kind`` or ``name`` than the base replaces the base's table (of an attack, all
but ``eps``, ``norm`` and ``box``); any other is laid over it. What ``evaluation`` does not say is
PGD-20 in the set of the training attack, with steps of ``eps / 4``. ``phases`` is a list of later
rules and attacks, each with its ``start``; ``grid`` gives lists of values that multiply the arms.
Lengths may be written as fractions, ``eps = "8/255"``, and a value that is not there as ``box =
"none"``. A record's ``config.toml`` is such a file.
"""

import itertools
import math
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddi import _checks as check
from ddi import _words as words
from ddi.adversary import Attack
from ddi.data import Dataset
from ddi.kernels import Kernels
from ddi.plan import Phase, Setting, joined, whole_plan
from ddi.samplers import Sampler
from ddi.sharpness import AnyRule
from ddi.tables import applicable, attack_of, default_attack, known, make, model_of, rule_of
from ddi.trainer import train

__all__ = ["Run", "read_experiment"]

SET = ("eps", "norm", "box")  # what perturbations are chosen from: it stays if another attack comes
TABLES = ("model", "setting", "attack", "evaluation", "rule", "sampler", "kernels", "phases")
WORDS = ("title", "figure", "experiment", "arm", "data")
TYPES: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(WORDS, (str, "string")),
    "seeds": ((int, list), "integer or array"),
    "phases": (list, "array"),
}  # of what is no table
TOP = (*WORDS, "seeds", "grid", "arms", *TABLES)
MOST = 10_000  # runs of one file


@dataclass(frozen=True)
class Run:
    """One arm of an experiment with one seed."""

    experiment: str
    arm: str
    data: str
    model: dict[str, Any]
    setting: Setting
    rule: AnyRule
    attack: Attack
    evaluation: Attack
    phases: tuple[Phase, ...] = ()
    kernels: Kernels = Kernels()
    sampler: Sampler | None = None

    def __post_init__(self) -> None:
        for key in ("experiment", "arm"):
            words.folder_name(key, getattr(self, key))
        words.word("data", self.data)
        words.table("model", self.model)
        whole_plan(self.setting, self.rule, self.attack, self.evaluation, self.phases)
        check.instance("kernels", self.kernels, Kernels)
        if self.sampler is not None:
            check.instance("sampler", self.sampler, Sampler)

    @property
    def name(self) -> str:
        """``<arm>-seed<k>``, the folder of its record."""
        return f"{self.arm}-seed{self.setting.seed}"

    @property
    def plan(self) -> list[Phase]:
        """All phases."""
        return joined(self.rule, self.attack, self.phases)

    def folder(self, out: str | Path) -> Path:
        """Where its record is kept, inside ``out``."""
        return words.path("out", out) / self.experiment / self.name

    def make_model(self, data: Dataset) -> nn.Module:
        """A new model for that data, with the weights of the run's seed."""
        with torch.random.fork_rng():
            torch.manual_seed(self.setting.seed)
            return model_of(self.model, data).to(data.x_train.device)

    def train(
        self,
        data: Dataset,
        out: str | Path,
        checkpoint_every: int | None = None,
        progress: bool = False,
        tensorboard: bool = False,
    ) -> nn.Module:
        """Train and record under ``out/<experiment>/<arm>-seed<k>``; options and errors are those
        of :func:`ddi.trainer.train`.
        """
        about: dict[str, Any] = {"experiment": self.experiment, "arm": self.arm, "data": self.data}
        about["model"] = self.model
        if self.kernels != Kernels():
            about["kernels"] = dict(vars(self.kernels))
        return train(
            self.kernels.model(self.make_model(data)),
            data,
            self.rule,
            self.attack,
            self.setting,
            self.folder(out),
            self.evaluation,
            self.phases,
            about,
            checkpoint_every,
            progress,
            tensorboard,
            self.sampler,
        )


def read_experiment(
    path: str | Path,
    overrides: Iterable[str] = (),
    arms: Iterable[str] = (),
    seeds: int | list[int] | None = None,
    epochs: int | None = None,
) -> list[Run]:
    """The runs of a file, seed by seed, everything checked.

    Args:
        path: of the TOML file. overrides: ``key=value`` with dotted keys, stronger than file, arms
            and grid.
        arms: only these, by name, with or without the suffix of a grid's point.
        seeds, epochs: if not ``None`` stronger than the file.

    Raises:
        ValueError: for an unknown key or arm, with what is known; for an impossible value, with
            where it stands.
    """
    path = words.path("path of the experiment", path)
    file = read_file(path)
    changes = [_override(text) for text in overrides]
    changes += [(["seeds"], seeds)] if seeds is not None else []
    changes += [(["setting", "epochs"], epochs)] if epochs is not None else []
    file |= {keys[0]: value for keys, value in changes if len(keys) == 1}
    _check_top(path.name, file)
    changes = [change for change in changes if len(change[0]) > 1]
    base = {key: file[key] for key in TABLES if key in file}
    if "arm" in file:  # a record
        _drop_idle(base)
    found = file.get("arms") or {file.get("arm", "run"): {}}
    each_seed = _seeds(file, base)
    grid = _grid(path.name, file, len(found) * len(each_seed))
    variants = list(_variants(path.name, found, grid))
    chosen = list(arms) or list(found)
    known("--arms", chosen, [name for variant in variants for name in variant[:2]])
    experiment, runs = file.get("experiment", path.stem), []
    _check_names(path.name, experiment, [variant[1] for variant in variants], grid)
    for seed, (family, arm, tables, point) in itertools.product(each_seed, variants):
        if not {family, arm} & set(chosen):
            continue
        where = f"{path.name}, arm {arm}"
        merged = _merge(where, base, tables)
        for keys, value in [*point, *changes]:
            _put(where, merged, keys, value)
        merged.setdefault("setting", {})["seed"] = seed
        runs.append(_build(where, experiment, arm, file.get("data", "cifar10"), merged))
    return runs


def _check_names(where: str, experiment: str, arms: list[str], grid: Iterable[str]) -> None:
    for name in (experiment, *arms):
        words.folder_name(f"{where}: the name of an experiment or arm", name)
    if len({name.casefold() for name in arms}) < len(arms):  # one folder on many systems
        points = " ".join(["two points of the grid", *grid])
        raise ValueError(f"{where}: {points}, or two arms, have one name")


def read_file(path: Path) -> dict[str, Any]:
    """A TOML file, in UTF-8 (with or without a byte order mark).

    Raises:
        ValueError: if it is not there, or no such file.
    """
    if not path.is_file():
        raise ValueError(f"experiment must be a TOML file, and there is none at {path}")
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8, as TOML is: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error


def _drop_idle(record: dict[str, Any]) -> None:
    """Leave of the rules of a record what applies to them."""
    for place in (record, *record.get("phases", [])):
        if "rule" in place:
            place["rule"] = applicable(place["rule"])


def _check_top(where: str, file: dict[str, Any]) -> None:
    known(where, file, TOP)
    for key, value in file.items():
        kind, name = TYPES.get(key, (dict, "table"))
        if not isinstance(value, kind):
            raise ValueError(f"{where}: {key} must be of the TOML type {name}, got {value!r}")


def _seeds(file: dict[str, Any], base: dict[str, Any]) -> list[int]:
    setting = base.get("setting", {})
    seeds = file.get("seeds", [setting.get("seed", 0)])
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        seeds = range(check.integer("seeds", seeds, 1, MOST))
    listed = list(seeds) if isinstance(seeds, (list, range)) else []
    good = all(type(seed) is int and seed >= 0 for seed in listed) and len(listed) > 0
    if not good or len(set(listed)) < len(listed):
        raise ValueError(
            f"seeds must be a number of seeds, 1 to {MOST}, or a list of different ones, "
            f"got {check.shown(seeds)}"
        )
    return listed


def _grid(where: str, file: dict[str, Any], runs: int) -> dict[str, list[Any]]:
    """The grid, of which each point makes so many runs."""
    grid: dict[str, list[Any]] = file.get("grid", {})
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{where}: grid.{key} must be a list of values, got {values!r}")
        if key == "setting.seed":
            raise ValueError(f"{where}: grid.{key} must be given as seeds = {values}")
    points = math.prod(map(len, grid.values())) * runs
    if points > MOST:
        raise ValueError(f"{where}: arms, grid and seeds make {points} runs, at most {MOST}")
    return grid


def _variants(
    where: str, arms: dict[str, Any], grid: dict[str, list[Any]]
) -> Iterable[tuple[str, str, dict[str, Any], list[tuple[list[str], Any]]]]:
    """Each arm at each point of the grid: its name, that with the point, its tables, and the point
    as changes.
    """
    for name, tables in arms.items():
        if not isinstance(tables, dict):
            raise ValueError(f"{where}: arms.{name} must be a table, got {tables!r}")
        known(f"{where}, arm {name}", tables, TABLES)
        for chosen in itertools.product(*grid.values()):
            point = [(key.split("."), v) for key, v in zip(grid, chosen, strict=True)]
            suffix = "".join(f"-{keys[-1]}{v}" for keys, v in point)
            yield name, name + re.sub(r"[^\w.+-]", "_", suffix), tables, point


def _merge(where: str, base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    for key, value in over.items():
        if key == "phases":
            merged[key] = value
            continue
        if not isinstance(value, dict):
            raise ValueError(f"{where}: {key} must be a table, got {value!r}")
        old = merged.get(key, {})
        other = any(name in value and value[name] != old.get(name) for name in ("kind", "name"))
        merged[key] = {k: v for k, v in old.items() if k in SET} | value if other else old | value
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
            f"overrides begin with one of {TABLES[:-1]} and a dot, or are data or seeds, "
            f"got {text!r}"
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
        with torch.device("meta"):  # checks the options without making the weights
            model_of(model)
        setting = make("setting", Setting, tables.get("setting", {}))
        kernels = make("kernels", Kernels, tables.get("kernels", {}))
        given = attack_of("attack", {"kind": "PGD"} | tables.get("attack", {}))
        attack = kernels.attack(given)
        evaluation = attack_of("evaluation", default_attack(given, tables.get("evaluation", {})))
        rule = rule_of("rule", {"name": "single"} | tables.get("rule", {}), setting.lr)
        phases = _phases(tables, rule, attack, setting, kernels)
        sampler = make("sampler", Sampler, tables["sampler"]) if "sampler" in tables else None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error
    parts = (model, setting, rule, attack, evaluation, phases, kernels, sampler)
    return Run(experiment, arm, data, *parts)


def _phases(
    tables: dict[str, Any], rule: AnyRule, attack: Attack, setting: Setting, kernels: Kernels
) -> tuple[Phase, ...]:
    same_set = {key: value for key, value in tables.get("attack", {}).items() if key in SET}
    given = tables.get("phases", [])
    if not isinstance(given, list):
        check.refuse("phases", "an array of tables", given)
    phases = []
    for i, phase in enumerate(given):
        if not isinstance(phase, dict) or "start" not in phase:
            check.refuse(f"phases[{i}]", "a table with a start, a share of the epochs", phase)
        known(f"phases[{i}]", phase, ("start", "attack", "rule"))
        for key in ("attack", "rule"):
            check.instance(f"phases[{i}].{key}", phase.get(key, {}), dict)
        later_rule, later_attack = rule, attack
        if "attack" in phase:
            table = {"kind": "PGD"} | same_set | phase["attack"]
            later_attack = kernels.attack(attack_of(f"phases[{i}].attack", table))
        if "rule" in phase:
            later_rule = rule_of(f"phases[{i}].rule", phase["rule"], setting.lr)
        phases.append(Phase(phase["start"], later_rule, later_attack))
    return tuple(phases)
