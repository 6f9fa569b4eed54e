"""Execute the chapters: notebooks/NN_name.py (the source of truth) -> notebooks/NN_name.ipynb, with
outputs.

    python book/tools/notebooks.py              every chapter python book/tools/notebooks.py 02 05
    these chapters python book/tools/notebooks.py --check 02   execute and compare with what is
    stored; write nothing

The result depends on nothing but the source and what it computes: cell ids come from the file's
name and the cell's place, no time is recorded, and the kernel's version is left out. A second run
writes the same bytes.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

import jupytext
import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
SECONDS_PER_CELL = 300
ADDRESS = re.compile(r'^REPOSITORY = ".*?"', re.MULTILINE)


def chapters(wanted: list[str]) -> list[Path]:
    """The chapters' sources, in order: all, or those whose numbers (or names) are wanted."""
    found = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
    if not wanted:
        return found
    for name in wanted:
        if not any(path.stem in (name, Path(name).stem) or path.stem[:2] == name for path in found):
            there = ", ".join(p.stem for p in found) or "none"
            sys.exit(f"notebooks.py: there is no chapter {name!r}; I see {there}")
    return [
        p
        for p in found
        if any(p.stem in (name, Path(name).stem) or p.stem[:2] == name for name in wanted)
    ]


def set_repository(source: Path) -> None:
    """Copy repository.url of _config.yml into the chapter's Colab cell, if it is not there yet."""
    url = (
        yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8")).get("repository") or {}
    ).get("url") or ""
    text = source.read_text(encoding="utf-8")
    updated = ADDRESS.sub(lambda _: f'REPOSITORY = "{url}"', text)
    if updated != text:
        source.write_text(updated, encoding="utf-8")


def executed(source: Path) -> str:
    """The chapter as an executed notebook, as text."""
    notebook = jupytext.read(source)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for index, cell in enumerate(notebook.cells):
        cell.id = f"{source.stem.replace('_', '-')[:56]}-{index:03d}"
    NotebookClient(
        notebook,
        timeout=SECONDS_PER_CELL,
        kernel_name=KERNEL["name"],
        resources={"metadata": {"path": str(source.parent)}},
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=40"],  # the kernel's own warnings are not the reader's
    ).execute()
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL})  # the kernel added its version
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def treated(source: Path, check: bool) -> str:
    """What became of a chapter: executed, and compared with what is stored or stored."""
    if not check:
        set_repository(source)
    try:
        text = executed(source)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return f"FAILED\n{error}"
    target = source.with_suffix(".ipynb")
    if target.exists() and target.read_text(encoding="utf-8") == text:
        return "unchanged"
    if check:
        return "DIFFERS from the stored notebook"
    part = target.with_suffix(".ipynb.part")
    part.write_text(text, encoding="utf-8")
    part.replace(target)
    return "stored"


def main() -> None:
    """Treat the chapters one after the other; exit with 1 if one failed or differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "chapters", nargs="*", help="numbers or names, for example 02 05; none means all"
    )
    parser.add_argument(
        "--check", action="store_true", help="compare with the stored notebooks, write nothing"
    )
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ.pop("MPLBACKEND", None)  # a kernel chooses its inline backend itself

    sources = chapters(arguments.chapters)
    if not sources:
        sys.exit(f"notebooks.py: no chapter in {FOLDER}")
    bad = []
    for number, source in enumerate(sources, 1):
        print(f"[{number}/{len(sources)}] {source.stem} ...", end=" ", flush=True)
        start = time.perf_counter()
        verdict = treated(source, arguments.check)
        print(f"{verdict}, {time.perf_counter() - start:.1f} s", flush=True)
        if verdict not in ("unchanged", "stored"):
            bad.append(source.stem)
    if bad:
        sys.exit(f"notebooks.py: {len(bad)} of {len(sources)} chapters failed: {', '.join(bad)}")


if __name__ == "__main__":
    main()
