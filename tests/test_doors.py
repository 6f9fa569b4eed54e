"""Every argument of every public function, class and method of ``ddi`` with bad input: refused in
words that name it, or accepted for what it plainly means (see ``doors.py``).
"""

import dataclasses
import functools
import inspect
import os
import tempfile
import types
from typing import Any

import numpy as np
import pytest
import torch
from bad_values import (
    ANYWHERE,
    CALLED,
    COUNT,
    CROPPED,
    DEVICE,
    DTYPE,
    FINITE,
    FORWARD,
    GROUPS,
    JUDGED,
    KEPT,
    LOGITS,
    MAPPING,
    MODULE,
    NAME,
    NEVER,
    PATH,
    PER_GROUP,
    PLAIN,
    RADIUS,
    SEVERAL,
    TEXT,
    USUAL,
    VALUED,
    WORD,
    floats,
    integer,
    made,
    number,
    optional,
    without,
)
from doors import REFUSED, RIGHT, Entry, cases, quiet

import ddi

# --------------------------------------------------------------------------------------- good values


def net() -> ddi.MLP:
    torch.manual_seed(0)
    return ddi.MLP(16, 10, (8,))


def batch(rows: int = 5) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(1)
    return {"x": torch.rand(rows, 1, 4, 4, generator=draw), "y": torch.arange(rows) % 10}


def attacked(rows: int = 5) -> dict[str, Any]:
    """Images that the network classifies as labelled, so that all of them are attacked."""
    model, x = net(), batch(rows)["x"]
    return {"model": model, "x": x, "y": model(x).argmax(1)}


def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def deltas() -> dict[str, Any]:
    draw = torch.Generator().manual_seed(2)
    return attacked(4) | {"deltas": 0.1 * torch.randn(3, 4, 1, 4, 4, generator=draw)}


def problem() -> dict[str, Any]:
    rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return {
        "gram": rows @ rows.T,
        "linear": rows[:, 0].clone(),
        "method": "exact",
        "tol": 1e-10,
        "max_iter": 100,
    }


def rows() -> dict[str, Any]:
    found = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
    return {"gradients": found, "groups": torch.tensor([0, 0, 1, 1])}


def line() -> dict[str, Any]:
    return {
        "phi": lambda theta: (theta**2).sum(),
        "theta": torch.tensor([1.0, 2.0]),
        "direction": torch.tensor([0.5, 1.0]),
        "t": 1e-3,
    }


def tiny(train: int = 12) -> ddi.Dataset:
    """Images that the network classifies as labelled, so that an evaluation attacks several."""
    a, b = attacked(train), attacked(4)
    return ddi.Dataset("tiny", a["x"], a["y"], b["x"], b["y"], 10)


PGD = ddi.PGD(0.1, 0.05, 2)
SETTING = ddi.Setting(epochs=1, batch_size=4, validation=4, milestones=(0.5,), augment=False)
ATTACKED = {"eps": 0.1, "alpha": 0.05, "steps": 2, "box": (0.0, 1.0)}


def folder() -> str:
    return tempfile.mkdtemp(dir=os.environ["DDI_DOORS"])


@functools.cache
def packed(*shape: int) -> str:
    """An .npz of ten classes with images of that shape, (H, W) or (H, W, C)."""
    path = folder() + "/tiny.npz"
    images = {f"x_{split}": np.full((10, *shape), 7, np.uint8) for split in ("train", "test")}
    np.savez(path, **images, **{f"y_{split}": np.arange(10) for split in ("train", "test")})
    return path


def without_suite(**arguments: Any) -> Any:
    """AutoAttack without its minutes: the doors are in front of it."""
    pyautoattack = pytest.importorskip("pyautoattack")

    class Suite:
        def __init__(self, model: Any, **options: Any) -> None:
            self.seed = options["seed"]
            self.fab = self.apgd_targeted = types.SimpleNamespace()
            self.attacks_to_run: list[str] = []

        def run_standard_evaluation(self, x: Any, y: Any, **options: Any) -> tuple[Any]:
            return (x + 0.01 * self.seed,)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyautoattack, "AutoAttack", Suite)
        return ddi.autoattack_accuracy(**arguments)


