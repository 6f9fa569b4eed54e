"""Bad input to the command line and in files: a sentence that names what is wrong and status 1 or 2,
never a traceback, never a run of something that nobody asked for (see ``doors.py``).
"""

import contextlib
import functools
import io
import json
import math
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from bad_values import USUAL, Kind, integer, number
from doors import HANGS, RAW, REFUSED, SECONDS, WRONG, Late, bounded, limited, quiet

from ddi.__main__ import main

Case = tuple[
    str, Callable[[], list[str]], tuple[str, ...]
]  # label, arguments, words of which one must be there

# fmt: off
EXPERIMENT: dict[str, Any] = {
    "experiment": "e", "data": "tiny.npz", "seeds": [0], "model": {"name": "MLP", "hidden": [8]},
    "setting": {"epochs": 1, "batch_size": 4, "lr": 0.1, "validation": 4, "augment": False, "milestones": [0.5], "m_end": 2, "epoch_steps": 2},
    "attack": {"kind": "PGD", "eps": 0.1, "alpha": 0.05, "steps": 2, "schedule": "inverse_time(1)"},
    "evaluation": {"kind": "PGD", "steps": 2}, "rule": {"name": "ddi", "m": 2},
    "phases": [{"start": 0.0, "rule": {"name": "single"}}], "arms": {"a": {}, "b": {"rule": {"name": "mean"}}},
}
# fmt: on


def call(arguments: list[str]) -> tuple[int, str]:
    """Status and words of a command, in this process."""
    words = io.StringIO()
    with contextlib.redirect_stderr(words):
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
    return status, words.getvalue()


def judged(case: Case) -> tuple[str, str]:
    """What a command ended in, and the evidence."""
    label, arguments, names = case
    try:
        with limited(SECONDS), bounded(), quiet():
            status, words = call(arguments())
    except Late:
        return HANGS, f"more than {SECONDS} s"
    except BaseException as error:  # noqa: BLE001  (a traceback is what is looked for)
        return RAW, f"{type(error).__name__}: {error}".partition("\n")[0][:160]
    words = "\n".join(
        line for line in words.splitlines() if "it/s]" not in line and "?it" not in line
    ).strip()
    sentence = words.splitlines()[-1] if words else ""
    if status == 0:
        return WRONG, "status 0"
    if status not in (1, 2) or "Traceback" in words or not sentence:
        return RAW, f"status {status}: {sentence[:160]!r}"
    if status == 1 and len(words.splitlines()) > 3:
        return RAW, f"{len(words.splitlines())} lines: {words[:160]!r}"
    named = any(name in words for name in names)
    return (REFUSED, sentence) if named else (RAW, f"names none of {names}: {sentence[:160]!r}")


# --- values in a file ----------------------------------------------------------------------------
# fmt: off


def file(change: Callable[[dict[str, Any]], Any] | None = None, text: bytes | None = None) -> str:
    """An experiment's file, changed."""
    tables = json.loads(json.dumps(EXPERIMENT))
    if change:
        change(tables)
    Path("bad.toml").write_bytes(tomli_w.dumps(tables).encode() if text is None else text)
    return "bad.toml"


def toml_values(kind: Kind, good: Any) -> Iterator[tuple[str, Any]]:
    """The bad values of a kind that a TOML file can hold."""
    for bad in kind:
        with contextlib.suppress(Exception):
            value = bad.make(good)
            value = list(value) if isinstance(value, tuple) else value
            if bad.plain is None and type(value) in (bool, int, float, str, list, dict) and bad.label != "beyond 64 bits":
                if "\0" not in str(value) and tomllib.loads(tomli_w.dumps({"v": value})):
                    yield bad.label, value


KEYS: dict[str, dict[str, Kind]] = {
    "setting": {k: USUAL[k] for k in ("epochs", "batch_size", "lr", "momentum", "weight_decay", "milestones", "m_end", "augment", "validation", "evaluate_every", "epoch_steps")},
    "attack": {k: USUAL[k] for k in ("eps", "alpha", "steps", "random_start", "norm", "box", "keep", "schedule")} | {"kind": USUAL["norm"], "loss": USUAL["norm"]},
    "evaluation": {k: USUAL[k] for k in ("eps", "steps", "norm")} | {"kind": USUAL["norm"]},
    "rule": {k: USUAL[k] for k in ("name", "m", "normalize", "method", "joint", "weight_decay", "max_iter")} | {"loss": USUAL["norm"], "t": number(0), "chunks": integer(1)},
    "model": {k: USUAL[k] for k in ("hidden", "activation", "norm")} | {"name": USUAL["norm"]},
    "kernels": {k: USUAL[k] for k in ("precision", "channels_last", "compile")},
}
GOOD = {"weight_decay": 0.0, "norm": "Linf", "name": "ddi", "keep": "last", "kind": "PGD", "loss": "cross_entropy", "method": "gram",
        "activation": "celu", "precision": "float32", "compile": "off", "box": (0.0, 1.0), "milestones": (0.5,), "hidden": (8,)}
