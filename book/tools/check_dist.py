"""What is in dist/: one wheel that holds the package alone, and one source distribution that holds
the tests and all they need.

    python book/tools/check_dist.py
"""

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("benchmarks", "book", "experiments", "notebooks", "results", "tests")
KINDS = {".py", ".ipynb", ".md", ".toml", ".json", ".csv", ".yml", ".cff", ".css", ".png", ".svg"}


def findings(dist: Path, root: Path) -> list[str]:
    """What is missing, and what should not be there."""
    wheels, sources = sorted(dist.glob("*.whl")), sorted(dist.glob("*.tar.gz"))
    if (len(wheels), len(sources)) != (1, 1):
        return [f"one wheel and one source distribution are needed, found {[*wheels, *sources]}"]
    inside = set(zipfile.ZipFile(wheels[0]).namelist())
    package = {f"ddi/{path.name}" for path in (root / "ddi").glob("*.py")} | {"ddi/py.typed"}
    found = [f"the wheel lacks {name}" for name in sorted(package - inside)]
    strange = {n for n in inside if n.split("/")[0] != "ddi" and ".dist-info/" not in n}
    found += [f"the wheel should not hold {name}" for name in sorted(strange)]
    with tarfile.open(sources[0]) as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}
    files = [p for room in ROOMS for p in (root / room).rglob("*") if p.suffix in KINDS]
    names = {path.relative_to(root).as_posix() for path in files} | package
    return found + [f"the source distribution lacks {name}" for name in sorted(names - shipped)]


if __name__ == "__main__":
    said = findings(ROOT / "dist", ROOT)
    print("\n".join(said) or "the wheel and the source distribution hold what they should")
    sys.exit(len(said) > 0)
