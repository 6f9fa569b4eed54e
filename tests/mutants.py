"""Break the package on purpose, one place at a time, and see the tests notice.

    python tests/mutants.py --n 150 --seed 0      a random sample of Cosmic Ray's mutants
    python tests/mutants.py --planted [WORD ...]  the faults of ``planted.py``

A test that cannot fail proves nothing. For each mutant of the sample a copy of the tree is broken,
and the tests run that reach the broken line (coverage.py says which; where none does in its own
process, the test files that speak of the module), a file at a time, the fastest first, until one
fails; for a planted fault the one test that must notice runs. A mutant is *caught* by a failed test
or by running into its time; it *survives* if all pass; one that cannot even be imported does not
count, and the next of the sample takes its place. Results are lines of JSON in ``.mutants.jsonl``,
and a run that was stopped goes on there. Every test run is a process forked from one that has
imported torch already. The sample needs ``cosmic-ray`` (``make mutants`` fetches it).
"""

import argparse
import ast
import collections
import difflib
import functools
import hashlib
import importlib
import json
import multiprocessing
import os
import queue
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planted import PLANTED, Fault

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("ddi", "tests", "experiments", "benchmarks", "results", "book")
FILES = ("README.md", "Makefile", "conftest.py", "pyproject.toml", "requirements.txt", "_toc.yml")
PAGES = ("book", "house", "readme", "colab", "portable", "planted")  # tests of other things
LEFT_OUT = tuple(f"test_{page}.py" for page in PAGES)
CAUGHT, SURVIVED, BROKEN = "caught", "survived", "cannot be imported"
NO_IMPORT = 100  # exit status
PRELOADED = (
    *("torch", "torch._dynamo", "torchvision.datasets", "sklearn.datasets", "scipy.optimize"),
    *("pytest", "hypothesis", "matplotlib.pyplot"),
)  # what the tests import, but for the package
OPTIONS = ("-q", "-x", "-p", "no:nbval", "-p", "no:cacheprovider", "-p", "no:xdist")
FORKS = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Mutant:
    """One broken module: which, where and how, its source, and what runs on it."""

    path: Path
    line: int
    what: str
    before: str
    source: str
    tests: tuple[str, ...]

    @property
    def diff(self) -> str:
        """The lines that differ."""
        both = self.before.splitlines(), self.source.splitlines()
        _, _, *lines = difflib.unified_diff(*both, n=0, lineterm="")
        return "\n".join(line for line in lines if line[:2] != "@@")


# --- mutants ------------------------------------------------------------


