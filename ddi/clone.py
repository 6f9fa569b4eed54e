"""Where the book's own files are: its recorded runs, experiments and benchmarks are in the
repository, not in the package.
"""

from pathlib import Path

__all__ = ["repository"]


def repository() -> Path:
    """The folder of the clone of this book that the package is imported from, or else that the
    working directory lies in; ``results/``, ``experiments/`` and ``benchmarks/`` are there.

    Raises:
        FileNotFoundError: if neither is a clone, saying how to get one.
    """
    here = Path.cwd()
    for folder in (Path(__file__).resolve().parents[1], here, *here.parents):
        if (folder / "_toc.yml").is_file() and (folder / "results").is_dir():
            return folder
    raise FileNotFoundError(
        "the recorded runs are in the book's repository, and neither the package nor "
        f"{here} lies in a clone of it: clone it, and start this page there, or install it in "
        "place (python -m pip install -e .)"
    )
