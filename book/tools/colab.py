"""The hidden first cell of every chapter: in Colab it clones the repository and installs it in
place, so that the chapter finds the recorded runs beside the package.

    python book/tools/colab.py      put the cell into every chapter, its source and its notebook
"""

import json
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
HEAD = '# %% tags=["remove-cell"]\n'
CELL = """\
# Only in Colab: fetch the book and install it in place. Anywhere else this cell does nothing.
import importlib.util
import subprocess
import sys
from pathlib import Path

REPOSITORY = "{url}"  # `make notebooks` copies repository.url of _config.yml here
if "google.colab" in sys.modules and importlib.util.find_spec("ddi") is None:
    if not REPOSITORY:
        raise RuntimeError("First run `!git clone ADDRESS ddi-book`, then `%pip install -e ddi-book`, and restart.")
    clone = str(Path("ddi-book").resolve())
    if not Path(clone).exists():
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", REPOSITORY, clone], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-e", clone], check=True)
    sys.path.insert(0, clone)  # an installation in place is seen from the next start on"""  # noqa: E501


def cell(root: Path = ROOT) -> str:
    """The cell with the address that _config.yml names."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    return CELL.replace("{url}", (config.get("repository") or {}).get("url") or "")


def put(source: Path, text: str) -> None:
    """Into the chapter's source, and into its notebook, of which nothing else changes."""
    before, head, rest = source.read_text(encoding="utf-8").partition(HEAD)
    if not head:
        raise ValueError(f"{source.name} has no hidden cell")
    old, mark, after = rest.partition("\n\n# %%")
    source.write_text(before + head + text + mark + after, encoding="utf-8")
    path = source.with_suffix(".ipynb")
    notebook = path.read_text(encoding="utf-8")
    first = next(c for c in json.loads(notebook)["cells"] if c["cell_type"] == "code")
    if "".join(first["source"]).strip() != old.strip():
        raise ValueError(f"{path.name} and {source.name} disagree in the hidden cell")
    lines = json.dumps({"source": first["source"]}, indent=1, ensure_ascii=False)[1:-2]
    ours = json.dumps({"source": text.splitlines(True)}, indent=1, ensure_ascii=False)[1:-2]
    deeper = [block.replace("\n", "\n  ") for block in (lines, ours)]
    if notebook.count(deeper[0]) != 1:
        raise ValueError(f"{path.name} is not written as `make notebooks` writes it")
    path.write_text(notebook.replace(*deeper), encoding="utf-8")


if __name__ == "__main__":
    for chapter in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py")):
        put(chapter, cell())
