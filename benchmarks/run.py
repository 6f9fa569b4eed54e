"""What a descent direction costs on this machine: ratios of times inside one run.

    python benchmarks/run.py --quick        under two minutes on two cores
    python benchmarks/run.py                every section, recorded beside this file

Every ratio stands beside the *work limit*, the least that its passes can cost. The record is
written after every section. Peers that are not installed are said to be absent; to have them
without touching the environment:

    python -m pip install --no-deps --target .peers -r benchmarks/peers.txt
    PYTHONPATH=.peers python benchmarks/run.py
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench import SECTIONS, Bench
from kernels import MODES, PRECISIONS, Kernels
from timing import lines

import ddi

FOLDER = Path(__file__).resolve().parent
MODELS = {"SmallNet": ddi.SmallNet, "ResNet18": ddi.ResNet18}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and record; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        _checked(options)
    except ValueError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 1
    device = torch.device(options.device)
    kernels = Kernels(options.precision, device.type == "cuda", options.compile)
    torch.manual_seed(0)
    x = torch.rand(options.batch, 3, 32, 32, device=device)
    y = torch.arange(options.batch, device=device) % 10
    bench = Bench(MODELS[options.model](3, 10).to(device), x, y, kernels, options.rounds)
    source = ddi.provenance(None, device)
    about = {key: getattr(options, key) for key in ("model", "batch", "rounds", "quick")}
    record = {"complete": False, **about, "kernels": vars(kernels), "provenance": source}
    rows: list[dict[str, Any]] = []
    machine = f"{source['device']}, {source['threads']} threads, torch {source['torch']}"
    print(f"{options.model}, batch {options.batch}, {machine}, {kernels}")
    for section in options.sections:
        found = getattr(bench, section)()
        print("\n".join(lines(found)), flush=True)
        rows += [row.plain() | {"section": section} for row in found]
        if options.out:
            done = section == options.sections[-1]
            _write(Path(options.out), record | {"complete": done, "rows": rows})
    return 0


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    add = parser.add_argument
    add("--quick", action="store_true", help="under two minutes: smaller batch, fewer rounds")
    add("--model", choices=tuple(MODELS), help="default: SmallNet; on a GPU ResNet18")
    add("--batch", type=int, help="images in a batch (default: 128; quick 32)")
    add("--rounds", type=int, help="of every comparison (default: 7; quick 3)")
    add("--precision", choices=PRECISIONS, help="default: float32; on a GPU attack-bf16")
    add("--compile", choices=MODES, help="default: off; on a GPU reduce-overhead")
    add("--sections", help=f"default: {','.join(SECTIONS)}; quick: the first four")
    add("--out", help="record (default: benchmarks/<cpu or cuda>-<model>.json; quick: none)")
    add("--device", help='"cpu", "cuda", "cuda:1" (default: a GPU if there is one)')
    return parser


def _checked(options: argparse.Namespace) -> None:
    """Fill in the defaults, and refuse what cannot be measured."""
    there = torch.cuda.is_available()
    options.device = options.device or ("cuda" if there else "cpu")
    gpu = options.device.startswith("cuda")
    if gpu and not there:
        raise ValueError(f"device must be one that is there, got {options.device!r} without a GPU")
    usual = (
        ("ResNet18", "attack-bf16", "reduce-overhead") if gpu else ("SmallNet", "float32", "off")
    )
    for key, value in zip(("model", "precision", "compile"), usual, strict=True):
        setattr(options, key, getattr(options, key) or value)
    for key, (full, quick) in {"batch": (128, 32), "rounds": (7, 3)}.items():
        if getattr(options, key) is None:
            setattr(options, key, quick if options.quick else full)
    if options.batch < 4 or options.rounds < 1:
        got = f"{options.batch} and {options.rounds}"
        raise ValueError(f"batch must be at least 4 and rounds at least 1, got {got}")
    named = options.sections.split(",") if options.sections else list(SECTIONS)
    options.sections = named[:4] if options.quick and not options.sections else named
    if unknown := set(named) - set(SECTIONS):
        raise ValueError(f"sections must be of {', '.join(SECTIONS)}, got {sorted(unknown)}")
    if not options.out and not options.quick:
        options.out = FOLDER / f"{torch.device(options.device).type}-{options.model}.json"


def _write(path: Path, record: dict[str, Any]) -> None:
    """At once, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


if __name__ == "__main__":
    sys.exit(main())
