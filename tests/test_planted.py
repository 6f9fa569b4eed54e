"""The planted faults still fit the code."""

import ast

import pytest
from mutants import ROOT
from planted import PLANTED, Fault

CODE = """
class A:
    size: int = 3

    def f(self, x):
        "A docstring."
        # a comment
        y = (x +
             1)
        g(x)
        return y if x else "a"
"""


@pytest.mark.parametrize("fault", PLANTED, ids=lambda fault: fault.what)
def test_a_planted_fault_fits_once_and_changes_the_code(fault: Fault) -> None:
    source = (ROOT / fault.path).read_text(encoding="utf-8")
    assert fault.plant(source) != ast.unparse(ast.parse(source))
    file, _, name = fault.node.partition("::")
    assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")


def test_no_fault_is_planted_twice() -> None:
    assert len({fault.what for fault in PLANTED}) == len(PLANTED)
    assert len({(f.module, f.where, f.old, f.new) for f in PLANTED}) == len(PLANTED)


@pytest.mark.parametrize(
    "where, old, new, line",
    [
        ("A.f", "x + 1", "x - 1", "y = x - 1"),
        ("A.f", "g(x)", "pass", "pass"),
        ("A.f", "return y if x else 'a'", "return y", "return y"),
        ("A", "size: int = 3", "size: int = 4", "size: int = 4"),
        ("", '"a"', '"b"', "return y if x else 'b'"),
    ],
)
def test_a_fault_is_found_by_its_syntax(where: str, old: str, new: str, line: str) -> None:
    broken = Fault("", "", where, old, new, "").plant(CODE)
    before, after = (
        set(map(str.strip, code.splitlines())) for code in (ast.unparse(ast.parse(CODE)), broken)
    )
    assert after - before == {line}


@pytest.mark.parametrize("where, old", [("A.f", "x + 2"), ("A.f", "x"), ("A.h", "x"), ("B", "x")])
def test_a_fault_that_fits_nowhere_or_twice_is_an_error(where: str, old: str) -> None:
    with pytest.raises(LookupError):
        Fault("", "", where, old, "y", "").plant(CODE)
