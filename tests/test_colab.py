"""The chapters' hidden cell, run as Colab would run it, against a local clone; and where the book's
records are looked for.
"""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ddi.clone import repository

ROOT = Path(__file__).resolve().parents[1]
TOOL = runpy.run_path(str(ROOT / "book" / "tools" / "colab.py"))
IN_COLAB = 'import sys, types; sys.modules["google.colab"] = types.ModuleType("google.colab")\n'
PIP = """
import subprocess
run = subprocess.run
def only_git(command, **options):
    if command[1:3] == ["-m", "pip"]:
        assert command[3:5] == ["install", "--quiet"] and command[5] == "-e", command
        print("installed", command[6])
    else:
        return run(command, **options)
subprocess.run = only_git
"""


@pytest.fixture
def bare(tmp_path):
    """The repository, as an address to clone from: the files that matter here, committed."""
    work, address = tmp_path / "work", tmp_path / "book.git"
    work.mkdir()
    for name in ("ddi", "results"):
        shutil.copytree(ROOT / name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_toc.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, work / name)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(work)]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "book"]):
        subprocess.run([*git, *command], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(address)], check=True)
    return address


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """In a Python without ``ddi`` on its path: one that is installed is not looked for."""
    hide = f"import sys; sys.path[:] = [p for p in sys.path if p not in ('', {str(ROOT)!r})]\n"
    hide += "sys.meta_path = [f for f in sys.meta_path if 'editable' not in str(f).lower()]\n"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-c", hide + code]
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
    return subprocess.run(command, **options)


def test_in_colab_the_cell_clones_and_installs_in_place_and_records_are_found(bare, tmp_path):
    folder = tmp_path / "content"
    folder.mkdir()
    text = TOOL["CELL"].replace("{url}", f"file://{bare}")
    missing = "import importlib.util; importlib.util.find_spec = lambda name: None\n"
    check = (
        "\nfrom ddi.clone import repository; import ddi; print(ddi.__file__); print(repository())"
    )
    done = run(missing + IN_COLAB + PIP + text + check, folder)
    assert done.returncode == 0, done.stderr[-2000:]
    clone = folder / "ddi-book"
    assert done.stdout.splitlines() == [
        f"installed {clone}",
        str(clone / "ddi" / "__init__.py"),
        str(clone),
    ]
    again = run(missing + IN_COLAB + PIP + text, folder)  # the clone is there already
    assert again.returncode == 0, again.stderr[-2000:]


def test_without_an_address_it_says_what_to_do(tmp_path):
    missing = "import importlib.util; importlib.util.find_spec = lambda name: None\n"
    done = run(missing + IN_COLAB + TOOL["CELL"].replace("{url}", ""), tmp_path)
    assert done.returncode == 1 and "git clone ADDRESS" in done.stderr


def test_anywhere_else_it_does_nothing(tmp_path):
    done = run(TOOL["CELL"].replace("{url}", "file:///nowhere"), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not any(tmp_path.iterdir())


def test_records_are_found_from_a_clone_and_otherwise_a_reader_is_told(tmp_path, monkeypatch):
    assert repository() == ROOT
    copy = tmp_path / "site" / "ddi"
    shutil.copytree(ROOT / "ddi", copy, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"import sys; sys.path.insert(0, {str(copy.parent)!r})\n"
    code += "from ddi.clone import repository; print(repository())"
    inside = run(code, ROOT / "notebooks")
    assert inside.stdout.strip() == str(ROOT), inside.stderr[-2000:]
    outside = run(code, tmp_path)
    assert outside.returncode == 1 and "FileNotFoundError" in outside.stderr
    assert "clone" in outside.stderr and str(tmp_path) in outside.stderr


def test_the_cell_is_put_into_source_and_notebook_and_nothing_else_changes(tmp_path):
    for name in ("02_danskin.py", "02_danskin.ipynb"):
        shutil.copy(ROOT / "notebooks" / name, tmp_path / name)
    source = tmp_path / "02_danskin.py"
    book = tmp_path / "02_danskin.ipynb"
    before = source.read_text(), book.read_text()
    TOOL["put"](source, "x = 1\ny = 2")
    assert '# %% tags=["remove-cell"]\nx = 1\ny = 2\n\n# %%' in source.read_text()
    assert '"x = 1\\n",\n    "y = 2"' in book.read_text()
    first = before[0].split('tags=["remove-cell"]\n')[1].split("\n\n# %%")[0]
    TOOL["put"](source, first)
    assert (source.read_text(), book.read_text()) == before
