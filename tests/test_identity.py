"""What decides a run is told apart by its values, wherever they are; and what holds itself has a
name all the same.
"""

import functools
import hashlib
import json
import types
from argparse import Namespace
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

import ddi
from ddi import PGD, Normalize, Rule, Setting, digits, train
from ddi.adversary import Attack
from ddi.identity import as_table, constants, flat, network_hash
from ddi.naming import named
from ddi.objectives import TRADES
from ddi.record import AlreadyComplete

SETTING = Setting(epochs=2, epoch_steps=2, batch_size=16, validation=60, augment=False, seed=3)
ATTACK = PGD(0.1, 0.05, 1)
SCALE, TABLE, WEIGHTS = 2.0, {"slope": 0.1}, torch.ones(10)
X = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def go(folder, model, **options):
    given = {"rule": Rule("single"), "attack": ATTACK, "evaluation": ATTACK} | options
    rule, attack, evaluation = (given[key] for key in ("rule", "attack", "evaluation"))
    return train(model, digits(), rule, attack, SETTING, folder, evaluation)


def normalised(mean=0.5, std=0.25):
    torch.manual_seed(0)
    return nn.Sequential(Normalize((mean,), (std,)), nn.Flatten(), nn.Linear(64, 10))


def frozen_first(value):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10))
    nn.init.constant_(model[1].weight, value).requires_grad_(False)
    return model


def weighted(scale):
    return nn.CrossEntropyLoss(weight=scale * torch.ones(10), reduction="none")


def nearly(scale):
    weights = torch.ones(2000)
    weights[1000] = scale  # in the middle of what would be printed as dots
    return functools.partial(lambda z, y, w: ddi.cross_entropy(z, y), w=weights)


