"""The tools that say which check fails where: book/tools/{watch,portable,failures}.py; and make."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import failures
import portable
import pytest

ROOT = Path(__file__).resolve().parents[1]


CHAPTER = """\
# %% [markdown]
# **Check 03.1** *(draws).*

# %%
import torch

x = torch.rand(4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
print(f"{x[0]:.12f}")

# %% [markdown]
# **Check 03.2** *(bounds).*

# %%
for value in (0.5, 0.9):
    assert value < 0.8 and 0.1 < value, "too large"
assert (x > -1).all() and all(v < 2 for v in (0.5, 1.9))

# %%
# NBVAL_IGNORE_OUTPUT
print("seconds")
assert 1 + 1 == 3

# %% tags=["nbval-ignore-output"]
print("minutes")
"""


@pytest.fixture
def chapter(tmp_path: Path) -> Path:
    path = tmp_path / "03_draws.py"
    path.write_text(CHAPTER, encoding="utf-8")
    return path


def watched(path: Path, *options: str) -> dict:
    command = [sys.executable, str(ROOT / "book/tools/watch.py"), str(path), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_watch_finds_every_failure_and_both_sides_of_each_bound(chapter):
    found = watched(chapter)
    assert {line: (f["label"], f["cell"], f["times"]) for line, f in found["failures"].items()} == {
        "15": ("check 03.2", 3, 1),
        "21": ("check 03.2", 4, 1),
    }
    assert found["sides"]["15.0/0"] == [0.9, "<", 0.8]  # the nearest of the loop, which failed
    assert found["sides"]["15.1/0"] == [0.1, "<", 0.5]
    assert found["sides"]["16.1/0"] == [1.9, "<", 2.0]
    assert list(found["printed"]) == ["1"]  # what may differ is not compared


def test_seeds_and_noise_reach_the_draws(chapter):
    import torch

    def first(seed):
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(4, generator=generator, dtype=torch.float64)[0].item()

    shifted = float(watched(chapter, "--shift", "1000")["printed"]["1"])
    noisy = float(watched(chapter, "--noise", "1e-3")["printed"]["1"])
    assert shifted == pytest.approx(first(1005), abs=1e-11) and abs(shifted - first(5)) > 1e-3
    assert first(5) * (1 - 1e-3) <= noisy < first(5) * (1 - 1e-6)


def test_an_emulation_is_in_force():
    environment = portable.environment(portable.CASES["sse"], sys.executable)
    code = "import torch, json; print(torch.backends.cpu.get_cpu_capability())\n" + portable.NUMPY
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    capability, left = done.stdout.split("\n")[:2]
    assert capability == "DEFAULT" and left == ""


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ([(1.0, "<", 2.0), (1.6, "<", 2.0)], 0.2),
        ([(3.0, ">", 2.0), (1.9, ">", 2.0), (3.0, ">", 2.0)], -0.1 / 3),
        ([(0.97, ">", 0.9)] * 2, 0.7),  # three in a hundred where ten may
        ([(5.0, ">", 0.0), (1.0, ">", 0.0), (9.0, ">", 0.0)], 0.2),  # to the median, 5
    ],
)
def test_room(sides, expected):
    assert portable.room(sides) == pytest.approx(expected)


def test_differing_lines_are_named():
    found, reference = {"printed": {"7": "a\nb\n"}}, {"printed": {"7": "a\nc\n", "9": "d\n"}}
    assert portable.differences(found, reference) == [
        "cell 7: 'b', not 'c'",
        "cell 9: 0 lines, not 1",
    ]


def test_a_failed_build_names_check_cell_and_line(chapter, tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    chapter.rename(tmp_path / "notebooks" / chapter.name)
    report = tmp_path / "_build/html/reports/notebooks/03_draws.err.log"
    report.parent.mkdir(parents=True)
    cell = CHAPTER.split("# %%\n")[2].split("\n\n# %%")[0]
    rule = "-" * 18
    report.write_text(
        f"An error occurred:\n{rule}\n{cell}\n{rule}\n\n\x1b[31mAssertionError\x1b[39m  Traceback\n"
        "Cell In[2], line 2\n      1 for value in (0.5, 0.9):\n"
        '----> 2     assert value < 0.8 and 0.1 < value, "too large"\n\nAssertionError: too large\n'
    )
    monkeypatch.setattr(failures, "ROOT", tmp_path)
    said = failures.described(report)
    assert "check 03.2, cell 3, line 15 of notebooks/03_draws.py" in said
    assert "assert value < 0.8" in said and "error: AssertionError: too large" in said


TOOL = """#!/bin/sh
printf '%s\\n' "$0 $*" >> "$CALLS"
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("name", ["book", "it's a book"])
def test_make_works_in_a_folder_of_any_name(tmp_path, name):
    """With tools that only say how they were called."""
    folder = tmp_path / name
    tools = folder / ".venv" / "bin"
    tools.mkdir(parents=True)
    for tool in ("python", "jupyter-book", "jupyter", "ruff", "mypy", "twine"):
        (tools / tool).write_text(TOOL)
        (tools / tool).chmod(0o755)
    for file in ("Makefile", "_config.yml", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / file, folder)
    shutil.copy(ROOT / "requirements.txt", folder / "requirements-dev.txt")
    calls = tmp_path / "calls"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CALLS": str(calls)}
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
    for target in "book preview notebooks test portable mutants lint pages lab dist".split():
        calls.write_text("")
        run = subprocess.run(["make", target], **options)
        assert run.returncode == 0, run.stderr
        made = calls.read_text().splitlines()
        assert all(call.startswith(f"{tools}/") for call in made)
        installs = [call for call in made if "pip install" in call and "requirements.txt" in call]
        assert len(installs) == (target == "book")  # the environment is made once
        assert target != "lint" or f"{tools}/mypy --python-executable {tools}/python" in made
        assert target not in ("book", "preview") or f"file://{folder}/_build" in run.stdout
