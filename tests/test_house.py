"""The rules of the house: what every module of the package and every program beside it must look
like, and what must agree with what.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

import ddi

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "ddi").glob("*.py"))
ROOMS = ("benchmarks", "book/tools", "experiments")
TOOLS = [path for room in ROOMS for path in sorted((ROOT / room).glob("*.py"))]

# Imports point to the left, and every module has its place.
ORDER = (
    "_checks _words moved state threat coupling losses adversary attacks beta objectives simplices "
    "quadratic solver danskin parallel gradients samples product combine descent sharpness models "
    "data evaluate naming identity clone checkpoint record samplers plan trainer kernels tables "
    "experiment plots measure commands page __main__"
).split()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Every function with its lines, without its docstring and the decorators."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = ast.get_docstring(node) is not None
            words = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            yield node.name, (node.end_lineno or 0) - node.lineno + 1 - words


def inner_imports(path: Path) -> set[str]:
    """The modules of ddi that a module of ddi imports."""
    found = set()
    modules = {module.stem for module in PACKAGE}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            assert not any(a.name == "ddi" for a in node.names), f"{path.name} imports the whole"
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("ddi.")}
        elif isinstance(node, ast.ImportFrom):
            full = f"ddi.{node.module or ''}".rstrip(".") if node.level else node.module or ""
            if full == "ddi":
                found |= {alias.name for alias in node.names}
            elif full.startswith("ddi."):
                found.add(full.split(".")[1])
    assert found <= modules, f"{path.name} imports {found - modules}"
    return found


# --- the code -------------------------------------------------------------------------------------


def test_imports_point_one_way():
    graph = {path.stem: inner_imports(path) for path in PACKAGE if path.stem != "__init__"}
    assert sum(map(len, graph.values())) >= 20
    TopologicalSorter(graph).prepare()  # raises CycleError where there is a circle
    for name, wanted in graph.items():
        below = set(ORDER[ORDER.index(name) :])
        assert not wanted & below, f"ddi/{name}.py imports {sorted(wanted & below)}"


@pytest.mark.parametrize(
    "path", [*PACKAGE, *TOOLS], ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_modules_and_functions_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 350
    long = {name: lines for name, lines in functions(path) if lines >= 40}
    assert not long, f"functions of 40 lines and more: {long}"


def test_public_names_differ_by_more_than_their_case():
    twice = [name for name, count in Counter(map(str.lower, ddi.__all__)).items() if count > 1]
    assert not twice


def test_public_names_are_there_and_documented():
    for name in ddi.__all__:
        thing = getattr(ddi, name)
        assert not callable(thing) or (thing.__doc__ or "").strip(), name


def test_the_benchmark_builds_on_public_names():
    public = {*ddi.__all__, *(path.stem for path in PACKAGE if not path.stem.startswith("_"))}
    seen = 0
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ddi"):
                assert node.module == "ddi", f"{path.name} reaches into {node.module}"
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "ddi":
                names = {node.attr}
            else:
                continue
            seen += 1
            assert names <= public, f"{path.name}: {names - public}"
    assert seen >= 10


def test_importing_the_package_says_nothing():
    command = [sys.executable, "-c", "import ddi"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_package_is_typed():
    assert (ROOT / "ddi" / "py.typed").exists()


# --- the front door -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_one_version_everywhere(project):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert ddi.__version__ == project["version"] == str(citation["version"])
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {ddi.__version__}\n" in changes


def test_requirements_agree_with_the_package(project):
    wanted = set((ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines())
    extras = project["optional-dependencies"]
    own = {*project["dependencies"], *extras["book"], *extras["test"]}
    assert "torch>=2.11,!=2.13.*" in own
    assert own <= wanted, f"missing in requirements.txt: {own - wanted}"


def test_constraints_name_every_direct_requirement():
    names = re.compile(r"^([A-Za-z0-9_.-]+)", re.MULTILINE)
    wanted = names.findall((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    wanted = {name.lower().replace("_", "-") for name in wanted if not name.startswith("-")}
    locked = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    fixed = dict(re.findall(r"^([A-Za-z0-9_.-]+)==([0-9][\w.]*)$", locked, re.MULTILINE))
    missing = wanted - {name.lower().replace("_", "-") for name in fixed}
    assert wanted and not missing, f"constraints.txt lacks {missing}"


def test_contributing_names_files_and_tests_that_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    ways = {part.splitlines()[0]: part for part in parts if part.startswith("A")}
    assert len(ways) >= 7
    for title, part in ways.items():
        paths = re.findall(r"`((?:\w+/)+[\w./]+)`", part)
        assert any(path.startswith("tests/") for path in paths), f"{title}: no test"
        assert any(not path.startswith("tests/") for path in paths), f"{title}: no file"
        for path in paths:
            assert (ROOT / path).exists(), f"{title}: {path} is not there"


def test_the_answer_on_the_first_pages_is_what_the_records_say():
    import answer

    for page in answer.PAGES:
        assert answer.held(page) == answer.answer(page), "python book/tools/answer.py --write"
        assert len(answer.held(page).splitlines()) >= 8
