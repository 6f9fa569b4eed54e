"""Do the chapters and the tests hold on other processors, threads, seeds and versions?

    make portable                                everything: an hour on two cores
    make portable QUICK=1                        what .ci/run does: two threads, and no AVX or FMA
    python book/tools/portable.py --chapters 08 09 --cases sse seeds1000 --no-tests
    python book/tools/portable.py --python /other/environment/bin/python

Each chapter runs as a plain script (watch.py) under each case below. Prints which chapter fails
where, whose printed lines differ from those of the first case (`make test` compares them exactly),
and how near the checks' bounds are over all repetitions. The exit status is 1 if something failed.
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from notebooks import chapters  # book/tools/notebooks.py

ROOT = Path(__file__).resolve().parents[2]
NUMPY = """
try: from numpy._core import _multiarray_umath as numpy
except ImportError: from numpy.core import _multiarray_umath as numpy
print(*[name for name in numpy.__cpu_dispatch__ if numpy.__cpu_features__[name]])
"""
NEAR = 0.2  # a bound nearer than a fifth of what is observed is no bound


Side = tuple[float, str, float]  # left, sign, right


@dataclass(frozen=True)
class Case:
    """One emulation: the environment it needs, and what watch.py is to do."""

    what: str
    environment: dict[str, str] = field(default_factory=dict)
    numpy_without: str | None = None  # NumPy's features that match are switched off
    options: tuple[str, ...] = ()
    threads: int = 1

    @property
    def draws(self) -> bool:
        """Whether the numbers drawn differ: then printed numbers may, and tests are not run."""
        return bool(self.options)


SSE = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "OPENBLAS_CORETYPE": "Prescott",
}
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}
CASES = {
    "plain": Case("this processor, one thread"),
    "sse": Case("no AVX, no fused multiply-add", SSE, numpy_without="."),
    "avx2": Case("AVX2, no AVX-512", AVX2, numpy_without="AVX512|X86_V4"),
    "threads2": Case("two threads", threads=2),
    "threads4": Case("four threads", threads=4),
    "noise": Case("random numbers moved by 1e-7", options=("--noise", "1e-7")),
} | {
    f"seeds{n}": Case(f"every seed + {n}", options=("--shift", f"{n}"))
    for n in range(1000, 9000, 1000)
}
USUAL = [name for name in CASES if name[:5] != "seeds" or name in ("seeds1000", "seeds2000")]
QUICK = ("threads2", "sse")
# Tests of the emulation itself, of pages, and of files: a processor changes nothing there.
APART = ("portable", "book", "house", "readme", "colab", "planted", "doors_files", "page")


def environment(case: Case, python: str) -> dict[str, str]:
    """The environment of a case; NumPy refuses features that it was not built to dispatch."""
    found = dict(os.environ) | case.environment
    found |= {"OMP_NUM_THREADS": str(case.threads), "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    found["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that wait leave the cores to those that work
    if case.numpy_without:
        asked = subprocess.run([python, "-c", NUMPY], capture_output=True, text=True, check=True)
        off = [name for name in asked.stdout.split() if re.search(case.numpy_without, name)]
        found["NPY_DISABLE_CPU_FEATURES"] = " ".join(off)
    return found


def run_chapter(python: str, name: str, source: Path, env: dict[str, str]) -> dict[str, Any]:
    """What watch.py says of a chapter under a case."""
    case = CASES[name]
    command = [python, str(ROOT / "book/tools/watch.py"), str(source), *case.options]
    command += ["--threads", str(case.threads)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=source.parent)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        failure = {"cell": 0, "label": "the whole chapter", "text": last, "times": 1}
        found = {"failures": {"0": failure}, "printed": {}, "sides": {}, "seconds": 0.0}
    where = ", ".join(dict.fromkeys(failure["label"] for failure in found["failures"].values()))
    say(f"{name:10} {source.stem:24} {verdict(found):9} {found['seconds']:6.1f} s  {where}")
    return found


def run_tests(python: str, name: str, env: dict[str, str]) -> list[str]:
    """The unit tests that fail under a case."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        command = [python, "-m", "pytest", "-q", "--tb=line", "-o", f"cache_dir={cache}"]
        command += [f"--ignore=tests/test_{name}.py" for name in APART] + ["tests"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=ROOT)
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    if done.returncode and not failed:
        failed = [(lines or done.stderr.splitlines() or ["pytest did not run"])[-1]]
    outcome, seconds = "FAILED" if failed else "ok", time.perf_counter() - start
    say(f"{name:10} {'unit tests':24} {outcome:9} {seconds:6.1f} s")
    return failed


def say(line: str) -> None:
    print(line, flush=True)


def verdict(found: dict[str, Any]) -> str:
    return "FAILED" if found["failures"] else "ok"


def differences(found: dict[str, Any], reference: dict[str, Any]) -> list[str]:
    """Printed lines that are not the reference's, by cell."""
    lines = []
    for cell in sorted(found["printed"].keys() | reference["printed"].keys(), key=int):
        here, there = (f["printed"].get(cell, "").splitlines() for f in (found, reference))
        lines += [
            f"cell {cell}: {a!r}, not {b!r}" for a, b in zip(here, there, strict=False) if a != b
        ]
        if len(here) != len(there):
            lines.append(f"cell {cell}: {len(here)} lines, not {len(there)}")
    return lines


