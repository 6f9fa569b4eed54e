"""The book's own rules: what every chapter and every table of claims must look like."""

import ast
import os
import re
import runpy
import statistics
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import takewhile
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
HIDDEN = {"hide-input", "hide-cell", "remove-cell", "remove-input"}
METADATA = ("tags", "mystnb")
LOCAL_PATH = re.compile(
    r"(?<![\w.])/(home|root|Users|tmp|var|work|opt|usr)/\w|[A-Z]:\\\\?\w|site-packages|ipykernel_"
)


@cache
def source(chapter: str) -> nbformat.NotebookNode:
    return jupytext.read(ROOT / "notebooks" / f"{chapter}.py")


@cache
def stored(chapter: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4)


def code_cells(chapter: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in stored(chapter).cells if cell.cell_type == "code"]


def prose(chapter: str) -> str:
    return "\n\n".join(
        cell.source for cell in source(chapter).cells if cell.cell_type == "markdown"
    )


@cache
def pages() -> dict[str, str]:
    """Every text of the book: the chapters' prose and the pages of book/."""
    texts = {chapter: prose(chapter) for chapter in CHAPTERS}
    return texts | {
        path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "book").glob("*.md"))
    }


@cache
def config() -> dict:
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))


def tags(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def lengths(chapter: str, hidden: bool) -> list[int]:
    return [
        len(c.source.splitlines()) for c in code_cells(chapter) if bool(tags(c) & HIDDEN) == hidden
    ]


def assertions(code: str) -> int:
    """How many assert statements, or calls of assert_something, a cell makes."""
    count = 0
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Assert) and not isinstance(node.test, ast.Constant):
            count += 1
        elif isinstance(node, ast.Call):
            name = (
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else getattr(node.func, "id", "")
            )
            count += name.startswith("assert_")
    return count


@cache
def checks() -> dict[str, tuple[str, int]]:
    """Every check's target -> its chapter and the number of its markdown cell."""
    found = {}
    for chapter in CHAPTERS:
        for index, cell in enumerate(source(chapter).cells):
            if cell.cell_type == "markdown":
                for target in re.findall(r"^\((check-[^)]*)\)=", cell.source, re.MULTILINE):
                    assert target not in found, (
                        f"{target} stands in {found[target][0]} and in {chapter}"
                    )
                    found[target] = (chapter, index)
    return found


# --- chapters -------------------------------------------------------------------------------------


def test_every_chapter_is_there():
    assert len(CHAPTERS) >= 7
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == set(CHAPTERS)
    assert [name[:2] for name in CHAPTERS] == [f"{k:02d}" for k in range(1, len(CHAPTERS) + 1)]