FRACTIONS = ("eps", "alpha", "t", "lr", "momentum", "weight_decay")  # "8/255" is a number here
ODD = ("8/0", "1e400", "a", "nan", "inf", "8/255/2", "", "-1/3", "1/-0", "0x10", "1_", "½")


def values(table: str, key: str) -> Iterator[tuple[str, Any]]:
    good = {"rule": {"name": "ddi"}, "model": {"name": "MLP", "norm": "none"}}.get(table, {}).get(key, GOOD.get(key, 0.5))
    for label, value in toml_values(KEYS[table][key], good):
        if not (key in FRACTIONS and isinstance(value, str)):
            yield label, value
    yield from ((f"{odd!r}", odd) for odd in (ODD if key in FRACTIONS else ()))


def literal(text: Any) -> bool:
    """Whether a string means something else where it is written without quotes."""
    with contextlib.suppress(tomllib.TOMLDecodeError, TypeError):
        return isinstance(text, str) and not isinstance(tomllib.loads(f"v = {text}")["v"], str)
    return "\n" in text


def in_tables() -> Iterator[Case]:
    for table, keys in KEYS.items():
        for key in keys:
            for label, value in values(table, key):
                def change(tables: dict[str, Any], table: str = table, key: str = key, value: Any = value) -> None:
                    tables.setdefault(table, {})[key] = value

                yield f"{table}.{key} = {label}", lambda c=change: ["run", file(c), "--dry-run"], (key,)
                if isinstance(value, (str, bool)) and not literal(value):
                    text = f"{table}.{key}={str(value).lower() if isinstance(value, bool) else value}"
                    yield f"override {text}", lambda t=text: ["run", file(), t, "--dry-run"], (key,)


NUMBERS = (("1", 1), ("True", True), ("1.5", 1.5), ("a string", "a"), ("empty", ""), ("a list", ["a"]), ("NaN", math.nan), ("a table", {"a": 1}), ("tables", [{"a": 1}]), ("empty list", []))
TOP: dict[str, tuple[str, ...]] = {  # key: labels of the values that are right
    "title": ("a string", "empty"), "figure": ("a string", "empty"), "experiment": ("a string",), "data": (),
    "seeds": ("1",), "model": (), "setting": (), "attack": (), "evaluation": (), "rule": (), "kernels": (), "phases": ("empty list",),
    "grid": (), "arms": (), "nonsense": (),
}