def room(sides: list[Side]) -> float:
    """The least distance of an observed value from its bound, over repetitions, as a share.

    The unit is the larger side's median; for two shares, in [0, 1], it may be that of what is
    left to 1: 0.97 > 0.9 has the room 0.7, for 0.1 was allowed to fail and 0.03 do.
    """
    left, right = [s[0] for s in sides], [s[2] for s in sides]
    margin = min(b - a if op[0] == "<" else a - b for a, op, b in sides)
    units = [max(abs(statistics.median(left)), abs(statistics.median(right)))]
    if all(0 <= v <= 1 for v in left + right):
        units.append(max(1 - statistics.median(left), 1 - statistics.median(right)))
    shares = [margin / unit if unit else 0.0 for unit in units]
    return max(share if math.isfinite(share) else math.inf for share in shares)


def nearest(source: Path, results: list[dict[str, Any]]) -> list[tuple[float, str]]:
    """The chapter's comparisons with a written bound, the nearest first: (room, sentence)."""
    from watch import label

    lines = source.read_text(encoding="utf-8").splitlines()
    found = []
    for key in {key for result in results for key in result["sides"]}:
        sides: list[Side] = [tuple(r["sides"][key]) for r in results if key in r["sides"]]
        line = int(re.split(r"[./]", key)[0])
        values = [{s[i] for s in sides} for i in (0, 2)]
        if len(values[0]) > 1 and len(values[1]) > 1 or len(values[0]) == len(values[1]) == 1:
            continue  # a relation between two observed values, or nothing that varies
        bound, seen = (sides[0][2], values[0]) if len(values[1]) == 1 else (sides[0][0], values[1])
        text = f"{min(seen):.4g} to {max(seen):.4g}, bound {bound:.4g}"
        found.append((room(sides), f"{label(lines, line)}, line {line}: {text}"))
    return sorted(found)


def report(results: dict[tuple[str, str], dict[str, Any]], tests: dict[str, list[str]]) -> int:
    """Print the tables; the number of things that failed."""
    names = list(dict.fromkeys(name for name, _ in results))
    stems = sorted({stem for _, stem in results})
    width = max([len(name) for name in names], default=0) + 2
    say("\n" + " " * 24 + "".join(f"{name:>{width}}" for name in names))
    for stem in stems:
        say(f"{stem:24}" + "".join(f"{verdict(results[name, stem]):>{width}}" for name in names))
    bad = 0
    for (name, stem), found in results.items():
        for line, failure in found["failures"].items():
            bad += 1
            say(f"\n{stem} under {name}: {failure['label']}, cell {failure['cell']}, line {line}:")
            say(f"    {failure['text']}" + f"  ({failure['times']} times)" * (failure["times"] > 1))
        if not CASES[name].draws:
            for difference in differences(found, results[names[0], stem]):
                bad += 1
                say(f"\n{stem} under {name} prints otherwise than under {names[0]}, {difference}")
    for name, failed in tests.items():
        bad += len(failed)
        for line in failed:
            say(f"\nunit tests under {name}: {line}")
    return bad


def rooms(results: dict[tuple[str, str], dict[str, Any]], sources: list[Path], every: bool) -> None:
    """Print how near the bounds are: those under a fifth, or all."""
    say(
        f"\nRoom of the checks' bounds, as a share of what is observed (below {NEAR} is too little)"
    )
    for source in sources:
        here = [found for (_, stem), found in results.items() if stem == source.stem]
        table = nearest(source, here)
        for share, text in table:
            if every or share < NEAR:
                say(f"  {share:7.2f}  {source.stem[:2]}  {text}")
        say(
            f"           {source.stem}: {len(table)} bounds, the nearest at {table[0][0]:.2f}"
            if table
            else ""
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chapters", nargs="*", default=[], help="numbers or names; none: all")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=USUAL)
    parser.add_argument("--quick", action="store_true", help=f"only {' and '.join(QUICK)}")
    parser.add_argument("--python", default=sys.executable, help="another environment's Python")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-tests", action="store_true", help="leave the unit tests out")
    parser.add_argument("--all-rooms", action="store_true", help="list every bound's room")
    parser.add_argument("--json", type=Path, help="write what was found, for later comparison")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    names = list(QUICK) if options.quick else options.cases
    sources, start = chapters(options.chapters), time.perf_counter()
    for name in names:
        say(f"{name:10} {CASES[name].what}")
    envs = {name: environment(CASES[name], options.python) for name in names}
    with ThreadPoolExecutor(options.workers) as pool:
        jobs = {
            (name, source.stem): pool.submit(run_chapter, options.python, name, source, envs[name])
            for name in names
            for source in sources
        }
        tested = [] if options.no_tests else [n for n in names if not CASES[n].draws]
        tested = tested[-1:] if options.quick else tested  # the tests make threads of their own
        tests = {n: pool.submit(run_tests, options.python, n, envs[n]) for n in tested}
        results = {key: job.result() for key, job in jobs.items()}
        failed = {name: job.result() for name, job in tests.items()}
    if options.json:
        options.json.write_text(json.dumps([[*key, found] for key, found in results.items()]))
    bad = report(results, failed)
    if any(CASES[name].draws for name in names) or options.all_rooms:
        rooms(results, sources, options.all_rooms)
    seconds = time.perf_counter() - start
    say(f"\n{len(results)} runs of chapters, {len(failed)} of the tests: {seconds:.0f} s")
    sys.exit(f"{bad} failures" if bad else 0)


if __name__ == "__main__":
    main()
