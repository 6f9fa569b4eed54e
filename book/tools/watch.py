"""Run one chapter as a plain script and watch its checks; used by portable.py and failures.py.

    python book/tools/watch.py notebooks/08_synthetic.py --shift 1000 --noise 1e-7 --threads 2

prints one JSON object: the assertions that failed (all of them: a failed one does not stop the
run), what each cell printed, and for every comparison inside an assertion its two sides. The
chapter's text stays as it is; its assertions are rewritten in the syntax tree.
"""

import argparse
import ast
import contextlib
import io
import json
import operator
import re
import sys
import time
import traceback
import types
from pathlib import Path
from typing import Any

LABEL = re.compile(r"\*\*Check (\d\d\.\d+)\*\*|:label: (ex-\S+)")
# a cell whose output may differ from machine to machine, by comment or by tag
UNSTORED = ("NBVAL_IGNORE_OUTPUT", "nbval-ignore-output")
ORDER = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def label(lines: list[str], number: int) -> str:
    """The check or exercise that line `number` (from 1) belongs to: the last one named above it."""
    for line in reversed(lines[:number]):
        if found := LABEL.search(line):
            return f"check {found[1]}" if found[1] else f"exercise {found[2]}"
    return "before the first check"


def cells(lines: list[str]) -> list[tuple[int, int, bool]]:
    """The chapter's cells as (first line, last line, is it code), lines counted from 1."""
    starts = [i for i, line in enumerate(lines, 1) if line.startswith("# %%")]
    ends = [start - 1 for start in starts[1:]] + [len(lines)]
    return [(a, b, "[markdown]" not in lines[a - 1]) for a, b in zip(starts, ends, strict=True)]


class Rewrite(ast.NodeTransformer):
    """`assert a < b` becomes `__watch__.verdict(line, __watch__.compare(key, a, "<", b))`."""

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        value = self.watched(node.test, f"{node.lineno}")
        return ast.copy_location(
            ast.Expr(self.call("verdict", ast.Constant(node.lineno), value)), node
        )

    @staticmethod
    def call(name: str, *arguments: ast.expr) -> ast.expr:
        watch = ast.Attribute(ast.Name("__watch__", ast.Load()), name, ast.Load())
        return ast.Call(watch, list(arguments), [])

    def watched(self, test: ast.expr, key: str) -> ast.expr:
        """`test` with every comparison recorded that must hold for it to hold."""
        if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
            test.values = [self.watched(v, f"{key}.{i}") for i, v in enumerate(test.values)]
        elif isinstance(test, ast.BinOp) and isinstance(test.op, ast.BitAnd):
            test.left = self.watched(test.left, key + ".0")
            test.right = self.watched(test.right, key + ".1")
        elif isinstance(test, ast.Compare) and all(type(op) in ORDER for op in test.ops):
            given: list[ast.expr] = [ast.Constant(key), test.left]
            for op, right in zip(test.ops, test.comparators, strict=True):
                given += [ast.Constant(ORDER[type(op)]), right]
            return self.call("compare", *given)
        elif isinstance(test, ast.Call):
            self.inside(test, key)
        return test

    def inside(self, test: ast.Call, key: str) -> None:
        """X.all(), np.all(X) and all(X for ...) hold if X does."""
        called = test.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if name != "all":
            return
        if not test.args and isinstance(called, ast.Attribute):
            called.value = self.watched(called.value, key)
        elif test.args and isinstance(test.args[0], ast.GeneratorExp):
            test.args[0].elt = self.watched(test.args[0].elt, key)
        elif test.args:
            test.args[0] = self.watched(test.args[0], key)


