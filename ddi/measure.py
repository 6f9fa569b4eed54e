"""``ddi evaluate``: accuracies of a recorded run on the test set, written into ``test.json``."""

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddi import _words as words
from ddi.checkpoint import Checkpoints, load_weights, write_json
from ddi.data import Dataset, load_data
from ddi.evaluate import (
    Accuracy,
    autoattack_accuracy,
    clean_accuracy,
    masking_signs,
    robust_accuracy,
)
from ddi.identity import network_hash
from ddi.record import Record, provenance, read_record
from ddi.tables import attack_of, default_attack, model_of

__all__ = ["evaluate_run"]

SAME = ("data_sha256", "which", "n", "attack")  # a measurement of the same replaces the old one


def evaluate_run(
    folder: Path,
    device: torch.device,
    data_name: str | None = None,
    n: int | None = None,
    which: str = "both",
    restarts: int = 1,
    autoattack: bool = False,
    network_table: str | None = None,
    attacks: Iterable[str] = (),
) -> None:
    """Measure, and write each accuracy into ``test.json`` as soon as it is there.

    Args:
        folder: of the record, with its weights. data_name: whose test images, the run's by default.
        n: the first so many images. which: weights, ``"best"``, ``"last"`` or ``"both"``.
        restarts: of the run's evaluation attack. autoattack: AutoAttack too.
        network_table: how the network is made, as in TOML (``'name="MLP", hidden=[8]'``), where the
            record does not say it.
        attacks: more of them, in the set of the run's, as in TOML (``'kind="BETA", steps=10'``).

    Raises:
        ValueError: if the record does not say which network or data, or describes another network
            than the one that was trained; if weights are damaged or of the middle of an epoch.
        FileNotFoundError: if there is no record, or there are no weights.
    """
    record, path = read_record(folder), folder / "test.json"
    kept = _read(path)
    dtype = getattr(torch, str(record.provenance.get("dtype", "float32")))
    data = _data(record, data_name).to(device, dtype)
    model = _model(record, data, network_table).to(device, dtype)
    _check_network(record, model, data.name)
    evaluation: Any = attack_of("evaluation", record.config.get("evaluation", {}))
    named = _named(evaluation, [_inline("attack", text) for text in attacks], restarts)
    x, y = data.x_test[:n], data.y_test[:n]
    source, draw = provenance(data, device, dtype), torch.Generator(device)
    for weights in ("best", "last") if which == "both" else (which,):
        epoch = _load(model, folder, weights)
        about = source | {"masking_signs": masking_signs(model, x[:500], y[:500], evaluation)}
        where = f"{folder} ({weights}, epoch {epoch}, {data.name})"

        def note(attack: str, found: Accuracy, about: Any = about, where: str = where) -> None:
            entry = _entry(weights, attack, found) | {"epoch": epoch} | about  # noqa: B023
            kept[:] = [e for e in kept if any(e.get(k) != entry.get(k) for k in SAME)] + [entry]
            write_json(path, kept)
            print(f"{where}: {attack} {found}")

        note("clean", clean_accuracy(model, x, y))
        for name, attack in named.items():
            draw.manual_seed(0)
            note(name, robust_accuracy(model, x, y, attack, restarts, draw, None, True))
        if autoattack:
            found = autoattack_accuracy(model, x, y, evaluation.eps, evaluation.norm)
            note("AutoAttack", found)


def _named(evaluation: Any, tables: list[dict[str, Any]], restarts: int) -> dict[str, Any]:
    """The attacks, the run's own first, by a name: ``PGD-20x1``, and what else was said of it."""
    named = {f"{type(evaluation).__name__}-{evaluation.steps}x{restarts}": evaluation}
    for table in tables:
        attack: Any = attack_of("attack", default_attack(evaluation, table))
        said = [f"{k}={v}" for k, v in sorted(table.items()) if k not in ("kind", "steps")]
        name = f"{type(attack).__name__}-{attack.steps}x{restarts}"
        named[" ".join([name, *said])] = attack
    return named


def _inline(name: str, given: str) -> dict[str, Any]:
    """A TOML table without its braces."""
    try:
        table: dict[str, Any] = tomllib.loads(f"table = {{ {given} }}")["table"]
        return table
    except tomllib.TOMLDecodeError as error:
        example = {"attack": 'kind="BETA", steps=10', "network": 'name="MLP", hidden=[8]'}[name]
        raise ValueError(f"{name} must be like '{example}', got {given!r}: {error}") from error


def _check_network(record: Record, model: nn.Module, data: str) -> None:
    if record.provenance.get("network", here := network_hash(model)) != here:
        raise ValueError(
            f"{record.name}: the network that was trained is another one than its record describes "
            f"for {data}; say how it is made with --network, or evaluate it from Python"
        )


def _entry(which: str, attack: str, accuracy: Accuracy) -> dict[str, Any]:
    return {
        "which": which,
        "attack": attack,
        "accuracy": accuracy.value,
        "standard_error": accuracy.standard_error,
        "n": accuracy.n,
    }


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, list) or not all(isinstance(e, dict) for e in found):
            raise ValueError("it is no list of measurements")
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; move it away") from error
    return found


def _data(record: Record, given: str | None) -> Dataset:
    if given is not None:
        return load_data(words.word("data", given))
    name = record.config.get("data", record.provenance.get("data"))
    if not isinstance(name, str):
        raise ValueError(f"{record.name} does not say which data it is of; give it with --data")
    try:
        return load_data(name)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{record.name}: {error}") from error


def _model(record: Record, data: Dataset, given: str | None) -> nn.Module:
    spec = record.config.get("model")
    if given is not None:
        spec = _inline("network", given)
    if not isinstance(spec, dict):
        raise ValueError(
            f"""{record.name} does not say which network it is of; give it with --network, for """
            """example --network 'name="MLP", hidden=[8]'"""
        )
    return model_of(spec, data)


def _load(model: nn.Module, folder: Path, which: str) -> int:
    """Load the weights of the best or the last epoch into ``model``; returns that epoch."""
    if which == "best":
        found = load_weights(folder / "best.pt")
        if not {"model", "epoch"} <= found.keys():
            raise ValueError(f"{folder / 'best.pt'} holds no weights of this package")
        weights, epoch = found["model"], int(found["epoch"])
    else:
        weights, epoch = _last(folder)
    try:
        tensors: dict[str, Tensor] = weights
        model.load_state_dict(tensors)
    except (RuntimeError, AttributeError) as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"{folder}: the {which} weights are of another network: {line}") from error
    return epoch


def _last(folder: Path) -> tuple[Any, int]:
    state = Checkpoints(folder, None).load()
    if state is None:
        raise FileNotFoundError(
            f"{folder} holds no weights (checkpoint.pt); records keep them where they were made"
        )
    if state["at"]["step"]:
        raise ValueError(
            f"{folder}: the last checkpoint is in the middle of epoch {state['at']['epoch'] + 1}; "
            "let the run go on to an epoch's end, or evaluate --which best"
        )
    return state["model"], int(state["at"]["epoch"])
