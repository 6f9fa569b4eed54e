"""Faults of high meaning, planted one at a time by ``mutants.py --planted``: each breaks a promise of the
package in one place, and the tests must notice. A place is a function or class and a piece of its syntax,
so that neither line breaks nor comments nor quotes matter.
"""

import ast
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """In ``where`` of ``ddi/<module>.py`` (``""``: anywhere in it) the code ``old`` stands exactly once and
    becomes ``new``.
    """

    what: str
    module: str
    where: str
    old: str
    new: str

    def plant(self, source: str) -> str:
        """The module with the fault, or ``LookupError``."""
        tree = ast.parse(source)
        old, new = _syntax(self.old), _syntax(self.new)
        nodes = [node for node in ast.walk(_scope(tree, self.where)) if type(node) is type(old)]
        places = [node for node in nodes if ast.unparse(node) == ast.unparse(old)]
        if len(places) != 1:
            raise LookupError(
                f"{self.what}: {self.where or 'ddi/' + self.module + '.py'} must hold it once, "
                f"and holds it {len(places)} times: {self.old}"
            )
        place = places[0]
        if isinstance(new, ast.stmt) and isinstance(place, ast.expr):  # a call that stands alone
            alone = (n for n in ast.walk(tree) if isinstance(n, ast.Expr) and n.value is place)
            place = next(alone)
        return ast.unparse(ast.fix_missing_locations(_Replace(place, new).visit(tree)))


def _syntax(code: str) -> ast.expr | ast.stmt:
    (node,) = ast.parse(code).body
    return node.value if isinstance(node, ast.Expr) else node


def _scope(tree: ast.AST, where: str) -> ast.AST:
    for name in filter(None, where.split(".")):
        kinds = (ast.FunctionDef, ast.ClassDef)
        found = [node for node in ast.walk(tree) if isinstance(node, kinds) and node.name == name]
        if len(found) != 1:
            raise LookupError(f"{where}: {name} is there {len(found)} times")
        tree = found[0]
    return tree


class _Replace(ast.NodeTransformer):
    def __init__(self, place: ast.AST, new: ast.AST) -> None:
        self.place, self.new = place, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.place else self.generic_visit(node)


# fmt: off
PLANTED = [
    Fault("project_simplex: sorted upwards", "simplices", "_project", "-np.sort(-v, axis=-1)", "np.sort(v, axis=-1)"),
    Fault("contains: the box is not looked at", "threat", "Threat.contains", "inside & (self.norm(delta) <= self.eps + atol)", "self.norm(delta) <= self.eps + atol"),
    Fault("standard error without its root", "evaluate", "Accuracy.standard_error", "math.sqrt(self.value * (1 - self.value) / self.n)", "self.value * (1 - self.value) / self.n"),
    Fault("a damaged checkpoint: its digest is not checked", "checkpoint", "load_weights", "sha256 is not None and sha256 != digest(found)", "False"),
    Fault("two at once: the lock is not taken", "checkpoint", "Lock", "fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)", "None"),
    Fault("a damaged checkpoint pushes out the one before", "checkpoint", "Checkpoints.save", "self._sound and self.newest.exists()", "self.newest.exists()"),
    Fault("the caller's generator is not given back", "trainer", "_own_randomness", "torch.random.fork_rng([device] if device.type == 'cuda' else [])", "nullcontext()"),
    Fault("milestones by a floating product", "plan", "Setting.reached", "epoch >= Fraction(share).limit_denominator(10**6) * self.epochs", "epoch >= share * self.epochs"),
    Fault("evaluation in train mode", "state", "frozen", "model.eval()", "model.train()"),
    Fault("a network's own code is not in its identity", "identity", "network", "_own_code(module)", "[]"),
]