class Watch:
    """What the rewritten assertions report to."""

    def __init__(self, lines: list[str]) -> None:
        self.lines, self.cell = lines, 0
        self.failures: dict[int, dict[str, Any]] = {}
        self.sides: dict[str, tuple[float, str, float]] = {}

    def verdict(self, line: int, value: Any) -> None:
        if not bool(value):
            self.fail(line, self.lines[line - 1].strip())

    def fail(self, line: int, text: str) -> None:
        new = {"cell": self.cell, "label": label(self.lines, line), "text": text, "times": 0}
        self.failures.setdefault(line, new)["times"] += 1

    def compare(self, key: str, left: Any, *rest: Any) -> Any:
        result: Any = None
        for i, (op, right) in enumerate(zip(rest[::2], rest[1::2], strict=True)):
            holds = COMPARE[op](left, right)
            result = holds if i == 0 else (result and holds)
            with contextlib.suppress(Exception):  # what has no number is not recorded
                self.record(f"{key}/{i}", left, op, right)
            left = right
        return result

    def record(self, key: str, left: Any, op: str, right: Any) -> None:
        """Keep the two sides where they come nearest to breaking the comparison."""
        import numpy as np

        a, b = (np.asarray(getattr(v, "detach", lambda v=v: v)(), float) for v in (left, right))
        a, b = (v.ravel() for v in np.broadcast_arrays(a, b))
        room = (b - a if op[0] == "<" else a - b) / np.maximum(np.maximum(abs(a), abs(b)), 1e-300)
        worst = int(room.argmin())
        old = self.sides.get(key)
        new = float(a[worst]), op, float(b[worst])
        if old is None or room[worst] < distance(*old):
            self.sides[key] = new


def distance(left: float, op: str, right: float) -> float:
    """How far a comparison is from failing, relative to the larger side; negative if it failed."""
    return (right - left if op[0] == "<" else left - right) / max(abs(left), abs(right), 1e-300)


def replace(owner: Any, name: str, by: Any) -> None:
    setattr(owner, name, by)


def disturb(shift: int, noise: float) -> None:
    """Add `shift` to every seed; scale every random number by 1 - noise * u, with u in [0, 1).

    u is made of the number's own digits, so that two draws with one seed still agree.
    """
    import numpy as np
    import torch

    if shift:
        seeded, numpy_rng = torch.manual_seed, np.random.default_rng

        class Shifted(torch.Generator):
            def manual_seed(self, seed: int) -> torch.Generator:
                super().manual_seed(seed + shift)
                return self

        def moved(seed: Any) -> Any:
            return seed + shift if isinstance(seed, int) else seed

        replace(torch, "manual_seed", lambda seed: seeded(moved(seed)))
        replace(torch, "Generator", Shifted)
        replace(np.random, "default_rng", lambda seed=None: numpy_rng(moved(seed)))
    if noise:

        def noisy(draw: Any) -> Any:
            def disturbed(*args: Any, **kwargs: Any) -> torch.Tensor:
                out = draw(*args, **kwargs)
                with torch.no_grad():
                    return out.mul_((1 - noise * (9973 * out.double().abs() % 1)).to(out))

            return disturbed

        for name in ("rand", "randn", "rand_like", "randn_like"):
            replace(torch, name, noisy(getattr(torch, name)))
        for name in ("uniform_", "normal_"):
            replace(torch.Tensor, name, noisy(getattr(torch.Tensor, name)))


def use_threads(count: int) -> None:
    """Run on so many threads, whatever the chapter asks for."""
    import torch

    torch.set_num_threads(count)
    replace(torch, "set_num_threads", lambda _: None)


def run(source: Path) -> dict[str, Any]:
    """Execute the chapter cell by cell."""
    text = source.read_text(encoding="utf-8")
    lines = text.splitlines()
    watch = Watch(lines)
    module = types.ModuleType("chapter")
    sys.modules["chapter"] = module
    module.__dict__.update(__watch__=watch, __file__=str(source))
    tree = ast.fix_missing_locations(Rewrite().visit(ast.parse(text)))
    printed, start = {}, time.perf_counter()
    for number, (first, last, code) in enumerate(cells(lines)):
        watch.cell = number
        body = [node for node in tree.body if first <= node.lineno <= last] if code else []
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out):
                exec(compile(ast.Module(body, []), str(source), "exec"), module.__dict__)
        except Exception as error:
            here = [
                f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(source)
            ]
            said = str(error).splitlines() or [""]
            watch.fail(here[-1].lineno or first, f"{type(error).__name__}: {said[0]}")
            break
        cell = "\n".join(lines[first - 1 : last])
        if out.getvalue() and not any(mark in cell for mark in UNSTORED):
            printed[number] = out.getvalue()
    return {
        "failures": watch.failures,
        "printed": printed,
        "sides": watch.sides,
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--shift", type=int, default=0, help="added to every seed")
    parser.add_argument("--noise", type=float, default=0.0, help="relative, on every random number")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    use_threads(options.threads)
    disturb(options.shift, options.noise)
    print(json.dumps(run(options.source.resolve())))


if __name__ == "__main__":
    main()
