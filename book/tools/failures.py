"""Say at the end of a failed build which chapter failed, in which check, cell and line.

    python book/tools/failures.py        reads the reports that the build left under _build/

`make book` prints pages of warnings after a chapter's error; the reader should not have to search.
"""

import re
import sys
from pathlib import Path

from watch import cells, label

ROOT = Path(__file__).resolve().parents[2]
RULE = "-" * 18  # nbclient's line before and after the cell's source
REPORT = """\
If the chapter is as you got it, please report this with what the next command prints (versions,
processor), and the lines above:

    .venv/bin/python -m ddi report
"""


def cell_of(source: str, lines: list[str]) -> tuple[int, int]:
    """The number of the cell with this source, and its first line in the chapter."""
    wanted = source.strip()
    for number, (first, last, code) in enumerate(cells(lines)):
        if code and "\n".join(lines[first:last]).strip() == wanted:
            blank = next(i for i, line in enumerate(lines[first:last]) if line.strip())
            return number, first + 1 + blank
    return 0, 1


def described(report: Path) -> str:
    """What a report says, in four lines."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", report.read_text(encoding="utf-8", errors="replace"))
    name = re.sub(r"(\.err)?\.log$", "", report.name)
    chapter = ROOT / "notebooks" / f"{name}.py"
    error = next((s for s in reversed(text.splitlines()) if s.strip()), "no message")
    said = [f"{name} FAILED"]
    parts = re.split(rf"^{RULE}$", text, flags=re.MULTILINE)
    if chapter.exists() and len(parts) > 2:
        lines = chapter.read_text(encoding="utf-8").splitlines()
        number, first = cell_of(parts[1], lines)
        arrows = re.findall(r"^-+> (\d+) ?(.*)$", parts[2], re.MULTILINE)
        inside, stopped = arrows[0] if arrows else ("1", "")
        line = first + int(inside) - 1
        place = f"cell {number}, line {line} of notebooks/{chapter.name}"
        said += [f"  where: {label(lines, line)}, {place}", f"  line:  {stopped.strip()}"]
    return "\n".join([*said, f"  error: {error.strip()}", f"  more:  {report.relative_to(ROOT)}"])


def main() -> None:
    reports = sorted((ROOT / "_build").glob("**/reports/**/*.log"))
    if not reports:
        sys.exit("The build failed, and not in a chapter: the message stands above.")
    print("\n" + "\n\n".join(described(report) for report in reports) + "\n\n" + REPORT)
    sys.exit(f"{len(reports)} of the book's chapters failed")


if __name__ == "__main__":
    main()
