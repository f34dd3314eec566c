"""This Python, for the processes that lorans starts: they import nothing from the folder that they are started in.

`python -m` would look there first, and a `torch.py` in somebody's run directory would be taken for torch.
"""

from __future__ import annotations

import sys
from pathlib import Path


def interpreter() -> list[str]:
    """The beginning of a command line: this interpreter, without the working folder on its path."""
    return [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else [])]


def forget_working_folder() -> None:
    """Take the working folder off the path, where `python -m` put it first, unless lorans itself lies there."""
    here = Path.cwd()
    if sys.path and sys.path[0] in {"", str(here)} and here != Path(__file__).parents[2]:
        del sys.path[0]