def at_top() -> Iterator[Case]:
    for key, right in TOP.items():
        for label, value in NUMBERS:
            if label not in right:
                yield f"{key} = {label}", lambda k=key, v=value: ["run", file(lambda t: t.update({k: v})), "--dry-run"], (key, "name" if key == "data" else key)
    for table in KEYS:
        yield f"{table}.nonsense", lambda k=table: ["run", file(lambda t: t.setdefault(k, {}).update(nonsense=1)), "--dry-run"], ("nonsense",)
        yield f"arms.a.{table} = 5", lambda k=table: ["run", file(lambda t: t["arms"]["a"].update({k: 5})), "--dry-run"], (table,)
    for label, value in (("5", 5), ("a list", []), ("a string", "a"), ("an unknown table", {"nonsense": {}}), ("seeds", {"seeds": 3})):
        yield f"arms.a = {label}", lambda v=value: ["run", file(lambda t: t["arms"].update(a=v)), "--dry-run"], ("arm a", "arms.a")
    for seeds in (0, -1, [], [-1], ["a"], [1.5], [True], 10**9, [0, 0], [2**63], [[0]]):
        yield f"seeds = {seeds}", lambda v=seeds: ["run", file(lambda t: t.update(seeds=v) if v != [2**63] else t.update(seeds=["9223372036854775808"])), "--dry-run"], ("seeds",)
    for phases in ([1], ["a"], [{}], [{"start": "a"}], [{"start": 1.0}], [{"start": -0.5}], [{"start": math.nan}], [{"start": True}], [{"start": 0.5, "rule": 5}],
                   [{"start": 0.5, "rule": {"name": "x"}}], [{"start": 0.5, "attack": []}], [{"start": 0.5, "nonsense": 1}], [{"rule": {"name": "ddi"}}], [{"rule": "ddi"}], [[]]):
        yield f"phases = {phases}", lambda v=phases: ["run", file(lambda t: t.update(phases=v)), "--dry-run"], ("phase", "start", "rule", "attack")
    for grid in ({"lr": [1]}, {"setting.lr": 0.1}, {"setting.lr": []}, {"nonsense.lr": [1]}, {"setting.nonsense": [1]}, {"setting.lr": ["a"]}, {"setting.lr": [[0.1]]},
                 {"setting.lr": {"a": 1}}, {"a.b.c": [1]}, {"": [1]}, {"setting.": [1]}, {"setting.lr": [0.1, 0.1]}, {"setting.seed": [0, 1]}, {"rule.name": ["ddi", "../../x"]},
                 {f"setting.{k}": list(range(1, 1001)) for k in ("epochs", "validation", "evaluate_every", "m_end")}):
        yield f"grid = {str(grid)[:50]}", lambda v=grid: ["run", file(lambda t: t.update(grid=v)), "--dry-run"], ("grid", *grid, *(k.split(".")[-1] for k in grid))
    for name in ("", ".", "..", "../a", "a/b", "/a", "a\nb", "a" * 300, "a\\b", " ", "a\x1b[31m"):
        yield f"an arm's name {name[:10]!r}", lambda v=name: ["run", file(lambda t: t.update(arms={v: {}})), "--dry-run"], ("arm", "name")
        yield f"an experiment's name {name[:10]!r}", lambda v=name: ["run", file(lambda t: t.update(experiment=v)), "--dry-run"], ("experiment", "name")
    for what, text in (("nothing of TOML", b"\x00\x01"), ("Latin-1", 'title = "é"'.encode("latin-1")), ("cut", b'data = "tin'), ("two of a key", b"data = 'a'\ndata = 'b'"), ("UTF-16", 'data = "a"'.encode("utf-16")), ("JSON", b'{"data": 1}'), ("a CSV", b"a,b\n1,2\n")):
        yield f"a file of {what}", lambda v=text: ["run", file(text=v), "--dry-run"], ("bad.toml",)
    for path in ("none.toml", ".", "tiny.npz", "", "none/none.toml", "a\0b", "bad.toml/x", "~nobody/x.toml"):
        yield f"no file: {path!r}", lambda v=path: (file(), ["run", v, "--dry-run"])[1], ("TOML", "experiment")


# ------------------------------------------------------------------------------------------ the command line


def overrides() -> Iterator[Case]:
    for text in ("a", "=", "=1", "a=1", "a.b=1", "setting=1", "setting.lr", "setting.lr=", "setting..lr=1", "setting.lr.x=1", ".lr=1", "setting.lr=0.1.2", "setting.lr=a",
                 "setting.lr=[0.1]", "setting.lr={a=1}", "setting.lr=nan", "setting.lr=inf", "setting.lr=-1", "setting.lr=0", "setting.lr=true", "setting.epochs=1.0",
                 "setting.epochs=01", "setting.epochs=0x", "setting.augment=False", "setting.augment=True", "setting.augment=yes", "setting.augment=0", "setting.augment=off", "setting.seed=1", "seeds=a", "seeds=", "seeds=1.5",
                 "seeds=[0", "seeds=true", "seeds={}", "data=", "data=5", "data=true", "data=[1]", "data=nonsense", "data=a/b.npz", "data.x=1", "seeds.x=1", "phases=1", "phases.x=1", "arms.a=5", "arms=1",
                 "grid.x=1", "title=a", "model.name=Nonsense", "model.hidden=8", "model.hidden=[-3]", "model.hidden=[8,\"a\"]", "model.hidden=[1.5]", "model.classes=3", "rule.method=gramm", "rule.chunks=500",
                 "rule.chunks=2", "rule.name=DDI", "rule.name=", "rule.m=0", "rule.m=2.5", "rule.t=1", "attack.eps=8/0", "attack.eps=1e400", "attack.eps=-1", "attack.eps=a/b", "attack.eps=nan",
                 "attack.box=[0]", "attack.box=[1,0]", "attack.box=0", "attack.kind=pgd", "attack.loss=mse", "attack.schedule=8", "attack.schedule=inverse_time(0)", "attack.schedule=inverse_time(", "attack.steps=2 3",
                 "attack.steps=", "evaluation.kind=None", "kernels.precision=fp16", "kernels.compile=true", "setting.milestones=0.5", "setting.milestones=[1.5]", "setting.milestones=[\"a\"]",
                 "setting.validation=10000", "setting.batch_size=10000", "setting.validation=0", "setting.m_end=0", "settings.lr=1", "Setting.lr=1", "setting.LR=1", "setting.lr=1e-400", "setting.lr=\u00bd"):
        key = text.partition("=")[0]
        words = ("override", "key=value", key or "=", key.split(".")[-1] or "=", "batch", *(("name",) if key == "data" else ()))
        yield f"run {text}", lambda v=text: ["run", file(), v, "--dry-run"], words


