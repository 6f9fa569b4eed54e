"""``python -m ddi``: run experiments, evaluate what they trained, see what data and records there
are.
"""

import argparse
import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import torch

from ddi import parallel, plots
from ddi.bench import Bench
from ddi.data import SETS, Dataset, load_data
from ddi.evaluate import (
    Accuracy,
    autoattack_accuracy,
    clean_accuracy,
    masking_signs,
    robust_accuracy,
)
from ddi.experiment import MODELS, Run, read_experiment
from ddi.fast import MODES, PRECISIONS, Kernels
from ddi.record import Record, provenance, read_record, read_records, write_json
from ddi.timing import lines

HELP = """\
Train with descent rules, and record everything.

  python -m ddi list experiments                  what can be run, and its arms
  python -m ddi run experiments/digits.toml       a first run: under two minutes, no download, no GPU
  python -m ddi run experiments/figure4-left.toml --arms pgd,ddi --seeds 3 --epochs 15
  python -m ddi run experiments/figure4-left.toml data=digits model.name=SmallNet
  python -m ddi evaluate results/digits/ddi-seed0
  python -m ddi list results                      what was run, and how it ended
  python -m ddi data cifar10                      where the data is looked for, and whether it is there
  python -m ddi bench --quick                     what a direction costs, as ratios measured on this machine

A run that was interrupted goes on when the same command is given again; a complete record is never overwritten.
With several GPUs: torchrun --nproc-per-node 4 -m ddi run ... (the batch is split over them). For a sweep on a cluster
give each job one arm and one seed: --arms ddi seeds=[2].
"""
RUN = """\
Every arm and seed of FILE is one run, recorded in OUT/<experiment>/<arm>-seed<k>/: config.toml (itself a FILE that
repeats the run), metrics.csv, provenance.json, and the weights of the best epoch by validation (best.pt) and of the last
(checkpoint.pt). The arms' curves are drawn into OUT/<experiment>/curves.png.

Overrides: any key of the tables model, setting, attack, evaluation, rule and kernels, for example

  setting.lr=0.3  setting.batch_size=64  rule.m=5  attack.eps=4/255  model.activation=relu  data=digits  seeds=[0,7]
  kernels.precision=attack-bf16  kernels.channels_last=true  kernels.compile=reduce-overhead   (a GPU)

Unknown keys, impossible values and missing data are refused before any work starts. A run whose loss is no longer
finite stops there and is recorded as incomplete; the other runs go on, and the exit status is 1.
"""
SECTIONS = ("steps", "profile", "solver", "peers", "agreement", "growth", "processes", "memory")
BENCH = """\
Ratios of times, each measured inside one run with its jobs in turn, beside the least that the passes can cost (the work
limit) and the goal. The record is written after every section. Peers that are not installed are said to be absent; to
have them without touching the environment:

  python -m pip install --no-deps --target .peers -r benchmarks/peers.txt   (torchattacks, torchjd)
  PYTHONPATH=.peers python -m ddi bench
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and (options.command is not _run or any(text.startswith("-") for text in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse takes no positional arguments after an option
        options.overrides += rest
    try:
        return options.command(options)
    except (ValueError, FileNotFoundError, ImportError, FloatingPointError) as error:
        print(f"ddi: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("python -m ddi", description=HELP, **raw)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, function: object, about: str, description: str = ""
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=description or about, **raw)
        sub.set_defaults(command=function)
        return sub

    run = command("run", _run, "train the arms of an experiment", RUN)
    run.add_argument(
        "file", metavar="FILE", help="a TOML file; those of the book are in experiments/"
    )
    run.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="see above")
    run.add_argument("--arms", default="", help="only these, separated by commas")
    run.add_argument("--seeds", type=int, help="number of seeds, 0 ... SEEDS-1")
    run.add_argument(
        "--epochs", type=int, help="instead of the file's; the schedule keeps its proportions"
    )
    run.add_argument("--out", default="results", help="folder of the records (default: results)")
    run.add_argument(
        "--checkpoint-every",
        type=int,
        metavar="STEPS",
        help="besides the checkpoint after every epoch",
    )
    run.add_argument("--tensorboard", action="store_true", help="write TensorBoard's files too")
    run.add_argument("--quiet", action="store_true", help="no progress bars")
    run.add_argument(
        "--dry-run", action="store_true", help="check everything, say what would run, and stop"
    )

    evaluate = command(
        "evaluate", _evaluate, "accuracy on the test set of recorded runs, written into test.json"
    )
    evaluate.add_argument(
        "runs", nargs="+", metavar="RUN", help="folders of records, with their weights"
    )
    evaluate.add_argument("--data", help="data set whose test images are used (default: the run's)")
    evaluate.add_argument("--n", type=int, help="the first N test images (default: all)")
    evaluate.add_argument(
        "--which", choices=("best", "last", "both"), default="both", help="weights of which epoch"
    )
    evaluate.add_argument(
        "--restarts", type=int, default=1, help="of the run's evaluation attack (default: 1)"
    )
    evaluate.add_argument(
        "--autoattack", action="store_true", help="AutoAttack too (slow; needs pyautoattack)"
    )

    data = command("data", _data, "say where a data set is looked for and what is there")
    data.add_argument("name", help=f"{', '.join(SETS)}, or the name or path of an .npz")
    data.add_argument("--download", action="store_true", help="let torchvision fetch it")

    bench = command(
        "bench", _bench, "measure what a direction costs, as ratios inside one run", BENCH
    )
    bench.add_argument(
        "--quick",
        action="store_true",
        help="under two minutes on two cores: smaller batch, fewer rounds",
    )
    bench.add_argument(
        "--model", choices=("SmallNet", "ResNet18"), help="default: SmallNet; on a GPU ResNet18"
    )
    bench.add_argument("--batch", type=int, help="images in a batch (default: 128; quick 32)")
    bench.add_argument("--rounds", type=int, help="of every comparison (default: 7; quick 3)")
    bench.add_argument(
        "--precision", choices=PRECISIONS, help="default: float32; on a GPU attack-bf16"
    )
    bench.add_argument("--compile", choices=MODES, help="default: off; on a GPU reduce-overhead")
    bench.add_argument(
        "--sections", default=",".join(SECTIONS), help="default: %(default)s; quick: the first four"
    )
    bench.add_argument(
        "--out", help="record (default: benchmarks/<cpu or cuda>-<model>.json; quick: none)"
    )

    listing = command("list", _list, "list the experiments or the records of a folder")
    listing.add_argument("folder", nargs="?", default="results", help="default: results")
    for sub in (run, evaluate, bench):
        sub.add_argument(
            "--device", help='"cpu", "cuda", "cuda:1" (default: a GPU if there is one)'
        )
    return parser


def _device(name: str | None) -> torch.device:
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device must be one that is there, got {name!r}, and torch finds no GPU")
    return device


def _run(options: argparse.Namespace) -> int:
    arms = [arm for arm in options.arms.split(",") if arm]
    flags = {"seeds": options.seeds, "epochs": options.epochs}
    runs = read_experiment(options.file, options.overrides, arms, **flags)
    name = runs[0].experiment
    device = (
        parallel.start()
        if torch.distributed.is_torchelastic_launched()
        else _device(options.device)
    )
    data = load_data(runs[0].data).to(device)
    for run in runs:
        run.make_model(data)
        if len(data.x_train) - run.setting.validation < run.setting.batch_size:
            raise ValueError(
                f"setting.validation leaves no batch of the {len(data.x_train)} training images of {data.name}"
            )
    if options.dry_run:
        for run in runs:
            print(
                f"{name}/{run.name}: {run.rule.name}, {run.setting.epochs} epochs on {data.name} ({device})"
            )
        return 0
    diverged = 0
    for run in runs:
        folder = Path(options.out) / name / run.name
        if (folder / "provenance.json").exists() and read_record(folder).complete:
            print(f"{folder}: complete, kept")
            continue
        settings = {
            "checkpoint_every": options.checkpoint_every,
            "tensorboard": options.tensorboard,
        }
        try:
            run.train(data, options.out, progress=not options.quiet, **settings)
        except (
            FloatingPointError
        ) as error:  # an arm that diverges is a finding, and no reason to drop the others
            diverged += 1
            print(f"{folder}: {error}; incomplete", file=sys.stderr, flush=True)
            continue
        if parallel.rank() == 0:
            print(f"{folder}: {_numbers(read_record(folder))}", flush=True)
    if parallel.rank() == 0:
        records = [r for r in read_records(Path(options.out) / name) if r.metrics]
        plots.save_curves(records, Path(options.out) / name / "curves.png")
        print(f"curves: {Path(options.out) / name / 'curves.png'}")
    return int(diverged > 0)


def _bench(options: argparse.Namespace) -> int:
    device, sections = _device(options.device), options.sections.split(",")
    gpu = device.type == "cuda"
    if options.quick:
        sections = sections[:4]
    if unknown := set(sections) - set(SECTIONS):
        raise ValueError(f"sections must be of {', '.join(SECTIONS)}, got {sorted(unknown)}")
    name = options.model or ("ResNet18" if gpu else "SmallNet")
    batch, rounds = (
        options.batch or (32 if options.quick else 128),
        options.rounds or (3 if options.quick else 7),
    )
    if batch < 4 or rounds < 1:
        raise ValueError(
            f"batch must be at least 4 and rounds at least 1, got {batch} and {rounds}"
        )
    usual = Kernels("attack-bf16", True, "reduce-overhead") if gpu else Kernels()
    kernels = Kernels(
        options.precision or usual.precision, usual.channels_last, options.compile or usual.compile
    )
    torch.manual_seed(0)
    x, y = torch.rand(batch, 3, 32, 32, device=device), torch.arange(batch, device=device) % 10
    bench = Bench(MODELS[name](3, 10).to(device), x, y, kernels, rounds)
    about = {
        "model": name,
        "batch": batch,
        "rounds": rounds,
        "kernels": vars(kernels),
        "quick": options.quick,
    }
    record = {"complete": False, **about, "provenance": provenance(None, device), "rows": []}
    path = (
        None
        if options.quick and not options.out
        else Path(options.out or f"benchmarks/{device.type}-{name}.json")
    )
    source = record["provenance"]
    print(
        f"{name}, batch {batch}, {source['device']}, {source['threads']} threads, torch {source['torch']}, {kernels}"
    )
    for section in sections:
        rows = getattr(bench, section)()
        print("\n".join(lines(rows)), flush=True)
        record["rows"] += [row.plain() | {"section": section} for row in rows]
        record["complete"] = section == sections[-1]
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, record)
    return 0


def _numbers(record: Record) -> str:
    best, last = record.row("best"), record.row("last")
    text = f"best epoch {best['epoch']:.0f}: robust {best['robust']:.4f}, clean {best['clean']:.4f}"
    return f"{text}; last epoch {last['epoch']:.0f}: robust {last['robust']:.4f}, clean {last['clean']:.4f} (validation)"


def _evaluate(options: argparse.Namespace) -> int:
    device = _device(options.device)
    for folder in map(Path, options.runs):
        run = read_experiment(folder / "config.toml")[0]
        data = load_data(options.data or run.data).to(device)
        found = _evaluate_run(folder, run, data, options)
        old = (
            json.loads((folder / "test.json").read_text())
            if (folder / "test.json").exists()
            else []
        )
        keep = [
            e
            for e in old
            if all(
                any(e[k] != new[k] for k in ("data_sha256", "which", "n", "attack"))
                for new in found
            )
        ]
        write_json(folder / "test.json", keep + found)
    return 0


def _evaluate_run(
    folder: Path, run: Run, data: Dataset, options: argparse.Namespace
) -> list[dict[str, object]]:
    model, source = run.make_model(data), provenance(data, data.x_test.device)
    x, y = data.x_test[: options.n], data.y_test[: options.n]
    found: list[dict[str, object]] = []
    for which in ("best", "last") if options.which == "both" else (options.which,):
        path = folder / ("best.pt" if which == "best" else "checkpoint.pt")
        if not path.exists():
            raise FileNotFoundError(
                f"{folder} holds no weights ({path.name}); records keep them where they were made"
            )
        state = torch.load(path, weights_only=True, map_location=data.x_test.device)
        model.load_state_dict(state["model"] if which == "best" else state["state"]["model"])
        draw = torch.Generator(x.device).manual_seed(0)
        robust = robust_accuracy(model, x, y, run.evaluation, options.restarts, draw, progress=True)
        name = f"{type(run.evaluation).__name__}-{run.evaluation.steps}x{options.restarts}"
        measured = {"clean": clean_accuracy(model, x, y), name: robust}
        if options.autoattack:
            measured["AutoAttack"] = autoattack_accuracy(
                model, x, y, run.evaluation.eps, run.evaluation.norm
            )
        signs = masking_signs(model, x[:500], y[:500], run.evaluation)
        for attack, accuracy in measured.items():
            found.append(_entry(which, attack, accuracy, signs) | source)
            print(f"{folder} ({which}, {data.name}): {attack} {accuracy}")
    return found


def _entry(which: str, attack: str, accuracy: Accuracy, signs: list[str]) -> dict[str, object]:
    values = {
        "accuracy": accuracy.value,
        "standard_error": accuracy.standard_error,
        "n": accuracy.n,
    }
    return {"which": which, "attack": attack} | values | {"masking_signs": signs}


def _data(options: argparse.Namespace) -> int:
    data = load_data(options.name, download=options.download)
    for split in ("train", "test"):
        x = getattr(data, f"x_{split}")
        print(f"{data.name} {split}: {len(x)} images {tuple(x.shape[1:])}, {data.classes} classes")
    print(f"sha256 {data.sha256()}")
    return 0


def _list(options: argparse.Namespace) -> int:
    folder = Path(options.folder)
    files, records = sorted(folder.glob("*.toml")), sorted(folder.glob("**/provenance.json"))
    if not files and not records:
        raise FileNotFoundError(f"{folder} holds neither experiments (*.toml) nor records")
    for path in files:
        runs = read_experiment(path)
        title = tomllib.loads(path.read_text(encoding="utf-8")).get("title", "")
        print(
            f"{path}: {title}\n  {len(runs)} runs on {runs[0].data}: {', '.join(dict.fromkeys(run.arm for run in runs))}"
        )
    for path in records:
        record = read_record(path.parent)
        state = "complete" if record.complete else "incomplete"
        numbers = (
            _numbers(record)
            if "robust" in record.metrics
            else f"{len(next(iter(record.metrics.values()), []))} rows"
        )
        print(f"{path.parent}: {state}; {record.provenance['data']}; {numbers}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
