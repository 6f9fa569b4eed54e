"""What directions differ in, and what they buy: a probe along plain PGD training (chapter 11).

    DDI_DATA=<folder> python experiments/probe.py --model SmallNet --data cifar10
    DDI_DATA=<folder> python experiments/probe.py --model ResNet18 --data cifar10 --device cuda

The network is trained by an arm (``pgd``) of an experiment file (SmallNet: small-cifar10.toml,
ResNet18: figure4-left.toml, MLP: digits.toml, or another by ``--experiment``) at its first learning
rate, by the very steps that ``python -m ddi run`` takes. After given numbers of steps, on batches
of images that training never sees: the cosines of m batch gradients at m restarts of PGD-7 (steps
of ``eps / 4``, whatever the training attack), the slopes that every rule promises, and the measured
change ``phi(theta + t s) - phi(theta)`` for its unit direction ``s`` and several ``t``. There
``phi`` is the mean over the batch of the largest loss found by several restarts of PGD-20, each
sample's best iterate kept, always from the same starts.

Writes results/probe/<model>-<arm>-seed<k>/, a row a (step, batch, rule, t); ``rule`` counts from 0
in the list ``rules`` of config.toml. A run that was interrupted goes on where it was; a complete
record is kept as it is.
"""

import argparse
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import ddi
from ddi.checkpoint import save_atomically

ROOT = Path(__file__).resolve().parents[1]
FILES = {"SmallNet": "small-cifar10.toml", "ResNet18": "figure4-left.toml", "MLP": "digits.toml"}
# "strong" is the gradient at the perturbations that give phi itself: one gradient, but better
# maximisers
RULES = ("single", "strong", "max", "mean", "ddi", "product", "bundle")
WHOLE = ("step", "batch", "rule", "negative_pairs")  # columns of whole numbers
RESTARTS = 2  # of the attack that measures phi


def strongest(model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor) -> tuple[Tensor, float]:
    """Each sample's perturbation of largest loss, and the mean of these losses."""
    losses = ddi.sample_losses(model, x, y, deltas)
    return deltas[losses.argmax(0), torch.arange(len(x), device=x.device)], float(
        losses.amax(0).double().mean()
    )


def restarts(
    model: nn.Module, x: Tensor, y: Tensor, attack: ddi.PGD, count: int, seed: int
) -> Tensor:
    """``count`` perturbations of the batch, from starts that only ``seed`` decides."""
    draw = torch.Generator(x.device).manual_seed(seed)
    return attack.restarts(model, x, y, count, draw, batch_size=512 if x.is_cuda else None)


def move(model: nn.Module, step: Tensor) -> nn.Module:
    """A copy of the model whose parameters have moved by a flat step."""
    moved = deepcopy(model)
    vector_to_parameters(
        parameters_to_vector(model.parameters()).detach() + step, moved.parameters()
    )
    return moved


def gradient(
    model: nn.Module, x: Tensor, y: Tensor, deltas: Tensor, rule: str, **options
) -> tuple[Tensor, float]:
    """What a rule makes of given perturbations: unit direction to add, and the norm before dividing
    by it.
    """
    given = iter(deltas)
    step = ddi.descent_rule(rule, m=len(deltas), **options)(model, x, y, lambda *_: next(given))
    return -step.gradient / step.gradient.norm().clamp_min(1e-30), step.diagnostics["norm"]


def probing(training: ddi.PGD) -> ddi.PGD:
    """PGD-7 in the set of the training attack: that attack itself, where it is the paper's."""
    eps = training.eps
    return ddi.PGD(eps, eps / 4, 7, norm=training.norm, box=training.box, loss=training.loss)


def directions(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    deltas: Tensor,
    best: Tensor,
    chunks: int,
    lr: float,
    rules: list[str],
) -> dict[str, tuple[Tensor, float]]:
    """Unit direction and norm of the rules, and of ``single`` and ``max``, with which all are
    compared.
    """
    parts = {"method": "chunks", "chunks": chunks}
    given = {name: (deltas, name, {}) for name in ("single", "max", "mean", "ddi")}
    given |= {"strong": (best[None], "single", {})}
    given |= {"product": (deltas, "product", parts | {"normalize": False})}
    given |= {"bundle": (deltas, "bundle", parts | {"joint": False, "t": lr})}
    return {
        name: gradient(model, x, y, d, rule, **extra)
        for name, (d, rule, extra) in given.items()
        if name in {"single", "max", *rules}
    }