def _annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where the type annotations are: to change one is no fault."""
    found = []
    for node in ast.walk(ast.parse(source)):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(part, ast.expr):
                end = part.end_lineno or 0, part.end_col_offset or 0
                found.append(((part.lineno, part.col_offset), end))
    return found


def every_mutant() -> list[tuple[str, str, int, int]]:
    """All mutants of the package, as (module, operator, occurrence, line), in a fixed order."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    found = []
    operators = [(name, get_operator(name)) for name in sorted(operator_names())]
    for path in sorted((ROOT / "ddi").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        skip, nodes = _annotations(source), list(ast_nodes(get_ast(source)))
        for name, kind in operators:
            if kind.arguments():
                continue
            operator = kind()
            places = (place for node in nodes for place in operator.mutation_positions(node))
            for occurrence, (start, _) in enumerate(places):
                if not any(low <= tuple(start) < high for low, high in skip):
                    found.append((path.stem, name, occurrence, start[0]))
    return found


def made(module: str, name: str, occurrence: int, line: int) -> Mutant | None:
    """The source of one of them; ``None`` where the tool stumbles (over ``except a.Error``)."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    path = Path("ddi", f"{module}.py")
    source = (ROOT / path).read_text(encoding="utf-8")
    try:
        mutated = mutate_code(source, get_operator(name)(), occurrence)
    except AttributeError:
        return None
    if mutated is None:
        raise LookupError(f"{name} has no occurrence {occurrence} in {module}")
    what = name.removeprefix("core/")
    return Mutant(path, line, what, source, mutated, concerned(module))


def planted(fault: Fault) -> Mutant:
    """The module of a planted fault, as its syntax tree prints it."""
    source = (ROOT / fault.path).read_text(encoding="utf-8")
    before = ast.unparse(ast.parse(source))
    return Mutant(fault.path, 0, fault.what, before, fault.plant(source), (fault.node,))


# --- tests and trees ------------------------------------------------------------


def file_of(test: str) -> str:
    """The test file of a test."""
    return test.partition("::")[0]


def every_file() -> tuple[str, ...]:
    """The test files of the package."""
    found = sorted(path.name for path in (ROOT / "tests").glob("test_*.py"))
    return tuple(name for name in found if name not in LEFT_OUT)


@functools.cache
def concerned(module: str) -> tuple[str, ...]:
    """The test files that speak of a module's names (all, where none does)."""
    tree = ast.parse((ROOT / "ddi" / f"{module}.py").read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = {module} | {
        node.name for node in tree.body if isinstance(node, kinds) and node.name[0] != "_"
    }
    word = re.compile(rf"\b({'|'.join(map(re.escape, sorted(names)))})\b")
    texts = {name: (ROOT / "tests" / name).read_text(encoding="utf-8") for name in every_file()}
    return tuple(name for name in texts if word.search(texts[name])) or every_file()


def reached(path: Path, line: int, results: "Results") -> tuple[str, ...]:
    """The tests that run the smallest statement around a line; where none does, the test files that
    speak of its module. Its own test file is among them, for what runs in other processes.
    """
    around = [
        range(node.lineno, (node.end_lineno or 0) + 1)
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    lines = set(min(around, key=len, default=range(0)))
    files = concerned(path.stem)
    found = {
        test
        for entry in results.known.values()
        for test, where in entry.get("reach", {}).items()
        if lines.intersection(where.get(path.stem, ()))
    }
    own = f"test_{path.stem}.py"
    if not found:
        return files
    return tuple(sorted({t for t in found if file_of(t) != own} | ({own} & set(files))))


def digest() -> str:
    """What results hang on: the package, the benchmarks and the tests."""
    sha = hashlib.sha256()
    files = (path for part in ("ddi", "tests", "benchmarks") for path in (ROOT / part).glob("*.py"))
    for path in sorted(files):
        sha.update(path.name.encode() + path.read_bytes())
    return sha.hexdigest()[:16]


def _enter(folder: Path) -> None:
    """Make this process one of a tree, and silent."""
    os.setsid()
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(folder), str(folder / "tests")]
    with open(os.devnull, "w") as nothing:
        for stream in (1, 2):
            os.dup2(nothing.fileno(), stream)


def _reach(folder: Path, name: str) -> None:
    """Run a test file, and write which lines of the package its tests reach, into the file
    ``reach.json``; leaves the process with pytest's status.
    """
    _enter(folder)
    cov = importlib.import_module("coverage").Coverage(data_file=None, include=["*/ddi/*"])
    cov.set_option("run:dynamic_context", "test_function")
    cov.start()
    status = importlib.import_module("pytest").main([*OPTIONS, f"tests/{name}"])
    cov.stop()
    data = cov.get_data()
    found: dict[str, dict[str, list[int]]] = {}
    for path in data.measured_files():
        for line, tests in data.contexts_by_lineno(path).items():
            for test in {test.rpartition(".")[2] for test in tests if ".test_" in test}:
                found.setdefault(f"{name}::{test}", {}).setdefault(Path(path).stem, []).append(line)
    Path("reach.json").write_text(json.dumps(found), encoding="utf-8")
    os._exit(status)


def _pytest(folder: Path, module: str, tests: tuple[str, ...], seconds: int) -> None:
    """Run test files, or single tests, in this tree; leaves the process with pytest's status, or
    is killed where it, or a process that it starts, computes for more than so many seconds.
    """
    _enter(folder)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    try:
        importlib.import_module(module)
    except Exception:
        os._exit(NO_IMPORT)
    pytest = importlib.import_module("pytest")
    os._exit(pytest.main([*OPTIONS, *(f"tests/{test}" for test in tests)]))


class Tree:
    """A copy of the repository that may be broken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        skip = shutil.ignore_patterns("__pycache__", "_build", "*.pt", "tensorboard")
        for part in (*FOLDERS, *FILES):
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, folder / part, ignore=skip)
            elif (ROOT / part).exists():
                shutil.copy(ROOT / part, folder / part)

    def test(self, names: tuple[str, ...], seconds: float, module: str = "ddi") -> int | None:
        """Exit status of test files or tests: 0 passed, 1 failed; ``None``: they took too long,
        in seconds of computing, so that other programs on the machine change nothing.
        """
        return self._run(10 * seconds, _pytest, module, names, int(seconds))  # some only sleep

    def reach(self, name: str) -> tuple[int | None, dict[str, Any]]:
        """Exit status of a test file, and for its tests: module -> the lines that they reach."""
        status = self._run(3600, _reach, name)
        return status, json.loads((self.folder / "reach.json").read_text(encoding="utf-8"))

    def _run(self, seconds: float, function: Callable[..., None], *values: Any) -> int | None:
        process = FORKS.Process(target=function, args=(self.folder, *values))
        process.start()
        try:
            process.join(seconds)
            return None if process.exitcode == -signal.SIGXCPU else process.exitcode
        finally:
            try:
                os.killpg(process.pid or 0, signal.SIGKILL)  # and what the tests left behind
            except ProcessLookupError:
                process.kill()
            process.join()

    def judge(self, mutant: Mutant, times: dict[str, float]) -> dict[str, Any]:
        """What becomes of a mutant here, and which test file or test caught it."""
        path = self.folder / mutant.path
        kept = path.read_text(encoding="utf-8")
        path.write_text(mutant.source, encoding="utf-8")
        ours = mutant.path.parts[0] == "ddi" and mutant.path.stem[:2] != "__"
        module = f"ddi.{mutant.path.stem}" if ours else "ddi"
        began = time.perf_counter()
        try:
            result, by = SURVIVED, ""
            for file in sorted({file_of(test) for test in mutant.tests}, key=times.__getitem__):
                names = tuple(test for test in mutant.tests if file_of(test) == file)
                status = self.test(names, 20 + 4 * times[file], module)
                if status != 0:
                    result = BROKEN if status == NO_IMPORT else CAUGHT
                    by = file if status is not None else f"{file} (time)"
                    break
        finally:
            path.write_text(kept, encoding="utf-8")
        return {"result": result, "by": by, "seconds": round(time.perf_counter() - began, 1)}


# --- the run ------------------------------------------------------------


class Results:
    """The lines of an earlier run on the same code, and those of this one."""

    def __init__(self, path: Path) -> None:
        self.path, self.code = path, digest()
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.known = {e["key"]: e for e in map(json.loads, lines) if e["code"] == self.code}

    def keep(self, key: str, entry: dict[str, Any]) -> dict[str, Any]:
        """Write one line."""
        self.known[key] = entry = {"key": key, "code": self.code} | entry
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        return entry


def baseline(results: Results, trees: "queue.Queue[Tree]", names: set[str]) -> dict[str, float]:
    """Seconds that every test file takes on the unbroken tree, where all must pass; of whole files
    also which lines their tests reach.
    """

    def one(file: str) -> float:
        some = tuple(sorted(name for name in names if file_of(name) == file))
        key = "+".join(some)
        if key not in results.known:
            tree, began, more = trees.get(), time.perf_counter(), {}
            if some == (file,):
                status, more = tree.reach(file)
            else:
                status = tree.test(some, 1800)
            seconds = round(time.perf_counter() - began, 1)
            trees.put(tree)
            if status != 0:
                what = "must pass before anything is broken"
                raise SystemExit(f"tests/{file} {what}, and ends with {status}")
            results.keep(key, {"seconds": seconds, "reach": more})
        return float(results.known[key]["seconds"])

    files = sorted({file_of(name) for name in names})
    with ThreadPoolExecutor(trees.qsize()) as pool:
        return dict(zip(files, pool.map(one, files), strict=True))


def judged(
    mutants: list[Mutant], results: Results, trees: "queue.Queue[Tree]", workers: int
) -> Iterator[dict[str, Any]]:
    """Every mutant with its result, in order."""
    single = {test for mutant in mutants for test in mutant.tests if "::" in test}
    times = baseline(results, trees, single or set(every_file()))
    mutants = [
        m if "::" in m.tests[0] else replace(m, tests=reached(m.path, m.line, results))
        for m in mutants
    ]

    def one(mutant: Mutant) -> dict[str, Any]:
        key = hashlib.sha256((mutant.what + mutant.source).encode()).hexdigest()
        if key not in results.known:
            tree = trees.get()
            try:
                found = tree.judge(mutant, times)
            finally:
                trees.put(tree)
            about = {"place": f"{mutant.path}:{mutant.line}", "module": mutant.path.stem}
            results.keep(key, about | {"what": mutant.what, "diff": mutant.diff} | found)
            words = f"{about['place']} {mutant.what}  {found['by']}"
            print(f"{found['result']:9} {found['seconds']:6.1f} s  {words}", flush=True)
        return results.known[key]

    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(one, mutants)


def sampled(
    n: int, seed: int, results: Results, trees: "queue.Queue[Tree]", workers: int
) -> list[dict[str, Any]]:
    """The first ``n`` of all mutants, shuffled, that can be imported."""
    everything = every_mutant()
    order = random.Random(seed).sample(everything, len(everything))
    print(f"{len(everything)} mutants; a sample of {n}, seed {seed}", flush=True)
    found: list[dict[str, Any]] = []
    taken = 0
    while len(found) < n and taken < len(order):
        places = order[taken : taken + n - len(found)]
        some = [mutant for place in places if (mutant := made(*place))]
        taken += len(places)
        found += [e for e in judged(some, results, trees, workers) if e["result"] != BROKEN]
    print(f"{taken - len(found)} of {taken} cannot be imported and do not count")
    return found


def report(found: list[dict[str, Any]]) -> None:
    """The table, and every survivor."""
    for entry in found:
        if entry["result"] == SURVIVED:
            print(f"\n{entry['place']} {entry['what']}\n{entry['diff']}")
    print(f"\n{'module':12} caught  of")
    for module in sorted({e["module"] for e in found}):
        of = [e["result"] for e in found if e["module"] == module]
        print(f"{module:12} {of.count(CAUGHT):6} {len(of):3}")
    caught = collections.Counter(e["result"] for e in found)[CAUGHT]
    timed = sum(e["by"].endswith("(time)") for e in found)
    share = f"{100 * caught / max(1, len(found)):.1f} %"
    print(f"{caught} of {len(found)} caught ({share}), {timed} of them by running into the time")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "words", nargs="*", help="with --planted: only faults whose description holds all of them"
    )
    parser.add_argument(
        "--planted", action="store_true", help="the planted faults instead of a sample"
    )
    parser.add_argument("--n", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / ".mutants.jsonl")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    FORKS.set_forkserver_preload(list(PRELOADED))
    results, trees = Results(options.out), queue.Queue[Tree]()
    with tempfile.TemporaryDirectory() as scratch:
        for i in range(options.workers):
            trees.put(Tree(Path(scratch) / str(i)))
        if options.planted:
            faults = [f for f in PLANTED if all(word in f.what for word in options.words)]
            found = list(judged([planted(f) for f in faults], results, trees, options.workers))
        else:
            found = sampled(options.n, options.seed, results, trees, options.workers)
    report(found)
    return int(options.planted and any(e["result"] != CAUGHT for e in found))


if __name__ == "__main__":
    sys.exit(main())
