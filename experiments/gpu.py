"""All that a GPU is needed for, in the order of information, in pieces: issue the same command
until nothing is left.

    DDI_DATA=<folder> python experiments/gpu.py --seconds 560 --work /tmp/ddi --records records.tgz

Steps, one after the other: a check that the kernels work on this machine, claim (i) of chapter 11
(figure1c) as far as it is not recorded (DDi and product DDi, then PGD and normalised PGD with more
seeds), the probe along training, the benchmark (book/speed.md), and the other figures' arms
(chapter 12). No training has drops of the learning rate, so each is a prefix of the paper's 200
epochs, the first drop of which is at 100; the records say so. On an H100 a step of PGD training is
bound by starting kernels, so two such commands with work folders of their own share a GPU well. A
step that is complete is skipped, and one that the time cuts goes on in the next piece, as long as
the work folder is there. Every piece ends by packing all records without weights into one archive;
unpack it at the repository's root. ``--tiny`` runs the same steps on a CPU at toy size.
"""

import argparse
import subprocess
import sys
import tarfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FAST = ["kernels.precision=attack-bf16", "kernels.channels_last=true"]
SMALL = [
    "data=digits",
    "model.name=SmallNet",
    "setting.batch_size=20",
    "setting.epoch_steps=2",
    "setting.validation=50",
]


def plan(
    work: Path, epochs: int, tiny: bool, compile: str = "default"
) -> list[tuple[str, list[str]]]:
    """Name and command of every step, in order."""
    how = ["--device", "cpu"] if tiny else [*FAST, f"kernels.compile={compile}"]

    def run(file: str, arms: str, seed: int) -> tuple[str, list[str]]:
        command = ["-m", "ddi", "run", str(ROOT / "experiments" / f"{file}.toml")]
        command += [f"seeds=[{seed}]", "--arms", arms, "--epochs", str(epochs)]
        command += ["setting.milestones=[]"]
        command += ["--quiet", "--checkpoint-every", "100", "--out", str(work / "results"), *how]
        return f"{file}: {arms}, seed {seed}, {prefix(epochs)}", command + (SMALL if tiny else [])

    check = ["-m", "ddi", "run", str(ROOT / "experiments" / "figure1c.toml"), "seeds=[0]"]
    check += [
        "--arms",
        "pgd" if tiny else "pgd,product,ddi",
        "--epochs",
        "1",
        "--quiet",
        "--out",
        str(work / "check"),
        *how,
        *SMALL,
    ]
    steps = [("check", check)]
    steps += [run("figure1c", arm, 0) for arm in ("product", "ddi")]
    steps += [run("figure1c", arm, seed) for seed in (1, 2) for arm in ("pgd", "pgd-normalised")]
    return [
        *steps,
        ("probe", probe(work, tiny)),
        ("benchmark", bench(work, tiny, how)),
        run("figure1c", "product", 1),
        run("figure5a", "pgd-max-10", 0),
        run("figure5b", "fast,fast-normalised", 0),
    ]


def prefix(epochs: int) -> str:
    """What these records are called."""
    return f"prefix of {epochs} epochs"


def probe(work: Path, tiny: bool) -> list[str]:
    """The command of the probe."""
    command = [str(ROOT / "experiments" / "probe.py"), "--out", str(work / "results")]
    if not tiny:
        return [*command, "--model", "ResNet18", "--steps", "0,200,1000,4000"]
    command += ["--model", "MLP", "--steps", "0,2", "--batches", "1", "--m", "2", "--t", "0.1"]
    return [*command, "--device", "cpu"]


def bench(work: Path, tiny: bool, how: list[str]) -> list[str]:
    """The command of the benchmark; on a GPU with the kernels of the trainings."""
    name = "tiny" if tiny else "cuda-ResNet18"
    command = [str(ROOT / "benchmarks" / "run.py")]
    command += ["--out", str(work / "benchmarks" / f"{name}.json")]
    if not tiny:
        return [*command, "--compile", how[-1].partition("=")[2]]
    command += ["--model", "SmallNet", "--batch", "4", "--rounds", "1", "--sections", "steps"]
    return [*command, "--device", "cpu"]


def label(work: Path) -> None:
    """Write beside the records of every experiment what part of a training they are."""
    for folder in sorted((work / "results").glob("*")):
        settings = [
            tomllib.loads(path.read_text(encoding="utf-8")).get("setting")
            for path in sorted(folder.glob("*/config.toml"))
        ]
        if lengths := {prefix(setting["epochs"]) for setting in settings if setting}:
            text = f"{folder.name}: {', '.join(sorted(lengths))} of a training, without drops.\n"
            (folder / "README.md").write_text(text, encoding="utf-8")


def pack(work: Path, archive: Path) -> None:
    """All records and benchmarks, with their labels and without weights."""
    label(work)
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(
            p for top in ("results", "benchmarks") for p in work.glob(f"{top}/**/*")
        ):
            if path.suffix in (".toml", ".csv", ".json", ".md") and path.is_file():
                tar.add(path, str(path.relative_to(work)))


def attempted(command: list[str], end: float) -> str:
    """Run a step until it is through or the time is up."""
    try:
        left = max(0.01, end - time.monotonic())
        status = subprocess.run([sys.executable, *command], cwd=ROOT, timeout=left).returncode
    except subprocess.TimeoutExpired:
        return "stopped by the clock"
    return "done" if status == 0 else f"FAILED with status {status}"


def command_line() -> argparse.ArgumentParser:
    """Its options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seconds",
        type=float,
        default=560,
        help="until the step under way is stopped (default: 560)",
    )
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/ddi"), help="folder of records and checkpoints"
    )
    parser.add_argument(
        "--records", type=Path, default=Path("records.tgz"), help="archive to write"
    )
    parser.add_argument("--epochs", type=int, default=15, help="of every training (default: 15)")
    parser.add_argument(
        "--compile",
        default="default",
        help="mode of torch.compile, or off (default: %(default)s)",
    )
    parser.add_argument(
        "--tiny", action="store_true", help="the same steps at toy size, on the CPU"
    )
    return parser


def main() -> int:
    """Run what is left of the plan until the time is up, and pack the records."""
    options = command_line().parse_args()
    end = time.monotonic() + options.seconds
    options.work.mkdir(parents=True, exist_ok=True)
    done = options.work / "done.txt"
    finished = done.read_text().splitlines() if done.exists() else []
    plans = [
        plan(options.work.resolve(), options.epochs, options.tiny, mode)
        for mode in (options.compile, "off")
    ]
    for (name, command), (_, uncompiled) in zip(*plans, strict=True):
        if name in finished:
            continue
        started = time.monotonic()
        for attempt in (command, uncompiled):  # what a compiler does not like runs without it
            state = attempted(attempt, end)
            print(f"== {name}: {state} after {time.monotonic() - started:.0f} s", flush=True)
            if not state.startswith("FAILED") or command == uncompiled:
                break
        if state == "done":
            finished.append(name)
            done.write_text("\n".join(finished))
        if time.monotonic() > end:
            break
    pack(options.work, options.records)
    size = options.records.stat().st_size / 1e6
    print(f"{options.records}: {size:.1f} MB; {len(finished)} steps done")
    return int(len(finished) < len(plans[0]))


if __name__ == "__main__":
    sys.exit(main())