def probe(
    model: nn.Module, x: Tensor, y: Tensor, other: list[Tensor], run: ddi.Run, options, seed: int
) -> list[dict]:
    """All rows of one batch; ``other`` is a second batch, whose gradient shows what a change of
    images does.
    """
    chunks = options.chunks
    measured = probing(run.attack)
    attack = replace(measured, steps=20, keep="best")
    deltas = restarts(model, x, y, measured, options.m, seed)
    best, φ = strongest(model, x, y, restarts(model, x, y, attack, RESTARTS, seed + 1))
    found = directions(model, x, y, deltas, best, chunks, run.setting.lr, options.rules)

    rows, _ = ddi.chunk_gradients(model, x, y, deltas, chunks)  # (m, chunks, d)
    columns = rows.sum(1)
    groups = torch.arange(chunks, device=x.device).repeat(options.m)
    gram = ddi.gram_matrix(columns)
    norms = gram.diagonal().sqrt()
    i, j = torch.triu_indices(options.m, options.m, 1)
    cosines = (gram / (norms[:, None] * norms))[i, j]
    foreign, _ = gradient(model, *other, restarts(model, *other, measured, 1, seed + 2), "single")
    same = {
        "cosine_mean": float(cosines.mean()),
        "cosine_min": float(cosines.min()),
        "negative_pairs": int((gram[i, j] < 0).sum()),
        "cosine_other_batch": float(found["single"][0] @ foreign),
        "phi": φ,
        "phi_m": strongest(model, x, y, deltas)[1],
    }
    result = []
    for number, name in enumerate(options.rules):
        direction, norm = found[name]
        slopes = {
            "slope_joint": float(ddi.directional_derivative(columns, direction)),
            "slope_product": float(
                ddi.directional_derivative(rows.flatten(0, 1), direction, groups)
            ),
            "slope_max": -float(found["max"][0] @ direction) * found["max"][1],
            "cosine_single": float(found["single"][0] @ direction),
        }
        for t in options.t:
            moved = move(model, t * direction)
            after = strongest(moved, x, y, restarts(moved, x, y, attack, RESTARTS, seed + 1))[1]
            result.append(
                {"rule": number, "t": t, "change": after - φ, "norm": norm} | slopes | same
            )
    return result


def train_to(
    target: int,
    at: dict,
    model: nn.Module,
    data: ddi.Dataset,
    run: ddi.Run,
    generators: tuple,
    save,
) -> None:
    """Go on with PGD training, as the trainer does it, up to the step ``target``."""
    setting, (batches, attacks) = run.setting, generators
    # a GPU trains with attacks in bf16; what is measured is measured in float32
    attack = replace(run.attack, autocast=batches.device.type == "cuda")
    optimiser = torch.optim.SGD(
        model.parameters(), setting.lr, setting.momentum, weight_decay=setting.weight_decay
    )
    while at["step"] < target:
        fresh = setting.epoch_steps and at["step"] % setting.epoch_steps == 0
        if fresh or len(at["order"]) < setting.batch_size:
            at["order"] = torch.randperm(
                len(data.x_train), generator=batches, device=batches.device
            )
        chosen, at["order"] = at["order"][: setting.batch_size], at["order"][setting.batch_size :]
        images = (
            ddi.crop_and_flip(data.x_train[chosen], generator=batches)
            if setting.augment
            else data.x_train[chosen]
        )
        step = run.rule(model.train(), images, data.y_train[chosen], attack, attacks)
        ddi.assign_gradient(model, step.gradient)
        optimiser.step()
        at["step"] += 1
        if at["step"] % 50 == 0 or at["step"] == target:
            save()


def earlier(
    folder: Path, config: dict, device: torch.device
) -> tuple[list[dict], float, dict | None]:
    """Rows of the whole batches, seconds and state of an interrupted run; nothing if there is none.

    Raises:
        AlreadyComplete: if there is nothing left to do.
        ValueError: if the folder holds another run.
    """
    if not (folder / "provenance.json").exists():
        return [], 0.0, None
    old = ddi.read_record(folder)
    if old.complete:
        raise ddi.record.AlreadyComplete
    if old.config != config:
        raise ValueError(f"{folder} holds an unfinished record of another setting; move it away")
    if not (folder / "state.pt").exists():
        return [], 0.0, None
    state = torch.load(folder / "state.pt", weights_only=True, map_location=device)
    tables = {
        key: column.astype(int) if key in WHOLE else column for key, column in old.metrics.items()
    }
    columns = zip(*map(list, tables.values()), strict=True)
    rows = [dict(zip(tables, row, strict=True)) for row in columns]
    whole = Counter((row["step"], row["batch"]) for row in rows)
    size = len(config["rules"]) * len(config["t"])
    rows = [row for row in rows if whole[row["step"], row["batch"]] == size]
    return rows, max((row["seconds"] for row in rows), default=0.0), state