def options() -> Iterator[Case]:
    whole = ("0", "-1", "a", "1.5", "", "nan", "1e3", "999999999999999999999999")
    run = {"--seeds": whole, "--epochs": whole, "--checkpoint-every": whole, "--arms": ("c", "a,c", "a b", "A", "../a"), "--device": ("gpu", "cuda:99", "", "cpu:-1", "cuda", "meta", "cpu,cuda", "0"),
           "--out": ("bad.toml", "bad.toml/x", "a\0b"), "--nonsense": ("1",)}
    for option, values in run.items():
        for value in values:
            yield f"run {option} {value!r}", lambda o=option, v=value: ["run", file(), o, v, "--quiet"], (option, option.strip("-"), option.strip("-").replace("-", "_"), *(("GPU",) if option == "--device" else ()), *(("arm",) if option == "--arms" else ()), *((value,) if option == "--out" and value else ()))
    evaluate = {"--n": whole[:-1], "--restarts": whole, "--which": ("first", "", "BEST"), "--data": ("nonsense", "", "none.npz", "bad.toml", "digits", "."), "--device": ("gpu", "cuda:99", ""), "--nonsense": ("1",)}
    for option, values in evaluate.items():
        for value in values:
            yield f"evaluate {option} {value!r}", lambda o=option, v=value: ["evaluate", copied(), o, v], (option, option.strip("-"), "images", "network", "model", *(("bad.toml",) if value == "bad.toml" else ()), *(("GPU",) if option == "--device" else ()))
    for arguments in ([], ["nonsense"], ["run"], ["evaluate"], ["data"], ["run", "--dry-run"], ["--nonsense"], ["list", "a", "b"], ["data", "a", "b"]):
        yield f"{arguments}", lambda a=arguments: a, ("usage", "required", "invalid", "unrecognized")
    for folder in ("none", "tiny.npz", "a\0b", "empty"):
        yield f"list {folder!r}", lambda v=folder: ["list", v], (folder or "folder", "folder")
        yield f"evaluate {folder!r}", lambda v=folder: ["evaluate", v], (folder or "folder", "folder", "record")
    for name in ("nonsense", "", "none.npz", "bad.toml", ".", "a\0b", "../tiny", "DIGITS", "~nobody"):
        yield f"data {name!r}", lambda v=name: (file(), ["data", v])[1], ("data", "name", name or "data")


# --------------------------------------------------------------------------------------------------- files


def good_arrays() -> dict[str, np.ndarray]:
    found = {f"x_{s}": np.arange(n * 16, dtype=np.uint8).reshape(n, 4, 4) for s, n in (("train", 12), ("test", 4))}
    return found | {f"y_{s}": np.arange(n) % 4 for s, n in (("train", 12), ("test", 4))}


def packed(**change: Any) -> str:
    arrays = {k: v for k, v in (good_arrays() | change).items() if v is not None}
    np.savez("bad.npz", **arrays)
    return "bad.npz"


def damaged_zip(how: Callable[[bytes], bytes]) -> str:
    packed()
    Path("bad.npz").write_bytes(how(Path("bad.npz").read_bytes()))
    return "bad.npz"


