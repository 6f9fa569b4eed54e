"""What every test run needs, and what nbval's kernels inherit."""

import os
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).resolve().parent


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # This tree's ddi, whatever else is installed: a kernel starts in notebooks/ and sees only
    # PYTHONPATH.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    # A kernel must choose its inline backend itself; in this process figures go nowhere.
    os.environ.pop("MPLBACKEND", None)
    matplotlib.use("Agg")
    # nbval reads this path relative to the working directory, so give it an absolute one.
    if hasattr(config.option, "nbval_sanitize_with") and not config.option.nbval_sanitize_with:
        config.option.nbval_sanitize_with = str(ROOT / "book" / "tools" / "sanitise.cfg")