def command_line() -> argparse.ArgumentParser:
    """Its options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model",
        choices=FILES,
        default="SmallNet",
        help="decides the experiment file (default: SmallNet)",
    )
    parser.add_argument("--experiment", help="another file of this folder, with that model")
    parser.add_argument("--arm", default="pgd", help="how it is trained (default: pgd)")
    parser.add_argument(
        "--steps", default="0,100,400", help="numbers of training steps before each probe"
    )
    parser.add_argument("--batches", type=int, default=5, help="batches of a probe (default: 5)")
    parser.add_argument("--m", type=int, default=10, help="restarts of PGD-7 (default: 10)")
    parser.add_argument(
        "--rules", default=",".join(RULES), help="whose change is measured (default: all)"
    )
    parser.add_argument(
        "--chunks", type=int, default=8, help="parts of a batch that choose together (default: 8)"
    )
    parser.add_argument("--t", default="0.01,0.03,0.1,0.3,1", help="step lengths")
    parser.add_argument("--data", help="data set (default: the experiment's)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of weights, batches and attacks (default: 0)"
    )
    parser.add_argument("--device", help="cpu, cuda ... (default: a GPU if there is one)")
    parser.add_argument(
        "--out", default=str(ROOT / "results"), help="folder of the records (default: results)"
    )
    return parser


def main() -> None:
    """Read the command line; train, probe, record."""
    parser = command_line()
    options = parser.parse_args()
    steps, options.t = (
        sorted(map(int, options.steps.split(","))),
        [float(text) for text in options.t.split(",")],
    )
    options.rules = options.rules.split(",")
    file = options.experiment or FILES[options.model]
    torch.backends.cudnn.allow_tf32 = False  # its ten bits would show in differences of phi
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    (run,) = ddi.read_experiment(
        ROOT / "experiments" / file, arms=[options.arm], seeds=[options.seed]
    )
    if run.model["name"] != options.model or set(options.rules) - set(RULES):
        parser.error(f"{file} must have a {options.model}, and rules be of {', '.join(RULES)}")
    data = ddi.load_data(options.data or run.data).to(device)
    part, x_val, y_val = data.hold_out(run.setting.validation)
    size = run.setting.batch_size
    if min(steps) < 0 or options.batches < 1 or options.m < 2:
        parser.error("steps must be >= 0, m >= 2 and batches >= 1")
    if max(2, options.batches) > len(x_val) // size:  # a second one shows what other images do
        parser.error(f"batches must be at most the {len(x_val) // size} of the held-out images")
    model = run.make_model(data)
    folder = Path(options.out) / "probe" / f"{options.model}-{options.arm}-seed{options.seed}"
    config = {
        key: getattr(options, key)
        for key in ("model", "arm", "batches", "m", "chunks", "t", "seed")
    }
    config |= {
        "steps": steps,
        "rules": options.rules,
        "data": data.name,
        "experiment": file,
    }
    config |= {
        "batch_size": size,
        "lr": run.setting.lr,
        "measure": f"PGD-20, {RESTARTS} restarts, best iterate",
    }
    config |= {"training": {"autocast": True}} if device.type == "cuda" else {}
    config |= {key: getattr(probing(run.attack), key) for key in ("eps", "alpha")}
    config |= {"attack_steps": probing(run.attack).steps}

    try:
        rows, seconds, state = earlier(folder, config, device)
    except ddi.record.AlreadyComplete:
        return print(f"{folder}: complete, kept")
    at = {"step": 0, "order": torch.empty(0, dtype=torch.int64)}
    generators = tuple(
        torch.Generator(device).manual_seed(s) for s in (options.seed, options.seed + 10**6)
    )
    if state is not None:
        at = state["at"]
        model.load_state_dict(state["model"])
        for generator, value in zip(generators, state["generators"], strict=True):
            generator.set_state(value.cpu())

    def save() -> None:
        kept = {
            "model": model.state_dict(),
            "generators": [g.get_state() for g in generators],
            "at": at,
        }
        save_atomically(kept, folder / "state.pt")

    done = {(row["step"], row["batch"]) for row in rows}
    with ddi.RunWriter(folder, config, ddi.provenance(data, device)) as record:
        record.resume(rows, seconds)
        save()
        for step in steps:
            if step < at["step"]:
                continue  # probed before training went on
            train_to(step, at, model, part, run, generators, save)
            for b in range(options.batches):
                if (step, b) in done:
                    continue
                x, y, *other = (
                    v[k * size : (k + 1) * size]
                    for k in (b, (b + 1) % max(2, options.batches))
                    for v in (x_val, y_val)
                )
                for row in probe(
                    model.eval(), x, y, other, run, options, seed=10**7 + 1000 * step + 10 * b
                ):
                    record.log(step=step, batch=b, **row, seconds=round(record.seconds, 1))
                print(
                    f"step {step}, batch {b}: mean cosine {row['cosine_mean']:.4f}, "
                    f"phi {row['phi']:.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