def test_table_of_contents_names_what_is_there():
    names = re.findall(r"(?:file|root): (\S+)", (ROOT / "_toc.yml").read_text(encoding="utf-8"))
    assert [name.split("/")[1] for name in names if name.startswith("notebooks/")] == CHAPTERS
    for name in names:
        assert (ROOT / f"{name}.ipynb").exists() or (ROOT / f"{name}.md").exists(), (
            f"_toc.yml names {name}"
        )


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_pair_agrees(chapter):
    ours, theirs = source(chapter), stored(chapter)
    assert len(ours.cells) > 10
    assert len(ours.cells) == len(theirs.cells), "make notebooks"
    for number, (one, two) in enumerate(zip(ours.cells, theirs.cells, strict=True)):
        assert one.cell_type == two.cell_type, f"cell {number}: make notebooks"
        assert one.source == two.source, f"cell {number}: make notebooks"
        for key in METADATA:
            assert one.metadata.get(key) == two.metadata.get(key), (
                f"cell {number}, {key}: make notebooks"
            )
    assert dict(theirs.metadata) == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
    }
    assert ours.metadata["jupytext"]["formats"] == "ipynb,py:percent"
    assert ours.metadata["jupytext"]["cell_metadata_filter"] == "tags,mystnb,-all"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_stored_outputs_are_complete_and_clean(chapter):
    cells = code_cells(chapter)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell.outputs for cell in cells)
    for number, cell in enumerate(cells, 1):
        for output in cell.outputs:
            assert output.output_type != "error", f"code cell {number} stores an error"
            assert output.get("name") != "stderr", (
                f"code cell {number} wrote to stderr: {output.text[:200]}"
            )
            data = output.get("data", {})
            text = output.get("text", "") + "".join(
                str(data[kind]) for kind in data if kind.startswith("text/")
            )
            assert not LOCAL_PATH.search(text), (
                f"code cell {number} shows a path: {LOCAL_PATH.search(text)}"
            )
            assert str(ROOT) not in text


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_cells_are_short(chapter):
    visible = lengths(chapter, hidden=False)
    assert len(visible) >= 5
    assert statistics.median(visible) <= 8
    assert max(visible) <= 30
    assert max(lengths(chapter, hidden=True)) <= 60


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_frame(chapter):
    text = prose(chapter)
    assert re.match(r"(\([\w-]+\)=\n)?# \S", text), "a chapter begins with its title"
    top = text[: text.index("\n## ")]
    places = [
        top.find(words)
        for words in ("What you will learn", "Before you start", "Time and hardware")
    ]
    assert -1 not in places and places == sorted(places), "the block at the top"
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    last = [
        next((i for i, h in enumerate(headings) if h.startswith(words)), -1)
        for words in ("Breaking it", "Summary")
    ]
    assert -1 not in last and last == sorted(last), "## Breaking it, then ## Summary"
    assert headings[-1] == "Exercises"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_exercises_have_folded_solutions(chapter):
    text = prose(chapter)
    exercises = re.findall(r"^[:`]{3,}\{exercise(?:-start)?\}.*\n:label: (\S+)", text, re.MULTILINE)
    solutions = re.findall(
        r"^[:`]{3,}\{solution(?:-start)?\} (\S+)\n((?::.*\n)*)", text, re.MULTILINE
    )
    assert len(exercises) >= 2
    assert Counter(exercises) == Counter(name for name, _ in solutions)
    for name, options in solutions:
        assert re.search(r"^:class:.*\bdropdown\b", options, re.MULTILINE), (
            f"the solution of {name} is not folded"
        )


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_figures(chapter):
    seen = 0
    for number, cell in enumerate(code_cells(chapter), 1):
        pictures = [
            o for o in cell.outputs if any(kind.startswith("image/") for kind in o.get("data", {}))
        ]
        options = cell.metadata.get("mystnb", {})
        if not pictures and "figure" not in options:
            continue
        seen += 1
        assert len(pictures) == 1, f"code cell {number}: one figure a cell, found {len(pictures)}"
        assert options.get("figure", {}).get("name", "").startswith("fig-"), (
            f"code cell {number}: no figure name"
        )
        assert len(options["figure"].get("caption", "").split()) >= 3, (
            f"code cell {number}: no caption"
        )
        assert len(options.get("image", {}).get("alt", "").split()) >= 5, (
            f"code cell {number}: no alt text"
        )
        name = options["figure"]["name"]
        assert re.search(rf"\{{numref\}}`(?:[^`<]*<)?{re.escape(name)}>?`", prose(chapter)), (
            f"{name} is never named"
        )
    assert seen >= 1


