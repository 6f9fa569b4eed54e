"""``python -m ddi``: run experiments, evaluate what they trained, see what data and records there
are.
"""

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from ddi import _words as words
from ddi import commands
from ddi.data import SETS
from ddi.experiment import read_experiment
from ddi.measure import evaluate_run

HELP = """\
Train with descent rules, and record everything.

  python -m ddi list experiments                  what can be run, and its arms
  python -m ddi run experiments/digits.toml       a first run: a minute, no download, no GPU
  python -m ddi run experiments/figure4-left.toml --arms pgd,ddi --seeds 3 --epochs 15
  python -m ddi run experiments/figure4-left.toml data=digits model.name=SmallNet setting.validation=400
  python -m ddi evaluate results/digits/ddi-seed0
  python -m ddi list results                      what was run, and how it ended
  python -m ddi data cifar10                      where the data is looked for, and whether it is there
  python -m ddi report                            versions and processor: what to send if a check fails

A run that was interrupted goes on when the same command is given again; a complete record is never overwritten, and
neither is one of another run: what differs is named.
With several GPUs: torchrun --nproc-per-node 4 -m ddi run ... (the batch is split over them). For a sweep on a cluster
give each job one arm and one seed: --arms ddi seeds=[2].
"""  # noqa: E501
RUN = """\
Every arm and seed of FILE is one run, recorded in OUT/<experiment>/<arm>-seed<k>/: config.toml (itself a FILE that
repeats the run), metrics.csv, provenance.json, and the weights of the best epoch by validation (best.pt) and of the last
(checkpoint.pt). The arms' curves are drawn into OUT/<experiment>/curves.png, and a summary says which arm is ahead.

Overrides: any key of the tables model, setting, attack, evaluation, rule and kernels, in TOML, for example

  setting.lr=0.3  setting.batch_size=64  rule.m=5  attack.eps=4/255  model.activation=relu  data=digits  seeds=[0,7]
  kernels.precision=attack-bf16  kernels.channels_last=true  kernels.compile=reduce-overhead   (a GPU)

Unknown keys, impossible values and missing data are refused before any work starts. A run whose loss is no longer
finite stops there and is recorded as incomplete, and one whose folder holds another run is not begun; the other runs go
on, and the exit status is 1. Stopped by Ctrl-C or a signal, it says where, and the status is 130 or 143.
"""  # noqa: E501


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a stream that has no ± shows ?
            stream.reconfigure(errors="replace")
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and (options.command is not _run or any(text.startswith("-") for text in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse takes no positional arguments after an option
        options.overrides += rest
    command: Callable[[argparse.Namespace], int] = options.command
    before = _on_sigterm()
    try:
        status = command(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read what is printed has read enough: `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(options.command is not _list)  # a run that was cut off is not done
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"ddi: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, commands.Terminated) as stop:
        print("ddi: stopped", file=sys.stderr)
        return 143 if isinstance(stop, commands.Terminated) else 130
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _on_sigterm() -> signal.Handlers | Callable[..., object] | int | None:
    """Let SIGTERM unwind like Ctrl-C; returns what it did before."""
    if threading.current_thread() is not threading.main_thread():
        return None

    def unwind(*_: object) -> None:
        raise commands.Terminated

    return signal.signal(signal.SIGTERM, unwind) or signal.SIG_DFL


def _count(text: str) -> int:
    """An integer from 1 on."""
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer from 1 on, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m ddi",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands_ = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, function: Callable[..., int], about: str, description: str = ""
    ) -> argparse.ArgumentParser:
        sub = commands_.add_parser(
            name,
            help=about,
            description=description or about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(command=function)
        return sub

    run = command("run", _run, "train the arms of an experiment", RUN)
    _run_options(run)
    evaluate = command(
        "evaluate", _evaluate, "accuracy on the test set of recorded runs, written into test.json"
    )
    _evaluate_options(evaluate)
    for sub in (run, evaluate):
        sub.add_argument(
            "--device", help='"cpu", "cuda", "cuda:1" (default: a GPU if there is one)'
        )
    data = command("data", _data, "say where a data set is looked for and what is there")
    data.add_argument("name", help=f"{', '.join(SETS)}, or the name or path of an .npz")
    data.add_argument("--download", action="store_true", help="let torchvision fetch it")
    listing = command("list", _list, "list the experiments or the records of a folder")
    listing.add_argument("folder", nargs="?", default="results", help="default: results")
    command("report", _report, "print versions, processor and threads, for a report")
    return parser


def _run_options(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "file", metavar="FILE", help="a TOML file; those of the book are in experiments/"
    )
    run.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="see above")
    run.add_argument("--arms", default="", help="only these, separated by commas")
    run.add_argument("--seeds", type=_count, help="number of seeds, 0 ... SEEDS-1")
    run.add_argument(
        "--epochs", type=_count, help="instead of the file's; the schedule keeps its proportions"
    )
    run.add_argument("--out", default="results", help="folder of the records (default: results)")
    run.add_argument(
        "--checkpoint-every",
        type=_count,
        metavar="STEPS",
        help="besides the checkpoint after every epoch",
    )
    run.add_argument("--tensorboard", action="store_true", help="write TensorBoard's files too")
    run.add_argument("--quiet", action="store_true", help="no progress bars")
    run.add_argument(
        "--dry-run", action="store_true", help="check everything, say what would run, and stop"
    )


def _evaluate_options(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument(
        "runs", nargs="+", metavar="RUN", help="folders of records, with their weights"
    )
    evaluate.add_argument("--data", help="data set whose test images are used (default: the run's)")
    evaluate.add_argument("--n", type=_count, help="the first N test images (default: all)")
    evaluate.add_argument(
        "--which", choices=("best", "last", "both"), default="both", help="weights of which epoch"
    )
    evaluate.add_argument(
        "--restarts", type=_count, default=1, help="of the run's evaluation attack (default: 1)"
    )
    evaluate.add_argument(
        "--attack",
        action="append",
        default=[],
        metavar="TABLE",
        help="""one more attack, in the set of the run's: 'kind="BETA", steps=10' (repeatable)""",
    )
    evaluate.add_argument(
        "--autoattack", action="store_true", help="AutoAttack too (slow; needs pyautoattack)"
    )
    evaluate.add_argument(
        "--network",
        metavar="TABLE",
        help="""of a run made from Python: how its network is made, 'name="MLP", hidden=[8]'""",
    )


def _run(options: argparse.Namespace) -> int:
    arms = [arm.strip() for arm in options.arms.split(",") if arm.strip()]
    runs = read_experiment(options.file, options.overrides, arms, options.seeds, options.epochs)
    return commands.run(
        runs,
        options.out,
        options.device,
        options.checkpoint_every,
        options.tensorboard,
        options.quiet,
        options.dry_run,
    )


def _evaluate(options: argparse.Namespace) -> int:
    device, status = commands.device_named(options.device), 0
    for name in options.runs:
        try:
            evaluate_run(
                words.path("folder", name),
                device,
                options.data,
                options.n,
                options.which,
                options.restarts,
                options.autoattack,
                options.network,
                options.attack,
            )
        except (ValueError, OSError, FloatingPointError) as error:  # the others are measured still
            print(f"ddi: {'' if name in str(error) else f'{name}: '}{error}", file=sys.stderr)
            status = 1
    return status


def _data(options: argparse.Namespace) -> int:
    return commands.data(options.name, options.download)


def _list(options: argparse.Namespace) -> int:
    return commands.list_folder(options.folder)


def _report(_: argparse.Namespace) -> int:
    return commands.report()


if __name__ == "__main__":
    sys.exit(main())
