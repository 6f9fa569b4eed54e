"""The checks of what files are named by and hold: words, folder names, paths, tables."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddi._checks import refuse


def word(name: str, value: Any) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value:
        refuse(name, "a word (a string that is not empty)", value)
    return value


def folder_name(name: str, value: Any) -> str:
    """A name that can be a folder's on every system, and leads nowhere else."""
    safe = isinstance(value, str) and re.fullmatch(r"[^\W_][\w .,+=()-]{0,99}", value)
    if not safe or value.endswith((".", " ")):
        letters = "of letters, digits and .,+=()-_ or spaces, beginning with a letter or digit"
        refuse(name, f"a folder's name, {letters}", value)
    return value


def path(name: str, value: Any) -> Path:
    """A path, as a word or a ``Path``; ``~`` is the home folder."""
    if not isinstance(value, (str, Path)) or not str(value) or "\0" in str(value):
        refuse(name, "a path (a string that is not empty, or a pathlib.Path)", value)
    try:
        return Path(value).expanduser()
    except RuntimeError:
        refuse(name, "a path whose home folder is known", str(value))


def table(name: str, value: Any, null: bool = False) -> dict[str, Any]:
    """A table that a file can hold: words as keys, and numbers, words, lists, tables (where
    ``null``, ``None`` too) as values.
    """
    plain: tuple[type, ...] = (bool, int, float, str, *([type(None)] if null else []))

    def fits(v: Any) -> bool:
        if isinstance(v, Mapping):
            return all(isinstance(key, str) and fits(inner) for key, inner in v.items())
        return all(map(fits, v)) if isinstance(v, (list, tuple)) else isinstance(v, plain)

    if not isinstance(value, Mapping) or not fits(value):
        refuse(name, "a table, of words as keys and plain values", value)
    return dict(value)
