"""The package's description is the README without what only works beside the repository: pictures,
and links to its files.
"""

import re
from pathlib import Path

from setuptools import setup


def stripped(text: str) -> str:
    """Pictures with their captions go; of a link that is not absolute, its words stay."""
    text = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n\n\*[^*]+?\*\n\n", "", text)
    return re.sub(r"!?\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)


if __name__ == "__main__":
    readme = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    setup(long_description=stripped(readme), long_description_content_type="text/markdown")