def data_files() -> Iterator[Case]:
    x, y = good_arrays()["x_train"], good_arrays()["y_train"]
    arrays: dict[str, dict[str, Any]] = {
        "no x_train": {"x_train": None}, "no y_test": {"y_test": None}, "float images": {"x_train": x / 255.0}, "int64 images": {"x_train": x.astype(int)},
        "signed images": {"x_train": x.astype(np.int8)}, "flat images": {"x_train": x.reshape(12, 16)}, "five axes": {"x_train": x[:, None, None]}, "one image without axis": {"x_train": x[0]},
        "NCHW": {"x_train": np.zeros((12, 3, 8, 8), np.uint8), "x_test": np.zeros((4, 3, 8, 8), np.uint8)}, "no images": {"x_train": x[:0], "y_train": y[:0]}, "no pixels": {"x_train": x[:, :0], "x_test": x[:4, :0]},
        "no test images": {"x_test": x[:0], "y_test": y[:0]}, "fewer labels": {"y_train": y[:-1]}, "more labels": {"y_train": np.append(y, 0)}, "column of labels": {"y_train": y[:, None]},
        "one-hot labels": {"y_train": np.eye(4)[y]}, "float labels": {"y_train": y.astype(float)}, "bool labels": {"y_train": y > 1}, "negative label": {"y_train": y - 1}, "string labels": {"y_train": y.astype(str)},
        "object labels": {"y_train": y.astype(object)}, "huge label": {"y_train": y + 10**12}, "other test size": {"x_test": np.zeros((4, 5, 5), np.uint8)}, "other test channels": {"x_test": np.zeros((4, 4, 4, 3), np.uint8)},
        "object images": {"x_train": x.astype(object)}, "one label for all": {"y_train": np.zeros((), int)}, "a name": {"x_train": np.array("x")},
        "structured": {"x_train": np.zeros(12, [("a", np.uint8)])}, "uint64 labels beyond int64": {"y_train": np.full(12, 2**63, np.uint64)},
    }
    files: dict[str, Callable[[], str]] = {k: functools.partial(packed, **v) for k, v in arrays.items()}
    files |= {
        "cut": lambda: damaged_zip(lambda b: b[: len(b) // 2]), "empty": lambda: damaged_zip(lambda b: b""), "no zip": lambda: damaged_zip(lambda b: b"hello"),
        "a flipped byte": lambda: damaged_zip(lambda b: b[:300] + bytes([b[300] ^ 255]) + b[301:]), "a pickle": lambda: damaged_zip(lambda b: __import__("pickle").dumps([1])),
        "an .npy": lambda: damaged_zip(lambda b: _npy()), "zeros": lambda: damaged_zip(lambda b: bytes(len(b))), "a zip of text": lambda: _zip(),
    }
    for label, make in files.items():
        yield f"data with {label}", lambda m=make: ["data", m()], ("bad.npz",)


def _npy() -> bytes:
    out = io.BytesIO()
    np.save(out, np.zeros(3))
    return out.getvalue()


def _zip() -> str:
    with zipfile.ZipFile("bad.npz", "w") as archive:
        for name in good_arrays():
            archive.writestr(name + ".npy", "hello")
    return "bad.npz"


def copied(**change: Callable[[Path], Any]) -> str:
    """A copy of the finished record, with changed files (by name, ``_`` for the dot)."""
    shutil.rmtree("records", ignore_errors=True)
    shutil.copytree("results/e/a-seed0", "records/e/a-seed0")
    for name, how in change.items():
        how(Path("records/e/a-seed0") / name.replace("_", "."))
    return "records/e/a-seed0"


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 255
    path.write_bytes(raw)


class Runs:
    """A pickle that would make a file."""

    def __reduce__(self) -> Any:
        return (open, ("executed", "w"))


HARM: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink, "empty": lambda p: p.write_bytes(b""), "cut": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "of zeros": lambda p: p.write_bytes(bytes(p.stat().st_size)), "of noise": lambda p: p.write_bytes(b"\xff\x00\xfe" * 50), "a folder": lambda p: (p.unlink(), p.mkdir()),
}
WEIGHTS: dict[str, Callable[[Path], Any]] = {
    "with a flipped byte": flip, "a list": lambda p: torch.save([1], p), "of another network": lambda p: torch.save({"model": torch.nn.Linear(2, 2).state_dict(), "epoch": 1}, p),
    "a pickle that runs": lambda p: torch.save(Runs(), p), "without its keys": lambda p: torch.save({}, p),
}


def record_files() -> Iterator[Case]:
    for name in ("config_toml", "provenance_json"):
        for harm, how in HARM.items():
            if harm == "missing" and name == "provenance_json":
                continue  # no record: what else is there is listed
            if (name, harm) not in (("config_toml", "empty"), ("config_toml", "cut")):  # TOML all the same
                yield f"list, {name} {harm}", lambda n=name, h=how: (copied(**{n: h}), ["list", "records"])[1], (name.replace("_", "."), "a-seed0")
            yield f"evaluate, {name} {harm}", lambda n=name, h=how: ["evaluate", copied(**{n: h})], (name.replace("_", "."), "a-seed0")
    for name in ("best_pt", "checkpoint_pt"):
        for harm, how in (HARM | WEIGHTS).items():
            which = "best" if name == "best_pt" else "last"
            yield f"evaluate, {name} {harm}", lambda n=name, h=how, w=which: ["evaluate", copied(**{n: h}), "--which", w], (name.replace("_", "."), "a-seed0")
    for harm, text in {"list": "[]", "number": "5", "null": "null"}.items():
        yield f"list, provenance.json {harm}", lambda t=text: (copied(provenance_json=lambda p: p.write_text(t)), ["list", "records"])[1], ("provenance.json", "a-seed0")
    for harm, text in {"words": "epoch,robust\na,b\n", "short": "epoch,robust\n1\n", "long": "epoch,robust\n1,2,3\n", "zeros": "\0" * 50}.items():
        yield f"list, metrics.csv {harm}", lambda t=text: (copied(metrics_csv=lambda p: p.write_text(t)), ["list", "records"])[1], ("metrics.csv", "a-seed0")
    for harm, text in {"cut": '[{"which": ', "a table": "{}", "a number": "5", "list of numbers": "[1]", "empty": ""}.items():
        yield f"evaluate, test.json {harm}", lambda t=text: ["evaluate", copied(test_json=lambda p: p.write_text(t))], ("test.json",)
    changes: dict[str, Callable[[dict[str, Any]], Any]] = {
        "no model": lambda c: c.pop("model"), "another network": lambda c: c["model"].update(hidden=[9]), "another name": lambda c: c["model"].update(name="SmallNet"), "no data": lambda c: c.pop("data"),
        "other data": lambda c: c.update(data="digits"),
    }
    for harm, how in changes.items():
        def write(path: Path, how: Callable[[dict[str, Any]], Any] = how) -> None:
            config = tomllib.loads(path.read_text())
            how(config)
            path.write_text(tomli_w.dumps(config))

        yield f"evaluate, config.toml with {harm}", lambda w=write: ["evaluate", copied(config_toml=w)], ("config.toml", "a-seed0", "model", "data", "setting", "network", "nonsense")


# fmt: on
FAMILIES = {
    "tables": in_tables,
    "top": at_top,
    "overrides": overrides,
    "options": options,
    "data": data_files,
    "records": record_files,
}


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with data, an experiment and one finished record."""
    with prepared(tmp_path_factory.mktemp("doors")) as folder:
        yield folder


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[Path]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        np.savez("tiny.npz", **good_arrays())
        Path("empty").mkdir()
        Path("good.toml").write_text(tomli_w.dumps(EXPERIMENT))
        with quiet():
            assert call(["run", "good.toml", "--arms", "a", "--quiet"])[0] == 0
            assert (
                call(["evaluate", copied()])[0] == 0 and call(["run", file(), "--dry-run"])[0] == 0
            )
        yield folder
    finally:
        os.chdir(before)


@pytest.mark.parametrize("family", FAMILIES)
def test_bad_files_and_commands_are_refused_in_words(family: str) -> None:
    found = [(case[0], *judged(case)) for case in FAMILIES[family]()]
    faults = [f"{label}: {what}: {evidence}" for label, what, evidence in found if what != REFUSED]
    assert not faults, f"{len(faults)} of {len(found)}:\n" + "\n".join(faults)
    assert not Path("executed").exists()


if __name__ == "__main__":
    import collections
    import tempfile

    with tempfile.TemporaryDirectory() as scratch, prepared(Path(scratch)):
        for family, make in FAMILIES.items():
            if sys.argv[1:] and family not in sys.argv[1:]:
                continue
            results = [(case[0], *judged(case)) for case in make()]
            for label, what, evidence in results:
                if what != REFUSED:
                    print(f"{family}: {label}: {what.upper()}: {evidence}")
            print(f"{family}: {dict(collections.Counter(what for _, what, _ in results))}")


def test_a_reader_who_leaves_early_ends_a_list_without_a_word(tmp_path):
    for i in range(300):
        folder = tmp_path / f"arm-seed{i}"
        folder.mkdir()
        (folder / "config.toml").write_text("a = 1\n")
        (folder / "provenance.json").write_text('{"complete": true}')
        (folder / "metrics.csv").write_text("epoch\n1\n")
    command = [sys.executable, "-m", "ddi", "list", str(tmp_path)]
    listing = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert listing.stdout is not None and listing.stderr is not None
    listing.stdout.close()
    assert (listing.stderr.read(), listing.wait()) == (b"", 0)