def test_every_target_exists():
    targets: list[str] = []
    for text in pages().values():
        targets += re.findall(r"^\(([\w-]+)\)=", text, re.MULTILINE)
        targets += re.findall(r"^\s*:(?:label|name): (\S+)", text, re.MULTILINE)
        targets += re.findall(r"\$\$ *\(([\w:-]+)\)", text)
    targets += [
        cell.metadata["mystnb"]["figure"]["name"]
        for chapter in CHAPTERS
        for cell in source(chapter).cells
        if "figure" in cell.metadata.get("mystnb", {})
    ]
    twice = [name for name, count in Counter(targets).items() if count > 1]
    assert not twice, f"defined twice: {twice}"
    references = 0
    for page, text in pages().items():
        for role, body in re.findall(r"\{(numref|eq|ref|prf:ref)\}`([^`]+)`", text):
            name = re.search(r"<([^<>]+)>$", body)
            name = name.group(1) if name else body
            references += 1
            assert name in targets, f"{page}: {{{role}}} to {name}, which is not there"
    assert references >= len(CHAPTERS)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_checks_assert(chapter):
    mine = {target: index for target, (where, index) in checks().items() if where == chapter}
    number = chapter[:2]
    assert list(mine) == [f"check-{number}-{k}" for k in range(1, len(mine) + 1)], (
        "numbered in order"
    )
    assert len(mine) >= 2
    cells = source(chapter).cells
    labels = re.findall(r"\*\*Check ([\d.]+\d)", prose(chapter))
    assert labels == [f"{number}.{k}" for k in range(1, len(mine) + 1)], "one paragraph a target"
    for target, index in mine.items():
        k = target.rsplit("-", 1)[1]
        head = rf"^\({target}\)=\n+\*\*Check {number}\.{k}\b"
        assert re.search(head, cells[index].source, re.MULTILINE), (
            f"({target})= stands above **Check {number}.{k}**"
        )
        after = list(takewhile(lambda cell: cell.cell_type == "code", cells[index + 1 :]))
        seen = sum(assertions(cell.source) for cell in after if "remove-cell" not in tags(cell))
        wanted = sum(other == index for other in mine.values())
        assert seen >= wanted, (
            f"{target}: the code up to the next prose does not assert (where a reader can see it)"
        )


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_tolerances_are_what_they_say(chapter):
    """With atol alone, allclose adds a relative tolerance of 1e-5 that no reader sees."""
    for number, cell in enumerate(code_cells(chapter), 1):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in (
                "allclose",
                "isclose",
            ):
                given = {keyword.arg for keyword in node.keywords}
                assert "atol" not in given or "rtol" in given, (
                    f"code cell {number}: atol without rtol, line {node.lineno}"
                )


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_colab_cell(chapter):
    first = code_cells(chapter)[0]
    assert tags(first) == {"remove-cell"}
    cell = runpy.run_path(str(ROOT / "book" / "tools" / "colab.py"))["cell"]
    assert first.source == cell(), "python book/tools/colab.py puts it into every chapter"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_runs_as_a_plain_script(chapter, tmp_path):
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "notebooks" / f"{chapter}.py")]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not any(tmp_path.iterdir()), "a chapter leaves no files behind"


# --- claims and errata ----------------------------------------------------------------------------


def rows(name: str) -> list[str]:
    """The body rows of every pipe table of a page."""
    lines = (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8").splitlines()
    rule = re.compile(r"\|?[\s:|-]*-{3}[\s:|-]*$")
    table = [i for i, line in enumerate(lines) if line.lstrip().startswith("|")]
    heads = {i for i in table if i + 1 < len(lines) and rule.match(lines[i + 1].strip())}
    return [lines[i] for i in table if i not in heads and not rule.match(lines[i].strip())]


@pytest.mark.parametrize(("name", "least"), [("claims", 30), ("errata", 5)])
def test_every_row_has_its_check(name, least):
    found = rows(name)
    assert len(found) >= least
    for row in found:
        links = re.findall(r"\{ref\}`(\d\d\.\d+) <(check-[\w-]+)>`", row)
        links += re.findall(r"\[(\d\d\.\d+)\]\(#(check-[\w-]+)\)", row)
        assert links, f"{name}: no check in: {row[:120]}"
        assert row.count("check-") == len(links), (
            f"{name}: a link to a check reads 03.2, in: {row[:120]}"
        )
        for text, target in links:
            assert target in checks(), f"{name}: {target} is not there, in: {row[:120]}"
            assert target == f"check-{text.replace('.', '-')}", f"{name}: {text} leads to {target}"


def test_every_slide_of_the_lecture_has_a_check():
    table = (ROOT / "book" / "claims.md").read_text(encoding="utf-8").partition("slide by slide")[2]
    slides = re.split(r"^\* - ", table, flags=re.MULTILINE)[2:]
    assert len(slides) > 25
    for slide in slides:
        assert re.search(r"\{ref\}`\d\d\.\d+ <check-", slide), f"no check: {slide[:100]}"


def test_every_claim_has_a_verdict():
    for row in rows("claims"):
        assert re.search(r"\b(holds|false|open)\b", row, re.IGNORECASE), (
            f"no verdict in: {row[:120]}"
        )


# --- the front door -------------------------------------------------------------------------------


def test_readme_names_the_two_commands():
    head = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40])
    assert "make book" in head and "make test" in head