def on_meta(kind: Any, options: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return [tuple(p.shape) for p in kind(**options).parameters()]


def record() -> str:
    path = folder() + "/a-seed0"
    with ddi.RunWriter(path, {"a": 1}, {"device": "cpu"}) as writer:
        writer.log(epoch=1, robust=0.5)
    return path


def fields(thing: Any) -> dict[str, Any]:
    return {key: getattr(thing, key) for key in thing.__dataclass_fields__}


def kept_and_followed(rule: Any) -> Any:
    return fields(rule), rule(**attacked(4), attack=PGD, generator=drawn())


def kept_and_used(attack: Any) -> Any:
    return fields(attack), attack(net(), **batch(), generator=drawn())


# ------------------------------------------------------------------------------- the table of callables
FOREIGN = {"chunks": NEVER, "t": NEVER, "max_iter": NEVER}  # options of other rules
# fmt: off

TRAIN = lambda: {"model": net(), "data": tiny(), "rule": ddi.Rule("ddi", m=2), "attack": PGD, "setting": SETTING,  # noqa: E731
                 "folder": folder(), "evaluation": PGD, "about": {"a": 1}, "checkpoint_every": 1}
RUN = lambda: {"experiment": "a", "arm": "b", "data": "digits", "model": {"name": "MLP"}, "setting": SETTING,  # noqa: E731
               "rule": ddi.Rule("ddi", m=2), "attack": PGD, "evaluation": PGD}
CORE = {
    "PGD": Entry(lambda: dict(ATTACKED), use=kept_and_used),
    "PGA": Entry(lambda: dict(ATTACKED), use=kept_and_used),
    "FGSM": Entry(lambda: {"eps": 0.1}, use=kept_and_used),
    "BETA": Entry(lambda: dict(ATTACKED), use=kept_and_used),
    "TRADES": Entry(lambda: {"beta": 2.0}, use=lambda loss: loss.numbers),
    "MART": Entry(lambda: {"beta": 2.0}, use=lambda loss: loss.numbers),
    "KL": Entry(dict),
    "Objective": Entry(dict),
    "Penalty": Entry(lambda: {"weight": 2.0}, {"numbers": ()}, use=lambda penalty: penalty.numbers),
    "ELLE": Entry(lambda: {"weight": 2.0}, use=lambda penalty: penalty.numbers),
    "AdaptiveELLE": Entry(lambda: {"weight": 2.0, "decay": 0.9, "deviations": 2.0}, use=lambda penalty: penalty.numbers),
    "GradAlign": Entry(lambda: {"weight": 2.0}, use=lambda penalty: penalty.numbers),
    "LLR": Entry(lambda: {"weight": 2.0}, use=lambda penalty: penalty.numbers),
    "CURE": Entry(lambda: {"weight": 2.0, "h": 0.5}, use=lambda penalty: penalty.numbers),
    "FAST": Entry(lambda: {"eps": 0.1, "alpha": 0.1}, use=kept_and_used),
    "PGD.__call__": Entry(lambda: attacked() | {"generator": drawn()}, {"model": CALLED}, call=PGD),
    "PGD.restarts": Entry(lambda: attacked() | {"m": 2, "batch_size": 3, "generator": drawn()}, {"model": CALLED}, call=PGD.restarts),
    "LInf": Entry(lambda: {"eps": 0.1, "box": (0.0, 1.0)}, use=fields),
    "L2": Entry(lambda: {"eps": 0.1, "box": (0.0, 1.0)}, use=fields),
    "L1": Entry(lambda: {"eps": 0.1, "box": (0.0, 1.0)}, use=fields),
    "Threat": Entry(lambda: {"eps": 0.1, "box": (0.0, 1.0)}, use=fields),
    "Attack": Entry(dict),
    "as_attack": Entry(lambda: {"thing": PGD}),
    "LInf.check": Entry(lambda: {"x": batch()["x"]}, call=ddi.LInf(0.1).check),
    "LInf.project": Entry(lambda: {"x": batch()["x"], "delta": batch()["x"] - 0.5}, {"delta": SEVERAL}, call=ddi.LInf(0.1).project),
    "L2.project": Entry(lambda: {"x": batch()["x"], "delta": batch()["x"] - 0.5}, {"delta": SEVERAL}, call=ddi.L2(0.1).project),
    "L1.project": Entry(lambda: {"x": batch()["x"], "delta": batch()["x"] - 0.5}, {"delta": SEVERAL}, call=ddi.L1(0.1).project),
    "L2.contains": Entry(lambda: {"x": batch()["x"], "delta": batch()["x"] - 0.5, "atol": 1e-6}, {"delta": ANYWHERE}, call=ddi.L2(0.1).contains),
    "LInf.sample": Entry(lambda: {"x": batch()["x"]}, call=lambda **a: ddi.LInf(0.1).sample(**({"generator": drawn()} | a))),
    "L2.sample": Entry(lambda: {"x": batch()["x"]}, call=lambda **a: ddi.L2(0.1).sample(**({"generator": drawn()} | a))),
    "L1.sample": Entry(lambda: {"x": batch()["x"]}, call=lambda **a: ddi.L1(0.1).sample(**({"generator": drawn()} | a))),
    "threat_model": Entry(lambda: {"norm": "L2", "eps": 0.1}, use=fields),
    "inverse_time": Entry(lambda: {"start": 2}, use=lambda schedule: [schedule(k) for k in range(1, 6)]),
    "cross_entropy": Entry(lambda: {"logits": net()(batch()["x"]).detach(), "labels": batch()["y"]}, {"logits": LOGITS}),
    "margin_loss": Entry(lambda: {"logits": net()(batch()["x"]).detach(), "labels": batch()["y"]}, {"logits": LOGITS}),
    "frozen": Entry(lambda: {"model": net(), "passes": True}, {"model": MODULE[:8]}, call=lambda model, passes: ddi.frozen(model, passes).__enter__()),
    "clean_accuracy": Entry(lambda: attacked() | {"batch_size": 2}, {"model": FORWARD, "x": PLAIN}),
    "robust_accuracy": Entry(lambda: attacked() | {"attack": PGD, "batch_size": 2, "generator": drawn()}, {"model": JUDGED}),
    "autoattack_accuracy": Entry(lambda: attacked() | {"eps": 0.1}, {"model": FORWARD}, call=without_suite),
    "masking_signs": Entry(lambda: attacked() | {"attack": PGD, "generator": drawn()}, {"model": JUDGED}),
    "Accuracy": Entry(lambda: {"value": 0.5, "n": 10}, use=fields),
    "MLP": Entry(lambda: {"in_features": 16, "hidden": (8, 8)}),
    "SmallNet": Entry(lambda: {"in_channels": 1}),
    "ResNet18": Entry(lambda: {"in_channels": 1}, call=lambda **a: on_meta(ddi.ResNet18, a)),
    "Normalize": Entry(lambda: {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}),
    "Dataset": Entry(lambda: fields(tiny()), {"name": TEXT}, use=fields),
    "Dataset.pair": Entry(lambda: {"zero": 0, "one": 1}, call=lambda **a: dataclasses.replace(tiny(), y_train=torch.arange(12) % 10, y_test=torch.arange(4) % 2).pair(**a)),
    "Dataset.hold_out": Entry(lambda: {"count": 3}, {"count": integer(1, 11)}, call=lambda **a: tiny().hold_out(**a)),
    "Dataset.to": Entry(lambda: {"device": "cpu", "dtype": torch.float64}, {"device": optional(DEVICE), "dtype": optional(DTYPE)}, call=lambda **a: tiny().to(**a)),
    "digits": Entry(dict),
    "mnist": Entry(lambda: {"root": packed(28, 28)}),
    "cifar10": Entry(lambda: {"root": packed(32, 32, 3)}),
    "load_data": Entry(lambda: {"name": packed(4, 4)}),
    "crop_and_flip": Entry(lambda: {"x": batch()["x"], "padding": 1, "generator": drawn()}, {"x": CROPPED}),
}
SOLVE = {
    "project_simplex": Entry(lambda: {"v": torch.tensor([0.5, 2.0, -1.0])}),
    "min_norm_point": Entry(problem, {"tol": optional(RADIUS), "max_iter": optional(COUNT)}),
    "min_norm_product": Entry(lambda: problem() | {"groups": torch.tensor([0, 0, 1, 1])}, {"groups": GROUPS, "tol": optional(RADIUS), "max_iter": optional(COUNT)}),
    "bundle": Entry(lambda: {"gram": problem()["gram"], "values": problem()["linear"], "t": 0.1, "groups": torch.tensor([0, 0, 1, 1])}),
    "gram_matrix": Entry(lambda: {"gradients": rows()["gradients"], "block": 4}, {"gradients": floats(other_shapes=False, batched=True)}),
    "directional_derivative": Entry(lambda: rows() | {"direction": torch.ones(6)}),
    "steepest_descent": Entry(rows),
    "certify": Entry(lambda: rows() | {"direction": torch.ones(6), "lipschitz": 2.0, "radius": 0.5}, {"lipschitz": PER_GROUP, "radius": PER_GROUP}),
    "one_sided": Entry(line, {"t": optional(number(0, strict=True))}),
    "two_sided": Entry(line, {"t": optional(number(0, strict=True))}),
    "sample_losses": Entry(deltas, {"model": FORWARD, "x": PLAIN, "loss": VALUED}),
    "per_sample_gradients": Entry(deltas, {"x": PLAIN}),
    "chunk_gradients": Entry(lambda: deltas() | {"chunks": 2}, {"x": PLAIN, "chunks": integer(1, 4)}),
    "product_point": Entry(lambda: deltas() | {"method": "chunks", "chunks": 2}, {"x": PLAIN, "chunks": integer(1, 4), "max_iter": integer(0)}),
    "product_point matrix-free": Entry(lambda: deltas() | {"method": "matrix-free", "max_iter": 5, "tol": 1e-3}, {"x": PLAIN, "chunks": NEVER, "max_iter": integer(0)}),
    "Rule": Entry(lambda: {"name": "ddi", "m": 2, "normalize": True}, FOREIGN | {"method": NEVER}, use=kept_and_followed),
    "Rule bundle": Entry(lambda: {"name": "bundle", "m": 2, "t": 0.1, "normalize": False}, FOREIGN | {"t": number(0, strict=True), "method": NEVER}, use=kept_and_followed),
    "Rule chunks": Entry(lambda: {"name": "product", "m": 2, "normalize": True, "method": "chunks", "chunks": 2}, FOREIGN | {"chunks": optional(COUNT), "method": optional(WORD)}, use=kept_and_followed),
    "Rule matrix-free": Entry(lambda: {"name": "product", "m": 2, "normalize": False, "method": "matrix-free", "max_iter": 2}, FOREIGN | {"max_iter": optional(COUNT), "method": WORD}, use=kept_and_followed),
    "SAM": Entry(lambda: {"rule": ddi.Rule("ddi", m=2), "rho": 0.1}, use=kept_and_followed),
    "SAMPa": Entry(lambda: {"rule": ddi.Rule("ddi", m=2), "rho": 0.1, "lam": 0.2, "t": 0.3}, use=kept_and_followed),
    "SAM.__call__": Entry(lambda: attacked(4) | {"attack": PGD, "generator": drawn()}, call=ddi.SAM(ddi.Rule("ddi", m=2), rho=0.1)),
    "SAMPa.__call__": Entry(lambda: attacked(4) | {"attack": PGD, "generator": drawn()}, call=lambda **a: ddi.SAMPa(ddi.Rule("ddi", m=2), rho=0.1, lam=0.2)(**a)),
    "SAMPa.load_state_dict": Entry(lambda: {"state": {}}, call=ddi.SAMPa(ddi.Rule("ddi"), rho=0.1, lam=0.2).load_state_dict),
    "descent_rule": Entry(lambda: {"name": "ddi", "m": 2, "normalize": True}, FOREIGN | {"method": NEVER}, use=kept_and_followed),
    "assign_gradient": Entry(lambda: {"model": net(), "flat": torch.ones(sum(p.numel() for p in net().parameters()))}, {"model": MODULE[:8], "flat": FINITE}),
    **{f"Rule.__call__ {name}": Entry(lambda: attacked(4) | {"attack": PGD, "generator": drawn()}, call=ddi.Rule(name, m=2, **more))
       for name, more in {"single": {}, "ddi": {}, "max": {}, "product": {}, "bundle": {"t": 0.1}}.items()},
}
TRAINING = {
    "Setting": Entry(lambda: fields(SETTING) | {"m_end": 3, "epoch_steps": 2}, {"batch_size": COUNT}, use=fields),
    "Phase": Entry(lambda: {"start": 0.5, "rule": ddi.Rule("ddi", m=2), "attack": PGD}, {"start": number(0, 1), "attack": KEPT}, use=fields),
    "Sampler": Entry(lambda: {"name": "cfol", "gamma": 0.5, "eta": 0.001}, {"name": WORD, "gamma": optional(number(0, 1, strict=True)), "eta": optional(RADIUS)}, use=fields),
    "train": Entry(TRAIN),
    "Run": Entry(RUN, {"experiment": NAME, "data": TEXT, "model": MAPPING, "attack": KEPT, "evaluation": KEPT}, use=fields),
    "RunWriter": Entry(lambda: {"folder": folder(), "config": {"a": 1}, "source": {"device": "cpu"}}, use=lambda w: w.__exit__(None, None, None)),
    "read_experiment": Entry(lambda: {"path": "experiments/digits.toml", "epochs": 1}, {"epochs": optional(COUNT)}, use=len),
    "read_record": Entry(lambda: {"folder": record()}),
    "read_records": Entry(lambda: {"experiment": os.path.dirname(record())}, {"experiment": without(PATH, "with NUL", "under a file")}),
    "provenance": Entry(lambda: {"dataset": tiny()}, {"dataset": optional(made())}),
    "Record.row": Entry(lambda: {"which": "last"}, call=lambda **a: ddi.read_record(record()).row(**a)),
}
# fmt: on
TABLE = CORE | SOLVE | TRAINING

# Made by the package and only read by whoever calls it; or no callable.
RESULTS = (
    "Certificate",
    "MinNormPoint",
    "ProductPoint",
    "SteepestDescent",
    "Step",
    "Record",
    "RULES",
)


def method(name: str) -> Any:
    """The callable whose signature says what arguments an entry of the table has."""
    thing: Any = ddi
    for part in name.partition(" ")[0].split("."):
        thing = getattr(thing, part)
    return thing


def signature_of(name: str) -> Any:
    function = method(name)
    if "." not in name:
        return function
    bound = functools.partial(function, None)
    bound.__signature__ = inspect.signature(function).replace(
        parameters=list(inspect.signature(function).parameters.values())[1:]
    )
    return bound


@pytest.fixture(scope="module", autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDI_DOORS", str(tmp_path_factory.mktemp("doors")))
        yield


def found(name: str) -> list[tuple[str, str, str, str]]:
    entry, function = TABLE[name], signature_of(name)
    with quiet():
        entry.use((entry.call or function)(**entry.good()))  # the good call is good
    return list(cases(entry, function, USUAL))


@pytest.mark.parametrize("name", TABLE)
def test_bad_input_is_refused_in_words_or_means_what_it_says(name: str) -> None:
    results = found(name)
    faults = [
        f"{a} = {label}: {what}: {why}"
        for a, label, what, why in results
        if what not in (REFUSED, RIGHT)
    ]
    assert not faults, f"{len(faults)} of {len(results)} bad calls of {name}:\n" + "\n".join(faults)


def test_every_public_callable_is_in_the_table() -> None:
    known = {name.partition(" ")[0] for name in TABLE}
    missing = [name for name in ddi.__all__ if name not in known and name not in RESULTS]
    assert not missing, f"no good call in the table for {missing}"


if __name__ == "__main__":
    import collections
    import sys

    os.environ["DDI_DOORS"] = tempfile.mkdtemp()
    total: collections.Counter[str] = collections.Counter()
    for key in TABLE:
        if sys.argv[1:] and key.partition(" ")[0].partition(".")[0] not in sys.argv[1:]:
            continue
        for argument, label, what, why in found(key):
            total[what] += 1
            if what not in (REFUSED, RIGHT):
                print(f"{key}({argument} = {label}): {what.upper()}: {why}")
    print(dict(total))