PAIRS = {  # of networks, attacks or rules that differ in a value
    "Normalize": lambda s: {"model": normalised(0.5 * s)},
    "a frozen layer": lambda s: {"model": frozen_first(s)},
    "a loss with weights": lambda s: {"rule": Rule("single", loss=weighted(s))},
    "a loss of an attack": lambda s: {"attack": replace(ATTACK, loss=weighted(s))},
    "a tensor of a partial": lambda s: {"attack": replace(ATTACK, loss=nearly(s))},
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_another_value_is_another_run_and_the_same_is_the_same(tmp_path, pair):
    go(tmp_path / "run", **{"model": normalised()} | pair(1.0))
    with pytest.raises(AlreadyComplete):
        go(tmp_path / "run", **{"model": normalised()} | pair(1.0))
    with pytest.raises(FileExistsError, match="another run") as error:
        go(tmp_path / "run", **{"model": normalised()} | pair(0.5))
    assert not isinstance(error.value, AlreadyComplete)


def test_constants_are_what_training_does_not_move():
    model = nn.Sequential(
        Normalize((0.5,), (0.25,)),
        nn.BatchNorm2d(1),
        nn.Flatten(),
        nn.utils.parametrizations.spectral_norm(nn.Linear(64, 10)),
    )
    found, state = constants(model.eval(), X), {k: v.clone() for k, v in model.state_dict().items()}
    assert list(found) == ["0.mean", "0.std"] and "1, 1" in found["0.mean"]
    model.train()(X)  # moves the others
    moved = [k for k, v in model.state_dict().items() if not torch.equal(v, state[k])]
    assert len(moved) >= 5 and constants(model, X) == found
    model[1].weight.requires_grad_(False)
    assert list(constants(model, X)) == ["0.mean", "0.std", "1.weight"]


def test_a_record_from_before_constants_were_written_is_of_the_same_run(tmp_path):
    go(tmp_path / "run", normalised())
    path = tmp_path / "run" / "provenance.json"
    source = json.loads(path.read_text())
    assert list(source.pop("constants")) == ["0.mean", "0.std"]
    path.write_text(json.dumps(source))
    with pytest.raises(AlreadyComplete):
        go(tmp_path / "run", normalised())
    for model in (nn.Sequential(nn.Dropout(0.5), normalised()), frozen_first(1.0)):
        with pytest.raises(FileExistsError, match="the network is another one"):
            go(tmp_path / "run", model)
    path.write_text(json.dumps(source | {"frozen": ["2.bias"]}))
    with pytest.raises(FileExistsError, match="frozen is"):
        go(tmp_path / "run", normalised())


def test_the_hash_of_a_network_is_that_of_the_records_of_old():
    """As they were written since format 2: with another, every record is one of another run."""
    flatten = "torch.nn.modules.flatten.Flatten [('end_dim', '-1'), ('start_dim', '1')]"
    lines = [": torch.nn.modules.container.Sequential []", f"0: {flatten}"]
    lines += ["1: ddi.models.Normalize []", "1.mean: (1, 1, 1) torch.float32"]
    lines += ["1.std: (1, 1, 1) torch.float32"]
    model = nn.Sequential(nn.Flatten(), Normalize((0.5,), (0.25,)))
    assert network_hash(model) == hashlib.sha256("\n".join(lines).encode()).hexdigest()


# --------------------------------------------------------------------------------------------------


def made(names):
    """The functions and classes of a piece of code with these globals."""
    space = {
        "__name__": "users",
        "nn": nn,
        "torch": torch,
        "Attack": Attack,
        "dataclass": dataclass,
    } | names
    exec(compile(CODE, "users", "exec"), space)
    return space


CODE = """
def helper(z):
    return SCALE * z

def attack(model, x, y):
    inside = lambda z: INNER * z
    return inside(helper(x)) * TABLE["slope"] + WEIGHTS.sum()

class Holder:
    def __init__(self, config):
        self.config = config
    def __call__(self, model, x, y):
        return self.config.eps * x

class Slotted:
    __slots__ = ("eps",)
    def __init__(self, eps):
        self.eps = eps
    def __call__(self, model, x, y):
        return self.eps * x

class Options:
    slope = SLOPE

class Net(nn.Module):
    slope = SLOPE
    def __init__(self, config=None):
        super().__init__()
        self.config, self.layer = config, nn.Linear(64, 10)
    def forward(self, x):
        return self.slope * self.layer(x.flatten(1))

@dataclass(frozen=True)
class Own(Attack):
    eps: float = 0.1
    def __call__(self, model, x, y, generator=None):
        return SLOPE * torch.zeros_like(x)
"""
NAMES = {
    "SCALE": 2.0,
    "INNER": 2.0,
    "TABLE": {"slope": 0.1},
    "WEIGHTS": torch.ones(10),
    "SLOPE": 0.1,
}
OTHERS = {
    "SCALE": 3.0,
    "INNER": 3.0,
    "TABLE": {"slope": 0.2},
    "WEIGHTS": torch.arange(10.0),
    "SLOPE": 0.2,
}


@pytest.mark.parametrize("key", ["SCALE", "INNER", "TABLE", "WEIGHTS"])
def test_a_function_is_told_apart_by_the_globals_that_it_uses(key):
    one, same, other = made(NAMES), made(NAMES), made(NAMES | {key: OTHERS[key]})
    assert named(one["attack"]) == named(same["attack"]) != named(other["attack"])
    assert named(one["attack"]) == named(made(NAMES | {"UNUSED": 1})["attack"])


@pytest.mark.parametrize(
    "config",
    [
        lambda eps: types.SimpleNamespace(eps=eps),
        lambda eps: Namespace(eps=eps),
        lambda eps: types.SimpleNamespace(inner=[types.SimpleNamespace(eps=eps)]),
        lambda eps: made(NAMES)["Slotted"](eps),
        lambda eps: {"eps": np.full(2000, eps)},
        lambda eps: np.array([None, eps], dtype=object),
        lambda eps: nn.ParameterDict({"eps": nn.Parameter(torch.tensor(eps))}),
        lambda eps: functools.lru_cache(lambda z: z * eps),
    ],
    ids=["namespace", "arguments", "nested", "slots", "array", "objects", "module", "cached"],
)
def test_an_object_is_told_apart_by_what_it_holds(config):
    space = made(NAMES)
    one, same, other = (named(space["Holder"](config(eps))) for eps in (0.1, 0.1, 0.2))
    assert one == same != other
    nets = [network_hash(space["Net"](config(eps))) for eps in (0.1, 0.1, 0.2)]
    weights = isinstance(config(0.1), nn.Module)  # of a network these are no part of it
    assert nets[0] == nets[1] and (nets[1] != nets[2]) != weights


def test_a_class_is_told_apart_by_its_attributes_and_code():
    one, same, other = made(NAMES), made(NAMES), made(NAMES | {"SLOPE": 0.2})
    for make in ("Net", "Own"):
        value = network_hash if make == "Net" else lambda thing: flat(as_table(thing))
        assert value(one[make]()) == value(same[make]()) != value(other[make]())
    assert named(one["Options"]) != named(other["Options"])
    moved = one["Net"]()
    moved.layer.weight.data += 1
    assert network_hash(moved) == network_hash(same["Net"]())  # weights are no part of it


def test_a_class_of_ones_own_is_not_named_as_the_one_it_comes_of():
    class Mine(TRADES):
        def __call__(self, *args):
            return 2 * super().__call__(*args)

    assert named(TRADES(6.0)) == named(TRADES(6)) != named(Mine(6.0))


def test_what_the_package_itself_names_keeps_its_name():
    assert named(ddi.cross_entropy) == "cross_entropy"
    assert named(nn.functional.cross_entropy) == "torch.nn.functional.cross_entropy"
    assert "#" not in named(nn.CrossEntropyLoss(reduction="none"))
    assert as_table(ATTACK).keys() == {"kind", *(f for f in vars(ATTACK) if f != "schedule")}
    assert named(np.sin) != named(np.cos) and named(torch.sin) != named(torch.cos)
    assert named(torch.Tensor.sin) != named(torch.Tensor.cos)


def test_what_holds_itself_has_a_name_and_says_what_it_does():
    def patched(scale):
        model = normalised()
        plain = model.forward
        model.forward = types.MethodType(lambda self, x: scale * plain(x), model)
        return model

    one, same, other = patched(1.0), patched(1.0), patched(2.0)
    one[2].weight.data += 1  # of itself, whose weights do not count
    assert (
        network_hash(one) == network_hash(same) != network_hash(other) != network_hash(normalised())
    )

    class Holder:
        def __init__(self, eps):
            self.eps, self.step, self.all = eps, self.one_step, [self]

        def one_step(self, x):
            return self.eps * x

        def __call__(self, model, x, y):
            return self.step(x)

    assert named(Holder(0.1)) == named(Holder(0.1)) != named(Holder(0.2))
    assert named(Holder(0.1).step) != named(Holder(0.2).step)

    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    assert named(even) != named(odd)


def test_a_run_with_a_patched_forward_or_an_attack_that_holds_itself_is_trained(tmp_path):
    model = made(NAMES)["Net"]()
    plain = model.forward
    model.forward = types.MethodType(lambda self, x: plain(x), model)

    class Zero:
        def __init__(self):
            self.again = self.zero

        def zero(self, x):
            return torch.zeros_like(x)

        def __call__(self, model, x, y):
            return self.again(x)

    go(tmp_path / "run", model, attack=Zero())
    assert ddi.read_record(tmp_path / "run").complete
