"""Plant one fault at a time and see the tests catch it: ``python tests/faults.py [word ...]``.

A test that cannot fail proves nothing. Each line below breaks the package in one place (in a copy
of the tree); the unit tests of that part must then fail. Exits with 1 if a fault survives. Not
collected by pytest: it takes minutes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# (what is broken, module, the text as it is, the text with the fault, the tests that must notice)
FAULTS = [
    ("projection to the wrong radius", "threat", "hi.clamp_(-self.eps, self.eps)", "hi.clamp_(-2 * self.eps, 2 * self.eps)", "threat"),
    ("box forgotten after a random l2 start", "threat", "(x.ndim - 1))).clamp(lo, hi)", "(x.ndim - 1)))", "threat"),
    ("l2 projection stops at the ball, before the box", "threat", "range(0 if self.box is None else 64)", "range(0)", "threat"),
    ("random start with the wrong radius law", "threat", "uniform ** (1 / normal[0].numel())", "uniform", "threat"),
    ("NaN radius accepted", "threat", "not math.isfinite(value) or value < low", "value < low", "threat"),
    ("ascent step with the wrong sign", "attacks", "alpha=size", "alpha=-size", "attacks"),
    ("random start dropped", "attacks", "if self.random_start else", "if False else", "attacks"),
    ("no projection after a step", "attacks", "project(delta.add_(self._direction(gradient), alpha=size))", "delta.add_(self._direction(gradient), alpha=size)", "attacks"),
    ("best iterate is the weakest", "attacks", "wins = values > best", "wins = values < best", "attacks"),
    ("last iterate not considered for the best", "attacks", "return _better(self._values(attacked, x + delta, y), delta, best, kept)[1]", "return kept", "attacks"),
    ("schedule counted from 0", "attacks", "self.schedule(step) if", "self.schedule(step - 1) if", "attacks"),
    ("training mode not restored", "attacks", "module.training = mode", "pass", "attacks"),
    ("requires_grad not restored", "attacks", "p.requires_grad_(requires)", "pass", "attacks"),
    ("buffers not restored", "attacks", "module._buffers[name] = buffer.copy_(value)", "pass", "attacks"),
    ("attack in training mode", "attacks", "        model.eval()\n", "", "attacks"),
    ("state not restored after an exception", "attacks", "        yield\n    finally:\n        for module, mode", "        yield\n    except ZeroDivisionError:\n        pass\n    else:\n        for module, mode", "attacks"),
    ("PGA takes sign steps", "attacks", "class PGA(PGD):", "class PGA(PGD):\n    x = 1\n\n\nclass _Unused(PGD):", "attacks"),
    ("margin over all classes", "attacks", "logits.masked_fill(true, -torch.inf).amax(1)", "logits.amax(1)", "attacks"),
    ("chunk ignored", "attacks", "most = chunk or (len", "most = len(many) or (len", "attacks"),
    ("labels not checked", "attacks", "check=step == 1", "check=False", "attacks"),
    ("off by one in the sort", "simplices", "excess.gather(-1, rho - 1)", "excess.gather(-1, (rho - 2).clamp_min(0))", "solver"),
    ("ascending sort", "simplices", "descending=True", "descending=False", "solver"),
    ("gap against the largest entry", "simplices", "self.least(r)[:, self.group])) @", "-self.least(-r)[:, self.group])) @", "solver"),
    ("vertex at the largest entry", "simplices", "self._rows(r).argmin(-1)", "self._rows(r).argmax(-1)", "solver"),
    ("linear term with the wrong sign", "solver", "[:, :, 0] - c", "[:, :, 0] + c", "solver"),
    ("blocked weights stay free", "solver", "free, new = free & ~blocked, new & ~blocked", "free, new = free, new & ~blocked", "solver"),
    ("active set starts as if its point were settled", "solver", "tol != tol", "tol == tol", "solver"),
    ("no proximal term", "solver", "(1e-14 * n + 2 * floor)", "(0 * n + 0 * floor)", "solver"),
    ("step of the accelerated method twice too long", "solver", "step = 1 / xp.linalg", "step = 2.5 / xp.linalg", "solver"),
    ("no away steps", "solver", "d = xp.where(go_toward, toward, away)", "d = toward", "solver"),
    ("indefinite matrices accepted", "solver", "if (lowest < -allowed).any():", "if False:", "solver"),
    ("scale not undone", "solver", "(squared * scale, gap", "(squared, gap", "solver"),
    ("bundle without its step length", "solver", "values.double() / t", "values.double()", "solver"),
    ("directional derivative is a minimum", "danskin", "simplices.vertex(-products[None])[0]", "simplices.vertex(products[None])[0]", "danskin"),
    ("ascent instead of descent", "danskin", "(-point / norm)", "(point / norm)", "danskin"),
    ("slope without its scale", "danskin", "simplices.group) * largest", "simplices.group)", "danskin"),
    ("Gram matrix accumulated in float32", "danskin", "(piece.double() for piece in pieces)", "(piece for piece in pieces)", "danskin"),
    ("certificate without the direction's length", "danskin", "* direction.double().norm().cpu()", "* 1", "danskin"),
    ("certificate at equality", "danskin", "bound < 0)", "bound <= 0)", "danskin"),
    ("two-sided quotient called one-sided", "danskin", "float(phi(theta))) / t", "float(phi(theta - t * direction))) / (2 * t)", "danskin"),
    ("per-sample gradients not divided by k", "product", "return gather(rows, 1) / k,", "return gather(rows, 1),", "product"),
    ("Frank-Wolfe goes to the largest slope", "product", "pick = slopes.argmin(0)", "pick = slopes.argmax(0)", "product"),
    ("weights of samples and perturbations swapped", "product", "torch.arange(rows.shape[1]).repeat(m)", "torch.arange(rows.shape[1]).repeat_interleave(m)", "product"),
    ("min takes the longest gradient", "descent", "gram.diagonal().argmin()", "gram.diagonal().argmax()", "descent"),
    ("max takes the weakest", "descent", "self.loss).argmax(0)", "self.loss).argmin(0)", "descent"),
    ("statistics moved by every column", "descent", "buffer.copy_(before)", "pass", "descent"),
    ("bundle without the losses", "descent", "bundle(gram, values.double().cpu(), self.t)", "bundle(gram, 0 * values.double().cpu(), self.t)", "descent"),
    ("ascent rule not normalised", "descent", 'in ("ddi", "comb", "product") if', 'in ("comb", "product") if', "descent"),
    ("weight decay forgotten in the product", "descent", "rows = rows + decay / parts", "rows = rows + 0 * decay / parts", "descent"),
    ("mirror images not mirrored", "data", "torch.where(flip[:, None], across.flip(0), across)", "torch.where(flip[:, None], across, across)", "rest"),
    ("crop off by one", "data", "torch.randint(2 * padding + 1, (2, batch)", "torch.randint(2 * padding, (2, batch)", "rest"),
    ("held-out images stay in the training set", "data", "x_train=self.x_train[rest]", "x_train=self.x_train[order]", "rest"),
    ("rows and columns of an image swapped", "data", "permute(0, 3, 1, 2).contiguous().float()", "permute(0, 3, 2, 1).contiguous().float()", "rest"),
    ("a fallen image may stand up again", "evaluate", "stands[left] &= _correct", "stands[left] = _correct", "evaluate"),
    ("standard error without its root", "evaluate", "return math.sqrt(self.value", "return (self.value", "evaluate"),
    ("learning rate never falls", "trainer", "epoch >= share", "epoch > 10**9 * share", "trainer"),
    ("optimiser not restored", "trainer", 'optimiser.load_state_dict(state["optimiser"])', "pass", "trainer"),
    ("attack generator not restored", "trainer", 'attacks.set_state(state["attacks"])', "pass", "trainer"),
    ("foreign checkpoint used", "checkpoint", 'if found["run"] == self.run:', "if True:", "trainer"),
    ("one generator for batches and attacks", "trainer", "now.attack, attacks)", "now.attack, batches)", "trainer"),
    ("infinite gradients taken", "trainer", "if not (math.isfinite", "if False and not (math.isfinite", "trainer"),
    ("checkpoints written in place", "checkpoint", 'path.with_suffix(".tmp")', "path", "trainer"),
    ("hash forgets the labels", "data", "self.y_train, self.x_test.float(), self.y_test)", "self.x_test.float())", "rest"),
    ("pair keeps the old labels", "data", "(y[keep] == one).long()", "y[keep]", "rest"),
    ("network not part of the run", "trainer", 'run["model"] = [(name, tuple(value.shape))', 'run["model"] = [(name, 0)', "experiment"),
    ("m never falls", "trainer", "(self.m_end - m) * epoch", "0 * epoch", "experiment"),
    ("second phase never begins", "trainer", "setting.epochs][-1]", "setting.epochs][0]", "experiment"),
    ("passes forgotten", "trainer", 'at["passes"] += rule', 'at["passes"] = rule', "experiment"),
    ("best epoch is the last", "trainer", 'if robust > at["best"]', "if True", "experiment"),
    ("best row is the worst", "record", '["robust"].argmax()', '["robust"].argmin()', "experiment"),
    ("arm of another kind laid over the base", "experiment", "| value if other else old | value", "| value if False else old | value", "experiment"),
    ("file stronger than overrides", "experiment", "[*point, *changes]", "[*changes, *point][:0]", "experiment"),
    ("fractions cut", "experiment", "float(Fraction(values[key]))", "float(Fraction(values[key]).numerator)", "experiment"),
    ("unknown keys pass", "experiment", "if key not in known:", "if False:", "experiment"),
    ("weights not seeded", "experiment", "torch.manual_seed(self.setting.seed)", "pass", "experiment"),
    ("processes do not sum their gradients", "parallel", "dist.all_reduce(tensor)", "pass", "experiment"),
    ("every process takes the same samples", "parallel", "slice(rank() * size, (rank() + 1) * size)", "slice(0, size)", "experiment"),
    ("random starts of the own share only", "attacks", "[:, part].flatten(0, 1), x.detach()[part]", "[:, : len(x[part])].flatten(0, 1), x.detach()[part]", "experiment"),
    ("comb counts its mixes as attacks", "descent", 'attacks = {"single": 1, "comb": 2}', 'attacks = {"single": 1}', "experiment"),
    ("bf16 in the gradients as well", "fast", 'self.kernels.precision == "bf16")', 'self.kernels.precision != "float32")', "fast"),
    ("attacks do not take their own path", "attacks", 'getattr(model, "attacked", model)', "model", "fast"),
    ("the line search proves too much", "product", "2 * gap - 2 * step * gap", "gap - 2 * step * gap", "product"),
    ("losses of the first perturbation only", "product", "return total(rows), part, gather(losses, 1)", "return total(rows), part, gather(losses[:1].expand_as(losses), 1)", "product"),
    ("gradients in another order than the weights", "descent", "torch.empty_like(parameter).copy_(part.view_as(parameter))", "part.view_as(parameter).clone()", "fast"),
    ("the compiler gives up after eight shapes", "fast", "recompile_limit, 64)", "recompile_limit, 8)", "fast"),
    ("a compiled network meets batches of all sizes", "fast", 'return self.kernels.compile != "off"', "return False", "fast"),
    ("a run that diverges stops the sweep", "__main__", "except FloatingPointError as error:  #", "except ZeroDivisionError as error:  #", "experiment"),
    ("a failed run marked complete", "record", "self._finish(kind is None)", "self._finish(True)", "rest"),
    ("writes not atomic", "record", 'path.with_name(path.name + ".tmp")', "path", "rest"),
]  # fmt: skip


def caught(module: str, old: str, new: str, tests: str) -> bool:
    """Whether the tests fail on a copy of the tree with the fault."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("ddi", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        path = copy / "ddi" / f"{module}.py"
        text = path.read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise SystemExit(f"ddi/{module}.py holds {text.count(old)} times, not once: {old!r}")
        path.write_text(text.replace(old, new), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:nbval",
            "-p",
            "no:cacheprovider",
        ]
        environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        target = str(copy / "tests" / f"test_{tests}.py")
        run = subprocess.run(
            [*command, target], cwd=copy, env=environment, capture_output=True, text=True
        )
        if run.returncode not in (0, 1):
            raise SystemExit(f"pytest itself failed:\n{run.stdout}\n{run.stderr}")
        return run.returncode == 1


def main() -> int:
    """Plant the faults whose description holds all given words; list what became of each."""
    chosen = [fault for fault in FAULTS if all(word in fault[0] for word in sys.argv[1:])]
    survived = 0
    for number, (what, module, old, new, tests) in enumerate(chosen, 1):
        found = caught(module, old, new, tests)
        survived += not found
        print(
            f"{number:3}/{len(chosen)}  {'caught  ' if found else 'SURVIVED'}  ddi/{module}.py: {what}",
            flush=True,
        )
    print(f"{len(chosen) - survived} of {len(chosen)} faults caught")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
