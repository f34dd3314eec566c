"""The Python interpreter for child processes, which import nothing from their working folder.

`python -m` searches that folder first, so that a `torch.py` in a run directory would be imported as torch.
"""

from __future__ import annotations

import sys
from pathlib import Path


def interpreter() -> list[str]:
    """The first words of a command line that runs this interpreter without the working folder on its path."""
    return [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else [])]


def forget_working_folder() -> None:
    """Remove the working folder, which `python -m` puts first, from `sys.path`, unless lorans itself is in it."""
    here = Path.cwd()
    if sys.path and sys.path[0] in {"", str(here)} and here != Path(__file__).parents[2]:
        del sys.path[0]
